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
	oidReasonCode        = asn1.ObjectIdentifier{2, 5, 29, 21}
	oidInvalidityDate    = asn1.ObjectIdentifier{2, 5, 29, 24}
	oidCertificateIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}

	oidCRLNumber     = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidDeltaCRL      = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint  = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidAuthorityKey  = asn1.ObjectIdentifier{2, 5, 29, 35}
	contextSpecific0 = cbasn1.Tag(0).ContextSpecific()
)

// header is what is needed to verify a list. It aliases the DER.
type header struct {
	signed    []byte // DER of tbsCertList
	algorithm []byte // DER of signatureAlgorithm, inner and outer
	signature []byte
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
	// Version 1 has no version field and no extensions, so no way to say that
	// a list is a partial one.
	var version int64
	if !tbs.ReadASN1Integer(&version) || version != 1 {
		return malformed("not version 2")
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
	malformed := func(what string) (*List, error) {
		return nil, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	l := &List{RawIssuer: slices.Clone(h.rawIssuer)}
	in := h.rest
	var ok bool
	if l.ThisUpdate, ok = x509ext.ReadTime(&in); !ok {
		return malformed("thisUpdate")
	}
	if !in.PeekASN1Tag(cbasn1.UTCTime) && !in.PeekASN1Tag(cbasn1.GeneralizedTime) {
		// A list that never ends would hide every later revocation.
		return nil, fmt.Errorf("%w: nextUpdate is missing", ErrUnusable)
	}
	if l.NextUpdate, ok = x509ext.ReadTime(&in); !ok {
		return malformed("nextUpdate")
	}
	var revoked, wrapper, extensions cryptobyte.String
	var hasRevoked, hasExtensions bool
	if !in.ReadOptionalASN1(&revoked, &hasRevoked, cbasn1.SEQUENCE) ||
		!in.ReadOptionalASN1(&wrapper, &hasExtensions, contextSpecific0.Constructed()) || !in.Empty() {
		return malformed("tbsCertList")
	}
	// The extensions first: they may say that the entries are not worth it.
	if hasExtensions {
		if !wrapper.ReadASN1(&extensions, cbasn1.SEQUENCE) || !wrapper.Empty() {
			return malformed("crlExtensions")
		}
		if err := l.parseExtensions(extensions); err != nil {
			return nil, err
		}
	}
	// RFC 5280 section 5.1.2.6 has the field absent where nothing is revoked;
	// an empty sequence, which some CAs write, says the same.
	if err := l.entries.parse(revoked); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *List) parseExtensions(contents []byte) error {
	extensions, err := x509ext.ParseExtensions(contents)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, e := range extensions {
		value := cryptobyte.String(e.Value)
		switch {
		case e.Id.Equal(oidDeltaCRL):
			return fmt.Errorf("%w: a delta CRL", ErrUnusable)
		case e.Id.Equal(oidIssuingPoint): // heeded even if it is not critical, as it ought to be
			if l.scope, err = parseScope(value); err != nil {
				return err
			}
		case e.Id.Equal(oidCRLNumber):
			// RFC 5280 section 5.2.3: at most 20 octets, not negative.
			var octets []byte
			if !value.ReadASN1Integer(&octets) || !value.Empty() || len(octets) > 20 {
				return fmt.Errorf("%w: cRLNumber", ErrMalformed)
			}
			l.Number = new(big.Int).SetBytes(octets)
		case e.Id.Equal(oidAuthorityKey) && !e.Critical:
			if l.AuthorityKeyID, err = parseAuthorityKey(value); err != nil {
				return err
			}
		case e.Critical:
			return fmt.Errorf("%w: critical extension %.64s", ErrUnusable, e.Id)
		}
	}
	return nil
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

// parse reads the contents of revokedCertificates.
func (x *index) parse(in cryptobyte.String) error {
	malformed := func(what string) error {
		return fmt.Errorf("%w: entry %d: %s", ErrMalformed, len(x.entries), what)
	}
	// Growing step by step would need three times the memory.
	count, size := 0, 0
	for rest := in; !rest.Empty(); count++ {
		var entry, serial cryptobyte.String
		if !rest.ReadASN1(&entry, cbasn1.SEQUENCE) || !entry.ReadASN1(&serial, cbasn1.INTEGER) {
			return malformed("revokedCertificates")
		}
		size += len(serial)
	}
	x.entries, x.keys = make([]indexEntry, 0, count), make([]byte, 0, size)
	for !in.Empty() {
		var entry, serial, extensions cryptobyte.String
		var hasExtensions bool
		if !in.ReadASN1(&entry, cbasn1.SEQUENCE) || !entry.ReadASN1(&serial, cbasn1.INTEGER) || !minimal(serial) {
			return malformed("userCertificate")
		}
		if len(serial) > maxSerialLen {
			return malformed("serial number too long")
		}
		date, ok := x509ext.ReadTime(&entry)
		if !ok {
			return malformed("revocationDate")
		}
		if !entry.ReadOptionalASN1(&extensions, &hasExtensions, cbasn1.SEQUENCE) || !entry.Empty() {
			return malformed("crlEntryExtensions")
		}
		reason, err := parseEntryExtensions(extensions)
		if err != nil {
			return fmt.Errorf("entry %d: %w", len(x.entries), err)
		}
		x.add(serialKey(serial), date, reason)
	}
	x.sort()
	return nil
}

// minimal reports whether the contents of an INTEGER are as short as DER
// demands; a longer form of a serial number would never be found.
func minimal(content []byte) bool {
	if len(content) < 2 {
		return len(content) == 1
	}
	return !(content[0] == 0 && content[1] < 0x80 || content[0] == 0xff && content[1] >= 0x80)
}

// parseEntryExtensions returns the reason, or noReason.
func parseEntryExtensions(in cryptobyte.String) (int8, error) {
	reason := int8(noReason)
	for !in.Empty() {
		e, ok := x509ext.ReadExtension(&in)
		if !ok {
			return 0, fmt.Errorf("%w: extension", ErrMalformed)
		}
		switch {
		case e.Id.Equal(oidReasonCode):
			value := cryptobyte.String(e.Value)
			var code int
			// RFC 5280 section 5.3.1: 7 is not used.
			if reason != noReason || !value.ReadASN1Enum(&code) || !value.Empty() || code < 0 || code > 10 || code == 7 {
				return 0, fmt.Errorf("%w: reasonCode", ErrMalformed)
			}
			if code == removeFromCRL {
				return 0, fmt.Errorf("%w: removeFromCRL in a list that is not a delta", ErrUnusable)
			}
			reason = int8(code)
		case e.Id.Equal(oidInvalidityDate):
			// Understood and of no consequence, so that its value, for which
			// some CAs take a UTCTime, is not looked at.
		case e.Id.Equal(oidCertificateIssuer):
			// It changes whose certificate this entry and the following ones
			// mean, whether critical or not.
			return 0, fmt.Errorf("%w: entry of an indirect CRL", ErrUnusable)
		case e.Critical:
			// RFC 5280 section 5.3: the whole list, not just the entry.
			return 0, fmt.Errorf("%w: critical entry extension %.64s", ErrUnusable, e.Id)
		}
	}
	return reason, nil
}

const removeFromCRL = 8
