package mtls_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	loop := mtlstest.Loopback()
	const domain = "acme.example"
	for _, row := range []struct {
		name   string
		origin *mtls.Origin // of the rule
		config *mtls.Origin // nil: loopback allowed
		own    []netip.Prefix
		dns    func(*mtlstest.DNS)
		from   string
		want   mtls.Reason
		detail string
	}{
		{name: "the domain's address", dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.1") }},
		{name: "one of several", dns: func(d *mtlstest.DNS) { d.Set(domain, "203.0.113.1", "127.0.0.1") }},
		{name: "another address", dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.1") }, from: "127.0.0.2",
			want: mtls.ReasonOriginMismatch, detail: "comes from 127.0.0.2; acme.example has A records [127.0.0.1]"},
		{name: "the name does not exist", want: mtls.ReasonOriginMismatch, detail: "does not exist"},
		{name: "no address record", dns: func(d *mtlstest.DNS) { d.Set(domain) }, want: mtls.ReasonOriginMismatch, detail: "no A record"},
		{name: "only the other family", dns: func(d *mtlstest.DNS) { d.Set(domain, "::1") }, want: mtls.ReasonOriginMismatch, detail: "no A record"},
		{name: "a v4-mapped AAAA record is none", dns: func(d *mtlstest.DNS) { d.Set(domain, "::ffff:127.0.0.1") }, want: mtls.ReasonOriginMismatch},
		{name: "SERVFAIL", dns: func(d *mtlstest.DNS) { d.Fail(domain, mtlstest.DNSServFail) }, want: mtls.ReasonOriginUnknown},
		{name: "REFUSED", dns: func(d *mtlstest.DNS) { d.Fail(domain, mtlstest.DNSRefused) }, want: mtls.ReasonOriginUnknown},
		{name: "bogus", dns: func(d *mtlstest.DNS) { d.Fail(domain, mtlstest.DNSBogus) }, want: mtls.ReasonOriginUnknown},
		{name: "special-use peer that is not allowed", config: &mtls.Origin{}, dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.1") },
			want: mtls.ReasonOriginMismatch, detail: "AllowNetworks"},
		{name: "prefix", origin: &mtls.Origin{Prefixes: prefixes("127.0.0.0/30")}},
		{name: "prefix, mapped form", origin: &mtls.Origin{Prefixes: prefixes("::ffff:127.0.0.0/126")}},
		{name: "outside the prefix", origin: &mtls.Origin{Prefixes: prefixes("127.0.0.2/32")}, dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.1") },
			want: mtls.ReasonOriginMismatch, detail: "none of the prefixes"},
		{name: "hosts instead of the domain", origin: &mtls.Origin{Hosts: []string{"egress.example"}, AllowNetworks: loop},
			dns: func(d *mtlstest.DNS) { d.Set("egress.example", "127.0.0.1"); d.Set(domain, "203.0.113.1") }},
		{name: "a stated origin replaces the domain", origin: &mtls.Origin{Hosts: []string{"egress.example"}, AllowNetworks: loop},
			dns: func(d *mtlstest.DNS) { d.Set("egress.example", "203.0.113.1"); d.Set(domain, "127.0.0.1") }, want: mtls.ReasonOriginMismatch},
		{name: "second host matches, first is down", origin: &mtls.Origin{Hosts: []string{"a.example", "b.example"}, AllowNetworks: loop},
			dns: func(d *mtlstest.DNS) { d.Fail("a.example", mtlstest.DNSServFail); d.Set("b.example", "127.0.0.1") }},
		{name: "one host says no, the other nothing: unknown", origin: &mtls.Origin{Hosts: []string{"a.example", "b.example"}, AllowNetworks: loop},
			dns: func(d *mtlstest.DNS) { d.Fail("a.example", mtlstest.DNSServFail); d.Set("b.example", "127.0.0.3") }, want: mtls.ReasonOriginUnknown},
		{name: "prefix or host", origin: &mtls.Origin{Prefixes: prefixes("203.0.113.0/24"), Hosts: []string{"b.example"}, AllowNetworks: loop},
			dns: func(d *mtlstest.DNS) { d.Set("b.example", "127.0.0.1") }},
		{name: "NoOrigin", origin: mtls.NoOrigin(), from: "127.0.0.9"},
		{name: "NoOrigin for all", config: mtls.NoOrigin(), from: "127.0.0.9"},
		{name: "own network", own: prefixes("127.0.0.0/24"), origin: &mtls.Origin{Prefixes: prefixes("127.0.0.0/8")},
			want: mtls.ReasonOriginMismatch, detail: "of our own"},
		{name: "DNS names an own address only", own: prefixes("127.0.0.2/32"), dns: func(d *mtlstest.DNS) { d.Set(domain, "127.0.0.2") }, from: "127.0.0.2",
			want: mtls.ReasonOriginMismatch, detail: "of our own"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			if row.dns != nil {
				row.dns(env.DNS)
			}
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{domain}, Origin: row.origin})
			if row.config != nil {
				cfg.Origin = row.config
			}
			cfg.OwnNetworks = row.own
			seen := &observer{}
			cfg.Observe = seen.observe
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
			cert := env.CA.Issue(mtlstest.Leaf{Names: []string{domain}})
			r := ask(t, s.Client(cert, mtlstest.ClientOptions{From: row.from}), s.URL)
			d := seen.last()
			require.Equal(t, row.want, d.Reason, d.Detail())
			require.Contains(t, d.Detail(), row.detail)
			if row.want == "" {
				require.Equal(t, 200, r.Status)
			} else {
				require.Equal(t, row.want.Status(), r.Status)
			}
		})
	}
}

