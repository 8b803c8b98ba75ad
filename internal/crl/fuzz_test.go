package crl_test

import (
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// FuzzParse: never panics; what it accepts crypto/x509 accepts too (but for a
// Name that it cannot print) and agrees on the times, the number, the key
// identifier and every entry.
func FuzzParse(f *testing.F) {
	ca := newCA(f, testpki.Options{})
	l := sound(ca)
	f.Add(l.sign(f, ca.Key))
	l.revoked = tlv(0x30, entry(7, reason(1)), entry(0xfe), rawEntry([]byte{0, 0xfe}), entry(7))
	l.extensions = append(l.extensions, idp(fullName(uri("http://a")), flag(1, 0xff)))
	f.Add(l.sign(f, ca.Key))
	f.Fuzz(func(t *testing.T, der []byte) {
		l, err := crl.ParseUnverified(der)
		if err != nil {
			return
		}
		if _, err := x509.ParseRevocationList(der); err != nil {
			require.ErrorContains(t, err, "RDNSequence")
			return
		}
		if l.Number == nil {
			return
		}
		requireSameEntries(t, der, l)
		cert := &x509.Certificate{RawIssuer: l.RawIssuer}
		_ = l.Covers(cert)
	})
}

func BenchmarkParseAndVerify(b *testing.B) {
	ca := newCA(b, testpki.Options{})
	l := sound(ca)
	var entries []byte
	for i := range 100_000 {
		entries = append(entries, rawEntry([]byte{0x40, byte(i >> 16), byte(i >> 8), byte(i), 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, byte(i * 7)}, reason(4))...)
	}
	l.revoked = tlv(0x30, entries)
	der := l.sign(b, ca.Key)
	b.SetBytes(int64(len(der)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := crl.ParseAndVerify(der, ca.Certificate); err != nil {
			b.Fatal(err)
		}
	}
}
