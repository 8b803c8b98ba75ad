package policyfile_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

var lintNow = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// eights are so many networks of IPv4.
func eights(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%d.0.0.0/8", i))
	}
	return strings.Join(list, ", ")
}

// sixteens are so many networks of IPv6.
func sixteens(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("\"%x::/16\"", 0x2000+i))
	}
	return strings.Join(list, ", ")
}

func TestLint(t *testing.T) {
	h1, h2 := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	two := func(a, b string) string {
		return "version: 1\nrules:\n  - name: a\n    " + a + "\n  - name: b\n    " + b + "\n"
	}
	for name, c := range map[string]struct {
		text string
		want []string // line:column: level: rule: a part of the text
	}{
		"nothing to say":                  {two("domains: [a.example]", "domains: [b.example]"), nil},
		"sealed or not":                   {string(policyfile.Seal([]byte(two("domains: [a.example]", "domains: [b.example]")))), nil},
		"deny_all":                        {"version: 1\ndeny_all: true\n", []string{"1:1: note: deny_all: nobody is admitted"}},
		"same domains":                    {two("domains: [a.example, b.example]", "domains: [b.example, A.example.]"), []string{`5:5: warning: rule "b": it can never decide: its domains are decided by the earlier rule "a"`}},
		"some of the domains":             {two("domains: [a.example]", "domains: [a.example, b.example]"), nil},
		"same domains, with a condition":  {two("domains: [a.example]\n    authorities: [p]", "domains: [a.example]"), nil},
		"same domains, for a time":        {two("domains: [a.example]\n    not_after: 2026-12-01T00:00:00Z", "domains: [a.example]"), nil},
		"same domains, a later condition": {two("domains: [a.example]", "domains: [a.example]\n    authorities: [p]"), []string{`5:5: warning: rule "b": it can never decide`}},
		"same domains, the first disabled": {two("domains: [a.example]\n    disabled: true", "domains: [a.example]"), []string{
			`5:15: note: rule "a": it is disabled`}},
		"same certificates":                {two("certificates: ["+h1+"]\n    origin: {hosts: [a.example]}", "certificates: ["+h1+"]\n    domains: [b.example]"), []string{`6:5: warning: rule "b": it can never decide: its certificates`}},
		"certificates before domains":      {two("domains: [a.example]", "domains: [a.example]\n    certificates: ["+h1+"]"), nil},
		"other certificates":               {two("certificates: ["+h1+"]\n    origin: {hosts: [a.example]}", "certificates: ["+h1+", "+h2+"]\n    domains: [b.example]"), nil},
		"same keys":                        {two("public_keys: ["+h1+"]\n    origin: {hosts: [a.example]}", "public_keys: ["+h1+"]\n    domains: [b.example]"), []string{`its keys are decided by the earlier rule "a"`}},
		"domains that are denied":          {two("domains: [a.example]", "domains: [a.example, b.example]\n    deny: true"), []string{`3:5: warning: rule "a": it can never decide: its domains are refused by rule "b"`}},
		"domains that are denied at times": {two("domains: [a.example]", "domains: [a.example]\n    deny: true\n    authorities: [p]"), []string{`5:5: note: rule "b": it refuses only who has one of each of domains, authorities`}},
		"expired":                          {two("domains: [a.example]", "domains: [b.example]\n    not_after: 2026-06-01T00:00:00Z"), []string{`7:16: warning: rule "b": it ended at 2026-06-01T00:00:00Z`}},
		"not yet":                          {two("domains: [a.example]", "domains: [b.example]\n    not_before: 2026-06-01T00:00:01Z"), []string{`7:17: note: rule "b": it does not exist before 2026-06-01T00:00:01Z`}},
		"in time":                          {two("domains: [a.example]", "domains: [b.example]\n    not_before: 2026-06-01T00:00:00Z\n    not_after: 2026-06-01T00:00:01Z"), nil},
		"disabled":                         {two("domains: [a.example]", "domains: [b.example]\n    disabled: true"), []string{`7:15: note: rule "b": it is disabled`}},
		"no origin":                        {two("domains: [a.example]", "domains: [b.example]\n    origin: none"), []string{`7:13: note: rule "b": clients may come from anywhere`}},
		"report_only":                      {two("domains: [a.example]", "domains: [b.example]\n    origin:\n      report_only: true"), []string{`8:20: warning: rule "b": the origin is only reported`}},
		"a prefix with more":               {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: [10.0.0.0/8, 198.51.100.7/28]}"), []string{`7:37: note: rule "b": 198.51.100.7/28 means all of 198.51.100.0/28`}},
		"a wildcard":                       {two("domains: [a.example]", "domains: [b.example, \"*.b.example\"]\n    origin: {hosts: [b.example]}"), []string{`6:26: note: rule "b": "*.b.example" admits certificates for that wildcard`}},
		"a wildcard that is denied":        {two("domains: [a.example]", "domains: [\"*.b.example\"]\n    deny: true"), nil},
		"any client":                       {two("domains: [a.example]", "insecure_any_client: true\n    origin: {hosts: [b.example]}\n    authorities: [p]"), []string{`6:26: warning: rule "b": it admits every client`}},
		"a user of a host":                 {two("domains: [a.example]", "emails: [\"*@gmail.com\", a@b.example]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{`6:14: note: rule "b": "*@gmail.com" admits every user of the host`}},
		"a trust domain":                   {two("domains: [a.example]", "uris: [\"spiffe://td/*\"]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{`6:12: note: rule "b": "spiffe://td/*" admits every URI`}},
		"a realm":                          {two("domains: [a.example]", "upns: [\"*@corp.example\"]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{`6:12: note: rule "b": "*@corp.example" admits every user of the realm`}},
		"wildcards that are denied":        {two("domains: [a.example]", "emails: [\"*@gmail.com\"]\n    deny: true"), nil},
		"an issuer alone":                  {two("domains: [a.example]", "authorities: [p]\n    origin: {hosts: [b.example]}"), []string{`5:5: warning: rule "b": nothing in it says who the client is`}},
		"an issuer's key alone":            {two("domains: [a.example]", "issuer_keys: ["+h1+"]\n    origin: {hosts: [b.example]}"), []string{`5:5: warning: rule "b": nothing in it says who the client is`}},
		"an issuer alone, with groups":     {two("domains: [a.example]", "authorities: [p]\n    groups: [g, h, g]\n    origin: {hosts: [b.example]}"), []string{`7:20: note: rule "b": "g" is listed twice`}},
		"an issuer alone that is denied":   {two("domains: [a.example]", "authorities: [p]\n    deny: true"), nil},
		"a subject of anything": {two("domains: [a.example]", "subject: [{type: CN, value: \"*\"}, {type: O, value: \"**\"}]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{
			`5:5: warning: rule "b": nothing in it says who the client is`, "no index finds"}},
		"an extension of anything": {two("domains: [a.example]", "extensions: [{oid: 1.2.3.4, any_value: true}]\n    policy_oids: [1.2.3.5]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{
			`5:5: warning: rule "b": nothing in it says who the client is`, "no index finds"}},
		"what many certificates are for": {two("domains: [a.example]", "extensions: [{oid: 2.16.840.1.113730.1.1, value: '03020780'}, {oid: 1.2.840.113549.1.9.15, value: '3000'}]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{
			`5:5: warning: rule "b": nothing in it says who the client is`, "no index finds"}},
		"places and kinds": {two("domains: [a.example]", "subject: [{type: businessCategory, value: Bank}, {type: 2.5.4.16, value: Street}, {type: jurisdictionC, value: DE}]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{
			`5:5: warning: rule "b": nothing in it says who the client is`, "no index finds"}},
		"a word of one letter":             {two("domains: [a.example]", "subject: [{type: O, value: \"株*\"}]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{"no index finds"}},
		"an extension that says something": {two("domains: [a.example]", "extensions: [{oid: 1.2.3.4, text: x}]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{"5:5: note: rule \"b\": no index finds"}},
		"weak RSA keys":                    {two("domains: [a.example]", "domains: [b.example]\n    min_rsa_bits: 2047"), []string{`7:19: warning: rule "b": RSA keys of 2047 bits can be broken`}},
		"strong RSA keys":                  {two("domains: [a.example]", "domains: [b.example]\n    min_rsa_bits: 2048"), nil},
		"a deny rule that is disabled":     {two("domains: [a.example]", "domains: [b.example]\n    deny: true\n    disabled: true"), []string{`8:15: warning: rule "b": it is disabled, and refuses nobody`}},
		"a deny rule of two kinds": {two("domains: [a.example]", "domains: [b.example]\n    deny: true\n    certificates: ["+h1+"]"), []string{
			`5:5: note: rule "b": it refuses only who has one of each of domains, certificates`}},
		"a deny rule of a domain and a subject": {two("domains: [a.example]", "domains: [b.example]\n    deny: true\n    subject: [{type: O, value: Acme}]"), []string{
			`5:5: note: rule "b": it refuses only who has one of each of domains, subject: make a rule of each`}},
		"a deny rule of a certificate and an extension": {two("domains: [a.example]", "certificates: ["+h1+"]\n    deny: true\n    extensions: [{oid: 1.2.3.4, any_value: true}]"), []string{
			`5:5: note: rule "b": it refuses only who has one of each of certificates, extensions`}},
		"a deny rule of an issuer and a key": {two("domains: [a.example]", "public_keys: ["+h1+"]\n    deny: true\n    issuer: [{type: O, value: Acme}]"), []string{
			`5:5: note: rule "b": it refuses only who has one of each of public_keys, issuer`}},
		"a deny rule of one subject": {two("domains: [a.example]", "subject: [{type: O, value: Acme}, {type: OU, value: Sales}]\n    deny: true"), []string{"no index finds"}},
		"half of IPv4":               {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: [198.51.100.0/28, 128.0.0.0/1, 0.0.0.0/1]}"), []string{`7:42: warning: rule "b": 128.0.0.0/1 is wider than any one network`}},
		"IPv4, written as IPv6":      {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: [\"::ffff:0.0.0.0/97\"]}"), []string{`7:25: warning: rule "b": 0.0.0.0/1 is wider`}},
		"a part of IPv6":             {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: [\"2000::/15\"]}"), []string{`7:25: warning: rule "b": 2000::/15 is wider`}},
		"networks of usual size":     {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: [10.0.0.0/8, \"2a00::/16\"], allow_networks: [10.0.0.0/8]}"), nil},
		"special-use networks, all":  {two("domains: [a.example]", "domains: [b.example]\n    origin: {hosts: [b.example], allow_networks: [\"::/0\"]}"), []string{`7:51: warning: rule "b": ::/0 is wider`}},
		"half of IPv4 in pieces":     {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: ["+eights(128)+"]}"), []string{`7:24: warning: rule "b": together they are at least half of the internet`}},
		"less than half of IPv4":     {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: ["+eights(127)+", 0.0.0.0/8, 0.0.0.0/9]}"), []string{`note: rule "b": "0.0.0.0/8" is listed twice`}},
		"half of IPv6 in pieces":     {two("domains: [a.example]", "domains: [b.example]\n    origin: {prefixes: ["+sixteens(4096)+"]}"), []string{`7:24: warning: rule "b": together they are at least half`}},
		"values twice": {two("domains: [a.example, B.example, b.example.]\n    roles: [x, z, x]", "domains: [c.example]\n    upns: [a@b, A@b]\n    authorities: [p, p]"), []string{
			`4:37: note: rule "a": "b.example." is listed twice`, `5:19: note: rule "a": "x" is listed twice`, `8:17: note: rule "b": "A@b" is listed twice`, `9:22: note: rule "b": "p" is listed twice`}},
		"a domain as subject": {two("domains: [a.example]", "domains: [b.example]\n    authorities: [p]\n    subject:\n      - {type: O, value: \"Acme Inc.\"}\n      - {type: CN, value: \"*.b.example\"}"), []string{
			`10:9: warning: rule "b": "*.b.example" looks like a domain`}},
		"only deny":                           {two("domains: [a.example]\n    deny: true", "domains: [b.example]\n    deny: true"), []string{"3:3: warning: no rule in force admits anybody"}},
		"only deny, and one that is disabled": {two("domains: [a.example]\n    deny: true", "domains: [b.example]\n    disabled: true"), []string{"3:3: warning: no rule in force admits anybody", "note: rule \"b\": it is disabled"}},
		"rules that no index finds":           {two("domains: [a.example]", "subject: [{type: O, value: \"x\"}]\n    authorities: [p]\n    origin: {hosts: [b.example]}"), []string{`5:5: note: rule "b": no index finds "b", which are looked at for every client`}},
	} {
		t.Run(name, func(t *testing.T) {
			findings, err := policyfile.Lint([]byte(c.text), "policy.yaml", lintNow)
			require.NoError(t, err)
			var got []string
			for _, f := range findings {
				require.Equal(t, "policy.yaml", f.File)
				got = append(got, f.String())
			}
			require.Len(t, got, len(c.want), "%q", got)
			for i, w := range c.want {
				require.Contains(t, got[i], w)
			}
		})
	}
}

// What very many certificates have says nothing about who the client is.
func TestLintKnowsWhatSaysWho(t *testing.T) {
	const warning = "nothing in it says who the client is"
	for line, who := range map[string]bool{
		"subject: [{type: C, value: US}]": false, "subject: [{type: countryName, value: US}]": false, "subject: [{type: 2.5.4.6, value: US}]": false, "subject: [{type: L, value: Springfield}]": false,
		"subject: [{type: ST, value: WA}, {type: title, value: Buyer}]": false, "subject: [{type: C, value: US}, {type: O, value: Acme}]": true,
		`subject: [{type: O, value: "* *"}]`: false, `subject: [{type: O, value: "*a*"}]`: false, `subject: [{type: O, value: "a*"}]`: false, `subject: [{type: O, value: "*.*"}]`: false,
		`subject: [{type: O, value: "*\\**"}]`: false, `subject: [{type: O, value: "a\\*"}]`: true, `subject: [{type: O, value: "HP*"}]`: true, `subject: [{type: O, value: "*7*7*"}]`: true, "subject: [{type: O, value: X}]": true,
		"extensions: [{oid: 2.5.29.15, value: \"03020780\"}]": false, "extensions: [{oid: 2.5.29.37, value: \"3000\"}]": false, "extensions: [{oid: 2.5.29.35, value: \"3000\"}]": false,
		"extensions: [{oid: 1.3.6.1.5.5.7.1.1, value: \"3000\"}]": false, "extensions: [{oid: 1.3.6.1.4.1.311.21.7, value: \"3000\"}]": false,
		"extensions: [{oid: 2.5.29.14, value: \"0400\"}]": true, "extensions: [{oid: 1.3.6.1.4.1.311.25.2, text: x}]": true, "extensions: [{oid: 1.2.3.4, any_value: true}]": false,
	} {
		text := "version: 1\nrules:\n  - name: a\n    authorities: [p]\n    origin: {hosts: [b.example]}\n    " + line + "\n"
		findings, err := policyfile.Lint([]byte(text), "policy.yaml", lintNow)
		require.NoError(t, err, line)
		require.Equal(t, !who, strings.Contains(fmt.Sprint(findings), warning), "%s: %v", line, findings)
	}
}

// A deny rule whose file has nothing but CAs refuses nobody.
func TestLintNamesFilesOfCAs(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	dir := t.TempDir()
	block := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	one, leaf := block(ca.Certificate()), block(ca.Issue(mtlstest.Leaf{}).Leaf())
	for name, data := range map[string][]byte{"ca.pem": one, "cas.pem": append(one, block(mtlstest.NewCA(t, mtlstest.CAOptions{}).Certificate())...), "chain.pem": append(leaf, one...), "leaf.pem": leaf} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	for line, want := range map[string][]string{
		"certificate_files: [ca.pem]":                      {`4:25: warning: rule "d": "ca.pem" has only certificates of CAs, and so refuses nobody: list it in issuer_files`},
		"certificate_files: [leaf.pem, cas.pem]":           {`4:35: warning: rule "d": "cas.pem" has only certificates of CAs`},
		"certificate_files: [chain.pem]":                   nil,
		"certificate_files: [leaf.pem]":                    nil,
		"issuer_files: [ca.pem]":                           nil,
		"public_key_files: [leaf.pem]":                     nil,
		"public_key_files: [chain.pem]":                    nil,
		"public_key_files: [ca.pem]":                       {`4:24: warning: rule "d": "ca.pem" has only certificates of CAs, and so refuses nobody: list it in issuer_files`},
		"certificates: [" + strings.Repeat("ab", 32) + "]": nil,
	} {
		path := filepath.Join(dir, "policy.yaml")
		text := "version: 1\nrules:\n  - name: d\n    " + line + "\n    deny: true\n  - name: a\n    domains: [a.example]\n    certificate_files: [ca.pem]\n"
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		file, err := policyfile.Options{Now: func() time.Time { return lintNow }}.Load(path)
		require.NoError(t, err, line)
		var got []string
		admits := 0
		for _, f := range file.Lint() {
			if f.Rule == "d" {
				got = append(got, f.String())
			} else if strings.Contains(f.Text, `"ca.pem" has only certificates of CAs, which are no clients, and so admits nobody`) {
				require.Equal(t, "a", f.Rule)
				admits++
			}
		}
		require.Equal(t, 1, admits)
		require.Len(t, got, len(want), "%s: %q", line, got)
		for i, w := range want {
			require.Contains(t, got[i], w, line)
		}
	}
}

// However many rules there are, so many findings are shown, and how many more there
// are.
func TestFindingsAreBounded(t *testing.T) {
	lint := func(rules int) []policyfile.Finding {
		var b strings.Builder
		b.WriteString("version: 1\nrules:\n")
		for i := range rules {
			fmt.Fprintf(&b, "  - {name: r%d, authorities: [p], certificates: [f%063x], origin: none}\n", i, i+1)
			fmt.Fprintf(&b, "  - {name: d%d, deny: true, disabled: true, domains: [a%d.example]}\n", i, i)
		}
		findings, err := policyfile.Lint([]byte(b.String()), "policy.yaml", lintNow)
		require.NoError(t, err)
		return findings
	}
	require.Len(t, lint(1000), 2000)
	findings := lint(1001)
	require.Len(t, findings, 2002)
	require.NotContains(t, fmt.Sprint(findings), "more, here")
	require.Equal(t, "d1000", findings[2001].Rule)
	findings = lint(5000)
	require.Len(t, findings, 2002)
	require.Regexp(t, `^policy.yaml:2003:\d+: note: and 4000 more, here and in other rules$`, findings[2000].String())
	require.Regexp(t, `^policy.yaml:2004:\d+: warning: and 4000 more, here and in other rules$`, findings[2001].String())
}

func TestLintCountsRulesThatNoIndexFinds(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nrules:\n")
	for i := range 10 {
		fmt.Fprintf(&b, "  - name: w%d\n    subject: [{type: O, value: \"x%d *\"}]\n    authorities: [p]\n    origin: {hosts: [b.example]}\n", i, i)
	}
	findings, err := policyfile.Lint([]byte(b.String()), "policy.yaml", lintNow)
	require.NoError(t, err)
	require.Len(t, findings, 1)
	require.Contains(t, findings[0].Text, `no index finds "w0", "w1", "w2" and 7 more`)
}

func TestLintRefusesWhatParseRefuses(t *testing.T) {
	for _, text := range []string{"broken", "version: 1\nrules:\n  - name: a\n"} {
		_, want := policyfile.Parse([]byte(text), "policy.yaml")
		findings, err := policyfile.Lint([]byte(text), "policy.yaml", lintNow)
		require.Nil(t, findings)
		require.EqualError(t, err, want.Error())
	}
}

func TestFileLintsWhatIsInForce(t *testing.T) {
	path := newFile(t, "version: 1\nrules:\n  - name: a\n    domains: [a.example]\n    not_after: 2026-06-01T00:00:00Z\n")
	now := lintNow.Add(-time.Second)
	file, err := policyfile.Options{Now: func() time.Time { return now }}.Load(path)
	require.NoError(t, err)
	require.Empty(t, file.Lint())
	now = lintNow
	require.Len(t, file.Lint(), 1)
	require.Equal(t, path, file.Lint()[0].File)
}
