package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// loopbackOrigin is an Origin for which loopback is welcome.
func loopbackOrigin(o mtls.Origin) *mtls.Origin {
	o.AllowNetworks = mtlstest.Loopback()
	return &o
}

// TestRealDNSRequiresDNSSEC: an answer counts if the whole of it is signed, a
// denial as well.
func TestRealDNSRequiresDNSSEC(t *testing.T) {
	t.Parallel()
	const both = `
api A 127.0.0.2
*.wild A 127.0.0.2
nodata TXT ""
host.new A 127.0.0.2
old DNAME new
`
	w := newDNSWorld(t, map[string]string{
		"acme.example":   both + "across CNAME api.globex.example.\nwithin CNAME api\n",
		"globex.example": both + "across CNAME api.acme.example.\n",
	})
	const noAD = "not authenticated"
	type row struct {
		name     string
		from     string
		want     mtls.Reason
		detail   string
		unsigned mtls.Reason // what the origin without RequireDNSSEC says
	}
	rows := []row{
		{"across.acme.example", ".2", unknown, noAD, ""},
		{"across.globex.example", ".2", unknown, noAD, ""},
		{"within.acme.example", ".2", "", "", ""},
	}
	for _, r := range []row{
		{"api", ".2", "", "", ""},
		{"api", ".3", mismatch, "[127.0.0.2]", mismatch},
		{"api", "::1", mismatch, "no AAAA record", mismatch},
		{"any.wild", ".2", "", "", ""},
		{"host.old", ".2", "", "", ""},
		{"absent", ".2", mismatch, "the name does not exist", mismatch},
		{"nodata", ".2", mismatch, "no A record", mismatch},
	} {
		signed, unsigned := r, r
		signed.name += ".acme.example"
		unsigned.name += ".globex.example"
		unsigned.want, unsigned.detail = unknown, noAD
		rows = append(rows, signed, unsigned)
	}
	var domains []string
	for _, r := range rows {
		domains = append(domains, r.name)
	}
	domains = sortedSet(domains)
	required := newOriginSite(t, w.resolve(), loopbackOrigin(mtls.Origin{RequireDNSSEC: true}), domains...)
	optional := newOriginSite(t, w.resolve(), nil, domains...)
	required.asks("api.acme.example", ".2", "", "")
	require.True(t, required.proofs()[0].Authenticated)
	for _, r := range rows {
		required.asks(r.name, r.from, r.want, r.detail)
		optional.asks(r.name, r.from, r.unsigned, "")
	}
	// A server that does not validate says the same without the bit.
	lame := newOriginSite(t, mtls.NewResolver(w.authority), loopbackOrigin(mtls.Origin{RequireDNSSEC: true}), "api.acme.example")
	lame.asks("api.acme.example", ".2", unknown, noAD)
	lame.asks("api.acme.example", ".3", unknown, noAD)
}

