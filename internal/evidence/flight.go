package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

var errCrowded = errors.New("too many fetches are under way")

// flight is an update of a slot, the only one at its time. One channel tells
// everybody of its end: thousands of requests that meet it and give up leave
// nothing with it.
type flight struct {
	done  chan struct{} // closed at the end
	err   error         // once done
	force bool          // asks even if the slot is not due
	leave func()        // gives back its place
}

// begin starts an update of a slot, or joins the one that is under way, and
// returns the channel that is closed once it is over, or nil where there is no
// place for it. The update does not depend on the caller's context: the next
// caller can use what it brings.
func (e *Engine) begin(s *slot, q Query, background bool) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setAsker(q)
	if s.flight != nil {
		return s.flight.done
	}
	leave := e.place(s.owner, background)
	if leave == nil {
		// It says nothing about the source, and is no failure of it.
		s.crowded = !background
		return nil
	}
	e.fly(s, &flight{done: make(chan struct{}), leave: leave})
	return s.flight.done
}

// force is begin for Refresh: it waits for a place, and does not join a flight
// that has begun, which may have asked before whatever happened just now. One
// that is yet to begin is enough for all who ask for it.
func (e *Engine) force(ctx context.Context, s *slot) (*flight, error) {
	leave, err := e.waitForPlace(ctx, s.owner)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		leave()
		return s.next, nil
	}
	f := &flight{done: make(chan struct{}), force: true, leave: leave}
	if s.flight != nil {
		s.next = f
	} else {
		e.fly(s, f)
	}
	return f, nil
}

// fly starts a flight. The slot is locked.
func (e *Engine) fly(s *slot, f *flight) {
	s.flight, s.crowded = f, false
	go func() {
		defer e.land(s, f) // even if a caller's http.Client ends the goroutine
		f.err = e.update(s, f.force)
	}()
}

// land ends a flight and starts the one that waited for its end.
func (e *Engine) land(s *slot, f *flight) {
	s.mu.Lock()
	next := s.next
	s.flight, s.next = nil, nil
	if next != nil {
		e.fly(s, next)
	}
	s.mu.Unlock()
	f.leave()
	close(f.done)
}

// wait is an update that a request may wait for.
type wait struct {
	done  <-chan struct{}
	first bool // its source was never asked before
}

// await waits for updates until ctx ends.
func await(ctx context.Context, updates []wait) error {
	for _, w := range updates {
		select {
		case <-w.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// startDue begins the updates that are due of a certificate's sources, and
// returns those to wait for: of sources that have nothing usable to say now.
func (e *Engine) startDue(q Query, src sources) []wait {
	q = q.counted()
	var waits []wait
	now := e.now()
	for _, s := range src.slots {
		h := s.held.Load()
		s.retryWith(q, now)
		if !now.Before(s.dueAt(now, q.maxAge())) {
			first := s.lastAsked().IsZero()
			done := e.begin(s, q, false)
			if done != nil && !e.usable(s, h, q, now) {
				waits = append(waits, wait{done, first})
			}
		}
		waits = append(waits, e.startVouchers(h, q)...)
	}
	if src.staple != nil {
		waits = append(waits, e.startVouchers(src.staple.held.Load(), q)...)
	}
	return waits
}

// usable reports whether a slot says anything that counts now, without any grace.
func (e *Engine) usable(s *slot, h *held, q Query, now time.Time) bool {
	if h == nil {
		return false
	}
	q.Grace = 0
	return slices.ContainsFunc(h.said, func(st *statement) bool {
		if s.kind == kindDelta || q.Cert == nil {
			_, _, err := st.checkTime(now, 0)
			return err == nil
		}
		return e.view(item{s, st}, nil, q, now).status != Unknown
	})
}

// startVouchers does the same for the CRLs about those who signed in the issuer's
// place: without them the statement is of no use. They may lapse long before the
// statement does.
func (e *Engine) startVouchers(h *held, q Query) []wait {
	if h == nil || q.Cert == nil && len(h.said) > 1 {
		return nil
	}
	var waits []wait
	for _, st := range h.all() {
		if q.vouchers >= maxVouchers || q.asks != nil && *q.asks <= 0 {
			break // voucher would refuse, after work
		}
		for _, st := range q.alternatives(st, e.now()) {
			if v, ok, _ := q.voucher(st); ok {
				waits = append(waits, e.startDue(v, e.sources(v, true))...)
			}
		}
	}
	return waits
}

// waitForVouchers waits for startVouchers.
func (e *Engine) waitForVouchers(h *held, q Query) {
	ctx, cancel := context.WithTimeout(context.Background(), ocspTimeout)
	defer cancel()
	_ = await(ctx, e.startVouchers(h, q)) // whoever looks at the slot sees what is missing
}

// Refresh asks every known source again, now, and returns what went wrong, or,
// for those that have not answered when ctx ends, ctx's error. What is held stays
// until something newer replaces it, and what has been asked may still bring that
// later.
func (e *Engine) Refresh(ctx context.Context) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed []error
	)
	// Owner by owner, side by side: none waits for the sources of another.
	for _, o := range e.owners.Values() {
		wg.Go(func() {
			if err := e.refresh(ctx, o); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

func (e *Engine) refresh(ctx context.Context, o *owner) error {
	var failed []error
	flights := map[*slot]*flight{}
	late := 0
	// What was used last comes first: it is what live clients rest on.
	slots := slices.DeleteFunc(o.slots.Values(), func(s *slot) bool { return s.kind == kindStaple })
	slices.Reverse(slots)
	for _, s := range slots {
		f, err := e.force(ctx, s)
		if err != nil {
			break
		}
		flights[s] = f
	}
	for _, s := range slots {
		f := flights[s]
		if f == nil {
			late++
			continue
		}
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		select {
		case <-f.done:
			if f.err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", s.name(), f.err))
			}
		default:
			late++
		}
	}
	if late > 0 {
		failed = append([]error{fmt.Errorf("%d sources have not answered: %w", late, ctx.Err())}, failed...)
	}
	return join(failed)
}

// RefreshDue starts asking the sources that are due, and waits for none: a
// source that hangs must not keep its caller from those of others. Nothing is
// started once ctx has ended. Sources for which there is no place are still due.
func (e *Engine) RefreshDue(ctx context.Context) {
	now := e.now()
	for _, o := range e.owners.Values() {
		for _, s := range slices.Backward(o.slots.Values()) {
			if ctx.Err() != nil {
				return
			}
			if at, ok := s.background(now); ok && !now.Before(at) {
				e.begin(s, s.asker(), true)
			}
		}
	}
}

// NextDue returns the earliest time at which RefreshDue has something to ask,
// which may lie in the past, and whether there is any.
func (e *Engine) NextDue() (next time.Time, ok bool) {
	now := e.now()
	for _, o := range e.owners.Values() {
		for _, s := range o.slots.Values() {
			if at, has := s.background(now); has && (!ok || at.Before(next)) {
				next, ok = at, true
			}
		}
	}
	return next, ok
}

// join makes one error of several, whose text stays short however many there are.
func join(list []error) error {
	if len(list) < 2 {
		return errors.Join(list...)
	}
	return failures(list)
}

type failures []error

const maxFailures = 16 // in a text

func (f failures) Error() string {
	var texts []string
	for _, err := range f[:min(len(f), maxFailures)] {
		texts = append(texts, err.Error())
	}
	if more := len(f) - maxFailures; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }
