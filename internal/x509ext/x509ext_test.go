package x509ext_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// certificate makes a self-signed certificate with the given extensions.
func certificate(t testing.TB, extensions ...pkix.Extension) (*x509.Certificate, error) {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: testpki.Epoch, NotAfter: testpki.Epoch.Add(time.Hour), ExtraExtensions: extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	return x509.ParseCertificate(der)
}

func extension(oid asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: oid, Value: value}
}

var (
	points     = asn1.ObjectIdentifier{2, 5, 29, 31}
	freshest   = asn1.ObjectIdentifier{2, 5, 29, 46}
	noCheck    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	tlsFeature = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
)

func TestExtensionFacts(t *testing.T) {
	plain, err := certificate(t)
	require.NoError(t, err)
	with := func(oid asn1.ObjectIdentifier, value string) *x509.Certificate {
		c, err := certificate(t, extension(oid, unhex(t, value)))
		require.NoError(t, err)
		return c
	}
	for _, test := range []struct {
		name string
		fact func(*x509.Certificate) bool
		cert *x509.Certificate
		want bool
	}{
		{"noRevAvail absent", x509ext.NoRevAvail, plain, false},
		{"noRevAvail", x509ext.NoRevAvail, with(asn1.ObjectIdentifier{2, 5, 29, 56}, "0500"), true},
		{"malformed noRevAvail counts as present", x509ext.NoRevAvail, with(asn1.ObjectIdentifier{2, 5, 29, 56}, "0400"), true},
		{"nocheck absent", x509ext.OCSPNoCheck, plain, false},
		{"nocheck", x509ext.OCSPNoCheck, with(noCheck, "0500"), true},
		{"malformed nocheck counts as absent", x509ext.OCSPNoCheck, with(noCheck, "0400"), false},
		{"nocheck with trailing data counts as absent", x509ext.OCSPNoCheck, with(noCheck, "050000"), false},
		{"nocheck without a value counts as absent", x509ext.OCSPNoCheck, with(noCheck, ""), false},
		{"must-staple absent", x509ext.MustStaple, plain, false},
		{"must-staple", x509ext.MustStaple, with(tlsFeature, "3003020105"), true},
		{"must-staple as second feature", x509ext.MustStaple, with(tlsFeature, "3006020117020105"), true},
		{"status_request_v2", x509ext.MustStaple, with(tlsFeature, "3003020111"), true},
		{"other TLS feature", x509ext.MustStaple, with(tlsFeature, "3003020117"), false},
		{"malformed TLS feature counts as must-staple", x509ext.MustStaple, with(tlsFeature, "3003040105"), true},
		{"TLS feature with trailing data counts as must-staple", x509ext.MustStaple, with(tlsFeature, "300302011700"), true},
		{"proxyCertInfo absent", x509ext.ProxyCertificate, plain, false},
		{"proxyCertInfo", x509ext.ProxyCertificate, with(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 14}, "3000"), true},
		{"EKU absent", x509ext.EmptyExtKeyUsage, plain, false},
		{"EKU empty", x509ext.EmptyExtKeyUsage, with(asn1.ObjectIdentifier{2, 5, 29, 37}, "3000"), true},
		{"EKU clientAuth", x509ext.EmptyExtKeyUsage, with(asn1.ObjectIdentifier{2, 5, 29, 37}, "300a06082b06010505070302"), false},
		{"EKU unknown purpose", x509ext.EmptyExtKeyUsage, with(asn1.ObjectIdentifier{2, 5, 29, 37}, "300406022a03"), false},
	} {
		t.Run(test.name, func(t *testing.T) { require.Equal(t, test.want, test.fact(test.cert)) })
	}
}

