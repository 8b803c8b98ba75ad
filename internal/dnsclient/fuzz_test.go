package dnsclient_test

import (
	"bytes"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/dnsname"
)

var allTypes = []dnsclient.Type{dnsclient.A, dnsclient.AAAA, dnsclient.TXT, dnsclient.PTR}

// FuzzReply: whatever bytes come back, Lookup does not panic or loop (CVE-2024-24788,
// CVE-2026-46600 were such replies); what it returns
// stands in the bytes, and keeps the promises of Answer.
func FuzzReply(f *testing.F) {
	seed := func(change func(m *dns.Msg)) {
		for i, typ := range allTypes {
			m := new(dns.Msg).SetQuestion("p.example.", uint16(typ))
			m.Response, m.RecursionAvailable = true, true
			change(m)
			b, err := m.Pack()
			require.NoError(f, err)
			f.Add(b[2:], uint8(i))
		}
	}
	seed(func(m *dns.Msg) {
		m.Answer = rrs(f, "p.example. 60 A 192.0.2.1", "p.example. 60 AAAA 2001:db8::1", `p.example. 60 TXT "a" "\000\"\\b"`, "p.example. 60 PTR H.example.", `p.example. 60 PTR a\000b.example.`)
	})
	seed(func(m *dns.Msg) {
		m.Answer = append(chain(f, 8), rrs(f, "c8.example. 9 A 192.0.2.1", "c8.example. 9 TXT x", "c8.example. 9 PTR x.example.")...)
	})
	seed(func(m *dns.Msg) {
		m.Answer = rrs(f, "p.example. 60 CNAME 1.0/25.example.", "1.0/25.example. 60 PTR x.example.")
	})
	seed(func(m *dns.Msg) { m.Ns = rrs(f, soa) })
	seed(func(m *dns.Msg) { m.Truncated = true })
	seed(func(m *dns.Msg) { m.Answer = rrs(f, "p.example. 60 AAAA ::ffff:192.0.2.1") })
	seed(func(m *dns.Msg) {
		m.Rcode = dns.RcodeServerFailure
		m.SetEdns0(1232, false)
		opt := m.IsEdns0()
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: 6})
	})
	f.Fuzz(func(t *testing.T, reply []byte, which uint8) {
		if len(reply) > 60000 {
			return
		}
		typ := allTypes[int(which)%len(allTypes)]
		answer, err := replies(reply).Lookup(t.Context(), "p.example", typ)
		if err != nil {
			var e *dnsclient.Error
			require.ErrorAs(t, err, &e)
			require.Zero(t, answer)
			require.Less(t, len(err.Error()), 400)
			return
		}
		require.GreaterOrEqual(t, answer.TTL, time.Duration(0))
		require.Less(t, answer.TTL, (1<<31)*time.Second)
		require.False(t, answer.Authenticated, "the server is neither trusted nor on this host")
		require.False(t, answer.NXDomain && len(answer.Addrs)+len(answer.Texts)+len(answer.Names) > 0)
		require.True(t, typ == dnsclient.A || typ == dnsclient.AAAA || answer.Addrs == nil)
		require.True(t, typ == dnsclient.TXT || answer.Texts == nil)
		require.True(t, typ == dnsclient.PTR || answer.Names == nil)

		require.LessOrEqual(t, len(answer.Addrs), 256)
		for i, a := range answer.Addrs {
			require.True(t, a.IsValid() && a.Is6() == (typ == dnsclient.AAAA) && !a.Is4In6() && a.Zone() == "")
			require.True(t, i == 0 || answer.Addrs[i-1].Less(a))
			require.True(t, bytes.Contains(reply, a.AsSlice()))
		}
		require.LessOrEqual(t, len(answer.Texts), 64)
		for i, s := range answer.Texts {
			require.True(t, i == 0 || answer.Texts[i-1] < s)
			require.True(t, holdsText(reply, s), "%q", s)
		}
		require.LessOrEqual(t, len(answer.Names), 256)
		for i, n := range answer.Names {
			canonical, err := dnsname.FromSAN(n)
			require.NoError(t, err)
			require.Equal(t, canonical, n)
			require.False(t, strings.Contains(n, "*"))
			require.True(t, i == 0 || answer.Names[i-1] < n)
			for label := range strings.SplitSeq(n, ".") { // a pointer may part them
				require.True(t, bytes.Contains(bytes.ToLower(reply), characterStrings(label)), "%q", n)
			}
		}
	})
}

// holdsText reports whether somewhere in b there are character strings that
// make s.
func holdsText(b []byte, s string) bool {
	for start := range b {
		rest := s
		for at := start; at < len(b); {
			n := int(b[at])
			at++
			if at+n > len(b) || !strings.HasPrefix(rest, string(b[at:at+n])) {
				break
			}
			if rest, at = rest[n:], at+n; rest == "" {
				return true
			}
		}
	}
	return false
}

