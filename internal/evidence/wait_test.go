package evidence_test

import (
	"context"
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// waited is for how long a request of three seconds waits.
func (w *world) waited(q evidence.Query) (time.Duration, evidence.Finding) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	start := time.Now()
	f := w.engine.Check(ctx, q)
	return time.Since(start), f
}

// A request waits while nothing is known, and once for each source; then for none
// that has nothing to add.
func TestWaiting(t *testing.T) {
	const all = 3 * time.Second
	for _, c := range []struct {
		name   string
		before func(*world, *evidence.Query) // what happened before the sources hang
		waits  time.Duration
		want   evidence.Status
	}{
		{"nothing is known", func(*world, *evidence.Query) {}, all, evidence.Unknown},
		{"one source says good, the other was never asked", func(w *world, q *evidence.Query) { w.goodCRL() }, all, evidence.Good},
		{"a staple says good", func(w *world, q *evidence.Query) { q.Staple = w.week(*q, xocsp.Good) }, 0, evidence.Good},
		{"a staple that does not count", func(w *world, q *evidence.Query) { q.Staple = w.week(w.leaf(), xocsp.Good) }, all, evidence.Unknown},
		{"one says good, the other has failed before", func(w *world, q *evidence.Query) {
			w.goodCRL()
			w.check(*q)
			w.advance(time.Minute)
		}, 0, evidence.Good},
		{"both are due", func(w *world, q *evidence.Query) {
			w.goodCRL()
			w.goodOCSP(*q)
			w.check(*q)
			w.advance(7 * time.Hour)
		}, 0, evidence.Good},
		{"both have lapsed", func(w *world, q *evidence.Query) {
			w.goodCRL()
			w.goodOCSP(*q)
			w.check(*q)
			w.advance(25 * time.Hour)
		}, all, evidence.Unknown},
		{"both have failed a moment ago", func(w *world, q *evidence.Query) { w.check(*q) }, 0, evidence.Unknown},
		{"the list is known, and of another certificate the responder", func(w *world, q *evidence.Query) {
			w.goodCRL()
			other := w.leaf()
			w.goodOCSP(other)
			w.check(other)
		}, all, evidence.Good},
		{"revoked", func(w *world, q *evidence.Query) {
			w.on("crl.test", says(w.crl(nil, q.Cert)))
			w.check(*q)
		}, 0, evidence.Revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(w *world) {
				q := w.leaf()
				w.on("crl.test", fails)
				w.on("ocsp.test", fails)
				c.before(w, &q)
				synctest.Wait()
				w.on("ocsp.test", hangs)
				if c.name != "one source says good, the other was never asked" {
					w.on("crl.test", hangs)
				}
				waited, f := w.waited(q)
				require.Equal(w.t, c.want, f.Status, f.Detail)
				require.Equal(w.t, c.waits, waited)
				time.Sleep(2 * time.Minute)
			})
		})
	}
}

// Lists of version 1 cannot say what they cover, and count where the operator
// says so only. One that was taken for him counts for nobody else.
func TestListsOfVersion1(t *testing.T) {
	v1 := func(o *testpki.CRLOptions) { o.Version1 = true }
	for _, own := range []bool{false, true} {
		w := newWorld(t)
		w.only([]string{crlURL}, nil)
		q, revoked := w.leaf(), w.leaf()
		der := w.crl(v1, revoked.Cert)
		w.on("crl.test", says(der))
		if own {
			w.on("crl.test", fails)
			q.Sources = []*evidence.Source{gives("own", true, der)}
			revoked.Sources = q.Sources
		}
		f := w.check(q)
		require.Equal(t, evidence.Unknown, f.Status)
		require.Contains(t, f.Detail, "version 1")
		require.False(t, f.Silent)
		allowed := q
		allowed.AllowVersion1, revoked.AllowVersion1 = true, true
		w.restart(nil)
		require.Equal(t, evidence.Good, w.check(allowed).Status)
		require.Equal(t, evidence.Revoked, w.check(revoked).Status)
		require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status, "held, and not for everybody")
		require.Equal(t, evidence.Unknown, w.check(q).Status)
	}
}

// What another owner holds is looked at as if it were not there.
func TestOwnSourceIsOfItsOwner(t *testing.T) {
	w := newWorld(t)
	asked := 0
	der := w.crl(nil)
	s := source("own", true, func() (evidence.Statements, error) {
		asked++
		return evidence.Statements{CRLs: [][]byte{der}}, nil
	})
	q := w.supplied(s)
	require.Equal(t, evidence.Good, w.check(q).Status)
	q.Owner = [32]byte{1}
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, 2, asked)
}

// The revocation of a list's signer voids what rests on its lists.
func TestRevokedSignerVoidsItsLists(t *testing.T) {
	d := newDeep(t)
	s := d.signer(d.ca, d.name(), testpki.Options{})
	q := d.leaf()
	q.Candidates = []*x509.Certificate{s.Certificate}
	d.on("signer-crl.test", says(d.list(1, lasts(time.Hour))))
	d.on("crl.test", says(d.of(s)))
	f := d.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	require.Equal(t, d.now().Add(time.Hour), f.Expires, "with what is known of the signer")
	require.True(t, current(f))
	d.advance(time.Minute)
	d.on("signer-crl.test", says(d.list(2, entry(s.Certificate, keyCompromise))))
	_ = d.engine.Refresh(context.Background())
	require.False(t, current(f))
	require.Equal(t, evidence.Unknown, d.check(q).Status)
}

// A list by a signer whose certificate expires is of no use from then on, and a
// revocation in it is none the less one.
func TestListLapsesWithItsSigner(t *testing.T) {
	d := newDeep(t)
	s := d.signer(d.ca, d.name(), testpki.Options{NotAfter: testpki.Epoch.Add(2 * time.Hour)})
	q, revoked := d.leaf(), d.leaf()
	q.Candidates = []*x509.Certificate{s.Certificate}
	revoked.Candidates = q.Candidates
	d.on("signer-crl.test", says(d.list(1)))
	d.on("crl.test", says(d.of(s, entry(revoked.Cert, superseded))))
	f := d.check(q)
	require.Equal(t, evidence.Good, f.Status, f.Detail)
	require.Equal(t, testpki.Epoch.Add(2*time.Hour), f.Expires)
	d.advance(2*time.Hour + time.Second)
	q.Grace = 72 * time.Hour
	require.Equal(t, evidence.Unknown, d.engine.Peek(q).Status)
	require.Equal(t, evidence.Revoked, d.engine.Peek(revoked).Status)
}
