package mtls_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestRuleDemandsAGroup: who is in none of the groups of the rule that decides is
// refused, at once when it has left and the account is mapped anew.
func TestRuleDemandsAGroup(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		account mtls.Account
		err     error
		reason  mtls.Reason
	}{
		{"in one", mtls.Account{Name: "a", Groups: []string{"x", "payments"}}, nil, ""},
		{"in the other", mtls.Account{Name: "a", Groups: []string{"orders"}}, nil, ""},
		{"in another", mtls.Account{Name: "a", Groups: []string{"x"}}, nil, mtls.ReasonGroupMissing},
		{"in none", mtls.Account{Name: "a"}, nil, mtls.ReasonGroupMissing},
		{"other letters", mtls.Account{Name: "a", Groups: []string{"Payments", "order"}}, nil, mtls.ReasonGroupMissing},
		{"disabled", mtls.Account{Name: "a", Groups: []string{"orders"}, Disabled: true}, nil, mtls.ReasonAccountDisabled},
		{"directory down", mtls.Account{Name: "a", Groups: []string{"orders"}}, errors.New("down"), mtls.ReasonAccountUnknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			env.DNS.Set("acme.example", "127.0.0.1")
			cfg := env.Config(
				mtls.Rule{Name: "before", Domains: []string{"before.example"}, Account: "one", Groups: []string{"x"}},
				mtls.Rule{Name: "group", Domains: []string{"acme.example"}, Account: "one", Groups: []string{"payments", "orders"}},
				mtls.Rule{Name: "everybody", Domains: []string{"acme.example"}})
			cfg.Accounts = mapperFunc(func(context.Context, *mtls.Identity) (mtls.Account, error) { return row.account, row.err })
			seen := &observer{}
			cfg.Observe = seen.observe
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
			r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{}), s.URL)
			require.Equal(t, row.reason, seen.last().Reason)
			if row.reason == "" {
				require.Equal(t, 200, r.Status)
				return
			}
			require.Equal(t, row.reason.Status(), r.Status)
			require.Equal(t, "group", seen.last().Rule, "no later rule is tried")
			require.Equal(t, row.reason.Code(), r.Code)
		})
	}
	require.Equal(t, "not_allowed", mtls.ReasonGroupMissing.Code())
	require.Equal(t, 403, mtls.ReasonGroupMissing.Status())
}

func TestGroupIsLeftWhileRunning(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Groups: []string{"payments"}})
	account := mtls.Account{Name: "a", ID: "S-1-5-21-1", Groups: []string{"payments"}}
	cfg.Accounts = mapperFunc(func(context.Context, *mtls.Identity) (mtls.Account, error) {
		a := account
		a.Expires = env.Clock.Now().Add(time.Minute)
		return a, nil
	})
	seen := &observer{}
	cfg.Observe = seen.observe
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, client, s.URL).Status)
	require.Equal(t, "S-1-5-21-1", seen.last().Identity.Account().ID)
	account.Groups = nil
	require.Equal(t, 200, ask(t, client, s.URL).Status, "the answer counts until it lapses")
	env.Clock.Advance(time.Minute + time.Second)
	require.Equal(t, 403, ask(t, client, s.URL).Status)
}

