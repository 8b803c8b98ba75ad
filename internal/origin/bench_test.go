package origin_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/origin"
)

// warm is a check of a peer whose answers are in memory, by the real clock.
func warm(tb testing.TB, spec *origin.Spec, set func(*world)) func() origin.Outcome {
	w := newWorld()
	set(w)
	cache := dnscache.New(dnscache.Options{Lookup: w.lookup})
	c := origin.New(cache, prefixes("203.0.113.0/24"), time.Now)
	q := origin.Query{Spec: spec, Rule: "partner", Domain: domain, Peer: addr(public), Local: addr("8.8.8.8")}
	ctx := tb.Context()
	return func() origin.Outcome {
		f := c.Check(ctx, q)
		return f.Outcome
	}
}

func long(a dnsclient.Answer) dnsclient.Answer {
	a.TTL = 15 * time.Minute
	return a
}

// warmWays are checks by each way.
func warmWays(tb testing.TB) map[string]func() origin.Outcome {
	pointer := dnsclient.ReverseName(addr(public))
	return map[string]func() origin.Outcome{
		"forward": warm(tb, &origin.Spec{}, func(w *world) { w.set(domain, dnsclient.A, long(addrs("1.1.1.1", public, "9.9.9.9"))) }),
		"hosts": warm(tb, &origin.Spec{Hosts: []string{"a.example", "b.example"}}, func(w *world) {
			w.set("a.example", dnsclient.A, long(addrs("1.1.1.1")))
			w.set("b.example", dnsclient.A, long(addrs(public)))
		}),
		"prefix":    warm(tb, &origin.Spec{Prefixes: prefixes("10.0.0.0/8", "93.184.0.0/16")}, func(*world) {}),
		"published": warm(tb, &origin.Spec{Published: true}, func(w *world) { w.set(text, dnsclient.TXT, long(texts("v=mtls1 ip4:93.184.216.0/28"))) }),
		"published name": warm(tb, &origin.Spec{Published: true}, func(w *world) {
			w.set(text, dnsclient.TXT, long(texts("v=mtls1 a:out.example")))
			w.set("out.example", dnsclient.A, long(addrs(public)))
		}),
		"reverse": warm(tb, &origin.Spec{Suffixes: []string{"pool.partner.example"}}, func(w *world) {
			w.set(pointer, dnsclient.PTR, long(names("a.pool.partner.example")))
			w.set("a.pool.partner.example", dnsclient.A, long(addrs(public)))
		}),
	}
}

// A check of a client that is known costs no memory, whichever way it comes.
func TestWarmCheckAllocatesNothing(t *testing.T) {
	for name, check := range warmWays(t) {
		require.Equal(t, match, check(), name)
		require.Zero(t, testing.AllocsPerRun(100, func() { check() }), name)
	}
}

func BenchmarkWarmCheck(b *testing.B) {
	ways := warmWays(b)
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if ways[name]() != match {
					b.Fatal("no match")
				}
			}
		})
	}
}
