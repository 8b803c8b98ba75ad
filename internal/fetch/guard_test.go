package fetch_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/fetch"
)

// resolver answers the n-th question for a name with the n-th of its answers, the last one for ever.
type resolver struct {
	mu      sync.Mutex
	answers map[string][][]string
	asked   []string
}

func (r *resolver) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, host)
	left := r.answers[host]
	if len(left) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(left) > 1 {
		r.answers[host] = left[1:]
	}
	var out []netip.Addr
	for _, a := range left[0] {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, nil
}

// dialer records what is dialled and connects every address to one server.
type dialer struct {
	mu      sync.Mutex
	dialled []string
	server  string
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.dialled = append(d.dialled, address)
	d.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, d.server)
}

// What a certificate's URL could reach by server-side request forgery. Nothing is dialled, or only what was judged.
func TestThreat76_SSRF(t *testing.T) {
	secret := serve(t, good) // whatever listens inside
	inside := secret.Listener.Addr().String()
	_, port, err := net.SplitHostPort(inside)
	require.NoError(t, err)

	names := map[string][][]string{
		"loop.example.":     {{"127.0.0.1"}},
		"localhost.":        {{"127.0.0.1", "::1"}},
		"metadata.example.": {{"169.254.169.254"}},
		"mapped.example.":   {{"::ffff:127.0.0.1"}},
		"nat64.example.":    {{"64:ff9b::7f00:1"}},
		"private.example.":  {{"10.1.2.3", "192.168.0.1", "fd00::1"}},
		"public.example.":   {{"8.8.8.8"}},
		"empty.example.":    {{}},
	}
	for _, tc := range []struct {
		name, url string
		want      any // the type of the error
	}{
		{"loopback", "http://" + inside + "/", new(fetch.BlockedError)},
		{"loopback, port 80", "http://127.0.0.1/", new(fetch.BlockedError)},
		{"IPv6 loopback", "http://[::1]/", new(fetch.BlockedError)},
		{"IPv4-mapped loopback", "http://[::ffff:127.0.0.1]/", new(fetch.BlockedError)},
		{"unspecified address", "http://0.0.0.0/", new(fetch.BlockedError)},
		{"cloud metadata", "http://169.254.169.254/latest/meta-data/", new(fetch.BlockedError)},
		{"cloud metadata through NAT64", "http://[64:ff9b::a9fe:a9fe]/", new(fetch.BlockedError)},
		{"private address", "https://10.0.0.1/", new(fetch.BlockedError)},
		{"name of loopback", "http://loop.example/", new(fetch.BlockedError)},
		{"localhost", "http://localhost/", new(fetch.BlockedError)},
		{"name of cloud metadata", "http://metadata.example/", new(fetch.BlockedError)},
		{"name of a mapped address", "http://mapped.example/", new(fetch.BlockedError)},
		{"name of a NAT64 address", "http://nat64.example/", new(fetch.BlockedError)},
		{"name with private addresses only", "https://private.example/", new(fetch.BlockedError)},
		{"port 25 of a public name", "http://public.example:25/", new(fetch.BlockedError)},
		{"port 25 of a public address", "http://8.8.8.8:25/", new(fetch.BlockedError)},
		{"high port of a public name", "http://public.example:" + port + "/", new(fetch.BlockedError)},
		{"name without address", "http://empty.example/", nil},
		{"name that does not exist", "http://nowhere.example/", new(net.DNSError)},
		{"ldap", "ldap://public.example/cn=x", new(fetch.URLError)},
		{"ftp", "ftp://public.example/x", new(fetch.URLError)},
		{"file", "file:///etc/passwd", new(fetch.URLError)},
		{"gopher", "gopher://public.example:80/x", new(fetch.URLError)},
		{"no scheme", "//public.example/", new(fetch.URLError)},
		{"relative", "/a.crl", new(fetch.URLError)},
		{"opaque", "http:public.example", new(fetch.URLError)},
		{"empty", "", new(fetch.URLError)},
		{"userinfo", "http://user:password@public.example/", new(fetch.URLError)},
		{"empty userinfo", "http://@public.example/", new(fetch.URLError)},
		{"fragment", "http://public.example/#x", new(fetch.URLError)},
		{"empty fragment", "http://public.example/#", new(fetch.URLError)},
		{"no host", "http:///a.crl", new(fetch.URLError)},
		{"only a port", "http://:80/", new(fetch.URLError)},
		{"only a dot", "http://./", new(fetch.URLError)},
		{"port 0", "http://public.example:0/", new(fetch.URLError)},
		{"port 65616, 80 in sixteen bits", "http://public.example:65616/", new(fetch.URLError)},
		{"short loopback", "http://127.1/", new(fetch.URLError)},
		{"decimal loopback", "http://2130706433/", new(fetch.URLError)},
		{"hexadecimal loopback", "http://0x7f.0.0.1/", new(fetch.URLError)},
		{"hexadecimal last label", "http://127.0.0.0x1/", new(fetch.URLError)},
		{"octal loopback", "http://0177.0.0.1/", new(fetch.URLError)},
		{"rooted numeric loopback", "http://127.0.0.1./", new(fetch.URLError)},
		{"zone", "http://[fe80::1%25eth0]/", new(fetch.URLError)},
		{"control character", "http://public.example/\r\nX: y", new(fetch.URLError)},
		{"name outside ASCII", "http://públic.example/", new(fetch.URLError)},
		{"escaped name", "http://public%2eexample/", new(fetch.URLError)},
		{"empty label", "http://public..example/", new(fetch.URLError)},
		{"label of 64 octets", "http://" + strings.Repeat("a", 64) + ".example/", new(fetch.URLError)},
		{"name of 254 octets", "http://" + strings.Repeat("abcdefg.", 31) + "abcdef/", new(fetch.URLError)},
		{"URL of 5000 octets", "http://public.example/" + strings.Repeat("a", 5000), new(fetch.URLError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &dialer{server: inside}
			c := fetch.New(fetch.Options{Dial: d.dial, Resolver: &resolver{answers: names}})
			data, err := get(t.Context(), c, tc.url)
			require.Error(t, err)
			require.Nil(t, data)
			require.Empty(t, d.dialled, "nothing may be dialled")
			require.Less(t, len(err.Error()), 1024)
			switch want := tc.want.(type) {
			case *fetch.BlockedError:
				require.ErrorAs(t, err, &want)
				require.Equal(t, tc.url, want.URL)
				require.True(t, want.Address.IsValid())
			case *fetch.URLError:
				require.ErrorAs(t, err, &want)
			case *net.DNSError:
				require.ErrorAs(t, err, &want)
			}
			_, err = c.Do(t.Context(), fetch.Request{URL: tc.url, Body: []byte{}, Limit: limit})
			require.Error(t, err)
			require.Empty(t, d.dialled)
		})
	}
}

