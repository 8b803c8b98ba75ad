package mtls_test

import (
	"crypto/x509"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestNameThatMatchesIsTheOneThatCounts: a rule that is found by one of its
// domains does not take another, nearly matching name for the identity's.
func TestNameThatMatchesIsTheOneThatCounts(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		rule  []string
		names []string
		want  string
	}{
		{"two labels below a wildcard", []string{"*.acme.example", "z.example"}, []string{"a.b.acme.example", "z.example"}, "z.example"},
		{"the wildcard's base", []string{"*.acme.example", "z.example"}, []string{"acme.example", "z.example"}, "z.example"},
		{"a wildcard certificate over an exact name", []string{"api.acme.example", "z.example"}, []string{"*.acme.example", "z.example"}, "z.example"},
		{"one label below", []string{"*.acme.example", "z.example"}, []string{"z.example", "a.acme.example"}, "a.acme.example"},
		{"the same wildcard", []string{"*.acme.example", "z.example"}, []string{"z.example", "*.acme.example"}, "*.acme.example"},
	} {
		t.Run(row.name, func(t *testing.T) {
			env := mtlstest.NewEnv(t)
			g := env.Guard(mtls.Rule{Name: "r", Domains: row.rule, Origin: mtls.NoOrigin()})
			p := peerOf(env.CA.Issue(mtlstest.Leaf{Names: row.names}))
			p.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
			d, err := g.Check(t.Context(), p)
			require.NoError(t, err)
			require.Equal(t, row.want, d.Identity.Domain())
		})
	}
}

// TestKeyFoundCompromisedInALaterChain: the first chain is good in itself, and the
// second shows that the key both share is in other hands.
func TestKeyFoundCompromisedInALaterChain(t *testing.T) {
	t.Parallel()
	for _, aFirst := range []bool{true, false} {
		x := pcNewCross(t)
		x.b.Revocation = nil
		x.env.Revocation.RevokeCA(x.viaA, 1)
		list := []mtls.Authority{x.b, x.a}
		if aFirst {
			list = []mtls.Authority{x.a, x.b}
		}
		g := x.guard(t, list...)
		require.Equal(t, "revoked r", pcSay(pcDecide(t, g, x.chain(x.viaA, x.viaB)...)))
		require.Equal(t, "revoked r", pcSay(pcDecide(t, g, x.chain(x.viaB)...)))
	}
}

// TestKeyFoundCompromisedEndsVerdicts: what one connection brings to light about
// a CA's key ends what another was admitted for.
func TestKeyFoundCompromisedEndsVerdicts(t *testing.T) {
	t.Parallel()
	x := pcNewCross(t)
	x.b.Revocation = nil
	x.env.Revocation.RevokeCA(x.viaA, 1)
	g := x.guard(t, x.a, x.b)
	first := x.chain(x.viaB)
	require.Equal(t, "r r acme.example", pcSay(pcDecide(t, g, first...)), "nobody knows yet")
	x.client = x.viaA.Issue(pcNames("acme.example"))
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, x.chain(x.viaA)...)))
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, first...)), "the first client's verdict has ended")
}

// TestOneAnchorInTwoAuthorities: the stricter setting holds for a CA that is an
// anchor of both, although the client's certificate fits only the other.
func TestOneAnchorInTwoAuthorities(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	strict, public := env.CA.Authority("strict"), env.CA.Authority("public")
	strict.Domains = []string{"acme.example"}
	public.Public, public.Purpose, public.Revocation = true, mtls.ClientOrServerAuth, mtls.NoRevocation()
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()})
	cfg.Roots = pcRoots(t, public, strict)
	g := mtlstest.NewGuard(t, cfg)
	leaf := mtlstest.Leaf{Names: []string{"acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	require.Equal(t, "r r acme.example", pcSay(pcDecide(t, g, env.CA.Issue(leaf).Leaf())))
	revoked := env.CA.Issue(leaf)
	env.Revocation.Revoke(revoked, 1)
	require.NoError(t, g.Refresh(t.Context()))
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, revoked.Leaf())))
}
