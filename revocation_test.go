package mtls_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestThreat36_NoFaultOfASourceIsEverGood: every fault, over real sockets, for
// certificates that name a CRL, a responder, or both.
func TestThreat36_NoFaultOfASourceIsEverGood(t *testing.T) {
	t.Parallel()
	faults := map[string]mtlstest.Fault{
		"down": mtlstest.Down, "internal error": mtlstest.InternalError, "not found": mtlstest.NotFound, "HTML": mtlstest.HTML,
		"empty": mtlstest.Empty, "garbage": mtlstest.Garbage, "truncated": mtlstest.Truncated, "stale": mtlstest.Stale,
		"future": mtlstest.Future, "wrong signer": mtlstest.WrongSigner, "redirect": mtlstest.Redirect,
	}
	ocspFaults := map[string]mtlstest.Fault{
		"tryLater": mtlstest.TryLater, "unauthorized": mtlstest.Unauthorized, "unknown": mtlstest.UnknownCert, "wrong serial": mtlstest.WrongSerial,
	}
	run := func(name string, f mtlstest.Fault, sources mtlstest.Sources) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			env.DNS.Set("acme.example", "127.0.0.1")
			env.Revocation.Fail(f)
			cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
			seen := &observer{}
			cfg.Observe = seen.observe
			s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
			client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: sources}), mtlstest.ClientOptions{})
			r := ask(t, client, s.URL)
			require.Equal(t, 503, r.Status, r.Body)
			require.Equal(t, "revocation_unknown", r.Code)
			require.Contains(t, seen.last().Detail(), "http://127.0.0.1", "the operator learns which source it was")
			// The fault ends, the backoff too: the same connection is admitted.
			env.Revocation.Fail(mtlstest.NoFault)
			env.Clock.Advance(31 * time.Second)
			require.Equal(t, 200, ask(t, client, s.URL).Status)
		})
	}
	for name, f := range faults {
		run("CRL/"+name, f, mtlstest.OnlyCRL)
		run("OCSP/"+name, f, mtlstest.OnlyOCSP)
		run("both/"+name, f, mtlstest.CRLAndOCSP)
	}
	for name, f := range ocspFaults {
		run("OCSP/"+name, f, mtlstest.OnlyOCSP)
	}
}

// TestSilentSource: a source that does not answer costs a request its Wait and no
// more; the fetch goes on, and is what the next request waits for.
func TestSilentSource(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.Revocation.Fail(mtlstest.Hang)
	// DNS could be slower than the short wait.
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()})
	cfg.Limits.Wait = 50 * time.Millisecond
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{})
	for range 3 {
		r := ask(t, client, s.URL)
		require.Equal(t, 503, r.Status)
		require.Equal(t, "revocation_unknown", r.Code)
	}
	crl, ocsp := env.Revocation.Requests()
	require.LessOrEqual(t, crl, 1)
	require.LessOrEqual(t, ocsp, 1)
}

// TestThreat41_ColdStart: the first request ever, of a revoked certificate.
func TestThreat41_ColdStart(t *testing.T) {
	t.Parallel()
	for _, sources := range []mtlstest.Sources{mtlstest.OnlyCRL, mtlstest.OnlyOCSP, mtlstest.CRLAndOCSP} {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("acme.example", "127.0.0.1")
		g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		s := mtlstest.NewServer(t, g, hello)
		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: sources})
		env.Revocation.Revoke(cert, 0)
		r := ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL)
		require.Equal(t, 403, r.Status)
		require.Equal(t, "revoked", r.Code)
		// Now memory knows: the handshake itself refuses.
		_, err := get(s.Client(cert, mtlstest.ClientOptions{HTTP1: true, TLS: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }}), s.URL)
		require.ErrorContains(t, err, "bad certificate")
	}
}

// TestThreat42_RevokedThroughThePublicAPI takes the way of a user: files, New,
// Server. It fails when the revocation step is taken out.
func TestThreat42_RevokedThroughThePublicAPI(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	roots, err := mtls.LoadRoots(env.CA.PEMFile())
	require.NoError(t, err)
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cfg.Roots = roots
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	good, bad := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	env.Revocation.Revoke(bad, 5)
	require.Equal(t, 200, ask(t, s.Client(good, mtlstest.ClientOptions{}), s.URL).Status)
	_, err = get(s.Client(bad, mtlstest.ClientOptions{HTTP1: true}), s.URL)
	if err == nil { // the list of the first client is in memory: its handshake already refuses
		t.Fatal("the revoked client was answered")
	}
}

