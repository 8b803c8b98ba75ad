package x509ext

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// oidUPN is the content of 1.3.6.1.4.1.311.20.2.3 in DER.
const oidUPN = "\x2b\x06\x01\x04\x01\x82\x37\x14\x02\x03"

// AltNames are the names in the subject alternative name extension (RFC 5280
// section 4.2.1.6) as they were written: crypto/x509 keeps a URI only as it reads
// it, and no otherName.
type AltNames struct {
	Count  int      // of all types
	URIs   []string // uniformResourceIdentifier
	Emails []string // rfc822Name
	UPNs   []string // Microsoft user principal names, an otherName of a UTF8String
	// Whole is false where a name could not be read, or is of a type that is
	// neither dNSName, iPAddress nor one of these.
	Whole bool
	// BadUPN is set where a user principal name could not be read.
	BadUPN bool
	// Malformed is set where the extension is not DER. crypto/x509 overlooks what
	// follows the names.
	Malformed bool
}

// ReadAltNames reads the extension. Without one there are no names, which is the
// whole of it.
func ReadAltNames(c *x509.Certificate) AltNames {
	a := AltNames{Whole: true}
	value, ok := extensionValue(c, oidSubjectAltName)
	if !ok {
		return a
	}
	var names cryptobyte.String
	if !value.ReadASN1(&names, cbasn1.SEQUENCE) || !value.Empty() {
		return AltNames{Malformed: true}
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return AltNames{Malformed: true}
		}
		a.Count++
		switch tag {
		case cbasn1.Tag(0).ContextSpecific().Constructed():
			upn, is, ok := readUPN(name)
			a.BadUPN = a.BadUPN || is && !ok
			if !ok {
				a.Whole = false
				continue
			}
			a.UPNs = append(a.UPNs, upn)
		case cbasn1.Tag(1).ContextSpecific():
			a.Emails = append(a.Emails, string(name))
		case cbasn1.Tag(6).ContextSpecific():
			a.URIs = append(a.URIs, string(name))
		case cbasn1.Tag(2).ContextSpecific(), cbasn1.Tag(7).ContextSpecific():
		default:
			a.Whole = false
		}
	}
	return a
}

// readUPN reads the contents of an otherName:
//
//	OtherName ::= SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY }
//
// It reports whether it is a user principal name, or may be, and whether it could
// be read.
func readUPN(name cryptobyte.String) (upn string, is, ok bool) {
	var oid, value, text cryptobyte.String
	if !name.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return "", true, false
	}
	if string(oid) != oidUPN { // any other, however long its arcs are
		return "", false, false
	}
	ok = name.ReadASN1(&value, cbasn1.Tag(0).ContextSpecific().Constructed()) && name.Empty() &&
		value.ReadASN1(&text, cbasn1.UTF8String) && value.Empty() && utf8.Valid(text)
	return string(text), true, ok
}

// AcceptAltNames takes a critical subject alternative name extension for handled
// if all of its names are of types that rules look at. crypto/x509 handles it only
// with a dNSName, an e-mail address, an IP address or a URI in it, and so refuses
// certificates for nothing but a user principal name.
func AcceptAltNames(c *x509.Certificate, a AltNames) {
	if a.Whole && len(a.UPNs) > 0 {
		c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	}
}

// ExtensionIs reports whether the certificate has the extension with the given
// content, bit for bit.
func ExtensionIs(c *x509.Certificate, oid asn1.ObjectIdentifier, content []byte) bool {
	value, ok := extensionValue(c, oid)
	return ok && string(value) == string(content)
}

// StringExtension returns the content of an extension that is one DER UTF8String,
// PrintableString or IA5String.
func StringExtension(content []byte) (string, bool) {
	in := cryptobyte.String(content)
	var text cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&text, &tag) || !in.Empty() || !utf8.Valid(text) {
		return "", false
	}
	return string(text), tag == cbasn1.UTF8String || tag == cbasn1.PrintableString || tag == cbasn1.IA5String
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// ConstrainsUnread reports whether the name constraints of a CA certificate (RFC
// 5280 section 4.2.1.10) concern otherNames or directory names, which crypto/x509
// does not check: it refuses them where they are critical, as they must be, and
// ignores them where they are not. What cannot be read counts as both.
func ConstrainsUnread(c *x509.Certificate) (otherNames, directoryNames bool) {
	value, ok := extensionValue(c, oidNameConstraints)
	if !ok {
		return false, false
	}
	var constraints cryptobyte.String
	if !value.ReadASN1(&constraints, cbasn1.SEQUENCE) || !value.Empty() {
		return true, true
	}
	for !constraints.Empty() {
		var subtrees cryptobyte.String
		var tag cbasn1.Tag
		if !constraints.ReadAnyASN1(&subtrees, &tag) {
			return true, true
		}
		for !subtrees.Empty() {
			var subtree, base cryptobyte.String
			if !subtrees.ReadASN1(&subtree, cbasn1.SEQUENCE) || !subtree.ReadAnyASN1(&base, &tag) {
				return true, true
			}
			otherNames = otherNames || tag == cbasn1.Tag(0).ContextSpecific().Constructed()
			directoryNames = directoryNames || tag == cbasn1.Tag(4).ContextSpecific().Constructed()
		}
	}
	return otherNames, directoryNames
}
