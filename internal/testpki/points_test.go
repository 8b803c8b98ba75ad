package testpki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/testpki"
)

// pointName is DistributionPointName and point is DistributionPoint, RFC 5280 section 4.2.1.13, as encoding/asn1 reads them.
type pointName struct {
	Full     []asn1.RawValue              `asn1:"optional,tag:0"`
	Relative []pkix.AttributeTypeAndValue `asn1:"optional,tag:1,set"`
}

type point struct {
	Name    pointName       `asn1:"optional,tag:0"`
	Reasons asn1.BitString  `asn1:"optional,tag:1"`
	Issuer  []asn1.RawValue `asn1:"optional,tag:2"`
}

type scope struct {
	Name       pointName      `asn1:"optional,tag:0"`
	User       bool           `asn1:"optional,tag:1"`
	CA         bool           `asn1:"optional,tag:2"`
	Reasons    asn1.BitString `asn1:"optional,tag:3"`
	Indirect   bool           `asn1:"optional,tag:4"`
	Attributes bool           `asn1:"optional,tag:5"`
}

func decode[T any](t *testing.T, der []byte) (v T) {
	t.Helper()
	rest, err := asn1.Unmarshal(der, &v)
	require.NoError(t, err)
	require.Empty(t, rest)
	return v
}

func extensionOf(t *testing.T, list []pkix.Extension, last int) pkix.Extension {
	t.Helper()
	for _, e := range list {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, last}) {
			return e
		}
	}
	t.Fatalf("no extension 2.5.29.%d", last)
	return pkix.Extension{}
}

func name(t *testing.T, cn string) []byte {
	t.Helper()
	der, err := asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence())
	require.NoError(t, err)
	return der
}

func TestPointsSayWhatTheyAreAskedTo(t *testing.T) {
	other := name(t, "CRL signer")
	points := []testpki.Point{
		{PointName: testpki.PointName{URIs: []string{"http://a.example/1", "ldap://a.example"}, DirectoryNames: [][]byte{other}}},
		{PointName: testpki.PointName{URIs: []string{"http://b.example"}}, Reasons: []int{1, 8}, CRLIssuer: other},
		{CRLIssuer: other},
	}
	certificatePoints, err := testpki.CRLDistributionPoints(points...)
	require.NoError(t, err)
	freshest, err := testpki.FreshestCRL(points[1])
	require.NoError(t, err)
	w := newWorld(t, testpki.Options{})
	w.root.CRLURLs = []string{"http://not.example"}
	leaf, err := w.root.Issue(testpki.Options{Extra: []pkix.Extension{certificatePoints, freshest}})
	require.NoError(t, err)

	e := extensionOf(t, leaf.Certificate.Extensions, 31)
	require.False(t, e.Critical)
	got := decode[[]point](t, e.Value)
	require.Len(t, got, 3)
	require.Len(t, got[0].Name.Full, 3)
	require.Equal(t, 6, got[0].Name.Full[1].Tag)
	require.Equal(t, "ldap://a.example", string(got[0].Name.Full[1].Bytes))
	require.Equal(t, 4, got[0].Name.Full[2].Tag)
	require.Equal(t, other, got[0].Name.Full[2].Bytes)
	require.Zero(t, got[0].Reasons.BitLength)
	require.Empty(t, got[0].Issuer)
	require.Equal(t, asn1.BitString{Bytes: []byte{0x40, 0x80}, BitLength: 9}, got[1].Reasons)
	require.Equal(t, other, got[1].Issuer[0].Bytes)
	require.Empty(t, got[2].Name.Full)

	relative, err := testpki.CRLDistributionPoints(testpki.Point{PointName: testpki.PointName{Relative: "part 3"}})
	require.NoError(t, err)
	require.Equal(t, "part 3", decode[[]point](t, relative.Value)[0].Name.Relative[0].Value)
	_, err = w.root.Issue(testpki.Options{Extra: []pkix.Extension{relative}})
	require.ErrorContains(t, err, "invalid CRL distribution point", "x509 reads no certificate that has one; a list may")

	freshestGot := decode[[]point](t, extensionOf(t, leaf.Certificate.Extensions, 46).Value)
	require.Equal(t, got[1:2], freshestGot)
}

