package policyfile

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mtlsguard/mtls"
)

// decoder makes rules of nodes, and collects what is wrong with them.
type decoder struct {
	named  *named
	failed problems
}

func (d *decoder) fail(n *node, format string, args ...any) {
	if d.failed.wants(n.at) {
		d.failed.add(&problem{at: n.at, text: fmt.Sprintf(format, args...)})
	}
}

// field reads the value of a key of a T.
type field[T any] func(d *decoder, key string, v *node, into *T)

var ruleFields = map[string]field[mtls.Rule]{
	"name":                text(func(r *mtls.Rule) *string { return &r.Name }),
	"account":             text(func(r *mtls.Rule) *string { return &r.Account }),
	"roles":               list(func(r *mtls.Rule) *[]string { return &r.Roles }, (*decoder).text),
	"deny":                boolean(func(r *mtls.Rule) *bool { return &r.Deny }),
	"disabled":            boolean(func(r *mtls.Rule) *bool { return &r.Disabled }),
	"domains":             list(func(r *mtls.Rule) *[]string { return &r.Domains }, (*decoder).text),
	"uris":                list(func(r *mtls.Rule) *[]string { return &r.URIs }, (*decoder).text),
	"emails":              list(func(r *mtls.Rule) *[]string { return &r.Emails }, (*decoder).text),
	"upns":                list(func(r *mtls.Rule) *[]string { return &r.UPNs }, (*decoder).text),
	"certificates":        list(func(r *mtls.Rule) *[]mtls.CertificateHash { return &r.Certificates }, hash[mtls.CertificateHash]),
	"certificate_files":   files(func(r *mtls.Rule) *[]mtls.CertificateHash { return &r.Certificates }, certificates),
	"public_keys":         list(func(r *mtls.Rule) *[]mtls.KeyHash { return &r.PublicKeys }, hash[mtls.KeyHash]),
	"public_key_files":    files(func(r *mtls.Rule) *[]mtls.KeyHash { return &r.PublicKeys }, publicKeys),
	"subject":             list(func(r *mtls.Rule) *[]mtls.Attribute { return &r.Subject }, attribute),
	"issuer":              list(func(r *mtls.Rule) *[]mtls.Attribute { return &r.Issuer }, attribute),
	"authorities":         list(func(r *mtls.Rule) *[]string { return &r.Authorities }, (*decoder).text),
	"issuer_keys":         list(func(r *mtls.Rule) *[]mtls.KeyHash { return &r.IssuerKeys }, hash[mtls.KeyHash]),
	"issuer_files":        files(func(r *mtls.Rule) *[]mtls.KeyHash { return &r.IssuerKeys }, issuers),
	"policy_oids":         list(func(r *mtls.Rule) *[]x509.OID { return &r.PolicyOIDs }, oid),
	"extensions":          list(func(r *mtls.Rule) *[]mtls.Extension { return &r.Extensions }, extension),
	"min_rsa_bits":        number(func(r *mtls.Rule) *int { return &r.MinRSABits }),
	"curves":              list(func(r *mtls.Rule) *[]string { return &r.Curves }, (*decoder).text),
	"origin":              func(d *decoder, key string, v *node, r *mtls.Rule) { r.Origin = d.origin(v) },
	"groups":              list(func(r *mtls.Rule) *[]string { return &r.Groups }, (*decoder).text),
	"not_before":          instant(func(r *mtls.Rule) *time.Time { return &r.NotBefore }),
	"not_after":           instant(func(r *mtls.Rule) *time.Time { return &r.NotAfter }),
	"insecure_any_client": boolean(func(r *mtls.Rule) *bool { return &r.InsecureAnyClient }),
}

var attributeFields = map[string]field[mtls.Attribute]{
	"type":        text(func(a *mtls.Attribute) *string { return &a.Type }),
	"value":       text(func(a *mtls.Attribute) *string { return &a.Value }),
	"ignore_case": boolean(func(a *mtls.Attribute) *bool { return &a.IgnoreCase }),
}

var extensionFields = map[string]field[mtls.Extension]{
	"oid": func(d *decoder, key string, v *node, e *mtls.Extension) { e.OID, _ = oid(d, key, v) },
	"value": func(d *decoder, key string, v *node, e *mtls.Extension) {
		if s, ok := d.text(key, v); ok {
			b, err := hex.DecodeString(s)
			if err != nil {
				d.fail(v, "%s: %s is not hexadecimal: two digits for each byte of the value's DER", key, quote(s))
			}
			e.Value = b
		}
	},
	"text": text(func(e *mtls.Extension) *string { return &e.Text }),
	"any_value": func(d *decoder, key string, v *node, e *mtls.Extension) {
		if e.AnyValue = v.kind == plain && v.text == "true"; !e.AnyValue {
			d.fail(v, "%s: true is expected, or leave it out, not %s", key, v.what())
		}
	},
}

