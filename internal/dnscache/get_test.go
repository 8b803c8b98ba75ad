package dnscache_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

func TestLiveAnswerDoesNotAllocate(t *testing.T) {
	c := dnscache.New(dnscache.Options{Lookup: new(dnsServer).lookup})
	get(t, c)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Get(ctx, name, dnsclient.A) }))
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Peek(name, dnsclient.A) }))
	c.Remember(name, dnsclient.A, time.Hour)
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Remember(name, dnsclient.A, time.Hour) }))
}

// Nobody who finds what it needs in memory waits for somebody else.
func TestLiveAnswerNeedsNoLock(t *testing.T) {
	c := dnscache.New(dnscache.Options{Lookup: (&dnsServer{answer: positive(0, here)}).lookup})
	want := get(t, c)
	get(t, c)
	c.Remember(name, dnsclient.A, 24*time.Hour)
	c.Locked(func() {
		done := make(chan *dnscache.Result, 2)
		go func() {
			done <- c.Get(t.Context(), name, dnsclient.A)
			c.Remember(name, dnsclient.A, 24*time.Hour)
			r, _ := c.Peek(name, dnsclient.A)
			done <- r
		}()
		for range 2 {
			select {
			case r := <-done:
				require.Same(t, want, r)
			case <-time.After(10 * time.Second):
				t.Fatal("it waits for the lock")
			}
		}
	})
}

// Use is noted once a second, which must not cost a name that is in use its place.
func TestUseIsNotedWithinASecond(t *testing.T) {
	run(t, dnscache.Options{Size: 2}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		a := c.Get(t.Context(), "a", dnsclient.A)
		c.Get(t.Context(), "a", dnsclient.A)
		b := c.Get(t.Context(), "b", dnsclient.A)
		c.Get(t.Context(), "b", dnsclient.A)
		time.Sleep(time.Second)
		require.Same(t, a, c.Get(t.Context(), "a", dnsclient.A))
		c.Get(t.Context(), "c", dnsclient.A)
		require.False(t, a.Superseded())
		require.True(t, b.Superseded())
		require.NoError(t, c.Check())
	})
}

func TestUseOfANewAnswerIsNotedAtOnce(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		get(t, c)
		get(t, c)
		s.set(positive(50*time.Second, there), nil, 0)
		require.NoError(t, c.Refresh(t.Context()))
		_, ok := c.NextDue()
		require.False(t, ok, "the new answer is not used")
		require.Equal(t, []netip.Addr{there}, get(t, c).Answer.Addrs)
		due, ok := c.NextDue()
		require.True(t, ok)
		require.Equal(t, time.Now().Add(40*time.Second), due)
	})
}

// What is noted once a second must not move what is due within that second.
func TestRefreshAheadIsNotLateByTheNoteOfUse(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		get(t, c)
		time.Sleep(80*time.Second - time.Millisecond)
		get(t, c)
		get(t, c)
		time.Sleep(time.Millisecond)
		get(t, c)
		synctest.Wait()
		require.Equal(t, 2, s.lookups())
	})
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := get(t, c)
		time.Sleep(100*time.Second - time.Millisecond)
		s.set(positive(0, there), nil, 500*time.Millisecond)
		require.Same(t, first, get(t, c))
		require.Same(t, first, get(t, c))
		time.Sleep(time.Millisecond)
		require.Equal(t, []netip.Addr{there}, get(t, c).Answer.Addrs, "it has lapsed, whatever was noted")
	})
}

func TestNoPlaceIsTriedAgainByTheNextGet(t *testing.T) {
	run(t, dnscache.Options{MaxInFlight: 1}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		get(t, c)
		time.Sleep(85 * time.Second)
		s.set(positive(0, here), nil, 10*time.Millisecond)
		go c.Get(t.Context(), "other.example", dnsclient.A)
		synctest.Wait()
		get(t, c)
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		get(t, c)
		synctest.Wait()
		require.Equal(t, 3, s.lookups())
		time.Sleep(time.Second)
	})
}

func TestClockSetBack(t *testing.T) {
	s := &dnsServer{answer: positive(10*time.Minute, here)}
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	c := dnscache.New(dnscache.Options{Lookup: s.lookup, Size: 2, Now: func() time.Time { return now }})
	a := c.Get(t.Context(), "a", dnsclient.A)
	c.Get(t.Context(), "a", dnsclient.A)
	now = now.Add(-time.Hour)
	b := c.Get(t.Context(), "b", dnsclient.A)
	c.Get(t.Context(), "b", dnsclient.A)
	require.Same(t, a, c.Get(t.Context(), "a", dnsclient.A))
	c.Get(t.Context(), "c", dnsclient.A)
	require.True(t, b.Superseded(), "use is noted all the same")
	require.False(t, a.Superseded())
}

