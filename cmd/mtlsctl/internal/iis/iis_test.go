package iis_test

import (
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/cmd/mtlsctl/internal/iis"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

var update = flag.Bool("update", false, "write the golden files anew")

// within puts mappings into a configuration. They begin in line 7, if the section's
// attributes are on one line.
func within(attributes, mappings string) string {
	return `<configuration>
<system.webServer>
<security>
<authentication>

<iisClientCertificateMappingAuthentication ` + attributes + `>
` + mappings + `
</iisClientCertificateMappingAuthentication>
</authentication>
</security>
</system.webServer>
</configuration>
`
}

// many puts many-to-one mappings into a configuration; the first is in line 8.
func many(mappings string) string {
	return within(`enabled="true"`, "<manyToOneMappings>\n"+mappings+"\n</manyToOneMappings>")
}

// one puts one-to-one mappings into a configuration; the first is in line 8.
func one(mappings string) string {
	return within(`enabled="true"`, "<oneToOneMappings>\n"+mappings+"\n</oneToOneMappings>")
}

// mapping is a many-to-one mapping on one line. Criteria are field.subfield=value.
func mapping(attributes string, criteria ...string) string {
	s := "<add " + attributes + "><rules>"
	for _, c := range criteria {
		name, value, _ := strings.Cut(c, "=")
		field, subfield, _ := strings.Cut(name, ".")
		s += fmt.Sprintf(`<add certificateField="%s" certificateSubField="%s" matchCriteria="%s"/>`, field, subfield, value)
	}
	return s + "</rules></add>"
}

func importText(t *testing.T, config string, o iis.Options) *iis.Result {
	t.Helper()
	r, err := iis.Import([]byte(config), o)
	require.NoError(t, err)
	require.Len(t, r.Lines, len(r.Rules))
	if len(r.Rules) > 0 {
		_, err = mtls.NewPolicy(r.Rules...)
		require.NoError(t, err)
	}
	return r
}

// sample is a certificate in base64 as IIS has it.
func sample(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	require.NotNil(t, block)
	return base64.StdEncoding.EncodeToString(block.Bytes)
}

func TestSamplesBecomeTheirGoldenPolicies(t *testing.T) {
	for _, test := range []struct {
		name   string
		config string
		o      iis.Options
		lost   bool
	}{
		{"all", "full.config", iis.Options{}, true},
		{"all, literally", "full.config", iis.Options{Exact: true, Authority: "partners"}, true},
		{"all carried over", "clean.config", iis.Options{}, false},
		{"a web.config", "web.config", iis.Options{}, false},
		{"several sites", "sites.config", iis.Options{Location: "Default Web Site/api"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", test.config))
			require.NoError(t, err)
			r := importText(t, string(data), test.o)
			require.Equal(t, test.lost, r.Lost())
			policy, err := r.Policy(test.config)
			require.NoError(t, err)
			require.Regexp(t, regexp.MustCompile(`^[ -~\n]*$`), string(policy))

			golden := strings.TrimSuffix(test.config, ".config")
			if test.o.Exact {
				golden += "-exact"
			}
			golden = filepath.Join("testdata", golden+".policy.yaml")
			if *update {
				require.NoError(t, os.WriteFile(golden, policy, 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), string(policy))

			read, err := policyfile.Parse(policy, golden)
			require.NoError(t, err)
			require.Equal(t, len(r.Rules), len(read))
			again, err := policyfile.Marshal(read...)
			require.NoError(t, err)
			require.Contains(t, string(policy), string(again), "what is written means what was read")
		})
	}
}

// The example's policy is what the command makes of its configuration.
func TestExampleIsWhatTheImportMakes(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "..", "examples", "fromiis")
	data, err := os.ReadFile(filepath.Join(dir, "applicationHost.config"))
	require.NoError(t, err)
	policy, err := importText(t, string(data), iis.Options{Authority: "partners"}).Policy("applicationHost.config")
	require.NoError(t, err)
	want, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	require.NoError(t, err)
	require.Equal(t, string(want), string(policy))
}

func TestEachByteOrderMarkIsRead(t *testing.T) {
	text := `<?xml version="1.0" encoding="%s"?>` + many(mapping(`name="Größe 𝄞" userName="u"`, "Subject.O=Ö*"))
	want := importText(t, fmt.Sprintf(text, "UTF-8"), iis.Options{}).Rules
	require.Equal(t, "Größe 𝄞", want[0].Name)
	for name, in := range map[string]string{
		"UTF-8":                          "\xEF\xBB\xBF" + fmt.Sprintf(text, "utf-8"),
		"UTF-16, little end":             "\xFF\xFE" + utf16Text(fmt.Sprintf(text, "utf-16"), 0),
		"UTF-16, big end":                "\xFE\xFF" + utf16Text(fmt.Sprintf(text, "UTF-16"), 1),
		"UTF-16 that is said to be less": "\xFF\xFE" + utf16Text(fmt.Sprintf(text, "us-ascii"), 0),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, want, importText(t, in, iis.Options{}).Rules)
		})
	}
}

