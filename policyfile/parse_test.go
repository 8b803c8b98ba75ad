package policyfile_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// refusals returns the problems of an error as "line:column: text".
func refusals(t *testing.T, err error) []string {
	t.Helper()
	list, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok, "%v", err)
	var all []string
	for _, e := range list.Unwrap() {
		var p *policyfile.Error
		require.ErrorAs(t, e, &p)
		require.Equal(t, fmt.Sprintf("mtls: %s:%d:%d: %s", p.File, p.Line, p.Column, p.Problem), e.Error())
		require.NotContains(t, p.Problem, "reading failed")
		all = append(all, fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Problem))
	}
	return all
}

// rule is a file whose only rule has the lines.
func rule(lines ...string) string {
	return "version: 1\nrules:\n  - name: acme\n    domains: [a.example]\n    " + strings.Join(lines, "\n    ") + "\n"
}

func TestParseRefuses(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		text string
		want []string // line:column: a part of the text
	}{
		"an unknown key":                    {rule("colour: red"), []string{`5:5: a rule has no key "colour"`}},
		"an unknown key that was meant":     {rule("rolles: [a]"), []string{`5:5: a rule has no key "rolles"; was roles meant?`}},
		"a name of Go":                      {rule("NotBefore: 2026-01-01T00:00:00Z"), []string{`was not_before meant?`}},
		"an unknown key of the file":        {"version: 1\nrule: []\n", []string{`2:1: the file has no key "rule"; was rules meant?`, `1:1: the file needs rules`}},
		"a second key":                      {rule("roles: [a]", "roles: [b]"), []string{`6:5: a second "roles": the first is in line 5`}},
		"a second key in quotes":            {rule("roles: [a]", `"roles": [b]`), []string{`6:5: a second "roles"`}},
		"a second key in JSON":              {`{"version":1,"rules":[{"name":"a","name":"b"}]}`, []string{`1:35: a second "name"`}},
		"a second key by an escape":         {`{"version":1,"rules":[{"name":"a","nam\u0065":"b"}]}`, []string{`1:35: a second "name"`}},
		"text for a list":                   {rule("roles: a"), []string{`5:12: roles: a list is expected, such as [a, b], not "a"`}},
		"a list for text":                   {rule("account: [a]"), []string{`5:14: account: text is expected, not a list`}},
		"a mapping for text":                {rule("account: {a: b}"), []string{`5:14: account: text is expected, not a mapping`}},
		"text for true or false":            {rule(`deny: "true"`), []string{`5:11: deny: true or false is expected`}},
		"yes":                               {rule("deny: yes"), []string{`5:11: deny: true or false is expected (in small letters, without quotes), not "yes"`}},
		"True":                              {rule("deny: True"), []string{`5:11: deny: true or false`}},
		"off as text":                       {rule("roles: [off]"), []string{`5:13: roles: YAML takes "off" for true or false: put it in quotes`}},
		"null":                              {rule("account: null"), []string{`5:14: account: YAML takes "null" for null`}},
		"~":                                 {rule("account: ~"), []string{`5:14: account: YAML takes "~" for null`}},
		"null in JSON":                      {`{"version":1,"rules":[{"name":null}]}`, []string{`1:31: name: YAML takes "null" for null`}},
		"no value":                          {rule("account:"), []string{`5:5: "account" has no value`}},
		"no value, with a comment":          {rule("account: # x"), []string{`5:5: "account" has no value`}},
		"empty text":                        {rule(`account: ""`), []string{`5:14: account: empty text`}},
		"an empty list":                     {rule("roles: []"), []string{`5:12: roles: an empty list`}},
		"an empty element":                  {rule("roles:", "  - a", "  -"), []string{`7:8: an empty element`}},
		"an empty mapping":                  {rule("origin: {}"), []string{`5:13: origin: an empty mapping`}},
		"a list in a list":                  {rule("roles:", "  - - a"), []string{`6:9: a list in a list`}},
		"a number as a name":                {"version: 1\nrules:\n  - name: 1e3\n", []string{`3:11: name: YAML takes "1e3" for a number: put it in quotes`}},
		"007":                               {"version: 1\nrules:\n  - name: 007\n", []string{`3:11: name: YAML takes "007" for a number`}},
		"a number of base sixty":            {rule("roles: [12:30:45]"), []string{`YAML takes "12:30:45" for a number`}},
		"a date as text":                    {rule("roles: [2026-01-01]"), []string{`YAML takes "2026-01-01" for a date`}},
		"infinity":                          {rule("roles: [.inf]"), []string{`YAML takes ".inf" for a number`}},
		"a number in JSON":                  {`{"version":1,"rules":[{"name":7}]}`, []string{`1:31: name: YAML takes "7" for a number`}},
		"an anchor":                         {rule("account: &a b"), []string{`5:14: an anchor`}},
		"an alias":                          {rule("account: *a"), []string{`5:14: an alias`}},
		"a merge key":                       {rule("<<: {deny: true}"), []string{`5:5: a merge key`}},
		"a tag":                             {rule("account: !!str x"), []string{`5:14: a tag`}},
		"two documents":                     {"version: 1\ndeny_all: true\n---\nversion: 1\n", []string{`3:1: `}},
		"a document's end":                  {"version: 1\ndeny_all: true\n...\n", []string{`3:1: `}},
		"a directive":                       {"%YAML 1.2\n---\nversion: 1\n", []string{`1:1: a file is one document`}},
		"JSON and something":                {`{"version":1,"deny_all":true} {}`, []string{`1:31: unexpected`}},
		"two JSON documents":                {"{\"version\":1,\"deny_all\":true}\n{}\n", []string{`2:1: this belongs to nothing`}},
		"a byte order mark":                 {"\ufeffversion: 1\ndeny_all: true\n", []string{`1:1: a byte order mark`}},
		"a NUL":                             {"version: 1\nrules\x00: []\n", []string{`2:6: a NUL byte`}},
		"bytes that are no UTF-8":           {"version: 1\n# \xff\ndeny_all: true\n", []string{`2:3: this is not UTF-8`}},
		"UTF-16":                            {"\xff\xfev\x00e\x00", []string{`1:1: this is not UTF-8`}},
		"a line end of Unicode":             {"version: 1\n# a\u2028deny_all: true\n", []string{`2:4: a control character, U+2028`}},
		"NEL":                               {"version: 1\n# a\u0085deny_all: true\n", []string{`2:4: a control character, U+0085`}},
		"an escape sequence":                {"version: 1\n# a\x1b[2Kdeny_all: true\n", []string{`2:4: a control character, U+001B`}},
		"text that is turned, in a comment": {rule("roles: [a] # \u202eeurt :yned\u202c"), []string{`5:18: a character that cannot be seen, U+202E`}},
		"text that is turned, in quotes":    {rule("roles: [\"a\u2066b\"]"), []string{`5:15: a character that cannot be seen, U+2066`}},
		"a character without width":         {rule("roles: [\"a\u200bb\"]"), []string{`5:15: a character that cannot be seen, U+200B`}},
		"a tag of Unicode":                  {rule("roles: [\"a\U000e0041b\"]"), []string{`5:15: a character that cannot be seen, U+E0041`}},
		"a carriage return alone":           {"version: 1\n# a\rdeny_all: true\n", []string{`2:4: a carriage return`}},
		"indentation by a tab":              {"version: 1\nrules:\n\t- name: a\n", []string{`3:1: a tab`}},
		"a tab in text":                     {rule("account: a\tb"), []string{`5:15: a tab`}},
		"a raw tab in quotes":               {rule("account: \"a\tb\""), []string{`5:16: a tab in quotes`}},
		"nesting":                           {"version: 1\nrules: " + strings.Repeat("[", 9) + "\n", []string{`2:15: nested too deep`}},
		"nesting without end":               {"version: 1\nrules: " + strings.Repeat("[", 1<<20), []string{`2:15: nested too deep`}},
		"nesting in JSON":                   {strings.Repeat(`{"a":`, 1<<20), []string{`nested too deep`}},
		"many keys":                         {"a: 1\n" + manyKeys(100_000), []string{`more than 64 keys`}},
		"many elements":                     {rule("roles: [" + strings.Repeat("a, ", 100_000) + "a]"), []string{`5:300013: more than 100000 elements in a list: make several rules`}},
		"many elements in lines":            {rule("roles:\n" + strings.Repeat("      - a\n", 100_001)), []string{`100006:7: more than 100000 elements in a list`}},
		"many blanks at the end of a line":  {rule("account: a" + strings.Repeat(" ", 1<<20)), []string{`more than 64 blanks at the end of a line`}},
		"many blanks before a comment":      {rule("account: a" + strings.Repeat(" ", 1<<20) + "# x"), []string{`more than 64 blanks`}},
		"text with blanks between brackets": {rule("roles: [a b]"), []string{`5:15: a comma or the end of what [ in line 5 began was expected`}},
		"two blanks in text":                {rule("account: a  b"), []string{`5:16: two blanks in a row in text without quotes`}},
		"a quote in text":                   {rule("account: it's"), []string{`'\'' in text without quotes`}},
		"quotes in text":                    {rule("account: a\"b"), []string{`'"' in text without quotes`}},
		"a backslash in text":               {rule("account: a\\b"), []string{`in text without quotes`}},
		"a bracket in text":                 {rule("account: a]"), []string{`5:15: ']' in text without quotes`}},
		"a # in text":                       {rule("account: a#b"), []string{`5:15: '#' in text without quotes`}},
		"a colon and a blank in text":       {rule("account: a: b"), []string{`5:15: a colon and a blank in a value`}},
		"a colon at the end of text":        {rule("account: a:"), []string{`5:15: a colon and a blank in a value`}},
		"a colon without a blank between brackets":   {rule("origin: {hosts:[a.example]}"), []string{`5:20: a blank is missing behind the colon of "hosts"`}},
		"a colon in the next line, around the rules": {"{version\n: 1, rules: [{name: a, domains: [a.example]}]}\n", []string{`1:1: not YAML: "map key definition includes an implicit line break"`}},
		"a colon in the next line, in a rule":        {"{version: 1, rules: [{name\n: a, domains: [a.example]}]}\n", []string{`not YAML`}},
		"a comma without a blank":                    {rule("roles: [a,b]"), []string{`5:14: a blank is missing behind the comma`}},
		"nothing":                                    {"", []string{`1:1: the file is empty`}},
		"a comment alone":                            {"# x\n", []string{`the file is empty`}},
		"no version":                                 {"deny_all: true\n", []string{`1:1: the file needs a version`}},
		"another version":                            {"version: 2\ndeny_all: true\n", []string{`1:10: version: 1 is expected`}},
		"a version in quotes":                        {"version: \"1\"\ndeny_all: true\n", []string{`1:10: version: 1 is expected`}},
		"neither rules nor deny_all":                 {"version: 1\n", []string{`1:1: the file needs rules, or deny_all: true`}},
		"no rules":                                   {"version: 1\nrules: []\n", []string{`2:8: rules: an empty list; deny_all: true admits nobody`}},
		"rules and deny_all":                         {"version: 1\ndeny_all: true\nrules:\n  - name: a\n    domains: [a.example]\n", []string{`2:11: rules and deny_all: one of them`}},
		"deny_all: false":                            {"version: 1\ndeny_all: false\n", []string{`2:11: deny_all: true is expected`}},
		"a rule that is text":                        {"version: 1\nrules: [acme]\n", []string{`2:9: a rule is a mapping of keys to values, not "acme"`}},
		"rules that are a mapping":                   {"version: 1\nrules: {acme: {domains: [a.example]}}\n", []string{`2:8: rules: a list of rules is expected`}},
		"no name":                                    {"version: 1\nrules:\n  - domains: [a.example]\n", []string{`3:5: a rule needs a name`}},
		"text of several lines":                      {rule("account: |", "  x"), []string{`5:14: text of several lines`}},
		"text that goes on":                          {rule("account: a", "  b"), []string{`6:7: `}},
		"quotes that go on":                          {rule(`account: "a`, `  b"`), []string{`5:14: the text in quotes does not end in its line`}},
		"a wrong indentation":                        {rule("  roles: [a]"), []string{`5:7: the indentation of this line is that of nothing above it`}},
		"an indentation by one":                      {"version: 1\nrules:\n - name: a\n", []string{`3:2: indent by two blanks`}},
		"a key without a blank":                      {rule("account:a"), []string{`5:13: a blank is missing behind the colon`}},
		"an escape of C":                             {rule(`account: "\x41"`), []string{`5:15: not an escape of JSON`}},
		"an escape that is cut":                      {rule(`account: "\u00"`), []string{`5:15: \u needs four hexadecimal digits`}},
		"half a surrogate":                           {rule(`account: "\ud83d"`), []string{`5:15: half a character`}},
		"the other half":                             {rule(`account: "\ude00"`), []string{`5:15: half a character`}},
		"two first halves":                           {rule(`account: "\ud83d\ud83d"`), []string{`5:15: half a character`}},
		"a comma too much":                           {rule("roles: [a, ]"), []string{`5:16: an element is missing`}},
		"a comment that was a setting":               {rule("# deny: true"), []string{`5:5: a comment that looks like a setting`}},
		"a comment that was an element":              {rule("roles:", "  - a", "  # b"), []string{`7:7: a comment in the place of an element`}},
		"a comment with a lost line":                 {rule("# Now    deny: true"), []string{`5:5: two blanks in a row in a comment`}},
		"a comment with a lost element":              {rule("# Now- name: b"), []string{`5:5: a comment that looks like an element`}},
		"a comment between brackets":                 {rule("roles: [a, # x", "  b]"), []string{`5:16: a # between brackets`}},
		"a file that is cut":                         {"version: 1\nrules:\n  - name: a\n    domains: [a.example]", []string{`4:25: the last line has no end`}},
		"a bracket that is not closed":               {rule("roles: [a"), []string{`5:12: this [ is not closed`}},
		"columns in characters":                      {"version: 1\nrules:\n  - {name: \"äöü😀\", colour: red}\n", []string{`3:20: a rule has no key "colour"`}},
		"a hash that is short":                       {rule("certificates: [abcd]"), []string{`5:20: certificates: "abcd" is not a SHA-256 hash`}},
		"a hash of zeros":                            {rule(`certificates: ["` + strings.Repeat("00", 32) + `"]`), []string{`5:20: certificates: `}},
		"a hash with a colon in a byte":              {rule(`certificates: ["a:b` + hash[2:] + `"]`), []string{`5:20: certificates: `}},
		"an OID":                                     {rule("policy_oids: [3.1.2]"), []string{`5:19: policy_oids: "3.1.2" is not an object identifier`}},
		"an OID that is a number":                    {rule("policy_oids: [1.2]"), []string{`5:19: policy_oids: YAML takes "1.2" for a number`}},
		"an address for a prefix":                    {rule("origin: {prefixes: [198.51.100.7]}"), []string{`5:25: prefixes: "198.51.100.7" is an address; for that one address write 198.51.100.7/32`}},
		"an IPv6 address for a prefix":               {rule(`origin: {prefixes: ["2001:db8::1"]}`), []string{`write 2001:db8::1/128`}},
		"no prefix":                                  {rule("origin: {prefixes: [198.51.100.7/33]}"), []string{`5:25: prefixes: "198.51.100.7/33" is not a prefix`}},
		"an unknown origin":                          {rule("origin: anywhere"), []string{`5:13: origin: none (for anywhere) or a mapping`}},
		"a window without a unit":                    {rule(`origin: {window: "10"}`), []string{`5:22: window: "10" is not a time above zero`}},
		"a window of zero":                           {rule("origin: {window: 0s}"), []string{`5:22: window: "0s" is not a time above zero`}},
		"a day that does not exist":                  {rule("not_before: 2026-02-30T00:00:00Z"), []string{`5:17: not_before: "2026-02-30T00:00:00Z" is not a time as RFC 3339 has it`}},
		"a day alone":                                {rule("not_before: 2026-02-03"), []string{`5:17: not_before: `}},
		"the time that stands for none":              {rule("not_before: 0001-01-01T00:00:00Z"), []string{`5:17: not_before: this is the time that stands for none`}},
		"a number with a point":                      {rule("min_rsa_bits: 3072.0"), []string{`5:19: min_rsa_bits: a whole number`}},
		"an attribute without a value":               {rule("authorities: [p]", "subject: [{type: O}]"), []string{`6:15: an element of subject needs a value`}},
		"an extension's value":                       {rule("authorities: [p]", "extensions: [{oid: 1.2.3, value: abc}]"), []string{`6:38: value: "abc" is not hexadecimal`}},
		"all problems of a file":                     {rule("colour: red", "deny: yes", "roles: a"), []string{`5:5: `, `6:11: `, `7:12: `}},
		"problems behind a rule that is no YAML":     {"version: 1\nrules:\n  - name: *a\n    deny: true\n  - name: b\n    deny: yes\n  - name: c\n    domains: [\"?\"]\n", []string{`3:11: an alias`, `6:11: deny: true or false`, `8:15: rule "c": domains[0]: "?": not a domain`}},
		"a file that does not exist":                 {rule("certificate_files: [missing.pem]"), []string{`5:25: certificate_files: stat `}},
	} {
		t.Run(name, func(t *testing.T) {
			rules, err := policyfile.Parse([]byte(c.text), "policy.yaml")
			require.Error(t, err)
			require.Nil(t, rules)
			got := refusals(t, err)
			require.Len(t, got, len(c.want), "%q", got)
			all := strings.Join(got, "\n")
			for _, w := range c.want {
				require.Contains(t, all, w)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}

func TestParseRefusesLargeFiles(t *testing.T) {
	large := append([]byte("version: 1\ndeny_all: true\n"), make([]byte, 64<<20)...)
	_, err := policyfile.Parse(large, "policy.yaml")
	require.EqualError(t, err, "mtls: policy.yaml: it has more than 67108864 bytes")
}

func TestProblemsAreBounded(t *testing.T) {
	text := "version: 1\nrules:\n" + strings.Repeat("  - nome: a\n", 1000)
	_, err := policyfile.Parse([]byte(text), "policy.yaml")
	got := refusals(t, err)
	require.Len(t, got, 21)
	require.Contains(t, got[20], "and 1980 more problems from here on")
	require.Contains(t, got[0], "3:5: ")

	text = "version: 1\nrules:\n" + strings.Repeat("  - name: *a\n", 1000)
	_, err = policyfile.Parse([]byte(text), "policy.yaml")
	require.Len(t, refusals(t, err), 21)
}

// What mtls.NewPolicy refuses has the place of the value, and the names of the file.
func TestProblemsOfRulesHaveTheirPlace(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"a domain":                {"version: 1\nrules:\n  - name: acme\n    domains: [a.example, \"no domain\"]\n", `4:26: rule "acme": domains[1]: "no domain": not a domain for a rule`},
		"in a block":              {"version: 1\nrules:\n- name: acme\n  domains:\n  - a.example\n  \n \n  - \"*.com\"\n", ""},
		"in JSON":                 {"{\"version\":1,\"rules\":[{\"name\":\"b\",\"domains\":[\"b.example\"]},\n {\"name\":\"acme\",\"domains\":[\"a.example\",\"*.com\"]}]}", `2:40: rule "acme": domains[1]: "*.com"`},
		"a second name":           {"version: 1\nrules:\n  - name: a\n    domains: [a.example]\n  - domains: [b.example]\n    name: a\n", `5:5: rule "a": a second rule of this name`},
		"times":                   {rule("not_before: 2026-01-02T00:00:00Z", "not_after: 2026-01-01T00:00:00Z"), `6:16: rule "acme": not_after: `},
		"an origin":               {rule(`origin: {hosts: [a.example, "*.b.example"]}`), `5:33: rule "acme": origin.hosts[1]: "*.b.example"`},
		"a prefix of everything":  {rule(`origin: {prefixes: [0.0.0.0/0]}`), `5:25: rule "acme": origin.prefixes[0]: "0.0.0.0/0": not a prefix, or all addresses: origin: none says that by name`},
		"an origin that is not":   {"version: 1\nrules:\n  - name: a\n    authorities: [p]\n", `3:5: rule "a": origin: a rule without an exact domain has none to look up: state an origin with hosts, prefixes or reverse_suffixes, or origin: none`},
		"a condition too few":     {"version: 1\nrules:\n  - name: a\n    origin: none\n", `3:5: rule "a": it would admit every client of every trusted CA; insecure_any_client: true says so by name`},
		"names without an issuer": {rule(`emails: ["a@b.example"]`), `3:5: rule "acme": authorities: any CA can write any name: a rule with uris, emails, upns, subject, issuer or extensions says in authorities or issuer_keys`},
		"a deny rule":             {rule("deny: true", "roles: [a]"), `3:5: rule "acme": a deny rule has no roles, no account, no groups and no insecure_any_client: true`},
		"a curve":                 {rule("curves: [P-256, P-999]"), `5:21: rule "acme": curves[1]: "P-999"`},
		"an attribute":            {rule("authorities: [p]", "subject:", "  - type: O", "    value: x", "  - type: Nope", "    value: x"), `9:9: rule "acme": subject[1]: "Nope=x"`},
		"value and text":          {rule("authorities: [p]", "extensions: [{oid: 1.2.3.4, text: z}, {oid: 1.2.3.5, value: ab, text: x}]"), `6:43: rule "acme": extensions[1]: "1.2.3.5": one of value, text and any_value`},
		"a policy":                {rule("policy_oids: [1.2.3.4, 2.5.29.32.0]"), `5:28: rule "acme": policy_oids[1]`},
		"words in quotes stay":    {"version: 1\nrules:\n  - name: \"Domains and NotBefore\"\n    origin: none\n", `rule "Domains and NotBefore": it would`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policyfile.Parse([]byte(c.text), "policy.yaml")
			if c.want == "" {
				require.ErrorContains(t, err, "policy.yaml:8:5: rule \"acme\": domains[1]")
				return
			}
			got := refusals(t, err)
			require.Contains(t, strings.Join(got, "\n"), c.want)
			var e *mtls.ConfigError
			require.ErrorAs(t, err, &e, "the cause is there")
		})
	}
}

// complete has every key of the format.
const complete = `version: 1
rules:
  - name: "no: one"
    deny: true
    disabled: true
    domains: ["*.bad.example"]
  - name: acme
    account: a17
    roles: [payments, "read only"]
    domains: [api.acme.example, "*.acme.example"]
    uris: ["spiffe://acme.example/*"]
    emails: [ops@acme.example]
    upns: ["*@corp.example"]
    certificates:
      - 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff
      - "AA:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF"
    public_keys: [ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff]
    subject:
      - {type: O, value: "Acme *", ignore_case: true}
    issuer: [{type: CN, value: "Acme CA"}]
    authorities: [partners]
    issuer_keys: [ee112233445566778899aabbccddeeff00112233445566778899aabbccddeeff]
    policy_oids: [1.3.6.1.4.1.99999.1]
    extensions: [{oid: 1.2.3.4, value: 0401ff}, {oid: 1.2.3.5, text: abc}, {oid: 1.2.3.6, any_value: true}]
    min_rsa_bits: 3072
    curves: [P-256]
    groups: [Payments, "Domain Users"]
    origin:
      hosts: [egress.acme.example]
      prefixes: [198.51.100.0/28, 2001:db8::/56]
      published: true
      reverse_suffixes: [pool.acme.example]
      require_dnssec: true
      report_only: true
      allow_networks: [10.0.0.0/8]
      window: 1h0m0.5s
    not_before: 2026-01-01T00:00:00Z
    not_after: 2026-12-31T23:59:59.5+01:00
  - name: any
    authorities: [partners]
    origin: none
    insecure_any_client: true
`

func TestParseReadsEveryField(t *testing.T) {
	text := strings.Replace(complete, "1h0m0.5s", "59m0.5s", 1)
	rules, err := policyfile.Parse([]byte(text), "policy.yaml")
	require.NoError(t, err)
	cert := func(s string) mtls.CertificateHash {
		h, err := mtls.ParseCertificateHash(s)
		require.NoError(t, err)
		return h
	}
	key := func(first string) mtls.KeyHash {
		return mtls.KeyHash(cert(first + "112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"))
	}
	oid := func(s string) x509.OID {
		id, err := x509.ParseOID(s)
		require.NoError(t, err)
		return id
	}
	require.Equal(t, []mtls.Rule{
		{Name: "no: one", Deny: true, Disabled: true, Domains: []string{"*.bad.example"}},
		{
			Name: "acme", Account: "a17", Roles: []string{"payments", "read only"},
			Domains: []string{"api.acme.example", "*.acme.example"},
			URIs:    []string{"spiffe://acme.example/*"}, Emails: []string{"ops@acme.example"}, UPNs: []string{"*@corp.example"},
			Certificates: []mtls.CertificateHash{
				cert("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"), cert("aa112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")},
			PublicKeys: []mtls.KeyHash{key("ff")},
			Subject:    []mtls.Attribute{{Type: "O", Value: "Acme *", IgnoreCase: true}}, Issuer: []mtls.Attribute{{Type: "CN", Value: "Acme CA"}},
			Authorities: []string{"partners"}, IssuerKeys: []mtls.KeyHash{key("ee")},
			PolicyOIDs: []x509.OID{oid("1.3.6.1.4.1.99999.1")},
			Extensions: []mtls.Extension{{OID: oid("1.2.3.4"), Value: []byte{4, 1, 255}}, {OID: oid("1.2.3.5"), Text: "abc"}, {OID: oid("1.2.3.6"), AnyValue: true}},
			MinRSABits: 3072, Curves: []string{"P-256"}, Groups: []string{"Payments", "Domain Users"},
			Origin: &mtls.Origin{
				Hosts: []string{"egress.acme.example"}, Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("2001:db8::/56")},
				Published: true, ReverseSuffixes: []string{"pool.acme.example"}, RequireDNSSEC: true, ReportOnly: true,
				AllowNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Window: 59*time.Minute + 500*time.Millisecond},
			NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2026, 12, 31, 22, 59, 59, 5e8, time.UTC),
		},
		{Name: "any", Authorities: []string{"partners"}, Origin: mtls.NoOrigin(), InsecureAnyClient: true},
	}, rules)
}

