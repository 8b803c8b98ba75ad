package mtls

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mtlsguard/mtls/internal/evidence"
)

// Bounds on what is remembered of clients for the next start.
const (
	maxRecent      = 256
	maxRecentBytes = 1 << 20
	recentEvery    = time.Minute // between two times that it is stored
	recentKey      = "recent-clients"
	recentTimeout  = 5 * time.Second
)

// ahead is a query for what can be known without a client, and whose it is.
type ahead struct {
	evidence.Query
	authority *authority
}

// knownQueries returns the queries for all that Roots name: the CA certificates below
// anchors, and the sources of the operator's for what each CA issues.
func (g *Guard) knownQueries(roots *rootsState, now time.Time) []ahead {
	var list []ahead
	for _, a := range roots.authorities {
		s := g.setting(a)
		if s.off {
			continue
		}
		pool := x509.NewCertPool()
		for _, c := range a.extra {
			pool.AddCert(c)
		}
		for _, c := range slices.Concat(anchorsOf(a), a.extra) {
			for _, chain := range a.chainsOf(c, pool, now) {
				if len(s.sources) > 0 {
					list = append(list, ahead{s.query(chain, a.extra), a})
				}
				if len(chain) > 1 && !s.leafOnly {
					q := s.query(chain[1:], a.extra)
					q.Cert = c
					list = append(list, ahead{q, a})
				}
			}
		}
	}
	return list
}

// chainsOf returns the chains of a CA certificate. For an anchor, with which Verify
// ends at once, these are also those to the others, of a file with a root and its
// intermediate for example: clients' chains go there, too.
func (a *authority) chainsOf(c *x509.Certificate, intermediates *x509.CertPool, now time.Time) [][]*x509.Certificate {
	pools := []*x509.CertPool{a.pool}
	if selfIssued := bytes.Equal(c.RawIssuer, c.RawSubject); !a.Public && !selfIssued && a.keys[HashPublicKey(c)] {
		others := x509.NewCertPool()
		for _, anchor := range a.Anchors {
			if !anchor.Certificate.Equal(c) {
				others.AddCertWithConstraint(anchor.Certificate, anchor.Constraint)
			}
		}
		pools = append(pools, others)
	}
	var list [][]*x509.Certificate
	for _, pool := range pools {
		chains, err := c.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, CurrentTime: now, KeyUsages: everyPurpose()})
		if err == nil {
			list = append(list, chains...)
		}
	}
	return list
}

func anchorsOf(a *authority) []*x509.Certificate {
	if a.Public {
		return nil // hundreds, and nobody said anything about one of them
	}
	var list []*x509.Certificate
	for _, anchor := range a.Anchors {
		list = append(list, anchor.Certificate)
	}
	return list
}

// prefetch starts the fetches of all that is known without a client, and of what
// the clients before the last start needed.
func (g *Guard) prefetch(ctx context.Context) {
	roots := g.roots.state.Load()
	for _, q := range g.knownQueries(roots, g.now()) {
		if ctx.Err() != nil {
			return
		}
		g.evidence.Prime(q.Query)
	}
}

// prefetchRecent starts the fetches for chains that were admitted before. They
// come from a Store, so that they are looked at like those of a client, and cause
// fetches only if a rule lists them.
func (g *Guard) prefetchRecent(ctx context.Context) {
	roots, policy := g.roots.state.Load(), g.policy.state.Load()
	for _, raw := range g.recent.load(ctx) {
		if ctx.Err() != nil {
			return
		}
		p, r := g.parse(raw)
		if r != nil {
			continue
		}
		now := g.now()
		all, r := p.chains(roots, now)
		if r != nil {
			continue
		}
		if m := policy.match(p.subject(roots, all, now, policy), now); m.rule == nil || m.rule.Deny {
			continue
		}
		settings := g.settings(roots, p, all, now, true)
		for i, c := range all {
			for _, q := range queries(c, settings[i], nil) {
				g.evidence.Prime(q.Query)
			}
		}
		g.recent.add(raw)
	}
}

