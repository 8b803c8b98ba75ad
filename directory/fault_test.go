package directory_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestServerFaults: a server that hangs, drops the connection or sends what is no
// answer is not known, and another server is asked.
func TestServerFaults(t *testing.T) {
	t.Parallel()
	write := func(b []byte) func(net.Conn, []byte) {
		return func(c net.Conn, _ []byte) { _, _ = c.Write(b) }
	}
	forever := func(ctx context.Context) { <-ctx.Done() }
	for _, row := range []struct {
		name string
		r    reply
		err  string
	}{
		{"hangs", reply{hold: forever}, "no answer in time"},
		{"hangs within an answer", reply{instead: func(c net.Conn, out []byte) {
			_, _ = c.Write(out[:len(out)/2])
			_, _ = io.Copy(io.Discard, c) // until the client closes
		}}, "no answer in time"},
		{"drops the connection", reply{instead: write(nil)}, ""},
		{"drops it within an answer", reply{instead: func(c net.Conn, out []byte) { _, _ = c.Write(out[:len(out)/2]) }}, ""},
		{"drops it after the entry", reply{instead: func(c net.Conn, out []byte) { _, _ = c.Write(out[:len(out)-20]) }}, ""},
		{"speaks HTTP", reply{instead: write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))}, ""},
		{"a message of 2 GiB", reply{instead: write([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 0x02, 0x01, 0x03})}, ""},
		{"a value of 2 GiB in a short message", reply{instead: write([]byte{0x30, 0x0a, 0x02, 0x01, 0x03, 0x64, 0x05, 0x04, 0x84, 0x7f, 0xff, 0xff})}, ""},
		{"an indefinite length", reply{instead: write([]byte{0x30, 0x80, 0x02, 0x01, 0x03, 0x00, 0x00})}, ""},
		{"a length of a length", reply{instead: write([]byte{0x30, 0x88, 1, 1, 1, 1, 1, 1, 1, 1})}, ""},
		{"a thousand levels", reply{instead: write(nested(1000))}, ""},
		{"entries without end", reply{instead: func(c net.Conn, out []byte) {
			e := found(3, entry{"CN=x", map[string][]string{"description": {strings.Repeat("x", 1<<20)}}})
			for {
				if _, err := c.Write(e); err != nil {
					return
				}
			}
		}}, ""},
		{"references without end", reply{instead: func(c net.Conn, out []byte) {
			m := message(3)
			p := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 19, nil, "")
			p.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, "ldap://x/"+strings.Repeat("x", 1<<16), ""))
			m.AppendChild(p)
			for {
				if _, err := c.Write(m.Bytes()); err != nil {
					return
				}
			}
		}}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d, good := newFakeAD(t), newFakeAD(t)
			d.set(func(q question) reply {
				r := d.reply(q)
				if q.base == fakeBase {
					r.instead, r.hold = row.r.instead, row.r.hold
				}
				return r
			})
			good.store = d.store
			cert := d.alice(t)
			synctest.Test(t, func(t *testing.T) {
				cfg := d.config()
				cfg.Dial = pipe(t, d.fake, good.fake)
				_, err := mapped(t, newAD(t, cfg), cert)
				requireUnknown(t, err, d.addr, row.err)
				cfg.URLs = append(cfg.URLs, "ldap://"+good.addr)
				a, err := mapped(t, newAD(t, cfg), cert)
				require.NoError(t, err)
				require.Equal(t, "alice", a.Name)
			})
		})
	}
}

func nested(n int) []byte {
	b := []byte{0x04, 0x00}
	for range n {
		p := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
		p.AppendChild(ber.DecodePacket(b))
		b = p.Bytes()
	}
	return b
}

// TestLargeAnswers: what is large and no more than that is read.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	for size, ok := range map[int]bool{3 << 20: true, 5 << 20: false} {
		d := newFakeAD(t)
		d.account["description"] = []string{strings.Repeat("x", size)}
		cfg := d.config()
		cfg.Attributes = []string{"description"}
		m := newAD(t, cfg)
		for range 2 { // the budget is of one answer
			a, err := mapped(t, m, d.alice(t))
			if !ok {
				requireUnknown(t, err)
				continue
			}
			require.NoError(t, err)
			require.Len(t, a.Attributes["description"][0], size)
			conns, _, _ := d.counts()
			require.Equal(t, 1, conns)
		}
	}
}

