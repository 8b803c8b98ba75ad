package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestMain is the program itself where a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("FROMIIS_TEST_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var columns = regexp.MustCompile(` {2,}`)

func TestRunsByItself(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	tmp := t.TempDir()
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "FROMIIS_TEST_PROGRAM=1", "TMPDIR="+tmp)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	var rows [][]string
	for line := range strings.Lines(string(out)) {
		rows = append(rows, columns.Split(strings.TrimSpace(line), -1))
	}
	require.Equal(t, [][]string{
		{"CLIENT", "ANSWER", "ACCOUNT", "REASON", "IIS SUBSTATUS"},
		{"one-to-one", "200", `CORP\acme`, "-", "-"},
		{"one-to-one, renewed", "403", "-", "not_allowed", "403.12"},
		{"many-to-one", "200", `CORP\staff`, "-", "-"},
		{"many-to-one, the last", "200", "fabrikam", "-", "-"},
		{"denied", "403", "-", "denied_by_rule", "403.12"},
		{"denied after it was allowed (IIS admits it)", "403", "-", "denied_by_rule", "403.12"},
		{"unknown", "403", "-", "not_allowed", "403.12"},
		{"another case", "403", "-", "not_allowed", "403.12"},
		{"revoked", "403", "-", "revoked", "403.13"},
		{"expired", "403", "-", "expired", "403.17"},
		{"for servers only", "403", "-", "key_usage", "403.16"},
		{"untrusted", "403", "-", "untrusted_issuer", "403.16"},
		{"no certificate", "403", "-", "no_certificate", "403.7"},
	}, rows)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestOutcomeThatIsNotAsItShouldBeFails(t *testing.T) {
	all := clients()
	admitted, refused := all[0], all[1]
	for name, c := range map[string]client{
		"refused instead":  {admitted.name, "", mtls.ReasonRevoked, admitted.cert},
		"another account":  {admitted.name, `CORP\staff`, "", admitted.cert},
		"admitted instead": {refused.name, `CORP\acme`, "", refused.cert},
		"another reason":   {refused.name, "", mtls.ReasonRevoked, refused.cert},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, demonstrate(t.Context(), io.Discard, []client{c}), c.name)
		})
	}
}

func TestSampleIsThere(t *testing.T) {
	require.Equal(t, 1, strings.Count(policy, sampleHash))
}

func TestMissingFilesAreErrors(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{}).PEMFile()
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := newServer(t.Context(), "", missing, "policy.yaml", mtls.Config{})
	require.Error(t, err)
	_, err = newServer(t.Context(), "", ca, missing, mtls.Config{})
	require.Error(t, err)
	_, err = newServer(t.Context(), "", ca, "policy.yaml", mtls.Config{})
	require.NoError(t, err)
}
