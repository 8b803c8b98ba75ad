package mtls_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// denySpellings has a rule deny clients whose certificates write a name otherwise.
func denySpellings(t *testing.T, rows map[string]struct {
	deny mtls.Rule
	leaf mtlstest.Leaf
}) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			row.deny.Name, row.deny.Deny = "r", true
			require.Equal(t, deniedByRule, newRuleService(t, roots, row.deny, rest).ask(ca.Issue(row.leaf)))
		})
	}
}

type spelling = struct {
	deny mtls.Rule
	leaf mtlstest.Leaf
}

// Whoever is denied does not come in by another spelling.
func TestDeniedAddressesInOtherSpellings(t *testing.T) {
	t.Parallel()
	rows := map[string]spelling{}
	for name, san := range map[string]sanName{
		"quoted": sanEmail(`"ann"@acme.example`), "quoted pair": sanEmail(`"a\nn"@acme.example`), "mailto": sanURI("mailto:ann@acme.example"),
		"mailto with a header": sanURI("mailto:ann@acme.example?subject=x"), "angle brackets": sanEmail("<ann@acme.example>"), "comment": sanEmail("ann(x)@acme.example"),
		"display name": sanEmail("Ann <ann@acme.example>"), "dots": sanEmail("ann@acme.example.."), "zero width": sanUPN("ann\u200b@acme.example"),
		"soft hyphen": sanUPN("a\u00adnn@acme.example"), "full-width at": sanUPN("ann\uff20acme.example"), "full-width letter": sanUPN("\uff41nn@acme.example"),
		"NUL": sanUPN("ann@acme.example\x00"), "NUL and more": sanEmail("ann@acme.example\x00.evil"), "escaped": sanEmail("%61nn@acme.example"),
		"escaped in a URI": sanURI("mailto:%61nn@acme.example"), "beside a bad escape": sanURI("mailto:%61nn@acme.example?%25zz"),
	} {
		rows[name] = spelling{mtls.Rule{Emails: []string{"ann@acme.example"}}, named(t, san)}
	}
	for name, c := range map[string]struct {
		deny string
		san  sanName
	}{
		"UPN, decomposed": {"j\u00f6rg@corp.example", sanUPN("jo\u0308rg@corp.example")}, "UPN, zero width": {"ann@corp.example", sanUPN("ann@corp.example\u200b")},
		"UPN, two at-signs": {"ann@corp.example", sanUPN("ann@corp.example@corp.example")}, "UPN, NUL": {"ann@corp.example", sanUPN("ann@corp.example\x00")},
		"realm, NUL": {"*@corp.example", sanUPN("ann@corp.example\x00x")}, "realm, no at-sign": {"*@corp.example", sanUPN("ann")}, "realm, empty": {"*@corp.example", sanUPN("")},
		"UPN, sharp s": {"straße@corp.example", sanUPN("STRASSE@corp.example")},
	} {
		rows[name] = spelling{mtls.Rule{UPNs: []string{c.deny}}, named(t, c.san)}
	}
	// What ends an address elsewhere may be a part of a realm.
	for _, realm := range []string{"corp:x", "corp/x", "corp,x", "a&b", "corp.", ".corp"} {
		rows["realm "+realm] = spelling{mtls.Rule{UPNs: []string{"*@" + realm}}, named(t, sanUPN("ann@"+realm))}
	}
	rows["user with a comma"] = spelling{mtls.Rule{UPNs: []string{"a,b@acme.example"}}, named(t, sanUPN("a,b@acme.example."))}
	rows["Cherokee letters"] = spelling{mtls.Rule{UPNs: []string{"\u13a0@acme.example"}}, named(t, sanUPN("\uab70@acme.example"))}
	denySpellings(t, rows)
}

