package ocsp

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

var oidBasicResponse = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}

// response is a parsed BasicOCSPResponse, nothing of which is verified. It
// aliases the DER.
type response struct {
	signed       []byte // DER of tbsResponseData
	algorithm    []byte // DER of signatureAlgorithm
	signature    []byte
	certificates []*x509.Certificate

	responderName []byte // DER of the Name; nil: byKey
	responderKey  []byte // SHA-1 of the public key; nil: byName
	producedAt    time.Time
	singles       []single
	nonce         string // empty: none
}

// single is a SingleResponse.
type single struct {
	hash               asn1.ObjectIdentifier
	nameHash, keyHash  []byte
	serial             big.Int
	status             Status
	thisUpdate         time.Time
	nextUpdate         time.Time // zero: absent
	revokedAt          time.Time
	reason             int
	hasReason, hasNext bool
}

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// parse parses an OCSPResponse (RFC 6960 section 4.2.1), all of it: what a
// parser skips, another one may read.
func parse(der []byte) (*response, error) {
	if len(der) > MaxResponse {
		return nil, malformed("too large")
	}
	in := cryptobyte.String(der)
	var outer, wrapper, responseBytes, basic cryptobyte.String
	var responseType asn1.ObjectIdentifier
	var status int
	var hasBytes bool
	if !in.ReadASN1(&outer, cbasn1.SEQUENCE) || !in.Empty() || !outer.ReadASN1Enum(&status) ||
		!outer.ReadOptionalASN1(&wrapper, &hasBytes, explicit(0)) || !outer.Empty() {
		return nil, malformed("OCSPResponse")
	}
	switch status {
	case 0:
	case 1, 2, 3, 5, 6:
		return nil, &ResponseError{Code: status}
	default:
		return nil, malformed("responseStatus")
	}
	if !hasBytes || !wrapper.ReadASN1(&responseBytes, cbasn1.SEQUENCE) || !wrapper.Empty() ||
		!responseBytes.ReadASN1ObjectIdentifier(&responseType) ||
		!responseBytes.ReadASN1(&basic, cbasn1.OCTET_STRING) || !responseBytes.Empty() {
		return nil, malformed("responseBytes")
	}
	if !responseType.Equal(oidBasicResponse) {
		return nil, malformed("not a basic response")
	}
	return parseBasic(basic)
}

func parseBasic(in cryptobyte.String) (*response, error) {
	var r response
	var basic, signed, algorithm, wrapper, certificates cryptobyte.String
	var hasCertificates bool
	if !in.ReadASN1(&basic, cbasn1.SEQUENCE) || !in.Empty() ||
		!basic.ReadASN1Element(&signed, cbasn1.SEQUENCE) ||
		!basic.ReadASN1Element(&algorithm, cbasn1.SEQUENCE) ||
		!basic.ReadASN1BitStringAsBytes(&r.signature) ||
		!basic.ReadOptionalASN1(&wrapper, &hasCertificates, explicit(0)) || !basic.Empty() {
		return nil, malformed("BasicOCSPResponse")
	}
	r.signed, r.algorithm = signed, algorithm
	if hasCertificates && (!wrapper.ReadASN1(&certificates, cbasn1.SEQUENCE) || !wrapper.Empty()) {
		return nil, malformed("certs")
	}
	for n := 1; !certificates.Empty(); n++ {
		var certificate cryptobyte.String
		if !certificates.ReadASN1Element(&certificate, cbasn1.SEQUENCE) || n > maxCertificates {
			return nil, malformed("certs")
		}
		// One that crypto/x509 cannot read is nobody's responder; the others
		// may be.
		if c, err := x509.ParseCertificate(certificate); err == nil {
			r.certificates = append(r.certificates, c)
		}
	}
	if err := r.parseData(signed); err != nil {
		return nil, err
	}
	return &r, nil
}

// parseData parses ResponseData.
func (r *response) parseData(in cryptobyte.String) error {
	var data, version, singles cryptobyte.String
	var hasVersion, ok bool
	if !in.ReadASN1(&data, cbasn1.SEQUENCE) || !in.Empty() ||
		!data.ReadOptionalASN1(&version, &hasVersion, explicit(0)) {
		return malformed("ResponseData")
	}
	if hasVersion {
		// Version 1 is 0 and the default, which some responders spell out.
		var v int64
		if !version.ReadASN1Integer(&v) || !version.Empty() || v != 0 {
			return malformed("version")
		}
	}
	if err := r.parseResponderID(&data); err != nil {
		return err
	}
	if r.producedAt, ok = x509ext.ReadGeneralizedTime(&data); !ok {
		return malformed("producedAt")
	}
	if !data.ReadASN1(&singles, cbasn1.SEQUENCE) {
		return malformed("responses")
	}
	for !singles.Empty() {
		s, err := parseSingle(&singles)
		if err != nil {
			return err
		}
		if r.singles = append(r.singles, s); len(r.singles) > maxAnswers {
			return malformed("too many responses")
		}
	}
	extensions, err := parseExtensions(&data)
	if err != nil {
		return err
	}
	for _, e := range extensions {
		switch {
		case e.Id.Equal(oidNonce):
			if r.nonce, err = parseNonce(e.Value); err != nil {
				return err
			}
		case e.Critical:
			return critical(e)
		}
	}
	return nil
}

