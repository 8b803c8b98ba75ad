package evidence_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// A statement counts for the grace after its nextUpdate, to the second, and says
// that it is late.
func TestGrace(t *testing.T) {
	for _, source := range []string{"crl", "ocsp"} {
		bubble(t, func(w *world) {
			w.only([]string{crlURL}, nil)
			if source == "ocsp" {
				w.only(nil, []string{ocspURL})
			}
			q := w.leaf()
			q.Grace = time.Hour
			w.goodCRL()
			w.goodOCSP(q)
			end := w.now().Add(24 * time.Hour)
			f := w.check(q)
			require.Equal(w.t, evidence.Good, f.Status)
			require.False(w.t, f.Proofs[0].Late)
			require.Equal(w.t, end, f.Expires, "the grace does not prolong what is current")
			w.on("crl.test", fails)
			w.on("ocsp.test", fails)
			w.advance(24 * time.Hour)
			require.False(w.t, w.check(q).Proofs[0].Late)
			w.advance(time.Second)
			for _, f := range []evidence.Finding{w.engine.Peek(q), w.check(q)} {
				require.Equal(w.t, evidence.Good, f.Status, f.Detail)
				require.True(w.t, f.Proofs[0].Late)
				require.Equal(w.t, end.Add(time.Hour), f.Expires)
			}
			short := q
			short.Grace = 0
			require.Equal(w.t, evidence.Unknown, w.engine.Peek(short).Status, "whoever has no grace")
			aged := q
			aged.MaxAge = 24 * time.Hour
			require.Equal(w.t, evidence.Unknown, w.engine.Peek(aged).Status, "MaxAge holds all the same")
			w.advance(time.Hour - time.Second)
			require.Equal(w.t, evidence.Good, w.engine.Peek(q).Status)
			w.advance(time.Second)
			require.Equal(w.t, evidence.Unknown, w.engine.Peek(q).Status)
			require.Equal(w.t, evidence.Unknown, w.check(q).Status)
		})
	}
}

// The grace is for a source that does not answer: one that does is heard first.
func TestGraceWaitsForTheSource(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		w.goodCRL()
		q := w.leaf()
		q.Grace = 72 * time.Hour
		w.check(q)
		w.advance(25 * time.Hour)
		w.on("crl.test", hangs)
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		start := time.Now()
		f := w.engine.Check(ctx, q)
		require.Equal(w.t, evidence.Good, f.Status)
		require.True(w.t, f.Proofs[0].Late)
		require.Equal(w.t, 3*time.Second, time.Since(start))
		time.Sleep(time.Minute)
		synctest.Wait()
		w.advance(time.Minute)
		w.on("crl.test", says(w.crl(nil, q.Cert)))
		require.Equal(w.t, evidence.Revoked, w.check(q).Status)
	})
}

// It is no grace for the certificate of whoever signed the statement, but for
// what is known of it, which then is late as well.
func TestGraceOfSigners(t *testing.T) {
	bubble(t, func(w *world) {
		w.only(nil, []string{ocspURL})
		q := w.leaf()
		q.Grace = 48 * time.Hour
		w.responder(testpki.Options{NotAfter: w.now().Add(30 * time.Hour)}, q)
		w.on("responder-crl.test", says(w.list(1, lasts(time.Hour))))
		f := w.check(q)
		require.Equal(w.t, w.now().Add(time.Hour), f.Expires)
		require.False(w.t, f.Proofs[0].Late)
		w.on("ocsp.test", fails)
		w.on("responder-crl.test", fails)
		w.advance(2 * time.Hour)
		f = w.check(q)
		require.Equal(w.t, evidence.Good, f.Status, f.Detail)
		require.True(w.t, f.Proofs[0].Late, "by what is known of the responder")
		w.advance(28 * time.Hour)
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		w.advance(time.Second)
		require.Equal(w.t, evidence.Unknown, w.check(q).Status)
	})
}

// No grace makes a good one of a revoked certificate.
func TestGraceIsNotForRevocations(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, []string{ocspURL})
	q := w.leaf()
	q.Grace = 72 * time.Hour
	w.goodCRL()
	w.advance(time.Hour)
	w.on("ocsp.test", says(w.ocsp(q, xocsp.Revoked, nil)))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.advance(30 * time.Hour)
	w.on("ocsp.test", fails)
	w.on("crl.test", fails)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	require.Equal(t, evidence.Revoked, w.check(w.cross(q)).Status)
}

