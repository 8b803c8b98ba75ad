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
	// maxElements is how many elements they may have, each of which takes far more
	// memory than bytes. The most groups that can be asked for at once have fewer.
	maxElements = 128 << 10
	// maxNesting is how deep the elements of a message may stand in each other: LDAP
	// has 6 levels (RFC 4511 appendix B).
	maxNesting = 16
)

var (
	errTooMuch = errors.New("the answer is larger than 4 MiB")
	errTooMany = errors.New("the answer has more than 131072 elements")
	errNoLDAP  = errors.New("the server does not speak LDAP")
)

// framed passes on whole LDAP messages only (RFC 4511 section 4.1.1), of which each
// element lies within the one around it, and no more of them than the budget. The
// parser behind it takes lengths as they come.
type framed struct {
	net.Conn
	budget budget
	rest   []byte // of the present message
	failed error
}

func newFramed(c net.Conn) *framed {
	f := &framed{Conn: c}
	f.renew()
	return f
}

// renew is called before each operation.
func (f *framed) renew() { f.budget.set(maxAnswer, maxElements) }

// budget is what one operation may still bring.
type budget struct{ bytes, elements atomic.Int64 }

func (b *budget) set(bytes, elements int64) {
	b.bytes.Store(bytes)
	b.elements.Store(elements)
}

// exceeded reports whether the operation has brought more.
func (b *budget) exceeded() bool { return b.bytes.Load() < 0 || b.elements.Load() < 0 }

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
func readMessage(r io.Reader, left *budget) ([]byte, error) {
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
	if left.bytes.Add(-int64(n)-length) < 0 {
		return nil, errTooMuch
	}
	var b bytes.Buffer // grows with what comes, not with what is announced
	b.Write(head[:n])
	if _, err := io.CopyN(&b, r, length); err != nil {
		return nil, fmt.Errorf("the connection ended within a message: %w", err)
	}
	if err := sound(b.Bytes()[n:], 1, left); err != nil {
		return nil, err
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

// sound checks that b is a sequence of elements that do not reach beyond it, and that
// they are not too many.
func sound(b []byte, depth int, left *budget) error {
	for len(b) > 0 {
		if left.elements.Add(-1) < 0 {
			return errTooMany
		}
		tag, content, length, ok := header(b)
		if !ok || length > int64(len(content)) {
			return errNoLDAP
		}
		if tag&0x20 != 0 {
			if depth >= maxNesting {
				return errNoLDAP
			}
			if err := sound(content[:length], depth+1, left); err != nil {
				return err
			}
		}
		b = content[length:]
	}
	return nil
}
