package mtls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// Origin says where a client's connection must come from. Any one of its ways
// is enough. With none stated, the peer's address must be among the A or AAAA
// records of the domain that the rule matched. Stating one replaces that lookup.
type Origin struct {
	// Hosts are names to look up instead of the domain: the partner's egress.
	// At most 10.
	Hosts []string
	// Prefixes are addresses that need no lookup.
	Prefixes []netip.Prefix
	// AllowNetworks are special-use networks (private, loopback, link-local and
	// the like: RFC 6890) whose addresses are welcome as peers and in DNS
	// answers. Without it, such an address never matches a name: a partner's DNS
	// could otherwise point at machines of ours.
	AllowNetworks []netip.Prefix

	off bool
}

// NoOrigin returns the Origin that accepts connections from anywhere.
func NoOrigin() *Origin { return &Origin{off: true} }

// origin is the compiled form of an Origin.
type origin struct {
	off      bool
	hosts    []string // canonical
	prefixes []netip.Prefix
	allow    []netip.Prefix
}

// stated reports whether the origin names a way, rather than leaving it to the
// domain of the rule.
func (o *origin) stated() bool { return o.off || len(o.hosts)+len(o.prefixes) > 0 }

// maxOriginHosts bounds the lookups of one decision (as RFC 7208 section 4.6.4
// does for SPF).
const maxOriginHosts = 10

func compileOrigin(o *Origin, field string) (*origin, error) {
	var failed problems
	c := &origin{off: o.off, prefixes: slices.Clone(o.Prefixes), allow: slices.Clone(o.AllowNetworks)}
	if o.off && len(o.Hosts)+len(o.Prefixes)+len(o.AllowNetworks) > 0 {
		failed.add(field, "", "NoOrigin with settings")
	}
	if len(o.Hosts) > maxOriginHosts {
		failed.add(field+".Hosts", fmt.Sprint(len(o.Hosts)), "more than %d", maxOriginHosts)
	}
	for i, h := range o.Hosts {
		name, err := dnsname.FromPolicy(h)
		if err == nil && dnsname.IsWildcard(name) {
			err = errors.New("a wildcard has no address")
		}
		if err != nil {
			failed = append(failed, &ConfigError{Field: fmt.Sprintf("%s.Hosts[%d]", field, i), Value: h, Problem: "not a host name", Err: err})
			continue
		}
		c.hosts = append(c.hosts, name)
	}
	for i, p := range o.Prefixes {
		// A mapped prefix such as ::ffff:0:0/96 is one of IPv4, here all of it.
		if !p.IsValid() || p.Bits() == 0 || p.Addr().Is4In6() && p.Bits() <= 96 {
			failed.add(fmt.Sprintf("%s.Prefixes[%d]", field, i), p.String(), "not a prefix, or all addresses: NoOrigin says that by name")
		}
	}
	for i, p := range o.AllowNetworks {
		if !p.IsValid() {
			failed.add(fmt.Sprintf("%s.AllowNetworks[%d]", field, i), p.String(), "not a prefix")
		}
	}
	return c, failed.err()
}

// A RecordType is a type of DNS record (RFC 1035 section 3.2.2).
type RecordType uint16

// Record types that a Resolver is asked for.
const (
	RecordA    = RecordType(dnsclient.A)
	RecordAAAA = RecordType(dnsclient.AAAA)
)

// An Answer is what DNS says of a name.
type Answer struct {
	// Addrs are the addresses. None, with a nil error: the name or the record
	// does not exist, which is a definite answer.
	Addrs []netip.Addr
	// TTL is how long the answer may be kept. A guard keeps it for 30 s at
	// least and 15 min at most (5 to 60 s where there are no addresses).
	TTL time.Duration
	// Authenticated is the AD bit (RFC 6840 section 5.7). It means something only
	// from a resolver that is trusted over a trusted path.
	Authenticated bool
	// NXDomain says that the name does not exist at all.
	NXDomain bool
}

// A Resolver looks names up. The name is absolute, in lower case and without
// the final dot: search domains must not be applied. Every error means "don't
// know"; that a name does not exist is an Answer. It is used concurrently and
// must respect the context.
type Resolver interface {
	Lookup(ctx context.Context, name string, t RecordType) (Answer, error)
}

// ErrBogus is wrapped by a Resolver's error where the answer failed DNSSEC
// validation. No earlier answer is then used in its place.
var ErrBogus = dnsclient.ErrBogus

