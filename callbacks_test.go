package mtls_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestPanicsRefuse: a panic in anything that a caller supplied refuses, is
// logged, and the server lives.
func TestPanicsRefuse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		set    func(*mtls.Config)
		status int
		reason mtls.Reason
	}{
		{"Verify", func(c *mtls.Config) { c.Verify = func(context.Context, *mtls.Identity) error { panic("verify") } }, 500, mtls.ReasonInternal},
		{"Observe", func(c *mtls.Config) { c.Observe = func(context.Context, *mtls.Decision) { panic("observe") } }, 500, mtls.ReasonInternal},
		{"AccountMapper", func(c *mtls.Config) {
			c.Accounts = mapperFunc(func(context.Context, *mtls.Identity) (mtls.Account, error) { panic(errors.New("mapper")) })
		}, 500, mtls.ReasonInternal},
		{"Resolver", func(c *mtls.Config) { c.Resolver = panicResolver{} }, 503, mtls.ReasonOriginUnknown},
		{"Client", func(c *mtls.Config) {
			c.Revocation.Client = &http.Client{Transport: panicTransport{}}
		}, 503, mtls.ReasonRevocationUnknown},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			env.DNS.Set("acme.example", "127.0.0.1")
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
			records, seen := &logBuffer{}, &observer{}
			cfg.Logger = slog.New(slog.NewTextHandler(records, nil))
			cfg.Observe = seen.observe
			row.set(&cfg)
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
			client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
			for range 3 { // also once something could have been cached
				r := ask(t, client, s.URL)
				require.Equal(t, row.status, r.Status, r.Body)
				require.Equal(t, string(row.reason), r.Code)
			}
			require.Contains(t, records.String(), "panic")
		})
	}
}

type panicResolver struct{}

func (panicResolver) Lookup(context.Context, string, mtls.RecordType) (mtls.Answer, error) {
	panic("resolver")
}

// TestStoreThatPanics: a Store is never needed, so that its panic is a miss.
func TestStoreThatPanics(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cfg.Store = panicStore{}
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	good, bad := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	env.Revocation.Revoke(bad, 1)
	require.Equal(t, "revoked", ask(t, s.Client(bad, mtlstest.ClientOptions{}), s.URL).Code)
	require.Equal(t, 200, ask(t, s.Client(good, mtlstest.ClientOptions{}), s.URL).Status)
}

type panicStore struct{}

func (panicStore) Get(context.Context, string) ([]byte, error) { panic("store") }
func (panicStore) Put(context.Context, string, []byte) error   { panic("store") }

type panicTransport struct{}

func (panicTransport) RoundTrip(*http.Request) (*http.Response, error) { panic("transport") }

// TestNothingAHandlerGetsIsShared: what a handler or an observer changes changes
// nothing for the next request.
func TestNothingAHandlerGetsIsShared(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Roles: []string{"reader"}})
	cfg.Accounts = mapperFunc(func(context.Context, *mtls.Identity) (mtls.Account, error) {
		return mtls.Account{Name: "a", Groups: []string{"g"}, Attributes: map[string][]string{"k": {"v"}}}, nil
	})
	cfg.Observe = func(_ context.Context, d *mtls.Decision) {
		d.Admitted, d.Reason, d.Rule = true, "", "changed"
		for i := range d.Steps {
			d.Steps[i].Outcome = mtls.OutcomePass
		}
	}
	g := mtlstest.NewGuard(t, cfg)
	vandal := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := mtls.FromContext(r.Context())
		if id.HasRole("admin") || id.Account().Groups[0] != "g" || id.Account().Attributes["k"][0] != "v" || id.Certificate().DNSNames[0] != "acme.example" {
			w.WriteHeader(http.StatusTeapot)
		}
		id.Roles()[0] = "admin"
		id.Account().Groups[0] = "x"
		id.Account().Attributes["k"][0] = "x"
		id.Certificate().DNSNames[0] = "evil.example"
		clear(id.Certificate().Raw)
		id.Chain()[1].IsCA = false
		// crypto/tls shares these between connections.
		r.TLS.PeerCertificates[0].DNSNames = []string{"globex.example"}
		r.TLS.PeerCertificates[0].IsCA = true
	})
	s := mtlstest.NewServer(t, g, vandal)
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	for range 3 {
		require.Equal(t, 200, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
		env.Clock.Advance(6 * time.Minute)
	}
	admin := mtlstest.NewServer(t, g, g.Require("admin")(hello))
	require.Equal(t, 403, ask(t, admin.Client(cert, mtlstest.ClientOptions{}), admin.URL).Status)
}

func TestReportOnlyRefusesNobodyAndVouchesForNobody(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	env.DNS.Set("globex.example", "127.0.0.1")
	rule := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}
	cfg := env.Config(rule)
	seen := &observer{}
	cfg.Observe = seen.observe
	cfg.InsecureReportOnly = true
	g := mtlstest.NewGuard(t, cfg)
	acme := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	globex := env.CA.Issue(mtlstest.Leaf{Names: []string{"globex.example"}})
	strict := mtlstest.NewServer(t, g, hello)
	for name, cert := range map[string]*mtlstest.Certificate{"not listed": globex, "none": nil} {
		r := ask(t, strict.Client(cert, mtlstest.ClientOptions{}), strict.URL)
		require.Equal(t, 200, r.Status, name)
		require.Equal(t, "nobody", r.Body, name)
		require.False(t, seen.last().Admitted)
		require.True(t, seen.last().ReportOnly)
		require.NotEmpty(t, seen.last().Reason)
	}
	require.Equal(t, "acme acme.example", ask(t, strict.Client(acme, mtlstest.ClientOptions{}), strict.URL).Body)

	// An outer guard's identity does not show through.
	outer := env.Guard(mtls.Rule{Name: "globex", Domains: []string{"globex.example"}})
	nested := mtlstest.NewServer(t, outer, g.Handler(hello))
	require.Equal(t, "nobody", ask(t, nested.Client(globex, mtlstest.ClientOptions{}), nested.URL).Body)
}

