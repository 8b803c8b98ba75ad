package proxyproto_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	other "github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/proxyproto"
)

const (
	closed = "closed"
	good   = "198.51.100.7:51234"
	front  = "203.0.113.1:443" // the public address of the proxy
)

// speak sends data over a connection from the proxy, in pieces of a size, and
// returns what becomes of it: closed, or the address of the client.
func speak(t *testing.T, data []byte, piece int) (remote, local, rest string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l, inner := start(t, trusted())
		next := accepting(l, 1)
		far := inner.connect(proxyAt)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for len(data) > 0 {
				n := min(piece, len(data))
				if _, err := far.Write(data[:n]); err != nil {
					return
				}
				data = data[n:]
			}
		}()
		cut := make(chan bool, 1)
		go func() { cut <- ended(far) }()
		select {
		case a := <-next:
			require.NoError(t, a.err)
			remote, local = a.conn.RemoteAddr().String(), a.conn.LocalAddr().String()
			var got bytes.Buffer
			read := make(chan struct{})
			go func() { defer close(read); io.Copy(&got, a.conn) }()
			<-sent
			far.Close()
			<-read
			rest = got.String()
			a.conn.Close()
		case is := <-cut:
			require.True(t, is)
			remote = closed
		}
		far.Close()
		<-sent
	})
	return remote, local, rest
}

