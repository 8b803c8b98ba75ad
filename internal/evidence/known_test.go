package evidence_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

func keyOf(q evidence.Query) evidence.CertKey { return evidence.KeyOf(q.Cert, q.Issuer) }

// cross is the query of a client that presents another certificate of its CA,
// under another anchor: all slots are empty.
func (w *world) cross(q evidence.Query) evidence.Query {
	w.t.Helper()
	c, err := w.root(testpki.Options{}).CrossSign(w.ca, testpki.Options{})
	require.NoError(w.t, err)
	q.Issuer, q.Owner = c, [32]byte{'x'}
	return q
}

// Anybody can write an ECDSA signature (r, s) as (r, n-s).
func TestOtherEncodingOfTheIssuerHasTheSameSlots(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	w.goodOCSP(q)
	require.Equal(t, evidence.Good, w.check(q).Status)
	der, ok := x509ext.Twin(q.Issuer, q.Issuer)
	require.True(t, ok)
	twin, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.False(t, twin.Equal(q.Issuer))
	slots := w.engine.Slots()
	q.Issuer = twin
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, slots, w.engine.Slots())
}

func TestKeyOfACertificate(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	negative := q
	copied := *q.Cert
	copied.SerialNumber = new(big.Int).Neg(copied.SerialNumber)
	negative.Cert = &copied
	foreign, renamed, shifted := q, q, q
	foreign.Issuer = w.root(testpki.Options{CommonName: q.Issuer.Subject.CommonName}).Certificate
	renamed.Issuer = w.root(testpki.Options{Key: w.ca.Key}).Certificate
	moved := *q.Issuer // a byte moved from one part to the next
	last := len(moved.RawSubjectPublicKeyInfo) - 1
	moved.RawSubject = append([]byte{moved.RawSubjectPublicKeyInfo[last]}, moved.RawSubject...)
	moved.RawSubjectPublicKeyInfo = moved.RawSubjectPublicKeyInfo[:last]
	shifted.Issuer = &moved
	keys := map[evidence.CertKey]bool{}
	for _, q := range []evidence.Query{q, negative, foreign, renamed, shifted, w.leaf()} {
		keys[keyOf(q)] = true
	}
	require.Len(t, keys, 6)
	require.Equal(t, keyOf(q), keyOf(w.cross(q)))
}

// A client that presents a cross-certificate of its CA has empty slots, into
// which it staples a response from before its revocation.
func TestRevocationIsKnownUnderEveryCertificateOfTheIssuer(t *testing.T) {
	for _, source := range []string{"crl", "ocsp", "staple"} {
		t.Run(source, func(t *testing.T) {
			w := newWorld(t)
			q := w.leaf()
			old := w.week(q, xocsp.Good)
			w.advance(time.Minute)
			first := q
			switch source {
			case "crl":
				w.on("crl.test", says(w.crl(nil, q.Cert)))
			case "ocsp":
				w.on("ocsp.test", says(w.ocsp(q, xocsp.Revoked, nil)))
			case "staple":
				first.Staple = w.week(q, xocsp.Revoked)
			}
			require.Zero(t, w.engine.News())
			require.False(t, w.engine.KnownRevoked(keyOf(q)))
			want := w.check(first)
			require.Equal(t, evidence.Revoked, want.Status)
			require.EqualValues(t, 1, w.engine.News())
			require.Len(t, want.Proofs, 1, "the record adds nothing to the slot that it comes from")
			require.True(t, w.engine.KnownRevoked(evidence.CertKey{}, keyOf(q)))
			require.False(t, w.engine.KnownRevoked(evidence.CertKey{}, keyOf(w.leaf())))

			w.on("crl.test", fails)
			w.on("ocsp.test", fails)
			again := w.cross(q)
			again.Staple = old
			for range 2 {
				for _, f := range []evidence.Finding{w.engine.Peek(again), w.check(again)} {
					require.Equal(t, evidence.Revoked, f.Status)
					require.Equal(t, want.Compromise, f.Compromise)
					require.Equal(t, want.Detail, f.Detail)
					require.Subset(t, f.Proofs, want.Proofs)
				}
			}
			w.check(first)
			require.EqualValues(t, 1, w.engine.News(), "recorded again with nothing new is no news")
		})
	}
}

func TestPeekRecordsNothing(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	stapled := q
	stapled.Staple = w.week(q, xocsp.Revoked)
	require.Equal(t, evidence.Revoked, w.engine.Peek(stapled).Status)
	require.Zero(t, w.engine.News())
	require.False(t, w.engine.KnownRevoked(keyOf(q)))
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
}

// A hold may end. Only the source that spoke of it can say so, and only later.
func TestWhatUndoesARevocation(t *testing.T) {
	for _, c := range []struct {
		name string
		say  func(w *world, q *evidence.Query)
		want evidence.Status
	}{
		{"a newer list", func(w *world, q *evidence.Query) {
			w.advance(time.Second)
			w.on("crl.test", says(w.crl(nil)))
		}, evidence.Good},
		{"a list of the same second", func(w *world, q *evidence.Query) { w.on("crl.test", says(w.crl(nil))) }, evidence.Revoked},
		{"an older list", func(w *world, q *evidence.Query) {
			w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.ThisUpdate = o.ThisUpdate.Add(-time.Second) })))
		}, evidence.Revoked},
		{"a newer list that has lapsed", func(w *world, q *evidence.Query) {
			w.advance(time.Minute)
			w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.NextUpdate = o.ThisUpdate.Add(time.Second) })))
			w.advance(time.Minute)
		}, evidence.Revoked},
		{"a newer response of a responder", func(w *world, q *evidence.Query) {
			w.advance(time.Second)
			w.goodOCSP(*q)
		}, evidence.Revoked},
		{"a newer staple", func(w *world, q *evidence.Query) {
			w.advance(time.Second)
			q.Staple = w.week(*q, xocsp.Good)
		}, evidence.Revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			q := w.leaf()
			w.on("crl.test", says(w.crl(nil, q.Cert)))
			require.Equal(t, evidence.Revoked, w.check(q).Status)
			w.on("crl.test", fails)
			again := w.cross(q)
			c.say(w, &again)
			require.Equal(t, c.want, w.check(again).Status)
			require.Equal(t, c.want, w.engine.Peek(again).Status)
			require.Equal(t, c.want == evidence.Revoked, w.engine.KnownRevoked(keyOf(q)))
			require.EqualValues(t, 1, w.engine.News())
			// The slot under the first certificate still says what it said.
			require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
			require.Equal(t, evidence.Revoked, w.check(q).Status)
			require.EqualValues(t, 1, w.engine.News(), "the two do not make news of each other for ever")
			require.Equal(t, c.want, w.engine.Peek(again).Status)
		})
	}
}

