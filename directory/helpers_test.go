package directory_test

import (
	"context"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

// names are what an AD-style certificate says.
type names struct {
	upns, emails, uris []string
	sid                string // in the extension
	sidDER             []byte // the extension's value; nil: made of sid
	subject            string // common name; empty: "client"
	edit               func(*x509.Certificate)
}

var (
	oidSAN  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
	oidSIDs = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2}
	oidSID  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2, 1}
)

// otherName appends an otherName to GeneralNames.
func otherName(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, tag cbasn1.Tag, value string) {
	context0 := cbasn1.Tag(0).ContextSpecific().Constructed()
	b.AddASN1(context0, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		b.AddASN1(context0, func(b *cryptobyte.Builder) {
			b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
		})
	})
}

func der(t testing.TB, build func(*cryptobyte.Builder)) []byte {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, build)
	out, err := b.Bytes()
	require.NoError(t, err)
	return out
}

func sidExtension(t testing.TB, sid string) []byte {
	return der(t, func(b *cryptobyte.Builder) { otherName(b, oidSID, cbasn1.OCTET_STRING, sid) })
}

// issue issues a certificate with the names, valid from now.
func issue(t testing.TB, ca *mtlstest.CA, n names) *mtlstest.Certificate {
	t.Helper()
	if n.subject == "" {
		n.subject = "client"
	}
	return ca.Issue(mtlstest.Leaf{CommonName: n.subject, NotBefore: time.Now(), Template: func(c *x509.Certificate) {
		san := der(t, func(b *cryptobyte.Builder) {
			for _, upn := range n.upns {
				otherName(b, oidUPN, cbasn1.UTF8String, upn)
			}
			for tag, list := range map[uint8][]string{1: n.emails, 6: n.uris} {
				for _, name := range list {
					b.AddASN1(cbasn1.Tag(tag).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
				}
			}
		})
		if len(san) > 2 {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: san})
		}
		if n.sid != "" {
			n.sidDER = sidExtension(t, n.sid)
		}
		if n.sidDER != nil {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSIDs, Value: n.sidDER})
		}
		if n.edit != nil {
			n.edit(c)
		}
	}})
}

// identity returns what a guard's mapper is given for a certificate.
func identity(t testing.TB, cert *mtlstest.Certificate, more ...func(*mtlstest.Identity)) *mtls.Identity {
	t.Helper()
	i := mtlstest.Identity{Rule: "rule", Certificate: cert}
	for _, f := range more {
		f(&i)
	}
	id, ok := mtls.FromContext(mtlstest.NewRequest(t, "GET", "/", nil, i).Context())
	require.True(t, ok)
	return id
}

// mapped maps a certificate.
func mapped(t testing.TB, m *directory.Mapper, cert *mtlstest.Certificate) (mtls.Account, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	return m.MapAccount(ctx, identity(t, cert))
}

func requireRefused(t testing.TB, err error, contains ...string) {
	t.Helper()
	require.ErrorIs(t, err, mtls.ErrNoAccount)
	require.True(t, strings.HasPrefix(err.Error(), "mtls: directory: no account: "), err.Error())
	for _, c := range contains {
		require.ErrorContains(t, err, c)
	}
}

func requireUnknown(t testing.TB, err error, contains ...string) {
	t.Helper()
	require.Error(t, err)
	require.NotErrorIs(t, err, mtls.ErrNoAccount)
	require.True(t, strings.HasPrefix(err.Error(), "mtls: directory: "), err.Error())
	require.Equal(t, 1, strings.Count(err.Error(), "mtls: "), err.Error())
	for _, c := range contains {
		require.ErrorContains(t, err, c)
	}
}

// The altSecurityIdentities of a certificate, as an administrator would write them.

func windowsName(rdns pkix.RDNSequence) string {
	var parts []string
	for _, rdn := range rdns {
		key := map[string]string{"2.5.4.3": "CN", "2.5.4.10": "O", "0.9.2342.19200300.100.1.25": "DC"}[rdn[0].Type.String()]
		parts = append(parts, key+"="+rdn[0].Value.(string))
	}
	return strings.Join(parts, ",")
}

func nameOf(t testing.TB, raw []byte) string {
	t.Helper()
	var rdns pkix.RDNSequence
	_, err := asn1.Unmarshal(raw, &rdns)
	require.NoError(t, err)
	return windowsName(rdns)
}

// altForms returns the strings by form.
func altForms(t testing.TB, c *x509.Certificate, sid string) map[string]string {
	t.Helper()
	serial := c.SerialNumber.Bytes()
	slices.Reverse(serial)
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	_, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info)
	require.NoError(t, err)
	key, spki := sha1.Sum(info.Key.Bytes), sha1.Sum(c.RawSubjectPublicKeyInfo)
	issuer, subject := nameOf(t, c.RawIssuer), nameOf(t, c.RawSubject)
	return map[string]string{
		"issuer and serial":  "X509:<I>" + issuer + "<SR>" + strings.ToUpper(hex.EncodeToString(serial)),
		"issuer and SID":     "X509:<I>" + issuer + "<SID>" + sid,
		"SKI":                "X509:<SKI>" + hex.EncodeToString(c.SubjectKeyId),
		"key":                "X509:<SHA1-PUKEY>" + hex.EncodeToString(key[:]),
		"key info":           "X509:<SHA1-PUKEY>" + hex.EncodeToString(spki[:]),
		"issuer and subject": "X509:<I>" + issuer + "<S>" + subject,
		"subject":            "X509:<S>" + subject,
		"e-mail":             "X509:<RFC822>carol@ad.test",
	}
}

// given returns a password to a Mapper.
func given(s string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return s, nil }
}

// fileTime writes a time as accountExpires has it.
func fileTime(at time.Time) string {
	return strconv.FormatInt((at.Unix()+11644473600)*1e7+int64(at.Nanosecond()/100), 10)
}
