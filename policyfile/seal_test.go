package policyfile_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/policyfile"
)

// A seal is not given to a file that was cut, nor to one with errors, which are said
// as Parse says them, with the same places.
func TestResealRefusesWhatParseRefuses(t *testing.T) {
	whole := policyOf("a.example") + "  - name: b\n    domains: [b.example]\n    account: a17\n"
	sealed := string(policyfile.Seal([]byte(whole)))
	require.Equal(t, sealed, string(reseal(t, whole)))
	for name, text := range map[string]string{
		"the seal is lost":           sealed[:strings.LastIndex(sealed, "# sha256")],
		"the seal and more is lost":  sealed[:strings.Index(sealed, "  - name: b")],
		"the seal's first bytes":     sealed[:strings.LastIndex(sealed, "# sha256")+4],
		"the end of a value is lost": strings.TrimSuffix(whole, "7\n"),
		"the end of a line is lost":  strings.TrimSuffix(whole, "\n"),
		"an unknown key":             strings.Replace(whole, "account", "acount", 1),
		"rules without sense":        strings.Replace(whole, "b.example", "*.example", 1),
		"something behind the seal":  sealed + "# more\n",
		"empty":                      "",
	} {
		t.Run(name, func(t *testing.T) {
			_, want := policyfile.Parse([]byte(text), "policy.yaml")
			require.Error(t, want)
			got, err := policyfile.Reseal([]byte(text), "policy.yaml")
			require.Nil(t, got)
			require.Equal(t, want.Error(), err.Error())
		})
	}
}

// A seal that does not fit, whole or cut, is renewed, and the errors beside it have
// the places of the file as it is.
func TestResealRenewsTheSeal(t *testing.T) {
	text := policyOf("a.example", "b.example")
	sealed := string(policyfile.Seal([]byte(text)))
	without := strings.TrimPrefix(sealed, "# sealed\n") // in front, which Seal adds again
	for _, old := range []string{sealed, without, strings.TrimSuffix(sealed, "\n"), sealed[:len(sealed)-9]} {
		changed := strings.Replace(old, "b.example", "c.example", 2)
		want := policyfile.Seal([]byte(policyOf("a.example", "c.example")))
		require.Equal(t, string(want), string(reseal(t, changed)))
	}
	_, err := policyfile.Reseal([]byte(strings.Replace(without, "    domains: [b", "    domian: [b", 1)), "policy.yaml")
	require.ErrorContains(t, err, `mtls: policy.yaml:6:5: a rule has no key "domian"`)
}

func reseal(t *testing.T, text string) []byte {
	t.Helper()
	got, err := policyfile.Reseal([]byte(text), "policy.yaml")
	require.NoError(t, err)
	_, err = policyfile.Parse(got, "policy.yaml")
	require.NoError(t, err)
	return got
}

// What only just fits has no room for a seal.
func TestResealKeepsTheBoundOfAFile(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("64 MiB")
	}
	text := policyOf("a.example")
	line := "# " + strings.Repeat("x", 1<<20-3) + "\n"
	text += strings.Repeat(line, 63)
	text += "# " + strings.Repeat("x", 64<<20-len(text)-3) + "\n"
	require.Len(t, text, 64<<20)
	_, err := policyfile.Reseal([]byte(text), "policy.yaml")
	require.EqualError(t, err, "mtls: policy.yaml: it has more than 67108864 bytes")
}
