package altname

import (
	"net/url"
	"strings"
	"unicode"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// What follows is for rules that deny. It brings together what somebody, somewhere,
// might take for the same name: whoever is denied must not come in by a different
// spelling. Matching too much is the purpose.

// Broad returns the keys of which a denying URI, e-mail address or UPN of a policy,
// in canonical form, has one and a text of a certificate may have several
// (BroadKeys): they match if they share one.
func Broad(policy string) string {
	if prefix, ok := TrustDomain(policy); ok {
		return Fold(prefix)
	}
	if Every(policy) {
		return Fold(policy[1:])
	}
	return Fold(policy)
}

// BroadKeys returns the keys of a text of a certificate, whatever type of name it
// was found in.
func BroadKeys(text string) []string {
	keys := broadKeys(nil, Fold(text))
	if plain, err := url.PathUnescape(text); err == nil && plain != text {
		keys = broadKeys(keys, Fold(plain))
	}
	return keys
}

func broadKeys(keys []string, text string) []string {
	keys = append(keys, text)
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		host := strings.TrimRight(text[i+1:], ". ")
		keys = append(keys, text[i:], text[i:i+1]+host, text[:i+1]+host)
		if name, err := dnsname.FromPolicy(host); err == nil {
			keys = append(keys, "@"+name, text[:i+1]+name)
		}
	}
	if rest, ok := strings.CutPrefix(text, spiffe+":"); ok {
		rest = strings.TrimLeft(rest, "/")
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			rest = rest[:end]
		}
		rest = rest[strings.LastIndexByte(rest, '@')+1:]
		rest, _, _ = strings.Cut(rest, ":")
		keys = append(keys, spiffe+"://"+strings.TrimRight(rest, ".")+"/")
	}
	return keys
}

// Fold brings letters of one kind together (Unicode's simple case folding), takes
// blanks away from both ends, and makes one of several.
func Fold(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		least := r
		for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
			least = min(least, o)
		}
		return unicode.ToLower(least)
	}, s)), " ")
}