// evidenceErr says which authorities have no evidence although it is known where
// it would come from.
func (g *Guard) evidenceErr() error {
	var failed problems
	roots := g.roots.state.Load()
	supplied := map[*authority]bool{}
	for _, q := range g.knownQueries(roots, g.now()) {
		if q.Cert == nil {
			// Lists for one CA of an authority are enough: who knows whose
			// certificates its clients have.
			supplied[q.authority] = supplied[q.authority] || g.evidence.Supplied(q.Query)
			continue
		}
		if q.authority.keys[HashPublicKey(q.Cert)] {
			continue // an anchor itself, which needs none
		}
		f := g.evidence.Peek(q.Query)
		soft := g.setting(q.authority)
		if f.Status == evidence.Unknown && !(soft.silent && f.Silent || soft.missing && f.Missing) {
			failed = append(failed, fmt.Errorf("mtls: authority %q has no revocation evidence for CA certificate %s: %s",
				q.authority.Name, quote(q.Cert.Subject.String()), cut(f.Detail, 512)))
		}
	}
	for _, a := range roots.authorities {
		if has, asked := supplied[a]; asked && !has {
			failed = append(failed, fmt.Errorf("mtls: authority %q has no current evidence from its Sources", a.Name))
		}
	}
	return failed.err()
}

// recentClients are chains that were admitted, for the next start.
type recentClients struct {
	store Store // nil: none are remembered

	mu     sync.Mutex
	chains [][][]byte // the last first
	dirty  bool
	stored time.Time
}

// add remembers a chain as the last one.
func (r *recentClients) add(raw [][]byte) {
	if r.store == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.chains, func(c [][]byte) bool { return sameRaw(c, raw) })
	if i < 0 {
		r.dirty = true
		r.chains = slices.Insert(r.chains, 0, raw)[:min(len(r.chains)+1, maxRecent)]
		return
	}
	copy(r.chains[1:i+1], r.chains[:i])
	r.chains[0] = raw
}

// save stores what is remembered, at most once in a while unless it must.
func (r *recentClients) save(now time.Time, must bool) {
	r.mu.Lock()
	if r.store == nil || !r.dirty || !must && now.Before(r.stored.Add(recentEvery)) {
		r.mu.Unlock()
		return
	}
	r.dirty, r.stored = false, now
	data, err := encodeChains(r.chains)
	r.mu.Unlock()
	if err != nil {
		return
	}
	defer func() { _ = recover() }() // a caller's Store may panic, and this may be a goroutine of ours
	ctx, cancel := context.WithTimeout(context.Background(), recentTimeout)
	defer cancel()
	_ = r.store.Put(ctx, recentKey, data) // without it the next start fetches later
}

func (r *recentClients) load(ctx context.Context) (chains [][][]byte) {
	if r.store == nil {
		return nil
	}
	defer func() {
		if recover() != nil {
			chains = nil
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, recentTimeout)
	defer cancel()
	data, err := r.store.Get(ctx, recentKey)
	if err != nil {
		return nil
	}
	chains, err = decodeChains(data)
	if err != nil {
		return nil
	}
	return chains
}

// encodeChains writes length-prefixed certificates in length-prefixed chains, as
// many as fit.
func encodeChains(chains [][][]byte) ([]byte, error) {
	var b cryptobyte.Builder
	size := 0
	for _, chain := range chains {
		for _, der := range chain {
			size += len(der) + 3
		}
		if size > maxRecentBytes {
			break
		}
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			for _, der := range chain {
				b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(der) })
			}
		})
	}
	return b.Bytes()
}

func decodeChains(data []byte) ([][][]byte, error) {
	malformed := errors.New("malformed")
	if len(data) > maxRecentBytes+4*maxRecent {
		return nil, malformed
	}
	var chains [][][]byte
	for in := cryptobyte.String(bytes.Clone(data)); !in.Empty(); {
		var one, der cryptobyte.String
		if len(chains) == maxRecent || !in.ReadUint24LengthPrefixed(&one) {
			return nil, malformed
		}
		var chain [][]byte
		for !one.Empty() {
			if !one.ReadUint24LengthPrefixed(&der) {
				return nil, malformed
			}
			chain = append(chain, der)
		}
		chains = append(chains, chain)
	}
	return chains, nil
}
