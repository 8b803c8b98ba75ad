package directory

import (
	"crypto/sha1" // what Active Directory identifies keys by; a match needs a second preimage
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/altname"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

const (
	attrUPN = "userPrincipalName"
	attrAlt = "altSecurityIdentities"
	attrSID = "objectSid"

	// sidURI begins a URI that names the account ([MS-PKCA] 3.1.5.2.1.5).
	sidURI = "tag:microsoft.com,2022-09-14:sid:"
	// maxNames bounds the names of one kind in a certificate.
	maxNames = 4
)

var (
	oidSIDExtension = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2} // szOID_NTDS_CA_SECURITY_EXT
	oidSID          = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2, 1}
)

// mapping is one way in which a certificate may map to an account: an attribute of
// the account has the value.
type mapping struct {
	form      string // for texts
	attribute string
	value     string
	strong    bool
	ofKey     bool // rests on no CA's word
}

// adCert is what Active Directory looks at in a certificate.
type adCert struct {
	mappings  []mapping
	sid       string // "": the certificate names none
	notBefore time.Time
	issuer    []byte // the issuing CA's certificate
}

// readADCert lists the ways in which a certificate may map to an account. What it
// cannot read for sure refuses.
func readADCert(c, issuer *x509.Certificate) (*adCert, error) {
	a := &adCert{notBefore: c.NotBefore, issuer: issuer.Raw}
	names := x509ext.ReadAltNames(c)
	if names.BadUPN {
		return nil, refuse("a name in the certificate's subjectAltName cannot be read")
	}
	if len(names.UPNs) > maxNames || len(names.Emails) > maxNames {
		return nil, refuse("the certificate has more than %d user principal names or e-mail addresses", maxNames)
	}
	for _, upn := range names.UPNs {
		if _, ok := altname.UPNFromSAN(upn); !ok {
			return nil, refuse("the certificate's user principal name %s is none: it has one @, and no blanks, controls or asterisks", quote(upn))
		}
		a.add(mapping{form: "UPN", attribute: attrUPN, value: upn})
	}
	var err error
	if a.sid, err = certificateSID(c, names.URIs); err != nil {
		return nil, err
	}
	if a.sid != "" {
		a.add(mapping{form: "SID", attribute: attrSID, value: a.sid, strong: true})
	}
	for _, email := range names.Emails {
		if _, ok := altname.EmailFromSAN(email); !ok {
			return nil, refuse("the certificate's e-mail address %s is not a dot-atom and a host", quote(email))
		}
		a.alt("RFC822", "<RFC822>"+email, false)
	}
	issuerName, named := x500(c.RawIssuer)
	subjectName, subjected := x500(c.RawSubject)
	if subjected {
		a.alt("subject", "<S>"+subjectName, false)
	}
	if named && subjected {
		a.alt("issuer and subject", "<I>"+issuerName+"<S>"+subjectName, false)
	}
	if named {
		for _, serial := range serials(c) {
			a.alt("issuer and serial number", "<I>"+issuerName+"<SR>"+serial, true)
		}
	}
	if named && a.sid != "" {
		a.alt("issuer and SID", "<I>"+issuerName+"<SID>"+a.sid, true)
	}
	if len(c.SubjectKeyId) > 0 {
		a.alt("SKI", "<SKI>"+hex.EncodeToString(c.SubjectKeyId), true)
	}
	keys, err := publicKeyHashes(c)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		a.add(mapping{"public key", attrAlt, "X509:<SHA1-PUKEY>" + key, true, true})
	}
	return a, nil
}

func (a *adCert) add(m mapping) {
	if !slices.Contains(a.mappings, m) {
		a.mappings = append(a.mappings, m)
	}
}

func (a *adCert) alt(form, value string, strong bool) {
	a.add(mapping{form: form, attribute: attrAlt, value: "X509:" + value, strong: strong})
}

// certificateSID returns the SID that the CA names, in the extension
// ([MS-WCCE] 2.2.2.7.7.4) or a URI, or "".
func certificateSID(c *x509.Certificate, uris []string) (string, error) {
	sid := ""
	found := func(s string) error {
		if _, ok := sidBytes(s); !ok {
			return refuse("the certificate's SID %s cannot be read", quote(s))
		}
		if sid != "" && sid != s {
			return refuse("the certificate names two SIDs, %s and %s", sid, s)
		}
		sid = s
		return nil
	}
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSIDExtension) {
			continue
		}
		s, ok := sidExtension(e.Value)
		if !ok {
			return "", refuse("the certificate's SID extension cannot be read")
		}
		if err := found(s); err != nil {
			return "", err
		}
	}
	for _, uri := range uris {
		if len(uri) >= len(sidURI) && strings.EqualFold(uri[:len(sidURI)], sidURI) {
			if err := found(uri[len(sidURI):]); err != nil {
				return "", err
			}
		}
	}
	return sid, nil
}

