package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestMain is the program itself where a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("QUICKSTART_TEST_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// program returns the command that runs the program; it ends by SIGTERM at the
// latest after a minute. Its temporary folders are in tmp.
func program(t *testing.T, tmp string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), "QUICKSTART_TEST_PROGRAM=1", "TMPDIR="+tmp)
	return cmd
}

var columns = regexp.MustCompile(` {2,}`)

func TestTableHasEveryOutcomeAsWanted(t *testing.T) {
	tmp := t.TempDir()
	cmd := program(t, tmp)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", out, stderr.String())
	require.Empty(t, stderr.String(), "the log is written with -v only")

	var rows [][]string
	for line := range strings.Lines(string(out)) {
		rows = append(rows, columns.Split(strings.TrimSpace(line), -1))
	}
	require.Equal(t, [][]string{
		{"OUTCOME", "WANTED", "CLIENT GETS", "CLIENT IS TOLD", "OPERATOR SEES", "RESULT"},
		{"allowed", "200", "200", "-", "-", "ok"},
		{"public route", "200", "200", "-", "-", "ok"},
		{"no certificate", "403", "403", "no_certificate", "no_certificate", "ok"},
		{"unknown CA", "403", "403", "untrusted_issuer", "untrusted_issuer", "ok"},
		{"expired", "403", "403", "expired", "expired", "ok"},
		{"not on the list", "403", "403", "not_allowed", "not_allowed", "ok"},
		{"denied by a rule", "403", "403", "not_allowed", "denied_by_rule", "ok"},
		{"revoked, says the CRL", "403", "403", "revoked", "revoked", "ok"},
		{"revoked, says OCSP", "403", "403", "revoked", "revoked", "ok"},
		{"wrong address", "403", "403", "origin_mismatch", "origin_mismatch", "ok"},
		{"role missing", "403", "403", "role_missing", "role_missing", "ok"},
		{"about to be revoked", "200", "200", "-", "-", "ok"},
		{"revoked meanwhile", "403, same connection", "403, same connection", "revoked", "revoked", "ok"},
		{"responder down", "503, Retry-After", "503, Retry-After", "revocation_unknown", "revocation_unknown", "ok"},
		{"DNS down", "503, Retry-After", "503, Retry-After", "origin_unknown", "origin_unknown", "ok"},
		{"strict server, allowed", "200", "200", "-", "-", "ok"},
		{"strict server, not on the list", "alert: bad certificate", "alert: bad certificate", "-", "not_allowed", "ok"},
	}, rows)
	requireEmpty(t, tmp)
}

func TestVerboseLogTellsTheReasonsOnStandardError(t *testing.T) {
	cmd := program(t, t.TempDir(), "-v")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	require.NotContains(t, string(out), "level=")
	require.Contains(t, stderr.String(), "reason=origin_mismatch")
}

func TestUnknownFlagIsRefused(t *testing.T) {
	require.Equal(t, 2, run(t.Context(), []string{"-nonsense"}, io.Discard, io.Discard))
}

func TestOutcomeThatIsNotAsWantedFails(t *testing.T) {
	w := newWorld(t)
	seeing, blind, elsewhere := &operator{}, &operator{}, &operator{}
	elsewhere.observe(t.Context(), &mtls.Decision{ID: "another", Reason: mtls.ReasonNoCertificate})
	guard, err := newGuard(w.caFile, w.dns.Resolver(), slog.New(slog.DiscardHandler), seeing.observe)
	require.NoError(t, err)
	api := mtlstest.Serve(t, guard.OptionalServer("", routes(guard)))

	for _, test := range []struct {
		name     string
		operator *operator
		outcome  outcome
		want     bool
	}{
		{"as wanted", seeing, outcome{server: api, path: "/orders", want: "403", reason: mtls.ReasonNoCertificate}, true},
		{"another status", seeing, outcome{server: api, path: "/health", want: "403"}, false},
		{"another reason", seeing, outcome{server: api, path: "/orders", want: "403", reason: mtls.ReasonRevoked}, false},
		{"a reason where none was wanted", seeing, outcome{server: api, path: "/orders", want: "403"}, false},
		{"a refusal that nobody observed", blind, outcome{server: api, path: "/orders", want: "403", reason: mtls.ReasonNoCertificate}, false},
		{"a refusal of another incident", elsewhere, outcome{server: api, path: "/orders", want: "403", reason: mtls.ReasonNoCertificate}, false},
		{"no connection", seeing, outcome{server: api, path: "/health", from: "192.0.2.1", want: "0"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, printTable(t.Context(), t.Output(), test.operator, []outcome{test.outcome}))
		})
	}
}

func TestServeWorksWithCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
			t.Fatal("curl is not on PATH, and MTLS_REQUIRE_REAL=1: install the Debian package curl")
		}
		t.Skip("curl is not on PATH: install the Debian package curl")
	}
	tmp := t.TempDir()
	cmd := program(t, tmp, "-serve")
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill() }) // of no effect after Wait

	folder, commands, title := "", map[string]string{}, ""
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Ready.") {
		line := lines.Text()
		if dir, ok := strings.CutPrefix(line, "cd "); ok {
			folder = dir
		}
		if name, ok := strings.CutPrefix(line, "# "); ok {
			title = name
		}
		if strings.HasPrefix(line, "curl ") {
			commands[title] = line
		}
	}
	require.NotEmpty(t, folder)
	require.Len(t, commands, 16)
	for title, command := range commands {
		t.Run(title, func(t *testing.T) {
			curl := exec.CommandContext(t.Context(), "sh", "-c", command)
			curl.Dir = folder
			out, err := curl.CombinedOutput()
			text := strings.TrimSpace(string(out))
			name, want, _ := strings.Cut(title, ": ")
			if strings.HasPrefix(want, "alert") {
				require.Error(t, err)
				require.True(t, strings.HasSuffix(text, "\n000") || strings.HasPrefix(text, "000"), text)
				return
			}
			require.NoError(t, err, text)
			require.True(t, strings.HasSuffix(text, "\n"+want[:3]), text)
			switch name {
			case "allowed":
				require.Contains(t, text, "hello acme, with a certificate for api.acme.example, from 127.0.0.1")
			case "wrong address":
				require.Contains(t, text, `"code":"origin_mismatch"`)
			case "no certificate":
				require.Contains(t, text, `"code":"no_certificate"`)
			case "revoked, says the CRL", "revoked, says OCSP":
				require.Contains(t, text, `"code":"revoked"`)
			}
		})
	}

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_, err = io.Copy(io.Discard, stdout)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	requireEmpty(t, tmp)
}

// requireEmpty holds the program to removing what it wrote.
func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}