// TestRealDNSPublished: a record that a domain publishes in its zone, as knot and
// unbound bring it.
func TestRealDNSPublished(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ip4:192.0.2.128/25 ", 13) // nearly a string; six of them do not fit into a datagram
	w := newDNSWorld(t, map[string]string{
		"acme.example": fmt.Sprintf(`
_mtls-egress.prefix TXT "v=mtls1 ip4:127.0.0.2 ip6:::1"
_mtls-egress.joined TXT "v=mtls1 ip4:127.0.0" ".2 a:egress.acme.exam" "ple"
_mtls-egress.long TXT "v=mtls1 %s" "%s" "%s" "ip4:127.0.0.2"
_mtls-egress.long TXT "%s" "%[1]s" "%[1]s"
_mtls-egress.names TXT "v=mtls1 a:nothing.acme.example a:egress.acme.example a:egress.globex.example"
_mtls-egress.alias CNAME _mtls-egress.prefix
_mtls-egress.two TXT "v=mtls1 ip4:127.0.0.2"
_mtls-egress.two TXT "v=mtls1 ip4:127.0.0.3"
_mtls-egress.wide TXT "v=mtls1 ip4:127.0.0.0/8"
_mtls-egress.spf TXT "v=spf1 ip4:127.0.0.2 -all"
_mtls-egress.spf TXT "other"
none A 127.0.0.2
egress A 127.0.0.3
`, long[19:], long, long, long),
		"globex.example": "_mtls-egress.prefix TXT \"v=mtls1 ip4:127.0.0.2\"\negress A 127.0.0.4\n",
	})
	domains := []string{"none.acme.example", "prefix.globex.example"}
	for _, label := range []string{"prefix", "joined", "long", "names", "alias", "two", "wide", "spf"} {
		domains = append(domains, label+".acme.example")
	}
	s := newOriginSite(t, w.resolve(), loopbackOrigin(mtls.Origin{Published: true}), domains...)
	s.asks("prefix.acme.example", ".2", "", "")
	s.asks("prefix.acme.example", "::1", "", "")
	s.asks("prefix.acme.example", ".3", mismatch, "TXT records")
	s.asks("joined.acme.example", ".2", "", "")
	s.asks("joined.acme.example", ".3", "", "")
	before := w.count("num.query.tcp")
	s.asks("long.acme.example", ".2", "", "")
	require.Greater(t, w.count("num.query.tcp"), before)
	s.asks("names.acme.example", ".2", mismatch, "nothing.acme.example has no records: the name does not exist; egress.acme.example has A records [127.0.0.3]; egress.globex.example has A records [127.0.0.4]")
	s.asks("names.acme.example", ".3", "", "")
	s.asks("names.acme.example", ".4", "", "")
	s.asks("alias.acme.example", ".2", "", "")
	s.asks("two.acme.example", ".2", unknown, "2 v=mtls1 records")
	s.asks("wide.acme.example", ".2", unknown, "wider than /24")
	s.asks("spf.acme.example", ".2", mismatch, "no v=mtls1 record")
	s.asks("none.acme.example", ".2", mismatch, "no v=mtls1 record")
	s.asks("prefix.globex.example", ".2", "", "")

	// All that the match rests on is signed.
	s = newOriginSite(t, w.resolve(), loopbackOrigin(mtls.Origin{Published: true, RequireDNSSEC: true}), domains...)
	s.asks("prefix.acme.example", ".2", "", "")
	s.asks("names.acme.example", ".3", "", "")
	s.asks("names.acme.example", ".4", unknown, "not authenticated")
	s.asks("prefix.globex.example", ".2", unknown, "not authenticated")
	s.asks("none.acme.example", ".2", mismatch, "no v=mtls1 record")

	// The partner publishes another address.
	w.set("_mtls-egress.prefix.acme.example", "TXT", 300, `"v=mtls1 ip4:127.0.0.5/32"`)
	s.env.Clock.Advance(11 * time.Second)
	s.asks("prefix.acme.example", ".5", "", "")
	s.asks("prefix.acme.example", ".2", mismatch, "127.0.0.5/32")
	w.set("egress.acme.example", "A", 300, "127.0.0.6")
	s.env.Clock.Advance(11 * time.Second)
	s.asks("names.acme.example", ".6", "", "") // although what globex says is not signed
	s.asks("joined.acme.example", ".6", "", "")
	s.asks("joined.acme.example", ".3", mismatch, "egress.acme.example has A records [127.0.0.6]")
}

