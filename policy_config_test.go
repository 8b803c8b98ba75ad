package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// pcProblems flattens a joined error into its ConfigErrors; there must be nothing
// else in it.
func pcProblems(t testing.TB, err error) []*mtls.ConfigError {
	t.Helper()
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*mtls.ConfigError
		for _, e := range joined.Unwrap() {
			all = append(all, pcProblems(t, e)...)
		}
		return all
	}
	var c *mtls.ConfigError
	require.ErrorAs(t, err, &c)
	require.Equal(t, 1, strings.Count(c.Error(), "mtls: "), c.Error())
	return []*mtls.ConfigError{c}
}

// pcFields returns "field|value" of every problem, sorted.
func pcFields(t testing.TB, err error) []string {
	t.Helper()
	require.Error(t, err)
	var list []string
	for _, p := range pcProblems(t, err) {
		list = append(list, p.Field+"|"+p.Value)
	}
	slices.Sort(list)
	return list
}

func TestPolicyProblems(t *testing.T) {
	t.Parallel()
	no := mtls.NoOrigin()
	exact := []string{"a.example"}
	prefix := func(s string) *mtls.Origin { return &mtls.Origin{Prefixes: []netip.Prefix{netip.MustParsePrefix(s)}} }
	now := time.Now()
	const r = `Policy: rule "r"`
	for _, c := range []struct {
		name  string
		rules []mtls.Rule
		want  []string
	}{
		{"no rules", nil, []string{"Policy|"}},
		{"empty name", []mtls.Rule{{Domains: exact}}, []string{"Policy: rule 0|"}},
		{"two of a name", []mtls.Rule{{Name: "r", Domains: exact}, {Name: "r", Domains: exact}}, []string{r + "|"}},
		{"not a domain", []mtls.Rule{{Name: "r", Domains: []string{"a.example", "a..example"}}}, []string{r + ": Domains[1]|a..example"}},
		{"address", []mtls.Rule{{Name: "r", Domains: []string{"192.0.2.1"}}}, []string{r + ": Domains[0]|192.0.2.1"}},
		{"empty domain", []mtls.Rule{{Name: "r", Domains: []string{""}}}, []string{r + ": Domains[0]|"}},
		{"leading dot", []mtls.Rule{{Name: "r", Domains: []string{".a.example"}}}, []string{r + ": Domains[0]|.a.example"}},
		{"lone star", []mtls.Rule{{Name: "r", Domains: []string{"*"}, Origin: no}}, []string{r + ": Domains[0]|*"}},
		{"wildcards under public suffixes", []mtls.Rule{{Name: "r", Domains: []string{"*.com", "*.co.uk", "*.github.io", "*.ok.github.io"}, Origin: no}},
			[]string{r + ": Domains[0]|*.com", r + ": Domains[1]|*.co.uk", r + ": Domains[2]|*.github.io"}},
		{"wildcard without origin", []mtls.Rule{{Name: "r", Domains: []string{"b.example", "*.a.example"}}}, []string{r + ": Origin|"}},
		{"wildcard with an origin that states nothing", []mtls.Rule{{Name: "r", Domains: []string{"*.a.example"}, Origin: &mtls.Origin{AllowNetworks: mtlstest.Loopback()}}}, []string{r + ": Origin|"}},
		{"no domain, no origin", []mtls.Rule{{Name: "r", PublicKeys: []mtls.KeyHash{{1}}}}, []string{r + ": Origin|"}},
		{"anybody", []mtls.Rule{{Name: "r", Origin: no}}, []string{r + "|"}},
		{"anybody, no origin", []mtls.Rule{{Name: "r"}}, []string{r + ": Origin|", r + "|"}},
		{"deny with origin", []mtls.Rule{{Name: "r", Deny: true, Domains: exact, Origin: no}}, []string{r + ": Origin|"}},
		{"deny with roles", []mtls.Rule{{Name: "r", Deny: true, Domains: exact, Roles: []string{"x"}}}, []string{r + "|"}},
		{"deny with account", []mtls.Rule{{Name: "r", Deny: true, Domains: exact, Account: "x"}}, []string{r + "|"}},
		{"deny with InsecureAnyClient", []mtls.Rule{{Name: "r", Deny: true, Domains: exact, InsecureAnyClient: true}}, []string{r + "|"}},
		{"deny everybody", []mtls.Rule{{Name: "r", Deny: true}}, []string{r + "|"}},
		{"deny with all that it cannot have", []mtls.Rule{{Name: "r", Deny: true, Origin: no, Roles: []string{"x"}}}, []string{r + ": Origin|", r + "|", r + "|"}},
		{"zero certificate hash", []mtls.Rule{{Name: "r", Domains: exact, Certificates: make([]mtls.CertificateHash, 1)}}, []string{r + ": Certificates[0]|"}},
		{"zero key hash", []mtls.Rule{{Name: "r", Domains: exact, PublicKeys: make([]mtls.KeyHash, 1)}}, []string{r + ": PublicKeys[0]|"}},
		{"zero issuer key hash", []mtls.Rule{{Name: "r", Domains: exact, IssuerKeys: []mtls.KeyHash{{1}, {}}}}, []string{r + ": IssuerKeys[1]|"}},
		{"empty role", []mtls.Rule{{Name: "r", Domains: exact, Roles: []string{""}}}, []string{r + ": Roles[0]|"}},
		{"empty authority", []mtls.Rule{{Name: "r", Domains: exact, Authorities: []string{""}}}, []string{r + ": Authorities[0]|"}},
		{"ends before it begins", []mtls.Rule{{Name: "r", Domains: exact, NotBefore: now, NotAfter: now.Add(-time.Second)}},
			[]string{r + ": NotAfter|" + now.Add(-time.Second).String()}},
		{"all addresses", []mtls.Rule{{Name: "r", Domains: exact, Origin: prefix("0.0.0.0/0")}}, []string{r + ": Origin.Prefixes[0]|0.0.0.0/0"}},
		{"all IPv6 addresses", []mtls.Rule{{Name: "r", Domains: exact, Origin: prefix("::/0")}}, []string{r + ": Origin.Prefixes[0]|::/0"}},
		{"zero prefix", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{Prefixes: make([]netip.Prefix, 1)}}}, []string{r + ": Origin.Prefixes[0]|invalid Prefix"}},
		{"too many hosts", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{Hosts: slices.Repeat(exact, 11)}}}, []string{r + ": Origin.Hosts|11"}},
		{"host that is a wildcard", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{Hosts: []string{"*.a.example"}}}}, []string{r + ": Origin.Hosts[0]|*.a.example"}},
		{"suffixes that belong to anybody", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{ReverseSuffixes: []string{"com", "co.uk", "github.io", "compute-1.amazonaws.com", "example"}}}},
			[]string{r + ": Origin.ReverseSuffixes[0]|com", r + ": Origin.ReverseSuffixes[1]|co.uk", r + ": Origin.ReverseSuffixes[2]|github.io",
				r + ": Origin.ReverseSuffixes[3]|compute-1.amazonaws.com", r + ": Origin.ReverseSuffixes[4]|example"}},
		{"suffixes that are none", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{ReverseSuffixes: []string{".a.example", "*.a.example", ""}}}},
			[]string{r + ": Origin.ReverseSuffixes[0]|.a.example", r + ": Origin.ReverseSuffixes[1]|*.a.example", r + ": Origin.ReverseSuffixes[2]|"}},
		{"too many suffixes", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{ReverseSuffixes: slices.Repeat([]string{"a.example"}, 11)}}}, []string{r + ": Origin.ReverseSuffixes|11"}},
		{"published by nobody", []mtls.Rule{{Name: "r", PublicKeys: []mtls.KeyHash{{1}}, Origin: &mtls.Origin{Published: true}}}, []string{r + ": Origin.Published|"}},
		{"a window too long", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{Window: time.Hour + 1}}}, []string{r + ": Origin.Window|1h0m0.000000001s"}},
		{"a negative window", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{Window: -1}}}, []string{r + ": Origin.Window|-1ns"}},
		{"a window on nothing", []mtls.Rule{{Name: "r", Domains: exact, Origin: &mtls.Origin{Published: true, Window: time.Minute}}}, []string{r + ": Origin.Window|1m0s"}},
		{"wildcard with settings but no way", []mtls.Rule{{Name: "r", Domains: []string{"*.a.example"}, Origin: &mtls.Origin{RequireDNSSEC: true, ReportOnly: true, Window: time.Minute}}}, []string{r + ": Origin|"}},
		{"everything at once", []mtls.Rule{{Name: "r", Domains: []string{"-"}, Origin: prefix("0.0.0.0/0")}, {Domains: []string{"*.com"}}, {Name: "d", Deny: true}},
			[]string{r + ": Domains[0]|-", r + ": Origin.Prefixes[0]|0.0.0.0/0", "Policy: rule 1: Domains[0]|*.com", "Policy: rule 1|", `Policy: rule "d"|`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := mtls.NewPolicy(c.rules...)
			require.Nil(t, p)
			slices.Sort(c.want)
			require.Equal(t, c.want, pcFields(t, err))
			var first *mtls.ConfigError
			require.True(t, errors.As(err, &first))
		})
	}
}

