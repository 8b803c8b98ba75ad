package policyfile_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/policyfile"
)

// What two readers take for two things is refused.
func TestTwoReadersMustAgree(t *testing.T) {
	own := "a: [b, c]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n"
	require.NoError(t, policyfile.Confirmed(own, own))
	for name, other := range map[string]string{
		"a value":                    "a: [b, x]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"a key":                      "a: [b, c]\nd:\n  - {x: f, g: \"h\"}\n  - i: j\n",
		"an element less":            "a: [b]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"an element more":            "a: [b, c, c]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"a key less":                 "a: [b, c]\nd:\n  - {e: f}\n  - i: j\n",
		"a key more":                 "a: [b, c]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\nk: l\n",
		"a key in another mapping":   "a: [b, c]\nd:\n  - {e: f, g: \"h\"}\ni: j\n",
		"a scalar for a list":        "a: b\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"a list for a mapping":       "a: [b, c]\nd:\n  - [e, f]\n  - i: j\n",
		"a mapping for a scalar":     "a: [b, c]\nd:\n  - {e: {f: f}, g: \"h\"}\n  - i: j\n",
		"quotes":                     "a: [b, \"c\"]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"no quotes":                  "a: [b, c]\nd:\n  - {e: f, g: h}\n  - i: j\n",
		"null":                       "a: [b, c]\nd:\n  - {e: f, g: \"h\"}\n  - i:\n",
		"an anchor":                  "a: &x [b, c]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"a tag":                      "a: [b, !!str c]\nd:\n  - {e: f, g: \"h\"}\n  - i: j\n",
		"two documents":              own + "---\n" + own,
		"nothing":                    "",
		"what is no YAML":            "a: [b, c\n",
		"what makes the parser fail": "a: \"\\",
	} {
		t.Run(name, func(t *testing.T) {
			require.Error(t, policyfile.Confirmed(own, other))
			require.Regexp(t, `^mtls: policy.yaml:\d+:\d+: `, policyfile.Confirmed(own, other).Error())
		})
	}
}