// sidExtension reads GeneralNames with the one otherName that holds the SID as an
// OCTET STRING of its text.
func sidExtension(value []byte) (string, bool) {
	in := cryptobyte.String(value)
	context0 := cbasn1.Tag(0).ContextSpecific().Constructed()
	var names, name, explicit, sid cryptobyte.String
	var oid asn1.ObjectIdentifier
	ok := in.ReadASN1(&names, cbasn1.SEQUENCE) && in.Empty() &&
		names.ReadASN1(&name, context0) && names.Empty() &&
		name.ReadASN1ObjectIdentifier(&oid) && oid.Equal(oidSID) &&
		name.ReadASN1(&explicit, context0) && name.Empty() &&
		explicit.ReadASN1(&sid, cbasn1.OCTET_STRING) && explicit.Empty()
	return string(sid), ok
}

// serials returns the octets of the serial number in reverse, as Active Directory
// writes it: without the zero octet that only makes it positive, and with it.
func serials(c *x509.Certificate) []string {
	b := c.SerialNumber.Bytes()
	slices.Reverse(b)
	list := []string{hex.EncodeToString(b)}
	if len(b) == 0 || b[len(b)-1] >= 0x80 {
		list = append(list, list[0]+"00")
	}
	return list
}

// publicKeyHashes returns the SHA-1 of the subjectPublicKey and of the
// SubjectPublicKeyInfo. [MS-PKCA] says "of the public key"; either names this key and
// no other.
func publicKeyHashes(c *x509.Certificate) ([]string, error) {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &info); err != nil || len(rest) > 0 {
		return nil, refuse("the certificate's public key cannot be read")
	}
	key, whole := sha1.Sum(info.Key.Bytes), sha1.Sum(c.RawSubjectPublicKeyInfo)
	return []string{hex.EncodeToString(key[:]), hex.EncodeToString(whole[:])}, nil
}

// x500Types are the names that Windows gives to attribute types (CertNameToStr with
// CERT_X500_NAME_STR).
var x500Types = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "SERIALNUMBER", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "S", "2.5.4.9": "STREET",
	"2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "T", "2.5.4.13": "Description", "2.5.4.17": "PostalCode", "2.5.4.18": "POBox",
	"2.5.4.20": "Phone", "2.5.4.42": "G", "2.5.4.43": "I", "2.5.4.46": "dnQualifier",
	"0.9.2342.19200300.100.1.25": "DC", "1.2.840.113549.1.9.1": "E",
}

// x500 writes a name in the order of the certificate, most general attribute first,
// each value quoted where it could be taken for something else. It reports false for
// an empty name, which would match whoever has none, for empty parts of one, and for
// values that are no text.
func x500(raw []byte) (string, bool) {
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &name); err != nil || len(rest) > 0 || len(name) == 0 {
		return "", false
	}
	var rdns []string
	for _, rdn := range name {
		if len(rdn) == 0 {
			return "", false
		}
		var parts []string
		for _, attribute := range rdn {
			value, ok := attribute.Value.(string)
			if !ok || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
				return "", false
			}
			key, ok := x500Types[attribute.Type.String()]
			if !ok {
				key = "OID." + attribute.Type.String()
			}
			if value == "" || value != strings.TrimSpace(value) || strings.ContainsAny(value, `,+="<>#;`) {
				value = `"` + strings.ReplaceAll(value, `"`, `""`) + `"`
			}
			parts = append(parts, key+"="+value)
		}
		rdns = append(rdns, strings.Join(parts, " + "))
	}
	return strings.Join(rdns, ","), true
}

// filter finds the accounts that may be meant, all at once, so that two of them
// are seen.
func (a *adCert) filter() string {
	var s strings.Builder
	s.WriteString("(&(objectClass=user)(|")
	for _, m := range a.mappings {
		if m.attribute == attrSID {
			sid, _ := sidBytes(m.value) // it was read when the mapping was made
			fmt.Fprintf(&s, "(%s=%s)", m.attribute, escapeBytes(sid))
			continue
		}
		fmt.Fprintf(&s, "(%s=%s)", m.attribute, ldap.EscapeFilter(m.value))
	}
	s.WriteString("))")
	return s.String()
}

// matches lists the forms by which the certificate maps to an entry that the directory
// has found, and says whether one of them is strong. The directory's own comparison
// takes more for equal, such as blanks at the ends and letters with and without
// accents. Without trust in the CA, its names, numbers and identifiers map to nobody.
func (a *adCert) matches(upns, alts []string, sid string, trusted bool) (forms []string, strong bool) {
	for _, m := range a.mappings {
		held := alts
		switch m.attribute {
		case attrUPN:
			held = upns
		case attrSID:
			held = []string{sid}
		}
		if (trusted || m.ofKey) && slices.ContainsFunc(held, func(s string) bool { return foldASCII(s, m.value) }) {
			forms = append(forms, m.form)
			strong = strong || m.strong
		}
	}
	return forms, strong
}

// foldASCII compares without the case of ASCII letters.
func foldASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	lower := func(c byte) byte {
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}
