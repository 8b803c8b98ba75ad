package policyfile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/policyfile"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(policyfile.Schema()))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("policy.json", doc))
	s, err := c.Compile("policy.json")
	require.NoError(t, err)
	return s
}

// verdicts returns what the schema and Parse say of a document.
func verdicts(t *testing.T, s *jsonschema.Schema, doc string) (bySchema, byParse error) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(doc))
	require.NoError(t, err, doc)
	_, byParse = policyfile.Parse([]byte(doc), "policy.json")
	return s.Validate(v), byParse
}

// object is a JSON object that keeps no order; its keys are sorted when it is written.
type object = map[string]any

// fullRule has every field that a rule can have.
func fullRule(name string) object {
	hash := strings.Repeat("ab", 32)
	return object{
		"name": name, "account": "x", "roles": []any{"a", "b"}, "deny": false, "disabled": true, "domains": []any{"a.example", "*.b.example"},
		"uris": []any{"spiffe://a.example/*"}, "emails": []any{"a@b.example"}, "upns": []any{"*@b.example"}, "certificates": []any{hash, strings.TrimSuffix(strings.Repeat("CD:", 32), ":")},
		"public_keys": []any{hash}, "issuer_keys": []any{hash}, "authorities": []any{"p"},
		"subject": []any{object{"type": "O", "value": "x *", "ignore_case": true}}, "issuer": []any{object{"type": "2.5.4.97", "value": "y"}},
		"policy_oids": []any{"1.2.3.4"}, "extensions": []any{object{"oid": "1.2.3.4", "value": "0aFF"}, object{"oid": "1.2.3.4", "text": "t"}, object{"oid": "2.999.3", "any_value": true}},
		"min_rsa_bits": 3072, "curves": []any{"P-256", "Ed25519"}, "groups": []any{"g"}, "not_before": "2026-01-01T00:00:00Z", "not_after": "2026-12-31T23:59:59.123+02:00", "insecure_any_client": false,
		"origin": object{"hosts": []any{"e.example"}, "prefixes": []any{"198.51.100.0/28", "2001:db8::/56"}, "published": true, "reverse_suffixes": []any{"e.example"},
			"require_dnssec": true, "report_only": true, "allow_networks": []any{"10.0.0.0/8"}, "window": "10m1.5s"},
	}
}

func write(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return string(data)
}

// Documents with any choice of fields are accepted by both.
func TestSchemaAcceptsWhatParseAccepts(t *testing.T) {
	s := schema(t)
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		full := fullRule("a")
		for _, key := range slices.Sorted(maps.Keys(full)) {
			if key != "name" && key != "domains" && key != "authorities" && r.IntN(2) == 0 {
				delete(full, key)
			}
		}
		if _, stated := full["origin"]; !stated {
			full["origin"] = "none"
		}
		doc := write(t, object{"version": 1, "rules": []any{full, object{"name": "b", "domains": []any{"b.example"}}}})
		bySchema, byParse := verdicts(t, s, doc)
		require.NoError(t, bySchema, doc)
		require.NoError(t, byParse, doc)
	}
	bySchema, byParse := verdicts(t, s, `{"version":1,"deny_all":true}`)
	require.NoError(t, bySchema)
	require.NoError(t, byParse)
}

// structural are values that put something of another kind in the place of any value.
var structural = map[string]any{
	"null": nil, "a number": 7, "a fraction": 1.5, "zero": 0, "a negative number": -1, "true": true, "empty text": "", "an empty list": []any{}, "an empty mapping": object{},
	"a list of text": []any{"zz zz"}, "a list of numbers": []any{1}, "a list of null": []any{nil}, "a list of lists": []any{[]any{}}, "a mapping": object{"x": "y"}, "text": "zz zz", "one as text": "1",
}

