package main

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

const (
	signatureVerified = "verified"
	signatureNone     = "not_verified"
	signatureInvalid  = "invalid"

	clockSkew = 5 * time.Minute // as services take it
)

var (
	oidDeltaIndicator = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidIssuingPoint   = asn1.ObjectIdentifier{2, 5, 29, 28}
)

var reasonNames = [...]string{"unspecified", "keyCompromise", "cACompromise", "affiliationChanged", "superseded", "cessationOfOperation",
	"certificateHold", "reason 7", "removeFromCRL", "privilegeWithdrawn", "aACompromise"}

func reasonName(n int) string {
	if n >= 0 && n < len(reasonNames) {
		return reasonNames[n]
	}
	return fmt.Sprintf("reason %d", n)
}

// examineList reads a list, verifies it where a signer was given, and looks the
// certificate up. The error is that of bytes that are no list.
func examineList(source string, der []byte, q question, now time.Time) (listReport, int, error) {
	r := listReport{Source: source, Signature: signatureNone}
	peeked, err := crl.Peek(der)
	if err != nil {
		return r, 0, fmt.Errorf("%s: %w", shown(source), err)
	}
	if peeked.Version1 {
		return r, 0, fmt.Errorf("%s: a list of version 1, which cannot say that it is partial; services take it only with Revocation.AllowVersion1, and mtlsctl does not read it", shown(source))
	}
	// What a service would not take for its fields, Peek has refused. This one reads
	// what internal/crl gives away only together with a verified signature.
	raw, err := x509.ParseRevocationList(der)
	if err != nil {
		return r, 0, fmt.Errorf("%s: %w", shown(source), err)
	}
	r.Issuer, r.Delta, r.Indirect = nameText(peeked.RawIssuer), peeked.Delta, peeked.Indirect
	r.ThisUpdate, r.NextUpdate, r.Entries = stamp(peeked.ThisUpdate), stamp(peeked.NextUpdate), len(raw.RevokedCertificateEntries)
	if raw.Number != nil {
		r.Number = raw.Number.String()
	}
	part := readPart(raw)
	r.Scope, r.BaseNumber = part.text(), part.base
	// Of such a List nothing but its times is asked.
	if err := (&crl.List{ThisUpdate: peeked.ThisUpdate, NextUpdate: peeked.NextUpdate}).CheckTime(now, clockSkew); err != nil {
		r.NotCurrent = err.Error()
	} else {
		r.Current = true
	}
	list, err := verifyList(der, q.issuers)
	switch {
	case list != nil:
		r.Signature, r.Signer = signatureVerified, r.Issuer
	case err != nil:
		r.Signature, r.Problem = signatureInvalid, err.Error()
	}
	status := exitYes
	if q.serial != nil {
		r.Serial, status = r.lookUp(raw, list, part, q)
	} else if r.Signature == signatureInvalid {
		status = exitUnknown
	}
	return r, status, nil
}

// verifyList tries every certificate that was given. Without one there is neither a
// list nor an error.
func verifyList(der []byte, signers []*x509.Certificate) (*crl.List, error) {
	var failed error
	for _, s := range signers {
		list, err := crl.ParseAndVerify(der, s)
		if err == nil {
			return list, nil
		}
		// That of a certificate with the right name says most.
		if failed == nil || errors.Is(failed, crl.ErrIssuer) {
			failed = err
		}
	}
	return nil, failed
}

// lookUp answers for the certificate. The first doubt makes it undetermined.
func (r listReport) lookUp(raw *x509.RevocationList, list *crl.List, part partOf, q question) (*serialFound, int) {
	s := &serialFound{Serial: fmt.Sprintf("%x", q.serial), Answer: "undetermined"}
	reason := 0
	if list != nil {
		asked := q.cert
		if asked == nil {
			asked = &x509.Certificate{RawIssuer: list.RawIssuer, SerialNumber: q.serial}
		}
		if e, ok := list.Lookup(asked); ok {
			s.Listed, reason, s.Date = true, e.Reason, stamp(e.Date)
		}
	} else {
		for _, e := range raw.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(q.serial) == 0 {
				s.Listed, reason, s.Date = true, e.ReasonCode, stamp(e.RevocationTime)
			}
		}
	}
	if s.Listed {
		s.Reason = reasonName(reason)
	}
	if s.Why = r.doubt(list, part, q, s.Listed); s.Why != "" {
		return s, exitUnknown
	}
	const removeFromCRL = 8
	switch {
	case s.Listed && reason != removeFromCRL:
		s.Answer = "revoked"
		return s, exitNo
	case r.Delta:
		s.Why = "a delta: what is not in it, or is removed, the complete list tells"
		return s, exitUnknown
	}
	s.Answer = "not_revoked"
	return s, exitYes
}

