package testpki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidSubjectAltName           = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// Tags of GeneralName, RFC 5280 section 4.2.1.6.
var (
	tagRFC822Name = cbasn1.Tag(1).ContextSpecific()
	tagDNSName    = cbasn1.Tag(2).ContextSpecific()
	tagURI        = cbasn1.Tag(6).ContextSpecific()
	tagIPAddress  = cbasn1.Tag(7).ContextSpecific()
)

// addSubjectAltName encodes the template's names itself: x509.CreateCertificate refuses some malformed ones, and those are what tests are for.
func addSubjectAltName(t *x509.Certificate) error {
	isSAN := func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) }
	if slices.ContainsFunc(t.ExtraExtensions, isSAN) {
		return nil
	}
	if len(t.DNSNames)+len(t.EmailAddresses)+len(t.URIs)+len(t.IPAddresses) == 0 {
		return nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range t.DNSNames {
			addBytes(b, tagDNSName, []byte(name))
		}
		for _, email := range t.EmailAddresses {
			addBytes(b, tagRFC822Name, []byte(email))
		}
		for _, uri := range t.URIs {
			addBytes(b, tagURI, []byte(uri.String()))
		}
		for _, ip := range t.IPAddresses {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			addBytes(b, tagIPAddress, ip)
		}
	})
	der, err := b.Bytes()
	if err != nil {
		return err
	}
	// RFC 5280 section 4.2.1.6: critical where the subject is empty.
	empty := len(t.RawSubject) == 0 && len(t.Subject.ToRDNSequence()) == 0
	t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidSubjectAltName, Critical: empty, Value: der})
	return nil
}

// IssuingDistributionPoint is the critical extension of a CRL that covers only a part of its issuer's certificates (RFC 5280 section 5.2.5), for
// [CRLOptions].Extra. Without URIs the distribution point has no name. [Scope] has the rest.
func IssuingDistributionPoint(userOnly, caOnly bool, uris ...string) (pkix.Extension, error) {
	return Scope{PointName: PointName{URIs: uris}, UserOnly: userOnly, CAOnly: caOnly}.Extension()
}

func constructed(n uint8) cbasn1.Tag {
	return cbasn1.Tag(n).ContextSpecific().Constructed()
}

func addBytes(b *cryptobyte.Builder, tag cbasn1.Tag, v []byte) {
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(v) })
}