func TestDeniedDomainsAndSubjectsInOtherSpellings(t *testing.T) {
	t.Parallel()
	rows := map[string]spelling{}
	for name, c := range map[string]struct {
		deny string
		leaf mtlstest.Leaf
	}{
		"decomposed": {"bücher.example", mtlstest.Leaf{CommonName: "bu\u0308cher.example"}}, "full-width": {"acme.example", mtlstest.Leaf{CommonName: "\uff41cme.example"}},
		"ideographic full stop": {"acme.example", mtlstest.Leaf{CommonName: "acme\u3002example"}}, "soft hyphen": {"acme.example", mtlstest.Leaf{CommonName: "ac\u00adme.example"}},
		"hyphens around": {"acme.example", mtlstest.Leaf{CommonName: "-acme.example-"}}, "two dots": {"acme.example", mtlstest.Leaf{CommonName: "a..acme.example"}},
		"part of a label": {"foo.acme.example", mtlstest.Leaf{CommonName: "f*.acme.example"}}, "two wildcards": {"foo.acme.example", mtlstest.Leaf{CommonName: "*.*.example"}},
		"escaped": {"acme.example", named(t, sanURI("urn:%61cme.example"))}, "in a URL": {"acme.example", mtlstest.Leaf{CommonName: "https://u_acme.example@acme.example:443/"}},
		"sharp s": {"straße.example", mtlstest.Leaf{CommonName: "Straße.example"}},
	} {
		rows["domain, "+name] = spelling{mtls.Rule{Domains: []string{c.deny}}, c.leaf}
	}
	for name, c := range map[string][2]string{
		"decomposed": {"M\u00fcller", "Mu\u0308ller"}, "soft hyphen": {"Acme Bank", "Ac\u00adme Bank"}, "zero width": {"Acme Bank", "Acme\u200b Bank"},
		"no-break space": {"Acme Bank", "Acme\u00a0Bank"}, "full-width": {"Acme", "\uff21cme"}, "sharp s": {"Straße", "STRASSE"}, "NUL": {"Acme", "Acme\x00"},
	} {
		rows["subject, "+name] = spelling{mtls.Rule{Subject: []mtls.Attribute{{Type: "O", Value: c[0]}}}, mtlstest.Leaf{Template: subjectOf("O", c[1])}}
	}
	// A mark behind a part of a pattern makes another letter of the whole.
	for name, c := range map[string][2]string{
		"mark behind a part": {"evil*", "evil\u0301 x"}, "mark behind a letter": {"Jose*", "Jose\u0301 x"}, "syllable": {"\u1112*", "\u1112\u1161\u11ab"},
		"mark in the middle": {"*bot*x", "a bot\u030c x"}, "mark alone": {"*\u0301", "e\u0301"}, "marks in another order": {"a\u0301*", "a\u0301\u0323x"}, "iota": {"ι*", "ϊx"},
	} {
		rows["pattern, "+name] = spelling{mtls.Rule{Subject: []mtls.Attribute{{Type: "CN", Value: c[0]}}}, mtlstest.Leaf{Template: subjectOf("CN", c[1])}}
	}
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	// UTF-8 in a T61String, as older CAs wrote it: crypto/x509 reads Latin-1.
	raw, err := asn1.Marshal([]asn1.RawValue{rawSet(t, attribute{asn1.ObjectIdentifier{2, 5, 4, 10}, asn1.RawValue{Tag: asn1.TagT61String, Bytes: []byte("Müller")}})})
	require.NoError(t, err)
	rows["subject, UTF-8 in a T61String"] = spelling{mtls.Rule{Subject: []mtls.Attribute{{Type: "O", Value: "Müller"}}}, mtlstest.Leaf{Template: func(c *x509.Certificate) { c.RawSubject = raw }}}
	denySpellings(t, rows)
}

// arcs reads an object identifier.
func arcs(s string) asn1.ObjectIdentifier {
	var id asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			panic(err)
		}
		id = append(id, n)
	}
	return id
}

// A chain that is valid for a policy by a mapping is denied by it as well.
func TestDeniedPolicyThatIsMapped(t *testing.T) {
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, root.Authority("one"))
	type mapping struct{ Issuer, Subject asn1.ObjectIdentifier }
	der, err := asn1.Marshal([]mapping{{arcs(goldOID), arcs(silverOID)}})
	require.NoError(t, err)
	ca := root.Intermediate(mtlstest.CAOptions{Template: all(policiesOf(t, goldOID), func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 33}, Critical: true, Value: der})
	})})
	leaf := ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Template: policiesOf(t, silverOID)})
	gold := mtls.Rule{Name: "r", Domains: []string{"acme.example"}, PolicyOIDs: []x509.OID{oid(t, goldOID)}}
	require.Equal(t, "r acme.example", newRuleService(t, roots, gold).ask(leaf), "the chain is valid for gold")
	gold.Deny = true
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	require.Equal(t, deniedByRule, newRuleService(t, roots, gold, rest).ask(leaf))
}