// NewResolver returns a Resolver that asks the given recursive DNS servers, or
// those of /etc/resolv.conf if there are none: over UDP, and TCP where an
// answer is truncated. It uses neither search domains nor the hosts file. It
// reads nothing before the first lookup.
func NewResolver(servers ...netip.AddrPort) Resolver {
	return wireResolver{dnsclient.New(dnsclient.Options{Servers: slices.Clone(servers), Now: time.Now})}
}

type wireResolver struct{ client *dnsclient.Client }

func (w wireResolver) Lookup(ctx context.Context, name string, t RecordType) (Answer, error) {
	a, err := w.client.Lookup(ctx, name, dnsclient.Type(t))
	return Answer(a), err
}

// SystemResolver adapts a *net.Resolver, for programs that configure one. It is
// weaker than NewResolver: the hosts file is believed, TTLs are unknown (60 s
// are assumed) and so is whether DNSSEC validated anything.
func SystemResolver(r *net.Resolver) Resolver { return systemResolver{r} }

type systemResolver struct{ resolver *net.Resolver }

func (s systemResolver) Lookup(ctx context.Context, name string, t RecordType) (Answer, error) {
	network := "ip4"
	if t == RecordAAAA {
		network = "ip6"
	}
	const ttl = 60 * time.Second
	addrs, err := s.resolver.LookupNetIP(ctx, network, name+".")
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) && dnsErr.IsNotFound && !dnsErr.IsTemporary && !dnsErr.IsTimeout {
		return Answer{TTL: ttl}, nil
	}
	for i := range addrs {
		addrs[i] = ipaddr.Canonical(addrs[i])
	}
	return Answer{Addrs: addrs, TTL: ttl}, err
}

// originFinding is the result of an origin check.
type originFinding struct {
	outcome Outcome
	detail  string
	proofs  []Proof
	expires time.Time
	deps    []*dnscache.Result
}

// Origin answers that are used although DNS fails.
const (
	staleOrigin     = time.Hour        // after the answer
	staleOriginTTL  = 30 * time.Second // how long such a match counts
	maxFreshMatches = 16384
)

// errWait is the cause of a context whose Limits.Wait is over.
var errWait = errors.New("no answer in time")

// freshMatch identifies an origin that matched: only the same rule, name and
// address may rely on it when DNS fails later.
type freshMatch struct {
	rule, name string
	addr       netip.Addr
}

// checkOrigin compares the peer's address with the origin of the rule. Match,
// mismatch and "don't know" are three outcomes.
func (g *Guard) checkOrigin(ctx context.Context, m match, c *connInfo) originFinding {
	o := m.rule.origin
	if o == nil {
		o = g.origin
	}
	if o.off {
		return originFinding{outcome: OutcomeSkipped, detail: "NoOrigin"}
	}
	if c == nil || !c.peer.IsValid() {
		return originFinding{detail: "the peer's address is not known: set ConnContext: guard.ConnContext in the http.Server (Guard.Server does)"}
	}
	peer := c.peer
	if ipaddr.Contains(g.own, peer) || peer == c.local && !ipaddr.SpecialUse(peer) {
		return originFinding{outcome: OutcomeFail, detail: fmt.Sprintf("the connection comes from %s, an address of our own", peer)}
	}
	for _, p := range o.prefixes {
		if ipaddr.Contains([]netip.Prefix{p}, peer) {
			return originFinding{outcome: OutcomePass, detail: fmt.Sprintf("%s is in %s", peer, p),
				proofs: []Proof{{Kind: "prefix", Source: p.String(), Status: "match"}}}
		}
	}
	hosts := o.hosts
	if !o.stated() && m.domain != "" && !dnsname.IsWildcard(m.domain) {
		hosts = []string{m.domain}
	}
	if len(hosts) == 0 {
		return originFinding{outcome: OutcomeFail, detail: fmt.Sprintf("%s is in none of the prefixes %v", peer, o.prefixes)}
	}
	if !g.welcome(o, peer) {
		return originFinding{outcome: OutcomeFail, detail: fmt.Sprintf(
			"the connection comes from %s, a special-use address: name its network in Origin.AllowNetworks or Origin.Prefixes if it is welcome", peer)}
	}
	return g.checkHosts(ctx, m.rule.Name, hosts, o, peer)
}

