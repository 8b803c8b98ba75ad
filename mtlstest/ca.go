package mtlstest

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"time"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// CAOptions describe a CA. The zero value is a sound one.
type CAOptions struct {
	CommonName          string           // empty: a unique one is made up
	Now                 func() time.Time // nil: time.Now
	NotBefore, NotAfter time.Time        // zero: a year before and ten years after Now
	Key                 crypto.Signer    // nil: a new P-256 key
	// Template has the last word on the certificate before it is signed.
	Template func(*x509.Certificate)
}

// A CA issues certificates. It is safe for concurrent use once a
// RevocationServer serves it.
type CA struct {
	t   TB
	pki *testpki.CA
	now func() time.Time
	url *sourceURLs // nil: no RevocationServer serves it
}

// NewCA returns a self-signed root.
func NewCA(t TB, o CAOptions) *CA {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	ca := &CA{t: t, now: o.Now}
	pki, err := testpki.NewRoot(ca.options(o))
	if err != nil {
		t.Fatalf("mtlstest: NewCA: %v", err)
		return nil
	}
	ca.pki = pki
	return ca
}

// Intermediate returns a CA whose certificate ca issues. Serve it, too, if its
// certificates are to have revocation sources.
func (ca *CA) Intermediate(o CAOptions) *CA {
	ca.t.Helper()
	if o.Now == nil {
		o.Now = ca.now
	}
	sub := &CA{t: ca.t, now: o.Now}
	pki, err := ca.issuer(Leaf{}).NewIntermediate(sub.options(o))
	if err != nil {
		ca.t.Fatalf("mtlstest: Intermediate: %v", err)
		return nil
	}
	pki.Parent = ca.pki
	sub.pki = pki
	return sub
}

func (ca *CA) options(o CAOptions) testpki.Options {
	if o.NotBefore.IsZero() {
		o.NotBefore = o.Now().AddDate(-1, 0, 0)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = o.Now().AddDate(10, 0, 0)
	}
	return testpki.Options{CommonName: o.CommonName, NotBefore: o.NotBefore, NotAfter: o.NotAfter, Key: o.Key, Template: o.Template}
}

// Certificate returns the CA's own certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.pki.Certificate }

// Authority returns a private authority with the CA as its anchor.
func (ca *CA) Authority(name string) mtls.Authority {
	return mtls.Authority{Name: name, Anchors: []mtls.Anchor{{Certificate: ca.pki.Certificate}}}
}

// PEMFile writes the CA's certificate to a file of the test's and returns its
// path.
func (ca *CA) PEMFile() string {
	ca.t.Helper()
	return writeFile(ca.t, filepath.Join(ca.t.TempDir(), "ca.pem"), ca.pki.PEM())
}

// Leaf describes a client certificate. The zero value is a sound one without
// names.
type Leaf struct {
	Names               []string // dNSName SANs, put in as they are: wildcards, odd ones
	CommonName          string
	NotBefore, NotAfter time.Time          // zero: an hour before and 90 days after the CA's Now
	ExtKeyUsage         []x509.ExtKeyUsage // nil: clientAuth; empty and not nil: none
	Key                 crypto.Signer      // nil: a new P-256 key
	Sources             Sources            // of revocation evidence that the certificate names; zero: both
	// Template has the last word on the certificate before it is signed.
	Template func(*x509.Certificate)
}

// Sources says which sources of revocation evidence a certificate names.
type Sources int

// Sources of a Leaf.
const (
	CRLAndOCSP Sources = iota
	OnlyCRL
	OnlyOCSP
	NoSources
)

// A Certificate is a client's certificate with its key.
type Certificate struct {
	t    TB
	leaf *testpki.Leaf
}

// Issue issues a client certificate.
func (ca *CA) Issue(l Leaf) *Certificate {
	ca.t.Helper()
	if l.NotBefore.IsZero() {
		l.NotBefore = ca.now().Add(-time.Hour)
	}
	if l.NotAfter.IsZero() {
		l.NotAfter = ca.now().AddDate(0, 0, 90)
	}
	leaf, err := ca.issuer(l).Issue(testpki.Options{
		CommonName: l.CommonName, Names: l.Names, NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		ExtKeyUsage: l.ExtKeyUsage, Key: l.Key, Template: l.Template,
	})
	if err != nil {
		ca.t.Fatalf("mtlstest: Issue: %v", err)
		return nil
	}
	leaf.Issuer = ca.pki
	return &Certificate{ca.t, leaf}
}

// issuer returns the CA with the sources that the certificate is to name.
func (ca *CA) issuer(l Leaf) *testpki.CA {
	c := *ca.pki
	if ca.url == nil {
		return &c
	}
	if l.Sources == CRLAndOCSP || l.Sources == OnlyCRL {
		c.CRLURLs = []string{ca.url.crl}
	}
	if l.Sources == CRLAndOCSP || l.Sources == OnlyOCSP {
		c.OCSPURLs = []string{ca.url.ocsp}
	}
	return &c
}

// Leaf returns the certificate alone.
func (c *Certificate) Leaf() *x509.Certificate { return c.leaf.Certificate }

// TLS returns the certificate, its intermediates and its key for a tls.Config.
func (c *Certificate) TLS() tls.Certificate { return c.leaf.TLS() }

// Write writes the chain and the key as PEM files into a folder, and returns
// their paths: for curl and openssl.
func (c *Certificate) Write(dir, name string) (certFile, keyFile string) {
	c.t.Helper()
	cert, key := c.leaf.PEM()
	return writeFile(c.t, filepath.Join(dir, name+".pem"), cert), writeFile(c.t, filepath.Join(dir, name+"-key.pem"), key)
}

// chain returns the certificate, its intermediates and its root.
func (c *Certificate) chain() []*x509.Certificate {
	list := append([]*x509.Certificate{c.leaf.Certificate}, c.leaf.Chain...)
	root := c.leaf.Issuer
	for root.Parent != nil {
		root = root.Parent
	}
	return append(list, root.Certificate)
}

func writeFile(t TB, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatalf("mtlstest: %v", err)
	}
	return path
}
