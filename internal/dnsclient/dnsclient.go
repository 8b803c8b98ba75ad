// Package dnsclient asks recursive DNS servers for the addresses, texts and
// reverse names of a name.
//
// It exists because net.Resolver tells neither the time to live nor whether the
// answer was authenticated, reads the hosts file, tries search domains, answers
// for literal addresses, and takes one failed address family for an empty one.
// This client keeps "the name has no such records", which is an Answer, apart
// from "nobody could tell", which is an Error.
//
// The path to a server that is asked without TLS is trusted: whoever can forge
// its datagrams can forge answers. Use a validating resolver on the same host,
// or one over TLS.
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
	TXT  = Type(dns.TypeTXT)  // texts
	PTR  = Type(dns.TypePTR)  // host names of an address, asked for by its ReverseName
)

// String returns the mnemonic of the type.
func (t Type) String() string { return dns.Type(t).String() }

// Answer is what the servers know for certain about a name and a type. Without
// addresses, texts and names it says that there are none; so does the zero
// value.
type Answer struct {
	// Addrs are the addresses of A or AAAA records, sorted and distinct, at most
	// 256. IPv4-mapped IPv6 addresses, which would be IPv4 addresses to whoever
	// unmaps them, are left out.
	Addrs []netip.Addr
	// Texts are the contents of TXT records, sorted and distinct: of each record
	// its strings joined without a separator (RFC 7208 section 3.3), any bytes.
	// There are at most 64, and less than 64 KiB in all, as in a DNS message.
	Texts []string
	// Names are the host names of PTR records in canonical form, sorted and
	// distinct, at most 256. Whoever holds the address writes what he likes
	// there, line breaks and markup too (CVE-2021-33195): what is no host name,
	// or is a wildcard, is left out.
	Names []string
	// TTL is the shortest of the CNAME chain and the records asked for. Without
	// such records it is bounded by the SOA record of the reply (RFC 2308 section
	// 5), and zero if there was none.
	TTL time.Duration
	// Authenticated says that the server vouches for the answer by DNSSEC (the
	// AD bit, RFC 4035 section 3.2.3). The bit means nothing on a path or from a
	// server that is not trusted (RFC 6840 section 5.8): see Server.TrustAD. A
	// server from a resolv.conf must be on this host, or the file must have
	// "options trust-ad".
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

// Error implements error. Of what a server sent, the text holds only names in
// its TLS certificate, quoted and cut.
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
	// Servers are asked in this order, at most the first MaxServers. None: those
	// of ConfigFile.
	Servers []Server
	// ConfigFile is in the format of resolv.conf(5), of which only the
	// nameserver lines and "options trust-ad" count. It is read at the first
	// lookup and again when what is known is older than 30 s. Empty:
	// /etc/resolv.conf.
	ConfigFile string
	// Timeout bounds one exchange with one server, from dialling to the reply.
	// Zero: 1 s.
	Timeout time.Duration
	// Attempts is how often each server is asked at most. Zero: 2.
	Attempts int
	// Dial connects to a server, network being "udp" or "tcp", which it is for
	// DNS over TLS. Nil: net.Dialer, so that the kernel picks a random port and
	// drops what others send to it.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now tells when to read ConfigFile again, and whether the certificate of a
	// server is valid where its tls.Config has no Time. Nil: time.Now.
	Now func() time.Time
}

// Client is a stub resolver. It keeps no answers. It is safe for concurrent
// use.
type Client struct {
	timeout  time.Duration
	attempts int
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	servers  func() ([]server, error)
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
	now := o.Now
	if now == nil {
		now = time.Now
	}
	if len(o.Servers) == 0 {
		f := &configFile{path: o.ConfigFile, now: now}
		if f.path == "" {
			f.path = "/etc/resolv.conf"
		}
		c.servers = f.servers
		return c
	}
	var fixed []server
	for _, s := range o.Servers[:min(len(o.Servers), MaxServers)] {
		fixed = append(fixed, s.compile(now))
	}
	c.servers = func() ([]server, error) { return fixed, nil }
	return c
}

// Lookup asks for the records of the given type, one of A, AAAA, TXT and PTR, of
// a host name. The name is taken as complete, with or without the final dot: no
// search domain is added and no hosts file is read. An IP address is not a name;
// ReverseName gives that of its PTR records.
//
// The error, always an *Error, means that nothing is known; an answer without
// records means that there are none. Servers are asked in turn until one
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
		fail.Err = errors.New("a wildcard has no records")
		return Answer{}, fail
	case t != A && t != AAAA && t != TXT && t != PTR:
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
// not fit (RFC 7766 section 5). A server with TLS is asked over TLS and in no
// other way, whatever happens (RFC 8310 section 5, strict profile).
func (c *Client) ask(ctx context.Context, s server, q dns.Question) (Answer, int, error) {
	t := overUDP
	if s.tls != nil {
		t = overTLS
	}
	reply, err := c.exchange(ctx, t, s, q)
	if err == nil && reply.Truncated && t == overUDP {
		t = overTCP
		reply, err = c.exchange(ctx, t, s, q)
	}
	if err == nil && reply.Truncated {
		err = fmt.Errorf("truncated reply over %s", t)
	}
	if err != nil {
		return Answer{}, 0, err
	}
	answer, err := readAnswer(reply, q)
	return answer, reply.Rcode, err
}
