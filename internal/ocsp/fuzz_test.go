package ocsp_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// FuzzParse: never panics; a response with one answer and no certificate that
// it accepts golang.org/x/crypto/ocsp accepts too, and agrees on the fields.
func FuzzParse(f *testing.F) {
	ca, cert := world(f)
	r := sound(ca, cert)
	f.Add(r.sign(f, ca.Key))
	r.singles = [][]byte{single(ca, big.NewInt(5), revoked, thisUpdate(0), extensions(false))}
	r.responder, r.version, r.extensions = byKey(ca.Certificate), tlv(0xa0, []byte{2, 1, 0}), extensions(false)
	f.Add(r.sign(f, ca.Key))
	r.certs = []*x509.Certificate{ca.Certificate}
	f.Add(r.sign(f, ca.Key))
	f.Add([]byte{0x30, 3, 10, 1, 6})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := ocsp.Parse(der)
		if err != nil || got.Singles != 1 {
			return
		}
		want, err := xocsp.ParseResponse(der, nil)
		if err != nil || want.Certificate != nil {
			return // signatures of embedded certificates, algorithms and serial numbers are judged there
		}
		require.Zero(t, want.SerialNumber.Cmp(got.Serial))
		require.Equal(t, map[int]ocsp.Status{xocsp.Good: ocsp.Good, xocsp.Revoked: ocsp.Revoked, xocsp.Unknown: ocsp.Unknown}[want.Status], got.Status)
		require.True(t, want.ThisUpdate.Equal(got.ThisUpdate))
		require.True(t, want.NextUpdate.Equal(got.NextUpdate))
		require.True(t, want.ProducedAt.Equal(got.ProducedAt))
		require.Equal(t, want.TBSResponseData, got.Signed)
		require.Equal(t, want.Signature, got.Signature)
	})
}

// FuzzVerify: never panics, and nothing but the response that was signed yields
// an answer.
func FuzzVerify(f *testing.F) {
	ca, cert := world(f)
	der := sound(ca, cert).sign(f, ca.Key)
	want, err := ocsp.Parse(der)
	require.NoError(f, err)
	by := responder(f, ca, testpki.Options{})
	f.Add(der)
	f.Add(sound(ca, cert).sign(f, by.Key))
	f.Fuzz(func(t *testing.T, der []byte) {
		if _, err := ocsp.Verify(der, cert, ca.Certificate, testpki.Epoch, time.Minute); err != nil {
			return
		}
		got, err := ocsp.Parse(der)
		require.NoError(t, err)
		require.Equal(t, want.Signed, got.Signed)
	})
}

// FuzzSigned: never panics, whatever the CA has signed; what Verify accepts
// golang.org/x/crypto/ocsp accepts too and agrees on status, serial number and
// times; and a nonce is one that was signed.
func FuzzSigned(f *testing.F) {
	ca, cert := world(f)
	twice := append(single(ca, cert.SerialNumber, good), single(ca, cert.SerialNumber, revoked)...)
	sha256ID := certIDWith(crypto.SHA256, ca.Certificate, cert.SerialNumber)
	f.Add(thisUpdate(0), single(ca, cert.SerialNumber, good), []byte{})
	f.Add(thisUpdate(0), single(ca, cert.SerialNumber, revoked), extensions(false))
	f.Add(thisUpdate(0), single(ca, cert.SerialNumber, unknown, thisUpdate(0)), extensionList(nonce(true, tlv(4, []byte("nonce")))))
	f.Add(thisUpdate(0), rawSingle(sha256ID, good, thisUpdate(0), nextUpdate(time.Hour), extensions(false)), extensionList(nonce(false, tlv(4, []byte("n")))))
	f.Add(thisUpdate(0), twice, []byte{})
	f.Fuzz(func(t *testing.T, producedAt, singles, list []byte) {
		r := sound(ca, cert)
		r.producedAt, r.singles, r.extensions = producedAt, [][]byte{singles}, list
		der := r.sign(t, ca.Key)
		got, err := verify(der, cert, ca)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(got.Nonce), ocsp.MaxNonce)
		parsed, err := ocsp.Parse(der)
		require.NoError(t, err)
		require.True(t, got.Nonce == "" || bytes.Contains(parsed.Signed, tlv(4, tlv(4, []byte(got.Nonce)))))
		if parsed.Singles != 1 || got.Reason != int(int32(got.Reason)) {
			return // refused there; here the worst answer counts, and a revocation for whichever reason
		}
		want, err := xocsp.ParseResponse(der, ca.Certificate)
		require.NoError(t, err)
		require.Zero(t, want.SerialNumber.Cmp(cert.SerialNumber))
		require.Equal(t, map[int]ocsp.Status{xocsp.Good: ocsp.Good, xocsp.Revoked: ocsp.Revoked, xocsp.Unknown: ocsp.Unknown}[want.Status], got.Status)
		require.True(t, want.ProducedAt.Equal(got.ProducedAt))
		require.True(t, want.ThisUpdate.Equal(got.ThisUpdate))
		require.True(t, want.NextUpdate.Equal(got.NextUpdate))
		require.True(t, want.RevokedAt.Equal(got.RevokedAt))
		require.Equal(t, want.RevocationReason, got.Reason)
	})
}
