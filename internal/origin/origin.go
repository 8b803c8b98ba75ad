// Package origin decides whether a connection comes from the domain that its
// client's certificate names.
//
// An address is compared with what the domain's operator, or ours, says of it:
// address records, a published record (package egress), prefixes, or the name that
// the address itself has. There are three outcomes. "Does not match" is what DNS
// said; "unknown" is that DNS said nothing to rely on.
package origin

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// Spec says where connections may come from. Any one of its ways is enough. All
// names are canonical. It is not changed once it is in use.
type Spec struct {
	Off       bool           // from anywhere
	Hosts     []string       // whose address records count
	Prefixes  []netip.Prefix // that need no lookup
	Published bool           // what the domain publishes counts
	Suffixes  []string       // under which the name of the address may lie

	RequireDNSSEC bool           // answers that are not authenticated are none
	ReportOnly    bool           // for whoever uses the finding
	Allow         []netip.Prefix // special-use networks that are welcome
	Window        time.Duration  // for which earlier addresses of a name count
}

// Stated reports whether the Spec names a way, rather than leaving it to the
// domain of the rule.
func (s *Spec) Stated() bool {
	return s.Off || s.Published || len(s.Hosts)+len(s.Prefixes)+len(s.Suffixes) > 0
}

// An Outcome is the result of a check. Its zero value is Unknown.
type Outcome int

// The outcomes, and Off, which is that of a Spec that is off.
const (
	Unknown Outcome = iota
	Match
	Mismatch
	Off
)

// A Way is how an address was compared.
type Way string

// The ways.
const (
	Forward   Way = "forward"
	Prefix    Way = "prefix"
	Published Way = "published"
	Reverse   Way = "reverse"
)

// Query is one connection and the rule that it is for.
type Query struct {
	Spec   *Spec
	Rule   string // its name
	Domain string // that the certificate holds; may be empty or a wildcard
	Listed string // the domain of the rule that it matched, where it is not the same: a wildcard
	// Peer and Local are the ends of the connection, canonical. The zero Addr is
	// an address that is not known.
	Peer, Local netip.Addr
	Remote      string // what the connection says where Peer is not known
}

// Finding is the result of a check.
type Finding struct {
	Outcome Outcome
	Way     Way       // that matched; else empty
	Expires time.Time // until when a match stands; zero: as long as the rule
	Stale   bool      // it rests on earlier answers, because DNS fails

	peer    netip.Addr
	prefix  netip.Prefix // that matched
	deps    answers      // that a match rests on
	why     string       // where nothing was looked up
	asked   []asked      // what did not match
	earlier bool         // it rests on an answer within Spec.Window
	began   time.Time    // zero: everything was known
	patient bool         // there was time to wait when the check began
}

// answers are the results that a match rests on, without a piece of memory for
// them: a TXT or PTR record and an address.
type answers struct {
	list [2]lookup
	n    int
}

type lookup struct {
	name   string
	typ    dnsclient.Type
	result *dnscache.Result
}

func (a answers) with(l lookup) answers {
	a.list[a.n] = l
	a.n++
	return a
}

func (a answers) all() []lookup { return a.list[:a.n] }

// Deps returns the answers that the match rests on: when one of them is
// superseded, it is to be decided anew.
func (f *Finding) Deps() []*dnscache.Result {
	var deps []*dnscache.Result
	for _, l := range f.deps.all() {
		deps = append(deps, l.result)
	}
	return deps
}

const (
	// Matches that are used although DNS fails.
	staleAge   = time.Hour        // after the answer
	staleTTL   = 30 * time.Second // how long such a match counts
	maxMatches = 16384
)

// ErrWait is the cause of a context in which we have waited long enough.
var ErrWait = errors.New("no answer in time")

// Checker compares addresses with domains. It is safe for concurrent use.
type Checker struct {
	dns   *dnscache.Cache
	now   func() time.Time
	own   []netip.Prefix
	fresh *lru.Cache[matchKey, *kept] // answers that matched while they lived
	noted [1024]atomic.Pointer[note]  // the last matches, to be found quickly
}

