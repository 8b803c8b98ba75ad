package fetch

import "io"

const (
	minChunk  = 4 << 10
	firstRead = 1 << 20 // bytes that must have come before memory is given for what a Content-Length claims
)

// readBody reads all of a body. length is its Content-Length; not positive: unknown. How much memory is taken is decided by what has come: at most twice
// as much, or, once the first MiB of a stated length has come, that length in one piece. large, if any, is called before more than small bytes are read,
// and before there is memory for them.
func readBody(in io.Reader, length, limit, small int64, large func() error) ([]byte, error) {
	end, first := limit+1, limit+1 // where a body is known to be too large
	if length > 0 {
		end, first = length, min(length, firstRead)
	}
	c := chunks{in: in}
	if large != nil {
		c.readTo(min(small, end))
		if c.err == nil && c.have < end {
			c.err = large()
		}
	}
	c.readTo(first)
	switch {
	case c.err != nil && c.err != io.EOF:
		return nil, c.err
	case c.have > limit:
		return nil, ErrTooLarge
	case c.err != nil && c.have < length:
		return nil, io.ErrUnexpectedEOF // net/http sees to that; a caller's transport may not
	case c.have == 0:
		return nil, ErrEmpty
	}
	body := make([]byte, max(c.have, length))
	if _, err := io.ReadFull(in, body[c.copyTo(body):]); err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return body, nil
}

// chunks takes memory piece by piece, each as large as those before it together and at most a MiB: a slice that grows by copying is there twice meanwhile.
type chunks struct {
	in   io.Reader
	list [][]byte
	have int64
	err  error // the first one; nothing is read after it
}

// readTo reads until there are end bytes in all or an error. Unlike io.ReadFull it leaves io.EOF what it is: the end of a sound body, where
// io.ErrUnexpectedEOF is that of a broken one.
func (c *chunks) readTo(end int64) {
	for c.err == nil && c.have < end {
		chunk := make([]byte, min(max(c.have, minChunk), firstRead, end-c.have))
		n := 0
		for n < len(chunk) && c.err == nil {
			var m int
			m, c.err = c.in.Read(chunk[n:])
			n += m
		}
		c.list, c.have = append(c.list, chunk[:n]), c.have+int64(n)
	}
}

func (c *chunks) copyTo(p []byte) (n int) {
	for _, chunk := range c.list {
		n += copy(p[n:], chunk)
	}
	return n
}
