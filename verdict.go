package mtls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/identity"
	"github.com/mtlsguard/mtls/internal/origin"
	"github.com/mtlsguard/mtls/internal/ruleset"
)

// maxVerdictAge bounds every verdict, whatever it rests on.
const maxVerdictAge = 5 * time.Minute

// verdict is an admission and everything it rests on. It is immutable. It holds
// as long as all of that is still the present state.
type verdict struct {
	guard    *Guard
	raw      [][]byte            // the presented chain
	certs    []*x509.Certificate // as crypto/tls parsed it, for comparison by pointer
	roots    *rootsState
	policy   *policyState
	shadow   *policyState
	denied   *denyState
	chain    candidate // that was chosen
	known    []evidence.Query
	news     *heard
	evidence []evidence.Dep
	dns      []*dnscache.Result
	standIn  bool // dns has lapsed, and stands in for answers that are not to be had
	decided  time.Time
	expires  time.Time
	identity *Identity
	any      any  // identity, boxed once
	lean     bool // nothing was presented but what the chain needs
	decision *Decision
}

// heard counts the news that a verdict has been held against: revocations that
// came to light by other certificates of a CA, in other connections.
type heard struct{ keys, certificates, lists atomic.Uint64 }

// verdictSlot keeps the last verdict of a connection.
type verdictSlot struct{ p atomic.Pointer[verdict] }

// holds reports whether the verdict, just taken, is still that of this moment:
// callbacks and the network take their time.
func (v *verdict) holds() bool { return v.unchanged() && !v.guard.now().After(v.expires) }

// live reports whether the verdict still holds.
func (v *verdict) live(g *Guard, now time.Time) bool {
	return v.guard == g && now.Before(v.expires) && !now.Before(v.decided) && v.unchanged()
}

// unchanged reports whether everything that the verdict rests on is still the
// present state.
func (v *verdict) unchanged() bool {
	g := v.guard
	if v.roots != g.roots.state.Load() || v.policy != g.policy.state.Load() || v.denied != g.denied.current() {
		return false
	}
	if g.shadow != nil && v.shadow != g.shadow.state.Load() {
		return false
	}
	if news := g.compromised.news.Load(); news != v.news.keys.Load() {
		if _, bad := g.compromised.condemned(v.chain); bad {
			return false
		}
		v.news.keys.Store(news)
	}
	if news := g.evidence.News(); news != v.news.certificates.Load() {
		if slices.ContainsFunc(v.known, func(q evidence.Query) bool { return g.evidence.KnownRevoked(q.Keys()...) }) {
			return false
		}
		v.news.certificates.Store(news)
	}
	if lists := g.evidence.Lists(); lists != v.news.lists.Load() {
		if slices.ContainsFunc(v.known, g.evidence.Overheard) {
			return false
		}
		v.news.lists.Store(lists)
	}
	for _, d := range v.evidence {
		if !d.Current() {
			return false
		}
	}
	for _, r := range v.dns {
		if r.Superseded() || v.standIn && r.Doubted() {
			return false
		}
	}
	return true
}

// verdictKey finds the verdict of a client that comes again on a new connection.
type verdictKey struct {
	chain       [sha256.Size]byte
	peer, local netip.Addr
}

