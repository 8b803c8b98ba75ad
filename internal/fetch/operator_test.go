package fetch_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

func TestOperatorsURLIsReachedWhereverItIs(t *testing.T) {
	s := serve(t, good)
	address := s.Listener.Addr().String()
	d := &dialer{server: address}
	c := fetch.New(fetch.Options{Dial: d.dial, Resolver: &resolver{answers: map[string][][]string{
		"crl.corp.example.": {{"10.1.2.3"}}, "localhost.": {{"::1", "127.0.0.1"}},
	}}})
	for _, tc := range []struct{ url, dialled string }{
		{"http://" + address + "/ca.crl", address},
		{"http://crl.corp.example:8080/ca.crl", "10.1.2.3:8080"},
		{"http://localhost/ca.crl", "[::1]:80"},
		{"http://[fd00::1]:9/ca.crl", "[fd00::1]:9"},
		{"http://8.8.8.8:25/ca.crl", "8.8.8.8:25"},
	} {
		d.dialled = nil
		_, err := get(t.Context(), c, tc.url)
		require.ErrorAs(t, err, new(*fetch.BlockedError), "a certificate's URL is judged, %s", tc.url)
		require.Empty(t, d.dialled)
		_, err = c.Do(t.Context(), fetch.Request{URL: tc.url, Limit: limit, Operator: true})
		require.NoError(t, err)
		require.Equal(t, []string{tc.dialled}, d.dialled)
		_, err = get(t.Context(), c, tc.url)
		require.ErrorAs(t, err, new(*fetch.BlockedError), "that an operator's request went there makes no difference")
	}
}

func TestOperatorsURLIsAURLAllTheSame(t *testing.T) {
	c := fetch.New(fetch.Options{})
	for _, u := range []string{"file:///etc/passwd", "ldap://127.0.0.1/", "http://a:b@127.0.0.1/", "http://127.1/", "http://127.0.0.1/#x", "http://127.0.0.1:0/", ""} {
		_, err := c.Do(t.Context(), fetch.Request{URL: u, Limit: limit, Operator: true})
		require.ErrorAs(t, err, new(*fetch.URLError), u)
	}
}

// The operator trusts one address, not whatever its server, or somebody between here and there, then points to.
func TestRedirectsFromAnOperatorsURLAreJudged(t *testing.T) {
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	defer s.Close()
	reached := 0
	secret := serve(t, func(w http.ResponseWriter, r *http.Request) { reached++; good(w, r) })
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.FormValue("u"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	mux.HandleFunc("/end", func(w http.ResponseWriter, r *http.Request) { reached++; good(w, r) })
	address := s.Listener.Addr().String()
	to := func(u string) string { return "/to?u=" + url.QueryEscape(u) }
	// The dialer sends public addresses to the server, so that a hop over one can lead back.
	var dialled []string
	dial := func(ctx context.Context, network, target string) (net.Conn, error) {
		dialled = append(dialled, target)
		if strings.HasPrefix(target, "8.8.8.8:") || strings.HasPrefix(target, "10.1.2.3:") {
			target = address
		}
		return new(net.Dialer).DialContext(ctx, network, target)
	}
	names := &resolver{answers: map[string][][]string{
		"public.example.": {{"8.8.8.8"}}, "inside.example.": {{"127.0.0.1"}}, "crl.corp.example.": {{"10.1.2.3"}},
	}}
	first := "http://" + address
	for _, tc := range []struct {
		name, url string
		want      any // nil: followed
	}{
		{"to a public server", first + to("http://public.example/end"), nil},
		{"to a public server on another port", first + to("http://public.example:8080/end"), new(*fetch.BlockedError)},
		{"to another local server", first + to(secret.URL), new(*fetch.BlockedError)},
		{"to the name of a local address", first + to("http://inside.example/"), new(*fetch.BlockedError)},
		{"to cloud metadata", first + to("http://169.254.169.254/"), new(*fetch.BlockedError)},
		{"to the same server", first + to("/end"), new(*fetch.BlockedError)},
		{"to the same server, by name", "http://crl.corp.example" + to("/end"), new(*fetch.BlockedError)},
		{"to the same server, over a public one", first + to("http://public.example"+to(first+"/end")), new(*fetch.BlockedError)},
		{"to the same server by name, over a public one", "http://crl.corp.example" + to("http://public.example"+to("http://crl.corp.example/end")), new(*fetch.BlockedError)},
		{"to a file", first + to("file:///etc/passwd"), new(*fetch.URLError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reached, dialled = 0, nil
			_, err := fetch.New(fetch.Options{Dial: dial, Resolver: names}).Do(t.Context(), fetch.Request{URL: tc.url, Limit: limit, Operator: true})
			if tc.want == nil {
				require.NoError(t, err)
				require.Equal(t, 1, reached)
				return
			}
			require.ErrorAs(t, err, tc.want)
			require.False(t, fetch.Unavailable(err))
			require.Zero(t, reached)
			require.LessOrEqual(t, len(dialled), 2, "nothing is dialled for the redirect that is refused")
		})
	}
	t.Run("to an allowed network", func(t *testing.T) {
		reached = 0
		_, err := fetch.New(fetch.Options{AllowNetworks: loopback}).Do(t.Context(), fetch.Request{URL: first + to(secret.URL), Limit: limit, Operator: true})
		require.NoError(t, err)
		require.Equal(t, 1, reached)
	})
}

func TestOperatorsURLThroughACallersTransport(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/to" {
			http.Redirect(w, r, r.FormValue("u"), http.StatusFound)
			return
		}
		good(w, r)
	})
	d := &dialer{server: s.Listener.Addr().String()}
	c := fetch.New(fetch.Options{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: d.dial}}})
	for _, u := range []string{"http://127.0.0.1/", "http://crl.corp.example:8080/", "http://10.0.0.1:8080/"} {
		_, err := c.Do(t.Context(), fetch.Request{URL: u, Limit: limit, Operator: true})
		require.NoError(t, err, u)
	}
	d.dialled = nil
	for _, u := range []string{"http://127.0.0.1/", "http://crl.corp.example:8080/", "http://10.0.0.1:8080/"} {
		_, err := c.Do(t.Context(), fetch.Request{URL: "http://crl.corp.example:8080/to?u=" + url.QueryEscape(u), Limit: limit, Operator: true})
		require.Error(t, err, u)
		require.False(t, fetch.Unavailable(err), u)
	}
	require.Equal(t, []string{"crl.corp.example:8080", "crl.corp.example:8080", "crl.corp.example:8080"}, d.dialled)
}
