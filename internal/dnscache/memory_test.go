package dnscache_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

const window = 10 * time.Minute

func seen(c *dnscache.Cache, window time.Duration, addr netip.Addr) (*dnscache.Result, bool) {
	return c.Seen(name, dnsclient.A, window, addr)
}

// arrives makes the cache learn an answer or a failure now.
func arrives(t *testing.T, s *dnsServer, c *dnscache.Cache, a dnsclient.Answer, err error) {
	t.Helper()
	s.set(a, err, 0)
	before := s.lookups()
	if _, live := c.Peek(name, dnsclient.A); live {
		require.ErrorIs(t, c.Refresh(t.Context()), err)
	} else {
		require.ErrorIs(t, get(t, c).Err, err)
	}
	require.Equal(t, before+1, s.lookups())
}

func TestAddressOfAnEarlierAnswerIsRemembered(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, window)
		require.Zero(t, s.lookups(), "Remember makes no lookup")
		start := time.Now()
		arrives(t, s, c, positive(100*time.Second, here), nil)
		time.Sleep(time.Minute)
		arrives(t, s, c, positive(100*time.Second, there), nil)

		r, ok := seen(c, window, here)
		require.True(t, ok)
		require.Equal(t, []netip.Addr{here}, r.Answer.Addrs)
		require.Equal(t, start, r.At)
		require.Equal(t, start.Add(window), r.Expires)
		require.NoError(t, r.Err)
		require.False(t, r.Superseded())
		require.False(t, r.Doubted())
		short, ok := seen(c, 2*time.Minute, here)
		require.True(t, ok)
		require.Equal(t, start.Add(2*time.Minute), short.Expires, "a shorter window than the one remembered for")
		_, ok = seen(c, time.Minute, here)
		require.False(t, ok, "it is over")
		_, ok = seen(c, time.Minute+1, here)
		require.True(t, ok)
		_, ok = seen(c, window, netip.MustParseAddr("192.0.2.3"))
		require.False(t, ok)
		require.Equal(t, 2, s.lookups(), "Seen makes no lookup")

		time.Sleep(time.Minute)
		arrives(t, s, c, positive(100*time.Second, here), nil)
		again, ok := seen(c, window, here)
		require.True(t, ok)
		require.Equal(t, time.Now(), again.At, "the last answer counts")
		require.False(t, r.Superseded(), "a later answer confirms it")
		time.Sleep(time.Minute)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		require.False(t, again.Superseded(), "the memory of it goes on")

		time.Sleep(time.Until(again.Expires) - 1)
		_, ok = seen(c, window, here)
		require.True(t, ok, "to the last nanosecond, although DNS has been silent")
		time.Sleep(time.Nanosecond)
		_, ok = seen(c, window, here)
		require.False(t, ok)
		require.Equal(t, 4, s.lookups())
	})
}

func TestAddressOfTheLiveAnswer(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		live := get(t, c)
		r, ok := seen(c, window, here)
		require.True(t, ok, "remembering begins with the present answer")
		require.Equal(t, live.At, r.At)
		require.Equal(t, live.At.Add(window), r.Expires)
		r, ok = seen(c, 30*time.Second, here)
		require.True(t, ok)
		require.Same(t, live, r, "it outlasts the window")
		_, ok = seen(c, 30*time.Second, there)
		require.False(t, ok)
		time.Sleep(time.Minute)
		r, ok = seen(c, 30*time.Second, here)
		require.True(t, ok)
		require.Same(t, live, r)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		require.True(t, live.Superseded())
		_, ok = seen(c, 30*time.Second, here)
		require.False(t, ok, "its own life ended with the next answer")
		_, ok = seen(c, window, here)
		require.True(t, ok)

		time.Sleep(100 * time.Second)
		_, ok = seen(c, 30*time.Second, there)
		require.False(t, ok, "it has lapsed")
		r, ok = seen(c, window, there)
		require.True(t, ok)
		require.Equal(t, time.Now().Add(window-100*time.Second), r.Expires)
	})
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) // stands still: two answers arrive at the same time
	s := &dnsServer{answer: positive(100*time.Second, here)}
	c := dnscache.New(dnscache.Options{Lookup: s.lookup, Now: func() time.Time { return now }})
	c.Remember(name, dnsclient.A, 10*time.Second)
	get(t, c)
	s.set(positive(100*time.Second, there), nil, 0)
	require.NoError(t, c.Refresh(t.Context()))
	r, ok := seen(c, 10*time.Second, here)
	require.True(t, ok)
	require.Equal(t, []netip.Addr{here}, r.Answer.Addrs)
	require.Equal(t, now.Add(10*time.Second), r.Expires)
}

