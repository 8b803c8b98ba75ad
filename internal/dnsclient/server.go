package dnsclient

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// MaxServers is how many servers a Client asks.
const MaxServers = 3

// Server is a recursive DNS server.
type Server struct {
	// Addr is where it listens: port 53, and 853 for TLS.
	Addr netip.AddrPort
	// TLS, if not nil, has the server asked over TLS (RFC 7858) and never in
	// another way, which is the strict profile of RFC 8310: ServerName, a host
	// name or an IP address, must be in its certificate, and RootCAs, or the
	// system's if nil, must vouch for it. New takes a copy, in which
	// InsecureSkipVerify is off, versions before TLS 1.2 are too, NextProtos is
	// "dot", and which has a session cache.
	TLS *tls.Config
	// TrustAD says that the server validates DNSSEC and that its word on it, the
	// AD bit, is believed. Without TLS it says that the path to it is trusted,
	// too (RFC 6840 section 5.8). The bit of a server on a loopback address that
	// is asked without TLS is always believed.
	TrustAD bool
}

// Check says what is wrong with the server, or nil. New does not call it: a
// Client never gets an answer from a server that cannot be asked.
func (s Server) Check() error {
	switch addr := s.Addr.Addr().Unmap(); {
	case !addr.IsValid():
		return errors.New("no address")
	case addr.IsUnspecified():
		return errors.New("the unspecified address")
	case s.Addr.Port() == 0:
		return errors.New("no port")
	case s.TLS == nil:
		return nil
	case s.TLS.ServerName == "":
		return errors.New("TLS without ServerName, which says whose certificate is expected")
	case !isHost(s.TLS.ServerName):
		return errors.New("TLS.ServerName is neither a host name nor an IP address")
	case s.TLS.InsecureSkipVerify:
		return errors.New("TLS with InsecureSkipVerify")
	case tooOld(s.TLS.MinVersion) || tooOld(s.TLS.MaxVersion):
		return errors.New("TLS before version 1.2")
	}
	return nil
}

// isHost reports whether a certificate can be for s: its final dot, if it has
// one, counts for nothing in TLS.
func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	name, err := dnsname.FromSAN(strings.TrimSuffix(s, "."))
	return err == nil && !dnsname.IsWildcard(name)
}

func tooOld(version uint16) bool { return 0 < version && version < tls.VersionTLS12 }

// server is where to ask, how, and whether its word on DNSSEC counts.
type server struct {
	addr    string
	tls     *tls.Config
	trustAD bool
}

func (s Server) compile(now func() time.Time) server {
	c := server{addr: s.Addr.String(), trustAD: s.TrustAD || s.TLS == nil && s.Addr.Addr().Unmap().IsLoopback()}
	if s.TLS == nil {
		return c
	}
	c.tls = s.TLS.Clone()
	c.tls.InsecureSkipVerify = false
	if tooOld(c.tls.MinVersion) {
		c.tls.MinVersion = 0 // crypto/tls: 1.2
	}
	// A server with another protocol on the port is not ours (ALPACA).
	c.tls.NextProtos = []string{"dot"}
	if c.tls.Time == nil {
		c.tls.Time = now
	}
	if c.tls.ClientSessionCache == nil {
		c.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return c
}

// handshakeError is a failed TLS handshake. Certificates that do not verify are
// quoted in crypto/tls's text.
type handshakeError struct{ cause error }

func (e *handshakeError) Error() string { return "TLS: " + dnsname.Quote(e.cause.Error()) }

func (e *handshakeError) Unwrap() error { return e.cause }
