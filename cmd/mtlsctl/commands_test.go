package main_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
	"github.com/mtlsguard/mtls/policyfile"
)

// commands visits every command but the root and cobra's own.
func commands(visit func(*cobra.Command)) {
	for _, c := range mtlsctl.NewRoot().Commands() {
		if c.Name() != "help" && c.Name() != "completion" {
			visit(c)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	n := 0
	commands(func(c *cobra.Command) {
		n++
		require.NotEmpty(t, c.Short, c.Name())
		require.Regexp(t, `Exit status: 0 .+; 1 .+; 2 .+; 3 the command itself failed`, c.Long, c.Name())
		require.Contains(t, c.Example, "mtlsctl "+c.Name(), c.Name())
	})
	require.GreaterOrEqual(t, n, 7)
}

// The examples of the help work: in a folder that has the files that they name,
// none of them fails. The one that fetches from example.com has its options looked at
// alone, since no test leaves the machine.
func TestExamplesOfTheHelpWork(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	dir := t.TempDir()
	newPKI().write(folder(dir))
	commands(func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			line = strings.TrimSpace(line)
			local := regexp.MustCompile(`http://\S+`).ReplaceAllString(line, "ca.crl")
			cmd := exec.Command(sh, "-c", local)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				require.NotEqual(t, 3, cmd.ProcessState.ExitCode(), "%s\n%s", line, out)
				require.NotEqual(t, 127, cmd.ProcessState.ExitCode(), "%s\n%s", line, out)
			}
		}
	})
}

// A defect is a failure of the command: Go would end it with 2, which means
// something else here.
func TestPanicIsAFailure(t *testing.T) {
	var stderr bytes.Buffer
	require.Equal(t, 3, mtlsctl.Run([]string{"version"}, panicking{}, &stderr))
	require.Equal(t, "mtlsctl: a defect of mtlsctl: \\x1b[2J\n", stderr.String())
}

type panicking struct{}

func (panicking) Write([]byte) (int, error) { panic("\x1b[2J") }

// A shorter write than was asked for is a failure, too.
func TestOutputThatDoesNotGetOutIsAFailure(t *testing.T) {
	dir := t.TempDir()
	newPKI().write(folder(dir))
	t.Chdir(dir)
	for _, args := range [][]string{
		{"version"}, {"schema"}, {"completion", "bash"}, {"lint", "policy.yaml"}, {"lint", "--json", "policy.yaml"}, {"inspect", "client.pem"},
		{"inspect", "--json", "client.pem"}, {"inspect", "--write", "domain", "client.pem"}, {"crl", "ca.crl"}, {"crl", "--json", "ca.crl"},
		{"seal", "--stdout", "policy.yaml"}, {"--help"},
		{"explain", "--policy", "policy.yaml", "--roots", "ca.pem", "--cert", "client.pem", "--time", now, "--no-revocation", "--from", "198.51.100.7"},
	} {
		require.Equal(t, 0, mtlsctl.Run(args, io.Discard, io.Discard), "%v", args)
		var stderr bytes.Buffer
		require.Equal(t, 3, mtlsctl.Run(args, closed{}, &stderr), "%v", args)
		require.Contains(t, stderr.String(), "cannot write the output", "%v", args)
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, os.ErrClosed }

// Replacing a file is all or nothing: where the folder cannot be written, the file
// stays as it was.
func TestSealKeepsWhatItCannotReplace(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root writes everywhere")
	}
	dir := t.TempDir()
	newPKI().write(folder(dir))
	before, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o500))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	require.Equal(t, 3, mtlsctl.Run([]string{"seal", filepath.Join(dir, "policy.yaml")}, io.Discard, io.Discard))
	after, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// Text that nobody has quoted is escaped all the same; the only control characters
// are a printer's own.
func TestPrinterEscapes(t *testing.T) {
	require.Equal(t, "\x1b[31ma\\x1b[2J\\u009b\\u202e\\xff\\t\nb\x1b[0m", mtlsctl.Printed("a\x1b[2J\u009b\u202e\xff\t\nb"))
}

// What a terminal is shown of a policy is the same policy.
func TestPolicyInASCIIIsTheSame(t *testing.T) {
	for _, text := range []string{"شركة", "\U00010d00", "a\u202eb", "\u009b\x7f", `\u0634`, `"é\`, "- é: #", "é'é", "\u2028\ufeff", "日本 *"} {
		rule := mtls.Rule{Name: text, Account: text, Roles: []string{text}, Subject: []mtls.Attribute{{Type: "CN", Value: strings.ReplaceAll(text, `\`, `\\`)}},
			Authorities: []string{text}, Origin: mtls.NoOrigin()}
		raw, err := policyfile.Marshal(rule)
		require.NoError(t, err, "%q", text)
		shown := mtlsctl.QuotedASCII(string(raw))
		require.NotRegexp(t, unprintable, shown)
		rules, err := policyfile.Parse([]byte(shown), "")
		require.NoError(t, err, "%q", text)
		require.Equal(t, []mtls.Rule{rule}, rules, "%q", text)
	}
}

func TestServersOfResolver(t *testing.T) {
	for in, want := range map[string]struct{ addr, name string }{
		"192.0.2.1":                     {"192.0.2.1:53", ""},
		"192.0.2.1:5353":                {"192.0.2.1:5353", ""},
		"2001:db8::1":                   {"[2001:db8::1]:53", ""},
		"[2001:db8::1]:5353":            {"[2001:db8::1]:5353", ""},
		"tls://192.0.2.1":               {"192.0.2.1:853", "192.0.2.1"},
		"tls://[2001:db8::1]":           {"[2001:db8::1]:853", "2001:db8::1"},
		"tls://192.0.2.1:8853#dns.test": {"192.0.2.1:8853", "dns.test"},
	} {
		list, err := mtlsctl.ParseServers([]string{in}, false)
		require.NoError(t, err, in)
		require.Equal(t, want.addr, list[0].Addr.String(), in)
		require.Equal(t, want.name != "", list[0].TLS != nil, in)
		if list[0].TLS != nil {
			require.Equal(t, want.name, list[0].TLS.ServerName, in)
			require.False(t, list[0].TLS.InsecureSkipVerify)
		}
		require.False(t, list[0].TrustAD, in)
	}
	for _, in := range []string{"", "dns.example", "tls://", "tls://#x", "https://192.0.2.1", "192.0.2.1:port"} {
		_, err := mtlsctl.ParseServers([]string{in}, false)
		require.Error(t, err, in)
	}
}
