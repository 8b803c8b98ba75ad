package evidence

import (
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"
	"weak"

	"github.com/mtlsguard/mtls/internal/crl"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Bounds on what is remembered of an owner's lists.
const (
	maxScopes = 8192
	maxLists  = 1024
)

var errRollback = errors.New("an older list than one that was seen before")

// floors remember the newest list of each scope, whichever source it came from:
// the issuer signed the older one as well, and somebody on the path could serve it
// as long as it is current, to hide what was revoked since.
type floors struct {
	mu     sync.Mutex
	scopes *lru.Cache[[32]byte, floor]
}

type floor struct {
	at        time.Time
	number    *big.Int
	statement weak.Pointer[statement] // whoever has seen it need not keep it in memory
}

func newFloors() *floors {
	scopes, err := lru.New[[32]byte, floor](maxScopes)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &floors{scopes: scopes}
}

// newest records a verified list and returns it, or the newer one of its scope
// where that is still in memory and covers the certificate, or an error. Of two of
// the same second the numbers decide. A lower number of a newer list, on which a CA
// that was restored begins again, is only reported.
func (f *floors) newest(st *statement, q Query) (newest *statement, note string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := st.list
	known, ok := f.scopes.Get(l.ScopeID())
	better := known.statement.Value()
	lower := known.number != nil && l.Number != nil && l.Number.Cmp(known.number) < 0
	switch {
	case !ok, l.ThisUpdate.After(known.at):
		if lower {
			note = fmt.Sprintf("a newer CRL has the lower number %s after %s", l.Number, known.number)
		}
	case l.ThisUpdate.Before(known.at), lower, better != nil && !st.supersedes(better):
		return known.instead(st, q)
	}
	f.scopes.Add(l.ScopeID(), floor{l.ThisUpdate, l.Number, weak.Make(st)})
	return st, note, nil
}

// instead returns the list of a floor in the place of an older one, or an error.
func (known floor) instead(st *statement, q Query) (newest *statement, note string, err error) {
	l := st.list
	err = fmt.Errorf("%w: %s, after %s", errRollback, l.ThisUpdate.UTC().Format(time.RFC3339), known.at.UTC().Format(time.RFC3339))
	if better := known.statement.Value(); better != nil && (q.Cert == nil || covers(better, q)) {
		better = &statement{list: better.list, signer: st.signer, by: st.by} // one key has signed both, by whichever certificate
		return better, err.Error() + "; the newer one is used", nil
	}
	return nil, err.Error(), err
}

// above returns the floor of a list's scope that is newer than the list.
func (f *floors) above(l *crl.List) (floor, bool) {
	known, ok := f.scopes.Peek(l.ScopeID())
	lower := known.number != nil && l.Number != nil && l.Number.Cmp(known.number) < 0
	return known, ok && (known.at.After(l.ThisUpdate) || known.at.Equal(l.ThisUpdate) && lower)
}

// interned are lists by the hash of their bytes and issuer. It keeps none alive.
type interned struct {
	scopes *lru.Cache[[32]byte, weak.Pointer[statement]]
}

func newInterned() *interned {
	lists, err := lru.New[[32]byte, weak.Pointer[statement]](maxLists)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &interned{lists}
}

func (i *interned) get(key [32]byte) *statement {
	p, _ := i.scopes.Get(key)
	return p.Value()
}

func (i *interned) put(key [32]byte, st *statement) { i.scopes.Add(key, weak.Make(st)) }
