package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"github.com/mtlsguard/mtls/internal/evidence"
)

// VerifyPeerCertificate is the hook of that name for callers who build a
// tls.Config themselves. On its own it is not enough: crypto/tls does not call
// it for resumed sessions. Set VerifyConnection too, or use TLSConfig.
func (g *Guard) VerifyPeerCertificate(raw [][]byte, _ [][]*x509.Certificate) error {
	return g.handshake(raw, nil)
}

// VerifyConnection is the hook of that name for callers who build a tls.Config
// themselves, with ClientAuth set to tls.RequireAnyClientCert. It refuses a
// connection without a certificate, and whatever memory can decide: crypto/tls
// calls it before the client has proved that it holds its key, so it waits for
// nothing and stores nothing. The requests are decided by Handler, Require or
// Check; until one of these has been called on this Guard, VerifyConnection
// refuses everything that would need them.
func (g *Guard) VerifyConnection(cs tls.ConnectionState) error {
	raw := make([][]byte, len(cs.PeerCertificates))
	for i, c := range cs.PeerCertificates {
		raw[i] = c.Raw
	}
	return g.handshake(raw, cs.OCSPResponse)
}

// handshake decides from memory.
func (g *Guard) handshake(raw [][]byte, staple []byte) error {
	if !g.built() {
		return denied(unbuilt())
	}
	d := g.newDecision(nil)
	d.Handshake = true
	ctx := context.Background()
	g.protect(d, func() { g.examine(d, raw, staple) })
	if d.Reason == "" {
		return nil
	}
	g.report(ctx, d)
	if g.reportOnly {
		return nil
	}
	return denied(d)
}

// examine refuses what memory decides. It leaves d without a reason where the
// request phase has to decide.
func (g *Guard) examine(d *Decision, raw [][]byte, staple []byte) {
	p, r := g.parse(raw)
	d.describe(p)
	if r != nil {
		d.refuse(r.reason, Step{Name: stepLimits, Detail: r.detail})
		return
	}
	roots, policy, now := g.roots.state.Load(), g.policy.state.Load(), g.now()
	all, r := p.chains(roots, now)
	if r != nil {
		d.refuse(r.reason, Step{Name: stepChain, Detail: r.detail})
		return
	}
	m := policy.match(p.subject(all), now)
	// Anybody can copy a certificate of a public authority from a CT log: the
	// alert must not tell whether the policy lists it.
	public := slices.ContainsFunc(all, func(c candidate) bool { return c.authority.Public })
	complete := !g.attached.Load()
	if !public || complete {
		if r := ruled(m, p); r != nil {
			d.Rule = ruleName(m)
			d.refuse(r.reason, Step{Name: stepRule, Detail: r.detail})
			return
		}
	}
	views := m.views
	if m.rule == nil || m.rule.Deny {
		views = usable(all)
	}
	settings := g.settings(roots, p, all, now)
	var best revocationFinding
	for i, v := range views {
		f := g.chainStatus(context.Background(), all[v], settings[v], staple, false)
		if i == 0 || better(f, best) {
			best = f
		}
	}
	if best.status == evidence.Revoked {
		d.refuse(ReasonRevoked, Step{Name: stepRevocation, Detail: best.detail, Proofs: best.proofs})
		return
	}
	if !complete {
		return
	}
	const needed = "neither Handler, Require nor Check of this Guard has been called, so the handshake must decide alone, and "
	o := m.rule.origin
	if o == nil {
		o = g.origin
	}
	switch {
	case !o.off:
		d.refuse(ReasonOriginUnknown, Step{Name: stepOrigin, Detail: needed + "it does not know the peer's address"})
	case best.status != evidence.Good:
		d.refuse(ReasonRevocationUnknown, Step{Name: stepRevocation, Detail: needed + best.detail})
	case g.accounts != nil || g.verify != nil:
		d.refuse(ReasonAccountUnknown, Step{Name: stepAccount, Detail: needed + "Accounts and Verify belong to a request"})
	}
}

// usable returns the chains whose authority may speak for the names.
func usable(all []candidate) []int {
	var list []int
	for i, c := range all {
		if c.usable {
			list = append(list, i)
		}
	}
	return list
}

// better reports whether a finding should be preferred: a revoked client
// certificate decides whichever chain it is in; otherwise good before unknown
// before revoked.
func better(a, b revocationFinding) bool {
	rank := func(f revocationFinding) int {
		switch {
		case f.status == evidence.Revoked && f.leaf:
			return 3
		case f.status == evidence.Good:
			return 2
		case f.status == evidence.Unknown:
			return 1
		default:
			return 0
		}
	}
	return rank(a) > rank(b)
}

// ruled turns a match into a refusal, or nil.
func ruled(m match, p *presented) *refusal {
	switch {
	case m.rule == nil:
		return refusef(ReasonNotAllowed, "no rule lists this client; %s", p.someNames())
	case m.rule.Deny:
		return refusef(ReasonDeniedByRule, "rule %s denies it", quote(m.rule.Name))
	}
	return nil
}

func ruleName(m match) string {
	if m.rule == nil {
		return ""
	}
	return m.rule.Name
}

// someNames lists the canonical names, or says that there are none.
func (p *presented) someNames() string {
	if len(p.names) == 0 {
		return "it has no dNSName (a common name admits nobody)"
	}
	const most = 10
	list := strings.Join(p.names[:min(len(p.names), most)], ", ")
	if more := len(p.names) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return "its names are " + cut(list, 400)
}
