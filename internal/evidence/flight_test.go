package evidence_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// bubble runs a test in a world whose timeouts are those of a fake clock.
func bubble(t *testing.T, f func(*world)) {
	synctest.Test(t, func(t *testing.T) { f(newWorld(t)) })
}

func extra(e ...pkix.Extension) []pkix.Extension { return e }

func rawSequence(content []byte) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: content}
}

func TestAThousandChecksAskOnce(t *testing.T) {
	bubble(t, func(w *world) {
		q := w.leaf()
		list, _, releaseList := held(says(w.crl(nil)))
		response, _, releaseResponse := held(says(w.ocsp(q, xocsp.Good, nil)))
		w.on("crl.test", list)
		w.on("ocsp.test", response)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if f := w.check(q); f.Status != evidence.Good {
					t := w.t
					t.Errorf("%s: %s", f.Status, f.Detail)
				}
			})
		}
		synctest.Wait()
		releaseList()
		releaseResponse()
		wg.Wait()
		require.Equal(w.t, map[string]int{"crl.test": 1, "ocsp.test": 1}, w.requests())
		w.check(q)
		require.Equal(w.t, map[string]int{"crl.test": 1, "ocsp.test": 1}, w.requests())
	})
}

// The caller who gives up leaves the fetch to the next one.
func TestFetchOutlivesItsCaller(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		h, asked, release := held(says(w.crl(nil, q.Cert)))
		w.on("crl.test", h)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-asked; cancel() }()
		f := w.engine.Check(ctx, q)
		require.Equal(w.t, evidence.Unknown, f.Status)
		require.Contains(w.t, f.Detail, "the fetch goes on")
		require.True(w.t, current(f))
		release()
		synctest.Wait()
		require.False(w.t, current(f), "a slot that was empty and is filled")
		require.Equal(w.t, evidence.Revoked, w.engine.Peek(q).Status)
		require.Equal(w.t, 1, w.count("crl.test"))
	})
}

func TestPrimeStartsAndDoesNotWait(t *testing.T) {
	bubble(t, func(w *world) {
		q := w.leaf()
		h, _, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		w.engine.Prime(q)
		synctest.Wait()
		require.Equal(w.t, 1, w.count("crl.test"))
		release()
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		require.Equal(w.t, 1, w.count("crl.test"))
	})
}

// What hangs is given up after the time of its kind: 3 s for OCSP, 60 s for CRLs.
func TestFetchesEnd(t *testing.T) {
	bubble(t, func(w *world) {
		w.on("crl.test", hangs)
		w.on("ocsp.test", hangs)
		q := w.leaf()
		start := time.Now()
		f := w.check(q)
		require.Equal(w.t, time.Minute, time.Since(start))
		require.Equal(w.t, evidence.Unknown, f.Status)
		require.Contains(w.t, f.Detail, "deadline")
		ocsp := w.leaf()
		ocsp.Cert.CRLDistributionPoints, ocsp.Cert.Extensions = nil, nil
		start = time.Now()
		w.check(ocsp)
		require.Equal(w.t, 3*time.Second, time.Since(start))
	})
}

func TestTooManyFetchesAreUnknown(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	free := w.engine.Occupy()
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "too many fetches")
	require.Empty(t, w.requests())
	require.Equal(t, time.Second, f.RetryAfter)
	free()
	f = w.check(q)
	require.Equal(t, evidence.Good, f.Status, "it was no failure of the source, which is asked at once")
	require.NotContains(t, f.Detail, "too many fetches")
}

// Refresh is for "revoked just now": it must not be content with the answer to a
// question that was asked before.
func TestRefreshDoesNotJoinAnOlderFetch(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		h, asked, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		go w.check(q)
		<-asked
		w.advance(time.Second)
		w.on("crl.test", says(w.crl(nil, q.Cert)))
		failed := make(chan error)
		go func() { failed <- w.engine.Refresh(context.Background()) }()
		synctest.Wait()
		release()
		require.NoError(w.t, <-failed)
		require.Equal(w.t, 2, w.count("crl.test"))
		require.Equal(w.t, evidence.Revoked, w.engine.Peek(q).Status)
	})
}

