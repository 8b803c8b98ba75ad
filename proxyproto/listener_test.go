package proxyproto_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/proxyproto"
)

// line is a header of version 1 with the address good.
const line = "PROXY TCP4 198.51.100.7 203.0.113.1 51234 443\r\n"

func TestNewListenerRefuses(t *testing.T) {
	t.Parallel()
	inner := newListener()
	for _, c := range []struct {
		name   string
		config proxyproto.Config
		want   string
	}{
		{"no proxies", proxyproto.Config{}, "Config.Trusted is missing"},
		{"an invalid prefix", proxyproto.Config{Trusted: []netip.Prefix{{}}}, "Config.Trusted[0]"},
		{"a prefix of too many bits", proxyproto.Config{Trusted: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 33)}}, "Config.Trusted[0]"},
		{"all IPv4 addresses", proxyproto.Config{Trusted: prefixes("10.0.0.0/8", "0.0.0.0/0")}, "Config.Trusted[1]"},
		{"all IPv6 addresses", proxyproto.Config{Trusted: prefixes("::/0")}, "Config.Trusted[0]"},
		{"all IPv4 addresses, mapped", proxyproto.Config{Trusted: prefixes("::ffff:0:0/96")}, "Config.Trusted[0]"},
		{"a negative timeout", proxyproto.Config{Trusted: prefixes("10.0.0.0/8"), HeaderTimeout: -1}, "Config.HeaderTimeout"},
		{"a negative bound", proxyproto.Config{Trusted: prefixes("10.0.0.0/8"), MaxPending: -1}, "Config.MaxPending"},
	} {
		l, err := proxyproto.NewListener(inner, c.config)
		require.Nil(t, l, c.name)
		require.ErrorContains(t, err, "proxyproto: "+c.want, c.name)
	}
	_, err := proxyproto.NewListener(nil, proxyproto.Config{HeaderTimeout: -1, MaxPending: -1})
	for _, all := range []string{"no listener", "Trusted", "HeaderTimeout", "MaxPending"} {
		require.ErrorContains(t, err, all)
	}
	u, err := net.Listen("unix", t.TempDir()+"/socket")
	require.NoError(t, err)
	defer u.Close()
	_, err = proxyproto.NewListener(u, trusted())
	require.ErrorContains(t, err, "Unix socket")
}

func TestTheConfigIsCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := trusted()
		l, inner := start(t, c)
		c.Trusted[0] = netip.MustParsePrefix("192.0.2.0/24")
		next := accepting(l, 1)
		_, err := inner.connect(proxyAt).Write([]byte(line))
		require.NoError(t, err)
		require.NoError(t, (<-next).err)
	})
}

func TestOnlyProxiesAreRead(t *testing.T) {
	for _, c := range []struct {
		name string
		from net.Addr
		ok   bool
	}{
		{"a proxy", addr(proxyAt), true},
		{"a proxy, IPv4-mapped", addr("[::ffff:10.0.0.2]:4000"), true},
		{"a proxy, IPv6", addr("[2001:db8:1::2]:4000"), true},
		{"its neighbour", addr("10.0.0.8:4000"), false},
		{"the client whom the header names", addr(good), false},
		{"a neighbour, IPv4-mapped", addr("[::ffff:10.0.0.8]:4000"), false},
		{"a neighbour, IPv6", addr("[2001:db8:2::2]:4000"), false},
		{"loopback", addr("127.0.0.1:4000"), false},
		{"a Unix socket", &net.UnixAddr{Net: "unix", Name: "10.0.0.2:4000x"}, false},
		{"no address", nil, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, inner := start(t, trusted())
			next := accepting(l, 1)
			far, reads := inner.open(c.from, addr(serverAt))
			defer far.Close()
			if !c.ok {
				require.True(t, ended(far), c.name)
				require.Zero(t, reads.Load(), c.name)
				synctest.Wait()
				require.Empty(t, next, c.name)
				return
			}
			_, err := far.Write([]byte(line))
			require.NoError(t, err, c.name)
			a := <-next
			require.NoError(t, a.err)
			require.Equal(t, addr(good), a.conn.RemoteAddr(), c.name)
		})
	}
}

