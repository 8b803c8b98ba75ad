package mtls

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/fetch"
)

// Revocation says how certificates are checked for revocation. The zero
// Revocation requires it: every certificate of the chain except the anchor must be
// known not to be revoked, from a CRL (RFC 5280 section 6.3) or an OCSP
// response (RFC 6960) at the places that the certificate itself names, or from
// a response that the client staples (RFC 8446 section 4.4.2.1). Revoked
// denies, unknown denies.
type Revocation struct {
	// LeafOnly leaves the CA certificates of the chain unchecked.
	LeafOnly bool
	// MaxAge is how old the evidence for a client's certificate may be, counted
	// from its thisUpdate. Zero: 10 days under a public authority, else until its
	// nextUpdate and at most 100 days.
	MaxAge time.Duration
	// AllowNetworks are networks that URLs from certificates may lead to although
	// they are private, loopback or link-local. None by default.
	AllowNetworks []netip.Prefix
	// Client fetches the evidence. Nil: a client that never reaches private,
	// loopback or link-local addresses, except AllowNetworks. With a client of
	// one's own (for a proxy, say) that check is left to its transport; all other
	// bounds hold.
	Client *http.Client

	off   bool
	fetch *fetch.Client // of a clone
}

// NoRevocation returns the setting that checks nothing: a revoked certificate is
// admitted until it expires. It is for authorities whose certificates live for
// hours. An authority that asks for evidence wins over one that does not wherever
// a CA key is known to belong to both: from what the client sent, or because the
// CA's certificate is an anchor. So do not set it for a CA that is
// cross-certified with one that must be checked.
func NoRevocation() *Revocation { return &Revocation{off: true} }

const (
	publicMaxAge  = 10 * 24 * time.Hour
	privateMaxAge = 100 * 24 * time.Hour
)

func (r *Revocation) check(field string) error {
	var failed problems
	if r.MaxAge < 0 {
		failed.add(field+".MaxAge", r.MaxAge.String(), "negative")
	}
	for _, p := range r.AllowNetworks {
		if !p.IsValid() {
			failed.add(field+".AllowNetworks", p.String(), "not a prefix")
		}
	}
	if r.off && (r.LeafOnly || r.MaxAge != 0 || len(r.AllowNetworks) > 0 || r.Client != nil) {
		failed.add(field, "", "NoRevocation with settings")
	}
	return failed.err()
}

// clone returns a copy of its own, ready to fetch.
func (r *Revocation) clone() *Revocation {
	c := *r
	c.AllowNetworks = slices.Clone(r.AllowNetworks)
	c.fetch = fetch.New(fetch.Options{
		AllowNetworks: c.AllowNetworks,
		Client:        c.Client,
	})
	return &c
}

// Store keeps evidence between processes: signed bytes, which are verified again
// when they are read, so that nothing in a Store can admit anybody. An
// autocert.DirCache is a Store. Any error of Get is a miss. It is used
// concurrently.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
}

// strictness is the revocation setting of one certificate of a chain.
type strictness struct {
	off, leafOnly bool
	maxAge        time.Duration
	fetch         *fetch.Client
}

// setting returns what an authority asks for.
func (g *Guard) setting(a *authority) strictness {
	r := a.revs
	if r == nil {
		r = g.revocation
	}
	s := strictness{off: r.off, leafOnly: r.LeafOnly, maxAge: r.MaxAge, fetch: r.fetch}
	if s.maxAge == 0 {
		s.maxAge = privateMaxAge
		if a.Public {
			s.maxAge = publicMaxAge
		}
	}
	return s
}

// stricter merges two settings: what either asks for is asked for.
func stricter(a, b strictness) strictness {
	if a.off {
		return b
	}
	if b.off {
		return a
	}
	return strictness{leafOnly: a.leafOnly && b.leafOnly, maxAge: min(a.maxAge, b.maxAge), fetch: a.fetch}
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
	if !slices.ContainsFunc(roots.authorities, func(a *authority) bool { return g.setting(a) != g.setting(roots.authorities[0]) }) {
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

// everyPurpose lists the purposes one by one. "Any" is another thing, and is
// never asked.
func everyPurpose() []x509.ExtKeyUsage {
	var list []x509.ExtKeyUsage
	for u := x509.ExtKeyUsageServerAuth; u <= x509.ExtKeyUsageMicrosoftKernelCodeSigning; u++ {
		list = append(list, u)
	}
	return list
}

// revocationFinding is what is known of a whole chain.
type revocationFinding struct {
	status  evidence.Status
	skipped bool // nothing had to be checked
	missing bool
	detail  string
	proofs  []Proof
	expires time.Time
	deps    []evidence.Dep
	known   []evidence.CertKey // of the certificates that were looked at
	retry   time.Duration
	leaf    bool // the revoked certificate is the client's own
}

// chainsStatus is chainStatus, waiting, for every chain: all sources are asked
// before any is waited for.
func (g *Guard) chainsStatus(ctx context.Context, all []candidate, settings [][]strictness, staple []byte) []revocationFinding {
	for i, c := range all {
		for _, q := range queries(c, settings[i], staple) {
			g.evidence.Prime(q)
		}
	}
	list := make([]revocationFinding, len(all))
	for i, c := range all {
		list[i] = g.chainStatus(ctx, c, settings[i], staple, true)
	}
	return list
}

// queries asks for every certificate of a chain that its settings name.
func queries(c candidate, settings []strictness, staple []byte) []evidence.Query {
	var list []evidence.Query
	for i, s := range settings {
		if s.off || i > 0 && s.leafOnly {
			continue
		}
		q := evidence.Query{Cert: c.chain[i], Issuer: c.chain[i+1], Leaf: i == 0, Fetch: s.fetch, Owner: c.keys[len(c.keys)-1]}
		if q.Leaf {
			q.MaxAge, q.Staple = s.maxAge, staple
		}
		list = append(list, q)
	}
	return list
}

// chainStatus asks for every certificate of a chain that its settings name. In
// the handshake (wait false) it reads memory alone.
func (g *Guard) chainStatus(ctx context.Context, c candidate, settings []strictness, staple []byte, wait bool) revocationFinding {
	f := revocationFinding{status: evidence.Good, skipped: true}
	if why, bad := g.compromised.condemned(c); bad {
		return revocationFinding{status: evidence.Revoked, detail: "a CA key in the chain is revoked: " + why}
	}
	for _, q := range queries(c, settings, staple) {
		var one evidence.Finding
		if wait {
			one = g.evidence.Check(ctx, q)
		} else {
			one = g.evidence.Peek(q)
		}
		f.skipped = false
		for _, p := range one.Proofs {
			f.proofs = append(f.proofs, Proof(p))
		}
		f.deps = append(f.deps, one.Deps...)
		f.known = append(f.known, evidence.KeyOf(q.Cert, q.Issuer))
		f.retry = max(f.retry, one.RetryAfter)
		earliest(&f.expires, one.Expires)
		detail := one.Detail
		if !q.Leaf {
			detail = "CA certificate " + quote(q.Cert.Subject.String()) + ": " + detail
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
			if f.status == evidence.Good {
				f.status, f.missing, f.detail = evidence.Unknown, one.Missing, detail
			}
		}
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