// parseResponderID reads the CHOICE ResponderID.
func (r *response) parseResponderID(in *cryptobyte.String) error {
	var content, value cryptobyte.String
	var tag cbasn1.Tag
	ok := in.ReadAnyASN1(&content, &tag)
	switch {
	case ok && tag == explicit(1) && content.ReadASN1Element(&value, cbasn1.SEQUENCE) && content.Empty():
		r.responderName = value
	case ok && tag == explicit(2) && content.ReadASN1(&value, cbasn1.OCTET_STRING) && content.Empty() && !value.Empty():
		r.responderKey = value
	default:
		return malformed("responderID")
	}
	return nil
}

func parseSingle(in *cryptobyte.String) (single, error) {
	var s single
	var seq, id, nameHash, keyHash, next cryptobyte.String
	var ok bool
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1(&id, cbasn1.SEQUENCE) {
		return single{}, malformed("SingleResponse")
	}
	if s.hash, ok = x509ext.ReadHashAlgorithm(&id); !ok ||
		!id.ReadASN1(&nameHash, cbasn1.OCTET_STRING) || !id.ReadASN1(&keyHash, cbasn1.OCTET_STRING) ||
		!id.ReadASN1Integer(&s.serial) || !id.Empty() {
		return single{}, malformed("certID")
	}
	s.nameHash, s.keyHash = nameHash, keyHash
	if err := s.parseStatus(&seq); err != nil {
		return single{}, err
	}
	if s.thisUpdate, ok = x509ext.ReadGeneralizedTime(&seq); !ok {
		return single{}, malformed("thisUpdate")
	}
	if !seq.ReadOptionalASN1(&next, &s.hasNext, explicit(0)) {
		return single{}, malformed("nextUpdate")
	}
	if s.hasNext {
		if s.nextUpdate, ok = x509ext.ReadGeneralizedTime(&next); !ok || !next.Empty() || s.nextUpdate.IsZero() {
			return single{}, malformed("nextUpdate")
		}
	}
	extensions, err := parseExtensions(&seq)
	if err != nil {
		return single{}, err
	}
	for _, e := range extensions {
		if e.Critical {
			return single{}, critical(e)
		}
	}
	return s, nil
}

// parseStatus reads the CHOICE CertStatus.
func (s *single) parseStatus(in *cryptobyte.String) error {
	var content, reason cryptobyte.String
	var tag cbasn1.Tag
	var ok bool
	if !in.ReadAnyASN1(&content, &tag) {
		return malformed("certStatus")
	}
	switch tag {
	case cbasn1.Tag(0).ContextSpecific():
		s.status, ok = Good, content.Empty()
	case cbasn1.Tag(2).ContextSpecific():
		s.status, ok = Unknown, content.Empty()
	case explicit(1):
		s.status = Revoked
		if s.revokedAt, ok = x509ext.ReadGeneralizedTime(&content); !ok ||
			!content.ReadOptionalASN1(&reason, &s.hasReason, explicit(0)) || !content.Empty() {
			return malformed("RevokedInfo")
		}
		if s.hasReason && (!reason.ReadASN1Enum(&s.reason) || !reason.Empty()) {
			return malformed("revocationReason")
		}
	}
	if !ok {
		return malformed("certStatus")
	}
	return nil
}

// parseExtensions reads an optional [1] EXPLICIT Extensions, which ends the
// structure that it is part of.
func parseExtensions(in *cryptobyte.String) ([]pkix.Extension, error) {
	var wrapper, seq cryptobyte.String
	var present bool
	if !in.ReadOptionalASN1(&wrapper, &present, explicit(1)) || !in.Empty() {
		return nil, malformed("trailing data")
	}
	if !present {
		return nil, nil
	}
	if !wrapper.ReadASN1(&seq, cbasn1.SEQUENCE) || !wrapper.Empty() {
		return nil, malformed("extensions")
	}
	extensions, err := x509ext.ParseExtensions(seq)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return extensions, nil
}

// critical refuses a critical extension: but for the nonce, none of those that
// RFC 6960 section 4.4 defines changes what an answer says, so that a critical
// one is one that we do not know.
func critical(e pkix.Extension) error { return fmt.Errorf("%w: %.64s", ErrCritical, e.Id) }

// explicit is the tag of an explicitly tagged field, and of an implicitly
// tagged SEQUENCE.
func explicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
