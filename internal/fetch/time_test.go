package fetch_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

func TestSecondAddressIsTriedWhenTheFirstIsDead(t *testing.T) {
	s := serve(t, good)
	var dialled []string
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		if len(dialled) == 1 {
			return nil, errors.New("connection refused")
		}
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	}
	c := fetch.New(fetch.Options{Dial: dial, Resolver: &resolver{answers: map[string][][]string{"crl.example.": {{"8.8.8.8", "9.9.9.9"}}}}})
	_, err := get(t.Context(), c, "http://crl.example/")
	require.NoError(t, err)
	require.Equal(t, []string{"8.8.8.8:80", "9.9.9.9:80"}, dialled)
}

func TestDripFeedEndsWithTheContext(t *testing.T) {
	dripping := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("x"))
		http.NewResponseController(w).Flush()
		close(dripping)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-dripping; cancel() }()
	_, err := get(ctx, fetch.New(fetch.Options{AllowNetworks: loopback}), s.URL)
	require.ErrorIs(t, err, context.Canceled)
}

// drip answers each connection with a header and then a byte every second, until it is closed.
func drip(closed *atomic.Int32) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer closed.Add(1)
			defer server.Close()
			server.Read(make([]byte, 4096))
			_, err := server.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
			for err == nil {
				time.Sleep(time.Second) // of the bubble's clock
				_, err = server.Write([]byte("x"))
			}
		}()
		return client, nil
	}
}

func TestFetchWithoutDeadlineEndsAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		c := fetch.New(fetch.Options{Dial: drip(&closed)})
		start := time.Now()
		_, err := get(context.Background(), c, "http://8.8.8.8/")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		time.Sleep(2 * time.Second)
		require.Equal(t, int32(1), closed.Load(), "no connection outlives its fetch")
	})
}

func TestDialEndsWithItsFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int32
		c := fetch.New(fetch.Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			ended.Add(1)
			return nil, ctx.Err()
		}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := get(ctx, c, "http://8.8.8.8/")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.Equal(t, int32(1), ended.Load())
	})
}

func TestSilentTLSServerHoldsNoSocketAfterTheFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		c := fetch.New(fetch.Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer closed.Add(1)
				io.Copy(io.Discard, server) // a ServerHello never comes
			}()
			return client, nil
		}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := get(ctx, c, "https://8.8.8.8/")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		require.Equal(t, int32(1), closed.Load())
	})
}

func TestDeadFirstAddressCostsOneSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fetch.New(fetch.Options{
			Resolver: &resolver{answers: map[string][][]string{"crl.example.": {{"8.8.8.8", "9.9.9.9"}}}},
			Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
				if address == "8.8.8.8:80" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				client, server := net.Pipe()
				go func() {
					server.Read(make([]byte, 4096))
					server.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"))
					server.Close()
				}()
				return client, nil
			},
		})
		start := time.Now()
		_, err := get(context.Background(), c, "http://crl.example/")
		require.NoError(t, err)
		require.Equal(t, time.Second, time.Since(start))
	})
}
