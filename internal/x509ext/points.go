package x509ext

import (
	"crypto/x509"
	"errors"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// DistributionPoint is one element of the CRL distribution points of a
// certificate, or the distribution point of a CRL's issuing distribution point
// (RFC 5280 sections 4.2.1.13 and 5.2.5). It shares no memory with what it was
// parsed from.
type DistributionPoint struct {
	URIs           []string // uniformResourceIdentifiers of fullName in their order, as they are
	DirectoryNames [][]byte // DER of the Names of fullName
	HasName        bool     // a distributionPoint field is present, in whichever form
	RelativeName   bool     // it is a nameRelativeToCRLIssuer
	Reasons        bool     // reasons is present: the list there covers some reasons only
	CRLIssuer      bool     // cRLIssuer is present: the list there is somebody else's
}

var errPoints = errors.New("malformed CRL distribution points")

// DistributionPoints parses the certificate's CRL distribution points
// extension, or returns nil and no error where there is none. It keeps what
// Certificate.CRLDistributionPoints loses: where one point ends, names after
// the first that is not a URI, reasons and cRLIssuer, without which a list that
// covers half of the reasons would pass for a complete one.
func DistributionPoints(c *x509.Certificate) ([]DistributionPoint, error) {
	value, ok := extensionValue(c, oidCRLDistributionPoints)
	if !ok {
		return nil, nil
	}
	var seq cryptobyte.String
	if !value.ReadASN1(&seq, cbasn1.SEQUENCE) || !value.Empty() || seq.Empty() {
		return nil, errPoints
	}
	var points []DistributionPoint
	for !seq.Empty() {
		var in, name, skipped cryptobyte.String
		var p DistributionPoint
		if !seq.ReadASN1(&in, cbasn1.SEQUENCE) ||
			!in.ReadOptionalASN1(&name, &p.HasName, contextTag(0).Constructed()) ||
			p.HasName && !readPointName(name, &p) ||
			!in.ReadOptionalASN1(&skipped, &p.Reasons, contextTag(1)) ||
			!in.ReadOptionalASN1(&skipped, &p.CRLIssuer, contextTag(2).Constructed()) ||
			!in.Empty() || !p.HasName && !p.CRLIssuer {
			return nil, errPoints
		}
		points = append(points, p)
	}
	return points, nil
}

// ParseDistributionPointName parses the contents of the distributionPoint field
// of an issuing distribution point: a DistributionPointName of RFC 5280
// section 4.2.1.13, without the field's own tag.
func ParseDistributionPointName(contents []byte) (DistributionPoint, error) {
	p := DistributionPoint{HasName: true}
	if !readPointName(contents, &p) {
		return DistributionPoint{}, errors.New("malformed distribution point name")
	}
	return p, nil
}

func readPointName(in cryptobyte.String, p *DistributionPoint) bool {
	var full, skipped cryptobyte.String
	var hasFull bool
	if !in.ReadOptionalASN1(&full, &hasFull, contextTag(0).Constructed()) {
		return false
	}
	if !hasFull {
		p.RelativeName = true
		return in.ReadASN1(&skipped, contextTag(1).Constructed()) && !skipped.Empty() && in.Empty()
	}
	if !in.Empty() || full.Empty() {
		return false
	}
	for !full.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if !full.ReadAnyASN1(&value, &tag) {
			return false
		}
		switch tag {
		case contextTag(6):
			// An IA5String (RFC 5280 section 4.2.1.6).
			if slices.ContainsFunc(value, func(b byte) bool { return b >= 0x80 }) {
				return false
			}
			p.URIs = append(p.URIs, string(value))
		case contextTag(4).Constructed():
			var name cryptobyte.String
			if !value.ReadASN1Element(&name, cbasn1.SEQUENCE) || !value.Empty() {
				return false
			}
			p.DirectoryNames = append(p.DirectoryNames, slices.Clone(name))
		case contextTag(0).Constructed(), contextTag(1), contextTag(2), contextTag(3).Constructed(),
			contextTag(5).Constructed(), contextTag(7), contextTag(8):
			// The other GeneralNames name no place to fetch a list from.
		default:
			return false
		}
	}
	return true
}

func contextTag(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
