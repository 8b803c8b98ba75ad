package dnscache_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

const name = "p.example"

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
	errNo = errors.New("no server answers")
)

// dnsServer is a LookupFunc whose answers change.
type dnsServer struct {
	mu     sync.Mutex
	answer dnsclient.Answer
	err    error
	delay  time.Duration
	log    []string
	gauge  int
	peak   int
}

func (s *dnsServer) lookup(ctx context.Context, name string, t dnsclient.Type) (dnsclient.Answer, error) {
	s.mu.Lock()
	s.log = append(s.log, name+" "+t.String())
	answer, err, delay := s.answer, s.err, s.delay
	s.gauge++
	s.peak = max(s.peak, s.gauge)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.gauge--
		s.mu.Unlock()
	}()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return dnsclient.Answer{}, ctx.Err()
		}
	}
	return answer, err
}

func (s *dnsServer) set(answer dnsclient.Answer, err error, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer, s.err, s.delay = answer, err, delay
}

func (s *dnsServer) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

func (s *dnsServer) lookups() int { return len(s.queries()) }

func (s *dnsServer) mostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}

func positive(ttl time.Duration, addrs ...netip.Addr) dnsclient.Answer {
	return dnsclient.Answer{Addrs: addrs, TTL: ttl}
}

// run runs the test in a bubble with a cache over a server.
func run(t *testing.T, o dnscache.Options, test func(t *testing.T, s *dnsServer, c *dnscache.Cache)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &dnsServer{answer: positive(100*time.Second, here)}
		if o.Lookup == nil {
			o.Lookup = s.lookup
		}
		test(t, s, dnscache.New(o))
	})
}

func get(t *testing.T, c *dnscache.Cache) *dnscache.Result {
	return c.Get(t.Context(), name, dnsclient.A)
}

func TestLifetimes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer dnsclient.Answer
		want   time.Duration
	}{
		{"zero is kept 30 s", positive(0, here), 30 * time.Second},
		{"29 s is kept 30 s", positive(29*time.Second, here), 30 * time.Second},
		{"100 s is kept so long", positive(100*time.Second, here), 100 * time.Second},
		{"an hour is kept 15 min", positive(time.Hour, here), 15 * time.Minute},
		{"2^31 s is kept 15 min", positive((1<<31)*time.Second, here), 15 * time.Minute},
		{"no address without SOA is kept 5 s", dnsclient.Answer{}, 5 * time.Second},
		{"no address is kept as the SOA says", dnsclient.Answer{TTL: 20 * time.Second}, 20 * time.Second},
		{"NXDOMAIN is kept 60 s at most", dnsclient.Answer{NXDomain: true, TTL: time.Hour}, 60 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				s.set(tt.answer, nil, 0)
				r := get(t, c)
				require.NoError(t, r.Err)
				require.Equal(t, tt.answer, r.Answer)
				require.Equal(t, time.Now(), r.At)
				require.Equal(t, tt.want, r.Expires.Sub(r.At))
				time.Sleep(tt.want/5*4 - 1)
				require.Same(t, r, get(t, c))
				require.Equal(t, 1, s.lookups())
				s.set(tt.answer, errNo, 0)
				time.Sleep(tt.want / 5)
				synctest.Wait()
				require.Same(t, r, get(t, c), "one nanosecond before it lapses")
				synctest.Wait()
				time.Sleep(time.Nanosecond)
				require.ErrorIs(t, get(t, c).Err, errNo)
			})
		})
	}
}

func TestTypesAndNamesAreApart(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Get(t.Context(), "p.example", dnsclient.A)
		c.Get(t.Context(), "p.example", dnsclient.AAAA)
		c.Get(t.Context(), "8.p.example", dnsclient.Type(2))
		c.Get(t.Context(), "p.example", dnsclient.Type(28))
		require.Equal(t, []string{"p.example A", "p.example AAAA", "8.p.example NS"}, s.queries())
	})
}

func TestThousandCallersShareOneLookup(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, time.Second)
		results := make([]*dnscache.Result, 1000)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 2 * time.Millisecond) // half of them after the answer
				results[i] = get(t, c)
			})
		}
		wg.Wait()
		for _, r := range results {
			require.Same(t, results[0], r)
		}
		require.Equal(t, 1, s.lookups())
	})
}

func TestLookupIsNotRepeatedByWhoLookedTooEarly(t *testing.T) {
	var lookups atomic.Int32
	c := dnscache.New(dnscache.Options{Lookup: func(context.Context, string, dnsclient.Type) (dnsclient.Answer, error) {
		lookups.Add(1)
		return positive(0, here), nil // at once, so that some callers miss it narrowly
	}})
	const rounds = 300
	for i := range rounds {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { c.Get(t.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A) })
		}
		wg.Wait()
	}
	require.EqualValues(t, rounds, lookups.Load())
}

