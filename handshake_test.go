package mtls_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

const hsName = "api.acme.example"

// hsWait bounds everything that a test waits for; nothing takes that long unless
// it fails.
const hsWait = 30 * time.Second

// hsBench is an Env with one partner, and what the guard observes.
type hsBench struct {
	*mtlstest.Env
	cfg  mtls.Config
	seen chan *mtls.Decision
}

func hsNew(t *testing.T, more ...mtls.Rule) *hsBench {
	t.Helper()
	b := &hsBench{Env: mtlstest.NewEnv(t), seen: make(chan *mtls.Decision, 1000)}
	b.DNS.Set(hsName, "127.0.0.1")
	b.cfg = b.Config(append(more, mtls.Rule{Name: "acme", Domains: []string{hsName}})...)
	b.cfg.Logger = slog.New(slog.DiscardHandler)
	b.cfg.Observe = func(_ context.Context, d *mtls.Decision) { b.seen <- d }
	return b
}

// memory makes the handshake able to decide alone.
func (b *hsBench) memory() { b.cfg.Origin, b.cfg.Revocation = mtls.NoOrigin(), mtls.NoRevocation() }

func (b *hsBench) partner() *mtlstest.Certificate {
	return b.CA.Issue(mtlstest.Leaf{Names: []string{hsName}})
}

// next returns the next decision, which for a refusal that crypto/tls makes by
// itself comes after the client has seen it.
func (b *hsBench) next(t *testing.T) *mtls.Decision {
	t.Helper()
	select {
	case d := <-b.seen:
		return d
	case <-time.After(hsWait):
		require.Fail(t, "no decision was observed")
		return nil
	}
}

func (b *hsBench) quiet(t *testing.T) {
	t.Helper()
	select {
	case d := <-b.seen:
		require.Failf(t, "a decision nobody expected", "%+v", d)
	default:
	}
}

func hsVersions(t *testing.T, f func(t *testing.T, version uint16)) {
	for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(v), func(t *testing.T) { f(t, v) })
	}
}

// hsTLS is the configuration of a raw client.
func hsTLS(version uint16, ca *x509.Certificate, cert *mtlstest.Certificate) *tls.Config {
	conf := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: version, MaxVersion: version}
	conf.RootCAs.AddCert(ca)
	if cert != nil {
		conf.Certificates = []tls.Certificate{cert.TLS()}
	}
	return conf
}

func hsDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, hsWait)
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(hsWait)))
	t.Cleanup(func() { c.Close() })
	return c
}

// hsRefused requires an alert and not one byte of application data. It reads
// before it writes, since in TLS 1.3 a client learns of it only then.
func hsRefused(t *testing.T, addr string, conf *tls.Config) {
	t.Helper()
	hsRefusedOn(t, hsDial(t, addr), conf)
}

func hsRefusedOn(t *testing.T, nc net.Conn, conf *tls.Config) {
	t.Helper()
	c := tls.Client(nc, conf)
	err := c.Handshake()
	if err == nil {
		var n int
		n, err = c.Read(make([]byte, 1))
		require.Zero(t, n, "application data reached a client that should have been refused")
	}
	require.Error(t, err)
	require.Contains(t, err.Error(), "remote error: tls: ")
}

// hsTalk sends HTTP/1.1 as it is and returns the answer.
func hsTalk(t *testing.T, c net.Conn, conf *tls.Config, request string) reply {
	t.Helper()
	tc := tls.Client(c, conf)
	_, err := io.WriteString(tc, request)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(tc), nil)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return reply{Status: res.StatusCode, Body: string(body), Header: res.Header, Proto: res.Proto}
}

const hsGet = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// hsPKI is a server's certificate, for configurations that bring their own.
func hsPKI(t *testing.T) (ca *x509.Certificate, pair tls.Certificate) {
	t.Helper()
	before, after := time.Now().AddDate(-1, 0, 0), time.Now().AddDate(1, 0, 0)
	root, err := testpki.NewRoot(testpki.Options{NotBefore: before, NotAfter: after})
	require.NoError(t, err)
	leaf, err := root.Issue(testpki.Options{Names: []string{"localhost"}, NotBefore: before, NotAfter: after,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.NoError(t, err)
	return root.Certificate, leaf.TLS()
}

// hsListen serves TLS that is not HTTP: whoever completes the handshake is sent
// one word.
func hsListen(t *testing.T, conf *tls.Config) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(hsWait)) // what matters shows in the client
				if c.(*tls.Conn).Handshake() == nil {
					_, _ = io.WriteString(c, "welcome")
				}
			}()
		}
	}()
	return l.Addr().String()
}

