package ocsp_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

const skew = 5 * time.Minute

func newCA(t testing.TB, o testpki.Options) *testpki.CA {
	t.Helper()
	ca, err := testpki.NewRoot(o)
	require.NoError(t, err)
	return ca
}

func issue(t testing.TB, ca *testpki.CA, o testpki.Options) *testpki.Leaf {
	t.Helper()
	leaf, err := ca.Issue(o)
	require.NoError(t, err)
	return leaf
}

// world is a CA and a certificate of it.
func world(t testing.TB) (*testpki.CA, *x509.Certificate) {
	t.Helper()
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	return ca, issue(t, ca, testpki.Options{}).Certificate
}

func verify(der []byte, cert *x509.Certificate, ca *testpki.CA) (*ocsp.Answer, error) {
	return ocsp.Verify(der, cert, ca.Certificate, testpki.Epoch, skew)
}

// responder is a delegated responder's certificate; o overrides what is sound.
func responder(t testing.TB, ca *testpki.CA, o testpki.Options) *testpki.Leaf {
	t.Helper()
	if o.ExtKeyUsage == nil {
		o.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}
	if o.CommonName == "" {
		o.CommonName = "Acme OCSP"
	}
	return issue(t, ca, o)
}

// delegated is the sound response of a delegated responder.
func delegated(t testing.TB, ca *testpki.CA, cert *x509.Certificate, by *testpki.Leaf) []byte {
	t.Helper()
	r := sound(ca, cert)
	r.responder, r.certs = byName(by.Certificate), []*x509.Certificate{by.Certificate}
	return r.sign(t, by.Key)
}

func TestSoundResponse(t *testing.T) {
	ca, cert := world(t)
	a, err := verify(sound(ca, cert).sign(t, ca.Key), cert, ca)
	require.NoError(t, err)
	require.Equal(t, &ocsp.Answer{
		Status: ocsp.Good, ThisUpdate: testpki.Epoch.Add(-time.Hour), NextUpdate: testpki.Epoch.Add(time.Hour), ProducedAt: testpki.Epoch.Add(-time.Hour),
	}, a)
	require.NoError(t, a.CheckTime(testpki.Epoch, skew, time.Hour))
}

func TestStatuses(t *testing.T) {
	ca, cert := world(t)
	for _, test := range []struct {
		status int
		want   ocsp.Status
		reason int
	}{
		{xocsp.Good, ocsp.Good, 0}, {xocsp.Unknown, ocsp.Unknown, 0}, {xocsp.Revoked, ocsp.Revoked, 0},
		{xocsp.Revoked, ocsp.Revoked, xocsp.KeyCompromise}, {xocsp.Revoked, ocsp.Revoked, xocsp.CertificateHold},
	} {
		t.Run(fmt.Sprint(test.want, test.reason), func(t *testing.T) {
			der, err := ca.OCSP(testpki.OCSPOptions{Status: test.status, Serial: cert.SerialNumber, Reason: test.reason})
			require.NoError(t, err)
			a, err := verify(der, cert, ca)
			require.NoError(t, err)
			require.Equal(t, test.want, a.Status)
			require.Equal(t, test.reason, a.Reason)
			require.Equal(t, test.reason != 0, a.HasReason)
			require.Equal(t, test.want != ocsp.Revoked, a.RevokedAt.IsZero())
		})
	}
	require.Equal(t, ocsp.Unknown, new(ocsp.Answer).Status)
	require.Error(t, new(ocsp.Answer).CheckTime(testpki.Epoch, skew, time.Hour))
	require.Equal(t, []string{"unknown", "good", "revoked", "unknown"},
		[]string{ocsp.Unknown.String(), ocsp.Good.String(), ocsp.Revoked.String(), ocsp.Status(9).String()})
}

