package ipaddr_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// The examples of RFC 6052 section 2.4.
func TestFromNAT64(t *testing.T) {
	for _, row := range []struct{ prefix, addr, want string }{
		{"2001:db8::/32", "2001:db8:c000:221::", "192.0.2.33"},
		{"2001:db8:100::/40", "2001:db8:1c0:2:21::", "192.0.2.33"},
		{"2001:db8:122::/48", "2001:db8:122:c000:2:2100::", "192.0.2.33"},
		{"2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::", "192.0.2.33"},
		{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::", "192.0.2.33"},
		{"2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33", "192.0.2.33"},
		{"64:ff9b::/96", "64:ff9b::192.0.2.33", "192.0.2.33"},
		{"64:ff9b::/96", "64:ff9b::192.0.2.33%eth0", "192.0.2.33"},
		{"64:ff9b::/96", "192.0.2.33", "192.0.2.33"},
		{"64:ff9b::/96", "::ffff:192.0.2.33", "192.0.2.33"},
		{"64:ff9b::/96", "64:ff9b:1::1", "64:ff9b:1::1"},
		{"64:ff9b::/96", "2001:db8::1", "2001:db8::1"},
		// No translator makes these.
		{"2001:db8::/32", "2001:db8:c000:221:100::", ""},
		{"2001:db8::/32", "2001:db8:c000:221::1", ""},
		{"2001:db8:122::/48", "2001:db8:122:c000:102:2100::", ""},
		{"2001:db8:122::/48", "2001:db8:122:c000:2:2101::", ""},
		{"2001:db8:122:344::/64", "2001:db8:122:344:1c0:2:2100::", ""},
		{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:1", ""},
	} {
		p := netip.MustParsePrefix(row.prefix)
		require.NoError(t, ipaddr.CheckNAT64(p), row.prefix)
		var want netip.Addr
		if row.want != "" {
			want = netip.MustParseAddr(row.want)
		}
		require.Equal(t, want, ipaddr.FromNAT64([]netip.Prefix{netip.MustParsePrefix("2001:db8:ffff::/96"), p}, netip.MustParseAddr(row.addr)), "%v", row)
	}
	require.False(t, ipaddr.FromNAT64(nil, netip.Addr{}).IsValid())
	a := netip.MustParseAddr("64:ff9b::1")
	require.Equal(t, a, ipaddr.FromNAT64(nil, a))
}

func TestCheckNAT64(t *testing.T) {
	for _, bad := range []netip.Prefix{
		{}, netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("::ffff:192.0.2.0/120"), netip.MustParsePrefix("64:ff9b::/95"),
		netip.MustParsePrefix("2001:db8::/33"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("2001:db8::1/96"),
		netip.MustParsePrefix("2001:db8:0:0:100::/96"), netip.MustParsePrefix("2001:db8::/128"),
	} {
		require.Error(t, ipaddr.CheckNAT64(bad), bad)
	}
}

// FuzzFromNAT64: what it reads back, put under the prefix as RFC 6052 says, is the
// address again.
func FuzzFromNAT64(f *testing.F) {
	f.Add([]byte("2001:db8:122:344"), uint8(3))
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		if len(raw) != 16 {
			return
		}
		bits := [...]int{32, 40, 48, 56, 64, 96}[n%6]
		a := netip.AddrFrom16([16]byte(raw))
		if a.Is4In6() {
			return
		}
		p := netip.PrefixFrom(a, bits).Masked()
		if ipaddr.CheckNAT64(p) != nil {
			return
		}
		got := ipaddr.FromNAT64([]netip.Prefix{p}, a)
		if !got.IsValid() {
			return
		}
		v4 := got.As4()
		rest := append([]byte{}, v4[:]...)
		b := p.Addr().As16()
		copied := append([]byte{}, b[:bits/8]...)
		for len(copied) < 16 {
			switch {
			case len(copied) == 8:
				copied = append(copied, 0)
			case len(rest) > 0:
				copied, rest = append(copied, rest[0]), rest[1:]
			default:
				copied = append(copied, 0)
			}
		}
		require.Equal(t, raw, copied)
	})
}