var headers = []struct {
	name   string
	header []byte
	remote string
	local  string // empty: serverAt
}{
	{"v1 over IPv4", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 51234 443\r\n"), good, front},
	{"v1 over IPv6", []byte("PROXY TCP6 2001:DB8::7 2001:db8:0:0:0:0:0:1 51234 443\r\n"), "[2001:db8::7]:51234", "[2001:db8::1]:443"},
	{"v1, the longest IPv6", []byte("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:0db8:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
		"unknown (PROXY not a host, ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff)", "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
	{"v1, IPv4-mapped counts as IPv4", []byte("PROXY TCP6 ::ffff:198.51.100.7 ::ffff:203.0.113.1 51234 443\r\n"), good, front},
	{"v1, IPv4-mapped in hexadecimal", []byte("PROXY TCP6 ::ffff:c633:6407 ::ffff:cb00:7101 51234 443\r\n"), good, front},
	{"v1 UNKNOWN", []byte("PROXY UNKNOWN\r\n"), "unknown (PROXY UNKNOWN)", ""},
	{"v1 UNKNOWN with addresses to be ignored", []byte("PROXY UNKNOWN 198.51.100.7 203.0.113.1 51234 443\r\n"), "unknown (PROXY UNKNOWN)", ""},
	{"v1 UNKNOWN of 107 bytes", []byte("PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n"), "unknown (PROXY UNKNOWN)", ""},
	{"v1 UNKNOWN of 108 bytes", []byte("PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n"), closed, ""},
	{"v1 without an end", []byte("PROXY TCP4 " + strings.Repeat("1", 8000)), closed, ""},
	{"v1, leading zeros in an address", []byte("PROXY TCP4 198.051.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, leading zeros in the destination", []byte("PROXY TCP4 198.51.100.7 203.0.113.01 51234 443\r\n"), closed, ""},
	{"v1, octal, hexadecimal, short addresses", []byte("PROXY TCP4 0x7f.1 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, an address as a number", []byte("PROXY TCP4 3325256711 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, a name", []byte("PROXY TCP4 localhost 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, 256 in an address", []byte("PROXY TCP4 198.51.100.256 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, leading zero in a port", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 051234 443\r\n"), closed, ""},
	{"v1, port 65536", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 65536 443\r\n"), closed, ""},
	{"v1, a sign in a port", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 +51234 443\r\n"), closed, ""},
	{"v1, an IPv6 zone", []byte("PROXY TCP6 fe80::1%eth0 2001:db8::1 51234 443\r\n"), closed, ""},
	{"v1, IPv6 in a TCP4 line", []byte("PROXY TCP4 2001:db8::7 2001:db8::1 51234 443\r\n"), closed, ""},
	{"v1, IPv4-mapped in a TCP4 line", []byte("PROXY TCP4 ::ffff:198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, IPv4 in a TCP6 line", []byte("PROXY TCP6 198.51.100.7 2001:db8::1 51234 443\r\n"), closed, ""},
	{"v1, brackets", []byte("PROXY TCP6 [2001:db8::7] 2001:db8::1 51234 443\r\n"), closed, ""},
	{"v1, two double colons", []byte("PROXY TCP6 2001::db8::7 2001:db8::1 51234 443\r\n"), closed, ""},
	{"v1, UDP4", []byte("PROXY UDP4 198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, lower case", []byte("PROXY tcp4 198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, proxy in lower case", []byte("proxy TCP4 198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, two spaces", []byte("PROXY TCP4  198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, a space at the end", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 51234 443 \r\n"), closed, ""},
	{"v1, a space in front", []byte(" PROXY TCP4 198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, a tabulator", []byte("PROXY TCP4 198.51.100.7\t203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, a NUL", []byte("PROXY TCP4 198.51.100.7\x00 203.0.113.1 51234 443\r\n"), closed, ""},
	{"v1, one field more", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 51234 443 1\r\n"), closed, ""},
	{"v1, no ports", []byte("PROXY TCP4 198.51.100.7 203.0.113.1\r\n"), closed, ""},
	{"v1, LF alone", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 51234 443\n"), closed, ""},
	{"v1, CR alone", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 51234 443\r"), closed, ""},
	{"v1, CR inside", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 51234\r 443\r\n"), closed, ""},
	{"v1, nothing but the word", []byte("PROXY\r\n"), closed, ""},
	{"v1, a word that begins so", []byte("PROXYTCP4 198.51.100.7 203.0.113.1 51234 443\r\n"), closed, ""},

	{"v2 over IPv4", v2(0x21, 0x11, ends(good, front)), good, front},
	{"v2 over IPv6", v2(0x21, 0x21, ends("[2001:db8::7]:51234", "[2001:db8::1]:443")), "[2001:db8::7]:51234", "[2001:db8::1]:443"},
	{"v2, IPv4-mapped counts as IPv4", v2(0x21, 0x21, ends("[::ffff:198.51.100.7]:51234", "[::ffff:203.0.113.1]:443")), good, front},
	{"v2 without a destination", v2(0x21, 0x11, ends(good, "0.0.0.0:0")), good, ""},
	{"v2 LOCAL", v2(0x20, 0x00, nil), "unknown (PROXY LOCAL)", ""},
	{"v2 LOCAL with addresses to be ignored", v2(0x20, 0x11, ends(good, front)), "unknown (PROXY LOCAL)", ""},
	{"v2 LOCAL with anything", v2(0x20, 0x11, []byte("PROXY")), "unknown (PROXY LOCAL)", ""},
	{"v2 UNSPEC", v2(0x21, 0x00, nil), "unknown (PROXY UNSPEC)", ""},
	{"v2 UNSPEC with anything", v2(0x21, 0x00, ends(good, front)), "unknown (PROXY UNSPEC)", ""},
	{"v2 over UDP", v2(0x21, 0x12, ends(good, front)), "unknown (PROXY not TCP)", ""},
	{"v2 over UDP and IPv6", v2(0x21, 0x22, ends("[2001:db8::7]:1", "[2001:db8::1]:1")), "unknown (PROXY not TCP)", ""},
	{"v2, a Unix socket", v2(0x21, 0x31, make([]byte, 216)), "unknown (PROXY not TCP)", ""},
	{"v2, a Unix socket whose name is an address", v2(0x21, 0x31, append([]byte(good), make([]byte, 216-len(good))...)), "unknown (PROXY not TCP)", ""},
	{"v2, a Unix socket whose name is no TLV", v2(0x21, 0x31, bytes.Repeat([]byte{0xff}, 216)), "unknown (PROXY not TCP)", ""},
	{"v2, Unix datagrams", v2(0x21, 0x32, make([]byte, 216)), "unknown (PROXY not TCP)", ""},
	{"v2, an unassigned command", v2(0x22, 0x11, ends(good, front)), closed, ""},
	{"v2, an unassigned command without a family", v2(0x2f, 0x00, nil), closed, ""},
	{"v2, version 1", v2(0x11, 0x11, ends(good, front)), closed, ""},
	{"v2, version 3", v2(0x31, 0x11, ends(good, front)), closed, ""},
	{"v2, an unassigned family", v2(0x21, 0x41, ends(good, front)), closed, ""},
	{"v2, a stream of no family", v2(0x21, 0x01, ends(good, front)), closed, ""},
	{"v2, an unassigned protocol (a crash of others)", v2(0x21, 0x13, ends(good, front)), closed, ""},
	{"v2, IPv4 without a protocol", v2(0x21, 0x10, ends(good, front)), closed, ""},
	{"v2, IPv4 in 11 bytes", v2(0x21, 0x11, ends(good, front)[:11]), closed, ""},
	{"v2, IPv4 without addresses", v2(0x21, 0x11, nil), closed, ""},
	{"v2, IPv6 in 12 bytes", v2(0x21, 0x21, ends(good, front)), closed, ""},
	{"v2, more announced than comes", v2(0x21, 0x11, ends(good, front))[:27], closed, ""},
	{"v2, LOCAL, more announced than comes", v2(0x20, 0x00, []byte("xx"))[:17], closed, ""},
	{"v2, half a signature", v2(0x21, 0x11, nil)[:8], closed, ""},
	{"v2, one byte of the signature wrong", append([]byte("\r\n\r\n\x00\r\nQUIT\r"), v2(0x21, 0x11, ends(good, front))[12:]...), closed, ""},
	{"v2, 4096 bytes", v2(0x21, 0x11, ends(good, front, tlv(0xe0, make([]byte, 4096-12-3)))), good, front},
	{"v2, 4097 bytes", v2(0x21, 0x11, ends(good, front, tlv(0xe0, make([]byte, 4097-12-3)))), closed, ""},
	{"v2, LOCAL, 4097 bytes", v2(0x20, 0x00, make([]byte, 4097)), closed, ""},
	{"v2, UNSPEC, 65535 bytes", v2(0x21, 0x00, make([]byte, 65535)), closed, ""},
	{"v2, unknown TLVs", v2(0x21, 0x11, ends(good, front, tlv(0x04, nil), tlv(0xee, []byte("x")), tlv(0x02, []byte("api.acme.example")))), good, front},
	{"v2, padding with contents", v2(0x21, 0x11, ends(good, front, tlv(0x04, []byte("\x03\x00\x04")))), good, front},
	{"v2, a TLV longer than the header", v2(0x21, 0x11, ends(good, front, []byte{0xee, 0, 2, 1})), closed, ""},
	{"v2, a TLV without a length", v2(0x21, 0x11, ends(good, front, []byte{0xee, 0})), closed, ""},
	{"v2, checksum", sealed(v2(0x21, 0x11, ends(good, front, tlv(0xee, []byte("x")), tlv(0x03, make([]byte, 4)))), 0), good, front},
	{"v2, checksum over IPv6", sealed(v2(0x21, 0x21, ends("[2001:db8::7]:51234", "[2001:db8::1]:443", tlv(0x03, make([]byte, 4)))), 0), "[2001:db8::7]:51234", "[2001:db8::1]:443"},
	{"v2, checksum of a Unix socket", sealed(v2(0x21, 0x31, append(make([]byte, 216), tlv(0x03, make([]byte, 4))...)), 0), "unknown (PROXY not TCP)", ""},
	{"v2, wrong checksum", v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 4)))), closed, ""},
	{"v2, wrong checksum of a Unix socket", v2(0x21, 0x31, append(make([]byte, 216), tlv(0x03, make([]byte, 4))...)), closed, ""},
	{"v2, a source changed after the checksum", changed(sealed(v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 4)))), 0)), closed, ""},
	{"v2, a short checksum", v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 3)))), closed, ""},
	{"v2, a long checksum", sealed(v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 5)))), 1), closed, ""},
	{"v2, a short checksum that another TLV completes", sealed(v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 3)), tlv(0xee, nil))), 2), closed, ""},
	{"v2, a checksum in the middle", sealed(v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 4)), tlv(0xee, []byte("x")))), 4), good, front},
	{"v2, an empty checksum", v2(0x21, 0x11, ends(good, front, tlv(0x03, nil))), closed, ""},
	{"v2, two checksums", sealed(v2(0x21, 0x11, ends(good, front, tlv(0x03, make([]byte, 4)), tlv(0x03, make([]byte, 4)))), 0), closed, ""},

	{"an unspecified source", v2(0x21, 0x11, ends("0.0.0.0:1", front)), "unknown (PROXY not a host, 0.0.0.0)", front},
	{"an unspecified source in v1", []byte("PROXY TCP6 :: 2001:db8::1 1 443\r\n"), "unknown (PROXY not a host, ::)", "[2001:db8::1]:443"},
	{"an unspecified source, IPv4-mapped", v2(0x21, 0x21, ends("[::ffff:0.0.0.0]:1", "[::ffff:203.0.113.1]:443")), "unknown (PROXY not a host, 0.0.0.0)", front},
	{"a multicast source", v2(0x21, 0x11, ends("224.0.0.1:1", front)), "unknown (PROXY not a host, 224.0.0.1)", front},
	{"a multicast source, IPv6", v2(0x21, 0x21, ends("[ff02::1]:1", "[2001:db8::1]:443")), "unknown (PROXY not a host, ff02::1)", "[2001:db8::1]:443"},
	{"everybody as the source", v2(0x21, 0x11, ends("255.255.255.255:1", front)), "unknown (PROXY not a host, 255.255.255.255)", front},
	{"a source with port 0", v2(0x21, 0x11, ends("198.51.100.7:0", front)), "unknown (PROXY port 0 of 198.51.100.7)", front},
	{"a source with port 0 in v1", []byte("PROXY TCP4 198.51.100.7 203.0.113.1 0 443\r\n"), "unknown (PROXY port 0 of 198.51.100.7)", front},
	{"the proxy as the source", v2(0x21, 0x11, ends("10.0.0.2:51234", front)), "unknown (PROXY the proxy itself, 10.0.0.2)", front},
	{"another proxy as the source", v2(0x21, 0x11, ends("10.0.0.7:51234", front)), "unknown (PROXY a trusted proxy, 10.0.0.7)", front},
	{"another proxy, IPv4-mapped", v2(0x21, 0x21, ends("[::ffff:10.0.0.7]:51234", "[::ffff:203.0.113.1]:443")), "unknown (PROXY a trusted proxy, 10.0.0.7)", front},
	{"another proxy, IPv6", v2(0x21, 0x21, ends("[2001:db8:1::5]:51234", "[2001:db8::1]:443")), "unknown (PROXY a trusted proxy, 2001:db8:1::5)", "[2001:db8::1]:443"},

	{"TLS", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), closed, ""},
	{"HTTP", []byte("GET / HTTP/1.1\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n"), closed, ""},
	{"POST", []byte("POST / HTTP/1.1\r\n\r\n"), closed, ""},
	{"silence", nil, closed, ""},
}

