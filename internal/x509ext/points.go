package x509ext

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// DistributionPoint is one element of the CRL distribution points or the
// freshest CRL of a certificate, or the distribution point of a CRL's issuing
// distribution point (RFC 5280 sections 4.2.1.13 and 5.2.5). It shares no memory
// with what it was parsed from.
type DistributionPoint struct {
	URIs           []string // uniformResourceIdentifiers of fullName in their order, as they are
	DirectoryNames [][]byte // DER of the Names of fullName
	HasName        bool     // a distributionPoint field is present, in whichever form
	RelativeName   bool     // it is a nameRelativeToCRLIssuer; see FullName
	RelativeRDN    []byte   // contents of its SET; nil: none

	Reasons      ReasonFlags // those of the list there; AllReasons where the field is absent
	HasReasons   bool        // reasons is present: the list there may cover some reasons only
	CRLIssuer    [][]byte    // DER of the directoryNames of cRLIssuer; its other names name no issuer
	HasCRLIssuer bool        // cRLIssuer is present: the list there is somebody else's
}

// FullName returns the DER of the Name that a nameRelativeToCRLIssuer makes with
// the DER of the CRL issuer's Name (RFC 5280 section 4.2.1.13), and false where
// there is no such name or no Name to append it to.
func (p DistributionPoint) FullName(crlIssuer []byte) ([]byte, bool) {
	in := cryptobyte.String(crlIssuer)
	var rdns cryptobyte.String
	if !p.RelativeName || !in.ReadASN1(&rdns, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, false
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(rdns)
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(p.RelativeRDN) })
	})
	name, err := b.Bytes()
	return name, err == nil
}

// ReasonFlags is a set of reasons for revocation (RFC 5280 section 4.2.1.13): bit
// n of the BIT STRING is 1<<n. The zero value is the empty set.
type ReasonFlags uint16

// The reasons. The bit "unused" and those that no standard has defined are no
// reasons and are never set.
const (
	KeyCompromise ReasonFlags = 1 << (iota + 1)
	CACompromise
	AffiliationChanged
	Superseded
	CessationOfOperation
	CertificateHold
	PrivilegeWithdrawn
	AACompromise

	AllReasons ReasonFlags = 0x1fe
)

