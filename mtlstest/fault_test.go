package mtlstest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// soon is how long a test watches something that is to stay silent.
const soon = 50 * time.Millisecond

// sourceOf is a revocation server over real sockets, seen by an asker that
// verifies with other people's code.
type sourceOf struct {
	*mtlstest.Env
	t      *testing.T
	cert   *mtlstest.Certificate
	client *http.Client
}

func newSource(t *testing.T) *sourceOf {
	t.Helper()
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	env := mtlstest.NewEnv(t)
	return &sourceOf{env, t, env.CA.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}}), &http.Client{Transport: transport}}
}

func (s *sourceOf) urls() (crl, responder string) {
	c := s.cert.Leaf()
	return c.CRLDistributionPoints[0], c.OCSPServer[0]
}

// get reads all; header has names and values in turn.
func (s *sourceOf) get(url string, header ...string) (*http.Response, []byte) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, url, nil)
	require.NoError(s.t, err)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return s.do(r)
}

func (s *sourceOf) do(r *http.Request) (*http.Response, []byte) {
	s.t.Helper()
	res, err := s.client.Do(r)
	require.NoError(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	return res, body
}

func (s *sourceOf) list() *x509.RevocationList {
	s.t.Helper()
	url, _ := s.urls()
	res, body := s.get(url)
	require.Equal(s.t, http.StatusOK, res.StatusCode, "%s", body)
	list, err := x509.ParseRevocationList(body)
	require.NoError(s.t, err)
	return list
}

// current requires of a list or response what makes it count at all.
func (s *sourceOf) current(this, next time.Time) {
	s.t.Helper()
	require.False(s.t, this.After(s.Clock.Now()))
	require.True(s.t, next.After(s.Clock.Now()))
}

func lists(l *x509.RevocationList, c *mtlstest.Certificate) bool {
	for _, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(c.Leaf().SerialNumber) == 0 {
			return true
		}
	}
	return false
}

// silent asks with a deadline, and requires that it passes before the answer is
// complete.
func (s *sourceOf) silent(url string) (received []byte) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), soon)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(s.t, err)
	res, err := s.client.Do(r)
	if err == nil {
		defer res.Body.Close()
		require.Equal(s.t, http.StatusOK, res.StatusCode)
		received, err = io.ReadAll(res.Body)
	}
	require.ErrorIs(s.t, err, context.DeadlineExceeded)
	return received
}

// drips asks a source that sends one octet, and then nothing for a while.
func (s *sourceOf) drips(url string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(s.t, err)
	res, err := s.client.Do(r)
	require.NoError(s.t, err)
	defer res.Body.Close()
	require.Equal(s.t, http.StatusOK, res.StatusCode)
	_, err = io.ReadFull(res.Body, make([]byte, 1))
	require.NoError(s.t, err)
	time.AfterFunc(soon, cancel)
	rest, err := io.ReadAll(res.Body)
	require.ErrorIs(s.t, err, context.Canceled)
	require.Empty(s.t, rest)
}

