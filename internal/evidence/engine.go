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
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/ocsp"
)

// Bounds on fetches.
const (
	crlTimeout  = 60 * time.Second
	crlLimit    = 128 << 20
	ocspTimeout = 3 * time.Second
	ocspLimit   = 64 << 10
	maxFlights  = 1024 // updates under way at once
	maxSlots    = 8192

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
	slots  *lru.Cache[string, *slot]
	places chan struct{}

	compromisedMu sync.Mutex
	compromised   atomic.Pointer[map[[32]byte]string]

	stapledRevocations atomic.Uint64
}

// New returns an Engine. It starts nothing.
func New(o Options) *Engine {
	slots, err := lru.NewWithEvict(maxSlots, func(_ string, s *slot) { s.gone.Store(true) })
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Engine{now: o.Now, store: o.Store, logger: o.Logger, slots: slots, places: make(chan struct{}, maxFlights)}
}

// slot returns the slot of a source, or nil where there is none and create is
// not set.
func (e *Engine) slot(k kind, q Query, urls []string, create bool) *slot {
	key := slotKey(k, q, urls)
	if s := e.lookup(key, create); s != nil || !create {
		return s
	}
	s := newSlot(key, k, q, urls)
	if old, ok, _ := e.slots.PeekOrAdd(key, s); ok {
		return old
	}
	return s
}

// lookup returns a slot, or nil, and counts that as a use of it where use is
// set.
func (e *Engine) lookup(key string, use bool) *slot {
	find := e.slots.Peek
	if use {
		find = e.slots.Get
	}
	s, _ := find(key)
	return s
}

// startDue begins the updates that are due of a certificate's sources, and
// returns those to wait for: of sources that have nothing usable to say now.
func (e *Engine) startDue(q Query, src sources) []<-chan singleflight.Result {
	var waits []<-chan singleflight.Result
	now := e.now()
	for _, s := range src.slots {
		h := s.held.Load()
		if s.due(now) {
			done := e.start(s, q)
			if e.view(s, h, q, now).status == Unknown {
				waits = append(waits, done)
			}
		}
		waits = append(waits, e.startResponder(h, q)...)
	}
	if src.staple != nil {
		waits = append(waits, e.startResponder(src.staple.held.Load(), q)...)
	}
	return waits
}

// startResponder does the same for the CRL of a delegated responder that must be
// checked: without it the response is of no use. That CRL may lapse long before
// the response does.
func (e *Engine) startResponder(h *held, q Query) []<-chan singleflight.Result {
	if h == nil || h.answer == nil || !h.answer.ResponderNeedsCheck {
		return nil
	}
	q = responderQuery(h.answer.Responder, q)
	return e.startDue(q, e.sources(q, true))
}

// start begins an update of the slot, or joins the one that is under way, and
// returns a channel that yields once it is over. The update does not depend
// on the caller's context: the next caller can use what it brings.
func (e *Engine) start(s *slot, q Query) <-chan singleflight.Result {
	s.setAsker(q)
	return s.flight.DoChan("", func() (any, error) {
		select {
		case e.places <- struct{}{}:
			defer func() { <-e.places }()
		default:
			s.done(errors.New("too many fetches are under way"), e.now())
			return nil, nil
		}
		_ = e.update(context.Background(), s, false) // the slot has the error
		return nil, nil
	})
}

// update asks the source, verifies what it says and puts it into the slot. A
// forced update asks even if the slot is not due.
func (e *Engine) update(ctx context.Context, s *slot, force bool) (err error) {
	select {
	case s.fetching <- struct{}{}:
		defer func() { <-s.fetching }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !force && !s.due(e.now()) {
		return nil
	}
	defer func() {
		// A caller's http.Client may panic, and this is a goroutine of ours: it
		// would end the program.
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %.256q", fmt.Sprint(p))
		}
		if err != nil && ctx.Err() != nil {
			return // the caller gave up; that says nothing about the source
		}
		s.done(err, e.now())
		if err != nil {
			e.warn("mtls: no new revocation evidence", "source", s.name(), "error", err.Error(),
				"held", s.current(e.now()) != nil)
		}
	}()
	q := s.asker()
	if !force && s.held.Load() == nil && e.load(ctx, s, q) && !s.due(e.now()) {
		return nil
	}
	// The URLs of one distribution point are alternatives for one list (RFC 5280
	// section 4.2.1.13): the first that gives one is enough. What cannot be used
	// is like no answer, and none may take the time of the others.
	limit := crlTimeout
	if s.kind == kindOCSP {
		limit = ocspTimeout
	}
	for _, url := range s.urls {
		one := e.updateFrom(ctx, s, q, url, limit/time.Duration(len(s.urls)))
		if one == nil {
			return nil
		}
		if err == nil {
			err = one
		} else {
			err = fmt.Errorf("%w; %w", err, one)
		}
	}
	return err
}

