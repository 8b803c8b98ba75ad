package altname

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// What follows is for rules that deny. It brings together what somebody, somewhere,
// might take for the same name: whoever is denied must not come in by a different
// spelling. Matching too much is the purpose.

// Broad returns the keys of a denying URI, e-mail address or UPN of a policy, in
// canonical form. It matches a text of a certificate that has one of them among its
// own (BroadKeys).
func Broad(policy string) []string {
	if prefix, ok := TrustDomain(policy); ok {
		policy = prefix
	} else if Every(policy) {
		policy = policy[1:]
	}
	keys := []string{Fold(policy)}
	if plain := Unescape(policy); plain != policy {
		keys = append(keys, Fold(plain))
	}
	return keys
}

// maxAddresses bounds the addresses of a text.
const maxAddresses = 64

// BroadKeys returns the keys of a text of a certificate, whatever type of name it
// was found in, and false if there may be more.
func BroadKeys(text string) (keys []string, ok bool) {
	for _, form := range Forms(text) {
		folded := Fold(form)
		if strings.Count(folded, "@") > maxAddresses {
			return nil, false
		}
		keys = append(keys, folded)
		keys = addressKeys(keys, folded)
		// A domain may have letters that fold into others, which no domain has.
		if cased := norm.NFC.String(strings.ToLower(form)); cased != folded && strings.Contains(cased, "@") {
			for _, key := range addressKeys(nil, cased) {
				at := strings.LastIndexByte(key, '@')
				keys = append(keys, Fold(key[:at])+key[at:])
			}
		}
		keys = trustDomainKeys(keys, folded)
	}
	return keys, true
}

// Forms returns the text and what else it may have been meant to be: unescaped,
// and with UTF-8 that was read as Latin-1,
// which is what crypto/x509 does with a T61String.
func Forms(text string) []string {
	forms := []string{text}
	if plain := Unescape(text); plain != text {
		forms = append(forms, plain)
	}
	if b, ok := latin1(text); ok && len(b) != len(text) && utf8.Valid(b) {
		forms = append(forms, string(b))
	}
	return forms
}

// Unescape decodes the percent-encoding (RFC 3986 section 2.1) that it can: one escape that is none does not hide the others.
func Unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

func latin1(text string) ([]byte, bool) {
	b := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			return nil, false
		}
		b = append(b, byte(r))
	}
	return b, true
}

// maxUsers bounds the users that what stands before an "@" is tried for.
const maxUsers = 16

// addressKeys appends what looks like an address in a folded text: in quotes, with
// comments or between angle brackets (RFC 5322 section 3.4), with blanks, in a URI, or
// with something behind it.
func addressKeys(keys []string, text string) []string {
	if !strings.Contains(text, "@") {
		return keys
	}
	var plain strings.Builder // without quotes and comments
	depth, escaped := 0, false
	for _, r := range text {
		switch {
		case escaped && depth > 0:
			escaped = false
			continue
		case r == '(':
			depth++
		case r == ')':
			depth = max(depth-1, 0)
		case depth == 0 && r != '"' && r != '\\':
			plain.WriteRune(r)
		}
		escaped = r == '\\'
	}
	spellings := []string{text, besideAt(text), besideAt(plain.String())}
	for i, s := range spellings {
		if slices.Contains(spellings[:i], s) {
			continue
		}
		for rest := 0; ; {
			i := strings.IndexByte(s[rest:], '@')
			if i < 0 {
				break
			}
			i += rest
			rest = i + 1
			from := strings.LastIndexFunc(s[:i], isSeparator)
			if from >= 0 {
				_, size := utf8.DecodeRuneInString(s[from:])
				from += size
			} else {
				from = 0
			}
			to := len(s)
			if end := strings.IndexFunc(s[i+1:], func(r rune) bool { return isSeparator(r) || strings.ContainsRune("?/#&:@'", r) }); end >= 0 {
				to = i + 1 + end
			}
			user, host := s[from:i], strings.Trim(s[i+1:to], ".")
			keys = hostKeys(keys, user, host)
			end := len(user)
			for range maxUsers { // which part of it is the user, as in a URI, is not known
				if end = strings.LastIndexAny(user[:end], "/?&='"); end < 0 {
					break
				}
				keys = hostKeys(keys, user[end+1:], host)
			}
		}
	}
	// A realm, or a user of it, may hold what ends an address elsewhere.
	i := strings.LastIndexByte(text, '@')
	keys = append(keys, text[i:])
	return hostKeys(keys, text[:i], strings.TrimRight(text[i+1:], ". "))
}

// besideAt leaves out the blanks beside an "@".
func besideAt(s string) string {
	for _, blank := range [...]string{" @", "@ "} {
		s = strings.ReplaceAll(s, blank, "@")
	}
	return s
}

// hostKeys appends the keys of a user of a host, and of every user of it: with the
// host as it is, and as A-labels and U-labels.
func hostKeys(keys []string, user, host string) []string {
	keys = append(keys, "@"+host, user+"@"+host)
	if name, err := dnsname.FromPolicy(norm.NFC.String(host)); err == nil {
		if name != host {
			keys = append(keys, "@"+name, user+"@"+name)
		}
		if u := dnsname.Unicode(name); u != name {
			u = Fold(u)
			keys = append(keys, "@"+u, user+"@"+u)
		}
	}
	return keys
}

// isSeparator reports whether a character ends an address on its left or its right.
func isSeparator(r rune) bool {
	return strings.ContainsRune("<>()[],;:\"\\@ ", r)
}

// trustDomainKeys appends the trust domain of what looks like a SPIFFE ID.
func trustDomainKeys(keys []string, text string) []string {
	rest, ok := strings.CutPrefix(text, spiffe+":")
	if !ok {
		return keys
	}
	rest = strings.TrimLeft(rest, "/")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	rest, _, _ = strings.Cut(rest, ":")
	return append(keys, spiffe+"://"+strings.Trim(rest, ".")+"/")
}

// Fold brings together characters that look or mean the same: by compatibility,
// decomposed (NFKD, Unicode Standard Annex 15), so that a part of a text is folded as
// it is within the whole, and in case. What is not seen is left out, blanks go from
// both ends, and one blank stands for several.
func Fold(s string) string {
	fold := cases.Fold()
	s = norm.NFKC.String(fold.String(norm.NFKC.String(FoldCase(s))))
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\u3002', r == '\uff61': // other full stops (RFC 3490 section 3.1)
			return '.'
		case unicode.IsSpace(r), unicode.IsControl(r):
			return ' '
		case unicode.In(r, unicode.Cf, unicode.Variation_Selector), r == '\u034f', r == '\u115f', r == '\u1160', r == '\u3164':
			return -1
		}
		return r
	}, s)
	return norm.NFKD.String(FoldCase(norm.NFKD.String(fold.String(s))))
}

// FoldCase is Fold for case and blanks alone (Unicode's simple case folding): each
// character by itself.
func FoldCase(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		const iotaBelow = '\u0345' // a mark, with the same capital as the letter iota
		if r == iotaBelow {
			return 'ι'
		}
		least := r
		for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
			if o != iotaBelow {
				least = min(least, o)
			}
		}
		return unicode.ToLower(least)
	}, s)), " ")
}
