package mtls_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// manyRules are n rules of a kind, none of which means the same client as another.
func manyRules(n int, kind string) []mtls.Rule {
	rules := make([]mtls.Rule, n)
	one, no := []string{"one"}, mtls.NoOrigin()
	for i := range rules {
		r := mtls.Rule{Name: fmt.Sprintf("partner-%d", i)}
		switch hash := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))); kind {
		case "domain":
			r.Domains = []string{fmt.Sprintf("api.p%d.example", i)}
		case "certificate":
			r.Certificates, r.Origin = []mtls.CertificateHash{hash}, no
		case "key":
			r.PublicKeys, r.Origin = []mtls.KeyHash{hash}, no
		case "upn":
			r.UPNs, r.Authorities, r.Origin = []string{fmt.Sprintf("user%d@corp.example", i)}, one, no
		case "uri":
			r.URIs, r.Authorities, r.Origin = []string{fmt.Sprintf("spiffe://corp.example/%d", i)}, one, no
		case "email":
			r.Emails, r.Authorities, r.Origin = []string{fmt.Sprintf("user%d@corp.example", i)}, one, no
		case "roles":
			r.UPNs, r.Authorities, r.Origin, r.Roles = []string{fmt.Sprintf("user%d@corp.example", i)}, one, no, []string{"read", "write"}
		case "denyupn":
			r.UPNs, r.Deny = []string{fmt.Sprintf("user%d@corp.example", i)}, true
		case "deny":
			if r.Domains = []string{fmt.Sprintf("api.p%d.example", i)}; i > 0 {
				r.Deny = true
			}
		}
		rules[i] = r
	}
	return rules
}

// heap is what is in use after everything unused is gone.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestRulesAreSmall: beyond the caller's slice a rule takes at most 300 bytes.
func TestRulesAreSmall(t *testing.T) {
	const n = 100_000
	for _, kind := range []string{"domain", "certificate", "key", "upn", "uri", "email", "roles", "deny", "denyupn"} {
		rules := manyRules(n, kind)
		before := heap()
		p, err := mtls.NewPolicy(rules...)
		require.NoError(t, err)
		each := (int64(heap()) - int64(before)) / n
		t.Logf("%s: %d bytes a rule", kind, each)
		require.LessOrEqual(t, each, int64(300), kind)
		runtime.KeepAlive(rules)
		runtime.KeepAlive(p)
	}
}

// ruleSubject reduces a certificate with the names to what rules look at.
func ruleSubject(t testing.TB, p *mtls.Policy, names ...string) mtls.RuleSubject {
	t.Helper()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	return mtls.NewRuleSubject(pcRoots(t, ca.Authority("one")), p, time.Now(), ca.Issue(pcNames(names...)).Leaf())
}

// TestMatchDoesNotAllocate: whatever rules there are and whatever names.
func TestMatchDoesNotAllocate(t *testing.T) {
	for _, kind := range []string{"domain", "certificate", "key", "upn", "uri", "deny"} {
		rules := manyRules(1000, kind)
		rules = append(rules, mtls.Rule{Name: "dn", Subject: []mtls.Attribute{{Type: "O", Value: "A*c*e", IgnoreCase: true}}, Authorities: []string{"one"}, Origin: mtls.NoOrigin()},
			mtls.Rule{Name: "last", Domains: []string{"last.example"}, NotBefore: time.Unix(1, 0), Authorities: []string{"one"}, Curves: []string{"P-256"}})
		p, err := mtls.NewPolicy(rules...)
		require.NoError(t, err)
		s := ruleSubject(t, p, "api.p1000000.example", "*.p7.example", "last.example")
		require.Equal(t, map[bool]string{true: "partner-7", false: "last"}[kind == "deny"], p.MatchRule(s), kind)
		require.Zero(t, testing.AllocsPerRun(100, func() { p.MatchRule(s) }), kind)
	}
}

