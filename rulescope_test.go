package mtls_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// An authority that may speak for globex.example names nobody of acme.example under a
// rule of several authorities, in whatever type of name.
func TestScopeOfHostsAndRealms(t *testing.T) {
	t.Parallel()
	a, b := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	acme, globex := a.Authority("acme"), b.Authority("globex")
	acme.Domains, globex.Domains = []string{"acme.example", "bücher.example"}, []string{"globex.example"}
	roots := pcRoots(t, acme, globex)
	for name, row := range map[string]struct {
		rule mtls.Rule
		san  sanName
		both bool
	}{
		"dNSName":             {mtls.Rule{Domains: []string{"x.acme.example"}}, sanDNS("x.acme.example"), false},
		"e-mail":              {mtls.Rule{Emails: []string{"*@acme.example"}}, sanEmail("ann@acme.example"), false},
		"e-mail below":        {mtls.Rule{Emails: []string{"ann@mail.acme.example"}}, sanEmail("ann@mail.acme.example"), false},
		"SPIFFE":              {mtls.Rule{URIs: []string{"spiffe://acme.example/*"}}, sanURI("spiffe://acme.example/x"), false},
		"URI":                 {mtls.Rule{URIs: []string{"https://u@api.acme.example:8443/x?@globex.example"}}, sanURI("https://u@api.acme.example:8443/x?@globex.example"), false},
		"UPN":                 {mtls.Rule{UPNs: []string{"*@acme.example"}}, sanUPN("ann@acme.example"), false},
		"UPN, capitals":       {mtls.Rule{UPNs: []string{"*@ACME.example"}}, sanUPN("ann@Acme.Example"), false},
		"UPN in U-labels":     {mtls.Rule{UPNs: []string{"ann@bücher.example"}}, sanUPN("ann@bücher.example"), false},
		"a URN, with no host": {mtls.Rule{URIs: []string{"urn:acme:ann"}}, sanURI("urn:acme:ann"), true},
	} {
		t.Run(name, func(t *testing.T) {
			row.rule.Name, row.rule.Origin, row.rule.Authorities = "r", mtls.NoOrigin(), []string{"acme", "globex"}
			g := mtlstest.NewGuard(t, pcConfig(t, roots, row.rule))
			require.True(t, pcDecide(t, g, a.Issue(named(t, row.san)).Leaf()).Admitted)
			d := pcDecide(t, g, b.Issue(named(t, row.san)).Leaf())
			require.Equal(t, row.both, d.Admitted)
			if row.rule.Domains == nil && !row.both {
				require.Equal(t, mtls.ReasonNotAllowed, d.Reason)
				require.Contains(t, d.Detail(), "for which the authority may not speak")
			}
			beside := b.Issue(named(t, row.san, sanEmail("bob@globex.example"), sanUPN("bob@globex.example"))).Leaf()
			require.Equal(t, row.both, pcDecide(t, g, beside).Admitted, "with names of its own beside it")

			row.rule.Authorities = []string{"globex"}
			_, err := mtls.New(pcConfig(t, roots, row.rule))
			require.Equal(t, row.both, err == nil, "the rule could never match: %v", err)
		})
	}
	// A URI that has its host elsewhere is bounded as well.
	for _, uri := range []string{"sip:acme.example", "mailto:ann@acme.example"} {
		rule := mtls.Rule{Name: "r", URIs: []string{uri}, Authorities: []string{"acme", "globex"}, Origin: mtls.NoOrigin()}
		g := mtlstest.NewGuard(t, pcConfig(t, roots, rule))
		require.True(t, pcDecide(t, g, a.Issue(named(t, sanURI(uri))).Leaf()).Admitted)
		require.False(t, pcDecide(t, g, b.Issue(named(t, sanURI(uri))).Leaf()).Admitted)
	}
	// An address is no host that a scope could have.
	for _, uri := range []string{"https://192.0.2.1/", "https://[2001:db8::1]:1/"} {
		_, err := mtls.New(pcConfig(t, roots, mtls.Rule{Name: "r", URIs: []string{uri}, Authorities: []string{"acme"}, Origin: mtls.NoOrigin()}))
		require.ErrorContains(t, err, "could never match")
	}
}

// Of names beyond the scope and within it, the identity has the one within.
func TestIdentityWithinTheScope(t *testing.T) {
	t.Parallel()
	a, b := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	acme, globex := a.Authority("acme"), b.Authority("globex")
	acme.Domains, globex.Domains = []string{"acme.example"}, []string{"globex.example"}
	rule := mtls.Rule{Name: "r", Emails: []string{"*@acme.example", "*@globex.example"}, Authorities: []string{"acme", "globex"}, Origin: mtls.NoOrigin()}
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, acme, globex), rule))
	d := pcDecide(t, g, b.Issue(named(t, sanEmail("ann@acme.example"), sanEmail("bob@globex.example"))).Leaf())
	require.True(t, d.Admitted, d.Detail())
	require.Equal(t, "bob@globex.example", d.Identity.Email())
	require.Equal(t, "globex", d.Identity.Authority())
}

// Groups without Accounts, after a Replace, admit nobody, and Ready says so.
func TestGroupsWithoutAccountsAreReported(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	cfg := pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "a", Domains: []string{"a.example"}})
	g := mtlstest.NewGuard(t, cfg)
	require.NoError(t, g.Ready())
	grouped := mtls.Rule{Name: "a", Domains: []string{"a.example"}, Groups: []string{"g"}}
	_, err := mtls.New(pcConfig(t, cfg.Roots, grouped))
	require.ErrorContains(t, err, "demands a group")
	require.NoError(t, cfg.Policy.Replace(grouped))
	require.ErrorContains(t, g.Ready(), "demands a group")
	require.False(t, pcDecide(t, g, ca.Issue(pcNames("a.example")).Leaf()).Admitted)
}
