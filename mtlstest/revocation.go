package mtlstest

import (
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"crypto/x509"

	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/testpki"
)

// Validity is how long what a RevocationServer says is current.
const Validity = 24 * time.Hour

// A Fault is what a RevocationServer does instead of answering properly.
type Fault int

// Faults of a RevocationServer. Those that only one protocol knows leave the
// other without fault.
const (
	NoFault       Fault = iota
	Down                // the connection is closed without an answer
	Hang                // no answer until the asker gives up
	InternalError       // status 500
	NotFound            // status 404
	HTML                // a page that says 200
	Empty               // 200 without a body
	Garbage             // 200 with bytes that are no DER
	Truncated           // the proper answer without its last byte
	Stale               // the proper answer of the day before yesterday
	Future              // the proper answer of the day after tomorrow
	WrongSigner         // signed by a stranger in the issuer's name
	TryLater            // OCSP: tryLater (RFC 6960 section 2.3)
	Unauthorized        // OCSP: unauthorized
	UnknownCert         // OCSP: the status "unknown"
	WrongSerial         // OCSP: an answer about another certificate
	NoNextUpdate        // OCSP: without nextUpdate
	Redirect            // to a link-local address
)

// A RevocationServer publishes the CRLs and OCSP responses of CAs over HTTP on
// loopback. What it says is signed anew for each request, at the time of its
// clock. It is safe for concurrent use.
type RevocationServer struct {
	t    TB
	now  func() time.Time
	base string

	mu       sync.Mutex
	cas      []*CA
	revoked  map[string]revocation // by CA and serial
	crl      Fault
	ocsp     Fault
	requests map[string]int // by "crl" and "ocsp"
}

type revocation struct {
	serial *big.Int
	at     time.Time
	reason int
}

type sourceURLs struct{ crl, ocsp string }

// NewRevocationServer starts a server, which ends with the test. A nil clock is
// time.Now.
func NewRevocationServer(t TB, now func() time.Time) *RevocationServer {
	t.Helper()
	if now == nil {
		now = time.Now
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("mtlstest: NewRevocationServer: %v", err)
		return nil
	}
	s := &RevocationServer{t: t, now: now, base: "http://" + l.Addr().String(), revoked: map[string]revocation{}, requests: map[string]int{}}
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until Close
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return s
}

// Serve publishes the status of what the CA issued. Certificates that it issues
// from now on name this server.
func (s *RevocationServer) Serve(ca *CA) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.cas)
	s.cas = append(s.cas, ca)
	ca.url = &sourceURLs{crl: fmt.Sprintf("%s/crl/%d", s.base, n), ocsp: fmt.Sprintf("%s/ocsp/%d", s.base, n)}
}

// Revoke revokes a certificate of a served CA with a CRLReason (RFC 5280 section
// 5.3.1), zero being unspecified.
func (s *RevocationServer) Revoke(c *Certificate, reason int) {
	s.revoke(c.leaf.Issuer, c.leaf.Certificate, reason)
}

// RevokeCA revokes the certificate of an intermediate CA.
func (s *RevocationServer) RevokeCA(ca *CA, reason int) {
	s.revoke(ca.pki.Parent, ca.pki.Certificate, reason)
}

func (s *RevocationServer) revoke(issuer *testpki.CA, c *x509.Certificate, reason int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked[revocationKey(issuer, c.SerialNumber)] = revocation{c.SerialNumber, s.now().Add(-time.Minute), reason}
}

// Restore takes a revocation back (as after certificateHold).
func (s *RevocationServer) Restore(c *Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.revoked, revocationKey(c.leaf.Issuer, c.leaf.Certificate.SerialNumber))
}

func revocationKey(issuer *testpki.CA, serial *big.Int) string {
	return string(issuer.Certificate.RawSubjectPublicKeyInfo) + " " + serial.String()
}

// Fail sets the fault of both protocols.
func (s *RevocationServer) Fail(f Fault) { s.FailCRL(f); s.FailOCSP(f) }

// FailCRL sets the fault of CRL downloads.
func (s *RevocationServer) FailCRL(f Fault) { s.mu.Lock(); s.crl = f; s.mu.Unlock() }

// FailOCSP sets the fault of the OCSP responder.
func (s *RevocationServer) FailOCSP(f Fault) { s.mu.Lock(); s.ocsp = f; s.mu.Unlock() }

// Requests returns how many CRLs and OCSP responses were asked for.
func (s *RevocationServer) Requests() (crl, ocsp int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests["crl"], s.requests["ocsp"]
}

// Staple returns the OCSP response for a certificate as it is now, for a client
// to staple (tls.Certificate.OCSPStaple).
func (s *RevocationServer) Staple(c *Certificate) []byte {
	s.t.Helper()
	der, err := s.response(c.leaf.Issuer, c.leaf.Certificate.SerialNumber, NoFault)
	if err != nil {
		s.t.Fatalf("mtlstest: Staple: %v", err)
	}
	return der
}

