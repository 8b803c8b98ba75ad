package dnsclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

// fake is a DNS server over UDP and TCP on one loopback port.
type fake struct {
	addr   netip.AddrPort
	handle func(network string, m *dns.Msg, q *dns.Msg) *dns.Msg // nil: no reply

	mu  sync.Mutex
	log []string // "udp name."
}

// serve starts a server. The handler gets a reply that is prepared as that of a
// recursive server.
func serve(t *testing.T, handle func(network string, m, q *dns.Msg) *dns.Msg) *fake {
	t.Helper()
	s := &fake{handle: handle}
	for range 20 { // the port may be taken for the other protocol
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		l, err := net.Listen("tcp", pc.LocalAddr().String())
		if err != nil {
			pc.Close()
			continue
		}
		s.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
		for _, srv := range []*dns.Server{{PacketConn: pc, Handler: s}, {Listener: l, Handler: s}} {
			started := make(chan struct{})
			srv.NotifyStartedFunc = func() { close(started) }
			go srv.ActivateAndServe()
			<-started
			t.Cleanup(func() { srv.Shutdown() })
		}
		return s
	}
	t.Fatal("no port free for UDP and TCP")
	return nil
}

func (s *fake) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	network := w.RemoteAddr().Network()
	s.mu.Lock()
	defer s.mu.Unlock() // handlers may keep what they see, to be read after queries
	s.log = append(s.log, network+" "+q.Question[0].Name)
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.Compress = true
	if m = s.handle(network, m, q); m != nil {
		if network == "udp" && m.Len() > 1232 {
			m.Truncate(1232)
		}
		w.WriteMsg(m)
	}
}

func (s *fake) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.log...)
}

func rr(t testing.TB, text string) dns.RR {
	t.Helper()
	r, err := dns.NewRR(text)
	require.NoError(t, err)
	return r
}

func rrs(t testing.TB, texts ...string) []dns.RR {
	t.Helper()
	var out []dns.RR
	for _, text := range texts {
		out = append(out, rr(t, text))
	}
	return out
}

func client(servers ...*fake) *dnsclient.Client {
	o := dnsclient.Options{Timeout: 2 * time.Second, Attempts: 1}
	for _, s := range servers {
		o.Servers = append(o.Servers, dnsclient.Server{Addr: s.addr})
	}
	return dnsclient.New(o)
}

// at is a server that is asked without TLS.
func at(addrPort string) dnsclient.Server {
	return dnsclient.Server{Addr: netip.MustParseAddrPort(addrPort)}
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// The clock of the bubble shows how long a server that never answers holds a
// lookup.
func TestSilenceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := dnsclient.Options{
			Servers: []dnsclient.Server{at("192.0.2.53:53"), at("192.0.2.54:53")},
			Dial: func(context.Context, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				go io.Copy(io.Discard, there)
				return here, nil
			},
		}
		for _, tt := range []struct{ timeout, want time.Duration }{{0, 4 * time.Second}, {3 * time.Second, 12 * time.Second}} {
			o.Timeout = tt.timeout
			start := time.Now()
			_, err := dnsclient.New(o).Lookup(t.Context(), "p.example", dnsclient.A)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, tt.want, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := dnsclient.New(o).Lookup(ctx, "p.example", dnsclient.A)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1500*time.Millisecond, time.Since(start))
	})
}

