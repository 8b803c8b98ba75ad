package testpki

import (
	"crypto/x509/pkix"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidDeltaCRLIndicator     = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidCertificateIssuer     = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidCRLDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidFreshestCRL           = asn1.ObjectIdentifier{2, 5, 29, 46}
)

var tagDirectoryName = cbasn1.Tag(4).ContextSpecific().Constructed() // explicit: a Name is a CHOICE

// PointName is where a CRL is: a DistributionPointName (RFC 5280 section 4.2.1.13). The zero value is absent.
type PointName struct {
	URIs           []string
	DirectoryNames [][]byte // DER of Names
	// Relative makes it a nameRelativeToCRLIssuer with this common name, and nothing else.
	Relative string
}

// Point is one distribution point of a certificate or of a freshestCRL.
type Point struct {
	PointName
	Reasons   []int  // bits of ReasonFlags; nil: absent, for all reasons
	CRLIssuer []byte // DER of the Name of who signs the list; nil: absent, the certificate's issuer
}

// Scope is an issuing distribution point (RFC 5280 section 5.2.5). The zero value is present, and without meaning.
type Scope struct {
	PointName
	UserOnly, CAOnly, AttributesOnly, Indirect bool
	SomeReasons                                []int // bits of ReasonFlags; nil: absent, for all reasons
}

// Extension is the scope for [CRLOptions].Extra, critical as it has to be.
func (s Scope) Extension() (pkix.Extension, error) {
	return extension(oidIssuingDistributionPoint, true, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			s.PointName.add(b)
			addFlag(b, 1, s.UserOnly)
			addFlag(b, 2, s.CAOnly)
			addReasons(b, 3, s.SomeReasons)
			addFlag(b, 4, s.Indirect)
			addFlag(b, 5, s.AttributesOnly)
		})
	})
}

// CRLDistributionPoints is the extension of a certificate, for [Options].Extra; it replaces what [CA].CRLURLs would give.
func CRLDistributionPoints(points ...Point) (pkix.Extension, error) {
	return pointsExtension(oidCRLDistributionPoints, points)
}

// FreshestCRL is the extension of a certificate or of a complete list that says where the delta is (RFC 5280 sections 4.2.1.15 and 5.2.6), for
// [Options].Extra and [CRLOptions].Extra.
func FreshestCRL(points ...Point) (pkix.Extension, error) {
	return pointsExtension(oidFreshestCRL, points)
}

// CertificateIssuer is the critical extension of an entry of an indirect list (RFC 5280 section 5.3.3), for ExtraExtensions of the entry. The issuer is
// the DER of a Name; it holds for the entries that follow, too.
func CertificateIssuer(issuer []byte) (pkix.Extension, error) {
	return extension(oidCertificateIssuer, true, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { addBytes(b, tagDirectoryName, issuer) })
	})
}

func pointsExtension(oid asn1.ObjectIdentifier, points []Point) (pkix.Extension, error) {
	return extension(oid, false, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, p := range points {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					p.PointName.add(b)
					addReasons(b, 1, p.Reasons)
					if p.CRLIssuer != nil {
						b.AddASN1(constructed(2), func(b *cryptobyte.Builder) { addBytes(b, tagDirectoryName, p.CRLIssuer) })
					}
				})
			}
		})
	})
}

func extension(oid asn1.ObjectIdentifier, critical bool, value func(*cryptobyte.Builder)) (pkix.Extension, error) {
	var b cryptobyte.Builder
	value(&b)
	der, err := b.Bytes()
	if err != nil {
		return pkix.Extension{}, err
	}
	return pkix.Extension{Id: oid, Critical: critical, Value: der}, nil
}

// add writes the distributionPoint field, which is explicit because the name is a CHOICE.
func (n PointName) add(b *cryptobyte.Builder) {
	if len(n.URIs)+len(n.DirectoryNames) == 0 && n.Relative == "" {
		return
	}
	b.AddASN1(constructed(0), func(b *cryptobyte.Builder) {
		if n.Relative != "" {
			b.AddASN1(constructed(1), func(b *cryptobyte.Builder) { // a RelativeDistinguishedName
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 4, 3})
					addBytes(b, cbasn1.UTF8String, []byte(n.Relative))
				})
			})
			return
		}
		b.AddASN1(constructed(0), func(b *cryptobyte.Builder) { // fullName
			for _, uri := range n.URIs {
				addBytes(b, tagURI, []byte(uri))
			}
			for _, name := range n.DirectoryNames {
				addBytes(b, tagDirectoryName, name)
			}
		})
	})
}

func addFlag(b *cryptobyte.Builder, tag uint8, set bool) {
	if set { // DER leaves a DEFAULT out
		addBytes(b, cbasn1.Tag(tag).ContextSpecific(), []byte{0xff})
	}
}

// addReasons writes ReasonFlags, a named BIT STRING without trailing zeros (X.690 section 11.2.2).
func addReasons(b *cryptobyte.Builder, tag uint8, reasons []int) {
	if reasons == nil {
		return
	}
	var bits [2]byte
	last := -1
	for _, r := range reasons {
		bits[r/8] |= 0x80 >> (r % 8)
		last = max(last, r)
	}
	content := append([]byte{byte(7 - (last+8)%8)}, bits[:(last+8)/8]...)
	addBytes(b, cbasn1.Tag(tag).ContextSpecific(), content)
}
