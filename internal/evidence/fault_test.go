package evidence_test

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// responseStatus is an OCSPResponse without an answer (RFC 6960 section 4.2.1).
func responseStatus(code byte) []byte { return []byte{0x30, 3, 10, 1, code} }

// No fault of a server ever makes a certificate good: neither at first, nor
// where the fault replaces evidence that has lapsed (CVE-2026-29145,
// CVE-2026-24734). Over real connections.
func TestNoFaultIsGood(t *testing.T) {
	stranger, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	const day = 24 * time.Hour
	list := func(change func(*world, *testpki.CRLOptions)) func(*world, evidence.Query) []byte {
		return func(w *world, _ evidence.Query) []byte {
			return w.crl(func(o *testpki.CRLOptions) {
				if change != nil {
					change(w, o)
				}
			})
		}
	}
	response := func(change func(*world, *testpki.OCSPOptions)) func(*world, evidence.Query) []byte {
		return func(w *world, q evidence.Query) []byte {
			return w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) {
				if change != nil {
					change(w, o)
				}
			})
		}
	}
	fixed := func(b []byte) func(*world, evidence.Query) []byte {
		return func(*world, evidence.Query) []byte { return b }
	}
	for _, c := range []struct {
		name   string
		crl    func(*world, evidence.Query) []byte // nil: the fault is in how they are sent
		ocsp   func(*world, evidence.Query) []byte
		serve  http.HandlerFunc
		down   bool
		detail string
	}{
		{name: "down", down: true, detail: "connection refused"},
		{name: "connection closed", serve: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, detail: "EOF"},
		{name: "500", serve: status(500), detail: "HTTP status 500"},
		{name: "404", serve: status(404), detail: "HTTP status 404"},
		{name: "204", serve: status(204), detail: "HTTP status 204"},
		{name: "redirect to a metadata service", serve: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		}, detail: "not allowed for URLs from certificates"},
		{name: "HTML", serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte("<html>"))
		}, detail: "HTML"},
		{name: "HTML without saying so", crl: fixed([]byte("<html></html>")), ocsp: fixed([]byte("<html></html>")), detail: "malformed"},
		{name: "empty", serve: func(http.ResponseWriter, *http.Request) {}, detail: "empty"},
		{name: "garbage", crl: fixed([]byte{0x30, 0x82, 1}), ocsp: fixed([]byte{0x30, 0x82, 1}), detail: "malformed"},
		{name: "truncated", crl: cut(list(nil)), ocsp: cut(response(nil)), detail: "malformed"},
		{name: "body shorter than announced", serve: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("short"))
		}, detail: "unexpected EOF"},
		{name: "stale", crl: list(func(w *world, o *testpki.CRLOptions) {
			o.ThisUpdate, o.NextUpdate = w.now().Add(-2*day), w.now().Add(-time.Second)
		}), ocsp: response(func(w *world, o *testpki.OCSPOptions) {
			o.ThisUpdate, o.NextUpdate = w.now().Add(-2*day), w.now().Add(-time.Second)
		}), detail: "expired"},
		{name: "future", crl: list(func(w *world, o *testpki.CRLOptions) { o.ThisUpdate = w.now().Add(5*time.Minute + time.Second) }),
			ocsp: response(func(w *world, o *testpki.OCSPOptions) { o.ThisUpdate = w.now().Add(5*time.Minute + time.Second) }), detail: "future"},
		{name: "wrong signer", crl: list(func(_ *world, o *testpki.CRLOptions) { o.Signer = stranger }),
			ocsp: response(func(w *world, o *testpki.OCSPOptions) {
				o.Responder = &testpki.Leaf{Certificate: w.ca.Certificate, Key: stranger.Key}
			}), detail: "signature"},
		{name: "another CA's", crl: func(*world, evidence.Query) []byte { der, _ := stranger.CRL(testpki.CRLOptions{}); return der },
			ocsp: func(_ *world, q evidence.Query) []byte {
				der, _ := stranger.OCSP(testpki.OCSPOptions{Serial: q.Cert.SerialNumber})
				return der
			}, detail: "other certificates"},
		{name: "another certificate's", crl: otherPoint(list), ocsp: func(w *world, _ evidence.Query) []byte {
			return w.ocsp(w.leaf(), xocsp.Good, nil)
		}, detail: "other certificates"},
		{name: "malformedRequest", crl: fixed(responseStatus(1)), ocsp: fixed(responseStatus(1)), detail: "malformed"},
		{name: "internalError", crl: fixed(responseStatus(2)), ocsp: fixed(responseStatus(2)), detail: "internal error"},
		{name: "tryLater", crl: fixed(responseStatus(3)), ocsp: fixed(responseStatus(3)), detail: "try later"},
		{name: "unauthorized", crl: fixed(responseStatus(6)), ocsp: fixed(responseStatus(6)), detail: "unauthorized"},
		{name: "success without an answer", crl: fixed(responseStatus(0)), ocsp: fixed(responseStatus(0)), detail: "malformed"},
		{name: "each answers with the other's", crl: response(nil), ocsp: list(nil), detail: "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var handler atomic.Pointer[http.HandlerFunc]
			server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { (*handler.Load())(rw, r) }))
			defer server.Close()
			w.fetch = fetch.New(fetch.Options{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
			w.only([]string{server.URL + "/crl"}, []string{server.URL + "/ocsp"})
			q := w.leaf()
			serve := func(crl, ocsp func(*world, evidence.Query) []byte) {
				h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					body := ocsp
					if r.URL.Path == "/crl" {
						body = crl
					}
					rw.Header().Set("Content-Type", "application/octet-stream")
					rw.Write(body(w, q))
				})
				handler.Store(&h)
			}
			fault := func() {
				serve(c.crl, c.ocsp)
				if c.serve != nil {
					handler.Store(&c.serve)
				}
				if c.down {
					server.Close()
				}
			}
			unknown := func() {
				t.Helper()
				f := w.check(q)
				require.Equal(t, evidence.Unknown, f.Status)
				require.Contains(t, f.Detail, c.detail)
				require.NotContains(t, f.Detail, "\n")
				require.Empty(t, kinds(f))
				require.False(t, f.Missing)
				require.NotZero(t, f.RetryAfter)
				require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
			}
			if !c.down {
				serve(list(nil), response(nil))
				require.Equal(t, evidence.Good, w.check(q).Status, "the fixture itself")
				w.advance(25 * time.Hour)
				fault()
				require.Equal(t, evidence.Unknown, w.check(q).Status)
				w.restart(nil)
			}
			fault()
			unknown()
			unknown() // nor by asking again
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
}