// A response counts only if it is verified in full and fresh (CVE-2026-24734).
func TestThreat35_OCSPNotVerifiedNorFresh(t *testing.T) {
	ca, cert := world(t)
	der := sound(ca, cert).sign(t, ca.Key)
	t.Run("every flipped bit", func(t *testing.T) {
		for i := range der {
			forged := append([]byte{}, der...)
			forged[i] ^= 1
			_, err := verify(forged, cert, ca)
			require.Error(t, err, i)
		}
	})
	t.Run("signed by another key", func(t *testing.T) {
		other := newCA(t, testpki.Options{CommonName: "Acme CA"})
		_, err := verify(sound(ca, cert).sign(t, other.Key), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
	})
	t.Run("signed with SHA-1", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		rsaCA := newCA(t, testpki.Options{Key: key})
		c := issue(t, rsaCA, testpki.Options{}).Certificate
		r := sound(rsaCA, c)
		r.algorithm, r.options = rsaSHA1, crypto.SHA1
		_, err = verify(r.sign(t, key), c, rsaCA)
		require.ErrorIs(t, err, x509ext.ErrAlgorithm)
	})
	for _, test := range []struct {
		name       string
		rest       [][]byte
		producedAt time.Duration
		now        time.Duration
		want       error
	}{
		{"fresh", [][]byte{thisUpdate(-time.Hour), nextUpdate(time.Hour)}, -time.Hour, 0, nil},
		{"at nextUpdate", [][]byte{thisUpdate(-time.Hour), nextUpdate(time.Hour)}, 0, time.Hour, nil},
		{"past nextUpdate, which has no skew", [][]byte{thisUpdate(-time.Hour), nextUpdate(time.Hour)}, 0, time.Hour + time.Second, ocsp.ErrExpired},
		{"thisUpdate within the skew", [][]byte{thisUpdate(skew), nextUpdate(time.Hour)}, 0, 0, nil},
		{"thisUpdate in the future", [][]byte{thisUpdate(skew + time.Second), nextUpdate(time.Hour)}, 0, 0, ocsp.ErrFuture},
		{"producedAt in the future", [][]byte{thisUpdate(0), nextUpdate(time.Hour)}, skew + time.Second, 0, ocsp.ErrFuture},
		{"nextUpdate before thisUpdate", [][]byte{thisUpdate(time.Minute), nextUpdate(0)}, 0, 0, ocsp.ErrMalformed},
		{"no nextUpdate, young", [][]byte{thisUpdate(-time.Hour)}, 0, 0, nil},
		{"no nextUpdate, old", [][]byte{thisUpdate(-time.Hour - time.Second)}, 0, 0, ocsp.ErrExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := sound(ca, cert)
			r.producedAt = thisUpdate(test.producedAt)
			r.singles = [][]byte{single(ca, cert.SerialNumber, good, test.rest...)}
			a, err := verify(r.sign(t, ca.Key), cert, ca)
			require.NoError(t, err)
			require.ErrorIs(t, a.CheckTime(testpki.Epoch.Add(test.now), skew, time.Hour), test.want)
		})
	}
}

