// Package dnsname brings the domain names of policies, certificates and
// requests into one form, so that comparing them is comparing strings (RFC 9525
// section 6.3, RFC 5890 section 2.3).
//
// The canonical form is the host name in lower-case A-labels without the final
// dot, or "*." and such a name. A canonical name is never an IP address. An
// underscore is allowed in ASCII labels of policies and certificates alike: RFC
// 1123 host names have none, but private authorities issue for such names,
// crypto/x509 matches them, and they have only one reading.
//
// All functions are pure and safe for concurrent use.
package dnsname

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

const (
	maxName   = 253 // RFC 1035 section 2.3.4: 255 octets on the wire, less the first length and the root label
	maxLabel  = 63  // RFC 1035 section 2.3.4
	maxQuoted = 256 // bytes of foreign text in an error
)

// FromPolicy returns the canonical form of a name as an operator writes it: a
// host name, or "*." and a host name, in A-labels or U-labels, in any case,
// with at most one final dot. U-labels must be fit for registration (RFC 5891
// section 4): normalised (NFC), without look-alikes of dots and letters that
// IDNA would map away, correct in direction and joiners. IP addresses, ports
// and blanks are errors. What it returns FromSAN accepts unchanged.
func FromPolicy(s string) (string, error) {
	name, problem := aLabels(strings.TrimSuffix(s, "."))
	if problem == "" {
		name, problem = canonical(name)
	}
	if problem != "" {
		return "", fmt.Errorf("%s is not a domain name: %s", Quote(s), problem)
	}
	return name, nil
}

// FromSAN returns the canonical form of a dNSName of a certificate (RFC 5280
// section 4.2.1.6): a host name in ASCII, or "*." and one, in any case. It
// refuses what has a second reading somewhere: a final dot, an empty label,
// bytes other than letters, digits, '-' and '_' (a NUL that C code takes for
// the end, as in CVE-2026-47778), an IP address or a name that a URL parser
// takes for one, and A-labels that do not survive the way to Unicode and back
// (xn--example- for example, as in CVE-2026-39821). It does not allocate for a
// canonical name without A-labels.
func FromSAN(s string) (string, error) {
	name, problem := canonical(s)
	if problem != "" {
		return "", fmt.Errorf("%s is not a host name: %s", Quote(s), problem)
	}
	return name, nil
}

// aLabels replaces the labels of s that are not ASCII by their A-labels and
// says why that is impossible.
func aLabels(s string) (name, problem string) {
	if isASCII(s) {
		return s, ""
	}
	if len(s) > maxName*utf8.UTFMax { // an A-label has no fewer bytes than its U-label has runes
		return "", "longer than 253 bytes"
	}
	labels := strings.Split(s, ".")
	for i, label := range labels {
		if isASCII(label) {
			continue
		}
		// Registration maps nothing, so letter case, which it forbids, goes
		// first. That also makes U+FFFD of invalid UTF-8, which it forbids as
		// well.
		a, err := idna.Registration.ToASCII(strings.ToLower(label))
		if err != nil {
			return "", Quote(label) + " is not fit for registration"
		}
		if !strings.HasPrefix(a, "xn--") { // U+212A KELVIN SIGN is k in lower case
			return "", "a look-alike of an ASCII letter"
		}
		labels[i] = a
	}
	return strings.Join(labels, "."), ""
}

// canonical checks s byte by byte and label by label, and lowers its case.
func canonical(s string) (name, problem string) {
	if len(s) > maxName {
		return "", "longer than 253 bytes"
	}
	host := strings.TrimPrefix(s, "*.")
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		case c == '*':
			return "", "'*' is not the whole first label, or stands alone"
		default:
			return "", "a byte that host names do not have"
		}
	}
	name = strings.ToLower(s)
	rest, more := strings.TrimPrefix(name, "*."), true
	var label string
	for more {
		label, rest, more = strings.Cut(rest, ".")
		if problem := checkLabel(label); problem != "" {
			return "", problem
		}
	}
	if isNumber(label) {
		return "", "it ends in a number, as IP addresses do"
	}
	return name, ""
}

// checkLabel says what is wrong with a label in lower case.
func checkLabel(label string) string {
	switch {
	case label == "":
		return "an empty label"
	case len(label) > maxLabel:
		return "a label longer than 63 bytes"
	case label[0] == '-' || label[len(label)-1] == '-':
		return "a label begins or ends with '-'"
	case strings.HasPrefix(label, "xn--") && !isALabel(label):
		return "an invalid A-label (xn--)"
	}
	return ""
}

