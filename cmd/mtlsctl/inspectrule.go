package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// ruleInfo is a rule that can be written from a certificate.
type ruleInfo struct {
	Kind     string `json:"kind"`  // for --write
	Value    string `json:"value"` // what the rule would name
	Renewal  string `json:"renewal"`
	Strength string `json:"strength"`
}

var ruleKinds = [...]string{"domain", "uri", "email", "upn", "certificate", "key", "subject", "issuer-key"}

const (
	holds    = "holds for renewed certificates"
	ownedBy  = "any certificate of the named authority with this name"
	noOrigin = "; it needs an origin"
)

// possibleRules lists them, those for people to prefer first.
func possibleRules(certs []*x509.Certificate, names []sanEntry) []ruleInfo {
	c := certs[0]
	list := []ruleInfo{}
	add := func(kind, value, renewal, strength string) {
		list = append(list, ruleInfo{kind, value, renewal, strength})
	}
	if !isCA(c) {
		for _, s := range names {
			switch s.Type {
			case "dns":
				strength := "any certificate of a trusted authority for this name, from the addresses of the name"
				if strings.Contains(s.Value, "*") {
					strength = "any certificate for this wildcard" + noOrigin
				}
				add("domain", s.Value, holds, strength)
			case "uri", "email", "upn":
				if !patternLike(s) {
					add(s.Type, s.Value, holds, ownedBy+noOrigin)
				}
			}
		}
		certificate, key := hashes(c)
		add("key", key, "holds for renewed certificates only if the key is kept", "whoever has this key"+noOrigin)
		add("certificate", certificate, "ends with this certificate", "this certificate alone"+noOrigin)
		if subject, whole, _ := distinguishedName(c.RawSubject); whole && subject != "" {
			add("subject", subject, holds+" if the authority keeps the subject", "rests on how carefully the authority writes subjects"+noOrigin)
		}
	}
	if ca := issuerOf(certs); ca != nil {
		_, key := hashes(ca)
		add("issuer-key", key, holds+" of this CA", "every client of the CA "+shown(nameText(ca.RawSubject))+noOrigin)
	}
	return list
}

// patternLike reports whether a name that a certificate means literally would stand
// for others in a rule, such as "*@acme.example", which is every user there. A rule
// cannot name it: these types have no way to write an asterisk as itself.
func patternLike(s sanEntry) bool {
	return (s.Type == "uri" || s.Type == "email" || s.Type == "upn") && strings.Contains(s.Value, "*")
}

func isCA(c *x509.Certificate) bool { return c.BasicConstraintsValid && c.IsCA }

// maxRSABits is the longest RSA key that crypto/tls takes. Verifying with one costs
// the square of its length and more: a file from outside could ask for hours.
const maxRSABits = 8192

// issuerOf returns the CA certificate of an issuer-key rule: the certificate itself
// if it is a CA's, else the one of the file that signed it. CAs with longer RSA keys
// than maxRSABits are passed over.
func issuerOf(certs []*x509.Certificate) *x509.Certificate {
	if isCA(certs[0]) {
		return certs[0]
	}
	for _, c := range certs[1:] {
		if kind, bits := keyText(c); kind == "RSA" && bits > maxRSABits {
			continue
		}
		if isCA(c) && certs[0].CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// ruleWriter makes a policy file from a certificate.
type ruleWriter struct {
	what      string // kind, or kind=name
	name      string
	authority string
	origin    []string
}

func (w ruleWriter) write(cmd *cobra.Command, certs []*x509.Certificate) error {
	kind, wanted, chosen := strings.Cut(w.what, "=")
	if !slices.Contains(ruleKinds[:], kind) {
		return fmt.Errorf("--write %q: not one of %s", w.what, strings.Join(ruleKinds[:], ", "))
	}
	r := mtls.Rule{Name: w.name}
	var err error
	if r.Origin, err = w.parseOrigin(); err != nil {
		return err
	}
	no := func(format string, args ...any) error {
		fmt.Fprintf(cmd.ErrOrStderr(), "mtlsctl: "+format+"\n", args...)
		return answer(exitNo)
	}
	c := certs[0]
	if isCA(c) && kind != "issuer-key" {
		return no("a CA certificate is never a client's; only --write issuer-key can be written from it")
	}
	value, more := "", 0
	switch kind {
	case "domain", "uri", "email", "upn":
		if value, more = pick(sans(c), kind, wanted); value == "" {
			return no("the certificate has no such name: %s", w.what)
		}
		if patternLike(sanEntry{kind, value}) {
			return no("the %s %s has an asterisk, which a rule would take for a pattern: no rule by %[1]s can be written from it", kind, shown(value))
		}
	default:
		if chosen {
			return fmt.Errorf("--write %q: only names can be chosen", w.what)
		}
	}
	needsOrigin, needsAuthority := true, false
	switch kind {
	case "domain":
		r.Domains, needsOrigin = []string{value}, strings.HasPrefix(value, "*")
	case "uri":
		r.URIs, needsAuthority = []string{value}, true
	case "email":
		r.Emails, needsAuthority = []string{value}, true
	case "upn":
		r.UPNs, needsAuthority = []string{value}, true
	case "certificate":
		r.Certificates = []mtls.CertificateHash{mtls.HashCertificate(c)}
	case "key":
		r.PublicKeys = []mtls.KeyHash{mtls.HashPublicKey(c)}
	case "subject":
		if r.Subject, err = attributes(c); err != nil {
			return no("%v", err)
		}
		needsAuthority = true
	case "issuer-key":
		ca := issuerOf(certs)
		if ca == nil {
			return no("the file does not hold the certificate of the CA that issued it (one with an RSA key over %d bits does not count); add it, or inspect that", maxRSABits)
		}
		r.IssuerKeys = []mtls.KeyHash{mtls.HashPublicKey(ca)}
		c = ca
	}
	if w.authority != "" {
		r.Authorities = []string{w.authority}
	} else if needsAuthority {
		return fmt.Errorf("--write %s: any CA can write any such name: say whose with --authority", kind)
	}
	if needsOrigin && r.Origin == nil {
		return fmt.Errorf("--write %s: the rule names no exact domain whose addresses could be looked up: say where connections come from with --origin (none for anywhere)", kind)
	}
	if r.Name == "" {
		r.Name = ruleName(value, c)
	}
	if _, err := mtls.NewPolicy(r); err != nil {
		complain(cmd.ErrOrStderr(), err)
		return no("so this rule cannot be written")
	}
	yaml, err := policyfile.Marshal(r)
	if err != nil {
		return err
	}
	if more > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "mtlsctl: note: the certificate has %s besides; --write %s=NAME chooses\n", count(more, "such name"), kind)
	}
	findings, err := policyfile.Lint(yaml, "the rule", time.Now())
	if err != nil {
		return err
	}
	for _, f := range findings {
		if f.Warning {
			fmt.Fprintf(cmd.ErrOrStderr(), "mtlsctl: warning: %s\n", oneLine(f.Text))
		}
	}
	return writePolicy(cmd.OutOrStdout(), yaml)
}

