package mtls_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// pfRun runs the guard until stop is called.
func pfRun(t *testing.T, g *mtls.Guard) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
		})
	}
	t.Cleanup(stop)
	return stop
}

// pfHeld is how many sources have given something.
func pfHeld(g *mtls.Guard) (n int) {
	for _, s := range g.EvidenceStatus() {
		if !s.ThisUpdate.IsZero() {
			n++
		}
	}
	return n
}

func pfRequests(s *mtlstest.RevocationServer) int {
	crl, ocsp := s.Requests()
	return crl + ocsp
}

// TestPrefetch: once Run has fetched what Roots and Sources name, the first request
// fetches nothing and waits for nobody.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	// A bundle of a root and its intermediate: the intermediate's status is named by
	// itself, what it issues by the operator alone.
	sub := o.Env.CA.Intermediate(mtlstest.CAOptions{})
	leaves := mtlstest.NewRevocationServer(t, o.Clock.Now)
	leaves.Serve(sub)
	named := sub.Issue(mtlstest.Leaf{}) // for the place of the list
	cert := sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources})
	revoked := sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources})
	leaves.Revoke(revoked, 1)
	a := o.Env.CA.Authority("bundle")
	a.Anchors = append(a.Anchors, mtls.Anchor{Certificate: sub.Certificate()})
	cfg := rvConfig(o.Env, mtls.Revocation{Sources: []mtls.RevocationSource{mtls.CRLURLs(named.Leaf().CRLDistributionPoints[0])}}, false)
	cfg.Roots = pcRoots(t, a)
	g := mtlstest.NewGuard(t, cfg)
	require.NoError(t, g.Ready(), "without Run nobody asks for evidence ahead")
	require.Zero(t, pfRequests(o.Revocation)+pfRequests(leaves), "New fetches nothing")

	o.Revocation.Fail(mtlstest.Down)
	leaves.Fail(mtlstest.Down)
	stop := pfRun(t, g)
	require.Eventually(t, func() bool {
		err := g.Ready()
		return err != nil && strings.Contains(err.Error(), `authority "bundle" has no current evidence from its Sources`)
	}, time.Minute, time.Millisecond)
	// One that fails after the clock has moved would have its pause from then on.
	require.Eventually(t, func() bool {
		rows := g.EvidenceStatus()
		return len(rows) == 5 && !slices.ContainsFunc(rows, func(r mtls.EvidenceStatus) bool { return r.LastError == "" })
	}, time.Minute, time.Millisecond)
	stop()
	o.Revocation.Fail(mtlstest.NoFault)
	leaves.Fail(mtlstest.NoFault)
	o.Clock.Advance(time.Minute)
	require.NoError(t, g.Ready(), "Run has ended")
	pfRun(t, g)
	// The list twice, since the intermediate may be the end of a chain or not, and what
	// the intermediate's own certificate names.
	require.Eventually(t, func() bool { return pfHeld(g) >= 4 }, time.Minute, time.Millisecond)
	require.NoError(t, g.Ready())

	before := pfRequests(o.Revocation) + pfRequests(leaves)
	require.Positive(t, before)
	o.Revocation.Fail(mtlstest.Hang)
	leaves.Fail(mtlstest.Hang)
	require.Equal(t, "", fgReason(t, g, cert))
	require.Equal(t, "revoked", fgReason(t, g, revoked))
	require.Equal(t, before, pfRequests(o.Revocation)+pfRequests(leaves), "the first requests fetch nothing")
	require.Error(t, g.VerifyConnection(peerOf(revoked).TLS), "and memory refuses in the handshake")
}

// TestReadySoftFail: evidence whose absence is tolerated keeps nobody from being
// ready; evidence of the wrong kind does.
func TestReadySoftFail(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		r     mtls.Revocation
		fault mtlstest.Fault
		ready bool
	}{
		{rvModes[0].r, mtlstest.Down, false}, {rvModes[1].r, mtlstest.Down, true}, {rvModes[2].r, mtlstest.Down, false},
		{rvModes[1].r, mtlstest.Garbage, false}, {rvModes[3].r, mtlstest.WrongSigner, false}, {rvModes[0].r, mtlstest.NoFault, true},
		{mtls.Revocation{LeafOnly: true}, mtlstest.Down, true}, {mtls.Revocation{}, mtlstest.Stale, false}, {mtls.Revocation{Grace: 72 * time.Hour}, mtlstest.Stale, true},
	} {
		env := mtlstest.NewEnv(t)
		sub := env.CA.Intermediate(mtlstest.CAOptions{})
		a, b := env.CA.Authority("root"), sub.Authority("below")
		a.Domains, b.Domains = []string{"acme.example"}, []string{"acme.example"}
		env.Revocation.Fail(row.fault)
		cfg := rvConfig(env, row.r, false)
		cfg.Roots = pcRoots(t, a, b)
		g := mtlstest.NewGuard(t, cfg)
		pfRun(t, g)
		require.Eventually(t, func() bool { // all have been asked
			status := g.EvidenceStatus()
			for _, s := range status {
				if s.LastAttempt.IsZero() {
					return false
				}
			}
			return len(status) == 2 || row.r.LeafOnly
		}, time.Minute, time.Millisecond)
		require.Equal(t, row.ready, g.Ready() == nil, "%+v: %v", row, g.Ready())
	}
}