func TestKeyHashes(t *testing.T) {
	c, err := certificate(t)
	require.NoError(t, err)
	require.Equal(t, sha256.Sum256(c.RawSubjectPublicKeyInfo), x509ext.KeyHash(c))
	key, err := x509ext.SubjectPublicKey(c)
	require.NoError(t, err)
	require.Equal(t, []byte(c.PublicKey.(ed25519.PublicKey)), key)
	_, err = x509ext.SubjectPublicKey(&x509.Certificate{})
	require.Error(t, err)
}

// uri, name and friends encode GeneralNames and their surroundings.
func tlv(tag byte, parts ...[]byte) []byte {
	var content []byte
	for _, p := range parts {
		content = append(content, p...)
	}
	var b cryptobyte.Builder
	b.AddUint8(tag)
	switch n := len(content); {
	case n < 0x80:
		b.AddUint8(uint8(n))
	default:
		b.AddUint8(0x82)
		b.AddUint16(uint16(n))
	}
	b.AddBytes(content)
	return b.BytesOrPanic()
}

func uri(s string) []byte                 { return tlv(0x86, []byte(s)) }
func fullName(names ...[]byte) []byte     { return tlv(0xa0, tlv(0xa0, names...)) }
func point(fields ...[]byte) []byte       { return tlv(0x30, fields...) }
func pointList(points ...[]byte) []byte   { return tlv(0x30, points...) }
func directoryName(name []byte) []byte    { return tlv(0xa4, name) }
func reasons() []byte                     { return tlv(0x81, []byte{6, 0x40}) }
func crlIssuer(name []byte) []byte        { return tlv(0xa2, directoryName(name)) }
func relativeName(contents []byte) []byte { return tlv(0xa0, tlv(0xa1, contents)) }

var someName = tlv(0x30, tlv(0x31, tlv(0x30, []byte{6, 3, 0x55, 4, 3}, tlv(0x0c, []byte("CA")))))

func TestReadTime(t *testing.T) {
	for _, test := range []struct {
		name, text string
		tag        byte
		want       time.Time
	}{
		{"UTCTime", "260102030405Z", 0x17, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		{"UTCTime of the last century", "500102030405Z", 0x17, time.Date(1950, 1, 2, 3, 4, 5, 0, time.UTC)},
		{"GeneralizedTime", "20500102030405Z", 0x18, time.Date(2050, 1, 2, 3, 4, 5, 0, time.UTC)},
		{"29 February", "240229000000Z", 0x17, time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"31 February", "240231000000Z", 0x17, time.Time{}},
		{"29 February in another year", "230229000000Z", 0x17, time.Time{}},
		{"month 13", "241301000000Z", 0x17, time.Time{}},
		{"day 0", "240100000000Z", 0x17, time.Time{}},
		{"hour 24", "240101240000Z", 0x17, time.Time{}},
		{"second 60", "240101235960Z", 0x17, time.Time{}},
		{"no seconds", "2401010000Z", 0x17, time.Time{}},
		{"an offset", "2401010000+0100", 0x17, time.Time{}},
		{"lower case", "240101000000z", 0x17, time.Time{}},
		{"a fraction", "20240101000000.5Z", 0x18, time.Time{}},
		{"a sign", "24+101000000Z", 0x17, time.Time{}},
		{"a space", "2401 1000000Z", 0x17, time.Time{}},
		{"empty", "", 0x17, time.Time{}},
		{"another type", "240101000000Z", 0x16, time.Time{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := cryptobyte.String(tlv(test.tag, []byte(test.text)))
			got, ok := x509ext.ReadTime(&in)
			require.Equal(t, !test.want.IsZero(), ok)
			if ok {
				require.Equal(t, test.want, got)
				require.Empty(t, in)
			}
		})
	}
	in := cryptobyte.String(tlv(0x17, []byte("260102030405Z")))
	_, ok := x509ext.ReadGeneralizedTime(&in)
	require.False(t, ok, "a UTCTime is no GeneralizedTime")
}

// FuzzReadTime: never panics; what it accepts cryptobyte accepts too, as the
// same time.
func FuzzReadTime(f *testing.F) {
	f.Add(tlv(0x17, []byte("260102030405Z")))
	f.Add(tlv(0x18, []byte("20260229030405Z")))
	f.Fuzz(func(t *testing.T, der []byte) {
		in := cryptobyte.String(der)
		got, ok := x509ext.ReadTime(&in)
		if !ok {
			return
		}
		utc, general := cryptobyte.String(der), cryptobyte.String(der)
		var want time.Time
		require.True(t, utc.ReadASN1UTCTime(&want) || general.ReadASN1GeneralizedTime(&want))
		require.True(t, got.Equal(want))
	})
}

func TestParseExtensions(t *testing.T) {
	one := unhex(t, "300706022a03040105")
	two := unhex(t, "300a06022a040101ff040105")
	for _, test := range []struct {
		name  string
		value []byte
		want  int
	}{
		{"one", one, 1},
		{"two, one of them critical", append(append([]byte{}, one...), two...), 2},
		{"criticality spelled out as false", unhex(t, "300a06022a0401010004010"+"5"), 1},
		{"none", nil, 0},
		{"the same twice", append(append([]byte{}, one...), one...), 0},
		{"trailing data in one", unhex(t, "300906022a030401050500"), 0},
		{"criticality of 1", unhex(t, "300a06022a04010101040105"), 0},
		{"no value", unhex(t, "300406022a03"), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := x509ext.ParseExtensions(test.value)
			require.Equal(t, test.want == 0, err != nil)
			require.Len(t, got, test.want)
			if test.want == 2 {
				require.False(t, got[0].Critical)
				require.True(t, got[1].Critical)
				require.Equal(t, []byte{5}, got[1].Value)
			}
		})
	}
}

