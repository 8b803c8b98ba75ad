package dnscache_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

func TestRefreshAhead(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := get(t, c)
		time.Sleep(80*time.Second - 1)
		get(t, c)
		synctest.Wait()
		require.Equal(t, 1, s.lookups())
		time.Sleep(time.Nanosecond)
		s.set(positive(100*time.Second, there), nil, 5*time.Second)
		for range 1000 {
			require.Same(t, first, get(t, c), "nobody waits")
		}
		ctx := t.Context()
		require.Zero(t, testing.AllocsPerRun(100, func() { c.Get(ctx, name, dnsclient.A) }), "nobody queues")
		synctest.Wait()
		require.Equal(t, 2, s.lookups())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.True(t, first.Superseded())
		second := get(t, c)
		require.Equal(t, []netip.Addr{there}, second.Answer.Addrs)
		require.Equal(t, 2, s.lookups())
	})
}

func TestFailedRefreshLeavesTheAnswer(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := get(t, c)
		s.set(dnsclient.Answer{}, errNo, 0)
		time.Sleep(80 * time.Second)
		for range 20 { // each second
			require.Same(t, first, get(t, c))
			synctest.Wait()
			r, ok := c.Peek(name, dnsclient.A)
			require.True(t, ok)
			require.Same(t, first, r)
			time.Sleep(time.Second)
		}
		require.Equal(t, 1+5, s.lookups(), "after 0, 1, 3, 7 and 15 s")
		require.False(t, first.Superseded())
		r, ok := c.Peek(name, dnsclient.A)
		require.True(t, ok)
		require.ErrorIs(t, r.Err, errNo, "the answer has lapsed, the last failure stands")
		require.Same(t, r, get(t, c))
	})
}

func TestBackgroundRefreshStartsAgainAfterBusy(t *testing.T) {
	run(t, dnscache.Options{MaxInFlight: 1}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		get(t, c)
		time.Sleep(85 * time.Second)
		s.set(positive(0, here), nil, time.Second)
		go c.Get(t.Context(), "other.example", dnsclient.A)
		synctest.Wait()
		get(t, c) // no place
		synctest.Wait()
		require.Equal(t, 2, s.lookups())
		time.Sleep(2 * time.Second)
		get(t, c)
		time.Sleep(2 * time.Second)
		require.Equal(t, []string{"p.example A", "other.example A", "p.example A"}, s.queries())
	})
}

func TestRequery(t *testing.T) {
	requery := func(t *testing.T, c *dnscache.Cache) *dnscache.Result {
		return c.Requery(t.Context(), name, dnsclient.A)
	}
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := requery(t, c)
		require.Equal(t, 1, s.lookups(), "nothing known: it is Get")
		time.Sleep(10 * time.Second)
		require.Same(t, first, requery(t, c), "the answer is young")
		require.Equal(t, 1, s.lookups())
		time.Sleep(time.Nanosecond)
		s.set(positive(100*time.Second, there), nil, 0)
		second := requery(t, c)
		require.Equal(t, []netip.Addr{there}, second.Answer.Addrs)
		require.True(t, first.Superseded())
		require.Equal(t, 2, s.lookups())

		time.Sleep(11 * time.Second)
		s.set(dnsclient.Answer{}, errNo, 0)
		for range 100 {
			require.Same(t, second, requery(t, c), "a failure does not replace a live answer")
		}
		require.Equal(t, 3, s.lookups(), "once in ten seconds")
		time.Sleep(10*time.Second - 1)
		requery(t, c)
		require.Equal(t, 3, s.lookups())
		time.Sleep(time.Nanosecond)
		requery(t, c)
		require.Equal(t, 4, s.lookups())

		time.Sleep(100 * time.Second)
		require.ErrorIs(t, requery(t, c).Err, errNo)
		require.ErrorIs(t, requery(t, c).Err, errNo)
		require.Equal(t, 5, s.lookups(), "a failure stands for Requery, too")
	})
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := get(t, c)
		s.set(dnsclient.Answer{}, errNo, 0)
		for _, wait := range []time.Duration{80, 1, 2, 4, 8} {
			time.Sleep(wait * time.Second)
			require.Same(t, first, get(t, c))
			synctest.Wait()
		}
		require.Equal(t, 6, s.lookups())
		require.Same(t, first, requery(t, c))
		require.Equal(t, 6, s.lookups(), "a failure is backed off from by Requery, too")
		s.set(positive(100*time.Second, here), nil, 0)
		require.NoError(t, c.Refresh(t.Context()))
		require.Equal(t, 7, s.lookups())
		time.Sleep(11 * time.Second) // the last backoff would have been 16 s
		requery(t, c)
		require.Equal(t, 8, s.lookups(), "an answer ends the backoff")
	})
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		first := get(t, c)
		time.Sleep(11 * time.Second)
		s.set(positive(0, there), nil, 5*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Same(t, first, c.Requery(ctx, name, dnsclient.A), "the caller has no more time")
		time.Sleep(5 * time.Second)
		require.Equal(t, []netip.Addr{there}, get(t, c).Answer.Addrs)
	})
}

