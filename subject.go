package mtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/mtlsguard/mtls/internal/altname"
	"github.com/mtlsguard/mtls/internal/dn"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/ruleset"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// subject reduces the certificate and its chains to what rules name, and, for the
// deny rules of the policies, to what only they look at.
func (p *presented) subject(roots *rootsState, all []candidate, now time.Time, policies ...*policyState) *ruleset.Subject {
	leaf := p.certs[0]
	var broad ruleset.Broad
	for _, policy := range policies {
		broad = broad.Or(policy.set.Broad())
	}
	s := &ruleset.Subject{
		Certificate: ruleset.Hash(HashCertificate(leaf)), Key: ruleset.Hash(HashPublicKey(leaf)), Names: p.names,
		Subject: dn.Values(leaf.Subject, broad.Names), Issuer: dn.Values(leaf.Issuer, broad.Names),
		Extensions: leaf.Extensions, Policies: leaf.Policies, Unread: p.alt.BadUPN,
	}
	s.Twin = s.Certificate
	if len(all) > 0 { // every chain has the same issuer key
		if twin, ok := x509ext.Twin(leaf, all[0].chain[1]); ok {
			s.Twin = sha256.Sum256(twin)
		}
	}
	p.alternatives(s)
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		s.RSABits = key.N.BitLen()
	case *ecdsa.PublicKey:
		s.Curve = key.Params().Name
	case ed25519.PublicKey:
		s.Curve = "Ed25519"
	}
	s.Leaf = func() *x509.Certificate {
		own, _ := x509.ParseCertificate(bytes.Clone(leaf.Raw)) // it was parsed before
		return own
	}
	if broad.Texts {
		texts, whole := x509ext.Texts(leaf)
		s.Other, s.More = otherNames(texts)
		s.More, s.Unread = s.More || !whole, s.Unread || !whole
		s.Texts = map[string]bool{}
		for _, text := range texts {
			keys, ok := altname.BroadKeys(text)
			s.Unread = s.Unread || !ok
			for _, key := range keys {
				s.Texts[key] = true
			}
		}
	}
	for _, c := range all {
		v := ruleset.View{
			Authority: c.authority.Name, Public: c.authority.Public, Keys: c.hashes(), Usable: c.usable, Asserts: c.asserts(now),
			Mailboxes: len(leaf.EmailAddresses) > 0, // without, constrained has looked at those in the subject
		}
		if len(c.authority.domains) > 0 {
			v.May = c.authority.mayName
		}
		constrains := false
		for _, ca := range c.chain[1:] {
			other, directory := x509ext.ConstrainsUnread(ca)
			v.OtherNames, v.DirectoryNames = v.OtherNames || other, v.DirectoryNames || directory
			constrains = constrains || len(ca.PermittedEmailAddresses)+len(ca.ExcludedEmailAddresses) > 0
		}
		v.Mailboxes = v.Mailboxes && constrains
		s.Views = append(s.Views, v)
	}
	if broad.Issuers {
		keys := p.ancestry(roots)
		for _, a := range roots.authorities {
			if slices.ContainsFunc(keys, func(k ruleset.Hash) bool { return a.keys[KeyHash(k)] }) {
				s.Views = append(s.Views, ruleset.View{Authority: a.Name, Public: a.Public, Keys: keys})
			}
		}
	}
	return s
}

// alternatives fills in the names of other types than dNSName.
func (p *presented) alternatives(s *ruleset.Subject) {
	for _, kind := range []struct {
		texts []string
		read  func(string) (string, bool)
		names *[]string
	}{{p.alt.URIs, altname.URIFromSAN, &s.URIs}, {p.alt.Emails, altname.EmailFromSAN, &s.Emails}, {p.alt.UPNs, altname.UPNFromSAN, &s.UPNs}} {
		for _, text := range kind.texts {
			if name, ok := kind.read(text); ok {
				*kind.names = append(*kind.names, name)
			} else {
				s.Unread = true
			}
		}
	}
	s.Alone = len(p.alt.URIs) == 1 && altname.IsSPIFFE(p.alt.URIs[0])
}

// hashes are the keys of the CAs of the chain.
func (c *candidate) hashes() []ruleset.Hash {
	list := make([]ruleset.Hash, len(c.keys))
	for i, key := range c.keys {
		list[i] = ruleset.Hash(key)
	}
	return list
}

// asserts returns whether the chain is valid for one of the policies (RFC 5280
// section 6.1) with initial-explicit-policy. crypto/x509 cannot be asked for that:
// with CertificatePolicies it also takes a chain in which no certificate asserts a
// policy. The client's certificate may demand it, though, and so this one does, in
// a copy (section 6.1.5 (b)).
//
// That takes a verification, and rules may name many policies: those are left out
// that the client's certificate would have to assert and does not.
func (c *candidate) asserts(now time.Time) func([]x509.OID) bool {
	asserted := map[string]bool{}
	for _, p := range c.chain[0].Policies {
		asserted[oidKey(p)] = true
	}
	every := asserted[oidKey(ruleset.AnyPolicy)] || slices.ContainsFunc(c.chain[1:], func(ca *x509.Certificate) bool { return len(ca.PolicyMappings) > 0 })
	known := map[string]bool{}
	return func(policies []x509.OID) bool {
		var possible []x509.OID
		var key strings.Builder
		for _, p := range policies {
			if k := oidKey(p); every || asserted[k] {
				possible = append(possible, p)
				fmt.Fprintf(&key, "%x ", k)
			}
		}
		if possible == nil { // to crypto/x509 none is any
			return false
		}
		valid, ok := known[key.String()]
		if !ok {
			valid = c.validFor(possible, now)
			known[key.String()] = valid
		}
		return valid
	}
}

