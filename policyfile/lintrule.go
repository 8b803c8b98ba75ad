package policyfile

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/dn"
)

// times looks at when the rule exists.
func (l *linter) times(r *mtls.Rule) {
	switch {
	case !r.NotAfter.IsZero() && !l.now.Before(r.NotAfter):
		l.add(true, "NotAfter", "it ended at %s: take it out, or set a later not_after", r.NotAfter.Format(time.RFC3339))
	case !r.NotBefore.IsZero() && l.now.Before(r.NotBefore):
		l.add(false, "NotBefore", "it does not exist before %s: nothing to do if that is meant", r.NotBefore.Format(time.RFC3339))
	}
}

// domainLike is a subject's value that looks like a domain or a pattern of one.
var domainLike = regexp.MustCompile(`(?i)^(\*\.)?([a-z0-9_-]+\.)+[a-z]{2,}$`)

// conditions looks at what the rule asks for.
func (l *linter) conditions(r *mtls.Rule) {
	if r.InsecureAnyClient {
		l.add(true, "InsecureAnyClient", "it admits every client with a certificate of the CAs it names, or of all: name clients if they are known")
	}
	if o := r.Origin; o != nil {
		if o.IsNone() {
			l.add(false, "Origin", "clients may come from anywhere: state hosts or prefixes if they are known")
		}
		if o.ReportOnly {
			l.add(true, "Origin.ReportOnly", "the origin is only reported, and others are admitted: take report_only out when the reports are clean")
		}
		l.breadth("Origin.Prefixes", o.Prefixes)
		l.breadth("Origin.AllowNetworks", o.AllowNetworks)
		l.each(false, "Origin.Prefixes", len(o.Prefixes), func(i int) string {
			p := o.Prefixes[i]
			if p == p.Masked() {
				return ""
			}
			return fmt.Sprintf("%s means all of %s: write that, or a longer prefix", p, p.Masked())
		})
	}
	l.each(true, "Subject", len(r.Subject), func(i int) string {
		if a := r.Subject[i]; domainLike.MatchString(a.Value) && !strings.EqualFold(a.Type, "DC") {
			return fmt.Sprintf("%s looks like a domain, and a subject is not compared like one: list it in domains, which looks at the names that CAs verify", quote(a.Value))
		}
		return ""
	})
	l.authoritiesAsClients(r)
	if r.Deny {
		l.narrow(r)
		return
	}
	if !r.InsecureAnyClient && !names(r) {
		l.add(true, "", "nothing in it says who the client is: it admits every client whose certificate has what it asks for; list domains or other names if they are known")
	}
	if r.MinRSABits > 0 && r.MinRSABits < 2048 {
		l.add(true, "MinRSABits", "RSA keys of %d bits can be broken: ask for 2048 or more", r.MinRSABits)
	}
	l.wildcards(r)
}

// names reports whether a rule says who the client is: something beside its CA and
// what any certificate may have. Groups say it of the account.
func names(r *mtls.Rule) bool {
	if len(r.Domains)+len(r.URIs)+len(r.Emails)+len(r.UPNs)+len(r.Certificates)+len(r.PublicKeys)+len(r.Groups) > 0 {
		return true
	}
	return slices.ContainsFunc(r.Subject, saysWho) ||
		slices.ContainsFunc(r.Extensions, func(e mtls.Extension) bool { return !e.AnyValue && !saysWhatFor(e.OID.String()) })
}

// places are attributes that say where somebody is, and titles and categories what many
// are.
var places = map[string]bool{
	"2.5.4.6": true, "2.5.4.7": true, "2.5.4.8": true, "2.5.4.9": true, "2.5.4.16": true, "2.5.4.17": true, "2.5.4.18": true,
	"1.3.6.1.4.1.311.60.2.1.1": true, "1.3.6.1.4.1.311.60.2.1.2": true, "1.3.6.1.4.1.311.60.2.1.3": true,
	"2.5.4.12": true, "2.5.4.15": true,
}

// leastLetters is how many letters and digits a pattern has that is about few subjects.
const leastLetters = 2

// saysWho reports whether an attribute may say who a client is: more than a place, and
// more than a few letters among others.
func saysWho(a mtls.Attribute) bool {
	if oid, _ := dn.ParseType(a.Type); places[oid] {
		return false
	}
	value := strings.NewReplacer(`\\`, "", `\*`, "").Replace(a.Value) // those are no asterisks
	letters := 0
	for _, c := range value {
		switch {
		case unicode.Is(unicode.Lo, c): // of a script without case it may be a word
			letters += leastLetters
		case unicode.IsLetter(c) || unicode.IsDigit(c):
			letters++
		}
	}
	return letters >= leastLetters || letters > 0 && !strings.Contains(value, "*")
}

