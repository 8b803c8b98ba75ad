package mtls_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// trace asks once and tells whether the connection had been used before.
func trace(t *testing.T, c *http.Client, url string) (reply, bool) {
	t.Helper()
	var reused bool
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
	})
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	require.NoError(t, err)
	res, err := c.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	r := reply{Status: res.StatusCode, Body: string(body), Header: res.Header, Proto: res.Proto}
	if i := indexCode(r.Body); i != "" {
		r.Code = i
	}
	return r, reused
}

func plainServer(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}

// TestThreat73_LiveConnectionIsDecidedAnew changes something in the middle of a
// live HTTP/2 connection: the next request on it is refused.
func TestThreat73_LiveConnectionIsDecidedAnew(t *testing.T) {
	t.Parallel()
	acme := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}
	other := mtls.Rule{Name: "other", Domains: []string{"other.example"}}
	type world struct {
		*mtlstest.Env
		cfg   mtls.Config
		guard *mtls.Guard
		cert  *mtlstest.Certificate
	}
	for _, row := range []struct {
		name   string
		change func(*testing.T, world)
		status int
		code   string
	}{
		{"the rule is dropped", func(t *testing.T, w world) { require.NoError(t, w.cfg.Policy.Replace(other)) }, 403, "not_allowed"},
		{"a deny rule is added", func(t *testing.T, w world) {
			require.NoError(t, w.cfg.Policy.Replace(acme, mtls.Rule{Name: "no", Deny: true, Domains: []string{"acme.example"}}))
		}, 403, "not_allowed"},
		{"the roots are replaced", func(t *testing.T, w world) {
			require.NoError(t, w.cfg.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("new")))
		}, 403, "untrusted_issuer"},
		{"the certificate is revoked and evidence refreshed", func(t *testing.T, w world) {
			w.Revocation.Revoke(w.cert, 1)
			require.NoError(t, w.guard.Refresh(context.Background()))
		}, 403, "revoked"},
		{"the certificate ends", func(t *testing.T, w world) { w.Clock.Advance(4 * time.Minute) }, 403, "expired"},
		{"the evidence lapses and the responder is down", func(t *testing.T, w world) {
			w.Revocation.Fail(mtlstest.Down)
			w.Clock.Advance(2*time.Minute + 30*time.Second)
		}, 503, "revocation_unknown"},
		{"the domain moves away", func(t *testing.T, w world) {
			w.DNS.Set("acme.example", "127.0.0.9")
			w.Clock.Advance(61 * time.Second)
		}, 403, "origin_mismatch"},
		{"the domain moves away and DNS is refreshed", func(t *testing.T, w world) {
			w.DNS.Set("acme.example", "127.0.0.9")
			require.NoError(t, w.guard.Refresh(context.Background()))
		}, 403, "origin_mismatch"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := world{Env: mtlstest.NewEnv(t)}
			w.DNS.Set("acme.example", "127.0.0.1")
			w.cfg = w.Config(acme)
			w.cfg.Revocation.MaxAge = 3 * time.Minute // of statements that are a minute old
			w.guard = mtlstest.NewGuard(t, w.cfg)
			w.cert = w.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, NotAfter: w.Clock.Now().Add(3 * time.Minute)})
			s := mtlstest.NewServer(t, w.guard, hello)
			client := s.Client(w.cert, mtlstest.ClientOptions{})
			for range 2 {
				r, _ := trace(t, client, s.URL)
				require.Equal(t, 200, r.Status, r.Body)
				require.Equal(t, "HTTP/2.0", r.Proto)
			}
			row.change(t, w)
			r, reused := trace(t, client, s.URL)
			require.True(t, reused, "it must be the same connection")
			require.Equal(t, row.status, r.Status, r.Body)
			require.Equal(t, row.code, r.Code)
		})
	}
}