// TestManyElements: the most groups are read, and what is many elements in few bytes
// is not parsed.
func TestManyElements(t *testing.T) {
	t.Parallel()
	var groups []entry
	for i := range 10000 {
		n := "g" + strconv.Itoa(i)
		groups = append(groups, entry{"cn=" + n + ",dc=x", map[string][]string{"cn": {n}}})
	}
	f := newFake(t, func(q question) reply {
		switch {
		case strings.Contains(q.filter, "member"):
			return reply{entries: groups}
		case strings.Contains(q.filter, "many"):
			return reply{entries: []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}, "x": make([]string, 131072)}}}}
		}
		return reply{entries: []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}}}}}
	})
	m := newLDAP(t, directory.LDAP{Connection: f.connection(), BaseDN: "dc=x", Filter: "(mail={email})", GroupFilter: "(member={dn})", MaxGroups: 10000})
	for range 2 { // the budget is of one answer
		a, err := m.MapAccount(t.Context(), identity(t, nil, func(i *mtlstest.Identity) { i.Email = "a@x" }))
		require.NoError(t, err)
		require.Len(t, a.Groups, 10000)
		m.Flush()
	}
	conns, _, _ := f.counts()
	require.Equal(t, 1, conns)
	_, err := m.MapAccount(t.Context(), identity(t, nil, func(i *mtlstest.Identity) { i.Email = "many@x" }))
	requireUnknown(t, err, "131072 elements")
}

// TestStartTLS: without TLS nothing is sent, whoever is on the way.
func TestStartTLS(t *testing.T) {
	t.Parallel()
	const startTLSResponse = 24
	ca, err := testdir.NewServerCA()
	require.NoError(t, err)
	certPEM, keyPEM, err := ca.Issue("localhost", "127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	for name, play := range map[string]func(net.Conn){
		"refused":           func(c net.Conn) { _, _ = c.Write(result(1, startTLSResponse, 2, "")) },
		"another operation": func(c net.Conn) { _, _ = c.Write(result(1, 1, 0, "")) },
		"another message":   func(c net.Conn) { _, _ = c.Write(result(2, startTLSResponse, 0, "")) },
		"no TLS afterwards": func(c net.Conn) {
			_, _ = c.Write(result(1, startTLSResponse, 0, ""))
			_, _ = c.Write(result(2, 1, 0, ""))
		},
		"closed":       func(net.Conn) {},
		"no operation": func(c net.Conn) { _, _ = c.Write([]byte{0x30, 0x03, 0x02, 0x01, 0x01}) },
		"another class": func(c net.Conn) {
			_, _ = c.Write(bytes.Replace(result(1, startTLSResponse, 0, ""), []byte{0x78}, []byte{0xb8}, 1))
		},
		"half a message":  func(c net.Conn) { _, _ = c.Write([]byte{0x30, 0x10, 0x02}) },
		"a large message": func(c net.Conn) { _, _ = c.Write([]byte{0x30, 0x84, 0x70, 0, 0, 0}); _, _ = io.Copy(io.Discard, c) },
		"no result":       func(c net.Conn) { _, _ = c.Write([]byte{0x30, 0x05, 0x02, 0x01, 0x01, 0x78, 0x00}) },
		"bytes slipped in": func(c net.Conn) {
			_, _ = c.Write(append(result(1, startTLSResponse, 0, ""), result(2, 1, 0, "")...))
			serveTLS(c, pair)
		},
		"another session": func(c net.Conn) { _, _ = c.Write(result(1, startTLSResponse, 52, "")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var seen safeBuffer
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() {
						defer c.Close()
						c.SetDeadline(time.Now().Add(time.Minute))
						if _, err := ber.ReadPacket(c); err != nil {
							return
						}
						play(recorded{c, &seen})
						_ = c.(*net.TCPConn).CloseWrite()
						_, _ = io.Copy(&seen, c)
					})
				}
			})
			t.Cleanup(func() { l.Close(); wg.Wait() })
			m := newAD(t, directory.ActiveDirectory{Connection: directory.Connection{
				URLs: []string{"ldap://" + l.Addr().String()}, RootCAs: ca.Pool(), User: "svc", Password: given("secret-of-svc"), Timeout: time.Minute, Logger: (&testdir.Log{}).Logger()}})
			requireUnknown(t, m.Check(t.Context()), "TLS", map[string]string{
				"refused": "StartTLS is refused: LDAP result 2", "another session": "StartTLS is refused: LDAP result 52", "another operation": "does not speak LDAP", "another class": "does not speak LDAP",
				"another message": "does not speak LDAP", "no operation": "does not speak LDAP", "a large message": "4 MiB", "half a message": "StartTLS",
			}[name])
			m.Close()
			require.NotContains(t, seen.String(), "secret-of-svc")
		})
	}
}

func serveTLS(c net.Conn, pair tls.Certificate) {
	s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
	_ = s.Handshake()
	_, _ = io.Copy(io.Discard, s)
}

// recorded keeps what is read.
type recorded struct {
	net.Conn
	seen *safeBuffer
}

