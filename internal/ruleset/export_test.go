package ruleset

import "time"

// Walk is Match without an index: every rule is looked at, in the order in which
// they decide.
func (s *Set) Walk(subject *Subject, now time.Time) *Rule {
	for _, deny := range []bool{true, false} {
		for _, pinned := range []bool{true, false} {
			for i := range s.rules {
				r := &s.rules[i]
				if r.Deny != deny || r.pins() != pinned {
					continue
				}
				if (deny && r.denies(subject) || !deny && r.allows(subject)) && r.inTime(now, new(time.Time)) && (r.when == nil || r.when(nil)) {
					return r
				}
			}
		}
	}
	return nil
}

func (r *Rule) pins() bool {
	for _, c := range r.conds {
		if _, ok := c.(certificates); ok {
			return true
		}
	}
	return false
}
