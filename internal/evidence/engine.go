package evidence

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/fetch"
	"github.com/mtlsguard/mtls/internal/ocsp"
)

// Bounds on fetches.
const (
	crlTimeout  = 60 * time.Second
	crlLimit    = 128 << 20
	ocspTimeout = 3 * time.Second
	ocspLimit   = 64 << 10

	storeTimeout = time.Second // a Store that hangs must not take the time of the fetch
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
}

// New returns an Engine. It starts nothing.
func New(o Options) *Engine {
	owners, err := lru.NewWithEvict(maxOwners, func(_ [32]byte, o *owner) { o.evict() })
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Engine{now: o.Now, store: o.Store, logger: o.Logger, owners: owners, flights: make(chan struct{}, maxFlights), known: newKnown()}
}

// update asks the source, verifies what it says and puts it into the slot. A
// forced update asks even if the slot is not due.
func (e *Engine) update(s *slot, force bool) (err error) {
	q := s.asker()
	if s.held.Load() == nil {
		e.load(s, q)
	}
	if now := e.now(); !force && now.Before(s.dueAt(now, q.maxAge())) {
		return nil
	}
	defer func() {
		// A caller's http.Client may panic, and this is a goroutine of ours: it
		// would end the program.
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %.256q", fmt.Sprint(p))
		}
		now := e.now()
		s.done(err, now, q.maxAge())
		if err != nil {
			e.warn("mtls: no new revocation evidence", "source", s.name(), "error", err.Error(),
				"held", s.current(now, q.maxAge()) != nil)
		}
	}()
	// The URLs of one distribution point are alternatives for one list (RFC 5280
	// section 4.2.1.13): the first that gives one is enough. What cannot be used
	// is like no answer, and none may take the time of the others.
	limit := crlTimeout
	if s.kind == kindOCSP {
		limit = ocspTimeout
	}
	var failed []error
	for _, url := range s.urls {
		err := e.updateFrom(s, q, url, limit/time.Duration(len(s.urls)))
		if err == nil {
			return nil
		}
		failed = append(failed, err)
	}
	return join(failed)
}

func (e *Engine) updateFrom(s *slot, q Query, url string, limit time.Duration) error {
	data, err := s.ask(q, url, min(s.kind.limit(), smallLimit), limit)
	if s.kind == kindCRL && errors.Is(err, fetch.ErrTooLarge) {
		// Memory has no room for many lists as large as they may be.
		s.owner.large <- struct{}{}
		defer func() { <-s.owner.large }()
		data, err = s.ask(q, url, s.kind.limit(), limit)
	}
	if err != nil {
		return err
	}
	h, lapsed := e.verify(s, q, data)
	if h == nil {
		return lapsed
	}
	h.taken = e.now()
	if err := s.take(h); err != nil {
		if lapsed != nil {
			return lapsed
		}
		return err
	}
	s.owner.trim(s)
	if lapsed == nil {
		e.waitForResponder(h, q)
	}
	e.save(s, data)
	return lapsed
}

// verify makes a statement of bytes, wherever they came from, if the issuer
// signed it and it speaks for the certificate. One whose only fault is that it
// has lapsed comes with an error that says so: it counts for nothing but a
// revocation, which time does not undo.
func (e *Engine) verify(s *slot, q Query, data []byte) (*held, error) {
	now := e.now()
	if s.kind == kindCRL {
		list, err := crl.ParseAndVerify(data, q.Issuer)
		if err != nil {
			return nil, err
		}
		// The list of another partition, newer than ours, would keep ours out
		// long after whoever substituted it is gone.
		if err := list.Covers(q.Cert); err != nil {
			return nil, err
		}
		err = list.CheckTime(now, clockSkew)
		if err != nil && !errors.Is(err, crl.ErrExpired) {
			return nil, err
		}
		return &held{list: list, mark: new(mark)}, err
	}
	// An Answer refers to the bytes, and those of a staple belong to crypto/tls.
	answer, err := ocsp.Verify(bytes.Clone(data), q.Cert, q.Issuer, now, clockSkew)
	if err != nil {
		return nil, err
	}
	err = answer.CheckTime(now, clockSkew, noNextUpdateAge)
	if err != nil && !errors.Is(err, ocsp.ErrExpired) {
		return nil, err
	}
	return &held{answer: answer, mark: new(mark)}, err
}

// load fills the slot from the Store.
func (e *Engine) load(s *slot, q Query) {
	if e.store == nil {
		return
	}
	defer e.caught("mtls: the Store panicked", s)
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	data, err := e.store.Get(ctx, s.key)
	if err != nil || len(data) == 0 {
		return
	}
	var h *held
	if int64(len(data)) > s.kind.limit() {
		err = errors.New("larger than its kind may be")
	} else {
		h, err = e.verify(s, q, data)
	}
	lapsed := h != nil && err != nil
	if h != nil {
		err = s.take(h)
	}
	if err != nil {
		e.warn("mtls: stored revocation evidence is not used", "source", s.name(), "error", err.Error())
		return
	}
	s.owner.trim(s)
	if !lapsed {
		e.waitForResponder(h, q)
	}
}

// save puts what the slot was filled from into the Store.
func (e *Engine) save(s *slot, data []byte) {
	if e.store == nil {
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

// takeStaple puts a response that the client stapled into its slot, once it is
// verified, and reports whether it is. It is called in the request phase only,
// when the client has proved that it holds the key.
func (e *Engine) takeStaple(q Query, src sources) bool {
	if !q.Leaf || len(q.Staple) == 0 {
		return false
	}
	h, err := e.verify(&slot{kind: kindStaple}, q, q.Staple)
	if err != nil {
		return false
	}
	h.taken = e.now()
	_ = src.staple.take(h) // an older response than the one held gains nothing: the newer one stays
	return e.view(src.staple, src.staple.held.Load(), q, h.taken).status != Unknown
}

// peekStaple reads a staple without keeping it.
func (e *Engine) peekStaple(q Query, now time.Time) view {
	s := &slot{kind: kindStaple}
	h, err := e.verify(s, q, q.Staple)
	if err != nil {
		return view{problem: fmt.Sprintf("%s: %v", s.name(), err)}
	}
	return e.view(s, h, q, now)
}

// limit is the size of the largest statement of a kind.
func (k kind) limit() int64 {
	if k == kindCRL {
		return crlLimit
	}
	return ocspLimit
}

// ask fetches up to a limit of bytes from a URL when the owner has its turn; the
// time counts from then on.
func (s *slot) ask(q Query, url string, limit int64, timeout time.Duration) ([]byte, error) {
	s.owner.fetches <- struct{}{}
	defer func() { <-s.owner.fetches }()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if s.kind == kindOCSP {
		return askOCSP(ctx, url, q, limit)
	}
	return q.Fetch.Get(ctx, url, "application/pkix-crl", limit)
}

// askOCSP sends a request as RFC 5019 section 5 says: by GET, which caches can
// answer, while the encoded request is short.
func askOCSP(ctx context.Context, url string, q Query, limit int64) ([]byte, error) {
	const accept = "application/ocsp-response"
	request, err := ocsp.NewRequest(q.Cert, q.Issuer)
	if err != nil {
		return nil, err
	}
	if encoded := base64.StdEncoding.EncodeToString(request); len(encoded) <= 255 && !strings.Contains(url, "?") {
		return q.Fetch.Get(ctx, strings.TrimSuffix(url, "/")+"/"+neturl.QueryEscape(encoded), accept, limit)
	}
	return q.Fetch.Post(ctx, url, "application/ocsp-request", request, accept, limit)
}
