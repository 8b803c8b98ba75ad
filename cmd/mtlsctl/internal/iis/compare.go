package iis

import (
	"slices"
	"strings"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/dn"
)

// compareOrder names what decides otherwise because rules that deny come first
// here, where IIS looks at one-to-one mappings first and then takes the first
// mapping that matches.
func (m *importer) compareOrder() {
	var allowed []string // many-to-one mappings so far
	var ones []madeRule  // one-to-one mappings in force
	last := 0            // where the last rule in force is that allows
	for i, r := range m.made {
		if !r.Deny && !r.Disabled {
			last = i
			if r.certificate != nil {
				ones = append(ones, r)
			}
		}
	}
	work, passedOver, firstOver := 0, 0, madeRule{}
	for i, r := range m.made {
		switch {
		case r.Disabled || r.certificate != nil:
		case !r.Deny:
			allowed = append(allowed, quote(r.Name))
		default:
			what := "many-to-one mapping " + quote(r.Name)
			if len(allowed) > 0 {
				do := "narrow it, or leave it out if it should not"
				if last < i {
					do = "leave it out if it should not: no mapping after it allows anybody"
				}
				m.lost(r.line, what, "it denies after "+first(allowed)+", and rules with deny are looked at first: it also refuses clients that IIS admits by them", do)
			}
			if exact(slices.Concat(r.Subject, r.Issuer)) {
				m.lost(r.line, what, "its criteria without * refuse the whole value only; IIS does not document whether it is content with a part", "write \"*value*\" if it is")
			}
			subject, issuer := patterns(r.Subject), patterns(r.Issuer)
			for _, one := range ones {
				if work += cost(r.Subject, one.certificate.RawSubject) + cost(r.Issuer, one.certificate.RawIssuer); work > maxWork {
					if passedOver++; passedOver == 1 {
						firstOver = r
					}
					break
				}
				if mayMatch(subject, one.certificate.subject) && mayMatch(issuer, one.certificate.issuer) {
					m.lost(one.line, "rule "+quote(one.Name), "its certificate matches the mapping "+quote(r.Name)+" of line "+itoa(r.line)+", which denies: IIS admits it and the policy does not", "narrow that rule")
				}
			}
		}
	}
	if passedOver > 0 {
		m.lost(firstOver.line, "many-to-one mapping "+quote(firstOver.Name), "it, and "+itoa(passedOver-1)+" after it that deny, are not compared with all certificates of one-to-one mappings, since there are too many: the policy may refuse clients whom IIS admits by them", "see whom they are meant to refuse")
	}
	for _, r := range m.made {
		if !r.Deny && !r.Disabled && exact(slices.Concat(r.Subject, r.Issuer)) {
			m.remark(r.line, "matchCriteria", "a value without * must be the whole value of the subfield, here and below; IIS does not document whether a part is enough", "write \"*value*\" where it should be")
			break
		}
	}
}

// maxWork bounds what conditions and names are compared by, in bytes, to seconds.
const maxWork = 1 << 28

// cost is what comparing conditions with a name takes, in bytes.
func cost(list []mtls.Attribute, name []byte) int {
	n := 64
	for _, a := range list {
		n += len(a.Value) + len(name)
	}
	return n
}

func first(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], ", ") + " and others"
	}
	return strings.Join(list, ", ")
}

// exact reports whether some condition has no wildcard.
func exact(list []mtls.Attribute) bool {
	return slices.ContainsFunc(list, func(a mtls.Attribute) bool {
		return !strings.Contains(strings.ReplaceAll(a.Value, `\*`, ""), "*")
	})
}

// patterns are the conditions of a rule, which is valid.
func patterns(list []mtls.Attribute) []dn.Pattern {
	var all []dn.Pattern
	for _, a := range list {
		if p, err := dn.ParsePattern(a.Type, a.Value, a.IgnoreCase); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// mayMatch reports whether a rule with deny takes the values for those it means.
func mayMatch(all []dn.Pattern, values []dn.Value) bool {
	return !slices.ContainsFunc(all, func(p dn.Pattern) bool { return !p.MayMatch(values) })
}
