package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"weak"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Bounds on an owner's index of lists.
const (
	maxIssuers  = 4096
	maxIssued   = 256 // lists of one issuer
	maxVersions = 4   // of one list
	maxSigners  = 16  // certificates of the key that signs it
)

// issued finds the lists that an owner's slots hold, by the name of their issuer and
// the key that answers for them: the one that signed them, and the one that has
// certified that. Slots are found under the certificates of one chain: a client that
// presents another cross-certificate of its CA has empty ones, and what others' slots
// say of it must count all the same. No other CA of the name, and no other anchor,
// can push a list out.
type issued struct {
	mu      sync.RWMutex
	issuers *simplelru.LRU[[32]byte, map[[32]byte]*indexed] // by scope
}

// indexed is a list, of which the newest version that is held anywhere counts, and
// the certificates of the key that signed it where that is not the issuer's.
type indexed struct {
	versions []weak.Pointer[crl.List] // the newest first
	signers  []signer
}

type signer struct {
	cert *x509.Certificate
	key  [32]byte // of whoever certified it
}

func newIssued() *issued {
	issuers, err := simplelru.NewLRU[[32]byte, map[[32]byte]*indexed](maxIssuers, nil)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &issued{issuers: issuers}
}

// answers names the lists of a name for which a key answers.
func answers(rawName []byte, key [32]byte) [32]byte {
	h := sha256.New()
	writePart(h, key[:])
	h.Write(rawName)
	return [32]byte(h.Sum(nil))
}

// put records a list that a slot holds, and reports whether that is news.
func (x *issued) put(st *statement) (news bool) {
	keys := [][32]byte{st.list.SignerKey()}
	if st.by != nil {
		keys = append(keys, x509ext.KeyHash(st.by))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, key := range keys {
		name := answers(st.list.RawIssuer, key)
		lists, ok := x.issuers.Get(name)
		if !ok {
			lists = map[[32]byte]*indexed{}
			x.issuers.Add(name, lists)
		}
		id := st.list.ScopeID()
		if lists[id] == nil {
			makeRoom(lists)
			lists[id] = &indexed{}
		}
		news = lists[id].put(st) || news
	}
	return news
}

// makeRoom forgets what is not in memory any more, or else some list.
func makeRoom(lists map[[32]byte]*indexed) {
	if len(lists) < maxIssued {
		return
	}
	for id, i := range lists {
		if i.newest() == nil {
			delete(lists, id)
		}
	}
	for id := range lists {
		if len(lists) < maxIssued {
			return
		}
		delete(lists, id)
	}
}

func (i *indexed) put(st *statement) (news bool) {
	i.versions = slices.DeleteFunc(i.versions, func(p weak.Pointer[crl.List]) bool { return p.Value() == nil })
	if p := weak.Make(st.list); !slices.Contains(i.versions, p) {
		at := slices.IndexFunc(i.versions, func(p weak.Pointer[crl.List]) bool {
			l := p.Value()
			return l == nil || st.supersedes(&statement{list: l})
		})
		if at < 0 {
			at = len(i.versions)
		}
		i.versions = slices.Insert(i.versions, at, p)
		i.versions = i.versions[:min(len(i.versions), maxVersions)]
		news = true
	}
	if st.by != nil && !slices.ContainsFunc(i.signers, func(s signer) bool { return sameSaying(s.cert, st.signer) }) {
		i.signers = append(i.signers, signer{st.signer, x509ext.KeyHash(st.by)})
		i.signers = i.signers[max(0, len(i.signers)-maxSigners):]
		news = true
	}
	return news
}

// sameSaying compares certificates without their signatures, which anybody can
// write in another way.
func sameSaying(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawTBSCertificate, b.RawTBSCertificate)
}

func (i *indexed) newest() *crl.List {
	for _, p := range i.versions {
		if l := p.Value(); l != nil {
			return l
		}
	}
	return nil
}

// share returns the statement with the list that is in memory already where it is the
// same: then it is known as long as one of those who have it does.
func (x *issued) share(st *statement) *statement {
	x.mu.RLock()
	defer x.mu.RUnlock()
	lists, _ := x.issuers.Peek(answers(st.list.RawIssuer, st.list.SignerKey()))
	if i := lists[st.list.ScopeID()]; i != nil {
		for _, p := range i.versions {
			if l := p.Value(); l != nil && l.Same(st.list) {
				return &statement{list: l, signer: st.signer, by: st.by}
			}
		}
	}
	return st
}

