package mtls_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// hsCache is a client's session cache, which says what it was given. With keep
// it keeps the first session for ever, as a client may.
type hsCache struct {
	keep bool

	mu      sync.Mutex
	session *tls.ClientSessionState
	puts    int
}

func (c *hsCache) Get(string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session, c.session != nil
}

func (c *hsCache) Put(_ string, s *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == nil || c.keep && c.session != nil {
		return
	}
	c.session = s
	c.puts++
}

// hsPeer is a client that makes a new connection for each request and resumes
// what it can.
type hsPeer struct {
	b       *hsBench
	version uint16
	cert    *mtlstest.Certificate
	cache   *hsCache
	trust   []*x509.Certificate // beside the CA of the server
}

// visit asks once and reports whether the session was resumed.
func (p *hsPeer) visit(t *testing.T, s *mtlstest.Server) (r reply, resumed bool, err error) {
	t.Helper()
	c := s.Client(p.cert, mtlstest.ClientOptions{HTTP1: true, TLS: func(conf *tls.Config) {
		conf.MinVersion, conf.MaxVersion = p.version, p.version
		conf.ClientSessionCache = p.cache
		conf.Time = p.b.Clock.Now
		for _, ca := range p.trust {
			conf.RootCAs.AddCert(ca)
		}
	}})
	res, err := c.Get(s.URL)
	if err != nil {
		return reply{}, false, err
	}
	defer res.Body.Close()
	c.CloseIdleConnections()
	return reply{Status: res.StatusCode, Header: res.Header}, res.TLS.DidResume, nil
}

// admitted visits and requires an admission.
func (p *hsPeer) admitted(t *testing.T, s *mtlstest.Server) (resumed bool) {
	t.Helper()
	r, resumed, err := p.visit(t, s)
	require.NoError(t, err)
	require.Equal(t, 200, r.Status)
	return resumed
}

// refused visits and requires a refusal in the handshake for the reason.
func (p *hsPeer) refused(t *testing.T, s *mtlstest.Server, reason mtls.Reason) {
	t.Helper()
	p.b.drain()
	_, _, err := p.visit(t, s)
	require.Error(t, err)
	d := p.b.next(t)
	require.Equal(t, reason, d.Reason)
	require.True(t, d.Handshake)
}

func (b *hsBench) drain() {
	for {
		select {
		case <-b.seen:
		default:
			return
		}
	}
}

func (c *hsCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
}

// hsSetups are the ways in which a server may come by its configuration. They
// start one, and return the CA that its clients must trust.
var hsSetups = map[string]func(*testing.T, *mtls.Guard) (*mtlstest.Server, *x509.Certificate){
	"TLSConfig": func(t *testing.T, g *mtls.Guard) (*mtlstest.Server, *x509.Certificate) {
		s := hsServe(t, g, g.TLSConfig(nil))
		return s, s.CA
	},
	"Clone": func(t *testing.T, g *mtls.Guard) (*mtlstest.Server, *x509.Certificate) {
		s := hsServe(t, g, g.TLSConfig(&tls.Config{}).Clone().Clone())
		return s, s.CA
	},
	"GetConfigForClient": func(t *testing.T, g *mtls.Guard) (*mtlstest.Server, *x509.Certificate) {
		ca, pair := hsPKI(t)
		return hsServe(t, g, g.TLSConfig(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{pair}}, nil
		}})), ca
	},
}

func TestSessionTicketsAreOffByDefault(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		b := hsNew(t)
		g := mtlstest.NewGuard(t, b.cfg)
		asks := &tls.Config{}
		asks.SetSessionTicketKeys([][32]byte{hsKey()})
		asks.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, nil }
		for _, s := range []*mtlstest.Server{mtlstest.NewServer(t, g, hello), mtlstest.NewOptionalServer(t, g, g.Require()(hello)), hsServe(t, g, g.TLSConfig(asks))} {
			p := &hsPeer{b: b, version: version, cert: b.partner(), cache: &hsCache{}}
			for range 3 {
				require.False(t, p.admitted(t, s))
			}
			require.Zero(t, p.cache.puts, "a ticket was sent")
		}
	})
}

func hsKey() (k [32]byte) { rand.Read(k[:]); return k }