func TestPolicyAgainstRoots(t *testing.T) {
	t.Parallel()
	private, public := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	one, web := private.Authority("one"), public.Authority("web")
	one.Domains = []string{"acme.example"}
	web.Public, web.Purpose = true, mtls.ClientOrServerAuth
	webIssuer := []mtls.KeyHash{mtls.HashPublicKey(public.Certificate())}
	const r = `rule "r"`
	for _, c := range []struct {
		name string
		rule mtls.Rule
		want []string
	}{
		{"unknown authority", mtls.Rule{Domains: []string{"a.example"}, Authorities: []string{"web", "gone"}}, []string{r + ": Authorities[1]|gone"}},
		{"unknown authority in a deny rule", mtls.Rule{Deny: true, Authorities: []string{"gone"}}, []string{r + ": Authorities[0]|gone"}},
		{"no authority may speak for it", mtls.Rule{Domains: []string{"acme.example", "b.example"}, Authorities: []string{"one"}}, []string{r + ": Domains[1]|b.example"}},
		{"all clients of a public authority", mtls.Rule{Authorities: []string{"web"}, Origin: mtls.NoOrigin()}, []string{r + ": Authorities|"}},
		// A rule that could admit everybody is refused unless it says so by name.
		{"all clients of a public authority, by its key", mtls.Rule{IssuerKeys: webIssuer, Authorities: []string{"web"}, Origin: mtls.NoOrigin()}, []string{r + ": Authorities|"}},
		{"the same, by name", mtls.Rule{IssuerKeys: webIssuer, Origin: mtls.NoOrigin(), InsecureAnyClient: true}, nil},
		{"all clients of a private authority", mtls.Rule{Authorities: []string{"one"}, Origin: mtls.NoOrigin()}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.rule.Name = "r"
			cfg := pcConfig(t, pcRoots(t, one, web), c.rule)
			_, newErr := mtls.New(cfg)
			cfg = pcConfig(t, cfg.Roots, mtls.Rule{Name: "first", Domains: []string{"acme.example"}})
			g := mtlstest.NewGuard(t, cfg)
			replaceErr := cfg.Policy.Replace(c.rule)
			if c.want == nil {
				require.NoError(t, newErr)
				require.NoError(t, replaceErr)
				return
			}
			for prefix, err := range map[string]error{"Config.Policy: ": newErr, "Policy: ": replaceErr} {
				var want []string
				for _, w := range c.want {
					want = append(want, prefix+w)
				}
				require.Equal(t, want, pcFields(t, err))
			}
			require.ErrorIs(t, g.Ready(), replaceErr)
			leaf := private.Issue(pcNames("acme.example")).Leaf()
			require.Equal(t, "first first acme.example", pcSay(pcDecide(t, g, leaf)))
		})
	}
}

