package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

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

// scope is the issuing distribution point: which certificates a list speaks for.
// The zero value, which a list without that extension has, is all those of its
// issuer, for all reasons.
type scope struct {
	value    []byte                    // of the extension; nil: absent
	point    x509ext.DistributionPoint // HasName false: the list is not partitioned by point; a relative name is among DirectoryNames
	userOnly bool                      // onlyContainsUserCerts
	caOnly   bool                      // onlyContainsCACerts
	indirect bool                      // indirectCRL

	someReasons x509ext.ReasonFlags // onlySomeReasons; zero: absent
}

// parseScope parses an IssuingDistributionPoint (RFC 5280 section 5.2.5) of a
// list of the issuer with that Name. It refuses lists that cover no certificate.
func parseScope(value cryptobyte.String, rawIssuer []byte) (scope, error) {
	s := scope{value: append([]byte{}, value...)}
	var seq, name, reasons cryptobyte.String
	var hasName, hasReasons, attributes bool
	ok := value.ReadASN1(&seq, cbasn1.SEQUENCE) && value.Empty() &&
		seq.ReadOptionalASN1(&name, &hasName, contextSpecific0.Constructed()) &&
		readFlag(&seq, 1, &s.userOnly) &&
		readFlag(&seq, 2, &s.caOnly) &&
		seq.ReadOptionalASN1(&reasons, &hasReasons, cbasn1.Tag(3).ContextSpecific()) &&
		readFlag(&seq, 4, &s.indirect) &&
		readFlag(&seq, 5, &attributes) && seq.Empty()
	if ok && hasReasons {
		s.someReasons, ok = x509ext.ParseReasonFlags(reasons)
	}
	switch {
	case !ok:
		return scope{}, fmt.Errorf("%w: issuing distribution point", ErrMalformed)
	case attributes:
		return scope{}, fmt.Errorf("%w: covers attribute certificates", ErrUnusable)
	case s.userOnly && s.caOnly:
		return scope{}, fmt.Errorf("%w: covers only user and only CA certificates", ErrUnusable)
	case hasReasons && s.someReasons == 0:
		return scope{}, fmt.Errorf("%w: covers no reason", ErrUnusable)
	}
	if hasName {
		if err := s.parseName(name, rawIssuer); err != nil {
			return scope{}, err
		}
	}
	return s, nil
}

func (s *scope) parseName(name cryptobyte.String, rawIssuer []byte) error {
	var err error
	if s.point, err = x509ext.ParseDistributionPointName(name); err != nil {
		return fmt.Errorf("%w: issuing distribution point: %w", ErrMalformed, err)
	}
	if full, ok := s.point.FullName(rawIssuer); ok {
		s.point.DirectoryNames = append(s.point.DirectoryNames, full)
	}
	if names(s.point) > maxListNames {
		return fmt.Errorf("%w: more than %d names of its distribution point", ErrUnusable, maxListNames)
	}
	return nil
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

// reasons are those that the list covers.
func (s *scope) reasons() x509ext.ReasonFlags {
	if s.someReasons == 0 {
		return x509ext.AllReasons
	}
	return s.someReasons
}

// Covers decides whether, and for which reasons, the list speaks for the
// certificate (RFC 5280 section 6.3.3 (b) and (d)): then, and only then, absence
// of its entry says that it was not revoked for one of these reasons. They are
// never none; otherwise the error wraps ErrScope. The certificate counts as not
// revoked if lists cover AllReasons together. The caller has seen to it that the
// list's signer may speak for the certificate's issuer; see ParseAndVerify.
//
// A list for a distribution point speaks for a certificate if one of the names
// of that point, URI or directory name, is among those of one of the
// certificate's distribution points, all pairs compared byte for byte. Otherwise
// somebody on the path could serve the valid list of another partition, in which
// the serial number is missing. A list of another issuer speaks for it only if
// it is indirect and a point of the certificate names that issuer. A list of the
// certificate's own issuer that is not for a point speaks for it whatever its
// points are.
//
// A delta covers nothing by itself: its base does. A certificate with more than
// 64 names, where they matter, is not covered.
func (l *List) Covers(cert *x509.Certificate) (x509ext.ReasonFlags, error) {
	if l.Delta() {
		return 0, fmt.Errorf("%w: a delta without its base", ErrScope)
	}
	return l.speaksFor(cert)
}

// Amends decides, as Covers does, whether a delta speaks for the certificate: then
// its entry for it counts, and its absence means nothing.
func (l *List) Amends(cert *x509.Certificate) error {
	if !l.Delta() {
		return fmt.Errorf("%w: not a delta", ErrScope)
	}
	_, err := l.speaksFor(cert)
	return err
}

func (l *List) speaksFor(cert *x509.Certificate) (x509ext.ReasonFlags, error) {
	isCA := cert.BasicConstraintsValid && cert.IsCA
	if l.scope.userOnly && isCA {
		return 0, fmt.Errorf("%w: only user certificates", ErrScope)
	}
	if l.scope.caOnly && !isCA {
		return 0, fmt.Errorf("%w: only CA certificates", ErrScope)
	}
	ownIssuer := len(l.RawIssuer) > 0 && bytes.Equal(cert.RawIssuer, l.RawIssuer)
	switch {
	case ownIssuer && !l.scope.point.HasName:
		return l.scope.reasons(), nil // the point that section 6.3.3 has one assume
	case !ownIssuer && !l.scope.indirect:
		return 0, fmt.Errorf("%w: it has another issuer", ErrScope)
	}
	points, err := x509ext.DistributionPoints(cert)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrScope, err)
	}
	if totalNames(points) > maxCertificateNames {
		return 0, fmt.Errorf("%w: more than %d names of distribution points", ErrScope, maxCertificateNames)
	}
	var reasons x509ext.ReasonFlags
	for _, p := range points {
		if l.isAt(p, ownIssuer) {
			reasons |= p.Reasons & l.scope.reasons()
		}
	}
	if reasons == 0 {
		return 0, fmt.Errorf("%w: another distribution point", ErrScope)
	}
	return reasons, nil
}