// algorithmOf makes a certificate signed with the algorithm and takes its
// AlgorithmIdentifier from it.
func algorithmOf(t *testing.T, key crypto.Signer, algorithm x509.SignatureAlgorithm) (signer *x509.Certificate, identifier []byte) {
	t.Helper()
	ca, err := testpki.NewRoot(testpki.Options{Key: key, Template: func(c *x509.Certificate) { c.SignatureAlgorithm = algorithm }})
	require.NoError(t, err)
	in := cryptobyte.String(ca.Certificate.Raw)
	var outer, tbs, identifierDER cryptobyte.String
	require.True(t, in.ReadASN1(&outer, 0x30) && outer.ReadASN1Element(&tbs, 0x30) && outer.ReadASN1Element(&identifierDER, 0x30))
	return ca.Certificate, identifierDER
}

func TestCheckSignatureAcceptsTheAllowList(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	for _, test := range []struct {
		key       crypto.Signer
		algorithm x509.SignatureAlgorithm
	}{
		{rsaKey, x509.SHA256WithRSA}, {rsaKey, x509.SHA384WithRSA}, {rsaKey, x509.SHA512WithRSA},
		{rsaKey, x509.SHA256WithRSAPSS}, {rsaKey, x509.SHA384WithRSAPSS}, {rsaKey, x509.SHA512WithRSAPSS},
		{ecKey, x509.ECDSAWithSHA256}, {ecKey, x509.ECDSAWithSHA384}, {ecKey, x509.ECDSAWithSHA512},
		{edKey, x509.PureEd25519},
	} {
		t.Run(test.algorithm.String(), func(t *testing.T) {
			c, identifier := algorithmOf(t, test.key, test.algorithm)
			require.NoError(t, x509ext.CheckSignature(c, identifier, c.RawTBSCertificate, c.Signature))
			require.Error(t, x509ext.CheckSignature(c, identifier, c.RawTBSCertificate[1:], c.Signature), "other data")
			other, err := testpki.NewRoot(testpki.Options{})
			require.NoError(t, err)
			require.Error(t, x509ext.CheckSignature(other.Certificate, identifier, c.RawTBSCertificate, c.Signature), "other key")
			require.ErrorIs(t, x509ext.CheckSignature(c, append(identifier, 0), c.RawTBSCertificate, c.Signature), x509ext.ErrAlgorithm)
		})
	}
}

