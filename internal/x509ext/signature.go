package x509ext

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrAlgorithm is returned by CheckSignature for an algorithm that does not
// count as evidence, however good the signature is.
var ErrAlgorithm = errors.New("signature algorithm not accepted")

var (
	oidRSAPSS = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidMGF1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}
)

// signatureAlgorithms are the accepted algorithms but for RSASSA-PSS. MD5 and
// SHA-1 are absent: whoever makes two such documents collide has the CA sign
// one and shows the other.
var signatureAlgorithms = []struct {
	oid       asn1.ObjectIdentifier
	algorithm x509.SignatureAlgorithm
	null      bool // parameters may be NULL
}{
	// RFC 4055 section 5: NULL, and absent is to be accepted.
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, x509.SHA256WithRSA, true},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12}, x509.SHA384WithRSA, true},
	{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13}, x509.SHA512WithRSA, true},
	// RFC 5758 section 3.2 and RFC 8410 section 3: absent.
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, x509.ECDSAWithSHA256, false},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, x509.ECDSAWithSHA384, false},
	{asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, x509.ECDSAWithSHA512, false},
	{asn1.ObjectIdentifier{1, 3, 101, 112}, x509.PureEd25519, false},
}

var pssAlgorithms = []struct {
	hash      asn1.ObjectIdentifier
	size      int64
	algorithm x509.SignatureAlgorithm
}{
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, 32, x509.SHA256WithRSAPSS},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, 48, x509.SHA384WithRSAPSS},
	{asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, 64, x509.SHA512WithRSAPSS},
}

// CheckSignature verifies that signature was made over signed by the signer's
// key with the algorithm that algorithmIdentifier, an AlgorithmIdentifier in
// DER, names. Accepted are RSA PKCS #1 v1.5, RSA-PSS (MGF1 with the same hash,
// salt as long as the hash) and ECDSA with SHA-256, SHA-384 or SHA-512, and
// Ed25519; everything else is ErrAlgorithm, SHA-1 included, which
// Certificate.CheckSignature would accept. It looks at nothing but the signer's
// key: whether the signer may sign such a thing is for the caller to know.
func CheckSignature(signer *x509.Certificate, algorithmIdentifier, signed, signature []byte) error {
	algorithm := signatureAlgorithm(algorithmIdentifier)
	if algorithm == x509.UnknownSignatureAlgorithm {
		return ErrAlgorithm
	}
	if err := signer.CheckSignature(algorithm, signed, signature); err != nil {
		return fmt.Errorf("signature does not verify: %w", err)
	}
	return nil
}

func signatureAlgorithm(algorithmIdentifier []byte) x509.SignatureAlgorithm {
	in := cryptobyte.String(algorithmIdentifier)
	oid, parameters, ok := readAlgorithm(&in)
	if !ok || !in.Empty() {
		return x509.UnknownSignatureAlgorithm
	}
	if oid.Equal(oidRSAPSS) {
		return pssAlgorithm(parameters)
	}
	for _, a := range signatureAlgorithms {
		if a.oid.Equal(oid) && (len(parameters) == 0 || a.null && nullOrAbsent(parameters)) {
			return a.algorithm
		}
	}
	return x509.UnknownSignatureAlgorithm
}

// pssAlgorithm reads RSASSA-PSS-params (RFC 4055 section 3.1). The defaults of
// all fields but the trailer mean SHA-1, so that those fields must be present.
func pssAlgorithm(parameters cryptobyte.String) x509.SignatureAlgorithm {
	var seq, hash, mgf, salt, trailer cryptobyte.String
	var hasTrailer bool
	if !parameters.ReadASN1(&seq, cbasn1.SEQUENCE) || !parameters.Empty() ||
		!seq.ReadASN1(&hash, contextTag(0).Constructed()) ||
		!seq.ReadASN1(&mgf, contextTag(1).Constructed()) ||
		!seq.ReadASN1(&salt, contextTag(2).Constructed()) ||
		!seq.ReadOptionalASN1(&trailer, &hasTrailer, contextTag(3).Constructed()) || !seq.Empty() {
		return x509.UnknownSignatureAlgorithm
	}
	hashOID, ok1 := ReadHashAlgorithm(&hash)
	mgfOID, mgfParameters, ok2 := readAlgorithm(&mgf)
	mgfIn := cryptobyte.String(mgfParameters)
	mgfHashOID, ok3 := ReadHashAlgorithm(&mgfIn)
	var saltLength int64
	if !ok1 || !ok2 || !ok3 || !hash.Empty() || !mgf.Empty() || !mgfIn.Empty() ||
		!mgfOID.Equal(oidMGF1) || !mgfHashOID.Equal(hashOID) ||
		!salt.ReadASN1Integer(&saltLength) || !salt.Empty() {
		return x509.UnknownSignatureAlgorithm
	}
	if hasTrailer {
		var field int64
		if !trailer.ReadASN1Integer(&field) || !trailer.Empty() || field != 1 {
			return x509.UnknownSignatureAlgorithm
		}
	}
	for _, a := range pssAlgorithms {
		if a.hash.Equal(hashOID) && a.size == saltLength {
			return a.algorithm
		}
	}
	return x509.UnknownSignatureAlgorithm
}