// A field that mtls gets needs a key, and Marshal must write it.
func TestEveryFieldOfARuleHasAKey(t *testing.T) {
	rules, err := policyfile.Parse([]byte(strings.Replace(complete, "1h0m0.5s", "59m0.5s", 1)), "policy.yaml")
	require.NoError(t, err)
	data, err := policyfile.Marshal(rules...)
	require.NoError(t, err)
	rules, err = policyfile.Parse(data, "policy.yaml")
	require.NoError(t, err)
	set := map[string]bool{"When": true}
	look := func(v reflect.Value) {
		for i := range v.NumField() {
			set[v.Type().Field(i).Name] = set[v.Type().Field(i).Name] || !v.Field(i).IsZero()
		}
	}
	for _, r := range rules {
		look(reflect.ValueOf(r))
		for _, a := range r.Subject {
			look(reflect.ValueOf(a))
		}
		for _, e := range r.Extensions {
			look(reflect.ValueOf(e))
		}
		if r.Origin != nil {
			look(reflect.ValueOf(*r.Origin))
		}
	}
	for name, is := range set {
		require.True(t, is, name)
	}
	require.Greater(t, len(set), 30)
}

// A file in JSON is read as encoding/json would read it.
func TestJSONEscapes(t *testing.T) {
	for text, want := range map[string]string{
		`\u0000`: "\x00", `\u00e9`: "é", `\ud83d\ude00`: "😀", `\/`: "/", `\"\\\b\f\n\r\t`: "\"\\\b\f\n\r\t",
		`\uFEFF\u2028\u0085`: "\ufeff\u2028\u0085", `\u202e\u200b\udb40\udc41`: "\u202e\u200b\U000e0041", `a  b`: "a  b", `'x'`: "'x'", "é😀": "é😀", `# x`: "# x", `a: b`: "a: b", ` x `: " x ",
	} {
		rules, err := policyfile.Parse([]byte("{\"version\": 1,\n\t\"rules\":\t[{\"name\":\""+text+"\",\"domains\":[\"a.example\"]}]}"), "policy.json")
		require.NoError(t, err, text)
		require.Equal(t, want, rules[0].Name)
	}
}

