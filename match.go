package mtls

import (
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/ruleset"
)

// match is what a policy says of a subject.
type match struct {
	rule  *ruleset.Rule // nil: none lists it
	grant               // of the rule
	held  held
	views []int     // usable chains that satisfy the rule, in order
	until time.Time // when the answer may change by time alone; zero: never
}

// held are the names of the certificate by which it matches the rule, each empty
// where the rule has none of that type.
type held struct {
	domain, listed  string // canonical, and that of the rule's domains which it matched; listed may be a wildcard
	uri, email, upn string
}

// match returns the rule that decides. With no rule, the client is not allowed;
// with a rule that has Deny, it is denied.
func (p *policyState) match(s *ruleset.Subject, now time.Time) match {
	found := p.set.Match(s, now)
	m := match{rule: found.Rule, until: found.Until}
	if m.rule == nil || m.rule.Deny {
		return m
	}
	m.grant = p.grants[m.rule.Order]
	m.held.domain, m.held.listed = m.rule.Domain(s)
	m.held.uri, m.held.email, m.held.upn, m.views = m.rule.Held(s, m.rule.Views(s))
	return m
}

func (m match) ruleName() string {
	if m.rule == nil {
		return ""
	}
	return m.rule.Name
}

// account and roles are those of the rule.
func (m match) account() string {
	if m.as == nil || m.as.account == "" {
		return m.rule.Name
	}
	return m.as.account
}

func (m match) roles() []string {
	if m.as == nil {
		return nil
	}
	return m.as.roles
}

func (m match) groups() []string {
	if m.as == nil {
		return nil
	}
	return m.as.groups
}

// by says by what the rule was matched.
func (h held) String() string {
	var list []string
	for _, name := range []string{h.domain, h.uri, h.email, h.upn} {
		if name != "" {
			list = append(list, quote(name))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return " by " + strings.Join(list, ", ")
}

// nearly says which rules would list the subject but for one field.
func (p *policyState) nearly(s *ruleset.Subject, now time.Time) string {
	var list []string
	for _, miss := range p.set.Near(s, now) {
		if miss.Field != "" {
			list = append(list, "rule "+quote(miss.Rule)+" but for "+miss.Field)
		}
	}
	if p.disabled != nil {
		for _, miss := range p.disabled.Near(s, now) {
			if miss.Field == "" || miss.Field == "When" {
				list = append(list, "rule "+quote(miss.Rule)+" but that it is disabled")
			}
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "; it would match " + strings.Join(slices.Clip(list), ", ")
}
