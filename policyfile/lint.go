package policyfile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/dnsname"
)

// A Finding is something in a policy that is legal and deserves a look.
type Finding struct {
	File         string
	Line, Column int    // in characters, from 1
	Rule         string // name of the rule; empty: the file as a whole
	// Warning is set where the rule does not do what it seems to do, or admits more
	// than others. Without it, the finding is a note.
	Warning bool
	Text    string // what it is, and what to do
}

// String begins with file, line and column.
func (f Finding) String() string {
	level := "note"
	if f.Warning {
		level = "warning"
	}
	rule := ""
	if f.Rule != "" {
		rule = "rule " + quote(f.Rule) + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s%s", f.File, f.Line, f.Column, level, rule, f.Text)
}

// Lint returns what deserves a look in the rules in force, in their order.
func (f *File) Lint() []Finding {
	f.mu.Lock()
	c := f.now.content
	f.mu.Unlock()
	return c.lint(f.options.Now())
}

// Lint parses a policy as Parse does, and returns what deserves a look at the given
// time.
func Lint(data []byte, file string, now time.Time) ([]Finding, error) {
	c, err := parse(data, file)
	if err != nil {
		return nil, err
	}
	if _, err := c.compile(); err != nil {
		return nil, err
	}
	return c.lint(now), nil
}

// linter looks at rules one after the other.
type linter struct {
	c        *content
	now      time.Time
	rule     int
	findings []Finding
}

// add reports something about an item of the rule.
func (l *linter) add(warning bool, item, format string, args ...any) {
	at := l.c.find(l.rule, item)
	l.findings = append(l.findings, Finding{File: l.c.file, Line: at.line, Column: at.column, Rule: l.c.rules[l.rule].Name, Warning: warning, Text: fmt.Sprintf(format, args...)})
}

func (c *content) lint(now time.Time) []Finding {
	l := &linter{c: c, now: now}
	if c.denyAll {
		return []Finding{{File: c.file, Line: 1, Column: 1, Text: "deny_all: nobody is admitted; write rules when that is over"}}
	}
	dead := newCovers()
	for i := range c.rules {
		if r := &c.rules[i]; !r.Disabled && only(r) {
			dead.note(i, r)
		}
	}
	allows := false
	for i := range c.rules {
		r := &c.rules[i]
		l.rule = i
		if r.Disabled {
			l.add(false, "Disabled", "it is disabled: take it out if it is no longer needed")
			continue
		}
		allows = allows || !r.Deny
		l.times(r)
		l.conditions(r)
		l.duplicates(r)
		if by, why := dead.covered(i, r); by >= 0 {
			l.add(true, "", "it can never decide: %s rule %s; take one of them out, or move this one up", why, quote(c.rules[by].Name))
		}
	}
	if !allows {
		l.findings = append(l.findings, Finding{File: c.file, Line: c.all.line, Column: c.all.column, Warning: true,
			Text: "no rule in force admits anybody: add one without deny, or write deny_all: true"})
	}
	l.walked()
	slices.SortStableFunc(l.findings, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return l.findings
}

// times looks at when the rule exists.
func (l *linter) times(r *mtls.Rule) {
	switch {
	case !r.NotAfter.IsZero() && !l.now.Before(r.NotAfter):
		l.add(true, "NotAfter", "it ended at %s: take it out, or set a later not_after", r.NotAfter.Format(time.RFC3339))
	case !r.NotBefore.IsZero() && l.now.Before(r.NotBefore):
		l.add(false, "NotBefore", "it does not exist before %s: nothing to do if that is meant", r.NotBefore.Format(time.RFC3339))
	}
}

// domainLike is a subject's value that looks like a domain or a pattern of one.
var domainLike = regexp.MustCompile(`(?i)^(\*\.)?([a-z0-9_-]+\.)+[a-z]{2,}$`)

// conditions looks at what the rule asks for.
func (l *linter) conditions(r *mtls.Rule) {
	if r.InsecureAnyClient {
		l.add(true, "InsecureAnyClient", "it admits every client with a certificate of the CAs it names, or of all: name clients if they are known")
	}
	if o := r.Origin; o != nil {
		if o.IsNone() {
			l.add(false, "Origin", "clients may come from anywhere: state hosts or prefixes if they are known")
		}
		if o.ReportOnly {
			l.add(true, "Origin.ReportOnly", "the origin is only reported, and others are admitted: take report_only out when the reports are clean")
		}
		for i, p := range o.Prefixes {
			if p != p.Masked() {
				l.add(false, fmt.Sprintf("Origin.Prefixes[%d]", i), "%s means all of %s: write that, or a longer prefix", p, p.Masked())
			}
		}
	}
	for i, d := range r.Domains {
		if strings.HasPrefix(d, "*.") && !r.Deny {
			l.add(false, fmt.Sprintf("Domains[%d]", i), "%s admits certificates for that wildcard: list the names themselves if they are known", quote(d))
		}
	}
	for i, a := range r.Subject {
		if domainLike.MatchString(a.Value) && !strings.EqualFold(a.Type, "DC") {
			l.add(true, fmt.Sprintf("Subject[%d]", i), "%s looks like a domain, and a subject is not compared like one: list it in domains, which looks at the names that CAs verify", quote(a.Value))
		}
	}
}

// duplicates looks for values that stand in a list twice.
func (l *linter) duplicates(r *mtls.Rule) {
	twice(l, "Roles", r.Roles, same)
	twice(l, "Domains", r.Domains, canonicalDomain)
	twice(l, "URIs", r.URIs, same)
	twice(l, "Emails", r.Emails, same)
	twice(l, "UPNs", r.UPNs, strings.ToLower)
	twice(l, "Certificates", r.Certificates, same)
	twice(l, "PublicKeys", r.PublicKeys, same)
	twice(l, "Subject", r.Subject, same)
	twice(l, "Issuer", r.Issuer, same)
	twice(l, "Authorities", r.Authorities, same)
	twice(l, "IssuerKeys", r.IssuerKeys, same)
	if r.Origin != nil {
		twice(l, "Origin.Hosts", r.Origin.Hosts, canonicalDomain)
		twice(l, "Origin.Prefixes", r.Origin.Prefixes, same)
	}
}

func same[E any](e E) E { return e }

// canonicalDomain is the form in which domains are compared.
func canonicalDomain(d string) string {
	if name, err := dnsname.FromPolicy(d); err == nil {
		return name
	}
	return d
}

func twice[E, K comparable](l *linter, field string, list []E, key func(E) K) {
	if len(list) < 2 {
		return
	}
	seen := make(map[K]bool, len(list))
	for i, e := range list {
		if k := key(e); seen[k] {
			l.add(false, fmt.Sprintf("%s[%d]", field, i), "%s is listed twice: take one out", quote(fmt.Sprint(e)))
		} else {
			seen[k] = true
		}
	}
}

// covers knows the rules that match by one list alone: whoever has a value of such a
// list is decided by the first of these rules that has it, at the latest.
type covers struct {
	certificates map[mtls.CertificateHash]int // first rule of allow
	keys         map[mtls.KeyHash]int
	domains      map[string]int
	denied       map[string]int // domains of deny rules
	deniedCerts  map[mtls.CertificateHash]int
}

func newCovers() *covers {
	return &covers{map[mtls.CertificateHash]int{}, map[mtls.KeyHash]int{}, map[string]int{}, map[string]int{}, map[mtls.CertificateHash]int{}}
}

// only reports whether the rule matches by one list of certificates, keys or domains
// alone, at any time.
func only(r *mtls.Rule) bool {
	lists := 0
	for _, n := range []int{len(r.Certificates), len(r.PublicKeys), len(r.Domains)} {
		if n > 0 {
			lists++
		}
	}
	others := len(r.URIs) + len(r.Emails) + len(r.UPNs) + len(r.Subject) + len(r.Issuer) + len(r.Authorities) + len(r.IssuerKeys) +
		len(r.PolicyOIDs) + len(r.Extensions) + r.MinRSABits + len(r.Curves)
	return lists == 1 && others == 0 && r.NotBefore.IsZero() && r.NotAfter.IsZero()
}

func (c *covers) note(i int, r *mtls.Rule) {
	if r.Deny {
		for _, d := range r.Domains {
			first(c.denied, canonicalDomain(d), i)
		}
		for _, h := range r.Certificates {
			first(c.deniedCerts, h, i)
		}
		return
	}
	for _, h := range r.Certificates {
		first(c.certificates, h, i)
	}
	for _, h := range r.PublicKeys {
		first(c.keys, h, i)
	}
	for _, d := range r.Domains {
		first(c.domains, canonicalDomain(d), i)
	}
}

func first[K comparable](m map[K]int, k K, i int) {
	if _, ok := m[k]; !ok {
		m[k] = i
	}
}

// covered returns the rule that decides wherever this one would match, or -1. Rules
// that name certificates come before the others, and deny rules before all.
func (c *covers) covered(i int, r *mtls.Rule) (by int, why string) {
	if r.Deny {
		return -1, ""
	}
	if by := all(c.deniedCerts, r.Certificates, same); by >= 0 {
		return by, "its certificates are refused by"
	}
	if by := all(c.denied, r.Domains, canonicalDomain); by >= 0 {
		return by, "its domains are refused by"
	}
	if len(r.Certificates) > 0 {
		if by := all(c.certificates, r.Certificates, same); by >= 0 && by < i {
			return by, "its certificates are decided by the earlier"
		}
		return -1, ""
	}
	if by := all(c.keys, r.PublicKeys, same); by >= 0 && by < i {
		return by, "its keys are decided by the earlier"
	}
	if by := all(c.domains, r.Domains, canonicalDomain); by >= 0 && by < i {
		return by, "its domains are decided by the earlier"
	}
	return -1, ""
}

// all returns the last of the rules that have the values of the list, or -1 if one
// value has none.
func all[E any, K comparable](m map[K]int, list []E, key func(E) K) int {
	last := -1
	for _, e := range list {
		i, ok := m[key(e)]
		if !ok {
			return -1
		}
		last = max(last, i)
	}
	return last
}

// walked names rules that are looked at for every client.
func (l *linter) walked() {
	p, err := mtls.NewPolicy(l.c.rules...)
	if err != nil {
		return // they were compiled before
	}
	count := p.Stats().Walked
	if count == 0 {
		return
	}
	const most = 3
	var names []string
	at := -1
	for i := range l.c.rules {
		r := l.c.rules[i]
		if r.Disabled || len(r.Domains)+len(r.Certificates)+len(r.PublicKeys) > 0 {
			continue
		}
		if one, err := mtls.NewPolicy(r); err != nil || one.Stats().Walked == 0 {
			continue
		}
		if at < 0 {
			at = i
		}
		if names = append(names, quote(r.Name)); len(names) == most {
			break
		}
	}
	if at < 0 {
		return
	}
	more := ""
	if count > len(names) {
		more = fmt.Sprintf(" and %d more", count-len(names))
	}
	l.rule = at
	l.add(false, "", "no index finds %s%s, which are looked at for every client: name domains, certificates, keys or URIs, e-mail addresses or UPNs in them if there are many", strings.Join(names, ", "), more)
}