// matchKey identifies an origin that matched: only the same rule, name and address
// may rely on it when DNS fails later.
type matchKey struct {
	rule string
	way  Way
	name string
	addr netip.Addr
}

// kept are the answers of a match in Checker.fresh, and whether others have displaced
// it there.
type kept struct {
	answers
	gone atomic.Bool
}

// New returns a Checker. Our own networks match nothing.
func New(dns *dnscache.Cache, own []netip.Prefix, now func() time.Time) *Checker {
	fresh, err := lru.NewWithEvict(maxMatches, func(_ matchKey, k *kept) { k.gone.Store(true) })
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Checker{dns: dns, own: own, now: now, fresh: fresh}
}

// Check compares the peer's address with the Spec.
func (c *Checker) Check(ctx context.Context, q Query) (f Finding) {
	s := q.Spec
	f.peer = q.Peer
	switch {
	case s.Off:
		f.Outcome = Off
		return f
	case !q.Peer.IsValid():
		f.why = "the peer's address is not known: set ConnContext: guard.ConnContext in the http.Server (Guard.Server does)"
		if q.Remote != "" {
			f.why = "the peer's address is not known: it is " + dnsname.Quote(q.Remote)
		}
		return f
	case ipaddr.Contains(c.own, q.Peer) || q.Peer == q.Local && !ipaddr.SpecialUse(q.Peer):
		f.Outcome, f.why = Mismatch, "an address of our own"
		return f
	}
	for _, p := range s.Prefixes {
		if ipaddr.Holds(p, q.Peer) {
			f.Outcome, f.Way, f.prefix = Match, Prefix, p
			return f
		}
	}
	hosts := s.Hosts
	var domain [1]string
	if !s.Stated() && q.Domain != "" && !dnsname.IsWildcard(q.Domain) {
		domain[0] = q.Domain
		hosts = domain[:]
	}
	if len(hosts)+len(s.Suffixes) == 0 && !s.Published {
		f.Outcome, f.Way, f.why = Mismatch, Prefix, "in none of the prefixes"
		return f
	}
	if !c.welcome(s, q.Peer) {
		f.Outcome, f.why = Mismatch, "a special-use address: name its network in Origin.AllowNetworks or Origin.Prefixes if it is welcome"
		return f
	}
	if c.again(&q, &f) {
		return f
	}
	f.patient = ctx.Err() == nil
	// One way that is known to match need not wait for the others.
	if c.ways(ctx, &q, hosts, have, &f); f.Outcome == Match {
		return f
	}
	// It may be a partner who has just moved, so that each name is asked for once more
	// if its answer is older than 10 s.
	if c.ways(ctx, &q, hosts, get, &f); f.Outcome != Match {
		c.ways(ctx, &q, hosts, requery, &f)
	}
	return f
}

// welcome reports whether an address may match a name: it is globally reachable,
// or the operator allowed its network. A partner's DNS could otherwise point at
// machines of ours.
func (c *Checker) welcome(s *Spec, a netip.Addr) bool {
	return !ipaddr.SpecialUse(a) || ipaddr.Contains(s.Allow, a)
}

// mode is how a name is looked up.
type mode int

const (
	have    mode = iota // what is known at once
	get                 // and wait for the rest
	requery             // and doubt what is older than a few seconds
)

// errPending stands for a lookup that is not waited for.
var errPending = errors.New("not looked up yet")

func (c *Checker) lookup(ctx context.Context, m mode, name string, t dnsclient.Type) *dnscache.Result {
	switch m {
	case requery:
		return c.dns.Requery(ctx, name, t)
	case have:
		if r, ok := c.dns.Have(name, t); ok {
			return r
		}
		return &dnscache.Result{Err: errPending}
	}
	return c.dns.Get(ctx, name, t)
}

// gather looks names up side by side.
func (c *Checker) gather(ctx context.Context, m mode, list []lookup) {
	if m == have || len(list) == 1 {
		for i, l := range list {
			list[i].result = c.lookup(ctx, m, l.name, l.typ)
		}
		return
	}
	var wg sync.WaitGroup
	for i, l := range list {
		wg.Go(func() { list[i].result = c.lookup(ctx, m, l.name, l.typ) })
	}
	wg.Wait()
}
