package dnscache

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/ipaddr"
)

const (
	maxWindow = time.Hour
	maxPast   = 512 // addresses of past answers to a key
)

// memory is which addresses were in the answers to a key. DNS may name a few
// addresses of a large pool at a time, all of which are the partner's.
type memory struct {
	window atomic.Int64 // of time.Duration; zero: nobody has asked
	seen   map[netip.Addr]sighting
}

// sighting is the last time that an address was in an answer.
type sighting struct {
	at            time.Time
	authenticated bool
	over          *atomic.Bool // shared like Result.superseded
}

// Remember makes the cache remember for so long, at most an hour, which addresses
// were in the answers for a name, beginning with the present one: the 512 that
// were last in an answer. It lasts until the name is forgotten, so it is to be
// called before every use of the name; it then costs next to nothing.
func (c *Cache) Remember(name string, t dnsclient.Type, window time.Duration) {
	k := Key{name, t}
	if e := c.index.find(k); window <= 0 || e != nil && e.past.holds(window) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remember(k, window)
}

// remember is Remember for a positive window. c.mu is held.
func (c *Cache) remember(k Key, window time.Duration) *entry {
	e := c.entry(k)
	if e.past.holds(window) {
		return e
	}
	e.past.window.Store(int64(min(window, maxWindow)))
	if r := e.answer.Load(); r != nil && !r.Doubted() {
		e.past.note(r)
	}
	return e
}

// Seen returns the last answer for a name in which the address was, if it arrived
// less than window ago or still lives: the live answer itself where that lasts
// longer, else one with this address only, which Expires when the window is over.
// The latter is superseded as soon as DNS says that there are no records, validation
// fails (ErrBogus), a later answer has the address with another AD bit, or the
// memory of it ends. Seen makes no lookup. It implies Remember.
func (c *Cache) Seen(name string, t dnsclient.Type, window time.Duration, addr netip.Addr) (*Result, bool) {
	if window <= 0 {
		return nil, false
	}
	addr = ipaddr.Canonical(addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.remember(Key{name, t}, window)
	s, ok := e.past.seen[addr]
	if !ok {
		return nil, false
	}
	now, until := c.now(), s.at.Add(min(window, maxWindow))
	if r := e.answer.Load(); e.live(now) && until.Before(r.Expires) && has(r.Answer, addr) {
		return r, true
	}
	if !now.Before(until) {
		return nil, false
	}
	return &Result{
		Answer: dnsclient.Answer{Addrs: []netip.Addr{addr}, Authenticated: s.authenticated},
		At:     s.at, Expires: until, superseded: s.over,
	}, true
}

// has reports whether a canonical address is in an answer.
func has(a dnsclient.Answer, addr netip.Addr) bool {
	return slices.ContainsFunc(a.Addrs, func(x netip.Addr) bool { return ipaddr.Canonical(x) == addr })
}

// holds reports whether answers are remembered for so long.
func (m *memory) holds(window time.Duration) bool {
	return m.window.Load() >= int64(min(window, maxWindow))
}

// note remembers the addresses of an answer that has just arrived.
func (m *memory) note(r *Result) {
	window := time.Duration(m.window.Load())
	if window == 0 {
		return
	}
	if noRecords(r.Answer) || r.Answer.NXDomain {
		m.end()
		return
	}
	if m.seen == nil {
		m.seen = map[netip.Addr]sighting{}
	}
	for _, a := range r.Answer.Addrs {
		a = ipaddr.Canonical(a)
		s := sighting{r.At, r.Answer.Authenticated, new(atomic.Bool)}
		if old, ok := m.seen[a]; ok && old.authenticated == s.authenticated {
			s.over = old.over
		} else if ok {
			old.over.Store(true)
		}
		m.seen[a] = s
	}
	for a, s := range m.seen {
		if r.At.Sub(s.at) >= window {
			m.drop(a)
		}
	}
	m.shrink()
}

// shrink drops the addresses that were not in an answer for longest.
func (m *memory) shrink() {
	excess := len(m.seen) - maxPast
	if excess <= 0 {
		return
	}
	addrs := make([]netip.Addr, 0, len(m.seen))
	for a := range m.seen {
		addrs = append(addrs, a)
	}
	slices.SortFunc(addrs, func(a, b netip.Addr) int {
		return cmp.Or(m.seen[a].at.Compare(m.seen[b].at), a.Compare(b))
	})
	for _, a := range addrs[:excess] {
		m.drop(a)
	}
}

func (m *memory) drop(a netip.Addr) {
	m.seen[a].over.Store(true)
	delete(m.seen, a)
}

// end drops all: the addresses are not the partner's, or may never have been.
func (m *memory) end() {
	for a := range m.seen {
		m.drop(a)
	}
}