// ServeHTTP answers for a path that a certificate named.
func (s *RevocationServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/", 3)
	var n int
	if len(parts) < 2 {
		http.NotFound(w, r)
		return
	}
	if _, err := fmt.Sscanf(parts[1], "%d", &n); err != nil {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	if n < 0 || n >= len(s.cas) {
		s.mu.Unlock()
		http.NotFound(w, r)
		return
	}
	ca, fault := s.cas[n], s.crl
	if parts[0] == "ocsp" {
		fault = s.ocsp
	}
	s.requests[parts[0]]++
	s.mu.Unlock()
	if transportFault(w, r, fault) {
		return
	}
	var der []byte
	var err error
	contentType := "application/pkix-crl"
	switch parts[0] {
	case "crl":
		der, err = s.list(ca.pki, fault)
	case "ocsp":
		contentType = "application/ocsp-response"
		var serial *big.Int
		if serial, err = requestedSerial(r, parts[2:]); err == nil {
			der, err = s.response(ca.pki, serial, fault)
		}
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if fault == Truncated {
		der = der[:len(der)-1]
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(der)
}

// transportFault plays a fault that needs no evidence, and reports whether it
// did.
func transportFault(w http.ResponseWriter, r *http.Request, f Fault) bool {
	switch f {
	case Down:
		panic(http.ErrAbortHandler) // net/http closes the connection
	case Hang:
		<-r.Context().Done()
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
	default:
		return false
	}
	return true
}

// when returns thisUpdate of an answer with a fault.
func (s *RevocationServer) when(f Fault) time.Time {
	now := s.now()
	switch f {
	case Stale:
		return now.Add(-2 * Validity)
	case Future:
		return now.Add(2 * Validity)
	}
	return now.Add(-time.Minute)
}

func (s *RevocationServer) list(ca *testpki.CA, f Fault) ([]byte, error) {
	var entries []x509.RevocationListEntry
	s.mu.Lock()
	for key, r := range s.revoked {
		if strings.HasPrefix(key, string(ca.Certificate.RawSubjectPublicKeyInfo)) {
			entries = append(entries, x509.RevocationListEntry{SerialNumber: r.serial, RevocationTime: r.at, ReasonCode: r.reason})
		}
	}
	s.mu.Unlock()
	this := s.when(f)
	o := testpki.CRLOptions{Number: big.NewInt(this.Unix()), ThisUpdate: this, NextUpdate: this.Add(Validity), Entries: entries}
	if f == WrongSigner {
		stranger, err := testpki.NewRoot(testpki.Options{CommonName: ca.Certificate.Subject.CommonName})
		if err != nil {
			return nil, err
		}
		o.Signer = stranger
	}
	return ca.CRL(o)
}

func (s *RevocationServer) response(ca *testpki.CA, serial *big.Int, f Fault) ([]byte, error) {
	switch f {
	case TryLater:
		return ocsp.TryLaterErrorResponse, nil
	case Unauthorized:
		return ocsp.UnauthorizedErrorResponse, nil
	case WrongSerial:
		serial = new(big.Int).Add(serial, big.NewInt(1))
	}
	s.mu.Lock()
	r, revoked := s.revoked[revocationKey(ca, serial)]
	s.mu.Unlock()
	this := s.when(f)
	o := testpki.OCSPOptions{Status: ocsp.Good, Serial: serial, ThisUpdate: this, NextUpdate: this.Add(Validity), NoNextUpdate: f == NoNextUpdate}
	switch {
	case f == UnknownCert:
		o.Status = ocsp.Unknown
	case revoked:
		o.Status, o.RevokedAt, o.Reason = ocsp.Revoked, r.at, r.reason
	}
	if f == WrongSigner {
		stranger, err := testpki.NewRoot(testpki.Options{CommonName: ca.Certificate.Subject.CommonName})
		if err != nil {
			return nil, err
		}
		forged := *ca
		forged.Key = stranger.Key
		ca = &forged
	}
	return ca.OCSP(o)
}

// requestedSerial reads an OCSP request, by POST or GET (RFC 6960 appendix A.1).
func requestedSerial(r *http.Request, rest []string) (*big.Int, error) {
	var der []byte
	var err error
	if r.Method == http.MethodPost {
		der, err = io.ReadAll(io.LimitReader(r.Body, 64<<10))
	} else {
		encoded, unescapeErr := url.PathUnescape(strings.Join(rest, "/"))
		if unescapeErr != nil {
			return nil, unescapeErr
		}
		der, err = base64.StdEncoding.DecodeString(encoded)
	}
	if err != nil {
		return nil, err
	}
	request, err := ocsp.ParseRequest(der)
	if err != nil {
		return nil, err
	}
	return request.SerialNumber, nil
}
