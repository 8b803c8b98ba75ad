package dnsname_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

var (
	label63 = strings.Repeat("a", 63)
	name253 = strings.Repeat(label63+".", 3) + strings.Repeat("b", 61)
)

func TestFromSAN(t *testing.T) {
	accepted := []struct{ name, in, want string }{
		{"a host name", "partner.example", "partner.example"},
		{"upper case is folded", "API.Partner.EXAMPLE", "api.partner.example"},
		{"a wildcard", "*.Partner.example", "*.partner.example"},
		{"a single label", "localhost", "localhost"},
		{"an underscore", "_svc.my_host.example", "_svc.my_host.example"},
		{"a wildcard over one label", "*.test", "*.test"},
		{"an A-label", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"an A-label in upper case", "XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		{"hyphens in the third and fourth place", "r3---sn-apo3.example", "r3---sn-apo3.example"},
		{"a label of 63 bytes", label63 + ".example", label63 + ".example"},
		{"a name of 253 bytes", name253, name253},
		{"digits in the last label but not only", "a.1b", "a.1b"},
		{"x in the last label without hexadecimal digits", "a.0xg", "a.0xg"},
		{"a number in a label before the last", "10.0.0.example", "10.0.0.example"},
	}
	for _, tt := range accepted {
		t.Run(tt.name+" is accepted", func(t *testing.T) {
			got, err := dnsname.FromSAN(tt.in)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
	for name, in := range refusedBoth {
		t.Run(name+" is refused", func(t *testing.T) {
			got, err := dnsname.FromSAN(in)
			require.Error(t, err)
			require.Empty(t, got)
		})
	}
	for name, in := range map[string]string{
		"a final dot":    "partner.example.",
		"a U-label":      "bücher.example",
		"a Kelvin sign":  "\u212ampany.example",
		"a Latin-1 byte": "b\xfccher.example",
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			_, err := dnsname.FromSAN(in)
			require.Error(t, err)
		})
	}
}

// refusedBoth is refused in policies and certificates.
var refusedBoth = map[string]string{
	"the empty string":                         "",
	"a dot":                                    ".",
	"a leading dot":                            ".partner.example",
	"an empty label":                           "partner..example",
	"two final dots":                           "partner.example..",
	"a NUL byte":                               "partner.example\x00.evil",
	"a control byte":                           "partner.example\n",
	"a DEL byte":                               "partner\x7f.example",
	"a blank":                                  "partner .example",
	"a leading blank":                          " partner.example",
	"a trailing blank":                         "partner.example ",
	"a port":                                   "partner.example:443",
	"a URL":                                    "https://partner.example",
	"a path":                                   "partner.example/x",
	"an e-mail address":                        "a@partner.example",
	"an escape":                                `partner\.example`,
	"an IPv4 address":                          "10.0.0.1",
	"an IPv4 address with a final dot":         "1.2.3.4.",
	"a short IPv4 address":                     "127.1",
	"a hexadecimal IPv4 address":               "0x7f.1",
	"a hexadecimal last label":                 "0x7f.0x1",
	"a hexadecimal last label in capitals":     "127.0X1F",
	"an empty hexadecimal last label":          "1.0x",
	"a number":                                 "2130706433",
	"a name with a numeric last label":         "partner.1",
	"a wildcard over a number":                 "*.1",
	"an IPv6 address":                          "::1",
	"a bracketed IPv6 address":                 "[::1]",
	"an IPv6 address with a zone":              "fe80::1%eth0",
	"a star":                                   "*",
	"a star and a dot":                         "*.",
	"two stars":                                "*.*.example",
	"a star within":                            "a.*.example",
	"a star at the end":                        "partner.*",
	"part of a label as wildcard":              "a*.example",
	"a star before a label":                    "*a.example",
	"a label that begins with a hyphen":        "-a.example",
	"a label that ends with a hyphen":          "a-.example",
	"a label of 64 bytes":                      label63 + "a.example",
	"a name of 254 bytes":                      name253 + "b",
	"an A-label of ASCII only":                 "xn--partner-.example",
	"an A-label of ASCII only without hyphens": "xn--partner.example",
	"an empty A-label":                         "xn--.example",
	"an A-label of a control character":        "xn--a.example",
	"an A-label with an A-label inside":        "xn--xn--a.example",
	"an A-label of unassigned punycode":        "xn--999999b.example",
	"an A-label that is not normalised":        "xn--bucher-xyd.example",
	"an A-label of a full-width letter":        "xn--artner-o068a.example",
	"an A-label of a full stop":                "xn--partnerexample-r62m",
	"an A-label that breaks the Bidi rule":     "xn--a-9hcuf1d.example",
	"an A-label with a stray joiner":           "xn--ab-m1t.example",
}

func TestFromPolicy(t *testing.T) {
	accepted := []struct{ name, in, want string }{
		{"a host name", "partner.example", "partner.example"},
		{"upper case is folded", "Partner.EXAMPLE", "partner.example"},
		{"one final dot", "partner.example.", "partner.example"},
		{"a wildcard with a final dot", "*.partner.example.", "*.partner.example"},
		{"a single label", "localhost", "localhost"},
		{"an underscore", "my_host.example", "my_host.example"},
		{"a U-label", "bücher.example", "xn--bcher-kva.example"},
		{"a U-label in upper case", "BÜCHER.example", "xn--bcher-kva.example"},
		{"a U-label under a wildcard", "*.bücher.example", "*.xn--bcher-kva.example"},
		{"an A-label", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"sharp s keeps its own name", "straße.example", "xn--strae-oqa.example"},
		{"a name from right to left", "שלום.example", "xn--9dbne9b.example"},
		{"a joiner where the script needs it", "نامه\u200cای.example", "xn--mgba3gch31f060k.example"},
	}
	for _, tt := range accepted {
		t.Run(tt.name+" is accepted", func(t *testing.T) {
			got, err := dnsname.FromPolicy(tt.in)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
	for name, in := range refusedBoth {
		t.Run(name+" is refused", func(t *testing.T) {
			got, err := dnsname.FromPolicy(in)
			require.Error(t, err)
			require.Empty(t, got)
		})
	}
	for name, in := range map[string]string{
		"an ideographic full stop":            "partner。example",
		"full-width letters":                  "ｐａｒｔｎｅｒ.example",
		"a Kelvin sign alone":                 "\u212a.example",
		"a soft hyphen":                       "part\u00adner.example",
		"a zero-width space":                  "bü\u200bcher.example",
		"a joiner between Latin letters":      "a\u200db.example",
		"a U-label that is not normalised":    "bu\u0308cher.example",
		"a U-label that breaks the Bidi rule": "שלוםa.example",
		"a U-label with an underscore":        "bü_cher.example",
		"a U-label that begins with a hyphen": "-ü.example",
		"invalid UTF-8":                       "b\xfccher.example",
		"a U-label too long as A-label":       strings.Repeat("ü", 60) + ".example",
		"a very long U-label":                 strings.Repeat("ü", 1<<16),
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			_, err := dnsname.FromPolicy(in)
			require.Error(t, err)
		})
	}
}

func TestNearMissesStayDistinct(t *testing.T) {
	want, err := dnsname.FromPolicy("partner.example")
	require.NoError(t, err)
	for _, san := range []string{
		"evil-partner.example", "partner.example.evil", "evil.partner.example", "partner-example", "partner.exampl", "artner.example",
		"*.example", "*.partner.example", "xn--prtner-3ve.example", // Cyrillic a
	} {
		got, err := dnsname.FromSAN(san)
		if err == nil {
			require.NotEqual(t, want, got, san)
			require.Equal(t, san == "*.example", dnsname.Overlap(got, want), san)
		}
	}
	cyrillic, err := dnsname.FromPolicy("p\u0430rtner.example")
	require.NoError(t, err)
	require.NotEqual(t, want, cyrillic, "homographs are distinct")
	require.False(t, dnsname.Overlap(cyrillic, want))
}

func TestErrorsQuoteAndCut(t *testing.T) {
	_, err := dnsname.FromSAN("a\x00\n\x1b[31m" + strings.Repeat("\xff", 1<<16))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	require.NotContains(t, err.Error(), "\x1b")
	require.Less(t, len(err.Error()), 400)
	_, err = dnsname.FromPolicy(strings.Repeat("ü\u202e", 120))
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\u202e", "text direction is not for an attacker to turn")
	require.Less(t, len(err.Error()), 700)
	for _, s := range []string{"", "short", strings.Repeat("a", 254), strings.Repeat("a", 255), strings.Repeat("\x00", 256), strings.Repeat("a", 1000)} {
		require.LessOrEqual(t, len(dnsname.Quote(s)), 256)
	}
	require.Equal(t, `"short"`, dnsname.Quote("short"))
	require.Equal(t, `"p\u0430rtner"`, dnsname.Quote("p\u0430rtner"), "a look-alike shows")
}

func TestWildcardUnderPublicSuffix(t *testing.T) {
	for pattern, want := range map[string]bool{
		"*.com": true, "*.co.uk": true, "*.github.io": true, "*.test": true, "*.ck": true, "*.foo.ck": true,
		"*.kawasaki.jp": true, // the names below are public suffixes
		"*.xn--p1ai":    true,
		"*.":            true,
		"*.example.com": false, "*.partner.co.uk": false, "*.me.github.io": false, "*.a.test": false, "*.www.ck": false,
		"com": false, "co.uk": false, "localhost": false, "": false,
	} {
		require.Equal(t, want, dnsname.WildcardUnderPublicSuffix(pattern), pattern)
	}
}

func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true},
		{"*.a.b", "*.a.b", true},
		{"*.b", "a.b", true},
		{"*.a.b", "x.a.b", true},
		{"*.b", "*.a.b", false},
		{"*.b", "x.a.b", false},
		{"*.b", "b", false},
		{"*.b", ".b", false},
		{"*.b", "ab", false},
		{"*.b", "a.bb", false},
		{"a.b", "b", false},
		{"a.b", "c.b", false},
		{"*.partner.example", "evil-partner.example", false},
		{"*.partner.example", "x.partner.example.evil", false},
		{"", "", false},
		{"", "a", false},
		{"*.", "a", false},
	} {
		require.Equal(t, tt.want, dnsname.Overlap(tt.a, tt.b), "%q %q", tt.a, tt.b)
		require.Equal(t, tt.want, dnsname.Overlap(tt.b, tt.a), "%q %q", tt.b, tt.a)
	}
	require.True(t, dnsname.IsWildcard("*.a"))
	require.False(t, dnsname.IsWildcard("a"))
	require.False(t, dnsname.IsWildcard(""))
}

