package dnscache_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// Whoever holds a few addresses runs the name servers of their names, and must not
// hold the places of everybody's: the registrable domain of an IPv6 address's name is
// that of an eighth of the Internet.
func TestSlowNamesOfAddressesLeavePlacesForOthers(t *testing.T) {
	for _, row := range []struct{ slow, other string }{
		{"2001:470:1:2::%x", "2a00:1450:4001::7"},
		{"2001:470:1:2::%x", "2600:1f18::7"},
		{"93.184.216.%d", "93.7.7.7"},
	} {
		synctest.Test(t, func(t *testing.T) {
			other := dnsclient.ReverseName(netip.MustParseAddr(row.other))
			ctx, cancel := context.WithCancel(t.Context())
			c := dnscache.New(dnscache.Options{Lookup: func(_ context.Context, name string, _ dnsclient.Type) (dnsclient.Answer, error) {
				if name != other {
					<-ctx.Done()
				}
				return dnsclient.Answer{Names: []string{"a.partner.example"}}, nil
			}})
			for i := range 100 {
				go c.Get(ctx, dnsclient.ReverseName(netip.MustParseAddr(fmt.Sprintf(row.slow, i+1))), dnsclient.PTR)
			}
			synctest.Wait()
			r := c.Get(t.Context(), other, dnsclient.PTR)
			require.NoError(t, r.Err, other)
			cancel()
			synctest.Wait()
		})
	}
}
