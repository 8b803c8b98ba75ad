package evidence_test

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

const mirrorHost = "127.0.0.1:8080"

// A URL is asked where the operator says. Only there may it lead to an address
// that certificates may not name.
func TestMirrors(t *testing.T) {
	const to = "http://" + mirrorHost + "/"
	for _, c := range []struct {
		name    string
		url     string
		mirrors []evidence.Mirror
		asked   string // host
		path    string
		missing bool
	}{
		{name: "none", url: crlURL, asked: "crl.test", path: "/list"},
		{name: "of the host", url: crlURL, mirrors: []evidence.Mirror{{From: "http://crl.test/", To: to}}, asked: mirrorHost, path: "/list"},
		{name: "into a folder", url: crlURL, mirrors: []evidence.Mirror{{From: "http://crl.test/", To: to + "crl/"}}, asked: mirrorHost, path: "/crl/list"},
		{name: "of another host", url: crlURL, mirrors: []evidence.Mirror{{From: "http://other.test/", To: to}}, asked: "crl.test", path: "/list"},
		{name: "the first that fits", url: crlURL, mirrors: []evidence.Mirror{{From: "http://other.test/", To: "http://wrong.test/"}, {From: "http://crl.test/", To: to}, {From: "http://crl", To: "http://wrong.test/"}}, asked: mirrorHost, path: "/list"},
		{name: "of LDAP", url: "ldap://dir.test/cn=ca?certificateRevocationList", mirrors: []evidence.Mirror{{From: "ldap://dir.test/cn=ca?certificateRevocationList", To: to + "ca.crl"}}, asked: mirrorHost, path: "/ca.crl"},
		{name: "to LDAP", url: crlURL, mirrors: []evidence.Mirror{{From: "http://crl.test/", To: "ldap://dir.test/"}}, missing: true},
		{name: "to nowhere", url: crlURL, mirrors: []evidence.Mirror{{From: "http://crl.test/"}}, missing: true},
		{name: "everything to nowhere", url: crlURL, mirrors: []evidence.Mirror{{From: "http://"}}, missing: true},
		{name: "a private address in a certificate", url: to + "list"},
		{name: "a private address in a certificate, and a mirror of something else", url: to + "list", mirrors: []evidence.Mirror{{From: "http://crl.test/", To: to}}},
	} {
		for _, kind := range []string{"crl", "delta", "ocsp"} {
			t.Run(c.name+", "+kind, func(t *testing.T) {
				w := newWorld(t)
				w.on("base.test", says(w.list(5)))
				var q evidence.Query
				switch kind {
				case "crl":
					q = w.pointing(w.must(testpki.CRLDistributionPoints(at(c.url))))
				case "delta":
					q = w.pointing(w.must(testpki.CRLDistributionPoints(at("http://base.test/"))), w.must(testpki.FreshestCRL(at(c.url))))
				case "ocsp":
					w.only(nil, []string{c.url})
					q = w.leaf()
				}
				q.Mirrors = c.mirrors
				der := map[string][]byte{
					"crl":   w.list(6, entry(q.Cert, hold), scope(testpki.Scope{PointName: testpki.PointName{URIs: []string{c.url}}})),
					"delta": w.list(6, base(5), entry(q.Cert, hold)),
					"ocsp":  w.ocsp(q, xocsp.Revoked, nil),
				}[kind]
				var path string
				serve := func(r *http.Request) (*http.Response, error) { path = r.URL.Path; return says(der)(r) }
				for _, host := range []string{"crl.test", "wrong.test", mirrorHost} {
					w.on(host, serve)
				}
				f := w.check(q)
				require.Equal(t, c.asked != "", f.Status == evidence.Revoked, f.Detail)
				if kind != "delta" {
					require.Equal(t, c.missing, f.Missing)
				}
				asked := w.requests()
				delete(asked, "base.test")
				if c.asked == "" {
					require.Empty(t, asked)
					return
				}
				require.Equal(t, map[string]int{c.asked: 1}, asked)
				require.True(t, strings.HasPrefix(path, c.path), path)
			})
		}
	}
}

