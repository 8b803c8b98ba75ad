package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

func TestDNSServersAreChecked(t *testing.T) {
	t.Parallel()
	good := mtls.DNSServer{Addr: netip.MustParseAddrPort("192.0.2.53:853"), TLS: &tls.Config{ServerName: "dns.example"}}
	for name, tt := range map[string]struct {
		servers []mtls.DNSServer
		fields  []string
	}{
		"one":   {servers: []mtls.DNSServer{good}},
		"three": {servers: []mtls.DNSServer{good, {Addr: good.Addr}, {Addr: good.Addr, TrustAD: true}}},
		"none":  {fields: []string{"DNSServer"}},
		"four":  {servers: []mtls.DNSServer{good, good, good, good}, fields: []string{"DNSServer"}},
		"all problems at once": {
			servers: []mtls.DNSServer{{}, good, {Addr: good.Addr, TLS: &tls.Config{}}},
			fields:  []string{"DNSServer[0]", "DNSServer[2]"},
		},
		"InsecureSkipVerify": {
			servers: []mtls.DNSServer{{Addr: good.Addr, TLS: &tls.Config{ServerName: "dns.example", InsecureSkipVerify: true}}},
			fields:  []string{"DNSServer[0]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := mtls.NewDNSResolver(tt.servers...)
			if tt.fields == nil {
				require.NoError(t, err)
				require.NotNil(t, r)
				return
			}
			require.Nil(t, r)
			var fields []string
			for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
				var c *mtls.ConfigError
				require.ErrorAs(t, e, &c)
				require.True(t, strings.HasPrefix(e.Error(), "mtls: DNSServer"), e.Error())
				fields = append(fields, c.Field)
			}
			require.Equal(t, tt.fields, fields)
		})
	}
}

func TestNewDNSResolver(t *testing.T) {
	t.Parallel()
	plain := mtlstest.NewDNS(t)
	plain.Set("acme.example", "192.0.2.1")
	plain.SetTXT("acme.example", "text")
	plain.SetPTR("192.0.2.1", "acme.example")
	for _, name := range []string{"acme.example", "192.0.2.1"} {
		plain.Authenticate(name, true)
	}
	ca, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	leaf, err := ca.Issue(testpki.Options{Names: []string{"dns.example"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.NoError(t, err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{leaf.TLS()}, NextProtos: []string{"dot"}})
	require.NoError(t, err)
	started := make(chan struct{})
	server := &dns.Server{Listener: l, Net: "tcp-tls", Handler: plain, NotifyStartedFunc: func() { close(started) }}
	go server.ActivateAndServe()
	<-started
	t.Cleanup(func() { server.Shutdown() })
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)

	for name, tt := range map[string]struct {
		server mtls.DNSServer
		ad     bool
	}{
		"without TLS from loopback": {mtls.DNSServer{Addr: plain.Addr()}, true},
		"over TLS":                  {mtls.DNSServer{Addr: netip.MustParseAddrPort(l.Addr().String()), TLS: &tls.Config{ServerName: "dns.example", RootCAs: roots}}, false},
		"over TLS, trusted":         {mtls.DNSServer{Addr: netip.MustParseAddrPort(l.Addr().String()), TLS: &tls.Config{ServerName: "dns.example", RootCAs: roots}, TrustAD: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := mtls.NewDNSResolver(tt.server)
			require.NoError(t, err)
			answer, err := r.Lookup(t.Context(), "acme.example", mtls.RecordA)
			require.NoError(t, err)
			require.Equal(t, mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, TTL: time.Minute, Authenticated: tt.ad}, answer)
			answer, err = r.Lookup(t.Context(), "acme.example", mtls.RecordTXT)
			require.NoError(t, err)
			require.Equal(t, mtls.Answer{Texts: []string{"text"}, TTL: time.Minute, Authenticated: tt.ad}, answer)
			answer, err = r.Lookup(t.Context(), "1.2.0.192.in-addr.arpa", mtls.RecordPTR)
			require.NoError(t, err)
			require.Equal(t, mtls.Answer{Names: []string{"acme.example"}, TTL: time.Minute, Authenticated: tt.ad}, answer)
		})
	}
	t.Run("the AD bit from another address than loopback counts only with TrustAD", func(t *testing.T) {
		at := serveElsewhere(t, plain)
		for _, trusted := range []bool{false, true} {
			r, err := mtls.NewDNSResolver(mtls.DNSServer{Addr: at, TrustAD: trusted})
			require.NoError(t, err)
			answer, err := r.Lookup(t.Context(), "acme.example", mtls.RecordA)
			require.NoError(t, err)
			require.Equal(t, trusted, answer.Authenticated)
		}
		answer, err := mtls.NewResolver(at).Lookup(t.Context(), "acme.example", mtls.RecordA)
		require.NoError(t, err)
		require.False(t, answer.Authenticated)
	})
	t.Run("NewResolver believes a server on loopback", func(t *testing.T) {
		answer, err := mtls.NewResolver(plain.Addr()).Lookup(t.Context(), "acme.example", mtls.RecordA)
		require.NoError(t, err)
		require.True(t, answer.Authenticated)
	})
}