// A response for another CA with the same serial number says nothing
// (golang/go#81396).
func TestThreat46_SerialOfAnotherCA(t *testing.T) {
	ca, cert := world(t)
	twin := newCA(t, testpki.Options{CommonName: "Acme CA"})                   // same name, another key
	renamed := newCA(t, testpki.Options{CommonName: "Acme CA 2", Key: ca.Key}) // same key, another name
	other := new(big.Int).Add(cert.SerialNumber, big.NewInt(1))
	for name, s := range map[string][]byte{
		"issuerKeyHash":   single(twin, cert.SerialNumber, good),
		"issuerNameHash":  single(renamed, cert.SerialNumber, good),
		"serialNumber":    single(ca, other, good),
		"negative serial": single(ca, new(big.Int).Neg(cert.SerialNumber), good),
		"unknown hash": rawSingle(rawCertID([]byte{0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 2, 5}, keyHash(ca.Certificate), keyHash(ca.Certificate),
			cert.SerialNumber), good, thisUpdate(0), nextUpdate(time.Hour)),
		"empty hashes": rawSingle(rawCertID([]byte{0x30, 7, 6, 5, 0x2b, 14, 3, 2, 26}, nil, nil, cert.SerialNumber), good, thisUpdate(0), nextUpdate(time.Hour)),
	} {
		t.Run(name, func(t *testing.T) {
			r := sound(ca, cert)
			r.singles = [][]byte{s}
			_, err := verify(r.sign(t, ca.Key), cert, ca)
			require.ErrorIs(t, err, ocsp.ErrNoAnswer)
		})
	}
	t.Run("no answer at all", func(t *testing.T) {
		r := sound(ca, cert)
		r.singles = nil
		_, err := verify(r.sign(t, ca.Key), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrNoAnswer)
	})
	t.Run("the CA that answers is not the issuer", func(t *testing.T) {
		stranger := newCA(t, testpki.Options{CommonName: "Stranger"})
		_, err := ocsp.Verify(sound(stranger, cert).sign(t, stranger.Key), cert, stranger.Certificate, testpki.Epoch, skew)
		require.ErrorIs(t, err, ocsp.ErrNoAnswer)
	})
	t.Run("missing certificates", func(t *testing.T) {
		_, err := ocsp.Verify(sound(ca, cert).sign(t, ca.Key), nil, ca.Certificate, testpki.Epoch, skew)
		require.Error(t, err)
		_, err = ocsp.Verify(sound(ca, cert).sign(t, ca.Key), cert, nil, testpki.Epoch, skew)
		require.Error(t, err)
	})
}

// Sound responses that other verifiers refuse (golang/go#81395, #59641).
func TestThreat47_FalseRejects(t *testing.T) {
	ca, cert := world(t)
	by := responder(t, ca, testpki.Options{})
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	accept := func(name string, der []byte, cert *x509.Certificate, ca *testpki.CA) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			a, err := verify(der, cert, ca)
			require.NoError(t, err)
			require.Equal(t, ocsp.Good, a.Status)
		})
	}
	r := sound(ca, cert)
	r.certs = []*x509.Certificate{ca.Certificate}
	accept("issuer embedded", r.sign(t, ca.Key), cert, ca)
	r.responder = byKey(ca.Certificate)
	accept("issuer by key", r.sign(t, ca.Key), cert, ca)

	r = sound(ca, cert)
	r.responder, r.certs = byKey(by.Certificate), []*x509.Certificate{ca.Certificate, cert, by.Certificate}
	accept("responder by key, third in the list", r.sign(t, by.Key), cert, ca)

	namesake := responder(t, ca, testpki.Options{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	r.responder, r.certs = byName(by.Certificate), []*x509.Certificate{namesake.Certificate, by.Certificate}
	accept("responder after an unauthorised namesake", r.sign(t, by.Key), cert, ca)

	sameName := responder(t, ca, testpki.Options{CommonName: "Acme CA"})
	accept("responder with the issuer's name", delegated(t, ca, cert, sameName), cert, ca)

	r = sound(ca, cert)
	r.version = tlv(0xa0, []byte{2, 1, 0})
	accept("version spelled out", r.sign(t, ca.Key), cert, ca)

	r = sound(ca, cert)
	r.extensions = extensions(false)
	r.singles = [][]byte{single(ca, cert.SerialNumber, good, thisUpdate(0), nextUpdate(time.Hour), extensions(false))}
	accept("extensions that are not critical", r.sign(t, ca.Key), cert, ca)

	hashes := map[string]struct {
		id   byte
		hash func([]byte) []byte
	}{
		"SHA-256": {1, func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }},
		"SHA-384": {2, func(b []byte) []byte { s := sha512.Sum384(b); return s[:] }},
		"SHA-512": {3, func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }},
	}
	for name, h := range hashes {
		algorithm := []byte{0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, h.id}
		r = sound(ca, cert)
		id := rawCertID(algorithm, h.hash(ca.Certificate.RawSubject), h.hash(publicKeyBits(ca.Certificate)), cert.SerialNumber)
		r.singles = [][]byte{rawSingle(id, good, thisUpdate(0), nextUpdate(time.Hour))}
		accept(name+" CertID", r.sign(t, ca.Key), cert, ca)
	}

	rsaCA := newCA(t, testpki.Options{Key: rsaKey})
	rsaCert := issue(t, rsaCA, testpki.Options{}).Certificate
	r = sound(rsaCA, rsaCert)
	r.algorithm, r.options = pssSHA256, pssOptions
	accept("RSA-PSS", r.sign(t, rsaKey), rsaCert, rsaCA)

	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	edCA := newCA(t, testpki.Options{Key: edKey})
	edCert := issue(t, edCA, testpki.Options{}).Certificate
	r = sound(edCA, edCert)
	r.algorithm, r.options = []byte{0x30, 5, 6, 3, 0x2b, 0x65, 0x70}, crypto.Hash(0)
	accept("Ed25519", r.sign(t, edKey), edCert, edCA)
}