// parseOnly are problems that a schema cannot say: both accept the structure, and
// Parse knows more.
var parseOnly = regexp.MustCompile(`a second rule of this name|not a domain for a rule|not a host name|not a URI for a rule|not an e-mail address for a rule|not a user principal name|` +
	`not an attribute for a rule|not a prefix, or all addresses|is not a prefix|it would admit every client|any CA can write any name|without an exact domain|before not_before|` +
	`a deny rule has no|not between 0 and 1h|it concerns the domain|a public suffix|empty, or anyPolicy|stat |the rule names no domain that could publish|more than 10`)

// Whatever is put in the place of one value, taken out or added, both say the same,
// unless Parse says what a schema cannot know.
func TestSchemaAndParseAgreeOnDamage(t *testing.T) {
	s := schema(t)
	checked, refused := 0, 0
	agree := func(what string, doc any) {
		t.Helper()
		text := write(t, doc)
		bySchema, byParse := verdicts(t, s, text)
		checked++
		if bySchema != nil {
			refused++
			require.Error(t, byParse, "%s: only the schema refuses %s: %v", what, text, bySchema)
			return
		}
		if byParse != nil {
			for _, p := range refusals(t, byParse) {
				require.Regexp(t, parseOnly, p, "%s: only Parse refuses %s", what, text)
			}
		}
	}
	fresh := func() object {
		return object{"version": 1, "rules": []any{fullRule("a"), object{"name": "b", "domains": []any{"b.example"}, "origin": "none"}}}
	}
	// each calls f for every place in a document, with a fresh document and a way to
	// replace what is there; removing it is nil.
	var places func(v any, path []any, f func(path []any))
	places = func(v any, path []any, f func(path []any)) {
		if len(path) > 0 {
			f(slices.Clone(path))
		}
		switch v := v.(type) {
		case object:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				places(v[k], append(path, k), f)
			}
		case []any:
			for i := range v {
				places(v[i], append(path, i), f)
			}
		}
	}
	at := func(doc any, path []any) any {
		for _, p := range path {
			if k, ok := p.(string); ok {
				doc = doc.(object)[k]
			} else {
				doc = doc.([]any)[p.(int)]
			}
		}
		return doc
	}
	put := func(doc object, path []any, v any) {
		last := path[len(path)-1]
		if k, ok := last.(string); ok {
			at(doc, path[:len(path)-1]).(object)[k] = v
		} else {
			at(doc, path[:len(path)-1]).([]any)[last.(int)] = v
		}
	}
	places(fresh(), nil, func(path []any) {
		for _, name := range slices.Sorted(maps.Keys(structural)) {
			doc := fresh()
			put(doc, path, structural[name])
			agree(fmt.Sprintf("%s at %v", name, path), doc)
		}
		doc := fresh()
		if k, ok := path[len(path)-1].(string); ok {
			delete(at(doc, path[:len(path)-1]).(object), k)
			agree(fmt.Sprintf("without %v", path), doc)
			// A key of another name, beside it and in its place.
			for _, name := range []string{k + "s", strings.ToUpper(k), "x"} {
				doc = fresh()
				at(doc, path[:len(path)-1]).(object)[name] = at(doc, path)
				agree(fmt.Sprintf("%s beside %v", name, path), doc)
				delete(at(doc, path[:len(path)-1]).(object), k)
				agree(fmt.Sprintf("%s in place of %v", name, path), doc)
			}
		}
	})
	for _, key := range []string{"certificate_files", "public_key_files", "issuer_files"} {
		for _, v := range structural {
			doc := fresh()
			at(doc, []any{"rules", 0}).(object)[key] = v
			agree(key, doc)
		}
	}
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct {
		path   []any
		values []any
	}{
		{[]any{"rules", 0, "certificates", 0}, []any{hash[1:], hash + "a", hash + "ab", strings.Repeat("00", 32), strings.TrimSuffix(strings.Repeat("00:", 32), ":"), "g" + hash[1:], hash[:63] + ":",
			":" + hash, "a:" + hash[1:], hash[:2] + ":" + hash[2:], strings.TrimSuffix(strings.Repeat("ab:", 31), ":"), strings.Repeat("ab:", 32), hash + "\n", " " + hash, strings.ToUpper(hash), strings.TrimSuffix(strings.Repeat("aB:", 32), ":")}},
		{[]any{"rules", 0, "policy_oids", 0}, []any{"1", "1.2", "1.40", "0.39.1", "2.40.1", "2.999", "3.1", "1.2.03", "1.2.", ".1.2", "1..2", "1.2.-3", "a.b", "1.2.3 ", "1.2.3\n", "2.0.0", "1.2.99999999999999999999999999"}},
		{[]any{"rules", 0, "extensions", 0, "value"}, []any{"0", "0g", "00", "aB", "00 ", " 00", "0x00", "00\n"}},
		{[]any{"rules", 0, "extensions", 0, "text"}, []any{"with value too"}},
		{[]any{"rules", 0, "not_before"}, []any{"2026-01-01", "2026-01-01T00:00:00", "2026-01-01 00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-01-32T00:00:00Z", "2026-01-01T24:00:00Z",
			"2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "2026-01-01t00:00:00z", "2026-01-01T00:00:00,5Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.0123456789Z", "2026-01-01T00:00:00+24:00",
			"2026-01-01T00:00:00+01", "2026-01-01T00:00:00-01:59", "2026-01-01T0:00:00Z", "26-01-01T00:00:00Z", "2026-01-01T00:00:00Z\n", "+2026-01-01T00:00:00Z"}},
		{[]any{"rules", 0, "origin", "window"}, []any{"10", "1h", "10 m", "10M", "1m1h", "1d", "-1m", "+1m", "1.5m", "1.5s", ".5s", "1.s", "100ms", "", "1m1m", "59m59.999s", "0s", "0h0m0.0s", "1m\n"}},
		{[]any{"rules", 0, "origin", "prefixes", 0}, []any{"198.51.100.7", "2001:db8::1", "198.51.100.0/", "/28", "a/28", "198.51.100.0/28 ", "198.51.100.0/1000", "fe80::%eth0/64"}},
		{[]any{"rules", 0, "min_rsa_bits"}, []any{1, 0, 1 << 30, 999999999, "3072", 3072.5}},
		{[]any{"rules", 0, "curves", 0}, []any{"P-224", "p-256", "Ed25519", "P-521"}},
		{[]any{"rules", 1, "origin"}, []any{"None", "none", "any", true, []any{"none"}}},
		{[]any{"version"}, []any{1, 2, "1", 0, -1}},
		{[]any{"deny_all"}, []any{true, false, "true"}},
	} {
		for _, v := range c.values {
			doc := fresh()
			if len(c.path) > 1 {
				put(doc, c.path, v)
			} else {
				doc[c.path[0].(string)] = v
			}
			agree(fmt.Sprintf("%v at %v", v, c.path), doc)
			if c.path[0] == "deny_all" {
				delete(doc, "rules")
				agree(fmt.Sprintf("%v at %v", v, c.path), doc)
			}
		}
	}
	t.Logf("%d documents, %d refused", checked, refused)
	require.Greater(t, refused, checked/2)
}

