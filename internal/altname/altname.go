// Package altname brings the URIs, e-mail addresses and user principal names of
// policies and certificates into one form, so that comparing them is comparing
// strings (RFC 5280 sections 4.2.1.6 and 7.4, 7.5).
//
// The functions that end in FromPolicy read what an operator wrote and say what is
// wrong with it. Those that end in FromSAN read what a certificate holds, and
// report false for what must match nothing. All are pure and safe for concurrent
// use.
package altname

import (
	"errors"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

const (
	spiffe    = "spiffe"
	maxSPIFFE = 2048 // bytes of an ID (SPIFFE-ID section 2.3)
	maxURI    = 8192
	maxLocal  = 64 // octets of a local part (RFC 5321 section 4.5.3.1.1)
)

// URIFromPolicy returns the canonical form of an absolute URI, or of all SPIFFE
// IDs of a trust domain ("spiffe://acme.example/*").
func URIFromPolicy(s string) (string, error) {
	if domain, ok := strings.CutSuffix(s, "/*"); ok && strings.HasPrefix(domain, spiffe+"://") {
		if !isTrustDomain(domain[len(spiffe+"://"):]) {
			return "", errors.New("not a SPIFFE trust domain: small letters, digits, '.', '-' and '_', and no '.' at its ends")
		}
		return s, nil
	}
	switch {
	case strings.Contains(s, "*"):
		return "", errors.New("no wildcard but spiffe://TRUST-DOMAIN/* is known")
	case scheme(s) == spiffe && !IsSPIFFE(s):
		return "", errors.New(`not the SPIFFE ID of a workload, such as spiffe://acme.example/payments; all of a trust domain is spiffe://acme.example/*`)
	}
	uri, ok := URIFromSAN(s)
	if !ok {
		return "", errors.New("not an absolute URI (RFC 3986) in printable ASCII")
	}
	return uri, nil
}

// URIFromSAN returns the canonical form of a URI: its scheme and host in lower
// case, and everything else as it is (RFC 5280 section 7.4).
func URIFromSAN(s string) (string, bool) {
	if len(s) > maxURI || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", false
	}
	if u, err := url.Parse(s); err != nil || u.Scheme == "" || u.Opaque == "" && u.Host == "" && u.Path == "" {
		return "", false
	}
	before, rest, _ := strings.Cut(s, ":")
	before = strings.ToLower(before)
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end = len(after)
		}
		host := strings.LastIndexByte(after[:end], '@') + 1
		rest = "//" + after[:host] + strings.ToLower(after[host:end]) + after[end:]
	}
	return sparing(before+":"+rest, s), true
}

// sparing returns s in the place of an equal copy: a policy of a million rules keeps
// the text that it was given.
func sparing(canonical, s string) string {
	if canonical == s {
		return s
	}
	return canonical
}

func scheme(s string) string {
	before, _, _ := strings.Cut(s, ":")
	return strings.ToLower(before)
}

// IsSPIFFE reports whether s is the SPIFFE ID of a workload: of a trust domain,
// with a path, in the only spelling that the SPIFFE-ID specification allows.
func IsSPIFFE(s string) bool {
	domain, path, ok := cutSPIFFE(s)
	if !ok || len(s) > maxSPIFFE || !isTrustDomain(domain) || path == "" {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || !only(segment, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_") {
			return false
		}
	}
	return true
}

// cutSPIFFE splits an ID into the trust domain and the path without its first
// slash.
func cutSPIFFE(s string) (domain, path string, ok bool) {
	rest, ok := strings.CutPrefix(s, spiffe+"://")
	if !ok {
		return "", "", false
	}
	domain, path, _ = strings.Cut(rest, "/")
	return domain, path, true
}

// ClaimsSPIFFE reports whether a canonical URI has the scheme of SPIFFE IDs, well
// formed or not.
func ClaimsSPIFFE(uri string) bool { return strings.HasPrefix(uri, spiffe+":") }

// TrustDomainOf returns the part of a SPIFFE ID that all IDs of its trust domain
// share, "spiffe://acme.example/", and "" for other URIs.
func TrustDomainOf(s string) string {
	_, path, ok := cutSPIFFE(s)
	if !ok || path == "" {
		return ""
	}
	return s[:len(s)-len(path)]
}