// A CA that may only issue for one organisation, and names itself after another.
func TestIssuerUnderConstraintsThatAreNotChecked(t *testing.T) {
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, root.Authority("one"))
	directory, err := asn1.Marshal(pkix.Name{Organization: []string{"Globex"}}.ToRDNSequence())
	require.NoError(t, err)
	dirName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory}
	mid := root.Intermediate(mtlstest.CAOptions{Template: constraint(t, false, false, dirName)})
	// A CA below, of Globex only, names itself Acme.
	sub := mid.Intermediate(mtlstest.CAOptions{CommonName: "Acme Issuing CA"})
	leaf := sub.Issue(mtlstest.Leaf{CommonName: "x"})
	rule := mtls.Rule{Name: "r", Issuer: []mtls.Attribute{{Type: "CN", Value: "Acme Issuing CA"}}, Authorities: []string{"one"}, Origin: mtls.NoOrigin()}
	require.Equal(t, notAllowed, newRuleService(t, roots, rule).ask(leaf))
}

// A disabled rule is not there: nor is its condition asked for an explanation.
func TestConditionOfADisabledRule(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	for _, deny := range []bool{false, true} {
		off := mtls.Rule{Name: "off", Deny: deny, Disabled: true, Domains: []string{"acme.example"}, When: func(*x509.Certificate) bool { panic("oops") }}
		rest := mtls.Rule{Name: "rest", Domains: []string{"x.example"}}
		require.Equal(t, notAllowed, newRuleService(t, roots, off, rest).ask(ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})))
	}
}

// Nor is that of a rule that has ended.
func TestConditionOfARuleThatHasEnded(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	var asked atomic.Int32
	past := mtls.Rule{Name: "past", Domains: []string{"acme.example"}, NotAfter: time.Now().Add(-time.Hour), When: func(*x509.Certificate) bool { asked.Add(1); panic("oops") }}
	rest := mtls.Rule{Name: "rest", Domains: []string{"acme.example"}}
	require.Equal(t, "rest acme.example", newRuleService(t, roots, past, rest).ask(ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})))
	require.Zero(t, asked.Load())
}

// What one condition does to its copy concerns no other.
func TestConditionsHaveTheirOwnCopies(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	spoil := mtls.Rule{Name: "spoil", Deny: true, When: func(c *x509.Certificate) bool {
		c.Subject.Organization = []string{"Acme"} // its own copy: it may
		return false
	}}
	rule := mtls.Rule{Name: "r", Domains: []string{"acme.example"}, When: func(c *x509.Certificate) bool {
		return len(c.Subject.Organization) == 1 && c.Subject.Organization[0] == "Acme"
	}}
	require.Equal(t, notAllowed, newRuleService(t, roots, spoil, rule).ask(ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})))
}

// Whether a policy lists a certificate of a public authority, the handshake does not
// even look, and so cannot tell.
func TestHandshakeDoesNotLookForPublicCertificates(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	public := ca.Authority("web")
	public.Public, public.Purpose = true, mtls.ClientOrServerAuth
	asked := atomic.Int32{}
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, public), mtls.Rule{Name: "r", Domains: []string{"acme.example"}, When: func(*x509.Certificate) bool { asked.Add(1); panic("x") }}))
	g.Handler(nil)
	say := func(n string) error {
		leaf := ca.Issue(mtlstest.Leaf{Names: []string{n}}).Leaf()
		return g.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
	}
	require.NoError(t, say("other.example"))
	require.NoError(t, say("acme.example"))
	require.Zero(t, asked.Load())
}

