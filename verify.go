package mtls

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// Limits bound what a peer may send and how long a request waits. Zero fields
// have the defaults given.
type Limits struct {
	Certificates int           // certificates that a peer may send: 10
	Bytes        int           // their DER in all: 64 KiB
	Names        int           // subject alternative names of the client's certificate, attributes of its subject, policies: 256 each
	Wait         time.Duration // how long a request waits for revocation evidence and DNS together: 3 s
	Verdicts     int           // verdicts kept for new connections of known clients: 4096
}

// minRSABits and maxRSABits are what crypto/rsa and crypto/tls accept.
const minRSABits, maxRSABits = 1024, 8192

func (l *Limits) fill(failed *problems) {
	for _, f := range []struct {
		name     string
		value    *int
		standard int
	}{{"Certificates", &l.Certificates, 10}, {"Bytes", &l.Bytes, 64 << 10}, {"Names", &l.Names, 256}, {"Verdicts", &l.Verdicts, 4096}} {
		if *f.value < 0 {
			failed.add("Config.Limits."+f.name, fmt.Sprint(*f.value), "negative")
		}
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	if l.Wait < 0 {
		failed.add("Config.Limits.Wait", l.Wait.String(), "negative")
	}
	if l.Wait == 0 {
		l.Wait = 3 * time.Second
	}
}

// presented is what a peer sent: parsed by us, from the bytes, because
// crypto/tls shares the certificates it has parsed between connections and with
// every handler.
type presented struct {
	raw   [][]byte
	certs []*x509.Certificate // certs[0] is the client's; the others are what it hopes will help
	names []string            // canonical dNSNames of certs[0]
	alt   x509ext.AltNames    // its subject alternative names
	cas   []*x509.Certificate // of certs[1:], those that lead to an anchor
}

// refusal is a step that failed.
type refusal struct {
	reason Reason
	detail string
}

func refusef(r Reason, format string, args ...any) *refusal {
	return &refusal{r, fmt.Sprintf(format, args...)}
}

// parse applies the limits and reads what was sent. What is wrong with the
// client's own certificate alone is found here.
func (g *Guard) parse(raw [][]byte) (*presented, *refusal) {
	if len(raw) == 0 {
		return nil, refusef(ReasonNoCertificate, "the client sent no certificate")
	}
	if n := len(raw); n > g.limits.Certificates {
		return nil, refusef(ReasonMalformedCertificate, "%d certificates, more than %d", n, g.limits.Certificates)
	}
	size := 0
	for _, der := range raw {
		size += len(der)
	}
	if size > g.limits.Bytes {
		return nil, refusef(ReasonMalformedCertificate, "%d bytes of certificates, more than %d", size, g.limits.Bytes)
	}
	p := &presented{raw: raw}
	for i, der := range raw {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refusef(ReasonMalformedCertificate, "certificate %d: %s", i, safe(err.Error()))
		}
		if !x509ext.Canonical(c) {
			return nil, refusef(ReasonMalformedCertificate, "certificate %d is not the DER that was issued", i)
		}
		if !x509ext.CanonicalKey(c) {
			return nil, refusef(ReasonMalformedCertificate, "the public key of certificate %d is not written as it should be (RFC 3279, RFC 5480, RFC 8410)", i)
		}
		// crypto/tls refuses these, which cost too much; not everybody's TLS is crypto/tls.
		if key, ok := c.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() > maxRSABits {
			return nil, refusef(ReasonMalformedCertificate, "certificate %d has an RSA key of %d bits, more than %d", i, key.N.BitLen(), maxRSABits)
		}
		p.certs = append(p.certs, c)
	}
	return p, p.checkLeaf(g.limits.Names)
}