// TestRealDNSReverse: names of addresses, from a signed reverse zone, and the
// addresses of those names.
func TestRealDNSReverse(t *testing.T) {
	t.Parallel()
	pointers := `
2.0.0 PTR a.pool.acme.example.
4.0.0 PTR a.pool.acme.example.
5.0.0 CNAME 5.0/25.0.0
5.0/25.0.0 PTR five.pool.acme.example.
6.0.0 PTR a\000b.pool.acme.example.
6.0.0 PTR line\010feed.pool.acme.example.
6.0.0 PTR quote\"\;mark.pool.acme.example.
6.0.0 PTR *.pool.acme.example.
6.0.0 PTR dot\.six.pool.acme.example.
6.0.0 PTR six.pool.acme.example.
7.0.0 PTR seven.pool.acme.example\000.evil.example.
7.0.0 PTR sev\010en.pool.acme.example.
8.0.0 PTR eight.evilpool.acme.example.
8.0.0 PTR pool.acme.example.evil.example.
9.0.0 PTR gone.pool.acme.example.
11.0.0 PTR eleven.pool.globex.example.
13.0.0 PTR POOL.ACME.EXAMPLE.
14.0.0 PTR loop.pool.acme.example.
` + fmt.Sprintf("12.0.0 PTR %s.%s.%[1]s.pool.acme.example.\n", strings.Repeat("x", 63), strings.Repeat("y", 63))
	forward := `
a.pool A 127.0.0.2
pool A 127.0.0.13
five.pool A 127.0.0.5
*.pool A 127.0.0.7
six.pool A 127.0.0.6
\*.evil A 127.0.0.8
eight.evilpool A 127.0.0.8
loop.pool CNAME loop.pool
six6.pool AAAA ::1
twenty.pool A 127.0.0.20
`
	for i := range 300 {
		if i < 50 {
			pointers += fmt.Sprintf("20.0.0 PTR host%d.other.example.\n21.0.0 PTR host%[1]d.pool.acme.example.\n", i)
		}
		pointers += fmt.Sprintf("22.0.0 PTR host%d.pool.acme.example.\n", i)
	}
	pointers += "20.0.0 PTR twenty.pool.acme.example.\n"
	w := newDNSWorld(t, map[string]string{
		"127.in-addr.arpa": pointers, "acme.example": forward,
		"globex.example": "eleven.pool A 127.0.0.11\n",
		"evil.example":   "pool.acme.example A 127.0.0.8\n",
		"0.ip6.arpa":     strings.TrimSuffix(reverseOfLoopback6, ".0.ip6.arpa.") + " PTR six6.pool.acme.example.\n",
	})
	const domain = "api.acme.example"
	s := newOriginSite(t, w.resolve(), loopbackOrigin(mtls.Origin{ReverseSuffixes: []string{"pool.acme.example", "pool.globex.example"}}), domain)
	dnssec := newOriginSite(t, w.resolve(), loopbackOrigin(mtls.Origin{ReverseSuffixes: []string{"pool.acme.example", "pool.globex.example"}, RequireDNSSEC: true}), domain)
	for _, row := range []struct {
		from   string
		want   mtls.Reason
		detail string
	}{
		{from: ".2"},
		{from: ".3", want: mismatch, detail: "3.0.0.127.in-addr.arpa has no records: the name does not exist"},
		{from: ".4", want: mismatch, detail: "a.pool.acme.example has A records [127.0.0.2]"}, // whoever has the address says so
		{from: ".5"}, // delegated by RFC 2317
		{from: ".6"},
		{from: ".7", want: mismatch, detail: "7.0.0.127.in-addr.arpa has no PTR record"},
		{from: ".8", want: mismatch, detail: "eight.evilpool.acme.example"},
		{from: ".9", want: mismatch, detail: "gone.pool.acme.example has A records [127.0.0.7]"}, // of a wildcard
		{from: ".11"},
		{from: ".12", want: mismatch},
		{from: ".13"}, // the suffix itself, in capitals
		{from: ".14", want: unknown, detail: "loop.pool.acme.example: "},
		{from: ".20"},
		{from: ".21", want: mismatch, detail: "host0.pool.acme.example has A records [127.0.0.7]"},
		{from: ".22", want: unknown, detail: "more than 256"},
		{from: "::1"},
	} {
		before := w.count("total.num.queries")
		s.asks(domain, row.from, row.want, row.detail)
		require.LessOrEqual(t, w.count("total.num.queries")-before, 2*(1+5), "questions for %s", row.from) // one more each over TCP
		if row.from == ".11" {
			row.want, row.detail = unknown, "not authenticated"
		}
		dnssec.asks(domain, row.from, row.want, row.detail)
	}
	for _, proof := range s.proofs() {
		for _, r := range proof.Records {
			require.NotContains(t, r, "\n")
		}
	}

	// Reverse DNS that fails is not "no".
	w.path.meddle(func(q dns.Question, m *dns.Msg) bool {
		if strings.HasSuffix(q.Name, ".in-addr.arpa.") {
			m.Rcode, m.Answer, m.Ns = dns.RcodeServerFailure, nil, nil
		}
		return true
	})
	w.forget()
	s.asks(domain, ".33", unknown, "SERVFAIL")
	s.env.Clock.Advance(2 * time.Minute)
	s.asks(domain, ".2", "", "") // matched within the hour
	s.asks(domain, ".4", unknown, "SERVFAIL")
}

