package directory

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// template is a filter (RFC 4515) with fields in braces, each in the place of a value
// or of a part of one.
type template struct {
	texts  []string // one more than
	fields []string
	tree   *ber.Packet // of the filter with marks in place of the fields
}

// mark stands for a field's value.
const mark = "\x00field\x00"

// parseTemplate reads a filter in which the given fields may be used.
func parseTemplate(text string, allowed ...string) (template, error) {
	var t template
	rest := text
	for {
		before, after, found := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return t, fmt.Errorf("a } without a {; in a value they are \\7b and \\7d")
		}
		t.texts = append(t.texts, before)
		if !found {
			break
		}
		field, after, found := strings.Cut(after, "}")
		if !found || !slices.Contains(allowed, field) {
			return t, fmt.Errorf("{%s is none of the fields {%s}", field, strings.Join(allowed, "}, {"))
		}
		t.fields = append(t.fields, field)
		rest = after
	}
	var err error
	if t.tree, err = ldap.CompileFilter(t.fill(func(string) string { return mark })); err != nil {
		return t, fmt.Errorf("not a filter (RFC 4515): %w", err)
	}
	return t, t.placed()
}

// placed reports a field that does not stand in a value, for which alone it is escaped
// (RFC 4515 section 3), or not so that the value is one name.
func (t template) placed() error {
	misplaced := errors.New("a field does not stand in a value: that of (uid={...}), or of (uid:caseExactMatch:={...})")
	marks, parts := 0, 0
	var walk func(*ber.Packet) error
	walk = func(p *ber.Packet) error {
		parts++
		if operator(p) {
			for _, child := range p.Children {
				if err := walk(child); err != nil {
					return err
				}
			}
			return nil
		}
		attribute, rule, value, _ := comparison(p)
		if strings.Contains(attribute+rule, `\`) { // of the mark: a name has none
			return misplaced
		}
		before, after, found := strings.Cut(value, mark)
		switch {
		case !found:
			return nil
		case strings.Contains(after, mark):
			return errors.New("a field stands in a value with another field: where one ends could not be told")
		case strings.Contains(before+after, "="): // a name could bring attributes of its own (RFC 4514)
			return errors.New("a field stands in a part of a distinguished name, for which it is not escaped")
		}
		marks++
		return nil
	}
	if err := walk(t.tree); err != nil {
		return err
	}
	switch {
	case marks != len(t.fields):
		return misplaced
	case parts != strings.Count(strings.Join(t.texts, ""), "("):
		return errors.New("a ( does not begin a part of the filter; in a value it is \\28")
	}
	return nil
}

// operator reports whether a filter is of others.
func operator(p *ber.Packet) bool {
	return p.Tag == ldap.FilterAnd || p.Tag == ldap.FilterOr || p.Tag == ldap.FilterNot
}

// comparison returns the parts of a filter that is not of others.
func comparison(p *ber.Packet) (attribute, rule, value string, dn bool) {
	switch p.Tag {
	case ldap.FilterPresent:
		attribute, _ = p.Value.(string)
	case ldap.FilterExtensibleMatch:
		return assertion(p)
	case ldap.FilterSubstrings:
		attribute, _ = p.Children[0].Value.(string)
		for _, part := range p.Children[1].Children {
			text, _ := part.Value.(string)
			value += text
		}
	default:
		attribute, _ = p.Children[0].Value.(string)
		value, _ = p.Children[1].Value.(string)
	}
	return attribute, rule, value, false
}

// equalityRules are the matching rules that take little for equal (RFC 4517 section
// 4.2), in small letters.
var equalityRules = map[string]bool{
	"caseexactmatch": true, "2.5.13.5": true, "caseignorematch": true, "2.5.13.2": true, "octetstringmatch": true, "2.5.13.17": true,
	"caseexactia5match": true, "1.3.6.1.4.1.1466.109.114.1": true, "caseignoreia5match": true, "1.3.6.1.4.1.1466.109.114.2": true,
}

// inChain is LDAP_MATCHING_RULE_IN_CHAIN, of Active Directory: groups in groups.
const inChain = "1.2.840.113556.1.4.1941"

// equal reports a field that is compared in another way than for equality, where one
// client's name would find another's account.
func (t template) equal(more ...string) error {
	if t.tree == nil {
		return nil
	}
	return equal(t.tree, false, more)
}

func equal(p *ber.Packet, negated bool, more []string) error {
	if operator(p) {
		for _, child := range p.Children {
			if err := equal(child, negated || p.Tag == ldap.FilterNot, more); err != nil {
				return err
			}
		}
		return nil
	}
	attribute, rule, value, dn := comparison(p)
	instead := fmt.Sprintf(": write (%s={...})", attribute)
	switch {
	case !strings.Contains(value, mark):
		return nil
	case negated:
		return errors.New("a field stands under a !, where everybody else matches: only say who the client is, as in (uid={...})")
	case p.Tag == ldap.FilterEqualityMatch:
		return nil
	case p.Tag == ldap.FilterSubstrings:
		return errors.New("a field stands in a value with an asterisk, so that a part of a name would do" + instead)
	case p.Tag != ldap.FilterExtensibleMatch:
		return errors.New("a field is compared by ~=, >= or <=" + instead)
	case dn:
		return errors.New("a field is compared with parts of distinguished names (:dn)" + instead)
	case attribute == "":
		return errors.New("a field is compared with whatever attribute: name the one")
	case !equalityRules[strings.ToLower(rule)] && !slices.Contains(more, rule):
		return fmt.Errorf("a field is compared by the matching rule %q, which is not one of caseExactMatch, caseIgnoreMatch, caseExactIA5Match, caseIgnoreIA5Match, octetStringMatch%s",
			rule, instead)
	}
	return nil
}

// assertion returns the parts of an extensible match (RFC 4511 section 4.5.1.7.7).
func assertion(p *ber.Packet) (attribute, rule, value string, dn bool) {
	for _, part := range p.Children {
		text, _ := part.Value.(string)
		switch part.Tag {
		case ldap.MatchingRuleAssertionMatchingRule:
			rule = text
		case ldap.MatchingRuleAssertionType:
			attribute = text
		case ldap.MatchingRuleAssertionMatchValue:
			value = text
		case ldap.MatchingRuleAssertionDNAttributes:
			dn = true
		}
	}
	return attribute, rule, value, dn
}

// uses reports whether the template has the field.
func (t template) uses(field string) bool { return slices.Contains(t.fields, field) }

// fill puts values, escaped, in place of the fields.
func (t template) fill(value func(field string) string) string {
	var s strings.Builder
	for i, text := range t.texts {
		s.WriteString(text)
		if i < len(t.fields) {
			s.WriteString(ldap.EscapeFilter(value(t.fields[i])))
		}
	}
	return s.String()
}

// plain reports whether a value of a certificate may be asked for: printable ASCII
// without blanks at the ends or several in a row. Directories take more than that for
// equal (RFC 4518): they leave blanks and invisible characters out, and some take
// letters with and without accents for the same.
func plain(s string) bool {
	return s != "" && len(s) <= 1024 && strings.Trim(s, " ") == s && !strings.Contains(s, "  ") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