// saysWhatFor reports whether an extension says what its certificate is for, or who
// issued it, and so of very many the same. subjectKeyIdentifier and subjectAltName are
// the others of RFC 5280.
func saysWhatFor(oid string) bool {
	const standard, internet, microsoft = "2.5.29.", "1.3.6.1.5.5.7.1.", "1.3.6.1.4.1.311."
	switch oid {
	case standard + "14", standard + "17":
		return false
	case microsoft + "20.2", microsoft + "21.7", microsoft + "21.10", // templates and policies
		"2.16.840.1.113730.1.1", "2.16.840.1.113730.1.13", "1.2.840.113549.1.9.15": // nsCertType, nsComment, SMIMECapabilities
		return true
	}
	return strings.HasPrefix(oid, standard) || strings.HasPrefix(oid, internet)
}

// narrow looks for deny rules that refuse less than they seem to.
func (l *linter) narrow(r *mtls.Rule) {
	var kinds []string
	for _, list := range []struct {
		key string
		n   int
	}{
		{"domains", len(r.Domains)}, {"uris", len(r.URIs)}, {"emails", len(r.Emails)}, {"upns", len(r.UPNs)},
		{"certificates", len(r.Certificates)}, {"public_keys", len(r.PublicKeys)}, {"subject", len(r.Subject)}, {"issuer", len(r.Issuer)},
		{"authorities", len(r.Authorities)}, {"issuer_keys", len(r.IssuerKeys)}, {"policy_oids", len(r.PolicyOIDs)}, {"extensions", len(r.Extensions)},
	} {
		if list.n > 0 {
			kinds = append(kinds, list.key)
		}
	}
	if len(kinds) > 1 {
		l.add(false, "", "it refuses only who has one of each of %s: make a rule of each if any of them is to be refused", strings.Join(kinds, ", "))
	}
}

// authoritiesAsClients looks for files that have only certificates of CAs, which are no
// clients.
func (l *linter) authoritiesAsClients(r *mtls.Rule) {
	if !l.onlyCAs {
		return
	}
	for _, key := range clientFiles {
		paths := l.ofRule(l.at).get(key)
		if paths == nil {
			continue
		}
		l.eachOf(true, key, len(paths.items), func(i int) string {
			path := paths.items[i].text
			switch g := l.c.named.gave(path, key); {
			case g == nil || !g.onlyCAs():
				return ""
			case r.Deny:
				return quote(path) + " has only certificates of CAs, and so refuses nobody: list it in issuer_files to refuse all whom they have certified"
			}
			return quote(path) + " has only certificates of CAs, which are no clients, and so admits nobody: list the clients' own"
		}, func(i int) place { return paths.items[i].at })
	}
}

// Networks that are wider than an organisation has: /8 is the widest that was ever
// given to one, and for IPv6 registries themselves have no wider one than /12.
const (
	widest4 = 8
	widest6 = 16
)

// breadth looks for networks that are most of the internet, alone or together.
func (l *linter) breadth(field string, list []netip.Prefix) {
	var nets []netip.Prefix
	for i, p := range list {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		widest := widest6
		if p.Addr().Is4() {
			widest = widest4
		}
		if p.Bits() < widest {
			l.add(true, fmt.Sprintf("%s[%d]", field, i), "%s is wider than any one network: list those that are meant", p)
			return
		}
		nets = append(nets, p.Masked())
	}
	slices.SortFunc(nets, netip.Prefix.Compare)
	var share4, share6 float64 // of all addresses; sums of powers of two
	var last netip.Prefix
	for _, p := range nets {
		if last.IsValid() && last.Contains(p.Addr()) {
			continue // the wider one comes first
		}
		last = p
		if share := math.Ldexp(1, -p.Bits()); p.Addr().Is4() {
			share4 += share
		} else {
			share6 += share
		}
	}
	// All IPv6 addresses that are routed are an eighth (2000::/3).
	if share4 >= 0.5 || share6 >= 0.0625 {
		l.add(true, field, "together they are at least half of the internet: list the networks that are meant")
	}
}

// wildcards looks at forms that stand for more than one name.
func (l *linter) wildcards(r *mtls.Rule) {
	for _, list := range []struct {
		field  string
		values []string
		is     func(s string) bool
		means  string
	}{
		{"Domains", r.Domains, func(s string) bool { return strings.HasPrefix(s, "*.") }, "certificates for that wildcard: list the names themselves"},
		{"URIs", r.URIs, func(s string) bool { return strings.HasSuffix(s, "/*") }, "every URI that begins so: list the URIs themselves"},
		{"Emails", r.Emails, func(s string) bool { return strings.HasPrefix(s, "*@") }, "every user of the host: list the addresses themselves"},
		{"UPNs", r.UPNs, func(s string) bool { return strings.HasPrefix(s, "*@") }, "every user of the realm: list the names themselves"},
	} {
		l.each(false, list.field, len(list.values), func(i int) string {
			if !list.is(list.values[i]) {
				return ""
			}
			return quote(list.values[i]) + " admits " + list.means + " if they are known"
		})
	}
}