// nginx's CVE-2025-23419, Go's CVE-2025-68121, and the expired certificates that
// apisix, a Scylla driver and HarperFast accepted from resumed sessions: what
// was checked once was not checked again.
func TestThreat01_03_05_06_ResumedSessionsAreDecidedAnew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, b *hsBench, g *mtls.Guard, cert *mtlstest.Certificate)
		reason mtls.Reason
		ca     time.Duration // for which the intermediate is valid
	}{
		"roots replaced": {func(t *testing.T, b *hsBench, _ *mtls.Guard, _ *mtlstest.Certificate) {
			require.NoError(t, b.cfg.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{Now: b.Clock.Now}).Authority("other")))
		}, mtls.ReasonUntrustedIssuer, 12 * time.Hour},
		"partner dropped": {func(t *testing.T, b *hsBench, _ *mtls.Guard, _ *mtlstest.Certificate) {
			require.NoError(t, b.cfg.Policy.Replace(mtls.Rule{Name: "other", Domains: []string{"other.example"}}))
		}, mtls.ReasonNotAllowed, 12 * time.Hour},
		"partner denied": {func(t *testing.T, b *hsBench, _ *mtls.Guard, _ *mtlstest.Certificate) {
			require.NoError(t, b.cfg.Policy.Replace(mtls.Rule{Name: "acme", Domains: []string{hsName}},
				mtls.Rule{Name: "no", Deny: true, Domains: []string{hsName}}))
		}, mtls.ReasonDeniedByRule, 12 * time.Hour},
		"revoked": {func(t *testing.T, b *hsBench, g *mtls.Guard, cert *mtlstest.Certificate) {
			b.Revocation.Revoke(cert, 1)
			require.NoError(t, g.Refresh(t.Context()))
		}, mtls.ReasonRevoked, 12 * time.Hour},
		"leaf expired": {func(_ *testing.T, b *hsBench, _ *mtls.Guard, _ *mtlstest.Certificate) {
			b.Clock.Advance(9 * time.Hour)
		}, mtls.ReasonExpired, 12 * time.Hour},
		"intermediate expired": {func(_ *testing.T, b *hsBench, _ *mtls.Guard, _ *mtlstest.Certificate) {
			b.Clock.Advance(5 * time.Hour)
		}, mtls.ReasonExpired, 4 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hsVersions(t, func(t *testing.T, version uint16) {
				for setup, serve := range hsSetups {
					t.Run(setup, func(t *testing.T) {
						b := hsNew(t)
						b.cfg.SessionLifetime = mtlstest.Validity
						g := mtlstest.NewGuard(t, b.cfg)
						inter := b.CA.Intermediate(mtlstest.CAOptions{NotAfter: b.Clock.Now().Add(c.ca)})
						b.Revocation.Serve(inter)
						cert := inter.Issue(mtlstest.Leaf{Names: []string{hsName}, NotAfter: b.Clock.Now().Add(8 * time.Hour)})
						s, ca := serve(t, g)
						p := &hsPeer{b: b, version: version, cert: cert, cache: &hsCache{keep: true}, trust: []*x509.Certificate{ca}}
						optional := hsServe(t, g, g.OptionalTLSConfig(nil))
						o := &hsPeer{b: b, version: version, cert: cert, cache: &hsCache{keep: true}}
						for i := range 3 {
							require.Equal(t, i > 0, p.admitted(t, s), "resumption works")
							require.Equal(t, i > 0, o.admitted(t, optional), "resumption works")
						}
						c.change(t, b, g, cert)
						p.refused(t, s, c.reason)
						p.cache.forget()
						p.refused(t, s, c.reason)

						b.drain()
						r, resumed, err := o.visit(t, optional)
						require.NoError(t, err)
						require.Equal(t, 403, r.Status)
						require.Equal(t, c.reason, b.next(t).Reason)
						require.Equal(t, name != "leaf expired", resumed, "crypto/tls itself resumes no session of an expired leaf")
					})
				}
			})
		})
	}
}