// A staple past its time is not taken within any grace.
func TestGraceIsNotForStaples(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	q.Grace = 72 * time.Hour
	q.Staple = w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.NextUpdate = w.now().Add(time.Hour) })
	w.advance(2 * time.Hour)
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Unknown, w.check(q).Status)
}

// Only a source that does not answer is silent. An answer that cannot be used is
// somebody's, and no outage.
func TestSilent(t *testing.T) {
	header := func(name, value string) answer {
		return func(*http.Request) (*http.Response, error) {
			r := reply(http.StatusOK, []byte("x"))
			r.Header.Set(name, value)
			return r, nil
		}
	}
	code := func(n int) answer {
		return func(*http.Request) (*http.Response, error) { return reply(n, []byte("x")), nil }
	}
	large := func(*http.Request) (*http.Response, error) {
		r := reply(http.StatusOK, []byte("x"))
		r.ContentLength = 1 << 40
		return r, nil
	}
	redirect := func(to string) answer {
		return func(*http.Request) (*http.Response, error) {
			r := reply(http.StatusFound, nil)
			r.Header.Set("Location", to)
			return r, nil
		}
	}
	cutShort := func(*http.Request) (*http.Response, error) {
		r := reply(http.StatusOK, []byte("x"))
		r.ContentLength = 10
		return r, nil
	}
	for _, c := range []struct {
		name   string
		answer answer
		silent bool
		ocsp   bool // of a responder only
	}{
		{"no connection", fails, true, false},
		{"no answer in time", hangs, true, false},
		{"a body that ends early", cutShort, true, false},
		{"204", code(204), true, false},
		{"304 that nobody asked for", code(304), true, false},
		{"403", code(403), true, false},
		{"404", code(404), true, false},
		{"500", code(500), true, false},
		{"503", code(503), true, false},
		{"nothing", code(200), false, false},
		{"garbage", says([]byte("garbage")), false, false},
		{"empty", says(nil), false, false},
		{"HTML", header("Content-Type", "text/html"), false, false},
		{"an encoding", header("Content-Encoding", "gzip"), false, false},
		{"too large", large, false, false},
		{"a redirect to a private address", redirect("http://127.0.0.1/"), false, false},
		{"a redirect to another protocol", redirect("ldap://crl.test/"), false, false},
		{"redirects without end", redirect("http://crl.test/"), false, false},
		{"malformedRequest", says(responseStatus(1)), false, true},
		{"internalError", says(responseStatus(2)), true, true},
		{"tryLater", says(responseStatus(3)), true, true},
		{"sigRequired", says(responseStatus(5)), false, true},
		{"unauthorized", says(responseStatus(6)), false, true},
		{"HTML for one method, nothing for the other", func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return header("Content-Type", "text/html")(r)
			}
			return nil, errors.New("connection refused")
		}, false, true},
		{"405 for one method, nothing for the other", func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return code(405)(r)
			}
			return nil, errors.New("connection refused")
		}, true, true},
	} {
		for _, host := range []string{"crl.test", "ocsp.test"} {
			if c.ocsp && host == "crl.test" {
				continue
			}
			t.Run(c.name+", "+host, func(t *testing.T) {
				bubble(t, func(w *world) {
					w.only([]string{crlURL}, nil)
					if host == "ocsp.test" {
						w.only(nil, []string{ocspURL})
					}
					q := w.leaf()
					w.on("crl.test", c.answer)
					w.on("ocsp.test", c.answer)
					f := w.check(q)
					require.Equal(w.t, evidence.Unknown, f.Status)
					require.Equal(w.t, c.silent, f.Silent, f.Detail)
					require.False(w.t, f.Missing)
					require.Equal(w.t, c.silent, w.engine.Peek(q).Silent)
					// An outage is one whatever was held before, if it was sound.
					w.advance(time.Minute)
					w.goodCRL()
					w.goodOCSP(q)
					require.Equal(w.t, evidence.Good, w.check(q).Status)
					w.on("crl.test", c.answer)
					w.on("ocsp.test", c.answer)
					w.advance(25 * time.Hour)
					f = w.check(q)
					require.Equal(w.t, evidence.Unknown, f.Status)
					require.Equal(w.t, c.silent, f.Silent, f.Detail)
				})
			})
		}
	}
}

