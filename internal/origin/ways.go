package origin

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/egress"
	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// Bounds of the lookup of an address.
const maxReverse = 5 // names of it that are looked up

// ways tries the ways that ask DNS, once.
func (c *Checker) ways(ctx context.Context, q *Query, hosts []string, m mode, f *Finding) {
	f.Outcome = Mismatch
	if m != have {
		f.asked, f.began = nil, c.now()
	}
	family := dnsclient.A
	if q.Peer.Is6() {
		family = dnsclient.AAAA
	}
	text, pointer := "", ""
	if q.Spec.Published && q.Domain != "" {
		text = egress.Name(cmp.Or(q.Listed, q.Domain))
	}
	if len(q.Spec.Suffixes) > 0 {
		pointer = dnsclient.ReverseName(q.Peer)
	}
	if q.Spec.Window > 0 {
		for _, host := range hosts {
			c.dns.Remember(host, family, q.Spec.Window)
		}
	}
	if len(hosts) == 1 && text == "" && pointer == "" {
		c.forward(ctx, q, f, m, lookup{hosts[0], family, c.lookup(ctx, m, hosts[0], family)})
		return
	}
	list := make([]lookup, 0, len(hosts)+2)
	for _, host := range hosts {
		list = append(list, lookup{name: host, typ: family})
	}
	if text != "" {
		list = append(list, lookup{name: text, typ: dnsclient.TXT})
	}
	if pointer != "" {
		list = append(list, lookup{name: pointer, typ: dnsclient.PTR})
	}
	c.gather(ctx, m, list)
	for _, l := range list {
		matched := false
		switch l.typ {
		case dnsclient.TXT:
			matched = c.published(ctx, q, f, m, l, family)
		case dnsclient.PTR:
			matched = c.reverse(ctx, q, f, m, l, family)
		default:
			matched = c.forward(ctx, q, f, m, l)
		}
		if matched {
			return
		}
	}
}

// forward: the peer has an address of the host.
func (c *Checker) forward(ctx context.Context, q *Query, f *Finding, m mode, l lookup) bool {
	key := matchKey{q.Rule, Forward, l.name, q.Peer}
	if !c.usable(q, l) {
		return c.stale(ctx, q, f, m, key, l)
	}
	if holds(l.result, q.Peer) {
		return c.match(q, f, key, answers{}.with(l))
	}
	if c.earlier(q, f, key, l) {
		return true
	}
	f.say(l, Mismatch, "")
	return false
}

// published: the domain's record has the peer's address, or a name that has it.
func (c *Checker) published(ctx context.Context, q *Query, f *Finding, m mode, l lookup, family dnsclient.Type) bool {
	key := matchKey{q.Rule, Published, l.name, q.Peer}
	if !c.usable(q, l) {
		return c.stale(ctx, q, f, m, key, l)
	}
	record, err := egress.Find(l.result.Answer.Texts)
	switch {
	case errors.Is(err, egress.ErrAbsent):
		f.say(l, Mismatch, err.Error())
		return false
	case err != nil:
		// What the domain says now is not known; what it said before is past.
		f.say(l, Unknown, "an invalid record: "+err.Error())
		return false
	}
	if ipaddr.Contains(record.Prefixes, q.Peer) {
		return c.match(q, f, key, answers{}.with(l))
	}
	f.say(l, Mismatch, "")
	return c.behind(ctx, q, f, m, key, l, record.Names, family)
}

// reverse: the peer's address has a name under one of the suffixes, which has this
// address. Whoever holds an address may give it any name, so that the name proves
// nothing until it points back.
func (c *Checker) reverse(ctx context.Context, q *Query, f *Finding, m mode, l lookup, family dnsclient.Type) bool {
	key := matchKey{q.Rule, Reverse, l.name, q.Peer}
	if !c.usable(q, l) {
		return c.stale(ctx, q, f, m, key, l)
	}
	var names []string
	for _, name := range l.result.Answer.Names {
		if len(names) < maxReverse && underAny(name, q.Spec.Suffixes) {
			names = append(names, name)
		}
	}
	f.say(l, Mismatch, "")
	return c.behind(ctx, q, f, m, key, l, names, family)
}

func underAny(name string, suffixes []string) bool {
	return slices.ContainsFunc(suffixes, func(suffix string) bool { return under(name, suffix) })
}

// under reports whether a name lies under a suffix, whole labels, within one
// owner's domain: parts of "example.cloud" that the public suffix list gives to
// the provider's customers are not the provider's.
func under(name, suffix string) bool {
	if !dnsname.InSubtree(name, suffix) {
		return false
	}
	public, _ := publicsuffix.PublicSuffix(name)
	return len(public) < len(suffix)
}

// behind compares the peer with the addresses of names that the answer to first
// names.
func (c *Checker) behind(ctx context.Context, q *Query, f *Finding, m mode, key matchKey, first lookup, names []string, family dnsclient.Type) bool {
	list := make([]lookup, len(names))
	for i, name := range names {
		list[i] = lookup{name: name, typ: family}
	}
	if len(list) > 0 {
		c.gather(ctx, m, list)
	}
	for _, l := range list {
		if !c.usable(q, l) {
			if c.stale(ctx, q, f, m, key, l) {
				return true
			}
			continue
		}
		if holds(l.result, q.Peer) {
			return c.match(q, f, key, answers{}.with(first).with(l))
		}
		f.say(l, Mismatch, "")
	}
	return false
}

// holds reports whether an answer has the address.
func holds(r *dnscache.Result, a netip.Addr) bool {
	_, ok := slices.BinarySearchFunc(r.Answer.Addrs, a, netip.Addr.Compare)
	return ok
}

