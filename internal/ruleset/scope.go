package ruleset

import (
	"slices"
	"strings"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// scoped is a condition by names with hosts, which a chain's authority may be bounded
// to (View.May). Domains are not: a chain with one beyond the scope is not usable.
type scoped interface {
	condition
	listed() []string
	// host returns the host of a canonical name, and false if it has none.
	host(name string) (string, bool)
	// find returns the first name of the certificate that matches, of those whose host
	// the function allows, or "". Nil allows all.
	find(s *Subject, may func(host string) bool) string
}

func (c uris) listed() []string   { return c }
func (c emails) listed() []string { return c }
func (c upns) listed() []string   { return c }

// addressed are schemes of addresses: user@host, or a host alone (RFC 6068, RFC 7565,
// RFC 5122, RFC 3859, RFC 3860, RFC 3261; RFC 5922 has certificates of SIP domains).
var addressed = []string{"mailto", "acct", "xmpp", "pres", "im", "sip", "sips"}

// host is that of the authority component (RFC 3986 section 3.2), or of the address. What
// is no domain, or could be read in two ways, is none that a scope has, nor is what
// another scheme has in place of a host. A URN has none, nor has a tag (RFC 4151),
// which says whose idea it was.
func (uris) host(uri string) (string, bool) {
	scheme, rest, _ := strings.Cut(uri, ":")
	rest, hierarchical := strings.CutPrefix(rest, "//")
	address, ends := slices.Contains(addressed, scheme), "/?#"
	switch {
	case (scheme == "urn" || scheme == "tag") && !hierarchical:
		return "", false
	case address == hierarchical:
		return "", true
	case address:
		ends += ";"
	}
	if end := strings.IndexAny(rest, ends); end >= 0 {
		if address && strings.Contains(rest[end:], "@") { // users of SIP may have these as well
			return "", true
		}
		rest = rest[:end]
	}
	if user, host, found := strings.Cut(rest, "@"); found {
		if address && strings.Contains(user, ",") { // several, perhaps
			return "", true
		}
		rest = host
	}
	host, port, _ := strings.Cut(rest, ":")
	if strings.Trim(port, "0123456789") != "" {
		return "", true
	}
	name, err := dnsname.FromSAN(strings.TrimSuffix(host, "."))
	if err != nil { // another "@" included
		return "", true
	}
	return name, true
}

func (emails) host(email string) (string, bool) {
	return email[strings.LastIndexByte(email, '@')+1:], true
}

// host is the realm as a domain.
func (upns) host(upn string) (string, bool) {
	realm := upn[strings.LastIndexByte(upn, '@')+1:]
	if name, err := dnsname.FromPolicy(realm); err == nil {
		return name, true
	}
	return realm, true
}

// within reports whether the function allows the name, by its host.
func within(c scoped, name string, may func(string) bool) bool {
	if may == nil {
		return true
	}
	host, ok := c.host(name)
	return !ok || may(host)
}

// inScope reports whether the chain's authority may speak for what the certificate
// is matched by.
func (r *Rule) inScope(s *Subject, v *View) bool {
	if v.May == nil {
		return true
	}
	for _, c := range r.conds {
		if c, ok := c.(scoped); ok && c.find(s, v.May) == "" {
			return false
		}
	}
	return true
}

// Beyond calls f with each listed URI, e-mail address and UPN that may is false for.
func (r *Rule) Beyond(may func(host string) bool, f func(field string, place int, name string)) {
	for _, c := range r.conds {
		c, ok := c.(scoped)
		if !ok {
			continue
		}
		for i, name := range c.listed() {
			if !within(c, name, may) {
				f(c.field(), i, name)
			}
		}
	}
}

// Held returns the URI, the e-mail address and the user principal name of the
// certificate by which it matches the rule, each "" where the rule has no such
// field, and those of the chains whose authorities may speak for all of them, of which
// the first is one.
func (r *Rule) Held(s *Subject, views []int) (uri, email, upn string, of []int) {
	for at, i := range views {
		v, all := &s.Views[i], true
		for _, c := range r.conds {
			c, ok := c.(scoped)
			if !ok {
				continue
			}
			var held *string
			switch c.(type) {
			case uris:
				held = &uri
			case emails:
				held = &email
			case upns:
				held = &upn
			}
			if at == 0 {
				*held = c.find(s, v.May)
			}
			all = all && within(c, *held, v.May)
		}
		if all {
			of = append(of, i)
		}
	}
	return uri, email, upn, of
}
