package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

const mib = 1 << 20

// raw serves the bytes to every connection and closes it.
func raw(t *testing.T, header string, body []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, header)
			conn.Write(body)
			conn.Close()
		}
	}()
	return "http://" + l.Addr().String() + "/"
}

// allocated returns how many bytes f allocates in all, kept or not.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// A server claims what it likes; memory is what it costs us.
func TestMemoryOfABody(t *testing.T) {
	whole := bytes.Repeat([]byte("0123456789abcdef"), 38*mib/16)
	stated := func(n int) string { return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n) }
	const unstated = "HTTP/1.1 200 OK\r\n\r\n"
	large := int64(len(whole))
	for _, tc := range []struct {
		name   string
		header string
		body   []byte
		limit  int64
		most   int64
		want   error
	}{
		{"38 MiB, stated: once", stated(len(whole)), whole, 128 * mib, large + large/10 + 2*mib, nil},
		{"38 MiB, not stated: twice", unstated, whole, 128 * mib, 2*large + 2*mib, nil},
		{"1 KiB, stated: little", stated(1024), whole[:1024], 128 * mib, mib / 8, nil},
		{"1 MiB and a byte, stated", stated(mib + 1), whole[:mib+1], 128 * mib, 3 * mib, nil},
		{"a claim of 100 MiB with 10 bytes behind it", stated(100 * mib), whole[:10], 128 * mib, 2 * mib, io.ErrUnexpectedEOF},
		{"a claim of 100 MiB with nothing behind it", stated(100 * mib), nil, 128 * mib, 2 * mib, io.ErrUnexpectedEOF},
		{"a claim above the limit", stated(100 * mib), whole, 99 * mib, mib, fetch.ErrTooLarge},
		{"38 MiB, not stated, above the limit: never joined", unstated, whole, large - 1, large + 2*mib, fetch.ErrTooLarge},
		{"broken off past the first MiB", stated(2 * mib), whole[:2*mib-1], 128 * mib, 4 * mib, io.ErrUnexpectedEOF},
		{"broken off at the first MiB", stated(2 * mib), whole[:mib], 128 * mib, 4 * mib, io.ErrUnexpectedEOF},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := raw(t, tc.header, tc.body)
			c := fetch.New(fetch.Options{AllowNetworks: loopback})
			var data []byte
			var err error
			cost := allocated(func() { data, err = body(c.Do(t.Context(), fetch.Request{URL: u, Limit: tc.limit})) })
			require.LessOrEqual(t, cost, tc.most)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(tc.body, data))
			require.Equal(t, len(data), cap(data), "a caller who keeps it keeps no more")
		})
	}
}

// scripted is a body of a transport of the caller's: bytes in given portions, then err.
type scripted struct {
	portions []int
	err      error
	read     int64
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.portions) == 0 {
		return 0, s.err
	}
	n := min(len(p), s.portions[0])
	if s.portions[0] -= n; s.portions[0] == 0 {
		s.portions = s.portions[1:]
	}
	clear(p[:n])
	s.read += int64(n)
	if len(s.portions) == 0 {
		return n, s.err // with the last bytes, as io.Reader allows
	}
	return n, nil
}

func (s *scripted) Close() error { return nil }

func through(s *scripted, length int64) *fetch.Client {
	return fetch.New(fetch.Options{Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: s, ContentLength: length, Request: r}, nil
	})}})
}

func TestBodyOfACallersTransport(t *testing.T) {
	broken := errors.New("connection reset")
	for _, tc := range []struct {
		name     string
		portions []int
		err      error
		length   int64
		want     error
		size     int
	}{
		{"as stated", []int{10, 0, 20}, io.EOF, 30, nil, 30},
		{"not stated", []int{10, 20}, io.EOF, -1, nil, 30},
		{"exactly the limit", []int{100}, io.EOF, -1, nil, 100},
		{"above the limit, with the end", []int{101}, io.EOF, -1, fetch.ErrTooLarge, 0},
		{"shorter than stated, a sound end", []int{10}, io.EOF, 30, io.ErrUnexpectedEOF, 0},
		{"longer than stated: the rest is not of it", []int{10, 20}, io.EOF, 15, nil, 15},
		{"broken, not stated", []int{10}, broken, -1, broken, 0},
		{"broken, not stated, with every byte", []int{10}, io.ErrUnexpectedEOF, -1, io.ErrUnexpectedEOF, 0},
		{"broken, stated", []int{10}, broken, 30, broken, 0},
		{"empty", nil, io.EOF, -1, fetch.ErrEmpty, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, err := through(&scripted{portions: tc.portions, err: tc.err}, tc.length).Do(t.Context(), fetch.Request{URL: "http://crl.example/", Limit: 100})
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
				require.Nil(t, res)
				return
			}
			require.NoError(t, err)
			require.Len(t, res.Body, tc.size)
		})
	}
}