func utf16Text(s string, high int) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		two := []byte{byte(u), byte(u >> 8)}
		b = append(b, two[high], two[1-high])
	}
	return string(b)
}

func TestWhatCannotBeReadIsAnErrorWithoutItsText(t *testing.T) {
	const marker = "hunter2"
	good := many(mapping(`name="a" userName="u" password="hunter2"`, "Subject.O=Acme"))
	for name, test := range map[string]struct{ in, want string }{
		"nothing":                           {"", "no element"},
		"no XML":                            {marker, "line 1: text outside"},
		"binary":                            {"\x00\x01\x02" + marker, "line 1: not well-formed"},
		"cut short":                         {good[:len(good)-30], "ends before its last element"},
		"an undefined entity":               {strings.Replace(good, marker, "p&"+marker+";", 1), "line 8: not well-formed XML: a reference to an entity"},
		"a bare ampersand":                  {strings.Replace(good, marker, "p& "+marker, 1), "line 8: not well-formed XML: a reference to an entity"},
		"tags that do not match":            {strings.Replace(good, "</rules>", "</"+marker+">", 1), "line 8: not well-formed"},
		"a quote too many":                  {strings.Replace(good, `password="`, `password=""`, 1), "line 8: not well-formed"},
		"a document type":                   {"<!DOCTYPE configuration [<!ENTITY x \"" + marker + "\">]>" + good, "line 1: a document type declaration"},
		"a second root":                     {good + good, "a second root"},
		"text after the root":               {good + marker, "text outside of the root"},
		"another root":                      {"<" + marker + "/>", "root element"},
		"an attribute twice":                {strings.Replace(good, "password=", `password="x" password=`, 1), "an attribute twice"},
		"an attribute twice in other case":  {strings.Replace(good, "password=", `permissionMode="Deny" permissionmode="Allow" password=`, 1), "an attribute twice"},
		"too many attributes":               {"<configuration " + strings.Repeat(`a="" `, 65) + "/>", "more than 64 attributes"},
		"too many elements":                 {many(strings.Repeat("<a/>", 500_000)), "line 8: more than 500000 elements and attributes"},
		"too many attributes in all":        {many(strings.Repeat(`<a b="" c="" d="" e=""/>`, 100_000)), "line 8: more than 500000 elements and attributes"},
		"too much to say":                   {many(strings.Repeat("<a/>", 50_001)), "more than 50000 things in it are not carried over or to know"},
		"nested too deep":                   {"<configuration>" + strings.Repeat("<a>", 64), "line 1: elements within more than 64"},
		"no section":                        {"<configuration/>", "no iisClientCertificateMappingAuthentication section"},
		"invalid UTF-8":                     {strings.Replace(good, marker, marker+"\xff", 1), "not well-formed"},
		"another encoding":                  {`<?xml version="1.0" encoding="windows-1252"?>` + good, "neither UTF-8 nor UTF-16"},
		"UTF-16 without its byte order":     {utf16Text(good, 0), "not well-formed"},
		"UTF-8 that is said to be UTF-16":   {`<?xml version="1.0" encoding="utf-16"?>` + good, "neither UTF-8 nor UTF-16"},
		"UTF-16 cut in a character":         {"\xFF\xFE" + utf16Text(good, 0) + "\x00", "ends within a character"},
		"UTF-16 with half a pair":           {"\xFF\xFE\x00\xD8" + utf16Text(good, 0), "half a character"},
		"UTF-16 with half a pair at an end": {"\xFF\xFE" + utf16Text(good, 0) + "\x00\xD8", "half a character"},
		"too large":                         {good + strings.Repeat(" ", iis.MaxSize), "larger than 32 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := iis.Import([]byte(test.in), iis.Options{})
			require.ErrorContains(t, err, test.want)
			if name != "another root" {
				require.NotContains(t, err.Error(), marker)
			}
		})
	}
}

