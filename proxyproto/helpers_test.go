package proxyproto_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/proxyproto"
)

// TestMain keeps records out of the tests' output; tests that read records have a
// logger of their own.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// The ends of a connection from the proxy of the tests.
const (
	proxyAt  = "10.0.0.2:4000"
	serverAt = "10.0.0.9:443"
)

// trusted is a Config whose proxy is proxyAt.
func trusted() proxyproto.Config {
	return proxyproto.Config{Trusted: prefixes("10.0.0.0/29", "2001:db8:1::/64")}
}

// listener is a net.Listener without a network.
type listener struct {
	conns  chan net.Conn
	errs   chan error
	done   chan struct{}
	closed sync.Once
	calls  atomic.Int32 // of Accept
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), errs: make(chan error), done: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	l.calls.Add(1)
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.errs:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.closed.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return addr(serverAt) }

// pipe is a connection without a network.
type pipe struct {
	net.Conn
	remote, local net.Addr
	reads         *atomic.Int32
	lingers       time.Duration // of a Read that fails
}

func (p pipe) RemoteAddr() net.Addr { return p.remote }
func (p pipe) LocalAddr() net.Addr  { return p.local }
func (p pipe) Read(b []byte) (int, error) {
	p.reads.Add(1)
	n, err := p.Conn.Read(b)
	if err != nil {
		time.Sleep(p.lingers)
	}
	return n, err
}

// connect connects from an address, and returns the far end.
func (l *listener) connect(from string) net.Conn {
	far, _ := l.open(addr(from), addr(serverAt))
	return far
}

// open is connect with any addresses. It counts how often the near end is read.
func (l *listener) open(remote, local net.Addr) (far net.Conn, reads *atomic.Int32) {
	far, near := net.Pipe()
	reads = &atomic.Int32{}
	l.conns <- pipe{near, remote, local, reads, 0}
	return far, reads
}

// ended reports whether a far end has been closed by the other side, which it
// waits for.
func ended(far net.Conn) bool {
	_, err := far.Read(make([]byte, 1))
	return errors.Is(err, io.EOF)
}

// start returns a Listener and its inner one; both end with the test.
func start(t testing.TB, c proxyproto.Config) (*proxyproto.Listener, *listener) {
	t.Helper()
	inner := newListener()
	l, err := proxyproto.NewListener(inner, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l, inner
}

// accepted is what Accept returns, once it does.
type accepted struct {
	conn net.Conn
	err  error
}

// accepting calls Accept, n times.
func accepting(l net.Listener, n int) <-chan accepted {
	out := make(chan accepted, n)
	go func() {
		for range n {
			c, err := l.Accept()
			out <- accepted{c, err}
		}
	}()
	return out
}

// v2 is a header of version 2.
func v2(command, family byte, body []byte) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

// ends are the addresses of a header of version 2.
func ends(source, destination string, tlvs ...[]byte) []byte {
	s, d := netip.MustParseAddrPort(source), netip.MustParseAddrPort(destination)
	b := append(s.Addr().AsSlice(), d.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, s.Port())
	b = binary.BigEndian.AppendUint16(b, d.Port())
	for _, t := range tlvs {
		b = append(b, t...)
	}
	return b
}

func tlv(kind byte, value []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value))), value...)
}

// sealed puts the checksum into four bytes of a header, which end some bytes
// before its end.
func sealed(b []byte, before int) []byte {
	at := len(b) - before - 4
	clear(b[at : at+4])
	binary.BigEndian.PutUint32(b[at:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// records is a slog.Handler that keeps what it is given.
type records struct {
	mu   sync.Mutex
	list []map[string]string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }
func (r *records) Handle(_ context.Context, record slog.Record) error {
	m := map[string]string{"level": record.Level.String()}
	record.Attrs(func(a slog.Attr) bool { m[a.Key] = a.Value.String(); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, m)
	return nil
}

func (r *records) take() []map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	return list
}
