package evidence_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// The former key of a CA is revoked because somebody else has it. On the path of
// the network he cannot put a list of that key in the place of the one that is
// held, which has his client's revocation.
func TestRevokedSignerDoesNotDisplaceAList(t *testing.T) {
	for _, state := range []string{"revoked", "out of reach"} {
		t.Run(state, func(t *testing.T) {
			d := newDeep(t)
			m := &memory{}
			d.restart(m)
			d.only([]string{crlURL}, []string{ocspURL})
			mine, other := d.leaf(), d.leaf()
			old := d.world.week(mine, xocsp.Good)
			former := d.signer(d.middle, d.name(), testpki.Options{})
			d.on("signer-crl.test", fails)
			if state == "revoked" {
				d.on("signer-crl.test", says(d.of(d.middle, entry(former.Certificate, keyCompromise))))
			}
			genuine := d.list(7, entry(mine.Cert, keyCompromise))
			d.on("crl.test", says(genuine))
			d.check(other) // the revoked one has not been there yet
			d.advance(time.Minute)
			d.on("crl.test", says(d.of(former)))
			other.Candidates = []*x509.Certificate{former.Certificate}
			d.advance(6 * time.Hour)
			d.check(other)
			require.Error(t, d.engine.Refresh(context.Background()))
			mine.Candidates, mine.Staple = other.Candidates, old
			require.Equal(t, evidence.Revoked, d.engine.Peek(mine).Status)
			require.Equal(t, evidence.Revoked, d.check(mine).Status)
			require.Equal(t, genuine, m.keys()[evidence.CRLKey(other, crlURL)], "nor in the Store")
		})
	}
	t.Run("good", func(t *testing.T) {
		d := newDeep(t)
		q := d.leaf()
		next := d.signer(d.middle, d.name(), testpki.Options{})
		d.on("signer-crl.test", says(d.of(d.middle)))
		d.on("crl.test", says(d.list(7)))
		require.Equal(t, evidence.Good, d.check(q).Status)
		d.advance(time.Minute)
		q.Candidates = []*x509.Certificate{next.Certificate}
		d.on("crl.test", says(d.of(next, entry(q.Cert, superseded))))
		d.advance(6 * time.Hour)
		d.check(q)
		require.NoError(t, d.engine.Refresh(context.Background()))
		require.Equal(t, evidence.Revoked, d.check(q).Status, "after a change of keys the list is taken")
	})
}

// The same for responses: one by a responder whose certificate is revoked does
// not take the place of the issuer's own.
func TestRevokedResponderDoesNotDisplaceARevocation(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	w.on("ocsp.test", says(w.ocsp(q, xocsp.Revoked, nil)))
	w.engine.Prime(q)
	w.engine.Await(context.Background(), q)
	w.advance(time.Minute)
	r := w.responder(testpki.Options{}, q)
	w.on("responder-crl.test", says(w.crl(nil, r.Certificate)))
	require.Error(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// A client that leaves the certificate of a list's signer out cannot keep what is
// new from the others, however often it comes first.
func TestSignerIsRememberedWithItsList(t *testing.T) {
	for _, how := range []string{"fetched", "own"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeep(t)
				mine, other := d.leaf(), d.leaf()
				s := d.signer(d.ca, d.name(), testpki.Options{})
				d.on("signer-crl.test", func(r *http.Request) (*http.Response, error) { return says(d.of(d.ca))(r) })
				list := d.of(s)
				d.on("crl.test", says(list))
				if how == "own" {
					src := source("own", true, func() (evidence.Statements, error) { return evidence.Statements{CRLs: [][]byte{list}}, nil })
					mine.Sources, other.Sources = []*evidence.Source{src}, []*evidence.Source{src}
				}
				other.Candidates = []*x509.Certificate{s.Certificate}
				require.Equal(t, evidence.Good, d.check(other).Status)
				for range 12 { // whenever it may be due
					d.advance(time.Hour)
					list = d.of(s, entry(mine.Cert, superseded))
					d.on("crl.test", says(list))
					d.check(mine)
					synctest.Wait()
				}
				require.Equal(t, evidence.Revoked, d.engine.Peek(mine).Status)
			})
		})
	}
}

// One anchor's key may have several certificates, of which a chain has one. A list
// that the other one verified is judged anew, and is no reason to panic.
func TestListSignedByAnAnchorOfAnotherChain(t *testing.T) {
	d := newDeep(t)
	d.only(nil, nil)
	p := at(crlURL)
	p.CRLIssuer = d.root.Certificate.RawSubject
	q := d.query(d.issue(testpki.Options{Extra: extra(d.must(testpki.CRLDistributionPoints(p)))}).Certificate)
	cross, err := d.world.root(testpki.Options{}).CrossSign(d.root, testpki.Options{})
	require.NoError(t, err)
	viaCross := q
	viaCross.Above = []*x509.Certificate{d.middle.Certificate, cross}
	d.on("crl.test", says(d.of(d.root, scope(testpki.Scope{Indirect: true}))))
	require.Equal(t, evidence.Good, d.check(viaCross).Status, "a list of the anchor, which nobody in the chain has certified")
	f := d.engine.Peek(q)
	require.NotEqual(t, evidence.Revoked, f.Status)
	require.NotEqual(t, evidence.Revoked, d.check(q).Status)
}

// Nor is one by a signer that another chain of the same issuer has certified.
func TestListOfASignerOfAnotherChain(t *testing.T) {
	d := newDeep(t)
	d.only(nil, nil)
	s := d.signer(d.root, "CRL issuer", testpki.Options{})
	d.on("signer-crl.test", says(d.of(d.root)))
	p := at(crlURL)
	p.CRLIssuer = s.Certificate.RawSubject
	q := d.query(d.issue(testpki.Options{Extra: extra(d.must(testpki.CRLDistributionPoints(p)))}).Certificate)
	q.Candidates = []*x509.Certificate{s.Certificate}
	d.on("crl.test", says(d.of(s, scope(testpki.Scope{Indirect: true}))))
	require.Equal(t, evidence.Good, d.check(q).Status)
	other := d.world.root(testpki.Options{})
	cross, err := other.CrossSign(d.middle, testpki.Options{})
	require.NoError(t, err)
	q.Above = []*x509.Certificate{cross, other.Certificate}
	f := d.engine.Peek(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Equal(t, evidence.Unknown, d.check(q).Status)
}

// What a delta by a revoked signer revokes is not revoked for that.
func TestDeltaOfARevokedSigner(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		d := newDeep(t)
		q, _ := d.amended(false)
		q = d.query(q.Cert)
		s := d.signer(d.ca, d.name(), testpki.Options{})
		q.Candidates = []*x509.Certificate{s.Certificate}
		changes, want := []change{scope(testpki.Scope{CAOnly: true})}, evidence.Revoked
		if revoked {
			changes, want = append(changes, entry(s.Certificate, keyCompromise)), evidence.Good
		}
		d.on("signer-crl.test", says(d.of(d.ca, changes...)))
		d.on("crl.test", says(d.list(5)))
		d.on("delta.test", says(d.of(s, func(o *testpki.CRLOptions) { o.Number = bigInt(6) }, base(5), entry(q.Cert, hold))))
		f := d.check(q)
		require.Equal(t, want, f.Status, f.Detail)
	}
}
