package policyfile_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// same compares rules as callers see them: times by Equal, and nil and empty lists are
// the same.
func same(t *testing.T, want, got []mtls.Rule) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		w, g := want[i], got[i]
		require.True(t, w.NotBefore.Equal(g.NotBefore), "%v %v", w.NotBefore, g.NotBefore)
		require.True(t, w.NotAfter.Equal(g.NotAfter), "%v %v", w.NotAfter, g.NotAfter)
		require.Equal(t, w.Origin.IsNone(), g.Origin.IsNone())
		require.Equal(t, w.Origin == nil, g.Origin == nil)
	}
	n, of := changed(zeroTimes(want), zeroTimes(got))
	require.Zero(t, n, "%v", of)
}

func zeroTimes(rules []mtls.Rule) []leaf {
	var list []leaf
	for _, l := range leaves(rules) {
		if !strings.Contains(l.path, ".Not") {
			list = append(list, l)
		}
	}
	return list
}

// hard are texts that some reader of YAML takes for something else.
var hard = []string{
	"yes", "No", "on", "OFF", "y", "n", "true", "False", "null", "~", "1", "007", "0x1F", "0o7", "1e3", "1_000", ".5", "-.inf", ".nan", "12:30", "1:2:3.4",
	"2026-01-01", "2026-01-01T00:00:00Z", "# x", "a # x", "a#b", " lead", "trail ", "two  blanks", "a: b", "a:b", ":", "-", "- a", "--- a", "---", "...", "? a", "[a", "a]", "{a: b}",
	"a, b", "&a", "*a", "!a", "!!str", "|", ">", "%a", "@a", "`a", `"`, `'`, `'a'`, `"a"`, `\`, `a\n`, "a\nb", "a\r\nb", "a\tb", "\x00", "\x1b[2K", "\x7f", "\u0085", "\u00a0", "\u00ad",
	"\u200b", "\u2028", "\u2029", "\ufeff", "\ufffd", "\ufffe", "\uffff", "ü", "日本", "😀", "\U0010ffff", "\U000e0001", "<<", "=", "name", "rules", "sha256:", "# sha256: x", "# sealed", "none", strings.Repeat("long ", 2000),
}

// text returns any text, often a hard one.
func text(r *rand.Rand) string {
	if r.IntN(2) == 0 {
		return hard[r.IntN(len(hard))]
	}
	const letters = "abZ09-_.:,#'\"\\/ \t\n{}[]&*!|>%@`~?=ü😀\u0000\u0085\u2028\ufeff"
	runes := []rune(letters)
	var b strings.Builder
	for range 1 + r.IntN(12) {
		b.WriteRune(runes[r.IntN(len(runes))])
	}
	return b.String()
}

func some[E any](r *rand.Rand, most int, f func() E) []E {
	var list []E
	if n := r.IntN(2 * most); n > most {
		return []E{} // empty, and not nil
	} else {
		for range n {
			list = append(list, f())
		}
	}
	return list
}

func randomHash(r *rand.Rand) (h [32]byte) {
	for i := range h {
		h[i] = byte(1 + r.IntN(255))
	}
	return h
}

func randomTime(r *rand.Rand) time.Time {
	switch r.IntN(4) {
	case 0:
		return time.Time{}
	case 1:
		return time.Date(1+r.IntN(9998), 2, 28, 1, 2, 3, r.IntN(1e9), time.FixedZone("", 3600*(r.IntN(24)-12)))
	}
	return time.Unix(r.Int64N(4e9), 0)
}

