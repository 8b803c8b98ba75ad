package crl_test

import (
	"crypto/x509/pkix"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func partition(t *testing.T, ca *testpki.CA, fields ...[]byte) *crl.List {
	t.Helper()
	l := sound(ca)
	l.extensions = append(l.extensions, idp(fields...))
	parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	return parsed
}

// All pairs of names are compared (GHSA-pwjx-qhcg-rvj4 missed the later ones).
func TestThreat48_LaterDistributionPointNames(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	names := func(side string, match int) [][]byte {
		var out [][]byte
		for i := range 3 {
			name := uri(fmt.Sprintf("http://%s/%d", side, i))
			if i == match {
				name = uri("http://common")
			}
			out = append(out, name)
		}
		return out
	}
	for i := range 3 {
		for j := range 3 {
			l := partition(t, ca, fullName(names("list", i)...))
			n := names("certificate", j)
			one := issue(t, ca, testpki.Options{Extra: []pkix.Extension{points(point(fullName(n...)))}})
			require.NoError(t, l.Covers(one), "one point, %d %d", i, j)
			three := issue(t, ca, testpki.Options{Extra: []pkix.Extension{points(point(fullName(n[0])), point(fullName(n[1])), point(fullName(n[2])))}})
			require.NoError(t, l.Covers(three), "three points, %d %d", i, j)
		}
	}
}

// Somebody on the path serves the valid, fresh list of another partition, in
// which the revoked serial number is missing.
func TestThreat49_ShardSubstitution(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	ca.CRLURLs = []string{"http://crl.example/1.crl"}
	cert := issue(t, ca, testpki.Options{})
	require.NoError(t, partition(t, ca, fullName(uri("http://crl.example/1.crl"))).Covers(cert))
	for _, other := range []string{
		"http://crl.example/2.crl", "http://crl.example/1.crl/", "http://crl.example/1.cr", "http://CRL.example/1.crl", "",
	} {
		require.ErrorIs(t, partition(t, ca, fullName(uri(other))).Covers(cert), crl.ErrScope, other)
	}
}

func TestCovers(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	const a = "http://a"
	reasons := tlv(0x81, []byte{6, 0x40})
	issuer := tlv(0xa2, tlv(0xa4, ca.Certificate.RawSubject))
	relative := tlv(0xa0, tlv(0xa1, tlv(0x30, []byte{6, 3, 0x55, 4, 3}, tlv(0x0c, []byte("CRL1")))))
	directory := tlv(0xa4, ca.Certificate.RawSubject)
	with := func(p ...[]byte) testpki.Options { return testpki.Options{Extra: []pkix.Extension{points(p...)}} }
	for _, test := range []struct {
		name string
		idp  [][]byte
		cert testpki.Options
		ok   bool
	}{
		{"no name covers a certificate without points", nil, testpki.Options{}, true},
		{"no name covers a certificate with points", nil, with(point(fullName(uri(a)))), true},
		{"user certificates cover a leaf", [][]byte{flag(1, 0xff)}, testpki.Options{}, true},
		{"CA certificates do not cover a leaf", [][]byte{flag(2, 0xff)}, testpki.Options{}, false},
		{"a name does not cover a certificate without points", [][]byte{fullName(uri(a))}, testpki.Options{}, false},
		{"a point with reasons does not count", [][]byte{fullName(uri(a))}, with(point(fullName(uri(a)), reasons)), false},
		{"a point with cRLIssuer does not count", [][]byte{fullName(uri(a))}, with(point(fullName(uri(a)), issuer)), false},
		{"a later point that is complete counts", [][]byte{fullName(uri(a))}, with(point(fullName(uri(a)), reasons), point(fullName(uri(a)))), true},
		{"directory names match", [][]byte{fullName(directory)}, with(point(fullName(uri(a), directory))), true},
		{"directory names differ", [][]byte{fullName(directory)}, with(point(fullName(tlv(0xa4, tlv(0x30))))), false},
		{"names of other kinds do not match", [][]byte{fullName(tlv(0x82, []byte("a")))}, with(point(fullName(tlv(0x82, []byte("a"))))), false},
		{"a relative name never matches", [][]byte{relative}, with(point(fullName(uri(a)))), false},
		{"user certificates of the point", [][]byte{fullName(uri(a)), flag(1, 0xff)}, with(point(fullName(uri(a)))), true},
		{"CA certificates of the point", [][]byte{fullName(uri(a)), flag(2, 0xff)}, with(point(fullName(uri(a)))), false},
		{"malformed points", [][]byte{fullName(uri(a))}, with(point(fullName(uri(a))), point()), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := partition(t, ca, test.idp...).Covers(issue(t, ca, test.cert))
			if test.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, crl.ErrScope)
		})
	}
	t.Run("CA certificates", func(t *testing.T) {
		sub, err := ca.NewIntermediate(testpki.Options{})
		require.NoError(t, err)
		require.NoError(t, partition(t, ca).Covers(sub.Certificate))
		require.NoError(t, partition(t, ca, flag(2, 0xff)).Covers(sub.Certificate))
		require.ErrorIs(t, partition(t, ca, flag(1, 0xff)).Covers(sub.Certificate), crl.ErrScope)
	})
	t.Run("another issuer", func(t *testing.T) {
		other := newCA(t, testpki.Options{})
		require.ErrorIs(t, partition(t, ca).Covers(issue(t, other, testpki.Options{})), crl.ErrScope)
	})
}

// Whoever runs a CA chooses how many names a list and a certificate have, and
// they are compared in every handshake.
func TestNamesThatAreComparedAreFew(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	uris := func(n int, last string) (out [][]byte) {
		for i := range n - 1 {
			out = append(out, uri(fmt.Sprintf("http://%d", i)))
		}
		return append(out, uri(last))
	}
	const common = "http://common"
	one := issue(t, ca, testpki.Options{Extra: []pkix.Extension{points(point(fullName(uri(common))))}})
	require.NoError(t, partition(t, ca, fullName(uris(64, common)...)).Covers(one))
	l := sound(ca)
	l.extensions = append(l.extensions, idp(fullName(uris(65, common)...)))
	_, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.ErrorIs(t, err, crl.ErrUnusable)

	list := partition(t, ca, fullName(uri(common)))
	many := func(n int) testpki.Options {
		return testpki.Options{Extra: []pkix.Extension{points(point(fullName(uri("http://other"))), point(fullName(uris(n-1, common)...)))}}
	}
	require.NoError(t, list.Covers(issue(t, ca, many(64))))
	require.ErrorIs(t, list.Covers(issue(t, ca, many(65))), crl.ErrScope)
	require.NoError(t, partition(t, ca).Covers(issue(t, ca, many(65))), "nothing is compared")

	directory := tlv(0xa4, ca.Certificate.RawSubject)
	mixed := append(uris(64, common), directory)
	l = sound(ca)
	l.extensions = append(l.extensions, idp(fullName(mixed...)))
	_, err = crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.ErrorIs(t, err, crl.ErrUnusable, "directory names count as well")
}
