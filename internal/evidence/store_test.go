package evidence_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// memory is a Store. Its functions, where set, come first.
type memory struct {
	mu   sync.Mutex
	data map[string][]byte
	get  func(context.Context) error
	put  func(context.Context) error
}

func (m *memory) Get(ctx context.Context, key string) ([]byte, error) {
	if m.get != nil {
		if err := m.get(ctx); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if data, ok := m.data[key]; ok {
		return data, nil
	}
	return nil, errors.New("miss")
}

func (m *memory) Put(ctx context.Context, key string, data []byte) error {
	if m.put != nil {
		if err := m.put(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.data == nil {
		m.data = map[string][]byte{}
	}
	m.data[key] = data
	return nil
}

func (m *memory) keys() map[string][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.data)
}

// The round trip keeps each status apart (hashicorp/vault#25986), and spares the
// fetch.
func TestStoredEvidenceIsUsedAfterARestart(t *testing.T) {
	for status, want := range map[int]evidence.Status{xocsp.Good: evidence.Good, xocsp.Revoked: evidence.Revoked, xocsp.Unknown: evidence.Unknown} {
		w, m := newWorld(t), &memory{}
		w.restart(m)
		w.goodCRL()
		q := w.leaf()
		w.on("ocsp.test", says(w.ocsp(q, status, nil)))
		require.Equal(t, want, w.check(q).Status)
		require.Len(t, m.keys(), 2)
		require.Contains(t, m.keys(), evidence.CRLKey(q, crlURL))
		require.Contains(t, m.keys(), evidence.OCSPKey(q, ocspURL))
		requests := w.requests()
		w.restart(m)
		require.Equal(t, want, w.check(q).Status)
		if want == evidence.Unknown { // it decides nothing: the responder is asked again
			requests["ocsp.test"]++
		}
		require.Equal(t, requests, w.requests())
	}
}

// Stored evidence that is due is used and renewed.
func TestStoredEvidenceIsRefreshed(t *testing.T) {
	w, m := newWorld(t), &memory{}
	w.restart(m)
	w.only([]string{crlURL}, nil)
	w.goodCRL()
	q := w.leaf()
	w.check(q)
	w.advance(12 * time.Hour)
	w.on("crl.test", fails)
	w.restart(m)
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	require.Equal(t, 2, w.count("crl.test"))
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	w.restart(m)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// Nothing is believed for having come out of a Store: it costs one refetch.
func TestWorthlessStoredEvidenceCostsOneRefetch(t *testing.T) {
	other, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	for name, spoil := range map[string]func(*world, []byte) []byte{
		"corrupted": func(_ *world, b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated": func(_ *world, b []byte) []byte { return b[:len(b)-1] },
		"empty":     func(*world, []byte) []byte { return nil },
		"another CA's list": func(w *world, _ []byte) []byte {
			der, _ := other.CRL(testpki.CRLOptions{})
			return der
		},
		"stale": func(w *world, _ []byte) []byte {
			return w.crl(func(o *testpki.CRLOptions) {
				o.ThisUpdate, o.NextUpdate = w.now().Add(-2*time.Hour), w.now().Add(-time.Hour)
			})
		},
		"another partition": func(w *world, _ []byte) []byte {
			return w.crl(func(o *testpki.CRLOptions) {
				idp, _ := testpki.IssuingDistributionPoint(false, false, "http://crl.test/other")
				o.Extra = append(o.Extra, idp)
				o.ThisUpdate = w.now().Add(time.Second)
			})
		},
	} {
		for _, revoked := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				w, m := newWorld(t), &memory{}
				w.only([]string{crlURL}, nil)
				q := w.leaf()
				key := evidence.CRLKey(q, crlURL)
				m.data = map[string][]byte{key: spoil(w, w.crl(nil))}
				w.restart(m)
				require.Equal(t, evidence.Unknown, w.check(q).Status, "while the source is out of reach")

				w.restart(m)
				sound, want := w.crl(nil), evidence.Good
				if revoked {
					sound, want = w.crl(nil, q.Cert), evidence.Revoked
				}
				w.on("crl.test", says(sound))
				for range 3 {
					require.Equal(t, want, w.check(q).Status)
				}
				require.Equal(t, 2, w.count("crl.test"))
				require.Equal(t, sound, m.keys()[key], "replaced")
			})
		}
	}
}

// The Store and the client are the caller's code and run in goroutines of ours.
func TestPanicsOfTheCallersCodeStayInside(t *testing.T) {
	panics := func(context.Context) error { panic("no\nluck") }
	for name, m := range map[string]*memory{"Get": {get: panics}, "Put": {put: panics}, "both": {get: panics, put: panics}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.restart(m)
			w.goodCRL()
			q := w.leaf()
			w.goodOCSP(q)
			f := w.check(q)
			require.Equal(t, evidence.Good, f.Status, f.Detail)
			require.Zero(t, f.RetryAfter)
			require.Equal(t, "crl good, ocsp good", kinds(f))
			require.Contains(t, w.logged(), "the Store panicked")
		})
	}
	t.Run("client", func(t *testing.T) {
		w := newWorld(t)
		w.on("crl.test", func(*http.Request) (*http.Response, error) { panic("no\nluck") })
		f := w.check(w.leaf())
		require.Equal(t, evidence.Unknown, f.Status)
		require.Contains(t, f.Detail, `panic: "no\nluck"`)
		require.ErrorContains(t, w.engine.Refresh(t.Context()), "panic")
		w.advance(time.Minute)
		w.goodCRL()
		require.Equal(t, evidence.Good, w.check(w.leaf()).Status)
	})
	t.Run("logger", func(t *testing.T) {
		w := newWorld(t)
		w.engine = evidence.New(evidence.Options{Now: w.now, Logger: slog.New(slog.NewTextHandler(panicking{}, nil))})
		require.Equal(t, evidence.Unknown, w.check(w.leaf()).Status)
	})
}

