package crl

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Whoever runs a CA writes both the list and the certificate: without bounds a
// hundred thousand names of one and ten thousand of the other would be compared
// for every look at the list.
const (
	maxListNames        = 64
	maxCertificateNames = 64
)

// scope is the issuing distribution point: which certificates of its issuer a
// list speaks for. The zero value, which a list without that extension has, is
// all of them.
type scope struct {
	point    x509ext.DistributionPoint // HasName false: the list is not partitioned by point
	userOnly bool                      // onlyContainsUserCerts
	caOnly   bool                      // onlyContainsCACerts
}

// parseScope parses an IssuingDistributionPoint (RFC 5280 section 5.2.5) and
// refuses those kinds of list that this package does not handle.
func parseScope(value cryptobyte.String) (scope, error) {
	var s scope
	var seq, name, skipped cryptobyte.String
	var hasName, someReasons, indirect, attributes bool
	if !value.ReadASN1(&seq, cbasn1.SEQUENCE) || !value.Empty() ||
		!seq.ReadOptionalASN1(&name, &hasName, contextSpecific0.Constructed()) ||
		!readFlag(&seq, 1, &s.userOnly) ||
		!readFlag(&seq, 2, &s.caOnly) ||
		!seq.ReadOptionalASN1(&skipped, &someReasons, cbasn1.Tag(3).ContextSpecific()) ||
		!readFlag(&seq, 4, &indirect) ||
		!readFlag(&seq, 5, &attributes) || !seq.Empty() {
		return scope{}, fmt.Errorf("%w: issuing distribution point", ErrMalformed)
	}
	switch {
	case someReasons:
		return scope{}, fmt.Errorf("%w: covers only some reasons", ErrUnusable)
	case indirect:
		return scope{}, fmt.Errorf("%w: an indirect CRL", ErrUnusable)
	case attributes:
		return scope{}, fmt.Errorf("%w: covers attribute certificates", ErrUnusable)
	case s.userOnly && s.caOnly:
		return scope{}, fmt.Errorf("%w: covers only user and only CA certificates", ErrUnusable)
	}
	if hasName {
		var err error
		if s.point, err = x509ext.ParseDistributionPointName(name); err != nil {
			return scope{}, fmt.Errorf("%w: issuing distribution point: %w", ErrMalformed, err)
		}
		if names(s.point) > maxListNames {
			return scope{}, fmt.Errorf("%w: more than %d names of its distribution point", ErrUnusable, maxListNames)
		}
	}
	return s, nil
}

// readFlag reads an implicitly tagged BOOLEAN DEFAULT FALSE.
func readFlag(in *cryptobyte.String, tag uint8, flag *bool) bool {
	var value cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&value, &present, cbasn1.Tag(tag).ContextSpecific()) {
		return false
	}
	if !present {
		return true
	}
	if len(value) != 1 || value[0] != 0 && value[0] != 0xff {
		return false
	}
	*flag = value[0] == 0xff
	return true
}

// Covers decides whether the list speaks for the certificate (RFC 5280 section
// 6.3.3 (b)): then, and only then, absence of its serial number says that it is
// not revoked. Otherwise the error wraps ErrScope. The caller has seen to it
// that the certificate was issued by the key that signed the list: the chain
// says so, and IssuedBy.
//
// A list for a distribution point speaks for a certificate if one of the names
// of that point, URI or directory name, is among those of the certificate's
// distribution points, all pairs compared byte for byte. Otherwise somebody on
// the path could serve the valid list of another partition, in which the serial
// number is missing. Points with reasons or cRLIssuer do not count, and names
// relative to the issuer never match. A certificate with more than 64 names is
// not covered.
func (l *List) Covers(cert *x509.Certificate) error {
	if !bytes.Equal(cert.RawIssuer, l.RawIssuer) {
		return fmt.Errorf("%w: it has another issuer", ErrScope)
	}
	isCA := cert.BasicConstraintsValid && cert.IsCA
	if l.scope.userOnly && isCA {
		return fmt.Errorf("%w: only user certificates", ErrScope)
	}
	if l.scope.caOnly && !isCA {
		return fmt.Errorf("%w: only CA certificates", ErrScope)
	}
	if !l.scope.point.HasName {
		return nil
	}
	points, err := x509ext.DistributionPoints(cert)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrScope, err)
	}
	count := 0
	for _, p := range points {
		count += names(p)
	}
	if count > maxCertificateNames {
		return fmt.Errorf("%w: more than %d names of distribution points", ErrScope, maxCertificateNames)
	}
	for _, p := range points {
		if !p.Reasons && !p.CRLIssuer && commonName(l.scope.point, p) {
			return nil
		}
	}
	return fmt.Errorf("%w: another distribution point", ErrScope)
}

// names counts the names that are compared.
func names(p x509ext.DistributionPoint) int { return len(p.URIs) + len(p.DirectoryNames) }

func commonName(a, b x509ext.DistributionPoint) bool {
	return slices.ContainsFunc(a.URIs, func(uri string) bool {
		return slices.Contains(b.URIs, uri)
	}) || slices.ContainsFunc(a.DirectoryNames, func(name []byte) bool {
		return slices.ContainsFunc(b.DirectoryNames, func(other []byte) bool { return bytes.Equal(name, other) })
	})
}
