package mtls

import (
	"context"
	"crypto/x509"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// revocationFinding is what is known of a whole chain.
type revocationFinding struct {
	status  evidence.Status
	skipped bool // nothing had to be checked
	missing bool
	detail  string
	proofs  []Proof
	expires time.Time
	deps    []evidence.Dep
	known   []evidence.Query // of the certificates that were looked at
	retry   time.Duration
	leaf    bool // the revoked certificate is the client's own
	notes   []string
	soft    bool // good only because SoftFail accepts that it is unknown
}

// chainsStatus is chainStatus, waiting, for every chain: all sources are asked
// before any is waited for.
func (g *Guard) chainsStatus(ctx context.Context, all []candidate, settings [][]strictness, staple []byte) []revocationFinding {
	for i, c := range all {
		for _, q := range queries(c, settings[i], staple) {
			g.evidence.Prime(q.Query)
		}
	}
	list := make([]revocationFinding, len(all))
	for i, c := range all {
		list[i] = g.chainStatus(ctx, c, settings[i], staple, true)
	}
	return list
}

// asking is a query and the setting that it comes of.
type asking struct {
	evidence.Query
	strictness
}

// queries asks for every certificate of a chain that its settings name.
func queries(c candidate, settings []strictness, staple []byte) []asking {
	var list []asking
	for i, s := range settings {
		if s.off || i > 0 && s.leafOnly {
			continue
		}
		q := s.query(c.chain[i+1:], c.candidates)
		q.Cert, q.Leaf = c.chain[i], i == 0
		if q.Leaf {
			q.MaxAge, q.Staple = s.maxAge, staple
		}
		list = append(list, asking{q, s})
	}
	return list
}

// query asks nothing yet of the certificates that above[0] has issued.
func (s *strictness) query(above, candidates []*x509.Certificate) evidence.Query {
	return evidence.Query{
		Issuer: above[0], Above: above[1:], Candidates: candidates, Owner: HashPublicKey(above[len(above)-1]),
		Fetch: s.fetch, Sources: s.sources, Mirrors: s.mirrors,
		Grace: s.grace, Nonce: s.nonce, AllowVersion1: s.version1,
	}
}

// softFailAge bounds a verdict without evidence.
const softFailAge = time.Minute

// chainStatus asks for every certificate of a chain that its settings name. In
// the handshake (wait false) it reads memory alone.
func (g *Guard) chainStatus(ctx context.Context, c candidate, settings []strictness, staple []byte, wait bool) revocationFinding {
	f := revocationFinding{status: evidence.Good, skipped: true}
	if why, at, bad := g.denied.current().find(c.chain); bad {
		return revocationFinding{status: evidence.Revoked, detail: why, leaf: at == 0}
	}
	if why, bad := g.compromised.condemned(c); bad {
		return revocationFinding{status: evidence.Revoked, detail: "a CA key in the chain is revoked: " + why}
	}
	for _, q := range queries(c, settings, staple) {
		var one evidence.Finding
		if wait {
			one = g.evidence.Check(ctx, q.Query)
		} else {
			one = g.evidence.Peek(q.Query)
		}
		f.skipped = false
		for _, p := range one.Proofs {
			f.proofs = append(f.proofs, Proof{Kind: p.Kind, Source: p.Source, Status: p.Status, From: p.From, Expires: p.Expires, Late: p.Late})
		}
		f.deps = append(f.deps, one.Deps...)
		asked := q.Query
		asked.Staple = nil
		f.known = append(f.known, asked)
		f.retry = max(f.retry, one.RetryAfter)
		earliest(&f.expires, one.Expires)
		detail := one.Detail
		if !q.Leaf {
			detail = "CA certificate " + quote(x509ext.NameText(q.Cert.Subject)) + ": " + detail
		}
		switch one.Status {
		case evidence.Revoked:
			if !q.Leaf && one.Compromise && wait {
				g.compromised.add(HashPublicKey(q.Cert), c, detail)
			}
			f.status, f.detail, f.leaf = evidence.Revoked, detail, q.Leaf
			return f
		case evidence.Good:
		default:
			if q.silent && one.Silent || q.missing && one.Missing {
				f.soft = true
				f.notes = append(f.notes, detail)
			} else if f.status == evidence.Good {
				f.status, f.missing, f.detail = evidence.Unknown, one.Missing, detail
			}
		}
	}
	if f.status == evidence.Good && f.soft {
		f.detail = "SoftFail: " + strings.Join(f.notes, "; ")
		earliest(&f.expires, g.now().Add(softFailAge))
	}
	return f
}

func keysOf(chain []*x509.Certificate) []KeyHash {
	keys := make([]KeyHash, 0, len(chain)-1)
	for _, c := range chain[1:] {
		keys = append(keys, HashPublicKey(c))
	}
	return keys
}

// better reports whether a finding should be preferred: a revoked client
// certificate decides whichever chain it is in; otherwise good before accepted
// without evidence before unknown before revoked.
func better(a, b revocationFinding) bool {
	rank := func(f revocationFinding) int {
		switch {
		case f.status == evidence.Revoked && f.leaf:
			return 4
		case f.status == evidence.Good && !f.soft:
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
