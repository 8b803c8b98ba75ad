package dnscache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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

// gauges are the lookups under way, of slow domains and in all.
type gauges struct {
	slow, slowPeak, all, peak, lookups atomic.Int32
	last                               atomic.Pointer[string] // the last slow name asked for
}

func (g *gauges) lookup(ctx context.Context, name string, _ dnsclient.Type) (dnsclient.Answer, error) {
	g.lookups.Add(1)
	enter := func(gauge, peak *atomic.Int32) { // callers of a bubble run at once, too
		n := gauge.Add(1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
	}
	enter(&g.all, &g.peak)
	defer g.all.Add(-1)
	if strings.HasSuffix(name, ".slow.example") {
		enter(&g.slow, &g.slowPeak)
		defer g.slow.Add(-1)
		g.last.Store(&name)
	}
	if strings.HasSuffix(name, ".good.example") {
		return positive(0, here), nil
	}
	<-ctx.Done()
	return dnsclient.Answer{}, ctx.Err()
}

// requireGoroutines says how many goroutines are in a Cache: waiting or asking. Those
// that have returned are given the time to be counted out.
func requireGoroutines(t *testing.T, want int) {
	t.Helper()
	stacks := make([]byte, 1<<22)
	got := -1
	for i := 0; i < 1000 && got != want; i++ {
		synctest.Wait()
		runtime.Gosched()
		got = 0
		for _, g := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(g, "/dnscache.(*Cache).") {
				got++
			}
		}
	}
	require.Equal(t, want, got)
}

// A partner's name servers hang, or an outsider's who got a certificate for them.
func TestThousandCallersOfNamesWhoseServersHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requireGoroutines(t, 0)
		var g gauges
		c := dnscache.New(dnscache.Options{Lookup: g.lookup})
		var busy, late atomic.Int32
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		ask := func(name string) {
			switch r := c.Get(ctx, name, dnsclient.A); {
			case errors.Is(r.Err, dnscache.ErrBusy):
				busy.Add(1)
			case errors.Is(r.Err, context.DeadlineExceeded):
				late.Add(1)
			default:
				t.Error(r.Err)
			}
		}
		start := time.Now()
		for _, n := range names(1000, "n%d.slow.example") {
			wg.Go(func() { ask(n) })
		}
		synctest.Wait()
		require.EqualValues(t, 32, g.slow.Load())
		require.EqualValues(t, 1000-32, busy.Load(), "the others are told at once")
		requireGoroutines(t, 2*32) // one waits and one asks for each name

		for range 1000 { // and all of them join
			wg.Go(func() { ask(*g.last.Load()) })
		}
		synctest.Wait()
		require.EqualValues(t, 32, g.lookups.Load())

		for _, n := range []string{"a.good.example", "b.good.example"} {
			require.NoError(t, c.Get(ctx, n, dnsclient.A).Err)
		}
		require.Equal(t, start, time.Now(), "names of others are answered at once")

		for i := range 1000 { // domains of their own
			wg.Go(func() { ask(fmt.Sprintf("p.slow%d.example", i)) })
		}
		synctest.Wait()
		require.EqualValues(t, 256, g.peak.Load())
		require.EqualValues(t, 256, g.all.Load())
		require.EqualValues(t, 1000-32+1000-(256-32), busy.Load())
		for range 1000 {
			require.NoError(t, c.Get(ctx, "a.good.example", dnsclient.A).Err, "what is known is answered whatever hangs")
		}
		require.ErrorIs(t, c.Get(ctx, "c.good.example", dnsclient.A).Err, dnscache.ErrBusy)
		require.Equal(t, start, time.Now())

		wg.Wait()
		require.Equal(t, start.Add(3*time.Second), time.Now(), "nobody waits longer than its context")
		require.EqualValues(t, 3000, busy.Load()+late.Load())
		time.Sleep(7 * time.Second)
		synctest.Wait()
		require.Zero(t, g.all.Load())
		require.EqualValues(t, 32, g.slowPeak.Load())
		require.EqualValues(t, 256+2, g.lookups.Load())
		requireGoroutines(t, 0)
		require.NoError(t, c.Get(t.Context(), "c.good.example", dnsclient.A).Err, "the places are free again")
	})
}

// The same with the names kept warm, by a loop.
func TestWarmNamesWhoseServersHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		requireGoroutines(t, 0)
		var g gauges
		c := dnscache.New(dnscache.Options{Lookup: g.lookup})
		c.Warm(keys(append(append(names(1000, "n%d.slow.example"), names(1000, "p.slow%d.example")...), "a.good.example")...))
		for i := range 300 {
			start := time.Now()
			c.RefreshDue(t.Context())
			require.Equal(t, start, time.Now(), "the loop waits for nobody")
			synctest.Wait()
			r := c.Get(t.Context(), fmt.Sprintf("p%d.good.example", g.lookups.Load()), dnsclient.A)
			require.NoError(t, r.Err, "a request has a place")
			require.Equal(t, start, time.Now())
			_, ok := c.Peek("a.good.example", dnsclient.A)
			require.True(t, ok || i < 120, "a good name stays warm after its first turn")
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 32, g.slowPeak.Load())
		require.EqualValues(t, 193, g.peak.Load(), "the one of the request")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		requireGoroutines(t, 0)
	})
}
