package evidence_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// A client's certificate that may also sign OCSP responses (and carries
// id-pkix-ocsp-nocheck) must not answer for itself.
func TestOwnResponder(t *testing.T) {
	for _, noCheck := range []bool{false, true} {
		w := newWorld(t)
		w.only(nil, []string{ocspURL})
		o := testpki.Options{Names: []string{"api.partner.example"}, CommonName: "client",
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning}}
		if noCheck {
			o.Extra = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: []byte{5, 0}}}
		}
		leaf := w.issue(o)
		q := w.query(leaf.Certificate)
		w.on("ocsp.test", fails) // or revoked, a moment later
		q.Staple = w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = leaf })
		require.NotEqual(t, evidence.Good, w.check(q).Status, "nocheck=%v", noCheck)
	}
}

func reasonsOnly(t *testing.T, bits ...int) pkix.Extension {
	ext, err := testpki.Scope{SomeReasons: bits}.Extension()
	require.NoError(t, err)
	return ext
}

// A list that covers some reasons, newer than one that covers others and
// revokes, does not undo that.
func TestOtherReasonsUndoARevocation(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	w.advance(-2 * time.Hour)
	staple := w.week(q, xocsp.Good) // from before the revocation
	w.advance(2 * time.Hour)
	compromise, others := reasonsOnly(t, 1), reasonsOnly(t, 2, 3, 4, 5, 6, 7, 8)
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.Extra = []pkix.Extension{compromise} }, q.Cert)))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	q.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.advance(time.Hour)
	// Somebody on the path serves the CA's list for the other reasons at this URL.
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.Extra = []pkix.Extension{others} })))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// A list of another scope does not push the one that revokes out of memory.
func TestOtherScopeDisplacesTheList(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	w.advance(-2 * time.Hour)
	staple := w.week(q, xocsp.Good)
	w.advance(2 * time.Hour)
	compromise, others := reasonsOnly(t, 1), reasonsOnly(t, 2, 3, 4, 5, 6, 7, 8)
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.Extra = []pkix.Extension{compromise} }, q.Cert)))
	w.check(first) // another client has the list fetched
	w.advance(time.Hour)
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.Extra = []pkix.Extension{others} })))
	require.NoError(t, w.engine.Refresh(context.Background()))
	q.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// rekeyed is a root, its CA, and a certificate of the CA's former key, which the
// root has revoked.
func rekeyed(t *testing.T, w *world) (root, former *testpki.CA, q func(*x509.Certificate) evidence.Query) {
	root = w.root(testpki.Options{CommonName: "root"})
	root.CRLURLs = []string{"http://root.test/list"}
	ca, err := root.NewIntermediate(testpki.Options{CommonName: "partner CA"})
	require.NoError(t, err)
	former, err = root.NewIntermediate(testpki.Options{CommonName: "partner CA"})
	require.NoError(t, err)
	ca.CRLURLs, ca.OCSPURLs = []string{crlURL}, []string{ocspURL}
	w.ca = ca
	der, err := root.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(240 * time.Hour), Entries: []x509.RevocationListEntry{
		{SerialNumber: former.Certificate.SerialNumber, RevocationTime: w.now(), ReasonCode: 1}}})
	require.NoError(t, err)
	w.on("root.test", says(der))
	return root, former, func(c *x509.Certificate) evidence.Query {
		return evidence.Query{Cert: c, Issuer: ca.Certificate, Above: []*x509.Certificate{root.Certificate}, Leaf: true, Fetch: w.fetch,
			Candidates: []*x509.Certificate{former.Certificate}}
	}
}

// A list signed by a key whose certificate is revoked does not push out of
// memory the issuer's own, which revokes.
func TestRevokedSignerDisplacesTheList(t *testing.T) {
	w := newWorld(t)
	_, former, query := rekeyed(t, w)
	first, q := query(w.leaf().Cert), query(w.leaf().Cert)
	old := w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.NextUpdate = w.now().Add(7 * 24 * time.Hour) })
	w.advance(time.Hour)
	w.goodOCSP(first)
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Good, w.check(first).Status)
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory knows it")
	// Now whoever has the former key is on the path, sends its certificate along,
	// and replays the old response.
	w.advance(12 * time.Hour)
	forged, err := former.CRL(testpki.CRLOptions{ThisUpdate: w.now().Add(4 * time.Minute), NextUpdate: w.now().Add(48 * time.Hour)})
	require.NoError(t, err)
	w.on("crl.test", says(forged))
	w.on("ocsp.test", says(old))
	w.engine.Prime(q)
	w.engine.Await(context.Background(), q)
	require.NotEqual(t, evidence.Good, w.check(q).Status)
}

