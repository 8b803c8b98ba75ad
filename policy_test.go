package mtls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

func pcKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

// pcDecide decides on a client from 127.0.0.1 that presents the certificates.
func pcDecide(t testing.TB, g *mtls.Guard, chain ...*x509.Certificate) *mtls.Decision {
	t.Helper()
	d, err := g.Check(t.Context(), mtls.Peer{
		TLS:        tls.ConnectionState{HandshakeComplete: true, PeerCertificates: chain},
		RemoteAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000},
	})
	require.Equal(t, d.Admitted, err == nil)
	require.Equal(t, d.Admitted, d.Reason == "")
	require.Equal(t, d.Admitted, d.Identity != nil)
	return d
}

// pcSay says in a word what was decided: "rule account domain", or the reason
// and the rule that refused.
func pcSay(d *mtls.Decision) string {
	if d.Admitted {
		return strings.TrimSpace(d.Rule + " " + d.Identity.Name() + " " + d.Identity.Domain())
	}
	return strings.TrimSpace(string(d.Reason) + " " + d.Rule)
}

// pcConfig asks for neither origin nor revocation: what is left are chains and
// rules.
func pcConfig(t testing.TB, roots *mtls.Roots, rules ...mtls.Rule) mtls.Config {
	t.Helper()
	policy, err := mtls.NewPolicy(rules...)
	require.NoError(t, err)
	return mtls.Config{
		Roots: roots, Policy: policy, Origin: mtls.NoOrigin(), Revocation: mtls.NoRevocation(),
		Logger: slog.New(slog.DiscardHandler),
	}
}

func pcRoots(t testing.TB, authorities ...mtls.Authority) *mtls.Roots {
	t.Helper()
	roots, err := mtls.NewRoots(authorities...)
	require.NoError(t, err)
	return roots
}

func pcNames(names ...string) mtlstest.Leaf { return mtlstest.Leaf{Names: names} }

// pcSAN is a subjectAltName of the raw GeneralNames.
func pcSAN(t testing.TB, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(names)
	require.NoError(t, err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}
}

// pcUPN is an otherName with a Microsoft user principal name.
func pcUPN(t testing.TB, upn string) asn1.RawValue {
	t.Helper()
	oid, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})
	require.NoError(t, err)
	text, err := asn1.MarshalWithParams(upn, "utf8")
	require.NoError(t, err)
	value, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: text})
	require.NoError(t, err)
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: slices.Concat(oid, value)}
}

