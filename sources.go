package mtls

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/fetch"
)

// Bounds on the operator's own sources.
const (
	filesEvery = 10 * time.Second // between two looks at files
	urlLimit   = 128 << 20        // of a list
)

// CRLURLs returns a source of CRLs at fixed places: those of an authority that its
// certificates do not name, or a mirror of one's own. They may be private, and
// are fetched ahead by Run. A list counts for whichever of its issuers' certificates
// it covers.
func CRLURLs(urls ...string) RevocationSource { return crlURLs(slices.Clone(urls)) }

type crlURLs []string

// Evidence asks all places, for a source of the caller's that has this one inside.
// A Guard asks each by itself, with conditional requests and Revocation.Client.
func (u crlURLs) Evidence(ctx context.Context, cert, issuer *x509.Certificate) (Evidence, error) {
	var e Evidence
	var failed []error
	client := fetch.New(fetch.Options{})
	for _, place := range u {
		given, err := urlSource(place, client).Get(ctx, cert, issuer, "")
		e.CRLs, failed = append(e.CRLs, given.CRLs...), append(failed, err)
	}
	if len(e.CRLs) > 0 {
		return e, nil
	}
	return Evidence{}, errors.Join(failed...)
}

// Evidence returns the lists that may speak about a certificate.
func (c *CRLFiles) Evidence(_ context.Context, cert, _ *x509.Certificate) (Evidence, error) {
	c.poll()
	ders, _, err := c.read(cert.RawIssuer)
	if err != nil {
		return Evidence{}, err
	}
	return Evidence{CRLs: ders}, nil
}

// checkSource finds what would never give anything.
func checkSource(failed *problems, field string, s RevocationSource) {
	if missing(s) {
		failed.add(field, "", "nil")
		return
	}
	switch s := s.(type) {
	case crlURLs:
		if len(s) == 0 {
			failed.add(field, "", "CRLURLs without a URL")
		}
		for _, raw := range s {
			u, err := url.Parse(raw)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Contains(raw, "#") {
				failed.add(field, raw, "not an http URL of a list")
			}
		}
	case *CRLFiles:
		if s.state.Load() == nil {
			failed.add(field, "", "not made by LoadCRLs")
		}
	}
}

// missing reports whether an interface value is nil or holds a nil pointer.
func missing(s RevocationSource) bool {
	if s == nil {
		return true
	}
	v := reflect.ValueOf(s)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// compileSources makes sources that the engine can ask. One given again, after a
// Reload for example, is the same source, so that what it gave stays.
func compileSources(list []RevocationSource, client *fetch.Client) []*evidence.Source {
	var compiled []*evidence.Source
	for _, s := range list {
		switch s := s.(type) {
		case crlURLs:
			for _, place := range s {
				compiled = append(compiled, urlSource(place, client))
			}
		case *CRLFiles:
			compiled = append(compiled, s.source())
		default:
			compiled = append(compiled, ownSource(s))
		}
	}
	return compiled
}

// ownSource asks the caller's own.
func ownSource(s RevocationSource) *evidence.Source {
	id := "own " + newID()
	if v := reflect.ValueOf(s); v.Kind() == reflect.Pointer {
		id = fmt.Sprintf("own %T %p", s, s) // a slot keeps it alive, so that no other can get its place
	}
	return &evidence.Source{
		ID: id, Name: fmt.Sprintf("source %T", s),
		Get: func(ctx context.Context, cert, issuer *x509.Certificate, _ string) (evidence.Statements, error) {
			given, err := s.Evidence(ctx, cert, issuer)
			if err != nil {
				err = fmt.Errorf("%w: %w", evidence.ErrUnavailable, err)
			}
			return evidence.Statements{CRLs: given.CRLs, OCSP: given.OCSP}, err
		},
	}
}

// source is the files as the engine asks them.
func (c *CRLFiles) source() *evidence.Source {
	return &evidence.Source{
		ID: fmt.Sprintf("files %p", c), Name: "CRL files " + quote(strings.Join(c.paths, " ")), Shared: true, Every: filesEvery,
		Get: func(_ context.Context, _, issuer *x509.Certificate, have string) (evidence.Statements, error) {
			c.poll()
			if have != "" && c.version(issuer.RawSubject) == have {
				return evidence.Statements{Version: have, Unchanged: true}, nil
			}
			ders, version, err := c.read(issuer.RawSubject)
			return evidence.Statements{CRLs: ders, Version: version, Partial: err}, nil
		},
	}
}

// validators are what a server said that its list is.
type validators struct{ ETag, LastModified string }

// urlSource is one fixed place.
func urlSource(place string, client *fetch.Client) *evidence.Source {
	return &evidence.Source{
		ID: "url " + place, Name: "CRL " + quote(place), Shared: true,
		Get: func(ctx context.Context, _, issuer *x509.Certificate, have string) (evidence.Statements, error) {
			var v validators
			if have != "" {
				_ = json.Unmarshal([]byte(have), &v) // what cannot be read makes the request unconditional
			}
			response, err := client.Do(ctx, fetch.Request{
				URL: place, Operator: true, Accept: "application/pkix-crl", Limit: urlLimit, ETag: v.ETag, LastModified: v.LastModified,
			})
			if err != nil {
				return evidence.Statements{}, err
			}
			if response.NotModified {
				return evidence.Statements{Version: have, Unchanged: true}, nil
			}
			p, err := crl.Peek(response.Body)
			if err != nil {
				return evidence.Statements{}, err
			}
			given := evidence.Statements{}
			if p.Indirect || string(p.RawIssuer) == string(issuer.RawSubject) {
				given.CRLs = [][]byte{response.Body}
			}
			if v := (validators{response.ETag, response.LastModified}); v != (validators{}) {
				version, err := json.Marshal(v)
				if err != nil {
					return evidence.Statements{}, err
				}
				given.Version = string(version)
			}
			return given, nil
		},
	}
}
