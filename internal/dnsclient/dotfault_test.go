package dnsclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// Whoever sits on the port of a server with TLS gets a ClientHello and no more.
func TestNoFallbackFromTLS(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(conn net.Conn)
		want  string
	}{
		"a server that closes at once": {func(net.Conn) {}, ""},
		"a server that closes after the hello": {func(conn net.Conn) {
			conn.Read(make([]byte, 4096))
		}, ""},
		"a server that resets": {func(conn net.Conn) {
			conn.Read(make([]byte, 1))
			conn.(*net.TCPConn).SetLinger(0)
		}, ""},
		"a server without TLS that talks": {func(conn net.Conn) {
			m := new(dns.Msg).SetQuestion("p.example.", dns.TypeA)
			m.Response, m.RecursionAvailable, m.Answer = true, true, rrs(t, "p.example. 60 A 192.0.2.66")
			b, _ := m.Pack()
			conn.Write(append([]byte{0, byte(len(b))}, b...))
			io.Copy(io.Discard, conn)
		}, "first record does not look like a TLS handshake"},
		"a server without TLS that answers what it gets": {func(conn net.Conn) {
			io.Copy(conn, conn)
		}, "TLS"},
		"a server that never speaks": {func(conn net.Conn) {
			io.Copy(io.Discard, conn)
		}, "no reply over TLS within 1s"},
		"a server that sends an alert": {func(conn net.Conn) {
			conn.Read(make([]byte, 4096))
			conn.Write([]byte{21, 3, 3, 0, 2, 2, 40})
		}, "handshake failure"},
	} {
		t.Run(name, func(t *testing.T) {
			// The same port answers without TLS over UDP.
			plain, l := serveUDP(t)
			defer l.Close()
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					tt.serve(conn)
					conn.Close()
				}
			}()
			d := &dot{ca: testCA(t), addr: plain.addr}
			answer, err := d.client(func(o *dnsclient.Options) { o.Timeout, o.Attempts = time.Second, 2 }).Lookup(t.Context(), "p.example", dnsclient.A)
			require.ErrorContains(t, err, tt.want)
			require.Zero(t, answer)
			d.onlyTLS(t)
			require.Len(t, d.dialed, 2)
			require.Empty(t, plain.queries())
		})
	}
}

// serveUDP is serve with the TCP port left to the test.
func serveUDP(t *testing.T) (*fake, net.Listener) {
	s := &fake{handle: func(_ string, m, _ *dns.Msg) *dns.Msg {
		m.Answer = rrs(t, "p.example. 60 A 192.0.2.66")
		return m
	}}
	for range 20 { // the port may be taken for the other protocol
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close()
			continue
		}
		s.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
		started := make(chan struct{})
		srv := &dns.Server{PacketConn: pc, Handler: s, NotifyStartedFunc: func() { close(started) }}
		go srv.ActivateAndServe()
		<-started
		t.Cleanup(func() { srv.Shutdown() })
		return s, l
	}
	t.Fatal("no port free for UDP and TCP")
	return nil, nil
}

// The clock of the bubble shows that the handshake has no time of its own.
func TestHandshakeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dnsclient.New(dnsclient.Options{
			Servers: []dnsclient.Server{{Addr: netip.MustParseAddrPort("192.0.2.53:853"), TLS: &tls.Config{ServerName: dotName}}},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				go io.Copy(io.Discard, there)
				return here, nil
			},
		})
		start := time.Now()
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "no reply over TLS within 1s")
		require.Equal(t, 2*time.Second, time.Since(start))

		cause := errors.New("the request is gone")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, cause)
		defer cancel()
		start = time.Now()
		_, err = c.Lookup(ctx, "p.example", dnsclient.A)
		require.ErrorIs(t, err, cause)
		require.Equal(t, 300*time.Millisecond, time.Since(start))
	})
}
