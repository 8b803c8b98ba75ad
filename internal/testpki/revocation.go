package testpki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // the hash of a CertID that RFC 5019 section 2.1.1 asks for
	_ "crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/crypto/ocsp"
)

// CRLOptions says what a certificate revocation list looks like. The zero value is a sound, empty, complete list, fresh at [Epoch].
type CRLOptions struct {
	Number *big.Int // nil: 1
	// ThisUpdate and NextUpdate, zero: Epoch-1h and Epoch+24h.
	ThisUpdate, NextUpdate time.Time
	Entries                []x509.RevocationListEntry
	Extra                  []pkix.Extension
	// Signer, nil: the CA itself. Another one signs with its key under the CA's name and key identifier: a forgery. A list under another certificate's
	// name and key identifier is that of a CA with this certificate and key, whatever the certificate is good for; it needs a key identifier.
	Signer *CA
	// BaseNumber makes it a delta for the complete list of that number (RFC 5280 section 5.2.4). Nil: a complete list.
	BaseNumber *big.Int
	// Version1 leaves version and crlExtensions out, so that Number, Extra and BaseNumber have no effect. Its entries are to be without extensions.
	Version1 bool
}

// CRL signs a list, in DER. It does so also for a CA whose certificate has no cRLSign: refusing that list is the verifier's task.
func (ca *CA) CRL(o CRLOptions) ([]byte, error) {
	issuer := *ca.Certificate
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	key := ca.Key
	if o.Signer != nil {
		key = o.Signer.Key
	}
	t := &x509.RevocationList{
		Number:                    o.Number,
		RevokedCertificateEntries: o.Entries,
		ExtraExtensions:           slices.Clone(o.Extra),
	}
	if t.Number == nil {
		t.Number = big.NewInt(1)
	}
	if o.BaseNumber != nil {
		base, err := asn1.Marshal(o.BaseNumber)
		if err != nil {
			return nil, err
		}
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidDeltaCRLIndicator, Critical: true, Value: base})
	}
	if _, ok := key.Public().(*ecdsa.PublicKey); ok && o.Version1 {
		t.SignatureAlgorithm = x509.ECDSAWithSHA256 // what version1 signs with, on every curve
	}
	t.ThisUpdate, t.NextUpdate = defaultUpdates(o.ThisUpdate, o.NextUpdate)
	der, err := x509.CreateRevocationList(rand.Reader, t, &issuer, key)
	if err != nil || !o.Version1 {
		return der, err
	}
	return version1(der, key)
}

// version1 signs a list again without what version 1 does not have (RFC 5280 section 5.1).
func version1(der []byte, key crypto.Signer) ([]byte, error) {
	var in, tbs, part cryptobyte.String
	var tag cbasn1.Tag
	list := cryptobyte.String(der)
	if !list.ReadASN1(&in, cbasn1.SEQUENCE) || !in.ReadASN1(&tbs, cbasn1.SEQUENCE) || !tbs.SkipASN1(cbasn1.INTEGER) {
		return nil, errors.New("testpki: not a list that x509 made")
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for tbs.ReadAnyASN1Element(&part, &tag) {
			if tag != constructed(0) { // crlExtensions
				b.AddBytes(part)
			}
		}
	})
	signed, err := b.Bytes()
	if err != nil {
		return nil, err
	}
	hash, algorithm, err := signatureAlgorithm(key)
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(key, rand.Reader, signed, hash)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: signed}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}

func defaultUpdates(this, next time.Time) (time.Time, time.Time) {
	if this.IsZero() {
		this = Epoch.Add(-time.Hour)
	}
	if next.IsZero() {
		next = Epoch.Add(24 * time.Hour)
	}
	return this, next
}

// OCSPOptions says what an OCSP response looks like. The zero value with a Serial is a sound "good", fresh at [Epoch].
type OCSPOptions struct {
	Status int      // ocsp.Good, ocsp.Revoked or ocsp.Unknown of x/crypto/ocsp
	Serial *big.Int // required
	// ThisUpdate and NextUpdate, zero: Epoch-1h and Epoch+24h.
	ThisUpdate, NextUpdate time.Time
	NoNextUpdate           bool                // leaves nextUpdate out
	ProducedAt             time.Time           // zero: ThisUpdate
	RevokedAt              time.Time           // zero: ThisUpdate; only for ocsp.Revoked
	Reason                 int                 // a CRLReason, zero: left out; only for ocsp.Revoked
	Responder              *Leaf               // nil: the CA signs; otherwise its certificate is embedded and its key signs
	Hash                   crypto.Hash         // of the CertID: zero or SHA1, or SHA256
	ResponderByKey         bool                // name the responder by the hash of its key and not by its subject
	Embed                  []*x509.Certificate // nil: the Responder's certificate, if there is a Responder; empty and not nil: none
	SingleExtensions       []pkix.Extension    // singleExtensions of the one answer
	Extensions             []pkix.Extension    // responseExtensions, for instance a nonce
}

// OCSP signs a response for a serial number of this CA, in DER. It is written here and not by ocsp.CreateResponse because that one takes producedAt from
// the machine's clock.
func (ca *CA) OCSP(o OCSPOptions) ([]byte, error) {
	if o.Serial == nil {
		return nil, errors.New("testpki: an OCSP response needs a serial number")
	}
	if o.Status != ocsp.Good && o.Status != ocsp.Revoked && o.Status != ocsp.Unknown {
		return nil, fmt.Errorf("testpki: %d is not a certificate status", o.Status)
	}
	if o.Hash == 0 {
		o.Hash = crypto.SHA1
	}
	o.ThisUpdate, o.NextUpdate = defaultUpdates(o.ThisUpdate, o.NextUpdate)
	if o.ProducedAt.IsZero() {
		o.ProducedAt = o.ThisUpdate
	}
	if o.RevokedAt.IsZero() {
		o.RevokedAt = o.ThisUpdate
	}
	responder, key := ca.Certificate, ca.Key
	if o.Responder != nil {
		responder, key = o.Responder.Certificate, o.Responder.Key
		if o.Embed == nil {
			o.Embed = []*x509.Certificate{responder}
		}
	}

	data, err := ca.responseData(o, responder)
	if err != nil {
		return nil, err
	}
	hash, algorithm, err := signatureAlgorithm(key)
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(key, rand.Reader, data, hash)
	if err != nil {
		return nil, err
	}
	return encodeResponse(data, algorithm, signature, o.Embed)
}

