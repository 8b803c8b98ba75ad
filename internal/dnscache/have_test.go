package dnscache_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// Have is Get for who does not wait: what is not known is not asked for, what is
// known counts as used and is renewed before it lapses, and a failure is known too.
func TestHave(t *testing.T) {
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(positive(100*time.Second, here), nil, time.Second)
		_, ok := c.Have(name, dnsclient.A)
		require.False(t, ok)
		time.Sleep(time.Minute)
		require.Zero(t, s.lookups())

		first := get(t, c)
		r, ok := c.Have(name, dnsclient.A)
		require.True(t, ok)
		require.Same(t, first, r)
		time.Sleep(79 * time.Second)
		_, ok = c.Have(name, dnsclient.A)
		require.True(t, ok)
		require.Equal(t, 1, s.lookups())
		time.Sleep(2 * time.Second)
		r, ok = c.Have(name, dnsclient.A)
		require.True(t, ok)
		require.Same(t, first, r, "nobody waits for the new one")
		time.Sleep(2 * time.Second)
		require.Equal(t, 2, s.lookups())

		s.set(dnsclient.Answer{}, errors.New("SERVFAIL"), 0)
		time.Sleep(time.Hour)
		_, ok = c.Have(name, dnsclient.A)
		require.False(t, ok, "it has lapsed")
		failed := get(t, c)
		require.Error(t, failed.Err)
		r, ok = c.Have(name, dnsclient.A)
		require.True(t, ok)
		require.Same(t, failed, r)
		require.True(t, r.Failed())
	})
}
