package dnsclient

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// payload is the largest UDP reply asked for: what crosses the Internet without
// fragments, whose later parts an attacker can forge without knowing the id.
const payload = 1232

// paddedBlock is the number of which the length of a padded query is a multiple
// (RFC 8467 section 4.1).
const paddedBlock = 128

// errAlien says that a message is not the reply to our query.
var errAlien = errors.New("not a reply to this query")

// transport is how a query travels.
type transport string

const (
	overUDP transport = "UDP"
	overTCP transport = "TCP"
	overTLS transport = "TLS" // RFC 7858
)

// exchange sends one query on a connection of its own and returns the reply,
// which answers exactly that question. Of a truncated reply only the header and
// the question are valid.
func (c *Client) exchange(ctx context.Context, t transport, s server, q dns.Question) (*dns.Msg, error) {
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	reply, err := c.exchangeUntil(ctx, t, s, q)
	if err == nil {
		return reply, nil
	}
	// The connection knows only that its deadline passed. Say whose it was.
	if parent.Err() != nil {
		return nil, context.Cause(parent)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("no reply over %s within %v: %w", t, c.timeout, context.DeadlineExceeded)
	}
	return nil, err
}

func (c *Client) exchangeUntil(ctx context.Context, t transport, s server, q dns.Question) (*dns.Msg, error) {
	query, err := packQuery(q, t == overTLS)
	if err != nil {
		return nil, err
	}
	network := "tcp"
	if t == overUDP {
		network = "udp"
	}
	conn, err := c.dial(ctx, network, s.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id := binary.BigEndian.Uint16(query)
	switch t {
	case overUDP:
		return datagrams(conn, query, id, q)
	case overTLS:
		return secureStream(ctx, tls.Client(conn, s.tls), query, id, q)
	}
	return stream(conn, query, id, q)
}

// packQuery makes a query with a random id (RFC 5452 section 9.2) that asks for
// recursion, and for the AD bit without the DNSSEC records (RFC 6840 section
// 5.7). Padded, its length does not tell the name to who sees the bytes of TLS.
func packQuery(q dns.Question, padded bool) ([]byte, error) {
	var id [2]byte
	rand.Read(id[:])
	m := dns.Msg{Question: []dns.Question{q}}
	m.Id = binary.BigEndian.Uint16(id[:])
	m.RecursionDesired = true
	m.AuthenticatedData = true
	m.SetEdns0(payload, false)
	if padded {
		padding := new(dns.EDNS0_PADDING)
		opt := m.IsEdns0()
		opt.Option = append(opt.Option, padding) // counts with its header (RFC 7830 section 3)
		padding.Padding = make([]byte, (paddedBlock-m.Len()%paddedBlock)%paddedBlock)
	}
	return m.Pack()
}

// datagrams waits for the reply among whatever arrives: what does not
// belong to the query is ignored, so that a guess costs the guesser a port and
// an id (RFC 5452 section 9.1).
func datagrams(conn net.Conn, query []byte, id uint16, q dns.Question) (*dns.Msg, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // some servers answer with more than asked for
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if reply, err := parseReply(buf[:n], id, q); err == nil {
			return reply, nil
		}
	}
}

// stream exchanges messages with a length before them (RFC 1035 section 4.2.2,
// RFC 7858 section 3.3).
func stream(conn net.Conn, query []byte, id uint16, q dns.Question) (*dns.Msg, error) {
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(query)))
	if _, err := conn.Write(append(framed, query...)); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, err
	}
	return parseReply(buf, id, q)
}

func secureStream(ctx context.Context, conn *tls.Conn, query []byte, id uint16, q dns.Question) (*dns.Msg, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, &handshakeError{err}
	}
	reply, err := stream(conn, query, id, q)
	if err == nil {
		conn.Close() // tells the server that this was all (RFC 8446 section 6.1)
	}
	return reply, err
}

// parseReply returns the message if it is the reply to the query with that id
// and question.
func parseReply(b []byte, id uint16, q dns.Question) (*dns.Msg, error) {
	if len(b) < 2 || binary.BigEndian.Uint16(b) != id {
		return nil, errAlien
	}
	var m dns.Msg
	err := m.Unpack(b)
	if !m.Response || m.Opcode != dns.OpcodeQuery {
		return nil, errAlien
	}
	if len(m.Question) == 0 && err == nil && !definite(m.Rcode) {
		return &m, nil // some servers refuse without repeating the question; it says nothing about the name
	}
	// Servers may repeat the letter case of the question or fold it. The library
	// escapes bytes outside ASCII, so EqualFold folds ASCII letters only.
	if len(m.Question) != 1 || m.Question[0].Qtype != q.Qtype || m.Question[0].Qclass != q.Qclass ||
		!strings.EqualFold(m.Question[0].Name, q.Name) {
		return nil, errAlien
	}
	if m.Truncated {
		return &m, nil // cut anywhere, so an error is no surprise
	}
	if err != nil || !complete(b, &m) {
		return nil, errors.New("malformed reply")
	}
	return &m, nil
}

// complete reports whether the message has as many records as its header says.
// The library takes the end of the bytes for the end of a section, and would
// make a denial of an answer that was cut short.
func complete(b []byte, m *dns.Msg) bool {
	counts := b[6:12] // RFC 1035 section 4.1.1; Unpack has seen the whole header
	for i, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		if int(binary.BigEndian.Uint16(counts[2*i:])) != len(section) {
			return false
		}
	}
	return true
}

// definite reports whether the response code says something about the name.
func definite(rcode int) bool {
	return rcode == dns.RcodeSuccess || rcode == dns.RcodeNameError
}
