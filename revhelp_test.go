package mtls_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// rvPKI is a CA of a test's own, for lists that a RevocationServer does not make.
type rvPKI struct {
	*mtlstest.CA
	key   crypto.Signer
	clock *mtlstest.Clock
	count int64
}

func rvCA(t testing.TB, clock *mtlstest.Clock) *rvPKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &rvPKI{CA: mtlstest.NewCA(t, mtlstest.CAOptions{Now: clock.Now, Key: key}), key: key, clock: clock}
}

// crl signs a list of a minute ago, with the certificates on it.
func (ca *rvPKI) crl(t testing.TB, extra []pkix.Extension, revoked ...*mtlstest.Certificate) []byte {
	t.Helper()
	ca.count++
	o := testpki.CRLOptions{Number: big.NewInt(ca.clock.Now().Unix()*1000 + ca.count), Extra: extra,
		ThisUpdate: ca.clock.Now().Add(-time.Minute + time.Duration(ca.count)*time.Second), NextUpdate: ca.clock.Now().Add(24 * time.Hour)}
	for _, c := range revoked {
		o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: c.Leaf().SerialNumber, RevocationTime: ca.clock.Now().Add(-time.Hour)})
	}
	der, err := (&testpki.CA{Certificate: ca.Certificate(), Key: ca.key}).CRL(o)
	require.NoError(t, err)
	return der
}

// rename replaces a file as an operator should.
func rvRename(t testing.TB, path string, data []byte) {
	t.Helper()
	temp := filepath.Join(filepath.Dir(path), ".new")
	require.NoError(t, os.WriteFile(temp, data, 0o600))
	require.NoError(t, os.Rename(temp, path))
}

func rvPEM(ders ...[]byte) (data []byte) {
	for _, der := range ders {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
	}
	return data
}

// at makes the certificate name lists at URLs.
func rvAt(urls ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.CRLDistributionPoints, c.OCSPServer = urls, nil }
}
