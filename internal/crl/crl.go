// Package crl turns the DER of a certificate revocation list into evidence
// (RFC 5280 sections 5 and 6.3). It handles complete lists, whole or partitioned
// by an issuing distribution point, signed by the key that issued the
// certificates. Delta, indirect, attribute and reason-partitioned lists are
// refused: they are rare, and half of such a machinery says "good" where it
// should say "unknown".
//
// A list becomes evidence about a certificate in four steps, none of which
// implies another: ParseAndVerify with the certificate of the issuer that the
// chain has, CheckTime, Covers, Lookup.
package crl

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// The errors of this package wrap one of these, except for signatures, whose
// errors are those of x509ext.CheckSignature. None of them says anything about
// a certificate: a list with an error is no evidence.
var (
	ErrMalformed = errors.New("malformed CRL")               // not the DER of a CRL version 2
	ErrUnusable  = errors.New("unusable CRL")                // of a kind, or with a critical extension, that is not supported
	ErrIssuer    = errors.New("CRL not by this issuer")      // another name, key identifier or no right to sign lists
	ErrFuture    = errors.New("CRL from the future")         // thisUpdate is ahead of the clock
	ErrExpired   = errors.New("CRL expired")                 // nextUpdate has passed
	ErrScope     = errors.New("CRL not for the certificate") // does not speak for it: absence means nothing
)

// List is a verified list. It is read-only and safe for concurrent use, and
// keeps neither the DER nor a reference to it. There is no way to obtain a List
// whose signature was not checked.
type List struct {
	RawIssuer      []byte    // DER of the issuer's Name
	ThisUpdate     time.Time // in UTC
	NextUpdate     time.Time // in UTC; always present
	Number         *big.Int  // cRLNumber; nil: absent
	AuthorityKeyID []byte    // keyIdentifier of the authority key identifier; nil: absent

	issuerKey [32]byte // x509ext.KeyHash of the certificate that verified the list
	scope     scope
	entries   index
}

// Entry is what a list says about a revoked certificate.
type Entry struct {
	Reason    int       // CRLReason of RFC 5280 section 5.3.1; 0: unspecified
	HasReason bool      // the reason was stated
	Date      time.Time // in UTC; revoked counts from now on even if it lies in the future
}

// ParseAndVerify parses a list and verifies that issuer, the certificate of the
// chain that issued the certificates in question, issued it: equal names byte
// for byte, the right to sign lists, the authority key identifier where both
// sides have one, and the signature by issuer's key with an algorithm of
// x509ext.CheckSignature. The signature is verified before the entries are
// read. Without an issuer there is no list.
//
// It takes time and memory in proportion to der, whose size the caller bounds.
func ParseAndVerify(der []byte, issuer *x509.Certificate) (*List, error) {
	if issuer == nil {
		return nil, fmt.Errorf("%w: the issuer's certificate is missing", ErrIssuer)
	}
	h, err := parseHeader(der)
	if err != nil {
		return nil, err
	}
	if err := checkIssuer(h, issuer); err != nil {
		return nil, err
	}
	if err := x509ext.CheckSignature(issuer, h.algorithm, h.signed, h.signature); err != nil {
		return nil, fmt.Errorf("CRL: %w", err)
	}
	l, err := parseBody(h)
	if err != nil {
		return nil, err
	}
	if l.AuthorityKeyID != nil && len(issuer.SubjectKeyId) != 0 && !bytes.Equal(l.AuthorityKeyID, issuer.SubjectKeyId) {
		return nil, fmt.Errorf("%w: authority key identifier differs", ErrIssuer)
	}
	l.issuerKey = x509ext.KeyHash(issuer)
	return l, nil
}

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}

// checkIssuer decides whether issuer may have issued the list at all.
func checkIssuer(h header, issuer *x509.Certificate) error {
	if !bytes.Equal(h.rawIssuer, issuer.RawSubject) {
		return fmt.Errorf("%w: issued by another name", ErrIssuer)
	}
	// A version 1 certificate has no basic constraints; whether it is an anchor
	// the chain has decided.
	if issuer.Version == 3 && !issuer.BasicConstraintsValid || issuer.BasicConstraintsValid && !issuer.IsCA {
		return fmt.Errorf("%w: the issuer is not a CA", ErrIssuer)
	}
	// RFC 5280 section 6.3.3 (f). Present and empty is present.
	if x509ext.HasExtension(issuer, oidKeyUsage) && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return fmt.Errorf("%w: the issuer's key usage lacks cRLSign", ErrIssuer)
	}
	return nil
}

