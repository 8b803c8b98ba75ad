package dnscache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

func keys(names ...string) []dnscache.Key {
	var keys []dnscache.Key
	for _, n := range names {
		keys = append(keys, dnscache.Key{Name: n, Type: dnsclient.A})
	}
	return keys
}

func names(n int, format string) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(format, i)
	}
	return names
}

// round is what a loop does when something is due.
func round(t *testing.T, c *dnscache.Cache) {
	c.RefreshDue(t.Context())
	synctest.Wait()
}

func peek(t *testing.T, c *dnscache.Cache, name string) *dnscache.Result {
	r, ok := c.Peek(name, dnsclient.A)
	require.True(t, ok, name)
	return r
}

func TestWarmNamesAreThereBeforeAnybodyAsks(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		start := time.Now()
		require.Equal(t, 2, c.Warm([]dnscache.Key{{name, dnsclient.A}, {name, dnsclient.AAAA}}))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, s.lookups(), "Warm starts nothing")
		due, ok := c.NextDue()
		require.True(t, ok)
		require.Equal(t, start, due)
		c.Warm([]dnscache.Key{{name, dnsclient.AAAA}, {name, dnsclient.A}})
		due, _ = c.NextDue()
		require.Equal(t, start, due, "to say it again puts nothing off")
		round(t, c)
		require.ElementsMatch(t, []string{"p.example A", "p.example AAAA"}, s.queries())
		for range 10 {
			r := peek(t, c, name)
			due, ok = c.NextDue()
			require.True(t, ok)
			require.Equal(t, r.At.Add(80*time.Second), due, "at four fifths of its life, though nobody has used it")
			time.Sleep(time.Until(due) - 1)
			before := s.lookups()
			round(t, c)
			require.Equal(t, before, s.lookups())
			time.Sleep(time.Nanosecond)
			round(t, c)
			require.Equal(t, before+2, s.lookups())
		}
		require.Same(t, peek(t, c, name), get(t, c))
	})
}

func TestWarmNameWithoutAnAnswerBacksOff(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known bool
	}{{"never had one", false}, {"it has lapsed", true}} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				if tt.known {
					get(t, c)
					time.Sleep(100 * time.Second)
				}
				c.Warm(keys(name))
				s.set(dnsclient.Answer{}, errNo, 0)
				before := s.lookups()
				round(t, c)
				for i, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30, 30} {
					require.Equal(t, before+i+1, s.lookups())
					due, ok := c.NextDue()
					require.True(t, ok)
					require.Equal(t, time.Now().Add(wait*time.Second), due)
					time.Sleep(wait*time.Second - 1)
					round(t, c)
					require.Equal(t, before+i+1, s.lookups())
					time.Sleep(time.Nanosecond)
					round(t, c)
				}
				s.set(positive(0, there), nil, 0)
				time.Sleep(30 * time.Second)
				round(t, c)
				require.NoError(t, peek(t, c, name).Err)
			})
		})
	}
}

func TestWarmNameThatIsBeingAskedForIsNotDue(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, 5*time.Second)
		c.Warm(keys(name))
		round(t, c)
		_, ok := c.NextDue()
		require.False(t, ok)
		round(t, c)
		require.Equal(t, 1, s.lookups())
		start := time.Now()
		require.NoError(t, get(t, c).Err, "a request joins")
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Equal(t, 1, s.lookups())
	})
}

func TestWarmTakesHalfOfTheMemory(t *testing.T) {
	for _, tt := range []struct {
		size, want int
		keys       []dnscache.Key
	}{
		{size: 8, keys: nil, want: 0},
		{size: 8, keys: keys("a", "b", "c", "d"), want: 4},
		{size: 8, keys: keys("a", "b", "c", "d", "e", "f"), want: 4},
		{size: 9, keys: keys("a", "b", "c", "d", "e", "f"), want: 4},
		{size: 8, keys: keys("a", "a", "b", "a", "b", "c", "d", "e"), want: 4},
		{size: 8, keys: keys("a", "a", "a", "a", "a", "a"), want: 1},
		{size: 1, keys: keys("a"), want: 0},
		{size: 2, keys: keys("a", "b"), want: 1},
	} {
		t.Run(fmt.Sprintf("%d of %v", tt.size, tt.keys), func(t *testing.T) {
			run(t, dnscache.Options{Size: tt.size}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				for i := range 2 * tt.size {
					c.Get(t.Context(), fmt.Sprintf("old%d", i), dnsclient.A)
				}
				require.Equal(t, tt.want, c.Warm(tt.keys))
				require.NoError(t, c.Check())
				require.Equal(t, tt.size, c.Entries(), "the others make room")
				before := s.lookups()
				round(t, c)
				require.Equal(t, tt.want, s.lookups()-before)
				require.ElementsMatch(t, []string{"a A", "b A", "c A", "d A"}[:tt.want], s.queries()[before:], "in the order given")
				require.Equal(t, tt.want, c.Warm(tt.keys), "again")
				require.NoError(t, c.Check())
				require.Equal(t, tt.size, c.Entries())
			})
		})
	}
}

func TestWarmNamesAreNotForgotten(t *testing.T) {
	run(t, dnscache.Options{Size: 8}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := c.Get(t.Context(), "w0", dnsclient.A)
		c.Get(t.Context(), "last", dnsclient.A)
		require.Equal(t, 4, c.Warm(keys(names(4, "w%d")...)))
		require.False(t, first.Superseded(), "becoming warm is no news")
		round(t, c)
		require.Equal(t, 2+3, s.lookups(), "one is known already")
		var others []*dnscache.Result
		for i := range 100 {
			others = append(others, c.Get(t.Context(), fmt.Sprintf("other%d", i), dnsclient.A))
			require.NoError(t, c.Check())
		}
		require.Equal(t, 8, c.Entries())
		for i, r := range others {
			require.Equal(t, i < 96, r.Superseded())
		}
		require.Same(t, first, peek(t, c, "w0"))
		for _, n := range names(4, "w%d") {
			require.False(t, peek(t, c, n).Superseded())
		}
	})
}

