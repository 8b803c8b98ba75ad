package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestMain is the program itself where a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("NETHTTP_TEST_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func program(t *testing.T, tmp string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "NETHTTP_TEST_PROGRAM=1", "TMPDIR="+tmp)
	return cmd
}

func TestRunsByItself(t *testing.T) {
	tmp := t.TempDir()
	out, err := program(t, tmp).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, strings.Join([]string{
		"GET /health by anybody: 200",
		"GET /orders by anybody: 403",
		"GET /orders by acme: 200",
		"",
	}, "\n"), string(out))
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestStatusThatIsNotAsItShouldBeFails(t *testing.T) {
	require.Error(t, demonstrate(io.Discard, []request{{"/orders", "anybody", 200}}))
	require.Error(t, demonstrate(io.Discard, []request{{"/orders", "acme", 403}}))
}

func TestMissingFilesAreErrors(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{}).PEMFile()
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for name, args := range map[string][]string{
		"no CA file":          {"-cert", ca, "-key", ca},
		"a CA file not there": {"-ca", missing, "-cert", ca, "-key", ca},
		"no certificate":      {"-addr", "127.0.0.1:0", "-ca", ca},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := program(t, t.TempDir(), args...).CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, string(out))
			require.Equal(t, 1, exit.ExitCode(), string(out))
		})
	}
}

func TestFlagsServeWithTheirFiles(t *testing.T) {
	dir := t.TempDir()
	own := mtlstest.NewCA(t, mtlstest.CAOptions{})
	cert, key := own.Issue(mtlstest.Leaf{Names: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}).Write(dir, "server")
	partners := mtlstest.NewCA(t, mtlstest.CAOptions{})
	file := filepath.Join(dir, "partner-cas.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: partners.Certificate().Raw}), 0o600))

	server, err := newServer("", file, mtls.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(l, cert, key) }()
	t.Cleanup(func() {
		server.Close()
		require.ErrorIs(t, <-done, http.ErrServerClosed)
	})

	pool := x509.NewCertPool()
	pool.AddCert(own.Certificate())
	status := func(path string, c *mtlstest.Certificate) int {
		conf := &tls.Config{RootCAs: pool, ServerName: "localhost"}
		if c != nil {
			conf.Certificates = []tls.Certificate{c.TLS()}
		}
		transport := &http.Transport{TLSClientConfig: conf}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+l.Addr().String()+path, nil)
		require.NoError(t, err)
		r.Host = "localhost"
		res, err := transport.RoundTrip(r)
		require.NoError(t, err)
		res.Body.Close()
		return res.StatusCode
	}
	require.Equal(t, 200, status("/health", nil))
	require.Equal(t, 403, status("/orders", nil))
	require.Equal(t, 403, status("/orders", partners.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}})),
		"loopback is no partner's address unless it is named")
}
