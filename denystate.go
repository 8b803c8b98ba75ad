package mtls

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

const (
	maxDenyNote   = 256 // bytes
	maxDenySerial = 64  // octets; RFC 5280 section 4.1.2.2 allows 20, and some CAs issue longer ones
)

// A DeniedCertificate names what a DenyList denies, in exactly one of three ways:
// by Certificate, by PublicKey, or by IssuerKey and Serial together.
type DeniedCertificate struct {
	// Certificate is the SHA-256 of its DER. The other encoding of an ECDSA
	// signature does not escape it.
	Certificate CertificateHash
	// PublicKey is the SHA-256 of its SubjectPublicKeyInfo: every certificate for
	// this key. It is the way to deny a CA, in place of whose certificate a client
	// could otherwise show another one for the same key.
	PublicKey KeyHash
	// IssuerKey and Serial are the key of its issuer and its serial number (RFC
	// 5280 section 4.1.2.2), which is not negative. The issuer of an anchor that is
	// not self-signed is not known: deny one by PublicKey.
	IssuerKey KeyHash
	Serial    *big.Int
	// Note is for the operator: one line of at most 256 bytes.
	Note string
}

// denyKey is a DeniedCertificate without its note.
type denyKey struct {
	by     denyBy
	hash   [sha256.Size]byte // of the certificate, of its key or of its issuer's key
	serial string            // octets, big-endian, without leading zeros; bySerial
}

type denyBy int

const (
	byCertificate denyBy = iota
	byPublicKey
	bySerial
)

func (k denyKey) compare(o denyKey) int {
	return cmp.Or(cmp.Compare(k.by, o.by), bytes.Compare(k.hash[:], o.hash[:]),
		cmp.Compare(len(k.serial), len(o.serial)), cmp.Compare(k.serial, o.serial))
}

// checked returns the key of the entry and a copy that is the caller's no more.
func (d DeniedCertificate) checked() (denyKey, DeniedCertificate, error) {
	refused := func(format string, args ...any) (denyKey, DeniedCertificate, error) {
		return denyKey{}, DeniedCertificate{}, fmt.Errorf(format, args...)
	}
	hasCertificate, hasKey, hasIssuer := d.Certificate != CertificateHash{}, d.PublicKey != KeyHash{}, d.IssuerKey != KeyHash{}
	switch ways := b2i(hasCertificate) + b2i(hasKey) + b2i(hasIssuer || d.Serial != nil); {
	case ways == 0:
		return refused("it names no certificate")
	case ways > 1:
		return refused("it names a certificate in more than one way")
	case hasIssuer && d.Serial == nil:
		return refused("IssuerKey without Serial; PublicKey denies a CA")
	case !hasIssuer && d.Serial != nil:
		return refused("Serial without IssuerKey: a serial number is unique for its issuer only")
	case d.Serial != nil && d.Serial.Sign() < 0:
		return refused("a negative serial number")
	case d.Serial != nil && d.Serial.BitLen() > 8*maxDenySerial:
		return refused("a serial number of more than %d octets", maxDenySerial)
	case len(d.Note) > maxDenyNote:
		return refused("a note of more than %d bytes", maxDenyNote)
	case !utf8.ValidString(d.Note) || strings.ContainsFunc(d.Note, func(r rune) bool { return unicode.IsControl(r) && r != '\t' || r == '\u2028' || r == '\u2029' }):
		return refused("a note that is not one line of text") // the rest would be read as an entry
	}
	d.Note = strings.TrimSpace(d.Note)
	switch {
	case hasCertificate:
		return denyKey{by: byCertificate, hash: d.Certificate}, d, nil
	case hasKey:
		return denyKey{by: byPublicKey, hash: d.PublicKey}, d, nil
	}
	d.Serial = new(big.Int).Set(d.Serial)
	return denyKey{by: bySerial, hash: d.IssuerKey, serial: string(d.Serial.Bytes())}, d, nil
}

// denyEntries are the entries of a list, by what they deny.
type denyEntries map[denyKey]DeniedCertificate

// denyState is one immutable state of a DenyList.
type denyState struct {
	entries denyEntries
	has     [bySerial + 1]bool // there are entries of the kind
}

// nothingDenied is the state of a list that is not there. It is always the same,
// so that a verdict that depends on it lasts.
var nothingDenied = &denyState{}

func newDenyState(entries denyEntries) *denyState {
	s := &denyState{entries: entries}
	for k := range entries {
		s.has[k.by] = true
	}
	return s
}

// find looks for the certificates of a chain, the client's first and the anchor
// last, and returns the place of the first that is denied, and why.
func (s *denyState) find(chain []*x509.Certificate) (detail string, index int, ok bool) {
	if len(s.entries) == 0 {
		return "", 0, false
	}
	for i, c := range chain {
		issuer := c
		if i+1 < len(chain) {
			issuer = chain[i+1]
		} else if !bytes.Equal(c.RawIssuer, c.RawSubject) {
			issuer = nil
		}
		if d, denied := s.findOne(c, issuer); denied {
			return d.describe(), i, true
		}
	}
	return "", 0, false
}

// findOne looks for one certificate. The issuer is nil where it is not known.
func (s *denyState) findOne(c, issuer *x509.Certificate) (d DeniedCertificate, ok bool) {
	if s.has[byCertificate] {
		if d, ok = s.entries[denyKey{by: byCertificate, hash: HashCertificate(c)}]; ok {
			return d, true
		}
		// The bearer of a certificate can write its ECDSA signature in the other way.
		if issuer != nil {
			if twin, has := x509ext.Twin(c, issuer); has {
				if d, ok = s.entries[denyKey{by: byCertificate, hash: sha256.Sum256(twin)}]; ok {
					return d, true
				}
			}
		}
	}
	if s.has[byPublicKey] {
		if d, ok = s.entries[denyKey{by: byPublicKey, hash: HashPublicKey(c)}]; ok {
			return d, true
		}
	}
	if s.has[bySerial] && issuer != nil {
		d, ok = s.entries[denyKey{by: bySerial, hash: HashPublicKey(issuer), serial: string(c.SerialNumber.Bytes())}]
	}
	return d, ok
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