func (r recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	_, _ = r.seen.Write(p[:n])
	return n, err
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// gate lets questions about accounts wait until it is opened.
func gate(d *fakeAD) (open func()) {
	ch := make(chan struct{})
	d.set(func(q question) reply {
		r := d.reply(q)
		if q.base == fakeBase {
			r.hold = func(ctx context.Context) {
				select {
				case <-ch:
				case <-ctx.Done():
				}
			}
		}
		return r
	})
	return sync.OnceFunc(func() { close(ch) })
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, time.Minute, time.Millisecond)
}

// TestOneQuestionForAll: it outlives the client who came first.
func TestOneQuestionForAll(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	open := gate(d)
	defer open()
	m := newAD(t, d.config())
	id := identity(t, d.alice(t))
	first, goAway := context.WithCancelCause(t.Context())
	gone := make(chan error)
	go func() {
		_, err := m.MapAccount(first, id)
		gone <- err
	}()
	eventually(t, func() bool { return d.searches(fakeBase) == 1 })
	const n = 10000
	var wg sync.WaitGroup
	var good atomic.Int32
	for range n {
		wg.Go(func() {
			if a, err := m.MapAccount(t.Context(), id); err == nil && a.Name == "alice" {
				good.Add(1)
			}
		})
	}
	goAway(errors.New("the client has hung up"))
	requireUnknown(t, <-gone, "the client has hung up")
	open()
	wg.Wait()
	require.EqualValues(t, n, good.Load())
	require.Equal(t, []int{1, 1, 1}, []int{d.searches(fakeStore), d.searches(fakeAlice), int(m.Stats().Lookups)})
	require.Equal(t, 2, d.searches(fakeBase), "the account and the names of its groups")
}

// TestConnectionsAreBounded: many clients at once share a few connections.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	cfg := d.config()
	cfg.MaxConns = 3
	m := newAD(t, cfg)
	var wg sync.WaitGroup
	var good atomic.Int32
	for range 60 {
		id := identity(t, d.alice(t)) // another serial number, another question
		wg.Go(func() {
			if _, err := m.MapAccount(t.Context(), id); err == nil {
				good.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 60, good.Load())
	conns, binds, most := d.counts()
	require.LessOrEqual(t, most, 3)
	require.Equal(t, conns, binds)
	require.LessOrEqual(t, conns, 3, "connections are kept")
	require.Equal(t, 60, m.Stats().Cached)

	t.Run("to two servers as well", func(t *testing.T) {
		other := newFakeAD(t)
		other.store = d.store
		cfg := cfg
		clock := mtlstest.NewClock(time.Time{})
		cfg.Now = clock.Now
		cfg.URLs = []string{"ldap://" + d.addr, "ldap://" + other.addr}
		m := newAD(t, cfg)
		for range 2 {
			var wg sync.WaitGroup
			for range 20 {
				id := identity(t, d.alice(t))
				wg.Go(func() { _, _ = m.MapAccount(t.Context(), id) })
			}
			wg.Wait()
			d.code[fakeBase] = 52
			clock.Advance(time.Second)
		}
		_, _, most := other.counts()
		require.LessOrEqual(t, most, 3)
		_, err := mapped(t, m, d.alice(t))
		require.NoError(t, err)
	})
	t.Run("who waits in vain is not admitted", func(t *testing.T) {
		open := gate(d)
		defer open()
		cfg := cfg
		cfg.MaxConns = 1
		m := newAD(t, cfg)
		d.code = map[string]int{}
		before := d.searches(fakeBase)
		go func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), identity(t, d.alice(t))) }()
		eventually(t, func() bool { return d.searches(fakeBase) > before })
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("too long"))
		_, err := m.MapAccount(ctx, identity(t, d.alice(t)))
		requireUnknown(t, err, "too long")
	})
}

func TestClosedConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	clock := mtlstest.NewClock(time.Time{})
	cfg := d.config()
	cfg.Now = clock.Now
	m := newAD(t, cfg)
	ask := func() {
		t.Helper()
		_, err := mapped(t, m, d.alice(t))
		require.NoError(t, err)
	}
	ask()
	ask()
	conns, _, _ := d.counts()
	require.Equal(t, 1, conns)
	clock.Advance(10 * time.Minute)
	ask()
	conns, _, _ = d.counts()
	require.Equal(t, 2, conns, "an old connection is replaced")
	clock.Advance(-time.Hour)
	ask()
	conns, _, _ = d.counts()
	require.Equal(t, 3, conns, "so is one of the future")
	// The server hangs up when it is next asked.
	var once sync.Once
	d.set(func(q question) reply {
		r := d.reply(q)
		once.Do(func() { r.instead = func(net.Conn, []byte) {} })
		return r
	})
	ask()
	require.Zero(t, m.Stats().Failures)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	_, err := mapped(t, m, d.alice(t))
	requireUnknown(t, err, "the Mapper is closed")
	eventually(t, func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.open == 0 })
}

