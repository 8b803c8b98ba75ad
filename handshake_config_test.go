package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// hsServe serves hello behind the guard with a tls.Config, which need not have a
// certificate.
func hsServe(t *testing.T, g *mtls.Guard, conf *tls.Config) *mtlstest.Server {
	t.Helper()
	return mtlstest.Serve(t, &http.Server{Handler: g.Handler(hello), TLSConfig: conf, ConnContext: g.ConnContext,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)})
}

func TestThreat09_CallersCallbacksRunAfterTheGuards(t *testing.T) {
	t.Parallel()
	t.Run("both hooks", func(t *testing.T) { hsVersions(t, func(t *testing.T, v uint16) { hsCallbacks(t, v, true) }) })
	// Without the one that crypto/tls calls first.
	t.Run("VerifyConnection only", func(t *testing.T) { hsVersions(t, func(t *testing.T, v uint16) { hsCallbacks(t, v, false) }) })
}

func hsCallbacks(t *testing.T, version uint16, both bool) {
	refusal := errors.New("the caller refuses")
	b := hsNew(t)
	g := mtlstest.NewGuard(t, b.cfg)
	var connection, certificate, server atomic.Int64
	var refuses atomic.Pointer[error]
	ca, pair := hsPKI(t)
	base := &tls.Config{
		NextProtos: []string{"h2", "http/1.1", "acme-tls/1"},
		VerifyConnection: func(cs tls.ConnectionState) error {
			connection.Add(1)
			if len(cs.PeerCertificates) == 0 {
				return errors.New("called without a certificate")
			}
			if e := refuses.Load(); e != nil {
				return *e
			}
			return nil
		},
		VerifyPeerCertificate: func(raw [][]byte, chains [][]*x509.Certificate) error {
			certificate.Add(1)
			return nil
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { server.Add(1); return &pair, nil },
	}
	if !both {
		base.VerifyPeerCertificate = nil
	}
	conf := g.TLSConfig(base)
	require.NotNil(t, conf.VerifyConnection)
	require.Equal(t, base.NextProtos, conf.NextProtos)
	require.Equal(t, tls.RequireAnyClientCert, conf.ClientAuth)
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	require.NoError(t, err)
	s := &http.Server{Handler: g.Handler(hello), TLSConfig: conf, ConnContext: g.ConnContext}
	go s.Serve(l) // ends with Close
	t.Cleanup(func() { s.Close() })
	addr := l.Addr().String()

	for _, cert := range []*mtlstest.Certificate{nil, b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}}),
		mtlstest.NewCA(t, mtlstest.CAOptions{}).Issue(mtlstest.Leaf{Names: []string{hsName}})} {
		hsRefused(t, addr, hsTLS(version, ca, cert))
	}
	require.Zero(t, connection.Load()+certificate.Load(), "called for a client that the guard refuses")
	require.EqualValues(t, 3, server.Load())

	require.Equal(t, 200, hsTalk(t, hsDial(t, addr), hsTLS(version, ca, b.partner()), hsGet).Status)
	require.EqualValues(t, 1, connection.Load())
	require.Equal(t, both, certificate.Load() == 1)
	refuses.Store(&refusal)
	hsRefused(t, addr, hsTLS(version, ca, b.partner()))
}

// A configuration that the caller chooses for a connection cannot drop the
// guard.
func TestGetConfigForClientCannotDropTheGuard(t *testing.T) {
	t.Parallel()
	ca, pair := hsPKI(t)
	var inner atomic.Int64
	for name, chosen := range map[string]*tls.Config{
		"none":                     nil,
		"without client auth":      {Certificates: []tls.Certificate{pair}, ClientAuth: tls.NoClientCert},
		"certificates if given":    {Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven},
		"old versions":             {Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10},
		"callbacks that allow all": {Certificates: []tls.Certificate{pair}, VerifyConnection: func(tls.ConnectionState) error { inner.Add(1); return nil }},
		"its own choice of config": {Certificates: []tls.Certificate{pair}, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := hsNew(t)
			g := mtlstest.NewGuard(t, b.cfg)
			var asked atomic.Int64
			base := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { asked.Add(1); return chosen, nil }}
			before := hsFields(chosen)
			s := hsServe(t, g, g.TLSConfig(base))
			optional := hsServe(t, g, g.OptionalTLSConfig(base))
			hsVersions(t, func(t *testing.T, version uint16) {
				trust := func(cert *mtlstest.Certificate) *tls.Config {
					conf := hsTLS(version, s.CA, cert)
					conf.RootCAs.AddCert(optional.CA)
					conf.RootCAs.AddCert(ca)
					return conf
				}
				stranger := b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})
				hsRefused(t, s.Addr, trust(nil))
				hsRefused(t, s.Addr, trust(stranger))
				require.Equal(t, 200, hsTalk(t, hsDial(t, s.Addr), trust(b.partner()), hsGet).Status)
				require.Equal(t, 403, hsTalk(t, hsDial(t, optional.Addr), trust(nil), hsGet).Status)
				require.Equal(t, 403, hsTalk(t, hsDial(t, optional.Addr), trust(stranger), hsGet).Status)
				require.Equal(t, 200, hsTalk(t, hsDial(t, optional.Addr), trust(b.partner()), hsGet).Status)
			})
			old := hsTLS(tls.VersionTLS11, s.CA, b.partner())
			old.MinVersion, old.InsecureSkipVerify = tls.VersionTLS10, true
			hsRefused(t, s.Addr, old)
			require.Positive(t, asked.Load())
			require.Equal(t, before, hsFields(chosen), "the caller's config was changed")
		})
	}
	t.Run("an error", func(t *testing.T) {
		b := hsNew(t)
		g := mtlstest.NewGuard(t, b.cfg)
		s := hsServe(t, g, g.TLSConfig(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{pair}}, errors.New("no such tenant")
		}}))
		hsRefused(t, s.Addr, hsTLS(tls.VersionTLS13, s.CA, b.partner()))
	})
	t.Cleanup(func() { require.Positive(t, inner.Load(), "the caller's callback was dropped") })
}