func changed(b []byte) []byte { b[19]++; return b }

// What a header says, or that the connection is closed, does not depend on how it
// is cut into segments.
func TestHeaders(t *testing.T) {
	for _, c := range headers {
		for _, piece := range []int{1, 7, 1 << 20} {
			remote, local, _ := speak(t, c.header, piece)
			require.Equal(t, c.remote, remote, "%s, %d at a time", c.name, piece)
			if c.remote == closed {
				continue
			}
			want := c.local
			if want == "" {
				want = serverAt
			}
			require.Equal(t, want, local, c.name)
			_, err := netip.ParseAddrPort(remote)
			require.Equal(t, strings.HasPrefix(remote, "unknown (PROXY "), err != nil, c.name)
			require.NotContains(t, remote, ": ", "net/http's log lines are cut there")
		}
	}
}

func TestWhatFollowsAHeaderIsNotLost(t *testing.T) {
	hello := "\x16\x03\x01" + strings.Repeat("client hello ", 1000)
	v1, v2 := string(headers[0].header), string(v2(0x21, 0x11, ends(good, front)))
	for name, c := range map[string][2]string{
		"v1":                              {v1, hello},
		"v2":                              {v2, hello},
		"LOCAL":                           {string(localHeader()), hello},
		"a second header belongs to TLS":  {v1, "PROXY TCP4 192.0.2.1 203.0.113.1 1 443\r\n" + hello},
		"a second header, v2 behind v1":   {v1, v2 + hello},
		"a second header, v1 behind v2":   {v2, v1 + hello},
		"a line break behind the header":  {v1, "\r\n" + hello},
		"nothing":                         {v1, ""},
		"as much as is read at one time":  {v2, strings.Repeat("x", 4112-len(v2))},
		"one byte more than that":         {v2, strings.Repeat("x", 4113-len(v2))},
		"one byte less than that, in v1":  {v1, strings.Repeat("x", 4111-len(v1))},
		"the largest header, and a hello": {string(largeHeader()), hello},
	} {
		for _, piece := range []int{1, 40, 1 << 20} {
			_, _, rest := speak(t, []byte(c[0]+c[1]), piece)
			require.Equal(t, c[1], rest, "%s, %d at a time", name, piece)
		}
	}
}

