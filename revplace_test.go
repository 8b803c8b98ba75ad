package mtls_test

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// rvListen serves on an address of loopback.
func rvListen(t *testing.T, addr string, h http.Handler) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	s := &http.Server{Handler: h}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	_, port, _ = strings.Cut(l.Addr().String(), ":")
	return port
}

// rvCounter serves bytes and counts who asks.
type rvCounter struct {
	body  []byte
	asked atomic.Int32
}

func (c *rvCounter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.asked.Add(1)
	w.Write(c.body)
}

// rvOwn is an Env whose authority is a CA of the test's, and what a guard of it
// says of a certificate.
type rvOwn struct {
	*mtlstest.Env
	ca *rvPKI
}

func rvOwnEnv(t *testing.T) *rvOwn {
	t.Helper()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	return &rvOwn{env, rvCA(t, env.Clock)}
}

// serve is rvServe with exactly the setting.
func (o *rvOwn) serve(t *testing.T, r mtls.Revocation, cert *mtlstest.Certificate) *rvWorld {
	t.Helper()
	cfg := rvConfig(o.Env, mtls.Revocation{}, false)
	cfg.Revocation = &r
	cfg.Roots = pcRoots(t, o.ca.Authority("own"))
	return rvServe(t, o.Env, cfg, cert)
}

func (o *rvOwn) leaf(at ...string) *mtlstest.Certificate {
	leaf := mtlstest.Leaf{Names: []string{"acme.example"}}
	if len(at) > 0 {
		leaf.Template = rvAt(at...)
	}
	return o.ca.Issue(leaf)
}

// TestThreat76_Rebinding: a name in a certificate that resolves to an address that
// is not allowed, at once or only at the second look, leads nowhere, and is no
// silence that SoftFail tolerates. The resolver of the process is replaced, so this
// test is not parallel to any other.
func TestThreat76_Rebinding(t *testing.T) {
	env := rvOwnEnv(t)
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, env.DNS.Addr().String())
	}}
	list := env.ca.crl(t, nil)
	public, internal := &rvCounter{body: list}, &rvCounter{body: list}
	port := rvListen(t, "127.0.0.2:0", public)
	rvListen(t, "127.0.0.1:"+port, internal)
	allowed := mtls.Revocation{AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}
	soft := allowed
	soft.Mode, soft.SoftFail = rvModes[3].r.Mode, rvModes[3].r.SoftFail
	cert := env.leaf("http://crl.acme.example:" + port + "/ca.crl")

	for _, row := range []struct {
		name  string
		addrs []string
		r     mtls.Revocation
		want  string
	}{
		{"the address that is allowed", []string{"127.0.0.2"}, allowed, "pass"},
		{"one of two", []string{"127.0.0.1", "127.0.0.2"}, allowed, "pass"},
		{"another one", []string{"127.0.0.1"}, allowed, "revocation_unknown"},
		{"another one, SoftFail", []string{"127.0.0.1"}, soft, "revocation_unknown"},
		{"in other notation", []string{"::ffff:127.0.0.1"}, soft, "revocation_unknown"},
		{"metadata service", []string{"169.254.169.254"}, soft, "revocation_unknown"},
		{"no address, SoftFail", nil, soft, "tolerated"},
		{"no address", nil, allowed, "revocation_unknown"},
	} {
		env.DNS.SetTTL("crl.acme.example", 0, row.addrs...)
		require.Equal(t, row.want, env.serve(t, row.r, cert).says(t), row.name)
		require.EqualValues(t, 0, internal.asked.Load(), row.name)
	}
	// Between two fetches of one guard.
	env.DNS.SetTTL("crl.acme.example", 0, "127.0.0.2")
	w := env.serve(t, allowed, cert)
	require.Equal(t, "pass", w.says(t))
	env.DNS.SetTTL("crl.acme.example", 0, "127.0.0.1")
	env.Clock.Advance(25 * time.Hour)
	require.Equal(t, "revocation_unknown", w.says(t))
	require.Contains(t, w.seen.last().Detail(), "is not allowed for URLs from certificates")
	require.EqualValues(t, 0, internal.asked.Load())
}