// TestRealDNSWindow: a pool of which each answer has a part.
func TestRealDNSWindow(t *testing.T) {
	t.Parallel()
	const domain, rare, plain = "pool.acme.example", "rare.acme.example", "plain.acme.example"
	w := newDNSWorld(t, map[string]string{"acme.example": "pool 0 A 127.0.0.2\nrare 900 A 127.0.0.2\nplain 0 A 127.0.0.2\n"})
	s := newOriginSite(t, w.resolve(), loopbackOrigin(mtls.Origin{Window: 10 * time.Minute}), domain, rare)
	without := newOriginSite(t, w.resolve(), nil, plain)
	s.asks(domain, ".2", "", "")
	without.asks(plain, ".2", "", "")
	for i := 3; i <= 40; i++ { // a rotation through forty addresses within ten minutes
		addr := fmt.Sprintf("127.0.0.%d", i)
		w.set(domain, "A", 0, addr)
		s.env.Clock.Advance(15 * time.Second)
		s.asks(domain, addr, "", "")
	}
	w.set(plain, "A", 0, "127.0.0.40")
	without.env.Clock.Advance(15 * time.Second)
	without.asks(plain, ".40", "", "")
	without.asks(plain, ".2", mismatch, "[127.0.0.40]")
	for _, from := range []string{".2", ".3", ".39", ".40"} {
		s.asks(domain, from, "", "")
	}
	s.asks(domain, ".41", mismatch, "[127.0.0.40]")
	s.env.Clock.Advance(time.Minute)
	s.asks(domain, ".2", mismatch, "[127.0.0.40]") // ten minutes after the answer that had it
	s.asks(domain, ".30", "", "")
	w.set(domain, "A", 0)
	s.env.Clock.Advance(time.Minute)
	s.asks(domain, ".30", mismatch, "the name does not exist") // no answer has an address: the pool has ended
	w.set(domain, "A", 0, "127.0.0.40")
	s.env.Clock.Advance(time.Minute)
	s.asks(domain, ".40", "", "")
	s.asks(domain, ".30", mismatch, "[127.0.0.40]")

	// The window ends also while the answer that counts lives.
	s.asks(rare, ".2", "", "")
	w.set(rare, "A", 900, "127.0.0.3")
	s.env.Clock.Advance(11 * time.Second)
	s.asks(rare, ".3", "", "")
	s.env.Clock.Advance(9*time.Minute + 48*time.Second)
	s.asks(rare, ".2", "", "")
	s.env.Clock.Advance(2 * time.Second)
	s.asks(rare, ".2", mismatch, "[127.0.0.3]")
	s.asks(rare, ".3", "", "")
}

