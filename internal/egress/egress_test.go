package egress_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/egress"
)

func TestName(t *testing.T) {
	require.Equal(t, "_mtls-egress.partner.example", egress.Name("partner.example"))
	require.Equal(t, "_mtls-egress.partner.example", egress.Name("*.partner.example"))
}

func TestFind(t *testing.T) {
	many := func(n int, term string) string { return "v=mtls1" + strings.Repeat(" "+term, n) }
	for _, row := range []struct {
		name     string
		texts    []string
		prefixes []string
		names    []string
		problem  string // "absent": ErrAbsent
	}{
		{"all kinds", []string{"v=mtls1 ip4:198.51.100.0/28 ip6:2001:db8::/56 a:egress.partner.example"},
			[]string{"198.51.100.0/28", "2001:db8::/56"}, []string{"egress.partner.example"}, ""},
		{"addresses without a length", []string{"v=mtls1 ip4:198.51.100.7 ip6:2001:db8::1"}, []string{"198.51.100.7/32", "2001:db8::1/128"}, nil, ""},
		{"the widest allowed", []string{"v=mtls1 ip4:198.51.100.0/24 ip6:2001:db8:1::/48"}, []string{"198.51.100.0/24", "2001:db8:1::/48"}, nil, ""},
		{"nothing", []string{"v=mtls1"}, nil, nil, ""},
		{"blanks", []string{"v=mtls1   ip4:198.51.100.7  "}, []string{"198.51.100.7/32"}, nil, ""},
		{"letter case", []string{"V=MTLS1 IP4:198.51.100.7 A:Egress.Partner.Example"}, []string{"198.51.100.7/32"}, []string{"egress.partner.example"}, ""},
		{"among others", []string{"google-site-verification=x", "v=spf1 -all", "v=mtls1 ip4:198.51.100.7", "v=mtls10 x", "v=mtls2 y"}, []string{"198.51.100.7/32"}, nil, ""},
		{"64 terms", []string{many(64, "ip4:198.51.100.7")}, nil, nil, ""},
		{"10 names", []string{many(10, "a:a.example")}, nil, nil, ""},

		{"no record", nil, nil, nil, "absent"},
		{"records of others", []string{"v=spf1 ip4:198.51.100.7 -all", "v=mtls11 ip4:198.51.100.7", " v=mtls1 ip4:198.51.100.7", "v=mtls1\tip4:198.51.100.7", "", "v=mtls1;"}, nil, nil, "absent"},
		{"two records", []string{"v=mtls1 ip4:198.51.100.7", "v=mtls1 ip4:198.51.100.8"}, nil, nil, "2 v=mtls1 records"},
		{"two records, one invalid", []string{"v=mtls1 ip4:198.51.100.7", "v=mtls1 all"}, nil, nil, "2 v=mtls1 records"},
		{"65 terms", []string{many(65, "ip4:198.51.100.7")}, nil, nil, "more than 64 terms"},
		{"11 names", []string{many(11, "a:a.example")}, nil, nil, "more than 10 names"},
		{"ip4 wider than /24", []string{"v=mtls1 ip4:198.51.0.0/23"}, nil, nil, "wider than /24"},
		{"ip4 of everybody", []string{"v=mtls1 ip4:0.0.0.0/0"}, nil, nil, "wider than /24"},
		{"ip6 wider than /48", []string{"v=mtls1 ip6:2001:db8::/47"}, nil, nil, "wider than /48"},
		{"ip6 of everybody", []string{"v=mtls1 ip6:::/0"}, nil, nil, "wider than /48"},
		{"IPv4-mapped", []string{"v=mtls1 ip6:::ffff:198.51.100.0/120"}, nil, nil, "other address family"},
		{"IPv4-mapped address", []string{"v=mtls1 ip6:::ffff:198.51.100.7"}, nil, nil, "other address family"},
		{"IPv4-mapped as ip4", []string{"v=mtls1 ip4:::ffff:198.51.100.7"}, nil, nil, "other address family"},
		{"ip4 with an IPv6 address", []string{"v=mtls1 ip4:2001:db8::1"}, nil, nil, "other address family"},
		{"ip6 with an IPv4 address", []string{"v=mtls1 ip6:198.51.100.7"}, nil, nil, "other address family"},
		{"a zone", []string{"v=mtls1 ip6:fe80::1%eth0"}, nil, nil, "zone"},
		{"a zone and a length", []string{"v=mtls1 ip6:fe80::1%eth0/64"}, nil, nil, "neither"},
		{"bits behind the prefix", []string{"v=mtls1 ip4:198.51.100.7/28"}, nil, nil, "bits behind"},
		{"leading zero", []string{"v=mtls1 ip4:198.051.100.7"}, nil, nil, "neither"},
		{"no address", []string{"v=mtls1 ip4:"}, nil, nil, "neither"},
		{"a kind without a value", []string{"v=mtls1 a"}, nil, nil, "not a host name"},
		{"a wildcard", []string{"v=mtls1 a:*.partner.example"}, nil, nil, "wildcard"},
		{"a literal address as a name", []string{"v=mtls1 a:198.51.100.7"}, nil, nil, "not a host name"},
		{"a qualifier", []string{"v=mtls1 +ip4:198.51.100.7"}, nil, nil, "only ip4"},
		{"all", []string{"v=mtls1 ip4:198.51.100.7 -all"}, nil, nil, "only ip4"},
		{"include", []string{"v=mtls1 include:other.example"}, nil, nil, "only ip4"},
		{"a modifier", []string{"v=mtls1 redirect=other.example"}, nil, nil, "only ip4"},
		{"a macro", []string{"v=mtls1 a:%{i}.partner.example"}, nil, nil, "not a host name"},
		{"a tab", []string{"v=mtls1 ip4:198.51.100.7\tip4:198.51.100.8"}, nil, nil, "neither"},
		{"a NUL", []string{"v=mtls1 a:partner.example\x00.evil.example"}, nil, nil, "not a host name"},
		{"a newline", []string{"v=mtls1 a:partner.example\n"}, nil, nil, "not a host name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r, err := egress.Find(row.texts)
			if row.problem != "" {
				require.Error(t, err)
				require.Nil(t, r)
				require.Equal(t, row.problem == "absent", errors.Is(err, egress.ErrAbsent), err)
				if row.problem != "absent" {
					require.ErrorContains(t, err, row.problem)
				}
				return
			}
			require.NoError(t, err)
			if row.prefixes != nil || row.names != nil {
				var got []string
				for _, p := range r.Prefixes {
					got = append(got, p.String())
				}
				require.Equal(t, row.prefixes, got)
				require.Equal(t, row.names, r.Names)
			}
		})
	}
}

