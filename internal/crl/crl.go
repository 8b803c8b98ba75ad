// Package crl turns the DER of a certificate revocation list into evidence
// (RFC 5280 sections 5 and 6.3.3). It handles complete lists, whole or
// partitioned by distribution point, kind of certificate or reason, delta lists,
// indirect lists, and lists signed by another certificate than the one that
// issued the certificates. Lists of attribute certificates are refused.
//
// A list becomes evidence about a certificate in five steps, none of which
// implies another:
//
//  1. The caller has a signer that it trusts: the certificate of the issuer that
//     the chain has, or one whose own path it has built to the same trust anchor
//     and checked for revocation (section 6.3.3 (f)).
//  2. ParseAndVerify with that signer; SignedBy for a list that was kept.
//  3. CheckTime.
//  4. Covers: absence means something, for the reasons that it returns. Only
//     lists whose reasons together are x509ext.AllReasons say "not revoked".
//  5. Lookup.
//
// A delta list amends a complete one, with which it is UsableWith; its entries
// count before those of that list, and it covers nothing by itself.
package crl

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// The errors of this package wrap one of these, except for signatures, whose
// errors are those of x509ext.CheckSignature. None of them says anything about
// a certificate: a list with an error is no evidence.
var (
	ErrMalformed = errors.New("malformed CRL")               // not the DER of a CRL
	ErrUnusable  = errors.New("unusable CRL")                // of a kind, or with a critical extension, that is not supported
	ErrIssuer    = errors.New("CRL not by this issuer")      // another name, key identifier or no right to sign lists
	ErrFuture    = errors.New("CRL from the future")         // thisUpdate is ahead of the clock
	ErrExpired   = errors.New("CRL expired")                 // nextUpdate has passed
	ErrScope     = errors.New("CRL not for the certificate") // does not speak for it: absence means nothing
	ErrBase      = errors.New("delta CRL not for this base") // does not amend that list
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

	// BaseNumber is the deltaCRLIndicator (RFC 5280 section 5.2.4); nil: the list
	// is a complete one.
	BaseNumber *big.Int
	// Freshest is where the delta lists of this one are (RFC 5280 section 5.2.6);
	// nil: there are none, or only the certificates say where.
	Freshest []x509ext.DistributionPoint
	// Version1 lists have no number and no extensions, and so no way to say that
	// they are a part of something. Whether they count is the caller's decision.
	Version1 bool

	signature [32]byte // its hash
	signerKey [32]byte // x509ext.KeyHash of the certificate that verified the list
	scope     scope
	entries   *index // nil only in the zero List
}

// Entry is what a list says about a revoked certificate.
type Entry struct {
	Reason    int       // CRLReason of RFC 5280 section 5.3.1; 0: unspecified; 8 (removeFromCRL) occurs in a delta only: no longer revoked
	HasReason bool      // the reason was stated
	Date      time.Time // in UTC; revoked counts from now on even if it lies in the future
}

// ParseAndVerify parses a list and verifies that signer issued it: its name is
// the list's issuer byte for byte, it has the right to sign lists, the
// authority key identifier agrees where both sides have one, and its key made
// the signature with an algorithm of x509ext.CheckSignature. The signature is
// verified before the entries are read or, of a list above a MiB, at the same
// time; nothing that was read comes out unless it holds. Without a signer there is
// no list.
//
// That signer is valid, and may speak for the issuer of a certificate, is for
// the caller to know: its path leads to the trust anchor of that certificate's
// chain (RFC 5280 section 6.3.3 (f)). Otherwise anybody whom any CA certifies
// under the issuer's name could empty its lists.
//
// It takes time and memory in proportion to der, whose size the caller bounds.
func ParseAndVerify(der []byte, signer *x509.Certificate) (*List, error) {
	if signer == nil {
		return nil, fmt.Errorf("%w: the signer's certificate is missing", ErrIssuer)
	}
	h, err := parseHeader(der)
	if err != nil {
		return nil, err
	}
	if err := checkSigner(h, signer); err != nil {
		return nil, err
	}
	var l *List
	var unsigned, unread error
	verify := func() { unsigned = x509ext.CheckSignature(signer, h.algorithm, h.signed, h.signature) }
	read := func() { l, unread = parseBody(h) }
	if len(der) > large {
		parallel(verify, read)
	} else if verify(); unsigned == nil {
		read()
	}
	if unsigned != nil {
		return nil, fmt.Errorf("CRL: %w", unsigned)
	}
	if unread != nil {
		return nil, unread
	}
	if l.AuthorityKeyID != nil && len(signer.SubjectKeyId) != 0 && !bytes.Equal(l.AuthorityKeyID, signer.SubjectKeyId) {
		return nil, fmt.Errorf("%w: authority key identifier differs", ErrIssuer)
	}
	l.signerKey = x509ext.KeyHash(signer)
	l.signature = sha256.Sum256(h.signature)
	return l, nil
}