func TestPublicAddressesAreReachedOnThePortsOfTheWeb(t *testing.T) {
	d := &dialer{server: serve(t, good).Listener.Addr().String()}
	r := &resolver{answers: map[string][][]string{"crl.example.": {{"10.0.0.1", "::ffff:8.8.8.8", "::1", "2606:4700::1"}}}}
	c := fetch.New(fetch.Options{Dial: d.dial, Resolver: r})
	for _, u := range []string{"http://crl.example/a", "http://crl.example.:80/a", "http://crl.example:443/a", "http://8.8.8.8/a", "http://CRL.example/"} {
		r.answers["CRL.example."] = r.answers["crl.example."]
		_, err := get(t.Context(), c, u)
		require.NoError(t, err, u)
	}
	require.Equal(t, []string{"8.8.8.8:80", "8.8.8.8:80", "8.8.8.8:443", "8.8.8.8:80", "8.8.8.8:80"}, d.dialled, "blocked addresses of a name are skipped")
	for _, name := range r.asked {
		require.True(t, strings.HasSuffix(name, ".") && !strings.HasSuffix(name, ".."), "a search domain must not complete %q", name)
	}
}

func TestRootedResolutionKeepsTheHostHeader(t *testing.T) {
	var host string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { host = r.Host; good(w, r) })
	d := &dialer{server: s.Listener.Addr().String()}
	c := fetch.New(fetch.Options{Dial: d.dial, Resolver: &resolver{answers: map[string][][]string{"crl.example.": {{"8.8.8.8"}}}}})
	_, err := get(t.Context(), c, "http://crl.example/")
	require.NoError(t, err)
	require.Equal(t, "crl.example", host)
}

