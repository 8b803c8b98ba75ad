package ocsp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

// RequestOptions says what a request looks like. The zero value is what
// responders of the lightweight profile know (RFC 5019 section 2.1.1): SHA-1
// and no nonce, which they ignore.
type RequestOptions struct {
	// Hash is that of the CertID: SHA1, which zero means, or SHA256. It
	// protects nothing; responders differ in which they look up.
	Hash crypto.Hash
	// Nonce, 1 to MaxNonce random octets, asks for an answer made for this
	// request (RFC 9654; 32 octets are advised there). Nil: none.
	Nonce []byte
}

// NewRequest returns the DER of a request for the status of cert, which issuer
// has issued. It fails for a missing certificate, one of another issuer, and
// options that are out of range.
func NewRequest(cert, issuer *x509.Certificate, o RequestOptions) ([]byte, error) {
	if cert == nil || issuer == nil {
		return nil, errors.New("OCSP request: a certificate is missing")
	}
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return nil, errors.New("OCSP request: the certificate has another issuer")
	}
	if o.Hash == 0 {
		o.Hash = crypto.SHA1
	}
	if o.Hash != crypto.SHA1 && o.Hash != crypto.SHA256 {
		return nil, fmt.Errorf("OCSP request: hash %v is neither SHA-1 nor SHA-256", o.Hash)
	}
	if o.Nonce != nil && (len(o.Nonce) == 0 || len(o.Nonce) > MaxNonce) {
		return nil, fmt.Errorf("OCSP request: a nonce of %d octets", len(o.Nonce))
	}
	request, err := ocsp.CreateRequest(cert, issuer, &ocsp.RequestOptions{Hash: o.Hash})
	if err == nil && o.Nonce != nil {
		request, err = withNonce(request, o.Nonce)
	}
	if err != nil {
		return nil, fmt.Errorf("OCSP request: %w", err)
	}
	return request, nil
}

// withNonce adds requestExtensions, the last field of a TBSRequest (RFC 6960
// section 4.1.1), with a nonce to a request that has none.
func withNonce(request, nonce []byte) ([]byte, error) {
	in := cryptobyte.String(request)
	var outer, tbs cryptobyte.String
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1(&tbs, cbasn1.SEQUENCE) || !outer.Empty() {
		return nil, errors.New("not an unsigned OCSPRequest")
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(tbs)
			b.AddASN1(explicit(2), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // Extensions
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidNonce)
						b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { // extnValue
							b.AddASN1OctetString(nonce)
						})
					})
				})
			})
		})
	})
	return b.Bytes()
}

// parseNonce reads the value of a nonce extension (RFC 9654 section 2.1).
func parseNonce(value []byte) (string, error) {
	in := cryptobyte.String(value)
	var nonce cryptobyte.String
	if !in.ReadASN1(&nonce, cbasn1.OCTET_STRING) || !in.Empty() || nonce.Empty() || len(nonce) > MaxNonce {
		return "", malformed("nonce")
	}
	return string(nonce), nil
}