func TestBodyOfACallersTransportThatEndsAheadOfItsLength(t *testing.T) {
	for name, portions := range map[string][]int{"early": {10}, "early, the end by itself": {10, 0}, "after the first MiB": {mib}, "after the first MiB, the end by itself": {mib, 0}} {
		t.Run(name, func(t *testing.T) {
			early := portions[0] == 10
			c := through(&scripted{portions: portions, err: io.EOF}, 64*mib)
			cost := allocated(func() {
				_, err := c.Do(t.Context(), fetch.Request{URL: "http://crl.example/", Limit: 128 * mib})
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			})
			require.True(t, cost < 2*mib || !early, "%d bytes for a claim", cost)
		})
	}
}

func TestLeaveForALargeBody(t *testing.T) {
	const small = 5000
	no := errors.New("no leave today")
	broken := errors.New("connection reset")
	for _, tc := range []struct {
		name     string
		size     int
		end      error
		stated   bool
		small    int64
		refusal  error
		asked    int
		want     error
		released int
	}{
		{"stated and small", small, io.EOF, true, small, nil, 0, nil, 0},
		{"stated and large", small + 1, io.EOF, true, small, nil, 1, nil, 1},
		{"not stated and small", small - 1, io.EOF, false, small, nil, 0, nil, 0},
		{"not stated and large", small + 1, io.EOF, false, small, nil, 1, nil, 1},
		{"large, of many pieces", 5 * mib, io.EOF, true, small, nil, 1, nil, 1},
		{"small in MiB", 5 * mib, io.EOF, true, 4 * mib, nil, 1, nil, 1},
		{"leave for every body", 10, io.EOF, true, 0, nil, 1, nil, 1},
		{"leave for every body, negative", 10, io.EOF, true, -1, nil, 1, nil, 1},
		{"refused", small + 1, io.EOF, true, small, no, 1, no, 0},
		{"refused, not stated", small + 1, io.EOF, false, small, no, 1, no, 0},
		{"refused with the name of the end", small + 1, io.EOF, false, small, io.EOF, 1, io.EOF, 0},
		{"broken before it is large", small - 1, broken, false, small, nil, 0, broken, 0},
		{"broken after leave", small + 1, broken, false, small, nil, 1, broken, 1},
		{"too large after leave", 6 * mib, io.EOF, false, small, nil, 1, fetch.ErrTooLarge, 1},
	} {
		for end, portions := range map[string][]int{"the end with the last bytes": {tc.size}, "the end by itself": {tc.size, 0}} {
			t.Run(tc.name+", "+end, func(t *testing.T) {
				in := &scripted{portions: portions, err: tc.end}
				length := int64(-1)
				if tc.stated {
					length = int64(tc.size)
				}
				asked, released := 0, 0
				res, err := through(in, length).Do(t.Context(), fetch.Request{URL: "http://crl.example/", Limit: 5 * mib, Small: tc.small,
					Large: func(ctx context.Context) (func(), error) {
						asked++
						require.LessOrEqual(t, in.read, max(tc.small, 0), "nothing is read ahead of the leave")
						deadline, ok := ctx.Deadline()
						require.True(t, ok, "waiting for leave is bounded by the fetch")
						require.False(t, deadline.IsZero())
						return func() { released++ }, tc.refusal
					}})
				require.Equal(t, tc.asked, asked)
				require.Equal(t, tc.released, released)
				if tc.want != nil {
					require.ErrorIs(t, err, tc.want)
					require.Nil(t, res)
					if tc.refusal != nil {
						require.False(t, fetch.Unavailable(err), "the server did answer")
					}
					return
				}
				require.NoError(t, err)
				require.Len(t, res.Body, tc.size)
			})
		}
	}
	t.Run("there may be nothing to release", func(t *testing.T) {
		in := &scripted{portions: []int{10}, err: io.EOF}
		_, err := through(in, 10).Do(t.Context(), fetch.Request{URL: "http://crl.example/", Limit: 10, Large: func(context.Context) (func(), error) { return nil, nil }})
		require.NoError(t, err)
	})
	t.Run("no memory is given ahead of it", func(t *testing.T) {
		u := raw(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 38*mib), make([]byte, 38*mib))
		no := errors.New("no leave today")
		cost := allocated(func() {
			_, err := fetch.New(fetch.Options{AllowNetworks: loopback}).Do(t.Context(), fetch.Request{URL: u, Limit: 128 * mib, Small: 2 * mib,
				Large: func(context.Context) (func(), error) { return nil, no }})
			require.ErrorIs(t, err, no)
		})
		require.Less(t, cost, int64(4*mib))
	})
	t.Run("while it is awaited the fetch may end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := fetch.New(fetch.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
				client, server := net.Pipe()
				go func() {
					defer server.Close()
					server.Read(make([]byte, 4096))
					io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 6000\r\n\r\n"+strings.Repeat("x", 6000))
				}()
				return client, nil
			}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			_, err := c.Do(ctx, fetch.Request{URL: "http://8.8.8.8/", Limit: mib, Small: small, Large: func(ctx context.Context) (func(), error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, time.Second, time.Since(start))
		})
	})
}