// responseData is the ResponseData of RFC 6960 section 4.2.1.
func (ca *CA) responseData(o OCSPOptions, responder *x509.Certificate) ([]byte, error) {
	certID, err := ca.certID(o.Hash, o.Serial)
	if err != nil {
		return nil, err
	}
	singleExtensions, err := extensions(o.SingleExtensions)
	if err != nil {
		return nil, err
	}
	responseExtensions, err := extensions(o.Extensions)
	if err != nil {
		return nil, err
	}
	keyHash, err := publicKeyHash(responder, crypto.SHA1)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if o.ResponderByKey {
			b.AddASN1(constructed(2), func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyHash) })
		} else {
			b.AddASN1(constructed(1), func(b *cryptobyte.Builder) { b.AddBytes(responder.RawSubject) })
		}
		addTime(b, o.ProducedAt)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // responses
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes(certID)
				addStatus(b, o)
				addTime(b, o.ThisUpdate)
				if !o.NoNextUpdate {
					b.AddASN1(constructed(0), func(b *cryptobyte.Builder) { addTime(b, o.NextUpdate) })
				}
				if singleExtensions != nil {
					b.AddASN1(constructed(1), func(b *cryptobyte.Builder) { b.AddBytes(singleExtensions) })
				}
			})
		})
		if responseExtensions != nil {
			b.AddASN1(constructed(1), func(b *cryptobyte.Builder) { b.AddBytes(responseExtensions) })
		}
	})
	return b.Bytes()
}

// certID names a certificate by the hash of its issuer's name and key and its serial number, RFC 6960 section 4.1.1.
func (ca *CA) certID(hash crypto.Hash, serial *big.Int) ([]byte, error) {
	keyHash, err := publicKeyHash(ca.Certificate, hash)
	if err != nil {
		return nil, err
	}
	oid := asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	if hash == crypto.SHA256 {
		oid = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	}
	h := hash.New()
	h.Write(ca.Certificate.RawSubject)
	return asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		NameHash  []byte
		KeyHash   []byte
		Serial    *big.Int
	}{pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue}, h.Sum(nil), keyHash, serial})
}

// publicKeyHash hashes the bits of the key without the BIT STRING's tag, length and count of unused bits.
func publicKeyHash(c *x509.Certificate, hash crypto.Hash) ([]byte, error) {
	if hash != crypto.SHA1 && hash != crypto.SHA256 {
		return nil, fmt.Errorf("testpki: hash %v is not one for a CertID", hash)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil, err
	}
	h := hash.New()
	h.Write(info.Key.RightAlign())
	return h.Sum(nil), nil
}

func addStatus(b *cryptobyte.Builder, o OCSPOptions) {
	switch o.Status {
	case ocsp.Good:
		addBytes(b, cbasn1.Tag(0).ContextSpecific(), nil)
	case ocsp.Unknown:
		addBytes(b, cbasn1.Tag(2).ContextSpecific(), nil)
	case ocsp.Revoked:
		b.AddASN1(constructed(1), func(b *cryptobyte.Builder) {
			addTime(b, o.RevokedAt)
			if o.Reason != 0 {
				b.AddASN1(constructed(0), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(o.Reason)) })
			}
		})
	}
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	b.AddASN1GeneralizedTime(t.UTC().Truncate(time.Second))
}

func extensions(list []pkix.Extension) ([]byte, error) {
	if list == nil {
		return nil, nil
	}
	return asn1.Marshal(list)
}

// encodeResponse wraps the signed data as a BasicOCSPResponse in a successful OCSPResponse.
func encodeResponse(data []byte, algorithm pkix.AlgorithmIdentifier, signature []byte, certs []*x509.Certificate) ([]byte, error) {
	algorithmDER, err := asn1.Marshal(algorithm)
	if err != nil {
		return nil, err
	}
	var basic cryptobyte.Builder
	basic.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(data)
		b.AddBytes(algorithmDER)
		b.AddASN1BitString(signature)
		if len(certs) > 0 {
			b.AddASN1(constructed(0), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, c := range certs {
						b.AddBytes(c.Raw)
					}
				})
			})
		}
	})
	basicDER, err := basic.Bytes()
	if err != nil {
		return nil, err
	}
	var out cryptobyte.Builder
	out.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(int64(ocsp.Success))
		b.AddASN1(constructed(0), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}) // id-pkix-ocsp-basic
				b.AddASN1OctetString(basicDER)
			})
		})
	})
	return out.Bytes()
}

func signatureAlgorithm(key crypto.Signer) (crypto.Hash, pkix.AlgorithmIdentifier, error) {
	switch key.Public().(type) {
	case *ecdsa.PublicKey:
		return crypto.SHA256, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}, nil
	case *rsa.PublicKey:
		return crypto.SHA256, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}, nil
	case ed25519.PublicKey:
		return 0, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 112}}, nil
	}
	return 0, pkix.AlgorithmIdentifier{}, errors.New("testpki: unsupported key type for an OCSP signature")
}
