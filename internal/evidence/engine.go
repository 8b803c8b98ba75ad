package evidence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Store keeps signed bytes between processes. Any error is a miss.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, data []byte) error
}

// Options configure an Engine.
type Options struct {
	Now    func() time.Time // required
	Store  Store            // nil: memory only
	Logger *slog.Logger     // required
}

// Engine has the slots of all sources, and fills them. It is safe for
// concurrent use.
type Engine struct {
	now    func() time.Time
	store  Store
	logger *slog.Logger
	owners *lru.Cache[[32]byte, *owner]
	// flights has room for the updates under way.
	flights chan struct{}
	known   *known
	news    atomic.Uint64 // lists that came into memory
}

// New returns an Engine. It starts nothing.
func New(o Options) *Engine {
	owners, err := lru.NewWithEvict(maxOwners, func(_ [32]byte, o *owner) { o.evict() })
	if err != nil {
		panic(err) // only for a size below one
	}
	e := &Engine{now: o.Now, store: o.Store, logger: o.Logger, owners: owners, flights: make(chan struct{}, maxFlights), known: newKnown()}
	e.known.undone = func(r record) {
		e.warn("mtls: a revocation was taken back by its source", "revocation", r.detail)
	}
	return e
}

// load fills the slot from the Store. A response that was got with a nonce is
// worth nothing without the question.
func (e *Engine) load(s *slot, q Query) {
	if e.store == nil || s.kind == kindOwn || s.kind == kindOCSP && q.Nonce {
		return
	}
	defer e.caught("mtls: the Store panicked", s)
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	data, err := e.store.Get(ctx, s.key)
	if err != nil || len(data) == 0 {
		return
	}
	var st *statement
	if int64(len(data)) > s.kind.limit() {
		err = errors.New("larger than its kind may be")
	} else {
		st, _, err = e.verify(s, q, data, "")
	}
	lapsed := st != nil && err != nil
	h := &held{said: []*statement{st}, mark: new(mark)}
	if st != nil {
		err = s.take(h)
	}
	if err != nil {
		e.warn("mtls: stored revocation evidence is not used", "source", s.name(), "error", err.Error())
		return
	}
	e.issue(s, h)
	s.owner.trim(s)
	if !lapsed {
		e.waitForVouchers(h, q)
	}
	e.record(s, q)
}

// save puts what the slot was filled from into the Store.
func (e *Engine) save(s *slot, data []byte) {
	if e.store == nil || s.kind == kindStaple {
		return
	}
	defer e.caught("mtls: the Store panicked", s)
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := e.store.Put(ctx, s.key, data); err != nil {
		e.warn("mtls: revocation evidence was not stored", "source", s.name(), "error", fmt.Sprintf("%.256q", err))
	}
}

// caught, deferred, turns a panic into a warning.
func (e *Engine) caught(what string, s *slot) {
	if p := recover(); p != nil {
		e.warn(what, "source", s.name(), "panic", fmt.Sprintf("%.256q", fmt.Sprint(p)))
	}
}

// warn logs from goroutines of ours, in which a caller's slog.Handler that panics
// would end the program.
func (e *Engine) warn(message string, args ...any) {
	defer func() { _ = recover() }()
	e.logger.Warn(message, args...)
}