// Whoever waited for another's update finds nothing left to ask.
func TestUpdateThatWaitedAsksNothing(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		w.check(q)
		w.advance(time.Minute)
		h, asked, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		go w.engine.Refresh(context.Background())
		<-asked
		result := make(chan evidence.Finding)
		go func() { result <- w.check(q) }()
		synctest.Wait()
		release()
		require.Equal(w.t, evidence.Good, (<-result).Status)
		require.Equal(w.t, 2, w.count("crl.test"))
	})
}

// Refresh ends with its context although another fetch is under way, and the
// source is not blamed for that; it is once its own time is over.
func TestRefreshEndsWithItsContext(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		h, asked, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		go w.check(q)
		<-asked
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(w.t, w.engine.Refresh(ctx), context.DeadlineExceeded)
		require.Equal(w.t, time.Second, time.Since(start))
		release()
		synctest.Wait()
		require.Equal(w.t, evidence.Good, w.engine.Peek(q).Status)

		w.on("crl.test", hangs)
		ctx, cancel = context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(w.t, w.engine.Refresh(ctx), context.DeadlineExceeded)
		f := w.check(q)
		require.Equal(w.t, evidence.Good, f.Status)
		require.Zero(w.t, f.RetryAfter)
		time.Sleep(time.Minute)
		require.Positive(w.t, w.check(q).RetryAfter)
	})
}

func TestRefreshNamesTheSourcesThatFailed(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	w.goodOCSP(q)
	f := w.check(q)
	w.on("ocsp.test", fails)
	w.advance(time.Minute)
	w.goodCRL()
	err := w.engine.Refresh(t.Context())
	require.ErrorContains(t, err, `OCSP "http://ocsp.test/status"`)
	require.ErrorContains(t, err, "connection refused")
	require.NotContains(t, err.Error(), "crl.test")
	require.Equal(t, map[string]int{"crl.test": 2, "ocsp.test": 2}, w.requests())
	require.False(t, current(f), "the list is a new one")
	require.Equal(t, evidence.Good, w.check(q).Status, "what is held stays")
}

// Who calls Refresh while another waits for its turn shares what that one will ask.
func TestRefreshesThatWaitShareOneFetch(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		h, asked, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		go w.check(q)
		<-asked
		var wg sync.WaitGroup
		for range 100 { // more than there are places in the background
			wg.Go(func() {
				if err := w.engine.Refresh(context.Background()); err != nil {
					w.t.Error(err)
				}
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		require.LessOrEqual(w.t, w.count("crl.test"), 4)
	})
}

// A client of the caller's that ends the goroutine does not leave the slot
// waiting for it.
func TestClientThatEndsTheGoroutine(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	w.on("crl.test", func(*http.Request) (*http.Response, error) { runtime.Goexit(); return nil, nil })
	q := w.leaf()
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	w.advance(time.Minute)
	w.goodCRL()
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// An older list that is still valid is a replay: it is refused, and what is held
// stays. What takes its place in the same second undoes no revocation: that takes
// a newer list.
func TestRollbackIsRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*testpki.CRLOptions)
		taken  bool
		want   evidence.Status
	}{
		{"an older list", func(o *testpki.CRLOptions) { o.ThisUpdate = o.ThisUpdate.Add(-time.Second) }, false, evidence.Revoked},
		{"a lower number in the same second", func(o *testpki.CRLOptions) { o.Number.SetInt64(6) }, false, evidence.Revoked},
		{"a higher number in the same second", func(o *testpki.CRLOptions) { o.Number.SetInt64(8) }, true, evidence.Revoked},
		{"fewer entries and the same number in the same second", func(o *testpki.CRLOptions) {}, false, evidence.Revoked},
		{"as many entries and the same number", func(o *testpki.CRLOptions) {
			o.Entries = []x509.RevocationListEntry{{SerialNumber: bigInt(1), RevocationTime: o.ThisUpdate}}
		}, true, evidence.Revoked},
		{"a newer list", func(o *testpki.CRLOptions) { o.ThisUpdate = o.ThisUpdate.Add(time.Second) }, true, evidence.Good},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.only([]string{crlURL}, nil)
			q := w.leaf()
			numbered := func(o *testpki.CRLOptions) { o.Number = bigInt(7) }
			w.on("crl.test", says(w.crl(numbered, q.Cert)))
			require.Equal(t, evidence.Revoked, w.check(q).Status)
			w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { numbered(o); c.change(o) })))
			err := w.engine.Refresh(t.Context())
			require.Equal(t, c.want, w.engine.Peek(q).Status)
			if c.taken {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
				require.Regexp(t, "does not supersede|an older list", err.Error())
			}
		})
	}
}