// checkHosts looks the names up. A mismatch may be a partner who has just moved,
// so each name is asked for once more if its answer is older than 10 s.
func (g *Guard) checkHosts(ctx context.Context, rule string, hosts []string, o *origin, peer netip.Addr) originFinding {
	t := dnsclient.A
	if peer.Is6() {
		t = dnsclient.AAAA
	}
	f := g.compare(ctx, rule, hosts, g.lookUp(ctx, hosts, t, g.dns.Get), o, peer)
	if f.outcome == OutcomeFail {
		f = g.compare(ctx, rule, hosts, g.lookUp(ctx, hosts, t, g.dns.Requery), o, peer)
	}
	return f
}

func (g *Guard) lookUp(ctx context.Context, hosts []string, t dnsclient.Type, get func(context.Context, string, dnsclient.Type) *dnscache.Result) []*dnscache.Result {
	results := make([]*dnscache.Result, len(hosts))
	if len(hosts) == 1 {
		results[0] = get(ctx, hosts[0], t)
		return results
	}
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { results[i] = get(ctx, h, t) })
	}
	wg.Wait()
	return results
}

func (g *Guard) compare(ctx context.Context, rule string, hosts []string, results []*dnscache.Result, o *origin, peer netip.Addr) originFinding {
	f := originFinding{outcome: OutcomeFail}
	var said []string
	now := g.now()
	for i, r := range results {
		key := freshMatch{rule, hosts[i], peer}
		p := Proof{Kind: "dns", Source: hosts[i], Status: "mismatch", From: r.At, Expires: r.Expires}
		if r.Err != nil {
			// DNS has failed, or has no place for the question, or we have waited long
			// enough. A client that gives up must not turn "don't know" into a match.
			failed := r.Failed() || errors.Is(r.Err, dnscache.ErrBusy) || errors.Is(context.Cause(ctx), errWait)
			old, ok := g.fresh.Get(key)
			if ok && failed && !old.Superseded() && !old.Doubted() && now.Sub(old.At) <= staleOrigin {
				p.Status, p.Expires = "match", now.Add(staleOriginTTL)
				return originFinding{outcome: OutcomePass, expires: p.Expires, proofs: append(f.proofs, p), deps: []*dnscache.Result{old},
					detail: fmt.Sprintf("%s matched %s, looked up at %s; DNS has failed since: %s", peer, hosts[i], old.At.UTC().Format(time.RFC3339), safe(r.Err.Error()))}
			}
			f.outcome = OutcomeUnknown
			p.Status = "unknown"
			f.proofs = append(f.proofs, p)
			said = append(said, fmt.Sprintf("%s: %s", hosts[i], safe(r.Err.Error())))
			continue
		}
		var usable []netip.Addr
		for _, a := range r.Answer.Addrs {
			if a = ipaddr.Canonical(a); g.welcome(o, a) && !ipaddr.Contains(g.own, a) {
				usable = append(usable, a)
			}
		}
		if slices.Contains(usable, peer) {
			g.fresh.Add(key, r)
			p.Status = "match"
			return originFinding{outcome: OutcomePass, detail: fmt.Sprintf("%s is an address of %s", peer, hosts[i]),
				expires: r.Expires, proofs: append(f.proofs, p), deps: []*dnscache.Result{r}}
		}
		g.fresh.Remove(key)
		f.proofs = append(f.proofs, p)
		said = append(said, hosts[i]+" has "+describe(r.Answer, usable, peer))
	}
	f.detail = fmt.Sprintf("the connection comes from %s; %s", peer, strings.Join(said, "; "))
	return f
}

// describe says what DNS answered, for the operator.
func describe(a dnsclient.Answer, usable []netip.Addr, peer netip.Addr) string {
	family := "A"
	if peer.Is6() {
		family = "AAAA"
	}
	switch {
	case a.NXDomain:
		return "no records: the name does not exist"
	case len(a.Addrs) == 0:
		return "no " + family + " record"
	case len(usable) == 0:
		return "only special-use addresses, which Origin.AllowNetworks does not name"
	}
	const most = 8
	list := usable[:min(len(usable), most)]
	s := fmt.Sprint(list)
	if len(usable) > most {
		s += fmt.Sprintf(" and %d more", len(usable)-most)
	}
	return family + " records " + s
}

// welcome reports whether an address may match a name: it is globally reachable,
// or the operator allowed its network.
func (g *Guard) welcome(o *origin, a netip.Addr) bool {
	return !ipaddr.SpecialUse(a) || ipaddr.Contains(o.allow, a)
}
