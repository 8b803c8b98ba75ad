package testpki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	mathrand "math/rand/v2"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MassiveCRL signs a list of n entries, in DER, fresh at [Epoch]: what a CA publishes after it has revoked all it ever issued. A million entries make
// 37.8 MB: serial numbers of 16 octets, and every fifth entry has a reason. The i-th entry is for [MassiveSerial](seed, i). Unlike [CA.CRL], which takes
// seconds and gigabytes for such a list, it writes the entries itself.
func (ca *CA) MassiveCRL(n int, seed uint64) ([]byte, error) {
	if n < 0 {
		return nil, errors.New("testpki: a list has no negative number of entries")
	}
	hash, algorithm, err := signatureAlgorithm(ca.Key)
	if err != nil {
		return nil, err
	}
	algorithmDER, err := asn1.Marshal(algorithm)
	if err != nil {
		return nil, err
	}
	extensionsDER, err := massiveExtensions(ca.Certificate.SubjectKeyId)
	if err != nil {
		return nil, err
	}
	this, next := defaultUpdates(time.Time{}, time.Time{})
	var tbs cryptobyte.Builder
	tbs.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(1) // version 2
		b.AddBytes(algorithmDER)
		b.AddBytes(ca.Certificate.RawSubject)
		b.AddASN1UTCTime(this)
		b.AddASN1UTCTime(next)
		if n > 0 {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(massiveEntries(n, seed)) })
		}
		b.AddASN1(constructed(0), func(b *cryptobyte.Builder) { b.AddBytes(extensionsDER) })
	})
	signed, err := tbs.Bytes()
	if err != nil {
		return nil, err
	}
	signature, err := crypto.SignMessage(ca.Key, rand.Reader, signed, hash)
	if err != nil {
		return nil, err
	}
	var list cryptobyte.Builder
	list.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(signed)
		b.AddBytes(algorithmDER)
		b.AddASN1BitString(signature)
	})
	return list.Bytes()
}

// MassiveSerial is the serial number of the i-th entry of [CA.MassiveCRL] with the seed. It is positive and 16 octets long.
func MassiveSerial(seed uint64, i int) *big.Int {
	serial := massiveSerial(seed, i)
	return new(big.Int).SetBytes(serial[:])
}

func massiveSerial(seed uint64, i int) (serial [16]byte) {
	source := mathrand.NewPCG(seed, uint64(i))
	binary.BigEndian.PutUint64(serial[:8], source.Uint64())
	binary.BigEndian.PutUint64(serial[8:], source.Uint64())
	serial[0] = serial[0]&0x7f | 0x40
	return serial
}

// massiveEntries is the contents of revokedCertificates.
func massiveEntries(n int, seed uint64) []byte {
	const (
		entryLen  = 2 + 2 + 16 + 2 + len("yymmddhhmmssZ")
		reasonLen = 14
	)
	reasons := [...]byte{1, 3, 4, 5, 9}
	out := make([]byte, 0, n*entryLen+(n+4)/5*reasonLen)
	for i := range n {
		serial := massiveSerial(seed, i)
		length := byte(entryLen - 2)
		if i%5 == 0 {
			length += reasonLen
		}
		out = append(out, 0x30, length, 2, 16)
		out = append(out, serial[:]...)
		out = append(out, 0x17, 13)
		out = Epoch.Add(-time.Duration(i%(365*24*60))*time.Minute).AppendFormat(out, "060102150405Z")
		if i%5 == 0 {
			out = append(out, 0x30, 12, 0x30, 10, 6, 3, 0x55, 0x1d, 21, 4, 3, 10, 1, reasons[i/5%len(reasons)])
		}
	}
	return out
}

// massiveExtensions is what RFC 5280 section 5.2 demands of every list: the key identifier and the number.
func massiveExtensions(keyID []byte) ([]byte, error) {
	keyIdentifier, err := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{keyID})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal([]pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: keyIdentifier},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 20}, Value: []byte{2, 1, 1}},
	})
}
