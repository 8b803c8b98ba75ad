package mtls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// Apache's CVE-2025-23048 and domain fronting in general: one connection, made
// under the policy of one name, used for another.
func TestThreat02_SNIOtherThanHost(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	g := mtlstest.NewGuard(t, b.cfg)
	var served atomic.Int64
	for name, s := range map[string]*mtlstest.Server{
		"Server":         mtlstest.NewServer(t, g, hsCount(&served)),
		"OptionalServer": mtlstest.NewOptionalServer(t, g, g.Require()(hsCount(&served))),
	} {
		t.Run(name, func(t *testing.T) {
			for _, http1 := range []bool{true, false} {
				c := s.Client(b.partner(), mtlstest.ClientOptions{HTTP1: http1})
				for _, host := range []string{"admin.internal", "localhost.evil.example", "xlocalhost", "localhost..", "127.0.0.1", "[::1]"} {
					r := hsHost(t, c, s.URL, host)
					require.Equal(t, 421, r.Status, host)
					d := b.next(t)
					require.Equal(t, mtls.ReasonMisdirected, d.Reason)
					require.False(t, d.Admitted)
				}
				require.Zero(t, served.Load())
				require.Equal(t, 200, hsHost(t, c, s.URL, "localhost").Status, "the connection itself is sound")
				require.True(t, b.next(t).Admitted)
				served.Store(0)
			}
			// The target of a request may be absolute, and then it counts (RFC 9112 section 3.2.2).
			conf := hsTLS(tls.VersionTLS13, s.CA, b.partner())
			r := hsTalk(t, hsDial(t, s.Addr), conf, "GET https://admin.internal/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			require.Equal(t, 421, r.Status)
			b.next(t)
		})
	}
}

func hsHost(t *testing.T, c *http.Client, url, host string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	require.NoError(t, err)
	req.Host = host
	res, err := c.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return reply{Status: res.StatusCode, Body: string(body), Header: res.Header, Proto: res.Proto}
}

// Caddy's CVE-2018-21246 and Traefik's CVE-2022-23632: a Host in another
// spelling chose other TLS options.
func TestThreat10_11_HostSpellings(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	g := mtlstest.NewGuard(t, b.cfg)
	s := mtlstest.NewOptionalServer(t, g, g.Require()(hello))
	partner, stranger := b.partner(), b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})
	for _, c := range []struct{ sni, host string }{
		{"localhost", "localhost"}, {"localhost", "localhost."}, {"localhost", "LocalHost"}, {"localhost", "localhost:8443"},
		{"localhost", "LOCALHOST.:1"}, {"localhost", ""}, {"LOCALHOST", "localhost"}, {"LocalHost", "lOCALhOST.:443"},
		{"", "localhost"}, {"", "127.0.0.1"}, {"", "[::1]:8443"}, {"", "whatever.example"}, {"", ""},
	} {
		t.Run("SNI "+c.sni+" Host "+c.host, func(t *testing.T) {
			for cert, want := range map[*mtlstest.Certificate]int{partner: 200, stranger: 403, nil: 403} {
				conf := hsTLS(tls.VersionTLS13, s.CA, cert)
				if conf.ServerName = c.sni; c.sni == "" {
					conf.ServerName = "127.0.0.1" // an address is never sent (RFC 6066 section 3)
				}
				r := hsTalk(t, hsDial(t, s.Addr), conf, "GET / HTTP/1.1\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n")
				require.Equal(t, want, r.Status, r.Body)
				if c.host == "" || strings.ContainsAny(c.host, "[") {
					continue
				}
				h2 := s.Client(cert, mtlstest.ClientOptions{TLS: func(tc *tls.Config) { tc.ServerName = conf.ServerName }})
				r = hsHost(t, h2, s.URL, c.host)
				require.Equal(t, want, r.Status, r.Body)
				require.Equal(t, "HTTP/2.0", r.Proto)
			}
		})
	}
}

