package ocsp

import (
	"bytes"
	"crypto"
	_ "crypto/sha1"   // hashes of CertIDs
	_ "crypto/sha256" // likewise
	_ "crypto/sha512" // likewise
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}

// certIDHashes are the hash functions of a CertID. SHA-1 is safe here: a second
// preimage of a CA's name and key would be needed, not a collision.
var certIDHashes = []struct {
	oid  asn1.ObjectIdentifier
	hash crypto.Hash
}{
	{asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}, crypto.SHA1},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, crypto.SHA256},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, crypto.SHA384},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, crypto.SHA512},
}

// Verify verifies a response in DER and returns what it says about cert, which
// issuer, the certificate next to it in a verified chain, has issued. It does
// all of RFC 6960 section 3.2 but for the times of the answer, which CheckTime
// looks at: the response answers for this certificate of this issuer, and is
// signed by the issuer's key or by a responder that the issuer's key has
// authorised. Of several answers for cert the worst counts: revoked, then
// unknown, then good; of several good ones the one that ends first, of several
// others the one that ends last.
//
// A delegated responder's certificate must be valid at now and at the time of
// production; skew is the tolerance for one that starts later.
func Verify(der []byte, cert, issuer *x509.Certificate, now time.Time, skew time.Duration) (*Answer, error) {
	if cert == nil || issuer == nil {
		return nil, fmt.Errorf("%w: a certificate is missing", ErrNoAnswer)
	}
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return nil, fmt.Errorf("%w: the certificate has another issuer", ErrNoAnswer)
	}
	r, err := parse(der)
	if err != nil {
		return nil, err
	}
	issuerKey, err := x509ext.SubjectPublicKey(issuer)
	if err != nil {
		return nil, fmt.Errorf("%w: issuer: %w", ErrNoAnswer, err)
	}
	// Before the signature: to compare costs less than to verify.
	var worst *single
	for i := range r.singles {
		s := &r.singles[i]
		if s.matches(cert, issuer, issuerKey) && (worst == nil || s.worseThan(worst)) {
			worst = s
		}
	}
	if worst == nil {
		return nil, ErrNoAnswer
	}
	responder, err := r.signer(issuer, now, skew)
	if err != nil {
		return nil, err
	}
	return &Answer{
		Status:              worst.status,
		ThisUpdate:          worst.thisUpdate,
		NextUpdate:          worst.nextUpdate,
		ProducedAt:          r.producedAt,
		RevokedAt:           worst.revokedAt,
		Reason:              worst.reason,
		HasReason:           worst.hasReason,
		Responder:           responder,
		ResponderNeedsCheck: responder != nil && !x509ext.OCSPNoCheck(responder),
		Nonce:               r.nonce,
	}, nil
}

// matches compares all of the CertID (RFC 6960 section 4.1.1). A serial number
// alone is shared by certificates of every CA that counts from 1.
func (s *single) matches(cert, issuer *x509.Certificate, issuerKey []byte) bool {
	for _, h := range certIDHashes {
		if h.oid.Equal(s.hash) {
			return s.serial.Cmp(cert.SerialNumber) == 0 &&
				bytes.Equal(s.nameHash, digest(h.hash, issuer.RawSubject)) &&
				bytes.Equal(s.keyHash, digest(h.hash, issuerKey))
		}
	}
	return false
}

func digest(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}

// worseThan orders answers for the same certificate: of two good ones that
// which ends first is worse, of two others that which ends last. One without
// nextUpdate ends first: it is good for an hour or so.
func (s *single) worseThan(other *single) bool {
	rank := func(s Status) int { return slices.Index([]Status{Good, Unknown, Revoked}, s) }
	if a, b := rank(s.status), rank(other.status); a != b {
		return a > b
	}
	if s.status == Good {
		return s.nextUpdate.Before(other.nextUpdate)
	}
	return other.nextUpdate.Before(s.nextUpdate)
}

// signer returns the certificate of the delegated responder that signed, or nil
// if the issuer did. The issuer's certificate may be among the embedded ones,
// and the responder's need not be the first.
func (r *response) signer(issuer *x509.Certificate, now time.Time, skew time.Duration) (*x509.Certificate, error) {
	problem := ErrUnauthorized
	if r.identifies(issuer) {
		err := x509ext.CheckSignature(issuer, r.algorithm, r.signed, r.signature)
		if err == nil {
			return nil, nil
		}
		problem = fmt.Errorf("%w; issuer: %w", problem, err)
	}
	for i, c := range r.certificates {
		if !r.identifies(c) || bytes.Equal(c.Raw, issuer.Raw) {
			continue
		}
		err := r.authorised(c, issuer, now, skew)
		if err == nil {
			err = x509ext.CheckSignature(c, r.algorithm, r.signed, r.signature)
		}
		if err == nil {
			return c, nil
		}
		problem = fmt.Errorf("%w; embedded certificate %d: %w", problem, i+1, err)
	}
	if problem == ErrUnauthorized {
		return nil, fmt.Errorf("%w: no certificate fits the responder ID", ErrUnauthorized)
	}
	return nil, problem
}

// identifies reports whether the ResponderID means the certificate.
func (r *response) identifies(c *x509.Certificate) bool {
	if r.responderName != nil {
		return bytes.Equal(r.responderName, c.RawSubject)
	}
	key, err := x509ext.SubjectPublicKey(c)
	return err == nil && bytes.Equal(r.responderKey, digest(crypto.SHA1, key))
}

// authorised decides whether c may sign answers in the name of issuer (RFC 6960
// section 4.2.2.2): name and purpose are what anybody can write into a
// certificate, the signature of the issuer's key is what nobody else can
// (CVE-2026-32144).
func (r *response) authorised(c, issuer *x509.Certificate, now time.Time, skew time.Duration) error {
	switch {
	case !bytes.Equal(c.RawIssuer, issuer.RawSubject):
		return errors.New("not issued by the issuer")
	case !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		// anyExtendedKeyUsage does not count: the CA must have meant it.
		return errors.New("lacks the purpose OCSPSigning")
	case c.IsCA:
		// Sub-CAs have been issued with OCSPSigning by mistake (in 2020, by
		// many public CAs) and could then lift their own revocation.
		return errors.New("is a CA certificate")
	case x509ext.HasExtension(c, oidKeyUsage) && c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("key usage lacks digitalSignature")
	case len(c.UnhandledCriticalExtensions) > 0:
		return errors.New("has a critical extension that is not supported")
	case !validAt(c, now, skew) || !validAt(c, r.producedAt, skew):
		return fmt.Errorf("%w: certificate valid from %s to %s", ErrExpired, stamp(c.NotBefore), stamp(c.NotAfter))
	}
	// Refuses SHA-1 and an issuer that may not sign certificates.
	if err := c.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("not signed by the issuer: %w", err)
	}
	return nil
}
