package mtlstest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// A Server is an HTTPS server on loopback, which ends with the test. Its own
// certificate is for "localhost".
type Server struct {
	URL  string // https://localhost:port
	Addr string // 127.0.0.1:port
	CA   *x509.Certificate

	t TB
}

// NewServer starts Guard.Server with the handler.
func NewServer(t TB, g *mtls.Guard, h http.Handler) *Server {
	t.Helper()
	return Serve(t, g.Server("", h))
}

// NewOptionalServer starts Guard.OptionalServer with the handler.
func NewOptionalServer(t TB, g *mtls.Guard, h http.Handler) *Server {
	t.Helper()
	return Serve(t, g.OptionalServer("", h))
}

// Serve starts any http.Server that has a TLSConfig, with a certificate for
// "localhost" if the TLSConfig has none.
func Serve(t TB, s *http.Server) *Server {
	t.Helper()
	ca, cert, err := serverCertificate()
	if err != nil {
		t.Fatalf("mtlstest: Serve: %v", err)
		return nil
	}
	dir := t.TempDir()
	certPEM, keyPEM := cert.PEM()
	certFile, keyFile := writeFile(t, dir+"/server.pem", certPEM), writeFile(t, dir+"/server-key.pem", keyPEM)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("mtlstest: Serve: %v", err)
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// ErrServerClosed is how it ends; another error shows in the client.
		_ = s.ServeTLS(l, certFile, keyFile)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	return &Server{URL: "https://localhost:" + port, Addr: l.Addr().String(), CA: ca.Certificate, t: t}
}

func serverCertificate() (*testpki.CA, *testpki.Leaf, error) {
	before, after := time.Now().AddDate(-1, 0, 0), time.Now().AddDate(10, 0, 0)
	ca, err := testpki.NewRoot(testpki.Options{CommonName: "mtlstest server CA", NotBefore: before, NotAfter: after})
	if err != nil {
		return nil, nil, err
	}
	leaf, err := ca.Issue(testpki.Options{Names: []string{"localhost"}, NotBefore: before, NotAfter: after,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		Template:    func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} }})
	return ca, leaf, err
}

// ClientOptions change a client. The zero value is HTTP/2 over TLS 1.3 from
// 127.0.0.1.
type ClientOptions struct {
	From  string            // source address; empty: 127.0.0.1
	HTTP1 bool              // HTTP/1.1 only
	TLS   func(*tls.Config) // has the last word on the TLS configuration
}

// Client returns a client of the server that presents the certificate, or none
// if it is nil. It trusts the server, keeps its connections until the test ends
// and follows no redirects.
func (s *Server) Client(cert *Certificate, o ClientOptions) *http.Client {
	s.t.Helper()
	conf := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	conf.RootCAs.AddCert(s.CA)
	if cert != nil {
		pair := cert.TLS()
		// Present it whatever CAs the server hints at.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	if o.TLS != nil {
		o.TLS(conf)
	}
	from := o.From
	if from == "" {
		from = "127.0.0.1"
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{
		TLSClientConfig:   conf,
		ForceAttemptHTTP2: !o.HTTP1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", s.Addr)
		},
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
