package mtls_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestWhatChangesWhileDecidingIsHeeded: a decision that took its time is not
// taken on what has been replaced meanwhile.
func TestWhatChangesWhileDecidingIsHeeded(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*mtlstest.Env, mtls.Config, *mtlstest.Certificate) error
		want   mtls.Reason
	}{
		"policy": {func(_ *mtlstest.Env, c mtls.Config, _ *mtlstest.Certificate) error {
			return c.Policy.Replace(mtls.Rule{Name: "other", Domains: []string{"other.example"}})
		}, mtls.ReasonNotAllowed},
		"roots": {func(_ *mtlstest.Env, c mtls.Config, _ *mtlstest.Certificate) error {
			return c.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("new"))
		}, mtls.ReasonUntrustedIssuer},
	} {
		t.Run(name, func(t *testing.T) {
			env := mtlstest.NewEnv(t)
			env.DNS.Set("acme.example", "127.0.0.1")
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
			cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
			calls := 0
			cfg.Accounts = mapperFunc(func(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
				if calls++; calls == 1 {
					require.NoError(t, row.change(env, cfg, cert))
				}
				return mtls.Account{Name: id.Name()}, nil
			})
			p := peerOf(cert)
			p.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
			d, err := mtlstest.NewGuard(t, cfg).Check(t.Context(), p)
			require.Error(t, err)
			require.Equal(t, row.want, d.Reason)
		})
	}
	t.Run("something changes each time", func(t *testing.T) {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("acme.example", "127.0.0.1")
		rule := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}
		cfg := env.Config(rule)
		calls := 0
		cfg.Accounts = mapperFunc(func(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
			calls++
			return mtls.Account{Name: id.Name()}, cfg.Policy.Replace(rule)
		})
		p := peerOf(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}))
		p.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
		d, err := mtlstest.NewGuard(t, cfg).Check(t.Context(), p)
		require.Error(t, err)
		require.Equal(t, mtls.ReasonInternal, d.Reason)
		require.Equal(t, 8, calls, "it ends")
	})
}

// TestVerdictOfAConnectionIsOfItsCertificates: a context that outlives what it
// was made for lends nobody a verdict.
func TestVerdictOfAConnectionIsOfItsCertificates(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	h := g.Handler(hello)
	ctx := g.ConnContext(t.Context(), addrConn{addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}})
	serve := func(name string) int {
		p := peerOf(env.CA.Issue(mtlstest.Leaf{Names: []string{name}}))
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		r.TLS = &p.TLS
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, 200, serve("acme.example"))
	require.Equal(t, 403, serve("other.example"))
	require.Equal(t, 200, serve("acme.example"))
}