func TestCacheLapses(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	clock := mtlstest.NewClock(time.Time{})
	cfg := d.config()
	cfg.Now, cfg.Lifetime, cfg.CacheSize = clock.Now, 2*time.Minute, 3
	m := newAD(t, cfg)
	cert := d.alice(t)
	lookups := func() uint64 { return m.Stats().Lookups }
	ask := func() mtls.Account {
		t.Helper()
		a, err := mapped(t, m, cert)
		require.NoError(t, err)
		return a
	}
	a := ask()
	require.Equal(t, clock.Now().Add(2*time.Minute), a.Expires)
	a.Groups[0] = "changed by the caller"
	clock.Advance(2*time.Minute - time.Second)
	a = ask()
	require.Equal(t, time.Second, a.Expires.Sub(clock.Now()), "what is left")
	require.Equal(t, "Domain Users", a.Groups[0])
	require.EqualValues(t, 1, lookups())
	clock.Advance(time.Second)
	ask()
	require.EqualValues(t, 2, lookups())
	clock.Advance(-time.Minute)
	ask()
	require.EqualValues(t, 3, lookups(), "an answer of the future does not count")
	m.Flush()
	ask()
	require.EqualValues(t, 4, lookups())

	t.Run("with the account", func(t *testing.T) {
		end := clock.Now().Add(30 * time.Second)
		never := d.account["accountExpires"]
		d.account["accountExpires"] = []string{fileTime(end)}
		m.Flush()
		require.True(t, end.Equal(ask().Expires))
		d.account["accountExpires"] = never
		m.Flush()
	})
	t.Run("a refusal lapses sooner", func(t *testing.T) {
		hits := d.hits
		d.hits = nil
		m.Flush()
		before := lookups()
		for range 3 {
			_, err := mapped(t, m, cert)
			requireRefused(t, err)
		}
		require.EqualValues(t, before+1, lookups())
		d.hits = hits
		clock.Advance(20 * time.Second)
		ask()
		d.account["userAccountControl"] = []string{"514"}
		m.Flush()
		require.True(t, ask().Disabled)
		d.account["userAccountControl"] = []string{"512"}
		clock.Advance(20 * time.Second)
		require.False(t, ask().Disabled)
	})
	t.Run("a failure is not kept", func(t *testing.T) {
		m.Flush()
		d.code[fakeBase] = 52
		_, err := mapped(t, m, cert)
		requireUnknown(t, err)
		delete(d.code, fakeBase)
		ask()
	})
	t.Run("bounded", func(t *testing.T) {
		for range 10 {
			_, err := mapped(t, m, d.alice(t))
			require.NoError(t, err)
		}
		require.Equal(t, 3, m.Stats().Cached)
	})
}

// waited is a context whose deadline passes when it is done.
type waited struct {
	context.Context
	done chan struct{}
}

func (w waited) Done() <-chan struct{} { return w.done }

