package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// A client is admitted for the moment in which it is served: what ends while a
// callback runs has ended.
func TestWhatEndsInACallbackHasEnded(t *testing.T) {
	t.Parallel()
	changes := []struct {
		name   string
		change func(*mtlstest.Env, mtls.Config) error
		want   mtls.Reason
	}{
		{"the certificate", func(e *mtlstest.Env, _ mtls.Config) error { e.Clock.Advance(2 * time.Minute); return nil }, mtls.ReasonExpired},
		{"the rule", func(_ *mtlstest.Env, c mtls.Config) error {
			return c.Policy.Replace(mtls.Rule{Name: "no", Deny: true, Domains: []string{"acme.example"}})
		}, mtls.ReasonDeniedByRule},
		{"the authority", func(_ *mtlstest.Env, c mtls.Config) error {
			return c.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("new"))
		}, mtls.ReasonUntrustedIssuer},
	}
	for _, callback := range []string{"Accounts", "Verify", "Observe"} {
		for _, c := range changes {
			t.Run(c.name+" in "+callback, func(t *testing.T) {
				t.Parallel()
				env := mtlstest.NewEnv(t)
				cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()})
				seen := &observer{}
				cfg.Observe = seen.observe
				called := 0
				once := func() (err error) {
					if called++; called == 1 {
						err = c.change(env, cfg)
					}
					return err
				}
				switch callback {
				case "Accounts":
					cfg.Accounts = mapperFunc(func(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
						return mtls.Account{Name: id.Name()}, once()
					})
				case "Verify":
					cfg.Verify = func(context.Context, *mtls.Identity) error { return once() }
				case "Observe":
					cfg.Observe = func(context.Context, *mtls.Decision) { require.NoError(t, once()) }
				}
				g := mtlstest.NewGuard(t, cfg)
				cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, NotAfter: env.Clock.Now().Add(time.Minute)})
				d, err := g.Check(t.Context(), peerOf(cert))
				require.Error(t, err)
				require.False(t, d.Admitted)
				require.Equal(t, c.want, d.Reason, d.Detail())
				require.NotZero(t, called)
				if callback == "Accounts" {
					require.Equal(t, 1, seen.count(), "nobody is told of an admission that never held")
				}
			})
		}
	}
}

// A decision that is out of date whenever it has been told refuses in the end.
func TestPolicyThatChangesInEveryObserveAdmitsNobody(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	rule := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()}
	cfg := env.Config(rule)
	calls := 0
	cfg.Observe = func(context.Context, *mtls.Decision) {
		calls++
		require.NoError(t, cfg.Policy.Replace(rule))
	}
	d, err := mtlstest.NewGuard(t, cfg).Check(t.Context(), peerOf(env.CA.Issue(pcNames("acme.example"))))
	require.Error(t, err)
	require.Equal(t, mtls.ReasonInternal, d.Reason)
	require.Equal(t, 9, calls, "it ends, and the refusal is told as well")
}

// Roots and policy that are replaced at the same time fit each other afterwards:
// of two replacements that do not, one fails.
func TestReplacementsAtTheSameTimeFitEachOther(t *testing.T) {
	t.Parallel()
	ca, keep := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("keep")
	keep.Domains = []string{"example"}
	other := func(name string) mtls.Authority {
		a := ca.Authority(name)
		a.Domains = []string{"example"}
		return a
	}
	// What must be compared takes long, and what matters comes first.
	rules := []mtls.Rule{{Name: "no", Deny: true, Authorities: []string{"a"}}}
	for i := range 40 {
		rules = append(rules, mtls.Rule{Name: fmt.Sprint("r", i), Domains: []string{"x.example"}, Authorities: slices.Repeat([]string{"keep"}, 2000)})
	}
	for range 50 {
		roots := pcRoots(t, other("a"), keep)
		policy, err := mtls.NewPolicy(rules[1])
		require.NoError(t, err)
		cfg := mtls.Config{Roots: roots, Policy: policy}
		mtlstest.NewGuard(t, cfg)
		var attempts, done atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() {
			for done.Load() == 0 {
				if policy.Replace(rules...) == nil {
					done.Store(1)
				}
				attempts.Add(1)
			}
		})
		for range 20 {
			// A moment of some length, in which the other side is somewhere.
			_, err := mtls.NewPolicy(rules[1 : 2+rand.IntN(len(rules)-1)]...)
			require.NoError(t, err)
			if roots.Replace(other("b"), keep) != nil {
				break // the deny rule was there first
			}
			for n := attempts.Load(); attempts.Load() == n && done.Load() == 0; {
				runtime.Gosched() // an attempt that began earlier ends
			}
			if done.Load() != 0 {
				break
			}
			require.NoError(t, roots.Replace(other("a"), keep))
		}
		done.CompareAndSwap(0, 2)
		wg.Wait()
		_, err = mtls.New(cfg)
		require.NoError(t, err, "both replacements succeeded, and New says that they do not fit")
		runtime.KeepAlive(policy)
		runtime.KeepAlive(roots)
	}
}