func TestNames(t *testing.T) {
	s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
		m.Answer = rrs(t, m.Question[0].Name+" 60 A 192.0.2.1")
		return m
	})
	for _, name := range []string{
		"", ".", "192.0.2.1", "192.0.2.1.", "::1", "[::1]", "0x7f.1", "*.example", "p..example", "p.example..", `p\.example`, "p example", "p\x00.example",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 126) + "ab", "bücher.example",
	} {
		_, err := client(s).Lookup(t.Context(), name, dnsclient.A)
		var e *dnsclient.Error
		require.ErrorAs(t, err, &e, "%q", name)
		require.Less(t, len(err.Error()), 800)
	}
	_, err := client(s).Lookup(t.Context(), "p.example", dnsclient.Type(dns.TypeMX))
	require.ErrorContains(t, err, "not supported")
	require.Empty(t, s.queries())
	longest := strings.Repeat("a.", 126) + "b"
	for _, name := range []string{"localhost", "p.example", "p.example.", "_x.example", longest} {
		answer, err := client(s).Lookup(t.Context(), name, dnsclient.A)
		require.NoError(t, err, name)
		require.Equal(t, addrs("192.0.2.1"), answer.Addrs, "the hosts file is not asked")
	}
	require.Equal(t, []string{"udp localhost.", "udp p.example.", "udp p.example.", "udp _x.example.", "udp " + longest + "."}, s.queries())
}

func TestServers(t *testing.T) {
	good := func(_ string, m, _ *dns.Msg) *dns.Msg {
		m.Answer = rrs(t, "p.example. 60 A 192.0.2.1")
		return m
	}
	refuse := func(_ string, m, _ *dns.Msg) *dns.Msg {
		m.Rcode = dns.RcodeRefused
		return m
	}
	silent := func(string, *dns.Msg, *dns.Msg) *dns.Msg { return nil }

	t.Run("the second is asked when the first refuses", func(t *testing.T) {
		first, second := serve(t, refuse), serve(t, good)
		answer, err := client(first, second).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Equal(t, addrs("192.0.2.1"), answer.Addrs)
		require.Len(t, first.queries(), 1)
	})
	t.Run("the second is asked when the first is silent", func(t *testing.T) {
		c := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{{Addr: serve(t, silent).addr}, {Addr: serve(t, good).addr}}, Timeout: time.Second})
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
	})
	t.Run("the second is not asked when the first knows that there is nothing", func(t *testing.T) {
		first := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			m.Rcode = dns.RcodeNameError
			return m
		})
		second := serve(t, good)
		answer, err := client(first, second).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.True(t, answer.NXDomain)
		require.Empty(t, second.queries())
	})
	t.Run("three servers are asked, twice", func(t *testing.T) {
		var fakes []*fake
		var o dnsclient.Options
		for range 4 {
			fakes = append(fakes, serve(t, refuse))
			o.Servers = append(o.Servers, dnsclient.Server{Addr: fakes[len(fakes)-1].addr})
		}
		_, err := dnsclient.New(o).Lookup(t.Context(), "p.example", dnsclient.A)
		var e *dnsclient.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, dns.RcodeRefused, e.Rcode)
		for i, want := range []int{2, 2, 2, 0} {
			require.Len(t, fakes[i].queries(), want)
		}
	})
	t.Run("silence is an error after the timeout", func(t *testing.T) {
		s := serve(t, silent)
		_, err := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{{Addr: s.addr}}, Timeout: 10 * time.Millisecond}).Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Eventually(t, func() bool { return len(s.queries()) == 2 }, time.Minute, time.Millisecond)
	})
	t.Run("the context ends the lookup", func(t *testing.T) {
		cause := errors.New("the request is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := serve(t, func(string, *dns.Msg, *dns.Msg) *dns.Msg {
			cancel(cause)
			return nil
		})
		dials := 0
		dial := func(_ context.Context, network, addr string) (net.Conn, error) {
			dials++
			return net.Dial(network, addr)
		}
		_, err := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{{Addr: s.addr}, {Addr: s.addr}}, Timeout: time.Minute, Dial: dial}).Lookup(ctx, "p.example", dnsclient.A)
		require.ErrorIs(t, err, cause)
		require.Len(t, s.queries(), 1)
		require.Equal(t, 1, dials)
	})
	t.Run("a closed port is an error", func(t *testing.T) {
		refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
		_, err := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{at("192.0.2.53:53")}, Dial: refused}).Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorContains(t, err, "connection refused")
		require.ErrorContains(t, err, "192.0.2.53:53")
	})
}