// TestThreat76_Redirects: each of the redirects of a source is judged like a URL of a
// certificate, whether the source is of a certificate, of CRLURLs or a mirror.
func TestThreat76_Redirects(t *testing.T) {
	t.Parallel()
	allowed := []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	for _, row := range []struct {
		name  string
		hops  []string // the hosts on the way; the last one has the list
		first bool     // the first may be anywhere because it is the operator's
		allow []netip.Prefix
		want  string
	}{
		{"operator's, direct", []string{"127.0.0.1"}, true, nil, "pass"},
		{"operator's, to a private address", []string{"127.0.0.1", "127.0.0.2"}, true, nil, "revocation_unknown"},
		{"operator's, back to itself", []string{"127.0.0.1", "127.0.0.1"}, true, nil, "revocation_unknown"},
		{"operator's, to an allowed one", []string{"127.0.0.1", "127.0.0.2"}, true, allowed, "pass"},
		{"operator's, two allowed ones", []string{"127.0.0.1", "127.0.0.2", "127.0.0.2"}, true, allowed, "pass"},
		{"operator's, the second is not", []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"}, true, allowed, "revocation_unknown"},
		{"operator's, back by an allowed one", []string{"127.0.0.1", "127.0.0.2", "127.0.0.1"}, true, allowed, "revocation_unknown"},
		{"operator's, three", []string{"127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.2"}, true, allowed, "revocation_unknown"},
		{"certificate's, direct", []string{"127.0.0.1"}, false, nil, "revocation_unknown"},
		{"certificate's, allowed", []string{"127.0.0.2"}, false, allowed, "pass"},
		{"certificate's, to another", []string{"127.0.0.2", "127.0.0.3"}, false, allowed, "revocation_unknown"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			env := rvOwnEnv(t)
			last := &rvCounter{body: env.ca.crl(t, nil)}
			next := "http://" + row.hops[len(row.hops)-1] + ":" + rvListen(t, row.hops[len(row.hops)-1]+":0", last)
			for i := len(row.hops) - 2; i >= 0; i-- {
				next = "http://" + row.hops[i] + ":" + rvListen(t, row.hops[i]+":0", http.RedirectHandler(next+"/ca.crl", http.StatusFound))
			}
			settings := map[string]mtls.Revocation{}
			at := []string{next + "/ca.crl"}
			if row.first {
				settings["CRLURLs"] = mtls.Revocation{Sources: []mtls.RevocationSource{mtls.CRLURLs(next + "/ca.crl")}}
				settings["Mirrors"] = mtls.Revocation{Mirrors: []mtls.Mirror{{From: "http://crl.example/", To: next + "/"}}}
				at = nil
			} else {
				settings["certificate"] = mtls.Revocation{}
			}
			for name, r := range settings {
				if name == "Mirrors" {
					at = []string{"http://crl.example/ca.crl"}
				}
				r.AllowNetworks = row.allow
				for _, soft := range []bool{false, true} {
					if soft {
						r.Mode, r.SoftFail = rvModes[3].r.Mode, rvModes[3].r.SoftFail
					}
					before := last.asked.Load()
					require.Equal(t, row.want, env.serve(t, r, env.leaf(at...)).says(t), name)
					require.Equal(t, row.want == "pass", last.asked.Load() > before, "%s: a place that is not allowed is not asked", name)
				}
				at = nil
			}
		})
	}
}

// TestMirrorsAndCRLURLsReachPrivateNetworks without AllowNetworks, and certificates
// do not reach them by it.
func TestMirrorsAndCRLURLsReachPrivateNetworks(t *testing.T) {
	t.Parallel()
	env := rvOwnEnv(t)
	cert, revoked := env.leaf("http://crl.example/ca.crl"), env.leaf("http://crl.example/ca.crl")
	list := &rvCounter{body: env.ca.crl(t, nil, revoked)}
	url := "http://127.0.0.1:" + rvListen(t, "127.0.0.1:0", list)
	mirror := mtls.Revocation{Mirrors: []mtls.Mirror{
		{From: "ldap:///", To: url + "/ldap/"}, {From: "http://crl.example/old/", To: ""}, {From: "http://crl.example/", To: url + "/"}}}
	require.Equal(t, "pass", env.serve(t, mirror, cert).says(t))
	require.Equal(t, "revoked", env.serve(t, mirror, revoked).says(t))
	require.Equal(t, "pass", env.serve(t, mirror, env.leaf("ldap:///CN=ca?certificateRevocationList")).says(t), "an ldap URL")
	deep := mtls.Revocation{Mirrors: []mtls.Mirror{{From: "http://crl.example/", To: url + "/crl/"}}}
	require.Equal(t, "pass", env.serve(t, deep, env.leaf("http://crl.example/a%20b/..ca..crl?x=../")).says(t))
	n := list.asked.Load()
	for _, out := range []string{"../admin", "a/../../admin", "%2e%2e/admin", ".%2E/admin", "%252e%252e/admin", "..%2fadmin", "..\\admin", "a/..", "./a", "%zz"} {
		require.NotEqual(t, "pass", env.serve(t, deep, env.leaf("http://crl.example/"+out)).says(t), out)
	}
	require.Equal(t, n, list.asked.Load(), "a certificate does not choose another place of the mirror's host")
	require.Equal(t, "revocation_source_missing", env.serve(t, mirror, env.leaf("http://crl.example/old/ca.crl")).says(t), "never asked: the first Mirror counts")
	require.Equal(t, "revocation_unknown", env.serve(t, mirror, env.leaf(url+"/ca.crl")).says(t), "the same place, named by a certificate")
	require.Equal(t, n, list.asked.Load())
	urls := mtls.Revocation{Sources: []mtls.RevocationSource{mtls.CRLURLs(url + "/ca.crl")}}
	require.Equal(t, "pass", env.serve(t, urls, env.leaf()).says(t))
	require.Equal(t, "revocation_unknown", env.serve(t, mtls.Revocation{}, env.leaf(url+"/ca.crl")).says(t))

	// OCSP by a mirror, and a mirror that is another scheme's.
	server := mtlstest.NewEnv(t)
	server.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	leaf := server.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.OnlyOCSP, Template: func(c *x509.Certificate) {
		c.OCSPServer[0] = strings.Replace(c.OCSPServer[0], "http://127.0.0.1:", "https://ocsp.example:", 1)
	}})
	at, err := x509.ParseCertificate(leaf.Leaf().Raw)
	require.NoError(t, err)
	host, _, _ := strings.Cut(strings.TrimPrefix(at.OCSPServer[0], "https://"), "/")
	cfg := rvConfig(server, mtls.Revocation{}, false)
	cfg.Revocation = &mtls.Revocation{Mirrors: []mtls.Mirror{{From: "https://" + host + "/", To: strings.Replace("http://"+host+"/", "ocsp.example", "127.0.0.1", 1)}}}
	require.Equal(t, "pass", rvServe(t, server, cfg, leaf).says(t))
	server.Revocation.Revoke(leaf, 1)
	require.Equal(t, "revoked", rvServe(t, server, cfg, leaf).says(t))
}