// Guards that share roots and policies, bound in any order, do not lock each other
// out while everything is replaced.
func TestReplacementsOfSharedStateEnd(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	rule := mtls.Rule{Name: "r", Domains: []string{"x.example"}}
	roots := []*mtls.Roots{pcRoots(t, ca.Authority("a")), pcRoots(t, ca.Authority("a"))}
	var wg sync.WaitGroup
	var failed atomic.Int64
	do := func(times int, f func() error) {
		wg.Go(func() {
			for range times {
				if f() != nil {
					failed.Add(1)
				}
			}
		})
	}
	for i := range 2 {
		policy, err := mtls.NewPolicy(rule)
		require.NoError(t, err)
		bind := func(r *mtls.Roots) error {
			_, err := mtls.New(mtls.Config{Roots: r, Policy: policy, Shadow: policy})
			return err
		}
		require.NoError(t, bind(roots[i]))
		require.NoError(t, bind(roots[1-i]))
		do(3000, func() error { return policy.Replace(rule) })
		do(300, func() error { return roots[i].Replace(ca.Authority("a")) })
		do(30, func() error { return bind(roots[i]) })
	}
	wg.Wait()
	require.Zero(t, failed.Load())
}

// The policy of a Guard that is gone does not stand in the way of the roots.
func TestPolicyOfAGoneGuardBindsNobody(t *testing.T) {
	t.Parallel()
	one, two := mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("one"), mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("two")
	one.Domains, two.Domains = []string{"one.example"}, []string{"two.example"}
	roots := pcRoots(t, one, two)
	func() {
		mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Domains: []string{"two.example"}}))
		require.Error(t, roots.Replace(one))
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return roots.Replace(one) == nil
	}, time.Minute, time.Millisecond)
}

// What a caller has made of the anchors of a file outlives Reload.
func TestReloadKeepsWhatTheCallerMadeOfTheAnchors(t *testing.T) {
	t.Parallel()
	var cas []*mtlstest.CA
	var leaves []*x509.Certificate
	for range 6 {
		ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
		cas, leaves = append(cas, ca), append(leaves, ca.Issue(pcNames("a.example")).Leaf())
	}
	const constrained, leftOut, dropped, stays, fresh, added = 0, 1, 2, 3, 4, 5
	file := cas[0].PEMFile()
	write := func(list ...int) {
		var data []byte
		for _, i := range list {
			data = append(data, pcPEM("CERTIFICATE", cas[i].Certificate().Raw)...)
		}
		require.NoError(t, os.WriteFile(file, data, 0o600))
	}
	write(constrained, leftOut, dropped, stays)
	a, err := mtls.LoadAuthority(file)
	require.NoError(t, err)
	a.Anchors[constrained].Constraint = func([]*x509.Certificate) error { return errors.New("distrusted") }
	a.Anchors = append(slices.Delete(a.Anchors, leftOut, leftOut+1), mtls.Anchor{
		Certificate: cas[added].Certificate(), Constraint: func([]*x509.Certificate) error { return nil },
	})
	roots := pcRoots(t, a)
	g := mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	admitted := func() (list []int) {
		for i, leaf := range leaves {
			if pcDecide(t, g, leaf).Admitted {
				list = append(list, i)
			}
		}
		return list
	}
	require.Equal(t, []int{dropped, stays, added}, admitted())
	require.NoError(t, roots.Reload())
	require.Equal(t, []int{dropped, stays, added}, admitted(), "the file is as it was")
	write(fresh, stays, leftOut, constrained)
	for range 2 {
		require.NoError(t, roots.Reload())
		require.Equal(t, []int{stays, fresh, added}, admitted())
	}
	write(stays, fresh, added)
	require.NoError(t, roots.Reload())
	require.Equal(t, []int{stays, fresh, added}, admitted())
	write(leftOut, dropped)
	require.NoError(t, roots.Reload())
	require.NotContains(t, admitted(), constrained)
	require.NotContains(t, admitted(), stays)
	require.Contains(t, admitted(), dropped, "it has come again")
}

