package dnsclient_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

func TestConfigFile(t *testing.T) {
	s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
		m.AuthenticatedData = true
		if m.Question[0].Name == "p.example." {
			m.Answer = rrs(t, "p.example. 60 A 192.0.2.1")
		} else {
			m.Rcode = dns.RcodeNameError
		}
		return m
	})
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(t *testing.T, text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	var dialled []string
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	fresh := func() *dnsclient.Client {
		dialled = nil
		return dnsclient.New(dnsclient.Options{ConfigFile: path, Now: func() time.Time { return now }, Attempts: 1,
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dialled = append(dialled, addr)
				return new(net.Dialer).DialContext(ctx, network, s.addr.String())
			}})
	}

	t.Run("no search domain is tried", func(t *testing.T) {
		write(t, "search evil.test\ndomain evil.test\noptions ndots:5\nnameserver 192.0.2.53\n")
		answer, err := fresh().Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Equal(t, addrs("192.0.2.1"), answer.Addrs)
		answer, err = fresh().Lookup(t.Context(), "absent", dnsclient.A)
		require.NoError(t, err)
		require.True(t, answer.NXDomain)
		require.Equal(t, []string{"udp p.example.", "udp absent."}, s.queries())
	})
	t.Run("the AD bit counts from this host or with trust-ad", func(t *testing.T) {
		for config, want := range map[string]bool{
			"nameserver 192.0.2.53\n":                                    false,
			"nameserver 192.0.2.53\noptions edns0 trust-ad\n":            true,
			"options trust-ad\nnameserver 192.0.2.53\n":                  true,
			"nameserver 127.0.0.53\n":                                    true,
			"nameserver ::1\n":                                           true,
			"# options trust-ad\n;options trust-ad\nnameserver 10.0.0.1": false,
		} {
			write(t, config)
			answer, err := fresh().Lookup(t.Context(), "p.example", dnsclient.A)
			require.NoError(t, err)
			require.Equal(t, want, answer.Authenticated, config)
		}
	})
	t.Run("servers in order, what is no address left out", func(t *testing.T) {
		write(t, "#nameserver 192.0.2.1\nnameserver\nnameserver dns.example\n nameserver 2001:db8::53 # comment\nnameserver 192.0.2.2\n")
		_, err := fresh().Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Equal(t, []string{"[2001:db8::53]:53"}, dialled)
	})
	t.Run("three servers are asked", func(t *testing.T) {
		write(t, "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n")
		dialled := 0
		c := dnsclient.New(dnsclient.Options{ConfigFile: path, Attempts: 1, Dial: func(context.Context, string, string) (net.Conn, error) {
			dialled++
			return nil, errors.New("no route")
		}})
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorContains(t, err, "no route")
		require.Equal(t, 3, dialled)
	})
	t.Run("the file is read again after 30 s and the old servers stand while it cannot be", func(t *testing.T) {
		write(t, "nameserver 192.0.2.1\n")
		c := fresh()
		for _, step := range []struct {
			config string
			later  time.Duration
			want   string
		}{
			{"nameserver 192.0.2.1\n", 0, "192.0.2.1:53"},
			{"nameserver 192.0.2.2\n", 30 * time.Second, "192.0.2.1:53"},
			{"nameserver 192.0.2.2\n", time.Second, "192.0.2.2:53"},
			{"", 31 * time.Second, "192.0.2.2:53"},
			{"nameserver 192.0.2.3\n", 31 * time.Second, "192.0.2.3:53"},
			{"nameserver 192.0.2.4\n", -time.Hour, "192.0.2.4:53"},
		} {
			write(t, step.config)
			now = now.Add(step.later)
			_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
			require.NoError(t, err)
			require.Equal(t, step.want, dialled[len(dialled)-1])
		}
	})
	for name, config := range map[string]string{"empty": "", "without servers": "search example\n", "with a line too long": strings.Repeat("x", 1<<17)} {
		t.Run("a file "+name+" is an error", func(t *testing.T) {
			write(t, config)
			_, err := fresh().Lookup(t.Context(), "p.example", dnsclient.A)
			require.ErrorContains(t, err, "no DNS servers known")
			require.Empty(t, dialled)
		})
	}
	t.Run("a missing file is an error, and is looked for again", func(t *testing.T) {
		require.NoError(t, os.Remove(path))
		c := fresh()
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorIs(t, err, os.ErrNotExist)
		write(t, "nameserver 192.0.2.1\n")
		_, err = c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
	})
}
