package policyfile

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mtlsguard/mtls"
)

// Marshal writes rules as a file in YAML: the same rules are always the same bytes,
// and Parse makes of them the same rules, with times in UTC. With no rules it says
// deny_all. A rule with a When cannot be written, nor can what no file can say, such
// as an empty string in a list: that is an error. Marshal does not ask whether
// mtls.NewPolicy takes the rules.
func Marshal(rules ...mtls.Rule) ([]byte, error) {
	if len(rules) == 0 {
		return []byte(head + "deny_all: true\n"), nil
	}
	data := write(rules)
	if !reads(data, rules) {
		return nil, unwritable(rules)
	}
	return data, nil
}

const head = "version: 1\n"

func write(rules []mtls.Rule) []byte {
	w := &writer{}
	w.buf.WriteString(head + "rules:\n")
	for i := range rules {
		w.rule(&rules[i])
	}
	return w.buf.Bytes()
}

// reads reports whether what was written is read as the same rules: nothing may be
// lost unnoticed.
func reads(data []byte, rules []mtls.Rule) bool {
	c, err := parse(data, "")
	return err == nil && reflect.DeepEqual(c.rules, canonical(rules))
}

// unwritable says which of the rules cannot be written, and why.
func unwritable(rules []mtls.Rule) error {
	var failed []error
	for i := range rules {
		r := rules[i : i+1]
		data := write(r)
		if reads(data, r) {
			continue
		}
		if len(failed) == maxProblems {
			failed = append(failed, errors.New("mtls: and more rules"))
			break
		}
		why := "it has something that no file can say"
		if _, err := parse(data, ""); r[0].When != nil {
			why = "a When is Go"
		} else if e := (*Error)(nil); errors.As(err, &e) {
			why = e.Problem
		}
		failed = append(failed, fmt.Errorf("mtls: rule %s cannot be written: %s", quote(r[0].Name), why))
	}
	if len(failed) == 0 {
		return fmt.Errorf("mtls: the rules cannot be written: they make more than %d bytes", maxFile)
	}
	return errors.Join(failed...)
}

// canonical returns the rules as Parse would make them: lists are nil or have
// elements, and times are UTC.
func canonical(rules []mtls.Rule) []mtls.Rule {
	rules = cloneRules(rules)
	for i := range rules {
		clearEmpty(reflect.ValueOf(&rules[i]).Elem())
		rules[i].NotBefore, rules[i].NotAfter = inUTC(rules[i].NotBefore), inUTC(rules[i].NotAfter)
		if rules[i].Origin != nil {
			clearEmpty(reflect.ValueOf(rules[i].Origin).Elem())
		}
	}
	return rules
}

func inUTC(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.Round(0).UTC()
}

// clearEmpty makes empty lists of a struct nil.
func clearEmpty(v reflect.Value) {
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 && f.CanSet() {
			f.SetZero()
		}
	}
}

// writer writes YAML.
type writer struct {
	buf   bytes.Buffer
	first bool // the next key is the first of its rule
}

// key begins a line of a rule.
func (w *writer) key(key string) {
	indent := "    "
	if w.first {
		indent, w.first = "  - ", false
	}
	w.buf.WriteString(indent + key + ": ")
}

func (w *writer) rule(r *mtls.Rule) {
	w.first = true
	w.key("name")
	w.buf.WriteString(scalar(r.Name) + "\n")
	w.text("account", r.Account)
	w.list("roles", r.Roles)
	w.boolean("deny", r.Deny)
	w.boolean("disabled", r.Disabled)
	w.list("domains", r.Domains)
	w.list("uris", r.URIs)
	w.list("emails", r.Emails)
	w.list("upns", r.UPNs)
	w.list("certificates", texts(r.Certificates))
	w.list("public_keys", texts(r.PublicKeys))
	w.attributes("subject", r.Subject)
	w.attributes("issuer", r.Issuer)
	w.list("authorities", r.Authorities)
	w.list("issuer_keys", texts(r.IssuerKeys))
	w.list("policy_oids", texts(r.PolicyOIDs))
	w.extensions(r.Extensions)
	if r.MinRSABits != 0 {
		w.line("min_rsa_bits", strconv.Itoa(r.MinRSABits))
	}
	w.list("curves", r.Curves)
	w.origin(r.Origin)
	w.list("groups", r.Groups)
	w.instant("not_before", r.NotBefore)
	w.instant("not_after", r.NotAfter)
	w.boolean("insecure_any_client", r.InsecureAnyClient)
}