// doubt says why the list is no answer, or "".
func (r listReport) doubt(list *crl.List, part partOf, q question, listed bool) string {
	switch {
	case r.Signature == signatureInvalid:
		return "the signature is invalid"
	case list == nil:
		return "the signature is not verified"
	case !r.Current:
		return "the list is not current"
	case q.cert == nil && listed:
		return ""
	case q.cert == nil && part.partial && !r.Delta:
		return "the list speaks for a part of the certificates: give the certificate with --cert"
	case q.cert == nil:
		return ""
	}
	// Another CA of the same name has other serial numbers.
	if bytes.Equal(q.cert.RawIssuer, list.RawIssuer) && !signedBySame(list, q) {
		return "the certificate is not by the CA that signed the list"
	}
	if r.Delta {
		if err := list.Amends(q.cert); err != nil {
			return err.Error()
		}
		return ""
	}
	reasons, err := list.Covers(q.cert)
	switch {
	case err != nil:
		return err.Error()
	case reasons != x509ext.AllReasons && !listed:
		return "the list speaks for some reasons only: " + reasons.String()
	}
	return ""
}

func signedBySame(list *crl.List, q question) bool {
	for _, c := range q.issuers {
		if list.SignedBy(c) && q.cert.CheckSignatureFrom(c) == nil {
			return true
		}
	}
	return false
}

// partOf is which part of its issuer's certificates a list says that it speaks for.
type partOf struct {
	partial bool
	words   []string
	base    string // number of the complete list; "": it is not a delta
}

func (p partOf) text() string {
	s := "all certificates of its issuer"
	for i, w := range p.words {
		if i == 0 {
			s = w
		} else {
			s += ", " + w
		}
	}
	if p.base != "" {
		s += " (a delta)"
	}
	return s
}

// readPart reads the issuing distribution point (RFC 5280 section 5.2.5) for people;
// Peek has refused lists in which it is damaged.
func readPart(raw *x509.RevocationList) partOf {
	var p partOf
	for _, e := range raw.Extensions {
		value := cryptobyte.String(e.Value)
		switch {
		case e.Id.Equal(oidDeltaIndicator):
			n := new(big.Int)
			if value.ReadASN1Integer(n) {
				p.base = n.String()
			}
		case e.Id.Equal(oidIssuingPoint):
			p.partial = true
			p.words = pointWords(value)
		}
	}
	return p
}

func pointWords(value cryptobyte.String) []string {
	words := []string{}
	var seq, name cryptobyte.String
	var named bool
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
	if !value.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadOptionalASN1(&name, &named, tag(0).Constructed()) {
		return []string{"an unreadable part"}
	}
	if named {
		words = append(words, pointName(name))
	}
	for !seq.Empty() {
		var v cryptobyte.String
		var t cbasn1.Tag
		if !seq.ReadAnyASN1(&v, &t) {
			break
		}
		if t == tag(3) {
			reasons, _ := x509ext.ParseReasonFlags(v)
			words = append(words, "the reasons "+reasons.String()+" only")
			continue
		}
		if len(v) != 1 || v[0] == 0 {
			continue
		}
		switch t {
		case tag(1):
			words = append(words, "user certificates only")
		case tag(2):
			words = append(words, "CA certificates only")
		case tag(4):
			words = append(words, "certificates of other issuers, too (indirect)")
		}
	}
	if len(words) == 0 {
		words = append(words, "all certificates of its issuer")
	}
	return words
}

func pointName(name cryptobyte.String) string {
	p, err := x509ext.ParseDistributionPointName(name)
	if err != nil {
		return "an unreadable distribution point"
	}
	names := allShown(p.URIs)
	for _, n := range p.DirectoryNames {
		names = append(names, "directory name "+shown(nameText(n)))
	}
	if len(names) == 0 {
		return "a relative distribution point"
	}
	const most = 3
	s := "those that point to " + names[0]
	for _, n := range names[1:min(len(names), most)] {
		s += " or " + n
	}
	if more := len(names) - most; more > 0 {
		s += fmt.Sprintf(" or %d more", more)
	}
	return s
}
