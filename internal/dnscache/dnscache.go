// Package dnscache keeps DNS answers until they lapse.
//
// A lookup is shared by all who wait for it and goes on when they leave, so a
// slow server costs a caller no more than its own patience, and the next caller
// nothing. Answers in use are asked for again before they lapse, and those of
// configured names are there before anybody needs them; failures are kept for a
// while, so that a dead server is not stormed.
package dnscache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// LookupFunc asks for the records of a name. An error means "don't know", never
// "no". A panic counts as an error.
type LookupFunc func(ctx context.Context, name string, t dnsclient.Type) (dnsclient.Answer, error)

// Key is what a LookupFunc is asked for.
type Key struct {
	Name string // canonical (package dnsname): another spelling is another name
	Type dnsclient.Type
}

// Options configure a Cache. Lookup is required.
type Options struct {
	Lookup LookupFunc
	Now    func() time.Time // nil: time.Now

	// Bounds on how long an answer with records is kept. Zero: 30 s and 15 min.
	// The floor keeps a TTL of zero from making every request a query; the
	// ceiling bounds how long a partner's former address passes for the partner.
	MinTTL, MaxTTL time.Duration
	// Bounds on how long an answer without records is kept. Zero: 5 s and 60 s.
	MinNegative, MaxNegative time.Duration

	Size        int           // names and types remembered, least recently used forgotten. Zero: 4096
	Timeout     time.Duration // of a lookup, whoever waits for it. Zero: 10 s
	MaxInFlight int           // lookups under way at once; more get ErrBusy. Zero: 256
}

// ErrBusy says that too many lookups are under way for another one: of all, or of
// the registrable domain of the name.
var ErrBusy = errors.New("too many DNS lookups under way")

var errEnded = errors.New("the DNS lookup ended without an answer")

const (
	// Lookups of one registrable domain under way at once. Whoever runs its name
	// servers decides how long they take, and must not hold the places of others.
	maxOfDomain = 32

	minBackoff = time.Second
	maxBackoff = 30 * time.Second
	requeryAge = 10 * time.Second // younger answers are not doubted
	useEvery   = time.Second      // how often the use of an answer is noted
)

// Result is an answer or the reason why there is none, and how long either
// stands. Its fields are never changed after it was handed out, and are not for
// others to change. The zero value is an answer without records that has lapsed.
type Result struct {
	Answer  dnsclient.Answer // valid if Err is nil
	Err     error            // not nil: nothing is known
	At      time.Time        // when the answer or failure arrived
	Expires time.Time        // until when it stands

	// superseded is shared by successive results with the same content, so that
	// whoever holds the first learns when the last is replaced.
	superseded *atomic.Bool
	doubted    *atomic.Bool // shared like superseded, until an answer comes
}

// Superseded reports whether the cache has since learnt something else, has
// forgotten the result, or never vouched for it, as for an error. What was
// decided on a superseded result is to be decided again. An answer that is
// confirmed is not superseded; it still lapses at Expires.
func (r *Result) Superseded() bool { return r.superseded == nil || r.superseded.Load() }

// Doubted reports whether an answer for the name has failed DNSSEC validation
// since this one came. The result stands until it lapses, and is then not to be
// used in place of a later one.
func (r *Result) Doubted() bool { return r.doubted != nil && r.doubted.Load() }

// Failed reports whether a lookup was made and failed, as opposed to one that the
// caller did not wait for or that could not be made.
func (r *Result) Failed() bool { return r.Err != nil && r.Expires.After(r.At) }

// Cache keeps the answers to a LookupFunc. It is safe for concurrent use. Names
// are to be canonical (package dnsname): another spelling is another name.
type Cache struct {
	lookup  LookupFunc
	now     func() time.Time
	timeout time.Duration
	most    int // lookups under way at once
	size    int // entries

	minTTL, maxTTL, minNegative, maxNegative time.Duration

	index *index // of all entries; read without mu

	mu      sync.Mutex
	lru     *simplelru.LRU[Key, *entry] // the entries that may be forgotten
	warm    []*entry                    // the others
	flights map[Key]*flight
	domains map[string]int // of the flights, how many of each registrable domain
}

