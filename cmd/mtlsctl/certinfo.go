package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1" // Windows shows this hash as the thumbprint
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

var (
	oidSAN     = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUPN     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}
	oidSID     = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2}
	oidSIDName = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2, 1}
)

// sanEntry is one subject alternative name (RFC 5280 section 4.2.1.6).
type sanEntry struct {
	Type  string `json:"type"` // dns, uri, email, upn, ip, directory, other or registered_id
	Value string `json:"value"`
}

// sans reads all names, of every type, in their order. crypto/x509 has refused
// certificates whose extension is damaged in the parts that it reads; of others the
// rest is given in hexadecimal.
func sans(c *x509.Certificate) []sanEntry {
	list := []sanEntry{}
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		in := cryptobyte.String(e.Value)
		var names cryptobyte.String
		if !in.ReadASN1(&names, cbasn1.SEQUENCE) {
			return append(list, sanEntry{"other", hex.EncodeToString(e.Value)})
		}
		for !names.Empty() {
			var value cryptobyte.String
			var tag cbasn1.Tag
			rest := names
			if !names.ReadAnyASN1(&value, &tag) {
				return append(list, sanEntry{"other", hex.EncodeToString(rest)})
			}
			list = append(list, generalName(tag, value))
		}
	}
	return list
}

func generalName(tag cbasn1.Tag, value cryptobyte.String) sanEntry {
	context := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }
	switch tag {
	case context(1):
		return sanEntry{"email", string(value)}
	case context(2):
		return sanEntry{"dns", string(value)}
	case context(6):
		return sanEntry{"uri", string(value)}
	case context(7):
		if a, ok := netip.AddrFromSlice(value); ok {
			return sanEntry{"ip", a.String()}
		}
	case context(8):
		var oid x509.OID
		if oid.UnmarshalBinary(value) == nil {
			return sanEntry{"registered_id", oid.String()}
		}
	case context(4).Constructed():
		if name, _, ok := distinguishedName(value); ok {
			return sanEntry{"directory", name}
		}
	case context(0).Constructed():
		if e, ok := otherName(value); ok {
			return e
		}
	}
	return sanEntry{"other", hex.EncodeToString(value)}
}

// otherName reads type-id and value of an otherName.
func otherName(in cryptobyte.String) (sanEntry, bool) {
	var oid asn1.ObjectIdentifier
	var wrapped, value cryptobyte.String
	var tag cbasn1.Tag
	if !in.ReadASN1ObjectIdentifier(&oid) || !in.ReadASN1(&wrapped, cbasn1.Tag(0).ContextSpecific().Constructed()) ||
		!wrapped.ReadAnyASN1(&value, &tag) {
		return sanEntry{}, false
	}
	text := tag == cbasn1.UTF8String || tag == cbasn1.IA5String || tag == cbasn1.PrintableString
	switch {
	case text && oid.Equal(oidUPN):
		return sanEntry{"upn", string(value)}, true
	case text:
		return sanEntry{"other", oid.String() + " " + string(value)}, true
	}
	return sanEntry{"other", oid.String() + " " + hex.EncodeToString(value)}, true
}

// distinguishedName is the text of a DER Name (RFC 4514), bounded as x509ext.RDNText
// has it; whole says that nothing is left out. Other DER is not ok.
func distinguishedName(der []byte) (text string, whole, ok bool) {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil || len(rest) > 0 {
		return "", false, false
	}
	text, whole = x509ext.RDNText(rdns)
	return text, whole, true
}

// nameText is distinguishedName for what must have a text.
func nameText(der []byte) string {
	if s, _, ok := distinguishedName(der); ok {
		return s
	}
	const most = 2048
	text := "a name that cannot be read: " + hex.EncodeToString(der[:min(len(der), most)])
	if len(der) > most {
		text += "..."
	}
	return text
}

// sidOf returns the security identifier of the user or computer in Active Directory
// ([MS-WCCE] section 2.2.2.7.7.4), or "".
func sidOf(c *x509.Certificate) string {
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSID) {
			continue
		}
		in := cryptobyte.String(e.Value)
		explicit := cbasn1.Tag(0).ContextSpecific().Constructed()
		var names, other, wrapped, sid cryptobyte.String
		var oid asn1.ObjectIdentifier
		if in.ReadASN1(&names, cbasn1.SEQUENCE) && names.ReadASN1(&other, explicit) &&
			other.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidSIDName) &&
			other.ReadASN1(&wrapped, explicit) && wrapped.ReadASN1(&sid, cbasn1.OCTET_STRING) {
			return string(sid)
		}
		return "unreadable"
	}
	return ""
}

