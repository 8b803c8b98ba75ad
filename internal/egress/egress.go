// Package egress reads the records in which a domain publishes the addresses its
// connections come from.
//
// A record is a TXT record at _mtls-egress.DOMAIN, in the manner of SPF (RFC 7208)
// with nothing that recurses, expands or says all:
//
//	v=mtls1 ip4:198.51.100.0/28 ip6:2001:db8::/56 a:egress.partner.example
//
// What is not understood makes the record invalid, rather than smaller: half a
// record would refuse the other half's clients as if the domain had said so.
package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

const (
	label   = "_mtls-egress."
	version = "v=mtls1"

	maxTerms = 64
	maxNames = 10 // as RFC 7208 section 4.6.4 bounds lookups

	// Wider prefixes are shared by parties who have nothing to do with each other.
	minBits4 = 24
	minBits6 = 48
)

// Name returns where a domain publishes its record. The domain is canonical
// (package dnsname); for a wildcard it is that of the domain below.
func Name(domain string) string { return label + strings.TrimPrefix(domain, "*.") }

// Record is what a domain publishes. It is immutable.
type Record struct {
	Prefixes []netip.Prefix
	Names    []string // canonical, whose addresses count
}

// ErrAbsent says that a domain publishes no record, which is a definite answer.
var ErrAbsent = errors.New("no " + version + " record")

// Find returns the record among the texts of the TXT records at one name. Texts
// of other versions and purposes are not its business (RFC 7208 section 4.5). Any
// error but ErrAbsent means that what the domain says is not known.
func Find(texts []string) (*Record, error) {
	var found []string
	for _, text := range texts {
		if first, _, _ := strings.Cut(text, " "); strings.EqualFold(first, version) {
			found = append(found, text)
		}
	}
	switch len(found) {
	case 0:
		return nil, ErrAbsent
	case 1:
		return parse(found[0])
	}
	return nil, fmt.Errorf("%d %s records, where one is allowed", len(found), version)
}

// parse reads a record, whose first term is the version.
func parse(text string) (*Record, error) {
	terms := strings.FieldsFunc(text, func(r rune) bool { return r == ' ' })[1:]
	if len(terms) > maxTerms {
		return nil, fmt.Errorf("more than %d terms", maxTerms)
	}
	r := &Record{}
	for _, term := range terms {
		kind, value, _ := strings.Cut(term, ":")
		var err error
		switch strings.ToLower(kind) {
		case "ip4":
			err = r.addPrefix(value, true, minBits4)
		case "ip6":
			err = r.addPrefix(value, false, minBits6)
		case "a":
			err = r.addName(value)
		default:
			err = errors.New("only ip4, ip6 and a are known")
		}
		if err != nil {
			return nil, fmt.Errorf("term %s: %w", dnsname.Quote(term), err)
		}
	}
	return r, nil
}

// addPrefix adds an address or a prefix of one family. Bits behind the prefix
// must be zero: whoever wrote others meant something else.
func (r *Record) addPrefix(text string, four bool, least int) error {
	var p netip.Prefix
	var err error
	if strings.Contains(text, "/") {
		p, err = netip.ParsePrefix(text)
	} else {
		var a netip.Addr
		if a, err = netip.ParseAddr(text); err == nil {
			if a.Zone() != "" {
				return errors.New("an address with a zone")
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil:
		return errors.New("neither an address nor a prefix")
	case p.Addr().Is4() != four || p.Addr().Is4In6():
		return errors.New("of the other address family")
	case p.Bits() < least:
		return fmt.Errorf("wider than /%d", least)
	case p != p.Masked():
		return fmt.Errorf("bits behind the prefix: %s was meant, or less", p.Masked())
	}
	r.Prefixes = append(r.Prefixes, p)
	return nil
}

func (r *Record) addName(text string) error {
	name, err := dnsname.FromSAN(text)
	switch {
	case err != nil:
		return errors.New("not a host name")
	case dnsname.IsWildcard(name):
		return errors.New("a wildcard has no address")
	case len(r.Names) == maxNames:
		return fmt.Errorf("more than %d names", maxNames)
	}
	r.Names = append(r.Names, name)
	return nil
}
