package evidence_test

import (
	"crypto/x509"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// A list in memory counts by the key that signed it, whichever certificate of that
// key it was verified with: here one that another CA has issued to the key.
func TestListInMemoryVerifiedByAnotherCertificateOfTheKey(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	staple := w.week(q, xocsp.Good)
	// A CA of the same name, whose chain has another certificate for the key of w.ca.
	other := w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
	other.CRLURLs = []string{"http://other.test/l"}
	signer, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	leaf, err := other.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	w.advance(time.Hour)
	w.on("other.test", says(w.crl(nil, q.Cert)))
	w.check(evidence.Query{Cert: leaf.Certificate, Issuer: other.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'o'},
		Candidates: []*x509.Certificate{signer}})
	w.on("crl.test", fails)
	q.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// The same wrapper hides the issuer's own, which was found before.
func TestWrapperDoesNotHideTheIssuersOwnList(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	list := w.crl(nil, q.Cert)
	w.on("crl.test", says(list))
	require.Equal(t, evidence.Good, w.check(first).Status)

	other := w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
	other.CRLURLs = []string{"http://other.test/l"}
	signer, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	leaf, err := other.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	w.on("other.test", says(list))
	w.check(evidence.Query{Cert: leaf.Certificate, Issuer: other.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'o'},
		Candidates: []*x509.Certificate{signer}})

	w.on("crl.test", fails)
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
}

// A newer list that another owner has had does not shut out those whose own place
// still gives the older one.
func TestFloorOfAnotherOwnerGivesTheNewerList(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	older := w.crl(nil)
	w.on("crl.test", says(older)) // a CDN that lags behind
	other := w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
	other.CRLURLs = []string{"http://other.test/l"}
	signer, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	leaf, err := other.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	w.advance(time.Minute)
	w.on("other.test", says(w.crl(nil)))
	w.check(evidence.Query{Cert: leaf.Certificate, Issuer: other.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'o'},
		Candidates: []*x509.Certificate{signer}})
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// Another CA of the issuer's name, which is neither certified by the issuer nor by
// who certified it, revokes nothing of the issuer's.
func TestNamesakeElsewhereRevokesNothing(t *testing.T) {
	d := newDeep(t)
	q := d.leaf()
	d.on("crl.test", says(d.list(1)))
	require.Equal(t, evidence.Good, d.check(q).Status)
	// The root certifies a CA of the same name for somebody else, and that one
	// another one of the name.
	evil := d.sub(d.root, testpki.Options{CommonName: d.name()})
	lower := d.sub(evil, testpki.Options{CommonName: d.name()})
	lower.CRLURLs = []string{"http://evil.test/l"}
	leaf, err := lower.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	d.on("evil.test", says(d.of(evil, entry(q.Cert, keyCompromise))))
	d.check(evidence.Query{Cert: leaf.Certificate, Issuer: lower.Certificate, Leaf: true, Fetch: d.fetch,
		Above: []*x509.Certificate{evil.Certificate, d.root.Certificate}, Owner: [32]byte{'o'}})
	f := d.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// An indirect list in memory counts under another certificate of the issuer, too.
func TestIndirectListInMemory(t *testing.T) {
	w := newWorld(t)
	s := w.signer(w.ca, "CRL issuer", testpki.Options{})
	w.on("signer-crl.test", says(w.crl(nil)))
	p := at("http://indirect.test/l")
	p.CRLIssuer = s.Certificate.RawSubject
	ask := func() evidence.Query {
		w.only(nil, nil)
		q := w.query(w.issue(testpki.Options{Extra: extra(w.must(testpki.CRLDistributionPoints(p)))}).Certificate)
		q.Candidates = []*x509.Certificate{s.Certificate}
		return q
	}
	first, q := ask(), ask()
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	issuer, err := testpki.CertificateIssuer(w.ca.Certificate.RawSubject)
	require.NoError(t, err)
	w.on("indirect.test", says(w.of(s, scope(testpki.Scope{Indirect: true}), entry(q.Cert, keyCompromise, issuer))))
	require.Equal(t, evidence.Good, w.check(first).Status)
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
	w.on("indirect.test", fails)
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
}

// What was read from the Store, or given by a source of the operator's, without a
// request is known under every certificate of the issuer like what was fetched.
func TestQuietNewsUnderAnotherIssuerCertificate(t *testing.T) {
	t.Run("store", func(t *testing.T) {
		w, m := newWorld(t), &memory{}
		w.restart(m)
		w.only(nil, []string{ocspURL})
		q := w.leaf()
		staple := w.week(q, xocsp.Good)
		w.advance(time.Hour)
		w.on("ocsp.test", says(w.ocsp(q, xocsp.Revoked, nil)))
		require.Equal(t, evidence.Revoked, w.check(q).Status)
		w.restart(m)
		w.on("ocsp.test", fails)
		w.engine.Prime(q)
		w.engine.Await(t.Context(), q)
		require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
		crossed := w.cross(q)
		crossed.Staple = staple
		require.Equal(t, evidence.Revoked, w.check(crossed).Status)
	})
	t.Run("own", func(t *testing.T) {
		w := newWorld(t)
		w.only(nil, nil)
		var given evidence.Statements
		var failing error
		q := w.leaf()
		q.Sources = []*evidence.Source{source("own", false, func() (evidence.Statements, error) { return given, failing })}
		staple := w.week(q, xocsp.Good)
		given.OCSP = [][]byte{w.ocsp(q, xocsp.Good, nil)}
		require.Equal(t, evidence.Good, w.check(q).Status)
		w.advance(7 * time.Hour)
		given.OCSP = [][]byte{w.ocsp(q, xocsp.Revoked, nil)}
		w.engine.RefreshDue(t.Context())
		w.engine.Await(t.Context(), q)
		require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
		failing = evidence.ErrUnavailable
		crossed := w.cross(q)
		crossed.Staple = staple
		require.Equal(t, evidence.Revoked, w.check(crossed).Status)
	})
}

// A list that another key has signed, at the place of the issuer's list, does not
// take back what the issuer's own list has said.
func TestOtherSignerTakesNothingBack(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	// The slot goes, and its list with it.
	w.engine.Crowd(q)
	w.only([]string{"http://three.test/"}, nil)
	w.check(w.leaf())
	for range 3 {
		runtime.GC()
	}
	require.True(t, w.engine.KnownRevoked(keyOf(q)))
	// Another anchor certifies the CA, and a signer of the CA's name.
	other := w.root(testpki.Options{})
	cross, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	s := w.signer(other, w.ca.Certificate.Subject.CommonName, testpki.Options{})
	w.on("signer-crl.test", says(w.of(other)))
	w.advance(time.Minute)
	w.on("crl.test", says(w.of(s)))
	evil := q
	evil.Issuer, evil.Above, evil.Owner, evil.Candidates = cross, []*x509.Certificate{other.Certificate}, [32]byte{'o'}, []*x509.Certificate{s.Certificate}
	f := w.check(evil)
	t.Log(f.Status, f.Detail)
	require.True(t, w.engine.KnownRevoked(keyOf(q)))
}

// A decision that rests on a staple is void once a list comes into memory that it
// would have heeded.
func TestListOfAnotherSlotVoidsDecisions(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	crossed := w.cross(q)
	crossed.Staple = w.week(q, xocsp.Good)
	w.on("crl.test", fails)
	w.check(crossed)
	w.engine.Await(t.Context(), crossed)
	f := w.check(crossed)
	require.Equal(t, evidence.Good, f.Status)
	news := w.engine.Lists()
	w.advance(time.Minute)
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Good, w.check(first).Status)
	require.Equal(t, evidence.Revoked, w.engine.Peek(crossed).Status, "memory has it")
	require.False(t, current(f) && !w.engine.KnownRevoked(keyOf(crossed)) && (w.engine.Lists() == news || !w.engine.Overheard(crossed)))
}

