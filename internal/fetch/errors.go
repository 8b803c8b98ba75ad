package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
)

// Refusals of a response that was received.
var (
	ErrTooLarge  = errors.New("the response is larger than the limit")
	ErrEmpty     = errors.New("the response is empty")
	ErrHTML      = errors.New("the response is HTML")
	ErrEncoded   = errors.New("the response has a content encoding")
	ErrRedirects = errors.New("more than two redirects")
)

// Error is a failed fetch: which one, and why. Use errors.As and errors.Is for the reason.
type Error struct {
	Method string // GET or POST
	URL    string // as asked for, before redirects
	Err    error
}

// Error quotes the URL, which comes from a certificate, and cuts it.
func (e *Error) Error() string {
	return "fetch: " + e.Method + " " + quote(e.URL) + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// URLError is a URL that is never fetched, whatever it resolves to.
type URLError struct {
	URL     string
	Problem string // a fixed text: what is wrong with it
}

// Error quotes the URL and cuts it.
func (e *URLError) Error() string { return "the URL " + quote(e.URL) + " " + e.Problem }

// BlockedError is an address that certificates may not send us to: of special use and not in AllowNetworks, or a port other than 80 and 443 outside them.
type BlockedError struct {
	Address netip.AddrPort
	URL     string // the one that led there, the target of a redirect included
}

// Error quotes the URL and cuts it.
func (e *BlockedError) Error() string {
	return "the address " + e.Address.String() + " of " + quote(e.URL) + " is not allowed for URLs from certificates"
}

// StatusError is a response with a status other than 200, or 304 where nothing was asked that it answers.
type StatusError struct {
	Code int
}

// Error names the status code.
func (e *StatusError) Error() string { return fmt.Sprintf("HTTP status %d", e.Code) }

// failure is any other error. Its text may hold what a server sent, so it is quoted and cut.
type failure struct {
	err   error
	local bool // not of the network: an invalid Request, or what a function of the caller's returned
}

func (e *failure) Error() string { return quote(e.err.Error()) }
func (e *failure) Unwrap() error { return e.err }

func local(err error) error { return &failure{err: err, local: true} }

// Unavailable reports whether the source did not answer: no address, no connection, no TLS, no complete HTTP response, a status other than 200 and 304, or
// no time left. It is false for nil and for whatever did come or was not to be asked: a wrong answer, a blocked address, a URL that is never fetched, more
// than two redirects, and what a function of the caller's refused. Where missing evidence may be tolerated, that is the difference between a source that is
// down and one that somebody answers for. Errors of other packages are unavailability only if they are a context's. err is that of one fetch, wrapped or
// not: of several joined errors the first would speak for all.
func Unavailable(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		err = e.Err
		if f, ok := err.(*failure); ok {
			return !f.local
		}
		if _, ok := err.(*StatusError); ok {
			return true
		}
		return err == context.Canceled || err == context.DeadlineExceeded
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// tidy takes the envelope of net/http off, tells a BlockedError which URL led there (target, or what it redirected to), and quotes foreign text.
func tidy(err error, target string) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		target, err = e.URL, e.Err
	}
	if e, ok := errors.AsType[*failure](err); ok {
		return e // before what it may wrap: a caller's function can fail with anything
	}
	if e, ok := errors.AsType[*BlockedError](err); ok {
		return &BlockedError{Address: e.Address, URL: target}
	}
	if e, ok := errors.AsType[*URLError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e
	}
	for _, own := range []error{ErrTooLarge, ErrEmpty, ErrHTML, ErrEncoded, ErrRedirects, context.Canceled, context.DeadlineExceeded} {
		if err == own {
			return err
		}
	}
	return &failure{err: err}
}

// quote makes text from outside safe for a log: escaped, and at most 256 bytes of it.
func quote(s string) string {
	const limit = 256
	if len(s) > limit {
		return strconv.Quote(s[:limit]) + "..."
	}
	return strconv.Quote(s)
}