func TestOriginIsNotKnownWithoutConnContext(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	seen := &observer{}
	cfg.Observe = seen.observe
	g := mtlstest.NewGuard(t, cfg)
	server := g.Server("", hello)
	server.ConnContext = nil
	s := mtlstest.Serve(t, server)
	r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{}), s.URL)
	require.Equal(t, 503, r.Status)
	require.Equal(t, mtls.ReasonOriginUnknown, seen.last().Reason)
	require.Contains(t, seen.last().Detail(), "ConnContext: guard.ConnContext")
}

// fakeResolver answers from a function.
type fakeResolver func(name string, t mtls.RecordType) (mtls.Answer, error)

func (f fakeResolver) Lookup(_ context.Context, name string, t mtls.RecordType) (mtls.Answer, error) {
	return f(name, t)
}

// TestStaleOrigin: when DNS fails, only what matched freshly within the hour
// still matches, for the same rule, name and address; never after a definite
// answer or a bogus one.
func TestStaleOrigin(t *testing.T) {
	t.Parallel()
	down := errors.New("server misbehaving")
	for _, row := range []struct {
		name   string
		before func(*staleWorld) // after a fresh match at minute 0
		after  time.Duration
		from   string
		want   int
	}{
		{name: "fresh within the hour", after: 30 * time.Minute, want: 200},
		{name: "after the hour", after: 61 * time.Minute, want: 503},
		{name: "another address", after: 30 * time.Minute, from: "127.0.0.2", want: 503},
		{name: "after NXDOMAIN", before: func(w *staleWorld) { w.answer(mtls.Answer{NXDomain: true}, nil) }, after: 30 * time.Minute, want: 503},
		{name: "after NODATA", before: func(w *staleWorld) { w.answer(mtls.Answer{}, nil) }, after: 30 * time.Minute, want: 503},
		{name: "after another address", before: func(w *staleWorld) {
			w.answer(mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.3")}}, nil)
		}, after: 30 * time.Minute, want: 503},
		{name: "after bogus", before: func(w *staleWorld) { w.answer(mtls.Answer{}, mtls.ErrBogus) }, after: 30 * time.Minute, want: 503},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			w := &staleWorld{t: t, env: env}
			good := mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, TTL: time.Minute}
			w.reply, w.err = good, nil
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
			cfg.Resolver = fakeResolver(func(string, mtls.RecordType) (mtls.Answer, error) { return w.reply, w.err })
			g := mtlstest.NewGuard(t, cfg)
			w.server = mtlstest.NewServer(t, g, hello)
			w.cert = env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
			require.Equal(t, 200, w.ask("").Status)
			if row.before != nil {
				env.Clock.Advance(2 * time.Minute)
				row.before(w)
				require.NotEqual(t, 200, w.ask("").Status)
			}
			env.Clock.Advance(row.after)
			w.reply, w.err = mtls.Answer{}, down
			require.Equal(t, row.want, w.ask(row.from).Status)
		})
	}
}