func cut(f func(*world, evidence.Query) []byte) func(*world, evidence.Query) []byte {
	return func(w *world, q evidence.Query) []byte { der := f(w, q); return der[:len(der)-1] }
}

func otherPoint(list func(func(*world, *testpki.CRLOptions)) func(*world, evidence.Query) []byte) func(*world, evidence.Query) []byte {
	return list(func(_ *world, o *testpki.CRLOptions) {
		idp, _ := testpki.IssuingDistributionPoint(false, false, "http://crl.test/other")
		o.Extra = append(o.Extra, idp)
	})
}

// A server that does not answer in the time that the request has.
func TestSlowServerIsUnknown(t *testing.T) {
	w := newWorld(t)
	asked := make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	defer server.CloseClientConnections()
	w.fetch = fetch.New(fetch.Options{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	w.only([]string{server.URL + "/crl"}, []string{server.URL + "/ocsp"})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; <-asked; cancel() }()
	f := w.engine.Check(ctx, w.leaf())
	require.Equal(t, evidence.Unknown, f.Status)
	require.Equal(t, 2, strings.Count(f.Detail, "no answer in time; the fetch goes on"))
}

// The list of another partition, valid and newer than ours, is not taken: it
// would keep ours out after the attack has ended (letsencrypt/boulder#6412).
func TestSubstitutedPartitionIsNotTaken(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	partition := func(url string) []byte {
		return w.crl(func(o *testpki.CRLOptions) {
			idp, err := testpki.IssuingDistributionPoint(true, false, url)
			require.NoError(t, err)
			o.Extra = append(o.Extra, idp)
		})
	}
	ours := partition(crlURL)
	w.advance(time.Minute)
	w.on("crl.test", says(partition("http://crl.test/other")))
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "another distribution point")
	w.advance(2 * time.Second)
	w.on("crl.test", says(ours))
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// Two certificates may share a URL whose list, by their other points, speaks for
// one of them only: what a slot holds is judged for each anew.
func TestSharedSlotIsJudgedForEachCertificate(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL, "http://other.test/"}, nil)
	both := w.leaf()
	w.only([]string{crlURL}, nil)
	one := w.leaf()
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) {
		idp, err := testpki.IssuingDistributionPoint(false, false, "http://other.test/")
		require.NoError(t, err)
		o.Extra = append(o.Extra, idp)
	})))
	require.Equal(t, evidence.Good, w.check(both).Status)
	f := w.check(one)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "another distribution point")
}