func hsWelcome(t *testing.T, addr string, conf *tls.Config) {
	t.Helper()
	word, err := io.ReadAll(tls.Client(hsDial(t, addr), conf))
	require.NoError(t, err)
	require.Equal(t, "welcome", string(word))
}

// hsCount is a handler that counts whom it is called for.
func hsCount(n *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.Add(1); hello(w, r) })
}

func TestServerRefusesInTheHandshake(t *testing.T) {
	t.Parallel()
	expired := func(b *hsBench, l mtlstest.Leaf) *mtlstest.Certificate {
		l.NotBefore, l.NotAfter = b.Clock.Now().Add(-2*time.Hour), b.Clock.Now().Add(-time.Minute)
		return b.CA.Issue(l)
	}
	for name, c := range map[string]struct {
		cert   func(*testing.T, *hsBench) *mtlstest.Certificate
		reason mtls.Reason
	}{
		"no certificate": {func(*testing.T, *hsBench) *mtlstest.Certificate { return nil }, mtls.ReasonNoCertificate},
		"an unknown issuer": {func(t *testing.T, b *hsBench) *mtlstest.Certificate {
			return mtlstest.NewCA(t, mtlstest.CAOptions{Now: b.Clock.Now}).Issue(mtlstest.Leaf{Names: []string{hsName}})
		}, mtls.ReasonUntrustedIssuer},
		"expired": {func(_ *testing.T, b *hsBench) *mtlstest.Certificate {
			return expired(b, mtlstest.Leaf{Names: []string{hsName}})
		}, mtls.ReasonExpired},
		"not yet valid": {func(_ *testing.T, b *hsBench) *mtlstest.Certificate {
			return b.CA.Issue(mtlstest.Leaf{Names: []string{hsName}, NotBefore: b.Clock.Now().Add(time.Hour)})
		}, mtls.ReasonNotYetValid},
		"issued for servers": {func(_ *testing.T, b *hsBench) *mtlstest.Certificate {
			return b.CA.Issue(mtlstest.Leaf{Names: []string{hsName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		}, mtls.ReasonKeyUsage},
		"not listed": {func(_ *testing.T, b *hsBench) *mtlstest.Certificate {
			return b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})
		}, mtls.ReasonNotAllowed},
		"listed in the common name only": {func(_ *testing.T, b *hsBench) *mtlstest.Certificate {
			return b.CA.Issue(mtlstest.Leaf{CommonName: hsName})
		}, mtls.ReasonNotAllowed},
		"denied beside a listed name": {func(_ *testing.T, b *hsBench) *mtlstest.Certificate {
			return b.CA.Issue(mtlstest.Leaf{Names: []string{hsName, "banned.example"}})
		}, mtls.ReasonDeniedByRule},
		"known to be revoked": {func(t *testing.T, b *hsBench) *mtlstest.Certificate { return b.partner() }, mtls.ReasonRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hsVersions(t, func(t *testing.T, version uint16) {
				b := hsNew(t, mtls.Rule{Name: "banned", Deny: true, Domains: []string{"banned.example"}})
				g := mtlstest.NewGuard(t, b.cfg)
				var served atomic.Int64
				s := mtlstest.NewServer(t, g, hsCount(&served))
				cert := c.cert(t, b)
				if c.reason == mtls.ReasonRevoked {
					require.Equal(t, 200, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
					require.True(t, b.next(t).Admitted)
					served.Store(0)
					b.Revocation.Revoke(cert, 1)
					require.NoError(t, g.Refresh(t.Context()))
				}
				hsRefused(t, s.Addr, hsTLS(version, s.CA, cert))
				d := b.next(t)
				require.Equal(t, c.reason, d.Reason, d.Detail())
				require.True(t, d.Handshake)
				require.False(t, d.Admitted)
				require.Nil(t, d.Identity)
				require.NotEmpty(t, d.Steps)
				require.Equal(t, mtls.OutcomeFail, d.Steps[len(d.Steps)-1].Outcome, "a definite refusal is no \"don't know\"")
				require.Zero(t, served.Load())
			})
		})
	}
}

// Anybody can copy a certificate of a public authority from a CT log, and must
// not read the list of partners off the alerts.
func TestPublicAuthorityTellsNothingInTheHandshake(t *testing.T) {
	t.Parallel()
	b := hsNew(t, mtls.Rule{Name: "banned", Deny: true, Domains: []string{"banned.example"}})
	a := b.CA.Authority("web")
	a.Public, a.Purpose = true, mtls.ClientOrServerAuth
	require.NoError(t, b.cfg.Roots.Replace(a))
	var served atomic.Int64
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, b.cfg), hsCount(&served))
	for name, reason := range map[string]mtls.Reason{"other.example": mtls.ReasonNotAllowed, "banned.example": mtls.ReasonDeniedByRule} {
		for _, http1 := range []bool{false, true} {
			cert := b.CA.Issue(mtlstest.Leaf{Names: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			r := ask(t, s.Client(cert, mtlstest.ClientOptions{HTTP1: http1}), s.URL)
			require.Equal(t, 403, r.Status)
			require.Equal(t, "not_allowed", r.Code)
			d := b.next(t)
			require.Equal(t, reason, d.Reason)
			require.False(t, d.Handshake)
		}
	}
	require.Zero(t, served.Load())
	hsRefused(t, s.Addr, hsTLS(tls.VersionTLS13, s.CA, nil))
}

func TestHandshakeAloneRefusesWhatItCannotEstablish(t *testing.T) {
	t.Parallel()
	ca, pair := hsPKI(t)
	for name, c := range map[string]struct {
		change func(*mtls.Config)
		reason mtls.Reason // empty: admitted
	}{
		"nothing left to establish":  {func(*mtls.Config) {}, ""},
		"the default origin":         {func(c *mtls.Config) { c.Origin = nil }, mtls.ReasonOriginUnknown},
		"a revocation check":         {func(c *mtls.Config) { c.Revocation = nil }, mtls.ReasonRevocationUnknown},
		"a revocation check of CAs":  {func(c *mtls.Config) { c.Revocation = &mtls.Revocation{LeafOnly: true} }, mtls.ReasonRevocationUnknown},
		"accounts":                   {func(c *mtls.Config) { c.Accounts = hsAccounts{} }, mtls.ReasonAccountUnknown},
		"the caller's own condition": {func(c *mtls.Config) { c.Verify = func(context.Context, *mtls.Identity) error { return nil } }, mtls.ReasonAccountUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hsVersions(t, func(t *testing.T, version uint16) {
				b := hsNew(t)
				b.memory()
				c.change(&b.cfg)
				g := mtlstest.NewGuard(t, b.cfg)
				addr := hsListen(t, g.TLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}))
				conf := hsTLS(version, ca, b.partner())
				if c.reason == "" {
					hsWelcome(t, addr, conf)
				} else {
					hsRefused(t, addr, conf)
					require.Equal(t, c.reason, b.next(t).Reason)
				}
				stranger := b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})
				hsRefused(t, addr, hsTLS(version, ca, stranger))
				require.Equal(t, mtls.ReasonNotAllowed, b.next(t).Reason)
				// Somebody who will decide the requests has come.
				g.Handler(hello)
				hsWelcome(t, addr, conf)
				hsRefused(t, addr, hsTLS(version, ca, stranger))
			})
		})
	}
}

