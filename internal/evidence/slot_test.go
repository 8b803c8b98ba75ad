package evidence_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// Anybody can certify the name and key of a CA. Under such a certificate, with
// another key identifier or without the right to sign lists, no list of the CA is
// usable: whoever sends it must not keep the news from the others.
func TestCrossCertificateDoesNotSpoilTheSlot(t *testing.T) {
	for name, options := range map[string]testpki.Options{
		"another key identifier": {},
		"no right to sign lists": {KeyUsage: x509.KeyUsageCertSign},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.only([]string{crlURL}, nil)
				w.goodCRL()
				good, mine := w.leaf(), w.leaf()
				require.Equal(w.t, evidence.Good, w.check(good).Status)
				other, c := *w.ca, *w.ca.Certificate
				if name == "another key identifier" {
					c.SubjectKeyId = []byte("other")
				}
				other.Certificate = &c
				cross, err := w.root(testpki.Options{}).CrossSign(&other, options)
				require.NoError(w.t, err)
				mine.Issuer = cross
				for range 23 { // the attacker comes whenever the list may be due
					w.advance(time.Hour)
					w.on("crl.test", says(w.crl(nil, good.Cert)))
					require.NotEqual(w.t, evidence.Good, w.check(mine).Status)
					synctest.Wait()
					_ = w.engine.Refresh(context.Background())
				}
				require.Equal(w.t, evidence.Revoked, w.engine.Peek(good).Status)
			})
		})
	}
}

// A revocation is not forgotten with the memory of it, although it has lapsed.
func TestLapsedRevocationIsRemembered(t *testing.T) {
	for name, forget := range map[string]func(*world, *memory, evidence.Query){
		"nothing happens": func(*world, *memory, evidence.Query) {},
		"restart":         func(w *world, m *memory, _ evidence.Query) { w.restart(m) },
		"eviction":        func(w *world, _ *memory, q evidence.Query) { w.engine.Crowd(q) },
	} {
		for _, source := range []string{"crl.test", "ocsp.test"} {
			t.Run(name+", "+source, func(t *testing.T) {
				w, m := newWorld(t), &memory{}
				w.restart(m)
				q := w.leaf()
				week := func(o *testpki.CRLOptions) { o.NextUpdate = w.now().Add(7 * 24 * time.Hour) }
				if source == "crl.test" {
					w.on("crl.test", says(w.crl(nil, q.Cert)))
					w.on("ocsp.test", says(w.week(q, xocsp.Good)))
				} else {
					w.on("crl.test", says(w.crl(week)))
					w.on("ocsp.test", says(w.ocsp(q, xocsp.Revoked, nil)))
				}
				require.Equal(t, evidence.Revoked, w.check(q).Status)
				w.advance(25 * time.Hour)
				w.on(source, fails)
				forget(w, m, q)
				require.Equal(t, evidence.Revoked, w.check(q).Status)
				require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
			})
		}
	}
}

// The same of what a source says too late. It is still no answer: the source is
// asked again.
func TestLapsedRevocationFromTheSourceCounts(t *testing.T) {
	w, m := newWorld(t), &memory{}
	w.restart(m)
	w.only([]string{crlURL}, []string{ocspURL})
	q := w.leaf()
	w.on("ocsp.test", says(w.week(q, xocsp.Good)))
	hour := func(o *testpki.CRLOptions) { o.NextUpdate = w.now().Add(time.Hour) }
	w.on("crl.test", says(w.crl(hour, q.Cert)))
	w.advance(2 * time.Hour)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	require.ErrorContains(t, w.engine.Refresh(t.Context()), "expired")
	require.Equal(t, 2, w.count("crl.test"))
	require.Contains(t, m.keys(), evidence.CRLKey(q, crlURL))

	// Newer than what is held it has to be, and a lapsed good is nothing.
	older := w.crl(func(o *testpki.CRLOptions) {
		o.ThisUpdate, o.NextUpdate = w.now().Add(-3*time.Hour), w.now().Add(-time.Minute)
	})
	w.on("crl.test", says(older))
	require.Error(t, w.engine.Refresh(t.Context()))
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
	clean := w.leaf()
	w.on("ocsp.test", fails)
	require.Equal(t, evidence.Unknown, w.check(clean).Status)
}

// Refresh knows what the Store knows, if it was out of reach before.
func TestRefreshReadsTheStoreFirst(t *testing.T) {
	w, m := newWorld(t), &memory{}
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	revoked := w.crl(nil, q.Cert)
	w.on("crl.test", fails)
	w.restart(m)
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	m.data = map[string][]byte{evidence.CRLKey(q, crlURL): revoked}
	require.Error(t, w.engine.Refresh(t.Context()))
	require.Equal(t, 2, w.count("crl.test"))
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
}

