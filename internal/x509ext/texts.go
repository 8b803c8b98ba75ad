package x509ext

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidDomainComponent = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
)

// maxDepth bounds the nesting of an otherName or a directoryName.
const maxDepth = 16

// Texts returns every text by which the certificate may name its subject, except
// the dNSNames: the attributes of the subject, the domainComponents joined in
// both orders, and the strings in the other subject alternative names (RFC 5280
// section 4.2.1.6), otherNames such as a user principal name included. They name
// nobody; they are there to be forbidden. It reports whether these are all.
func Texts(c *x509.Certificate) (texts []string, whole bool) {
	var components []string
	for _, name := range c.Subject.Names {
		text, ok := name.Value.(string)
		if !ok {
			continue
		}
		texts = append(texts, text)
		if name.Type.Equal(oidDomainComponent) && text != "" {
			components = append(components, text)
		}
	}
	texts = append(texts, strings.Join(components, "."))
	slices.Reverse(components)
	texts = append(texts, strings.Join(components, "."))
	san, ok := extensionValue(c, oidSubjectAltName)
	if !ok {
		return texts, true
	}
	var names cryptobyte.String
	if !san.ReadASN1(&names, cbasn1.SEQUENCE) {
		return texts, false
	}
	return collect(names, texts, true, 0)
}

// collect appends the strings of DER, of GeneralNames at the top, and reports whether
// it could read all of it.
func collect(in cryptobyte.String, texts []string, general bool, depth int) ([]string, bool) {
	if depth >= maxDepth {
		return texts, in.Empty()
	}
	whole := true
	for !in.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if !in.ReadAnyASN1(&value, &tag) {
			return texts, false
		}
		var all bool
		switch {
		case general && tag == cbasn1.Tag(2).ContextSpecific(): // dNSName
		case general && (tag == cbasn1.Tag(1).ContextSpecific() || tag == cbasn1.Tag(6).ContextSpecific()): // rfc822Name, URI
			texts = append(texts, string(value))
		case tag == cbasn1.UTF8String, tag == cbasn1.PrintableString, tag == cbasn1.IA5String, tag == cbasn1.T61String,
			tag == cbasn1.Tag(18), tag == cbasn1.Tag(26), tag == cbasn1.Tag(27): // NumericString, VisibleString, GeneralString
			texts = append(texts, string(value))
		case tag == cbasn1.Tag(28): // UniversalString
			texts = append(texts, universal(value))
		case tag == cbasn1.Tag(30): // BMPString
			texts = append(texts, bmp(value))
		case tag&0x20 != 0: // constructed
			texts, all = collect(value, texts, false, depth+1)
			whole = whole && all
		case (tag == cbasn1.OCTET_STRING || tag&0xc0 != 0 && !general) && utf8.Valid(value): // implicitly tagged, perhaps a text
			texts = append(texts, string(value))
		}
	}
	return texts, whole
}

// universal decodes UCS-4.
func universal(b []byte) string {
	runes := make([]rune, 0, len(b)/4)
	for ; len(b) >= 4; b = b[4:] {
		runes = append(runes, rune(binary.BigEndian.Uint32(b)))
	}
	return string(runes)
}

func bmp(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		units = append(units, uint16(b[i])<<8|uint16(b[i+1]))
	}
	return string(utf16.Decode(units))
}

// maxAttributes and maxName bound the attributes and the bytes of a name in a text.
const (
	maxAttributes = 32
	maxName       = 4 << 10
)

// NameText writes a name for people. pkix.Name.String needs time that grows with the
// square of the attributes, of which a stranger can send thousands: those beyond the
// 32 first are left out.
func NameText(name pkix.Name) string {
	if len(name.Names) <= maxAttributes {
		return name.String()
	}
	var first pkix.RDNSequence
	for _, a := range name.Names[:maxAttributes] {
		first = append(first, pkix.RelativeDistinguishedNameSET{a})
	}
	return first.String() + ",..."
}

// RDNText writes a name in the order and the form of RFC 4514, as pkix.RDNSequence has
// it, for people: at most 32 attributes and 4 KiB, in a time that grows with them
// alone. Where something is left out, "..." is at the end, and whole is false.
func RDNText(name pkix.RDNSequence) (text string, whole bool) {
	var b strings.Builder
	attributes := 0
	for i := len(name) - 1; i >= 0; i-- {
		if i < len(name)-1 {
			b.WriteByte(',')
		}
		if b.Len() >= maxName {
			return b.String() + "...", false
		}
		for j, a := range name[i] {
			if j > 0 {
				b.WriteByte('+')
			}
			if attributes++; attributes > maxAttributes {
				return b.String() + "...", false
			}
			one, whole := attributeText(a, max(0, maxName-b.Len()))
			if b.WriteString(one); !whole {
				return b.String() + "...", false
			}
		}
	}
	return b.String(), true
}

// attributeText writes one attribute in at most so many bytes. Values that are no text
// it gives away whole or not at all.
func attributeText(a pkix.AttributeTypeAndValue, most int) (text string, whole bool) {
	size := 0
	switch v := a.Value.(type) {
	case string:
		size = len(v)
		a.Value = v[:min(size, most)] // written, it is longer
	case []byte:
		size = len(v)
	case asn1.BitString:
		size = len(v.Bytes)
	}
	if _, is := a.Value.(string); size > most && !is {
		return "", false
	}
	text = pkix.RDNSequence{pkix.RelativeDistinguishedNameSET{a}}.String()
	if len(text) <= most {
		return text, true
	}
	return strings.ToValidUTF8(text[:min(len(text), most)], ""), false
}