// randomRule has any field, with sense or without.
func randomRule(r *rand.Rand, name string) mtls.Rule {
	str := func() string { return text(r) }
	maybe := func() bool { return r.IntN(3) == 0 }
	oid := func() x509.OID {
		id, err := x509.ParseOID([]string{"1.2.3.4", "2.5.29.17", "1.3.6.1.4.1.99999.1", "0.39", "2.999.340282366920938463463374607431768211456"}[r.IntN(5)])
		if err != nil {
			panic(err)
		}
		return id
	}
	prefix := func() netip.Prefix {
		return netip.MustParsePrefix([]string{"198.51.100.7/28", "2001:db8::/56", "::/0", "0.0.0.0/0", "::ffff:1.2.3.4/120", "10.0.0.0/8"}[r.IntN(6)])
	}
	attribute := func() mtls.Attribute { return mtls.Attribute{Type: text(r), Value: text(r), IgnoreCase: maybe()} }
	rule := mtls.Rule{
		Name: name, Roles: some(r, 2, str), Deny: maybe(), Disabled: maybe(), Domains: some(r, 2, str), URIs: some(r, 2, str), Emails: some(r, 2, str), UPNs: some(r, 2, str),
		Certificates: some(r, 2, func() mtls.CertificateHash { return randomHash(r) }), PublicKeys: some(r, 2, func() mtls.KeyHash { return randomHash(r) }),
		Subject: some(r, 2, attribute), Issuer: some(r, 2, attribute), Authorities: some(r, 2, str), IssuerKeys: some(r, 2, func() mtls.KeyHash { return randomHash(r) }),
		PolicyOIDs: some(r, 2, oid), Curves: some(r, 2, str), Groups: some(r, 2, str), NotBefore: randomTime(r), NotAfter: randomTime(r), InsecureAnyClient: maybe(),
		Extensions: some(r, 2, func() mtls.Extension {
			e := mtls.Extension{OID: oid()}
			if maybe() {
				e.Value = []byte{0, byte(r.IntN(256))}
			}
			if maybe() {
				e.Text = text(r)
			}
			e.AnyValue = maybe()
			return e
		}),
	}
	if maybe() {
		rule.Account = text(r)
	}
	if maybe() {
		rule.MinRSABits = 1 + r.IntN(1e6)
	}
	switch r.IntN(4) {
	case 0:
		rule.Origin = mtls.NoOrigin()
	case 1:
		rule.Origin = &mtls.Origin{}
	case 2:
		rule.Origin = &mtls.Origin{
			Hosts: some(r, 2, str), Prefixes: some(r, 2, prefix), Published: maybe(), ReverseSuffixes: some(r, 2, str), RequireDNSSEC: maybe(), ReportOnly: maybe(),
			AllowNetworks: some(r, 2, prefix), Window: []time.Duration{0, 1, time.Second, 90 * time.Minute, 1500 * time.Millisecond, 26*time.Hour + 3}[r.IntN(6)]}
	}
	return rule
}

// Marshal writes any rules so that reading them gives the same, also such as make no
// sense together, which only the policy refuses.
func TestMarshalWritesAnyRules(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := 3000
	if testing.Short() || raceDetector {
		n = 300
	}
	for i := range n {
		var rules []mtls.Rule
		for j := range 1 + r.IntN(3) {
			rules = append(rules, randomRule(r, fmt.Sprintf("%d %s", j, text(r))))
		}
		data, err := policyfile.Marshal(rules...)
		require.NoError(t, err, "%#v", rules)
		got, err := policyfile.ParseOnly(data)
		require.NoError(t, err)
		same(t, rules, got)
		again, err := policyfile.Marshal(got...)
		require.NoError(t, err)
		require.Equal(t, string(data), string(again), "round %d", i)
	}
}

// Every hard text is a name that comes back.
func TestHardNames(t *testing.T) {
	var rules []mtls.Rule
	for _, name := range hard {
		rules = append(rules, mtls.Rule{Name: name, Domains: []string{"a.example"}, Roles: []string{name, "x"}})
	}
	data, err := policyfile.Marshal(rules...)
	require.NoError(t, err)
	got, err := policyfile.Parse(data, "policy.yaml")
	require.NoError(t, err)
	same(t, rules, got)
	sealed, err := policyfile.Parse(policyfile.Seal(data), "policy.yaml")
	require.NoError(t, err)
	require.Equal(t, got, sealed)
}