// TestRealDNSOverTLS: unbound serves DNS over TLS, and the guard asks it in no
// other way.
func TestRealDNSOverTLS(t *testing.T) {
	t.Parallel()
	const domain, plain = "api.acme.example", "api.globex.example"
	w := newAuthority(t, map[string]string{"acme.example": "api A 127.0.0.2\n", "globex.example": "api A 127.0.0.2\n"})
	until := time.Now().Add(time.Hour)
	ca, err := testpki.NewRoot(testpki.Options{NotAfter: until})
	require.NoError(t, err)
	leaf, err := ca.Issue(testpki.Options{Names: []string{"dns.example"}, NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.NoError(t, err)
	cert, key := leaf.PEM()
	w.overTLS = netip.AddrPortFrom(w.resolver.Addr(), 5853)
	w.certificate = [2]string{w.write("tls.pem", string(cert)), w.write("tls-key.pem", string(key))}
	w.startUnbound()

	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	other, err := testpki.NewRoot(testpki.Options{NotAfter: until})
	require.NoError(t, err)
	otherRoots := x509.NewCertPool()
	otherRoots.AddCert(other.Certificate)
	site := func(o *mtls.Origin, servers ...mtls.DNSServer) *originSite {
		resolver, err := mtls.NewDNSResolver(servers...)
		require.NoError(t, err)
		return newOriginSite(t, resolver, o, domain, plain)
	}
	good := mtls.DNSServer{Addr: w.overTLS, TLS: &tls.Config{RootCAs: roots, ServerName: "dns.example"}, TrustAD: true}
	untrusted := good
	untrusted.TrustAD = false
	dnssec := loopbackOrigin(mtls.Origin{RequireDNSSEC: true})

	before := w.count("total.num.queries")
	s := site(dnssec, good)
	s.asks(domain, ".2", "", "")
	s.asks(domain, ".3", mismatch, "[127.0.0.2]")
	s.asks(plain, ".2", unknown, "not authenticated")
	site(dnssec, untrusted).asks(domain, ".2", unknown, "not authenticated")
	site(nil, untrusted).asks(domain, ".2", "", "")
	require.Equal(t, 4, w.count("num.query.tls"))
	require.Equal(t, before+4, w.count("total.num.queries"), "over TLS all")
	require.NotZero(t, w.count("num.query.tls.resume"), "the second question of one resolver resumes its session")

	for name, row := range map[string]struct {
		server mtls.DNSServer
		detail string
	}{
		"a certificate for another name": {mtls.DNSServer{Addr: w.overTLS, TLS: &tls.Config{RootCAs: roots, ServerName: "other.example"}, TrustAD: true}, "other.example"},
		"a certificate of another CA":    {mtls.DNSServer{Addr: w.overTLS, TLS: &tls.Config{RootCAs: otherRoots, ServerName: "dns.example"}, TrustAD: true}, "unknown authority"},
		"a port where TLS is not spoken": {mtls.DNSServer{Addr: w.resolver, TLS: good.TLS, TrustAD: true}, "DNS lookup"},
		"a port where nobody listens":    {mtls.DNSServer{Addr: netip.AddrPortFrom(w.resolver.Addr(), 5999), TLS: good.TLS, TrustAD: true}, "refused"},
	} {
		t.Log(name)
		before := w.count("total.num.queries")
		site(nil, row.server).asks(domain, ".2", unknown, row.detail)
		require.Equal(t, before, w.count("total.num.queries"), "%s: a question in another way", name)
	}

	// The second server is asked when the first cannot be.
	nobody := good
	nobody.Addr = netip.AddrPortFrom(w.resolver.Addr(), 5999)
	site(dnssec, nobody, good).asks(domain, ".2", "", "")
}

// TestRealDNSWarm: with Run the names of the policy are known before anybody
// comes, and no request waits for DNS.
func TestRealDNSWarm(t *testing.T) {
	t.Parallel()
	w := newDNSWorld(t, map[string]string{"acme.example": "api 600 A 127.0.0.2\nsix 600 AAAA ::1\n"})
	s := newOriginSite(t, w.resolve(), nil, "api.acme.example", "six.acme.example")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.guard.Run(ctx) }()
	w.unbound.until(t, "questions for the names of the policy", func() bool {
		return w.count("num.query.type.A") == 2 && w.count("num.query.type.AAAA") == 2
	})
	asked := w.count("total.num.queries")
	s.asks("api.acme.example", ".3", mismatch, "[127.0.0.2]") // when the answer is there
	s.asks("six.acme.example", ".3", mismatch, "no A record")
	if s.asks("api.acme.example", "::1", mismatch, "no AAAA record") {
		s.asks("six.acme.example", "::1", "", "")
	}
	require.Equal(t, asked, w.count("total.num.queries"), "no request asks")
	w.unbound.kill()
	s.asks("api.acme.example", ".2", "", "")
	require.True(t, s.proofs()[0].Cached)
	require.False(t, s.proofs()[0].Late)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}
