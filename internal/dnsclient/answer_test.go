package dnsclient_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// chain returns n CNAME records from p.example., to cn.example.
func chain(t testing.TB, n int) []dns.RR {
	from := "p.example."
	var out []dns.RR
	for i := 1; i <= n; i++ {
		to := fmt.Sprintf("c%d.example.", i)
		out = append(out, rr(t, fmt.Sprintf("%s %d CNAME %s", from, 1000-i, to)))
		from = to
	}
	return out
}

const soa = "example. 300 SOA ns.example. admin.example. 1 2 3 4 120"

func TestAnswers(t *testing.T) {
	manyAddrs := func(n int) []dns.RR {
		var out []dns.RR
		for i := range n {
			out = append(out, rr(t, fmt.Sprintf("p.example. 60 A 192.0.%d.%d", i/256, i%256)))
		}
		return out
	}
	for _, tt := range []struct {
		name   string
		typ    dnsclient.Type
		reply  func(m *dns.Msg)
		want   dnsclient.Answer
		failed string // text of the error, if one is expected
	}{
		{name: "addresses are sorted, distinct and have the shortest TTL", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.2", "p.example. 200 A 192.0.2.1", "p.example. 250 A 192.0.2.2")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1", "192.0.2.2"), TTL: 200 * time.Second}},
		{name: "IPv6 addresses", typ: dnsclient.AAAA, reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 AAAA 2001:db8::1")
		}, want: dnsclient.Answer{Addrs: addrs("2001:db8::1"), TTL: 300 * time.Second}},
		{name: "an IPv4-mapped IPv6 address is dropped", typ: dnsclient.AAAA, reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 AAAA ::ffff:192.0.2.1", "p.example. 300 AAAA 2001:db8::1")
		}, want: dnsclient.Answer{Addrs: addrs("2001:db8::1"), TTL: 300 * time.Second}},
		{name: "addresses of the other type are ignored", typ: dnsclient.AAAA, reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.1")
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{TTL: 120 * time.Second}},
		{name: "a record of another class is ignored", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 CH A 192.0.2.1")
		}, want: dnsclient.Answer{}},
		{name: "the AD bit is passed on", reply: func(m *dns.Msg) {
			m.AuthenticatedData = true
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.1")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: 300 * time.Second, Authenticated: true}},
		{name: "letter case does not matter", reply: func(m *dns.Msg) {
			m.Question[0].Name = "P.eXample."
			m.Answer = rrs(t, "p.EXAMPLE. 300 CNAME C.example.", "c.eXample. 300 A 192.0.2.1")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: 300 * time.Second}},
		{name: "an address of another name is ignored", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.1", "evil.example. 1 A 192.0.2.66", "example. 1 A 192.0.2.67")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: 300 * time.Second}},
		{name: "only an address of another name is no address", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "evil.example. 300 A 192.0.2.66")
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{TTL: 120 * time.Second}},
		{name: "an alias of another name is ignored", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "evil.example. 300 CNAME c.example.", "c.example. 300 A 192.0.2.66")
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{TTL: 120 * time.Second}},
		{name: "an alias of another class is ignored", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 CH CNAME c.example.", "c.example. 300 A 192.0.2.66")
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{TTL: 120 * time.Second}},
		{name: "an address at a name with an alias is ignored", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 CNAME c.example.", "p.example. 300 A 192.0.2.66", "c.example. 300 A 192.0.2.1")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: 300 * time.Second}},
		{name: "addresses in the additional section are ignored", reply: func(m *dns.Msg) {
			m.Extra = rrs(t, "p.example. 300 A 192.0.2.66")
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{TTL: 120 * time.Second}},
		{name: "a chain of 8 links is followed, in any order", reply: func(m *dns.Msg) {
			m.Answer = append(rrs(t, "c8.example. 2000 A 192.0.2.1"), chain(t, 8)...)
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: 992 * time.Second}},
		{name: "a chain of 9 links is an error", reply: func(m *dns.Msg) {
			m.Answer = append(chain(t, 9), rr(t, "c9.example. 2000 A 192.0.2.1"))
		}, failed: "more than 8 links"},
		{name: "a loop is an error", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 CNAME c.example.", "c.example. 300 CNAME p.example.", "p.example. 300 A 192.0.2.1")
		}, failed: "loop"},
		{name: "an alias of itself is an error", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 CNAME p.example.")
		}, failed: "loop"},
		{name: "two aliases at one name are an error", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 300 CNAME c.example.", "p.example. 300 CNAME d.example.", "c.example. 300 A 192.0.2.1")
		}, failed: "two CNAME"},
		{name: "a chain that ends nowhere is no address", reply: func(m *dns.Msg) {
			m.Answer = chain(t, 2)
		}, want: dnsclient.Answer{}},
		{name: "a chain that ends nowhere has the TTL of its SOA at most", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 90 CNAME c.example.")
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{TTL: 90 * time.Second}},
		{name: "256 addresses are an answer", reply: func(m *dns.Msg) { m.Answer = manyAddrs(256) },
			want: dnsclient.Answer{TTL: 60 * time.Second, Addrs: func() (out []netip.Addr) {
				for i := range 256 {
					out = append(out, netip.AddrFrom4([4]byte{192, 0, 0, byte(i)}))
				}
				return out
			}()}},
		{name: "257 addresses are an error", reply: func(m *dns.Msg) { m.Answer = manyAddrs(257) }, failed: "more than 256 records"},
		{name: "a TTL with the highest bit is zero", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 2147483648 A 192.0.2.1")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1")}},
		{name: "the longest TTL", reply: func(m *dns.Msg) {
			m.Answer = rrs(t, "p.example. 2147483647 A 192.0.2.1")
		}, want: dnsclient.Answer{Addrs: addrs("192.0.2.1"), TTL: 2147483647 * time.Second}},
		{name: "NXDOMAIN", reply: func(m *dns.Msg) {
			m.Rcode = dns.RcodeNameError
			m.Ns = rrs(t, soa)
		}, want: dnsclient.Answer{NXDomain: true, TTL: 120 * time.Second}},
		{name: "NXDOMAIN has the TTL of the SOA record if that is shorter", reply: func(m *dns.Msg) {
			m.Rcode = dns.RcodeNameError
			m.Ns = rrs(t, "example. 30 SOA ns.example. admin.example. 1 2 3 4 120")
		}, want: dnsclient.Answer{NXDomain: true, TTL: 30 * time.Second}},
		{name: "NXDOMAIN with addresses is NXDOMAIN", reply: func(m *dns.Msg) {
			m.Rcode = dns.RcodeNameError
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.1")
		}, want: dnsclient.Answer{NXDomain: true}},
		{name: "NODATA without an SOA record from a recursive server", reply: func(m *dns.Msg) {}, want: dnsclient.Answer{}},
		{name: "NODATA without an SOA record from an authoritative server", reply: func(m *dns.Msg) {
			m.RecursionAvailable, m.Authoritative = false, true
		}, want: dnsclient.Answer{}},
		{name: "the SOA record of another zone is ignored", reply: func(m *dns.Msg) {
			m.Ns = rrs(t, "other.example. 300 SOA ns.example. admin.example. 1 2 3 4 120")
		}, want: dnsclient.Answer{}},
		{name: "nothing from a server that is neither recursive nor authoritative is an error", reply: func(m *dns.Msg) {
			m.RecursionAvailable = false
		}, failed: "neither recurses"},
		{name: "half a chain from a server that does not recurse is an error", reply: func(m *dns.Msg) {
			m.RecursionAvailable, m.Authoritative = false, true
			m.Answer = chain(t, 1)
		}, failed: "neither recurses"},
		{name: "a referral is an error", reply: func(m *dns.Msg) {
			m.Ns = rrs(t, "example. 300 NS ns.example.")
		}, failed: "referral"},
		{name: "SERVFAIL is an error", reply: func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, failed: "SERVFAIL"},
		{name: "SERVFAIL with addresses is an error", reply: func(m *dns.Msg) {
			m.Rcode = dns.RcodeServerFailure
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.1")
		}, failed: "SERVFAIL"},
		{name: "REFUSED is an error", reply: func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }, failed: "REFUSED"},
		{name: "REFUSED without the question is an error at once", reply: func(m *dns.Msg) {
			m.Rcode, m.Question = dns.RcodeRefused, nil
		}, failed: "REFUSED"},
		{name: "FORMERR is an error", reply: func(m *dns.Msg) { m.Rcode = dns.RcodeFormatError }, failed: "FORMERR"},
		{name: "NOTIMP is an error", reply: func(m *dns.Msg) { m.Rcode = dns.RcodeNotImplemented }, failed: "NOTIMP"},
		{name: "an extended response code is not its lower bits", reply: func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.Rcode = dns.RcodeBadVers // its lower bits are NOERROR
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.1")
		}, failed: "BAD"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
				tt.reply(m)
				return m
			})
			typ := tt.typ
			if typ == 0 {
				typ = dnsclient.A
			}
			got, err := client(s).Lookup(t.Context(), "p.example", typ)
			if tt.failed != "" {
				var e *dnsclient.Error
				require.ErrorAs(t, err, &e)
				require.ErrorContains(t, err, tt.failed)
				require.NotErrorIs(t, err, dnsclient.ErrBogus)
				require.Equal(t, "p.example.", e.Name)
				require.Equal(t, s.addr.String(), e.Server)
				require.Zero(t, got)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// An answer that a server has kept beyond its time (RFC 8767) is none, nor is such a
// denial.
func TestStaleAnswersOfTheServer(t *testing.T) {
	for code := range uint16(31) {
		stale := code == 3 || code == 19
		for _, rcode := range []int{dns.RcodeSuccess, dns.RcodeNameError} {
			s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
				m.Rcode = rcode
				if rcode == dns.RcodeSuccess {
					m.Answer = rrs(t, "p.example. 30 A 192.0.2.66")
				}
				m.SetEdns0(1232, false)
				opt := m.IsEdns0()
				opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code})
				return m
			})
			_, err := client(s).Lookup(t.Context(), "p.example", dnsclient.A)
			require.Equal(t, stale, err != nil, "code %d: %v", code, err)
			require.NotErrorIs(t, err, dnsclient.ErrBogus)
		}
	}
}

func TestExtendedErrors(t *testing.T) {
	for code := range uint16(31) {
		bogus := 6 <= code && code <= 12
		first := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			m.Rcode = dns.RcodeServerFailure
			m.SetEdns0(1232, false)
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: "text\nof the server"})
			return m
		})
		second := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			m.Answer = rrs(t, "p.example. 300 A 192.0.2.66")
			return m
		})
		answer, err := client(first, second).Lookup(t.Context(), "p.example", dnsclient.A)
		if !bogus {
			require.NoError(t, err, "code %d", code)
			continue
		}
		require.ErrorIs(t, err, dnsclient.ErrBogus, "code %d", code)
		require.NotContains(t, err.Error(), "text")
		require.Empty(t, answer.Addrs)
		require.Empty(t, second.queries(), "a server that may not validate is not asked about a forgery")
		var e *dnsclient.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, dns.RcodeServerFailure, e.Rcode)
	}
}