// Faults of the transport are the same for both protocols.
func TestFaultsOfTheTransport(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]struct {
		fault mtlstest.Fault
		holds func(t *testing.T, s *sourceOf, url string)
	}{
		"Hang": {mtlstest.Hang, func(t *testing.T, s *sourceOf, url string) { require.Empty(t, s.silent(url)) }},
		"Drip": {mtlstest.Drip, func(t *testing.T, s *sourceOf, url string) { s.drips(url) }},
		"SlowHeaders": {mtlstest.SlowHeaders, func(t *testing.T, s *sourceOf, url string) {
			host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
			conn, err := net.Dial("tcp", host)
			require.NoError(t, err)
			defer conn.Close()
			_, err = io.WriteString(conn, "GET /"+path+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
			require.NoError(t, err)
			var line [17]byte
			_, err = io.ReadFull(conn, line[:])
			require.NoError(t, err)
			require.Equal(t, "HTTP/1.1 200 OK\r\n", string(line[:]))
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(soon)))
			rest, err := io.ReadAll(conn)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the server neither ends nor answers")
			require.NotContains(t, string(rest), "\r\n\r\n")
			require.Empty(t, s.silent(url))
		}},
		"GzipBomb": {mtlstest.GzipBomb, func(t *testing.T, s *sourceOf, url string) {
			res, body := s.get(url, "Accept-Encoding", "identity")
			require.Equal(t, http.StatusOK, res.StatusCode)
			require.Equal(t, "gzip", res.Header.Get("Content-Encoding"), "whatever was asked for")
			require.Less(t, len(body), 1<<20)
			z, err := gzip.NewReader(bytes.NewReader(body))
			require.NoError(t, err)
			n, err := io.Copy(io.Discard, z)
			require.NoError(t, err)
			require.Greater(t, n, int64(200<<20))
		}},
		"HugeLength": {mtlstest.HugeLength, func(t *testing.T, s *sourceOf, url string) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			require.NoError(t, err)
			res, err := s.client.Do(r)
			require.NoError(t, err)
			defer res.Body.Close()
			require.Equal(t, int64(1<<30), res.ContentLength)
			body, err := io.ReadAll(res.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Len(t, body, 1)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.Revocation.Fail(check.fault)
			crl, _ := s.urls()
			check.holds(t, s, crl)
			check.holds(t, s, s.responder(nil, crypto.SHA1))
		})
	}
}

// A server ends although somebody is waiting for it.
func TestSilentFaultsEndWithTheServer(t *testing.T) {
	t.Parallel()
	for _, f := range []mtlstest.Fault{mtlstest.Hang, mtlstest.Drip, mtlstest.SlowHeaders} {
		ended := make(chan error, 1)
		require.NoError(t, mtlstest.Run(func(tb mtlstest.TB) {
			env := mtlstest.NewEnv(tb)
			env.Revocation.Fail(f)
			url := env.CA.Issue(mtlstest.Leaf{}).Leaf().CRLDistributionPoints[0]
			go func() {
				res, err := http.Post(url, "application/octet-stream", strings.NewReader("body"))
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				ended <- err
			}()
			require.Eventually(t, func() bool { crl, _ := env.Revocation.Requests(); return crl == 1 }, time.Minute, time.Millisecond)
		}))
		require.Error(t, <-ended)
	}
}

func TestFaultsOfACRL(t *testing.T) {
	t.Parallel()
	var oidScope, oidKey = asn1.ObjectIdentifier{2, 5, 29, 28}, asn1.ObjectIdentifier{2, 5, 29, 35}
	value := func(l *x509.RevocationList, oid asn1.ObjectIdentifier, critical bool) string {
		for _, e := range l.Extensions {
			if e.Id.Equal(oid) && e.Critical == critical {
				return string(e.Value)
			}
		}
		return ""
	}
	for name, check := range map[string]struct {
		fault  mtlstest.Fault
		signed bool // by the CA
		listed bool
		holds  func(t *testing.T, s *sourceOf, l, proper *x509.RevocationList)
	}{
		"NoFault": {mtlstest.NoFault, true, true, func(t *testing.T, _ *sourceOf, l, _ *x509.RevocationList) {
			require.Empty(t, value(l, oidScope, true))
		}},
		"WrongSigner": {mtlstest.WrongSigner, false, true, func(t *testing.T, _ *sourceOf, l, proper *x509.RevocationList) {
			require.Equal(t, proper.RawIssuer, l.RawIssuer)
			require.Equal(t, value(proper, oidKey, false), value(l, oidKey, false))
		}},
		"WrongUsage": {mtlstest.WrongUsage, false, true, func(t *testing.T, _ *sourceOf, l, proper *x509.RevocationList) {
			require.Equal(t, proper.RawIssuer, l.RawIssuer)
			require.NotEqual(t, proper.AuthorityKeyId, l.AuthorityKeyId, "it says which key it was")
		}},
		"OtherIssuer": {mtlstest.OtherIssuer, false, false, func(t *testing.T, _ *sourceOf, l, proper *x509.RevocationList) {
			require.NotEqual(t, proper.RawIssuer, l.RawIssuer)
		}},
		"WrongShard": {mtlstest.WrongShard, true, false, func(t *testing.T, s *sourceOf, l, proper *x509.RevocationList) {
			require.Contains(t, value(l, oidScope, true), "http://")
			require.NotContains(t, value(l, oidScope, true), s.cert.Leaf().CRLDistributionPoints[0])
			require.Positive(t, l.Number.Cmp(proper.Number), "nothing but its scope tells it from a newer list")
		}},
		"Older": {mtlstest.Older, true, false, func(t *testing.T, s *sourceOf, l, proper *x509.RevocationList) {
			require.True(t, l.ThisUpdate.Equal(s.Clock.Now().Add(-time.Hour)))
			require.Negative(t, l.Number.Cmp(proper.Number))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.Revocation.Revoke(s.cert, 1)
			proper := s.list()
			require.True(t, lists(proper, s.cert))
			s.Revocation.FailCRL(check.fault)
			l := s.list()
			s.current(l.ThisUpdate, l.NextUpdate)
			require.Equal(t, check.signed, l.CheckSignatureFrom(s.CA.Certificate()) == nil)
			require.Equal(t, check.listed, lists(l, s.cert))
			check.holds(t, s, l, proper)
		})
	}
}