func TestRuleMatching(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	acme := ca.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}, CommonName: "api.acme.example"}).Leaf()
	certificate, key, issuer := mtls.HashCertificate(acme), mtls.HashPublicKey(acme), mtls.HashPublicKey(ca.Certificate())
	no := mtls.NoOrigin()
	other := ca.Issue(pcNames("api.acme.example")).Leaf() // the same name, another key
	domain := func(d ...string) mtls.Rule { return mtls.Rule{Domains: d} }
	issue := func(names ...string) *x509.Certificate { return ca.Issue(pcNames(names...)).Leaf() }
	const denied = "not_allowed"
	pcMatch(t, roots, []pcRow{
		{"domain", domain("api.acme.example"), acme, "r r api.acme.example"},
		{"another domain", domain("api.globex.example"), acme, denied},
		{"one of several domains", domain("x.example", "api.acme.example"), acme, "r r api.acme.example"},
		{"account", mtls.Rule{Domains: []string{"api.acme.example"}, Account: "a17"}, acme, "r a17 api.acme.example"},
		{"rule in upper case with a final dot", domain("API.Acme.Example."), acme, "r r api.acme.example"},
		{"name in upper case", domain("api.acme.example"), issue("API.ACME.Example"), "r r api.acme.example"},
		{"U-label in the rule", domain("bücher.example"), issue("xn--bcher-kva.example"), "r r xn--bcher-kva.example"},
		{"A-label in the rule", domain("xn--bcher-kva.example"), issue("XN--BCHER-KVA.example"), "r r xn--bcher-kva.example"},
		{"Cyrillic homograph", domain("аpple.example"), issue("apple.example"), denied},

		{"certificate", mtls.Rule{Certificates: []mtls.CertificateHash{certificate}, Origin: no}, acme, "r r"},
		{"certificate of another key", mtls.Rule{Certificates: []mtls.CertificateHash{certificate}, Origin: no}, other, denied},
		{"public key", mtls.Rule{PublicKeys: []mtls.KeyHash{key}, Origin: no}, acme, "r r"},
		{"another public key", mtls.Rule{PublicKeys: []mtls.KeyHash{key}, Origin: no}, other, denied},
		{"authority", mtls.Rule{Authorities: []string{"one"}, Origin: no}, acme, "r r"},
		{"issuer key", mtls.Rule{IssuerKeys: []mtls.KeyHash{{1}, issuer}, Origin: no}, acme, "r r"},
		{"another issuer key", mtls.Rule{IssuerKeys: []mtls.KeyHash{key}, Origin: no}, acme, denied},
		{"any client, by name", mtls.Rule{InsecureAnyClient: true, Origin: no}, other, "r r"},

		{"all fields hold", mtls.Rule{Domains: []string{"api.acme.example"}, Certificates: []mtls.CertificateHash{certificate},
			PublicKeys: []mtls.KeyHash{key}, Authorities: []string{"one"}, IssuerKeys: []mtls.KeyHash{issuer}}, acme, "r r api.acme.example"},
		{"domain holds, certificate does not", mtls.Rule{Domains: []string{"api.acme.example"}, Certificates: []mtls.CertificateHash{certificate}}, other, denied},
		{"domain holds, key does not", mtls.Rule{Domains: []string{"api.acme.example"}, PublicKeys: []mtls.KeyHash{key}}, other, denied},
		{"domain holds, issuer does not", mtls.Rule{Domains: []string{"api.acme.example"}, IssuerKeys: []mtls.KeyHash{key}}, acme, denied},
		{"certificate holds, domain does not", mtls.Rule{Domains: []string{"x.example"}, Certificates: []mtls.CertificateHash{certificate}}, acme, denied},
		{"certificate holds, key does not", mtls.Rule{Certificates: []mtls.CertificateHash{certificate}, PublicKeys: []mtls.KeyHash{issuer}, Origin: no}, acme, denied},
		{"key holds, domain does not", mtls.Rule{Domains: []string{"x.example"}, PublicKeys: []mtls.KeyHash{key}}, acme, denied},

		{"wildcard rule, one label", mtls.Rule{Domains: []string{"*.acme.example"}, Origin: no}, acme, "r r api.acme.example"},
		{"wildcard rule, two labels", mtls.Rule{Domains: []string{"*.acme.example"}, Origin: no}, issue("a.b.acme.example"), denied},
		{"wildcard rule, no label", mtls.Rule{Domains: []string{"*.acme.example"}, Origin: no}, issue("acme.example"), denied},
		{"wildcard rule, suffix", mtls.Rule{Domains: []string{"*.acme.example"}, Origin: no}, issue("a.evilacme.example"), denied},
		{"wildcard SAN, exact rule", domain("api.acme.example"), issue("*.acme.example"), denied},
		{"wildcard SAN, the rule spells it", mtls.Rule{Domains: []string{"*.acme.example"}, Origin: no}, issue("*.ACME.example"), "r r *.acme.example"},
		{"wildcard SAN, wildcard above", mtls.Rule{Domains: []string{"*.example.org"}, Origin: no}, issue("*.a.example.org"), denied},
		{"wildcard SAN, wildcard below", mtls.Rule{Domains: []string{"*.a.example.org"}, Origin: no}, issue("*.example.org"), denied},
		{"partial wildcard", mtls.Rule{Domains: []string{"*.acme.example"}, Origin: no}, issue("a*.acme.example"), "malformed_certificate"},
	})
}

// pcRow is a rule, a certificate, and what a policy of that one rule says.
type pcRow struct {
	name string
	rule mtls.Rule
	cert *x509.Certificate
	want string // "r account domain", or the reason
}