func (p *presented) checkLeaf(maxNames int) *refusal {
	leaf := p.certs[0]
	p.alt = x509ext.ReadAltNames(leaf)
	if p.alt.Malformed {
		return refusef(ReasonMalformedCertificate, "its subjectAltName is not DER")
	}
	if n := p.alt.Count; n > maxNames {
		return refusef(ReasonMalformedCertificate, "%d subject alternative names, more than %d", n, maxNames)
	}
	if n := len(leaf.Subject.Names); n > maxNames {
		return refusef(ReasonMalformedCertificate, "%d attributes in its subject, more than %d", n, maxNames)
	}
	if n := len(leaf.Policies); n > maxNames {
		return refusef(ReasonMalformedCertificate, "%d certificate policies, more than %d", n, maxNames)
	}
	if key, ok := leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < minRSABits {
		return refusef(ReasonMalformedCertificate, "an RSA key of %d bits, less than %d", key.N.BitLen(), minRSABits)
	}
	for _, san := range leaf.DNSNames {
		name, err := dnsname.FromSAN(san)
		if err != nil {
			return refusef(ReasonMalformedCertificate, "dNSName %s: %s", quote(san), safe(err.Error()))
		}
		p.names = append(p.names, name)
	}
	x509ext.AcceptAltNames(leaf, p.alt)
	switch {
	case leaf.IsCA:
		return refusef(ReasonKeyUsage, "the client's certificate is a CA certificate")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return refusef(ReasonKeyUsage, "its keyUsage does not allow digital signatures, which TLS needs (RFC 8446 section 4.4.2.2)")
	case x509ext.EmptyExtKeyUsage(leaf):
		return refusef(ReasonMalformedCertificate, "an extended key usage without any purpose (RFC 5280 section 4.2.1.12)")
	case x509ext.ProxyCertificate(leaf):
		return refusef(ReasonMalformedCertificate, "a proxy certificate (RFC 3820)")
	case x509ext.NoRevAvail(leaf) && evidence.Named(leaf):
		return refusef(ReasonMalformedCertificate, "noRevAvail beside a source of revocation evidence (RFC 9608 section 3)")
	}
	return nil
}

// candidate is one chain under one authority.
type candidate struct {
	authority *authority
	chain     []*x509.Certificate // the client's first, the anchor last
	keys      []KeyHash           // of chain[1:]
	names     []string            // of the client's certificate
	usable    bool                // false: the authority may not speak for the names
	// candidates may belong to those who sign CRLs in the place of a CA of the chain.
	candidates []*x509.Certificate
}

