package mtlstest

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/testpki"
)

// A Fault is what a RevocationServer does instead of answering properly.
type Fault int

// Faults of a RevocationServer. Those that only one protocol knows leave the
// other without fault.
const (
	NoFault          Fault = iota
	Down                   // the connection is closed without an answer
	Hang                   // no answer until the asker gives up
	InternalError          // status 500
	NotFound               // status 404
	HTML                   // a page that says 200
	Empty                  // 200 without a body
	Garbage                // 200 with bytes that are no DER
	Truncated              // the proper answer without its last byte
	Stale                  // the proper answer of the day before yesterday
	Future                 // the proper answer of the day after tomorrow
	WrongSigner            // signed by a stranger in the issuer's name
	TryLater               // OCSP: tryLater (RFC 6960 section 2.3)
	Unauthorized           // OCSP: unauthorized
	UnknownCert            // OCSP: the status "unknown"
	WrongSerial            // OCSP: an answer about another certificate
	NoNextUpdate           // OCSP: without nextUpdate
	Redirect               // to a link-local address
	Drip                   // 200 and one byte, then nothing until the asker gives up
	SlowHeaders            // half a header, then nothing until the asker gives up
	GzipBomb               // 256 KiB that Content-Encoding: gzip makes 256 MiB
	HugeLength             // Content-Length: 1 GiB, one byte, and the end of the connection
	WrongUsage             // OCSP: signed with an embedded certificate of the CA's that lacks OCSPSigning; CRL: in the CA's name with another key, under that one's identifier
	OtherIssuer            // the proper answer of another CA, about the same serial number
	WrongShard             // CRL: the proper list of another partition, in which nothing is revoked
	Older                  // the proper answer of an hour ago, without the revocations since then: a replay, still current
	ExpiredResponder       // OCSP: signed by a delegated responder whose certificate has expired
	NoNonce                // OCSP: without the nonce of the request, as from a cache
	SHA256Only             // OCSP: unauthorized for a CertID in SHA-1
)

// transportFault plays a fault that needs no evidence, and reports whether it
// did.
func (s *RevocationServer) transportFault(w http.ResponseWriter, r *http.Request, f Fault) bool {
	switch f {
	case Down:
		panic(http.ErrAbortHandler) // net/http closes the connection
	case Hang:
		<-r.Context().Done() // the asker or the server has closed the connection
	case InternalError:
		http.Error(w, "internal error", http.StatusInternalServerError)
	case NotFound:
		http.NotFound(w, r)
	case HTML:
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body>Welcome to the hotel's network</body></html>")
	case Empty:
		w.WriteHeader(http.StatusOK)
	case Garbage:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, "this is no DER")
	case Redirect:
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
	case Drip:
		_, _ = w.Write(sequence)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case SlowHeaders:
		s.halfHeader(w)
	case GzipBomb:
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(gzipBomb())
	case HugeLength:
		w.Header().Set("Content-Length", strconv.Itoa(1<<30))
		_, _ = w.Write(sequence) // net/http closes the connection over what is missing
	default:
		return false
	}
	return true
}

// sequence is the first byte of every CRL and OCSP response.
var sequence = []byte{0x30}

func (s *RevocationServer) halfHeader(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	defer context.AfterFunc(s.closing, func() { conn.Close() })()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/")
	_, _ = io.Copy(io.Discard, conn) // until the asker closes
}

// gzipBomb returns 256 MiB of zeros, packed: one piece of it, repeated, because to
// pack them all takes seconds.
var gzipBomb = sync.OnceValue(func() []byte {
	const pieces, piece = 256, 1 << 20
	zeros := make([]byte, piece)
	var b, out bytes.Buffer // which take everything
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		panic(err) // only for a level that there is not
	}
	_, _ = w.Write(zeros)
	_ = w.Flush() // up to a byte's end, so that pieces may follow each other
	body := slices.Clone(b.Bytes())
	b.Reset()
	w.Reset(&b)
	_ = w.Close() // the end of a stream

	out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}) // RFC 1952 section 2.3
	out.Write(bytes.Repeat(body, pieces))
	out.Write(b.Bytes())
	var sum uint32
	for range pieces {
		sum = crc32.Update(sum, crc32.IEEETable, zeros)
	}
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(out.Bytes(), sum), pieces*piece)
})

// faultyList signs a list that is sound but for a fault of its evidence.
func faultyList(ca *testpki.CA, o testpki.CRLOptions, f Fault) ([]byte, error) {
	switch f {
	case WrongSigner:
		stranger, err := stranger()
		if err != nil {
			return nil, err
		}
		o.Signer = stranger
	case WrongUsage:
		unfit, err := anotherKey(ca)
		if err != nil {
			return nil, err
		}
		ca = unfit
	case OtherIssuer:
		other, err := stranger()
		if err != nil {
			return nil, err
		}
		ca, o.Entries = other, nil
	case WrongShard:
		point, err := testpki.IssuingDistributionPoint(false, false, "http://crl.example/another-partition.crl")
		if err != nil {
			return nil, err
		}
		o.Entries, o.Extra = nil, append(o.Extra, point)
	}
	return ca.CRL(o)
}

// faultyResponse signs a response that is sound but for a fault of its evidence.
func faultyResponse(ca *testpki.CA, o testpki.OCSPOptions, now time.Time, f Fault) ([]byte, error) {
	switch f {
	case TryLater:
		return ocsp.TryLaterErrorResponse, nil
	case Unauthorized:
		return ocsp.UnauthorizedErrorResponse, nil
	case SHA256Only:
		if o.Hash == crypto.SHA1 {
			return ocsp.UnauthorizedErrorResponse, nil
		}
	case WrongSerial:
		o.Serial = new(big.Int).Add(o.Serial, big.NewInt(1))
	case UnknownCert:
		o.Status = ocsp.Unknown
	case WrongSigner:
		stranger, err := stranger()
		if err != nil {
			return nil, err
		}
		forged := *ca
		forged.Key = stranger.Key
		ca = &forged
	case WrongUsage:
		unfit, err := ca.Issue(testpki.Options{CommonName: "no responder", NotBefore: now.Add(-Validity), NotAfter: now.Add(Validity)})
		if err != nil {
			return nil, err
		}
		o.Responder = unfit
	case OtherIssuer:
		other, err := stranger()
		if err != nil {
			return nil, err
		}
		ca, o.Status = other, ocsp.Good
	case ExpiredResponder:
		expired, err := ca.Issue(testpki.Options{CommonName: "responder", NotBefore: now.Add(-2 * Validity), NotAfter: now.Add(-time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
		if err != nil {
			return nil, err
		}
		o.Responder = expired
	}
	return ca.OCSP(o)
}

// stranger returns a CA that nobody has heard of.
func stranger() (*testpki.CA, error) {
	return testpki.NewRoot(testpki.Options{CommonName: "another CA"})
}

// anotherKey returns a CA with the name of the given one and another key, which is
// not for signing its lists.
func anotherKey(ca *testpki.CA) (*testpki.CA, error) {
	other, err := stranger()
	if err != nil {
		return nil, err
	}
	id := other.Certificate.SubjectKeyId
	return &testpki.CA{Key: other.Key, Certificate: &x509.Certificate{RawSubject: ca.Certificate.RawSubject, SubjectKeyId: id}}, nil
}
