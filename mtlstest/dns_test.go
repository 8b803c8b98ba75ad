package mtlstest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

func lookUp(t *testing.T, d *mtlstest.DNS, name string, typ mtls.RecordType) mtls.Answer {
	t.Helper()
	a, err := d.Resolver().Lookup(t.Context(), name, typ)
	require.NoError(t, err)
	return a
}

func TestDNSRecords(t *testing.T) {
	t.Parallel()
	const name, reverse = "acme.example", "1.2.0.192.in-addr.arpa"
	d := mtlstest.NewDNS(t)
	texts := func(name string) []string { return lookUp(t, d, name, mtls.RecordTXT).Texts }
	names := func(name string) []string { return lookUp(t, d, name, mtls.RecordPTR).Names }

	require.True(t, lookUp(t, d, name, mtls.RecordTXT).NXDomain)
	d.SetTXT("_mtls-egress.ACME.example.", "v=mtls1 a:e.example", `\000 "\"`, "\x00\xff\n", "")
	require.Equal(t, []string{"", "\x00\xff\n", `\000 "\"`, "v=mtls1 a:e.example"}, texts("_mtls-egress."+name))
	require.Equal(t, time.Minute, lookUp(t, d, "_mtls-egress."+name, mtls.RecordTXT).TTL)

	t.Run("long texts", func(t *testing.T) {
		for _, n := range []int{254, 255, 256, 510, 511, 20000} {
			long := strings.Repeat(`\0`, n/2) + strings.Repeat("x", n%2)
			d.SetTXT(name, long)
			require.Equal(t, []string{long}, texts(name), "%d bytes", n)
		}
		d.SetTXT(name, strings.Repeat("x", 600))
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeTXT).SetEdns0(1232, false), d.Addr().String())
		require.NoError(t, err)
		var lengths []int
		for _, s := range m.Answer[0].(*dns.TXT).Txt {
			lengths = append(lengths, len(s))
		}
		require.Equal(t, []int{255, 255, 90}, lengths)
	})
	t.Run("addresses, texts and names of a name are apart", func(t *testing.T) {
		d.SetTXT(name, "text")
		d.SetTTL(name, time.Hour, "192.0.2.1", "2001:db8::1")
		require.Equal(t, []string{"text"}, texts(name))
		d.SetTXT(name)
		require.Empty(t, texts(name))
		require.False(t, lookUp(t, d, name, mtls.RecordTXT).NXDomain)
		require.Len(t, lookUp(t, d, name, mtls.RecordA).Addrs, 1)
		require.Equal(t, time.Hour, lookUp(t, d, name, mtls.RecordA).TTL)
		d.SetTXT(name, "text")
		d.Set(name)
		require.Empty(t, lookUp(t, d, name, mtls.RecordAAAA).Addrs)
		require.Equal(t, []string{"text"}, texts(name))
		d.Remove(name)
		require.True(t, lookUp(t, d, name, mtls.RecordTXT).NXDomain)
		require.True(t, lookUp(t, d, name, mtls.RecordA).NXDomain)
	})
	t.Run("names of an address", func(t *testing.T) {
		d.SetPTR("192.0.2.1", "B.example", "a.example.", `x\000.example`, `new\010line.example`, "*.example", ".")
		require.Equal(t, []string{"a.example", "b.example"}, names(reverse))
		d.SetPTR("::ffff:192.0.2.1", "c.example")
		require.Equal(t, []string{"c.example"}, names(reverse))
		d.SetPTR("2001:db8::1", "six.example")
		require.Equal(t, []string{"six.example"}, names("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"))
		d.SetPTR("192.0.2.1")
		require.Empty(t, names(reverse))
		require.False(t, lookUp(t, d, reverse, mtls.RecordPTR).NXDomain)
		for _, wrong := range [][]string{{"host.example"}, {""}, {"192.0.2.1", strings.Repeat("a", 64) + ".example"}, {"192.0.2.1", "a..example"}} {
			require.Panics(t, func() { d.SetPTR(wrong[0], wrong[1:]...) })
		}
	})
	t.Run("an address stands for its reverse name", func(t *testing.T) {
		before := d.Queries("192.0.2.1")
		require.Equal(t, before, d.Queries(reverse))
		require.Positive(t, before)
		d.Fail("192.0.2.1", mtlstest.DNSBogus)
		_, err := d.Resolver().Lookup(t.Context(), reverse, mtls.RecordPTR)
		require.ErrorIs(t, err, mtls.ErrBogus)
		require.Equal(t, before+1, d.Queries("192.0.2.1"))
		d.Fail("192.0.2.1", mtlstest.DNSAnswers)
		d.Remove("192.0.2.1")
		require.True(t, lookUp(t, d, reverse, mtls.RecordPTR).NXDomain)
	})
	t.Run("a fault ends without making a name", func(t *testing.T) {
		d.Fail("never.example", mtlstest.DNSServFail)
		_, err := d.Resolver().Lookup(t.Context(), "never.example", mtls.RecordTXT)
		require.Error(t, err)
		d.Fail("never.example", mtlstest.DNSAnswers)
		require.True(t, lookUp(t, d, "never.example", mtls.RecordTXT).NXDomain)
	})
	t.Run("new records end a fault", func(t *testing.T) {
		for _, set := range []func(){func() { d.Set(reverse) }, func() { d.SetTXT(reverse) }, func() { d.SetPTR("192.0.2.1") }} {
			d.Fail(reverse, mtlstest.DNSRefused)
			set()
			lookUp(t, d, reverse, mtls.RecordPTR)
		}
	})
}

func TestDNSAuthenticates(t *testing.T) {
	t.Parallel()
	const name = "acme.example"
	d := mtlstest.NewDNS(t)
	require.False(t, lookUp(t, d, name, mtls.RecordA).Authenticated)
	d.Authenticate(name, true)
	denied := lookUp(t, d, name, mtls.RecordA)
	require.True(t, denied.Authenticated && denied.NXDomain)
	d.Set(name, "192.0.2.1")
	d.SetTXT(name, "text")
	d.Set("other.example", "192.0.2.1")
	for _, typ := range []mtls.RecordType{mtls.RecordA, mtls.RecordAAAA, mtls.RecordTXT, mtls.RecordPTR} {
		require.True(t, lookUp(t, d, name, typ).Authenticated)
		require.False(t, lookUp(t, d, "other.example", typ).Authenticated)
	}
	for _, tt := range []struct{ ad, do, want bool }{{false, false, false}, {true, false, true}, {false, true, true}} {
		q := new(dns.Msg).SetQuestion(name+".", dns.TypeA)
		q.AuthenticatedData = tt.ad
		q.SetEdns0(1232, tt.do)
		m, err := dns.Exchange(q, d.Addr().String())
		require.NoError(t, err)
		require.Equal(t, tt.want, m.AuthenticatedData, "who does not ask is not told (RFC 6840 section 5.7)")
	}
	q := new(dns.Msg).SetQuestion(name+".", dns.TypeA)
	q.AuthenticatedData = true
	d.Fail(name, mtlstest.DNSServFail)
	m, err := dns.Exchange(q, d.Addr().String())
	require.NoError(t, err)
	require.False(t, m.AuthenticatedData)
	d.Fail(name, mtlstest.DNSAnswers)
	d.Authenticate(name, false)
	require.False(t, lookUp(t, d, name, mtls.RecordA).Authenticated)
}