// New returns a Cache. It starts nothing.
func New(o Options) *Cache {
	c := &Cache{
		lookup:      o.Lookup,
		now:         o.Now,
		timeout:     orDefault(o.Timeout, 10*time.Second),
		minTTL:      orDefault(o.MinTTL, 30*time.Second),
		maxTTL:      orDefault(o.MaxTTL, 15*time.Minute),
		minNegative: orDefault(o.MinNegative, 5*time.Second),
		maxNegative: orDefault(o.MaxNegative, 60*time.Second),
		most:        orDefault(o.MaxInFlight, 256),
		size:        orDefault(o.Size, 4096),
		flights:     map[Key]*flight{},
		domains:     map[string]int{},
	}
	if c.now == nil {
		c.now = time.Now
	}
	c.index = newIndex(c.size)
	c.lru, _ = simplelru.NewLRU(c.size, func(_ Key, e *entry) { // fails only for a size below one
		if !e.warm {
			c.forget(e)
		}
	})
	return c
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Get returns what is known: at once from memory while an answer lives or a
// failure stands, else from a lookup, for which it waits until ctx is done. The
// lookup goes on then. When four fifths of an answer's life are over, Get also
// starts a lookup in the background.
func (c *Cache) Get(ctx context.Context, name string, t dnsclient.Type) *Result {
	k := Key{name, t}
	if e := c.index.find(k); e != nil {
		if r, now := c.living(e); r != nil && e.idle(now) {
			return r
		}
	}
	return c.get(ctx, k)
}

// get is Get where there is something to do besides returning a live answer.
func (c *Cache) get(ctx context.Context, k Key) *Result {
	c.mu.Lock()
	e := c.index.find(k)
	if e == nil {
		c.mu.Unlock()
		return c.ask(ctx, k, nil)
	}
	now := c.now()
	known, last := e.known(now), e.last()
	if e.live(now) {
		c.use(e, now)
	}
	c.mu.Unlock()
	if known == nil {
		return c.ask(ctx, k, last)
	}
	return known
}

// use notes that a live answer is used and starts the lookup that is due. c.mu is
// held.
func (c *Cache) use(e *entry, now time.Time) {
	c.touch(e)
	e.used = true
	until := now.Add(useEvery)
	if due := e.due(); due.After(now) {
		until = earlier(until, due)
	} else if c.start(e.key, c.most) == nil {
		until = now // no place: the next one tries again
	}
	e.idleUntil.Store(until.UnixNano())
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Peek returns what Get would return at once. It does not count as use, keep
// the name in memory or start a lookup, so that it is fit for peers who have
// proved nothing yet.
func (c *Cache) Peek(name string, t dnsclient.Type) (*Result, bool) {
	e := c.index.find(Key{name, t})
	if e == nil {
		return nil, false
	}
	if r, _ := c.living(e); r != nil {
		return r, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := e.known(c.now())
	return r, r != nil
}

// Requery is Get for a caller whose peer is not at the addresses known, and who
// gives the partner the benefit of a recent move: it asks again if the answer is
// older than 10 s and nobody has done so in the last 10 s, which no number of
// wrong peers can exceed. If that fails, the answer in memory stands.
func (c *Cache) Requery(ctx context.Context, name string, t dnsclient.Type) *Result {
	k := Key{name, t}
	c.mu.Lock()
	e := c.index.find(k)
	now := c.now()
	if e == nil || !e.live(now) {
		c.mu.Unlock()
		return c.Get(ctx, name, t)
	}
	c.touch(e)
	e.used = true
	known, last := e.answer.Load(), e.last()
	again := now.Sub(known.At) > requeryAge && now.Sub(e.requeried) >= requeryAge && !e.backingOff(now)
	if again {
		e.requeried = now
	}
	c.mu.Unlock()
	if again {
		if r := c.ask(ctx, k, last); r.Err == nil {
			return r
		}
	}
	return known
}
