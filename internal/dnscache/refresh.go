package dnscache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	refreshWorkers = 8  // lookups that one refresh makes at once
	maxErrors      = 16 // failures that its error spells out
)

// job is a key to ask for and what was known about it when that was decided.
type job struct {
	key  key
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

// RefreshDue starts asking again for the answers for which NextDue has come, and
// waits for none: name servers that hang must not keep its caller from the names
// of others. Nothing is started once ctx has ended. Answers for which there is no
// place are still due. Failures show in later results.
func (c *Cache) RefreshDue(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for _, k := range c.entries.Keys() {
		if ctx.Err() != nil {
			return
		}
		e, _ := c.entries.Peek(k)
		if due, ok := c.nextDue(k, e, now); ok && !due.After(now) {
			c.start(k)
		}
	}
}

// NextDue returns when RefreshDue next has something to do, which may be past:
// for every answer that lives and has been used since it arrived, after four
// fifths of its life, unless it is being asked for. It reports false if there is
// no such answer. While there is no place for a lookup the time does not move on,
// so a loop pauses at least a second between two rounds.
func (c *Cache) NextDue() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var next time.Time
	found := false
	now := c.now()
	for _, k := range c.entries.Keys() {
		e, _ := c.entries.Peek(k)
		if due, ok := c.nextDue(k, e, now); ok && (!found || due.Before(next)) {
			next, found = due, true
		}
	}
	return next, found
}

// nextDue is due for answers that somebody uses, since the others may lapse, and
// that nobody is asking for. c.mu is held.
func (c *Cache) nextDue(k key, e *entry, now time.Time) (time.Time, bool) {
	due, ok := e.due(now)
	return due, ok && e.used && c.flights[k] == nil
}

// jobs returns the keys of the answers that live, least recently used first.
func (c *Cache) jobs() []job {
	c.mu.Lock()
	defer c.mu.Unlock()
	var jobs []job
	now := c.now()
	for _, k := range c.entries.Keys() {
		if e, ok := c.entries.Peek(k); ok && e.live(now) {
			jobs = append(jobs, job{k, e.last()})
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