func (w waited) Err() error {
	select {
	case <-w.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// TestStale: only what was admitted, only while the directory does not answer, only
// for so long.
func TestStale(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (*fakeAD, *mtlstest.Clock, *directory.Mapper) { return staleAD(t) }
	down := func(d *fakeAD) { d.code[fakeBase] = 52 }
	t.Run("an answer that says no ends it", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		_, err := mapped(t, m, cert)
		require.NoError(t, err)
		d.hits = nil
		clock.Advance(time.Minute)
		_, err = mapped(t, m, cert)
		requireRefused(t, err)
		down(d)
		clock.Advance(time.Minute)
		_, err = mapped(t, m, cert)
		requireUnknown(t, err)
	})
	t.Run("a disabled account does not come back", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		d.account["userAccountControl"] = []string{"514"}
		a, err := mapped(t, m, cert)
		require.NoError(t, err)
		require.True(t, a.Disabled)
		down(d)
		clock.Advance(time.Minute)
		_, err = mapped(t, m, cert)
		requireUnknown(t, err)
	})
	t.Run("a refusal does not stand in", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		d.hits = nil
		_, err := mapped(t, m, cert)
		requireRefused(t, err)
		down(d)
		clock.Advance(time.Minute)
		_, err = mapped(t, m, cert)
		requireUnknown(t, err)
	})
	t.Run("for whom the directory has never answered", func(t *testing.T) {
		d, _, m := start(t)
		down(d)
		_, err := mapped(t, m, d.alice(t))
		requireUnknown(t, err)
	})
	t.Run("Flush ends it", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		_, err := mapped(t, m, cert)
		require.NoError(t, err)
		down(d)
		clock.Advance(time.Minute)
		_, err = mapped(t, m, cert)
		require.NoError(t, err)
		m.Flush()
		_, err = mapped(t, m, cert)
		requireUnknown(t, err)
	})
	t.Run("the account's own end ends it", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		end := clock.Now().Add(5 * time.Minute)
		d.account["accountExpires"] = []string{fileTime(end)}
		_, err := mapped(t, m, cert)
		require.NoError(t, err)
		down(d)
		clock.Advance(4*time.Minute + 55*time.Second)
		a, err := mapped(t, m, cert)
		require.NoError(t, err)
		require.True(t, end.Equal(a.Expires))
		clock.Advance(5 * time.Second)
		_, err = mapped(t, m, cert)
		requireUnknown(t, err)
	})
	t.Run("not before it was asked", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		_, err := mapped(t, m, cert)
		require.NoError(t, err)
		down(d)
		clock.Advance(-time.Second)
		_, err = mapped(t, m, cert)
		requireUnknown(t, err)
	})
	for name, row := range map[string]struct {
		failed bool
		wait   time.Duration
		known  bool
	}{
		"while the directory is slow, and has failed": {true, 10 * time.Second, true},
		"not while it is slow":                        {false, 10 * time.Second, false},
		"not for a client that waits for less":        {true, 10*time.Second - 1, false},
		"not for a client that does not wait":         {true, 0, false},
		"not while the clock is set back":             {true, -time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeAD(t)
			clock := mtlstest.NewClock(time.Time{})
			cfg := d.config()
			cfg.Now, cfg.Stale, cfg.Timeout = clock.Now, time.Hour, 10*time.Second
			var slow atomic.Bool
			dialed := make(chan struct{}, 8)
			cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if slow.Load() {
					dialed <- struct{}{}
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}
			m := newAD(t, cfg)
			cert := d.alice(t)
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
			clock.Advance(11 * time.Minute) // the connection is replaced
			if row.failed {
				down(d)
				for range 5 { // it rests for a minute then
					_, err := mapped(t, m, d.alice(t))
					requireUnknown(t, err)
				}
			}
			slow.Store(true)
			ctx, done := waited{t.Context(), make(chan struct{})}, make(chan error)
			id := identity(t, cert)
			go func() {
				_, err := m.MapAccount(ctx, id)
				done <- err
			}()
			<-dialed
			clock.Advance(row.wait)
			close(ctx.done)
			if err := <-done; row.known {
				require.NoError(t, err)
			} else {
				requireUnknown(t, err, "no answer while the client waited")
			}
		})
	}
	t.Run("not for a client that goes away", func(t *testing.T) {
		d, clock, m := start(t)
		cert := d.alice(t)
		_, err := mapped(t, m, cert)
		require.NoError(t, err)
		open := gate(d)
		defer open()
		clock.Advance(time.Minute)
		for _, cause := range []error{nil, errors.New("the client has hung up")} {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(cause)
			_, err = m.MapAccount(ctx, identity(t, cert))
			requireUnknown(t, err, "no answer while the client waited")
		}
	})
	for name, change := range map[string]func(*fakeAD){
		"its state may not be read":      func(d *fakeAD) { delete(d.account, "userAccountControl") },
		"another account under the name": func(d *fakeAD) { d.account["objectSid"] = []string{binarySID(1001)} },
		"deleted meanwhile":              func(d *fakeAD) { d.code[fakeAlice] = ldap.LDAPResultNoSuchObject },
		"too many groups": func(d *fakeAD) {
			for i := range 1001 {
				d.account["tokenGroups"] = append(d.account["tokenGroups"], binarySID(uint32(5000+i)))
			}
		},
		"its groups may not be read": func(d *fakeAD) { delete(d.account, "tokenGroups") },
		"its answer has too much":    func(d *fakeAD) { d.account["sAMAccountName"] = []string{strings.Repeat("x", 5<<20)} },
		"its answer has too many":    func(d *fakeAD) { d.account["tokenGroups"] = make([]string, 131072) },
		"BaseDN is gone":             func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultNoSuchObject },
	} {
		t.Run("not while the directory answers: "+name, func(t *testing.T) {
			d, clock, m := start(t)
			cert := d.alice(t)
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
			change(d)
			clock.Advance(time.Minute)
			_, err = mapped(t, m, cert)
			requireUnknown(t, err)
			require.Zero(t, m.Stats().Stale)
		})
	}
}

// TestFlushDuringAQuestion: what was asked before is not kept.
func TestFlushDuringAQuestion(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	open := gate(d)
	defer open()
	m := newAD(t, d.config())
	id := identity(t, d.alice(t))
	done := make(chan error)
	go func() {
		_, err := m.MapAccount(t.Context(), id)
		done <- err
	}()
	eventually(t, func() bool { return d.searches(fakeBase) == 1 })
	m.Flush()
	go func() {
		_, err := m.MapAccount(t.Context(), id)
		done <- err
	}()
	eventually(t, func() bool { return d.searches(fakeBase) == 2 })
	open()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.EqualValues(t, 2, m.Stats().Lookups)

	// Nobody else asks while the first question is under way.
	open = gate(d)
	defer open()
	m = newAD(t, d.config())
	before := d.searches(fakeBase)
	go func() {
		_, err := m.MapAccount(t.Context(), id)
		done <- err
	}()
	eventually(t, func() bool { return d.searches(fakeBase) == before+1 })
	m.Flush()
	open()
	require.NoError(t, <-done)
	require.Zero(t, m.Stats().Cached)
}

