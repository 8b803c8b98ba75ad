package crl_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/testpki"
)

// list is a CRL in pieces of DER, so that a test can get each of them wrong.
// sound gives one that is accepted.
type list struct {
	version     []byte
	inner       []byte
	outer       []byte
	issuer      []byte
	thisUpdate  []byte
	nextUpdate  []byte
	revoked     []byte   // nil: absent
	extensions  [][]byte // nil: no [0] at all
	afterFields []byte   // inside tbsCertList
	afterTBS    []byte   // inside CertificateList, after the signature
	after       []byte
}

var ecdsaSHA256 = []byte{0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}

func sound(ca *testpki.CA) list {
	return list{
		version:    []byte{2, 1, 1},
		inner:      ecdsaSHA256,
		outer:      ecdsaSHA256,
		issuer:     ca.Certificate.RawSubject,
		thisUpdate: utcTime(testpki.Epoch.Add(-time.Hour)),
		nextUpdate: utcTime(testpki.Epoch.Add(time.Hour)),
		revoked:    tlv(0x30, entry(7)),
		extensions: [][]byte{ext(oidNumber, false, []byte{2, 1, 5}), authorityKey(ca.Certificate.SubjectKeyId)},
	}
}

func (l list) sign(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	tbs := l.tbs()
	signature, err := crypto.SignMessage(key, rand.Reader, tbs, crypto.SHA256)
	require.NoError(t, err)
	der := tlv(0x30, tbs, l.outer, tlv(3, []byte{0}, signature), l.afterTBS)
	return append(der, l.after...)
}

// unsigned is for ParseUnverified.
func (l list) unsigned() []byte { return tlv(0x30, l.tbs(), l.outer, tlv(3, []byte{0})) }

func (l list) tbs() []byte {
	parts := [][]byte{l.version, l.inner, l.issuer, l.thisUpdate, l.nextUpdate, l.revoked}
	if l.extensions != nil {
		parts = append(parts, tlv(0xa0, tlv(0x30, l.extensions...)))
	}
	return tlv(0x30, append(parts, l.afterFields)...)
}

var (
	oidKeyUsage     = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidNumber       = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidReason       = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidity   = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidDelta        = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIDP          = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidCertIssuer   = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidFreshest     = asn1.ObjectIdentifier{2, 5, 29, 46}
	oidUnknown      = asn1.ObjectIdentifier{1, 2, 3, 4}
)

// tlv encodes an element with a content of any length.
func tlv(tag byte, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.Tag(tag), func(b *cryptobyte.Builder) {
		for _, p := range parts {
			b.AddBytes(p)
		}
	})
	return b.BytesOrPanic()
}

func utcTime(t time.Time) []byte     { return tlv(0x17, []byte(t.UTC().Format("060102150405Z"))) }
func generalTime(t time.Time) []byte { return tlv(0x18, []byte(t.UTC().Format("20060102150405Z"))) }

func ext(oid asn1.ObjectIdentifier, critical bool, value []byte) []byte {
	der, err := asn1.Marshal(pkix.Extension{Id: oid, Critical: critical, Value: value})
	if err != nil {
		panic(err)
	}
	return der
}

func authorityKey(id []byte) []byte {
	return ext(oidAuthorityKey, false, tlv(0x30, tlv(0x80, id)))
}

func entry(serial byte, extensions ...[]byte) []byte {
	return rawEntry([]byte{serial}, extensions...)
}

// rawEntry takes the contents of the serial number's INTEGER.
func rawEntry(serial []byte, extensions ...[]byte) []byte {
	var wrapped []byte
	if extensions != nil {
		wrapped = tlv(0x30, extensions...)
	}
	return tlv(0x30, tlv(2, serial), utcTime(testpki.Epoch.Add(-48*time.Hour)), wrapped)
}

func reason(code byte) []byte { return ext(oidReason, false, []byte{0x0a, 1, code}) }

// delta is the deltaCRLIndicator.
func delta(base byte) []byte            { return ext(oidDelta, true, []byte{2, 1, base}) }
func number(n byte) []byte              { return ext(oidNumber, false, []byte{2, 1, n}) }
func freshest(points ...[]byte) []byte  { return ext(oidFreshest, false, tlv(0x30, points...)) }
func certIssuer(names ...[]byte) []byte { return ext(oidCertIssuer, true, tlv(0x30, names...)) }

func directory(name []byte) []byte     { return tlv(0xa4, name) }
func relative(rdn []byte) []byte       { return tlv(0xa0, tlv(0xa1, rdn)) }
func crlIssuer(names ...[]byte) []byte { return tlv(0xa2, names...) }
func pointReasons(bits ...byte) []byte { return tlv(0x81, bits) }
func onlyReasons(bits ...byte) []byte  { return tlv(0x83, bits) }

// attribute is the one AttributeTypeAndValue of an RDN.
func attribute(text string) []byte {
	return tlv(0x30, []byte{6, 3, 0x55, 4, 3}, tlv(0x0c, []byte(text)))
}

// below appends an RDN to the DER of a Name.
func below(name []byte, rdn []byte) []byte {
	in := cryptobyte.String(name)
	var rdns cryptobyte.String
	if !in.ReadASN1(&rdns, cbasn1.SEQUENCE) {
		panic("not a Name")
	}
	return tlv(0x30, rdns, tlv(0x31, rdn))
}

func uri(s string) []byte             { return tlv(0x86, []byte(s)) }
func fullName(names ...[]byte) []byte { return tlv(0xa0, tlv(0xa0, names...)) }
func idp(fields ...[]byte) []byte     { return ext(oidIDP, true, tlv(0x30, fields...)) }
func flag(n byte, value byte) []byte  { return tlv(0x80|n, []byte{value}) }
func points(points ...[]byte) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: tlv(0x30, points...)}
}
func point(fields ...[]byte) []byte { return tlv(0x30, fields...) }
