// Package dnsclient asks recursive DNS servers for the addresses of a name.
//
// It exists because net.Resolver tells neither the time to live nor whether the
// answer was authenticated, reads the hosts file, tries search domains, answers
// for literal addresses, and takes one failed address family for an empty one.
// This client keeps "the name has no such addresses", which is an Answer, apart
// from "nobody could tell", which is an Error.
//
// The path to the servers is trusted: whoever can forge their datagrams can
// forge answers. Use a validating resolver on the same host.
package dnsclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// Type is the type of a DNS resource record (RFC 1035 section 3.2.2).
type Type uint16

// The types that Lookup asks for.
const (
	A    = Type(dns.TypeA)    // IPv4 addresses
	AAAA = Type(dns.TypeAAAA) // IPv6 addresses
)

// String returns the mnemonic of the type.
func (t Type) String() string { return dns.Type(t).String() }

// Answer is what the servers know for certain about a name and a type. Without
// addresses it says that there are none; so does the zero value.
type Answer struct {
	// Addrs are sorted and distinct. IPv4-mapped IPv6 addresses, which would be
	// IPv4 addresses to whoever unmaps them, are left out.
	Addrs []netip.Addr
	// TTL is the shortest of the CNAME chain and the address records. Without
	// addresses it is bounded by the SOA record of the reply (RFC 2308 section
	// 5), and zero if there was none.
	TTL time.Duration
	// Authenticated says that the server vouches for the answer by DNSSEC (the
	// AD bit, RFC 4035 section 3.2.3). It is false for servers from a
	// resolv.conf unless they are on this host or the file has "options
	// trust-ad" (RFC 6840 section 5.8: the bit means nothing on a path that is
	// not trusted).
	Authenticated bool
	// NXDomain says that the name, or the one its CNAME chain ends in, does not
	// exist for any type.
	NXDomain bool
}

// ErrBogus says that a server refused to answer because the records failed
// DNSSEC validation: somebody may be forging them. What was known before must
// not stand in for them.
var ErrBogus = errors.New("DNSSEC validation failed")

// Error says why nothing is known about a name. Every Error may be temporary.
type Error struct {
	Name   string // as asked, rooted
	Type   Type
	Server string // address of the last server asked, or empty
	Rcode  int    // of its reply; 0 also if there was no usable reply
	Err    error
}

// Error implements error. The text holds nothing that a server sent.
func (e *Error) Error() string {
	at := ""
	if e.Server != "" {
		at = " at " + e.Server
	}
	return fmt.Sprintf("DNS lookup of %s %s%s: %v", dnsname.Quote(e.Name), e.Type, at, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Options configure a Client. The zero value asks the servers of
// /etc/resolv.conf.
type Options struct {
	// Servers are asked in this order, at most the first three. Their AD bit is
	// believed. None: those of ConfigFile.
	Servers []netip.AddrPort
	// ConfigFile is in the format of resolv.conf(5), of which only the
	// nameserver lines and "options trust-ad" count. It is read at the first
	// lookup and again when what is known is older than 30 s. Empty:
	// /etc/resolv.conf.
	ConfigFile string
	// Timeout bounds one exchange with one server. Zero: 1 s.
	Timeout time.Duration
	// Attempts is how often each server is asked at most. Zero: 2.
	Attempts int
	// Dial connects to a server, network being "udp" or "tcp". Nil: net.Dialer,
	// so that the kernel picks a random port and drops what others send to it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now tells when to read ConfigFile again. Nil: time.Now.
	Now func() time.Time
}

const maxServers = 3

// Client is a stub resolver. It keeps no answers. It is safe for concurrent
// use.
type Client struct {
	timeout  time.Duration
	attempts int
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	servers  func() ([]server, error)
}

// server is where to ask, and whether its word on DNSSEC counts.
type server struct {
	addr    string
	trustAD bool
}

// New returns a Client. It reads no file and opens no connection.
func New(o Options) *Client {
	c := &Client{timeout: o.Timeout, attempts: o.Attempts, dial: o.Dial}
	if c.timeout <= 0 {
		c.timeout = time.Second
	}
	if c.attempts <= 0 {
		c.attempts = 2
	}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
	}
	if len(o.Servers) == 0 {
		f := &configFile{path: o.ConfigFile, now: o.Now}
		if f.path == "" {
			f.path = "/etc/resolv.conf"
		}
		if f.now == nil {
			f.now = time.Now
		}
		c.servers = f.servers
		return c
	}
	var fixed []server
	for _, s := range o.Servers[:min(len(o.Servers), maxServers)] {
		fixed = append(fixed, server{addr: s.String(), trustAD: true})
	}
	c.servers = func() ([]server, error) { return fixed, nil }
	return c
}

// Lookup asks for the addresses of the given type, A or AAAA, of a host name.
// The name is taken as complete, with or without the final dot: no search
// domain is added and no hosts file is read. An IP address is not a name.
//
// The error, always an *Error, means that nothing is known; an answer without
// addresses means that there are none. Servers are asked in turn until one
// answers. A reply that says that validation failed ends the lookup with
// ErrBogus, because the next server might not validate.
func (c *Client) Lookup(ctx context.Context, name string, t Type) (Answer, error) {
	host := strings.TrimSuffix(name, ".")
	fail := &Error{Name: host + ".", Type: t}
	canonical, err := dnsname.FromSAN(host)
	switch {
	case err != nil:
		fail.Name, fail.Err = name, err
		return Answer{}, fail
	case dnsname.IsWildcard(canonical):
		fail.Err = errors.New("a wildcard has no addresses")
		return Answer{}, fail
	case t != A && t != AAAA:
		fail.Err = errors.New("record type not supported")
		return Answer{}, fail
	}
	servers, err := c.servers()
	if err != nil {
		fail.Err = err
		return Answer{}, fail
	}
	question := dns.Question{Name: canonical + ".", Qtype: uint16(t), Qclass: dns.ClassINET}
	for range c.attempts {
		for _, s := range servers {
			answer, rcode, err := c.ask(ctx, s, question)
			if err == nil {
				answer.Authenticated = answer.Authenticated && s.trustAD
				return answer, nil
			}
			fail.Server, fail.Rcode, fail.Err = s.addr, rcode, err
			if ctx.Err() != nil || errors.Is(err, ErrBogus) {
				return Answer{}, fail
			}
		}
	}
	return Answer{}, fail
}

// ask makes one attempt at one server: over UDP, and over TCP if the reply did
// not fit (RFC 7766 section 5).
func (c *Client) ask(ctx context.Context, s server, q dns.Question) (Answer, int, error) {
	reply, err := c.exchange(ctx, "udp", s.addr, q)
	if err == nil && reply.Truncated {
		if reply, err = c.exchange(ctx, "tcp", s.addr, q); err == nil && reply.Truncated {
			err = errors.New("truncated reply over TCP")
		}
	}
	if err != nil {
		return Answer{}, 0, err
	}
	answer, err := readAnswer(reply, q)
	return answer, reply.Rcode, err
}