// A resumed connection from elsewhere is not that partner's any more.
func TestResumedSessionFromAnotherAddressIsRefused(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		b := hsNew(t)
		b.cfg.SessionLifetime = mtlstest.Validity
		g := mtlstest.NewGuard(t, b.cfg)
		s := mtlstest.NewServer(t, g, hello)
		p := &hsPeer{b: b, version: version, cert: b.partner(), cache: &hsCache{keep: true}}
		require.False(t, p.admitted(t, s))
		require.True(t, p.admitted(t, s))
		b.DNS.Set(hsName, "127.0.0.9")
		require.NoError(t, g.Refresh(t.Context()))
		b.drain()
		r, resumed, err := p.visit(t, s)
		require.NoError(t, err)
		require.True(t, resumed)
		require.Equal(t, 403, r.Status)
		require.Equal(t, mtls.ReasonOriginMismatch, b.next(t).Reason)
	})
}

// crypto/tls gives each resumption of TLS 1.3 a young ticket, so that sessions
// of a server that takes any certificate never end.
func TestThreat04_LineageOfSessionsEnds(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		lifetime, step time.Duration
		keep           bool
		steps          int
		resumed        func(step int) bool
	}{
		// The ticket of a resumed connection is of no use, so each second one is full.
		"every 5 days for 30 days":     {7 * day, 5 * day, false, 6, func(i int) bool { return i%2 == 1 }},
		"the first ticket, 5 days":     {7 * day, 5 * day, true, 6, func(i int) bool { return i == 1 }},
		"24 hours, daily for 20 days":  {day, day + time.Minute, false, 20, func(int) bool { return false }},
		"24 hours, after just as long": {day, day, true, 2, func(i int) bool { return i == 1 }},
		"24 hours, every 8 hours":      {day, 8 * time.Hour, true, 60, func(i int) bool { return 0 < i && i <= 3 }},
		"an hour, every minute":        {time.Hour, 25 * time.Minute, true, 5, func(i int) bool { return 0 < i && i <= 2 }},
		"a clock that was set back":    {day, -time.Hour, true, 2, func(int) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hsVersions(t, func(t *testing.T, version uint16) {
				for setup, serve := range hsSetups {
					t.Run(setup, func(t *testing.T) {
						b := hsNew(t)
						b.cfg.SessionLifetime = c.lifetime
						b.memory()
						s, ca := serve(t, mtlstest.NewGuard(t, b.cfg))
						cert := b.CA.Issue(mtlstest.Leaf{Names: []string{hsName}, NotBefore: b.Clock.Now().Add(-10 * day)})
						p := &hsPeer{b: b, version: version, cert: cert, cache: &hsCache{keep: c.keep}, trust: []*x509.Certificate{ca}}
						for i := range c.steps + 1 {
							require.Equal(t, c.resumed(i), p.admitted(t, s), "visit %d", i)
							b.Clock.Advance(c.step)
						}
					})
				}
			})
		})
	}
}

// A ticket is not a credential: whoever shares its key still decides alone.
func TestThreat01_SharedTicketKeys(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		first := hsNew(t)
		first.cfg.SessionLifetime = mtlstest.Validity
		base := &tls.Config{}
		base.SetSessionTicketKeys([][32]byte{hsKey()})
		g1 := mtlstest.NewGuard(t, first.cfg)
		s1 := hsServe(t, g1, g1.TLSConfig(base))
		cert := first.partner()
		for name, c := range map[string]struct {
			change func(*hsBench)
			reason mtls.Reason // empty: admitted
		}{
			"the same": {func(*hsBench) {}, ""},
			"another policy": {func(b *hsBench) {
				require.NoError(t, b.cfg.Policy.Replace(mtls.Rule{Name: "other", Domains: []string{"other.example"}}))
			}, mtls.ReasonNotAllowed},
			"other roots": {func(b *hsBench) {
				require.NoError(t, b.cfg.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("other")))
			}, mtls.ReasonUntrustedIssuer},
		} {
			t.Run(name, func(t *testing.T) {
				second := *first
				second.cfg = first.Config(mtls.Rule{Name: "acme", Domains: []string{hsName}})
				second.cfg.SessionLifetime, second.cfg.Logger, second.cfg.Observe = first.cfg.SessionLifetime, first.cfg.Logger, first.cfg.Observe
				c.change(&second)
				g2 := mtlstest.NewGuard(t, second.cfg)
				s2 := hsServe(t, g2, g2.TLSConfig(base))
				p := &hsPeer{b: first, version: version, cert: cert, cache: &hsCache{keep: true}, trust: []*x509.Certificate{s1.CA, s2.CA}}
				require.False(t, p.admitted(t, s1))
				if c.reason == "" {
					require.True(t, p.admitted(t, s2), "the second server can read the ticket")
					return
				}
				p.refused(t, s2, c.reason)
			})
		}
		t.Run("a server without a guard", func(t *testing.T) {
			// Its tickets bear no time of a full handshake.
			open := &http.Server{Handler: hello, TLSConfig: base.Clone()}
			open.TLSConfig.ClientAuth, open.TLSConfig.Time = tls.RequestClientCert, first.Clock.Now
			s0 := mtlstest.Serve(t, open)
			for _, c := range []*mtlstest.Certificate{cert, nil} {
				p := &hsPeer{b: first, version: version, cert: c, cache: &hsCache{keep: true}, trust: []*x509.Certificate{s0.CA, s1.CA}}
				require.False(t, p.admitted(t, s0))
				require.True(t, p.admitted(t, s0))
				if c == nil {
					_, _, err := p.visit(t, s1)
					require.Error(t, err)
					continue
				}
				require.False(t, p.admitted(t, s1))
			}
		})
	})
}