// A Store may hold anything of any size under a key of ours.
func TestStoredBytesAboveTheLimitAreIgnored(t *testing.T) {
	w, m := newWorld(t), &memory{}
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	w.on("ocsp.test", fails)
	m.data = map[string][]byte{evidence.OCSPKey(q, ocspURL): make([]byte, 64<<10+1)}
	w.restart(m)
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	require.Contains(t, w.logged(), "larger than its kind may be")
}

// A point with thousands of URLs is no way to make us ask them all, and what is
// said of those that fail grows with their number and no faster.
func TestManyURLsOfOnePoint(t *testing.T) {
	for n, asked := range map[int]int{16: 16, 17: 0, 5500: 0} {
		w := newWorld(t)
		w.only(nil, nil)
		name := tagged(0, true, tagged(0, true, []byte(strings.Repeat(string(tagged(6, false, []byte("http://u"))), n))))
		q := w.query(w.issue(testpki.Options{Extra: []pkix.Extension{points(t, rawSequence(name))}}).Certificate)
		f := w.check(q)
		require.Equal(t, evidence.Unknown, f.Status)
		require.Equal(t, asked, w.count("u"))
		require.Equal(t, asked == 0, f.Missing)
		require.Less(t, len(f.Detail), 3000)
	}
}

// Nor are thousands of points without a URL.
func TestManyPointsWithoutAURL(t *testing.T) {
	for n, want := range map[int]evidence.Status{15: evidence.Good, 16: evidence.Unknown} {
		w := newWorld(t)
		w.only(nil, nil)
		w.goodCRL()
		nowhere := rawSequence(tagged(0, true, tagged(0, true, tagged(2, false, []byte("x")))))
		parts := append(slices.Repeat([]asn1.RawValue{nowhere}, n), point(crlURL))
		f := w.check(w.query(w.issue(testpki.Options{Extra: extra(points(t, parts...))}).Certificate))
		require.Equal(t, want, f.Status, f.Detail)
	}
}

// What is too old for its asker is asked for, although its own times would let
// it stay.
func TestMaxAgeBelowTheRefreshOfTheSource(t *testing.T) {
	for _, by := range []time.Duration{30 * time.Minute, 2 * time.Hour, 4 * time.Hour} {
		bubble(t, func(w *world) {
			w.only([]string{crlURL}, nil)
			w.on("crl.test", func(r *http.Request) (*http.Response, error) { return says(w.crl(nil))(r) })
			q := w.leaf()
			q.MaxAge = time.Hour
			require.Equal(w.t, evidence.Good, w.check(q).Status)
			at, any := w.engine.NextDue()
			require.True(w.t, any)
			require.WithinRange(w.t, at, w.now().Add(27*time.Minute), w.now().Add(30*time.Minute))
			w.advance(by)
			require.Equal(w.t, evidence.Good, w.check(q).Status, "%v later", by)
			synctest.Wait()
			require.Equal(w.t, 2, w.count("crl.test"))
		})
	}
}

// A source that has nothing younger is not asked by every request.
func TestSourceThatIsTooOldForMaxAgeIsAskedWithPauses(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		w.goodCRL()
		w.advance(2 * time.Hour)
		q := w.leaf()
		q.MaxAge = time.Hour
		require.Equal(w.t, []int{0, 1, 3, 7, 15, 31, 61, 91, 121}, w.asks(q, "crl.test", 150*time.Second))
		require.Positive(w.t, w.engine.Peek(q).RetryAfter)
		q.MaxAge = 0
		require.Equal(w.t, evidence.Good, w.engine.Peek(q).Status)
	})
}

func TestRefreshScheduleOfMaxAge(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name            string
		maxAge, fetched time.Duration
		want            time.Duration // after it was fetched, before jitter
	}{
		{"none", 0, 0, 6 * time.Hour},
		{"half of it", 2 * time.Hour, 0, time.Hour},
		{"later than the list's own", 3 * day, 0, 6 * time.Hour},
		{"half of what is left of it", 2 * time.Hour, 90 * time.Minute, 15 * time.Minute},
		{"seconds", 10 * time.Second, 0, 5 * time.Second},
		{"nothing is left of it", 2 * time.Hour, 3 * time.Hour, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := testpki.Epoch.Add(c.fetched)
			at := evidence.RefreshAt(testpki.Epoch, testpki.Epoch.Add(7*day), from, "key", c.maxAge)
			require.LessOrEqual(t, at.Sub(from), c.want)
			require.Greater(t, at.Sub(from), c.want-c.want/10-time.Nanosecond)
		})
	}
}