// isAt decides whether the list is one that the certificate's distribution point
// p means (RFC 5280 section 6.3.3 (b) (1) and (2)(i)).
func (l *List) isAt(p x509ext.DistributionPoint, ownIssuer bool) bool {
	if !p.HasCRLIssuer && !ownIssuer ||
		p.HasCRLIssuer && (!l.scope.indirect || !contains(p.CRLIssuer, l.RawIssuer)) {
		return false
	}
	if !l.scope.point.HasName {
		return true
	}
	if !p.HasName {
		return slices.ContainsFunc(p.CRLIssuer, l.scope.hasDirectoryName)
	}
	// A relative name must not be used with several issuers (section 4.2.1.13);
	// the only one is that of the list.
	if p.RelativeName && len(p.CRLIssuer) <= 1 {
		full, ok := p.FullName(l.RawIssuer)
		return ok && l.scope.hasDirectoryName(full)
	}
	return slices.ContainsFunc(p.URIs, func(uri string) bool { return slices.Contains(l.scope.point.URIs, uri) }) ||
		slices.ContainsFunc(p.DirectoryNames, l.scope.hasDirectoryName)
}

func (s *scope) hasDirectoryName(name []byte) bool { return contains(s.point.DirectoryNames, name) }

func contains(names [][]byte, name []byte) bool {
	return slices.ContainsFunc(names, func(other []byte) bool { return bytes.Equal(name, other) })
}

// names counts the names that are compared, and a point without any as one.
func names(p x509ext.DistributionPoint) int {
	return max(1, len(p.URIs)+len(p.DirectoryNames)+len(p.CRLIssuer))
}

func totalNames(points []x509ext.DistributionPoint) int {
	n := 0
	for _, p := range points {
		n += names(p)
	}
	return n
}

// SignerKey is x509ext.KeyHash of the certificate that verified the list.
func (l *List) SignerKey() [32]byte { return l.signerKey }

// Same reports whether two lists are one: signed by one key with one signature.
func (l *List) Same(other *List) bool {
	return l.signerKey == other.signerKey && l.signature == other.signature && l.ThisUpdate.Equal(other.ThisUpdate) && l.Len() == other.Len() && l.ScopeID() == other.ScopeID()
}

// ScopeID identifies what successive lists replace each other in: it is a hash
// of the issuer's name, the signer's key, the issuing distribution point and
// whether the list is a delta. A list with an older number or thisUpdate than
// one with the same ScopeID has been replayed.
func (l *List) ScopeID() [32]byte {
	h := sha256.New()
	kind := []byte{0}
	if l.Delta() {
		kind[0] = 1
	}
	for _, part := range [][]byte{l.RawIssuer, l.signerKey[:], l.scope.value, kind} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	return [32]byte(h.Sum(nil))
}

// Scope describes to the operator what the list speaks for, such as
//
//	user certificates at "http://crl.example/7.crl", some reasons (keyCompromise)
//
// Of the names in the list only the first is there, quoted and cut to 256 octets
// before that.
func (l *List) Scope() string {
	var b strings.Builder
	if l.Delta() {
		b.WriteString("delta of ")
	}
	if l.scope.indirect {
		b.WriteString("indirect, ")
	}
	switch {
	case l.scope.userOnly:
		b.WriteString("user certificates")
	case l.scope.caOnly:
		b.WriteString("CA certificates")
	case l.scope.point.HasName:
		b.WriteString("certificates")
	default:
		b.WriteString("all certificates")
	}
	if p := l.scope.point; p.HasName {
		b.WriteString(" at " + firstName(p))
		if more := len(p.URIs) + len(p.DirectoryNames) - 1; more > 0 {
			fmt.Fprintf(&b, " and %d more", more)
		}
	}
	if l.scope.someReasons != 0 {
		fmt.Fprintf(&b, ", some reasons (%s)", l.scope.someReasons)
	}
	return b.String()
}

func firstName(p x509ext.DistributionPoint) string {
	switch {
	case len(p.URIs) > 0:
		return quote(p.URIs[0])
	case len(p.DirectoryNames) > 0:
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(p.DirectoryNames[0], &rdns); err != nil || len(rest) > 0 {
			return "a name that cannot be read"
		}
		return quote(rdns.String())
	}
	return "a name of a kind that is not compared"
}

func quote(s string) string { return fmt.Sprintf("%q", s[:min(len(s), 256)]) }