// FuzzReverseName: the name is the one that arithmetic gives, Lookup takes it,
// and it leads back to the address.
func FuzzReverseName(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "0.0.0.0", "255.255.255.255", "2001:db8::567:89ab", "::", "::1", "::ffff:192.0.2.1", "ffff::"} {
		f.Add(addrs(s)[0].AsSlice(), "")
	}
	f.Add(addrs("fe80::1")[0].AsSlice(), "eth0")
	f.Add(addrs("::ffff:10.0.0.1")[0].AsSlice(), "eth0")
	f.Fuzz(func(t *testing.T, b []byte, zone string) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		got := dnsclient.ReverseName(a.WithZone(zone))
		require.Equal(t, reverseByArithmetic(b), got)
		back, ok := dnsclient.ReverseAddr(got)
		require.True(t, ok)
		require.Equal(t, a.Unmap(), back)
		canonical, err := dnsname.FromSAN(got)
		require.NoError(t, err)
		require.Equal(t, canonical, got)
		library, err := dns.ReverseAddr(a.Unmap().String())
		require.NoError(t, err)
		require.Equal(t, strings.TrimSuffix(library, "."), got)
	})
}

// reverseByArithmetic writes the digits of the address as a number.
func reverseByArithmetic(b []byte) string {
	mapped := append(make([]byte, 10), 0xff, 0xff)
	if len(b) == 16 && bytes.Equal(b[:12], mapped) {
		b = b[12:]
	}
	base, digits, suffix := big.NewInt(16), 32, "ip6.arpa"
	if len(b) == 4 {
		base, digits, suffix = big.NewInt(256), 4, "in-addr.arpa"
	}
	n, digit := new(big.Int).SetBytes(b), new(big.Int)
	name := ""
	for range digits {
		n.DivMod(n, base, digit)
		if digits == 4 {
			name += digit.Text(10) + "."
		} else {
			name += digit.Text(16) + "."
		}
	}
	return name + suffix
}

// FuzzReverseAddr: what has an address is the reverse name of that address and
// of no other.
func FuzzReverseAddr(f *testing.F) {
	for _, s := range []string{"1.2.0.192.in-addr.arpa", "01.2.0.192.in-addr.arpa", "1.2.0.192.IN-ADDR.ARPA", "2.0.192.in-addr.arpa", "in-addr.arpa", ".in-addr.arpa", "256.2.0.192.in-addr.arpa",
		"1.0/25.2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa.", "1.2.0.192.ip6.arpa", "b.a.9.8.7.6.5.0." + strings.Repeat("0.", 16) + "8.b.d.0.1.0.0.2.ip6.arpa",
		strings.Repeat("f.", 32) + "ip6.arpa", strings.Repeat("ff.", 16) + "ip6.arpa", "1.0.2.0.0.0.0.c.f.f.f.f." + strings.Repeat("0.", 20) + "ip6.arpa", "p.example", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := dnsclient.ReverseAddr(name)
		require.Equal(t, ok, a.IsValid())
		if ok {
			require.Equal(t, name, dnsclient.ReverseName(a))
			require.True(t, !a.Is4In6() && a.Zone() == "")
		}
	})
}

func TestReverseName(t *testing.T) {
	for _, tt := range []struct{ addr, want string }{
		{"192.0.2.17", "17.2.0.192.in-addr.arpa"},
		{"4321:0:1:2:3:4:567:89ab", "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa"}, // RFC 3596 section 2.5
		{"::ffff:192.0.2.17", "17.2.0.192.in-addr.arpa"},
		{"fe80::1%eth0", "1." + strings.Repeat("0.", 27) + "0.8.e.f.ip6.arpa"},
	} {
		require.Equal(t, tt.want, dnsclient.ReverseName(netip.MustParseAddr(tt.addr)))
	}
	require.Equal(t, "", dnsclient.ReverseName(netip.Addr{}))
	for _, name := range []string{"", "p.example", "in-addr.arpa", "2.0.192.in-addr.arpa", "01.2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa.", "1.2.0.192.IN-ADDR.arpa", "256.2.0.192.in-addr.arpa",
		"1.1.2.0.192.in-addr.arpa", "1.0/25.2.0.192.in-addr.arpa", "x1.2.0.192.in-addr.arpa", "1.2.0.192.in-addr.arpa.evil.example", "1.2.0.192.ip6.arpa",
		strings.Repeat("0.", 31) + "ip6.arpa", strings.Repeat("0.", 33) + "ip6.arpa", strings.Repeat("00.", 16) + "ip6.arpa", strings.Repeat("F.", 32) + "ip6.arpa",
		"1.1.2.0.0.0.0.c.f.f.f.f." + strings.Repeat("0.", 20) + "ip6.arpa"} {
		_, ok := dnsclient.ReverseAddr(name)
		require.False(t, ok, name)
	}
	require.False(t, slices.ContainsFunc(addrs("192.0.2.1", "::1"), func(a netip.Addr) bool {
		back, ok := dnsclient.ReverseAddr(fmt.Sprint(dnsclient.ReverseName(a)))
		return !ok || back != a
	}))
}
