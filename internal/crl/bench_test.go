package crl_test

import (
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

const (
	massive = 1_000_000
	seed    = 7
)

// BenchmarkMassive measures a list of a million entries, side by side with
// crypto/x509 over the same octets, which does not even verify the signature. "x"
// is how many times as fast as crypto/x509 it was in this run; that depends on
// the processors, of which the garbage collector wants more than one for the
// three million pieces that crypto/x509 makes of the list.
func BenchmarkMassive(b *testing.B) {
	ca := newCA(b, testpki.Options{})
	der, err := ca.MassiveCRL(massive, seed)
	require.NoError(b, err)
	cert := &x509.Certificate{RawIssuer: ca.Certificate.RawSubject}

	b.Run("sha256", func(b *testing.B) {
		b.SetBytes(int64(len(der)))
		for b.Loop() {
			sha256.Sum256(der)
		}
	})
	var standard time.Duration
	b.Run("x509.ParseRevocationList", func(b *testing.B) {
		b.SetBytes(int64(len(der)))
		b.ReportAllocs()
		runtime.GC()
		for b.Loop() {
			_, err := x509.ParseRevocationList(der)
			require.NoError(b, err)
		}
		standard = b.Elapsed() / time.Duration(b.N)
		b.ReportMetric(retained(func() any { l, _ := x509.ParseRevocationList(der); return l }), "kept-B")
	})
	b.Run("crl.ParseAndVerify", func(b *testing.B) {
		b.SetBytes(int64(len(der)))
		b.ReportAllocs()
		runtime.GC() // what crypto/x509 has left is not ours to clear up
		for b.Loop() {
			_, err := crl.ParseAndVerify(der, ca.Certificate)
			require.NoError(b, err)
		}
		b.ReportMetric(float64(standard)*float64(b.N)/float64(b.Elapsed()), "x")
		b.ReportMetric(retained(func() any { l, _ := crl.ParseAndVerify(der, ca.Certificate); return l }), "kept-B")
	})

	l, err := crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(b, err)
	// So many that they do not stay in the processor's caches, but each at hand,
	// so that only the look-up is measured.
	for _, test := range []struct {
		name string
		seed uint64
	}{{"hit", seed}, {"miss", seed + 1}} {
		var words []big.Word
		for i := range 1 << 18 {
			words = append(words, testpki.MassiveSerial(test.seed, 3*i).Bits()...)
		}
		size := len(words) >> 18 // of a serial number
		cert.SerialNumber = new(big.Int)
		b.Run("lookup/"+test.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				cert.SerialNumber.SetBits(words[i : i+size])
				if _, ok := l.Lookup(cert); ok != (test.seed == seed) {
					b.Fatal(i)
				}
				i = (i + size) % len(words)
			}
		})
	}
}
