package policyfile_test

import (
	"fmt"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// What cannot be seen is neither in a comment nor in quotes, but may be written as an
// escape, which is what Marshal does.
func TestUnseenCharactersAreEscaped(t *testing.T) {
	for _, r := range []rune{
		0xa0, 0xad, 0x34f, 0x61c, 0x115f, 0x1160, 0x1680, 0x17b4, 0x17b5, 0x180b, 0x180c, 0x180d, 0x180e, 0x180f, 0x2000, 0x2003, 0x200a,
		0x200b, 0x200e, 0x202e, 0x202f, 0x205f, 0x2060, 0x2065, 0x2066, 0x2800, 0x3000, 0x3164, 0xfe00, 0xfe0f, 0xfeff, 0xffa0, 0xfff0,
		0x1d173, 0xe0001, 0xe0020, 0xe0100, 0xe01ef, 0xe0fff,
	} {
		t.Run(fmt.Sprintf("%U", r), func(t *testing.T) {
			c := string(r)
			for _, line := range []string{"# a" + c + "b", "account: \"a" + c + "b\"", "account: 'a" + c + "b'", "account: a" + c + "b", "account: a" + c, c + "account: a", "account: a # b" + c} {
				_, err := policyfile.Parse([]byte(rule(line)), "policy.yaml")
				require.Error(t, err, line)
				require.NotContains(t, err.Error(), c)
			}
			escaped := fmt.Sprintf(`\u%04x`, r)
			if r > 0xffff {
				high, low := utf16.EncodeRune(r)
				escaped = fmt.Sprintf(`\u%04x\u%04x`, high, low)
			}
			want := mtls.Rule{Name: "acme", Account: "a" + c + "b", Domains: []string{"a.example"}}
			rules, err := policyfile.Parse([]byte(rule(`account: "a`+escaped+`b"`)), "policy.yaml")
			require.NoError(t, err)
			require.Equal(t, []mtls.Rule{want}, rules)
			data, err := policyfile.Marshal(want)
			require.NoError(t, err)
			require.Contains(t, string(data), `"a`+escaped+`b"`)
		})
	}
	// Letters, marks and signs of all scripts can be seen.
	for _, text := range []string{"Größe", "e\u0301", "\u0634\u0631\u0643\u0629", "\u0915\u094d\u0937", "\u65e5\u672c", "\uac00\u1100", "\u280f", "\U0001f600", "\U00010d00"} {
		data, err := policyfile.Marshal(mtls.Rule{Name: "acme", Account: text, Domains: []string{"a.example"}})
		require.NoError(t, err, text)
		require.Contains(t, string(data), text)
		_, err = policyfile.Parse([]byte(rule("# "+text, "account: "+text)), "policy.yaml")
		require.NoError(t, err, text)
	}
}