// What was known an hour ago is known in a replay.
func TestOlderForgetsOnlyTheLastHour(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.Revocation.Revoke(s.cert, 1)
	s.Clock.Advance(2 * time.Hour)
	young := s.CA.Issue(mtlstest.Leaf{})
	s.Revocation.Revoke(young, 1)
	s.Revocation.Fail(mtlstest.Older)
	l := s.list()
	require.True(t, lists(l, s.cert))
	require.False(t, lists(l, young))
	require.Equal(t, ocsp.Revoked, s.ask(nil, crypto.SHA1).Status)
	s.cert = young
	require.Equal(t, ocsp.Good, s.ask(nil, crypto.SHA1).Status)
	s.Revocation.Fail(mtlstest.NoFault)
	require.Equal(t, ocsp.Revoked, s.ask(nil, crypto.SHA1).Status)
	require.True(t, lists(s.list(), young))
}

func TestCRLIsNotModified(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	url, _ := s.urls()
	fetch := func(header ...string) (status int, etag, modified string) {
		t.Helper()
		res, body := s.get(url, header...)
		require.Equal(t, res.StatusCode == http.StatusNotModified, len(body) == 0)
		require.Regexp(t, `^"[0-9a-f]{64}"$`, res.Header.Get("ETag"), "a strong one")
		return res.StatusCode, res.Header.Get("ETag"), res.Header.Get("Last-Modified")
	}
	_, etag, modified := fetch()
	require.NotEmpty(t, modified)
	number := s.list().Number
	for _, header := range [][]string{{"If-None-Match", etag}, {"If-Modified-Since", modified}, {"If-None-Match", etag, "If-Modified-Since", modified}} {
		status, again, _ := fetch(header...)
		require.Equal(t, http.StatusNotModified, status)
		require.Equal(t, etag, again)
	}
	require.Equal(t, 3, s.Revocation.NotModified())
	status, _, _ := fetch("If-None-Match", `"other"`, "If-Modified-Since", modified)
	require.Equal(t, http.StatusOK, status, "RFC 9110 section 13.2.2: the ETag decides")

	for name, change := range map[string]func(){
		"a revocation":   func() { s.Revocation.Revoke(s.CA.Issue(mtlstest.Leaf{}), 0) },
		"one taken back": func() { s.Revocation.Restore(s.cert) },
		"an hour":        func() { s.Clock.Advance(time.Hour) },
	} {
		change()
		for _, header := range [][]string{{"If-None-Match", etag}, {"If-Modified-Since", modified}} {
			status, _, _ := fetch(header...)
			require.Equal(t, http.StatusOK, status, name)
		}
		next := s.list().Number
		require.Positive(t, next.Cmp(number), name)
		number = next
		_, etag, modified = fetch()
	}

	s.Revocation.FailCRL(mtlstest.Older)
	status, _, _ = fetch("If-None-Match", etag)
	require.Equal(t, http.StatusOK, status, "a replay is another list")
	s.Revocation.FailCRL(mtlstest.NoFault)
	s.Clock.Advance(time.Hour - time.Second)
	status, _, _ = fetch("If-None-Match", etag)
	require.Equal(t, http.StatusNotModified, status, "a fault that is over leaves no trace")
	require.Equal(t, 4, s.Revocation.NotModified())

	s.Clock.Advance(-2 * time.Hour)
	l := s.list()
	s.current(l.ThisUpdate, l.NextUpdate)
}