// connect finds the CA certificates among those sent that lead to an anchor of
// any authority, going down from the anchors. Only these take part in building
// chains: each sent certificate costs one signature check for each possible
// issuer, once, and a mesh of worthless ones costs nothing else, however many
// authorities there are.
func (p *presented) connect(roots *rootsState) {
	rest := slices.Clone(p.certs[1:])
	take := func(issuers func(*x509.Certificate) []*x509.Certificate) {
		for i, c := range rest {
			if c != nil && c.IsCA && slices.ContainsFunc(issuers(c), func(issuer *x509.Certificate) bool {
				return bytes.Equal(issuer.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(issuer) == nil
			}) {
				p.cas = append(p.cas, c)
				rest[i] = nil
			}
		}
	}
	take(func(c *x509.Certificate) []*x509.Certificate { return roots.subjects[string(c.RawIssuer)] })
	for i := 0; i < len(p.cas); i++ { // p.cas grows
		take(func(*x509.Certificate) []*x509.Certificate { return p.cas[i : i+1] })
	}
}

// chains builds every chain that the certificates allow, per authority. If none
// is usable it says why, of the authority that came furthest.
func (p *presented) chains(roots *rootsState, now time.Time) ([]candidate, *refusal) {
	p.connect(roots)
	var list []candidate
	why := refusef(ReasonUntrustedIssuer, "no authority")
	for _, a := range roots.authorities {
		// The purpose is asked for along the whole chain; "any" is never asked
		// for (CVE-2022-21657, CVE-2025-22874).
		chains, err := p.certs[0].Verify(x509.VerifyOptions{
			Roots:         a.pool,
			Intermediates: p.intermediates(a),
			CurrentTime:   now,
			KeyUsages:     a.Purpose.usages(),
		})
		if err != nil {
			why = worse(why, explain(err, now))
		}
		for _, chain := range chains {
			c := candidate{authority: a, chain: chain, keys: keysOf(chain), names: p.names, usable: true}
			c.candidates = p.signers(a, chain)
			if r := a.acceptable(chain, p.names); r != nil {
				why = worse(why, r)
				if r.reason != ReasonUntrustedIssuer {
					continue
				}
				c.usable = false
			}
			list = append(list, c)
		}
	}
	if !slices.ContainsFunc(list, func(c candidate) bool { return c.usable }) {
		return list, why
	}
	return list, nil
}

// intermediates returns what may stand between the client's certificate and an
// anchor of the authority.
func (p *presented) intermediates(a *authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range p.cas {
		pool.AddCert(c)
	}
	for _, c := range a.extra {
		pool.AddCert(c)
	}
	return pool
}

// acceptable checks what x509.Certificate.Verify does not.
func (a *authority) acceptable(chain []*x509.Certificate, names []string) *refusal {
	leaf := chain[0]
	if len(chain) < 2 {
		// Verify accepts a leaf that is itself in the pool, with no further check.
		return refusef(ReasonKeyUsage, "the client's certificate is an anchor")
	}
	if a.Public {
		stated := slices.ContainsFunc(leaf.ExtKeyUsage, func(u x509.ExtKeyUsage) bool { return slices.Contains(a.Purpose.usages(), u) })
		if !stated || x509ext.AnyExtKeyUsage(leaf) {
			return refusef(ReasonKeyUsage, "authority %q: the certificate must state its extended key usage, and not any", a.Name)
		}
	}
	for _, c := range chain[1 : len(chain)-1] {
		if x509ext.NoRevAvail(c) {
			return refusef(ReasonMalformedCertificate, "CA certificate %s with noRevAvail (RFC 9608 section 2)", quote(x509ext.NameText(c.Subject)))
		}
	}
	if r := constrained(chain); r != nil {
		return r
	}
	for _, n := range names {
		if !a.mayName(n) {
			return refusef(ReasonUntrustedIssuer, "authority %q may not speak for %s: its Domains are %v", a.Name, n, a.domains)
		}
	}
	return nil
}

// progress orders reasons by how far a chain came: the most advanced refusal
// explains best.
func progress(r Reason) int {
	return slices.Index([]Reason{ReasonUntrustedIssuer, ReasonMalformedCertificate, ReasonKeyUsage, ReasonNotYetValid, ReasonExpired}, r)
}

func worse(a, b *refusal) *refusal {
	if progress(b.reason) > progress(a.reason) || a.detail == "no authority" {
		return b
	}
	if progress(b.reason) == progress(a.reason) && strings.HasPrefix(b.detail, "authority ") {
		return b
	}
	return a
}

// explain gives an error of Verify its reason.
func explain(err error, now time.Time) *refusal {
	text := safe(err.Error())
	var invalid x509.CertificateInvalidError
	var unhandled x509.UnhandledCriticalExtension
	switch {
	case errors.As(err, &invalid):
		name := "?"
		if invalid.Cert != nil {
			name = quote(x509ext.NameText(invalid.Cert.Subject))
		}
		switch invalid.Reason {
		case x509.Expired:
			if invalid.Cert != nil && now.Before(invalid.Cert.NotBefore) {
				return refusef(ReasonNotYetValid, "certificate %s is valid from %s", name, invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
			}
			return refusef(ReasonExpired, "certificate %s: %s", name, text)
		case x509.IncompatibleUsage:
			return refusef(ReasonKeyUsage, "certificate %s: %s", name, text)
		}
		return refusef(ReasonUntrustedIssuer, "certificate %s: %s", name, text)
	case errors.As(err, &unhandled):
		return refusef(ReasonMalformedCertificate, "a critical extension that is not understood")
	}
	return refusef(ReasonUntrustedIssuer, "%s", text)
}

// describe fills in what the certificate says of itself.
func (d *Decision) describe(p *presented) {
	if p == nil || len(p.certs) == 0 {
		return
	}
	leaf := p.certs[0]
	d.Subject = safe(x509ext.NameText(leaf.Subject))
	d.Serial = cut(fmt.Sprintf("%x", leaf.SerialNumber), 64)
	d.Hash = HashCertificate(leaf).String()
	for _, n := range leaf.DNSNames[:min(len(leaf.DNSNames), 10)] {
		d.Names = append(d.Names, safe(n))
	}
}
