package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// observer collects decisions.
type observer struct {
	mu   sync.Mutex
	list []*mtls.Decision
}

func (o *observer) observe(_ context.Context, d *mtls.Decision) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, d)
}

func (o *observer) last() *mtls.Decision {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) == 0 {
		return &mtls.Decision{}
	}
	return o.list[len(o.list)-1]
}

func (o *observer) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.list)
}

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type wire struct {
	name  string
	http1 bool
	tls   uint16
	chi   bool
}

// wires are the ways in which a request reaches a guarded handler: all of them.
func wires() (list []wire) {
	for _, http1 := range []bool{false, true} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, chi := range []bool{false, true} {
				name := fmt.Sprintf("HTTP/1.1 %v, %s, chi %v", http1, tls.VersionName(version), chi)
				list = append(list, wire{name, http1, version, chi})
			}
		}
	}
	return list
}

func (w wire) options(from string) mtlstest.ClientOptions {
	return mtlstest.ClientOptions{HTTP1: w.http1, From: from, TLS: func(c *tls.Config) { c.MinVersion, c.MaxVersion = w.tls, w.tls }}
}

// routes is a small API: a public route, one for every client, one for payers.
func (w wire) routes(g *mtls.Guard) http.Handler {
	public := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "public") })
	if w.chi {
		r := chi.NewRouter()
		//lint:ignore SA1019 it is what must not matter
		r.Use(middleware.RealIP)
		r.Get("/public", public)
		r.Group(func(r chi.Router) {
			r.Use(g.Require())
			r.Get("/hello", hello)
			r.With(g.Require("payments", "refunds")).Get("/payments", hello)
		})
		return r
	}
	mux := http.NewServeMux()
	mux.Handle("/public", public)
	mux.Handle("/hello", g.Handler(hello))
	mux.Handle("/payments", g.Require("payments", "refunds")(hello))
	return mux
}

// mapper maps the accounts that the answers need.
type mapper struct{}