type staleWorld struct {
	t      *testing.T
	env    *mtlstest.Env
	server *mtlstest.Server
	cert   *mtlstest.Certificate
	reply  mtls.Answer
	err    error
}

func (w *staleWorld) answer(a mtls.Answer, err error) { w.reply, w.err = a, err }

func (w *staleWorld) ask(from string) reply {
	return ask(w.t, w.server.Client(w.cert, mtlstest.ClientOptions{From: from}), w.server.URL)
}

// TestOriginOfAMovedPartner: a partner who has just moved is admitted from the
// new address without a wait for the TTL, and refused from the old one once the
// TTL is over.
func TestOriginOfAMovedPartner(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 10*time.Minute, "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	s := mtlstest.NewServer(t, g, hello)
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	from := func(a string) int {
		return ask(t, s.Client(cert, mtlstest.ClientOptions{From: a}), s.URL).Status
	}
	require.Equal(t, 200, from("127.0.0.1"))
	env.DNS.SetTTL("acme.example", 10*time.Minute, "127.0.0.2")
	env.Clock.Advance(11 * time.Second)
	require.Equal(t, 200, from("127.0.0.2"), "a mismatch asks once more")
	require.Equal(t, 403, from("127.0.0.1"), "the newer answer ends verdicts that rest on the older one")
}

func TestPeerAddressThatIsNone(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	for name, row := range map[string]struct {
		addr net.Addr
		want mtls.Reason
	}{
		"TCP":           {&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, ""},
		"mapped TCP":    {&net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1"), Port: 1}, ""},
		"nil":           {nil, mtls.ReasonOriginUnknown},
		"Unix":          {&net.UnixAddr{Name: "/run/x", Net: "unix"}, mtls.ReasonOriginUnknown},
		"another":       {&net.TCPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 1}, mtls.ReasonOriginMismatch},
		"v6 of another": {&net.TCPAddr{IP: net.IPv6loopback, Port: 1}, mtls.ReasonOriginMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			p := peerOf(cert)
			p.RemoteAddr = row.addr
			d, err := g.Check(t.Context(), p)
			require.Equal(t, row.want, d.Reason, d.Detail())
			require.Equal(t, row.want == "", err == nil)
		})
	}
	p := peerOf(cert)
	p.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}
	p.TLS.HandshakeComplete = false
	_, err := g.Check(t.Context(), p)
	require.Error(t, err, "a handshake that is not complete proves nothing")
}

// TestOwnPublicAddressNeverMatches: a connection from the address on which the
// server accepted it comes from ourselves.
func TestOwnPublicAddressNeverMatches(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "8.8.4.4")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	p := peerOf(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}))
	p.RemoteAddr = &net.TCPAddr{IP: net.ParseIP("8.8.4.4"), Port: 1}
	d, err := g.Check(t.Context(), p)
	require.NoError(t, err, d.Detail())
	p.LocalAddr = p.RemoteAddr
	d, err = g.Check(t.Context(), p)
	require.Error(t, err)
	require.Equal(t, mtls.ReasonOriginMismatch, d.Reason)
}
