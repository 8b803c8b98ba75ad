package mtlstest

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/mtlsguard/mtls"
)

// DNS is a DNS server on loopback, over UDP and TCP, whose records and faults the
// test sets. A name without records does not exist. It is safe for concurrent
// use.
type DNS struct {
	addr netip.AddrPort

	mu      sync.Mutex
	records map[string]record
	queries map[string]int
}

type record struct {
	addrs []netip.Addr
	ttl   time.Duration
	fault DNSFault
}

// A DNSFault is what a DNS server does instead of answering.
type DNSFault int

// Faults of a DNS server.
const (
	DNSAnswers  DNSFault = iota // no fault
	DNSServFail                 // SERVFAIL: the resolver failed
	DNSRefused                  // REFUSED
	DNSSilent                   // no answer at all
	DNSBogus                    // SERVFAIL because DNSSEC validation failed (RFC 8914)
)

// NewDNS starts a server, which ends with the test.
func NewDNS(t TB) *DNS {
	t.Helper()
	d := &DNS{records: map[string]record{}, queries: map[string]int{}}
	// The two sockets need one port: take a free one for TCP and try UDP there.
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("mtlstest: NewDNS: %v", err)
			return nil
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil {
			l.Close()
			continue
		}
		d.addr = netip.MustParseAddrPort(l.Addr().String())
		for _, s := range []*dns.Server{{Listener: l, Handler: d}, {PacketConn: pc, Handler: d}} {
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			go s.ActivateAndServe() // ends with Shutdown
			<-started
			t.Cleanup(func() { s.Shutdown() })
		}
		return d
	}
	t.Fatalf("mtlstest: NewDNS: no port is free for UDP and TCP")
	return nil
}

// Addr returns the address of the server.
func (d *DNS) Addr() netip.AddrPort { return d.addr }

// Resolver returns a resolver that asks this server.
func (d *DNS) Resolver() mtls.Resolver { return mtls.NewResolver(d.addr) }

// Set gives a name its addresses, with a TTL of a minute, in place of what it
// had. With no address the name exists and has none.
func (d *DNS) Set(name string, addrs ...string) { d.SetTTL(name, time.Minute, addrs...) }

// SetTTL is Set with another TTL. It panics if an address cannot be read.
func (d *DNS) SetTTL(name string, ttl time.Duration, addrs ...string) {
	r := record{ttl: ttl}
	for _, a := range addrs {
		r.addrs = append(r.addrs, netip.MustParseAddr(a))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.records[dnsKey(name)] = r
}

// Remove takes a name away: it does not exist then.
func (d *DNS) Remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.records, dnsKey(name))
}

// Fail makes questions for a name fail; DNSAnswers ends that.
func (d *DNS) Fail(name string, f DNSFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[dnsKey(name)]
	r.fault = f
	d.records[dnsKey(name)] = r
}

// Queries returns how often a name was asked for.
func (d *DNS) Queries(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.queries[dnsKey(name)]
}

// ServeDNS answers one question; package dns calls it.
func (d *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		return
	}
	question := q.Question[0]
	d.mu.Lock()
	name := dnsKey(question.Name)
	d.queries[name]++
	r, exists := d.records[name]
	d.mu.Unlock()

	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	switch r.fault {
	case DNSSilent:
		return
	case DNSServFail:
		m.Rcode = dns.RcodeServerFailure
	case DNSRefused:
		m.Rcode = dns.RcodeRefused
	case DNSBogus:
		m.Rcode = dns.RcodeServerFailure
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetUDPSize(1232)
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus})
		m.Extra = append(m.Extra, opt)
	default:
		for _, a := range r.addrs {
			hdr := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: uint32(r.ttl / time.Second)}
			switch {
			case a.Is4() && question.Qtype == dns.TypeA:
				hdr.Rrtype = dns.TypeA
				m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
			case a.Is6() && question.Qtype == dns.TypeAAAA:
				hdr.Rrtype = dns.TypeAAAA
				m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
			}
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 {
			soa, err := dns.NewRR(fmt.Sprintf("%s 60 IN SOA ns.invalid. admin.invalid. 1 3600 600 86400 60", question.Name))
			if err == nil {
				m.Ns = append(m.Ns, soa)
			}
		}
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
		m.Truncate(1232)
	}
	_ = w.WriteMsg(m) // the asker may be gone
}

func dnsKey(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
