package proxyproto_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/proxyproto"
)

// The proxies of these tests connect from proxyIP, their clients from others of
// loopback.
const (
	proxyIP = "127.0.0.2"
	domain  = "api.acme.example"
	egress  = "93.184.216.34" // the client's public address, as a header states it
	public  = "93.184.216.1"  // ours
)

// service is a guarded service behind a Listener that trusts proxyIP.
type service struct {
	addr   string // where the proxies connect to
	env    *mtlstest.Env
	roots  *x509.CertPool
	remote chan string // addresses that Accept has returned
}

// watched tells of the connections that a listener accepts.
type watched struct {
	net.Listener
	remote chan string
}

func (w watched) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err == nil {
		select {
		case w.remote <- c.RemoteAddr().String():
		default:
		}
	}
	return c, err
}

func serve(t testing.TB) *service {
	t.Helper()
	s := &service{env: mtlstest.NewEnv(t), remote: make(chan string, 100)}
	guard := s.env.Guard(mtls.Rule{Name: "acme", Domains: []string{domain}})
	server := guard.Server("", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := mtls.FromContext(r.Context())
		io.WriteString(w, "hello "+id.Name())
	}))
	var certFile, keyFile string
	certFile, keyFile, s.roots = certificate(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = inner.Addr().String()
	l, err := proxyproto.NewListener(inner, proxyproto.Config{Trusted: prefixes(proxyIP + "/32"), HeaderTimeout: time.Minute})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.ServeTLS(watched{l, s.remote}, certFile, keyFile) // ErrServerClosed; another error shows in the client
	}()
	t.Cleanup(func() { server.Close(); <-done })
	return s
}