// sum identifies a presented chain. Parts are length-prefixed.
func sum(raw [][]byte) [sha256.Size]byte {
	h := sha256.New()
	var n [8]byte
	for _, der := range raw {
		binary.BigEndian.PutUint64(n[:], uint64(len(der)))
		h.Write(n[:])
		h.Write(der)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// sameRaw compares the chains themselves: an index by hash only finds.
func sameRaw(a, b [][]byte) bool {
	return slices.EqualFunc(a, b, bytes.Equal)
}

// verdictFor returns the verdict of the client, from the connection's slot, from
// the cache, or by deciding (fresh); or the refusal. It is called in the request
// phase: the client has proved that it holds the key.
func (g *Guard) verdictFor(ctx context.Context, c *connInfo, certs []*x509.Certificate, staple []byte) (v *verdict, fresh bool, d *Decision) {
	now := g.now()
	g.poll(now)
	if c != nil {
		if v := c.verdict.p.Load(); v != nil && slices.Equal(v.certs, certs) && v.live(g, now) {
			return v, false, nil
		}
	}
	raw := rawOf(certs)
	if v, ok := g.verdicts.Get(keyOf(c, raw)); ok && sameRaw(v.raw, raw) && v.live(g, now) {
		// Another connection's certificates may be other pointers.
		v = v.with(certs)
		if c != nil {
			c.verdict.p.Store(v)
		}
		return v, false, nil
	}
	if v, d = g.decide(ctx, c, raw, staple); v == nil {
		return nil, true, d
	}
	return v.with(certs), true, nil
}

// keep stores a verdict for the connection's next requests and the client's next
// connections.
func (g *Guard) keep(c *connInfo, v *verdict) {
	// Whatever else the client sends along makes another key: it must not fill the
	// cache of all with that.
	if v.lean {
		g.verdicts.Add(keyOf(c, v.raw), v)
		g.recent.add(v.raw)
	}
	if c != nil {
		c.verdict.p.Store(v)
	}
}

func keyOf(c *connInfo, raw [][]byte) verdictKey {
	key := verdictKey{chain: sum(raw)}
	if c != nil {
		key.peer, key.local = c.peer, c.local
	}
	return key
}

func (v *verdict) with(certs []*x509.Certificate) *verdict {
	if slices.Equal(v.certs, certs) {
		return v
	}
	c := *v
	c.certs = slices.Clone(certs)
	return &c
}

const changing = "something that the decision rests on changed each time it was taken"

// maxTries bounds how often a decision is taken anew because something it rests
// on changed meanwhile.
const maxTries = 8

// decide takes a decision on one state of everything. It returns a verdict, or
// the refused decision.
func (g *Guard) decide(ctx context.Context, c *connInfo, raw [][]byte, staple []byte) (*verdict, *Decision) {
	ctx, cancel := context.WithTimeoutCause(ctx, g.limits.Wait, origin.ErrWait)
	defer cancel()
	for range maxTries {
		d := g.newDecision(c)
		v := &verdict{
			guard: g, raw: cloneRaw(raw), decided: d.Time, decision: d,
			roots: g.roots.state.Load(), policy: g.policy.state.Load(), denied: g.denied.current(), news: &heard{},
		}
		v.news.keys.Store(g.compromised.news.Load())
		v.news.certificates.Store(g.evidence.News())
		v.news.lists.Store(g.evidence.Lists())
		if g.shadow != nil {
			v.shadow = g.shadow.state.Load()
		}
		if g.judge(ctx, v, c, staple); d.Reason != "" {
			return nil, d
		}
		if v.holds() {
			return v, nil
		}
	}
	d := g.newDecision(c)
	return nil, d.refuse(ReasonInternal, Step{Name: stepRequest, Detail: changing})
}

func rawOf(certs []*x509.Certificate) [][]byte {
	raw := make([][]byte, len(certs))
	for i, c := range certs {
		raw[i] = c.Raw
	}
	return raw
}

func cloneRaw(raw [][]byte) [][]byte {
	c := make([][]byte, len(raw))
	for i := range raw {
		c[i] = bytes.Clone(raw[i])
	}
	return c
}

// judge runs the pipeline: limits, chain, rule, origin, revocation, account.
// The first step that fails ends it, and nothing but reaching its end admits.
func (g *Guard) judge(ctx context.Context, v *verdict, c *connInfo, staple []byte) {
	d := v.decision
	p, r := g.parse(v.raw)
	d.describe(p)
	if r != nil {
		d.refuse(r.reason, Step{Name: stepLimits, Detail: r.detail})
		return
	}
	d.add(Step{Name: stepLimits, Outcome: OutcomePass})

	all, r := p.chains(v.roots, d.Time)
	if r != nil {
		d.refuse(r.reason, Step{Name: stepChain, Detail: r.detail})
		return
	}
	d.add(Step{Name: stepChain, Outcome: OutcomePass, Detail: fmt.Sprintf("%d chains", len(all))})

	policies := []*policyState{v.policy}
	if v.shadow != nil {
		policies = append(policies, v.shadow)
	}
	subject := p.subject(v.roots, all, d.Time, policies...)
	if v.shadow != nil {
		defer func() { d.add(g.shadowStep(v.shadow, subject, d.Time)) }()
	}
	m := v.policy.match(subject, d.Time)
	d.Rule = m.ruleName()
	if r := ruled(m, p, subject, v.policy, d.Time); r != nil {
		d.refuse(r.reason, Step{Name: stepRule, Detail: r.detail})
		return
	}
	d.add(Step{Name: stepRule, Outcome: OutcomePass, Detail: "rule " + quote(m.rule.Name) + m.held.String()})
	v.expires = d.Time.Add(maxVerdictAge)
	earliest(&v.expires, m.until)

	// From here on the network may be asked: the chain is valid, a rule matches
	// and the key is proved.
	if !g.judgeOrigin(ctx, v, m, c) {
		return
	}
	chosen, ok := g.judgeRevocation(ctx, v, p, all, m, staple)
	if !ok {
		return
	}
	for _, cert := range slices.Concat(p.certs, chosen.chain) {
		// What has expired already, the chain does without.
		if !cert.NotAfter.Before(d.Time) {
			earliest(&v.expires, cert.NotAfter)
		}
	}
	v.lean = len(p.certs) <= len(chosen.chain) && !slices.ContainsFunc(p.certs, func(c *x509.Certificate) bool {
		return !slices.ContainsFunc(chosen.chain, c.Equal)
	})
	g.judgeAccount(ctx, v, chosen, m)
}

// judgeRevocation chooses the first chain, of those that satisfy the rule, of
// which every certificate is good. The other chains are looked at as well: the
// client's own certificate revoked in any of them denies, and a CA key that one
// of them shows to be compromised counts wherever it appears.
func (g *Guard) judgeRevocation(ctx context.Context, v *verdict, p *presented, all []candidate, m match, staple []byte) (candidate, bool) {
	d := v.decision
	findings := g.chainsStatus(ctx, all, g.settings(v.roots, p, all, d.Time, true), staple)
	var best revocationFinding
	chosen := -1
	for i, f := range findings {
		v.evidence = append(v.evidence, f.deps...)
		eligible := slices.Contains(m.views, i)
		if eligible && chosen < 0 || (eligible || f.status == evidence.Revoked && f.leaf) && better(f, best) {
			best, chosen = f, i
		}
	}
	if best.status == evidence.Good {
		v.chain, v.known = all[chosen], best.known
		if why, bad := g.compromised.condemned(v.chain); bad {
			best = revocationFinding{status: evidence.Revoked, detail: why}
		}
	}
	step := Step{Name: stepRevocation, Detail: best.detail, Proofs: best.proofs}
	switch {
	case best.status == evidence.Revoked:
		d.refuse(ReasonRevoked, step)
	case best.status == evidence.Good:
		step.Outcome = OutcomePass
		if best.soft {
			step.Outcome = OutcomeTolerated
		} else if best.skipped {
			step.Outcome, step.Detail = OutcomeSkipped, "NoRevocation"
		}
		d.add(step)
		earliest(&v.expires, best.expires)
		return all[chosen], true
	case best.missing:
		d.refuse(ReasonRevocationSourceMissing, step)
	default:
		d.retryAfter = best.retry
		d.refuse(ReasonRevocationUnknown, step)
	}
	return candidate{}, false
}

// ErrNoAccount is wrapped by the error of an AccountMapper that knows no account
// for an identity.
var ErrNoAccount = errors.New("mtls: no account")

// judgeAccount makes the identity and maps it to its account.
func (g *Guard) judgeAccount(ctx context.Context, v *verdict, chosen candidate, m match) {
	d := v.decision
	data := &identity.Data{
		Rule: m.rule.Name, Domain: m.held.domain, URI: m.held.uri, Email: m.held.email, UPN: m.held.upn,
		Roles: m.roles(), Authority: chosen.authority.Name,
		Peer: d.Peer, Account: identity.Account{Name: m.account()},
	}
	for _, cert := range chosen.chain {
		data.Raw = append(data.Raw, cert.Raw)
	}
	if g.accounts != nil {
		data.Expires = v.expires
		mapped := *data // the mapper may keep what it is given
		account, err := g.accounts.MapAccount(ctx, &Identity{&mapped})
		step := Step{Name: stepAccount}
		switch {
		case errors.Is(err, ErrNoAccount):
			step.Detail = safe(err.Error())
			d.refuse(ReasonAccountUnmapped, step)
			return
		case err != nil:
			step.Detail = safe(err.Error())
			d.refuse(ReasonAccountUnknown, step)
			return
		case account.Disabled:
			step.Detail = "account " + quote(account.Name) + " is disabled"
			d.refuse(ReasonAccountDisabled, step)
			return
		case account.Name == "":
			step.Detail = "the AccountMapper returned an account without a name"
			d.refuse(ReasonAccountUnmapped, step)
			return
		case !account.Expires.IsZero() && !account.Expires.After(g.now()):
			step.Detail = "account " + quote(account.Name) + ": the answer has lapsed"
			d.refuse(ReasonAccountUnknown, step)
			return
		}
		step.Outcome, step.Detail = OutcomePass, quote(account.Name)
		d.add(step)
		data.Account = account.data()
		earliest(&v.expires, account.Expires)
	}
	if groups := m.groups(); len(groups) > 0 && !slices.ContainsFunc(groups, func(group string) bool { return slices.Contains(data.Account.Groups, group) }) {
		d.refuse(ReasonGroupMissing, Step{Name: stepAccount, Detail: fmt.Sprintf("account %s is in none of the %d groups of rule %s",
			quote(data.Account.Name), len(groups), quote(m.rule.Name))})
		return
	}
	data.Expires = v.expires
	d.Expires = v.expires
	v.identity = &Identity{data}
	v.any = v.identity
	d.Identity = v.identity
	d.Admitted = true
}

// shadowStep reports what a shadow policy says. It looks at rules alone, so that
// it causes no network work. It enforces nothing, not even by a panic in a Rule.When.
func (g *Guard) shadowStep(shadow *policyState, s *ruleset.Subject, now time.Time) (step Step) {
	defer func() {
		if p := recover(); p != nil {
			step = Step{Name: stepShadow, Outcome: OutcomeUnknown, Detail: "the shadow policy panicked: " + safe(fmt.Sprint(p))}
		}
	}()
	m := shadow.match(s, now)
	switch {
	case m.rule == nil:
		return Step{Name: stepShadow, Outcome: OutcomeFail, Detail: "the shadow policy lists no such client"}
	case m.rule.Deny:
		return Step{Name: stepShadow, Outcome: OutcomeFail, Detail: "the shadow policy's rule " + quote(m.rule.Name) + " denies it"}
	}
	if len(m.groups()) > 0 {
		return Step{Name: stepShadow, Outcome: OutcomeUnknown, Detail: "the shadow policy's rule " + quote(m.rule.Name) + " lists it and demands a group, which is not looked at"}
	}
	return Step{Name: stepShadow, Outcome: OutcomePass, Detail: "the shadow policy's rule " + quote(m.rule.Name) + " lists it"}
}

// earliest lowers t to u, where the zero time means never.
func earliest(t *time.Time, u time.Time) {
	if !u.IsZero() && (t.IsZero() || u.Before(*t)) {
		*t = u
	}
}
