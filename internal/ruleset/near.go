package ruleset

import (
	"slices"
	"time"
)

// A Miss is a rule that names something which the certificate holds, and the field
// that does not match.
type Miss struct{ Rule, Field string }

// maxMisses bounds what an explanation lists.
const maxMisses = 3

// Near returns rules that would allow the subject but for one field: for the
// operator who wonders why none did.
func (s *Set) Near(subject *Subject, now time.Time) []Miss {
	var list []Miss
	s.allow.visitHeld(&search{set: s, subject: subject, now: now, best: -1, misses: &list})
	return list
}

// miss notes why the rule does not match, and reports whether there are enough.
func (r *Rule) miss(f *search) bool {
	if field := r.failing(f.subject, f.now); !slices.ContainsFunc(*f.misses, func(m Miss) bool { return m.Rule == r.Name }) && len(*f.misses) < maxMisses {
		*f.misses = append(*f.misses, Miss{r.Name, field})
	}
	return len(*f.misses) == maxMisses
}

// failing names the first field that does not match, and "" if all do.
func (r *Rule) failing(s *Subject, now time.Time) string {
	for _, c := range r.conds {
		if !c.allows(s) {
			return c.field()
		}
	}
	for _, c := range r.chain {
		if !anyView(s, func(v *View) bool { return v.Usable && c.admits(v) }) {
			return c.field()
		}
	}
	for _, c := range r.conds {
		if c, ok := c.(scoped); ok && !anyView(s, func(v *View) bool { return v.Usable && c.find(s, v.May) != "" }) {
			return c.field() + ", for which the authority may not speak"
		}
	}
	if len(r.Views(s)) == 0 {
		return "the chains: none satisfies all of it"
	}
	if !r.inTime(now, new(time.Time)) {
		return "NotBefore or NotAfter"
	}
	if r.when != nil { // it is not asked again for an explanation
		return "When"
	}
	return ""
}
