package evidence_test

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
) // A former certificate of a signer's key, which is revoked as superseded, keeps
// nobody out who sends the present one.
func TestFormerCertificateOfTheSignersKey(t *testing.T) {
	d := newDeep(t)
	d.only([]string{crlURL}, nil)
	s := d.signer(d.middle, d.name(), testpki.Options{})
	d.middle.CRLURLs = []string{signerURL}
	former, err := d.middle.CrossSign(s, testpki.Options{KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	d.middle.CRLURLs = nil
	d.on("signer-crl.test", says(d.of(d.middle, entry(former, superseded))))
	victim, attacker := d.leaf(), d.leaf()
	victim.Candidates, attacker.Candidates = []*x509.Certificate{s.Certificate}, []*x509.Certificate{former}
	publish := func() { d.on("crl.test", says(d.of(s))) }
	publish()
	require.Equal(t, evidence.Good, d.check(victim).Status)
	for range 12 {
		d.advance(2 * time.Hour)
		d.on("signer-crl.test", says(d.of(d.middle, entry(former, superseded))))
		publish()
		d.check(attacker)
		d.engine.Await(t.Context(), attacker)
	}
	good := 0
	for range 100 {
		d.advance(time.Second)
		d.check(attacker)
		if d.check(victim).Status == evidence.Good {
			good++
		}
	}
	require.Greater(t, good, 50)
}

// Whoever sends another certificate with each request does not have a failing
// source asked with each.
func TestNewCandidatesDoNotEndTheBackoff(t *testing.T) {
	d := newDeep(t)
	d.only([]string{crlURL}, nil)
	q := d.leaf()
	d.on("crl.test", fails)
	for i := range 50 {
		q.Candidates = []*x509.Certificate{d.signer(d.ca, fmt.Sprint("junk ", i), testpki.Options{}).Certificate}
		d.check(q)
	}
	require.Less(t, d.count("crl.test"), 5)
}

// Of two lists of the same second the one with the higher number is the newer one
// among owners, too.
func TestSameSecondOfAnotherOwner(t *testing.T) {
	w := newWorld(t)
	one, two := w.two()
	two.Owner[0] = 1
	w.on("one.test", says(w.list(7, entry(two.Cert, superseded))))
	require.Equal(t, evidence.Good, w.check(one).Status)
	w.on("two.test", says(w.list(6)))
	w.engine.Crowd(one)
	w.only([]string{"http://three.test/"}, nil)
	w.check(w.leaf())
	for range 3 {
		runtime.GC()
	}
	require.NotEqual(t, evidence.Good, w.check(two).Status)
}

// A namesake with many lists does not keep the lists of others out of the index.
func TestNamesakeDoesNotFillTheIndex(t *testing.T) {
	w := newWorld(t)
	evil := w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
	own := w.ca
	var lists [][]byte
	w.ca = evil
	for i := range 256 {
		lists = append(lists, w.list(1, scope(testpki.Scope{PointName: testpki.PointName{URIs: []string{fmt.Sprint("http://x.test/", i)}}})))
	}
	x := w.leaf()
	w.ca = own
	x.Owner = [32]byte{'e'}
	x.Sources = []*evidence.Source{gives("evil", true, lists...)}
	w.on("crl.test", fails)
	w.on("ocsp.test", fails)
	w.check(x)
	w.only([]string{crlURL}, nil)
	first, q := w.leaf(), w.leaf()
	staple := w.week(q, xocsp.Good)
	w.advance(time.Hour)
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Good, w.check(first).Status)
	crossed := w.cross(q)
	crossed.Staple = staple
	require.Equal(t, evidence.Revoked, w.check(crossed).Status)
	runtime.KeepAlive(lists)
}

// A certificate with many places, whose lists are signed by many others with many
// places, does not take long to look at.
func TestCostOfManySigners(t *testing.T) {
	w := newWorld(t)
	const n = 16
	urls := func(kind string, i int) (list []string) {
		for j := range n {
			list = append(list, fmt.Sprintf("http://%s.test/%d-%d", kind, i, j))
		}
		return list
	}
	name := w.ca.Certificate.Subject.CommonName
	var signers []*testpki.CA
	for i := range 8 {
		w.ca.CRLURLs, w.ca.OCSPURLs = urls("signer", i), nil
		s, err := w.ca.NewIntermediate(testpki.Options{CommonName: name, KeyUsage: x509.KeyUsageCRLSign})
		require.NoError(t, err)
		signers = append(signers, s)
	}
	scopes := [][]change{nil, {scope(testpki.Scope{UserOnly: true})}, {scope(testpki.Scope{CAOnly: true})}, {scope(testpki.Scope{Indirect: true})}}
	round := 0
	serve := func(r *http.Request) (*http.Response, error) {
		var i, j int
		fmt.Sscanf(r.URL.Path, "/%d-%d", &i, &j)
		s := signers[(i+j+round)%len(signers)]
		sc := scopes[round%len(scopes)]
		key := fmt.Sprint((i+j+round)%len(signers), round)
		w.mu.Lock()
		der := costLists[key]
		w.mu.Unlock()
		if der == nil {
			var err error
			o := testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(72 * time.Hour), Number: big.NewInt(int64(round + 1))}
			for _, c := range sc {
				c(&o)
			}
			der, err = s.CRL(o)
			if err != nil {
				return nil, err
			}
			w.mu.Lock()
			costLists[key] = der
			w.mu.Unlock()
		}
		return reply(http.StatusOK, der), nil
	}
	w.on("signer.test", serve)
	w.on("leaf.test", serve)
	w.only(urls("leaf", 0), nil)
	q := w.leaf()
	for _, s := range signers {
		q.Candidates = append(q.Candidates, s.Certificate)
	}
	w.engine.Prime(q)
	w.engine.Await(t.Context(), q)
	for range 3 {
		w.advance(10 * time.Second)
		w.engine.Prime(q)
		w.engine.Await(t.Context(), q)
	}
	f := w.engine.Peek(q)
	require.Less(t, len(f.Deps), 1000)
}