func (w *writer) line(key, value string) {
	w.key(key)
	w.buf.WriteString(value + "\n")
}

func (w *writer) text(key, value string) {
	if value != "" {
		w.line(key, scalar(value))
	}
}

func (w *writer) boolean(key string, value bool) {
	if value {
		w.line(key, "true")
	}
}

func (w *writer) instant(key string, t time.Time) {
	if !t.IsZero() {
		w.line(key, t.UTC().Format(time.RFC3339Nano))
	}
}

func (w *writer) list(key string, values []string) {
	if len(values) > 0 {
		w.line(key, flowList(values))
	}
}

func (w *writer) attributes(key string, list []mtls.Attribute) {
	var all []string
	for _, a := range list {
		s := "{type: " + scalar(a.Type) + ", value: " + scalar(a.Value)
		if a.IgnoreCase {
			s += ", ignore_case: true"
		}
		all = append(all, s+"}")
	}
	if len(all) > 0 {
		w.line(key, "["+strings.Join(all, ", ")+"]")
	}
}

func (w *writer) extensions(list []mtls.Extension) {
	var all []string
	for _, e := range list {
		s := "{oid: " + scalar(e.OID.String())
		if e.Value != nil {
			s += ", value: " + scalar(hex.EncodeToString(e.Value))
		}
		if e.Text != "" {
			s += ", text: " + scalar(e.Text)
		}
		if e.AnyValue {
			s += ", any_value: true"
		}
		all = append(all, s+"}")
	}
	if len(all) > 0 {
		w.line("extensions", "["+strings.Join(all, ", ")+"]")
	}
}

func (w *writer) origin(o *mtls.Origin) {
	switch {
	case o == nil:
		return
	case o.IsNone():
		w.line("origin", "none")
		return
	}
	var all []string
	add := func(key, value string) { all = append(all, key+": "+value) }
	lists := func(key string, list []string) {
		if len(list) > 0 {
			add(key, flowList(list))
		}
	}
	lists("hosts", o.Hosts)
	lists("prefixes", texts(o.Prefixes))
	if o.Published {
		add("published", "true")
	}
	lists("reverse_suffixes", o.ReverseSuffixes)
	if o.RequireDNSSEC {
		add("require_dnssec", "true")
	}
	if o.ReportOnly {
		add("report_only", "true")
	}
	lists("allow_networks", texts(o.AllowNetworks))
	if o.Window != 0 {
		add("window", scalar(duration(o.Window)))
	}
	if len(all) == 0 {
		add("published", "false") // an Origin that states nothing is not the same as none
	}
	w.line("origin", "{"+strings.Join(all, ", ")+"}")
}

func texts[T fmt.Stringer](list []T) []string {
	all := make([]string, 0, len(list))
	for _, v := range list {
		all = append(all, v.String())
	}
	return all
}

// duration is a time of durationForm.
func duration(d time.Duration) string {
	if d < 0 {
		return d.String() // which Parse refuses
	}
	var s string
	if h := d / time.Hour; h > 0 {
		s += fmt.Sprintf("%dh", h)
	}
	if m := d % time.Hour / time.Minute; m > 0 {
		s += fmt.Sprintf("%dm", m)
	}
	if d %= time.Minute; d > 0 {
		s += fmt.Sprintf("%d", d/time.Second)
		if f := d % time.Second; f > 0 {
			s += strings.TrimRight(fmt.Sprintf(".%09d", f), "0")
		}
		s += "s"
	}
	return s
}

func flowList(values []string) string {
	all := make([]string, 0, len(values))
	for _, v := range values {
		all = append(all, scalar(v))
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// bare is what needs no quotes, unless YAML reads something else than text in it.
var bare = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/@-]*$`)

// scalar writes text: as it is where no reader could take it for something else, and
// in the quotes of JSON otherwise.
func scalar(s string) string {
	if bare.MatchString(s) && misread(s) == "" {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for i, c := range s {
		switch {
		case c == '"', c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)):
			b.WriteByte(s[i]) // not UTF-8, which Parse refuses
		case c == ' ', c > ' ' && unicode.IsPrint(c) && !unseen(c):
			b.WriteRune(c)
		case c > 0xffff:
			high, low := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
