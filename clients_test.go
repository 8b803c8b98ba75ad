package mtls_test

import (
	"context"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// real returns the path of a program. Without it the test is skipped, or fails
// where MTLS_REQUIRE_REAL=1 says that it must be there.
func real(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
		require.Failf(t, "a real client is missing", "%s: install Debian package %s", program, program)
	}
	t.Skipf("%s is not installed: Debian package %s", program, program)
	return ""
}

// hsRun runs a program, which ends with the test at the latest.
func hsRun(t *testing.T, stdin, path string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*hsWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	var out, problems strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &problems
	err = cmd.Run()
	require.NoError(t, ctx.Err(), "%s did not end", path)
	return out.String(), problems.String(), err
}

// hsFiles are the PEM files of a client.
type hsFiles struct{ ca, cert, key string }

func hsWrite(t *testing.T, s *mtlstest.Server, cert *mtlstest.Certificate) hsFiles {
	t.Helper()
	dir := t.TempDir()
	f := hsFiles{ca: filepath.Join(dir, "server-ca.pem")}
	require.NoError(t, os.WriteFile(f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.CA.Raw}), 0o600))
	if cert != nil {
		f.cert, f.key = cert.Write(dir, "client")
	}
	return f
}

// hsCurl asks a server and returns the answer; err is curl's exit.
func hsCurl(t *testing.T, s *mtlstest.Server, cert *mtlstest.Certificate, path string, args ...string) (r reply, stderr string, err error) {
	t.Helper()
	f := hsWrite(t, s, cert)
	header := filepath.Join(t.TempDir(), "header")
	all := []string{"--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "15", "--cacert", f.ca,
		"--resolve", strings.TrimPrefix(s.URL, "https://") + ":127.0.0.1", "--dump-header", header, "--write-out", "\n%{http_code} %{http_version}"}
	if cert != nil {
		all = append(all, "--cert", f.cert, "--key", f.key)
	}
	all = append(append(all, args...), s.URL+path)
	out, stderr, err := hsRun(t, "", real(t, "curl"), all...)
	i := strings.LastIndexByte(out, '\n')
	require.GreaterOrEqual(t, i, 0, "%s", out)
	code, version, _ := strings.Cut(out[i+1:], " ")
	r = reply{Body: out[:i], Proto: version, Header: http.Header{}}
	r.Status, _ = strconv.Atoi(code) // 000 where there was no answer
	raw, readErr := os.ReadFile(header)
	if readErr == nil {
		for line := range strings.Lines(string(raw)) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				r.Header.Add(name, strings.TrimSpace(value))
			}
		}
	}
	return r, stderr, err
}

// hsAPI is an API with a public route and one for partners.
func hsAPI(g *mtls.Guard) http.Handler {
	r := chi.NewRouter()
	r.Get("/public", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("public")) })
	r.With(g.Require("payments")).Get("/payments", hello)
	r.With(g.Require("admin")).Get("/admin", hello)
	return r
}

func TestCurl(t *testing.T) {
	t.Parallel()
	real(t, "curl")
	type curl struct {
		cert func(*hsBench) *mtlstest.Certificate
		args []string
		path string
		// optional and strict are what the two servers answer; 0 is an alert.
		optional, strict int
		code             string
	}
	partner := (*hsBench).partner
	none := func(*hsBench) *mtlstest.Certificate { return nil }
	for name, c := range map[string]curl{
		"allowed":             {partner, nil, "/payments", 200, 200, ""},
		"allowed, role lacks": {partner, nil, "/admin", 403, 403, "role_missing"},
		"public route":        {none, nil, "/public", 200, 0, ""},
		"no certificate":      {none, nil, "/payments", 403, 0, "no_certificate"},
		"not listed": {func(b *hsBench) *mtlstest.Certificate {
			return b.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}})
		}, nil, "/payments", 403, 0, "not_allowed"},
		"revoked": {func(b *hsBench) *mtlstest.Certificate {
			cert := b.partner()
			b.Revocation.Revoke(cert, 1)
			return cert
		}, nil, "/payments", 403, 403, "revoked"},
		"wrong address": {partner, []string{"--interface", "127.0.0.2"}, "/payments", 403, 403, "origin_mismatch"},
		"no evidence": {func(b *hsBench) *mtlstest.Certificate {
			b.Revocation.Fail(mtlstest.Down)
			return b.partner()
		}, nil, "/payments", 503, 503, "revocation_unknown"},
		"another Host": {partner, []string{"--header", "Host: admin.internal"}, "/payments", 421, 421, "misdirected"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for variant, args := range map[string][]string{
				"h1, TLS 1.2": {"--http1.1", "--tlsv1.2", "--tls-max", "1.2"}, "h1, TLS 1.3": {"--http1.1", "--tlsv1.3"},
				"h2, TLS 1.2": {"--http2", "--tlsv1.2", "--tls-max", "1.2"}, "h2, TLS 1.3": {"--http2", "--tlsv1.3"},
			} {
				t.Run(variant, func(t *testing.T) {
					for mode, want := range map[string]int{"optional": c.optional, "strict": c.strict} {
						b := hsNew(t)
						require.NoError(t, b.cfg.Policy.Replace(mtls.Rule{Name: "acme", Domains: []string{hsName}, Roles: []string{"payments"}}))
						g := mtlstest.NewGuard(t, b.cfg)
						server := g.OptionalServer("", hsAPI(g))
						if mode == "strict" {
							server = g.Server("", hsAPI(g))
						}
						s := mtlstest.Serve(t, server)
						r, stderr, err := hsCurl(t, s, c.cert(b), c.path, append(args, c.args...)...)
						require.Equal(t, want, r.Status, "%s: %s %s", mode, r.Body, stderr)
						if want == 0 {
							require.Error(t, err)
							require.Empty(t, strings.TrimSpace(r.Body))
							continue
						}
						require.NoError(t, err, stderr)
						if strings.HasPrefix(variant, "h2") {
							require.Equal(t, "2", r.Proto)
						} else {
							require.Equal(t, "1.1", r.Proto)
						}
						switch {
						case want == 200 && c.path == "/payments":
							require.Equal(t, "acme "+hsName, r.Body)
						case want != 200:
							require.Contains(t, r.Body, `"code":"`+c.code+`"`)
						}
						retry, _ := strconv.Atoi(r.Header.Get("Retry-After"))
						require.Equal(t, want == 503, retry > 0, "Retry-After: %q", r.Header.Get("Retry-After"))
					}
				})
			}
		})
	}
}

