// Package dnscache keeps DNS answers until they lapse.
//
// A lookup is shared by all who wait for it and goes on when they leave, so a
// slow server costs a caller no more than its own patience, and the next caller
// nothing. Answers in use are asked for again before they lapse; failures are
// kept for a while, so that a dead server is not stormed.
package dnscache

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/net/publicsuffix"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
)

// LookupFunc asks for the addresses of a name. An error means "don't know",
// never "no". A panic counts as an error.
type LookupFunc func(ctx context.Context, name string, t dnsclient.Type) (dnsclient.Answer, error)

// Options configure a Cache. Lookup is required.
type Options struct {
	Lookup LookupFunc
	Now    func() time.Time // nil: time.Now

	// Bounds on how long an answer with addresses is kept. Zero: 30 s and 15
	// min. The floor keeps a TTL of zero from making every request a query; the
	// ceiling bounds how long a partner's former address passes for the partner.
	MinTTL, MaxTTL time.Duration
	// Bounds on how long an answer without addresses is kept. Zero: 5 s and 60 s.
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
)

// Result is an answer or the reason why there is none, and how long either
// stands. Its fields are never changed after it was handed out, and are not for
// others to change. The zero value is an answer without addresses that has
// lapsed.
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

	minTTL, maxTTL, minNegative, maxNegative time.Duration

	mu      sync.Mutex
	entries *simplelru.LRU[key, *entry]
	flights map[key]*flight
	domains map[string]int // of the flights, how many of each registrable domain
}

// flight is the lookup of a key, the only one at its time.
type flight struct {
	done   chan struct{} // closed at the end
	result *Result       // once done
}

type key struct {
	name string
	t    dnsclient.Type
}

// entry is what is known about a key. Guarded by Cache.mu.
type entry struct {
	answer    *Result   // the last answer; may have lapsed
	failure   *Result   // a failure since then, which stands while backing off
	failures  int       // in a row
	used      bool      // since the last answer
	requeried time.Time // when a caller last doubted the answer
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
		flights:     map[key]*flight{},
		domains:     map[string]int{},
	}
	if c.now == nil {
		c.now = time.Now
	}
	// A forgotten answer can no longer be superseded by the next one, so it is at
	// once.
	forget := func(_ key, e *entry) {
		if e.answer != nil {
			e.answer.superseded.Store(true)
		}
	}
	c.entries, _ = simplelru.NewLRU(orDefault(o.Size, 4096), forget) // fails only for a size below one
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
	k := key{name, t}
	c.mu.Lock()
	e, ok := c.entries.Get(k)
	if !ok {
		c.mu.Unlock()
		return c.ask(ctx, k, nil)
	}
	now := c.now()
	known, last := e.known(now), e.last()
	if e.live(now) {
		e.used = true
		if due, ok := e.due(now); ok && !due.After(now) {
			c.start(k)
		}
	}
	c.mu.Unlock()
	if known == nil {
		return c.ask(ctx, k, last)
	}
	return known
}

// Peek returns what Get would return at once. It does not count as use, keep
// the name in memory or start a lookup, so that it is fit for peers who have
// proved nothing yet.
func (c *Cache) Peek(name string, t dnsclient.Type) (*Result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries.Peek(key{name, t})
	if !ok {
		return nil, false
	}
	r := e.known(c.now())
	return r, r != nil
}

// Requery is Get for a caller whose peer is not at the addresses known, and who
// gives the partner the benefit of a recent move: it asks again if the answer is
// older than 10 s and nobody has done so in the last 10 s, which no number of
// wrong peers can exceed. If that fails, the answer in memory stands.
func (c *Cache) Requery(ctx context.Context, name string, t dnsclient.Type) *Result {
	k := key{name, t}
	c.mu.Lock()
	e, ok := c.entries.Get(k)
	now := c.now()
	if !ok || !e.live(now) {
		c.mu.Unlock()
		return c.Get(ctx, name, t)
	}
	e.used = true
	known, last := e.answer, e.last()
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

// known returns what stands now: a live answer, else a failure while backing
// off, else nil. A failure never takes the place of a live answer.
func (e *entry) known(now time.Time) *Result {
	if e.live(now) {
		return e.answer
	}
	if e.backingOff(now) {
		return e.failure
	}
	return nil
}

func (e *entry) live(now time.Time) bool {
	return e.answer != nil && now.Before(e.answer.Expires)
}

func (e *entry) backingOff(now time.Time) bool {
	return e.failure != nil && now.Before(e.failure.Expires)
}

// last returns what arrived last.
func (e *entry) last() *Result {
	if e.failure != nil {
		return e.failure
	}
	return e.answer
}

// due returns when a live answer is to be asked for again: at four fifths of its
// life, or after the backoff of an attempt that failed.
func (e *entry) due(now time.Time) (time.Time, bool) {
	if !e.live(now) {
		return time.Time{}, false
	}
	due := e.answer.At.Add(e.answer.Expires.Sub(e.answer.At) / 5 * 4)
	if e.failure != nil && due.Before(e.failure.Expires) {
		due = e.failure.Expires
	}
	return due, true
}

// ask starts or joins the lookup of k and waits for it until ctx is done. If
// something has arrived that the caller, who knows of seen, has not seen, it is
// that.
func (c *Cache) ask(ctx context.Context, k key, seen *Result) *Result {
	c.mu.Lock()
	if r := c.newer(k, seen); r != nil {
		c.mu.Unlock()
		return r
	}
	f := c.start(k)
	c.mu.Unlock()
	if f == nil {
		return c.nothing(ErrBusy)
	}
	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
		return c.nothing(fmt.Errorf("waiting for the DNS lookup of %s: %w", dnsname.Quote(k.name), context.Cause(ctx)))
	}
}

