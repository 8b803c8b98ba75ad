package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

const limit = 1 << 16

var (
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	evidence = []byte("signed bytes")
)

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// get is a plain GET of what a URL from a certificate leads to.
func get(ctx context.Context, c *fetch.Client, url string) ([]byte, error) {
	return body(c.Do(ctx, fetch.Request{URL: url, Limit: limit}))
}

func body(res *fetch.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

func good(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/pkix-crl")
	w.Write(evidence)
}

func TestGetAndPost(t *testing.T) {
	var got *http.Request
	var sent []byte
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		sent, _ = io.ReadAll(r.Body)
		good(w, r)
	})
	c := fetch.New(fetch.Options{AllowNetworks: loopback})

	data, err := body(c.Do(t.Context(), fetch.Request{URL: s.URL + "/a.crl?x=1", Accept: "application/pkix-crl", ContentType: "of no body", Limit: int64(len(evidence))}))
	require.NoError(t, err)
	require.Equal(t, evidence, data, "a body of exactly the limit is accepted")
	require.Equal(t, http.MethodGet, got.Method)
	require.Equal(t, "/a.crl?x=1", got.RequestURI)
	require.Equal(t, "application/pkix-crl", got.Header.Get("Accept"))
	require.Equal(t, "mtlsguard", got.UserAgent())
	require.Empty(t, got.Header.Get("Content-Type"))
	require.Equal(t, "identity", got.Header.Get("Accept-Encoding"))
	require.True(t, got.Close, "the connection is not kept")

	data, err = body(c.Do(t.Context(), fetch.Request{
		URL: s.URL, ContentType: "application/ocsp-request", Body: []byte("ask"), Accept: "application/ocsp-response", Limit: limit,
	}))
	require.NoError(t, err)
	require.Equal(t, evidence, data)
	require.Equal(t, http.MethodPost, got.Method)
	require.Equal(t, "application/ocsp-request", got.Header.Get("Content-Type"))
	require.Equal(t, "ask", string(sent))
}

