package directory_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestCertificatesThatAreNotAsked: what cannot be read for sure is refused before the
// directory is asked.
func TestCertificatesThatAreNotAsked(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	cfg := d.config()
	cfg.MinStrength = directory.Weak
	m := newAD(t, cfg)
	sid := textSID(1000)
	const uri = "tag:microsoft.com,2022-09-14:sid:"
	context0 := cbasn1.Tag(0).ContextSpecific().Constructed()
	for _, row := range []struct {
		name string
		n    names
		why  string
	}{
		{"a UPN that is not UTF-8", names{upns: []string{"\xff@fake.test"}, sid: sid}, "cannot be read"},
		{"a UPN with a wildcard", names{upns: []string{"*@fake.test"}, sid: sid}, "is none"},
		{"a UPN with a blank", names{upns: []string{" alice@fake.test"}, sid: sid}, "is none"},
		{"a UPN with NUL", names{upns: []string{"alice@fake.test\x00"}, sid: sid}, "is none"},
		{"an empty UPN", names{upns: []string{""}, sid: sid}, "is none"},
		{"five UPNs", names{upns: []string{"a@b", "c@d", "e@f", "g@h", "i@j"}, sid: sid}, "more than 4"},
		{"five e-mail addresses", names{emails: []string{"a@b", "c@d", "e@f", "g@h", "i@j"}, sid: sid}, "more than 4"},
		{"an e-mail address with a filter", names{emails: []string{"a)(b=*@c"}, sid: sid}, "is not a dot-atom"},
		{"two SIDs", names{uris: []string{uri + sid, uri + textSID(1001)}}, "two SIDs"},
		{"two SIDs, one in an extension", names{uris: []string{strings.ToUpper(uri) + textSID(1001)}, sid: sid}, "two SIDs"},
		{"a SID in capitals", names{uris: []string{strings.ToUpper(uri) + "S-1-5-X"}}, "cannot be read"},
		{"a SID of another kind", names{sid: "S-2-5-21-1"}, "cannot be read"},
		{"half a SID", names{uris: []string{uri}}, "cannot be read"},
		{"an extension of two names", names{sidDER: der(t, func(b *cryptobyte.Builder) {
			otherName(b, oidSID, cbasn1.OCTET_STRING, sid)
			otherName(b, oidSID, cbasn1.OCTET_STRING, sid)
		})}, "SID extension cannot be read"},
		{"an extension of another name", names{sidDER: der(t, func(b *cryptobyte.Builder) { otherName(b, oidUPN, cbasn1.OCTET_STRING, sid) })}, "SID extension cannot be read"},
		{"an extension of another type", names{sidDER: der(t, func(b *cryptobyte.Builder) { otherName(b, oidSID, cbasn1.UTF8String, sid) })}, "SID extension cannot be read"},
		{"an extension with something behind", names{sidDER: append(sidExtension(t, sid), 5, 0)}, "SID extension cannot be read"},
		{"an extension with something within", names{sidDER: der(t, func(b *cryptobyte.Builder) {
			b.AddASN1(context0, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidSID)
				b.AddASN1(context0, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte(sid)) })
					b.AddASN1NULL()
				})
			})
		})}, "SID extension cannot be read"},
		{"an extension with something after the value", names{sidDER: der(t, func(b *cryptobyte.Builder) {
			b.AddASN1(context0, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidSID)
				b.AddASN1(context0, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte(sid)) })
				})
				b.AddASN1NULL()
			})
		})}, "SID extension cannot be read"},
		{"an empty extension", names{sidDER: []byte{}}, "SID extension cannot be read"},
		{"a name without end", names{sid: sid, edit: func(c *x509.Certificate) {
			for range 40 {
				c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 11}, Value: strings.Repeat("x", 500)})
			}
		}}, "too long"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := mapped(t, m, issue(t, d.ca, row.n))
			requireRefused(t, err, row.why)
		})
	}
	require.Empty(t, d.asked)
}

