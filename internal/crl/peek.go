package crl

import "time"

// Preview is what a list says about itself, unverified. It says nothing about
// any certificate: it serves to choose a signer, and to file a list.
type Preview struct {
	RawIssuer      []byte    // DER of the issuer's Name
	AuthorityKeyID []byte    // nil: absent
	ThisUpdate     time.Time // in UTC
	NextUpdate     time.Time // in UTC
	Delta          bool
	Indirect       bool
	Version1       bool
}

// Peek reads a list without verifying it and without reading its entries. A list
// that ParseAndVerify would refuse for its fields or extensions, whoever signed
// it, is refused with the same error. The Preview shares no memory with der.
func Peek(der []byte) (Preview, error) {
	h, err := parseHeader(der)
	if err != nil {
		return Preview{}, err
	}
	l, _, err := parseFields(h)
	if err != nil {
		return Preview{}, err
	}
	return Preview{
		RawIssuer: l.RawIssuer, AuthorityKeyID: l.AuthorityKeyID,
		ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate,
		Delta: l.Delta(), Indirect: l.Indirect(), Version1: l.Version1,
	}, nil
}
