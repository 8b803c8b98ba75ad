package dnsclient_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
)

func TestQuery(t *testing.T) {
	var got *dns.Msg
	s := serve(t, func(_ string, m, q *dns.Msg) *dns.Msg {
		got = q
		return m
	})
	_, err := client(s).Lookup(t.Context(), "P.Example.", dnsclient.AAAA)
	require.NoError(t, err)
	require.Len(t, s.queries(), 1)
	require.Equal(t, []dns.Question{{Name: "p.example.", Qtype: dns.TypeAAAA, Qclass: dns.ClassINET}}, got.Question)
	require.True(t, got.RecursionDesired)
	require.True(t, got.AuthenticatedData)
	require.False(t, got.CheckingDisabled)
	require.NotNil(t, got.IsEdns0())
	require.EqualValues(t, 1232, got.IsEdns0().UDPSize())
	require.False(t, got.IsEdns0().Do())
}

func TestIdsAreNotPredictable(t *testing.T) {
	seen := map[uint16]bool{}
	s := serve(t, func(_ string, m, q *dns.Msg) *dns.Msg {
		seen[q.Id] = true
		return m
	})
	c := client(s)
	for range 50 {
		_, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
	}
	require.Len(t, s.queries(), 50)
	require.Greater(t, len(seen), 45)
}

func TestTruncationLeadsToTCP(t *testing.T) {
	full := func(m *dns.Msg) *dns.Msg {
		for i := range 60 {
			m.Answer = append(m.Answer, rr(t, fmt.Sprintf("p.example. 60 A 192.0.2.%d", i)))
		}
		return m
	}
	t.Run("a truncated reply is asked again over TCP", func(t *testing.T) {
		s := serve(t, func(network string, m, _ *dns.Msg) *dns.Msg {
			if network == "udp" {
				m.Truncated = true
				m.Answer = rrs(t, "p.example. 60 A 192.0.2.66")
				return m
			}
			return full(m)
		})
		answer, err := client(s).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Len(t, answer.Addrs, 60)
		require.NotContains(t, answer.Addrs, netip.MustParseAddr("192.0.2.66"))
		require.Equal(t, []string{"udp p.example.", "tcp p.example."}, s.queries())
	})
	t.Run("a reply cut in the middle of a record is asked again over TCP", func(t *testing.T) {
		s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg { return full(m) })
		cut := func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if network == "udp" {
				conn = &cutConn{conn}
			}
			return conn, err
		}
		answer, err := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{{Addr: s.addr}}, Dial: cut, Attempts: 1}).Lookup(t.Context(), "p.example", dnsclient.A)
		require.NoError(t, err)
		require.Len(t, answer.Addrs, 60)
	})
	t.Run("a truncated reply over TCP is an error", func(t *testing.T) {
		s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
			m.Truncated = true
			m.Answer = rrs(t, "p.example. 60 A 192.0.2.66")
			return m
		})
		_, err := client(s).Lookup(t.Context(), "p.example", dnsclient.A)
		require.ErrorContains(t, err, "truncated")
	})
}

// cutConn cuts what arrives, and says so in the header.
type cutConn struct{ net.Conn }

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		b[2] |= 0x02 // TC
		n -= 7
	}
	return n, err
}

// spoofs sends forged datagrams before every datagram that arrives.
type spoofs struct {
	net.Conn
	forge [][]byte
	make  func(query []byte) [][]byte
}

func (c *spoofs) Write(b []byte) (int, error) {
	c.forge = c.make(b)
	return c.Conn.Write(b)
}

