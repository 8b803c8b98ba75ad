package evidence_test

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// The same by a client alone: whoever has a sub-CA makes a chain in which the
// issuer's name occurs twice, and the other encoding of the upper one's signature.
func TestTwinOfTheSignerPanics(t *testing.T) {
	w := newWorld(t)
	root := w.root(testpki.Options{CommonName: "root"})
	upper, err := root.NewIntermediate(testpki.Options{CommonName: "A"})
	require.NoError(t, err)
	middle, err := upper.NewIntermediate(testpki.Options{CommonName: "P"})
	require.NoError(t, err)
	lower, err := middle.NewIntermediate(testpki.Options{CommonName: "A"})
	require.NoError(t, err)
	lower.CRLURLs = []string{crlURL}
	leaf, err := lower.Issue(testpki.Options{Names: []string{"a.example"}})
	require.NoError(t, err)
	der, ok := x509ext.Twin(upper.Certificate, root.Certificate)
	require.True(t, ok)
	twin, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	list, err := upper.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(time.Hour)})
	require.NoError(t, err)
	w.on("crl.test", says(list))
	q := evidence.Query{Cert: leaf.Certificate, Issuer: lower.Certificate, Leaf: true, Fetch: w.fetch,
		Above: []*x509.Certificate{middle.Certificate, upper.Certificate, root.Certificate}}
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	q.Above = []*x509.Certificate{middle.Certificate, twin, root.Certificate}
	require.NotPanics(t, func() { w.engine.Prime(q) })
}

// Once a list is held, a client that does not send its signer's certificate
// does not keep newer ones out.
func TestRefreshWithoutCandidates(t *testing.T) {
	w := newWorld(t)
	root, _, query := rekeyed(t, w)
	w.only([]string{crlURL}, nil)
	signer, err := root.NewIntermediate(testpki.Options{CommonName: "partner CA"})
	require.NoError(t, err)
	list := func() {
		der, err := signer.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(24 * time.Hour)})
		require.NoError(t, err)
		w.on("crl.test", says(der))
	}
	list()
	poor, rich := query(w.leaf().Cert), query(w.leaf().Cert)
	poor.Candidates, rich.Candidates = nil, []*x509.Certificate{signer.Certificate}
	require.Equal(t, evidence.Good, w.check(rich).Status)
	w.advance(23 * time.Hour)
	list()
	w.check(poor)
	w.engine.Await(t.Context(), poor)
	w.advance(61 * time.Minute)
	require.Equal(t, evidence.Good, w.engine.Peek(rich).Status, "without another fetch")
}

// H1. A delta that takes a certificate off a list does so only for a hold, and the
// record of the revocation goes with it only then.
func TestHeldRemoveFromCRL(t *testing.T) {
	for reason, want := range map[int]evidence.Status{1: evidence.Revoked, 6: evidence.Good} {
		w := newWorld(t)
		fresh, err := testpki.FreshestCRL(testpki.Point{PointName: testpki.PointName{URIs: []string{"http://delta.test/d"}}})
		require.NoError(t, err)
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		entry := func(code int) []x509.RevocationListEntry {
			return []x509.RevocationListEntry{{SerialNumber: q.Cert.SerialNumber, RevocationTime: w.now(), ReasonCode: code}}
		}
		w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) {
			o.Number, o.Entries, o.Extra = big.NewInt(5), entry(reason), append(o.Extra, fresh)
			o.NextUpdate = w.now().Add(240 * time.Hour)
		})))
		w.on("delta.test", fails)
		require.Equal(t, evidence.Revoked, w.check(q).Status)
		w.advance(time.Hour)
		w.on("delta.test", says(w.crl(func(o *testpki.CRLOptions) {
			o.Number, o.BaseNumber, o.Entries = big.NewInt(6), big.NewInt(5), entry(8)
		})))
		require.Equal(t, want, w.check(q).Status, reason)
	}
}

// What the background learned of a certificate counts under whichever
// certificate of its issuer, whatever the client staples.
func TestBackgroundNewsUnderAnotherIssuerCertificate(t *testing.T) {
	for name, place := range map[string][2][]string{"ocsp": {nil, {ocspURL}}, "crl": {{crlURL}, nil}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.only(place[0], place[1])
			q := w.leaf()
			w.goodCRL()
			w.goodOCSP(q)
			staple := w.week(q, xocsp.Good)
			require.Equal(t, evidence.Good, w.check(q).Status)
			w.advance(7 * time.Hour)
			w.on("crl.test", says(w.crl(nil, q.Cert)))
			w.on("ocsp.test", says(w.ocsp(q, xocsp.Revoked, nil)))
			w.engine.RefreshDue(t.Context())
			w.engine.Await(t.Context(), q)
			require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
			crossed := w.cross(q)
			crossed.Staple = staple
			require.Equal(t, evidence.Revoked, w.check(crossed).Status)
		})
	}
}

// The same where another client of the CA has the list fetched.
func TestListInMemoryUnderAnotherIssuerCertificate(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Good, w.check(first).Status)
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
}
