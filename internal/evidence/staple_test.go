package evidence_test

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// week is a response for a week: its own nextUpdate does not bound it in these
// tests.
func (w *world) week(q evidence.Query, status int) []byte {
	return w.ocsp(q, status, func(o *testpki.OCSPOptions) { o.NextUpdate = w.now().Add(7 * 24 * time.Hour) })
}

func TestStapleCountsForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		q := w.leaf()
		staple := w.week(q, xocsp.Good)
		stapled := q
		stapled.Staple = staple
		f := w.check(stapled)
		require.Equal(t, evidence.Good, f.Status, f.Detail)
		require.Equal(t, w.now().Add(24*time.Hour), f.Expires)
		require.Equal(t, "staple good", kinds(f))
		synctest.Wait()
		require.Equal(t, 1, w.count("crl.test"), "its own sources are asked all the same")
		require.Equal(t, 1, w.count("ocsp.test"))

		w.advance(24 * time.Hour)
		require.Equal(t, evidence.Good, w.engine.Peek(q).Status, "kept for connections without a staple")
		w.advance(time.Second)
		require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
		require.Equal(t, evidence.Unknown, w.engine.Peek(stapled).Status)
		require.Equal(t, evidence.Unknown, w.check(stapled).Status, "stapling it again makes it no younger")
	})
}

// A staple lets the request through at once; what its own sources say is heard
// when it comes.
func TestOwnSourcesOverruleAGoodStaple(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		q := w.leaf()
		h, _, release := held(says(w.crl(nil, q.Cert)))
		w.on("crl.test", h)
		q.Staple = w.week(q, xocsp.Good)
		f := w.check(q)
		require.Equal(t, evidence.Good, f.Status)
		synctest.Wait()
		require.True(t, current(f))
		release()
		synctest.Wait()
		require.False(t, current(f))
		require.Equal(t, evidence.Revoked, w.check(q).Status)
	})
}

func TestRevokedStapleDenies(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	w.goodOCSP(q)
	require.Equal(t, evidence.Good, w.check(q).Status)
	stapled := q
	stapled.Staple = w.ocsp(q, xocsp.Revoked, nil)
	require.Equal(t, evidence.Revoked, w.engine.Peek(stapled).Status)
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status, "Peek keeps nothing")
	require.Equal(t, evidence.Revoked, w.check(stapled).Status)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

func TestOlderStapleDoesNotReplaceANewerOne(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second int
		age           time.Duration // by which the first is younger
		want          evidence.Status
	}{
		{"good recorded before the revocation", xocsp.Revoked, xocsp.Good, time.Minute, evidence.Revoked},
		{"good of the same second", xocsp.Revoked, xocsp.Good, 0, evidence.Revoked},
		{"newer good after a hold", xocsp.Revoked, xocsp.Good, -time.Minute, evidence.Good},
		{"newer revoked", xocsp.Good, xocsp.Revoked, -time.Minute, evidence.Revoked},
		{"revoked of the same second", xocsp.Good, xocsp.Revoked, 0, evidence.Revoked},
		{"older unknown", xocsp.Good, xocsp.Unknown, time.Minute, evidence.Good},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			q := w.leaf()
			this := w.now().Add(-time.Hour)
			at := func(status int, this time.Time) []byte {
				return w.ocsp(q, status, func(o *testpki.OCSPOptions) { o.ThisUpdate = this })
			}
			q.Staple = at(c.first, this)
			w.check(q)
			q.Staple = at(c.second, this.Add(-c.age))
			require.Equal(t, c.want, w.check(q).Status)
		})
	}
}

// One that has lapsed is no answer, however new.
func TestLapsedStapleDoesNotReplaceARevocation(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	q.Staple = w.ocsp(q, xocsp.Revoked, func(o *testpki.OCSPOptions) { o.ThisUpdate = w.now().Add(-time.Hour) })
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	q.Staple = w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) {
		o.ThisUpdate, o.NextUpdate = w.now().Add(-time.Minute), w.now().Add(-time.Second)
	})
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