func (c *spoofs) Read(b []byte) (int, error) {
	if len(c.forge) > 0 {
		n := copy(b, c.forge[0])
		c.forge = c.forge[1:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func TestForgedDatagramsAreIgnored(t *testing.T) {
	s := serve(t, func(_ string, m, _ *dns.Msg) *dns.Msg {
		m.Answer = rrs(t, "p.example. 60 A 192.0.2.1")
		return m
	})
	for name, change := range map[string]func(m *dns.Msg){
		"another id":                            func(m *dns.Msg) { m.Id++ },
		"another name":                          func(m *dns.Msg) { m.Question[0].Name = "q.example." },
		"another type":                          func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"another class":                         func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"two questions":                         func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) },
		"no question":                           func(m *dns.Msg) { m.Question = nil },
		"no question and a truncated answer":    func(m *dns.Msg) { m.Question, m.Truncated = nil, true },
		"no question and NXDOMAIN":              func(m *dns.Msg) { m.Question, m.Rcode = nil, dns.RcodeNameError },
		"a query":                               func(m *dns.Msg) { m.Response = false },
		"a notification":                        func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		"another name and a truncated answer":   func(m *dns.Msg) { m.Question[0].Name, m.Truncated = "q.example.", true },
		"another name that is a failure":        func(m *dns.Msg) { m.Question[0].Name, m.Rcode = "q.example.", dns.RcodeServerFailure },
		"another id and a failure, no question": func(m *dns.Msg) { m.Id++; m.Question, m.Rcode = nil, dns.RcodeRefused },
	} {
		t.Run(name, func(t *testing.T) {
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return &spoofs{Conn: conn, make: func(query []byte) [][]byte {
					var q dns.Msg
					require.NoError(t, q.Unpack(query))
					m := new(dns.Msg).SetReply(&q)
					m.RecursionAvailable = true
					m.Answer = rrs(t, "p.example. 60 A 192.0.2.66", "q.example. 60 A 192.0.2.66")
					change(m)
					forged, err := m.Pack()
					require.NoError(t, err)
					return [][]byte{{}, {query[0]}, query[:2], query[:12], forged, append(forged[:len(forged):len(forged)], 1), forged[:len(forged)-1]}
				}}, err
			}
			c := dnsclient.New(dnsclient.Options{Servers: []dnsclient.Server{{Addr: s.addr}}, Dial: dial, Attempts: 1})
			answer, err := c.Lookup(t.Context(), "p.example", dnsclient.A)
			require.NoError(t, err)
			require.Equal(t, addrs("192.0.2.1"), answer.Addrs)
		})
	}
}

func TestMalformedReplies(t *testing.T) {
	m := new(dns.Msg).SetQuestion("p.example.", dns.TypeA)
	m.Response, m.RecursionAvailable = true, true
	m.Answer = rrs(t, "p.example. 60 A 192.0.2.1", "p.example. 60 A 192.0.2.2")
	whole, err := m.Pack()
	require.NoError(t, err)
	m.Truncated = true
	cut, err := m.Pack()
	require.NoError(t, err)
	lookup := func(udp, tcp []byte) (dnsclient.Answer, error) {
		return dnsclient.New(dnsclient.Options{
			Servers: []dnsclient.Server{at("192.0.2.53:53")}, Attempts: 1,
			Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
				if network == "tcp" {
					return &wire{reply: tcp[2:], tcp: true}, nil
				}
				return &wire{reply: udp[2:]}, nil
			},
		}).Lookup(t.Context(), "p.example", dnsclient.A)
	}
	answer, err := lookup(whole, nil)
	require.NoError(t, err)
	require.Len(t, answer.Addrs, 2)
	answer, err = lookup(cut, whole)
	require.NoError(t, err)
	require.Len(t, answer.Addrs, 2)
	for n := 2; n < len(whole); n++ {
		_, err = lookup(whole[:n], nil)
		require.Error(t, err, "%d bytes over UDP", n)
		_, err = lookup(cut, whole[:n])
		require.Error(t, err, "%d bytes over TCP", n)
	}
}

// wire is a connection that answers every query with the same bytes after the
// query's id and, if the bytes ask for it, its question.
type wire struct {
	net.Conn
	reply []byte
	tcp   bool
	rest  []byte
}

func (c *wire) Write(b []byte) (int, error) {
	query := b
	if c.tcp {
		query = b[2:]
	}
	c.rest = append(append([]byte(nil), query[:2]...), c.reply...)
	if c.tcp {
		c.rest = append(binary.BigEndian.AppendUint16(nil, uint16(len(c.rest))), c.rest...)
	}
	return len(b), nil
}

func (c *wire) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	if !c.tcp {
		c.rest = nil
	}
	return n, nil
}

func (c *wire) Close() error { return nil }

func (c *wire) SetDeadline(time.Time) error { return nil }

// An empty rdata is not the address 0.0.0.0, an alias of the root or an empty
// text.
func TestEmptyRecordDataIsAnError(t *testing.T) {
	for _, rtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypePTR, dns.TypeCNAME} {
		typ := dnsclient.Type(rtype)
		if rtype == dns.TypeCNAME {
			typ = dnsclient.A
		}
		_, err := replies(rawReply(typ, rawRecord(rtype, nil))).Lookup(t.Context(), "p.example", typ)
		require.ErrorContains(t, err, "malformed "+dns.TypeToString[rtype]+" record")
	}
}