func pcMatch(t *testing.T, roots *mtls.Roots, rows []pcRow) {
	t.Helper()
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.rule.Name = "r"
			require.Equal(t, c.want, pcSay(pcDecide(t, mtlstest.NewGuard(t, pcConfig(t, roots, c.rule)), c.cert)))
		})
	}
}

// What suffix matches and unescaped patterns let through.
func TestThreat66_NearMisses(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	domain := func(d ...string) mtls.Rule { return mtls.Rule{Domains: d} }
	issue := func(names ...string) *x509.Certificate { return ca.Issue(pcNames(names...)).Leaf() }
	const denied = "not_allowed"
	pcMatch(t, pcRoots(t, ca.Authority("one")), []pcRow{
		{"suffix", domain("partner.example"), issue("evil-partner.example"), denied},
		{"prefix", domain("partner.example"), issue("partner.example.evil"), denied},
		{"below", domain("partner.example"), issue("a.partner.example"), denied},
		{"above", domain("a.partner.example"), issue("partner.example"), denied},
		{"dot is a dot", domain("a.b.example"), issue("axb.example"), denied},
		{"empty label", domain("partner.example"), issue(".partner.example"), "malformed_certificate"},
		{"final dot", domain("partner.example"), issue("partner.example."), "malformed_certificate"},
		{"no name at all", domain("partner.example"), issue(), denied},
	})
}

// CVE-2018-16886: a common name admits nobody.
func TestThreat34_CommonNameAdmitsNobody(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	domain := func(d ...string) mtls.Rule { return mtls.Rule{Domains: d} }
	const denied = "not_allowed"
	pcMatch(t, pcRoots(t, ca.Authority("one")), []pcRow{
		{"common name alone", domain("cn.example"), ca.Issue(mtlstest.Leaf{CommonName: "cn.example"}).Leaf(), denied},
		{"common name beside a SAN", domain("cn.example"), ca.Issue(mtlstest.Leaf{CommonName: "cn.example", Names: []string{"x.example"}}).Leaf(), denied},
		{"SAN beside a common name", domain("x.example"), ca.Issue(mtlstest.Leaf{CommonName: "cn.example", Names: []string{"x.example"}}).Leaf(), "r r x.example"},
	})
}

// CVE-2022-21656: a name of another type is no domain.
func TestThreat62_OtherTypesOfNames(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	domain := func(d ...string) mtls.Rule { return mtls.Rule{Domains: d} }
	const denied = "not_allowed"
	others := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) {
		u := &url.URL{Scheme: "https", Host: "api.acme.example"}
		c.URIs, c.EmailAddresses = []*url.URL{u}, []string{"ops@api.acme.example", "api.acme.example"}
	}}).Leaf()
	upn := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pcSAN(t, pcUPN(t, "api.acme.example")))
	}}).Leaf()
	pcMatch(t, pcRoots(t, ca.Authority("one")), []pcRow{
		{"rfc822Name and URI", domain("api.acme.example"), others, denied},
		{"otherName", domain("api.acme.example"), upn, denied},
	})
}

func TestIdentityDomainIsTheRulesFirst(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("a.example", "127.0.0.2")
	env.DNS.Set("b.example", "127.0.0.1")
	for _, c := range []struct {
		name    string
		domains []string
		names   []string
		want    string
	}{
		{"rule's order", []string{"b.example", "a.example"}, []string{"a.example", "b.example"}, "r r b.example"},
		{"rule's order, not the origin's choice", []string{"a.example", "b.example"}, []string{"b.example", "a.example"}, "origin_mismatch r"},
		{"what is not held is passed over", []string{"a.example", "b.example"}, []string{"c.example", "b.example"}, "r r b.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := env.Guard(mtls.Rule{Name: "r", Domains: c.domains})
			leaf := env.CA.Issue(pcNames(c.names...)).Leaf()
			for range 5 {
				require.Equal(t, c.want, pcSay(pcDecide(t, g, leaf)))
			}
		})
	}
}