// pfStore is a world with a Store in a folder, which processes share one after the
// other.
type pfStore struct {
	*mtlstest.Env
	dir           string
	good, revoked *mtlstest.Certificate
}

func (s *pfStore) guard(t *testing.T) *mtls.Guard {
	t.Helper()
	cfg := rvConfig(s.Env, mtls.Revocation{}, false)
	store, err := mtls.NewDirStore(s.dir, 0)
	require.NoError(t, err)
	cfg.Store = store
	return mtlstest.NewGuard(t, cfg)
}

// files returns the names of the entries with the beginning.
func (s *pfStore) files(t *testing.T, prefix string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			list = append(list, filepath.Join(s.dir, e.Name()))
		}
	}
	return list
}

// holds waits until the Store, which is written in the background, has so many.
func (s *pfStore) holds(t *testing.T, prefix string, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return len(s.files(t, prefix)) == n }, time.Minute, time.Millisecond, prefix)
}

// pfFilled is a Store after a first process.
func pfFilled(t *testing.T) *pfStore {
	t.Helper()
	s := &pfStore{Env: mtlstest.NewEnv(t), dir: t.TempDir()}
	s.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	s.good, s.revoked = s.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), s.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	s.Revocation.Revoke(s.revoked, 1)
	g := s.guard(t)
	stop := pfRun(t, g)
	require.Empty(t, fgReason(t, g, s.good))
	require.Equal(t, "revoked", fgReason(t, g, s.revoked))
	stop() // which stores the clients
	s.holds(t, "crl-", 1)
	s.holds(t, "ocsp-", 2)
	s.holds(t, "recent-clients", 1)
	return s
}

// TestRestartWithoutNetwork: with the servers down a known client is admitted and a
// revoked one refused, and nobody is asked.
func TestRestartWithoutNetwork(t *testing.T) {
	t.Parallel()
	s := pfFilled(t)
	s.Revocation.Fail(mtlstest.Down)
	before := pfRequests(s.Revocation)
	for _, run := range []bool{false, true} {
		g := s.guard(t)
		if run {
			pfRun(t, g)
			// What the last clients needed is in memory before they come.
			require.Eventually(t, func() bool { return pfHeld(g) == 2 }, time.Minute, time.Millisecond)
		}
		require.Empty(t, fgReason(t, g, s.good))
		require.Equal(t, "revoked", fgReason(t, g, s.revoked))
		require.Equal(t, before, pfRequests(s.Revocation), "no network is needed")
		// A client that nobody has seen: its list is there, its responder is down.
		require.Empty(t, fgReason(t, g, s.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.OnlyCRL})))
		require.Equal(t, before, pfRequests(s.Revocation))
	}
	// Evidence in a Store lapses like any other.
	s.Clock.Advance(25 * time.Hour)
	g := s.guard(t)
	require.Equal(t, "revocation_unknown", fgReason(t, g, s.good))
	require.Equal(t, "revoked", fgReason(t, g, s.revoked), "time does not undo a revocation")
}

