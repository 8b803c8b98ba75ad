package x509ext

import (
	"crypto/ecdsa"
	"crypto/x509"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Twin returns the other DER of a certificate that an ECDSA key has signed, and
// whether there is one. A signature (r, s) is as valid as (r, n-s), where n is the
// order of the curve, and anybody can compute the one from the other: such a
// certificate has two encodings, and two hashes, with the same contents.
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