// TrustDomain reports whether a canonical URI of a policy stands for a whole trust
// domain, and returns it as TrustDomainOf does.
func TrustDomain(policy string) (string, bool) {
	prefix, ok := strings.CutSuffix(policy, "*")
	return prefix, ok && ClaimsSPIFFE(prefix)
}

func isTrustDomain(s string) bool {
	return s != "" && len(s) <= 255 && only(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") && strings.Trim(s, ".") == s
}

func only(s, allowed string) bool { return strings.Trim(s, allowed) == "" }

// EmailFromPolicy returns the canonical form of "user@host" or "*@host": the host
// as package dnsname has it, the user as it is (RFC 5280 section 7.5).
func EmailFromPolicy(s string) (string, error) {
	i := strings.LastIndexByte(s, '@')
	if i <= 0 {
		return "", errors.New("not user@host, or *@host for every user of the host")
	}
	host, err := dnsname.FromPolicy(s[i+1:])
	if err != nil {
		return "", err
	}
	if dnsname.IsWildcard(host) {
		return "", errors.New("a host has no wildcard")
	}
	if local := s[:i]; local != "*" && !isLocal(local) {
		return "", errors.New("the part before the @ is not a dot-atom of ASCII (RFC 5322 section 3.2.3); the only wildcard is *@host")
	}
	return sparing(s[:i]+"@"+host, s), nil
}

// EmailFromSAN returns the canonical form of an rfc822Name.
func EmailFromSAN(s string) (string, bool) {
	i := strings.LastIndexByte(s, '@')
	if i <= 0 || !isLocal(s[:i]) {
		return "", false
	}
	host, err := dnsname.FromSAN(s[i+1:])
	if err != nil || dnsname.IsWildcard(host) {
		return "", false
	}
	return s[:i] + "@" + host, true
}

// isLocal reports whether s is a dot-atom (RFC 5322 section 3.2.3) in ASCII. A
// quoted local part has several spellings; it matches nothing. An asterisk, which
// would be a wildcard in a policy, is left out.
func isLocal(s string) bool {
	if len(s) > maxLocal || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") || strings.Contains(s, "..") {
		return false
	}
	return only(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.!#$%&'+-/=?^_`{|}~")
}

// UPNFromPolicy returns the canonical form of "user@realm" or "*@realm".
func UPNFromPolicy(s string) (string, error) {
	if user, realm, _ := strings.Cut(s, "@"); user == "*" && !strings.Contains(realm, "*") {
		if _, ok := UPNFromSAN("x@" + realm); ok {
			return lowerASCII(s), nil
		}
	}
	if strings.Contains(s, "*") {
		return "", errors.New("no wildcard but *@realm is known")
	}
	upn, ok := UPNFromSAN(s)
	if !ok {
		return "", errors.New("not user@realm, in printable characters without blanks")
	}
	return upn, nil
}

// UPNFromSAN returns the canonical form of a user principal name: ASCII letters in
// lower case, everything else as it is. It has one "@", something on both sides of
// it, and no blanks, controls or asterisks, nor what becomes an "@" by normalisation.
func UPNFromSAN(s string) (string, bool) {
	user, realm, ok := strings.Cut(s, "@")
	if !ok || user == "" || realm == "" || strings.Contains(realm, "@") || len(s) > 1024 || !utf8.ValidString(s) ||
		strings.ContainsFunc(s, func(r rune) bool { return r == '*' || isAt(r) || !isGraphic(r) }) {
		return "", false
	}
	return lowerASCII(s), true
}

func isAt(r rune) bool { return r == '\uff20' || r == '\ufe6b' }

// At returns the part of a canonical e-mail address or UPN that "*@host" stands
// for: "@host".
func At(s string) string { return s[strings.LastIndexByte(s, '@'):] }

// Every reports whether a canonical e-mail address or UPN of a policy is of the
// form "*@host".
func Every(policy string) bool { return strings.HasPrefix(policy, "*@") }

// lowerASCII leaves other letters alone: strings.ToLower would make the Kelvin sign
// a k, and so one user of two.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// isGraphic excludes blanks, controls, and the formats that make two names look
// like one.
func isGraphic(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S)
}
