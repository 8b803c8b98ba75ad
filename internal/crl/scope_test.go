package crl_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

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
			l := parse(t, ca, fullName(names("list", i)...))
			n := names("certificate", j)
			one := issue(t, ca, testpki.Options{Extra: []pkix.Extension{points(point(fullName(n...)))}})
			requireCovers(t, l, one, "one point, %d %d", i, j)
			three := issue(t, ca, testpki.Options{Extra: []pkix.Extension{points(point(fullName(n[0])), point(fullName(n[1])), point(fullName(n[2])))}})
			requireCovers(t, l, three, "three points, %d %d", i, j)
		}
	}
}

// Somebody on the path serves the valid, fresh list of another partition, in
// which the revoked serial number is missing.
func TestThreat49_ShardSubstitution(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	ca.CRLURLs = []string{"http://crl.example/1.crl"}
	cert := issue(t, ca, testpki.Options{})
	requireCovers(t, parse(t, ca, fullName(uri("http://crl.example/1.crl"))), cert)
	for _, other := range []string{
		"http://crl.example/2.crl", "http://crl.example/1.crl/", "http://crl.example/1.cr", "http://CRL.example/1.crl", "",
	} {
		requireNotCovers(t, parse(t, ca, fullName(uri(other))), cert, other)
	}
}

// parse reads a list of the CA with an issuing distribution point of the given
// fields, or without one where there are none.
func parse(t testing.TB, ca *testpki.CA, fields ...[]byte) *crl.List {
	t.Helper()
	l := sound(ca)
	if fields != nil {
		l.extensions = append(l.extensions, idp(fields...))
	}
	parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	return parsed
}