// The guard itself: a fault admits nobody, and a replay does not bring back whom
// it knows to be revoked.
func TestNoFaultAdmits(t *testing.T) {
	t.Parallel()
	rule := mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}}
	serve := func(t *testing.T, env *mtlstest.Env, wait time.Duration) (*mtls.Guard, *mtlstest.Server) {
		env.DNS.Set("api.acme.example", "127.0.0.1")
		config := env.Config(rule)
		config.Limits.Wait, config.Logger = wait, slog.New(slog.DiscardHandler)
		guard := mtlstest.NewGuard(t, config)
		handler := guard.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		return guard, mtlstest.NewOptionalServer(t, guard, handler) // which refuses in words only
	}
	ask := func(t *testing.T, server *mtlstest.Server, cert *mtlstest.Certificate) int {
		t.Helper()
		client := server.Client(cert, mtlstest.ClientOptions{})
		res, err := client.Get(server.URL)
		require.NoError(t, err)
		res.Body.Close()
		return res.StatusCode
	}
	for name, f := range map[string]mtlstest.Fault{
		"GzipBomb": mtlstest.GzipBomb, "HugeLength": mtlstest.HugeLength, "WrongUsage": mtlstest.WrongUsage, "OtherIssuer": mtlstest.OtherIssuer,
		"WrongShard": mtlstest.WrongShard, "ExpiredResponder": mtlstest.ExpiredResponder, "Drip": mtlstest.Drip, "SlowHeaders": mtlstest.SlowHeaders,
	} {
		sources, wait := []mtlstest.Sources{mtlstest.OnlyCRL, mtlstest.OnlyOCSP}, time.Duration(0)
		switch f {
		case mtlstest.Drip, mtlstest.SlowHeaders:
			wait = soon
		case mtlstest.WrongShard:
			sources = sources[:1]
		case mtlstest.ExpiredResponder:
			sources = sources[1:]
		}
		for _, source := range sources {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				env := mtlstest.NewEnv(t)
				_, server := serve(t, env, wait)
				env.Revocation.Fail(f)
				cert := env.CA.Issue(mtlstest.Leaf{Names: rule.Domains, Sources: source})
				env.Revocation.Revoke(cert, 1)
				require.Equal(t, http.StatusServiceUnavailable, ask(t, server, cert))
				crl, responses := env.Revocation.Requests()
				require.Positive(t, crl+responses)
			})
		}
	}
	for name, source := range map[string]mtlstest.Sources{"CRL": mtlstest.OnlyCRL, "OCSP": mtlstest.OnlyOCSP} {
		t.Run("Older after the news/"+name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			guard, server := serve(t, env, 0)
			cert := env.CA.Issue(mtlstest.Leaf{Names: rule.Domains, Sources: source})
			require.Equal(t, http.StatusOK, ask(t, server, cert))
			env.Revocation.Revoke(cert, 1)
			require.NoError(t, guard.Refresh(t.Context()))
			require.Equal(t, http.StatusForbidden, ask(t, server, cert))
			env.Revocation.Fail(mtlstest.Older)
			_ = guard.Refresh(t.Context()) // whether a replay is an error is the guard's affair
			require.Equal(t, http.StatusForbidden, ask(t, server, cert))
		})
	}
}
