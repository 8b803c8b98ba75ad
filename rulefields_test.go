package mtls_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

const notAllowed, deniedByRule = "not_allowed", "denied_by_rule r"

func named(t testing.TB, names ...sanName) mtlstest.Leaf {
	return mtlstest.Leaf{Template: sans(t, names...)}
}

func TestRuleURIs(t *testing.T) {
	t.Parallel()
	uris := func(list ...string) mtls.Rule { return mtls.Rule{URIs: list} }
	pay, web := "spiffe://acme.example/payments", "https://Acme.example/Path?Q=%41"
	ruleRows(t, mtlstest.NewCA(t, mtlstest.CAOptions{}), []ruleRow{
		{"SPIFFE ID", uris(pay), named(t, sanURI(pay)), "r " + pay},
		{"one of several", uris("urn:x:y", pay), named(t, sanURI(pay)), "r " + pay},
		{"another workload", uris(pay), named(t, sanURI("spiffe://acme.example/payments2")), notAllowed},
		{"a workload below", uris(pay), named(t, sanURI(pay+"/x")), notAllowed},
		{"another case of the path", uris(pay), named(t, sanURI("spiffe://acme.example/Payments")), notAllowed},
		{"another trust domain", uris(pay), named(t, sanURI("spiffe://acme.example.evil/payments")), notAllowed},
		{"trust domain", uris("spiffe://acme.example/*"), named(t, sanURI(pay)), "r " + pay},
		{"trust domain, deep path", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example/ns/a/sa/b")), "r spiffe://acme.example/ns/a/sa/b"},
		{"trust domain as a prefix", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example.evil/x")), notAllowed},
		{"trust domain as a suffix", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://evil.acme.example/x")), notAllowed},
		{"trust domain without a path", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example")), notAllowed},
		{"trust domain with an empty path", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example/")), notAllowed},
		{"trust domain in capitals", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://ACME.example/x")), notAllowed},
		{"trust domain as user", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example@evil.example/x")), notAllowed},
		{"trust domain with a port", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example:1/x")), notAllowed},
		{"trust domain, dots in the path", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example/../x")), notAllowed},
		{"trust domain, an escape in the path", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example/%2e%2e/x")), notAllowed},
		{"trust domain, a query", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example/x?y")), notAllowed},
		{"trust domain, a fragment", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://acme.example/x#y")), notAllowed},
		{"trust domain, scheme in capitals", uris("spiffe://acme.example/*"), named(t, sanURI("SPIFFE://acme.example/x")), notAllowed},
		{"two URIs are no SPIFFE ID", uris(pay), named(t, sanURI(pay), sanURI("urn:x:y")), notAllowed},
		{"twice the same URI is no SPIFFE ID", uris(pay), named(t, sanURI(pay), sanURI(pay)), notAllowed},
		{"two URIs, trust domain", uris("spiffe://acme.example/*"), named(t, sanURI("spiffe://evil.example/x"), sanURI(pay)), notAllowed},
		{"a SPIFFE ID beside a domain", uris(pay), named(t, sanURI(pay), sanDNS("acme.example")), "r " + pay},
		{"URI", uris(web), named(t, sanURI(web)), "r https://acme.example/Path?Q=%41"},
		{"URI, case of scheme and host", uris(web), named(t, sanURI("HTTPS://ACME.EXAMPLE/Path?Q=%41")), "r https://acme.example/Path?Q=%41"},
		{"URI, case of the path", uris(web), named(t, sanURI("https://acme.example/path?Q=%41")), notAllowed},
		{"URI, an escape that means the same", uris(web), named(t, sanURI("https://acme.example/Path?Q=A")), notAllowed},
		{"URI, case of the user", uris("https://u@acme.example/"), named(t, sanURI("https://U@acme.example/")), notAllowed},
		{"URI, a final slash", uris("https://acme.example/a"), named(t, sanURI("https://acme.example/a/")), notAllowed},
		{"URI, one of two", uris("urn:x:y"), named(t, sanURI("urn:x:z"), sanURI("urn:x:y")), "r urn:x:y"},
		{"URI in an e-mail address", uris(pay), named(t, sanEmail(pay)), notAllowed},
		{"URI in a UPN", uris(pay), named(t, sanUPN(pay)), notAllowed},
		{"URI in the common name", uris(pay), mtlstest.Leaf{CommonName: pay}, notAllowed},
		{"no names", uris(pay), mtlstest.Leaf{}, notAllowed},
		{"denied", mtls.Rule{Deny: true, URIs: []string{pay}}, named(t, sanURI(pay)), deniedByRule},
		{"denied, two URIs", mtls.Rule{Deny: true, URIs: []string{pay}}, named(t, sanURI("urn:x:y"), sanURI(pay)), deniedByRule},
		{"denied, capitals", mtls.Rule{Deny: true, URIs: []string{pay}}, named(t, sanURI("SPIFFE://ACME.example/PAYMENTS")), deniedByRule},
		{"denied, escaped", mtls.Rule{Deny: true, URIs: []string{pay}}, named(t, sanURI("spiffe://acme.example/%70ayments")), deniedByRule},
		{"denied, in another type of name", mtls.Rule{Deny: true, URIs: []string{pay}}, named(t, sanUPN(pay)), deniedByRule},
		{"denied trust domain", mtls.Rule{Deny: true, URIs: []string{"spiffe://acme.example/*"}}, named(t, sanURI(pay)), deniedByRule},
		{"denied trust domain, capitals, port and user", mtls.Rule{Deny: true, URIs: []string{"spiffe://acme.example/*"}}, named(t, sanURI("Spiffe://u@ACME.example.:1/x")), deniedByRule},
		{"denied trust domain, no path", mtls.Rule{Deny: true, URIs: []string{"spiffe://acme.example/*"}}, named(t, sanURI("spiffe://acme.example")), deniedByRule},
		{"not denied", mtls.Rule{Deny: true, URIs: []string{"spiffe://acme.example/*"}}, named(t, sanURI("spiffe://b.acme.example/x")), "all"},
	})
}

func TestRuleEmails(t *testing.T) {
	t.Parallel()
	emails := func(list ...string) mtls.Rule { return mtls.Rule{Emails: list} }
	ruleRows(t, mtlstest.NewCA(t, mtlstest.CAOptions{}), []ruleRow{
		{"address", emails("ops@acme.example"), named(t, sanEmail("ops@acme.example")), "r ops@acme.example"},
		{"case of the host", emails("ops@Acme.example"), named(t, sanEmail("ops@ACME.Example")), "r ops@acme.example"},
		{"case of the user", emails("ops@acme.example"), named(t, sanEmail("Ops@acme.example")), notAllowed},
		{"another user", emails("ops@acme.example"), named(t, sanEmail("xops@acme.example")), notAllowed},
		{"another host", emails("ops@acme.example"), named(t, sanEmail("ops@b.acme.example")), notAllowed},
		{"one of two", emails("x@acme.example", "ops@acme.example"), named(t, sanEmail("a@b.example"), sanEmail("ops@acme.example")), "r ops@acme.example"},
		{"internationalised host", emails("ops@bücher.example"), named(t, sanEmail("ops@xn--bcher-kva.example")), "r ops@xn--bcher-kva.example"},
		{"every user", emails("*@acme.example"), named(t, sanEmail("anybody+x@acme.example")), "r anybody+x@acme.example"},
		{"every user, host below", emails("*@acme.example"), named(t, sanEmail("a@b.acme.example")), notAllowed},
		{"every user, host that ends so", emails("*@acme.example"), named(t, sanEmail("a@evilacme.example")), notAllowed},
		{"every user, two at-signs", emails("*@acme.example"), named(t, sanEmail("a@evil.example@acme.example")), notAllowed},
		{"every user, quoted", emails("*@acme.example"), named(t, sanEmail(`"a@evil.example"@acme.example`)), notAllowed},
		{"every user, none", emails("*@acme.example"), named(t, sanEmail("@acme.example")), notAllowed},
		{"every user, an asterisk", emails("*@acme.example"), named(t, sanEmail("*@acme.example")), notAllowed},
		{"every user, blank", emails("*@acme.example"), named(t, sanEmail("a b@acme.example")), notAllowed},
		{"host alone", emails("*@acme.example"), named(t, sanEmail("acme.example")), notAllowed},
		{"final dot", emails("ops@acme.example"), named(t, sanEmail("ops@acme.example.")), notAllowed},
		{"in the subject", emails("ops@acme.example"), mtlstest.Leaf{Template: subjectOf("CN", "x", "E", "ops@acme.example")}, notAllowed},
		{"in a UPN", emails("ops@acme.example"), named(t, sanUPN("ops@acme.example")), notAllowed},
		{"in a URI", emails("ops@acme.example"), named(t, sanURI("mailto:ops@acme.example")), notAllowed},
		{"as a domain", emails("*@acme.example"), named(t, sanDNS("acme.example")), notAllowed},
		{"denied", mtls.Rule{Deny: true, Emails: []string{"ops@acme.example"}}, named(t, sanEmail("OPS@Acme.example")), deniedByRule},
		{"denied, final dot", mtls.Rule{Deny: true, Emails: []string{"ops@acme.example"}}, named(t, sanEmail("ops@acme.example.")), deniedByRule},
		{"denied, in the subject", mtls.Rule{Deny: true, Emails: []string{"ops@acme.example"}}, mtlstest.Leaf{Template: subjectOf("E", "Ops@acme.example")}, deniedByRule},
		{"denied, in a UPN", mtls.Rule{Deny: true, Emails: []string{"ops@acme.example"}}, named(t, sanUPN("ops@acme.example")), deniedByRule},
		{"every user denied", mtls.Rule{Deny: true, Emails: []string{"*@acme.example"}}, named(t, sanEmail("a@b@ACME.example")), deniedByRule},
		{"every user of an internationalised host denied", mtls.Rule{Deny: true, Emails: []string{"*@bücher.example"}}, named(t, sanUPN("a@Bücher.example")), deniedByRule},
		{"not denied", mtls.Rule{Deny: true, Emails: []string{"*@acme.example"}}, named(t, sanEmail("a@b.acme.example")), "all"},
	})
}

func TestRuleUPNs(t *testing.T) {
	t.Parallel()
	upns := func(list ...string) mtls.Rule { return mtls.Rule{UPNs: list} }
	ruleRows(t, mtlstest.NewCA(t, mtlstest.CAOptions{}), []ruleRow{
		{"name", upns("ann@corp.example"), named(t, sanUPN("ann@corp.example")), "r ann@corp.example"},
		{"case", upns("Ann@CORP.example"), named(t, sanUPN("aNN@corp.EXAMPLE")), "r ann@corp.example"},
		{"letters beyond ASCII", upns("jörg@corp.example"), named(t, sanUPN("jörg@corp.example")), "r jörg@corp.example"},
		{"case of letters beyond ASCII", upns("jörg@corp.example"), named(t, sanUPN("JÖRG@corp.example")), notAllowed},
		{"Kelvin sign", upns("kim@corp.example"), named(t, sanUPN("\u212aim@corp.example")), notAllowed},
		{"decomposed letters", upns("jörg@corp.example"), named(t, sanUPN("jo\u0308rg@corp.example")), notAllowed},
		{"another user", upns("ann@corp.example"), named(t, sanUPN("joann@corp.example")), notAllowed},
		{"another realm", upns("ann@corp.example"), named(t, sanUPN("ann@corp.example.evil")), notAllowed},
		{"every user", upns("*@corp.example"), named(t, sanUPN("bob@Corp.example")), "r bob@corp.example"},
		{"every user, realm below", upns("*@corp.example"), named(t, sanUPN("bob@x.corp.example")), notAllowed},
		{"every user, two at-signs", upns("*@corp.example"), named(t, sanUPN("bob@evil.example@corp.example")), notAllowed},
		{"every user, none", upns("*@corp.example"), named(t, sanUPN("@corp.example")), notAllowed},
		{"every user, an asterisk", upns("*@corp.example"), named(t, sanUPN("*@corp.example")), notAllowed},
		{"every user, a NUL", upns("*@corp.example"), named(t, sanUPN("a\x00b@corp.example")), notAllowed},
		{"every user, a blank", upns("*@corp.example"), named(t, sanUPN("a @corp.example")), notAllowed},
		{"every user, an invisible letter", upns("*@corp.example"), named(t, sanUPN("a\u200b@corp.example")), notAllowed},
		{"in an e-mail address", upns("ann@corp.example"), named(t, sanEmail("ann@corp.example")), notAllowed},
		{"in the common name", upns("ann@corp.example"), mtlstest.Leaf{CommonName: "ann@corp.example"}, notAllowed},
		{"critical and alone, without a subject", upns("ann@corp.example"), mtlstest.Leaf{Template: func(c *x509.Certificate) {
			san := pcSAN(t, pcUPN(t, "ann@corp.example"))
			san.Critical = true
			c.ExtraExtensions = append(c.ExtraExtensions, san)
		}}, "r ann@corp.example"},
		{"critical, beside a name of another kind", upns("ann@corp.example"), mtlstest.Leaf{Template: func(c *x509.Certificate) {
			san := pcSAN(t, pcUPN(t, "ann@corp.example"), asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, Bytes: []byte{0x2a, 3}})
			san.Critical = true
			c.ExtraExtensions = append(c.ExtraExtensions, san)
		}}, "malformed_certificate"},
		{"an otherName of another type", upns("ann@corp.example"), mtlstest.Leaf{Template: otherName(t, "1.3.6.1.5.2.2", "ann@corp.example", asn1.TagUTF8String)}, notAllowed},
		{"not a UTF8String", upns("ann@corp.example"), mtlstest.Leaf{Template: otherName(t, "1.3.6.1.4.1.311.20.2.3", "ann@corp.example", asn1.TagIA5String)}, notAllowed},
		{"not UTF-8", upns("*@corp.example"), named(t, sanUPN("a\xff@corp.example")), notAllowed},
		{"denied", mtls.Rule{Deny: true, UPNs: []string{"ann@corp.example"}}, named(t, sanUPN("Ann@corp.example")), deniedByRule},
		{"denied, case beyond ASCII", mtls.Rule{Deny: true, UPNs: []string{"jörg@corp.example"}}, named(t, sanUPN("JÖRG@corp.example")), deniedByRule},
		{"denied, Kelvin sign", mtls.Rule{Deny: true, UPNs: []string{"kim@corp.example"}}, named(t, sanUPN("\u212aim@corp.example")), deniedByRule},
		{"denied, blanks", mtls.Rule{Deny: true, UPNs: []string{"ann@corp.example"}}, named(t, sanUPN(" ann@corp.example ")), deniedByRule},
		{"denied, in an e-mail address", mtls.Rule{Deny: true, UPNs: []string{"ann@corp.example"}}, named(t, sanEmail("ann@corp.example")), deniedByRule},
		{"denied, another string type", mtls.Rule{Deny: true, UPNs: []string{"ann@corp.example"}}, mtlstest.Leaf{Template: otherName(t, "1.3.6.1.4.1.311.20.2.3", "ann@corp.example", asn1.TagIA5String)}, deniedByRule},
		{"denied, what cannot be read", mtls.Rule{Deny: true, UPNs: []string{"ann@corp.example"}}, mtlstest.Leaf{Template: otherName(t, "1.3.6.1.4.1.311.20.2.3", "bob@corp.example", asn1.TagOctetString)}, deniedByRule},
		{"every user denied", mtls.Rule{Deny: true, UPNs: []string{"*@corp.example"}}, named(t, sanUPN("a@b@CORP.example")), deniedByRule},
		{"not denied", mtls.Rule{Deny: true, UPNs: []string{"ann@corp.example"}}, named(t, sanUPN("joann@corp.example")), "all"},
	})
}

// otherName puts a subjectAltName with one otherName into a certificate.
func otherName(t testing.TB, id, text string, tag int) func(*x509.Certificate) {
	t.Helper()
	oid, err := x509.ParseOID(id)
	require.NoError(t, err)
	der, err := oid.MarshalBinary()
	require.NoError(t, err)
	idDER, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagOID, Bytes: der})
	require.NoError(t, err)
	textDER, err := asn1.Marshal(asn1.RawValue{Tag: tag, Bytes: []byte(text)})
	require.NoError(t, err)
	value, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: textDER})
	require.NoError(t, err)
	san := pcSAN(t, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: slices.Concat(idDER, value)})
	return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, san) }
}

func TestRuleSubjectAndIssuer(t *testing.T) {
	t.Parallel()
	is := func(pairs ...string) mtls.Rule {
		var r mtls.Rule
		for i := 0; i+1 < len(pairs); i += 2 {
			r.Subject = append(r.Subject, mtls.Attribute{Type: pairs[i], Value: pairs[i+1]})
		}
		return r
	}
	fold := func(r mtls.Rule) mtls.Rule {
		for i := range r.Subject {
			r.Subject[i].IgnoreCase = true
		}
		return r
	}
	deny := func(r mtls.Rule) mtls.Rule { r.Deny = true; return r }
	of := func(pairs ...string) mtlstest.Leaf { return mtlstest.Leaf{Template: subjectOf(pairs...)} }
	acme := of("C", "DE", "ST", "Bayern", "L", "Ulm", "O", "Acme GmbH", "OU", "Sales", "OU", "Web", "CN", "api", "E", "a@b.example")
	ruleRows(t, mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "Partner CA 7"}), []ruleRow{
		{"one attribute", is("O", "Acme GmbH"), acme, "r"},
		{"all attributes", is("C", "DE", "S", "Bayern", "L", "Ulm", "O", "Acme GmbH", "OU", "Web", "CN", "api", "Email", "a@b.example"), acme, "r"},
		{"all but one", is("C", "DE", "O", "Acme GmbH", "L", "Bonn"), acme, notAllowed},
		{"state is S or ST", is("ST", "Bayern", "S", "Bayern", "stateOrProvinceName", "Bayern"), acme, "r"},
		{"by object identifier", is("2.5.4.10", "Acme GmbH", "OID.2.5.4.3", "api"), acme, "r"},
		{"title, given name, initials, surname", is("T", "Dr", "GN", "Ann", "I", "A", "SN", "Lee"), of("T", "Dr", "GN", "Ann", "I", "A", "SN", "Lee"), "r"},
		{"surname is not serialNumber", is("SN", "7"), of("serialNumber", "7"), notAllowed},
		{"PSD2 organizationIdentifier", is("organizationIdentifier", "PSDDE-BAFIN-1"), of("orgID", "PSDDE-BAFIN-1"), "r"},
		{"another type of the same value", is("OU", "Acme GmbH"), acme, notAllowed},
		{"an absent attribute", is("DC", "*"), acme, notAllowed},
		{"a present attribute", is("L", "*"), acme, "r"},
		{"two of one type, both there", is("OU", "Web", "OU", "Sales"), acme, "r"},
		{"two of one type, one there", is("OU", "Web", "OU", "IT"), acme, notAllowed},
		{"case", is("O", "acme gmbh"), acme, notAllowed},
		{"case ignored", fold(is("O", "ACME gmbh")), acme, "r"},
		{"case ignored beyond ASCII", fold(is("O", "JÖRG")), of("O", "jörg"), "r"},
		{"case ignored, Kelvin sign", fold(is("O", "kim")), of("O", "\u212aim"), notAllowed},
		{"case ignored, long s", fold(is("O", "sales")), of("O", "\u017fales"), notAllowed},
		{"Cyrillic look-alike", is("O", "Acme"), of("O", "\u0410cme"), notAllowed},
		{"a blank more", is("O", "Acme GmbH"), of("O", "Acme  GmbH"), notAllowed},
		{"a blank at the end", is("O", "Acme GmbH"), of("O", "Acme GmbH "), notAllowed},
		{"a part is not the whole", is("O", "Acme"), acme, notAllowed},
		{"wildcard at the end", is("O", "Acme*"), acme, "r"},
		{"wildcard at the beginning", is("O", "*GmbH"), acme, "r"},
		{"wildcard in the middle", is("O", "A*GmbH"), acme, "r"},
		{"wildcards around", is("O", "*me Gm*"), acme, "r"},
		{"wildcard for nothing", is("O", "Acme* GmbH"), acme, "r"},
		{"wildcards in order", is("O", "*GmbH*Acme*"), acme, notAllowed},
		{"beginning and end do not overlap", is("CN", "api*pi"), acme, notAllowed},
		{"middle and end do not overlap", is("CN", "a*pi*i"), of("CN", "api"), notAllowed},
		{"wildcard, case", is("O", "acme*"), acme, notAllowed},
		{"wildcard, case ignored", fold(is("O", "acme*")), acme, "r"},
		{"an escaped asterisk", is("CN", `a\*b`), of("CN", "a*b"), "r"},
		{"an escaped asterisk is no wildcard", is("CN", `a\*b`), of("CN", "axb"), notAllowed},
		{"an escaped backslash", is("CN", `CORP\\ann`), of("CN", `CORP\ann`), "r"},
		{"a regular expression is none", is("CN", "a.i"), of("CN", "api"), notAllowed},
		{"a value that looks like two attributes", is("O", "Acme", "CN", "root"), of("O", "Acme, CN=root"), notAllowed},
		{"a value that looks like two attributes, escaped", is("O", "Acme", "CN", "root"), of("CN", "x", "O", "Acme\x00CN=root"), notAllowed},
		{"a value with a line break", is("O", "Acme"), of("O", "Acme\nO=x"), notAllowed},
		{"one relative name of two attributes", is("O", "Acme GmbH", "CN", "api"), mtlstest.Leaf{Template: func(c *x509.Certificate) {
			type value struct {
				Type  asn1.ObjectIdentifier
				Value string
			}
			der, err := asn1.Marshal([]asn1.RawValue{rawSet(t, value{asn1.ObjectIdentifier{2, 5, 4, 10}, "Acme GmbH"}, value{asn1.ObjectIdentifier{2, 5, 4, 3}, "api"})})
			require.NoError(t, err)
			c.RawSubject = der
		}}, "r"},
		{"issuer", mtls.Rule{Issuer: []mtls.Attribute{{Type: "CN", Value: "Partner CA *"}}}, acme, "r"},
		{"another issuer", mtls.Rule{Issuer: []mtls.Attribute{{Type: "CN", Value: "Partner CA"}}}, acme, notAllowed},
		{"the issuer's name in the subject", mtls.Rule{Issuer: []mtls.Attribute{{Type: "CN", Value: "x"}}}, of("CN", "x"), notAllowed},
		{"the subject's name in the issuer", is("CN", "Partner CA 7"), acme, notAllowed},
		{"subject and issuer", mtls.Rule{Subject: []mtls.Attribute{{Type: "CN", Value: "api"}}, Issuer: []mtls.Attribute{{Type: "CN", Value: "Partner*"}}}, acme, "r"},
		{"denied", deny(is("O", "Acme*")), acme, deniedByRule},
		{"denied, another case", deny(is("O", "ACME gmbh")), acme, deniedByRule},
		{"denied, other blanks", deny(is("O", "Acme GmbH")), of("O", " Acme   GmbH "), deniedByRule},
		{"denied, Kelvin sign", deny(is("O", "kim")), of("O", "\u212aIM"), deniedByRule},
		{"denied, one of two", deny(is("OU", "Sales")), acme, deniedByRule},
		{"denied issuer", mtls.Rule{Deny: true, Issuer: []mtls.Attribute{{Type: "CN", Value: "partner ca *"}}}, acme, deniedByRule},
		{"not denied, another value", deny(is("O", "Acme")), acme, "all"},
		{"not denied, one of two conditions", deny(is("O", "Acme*", "CN", "x")), acme, "all"},
	})
}

// rawSet is a relative distinguished name of several attributes.
func rawSet(t testing.TB, values ...any) asn1.RawValue {
	t.Helper()
	var inner []byte
	for _, v := range values {
		der, err := asn1.Marshal(v)
		require.NoError(t, err)
		inner = append(inner, der...)
	}
	return asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: inner}
}

func oid(t testing.TB, s string) x509.OID {
	t.Helper()
	o, err := x509.ParseOID(s)
	require.NoError(t, err)
	return o
}

func TestRuleExtensions(t *testing.T) {
	t.Parallel()
	ext := func(list ...mtls.Extension) mtls.Rule { return mtls.Rule{Extensions: list} }
	const id, other = "1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.2"
	with := func(id string, value []byte) mtlstest.Leaf {
		return mtlstest.Leaf{Template: func(c *x509.Certificate) {
			var parsed asn1.ObjectIdentifier
			for part := range strings.SplitSeq(id, ".") {
				n := 0
				for _, d := range part {
					n = n*10 + int(d-'0')
				}
				parsed = append(parsed, n)
			}
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: parsed, Value: value})
		}}
	}
	text := func(tag int, s string) []byte {
		der, err := asn1.Marshal(asn1.RawValue{Tag: tag, Bytes: []byte(s)})
		require.NoError(t, err)
		return der
	}
	utf8, ia5 := text(asn1.TagUTF8String, "prod"), text(asn1.TagIA5String, "prod")
	ruleRows(t, mtlstest.NewCA(t, mtlstest.CAOptions{}), []ruleRow{
		{"value", ext(mtls.Extension{OID: oid(t, id), Value: utf8}), with(id, utf8), "r"},
		{"another encoding of the value", ext(mtls.Extension{OID: oid(t, id), Value: utf8}), with(id, ia5), notAllowed},
		{"a value that begins so", ext(mtls.Extension{OID: oid(t, id), Value: utf8}), with(id, append(slices.Clone(utf8), 0)), notAllowed},
		{"another extension", ext(mtls.Extension{OID: oid(t, id), Value: utf8}), with(other, utf8), notAllowed},
		{"none", ext(mtls.Extension{OID: oid(t, id), AnyValue: true}), mtlstest.Leaf{}, notAllowed},
		{"any value", ext(mtls.Extension{OID: oid(t, id), AnyValue: true}), with(id, []byte{5, 0}), "r"},
		{"text", ext(mtls.Extension{OID: oid(t, id), Text: "prod"}), with(id, utf8), "r"},
		{"text of another type", ext(mtls.Extension{OID: oid(t, id), Text: "prod"}), with(id, ia5), "r"},
		{"another text", ext(mtls.Extension{OID: oid(t, id), Text: "prod"}), with(id, text(asn1.TagUTF8String, "Prod")), notAllowed},
		{"bare text", ext(mtls.Extension{OID: oid(t, id), Text: "prod"}), with(id, []byte("prod")), notAllowed},
		{"text in an octet string", ext(mtls.Extension{OID: oid(t, id), Text: "prod"}), with(id, text(asn1.TagOctetString, "prod")), notAllowed},
		{"text with something behind", ext(mtls.Extension{OID: oid(t, id), Text: "prod"}), with(id, append(slices.Clone(utf8), 5, 0)), notAllowed},
		{"two, one there", ext(mtls.Extension{OID: oid(t, id), AnyValue: true}, mtls.Extension{OID: oid(t, other), AnyValue: true}), with(id, utf8), notAllowed},
		{"an extension that crypto/x509 knows", ext(mtls.Extension{OID: oid(t, "2.5.29.15"), Value: []byte{3, 2, 7, 0x80}}), mtlstest.Leaf{}, "r"},
		{"denied", mtls.Rule{Deny: true, Extensions: []mtls.Extension{{OID: oid(t, id), Text: "prod"}}}, with(id, text(asn1.TagUTF8String, "PROD")), deniedByRule},
		{"denied, what cannot be read", mtls.Rule{Deny: true, Extensions: []mtls.Extension{{OID: oid(t, id), Text: "prod"}}}, with(id, []byte("test")), deniedByRule},
		{"not denied", mtls.Rule{Deny: true, Extensions: []mtls.Extension{{OID: oid(t, id), Text: "prod"}}}, with(id, text(asn1.TagUTF8String, "test")), "all"},
	})
}

