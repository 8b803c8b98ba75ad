package directory

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// template is a filter (RFC 4515) with fields in braces, each in the place of a value
// or of a part of one.
type template struct {
	texts  []string // one more than
	fields []string
}

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
		// What is escaped is escaped for a value (RFC 4515 section 3), and could be the name
		// of an attribute.
		left := strings.Join(t.texts, "x")
		i := strings.LastIndexByte(left, '(')
		if i < 0 || strings.LastIndexByte(left, ')') > i {
			return t, fmt.Errorf("{%s} does not stand in a value", field)
		}
		_, value, found := strings.Cut(left[i:], "=")
		if !found {
			return t, fmt.Errorf("{%s} does not stand in a value", field)
		}
		right, _, _ := strings.Cut(after, ")")
		value += right
		if strings.Contains(right, "{") {
			return t, fmt.Errorf("{%s} stands in a value with another field: where one ends could not be told", field)
		}
		// A name could bring attributes of its own into it (RFC 4514).
		if strings.Contains(value, "=") || strings.Contains(strings.ToLower(value), `\3d`) {
			return t, fmt.Errorf("{%s} stands in a part of a distinguished name, for which it is not escaped", field)
		}
		if strings.HasSuffix(before, `\`) || len(before) > 1 && before[len(before)-2] == '\\' {
			return t, fmt.Errorf("{%s} stands in an escape", field)
		}
		t.fields = append(t.fields, field)
		rest = after
	}
	if _, err := ldap.CompileFilter(t.fill(func(string) string { return "x" })); err != nil {
		return t, fmt.Errorf("not a filter (RFC 4515): %w", err)
	}
	return t, nil
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