func TestPolicyReplace(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	leaf := ca.Issue(pcNames("api.acme.example")).Leaf()
	cfg := pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"x.example"}})
	cfg.Policy = mtls.DenyAll()
	g := mtlstest.NewGuard(t, cfg)
	require.NoError(t, g.Ready())
	require.Equal(t, "not_allowed", pcSay(pcDecide(t, g, leaf)))
	rule := func(name string, domains ...string) mtls.Rule { return mtls.Rule{Name: name, Domains: domains} }
	for _, step := range []struct {
		name  string
		rules []mtls.Rule
		ok    bool
		want  string
	}{
		{"rules in place of DenyAll", []mtls.Rule{rule("1", "api.acme.example")}, true, "1 1 api.acme.example"},
		{"a bad rule among good ones", []mtls.Rule{rule("2", "api.acme.example"), rule("3", "*")}, false, "1 1 api.acme.example"},
		{"no rules", nil, false, "1 1 api.acme.example"},
		{"an unknown authority", []mtls.Rule{{Name: "4", Deny: true, Authorities: []string{"gone"}}}, false, "1 1 api.acme.example"},
		{"a client dropped", []mtls.Rule{rule("5", "x.example")}, true, "not_allowed"},
		{"and back", []mtls.Rule{rule("6", "api.acme.example")}, true, "6 6 api.acme.example"},
	} {
		t.Run(step.name, func(t *testing.T) {
			err := cfg.Policy.Replace(step.rules...)
			require.Equal(t, step.ok, err == nil)
			require.Equal(t, step.ok, g.Ready() == nil)
			require.Equal(t, step.want, pcSay(pcDecide(t, g, leaf)))
		})
	}
	t.Run("the zero policy is refused, and admits nobody", func(t *testing.T) {
		cfg.Policy = &mtls.Policy{}
		_, err := mtls.New(cfg)
		require.Equal(t, []string{"Config.Policy|"}, pcFields(t, err))
	})
}

