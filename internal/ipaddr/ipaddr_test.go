package ipaddr_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

func TestSpecialUse(t *testing.T) {
	for _, tc := range []struct {
		addr    string
		special bool
	}{
		{"0.0.0.0", true}, {"0.1.2.3", true}, {"10.0.0.1", true}, {"10.255.255.255", true}, {"100.64.0.0", true}, {"100.127.255.255", true},
		{"127.0.0.1", true}, {"127.255.255.254", true}, {"169.254.169.254", true}, {"172.16.0.1", true}, {"172.31.255.255", true},
		{"192.0.0.1", true}, {"192.0.0.170", true}, {"192.0.2.1", true}, {"192.88.99.1", true}, {"192.168.1.1", true}, {"198.18.0.1", true},
		{"198.19.255.255", true}, {"198.51.100.7", true}, {"203.0.113.9", true}, {"224.0.0.1", true}, {"239.255.255.255", true},
		{"240.0.0.1", true}, {"255.255.255.255", true},

		{"1.1.1.1", false}, {"9.255.255.255", false}, {"11.0.0.0", false}, {"100.63.255.255", false}, {"100.128.0.0", false},
		{"126.255.255.255", false}, {"128.0.0.1", false}, {"169.253.255.255", false}, {"169.255.0.0", false}, {"172.15.255.255", false},
		{"172.32.0.0", false}, {"192.0.1.0", false}, {"192.0.3.0", false}, {"192.167.255.255", false}, {"192.169.0.0", false},
		{"198.17.255.255", false}, {"198.20.0.0", false}, {"223.255.255.255", false},

		{"::", true}, {"::1", true}, {"::8.8.8.8", true}, {"::ffff:0:8.8.8.8", true}, {"64:ff9b::808:808", true}, {"64:ff9b::7f00:1", true},
		{"64:ff9b:1::1", true}, {"100::1", true}, {"100:0:0:1::1", true}, {"2001::1", true}, {"2001:1ff:ffff::1", true}, {"2001:db8::1", true},
		{"2002:7f00:1::", true}, {"2002:808:808::1", true}, {"3fff::1", true}, {"3fff:fff:ffff::1", true}, {"5f00::1", true}, {"4000::1", true},
		{"fc00::1", true}, {"fd12:3456::1", true}, {"fe80::1", true}, {"fe80::1%eth0", true}, {"fec0::1", true}, {"ff02::1", true}, {"ff0e::1", true},

		{"2001:200::1", false}, {"2001:4860:4860::8888", false}, {"2606:4700:4700::1111", false}, {"2a00:1450::1", false}, {"3ffe::1", false},
		{"2003::1", false}, {"2001:db7::1", false}, {"2001:db9::1", false}, {"3fff:1000::1", false},
	} {
		t.Run(tc.addr, func(t *testing.T) {
			a := netip.MustParseAddr(tc.addr)
			require.Equal(t, tc.special, ipaddr.SpecialUse(a))
			if a.Is4() {
				mapped := netip.AddrFrom16(a.As16())
				require.True(t, mapped.Is4In6())
				require.Equal(t, tc.special, ipaddr.SpecialUse(mapped), "IPv4-mapped")
				require.Equal(t, tc.special, ipaddr.SpecialUse(mapped.WithZone("eth0")), "IPv4-mapped with a zone")
			} else {
				require.Equal(t, tc.special, ipaddr.SpecialUse(a.WithZone("eth0")), "with a zone")
			}
		})
	}
	require.True(t, ipaddr.SpecialUse(netip.Addr{}), "the zero Addr is special")
}

func TestOneAddressHasOneForm(t *testing.T) {
	v4 := netip.MustParseAddr("198.51.100.7")
	for _, tc := range []struct {
		spelling string
		same     bool
	}{
		{"198.51.100.7", true}, {"::ffff:198.51.100.7", true}, {"::ffff:c633:6407", true}, {"::ffff:198.51.100.7%eth0", true},
		{"64:ff9b::198.51.100.7", false}, {"64:ff9b::c633:6407", false}, {"::198.51.100.7", false}, {"2002:c633:6407::", false}, {"198.51.100.8", false},
	} {
		require.Equal(t, tc.same, ipaddr.Canonical(netip.MustParseAddr(tc.spelling)) == v4, tc.spelling)
		require.Equal(t, tc.same, ipaddr.Contains([]netip.Prefix{netip.MustParsePrefix("198.51.100.7/32")}, netip.MustParseAddr(tc.spelling)), tc.spelling)
	}
	require.Equal(t, netip.MustParseAddr("fe80::1"), ipaddr.Canonical(netip.MustParseAddr("fe80::1%eth0")))
	require.Equal(t, netip.Addr{}, ipaddr.Canonical(netip.Addr{}))
}

