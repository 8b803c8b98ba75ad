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
	options         []string // of the attribute
}

// checkOptions reports an option under a !: a misspelt one is of an attribute that nobody
// has (RFC 4512 section 2.5), and no schema shows it.
func checkOptions(failed *problems, list []negation) {
	for _, n := range list {
		for _, option := range n.options {
			if !strings.EqualFold(option, "binary") {
				failed.add(n.filter, n.attribute+";"+option, "under a ! no option but ;binary: it would be true of everybody if the server knows another one")
			}
		}
	}
}

// negationsOf lists what a filter has under a !.
func negationsOf(filter string, t template) (list []negation) {
	var walk func(*ber.Packet, bool)
	walk = func(p *ber.Packet, under bool) {
		n := negation{filter: filter}
		if p.Tag == ldap.FilterNot {
			list, under = append(list, n), true
		}
		if operator(p) {
			for _, child := range p.Children {
				walk(child, under)
			}
		} else if under {
			n.attribute, n.rule, _, _ = comparison(p)
			names := strings.Split(n.attribute, ";")
			n.attribute, n.options = names[0], names[1:]
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
	if len(k.negations) == 0 || cn.checked {
		return nil
	}
	err := k.checkNegations(ctx, cn)
	cn.checked, cn.broken = err == nil, err != nil // another one may see what has been mended
	var said saidError
	if err != nil && (!unanswered(err) || errors.As(err, &said)) {
		cn.client.setUnfit(cn.server, err)
	}
	return err
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
	var unread []string
	for _, kind := range kinds {
		definitions, err := texts(entries[0], kind)
		if err != nil {
			return err
		}
		known[kind] = map[string]bool{}
		for _, d := range definitions {
			names, ok := defines(d)
			if !ok { // it is not known
				unread = append(unread, d)
			}
			for _, name := range names {
				known[kind][strings.ToLower(name)] = true
			}
		}
	}
	for _, n := range k.negations {
		for i, name := range []string{n.attribute, n.rule} {
			kind := [...]string{"attributeTypes", "matchingRules"}[i]
			if name != "" && !known[kind][strings.ToLower(name)] {
				for _, d := range unread {
					if strings.Contains(strings.ToLower(d), strings.ToLower(name)) {
						return fmt.Errorf("%s has %s under a !, which the server may know: %s of its schema is not as in RFC 4512 and cannot be read", n.filter, quote(name), quote(d))
					}
				}
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

// blanks stand between words: some servers break lines.
const blanks = " \t\r\n"

// tokenize splits a description into parentheses, words, and quoted texts with the
// quote before them.
func tokenize(s string) (tokens []string, ok bool) {
	for {
		if s = strings.TrimLeft(s, blanks); s == "" {
			return tokens, true
		}
		n := strings.IndexAny(s, blanks+"()'")
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
			if n = end + 2; n < len(s) && !strings.ContainsRune(blanks+")", rune(s[n])) {
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