var originFields = map[string]field[mtls.Origin]{
	"hosts":            list(func(o *mtls.Origin) *[]string { return &o.Hosts }, (*decoder).text),
	"prefixes":         list(func(o *mtls.Origin) *[]netip.Prefix { return &o.Prefixes }, prefix),
	"published":        boolean(func(o *mtls.Origin) *bool { return &o.Published }),
	"reverse_suffixes": list(func(o *mtls.Origin) *[]string { return &o.ReverseSuffixes }, (*decoder).text),
	"require_dnssec":   boolean(func(o *mtls.Origin) *bool { return &o.RequireDNSSEC }),
	"report_only":      boolean(func(o *mtls.Origin) *bool { return &o.ReportOnly }),
	"allow_networks":   list(func(o *mtls.Origin) *[]netip.Prefix { return &o.AllowNetworks }, prefix),
	"window": func(d *decoder, key string, v *node, o *mtls.Origin) {
		if s, ok := d.text(key, v); ok {
			w, err := time.ParseDuration(s)
			if err != nil || w <= 0 || !durationForm.MatchString(s) {
				d.fail(v, "%s: %s is not a time above zero such as 10m or 1h30m", key, quote(s))
			}
			o.Window = w
		}
	},
}

// isKey reports whether a word is a key of the format.
func isKey(word string) bool {
	switch word {
	case "version", "rules", "deny_all":
		return true
	}
	return ruleFields[word] != nil || attributeFields[word] != nil || extensionFields[word] != nil || originFields[word] != nil
}

// fields reads a mapping.
func fields[T any](d *decoder, what string, n *node, known map[string]field[T], required ...string) (into T) {
	if n.kind != mapping {
		d.fail(n, "%s is a mapping of keys to values, not %s", what, n.what())
		return into
	}
	for i, k := range n.keys {
		if read := known[k.text]; read != nil {
			read(d, k.text, n.items[i], &into)
		} else if d.failed.wants(k.at) {
			d.failed.add(&problem{at: k.at, text: fmt.Sprintf("%s has no key %s%s", what, quote(k.text), meant(k.text, known))})
		}
	}
	for _, key := range required {
		if n.get(key) == nil {
			d.fail(n, "%s needs a %s", what, key)
		}
	}
	return into
}

// what says what a node is.
func (n *node) what() string {
	switch n.kind {
	case mapping:
		return "a mapping"
	case sequence:
		return "a list"
	}
	return quote(n.text)
}

// text reads text.
func (d *decoder) text(key string, v *node) (string, bool) {
	switch {
	case v.kind == sequence || v.kind == mapping:
		d.fail(v, "%s: text is expected, not %s", key, v.what())
	case v.text == "":
		d.fail(v, "%s: empty text: leave it out", key)
	case v.kind == plain && misread(v.text) != "":
		d.fail(v, "%s: YAML takes %s for %s: put it in quotes", key, quote(v.text), misread(v.text))
	default:
		return v.text, true
	}
	return "", false
}

var (
	numberForm   = regexp.MustCompile(`^[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$|^[-+]?0[xob][0-9a-fA-F_]+$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$`)
	sixtiesForm  = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$`)
	dateForm     = regexp.MustCompile(`^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?$`)
	instantForm  = regexp.MustCompile(`^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)
	durationForm = regexp.MustCompile(`^([0-9]+h)?([0-9]+m)?([0-9]+(\.[0-9]{1,9})?s)?$`)
	hashForm     = regexp.MustCompile(`^[0-9A-Fa-f]{64}$|^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$`)
	oidForm      = regexp.MustCompile(`^([01]\.[1-3]?[0-9]|2\.(0|[1-9][0-9]*))(\.(0|[1-9][0-9]*))*$`)
	wholeForm    = regexp.MustCompile(`^[1-9][0-9]{0,8}$`)
)

// misread says what a reader of YAML 1.1 or 1.2 takes a plain scalar for that is
// not text to it, or "".
func misread(s string) string {
	if s == "~" {
		return "null"
	}
	if c := s[0]; c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+' {
		switch {
		case numberForm.MatchString(s), sixtiesForm.MatchString(s):
			return "a number"
		case dateForm.MatchString(s):
			return "a date"
		}
		return ""
	}
	if len(s) > len("false") {
		return ""
	}
	switch strings.ToLower(s) {
	case "null":
		return "null"
	case "true", "false", "yes", "no", "on", "off", "y", "n":
		return "true or false"
	}
	return ""
}