// keyText names the kind of a key and its size.
func keyText(c *x509.Certificate) (kind string, bits int) {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return "RSA", k.N.BitLen()
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name, k.Curve.Params().BitSize
	case ed25519.PublicKey:
		return "Ed25519", 256
	}
	return c.PublicKeyAlgorithm.String(), 0
}

// thumbprint is the hash by which Windows and IIS show a certificate.
func thumbprint(c *x509.Certificate) string {
	sum := sha1.Sum(c.Raw)
	return hex.EncodeToString(sum[:])
}

func hashes(c *x509.Certificate) (certificate, key string) {
	return mtls.HashCertificate(c).String(), mtls.HashPublicKey(c).String()
}

var usageNames = map[x509.ExtKeyUsage]string{
	x509.ExtKeyUsageAny: "any", x509.ExtKeyUsageServerAuth: "serverAuth", x509.ExtKeyUsageClientAuth: "clientAuth",
	x509.ExtKeyUsageCodeSigning: "codeSigning", x509.ExtKeyUsageEmailProtection: "emailProtection",
	x509.ExtKeyUsageTimeStamping: "timeStamping", x509.ExtKeyUsageOCSPSigning: "OCSPSigning",
}

func extKeyUsages(c *x509.Certificate) []string {
	list := []string{}
	for _, u := range c.ExtKeyUsage {
		name := usageNames[u]
		if name == "" {
			name = fmt.Sprintf("usage %d", int(u))
		}
		list = append(list, name)
	}
	for _, oid := range c.UnknownExtKeyUsage {
		list = append(list, oid.String())
	}
	return list
}

var keyUsageNames = [...]string{"digitalSignature", "contentCommitment", "keyEncipherment", "dataEncipherment", "keyAgreement", "certSign", "cRLSign", "encipherOnly", "decipherOnly"}

func keyUsages(u x509.KeyUsage) []string {
	list := []string{}
	for i, name := range keyUsageNames {
		if u&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

var extensionNames = map[string]string{
	"2.5.29.14": "subjectKeyIdentifier", "2.5.29.15": "keyUsage", "2.5.29.17": "subjectAltName", "2.5.29.19": "basicConstraints",
	"2.5.29.30": "nameConstraints", "2.5.29.31": "cRLDistributionPoints", "2.5.29.32": "certificatePolicies",
	"2.5.29.35": "authorityKeyIdentifier", "2.5.29.37": "extKeyUsage", "2.5.29.46": "freshestCRL", "2.5.29.56": "noRevAvail",
	"1.3.6.1.5.5.7.1.1": "authorityInfoAccess", "1.3.6.1.5.5.7.1.24": "tlsFeature", "1.3.6.1.4.1.311.25.2": "szOID_NTDS_CA_SECURITY_EXT",
	"1.3.6.1.4.1.311.20.2": "szOID_ENROLL_CERTTYPE_EXTENSION", "1.3.6.1.4.1.311.21.7": "szOID_CERTIFICATE_TEMPLATE",
	"1.3.6.1.4.1.11129.2.4.2": "signedCertificateTimestamps",
}

// pointers are where a certificate says that its CRLs and its OCSP responder are.
func pointers(c *x509.Certificate) (crls, ocsp []string) {
	crls, ocsp = []string{}, append([]string{}, c.OCSPServer...)
	points, err := x509ext.DistributionPoints(c)
	if err != nil {
		return []string{"unreadable"}, ocsp
	}
	for _, p := range points {
		crls = append(crls, p.URIs...)
		for _, n := range p.DirectoryNames {
			crls = append(crls, "directory name "+nameText(n))
		}
	}
	return crls, ocsp
}

// fetchable reports whether a service could ask one of the places.
func fetchable(urls []string) bool {
	for _, u := range urls {
		if l := strings.ToLower(u); strings.HasPrefix(l, "http://") || strings.HasPrefix(l, "https://") {
			return true
		}
	}
	return false
}