// Where the mirror's server redirects to is as foreign as any.
func TestMirrorThatRedirects(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	q.Mirrors = []evidence.Mirror{{From: "http://crl.test/", To: "http://" + mirrorHost + "/"}}
	w.on(mirrorHost, func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == "/again" {
			return says(w.crl(nil))(r)
		}
		res := reply(http.StatusFound, nil)
		res.Header.Set("Location", "http://"+mirrorHost+"/again")
		return res, nil
	})
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "not allowed")
}

// asking reads an OCSP request of either method.
func asking(t testing.TB, r *http.Request) (der []byte) {
	var err error
	if r.Method == http.MethodPost {
		der, err = io.ReadAll(r.Body)
	} else {
		var text string
		text, err = url.PathUnescape(r.URL.EscapedPath()[strings.LastIndex(r.URL.EscapedPath(), "/")+1:])
		require.NoError(t, err)
		der, err = base64.StdEncoding.DecodeString(text)
	}
	require.NoError(t, err)
	return der
}

// A responder that cannot read GET is asked by POST, and one that does not know
// certificates by SHA-1 by SHA-256.
func TestResponderIsAskedInAnotherWay(t *testing.T) {
	for _, c := range []struct {
		name string
		get  answer // of a GET; nil: it is answered
		sha1 answer // of a request by SHA-1
		want []string
		bad  bool
	}{
		{name: "at once", want: []string{"GET SHA-1"}},
		{name: "405", get: func(*http.Request) (*http.Response, error) { return reply(405, []byte("x")), nil }, want: []string{"GET SHA-1", "POST SHA-1"}},
		{name: "garbage", get: says([]byte("garbage")), want: []string{"GET SHA-1", "POST SHA-1"}},
		{name: "nothing", get: says(nil), want: []string{"GET SHA-1", "POST SHA-1"}},
		{name: "unauthorized", sha1: says(responseStatus(6)), want: []string{"GET SHA-1", "POST SHA-256"}},
		{name: "malformedRequest", sha1: says(responseStatus(1)), want: []string{"GET SHA-1", "POST SHA-256"}},
		{name: "both", get: says([]byte("garbage")), sha1: says(responseStatus(6)), want: []string{"GET SHA-1", "POST SHA-1", "POST SHA-256"}},
		{name: "tryLater", sha1: says(responseStatus(3)), want: []string{"GET SHA-1"}, bad: true},
		{name: "no connection", get: fails, want: []string{"GET SHA-1"}, bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.only(nil, []string{ocspURL})
			q := w.leaf()
			var seen []string
			w.on("ocsp.test", func(r *http.Request) (*http.Response, error) {
				request, err := xocsp.ParseRequest(asking(t, r))
				require.NoError(t, err)
				seen = append(seen, r.Method+" "+request.HashAlgorithm.String())
				if c.get != nil && r.Method == http.MethodGet {
					return c.get(r)
				}
				if c.sha1 != nil && request.HashAlgorithm.String() == "SHA-1" {
					return c.sha1(r)
				}
				return says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Hash = request.HashAlgorithm }))(r)
			})
			f := w.check(q)
			require.Equal(t, !c.bad, f.Status == evidence.Good, f.Detail)
			require.Equal(t, c.want, seen)
		})
	}
}

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

// nonce finds the nonce in a request: 32 octets in two OCTET STRINGs.
func nonce(t testing.TB, r *http.Request) []byte {
	der := asking(t, r)
	mark, err := asn1.Marshal(oidNonce)
	require.NoError(t, err)
	i := bytes.Index(der, mark)
	if i < 0 {
		return nil
	}
	value := der[i+len(mark):]
	require.Equal(t, []byte{4, 34, 4, 32}, value[:4])
	return value[4:36]
}

func nonceExtension(t testing.TB, value []byte) []pkix.Extension {
	der, err := asn1.Marshal(value)
	require.NoError(t, err)
	return []pkix.Extension{{Id: oidNonce, Value: der}}
}

