package mtls

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/fetch"
)

// strictness is the revocation setting of one certificate of a chain.
type strictness struct {
	off, leafOnly bool
	// What is accepted of a status that is unknown.
	silent, missing bool
	maxAge, grace   time.Duration
	nonce, version1 bool
	fetch           *fetch.Client
	sources         []*evidence.Source
	mirrors         []evidence.Mirror
}

// revocationOf returns the setting of an authority as it was given.
func (g *Guard) revocationOf(a *authority) *Revocation {
	if a.revs == nil {
		return g.revocation
	}
	return a.revs
}

// setting returns what an authority asks for.
func (g *Guard) setting(a *authority) strictness {
	r := g.revocationOf(a)
	s := strictness{
		off: r.off, leafOnly: r.LeafOnly, maxAge: r.MaxAge, grace: r.Grace, nonce: r.OCSPNonce, version1: r.AllowVersion1,
		silent:  slices.Contains(r.SoftFail, ReasonRevocationUnknown),
		missing: slices.Contains(r.SoftFail, ReasonRevocationSourceMissing),
		fetch:   r.fetch, sources: r.sources, mirrors: r.mirrors,
	}
	if s.maxAge == 0 {
		s.maxAge = privateMaxAge
		if a.Public {
			s.maxAge = publicMaxAge
		}
	}
	return s
}

// stricter merges two settings: what either asks for is asked for, and what only
// one accepts is not accepted.
func stricter(a, b strictness) strictness {
	if a.off {
		return b
	}
	if b.off {
		return a
	}
	a.leafOnly = a.leafOnly && b.leafOnly
	a.silent, a.missing = a.silent && b.silent, a.missing && b.missing
	a.maxAge, a.grace = min(a.maxAge, b.maxAge), min(a.grace, b.grace)
	a.nonce, a.version1 = a.nonce || b.nonce, a.version1 && b.version1
	for _, s := range b.sources {
		if !slices.ContainsFunc(a.sources, func(o *evidence.Source) bool { return o.ID == s.ID }) {
			a.sources = append(slices.Clip(a.sources), s)
		}
	}
	return a
}

// settings returns, for each chain, the setting of each of its certificates but
// the anchor. An issuer key that can be reached under several authorities gets
// the stricter of their settings: the sender chose the chain, and must not choose
// the setting with it. Without full, which the handshake does not need where the
// request phase decides, each chain has the setting of its own authority.
func (g *Guard) settings(roots *rootsState, p *presented, all []candidate, now time.Time, full bool) [][]strictness {
	var reach map[*authority][]KeyHash
	if full {
		reach = g.reach(roots, p, all, now)
	}
	lists := make([][]strictness, len(all))
	for i, c := range all {
		for _, key := range c.keys {
			s := g.setting(c.authority)
			for _, a := range roots.authorities {
				if full && a != c.authority && (a.keys[key] || slices.Contains(reach[a], key)) {
					s = stricter(s, g.setting(a))
				}
			}
			lists[i] = append(lists[i], s)
		}
	}
	return lists
}

// reach returns, for each authority, the CA keys of the chains that it certifies
// as well, by any certificate that was sent or that the server knows. The purpose
// and the names of the client's certificate do not matter for that. It is not
// asked where all authorities have one setting.
func (g *Guard) reach(roots *rootsState, p *presented, all []candidate, now time.Time) map[*authority][]KeyHash {
	if !slices.ContainsFunc(roots.authorities, func(a *authority) bool {
		return g.revocationOf(a) != g.revocationOf(roots.authorities[0]) || a.Public != roots.authorities[0].Public
	}) {
		return nil
	}
	inChains := func(key KeyHash) bool {
		return slices.ContainsFunc(all, func(c candidate) bool { return slices.Contains(c.keys, key) })
	}
	reach := map[*authority][]KeyHash{}
	for _, a := range roots.authorities {
		for _, c := range all {
			if c.authority == a {
				reach[a] = append(reach[a], c.keys...)
			}
		}
		intermediates := p.intermediates(a)
		for _, c := range slices.Concat(a.extra, p.cas) {
			key := HashPublicKey(c)
			if slices.Contains(reach[a], key) || !inChains(key) {
				continue
			}
			if _, err := c.Verify(x509.VerifyOptions{Roots: a.pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: everyPurpose()}); err == nil {
				reach[a] = append(reach[a], key)
			}
		}
	}
	return reach
}

// Bounds on the certificates that are kept beside a chain. Whoever runs a CA can
// issue many, and send others with each.
const (
	maxSigners     = 8
	maxSignerBytes = 16 << 10
)

// signers returns those certificates, sent or known, that may sign CRLs in the
// place of a CA of the chain: a CA of the chain has certified them.
func (p *presented) signers(a *authority, chain []*x509.Certificate) []*x509.Certificate {
	var list []*x509.Certificate
	size := 0
	for _, c := range slices.Concat(a.extra, p.certs[1:]) {
		may := c.KeyUsage&x509.KeyUsageCRLSign != 0 || c.KeyUsage == 0 && c.IsCA
		if !may || len(list) == maxSigners || size+len(c.Raw) > maxSignerBytes || slices.ContainsFunc(chain, c.Equal) || slices.ContainsFunc(list, c.Equal) {
			continue
		}
		if slices.ContainsFunc(chain[1:], func(by *x509.Certificate) bool {
			return bytes.Equal(by.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(by) == nil
		}) {
			list, size = append(list, c), size+len(c.Raw)
		}
	}
	return list
}

// everyPurpose lists the purposes one by one. "Any" is another thing, and is
// never asked.
func everyPurpose() []x509.ExtKeyUsage {
	var list []x509.ExtKeyUsage
	for u := x509.ExtKeyUsageServerAuth; u <= x509.ExtKeyUsageMicrosoftKernelCodeSigning; u++ {
		list = append(list, u)
	}
	return list
}
