package crl

import (
	"bytes"
	"encoding/asn1"
	"fmt"
	"math"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

var (
	oidCRLNumber     = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidDeltaCRL      = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKey  = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidFreshestCRL   = asn1.ObjectIdentifier{2, 5, 29, 46}
	contextSpecific0 = cbasn1.Tag(0).ContextSpecific()
)

// header is what is needed to verify a list. It aliases the DER.
type header struct {
	signed    []byte // DER of tbsCertList
	algorithm []byte // DER of signatureAlgorithm, inner and outer
	signature []byte
	version1  bool
	rawIssuer []byte            // DER of the Name
	rest      cryptobyte.String // of tbsCertList, from thisUpdate on
}

// parseHeader parses the envelope of a CertificateList and the fields of
// tbsCertList up to the issuer (RFC 5280 section 5.1).
func parseHeader(der []byte) (header, error) {
	malformed := func(what string) (header, error) {
		return header{}, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	var h header
	in := cryptobyte.String(der)
	var list, signed, tbs, outer, inner, issuer cryptobyte.String
	if uint64(len(der)) > math.MaxUint32 || !in.ReadASN1(&list, cbasn1.SEQUENCE) {
		return malformed("not a DER sequence")
	}
	if !in.Empty() {
		return malformed("trailing data")
	}
	if !list.ReadASN1Element(&signed, cbasn1.SEQUENCE) ||
		!list.ReadASN1Element(&outer, cbasn1.SEQUENCE) ||
		!list.ReadASN1BitStringAsBytes(&h.signature) || !list.Empty() {
		return malformed("CertificateList")
	}
	h.signed, h.algorithm = signed, outer
	if !signed.ReadASN1(&tbs, cbasn1.SEQUENCE) {
		return malformed("tbsCertList")
	}
	// Version 2 says so with the number 1, version 1 by the absence of the field.
	var version int64
	h.version1 = !tbs.PeekASN1Tag(cbasn1.INTEGER)
	if !h.version1 && (!tbs.ReadASN1Integer(&version) || version != 1) {
		return malformed("neither version 1 nor version 2")
	}
	if !tbs.ReadASN1Element(&inner, cbasn1.SEQUENCE) || !tbs.ReadASN1Element(&issuer, cbasn1.SEQUENCE) {
		return malformed("tbsCertList")
	}
	// RFC 5280 section 5.1.1.2: the outer one is not covered by the signature.
	if !bytes.Equal(inner, outer) {
		return malformed("signature algorithms differ")
	}
	h.rawIssuer, h.rest = issuer, tbs
	return h, nil
}

// parseBody parses the rest of tbsCertList.
func parseBody(h header) (*List, error) {
	l, entries, err := parseFields(h)
	if err != nil {
		return nil, err
	}
	l.entries, err = parseEntries(entries, entryOptions{
		indirect: l.Indirect(), delta: l.Delta(), v1: l.Version1, issuer: l.RawIssuer,
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// parseFields parses the rest of tbsCertList but for the entries, whose DER it
// returns: the extensions may say that they are not worth it.
func parseFields(h header) (*List, cryptobyte.String, error) {
	malformed := func(what string) (*List, cryptobyte.String, error) {
		return nil, nil, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	l := &List{RawIssuer: slices.Clone(h.rawIssuer), Version1: h.version1}
	in := h.rest
	var ok bool
	if l.ThisUpdate, ok = x509ext.ReadTime(&in); !ok {
		return malformed("thisUpdate")
	}
	if !in.PeekASN1Tag(cbasn1.UTCTime) && !in.PeekASN1Tag(cbasn1.GeneralizedTime) {
		// A list that never ends would hide every later revocation.
		return nil, nil, fmt.Errorf("%w: nextUpdate is missing", ErrUnusable)
	}
	if l.NextUpdate, ok = x509ext.ReadTime(&in); !ok {
		return malformed("nextUpdate")
	}
	// RFC 5280 section 5.1.2.6 has revokedCertificates absent where nothing is
	// revoked; an empty sequence, which some CAs write, says the same.
	var entries, wrapper, extensions cryptobyte.String
	var hasEntries, hasExtensions bool
	if !in.ReadOptionalASN1(&entries, &hasEntries, cbasn1.SEQUENCE) ||
		!in.ReadOptionalASN1(&wrapper, &hasExtensions, contextSpecific0.Constructed()) || !in.Empty() {
		return malformed("tbsCertList")
	}
	if !hasExtensions {
		return l, entries, nil
	}
	if l.Version1 {
		return malformed("crlExtensions in version 1")
	}
	if !wrapper.ReadASN1(&extensions, cbasn1.SEQUENCE) || !wrapper.Empty() {
		return malformed("crlExtensions")
	}
	if err := l.parseExtensions(extensions); err != nil {
		return nil, nil, err
	}
	return l, entries, nil
}

// parseExtensions heeds the extensions that it knows whether or not they are
// critical, as they ought to be or ought not to be.
func (l *List) parseExtensions(contents []byte) error {
	extensions, err := x509ext.ParseExtensions(contents)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, e := range extensions {
		value := cryptobyte.String(e.Value)
		switch {
		case e.Id.Equal(oidCRLNumber):
			l.Number, err = parseNumber(value)
		case e.Id.Equal(oidDeltaCRL):
			l.BaseNumber, err = parseNumber(value)
		case e.Id.Equal(oidIssuingPoint):
			l.scope, err = parseScope(value, l.RawIssuer)
		case e.Id.Equal(oidAuthorityKey):
			l.AuthorityKeyID, err = parseAuthorityKey(value)
		case e.Id.Equal(oidFreshestCRL):
			l.Freshest, err = parseFreshest(value)
		case e.Critical:
			err = fmt.Errorf("%w: critical extension %.64s", ErrUnusable, e.Id)
		}
		if err != nil {
			return err
		}
	}
	return l.checkDelta()
}

// parseNumber parses a CRLNumber: at most 20 octets and not negative (RFC 5280
// section 5.2.3).
func parseNumber(value cryptobyte.String) (*big.Int, error) {
	var octets []byte
	if !value.ReadASN1Integer(&octets) || !value.Empty() || len(octets) > 20 {
		return nil, fmt.Errorf("%w: CRL number", ErrMalformed)
	}
	return new(big.Int).SetBytes(octets), nil
}

// parseAuthorityKey returns the keyIdentifier, or nil where there is none.
func parseAuthorityKey(value cryptobyte.String) ([]byte, error) {
	var seq, keyID, skipped cryptobyte.String
	var hasKeyID, present bool
	if !value.ReadASN1(&seq, cbasn1.SEQUENCE) || !value.Empty() ||
		!seq.ReadOptionalASN1(&keyID, &hasKeyID, contextSpecific0) ||
		!seq.ReadOptionalASN1(&skipped, &present, cbasn1.Tag(1).ContextSpecific().Constructed()) ||
		!seq.ReadOptionalASN1(&skipped, &present, cbasn1.Tag(2).ContextSpecific()) || !seq.Empty() {
		return nil, fmt.Errorf("%w: authority key identifier", ErrMalformed)
	}
	if !hasKeyID {
		return nil, nil
	}
	return append([]byte{}, keyID...), nil
}
