package mtls_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// A validation failure ends the admission that an earlier match stands in for, on a
// connection that is open as well.
func TestBogusAnswerEndsAdmissionsOnAnOlderMatch(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cert := env.CA.Issue(pcNames("acme.example"))
	_, err := g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
	require.NoError(t, err)
	env.Clock.Advance(2 * time.Minute)
	env.DNS.Fail("acme.example", mtlstest.DNSServFail)
	d, err := g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
	require.NoError(t, err, d.Detail())
	env.Clock.Advance(2 * time.Second)
	env.DNS.Fail("acme.example", mtlstest.DNSBogus)
	_, err = g.Check(t.Context(), wkFrom(cert, "127.0.0.9"))
	require.Error(t, err) // the other peer has DNS asked, which says that it is forged
	d, err = g.Check(t.Context(), wkFrom(cert, "127.0.0.1"))
	require.Error(t, err, d.Detail())
}

// A policy that replaces the suffix of a rule leaves nothing of the old one.
func TestReplacedReverseSuffixVouchesForNobody(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetPTR("127.0.0.2", "a.old.example")
	env.DNS.Set("a.old.example", "127.0.0.2")
	rule := func(suffix string) mtls.Rule {
		return mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &mtls.Origin{
			ReverseSuffixes: []string{suffix}, AllowNetworks: mtlstest.Loopback()}}
	}
	cfg := env.Config(rule("old.example"))
	g := mtlstest.NewGuard(t, cfg)
	p := wkFrom(env.CA.Issue(pcNames("acme.example")), "127.0.0.2")
	_, err := g.Check(t.Context(), p)
	require.NoError(t, err)
	require.NoError(t, cfg.Policy.Replace(rule("new.example")))
	d, err := g.Check(t.Context(), p)
	require.Error(t, err, d.Detail())
	env.Clock.Advance(20 * time.Minute)
	env.DNS.Fail("2.0.0.127.in-addr.arpa", mtlstest.DNSServFail) // its holder's doing
	d, err = g.Check(t.Context(), p)
	require.Error(t, err, d.Detail())
}

// docs/origin.md: "for *.globex.example the one at _mtls-egress.globex.example".
func TestPublishedOfAWildcardRule(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTXT("_mtls-egress.globex.example", "v=mtls1 ip4:127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "globex", Domains: []string{"globex.example", "*.globex.example"}, Origin: &mtls.Origin{Published: true, AllowNetworks: mtlstest.Loopback()}})
	for _, name := range []string{"globex.example", "*.globex.example", "api.globex.example"} {
		d, err := g.Check(t.Context(), wkFrom(env.CA.Issue(pcNames(name)), "127.0.0.1"))
		require.NoError(t, err, "%s: %s", name, d.Detail())
	}
}

// ReportOnly of one rule's Origin admits nobody by another's.
func TestReportOnlyOfAnOriginDoesNotReachAnotherRule(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.9")
	env.DNS.Set("globex.example", "127.0.0.9")
	loop := mtlstest.Loopback()
	g := env.Guard(
		mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &mtls.Origin{Hosts: []string{"acme.example"}, ReportOnly: true, AllowNetworks: loop}},
		mtls.Rule{Name: "globex", Domains: []string{"globex.example"}, Origin: &mtls.Origin{Hosts: []string{"acme.example"}, AllowNetworks: loop}},
	)
	_, err := g.Check(t.Context(), wkFrom(env.CA.Issue(pcNames("acme.example")), "127.0.0.1"))
	require.NoError(t, err)
	_, err = g.Check(t.Context(), wkFrom(env.CA.Issue(pcNames("globex.example")), "127.0.0.1"))
	require.Error(t, err)
	_, err = g.Check(t.Context(), wkFrom(env.CA.Issue(pcNames("acme.example", "globex.example")), "127.0.0.1"))
	require.NoError(t, err)
}