// found is a list in memory and the certificate by which the chain of a query trusts it.
type found struct {
	scope [32]byte
	*statement
}

// asked is whose lists a query looks for in memory: those of a name for which the key
// of a CA of its chain answers.
type asked struct {
	name, key [32]byte
	ca        *x509.Certificate
	signs     bool // it has that name, and signs itself
	certifies bool // it may certify who signs in that name
	issuer    bool // it is the issuer of the certificate
}

// askedFor are all of a query.
func (q *Query) askedFor() (list []asked) {
	above := q.above()
	keys := make([][32]byte, len(above))
	for n, c := range above {
		keys[n] = x509ext.KeyHash(c)
	}
	for _, rawName := range q.listIssuers() {
		certifiers := len(q.certifiers(rawName))
		for n, c := range above {
			list = append(list, asked{answers(rawName, keys[n]), keys[n], c, bytes.Equal(c.RawSubject, rawName), n < certifiers, n == 0})
		}
	}
	return list
}

// of returns the lists that a query asks for, as its chain trusts them.
func (x *issued) of(ask []asked) (list []found) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, a := range ask {
		lists, _ := x.issuers.Peek(a.name)
		for id, i := range lists {
			l := i.newest()
			switch {
			case l == nil:
			case l.SignerKey() == a.key && a.signs:
				st := &statement{list: l}
				if !a.issuer {
					st.signer = a.ca
				}
				list = append(list, found{id, st})
			case a.certifies:
				for _, s := range i.signers {
					if s.key == a.key && bytes.Equal(s.cert.RawIssuer, a.ca.RawSubject) {
						list = append(list, found{id, &statement{list: l, signer: s.cert, by: a.ca}})
					}
				}
			}
		}
	}
	return list
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

// listsFor are the newest lists in memory, whoever's, that the chain of a query trusts;
// none if no list names the certificate.
func (e *Engine) listsFor(q *Query) []*statement {
	var all []found
	ask := q.askedFor()
	for _, o := range e.owners.Values() {
		all = append(all, o.issued.of(ask)...)
	}
	if !slices.ContainsFunc(all, func(st found) bool { return listed(item{nil, st.statement}, *q).revoked }) {
		return nil
	}
	newest := map[[32]byte]*statement{}
	for _, st := range all {
		if n := newest[st.scope]; n == nil || st.supersedes(n) {
			newest[st.scope] = st.statement
		}
	}
	var lists []*statement
	seen := map[[2][32]byte]bool{}
	for _, st := range all {
		id := [2][32]byte{st.scope}
		if st.signer != nil {
			id[1] = sha256.Sum256(st.signer.RawTBSCertificate)
		}
		if !seen[id] {
			seen[id] = true
			lists = append(lists, &statement{list: newest[st.scope].list, signer: st.signer, by: st.by})
		}
	}
	return lists
}

// elsewhere considers the revocations that lists in memory name and the slots of a
// query do not hold. Only they count: good is what the query's own sources say.
func (e *Engine) elsewhere(f *finding, q Query, src sources) {
	memory := &slot{kind: kindOwn, place: place{source: &Source{ID: "memory", Name: "a CRL in memory"}}}
	own := map[*crl.List]bool{}
	for _, s := range src.slots {
		if h := s.held.Load(); h != nil {
			for _, st := range h.all() {
				own[st.list] = true
			}
		}
	}
	now := e.now()
	lists := e.listsFor(&q)
	for _, st := range lists {
		it := item{memory, st}
		if own[st.list] || !listed(it, q).revoked || !covers(st, q) {
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

// issue records the lists that a slot holds now.
func (e *Engine) issue(s *slot, h *held) {
	for _, st := range h.said {
		if st.list != nil && s.owner.issued.put(st) {
			e.news.Add(1)
		}
	}
}

// Lists counts the lists that came into memory. Who rests on a decision asks
// Overheard once the number changes.
func (e *Engine) Lists() uint64 { return e.news.Load() }

// Overheard reports whether a list in memory that the sources of a query do not
// hold revokes the certificate. After a Check that says good it is false.
func (e *Engine) Overheard(q Query) bool {
	f := &finding{}
	e.elsewhere(f, q.counted(), e.sources(q, false))
	return f.Status == Revoked
}

// overhear considers a revocation as long as it is in memory: who said it has it
// on record already.
func (f *finding) overhear(v view) {
	said := f.said
	f.consider(v)
	f.said = said
}