// FuzzFind: it never panics; what it accepts keeps all bounds and, written anew,
// is read as the same; its errors are short and printable whatever was published.
func FuzzFind(f *testing.F) {
	f.Add("v=mtls1 ip4:198.51.100.0/28 ip6:2001:db8::/56 a:egress.partner.example", "v=spf1 -all")
	f.Add("v=mtls1 ip6:::/0", "v=mtls1")
	f.Fuzz(func(t *testing.T, one, two string) {
		r, err := egress.Find([]string{one, two})
		if err != nil {
			require.Less(t, len(err.Error()), 512)
			for _, b := range []byte(err.Error()) {
				require.True(t, ' ' <= b && b <= '~')
			}
			return
		}
		require.LessOrEqual(t, len(r.Prefixes)+len(r.Names), 64)
		require.LessOrEqual(t, len(r.Names), 10)
		text := "v=mtls1"
		for _, p := range r.Prefixes {
			require.Equal(t, p.Masked(), p)
			require.False(t, p.Addr().Is4In6())
			require.Empty(t, p.Addr().Zone())
			kind := "ip4"
			if p.Addr().Is6() {
				kind = "ip6"
				require.GreaterOrEqual(t, p.Bits(), 48)
			} else {
				require.GreaterOrEqual(t, p.Bits(), 24)
			}
			text += fmt.Sprintf(" %s:%s", kind, p)
		}
		for _, name := range r.Names {
			canonical, err := dnsname.FromPolicy(name)
			require.NoError(t, err)
			require.Equal(t, name, canonical)
			_, err = netip.ParseAddr(name)
			require.Error(t, err)
			text += " a:" + name
		}
		again, err := egress.Find([]string{text})
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}