func TestDenyRules(t *testing.T) {
	t.Parallel()
	ca, elsewhere := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	one, two, three := ca.Authority("one"), elsewhere.Authority("two"), mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("three")
	one.Domains, two.Domains, three.Domains = []string{"example", "example.com"}, []string{"other.example"}, []string{"example"}
	roots := pcRoots(t, one, two, three)
	// The leaf's issuer stands under "two" as well, which may not speak for it.
	x := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t)}
	viaOne, viaTwo := ca.Intermediate(x), elsewhere.Intermediate(x)
	issue := func(l mtlstest.Leaf) *x509.Certificate { return viaOne.Issue(l).Leaf() }
	acme := issue(pcNames("api.acme.example"))
	named := func(f func(*x509.Certificate)) *x509.Certificate {
		return issue(mtlstest.Leaf{Names: []string{"api.acme.example"}, Template: f})
	}
	domain := func(d ...string) mtls.Rule { return mtls.Rule{Domains: d} }
	const pass, denied = "all all", "denied_by_rule deny"
	for _, c := range []struct {
		name string
		rule mtls.Rule
		cert *x509.Certificate
		want string
	}{
		{"domain", domain("api.acme.example"), acme, denied},
		{"another domain", domain("x.example"), acme, pass},
		{"any name", domain("x.example"), issue(pcNames("api.acme.example", "X.Example")), denied},
		{"denied wildcard over a name", domain("*.acme.example"), acme, denied},
		{"denied wildcard, two labels", domain("*.example.com"), issue(pcNames("a.b.example.com")), pass},
		{"denied wildcard under a public suffix", domain("*.com"), issue(pcNames("example.com")), denied},
		{"wildcard SAN over a denied name", domain("api.acme.example"), issue(pcNames("*.acme.example")), denied},
		{"wildcard SAN, denied wildcard", domain("*.acme.example"), issue(pcNames("*.acme.example")), denied},
		{"wildcard SAN elsewhere", domain("api.acme.example"), issue(pcNames("*.b.acme.example")), pass},
		{"common name", domain("evil.example"), issue(mtlstest.Leaf{CommonName: "Evil.example.", Names: []string{"api.acme.example"}}), denied},
		{"wildcard common name", domain("www.evil.example"), issue(mtlstest.Leaf{CommonName: "*.evil.example"}), denied},
		{"first of two common names", domain("evil.example"), named(func(c *x509.Certificate) {
			cn := asn1.ObjectIdentifier{2, 5, 4, 3}
			c.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: cn, Value: "evil.example"}, {Type: cn, Value: "harmless"}}}
		}), denied},
		{"host of a URI", domain("evil.example"), named(func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "EVIL.example:1", Path: "/x"}}
		}), denied},
		{"host of an e-mail address", domain("evil.example"), named(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b@evil.example"} }), denied},
		{"certificate", mtls.Rule{Certificates: []mtls.CertificateHash{mtls.HashCertificate(acme)}}, acme, denied},
		{"public key", mtls.Rule{PublicKeys: []mtls.KeyHash{mtls.HashPublicKey(acme)}}, acme, denied},
		{"issuer key", mtls.Rule{IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(viaOne.Certificate())}}, acme, denied},
		{"issuer key of a chain out of scope", mtls.Rule{IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(elsewhere.Certificate())}}, acme, denied},
		{"authority", mtls.Rule{Authorities: []string{"one"}}, acme, denied},
		{"authority of a chain out of scope", mtls.Rule{Authorities: []string{"two"}}, acme, denied},
		{"domain holds, authority does not", mtls.Rule{Domains: []string{"api.acme.example"}, Authorities: []string{"three"}}, acme, pass},
		{"domain holds, issuer does not", mtls.Rule{Domains: []string{"api.acme.example"}, IssuerKeys: []mtls.KeyHash{{1}}}, acme, pass},
		{"all fields of a rule must hold", mtls.Rule{Domains: []string{"x.example"}, Authorities: []string{"one"}}, acme, pass},
		{"all fields hold", mtls.Rule{Domains: []string{"api.acme.example"}, Authorities: []string{"two"}, IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(ca.Certificate())}}, acme, denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.rule.Name, c.rule.Deny = "deny", true
			// The deny rule comes last and is looked at first, before rules that
			// name certificates too.
			all := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
			pinned := mtls.Rule{Name: "pinned", Certificates: []mtls.CertificateHash{mtls.HashCertificate(c.cert)}, Origin: mtls.NoOrigin()}
			g := mtlstest.NewGuard(t, pcConfig(t, roots, all, c.rule))
			require.Equal(t, c.want, pcSay(pcDecide(t, g, c.cert, viaTwo.Certificate(), viaOne.Certificate())))
			if c.want == denied {
				g = mtlstest.NewGuard(t, pcConfig(t, roots, pinned, c.rule))
				require.Equal(t, denied, pcSay(pcDecide(t, g, c.cert, viaOne.Certificate(), viaTwo.Certificate())))
			}
		})
	}
}