// A verdict that rests on a slot that is no longer found would never hear of a
// revocation.
func TestEvictedSlotVoidsWhatRestsOnIt(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q := w.leaf()
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	require.True(t, current(f))
	w.engine.Crowd(q)
	require.False(t, current(f))
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, 2, w.count("crl.test"))
}

// Nor is the fetch of the slot that was evicted any use to its successor.
func TestSuccessorOfAnEvictedSlotFetchesItself(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		h, asked, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		go w.check(q)
		<-asked
		w.engine.Crowd(q)
		w.goodCRL()
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		release()
	})
}

// cloudflare/cfssl#1033: two CAs publish under one URL, and even under one name.
func TestThreat50_TwoCAsWithOneURL(t *testing.T) {
	for _, name := range []string{"", "one name"} {
		w := newWorld(t)
		w.only([]string{crlURL}, nil)
		a, b := w.root(testpki.Options{CommonName: name}), w.root(testpki.Options{CommonName: name})
		a.CRLURLs, b.CRLURLs = []string{crlURL}, []string{crlURL}
		serial := bigInt(1000)
		w.ca = a
		qa := w.query(w.issue(testpki.Options{Serial: serial}).Certificate)
		w.on("crl.test", says(w.crl(nil)))
		w.ca = b
		qb := w.query(w.issue(testpki.Options{Serial: serial}).Certificate)

		require.Equal(t, evidence.Good, w.check(qa).Status)
		require.Equal(t, evidence.Unknown, w.engine.Peek(qb).Status)
		require.Equal(t, evidence.Unknown, w.check(qb).Status, "a's list does not speak for b")
		w.advance(time.Minute)
		w.on("crl.test", says(w.crl(nil, qb.Cert)))
		require.Equal(t, evidence.Revoked, w.check(qb).Status)
		require.Equal(t, evidence.Good, w.check(qa).Status, "nor b's for a")
	}
}

// Traefik's CVE-2026-71326 was two identities under one key.
func TestKeysAreLengthPrefixed(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	other, negative := w.query(w.issue(testpki.Options{}).Certificate), q
	copied := *q.Cert
	copied.SerialNumber = bigInt(0).Neg(q.Cert.SerialNumber)
	negative.Cert = &copied
	ca := q
	ca.Cert = &x509.Certificate{SerialNumber: q.Cert.SerialNumber, IsCA: true}
	foreign, renamed, cross := q, q, q
	certificate := *q.Issuer
	certificate.RawTBSCertificate = append([]byte{0}, certificate.RawTBSCertificate...) // of the same name and key
	cross.Issuer = &certificate
	foreign.Issuer = w.root(testpki.Options{}).Certificate
	renamed.Issuer = w.root(testpki.Options{Key: w.ca.Key}).Certificate
	keys := map[string]bool{}
	list := []string{
		evidence.CRLKey(q, "ab", "c"), evidence.CRLKey(q, "a", "bc"), evidence.CRLKey(q, "abc"), evidence.CRLKey(q, "abc", ""),
		evidence.CRLKey(ca, "abc"), evidence.CRLKey(foreign, "abc"), evidence.CRLKey(renamed, "abc"), evidence.CRLKey(cross, "abc"),
		evidence.OCSPKey(q, "abc"), evidence.OCSPKey(other, "abc"), evidence.OCSPKey(negative, "abc"), evidence.OCSPKey(foreign, "abc"),
		evidence.StapleKey(q), evidence.StapleKey(other),
	}
	for _, k := range list {
		require.Regexp(t, "^(crl|ocsp|staple)-[0-9a-f]{64}$", k)
		keys[k] = true
	}
	require.Len(t, keys, len(list))
	require.Equal(t, evidence.CRLKey(q, "abc"), evidence.CRLKey(other, "abc"), "one list for all certificates")
}