func TestInSubtree(t *testing.T) {
	for _, tt := range []struct {
		name, scope string
		want        bool
	}{
		{"partner.example", "partner.example", true},
		{"a.b.partner.example", "partner.example", true},
		{"*.partner.example", "partner.example", true},
		{"*.a.partner.example", "partner.example", true},
		{"*.example", "partner.example", false},
		{"evil-partner.example", "partner.example", false},
		{"partner.example.evil", "partner.example", false},
		{"example", "partner.example", false},
		{"partner.example", "", false},
		{"", "", false},
		{"", "partner.example", false},
		{"*.partner.example", "*.partner.example", false},
		{"a.partner.example", "*.partner.example", false},
	} {
		require.Equal(t, tt.want, dnsname.InSubtree(tt.name, tt.scope), "%q in %q", tt.name, tt.scope)
	}
}

func TestFoldHost(t *testing.T) {
	for in, want := range map[string]string{
		"api.example": "api.example", "API.Example": "api.example", "api.example.": "api.example", "api.example:443": "api.example",
		"Api.Example.:8443": "api.example", "api.example:": "api.example", "api.example..": "api.example.", "": "", ":443": "",
		"[::1]:443": "::1", "[::1]": "::1", "[FE80::A]:443": "fe80::a", "::1": "::1", "fe80::1:443": "fe80::1:443",
		"10.0.0.1:80": "10.0.0.1",
		// not of a valid form: only the case is folded
		"API.example:http": "api.example:http", "[api.example]:443": "[api.example]", "a:1:2": "a:1:2", "[::1": "[::1", "[::1]x": "[::1]x",
		"\u212aa": "\u212aa", "A\xff": "a\xff",
	} {
		require.Equal(t, want, dnsname.FoldHost(in), "%q", in)
	}
}