// TestSpoiledStore: entries that are corrupted, cut, swapped for each other's, signed
// by another CA, or from another time cost one fetch each, and admit nobody.
func TestSpoiledStore(t *testing.T) {
	t.Parallel()
	stranger := mtlstest.NewEnv(t)
	other := stranger.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	foreign := map[string][]byte{"ocsp-": stranger.Revocation.Staple(other)}
	res, err := http.Get(other.Leaf().CRLDistributionPoints[0])
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	foreign["crl-"] = b.Bytes()

	for name, spoil := range map[string]func(t *testing.T, s *pfStore, kind, file string, data []byte) []byte{
		"empty":     func(*testing.T, *pfStore, string, string, []byte) []byte { return []byte{} },
		"truncated": func(_ *testing.T, _ *pfStore, _, _ string, data []byte) []byte { return data[:len(data)-1] },
		"longer":    func(_ *testing.T, _ *pfStore, _, _ string, data []byte) []byte { return append(data, 0) },
		"a bit of the signature": func(_ *testing.T, _ *pfStore, _, _ string, data []byte) []byte {
			data[len(data)-1] ^= 1
			return data
		},
		"a bit of the middle": func(_ *testing.T, _ *pfStore, _, _ string, data []byte) []byte {
			data[len(data)/3] ^= 0x10
			return data
		},
		"another CA's": func(_ *testing.T, _ *pfStore, kind, _ string, _ []byte) []byte { return foreign[kind] },
		"the other kind's": func(t *testing.T, s *pfStore, kind, _ string, _ []byte) []byte {
			data, err := os.ReadFile(s.files(t, map[string]string{"crl-": "ocsp-", "ocsp-": "crl-"}[kind])[0])
			require.NoError(t, err)
			return data
		},
		"another certificate's": func(t *testing.T, s *pfStore, kind, file string, data []byte) []byte {
			if kind == "ocsp-" {
				return s.Revocation.Staple(s.CA.Issue(mtlstest.Leaf{}))
			}
			return data[:10]
		},
		"lapsed": func(t *testing.T, s *pfStore, kind, file string, data []byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := pfFilled(t)
			want := 3 // fetches: the list and two responses
			if name == "lapsed" {
				s.Clock.Advance(25 * time.Hour)
			} else {
				for _, kind := range []string{"crl-", "ocsp-"} {
					changed := map[string][]byte{}
					for _, file := range s.files(t, kind) {
						data, err := os.ReadFile(file)
						require.NoError(t, err)
						changed[file] = spoil(t, s, kind, file, data)
					}
					for file, data := range changed {
						require.NoError(t, os.WriteFile(file+".spoiled", data, 0o600))
					}
				}
				for _, file := range s.files(t, "") {
					if original, ok := strings.CutSuffix(file, ".spoiled"); ok {
						require.NoError(t, os.Rename(file, original))
					}
				}
			}
			s.Revocation.Fail(mtlstest.Down)
			g := s.guard(t)
			require.Equal(t, "revocation_unknown", fgReason(t, g, s.good), "spoiled bytes are no evidence")
			require.NotEqual(t, "", fgReason(t, g, s.revoked))
			s.Revocation.Fail(mtlstest.NoFault)
			before := pfRequests(s.Revocation)
			g = s.guard(t)
			require.Empty(t, fgReason(t, g, s.good))
			require.Equal(t, "revoked", fgReason(t, g, s.revoked))
			require.Equal(t, want, pfRequests(s.Revocation)-before, "one fetch each")
			// The fetches have mended the Store.
			s.Revocation.Fail(mtlstest.Down)
			before = pfRequests(s.Revocation)
			g = s.guard(t)
			require.Empty(t, fgReason(t, g, s.good))
			require.Equal(t, "revoked", fgReason(t, g, s.revoked))
			require.Equal(t, before, pfRequests(s.Revocation))
		})
	}

	// Two responses of one CA in each other's place: the revoked client does not get
	// the good one.
	s := pfFilled(t)
	files := s.files(t, "ocsp-")
	first, err := os.ReadFile(files[0])
	require.NoError(t, err)
	second, err := os.ReadFile(files[1])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], second, 0o600))
	require.NoError(t, os.WriteFile(files[1], first, 0o600))
	require.NoError(t, os.Remove(s.files(t, "crl-")[0]))
	s.Revocation.Fail(mtlstest.Down)
	g := s.guard(t)
	require.Equal(t, "revocation_unknown", fgReason(t, g, s.good))
	require.Equal(t, "revocation_unknown", fgReason(t, g, s.revoked))
}

// TestSpoiledRecentClients: what a Store says of the last clients causes fetches for
// nobody whom no rule lists, admits nobody and harms nobody.
func TestSpoiledRecentClients(t *testing.T) {
	t.Parallel()
	s := pfFilled(t)
	file := s.files(t, "recent-clients")[0]
	sound, err := os.ReadFile(file)
	require.NoError(t, err)
	frame := func(ders ...[]byte) (out []byte) {
		for _, der := range ders {
			out = append(append(out, byte(len(der)>>16), byte(len(der)>>8), byte(len(der))), der...)
		}
		return out
	}
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{Now: s.Clock.Now})
	s.Revocation.Serve(stranger)
	unlisted := s.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}}).Leaf().Raw
	foreign := stranger.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}).Leaf().Raw
	require.Equal(t, frame(frame(s.good.Leaf().Raw)), sound)
	require.NoError(t, os.Remove(s.files(t, "crl-")[0]))
	for name, data := range map[string][]byte{
		"empty": {}, "garbage": []byte("what"), "truncated": sound[:len(sound)-1], "no chain": frame(nil, nil), "no certificate": frame(frame(nil)),
		"not listed": frame(frame(unlisted)), "of a stranger": frame(frame(foreign)), "large": bytes.Repeat([]byte{0}, 2<<20),
	} {
		require.NoError(t, os.WriteFile(file, data, 0o600))
		g := s.guard(t)
		before := pfRequests(s.Revocation)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, g.Run(ctx), context.Canceled) // it has read them
		require.Empty(t, g.EvidenceStatus(), name)
		require.Equal(t, before, pfRequests(s.Revocation), name)
	}
	// A sound one is fetched for.
	require.NoError(t, os.WriteFile(file, sound, 0o600))
	before := pfRequests(s.Revocation)
	pfRun(t, s.guard(t))
	require.Eventually(t, func() bool { return len(s.files(t, "crl-")) == 1 }, time.Minute, time.Millisecond)
	require.Equal(t, before+1, pfRequests(s.Revocation))
}