func TestOneSourceDownAndTheOtherGood(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ crl, ocsp mtlstest.Fault }{{mtlstest.Down, mtlstest.NoFault}, {mtlstest.NoFault, mtlstest.Down}} {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("acme.example", "127.0.0.1")
		env.Revocation.FailCRL(row.crl)
		env.Revocation.FailOCSP(row.ocsp)
		s := mtlstest.NewServer(t, env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}), hello)
		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
		client := s.Client(cert, mtlstest.ClientOptions{})
		require.Equal(t, 200, ask(t, client, s.URL).Status)
		// When the other comes back and says revoked, that wins, on the same connection.
		env.Revocation.Revoke(cert, 1)
		env.Revocation.FailCRL(mtlstest.NoFault)
		env.Revocation.FailOCSP(mtlstest.NoFault)
		if row.crl == mtlstest.Down {
			env.Revocation.FailOCSP(mtlstest.Down)
		} else {
			env.Revocation.FailCRL(mtlstest.Down)
		}
		env.Clock.Advance(61 * time.Second) // past the backoff; DNS asks anew, so the request meets the source that is due
		require.Eventually(t, func() bool { return ask(t, client, s.URL).Code == "revoked" }, time.Minute, time.Millisecond)
	}
}

func TestStaple(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		sources mtlstest.Sources
		staple  func(*mtlstest.Env, *mtlstest.Certificate) []byte
		age     time.Duration // of the staple when it is presented
		down    bool
		want    string
	}{
		{name: "good, own sources down", staple: staple, down: true, want: ""},
		{name: "good, no own source", sources: mtlstest.NoSources, staple: staple, want: ""},
		{name: "older than 24 hours", staple: staple, age: 24*time.Hour + time.Minute, down: true, want: "revocation_unknown"},
		{name: "of another certificate", staple: func(e *mtlstest.Env, _ *mtlstest.Certificate) []byte {
			return e.Revocation.Staple(e.CA.Issue(mtlstest.Leaf{}))
		}, down: true, want: "revocation_unknown"},
		{name: "garbage", staple: func(*mtlstest.Env, *mtlstest.Certificate) []byte { return []byte("garbage") }, down: true, want: "revocation_unknown"},
		{name: "garbage is ignored where a source is good", staple: func(*mtlstest.Env, *mtlstest.Certificate) []byte { return []byte("garbage") }, want: ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			env.DNS.Set("acme.example", "127.0.0.1")
			cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: row.sources})
			der := row.staple(env, cert)
			env.Clock.Advance(row.age)
			if row.down {
				env.Revocation.Fail(mtlstest.Down)
			}
			s := mtlstest.NewServer(t, env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}), hello)
			r := ask(t, s.Client(cert, stapled(cert, der)), s.URL)
			require.Equal(t, row.want, r.Code, r.Body)
			if row.want == "" {
				require.Equal(t, 200, r.Status)
			}
		})
	}
	t.Run("own sources are asked all the same, and revoked there wins", func(t *testing.T) {
		t.Parallel()
		env := mtlstest.NewEnv(t)
		env.DNS.Set("acme.example", "127.0.0.1")
		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
		der := env.Revocation.Staple(cert)
		env.Revocation.Revoke(cert, 1)
		g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		s := mtlstest.NewOptionalServer(t, g, g.Handler(hello))
		require.Eventually(t, func() bool {
			return ask(t, s.Client(cert, stapled(cert, der)), s.URL).Code == "revoked"
		}, time.Minute, time.Millisecond, "no clock moves: the background fetch alone must bring it")
	})
	t.Run("a staple that says revoked", func(t *testing.T) {
		t.Parallel()
		env := mtlstest.NewEnv(t)
		env.DNS.Set("acme.example", "127.0.0.1")
		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
		env.Revocation.Revoke(cert, 1)
		der := env.Revocation.Staple(cert)
		env.Revocation.Restore(cert)
		g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		s := mtlstest.NewServer(t, g, hello)
		_, err := get(s.Client(cert, stapled(cert, der)), s.URL)
		require.Error(t, err, "even the handshake refuses")
	})
}

func staple(e *mtlstest.Env, c *mtlstest.Certificate) []byte { return e.Revocation.Staple(c) }

func stapled(cert *mtlstest.Certificate, der []byte) mtlstest.ClientOptions {
	return mtlstest.ClientOptions{TLS: func(c *tls.Config) {
		pair := cert.TLS()
		pair.OCSPStaple = der
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}}
}