func TestFirstMatchDecides(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("api.acme.example", "127.0.0.1")
	leaf := env.CA.Issue(pcNames("api.acme.example")).Leaf()
	elsewhere := &mtls.Origin{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	domain := func(name string, o *mtls.Origin) mtls.Rule {
		return mtls.Rule{Name: name, Domains: []string{"api.acme.example"}, Origin: o}
	}
	pinned := mtls.Rule{Name: "pinned", Certificates: []mtls.CertificateHash{mtls.HashCertificate(leaf)}, Origin: mtls.NoOrigin()}
	pinnedElsewhere := pinned
	pinnedElsewhere.Origin = elsewhere
	for _, c := range []struct {
		name  string
		rules []mtls.Rule
		want  string
	}{
		{"in order of declaration", []mtls.Rule{domain("1", nil), domain("2", nil)}, "1 1 api.acme.example"},
		{"no later rule after a wrong origin", []mtls.Rule{domain("1", elsewhere), domain("2", mtls.NoOrigin())}, "origin_mismatch 1"},
		{"rules that name certificates come first", []mtls.Rule{domain("1", nil), pinned}, "pinned pinned"},
		{"no later rule after a certificate's wrong origin", []mtls.Rule{domain("1", nil), pinnedElsewhere}, "origin_mismatch pinned"},
		{"a rule that does not match is passed over", []mtls.Rule{{Name: "1", Domains: []string{"x.example"}}, domain("2", nil)}, "2 2 api.acme.example"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, pcSay(pcDecide(t, env.Guard(c.rules...), leaf)))
		})
	}
	t.Run("no later rule after missing evidence", func(t *testing.T) {
		env.Revocation.Fail(mtlstest.InternalError)
		require.Equal(t, "revocation_unknown 1", pcSay(pcDecide(t, env.Guard(domain("1", nil), domain("2", nil)), leaf)))
	})
}

func TestRolesAndAccountOfTheRule(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("api.acme.example", "127.0.0.1")
	g := env.Guard(mtls.Rule{Name: "acme", Account: "a17", Domains: []string{"api.acme.example"}, Roles: []string{"read", "write"}},
		mtls.Rule{Name: "evil", Domains: []string{"evil.example"}, Deny: true})
	issue := func(names ...string) *mtlstest.Certificate { return env.CA.Issue(pcNames(names...)) }
	for _, c := range []struct {
		name, role string
		cert       *mtlstest.Certificate
		status     int
		want       string
	}{
		{"role", "write", issue("api.acme.example"), 200, "a17 api.acme.example"},
		{"no such role", "admin", issue("api.acme.example"), 403, "role_missing"},
		{"not listed", "read", issue("api.acme.example.evil"), 403, "not_allowed"},
		{"denied", "read", issue("api.acme.example", "evil.example"), 403, "not_allowed"},
		{"no certificate", "read", nil, 403, "no_certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mtlstest.NewOptionalServer(t, g, g.Require("other", c.role)(hello))
			r := ask(t, s.Client(c.cert, mtlstest.ClientOptions{}), s.URL)
			require.Equal(t, c.status, r.Status)
			if c.status == http.StatusOK {
				require.Equal(t, c.want, r.Body)
			} else {
				require.Equal(t, c.want, r.Code)
			}
		})
	}
}
