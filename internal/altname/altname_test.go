package altname_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/altname"
)

func broadKeys(t *testing.T, text string) []string {
	t.Helper()
	keys, ok := altname.BroadKeys(text)
	require.True(t, ok)
	return keys
}

func TestBroadKeysFindWhatIsMeant(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		policy, text string
		want         bool
	}{
		{"a@b.example", "A@B.example", true},
		{"a@b.example", " a@b.example. ", true},
		{"a@b.example", "a%40b.example", true},
		{"a@b.example", "xa@b.example", false},
		{"*@b.example", "x@y@b.example", true},
		{"*@b.example", "x@a.b.example", false},
		{"*@xn--bcher-kva.example", "x@BÜCHER.example", true},
		{"spiffe://a.example/*", "SPIFFE://u:p@A.EXAMPLE.:99/x?y", true},
		{"spiffe://a.example/*", "spiffe:a.example", true},
		{"spiffe://a.example/*", "spiffe://b.a.example/a.example", false},
		{"spiffe://a.example/x", "spiffe://a.example/%58", true},
		{"spiffe://a.example/x", "spiffe://a.example/x/y", false},
		{"kim@b.example", "\u212aim@b.example", true},
		{"straße@b", "STRASSE@b", true},
		{"a@b.example", "\"a\"@b.example", true},
		{"a@b.example", "mailto:A%40b.example?subject=%zz", true},
		{"a@b.example", "A <a(x)@b.example>", true},
		{"a@b.example", "a@b.example\x00.evil", true},
		{"a@b.example", "a@b.example@evil.example", true},
		{"a@b.example", "\u200ba\u00ad@b.example", true},
		{"a@b.example", "\uff41\uff20b\u3002example", true},
		{"jörg@b", "jo\u0308rg@b", true},
		{"jörg@b", "jÃ¶rg@b", true},
		{"a@b.example", "a@b.example.evil", false},
	} {
		require.Equal(t, row.want, strings.Contains("\n"+strings.Join(broadKeys(t, row.text), "\n")+"\n", "\n"+altname.Broad(row.policy)[0]+"\n"), "%q %q", row.policy, row.text)
	}
}

// FuzzCanonical: a canonical name is that of itself, what a policy takes a
// certificate can hold, and what is denied is found by the name itself.
// What a rule that allows would match, the same rule as one that denies matches.
func TestWhatAllowsDenies(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	alphabet := []rune("aB.%4@:/?#&,;()<>[]\"\\'`´¨\uff0e\u3002\u0301\u0323ßſ\u212aﬁ℀\u034f\u115f\u3164\ufe0f-_=+\u00b7½\uff20\ufe6b")
	word := func() string {
		var b strings.Builder
		for range 1 + r.IntN(3) {
			b.WriteRune(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	for range 20000 {
		user, realm := word(), word()
		upn, ok := altname.UPNFromSAN(user + "@" + realm)
		if !ok {
			continue
		}
		for _, text := range []string{user + "@" + realm, strings.ToUpper(user + "@" + realm), user + "@" + realm + " "} {
			keys := broadKeys(t, text)
			for _, p := range []string{upn, "*@" + realm} {
				policy, err := altname.UPNFromPolicy(p)
				if err != nil {
					continue
				}
				require.Contains(t, keys, altname.Broad(policy)[0], "%+q in %+q", policy, text)
			}
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{
		"https://u@A.example:1/p?q#f", "urn:x:y", "spiffe://a.example/b", "spiffe://a.example/*", "a@b.example", "*@b.example", "Ann@CORP", "jörg@corp", "a@b@c", "x:", "//a", "a:b@c", ":", "@",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for i, kind := range []struct {
			policy func(string) (string, error)
			san    func(string) (string, bool)
		}{{altname.URIFromPolicy, altname.URIFromSAN}, {altname.EmailFromPolicy, altname.EmailFromSAN}, {altname.UPNFromPolicy, altname.UPNFromSAN}} {
			san, ok := kind.san(s)
			if ok {
				again, ok := kind.san(san)
				require.True(t, ok)
				require.Equal(t, san, again)
				if !strings.Contains(san, "*") {
					keys, ok := altname.BroadKeys(s)
					require.True(t, !ok || slices.Contains(keys, altname.Broad(san)[0]))
				}
				require.False(t, i > 0 && strings.Contains(san, "*"), "a certificate holds no wildcard")
				require.False(t, altname.IsSPIFFE(san) && strings.Contains(san, "*"))
			}
			policy, err := kind.policy(s)
			if err != nil {
				continue
			}
			again, err := kind.policy(policy)
			require.NoError(t, err)
			require.Equal(t, policy, again)
			if _, all := altname.TrustDomain(policy); all || altname.Every(policy) {
				continue
			}
			if san, ok := kind.san(s); ok {
				require.Equal(t, policy, san)
			}
			require.NotContains(t, policy, "*")
		}
	})
}

// TestFoldIsOneForAllCases: letters that differ in case alone, whatever the script,
// are one, and what is folded stays as it is.
func TestFoldIsOneForAllCases(t *testing.T) {
	t.Parallel()
	for r := rune(0x21); r < 0x1ffff; r++ {
		folded := altname.Fold(string(r))
		require.Equal(t, folded, altname.Fold(folded), "%U", r)
		require.Equal(t, folded, altname.Fold(string(unicode.SimpleFold(r))), "%U", r)
	}
}
