package dnsclient_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/testpki"
)

const dotName = "dns.example"

func testCA(t testing.TB) *testpki.CA {
	ca, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	return ca
}

// certificate issues one for dotName and for 192.0.2.53.
func certificate(t testing.TB, ca *testpki.CA, change func(c *x509.Certificate)) tls.Certificate {
	leaf, err := ca.Issue(testpki.Options{Names: []string{dotName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, Template: func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 53)}
		if change != nil {
			change(c)
		}
	}})
	require.NoError(t, err)
	return leaf.TLS()
}

// dot is a server of DNS over TLS on loopback.
type dot struct {
	ca   *testpki.CA
	addr netip.AddrPort
	*fake

	mu     sync.Mutex
	states []tls.ConnectionState // of each query
	dialed []string              // network and first bytes of each connection, as the client sent them
}

// serveTLS starts a server. In the configuration it gets, only the certificate
// and its protocols are set.
func serveTLS(t *testing.T, change func(ca *testpki.CA, c *tls.Config), handle func(m, q *dns.Msg) *dns.Msg) *dot {
	t.Helper()
	d := &dot{ca: testCA(t)}
	d.fake = &fake{handle: func(_ string, m, q *dns.Msg) *dns.Msg {
		m.AuthenticatedData = true
		m.Answer = rrs(t, "p.example. 60 A 192.0.2.1")
		if handle != nil {
			m = handle(m, q)
		}
		return m
	}}
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, d.ca, nil)}, NextProtos: []string{"dot"}, Time: func() time.Time { return testpki.Epoch }}
	if change != nil {
		change(d.ca, config)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	d.addr = netip.MustParseAddrPort(l.Addr().String())
	started := make(chan struct{})
	srv := &dns.Server{Listener: tls.NewListener(l, config), Net: "tcp-tls", Handler: d, NotifyStartedFunc: func() { close(started) }}
	go srv.ActivateAndServe()
	<-started
	t.Cleanup(func() { srv.Shutdown() })
	return d
}

func (d *dot) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	d.mu.Lock()
	d.states = append(d.states, *w.(dns.ConnectionStater).ConnectionState())
	d.mu.Unlock()
	d.fake.ServeDNS(w, q)
}

func (d *dot) config() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(d.ca.Certificate)
	return &tls.Config{ServerName: dotName, RootCAs: pool}
}

func (d *dot) client(change func(o *dnsclient.Options)) *dnsclient.Client {
	o := dnsclient.Options{
		Servers: []dnsclient.Server{{Addr: d.addr, TLS: d.config()}}, Attempts: 1, Timeout: 5 * time.Second,
		Now: func() time.Time { return testpki.Epoch },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, d.addr.String())
			return &firstWrite{Conn: conn, seen: func(b []byte) {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.dialed = append(d.dialed, network+" "+string(b[:2]))
			}}, err
		},
	}
	if change != nil {
		change(&o)
	}
	return dnsclient.New(o)
}

// onlyTLS checks that each connection was over TCP and began with a TLS record.
func (d *dot) onlyTLS(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.dialed {
		require.Equal(t, "tcp \x16\x03", c)
	}
}

// connections returns the state of the connection of each query.
func (d *dot) connections() []tls.ConnectionState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.states)
}

// firstWrite tells what is sent first.
type firstWrite struct {
	net.Conn
	seen func(b []byte)
	once sync.Once
}

func (c *firstWrite) Write(b []byte) (int, error) {
	c.once.Do(func() { c.seen(b) })
	return c.Conn.Write(b)
}

// lastWrite keeps the first byte of what was sent last.
type lastWrite struct {
	net.Conn
	last *byte
}

func (c *lastWrite) Write(b []byte) (int, error) {
	*c.last = b[0]
	return c.Conn.Write(b)
}