// TestEvidenceStatusJSON: the rows have stable names and values for a status page.
func TestEvidenceStatusJSON(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	env.Revocation.Revoke(env.CA.Issue(mtlstest.Leaf{}), 1)
	env.Revocation.FailOCSP(mtlstest.Down)
	cfg := rvConfig(env, mtls.Revocation{}, false)
	g := mtlstest.NewGuard(t, cfg)
	require.Empty(t, g.EvidenceStatus())
	require.Empty(t, (&mtls.Guard{}).EvidenceStatus())
	require.Empty(t, fgReason(t, g, cert))
	data, err := json.Marshal(g.EvidenceStatus())
	require.NoError(t, err)
	var rows []map[string]any
	require.NoError(t, json.Unmarshal(data, &rows))
	require.Len(t, rows, 2)
	now := env.Clock.Now().UTC()
	list, responder := rows[0], rows[1]
	if list["kind"] != "crl" {
		list, responder = responder, list
	}
	require.Equal(t, "crl", list["kind"])
	require.Equal(t, []any{"env"}, list["authorities"])
	require.Equal(t, "all certificates", list["scope"])
	require.Equal(t, 1.0, list["entries"])
	require.Contains(t, list["source"], cert.Leaf().CRLDistributionPoints[0])
	require.Contains(t, list["issuer"], env.CA.Certificate().Subject.CommonName)
	require.NotEmpty(t, list["number"])
	require.Equal(t, now.Add(-time.Minute).Format(time.RFC3339), list["thisUpdate"])
	require.Equal(t, now.Add(24*time.Hour-time.Minute).Format(time.RFC3339), list["nextUpdate"])
	require.NotContains(t, list, "lastError")
	require.Equal(t, 0.0, list["failures"])
	require.Equal(t, 0.0, list["lapsing"])
	require.Equal(t, "ocsp", responder["kind"])
	require.Equal(t, 1.0, responder["failures"])
	require.NotEmpty(t, responder["lastError"])
	require.NotContains(t, responder, "thisUpdate")
	require.NotContains(t, responder, "number")
	require.Contains(t, responder["scope"], cert.Leaf().SerialNumber.Text(16))
	var got []int
	for range 3 {
		env.Clock.Advance(8*time.Hour + time.Minute)
		for _, e := range g.EvidenceStatus() {
			if e.Kind == "crl" {
				got = append(got, e.Lapsing)
			}
		}
	}
	require.Equal(t, []int{0, 50, 100}, got)
	require.NoError(t, cfg.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("new")))
	for _, e := range g.EvidenceStatus() {
		require.Empty(t, e.Authorities, "its authority has left Roots")
	}
}

// TestStampede: ten thousand first requests at once, of a hundred clients of one
// authority, are one fetch.
func TestStampede(t *testing.T) {
	env := mtlstest.NewEnv(t)
	cfg := rvConfig(env, mtls.Revocation{}, false)
	cfg.Limits.Wait = 5 * time.Minute // however slow the machine is
	cfg.Origin = &mtls.Origin{Prefixes: mtlstest.Loopback(), AllowNetworks: mtlstest.Loopback()}
	g := mtlstest.NewGuard(t, cfg)
	var peers []mtls.Peer
	for range 100 {
		p := peerOf(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.OnlyCRL}))
		p.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
		peers = append(peers, p)
	}
	var wg sync.WaitGroup
	var admitted atomic.Int32
	start := make(chan struct{})
	for i := range 10000 {
		wg.Go(func() {
			<-start
			d, err := g.Check(context.Background(), peers[i%len(peers)])
			if err == nil && d.Admitted {
				admitted.Add(1)
			} else if i%1000 == 0 {
				t.Log(err)
			}
		})
	}
	close(start)
	wg.Wait()
	require.EqualValues(t, 10000, admitted.Load())
	crl, ocsp := env.Revocation.Requests()
	require.Equal(t, []int{1, 0}, []int{crl, ocsp})
}
