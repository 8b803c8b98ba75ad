package mtlstest_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/mtlstest"
)

var oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}

// request writes a request as RFC 6960 section 4.1.1 and RFC 9654 have it.
func (s *sourceOf) request(nonce []byte, hash crypto.Hash) []byte {
	s.t.Helper()
	der, err := ocsp.CreateRequest(s.cert.Leaf(), s.CA.Certificate(), &ocsp.RequestOptions{Hash: hash})
	require.NoError(s.t, err)
	if nonce == nil {
		return der
	}
	type tbs struct {
		List       asn1.RawValue
		Extensions []pkix.Extension `asn1:"explicit,tag:2,optional"`
	}
	var request struct{ TBS tbs }
	_, err = asn1.Unmarshal(der, &request)
	require.NoError(s.t, err)
	value, err := asn1.Marshal(nonce)
	require.NoError(s.t, err)
	request.TBS.Extensions = []pkix.Extension{{Id: oidNonce, Value: value}}
	der, err = asn1.Marshal(request)
	require.NoError(s.t, err)
	return der
}

// responder is the URL of a request by GET.
func (s *sourceOf) responder(nonce []byte, hash crypto.Hash) string {
	s.t.Helper()
	_, base := s.urls()
	return base + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(s.request(nonce, hash)))
}

// raw asks by GET and by POST, and requires one kind of answer.
func (s *sourceOf) raw(nonce []byte, hash crypto.Hash) []byte {
	s.t.Helper()
	res, byGET := s.get(s.responder(nonce, hash))
	require.Equal(s.t, http.StatusOK, res.StatusCode, "%s", byGET)
	require.Equal(s.t, "application/ocsp-response", res.Header.Get("Content-Type"))
	_, base := s.urls()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, base, bytes.NewReader(s.request(nonce, hash)))
	require.NoError(s.t, err)
	res, byPOST := s.do(r)
	require.Equal(s.t, http.StatusOK, res.StatusCode, "%s", byPOST)
	require.InDelta(s.t, len(byGET), len(byPOST), 16, "but for signatures of different length")
	return byPOST
}

func (s *sourceOf) ask(nonce []byte, hash crypto.Hash) *ocsp.Response {
	s.t.Helper()
	response, err := ocsp.ParseResponseForCert(s.raw(nonce, hash), s.cert.Leaf(), s.CA.Certificate())
	require.NoError(s.t, err)
	return response
}

// echo returns the nonce of a response, whose bytes must hold it once.
func echo(t *testing.T, raw, nonce []byte) bool {
	t.Helper()
	value, err := asn1.Marshal(nonce)
	require.NoError(t, err)
	extension, err := asn1.Marshal(pkix.Extension{Id: oidNonce, Value: value})
	require.NoError(t, err)
	return bytes.Count(raw, extension) == 1
}

func TestOCSPAnswersInTheHashAndWithTheNonceOfTheRequest(t *testing.T) {
	t.Parallel()
	oids := map[crypto.Hash]asn1.ObjectIdentifier{crypto.SHA1: {1, 3, 14, 3, 2, 26}, crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1}}
	s := newSource(t)
	for hash := range oids {
		for name, nonce := range map[string][]byte{"none": nil, "one octet": {7}, "32 octets": bytes.Repeat([]byte{0xa5}, 32), "128 octets": bytes.Repeat([]byte{0x5a}, 128)} {
			raw := s.raw(nonce, hash)
			if nonce != nil {
				require.True(t, echo(t, raw, nonce), name)
			}
			marshalled, err := asn1.Marshal(oidNonce)
			require.NoError(t, err)
			require.Equal(t, nonce != nil, bytes.Contains(raw, marshalled), name)
			response, err := ocsp.ParseResponseForCert(raw, s.cert.Leaf(), s.CA.Certificate())
			require.NoError(t, err)
			require.Equal(t, hash, response.IssuerHash)
			require.Equal(t, ocsp.Good, response.Status)
			for other, oid := range oids {
				marshalled, err := asn1.Marshal(pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue})
				require.NoError(t, err)
				require.Equal(t, other == hash, bytes.Contains(raw, marshalled))
			}
		}
	}
	s.Revocation.FailOCSP(mtlstest.NoNonce)
	nonce := []byte("0123456789abcdef")
	require.False(t, bytes.Contains(s.raw(nonce, crypto.SHA1), nonce))
	s.Revocation.FailOCSP(mtlstest.NoFault)
	for _, nonce := range [][]byte{{}, make([]byte, 129)} {
		require.Equal(t, ocsp.MalformedRequestErrorResponse, s.raw(nonce, crypto.SHA1), "RFC 9654 section 2.1")
	}
	_, base := s.urls()
	res, _ := s.get(base + "/" + url.QueryEscape("bm8gREVS"))
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
}