func TestRuleKeys(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	large, err := rsa.GenerateKey(rand.Reader, 3072)
	require.NoError(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	p256 := pcKey(t)
	rule := func(bits int, curves ...string) mtls.Rule { return mtls.Rule{MinRSABits: bits, Curves: curves} }
	ruleRows(t, mtlstest.NewCA(t, mtlstest.CAOptions{}), []ruleRow{
		{"RSA", rule(3072), mtlstest.Leaf{Key: large}, "r"},
		{"RSA, too short", rule(3072), mtlstest.Leaf{Key: small}, notAllowed},
		{"RSA, curves alone are listed", rule(0, "P-256"), mtlstest.Leaf{Key: large}, notAllowed},
		{"curve", rule(0, "P-256", "P-384"), mtlstest.Leaf{Key: p384}, "r"},
		{"another curve", rule(0, "P-384"), mtlstest.Leaf{Key: p256}, notAllowed},
		{"curve, RSA alone is listed", rule(2048), mtlstest.Leaf{Key: p256}, notAllowed},
		{"both listed, RSA", rule(2048, "P-256"), mtlstest.Leaf{Key: small}, "r"},
		{"both listed, curve", rule(2048, "P-256"), mtlstest.Leaf{Key: p256}, "r"},
		{"Ed25519", rule(0, "Ed25519"), mtlstest.Leaf{Key: ed}, "r"},
		{"Ed25519, not listed", rule(2048, "P-256"), mtlstest.Leaf{Key: ed}, notAllowed},
	})
}

func TestRuleTimesAndDisabled(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	roots := pcRoots(t, env.CA.Authority("one"))
	leaf := env.CA.Issue(pcNames("acme.example"))
	start := time.Now().Truncate(time.Second)
	clock := mtlstest.NewClock(start)
	service := func(rules ...mtls.Rule) func() string {
		cfg := pcConfig(t, roots, rules...)
		cfg.Now = clock.Now
		g := mtlstest.NewGuard(t, cfg)
		return func() string { return pcSay(pcDecide(t, g, leaf.Leaf())) }
	}
	rule := mtls.Rule{Name: "r", Domains: []string{"acme.example"}, NotBefore: start.Add(time.Minute), NotAfter: start.Add(2 * time.Minute)}
	next := mtls.Rule{Name: "next", Domains: []string{"acme.example"}}
	off := rule
	off.NotBefore, off.NotAfter, off.Disabled = time.Time{}, time.Time{}, true
	offDeny := mtls.Rule{Name: "d", Deny: true, Domains: rule.Domains, Disabled: true}
	alone, before, deny := service(rule), service(rule, next), service(mtls.Rule{Name: "d", Deny: true, Domains: rule.Domains, NotBefore: rule.NotBefore, NotAfter: rule.NotAfter}, next)
	for _, step := range []struct {
		at                  time.Duration
		alone, before, deny string
	}{
		{0, "not_allowed", "next next acme.example", "next next acme.example"},
		{time.Minute, "r r acme.example", "r r acme.example", "denied_by_rule d"},
		{2 * time.Minute, "r r acme.example", "r r acme.example", "denied_by_rule d"},
		{2*time.Minute + time.Second, "not_allowed", "next next acme.example", "next next acme.example"},
	} {
		clock.Advance(start.Add(step.at).Sub(clock.Now()))
		require.Equal(t, []string{step.alone, step.before, step.deny}, []string{alone(), before(), deny()}, step.at)
	}
	require.Equal(t, "not_allowed", service(off)())
	require.Equal(t, "next next acme.example", service(off, offDeny, next)())
}

func TestRuleWhen(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	long := func(c *x509.Certificate) bool { return c.NotAfter.Sub(c.NotBefore) > 24*time.Hour }
	when := func(name string, f func(*x509.Certificate) bool) mtls.Rule {
		return mtls.Rule{Name: name, Domains: []string{"acme.example"}, When: f}
	}
	fallback := mtls.Rule{Name: "next", Domains: []string{"acme.example"}}
	leaf := ca.Issue(pcNames("acme.example"))
	asked := 0
	counts := func(*x509.Certificate) bool { asked++; return true }
	for _, row := range []struct {
		name  string
		rules []mtls.Rule
		want  string
	}{
		{"true", []mtls.Rule{when("r", long)}, "r acme.example"},
		{"false", []mtls.Rule{when("r", func(*x509.Certificate) bool { return false })}, notAllowed},
		{"false, the next rule decides", []mtls.Rule{when("r", func(*x509.Certificate) bool { return false }), fallback}, "next acme.example"},
		{"a panic refuses, and no later rule is tried", []mtls.Rule{when("r", func(*x509.Certificate) bool { panic("oops") }), fallback}, "internal"},
		{"a panic in a rule that denies", []mtls.Rule{{Name: "d", Deny: true, Domains: []string{"acme.example"}, When: func(*x509.Certificate) bool { panic("oops") }}, fallback}, "internal"},
		{"true in a rule that denies", []mtls.Rule{{Name: "d", Deny: true, When: long}, fallback}, "denied_by_rule d"},
		{"false in a rule that denies", []mtls.Rule{{Name: "d", Deny: true, When: func(*x509.Certificate) bool { return false }}, fallback}, "next acme.example"},
		{"not asked where another field does not match", []mtls.Rule{{Name: "r", Domains: []string{"x.example"}, When: counts}, fallback}, "next acme.example"},
		{"not asked where the chain does not match", []mtls.Rule{{Name: "r", Domains: []string{"acme.example"}, IssuerKeys: []mtls.KeyHash{{1}}, When: counts}, fallback}, "next acme.example"},
		{"a copy", []mtls.Rule{when("r", func(c *x509.Certificate) bool {
			c.DNSNames, c.Raw[len(c.Raw)-1] = []string{"evil.example"}, c.Raw[len(c.Raw)-1]^1
			return true
		})}, "r acme.example"},
	} {
		t.Run(row.name, func(t *testing.T) {
			require.Equal(t, row.want, newRuleService(t, roots, row.rules...).ask(leaf))
		})
	}
	require.Zero(t, asked)

	t.Run("a panic in a shadow policy refuses nobody", func(t *testing.T) {
		cfg := pcConfig(t, roots, fallback)
		var err error
		cfg.Shadow, err = mtls.NewPolicy(when("r", func(*x509.Certificate) bool { panic("oops") }))
		require.NoError(t, err)
		d := pcDecide(t, mtlstest.NewGuard(t, cfg), leaf.Leaf())
		require.Equal(t, "next next acme.example", pcSay(d))
		shadow := d.Steps[len(d.Steps)-1]
		require.Equal(t, "shadow", shadow.Name)
		require.Equal(t, mtls.OutcomeUnknown, shadow.Outcome)
		require.Contains(t, shadow.Detail, "oops")
	})
}
