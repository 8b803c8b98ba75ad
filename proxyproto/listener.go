// Package proxyproto takes the address of a client from the PROXY protocol
// (versions 1 and 2, haproxy.org/download/3.2/doc/proxy-protocol.txt), for servers
// behind a load balancer that passes TCP on: HAProxy, nginx, AWS NLB and others.
//
// A Listener wraps the listener under TLS. Whoever can write the header chooses
// the address, so it is required from the named proxies and nobody else gets as
// far as a byte. Where the header states no address, Conn.RemoteAddr has none
// either, and package mtls refuses with origin_unknown instead of judging the
// proxy's own address. HTTP headers such as X-Forwarded-For are never read.
package proxyproto

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// Config describes a Listener.
type Config struct {
	// Trusted are the proxies. Connections from elsewhere are closed. Required; a
	// prefix of all addresses is an error. An IPv4-mapped prefix is one of IPv4.
	Trusted []netip.Prefix
	// HeaderTimeout is how long a proxy may take for its header, counted from the
	// time that the connection is accepted. Zero: 5 s.
	HeaderTimeout time.Duration
	// MaxPending bounds the connections from proxies whose header has not arrived
	// yet, or that the server has not accepted yet. More are closed. Zero: 1024.
	MaxPending int
	// Logger takes a record (level Warn) of what is closed: at most one in 10 s for
	// each reason, with a count, because a scanner could fill the log. Nil:
	// slog.Default().
	Logger *slog.Logger
}

const (
	defaultTimeout = 5 * time.Second
	defaultPending = 1024
)

// A Listener is a net.Listener whose connections are *Conn: they come from a
// trusted proxy and have stated the address of the client. It is safe for
// concurrent use.
type Listener struct {
	inner   net.Listener
	trusted []netip.Prefix
	timeout time.Duration
	most    int
	log     *journal

	ready chan arrival
	done  chan struct{} // closed by Close

	mu      sync.Mutex
	started bool
	closed  bool
	pending map[*Conn]struct{}
	work    sync.WaitGroup
}

// arrival is what Accept returns.
type arrival struct {
	conn *Conn
	err  error
}

// NewListener returns a Listener on top of inner, or everything that is wrong
// with the Config. It starts no goroutine; the first Accept does. inner belongs to
// the Listener from then on. TLS goes on top of the Listener, not below it:
// http.Server.ServeTLS does that.
func NewListener(inner net.Listener, c Config) (*Listener, error) {
	var failed []error
	fail := func(format string, args ...any) {
		failed = append(failed, fmt.Errorf("proxyproto: "+format, args...))
	}
	switch {
	case inner == nil:
		fail("no listener")
	case strings.HasPrefix(inner.Addr().Network(), "unix"):
		fail("a listener on a Unix socket: its peers have no address that Config.Trusted could name")
	}
	if len(c.Trusted) == 0 {
		fail("Config.Trusted is missing: nobody could connect")
	}
	for i, p := range c.Trusted {
		// A mapped prefix such as ::ffff:0:0/96 is one of IPv4, here all of it.
		if !p.IsValid() || p.Bits() == 0 || p.Addr().Is4In6() && p.Bits() <= 96 {
			fail("Config.Trusted[%d] %q is not a prefix, or all addresses: any client could choose its address", i, p)
		}
	}
	if c.HeaderTimeout < 0 {
		fail("Config.HeaderTimeout %s is negative", c.HeaderTimeout)
	}
	if c.MaxPending < 0 {
		fail("Config.MaxPending %d is negative", c.MaxPending)
	}
	if len(failed) > 0 {
		return nil, errors.Join(failed...)
	}
	l := &Listener{
		inner: inner, trusted: slices.Clone(c.Trusted), timeout: c.HeaderTimeout, most: c.MaxPending, log: newJournal(c.Logger),
		ready: make(chan arrival), done: make(chan struct{}), pending: map[*Conn]struct{}{},
	}
	if l.timeout == 0 {
		l.timeout = defaultTimeout
	}
	if l.most == 0 {
		l.most = defaultPending
	}
	return l, nil
}

// Addr returns the address of the inner listener.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Accept returns the next *Conn, with its header read: net/http asks for
// RemoteAddr in the loop that accepts, where waiting for one proxy would hold up
// all others. Errors of the inner listener are passed on as they are. After Close
// the error is net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	if !l.started && !l.closed {
		l.started = true
		l.work.Go(l.run)
	}
	l.mu.Unlock()
	select {
	case <-l.done:
		return nil, net.ErrClosed
	case a := <-l.ready:
		if a.err != nil {
			return nil, a.err
		}
		if !l.release(a.conn) { // Close has closed it
			return nil, net.ErrClosed
		}
		return a.conn, nil
	}
}

// Close closes the inner listener and the connections that Accept has not
// returned, and ends the Listener's goroutines. Connections that Accept has
// returned stay. Closing again does nothing.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	for c := range l.pending {
		_ = c.Close()
	}
	clear(l.pending)
	l.mu.Unlock()
	err := l.inner.Close()
	l.work.Wait()
	l.log.flush()
	return err
}

// run accepts. An error waits until somebody takes it, so that a server that
// pauses after a temporary one pauses this loop as well.
func (l *Listener) run() {
	for {
		c, err := l.inner.Accept()
		if err == nil {
			l.admit(c)
			continue
		}
		select {
		case <-l.done:
			return
		case l.ready <- arrival{err: err}:
		}
	}
}

// admit closes what does not come from a proxy, without reading any of it, and
// what is too much.
func (l *Listener) admit(inner net.Conn) {
	peer, ok := ipaddr.FromNetAddr(inner.RemoteAddr())
	if !ok || !ipaddr.Contains(l.trusted, peer.Addr()) {
		_ = inner.Close()
		l.log.warn(notTrusted, inner, nil)
		return
	}
	c := &Conn{inner: inner}
	l.mu.Lock()
	full := len(l.pending) >= l.most
	keep := !l.closed && !full
	if keep {
		l.pending[c] = struct{}{}
	}
	l.mu.Unlock()
	if keep {
		l.work.Go(func() { l.receive(c) })
		return
	}
	_ = inner.Close()
	if full {
		l.log.warn(tooMany, inner, nil)
	}
}

// release takes a connection off the pending ones. It is false if Close was
// first.
func (l *Listener) release(c *Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.pending[c]
	delete(l.pending, c)
	return ok
}

// receive reads the header of a connection and hands it to Accept.
func (l *Listener) receive(c *Conn) {
	timer := time.AfterFunc(l.timeout, func() { _ = c.Close() })
	h, rest, err := readHeader(c.inner)
	if late := !timer.Stop(); late || err != nil {
		_ = c.Close()
		switch {
		case !l.release(c): // closed by Close
		case late:
			l.log.warn(tooLate, c.inner, nil)
		case errors.Is(err, errNothing): // how many balancers check that a port is open
		default:
			l.log.warn(badHeader, c.inner, err)
		}
		return
	}
	c.introduce(h, rest, l.trusted)
	// In version 1, a health check states the proxy's own address (section 2.1).
	proxy, _ := ipaddr.FromNetAddr(c.inner.RemoteAddr())
	if u, ok := c.remote.(unknownAddr); ok && h.source.IsValid() && h.source.Addr() != proxy.Addr() {
		l.log.warn(badSource, c.inner, errors.New(u.String()))
	}
	select {
	case l.ready <- arrival{conn: c}:
	case <-l.done: // Close has closed it
	}
}
