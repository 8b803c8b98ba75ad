// Package dn compares attributes of distinguished names with patterns: of parsed
// names (RFC 5280 section 4.1.2.4), never of texts made of them, in which a value
// can look like two attributes (CVE-2026-33248). All is pure and safe for
// concurrent use.
package dn

import (
	"crypto/x509/pkix"
	"errors"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mtlsguard/mtls/internal/altname"
)

// types are the names of attribute types: those of RFC 4519 and RFC 4524, those
// that IIS uses, and what openssl prints. They are compared without case.
var types = map[string]string{
	"cn": "2.5.4.3", "commonname": "2.5.4.3",
	"sn": "2.5.4.4", "surname": "2.5.4.4",
	"serialnumber": "2.5.4.5",
	"c":            "2.5.4.6", "countryname": "2.5.4.6",
	"l": "2.5.4.7", "localityname": "2.5.4.7",
	"st": "2.5.4.8", "s": "2.5.4.8", "stateorprovincename": "2.5.4.8",
	"street": "2.5.4.9", "streetaddress": "2.5.4.9",
	"o": "2.5.4.10", "organizationname": "2.5.4.10",
	"ou": "2.5.4.11", "organizationalunitname": "2.5.4.11",
	"t": "2.5.4.12", "title": "2.5.4.12",
	"businesscategory": "2.5.4.15",
	"postalcode":       "2.5.4.17",
	"name":             "2.5.4.41",
	"gn":               "2.5.4.42", "g": "2.5.4.42", "givenname": "2.5.4.42",
	"i": "2.5.4.43", "initials": "2.5.4.43",
	"generationqualifier":    "2.5.4.44",
	"dnqualifier":            "2.5.4.46",
	"pseudonym":              "2.5.4.65",
	"organizationidentifier": "2.5.4.97", // ETSI EN 319 412-1, PSD2
	"uid":                    "0.9.2342.19200300.100.1.1", "userid": "0.9.2342.19200300.100.1.1",
	"dc": "0.9.2342.19200300.100.1.25", "domaincomponent": "0.9.2342.19200300.100.1.25",
	"e": oidEmail, "email": oidEmail, "emailaddress": oidEmail,
	"jurisdictionl":  "1.3.6.1.4.1.311.60.2.1.1", // CA/Browser Forum EV guidelines section 9.2.4
	"jurisdictionst": "1.3.6.1.4.1.311.60.2.1.2",
	"jurisdictionc":  "1.3.6.1.4.1.311.60.2.1.3",
}

const oidEmail = "1.2.840.113549.1.9.1"

// Types returns the names of attribute types that ParseType knows, sorted.
func Types() []string { return slices.Sorted(maps.Keys(types)) }

// ParseType returns the object identifier that a name stands for, or that the
// text is, perhaps after "OID.".
func ParseType(s string) (string, bool) {
	if oid, ok := types[fold(s)]; ok {
		return oid, true
	}
	if len(s) > 4 && strings.EqualFold(s[:4], "oid.") {
		s = s[4:]
	}
	arcs := strings.Split(s, ".")
	ok := len(arcs) > 1 && len(s) <= 128
	for i, arc := range arcs {
		ok = ok && arc != "" && strings.Trim(arc, "0123456789") == "" && (arc == "0" || arc[0] != '0') && len(arc) <= 9
		ok = ok && (i > 0 || arc == "0" || arc == "1" || arc == "2")
		ok = ok && (i != 1 || arcs[0] == "2" || len(arc) == 1 || len(arc) == 2 && arc < "40") // X.660
	}
	return s, ok
}

// A Pattern is a condition on an attribute.
type Pattern struct {
	oid    string
	parts  []string // what stands between the asterisks; one part: the whole value
	folded bool     // parts are folded
	// Parts of what the value may have been meant to be, folded broadly, and in case
	// alone.
	broad, cased [][]string
}