// TestNonceIsAskedFor: with OCSPNonce an answer without it, a staple included, is
// none.
func TestNonceIsAskedFor(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.OnlyOCSP})
	nonce := mtls.Revocation{OCSPNonce: true}
	require.Equal(t, "pass", rvServe(t, env, rvConfig(env, nonce, false), cert).says(t))
	env.Revocation.Fail(mtlstest.NoNonce)
	require.Equal(t, "pass", rvServe(t, env, rvConfig(env, mtls.Revocation{}, false), cert).says(t))
	nonce.Mode, nonce.SoftFail = rvModes[3].r.Mode, rvModes[3].r.SoftFail
	w := rvServe(t, env, rvConfig(env, nonce, false), cert)
	require.Equal(t, "revocation_unknown", w.says(t))
	w.client = w.server.Client(cert, stapled(cert, env.Revocation.Staple(cert)))
	require.Equal(t, "revocation_unknown", w.says(t))
	env.Revocation.Fail(mtlstest.NoFault)
	env.Clock.Advance(31 * time.Second)
	require.Equal(t, "pass", w.says(t))
}

// TestAlternativesOfAPoint: of the URLs of one distribution point one that works is
// enough, and only if none answers is the source silent.
func TestAlternativesOfAPoint(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	base := plainServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/list":
			w.Write(o.ca.crl(t, nil))
		case "/garbage":
			w.Write([]byte("garbage"))
		default:
			http.NotFound(w, r)
		}
	}))
	r := rvModes[3].r
	r.AllowNetworks = mtlstest.Loopback()
	for _, row := range []struct {
		urls []string
		want string
	}{
		{[]string{"/gone", "/missing"}, "tolerated"}, {[]string{"/gone", "/garbage"}, "revocation_unknown"}, {[]string{"/garbage", "/gone"}, "revocation_unknown"},
		{[]string{"/gone", "/list"}, "pass"}, {[]string{"/garbage", "/list"}, "pass"},
	} {
		point, err := testpki.CRLDistributionPoints(testpki.Point{PointName: testpki.PointName{URIs: []string{base + row.urls[0], base + row.urls[1]}}})
		require.NoError(t, err)
		cert := o.ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, point) }})
		require.Equal(t, row.want, o.serve(t, r, cert).says(t), row.urls)
	}
}

// TestCRLURLsInsideAnotherSource: a source of one's own may pick among others.
func TestCRLURLsInsideAnotherSource(t *testing.T) {
	t.Parallel()
	env := rvOwnEnv(t)
	cert, revoked := env.leaf(), env.leaf()
	base := plainServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list" {
			w.Write(env.ca.crl(t, nil, revoked))
			return
		}
		http.NotFound(w, r)
	}))
	for _, row := range []struct {
		urls          []string
		good, revoked string
	}{
		{[]string{"/list"}, "pass", "revoked"},
		{[]string{"/gone", "/list"}, "pass", "revoked"},
		{[]string{"/gone", "/missing"}, "revocation_unknown", "revocation_unknown"},
	} {
		var urls []string
		for _, place := range row.urls {
			urls = append(urls, base+place)
		}
		inside := mtls.CRLURLs(urls...)
		r := mtls.Revocation{Sources: []mtls.RevocationSource{&picked{inside}}}
		require.Equal(t, row.good, env.serve(t, r, cert).says(t), row.urls)
		require.Equal(t, row.revoked, env.serve(t, r, revoked).says(t), row.urls)
	}
}

// picked is a source of the caller's own.
type picked struct{ from mtls.RevocationSource }

func (p *picked) Evidence(ctx context.Context, cert, issuer *x509.Certificate) (mtls.Evidence, error) {
	return p.from.Evidence(ctx, cert, issuer)
}