func TestAnIPv4MappedPrefixIsOneOfIPv4(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, proxyproto.Config{Trusted: prefixes("::ffff:10.0.0.0/125")})
		next := accepting(l, 1)
		require.True(t, ended(inner.connect("10.0.0.8:4000")))
		_, err := inner.connect(proxyAt).Write(v2(0x21, 0x11, ends("10.0.0.7:51234", front)))
		require.NoError(t, err)
		require.Equal(t, "unknown (PROXY a trusted proxy, 10.0.0.7)", (<-next).conn.RemoteAddr().String())
	})
}

func TestTheServersOwnAddressIsUnknown(t *testing.T) {
	for _, c := range []struct{ name, local, source, want string }{
		{"a public one", "93.184.216.34:443", "93.184.216.34:51234", "unknown (PROXY the server itself, 93.184.216.34)"},
		{"a public one, IPv4-mapped", "[::ffff:93.184.216.34]:443", "93.184.216.34:51234", "unknown (PROXY the server itself, 93.184.216.34)"},
		{"a private one, which the guard judges", "10.1.0.1:443", "10.1.0.1:51234", "10.1.0.1:51234"},
		{"another public one", "93.184.216.34:443", "93.184.216.35:51234", "93.184.216.35:51234"},
	} {
		synctest.Test(t, func(t *testing.T) {
			l, inner := start(t, trusted())
			next := accepting(l, 1)
			far, _ := inner.open(addr(proxyAt), addr(c.local))
			_, err := far.Write(v2(0x21, 0x11, ends(c.source, front)))
			require.NoError(t, err)
			require.Equal(t, c.want, (<-next).conn.RemoteAddr().String(), c.name)
		})
	}
}

func TestASilentProxyDelaysNobodyAndIsClosed(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			config, want := trusted(), 5*time.Second
			if config.HeaderTimeout = timeout; timeout > 0 {
				want = timeout
			}
			l, inner := start(t, config)
			next := accepting(l, 2)
			began := time.Now()
			silent, slow := inner.connect(proxyAt), inner.connect(proxyAt)
			go func() {
				for i := range line { // a byte in 300 ms does not buy time
					time.Sleep(300 * time.Millisecond)
					if _, err := slow.Write([]byte(line[i : i+1])); err != nil {
						return
					}
				}
			}()
			far := inner.connect(proxyAt)
			_, err := far.Write([]byte(line))
			require.NoError(t, err)
			a := <-next
			require.Equal(t, addr(good), a.conn.RemoteAddr())
			require.Zero(t, time.Since(began))
			require.True(t, ended(silent))
			require.True(t, ended(slow))
			require.Equal(t, want, time.Since(began))

			time.Sleep(time.Hour) // the time for the header does not count for what follows
			go far.Write([]byte("x"))
			_, err = io.ReadFull(a.conn, make([]byte, 1))
			require.NoError(t, err)
		})
	}
}

func TestPendingConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := trusted()
		config.MaxPending = 3
		l, inner := start(t, config)
		first := accepting(l, 1)
		var far []net.Conn
		for range 3 {
			far = append(far, inner.connect(proxyAt))
		}
		began := time.Now()
		require.True(t, ended(inner.connect(proxyAt)), "one too many")
		_, err := far[0].Write([]byte(line))
		require.NoError(t, err)
		require.NoError(t, (<-first).err)
		far[0] = inner.connect(proxyAt) // its place is free
		for _, f := range far {
			_, err := f.Write([]byte(line))
			require.NoError(t, err)
		}
		synctest.Wait()
		require.True(t, ended(inner.connect(proxyAt)), "nobody has accepted the others yet")
		require.Zero(t, time.Since(began))
		for _, a := range []<-chan accepted{accepting(l, 1), accepting(l, 2)} {
			require.NoError(t, (<-a).err)
		}
	})
}

func TestTheDefaultBoundIs1024(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		accepting(l, 1)
		for range 1024 {
			inner.connect(proxyAt)
		}
		synctest.Wait()
		began := time.Now()
		require.True(t, ended(inner.connect(proxyAt)))
		require.Zero(t, time.Since(began))
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := &records{}
		config := trusted()
		config.Logger = slog.New(seen)
		l, inner := start(t, config)
		next := accepting(l, 1)
		served := inner.connect(proxyAt)
		_, err := served.Write([]byte(line))
		require.NoError(t, err)
		conn := (<-next).conn
		silent, waiting := inner.connect(proxyAt), inner.connect(proxyAt)
		_, err = waiting.Write([]byte(line))
		require.NoError(t, err)
		synctest.Wait()

		require.NoError(t, l.Close())
		require.True(t, ended(silent))
		require.True(t, ended(waiting))
		_, err = inner.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.NoError(t, l.Close())
		require.Empty(t, seen.take(), "what Close has closed is nobody's fault")

		go served.Write([]byte("x")) // what Accept has returned stays
		_, err = io.ReadFull(conn, make([]byte, 1))
		require.NoError(t, err)
	})
}

func TestCloseWaitsForTheListenersGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		accepting(l, 1)
		_, near := net.Pipe()
		inner.conns <- pipe{near, addr(proxyAt), addr(serverAt), &atomic.Int32{}, time.Second}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, l.Close())
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestOneCallAfterAnotherAcceptsBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		for range 3 {
			accepting(l, 1)
		}
		synctest.Wait()
		require.EqualValues(t, 1, inner.calls.Load())
	})
}

func TestCloseEndsAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := start(t, trusted())
		next := accepting(l, 1)
		synctest.Wait()
		require.NoError(t, l.Close())
		require.ErrorIs(t, (<-next).err, net.ErrClosed)
	})
}

func TestAListenerStartsNothingBeforeAcceptAndAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		require.Equal(t, inner.Addr(), l.Addr())
		synctest.Wait()
		require.NoError(t, l.Close())
		_, err := l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		synctest.Wait()
		require.Zero(t, inner.calls.Load())
	})
}

// A connection is either returned open or closed with the Listener, whichever is
// first.
func TestAcceptAndCloseAtTheSameTime(t *testing.T) {
	returned := 0
	for i := range 10000 {
		l, inner := start(t, trusted())
		first := accepting(l, 1)
		far, other := inner.connect(proxyAt), inner.connect(proxyAt)
		_, err := other.Write([]byte(line))
		require.NoError(t, err)
		(<-first).conn.Close()
		_, err = far.Write([]byte(line)) // its header has been read: it waits for Accept
		require.NoError(t, err)
		var wg sync.WaitGroup
		begin := make(chan struct{})
		wg.Go(func() {
			<-begin
			for range i % 64 {
				runtime.Gosched()
			}
			l.Close()
		})
		next := make(chan accepted, 1)
		wg.Go(func() {
			<-begin
			c, err := l.Accept()
			next <- accepted{c, err}
		})
		close(begin)
		wg.Wait()
		a := <-next
		if a.err != nil {
			require.ErrorIs(t, a.err, net.ErrClosed)
			require.True(t, ended(far))
			continue
		}
		returned++
		wg.Go(func() { far.Write([]byte("x")) })
		_, err = io.ReadFull(a.conn, make([]byte, 1))
		require.NoError(t, err)
		wg.Wait()
	}
	t.Logf("%d of 10000 were returned", returned)
}

type temporary struct{ error }

func (temporary) Temporary() bool { return true }
func (temporary) Timeout() bool   { return false }

func TestErrorsOfTheInnerListenerArePassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		for _, want := range []error{temporary{errors.New("too many open files")}, errors.New("broken"), io.EOF} {
			next := accepting(l, 1)
			inner.errs <- want
			require.Equal(t, accepted{nil, want}, <-next)
		}
		next := accepting(l, 1)
		_, err := inner.connect(proxyAt).Write([]byte(line))
		require.NoError(t, err)
		require.NoError(t, (<-next).err)

		require.NoError(t, inner.Close()) // by somebody else
		for range 3 {
			_, err := l.Accept()
			require.ErrorIs(t, err, net.ErrClosed)
		}
	})
}

func TestRecordsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := &records{}
		config := trusted()
		config.Logger, config.MaxPending = slog.New(seen), 1
		l, inner := start(t, config)
		next := accepting(l, 3)
		scan := func(n int) {
			for range n {
				require.True(t, ended(inner.connect("192.0.2.1:1234")))
			}
			synctest.Wait()
		}
		scan(100)
		want := map[string]string{"level": "WARN", "reason": "not a trusted proxy", "count": "1", "proxy": "192.0.2.1:1234"}
		require.Equal(t, []map[string]string{want}, seen.take())
		time.Sleep(10*time.Second - 1)
		scan(1)
		require.Empty(t, seen.take())
		time.Sleep(time.Nanosecond)
		scan(1)
		want["count"] = "101"
		require.Equal(t, []map[string]string{want}, seen.take())
		scan(5)

		far := inner.connect(proxyAt) // whose port is only tried
		synctest.Wait()
		far.Close()
		synctest.Wait()
		require.Empty(t, seen.take())

		reason := func() (string, string) {
			synctest.Wait()
			list := seen.take()
			require.Len(t, list, 1)
			require.Equal(t, "WARN", list[0]["level"])
			require.Equal(t, "1", list[0]["count"])
			require.Equal(t, proxyAt, list[0]["proxy"])
			return list[0]["reason"], list[0]["error"]
		}
		far = inner.connect(proxyAt)
		inner.connect(proxyAt)
		r, _ := reason()
		require.Contains(t, r, "too many connections")
		require.True(t, ended(far))
		r, _ = reason()
		require.Contains(t, r, "in time")
		far = inner.connect(proxyAt)
		_, err := far.Write([]byte("PROXY TCP4 \x1b[31m\u2028 203.0.113.1 1 2\r\n"))
		require.NoError(t, err)
		r, text := reason()
		require.Contains(t, r, "no valid PROXY header")
		require.Contains(t, text, `\x1b[31m`)
		require.NotContains(t, text, "\x1b")
		far = inner.connect(proxyAt)
		_, err = far.Write(v2(0x21, 0x11, ends("10.0.0.5:1", front)))
		require.NoError(t, err)
		require.NoError(t, (<-next).err)
		r, text = reason()
		require.Contains(t, r, "unknown")
		require.Contains(t, text, "10.0.0.5")
		for _, check := range [][]byte{localHeader(), []byte("PROXY TCP4 10.0.0.2 10.0.0.9 51234 443\r\n")} { // of health
			time.Sleep(time.Minute)
			far = inner.connect(proxyAt)
			_, err = far.Write(check)
			require.NoError(t, err)
			require.NoError(t, (<-next).err)
		}
		synctest.Wait()
		require.Empty(t, seen.take())

		require.NoError(t, l.Close())
		require.Equal(t, []map[string]string{{"level": "WARN", "reason": "not a trusted proxy", "count": "5"}}, seen.take())
	})
}

func TestConn(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l, err := proxyproto.NewListener(inner, proxyproto.Config{Trusted: prefixes("127.0.0.1/32")})
	require.NoError(t, err)
	defer l.Close()
	next := accepting(l, 1)
	far, err := net.Dial("tcp", inner.Addr().String())
	require.NoError(t, err)
	defer far.Close()
	_, err = far.Write([]byte(line + "hello"))
	require.NoError(t, err)
	a := <-next
	require.NoError(t, a.err)
	c := a.conn.(*proxyproto.Conn)
	require.Equal(t, far.LocalAddr().String(), c.NetConn().RemoteAddr().String())
	require.Equal(t, front, c.LocalAddr().String())

	b := make([]byte, 2)
	n, err := c.Read(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	_, err = io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, "he", string(b))
	rest := make([]byte, 3)
	_, err = io.ReadFull(c, rest)
	require.NoError(t, err)
	require.Equal(t, "llo", string(rest))
	for _, set := range []func(time.Time) error{c.SetReadDeadline, c.SetDeadline} {
		require.NoError(t, set(time.Unix(1, 0)))
		_, err = c.Read(b)
		require.True(t, isTimeout(err), "%v", err)
		require.NoError(t, set(time.Time{}))
	}
	for _, set := range []func(time.Time) error{c.SetWriteDeadline, c.SetDeadline} {
		require.NoError(t, set(time.Unix(1, 0)))
		_, err = c.Write(b)
		require.True(t, isTimeout(err), "%v", err)
		require.NoError(t, set(time.Time{}))
	}
	_, err = c.Write([]byte("bye"))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, "bye", string(got))
	_, err = far.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, b[:1])
	require.NoError(t, err, "only the writing side is closed")
	require.NoError(t, c.Close())
	_, err = c.Read(b)
	require.ErrorIs(t, err, net.ErrClosed)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestCloseWriteWhereTheConnectionHasNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		next := accepting(l, 1)
		_, err := inner.connect(proxyAt).Write([]byte(line))
		require.NoError(t, err)
		err = (<-next).conn.(*proxyproto.Conn).CloseWrite()
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.True(t, strings.HasPrefix(err.Error(), "proxyproto: "))
	})
}
