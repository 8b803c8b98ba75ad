package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/mtlsguard/mtls/internal/evidence"
)

// VerifyPeerCertificate is the hook of that name for callers who build a
// tls.Config themselves. On its own it is not enough: crypto/tls does not call
// it for resumed sessions. Set VerifyConnection too, or use TLSConfig.
func (g *Guard) VerifyPeerCertificate(raw [][]byte, _ [][]*x509.Certificate) error {
	return g.handshake(func() [][]byte { return raw }, nil)
}

// VerifyConnection is the hook of that name for callers who build a tls.Config
// themselves, with ClientAuth set to tls.RequireAnyClientCert. It refuses a
// connection without a certificate, and whatever memory can decide: crypto/tls
// calls it before the client has proved that it holds its key, so it waits for
// nothing and stores nothing. The requests are decided by Handler, Require or
// Check; until one of these has been called on this Guard, VerifyConnection
// refuses everything that would need them.
func (g *Guard) VerifyConnection(cs tls.ConnectionState) error {
	return g.handshake(func() [][]byte { return rawOf(cs.PeerCertificates) }, cs.OCSPResponse)
}

// handshake decides from memory.
func (g *Guard) handshake(raw func() [][]byte, staple []byte) error {
	if !g.built() {
		return denied(unbuilt())
	}
	d := g.newDecision(nil)
	ctx := context.Background()
	g.protect(d, func() { g.examine(d, raw(), staple) })
	d.Handshake = true
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
	complete := !g.attached.Load()
	// Anybody can copy a certificate of a public authority from a CT log: the alert, and
	// the time it takes, must not tell whether the policy lists it. Evidence is fetched
	// for listed clients only, so that "revoked" would tell as much.
	if !complete && slices.ContainsFunc(all, func(c candidate) bool { return c.authority.Public }) {
		return
	}
	subject := p.subject(roots, all, now, policy)
	m := policy.match(subject, now)
	if r := ruled(m, p, subject, policy, now); r != nil {
		d.Rule = m.ruleName()
		d.refuse(r.reason, Step{Name: stepRule, Detail: r.detail})
		return
	}
	settings := g.settings(roots, p, all, now, complete)
	var best revocationFinding
	for i, v := range m.views {
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
	switch {
	case !g.originOf(m.grant).Off:
		d.refuse(ReasonOriginUnknown, Step{Name: stepOrigin, Detail: needed + "it does not know the peer's address"})
	case best.status != evidence.Good || best.soft: // nobody would learn that it is tolerated
		d.refuse(ReasonRevocationUnknown, Step{Name: stepRevocation, Detail: needed + best.detail})
	case g.accounts != nil || g.verify != nil || len(m.groups()) > 0:
		d.refuse(ReasonAccountUnknown, Step{Name: stepAccount, Detail: needed + "Accounts, Verify and the Groups of a rule belong to a request"})
	}
}