// As many elements as may be take no time that grows with their square.
func TestManyMappingsAreRead(t *testing.T) {
	const n = 10_000
	for name, test := range map[string]struct {
		mappings string
		rules    int
	}{
		"of one name":              {strings.Repeat(mapping(`name="d" permissionMode="Deny"`, "Subject.O=A*"), n), n},
		"of no name":               {strings.Repeat(mapping(`userName="u"`, "Subject.O=A*"), n), n},
		"taken away one by one":    {strings.Join(each(n, `<add name="%d"/>`), "") + strings.Join(each(n, `<remove name="%d"/>`), ""), 0},
		"and others taken away":    {strings.Join(each(n, `<add name="%d" enabled="false"/>`), "") + strings.Repeat(`<remove name="x"/>`, n/2), 0},
		"with others of that name": {strings.Repeat(`<add name="x"/>`, n) + `<remove name="x"/>`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := importText(t, many(test.mappings), iis.Options{})
			require.Len(t, r.Rules, test.rules)
		})
	}
}

// As many mappings as may be are compared with as many certificates in bounded time;
// what is not compared is named.
func TestWhatIsNotComparedIsNamed(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	cert := base64.StdEncoding.EncodeToString(ca.Issue(mtlstest.Leaf{Template: named(name(o, strings.Repeat("x", 100_000)))}).Leaf().Raw)
	config := func(denies int) string {
		return within(`enabled="true"`, `<oneToOneMappings><add userName="u" certificate="`+cert+`"/></oneToOneMappings>`+
			"<manyToOneMappings>\n"+strings.Join(each(denies, mapping(`name="%d" permissionMode="Deny"`, "Subject.O=*y*")+"\n"), "")+"</manyToOneMappings>")
	}
	const most = 2_600
	r := importText(t, config(most), iis.Options{})
	require.False(t, r.Lost(), texts(r))
	r = importText(t, config(4*most), iis.Options{})
	require.True(t, r.Lost())
	require.Len(t, r.Rules, 1+4*most)
	require.Regexp(t, `(?m)^f:\d+: many-to-one mapping "26\d\d": it, and 77\d\d after it that deny, are not compared with all certificates of one-to-one mappings`, texts(r))
}

// The last word on each of very many kinds of authentication counts.
func TestManyKindsOfAuthentication(t *testing.T) {
	const n = 100_000
	kinds := strings.Join(each(n, `<k%d enabled="true"/>`), "") + strings.Join(each(n, `<K%d enabled="false"/>`), "")
	r := importText(t, strings.Replace(many(""), "</authentication>", kinds+"</authentication>", 1), iis.Options{})
	require.NotContains(t, texts(r), "it is enabled")
}

func each(n int, format string) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return list
}