// Go's CVE-2014-7189 and pion's CVE-2022-29222: a certificate is public, only
// its key makes it the client's. crypto/tls asks the hooks before it knows.
func TestThreat07_08_WrongPrivateKey(t *testing.T) {
	t.Parallel()
	for name, tickets := range map[string]bool{"without tickets": false, "with tickets": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hsVersions(t, func(t *testing.T, version uint16) {
				b := hsNew(t)
				if tickets {
					b.cfg.SessionLifetime = mtlstest.Validity
				}
				g := mtlstest.NewGuard(t, b.cfg)
				var served atomic.Int64
				required := mtlstest.NewServer(t, g, hsCount(&served))
				optional := mtlstest.NewOptionalServer(t, g, g.Require()(hsCount(&served)))
				victim := b.partner()
				attack := func(s *mtlstest.Server) {
					conf := hsTLS(version, s.CA, victim)
					key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
					require.NoError(t, err)
					conf.Certificates[0].PrivateKey = key
					conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
					for range 2 {
						hsRefused(t, s.Addr, conf)
						d := b.next(t)
						require.False(t, d.Admitted)
						require.True(t, d.Handshake)
						require.Equal(t, mtls.ReasonMalformedCertificate, d.Reason)
					}
				}
				attack(required)
				attack(optional)
				require.Zero(t, b.DNS.Queries(hsName), "an unproved certificate caused a lookup")
				crl, ocsp := b.Revocation.Requests()
				require.Zero(t, crl+ocsp, "an unproved certificate caused a fetch")

				r := ask(t, required.Client(victim, mtlstest.ClientOptions{}), required.URL)
				require.Equal(t, 200, r.Status, r.Body)
				d := b.next(t) // an admission from a cache would not be observed
				require.True(t, d.Admitted)
				require.False(t, d.Handshake)

				// Now the verdict on this certificate is cached, and not for connections
				// whose client has proved nothing yet.
				unproved := peerOf(victim)
				unproved.TLS.HandshakeComplete = false
				unproved.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
				_, err := g.Check(t.Context(), unproved)
				require.Error(t, err)
				require.False(t, b.next(t).Admitted)
				attack(required)
				attack(optional)
				require.EqualValues(t, 1, served.Load())
				b.quiet(t)
			})
		})
	}
}

// Traefik's CVE-2020-9321 and CVE-2022-46153: a missing option fell back to a
// default without client certificates.
func TestThreat12_NothingConfiguredAdmitsNobody(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	for name, change := range map[string]func(*mtls.Config){
		"no roots":    func(c *mtls.Config) { c.Roots = nil },
		"zero roots":  func(c *mtls.Config) { c.Roots = &mtls.Roots{} },
		"no policy":   func(c *mtls.Config) { c.Policy = nil },
		"zero policy": func(c *mtls.Config) { c.Policy = &mtls.Policy{} },
		"zero shadow": func(c *mtls.Config) { c.Shadow = &mtls.Policy{} },
		"nothing":     func(c *mtls.Config) { *c = mtls.Config{} },
	} {
		cfg := b.cfg
		change(&cfg)
		g, err := mtls.New(cfg)
		var problem *mtls.ConfigError
		require.ErrorAs(t, err, &problem, name)
		require.Nil(t, g, name)
	}
	_, err := mtls.NewPolicy()
	require.Error(t, err)
	_, err = mtls.NewRoots()
	require.Error(t, err)
	_, err = mtls.NewRoots(mtls.Authority{Name: "empty"})
	require.Error(t, err)

	b.cfg.Policy = mtls.DenyAll()
	b.memory()
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, b.cfg), hello)
	hsRefused(t, s.Addr, hsTLS(tls.VersionTLS13, s.CA, b.partner()))
}

func TestThreat12_ZeroGuardAdmitsNobody(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	var nobody *mtls.Guard
	var served atomic.Int64
	for name, g := range map[string]*mtls.Guard{"zero": {}, "nil": nobody} {
		t.Run(name, func(t *testing.T) {
			required := mtlstest.NewServer(t, g, hsCount(&served))
			hsRefused(t, required.Addr, hsTLS(tls.VersionTLS13, required.CA, b.partner()))
			hsRefused(t, required.Addr, hsTLS(tls.VersionTLS12, required.CA, nil))
			optional := mtlstest.NewOptionalServer(t, g, g.Require("any")(hsCount(&served)))
			r := ask(t, optional.Client(b.partner(), mtlstest.ClientOptions{}), optional.URL)
			require.Equal(t, 500, r.Status)
			require.Equal(t, "internal", r.Code)
			d, err := g.Check(t.Context(), mtls.Peer{TLS: tls.ConnectionState{HandshakeComplete: true}})
			var denied *mtls.DeniedError
			require.ErrorAs(t, err, &denied)
			require.Equal(t, mtls.ReasonInternal, denied.Reason)
			require.False(t, d.Admitted)
			for _, err := range []error{g.Ready(), g.Refresh(t.Context()), g.Run(t.Context()),
				g.VerifyConnection(tls.ConnectionState{}), g.VerifyPeerCertificate(nil, nil)} {
				require.Error(t, err)
			}
		})
	}
	require.Zero(t, served.Load())
}

// hsDrip sends the first TLS records, which hold the ClientHello, one byte of
// payload per record.
type hsDrip struct {
	net.Conn
	records int // sent so far
}

func (c *hsDrip) Write(p []byte) (int, error) {
	if c.records > 0 {
		return c.Conn.Write(p)
	}
	for rest := p; len(rest) >= 5; {
		n := int(rest[3])<<8 | int(rest[4])
		for _, payload := range rest[5 : 5+n] {
			if _, err := c.Conn.Write([]byte{rest[0], rest[1], rest[2], 0, 1, payload}); err != nil {
				return 0, err
			}
			c.records++
		}
		rest = rest[5+n:]
	}
	return len(p), nil
}