func TestCallersWrapSessionAndUnwrapSessionAreKept(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		b := hsNew(t)
		b.cfg.SessionLifetime = time.Hour
		g := mtlstest.NewGuard(t, b.cfg)
		var mu sync.Mutex
		kept := map[string][]byte{} // sessions on the server's side, found by a random ticket
		found := 0
		var forget atomic.Bool
		conf := g.TLSConfig(&tls.Config{
			WrapSession: func(_ tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
				mu.Lock()
				defer mu.Unlock()
				if ss.Extra = append(ss.Extra, []byte("caller's")); forget.Load() {
					ss.Extra = [][]byte{[]byte("caller's")}
				}
				state, err := ss.Bytes()
				id := hsKey()
				kept[string(id[:])] = state
				return id[:], err
			},
			UnwrapSession: func(id []byte, _ tls.ConnectionState) (*tls.SessionState, error) {
				mu.Lock()
				defer mu.Unlock()
				state, ok := kept[string(id)]
				if !ok {
					return nil, nil
				}
				found++
				ss, err := tls.ParseSessionState(state)
				if err == nil {
					require.Contains(t, ss.Extra, []byte("caller's"))
				}
				return ss, err
			},
		})
		s := hsServe(t, g, conf)
		p := &hsPeer{b: b, version: version, cert: b.partner(), cache: &hsCache{keep: true}}
		require.False(t, p.admitted(t, s))
		require.True(t, p.admitted(t, s))
		require.True(t, p.admitted(t, s))
		require.Equal(t, []int{2, 1}, []int{found, len(kept)})
		b.Clock.Advance(61 * time.Minute)
		require.False(t, p.admitted(t, s), "the caller's store does not prolong a session")
		require.Equal(t, 3, found)

		forget.Store(true) // the time of the full handshake: then there is none
		p.cache = &hsCache{keep: true}
		require.False(t, p.admitted(t, s))
		require.False(t, p.admitted(t, s))
	})
}

// One ticket key serves all configurations that the caller chooses from, so what
// one of them refuses must be refused to sessions of another.
func TestThreat01_SessionOfOneChosenConfigUnderAnother(t *testing.T) {
	t.Parallel()
	hsVersions(t, func(t *testing.T, version uint16) {
		b := hsNew(t)
		b.cfg.SessionLifetime = time.Hour
		g := mtlstest.NewGuard(t, b.cfg)
		ca, pair := hsPKI(t)
		var closed atomic.Bool
		s := hsServe(t, g, g.TLSConfig(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			chosen := &tls.Config{Certificates: []tls.Certificate{pair}}
			if closed.Load() {
				chosen.VerifyConnection = func(tls.ConnectionState) error { return errors.New("this tenant is closed") }
			}
			return chosen, nil
		}}))
		p := &hsPeer{b: b, version: version, cert: b.partner(), cache: &hsCache{keep: true}, trust: []*x509.Certificate{ca}}
		require.False(t, p.admitted(t, s))
		require.True(t, p.admitted(t, s))
		closed.Store(true)
		_, _, err := p.visit(t, s)
		require.Error(t, err)
	})
}
