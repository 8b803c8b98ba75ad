package mtlstest

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// DNS is a DNS server on loopback, over UDP and TCP, whose records and faults the
// test sets. A name that was given no records does not exist. Where a method
// takes a name, an IP address stands for its reverse name, which PTR records are
// asked of. It is safe for concurrent use.
type DNS struct {
	addr netip.AddrPort

	mu      sync.Mutex
	records map[string]record
	queries map[string]int
}

// record is what the server knows of a name.
type record struct {
	exists        bool
	addrs         []netip.Addr
	ttl           time.Duration // of addrs
	texts         []string
	names         []string
	fault         DNSFault
	authenticated bool
}

// otherTTL is that of TXT and PTR records.
const otherTTL = time.Minute

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

// Set gives a name its addresses, with a TTL of a minute, in place of those it
// had, and ends a fault. With no address the name exists and has none. Its texts
// stay.
func (d *DNS) Set(name string, addrs ...string) { d.SetTTL(name, time.Minute, addrs...) }

// SetTTL is Set with another TTL. It panics if an address cannot be read.
func (d *DNS) SetTTL(name string, ttl time.Duration, addrs ...string) {
	parsed := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		parsed[i] = netip.MustParseAddr(a)
	}
	d.change(name, func(r *record) { r.addrs, r.ttl, r.exists, r.fault = parsed, ttl, true, DNSAnswers })
}

// SetTXT gives a name its TXT records, one for each text and with a TTL of a
// minute, in place of those it had, and ends a fault. A text is any bytes; one of
// more than 255 is sent as several strings of a record (RFC 7208 section 3.3).
// With no text the name exists and has none. Its addresses stay.
func (d *DNS) SetTXT(name string, texts ...string) {
	texts = slices.Clone(texts)
	d.change(name, func(r *record) { r.texts, r.exists, r.fault = texts, true, DNSAnswers })
}

// SetPTR gives an address its names, with a TTL of a minute, in place of those it
// had, and ends a fault. With no name the reverse name exists and has none. Names
// are in the form of zone files, in which \DDD is any byte: they need not be host
// names, as those that a stranger chooses. It panics if the address cannot be
// read, or if no DNS message could hold a name.
func (d *DNS) SetPTR(addr string, names ...string) {
	reverse := dnsclient.ReverseName(netip.MustParseAddr(addr))
	fqdns := make([]string, len(names))
	for i, n := range names {
		fqdns[i] = dns.Fqdn(n)
		if _, ok := dns.IsDomainName(fqdns[i]); !ok {
			panic(fmt.Sprintf("mtlstest: SetPTR: %q is no domain name", n))
		}
	}
	d.change(reverse, func(r *record) { r.names, r.exists, r.fault = fqdns, true, DNSAnswers })
}

// Authenticate has the server say, or no longer say, that DNSSEC vouches for its
// answers about a name: the AD bit, which a validating resolver sets for those
// who ask for it (RFC 6840 section 5.7). That a name does not exist can be
// vouched for, too. mtls.NewResolver believes it, because the server is on
// loopback.
func (d *DNS) Authenticate(name string, on bool) {
	d.change(name, func(r *record) { r.authenticated = on })
}

// Fail makes questions for a name fail; DNSAnswers ends that.
func (d *DNS) Fail(name string, f DNSFault) {
	d.change(name, func(r *record) { r.fault = f })
}

func (d *DNS) change(name string, f func(r *record)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.records[dnsKey(name)]
	f(&r)
	d.records[dnsKey(name)] = r
}

// Remove takes all away from a name, faults too: it does not exist then.
func (d *DNS) Remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.records, dnsKey(name))
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
	name := canonical(question.Name)
	d.mu.Lock()
	d.queries[name]++
	r := d.records[name]
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
		m.Answer = r.answer(question)
		if !r.exists {
			m.Rcode = dns.RcodeNameError
		}
		if len(m.Answer) == 0 {
			soa, err := dns.NewRR(fmt.Sprintf("%s 60 IN SOA ns.invalid. admin.invalid. 1 3600 600 86400 60", question.Name))
			if err == nil {
				m.Ns = append(m.Ns, soa)
			}
		}
		opt := q.IsEdns0()
		m.AuthenticatedData = r.authenticated && (q.AuthenticatedData || opt != nil && opt.Do())
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
		m.Truncate(1232)
	}
	_ = w.WriteMsg(m) // the asker may be gone
}

// answer returns the records that a question asks for.
func (r *record) answer(q dns.Question) []dns.RR {
	var rrs []dns.RR
	header := func(ttl time.Duration) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		for _, a := range r.addrs {
			switch {
			case a.Is4() && q.Qtype == dns.TypeA:
				rrs = append(rrs, &dns.A{Hdr: header(r.ttl), A: a.AsSlice()})
			case a.Is6() && q.Qtype == dns.TypeAAAA:
				rrs = append(rrs, &dns.AAAA{Hdr: header(r.ttl), AAAA: a.AsSlice()})
			}
		}
	case dns.TypeTXT:
		for _, t := range r.texts {
			rrs = append(rrs, &dns.TXT{Hdr: header(otherTTL), Txt: characterStrings(t)})
		}
	case dns.TypePTR:
		for _, n := range r.names {
			rrs = append(rrs, &dns.PTR{Hdr: header(otherTTL), Ptr: n})
		}
	}
	return rrs
}

// characterStrings cuts a text into pieces of 255 bytes at most (RFC 1035 section
// 3.3), in the form that package dns sends unchanged.
func characterStrings(text string) []string {
	var out []string
	for len(text) > 255 {
		out = append(out, escape(text[:255]))
		text = text[255:]
	}
	return append(out, escape(text))
}

// escape spares a text the reading of \DDD and \X.
func escape(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// dnsKey returns the name that a test means.
func dnsKey(name string) string {
	if a, err := netip.ParseAddr(name); err == nil {
		return dnsclient.ReverseName(a)
	}
	return canonical(name)
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
