package fetch_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

// counter is a dial hook that takes ten seconds and knows how many dials there were at once.
type counter struct {
	mu        sync.Mutex
	now, most int
	hosts     map[string]int
	mostHost  int
}

func (c *counter) dial(ctx context.Context, _, address string) (net.Conn, error) {
	c.add(address, 1)
	defer c.add(address, -1)
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
	}
	return nil, net.ErrClosed
}

func (c *counter) add(address string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.hosts[address] += n
	c.most, c.mostHost = max(c.most, c.now), max(c.mostHost, c.hosts[address])
}

func (c *counter) peaks() (all, host int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most, c.mostHost
}

func TestLimiterBoundsAllAndEachHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := &counter{hosts: map[string]int{}}
		limiter := fetch.NewLimiter(5, 2)
		one := fetch.New(fetch.Options{Dial: count.dial, Limiter: limiter})
		two := fetch.New(fetch.Options{Dial: count.dial, Limiter: limiter})
		var wg sync.WaitGroup
		for i := range 8 { // few enough that none meets the hard cap of a minute
			host := []string{"8.8.8.8", "8.8.4.4", "9.9.9.9", "1.1.1.1"}[i%4]
			for _, c := range []*fetch.Client{one, two} {
				wg.Go(func() { c.Get(context.Background(), "http://"+host+"/", "", limit) })
			}
		}
		wg.Wait()
		most, mostHost := count.peaks()
		require.Equal(t, 5, most)
		require.Equal(t, 2, mostHost)
	})
}

func TestWaitersForASlowHostHoldNoSlotOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fast int
		dial := func(ctx context.Context, _, address string) (net.Conn, error) {
			if address == "8.8.8.8:80" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			fast++
			return nil, net.ErrClosed
		}
		c := fetch.New(fetch.Options{Dial: dial, Limiter: fetch.NewLimiter(2, 1)})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { c.Get(context.Background(), "http://8.8.8.8/", "", limit) })
		}
		synctest.Wait()
		start := time.Now()
		_, err := c.Get(context.Background(), "http://9.9.9.9/", "", limit)
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, 1, fast)
		require.Zero(t, time.Since(start))
		wg.Wait()
	})
}

func TestWaitingForASlotEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, host := range []string{"8.8.8.8", "9.9.9.9"} { // waiting for the host, and for the total
			count := &counter{hosts: map[string]int{}}
			c := fetch.New(fetch.Options{Dial: count.dial, Limiter: fetch.NewLimiter(0, 0)}) // one and one
			var wg sync.WaitGroup
			wg.Go(func() { c.Get(context.Background(), "http://8.8.8.8/", "", limit) })
			synctest.Wait()
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			start := time.Now()
			_, err := c.Get(ctx, "http://"+host+"/", "", limit)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(start))
			most, _ := count.peaks()
			require.Equal(t, 1, most)
			wg.Wait()
			_, err = c.Get(context.Background(), "http://"+host+"/", "", limit)
			require.ErrorIs(t, err, net.ErrClosed, "the slots are free again")
		}
	})
}

func TestGivingUpReturnsTheSlotOfTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := &counter{hosts: map[string]int{}}
		c := fetch.New(fetch.Options{Dial: count.dial, Limiter: fetch.NewLimiter(1, 1)})
		get := func(host string, wait time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			_, err := c.Get(ctx, "http://"+host+"/", "", limit)
			return err
		}
		var wg sync.WaitGroup
		wg.Go(func() { get("9.9.9.9", time.Minute) }) // has the only slot of all for ten seconds
		synctest.Wait()
		wg.Go(func() { get("8.8.8.8", time.Second) }) // has the host's slot, waits for that one, gives up
		synctest.Wait()
		require.ErrorIs(t, get("8.8.8.8", 50*time.Second), net.ErrClosed)
		wg.Wait()
	})
}
