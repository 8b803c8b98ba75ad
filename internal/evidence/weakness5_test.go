package evidence_test

import (
	"crypto/x509"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func collect() {
	for range 3 {
		runtime.GC()
	}
}

// A list stays known as long as any place has it, whoever had the same list later
// and lost it again.
func TestListThatTwoPlacesHave(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Good, w.check(first).Status)
	// Another client of the CA, by another certificate of it: the same list again.
	passing := w.cross(first)
	passing.Owner = [32]byte{'p'}
	require.Equal(t, evidence.Good, w.check(passing).Status)
	w.engine.Crowd(passing) // its slots are gone
	w.only([]string{"http://three.test/"}, nil)
	next := w.leaf()
	next.Owner = passing.Owner
	w.check(next)
	collect()
	collect()
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
	w.on("crl.test", fails)
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
}

// Whoever certifies the key of a CRL signer once more does not hide its list.
func TestWrapperDoesNotHideTheListOfASigner(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	s := w.signer(w.ca, w.ca.Certificate.Subject.CommonName, testpki.Options{})
	w.on("signer-crl.test", says(w.crl(nil)))
	first, q := w.leaf(), w.leaf()
	first.Candidates = []*x509.Certificate{s.Certificate}
	q.Candidates = first.Candidates
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	w.on("signer-crl.test", says(w.crl(nil)))
	list := w.of(s, entry(q.Cert, keyCompromise))
	w.on("crl.test", says(list))
	require.Equal(t, evidence.Good, w.check(first).Status)

	other := w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
	other.CRLURLs = []string{"http://other.test/l"}
	wrapper, err := other.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	leaf, err := other.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	w.on("other.test", says(list))
	w.check(evidence.Query{Cert: leaf.Certificate, Issuer: other.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'o'},
		Candidates: []*x509.Certificate{wrapper}})

	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
	w.on("crl.test", fails)
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
}

// Nor does whoever sends a former, revoked certificate of the signer's key.
func TestFormerCertificateDoesNotHideTheListOfASigner(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	name := w.ca.Certificate.Subject.CommonName
	s := w.signer(w.ca, name, testpki.Options{})
	w.ca.CRLURLs = []string{signerURL}
	former, err := w.ca.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	first.Candidates = []*x509.Certificate{s.Certificate}
	q.Candidates = first.Candidates
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	w.on("signer-crl.test", says(w.list(1, entry(former, superseded))))
	w.on("crl.test", says(w.of(s, entry(q.Cert, keyCompromise))))
	require.Equal(t, evidence.Good, w.check(first).Status)
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
	evil := w.cross(first)
	evil.Owner = [32]byte{'e'}
	evil.Candidates = []*x509.Certificate{former}
	w.check(evil)
	collect()
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it still")
	w.on("crl.test", fails)
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
}

// A namesake with many keys does not keep the lists of others out of the index.
func TestNamesakeOfManyKeysDoesNotFillTheIndex(t *testing.T) {
	w := newWorld(t)
	name := w.ca.Certificate.Subject.CommonName
	evil := w.root(testpki.Options{CommonName: name})
	var lists [][]byte
	var signers []*x509.Certificate
	for range 270 {
		s := w.signer(evil, name, testpki.Options{})
		lists, signers = append(lists, w.of(s)), append(signers, s.Certificate)
	}
	// The issuer has a list for each of several places.
	const shards = 16
	var firsts, victims []evidence.Query
	var staples [][]byte
	for i := range shards {
		w.only([]string{fmt.Sprintf("http://crl%d.test/", i)}, nil)
		firsts, victims = append(firsts, w.leaf()), append(victims, w.leaf())
		staples = append(staples, w.week(victims[i], xocsp.Good))
	}
	w.advance(time.Hour)
	for i, first := range firsts {
		of := scope(testpki.Scope{PointName: testpki.PointName{URIs: []string{fmt.Sprintf("http://crl%d.test/", i)}}})
		w.on(fmt.Sprintf("crl%d.test", i), says(w.list(1, of, entry(victims[i].Cert, keyCompromise))))
		require.Equal(t, evidence.Good, w.check(first).Status)
	}
	leaf, err := evil.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	w.on("signer-crl.test", fails)
	w.check(evidence.Query{Cert: leaf.Certificate, Issuer: evil.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'e'},
		Candidates: signers, Sources: []*evidence.Source{gives("evil", true, lists...)}})
	for i, q := range victims {
		require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status, "memory has it")
		w.on(fmt.Sprintf("crl%d.test", i), fails)
		crossed := w.cross(q)
		crossed.Staple = staples[i]
		require.Equal(t, evidence.Revoked, w.check(crossed).Status, i)
	}
}

