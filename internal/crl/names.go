package crl

import (
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// comparable returns a form of the DER of a Name that is the same for Names which
// differ in the types of their strings, in case and in spaces (RFC 5280 section
// 7.1). A CRL issuer that writes the name of another CA in its own manner must not
// thereby lose the entries of that CA. What cannot be read stays as it is. Taking
// two Names for one can only make an entry count for a certificate too many.
func comparable(name []byte) string {
	in := cryptobyte.String(name)
	var rdns cryptobyte.String
	if !in.ReadASN1(&rdns, cbasn1.SEQUENCE) || !in.Empty() {
		return string(name)
	}
	var b cryptobyte.Builder
	for !rdns.Empty() {
		var rdn cryptobyte.String
		if !rdns.ReadASN1(&rdn, cbasn1.SET) {
			return string(name)
		}
		var attributes []string
		for !rdn.Empty() {
			var attribute, kind, value cryptobyte.String
			var tag cbasn1.Tag
			if !rdn.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1Element(&kind, cbasn1.OBJECT_IDENTIFIER) ||
				!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
				return string(name)
			}
			attributes = append(attributes, string(kind)+text(tag, value))
		}
		slices.Sort(attributes)
		b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, a := range attributes {
				b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(a)) })
			}
		})
	}
	return "\x00" + string(b.BytesOrPanic()) // no DER of a Name begins so
}

func text(tag cbasn1.Tag, value []byte) string {
	s := string(value)
	switch tag {
	case cbasn1.UTF8String, cbasn1.PrintableString, cbasn1.IA5String, cbasn1.Tag(26): // VisibleString
	case cbasn1.T61String: // as the ISO 8859-1 that it is in practice
		r := make([]rune, len(value))
		for i, c := range value {
			r[i] = rune(c)
		}
		s = string(r)
	case cbasn1.Tag(30): // BMPString
		u := make([]uint16, len(value)/2)
		for i := range u {
			u[i] = uint16(value[2*i])<<8 | uint16(value[2*i+1])
		}
		s = string(utf16.Decode(u))
	default:
		return string(rune(tag)) + s
	}
	return strings.Join(strings.Fields(strings.ToLower(strings.ToUpper(s))), " ")
}