func TestScopeSaysWhatItIsAskedTo(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	for _, tc := range []struct {
		scope testpki.Scope
		want  scope
	}{
		{testpki.Scope{}, scope{}},
		{testpki.Scope{UserOnly: true}, scope{User: true}},
		{testpki.Scope{CAOnly: true}, scope{CA: true}},
		{testpki.Scope{AttributesOnly: true}, scope{Attributes: true}},
		{testpki.Scope{Indirect: true}, scope{Indirect: true}},
		{testpki.Scope{SomeReasons: []int{}}, scope{}},
		{testpki.Scope{SomeReasons: []int{2}}, scope{Reasons: asn1.BitString{Bytes: []byte{0x20}, BitLength: 3}}},
		{testpki.Scope{SomeReasons: []int{7, 1}}, scope{Reasons: asn1.BitString{Bytes: []byte{0x41}, BitLength: 8}}},
	} {
		e, err := tc.scope.Extension()
		require.NoError(t, err)
		der, err := w.root.CRL(testpki.CRLOptions{Extra: []pkix.Extension{e}})
		require.NoError(t, err)
		list, err := x509.ParseRevocationList(der)
		require.NoError(t, err)
		e = extensionOf(t, list.Extensions, 28)
		require.True(t, e.Critical)
		got := decode[scope](t, e.Value)
		if tc.scope.SomeReasons != nil && len(tc.scope.SomeReasons) == 0 {
			require.Equal(t, []byte{0x30, 3, 0x83, 1, 0}, e.Value, "present and without reasons")
			got.Reasons = asn1.BitString{}
		}
		require.Equal(t, tc.want, got)
	}
	e, err := testpki.Scope{PointName: testpki.PointName{URIs: []string{"http://a.example"}, DirectoryNames: [][]byte{name(t, "a")}}, Indirect: true}.Extension()
	require.NoError(t, err)
	require.Len(t, decode[scope](t, e.Value).Name.Full, 2)
}

func TestDeltaAndIndirectLists(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	issuer := name(t, "another issuer")
	of, err := testpki.CertificateIssuer(issuer)
	require.NoError(t, err)
	require.True(t, of.Critical)
	names := decode[[]asn1.RawValue](t, of.Value)
	require.Len(t, names, 1)
	require.Equal(t, issuer, names[0].Bytes)
	freshest, err := testpki.FreshestCRL(testpki.Point{PointName: testpki.PointName{URIs: []string{"http://a.example/delta"}}})
	require.NoError(t, err)
	der, err := w.root.CRL(testpki.CRLOptions{Number: big.NewInt(12), BaseNumber: big.NewInt(10), Extra: []pkix.Extension{freshest},
		Entries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: testpki.Epoch, ExtraExtensions: []pkix.Extension{of}}}})
	require.NoError(t, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	require.NoError(t, list.CheckSignatureFrom(w.root.Certificate))
	base := extensionOf(t, list.Extensions, 27)
	require.True(t, base.Critical)
	require.Equal(t, int64(10), decode[*big.Int](t, base.Value).Int64())
	require.Equal(t, int64(12), list.Number.Int64())
	require.False(t, extensionOf(t, list.Extensions, 46).Critical)
	require.True(t, extensionOf(t, list.RevokedCertificateEntries[0].Extensions, 29).Critical)
}

// x509.ParseRevocationList reads version 2 only; the older reader knows both.
func TestVersion1List(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	for _, o := range []testpki.Options{{}, {Key: p384}} {
		root, err := testpki.NewRoot(o)
		require.NoError(t, err)
		der, err := root.CRL(testpki.CRLOptions{Version1: true, BaseNumber: big.NewInt(1),
			Entries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: testpki.Epoch}}})
		require.NoError(t, err)
		_, err = x509.ParseRevocationList(der)
		require.Error(t, err)
		//lint:ignore SA1019 the only reader of version 1
		list, err := x509.ParseDERCRL(der)
		require.NoError(t, err)
		require.Zero(t, list.TBSCertList.Version)
		require.Empty(t, list.TBSCertList.Extensions)
		require.True(t, list.TBSCertList.Signature.Algorithm.Equal(list.SignatureAlgorithm.Algorithm))
		require.Equal(t, int64(5), list.TBSCertList.RevokedCertificates[0].SerialNumber.Int64())
		//lint:ignore SA1019 likewise
		require.NoError(t, root.Certificate.CheckCRLSignature(list))
	}
}

// A list under another certificate's name and key, whatever that is good for.
func TestListOfAnyCertificate(t *testing.T) {
	w := newWorld(t, testpki.Options{})
	leaf, err := w.root.Issue(testpki.Options{CommonName: "CRL signer", Template: func(c *x509.Certificate) { c.SubjectKeyId = []byte("key") }})
	require.NoError(t, err)
	der, err := (&testpki.CA{Certificate: leaf.Certificate, Key: leaf.Key}).CRL(testpki.CRLOptions{})
	require.NoError(t, err)
	list, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	require.Equal(t, leaf.Certificate.RawSubject, list.RawIssuer)
	require.Equal(t, []byte("key"), list.AuthorityKeyId)
	require.NoError(t, leaf.Certificate.CheckSignature(list.SignatureAlgorithm, list.RawTBSRevocationList, list.Signature))
}
