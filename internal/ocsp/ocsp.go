// Package ocsp makes OCSP requests and verifies responses to them (RFC 6960),
// from the raw bytes: golang.org/x/crypto/ocsp compares the serial number only,
// lets every certificate of the CA sign for it, and looks at no time.
//
// A response becomes evidence in two steps, neither of which implies the other:
// Verify, and CheckTime of the Answer.
package ocsp

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Limits on what Verify looks at; a response beyond one of them is malformed.
const (
	MaxResponse     = 64 << 10 // octets
	MaxNonce        = 128      // octets (RFC 9654 section 2.1)
	maxCertificates = 10       // embedded
	maxAnswers      = 100      // SingleResponses
)

// The errors of this package, but for ResponseError, wrap one of these. None of
// them says anything about a certificate: a response with an error is no
// evidence.
var (
	ErrMalformed    = errors.New("malformed OCSP response")              // not the DER of a basic response version 1
	ErrCritical     = errors.New("critical extension in OCSP response")  // none but the nonce is supported
	ErrNoAnswer     = errors.New("OCSP response for other certificates") // by issuer name, issuer key or serial number
	ErrUnauthorized = errors.New("OCSP response by somebody else")       // signed neither by the issuer nor by a responder of its
	ErrFuture       = errors.New("OCSP response from the future")        // produced or valid later than the clock says
	ErrExpired      = errors.New("OCSP response expired")                // it, or its responder's certificate
)

// ResponseError is a response that carries no answer but an error of the
// responder (RFC 6960 section 4.2.1). It is no evidence.
type ResponseError struct {
	Code int // OCSPResponseStatus: 1, 2, 3, 5 or 6
}

// Error names the status.
func (e *ResponseError) Error() string {
	return "OCSP responder: " + ocsp.ResponseStatus(e.Code).String()
}

// Status is what a responder says about a certificate. The zero value is
// Unknown.
type Status int

// The statuses of RFC 6960 section 2.2.
const (
	Unknown Status = iota // the responder does not know the certificate
	Good                  // not revoked
	Revoked               // for whichever reason, certificateHold included
)

// String returns the name of the status.
func (s Status) String() string {
	switch s {
	case Good:
		return "good"
	case Revoked:
		return "revoked"
	default:
		return "unknown"
	}
}

// Answer is what a verified response says about one certificate. The zero
// Answer says nothing: its Status is Unknown and CheckTime fails.
type Answer struct {
	Status     Status
	ThisUpdate time.Time // in UTC
	NextUpdate time.Time // in UTC; zero: absent
	ProducedAt time.Time // in UTC
	RevokedAt  time.Time // in UTC, of a revoked certificate; may lie in the future
	Reason     int       // CRLReason of RFC 5280 section 5.3.1; 0: unspecified
	HasReason  bool      // the reason was stated

	// Responder is the certificate of the delegated responder that signed;
	// nil: the issuer itself did.
	Responder *x509.Certificate
	// ResponderNeedsCheck is true for a Responder without id-pkix-ocsp-nocheck
	// (RFC 6960 section 4.2.2.2.1): the answer counts only if the responder's
	// own certificate is shown not to be revoked.
	ResponderNeedsCheck bool

	// Nonce holds the octets of the response's nonce (RFC 9654), at most
	// MaxNonce; empty: it has none. Whether it must be that of a request is
	// the caller's to decide: a response that was made beforehand has none.
	Nonce string
}

// CheckTime decides whether the answer counts at the time now. Times ahead of
// the clock are tolerated up to skew; nothing is tolerated past nextUpdate. An
// answer without nextUpdate counts for noNextUpdateAge from thisUpdate on. A
// delegated responder's certificate must be valid at now.
//
// What fails is no evidence that a certificate is good. A caller who lets
// missing evidence pass must heed Revoked all the same: time does not undo it.
func (a *Answer) CheckTime(now time.Time, skew, noNextUpdateAge time.Duration) error {
	end := a.NextUpdate
	if end.IsZero() {
		end = a.ThisUpdate.Add(noNextUpdateAge)
	}
	switch {
	case end.Before(a.ThisUpdate):
		return fmt.Errorf("%w: nextUpdate %s is before thisUpdate %s", ErrMalformed, stamp(end), stamp(a.ThisUpdate))
	case a.ThisUpdate.After(now.Add(skew)):
		return fmt.Errorf("%w: thisUpdate is %s", ErrFuture, stamp(a.ThisUpdate))
	case a.ProducedAt.After(now.Add(skew)):
		return fmt.Errorf("%w: producedAt is %s", ErrFuture, stamp(a.ProducedAt))
	case now.After(end):
		return fmt.Errorf("%w: it was valid until %s", ErrExpired, stamp(end))
	case a.Responder != nil && !validAt(a.Responder, now, skew):
		return fmt.Errorf("%w: the responder's certificate is valid from %s to %s",
			ErrExpired, stamp(a.Responder.NotBefore), stamp(a.Responder.NotAfter))
	}
	return nil
}

func stamp(t time.Time) string { return t.Format(time.RFC3339) }

// validAt tolerates a certificate that starts up to skew later: a responder
// with a new certificate and a clock that is slightly ahead.
func validAt(c *x509.Certificate, t time.Time, skew time.Duration) bool {
	return !c.NotBefore.After(t.Add(skew)) && !t.After(c.NotAfter)
}