// usable reports whether an answer says something to rely on.
func (c *Checker) usable(q *Query, l lookup) bool {
	return l.result.Err == nil && (!q.Spec.RequireDNSSEC || l.result.Answer.Authenticated)
}

const notAuthenticated = "the answer is not authenticated, which RequireDNSSEC demands: its zone must be signed, and the resolver must validate and be trusted (DNSServer.TrustAD)"

// match notes that the peer matched, and on what.
func (c *Checker) match(q *Query, f *Finding, key matchKey, deps answers) bool {
	f.Outcome, f.Way, f.deps = Match, key.way, deps
	f.Expires = deps.list[0].result.Expires
	for _, l := range deps.all() {
		if l.result.Expires.Before(f.Expires) {
			f.Expires = l.result.Expires
		}
	}
	k := &kept{answers: deps}
	c.fresh.Add(key, k)
	c.noted[spread(q.Peer)].Store(&note{q.Spec, q.Domain, q.Listed, key, k, f.Expires})
	return true
}

// note is a match, and all that it depends on.
type note struct {
	spec    *Spec
	domain  string
	listed  string
	key     matchKey
	kept    *kept
	expires time.Time
}

// again finds a match of the same query that rests on answers that are still those
// in memory.
func (c *Checker) again(q *Query, f *Finding) bool {
	n := c.noted[spread(q.Peer)].Load()
	if n == nil || n.kept.gone.Load() || n.spec != q.Spec || n.key.addr != q.Peer || n.domain != q.Domain || n.listed != q.Listed || n.key.rule != q.Rule {
		return false
	}
	now := c.now()
	for i := range n.kept.n {
		l := &n.kept.list[i]
		if r, ok := c.dns.HaveAt(now, l.name, l.typ); !ok || r != l.result {
			return false
		}
	}
	f.Outcome, f.Way, f.deps, f.Expires = Match, n.key.way, n.kept.answers, n.expires
	return true
}

// spread is the place of an address in noted. Two that share one are only slower.
func spread(a netip.Addr) uint64 {
	const odd = 0x9e3779b97f4a7c15
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) * odd >> 54
	}
	b := a.As16()
	return (binary.BigEndian.Uint64(b[:8]) ^ binary.BigEndian.Uint64(b[8:])) * odd >> 54
}

// stale is for an answer that is not usable: what matched before counts for a while,
// of the same rule, name and address.
func (c *Checker) stale(ctx context.Context, q *Query, f *Finding, m mode, key matchKey, l lookup) bool {
	why := notAuthenticated
	if l.result.Err != nil {
		why = l.result.Err.Error()
		if old, ok := c.fresh.Get(key); ok && c.stands(ctx, q, f, m, key, old.answers, l) {
			f.Outcome, f.Way, f.deps, f.Stale = Match, key.way, old.answers, true
			f.Expires = c.now().Add(staleTTL)
			f.why = why
			return true
		}
	}
	f.say(l, Unknown, why)
	return false
}

// stands reports whether earlier answers may be used although l is not to be had: l is
// in the place of one of them, DNS has failed wherever one has lapsed, has said nothing
// else since (Superseded), nor anything that may be forged (Doubted). The failure of
// one name says nothing of another, which may have moved: each that is not known is
// asked for.
func (c *Checker) stands(ctx context.Context, q *Query, f *Finding, m mode, key matchKey, old answers, l lookup) bool {
	now := c.now()
	behind := false
	for i, d := range old.all() {
		r := d.result
		if now.Sub(r.At) > staleAge || q.Spec.RequireDNSSEC && !r.Answer.Authenticated {
			return false
		}
		// The suffixes may have been others when it matched.
		if key.way == Reverse && i > 0 && !underAny(d.name, q.Spec.Suffixes) {
			return false
		}
		current := l.result
		if d.name == l.name && d.typ == l.typ {
			behind = true
		} else {
			current = c.lookup(ctx, m, d.name, d.typ)
		}
		if current.Err != nil && !f.failed(current, i == 0) || r.Superseded() || r.Doubted() {
			return false
		}
	}
	return behind
}

// failed reports whether DNS has failed, or has not answered for as long as we wait. A
// client that gives up must not turn "don't know" into a match; nor one that fills the
// places for look-ups (ErrBusy) by names that it gives to its addresses; nor one whose
// name servers leave no time for the second question.
func (f *Finding) failed(r *dnscache.Result, first bool) bool {
	return r.Failed() || first && f.patient && errors.Is(r.Err, ErrWait)
}

// earlier: the host had the address within Spec.Window.
func (c *Checker) earlier(q *Query, f *Finding, key matchKey, l lookup) bool {
	r, ok := c.dns.Seen(l.name, l.typ, q.Spec.Window, q.Peer)
	if !ok || q.Spec.RequireDNSSEC && !r.Answer.Authenticated {
		return false
	}
	f.Outcome, f.Way, f.deps, f.earlier = Match, key.way, answers{}.with(lookup{l.name, l.typ, r}), true
	// The answer that counts now is asked for again when it lapses: one without any
	// address ends the window.
	f.Expires = r.Expires
	if l.result.Expires.Before(f.Expires) {
		f.Expires = l.result.Expires
	}
	return true
}

// say notes what did not match. The first answer that says nothing makes the
// whole unknown.
func (f *Finding) say(l lookup, o Outcome, text string) {
	if o == Unknown {
		f.Outcome = Unknown
	}
	f.asked = append(f.asked, asked{l, o, text})
}

type asked struct {
	lookup
	outcome Outcome
	text    string // in place of what the answer has
}