func TestMarshalIsPlain(t *testing.T) {
	data, err := policyfile.Marshal(
		mtls.Rule{Name: "acme", Domains: []string{"api.acme.example", "*.acme.example"}, Roles: []string{"read only"}, Origin: mtls.NoOrigin()},
		mtls.Rule{Name: "globex", Deny: true, Subject: []mtls.Attribute{{Type: "O", Value: "Globex *"}}, NotAfter: time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))},
		mtls.Rule{Name: "x", Domains: []string{"x.example"}, Origin: &mtls.Origin{}},
	)
	require.NoError(t, err)
	require.Equal(t, `version: 1
rules:
  - name: acme
    roles: ["read only"]
    domains: [api.acme.example, "*.acme.example"]
    origin: none
  - name: globex
    deny: true
    subject: [{type: O, value: "Globex *"}]
    not_after: 2026-01-02T02:04:05Z
  - name: x
    domains: [x.example]
    origin: {published: false}
`, string(data))
	data, err = policyfile.Marshal()
	require.NoError(t, err)
	require.Equal(t, "version: 1\ndeny_all: true\n", string(data))
	rules, err := policyfile.Parse(data, "policy.yaml")
	require.NoError(t, err)
	require.Empty(t, rules)
}

func TestMarshalRefusesWhatNoFileCanSay(t *testing.T) {
	good := mtls.Rule{Name: "good", Domains: []string{"a.example"}}
	off := mtls.NoOrigin()
	off.ReportOnly = true
	for name, c := range map[string]struct {
		change func(*mtls.Rule)
		want   string
	}{
		"a When":                       {func(r *mtls.Rule) { r.When = func(*x509.Certificate) bool { return true } }, `mtls: rule "bad" cannot be written: a When is Go`},
		"no name":                      {func(r *mtls.Rule) { r.Name = "" }, "empty text"},
		"an empty element":             {func(r *mtls.Rule) { r.Roles = []string{""} }, "empty text"},
		"bytes that are no UTF-8":      {func(r *mtls.Rule) { r.Account = "a\xffb" }, "not UTF-8"},
		"an invalid prefix":            {func(r *mtls.Rule) { r.Origin = &mtls.Origin{Prefixes: make([]netip.Prefix, 1)} }, "not a prefix"},
		"an empty OID":                 {func(r *mtls.Rule) { r.PolicyOIDs = make([]x509.OID, 1) }, "empty text"},
		"a zero hash":                  {func(r *mtls.Rule) { r.PublicKeys = make([]mtls.KeyHash, 1) }, "not a SHA-256 hash"},
		"an extension without a value": {func(r *mtls.Rule) { r.Extensions = []mtls.Extension{{Value: []byte{}}} }, "empty text"},
		"negative bits":                {func(r *mtls.Rule) { r.MinRSABits = -1 }, `rule "bad" cannot be written`},
		"a negative window":            {func(r *mtls.Rule) { r.Origin = &mtls.Origin{Window: -1} }, "not a time above zero"},
		"a year of five digits":        {func(r *mtls.Rule) { r.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "not a time"},
		"no origin, with settings":     {func(r *mtls.Rule) { r.Origin = off }, `rule "bad" cannot be written`},
	} {
		t.Run(name, func(t *testing.T) {
			bad := mtls.Rule{Name: "bad", Domains: []string{"b.example"}}
			c.change(&bad)
			data, err := policyfile.Marshal(good, bad)
			require.ErrorContains(t, err, c.want)
			require.Nil(t, data)
			require.Equal(t, 1, strings.Count(err.Error(), "mtls: "), "%v", err)
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
		f.Add(policyfile.Seal([]byte(s)))
	}
	f.Add([]byte(complete))
	for _, s := range hard {
		f.Add([]byte("version: 1\nrules:\n  - name: " + s + "\n    domains: [" + s + ", a.example]\n"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		rules, err := policyfile.Parse(data, "policy.yaml")
		require.Equal(t, before, data)
		if err != nil {
			require.Nil(t, rules)
			require.NotContains(t, err.Error(), "reading failed")
			return
		}
		if bytes.Contains(data, []byte("_files")) {
			return // whose paths are from here
		}
		out, err := policyfile.Marshal(rules...)
		require.NoError(t, err)
		again, err := policyfile.Parse(out, "policy.yaml")
		require.NoError(t, err)
		same(t, rules, again)
		_, err = policyfile.Lint(data, "policy.yaml", time.Unix(1e9, 0))
		require.NoError(t, err)
	})
}