// A statement of the future must not keep those of the present out.
func TestStatementOfTheFutureIsNotKept(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) { o.ThisUpdate = w.now().Add(time.Hour) })))
	w.on("ocsp.test", says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.ThisUpdate = w.now().Add(time.Hour) })))
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	w.advance(time.Minute)
	w.goodCRL()
	w.goodOCSP(q)
	require.Equal(t, "crl good, ocsp good", kinds(w.check(q)))
}

// Nor does a clock that is set back make what is held count again or earlier.
func TestClockThatIsSetBack(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	w.goodCRL()
	w.goodOCSP(q)
	require.Equal(t, "crl good, ocsp good", kinds(w.check(q)))
	w.advance(-time.Hour)
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Empty(t, kinds(f))
}

// A CA certificate and a client's may name one URL, whose list covers only one
// of them.
func TestListForUsersOnlyDoesNotServeACA(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	w.on("crl.test", says(w.crl(func(o *testpki.CRLOptions) {
		idp, err := testpki.IssuingDistributionPoint(true, false)
		require.NoError(t, err)
		o.Extra = append(o.Extra, idp)
	})))
	sub, err := w.ca.NewIntermediate(testpki.Options{})
	require.NoError(t, err)
	ca := w.query(sub.Certificate)
	ca.Leaf = false
	require.Equal(t, evidence.Unknown, w.check(ca).Status)
	require.Equal(t, evidence.Good, w.check(w.leaf()).Status, "nor is the client kept waiting by the CA's failure")
	require.Equal(t, evidence.Unknown, w.check(ca).Status)
}

// The URLs of one point are alternatives, and one that gives nothing usable is
// like one that does not answer.
func TestNextURLOfADistributionPoint(t *testing.T) {
	for name, first := range map[string]func(*world) answer{
		"fails":   func(*world) answer { return fails },
		"garbage": func(*world) answer { return says([]byte("garbage")) },
		"hangs":   func(*world) answer { return hangs },
		"stale": func(w *world) answer {
			return says(w.crl(func(o *testpki.CRLOptions) {
				o.ThisUpdate, o.NextUpdate = w.now().Add(-time.Hour), w.now().Add(-time.Minute)
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.only(nil, nil)
				two := tagged(0, true, tagged(0, true, append(tagged(6, false, []byte("http://first.test/")), tagged(6, false, []byte(crlURL))...)))
				q := w.query(w.issue(testpki.Options{Extra: extra(points(t, rawSequence(two)))}).Certificate)
				w.on("first.test", first(w))
				w.goodCRL()
				start := time.Now()
				f := w.check(q)
				require.Equal(t, evidence.Good, f.Status, f.Detail)
				require.LessOrEqual(t, time.Since(start), 30*time.Second, "each has its share of the time")
				require.Equal(t, 1, w.count("first.test"))
			})
		})
	}
}

func TestURLWithAQueryIsPosted(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{"http://ocsp.test/?ca=1"})
	q := w.leaf()
	var got *http.Request
	good := says(w.ocsp(q, xocsp.Good, nil))
	w.on("ocsp.test", func(r *http.Request) (*http.Response, error) { got = r; return good(r) })
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, http.MethodPost, got.Method)
	require.Equal(t, "/?ca=1", got.URL.RequestURI())
}

// RFC 6960 appendix A.1: the base64 is one escaped path segment.
func TestRequestIsAGetThatTheResponderCanRead(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{"http://ocsp.test/"})
	q := w.leaf()
	var got *http.Request
	good := says(w.ocsp(q, xocsp.Good, nil))
	w.on("ocsp.test", func(r *http.Request) (*http.Response, error) { got = r; return good(r) })
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, http.MethodGet, got.Method)
	require.Regexp(t, "^/([A-Za-z0-9]|%2B|%2F|%3D)+$", got.URL.EscapedPath())
	der, err := base64.StdEncoding.DecodeString(got.URL.Path[1:])
	require.NoError(t, err)
	request, err := xocsp.ParseRequest(der)
	require.NoError(t, err)
	require.Equal(t, q.Cert.SerialNumber, request.SerialNumber)
}