// hsFields lists the exported fields of a config in a form that can be
// compared: functions by what they point to.
func hsFields(c *tls.Config) map[string]any {
	list := map[string]any{}
	if c == nil {
		return list
	}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		f, value := v.Type().Field(i), v.Field(i)
		switch {
		case !f.IsExported():
		case value.Kind() == reflect.Func:
			list[f.Name] = value.Pointer()
		default:
			list[f.Name] = value.Interface()
		}
	}
	return list
}

func TestBaseIsCopiedAndLeftAlone(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	b.cfg.SessionLifetime = time.Hour
	g := mtlstest.NewGuard(t, b.cfg)
	ca, pair := hsPKI(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	base := &tls.Config{
		MinVersion: tls.VersionTLS10, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{pair},
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, CurvePreferences: []tls.CurveID{tls.X25519},
		ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven,
		VerifyConnection:      func(tls.ConnectionState) error { return nil },
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return nil },
		GetConfigForClient:    func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil },
	}
	before := hsFields(base)
	ours := map[string]bool{"MinVersion": true, "ClientAuth": true, "VerifyConnection": true, "VerifyPeerCertificate": true,
		"GetConfigForClient": true, "WrapSession": true, "UnwrapSession": true, "Time": true}
	for name, conf := range map[string]*tls.Config{"TLSConfig": g.TLSConfig(base), "OptionalTLSConfig": g.OptionalTLSConfig(base)} {
		require.Equal(t, before, hsFields(base), name)
		require.NotSame(t, base, conf, name)
		require.EqualValues(t, tls.VersionTLS12, conf.MinVersion, name)
		for field, value := range hsFields(conf) {
			if !ours[field] {
				require.Equal(t, before[field], value, "%s: %s", name, field)
			}
		}
	}
	strict := g.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS13})
	require.EqualValues(t, tls.VersionTLS13, strict.MinVersion)
	require.Nil(t, strict.ClientCAs)
	require.Equal(t, tls.RenegotiateNever, strict.Renegotiation)
	require.Equal(t, tls.RequestClientCert, g.OptionalTLSConfig(nil).ClientAuth)
}

func TestOldVersionsAreRefused(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	g := mtlstest.NewGuard(t, b.cfg)
	for _, s := range []*mtlstest.Server{
		mtlstest.NewServer(t, g, hello), mtlstest.NewOptionalServer(t, g, hello),
		hsServe(t, g, g.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS10})),
	} {
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
			conf := hsTLS(version, s.CA, b.partner())
			hsRefused(t, s.Addr, conf)
		}
	}
}

// The list of CAs would cost kilobytes in each handshake and show strangers whom
// we trust.
func TestServerNamesNoCAs(t *testing.T) {
	t.Parallel()
	b := hsNew(t)
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, b.cfg), hello)
	hsVersions(t, func(t *testing.T, version uint16) {
		pair := b.partner().TLS()
		asked := false
		conf := hsTLS(version, s.CA, nil)
		conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			require.Empty(t, info.AcceptableCAs)
			return &pair, nil
		}
		require.Equal(t, 200, hsTalk(t, hsDial(t, s.Addr), conf, hsGet).Status)
		require.True(t, asked)
	})
}

// The way of the README: files, a port, and HTTP/2.
func TestListenAndServeTLSWithFiles(t *testing.T) {
	t.Parallel()
	before, after := time.Now().AddDate(-1, 0, 0), time.Now().AddDate(1, 0, 0)
	root, err := testpki.NewRoot(testpki.Options{NotBefore: before, NotAfter: after})
	require.NoError(t, err)
	leaf, err := root.Issue(testpki.Options{Names: []string{"localhost"}, NotBefore: before, NotAfter: after,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.NoError(t, err)
	certPEM, keyPEM := leaf.PEM()
	certFile, keyFile := filepath.Join(t.TempDir(), "server.pem"), filepath.Join(t.TempDir(), "server-key.pem")
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, keyPEM, 0o600))

	b := hsNew(t)
	g := mtlstest.NewGuard(t, b.cfg)
	server := g.Server("127.0.0.1:0", hello)
	address := make(chan string, 1)
	server.BaseContext = func(l net.Listener) context.Context { address <- l.Addr().String(); return context.Background() }
	done := make(chan error, 1)
	go func() { done <- server.ListenAndServeTLS(certFile, keyFile) }()
	t.Cleanup(func() {
		server.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})
	addr := <-address
	for _, want := range []string{"HTTP/2.0", "HTTP/1.1"} {
		tc := hsTLS(tls.VersionTLS13, root.Certificate, b.partner())
		transport := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: want == "HTTP/2.0"}
		t.Cleanup(transport.CloseIdleConnections)
		r := ask(t, &http.Client{Transport: transport}, "https://"+addr)
		require.Equal(t, 421, r.Status, "SNI localhost, Host an address")
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		r = ask(t, &http.Client{Transport: transport}, "https://localhost:"+port)
		require.Equal(t, 200, r.Status, r.Body)
		require.Equal(t, want, r.Proto)
	}
	hsRefused(t, addr, hsTLS(tls.VersionTLS13, root.Certificate, nil))
}
