package iis_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/cmd/mtlsctl/internal/iis"
	"github.com/mtlsguard/mtls/policyfile"
)

// shape is what of a rule these tests compare.
type shape struct {
	name, account  string
	deny, disabled bool
	subject        []mtls.Attribute
	issuer         []mtls.Attribute
	hashes         int
}

func shapes(rules []mtls.Rule) []shape {
	var list []shape
	for _, r := range rules {
		list = append(list, shape{r.Name, r.Account, r.Deny, r.Disabled, r.Subject, r.Issuer, len(r.Certificates)})
	}
	return list
}

func attributes(list ...mtls.Attribute) []mtls.Attribute { return list }

func TestMappings(t *testing.T) {
	acme := sample(t, "acme.pem")
	o := attributes(mtls.Attribute{Type: "O", Value: "Acme"})
	plain := shape{name: "a", account: "u", subject: o}
	off := shape{name: "a", account: "u", subject: o, disabled: true}
	deny := shape{name: "d", deny: true, subject: attributes(mtls.Attribute{Type: "OU", Value: "Sales*"})}
	a := mapping(`name="a" userName="u"`, "Subject.O=Acme")
	d := mapping(`name="d" permissionMode="Deny"`, "Subject.OU=Sales*")
	oneShape := shape{name: "one-to-one acme-client", account: "u", hashes: 1}
	oneOff := oneShape
	oneOff.disabled = true

	for _, test := range []struct {
		name, config string
		o            iis.Options
		want         []shape
		notes        []string // what some note says, with its mark and line
		lost         bool
	}{
		{"allow", many(a), iis.Options{}, []shape{plain}, nil, false},
		{"permissionMode in numbers", many(strings.Replace(a, "name", `permissionMode="1" name`, 1) + strings.Replace(d, "Deny", "2", 1)), iis.Options{}, []shape{plain, deny}, nil, true},
		{"permissionMode in other case", many(strings.Replace(d, "permissionMode", "PermissionMode", 1)), iis.Options{}, []shape{deny}, nil, false},
		{"permissionMode unknown is left out, and what follows is disabled", many(mapping(`name="x" permissionMode="Refuse"`, "Subject.O=X*") + "\n" + a), iis.Options{}, []shape{off},
			[]string{"f:8: many-to-one mapping \"x\": left out: its permissionMode", "f:9: many-to-one mapping \"a\": its rule is disabled, since line 8"}, true},

		{"the section is off", strings.Replace(many(a), `enabled="true"`, `enabled="false"`, 1), iis.Options{}, []shape{off}, []string{"f:6: note: section iisClientCertificateMappingAuthentication: enabled is false"}, false},
		{"the section says nothing", strings.Replace(many(a), `enabled="true"`, ``, 1), iis.Options{}, []shape{off}, []string{"f:8: section iisClientCertificateMappingAuthentication: nothing in this file sets enabled"}, true},
		{"the section says neither", strings.Replace(many(a), `enabled="true"`, `enabled="yes"`, 1), iis.Options{}, []shape{off}, []string{`f:6: section iisClientCertificateMappingAuthentication: enabled is "yes"`}, true},
		{"many-to-one is off", strings.Replace(many(a), `enabled="true"`, `enabled="true" manyToOneCertificateMappingsEnabled="false"`, 1), iis.Options{}, []shape{off}, []string{"f:6: note: section iisClientCertificateMappingAuthentication: manyToOneCertificateMappingsEnabled is false"}, false},
		{"one-to-one is off", strings.Replace(one(`<add userName="u" certificate="`+acme+`"/>`), `enabled="true"`, `enabled="true" oneToOneCertificateMappingsEnabled="false"`, 1), iis.Options{}, []shape{oneOff}, []string{"oneToOneCertificateMappingsEnabled is false"}, false},
		{"a mapping is off", many(strings.Replace(a, "name", `enabled="False" name`, 1)), iis.Options{}, []shape{off}, nil, false},
		{"a mapping that allows says neither", many(strings.Replace(a, "name", `enabled="1" name`, 1)), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "a": enabled is "1", neither true nor false; taken for false`}, true},
		{"a mapping that denies says neither", many(strings.Replace(d, "name", `enabled="0" name`, 1)), iis.Options{}, []shape{deny}, []string{`f:8: many-to-one mapping "d": enabled is "0", neither true nor false; taken for true`}, true},

		{"no userName", many(mapping(`name="a"`, "Subject.O=Acme")), iis.Options{}, []shape{{name: "a", subject: o}}, []string{`f:8: many-to-one mapping "a": it has no userName`}, true},
		{"deny with userName", many(strings.Replace(d, "name", `userName="u" name`, 1)), iis.Options{}, []shape{deny}, []string{`f:8: note: many-to-one mapping "d": userName "u" is not carried over`}, false},
		{"no name", many(mapping(`userName="u"`, "Subject.O=Acme")), iis.Options{}, []shape{{name: "many-to-one in line 8", account: "u", subject: o}}, []string{"f:8: many-to-one mapping \"\": it has no name"}, true},
		{"a name twice, the second allows", many(a + "\n" + a), iis.Options{}, []shape{plain}, []string{`f:9: many-to-one mapping "a": left out: line 8 has the same name`}, true},
		{"a name twice, the second denies", many(a + "\n" + strings.Replace(d, `"d"`, `"a"`, 1)), iis.Options{}, []shape{plain, {name: "a (2)", deny: true, subject: deny.subject}}, []string{`f:9: many-to-one mapping "a": line 8 has the same name; its rule is "a (2)"`}, true},

		{"a name twice, and what would be its name", many(d + strings.Replace(d, `"d"`, `"d (2)"`, 1) + d), iis.Options{}, []shape{deny, {name: "d (2)", deny: true, subject: deny.subject}, {name: "d (3)", deny: true, subject: deny.subject}}, []string{`its rule is "d (3)"`}, true},
		{"* alone admits nobody", many(mapping(`name="a" userName="u"`, "Subject.O=*", "Issuer.CN=**")), iis.Options{}, nil, []string{`f:8: many-to-one mapping "a": left out: its criteria match every client`}, true},
		{"* alone beside a value", many(mapping(`name="a" userName="u"`, "Subject.O=Acme", "Subject.OU=*")), iis.Options{}, []shape{{name: "a", account: "u", subject: append(o[:1:1], mtls.Attribute{Type: "OU", Value: "*"})}}, nil, false},
		{"* alone that denies", many(mapping(`name="d" permissionMode="Deny"`, "Subject.OU=*")), iis.Options{}, []shape{{name: "d", deny: true, subject: attributes(mtls.Attribute{Type: "OU", Value: "*"})}}, nil, false},
		{"* alone, literally", many(mapping(`name="a" userName="u"`, "Subject.O=*")), iis.Options{Exact: true}, []shape{{name: "a", account: "u", subject: attributes(mtls.Attribute{Type: "O", Value: `\*`})}}, nil, false},
		{"a backslash", many(mapping(`name="a" userName="u"`, `Subject.O=A\*`)), iis.Options{}, []shape{{name: "a", account: "u", subject: attributes(mtls.Attribute{Type: "O", Value: `A\\*`})}}, []string{"its backslash is taken literally"}, false},
		{"a backslash, literally", many(mapping(`name="a" userName="u"`, `Subject.O=A\*`)), iis.Options{Exact: true}, []shape{{name: "a", account: "u", subject: attributes(mtls.Attribute{Type: "O", Value: `A\\\*`})}}, []string{"its backslash is taken literally"}, false},
		{"numbers and issuer", many(mapping(`name="a" userName="u"`, "1.O=Acme", "2.S=WA")), iis.Options{}, []shape{{name: "a", account: "u", subject: o, issuer: attributes(mtls.Attribute{Type: "ST", Value: "WA"})}}, nil, false},
		{"every subfield", many(mapping(`name="a" userName="u"`, "Subject.CN=1", "Subject.OU=2", "Subject.O=3", "Subject.L=4", "Subject.S=5", "Subject.C=7", "Subject.I=8", "Subject.GN=9", "Subject.T=10", "Subject.Email=11")), iis.Options{},
			[]shape{{name: "a", account: "u", subject: attributes(mtls.Attribute{Type: "CN", Value: "1"}, mtls.Attribute{Type: "OU", Value: "2"}, mtls.Attribute{Type: "O", Value: "3"}, mtls.Attribute{Type: "L", Value: "4"}, mtls.Attribute{Type: "ST", Value: "5"},
				mtls.Attribute{Type: "C", Value: "7"}, mtls.Attribute{Type: "initials", Value: "8"}, mtls.Attribute{Type: "givenName", Value: "9"}, mtls.Attribute{Type: "title", Value: "10"}, mtls.Attribute{Type: "emailAddress", Value: "11"})}}, nil, false},
		{"case", many(strings.NewReplacer(`"Acme"`, `"Acme" compareCaseSensitive="false"`).Replace(a)), iis.Options{}, []shape{{name: "a", account: "u", subject: attributes(mtls.Attribute{Type: "O", Value: "Acme", IgnoreCase: true})}}, nil, false},
		{"case that says neither", many(strings.NewReplacer(`"Acme"`, `"Acme" compareCaseSensitive="no"`).Replace(a)), iis.Options{}, []shape{plain}, []string{`f:8: many-to-one mapping "a": compareCaseSensitive is "no"`}, true},
		{"clear above the criteria", many(strings.Replace(a, "<rules>", "<rules><clear/>", 1)), iis.Options{}, []shape{plain}, nil, false},
		{"clear above the criteria that says more", many(strings.Replace(a, "<rules>", `<rules><clear until="x"/>`, 1)), iis.Options{}, nil, []string{"f:8: many-to-one mapping \"a\": left out: what line 8 says is not known"}, true},
		{"clear among the criteria", many(strings.Replace(a, "<rules>", `<rules><add certificateField="Subject" certificateSubField="L" matchCriteria="x"/><clear/>`, 1)), iis.Options{}, nil, []string{"f:8: many-to-one mapping \"a\": left out: line 8 throws criteria away that are above it"}, true},
		{"criteria within criteria", many(strings.Replace(a, "</rules>", `<add certificateField="Subject" certificateSubField="L" matchCriteria="x"><add/></add></rules>`, 1) + "\n" + d), iis.Options{}, []shape{deny}, []string{"f:8: many-to-one mapping \"a\": left out: line 8 has the element \"add\" within \"add\""}, true},
		{"something within clear", many("<clear>" + d + "</clear>\n" + a), iis.Options{}, []shape{off}, []string{`f:8: manyToOneMappings: element "add" within "clear"`, "f:9:"}, true},
		{"something within remove", many(d + `<remove name="d"><x/></remove>` + "\n" + a), iis.Options{}, []shape{off}, []string{`f:8: manyToOneMappings: element "x" within "remove"`, "f:9:"}, true},
		{"remove of nothing", many(strings.Replace(d, `"d"`, `""`, 1) + "<remove/>\n" + a), iis.Options{}, []shape{{name: "many-to-one in line 8", deny: true, subject: deny.subject}, off}, []string{`f:8: remove in manyToOneMappings: it has no name`, "f:9:"}, true},
		{"criteria twice", many(strings.Replace(d, "</rules>", "</rules>\n<rules/>", 1) + "\n" + a), iis.Options{}, []shape{off}, []string{"f:8: many-to-one mapping \"d\": left out: line 9 has a second list of criteria", "f:10: many-to-one mapping \"a\": its rule is disabled, since line 8"}, true},
		{"a subfield in other letters, which admits", many(mapping(`name="a" userName="u"`, "Subject.o=Acme")), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "a": certificateSubField "o" is not spelled as IIS documents it, O`}, true},
		{"a subfield in other letters, which denies", many(mapping(`name="d" permissionMode="Deny"`, "Subject.ou=Sales*")), iis.Options{}, []shape{deny}, []string{`f:8: many-to-one mapping "d": certificateSubField "ou" is not spelled`}, true},
		{"a subfield in other words, and what is after it", many(mapping(`name="s" userName="u"`, "Subject.ST=WA*") + "\n" + a), iis.Options{}, []shape{{name: "s", account: "u", disabled: true, subject: attributes(mtls.Attribute{Type: "ST", Value: "WA*"})}, off}, []string{`certificateSubField "ST" is not spelled as IIS documents it, S`, "f:9: many-to-one mapping \"a\": its rule is disabled, since line 8"}, true},

		{"the ends of lines and tabs are blanks", many(mapping(`name="a&#9;&#xA;'b'" userName="u"`, "Subject.O=Acme\tInc.\r\nLtd.\rand\nSons &amp; &lt;Co&gt; &quot;x&quot;*")), iis.Options{}, []shape{{name: "a\t\n'b'", account: "u", subject: attributes(mtls.Attribute{Type: "O", Value: `Acme Inc. Ltd. and Sons & <Co> "x"*`})}}, nil, false},
		{"in quotes of the other kind", many(strings.NewReplacer(`"a"`, `'a"'`, `"Acme"`, "'Ac\n\"me'").Replace(a)), iis.Options{}, []shape{{name: `a"`, account: "u", subject: attributes(mtls.Attribute{Type: "O", Value: `Ac "me`})}}, nil, false},
		{"the end of a line that is meant is no criterion", many(mapping(`name="d" permissionMode="Deny"`, "Subject.O=Bad&#10;\nCorp*") + "\n" + a), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "d": left out: line 8: its matchCriteria has a control character`, "f:10: many-to-one mapping \"a\": its rule is disabled"}, true},
		{"other control characters are none", many(mapping(`name="a" userName="u"`, "Subject.O=Acme&#x85;")), iis.Options{}, nil, []string{"its matchCriteria has a control character"}, true},

		{"clear does not take away what is around it", strings.Replace(many("<clear/>\n"+a), "<manyToOneMappings>", "<exceptions/><manyToOneMappings>", 1), iis.Options{}, []shape{off}, []string{`f:7: section iisClientCertificateMappingAuthentication: unknown element "exceptions"`}, true},
		{"clear does not take away what the section says", strings.Replace(many("<clear/>\n"+a), `enabled="true"`, `enabled="true" until="x"`, 1), iis.Options{}, []shape{off}, []string{`f:6: section iisClientCertificateMappingAuthentication: unknown attribute "until"`}, true},
		{"clear does not take away what the collection says", strings.Replace(many(d+"<clear/><clear/>\n"+a), "<manyToOneMappings>", `<manyToOneMappings until="x">`, 1), iis.Options{}, []shape{off}, []string{`f:7: manyToOneMappings: unknown attribute "until"`}, true},
		{"clear of one kind does not take away what is around it", strings.NewReplacer("<manyToOneMappings>", `<oneToOneMappings until="x"><clear/></oneToOneMappings><manyToOneMappings>`).Replace(many(a)), iis.Options{}, []shape{off}, []string{`f:7: oneToOneMappings: unknown attribute "until"`}, true},

		{"no criteria", many(mapping(`name="a" userName="u"`)), iis.Options{}, nil, []string{`f:8: many-to-one mapping "a": left out: it has no criteria`}, true},
		{"an empty criterion", many(mapping(`name="a" userName="u"`, "Subject.O=Acme", "Subject.OU=")), iis.Options{}, nil, []string{"left out: line 8: its matchCriteria is empty"}, true},
		{"an unknown subfield", many(mapping(`name="a" userName="u"`, "Subject.O=Acme", "Subject.X=1")), iis.Options{}, nil, []string{`left out: line 8: its certificateSubField "X"`}, true},
		{"an unknown field", many(mapping(`name="a" userName="u"`, "Serial.O=Acme")), iis.Options{}, nil, []string{`left out: line 8: its certificateField "Serial"`}, true},
		{"remove among the criteria", many(strings.Replace(a, "</rules>", "<remove/></rules>", 1)), iis.Options{}, nil, []string{`left out: line 8 has the element "remove"`}, true},
		{"an unknown attribute of a criterion", many(strings.Replace(a, "matchCriteria", `negate="true" matchCriteria`, 1)), iis.Options{}, nil, []string{`unknown attribute "negate"`, "left out: what line 8 says"}, true},
		{"an unknown attribute of the criteria", many(strings.Replace(a, "<rules>", `<rules any="true">`, 1)), iis.Options{}, nil, []string{`unknown attribute "any"`, "left out: what line 8 says"}, true},
		{"an unknown element of a mapping", many(strings.Replace(a, "<rules>", `<except/><rules>`, 1)), iis.Options{}, nil, []string{`left out: line 8 has an unknown element "except"`}, true},
		{"an unknown attribute of a mapping that allows", many(strings.Replace(a, "name", `until="2027" name`, 1)), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "a": unknown attribute "until"`, "for that its rule is disabled"}, true},
		{"an unknown attribute of a mapping that denies", many(strings.Replace(d, "name", `until="2027" name`, 1)), iis.Options{}, []shape{deny}, []string{`f:8: many-to-one mapping "d": unknown attribute "until"`}, true},
		{"text in a mapping", many(strings.Replace(a, "<rules>", `only<rules>`, 1)), iis.Options{}, []shape{off}, []string{"it holds text"}, true},
		{"a lock", many(strings.Replace(a, "name", `lockItem="true" name`, 1)), iis.Options{}, []shape{plain}, []string{"f:8: note: many-to-one mapping \"a\": attribute lockItem locks"}, false},
		{"the namespace of another", many(strings.NewReplacer(`<add name="a"`, `<x:add xmlns:x="urn:x" name="a"`, "</rules></add>", "</rules></x:add>").Replace(a)), iis.Options{}, nil, []string{`unknown element "{urn:x}add"`}, true},

		{"a mapping that denies and is left out disables those after it", many(a + "\n" + mapping(`name="d" permissionMode="Deny"`, "Subject.X=1") + "\n" + strings.Replace(a, `"a"`, `"b"`, 1)), iis.Options{},
			[]shape{plain, {name: "b", account: "u", subject: o, disabled: true}}, []string{`f:10: many-to-one mapping "b": its rule is disabled, since line 9`}, true},
		{"so does one that allows, whose clients have another account", many(mapping(`name="x" userName="guest"`, "Subject.O=*") + "\n" + a), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "x": left out`, "f:9: many-to-one mapping \"a\": its rule is disabled, since line 8"}, true},
		{"so does one-to-one, whose client would come to them", within(`enabled="true"`, `<oneToOneMappings><add userName="u" certificate="AAA"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "a": its rule is disabled, since line 7`}, true},
		{"so does one-to-one with an unknown attribute", within(`enabled="true"`, `<oneToOneMappings><add userName="u" until="x" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{oneOff, off}, []string{`f:8: many-to-one mapping "a": its rule is disabled, since line 7`}, true},
		{"so does one that is disabled for what is not known", many(strings.Replace(a, "name", `until="2027" name`, 1) + "\n" + strings.Replace(a, `"a"`, `"b"`, 1)), iis.Options{}, []shape{off, {name: "b", account: "u", subject: o, disabled: true}}, []string{`f:9: many-to-one mapping "b": its rule is disabled, since line 8`}, true},
		{"so does an unknown element among one-to-one", within(`enabled="true"`, `<oneToOneMappings><other/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "a": its rule is disabled, since line 7`}, true},
		{"so do one-to-one mappings in another file", within(`enabled="true"`, `<oneToOneMappings configSource="x.config"/><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{off}, []string{`f:8: many-to-one mapping "a": its rule is disabled, since line 7`}, true},
		{"so does one-to-one that is left out since one that is off has its certificate", within(`enabled="true"`, `<oneToOneMappings><add userName="u" enabled="false" certificate="`+acme+`"/>`+"\n"+`<add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{oneOff, off}, []string{`f:8: one-to-one mapping to "u": left out: line 7 maps the same certificate`, `f:9: many-to-one mapping "a": its rule is disabled, since line 8`}, true},
		{"one-to-one that is left out since one in force has its certificate disables nothing", within(`enabled="true"`, `<oneToOneMappings><add userName="u" certificate="`+acme+`"/>`+"\n"+`<add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{oneShape, plain}, []string{`f:8: one-to-one mapping to "u": left out`}, true},
		{"neither does one that is off, and off before", within(`enabled="true"`, `<oneToOneMappings><add userName="u" enabled="false" certificate="`+acme+`"/>`+"\n"+`<add userName="u" enabled="false" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{oneOff, plain}, []string{`f:8: one-to-one mapping to "u": left out`}, true},
		{"so does a switch of one-to-one that says neither", within(`enabled="true" oneToOneCertificateMappingsEnabled="yes"`, `<oneToOneMappings><add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{oneOff, off}, []string{`f:6: section iisClientCertificateMappingAuthentication: oneToOneCertificateMappingsEnabled is "yes"`, `f:8: many-to-one mapping "a": its rule is disabled, since line 6`}, true},
		{"a switch of many-to-one that says neither is off, one-to-one is not", within(`enabled="true" manyToOneCertificateMappingsEnabled="yes"`, `<oneToOneMappings><add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{oneShape, off}, []string{`f:6: section iisClientCertificateMappingAuthentication: manyToOneCertificateMappingsEnabled is "yes"`}, true},
		{"one-to-one that is off disables nothing", within(`enabled="true" oneToOneCertificateMappingsEnabled="false"`, `<oneToOneMappings><other/><add certificate="AAA" userName="u"/></oneToOneMappings><manyToOneMappings>`+"\n"+a+`</manyToOneMappings>`), iis.Options{}, []shape{plain}, nil, true},
		{"one that is off disables nothing", many(mapping(`name="d" enabled="false" permissionMode="Deny"`, "Subject.X=1") + "\n" + a), iis.Options{}, []shape{plain}, []string{`f:8: many-to-one mapping "d": left out`}, true},
		{"an unknown element among the mappings disables those after it", many("<deny/>\n" + a), iis.Options{}, []shape{off}, []string{`f:8: manyToOneMappings: unknown element "deny"`, "f:9:"}, true},
		{"an unknown element among the sections disables those after it", strings.Replace(many(a), "<manyToOneMappings>", "<exceptions/><manyToOneMappings>", 1), iis.Options{}, []shape{off}, []string{`f:7: section iisClientCertificateMappingAuthentication: unknown element "exceptions"`}, true},
		{"a section in another file", strings.Replace(many(a), `enabled="true"`, `enabled="true" configSource="x.config"`, 1), iis.Options{}, []shape{off}, []string{`attribute configSource: its content is in another file, "x.config"`}, true},
		{"mappings in another file", strings.Replace(many(a), "<manyToOneMappings>", `<manyToOneMappings configSource="x.config"/><manyToOneMappings>`, 1), iis.Options{}, []shape{off}, []string{"configSource"}, true},

		{"clear takes away", many(d + "\n<deny/>\n<clear/>\n" + a), iis.Options{}, []shape{plain}, []string{`f:8: note: many-to-one mapping "d": taken away by clear in line 10`}, true},
		{"remove takes away", many(a + "\n" + d + "\n" + `<remove name="d"/>`), iis.Options{}, []shape{plain}, []string{`f:9: note: many-to-one mapping "d": taken away by remove in line 10`}, false},
		{"what is taken away may come again, and go again", many(a + "\n" + `<remove name="a"/>` + "\n" + a + "\n" + d + "\n" + `<remove name="d"/>` + "\n" + d + "\n" + `<remove name="d"/>`), iis.Options{}, []shape{plain}, []string{`f:8: note: many-to-one mapping "a": taken away by remove in line 9`, `f:13: note: many-to-one mapping "d": taken away by remove in line 14`}, false},
		{"remove finds nothing twice", many(a + "\n" + `<remove name="a"/>` + "\n" + `<remove name="a"/>`), iis.Options{}, nil, []string{"f:10: remove in manyToOneMappings: nothing in this file has its name"}, true},
		{"remove finds nothing after clear", many(a + "\n<clear/>\n" + `<remove name="a"/>`), iis.Options{}, nil, []string{"f:10: remove in manyToOneMappings: nothing in this file has its name"}, true},
		{"remove compares names with their case", many(a + "\n" + d + "\n" + `<remove name="D"/>`), iis.Options{}, []shape{plain, deny}, []string{"f:10: remove in manyToOneMappings: nothing in this file has its name"}, true},

		{"deny before allow", many(d + "\n" + a), iis.Options{}, []shape{deny, plain}, nil, false},
		{"deny after allow", many(a + "\n" + d), iis.Options{}, []shape{plain, deny}, []string{`f:9: many-to-one mapping "d": it denies after "a", and`, "no mapping after it allows anybody"}, true},
		{"deny between", many(a + "\n" + d + "\n" + strings.Replace(a, `"a"`, `"b"`, 1)), iis.Options{}, []shape{plain, deny, {name: "b", account: "u", subject: o}}, []string{"narrow it, or leave it out if it should not"}, true},
		{"deny after allow that is off", many(strings.Replace(a, "name", `enabled="false" name`, 1) + "\n" + d), iis.Options{}, []shape{off, deny}, nil, false},
		{"deny without a wildcard", many(mapping(`name="d" permissionMode="Deny"`, "Subject.OU=Sales")), iis.Options{}, []shape{{name: "d", deny: true, subject: attributes(mtls.Attribute{Type: "OU", Value: "Sales"})}}, []string{"f:8: many-to-one mapping \"d\": its criteria without * refuse the whole value only"}, true},

		{"one-to-one", one(`<add userName="u" certificate="` + acme + `"/>`), iis.Options{}, []shape{oneShape}, nil, false},
		{"one-to-one with blanks", one(`<add userName="u" certificate=" ` + acme[:50] + "\r\n\t" + acme[50:] + `"/>`), iis.Options{}, []shape{oneShape}, nil, false},
		{"one-to-one with armour", one(`<add userName="u" certificate="-----BEGIN CERTIFICATE-----` + "\n" + acme + "\n" + `-----END CERTIFICATE-----"/>`), iis.Options{}, []shape{oneShape}, nil, false},
		{"one-to-one twice", one(`<add userName="u" certificate="` + acme + `"/>` + "\n" + `<add userName="v" certificate="` + acme + `"/>`), iis.Options{}, []shape{oneShape}, []string{`f:9: one-to-one mapping to "v": left out: line 8 maps the same certificate`}, true},
		{"one-to-one that is no base64", one(`<add userName="u" certificate="AAA"/>`), iis.Options{}, nil, []string{"f:8: one-to-one mapping to \"u\": left out: its certificate is not base64"}, true},
		{"one-to-one that is no certificate", one(`<add userName="u" certificate="AAAA"/>`), iis.Options{}, nil, []string{"left out: its certificate cannot be read"}, true},
		{"one-to-one with bytes after it", one(`<add userName="u" certificate="` + acme + `AAAA"/>`), iis.Options{}, nil, []string{"left out"}, true},
		{"one-to-one without a certificate", one(`<add userName="u"/>`), iis.Options{}, nil, []string{"left out: it has no certificate"}, true},
		{"one-to-one of a CA", one(`<add userName="u" certificate="` + sample(t, "ca.pem") + `"/>`), iis.Options{}, nil, []string{"left out: its certificate is that of a CA"}, true},
		{"one-to-one with an unknown attribute", one(`<add userName="u" until="x" certificate="` + acme + `"/>`), iis.Options{}, []shape{oneOff}, []string{`unknown attribute "until"`}, true},
		{"one-to-one with an unknown element", one(`<add userName="u" certificate="` + acme + `"><except/></add>`), iis.Options{}, []shape{oneOff}, []string{`unknown element "except"`}, true},
		{"one-to-one that says neither", one(`<add userName="u" enabled="0" certificate="` + acme + `"/>`), iis.Options{}, []shape{oneOff}, []string{`f:8: one-to-one mapping to "u": enabled is "0", neither true nor false; taken for false`}, true},
		{"one-to-one that is off, against deny", within(`enabled="true"`, `<oneToOneMappings><add userName="u" enabled="false" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+mapping(`name="d" permissionMode="Deny"`, "Subject.O=ACM*")+`</manyToOneMappings>`), iis.Options{},
			[]shape{oneOff, {name: "d", deny: true, subject: attributes(mtls.Attribute{Type: "O", Value: "ACM*"})}}, nil, false},
		{"one-to-one removed", one(`<add userName="u" certificate="` + acme + `"/>` + "\n" + `<remove certificate=" ` + acme + `"/>`), iis.Options{}, nil, []string{`f:8: note: one-to-one mapping to "u": taken away by remove in line 9`}, false},
		{"one-to-one against deny", within(`enabled="true"`, `<oneToOneMappings><add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+mapping(`name="d" permissionMode="Deny"`, "Subject.O=ACM*", "Issuer.CN=*CA")+`</manyToOneMappings>`), iis.Options{},
			[]shape{oneShape, {name: "d", deny: true, subject: attributes(mtls.Attribute{Type: "O", Value: "ACM*"}), issuer: attributes(mtls.Attribute{Type: "CN", Value: "*CA"})}},
			[]string{`f:7: rule "one-to-one acme-client": its certificate matches the mapping "d" of line 7`}, true},
		{"one-to-one not against deny", within(`enabled="true"`, `<oneToOneMappings><add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+mapping(`name="d" permissionMode="Deny"`, "Subject.O=Acme*", "Issuer.CN=*CB")+`</manyToOneMappings>`), iis.Options{},
			[]shape{oneShape, {name: "d", deny: true, subject: attributes(mtls.Attribute{Type: "O", Value: "Acme*"}), issuer: attributes(mtls.Attribute{Type: "CN", Value: "*CB"})}}, nil, false},
		{"a many-to-one mapping keeps its name", within(`enabled="true"`, `<oneToOneMappings><add userName="u" certificate="`+acme+`"/></oneToOneMappings><manyToOneMappings>`+mapping(`name="one-to-one acme-client" userName="v"`, "Subject.O=X*")+`</manyToOneMappings>`), iis.Options{},
			[]shape{{name: "one-to-one acme-client (2)", account: "u", hashes: 1}, {name: "one-to-one acme-client", account: "v", subject: attributes(mtls.Attribute{Type: "O", Value: "X*"})}}, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := importText(t, test.config, test.o)
			require.Equal(t, test.want, shapes(r.Rules), texts(r))
			for _, n := range test.notes {
				require.Contains(t, texts(r), n)
			}
			require.Equal(t, test.lost, r.Lost(), texts(r))
			for _, rule := range r.Rules {
				if rule.Deny {
					require.Empty(t, rule.Authorities, "a rule with deny holds for every authority")
					require.Nil(t, rule.Origin)
				} else {
					require.Equal(t, []string{"roots"}, rule.Authorities)
					require.True(t, rule.Origin.IsNone())
				}
			}
		})
	}
}

func TestSurroundingsAreNamed(t *testing.T) {
	const access = `<access sslFlags="SslRequireCert"/>`
	a := mapping(`name="a" userName="u"`, "Subject.O=Acme*")
	config := func(inAuthentication, inSecurity string) string {
		return strings.NewReplacer("<security>", "<security>"+access, "</authentication>", inAuthentication+"</authentication>", "</security>", inSecurity+"</security>").Replace(many(a))
	}
	web := func(rules string) string {
		return strings.Replace(config("", ""), "</configuration>", "<system.web><authorization>"+rules+"</authorization></system.web></configuration>", 1)
	}
	for _, test := range []struct {
		name, config, want string
		lost               bool
	}{
		{"nothing", config("", ""), "", false},
		{"Active Directory", config(`<clientCertificateMappingAuthentication enabled="true"/>`, ""), "f:11: clientCertificateMappingAuthentication: the mappings of Active Directory", true},
		{"Active Directory, off", config(`<clientCertificateMappingAuthentication enabled="false"/>`, ""), "", false},
		{"another kind", config(`<basicAuthentication enabled="true"/>`, ""), `f:11: note: authentication "basicAuthentication": it is enabled`, false},
		{"the last word counts", config(`<basicAuthentication enabled="true"/><basicAuthentication enabled="false"/>`, ""), "", false},
		{"no certificate required", config("", `<access sslFlags="Ssl, SslNegotiateCert"/>`), `f:12: note: access: sslFlags "Ssl, SslNegotiateCert" do not require`, false},
		{"access that says nothing", config("", `<access/>`), `f:12: note: access: sslFlags "" do not require`, false},
		{"access is not there", many(a), "f:6: note: access: nothing in this file sets its sslFlags: unless another file does, IIS asks for no certificate", false},
		{"a kind in other letters", config(`<basicAuthentication enabled="true"/><BASICAuthentication enabled="false"/>`, ""), "", false},
		{"a certificate required", config("", `<access sslFlags="Ssl,SslNegotiateCert,SslRequireCert"/>`), "", false},
		{"authorization of all", config("", `<authorization><clear/><add accessType="Allow" users="*"/></authorization>`), "", false},
		{"authorization of some", config("", `<authorization><add accessType="Allow" users="CORP\a"/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization that denies", config("", `<authorization><add accessType="Deny" users="*"/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization of all, in numbers", config("", `<authorization bypassLoginPages="false"><add accessType="0" users="*" roles="" verbs=""/></authorization>`), "", false},
		{"authorization that says nothing", config("", `<authorization lockItem="true"/>`), "", false},
		{"authorization of one verb", config("", `<authorization><clear/><add accessType="Allow" users="*" verbs="GET"/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization of a verb that nobody documents", config("", `<authorization><add accessType="Allow" users="*" verbs="*"/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization of a role", config("", `<authorization><add accessType="Allow" users="*" roles="Partners"/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization with an attribute that is not known", config("", `<authorization><add accessType="Allow" users="*" until="2027"/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization of nobody", config("", `<authorization><clear/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization of all that is taken back", config("", `<authorization><add accessType="Allow" users="*"/><clear/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization that removes", config("", `<authorization><remove users="*" roles="" verbs=""/></authorization>`), "f:12: authorization: rules about URLs and accounts", true},
		{"authorization in another file", config("", `<authorization configSource="x.config"/>`), "f:12: authorization: rules about URLs and accounts", true},
		{"addresses, all", config("", `<ipSecurity allowUnlisted="true" enableReverseDns="false" lockItem="true"/>`), "", false},
		{"addresses, none listed", config("", `<ipSecurity><clear/></ipSecurity>`), "", false},
		{"addresses, those listed", config("", `<ipSecurity allowUnlisted="false"><add ipAddress="198.51.100.7" allowed="true"/></ipSecurity>`), "f:12: ipSecurity: addresses are admitted or refused by it, and the rules say origin none", true},
		{"addresses, unlisted or not is unclear", config("", `<ipSecurity allowUnlisted="0"/>`), "f:12: ipSecurity: addresses", true},
		{"addresses, one refused", config("", `<ipSecurity><add ipAddress="198.51.100.7"/></ipSecurity>`), "f:12: ipSecurity: addresses", true},
		{"addresses, one taken away", config("", `<ipSecurity><remove ipAddress="198.51.100.7"/></ipSecurity>`), "f:12: ipSecurity: addresses", true},
		{"addresses in another file", config("", `<ipSecurity configSource="x.config"/>`), "f:12: ipSecurity: addresses", true},
		{"addresses in other case", config("", `<IPSecurity AllowUnlisted="False"/>`), "f:12: IPSecurity: addresses", true},
		{"the busy", config("", `<dynamicIpSecurity><denyByRequestRate enabled="true" maxRequests="9"/></dynamicIpSecurity>`), "f:12: dynamicIpSecurity: clients with many requests are refused by it", true},
		{"the busy, as another file says", config("", `<dynamicIpSecurity><denyByRequestRate maxRequests="9"/></dynamicIpSecurity>`), "f:12: dynamicIpSecurity: clients", true},
		{"the busy, in another file", config("", `<dynamicIpSecurity configSource="x.config"/>`), "f:12: dynamicIpSecurity: clients", true},
		{"the busy, by a measure that is not known", config("", `<dynamicIpSecurity><denyByMood enabled="false"/></dynamicIpSecurity>`), "f:12: dynamicIpSecurity: clients", true},
		{"the busy are not refused", config("", `<dynamicIpSecurity denyAction="NotFound"><denyByRequestRate enabled="false" maxRequests="9"/><denyByConcurrentRequests enabled="False"/></dynamicIpSecurity>`), "", false},
		{"ASP.NET denies", web(`<deny users="*"/>`), "f:14: system.web authorization: rules about URLs and accounts", true},
		{"ASP.NET denies the anonymous", web(`<deny users="?"/>`), "f:14: system.web authorization: rules about URLs and accounts", true},
		{"ASP.NET allows one verb", web(`<allow users="*" verbs="GET"/>`), "f:14: system.web authorization: rules about URLs and accounts", true},
		{"ASP.NET allows some", web(`<allow roles="Partners"/>`), "f:14: system.web authorization: rules about URLs and accounts", true},
		{"ASP.NET takes away", web(`<clear/>`), "f:14: system.web authorization: rules about URLs and accounts", true},
		{"ASP.NET allows all", web(`<allow users="*"/>`), "", false},
		{"ASP.NET says nothing", web(""), "", false},
		{"ASP.NET in another file", strings.Replace(web(""), "<system.web><authorization", `<system.web><authorization configSource="x.config"`, 1), "f:14: system.web authorization: rules about URLs and accounts", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := importText(t, test.config, iis.Options{})
			if test.want == "" {
				require.Empty(t, texts(r))
			}
			require.Contains(t, texts(r), test.want)
			require.Equal(t, test.lost, r.Lost())
		})
	}
}

// What refuses in the place that is meant, above it or below it is named; what other
// places have is not.
func TestSurroundingsOfOtherPlaces(t *testing.T) {
	const security = "<system.webServer><security>%s</security></system.webServer>"
	section := `<authentication><iisClientCertificateMappingAuthentication enabled="true"><manyToOneMappings>` +
		mapping(`name="a" userName="u"`, "Subject.O=Acme*") + "</manyToOneMappings></iisClientCertificateMappingAuthentication></authentication>"
	location := func(path, body string) string {
		return "\n<location path=\"" + path + "\">" + body + "</location>"
	}
	at := func(body string) string { return strings.Replace(security, "%s", body, 1) }
	config := func(mappings string, parts ...string) string {
		outside, inside := "", ""
		if mappings == "" {
			outside = at(section)
		} else {
			inside = location(mappings, at(section))
		}
		return "<configuration>" + outside + inside + strings.Join(parts, "") + "</configuration>"
	}
	off := at(`<authentication><iisClientCertificateMappingAuthentication enabled="false"/></authentication>`)
	silent := at(`<authentication><iisClientCertificateMappingAuthentication/></authentication>`)
	for name, body := range map[string]struct{ text, what string }{
		"addresses":     {at(`<ipSecurity allowUnlisted="false"/>`), "ipSecurity"},
		"the busy":      {at(`<dynamicIpSecurity><denyByRequestRate enabled="true"/></dynamicIpSecurity>`), "dynamicIpSecurity"},
		"authorization": {at(`<authorization><clear/></authorization>`), "authorization"},
		"ASP.NET":       {`<system.web><authorization><deny users="*"/></authorization></system.web>`, "system.web authorization"},
	} {
		for _, test := range []struct {
			name, config, location, want string
			lost                         bool
		}{
			{"in the place itself, which has nothing else", config("", location("Site", body.text)), "Site", "f:2: " + body.what + ": ", true},
			{"above it", config("Site", body.text), "", "f:2: " + body.what + ": ", true},
			{"below it", config("", location("Site", body.text)), "", "f:2: " + body.what + ` in "Site": `, true},
			{"further below it", config("Site", location("SITE/a/b", body.text)), "", "f:3: " + body.what + ` in "SITE/a/b": `, true},
			{"beside it", config("Site", location("Site2", body.text)), "", "", false},
		} {
			t.Run(name+" "+test.name, func(t *testing.T) {
				r := importText(t, test.config, iis.Options{Location: test.location})
				require.Contains(t, texts(r), test.want)
				require.Equal(t, test.lost, r.Lost(), texts(r))
			})
		}
	}
	for _, test := range []struct {
		name, config, want string
		lost               bool
	}{
		{"the section is off below", config("", location("Site", off)), `f:2: section iisClientCertificateMappingAuthentication: it decides otherwise in "Site", which is below`, true},
		{"the section is off further below", config("Site", location("Site/api", off)), `f:3: section iisClientCertificateMappingAuthentication: it decides otherwise in "Site/api"`, true},
		{"the section has mappings below", strings.Replace(config("Site", location("Site/api", off)), `enabled="false"/>`, `><oneToOneMappings><clear/></oneToOneMappings></iisClientCertificateMappingAuthentication>`, 1), "", true},
		{"the section says nothing below", config("Site", location("Site/api", silent)), `f:3: note: section iisClientCertificateMappingAuthentication: it is that of another place, "Site/api"`, false},
		{"the section is off beside", config("Site", location("Site2", off)), `f:3: note: section iisClientCertificateMappingAuthentication: it is that of another place, "Site2"`, false},
		{"the section is off above", config("Site", off), "", false},
		{"Active Directory below", config("Site", location("Site/api", at(`<authentication><clientCertificateMappingAuthentication enabled="true"/></authentication>`))), `f:3: clientCertificateMappingAuthentication in "Site/api": the mappings of Active Directory`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := iis.Options{}
			if strings.Contains(test.config, "<oneToOneMappings><clear/>") {
				o.Location = "Site" // the other place has mappings, too
			}
			r := importText(t, test.config, o)
			require.Contains(t, texts(r), test.want)
			require.Equal(t, test.lost, r.Lost(), texts(r))
		})
	}
}

// Text of the configuration can neither begin a line of the policy nor reach a
// terminal.
func TestTextIsEscaped(t *testing.T) {
	evil := "éx&#10;rules: []&#9;\u202e\u009b31m  sha256: - name: [y]"
	config := within(`enabled="true" defaultLogonDomain="`+evil+`"`, "<manyToOneMappings>"+
		mapping(`name="`+evil+`" description="`+evil+`" userName="`+evil+`" odd="`+evil+`"`, "Subject.O=Acme*")+
		mapping(`name="`+evil+`2" userName="u"`, "Subject."+evil+"=Acme*")+
		mapping(`name="`+evil+`3" userName="u"`, evil+".O=Acme*")+"</manyToOneMappings>")
	r := importText(t, config, iis.Options{})
	require.Greater(t, len(r.Notes), 4)
	for _, n := range r.Notes {
		require.Regexp(t, `^[ -~]+$`, n.At("f\x1b\n"))
		require.Less(t, len(n.At("f")), 1000)
	}
	policy, err := r.Policy("f\x1b\n#  - name: x")
	require.NoError(t, err)
	rules, err := policyfile.Parse(policy, "policy.yaml")
	require.NoError(t, err)
	require.Len(t, rules, 1)
	for line := range strings.Lines(string(policy)) {
		require.NotContains(t, line, "rules: []\t")
		require.Regexp(t, `^(##[ -~]*|[^#\pC]*)\n$`, line, "comments are ASCII, values are printable")
	}
}
