package dnscache

import "fmt"

// Check says which invariant of the memory does not hold.
func (c *Cache) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.warm) + c.lru.Len(); n > c.size || len(c.warm) > c.size/2 {
		return fmt.Errorf("%d entries, %d of them warm", n, len(c.warm))
	}
	indexed := 0
	for i := range c.index.lists {
		for n := c.index.lists[i].Load(); n != nil; n = n.next {
			indexed++
		}
	}
	all := c.all()
	if indexed != len(all) {
		return fmt.Errorf("%d of %d entries are in the index", indexed, len(all))
	}
	for _, e := range all {
		_, forgettable := c.lru.Peek(e.key)
		if c.index.find(e.key) != e || forgettable == e.warm || e.warm == e.since.IsZero() {
			return fmt.Errorf("%v is not in its place", e.key)
		}
		if len(e.past.seen) > maxPast || e.past.window.Load() == 0 && len(e.past.seen) > 0 {
			return fmt.Errorf("%v: %d addresses of past answers", e.key, len(e.past.seen))
		}
	}
	return nil
}

// Entries returns the number of names and types in memory.
func (c *Cache) Entries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all())
}

// Locked calls f while nobody else gets the lock.
func (c *Cache) Locked(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}
