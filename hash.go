package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// A CertificateHash is the SHA-256 of a certificate's DER: what browsers and
// `openssl x509 -fingerprint -sha256` show. A renewed certificate has another
// one. It stands for the certificate bit for bit, but for one freedom that ECDSA
// gives to everybody: the signature (r, s) may be written as (r, n-s). The zero
// CertificateHash matches nothing.
type CertificateHash [sha256.Size]byte

// HashCertificate returns the hash of the certificate.
func HashCertificate(c *x509.Certificate) CertificateHash { return sha256.Sum256(c.Raw) }

// ParseCertificateHash reads 64 hexadecimal digits; colons between bytes are
// allowed, as openssl prints them.
func ParseCertificateHash(s string) (CertificateHash, error) {
	h, err := parseHash(s)
	return CertificateHash(h), err
}

// String returns 64 hexadecimal digits.
func (h CertificateHash) String() string { return hex.EncodeToString(h[:]) }

// A KeyHash is the SHA-256 of a certificate's DER SubjectPublicKeyInfo (RFC 5280
// section 4.1.2.7). It stays the same when a certificate is renewed for the
// same key. The zero KeyHash matches nothing.
type KeyHash [sha256.Size]byte

// HashPublicKey returns the hash of the certificate's public key.
func HashPublicKey(c *x509.Certificate) KeyHash { return x509ext.KeyHash(c) }

// ParseKeyHash reads 64 hexadecimal digits; colons between bytes are allowed.
func ParseKeyHash(s string) (KeyHash, error) {
	h, err := parseHash(s)
	return KeyHash(h), err
}

// String returns 64 hexadecimal digits.
func (h KeyHash) String() string { return hex.EncodeToString(h[:]) }

func parseHash(s string) (h [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("mtls: %s is not a SHA-256 hash of %d hexadecimal digits", quote(s), 2*len(h))
	}
	copy(h[:], b)
	if h == [sha256.Size]byte{} {
		return h, fmt.Errorf("mtls: the zero hash is the hash of nothing")
	}
	return h, nil
}