func TestNewerStapleUndoesARevokedOne(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	q.Staple = w.week(q, xocsp.Revoked)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.advance(time.Second)
	again := w.cross(q)
	again.Staple = nil
	w.goodCRL()
	w.goodOCSP(q)
	require.Equal(t, evidence.Revoked, w.check(again).Status, "a newer list and response do not")
	again.Staple = w.week(q, xocsp.Good)
	require.Equal(t, evidence.Good, w.engine.Peek(again).Status)
	require.True(t, w.engine.KnownRevoked(keyOf(q)), "Peek undoes nothing")
	require.Equal(t, evidence.Good, w.check(again).Status)
	require.False(t, w.engine.KnownRevoked(keyOf(q)))

	w.advance(time.Second)
	q.Staple = w.week(q, xocsp.Revoked)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	require.EqualValues(t, 2, w.engine.News(), "revoked anew is news")
	require.True(t, w.engine.KnownRevoked(keyOf(q)))
	require.Equal(t, evidence.Revoked, w.check(again).Status)
}

// The same trick, with the certificate of a responder whose key was stolen.
func TestRevokedResponderIsKnownUnderEveryCertificateOfTheIssuer(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	r := w.responder(testpki.Options{}, q)
	w.on("ocsp.test", fails)
	w.on("responder-crl.test", says(w.crl(nil)))
	old := w.crl(nil)
	w.advance(time.Minute)
	w.on("responder-crl.test", says(w.crl(nil, r.Certificate)))
	q.Staple = w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = r })
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	require.True(t, w.engine.KnownRevoked(evidence.KeyOf(r.Certificate, q.Issuer)))
	w.on("responder-crl.test", says(old))
	require.Equal(t, evidence.Unknown, w.check(w.cross(q)).Status)
}

func TestRecordsOfRevocationsAreBounded(t *testing.T) {
	require.Equal(t, 65536, evidence.MaxKnown)
	w := newWorld(t)
	key := func(i int) (k evidence.CertKey) {
		copy(k[:], fmt.Sprint(i))
		return k
	}
	at := w.now()
	for i := range evidence.MaxKnown {
		w.engine.Record(key(i), "a", evidence.Revoked, at)
	}
	w.engine.Record(key(0), "a", evidence.Revoked, at) // used
	w.engine.Record(key(-1), "a", evidence.Revoked, at)
	require.True(t, w.engine.KnownRevoked(key(0)))
	require.False(t, w.engine.KnownRevoked(key(1)), "the one used least recently is forgotten")
	require.True(t, w.engine.KnownRevoked(key(-1)))

	for i := range 30 {
		w.engine.Record(key(0), fmt.Sprint(i), evidence.Revoked, at)
	}
	require.Equal(t, 18, w.engine.Records(key(0)))
	w.engine.Record(key(0), "a", evidence.Good, at.Add(time.Second))
	require.Equal(t, 17, w.engine.Records(key(0)))
	w.engine.Record(key(0), "late", evidence.Revoked, at)
	require.Equal(t, 18, w.engine.Records(key(0)), "what was undone makes room")
}

// Each request of a client with two chains, or of a fleet with one certificate,
// brings the same staple.
func TestSameStapleAgainVoidsNothing(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	w.goodOCSP(q)
	require.Equal(t, evidence.Good, w.check(q).Status) // a staple would not wait for the sources, whose news are news
	q.Staple = w.week(q, xocsp.Good)
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	require.True(t, current(f))
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.True(t, current(f))
	for _, c := range []struct {
		name   string
		staple []byte
	}{
		{"another nextUpdate", w.ocsp(q, xocsp.Good, nil)},
		{"another responder", w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = w.responder(testpki.Options{}, q) })},
		{"yet another", w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = w.responder(testpki.Options{}, q) })},
		{"revoked", w.ocsp(q, xocsp.Revoked, nil)},
	} {
		f := w.check(q)
		require.True(t, current(f), c.name)
		q.Staple = c.staple
		w.check(q)
		require.False(t, current(f), c.name)
	}
}

func TestRecordsAreSafeForConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		q := w.leaf()
		w.on("crl.test", says(w.crl(nil, q.Cert)))
		cross := w.cross(q)
		var wg sync.WaitGroup
		for range 20 {
			for _, q := range []evidence.Query{q, cross} {
				wg.Go(func() {
					if w.engine.Check(context.Background(), q).Status != evidence.Revoked || !w.engine.KnownRevoked(keyOf(q)) {
						t.Error("not revoked")
					}
					w.engine.Peek(q)
				})
			}
		}
		wg.Wait()
		require.EqualValues(t, 1, w.engine.News())
	})
}