func TestFaultsOfOCSP(t *testing.T) {
	t.Parallel()
	good := func(t *testing.T, s *sourceOf, r *ocsp.Response) {
		s.current(r.ThisUpdate, r.NextUpdate)
		require.Equal(t, s.cert.Leaf().SerialNumber, r.SerialNumber)
	}
	for name, check := range map[string]struct {
		fault  mtlstest.Fault
		status int
		holds  func(t *testing.T, s *sourceOf, r *ocsp.Response)
	}{
		"NoFault":      {mtlstest.NoFault, ocsp.Revoked, good},
		"WrongShard":   {mtlstest.WrongShard, ocsp.Revoked, good},
		"NoNextUpdate": {mtlstest.NoNextUpdate, ocsp.Revoked, func(t *testing.T, _ *sourceOf, r *ocsp.Response) { require.True(t, r.NextUpdate.IsZero()) }},
		"WrongUsage": {mtlstest.WrongUsage, ocsp.Revoked, func(t *testing.T, s *sourceOf, r *ocsp.Response) {
			good(t, s, r)
			require.NotContains(t, r.Certificate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning)
			require.NoError(t, r.Certificate.CheckSignatureFrom(s.CA.Certificate()))
			require.True(t, s.Clock.Now().Before(r.Certificate.NotAfter))
			require.NoError(t, r.CheckSignatureFrom(r.Certificate))
		}},
		"ExpiredResponder": {mtlstest.ExpiredResponder, ocsp.Revoked, func(t *testing.T, s *sourceOf, r *ocsp.Response) {
			good(t, s, r)
			require.Contains(t, r.Certificate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning)
			require.NoError(t, r.Certificate.CheckSignatureFrom(s.CA.Certificate()))
			require.True(t, s.Clock.Now().After(r.Certificate.NotAfter))
			require.NoError(t, r.CheckSignatureFrom(r.Certificate))
		}},
		"OtherIssuer": {mtlstest.OtherIssuer, ocsp.Good, func(t *testing.T, s *sourceOf, r *ocsp.Response) {
			good(t, s, r)
			require.Nil(t, r.Certificate)
			require.Error(t, r.CheckSignatureFrom(s.CA.Certificate()))
			require.NotEqual(t, s.CA.Certificate().RawSubject, r.RawResponderName)
		}},
		"Older": {mtlstest.Older, ocsp.Good, func(t *testing.T, s *sourceOf, r *ocsp.Response) {
			good(t, s, r)
			require.NoError(t, r.CheckSignatureFrom(s.CA.Certificate()))
			require.True(t, r.ThisUpdate.Equal(s.Clock.Now().Add(-time.Hour)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			s.Revocation.Revoke(s.cert, 1)
			s.Revocation.FailOCSP(check.fault)
			response, err := ocsp.ParseResponse(s.raw(nil, crypto.SHA1), nil)
			require.NoError(t, err)
			require.Equal(t, check.status, response.Status)
			check.holds(t, s, response)
		})
	}
	s := newSource(t)
	s.Revocation.FailOCSP(mtlstest.SHA256Only)
	require.Equal(t, ocsp.UnauthorizedErrorResponse, s.raw(nil, crypto.SHA1))
	require.Equal(t, ocsp.Good, s.ask(nil, crypto.SHA256).Status)
}