func TestShadowPolicyIsReportedAndNeverEnforced(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	shadow, err := mtls.NewPolicy(mtls.Rule{Name: "next", Domains: []string{"next.example"}, Origin: &mtls.Origin{Hosts: []string{"egress.next.example"}}})
	require.NoError(t, err)
	cfg.Shadow = shadow
	seen := &observer{}
	cfg.Observe = seen.observe
	g := mtlstest.NewGuard(t, cfg)
	s := mtlstest.NewOptionalServer(t, g, g.Handler(hello))
	step := func() mtls.Step {
		for _, st := range seen.last().Steps {
			if st.Name == "shadow" {
				return st
			}
		}
		return mtls.Step{}
	}
	acme := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, acme, s.URL).Status)
	require.Equal(t, mtls.OutcomeFail, step().Outcome)
	crl, ocsp := env.Revocation.Requests()
	next := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"next.example"}}), mtlstest.ClientOptions{})
	require.Equal(t, 403, ask(t, next, s.URL).Status)
	require.Equal(t, mtls.OutcomePass, step().Outcome)
	require.Equal(t, mtls.ReasonNotAllowed, seen.last().Reason)
	require.Contains(t, seen.last().Detail(), "no rule lists")
	crl2, ocsp2 := env.Revocation.Requests()
	require.Equal(t, []int{crl, ocsp, 0}, []int{crl2, ocsp2, env.DNS.Queries("egress.next.example")}, "a shadow policy causes no network work")
	require.NoError(t, shadow.Replace(mtls.Rule{Name: "acme2", Domains: []string{"acme.example"}}))
	require.Equal(t, 200, ask(t, acme, s.URL).Status)
	require.True(t, seen.last().Admitted, "a replaced shadow policy is looked at anew")
	require.Equal(t, mtls.OutcomePass, step().Outcome)
}

func TestZeroValuesDeny(t *testing.T) {
	t.Parallel()
	for _, g := range []*mtls.Guard{nil, {}} {
		url := plainServer(t, g.Handler(hello))
		r := ask(t, http.DefaultClient, url)
		require.Equal(t, 500, r.Status)
		require.Equal(t, "internal", r.Code)
		require.Equal(t, 500, ask(t, http.DefaultClient, plainServer(t, g.Require("x")(hello))).Status)
		require.Error(t, g.Ready())
		require.Error(t, g.Run(t.Context()))
		require.Error(t, g.Refresh(t.Context()))
		d, err := g.Check(t.Context(), mtls.Peer{})
		require.Error(t, err)
		require.False(t, d.Admitted)
	}
	require.False(t, (&mtls.Decision{}).Admitted)
	require.Equal(t, "unknown", mtls.Outcome(0).String())
	require.Equal(t, 500, mtls.Reason("no such reason").Status())
}

func TestNewReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := mtls.New(mtls.Config{
		Roots: &mtls.Roots{}, Policy: &mtls.Policy{}, Shadow: &mtls.Policy{},
		Origin: &mtls.Origin{Hosts: []string{"10.0.0.1"}}, Revocation: &mtls.Revocation{MaxAge: -1},
		SessionLifetime: 8 * 24 * time.Hour, Limits: mtls.Limits{Names: -1, Wait: -1},
	})
	require.Error(t, err)
	for _, field := range []string{"Config.Roots", "Config.Policy", "Config.Shadow", "Config.Origin.Hosts[0]", "Config.Revocation.MaxAge",
		"Config.SessionLifetime", "Config.Limits.Names", "Config.Limits.Wait"} {
		require.ErrorContains(t, err, "mtls: "+field)
	}
	var typed *mtls.ConfigError
	require.ErrorAs(t, err, &typed)
	_, err = mtls.New(mtls.Config{})
	require.ErrorContains(t, err, "Config.Roots")
	require.ErrorContains(t, err, "Config.Policy")
}

// TestReplaceWhileRequestsRun hammers live objects: under the race detector, and
// no answer but those of one of the two states.
func TestReplaceWhileRequestsRun(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	acme := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}
	other := mtls.Rule{Name: "other", Domains: []string{"other.example"}}
	cfg := env.Config(acme)
	g := mtlstest.NewGuard(t, cfg)
	s := mtlstest.NewOptionalServer(t, g, g.Handler(hello))
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	require.Equal(t, 200, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
	// Each request has a replacement under way beside it.
	turns, done := make(chan int), make(chan struct{})
	go func() {
		defer close(done)
		for i := range turns {
			rules := []mtls.Rule{acme, other}[i%2:]
			if cfg.Policy.Replace(rules...) != nil || cfg.Roots.Replace(env.CA.Authority("env")) != nil {
				panic("replace")
			}
		}
	}()
	var admitted, refused atomic.Int32
	for i := range 200 {
		turns <- i
		r := ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL)
		switch {
		case r.Status == 200 && r.Body == "acme acme.example":
			admitted.Add(1)
		case r.Status == 403 && r.Code == "not_allowed":
			refused.Add(1)
		default:
			t.Fatalf("%d %s", r.Status, r.Body)
		}
	}
	close(turns)
	<-done
	require.NoError(t, cfg.Policy.Replace(other))
	require.Equal(t, 403, ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL).Status)
}