// nothing is the result of a lookup that was not made or not waited for.
func (c *Cache) nothing(err error) *Result {
	now := c.now()
	return &Result{Err: err, At: now, Expires: now}
}

// start starts or joins the lookup of k, or returns nil where there is no place
// for it. c.mu is held.
func (c *Cache) start(k key) *flight {
	if f := c.flights[k]; f != nil {
		return f
	}
	if len(c.flights) >= c.most {
		return nil
	}
	domain := registrable(k.name)
	if c.domains[domain] >= maxOfDomain {
		return nil
	}
	f := &flight{done: make(chan struct{})}
	c.flights[k] = f
	c.domains[domain]++
	go c.fly(k, domain, f)
	return f
}

// registrable is the registrable domain of a name, or the name itself where there
// is none.
func registrable(name string) string {
	if domain, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return domain
	}
	return name
}

// fly makes the lookup.
func (c *Cache) fly(k key, domain string, f *flight) {
	var answer dnsclient.Answer
	err := errEnded
	defer func() { // even if a caller's Lookup ends the goroutine
		c.mu.Lock()
		if err != nil {
			f.result = c.keepFailure(k, err)
		} else {
			f.result = c.keepAnswer(k, answer)
		}
		delete(c.flights, k)
		if c.domains[domain]--; c.domains[domain] == 0 {
			delete(c.domains, domain)
		}
		c.mu.Unlock()
		close(f.done)
	}()
	// Not the caller's context: the answer is for everybody.
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	answer, err = c.safeLookup(ctx, k)
}

// safeLookup turns a panic into an error: it is in no request's goroutine, so
// it would end the process.
func (c *Cache) safeLookup(ctx context.Context, k key) (answer dnsclient.Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the DNS lookup of %s: %s", dnsname.Quote(k.name), dnsname.Quote(fmt.Sprint(p)))
		}
	}()
	return c.lookup(ctx, k.name, k.t)
}

// newer returns what arrived last, if it stands and is not what was seen. c.mu is
// held.
func (c *Cache) newer(k key, seen *Result) *Result {
	e, ok := c.entries.Peek(k)
	if !ok {
		return nil
	}
	r := e.last()
	if r == seen || !c.now().Before(r.Expires) {
		return nil
	}
	return r
}

// keepAnswer and keepFailure note what a lookup brought. c.mu is held.
func (c *Cache) keepAnswer(k key, a dnsclient.Answer) *Result {
	a.Addrs = slices.Clone(a.Addrs)
	slices.SortFunc(a.Addrs, netip.Addr.Compare) // servers rotate them; the content is the same
	ttl := min(max(a.TTL, c.minTTL), c.maxTTL)
	if len(a.Addrs) == 0 {
		ttl = min(max(a.TTL, c.minNegative), c.maxNegative)
	}
	now := c.now()
	r := &Result{Answer: a, At: now, Expires: now.Add(ttl), superseded: new(atomic.Bool), doubted: new(atomic.Bool)}
	e := c.entry(k)
	if old := e.answer; old != nil {
		if sameContent(old.Answer, a) {
			r.superseded = old.superseded
			if !old.Doubted() {
				r.doubted = old.doubted
			}
		} else {
			old.superseded.Store(true)
		}
	}
	e.answer, e.failure, e.failures, e.used = r, nil, 0, false
	return r
}

func (c *Cache) keepFailure(k key, err error) *Result {
	e := c.entry(k)
	backoff := min(minBackoff<<min(e.failures, 5), maxBackoff)
	e.failures++
	now := c.now()
	if e.answer != nil && errors.Is(err, dnsclient.ErrBogus) {
		e.answer.doubted.Store(true)
	}
	e.failure = &Result{Err: err, At: now, Expires: now.Add(backoff)}
	return e.failure
}

// entry returns the entry of k, and makes one if there is none.
func (c *Cache) entry(k key) *entry {
	e, ok := c.entries.Peek(k)
	if !ok {
		e = new(entry)
		c.entries.Add(k, e)
	}
	return e
}

// sameContent reports whether a decision made on one answer holds on the other.
func sameContent(a, b dnsclient.Answer) bool {
	return a.Authenticated == b.Authenticated && a.NXDomain == b.NXDomain && slices.Equal(a.Addrs, b.Addrs)
}