type hsAccounts struct{}

func (hsAccounts) MapAccount(context.Context, *mtls.Identity) (mtls.Account, error) {
	return mtls.Account{Name: "a"}, nil
}

// A public authority's strangers are refused in the handshake if nobody else
// could refuse them.
func TestHandshakeAloneRefusesStrangersOfPublicAuthorities(t *testing.T) {
	t.Parallel()
	ca, pair := hsPKI(t)
	b := hsNew(t)
	b.memory()
	a := b.CA.Authority("web")
	a.Public = true
	require.NoError(t, b.cfg.Roots.Replace(a))
	addr := hsListen(t, mtlstest.NewGuard(t, b.cfg).TLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}))
	hsRefused(t, addr, hsTLS(tls.VersionTLS13, ca, b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})))
	require.Equal(t, mtls.ReasonNotAllowed, b.next(t).Reason)
	hsWelcome(t, addr, hsTLS(tls.VersionTLS13, ca, b.partner()))
}

func TestHandlerDecidesWithoutTheGuardsTLSConfig(t *testing.T) {
	t.Parallel()
	for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequestClientCert, tls.RequireAnyClientCert} {
		t.Run(auth.String(), func(t *testing.T) {
			t.Parallel()
			b := hsNew(t)
			g := mtlstest.NewGuard(t, b.cfg)
			serve := func(connContext func(context.Context, net.Conn) context.Context) *mtlstest.Server {
				return mtlstest.Serve(t, &http.Server{Handler: g.Handler(hello), TLSConfig: &tls.Config{ClientAuth: auth},
					ConnContext: connContext, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)})
			}
			s := serve(g.ConnContext)
			want := map[bool]int{true: 403, false: 200}[auth == tls.NoClientCert]
			require.Equal(t, want, ask(t, s.Client(b.partner(), mtlstest.ClientOptions{}), s.URL).Status)
			b.next(t)
			if auth == tls.NoClientCert {
				return
			}
			for _, cert := range []*mtlstest.Certificate{
				b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}}),
				mtlstest.NewCA(t, mtlstest.CAOptions{}).Issue(mtlstest.Leaf{Names: []string{hsName}}),
			} {
				require.Equal(t, 403, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
				require.False(t, b.next(t).Admitted)
			}
			bare := serve(nil)
			require.Equal(t, 503, ask(t, bare.Client(b.partner(), mtlstest.ClientOptions{}), bare.URL).Status)
			d := b.next(t)
			require.Equal(t, mtls.ReasonOriginUnknown, d.Reason)
			require.Contains(t, d.Detail(), "ConnContext")
		})
	}
}

