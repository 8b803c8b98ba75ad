package mtls_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// wkFrom is a peer with the certificate at an address.
func wkFrom(c *mtlstest.Certificate, ip string) mtls.Peer {
	p := peerOf(c)
	p.RemoteAddr = &net.TCPAddr{IP: net.ParseIP(ip), Port: 40000}
	return p
}

// wkResolver knows one address. Once it is slow, a lookup is announced on asked
// and waits for an address on answers.
type wkResolver struct {
	addr    string
	slow    bool
	asked   chan struct{}
	answers chan string
}

func wkNewResolver(addr string) *wkResolver {
	return &wkResolver{addr: addr, asked: make(chan struct{}, 10), answers: make(chan string)}
}

func (r *wkResolver) Lookup(ctx context.Context, _ string, _ mtls.RecordType) (mtls.Answer, error) {
	addr := r.addr
	if r.slow {
		r.asked <- struct{}{}
		select {
		case addr = <-r.answers:
		case <-ctx.Done():
			return mtls.Answer{}, ctx.Err()
		}
	}
	return mtls.Answer{Addrs: []netip.Addr{netip.MustParseAddr(addr)}, TTL: time.Minute}, nil
}

// A client that cancels its request does not make DNS fail: what it matched
// earlier stays unused, for this request and for the next.
func TestCancelledRequestIsNoFailureOfDNS(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	dns := wkNewResolver("127.0.0.1")
	cfg.Resolver = dns
	g := mtlstest.NewGuard(t, cfg)
	p := wkFrom(env.CA.Issue(pcNames("acme.example")), "127.0.0.1")
	_, err := g.Check(t.Context(), p)
	require.NoError(t, err)

	dns.slow = true
	env.Clock.Advance(20 * time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		d, err := g.Check(ctx, p)
		require.Error(t, err)
		require.Equal(t, mtls.ReasonOriginUnknown, d.Reason, d.Detail())
	}
	deadline, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0)) // the caller's time, not Limits.Wait
	defer cancel()
	d, err := g.Check(deadline, p)
	require.Error(t, err)
	require.Equal(t, mtls.ReasonOriginUnknown, d.Reason, d.Detail())

	<-dns.asked
	dns.answers <- "127.0.0.9" // the lookup went on; the domain has moved
	d, err = g.Check(t.Context(), p)
	require.Error(t, err)
	require.Equal(t, mtls.ReasonOriginMismatch, d.Reason, d.Detail())
}

// A resolver that is silent for all of Limits.Wait has failed, though: that is
// the partner's outage, not the client's choice.
func TestSilentResolverIsAFailureOfDNS(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cfg.Limits.Wait = 20 * time.Millisecond
	dns := wkNewResolver("127.0.0.1")
	cfg.Resolver = dns
	g := mtlstest.NewGuard(t, cfg)
	p := wkFrom(env.CA.Issue(pcNames("acme.example")), "127.0.0.1")
	require.Eventually(t, func() bool { // the first needs evidence within the short wait
		_, err := g.Check(t.Context(), p)
		return err == nil
	}, time.Minute, time.Millisecond)
	dns.slow = true
	env.Clock.Advance(20 * time.Minute)
	d, err := g.Check(t.Context(), p)
	require.NoError(t, err, d.Detail())
	dns.answers <- "127.0.0.1" // nobody is left waiting
}

// The same over HTTP/2, where a client cancels with RST_STREAM: the handler is
// not reached.
func TestCancelledStreamDoesNotReachTheHandler(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	dns := wkNewResolver("127.0.0.1")
	cfg.Resolver = dns
	decisions := make(chan *mtls.Decision, 10)
	cfg.Observe = func(_ context.Context, d *mtls.Decision) { decisions <- d }
	reached := make(chan string, 10)
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.Method }))
	c := s.Client(env.CA.Issue(pcNames("acme.example")), mtlstest.ClientOptions{})
	r := ask(t, c, s.URL)
	require.Equal(t, 200, r.Status)
	require.Equal(t, "HTTP/2.0", r.Proto)
	require.True(t, (<-decisions).Admitted)
	require.Equal(t, "GET", <-reached)

	dns.slow = true
	env.Clock.Advance(20 * time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-dns.asked
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("pay"))
	require.NoError(t, err)
	_, err = c.Do(req)
	require.ErrorIs(t, err, context.Canceled)
	d := <-decisions
	require.False(t, d.Admitted)
	require.Equal(t, mtls.ReasonOriginUnknown, d.Reason, d.Detail())

	dns.answers <- "127.0.0.9"
	r = ask(t, c, s.URL)
	require.Equal(t, 403, r.Status)
	require.Equal(t, "origin_mismatch", r.Code)
	require.Empty(t, reached)
}

