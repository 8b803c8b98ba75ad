package mtls

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/egress"
	"github.com/mtlsguard/mtls/internal/ipaddr"
	"github.com/mtlsguard/mtls/internal/origin"
)

// Origin says where a client's connection must come from. Any one of its ways
// is enough. With none stated, the peer's address must be among the A or AAAA
// records of the domain that the rule matched. Stating one replaces that lookup,
// and a way that is not stated is off.
//
// It shows that whoever runs the domain's DNS vouches for the address, on top of
// the certificate and never instead of it: DNS alone authenticates nobody.
type Origin struct {
	// Hosts are names whose A or AAAA records count instead of the domain's: the
	// partner's egress. At most 10.
	Hosts []string
	// Prefixes are addresses that need no lookup.
	Prefixes []netip.Prefix
	// Published lets the domain say for itself, in a TXT record at
	// _mtls-egress.DOMAIN (for *.DOMAIN the same):
	//
	//	v=mtls1 ip4:198.51.100.0/28 ip6:2001:db8::/56 a:egress.partner.example
	//
	// The terms are ip4 and ip6, an address or a prefix of at least 24 and 48 bits,
	// and a, a name whose addresses count: at most 64 terms and 10 names. Anything
	// else in it, or a second record, makes it invalid, which is unknown, not a
	// mismatch. TXT records that begin with another word are ignored.
	Published bool
	// ReverseSuffixes are names under which a name of the peer's address (its PTR
	// record) lies, or that are it, and that has this address in turn: for pools
	// and wildcards. At most 10; none is a public suffix, nor counts a name that a
	// public suffix below it (private section included) gives to somebody else.
	// At most 5 names of an address are looked up; more than 4 KiB of names are
	// unknown, not a mismatch.
	ReverseSuffixes []string
	// RequireDNSSEC takes only answers that a trusted resolver has authenticated
	// (the AD bit, RFC 4035 section 3.2.3); see DNSServer.TrustAD. Others are
	// ReasonOriginUnknown. Prefixes need no answer.
	RequireDNSSEC bool
	// ReportOnly admits whoever does not match, or of whom nothing is known, as
	// OutcomeTolerated: to try an Origin out. Each such admission is logged and is
	// decided anew after a minute.
	ReportOnly bool
	// AllowNetworks are special-use networks (private, loopback, link-local and
	// the like: RFC 6890) whose addresses are welcome as peers and in DNS
	// answers. Without it, such an address never matches a name: a partner's DNS
	// could otherwise point at machines of ours.
	AllowNetworks []netip.Prefix
	// Window is for how long an address counts after the last answer that had it,
	// for names of which each answer is a part of a larger pool. An answer without
	// any address ends it. It concerns the domain and Hosts, and lets an address go
	// that much later. Zero: only the current answer counts. At most 1 h.
	Window time.Duration

	off bool
}

// NoOrigin returns the Origin that accepts connections from anywhere.
func NoOrigin() *Origin { return &Origin{off: true} }

// IsNone reports whether the Origin is that of NoOrigin.
func (o *Origin) IsNone() bool { return o != nil && o.off }

// settings reports whether anything is set.
func (o *Origin) settings() bool {
	return o.Published || o.RequireDNSSEC || o.ReportOnly || o.Window != 0 || len(o.Hosts)+len(o.Prefixes)+len(o.ReverseSuffixes)+len(o.AllowNetworks) > 0
}

// Bounds on the lookups of one decision (as RFC 7208 section 4.6.4 has them for
// SPF) and on what they may say.
const (
	maxOriginHosts   = 10
	maxOriginSuffix  = 10
	maxOriginRecords = 256  // of an answer
	maxOriginNames   = 4096 // bytes of the names of an address, which are kept for each that matched
	maxOriginWindow  = time.Hour
	maxReportedAlive = time.Minute // of an admission by ReportOnly
)

