package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestMain keeps the guards' records out of the tests' output; tests that read
// records have a logger of their own.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// hello answers with the identity it sees.
var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	id, ok := mtls.FromContext(r.Context())
	if !ok {
		io.WriteString(w, "nobody")
		return
	}
	io.WriteString(w, id.Name()+" "+id.Domain())
})

// reply is what a client sees of an answer.
type reply struct {
	Status int
	Body   string
	Code   string
	Header http.Header
	Proto  string
}

func ask(t *testing.T, c *http.Client, url string) reply {
	t.Helper()
	r, err := get(c, url)
	require.NoError(t, err)
	return r
}

func get(c *http.Client, url string) (reply, error) {
	res, err := c.Get(url)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{}, err
	}
	out := reply{Status: res.StatusCode, Body: string(body), Header: res.Header, Proto: res.Proto}
	var p struct{ Code string }
	if res.Header.Get("Content-Type") == "application/problem+json" && json.Unmarshal(body, &p) == nil {
		out.Code = p.Code
	}
	return out, nil
}

func TestAllowed(t *testing.T) {
	env := mtlstest.NewEnv(t)
	env.DNS.Set("api.acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}})
	s := mtlstest.NewServer(t, g, hello)
	c := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}}), mtlstest.ClientOptions{})
	r := ask(t, c, s.URL)
	require.Equal(t, 200, r.Status, r.Body)
	require.Equal(t, "acme api.acme.example", r.Body)
	require.Equal(t, "HTTP/2.0", r.Proto)
}

// indexCode returns the code of a problem document, or "".
func indexCode(body string) string {
	var p struct{ Code string }
	if json.Unmarshal([]byte(body), &p) != nil {
		return ""
	}
	return p.Code
}

// peerOf is a peer whose handshake is complete.
func peerOf(c *mtlstest.Certificate) mtls.Peer {
	p := mtls.Peer{TLS: tls.ConnectionState{HandshakeComplete: true}}
	for _, der := range c.TLS().Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		p.TLS.PeerCertificates = append(p.TLS.PeerCertificates, cert)
	}
	return p
}
