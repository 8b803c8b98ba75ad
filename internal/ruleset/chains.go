package ruleset

import (
	"crypto/x509"
	"slices"
	"strconv"
)

// anyView reports whether a chain, usable or not, satisfies the condition.
func anyView(s *Subject, admits func(*View) bool) bool {
	for i := range s.Views {
		if admits(&s.Views[i]) {
			return true
		}
	}
	return false
}

// issuerKeys: a CA of the chain.
type issuerKeys []Hash

// IssuerKeys demands that one of the keys is a CA's of the chain.
func (r *Rule) IssuerKeys(list []Hash) { r.chain = append(r.chain, issuerKeys(list)) }

func (issuerKeys) field() string { return "IssuerKeys" }
func (c issuerKeys) admits(v *View) bool {
	for _, key := range v.Keys {
		if slices.Contains(c, key) {
			return true
		}
	}
	return false
}
func (c issuerKeys) denies(s *Subject) bool { return anyView(s, c.admits) }
func (c issuerKeys) index(x *index, r *Rule) bool {
	for _, key := range c {
		x.issuerKeys.add(key, r.Order)
	}
	return true
}

// authorities: the authority under which the chain was built.
type authorities []string

// Authorities demands one of the authorities.
func (r *Rule) Authorities(list []string) { r.chain = append(r.chain, authorities(list)) }

// ChainKey is the same for rules whose conditions on chains are the same. It is false
// where others than authorities and constraints are among them, which are not shared.
func (r *Rule) ChainKey() (string, bool) {
	var key []byte
	for _, c := range r.chain {
		switch c := c.(type) {
		case authorities:
			key = append(key, 'a')
			for _, name := range c {
				key = append(strconv.AppendInt(key, int64(len(name)), 10), ':')
				key = append(key, name...)
			}
		case unconstrained:
			key = append(key, 'u')
			for _, b := range [...]bool{c.otherNames, c.directoryNames, c.mailboxes} {
				key = strconv.AppendBool(key, b)
			}
		default:
			return "", false
		}
	}
	return string(key), true
}

// ShareChain makes the rule use the list of another whose conditions on chains are the
// same, so that many rules of one authority keep one list.
func (r *Rule) ShareChain(same *Rule) { r.chain = same.chain }

// ListedAuthorities returns the names of the authorities that the rule demands, or
// nil.
func (r *Rule) ListedAuthorities() []string {
	for _, c := range r.chain {
		if a, ok := c.(authorities); ok {
			return a
		}
	}
	return nil
}

func (authorities) field() string            { return "Authorities" }
func (c authorities) admits(v *View) bool    { return slices.Contains(c, v.Authority) }
func (c authorities) denies(s *Subject) bool { return anyView(s, c.admits) }
func (c authorities) index(x *index, r *Rule) bool {
	for _, name := range c {
		x.authorities.add(name, r.Order)
	}
	return true
}

// policies: certificate policies for which the chain is valid.
type policies []x509.OID

// Policies demands that the chain is valid for one of the policies.
func (r *Rule) Policies(list []x509.OID) { r.chain = append(r.chain, policies(list)) }

func (policies) field() string         { return "PolicyOIDs" }
func (c policies) admits(v *View) bool { return v.Asserts != nil && v.Asserts(c) }

// denies looks at what the certificate asserts, whether or not its chain is valid
// for that, which may be any; and at what a chain makes of it by policy mappings.
func (c policies) denies(s *Subject) bool {
	return slices.ContainsFunc(s.Policies, func(p x509.OID) bool {
		return p.Equal(AnyPolicy) || slices.ContainsFunc(c, p.Equal)
	}) || anyView(s, c.admits)
}
func (policies) index(*index, *Rule) bool { return false }

// AnyPolicy stands for every policy (RFC 5280 section 4.2.1.4).
var AnyPolicy, _ = x509.ParseOID("2.5.29.32.0")

// unconstrained: no CA of the chain constrains the names that the rule goes by, in a
// way that was not checked. A rule that denies does not mind.
type unconstrained struct{ otherNames, directoryNames, mailboxes bool }

func (unconstrained) field() string {
	return "names that a CA constrains in a way that is not understood"
}
func (c unconstrained) admits(v *View) bool {
	return !(c.otherNames && v.OtherNames || c.directoryNames && v.DirectoryNames || c.mailboxes && v.Mailboxes)
}
func (unconstrained) denies(*Subject) bool     { return true }
func (unconstrained) index(*index, *Rule) bool { return false }