func TestStaplesThatAreIgnored(t *testing.T) {
	for _, c := range []struct {
		name   string
		staple func(*world, evidence.Query) []byte
	}{
		{"of another certificate", func(w *world, q evidence.Query) []byte { return w.ocsp(w.leaf(), xocsp.Good, nil) }},
		{"expired", func(w *world, q evidence.Query) []byte {
			return w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) {
				o.ThisUpdate, o.NextUpdate = w.now().Add(-2*time.Hour), w.now().Add(-time.Second)
			})
		}},
		{"older than a day", func(w *world, q evidence.Query) []byte {
			return w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.ThisUpdate = w.now().Add(-24*time.Hour - time.Second) })
		}},
		{"of the future", func(w *world, q evidence.Query) []byte {
			return w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.ThisUpdate = w.now().Add(6 * time.Minute) })
		}},
		{"garbage", func(*world, evidence.Query) []byte { return []byte("garbage") }},
		{"by the client itself", func(w *world, q evidence.Query) []byte {
			self := w.issue(testpki.Options{CommonName: "client"})
			return w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = self })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			q := w.leaf()
			q.Staple = c.staple(w, q)
			for _, ask := range []func(evidence.Query) evidence.Finding{w.engine.Peek, w.check, w.engine.Peek} {
				f := ask(q)
				require.Equal(t, evidence.Unknown, f.Status)
				require.Empty(t, kinds(f))
			}
		})
	}
}

// A staple that does not count must not spare the client the wait for the source
// that knows of its revocation.
func TestWorthlessStapleDoesNotCutTheWaitShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.goodCRL()
		q := w.leaf()
		h, asked, release := held(says(w.ocsp(q, xocsp.Revoked, nil)))
		w.on("ocsp.test", h)
		q.Staple = []byte("garbage")
		result := make(chan evidence.Finding)
		go func() { result <- w.check(q) }()
		<-asked
		release()
		require.Equal(t, evidence.Revoked, (<-result).Status)
	})
}

// A staple is about the client's certificate, and is not believed for a CA's.
func TestStapleIsForTheLeaf(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	q.Staple, q.Leaf = w.ocsp(q, xocsp.Good, nil), false
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Unknown, w.check(q).Status)
}

// A staple by a delegated responder that must be checked waits for that check.
func TestStapleByADelegatedResponder(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		w := newWorld(t)
		q := w.leaf()
		r := w.responder(testpki.Options{}, q)
		w.on("ocsp.test", fails)
		var list []*x509.Certificate
		if revoked {
			list = append(list, r.Certificate)
		}
		w.on("responder-crl.test", says(w.crl(nil, list...)))
		q.Staple = w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = r })
		require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
		require.Equal(t, !revoked, w.check(q).Status == evidence.Good)
	}
}

// The handshake asks before the client has proved that it holds its key.
func TestPeekFetchesAndStoresNothing(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	w.goodOCSP(q)
	q.Staple = w.ocsp(q, xocsp.Good, nil)
	f := w.engine.Peek(q)
	require.Equal(t, evidence.Good, f.Status)
	require.Equal(t, "staple good", kinds(f))
	require.Zero(t, w.engine.Slots())
	require.Empty(t, w.requests())
	q.Staple = nil
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	require.Zero(t, w.engine.Slots())
	require.Empty(t, w.requests())
	_, any := w.engine.NextDue()
	require.False(t, any)
}

// The bytes of a staple belong to crypto/tls, which hands them to every handler.
func TestStapleIsCopied(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	r := w.responder(testpki.Options{}, q)
	w.on("responder-crl.test", says(w.crl(nil)))
	q.Staple = w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = r })
	require.Equal(t, evidence.Good, w.check(q).Status)
	clear(q.Staple)
	q.Staple = nil
	w.on("ocsp.test", fails)
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status)
}