func TestContains(t *testing.T) {
	for _, tc := range []struct {
		prefix, addr string
		want         bool
	}{
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "::ffff:10.1.2.3", true},
		{"10.0.0.0/8", "11.0.0.0", false},
		{"10.9.9.9/8", "10.1.2.3", true}, // host bits set
		{"::ffff:10.0.0.0/104", "10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "11.1.2.3", false},
		{"::ffff:10.0.0.0/104", "::10.1.2.3", false},
		{"::/0", "10.1.2.3", false},
		{"0.0.0.0/0", "2606:4700::1", false},
		{"0.0.0.0/0", "64:ff9b::808:808", false},
		{"fe80::/10", "fe80::1%eth0", true},
		{"2606:4700::/32", "2606:4700::1", true},
		{"2606:4700::/32", "2606:4701::1", false},
	} {
		got := ipaddr.Contains([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix(tc.prefix)}, netip.MustParseAddr(tc.addr))
		require.Equal(t, tc.want, got, "%s in %s", tc.addr, tc.prefix)
	}
	require.False(t, ipaddr.Contains(nil, netip.MustParseAddr("10.0.0.1")))
	require.False(t, ipaddr.Contains([]netip.Prefix{{}}, netip.MustParseAddr("10.0.0.1")), "an invalid prefix holds nothing")
	require.False(t, ipaddr.Contains([]netip.Prefix{{}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}, netip.Addr{}))
}

type textAddr string

func (a textAddr) Network() string { return "text" }
func (a textAddr) String() string  { return string(a) }

func TestFromNetAddr(t *testing.T) {
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for _, tc := range []struct {
		name string
		addr net.Addr
		want string // empty: refused
	}{
		{"IPv4", &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7).To4(), Port: 4711}, "198.51.100.7:4711"},
		{"IPv4 in sixteen bytes, as a dual-stack listener reports it", &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 4711}, "198.51.100.7:4711"},
		{"IPv6", &net.TCPAddr{IP: net.ParseIP("2606:4700::1"), Port: 1}, "[2606:4700::1]:1"},
		{"IPv6 with zone", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}, "[fe80::1]:1"},
		{"UDP", &net.UDPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 1}, "198.51.100.7:1"},
		{"text", textAddr("198.51.100.7:443"), "198.51.100.7:443"},
		{"text, mapped", textAddr("[::ffff:198.51.100.7]:443"), "198.51.100.7:443"},
		{"no address", &net.TCPAddr{Port: 4711}, ""},
		{"address of an impossible length", &net.TCPAddr{IP: net.IP{1, 2, 3}, Port: 4711}, ""},
		{"nil *net.TCPAddr", (*net.TCPAddr)(nil), ""},
		{"nil *net.UDPAddr", (*net.UDPAddr)(nil), ""},
		{"nil", nil, ""},
		{"Unix socket", &net.UnixAddr{Name: "/run/x.sock", Net: "unix"}, ""},
		{"pipe", pipe.RemoteAddr(), ""},
		{"name", textAddr("api.acme.example:443"), ""},
		{"address without port", textAddr("198.51.100.7"), ""},
		{"trailing text", textAddr("198.51.100.7:443, 10.0.0.1:1"), ""},
		{"leading zeros", textAddr("198.051.100.7:443"), ""},
		{"empty", textAddr(""), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := ipaddr.FromNetAddr(tc.addr)
			require.Equal(t, tc.want != "", ok)
			if ok {
				require.Equal(t, tc.want, got.String())
			} else {
				require.Equal(t, netip.AddrPort{}, got)
			}
		})
	}
}

func FuzzFromNetAddr(f *testing.F) {
	for _, s := range []string{"198.51.100.7:443", "[::ffff:127.0.0.1]:80", "[fe80::1%eth0]:1", "@", ":80", "[::]:0", "1.2.3.4:99999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := ipaddr.FromNetAddr(textAddr(s)) // never panics
		if !ok {
			return
		}
		a := got.Addr()
		if a != ipaddr.Canonical(a) || a.Is4In6() || a.Zone() != "" {
			t.Fatalf("%q became %v, which is not canonical", s, got)
		}
		if again, ok := ipaddr.FromNetAddr(net.TCPAddrFromAddrPort(got)); !ok || again != got {
			t.Fatalf("%q became %v and then %v", s, got, again)
		}
	})
}

func FuzzSpecialUse(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add([]byte{169, 254, 169, 254})
	f.Add([]byte{8, 8, 8, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		mapped := netip.AddrFrom16(a.As16())
		if ipaddr.SpecialUse(a) != ipaddr.SpecialUse(mapped) || ipaddr.SpecialUse(a) != ipaddr.SpecialUse(a.WithZone("x")) {
			t.Fatalf("the spellings of %v are judged differently", a)
		}
		// net/netip knows a part of the registries; whatever it calls special is special here.
		if a := a.Unmap(); !ipaddr.SpecialUse(a) && (!a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback()) {
			t.Fatalf("%v is not global unicast", a)
		}
	})
}