func TestLookupGoesOnWithoutItsCaller(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, 5*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		r := c.Get(ctx, name, dnsclient.A)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(start))
		require.True(t, r.Superseded())
		_, ok := c.Peek(name, dnsclient.A)
		require.False(t, ok, "the caller's impatience is not remembered")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r, ok = c.Peek(name, dnsclient.A)
		require.True(t, ok)
		require.Equal(t, []netip.Addr{here}, r.Answer.Addrs)
		require.Equal(t, 1, s.lookups())
	})
}

func TestDetachedLookupHasItsOwnTimeout(t *testing.T) {
	run(t, dnscache.Options{Timeout: 7 * time.Second}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, time.Hour)
		start := time.Now()
		r := get(t, c)
		require.ErrorIs(t, r.Err, context.DeadlineExceeded)
		require.Equal(t, 7*time.Second, time.Since(start))
	})
}

func TestFailuresBackOff(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(dnsclient.Answer{}, errNo, 0)
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
			r := get(t, c)
			require.ErrorIs(t, r.Err, errNo)
			require.Equal(t, want*time.Second, r.Expires.Sub(r.At))
			require.True(t, r.Superseded())
			time.Sleep(want*time.Second - 1)
			require.Same(t, r, get(t, c))
			require.Equal(t, i+1, s.lookups())
			time.Sleep(time.Nanosecond)
		}
		s.set(positive(0, here), nil, 0)
		require.NoError(t, get(t, c).Err)
		time.Sleep(time.Minute)
		s.set(dnsclient.Answer{}, errNo, 0)
		r := get(t, c)
		require.Equal(t, time.Second, r.Expires.Sub(r.At), "an answer ends the series")
	})
}

func TestPanicIsAnError(t *testing.T) {
	lookup := func(context.Context, string, dnsclient.Type) (dnsclient.Answer, error) {
		panic("boom\n" + strings.Repeat("x", 1000))
	}
	run(t, dnscache.Options{Lookup: lookup}, func(t *testing.T, _ *dnsServer, c *dnscache.Cache) {
		r := get(t, c)
		require.ErrorContains(t, r.Err, "boom")
		require.NotContains(t, r.Err.Error(), "\n")
		require.Less(t, len(r.Err.Error()), 600)
	})
	run(t, dnscache.Options{Lookup: func(context.Context, string, dnsclient.Type) (dnsclient.Answer, error) { runtime.Goexit(); panic(0) }, MaxInFlight: 1},
		func(t *testing.T, _ *dnsServer, c *dnscache.Cache) {
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				require.ErrorContains(t, c.Get(ctx, name, dnsclient.A).Err, "ended without an answer", "a place is not lost")
				cancel()
				time.Sleep(time.Minute)
			}
		})
}

func TestLookupsInFlightAreBounded(t *testing.T) {
	run(t, dnscache.Options{MaxInFlight: 3}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, 5*time.Second)
		var busy atomic.Int32
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 10 {
			wg.Go(func() {
				r := c.Get(t.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A)
				if errors.Is(r.Err, dnscache.ErrBusy) {
					require.Equal(t, start, time.Now(), "refused at once")
					busy.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 7, busy.Load())
		require.Equal(t, 3, s.mostAtOnce())
		s.set(positive(0, here), nil, 0)
		for i := range 10 {
			require.NoError(t, c.Get(t.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A).Err, "being busy is not remembered")
		}
	})
}

// Whoever runs a partner's name servers decides how long lookups take.
func TestOneDomainLeavesThePlacesOfOthers(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, 5*time.Second)
		var busy atomic.Int32
		ask := func(name string, at dnsclient.Type) {
			if errors.Is(c.Get(t.Context(), name, at).Err, dnscache.ErrBusy) {
				busy.Add(1)
			}
		}
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() { ask(fmt.Sprintf("n%d.deep.slow.example", i), dnsclient.A) })
			wg.Go(func() { ask(fmt.Sprintf("m%d.slow.example", i), dnsclient.AAAA) })
		}
		synctest.Wait()
		require.EqualValues(t, 128-32, busy.Load())
		for i := range 6 {
			for j := range 32 {
				wg.Go(func() { ask(fmt.Sprintf("n%d.good%d.co.uk", j, i), dnsclient.A) })
			}
		}
		for range 8 {
			wg.Go(func() { ask("co.uk", dnsclient.A) })
			wg.Go(func() { ask("localhost", dnsclient.A) })
		}
		synctest.Wait()
		require.EqualValues(t, 128-32, busy.Load())
		require.Equal(t, 32+6*32+2, s.lookups())
		for i := range 34 {
			wg.Go(func() { ask(fmt.Sprintf("more%d.example", i), dnsclient.A) })
		}
		wg.Wait()
		require.Equal(t, 256, s.mostAtOnce())
		require.EqualValues(t, 128-32+4, busy.Load())
		s.set(positive(0, here), nil, 0)
		for i := range 64 {
			require.NoError(t, c.Get(t.Context(), fmt.Sprintf("n%d.deep.slow.example", i), dnsclient.A).Err, "places are given back")
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	run(t, dnscache.Options{Size: 2}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		a := c.Get(t.Context(), "a", dnsclient.A)
		b := c.Get(t.Context(), "b", dnsclient.A)
		require.Same(t, a, c.Get(t.Context(), "a", dnsclient.A))
		_, ok := c.Peek("b", dnsclient.A) // is no use
		require.True(t, ok)
		c.Get(t.Context(), "c", dnsclient.A)
		_, ok = c.Peek("b", dnsclient.A)
		require.False(t, ok, "the least recently used is forgotten")
		require.True(t, b.Superseded(), "nobody would say so later")
		require.False(t, a.Superseded())
		require.Same(t, a, c.Get(t.Context(), "a", dnsclient.A))
	})
}

