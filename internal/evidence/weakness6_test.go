package evidence_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// A certificate of the signer's key that may not sign lists vouches for none, though
// its status be known and that of the signer's not.
func TestOtherCertificateOfTheKeyWithoutCRLSign(t *testing.T) {
	d := newDeep(t)
	d.only([]string{crlURL}, nil)
	s := d.signer(d.middle, d.name(), testpki.Options{Template: func(c *x509.Certificate) { c.CRLDistributionPoints = nil }})
	d.middle.CRLURLs = []string{signerURL}
	other, err := d.middle.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCertSign})
	require.NoError(t, err)
	d.middle.CRLURLs = nil
	d.on("signer-crl.test", says(d.of(d.middle)))
	d.on("crl.test", says(d.of(s)))
	// Its status is known.
	q := d.leaf()
	about := evidence.Query{Cert: other, Issuer: d.middle.Certificate, Above: []*x509.Certificate{d.root.Certificate}, Fetch: d.fetch}
	require.Equal(t, evidence.Good, d.check(about).Status)
	q.Candidates = []*x509.Certificate{s.Certificate, other}
	for range 3 {
		require.Equal(t, evidence.Unknown, d.check(q).Status)
		d.advance(time.Minute)
	}
}

// Nor does a delta of a signer that only another anchor has certified revoke anything
// for those of the issuer's own chain.
func TestDeltaOfASignerOfAnotherAnchorRevokesNothing(t *testing.T) {
	w := newWorld(t)
	q, _ := w.amended(false)
	w.on("crl.test", says(w.list(1)))
	other := w.root(testpki.Options{})
	cross, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	s := w.signer(other, w.ca.Certificate.Subject.CommonName, testpki.Options{})
	w.on("signer-crl.test", says(w.of(other)))
	w.on("delta.test", says(w.of(s, base(0), entry(q.Cert, keyCompromise))))
	evil := q
	evil.Issuer, evil.Above, evil.Owner, evil.Candidates = cross, []*x509.Certificate{other.Certificate}, [32]byte{'o'}, []*x509.Certificate{s.Certificate}
	require.Equal(t, evidence.Revoked, w.check(evil).Status)
	w.on("delta.test", fails)
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}