// TestQuestionsWithinFlush: who asks while Flush is under way leaves no answer behind
// that rests on an NTAuth store of before.
func TestQuestionsWithinFlush(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	m := newAD(t, d.config())
	cert := d.alice(t)
	id := identity(t, cert)
	_, err := m.MapAccount(t.Context(), id)
	require.NoError(t, err)
	d.store[0].values = nil
	done := make(chan error, 1)
	directory.HookFlush(m, func() {
		before := d.searches(fakeBase)
		go func() { _, err := m.MapAccount(t.Context(), id); done <- err }()
		eventually(t, func() bool { return len(done) > 0 || d.searches(fakeBase) == before+2 })
	})
	m.Flush()
	<-done
	_, err = mapped(t, m, cert)
	requireRefused(t, err, "NTAuth")
}

// TestCallbacksThatPanic refuse, and the program lives.
func TestCallbacksThatPanic(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*directory.ActiveDirectory){
		"Password": func(c *directory.ActiveDirectory) {
			c.Password = func(context.Context) (string, error) { panic("password") }
		},
		"Dial": func(c *directory.ActiveDirectory) {
			c.Dial = func(context.Context, string, string) (net.Conn, error) { panic("dial") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeAD(t)
			cfg := d.config()
			set(&cfg)
			m := newAD(t, cfg)
			for range 10 { // more than MaxConns
				_, err := mapped(t, m, d.alice(t))
				requireUnknown(t, err, "panic: ")
			}
		})
	}
	d := newFakeAD(t)
	cfg := d.config()
	cfg.Password = func(context.Context) (string, error) { return "", errors.New("the vault is sealed") }
	_, err := mapped(t, newAD(t, cfg), d.alice(t))
	requireUnknown(t, err, "the vault is sealed")
}

// TestAnAccountIsNotTheServersFault: what cannot be read of one account is no reason
// to leave the server, or to hang up.
func TestAnAccountIsNotTheServersFault(t *testing.T) {
	t.Parallel()
	d, other := newFakeAD(t), newFakeAD(t)
	var list []string
	for i := range 1001 {
		list = append(list, binarySID(uint32(i+5000)))
	}
	d.account["tokenGroups"] = list
	cfg := d.config()
	cfg.URLs = append(cfg.URLs, "ldap://"+other.addr)
	m := newAD(t, cfg)
	for range 3 {
		_, err := mapped(t, m, d.alice(t))
		requireUnknown(t, err, "in more than 1000 groups")
	}
	conns, _, _ := d.counts()
	require.Equal(t, 1, conns)
	conns, _, _ = other.counts()
	require.Zero(t, conns)
}

// TestQuestionsThatWaitAreBounded: a directory that hangs costs a bounded number of
// goroutines.
func TestQuestionsThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	f := newFake(t, func(question) reply {
		return reply{hold: func(ctx context.Context) {
			select {
			case <-open:
			case <-ctx.Done():
			}
		}}
	})
	c := f.connection()
	c.Timeout = time.Minute
	m := newLDAP(t, directory.LDAP{Connection: c, BaseDN: "dc=x", Filter: "(mail={email})"})
	who := func(i int) *mtls.Identity {
		return identity(t, nil, func(id *mtlstest.Identity) { id.Email = strconv.Itoa(i) + "@x.example" })
	}
	var wg sync.WaitGroup
	for i := range 1024 {
		id := who(i)
		wg.Go(func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), id) })
	}
	eventually(t, func() bool { return m.Stats().Lookups == 1024 })
	_, err := m.MapAccount(t.Context(), who(1024))
	requireUnknown(t, err, "too many questions are waiting")
	close(open)
	wg.Wait()
	_, err = m.MapAccount(t.Context(), who(1024))
	requireRefused(t, err, "none for the client")
	require.LessOrEqual(t, func() int { _, _, most := f.counts(); return most }(), 4)
}