func FuzzFromSAN(f *testing.F) {
	for _, in := range refusedBoth {
		f.Add(in)
	}
	f.Add("*.XN--BCHER-kva.example")
	f.Fuzz(func(t *testing.T, in string) {
		out, err := dnsname.FromSAN(in)
		if err != nil {
			require.LessOrEqual(t, len(err.Error()), 400)
			return
		}
		require.True(t, strings.EqualFold(in, out), "only the case of %q changes", in)
		again, err := dnsname.FromSAN(out)
		require.NoError(t, err)
		require.Equal(t, out, again)
		policy, err := dnsname.FromPolicy(in)
		require.NoError(t, err, "a policy can name what a certificate holds")
		require.Equal(t, out, policy)
	})
}

func FuzzFromPolicy(f *testing.F) {
	for _, in := range refusedBoth {
		f.Add(in)
	}
	for _, in := range []string{"BÜCHER.example.", "*.straße.example", "İ.example", "שלום.example", "partner。example", "ǅ.example", "ΒΌΛΟΣ.example"} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := dnsname.FromPolicy(in)
		if err != nil {
			return
		}
		again, err := dnsname.FromPolicy(out)
		require.NoError(t, err)
		require.Equal(t, out, again)
		san, err := dnsname.FromSAN(out)
		require.NoError(t, err)
		require.Equal(t, out, san)
	})
}

func TestFromSANOfACanonicalNameDoesNotAllocate(t *testing.T) {
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = dnsname.FromSAN("api.partner.example")
		_, _ = dnsname.FromSAN("*.partner.example")
	}))
}

func BenchmarkFromSAN(b *testing.B) {
	for name, in := range map[string]string{
		"canonical": "api.partner.example", "upper case": "API.partner.example", "A-label": "xn--bcher-kva.example",
		"longest A-labels": strings.Repeat("xn--bcher-kva.", 17) + "example", "a megabyte": strings.Repeat("a.", 1<<19),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = dnsname.FromSAN(in)
			}
		})
	}
}
