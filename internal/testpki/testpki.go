// Package testpki is a public key infrastructure in memory for tests: roots, intermediates, cross-signs, leaves, certificate revocation lists and
// OCSP responses, well formed by default and wrong in exactly the way a test asks for.
//
// Everything is valid around [Epoch], so that tests pass a fixed clock and never depend on the day they run. Keys are made afresh and live only in
// memory. After construction all methods may be called concurrently; the exported fields of [CA] are to be set before that.
package testpki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Epoch is the moment around which every default validity is laid.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Options says what a certificate looks like. The zero value is a sound certificate of its kind.
type Options struct {
	CommonName string   // of the subject; empty: a made-up unique name for a CA, an empty subject for a leaf
	Names      []string // dNSName SANs, put in byte for byte, also malformed ones
	// NotBefore and NotAfter, zero: Epoch-5y and Epoch+20y for a CA, Epoch-1y and Epoch+2y for a leaf.
	NotBefore, NotAfter time.Time
	Serial              *big.Int           // nil: 16 random bytes, positive
	Key                 crypto.Signer      // nil: a new P-256 key
	ExtKeyUsage         []x509.ExtKeyUsage // nil: clientAuth for a leaf, none for a CA; empty and not nil: none
	KeyUsage            x509.KeyUsage      // zero: digitalSignature for a leaf, certSign and cRLSign for a CA
	Extra               []pkix.Extension   // added as they are
	// Template has the last word on the template before it is signed. SANs of other types than dNSName are set here; a SAN extension put into
	// ExtraExtensions replaces the one that Names would give.
	Template func(*x509.Certificate)
}

// CA is a certificate authority. Set the URL fields before the CA is used from several goroutines.
type CA struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	Parent      *CA      // nil for a root
	CRLURLs     []string // go into the cRLDistributionPoints of everything issued from then on
	OCSPURLs    []string // go into the authorityInfoAccess of everything issued from then on
}

// Leaf is an end-entity certificate with its key.
type Leaf struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	Chain       []*x509.Certificate // the intermediates, the leaf's issuer first; the root is left out
	Issuer      *CA
}

// NewRoot makes a self-signed authority.
func NewRoot(o Options) (*CA, error) {
	return newCA(nil, o)
}

// NewIntermediate makes an authority whose certificate ca issues.
func (ca *CA) NewIntermediate(o Options) (*CA, error) {
	return newCA(ca, o)
}

// CrossSign issues a CA certificate for the name and the key of other. CommonName and Key of the options are not used.
func (ca *CA) CrossSign(other *CA, o Options) (*x509.Certificate, error) {
	t := template(o, true)
	t.RawSubject = other.Certificate.RawSubject
	t.SubjectKeyId = other.Certificate.SubjectKeyId
	return ca.sign(t, o, other.Key.Public())
}

// Issue makes an end-entity certificate.
func (ca *CA) Issue(o Options) (*Leaf, error) {
	key, err := keyFor(o)
	if err != nil {
		return nil, err
	}
	t := template(o, false)
	cert, err := ca.sign(t, o, key.Public())
	if err != nil {
		return nil, err
	}
	leaf := &Leaf{Certificate: cert, Key: key, Issuer: ca}
	for c := ca; c.Parent != nil; c = c.Parent {
		leaf.Chain = append(leaf.Chain, c.Certificate)
	}
	return leaf, nil
}

// PEM returns the authority's certificate.
func (ca *CA) PEM() []byte {
	return certificatePEM(ca.Certificate)
}

// TLS returns the leaf, its chain and its key for a tls.Config.
func (l *Leaf) TLS() tls.Certificate {
	out := tls.Certificate{PrivateKey: l.Key, Leaf: l.Certificate, Certificate: [][]byte{l.Certificate.Raw}}
	for _, c := range l.Chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// PEM returns the leaf followed by its chain, and the key in PKCS #8. The key is nil if it is of a type that x509.MarshalPKCS8PrivateKey does not know.
func (l *Leaf) PEM() (cert, key []byte) {
	cert = certificatePEM(l.Certificate)
	for _, c := range l.Chain {
		cert = append(cert, certificatePEM(c)...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(l.Key)
	if err != nil {
		return cert, nil
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func newCA(parent *CA, o Options) (*CA, error) {
	key, err := keyFor(o)
	if err != nil {
		return nil, err
	}
	t := template(o, true)
	ca := &CA{Key: key, Parent: parent}
	issuer := parent
	if parent == nil {
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(spki)
		t.SubjectKeyId = sum[:20]
		issuer = &CA{Certificate: t, Key: key}
	}
	ca.Certificate, err = issuer.sign(t, o, key.Public())
	if err != nil {
		return nil, err
	}
	return ca, nil
}

func keyFor(o Options) (crypto.Signer, error) {
	if o.Key != nil {
		return o.Key, nil
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// template is the certificate that o describes, without what its issuer adds.
func template(o Options, isCA bool) *x509.Certificate {
	serial := o.Serial
	if serial == nil {
		b := make([]byte, 16)
		rand.Read(b)
		b[0] = b[0]&0x7f | 0x40 // positive and always 16 bytes long
		serial = new(big.Int).SetBytes(b)
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: o.CommonName},
		DNSNames:              slices.Clone(o.Names),
		NotBefore:             o.NotBefore,
		NotAfter:              o.NotAfter,
		KeyUsage:              o.KeyUsage,
		ExtKeyUsage:           slices.Clone(o.ExtKeyUsage),
		BasicConstraintsValid: true,
		IsCA:                  isCA,
		ExtraExtensions:       slices.Clone(o.Extra),
	}
	before, after, usage := Epoch.AddDate(-1, 0, 0), Epoch.AddDate(2, 0, 0), x509.KeyUsageDigitalSignature
	if isCA {
		before, after, usage = Epoch.AddDate(-5, 0, 0), Epoch.AddDate(20, 0, 0), x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	}
	if t.NotBefore.IsZero() {
		t.NotBefore = before
	}
	if t.NotAfter.IsZero() {
		t.NotAfter = after
	}
	if t.KeyUsage == 0 {
		t.KeyUsage = usage
	}
	if !isCA && o.ExtKeyUsage == nil {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if isCA && o.CommonName == "" {
		// Two authorities of one name would make every chain of a test ambiguous by accident.
		t.Subject.CommonName = "Example CA " + rand.Text()[:8]
	}
	return t
}

// sign adds the issuer's pointers, lets the test change the template, and issues it.
func (ca *CA) sign(t *x509.Certificate, o Options, public crypto.PublicKey) (*x509.Certificate, error) {
	t.CRLDistributionPoints = slices.Clone(ca.CRLURLs)
	t.OCSPServer = slices.Clone(ca.OCSPURLs)
	if o.Template != nil {
		o.Template(t)
	}
	if err := addSubjectAltName(t); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.Certificate, public, ca.Key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("testpki: the certificate that was asked for cannot be parsed: %w", err)
	}
	return cert, nil
}
