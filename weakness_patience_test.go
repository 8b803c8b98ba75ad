package mtls_test

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// slowMapper takes all of the time that a decision has.
type slowMapper struct {
	slow  atomic.Bool
	after func()
}

func (m *slowMapper) MapAccount(ctx context.Context, id *mtls.Identity) (mtls.Account, error) {
	if m.slow.CompareAndSwap(true, false) {
		<-ctx.Done()
		m.after()
	}
	return mtls.Account{Name: "acme"}, nil
}

// A directory that takes all the time of a decision, in which the DNS answer lapses,
// does not make DNS fail: the name has not been asked for.
func TestSlowAccountIsNoFailureOfDNS(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	var address atomic.Pointer[netip.Addr]
	first, second := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.9")
	address.Store(&first)
	cfg.Resolver = fakeResolver(func(string, mtls.RecordType) (mtls.Answer, error) {
		return mtls.Answer{Addrs: []netip.Addr{*address.Load()}, TTL: time.Minute}, nil
	})
	mapper := &slowMapper{after: func() { env.Clock.Advance(time.Minute) }}
	cfg.Accounts, cfg.Limits.Wait = mapper, 2*time.Second
	g := mtlstest.NewGuard(t, cfg)
	p := wkFrom(env.CA.Issue(pcNames("acme.example")), "127.0.0.1")
	require.Eventually(t, func() bool {
		_, err := g.Check(t.Context(), p)
		return err == nil
	}, time.Minute, time.Millisecond)
	other := wkFrom(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), "127.0.0.1")
	require.Eventually(t, func() bool {
		_, err := g.Check(t.Context(), other)
		return err == nil
	}, time.Minute, time.Millisecond)

	env.Clock.Advance(time.Minute + time.Second) // asked again
	_, err := g.Check(t.Context(), p)
	require.NoError(t, err)
	address.Store(&second)
	env.Clock.Advance(10 * time.Second)
	mapper.slow.Store(true)
	d, err := g.Check(t.Context(), other)
	require.Error(t, err, "%v %s", d.Steps, d.Detail())
}