// originSpec is the compiled form of an Origin.
type originSpec = origin.Spec

func compileOrigin(o *Origin, field string) (*originSpec, error) {
	var failed problems
	s := &origin.Spec{
		Off: o.off, Published: o.Published, RequireDNSSEC: o.RequireDNSSEC, ReportOnly: o.ReportOnly,
		Prefixes: slices.Clone(o.Prefixes), Allow: slices.Clone(o.AllowNetworks), Window: o.Window,
	}
	if o.off && o.settings() {
		failed.add(field, "", "NoOrigin with settings")
	}
	s.Hosts = originNames(&failed, field+".Hosts", o.Hosts, maxOriginHosts)
	s.Suffixes = originNames(&failed, field+".ReverseSuffixes", o.ReverseSuffixes, maxOriginSuffix)
	for i, name := range s.Suffixes {
		if dnsname.WildcardUnderPublicSuffix("*." + name) {
			failed.add(fmt.Sprintf("%s.ReverseSuffixes[%d]", field, i), name, "a public suffix: names under it belong to anybody")
		}
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
	if o.Window < 0 || o.Window > maxOriginWindow {
		failed.add(field+".Window", o.Window.String(), "not between 0 and %v", maxOriginWindow)
	} else if o.Window > 0 && s.Stated() && len(s.Hosts) == 0 {
		failed.add(field+".Window", o.Window.String(), "it concerns the domain and Hosts, and there are none")
	}
	return s, failed.err()
}

// originNames brings names into their canonical form.
func originNames(failed *problems, field string, names []string, most int) []string {
	var list []string
	if len(names) > most {
		failed.add(field, fmt.Sprint(len(names)), "more than %d", most)
	}
	for i, n := range names {
		name, err := dnsname.FromPolicy(n)
		if err == nil && dnsname.IsWildcard(name) {
			err = errors.New("a wildcard is none")
		}
		if err != nil {
			*failed = append(*failed, &ConfigError{Field: fmt.Sprintf("%s[%d]", field, i), Value: n, Problem: "not a host name", Err: err})
			continue
		}
		list = append(list, name)
	}
	return list
}

// originOf returns where a rule's clients come from.
func (g *Guard) originOf(r grant) *originSpec {
	if r.origin != nil {
		return r.origin
	}
	return g.origin
}

// judgeOrigin compares the peer's address with the origin of the rule. It reports
// whether the decision goes on.
func (g *Guard) judgeOrigin(ctx context.Context, v *verdict, m match, c *connInfo) bool {
	d, spec := v.decision, g.originOf(m.grant)
	q := origin.Query{Spec: spec, Rule: m.rule.Name, Domain: m.held.domain, Listed: m.held.listed}
	if c != nil {
		q.Peer, q.Local, q.Remote = c.peer, c.local, c.remote
	}
	f := g.origins.Check(ctx, q)
	step := Step{Name: stepOrigin, Detail: f.Detail(), Proofs: originProofs(&f)}
	switch {
	case f.Outcome == origin.Match:
		step.Outcome = OutcomePass
		earliest(&v.expires, f.Expires)
		v.dns, v.standIn = f.Deps(), f.Stale
	case f.Outcome == origin.Off:
		step.Outcome = OutcomeSkipped
	case spec.ReportOnly:
		step.Outcome, step.Detail = OutcomeTolerated, "ReportOnly: "+step.Detail
		earliest(&v.expires, d.Time.Add(maxReportedAlive))
	case f.Outcome == origin.Mismatch:
		d.refuse(ReasonOriginMismatch, step)
		return false
	default:
		d.refuse(ReasonOriginUnknown, step)
		return false
	}
	d.add(step)
	return true
}

func originProofs(f *origin.Finding) []Proof {
	var list []Proof
	for _, p := range f.Proofs() {
		proof := Proof{
			Kind: "dns", Source: p.Name, Type: p.Type.String(), Status: "unknown", From: p.At, Expires: p.Expires,
			Records: p.Records, TTL: p.TTL, Authenticated: p.Authenticated, Cached: p.Cached,
		}
		if p.Prefix.IsValid() {
			proof.Kind, proof.Source, proof.Type = "prefix", p.Prefix.String(), ""
		}
		switch p.Outcome {
		case origin.Match:
			proof.Status, proof.Late = "match", f.Stale
		case origin.Mismatch:
			proof.Status = "mismatch"
		}
		list = append(list, proof)
	}
	return list
}

// newOrigins makes the parts that compare addresses with domains.
func (g *Guard) newOrigins(resolver Resolver) {
	g.dns = dnscache.New(dnscache.Options{
		Now: g.clock,
		Lookup: func(ctx context.Context, name string, t dnsclient.Type) (dnsclient.Answer, error) {
			a, err := resolver.Lookup(ctx, name, RecordType(t))
			if err != nil {
				return dnsclient.Answer{}, err
			}
			return a.checked()
		},
	})
	g.origins = origin.New(g.dns, g.own, g.clock)
}

// checked bounds what a Resolver says, and brings it into canonical form.
func (a Answer) checked() (dnsclient.Answer, error) {
	if n := max(len(a.Addrs), len(a.Texts), len(a.Names)); n > maxOriginRecords {
		return dnsclient.Answer{}, fmt.Errorf("%d records, more than %d", n, maxOriginRecords)
	}
	answer := dnsclient.Answer{TTL: a.TTL, Authenticated: a.Authenticated, NXDomain: a.NXDomain}
	if a.NXDomain {
		return answer, nil // whatever else is said of a name that does not exist
	}
	answer.Texts = a.Texts
	for _, addr := range a.Addrs {
		answer.Addrs = append(answer.Addrs, ipaddr.Canonical(addr))
	}
	size := 0
	for _, n := range a.Names {
		if size += len(n); size > maxOriginNames {
			return dnsclient.Answer{}, fmt.Errorf("names of an address of more than %d bytes", maxOriginNames)
		}
		// Whoever holds the address chose it (CVE-2021-33195).
		if name, err := dnsname.FromSAN(n); err == nil && !dnsname.IsWildcard(name) {
			answer.Names = append(answer.Names, name)
		}
	}
	return answer, nil
}

// warmNames has Run keep the names of the policy warm, as far as there is place:
// of the first rules, and what their records name.
func (g *Guard) warmNames() {
	var keys []dnscache.Key
	seen := map[dnscache.Key]bool{} // by type: a record may name the place of another's record as a host
	warm := func(name string, types ...dnsclient.Type) {
		for _, t := range types {
			if k := (dnscache.Key{Name: name, Type: t}); !seen[k] {
				seen[k] = true
				keys = append(keys, k)
			}
		}
	}
	addresses := func(name string) { warm(name, dnsclient.A, dnsclient.AAAA) }
	policy := g.policy.state.Load()
	for i, r := range policy.grants {
		if len(keys) > maxWarm {
			break
		}
		listed := &policy.set.Rules()[i]
		if listed.Deny {
			continue
		}
		spec := g.originOf(r)
		for _, host := range spec.Hosts {
			addresses(host)
		}
		for _, domain := range listed.ListedDomains() {
			switch {
			case !spec.Stated() && !dnsname.IsWildcard(domain):
				addresses(domain)
			case spec.Published:
				name := egress.Name(domain)
				warm(name, dnsclient.TXT)
				if known, ok := g.dns.Peek(name, dnsclient.TXT); ok && known.Err == nil {
					if record, err := egress.Find(known.Answer.Texts); err == nil {
						for _, host := range record.Names {
							addresses(host)
						}
					}
				}
			}
		}
	}
	g.dns.Warm(keys)
}

// maxWarm is where to stop collecting; the cache takes no more than that.
const maxWarm = 4096
