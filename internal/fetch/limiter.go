package fetch

import (
	"context"
	"sync"
)

// Limiter bounds the fetches under way: in all, so that a burst of certificates does not exhaust sockets and memory, and for each host, so that a slow
// responder holds up its own partners only. It may be shared by clients and used concurrently.
type Limiter struct {
	total   chan struct{}
	perHost int
	mu      sync.Mutex
	hosts   map[string]*hostSlots
}

// hostSlots exists while somebody holds a slot of the host or waits for one.
type hostSlots struct {
	slots chan struct{}
	users int
}

// NewLimiter allows total fetches at once and perHost to one host; below one counts as one.
func NewLimiter(total, perHost int) *Limiter {
	return &Limiter{total: make(chan struct{}, max(total, 1)), perHost: max(perHost, 1), hosts: make(map[string]*hostSlots)}
}

// acquire waits for a slot until ctx ends. The host's slot comes first: whoever waits for a slow host must not hold one of the slots of all.
func (l *Limiter) acquire(ctx context.Context, host string) (release func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	h := l.enter(host)
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		l.leave(host, h)
		return nil, ctx.Err()
	}
	select {
	case l.total <- struct{}{}:
	case <-ctx.Done():
		<-h.slots
		l.leave(host, h)
		return nil, ctx.Err()
	}
	return func() {
		<-l.total
		<-h.slots
		l.leave(host, h)
	}, nil
}

func (l *Limiter) enter(host string) *hostSlots {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		h = &hostSlots{slots: make(chan struct{}, l.perHost)}
		l.hosts[host] = h
	}
	h.users++
	return h
}

func (l *Limiter) leave(host string, h *hostSlots) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.hosts, host)
	}
}