// hsOpenSSL speaks one request over openssl s_client.
func hsOpenSSL(t *testing.T, s *mtlstest.Server, f hsFiles, args ...string) (out, stderr string) {
	t.Helper()
	all := []string{"s_client", "-connect", s.Addr, "-servername", "localhost", "-CAfile", f.ca, "-verify_return_error", "-ign_eof"}
	if f.cert != "" {
		all = append(all, "-cert", f.cert, "-key", f.key)
	}
	out, stderr, _ = hsRun(t, hsGet, real(t, "openssl"), append(all, args...)...) // its exit tells nothing: see the output
	return out, stderr
}

func TestOpenSSL(t *testing.T) {
	t.Parallel()
	real(t, "openssl")
	for name, version := range map[string]string{"TLS 1.2": "-tls1_2", "TLS 1.3": "-tls1_3"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := hsNew(t)
			b.cfg.SessionLifetime = time.Hour
			g := mtlstest.NewGuard(t, b.cfg)
			s := mtlstest.NewServer(t, g, hello)
			f := hsWrite(t, s, b.partner())
			session := filepath.Join(t.TempDir(), "session.pem")

			out, stderr := hsOpenSSL(t, s, f, version, "-sess_out", session)
			require.Contains(t, out, "acme "+hsName, stderr)
			require.Contains(t, out, "New, ")
			require.FileExists(t, session)

			resume := func() (out, stderr string) { return hsOpenSSL(t, s, f, version, "-sess_in", session) }
			out, stderr = resume()
			require.Contains(t, out, "Reused, ", stderr)
			require.Contains(t, out, "acme "+hsName, stderr)

			b.drain()
			require.NoError(t, b.cfg.Policy.Replace(mtls.Rule{Name: "other", Domains: []string{"other.example"}}))
			out, stderr = resume()
			require.NotContains(t, out, "acme")
			require.NotContains(t, out, "HTTP/1.1")
			require.Contains(t, stderr, "alert bad certificate")
			d := b.next(t)
			require.Equal(t, mtls.ReasonNotAllowed, d.Reason)
			require.True(t, d.Handshake)

			require.NoError(t, b.cfg.Policy.Replace(mtls.Rule{Name: "acme", Domains: []string{hsName}}))
			b.Clock.Advance(61 * time.Minute)
			out, stderr = resume()
			require.Contains(t, out, "New, ", "older than the lifetime: %s", stderr)
			require.Contains(t, out, "acme "+hsName, stderr)

			out, stderr = hsOpenSSL(t, s, hsFiles{ca: f.ca}, version)
			require.NotContains(t, out, "HTTP/1.1")
			require.Contains(t, stderr, "alert")
		})
	}
}

// Tickets off, as by default: openssl finds nothing to resume.
func TestOpenSSLGetsNoSessionByDefault(t *testing.T) {
	t.Parallel()
	real(t, "openssl")
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		b := hsNew(t)
		s := mtlstest.NewServer(t, mtlstest.NewGuard(t, b.cfg), hello)
		out, stderr := hsOpenSSL(t, s, hsWrite(t, s, b.partner()), version, "-reconnect")
		require.Contains(t, out, "acme "+hsName, stderr)
		require.NotContains(t, out, "Reused, ")
		require.NotContains(t, out, "TLS session ticket:")
	}
}