// Whoever is told that a result is superseded finds another one, and one caller
// never goes back to an older answer, although none of them takes a lock.
func TestGetIsNeverBehindWhatIsSuperseded(t *testing.T) {
	var n atomic.Uint32
	c := dnscache.New(dnscache.Options{Lookup: func(context.Context, string, dnsclient.Type) (dnsclient.Answer, error) {
		i := n.Add(1)
		return positive(0, netip.AddrFrom4([4]byte{192, byte(i >> 16), byte(i >> 8), byte(i)})), nil
	}})
	get(t, c)
	ctx := t.Context()
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			last := c.Get(ctx, name, dnsclient.A)
			for !stop.Load() {
				superseded := last.Superseded()
				r := c.Get(ctx, name, dnsclient.A)
				if superseded && r == last || r.Answer.Addrs[0].Less(last.Answer.Addrs[0]) {
					t.Error("an answer is used after it was superseded")
					return
				}
				last = r
			}
		})
	}
	for range 2_000 {
		_ = c.Refresh(ctx)
	}
	stop.Store(true)
	wg.Wait()
}

// Names that share a list of the index, and come and go.
func TestIndexWithManyNames(t *testing.T) {
	s := &dnsServer{answer: positive(0, here)}
	c := dnscache.New(dnscache.Options{Lookup: s.lookup, Size: 100})
	for i := range 1000 {
		name := fmt.Sprintf("p%d.example", i)
		r := c.Get(t.Context(), name, dnsclient.A)
		other := c.Get(t.Context(), name, dnsclient.AAAA)
		require.NotSame(t, r, other)
		require.Same(t, r, c.Get(t.Context(), name, dnsclient.A))
		require.Same(t, other, c.Get(t.Context(), name, dnsclient.AAAA))
		require.NoError(t, c.Check())
		for j := range i {
			_, ok := c.Peek(fmt.Sprintf("p%d.example", j), dnsclient.A)
			require.Equal(t, j > i-50, ok)
		}
	}
	require.Equal(t, 100, c.Entries())
}

// Types of one name that share a list of the index.
func TestIndexTellsTypesApart(t *testing.T) {
	s := &dnsServer{answer: positive(0, here)}
	c := dnscache.New(dnscache.Options{Lookup: s.lookup, Size: 4})
	types := []dnsclient.Type{12, 16, 28, 1}
	for i, at := range types {
		r := c.Get(t.Context(), name, at)
		for j, other := range types {
			known, ok := c.Peek(name, other)
			require.Equal(t, j <= i, ok)
			require.Equal(t, j == i, known == r)
		}
	}
}

func TestEverythingAtOnce(t *testing.T) {
	run(t, dnscache.Options{Size: 8, MaxInFlight: 4}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for j := range 50 {
					name := fmt.Sprintf("p%d.example", (i+j)%12)
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					switch (i * j) % 9 {
					case 0:
						s.set(positive(0, netip.AddrFrom4([4]byte{192, 0, byte(i), byte(j)})), nil, time.Duration(j%3)*time.Second)
					case 1:
						c.Warm([]dnscache.Key{{name, dnsclient.A}, {"p1.example", dnsclient.A}, {fmt.Sprint(j), dnsclient.A}})
					case 2:
						c.Remember(name, dnsclient.A, time.Duration(j)*time.Minute)
					case 3:
						if r, ok := c.Seen(name, dnsclient.A, time.Minute, here); ok {
							r.Superseded()
						}
					case 4:
						c.RefreshDue(ctx)
						c.NextDue()
					case 5:
						s.set(dnsclient.Answer{}, nil, 0)
					case 6:
						s.set(dnsclient.Answer{}, dnsclient.ErrBogus, 0)
					case 7:
						c.Requery(ctx, name, dnsclient.A)
					default:
						c.Get(ctx, name, dnsclient.A).Superseded()
						c.Peek(name, dnsclient.A)
					}
					cancel()
					if err := c.Check(); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Duration(i) * time.Second)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, s.mostAtOnce(), 4)
		time.Sleep(time.Minute)
	})
}

func BenchmarkGetWarm(b *testing.B) {
	s := &dnsServer{answer: positive(time.Hour, here)}
	c := dnscache.New(dnscache.Options{Lookup: s.lookup})
	for i := range 4096 {
		c.Get(b.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A)
	}
	ctx, name := b.Context(), "p4000.example"
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Get(ctx, name, dnsclient.A)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				c.Get(ctx, name, dnsclient.A)
			}
		})
	})
}

// A request that no current answer admits.
func BenchmarkSeen(b *testing.B) {
	s := &dnsServer{answer: positive(time.Hour, here)}
	c := dnscache.New(dnscache.Options{Lookup: s.lookup})
	c.Remember(name, dnsclient.A, time.Hour)
	c.Get(b.Context(), name, dnsclient.A)
	b.ReportAllocs()
	for b.Loop() {
		c.Seen(name, dnsclient.A, time.Hour, here)
	}
}