// A signer that is revoked revokes nothing, however many lists it has signed.
func TestManyListsOfARevokedSigner(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	name := w.ca.Certificate.Subject.CommonName
	s := w.signer(w.ca, name, testpki.Options{})
	q := w.leaf()
	w.on("crl.test", says(w.crl(nil)))
	w.on("signer-crl.test", says(w.crl(nil)))
	var lists [][]byte
	for i := range 40 {
		uris := []string{crlURL, fmt.Sprint("http://x.test/", i)}
		lists = append(lists, w.of(s, lasts(1000*time.Hour), scope(testpki.Scope{PointName: testpki.PointName{URIs: uris}}), entry(q.Cert, keyCompromise)))
	}
	// Whoever has stolen the key has clients of its own, and gives the lists to them.
	thief := w.leaf()
	thief.Candidates = []*x509.Certificate{s.Certificate}
	thief.Owner = [32]byte{'t'}
	thief.Sources = []*evidence.Source{gives("thief", true, lists...)}
	w.check(thief)
	// The theft is found out.
	w.advance(7 * time.Hour)
	w.on("crl.test", says(w.crl(nil)))
	w.on("signer-crl.test", says(w.list(2, entry(s.Certificate, keyCompromise))))
	w.check(thief)
	w.engine.Await(t.Context(), thief)
	_ = w.engine.Refresh(t.Context())
	require.True(t, w.engine.KnownRevoked(evidence.KeyOf(s.Certificate, w.ca.Certificate)))
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	for range 5 {
		w.engine.Overheard(q)
	}
	require.False(t, w.engine.Overheard(q))
}

// A former certificate of a signer's key, whose status nobody can find out, keeps
// nobody out who sends the present one.
func TestFormerCertificateWithoutASource(t *testing.T) {
	for _, order := range []string{"alone", "before"} {
		t.Run(order, func(t *testing.T) {
			d := newDeep(t)
			d.only([]string{crlURL}, nil)
			s := d.signer(d.middle, d.name(), testpki.Options{})
			former, err := d.middle.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign, Template: func(c *x509.Certificate) { c.CRLDistributionPoints = nil }})
			require.NoError(t, err)
			victim, attacker := d.leaf(), d.leaf()
			victim.Candidates, attacker.Candidates = []*x509.Certificate{s.Certificate}, []*x509.Certificate{former}
			d.on("signer-crl.test", says(d.of(d.middle)))
			d.on("crl.test", says(d.of(s)))
			if order == "before" {
				d.check(attacker)
			} else {
				victim.Candidates = append(victim.Candidates, former) // both, as bundles have them
			}
			var f evidence.Finding
			for range 20 {
				f = d.check(victim)
				d.advance(time.Second)
			}
			require.Equal(t, evidence.Good, f.Status, f.Detail)
		})
	}
}

// What a CRL issuer under the anchor has said counts for every chain to it.
func TestRecordOfACRLIssuerUnderTheAnchor(t *testing.T) {
	d := newDeep(t)
	s := d.signer(d.root, "CRL issuer", testpki.Options{})
	d.on("signer-crl.test", says(d.of(d.root)))
	p := at("http://indirect.test/l")
	p.CRLIssuer = s.Certificate.RawSubject
	d.only(nil, nil)
	q := d.query(d.issue(testpki.Options{Extra: extra(d.must(testpki.CRLDistributionPoints(p)))}).Certificate)
	q.Candidates = []*x509.Certificate{s.Certificate}
	staple := d.week(q, xocsp.Good)
	d.advance(time.Hour)
	issuer, err := testpki.CertificateIssuer(d.ca.Certificate.RawSubject)
	require.NoError(t, err)
	d.on("signer-crl.test", says(d.of(d.root)))
	d.on("indirect.test", says(d.of(s, scope(testpki.Scope{Indirect: true}), entry(q.Cert, keyCompromise, issuer))))
	require.Equal(t, evidence.Revoked, d.check(q).Status)
	d.on("indirect.test", fails)
	// The slots go.
	d.engine.Crowd(q)
	collect()
	// The CA in the middle has another certificate by the same root.
	again, err := d.root.CrossSign(d.middle, testpki.Options{})
	require.NoError(t, err)
	q.Above = []*x509.Certificate{again, d.root.Certificate}
	q.Staple = staple
	require.Equal(t, evidence.Revoked, d.check(q).Status)
}