func TestHooksByHand(t *testing.T) {
	t.Parallel()
	ca, pair := hsPKI(t)
	b := hsNew(t)
	b.memory()
	g := mtlstest.NewGuard(t, b.cfg)
	for name, reason := range map[string]error{
		"VerifyConnection":      g.VerifyConnection(tls.ConnectionState{}),
		"VerifyPeerCertificate": g.VerifyPeerCertificate(nil, nil),
	} {
		var denied *mtls.DeniedError
		require.ErrorAs(t, reason, &denied, name)
		require.Equal(t, mtls.ReasonNoCertificate, denied.Reason, name)
		b.next(t)
	}
	stranger := b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})
	hsVersions(t, func(t *testing.T, version uint16) {
		for name, conf := range map[string]*tls.Config{
			"VerifyConnection alone":             {VerifyConnection: g.VerifyConnection},
			"VerifyConnection, any certificate":  {VerifyConnection: g.VerifyConnection, ClientAuth: tls.RequireAnyClientCert},
			"VerifyPeerCertificate, any of them": {VerifyPeerCertificate: g.VerifyPeerCertificate, ClientAuth: tls.RequireAnyClientCert},
			"both, only requested": {VerifyConnection: g.VerifyConnection, VerifyPeerCertificate: g.VerifyPeerCertificate,
				ClientAuth: tls.RequestClientCert},
		} {
			t.Run(name, func(t *testing.T) {
				conf.Certificates = []tls.Certificate{pair}
				addr := hsListen(t, conf)
				hsRefused(t, addr, hsTLS(version, ca, nil))
				hsRefused(t, addr, hsTLS(version, ca, stranger))
				if conf.ClientAuth == tls.NoClientCert { // it is never asked for
					hsRefused(t, addr, hsTLS(version, ca, b.partner()))
					return
				}
				hsWelcome(t, addr, hsTLS(version, ca, b.partner()))
			})
		}
	})
}