// isALabel reports whether label is what the U-label behind it becomes: ToASCII
// decodes, validates and encodes it again. The comparison holds also where the
// decoder is lenient.
func isALabel(label string) bool {
	a, err := idna.Registration.ToASCII(label)
	return err == nil && a == label
}

// isNumber reports whether a last label makes URL parsers and inet_aton read
// the name as an IPv4 address ("10", "0x7f").
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Unicode returns a canonical name with U-labels in place of A-labels.
func Unicode(name string) string {
	u, err := idna.ToUnicode(name)
	if err != nil {
		return name
	}
	return u
}

// IsWildcard reports whether the canonical name stands for all names one label
// longer.
func IsWildcard(name string) bool { return strings.HasPrefix(name, "*.") }

// WildcardUnderPublicSuffix reports whether the canonical pattern is a wildcard
// directly under a public suffix, or one that covers public suffixes, so that
// it stands for names of unrelated owners: "*.com", "*.co.uk", "*.github.io"
// (private section included), "*.kawasaki.jp". A single label that the list
// does not name counts as a public suffix, as the list's default rule has it:
// "*.test".
func WildcardUnderPublicSuffix(pattern string) bool {
	base, ok := strings.CutPrefix(pattern, "*.")
	if !ok {
		return false
	}
	// No entry of the list has the label "_": it is a public suffix only where
	// every label is.
	return isPublicSuffix(base) || isPublicSuffix("_."+base)
}

func isPublicSuffix(name string) bool {
	suffix, _ := publicsuffix.PublicSuffix(name)
	return suffix == name
}

// Overlap reports whether some host name matches both a and b, which are
// canonical names or wildcards. A wildcard stands for exactly one label, so
// "*.b" and "*.a.b" have nothing in common. The empty string matches nothing.
func Overlap(a, b string) bool {
	if a == b {
		return a != ""
	}
	return covers(a, b) || covers(b, a)
}

// covers reports whether the wildcard pattern stands for the host name, which
// may be a different wildcard: none covers another.
func covers(pattern, host string) bool {
	base, ok := strings.CutPrefix(pattern, "*.")
	if !ok {
		return false
	}
	label, parent, ok := strings.Cut(host, ".")
	return ok && label != "" && parent == base
}

// InSubtree reports whether the canonical name lies in the subtree of names
// that the canonical scope spans (RFC 5280 section 4.2.1.10): the scope itself
// and all below it. A wildcard lies where its base does. An empty scope, or one
// with a wildcard, spans nothing.
func InSubtree(name, scope string) bool {
	if scope == "" || IsWildcard(scope) {
		return false
	}
	name = strings.TrimPrefix(name, "*.")
	return name == scope || strings.HasSuffix(name, "."+scope)
}

// FoldHost returns an HTTP Host (RFC 9110 section 7.2) or TLS server name in
// the form in which the two are compared: without port, brackets and one final
// dot, in ASCII lower case (CVE-2022-23632: a final dot chose other TLS
// options). It checks nothing; what is not of the form host, host:port, [IPv6]
// or [IPv6]:port only has its case folded, and equals no valid name.
func FoldHost(hostport string) string {
	host := hostport
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.Trim(host[i+1:], "0123456789") == "" {
		if h := host[:i]; !strings.Contains(h, ":") || strings.HasSuffix(h, "]") {
			host = h
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok && strings.Contains(inner, ":") {
			host = inner
		}
	}
	return lowerASCII(strings.TrimSuffix(host, "."))
}

// lowerASCII leaves other letters alone: strings.ToLower would make the Kelvin
// sign a k, and so one host of two.
func lowerASCII(s string) string {
	if !strings.ContainsFunc(s, isUpper) {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if isUpper(rune(c)) {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func isUpper(r rune) bool { return 'A' <= r && r <= 'Z' }

// Quote returns s for use in an error: quoted, and cut to 256 bytes, because
// names come from peers and the network.
func Quote(s string) string {
	q := strconv.QuoteToASCII(s[:min(len(s), maxQuoted)])
	if len(q) > maxQuoted { // always where s was cut
		q = q[:maxQuoted-4] + `..."`
	}
	return q
}
