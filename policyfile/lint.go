package policyfile

import (
	"fmt"
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
	c, err := sound(data, file, false)
	if err != nil {
		return nil, err
	}
	return c.lint(now), nil
}

// maxFindings bounds the warnings and the notes of one file, each: nobody reads more.
const maxFindings = 1000

// linter looks at rules one after the other.
type linter struct {
	locator
	now      time.Time
	onlyCAs  bool // some file has nothing but certificates of CAs
	at       int  // the rule
	findings []Finding
	count    map[bool]int     // of warnings and notes that add was asked for
	next     map[bool]Finding // the first of each that there was no room for
}

// add reports something about an item of the rule.
func (l *linter) add(warning bool, item, format string, args ...any) {
	l.addAt(warning, func() place { return l.find(l.at, item) }, format, args...)
}

// addAt is add with the place, which is only looked for if there is room.
func (l *linter) addAt(warning bool, where func() place, format string, args ...any) {
	l.count[warning]++
	if l.count[warning] > maxFindings+1 {
		return
	}
	at := where()
	f := Finding{File: l.c.file, Line: at.line, Column: at.column, Rule: l.c.rules[l.at].Name, Warning: warning, Text: fmt.Sprintf(format, args...)}
	if l.count[warning] > maxFindings {
		l.next[warning] = f
		return
	}
	l.findings = append(l.findings, f)
}

// more says of how many warnings and notes there was no room for.
func (l *linter) more() {
	for _, warning := range []bool{true, false} {
		n := l.count[warning] - maxFindings
		f := l.next[warning]
		switch {
		case n > 1:
			f.Rule, f.Text = "", fmt.Sprintf("and %d more, here and in other rules", n)
			fallthrough
		case n == 1:
			l.findings = append(l.findings, f)
		}
	}
}

// mostOfList is what is reported of one kind in one list.
const mostOfList = 3

// each reports what why says of elements of a list; "": nothing.
func (l *linter) each(warning bool, field string, elements int, why func(i int) string) {
	l.eachOf(warning, inFile(field), elements, why, func(i int) place { return l.find(l.at, fmt.Sprintf("%s[%d]", field, i)) })
}

// eachOf is each for a list that has a name and places of its own.
func (l *linter) eachOf(warning bool, name string, elements int, why func(i int) string, where func(i int) place) {
	shown, more, at := 0, 0, 0
	for i := range elements {
		text := why(i)
		switch {
		case text == "":
		case shown < mostOfList:
			l.addAt(warning, func() place { return where(i) }, "%s", text)
			shown++
		default:
			if more++; more == 1 {
				at = i
			}
		}
	}
	if more > 0 {
		l.addAt(warning, func() place { return where(at) }, "and the same of %d more elements of %s", more, name)
	}
}

func (c *content) lint(now time.Time) []Finding {
	l := &linter{locator: locator{c: c}, now: now, onlyCAs: c.named.onlyCAs(), count: map[bool]int{}, next: map[bool]Finding{}}
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
		l.at = i
		if r.Disabled {
			if r.Deny {
				l.add(true, "Disabled", "it is disabled, and refuses nobody: take disabled out, or the rule if it is no longer needed")
			} else {
				l.add(false, "Disabled", "it is disabled: take it out if it is no longer needed")
			}
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
	l.more()
	slices.SortStableFunc(l.findings, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return l.findings
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
	twice(l, "Groups", r.Groups, same)
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
	l.each(false, field, len(list), func(i int) string {
		if k := key(list[i]); !seen[k] {
			seen[k] = true
			return ""
		}
		return quote(fmt.Sprint(list[i])) + " is listed twice: take one out"
	})
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
	l.at = at
	l.add(false, "", "no index finds %s%s, which are looked at for every client: name domains, certificates, keys or URIs, e-mail addresses or UPNs in them if there are many", strings.Join(names, ", "), more)
}
