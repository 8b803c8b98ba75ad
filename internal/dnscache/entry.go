package dnscache

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
	"time"
)

// entry is what is known about a key. It is changed with Cache.mu held; what is
// atomic is read without.
type entry struct {
	key       Key
	answer    atomic.Pointer[Result] // the last answer; may have lapsed
	failure   *Result                // a failure since then, which stands while backing off
	failures  int                    // in a row
	used      bool                   // since the last answer
	requeried time.Time              // when a caller last doubted the answer
	past      memory

	// Until then, in Unix nanoseconds, Get has nothing to do with a live answer but
	// to return it.
	idleUntil atomic.Int64

	warm  bool      // is in Cache.warm, not in Cache.lru
	since time.Time // when it was put there
}

// living returns the answer if it lives, and the time. It needs no lock: the answer
// was the last one when it was read, and lives at a time read after that.
func (c *Cache) living(e *entry) (*Result, time.Time) {
	r := e.answer.Load()
	now := c.now()
	if r == nil || !now.Before(r.Expires) {
		return nil, now
	}
	return r, now
}

// idle reports whether Get may leave it at returning a live answer. It bounds the
// time from both sides for clocks that are set back.
func (e *entry) idle(now time.Time) bool {
	left := e.idleUntil.Load() - now.UnixNano()
	return 0 < left && left <= int64(useEvery)
}

// known returns what stands now: a live answer, else a failure while backing
// off, else nil. A failure never takes the place of a live answer.
func (e *entry) known(now time.Time) *Result {
	if e.live(now) {
		return e.answer.Load()
	}
	if e.backingOff(now) {
		return e.failure
	}
	return nil
}

func (e *entry) live(now time.Time) bool {
	r := e.answer.Load()
	return r != nil && now.Before(r.Expires)
}

func (e *entry) backingOff(now time.Time) bool {
	return e.failure != nil && now.Before(e.failure.Expires)
}

// last returns what arrived last, or nil.
func (e *entry) last() *Result {
	if e.failure != nil {
		return e.failure
	}
	return e.answer.Load()
}

// due returns when the key is to be asked for again: at four fifths of an answer's
// life, or after the backoff of an attempt that failed.
func (e *entry) due() time.Time {
	due := e.since
	if r := e.answer.Load(); r != nil {
		due = r.At.Add(r.Expires.Sub(r.At) / 5 * 4)
	}
	if e.failure != nil && due.Before(e.failure.Expires) {
		due = e.failure.Expires
	}
	return due
}

// touch notes that e is used, so that others are forgotten first. c.mu is held.
func (c *Cache) touch(e *entry) { c.lru.Get(e.key) }

// entry returns the entry of k, and makes one if there is none. c.mu is held.
func (c *Cache) entry(k Key) *entry {
	e := c.index.find(k)
	if e == nil {
		e = &entry{key: k}
		c.index.add(e)
		c.lru.Add(k, e)
	}
	return e
}

// forget ends an entry. What it said can no longer be superseded by the next
// answer, so it is at once. c.mu is held.
func (c *Cache) forget(e *entry) {
	c.index.remove(e)
	if r := e.answer.Load(); r != nil {
		r.superseded.Store(true)
	}
	e.past.end()
}

// index finds entries without a lock, faster than a sync.Map does: this is in the
// way of every request. The lists are never changed, only replaced, which whoever
// holds Cache.mu does.
type index struct {
	seed  maphash.Seed
	lists []atomic.Pointer[node] // as many as a power of two
}

type node struct {
	entry *entry
	next  *node
}

func newIndex(size int) *index {
	lists := 1 << min(bits.Len(uint(size-1)), 16)
	return &index{maphash.MakeSeed(), make([]atomic.Pointer[node], lists)}
}

func (x *index) list(k Key) *atomic.Pointer[node] {
	h := maphash.String(x.seed, k.Name) + uint64(k.Type)
	return &x.lists[h&uint64(len(x.lists)-1)]
}

func (x *index) find(k Key) *entry {
	for n := x.list(k).Load(); n != nil; n = n.next {
		if n.entry.key == k {
			return n.entry
		}
	}
	return nil
}

func (x *index) add(e *entry) {
	list := x.list(e.key)
	list.Store(&node{e, list.Load()})
}

func (x *index) remove(e *entry) {
	list := x.list(e.key)
	var rest *node
	for n := list.Load(); n != nil; n = n.next {
		if n.entry != e {
			rest = &node{n.entry, rest}
		}
	}
	list.Store(rest)
}