// TestCovers goes through RFC 5280 section 6.3.3 (b) and (d).
func TestCovers(t *testing.T) {
	const (
		all        = x509ext.AllReasons
		key        = x509ext.KeyCompromise
		ca1        = x509ext.CACompromise
		superseded = x509ext.Superseded
	)
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	self := ca.Certificate.RawSubject // also the certificate's issuer, unless the test says "foreign"
	other := tlv(0x30, tlv(0x31, attribute("Other")))
	a, b := fullName(uri("http://a")), fullName(uri("http://b"))
	indirect := flag(4, 0xff)
	rdn := attribute("CRL1")
	for _, test := range []struct {
		name    string
		idp     [][]byte // nil: no extension
		points  [][]byte // nil: no extension
		foreign bool     // the certificate has another issuer than the list
		want    x509ext.ReasonFlags
	}{
		{"no IDP, no points", nil, nil, false, all},
		{"no IDP, points", nil, [][]byte{point(a)}, false, all},
		{"empty IDP", [][]byte{}, [][]byte{point(a)}, false, all},
		{"no IDP and a point with reasons: the implied point", nil, [][]byte{point(a, pointReasons(6, 0x40))}, false, all},
		{"no IDP and a point with cRLIssuer: the implied point", nil, [][]byte{point(a, crlIssuer(directory(other)))}, false, all},
		{"no IDP and malformed points: the implied point", nil, [][]byte{point()}, false, all},
		{"no IDP, another issuer", nil, [][]byte{point(a)}, true, 0},
		{"no IDP, another issuer, no points", nil, nil, true, 0},

		{"same name", [][]byte{a}, [][]byte{point(a)}, false, all},
		{"other name", [][]byte{a}, [][]byte{point(b)}, false, 0},
		{"a name and a certificate without points", [][]byte{a}, nil, false, 0},
		{"a name and malformed points", [][]byte{a}, [][]byte{point(a), point()}, false, 0},
		{"same name, another issuer", [][]byte{a}, [][]byte{point(a)}, true, 0},
		{"same name in a later point", [][]byte{a}, [][]byte{point(b), point(a)}, false, all},
		{"same directory name", [][]byte{fullName(directory(self))}, [][]byte{point(fullName(uri("http://a"), directory(self)))}, false, all},
		{"other directory name", [][]byte{fullName(directory(self))}, [][]byte{point(fullName(directory(other)))}, false, 0},
		{"names of other kinds are not compared", [][]byte{fullName(tlv(0x82, []byte("a")))}, [][]byte{point(fullName(tlv(0x82, []byte("a"))))}, false, 0},
		{"the text of a URI in a name of another kind", [][]byte{a}, [][]byte{point(fullName(tlv(0x82, []byte("http://a"))))}, false, 0},
		{"the certificate issuer's name and no points", [][]byte{fullName(directory(self))}, nil, false, 0},

		{"same relative name", [][]byte{relative(rdn)}, [][]byte{point(relative(rdn))}, false, all},
		{"other relative name", [][]byte{relative(rdn)}, [][]byte{point(relative(attribute("CRL2")))}, false, 0},
		{"relative name of the list, full name of the point", [][]byte{relative(rdn)}, [][]byte{point(fullName(directory(below(self, rdn))))}, false, all},
		{"full name of the list, relative name of the point", [][]byte{fullName(directory(below(self, rdn)))}, [][]byte{point(relative(rdn))}, false, all},
		{"full name below another issuer", [][]byte{fullName(directory(below(other, rdn)))}, [][]byte{point(relative(rdn))}, false, 0},
		{"relative name and a URI", [][]byte{relative(rdn)}, [][]byte{point(a)}, false, 0},
		{"relative name with the list's cRLIssuer", [][]byte{relative(rdn), indirect}, [][]byte{point(relative(rdn), crlIssuer(directory(self)))}, true, all},
		{"relative name with two cRLIssuers", [][]byte{relative(rdn), indirect}, [][]byte{point(relative(rdn), crlIssuer(directory(self), directory(other)))}, true, 0},
		{"relative name with two cRLIssuers, full name of the list", [][]byte{fullName(directory(below(self, rdn))), indirect}, [][]byte{point(relative(rdn), crlIssuer(directory(self), directory(other)))}, true, 0},

		{"user certificates", [][]byte{flag(1, 0xff)}, nil, false, all},
		{"CA certificates", [][]byte{flag(2, 0xff)}, nil, false, 0},
		{"user certificates of the point", [][]byte{a, flag(1, 0xff)}, [][]byte{point(a)}, false, all},
		{"user certificates of another point", [][]byte{a, flag(1, 0xff)}, [][]byte{point(b)}, false, 0},
		{"CA certificates of the point", [][]byte{a, flag(2, 0xff)}, [][]byte{point(a)}, false, 0},

		{"indirect, no points", [][]byte{indirect}, nil, false, all},
		{"indirect, a point without cRLIssuer", [][]byte{indirect}, [][]byte{point(a)}, false, all},
		{"indirect with the name, own issuer", [][]byte{a, indirect}, [][]byte{point(a)}, false, all},
		{"indirect, another issuer", [][]byte{indirect}, [][]byte{point(a)}, true, 0},
		{"indirect, another issuer, no points", [][]byte{indirect}, nil, true, 0},
		{"indirect, another issuer and malformed points", [][]byte{indirect}, [][]byte{point(crlIssuer(directory(self))), point()}, true, 0},
		{"indirect, cRLIssuer", [][]byte{indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, true, all},
		{"indirect, cRLIssuer alone", [][]byte{indirect}, [][]byte{point(crlIssuer(directory(self)))}, true, all},
		{"indirect, the second of cRLIssuer", [][]byte{indirect}, [][]byte{point(a, crlIssuer(directory(other), directory(self)))}, true, all},
		{"indirect, cRLIssuer of a later point", [][]byte{indirect}, [][]byte{point(a), point(b, crlIssuer(directory(self)))}, true, all},
		{"indirect, another cRLIssuer", [][]byte{indirect}, [][]byte{point(a, crlIssuer(directory(other)))}, true, 0},
		{"indirect, a cRLIssuer without directory names", [][]byte{indirect}, [][]byte{point(a, crlIssuer(uri("http://a")))}, true, 0},
		{"cRLIssuer, but not indirect", nil, [][]byte{point(a, crlIssuer(directory(self)))}, true, 0},
		{"cRLIssuer, but indirect is false", [][]byte{flag(4, 0)}, [][]byte{point(a, crlIssuer(directory(self)))}, true, 0},
		{"the name and cRLIssuer, but not indirect", [][]byte{a}, [][]byte{point(a, crlIssuer(directory(self)))}, true, 0},
		{"the name and cRLIssuer of the certificate's issuer, but not indirect", [][]byte{a}, [][]byte{point(a, crlIssuer(directory(self)))}, false, 0},
		{"the name and cRLIssuer of the certificate's issuer, indirect", [][]byte{a, indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, false, all},
		{"the name and another cRLIssuer, own issuer", [][]byte{a, indirect}, [][]byte{point(a, crlIssuer(directory(other)))}, false, 0},
		{"indirect with the name, cRLIssuer", [][]byte{a, indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, true, all},
		{"indirect with another name, cRLIssuer", [][]byte{b, indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, true, 0},
		{"indirect: the name in one point, cRLIssuer in another", [][]byte{a, indirect}, [][]byte{point(a), point(b, crlIssuer(directory(self)))}, true, 0},
		{"IDP name is the cRLIssuer of a point without a name", [][]byte{fullName(directory(self)), indirect}, [][]byte{point(crlIssuer(directory(self)))}, true, all},
		{"IDP name is another cRLIssuer of a point without a name", [][]byte{fullName(directory(other)), indirect}, [][]byte{point(crlIssuer(directory(self), directory(other)))}, true, all},
		{"IDP name is no cRLIssuer of a point without a name", [][]byte{a, indirect}, [][]byte{point(crlIssuer(directory(self)))}, true, 0},
		{"IDP name is the cRLIssuer of a point with another name", [][]byte{fullName(directory(self)), indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, true, 0},
		{"indirect, user certificates", [][]byte{flag(1, 0xff), indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, true, all},
		{"indirect, CA certificates", [][]byte{flag(2, 0xff), indirect}, [][]byte{point(a, crlIssuer(directory(self)))}, true, 0},

		{"some reasons", [][]byte{onlyReasons(5, 0x60)}, nil, false, key | ca1},
		{"some reasons, all of them", [][]byte{onlyReasons(7, 0x7f, 0x80)}, nil, false, all},
		{"some reasons of the list, none of the point", [][]byte{a, onlyReasons(5, 0x60)}, [][]byte{point(a)}, false, key | ca1},
		{"some reasons of the point", [][]byte{a}, [][]byte{point(a, pointReasons(6, 0x40))}, false, key},
		{"some reasons of both", [][]byte{a, onlyReasons(5, 0x60)}, [][]byte{point(a, pointReasons(3, 0x48))}, false, key},
		{"some reasons, none in common", [][]byte{a, onlyReasons(5, 0x20)}, [][]byte{point(a, pointReasons(3, 0x48))}, false, 0},
		{"a point without reasons", [][]byte{a}, [][]byte{point(a, pointReasons(0))}, false, 0},
		{"a point with the reason unused", [][]byte{a}, [][]byte{point(a, pointReasons(7, 0x80))}, false, 0},
		{"union of the points", [][]byte{a}, [][]byte{point(a, pointReasons(6, 0x40)), point(a, pointReasons(3, 8))}, false, key | superseded},
		{"union of the points within the list", [][]byte{a, onlyReasons(5, 0x60)}, [][]byte{point(a, pointReasons(6, 0x40)), point(a, pointReasons(3, 8))}, false, key},
		{"no union with a point elsewhere", [][]byte{a}, [][]byte{point(a, pointReasons(6, 0x40)), point(b, pointReasons(3, 8)), point(b)}, false, key},
		{"union with a complete point", [][]byte{a}, [][]byte{point(a, pointReasons(6, 0x40)), point(a)}, false, all},
		{"the implied point has the list's reasons", [][]byte{onlyReasons(5, 0x60)}, [][]byte{point(a, pointReasons(6, 0x40))}, false, key | ca1},
		{"indirect, some reasons of both", [][]byte{onlyReasons(5, 0x60), indirect}, [][]byte{point(a, pointReasons(6, 0x40), crlIssuer(directory(self)))}, true, key},
		{"indirect, reasons of a point of another issuer", [][]byte{indirect}, [][]byte{point(a, pointReasons(6, 0x40), crlIssuer(directory(self))), point(b, pointReasons(3, 8), crlIssuer(directory(other)))}, true, key},
	} {
		t.Run(test.name, func(t *testing.T) {
			cert := &x509.Certificate{RawIssuer: self}
			if test.foreign {
				cert.RawIssuer = tlv(0x30, tlv(0x31, attribute("Third")))
			}
			if test.points != nil {
				cert.Extensions = []pkix.Extension{points(test.points...)}
			}
			l := parse(t, ca, test.idp...)
			got, err := l.Covers(cert)
			require.Equal(t, test.want, got, err)
			if test.want == 0 {
				require.ErrorIs(t, err, crl.ErrScope)
				return
			}
			require.NoError(t, err)
			amended := amend(t, ca, test.idp...)
			requireNotCovers(t, amended, cert, "a delta covers nothing by itself")
			require.NoError(t, amended.UsableWith(l))
		})
	}
	t.Run("CA certificates", func(t *testing.T) {
		sub, err := ca.NewIntermediate(testpki.Options{})
		require.NoError(t, err)
		requireCovers(t, parse(t, ca), sub.Certificate)
		requireCovers(t, parse(t, ca, flag(2, 0xff)), sub.Certificate)
		requireNotCovers(t, parse(t, ca, flag(1, 0xff)), sub.Certificate)
		// Go's parser sets both; whoever builds a certificate by hand may not.
		requireNotCovers(t, parse(t, ca, flag(2, 0xff)), &x509.Certificate{RawIssuer: self, IsCA: true})
	})
	t.Run("another issuer", func(t *testing.T) {
		requireNotCovers(t, parse(t, ca), issue(t, newCA(t, testpki.Options{}), testpki.Options{}))
	})
}

// amend makes a delta from number 1 to 6, with the given fields of its issuing
// distribution point.
func amend(t testing.TB, ca *testpki.CA, fields ...[]byte) *crl.List {
	t.Helper()
	l := sound(ca)
	l.extensions = [][]byte{number(6), delta(1)}
	if fields != nil {
		l.extensions = append(l.extensions, idp(fields...))
	}
	parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	return parsed
}

// Let's Encrypt's lists have a critical IDP with one URI and
// onlyContainsUserCerts, and its certificates one point with one URI.
func TestShardsOfLetsEncrypt(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	ca.CRLURLs = []string{"http://r10.c.lencr.org/7.crl"}
	leaf := issue(t, ca, testpki.Options{Names: []string{"api.acme.example"}})
	sub, err := ca.NewIntermediate(testpki.Options{})
	require.NoError(t, err)
	shard := func(n int, entries ...x509.RevocationListEntry) *crl.List {
		idp, err := testpki.IssuingDistributionPoint(true, false, fmt.Sprintf("http://r10.c.lencr.org/%d.crl", n))
		require.NoError(t, err)
		der, err := ca.CRL(testpki.CRLOptions{Extra: []pkix.Extension{idp}, Entries: entries})
		require.NoError(t, err)
		l, err := crl.ParseAndVerify(der, ca.Certificate)
		require.NoError(t, err)
		return l
	}
	requireCovers(t, shard(7), leaf)
	requireNotCovers(t, shard(8), leaf)
	requireNotCovers(t, shard(7), sub.Certificate)
	_, ok := shard(7).Lookup(leaf)
	require.False(t, ok)
	l := shard(7, x509.RevocationListEntry{SerialNumber: leaf.SerialNumber, RevocationTime: testpki.Epoch, ReasonCode: 4})
	requireCovers(t, l, leaf)
	e, ok := l.Lookup(leaf)
	require.True(t, ok)
	require.Equal(t, crl.Entry{Reason: 4, HasReason: true, Date: testpki.Epoch}, e)
	require.Equal(t, `user certificates at "http://r10.c.lencr.org/7.crl"`, l.Scope())
}

// An indirect list speaks for the certificates of others: what is not covered is
// not found either, and a serial number is that of one issuer only.
func TestIndirectEntries(t *testing.T) {
	publisher := newCA(t, testpki.Options{CommonName: "CRL publisher"})
	acme, globex := newCA(t, testpki.Options{CommonName: "Acme CA"}), newCA(t, testpki.Options{CommonName: "Globex CA"})
	at := point(fullName(uri("http://a")), crlIssuer(directory(publisher.Certificate.RawSubject)))
	named := func(ca *testpki.CA) []byte { return certIssuer(directory(ca.Certificate.RawSubject)) }
	cert := func(ca *testpki.CA, serial int64) *x509.Certificate {
		return issue(t, ca, testpki.Options{Serial: big.NewInt(serial), Extra: []pkix.Extension{points(at)}})
	}
	l := sound(publisher)
	l.extensions = append(l.extensions, idp(fullName(uri("http://a")), flag(4, 0xff)))
	l.revoked = tlv(0x30, entry(1), entry(2, named(acme)), entry(3, reason(4)), entry(4, named(globex)), entry(2))
	parsed, err := crl.ParseAndVerify(l.sign(t, publisher.Key), publisher.Certificate)
	require.NoError(t, err)
	require.True(t, parsed.Indirect())
	for name, test := range map[string]struct {
		ca      *testpki.CA
		revoked []int64
	}{
		"publisher": {publisher, []int64{1}},
		"acme":      {acme, []int64{2, 3}},
		"globex":    {globex, []int64{2, 4}},
	} {
		for serial := int64(1); serial <= 5; serial++ {
			c := cert(test.ca, serial)
			requireCovers(t, parsed, c, name)
			_, ok := parsed.Lookup(c)
			require.Equal(t, slices.Contains(test.revoked, serial), ok, "%s %d", name, serial)
		}
	}
	stranger := issue(t, acme, testpki.Options{Serial: big.NewInt(9)})
	requireNotCovers(t, parsed, stranger, "its points do not name the publisher")
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
	requireCovers(t, parse(t, ca, fullName(uris(64, common)...)), one)
	l := sound(ca)
	l.extensions = append(l.extensions, idp(fullName(uris(65, common)...)))
	_, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.ErrorIs(t, err, crl.ErrUnusable)

	list := parse(t, ca, fullName(uri(common)))
	many := func(n int) testpki.Options {
		return testpki.Options{Extra: []pkix.Extension{points(point(fullName(uri("http://other"))), point(fullName(uris(n-1, common)...)))}}
	}
	requireCovers(t, list, issue(t, ca, many(64)))
	requireNotCovers(t, list, issue(t, ca, many(65)))
	requireCovers(t, parse(t, ca), issue(t, ca, many(65)), "nothing is compared")

	mixed := append(uris(64, common), directory(ca.Certificate.RawSubject))
	l = sound(ca)
	l.extensions = append(l.extensions, idp(fullName(mixed...)))
	_, err = crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.ErrorIs(t, err, crl.ErrUnusable, "directory names count as well")

	indirect := parse(t, ca, flag(4, 0xff))
	foreign := func(n int) *x509.Certificate {
		names := slices.Repeat([][]byte{directory(tlv(0x30))}, n-1)
		p := points(point(crlIssuer(append(names, directory(ca.Certificate.RawSubject))...)))
		return &x509.Certificate{RawIssuer: tlv(0x30), Extensions: []pkix.Extension{p}}
	}
	requireCovers(t, indirect, foreign(64))
	requireNotCovers(t, indirect, foreign(65), "names of cRLIssuer count as well")

	for n, want := range map[int]error{64: nil, 65: crl.ErrUnusable} {
		l := sound(ca)
		l.extensions = append(l.extensions, freshest(point(fullName(uris(n, common)...))))
		_, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
		require.ErrorIs(t, err, want, "freshest CRL")
	}
}