// A constraint outlives its CA's absence from the file, and a new certificate of
// the same CA.
func TestReloadKeepsAConstraint(t *testing.T) {
	t.Parallel()
	options := mtlstest.CAOptions{CommonName: "root", Key: pcKey(t)}
	ca, again, other := mtlstest.NewCA(t, options), mtlstest.NewCA(t, options), mtlstest.NewCA(t, mtlstest.CAOptions{})
	leaf := ca.Issue(pcNames("a.example")).Leaf()
	file := ca.PEMFile()
	a, err := mtls.LoadAuthority(file)
	require.NoError(t, err)
	a.Anchors[0].Constraint = func([]*x509.Certificate) error { return errors.New("distrusted") }
	roots := pcRoots(t, a)
	g := mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	for _, held := range []*mtlstest.CA{other, ca, again, other, again} {
		require.NoError(t, os.WriteFile(file, pcPEM("CERTIFICATE", held.Certificate().Raw), 0o600))
		require.NoError(t, roots.Reload())
		require.False(t, pcDecide(t, g, leaf).Admitted)
	}
}

type wkPanics struct{ slog.Handler }

func (wkPanics) Enabled(context.Context, slog.Level) bool  { return true }
func (wkPanics) Handle(context.Context, slog.Record) error { panic("log") }
func (p wkPanics) WithAttrs([]slog.Attr) slog.Handler      { return p }
func (p wkPanics) WithGroup(string) slog.Handler           { return p }

// A logger that panics refuses, and does not end the process: in a TLS hook no
// net/http recovers.
func TestLoggerThatPanicsRefuses(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()})
	cfg.Logger = slog.New(wkPanics{})
	g := mtlstest.NewGuard(t, cfg)
	require.NotPanics(t, func() {
		require.Error(t, g.VerifyConnection(tls.ConnectionState{}))
		require.Error(t, g.VerifyPeerCertificate(nil, nil))
		for range 2 {
			d, err := g.Check(t.Context(), peerOf(env.CA.Issue(pcNames("a.example"))))
			require.Error(t, err)
			require.Equal(t, mtls.ReasonInternal, d.Reason)
			_, err = g.Check(t.Context(), peerOf(env.CA.Issue(pcNames("b.example"))))
			require.Error(t, err)
		}
	})
}

// A certificate that is nil, which a caller's own code may pass, refuses.
func TestNilCertificateRefuses(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	g := env.Guard(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()})
	leaf := env.CA.Issue(pcNames("a.example")).Leaf()
	for _, certs := range [][]*x509.Certificate{{nil}, {leaf, nil}, {nil, leaf}, {{}}} {
		require.NotPanics(t, func() {
			require.Error(t, g.VerifyConnection(tls.ConnectionState{PeerCertificates: certs}))
			_, err := g.Check(t.Context(), mtls.Peer{TLS: tls.ConnectionState{HandshakeComplete: true, PeerCertificates: certs}})
			require.Error(t, err)
		})
	}
}

// A shadow policy enforces nothing, so it does not keep an authority that must
// go; its own rules are still checked against the roots.
func TestShadowPolicyDoesNotHoldTheRoots(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	a, b := ca.Authority("a"), mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("b")
	a.Domains, b.Domains = []string{"a.example"}, []string{"b.example"}
	cfg := pcConfig(t, pcRoots(t, a, b), mtls.Rule{Name: "r", Domains: []string{"a.example"}})
	shadow := func(authority string) mtls.Rule {
		return mtls.Rule{Name: "s", Authorities: []string{authority}, Origin: mtls.NoOrigin()}
	}
	var err error
	cfg.Shadow, err = mtls.NewPolicy(shadow("b"))
	require.NoError(t, err)
	g := mtlstest.NewGuard(t, cfg)
	leaf := ca.Issue(pcNames("a.example")).Leaf()
	require.NoError(t, cfg.Roots.Replace(a))
	require.True(t, pcDecide(t, g, leaf).Admitted)
	require.Error(t, cfg.Shadow.Replace(shadow("b")))
	require.Error(t, cfg.Shadow.Replace(shadow("c")))
	require.NoError(t, cfg.Shadow.Replace(shadow("a")))
	require.Error(t, cfg.Roots.Replace(b), "the policy that is enforced does hold them")
	require.True(t, pcDecide(t, g, leaf).Admitted)
	runtime.KeepAlive(cfg)
}
