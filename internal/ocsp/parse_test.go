package ocsp_test

import (
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/ocsp"
)

// TestParser changes one thing about a sound and correctly signed response.
func TestParser(t *testing.T) {
	ca, cert := world(t)
	edit := func(f func(*reply)) []byte {
		r := sound(ca, cert)
		f(&r)
		return r.sign(t, ca.Key)
	}
	answer := func(status []byte, rest ...[]byte) []byte {
		return edit(func(r *reply) { r.singles = [][]byte{single(ca, cert.SerialNumber, status, rest...)} })
	}
	trailing := []byte{5, 0}
	many := func(n int) func(*reply) {
		return func(r *reply) {
			for len(r.singles) < n {
				r.singles = append(r.singles, r.singles[0])
			}
		}
	}
	certs := func(n int) func(*reply) {
		return func(r *reply) {
			for range n {
				r.certs = append(r.certs, cert)
			}
		}
	}
	for _, test := range []struct {
		name string
		der  []byte
		want error // nil: accepted
	}{
		{"100 answers", edit(many(100)), nil},
		{"10 certificates", edit(certs(10)), nil},
		{"an empty list of certificates", edit(func(r *reply) { r.certs = []*x509.Certificate{} }), nil},
		{"a certificate that does not parse", edit(func(r *reply) { r.certs = []*x509.Certificate{{Raw: []byte{0x30, 0}}} }), nil},

		{"nothing", nil, ocsp.ErrMalformed},
		{"101 answers", edit(many(101)), ocsp.ErrMalformed},
		{"11 certificates", edit(certs(11)), ocsp.ErrMalformed},
		{"more than 64 KiB", edit(func(r *reply) { r.certs = []*x509.Certificate{{Raw: tlv(0x30, make([]byte, ocsp.MaxResponse))}} }), ocsp.ErrMalformed},
		{"trailing data after", edit(func(r *reply) { r.afterNothing = []byte{0} }), ocsp.ErrMalformed},
		{"trailing data in OCSPResponse", edit(func(r *reply) { r.afterOuter = trailing }), ocsp.ErrMalformed},
		{"trailing data in ResponseBytes", edit(func(r *reply) { r.afterBytes = trailing }), ocsp.ErrMalformed},
		{"trailing data in the octet string", edit(func(r *reply) { r.afterOctets = trailing }), ocsp.ErrMalformed},
		{"trailing data in BasicOCSPResponse", edit(func(r *reply) { r.afterBasic = trailing }), ocsp.ErrMalformed},
		{"trailing data in ResponseData", edit(func(r *reply) { r.afterData = trailing }), ocsp.ErrMalformed},
		{"another type", edit(func(r *reply) { r.typeOID = []byte{6, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 2} }), ocsp.ErrMalformed},
		{"version 2", edit(func(r *reply) { r.version = tlv(0xa0, []byte{2, 1, 1}) }), ocsp.ErrMalformed},
		{"version with trailing data", edit(func(r *reply) { r.version = tlv(0xa0, []byte{2, 1, 0}, trailing) }), ocsp.ErrMalformed},
		{"an undefined status", edit(func(r *reply) { r.status = []byte{10, 1, 4} }), ocsp.ErrMalformed},
		{"a status above all", edit(func(r *reply) { r.status = []byte{10, 1, 17} }), ocsp.ErrMalformed},
		{"a negative status", edit(func(r *reply) { r.status = []byte{10, 1, 0xff} }), ocsp.ErrMalformed},
		{"successful without bytes", []byte{0x30, 3, 10, 1, 0}, ocsp.ErrMalformed},
		{"responder ID of no kind", edit(func(r *reply) { r.responder = tlv(0xa3, ca.Certificate.RawSubject) }), ocsp.ErrMalformed},
		{"responder ID with trailing data", edit(func(r *reply) { r.responder = tlv(0xa1, ca.Certificate.RawSubject, trailing) }), ocsp.ErrMalformed},
		{"empty responder key", edit(func(r *reply) { r.responder = tlv(0xa2, tlv(4)) }), ocsp.ErrMalformed},
		{"producedAt as UTCTime", edit(func(r *reply) { r.producedAt = tlv(0x17, []byte("260101000000Z")) }), ocsp.ErrMalformed},
		{"empty extensions", edit(func(r *reply) { r.extensions = tlv(0xa1, tlv(0x30)) }), ocsp.ErrMalformed},
		{"critical response extension", edit(func(r *reply) { r.extensions = extensions(true) }), ocsp.ErrCritical},

		{"critical single extension", answer(good, thisUpdate(0), nextUpdate(time.Hour), extensions(true)), ocsp.ErrCritical},
		{"critical single extension of another answer", edit(func(r *reply) {
			r.singles = append(r.singles, single(ca, big.NewInt(1), good, thisUpdate(0), extensions(true)))
		}), ocsp.ErrCritical},
		{"trailing data in SingleResponse", answer(good, thisUpdate(0), nextUpdate(time.Hour), trailing), ocsp.ErrMalformed},
		{"no thisUpdate", answer(good, nextUpdate(time.Hour)), ocsp.ErrMalformed},
		{"thisUpdate with a fraction", answer(good, tlv(0x18, []byte("20260101000000.5Z"))), ocsp.ErrMalformed},
		{"nextUpdate with trailing data", answer(good, thisUpdate(0), tlv(0xa0, thisUpdate(time.Hour), trailing)), ocsp.ErrMalformed},
		{"nextUpdate in the year 1, which would look absent", answer(good, thisUpdate(0), tlv(0xa0, tlv(0x18, []byte("00010101000000Z")))), ocsp.ErrMalformed},
		{"good with a content", answer([]byte{0x80, 1, 0}), ocsp.ErrMalformed},
		{"good as a universal NULL", answer(trailing), ocsp.ErrMalformed},
		{"status of no kind", answer([]byte{0x83, 0}), ocsp.ErrMalformed},
		{"revoked without a date", answer([]byte{0xa1, 0}), ocsp.ErrMalformed},
		{"revoked, primitive", answer([]byte{0x81, 0}), ocsp.ErrMalformed},
		{"revoked with trailing data", answer(tlv(0xa1, thisUpdate(0), trailing)), ocsp.ErrMalformed},
		{"revoked, reason of another type", answer(tlv(0xa1, thisUpdate(0), tlv(0xa0, []byte{2, 1, 1}))), ocsp.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := verify(test.der, cert, ca)
			if test.want == nil {
				require.NoError(t, err)
				require.Equal(t, ocsp.Good, a.Status)
				return
			}
			require.ErrorIs(t, err, test.want)
			require.Nil(t, a)
		})
	}
}
