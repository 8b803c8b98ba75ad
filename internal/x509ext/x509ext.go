// Package x509ext reads what crypto/x509 parses only in part or not at all:
// the whole of the CRL distribution points, the extensions that bear on
// revocation, and signatures made with an algorithm identifier found outside a
// certificate. It decides nothing by itself and keeps no state; all functions
// are safe for concurrent use and never modify their arguments.
package x509ext

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidAnyExtKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
	oidCRLDistributionPoints = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidExtKeyUsage           = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidFreshestCRL           = asn1.ObjectIdentifier{2, 5, 29, 46}
	oidNoRevAvail            = asn1.ObjectIdentifier{2, 5, 29, 56}
	oidOCSPNoCheck           = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	oidProxyCertInfo         = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 14}
	oidTLSFeature            = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
)

// KeyHash is the SHA-256 of the certificate's SubjectPublicKeyInfo as it was
// encoded. Two certificates for one key have one KeyHash, as long as the key is
// encoded the same way in both.
func KeyHash(c *x509.Certificate) [32]byte {
	return sha256.Sum256(c.RawSubjectPublicKeyInfo)
}

// SubjectPublicKey returns the contents of the subjectPublicKey BIT STRING
// without tag, length and unused-bits octet: what the key hashes of OCSP are
// computed over (RFC 6960 section 4.1.1). The result aliases the certificate.
func SubjectPublicKey(c *x509.Certificate) ([]byte, error) {
	in := cryptobyte.String(c.RawSubjectPublicKeyInfo)
	var spki cryptobyte.String
	var key []byte
	if !in.ReadASN1(&spki, cbasn1.SEQUENCE) || !in.Empty() ||
		!spki.SkipASN1(cbasn1.SEQUENCE) ||
		!spki.ReadASN1BitStringAsBytes(&key) || !spki.Empty() {
		return nil, errors.New("malformed SubjectPublicKeyInfo")
	}
	return key, nil
}

// extensionValue returns the value of the first extension with the identifier;
// crypto/x509 refuses certificates that have a second one.
func extensionValue(c *x509.Certificate, oid asn1.ObjectIdentifier) (cryptobyte.String, bool) {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return cryptobyte.String(e.Value), true
		}
	}
	return nil, false
}

// HasExtension reports whether the certificate carries the extension, whatever
// its value and criticality.
func HasExtension(c *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	_, ok := extensionValue(c, oid)
	return ok
}

// NoRevAvail reports whether the certificate says that its issuer publishes no
// revocation information for it (RFC 9608). The value is not looked at: all
// that follows from the extension makes a certificate less welcome, so that a
// malformed one counts as present.
func NoRevAvail(c *x509.Certificate) bool {
	return HasExtension(c, oidNoRevAvail)
}

// OCSPNoCheck reports whether the certificate carries id-pkix-ocsp-nocheck with
// the NULL that RFC 6960 section 4.2.2.2.1 demands. A malformed value counts as
// absent, because the extension lifts a check.
func OCSPNoCheck(c *x509.Certificate) bool {
	value, ok := extensionValue(c, oidOCSPNoCheck)
	var null cryptobyte.String
	return ok && value.ReadASN1(&null, cbasn1.NULL) && null.Empty() && value.Empty()
}

// MustStaple reports whether the certificate's TLS feature extension (RFC 7633)
// lists status_request or status_request_v2. An extension that cannot be read
// counts as listing it, because the feature adds a demand.
func MustStaple(c *x509.Certificate) bool {
	value, ok := extensionValue(c, oidTLSFeature)
	if !ok {
		return false
	}
	var features cryptobyte.String
	if !value.ReadASN1(&features, cbasn1.SEQUENCE) || !value.Empty() {
		return true
	}
	const statusRequest, statusRequestV2 = 5, 17 // RFC 6066 section 8, RFC 6961
	for !features.Empty() {
		var feature int64
		if !features.ReadASN1Integer(&feature) ||
			feature == statusRequest || feature == statusRequestV2 {
			return true
		}
	}
	return false
}

// ProxyCertificate reports whether the certificate carries proxyCertInfo, which
// makes it a proxy certificate of RFC 3820: issued by an end entity's key, and
// so outside of its CA's revocation.
func ProxyCertificate(c *x509.Certificate) bool {
	return HasExtension(c, oidProxyCertInfo)
}

// EmptyExtKeyUsage reports whether the certificate has an extended key usage
// extension that lists no purpose. RFC 5280 section 4.2.1.12 forbids it;
// crypto/x509 reads it like an absent extension, which permits every purpose.
func EmptyExtKeyUsage(c *x509.Certificate) bool {
	return HasExtension(c, oidExtKeyUsage) && len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0
}

// AnyExtKeyUsage reports whether the certificate's extended key usage lists
// anyExtendedKeyUsage (RFC 5280 section 4.2.1.12), or cannot be read.
func AnyExtKeyUsage(c *x509.Certificate) bool {
	value, ok := extensionValue(c, oidExtKeyUsage)
	if !ok {
		return false
	}
	var purposes cryptobyte.String
	if !value.ReadASN1(&purposes, cbasn1.SEQUENCE) || !value.Empty() {
		return true
	}
	for !purposes.Empty() {
		var oid asn1.ObjectIdentifier
		if !purposes.ReadASN1ObjectIdentifier(&oid) || oid.Equal(oidAnyExtKeyUsage) {
			return true
		}
	}
	return false
}