type panicking struct{}

func (panicking) Write([]byte) (int, error) { panic("no luck") }

// A Store that hangs delays, and takes nothing from the time of the fetch.
func TestHangingStore(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	bubble(t, func(w *world) {
		w.restart(&memory{get: hang, put: hang})
		w.goodCRL()
		q := w.leaf()
		w.goodOCSP(q)
		start := time.Now()
		f := w.check(q)
		require.Equal(w.t, "crl good, ocsp good", kinds(f), f.Detail)
		require.LessOrEqual(w.t, time.Since(start), 2*time.Second)
		synctest.Wait()
	})
}

func TestErrorsOfTheStoreAreReported(t *testing.T) {
	w := newWorld(t)
	w.restart(&memory{put: func(context.Context) error { return errors.New("disk full") }})
	w.goodCRL()
	f := w.check(w.leaf())
	require.Equal(t, evidence.Good, f.Status)
	require.Contains(t, w.logged(), "disk full")
}

// A responder's CRL is stored like any other, so that a restart without network
// loses nothing.
func TestStoredResponseOfADelegatedResponder(t *testing.T) {
	w, m := newWorld(t), &memory{}
	w.restart(m)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	w.responder(testpki.Options{}, q)
	w.on("responder-crl.test", says(w.crl(nil)))
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.on("responder-crl.test", fails)
	w.on("ocsp.test", fails)
	w.restart(m)
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// The Store is read while nothing is in memory, and by requests only.
func TestStoreIsReadOnce(t *testing.T) { bubble(t, storeIsReadOnce) }

func storeIsReadOnce(w *world) {
	t, asked := w.t, 0
	w.restart(&memory{get: func(context.Context) error { asked++; return nil }})
	w.only([]string{crlURL}, nil)
	w.goodCRL()
	w.check(w.leaf())
	require.Equal(t, 1, asked)
	w.advance(7 * time.Hour)
	w.refreshDue()
	require.Equal(t, 2, w.count("crl.test"))
	require.Equal(t, 1, asked)
}

func TestPeekDoesNotReadTheStore(t *testing.T) {
	w, asked := newWorld(t), 0
	w.restart(&memory{get: func(context.Context) error { asked++; return nil }})
	w.engine.Peek(w.leaf())
	require.Zero(t, asked)
}