// TestStrengths: each form by itself, as an account has it.
func TestStrengths(t *testing.T) {
	t.Parallel()
	strong := []string{"issuer and serial", "SKI", "key", "key info"}
	weak := []string{"issuer and subject", "subject", "e-mail"}
	for _, form := range slices.Concat(strong, weak, []string{"UPN", "nothing"}) {
		t.Run(form, func(t *testing.T) {
			d := newFakeAD(t)
			n := names{emails: []string{"carol@ad.test"}, edit: func(c *x509.Certificate) { c.SubjectKeyId = []byte{7, 7} }}
			if form == "UPN" {
				n.upns = []string{"alice@fake.test"}
			}
			cert := issue(t, d.ca, n)
			d.hits[0].values["altSecurityIdentities"] = []string{"X509:<SKI>00", altForms(t, cert.Leaf(), "")[form]}
			cfg := d.config()
			_, err := mapped(t, newAD(t, cfg), cert)
			switch {
			case slices.Contains(strong, form):
				require.NoError(t, err)
			case form == "nothing":
				requireRefused(t, err, "nothing of it is exactly as in the certificate")
			default:
				requireRefused(t, err, "maps weakly only")
			}
			cfg.MinStrength = directory.Weak
			_, err = mapped(t, newAD(t, cfg), cert)
			require.Equal(t, form == "nothing", err != nil, "%v", err)
		})
	}
	t.Run("a serial number is of its issuer", func(t *testing.T) {
		d := newFakeAD(t)
		cert := issue(t, d.ca, names{})
		text := altForms(t, cert.Leaf(), "")["issuer and serial"]
		d.hits[0].values["altSecurityIdentities"] = []string{strings.Replace(text, "fake CA", "other CA", 1)}
		_, err := mapped(t, newAD(t, d.config()), cert)
		requireRefused(t, err, "nothing of it")
	})
	t.Run("two SIDs of an entry", func(t *testing.T) {
		d := newFakeAD(t)
		d.hits[0].values["objectSid"] = []string{binarySID(1000), binarySID(1001)}
		_, err := mapped(t, newAD(t, d.config()), d.alice(t))
		requireUnknown(t, err, "objectSid")
	})
}

// TestAnswersAreOfTheirIssuer: what is known of a certificate says nothing of another
// CA's that has the same names, number and key, nor of an older one.
func TestAnswersAreOfTheirIssuer(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	create := func(ca *mtlstest.CA, sid string, notBefore time.Time) *mtlstest.Certificate {
		var value []byte
		if sid != "" {
			value = sidExtension(t, sid)
		}
		return ca.Issue(mtlstest.Leaf{CommonName: "client", Key: key, NotBefore: notBefore, Template: func(c *x509.Certificate) {
			c.SerialNumber = big.NewInt(42)
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSAN, Value: der(t, func(b *cryptobyte.Builder) { otherName(b, oidUPN, cbasn1.UTF8String, "alice@fake.test") })})
			if value != nil {
				c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oidSIDs, Value: value})
			}
		}})
	}
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "fake CA"})
	m := newAD(t, d.config())
	ours, theirs := create(d.ca, textSID(1000), time.Now()), create(stranger, textSID(1000), time.Now())
	filter := func(c *mtlstest.Certificate, ca *mtlstest.CA) string {
		f, _, err := directory.FilterOf(c.Leaf(), ca.Certificate())
		require.NoError(t, err)
		return f
	}
	require.Equal(t, filter(ours, d.ca), filter(theirs, stranger))
	_, err = mapped(t, m, ours)
	require.NoError(t, err)
	_, err = mapped(t, m, theirs)
	requireRefused(t, err, "NTAuth")

	cfg := d.config()
	cfg.MinStrength = directory.Weak
	m = newAD(t, cfg)
	_, err = mapped(t, m, create(d.ca, "", time.Now()))
	require.NoError(t, err)
	_, err = mapped(t, m, create(d.ca, "", time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)))
	requireRefused(t, err, "younger")
}