func TestLocations(t *testing.T) {
	section := func(name string) string {
		return "<system.webServer><security><authentication><iisClientCertificateMappingAuthentication enabled=\"true\"><manyToOneMappings>" +
			mapping(`name="`+name+`" userName="u"`, "Subject.O="+name+"*") +
			"</manyToOneMappings></iisClientCertificateMappingAuthentication></authentication></security></system.webServer>"
	}
	empty := "<system.webServer><security><authentication><iisClientCertificateMappingAuthentication enabled=\"false\"/></authentication></security></system.webServer>"
	location := func(path, body string) string { return `<location path="` + path + `">` + body + "</location>" }
	config := func(parts ...string) string {
		return "<configuration>" + strings.Join(parts, "\n") + "</configuration>"
	}
	three := config(section("root"), location("Site", section("site")), location("Site/api", section("api")), location("Siteless", section("other")))
	for _, test := range []struct {
		name, config, location string
		want                   []string // rules
		err                    string
	}{
		{"the only one", config(location("Site", section("site"))), "", []string{"site"}, ""},
		{"the only one with mappings", config(empty, location("Site", section("site"))), "", []string{"site"}, ""},
		{"none is the file itself", config(section("root")), "", []string{"root"}, ""},
		{"several ask for one", three, "", nil, `outside of location elements, "Site", "Site/api", "Siteless"; choose one with --location`},
		{"one without mappings of its own has those above", config(section("root"), location("Site", "")), "Site", []string{"root"}, ""},
		{"one inherits what is outside", three, "Site", []string{"root", "site"}, ""},
		{"one inherits what is above, in any case", three, "/site/API/", []string{"root", "site", "api"}, ""},
		{"one does not inherit what only begins alike", three, "Siteless", []string{"root", "other"}, ""},
		{"one that is not there", three, "Sote", nil, `no location "Sote" in it`},
		{"one without any", config(location("Site", ""), location("Other", section("other"))), "Site", nil, `no iisClientCertificateMappingAuthentication section for the location "Site"; it has some in: "Other"`},
		{"order in the file does not matter", config(location("Site/api", section("api")), location("Site", section("site")), section("root")), "Site/api", []string{"root", "site", "api"}, ""},
		{"a dot is the file itself", config(location(".", section("root")), location("Site", section("site"))), "Site", []string{"root", "site"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := iis.Import([]byte(test.config), iis.Options{Location: test.location})
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, ruleNames(r.Rules))
		})
	}
	t.Run("an application that does not inherit is named", func(t *testing.T) {
		in := strings.Replace(three, `path="Site"`, `path="Site" inheritInChildApplications="false"`, 1)
		r := importText(t, in, iis.Options{Location: "Site/api"})
		require.True(t, r.Lost())
		require.Contains(t, texts(r), "inheritInChildApplications is false")
		require.NotContains(t, texts(importText(t, in, iis.Options{Location: "Site"})), "inheritInChildApplications")
	})
	t.Run("a section in the wrong place is named", func(t *testing.T) {
		r := importText(t, config(section("root"), "<system.web><iisClientCertificateMappingAuthentication/></system.web>"), iis.Options{})
		require.Contains(t, texts(r), "it stands where IIS does not read it")
	})
}

func ruleNames(rules []mtls.Rule) []string {
	var names []string
	for _, r := range rules {
		names = append(names, r.Name)
	}
	return names
}

// texts are the notes, one on a line.
func texts(r *iis.Result) string {
	s := ""
	for _, n := range r.Notes {
		s += n.At("f") + "\n"
	}
	return s
}

func TestPasswordsAppearNowhere(t *testing.T) {
	const marker = "hunter2"
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	cert := base64.StdEncoding.EncodeToString(ca.Issue(mtlstest.Leaf{CommonName: "client"}).Leaf().Raw)
	for _, password := range []string{marker, "[enc:AesProvider:" + marker + ":enc]", "x&amp;" + marker, marker + "*\\", "\n" + marker + "\t"} {
		for _, name := range []string{"password", "Password", "PASSWORD"} {
			attributes := fmt.Sprintf(`%s="%s" userName="u"`, name, password)
			config := within(`enabled="true" `+fmt.Sprintf(`%s="%s"`, name, password), "<oneToOneMappings>"+
				"<add certificate=\""+cert+"\" "+attributes+"/><add certificate=\"?\" "+attributes+"/><remove "+attributes+"/><other "+attributes+"/></oneToOneMappings>\n"+
				"<manyToOneMappings "+attributes+">"+mapping(`name="a" strange="`+marker+`" `+attributes, "Subject.O=A")+mapping(`name="d" permissionMode="Deny" `+attributes, "Subject.X=A")+
				"<add name=\"n\" "+attributes+">"+marker+"<rules "+attributes+"><add "+attributes+"/></rules></add></manyToOneMappings>")
			kept, err := iis.Values([]byte(strings.ReplaceAll(config, `strange="`+marker+`"`, "")))
			require.NoError(t, err)
			require.Contains(t, kept, "u")
			require.NotContains(t, strings.Join(kept, "\n"), marker, "what is not kept cannot be printed")
			r := importText(t, config, iis.Options{})
			require.NotContains(t, fmt.Sprintf("%+v", r), marker)
			policy, err := r.Policy("f")
			require.NoError(t, err)
			require.NotContains(t, string(policy), marker)
			require.Contains(t, texts(r), "passwords")
		}
	}
}
