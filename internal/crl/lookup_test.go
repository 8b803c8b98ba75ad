package crl_test

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestLookup(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	l := sound(ca)
	l.revoked = tlv(0x30,
		rawEntry([]byte{0x00, 0xff}, reason(6)),
		rawEntry([]byte{0xfd, 0x78, 0xa8, 0x4e}), // the CA meant 0xfd78a84e
		rawEntry([]byte{5}, reason(1)),
		rawEntry([]byte{5}, reason(4)),
		rawEntry([]byte{0}),
		rawEntry([]byte{1, 0}, reason(0)),
		rawEntry([]byte{1}),
	)
	parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	require.Equal(t, 7, parsed.Len())
	date := testpki.Epoch.Add(-48 * time.Hour)
	for _, test := range []struct {
		name   string
		serial int64
		want   *crl.Entry
	}{
		{"certificateHold is revoked", 0xff, &crl.Entry{Reason: 6, HasReason: true, Date: date}},
		{"written as a negative number", 0xfd78a84e, &crl.Entry{Date: date}},
		{"twice: the first counts", 5, &crl.Entry{Reason: 1, HasReason: true, Date: date}},
		{"zero", 0, &crl.Entry{Date: date}},
		{"two octets, unspecified", 256, &crl.Entry{HasReason: true, Date: date}},
		{"one octet", 1, &crl.Entry{Date: date}},
		{"a prefix", 0xfd78, nil},
		{"absent", 2, nil},
		{"above all", 1 << 40, nil},
		{"negative", -5, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			cert := numbered(ca, test.serial)
			got, ok := parsed.Lookup(cert)
			require.Equal(t, test.want != nil, ok)
			require.Zero(t, testing.AllocsPerRun(10, func() { parsed.Lookup(cert) }))
			if ok {
				require.Equal(t, *test.want, got)
			}
		})
	}
}

// Every entry of a large list in random order is found, and nothing else.
func TestLookupAgreesWithCryptoX509(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	var entries []x509.RevocationListEntry
	for i := range 2000 {
		b := make([]byte, 1+i%20)
		rand.Read(b)
		b[0] |= 1
		entries = append(entries, x509.RevocationListEntry{
			SerialNumber: new(big.Int).SetBytes(b), RevocationTime: testpki.Epoch.Add(-time.Duration(i) * time.Hour), ReasonCode: i % 7,
		})
	}
	der, err := ca.CRL(testpki.CRLOptions{Entries: entries})
	require.NoError(t, err)
	l, err := crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
	requireSameEntries(t, der, l)
	absent := new(big.Int).Lsh(big.NewInt(1), 200)
	_, ok := l.Lookup(&x509.Certificate{RawIssuer: l.RawIssuer, SerialNumber: absent})
	require.False(t, ok)
}

// requireSameEntries compares with what crypto/x509 makes of the list.
func requireSameEntries(t *testing.T, der []byte, l *crl.List) {
	t.Helper()
	want, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	require.True(t, want.ThisUpdate.Equal(l.ThisUpdate))
	require.True(t, want.NextUpdate.Equal(l.NextUpdate))
	require.Equal(t, want.RawIssuer, l.RawIssuer)
	require.Equal(t, want.AuthorityKeyId, l.AuthorityKeyID)
	require.Zero(t, want.Number.Cmp(l.Number))
	require.Len(t, want.RevokedCertificateEntries, l.Len())
	type id struct{ issuer, serial string }
	counts := map[id]x509.RevocationListEntry{}
	issuer := l.RawIssuer
	for _, e := range want.RevokedCertificateEntries {
		for _, x := range e.Extensions {
			if x.Id.Equal(oidCertIssuer) {
				issuer = onlyDirectoryName(t, x.Value)
			}
		}
		// A negative number shares its place with the positive one of the same
		// octets. The first of the worst of several entries counts.
		serial := new(big.Int).Set(e.SerialNumber)
		if serial.Sign() < 0 {
			octets := new(big.Int).Not(serial).BitLen()/8 + 1
			serial.Add(serial, new(big.Int).Lsh(big.NewInt(1), uint(8*octets)))
		}
		at := id{string(issuer), serial.String()}
		if first, ok := counts[at]; !ok || harm(e.ReasonCode) > harm(first.ReasonCode) {
			counts[at] = e
		}
		_, ok := l.Lookup(&x509.Certificate{RawIssuer: issuer, SerialNumber: e.SerialNumber})
		require.True(t, ok, e.SerialNumber)
	}
	for at, e := range counts {
		serial, _ := new(big.Int).SetString(at.serial, 10)
		got, ok := l.Lookup(&x509.Certificate{RawIssuer: []byte(at.issuer), SerialNumber: serial})
		require.True(t, ok, serial)
		require.True(t, got.Date.Equal(e.RevocationTime), serial)
		require.Equal(t, e.ReasonCode, got.Reason)
	}
}

// onlyDirectoryName reads the value of a certificateIssuer.
func onlyDirectoryName(t *testing.T, value cryptobyte.String) []byte {
	t.Helper()
	var names, name, inner cryptobyte.String
	require.True(t, value.ReadASN1(&names, cbasn1.SEQUENCE) && names.ReadASN1(&name, cbasn1.Tag(4).ContextSpecific().Constructed()) &&
		name.ReadASN1Element(&inner, cbasn1.SEQUENCE) && names.Empty() && name.Empty())
	return inner
}