func (e *Engine) updateFrom(ctx context.Context, s *slot, q Query, url string, limit time.Duration) error {
	ask := askCRL
	if s.kind == kindOCSP {
		ask = askOCSP
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	data, err := ask(asking, url, q)
	if err != nil {
		return err
	}
	h, err := e.verify(s, q, data)
	if err != nil {
		return err
	}
	h.taken = e.now()
	if err := s.take(h); err != nil {
		return err
	}
	e.waitForResponder(ctx, h, q)
	e.save(ctx, s, data)
	return nil
}

// verify makes a statement of bytes, wherever they came from, if the issuer
// signed it, it speaks for the certificate and is current.
func (e *Engine) verify(s *slot, q Query, data []byte) (*held, error) {
	now := e.now()
	if s.kind == kindCRL {
		list, err := crl.ParseAndVerify(data, q.Issuer)
		if err != nil {
			return nil, err
		}
		if err := list.CheckTime(now, clockSkew); err != nil {
			return nil, err
		}
		// The list of another partition, newer than ours, would keep ours out
		// long after whoever substituted it is gone.
		if err := list.Covers(q.Cert); err != nil {
			return nil, err
		}
		return &held{list: list}, nil
	}
	// An Answer refers to the bytes, and those of a staple belong to crypto/tls.
	answer, err := ocsp.Verify(bytes.Clone(data), q.Cert, q.Issuer, now, clockSkew)
	if err != nil {
		return nil, err
	}
	if err := answer.CheckTime(now, clockSkew, noNextUpdateAge); err != nil {
		return nil, err
	}
	return &held{answer: answer}, nil
}

// waitForResponder waits for startResponder.
func (e *Engine) waitForResponder(ctx context.Context, h *held, q Query) {
	ctx, cancel := context.WithTimeout(ctx, ocspTimeout)
	defer cancel()
	_ = wait(ctx, e.startResponder(h, q)) // whoever looks at the slot sees what is missing
}

// load fills the slot from the Store, and reports whether it did.
func (e *Engine) load(ctx context.Context, s *slot, q Query) bool {
	if e.store == nil {
		return false
	}
	defer e.caught("mtls: the Store panicked", s)
	reading, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	data, err := e.store.Get(reading, s.key)
	if err != nil || len(data) == 0 {
		return false
	}
	h, err := e.verify(s, q, data)
	if err == nil {
		err = s.take(h)
	}
	if err != nil {
		e.warn("mtls: stored revocation evidence is not used", "source", s.name(), "error", err.Error())
		return false
	}
	e.waitForResponder(ctx, h, q)
	return true
}

// save puts what the slot was filled from into the Store.
func (e *Engine) save(ctx context.Context, s *slot, data []byte) {
	if e.store == nil {
		return
	}
	defer e.caught("mtls: the Store panicked", s)
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
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
func (e *Engine) takeStaple(q Query, src *sources) bool {
	if !q.Leaf || len(q.Staple) == 0 {
		return false
	}
	h, err := e.verify(&slot{kind: kindStaple}, q, q.Staple)
	if err != nil {
		return false
	}
	h.taken = e.now()
	src.staple = e.slot(kindStaple, q, nil, true)
	before := src.staple.held.Load()
	// An older response than the one held gains nothing: the newer one stays.
	if src.staple.take(h) == nil && h.answer.Status == ocsp.Revoked && (before == nil || before.answer.Status != ocsp.Revoked) {
		// Verdicts about this client may rest on other sources alone.
		e.stapledRevocations.Add(1)
	}
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

// Refresh asks every known source again, now, and returns what went wrong. What
// is held stays until something newer replaces it.
func (e *Engine) Refresh(ctx context.Context) error {
	return e.updateAll(ctx, true)
}

// RefreshDue asks the sources that are due.
func (e *Engine) RefreshDue(ctx context.Context) {
	_ = e.updateAll(ctx, false) // logged one by one
}

func (e *Engine) updateAll(ctx context.Context, force bool) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed []error
		places = make(chan struct{}, 8)
	)
	for _, s := range e.slots.Values() {
		now := e.now()
		if at, ok := s.background(now); s.kind == kindStaple || !force && (!ok || now.Before(at)) {
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			mu.Lock()
			failed = append(failed, ctx.Err())
			mu.Unlock()
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			if err := e.update(ctx, s, force); err != nil {
				mu.Lock()
				failed = append(failed, fmt.Errorf("%s: %w", s.name(), err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// NextDue returns the earliest time at which RefreshDue has something to ask,
// which may lie in the past, and whether there is any.
func (e *Engine) NextDue() (next time.Time, ok bool) {
	now := e.now()
	for _, s := range e.slots.Values() {
		if at, has := s.background(now); has && (!ok || at.Before(next)) {
			next, ok = at, true
		}
	}
	return next, ok
}

func askCRL(ctx context.Context, url string, q Query) ([]byte, error) {
	return q.Fetch.Get(ctx, url, "application/pkix-crl", crlLimit)
}

// askOCSP sends a request as RFC 5019 section 5 says: by GET, which caches can
// answer, while the encoded request is short.
func askOCSP(ctx context.Context, url string, q Query) ([]byte, error) {
	const accept = "application/ocsp-response"
	request, err := ocsp.NewRequest(q.Cert, q.Issuer)
	if err != nil {
		return nil, err
	}
	if encoded := base64.StdEncoding.EncodeToString(request); len(encoded) <= 255 && !strings.Contains(url, "?") {
		return q.Fetch.Get(ctx, strings.TrimSuffix(url, "/")+"/"+neturl.QueryEscape(encoded), accept, ocspLimit)
	}
	return q.Fetch.Post(ctx, url, "application/ocsp-request", request, accept, ocspLimit)
}
