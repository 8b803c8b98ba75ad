package dnsclient

import (
	"context"
	"crypto/rand"
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

// errAlien says that a message is not the reply to our query.
var errAlien = errors.New("not a reply to this query")

// exchange sends one query on a connection of its own and returns the reply,
// which answers exactly that question. Of a truncated reply over UDP only the
// header and the question are valid.
func (c *Client) exchange(ctx context.Context, network, addr string, q dns.Question) (*dns.Msg, error) {
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	reply, err := c.exchangeUntil(ctx, network, addr, q)
	if err == nil {
		return reply, nil
	}
	// The connection knows only that its deadline passed. Say whose it was.
	if parent.Err() != nil {
		return nil, context.Cause(parent)
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("no reply over %s within %v: %w", network, c.timeout, context.DeadlineExceeded)
	}
	return nil, err
}

func (c *Client) exchangeUntil(ctx context.Context, network, addr string, q dns.Question) (*dns.Msg, error) {
	query, err := packQuery(q)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id := binary.BigEndian.Uint16(query)
	if network == "tcp" {
		return overStream(conn, query, id, q)
	}
	return overDatagrams(conn, query, id, q)
}

// packQuery makes a query with a random id (RFC 5452 section 9.2) that asks for
// recursion, and for the AD bit without the DNSSEC records (RFC 6840 section
// 5.7).
func packQuery(q dns.Question) ([]byte, error) {
	var id [2]byte
	rand.Read(id[:])
	m := dns.Msg{Question: []dns.Question{q}}
	m.Id = binary.BigEndian.Uint16(id[:])
	m.RecursionDesired = true
	m.AuthenticatedData = true
	m.SetEdns0(payload, false)
	return m.Pack()
}

// overDatagrams waits for the reply among whatever arrives: what does not
// belong to the query is ignored, so that a guess costs the guesser a port and
// an id (RFC 5452 section 9.1).
func overDatagrams(conn net.Conn, query []byte, id uint16, q dns.Question) (*dns.Msg, error) {
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

// overStream exchanges messages with a length before them (RFC 1035 section
// 4.2.2).
func overStream(conn net.Conn, query []byte, id uint16, q dns.Question) (*dns.Msg, error) {
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
