package directory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
)

const (
	// maxAnswer is how many bytes one operation may bring.
	maxAnswer = 4 << 20
	// maxNesting is how deep the elements of a message may stand in each other: LDAP
	// has 6 levels (RFC 4511 appendix B).
	maxNesting = 16
)

var (
	errTooMuch = errors.New("the answer is larger than 4 MiB")
	errNoLDAP  = errors.New("the server does not speak LDAP")
)

// framed passes on whole LDAP messages only (RFC 4511 section 4.1.1), of which each
// element lies within the one around it, and no more of them than the budget. The
// parser behind it takes lengths as they come.
type framed struct {
	net.Conn
	budget atomic.Int64
	rest   []byte // of the present message
	failed error
}

func newFramed(c net.Conn) *framed {
	f := &framed{Conn: c}
	f.renew()
	return f
}

// renew is called before each operation.
func (f *framed) renew() { f.budget.Store(maxAnswer) }

// Read is called by one goroutine.
func (f *framed) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.failed != nil {
			return 0, f.failed
		}
		f.rest, f.failed = readMessage(f.Conn, &f.budget)
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// readMessage reads one message and not a byte more.
func readMessage(r io.Reader, budget *atomic.Int64) ([]byte, error) {
	var head [6]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return nil, err
	}
	n := 2
	if head[1] > 0x80 && head[1] <= 0x84 {
		n += int(head[1] & 0x7f)
		if _, err := io.ReadFull(r, head[2:n]); err != nil {
			return nil, err
		}
	}
	_, _, length, ok := header(head[:n])
	if !ok || head[0] != 0x30 {
		return nil, errNoLDAP
	}
	if budget.Add(-int64(n)-length) < 0 {
		return nil, errTooMuch
	}
	var b bytes.Buffer // grows with what comes, not with what is announced
	b.Write(head[:n])
	if _, err := io.CopyN(&b, r, length); err != nil {
		return nil, fmt.Errorf("the connection ended within a message: %w", err)
	}
	if !sound(b.Bytes()[n:], 1) {
		return nil, errNoLDAP
	}
	return b.Bytes(), nil
}

// header reads a tag and a definite length (RFC 4511 section 5.1), and returns what
// follows them.
func header(b []byte) (tag byte, content []byte, length int64, ok bool) {
	if len(b) < 2 || b[0]&0x1f == 0x1f || b[1] == 0x80 || b[1] > 0x84 {
		return 0, nil, 0, false
	}
	tag, length, b = b[0], int64(b[1]), b[2:]
	if length > 0x80 {
		n := int(length & 0x7f)
		if len(b) < n {
			return 0, nil, 0, false
		}
		length = 0
		for _, octet := range b[:n] {
			length = length<<8 | int64(octet)
		}
		b = b[n:]
	}
	return tag, b, length, true
}

// sound reports whether b is a sequence of elements that do not reach beyond it.
func sound(b []byte, depth int) bool {
	for len(b) > 0 {
		tag, content, length, ok := header(b)
		if !ok || length > int64(len(content)) {
			return false
		}
		if tag&0x20 != 0 && (depth >= maxNesting || !sound(content[:length], depth+1)) {
			return false
		}
		b = content[length:]
	}
	return true
}
