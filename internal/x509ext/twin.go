package x509ext

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Canonical reports whether the outer structure of the certificate is DER and
// nothing more: the signed part, the algorithm, and a signature of whole octets.
// crypto/x509 also reads certificates with further elements behind the signature,
// or with its bits shifted, which anybody can write without a key: each has
// another hash than the certificate that was issued.
func Canonical(c *x509.Certificate) bool {
	outer := cryptobyte.String(c.Raw)
	var certificate, part cryptobyte.String
	var signature []byte
	return outer.ReadASN1(&certificate, cbasn1.SEQUENCE) && outer.Empty() &&
		certificate.ReadASN1Element(&part, cbasn1.SEQUENCE) && bytes.Equal(part, c.RawTBSCertificate) &&
		certificate.ReadASN1(&part, cbasn1.SEQUENCE) &&
		certificate.ReadASN1BitStringAsBytes(&signature) && certificate.Empty()
}

// Twin returns the other DER of a certificate that an ECDSA key has signed, and
// whether there is one. A signature (r, s) is as valid as (r, n-s), where n is the
// order of the curve, and anybody can compute the one from the other: such a
// certificate has two canonical encodings, and two hashes, with the same contents.
func Twin(c, issuer *x509.Certificate) ([]byte, bool) {
	key, ok := issuer.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, false
	}
	signature := cryptobyte.String(c.Signature)
	r, s := new(big.Int), new(big.Int)
	var in cryptobyte.String
	if !signature.ReadASN1(&in, cbasn1.SEQUENCE) || !in.ReadASN1Integer(r) || !in.ReadASN1Integer(s) {
		return nil, false
	}
	s.Sub(key.Params().N, s)
	outer := cryptobyte.String(c.Raw)
	var certificate, tbs, algorithm cryptobyte.String
	if !outer.ReadASN1(&certificate, cbasn1.SEQUENCE) ||
		!certificate.ReadASN1Element(&tbs, cbasn1.SEQUENCE) || !certificate.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) {
		return nil, false
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddASN1(cbasn1.BIT_STRING, func(b *cryptobyte.Builder) {
			b.AddUint8(0)
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1BigInt(r)
				b.AddASN1BigInt(s)
			})
		})
	})
	twin, err := b.Bytes()
	return twin, err == nil
}

// CanonicalKey reports whether the SubjectPublicKeyInfo is the one DER of its key.
// crypto/x509 also reads keys with something behind them, which is another KeyHash of
// the same key, and which a CA may copy from a request.
//
// Keys of other kinds than RSA, ECDSA and Ed25519, which verify nothing here, are not
// looked at.
func CanonicalKey(c *x509.Certificate) bool {
	switch c.PublicKey.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return true
	}
	der, err := x509.MarshalPKIXPublicKey(c.PublicKey)
	return err == nil && bytes.Equal(der, c.RawSubjectPublicKeyInfo)
}