func TestNameThatIsNoLongerWarmIsAnOrdinaryOne(t *testing.T) {
	run(t, dnscache.Options{Size: 8}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Warm(keys("a", "b", "kept"))
		round(t, c)
		a, b, kept := peek(t, c, "a"), peek(t, c, "b"), peek(t, c, "kept")
		c.Warm(keys("kept", "new"))
		require.NoError(t, c.Check())
		require.Equal(t, 4, c.Entries())
		for _, r := range []*dnscache.Result{a, b, kept} {
			require.False(t, r.Superseded(), "what is known stays")
		}
		require.Same(t, a, c.Get(t.Context(), "a", dnsclient.A)) // used
		round(t, c)
		require.Equal(t, 4, s.lookups())
		time.Sleep(80 * time.Second)
		round(t, c)
		require.ElementsMatch(t, []string{"a A", "kept A", "new A"}, s.queries()[4:], "nobody uses b")
		time.Sleep(20 * time.Second)
		round(t, c)
		_, ok := c.Peek("b", dnsclient.A)
		require.False(t, ok)
		require.Equal(t, 7, s.lookups(), "what has lapsed is not asked for")

		a = peek(t, c, "a")
		for i := range 6 {
			c.Get(t.Context(), fmt.Sprintf("other%d", i), dnsclient.A)
		}
		require.True(t, a.Superseded(), "it may be forgotten")
		require.False(t, peek(t, c, "kept").Superseded())
		require.NoError(t, c.Check())
	})
	run(t, dnscache.Options{Size: 8}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, time.Second)
		c.Warm(keys("a", "b"))
		c.RefreshDue(t.Context())
		c.Warm(nil)
		require.Zero(t, c.Entries(), "nothing is known about them")
		_, ok := c.NextDue()
		require.False(t, ok)
		time.Sleep(time.Second)
		synctest.Wait()
		require.NoError(t, peek(t, c, "a").Err, "what was asked for all the same is kept")
		require.NoError(t, c.Check())
	})
	run(t, dnscache.Options{Size: 8}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		c.Warm(keys("a", "b", "c", "d"))
		round(t, c)
		for i := range 4 {
			c.Get(t.Context(), fmt.Sprintf("other%d", i), dnsclient.A)
		}
		c.Warm(keys("e", "f", "g", "h"))
		require.NoError(t, c.Check())
		require.Equal(t, 8, c.Entries())
		for _, n := range []string{"a", "b", "c", "d"} {
			peek(t, c, n) // used more recently than the others
		}
		c.Get(t.Context(), "one more", dnsclient.A)
		_, ok := c.Peek("d", dnsclient.A)
		require.False(t, ok, "the first named are the last to go")
		peek(t, c, "a")
	})
}

// Whoever waits for an answer must find a place, however many names are kept warm.
func TestWarmLeavesAQuarterOfThePlaces(t *testing.T) {
	for most, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 10: 7, 100: 75, 256: 192} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			run(t, dnscache.Options{MaxInFlight: most}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				s.set(positive(0, here), nil, 5*time.Second)
				c.Warm(keys(names(300, "w%d.example")...))
				round(t, c)
				require.Equal(t, want, s.mostAtOnce())
				var wg sync.WaitGroup
				for i := range most - want {
					wg.Go(func() {
						if err := c.Get(t.Context(), fmt.Sprintf("other%d.example", i), dnsclient.A).Err; err != nil {
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				round(t, c)
				require.Equal(t, most, s.mostAtOnce())
				require.Equal(t, most, s.lookups())
				wg.Wait()
				time.Sleep(5 * time.Second)
			})
		})
	}
}

func TestOneDomainOfWarmNamesLeavesThePlacesOfOthers(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(0, here), nil, 5*time.Second)
		c.Warm(keys(append(names(1000, "n%d.slow.example"), "good.example")...))
		round(t, c)
		require.Equal(t, 33, s.lookups())
		require.Contains(t, s.queries(), "good.example A")
		time.Sleep(5 * time.Second)
	})
}

// Names whose servers hang come back as soon as their backoff is over, and must not
// always come before those that wait for longer.
func TestWarmNamesTakeTurns(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	lookup := func(ctx context.Context, name string, _ dnsclient.Type) (dnsclient.Answer, error) {
		mu.Lock()
		asked[name]++
		mu.Unlock()
		if strings.HasPrefix(name, "good") {
			return positive(0, here), nil
		}
		<-ctx.Done()
		return dnsclient.Answer{}, ctx.Err()
	}
	run(t, dnscache.Options{Lookup: lookup, MaxInFlight: 4}, func(t *testing.T, _ *dnsServer, c *dnscache.Cache) {
		c.Warm(keys(append(names(100, "hangs%d.example"), names(10, "good%d.example")...)...))
		for range 1000 {
			round(t, c)
			time.Sleep(time.Second)
		}
		mu.Lock()
		defer mu.Unlock()
		for name, n := range asked {
			if strings.HasPrefix(name, "good") {
				require.GreaterOrEqual(t, n, 25, name) // each 25 s after its first turn
				continue
			}
			require.GreaterOrEqual(t, n, 2, name)
			require.LessOrEqual(t, n, 4, name)
		}
		require.Len(t, asked, 110)
		time.Sleep(10 * time.Second)
	})
}