func TestCheckSignatureRefusesOtherAlgorithms(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	ca, err := testpki.NewRoot(testpki.Options{Key: key})
	require.NoError(t, err)
	signed := []byte("signed")
	sum := sha1.Sum(signed)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, sum[:])
	require.NoError(t, err)
	require.NoError(t, ca.Certificate.CheckSignature(x509.SHA1WithRSA, signed, signature), "which is why the list exists")

	const sha256ID = "300d06096086480165030402010500"
	pss := func(hash, mgf string, salt byte, trailer ...byte) []byte {
		fields := [][]byte{tlv(0xa0, unhex(t, hash)), tlv(0xa1, unhex(t, mgf)), tlv(0xa2, []byte{2, 1, salt})}
		if trailer != nil {
			fields = append(fields, tlv(0xa3, trailer))
		}
		return tlv(0x30, unhex(t, "06092a864886f70d01010a"), tlv(0x30, fields...))
	}
	mgf1 := func(hash string) string {
		return hex.EncodeToString(tlv(0x30, unhex(t, "06092a864886f70d010108"), unhex(t, hash)))
	}
	const sha384ID = "300d06096086480165030402020500"
	for _, test := range []struct {
		name       string
		identifier []byte
	}{
		{"SHA-1 with RSA", unhex(t, "300d06092a864886f70d0101050500")},
		{"MD5 with RSA", unhex(t, "300d06092a864886f70d0101040500")},
		{"SHA-1 with ECDSA", unhex(t, "300906072a8648ce3d0401")},
		{"PSS without parameters, which means SHA-1", unhex(t, "300b06092a864886f70d01010a")},
		{"PSS with the default parameters, SHA-1", unhex(t, "300d06092a864886f70d01010a3000")},
		{"PSS with another hash in MGF1", pss(sha256ID, mgf1(sha384ID), 32)},
		{"PSS with a shorter salt", pss(sha256ID, mgf1(sha256ID), 20)},
		{"PSS with another trailer", pss(sha256ID, mgf1(sha256ID), 32, 2, 1, 2)},
		{"RSA with odd parameters", unhex(t, "300e06092a864886f70d01010b040100")},
		{"ECDSA with parameters", unhex(t, "300c06082a8648ce3d0403020500")},
		{"Ed25519 with parameters", unhex(t, "300706032b65700500")},
		{"nothing", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.ErrorIs(t, x509ext.CheckSignature(ca.Certificate, test.identifier, signed, signature), x509ext.ErrAlgorithm)
		})
	}

	digest := sha256.Sum256(signed)
	signature, err = rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	require.NoError(t, err)
	for name, identifier := range map[string][]byte{
		"trailer absent":      pss(sha256ID, mgf1(sha256ID), 32),
		"trailer spelled out": pss(sha256ID, mgf1(sha256ID), 32, 2, 1, 1),
	} {
		require.NoError(t, x509ext.CheckSignature(ca.Certificate, identifier, signed, signature), name)
	}
}

// FuzzCheckSignature: never panics; an algorithm identifier that it accepts is
// one of the allow-list to crypto/x509 as well, so that a SHA-1 signature never
// passes.
func FuzzCheckSignature(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(f, err)
	ca, err := testpki.NewRoot(testpki.Options{Key: key})
	require.NoError(f, err)
	signed := []byte("signed")
	sum := sha1.Sum(signed)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA1, sum[:])
	require.NoError(f, err)
	f.Add(unhex(f, "300d06092a864886f70d0101050500"))
	f.Add(unhex(f, "300d06092a864886f70d01010b0500"))
	f.Add(unhex(f, "300d06092a864886f70d01010a3000"))
	f.Fuzz(func(t *testing.T, identifier []byte) {
		require.Error(t, x509ext.CheckSignature(ca.Certificate, identifier, signed, signature))
	})
}
