package dnsclient_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestServerCheck(t *testing.T) {
	secure := func(change func(c *tls.Config)) *tls.Config {
		c := &tls.Config{ServerName: dotName}
		change(c)
		return c
	}
	for _, tt := range []struct {
		addr   string
		tls    *tls.Config
		failed string
	}{
		{addr: "192.0.2.53:53"},
		{addr: "[2001:db8::53]:53"},
		{addr: "[fe80::53%eth0]:53"},
		{addr: "127.0.0.1:5353"},
		{addr: "", failed: "no address"},
		{addr: "192.0.2.53:0", failed: "no port"},
		{addr: "0.0.0.0:53", failed: "unspecified"},
		{addr: "[::]:53", failed: "unspecified"},
		{addr: "[::ffff:0.0.0.0]:53", failed: "unspecified"},
		{addr: "192.0.2.53:853", tls: secure(func(*tls.Config) {})},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.ServerName = "192.0.2.53" })},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.ServerName = "2001:db8::53" })},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.ServerName = "DNS.example." })},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS13 })},
		{addr: "0.0.0.0:853", tls: secure(func(*tls.Config) {}), failed: "unspecified"},
		{addr: "192.0.2.53:853", tls: &tls.Config{}, failed: "without ServerName"},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.ServerName = "*.example" }), failed: "neither a host name"},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.ServerName = "192.0.2.53:853" }), failed: "neither a host name"},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.ServerName = "bücher.example" }), failed: "neither a host name"},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.InsecureSkipVerify = true }), failed: "InsecureSkipVerify"},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.MinVersion = tls.VersionTLS11 }), failed: "1.2"},
		{addr: "192.0.2.53:853", tls: secure(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }), failed: "1.2"},
	} {
		s := dnsclient.Server{TLS: tt.tls}
		if tt.addr != "" {
			s.Addr = netip.MustParseAddrPort(tt.addr)
		}
		if tt.failed == "" {
			require.NoError(t, s.Check(), "%s", tt.addr)
		} else {
			require.ErrorContains(t, s.Check(), tt.failed, "%s", tt.addr)
		}
	}
}

// The AD bit is the word of a server that must be trusted, over a path that must
// be.
func TestWhoseADBitCounts(t *testing.T) {
	secure := serveTLS(t, nil, nil)
	plain := serve(t, func(_ string, m, q *dns.Msg) *dns.Msg { return secure.handle("udp", m, q) })
	for _, tt := range []struct {
		addr    string
		tls     bool
		trustAD bool
		want    bool
	}{
		{addr: "192.0.2.53:53"},
		{addr: "192.0.2.53:53", trustAD: true, want: true},
		{addr: "10.0.0.1:53"},
		{addr: "[2001:db8::53]:53"},
		{addr: "[fe80::53%eth0]:53"},
		{addr: "127.0.0.1:53", want: true},
		{addr: "127.0.0.53:5353", want: true},
		{addr: "[::1]:53", want: true},
		{addr: "[::ffff:127.0.0.1]:53", want: true},
		{addr: "192.0.2.53:853", tls: true},
		{addr: "192.0.2.53:853", tls: true, trustAD: true, want: true},
		{addr: "127.0.0.1:853", tls: true}, // may be a tunnel to anywhere
		{addr: "127.0.0.1:853", tls: true, trustAD: true, want: true},
	} {
		s := dnsclient.Server{Addr: netip.MustParseAddrPort(tt.addr), TrustAD: tt.trustAD}
		to := plain.addr
		if tt.tls {
			s.TLS, to = secure.config(), secure.addr
		}
		c := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{s}, Attempts: 1, Now: func() time.Time { return testpki.Epoch },
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				require.Equal(t, tt.addr, addr)
				return new(net.Dialer).DialContext(ctx, network, to.String())
			}})
		answer, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Equal(t, addrs("192.0.2.1"), answer.Addrs)
		require.Equal(t, tt.want, answer.Authenticated, "%+v", tt)
	}
	t.Run("that of another server is not that of a trusted one", func(t *testing.T) {
		down := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			m.Rcode = dns.RcodeServerFailure
			return m
		})
		c := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{{Addr: down.addr, TrustAD: true}, at("192.0.2.53:53")}, Attempts: 1,
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if addr == "192.0.2.53:53" {
					addr = plain.addr.String()
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			}})
		answer, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.False(t, answer.Authenticated)
	})
}
