package ocsp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/ocsp"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestNewRequest(t *testing.T) {
	ca, cert := world(t)
	for _, test := range []struct {
		name string
		o    ocsp.RequestOptions
		hash crypto.Hash
	}{
		{"zero", ocsp.RequestOptions{}, crypto.SHA1},
		{"SHA-1", ocsp.RequestOptions{Hash: crypto.SHA1}, crypto.SHA1},
		{"SHA-256", ocsp.RequestOptions{Hash: crypto.SHA256}, crypto.SHA256},
		{"SHA-256 and nonce", ocsp.RequestOptions{Hash: crypto.SHA256, Nonce: []byte("nonce")}, crypto.SHA256},
		{"nonce of 1 octet", ocsp.RequestOptions{Nonce: []byte{0}}, crypto.SHA1},
		{"nonce of 128 octets", ocsp.RequestOptions{Nonce: bytes.Repeat([]byte{0xff}, 128)}, crypto.SHA1},
	} {
		t.Run(test.name, func(t *testing.T) {
			der, err := ocsp.NewRequest(cert, ca.Certificate, test.o)
			require.NoError(t, err)
			request, err := xocsp.ParseRequest(der)
			require.NoError(t, err)
			require.Equal(t, test.hash, request.HashAlgorithm)
			require.Zero(t, cert.SerialNumber.Cmp(request.SerialNumber))
			sum := func(data []byte) []byte {
				h := test.hash.New()
				h.Write(data)
				return h.Sum(nil)
			}
			require.Equal(t, sum(ca.Certificate.RawSubject), request.IssuerNameHash)
			require.Equal(t, sum(publicKeyBits(ca.Certificate)), request.IssuerKeyHash)
			require.Equal(t, test.o.Nonce, sentNonce(t, der))

			// An answer to this very CertID is taken for one.
			r := sound(ca, cert)
			r.singles = [][]byte{rawSingle(certIDWith(test.hash, ca.Certificate, cert.SerialNumber), good, thisUpdate(0), nextUpdate(time.Hour))}
			a, err := verify(r.sign(t, ca.Key), cert, ca)
			require.NoError(t, err)
			require.Equal(t, ocsp.Good, a.Status)
		})
	}
	other := newCA(t, testpki.Options{}).Certificate
	for _, test := range []struct {
		name         string
		cert, issuer *x509.Certificate
		o            ocsp.RequestOptions
	}{
		{"another issuer", cert, other, ocsp.RequestOptions{}},
		{"no certificate", nil, ca.Certificate, ocsp.RequestOptions{}},
		{"no issuer", cert, nil, ocsp.RequestOptions{}},
		{"SHA-512", cert, ca.Certificate, ocsp.RequestOptions{Hash: crypto.SHA512}},
		{"MD5", cert, ca.Certificate, ocsp.RequestOptions{Hash: crypto.MD5}},
		{"a hash that does not exist", cert, ca.Certificate, ocsp.RequestOptions{Hash: 99}},
		{"empty nonce", cert, ca.Certificate, ocsp.RequestOptions{Nonce: []byte{}}},
		{"nonce of 129 octets", cert, ca.Certificate, ocsp.RequestOptions{Nonce: make([]byte, 129)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			der, err := ocsp.NewRequest(test.cert, test.issuer, test.o)
			require.Error(t, err)
			require.Nil(t, der)
		})
	}
}

// sentNonce reads requestExtensions, whose only extension is to be a nonce that
// is not critical.
func sentNonce(t *testing.T, request []byte) []byte {
	t.Helper()
	in := cryptobyte.String(request)
	var outer, tbs, list, wrapper, extensions, e, value, nonce cryptobyte.String
	var present bool
	require.True(t, in.ReadASN1(&outer, cbasn1.SEQUENCE) && in.Empty() && outer.ReadASN1(&tbs, cbasn1.SEQUENCE) && outer.Empty())
	require.True(t, tbs.ReadASN1(&list, cbasn1.SEQUENCE))
	require.True(t, tbs.ReadOptionalASN1(&wrapper, &present, cbasn1.Tag(2).ContextSpecific().Constructed()) && tbs.Empty())
	if !present {
		return nil
	}
	var id asn1.ObjectIdentifier
	require.True(t, wrapper.ReadASN1(&extensions, cbasn1.SEQUENCE) && wrapper.Empty() && extensions.ReadASN1(&e, cbasn1.SEQUENCE) && extensions.Empty())
	require.True(t, e.ReadASN1ObjectIdentifier(&id) && e.ReadASN1(&value, cbasn1.OCTET_STRING) && e.Empty())
	require.Equal(t, "1.3.6.1.5.5.7.48.1.2", id.String())
	require.True(t, value.ReadASN1(&nonce, cbasn1.OCTET_STRING) && value.Empty())
	return nonce
}

