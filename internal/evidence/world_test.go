package evidence_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/testpki"
)

const (
	crlURL  = "http://crl.test/list"
	ocspURL = "http://ocsp.test/status"
)

// answer is what a host does with a request.
type answer func(*http.Request) (*http.Response, error)

// world is an internet in memory with a clock of its own: a host is one source.
type world struct {
	t      testing.TB
	mu     sync.Mutex
	at     time.Time
	hosts  map[string]answer
	asked  map[string]int
	log    bytes.Buffer
	ca     *testpki.CA
	fetch  *fetch.Client
	engine *evidence.Engine
}

// newWorld has a CA whose certificates name one CRL and one responder, which say
// good.
func newWorld(t testing.TB) *world {
	w := &world{t: t, at: testpki.Epoch, hosts: map[string]answer{}, asked: map[string]int{}}
	w.fetch = fetch.New(fetch.Options{Client: &http.Client{Transport: w}})
	w.ca = w.root(testpki.Options{})
	w.ca.CRLURLs, w.ca.OCSPURLs = []string{crlURL}, []string{ocspURL}
	w.restart(nil)
	return w
}

// restart forgets all that is in memory.
func (w *world) restart(store evidence.Store) {
	w.engine = evidence.New(evidence.Options{Now: w.now, Store: store, Logger: slog.New(slog.NewTextHandler(w, nil))})
}

// Write is the log.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// on says what a host does from now on.
func (w *world) on(host string, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[host] = a
}

func (w *world) count(host string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[host]
}

func (w *world) requests() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.asked)
}

// RoundTrip serves the internet.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.asked[r.URL.Host]++
	a := w.hosts[r.URL.Host]
	w.mu.Unlock()
	if a == nil {
		return nil, errors.New("no such host")
	}
	return a(r)
}

func reply(status int, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body))}
}

func says(der []byte) answer {
	return func(*http.Request) (*http.Response, error) { return reply(http.StatusOK, der), nil }
}

func fails(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// held answers once released, and says on the first channel that it was asked.
func held(a answer) (h answer, asked chan struct{}, release func()) {
	asked, gate := make(chan struct{}, 1000), make(chan struct{})
	return func(r *http.Request) (*http.Response, error) {
		asked <- struct{}{}
		select {
		case <-gate:
			return a(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}, asked, sync.OnceFunc(func() { close(gate) })
}

func (w *world) root(o testpki.Options) *testpki.CA {
	w.t.Helper()
	ca, err := testpki.NewRoot(o)
	require.NoError(w.t, err)
	return ca
}

func (w *world) issue(o testpki.Options) *testpki.Leaf {
	w.t.Helper()
	leaf, err := w.ca.Issue(o)
	require.NoError(w.t, err)
	return leaf
}

func (w *world) query(c *x509.Certificate) evidence.Query {
	return evidence.Query{Cert: c, Issuer: w.ca.Certificate, Leaf: true, Fetch: w.fetch}
}

func (w *world) leaf() evidence.Query {
	return w.query(w.issue(testpki.Options{Names: []string{"api.partner.example"}}).Certificate)
}

func (w *world) check(q evidence.Query) evidence.Finding {
	return w.engine.Check(context.Background(), q)
}

// crl is the CRL of the CA, of the present time and for a day.
func (w *world) crl(change func(*testpki.CRLOptions), revoked ...*x509.Certificate) []byte {
	w.t.Helper()
	o := testpki.CRLOptions{ThisUpdate: w.now(), NextUpdate: w.now().Add(24 * time.Hour)}
	for _, c := range revoked {
		o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: w.now()})
	}
	if change != nil {
		change(&o)
	}
	der, err := w.ca.CRL(o)
	require.NoError(w.t, err)
	return der
}

// ocsp is a response of the CA, of the present time and for a day.
func (w *world) ocsp(q evidence.Query, status int, change func(*testpki.OCSPOptions)) []byte {
	w.t.Helper()
	o := testpki.OCSPOptions{Status: status, Serial: q.Cert.SerialNumber, ThisUpdate: w.now(), NextUpdate: w.now().Add(24 * time.Hour)}
	if change != nil {
		change(&o)
	}
	der, err := w.ca.OCSP(o)
	require.NoError(w.t, err)
	return der
}

func (w *world) goodCRL()                  { w.on("crl.test", says(w.crl(nil))) }
func (w *world) goodOCSP(q evidence.Query) { w.on("ocsp.test", says(w.ocsp(q, xocsp.Good, nil))) }

// only makes the CA name these sources in what it issues from now on.
func (w *world) only(crls, responders []string) { w.ca.CRLURLs, w.ca.OCSPURLs = crls, responders }

func kinds(f evidence.Finding) string {
	var list []string
	for _, p := range f.Proofs {
		list = append(list, p.Kind+" "+p.Status)
	}
	return strings.Join(list, ", ")
}

func current(f evidence.Finding) bool {
	for _, d := range f.Deps {
		if !d.Current() {
			return false
		}
	}
	return true
}