func TestResponsesThatAreNotEvidence(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(make([]byte, 1<<20)) // a kilobyte on the wire
	z.Close()

	for _, tc := range []struct {
		name    string
		want    error // nil: any
		handler http.HandlerFunc
	}{
		{"gzip bomb", fetch.ErrEncoded, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(packed.Bytes())
		}},
		{"second content coding", fetch.ErrEncoded, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Encoding"] = []string{"identity", "br"}
			w.Write(evidence)
		}},
		{"Content-Length of 1 GB", fetch.ErrTooLarge, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1073741824")
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			<-r.Context().Done() // refused from the header: no byte of the body is waited for
		}},
		{"endless body", fetch.ErrTooLarge, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}},
		{"one byte above the limit, chunked", fetch.ErrTooLarge, func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).Flush()
			w.Write(make([]byte, limit+1))
		}},
		{"truncated body", io.ErrUnexpectedEOF, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write(evidence)
		}},
		{"empty body", fetch.ErrEmpty, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200) }},
		{"HTML", fetch.ErrHTML, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "Text/HTML; charset=utf-8")
			w.Write(evidence)
		}},
		{"HTML with parameters that cannot be parsed", fetch.ErrHTML, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", `text/html; charset="`)
			w.Write(evidence)
		}},
		{"XHTML", fetch.ErrHTML, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/xhtml+xml")
			w.Write(evidence)
		}},
		{"header of 64 KiB", nil, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("a", 64<<10))
			w.Write(evidence)
		}},
		{"not HTTP", nil, func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Write([]byte("\x1b[31m" + strings.Repeat("x", 2000) + "\r\n\r\n"))
			conn.Close()
		}},
		{"closed without an answer", io.EOF, func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := serve(t, tc.handler)
			data, err := get(t.Context(), fetch.New(fetch.Options{AllowNetworks: loopback}), s.URL)
			require.Error(t, err)
			require.Nil(t, data)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
			}
			require.Less(t, len(err.Error()), 1024)
			require.NotContains(t, err.Error(), "\x1b")
			// The same through a transport of the caller's, which would ask for gzip and unpack it.
			own := &http.Client{Transport: &http.Transport{MaxResponseHeaderBytes: 16 << 10, DisableKeepAlives: true}}
			_, err = get(t.Context(), fetch.New(fetch.Options{AllowNetworks: loopback, Client: own}), s.URL)
			require.Error(t, err)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
			}
		})
	}
}

func TestOnlyStatus200IsBelieved(t *testing.T) {
	for _, code := range []int{201, 202, 203, 206, 300, 304, 400, 403, 404, 500, 503} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			w.Write(evidence)
		})
		_, err := get(t.Context(), fetch.New(fetch.Options{AllowNetworks: loopback}), s.URL)
		var status *fetch.StatusError
		require.ErrorAs(t, err, &status, code)
		require.Equal(t, code, status.Code)
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	_, err := get(t.Context(), fetch.New(fetch.Options{AllowNetworks: loopback}), s.URL)
	require.ErrorAs(t, err, new(*fetch.StatusError))
}

func TestRedirects(t *testing.T) {
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	other := serve(t, good)
	mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "" || r.Header.Get("Referer") != "" {
			w.WriteHeader(418)
			return
		}
		good(w, r)
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "id", Value: "1"})
		w.Header().Set("Location", r.FormValue("u"))
		w.WriteHeader(307)
	})
	mux.HandleFunc("/found", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/end")
		w.WriteHeader(302)
	})
	to := func(u string) string { return "/to?u=" + url.QueryEscape(u) }
	c := fetch.New(fetch.Options{AllowNetworks: loopback})
	for _, tc := range []struct {
		name, path string
		want       any // nil: followed
	}{
		{"one redirect; no cookie, no Referer", to("/end"), nil},
		{"two redirects", to(to("/end")), nil},
		{"three redirects", to(to(to("/end"))), fetch.ErrRedirects},
		{"to another allowed server", to(other.URL), nil},
		{"to a private address", to("http://10.0.0.1/"), new(*fetch.BlockedError)},
		{"to cloud metadata", to("http://169.254.169.254/"), new(*fetch.BlockedError)},
		{"to a private address, second hop", to(s.URL + to("http://10.0.0.1/")), new(*fetch.BlockedError)},
		{"to another port of a public address", to("http://8.8.8.8:22/"), new(*fetch.BlockedError)},
		{"to file", to("file:///etc/passwd"), new(*fetch.URLError)},
		{"to ldap", to("ldap://127.0.0.1/"), new(*fetch.URLError)},
		{"with user information", to("http://a:b@127.0.0.1/"), new(*fetch.URLError)},
		{"with a fragment", to("/end#x"), new(*fetch.URLError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := get(t.Context(), c, s.URL+tc.path)
			switch want := tc.want.(type) {
			case nil:
				require.NoError(t, err)
			case error:
				require.ErrorIs(t, err, want)
			default:
				require.ErrorAs(t, err, want)
			}
		})
	}
	var blocked *fetch.BlockedError
	_, err := get(t.Context(), c, s.URL+to("http://169.254.169.254/x"))
	require.ErrorAs(t, err, &blocked)
	require.Equal(t, "http://169.254.169.254/x", blocked.URL, "the target is named")

	_, err = c.Do(t.Context(), fetch.Request{URL: s.URL + to("/end"), Body: []byte("x"), Limit: limit})
	require.NoError(t, err, "307 keeps the method and the body")
	_, err = c.Do(t.Context(), fetch.Request{URL: s.URL + "/found", Body: []byte("x"), Limit: limit})
	require.ErrorContains(t, err, "turns POST into GET")
}

func TestHTTPS(t *testing.T) {
	plain := serve(t, good)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			http.Redirect(w, r, plain.URL, http.StatusFound)
			return
		}
		good(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, err := get(t.Context(), fetch.New(fetch.Options{AllowNetworks: loopback}), s.URL)
	require.ErrorContains(t, err, "certificate", "a server of an unknown authority is refused")

	c := fetch.New(fetch.Options{AllowNetworks: loopback, Client: s.Client()})
	_, err = get(t.Context(), c, s.URL)
	require.NoError(t, err)
	_, err = get(t.Context(), c, s.URL+"/down")
	require.ErrorAs(t, err, new(*fetch.URLError), "https is not left for http")
}

type jar struct{ http.CookieJar }

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCallersClient(t *testing.T) {
	var asked atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/to" {
			http.Redirect(w, r, "/end", http.StatusFound)
			return
		}
		good(w, r)
	})
	t.Run("without a Transport it gets ours and not http.DefaultTransport", func(t *testing.T) {
		asked.Store(0)
		c := fetch.New(fetch.Options{Client: &http.Client{Timeout: time.Minute}, Resolver: &resolver{answers: map[string][][]string{"x.example.": {{"127.0.0.1"}}}}})
		_, err := get(t.Context(), c, "http://x.example/")
		require.ErrorAs(t, err, new(*fetch.BlockedError))
		require.Zero(t, asked.Load())
	})
	t.Run("its Jar is not used", func(t *testing.T) {
		c := fetch.New(fetch.Options{AllowNetworks: loopback, Client: &http.Client{Jar: jar{}}}) // would panic
		_, err := get(t.Context(), c, s.URL)
		require.NoError(t, err)
	})
	t.Run("its CheckRedirect may refuse more", func(t *testing.T) {
		no := errors.New("no redirects here")
		c := fetch.New(fetch.Options{AllowNetworks: loopback, Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return no }}})
		_, err := get(t.Context(), c, s.URL+"/to")
		require.ErrorIs(t, err, no)
	})
	t.Run("its CheckRedirect may not refuse less", func(t *testing.T) {
		away := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
		})
		c := fetch.New(fetch.Options{AllowNetworks: loopback, Client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return nil }}})
		_, err := get(t.Context(), c, away.URL)
		require.ErrorAs(t, err, new(*fetch.BlockedError))
	})
	t.Run("its Transport is not led to a literal address by a redirect", func(t *testing.T) {
		away := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
		})
		d := &dialer{server: away.Listener.Addr().String()}
		transport := &http.Transport{DisableKeepAlives: true, DialContext: d.dial}
		_, err := get(t.Context(), fetch.New(fetch.Options{Client: &http.Client{Transport: transport}}), "http://crl.example/")
		require.ErrorAs(t, err, new(*fetch.BlockedError))
		require.Equal(t, []string{"crl.example:80"}, d.dialled)
	})
	t.Run("what its Transport has unpacked is refused", func(t *testing.T) {
		c := fetch.New(fetch.Options{Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(evidence)), Uncompressed: true, Request: r}, nil
		})}})
		_, err := get(t.Context(), c, "http://crl.example/")
		require.ErrorIs(t, err, fetch.ErrEncoded)
	})
	t.Run("its Transport dials, yet literal addresses and ports are judged", func(t *testing.T) {
		asked.Store(0)
		transport := &http.Transport{DisableKeepAlives: true, DialContext: (&dialer{server: s.Listener.Addr().String()}).dial}
		c := fetch.New(fetch.Options{Client: &http.Client{Transport: transport}})
		_, err := get(t.Context(), c, "http://127.0.0.1/")
		require.ErrorAs(t, err, new(*fetch.BlockedError))
		_, err = get(t.Context(), c, "http://crl.example:8080/")
		require.ErrorAs(t, err, new(*fetch.URLError))
		require.Zero(t, asked.Load())
		_, err = get(t.Context(), c, "http://crl.example/")
		require.NoError(t, err)
	})
}

func TestLimitMustBePositive(t *testing.T) {
	d := &dialer{server: serve(t, good).Listener.Addr().String()}
	for _, n := range []int64{0, -1, 1<<63 - 1} {
		_, err := fetch.New(fetch.Options{Dial: d.dial}).Do(t.Context(), fetch.Request{URL: "http://8.8.8.8/", Limit: n})
		require.Error(t, err)
	}
	require.Empty(t, d.dialled)
}

func TestTLSBelow12IsRefused(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(good))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	s.StartTLS()
	defer s.Close()
	_, err := get(t.Context(), fetch.New(fetch.Options{AllowNetworks: loopback}), s.URL)
	require.ErrorContains(t, err, "protocol version")
}
