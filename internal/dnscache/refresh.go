package dnscache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

const (
	refreshWorkers = 8  // lookups that one refresh makes at once
	maxErrors      = 16 // failures that its error spells out
)

// job is a key to ask for and what was known about it when that was decided.
type job struct {
	key  Key
	seen *Result
}

// Refresh asks again for all answers that live. It returns when that is done or
// ctx is, with what went wrong; answers that could not be confirmed stay until
// they lapse.
func (c *Cache) Refresh(ctx context.Context) error {
	errs := c.run(ctx, c.jobs())
	if n := len(errs) - maxErrors; n > 0 {
		errs = append(errs[:maxErrors], fmt.Errorf("%d more DNS lookups failed", n))
	}
	return errors.Join(errs...)
}

// jobs returns the keys of the answers that live.
func (c *Cache) jobs() []job {
	c.mu.Lock()
	defer c.mu.Unlock()
	var jobs []job
	now := c.now()
	for _, e := range c.all() {
		if e.live(now) {
			jobs = append(jobs, job{e.key, e.last()})
		}
	}
	return jobs
}

// run asks for all jobs, a few at a time, and returns the failures in the order
// of the jobs. When ctx is done it starts no more.
func (c *Cache) run(ctx context.Context, jobs []job) []error {
	results := make([]error, len(jobs))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(refreshWorkers, c.most, len(jobs)) {
		wg.Go(func() {
			for i := range next {
				if results[i] = context.Cause(ctx); results[i] == nil {
					results[i] = c.ask(ctx, jobs[i].key, jobs[i].seen).Err
				}
			}
		})
	}
	for i := range jobs {
		next <- i
	}
	close(next)
	wg.Wait()
	return slices.DeleteFunc(results, func(err error) bool { return err == nil })
}
