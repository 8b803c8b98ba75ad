package evidence

import (
	"crypto/sha256"
	"slices"
	"sync"
	"weak"

	"github.com/hashicorp/golang-lru/v2/simplelru"
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
	mu      sync.RWMutex
	issuers *simplelru.LRU[[32]byte, map[[32]byte]weak.Pointer[statement]]
}

func newIssued() *issued {
	issuers, err := simplelru.NewLRU[[32]byte, map[[32]byte]weak.Pointer[statement]](maxIssuers, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &issued{issuers: issuers}
}

// put records a list unless a newer one of its scope is in memory.
func (x *issued) put(st *statement) {
	x.mu.Lock()
	defer x.mu.Unlock()
	issuer := sha256.Sum256(st.list.RawIssuer)
	lists, ok := x.issuers.Get(issuer)
	if !ok {
		lists = map[[32]byte]weak.Pointer[statement]{}
		x.issuers.Add(issuer, lists)
	}
	id := st.list.ScopeID()
	if old := lists[id].Value(); old != nil && !st.supersedes(old) {
		return
	}
	if len(lists) >= maxIssued {
		for id, p := range lists {
			if p.Value() == nil {
				delete(lists, id)
			}
		}
	}
	if _, ok := lists[id]; ok || len(lists) < maxIssued {
		lists[id] = weak.Make(st)
	}
}

// of returns the lists of an issuer's name.
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
	lists := e.issued.of(q.Issuer.RawSubject)
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

// overhear considers a revocation as long as it is in memory: who said it has it
// on record already.
func (f *finding) overhear(v view) {
	said := f.said
	f.consider(v)
	f.said = said
}
