package crl

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/cryptobyte"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Delta reports whether the list names only what has changed since the list
// with the number BaseNumber (RFC 5280 section 5.2.4). Absence from it means
// nothing.
func (l *List) Delta() bool { return l.BaseNumber != nil }

// UsableWith decides whether the list is a delta that amends base, a complete
// list (RFC 5280 sections 5.2.4 and 6.3.3 (c)): one issuer and one key made
// both, their issuing distribution points are the same byte for byte or both
// absent, base is not older than what the delta starts from, and it is older
// than the delta. Otherwise the error wraps ErrBase; what is absent does not
// agree. Times are for CheckTime, of both.
//
// Then an entry of the delta replaces what base says about that certificate:
// with the reason removeFromCRL that it is not revoked, with any other that it
// is. What base covers, both together cover.
func (l *List) UsableWith(base *List) error {
	switch {
	case !l.Delta():
		return fmt.Errorf("%w: it is not a delta", ErrBase)
	case base == nil || base.Delta():
		return fmt.Errorf("%w: the base is not a complete list", ErrBase)
	case l.Number == nil || base.Number == nil:
		return fmt.Errorf("%w: a CRL number is missing", ErrBase)
	case len(l.RawIssuer) == 0 || !bytes.Equal(l.RawIssuer, base.RawIssuer):
		return fmt.Errorf("%w: another issuer", ErrBase)
	case l.signerKey != base.signerKey:
		return fmt.Errorf("%w: signed with another key", ErrBase)
	case !bytes.Equal(l.scope.value, base.scope.value):
		return fmt.Errorf("%w: another issuing distribution point", ErrBase)
	case base.Number.Cmp(l.BaseNumber) < 0:
		return fmt.Errorf("%w: the base has number %s, older than %s", ErrBase, base.Number, l.BaseNumber)
	case base.Number.Cmp(l.Number) >= 0:
		return fmt.Errorf("%w: the base has number %s, not older than the delta's %s", ErrBase, base.Number, l.Number)
	}
	return nil
}

// checkDelta refuses deltas that could amend nothing, or that point to deltas
// of their own (RFC 5280 sections 5.2.3 and 5.2.6).
func (l *List) checkDelta() error {
	switch {
	case !l.Delta():
		return nil
	case l.Number == nil:
		return fmt.Errorf("%w: a delta without a CRL number", ErrUnusable)
	case l.Freshest != nil:
		return fmt.Errorf("%w: a delta with a freshest CRL", ErrUnusable)
	}
	return nil
}

func parseFreshest(value cryptobyte.String) ([]x509ext.DistributionPoint, error) {
	points, err := x509ext.ParseDistributionPoints(value)
	if err != nil {
		return nil, fmt.Errorf("%w: freshest CRL: %w", ErrMalformed, err)
	}
	if n := totalNames(points); n > maxListNames {
		return nil, fmt.Errorf("%w: more than %d names of its freshest CRL", ErrUnusable, maxListNames)
	}
	return points, nil
}

// SameScope reports whether two lists of one signer, a delta and a complete one for
// example, speak for the same certificates and reasons.
func (l *List) SameScope(other *List) bool {
	return bytes.Equal(l.RawIssuer, other.RawIssuer) && l.signerKey == other.signerKey && bytes.Equal(l.scope.value, other.scope.value)
}
