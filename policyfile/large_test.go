package policyfile_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// manyRules is a policy of so many partners, of ours in the middle and of one that is
// refused at the end.
func manyRules(n int, version string) string {
	var b strings.Builder
	b.WriteString("version: 1\nrules:\n")
	for i := range n {
		if i == n/2 {
			fmt.Fprintf(&b, "  - name: ours\n    account: %s\n    domains: [ours.example]\n    origin: none\n", version)
		}
		fmt.Fprintf(&b, "  - name: partner-%d\n    roles: [payments, \"%s\"]\n    domains:\n      - api.p%d.example\n      - \"www.p%d.example\" # %d\n", i, version, i, i, i)
	}
	b.WriteString("  - name: everybody else\n    insecure_any_client: true\n    origin: none\n")
	b.WriteString("  - name: refused\n    deny: true\n    domains: [refused.example]\n")
	return b.String()
}

// A hundred thousand rules are loaded, looked at and replaced while requests are
// decided: each of them sees one state as a whole.
func TestManyRulesAreReplacedUnderLoad(t *testing.T) {
	n, reloads := 100_000, 3
	switch {
	case testing.Short():
		n = 5_000
	case raceDetector:
		reloads = 1 // each takes many times as long
	}
	path := newFile(t, manyRules(n, "v0"))
	file, err := policyfile.Options{Logger: slog.New(slog.DiscardHandler)}.Load(path)
	require.NoError(t, err)
	require.Equal(t, n+2, file.Policy().Stats().Allow)
	require.Len(t, file.Rules(), n+3)
	require.Len(t, file.Lint(), 4, "it is walked, ours and everybody else may come from anywhere, and everybody else is everybody")

	env := mtlstest.NewEnv(t)
	cfg := env.Config(file.Rules()[:1]...)
	cfg.Policy, cfg.Logger = file.Policy(), slog.New(slog.DiscardHandler)
	guard := mtlstest.NewGuard(t, cfg)
	server := mtlstest.NewServer(t, guard, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	ours := server.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"ours.example"}}), mtlstest.ClientOptions{})
	refused := server.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"refused.example"}}), mtlstest.ClientOptions{})

	var (
		running sync.WaitGroup
		stop    atomic.Bool
		served  atomic.Int64
	)
	for _, c := range []struct {
		client *http.Client
		want   bool
	}{{ours, true}, {refused, false}, {ours, true}} {
		running.Go(func() {
			for !stop.Load() {
				resp, err := c.client.Get(server.URL)
				admitted := err == nil && resp.StatusCode == http.StatusOK
				if err == nil {
					_ = resp.Body.Close()
				}
				if admitted != c.want {
					t.Errorf("admitted: %v, want %v: %v %v", admitted, c.want, resp, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for i := range reloads {
		version := fmt.Sprintf("v%d", i+1)
		require.NoError(t, os.WriteFile(path, []byte(manyRules(n, version)), 0o600))
		before := served.Load()
		require.NoError(t, file.Reload())
		require.Equal(t, version, file.Rules()[0].Roles[1])
		require.Eventually(t, func() bool { return served.Load() > before+10 || t.Failed() }, waitLimit, pollEvery)
	}
	stop.Store(true)
	running.Wait()
	require.NoError(t, guard.Ready())
	t.Logf("%d requests", served.Load())
}

func BenchmarkParse(b *testing.B) {
	data := []byte(manyRules(100_000, "v"))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policyfile.Parse(data, "policy.yaml"); err != nil {
			b.Fatal(err)
		}
	}
}
