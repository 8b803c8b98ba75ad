package mtls

import (
	"crypto/x509"
	"time"

	"github.com/mtlsguard/mtls/internal/ruleset"
)

// RuleSubject is what rules look at, for tests and benchmarks of the matching alone.
type RuleSubject struct {
	subject *ruleset.Subject
	now     time.Time
}

// NewRuleSubject reduces a client's certificate and its chains under the roots, as a
// decision does.
func NewRuleSubject(roots *Roots, p *Policy, now time.Time, chain ...*x509.Certificate) RuleSubject {
	g := &Guard{limits: Limits{Certificates: 10, Bytes: 1 << 20, Names: 1 << 10}}
	raw := rawOf(chain)
	sent, r := g.parse(raw)
	if r != nil {
		panic(r.detail)
	}
	all, r := sent.chains(roots.state.Load(), now)
	if r != nil {
		panic(r.detail)
	}
	return RuleSubject{sent.subject(roots.state.Load(), all, now, p.state.Load()), now}
}

// MatchRule returns the name of the rule that decides, or "".
func (p *Policy) MatchRule(s RuleSubject) string {
	m := p.state.Load().set.Match(s.subject, s.now)
	if m.Rule == nil {
		return ""
	}
	return m.Rule.Name
}
