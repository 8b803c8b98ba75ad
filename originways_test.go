package mtls_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestOriginWays: published records and names of addresses, over real connections.
// What each way takes and refuses in detail is in internal/origin.
func TestOriginWays(t *testing.T) {
	t.Parallel()
	const domain, text = "acme.example", "_mtls-egress.acme.example"
	loop := mtlstest.Loopback()
	published := &mtls.Origin{Published: true, AllowNetworks: loop}
	reverse := &mtls.Origin{ReverseSuffixes: []string{"pool.acme.example"}, AllowNetworks: loop}
	for _, row := range []struct {
		name   string
		origin *mtls.Origin
		domain string // of rule and certificate; empty: acme.example
		dns    func(*mtlstest.DNS)
		from   string
		want   mtls.Reason
		proof  string // type and source of the last
	}{
		{name: "published prefix", origin: published, dns: func(d *mtlstest.DNS) { d.SetTXT(text, "v=mtls1 ip4:127.0.0.0/30") }, from: "127.0.0.2", proof: "TXT " + text},
		{name: "outside of it", origin: published, dns: func(d *mtlstest.DNS) { d.SetTXT(text, "v=mtls1 ip4:127.0.0.0/30") }, from: "127.0.0.5", want: mtls.ReasonOriginMismatch},
		{name: "published name", origin: published, dns: func(d *mtlstest.DNS) {
			d.SetTXT(text, "v=mtls1 a:out.acme.example")
			d.Set("out.acme.example", "127.0.0.3")
		}, from: "127.0.0.3", proof: "A out.acme.example"},
		{name: "an invalid record", origin: published, dns: func(d *mtlstest.DNS) { d.SetTXT(text, "v=mtls1 ip4:127.0.0.0/8") }, want: mtls.ReasonOriginUnknown},
		{name: "two records", origin: published, dns: func(d *mtlstest.DNS) { d.SetTXT(text, "v=mtls1 ip4:127.0.0.1", "v=mtls1") }, want: mtls.ReasonOriginUnknown},
		{name: "no record, but an address", origin: published, dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.1") }, want: mtls.ReasonOriginMismatch},
		{name: "a record that does not come", origin: published, dns: func(d *mtlstest.DNS) { d.Fail(text, mtlstest.DNSServFail) }, want: mtls.ReasonOriginUnknown},
		{name: "published for a wildcard", origin: published, domain: "*.acme.example", dns: func(d *mtlstest.DNS) { d.SetTXT(text, "v=mtls1 ip4:127.0.0.1") }, proof: "TXT " + text},
		{name: "reverse", origin: reverse, dns: func(d *mtlstest.DNS) {
			d.SetPTR("127.0.0.2", "other.example", "a.pool.acme.example")
			d.Set("a.pool.acme.example", "127.0.0.2")
		}, from: "127.0.0.2", proof: "A a.pool.acme.example"},
		{name: "reverse for a wildcard", origin: reverse, domain: "*.acme.example", dns: func(d *mtlstest.DNS) {
			d.SetPTR("127.0.0.1", "a.pool.acme.example")
			d.Set("a.pool.acme.example", "127.0.0.1")
		}, proof: "A a.pool.acme.example"},
		{name: "a stranger's address has the partner's name (CVE-2021-33195)", origin: reverse, dns: func(d *mtlstest.DNS) {
			d.SetPTR("127.0.0.2", "a.pool.acme.example", "b.pool.acme.example\n", `a.pool.acme.example\000.evil.example`)
			d.Set("a.pool.acme.example", "127.0.0.1")
		}, from: "127.0.0.2", want: mtls.ReasonOriginMismatch},
		{name: "no name", origin: reverse, dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.1") }, want: mtls.ReasonOriginMismatch},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			row.dns(env.DNS)
			name := row.domain
			if name == "" {
				name = domain
			}
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{name}, Origin: row.origin})
			seen := &observer{}
			cfg.Observe = seen.observe
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
			r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{name}}), mtlstest.ClientOptions{From: row.from}), s.URL)
			d := seen.last()
			require.Equal(t, row.want, d.Reason, d.Detail())
			if row.want != "" {
				require.Equal(t, row.want.Status(), r.Status)
				return
			}
			require.Equal(t, 200, r.Status)
			p := originStep(t, d).Proofs
			last := p[len(p)-1]
			require.Equal(t, row.proof, last.Type+" "+last.Source)
			require.Equal(t, "dns", last.Kind)
			require.Equal(t, "match", last.Status)
			require.NotEmpty(t, last.Records)
			require.Equal(t, time.Minute, last.TTL)
			require.False(t, last.Late)
		})
	}
}

func originStep(t testing.TB, d *mtls.Decision) mtls.Step {
	t.Helper()
	i := slices.IndexFunc(d.Steps, func(s mtls.Step) bool { return s.Name == "origin" })
	require.GreaterOrEqual(t, i, 0)
	return d.Steps[i]
}