// serveElsewhere serves DNS on an address of this machine that is not a loopback
// address.
func serveElsewhere(t *testing.T, h dns.Handler) netip.AddrPort {
	addrs, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		pc, err := net.ListenPacket("udp", netip.AddrPortFrom(p.Addr(), 0).String())
		if err != nil {
			continue
		}
		started := make(chan struct{})
		server := &dns.Server{PacketConn: pc, Handler: h, NotifyStartedFunc: func() { close(started) }}
		go server.ActivateAndServe()
		<-started
		t.Cleanup(func() { server.Shutdown() })
		return netip.MustParseAddrPort(pc.LocalAddr().String())
	}
	t.Skip("this machine has loopback addresses only")
	return netip.AddrPort{}
}

func TestSystemResolver(t *testing.T) {
	t.Parallel()
	const reverse = "1.2.0.192.in-addr.arpa"
	d := mtlstest.NewDNS(t)
	r := mtls.SystemResolver(&net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, d.Addr().String())
	}})
	d.Set("acme.example", "192.0.2.2", "192.0.2.1", "2001:db8::1")
	d.SetTXT("acme.example", "v=mtls1", "a", "v=mtls1", strings.Repeat("x", 300), "\x00\n\xff")
	six := "1." + strings.Repeat("0.", 23) + "8.b.d.0.1.0.0.2.ip6.arpa"
	d.SetPTR("2001:db8::1", "six.example")
	d.Set("empty.example")
	d.SetTXT("empty.example")

	ask := func(name string, typ mtls.RecordType) mtls.Answer {
		t.Helper()
		a, err := r.Lookup(t.Context(), name, typ)
		require.NoError(t, err)
		require.Equal(t, time.Minute, a.TTL)
		require.False(t, a.Authenticated)
		return a
	}
	addr := netip.MustParseAddr
	require.ElementsMatch(t, []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}, ask("acme.example", mtls.RecordA).Addrs)
	require.Equal(t, []netip.Addr{addr("2001:db8::1")}, ask("acme.example", mtls.RecordAAAA).Addrs)
	require.Equal(t, []string{"\x00\n\xff", "a", "v=mtls1", strings.Repeat("x", 300)}, ask("acme.example", mtls.RecordTXT).Texts)
	require.Equal(t, []string{"six.example"}, ask(six, mtls.RecordPTR).Names)

	for _, typ := range []mtls.RecordType{mtls.RecordA, mtls.RecordAAAA, mtls.RecordTXT} {
		for _, name := range []string{"empty.example", "absent.example"} {
			require.Equal(t, mtls.Answer{TTL: time.Minute}, ask(name, typ), name)
		}
	}
	require.Equal(t, mtls.Answer{TTL: time.Minute}, ask(reverse, mtls.RecordPTR))

	t.Run("names that are none are left out (CVE-2021-33195)", func(t *testing.T) {
		d.SetPTR("192.0.2.1", "b.example", "A.example", "b.example", `x\000.example`, `new\010line.example`, "<script>.example", "*.example", "1.2.3.4", "h.0x7f", "xn--a.example")
		require.Equal(t, []string{"a.example", "b.example"}, ask(reverse, mtls.RecordPTR).Names)
		// Here net.Resolver returns no error.
		d.SetPTR("192.0.2.1", "h.0x7f", "b.example")
		require.Equal(t, []string{"b.example"}, ask(reverse, mtls.RecordPTR).Names)
		d.SetPTR("192.0.2.1", `x\000.example`)
		answer, err := r.Lookup(t.Context(), reverse, mtls.RecordPTR)
		require.Error(t, err)
		require.Zero(t, answer)
	})
	t.Run("failures are not answers", func(t *testing.T) {
		for _, name := range []string{"acme.example", reverse} {
			d.Fail(name, mtlstest.DNSServFail)
		}
		for name, typ := range map[string]mtls.RecordType{"acme.example": mtls.RecordTXT, reverse: mtls.RecordPTR} {
			answer, err := r.Lookup(t.Context(), name, typ)
			require.Error(t, err)
			require.Zero(t, answer)
		}
	})
	t.Run("what is not asked", func(t *testing.T) {
		for _, name := range []string{"acme.example", "192.0.2.1", "2.0.192.in-addr.arpa", "1.0/25.2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa.", "evil\n.in-addr.arpa"} {
			before := d.Queries(name)
			answer, err := r.Lookup(t.Context(), name, mtls.RecordPTR)
			require.ErrorContains(t, err, "reverse name")
			require.NotContains(t, err.Error(), "\n")
			require.Zero(t, answer)
			require.Equal(t, before, d.Queries(name))
		}
		_, err := r.Lookup(t.Context(), "acme.example", mtls.RecordType(dns.TypeMX))
		require.ErrorContains(t, err, "not supported")
	})
	t.Run("the context counts", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("gone"))
		for name, typ := range map[string]mtls.RecordType{"later.example": mtls.RecordTXT, "9.2.0.192.in-addr.arpa": mtls.RecordPTR} {
			_, err := r.Lookup(ctx, name, typ)
			require.Error(t, err)
		}
	})
}