func TestPolicyIsACopy(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	leaf := ca.Issue(pcNames("api.acme.example")).Leaf()
	hash, key, issuer := mtls.HashCertificate(leaf), mtls.HashPublicKey(leaf), mtls.HashPublicKey(ca.Certificate())
	rule := mtls.Rule{
		Name: "r", Roles: []string{"read"}, Domains: []string{"api.acme.example"}, Certificates: []mtls.CertificateHash{hash},
		PublicKeys: []mtls.KeyHash{key}, Authorities: []string{"one"}, IssuerKeys: []mtls.KeyHash{issuer},
		Origin: &mtls.Origin{Prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}},
	}
	rules := []mtls.Rule{rule}
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), rules...))
	rule.Roles[0], rule.Domains[0], rule.Authorities[0] = "admin", "x.example", "gone"
	rule.Certificates[0], rule.PublicKeys[0], rule.IssuerKeys[0] = mtls.CertificateHash{1}, mtls.KeyHash{1}, mtls.KeyHash{1}
	rule.Origin.Prefixes[0] = netip.MustParsePrefix("192.0.2.0/24")
	*rule.Origin = mtls.Origin{}
	rules[0] = mtls.Rule{}
	d := pcDecide(t, g, leaf)
	require.Equal(t, "r r api.acme.example", pcSay(d))
	require.Equal(t, []string{"read"}, d.Identity.Roles())
	d.Identity.Roles()[0] = "admin" // the identity's callers cannot either
	require.False(t, pcDecide(t, g, leaf).Identity.HasRole("admin"))
}