// What only Parse can know, each with one document that the schema accepts.
func TestWhatOnlyParseKnows(t *testing.T) {
	s := schema(t)
	for what, doc := range map[string]string{
		"a second rule of one name":             `{"version":1,"rules":[{"name":"a","domains":["a.example"]},{"name":"a","domains":["b.example"]}]}`,
		"a second key":                          `{"version":1,"version":1,"deny_all":true}`,
		"what a domain is":                      `{"version":1,"rules":[{"name":"a","domains":["a b"]}]}`,
		"what a URI is":                         `{"version":1,"rules":[{"name":"a","uris":["a b"],"authorities":["p"],"origin":"none"}]}`,
		"a wildcard under a public suffix":      `{"version":1,"rules":[{"name":"a","domains":["*.com"],"origin":"none"}]}`,
		"names of attributes":                   `{"version":1,"rules":[{"name":"a","subject":[{"type":"Nope","value":"x"}],"authorities":["p"],"origin":"none"}]}`,
		"a rule that would admit everybody":     `{"version":1,"rules":[{"name":"a","origin":"none"}]}`,
		"a rule that needs an origin":           `{"version":1,"rules":[{"name":"a","authorities":["p"]}]}`,
		"what deny rules have not":              `{"version":1,"rules":[{"name":"a","domains":["a.example"],"deny":true,"roles":["x"]}]}`,
		"which time is the later":               `{"version":1,"rules":[{"name":"a","domains":["a.example"],"not_before":"2027-01-01T00:00:00Z","not_after":"2026-01-01T00:00:00Z"}]}`,
		"how many days a month has":             `{"version":1,"rules":[{"name":"a","domains":["a.example"],"not_before":"2026-02-30T00:00:00Z"}]}`,
		"the bits of a prefix":                  `{"version":1,"rules":[{"name":"a","domains":["a.example"],"origin":{"prefixes":["10.0.0.0/33"]}}]}`,
		"a prefix of all addresses":             `{"version":1,"rules":[{"name":"a","domains":["a.example"],"origin":{"prefixes":["0.0.0.0/0"]}}]}`,
		"a window that is too long":             `{"version":1,"rules":[{"name":"a","domains":["a.example"],"origin":{"window":"2h"}}]}`,
		"what a file holds":                     `{"version":1,"rules":[{"name":"a","certificate_files":["nowhere.pem"],"origin":"none"}]}`,
		"a whole number is written as such":     `{"version":1.0,"deny_all":true}`,
		"bytes after the document, or comments": `{"version":1,"rules":[{"name":"a","domains":["a.example"]}]}` + "\n",
	} {
		t.Run(what, func(t *testing.T) {
			bySchema, byParse := verdicts(t, s, doc)
			require.NoError(t, bySchema)
			if strings.HasPrefix(what, "bytes after") {
				_, byParse = policyfile.Parse([]byte(doc+"x"), "policy.json")
			}
			require.Error(t, byParse)
		})
	}
}