// TestNothingIsLeftBehind: a server that hangs, or sends without end, leaves no
// goroutine and no connection.
func TestNothingIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("faults", func(t *testing.T) {
		d := newFakeAD(t)
		var n atomic.Int32
		d.set(func(q question) reply {
			r := d.reply(q)
			if q.base != fakeBase {
				return r
			}
			switch n.Add(1) % 3 {
			case 0:
				r.hold = func(ctx context.Context) { <-ctx.Done() }
			case 1:
				r.instead = func(c net.Conn, out []byte) { _, _ = c.Write(out[:len(out)-3]) }
			case 2:
				r.instead = func(c net.Conn, out []byte) {
					for {
						if _, err := c.Write(bytes.Repeat(out, 1000)); err != nil {
							return
						}
					}
				}
			}
			return r
		})
		cfg := d.config()
		cfg.Timeout = 100 * time.Millisecond
		m := newAD(t, cfg)
		for range 30 {
			_, err := mapped(t, m, d.alice(t))
			requireUnknown(t, err)
		}
	})
	// The condition itself runs in a goroutine.
	eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 })
}

// TestRefusedPasswords: one that is refused is not sent again for a minute, to any
// server; another one is, at once.
func TestRefusedPasswords(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	d.bind = 49
	clock := mtlstest.NewClock(time.Time{})
	secret := "old"
	cfg := d.config()
	cfg.URLs = append(cfg.URLs, cfg.URLs[0])
	cfg.Now = clock.Now
	cfg.Password = func(context.Context) (string, error) { return secret, nil }
	m := newAD(t, cfg)
	ask := func(binds int, good ...bool) {
		t.Helper()
		_, err := mapped(t, m, d.alice(t))
		if len(good) > 0 {
			require.NoError(t, err)
		} else {
			requireUnknown(t, err, "password of \"svc\"")
		}
		_, n, _ := d.counts()
		require.Equal(t, binds, n)
	}
	ask(1)
	ask(1)
	clock.Advance(time.Minute - time.Second)
	ask(1)
	clock.Advance(time.Second)
	ask(2)
	secret = "new"
	ask(3)
	d.bind = 0
	ask(3)
	secret = "newer"
	ask(4, true)
	require.NoError(t, m.Close())
	m = newAD(t, cfg)
	secret = ""
	ask(4)
	_, err := mapped(t, m, d.alice(t))
	requireUnknown(t, err, "is empty")
}

// counted counts the connections that are open.
type counted struct {
	net.Conn
	open *atomic.Int32
	once *sync.Once
}

func (c counted) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.Conn.Close()
}

// TestConnectionsOfAllServersAreBounded: those that are kept for one give way to
// those for another.
func TestConnectionsOfAllServersAreBounded(t *testing.T) {
	t.Parallel()
	first, second := newFakeAD(t), newFakeAD(t)
	second.store = first.store
	var open, most atomic.Int32
	cfg := first.config()
	cfg.MaxConns = 3
	cfg.URLs = append(cfg.URLs, "ldap://"+second.addr)
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		n := open.Add(1)
		for {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				return counted{c, &open, &sync.Once{}}, nil
			}
		}
	}
	m := newAD(t, cfg)
	many := func() {
		var wg sync.WaitGroup
		for range 30 {
			id := identity(t, first.alice(t))
			wg.Go(func() { _, _ = m.MapAccount(t.Context(), id) })
		}
		wg.Wait()
	}
	// One question fails while others are under way, and goes to the second server. The
	// others are answered, so that the first is asked again, by three at once.
	until := func(ctx context.Context, condition func() bool) {
		for ctx.Err() == nil && !condition() {
			runtime.Gosched()
		}
	}
	var n, phase atomic.Int32
	first.set(func(q question) reply {
		r := first.reply(q)
		if q.base != fakeBase || strings.Contains(q.filter, "(objectClass=group)") {
			return r
		}
		if phase.Load() == 2 {
			r.hold = func(ctx context.Context) {
				until(ctx, func() bool { first.mu.Lock(); defer first.mu.Unlock(); return first.open == 3 })
			}
		} else if n.Add(1) == 1 {
			r.code, r.entries = 52, nil
			r.hold = func(ctx context.Context) { until(ctx, func() bool { return open.Load() == 3 }) }
		} else {
			r.hold = func(ctx context.Context) {
				until(ctx, func() bool { conns, _, _ := second.counts(); return conns > 0 })
			}
		}
		return r
	})
	many()
	conns, _, _ := second.counts()
	require.Equal(t, 1, conns)
	phase.Store(2)
	many()
	require.EqualValues(t, 3, most.Load())
}

// TestAnswersThatWereCutOff: what of an answer may still come is not waited for on
// the same connection.
func TestAnswersThatWereCutOff(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	for range 10 {
		d.hits = append(d.hits, d.hits[0])
	}
	m := newAD(t, d.config())
	for n := range 3 {
		_, err := mapped(t, m, d.alice(t))
		requireRefused(t, err, "several accounts")
		conns, _, _ := d.counts()
		require.Equal(t, n+1, conns)
	}
}

