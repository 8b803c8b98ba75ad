package origin_test

import (
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

func forwardWarm(tb testing.TB) func() origin.Outcome {
	return warm(tb, &origin.Spec{}, func(w *world) { w.set(domain, dnsclient.A, long(addrs("1.1.1.1", public, "9.9.9.9"))) })
}

// A request of a client that is known costs no memory.
func TestWarmCheckAllocatesNothing(t *testing.T) {
	check := forwardWarm(t)
	require.Equal(t, match, check())
	require.Zero(t, testing.AllocsPerRun(100, func() { check() }))
	prefix := warm(t, &origin.Spec{Prefixes: prefixes("10.0.0.0/8", "93.184.0.0/16")}, func(*world) {})
	require.Equal(t, match, prefix())
	require.Zero(t, testing.AllocsPerRun(100, func() { prefix() }))
}

func BenchmarkWarmCheck(b *testing.B) {
	for name, check := range map[string]func() origin.Outcome{
		"forward": forwardWarm(b),
		"prefix":  warm(b, &origin.Spec{Prefixes: prefixes("93.184.0.0/16")}, func(*world) {}),
		"published": warm(b, &origin.Spec{Published: true}, func(w *world) {
			w.set(text, dnsclient.TXT, long(texts("v=mtls1 ip4:93.184.216.0/28")))
		}),
		"hosts": warm(b, &origin.Spec{Hosts: []string{"a.example", "b.example"}}, func(w *world) {
			w.set("a.example", dnsclient.A, long(addrs("1.1.1.1")))
			w.set("b.example", dnsclient.A, long(addrs(public)))
		}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if check() != match {
					b.Fatal("no match")
				}
			}
		})
	}
}
