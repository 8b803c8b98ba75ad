package policyfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// hundredThousand is so many that time by the square of it would never end, and
// few enough for proportional time.
const hundredThousand = 100_000

// list is a rule with so many of an element in a list.
func list(key, element string, n int) string {
	return "version: 1\nrules:\n  - name: a\n    origin: none\n    authorities: [p]\n    " + key + ": [" + strings.TrimSuffix(strings.Repeat(element+", ", n), ", ") + "]\n"
}

// However many problems a file has, they are found in proportional time, and the
// first ones are reported.
func TestManyProblems(t *testing.T) {
	n := hundredThousand
	if testing.Short() || raceDetector {
		n = 20_000
	}
	var flow strings.Builder
	flow.WriteString(`{"version":1,"rules":[`)
	for i := range n / 4 {
		fmt.Fprintf(&flow, `{"name":"n%d","domains":["a b"]},`, i)
	}
	for name, c := range map[string]struct {
		text  string
		first string
		n     int
	}{
		"elements that are empty":            {list("domains", "''", n), "6:15: domains: empty text", n},
		"elements that are not domains":      {list("domains", `"a b"`, n), `6:15: rule "a": domains[0]: "a b": not a domain`, n},
		"elements of a wrong kind":           {list("roles", "[]", n), `6:13: roles: text is expected`, n},
		"attributes":                         {list("subject", "{type: CN, colour: x}", n/4), `6:15: an element of subject needs a value`, 2 * (n / 4)},
		"rules":                              {"version: 1\nrules:\n" + strings.Repeat("  - {a: b}\n", n), `3:5: a rule needs a name`, 2 * n},
		"rules of one name":                  {"version: 1\nrules:\n" + strings.Repeat("  - {name: a, domains: [a.example]}\n", n), `4:5: rule "a": a second rule of this name`, n - 1},
		"rules in one line":                  {strings.TrimSuffix(flow.String(), ",") + "]}", `1:47: rule "n0": domains[0]: "a b"`, n / 4},
		"rules that are not read and others": {"version: 1\nrules:\n  - {a: b}\n" + strings.Repeat("  - {name: a, domains: [a.example]}\n", n), `3:5: a rule needs a name`, n + 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policyfile.Parse([]byte(c.text), "policy.yaml")
			got := refusals(t, err)
			require.Len(t, got, 21)
			require.Contains(t, got[0], c.first)
			require.Contains(t, got[20], fmt.Sprintf("and %d more problems from here on", c.n-20))
		})
	}
}

// What can be said of every element of a list is said of the first ones.
func TestLintOfLongLists(t *testing.T) {
	n := hundredThousand
	if testing.Short() || raceDetector {
		n = 20_000
	}
	prefixes := "version: 1\nrules:\n  - name: a\n    domains: [a.example]\n    origin:\n      prefixes: [" + strings.TrimSuffix(strings.Repeat("198.51.100.7/28, ", n), ", ") + "]\n"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"twice":    {list("emails", "a@b.example", n), []string{"4:13: note", "6:27: note: rule \"a\": \"a@b.example\" is listed twice", "6:40: note", "6:53: note", fmt.Sprintf("6:66: note: rule \"a\": and the same of %d more elements of emails", n-4)}},
		"prefixes": {prefixes, []string{"6:18: note: rule \"a\": 198.51.100.7/28 means all of", "6:35: note", "6:35: note", "6:52: note", "6:52: note", "6:69: note", "6:69: note", "6:86: note: rule \"a\": and the same of"}},
	} {
		t.Run(name, func(t *testing.T) {
			findings, err := policyfile.Lint([]byte(c.text), "policy.yaml", lintNow)
			require.NoError(t, err)
			require.Len(t, findings, len(c.want), "%q", findings)
			for i, w := range c.want {
				require.Contains(t, findings[i].String(), w)
			}
		})
	}
}

// Elements that come from files have the place of the path, also when the files are
// no longer in memory, or no longer what they were.
func TestPlacesInNamedFiles(t *testing.T) {
	dir := t.TempDir()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	der := ca.Issue(mtlstest.Leaf{Names: []string{"a.example"}}).Leaf().Raw
	other := ca.Issue(mtlstest.Leaf{Names: []string{"b.example"}}).Leaf().Raw
	for name, data := range map[string][]byte{"one.der": der, "two.der": other, "again.der": der} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	path := filepath.Join(dir, "policy.yaml")
	text := "version: 1\nrules:\n  - name: a\n    certificates: [" + strings.Repeat("ab", 32) + "]\n    certificate_files: [one.der, two.der, again.der]\n    origin: {prefixes: [198.51.100.0/28]}\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	file, err := policyfile.Load(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, "two.der")))
	findings := file.Lint()
	require.Len(t, findings, 1)
	require.Contains(t, findings[0].Text, "is listed twice")
	require.Equal(t, []int{5, 43}, []int{findings[0].Line, findings[0].Column})
}
