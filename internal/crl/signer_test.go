package crl_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestSignerWithoutTheRightToSignLists(t *testing.T) {
	withUsage := func(value byte, isCA bool) testpki.Options {
		return testpki.Options{Template: func(c *x509.Certificate) {
			c.KeyUsage, c.IsCA = 0, isCA
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
				Id: oidKeyUsage, Critical: true, Value: []byte{3, 2, 1, value},
			})
		}}
	}
	without := func(basicConstraints, isCA bool) testpki.Options {
		return testpki.Options{Template: func(c *x509.Certificate) {
			c.KeyUsage, c.BasicConstraintsValid, c.IsCA = 0, basicConstraints, isCA
		}}
	}
	for _, test := range []struct {
		name    string
		options testpki.Options
		ok      bool
	}{
		{"CA, key usage absent", without(true, true), true},
		{"CA, cRLSign", testpki.Options{KeyUsage: x509.KeyUsageCRLSign}, true},
		{"CA, certSign only", testpki.Options{KeyUsage: x509.KeyUsageCertSign}, false},
		{"CA, key usage present and empty", withUsage(0, true), false},
		{"not a CA, key usage absent", without(true, false), false},
		{"no basic constraints, key usage absent", without(false, false), false},
		{"not a CA, cRLSign", withUsage(2, false), true},
		{"not a CA, digitalSignature only", withUsage(0x80, false), false},
		{"not a CA, key usage present and empty", withUsage(0, false), false},
		{"no basic constraints, cRLSign", testpki.Options{Template: func(c *x509.Certificate) {
			c.KeyUsage, c.BasicConstraintsValid, c.IsCA = x509.KeyUsageCRLSign, false, false
		}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca := newCA(t, test.options)
			l, err := crl.ParseAndVerify(sound(ca).sign(t, ca.Key), ca.Certificate)
			if test.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, crl.ErrIssuer)
			require.Nil(t, l)
		})
	}
}

// A CA may have lists signed with another key under its own name, certified for
// nothing else; they speak for its certificates, and are not the CA's own.
func TestSeparateSigner(t *testing.T) {
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	signer, err := ca.Issue(testpki.Options{CommonName: "Acme CA", Template: func(c *x509.Certificate) {
		c.RawSubject, c.KeyUsage, c.SubjectKeyId = ca.Certificate.RawSubject, x509.KeyUsageCRLSign, []byte("lists")
	}})
	require.NoError(t, err)
	l := sound(ca)
	l.extensions = [][]byte{authorityKey([]byte("lists")), number(5)}
	der := l.sign(t, signer.Key)
	_, err = crl.ParseAndVerify(der, ca.Certificate)
	require.ErrorContains(t, err, "signature does not verify")
	parsed, err := crl.ParseAndVerify(der, signer.Certificate)
	require.NoError(t, err)
	require.True(t, parsed.SignedBy(signer.Certificate))
	require.False(t, parsed.SignedBy(ca.Certificate), "another key")
	requireCovers(t, parsed, issue(t, ca, testpki.Options{}))

	l.extensions = [][]byte{authorityKey(ca.Certificate.SubjectKeyId), number(5)}
	_, err = crl.ParseAndVerify(l.sign(t, signer.Key), signer.Certificate)
	require.ErrorIs(t, err, crl.ErrIssuer, "the authority key identifier is that of another key")
}