func TestSuperseded(t *testing.T) {
	other := func(change func(a *dnsclient.Answer)) dnsclient.Answer {
		a := positive(100*time.Second, here, there)
		change(&a)
		return a
	}
	for _, tt := range []struct {
		name string
		next dnsclient.Answer
		err  error
		want bool
	}{
		{name: "the same addresses do not supersede", next: other(func(*dnsclient.Answer) {})},
		{name: "the same addresses in another order do not supersede", next: other(func(a *dnsclient.Answer) { a.Addrs = []netip.Addr{there, here} })},
		{name: "another TTL does not supersede", next: other(func(a *dnsclient.Answer) { a.TTL++ })},
		{name: "a failure does not supersede", err: errNo},
		{name: "an address less supersedes", next: other(func(a *dnsclient.Answer) { a.Addrs = a.Addrs[:1] }), want: true},
		{name: "an address more supersedes", next: other(func(a *dnsclient.Answer) { a.Addrs = append(a.Addrs, netip.IPv6Loopback()) }), want: true},
		{name: "no address supersedes", next: dnsclient.Answer{}, want: true},
		{name: "NXDOMAIN supersedes", next: dnsclient.Answer{NXDomain: true}, want: true},
		{name: "an answer that is no longer authenticated supersedes", next: other(func(a *dnsclient.Answer) { a.Authenticated = false }), want: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				start := positive(100*time.Second, here, there)
				start.Authenticated, tt.next.Authenticated = true, tt.next.Authenticated || !strings.Contains(tt.name, "no longer")
				s.set(start, nil, 0)
				first := get(t, c)
				require.NoError(t, c.Refresh(t.Context()))
				second := get(t, c)
				require.NotSame(t, first, second)
				require.False(t, first.Superseded())
				s.set(tt.next, tt.err, 0)
				err := c.Refresh(t.Context())
				require.Equal(t, tt.err != nil, err != nil)
				require.Equal(t, tt.want, second.Superseded())
				require.Equal(t, tt.want, first.Superseded(), "also for who holds an earlier result with the same content")
				require.False(t, get(t, c).Superseded())
			})
		})
	}
	require.True(t, new(dnscache.Result).Superseded())
}

func TestAnswerIsACopy(t *testing.T) {
	shared := []netip.Addr{there, here}
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, shared...), nil, 0)
		r := get(t, c)
		require.Equal(t, []netip.Addr{here, there}, r.Answer.Addrs)
		require.Equal(t, []netip.Addr{there, here}, shared)
		shared[0] = netip.IPv4Unspecified()
		require.False(t, slices.Contains(r.Answer.Addrs, netip.IPv4Unspecified()))
	})
}

func TestManyAtOnce(t *testing.T) {
	run(t, dnscache.Options{Size: 8, MaxInFlight: 4}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, 3*time.Second)
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for j := range 50 {
					name := fmt.Sprintf("p%d.example", (i+j)%12)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					switch (i + j) % 5 {
					case 0:
						c.Requery(ctx, name, dnsclient.A).Superseded()
					case 1:
						_ = c.Refresh(ctx)
					case 2:
						c.RefreshDue(ctx)
						c.NextDue()
					default:
						c.Get(ctx, name, dnsclient.A).Superseded()
						c.Peek(name, dnsclient.A)
					}
					cancel()
					time.Sleep(time.Duration(i) * time.Second)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, s.mostAtOnce(), 4)
	})
}