func TestDNSOverTLS(t *testing.T) {
	for name, tt := range map[string]struct {
		server func(ca *testpki.CA, c *tls.Config)
		client func(o *dnsclient.Options)
		handle func(m, q *dns.Msg) *dns.Msg
		failed string // text of the error, if one is expected
	}{
		"TLS 1.3": {server: func(_ *testpki.CA, c *tls.Config) { c.MinVersion = tls.VersionTLS13 }},
		"TLS 1.2": {server: func(_ *testpki.CA, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
		"TLS 1.1 is refused": {server: func(_ *testpki.CA, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			failed: "protocol version"},
		"TLS 1.1 is refused, asked for": {server: func(_ *testpki.CA, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			client: func(o *dnsclient.Options) { o.Servers[0].TLS.MinVersion = tls.VersionTLS10 }, failed: "protocol version"},
		"TLS 1.1 is refused, asked for alone": {server: func(_ *testpki.CA, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			client: func(o *dnsclient.Options) {
				o.Servers[0].TLS.MinVersion, o.Servers[0].TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
			}, failed: "TLS"},
		"a server named by its address": {client: func(o *dnsclient.Options) { o.Servers[0].TLS.ServerName = "192.0.2.53" }},
		"a server without ALPN":         {server: func(_ *testpki.CA, c *tls.Config) { c.NextProtos = nil }},
		"a server of another protocol is refused": {server: func(_ *testpki.CA, c *tls.Config) { c.NextProtos = []string{"h2"} },
			client: func(o *dnsclient.Options) { o.Servers[0].TLS.NextProtos = []string{"h2", "dot"} }, failed: "application protocol"},
		"a certificate for another name is refused": {client: func(o *dnsclient.Options) { o.Servers[0].TLS.ServerName = "other.example" },
			failed: "valid for dns.example, not other.example"},
		"a certificate for another address is refused": {client: func(o *dnsclient.Options) { o.Servers[0].TLS.ServerName = "192.0.2.54" },
			failed: "192.0.2.54"},
		"no name is not any name": {client: func(o *dnsclient.Options) { o.Servers[0].TLS.ServerName = "" }, failed: "ServerName"},
		"InsecureSkipVerify is not heeded": {client: func(o *dnsclient.Options) {
			o.Servers[0].TLS.ServerName, o.Servers[0].TLS.InsecureSkipVerify = "other.example", true
		}, failed: "valid for"},
		"an expired certificate is refused": {server: func(ca *testpki.CA, c *tls.Config) {
			c.Certificates[0] = certificate(t, ca, func(c *x509.Certificate) { c.NotAfter = testpki.Epoch.Add(-time.Second) })
		}, failed: "expired"},
		"the time of the configuration counts": {client: func(o *dnsclient.Options) {
			o.Servers[0].TLS.Time = func() time.Time { return testpki.Epoch.AddDate(3, 0, 0) }
		}, failed: "expired"},
		"a certificate that is not yet valid is refused": {server: func(ca *testpki.CA, c *tls.Config) {
			c.Certificates[0] = certificate(t, ca, func(c *x509.Certificate) { c.NotBefore = testpki.Epoch.Add(time.Minute) })
		}, failed: "not yet valid"},
		"a certificate of another authority is refused": {server: func(_ *testpki.CA, c *tls.Config) { c.Certificates[0] = certificate(t, testCA(t), nil) },
			failed: "unknown authority"},
		"a self-signed certificate is refused": {server: func(_ *testpki.CA, c *tls.Config) {
			self, err := testpki.NewRoot(testpki.Options{Template: func(c *x509.Certificate) { c.DNSNames = []string{dotName} }})
			require.NoError(t, err)
			c.Certificates[0] = tls.Certificate{Certificate: [][]byte{self.Certificate.Raw}, PrivateKey: self.Key}
		}, failed: "unknown authority"},
		"the certificate of a client is refused": {server: func(ca *testpki.CA, c *tls.Config) {
			c.Certificates[0] = certificate(t, ca, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		}, failed: "incompatible key usage"},
		"a truncated reply is an error": {handle: func(m, _ *dns.Msg) *dns.Msg {
			m.Truncated = true
			return m
		}, failed: "truncated reply over TLS"},
		"a reply to another query is an error": {handle: func(m, _ *dns.Msg) *dns.Msg {
			m.Id++
			return m
		}, failed: "not a reply"},
		"SERVFAIL is an error": {handle: func(m, _ *dns.Msg) *dns.Msg {
			m.Rcode = dns.RcodeServerFailure
			return m
		}, failed: "SERVFAIL"},
		"silence is an error": {handle: func(_, _ *dns.Msg) *dns.Msg { return nil },
			client: func(o *dnsclient.Options) { o.Timeout = time.Second }, failed: "no reply over TLS within 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			d := serveTLS(t, tt.server, tt.handle)
			answer, err := d.client(tt.client).Lookup(t.Context(), "p.example", dnsclient.A)
			d.onlyTLS(t)
			if tt.failed != "" {
				require.ErrorContains(t, err, tt.failed)
				require.NotErrorIs(t, err, dnsclient.ErrBogus)
				require.Zero(t, answer)
				if tt.handle == nil {
					require.Empty(t, d.queries(), "the question is not for strangers")
				}
				return
			}
			require.NoError(t, err)
			require.Equal(t, dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: time.Minute}, answer)
			require.Equal(t, []string{"tcp p.example."}, d.queries())
			if !strings.Contains(name, "without ALPN") {
				require.Equal(t, "dot", d.connections()[0].NegotiatedProtocol)
			}
		})
	}
}

// What a client does that a server of DNS over TLS must not see done without.
func TestDNSOverTLSConnections(t *testing.T) {
	t.Run("each query has a connection, and the session is resumed", func(t *testing.T) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			d := serveTLS(t, func(_ *testpki.CA, c *tls.Config) { c.MaxVersion = version }, nil)
			c := d.client(nil)
			for i := range 3 {
				_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
				require.NoError(t, err)
				require.Len(t, d.dialed, i+1)
				require.Equal(t, version, d.connections()[i].Version)
				require.Equal(t, i > 0, d.connections()[i].DidResume, "lookup %d", i)
			}
		}
	})
	t.Run("a session is not resumed when the certificate has expired since", func(t *testing.T) {
		d := serveTLS(t, nil, nil)
		now := testpki.Epoch
		c := d.client(func(o *dnsclient.Options) { o.Now = func() time.Time { return now } })
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		now = now.AddDate(3, 0, 0)
		_, err = c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorContains(t, err, "expired")
	})
	t.Run("the configuration is copied, and its session cache used", func(t *testing.T) {
		d := serveTLS(t, nil, nil)
		config := d.config()
		c := d.client(func(o *dnsclient.Options) { o.Servers[0].TLS = config })
		require.Nil(t, config.NextProtos)
		require.Nil(t, config.ClientSessionCache)
		require.Nil(t, config.Time)
		config.ServerName = "other.example"
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)

		config = d.config()
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for range 2 { // of two clients
			_, err = d.client(func(o *dnsclient.Options) { o.Servers[0].TLS = config }).Lookup(t.Context(), "p.example", dnsclient.A)
			require.NoError(t, err)
		}
		require.True(t, d.connections()[2].DidResume)
	})
	t.Run("a query is padded over TLS and nowhere else", func(t *testing.T) {
		var got []*dns.Msg
		record := func(m, q *dns.Msg) *dns.Msg {
			got = append(got, q)
			m.Answer = nil
			return m
		}
		d := serveTLS(t, nil, record)
		s := serve(t, func(network string, m, q *dns.Msg) *dns.Msg {
			m.Truncated = network == "udp"
			return record(m, q)
		})
		_, err := client(s).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Len(t, s.queries(), 2)
		for _, q := range got {
			require.Empty(t, q.IsEdns0().Option)
		}
		for n := 1; n <= 240; n += 7 {
			_, err := d.client(nil).Lookup(t.Context(), strings.Repeat("a.", n/2)+"example", dnsclient.A)
			require.NoError(t, err)
			require.Len(t, got, 2+len(d.queries()))
			q := got[len(got)-1]
			wire, err := q.Pack()
			require.NoError(t, err)
			require.Zero(t, len(wire)%128, "%d bytes", len(wire))
			require.LessOrEqual(t, len(wire), 384)
			require.Len(t, q.IsEdns0().Option, 1)
			require.Equal(t, uint16(dns.EDNS0PADDING), q.IsEdns0().Option[0].Option())
			require.EqualValues(t, 1232, q.IsEdns0().UDPSize())
			require.True(t, q.AuthenticatedData && q.RecursionDesired)
		}
	})
	t.Run("a server that asks for a certificate gets that of the configuration", func(t *testing.T) {
		d := serveTLS(t, func(_ *testpki.CA, c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, nil)
		_, err := d.client(nil).Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorContains(t, err, "certificate required")
		_, err = d.client(func(o *dnsclient.Options) {
			o.Servers[0].TLS.Certificates = []tls.Certificate{certificate(t, d.ca, nil)}
		}).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
	})
	t.Run("the next server is asked, over TLS too", func(t *testing.T) {
		first := serveTLS(t, func(_ *testpki.CA, c *tls.Config) { c.NextProtos = []string{"h2"} }, nil)
		second := serveTLS(t, nil, nil)
		c := dnsclient.New(dnsclient.Options{Attempts: 1, Now: func() time.Time { return testpki.Epoch }, Servers: []dnsclient.Server{
			{Addr: first.addr, TLS: first.config()}, {Addr: second.addr, TLS: second.config(), TrustAD: true}}})
		answer, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.True(t, answer.Authenticated)
	})
	t.Run("the server is told that this was all (RFC 8446 section 6.1)", func(t *testing.T) {
		d := serveTLS(t, func(_ *testpki.CA, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, nil) // 1.3 hides what is an alert
		var last byte
		_, err := d.client(func(o *dnsclient.Options) {
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return &lastWrite{conn, &last}, err
			}
		}).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.EqualValues(t, 21, last, "an alert")
	})
	t.Run("text of a certificate is quoted and cut", func(t *testing.T) {
		d := serveTLS(t, func(ca *testpki.CA, c *tls.Config) {
			c.Certificates[0] = certificate(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"x\n\x1b[31m" + strings.Repeat("y", 3000)} })
		}, nil)
		_, err := d.client(nil).Lookup(t.Context(), "p.example", dnsclient.A)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "\n")
		require.NotContains(t, err.Error(), "\x1b")
		require.Less(t, len(err.Error()), 400)
		var invalid *tls.CertificateVerificationError
		require.True(t, errors.As(err, &invalid), "the cause is kept")
	})
}
