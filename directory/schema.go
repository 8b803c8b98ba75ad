package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// What a server does not know is neither true nor false (RFC 4511 section 4.5.1.7), and
// so is its negation. Active Directory takes it for false, and so its negation for true:
// a misspelt (!(locked=*)) is everybody.

// capabilitiesAD are the supportedCapabilities of Active Directory and AD LDS
// ([MS-ADTS] 3.1.1.3.4.3).
var capabilitiesAD = []string{"1.2.840.113556.1.4.800", "1.2.840.113556.1.4.1851"}

// negation is what a filter has under a !: the name of an attribute or of a matching
// rule, or neither, of a negation as such.
type negation struct {
	filter          string // the field of LDAP
	attribute, rule string
}

// negationsOf lists what a filter has under a !.
func negationsOf(filter string, t template) (list []negation) {
	var walk func(*ber.Packet, bool)
	walk = func(p *ber.Packet, under bool) {
		n := negation{filter: filter}
		switch p.Tag {
		case ldap.FilterNot:
			list = append(list, n)
			under = true
			fallthrough
		case ldap.FilterAnd, ldap.FilterOr:
			for _, child := range p.Children {
				walk(child, under)
			}
			return
		case ldap.FilterPresent:
			n.attribute, _ = p.Value.(string)
		case ldap.FilterExtensibleMatch:
			n.attribute, n.rule, _, _ = assertion(p)
		default:
			n.attribute, _ = p.Children[0].Value.(string)
		}
		if under {
			n.attribute, _, _ = strings.Cut(n.attribute, ";") // without options
			list = append(list, n)
		}
	}
	if t.tree != nil {
		walk(t.tree, false)
	}
	return list
}

// ready sees, once for each connection, that the server takes the negations of the
// filters for what they are.
func (k *ldapKind) ready(ctx context.Context, cn *conn) error {
	if len(k.negations) == 0 {
		return nil
	}
	if !cn.checked { // where there is no answer, the connection is not used again
		cn.checked, cn.unfit = true, k.checkNegations(ctx, cn)
	}
	return cn.unfit
}

func (k *ldapKind) checkNegations(ctx context.Context, cn *conn) error {
	root, err := cn.one(ctx, "", "supportedCapabilities", "subschemaSubentry")
	if err != nil {
		return err
	}
	capabilities, err := texts(root, "supportedCapabilities")
	if err != nil {
		return err
	}
	if slices.ContainsFunc(capabilities, func(c string) bool { return slices.Contains(capabilitiesAD, c) }) {
		return fmt.Errorf("the server is Active Directory, to which ! makes true what it does not know or User may not read: use NewActiveDirectory, or no ! in %s", k.negations[0].filter)
	}
	dn, err := single(root, "subschemaSubentry")
	if err != nil {
		return err
	}
	if dn == "" {
		return errors.New("the server names no subschemaSubentry that User may read, so that it cannot be seen whether it knows what stands under a ! in the filters")
	}
	kinds := []string{"attributeTypes"}
	if slices.ContainsFunc(k.negations, func(n negation) bool { return n.rule != "" }) {
		kinds = append(kinds, "matchingRules")
	}
	entries, err := cn.search(ctx, dn, ldap.ScopeBaseObject, "(objectClass=subschema)", 1, kinds...)
	if err == nil && len(entries) == 0 {
		err = errAbsent
	}
	if err != nil {
		return fmt.Errorf("the schema %s: %w", quote(dn), err)
	}
	known := map[string]map[string]bool{}
	for _, kind := range kinds {
		definitions, err := texts(entries[0], kind)
		if err != nil {
			return err
		}
		known[kind] = map[string]bool{}
		for _, d := range definitions {
			names, _ := defines(d) // what cannot be read is not known
			for _, name := range names {
				known[kind][strings.ToLower(name)] = true
			}
		}
	}
	for _, n := range k.negations {
		for i, name := range []string{n.attribute, n.rule} {
			kind := [...]string{"attributeTypes", "matchingRules"}[i]
			if name != "" && !known[kind][strings.ToLower(name)] {
				return fmt.Errorf("%s has %s under a !, which is none of the %s of the server: misspelt, or User may not read %s", n.filter, quote(name), kind, quote(dn))
			}
		}
	}
	return nil
}

// defines returns the object identifier and the names that the description of an
// attribute type or a matching rule defines (RFC 4512 section 4.1).
func defines(s string) (names []string, ok bool) {
	tokens, ok := tokenize(s)
	if !ok || len(tokens) < 3 || tokens[0] != "(" || tokens[len(tokens)-1] != ")" || strings.Trim(tokens[1], letters+"-.") != "" {
		return nil, false
	}
	if oid(tokens[1]) { // some servers make up others
		names = append(names, tokens[1])
	}
	seen := map[string]bool{}
	for tokens = tokens[2:]; len(tokens) > 1; {
		keyword := tokens[0]
		if keyword == "(" || keyword == ")" || keyword[0] == '\'' || seen[keyword] {
			return nil, false
		}
		seen[keyword] = true
		tokens = tokens[1:]
		switch keyword {
		case "OBSOLETE", "SINGLE-VALUE", "COLLECTIVE", "NO-USER-MODIFICATION":
			continue
		}
		value := tokens[:1]
		switch tokens[0] {
		case ")":
			return nil, false
		case "(":
			end := slices.Index(tokens, ")")
			if end == len(tokens)-1 || slices.Contains(tokens[1:end], "(") {
				return nil, false
			}
			value, tokens = tokens[1:end], tokens[end:]
		}
		tokens = tokens[1:]
		if keyword != "NAME" {
			continue
		}
		for _, name := range value {
			if name[0] != '\'' {
				return nil, false
			}
			names = append(names, name[1:])
		}
	}
	return names, true
}

// tokenize splits a description into parentheses, words, and quoted texts with the
// quote before them.
func tokenize(s string) (tokens []string, ok bool) {
	for {
		if s = strings.TrimLeft(s, " "); s == "" {
			return tokens, true
		}
		n := strings.IndexAny(s, " ()'")
		switch {
		case n < 0:
			n = len(s)
		case n > 0 && s[n] == '\'':
			return nil, false
		case n == 0 && s[0] == '\'':
			end := strings.IndexByte(s[1:], '\'')
			if end < 0 {
				return nil, false
			}
			if n = end + 2; n < len(s) && s[n] != ' ' && s[n] != ')' {
				return nil, false
			}
			tokens, s = append(tokens, s[:n-1]), s[n:]
			continue
		case n == 0:
			n = 1
		}
		tokens, s = append(tokens, s[:n]), s[n:]
	}
}

// oid reports whether s is an object identifier in numbers.
func oid(s string) bool {
	for arc := range strings.SplitSeq(s, ".") {
		if arc == "" || strings.Trim(arc, "0123456789") != "" || len(arc) > 1 && arc[0] == '0' {
			return false
		}
	}
	return strings.Contains(s, ".")
}