func TestFilesOfCertificatesAndKeys(t *testing.T) {
	dir := t.TempDir()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	one, two := ca.Issue(mtlstest.Leaf{Names: []string{"a.example"}}), ca.Issue(mtlstest.Leaf{Names: []string{"b.example"}})
	c1, c2 := one.Leaf(), two.Leaf()
	certPEM := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: c1.RawSubjectPublicKeyInfo})
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	both := append(append([]byte("# one\n"), certPEM(c1)...), certPEM(c2)...)
	write("both.pem", both)
	write("one.der", c1.Raw)
	write("key.pem", keyPEM)
	write("key.der", c2.RawSubjectPublicKeyInfo)
	write("ca.pem", certPEM(ca.Certificate()))
	write("empty.pem", nil)
	write("text.pem", []byte("hello"))
	write("cut.pem", both[:len(both)-40])
	write("damaged.pem", []byte(strings.Replace(string(both), "-----BEGIN", "----BEGIN", 1)))
	write("mixed.pem", append(certPEM(c1), c2.Raw...))
	write("mail.pem", append(certPEM(c1), strings.ReplaceAll(string(certPEM(c2)), "-----", "\u2014\u2013")...))
	write("bare.pem", append(certPEM(c1), base64.StdEncoding.EncodeToString(c2.Raw)+"\n"...))
	write("private.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}))
	write("large.pem", make([]byte, 17<<20))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	file := filepath.Join(dir, "policy.yaml")

	text := "version: 1\nrules:\n  - name: a\n    certificate_files: [both.pem, one.der]\n    certificates: [" + strings.Repeat("ab", 32) + "]\n" +
		"    public_key_files: [key.pem, key.der, both.pem]\n    issuer_files:\n      - " + filepath.Join(dir, "ca.pem") + "\n    origin: none\n"
	rules, err := policyfile.Parse([]byte(text), file)
	require.NoError(t, err)
	listed, err := mtls.ParseCertificateHash(strings.Repeat("ab", 32))
	require.NoError(t, err)
	h1, h2 := mtls.HashCertificate(c1), mtls.HashCertificate(c2)
	require.Equal(t, []mtls.CertificateHash{listed, h1, h2, h1}, rules[0].Certificates)
	k1, k2 := mtls.HashPublicKey(c1), mtls.HashPublicKey(c2)
	require.Equal(t, mtls.KeyHash(sha256.Sum256(c1.RawSubjectPublicKeyInfo)), k1)
	require.Equal(t, []mtls.KeyHash{k1, k2, k1, k2}, rules[0].PublicKeys)
	require.Equal(t, []mtls.KeyHash{mtls.HashPublicKey(ca.Certificate())}, rules[0].IssuerKeys)

	for list, wants := range map[string]map[string]string{
		"certificate_files": {
			"empty.pem": "the file is empty", "text.pem": "neither PEM nor DER", "cut.pem": "damaged PEM after 1 blocks", "damaged.pem": "damaged PEM after 0 blocks",
			"private.pem": `a PEM block "PRIVATE KEY" among the certificates`, "key.pem": `a PEM block "PUBLIC KEY"`, "key.der": "neither PEM nor DER",
			"mixed.pem": "beside the PEM blocks, after 1 of them", "mail.pem": "beside the PEM blocks", "bare.pem": "beside the PEM blocks",
			"large.pem": "has more than 16777216 bytes", "folder": "is not a regular file", "none.pem": "no such file", "/dev/zero": "is not a regular file",
		},
		"public_key_files": {"private.pem": `"PRIVATE KEY" is neither PUBLIC KEY nor CERTIFICATE`, "text.pem": "neither PEM nor DER", "cut.pem": "damaged PEM", "mixed.pem": "beside the PEM blocks"},
		"issuer_files":     {"both.pem": "block 1: a certificate that is not one of a CA", "key.pem": "a PEM block", "cut.pem": "not one of a CA"},
	} {
		for name, want := range wants {
			t.Run(list+"/"+name, func(t *testing.T) {
				text := "version: 1\nrules:\n  - name: a\n    domains: [a.example]\n    " + list + ": [" + name + "]\n"
				_, err := policyfile.Parse([]byte(text), file)
				got := refusals(t, err)
				require.Len(t, got, 1)
				require.Contains(t, got[0], fmt.Sprintf("5:%d: %s: ", 8+len(list), list))
				require.Contains(t, got[0], want)
			})
		}
	}
	t.Run("a path that does not exist is told as such", func(t *testing.T) {
		_, err := policyfile.Parse([]byte(rule("certificate_files: [none.pem]")), file)
		require.True(t, errors.Is(err, os.ErrNotExist))
	})
}
