package ruleset

import (
	"bytes"
	"crypto/x509"
	"slices"

	"golang.org/x/text/unicode/norm"

	"github.com/mtlsguard/mtls/internal/altname"
	"github.com/mtlsguard/mtls/internal/dn"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// condition is a field of a rule that concerns the client's certificate.
type condition interface {
	field() string
	allows(*Subject) bool // surely
	denies(*Subject) bool // perhaps
	// names reports whether it says who the client is, in a way that a public
	// authority would have checked.
	names() bool
	// rank orders what the index can find by selectivity, from 1. Zero: it cannot.
	rank() int
	index(*index, *Rule)
}

// chainCondition is a field of a rule that concerns a chain.
type chainCondition interface {
	field() string
	admits(*View) bool
	denies(*Subject) bool
	index(*index, *Rule) bool
}

func (r *Rule) add(c condition) { r.conds = append(r.conds, c) }

// walkedOnly is what conditions share that no index finds.
type walkedOnly struct{}

func (walkedOnly) names() bool         { return false }
func (walkedOnly) rank() int           { return 0 }
func (walkedOnly) index(*index, *Rule) {}

// certificates: the certificate itself. Its bearer can change the encoding of an
// ECDSA signature, and must neither escape a deny rule nor fall through to another
// rule by it.
type certificates []Hash

// Certificates demands one of the certificates.
func (r *Rule) Certificates(list []Hash) {
	r.pinned = true
	r.add(certificates(list))
}

func (certificates) field() string { return "Certificates" }
func (c certificates) allows(s *Subject) bool {
	return slices.Contains(c, s.Certificate) || slices.Contains(c, s.Twin)
}
func (c certificates) denies(s *Subject) bool { return c.allows(s) }
func (certificates) names() bool              { return true }
func (certificates) rank() int                { return 1 }
func (c certificates) index(x *index, r *Rule) {
	for _, h := range c {
		x.certificates.add(h, r.Order)
	}
}

// publicKeys: the key of the certificate.
type publicKeys []Hash

// PublicKeys demands one of the keys.
func (r *Rule) PublicKeys(list []Hash) { r.add(publicKeys(list)) }

func (publicKeys) field() string            { return "PublicKeys" }
func (c publicKeys) allows(s *Subject) bool { return slices.Contains(c, s.Key) }
func (c publicKeys) denies(s *Subject) bool { return c.allows(s) }
func (publicKeys) names() bool              { return true }
func (publicKeys) rank() int                { return 2 }
func (c publicKeys) index(x *index, r *Rule) {
	for _, h := range c {
		x.publicKeys.add(h, r.Order)
	}
}

// domains: a dNSName.
type domains []string

// Domains demands one of the canonical names or wildcards.
func (r *Rule) Domains(list []string) {
	if !r.Deny {
		r.add(domains(list))
		return
	}
	var folded []string
	for _, d := range list {
		if f := foldedDomain(d); f != d {
			folded = append(folded, f)
		}
	}
	if folded == nil {
		r.add(deniedDomains{list})
	} else {
		r.add(&deniedFolded{deniedDomains{list}, folded})
	}
}

func (domains) field() string { return "Domains" }
func (c domains) allows(s *Subject) bool {
	for _, d := range c {
		for _, n := range s.Names {
			if heldAs(n, d) {
				return true
			}
		}
	}
	return false
}

// heldAs reports whether a certificate's name is what the domain of a rule means: a
// wildcard stands for one label, and never for a wildcard.
func heldAs(name, domain string) bool {
	return name == domain || dnsname.IsWildcard(domain) && !dnsname.IsWildcard(name) && parent(name) == parent(domain)
}

func (c domains) denies(*Subject) bool    { return true } // deniedDomains is in its place
func (domains) names() bool               { return true }
func (domains) rank() int                 { return 3 }
func (c domains) index(x *index, r *Rule) { c.indexed(x, r) }

// deniedDomains: a domain of a rule that denies, which is looked for among all texts
// of the certificate.
type deniedDomains struct{ domains }

func (c deniedDomains) allows(*Subject) bool { return false }
func (c deniedDomains) denies(s *Subject) bool {
	return s.More || overlaps(c.domains, s.Names) || overlaps(c.domains, s.Other)
}

// deniedFolded also has other domains, that capital letters, say, make of one in a text.
// As a dNSName they are somebody else's.
type deniedFolded struct {
	deniedDomains
	folded []string
}

func (c *deniedFolded) denies(s *Subject) bool {
	return c.deniedDomains.denies(s) || overlaps(c.folded, s.Other)
}
func (c *deniedFolded) index(x *index, r *Rule) {
	c.indexed(x, r)
	domains(c.folded).indexed(x, r)
}

func foldedDomain(canonical string) string {
	u := dnsname.Unicode(canonical)
	if u == canonical {
		return canonical
	}
	folded, err := dnsname.FromPolicy(norm.NFC.String(altname.Fold(u)))
	if err != nil {
		return canonical
	}
	return folded
}

func overlaps(list, names []string) bool {
	for _, d := range list {
		for _, n := range names {
			if dnsname.Overlap(n, d) {
				return true
			}
		}
	}
	return false
}

func (c domains) indexed(x *index, r *Rule) {
	for _, d := range c {
		x.names.add(d, r.Order)
		switch {
		case dnsname.IsWildcard(d):
			x.wildcards.add(parent(d), r.Order)
		case r.Deny:
			x.parents.add(parent(d), r.Order)
		}
	}
}

// Domain returns the name of the certificate that matches the first of the rule's
// domains that any does, and that domain, or "".
func (r *Rule) Domain(s *Subject) (name, listed string) {
	for _, d := range r.ListedDomains() {
		for _, n := range s.Names {
			if heldAs(n, d) {
				return n, d
			}
		}
	}
	return "", ""
}

// ListedDomains returns the canonical domains of the rule, or nil.
func (r *Rule) ListedDomains() []string {
	for _, c := range r.conds {
		switch c := c.(type) {
		case domains:
			return c
		case deniedDomains:
			return c.domains
		case *deniedFolded:
			return c.domains
		}
	}
	return nil
}

// denied: a URI, an e-mail address or a UPN of a rule that denies, which is looked
// for among all texts of the certificate.
type denied struct {
	name string
	keys []string // broad
}

func (r *Rule) deny(name string, list []string) {
	c := &denied{name: name, keys: make([]string, 0, len(list))}
	for _, policy := range list {
		c.keys = append(c.keys, altname.Broad(policy)...)
	}
	r.add(c)
}

func (c *denied) field() string      { return c.name }
func (*denied) allows(*Subject) bool { return false }
func (c *denied) denies(s *Subject) bool {
	if s.Unread {
		return true
	}
	for _, key := range c.keys {
		if s.Texts[key] {
			return true
		}
	}
	return false
}
func (*denied) names() bool { return false }
func (*denied) rank() int   { return 4 }
func (c *denied) index(x *index, r *Rule) {
	for _, key := range c.keys {
		x.texts.add(key, r.Order)
	}
	x.unread = append(x.unread, r.Order)
}

func indexNames(x *index, allow *postings[string], list []string, r *Rule) {
	for _, name := range list {
		prefix, all := altname.TrustDomain(name)
		switch {
		case altname.Every(name):
			allow.add(altname.At(name), r.Order)
		case all:
			allow.add(prefix, r.Order)
		default:
			allow.add(name, r.Order)
		}
	}
}

// uris: a URI. A SPIFFE ID that is not the only URI is none (X509-SVID section 2).
type uris []string

// URIs demands one of the canonical URIs or trust domains.
func (r *Rule) URIs(list []string) {
	if r.Deny {
		r.deny("URIs", list)
		return
	}
	r.add(uris(list))
}

func (uris) field() string            { return "URIs" }
func (c uris) allows(s *Subject) bool { return c.find(s, nil) != "" }
func (c uris) find(s *Subject, may func(string) bool) string {
	for _, want := range c {
		if altname.ClaimsSPIFFE(want) && !s.Alone {
			continue
		}
		prefix, all := altname.TrustDomain(want)
		for _, uri := range s.URIs {
			if (uri == want && !all || all && altname.TrustDomainOf(uri) == prefix) && within(c, uri, may) {
				return uri
			}
		}
	}
	return ""
}
func (c uris) denies(*Subject) bool    { return true } // denied is in its place
func (uris) names() bool               { return false }
func (uris) rank() int                 { return 4 }
func (c uris) index(x *index, r *Rule) { indexNames(x, &x.uris, c, r) }

// emails: an rfc822Name.
type emails []string

// Emails demands one of the canonical addresses, or "*@host".
func (r *Rule) Emails(list []string) {
	if r.Deny {
		r.deny("Emails", list)
		return
	}
	r.add(emails(list))
}

func (emails) field() string            { return "Emails" }
func (c emails) allows(s *Subject) bool { return c.find(s, nil) != "" }
func (c emails) find(s *Subject, may func(string) bool) string {
	return userAmong(c, c, s.Emails, may)
}
func (c emails) denies(*Subject) bool    { return true } // denied is in its place
func (emails) names() bool               { return false }
func (emails) rank() int                 { return 6 }
func (c emails) index(x *index, r *Rule) { indexNames(x, &x.emails, c, r) }

// upns: a user principal name.
type upns []string

// UPNs demands one of the canonical names, or "*@realm".
func (r *Rule) UPNs(list []string) {
	if r.Deny {
		r.deny("UPNs", list)
		return
	}
	r.add(upns(list))
	r.chain = append(r.chain, unconstrained{otherNames: true})
}

func (upns) field() string            { return "UPNs" }
func (c upns) allows(s *Subject) bool { return c.find(s, nil) != "" }
func (c upns) find(s *Subject, may func(string) bool) string {
	return userAmong(c, c, s.UPNs, may)
}
func (c upns) denies(*Subject) bool    { return true } // denied is in its place
func (upns) names() bool               { return false }
func (upns) rank() int                 { return 5 }
func (c upns) index(x *index, r *Rule) { indexNames(x, &x.upns, c, r) }

// userAmong returns the first of the names that the list has, in the list's order,
// or "".
func userAmong(c scoped, list, names []string, may func(string) bool) string {
	for _, want := range list {
		for _, n := range names {
			if (n == want || altname.Every(want) && altname.At(n) == want[1:]) && within(c, n, may) {
				return n
			}
		}
	}
	return ""
}

// attribute: one of the subject's or the issuer's name.
type attribute struct {
	walkedOnly
	issuer  bool
	pattern dn.Pattern
}

// Attribute demands an attribute of the subject, or of the issuer.
func (r *Rule) Attribute(issuer bool, p dn.Pattern) {
	r.add(&attribute{issuer: issuer, pattern: p})
	r.chain = append(r.chain, unconstrained{directoryNames: true, mailboxes: !issuer && p.IsEmail()})
}

func (c *attribute) field() string {
	if c.issuer {
		return "Issuer"
	}
	return "Subject"
}
func (c *attribute) of(s *Subject) []dn.Value {
	if c.issuer {
		return s.Issuer
	}
	return s.Subject
}
func (c *attribute) allows(s *Subject) bool { return c.pattern.Matches(c.of(s)) }
func (c *attribute) denies(s *Subject) bool { return c.pattern.MayMatch(c.of(s)) }

// extension: one of the certificate.
type extension struct {
	walkedOnly
	oid   x509.OID
	value []byte // nil: any, or text
	text  string // "": any, or value
}

// Extension demands an extension with the content, or the text, or any.
func (r *Rule) Extension(oid x509.OID, value []byte, text string) {
	r.add(&extension{oid: oid, value: value, text: text})
}

func (*extension) field() string { return "Extensions" }
func (c *extension) allows(s *Subject) bool {
	for i := range s.Extensions {
		e := &s.Extensions[i]
		if !c.oid.EqualASN1OID(e.Id) {
			continue
		}
		if c.text != "" {
			text, ok := x509ext.StringExtension(e.Value)
			return ok && text == c.text
		}
		return c.value == nil || bytes.Equal(c.value, e.Value)
	}
	return false
}
func (c *extension) denies(s *Subject) bool {
	for i := range s.Extensions {
		e := &s.Extensions[i]
		if !c.oid.EqualASN1OID(e.Id) {
			continue
		}
		if c.text != "" {
			text, ok := x509ext.StringExtension(e.Value)
			return !ok || altname.Fold(text) == altname.Fold(c.text)
		}
		return c.value == nil || bytes.Equal(c.value, e.Value)
	}
	return false
}

// strength: the kind of key.
type strength struct {
	walkedOnly
	rsaBits int // zero: no RSA key will do
	curves  []string
}

// Keys lists the keys that will do: RSA keys of so many bits, keys on the curves.
func (r *Rule) Keys(rsaBits int, curves []string) { r.add(&strength{rsaBits: rsaBits, curves: curves}) }

func (*strength) field() string { return "MinRSABits or Curves" }
func (c *strength) allows(s *Subject) bool {
	return s.RSABits > 0 && c.rsaBits > 0 && s.RSABits >= c.rsaBits || s.Curve != "" && slices.Contains(c.curves, s.Curve)
}
func (c *strength) denies(s *Subject) bool { return true }

// When demands that the function says so, which is asked after everything else.
func (r *Rule) When(f func(*x509.Certificate) bool) { r.when = f }