// oidKey returns the DER of an OID's arcs, which, unlike its text, is no longer than
// what was read.
func oidKey(p x509.OID) string {
	b, _ := p.MarshalBinary() // never fails
	return string(b)
}

func (c *candidate) validFor(policies []x509.OID, now time.Time) bool {
	last := len(c.chain) - 1
	leaf := *c.chain[0]
	leaf.RequireExplicitPolicyZero = true
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(c.chain[last])
	for _, ca := range c.chain[1:last] {
		between.AddCert(ca)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: c.authority.Purpose.usages(), CertificatePolicies: policies,
	})
	return err == nil && slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		return slices.EqualFunc(chain, c.chain, (*x509.Certificate).Equal)
	})
}

// ancestry returns the keys of all CAs that stand above the client's certificate
// by signature alone: purposes, times and constraints do not matter to a rule that
// denies an issuer.
func (p *presented) ancestry(roots *rootsState) []ruleset.Hash {
	var keys []ruleset.Hash
	above := []*x509.Certificate{p.certs[0]}
	for i := 0; i < len(above); i++ { // above grows
		child := above[i]
		for _, c := range slices.Concat(roots.subjects[string(child.RawIssuer)], p.cas) {
			if bytes.Equal(c.RawSubject, child.RawIssuer) && !slices.ContainsFunc(above, c.Equal) && child.CheckSignatureFrom(c) == nil {
				above = append(above, c)
				keys = append(keys, ruleset.Hash(HashPublicKey(c)))
			}
		}
	}
	return keys
}

// maxOtherNames bounds the words of texts that are looked at, and the domains in them.
const maxOtherNames = 4096

// otherNames finds whatever looks like a domain in the texts of a certificate, as in
// a common name, an e-mail address, a URI, a user principal name, also in other
// spellings. It reports whether there are more than it looks for, or one that it
// cannot tell, such as "*.*.example".
func otherNames(texts []string) (names []string, more bool) {
	seen, known := map[string]bool{}, map[string]bool{}
	for _, text := range texts {
		for _, form := range altname.Forms(text) {
			for _, spelling := range []string{form, norm.NFC.String(altname.Fold(form))} {
				for _, ends := range []func(rune) bool{endsWord, endsLabels} {
					for token := range strings.FieldsFuncSeq(spelling, ends) {
						if seen[token] {
							continue
						}
						if len(seen) == maxOtherNames {
							return names, true
						}
						seen[token] = true
						found, ok := domainsIn(token)
						if !ok {
							return names, true
						}
						for _, name := range found {
							if !known[name] {
								if len(known) == maxOtherNames {
									return names, true
								}
								known[name] = true
								names = append(names, name)
							}
						}
					}
				}
			}
		}
	}
	return names, false
}

// endsWord reports whether a character stands between words.
func endsWord(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) && !strings.ContainsRune(".-_*", r)
}

// endsLabels reports whether a character is surely no part of a domain: there are labels with
// a middle dot, a katakana middle dot, joiners and more (RFC 5892 appendix A).
func endsLabels(r rune) bool {
	return r <= unicode.MaxASCII && endsWord(r) || unicode.IsSpace(r)
}

// domainsIn returns the domains that a word may be meant as, and false if there are any
// number.
func domainsIn(word string) (names []string, ok bool) {
	for part := range strings.SplitSeq(word, "..") {
		last := ""
		for _, cutset := range []string{".", ".-_"} { // a label may begin with "_"
			trimmed := strings.Trim(part, cutset)
			if trimmed == last {
				continue
			}
			last = trimmed
			first, above, dotted := strings.Cut(trimmed, ".")
			if dotted && strings.Contains(above, "*") {
				return nil, false
			}
			if dotted && strings.Contains(first, "*") {
				first = "*" // a part of a label as well
			}
			if name, err := dnsname.FromPolicy(first + "." + above); err == nil {
				names = append(names, name)
			}
		}
	}
	return names, true
}

// ruled turns a match into a refusal, or nil.
func ruled(m match, p *presented, s *ruleset.Subject, policy *policyState, now time.Time) *refusal {
	switch {
	case m.rule == nil:
		return refusef(ReasonNotAllowed, "no rule lists this client; %s%s", p.someNames(), policy.nearly(s, now))
	case m.rule.Deny:
		return refusef(ReasonDeniedByRule, "rule %s denies it", quote(m.rule.Name))
	}
	return nil
}

// someNames lists the names that rules could list, or says that there are none.
func (p *presented) someNames() string {
	var list []string
	for kind, names := range [][]string{p.names, p.alt.URIs, p.alt.Emails, p.alt.UPNs} {
		for _, n := range names {
			list = append(list, [...]string{"", "URI ", "e-mail ", "UPN "}[kind]+safe(n))
		}
	}
	if len(list) == 0 {
		return "it has no subject alternative name (a common name admits nobody)"
	}
	const most = 10
	text := strings.Join(list[:min(len(list), most)], ", ")
	if more := len(list) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return "its names are " + cut(text, 400)
}