// TestServersRest: who failed is asked last, for longer each time, until it answers.
func TestServersRest(t *testing.T) {
	t.Parallel()
	first, second := newFakeAD(t), newFakeAD(t)
	second.store = first.store
	clock := mtlstest.NewClock(time.Time{})
	cfg := first.config()
	cfg.Now = clock.Now
	cfg.URLs = append(cfg.URLs, "ldap://"+second.addr)
	m := newAD(t, cfg)
	asked := func() bool {
		t.Helper()
		before := first.searches(fakeBase)
		_, err := mapped(t, m, first.alice(t))
		require.NoError(t, err)
		return first.searches(fakeBase) > before
	}
	first.code[fakeBase] = 52
	require.True(t, asked())
	require.False(t, asked())
	for _, rest := range []time.Duration{5, 10, 20, 40, 60, 60} {
		clock.Advance((rest - 1) * time.Second)
		require.False(t, asked(), rest)
		clock.Advance(time.Second)
		require.True(t, asked(), rest)
	}
	clock.Advance(time.Minute)
	delete(first.code, fakeBase)
	require.True(t, asked())
	require.True(t, asked())
	first.code[fakeBase] = 52
	require.True(t, asked())
	clock.Advance(5 * time.Second)
	require.True(t, asked(), "it begins anew")
}

// TestLongLookupsAreNotTheServersFault: an account of which too much must be asked,
// each of it answered in time, does not make the server rest.
func TestLongLookupsAreNotTheServersFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		f := &fake{answer: func(q question) reply {
			if !strings.Contains(q.filter, "member") {
				return reply{entries: []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}}}}}
			}
			r := reply{hold: func(context.Context) { <-time.After(100 * time.Millisecond) }}
			for range 10 {
				n++
				r.entries = append(r.entries, entry{"cn=g" + strconv.Itoa(n) + ",dc=x", map[string][]string{"cn": {"g"}}})
			}
			return r
		}}
		log := &testdir.Log{}
		c := directory.Connection{URLs: []string{"ldap://h"}, InsecurePlaintext: true, Timeout: time.Second, Logger: log.Logger(), Now: time.Now}
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			a, b := net.Pipe()
			go f.serve(t.Context(), b)
			return a, nil
		}
		m, err := directory.NewLDAP(directory.LDAP{Connection: c, BaseDN: "dc=x", Filter: "(mail={email})", GroupFilter: "(member={dn})", GroupDepth: 16})
		require.NoError(t, err)
		defer m.Close()
		_, err = m.MapAccount(t.Context(), identity(t, nil, func(i *mtlstest.Identity) { i.Email = "a@x" }))
		requireUnknown(t, err, "the account takes too many questions")
		require.NotContains(t, log.String(), "directory server does not answer")
	})
}

// TestServersThatHangRest: with the longest Timeout as well.
func TestServersThatHangRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &testdir.Log{}
		c := directory.Connection{URLs: []string{"ldap://h"}, InsecurePlaintext: true, Timeout: time.Minute, Logger: log.Logger(), Now: time.Now}
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		m, err := directory.NewLDAP(directory.LDAP{Connection: c, BaseDN: "dc=x", Filter: "(mail={email})"})
		require.NoError(t, err)
		defer m.Close()
		_, err = m.MapAccount(t.Context(), identity(t, nil, func(i *mtlstest.Identity) { i.Email = "a@x" }))
		requireUnknown(t, err, "no answer in time")
		require.Contains(t, log.String(), "directory server does not answer")
	})
}

// TestAnswersAreKeptUnderShortKeys: a long name in a certificate takes no more memory.
func TestAnswersAreKeptUnderShortKeys(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(question) reply { return reply{} })
	m := newLDAP(t, directory.LDAP{Connection: f.connection(), BaseDN: "dc=x", Filter: "(mail={email})"})
	for _, email := range []string{"a", "b"} {
		_, err := m.MapAccount(t.Context(), identity(t, nil, func(i *mtlstest.Identity) { i.Email = strings.Repeat(email, 1000) + "@x" }))
		requireRefused(t, err)
	}
	require.Len(t, directory.CacheKeys(m), 2)
	for _, key := range directory.CacheKeys(m) {
		require.Len(t, key, 32)
	}
}

// TestPlaintextIsOfLDAP: InsecurePlaintext takes nothing away from ldaps://.
func TestPlaintextIsOfLDAP(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	cfg := d.config()
	cfg.URLs = []string{"ldaps://" + d.addr}
	ca, err := testdir.NewServerCA()
	require.NoError(t, err)
	cfg.RootCAs = ca.Pool()
	_, err = mapped(t, newAD(t, cfg), d.alice(t))
	requireUnknown(t, err, "TLS: ")
	_, binds, _ := d.counts()
	require.Zero(t, binds)
	cfg.RootCAs = nil
	_, err = directory.NewActiveDirectory(cfg)
	require.ErrorContains(t, err, "RootCAs")
}