// TestVerdictEnds moves the clock to just before and just after everything that
// bounds a verdict, and counts fresh decisions.
func TestVerdictEnds(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		set  func(*mtlstest.Env, *mtls.Config)
		leaf time.Duration
		ttl  time.Duration
		rule func(now time.Time) []mtls.Rule
		end  time.Duration
	}{
		{name: "five minutes", end: 5 * time.Minute},
		{name: "the certificate's end", leaf: 2 * time.Minute, end: 2 * time.Minute},
		{name: "the evidence's end", set: func(_ *mtlstest.Env, c *mtls.Config) { c.Revocation.MaxAge = 3 * time.Minute }, end: 2 * time.Minute},
		{name: "the DNS answer's end", ttl: 90 * time.Second, end: 90 * time.Second},
		{name: "the account's end", set: func(e *mtlstest.Env, c *mtls.Config) {
			c.Accounts = mapperFunc(func(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
				return mtls.Account{Name: "a", Expires: e.Clock.Now().Add(40 * time.Second)}, nil
			})
		}, end: 40 * time.Second},
		{name: "the rule's end", end: 70 * time.Second, rule: func(now time.Time) []mtls.Rule {
			return []mtls.Rule{{Name: "acme", Domains: []string{"acme.example"}, NotAfter: now.Add(70 * time.Second)}}
		}},
		{name: "a deny rule's beginning", end: 80 * time.Second, rule: func(now time.Time) []mtls.Rule {
			return []mtls.Rule{{Name: "acme", Domains: []string{"acme.example"}},
				{Name: "no", Deny: true, Domains: []string{"*.acme.example", "acme.example"}, NotBefore: now.Add(80 * time.Second)}}
		}},
		{name: "an earlier rule's beginning", end: 50 * time.Second, rule: func(now time.Time) []mtls.Rule {
			return []mtls.Rule{{Name: "soon", Domains: []string{"acme.example"}, NotBefore: now.Add(50 * time.Second)},
				{Name: "acme", Domains: []string{"acme.example"}}}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			ttl := row.ttl
			if ttl == 0 {
				ttl = 14 * time.Minute
			}
			env.DNS.SetTTL("acme.example", ttl, "127.0.0.1")
			rules := []mtls.Rule{{Name: "acme", Domains: []string{"acme.example"}}}
			if row.rule != nil {
				rules = row.rule(env.Clock.Now())
			}
			cfg := env.Config(rules...)
			seen := &observer{}
			cfg.Observe = seen.observe
			if row.set != nil {
				row.set(env, &cfg)
			}
			g := mtlstest.NewGuard(t, cfg)
			leaf := mtlstest.Leaf{Names: []string{"acme.example"}}
			if row.leaf > 0 {
				leaf.NotAfter = env.Clock.Now().Add(row.leaf)
			}
			s := mtlstest.NewServer(t, g, hello)
			client := s.Client(env.CA.Issue(leaf), mtlstest.ClientOptions{})
			require.Equal(t, 200, ask(t, client, s.URL).Status)
			require.Equal(t, 1, seen.count())
			require.Equal(t, row.end, seen.last().Expires.Sub(env.Clock.Now()), seen.last().Steps)
			env.Clock.Advance(row.end - time.Second)
			require.Equal(t, 200, ask(t, client, s.URL).Status)
			require.Equal(t, 1, seen.count(), "a second earlier the verdict still holds")
			env.Clock.Advance(time.Second + time.Millisecond)
			ask(t, client, s.URL)
			require.Equal(t, 2, seen.count(), "then it is decided anew")
		})
	}
}

type mapperFunc func(context.Context, *mtls.Identity) (mtls.Account, error)

func (f mapperFunc) MapAccount(ctx context.Context, id *mtls.Identity) (mtls.Account, error) {
	return f(ctx, id)
}

// TestThreat23_VerdictIsKeyedByEverything: nothing that one client was admitted for
// admits another.
func TestThreat23_VerdictIsKeyedByEverything(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	env.DNS.Set("globex.example", "127.0.0.2")
	rules := []mtls.Rule{{Name: "acme", Domains: []string{"acme.example"}}, {Name: "globex", Domains: []string{"globex.example"}}}
	seen := &observer{}
	cfg := env.Config(rules...)
	cfg.Observe = seen.observe
	g := mtlstest.NewGuard(t, cfg)
	s := mtlstest.NewServer(t, g, hello)
	acme := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	require.Equal(t, 200, ask(t, s.Client(acme, mtlstest.ClientOptions{}), s.URL).Status)
	require.Equal(t, 200, ask(t, s.Client(acme, mtlstest.ClientOptions{}), s.URL).Status)
	require.Equal(t, 1, seen.count(), "a new connection of the same client uses the verdict")
	require.Equal(t, 403, ask(t, s.Client(acme, mtlstest.ClientOptions{From: "127.0.0.2"}), s.URL).Status, "another address does not")
	globex := env.CA.Issue(mtlstest.Leaf{Names: []string{"globex.example"}})
	r := ask(t, s.Client(globex, mtlstest.ClientOptions{From: "127.0.0.2"}), s.URL)
	require.Equal(t, "globex globex.example", r.Body)

	// A second guard with another policy shares nothing, even on one connection.
	cfg2 := env.Config(rules[1])
	strict := mtlstest.NewGuard(t, cfg2)
	both := mtlstest.NewServer(t, g, strict.Handler(hello))
	require.Equal(t, 403, ask(t, both.Client(acme, mtlstest.ClientOptions{}), both.URL).Status)
}

func TestClockThatGoesBackIsNotTrusted(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	seen := &observer{}
	cfg.Observe = seen.observe
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, client, s.URL).Status)
	env.Clock.Advance(-time.Minute)
	ask(t, client, s.URL)
	require.Equal(t, 2, seen.count())
}

// TestVerifyIsNeverCached: the caller's own condition is asked every time.
func TestVerifyIsNeverCached(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	calls, fail := 0, false
	cfg.Verify = func(context.Context, *mtls.Identity) error {
		if calls++; fail {
			return errors.New("no")
		}
		return nil
	}
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
	for range 3 {
		require.Equal(t, 200, ask(t, client, s.URL).Status)
	}
	require.Equal(t, 3, calls)
	fail = true
	require.Equal(t, 403, ask(t, client, s.URL).Status)
}