// pick returns a name of the type: the wanted one or, if none is, the first, exact
// ones before wildcards; and how many others there are.
func pick(names []sanEntry, kind, wanted string) (string, int) {
	typ := kind
	if kind == "domain" {
		typ = "dns"
	}
	var list []string
	for _, s := range names {
		if s.Type == typ {
			list = append(list, s.Value)
		}
	}
	if wanted != "" {
		if slices.Contains(list, wanted) {
			return wanted, 0
		}
		return "", 0
	}
	slices.SortStableFunc(list, func(a, b string) int {
		return strings.Count(a, "*") - strings.Count(b, "*")
	})
	if len(list) == 0 {
		return "", 0
	}
	return list[0], len(list) - 1
}

// attributeTypes are those that have a short name in rules everywhere.
var attributeTypes = map[string]string{
	"2.5.4.3": "CN", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.6": "C", "2.5.4.5": "serialNumber",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

// attributes demands every attribute of the subject, literally.
func attributes(c *x509.Certificate) ([]mtls.Attribute, error) {
	if _, whole, _ := distinguishedName(c.RawSubject); !whole {
		return nil, errors.New("the subject is longer than what can be shown of it")
	}
	var list []mtls.Attribute
	literal := strings.NewReplacer(`\`, `\\`, `*`, `\*`)
	for _, n := range c.Subject.Names {
		typ := n.Type.String()
		if short := attributeTypes[typ]; short != "" {
			typ = short
		}
		text, ok := n.Value.(string)
		if !ok || text == "" {
			return nil, fmt.Errorf("the attribute %s of the subject is no text", typ)
		}
		list = append(list, mtls.Attribute{Type: typ, Value: literal.Replace(text)})
	}
	if len(list) == 0 {
		return nil, errors.New("the subject is empty")
	}
	return list, nil
}

// ruleName makes a name of what the rule names, and of the hash where that is
// nothing to be printed.
func ruleName(value string, c *x509.Certificate) string {
	for _, s := range []string{value, c.Subject.CommonName} {
		if s != "" && len(s) <= 100 && shown(s) == s {
			return s
		}
	}
	return "certificate " + mtls.HashCertificate(c).String()[:16]
}

// parseOrigin reads --origin; nil: not given.
func (w ruleWriter) parseOrigin() (*mtls.Origin, error) {
	if len(w.origin) == 0 {
		return nil, nil
	}
	if slices.Contains(w.origin, "none") {
		if len(w.origin) > 1 {
			return nil, errors.New("--origin none does not go with others")
		}
		return mtls.NoOrigin(), nil
	}
	o := &mtls.Origin{}
	for _, s := range w.origin {
		p, err := parsePrefix(s)
		switch {
		case err == nil:
			o.Prefixes = append(o.Prefixes, p)
		case strings.Contains(s, "/"):
			return nil, fmt.Errorf("--origin %q: not a network such as 198.51.100.0/28", s)
		default:
			o.Hosts = append(o.Hosts, s)
		}
	}
	return o, nil
}