func (mapper) MapAccount(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
	switch id.Rule() {
	case "unmapped":
		return mtls.Account{}, mtls.ErrNoAccount
	case "nameless":
		return mtls.Account{}, nil
	case "disabled":
		return mtls.Account{Name: "disabled", Disabled: true}, nil
	case "directory-down":
		return mtls.Account{}, errors.New("connection refused")
	}
	return mtls.Account{Name: id.Name(), Groups: []string{"partners"}}, nil
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})
	names := []string{"ok", "payer", "expired", "early", "server-only", "revoked-crl", "revoked-ocsp", "no-source", "elsewhere",
		"dns-down", "denied", "unmapped", "nameless", "disabled", "directory-down", "condition"}
	var rules []mtls.Rule
	for _, n := range names {
		env.DNS.Set(n+".example", "127.0.0.1")
		rules = append(rules, mtls.Rule{Name: n, Domains: []string{n + ".example"}, Deny: n == "denied"})
	}
	rules[1].Roles = []string{"payments"}
	env.DNS.Set("elsewhere.example", "127.0.0.9", "203.0.113.7")
	env.DNS.Fail("dns-down.example", mtlstest.DNSServFail)

	seen, records := &observer{}, &logBuffer{}
	cfg := env.Config(rules...)
	cfg.Accounts = mapper{}
	cfg.Observe = seen.observe
	cfg.Logger = slog.New(slog.NewTextHandler(records, nil))
	cfg.Verify = func(_ context.Context, id *mtls.Identity) error {
		if id.Rule() == "condition" {
			return errors.New("outside office hours")
		}
		return nil
	}
	g := mtlstest.NewGuard(t, cfg)

	issue := func(n string) *mtlstest.Certificate {
		return env.CA.Issue(mtlstest.Leaf{Names: []string{n + ".example"}})
	}
	crlOnly := env.CA.Issue(mtlstest.Leaf{Names: []string{"revoked-crl.example"}, Sources: mtlstest.OnlyCRL})
	ocspOnly := env.CA.Issue(mtlstest.Leaf{Names: []string{"revoked-ocsp.example"}, Sources: mtlstest.OnlyOCSP})
	env.Revocation.Revoke(crlOnly, 1)
	env.Revocation.Revoke(ocspOnly, 4)
	now := env.Clock.Now()
	expired := env.CA.Issue(mtlstest.Leaf{Names: []string{"expired.example"}, NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(-time.Hour)})
	early := env.CA.Issue(mtlstest.Leaf{Names: []string{"early.example"}, NotBefore: now.Add(time.Hour)})
	serverOnly := env.CA.Issue(mtlstest.Leaf{Names: []string{"server-only.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	noSource := env.CA.Issue(mtlstest.Leaf{Names: []string{"no-source.example"}, Sources: mtlstest.NoSources})
	odd := env.CA.Issue(mtlstest.Leaf{Names: []string{"10.0.0.1"}})

	rows := []struct {
		name   string
		cert   *mtlstest.Certificate
		path   string
		host   string
		from   string
		status int
		reason mtls.Reason
		code   string // empty: the reason
		iis    string
		close  bool
	}{
		{name: "public route, no certificate", path: "/public", status: 200},
		{name: "allowed", cert: issue("ok"), status: 200},
		{name: "allowed with a role", cert: issue("payer"), path: "/payments", status: 200},
		{name: "no certificate", status: 403, reason: mtls.ReasonNoCertificate, iis: "403.7", close: true},
		{name: "malformed", cert: odd, status: 403, reason: mtls.ReasonMalformedCertificate, iis: "403.16", close: true},
		{name: "untrusted", cert: stranger.Issue(mtlstest.Leaf{Names: []string{"ok.example"}}), status: 403, reason: mtls.ReasonUntrustedIssuer, iis: "403.16", close: true},
		{name: "key usage", cert: serverOnly, status: 403, reason: mtls.ReasonKeyUsage, iis: "403.16", close: true},
		{name: "expired", cert: expired, status: 403, reason: mtls.ReasonExpired, iis: "403.17", close: true},
		{name: "not yet valid", cert: early, status: 403, reason: mtls.ReasonNotYetValid, iis: "403.17", close: true},
		{name: "revoked by CRL", cert: crlOnly, status: 403, reason: mtls.ReasonRevoked, iis: "403.13", close: true},
		{name: "revoked by OCSP", cert: ocspOnly, status: 403, reason: mtls.ReasonRevoked, iis: "403.13", close: true},
		{name: "no source", cert: noSource, status: 403, reason: mtls.ReasonRevocationSourceMissing, iis: "403.13", close: true},
		{name: "not on the list", cert: issue("nobody"), status: 403, reason: mtls.ReasonNotAllowed, iis: "403.12", close: true},
		{name: "denied", cert: issue("denied"), status: 403, reason: mtls.ReasonDeniedByRule, code: "not_allowed", iis: "403.12", close: true},
		{name: "role missing", cert: issue("ok"), path: "/payments", status: 403, reason: mtls.ReasonRoleMissing, iis: "403.12"},
		{name: "unmapped", cert: issue("unmapped"), status: 403, reason: mtls.ReasonAccountUnmapped, code: "not_allowed", iis: "403.12", close: true},
		{name: "nameless", cert: issue("nameless"), status: 403, reason: mtls.ReasonAccountUnmapped, code: "not_allowed", iis: "403.12", close: true},
		{name: "disabled", cert: issue("disabled"), status: 403, reason: mtls.ReasonAccountDisabled, code: "not_allowed", iis: "403.12", close: true},
		{name: "directory down", cert: issue("directory-down"), status: 503, reason: mtls.ReasonAccountUnknown},
		{name: "condition", cert: issue("condition"), status: 403, reason: mtls.ReasonConditionFailed, code: "not_allowed", iis: "403.12", close: true},
		{name: "origin mismatch", cert: issue("elsewhere"), status: 403, reason: mtls.ReasonOriginMismatch, close: true},
		{name: "origin mismatch from another address", cert: issue("ok"), from: "127.0.0.2", status: 403, reason: mtls.ReasonOriginMismatch, close: true},
		{name: "origin unknown", cert: issue("dns-down"), status: 503, reason: mtls.ReasonOriginUnknown},
		{name: "misdirected", cert: issue("ok"), host: "admin.internal", status: 421, reason: mtls.ReasonMisdirected},
	}
	for _, w := range wires() {
		s := mtlstest.NewOptionalServer(t, g, w.routes(g))
		for _, row := range rows {
			t.Run(w.name+"/"+row.name, func(t *testing.T) {
				client := s.Client(row.cert, w.options(row.from))
				path := row.path
				if path == "" {
					path = "/hello"
				}
				req, err := http.NewRequest("GET", s.URL+path, nil)
				require.NoError(t, err)
				// None of these may matter.
				req.Header.Set("X-Forwarded-For", "203.0.113.7")
				req.Header.Set("X-Real-IP", "203.0.113.7")
				req.Header.Set("Client-Cert", ":bm90aGluZw==:")
				if row.host != "" {
					req.Host = row.host
				}
				before := seen.count()
				res, err := client.Do(req)
				require.NoError(t, err)
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.Equal(t, row.status, res.StatusCode, string(body))
				require.Equal(t, w.http1, res.ProtoMajor == 1)
				require.Equal(t, w.tls, res.TLS.Version)
				if row.reason == "" {
					return
				}
				require.Greater(t, seen.count(), before, "a refusal must be observed")
				d := seen.last()
				require.Equal(t, row.reason, d.Reason, d.Detail())
				require.False(t, d.Admitted)
				require.Nil(t, d.Identity)
				require.Equal(t, row.iis, d.Reason.IIS())
				requireProblem(t, res, body, row.status, orElse(row.code, string(row.reason)), d.ID)
				if w.http1 {
					require.Equal(t, row.close, res.Close, "Connection: close")
				}
				require.Equal(t, row.status == 503, res.Header.Get("Retry-After") != "")
				if row.status == 503 {
					seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
					require.NoError(t, err)
					require.Positive(t, seconds)
				}
				// One record has all that the operator needs, and the client none of it.
				line := lineWith(records.String(), d.ID)
				for _, want := range []string{"reason=" + string(row.reason), "advice=", "detail="} {
					require.Contains(t, line, want)
				}
				for _, secret := range []string{"rule", "http://127", "127.0.0.9", "office"} {
					require.NotContains(t, string(body), secret)
				}
			})
		}
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func lineWith(text, part string) string {
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

func requireProblem(t *testing.T, res *http.Response, body []byte, status int, code, id string) {
	t.Helper()
	require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	var p map[string]any
	require.NoError(t, json.Unmarshal(body, &p), string(body))
	require.EqualValues(t, status, p["status"])
	require.Equal(t, code, p["code"])
	require.Equal(t, "about:blank", p["type"])
	require.Equal(t, http.StatusText(status), p["title"])
	require.Equal(t, "urn:uuid:"+id, p["instance"])
	require.Len(t, p, 6)
}

func TestRefusalClosesHTTP2ConnectionsToo(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	s := mtlstest.NewOptionalServer(t, g, g.Handler(hello))
	client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}}), mtlstest.ClientOptions{})
	first, reused := trace(t, client, s.URL)
	require.Equal(t, 403, first.Status)
	require.False(t, reused)
	second, reused := trace(t, client, s.URL)
	require.Equal(t, 403, second.Status)
	require.False(t, reused, "the first refusal must have ended the connection")
}

func TestCustomDeny(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cfg.Deny = func(w http.ResponseWriter, _ *http.Request, e *mtls.DeniedError) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, e.Reason.IIS()+" "+e.ID)
	}
	g := mtlstest.NewGuard(t, cfg)
	s := mtlstest.NewOptionalServer(t, g, g.Handler(hello))
	res, err := s.Client(nil, mtlstest.ClientOptions{HTTP1: true}).Get(s.URL)
	require.NoError(t, err)
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	require.Equal(t, 401, res.StatusCode)
	require.True(t, res.Close)
	require.True(t, strings.HasPrefix(string(body), "403.7 "), string(body))
}