// One wrong answer is enough, whatever else is silent, and however little time
// there was for that.
func TestWrongAnswerBesideSilence(t *testing.T) {
	for name, other := range map[string]answer{"fails": fails, "hangs": hangs} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.on("crl.test", says([]byte("garbage")))
				w.on("ocsp.test", other)
				q := w.leaf()
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				f := w.engine.Check(ctx, q)
				require.Equal(w.t, evidence.Unknown, f.Status)
				require.False(w.t, f.Silent, f.Detail)
				time.Sleep(time.Minute)
				require.False(w.t, w.check(q).Silent)
			})
		})
	}
}

// The place of a delta is a source like any other.
func TestWrongDeltaBesideASilentList(t *testing.T) {
	for wrong, silent := range map[bool]bool{false: true, true: false} {
		w := newWorld(t)
		q, _ := w.amended(false)
		w.on("crl.test", fails)
		w.on("delta.test", fails)
		if wrong {
			w.on("delta.test", says([]byte("garbage")))
		}
		f := w.check(q)
		require.Equal(t, evidence.Unknown, f.Status)
		require.Equal(t, silent, f.Silent, f.Detail)
	}
}

// What runs out is reported once at a half and once at four fifths of its time.
func TestWarningsBeforeEvidenceRunsOut(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		w.goodCRL()
		w.check(q)
		for round := range 2 {
			w.mu.Lock()
			w.log.Reset()
			w.mu.Unlock()
			w.on("crl.test", fails)
			for range 26 * 2 {
				w.advance(30 * time.Minute)
				w.refreshDue()
				s := w.engine.Status()[0]
				passed := int(w.now().Sub(s.ThisUpdate) * 100 / (24 * time.Hour))
				want := 0
				for _, p := range []int{50, 80} {
					if passed >= p {
						want = p
					}
				}
				if passed > 100 {
					want = 100
				}
				require.Equal(w.t, want, s.Lapsing)
			}
			for _, text := range []string{"percent=50", "percent=80", "evidence has lapsed"} {
				require.Equal(w.t, 1, strings.Count(w.logged(), text), "%s, round %d", text, round)
			}
			require.Contains(w.t, w.logged(), "connection refused")
			w.advance(time.Minute)
			w.goodCRL()
			w.refreshDue()
			require.Zero(w.t, w.engine.Status()[0].Lapsing)
		}
	})
}

func TestStatusRows(t *testing.T) {
	w := newWorld(t)
	q, _ := w.amended(false)
	w.on("crl.test", says(w.list(5, entry(w.leaf().Cert, hold), scope(testpki.Scope{UserOnly: true}))))
	w.on("delta.test", fails)
	q.Owner = [32]byte{7}
	q.Sources = []*evidence.Source{gives("own", true, w.list(4, ago(time.Hour)), w.list(4, base(3), ago(time.Minute)))}
	require.Empty(t, w.engine.Status())
	require.Equal(t, evidence.Good, w.check(q).Status)
	rows := w.engine.Status()
	require.Len(t, rows, 4)
	for _, r := range rows {
		require.Equal(t, q.Owner, r.Owner)
		require.Contains(t, r.Issuer, w.ca.Certificate.Subject.CommonName)
		require.Equal(t, w.now(), r.Asked)
	}
	require.Equal(t, []string{"crl", "delta", "crl", "crl"}, []string{rows[0].Kind, rows[1].Kind, rows[2].Kind, rows[3].Kind})
	own := rows[2:]
	require.Equal(t, "source own", own[0].Source)
	require.Equal(t, "delta CRL \"http://delta.test/list\"", rows[1].Source)
	require.Equal(t, 1, rows[1].Failures)
	require.Contains(t, rows[1].Error, "connection refused")
	require.Zero(t, rows[1].ThisUpdate)
	require.Equal(t, w.now().Add(time.Second), rows[1].Next)
	require.Equal(t, `user certificates`, rows[0].Scope)
	require.Equal(t, 1, rows[0].Entries)
	require.Equal(t, "5", rows[0].Number)
	require.Equal(t, w.now().Add(24*time.Hour), rows[0].NextUpdate)
	require.Equal(t, []string{"all certificates", "delta of all certificates"}, []string{own[0].Scope, own[1].Scope})
}
