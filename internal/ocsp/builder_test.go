package ocsp_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/testpki"
)

// reply is an OCSP response in pieces of DER, so that a test can get each of
// them wrong. sound gives one that is accepted.
type reply struct {
	status       []byte
	typeOID      []byte
	version      []byte
	responder    []byte
	producedAt   []byte
	singles      [][]byte
	extensions   []byte // with its tag
	algorithm    []byte
	options      crypto.SignerOpts
	certs        []*x509.Certificate
	afterData    []byte
	afterBasic   []byte
	afterOctets  []byte
	afterBytes   []byte
	afterOuter   []byte
	afterNothing []byte
}

var (
	ecdsaSHA256 = []byte{0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}
	pssSHA256   = func() []byte {
		hash := []byte{0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0}
		mgf := tlv(0x30, []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 8}, hash)
		return tlv(0x30, []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 10},
			tlv(0x30, tlv(0xa0, hash), tlv(0xa1, mgf), tlv(0xa2, []byte{2, 1, 32})))
	}()
	pssOptions = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	rsaSHA1    = []byte{0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 5, 5, 0}
)

// sound says that cert is good, by ca itself.
func sound(ca *testpki.CA, cert *x509.Certificate) reply {
	return reply{
		status:     []byte{10, 1, 0},
		typeOID:    []byte{6, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 1},
		responder:  byName(ca.Certificate),
		producedAt: generalTime(testpki.Epoch.Add(-time.Hour)),
		singles:    [][]byte{single(ca, cert.SerialNumber, good)},
		algorithm:  ecdsaSHA256,
		options:    crypto.SHA256,
	}
}

func (r reply) sign(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	data := tlv(0x30, r.version, r.responder, r.producedAt, tlv(0x30, r.singles...), r.extensions, r.afterData)
	signature, err := crypto.SignMessage(key, rand.Reader, data, r.options)
	require.NoError(t, err)
	var certs []byte
	for _, c := range r.certs {
		certs = append(certs, c.Raw...)
	}
	if r.certs != nil {
		certs = tlv(0xa0, tlv(0x30, certs))
	}
	basic := tlv(0x30, data, r.algorithm, tlv(3, []byte{0}, signature), certs, r.afterBasic)
	octets := tlv(4, basic, r.afterOctets)
	wrapped := tlv(0xa0, tlv(0x30, r.typeOID, octets, r.afterBytes))
	return append(tlv(0x30, r.status, wrapped, r.afterOuter), r.afterNothing...)
}

var (
	good    = []byte{0x80, 0}
	unknown = []byte{0x82, 0}
	revoked = tlv(0xa1, generalTime(testpki.Epoch.Add(-48*time.Hour)), tlv(0xa0, []byte{10, 1, 1}))
)

// single is a SingleResponse valid around Epoch.
func single(ca *testpki.CA, serial *big.Int, status []byte, rest ...[]byte) []byte {
	if rest == nil {
		rest = [][]byte{thisUpdate(-time.Hour), nextUpdate(time.Hour)}
	}
	return rawSingle(certID(ca.Certificate, serial), status, rest...)
}

func rawSingle(id, status []byte, rest ...[]byte) []byte {
	return tlv(0x30, append([][]byte{id, status}, rest...)...)
}

func thisUpdate(d time.Duration) []byte { return generalTime(testpki.Epoch.Add(d)) }
func nextUpdate(d time.Duration) []byte { return tlv(0xa0, generalTime(testpki.Epoch.Add(d))) }

func certID(issuer *x509.Certificate, serial *big.Int) []byte {
	name := sha1.Sum(issuer.RawSubject)
	return rawCertID([]byte{0x30, 9, 6, 5, 0x2b, 14, 3, 2, 26, 5, 0}, name[:], keyHash(issuer), serial)
}

// certIDWith is a CertID by SHA-256, or by SHA-1 with its NULL left out.
func certIDWith(hash crypto.Hash, issuer *x509.Certificate, serial *big.Int) []byte {
	algorithm := []byte{0x30, 7, 6, 5, 0x2b, 14, 3, 2, 26}
	if hash == crypto.SHA256 {
		algorithm = []byte{0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1}
	}
	sum := func(data []byte) []byte {
		h := hash.New()
		h.Write(data)
		return h.Sum(nil)
	}
	return rawCertID(algorithm, sum(issuer.RawSubject), sum(publicKeyBits(issuer)), serial)
}

func rawCertID(algorithm, name, key []byte, serial *big.Int) []byte {
	var b cryptobyte.Builder
	b.AddASN1BigInt(serial)
	return tlv(0x30, algorithm, tlv(4, name), tlv(4, key), b.BytesOrPanic())
}

func publicKeyBits(c *x509.Certificate) []byte {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err != nil {
		panic(err)
	}
	return info.Key.Bytes
}

func keyHash(c *x509.Certificate) []byte {
	sum := sha1.Sum(publicKeyBits(c))
	return sum[:]
}

func byName(c *x509.Certificate) []byte { return tlv(0xa1, c.RawSubject) }
func byKey(c *x509.Certificate) []byte  { return tlv(0xa2, tlv(4, keyHash(c))) }

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

func generalTime(t time.Time) []byte { return tlv(0x18, []byte(t.UTC().Format("20060102150405Z"))) }

// extensions is a [1] EXPLICIT Extensions with one extension.
func extensions(critical bool) []byte {
	return extensionList(pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: critical, Value: []byte{5, 0}})
}

func extensionList(list ...pkix.Extension) []byte {
	der, err := asn1.Marshal(list)
	if err != nil {
		panic(err)
	}
	return tlv(0xa1, der)
}

// nonce is an id-pkix-ocsp-nonce extension.
func nonce(critical bool, value []byte) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Critical: critical, Value: value}
}
