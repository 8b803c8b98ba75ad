package dnscache

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/net/publicsuffix"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
)

// flight is the lookup of a key, the only one at its time.
type flight struct {
	done   chan struct{} // closed at the end
	result *Result       // once done
}

// ask starts or joins the lookup of k and waits for it until ctx is done. If
// something has arrived that the caller, who knows of seen, has not seen, it is
// that.
func (c *Cache) ask(ctx context.Context, k Key, seen *Result) *Result {
	c.mu.Lock()
	if r := c.newer(k, seen); r != nil {
		c.mu.Unlock()
		return r
	}
	f := c.start(k, c.most)
	c.mu.Unlock()
	if f == nil {
		return c.nothing(ErrBusy)
	}
	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
		return c.nothing(fmt.Errorf("waiting for the DNS lookup of %s: %w", dnsname.Quote(k.Name), context.Cause(ctx)))
	}
}

// nothing is the result of a lookup that was not made or not waited for.
func (c *Cache) nothing(err error) *Result {
	now := c.now()
	return &Result{Err: err, At: now, Expires: now}
}

// start starts or joins the lookup of k, or returns nil where there is no place
// for it: of all lookups, at most so many are under way then. c.mu is held.
func (c *Cache) start(k Key, most int) *flight {
	if f := c.flights[k]; f != nil {
		return f
	}
	if len(c.flights) >= most {
		return nil
	}
	domain := registrable(k.Name)
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
// is none. To the public suffix list a /8 of IPv4 and a sixteenth of all of IPv6 would
// be the domain of an address's name: a /16 and a /32 are.
func registrable(name string) string {
	for suffix, labels := range map[string]int{".in-addr.arpa": 2, ".ip6.arpa": 8} {
		if address, ok := strings.CutSuffix(name, suffix); ok {
			parts := strings.Split(address, ".")
			return strings.Join(parts[max(len(parts)-labels, 0):], ".") + suffix
		}
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return domain
	}
	return name
}

// fly makes the lookup.
func (c *Cache) fly(k Key, domain string, f *flight) {
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
func (c *Cache) safeLookup(ctx context.Context, k Key) (answer dnsclient.Answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the DNS lookup of %s: %s", dnsname.Quote(k.Name), dnsname.Quote(fmt.Sprint(p)))
		}
	}()
	return c.lookup(ctx, k.Name, k.Type)
}

// newer returns what arrived last, if it stands and is not what was seen. c.mu is
// held.
func (c *Cache) newer(k Key, seen *Result) *Result {
	e := c.index.find(k)
	if e == nil {
		return nil
	}
	r := e.last()
	if r == nil || r == seen || !c.now().Before(r.Expires) {
		return nil
	}
	return r
}

// keepAnswer and keepFailure note what a lookup brought. c.mu is held.
func (c *Cache) keepAnswer(k Key, a dnsclient.Answer) *Result {
	// Servers rotate records; the content is the same.
	a.Addrs, a.Texts, a.Names = slices.Clone(a.Addrs), slices.Clone(a.Texts), slices.Clone(a.Names)
	slices.SortFunc(a.Addrs, netip.Addr.Compare)
	slices.Sort(a.Texts)
	slices.Sort(a.Names)
	ttl := min(max(a.TTL, c.minTTL), c.maxTTL)
	if noRecords(a) {
		ttl = min(max(a.TTL, c.minNegative), c.maxNegative)
	}
	now := c.now()
	r := &Result{Answer: a, At: now, Expires: now.Add(ttl), superseded: new(atomic.Bool), doubted: new(atomic.Bool)}
	e := c.entry(k)
	old := e.answer.Load()
	same := old != nil && sameContent(old.Answer, a)
	if same {
		r.superseded = old.superseded
		if !old.Doubted() {
			r.doubted = old.doubted
		}
	}
	e.failure, e.failures, e.used = nil, 0, false
	e.past.note(r)
	e.idleUntil.Store(0)
	e.answer.Store(r)
	if old != nil && !same { // last: whoever sees it finds the new answer
		old.superseded.Store(true)
	}
	return r
}

func (c *Cache) keepFailure(k Key, err error) *Result {
	e := c.entry(k)
	backoff := min(minBackoff<<min(e.failures, 5), maxBackoff)
	e.failures++
	now := c.now()
	if errors.Is(err, dnsclient.ErrBogus) {
		if r := e.answer.Load(); r != nil {
			r.doubted.Store(true)
		}
		e.past.end()
	}
	e.failure = &Result{Err: err, At: now, Expires: now.Add(backoff)}
	return e.failure
}

// noRecords reports whether an answer says that there are none.
func noRecords(a dnsclient.Answer) bool { return len(a.Addrs)+len(a.Texts)+len(a.Names) == 0 }

// sameContent reports whether a decision made on one answer holds on the other.
func sameContent(a, b dnsclient.Answer) bool {
	return a.Authenticated == b.Authenticated && a.NXDomain == b.NXDomain &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Texts, b.Texts) && slices.Equal(a.Names, b.Names)
}