// IssuedBy reports whether issuer has the name and the key that the list was
// verified with. Whoever keeps lists asks it before using one: two CAs may
// publish under one URL and even under one name.
func (l *List) IssuedBy(issuer *x509.Certificate) bool {
	return issuer != nil && bytes.Equal(l.RawIssuer, issuer.RawSubject) && l.issuerKey == x509ext.KeyHash(issuer)
}

// CheckTime decides whether the list counts at the time now. A thisUpdate in
// the future is tolerated up to skew; nothing is tolerated past nextUpdate. The
// zero List fails.
func (l *List) CheckTime(now time.Time, skew time.Duration) error {
	switch {
	case !l.NextUpdate.After(l.ThisUpdate):
		return fmt.Errorf("%w: nextUpdate %s is not after thisUpdate %s", ErrMalformed, stamp(l.NextUpdate), stamp(l.ThisUpdate))
	case l.ThisUpdate.After(now.Add(skew)):
		return fmt.Errorf("%w: thisUpdate is %s", ErrFuture, stamp(l.ThisUpdate))
	case now.After(l.NextUpdate):
		return fmt.Errorf("%w: nextUpdate was %s", ErrExpired, stamp(l.NextUpdate))
	}
	return nil
}

func stamp(t time.Time) string { return t.Format(time.RFC3339) }

// Len is the number of entries.
func (l *List) Len() int { return len(l.entries.entries) }

// Size is about how many bytes of memory the list takes.
func (l *List) Size() int {
	n := 512 + len(l.RawIssuer) + len(l.AuthorityKeyID) + cap(l.entries.keys) + cap(l.entries.entries)*indexEntrySize
	for _, uri := range l.scope.point.URIs {
		n += len(uri)
	}
	for _, name := range l.scope.point.DirectoryNames {
		n += len(name)
	}
	return n
}

// Lookup returns the entry for a serial number, and false if there is none,
// which says "not revoked" only if Covers and CheckTime have agreed. Some CAs
// write serial numbers whose top bit is set without the leading zero octet and
// so as negative ones: such an entry is found under the positive number.
func (l *List) Lookup(serial *big.Int) (Entry, bool) {
	if serial == nil {
		return Entry{}, false
	}
	var b cryptobyte.Builder
	b.AddASN1BigInt(serial)
	der, err := b.Bytes()
	in := cryptobyte.String(der)
	var content cryptobyte.String
	if err != nil || !in.ReadASN1(&content, cbasn1.INTEGER) {
		return Entry{}, false
	}
	return l.entries.find(serialKey(content))
}

// index holds the entries of a list in the order of their keys, in 16 bytes each
// and those of the serial number; x509.RevocationList takes several hundred.
type index struct {
	keys    []byte // one after the other
	entries []indexEntry
}

type indexEntry struct {
	date   int64  // Unix seconds
	offset uint32 // of the key
	length uint8  // of the key
	reason int8   // noReason: not stated
}

const (
	indexEntrySize = 16

	noReason     = -1
	maxSerialLen = 255 // RFC 5280 section 5.1.2.6 and 4.1.2.2: at most 20
)

// serialKey drops the octet that only carries the sign from the contents of an
// INTEGER.
func serialKey(content []byte) []byte {
	if len(content) > 1 && content[0] == 0 {
		return content[1:]
	}
	return content
}

func (x *index) key(e indexEntry) []byte {
	return x.keys[e.offset : e.offset+uint32(e.length)]
}

// add appends an entry; sort must follow the last one.
func (x *index) add(key []byte, date time.Time, reason int8) {
	x.entries = append(x.entries, indexEntry{
		date:   date.Unix(),
		offset: uint32(len(x.keys)), // DER lengths of cryptobyte stay below 4 GiB
		length: uint8(len(key)),
		reason: reason,
	})
	x.keys = append(x.keys, key...)
}

// sort orders by key, and entries for one serial number as the list has them.
func (x *index) sort() {
	slices.SortFunc(x.entries, func(a, b indexEntry) int {
		if c := bytes.Compare(x.key(a), x.key(b)); c != 0 {
			return c
		}
		return cmp.Compare(a.offset, b.offset)
	})
}

func (x *index) find(key []byte) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(x.entries, key, func(e indexEntry, key []byte) int {
		return bytes.Compare(x.key(e), key)
	})
	if !ok {
		return Entry{}, false
	}
	e := x.entries[i]
	return Entry{
		Reason:    max(int(e.reason), 0),
		HasReason: e.reason != noReason,
		Date:      time.Unix(e.date, 0).UTC(),
	}, true
}