// Slots are shared only by those who have the same CAs above the issuer: otherwise
// a signer certified by a CA of one's chain shuts out the other.
func TestSignerOfAnotherChainBelowTheSameAnchor(t *testing.T) {
	d := newDeep(t)
	s := d.signer(d.middle, "CRL issuer", testpki.Options{})
	d.on("signer-crl.test", says(d.of(d.middle)))
	p := at(crlURL)
	p.CRLIssuer = s.Certificate.RawSubject
	d.only(nil, nil)
	ask := func() evidence.Query {
		q := d.query(d.issue(testpki.Options{Extra: extra(d.must(testpki.CRLDistributionPoints(p)))}).Certificate)
		q.Candidates = []*x509.Certificate{s.Certificate}
		return q
	}
	victim, attacker := ask(), ask()
	d.on("crl.test", says(d.of(s, scope(testpki.Scope{Indirect: true}))))
	// A partner's CA under the same root certifies the middle CA and the signer.
	partner := d.sub(d.root, testpki.Options{})
	middle, err := partner.CrossSign(d.middle, testpki.Options{})
	require.NoError(t, err)
	partner.CRLURLs = []string{"http://partner.test/l"}
	fake, err := partner.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	d.on("partner.test", says(d.of(partner)))
	attacker.Above = []*x509.Certificate{middle, partner.Certificate, d.root.Certificate}
	attacker.Candidates = []*x509.Certificate{fake}
	require.Equal(t, evidence.Good, d.check(attacker).Status)
	f := d.check(victim)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	for range 3 {
		d.advance(10 * time.Minute)
		d.check(attacker)
		f := d.check(victim)
		require.Equal(t, evidence.Good, f.Status, f.Detail)
	}
}
