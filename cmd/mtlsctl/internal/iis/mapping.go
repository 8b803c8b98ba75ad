package iis

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/dn"
)

func itoa(n int) string { return strconv.Itoa(n) }

// subfields are the certificateSubFields that IIS documents, as types of
// attributes. It writes S for the state.
var subfields = map[string]string{
	"CN": "CN", "OU": "OU", "O": "O", "L": "L", "S": "ST", "C": "C",
	"I": "initials", "GN": "givenName", "T": "title", "Email": "emailAddress",
}

// otherSpellings are what subfields are written like elsewhere, in any case. Nobody
// documents that IIS takes them.
var otherSpellings = map[string]string{
	"CN": "CN", "OU": "OU", "O": "O", "L": "L", "S": "S", "ST": "S", "C": "C", "I": "I", "GN": "GN", "T": "T", "EMAIL": "Email",
}

// rules makes the rules, one-to-one mappings first, and names what cannot be one.
func (m *importer) rules() {
	s := m.settings
	what := "section " + sectionName
	if s.enabled.line == 0 {
		m.lost(m.firstLine(), what, "nothing in this file sets enabled, which is false by default: its rules are disabled", "take disabled out of them if it is enabled elsewhere")
	} else if !s.enabled.on {
		m.remark(s.enabled.line, what, "enabled is false: its rules are disabled", "")
	}
	for _, k := range []struct {
		name string
		setting
	}{{"oneToOneCertificateMappingsEnabled", s.oneToOne}, {"manyToOneCertificateMappingsEnabled", s.many}} {
		if k.line != 0 && !k.on {
			m.remark(k.line, what, k.name+" is false: their rules are disabled", "")
		}
	}
	for _, e := range slices.Concat(m.oneToOne.left(), m.many.left()) {
		if _, password := e.attr("password"); password {
			m.secrets = append(m.secrets, e.line)
		}
	}
	for _, e := range m.many.left() { // these have names, and keep them
		if name, _ := e.attr("name"); !e.foreign && name != "" {
			m.names[name] = 1
		}
	}
	m.oneToOneRules(!s.enabled.on || s.oneToOne.line != 0 && !s.oneToOne.on)
	m.manyRules(!s.enabled.on || s.many.line != 0 && !s.many.on)
	if n := len(m.secrets); n > 0 {
		m.remark(slices.Min(m.secrets), "passwords", "not carried over ("+itoa(n)+" in all, the first here): nobody is logged on to Windows", "change them when IIS is switched off")
	}
	for _, r := range m.made {
		m.result.Rules = append(m.result.Rules, r.Rule)
		m.result.Lines = append(m.result.Lines, r.line)
	}
}

func (m *importer) firstLine() int {
	if list := slices.Concat(m.oneToOne.left(), m.many.left()); len(list) > 0 {
		return list[0].line
	}
	return 1
}

// account returns what userName says, and names what else stands about it.
func (m *importer) account(what string, e *element, deny bool) string {
	user, _ := e.attr("userName")
	switch {
	case user == "" && !deny:
		m.lost(e.line, what, "it has no userName", "its account is the name of the rule")
	case user != "" && deny:
		m.remark(e.line, what, "userName "+quote(user)+" is not carried over: a rule with deny has no account", "")
		user = ""
	}
	return user
}

// certificate is that of a one-to-one mapping.
type certificate struct {
	*x509.Certificate
	subject, issuer []dn.Value
}

var errCA = errors.New("its certificate is that of a CA, which is never accepted as a client's")

// unwrap takes blanks and PEM armour off a certificate in base64.
func unwrap(text string) string {
	text = strings.Join(strings.Fields(text), "")
	text = strings.TrimPrefix(text, "-----BEGINCERTIFICATE-----")
	return strings.TrimSuffix(text, "-----ENDCERTIFICATE-----")
}

