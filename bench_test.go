package mtls_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// addrConn is a connection that has addresses and nothing else.
type addrConn struct {
	net.Conn
	addr net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.addr }
func (c addrConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

type nullWriter struct{ h http.Header }

func (w nullWriter) Header() http.Header         { return w.h }
func (w nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w nullWriter) WriteHeader(int)             {}

type bareKey struct{}

// nothing is a variable, so that the compiler knows no more of it than it does
// of any other handler.
var nothing http.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})

// BenchmarkWarmRequest compares a request of a known client through Handler with
// a bare handler that only puts a value into the request's context. It prints
// the ratio of the two, measured in turn in the same run.
//
//	go test -run '^$' -bench WarmRequest -benchmem .
func BenchmarkWarmRequest(b *testing.B) {
	env := mtlstest.NewEnv(b)
	env.DNS.Set("acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Roles: []string{"payments"}})
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	guarded := g.Require("payments")(nothing)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nothing.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), bareKey{}, cert)))
	})
	request := func() *http.Request {
		r, err := http.NewRequest("GET", "https://localhost/", nil)
		require.NoError(b, err)
		ctx := g.ConnContext(context.Background(), addrConn{addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}})
		p := peerOf(cert)
		p.TLS.ServerName = "localhost"
		r.TLS = &p.TLS
		return r.WithContext(ctx)
	}
	w := nullWriter{http.Header{}}
	admitted := false
	g.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { admitted = true })).ServeHTTP(w, request())
	require.True(b, admitted)
	for _, row := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"guarded", guarded}} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			r := request()
			for b.Loop() {
				row.h.ServeHTTP(w, r)
			}
		})
	}
	b.Run("ratio", func(b *testing.B) {
		r := request()
		var times [2]int64
		for b.Loop() {
			for i, h := range []http.Handler{bare, guarded} {
				res := timed(func() {
					for range 1000 {
						h.ServeHTTP(w, r)
					}
				})
				times[i] += res
			}
		}
		b.ReportMetric(float64(times[1])/float64(times[0]), "guarded/bare")
		b.ReportMetric(0, "ns/op")
	})
}

func timed(f func()) int64 {
	start := time.Now()
	f()
	return time.Since(start).Nanoseconds()
}