var costLists = map[string][]byte{}

var _ = http.StatusOK
var _ = big.NewInt

// What a list says twice of a certificate is undone only if both can be: a hold
// beside a compromise is no mere hold.
func TestHoldBesideACompromise(t *testing.T) {
	for _, order := range [][]int{{hold, keyCompromise}, {keyCompromise, hold}} {
		w := newWorld(t)
		q, freshest := w.amended(true)
		both := func(o *testpki.CRLOptions) {
			o.Entries = nil
			for _, code := range order {
				o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: q.Cert.SerialNumber, RevocationTime: w.now(), ReasonCode: code})
			}
		}
		w.on("crl.test", says(w.list(5, freshest, ago(time.Hour), both)))
		w.on("delta.test", says(w.list(6, base(5), entry(q.Cert, removeFromCRL))))
		require.Equal(t, evidence.Revoked, w.check(q).Status, order)
	}
}

// A signer that only another anchor has certified revokes nothing for those of the
// issuer's own chain.
func TestSignerOfAnotherAnchorRevokesNothing(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	other := w.root(testpki.Options{})
	cross, err := other.CrossSign(w.ca, testpki.Options{})
	require.NoError(t, err)
	s := w.signer(other, w.ca.Certificate.Subject.CommonName, testpki.Options{})
	w.on("signer-crl.test", says(w.of(other)))
	w.on("crl.test", says(w.of(s, entry(q.Cert, keyCompromise))))
	evil := q
	evil.Issuer, evil.Above, evil.Owner, evil.Candidates = cross, []*x509.Certificate{other.Certificate}, [32]byte{'o'}, []*x509.Certificate{s.Certificate}
	genuine := w.crl(nil)
	w.advance(time.Minute)
	w.on("crl.test", says(w.of(s, entry(q.Cert, keyCompromise))))
	require.Equal(t, evidence.Revoked, w.check(evil).Status)
	w.on("crl.test", says(genuine))
	f := w.check(q)
	t.Log(f.Status, f.Detail)
	w.advance(7 * time.Hour)
	w.on("crl.test", says(w.crl(nil)))
	w.check(q)
	w.engine.Await(t.Context(), q)
	f2 := w.check(q)
	require.Equal(t, evidence.Good, f2.Status, f2.Detail)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// Survivors: what the index of lists keeps, and what it says of a hold that has ended.
func TestIndexKeepsTheBetterOfTheSameSecond(t *testing.T) {
	w := newWorld(t)
	one, two := w.two()
	two.Owner[0] = 1
	w.on("one.test", says(w.list(7, entry(two.Cert, superseded))))
	w.on("two.test", says(w.list(7)))
	require.Equal(t, evidence.Good, w.check(one).Status)
	require.Equal(t, evidence.Revoked, w.check(two).Status)
	require.Equal(t, evidence.Revoked, w.check(two).Status)
}

func TestEndedHoldInMemory(t *testing.T) {
	w := newWorld(t)
	q, freshest := w.amended(true)
	staple := w.week(q, xocsp.Good)
	w.on("crl.test", says(w.list(5, freshest, ago(time.Hour), entry(q.Cert, hold))))
	w.on("delta.test", says(w.list(6, base(5), entry(q.Cert, removeFromCRL))))
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	w.on("crl.test", fails)
	w.on("delta.test", fails)
	crossed := w.cross(q)
	crossed.Staple = staple
	f = w.check(crossed)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}

// A place keeps few lists of other scopes, however many it gives.
func TestPlaceKeepsFewLists(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	for i := range 10 {
		list := w.list(int64(i), ago(-time.Duration(i)*time.Second))
		if i > 0 {
			list = w.list(int64(i), scope(testpki.Scope{PointName: testpki.PointName{URIs: []string{crlURL, fmt.Sprint("http://x.test/", i)}}}))
		}
		w.on("crl.test", says(list))
		w.check(q)
		require.NoError(t, w.engine.Refresh(t.Context()))
	}
	require.Len(t, w.check(q).Proofs, 4)
}

// A delta that is newer than a list of a higher number says more than that, about
// whomever nobody has asked yet as well.
func TestNewerDeltaOfALowerNumberForTheNextCertificate(t *testing.T) {
	w := newWorld(t)
	q, freshest := w.amended(true)
	other := w.query(w.issue(testpki.Options{}).Certificate)
	w.on("crl.test", says(w.list(9, ago(time.Hour), freshest)))
	w.on("delta.test", says(w.list(6, base(5), entry(other.Cert, keyCompromise))))
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.engine.Await(t.Context(), q)
	require.Equal(t, evidence.Revoked, w.engine.Peek(w.query(other.Cert)).Status)
}

// A place keeps few certificates of possible signers, however many were sent.
func TestPlaceKeepsFewCandidates(t *testing.T) {
	d := newDeep(t)
	q := d.leaf()
	d.on("crl.test", fails)
	for i := range 30 {
		q.Candidates = []*x509.Certificate{d.signer(d.ca, fmt.Sprint("junk ", i), testpki.Options{}).Certificate}
		d.check(q)
		d.advance(time.Minute)
	}
	require.Equal(t, 16, d.engine.Candidates(q))
}

// The issuer's own list stays when a place gives those of many other signers.
func TestOwnListStaysBesideThoseOfSigners(t *testing.T) {
	d := newDeep(t)
	first, second := d.leaf(), d.leaf()
	d.on("signer-crl.test", says(d.of(d.middle)))
	d.on("crl.test", says(d.list(1, lasts(240*time.Hour), entry(second.Cert, keyCompromise))))
	require.Equal(t, evidence.Good, d.check(first).Status)
	for range 5 {
		s := d.signer(d.middle, d.name(), testpki.Options{})
		d.advance(7 * time.Hour)
		d.on("signer-crl.test", says(d.of(d.middle)))
		d.on("crl.test", says(d.of(s, lasts(240*time.Hour))))
		first.Candidates = []*x509.Certificate{s.Certificate}
		d.check(first)
		d.engine.Await(t.Context(), first)
	}
	for range 3 {
		runtime.GC()
	}
	require.Equal(t, evidence.Revoked, d.engine.Peek(second).Status)
}

// A delta in memory says nothing any more once a newer list has all that it said.
func TestObsoleteDeltaInMemory(t *testing.T) {
	w := newWorld(t)
	q, freshest := w.amended(true)
	other := w.query(w.issue(testpki.Options{}).Certificate)
	staple := w.week(other, xocsp.Good)
	w.on("crl.test", says(w.list(5, ago(time.Hour), freshest)))
	w.on("delta.test", says(w.list(6, ago(time.Minute), base(5), entry(other.Cert, hold))))
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.on("crl.test", says(w.list(7, freshest)))
	w.on("delta.test", fails)
	_ = w.engine.Refresh(t.Context())
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.on("crl.test", fails)
	crossed := w.cross(other)
	crossed.Staple = staple
	f := w.check(crossed)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
}