func TestNonceOfAResponse(t *testing.T) {
	ca, cert := world(t)
	octets := func(n int) []byte { return bytes.Repeat([]byte{0x5a}, n) }
	for _, test := range []struct {
		name       string
		extensions []byte
		want       string
		err        error
	}{
		{"none", nil, "", nil},
		{"another extension", extensions(false), "", nil},
		{"one octet", extensionList(nonce(false, tlv(4, octets(1)))), "Z", nil},
		{"32 octets", extensionList(nonce(false, tlv(4, octets(32)))), strings.Repeat("Z", 32), nil},
		{"128 octets", extensionList(nonce(false, tlv(4, octets(128)))), strings.Repeat("Z", 128), nil},
		{"zero octets of it", extensionList(nonce(false, tlv(4, make([]byte, 2)))), "\x00\x00", nil},
		{"critical", extensionList(nonce(true, tlv(4, octets(1)))), "Z", nil},

		{"empty", extensionList(nonce(false, tlv(4))), "", ocsp.ErrMalformed},
		{"129 octets", extensionList(nonce(false, tlv(4, octets(129)))), "", ocsp.ErrMalformed},
		{"without its octet string", extensionList(nonce(false, octets(16))), "", ocsp.ErrMalformed},
		{"no value", extensionList(nonce(false, nil)), "", ocsp.ErrMalformed},
		{"an integer", extensionList(nonce(false, []byte{2, 1, 1})), "", ocsp.ErrMalformed},
		{"trailing data", extensionList(nonce(false, append(tlv(4, octets(1)), 5, 0))), "", ocsp.ErrMalformed},
		{"cut off", extensionList(nonce(false, []byte{4, 9, 1})), "", ocsp.ErrMalformed},
		{"twice", extensionList(nonce(false, tlv(4, octets(1))), nonce(false, tlv(4, octets(1)))), "", ocsp.ErrMalformed},
		{"critical and malformed", extensionList(nonce(true, nil)), "", ocsp.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := sound(ca, cert)
			r.extensions = test.extensions
			a, err := verify(r.sign(t, ca.Key), cert, ca)
			require.ErrorIs(t, err, test.err)
			if test.err != nil {
				require.Nil(t, a)
				return
			}
			require.Equal(t, test.want, a.Nonce)
			again, err := verify(r.sign(t, ca.Key), cert, ca)
			require.NoError(t, err)
			require.True(t, *a == *again, "answers that say the same are equal")
		})
	}
	t.Run("next to an unknown critical extension", func(t *testing.T) {
		r := sound(ca, cert)
		unknown := nonce(true, tlv(4, octets(1)))
		unknown.Id = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 22}
		for _, list := range [][]byte{extensionList(nonce(true, tlv(4, octets(1))), unknown), extensionList(unknown, nonce(true, tlv(4, octets(1))))} {
			r.extensions = list
			_, err := verify(r.sign(t, ca.Key), cert, ca)
			require.ErrorIs(t, err, ocsp.ErrCritical)
		}
	})
	t.Run("of a single answer is none of the response", func(t *testing.T) {
		r := sound(ca, cert)
		r.singles = [][]byte{single(ca, cert.SerialNumber, good, thisUpdate(0), nextUpdate(time.Hour), extensionList(nonce(false, tlv(4, octets(1)))))}
		a, err := verify(r.sign(t, ca.Key), cert, ca)
		require.NoError(t, err)
		require.Empty(t, a.Nonce)
		r.singles = [][]byte{single(ca, cert.SerialNumber, good, thisUpdate(0), nextUpdate(time.Hour), extensionList(nonce(true, tlv(4, octets(1)))))}
		_, err = verify(r.sign(t, ca.Key), cert, ca)
		require.ErrorIs(t, err, ocsp.ErrCritical)
	})
	t.Run("that was not signed", func(t *testing.T) {
		r := sound(ca, cert)
		r.extensions = extensionList(nonce(false, tlv(4, []byte("mine"))))
		der := bytes.Replace(r.sign(t, ca.Key), []byte("mine"), []byte("your"), 1)
		_, err := verify(der, cert, ca)
		require.ErrorIs(t, err, ocsp.ErrUnauthorized)
	})
}