// A verdict in the cache ends exactly when a rule begins or ends, deny rules
// included.
func TestRuleTimesEndVerdicts(t *testing.T) {
	t.Parallel()
	const pass, hour = "r r api.acme.example", time.Hour
	r := mtls.Rule{Name: "r", Domains: []string{"api.acme.example"}}
	for _, c := range []struct {
		name          string
		at            time.Duration // of the change, from the first decision on
		rules         func(at time.Time) []mtls.Rule
		before, after string
		exact         string // what is said at the instant itself
	}{
		{"deny rule begins", time.Minute, func(at time.Time) []mtls.Rule {
			return []mtls.Rule{r, {Name: "d", Deny: true, Domains: []string{"api.acme.example"}, NotBefore: at}}
		}, pass, "denied_by_rule d", "denied_by_rule d"},
		{"deny rule on the issuer begins, and ends soon", time.Minute, func(at time.Time) []mtls.Rule {
			return []mtls.Rule{r, {Name: "d", Deny: true, Authorities: []string{"one"}, NotBefore: at, NotAfter: at.Add(hour)}}
		}, pass, "denied_by_rule d", "denied_by_rule d"},
		{"deny rule ends", time.Minute, func(at time.Time) []mtls.Rule {
			return []mtls.Rule{r, {Name: "d", Deny: true, Domains: []string{"*.acme.example"}, NotAfter: at}}
		}, "denied_by_rule d", pass, "denied_by_rule d"},
		{"rule begins", time.Minute, func(at time.Time) []mtls.Rule {
			r := r
			r.NotBefore = at
			return []mtls.Rule{r}
		}, "not_allowed", pass, pass},
		{"rule ends", time.Minute, func(at time.Time) []mtls.Rule {
			r := r
			r.NotAfter = at
			return []mtls.Rule{r}
		}, pass, "not_allowed", pass},
		{"an earlier rule begins", time.Minute, func(at time.Time) []mtls.Rule {
			return []mtls.Rule{{Name: "new", Domains: r.Domains, NotBefore: at}, r}
		}, pass, "new new api.acme.example", "new new api.acme.example"},
		{"an earlier rule ends", time.Minute, func(at time.Time) []mtls.Rule {
			return []mtls.Rule{{Name: "old", Domains: r.Domains, NotAfter: at}, r}
		}, "old old api.acme.example", pass, "old old api.acme.example"},
		{"a rule on the certificate begins", time.Minute, func(at time.Time) []mtls.Rule {
			return []mtls.Rule{r, {Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}, {Name: "d", Deny: true, PublicKeys: []mtls.KeyHash{{1}}, NotBefore: at}}
		}, pass, pass, pass},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			clock := mtlstest.NewClock(time.Time{})
			ca := mtlstest.NewCA(t, mtlstest.CAOptions{Now: clock.Now})
			leaf := ca.Issue(pcNames("api.acme.example")).Leaf()
			cfg := pcConfig(t, pcRoots(t, ca.Authority("one")), c.rules(clock.Now().Add(c.at))...)
			cfg.Now = clock.Now
			decided := 0 // admissions that did not come from the cache
			cfg.Observe = func(_ context.Context, d *mtls.Decision) {
				if d.Admitted {
					decided++
				}
			}
			g := mtlstest.NewGuard(t, cfg)
			require.Equal(t, c.before, pcSay(pcDecide(t, g, leaf)))
			clock.Advance(c.at - time.Nanosecond)
			require.Equal(t, c.before, pcSay(pcDecide(t, g, leaf)))
			require.LessOrEqual(t, decided, 1, "the verdict is kept until the change")
			clock.Advance(time.Nanosecond)
			require.Equal(t, c.exact, pcSay(pcDecide(t, g, leaf)))
			clock.Advance(time.Nanosecond)
			require.Equal(t, c.after, pcSay(pcDecide(t, g, leaf)))
		})
	}
}

// pcManyRules returns n rules, of which the last lists last.example.
func pcManyRules(n int) []mtls.Rule {
	rules := make([]mtls.Rule, 0, n)
	for i := range n - 1 {
		rules = append(rules, mtls.Rule{Name: fmt.Sprint(i), Domains: []string{fmt.Sprintf("h%d.example", i)}, Deny: i%2 == 0})
	}
	return append(rules, mtls.Rule{Name: "last", Domains: []string{"last.example"}})
}

// pcHandshake returns a decision of the handshake, which no cache answers.
func pcHandshake(t testing.TB, rules int) func() error {
	t.Helper()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), pcManyRules(rules)...))
	leaf := ca.Issue(pcNames("last.example")).Leaf()
	cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	return func() error { return g.VerifyConnection(cs) }
}

// A match among many rules looks at those that the index gives: a list of ten
// thousand candidates would show in the memory that a decision takes.
func TestPolicyIndex(t *testing.T) {
	used := func(rules int) uint64 {
		decide := pcHandshake(t, rules)
		least := ^uint64(0)
		for range 5 { // others allocate meanwhile
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 10 {
				require.NoError(t, decide())
			}
			runtime.ReadMemStats(&after)
			least = min(least, (after.TotalAlloc-before.TotalAlloc)/10)
		}
		return least
	}
	require.InDelta(t, used(1), used(10_000), 4096)
}

func BenchmarkPolicyMatch(b *testing.B) {
	for _, n := range []int{1, 1_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			decide := pcHandshake(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if err := decide(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