// The keys of the schema are those that Parse knows: a key that one has not is
// refused by it, and the documentation describes all of them.
func TestSchemaDescribesEveryKey(t *testing.T) {
	var doc struct {
		Properties map[string]struct{ Description string }
		Defs       map[string]struct {
			Properties map[string]struct {
				Description string
				Ref         string `json:"$ref"`
			}
		} `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(policyfile.Schema(), &doc))
	page, err := os.ReadFile("../docs/policyfile.md")
	require.NoError(t, err)
	n := 0
	for of, d := range doc.Defs {
		for key, p := range d.Properties {
			n++
			require.True(t, p.Description != "" || p.Ref != "", "%s.%s", of, key)
			require.Contains(t, string(page), "`"+key+"`", "docs/policyfile.md")
		}
	}
	require.Equal(t, 27+3+4, n)
	first := policyfile.Schema()
	first[0] = 'x'
	require.Equal(t, byte('{'), policyfile.Schema()[0], "a copy")
}

// No two keys differ by one letter: a wrong byte must not make one of another.
func TestKeysAreFarApart(t *testing.T) {
	var doc struct {
		Properties map[string]any
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal(policyfile.Schema(), &doc))
	lists := [][]string{slices.Collect(maps.Keys(doc.Properties))}
	for _, d := range doc.Defs {
		lists = append(lists, slices.Collect(maps.Keys(d.Properties)))
	}
	for _, keys := range lists {
		known := map[string]bool{}
		for _, k := range keys {
			known[k] = true
		}
		for _, k := range keys {
			eachDamage(k, func(_ int, _, damaged string) {
				require.False(t, damaged != k && known[damaged], "%s and %s", k, damaged)
			})
		}
	}
}