// String returns the names of RFC 5280, separated by commas.
func (f ReasonFlags) String() string {
	var names []string
	for i, name := range [...]string{
		"keyCompromise", "cACompromise", "affiliationChanged", "superseded",
		"cessationOfOperation", "certificateHold", "privilegeWithdrawn", "aACompromise",
	} {
		if f&(KeyCompromise<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// ParseReasonFlags parses the contents of a BIT STRING of ReasonFlags, without
// tag and length, and reports false if it is none.
func ParseReasonFlags(contents []byte) (ReasonFlags, bool) {
	if len(contents) == 0 {
		return 0, false
	}
	padding, octets := contents[0], contents[1:]
	if padding > 7 || padding > 0 && (len(octets) == 0 || octets[len(octets)-1]&(1<<padding-1) != 0) {
		return 0, false
	}
	var flags ReasonFlags
	bits := asn1.BitString{Bytes: octets, BitLength: 8*len(octets) - int(padding)}
	for n := range 9 {
		flags |= ReasonFlags(bits.At(n)) << n
	}
	return flags & AllReasons, true
}

var errPoints = errors.New("malformed CRL distribution points")

// maxPoints bounds the distribution points of an extension, and the names of
// each: they take many times the memory of their DER, which in a CRL may be as
// large as the CRL.
const maxPoints = 1024

// DistributionPoints parses the certificate's CRL distribution points
// extension, or returns nil and no error where there is none. It keeps what
// Certificate.CRLDistributionPoints loses: where one point ends, names after
// the first that is not a URI, reasons and cRLIssuer, without which a list that
// covers half of the reasons would pass for a complete one.
func DistributionPoints(c *x509.Certificate) ([]DistributionPoint, error) {
	return points(c, oidCRLDistributionPoints)
}

// FreshestCRL parses the certificate's freshest CRL extension, which says where
// delta CRLs are (RFC 5280 section 4.2.1.15), or returns nil and no error where
// there is none.
func FreshestCRL(c *x509.Certificate) ([]DistributionPoint, error) {
	return points(c, oidFreshestCRL)
}

func points(c *x509.Certificate, oid asn1.ObjectIdentifier) ([]DistributionPoint, error) {
	value, ok := extensionValue(c, oid)
	if !ok {
		return nil, nil
	}
	return ParseDistributionPoints(value)
}

// ParseDistributionPoints parses CRLDistributionPoints, the value of both
// extensions of a certificate and of the freshest CRL extension of a CRL (RFC
// 5280 section 5.2.6). There is at least one, and at most 1024.
func ParseDistributionPoints(value []byte) ([]DistributionPoint, error) {
	in := cryptobyte.String(value)
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || seq.Empty() {
		return nil, errPoints
	}
	var points []DistributionPoint
	for !seq.Empty() {
		var p DistributionPoint
		if len(points) == maxPoints || !readPoint(&seq, &p) {
			return nil, errPoints
		}
		points = append(points, p)
	}
	return points, nil
}

func readPoint(seq *cryptobyte.String, p *DistributionPoint) bool {
	var in, name, reasons, issuer cryptobyte.String
	if !seq.ReadASN1(&in, cbasn1.SEQUENCE) ||
		!in.ReadOptionalASN1(&name, &p.HasName, contextTag(0).Constructed()) ||
		p.HasName && !readPointName(name, p) ||
		!in.ReadOptionalASN1(&reasons, &p.HasReasons, contextTag(1)) ||
		!in.ReadOptionalASN1(&issuer, &p.HasCRLIssuer, contextTag(2).Constructed()) ||
		!in.Empty() || !p.HasName && !p.HasCRLIssuer {
		return false
	}
	p.Reasons = AllReasons
	ok := true
	if p.HasReasons {
		p.Reasons, ok = ParseReasonFlags(reasons)
	}
	if ok && p.HasCRLIssuer {
		_, p.CRLIssuer, ok = readGeneralNames(issuer)
	}
	return ok
}

// ParseDistributionPointName parses the contents of the distributionPoint field
// of an issuing distribution point: a DistributionPointName of RFC 5280
// section 4.2.1.13, without the field's own tag. The reasons are AllReasons.
func ParseDistributionPointName(contents []byte) (DistributionPoint, error) {
	p := DistributionPoint{HasName: true, Reasons: AllReasons}
	if !readPointName(contents, &p) {
		return DistributionPoint{}, errors.New("malformed distribution point name")
	}
	return p, nil
}

func readPointName(in cryptobyte.String, p *DistributionPoint) bool {
	var full, relative cryptobyte.String
	var hasFull, ok bool
	if !in.ReadOptionalASN1(&full, &hasFull, contextTag(0).Constructed()) {
		return false
	}
	if hasFull {
		p.URIs, p.DirectoryNames, ok = readGeneralNames(full)
		return ok && in.Empty()
	}
	if !in.ReadASN1(&relative, contextTag(1).Constructed()) || !in.Empty() || !isRDN(relative) {
		return false
	}
	p.RelativeName, p.RelativeRDN = true, slices.Clone(relative)
	return true
}

// isRDN reports whether in is the contents of a RelativeDistinguishedName.
func isRDN(in cryptobyte.String) bool {
	if in.Empty() {
		return false
	}
	for !in.Empty() {
		var attribute, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var tag cbasn1.Tag
		if !in.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&oid) ||
			!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
			return false
		}
	}
	return true
}

// readGeneralNames reads the contents of a GeneralNames SEQUENCE (RFC 5280
// section 4.2.1.6), of which there is at least one.
func readGeneralNames(in cryptobyte.String) (uris []string, directoryNames [][]byte, ok bool) {
	if in.Empty() {
		return nil, nil, false
	}
	for n := 0; !in.Empty(); n++ {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if n == maxPoints || !in.ReadAnyASN1(&value, &tag) {
			return nil, nil, false
		}
		switch tag {
		case contextTag(6):
			// An IA5String.
			if slices.ContainsFunc(value, func(b byte) bool { return b >= 0x80 }) {
				return nil, nil, false
			}
			uris = append(uris, string(value))
		case contextTag(4).Constructed():
			var name cryptobyte.String
			if !value.ReadASN1Element(&name, cbasn1.SEQUENCE) || !value.Empty() {
				return nil, nil, false
			}
			directoryNames = append(directoryNames, slices.Clone(name))
		case contextTag(0).Constructed(), contextTag(1), contextTag(2), contextTag(3).Constructed(),
			contextTag(5).Constructed(), contextTag(7), contextTag(8):
			// The other GeneralNames name neither an issuer nor a place to fetch
			// a list from.
		default:
			return nil, nil, false
		}
	}
	return uris, directoryNames, true
}

func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