// TestReplaceDoesNotStopReaders: requests go on while rules are replaced, and each
// sees one state: of two rules that change places, one always admits.
func TestReplaceDoesNotStopReaders(t *testing.T) {
	env := mtlstest.NewEnv(t)
	rule := func(name string, n int) []mtls.Rule {
		return append(manyRules(n, "domain"), mtls.Rule{Name: name, Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()})
	}
	cfg := pcConfig(t, pcRoots(t, env.CA.Authority("one")), rule("a", 10)...)
	g := mtlstest.NewGuard(t, cfg)
	p := peerOf(env.CA.Issue(pcNames("acme.example")))
	var asked, replaced atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil || asked.Load() < 100 {
				d, err := g.Check(context.Background(), p)
				if err != nil || d.Rule != "a" && d.Rule != "b" {
					t.Errorf("%v %v", d.Rule, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i := range 40 {
		if i%4 == 3 {
			require.Error(t, cfg.Policy.Replace(append(rule("c", 5000), mtls.Rule{})...))
			continue
		}
		require.NoError(t, cfg.Policy.Replace(rule([]string{"a", "b"}[i%2], 5000)...))
		replaced.Add(1)
	}
	cancel()
	wg.Wait()
	t.Logf("%d requests, %d replacements", asked.Load(), replaced.Load())
}

// BenchmarkMatch looks for a rule among 1, 1,000 and 1,000,000: for a client that
// the last rule lists, and for a certificate with 256 names of which none is
// listed. It prints the time for each name of the certificate.
//
//	go test -run '^$' -bench '^BenchmarkMatch$' -benchmem .
func BenchmarkMatch(b *testing.B) {
	for _, kind := range []string{"domain", "certificate", "key", "upn", "uri", "deny"} {
		for _, n := range []int{1, 1000, 1_000_000} {
			rules := manyRules(n, kind)
			listed := mtls.Rule{Name: "listed", Domains: []string{"listed.example"}}
			before := heap()
			p, err := mtls.NewPolicy(append(rules, listed)...)
			require.NoError(b, err)
			each := float64(int64(heap())-int64(before)) / float64(n)
			many := make([]string, 256)
			for i := range many {
				many[i] = fmt.Sprintf("api.q%d.example", i)
			}
			for _, row := range []struct {
				name  string
				names []string
				want  string
			}{{"listed", []string{"listed.example"}, "listed"}, {"256names", many, ""}} {
				s := ruleSubject(b, p, row.names...)
				b.Run(fmt.Sprintf("%s/%d/%s", kind, n, row.name), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if p.MatchRule(s) != row.want {
							b.Fatal("another rule")
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(row.names)), "ns/name")
					if n == 1_000_000 {
						b.ReportMetric(each, "B/rule")
					}
				})
			}
			runtime.KeepAlive(rules)
		}
	}
}

// BenchmarkReplace decides on known clients while a policy of 1,000,000 rules is
// replaced in turn, and without that: the ratio is what readers notice.
//
//	go test -run '^$' -bench '^BenchmarkReplace$' .
func BenchmarkReplace(b *testing.B) {
	env := mtlstest.NewEnv(b)
	rules := append(manyRules(1_000_000, "domain"), mtls.Rule{Name: "a", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()})
	cfg := pcConfig(b, pcRoots(b, env.CA.Authority("one")), rules...)
	s := ruleSubject(b, cfg.Policy, "acme.example")
	measure := func(while func() bool) (worst, mean time.Duration) {
		var total time.Duration
		n := 0
		for while() {
			start := time.Now()
			if cfg.Policy.MatchRule(s) == "" {
				b.Fatal("no rule")
			}
			took := time.Since(start)
			worst, total = max(worst, took), total+took
			n++
		}
		return worst, total / time.Duration(max(n, 1))
	}
	for b.Loop() {
		var done atomic.Bool
		var took time.Duration
		go func() {
			start := time.Now()
			if err := cfg.Policy.Replace(rules...); err != nil {
				b.Error(err)
			}
			took = time.Since(start)
			done.Store(true)
		}()
		_, busy := measure(func() bool { return !done.Load() })
		n := 0
		_, idle := measure(func() bool { n++; return n < 1_000_000 })
		b.ReportMetric(float64(busy)/float64(idle), "while-replaced/idle")
		b.ReportMetric(took.Seconds(), "s/replace")
	}
}