func TestGroupsNeedAccounts(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	plain := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}
	grouped := plain
	grouped.Groups = []string{"payments"}

	_, err := mtls.New(env.Config(grouped))
	require.ErrorContains(t, err, `mtls: Config.Accounts: missing: rule "acme" of Config.Policy demands a group`)
	cfg := env.Config(plain)
	cfg.Shadow, err = mtls.NewPolicy(grouped)
	require.NoError(t, err)
	_, err = mtls.New(cfg)
	require.ErrorContains(t, err, `rule "acme" of Config.Shadow demands a group`)
	off := grouped
	off.Name, off.Disabled = "off", true
	mtlstest.NewGuard(t, env.Config(plain, off))

	// A policy that is replaced later does not know of the guard's mapper.
	cfg = env.Config(plain)
	seen := &observer{}
	cfg.Observe = seen.observe
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, client, s.URL).Status)
	require.NoError(t, cfg.Policy.Replace(grouped))
	require.Equal(t, 403, ask(t, client, s.URL).Status)
	require.Equal(t, mtls.ReasonGroupMissing, seen.last().Reason)

	for _, row := range []struct {
		rule mtls.Rule
		want string
	}{
		{mtls.Rule{Name: "x", Domains: []string{"acme.example"}, Groups: []string{"a", ""}}, `rule "x": Groups[1]: an empty group`},
		{mtls.Rule{Name: "x", Domains: []string{"acme.example"}, Groups: []string{}}, `rule "x": Groups: an empty list`},
		{mtls.Rule{Name: "x", Domains: []string{"acme.example"}, Deny: true, Groups: []string{"a"}}, "a deny rule has no Roles, no Account, no Groups"},
	} {
		_, err := mtls.NewPolicy(row.rule)
		require.ErrorContains(t, err, row.want)
	}
}

func TestRequestOfATestHasAnAccountID(t *testing.T) {
	t.Parallel()
	id, ok := mtls.FromContext(mtlstest.NewRequest(t, "GET", "/", nil, mtlstest.Identity{Rule: "acme", ID: "uid=a"}).Context())
	require.True(t, ok)
	require.Equal(t, "uid=a", id.Account().ID)
}

// TestRulesOfOneAccountKeepTheirRoles: rules that say partly the same share nothing
// that differs.
func TestRulesOfOneAccountKeepTheirRoles(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	rule := func(name, account string, roles ...string) mtls.Rule {
		return mtls.Rule{Name: name, Account: account, Domains: []string{name + ".example"}, Roles: roles}
	}
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), rule("a", "x", "read"), rule("b", "x", "read", "write"), rule("c", "", "read"), rule("d", "y", "read")))
	for name, want := range map[string][]string{"a": {"x", "read"}, "b": {"x", "read", "write"}, "c": {"c", "read"}, "d": {"y", "read"}} {
		id := pcDecide(t, g, ca.Issue(pcNames(name+".example")).Leaf()).Identity
		require.Equal(t, want, append([]string{id.Name()}, id.Roles()...))
	}
}

// TestHandshakeAloneHonoursGroups: where no Handler follows, a rule that demands a
// group, and came by Replace to a guard without a mapper, admits nobody.
func TestHandshakeAloneHonoursGroups(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cert := env.CA.Issue(pcNames("acme.example"))
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cfg.Origin, cfg.Revocation = mtls.NoOrigin(), mtls.NoRevocation()
	g := mtlstest.NewGuard(t, cfg)
	require.NoError(t, g.VerifyConnection(peerOf(cert).TLS))
	require.NoError(t, cfg.Policy.Replace(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Groups: []string{"payments"}}))
	require.Error(t, g.VerifyConnection(peerOf(cert).TLS))
}

// TestShadowPolicyDoesNotLookAtGroups, and says so.
func TestShadowPolicyDoesNotLookAtGroups(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	cfg := pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "a", Domains: []string{"acme.example"}})
	var err error
	cfg.Shadow, err = mtls.NewPolicy(mtls.Rule{Name: "a", Domains: []string{"acme.example"}, Groups: []string{"payments"}})
	require.NoError(t, err)
	cfg.Accounts = mapperFunc(func(context.Context, *mtls.Identity) (mtls.Account, error) { return mtls.Account{Name: "x"}, nil })
	d := pcDecide(t, mtlstest.NewGuard(t, cfg), ca.Issue(pcNames("acme.example")).Leaf())
	require.True(t, d.Admitted)
	require.Equal(t, mtls.OutcomeUnknown, d.Steps[len(d.Steps)-1].Outcome)
}
