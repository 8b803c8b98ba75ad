package directory_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

// guarded returns the Config of a guard whose accounts are those of the directory.
func guarded(t testing.TB, d *fakeAD, groups ...string) (mtls.Config, *directory.Mapper, *mtlstest.Clock) {
	t.Helper()
	clock := mtlstest.NewClock(time.Time{})
	clock.Advance(time.Second) // the certificates are valid from now
	cfg := d.config()
	cfg.Now = clock.Now
	m := newAD(t, cfg)
	roots, err := mtls.NewRoots(d.ca.Authority("enterprise"))
	require.NoError(t, err)
	policy, err := mtls.NewPolicy(mtls.Rule{Name: "staff", UPNs: []string{"*@fake.test"}, Authorities: []string{"enterprise"}, Origin: mtls.NoOrigin(), Groups: groups})
	require.NoError(t, err)
	return mtls.Config{Roots: roots, Policy: policy, Revocation: mtls.NoRevocation(), Accounts: m, Now: clock.Now, Logger: (&testdir.Log{}).Logger(),
		Limits: mtls.Limits{Wait: time.Minute}}, m, clock
}

// TestAnswersOfAGuard: what each answer of the directory means to a client.
func TestAnswersOfAGuard(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		change func(*fakeAD)
		status int
		reason mtls.Reason
	}{
		{"admitted", func(*fakeAD) {}, 200, ""},
		{"no account", func(d *fakeAD) { d.hits = nil }, 403, mtls.ReasonAccountUnmapped},
		{"two accounts", func(d *fakeAD) { d.hits = append(d.hits, d.hits[0]) }, 403, mtls.ReasonAccountUnmapped},
		{"not in NTAuth", func(d *fakeAD) { d.store = nil }, 403, mtls.ReasonAccountUnmapped},
		{"disabled", func(d *fakeAD) { d.account["userAccountControl"] = []string{"514"} }, 403, mtls.ReasonAccountDisabled},
		{"not in the group", func(d *fakeAD) { d.account["tokenGroups"], d.groups = d.account["tokenGroups"][:1], d.groups[:1] }, 403, mtls.ReasonGroupMissing},
		{"the directory is busy", func(d *fakeAD) { d.code[fakeBase] = 51 }, 503, mtls.ReasonAccountUnknown},
		{"the password is refused", func(d *fakeAD) { d.bind = 49 }, 503, mtls.ReasonAccountUnknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeAD(t)
			cert := d.alice(t)
			row.change(d)
			cfg, _, _ := guarded(t, d, "staff")
			var reason atomic.Value
			cfg.Observe = func(_ context.Context, d *mtls.Decision) { reason.Store(d.Reason) }
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				id, _ := mtls.FromContext(r.Context())
				a := id.Account()
				fmt.Fprint(w, id.Name(), " ", a.ID, " ", slices.Sorted(slices.Values(a.Groups)))
			}))
			res, err := s.Client(cert, mtlstest.ClientOptions{}).Get(s.URL)
			require.NoError(t, err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.Equal(t, row.status, res.StatusCode, string(body))
			require.Equal(t, row.reason, reason.Load())
			if row.status == 200 {
				require.Equal(t, "alice "+textSID(1000)+" [Domain Users staff]", string(body))
			}
		})
	}
}

// conn is a connection that has addresses and nothing else.
type conn struct {
	net.Conn
	from net.IP
}

func (c conn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: c.from, Port: 40000} }
func (c conn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// request returns a request of a new connection from an address.
func request(t testing.TB, g *mtls.Guard, certs []*x509.Certificate, from net.IP) *http.Request {
	r, err := http.NewRequest("GET", "https://localhost/", nil)
	require.NoError(t, err)
	r.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: "localhost", PeerCertificates: certs}
	return r.WithContext(g.ConnContext(context.Background(), conn{from: from}))
}

func certificates(t testing.TB, c *mtlstest.Certificate) (list []*x509.Certificate) {
	for _, der := range c.TLS().Certificate {
		cert, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		list = append(list, cert)
	}
	return list
}

// writer takes an answer and keeps the status.
type writer struct {
	h      http.Header
	status int
}

func (w *writer) Header() http.Header         { return w.h }
func (w *writer) Write(b []byte) (int, error) { return len(b), nil }
func (w *writer) WriteHeader(status int)      { w.status = status }

// TestFirstRequestsAskOnce: ten thousand clients with one certificate come at once,
// each from an address of its own, and the directory is asked once.
func TestFirstRequestsAskOnce(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	certs := certificates(t, d.alice(t))
	cfg, m, clock := guarded(t, d, "staff")
	g := mtlstest.NewGuard(t, cfg)
	var admitted atomic.Int32
	h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { admitted.Add(1) }))
	const n = 10000
	var wg sync.WaitGroup
	for i := range n {
		r := request(t, g, certs, net.IPv4(10, 0, byte(i>>8), byte(i)))
		wg.Go(func() { h.ServeHTTP(&writer{h: http.Header{}}, r) })
	}
	wg.Wait()
	require.EqualValues(t, n, admitted.Load())
	require.EqualValues(t, 1, m.Stats().Lookups)
	require.Equal(t, 1, d.searches(fakeAlice))
	clock.Advance(time.Minute)
	h.ServeHTTP(&writer{h: http.Header{}}, request(t, g, certs, net.IPv4(10, 0, 0, 0)))
	require.EqualValues(t, n+1, admitted.Load())
	require.EqualValues(t, 2, m.Stats().Lookups, "and once again when that has lapsed")
}

// BenchmarkWarmRequest compares a request of a known client with and without a
// directory.
//
//	go test -run '^$' -bench WarmRequest -benchmem .
func BenchmarkWarmRequest(b *testing.B) {
	d := newFakeAD(b)
	certs := certificates(b, d.alice(b))
	with, _, _ := guarded(b, d, "staff")
	without, _, _ := guarded(b, d)
	without.Accounts = nil
	for name, cfg := range map[string]mtls.Config{"with": with, "without": without} {
		b.Run(name, func(b *testing.B) {
			g := mtlstest.NewGuard(b, cfg)
			admitted := 0
			h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { admitted++ }))
			r, w := request(b, g, certs, net.IPv4(10, 0, 0, 1)), &writer{h: http.Header{}}
			h.ServeHTTP(w, r)
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
			require.Equal(b, b.N+1, admitted)
		})
	}
}

// BenchmarkMapAccount is what a new connection of a known client costs.
func BenchmarkMapAccount(b *testing.B) {
	d := newFakeAD(b)
	m := newAD(b, d.config())
	id := identity(b, d.alice(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.MapAccount(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWarmRequestAllocatesNothingMore: a mapping that counts costs a request
// nothing.
func TestWarmRequestAllocatesNothingMore(t *testing.T) {
	d := newFakeAD(t)
	certs := certificates(t, d.alice(t))
	with, m, _ := guarded(t, d, "staff")
	without, _, _ := guarded(t, d)
	without.Accounts = nil
	var allocs []float64
	for _, cfg := range []mtls.Config{without, with} {
		g := mtlstest.NewGuard(t, cfg)
		h := g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		r, w := request(t, g, certs, net.IPv4(10, 0, 0, 1)), &writer{h: http.Header{}}
		h.ServeHTTP(w, r)
		require.Zero(t, w.status)
		allocs = append(allocs, testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }))
	}
	require.Equal(t, allocs[0], allocs[1])
	require.EqualValues(t, 1, m.Stats().Lookups)
}