// certificate writes a certificate for "localhost", and returns who trusts it.
func certificate(t mtlstest.TB) (certFile, keyFile string, roots *x509.CertPool) {
	ca, err := testpki.NewRoot(testpki.Options{CommonName: "server CA"})
	if err != nil {
		t.Fatalf("%v", err)
	}
	leaf, err := ca.Issue(testpki.Options{Names: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	cert, key := leaf.PEM()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := errors.Join(os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatalf("%v", err)
	}
	return certFile, keyFile, roots
}

// client presents a certificate of the domain to what dial connects it with.
func (s *service) client(t mtlstest.TB, dial func(context.Context) (net.Conn, error)) *http.Client {
	pair := s.env.CA.Issue(mtlstest.Leaf{Names: []string{domain}}).TLS()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		TLSClientConfig: &tls.Config{RootCAs: s.roots, ServerName: "localhost",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }},
		ForceAttemptHTTP2: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func connect(ctx context.Context, from, to string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return d.DialContext(ctx, "tcp", to)
}

// through is a client that some address connects with a header before its TLS.
func (s *service) through(t mtlstest.TB, from string, header []byte) *http.Client {
	return s.client(t, func(ctx context.Context) (net.Conn, error) {
		c, err := connect(ctx, from, s.addr)
		if err == nil {
			_, err = c.Write(header)
		}
		return c, err
	})
}

// ask returns the status of an answer, and its body or code.
func ask(c *http.Client, headers ...string) (status int, said string, err error) {
	r, err := http.NewRequest("GET", "https://localhost/", nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, "", err
	}
	var problem struct{ Code string }
	if json.Unmarshal(body, &problem) == nil {
		return res.StatusCode, problem.Code, nil
	}
	return res.StatusCode, string(body), nil
}

func TestThreat72_TheGuardJudgesTheAddressOfTheHeader(t *testing.T) {
	s := serve(t)
	client := egress + ":51234"
	for _, c := range []struct {
		name   string
		dns    []string
		header []byte
		status int
		said   string
	}{
		{"the address of the domain, v2", []string{egress}, v2(0x21, 0x11, ends(client, public+":443")), 200, "hello acme"},
		{"the address of the domain, v1", []string{egress}, []byte("PROXY TCP4 " + egress + " " + public + " 51234 443\r\n"), 200, "hello acme"},
		{"the address of the domain, IPv4-mapped", []string{egress}, v2(0x21, 0x21, ends("[::ffff:"+egress+"]:51234", "[::ffff:"+public+"]:443")), 200, "hello acme"},
		{"the address of the domain, IPv6", []string{"2606:2800:220:1::1"}, v2(0x21, 0x21, ends("[2606:2800:220:1::1]:51234", "[2606:2800:220:1::2]:443")), 200, "hello acme"},
		{"another address", []string{egress}, v2(0x21, 0x11, ends("93.184.216.35:51234", public+":443")), 403, "origin_mismatch"},
		{"the proxy's address is the domain's", []string{proxyIP}, v2(0x21, 0x11, ends(client, public+":443")), 403, "origin_mismatch"},
		{"the proxy's address is the header's and the domain's", []string{proxyIP}, v2(0x21, 0x11, ends(proxyIP+":51234", public+":443")), 503, "origin_unknown"},
		{"LOCAL, the proxy's address is the domain's", []string{proxyIP}, v2(0x20, 0x00, nil), 503, "origin_unknown"},
		{"LOCAL with the address of the domain", []string{egress, proxyIP}, v2(0x20, 0x11, ends(client, public+":443")), 503, "origin_unknown"},
		{"UNKNOWN", []string{egress, proxyIP}, []byte("PROXY UNKNOWN " + egress + " " + public + " 51234 443\r\n"), 503, "origin_unknown"},
		{"UNSPEC", []string{egress, proxyIP}, v2(0x21, 0x00, ends(client, public+":443")), 503, "origin_unknown"},
		{"UDP", []string{egress, proxyIP}, v2(0x21, 0x12, ends(client, public+":443")), 503, "origin_unknown"},
		{"a Unix socket", []string{egress, proxyIP}, v2(0x21, 0x31, append([]byte(client), make([]byte, 216-len(client))...)), 503, "origin_unknown"},
		{"port 0", []string{egress}, v2(0x21, 0x11, ends(egress+":0", public+":443")), 503, "origin_unknown"},
		{"no host's address", []string{"0.0.0.0"}, v2(0x21, 0x11, ends("0.0.0.0:51234", public+":443")), 503, "origin_unknown"},
		{"our own public address", []string{public, egress}, v2(0x21, 0x11, ends(public+":51234", public+":443")), 403, "origin_mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.env.DNS.Set(domain, c.dns...)
			s.env.Clock.Advance(time.Hour) // what DNS said before is forgotten
			status, said, err := ask(s.through(t, proxyIP, c.header))
			require.NoError(t, err)
			require.Equal(t, c.status, status, said)
			require.Equal(t, c.said, said)
		})
	}
}

func TestHTTPHeadersStateNoAddress(t *testing.T) {
	s := serve(t)
	s.env.DNS.Set(domain, egress)
	status, said, err := ask(s.through(t, proxyIP, v2(0x21, 0x11, ends("93.184.216.35:51234", public+":443"))),
		"X-Forwarded-For", egress, "X-Real-Ip", egress, "Forwarded", "for="+egress, "Proxy-Protocol", egress)
	require.NoError(t, err)
	require.Equal(t, 403, status)
	require.Equal(t, "origin_mismatch", said)
}

func TestConnectionsPastTheProxyAreClosed(t *testing.T) {
	s := serve(t)
	s.env.DNS.Set(domain, egress, "127.0.0.1", "127.0.0.3", proxyIP)
	good := v2(0x21, 0x11, ends(egress+":51234", public+":443"))
	for _, c := range []struct {
		name, from string
		header     []byte
	}{
		{"without a header", "127.0.0.1", nil},
		{"with a header", "127.0.0.1", good},
		{"with a header, from the proxy's neighbour", "127.0.0.3", good},
		{"without a header, from the proxy", proxyIP, nil},
		{"with half of one", proxyIP, good[:14]},
	} {
		_, _, err := ask(s.through(t, c.from, c.header))
		require.Error(t, err, c.name)
	}
	require.Empty(t, s.remote, "accepted")
	status, _, err := ask(s.through(t, proxyIP, good))
	require.NoError(t, err)
	require.Equal(t, 200, status)
}
