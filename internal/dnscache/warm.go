package dnscache

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Warm says which names are kept warm from now on, in place of those of the last
// call: RefreshDue asks for them before anybody does and again before they lapse,
// used or not, and they are not forgotten for others. At most half of Options.Size
// are taken, in the order given; it returns how many. It starts nothing. A name
// that is no longer among them is an ordinary one again.
func (c *Cache) Warm(keys []Key) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.warm
	for _, e := range before {
		e.warm = false
	}
	c.warm = make([]*entry, 0, min(len(keys), c.size/2))
	now := c.now()
	for _, k := range keys {
		if len(c.warm) == c.size/2 {
			break
		}
		e := c.index.find(k)
		if e == nil {
			e = &entry{key: k}
			c.index.add(e)
		}
		if e.warm {
			continue
		}
		e.warm = true
		c.lru.Remove(k)
		if e.since.IsZero() {
			e.since = now
		}
		c.warm = append(c.warm, e)
	}
	c.lru.Resize(c.size - len(c.warm)) // in all, no more than before
	for _, e := range slices.Backward(before) {
		if e.warm {
			continue
		}
		e.since = time.Time{}
		if e.last() == nil {
			c.forget(e)
		} else {
			c.lru.Add(e.key, e)
		}
	}
	return len(c.warm)
}

// RefreshDue starts asking for the names for which NextDue has come, and waits for
// none: name servers that hang must not keep its caller from the names of others.
// Names that failed last time come last, so that they do not take the places of
// those that answer; of either kind, those that wait longest come first. A quarter
// of the places for lookups is left to requests. Nothing is started once ctx has
// ended. Names for which there is no place are still due. Failures show in later
// results.
func (c *Cache) RefreshDue(ctx context.Context) {
	type dueEntry struct {
		*entry
		at time.Time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	var all []dueEntry
	for _, e := range c.all() {
		if at, ok := c.nextDue(e, now); ok && !at.After(now) {
			all = append(all, dueEntry{e, at})
		}
	}
	slices.SortStableFunc(all, func(a, b dueEntry) int {
		return cmp.Or(min(a.failures, 1)-min(b.failures, 1), a.at.Compare(b.at))
	})
	most := max(c.most*3/4, 1)
	for _, e := range all {
		if ctx.Err() != nil || len(c.flights) >= most {
			return
		}
		c.start(e.key, most)
	}
}

// NextDue returns when RefreshDue next has something to do, which may be past: for
// every answer that lives and is kept warm or has been used since it arrived, after
// four fifths of its life; for every other name that is kept warm, at once or after
// the backoff of a failure; unless it is being asked for. It reports false if there
// is nothing of the kind. While there is no place for a lookup the time does not
// move on, so a loop pauses at least a second between two rounds.
func (c *Cache) NextDue() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var next time.Time
	found := false
	now := c.now()
	for _, e := range c.all() {
		if due, ok := c.nextDue(e, now); ok && (!found || due.Before(next)) {
			next, found = due, true
		}
	}
	return next, found
}

// nextDue is due for what is kept warm and for live answers that somebody uses,
// since the others may lapse, and that nobody is asking for. c.mu is held.
func (c *Cache) nextDue(e *entry, now time.Time) (time.Time, bool) {
	if c.flights[e.key] != nil || !e.warm && !(e.used && e.live(now)) {
		return time.Time{}, false
	}
	return e.due(), true
}

// all returns the entries: those kept warm, then the others, least recently used
// first. c.mu is held.
func (c *Cache) all() []*entry { return slices.Concat(c.warm, c.lru.Values()) }