// Two bytes behind the names, which crypto/x509 overlooks.
func TestLimitOfNamesWithSomethingBehindThem(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"n7.example"}}))
	for _, n := range []int{300, 7000} {
		var names []asn1.RawValue
		for i := range n {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: fmt.Appendf(nil, "n%d.example", i)})
		}
		if n == 7000 {
			for i := range names {
				names[i].Bytes = fmt.Appendf(nil, "n%d", i)
			}
		}
		san := pcSAN(t, names...)
		for _, trail := range [][]byte{nil, {5, 0}} {
			ext := san
			ext.Value = append(append([]byte(nil), san.Value...), trail...)
			leaf := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, ext) }}).Leaf()
			t.Run(fmt.Sprint(n, " names, trailing ", len(trail)), func(t *testing.T) {
				require.Equal(t, "malformed_certificate", pcSay(pcDecide(t, g, leaf)))
			})
		}
	}
}

// The same key in another encoding, which crypto/x509 reads, has another hash.
func TestKeyInAnotherEncoding(t *testing.T) {
	f, key := pcNewForge(t), pcKey(t)
	plain := f.leaf(t, key, "x", "acme.example")
	first, err := x509.ParseCertificate(plain)
	require.NoError(t, err)
	resign := func(change func(spki []byte) []byte) []byte {
		var fields []asn1.RawValue
		var tbs asn1.RawValue
		_, err := asn1.Unmarshal(first.RawTBSCertificate, &tbs)
		require.NoError(t, err)
		for rest := tbs.Bytes; len(rest) > 0; {
			var v asn1.RawValue
			rest, err = asn1.Unmarshal(rest, &v)
			require.NoError(t, err)
			fields = append(fields, v)
		}
		var body []byte
		for i, v := range fields {
			raw := v.FullBytes
			if i == 6 {
				raw, err = asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: change(v.Bytes)})
				require.NoError(t, err)
			}
			body = append(body, raw...)
		}
		der, err := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: body})
		require.NoError(t, err)
		sum := sha256.Sum256(der)
		sig, err := ecdsa.SignASN1(rand.Reader, f.key, sum[:])
		require.NoError(t, err)
		var whole struct {
			TBS asn1.RawValue
			Alg asn1.RawValue
			Sig asn1.BitString
		}
		_, err = asn1.Unmarshal(first.Raw, &whole)
		require.NoError(t, err)
		whole.TBS = asn1.RawValue{FullBytes: der}
		whole.Sig = asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
		out, err := asn1.Marshal(whole)
		require.NoError(t, err)
		return out
	}
	other := resign(func(spki []byte) []byte { return append(append([]byte(nil), spki...), 5, 0) })
	c, err := x509.ParseCertificate(other)
	require.NoError(t, err)
	require.True(t, c.PublicKey.(*ecdsa.PublicKey).Equal(key.Public()))
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, f.ca.Authority("one")),
		mtls.Rule{Name: "r", Deny: true, PublicKeys: []mtls.KeyHash{mtls.HashPublicKey(first)}},
		mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}))
	require.Equal(t, "denied_by_rule r", pcSay(pcDecide(t, g, first)))
	require.Equal(t, "malformed_certificate", pcSay(pcDecide(t, g, c)))
}

// A shadow policy that looks at less does not blind the policy.
func TestShadowDoesNotNarrowWhatIsDenied(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	leaf := ca.Issue(mtlstest.Leaf{CommonName: "evil.example", Template: all(subjectOf("CN", "evil.example", "O", "ACME"), sans(t, sanDNS("a.example")))}).Leaf()
	for _, deny := range []mtls.Rule{
		{Domains: []string{"evil.example"}}, {Subject: []mtls.Attribute{{Type: "O", Value: "Acme"}}},
	} {
		deny.Name, deny.Deny = "r", true
		cfg := pcConfig(t, roots, deny, mtls.Rule{Name: "a", Domains: []string{"a.example"}})
		shadow, err := mtls.NewPolicy(mtls.Rule{Name: "s", Domains: []string{"a.example"}})
		require.NoError(t, err)
		cfg.Shadow = shadow
		require.Equal(t, deniedByRule, pcSay(pcDecide(t, mtlstest.NewGuard(t, cfg), leaf)))
	}
}

