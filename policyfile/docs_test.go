package policyfile_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/policyfile"
)

// The files in the documentation are taken, and say what is said of them.
func TestDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/policyfile.md")
	require.NoError(t, err)
	parts := strings.Split(string(page), "```yaml\n")[1:]
	require.Len(t, parts, 2)
	for i, part := range parts {
		text, _, found := strings.Cut(part, "```\n")
		require.True(t, found)
		rules, err := policyfile.Parse([]byte(text), "policy.yaml")
		require.NoError(t, err)
		require.Len(t, rules, []int{4, 0}[i])
	}
	require.Contains(t, string(page), `mtls: policy.yaml:7:5: a rule has no key "rolles"; was roles meant?`)
	_, err = policyfile.Parse([]byte("version: 1\nrules:\n  - name: a\n    domains: [a.example]\n\n\n    rolles: [x]\n"), "policy.yaml")
	require.EqualError(t, err, `mtls: policy.yaml:7:5: a rule has no key "rolles"; was roles meant?`)
}
