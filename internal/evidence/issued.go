package evidence

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Bounds on the index of lists.
const (
	maxIssuers = 4096
	maxIssued  = 256 // lists of one issuer
)

// issued finds the newest list of each scope that is in memory, by the name of its
// issuer. Slots are found under one certificate of the issuer and one anchor: a
// client that presents another cross-certificate of its CA has empty ones, and what
// others' slots say of it must count all the same.
type issued struct {
	news atomic.Uint64

	mu      sync.RWMutex
	issuers *simplelru.LRU[[32]byte, named]
}

// named are the lists of one issuer's name, by scope.
type named map[[32]byte]indexed

type indexed struct {
	weak.Pointer[statement]
	signer [32]byte
}

func newIssued() *issued {
	issuers, err := simplelru.NewLRU[[32]byte, named](maxIssuers, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &issued{issuers: issuers}
}

// put records a list unless a newer one of its scope is in memory.
func (x *issued) put(st *statement) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key := sha256.Sum256(st.list.RawIssuer)
	n, ok := x.issuers.Get(key)
	if !ok {
		n = named{}
		x.issuers.Add(key, n)
	}
	id := st.list.ScopeID()
	old := n[id].Value()
	if old == st || old != nil && !st.supersedes(old) {
		return
	}
	if _, ok := n[id]; !ok && len(n) >= maxIssued {
		n.makeRoom()
	}
	n[id] = indexed{weak.Make(st), st.list.SignerKey()}
	x.news.Add(1)
}

// makeRoom forgets what is not in memory any more, or else a list of the key that
// has signed most: another CA of the name must not keep those of this one out.
func (n named) makeRoom() {
	count, most := map[[32]byte]int{}, 0
	for id, p := range n {
		if p.Value() == nil {
			delete(n, id)
			continue
		}
		count[p.signer]++
		most = max(most, count[p.signer])
	}
	for id, p := range n {
		if len(n) < maxIssued {
			return
		}
		if count[p.signer] == most {
			delete(n, id)
		}
	}
}

// of returns the lists of a name.
func (x *issued) of(rawName []byte) []*statement {
	x.mu.RLock()
	defer x.mu.RUnlock()
	lists, _ := x.issuers.Peek(sha256.Sum256(rawName))
	var found []*statement
	for _, p := range lists {
		if st := p.Value(); st != nil {
			found = append(found, st)
		}
	}
	return found
}

// listIssuers are the names of those whose lists may speak for the certificate.
func (q *Query) listIssuers() [][]byte {
	names := [][]byte{q.Issuer.RawSubject}
	points, _ := x509ext.DistributionPoints(q.Cert)
	for _, p := range points[:min(len(points), maxSources)] {
		for _, name := range p.CRLIssuer[:min(len(p.CRLIssuer), maxSources)] {
			if !slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, name) }) && len(names) <= maxSources {
				names = append(names, name)
			}
		}
	}
	return names
}

// elsewhere considers the revocations that lists in memory name and the slots of a
// query do not hold. Only they count: good is what the query's own sources say.
func (e *Engine) elsewhere(f *finding, q Query, src sources) {
	memory := &slot{kind: kindOwn, place: place{source: &Source{ID: "memory", Name: "a CRL in memory"}}}
	own := map[*statement]bool{}
	for _, s := range src.slots {
		if h := s.held.Load(); h != nil {
			for _, st := range h.all() {
				own[st] = true
			}
		}
	}
	now := e.now()
	var lists []*statement
	for _, name := range q.listIssuers() {
		lists = append(lists, e.issued.of(name)...)
	}
	for _, st := range lists {
		it := item{memory, st}
		if own[st] || !listed(it, q).revoked || !covers(st, q) || !q.trusts(st) {
			continue
		}
		if st.list.Delta() {
			superseded := slices.ContainsFunc(lists, func(l *statement) bool { return !l.list.Delta() && obsolete(it, item{memory, l}) })
			if v, ok := e.changes(it, q); ok && !superseded {
				f.overhear(v)
			}
			continue
		}
		var deltas []item
		for _, d := range lists {
			if d.list.Delta() {
				deltas = append(deltas, item{memory, d})
			}
		}
		if v := e.view(it, deltas, q, now); v.status == Revoked {
			f.overhear(v)
		}
	}
}

// Lists counts the lists that came into memory. Who rests on a decision asks
// Overheard once the number changes.
func (e *Engine) Lists() uint64 { return e.issued.news.Load() }

// Overheard reports whether a list in memory that the sources of a query do not
// hold revokes the certificate. After a Check that says good it is false.
func (e *Engine) Overheard(q Query) bool {
	f := &finding{}
	e.elsewhere(f, q, e.sources(q, false))
	return f.Status == Revoked
}

// overhear considers a revocation as long as it is in memory: who said it has it
// on record already.
func (f *finding) overhear(v view) {
	said := f.said
	f.consider(v)
	f.said = said
}