// Nor does it keep the issuer's own list out once the path is free again.
func TestRevokedSignerKeepsTheListOut(t *testing.T) {
	w := newWorld(t)
	_, former, query := rekeyed(t, w)
	w.only([]string{crlURL}, nil)
	q := query(w.leaf().Cert)
	own := w.crl(func(o *testpki.CRLOptions) { o.NextUpdate = w.now().Add(7 * 24 * time.Hour) })
	w.on("crl.test", says(own))
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.advance(7 * time.Hour)
	forged, err := former.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(48 * time.Hour)})
	require.NoError(t, err)
	w.on("crl.test", says(forged))
	w.check(q)
	w.engine.Await(context.Background(), q)
	w.on("crl.test", says(own))
	w.advance(time.Hour)
	require.Equal(t, evidence.Good, w.check(q).Status, w.check(q).Detail)
}

// The list of a CA that was seen under one anchor is not rolled back under
// another one, of the same CA.
func TestRollbackUnderAnotherAnchor(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	one, two := w.root(testpki.Options{}), w.root(testpki.Options{})
	under1, err := one.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	under2, err := two.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	query := func(c, issuer *x509.Certificate, anchor *testpki.CA, owner byte) evidence.Query {
		return evidence.Query{Cert: c, Issuer: issuer, Above: []*x509.Certificate{anchor.Certificate}, Owner: [32]byte{owner}, Leaf: true, Fetch: w.fetch}
	}
	first, thief := w.leaf().Cert, w.leaf().Cert
	old := w.crl(func(o *testpki.CRLOptions) { o.NextUpdate = w.now().Add(7 * 24 * time.Hour) })
	w.advance(time.Hour)
	w.on("crl.test", says(w.crl(nil, thief)))
	require.Equal(t, evidence.Good, w.check(query(first, under1, one, 1)).Status)
	w.on("crl.test", says(old))
	require.NotEqual(t, evidence.Good, w.check(query(thief, under2, two, 2)).Status)
}

// Of two lists of the same second the one with the lower number is a replay
// at whichever URL.
func TestRollbackWithinASecond(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	first := w.leaf()
	w.only([]string{"http://other.test/list"}, nil)
	thief := w.leaf()
	w.on("other.test", says(w.crl(func(o *testpki.CRLOptions) { o.Number = big.NewInt(7) })))
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.Number = big.NewInt(8) }, thief.Cert)))
	require.Equal(t, evidence.Good, w.check(first).Status)
	require.NotEqual(t, evidence.Good, w.check(thief).Status)
}

// Two anchors of one key, neither of them self-signed, do not make a look at
// an indirect list panic.
func TestSignerWithoutCertifier(t *testing.T) {
	w := newWorld(t)
	top1, top2 := w.root(testpki.Options{}), w.root(testpki.Options{})
	base := w.root(testpki.Options{CommonName: "anchor"})
	a1, err := top1.CrossSign(base, testpki.Options{})
	require.NoError(t, err)
	a2, err := top2.CrossSign(base, testpki.Options{})
	require.NoError(t, err)
	sub, err := base.NewIntermediate(testpki.Options{CommonName: "sub"})
	require.NoError(t, err)
	points, err := testpki.CRLDistributionPoints(testpki.Point{PointName: testpki.PointName{URIs: []string{crlURL}}, CRLIssuer: base.Certificate.RawSubject})
	require.NoError(t, err)
	leaf, err := sub.Issue(testpki.Options{Extra: []pkix.Extension{points}, Names: []string{"a.example"}})
	require.NoError(t, err)
	indirect, err := testpki.Scope{Indirect: true}.Extension()
	require.NoError(t, err)
	der, err := base.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(time.Hour), Extra: []pkix.Extension{indirect}})
	require.NoError(t, err)
	w.on("crl.test", says(der))
	q := evidence.Query{Cert: leaf.Certificate, Issuer: sub.Certificate, Above: []*x509.Certificate{a1}, Leaf: true, Fetch: w.fetch}
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	q.Above = []*x509.Certificate{a2}
	require.NotPanics(t, func() { w.check(q) })
}

