package iis_test

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/cmd/mtlsctl/internal/iis"
	"github.com/mtlsguard/mtls/policyfile"
)

// Whatever the configuration: no panic; the rules are a policy that can be written
// and read; each mapping is a rule or named; no password comes out.
func FuzzImport(f *testing.F) {
	files, err := filepath.Glob("testdata/*.config")
	require.NoError(f, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data, "", false)
		f.Add(data, "Default Web Site/api", true)
	}
	f.Add([]byte(many(mapping(`name="d" permissionMode="2"`, "1.O=*a*")+"<clear/><remove name=''/>")), "", false)
	f.Fuzz(func(t *testing.T, data []byte, location string, exact bool) {
		checkImport(t, data, iis.Options{Location: location, Exact: exact})
	})
}

// pieces are what FuzzPieces makes mappings of; %s is a text of its input.
var pieces = []string{
	"<oneToOneMappings>", "</oneToOneMappings>", "<manyToOneMappings>", "</manyToOneMappings>", "<rules>", "</rules>", "<add>", "</add>\n",
	"<clear/>", "<remove name='%s'/>", "<remove certificate='%s'/>", "<other/>", "text", "\n",
	"<add name='%s' userName='u'>", "<add name='%s' permissionMode='Deny'>", "<add name='%s' permissionMode='%s' enabled='%s'>",
	"<add userName='%s' certificate='%s'/>", "<add certificate='AAAA' enabled='false'/>",
	"<add certificateField='1' certificateSubField='%s' matchCriteria='%s'/>", "<add certificateField='Issuer' certificateSubField='O' matchCriteria='%s' compareCaseSensitive='%s'/>",
	"<add certificateField='Subject' certificateSubField='CN' matchCriteria='*'/>", "<add name='a' odd='%s' userName='u' password='%s'>",
	"<add name='a' userName='u'><rules><add certificateField='1' certificateSubField='O' matchCriteria='A*'/></rules></add>",
	"<add name='%s' permissionMode='2'><rules><add certificateField='2' certificateSubField='O' matchCriteria='%s'/></rules></add>",
}

// FuzzPieces is FuzzImport with mappings of random parts, so that most of them are
// XML.
func FuzzPieces(f *testing.F) {
	f.Add([]byte{2, 23, 13, 24, 3, 0, 17, 1}, "x")
	f.Add([]byte{2, 14, 4, 19, 5, 7, 15, 4, 20, 5, 7, 8, 3}, "a*b\\")
	f.Fuzz(func(t *testing.T, choice []byte, text string) {
		var b strings.Builder
		if xml.EscapeText(&b, []byte(text)) != nil {
			return
		}
		body := ""
		for _, c := range choice {
			body += strings.ReplaceAll(pieces[int(c)%len(pieces)], "%s", b.String())
		}
		checkImport(t, []byte(within(`enabled="true"`, body)), iis.Options{})
	})
}

func checkImport(t *testing.T, data []byte, o iis.Options) {
	t.Helper()
	r, err := iis.Import(data, o)
	if err != nil {
		return
	}
	require.Len(t, r.Lines, len(r.Rules))
	policy, err := r.Policy("f.config")
	require.NoError(t, err)
	require.NotContains(t, string(bytes.ReplaceAll(policy, []byte("# "), nil)), "\x1b")
	rules, err := policyfile.Parse(policy, "f.yaml")
	require.NoError(t, err)
	require.Len(t, rules, len(r.Rules))
	if len(rules) > 0 {
		_, err = mtls.NewPolicy(rules...)
		require.NoError(t, err)
	}
	for _, rule := range rules {
		require.True(t, rule.Deny || len(rule.Certificates) > 0 || slices.ContainsFunc(append(rule.Subject, rule.Issuer...), func(a mtls.Attribute) bool {
			return strings.Trim(a.Value, "*") != ""
		}), "a rule that admits everybody: %+v", rule)
	}
	for line, n := range mappings(t, data, r) {
		named := 0
		for _, l := range r.Lines {
			if l == line {
				named++
			}
		}
		for _, note := range r.Notes {
			if note.Line == line && (strings.Contains(note.Why, "left out") || strings.Contains(note.Why, "taken away")) {
				named++
			}
		}
		require.GreaterOrEqual(t, named, n, "line %d: %s", line, texts(r))
	}
}

// mappings counts the mappings of each line, where the file has one place for them
// and is in UTF-8; otherwise it finds none.
func mappings(t *testing.T, data []byte, r *iis.Result) map[int]int {
	t.Helper()
	if bytes.HasPrefix(data, []byte("\xFF\xFE")) || bytes.HasPrefix(data, []byte("\xFE\xFF")) ||
		slices.ContainsFunc(r.Notes, func(n iis.Note) bool {
			return strings.Contains(n.Why, "it is that of another place") || strings.Contains(n.Why, "it stands where IIS does not read it")
		}) {
		return nil
	}
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xEF\xBB\xBF"))))
	d.Strict = true
	var path []string
	found := map[int]int{}
	for {
		line, _ := d.InputPos()
		token, err := d.Token()
		if err != nil {
			return found
		}
		switch e := token.(type) {
		case xml.StartElement:
			path = append(path, e.Name.Local)
			if e.Name.Space != "" {
				path[len(path)-1] = "{" + e.Name.Space + "}"
			}
			if n := len(path); n > 2 && path[n-1] == "add" && path[n-3] == "iisClientCertificateMappingAuthentication" &&
				(path[n-2] == "oneToOneMappings" || path[n-2] == "manyToOneMappings") {
				found[line]++
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		}
	}
}