// Whoever sends other certificates each second does not keep those of others from
// being tried.
func TestForgivenessIsNotForTheFirstOnly(t *testing.T) {
	d := newDeep(t)
	d.only([]string{crlURL}, nil)
	s := d.signer(d.middle, d.name(), testpki.Options{})
	d.on("signer-crl.test", says(d.of(d.middle)))
	victim, attacker := d.leaf(), d.leaf()
	victim.Candidates = []*x509.Certificate{s.Certificate}
	d.on("crl.test", says(d.of(s, lasts(240*time.Hour))))
	var f evidence.Finding
	junk := func(i int) []*x509.Certificate {
		return []*x509.Certificate{d.signer(d.ca, fmt.Sprint("junk ", i), testpki.Options{}).Certificate}
	}
	attacker.Candidates = junk(-1)
	d.check(attacker)
	d.advance(100 * time.Millisecond)
	for i := range 40 {
		attacker.Candidates = []*x509.Certificate{d.signer(d.ca, fmt.Sprint("junk ", i), testpki.Options{}).Certificate}
		d.check(attacker)
		d.advance(500 * time.Millisecond)
		f = d.check(victim)
		d.advance(500 * time.Millisecond)
	}
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// What another CA of the name puts into memory costs others nothing.
func TestCostOfANamesakesLists(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	name := w.ca.Certificate.Subject.CommonName
	evil := w.root(testpki.Options{CommonName: name})
	s := w.signer(evil, name, testpki.Options{})
	var lists [][]byte
	for i := range 256 {
		uris := []string{crlURL, fmt.Sprint("http://x.test/", i)}
		lists = append(lists, w.of(s, scope(testpki.Scope{PointName: testpki.PointName{URIs: uris}}), entry(q.Cert, keyCompromise)))
	}
	w.on("crl.test", says(w.crl(nil)))
	require.Equal(t, evidence.Good, w.check(q).Status)
	work := func() float64 { return testing.AllocsPerRun(5, func() { w.engine.Peek(q) }) }
	before := work()
	leaf, err := evil.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	x := evidence.Query{Cert: leaf.Certificate, Issuer: evil.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'e'},
		Candidates: []*x509.Certificate{s.Certificate}, Sources: []*evidence.Source{gives("evil", true, lists...)}}
	w.check(x)
	require.Less(t, work(), 2*before+50)
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// The same for the floor: the newer list of a signer counts under its own certificate.
func TestFloorOfAnotherOwnerGivesTheNewerListOfASigner(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	s := w.signer(w.ca, w.ca.Certificate.Subject.CommonName, testpki.Options{})
	w.on("signer-crl.test", says(w.crl(nil)))
	q := w.leaf()
	q.Candidates = []*x509.Certificate{s.Certificate}
	w.on("crl.test", says(w.of(s))) // a CDN that lags behind
	other := w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
	other.CRLURLs = []string{"http://other.test/l"}
	wrapper, err := other.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	leaf, err := other.Issue(testpki.Options{Names: []string{"x.example"}})
	require.NoError(t, err)
	w.advance(time.Minute)
	w.on("other.test", says(w.of(s)))
	w.check(evidence.Query{Cert: leaf.Certificate, Issuer: other.Certificate, Leaf: true, Fetch: w.fetch, Owner: [32]byte{'o'},
		Candidates: []*x509.Certificate{wrapper}})
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// A list that counts only in the chain of another anchor takes back nothing of what
// counts in all.
func TestForeignCertificateOfASignerTakesNothingBack(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	name := w.ca.Certificate.Subject.CommonName
	s := w.signer(w.ca, name, testpki.Options{})
	q := w.leaf()
	q.Candidates = []*x509.Certificate{s.Certificate}
	w.on("signer-crl.test", says(w.list(1)))
	w.on("crl.test", says(w.of(s, entry(q.Cert, superseded))))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	other := w.root(testpki.Options{})
	cross, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	other.CRLURLs = []string{"http://other.test/l"}
	wrapper, err := other.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	// The key of the signer is stolen, and its certificate revoked.
	w.advance(time.Minute)
	w.on("signer-crl.test", says(w.list(2, entry(s.Certificate, keyCompromise))))
	w.on("other.test", says(w.of(other)))
	w.on("crl.test", says(w.of(s)))
	evil := q
	evil.Issuer, evil.Above, evil.Owner, evil.Candidates = cross, []*x509.Certificate{other.Certificate}, [32]byte{'o'}, []*x509.Certificate{wrapper}
	w.check(evil)
	require.True(t, w.engine.KnownRevoked(keyOf(q)))
}