func text[T any](at func(*T) *string) field[T] {
	return func(d *decoder, key string, v *node, into *T) { *at(into), _ = d.text(key, v) }
}

func boolean[T any](at func(*T) *bool) field[T] {
	return func(d *decoder, key string, v *node, into *T) {
		switch {
		case v.kind == plain && v.text == "true":
			*at(into) = true
		case v.kind == plain && v.text == "false":
		default:
			d.fail(v, "%s: true or false is expected (in small letters, without quotes), not %s", key, v.what())
		}
	}
}

func number[T any](at func(*T) *int) field[T] {
	return func(d *decoder, key string, v *node, into *T) {
		if v.kind != plain || !wholeForm.MatchString(v.text) {
			d.fail(v, "%s: a whole number above zero is expected, without quotes, not %s", key, v.what())
			return
		}
		*at(into), _ = strconv.Atoi(v.text)
	}
}

func instant[T any](at func(*T) *time.Time) field[T] {
	return func(d *decoder, key string, v *node, into *T) {
		if v.kind == mapping || v.kind == sequence {
			d.fail(v, "%s: a time is expected, not %s", key, v.what())
			return
		}
		t, err := time.Parse(time.RFC3339Nano, v.text)
		if err != nil || !instantForm.MatchString(v.text) {
			d.fail(v, "%s: %s is not a time as RFC 3339 has it, such as 2026-01-31T00:00:00Z", key, quote(v.text))
			return
		}
		if t.IsZero() {
			d.fail(v, "%s: this is the time that stands for none; leave it out", key)
		}
		*at(into) = t.UTC()
	}
}

func list[T, E any](at func(*T) *[]E, read func(d *decoder, key string, v *node) (E, bool)) field[T] {
	return func(d *decoder, key string, v *node, into *T) {
		switch {
		case v.kind != sequence:
			d.fail(v, "%s: a list is expected, such as [a, b], not %s", key, v.what())
		case len(v.items) == 0:
			d.fail(v, "%s: an empty list: leave it out", key)
		}
		if v.kind != sequence {
			return
		}
		// Files are added to what is listed, whichever comes first.
		var listed []E
		for _, item := range v.items {
			if e, ok := read(d, key, item); ok {
				listed = append(listed, e)
			}
		}
		if len(listed)+len(*at(into)) > maxItems {
			d.fail(v, "%s: with those of files the list has more than %d elements: make several rules", key, maxItems)
			return
		}
		*at(into) = append(listed, *at(into)...)
	}
}

func hash[H ~[32]byte](d *decoder, key string, v *node) (h H, ok bool) {
	s, ok := d.text(key, v)
	if !ok {
		return h, false
	}
	b, err := mtls.ParseKeyHash(s)
	if err != nil || !hashForm.MatchString(s) {
		d.fail(v, "%s: %s is not a SHA-256 hash: 64 hexadecimal digits, not all zero, with or without colons between the bytes", key, quote(s))
		return h, false
	}
	return H(b), true
}

func oid(d *decoder, key string, v *node) (x509.OID, bool) {
	s, ok := d.text(key, v)
	if !ok {
		return x509.OID{}, false
	}
	id, err := x509.ParseOID(s)
	if err != nil || !oidForm.MatchString(s) {
		d.fail(v, "%s: %s is not an object identifier such as 1.3.6.1.4.1.99999.1", key, quote(s))
		return x509.OID{}, false
	}
	return id, true
}

func prefix(d *decoder, key string, v *node) (netip.Prefix, bool) {
	s, ok := d.text(key, v)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if err == nil {
		return p, true
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		d.fail(v, "%s: %s is an address; for that one address write %s/%d", key, quote(s), s, a.BitLen())
	} else {
		d.fail(v, "%s: %s is not a prefix such as 198.51.100.0/28 or 2001:db8::/56", key, quote(s))
	}
	return netip.Prefix{}, false
}

func attribute(d *decoder, key string, v *node) (mtls.Attribute, bool) {
	return fields(d, "an element of "+key, v, attributeFields, "type", "value"), true
}

func extension(d *decoder, key string, v *node) (mtls.Extension, bool) {
	return fields(d, "an element of "+key, v, extensionFields, "oid"), true
}

func (d *decoder) origin(v *node) *mtls.Origin {
	switch {
	case v.kind == plain && v.text == "none", v.kind == quoted && v.text == "none":
		return mtls.NoOrigin()
	case v.kind != mapping:
		d.fail(v, "origin: none (for anywhere) or a mapping such as {hosts: [egress.acme.example]} is expected, not %s", v.what())
		return nil
	case len(v.keys) == 0:
		d.fail(v, "origin: an empty mapping: leave it out, or write none for anywhere")
	}
	o := fields(d, "origin", v, originFields)
	return &o
}