func parseCertificate(e *element) (*certificate, error) {
	text, ok := e.attr("certificate")
	if !ok {
		return nil, errors.New("it has no certificate")
	}
	der, err := base64.StdEncoding.DecodeString(unwrap(text))
	if err != nil {
		return nil, errors.New("its certificate is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("its certificate cannot be read as X.509")
	}
	if c.BasicConstraintsValid && c.IsCA {
		return nil, errCA
	}
	return &certificate{c, dn.Values(c.Subject, true), dn.Values(c.Issuer, true)}, nil
}

func (m *importer) oneToOneRules(off bool) {
	if s := m.settings.oneToOne; s.unclear {
		m.miss(s.line) // off here, and perhaps on in IIS
	}
	known := map[mtls.CertificateHash]madeRule{}
	for _, e := range m.oneToOne.left() {
		if e.foreign {
			if !off {
				m.miss(e.line)
			}
			continue
		}
		what := describe(e.element, "certificate")
		c, err := parseCertificate(e.element)
		if err != nil {
			if err == errCA {
				m.lost(e.line, what, "left out: "+err.Error(), "")
				continue
			}
			m.lost(e.line, what, "left out: "+err.Error(), "export the certificate again, in base64")
			if !off && inForce(e.element) {
				m.miss(e.line) // its client would come to the many-to-one rules
			}
			continue
		}
		hash := mtls.HashCertificate(c.Certificate)
		if first, twice := known[hash]; twice {
			m.lost(e.line, what, "left out: line "+itoa(first.line)+" maps the same certificate", "")
			if !off && inForce(e.element) && first.Disabled {
				m.miss(e.line)
			}
			continue
		}
		on := m.flag(what, e.element, "enabled", true, false)
		r := mtls.Rule{
			Name:         m.unique("one-to-one " + or(c.Subject.CommonName, hash.String()[:16])),
			Disabled:     off || !on,
			Certificates: []mtls.CertificateHash{hash},
			Authorities:  []string{m.Authority},
			Origin:       mtls.NoOrigin(),
		}
		r.Disabled = m.unknown(what, e.element, "certificate", "enabled", "userName", "password") || r.Disabled
		for _, child := range e.children {
			m.lost(child.line, what, "unknown element "+quote(child.name)+": the rule is disabled", "see what it is for")
			r.Disabled = true
		}
		r.Account = m.account(what, e.element, false)
		if !off && inForce(e.element) && r.Disabled {
			m.miss(e.line)
		}
		known[hash] = madeRule{r, e.line, c}
		m.made = append(m.made, known[hash])
	}
}

// unknown is attributes for a mapping that allows, which is disabled for what is
// not understood.
func (m *importer) unknown(what string, e *element, known ...string) bool {
	if !m.attributes(what, e, known...) {
		return false
	}
	m.lost(e.line, what, "for that its rule is disabled", "take disabled out if it means nothing")
	return true
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// unique makes a name that no other rule has.
func (m *importer) unique(name string) string {
	other := name
	for m.names[other] > 0 {
		m.names[name]++
		other = fmt.Sprintf("%s (%d)", name, m.names[name])
	}
	m.names[other] = 1
	return other
}

func (m *importer) manyRules(off bool) {
	known := map[string]int{}
	for _, e := range m.many.left() {
		if e.foreign {
			m.miss(e.line)
			continue
		}
		what := describe(e.element, "name")
		r, ok := m.manyRule(what, e.element, known)
		r.Disabled = r.Disabled || off
		if ok && m.missing != 0 && !r.Deny && !r.Disabled {
			r.Disabled = true
			m.lost(e.line, what, "its rule is disabled, since line "+itoa(m.missing)+" comes before it and may decide about some of its clients", "take disabled out when a rule does what that line was for")
		}
		if ok {
			m.made = append(m.made, madeRule{r, e.line, nil})
		}
		if inForce(e.element) && (!ok || r.Disabled) {
			m.miss(e.line)
		}
	}
}

// inForce reports whether a mapping does not say plainly that it is off.
func inForce(e *element) bool {
	enabled, _ := e.attr("enabled")
	return !is(enabled, "false")
}

// miss remembers the first line that IIS may decide by and the policy does not.
// Clients whom it refuses, or maps to an account of few rights, must not reach the
// rules of later lines.
func (m *importer) miss(line int) {
	if m.missing == 0 {
		m.missing = line
	}
}

// manyRule makes the rule of a mapping, or names why there is none.
func (m *importer) manyRule(what string, e *element, known map[string]int) (r mtls.Rule, ok bool) {
	name, _ := e.attr("name")
	line, twice := known[name]
	if !twice {
		known[name] = e.line
	}
	deny, err := permission(e)
	r = mtls.Rule{Name: name, Deny: deny, Disabled: !m.flag(what, e, "enabled", true, deny)}
	switch {
	case name == "":
		r.Name = m.unique("many-to-one in line " + itoa(e.line))
		m.lost(e.line, what, "it has no name", "its rule is "+quote(r.Name))
	case twice && !deny:
		m.lost(e.line, what, "left out: line "+itoa(line)+" has the same name", "")
		return r, false
	case twice:
		r.Name = m.unique(name)
		m.lost(e.line, what, "line "+itoa(line)+" has the same name", "its rule is "+quote(r.Name))
	}
	unsure := false
	if err == nil {
		r.Subject, r.Issuer, unsure, err = m.criteria(what, e)
	}
	if err == nil && !deny && everybody(slices.Concat(r.Subject, r.Issuer)) {
		err = errors.New("its criteria match every client")
	}
	attributes := []string{"name", "description", "enabled", "permissionMode", "userName", "password"}
	if err != nil {
		m.attributes(what, e, attributes...)
		m.lost(e.line, what, "left out: "+err.Error(), "write a rule by hand, that says which clients are meant")
		return r, false
	}
	if deny {
		m.attributes(what, e, attributes...)
	} else {
		r.Disabled = m.unknown(what, e, attributes...) || unsure || r.Disabled
		r.Authorities = []string{m.Authority}
		r.Origin = mtls.NoOrigin()
	}
	r.Account = m.account(what, e, deny)
	if text, _ := e.attr("description"); text != "" {
		m.remark(e.line, what, "description "+quote(text)+" is not carried over: rules have none", "")
	}
	return r, true
}

var errPermission = errors.New("its permissionMode is neither Allow nor Deny")

func permission(e *element) (deny bool, err error) {
	switch mode, set := e.attr("permissionMode"); {
	case !set || is(mode, "Allow") || mode == "1":
		return false, nil
	case is(mode, "Deny") || mode == "2":
		return true, nil
	}
	return false, errPermission
}

// criteria reads the rules of a mapping, all of which must hold. What throws criteria
// away again, or is there twice, is not guessed at.
func (m *importer) criteria(what string, mapping *element) (subject, issuer []mtls.Attribute, unsure bool, err error) {
	var list []*element
	for i, c := range mapping.children {
		switch {
		case !is(c.name, "rules"):
			return nil, nil, false, fmt.Errorf("line %d has an unknown element %s", c.line, quote(c.name))
		case i > 0:
			return nil, nil, false, fmt.Errorf("line %d has a second list of criteria", c.line)
		}
		if m.attributes(what, c) {
			return nil, nil, false, fmt.Errorf("what line %d says is not known", c.line)
		}
		for _, r := range c.children {
			switch {
			case len(r.children) > 0:
				return nil, nil, false, fmt.Errorf("line %d has the element %s within %s", r.children[0].line, quote(r.children[0].name), quote(r.name))
			case is(r.name, "add"):
				list = append(list, r)
			case is(r.name, "clear") && len(list) > 0:
				return nil, nil, false, fmt.Errorf("line %d throws criteria away that are above it", r.line)
			case is(r.name, "clear"):
				if m.attributes(what, r) {
					return nil, nil, false, fmt.Errorf("what line %d says is not known", r.line)
				}
			default:
				return nil, nil, false, fmt.Errorf("line %d has the element %s among its criteria", r.line, quote(r.name))
			}
		}
	}
	if len(list) == 0 {
		return nil, nil, false, errors.New("it has no criteria")
	}
	for _, e := range list {
		if m.attributes(what, e, "certificateField", "certificateSubField", "matchCriteria", "compareCaseSensitive") {
			return nil, nil, false, fmt.Errorf("what line %d says is not known", e.line)
		}
		a, misspelled, err := m.criterion(what, e)
		unsure = unsure || misspelled
		if err != nil {
			return nil, nil, false, fmt.Errorf("line %d: %w", e.line, err)
		}
		switch field, _ := e.attr("certificateField"); {
		case is(field, "Subject") || field == "1":
			subject = append(subject, a)
		case is(field, "Issuer") || field == "2":
			issuer = append(issuer, a)
		default:
			return nil, nil, false, fmt.Errorf("line %d: its certificateField %s is neither Subject nor Issuer", e.line, quote(field))
		}
	}
	return subject, issuer, unsure, nil
}

func (m *importer) criterion(what string, e *element) (a mtls.Attribute, misspelled bool, err error) {
	subfield, _ := e.attr("certificateSubField")
	value, _ := e.attr("matchCriteria")
	known := otherSpellings[strings.ToUpper(subfield)]
	if a.Type = subfields[known]; a.Type == "" {
		return a, false, fmt.Errorf("its certificateSubField %s is none that is known", quote(subfield))
	}
	if value == "" {
		return a, false, errors.New("its matchCriteria is empty")
	}
	if strings.ContainsFunc(value, unicode.IsControl) {
		return a, false, errors.New("its matchCriteria has a control character, which no name is known to have")
	}
	a.Value = strings.ReplaceAll(value, `\`, `\\`)
	if m.Exact {
		a.Value = strings.ReplaceAll(a.Value, "*", `\*`)
	}
	if strings.Contains(value, `\`) {
		m.remark(e.line, what, "its backslash is taken literally", "")
	}
	if strings.Contains(value, "?") {
		m.remark(e.line, what, "its question mark is taken literally", "")
	}
	if misspelled = subfield != known; misspelled {
		m.lost(e.line, what, "certificateSubField "+quote(subfield)+" is not spelled as IIS documents it, "+known+": it may not know it, and match nobody", "a rule that admits is disabled for that; take disabled out if IIS does know it")
	}
	a.IgnoreCase = !m.flag(what, e, "compareCaseSensitive", true, true)
	return a, misspelled, nil
}

// everybody reports whether no condition says more than that an attribute is there.
func everybody(list []mtls.Attribute) bool {
	return !slices.ContainsFunc(list, func(a mtls.Attribute) bool { return strings.Trim(a.Value, "*") != "" })
}