func TestRebindingGainsNothing(t *testing.T) {
	d := &dialer{server: serve(t, good).Listener.Addr().String()}
	r := &resolver{answers: map[string][][]string{"rebind.example.": {{"8.8.8.8"}, {"127.0.0.1"}}}}
	c := fetch.New(fetch.Options{Dial: d.dial, Resolver: r})
	_, err := get(t.Context(), c, "http://rebind.example/")
	require.NoError(t, err)
	require.Equal(t, []string{"rebind.example."}, r.asked, "one resolution, that of the check")
	require.Equal(t, []string{"8.8.8.8:80"}, d.dialled, "what was judged is what is dialled")

	_, err = get(t.Context(), c, "http://rebind.example/")
	require.ErrorAs(t, err, new(*fetch.BlockedError))
	require.Equal(t, []string{"8.8.8.8:80"}, d.dialled)
}

func TestAllowedNetworkIsReachedOnAnyPortAndOthersAreNot(t *testing.T) {
	s := serve(t, good)
	c := fetch.New(fetch.Options{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("::ffff:127.0.0.0/104")}})
	_, err := get(t.Context(), c, s.URL)
	require.NoError(t, err, "an IPv4-mapped prefix is the IPv4 prefix")
	for _, u := range []string{"http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "http://8.8.8.8:8080/"} {
		_, err := get(t.Context(), c, u)
		require.ErrorAs(t, err, new(*fetch.BlockedError), u)
	}
}

func TestManyAddressesAreNotAllTried(t *testing.T) {
	var addresses []string
	for a := netip.MustParseAddr("8.8.8.0"); len(addresses) < 100; a = a.Next() {
		addresses = append(addresses, a.String())
	}
	dialled := 0
	c := fetch.New(fetch.Options{
		Dial:     func(context.Context, string, string) (net.Conn, error) { dialled++; return nil, errors.New("refused") },
		Resolver: &resolver{answers: map[string][][]string{"many.example.": {addresses}}},
	})
	_, err := get(t.Context(), c, "http://many.example/")
	require.Error(t, err)
	require.Equal(t, 8, dialled)
	require.Less(t, len(err.Error()), 1024)
}

func TestRedirectToANameOfABlockedAddress(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://inside.example/", http.StatusFound)
	})
	d := &dialer{server: s.Listener.Addr().String()}
	c := fetch.New(fetch.Options{Dial: d.dial, Resolver: &resolver{answers: map[string][][]string{
		"crl.example.": {{"8.8.8.8"}}, "inside.example.": {{"127.0.0.1"}},
	}}})
	_, err := get(t.Context(), c, "http://crl.example/")
	require.ErrorAs(t, err, new(*fetch.BlockedError))
	require.Equal(t, []string{"8.8.8.8:80"}, d.dialled)
}

// TestMain sets a proxy that nobody listens at, before anything has read the environment: net/http reads it once and remembers.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		os.Setenv(name, "http://127.0.0.1:9")
	}
	os.Exit(m.Run())
}

func TestProxyOfTheEnvironmentIsIgnored(t *testing.T) {
	d := &dialer{server: serve(t, good).Listener.Addr().String()}
	c := fetch.New(fetch.Options{AllowNetworks: loopback, Dial: d.dial, Resolver: &resolver{answers: map[string][][]string{"crl.example.": {{"8.8.8.8"}}}}})
	_, err := get(t.Context(), c, "http://crl.example/")
	require.NoError(t, err)
	require.Equal(t, []string{"8.8.8.8:80"}, d.dialled)
}

// FuzzURL: no URL panics, and whatever the text, no address is dialled that is not public and on a port of the web.
func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"http://8.8.8.8/", "http://127.0.0.1/", "https://[::ffff:a9fe:a9fe]:443/", "http://a.example:80/x?y", "http://user@a.example/", "ldap://a/b", "http://0x7f.1/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := fetch.New(fetch.Options{
			Resolver: everywhere{},
			Dial: func(_ context.Context, _, address string) (net.Conn, error) {
				ap := netip.MustParseAddrPort(address)
				if a := ap.Addr(); !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.Is4In6() || ap.Port() != 80 && ap.Port() != 443 {
					t.Errorf("%q led to %v", s, ap)
				}
				return nil, errors.New("not dialled")
			},
		})
		_, err := get(context.Background(), c, s)
		if err == nil {
			t.Fatal("nothing can have answered")
		}
		if len(err.Error()) > 4096 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
	})
}

// everywhere resolves every name to one address of each kind.
type everywhere struct{}

func (everywhere) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("8.8.8.8"), netip.MustParseAddr("fe80::1%eth0")}, nil
}