// A client that does not send the certificate of the CRL's signer does not
// keep the list from one that does.
func TestAskerWithoutCandidates(t *testing.T) {
	w := newWorld(t)
	root, _, query := rekeyed(t, w)
	w.only([]string{crlURL}, nil)
	signer, err := root.NewIntermediate(testpki.Options{CommonName: "partner CA"})
	require.NoError(t, err)
	der, err := signer.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(24 * time.Hour)})
	require.NoError(t, err)
	w.on("crl.test", says(der))
	poor, rich := query(w.leaf().Cert), query(w.leaf().Cert)
	poor.Candidates, rich.Candidates = nil, []*x509.Certificate{signer.Certificate}
	require.Equal(t, evidence.Unknown, w.check(poor).Status)
	f := w.check(rich)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// What a source of the operator's gave and could not be used yet is looked at
// again although the source has not changed.
func TestUnchangedSourceWithADeltaFromTheFuture(t *testing.T) {
	w := newWorld(t)
	w.only(nil, nil)
	q := w.leaf()
	base := w.crl(func(o *testpki.CRLOptions) { o.Number = big.NewInt(5); o.NextUpdate = w.now().Add(10 * 24 * time.Hour) })
	delta := w.crl(func(o *testpki.CRLOptions) {
		o.Number, o.BaseNumber = big.NewInt(6), big.NewInt(5)
		o.ThisUpdate, o.NextUpdate = w.now().Add(6*time.Minute), w.now().Add(10*24*time.Hour)
	}, q.Cert)
	q.Sources = []*evidence.Source{{ID: "folder", Name: "folder", Shared: true, Every: 10 * time.Second,
		Get: func(_ context.Context, _, _ *x509.Certificate, have string) (evidence.Statements, error) {
			if have == "v1" {
				return evidence.Statements{Version: "v1", Unchanged: true}, nil
			}
			return evidence.Statements{CRLs: [][]byte{base, delta}, Version: "v1"}, nil
		}}}
	w.check(q)
	w.advance(time.Hour)
	w.check(q)
	w.engine.Await(context.Background(), q)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

var _ = errors.New
var _ http.Handler

// printable returns a Name with its PrintableStrings as UTF8Strings, which is the
// same Name (RFC 5280 section 7.1).
func utf8Name(t *testing.T, raw []byte) []byte {
	out := append([]byte{}, raw...)
	n := 0
	for i := 0; i+1 < len(out); i++ {
		if out[i] == 0x13 && i > 4 && out[i-5] == 0x06 {
			out[i] = 0x0c
			n++
		}
	}
	require.Positive(t, n)
	return out
}

// An indirect list that writes the issuer's name with another string type
// still revokes.
func TestCertificateIssuerInAnotherEncoding(t *testing.T) {
	w := newWorld(t)
	root := w.root(testpki.Options{CommonName: "root"})
	sub, err := root.NewIntermediate(testpki.Options{CommonName: "Partner CA"})
	require.NoError(t, err)
	points, err := testpki.CRLDistributionPoints(testpki.Point{PointName: testpki.PointName{URIs: []string{crlURL}}, CRLIssuer: root.Certificate.RawSubject})
	require.NoError(t, err)
	leaf, err := sub.Issue(testpki.Options{Extra: []pkix.Extension{points}, Names: []string{"a.example"}})
	require.NoError(t, err)
	indirect, err := testpki.Scope{Indirect: true}.Extension()
	require.NoError(t, err)
	for name, issuer := range map[string][]byte{"same": leaf.Certificate.RawIssuer, "utf8": utf8Name(t, leaf.Certificate.RawIssuer)} {
		w.restart(nil)
		group, err := testpki.CertificateIssuer(issuer)
		require.NoError(t, err)
		der, err := root.CRL(testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(time.Hour), Extra: []pkix.Extension{indirect},
			Entries: []x509.RevocationListEntry{{SerialNumber: leaf.Certificate.SerialNumber, RevocationTime: w.now(), ExtraExtensions: []pkix.Extension{group}}}})
		require.NoError(t, err)
		w.on("crl.test", says(der))
		q := evidence.Query{Cert: leaf.Certificate, Issuer: sub.Certificate, Above: []*x509.Certificate{root.Certificate}, Leaf: true, Fetch: w.fetch}
		require.NotEqual(t, evidence.Good, w.check(q).Status, name)
	}
}

// An answer that cannot be used is not silence because another source is slow.
func TestGarbageBesideASlowSourceIsSilent(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	w.on("crl.test", says([]byte("no list")))
	slow, asked, release := held(fails)
	defer release()
	w.on("ocsp.test", slow)
	w.engine.Prime(q)
	<-asked
	for w.engine.Peek(q); ; {
		if f := w.engine.Peek(q); !f.Silent && f.RetryAfter > 0 {
			break
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f := w.engine.Check(ctx, q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.False(t, f.Silent, f.Detail)
}