// Of several answers for the certificate the worst wins.
func TestSeveralAnswers(t *testing.T) {
	ca, cert := world(t)
	s := func(status []byte, rest ...[]byte) []byte { return single(ca, cert.SerialNumber, status, rest...) }
	another := single(ca, big.NewInt(1), revoked)
	long := s(good, thisUpdate(-time.Hour), nextUpdate(2*time.Hour))
	short := s(good, thisUpdate(-2*time.Hour), nextUpdate(time.Minute))
	open := s(good, thisUpdate(-3*time.Hour))
	for _, test := range []struct {
		name    string
		singles [][]byte
		want    ocsp.Status
		this    time.Duration
	}{
		{"good, revoked", [][]byte{s(good), s(revoked)}, ocsp.Revoked, -time.Hour},
		{"revoked, good", [][]byte{s(revoked), s(good)}, ocsp.Revoked, -time.Hour},
		{"good, unknown", [][]byte{s(good), s(unknown)}, ocsp.Unknown, -time.Hour},
		{"unknown, good", [][]byte{s(unknown), s(good)}, ocsp.Unknown, -time.Hour},
		{"unknown, revoked", [][]byte{s(unknown), s(revoked)}, ocsp.Revoked, -time.Hour},
		{"revoked, unknown", [][]byte{s(revoked), s(unknown)}, ocsp.Revoked, -time.Hour},
		{"another certificate's revoked, good", [][]byte{another, s(good)}, ocsp.Good, -time.Hour},
		{"revoked twice, the earlier end first", [][]byte{s(revoked, thisUpdate(-2*time.Hour), nextUpdate(time.Minute)), s(revoked)}, ocsp.Revoked, -time.Hour},
		{"revoked twice, the earlier end last", [][]byte{s(revoked), s(revoked, thisUpdate(-2*time.Hour), nextUpdate(time.Minute))}, ocsp.Revoked, -time.Hour},
		{"good twice, the earlier end first", [][]byte{short, long}, ocsp.Good, -2 * time.Hour},
		{"good twice, the earlier end last", [][]byte{long, short}, ocsp.Good, -2 * time.Hour},
		{"good twice, one without end", [][]byte{long, open, short}, ocsp.Good, -3 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := sound(ca, cert)
			r.singles = test.singles
			a, err := verify(r.sign(t, ca.Key), cert, ca)
			require.NoError(t, err)
			require.Equal(t, test.want, a.Status)
			require.Equal(t, testpki.Epoch.Add(test.this), a.ThisUpdate)
			require.Equal(t, test.want == ocsp.Revoked, a.HasReason)
		})
	}
}

func TestResponseError(t *testing.T) {
	ca, cert := world(t)
	for code, text := range map[int]string{1: "malformed", 2: "internal error", 3: "try later", 5: "signature required", 6: "unauthorized"} {
		_, err := verify([]byte{0x30, 3, 10, 1, byte(code)}, cert, ca)
		var e *ocsp.ResponseError
		require.ErrorAs(t, err, &e)
		require.Equal(t, code, e.Code)
		require.ErrorContains(t, err, text)
	}
}