func TestRefresh(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		require.NoError(t, c.Refresh(t.Context()))
		for i := range 100 {
			c.Get(t.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A)
		}
		s.set(positive(0, there), nil, time.Second)
		require.NoError(t, c.Refresh(t.Context()))
		require.Equal(t, 200, s.lookups())
		require.Equal(t, 8, s.mostAtOnce())
		require.Equal(t, []netip.Addr{there}, c.Get(t.Context(), "p99.example", dnsclient.A).Answer.Addrs)

		s.set(dnsclient.Answer{}, errNo, 0)
		err := c.Refresh(t.Context())
		require.ErrorIs(t, err, errNo)
		require.ErrorContains(t, err, "84 more")
		require.NoError(t, c.Get(t.Context(), "p99.example", dnsclient.A).Err)

		s.set(positive(0, there), nil, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		start, before := time.Now(), s.lookups()
		require.ErrorIs(t, c.Refresh(ctx), context.DeadlineExceeded)
		require.Equal(t, 1500*time.Millisecond, time.Since(start))
		synctest.Wait()
		require.Equal(t, before+16, s.lookups(), "eight each second, and no more when the time is up")
		time.Sleep(time.Minute)
		before = s.lookups()
		require.NoError(t, c.Refresh(t.Context()), "lapsed answers are not asked for")
		require.Equal(t, before, s.lookups())
	})
}

func TestRefreshDue(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		_, ok := c.NextDue()
		require.False(t, ok)
		start := time.Now()
		get(t, c)
		_, ok = c.NextDue()
		require.False(t, ok, "not used since it arrived")
		c.Peek(name, dnsclient.A)
		_, ok = c.NextDue()
		require.False(t, ok, "a peek is no use")
		get(t, c)
		due, ok := c.NextDue()
		require.True(t, ok)
		require.Equal(t, start.Add(80*time.Second), due)

		time.Sleep(10 * time.Second)
		c.Get(t.Context(), "later.example", dnsclient.A)
		c.Get(t.Context(), "later.example", dnsclient.A)
		c.Get(t.Context(), "unused.example", dnsclient.A)
		due, _ = c.NextDue()
		require.Equal(t, start.Add(80*time.Second), due, "the earliest")

		c.RefreshDue(t.Context())
		synctest.Wait()
		require.Equal(t, 3, s.lookups(), "nothing is due")
		time.Sleep(time.Until(due))
		c.RefreshDue(t.Context())
		synctest.Wait()
		require.Equal(t, 4, s.lookups())
		due, _ = c.NextDue()
		require.Equal(t, start.Add(90*time.Second), due)

		s.set(dnsclient.Answer{}, errNo, 0)
		time.Sleep(time.Until(due))
		c.RefreshDue(t.Context())
		synctest.Wait()
		require.Equal(t, 5, s.lookups())
		due, _ = c.NextDue()
		require.Equal(t, start.Add(91*time.Second), due, "it backs off")
		c.RefreshDue(t.Context())
		synctest.Wait()
		require.Equal(t, 5, s.lookups())
		for {
			due, ok = c.NextDue()
			if !ok {
				break
			}
			require.True(t, due.After(time.Now()), "the schedule moves on")
			time.Sleep(time.Until(due))
			c.RefreshDue(t.Context())
			synctest.Wait()
		}
		require.Equal(t, 9, s.lookups(), "until it lapses: after 1, 3, 7 and 15 s")
	})
}

// A loop that waited would hang for as long as one name server does.
func TestRefreshDueWaitsForNobody(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		for i := range 80 {
			for range 2 {
				c.Get(t.Context(), fmt.Sprintf("n%d.slow.example", i), dnsclient.A)
			}
		}
		for range 2 {
			c.Get(t.Context(), "good.example", dnsclient.A) // the last in line
		}
		before := s.lookups()
		s.set(positive(0, there), nil, 5*time.Second)
		time.Sleep(80 * time.Second)
		start := time.Now()
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		c.RefreshDue(ended)
		synctest.Wait()
		require.Equal(t, before, s.lookups(), "nothing is started once its caller has ended")
		for range 3 {
			c.RefreshDue(t.Context())
			synctest.Wait()
		}
		require.Equal(t, start, time.Now())
		require.Equal(t, before+33, s.lookups(), "as many as a domain has places, once each, and the other domain")
		due, ok := c.NextDue()
		require.True(t, ok)
		require.Equal(t, start, due, "the others are still due")
		time.Sleep(5 * time.Second)
		synctest.Wait()
		c.RefreshDue(t.Context())
		synctest.Wait()
		require.Equal(t, before+65, s.lookups())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		c.RefreshDue(t.Context())
		synctest.Wait()
		require.Equal(t, before+81, s.lookups())
		_, ok = c.NextDue()
		require.False(t, ok, "all that is due is being asked for")
		time.Sleep(5 * time.Second)
	})
}

func TestRefreshDoesNotRepeatWhatWasJustAsked(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		for i := range 9 {
			c.Get(t.Context(), fmt.Sprintf("p%d.example", i), dnsclient.A)
		}
		time.Sleep(11 * time.Second)
		s.set(positive(0, there), nil, time.Second)
		done := make(chan error)
		go func() { done <- c.Refresh(t.Context()) }()
		synctest.Wait() // the last one waits for the first eight
		s.set(positive(0, there), nil, time.Second/2)
		c.Requery(t.Context(), "p8.example", dnsclient.A)
		require.NoError(t, <-done)
		require.Equal(t, 9+8+1, s.lookups())
	})
}