func localHeader() []byte { return v2(0x20, 0x00, nil) }
func largeHeader() []byte {
	return v2(0x21, 0x11, ends(good, front, tlv(0xe0, make([]byte, 4096-12-3))))
}

// Another package of the program may have loosened go-proxyproto.
func TestIPv4InATCP6LineWhateverGoProxyprotoAllows(t *testing.T) {
	other.V1AcceptIPv4InTCP6 = true
	defer func() { other.V1AcceptIPv4InTCP6 = false }()
	for _, line := range []string{
		"PROXY TCP6 198.51.100.7 2001:db8::1 51234 443\r\n",
		"PROXY TCP6 2001:db8::7 203.0.113.1 51234 443\r\n",
	} {
		remote, _, _ := speak(t, []byte(line), 1<<20)
		require.Equal(t, closed, remote, line)
	}
}

// bytesConn is a connection that sends some bytes and ends.
type bytesConn struct {
	net.Conn // nil: nothing else is called
	*bytes.Reader
	end func()
}

func (c bytesConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }
func (c bytesConn) RemoteAddr() net.Addr       { return addr(proxyAt) }
func (c bytesConn) LocalAddr() net.Addr        { return addr(serverAt) }
func (c bytesConn) Close() error               { c.end(); return nil }

// FuzzHeader: nothing panics; go-proxyproto accepts what states an address, too,
// and reads the same; what is accepted re-encodes, in both versions, to a header
// that states the same; and all that follows the header is what is read.
func FuzzHeader(f *testing.F) {
	for _, c := range headers {
		if len(c.header) < 1000 {
			f.Add(c.header)
			f.Add(append(bytes.Clone(c.header), "\x16\x03\x01"...))
		}
	}
	inner := newListener()
	l, err := proxyproto.NewListener(inner, trusted())
	require.NoError(f, err)
	f.Cleanup(func() { l.Close() })
	next := make(chan accepted)
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			next <- accepted{c, err}
		}
	}()
	send := func(data []byte) net.Conn {
		end := make(chan struct{})
		inner.conns <- bytesConn{Reader: bytes.NewReader(data), end: sync.OnceFunc(func() { close(end) })}
		select {
		case a := <-next:
			return a.conn
		case <-end:
			return nil
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := send(data)
		if c == nil {
			return
		}
		rest, err := io.ReadAll(c)
		require.NoError(t, err)
		require.True(t, bytes.HasSuffix(data, rest))
		size := len(data) - len(rest)
		require.LessOrEqual(t, size, 16+4096)
		again := send(data[:size])
		require.NotNil(t, again, "the header by itself")
		require.Equal(t, c.RemoteAddr(), again.RemoteAddr())
		require.Nil(t, send(data[:size-1]), "a header without its last byte")
		source, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok {
			_, err := netip.ParseAddrPort(c.RemoteAddr().String())
			require.Error(t, err)
			return
		}
		reader := bufio.NewReaderSize(bytes.NewReader(data), max(len(data), 16))
		h, err := other.Read(reader)
		require.NoError(t, err)
		theirs, _, ok := h.TCPAddrs()
		require.True(t, ok)
		require.Equal(t, theirs.AddrPort().Addr().Unmap(), source.AddrPort().Addr())
		require.Equal(t, theirs.Port, source.Port)
		theirRest, _ := io.ReadAll(reader)
		require.Equal(t, string(theirRest), string(rest))
		for version := byte(1); version <= 2; version++ {
			b, err := other.HeaderProxyFromAddrs(version, source, c.LocalAddr()).Format()
			require.NoError(t, err)
			again := send(b)
			require.NotNil(t, again, "%q", b)
			require.Equal(t, c.RemoteAddr().String(), again.RemoteAddr().String())
			require.Equal(t, c.LocalAddr().String(), again.LocalAddr().String())
		}
	})
}
