package testpki_test

import (
	"crypto/x509"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestMassiveCRLIsWhatCryptoX509Reads(t *testing.T) {
	ca, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	for _, n := range []int{0, 1, 1001} {
		der, err := ca.MassiveCRL(n, 7)
		require.NoError(t, err)
		l, err := x509.ParseRevocationList(der)
		require.NoError(t, err)
		require.NoError(t, l.CheckSignatureFrom(ca.Certificate))
		require.Equal(t, ca.Certificate.SubjectKeyId, l.AuthorityKeyId)
		require.True(t, l.ThisUpdate.Before(testpki.Epoch) && l.NextUpdate.After(testpki.Epoch))
		require.Len(t, l.RevokedCertificateEntries, n)
		for i, e := range l.RevokedCertificateEntries {
			require.Zero(t, e.SerialNumber.Cmp(testpki.MassiveSerial(7, i)), i)
			require.Len(t, e.SerialNumber.Bytes(), 16)
			require.Equal(t, i%5 == 0, e.ReasonCode != 0, i)
		}
	}
	require.NotEqual(t, testpki.MassiveSerial(7, 1), testpki.MassiveSerial(8, 1))
	_, err = ca.MassiveCRL(-1, 7)
	require.Error(t, err)
}

func TestMassiveCRLTakes38OctetsAnEntry(t *testing.T) {
	ca, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	der, err := ca.MassiveCRL(100_000, 7)
	require.NoError(t, err)
	require.InEpsilon(t, 3_780_000, len(der), 0.001)
}