// large is the size of a list above which another processor is worth its while.
const large = 1 << 20

var oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}

// checkSigner decides whether signer may have signed the list at all.
func checkSigner(h header, signer *x509.Certificate) error {
	if !bytes.Equal(h.rawIssuer, signer.RawSubject) {
		return fmt.Errorf("%w: issued by another name", ErrIssuer)
	}
	// RFC 5280 section 6.3.3 (f). Present and empty is present.
	if x509ext.HasExtension(signer, oidKeyUsage) {
		if signer.KeyUsage&x509.KeyUsageCRLSign == 0 {
			return fmt.Errorf("%w: the signer's key usage lacks cRLSign", ErrIssuer)
		}
		return nil
	}
	// Without key usage every end entity would be a CRL issuer. A version 1
	// certificate has no basic constraints; whether it is an anchor the chain
	// has decided.
	if signer.Version == 3 && !signer.BasicConstraintsValid || signer.BasicConstraintsValid && !signer.IsCA {
		return fmt.Errorf("%w: the signer is neither a CA nor has it a key usage with cRLSign", ErrIssuer)
	}
	return nil
}

// SignedBy reports whether signer has the name and the key that the list was
// verified with. Whoever keeps lists asks it before using one: two CAs may
// publish under one URL and even under one name.
func (l *List) SignedBy(signer *x509.Certificate) bool {
	return signer != nil && bytes.Equal(l.RawIssuer, signer.RawSubject) && l.signerKey == x509ext.KeyHash(signer)
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

// Indirect reports whether the list may have entries for certificates of other
// issuers than its own (RFC 5280 section 5.2.5).
func (l *List) Indirect() bool { return l.scope.indirect }

// Len is the number of entries.
func (l *List) Len() int { return l.entries.len() }

// Size is about how many bytes of memory the list takes.
func (l *List) Size() int {
	n := 512 + len(l.RawIssuer) + len(l.AuthorityKeyID) + len(l.scope.value) + pointSize(l.scope.point) + l.entries.size()
	for _, p := range l.Freshest {
		n += pointSize(p)
	}
	return n
}

// pointSize counts a name's header along with its octets: there may be many
// empty ones.
func pointSize(p x509ext.DistributionPoint) int {
	const header = 24
	n := 128 + len(p.RelativeRDN)
	for _, uri := range p.URIs {
		n += header + len(uri)
	}
	for _, name := range p.DirectoryNames {
		n += header + len(name)
	}
	for _, name := range p.CRLIssuer {
		n += header + len(name)
	}
	return n
}

// Lookup returns the entry for a certificate, found by its issuer's name and its
// serial number, and false if there is none, which says "not revoked" only if
// Covers and CheckTime have agreed. The names are compared byte for byte. Some
// CAs write serial numbers whose top bit is set without the leading zero octet
// and so as negative ones: such an entry is found under the positive number.
func (l *List) Lookup(cert *x509.Certificate) (Entry, bool) {
	if cert == nil {
		return Entry{}, false
	}
	return l.entries.find(cert.RawIssuer, cert.SerialNumber)
}