// ParsePattern reads a pattern, in which "*" stands for any run of characters and a
// backslash takes its meaning away from an asterisk or a backslash.
func ParsePattern(typeName, value string, ignoreCase bool) (Pattern, error) {
	p := Pattern{folded: ignoreCase}
	var ok bool
	if p.oid, ok = ParseType(typeName); !ok {
		return Pattern{}, errors.New("not an attribute type: neither a known name, such as CN, O, OU, L, ST or C, nor an object identifier")
	}
	var part strings.Builder
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '*':
			p.parts = append(p.parts, part.String())
			part.Reset()
		case c == '\\' && i+1 < len(value) && (value[i+1] == '*' || value[i+1] == '\\'):
			i++
			part.WriteByte(value[i])
		case c == '\\':
			return Pattern{}, errors.New(`a backslash is written \\, and an asterisk that is meant as such \*`)
		default:
			part.WriteByte(c)
		}
	}
	p.parts = tight(append(p.parts, part.String()))
	if !utf8.ValidString(value) {
		return Pattern{}, errors.New("not UTF-8")
	}
	if value == "" {
		return Pattern{}, errors.New("empty; an attribute that may have any value is *")
	}
	p.fold(func(s string) string { return s })
	if unescaped := altname.Unescape; slices.ContainsFunc(p.parts, func(part string) bool { return unescaped(part) != part }) {
		p.fold(unescaped)
	}
	if ignoreCase {
		for i, part := range p.parts {
			p.parts[i] = fold(part)
		}
	}
	return p, nil
}

// IsEmail reports whether the attribute is emailAddress (RFC 2985 section 5.2.1).
func (p *Pattern) IsEmail() bool { return p.oid == oidEmail }

func (p *Pattern) fold(form func(string) string) {
	var broad, cased []string
	for _, part := range p.parts {
		part = form(part)
		broad, cased = append(broad, altname.Fold(part)), append(cased, altname.FoldCase(part))
	}
	p.broad, p.cased = append(p.broad, tight(broad)), append(p.cased, tight(cased))
}

// tight leaves out what is empty between two asterisks: "**" is "*", and each part
// costs time for each value.
func tight(parts []string) []string {
	last := len(parts) - 1
	at := 0
	return slices.DeleteFunc(parts, func(part string) bool {
		at++
		return part == "" && at > 1 && at <= last
	})
}

// A Value is an attribute of a name, in the forms that patterns are compared with.
type Value struct {
	oid, text, folded string
	broad, cased      []string // what it may have been meant to be
	unread            bool     // the value is no text
}

// Values returns the attributes of a parsed name. The broad form, which is for
// patterns that deny, is made only if asked for.
func Values(name pkix.Name, broad bool) []Value {
	list := make([]Value, 0, len(name.Names))
	for _, a := range name.Names {
		v := Value{oid: a.Type.String()}
		text, ok := a.Value.(string)
		v.text, v.folded, v.unread = text, fold(text), !ok || !utf8.ValidString(text)
		if broad {
			for _, form := range altname.Forms(text) {
				v.broad, v.cased = append(v.broad, altname.Fold(form)), append(v.cased, altname.FoldCase(form))
			}
		}
		list = append(list, v)
	}
	return list
}

// Matches reports whether one of the attributes matches.
func (p *Pattern) Matches(values []Value) bool {
	for i := range values {
		v := &values[i]
		if v.oid != p.oid || v.unread {
			continue
		}
		text := v.text
		if p.folded {
			text = v.folded
		}
		if like(text, p.parts) {
			return true
		}
	}
	return false
}

// MayMatch reports whether one of the attributes, made with their broad form, may
// be meant by the pattern: letters of any case, blanks of any number, and a value
// that cannot be read.
func (p *Pattern) MayMatch(values []Value) bool {
	return slices.ContainsFunc(values, func(v Value) bool {
		return v.oid == p.oid && (v.unread || anyLike(v.broad, p.broad) || anyLike(v.cased, p.cased))
	})
}

func anyLike(texts []string, patterns [][]string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		return slices.ContainsFunc(patterns, func(parts []string) bool { return like(text, parts) })
	})
}

// like reports whether s consists of the parts in their order with anything
// between them.
func like(s string, parts []string) bool {
	last := len(parts) - 1
	if last == 0 {
		return s == parts[0]
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[last])
}

// fold takes capital letters for small ones, and leaves alone what would become a
// letter of ASCII: the Kelvin sign is no k.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if l := unicode.ToLower(r); r < unicode.MaxASCII || l > unicode.MaxASCII {
			return l
		}
		return r
	}, s)
}
