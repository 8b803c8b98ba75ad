package mtls_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// wkLookup answers from a function, with the context.
type wkLookup func(ctx context.Context, name string) (mtls.Answer, error)

func (r wkLookup) Lookup(ctx context.Context, name string, _ mtls.RecordType) (mtls.Answer, error) {
	return r(ctx, name)
}

func wkHosts(n int) (hosts []string) {
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("h%d.partner.example", i))
	}
	return hosts
}

// As many hosts as an Origin may name are looked up side by side, also in one
// domain.
func TestAllHostsOfAnOriginAreLookedUp(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	hosts := wkHosts(10)
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: &mtls.Origin{Hosts: hosts, AllowNetworks: mtlstest.Loopback()}})
	leaf := env.CA.Issue(pcNames("a.example")).Leaf()
	for _, at := range hosts {
		var together sync.WaitGroup // all are under way before one ends
		together.Add(len(hosts))
		cfg.Resolver = wkLookup(func(_ context.Context, name string) (mtls.Answer, error) {
			together.Done()
			together.Wait()
			a := mtls.Answer{TTL: time.Minute, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
			if name == at {
				a.Addrs[0] = netip.MustParseAddr("127.0.0.1")
			}
			return a, nil
		})
		require.Equal(t, "r r a.example", pcSay(pcDecide(t, mtlstest.NewGuard(t, cfg), leaf)))
	}
}

// An answer that matched freshly serves for an hour while the name servers hang, for
// each host of a domain that could be asked for. The others are to try again: that
// there was no place says nothing of them, and a client can fill the places.
func TestStaleMatchServesTheHostsOfADomain(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	hosts := wkHosts(40)
	var dead atomic.Bool
	var rules []mtls.Rule
	for _, h := range hosts {
		rules = append(rules, mtls.Rule{Name: h, Domains: []string{h}})
	}
	cfg := env.Config(rules...)
	cfg.Limits.Wait = time.Second
	cfg.Revocation = mtls.NoRevocation()
	cfg.Resolver = wkLookup(func(ctx context.Context, _ string) (mtls.Answer, error) {
		if dead.Load() {
			<-ctx.Done()
			return mtls.Answer{}, errors.New("timeout")
		}
		return mtls.Answer{TTL: time.Minute, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}, nil
	})
	g := mtlstest.NewGuard(t, cfg)
	decide := func(h string) *mtls.Decision { return pcDecide(t, g, env.CA.Issue(pcNames(h)).Leaf()) }
	for _, h := range hosts {
		require.True(t, decide(h).Admitted)
	}
	dead.Store(true)
	env.Clock.Advance(2 * time.Minute)
	var wg sync.WaitGroup
	var admitted, unknown atomic.Int32
	for _, h := range hosts {
		wg.Go(func() {
			d := decide(h)
			if d.Admitted {
				admitted.Add(1)
			} else if d.Reason == mtls.ReasonOriginUnknown {
				unknown.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 32, admitted.Load())
	require.EqualValues(t, len(hosts)-32, unknown.Load())
	env.Clock.Advance(time.Hour)
	require.False(t, decide(hosts[39]).Admitted)
}