// A stranger's certificate with hundreds of attributes is named by its first ones.
func TestSubjectOfManyAttributes(t *testing.T) {
	t.Parallel()
	ca, stranger := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	leaf := stranger.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) {
		c.Subject = pkix.Name{}
		for i := range 256 {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 65}, Value: fmt.Sprint(i % 10)})
		}
	}}).Leaf()
	d := pcDecide(t, g, leaf)
	require.Equal(t, mtls.ReasonUntrustedIssuer, d.Reason)
	require.LessOrEqual(t, strings.Count(d.Subject, "="), 32)
	require.NotEmpty(t, d.Subject)
}

// The caller's slices may change afterwards.
func TestRulesAreCopied(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	leaf := ca.Issue(mtlstest.Leaf{Template: all(subjectOf("O", "Acme"), sans(t, sanDNS("a.example"), sanURI("urn:a"), sanEmail("a@a.example"), sanUPN("a@corp")), policiesOf(t, goldOID))}).Leaf()
	value := []byte{3, 2, 7, 0x80}
	r := mtls.Rule{Name: "r", Domains: []string{"a.example"}, URIs: []string{"urn:a"}, Emails: []string{"a@a.example"}, UPNs: []string{"a@corp"},
		Certificates: []mtls.CertificateHash{mtls.HashCertificate(leaf)}, PublicKeys: []mtls.KeyHash{mtls.HashPublicKey(leaf)}, Subject: []mtls.Attribute{{Type: "O", Value: "Acme"}},
		Authorities: []string{"one"}, IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(ca.Certificate())}, Curves: []string{"P-256"},
		Extensions: []mtls.Extension{{OID: oid(t, "2.5.29.15"), Value: value}}, Roles: []string{"a"}}
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), r))
	for _, list := range [][]string{r.Domains, r.URIs, r.Emails, r.UPNs, r.Authorities, r.Curves, r.Roles} {
		list[0] = "evil"
	}
	r.Certificates[0], r.PublicKeys[0], r.IssuerKeys[0], r.Subject[0], value[0] = mtls.CertificateHash{1}, mtls.KeyHash{1}, mtls.KeyHash{1}, mtls.Attribute{}, 9
	d := pcDecide(t, g, leaf)
	require.Equal(t, "r r a.example", pcSay(d))
	require.Equal(t, []string{"a"}, d.Identity.Roles())
}

// A name that cannot be read is not forgotten over one that can.
func TestUnreadableUPNBesideAnother(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	bad := asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true}
	id, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})
	require.NoError(t, err)
	bad.Bytes = append(id, 0xa0, 3, 4, 1, 'x')
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	for _, order := range [][]asn1.RawValue{{bad, pcUPN(t, "b@corp")}, {pcUPN(t, "b@corp"), bad}} {
		san := pcSAN(t, order...)
		leaf := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, san) }})
		require.Equal(t, deniedByRule, newRuleService(t, roots, mtls.Rule{Name: "r", Deny: true, UPNs: []string{"a@corp"}}, rest).ask(leaf))
	}
}

// A CA of which no chain is usable, because its certificate has expired, is found by
// signature alone.
func TestDeniedIssuerOfAnExpiredChain(t *testing.T) {
	a := mtlstest.NewCA(t, mtlstest.CAOptions{})
	b := mtlstest.NewCA(t, mtlstest.CAOptions{})
	one, two := a.Authority("one"), b.Authority("two")
	one.Domains, two.Domains = []string{"example"}, []string{"example"}
	options := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t)}
	viaA := a.Intermediate(options)
	options.Template = func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(1e9) }
	viaB := b.Intermediate(options)
	leaf := viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}).Leaf()
	for _, deny := range []mtls.Rule{{IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(b.Certificate())}}, {Authorities: []string{"two"}}} {
		deny.Name, deny.Deny = "r", true
		g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, one, two), deny, mtls.Rule{Name: "a", Domains: []string{"acme.example"}}))
		require.Equal(t, deniedByRule, pcSay(pcDecide(t, g, leaf, viaA.Certificate(), viaB.Certificate())))
	}
}
