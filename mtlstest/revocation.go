package mtlstest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/testpki"
)

// Validity is how long what a RevocationServer says is current.
const Validity = 24 * time.Hour

// listAge is how long a CRL is served before it is signed anew, by the clock.
const listAge = time.Hour

// A RevocationServer publishes the CRLs and OCSP responses of CAs over HTTP on
// loopback, signed at the time of its clock: a response for each request, with
// its nonce (RFC 9654) and the hash of its CertID; a CRL when a revocation or an
// hour has passed since the last one, under a higher number. A CRL has an ETag
// and Last-Modified, and conditional requests are answered with status 304
// (RFC 9110 section 13). It is safe for concurrent use.
type RevocationServer struct {
	t       TB
	now     func() time.Time
	base    string
	closing context.Context // ends with the test

	mu          sync.Mutex
	cas         []*CA
	revoked     map[string]revocation // by CA and serial
	news        int                   // counts revocations and what takes them back
	lists       map[*CA]*signedList   // the last one without fault
	signed      int64                 // counts lists
	crl         Fault
	ocsp        Fault
	requests    map[string]int // by "crl" and "ocsp"
	notModified int
}

// signedList is a CRL as it is served.
type signedList struct {
	der      []byte
	signed   time.Time // by the clock
	modified time.Time // Last-Modified, another one for each list without fault
	news     int
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
	closing, closeHandlers := context.WithCancel(context.Background())
	s := &RevocationServer{t: t, now: now, base: "http://" + l.Addr().String(), closing: closing,
		revoked: map[string]revocation{}, lists: map[*CA]*signedList{}, requests: map[string]int{}}
	server := &http.Server{Handler: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // until Close
	}()
	t.Cleanup(func() {
		closeHandlers()
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
	s.news++
	s.revoked[revocationKey(issuer, c.SerialNumber)] = revocation{c.SerialNumber, s.now().Add(-time.Minute), reason}
}

// Restore takes a revocation back (as after certificateHold).
func (s *RevocationServer) Restore(c *Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news++
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
// NotModified tells how many of the CRLs the asker already had.
func (s *RevocationServer) Requests() (crl, ocsp int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests["crl"], s.requests["ocsp"]
}

// NotModified returns how many requests for a CRL were answered with status 304.
func (s *RevocationServer) NotModified() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notModified
}

// Staple returns the OCSP response for a certificate as it is now, for a client
// to staple (tls.Certificate.OCSPStaple).
func (s *RevocationServer) Staple(c *Certificate) []byte {
	s.t.Helper()
	der, err := s.response(c.leaf.Issuer, ocspRequest{serial: c.leaf.Certificate.SerialNumber, hash: crypto.SHA1}, NoFault)
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
	// While a body is unread, net/http does not see that the asker has gone.
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if s.transportFault(w, r, fault) {
		return
	}
	switch parts[0] {
	case "crl":
		s.serveList(w, r, ca, fault)
	case "ocsp":
		s.serveResponse(w, r, ca.pki, body, parts[2:], fault)
	default:
		http.NotFound(w, r)
	}
}

func (s *RevocationServer) serveList(w http.ResponseWriter, r *http.Request, ca *CA, f Fault) {
	list, err := s.list(ca, f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	der := list.der
	if f == Truncated {
		der = der[:len(der)-1]
	}
	w.Header().Set("Content-Type", "application/pkix-crl")
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(der)))
	status := &statusWriter{ResponseWriter: w}
	http.ServeContent(status, r, "", list.modified, bytes.NewReader(der))
	if status.code == http.StatusNotModified {
		s.mu.Lock()
		s.notModified++
		s.mu.Unlock()
	}
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

func (s *RevocationServer) serveResponse(w http.ResponseWriter, r *http.Request, ca *testpki.CA, body []byte, rest []string, f Fault) {
	request, err := parseOCSPRequest(r.Method, body, rest)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	der, err := s.response(ca, request, f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if f == Truncated {
		der = der[:len(der)-1]
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	_, _ = w.Write(der)
}

// when returns thisUpdate of an answer with a fault.
func when(now time.Time, f Fault) time.Time {
	switch f {
	case Stale:
		return now.Add(-2 * Validity)
	case Future:
		return now.Add(2 * Validity)
	case Older:
		return now.Add(-time.Hour)
	}
	return now.Add(-time.Minute)
}

// list returns the CRL of a CA: the last one, while it has no fault and nothing
// has happened.
func (s *RevocationServer) list(ca *CA, f Fault) (*signedList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	last := s.lists[ca]
	if f == NoFault && last != nil && last.news == s.news && !now.Before(last.signed) && now.Before(last.signed.Add(listAge)) {
		return last, nil
	}
	this := when(now, f)
	l := &signedList{signed: now, modified: this, news: s.news}
	if f == NoFault && last != nil && !this.Truncate(time.Second).After(last.modified) {
		// Two lists of one second would look like one to If-Modified-Since.
		l.modified = last.modified.Add(time.Second)
	}
	var entries []x509.RevocationListEntry
	for key, r := range s.revoked {
		if strings.HasPrefix(key, string(ca.pki.Certificate.RawSubjectPublicKeyInfo)) && !(f == Older && r.at.After(this)) {
			entries = append(entries, x509.RevocationListEntry{SerialNumber: r.serial, RevocationTime: r.at, ReasonCode: r.reason})
		}
	}
	// The number grows with the clock, and from list to list of one second.
	s.signed++
	number := new(big.Int).Mul(big.NewInt(this.Unix()), big.NewInt(1_000_000))
	number.Add(number, big.NewInt(s.signed))
	var err error
	l.der, err = faultyList(ca.pki, testpki.CRLOptions{Number: number, ThisUpdate: this, NextUpdate: this.Add(Validity), Entries: entries}, f)
	if err != nil {
		return nil, err
	}
	if f == NoFault {
		s.lists[ca] = l
	}
	return l, nil
}

func (s *RevocationServer) response(ca *testpki.CA, request ocspRequest, f Fault) ([]byte, error) {
	if len(request.nonce) > maxNonce || request.nonce != nil && len(request.nonce) == 0 {
		return ocsp.MalformedRequestErrorResponse, nil
	}
	s.mu.Lock()
	r, revoked := s.revoked[revocationKey(ca, request.serial)]
	s.mu.Unlock()
	now := s.now()
	this := when(now, f)
	o := testpki.OCSPOptions{Status: ocsp.Good, Serial: request.serial, Hash: request.hash,
		ThisUpdate: this, NextUpdate: this.Add(Validity), NoNextUpdate: f == NoNextUpdate}
	if revoked && !(f == Older && r.at.After(this)) {
		o.Status, o.RevokedAt, o.Reason = ocsp.Revoked, r.at, r.reason
	}
	if request.nonce != nil && f != NoNonce {
		value, err := asn1.Marshal(request.nonce)
		if err != nil {
			return nil, err
		}
		o.Extensions = []pkix.Extension{{Id: oidNonce, Value: value}}
	}
	return faultyResponse(ca, o, now, f)
}