// openssl runs the program in dir. Without it the test is skipped, or fails
// where MTLS_REQUIRE_REAL=1 says that it must be there.
func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
			require.Fail(t, "openssl is missing: install Debian package openssl")
		}
		t.Skip("openssl is not installed: Debian package openssl")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// OpenSSL reads our requests, and its answers are read here: the nonce comes
// back, and both hashes of a CertID mean the certificate.
func TestOpenSSL(t *testing.T) {
	ca, cert := world(t)
	lost := issue(t, ca, testpki.Options{}).Certificate
	dir := t.TempDir()
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	key, err := x509.MarshalPKCS8PrivateKey(ca.Key)
	require.NoError(t, err)
	write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw}))
	write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	write("index", fmt.Appendf(nil, "V\t301231000000Z\t\t%s\tunknown\t/CN=good\nR\t301231000000Z\t260101000000Z,keyCompromise\t%s\tunknown\t/CN=lost\n",
		strings.ToUpper(hex.EncodeToString(cert.SerialNumber.Bytes())), strings.ToUpper(hex.EncodeToString(lost.SerialNumber.Bytes()))))

	for _, test := range []struct {
		name   string
		cert   *x509.Certificate
		o      ocsp.RequestOptions
		status ocsp.Status
		prints string
	}{
		{"plain", cert, ocsp.RequestOptions{}, ocsp.Good, "Hash Algorithm: sha1"},
		{"SHA-256", cert, ocsp.RequestOptions{Hash: crypto.SHA256}, ocsp.Good, "Hash Algorithm: sha256"},
		{"nonce", cert, ocsp.RequestOptions{Nonce: []byte("0123456789abcdef0123456789abcdef")}, ocsp.Good, "OCSP Nonce"},
		{"SHA-256 and nonce, revoked", lost, ocsp.RequestOptions{Hash: crypto.SHA256, Nonce: []byte{0xca, 0xfe}}, ocsp.Revoked, "0402CAFE"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request, err := ocsp.NewRequest(test.cert, ca.Certificate, test.o)
			require.NoError(t, err)
			write("request", request)
			text := openssl(t, dir, "ocsp", "-reqin", "request", "-req_text")
			require.Contains(t, text, test.prints)
			// OpenSSL prints the value of the extension: tag, length, octets.
			want := ""
			if test.o.Nonce != nil {
				want = strings.ToUpper(hex.EncodeToString(tlv(4, test.o.Nonce)))
				require.Contains(t, strings.Join(strings.Fields(text), ""), want)
			} else {
				require.NotContains(t, text, "Nonce")
			}

			openssl(t, dir, "ocsp", "-index", "index", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "key.pem",
				"-ndays", "1", "-reqin", "request", "-respout", "response")
			response, err := os.ReadFile(filepath.Join(dir, "response"))
			require.NoError(t, err)
			parsed, err := ocsp.Parse(response)
			require.NoError(t, err)
			now := parsed.ProducedAt // of OpenSSL's clock
			a, err := ocsp.Verify(response, test.cert, ca.Certificate, now, skew)
			require.NoError(t, err)
			require.NoError(t, a.CheckTime(now, skew, time.Hour))
			require.Equal(t, test.status, a.Status)
			require.Equal(t, string(test.o.Nonce), a.Nonce)
		})
	}
}