// Whoever asks with a nonce takes no response without it: not an older one, not
// somebody else's, not one of a client's or of the Store's.
func TestNonce(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(nonce []byte) []byte // nil: none
		want   evidence.Status
	}{
		{"echoed", func(n []byte) []byte { return n }, evidence.Good},
		{"absent", func([]byte) []byte { return nil }, evidence.Unknown},
		{"another", func(n []byte) []byte { return bytes.Repeat([]byte{1}, 32) }, evidence.Unknown},
		{"cut", func(n []byte) []byte { return n[:31] }, evidence.Unknown},
		{"longer", func(n []byte) []byte { return append(bytes.Clone(n), 0) }, evidence.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, m := newWorld(t), &memory{}
			w.restart(m)
			w.only(nil, []string{ocspURL})
			q := w.leaf()
			q.Nonce = true
			var seen [][]byte
			w.on("ocsp.test", func(r *http.Request) (*http.Response, error) {
				require.Equal(t, http.MethodPost, r.Method)
				n := nonce(t, r)
				seen = append(seen, n)
				return says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) {
					if given := c.answer(n); given != nil {
						o.Extensions = nonceExtension(t, given)
					}
				}))(r)
			})
			f := w.check(q)
			require.Equal(t, c.want, f.Status, f.Detail)
			require.Equal(t, c.want, w.engine.Peek(q).Status)
			if c.want == evidence.Unknown {
				require.Contains(t, f.Detail, "without our nonce")
				require.False(t, f.Silent)
			}
			w.restart(m)
			w.on("ocsp.test", fails)
			require.Equal(t, evidence.Unknown, w.check(q).Status, "the Store's was got by another question")
			q.Staple = w.ocsp(q, xocsp.Good, nil)
			require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
			require.Equal(t, evidence.Unknown, w.check(q).Status)
			q.Staple = w.ocsp(q, xocsp.Revoked, nil)
			require.Equal(t, evidence.Revoked, w.check(q).Status, "a staple that revokes counts")
		})
	}
	w := newWorld(t)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	seen := map[string]bool{}
	w.on("ocsp.test", func(r *http.Request) (*http.Response, error) {
		n := nonce(t, r)
		seen[string(n)] = true
		return says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Extensions = nonceExtension(t, bytes.Repeat([]byte{2}, 32)) }))(r)
	})
	require.Equal(t, evidence.Good, w.check(q).Status, "a nonce that nobody asked for is none")
	q.Nonce = true
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	require.Equal(t, map[string]bool{"": true}, seen)
	clear(seen)
	for range 5 {
		q.Cert = w.leaf().Cert
		w.check(q)
	}
	require.Len(t, seen, 5, "each request has its own")
}

// A response without the nonce does not take the place of one with it.
func TestResponseWithoutTheNonceDisplacesNothing(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	q.Nonce = true
	w.on("ocsp.test", func(r *http.Request) (*http.Response, error) {
		return says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Extensions = nonceExtension(t, nonce(t, r)) }))(r)
	})
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.advance(time.Minute)
	w.goodOCSP(q)
	require.ErrorContains(t, w.engine.Refresh(t.Context()), "without our nonce")
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status)
}

// What a server says is unchanged is confirmed and not renewed; it is only asked
// so while something current is held, and not by Refresh.
func TestUnchangedList(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		der := w.crl(nil)
		var conditions []string
		w.on("crl.test", func(r *http.Request) (*http.Response, error) {
			conditions = append(conditions, r.Header.Get("If-None-Match"))
			if r.Header.Get("If-None-Match") == `"1"` {
				return reply(http.StatusNotModified, nil), nil
			}
			res := reply(http.StatusOK, der)
			res.Header.Set("ETag", `"1"`)
			return res, nil
		})
		f := w.check(q)
		end := f.Expires
		w.advance(6 * time.Hour)
		w.check(q)
		synctest.Wait()
		require.Equal(w.t, []string{"", `"1"`}, conditions)
		f = w.check(q)
		require.Equal(w.t, end, f.Expires)
		require.Empty(w.t, w.engine.Status()[0].Error)
		at, _ := w.engine.NextDue()
		require.Greater(w.t, at.Sub(w.now()), 5*time.Hour, "confirmed")
		require.NoError(w.t, w.engine.Refresh(context.Background()))
		require.Equal(w.t, []string{"", `"1"`, ""}, conditions, "what is forced is to be seen")
		w.advance(18*time.Hour + time.Second)
		require.Equal(w.t, evidence.Unknown, w.check(q).Status, "nothing lives on by being unchanged")
		require.Equal(w.t, "", conditions[len(conditions)-1])
	})
}
