package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

// A source that is down and a wrong answer are different things where missing evidence is tolerated: whoever can make an answer wrong must not thereby
// make it missing.
func TestUnavailable(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()
	status := func(code int) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }).URL
	}
	header := func(name, value string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(name, value)
			w.Write(evidence)
		}).URL
	}
	location := func(to string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		}).URL
	}
	secure := httptest.NewUnstartedServer(http.HandlerFunc(good))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	var loop *httptest.Server
	loop = serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, loop.URL, http.StatusFound) })
	silent := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }).URL

	ended, end := context.WithCancel(t.Context())
	end()
	for _, tc := range []struct {
		name        string
		ctx         context.Context // nil: a live one
		request     fetch.Request
		unavailable bool
	}{
		{"nobody listens", nil, fetch.Request{URL: "http://" + closed.Addr().String() + "/"}, true},
		{"no such name", nil, fetch.Request{URL: "http://nowhere.example/"}, true},
		{"a name without address", nil, fetch.Request{URL: "http://empty.example/"}, true},
		{"the connection breaks off", nil, fetch.Request{URL: raw(t, "", nil)}, true},
		{"the body breaks off", nil, fetch.Request{URL: raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", evidence[:8])}, true},
		{"a server of an unknown authority", nil, fetch.Request{URL: secure.URL}, true},
		{"TLS where there is none", nil, fetch.Request{URL: "https" + status(200)[len("http"):]}, true},
		{"the context has ended", ended, fetch.Request{URL: silent}, true},
		{"status 404", nil, fetch.Request{URL: status(404)}, true},
		{"status 500", nil, fetch.Request{URL: status(500)}, true},
		{"status 503", nil, fetch.Request{URL: status(503)}, true},
		{"status 204", nil, fetch.Request{URL: status(204)}, true},

		{"a blocked address", nil, fetch.Request{URL: "http://10.0.0.1/"}, false},
		{"a blocked address, and the context has ended", ended, fetch.Request{URL: "http://10.0.0.1/"}, false},
		{"a name of a blocked address", nil, fetch.Request{URL: "http://inside.example/"}, false},
		{"a redirect to a blocked address", nil, fetch.Request{URL: location("http://10.0.0.1/")}, false},
		{"a redirect to a file", nil, fetch.Request{URL: location("file:///etc/passwd")}, false},
		{"a redirect of a POST to a GET", nil, fetch.Request{URL: location("/"), Body: []byte("x")}, false},
		{"redirects without end", nil, fetch.Request{URL: loop.URL}, false},
		{"a URL of another kind", nil, fetch.Request{URL: "ldap://crl.example/"}, false},
		{"HTML", nil, fetch.Request{URL: header("Content-Type", "text/html")}, false},
		{"a content coding", nil, fetch.Request{URL: header("Content-Encoding", "gzip")}, false},
		{"stated as too large", nil, fetch.Request{URL: serve(t, good).URL, Limit: 3}, false},
		{"too large", nil, fetch.Request{URL: raw(t, "HTTP/1.1 200 OK\r\n\r\n", bytes.Repeat(evidence, 2)), Limit: int64(len(evidence))}, false},
		{"empty", nil, fetch.Request{URL: status(200)}, false},
		{"no leave for a large body", nil, fetch.Request{URL: serve(t, good).URL, Large: func(context.Context) (func(), error) {
			return nil, &fetch.StatusError{Code: 503} // whatever a caller's function returns
		}}, false},
		{"no limit", nil, fetch.Request{URL: serve(t, good).URL, Limit: -1}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := fetch.New(fetch.Options{AllowNetworks: loopback, Resolver: &resolver{answers: map[string][][]string{
				"empty.example.": {{}}, "inside.example.": {{"10.0.0.1", "169.254.169.254"}},
			}}})
			ctx := t.Context()
			if tc.ctx != nil {
				ctx = tc.ctx
			}
			if tc.request.Limit == 0 {
				tc.request.Limit = limit
			}
			_, err := c.Do(ctx, tc.request)
			require.Error(t, err)
			require.Equal(t, tc.unavailable, fetch.Unavailable(err), err)
			require.Equal(t, tc.unavailable, fetch.Unavailable(fmt.Errorf("CRL: %w", err)), "wrapped")
		})
	}
	t.Run("a caller's CheckRedirect refuses", func(t *testing.T) {
		c := fetch.New(fetch.Options{AllowNetworks: loopback, Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("no redirects here")
		}}})
		_, err := get(t.Context(), c, loop.URL)
		require.ErrorContains(t, err, "no redirects here")
		require.False(t, fetch.Unavailable(err))
	})
	t.Run("a caller's CheckRedirect takes the redirect for the answer", func(t *testing.T) {
		c := fetch.New(fetch.Options{AllowNetworks: loopback, Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}})
		_, err := get(t.Context(), c, loop.URL)
		require.ErrorAs(t, err, new(*fetch.StatusError))
		require.True(t, fetch.Unavailable(err))
	})
	t.Run("a wrong answer that comes when the time is over is a wrong answer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := fetch.New(fetch.Options{Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			cancel()
			return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: http.NoBody, Request: r}, nil
		})}})
		_, err := get(ctx, c, "http://crl.example/")
		require.ErrorIs(t, err, fetch.ErrHTML)
		require.False(t, fetch.Unavailable(err))
	})
	t.Run("errors of others", func(t *testing.T) {
		require.False(t, fetch.Unavailable(nil))
		require.False(t, fetch.Unavailable(errors.New("malformed")))
		require.False(t, fetch.Unavailable(&fetch.StatusError{Code: 503}), "not of a fetch")
		require.True(t, fetch.Unavailable(fmt.Errorf("before the fetch: %w", context.DeadlineExceeded)))
		require.True(t, fetch.Unavailable(context.Canceled))
	})
}
