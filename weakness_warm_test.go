package mtls_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// A partner whose record names, as a host, the place of another's record keeps that
// from nobody.
func TestRecordOfOnePartnerKeepsNoOtherFromBeingWarm(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	env := mtlstest.NewEnv(t)
	synctest.Test(t, func(t *testing.T) {
		published := &mtls.Origin{Published: true}
		cfg := env.Config(
			mtls.Rule{Name: "evil", Domains: []string{"evil.example"}, Origin: published},
			mtls.Rule{Name: "globex", Domains: []string{"globex.example"}, Origin: published},
		)
		cfg.Resolver = fakeResolver(func(name string, rt mtls.RecordType) (mtls.Answer, error) {
			mu.Lock()
			defer mu.Unlock()
			a := mtls.Answer{TTL: 10 * time.Minute}
			if rt == mtls.RecordTXT {
				a.Texts = []string{"v=mtls1 a:_mtls-egress.globex.example"}
				if name == "_mtls-egress.globex.example" {
					asked++
					a.Texts = []string{"v=mtls1 ip4:93.184.216.7"}
				}
			}
			return a, nil
		})
		cfg.Now, cfg.Revocation = time.Now, mtls.NoRevocation()
		g, err := mtls.New(cfg)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- g.Run(ctx) }()
		time.Sleep(time.Hour)
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		mu.Lock()
		defer mu.Unlock()
		require.Greater(t, asked, 4)
	})
}