// TestThreat69_DNSAloneAuthenticatesNobody: whoever can write the partner's DNS, or
// forge it, is still refused without the certificate, and with RequireDNSSEC also
// where a forged answer is not authenticated.
func TestThreat69_DNSAloneAuthenticatesNobody(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &mtls.Origin{
		Hosts: []string{"acme.example"}, RequireDNSSEC: true, AllowNetworks: mtlstest.Loopback()}})
	seen := &observer{}
	cfg.Observe = seen.observe
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	server := func(r mtls.Resolver) *mtlstest.Server {
		c := cfg
		c.Resolver = r
		return mtlstest.NewServer(t, mtlstest.NewGuard(t, c), hello)
	}
	s := server(env.DNS.Resolver())
	_, err := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"evil.example"}}), mtlstest.ClientOptions{}).Get(s.URL)
	require.Error(t, err)

	require.Equal(t, 503, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
	require.Equal(t, mtls.ReasonOriginUnknown, seen.last().Reason)
	require.Contains(t, seen.last().Detail(), "not authenticated")
	env.DNS.Authenticate("acme.example", true)
	s = server(env.DNS.Resolver())
	require.Equal(t, 200, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
	require.True(t, originStep(t, seen.last()).Proofs[0].Authenticated)

	// A resolver that is not declared trusted says the same.
	untrusted := fakeResolver(func(string, mtls.RecordType) (mtls.Answer, error) {
		return mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, TTL: time.Minute}, nil
	})
	s = server(untrusted)
	require.Equal(t, 503, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
}

// TestReportOnlyOrigin: it admits, and says each time what it would have refused.
func TestReportOnlyOrigin(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		dns    func(*mtlstest.DNS)
		own    []netip.Prefix
		detail string
	}{
		"mismatch": {dns: func(d *mtlstest.DNS) { d.Set("acme.example", "127.0.0.9") }, detail: "A records [127.0.0.9]"},
		"unknown":  {dns: func(d *mtlstest.DNS) { d.Fail("acme.example", mtlstest.DNSServFail) }, detail: "SERVFAIL"},
		"own":      {dns: func(*mtlstest.DNS) {}, own: prefixes("127.0.0.1/32"), detail: "of our own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			row.dns(env.DNS)
			origin := &mtls.Origin{Hosts: []string{"acme.example"}, ReportOnly: true, AllowNetworks: mtlstest.Loopback()}
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: origin})
			cfg.OwnNetworks = row.own
			var log bytes.Buffer
			cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			seen := &observer{}
			cfg.Observe = seen.observe
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
			client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
			require.Equal(t, 200, ask(t, client, s.URL).Status)
			d := seen.last()
			require.True(t, d.Admitted)
			require.True(t, d.Tolerated())
			require.Equal(t, mtls.OutcomeTolerated, originStep(t, d).Outcome)
			require.Contains(t, originStep(t, d).Detail, row.detail)
			require.LessOrEqual(t, d.Expires.Sub(d.Time), time.Minute)
			require.Contains(t, log.String(), "level=WARN")
			require.Contains(t, log.String(), row.detail)

			// It is the rule's: another one does not hide behind it.
			strict := *origin
			strict.ReportOnly = false
			require.NoError(t, cfg.Policy.Replace(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &strict}))
			require.NotEqual(t, 200, ask(t, client, s.URL).Status)
		})
	}
}

// TestNAT64: behind a translator of our own, a peer is the IPv4 address that it has.
func TestNAT64(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1", "64:ff9b::7f00:2")
	for _, row := range []struct {
		nat64  string
		peer   string
		status int
	}{
		{"64:ff9b::/96", "64:ff9b::127.0.0.1", 200},
		{"64:ff9b::/96", "::ffff:127.0.0.1", 200},
		{"64:ff9b::/96", "64:ff9b::127.0.0.2", 403}, // its own AAAA record does not help
		{"2a00:1450:64::/48", "2a00:1450:64:7f00:0:100::", 200},
		{"2a00:1450:64::/48", "2a00:1450:64:7f00:0:100::1", 503}, // no translator makes it
		{"", "64:ff9b::127.0.0.1", 403},
	} {
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		if row.nat64 != "" {
			cfg.NAT64 = prefixes(row.nat64)
		}
		g := mtlstest.NewGuard(t, cfg)
		peer := peerOf(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}))
		peer.RemoteAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(row.peer), 4711))
		_, err := g.Check(t.Context(), peer)
		status := 200
		var denied *mtls.DeniedError
		if errors.As(err, &denied) {
			status = denied.Reason.Status()
		}
		require.Equal(t, row.status, status, "%v: %v", row, err)
	}
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cfg.NAT64 = prefixes("64:ff9b::/95")
	_, err := mtls.New(cfg)
	require.ErrorContains(t, err, "Config.NAT64[0]")
}

