package ocsp_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// The responder's name and purpose are what anybody can write; the signature of
// the CA is not (CVE-2026-32144).
func TestThreat43_ResponderNotSignedByTheCA(t *testing.T) {
	ca, cert := world(t)
	forger := newCA(t, testpki.Options{CommonName: "Acme CA", Template: func(c *x509.Certificate) { c.SubjectKeyId = nil }})
	t.Run("self-signed with the CA's name", func(t *testing.T) {
		self, err := testpki.NewRoot(testpki.Options{
			CommonName: "Acme CA", KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning},
			Template: func(c *x509.Certificate) { c.IsCA = false },
		})
		require.NoError(t, err)
		_, err = verify(delegated(t, ca, cert, &testpki.Leaf{Certificate: self.Certificate, Key: self.Key}), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
		require.ErrorContains(t, err, "not signed by the issuer")
	})
	t.Run("issued by a CA of the same name", func(t *testing.T) {
		_, err := verify(delegated(t, ca, cert, responder(t, forger, testpki.Options{})), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
		require.ErrorContains(t, err, "not signed by the issuer")
	})
	t.Run("issued by the key under another name", func(t *testing.T) {
		renamed := newCA(t, testpki.Options{CommonName: "Acme CA 2", Key: ca.Key})
		_, err := verify(delegated(t, ca, cert, responder(t, renamed, testpki.Options{})), cert, ca)
		require.ErrorContains(t, err, "not issued by the issuer")
	})
	t.Run("issued by a subordinate CA", func(t *testing.T) {
		sub, err := ca.NewIntermediate(testpki.Options{})
		require.NoError(t, err)
		r := sound(ca, cert)
		by := responder(t, sub, testpki.Options{})
		r.responder, r.certs = byName(by.Certificate), []*x509.Certificate{by.Certificate, sub.Certificate}
		_, err = verify(r.sign(t, by.Key), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
	})
}

// Expired responders were accepted (CVE-2026-42791, golang/go#43522).
func TestThreat44_ResponderOutsideItsValidity(t *testing.T) {
	ca, cert := world(t)
	at := func(d time.Duration) time.Time { return testpki.Epoch.Add(d) }
	for _, test := range []struct {
		name   string
		from   time.Duration
		to     time.Duration
		accept bool
	}{
		{"valid", -2 * time.Hour, time.Hour, true},
		{"expired", -2 * time.Hour, -time.Second, false},
		{"not yet valid", time.Hour, 2 * time.Hour, false},
		{"not yet valid when the response was produced", -30 * time.Minute, time.Hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			by := responder(t, ca, testpki.Options{NotBefore: at(test.from), NotAfter: at(test.to)})
			a, err := verify(delegated(t, ca, cert, by), cert, ca)
			if !test.accept {
				require.ErrorIs(t, err, ocsp.ErrUnauthorized)
				require.ErrorIs(t, err, ocsp.ErrExpired)
				return
			}
			require.NoError(t, err)
			require.NoError(t, a.CheckTime(at(0), skew, time.Hour))
		})
	}
	t.Run("expired when the response was produced", func(t *testing.T) {
		by := responder(t, ca, testpki.Options{NotBefore: at(-3 * time.Hour), NotAfter: at(time.Minute)})
		r := sound(ca, cert)
		r.responder, r.certs, r.producedAt = byName(by.Certificate), []*x509.Certificate{by.Certificate}, thisUpdate(2*time.Minute)
		_, err := verify(r.sign(t, by.Key), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrExpired)
	})
	t.Run("expired since it was verified", func(t *testing.T) {
		by := responder(t, ca, testpki.Options{NotBefore: at(-3 * time.Hour), NotAfter: at(time.Minute)})
		a, err := verify(delegated(t, ca, cert, by), cert, ca)
		require.NoError(t, err)
		require.ErrorIs(t, a.CheckTime(at(2*time.Minute), skew, time.Hour), ocsp.ErrExpired)
	})
}

// Any certificate of the CA could sign for its siblings (certmagic#378).
func TestThreat45_ResponderNotAuthorised(t *testing.T) {
	ca, cert := world(t)
	signing := x509.ExtKeyUsageOCSPSigning
	for _, test := range []struct {
		name    string
		options testpki.Options
		accept  bool
	}{
		{"OCSPSigning", testpki.Options{}, true},
		{"OCSPSigning and others", testpki.Options{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, signing}}, true},
		{"key usage absent", testpki.Options{Template: func(c *x509.Certificate) { c.KeyUsage = 0 }}, true},
		{"clientAuth", testpki.Options{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, false},
		{"no purpose stated", testpki.Options{ExtKeyUsage: []x509.ExtKeyUsage{}}, false},
		{"any purpose", testpki.Options{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}, false},
		{"key usage without digitalSignature", testpki.Options{KeyUsage: x509.KeyUsageKeyEncipherment}, false},
		{"unknown critical extension", testpki.Options{Extra: []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true}}}, false},
		{"a CA", testpki.Options{Template: func(c *x509.Certificate) { c.IsCA = true }}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			by := responder(t, ca, test.options)
			a, err := verify(delegated(t, ca, cert, by), cert, ca)
			if !test.accept {
				require.ErrorIs(t, err, ocsp.ErrUnauthorized)
				return
			}
			require.NoError(t, err)
			require.Equal(t, by.Certificate.Raw, a.Responder.Raw)
			require.True(t, a.ResponderNeedsCheck)
		})
	}
	t.Run("the certificate in question itself", func(t *testing.T) {
		leaf := issue(t, ca, testpki.Options{CommonName: "acme"})
		_, err := verify(delegated(t, ca, leaf.Certificate, leaf), leaf.Certificate, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
	})
	t.Run("another key than the responder's", func(t *testing.T) {
		by := responder(t, ca, testpki.Options{})
		by.Key = issue(t, ca, testpki.Options{}).Key
		_, err := verify(delegated(t, ca, cert, by), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
	})
	t.Run("nocheck lifts the check of the responder", func(t *testing.T) {
		by := responder(t, ca, testpki.Options{Extra: []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}})
		a, err := verify(delegated(t, ca, cert, by), cert, ca)
		require.NoError(t, err)
		require.False(t, a.ResponderNeedsCheck)
	})
	t.Run("a responder ID that means nobody", func(t *testing.T) {
		by := responder(t, ca, testpki.Options{})
		other := issue(t, ca, testpki.Options{CommonName: "other"}).Certificate
		for _, id := range [][]byte{byName(other), byKey(other)} {
			r := sound(ca, cert)
			r.responder, r.certs = id, []*x509.Certificate{by.Certificate}
			_, err := verify(r.sign(t, by.Key), cert, ca)
			require.ErrorIs(t, err, ocsp.ErrUnauthorized)
			_, err = verify(r.sign(t, ca.Key), cert, ca)
			require.ErrorIs(t, err, ocsp.ErrUnauthorized)
		}
	})
}