// TestThreat76_NoFetchBeforeChainRuleAndKey: a certificate's URLs are fetched only
// once its chain is valid, a rule matches and its key is proved, and they never
// reach special-use addresses unless these are allowed.
func TestThreat76_NoFetchBeforeChainRuleAndKey(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})
	env.Revocation.Serve(stranger)
	rule := mtls.Rule{Name: "acme", Domains: []string{"acme.example"}}
	g := env.Guard(rule)
	s := mtlstest.NewOptionalServer(t, g, g.Handler(hello))
	good := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	thief := env.CA.Issue(mtlstest.Leaf{})

	require.Equal(t, 403, ask(t, s.Client(stranger.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{}), s.URL).Status)
	require.Equal(t, 403, ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"other.example"}}), mtlstest.ClientOptions{}), s.URL).Status)
	_, err := get(s.Client(good, mtlstest.ClientOptions{TLS: func(c *tls.Config) {
		pair := good.TLS()
		pair.PrivateKey = thief.TLS().PrivateKey // the certificate is public, its key is not
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}}), s.URL)
	require.Error(t, err)
	crl, ocsp := env.Revocation.Requests()
	require.Equal(t, 0, crl+ocsp)
	require.Equal(t, 0, env.DNS.Queries("acme.example"))

	cfg := env.Config(rule)
	cfg.Revocation = nil // as in production: loopback is not allowed
	seen := &observer{}
	cfg.Observe = seen.observe
	g = mtlstest.NewGuard(t, cfg)
	s = mtlstest.NewOptionalServer(t, g, g.Handler(hello))
	r := ask(t, s.Client(good, mtlstest.ClientOptions{}), s.URL)
	require.Equal(t, 503, r.Status)
	require.Equal(t, mtls.ReasonRevocationUnknown, seen.last().Reason)
	crl, ocsp = env.Revocation.Requests()
	require.Equal(t, 0, crl+ocsp, seen.last().Detail())
}

// TestSingleFlight: many first requests at once ask each source once.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	p := peerOf(cert)
	p.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	var wg sync.WaitGroup
	var admitted atomic.Int32
	for range 500 {
		wg.Go(func() {
			if d, err := g.Check(context.Background(), p); err == nil && d.Admitted {
				admitted.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 500, admitted.Load())
	crl, ocsp := env.Revocation.Requests()
	require.Equal(t, []int{1, 1, 1}, []int{crl, ocsp, env.DNS.Queries("acme.example")})
}

// memoryStore is a Store that a test can spoil.
type memoryStore struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memoryStore) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.m[key]; ok {
		return b, nil
	}
	return nil, http.ErrMissingFile
}

func (s *memoryStore) Put(_ context.Context, key string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[key] = data
	return nil
}

// TestStore: evidence survives a restart, and nothing in a store is believed.
func TestStore(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	store := &memoryStore{m: map[string][]byte{}}
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	start := func() reply {
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		cfg.Store = store
		s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
		return ask(t, s.Client(cert, mtlstest.ClientOptions{}), s.URL)
	}
	require.Equal(t, 200, start().Status)
	require.Len(t, store.m, 2)
	env.Revocation.Fail(mtlstest.Down)
	require.Equal(t, 200, start().Status, "a restart needs no network")
	for key, data := range store.m {
		store.m[key] = []byte(strings.ReplaceAll(string(data), string(data[20:30]), "0123456789"))
	}
	require.Equal(t, 503, start().Status, "spoiled bytes are no evidence")
	env.Revocation.Fail(mtlstest.NoFault)
	require.Equal(t, 200, start().Status, "and cost one refetch")
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	g := env.Guard(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	for range 2 { // twice is no mistake
		go func() { done <- g.Run(ctx) }()
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.ErrorIs(t, <-done, context.Canceled)
}

// TestThreat54_AdmissionCarriesItsEvidence: an admission names the statements that
// it rests on, with their times; without one there is none.
func TestThreat54_AdmissionCarriesItsEvidence(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	seen := &observer{}
	cfg.Observe = seen.observe
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	short := mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources, NotAfter: env.Clock.Now().Add(24 * time.Hour)}
	for kinds, leaf := range map[string]mtlstest.Leaf{
		"crl ocsp":    {Names: []string{"acme.example"}},
		"crl":         {Names: []string{"acme.example"}, Sources: mtlstest.OnlyCRL},
		"ocsp":        {Names: []string{"acme.example"}, Sources: mtlstest.OnlyOCSP},
		"short-lived": short,
	} {
		require.Equal(t, 200, ask(t, s.Client(env.CA.Issue(leaf), mtlstest.ClientOptions{}), s.URL).Status)
		var got []string
		for _, step := range seen.last().Steps {
			if step.Name != "revocation" {
				continue
			}
			require.Equal(t, mtls.OutcomePass, step.Outcome)
			for _, p := range step.Proofs {
				got = append(got, p.Kind)
				require.Equal(t, "good", p.Status)
				require.True(t, p.Expires.After(env.Clock.Now()))
				if p.Kind != "short-lived" {
					require.False(t, p.From.IsZero())
					require.Contains(t, p.Source, "http://127.0.0.1")
				}
			}
		}
		require.Equal(t, kinds, strings.Join(got, " "))
	}
}
