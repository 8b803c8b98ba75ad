package proxyproto

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// A Conn is a connection from a trusted proxy whose header has been read. Its
// methods may be called concurrently, as those of any net.Conn.
type Conn struct {
	inner         net.Conn
	remote, local net.Addr

	mu   sync.Mutex
	rest []byte // came with the header
}

// introduce gives the connection the addresses of its header.
func (c *Conn) introduce(h header, rest []byte, trusted []netip.Prefix) {
	c.local, c.rest = c.inner.LocalAddr(), rest
	c.remote = h.client(trusted, c.inner)
	if h.destination.IsValid() && !h.destination.Addr().IsUnspecified() {
		c.local = net.TCPAddrFromAddrPort(h.destination)
	}
}

// RemoteAddr returns the client's address as the header states it: a
// *net.TCPAddr, an IPv4-mapped address as IPv4. Where the header states none, or
// one that no client can have, it is a value whose String is not an address but
// begins with "unknown": the proxy's own address never stands in for the
// client's.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr returns the address that the client connected to, as the header
// states it, or the one that the proxy connected to if it states none.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// NetConn returns the connection below, whose RemoteAddr is the proxy's. Reading
// from it or writing to it corrupts the Conn.
func (c *Conn) NetConn() net.Conn { return c.inner }

// Read reads what follows the header.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	if len(c.rest) == 0 {
		c.mu.Unlock()
		return c.inner.Read(p)
	}
	defer c.mu.Unlock()
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n, nil
}

// Write writes to the connection.
func (c *Conn) Write(p []byte) (int, error) { return c.inner.Write(p) }

// Close closes the connection.
func (c *Conn) Close() error { return c.inner.Close() }

// CloseWrite closes the writing side, where the connection below can do that;
// the error wraps errors.ErrUnsupported where it cannot.
func (c *Conn) CloseWrite() error {
	if w, ok := c.inner.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return fmt.Errorf("proxyproto: CloseWrite of %T: %w", c.inner, errors.ErrUnsupported)
}

// SetDeadline sets both deadlines of the connection. What came with the header
// can be read after a deadline, too.
func (c *Conn) SetDeadline(t time.Time) error { return c.inner.SetDeadline(t) }

// SetReadDeadline is as SetDeadline, for Read.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.inner.SetReadDeadline(t) }

// SetWriteDeadline is as SetDeadline, for Write.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.inner.SetWriteDeadline(t) }

// unknownAddr is the address of a client that the header does not state: no
// parser of addresses accepts it. It holds no ": ", at which the guard cuts
// net/http's log lines: an address stands at the end, because it may end in "::".
type unknownAddr string

func (unknownAddr) Network() string  { return "tcp" }
func (u unknownAddr) String() string { return "unknown (PROXY " + string(u) + ")" }

// client returns the address that a header claims for the client, if it is one
// that a client can have.
func (h header) client(trusted []netip.Prefix, inner net.Conn) net.Addr {
	if !h.source.IsValid() {
		return h.unknown
	}
	a := h.source.Addr()
	proxy, _ := ipaddr.FromNetAddr(inner.RemoteAddr())
	own, _ := ipaddr.FromNetAddr(inner.LocalAddr())
	switch {
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return unknownAddr(fmt.Sprintf("not a host, %s", a))
	case h.source.Port() == 0:
		// No TCP connection comes from there. A proxy writes it when it has the
		// address from elsewhere, such as X-Forwarded-For (HAProxy's set-src).
		return unknownAddr(fmt.Sprintf("port 0 of %s", a))
	case a == proxy.Addr():
		return unknownAddr(fmt.Sprintf("the proxy itself, %s", a))
	case ipaddr.Contains(trusted, a):
		// A proxy in front of a proxy that does not pass its header on: every client
		// of the first would come from this address.
		return unknownAddr(fmt.Sprintf("a trusted proxy, %s", a))
	case a == own.Addr() && !ipaddr.SpecialUse(a):
		return unknownAddr(fmt.Sprintf("the server itself, %s", a))
	}
	return net.TCPAddrFromAddrPort(h.source)
}
