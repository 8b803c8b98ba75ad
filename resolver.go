package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// A RecordType is a type of DNS record (RFC 1035 section 3.2.2).
type RecordType uint16

// Record types that a Resolver is asked for.
const (
	RecordA    = RecordType(dnsclient.A)
	RecordAAAA = RecordType(dnsclient.AAAA)
	RecordTXT  = RecordType(dnsclient.TXT)
	RecordPTR  = RecordType(dnsclient.PTR) // of a name in in-addr.arpa or ip6.arpa
)

// An Answer is what DNS says of a name. Without Addrs, Texts and Names, and with
// a nil error, it says that the name or the record does not exist, which is a
// definite answer.
type Answer struct {
	// Addrs are the addresses, for RecordA and RecordAAAA.
	Addrs []netip.Addr
	// Texts are the contents of the records, for RecordTXT: the strings of one
	// record joined without a separator (RFC 7208 section 3.3).
	Texts []string
	// Names are host names in lower case and without the final dot, for
	// RecordPTR. Whoever holds the address chooses them.
	Names []string
	// TTL is how long the answer may be kept. A guard keeps it for 30 s at
	// least and 15 min at most (5 to 60 s where there are no records).
	TTL time.Duration
	// Authenticated is the AD bit (RFC 6840 section 5.7). It means something only
	// from a resolver that is trusted over a trusted path.
	Authenticated bool
	// NXDomain says that the name does not exist at all.
	NXDomain bool
}

// A Resolver looks names up. The name is absolute, in lower case and without
// the final dot: search domains must not be applied. Every error means "don't
// know"; that a name does not exist is an Answer. It is used concurrently and
// must respect the context.
type Resolver interface {
	Lookup(ctx context.Context, name string, t RecordType) (Answer, error)
}

// ErrBogus is wrapped by a Resolver's error where the answer failed DNSSEC
// validation. No earlier answer is then used in its place.
var ErrBogus = dnsclient.ErrBogus

// NewResolver returns a Resolver that asks the given recursive DNS servers, at
// most the first three, or those of /etc/resolv.conf if there are none: over
// UDP, and TCP where an answer is truncated. It uses neither search domains nor
// the hosts file. It reads nothing before the first lookup.
//
// The AD bit of a given server counts only if its address is a loopback address;
// that of one in /etc/resolv.conf also where the file has "options trust-ad".
// NewDNSResolver can say more.
func NewResolver(servers ...netip.AddrPort) Resolver {
	var plain []dnsclient.Server
	for _, s := range servers {
		plain = append(plain, dnsclient.Server{Addr: s})
	}
	return newWireResolver(plain)
}

// A DNSServer is a recursive DNS server that NewDNSResolver asks.
type DNSServer struct {
	// Addr is where the server listens: port 53, and 853 for TLS.
	Addr netip.AddrPort
	// TLS, if not nil, has the server asked over TLS (RFC 7858) and never in
	// another way, which is the strict profile of RFC 8310. ServerName is
	// required: the host name or IP address in the server's certificate. RootCAs
	// vouch for it, or the system's if nil. InsecureSkipVerify and versions before
	// TLS 1.2 are errors, NextProtos is ignored. It is copied.
	TLS *tls.Config
	// TrustAD says that the server validates DNSSEC and that its word on it, the
	// AD bit, is believed. Without TLS it says that the path to it is trusted,
	// too (RFC 6840 section 5.8). The bit of a server on a loopback address that
	// is asked without TLS is always believed.
	TrustAD bool
}

// NewDNSResolver is NewResolver for servers that are asked over TLS, or that are
// trusted to validate DNSSEC. There must be one at least and three at most, which
// are asked in this order. All problems are reported at once, as ConfigErrors.
func NewDNSResolver(servers ...DNSServer) (Resolver, error) {
	var failed problems
	if len(servers) == 0 {
		failed.add("DNSServer", "", "none: NewResolver asks those of the system")
	}
	if len(servers) > dnsclient.MaxServers {
		failed.add("DNSServer", fmt.Sprint(len(servers)), "more than %d", dnsclient.MaxServers)
	}
	var checked []dnsclient.Server
	for i, s := range servers {
		server := dnsclient.Server(s)
		if err := server.Check(); err != nil {
			failed = append(failed, &ConfigError{Field: fmt.Sprintf("DNSServer[%d]", i), Value: s.Addr.String(), Problem: "cannot be asked", Err: err})
		}
		checked = append(checked, server)
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	return newWireResolver(checked), nil
}

func newWireResolver(servers []dnsclient.Server) Resolver {
	return wireResolver{dnsclient.New(dnsclient.Options{Servers: servers, Now: time.Now})}
}

type wireResolver struct{ client *dnsclient.Client }

func (w wireResolver) Lookup(ctx context.Context, name string, t RecordType) (Answer, error) {
	a, err := w.client.Lookup(ctx, name, dnsclient.Type(t))
	return Answer(a), err
}

// SystemResolver adapts a *net.Resolver, for programs that configure one. It is
// weaker than NewResolver: the hosts file is believed, also for the names of an
// address; some systems tell only one of those; TTLs are unknown (60 s are
// assumed) and so is whether DNSSEC validated anything.
func SystemResolver(r *net.Resolver) Resolver { return systemResolver{r} }

type systemResolver struct{ resolver *net.Resolver }

func (s systemResolver) Lookup(ctx context.Context, name string, t RecordType) (Answer, error) {
	answer := Answer{TTL: 60 * time.Second}
	var err error
	switch t {
	case RecordA:
		answer.Addrs, err = s.addrs(ctx, "ip4", name)
	case RecordAAAA:
		answer.Addrs, err = s.addrs(ctx, "ip6", name)
	case RecordTXT:
		answer.Texts, err = s.resolver.LookupTXT(ctx, name+".")
		slices.Sort(answer.Texts)
		answer.Texts = slices.Compact(answer.Texts)
	case RecordPTR:
		answer.Names, err = s.names(ctx, name)
	default:
		return Answer{}, fmt.Errorf("record type %d is not supported", t)
	}
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) && dnsErr.IsNotFound && !dnsErr.IsTemporary && !dnsErr.IsTimeout {
		return Answer{TTL: answer.TTL}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	return answer, nil
}

func (s systemResolver) addrs(ctx context.Context, network, name string) ([]netip.Addr, error) {
	addrs, err := s.resolver.LookupNetIP(ctx, network, name+".")
	for i := range addrs {
		addrs[i] = ipaddr.Canonical(addrs[i])
	}
	return addrs, err
}

// names asks for the names of the address whose reverse name is given, as
// *net.Resolver wants it.
func (s systemResolver) names(ctx context.Context, reverse string) ([]string, error) {
	addr, ok := dnsclient.ReverseAddr(reverse)
	if !ok {
		return nil, fmt.Errorf("%s is not the reverse name of an address", quote(reverse))
	}
	found, err := s.resolver.LookupAddr(ctx, addr.String())
	if len(found) > 0 {
		err = nil // some records hold no names (CVE-2021-33195); the others stand
	}
	var names []string
	for _, n := range found {
		name, problem := dnsname.FromSAN(strings.TrimSuffix(n, "."))
		if problem == nil && !dnsname.IsWildcard(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), err
}
