package dnscache_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
)

func TestAnyRecordMakesAnAnswerPositive(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer dnsclient.Answer
		want   time.Duration
	}{
		{"address", dnsclient.Answer{Addrs: []netip.Addr{here}}, 30 * time.Second},
		{"text", dnsclient.Answer{Texts: []string{"v=mtls1"}}, 30 * time.Second},
		{"empty text", dnsclient.Answer{Texts: []string{""}}, 30 * time.Second},
		{"name", dnsclient.Answer{Names: []string{"p.example"}}, 30 * time.Second},
		{"none", dnsclient.Answer{}, 5 * time.Second},
		{"none, not nil", dnsclient.Answer{Addrs: []netip.Addr{}, Texts: []string{}, Names: []string{}}, 5 * time.Second},
		{"NXDOMAIN", dnsclient.Answer{NXDomain: true}, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				s.set(tt.answer, nil, 0)
				r := get(t, c)
				require.Equal(t, tt.answer, r.Answer)
				require.Equal(t, tt.want, r.Expires.Sub(r.At))
			})
		})
	}
}

func TestRecordsThatSupersede(t *testing.T) {
	first := dnsclient.Answer{Texts: []string{"a", "b"}, Names: []string{"a.example", "b.example"}}
	for _, tt := range []struct {
		name string
		next dnsclient.Answer
		want bool
	}{
		{"the same", first, false},
		{"another order", dnsclient.Answer{Texts: []string{"b", "a"}, Names: []string{"b.example", "a.example"}}, false},
		{"another text", dnsclient.Answer{Texts: []string{"a", "c"}, Names: first.Names}, true},
		{"a text less", dnsclient.Answer{Texts: []string{"a"}, Names: first.Names}, true},
		{"another name", dnsclient.Answer{Texts: first.Texts, Names: []string{"a.example", "c.example"}}, true},
		{"no names", dnsclient.Answer{Texts: first.Texts}, true},
		{"none", dnsclient.Answer{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
				s.set(first, nil, 0)
				r := get(t, c)
				s.set(tt.next, nil, 0)
				require.NoError(t, c.Refresh(t.Context()))
				require.Equal(t, tt.want, r.Superseded())
				require.False(t, get(t, c).Superseded())
			})
		})
	}
}

func TestRecordsAreSortedCopies(t *testing.T) {
	texts, names := []string{"b", "a"}, []string{"b.example", "a.example"}
	run(t, dnscache.Options{}, func(t *testing.T, s *dnsServer, c *dnscache.Cache) {
		s.set(dnsclient.Answer{Texts: texts, Names: names}, nil, 0)
		r := get(t, c)
		require.Equal(t, []string{"a", "b"}, r.Answer.Texts)
		require.Equal(t, []string{"a.example", "b.example"}, r.Answer.Names)
		require.Equal(t, []string{"b", "a"}, texts)
		require.Equal(t, []string{"b.example", "a.example"}, names)
		texts[0], names[0] = "evil", "evil.example"
		require.False(t, slices.Contains(r.Answer.Texts, "evil"))
		require.False(t, slices.Contains(r.Answer.Names, "evil.example"))
	})
}