// TestRunKeepsNamesWarm: once Run has looked at the policy, no request waits for
// DNS: it may be down.
func TestRunKeepsNamesWarm(t *testing.T) {
	var mu sync.Mutex
	var down bool
	asked := map[string]int{}
	resolver := fakeResolver(func(name string, rt mtls.RecordType) (mtls.Answer, error) {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return mtls.Answer{}, errors.New("server misbehaving")
		}
		asked[name]++
		a := mtls.Answer{TTL: 10 * time.Minute}
		switch {
		case rt == mtls.RecordTXT && name == "_mtls-egress.globex.example":
			a.Texts = []string{"v=mtls1 a:out.globex.example"}
		case rt == mtls.RecordA && !strings.HasPrefix(name, "_"):
			a.Addrs = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		}
		return a, nil
	})
	env := mtlstest.NewEnv(t)
	synctest.Test(t, func(t *testing.T) {
		loop := mtlstest.Loopback()
		cfg := env.Config(
			mtls.Rule{Name: "acme", Domains: []string{"acme.example"}},
			mtls.Rule{Name: "globex", Domains: []string{"globex.example"}, Origin: &mtls.Origin{Published: true, AllowNetworks: loop}},
			mtls.Rule{Name: "initech", Domains: []string{"initech.example"}, Origin: &mtls.Origin{Hosts: []string{"egress.example"}, AllowNetworks: loop}},
			mtls.Rule{Name: "left us", Deny: true, Domains: []string{"umbrella.example"}},
		)
		cfg.Resolver, cfg.Now, cfg.Revocation = resolver, time.Now, mtls.NoRevocation()
		g, err := mtls.New(cfg)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- g.Run(ctx) }()
		time.Sleep(time.Minute + time.Second) // Run comes round once more, for the names in records
		mu.Lock()
		for _, name := range []string{"acme.example", "_mtls-egress.globex.example", "out.globex.example", "egress.example"} {
			require.NotZero(t, asked[name], name)
		}
		require.Zero(t, asked["globex.example"], "a way that is not stated")
		require.Zero(t, asked["umbrella.example"], "nobody comes from there")
		before := asked["acme.example"]
		mu.Unlock()
		time.Sleep(time.Hour)
		mu.Lock()
		require.Greater(t, asked["acme.example"], before+10, "asked again before they lapse, though nobody uses them")
		mu.Unlock()
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// What a Resolver of the caller's own says is bounded and brought into form.
func TestForeignResolver(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	here := netip.MustParseAddr("::ffff:127.0.0.1")
	for name, row := range map[string]struct {
		answer mtls.Answer
		status int
	}{
		"mapped":                 {mtls.Answer{Addrs: []netip.Addr{here}}, 200},
		"unsorted":               {mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9"), here, netip.MustParseAddr("1.1.1.1")}}, 200},
		"the zero address":       {mtls.Answer{Addrs: make([]netip.Addr, 1)}, 403},
		"a name that is not":     {mtls.Answer{NXDomain: true, Addrs: []netip.Addr{here}}, 403},
		"more than can be":       {mtls.Answer{Addrs: slices.Repeat([]netip.Addr{here}, 257)}, 503},
		"records of other types": {mtls.Answer{Texts: []string{"127.0.0.1"}, Names: []string{"acme.example"}}, 403},
	} {
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		cfg.Resolver = fakeResolver(func(string, mtls.RecordType) (mtls.Answer, error) { return row.answer, nil })
		s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
		r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{}), s.URL)
		require.Equal(t, row.status, r.Status, name)
	}
	// Names of an address are compared in canonical form, and looked up only if
	// they are host names.
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &mtls.Origin{ReverseSuffixes: []string{"acme.example"}, AllowNetworks: mtlstest.Loopback()}})
	var mu sync.Mutex
	var asked []string
	cfg.Resolver = fakeResolver(func(name string, rt mtls.RecordType) (mtls.Answer, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, name)
		if rt == mtls.RecordPTR {
			return mtls.Answer{Names: []string{"*.acme.example", "a\n.acme.example", "a\x00.acme.example", "127.0.0.1", "", "GOOD.Acme.Example"}}, nil
		}
		return mtls.Answer{Addrs: []netip.Addr{here}}, nil
	})
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{}), s.URL)
	require.Equal(t, 200, r.Status)
	require.Equal(t, []string{"1.0.0.127.in-addr.arpa", "good.acme.example"}, asked)
}

// Whoever holds an address writes its names, which are kept for each address that
// matched: so many that they would fill the memory say nothing.
func TestNamesOfAnAddressAreBounded(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	for n, status := range map[int]int{60: 200, 70: 503} {
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &mtls.Origin{ReverseSuffixes: []string{"acme.example"}, AllowNetworks: mtlstest.Loopback()}})
		cfg.Resolver = fakeResolver(func(_ string, rt mtls.RecordType) (mtls.Answer, error) {
			if rt == mtls.RecordPTR {
				return mtls.Answer{Names: append([]string{"good.acme.example"}, slices.Repeat([]string{strings.Repeat("a.", 27) + "example"}, n)...)}, nil
			}
			return mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, nil
		})
		s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
		r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{}), s.URL)
		require.Equal(t, status, r.Status, n)
	}
}