func TestHTTPWithoutTLSIsRefused(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	url := plainServer(t, g.Handler(hello))
	r := ask(t, http.DefaultClient, url)
	require.Equal(t, 403, r.Status)
	require.Equal(t, "no_certificate", r.Code)
}

func TestThreat71_HeadersAreNeverRead(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "203.0.113.7")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	//lint:ignore SA1019 it is what must not matter
	s := mtlstest.NewOptionalServer(t, g, middleware.RealIP(g.Handler(hello)))
	certPEM := "-----BEGIN CERTIFICATE-----"
	good := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	for _, header := range []string{"Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "X_SSL_CLIENT_CERT", "X-Client-Verify"} {
		req, err := http.NewRequest("GET", s.URL, nil)
		require.NoError(t, err)
		req.Header[header] = []string{certPEM + "acme.example"}
		res, err := s.Client(nil, mtlstest.ClientOptions{}).Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 403, res.StatusCode, header)
	}
	for _, header := range []string{"X-Forwarded-For", "X-Real-IP", "True-Client-IP", "Forwarded"} {
		req, err := http.NewRequest("GET", s.URL, nil)
		require.NoError(t, err)
		req.Header.Set(header, "203.0.113.7")
		res, err := s.Client(good, mtlstest.ClientOptions{}).Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, 403, res.StatusCode, "%s must not change the origin, even after chi's RealIP", header)
	}
}
