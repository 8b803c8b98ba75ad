package mtls

import (
	"cmp"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// subject is what a policy looks at: a certificate, reduced to what rules name.
type subject struct {
	hash  CertificateHash
	twin  CertificateHash // of the other encoding of an ECDSA signature; the hash itself where there is none
	key   KeyHash
	names []string // canonical dNSNames
	more  bool     // there are names of other kinds beyond those in other
	other []string // canonical names in its other texts (common name, URIs, e-mail addresses, otherNames): for deny rules only
	views []chainView
}

// isOne reports whether the certificate is among those listed. Its bearer can
// change the encoding of an ECDSA signature, and must neither escape a deny rule
// nor fall through to another rule by it.
func (s *subject) isOne(list []CertificateHash) bool {
	return slices.Contains(list, s.hash) || slices.Contains(list, s.twin)
}

// chainView is what a policy looks at in a chain.
type chainView struct {
	authority string
	public    bool
	keys      []KeyHash // of the CAs, the anchor included
	usable    bool      // false: no way to an admission; for deny rules only
}

// match is what a policy says of a subject.
type match struct {
	rule   *rule
	domain string    // canonical; empty: the rule names none
	listed string    // that of the rule's domains which it matched; it may be a wildcard
	views  []int     // usable chains that satisfy the rule, in order
	until  time.Time // when the answer may change by time alone; zero: never
}

// match returns the rule that decides. With no rule, the client is not allowed;
// with a rule that has Deny, it is denied.
func (p *policyState) match(s *subject, now time.Time) match {
	var until time.Time
	deny := p.deny.candidates(s, true)
	if s.more {
		deny = p.rules
	}
	for _, r := range deny {
		if !r.Deny {
			continue
		}
		if r.denies(s) {
			if r.inTime(now, &until) {
				return match{rule: r, until: until}
			}
		}
	}
	for _, r := range p.allow.candidates(s, false) {
		m, ok := r.allows(s)
		if ok && r.inTime(now, &until) {
			m.until = until
			return m
		}
	}
	return match{until: until}
}

// candidates returns the rules that the index gives for the subject, those that
// name certificates first, otherwise in order of declaration.
func (x *ruleIndex) candidates(s *subject, broad bool) []*rule {
	var list []*rule
	list = append(list, x.certificates[s.hash]...)
	list = append(list, x.certificates[s.twin]...)
	list = append(list, x.publicKeys[s.key]...)
	names := s.names
	if broad {
		names = slices.Concat(s.names, s.other)
	}
	for _, n := range names {
		list = append(list, x.domains[n]...)
		if !dnsname.IsWildcard(n) {
			list = append(list, x.domains["*."+parent(n)]...)
		} else if broad {
			list = append(list, x.parents[parent(n)]...)
		}
	}
	for _, v := range s.views {
		for _, k := range v.keys {
			list = append(list, x.issuerKeys[k]...)
		}
		list = append(list, x.authorities[v.authority]...)
	}
	list = append(list, x.any...)
	slices.SortFunc(list, func(a, b *rule) int {
		if c := cmp.Compare(b2i(len(a.Certificates) == 0), b2i(len(b.Certificates) == 0)); c != 0 {
			return c
		}
		return cmp.Compare(a.order, b.order)
	})
	return slices.Compact(list)
}

// allows reports whether the rule matches, its time left aside.
func (r *rule) allows(s *subject) (match, bool) {
	if len(r.Certificates) > 0 && !s.isOne(r.Certificates) ||
		len(r.PublicKeys) > 0 && !slices.Contains(r.PublicKeys, s.key) {
		return match{}, false
	}
	m := match{rule: r}
	if len(r.domains) > 0 {
		if m.domain, m.listed = r.held(s.names); m.domain == "" {
			return match{}, false
		}
	}
	for i, v := range s.views {
		switch {
		case !v.usable:
		case len(r.Authorities) > 0 && !slices.Contains(r.Authorities, v.authority):
		case len(r.IssuerKeys) > 0 && !slices.ContainsFunc(v.keys, func(k KeyHash) bool { return slices.Contains(r.IssuerKeys, k) }):
		case v.public && r.anonymous() && !r.InsecureAnyClient:
		default:
			m.views = append(m.views, i)
		}
	}
	return m, len(m.views) > 0
}

// held returns the name of the certificate that matches the first of the rule's
// domains that any does, and that domain, or "".
func (r *rule) held(names []string) (name, listed string) {
	for _, d := range r.domains {
		for _, n := range names {
			if n == d || dnsname.IsWildcard(d) && !dnsname.IsWildcard(n) && parent(n) == parent(d) {
				return n, d
			}
		}
	}
	return "", ""
}

// denies reports whether the deny rule matches, its time left aside. Any name,
// any overlapping wildcard and any chain will do.
func (r *rule) denies(s *subject) bool {
	if len(r.Certificates) > 0 && !s.isOne(r.Certificates) ||
		len(r.PublicKeys) > 0 && !slices.Contains(r.PublicKeys, s.key) {
		return false
	}
	if len(r.domains) > 0 && !s.more && !slices.ContainsFunc(slices.Concat(s.names, s.other), func(n string) bool {
		return slices.ContainsFunc(r.domains, func(d string) bool { return dnsname.Overlap(n, d) })
	}) {
		return false
	}
	if len(r.Authorities) > 0 && !slices.ContainsFunc(s.views, func(v chainView) bool {
		return slices.Contains(r.Authorities, v.authority)
	}) {
		return false
	}
	return len(r.IssuerKeys) == 0 || slices.ContainsFunc(s.views, func(v chainView) bool {
		return slices.ContainsFunc(v.keys, func(k KeyHash) bool { return slices.Contains(r.IssuerKeys, k) })
	})
}

// inTime reports whether the rule exists at the time, and lowers until to the
// next time at which that changes.
func (r *rule) inTime(now time.Time, until *time.Time) bool {
	if !r.NotBefore.IsZero() && now.Before(r.NotBefore) {
		earliest(until, r.NotBefore)
		return false
	}
	if r.NotAfter.IsZero() {
		return true
	}
	if now.After(r.NotAfter) {
		return false
	}
	earliest(until, r.NotAfter)
	return true
}

// earliest lowers t to u, where the zero time means never.
func earliest(t *time.Time, u time.Time) {
	if !u.IsZero() && (t.IsZero() || u.Before(*t)) {
		*t = u
	}
}

// parent returns what is above the first label, and "" above a single label.
func parent(name string) string {
	for i := range len(name) {
		if name[i] == '.' {
			return name[i+1:]
		}
	}
	return ""
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
