package evidence

import (
	"context"
	"sync"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Quotas of one owner. Whoever runs a CA chooses what its certificates name, and
// how long those sources take: without a quota one partner holds the places for
// fetches, or the memory, of all.
const (
	maxOwners     = 1024
	maxSlots      = 8192
	maxUpdates    = 128 // under way at once
	maxBackground = 64  // of these, those that no request waits for
	maxFetches    = 8   // on the network at once
	maxLarge      = 2   // bodies above smallLimit at once
	smallLimit    = 1 << 20
	maxListBytes  = 512 << 20

	maxFlights = 1024 // updates under way at once, of all owners
)

// owner is whoever answers for a set of certificates: the anchor of their
// chains. Its places are its own.
type owner struct {
	slots      *lru.Cache[string, *slot]
	gone       atomic.Bool // evicted: its slots are no longer found
	updates    chan struct{}
	background chan struct{}
	fetches    chan struct{}
	large      chan struct{}
	floors     *floors
	lists      *interned
	issued     *issued

	trimming sync.Mutex
	most     int // bytes of lists
}

func newOwner() *owner {
	slots, err := lru.NewWithEvict(maxSlots, func(_ string, s *slot) { s.evict() })
	if err != nil {
		panic(err) // only for a size below one
	}
	return &owner{
		slots:      slots,
		updates:    make(chan struct{}, maxUpdates),
		background: make(chan struct{}, maxBackground),
		fetches:    make(chan struct{}, maxFetches),
		large:      make(chan struct{}, maxLarge),
		floors:     newFloors(),
		lists:      newInterned(),
		issued:     newIssued(),
		most:       maxListBytes,
	}
}

// owner returns the owner of a query, or nil where there is none and create is
// not set.
func (e *Engine) owner(key [32]byte, create bool) *owner {
	if !create {
		o, _ := e.owners.Peek(key)
		return o
	}
	if o, ok := e.owners.Get(key); ok {
		return o
	}
	o := newOwner()
	if old, ok, _ := e.owners.PeekOrAdd(key, o); ok {
		return old
	}
	return o
}

func (o *owner) evict() {
	o.gone.Store(true)
	o.slots.Purge()
}

// slot returns the slot of a source, or nil where there is none and create is
// not set.
func (o *owner) slot(k kind, issuer [32]byte, q Query, p place, create bool) *slot {
	if o == nil {
		return nil
	}
	key := slotKey(k, issuer, q, p)
	if !create {
		s, _ := o.slots.Peek(key)
		return s
	}
	if s, ok := o.slots.Get(key); ok {
		return s
	}
	s := newSlot(o, key, k, q, p)
	if old, ok, _ := o.slots.PeekOrAdd(key, s); ok {
		return old
	}
	if o.gone.Load() {
		s.evict() // it came too late for the eviction of its owner
	}
	return s
}

// trim evicts the slots with lists that were used least recently until what the
// lists take is within bounds. The slot that was filled just now stays: a list
// above the bound is held alone.
func (o *owner) trim(filled *slot) {
	o.trimming.Lock()
	defer o.trimming.Unlock()
	total := 0
	slots := o.slots.Values()
	for _, s := range slots {
		total += s.size()
	}
	for _, s := range slots {
		if total <= o.most {
			return
		}
		if size := s.size(); size > 0 && s != filled {
			o.slots.Remove(s.key)
			total -= size
		}
	}
}

// place takes a place for an update and returns a function that gives it back,
// or nil where none is free. What no request waits for leaves half of the places
// to those that one does.
func (e *Engine) place(o *owner, background bool) (leave func()) {
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, c := range e.places(o, background) {
		select {
		case c <- struct{}{}:
			taken = append(taken, c)
		default:
			leave()
			return nil
		}
	}
	return leave
}

// waitForPlace waits for a place in the background until ctx ends.
func (e *Engine) waitForPlace(ctx context.Context, o *owner) (leave func(), err error) {
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, c := range e.places(o, true) {
		if !enter(ctx, c) {
			leave()
			return nil, ctx.Err()
		}
		taken = append(taken, c)
	}
	return leave, nil
}

func (e *Engine) places(o *owner, background bool) []chan struct{} {
	if background {
		return []chan struct{}{o.background, o.updates, e.flights}
	}
	return []chan struct{}{o.updates, e.flights}
}

// enter waits for room in a channel until ctx ends, and reports whether there
// was any before.
func enter(ctx context.Context, c chan struct{}) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case c <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// enterLarge waits for leave to read a large body.
func (o *owner) enterLarge(ctx context.Context) (leave func(), err error) {
	if !enter(ctx, o.large) {
		return nil, ctx.Err()
	}
	return func() { <-o.large }, nil
}