func TestWhatEndsTheMemory(t *testing.T) {
	bogus := fmt.Errorf("server: %w", dnsclient.ErrBogus)
	for _, tt := range []struct {
		name   string
		answer dnsclient.Answer
		err    error
		ends   bool
	}{
		{name: "other addresses do not", answer: positive(0, there)},
		{name: "SERVFAIL or a timeout does not", err: errNo},
		{name: "NXDOMAIN does", answer: dnsclient.Answer{NXDomain: true}, ends: true},
		{name: "no records does", answer: dnsclient.Answer{}, ends: true},
		{name: "a name that does not exist, yet has addresses, does", answer: dnsclient.Answer{NXDomain: true, Addrs: []netip.Addr{here, there}}, ends: true},
		{name: "failed validation does", err: bogus, ends: true},
	} {
		for _, lapsed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lapsed %t", tt.name, lapsed), func(t *testing.T) {
				run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
					c.Remember(name, dnsclient.A, window)
					arrives(t, s, c, positive(100*time.Second, here), nil)
					time.Sleep(time.Second)
					arrives(t, s, c, positive(100*time.Second, there), nil)
					old, ok := seen(c, window, here)
					require.True(t, ok)
					current, ok := seen(c, window, there)
					require.True(t, ok)
					time.Sleep(time.Second)
					arrives(t, s, c, positive(100*time.Second, there), nil) // confirmed
					if lapsed {
						time.Sleep(100 * time.Second)
					}
					arrives(t, s, c, tt.answer, tt.err)
					require.Equal(t, tt.ends, old.Superseded())
					require.Equal(t, tt.ends, current.Superseded())
					for _, w := range []time.Duration{time.Second, window, 2 * window} {
						_, ok = seen(c, w, there)
						require.Equal(t, !tt.ends && (w > time.Second || !lapsed || tt.err == nil), ok, "remembered, or in a live answer")
						_, ok = seen(c, w, here)
						require.Equal(t, !tt.ends && w > time.Second, ok)
					}
					require.NoError(t, c.Check())

					time.Sleep(30 * time.Second)
					arrives(t, s, c, positive(100*time.Second, there), nil)
					r, ok := seen(c, window, there)
					require.True(t, ok, "a good answer begins anew")
					require.Equal(t, time.Now(), r.At)
					require.Equal(t, tt.ends, current.Superseded(), "for good")
					_, ok = seen(c, window, here)
					require.Equal(t, !tt.ends, ok)
				})
			})
		}
	}
}

func TestMemoryDoesNotBeginWithADoubtedAnswer(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		get(t, c)
		arrives(t, s, c, dnsclient.Answer{}, dnsclient.ErrBogus)
		for _, w := range []time.Duration{time.Second, window, 2 * window} {
			_, ok := seen(c, w, here)
			require.False(t, ok)
		}
		require.Equal(t, []netip.Addr{here}, get(t, c).Answer.Addrs, "it stands by itself until it lapses")
	})
}

func TestForgottenNameHasNoMemory(t *testing.T) {
	run(t, dnscache.Options{Size: 2}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, window)
		arrives(t, s, c, positive(100*time.Second, here), nil)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		old, ok := seen(c, window, here)
		require.True(t, ok)
		c.Get(t.Context(), "a", dnsclient.A)
		require.False(t, old.Superseded())
		c.Get(t.Context(), "b", dnsclient.A)
		require.True(t, old.Superseded())
		_, ok = seen(c, window, here)
		require.False(t, ok)
		require.NoError(t, c.Check())
		require.Equal(t, 2, c.Entries())
	})
}

func TestNothingIsRememberedUnasked(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		for _, w := range []time.Duration{0, -1} {
			c.Remember(name, dnsclient.A, w)
			_, ok := seen(c, w, here)
			require.False(t, ok)
		}
		require.Zero(t, c.Entries())
		c.Remember("other.example", dnsclient.A, window)
		c.Remember(name, dnsclient.AAAA, window)
		arrives(t, s, c, positive(100*time.Second, here), nil)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		_, ok := seen(c, 0, there)
		require.False(t, ok)
		_, ok = seen(c, window, here)
		require.False(t, ok, "the answer before anybody asked")
		_, ok = seen(c, window, there)
		require.True(t, ok, "the present one")
	})
}

// An entry that only remembers knows nothing that a lookup would have to be newer than.
func TestRememberBeforeTheFirstAnswer(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, window)
		_, ok := c.Peek(name, dnsclient.A)
		require.False(t, ok)
		_, ok = c.NextDue()
		require.False(t, ok)
		require.NoError(t, c.Refresh(t.Context()))
		require.Zero(t, s.lookups())
		c.Requery(t.Context(), name, dnsclient.A)
		require.Equal(t, 1, s.lookups())
	})
	run(t, dnscache.Options{Size: 9}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		for i := range 9 {
			c.Get(t.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A)
		}
		s.set(positive(0, there), nil, time.Second)
		done := make(chan error)
		go func() { done <- c.Refresh(t.Context()) }()
		synctest.Wait() // the last one waits for the first eight, and is forgotten meanwhile
		for i := range 9 {
			c.Remember(fmt.Sprintf("new%d.example", i), dnsclient.A, window)
		}
		c.Remember("p8.example", dnsclient.A, window)
		require.NoError(t, <-done)
		require.Equal(t, 9+9, s.lookups())
		require.NoError(t, c.Check())
	})
}

func TestMemoryIsAnHourAtMost(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, 24*time.Hour)
		start := time.Now()
		arrives(t, s, c, positive(100*time.Second, here), nil)
		time.Sleep(time.Hour - 1)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		r, ok := seen(c, 24*time.Hour, here)
		require.True(t, ok)
		require.Equal(t, start.Add(time.Hour), r.Expires)
		time.Sleep(time.Nanosecond)
		_, ok = seen(c, 24*time.Hour, here)
		require.False(t, ok)
		require.False(t, r.Superseded())
		arrives(t, s, c, positive(100*time.Second, there), nil)
		require.True(t, r.Superseded(), "it is dropped")
	})
}

// The memory is for the longest window that was asked for.
func TestWindowGrows(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, time.Minute)
		arrives(t, s, c, positive(100*time.Second, here), nil)
		c.Remember(name, dnsclient.A, window)
		c.Remember(name, dnsclient.A, time.Second)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		time.Sleep(window - 1)
		arrives(t, s, c, positive(100*time.Second, there), nil)
		_, ok := seen(c, window, here)
		require.True(t, ok)
	})
}

func TestMemoryOfAKeyIsBounded(t *testing.T) {
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}) }
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, time.Hour)
		results := make([]*dnscache.Result, 1000)
		for i := range results {
			arrives(t, s, c, positive(0, addr(i), addr(0)), nil)
			r, ok := seen(c, time.Hour, addr(i))
			require.True(t, ok)
			results[i] = r
			require.NoError(t, c.Check())
			time.Sleep(time.Second)
		}
		for i, r := range results {
			_, ok := seen(c, time.Hour, addr(i))
			require.Equal(t, i == 0 || i >= 1000-511, ok, i)
			require.Equal(t, !ok, r.Superseded(), i)
		}
		var many []netip.Addr
		for i := range 2000 {
			many = append(many, addr(2000+i))
		}
		arrives(t, s, c, positive(0, many...), nil)
		require.NoError(t, c.Check())
		_, ok := seen(c, time.Hour, addr(999))
		require.False(t, ok)
	})
}

// A subset of a pool in each answer, as large operators do it.
func TestRotatingPool(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 40)}) }
		c.Remember(name, dnsclient.A, window)
		for i := range 40 {
			arrives(t, s, c, positive(30*time.Second, addr(8*i), addr(8*i+1), addr(8*i+2), addr(8*i+3), addr(8*i+4), addr(8*i+5), addr(8*i+6), addr(8*i+7)), nil)
			time.Sleep(30 * time.Second)
			for j := range 40 {
				_, ok := seen(c, window, addr(j))
				require.Equal(t, j < 8*(i+1), ok)
			}
		}
	})
}

func TestAuthenticationOfWhatIsRemembered(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		signed := positive(100*time.Second, here, there)
		signed.Authenticated = true
		c.Remember(name, dnsclient.A, window)
		arrives(t, s, c, signed, nil)
		r, _ := seen(c, window, here)
		other, _ := seen(c, window, there)
		require.True(t, r.Answer.Authenticated)
		arrives(t, s, c, positive(100*time.Second, here), nil)
		require.True(t, r.Superseded(), "the last answer with it is not authenticated")
		require.False(t, other.Superseded())
		r, ok := seen(c, window, here)
		require.True(t, ok)
		require.False(t, r.Answer.Authenticated)
		require.False(t, r.Superseded())
		other, ok = seen(c, window, there)
		require.True(t, ok)
		require.True(t, other.Answer.Authenticated)
	})
}

func TestAddressHasOneForm(t *testing.T) {
	mapped := netip.AddrFrom16(here.As16())
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Remember(name, dnsclient.A, window)
		arrives(t, s, c, positive(100*time.Second, mapped), nil)
		time.Sleep(2 * time.Second)
		for _, a := range []netip.Addr{here, mapped} {
			for _, w := range []time.Duration{time.Second, window} {
				r, ok := seen(c, w, a)
				require.True(t, ok)
				require.Len(t, r.Answer.Addrs, 1)
			}
		}
		_, ok := seen(c, window, netip.Addr{})
		require.False(t, ok)
	})
}