// What DNS said to anybody ends the use of an older match when DNS fails later.
func TestDisownedOriginIsNotUsedWhenDNSFails(t *testing.T) {
	t.Parallel()
	const name = "acme.example"
	moved := func(e *mtlstest.Env) { e.DNS.Set(name, "127.0.0.9") }
	bogus := func(e *mtlstest.Env) { e.DNS.Fail(name, mtlstest.DNSBogus) }
	for _, c := range []struct {
		name   string
		change func(*mtlstest.Env)
		after  time.Duration // 2 min: the answer has lapsed; 20 s: it is asked for again because of the other peer
		want   mtls.Reason
	}{
		{"moved", moved, 2 * time.Minute, mtls.ReasonOriginUnknown},
		{"moved, while the answer lives", moved, 20 * time.Second, mtls.ReasonOriginUnknown},
		{"NXDOMAIN", func(e *mtlstest.Env) { e.DNS.Remove(name) }, 2 * time.Minute, mtls.ReasonOriginUnknown},
		{"NXDOMAIN, while the answer lives", func(e *mtlstest.Env) { e.DNS.Remove(name) }, 20 * time.Second, mtls.ReasonOriginUnknown},
		{"no addresses", func(e *mtlstest.Env) { e.DNS.Set(name) }, 2 * time.Minute, mtls.ReasonOriginUnknown},
		{"bogus", bogus, 2 * time.Minute, mtls.ReasonOriginUnknown},
		{"bogus, while the answer lives", bogus, 20 * time.Second, mtls.ReasonOriginUnknown},
		{"an address more", func(e *mtlstest.Env) { e.DNS.Set(name, "127.0.0.1", "127.0.0.9") }, 2 * time.Minute, mtls.ReasonOriginUnknown},
		{"confirmed", func(*mtlstest.Env) {}, 2 * time.Minute, ""},
		{"failed", func(e *mtlstest.Env) { e.DNS.Fail(name, mtlstest.DNSServFail) }, 2 * time.Minute, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			env.DNS.Set(name, "127.0.0.1")
			g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{name}})
			cert := env.CA.Issue(pcNames(name))
			_, err := g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
			require.NoError(t, err)
			env.Clock.Advance(c.after)
			c.change(env)
			before := env.DNS.Queries(name)
			_, _ = g.Check(t.Context(), wkFrom(cert, "127.0.0.9"))
			require.Greater(t, env.DNS.Queries(name), before, "the other peer has DNS asked")
			env.Clock.Advance(3 * time.Minute)
			env.DNS.Fail(name, mtlstest.DNSServFail)
			d, err := g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
			require.Equal(t, c.want == "", err == nil, d.Detail())
			require.Equal(t, c.want, d.Reason)

			// A match that DNS confirms counts again.
			env.Clock.Advance(time.Minute)
			env.DNS.Set(name, "127.0.0.1")
			env.DNS.Fail(name, mtlstest.DNSAnswers)
			d, err = g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
			require.NoError(t, err, d.Detail())
			env.Clock.Advance(2 * time.Minute)
			env.DNS.Fail(name, mtlstest.DNSServFail)
			d, err = g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
			require.NoError(t, err, d.Detail())
		})
	}
}

// An answer that DNS gives again ends the admission that stood in for it.
func TestAnswerEndsAdmissionsOnAnOlderMatch(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cert := env.CA.Issue(pcNames("acme.example"))
	say := func(from string) string {
		d, err := g.Check(t.Context(), wkFrom(cert, from))
		if err == nil {
			return "admitted"
		}
		return string(d.Reason)
	}
	require.Equal(t, "admitted", say("127.0.0.1"))
	env.Clock.Advance(2 * time.Minute)
	env.DNS.Fail("acme.example", mtlstest.DNSServFail)
	require.Equal(t, "admitted", say("127.0.0.1"))
	env.Clock.Advance(2 * time.Second) // the backoff is over, the admission is not
	require.Equal(t, "admitted", say("127.0.0.1"))
	env.DNS.Fail("acme.example", mtlstest.DNSAnswers)
	env.DNS.Set("acme.example", "127.0.0.9")
	require.Equal(t, "admitted", say("127.0.0.9"))
	require.Equal(t, "origin_mismatch", say("127.0.0.1"))
}

// A prefix that means every address must be written NoOrigin, in any notation.
func TestPrefixOfEverythingIsRefusedInAnyNotation(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{
		"0.0.0.0/0": false, "::/0": false, "::ffff:0:0/96": false, "::ffff:0.0.0.0/96": false, "::ffff:1.2.3.4/96": false, "::ffff:0:0/95": false, "::ffff:0:0/1": false,
		"10.0.0.0/8": true, "::ffff:10.0.0.0/104": true, "2001:db8::/32": true,
	} {
		prefix := &mtls.Origin{Prefixes: []netip.Prefix{netip.MustParsePrefix(text)}}
		_, err := mtls.NewPolicy(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: prefix})
		require.Equal(t, good, err == nil, "in a rule: %s: %v", text, err)
		cfg := mtlstest.NewEnv(t).Config(mtls.Rule{Name: "r", Domains: []string{"a.example"}})
		cfg.Origin = prefix
		_, err = mtls.New(cfg)
		require.Equal(t, good, err == nil, "in Config: %s: %v", text, err)
	}
}