// Traefik's CVE-2026-32305: a ClientHello that could not be sniffed was served
// under a default without client certificates.
func TestThreat13_UnusualClientHello(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	// A GetConfigForClient that keys on the name is what went wrong there.
	conf := mtlstest.NewGuard(t, b.cfg)
	base := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }}
	server := conf.Server("", hello)
	server.TLSConfig = conf.TLSConfig(base)
	s := mtlstest.Serve(t, server)
	many := make([]string, 200)
	for i := range many {
		many[i] = strings.Repeat("p", 100)
	}
	many[199] = "http/1.1"
	for name, change := range map[string]func(*tls.Config){
		"one byte in a record": func(*tls.Config) {},
		"larger than a packet": func(c *tls.Config) { c.NextProtos = many },
		"no server name":       func(c *tls.Config) { c.ServerName = "127.0.0.1" },
		"unknown name":         func(c *tls.Config) { c.ServerName, c.InsecureSkipVerify = "unknown.example", true },
	} {
		t.Run(name, func(t *testing.T) {
			hsVersions(t, func(t *testing.T, version uint16) {
				for cert, admitted := range map[*mtlstest.Certificate]bool{
					nil: false, b.partner(): true, b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}}): false,
				} {
					for _, drip := range []bool{false, true} {
						tc := hsTLS(version, s.CA, cert)
						change(tc)
						c := hsDial(t, s.Addr)
						if drip {
							c = &hsDrip{Conn: c}
						}
						if admitted {
							host := tc.ServerName
							r := hsTalk(t, c, tc, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
							require.Equal(t, 200, r.Status)
						} else {
							hsRefusedOn(t, c, tc)
						}
						if drip {
							require.Greater(t, c.(*hsDrip).records, 100)
						}
					}
				}
			})
		})
	}
}

// Keycloak's CVE-2023-2422: the identity came from a certificate that was sent
// along, and not from the one whose key was proved.
func TestThreat25_ExtraCertificateLendsNoName(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		b := hsNew(t, mtls.Rule{Name: "globex", Domains: []string{"hooks.globex.example"}})
		b.DNS.Set("hooks.globex.example", "127.0.0.1")
		s := mtlstest.NewServer(t, mtlstest.NewGuard(t, b.cfg), hello)
		victim := b.partner().Leaf().Raw
		send := func(name string) *tls.Config {
			conf := hsTLS(version, s.CA, b.CA.Issue(mtlstest.Leaf{Names: []string{name}}))
			conf.Certificates[0].Certificate = append(conf.Certificates[0].Certificate, victim)
			return conf
		}
		r := hsTalk(t, hsDial(t, s.Addr), send("hooks.globex.example"), hsGet)
		require.Equal(t, "globex hooks.globex.example", r.Body)
		hsRefused(t, s.Addr, send("other.example"))
	})
}

// nginx's CVE-2026-28755: the handshake succeeded although the certificate was
// known to be revoked.
func TestThreat38_RevokedGetsNoByte(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		b := hsNew(t)
		var served atomic.Int64
		g := mtlstest.NewGuard(t, b.cfg)
		s := mtlstest.NewServer(t, g, hsCount(&served))
		cert := b.partner()
		b.Revocation.Revoke(cert, 1)
		// Nobody has asked yet: the first request does, and no handler sees it.
		r := hsTalk(t, hsDial(t, s.Addr), hsTLS(version, s.CA, cert), hsGet)
		require.Equal(t, 403, r.Status)
		require.Equal(t, mtls.ReasonRevoked, b.next(t).Reason)
		// From then on it is known.
		hsRefused(t, s.Addr, hsTLS(version, s.CA, cert))
		d := b.next(t)
		require.Equal(t, mtls.ReasonRevoked, d.Reason)
		require.True(t, d.Handshake)
		require.Zero(t, served.Load())
	})
}

func TestPlainHTTPIsRefused(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	b.memory()
	g := mtlstest.NewGuard(t, b.cfg)
	var served atomic.Int64
	for _, s := range []*mtlstest.Server{mtlstest.NewServer(t, g, hsCount(&served)), mtlstest.NewOptionalServer(t, g, g.Require()(hsCount(&served)))} {
		c := hsDial(t, s.Addr)
		_, err := io.WriteString(c, hsGet)
		require.NoError(t, err)
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(answer), "HTTP/1.0 400 "), "%q", answer)
	}
	plain := httptest.NewUnstartedServer(g.Handler(hsCount(&served)))
	plain.Config.ConnContext = g.ConnContext
	plain.Start()
	t.Cleanup(plain.Close)
	r := ask(t, plain.Client(), plain.URL)
	require.Equal(t, 403, r.Status)
	require.Equal(t, "no_certificate", r.Code)
	require.Equal(t, mtls.ReasonNoCertificate, b.next(t).Reason)
	require.Zero(t, served.Load())

	_, err := g.Check(context.Background(), mtls.Peer{})
	require.Error(t, err)
}
