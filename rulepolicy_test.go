package mtls_test

import (
	"crypto/x509"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// policiesOf puts certificate policies into a certificate.
func policiesOf(t testing.TB, ids ...string) func(*x509.Certificate) {
	t.Helper()
	var list []x509.OID
	for _, id := range ids {
		list = append(list, oid(t, id))
	}
	return func(c *x509.Certificate) { c.Policies = list }
}

const goldOID, silverOID, anyPolicyOID = "1.3.6.1.4.1.99999.10", "1.3.6.1.4.1.99999.11", "2.5.29.32.0"

// The chain must be valid for the policy: crypto/x509 asked for policies takes a
// chain that has none.
func TestRulePolicyOIDs(t *testing.T) {
	t.Parallel()
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, root.Authority("one"))
	gold := mtls.Rule{Name: "r", Domains: []string{"acme.example"}, PolicyOIDs: []x509.OID{oid(t, goldOID)}}
	either := gold
	either.PolicyOIDs = []x509.OID{oid(t, silverOID), oid(t, goldOID)}
	deny := mtls.Rule{Name: "r", Deny: true, PolicyOIDs: gold.PolicyOIDs}
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	for _, row := range []struct {
		name     string
		ca, leaf []string
		rule     mtls.Rule
		want     string
	}{
		{"asserted by both", []string{goldOID}, []string{goldOID}, gold, "r acme.example"},
		{"one of several", []string{goldOID, silverOID}, []string{silverOID}, either, "r acme.example"},
		{"the CA may issue under any", []string{anyPolicyOID}, []string{goldOID}, gold, "r acme.example"},
		{"the certificate asserts any", []string{goldOID}, []string{anyPolicyOID}, gold, "r acme.example"},
		{"another policy", []string{silverOID, goldOID}, []string{silverOID}, gold, notAllowed},
		{"asserted without its CA", []string{silverOID}, []string{goldOID}, gold, notAllowed},
		{"the CA asserts none", nil, []string{goldOID}, gold, notAllowed},
		{"the certificate asserts none", []string{goldOID}, nil, gold, notAllowed},
		{"nobody asserts any", nil, nil, gold, notAllowed},
		{"denied", []string{goldOID}, []string{goldOID}, deny, deniedByRule},
		{"denied although the chain is not valid for it", nil, []string{goldOID}, deny, deniedByRule},
		{"denied, the certificate asserts any", nil, []string{anyPolicyOID}, deny, deniedByRule},
		{"not denied", []string{goldOID}, []string{silverOID}, deny, "all"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			ca := root.Intermediate(mtlstest.CAOptions{Template: policiesOf(t, row.ca...)})
			leaf := ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Template: policiesOf(t, row.leaf...)})
			rules := []mtls.Rule{row.rule}
			if row.rule.Deny {
				rules = append(rules, rest)
			}
			require.Equal(t, row.want, newRuleService(t, roots, rules...).ask(leaf))
		})
	}
}

// One chain must satisfy everything: the authority, the issuer and the policy that
// a rule demands are not put together from several.
func TestOneChainSatisfiesTheRule(t *testing.T) {
	t.Parallel()
	a, b := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	one, two := a.Authority("one"), b.Authority("two")
	one.Domains, two.Domains = []string{"example"}, []string{"example"}
	roots := pcRoots(t, one, two)
	options := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t), Template: policiesOf(t, goldOID)}
	viaA := a.Intermediate(options)
	options.Template = policiesOf(t, silverOID)
	viaB := b.Intermediate(options)
	leaf := viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Template: policiesOf(t, goldOID)}).Leaf()
	key := func(c *mtlstest.CA) []mtls.KeyHash { return []mtls.KeyHash{mtls.HashPublicKey(c.Certificate())} }
	for _, row := range []struct {
		name string
		rule mtls.Rule
		want string
	}{
		{"the chain of one", mtls.Rule{Authorities: []string{"one"}, IssuerKeys: key(a)}, "r r acme.example"},
		{"the chain of the other", mtls.Rule{Authorities: []string{"two"}, IssuerKeys: key(b)}, "r r acme.example"},
		{"an authority and another's issuer", mtls.Rule{Authorities: []string{"one"}, IssuerKeys: key(b)}, notAllowed},
		{"an authority with the policy", mtls.Rule{Authorities: []string{"one"}, PolicyOIDs: []x509.OID{oid(t, goldOID)}}, "r r acme.example"},
		{"an authority and another chain's policy", mtls.Rule{Authorities: []string{"two"}, PolicyOIDs: []x509.OID{oid(t, goldOID)}}, notAllowed},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.rule.Name, row.rule.Domains = "r", []string{"acme.example"}
			g := mtlstest.NewGuard(t, pcConfig(t, roots, row.rule))
			require.Equal(t, row.want, pcSay(pcDecide(t, g, leaf, viaB.Certificate(), viaA.Certificate())))
			require.Equal(t, row.want, pcSay(pcDecide(t, g, leaf, viaA.Certificate(), viaB.Certificate())))
		})
	}
}

// Which rule decides: certificates before everything else, deny before allow, and
// then the order, whatever field the index finds a rule by.
func TestRulePrecedence(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	leaf := ca.Issue(mtlstest.Leaf{Template: all(subjectOf("O", "Acme", "CN", "api"),
		sans(t, sanDNS("acme.example"), sanURI("urn:acme"), sanEmail("a@acme.example"), sanUPN("a@corp.example")))})
	kinds := map[string]mtls.Rule{
		"domain":    {Domains: []string{"acme.example"}},
		"wildcard":  {Domains: []string{"*.example"}},
		"uri":       {URIs: []string{"urn:acme"}},
		"email":     {Emails: []string{"a@acme.example"}},
		"emails":    {Emails: []string{"*@acme.example"}},
		"upn":       {UPNs: []string{"a@corp.example"}},
		"upns":      {UPNs: []string{"*@corp.example"}},
		"key":       {PublicKeys: []mtls.KeyHash{mtls.HashPublicKey(leaf.Leaf())}},
		"subject":   {Subject: []mtls.Attribute{{Type: "O", Value: "Acme"}}},
		"issuer":    {Issuer: []mtls.Attribute{{Type: "CN", Value: "*"}}},
		"authority": {},
		"issuerkey": {IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(ca.Certificate())}},
		"extension": {Extensions: []mtls.Extension{{OID: oid(t, "2.5.29.15"), AnyValue: true}}},
	}
	delete(kinds, "wildcard") // under a public suffix
	pinned := mtls.Rule{Name: "pinned", Certificates: []mtls.CertificateHash{mtls.HashCertificate(leaf.Leaf())}, Origin: mtls.NoOrigin()}
	prepare := func(name string, r mtls.Rule) mtls.Rule {
		r.Name, r.Authorities, r.Origin = name, []string{"one"}, mtls.NoOrigin()
		return r
	}
	decide := func(t *testing.T, rules ...mtls.Rule) string {
		d := pcDecide(t, mtlstest.NewGuard(t, pcConfig(t, roots, rules...)), leaf.Leaf())
		if d.Admitted {
			return d.Rule
		}
		return string(d.Reason) + " " + d.Rule
	}
	for first, a := range kinds {
		a = prepare(first, a)
		for second, b := range kinds {
			b = prepare(second, b)
			if first == second {
				b.Name += "2"
			}
			require.Equal(t, first, decide(t, a, b), "%s before %s", first, second)
			d := b
			d.Deny, d.Origin = true, nil
			require.Equal(t, "denied_by_rule "+d.Name, decide(t, a, d), "%s, then %s denied", first, second)
		}
		require.Equal(t, "pinned", decide(t, a, pinned), "%s, then a certificate", first)
		d := a
		d.Deny, d.Origin = true, nil
		require.Equal(t, "denied_by_rule "+first, decide(t, pinned, d), "a certificate, then %s denied", first)
	}
}

func TestRuleProblemsOfOtherNames(t *testing.T) {
	t.Parallel()
	no, one := mtls.NoOrigin(), []string{"one"}
	attribute := func(typ, value string) mtls.Rule {
		return mtls.Rule{Name: "r", Subject: []mtls.Attribute{{Type: "O", Value: "x"}, {Type: typ, Value: value}}, Authorities: one, Origin: no}
	}
	const r = `Policy: rule "r"`
	for _, row := range []struct {
		name string
		rule mtls.Rule
		want []string
	}{
		{"URI without a scheme", mtls.Rule{URIs: []string{"urn:x", "//a.example/x"}, Authorities: one, Origin: no}, []string{r + ": URIs[1]|//a.example/x"}},
		{"URI with a wildcard", mtls.Rule{URIs: []string{"https://*.a.example/"}, Authorities: one, Origin: no}, []string{r + ": URIs[0]|https://*.a.example/"}},
		{"a bare trust domain", mtls.Rule{URIs: []string{"spiffe://a.example"}, Authorities: one, Origin: no}, []string{r + ": URIs[0]|spiffe://a.example"}},
		{"a part of a trust domain", mtls.Rule{URIs: []string{"spiffe://a.example/ns/*"}, Authorities: one, Origin: no}, []string{r + ": URIs[0]|spiffe://a.example/ns/*"}},
		{"every trust domain", mtls.Rule{URIs: []string{"spiffe://*/x", "spiffe:///*"}, Authorities: one, Origin: no}, []string{r + ": URIs[0]|spiffe://*/x", r + ": URIs[1]|spiffe:///*"}},
		{"a SPIFFE ID in capitals", mtls.Rule{URIs: []string{"spiffe://A.example/x", "SPIFFE://a.example/x"}, Authorities: one, Origin: no},
			[]string{r + ": URIs[0]|spiffe://A.example/x", r + ": URIs[1]|SPIFFE://a.example/x"}},
		{"e-mail address of no host", mtls.Rule{Emails: []string{"ops", "ops@", "@a.example", "*", "o*s@a.example", "ops@*.a.example", "o s@a.example"}, Authorities: one, Origin: no},
			[]string{r + ": Emails[0]|ops", r + ": Emails[1]|ops@", r + ": Emails[2]|@a.example", r + ": Emails[3]|*", r + ": Emails[4]|o*s@a.example", r + ": Emails[5]|ops@*.a.example", r + ": Emails[6]|o s@a.example"}},
		{"UPN of no realm", mtls.Rule{UPNs: []string{"ann", "ann@", "@corp", "*@*", "*@", "a*@corp", "a@b@corp", "a b@corp", ""}, Authorities: one, Origin: no},
			[]string{r + ": UPNs[0]|ann", r + ": UPNs[1]|ann@", r + ": UPNs[2]|@corp", r + ": UPNs[3]|*@*", r + ": UPNs[4]|*@", r + ": UPNs[5]|a*@corp", r + ": UPNs[6]|a@b@corp", r + ": UPNs[7]|a b@corp", r + ": UPNs[8]|"}},
		{"unknown attribute", attribute("XX", "x"), []string{r + ": Subject[1]|XX=x"}},
		{"attribute that is no object identifier", attribute("2.5.04.3", "x"), []string{r + ": Subject[1]|2.5.04.3=x"}},
		{"empty attribute", attribute("CN", ""), []string{r + ": Subject[1]|CN="}},
		{"lone backslash", attribute("CN", `CORP\ann`), []string{r + `: Subject[1]|CN=CORP\ann`}},
		{"backslash at the end", attribute("CN", `x\`), []string{r + `: Subject[1]|CN=x\`}},
		{"empty issuer attribute", mtls.Rule{Issuer: []mtls.Attribute{{Type: "CN"}}, Authorities: one, Origin: no}, []string{r + ": Issuer[0]|CN="}},
		{"extension without OID", mtls.Rule{Extensions: []mtls.Extension{{Text: "x"}}, Authorities: one, Origin: no}, []string{r + ": Extensions[0]|"}},
		{"extension with both", mtls.Rule{Extensions: []mtls.Extension{{OID: oid(t, "1.2.3"), Text: "x", Value: []byte{1}}}, Authorities: one, Origin: no}, []string{r + ": Extensions[0]|1.2.3"}},
		{"extension without a value", mtls.Rule{Extensions: []mtls.Extension{{OID: oid(t, "1.2.3")}}, Authorities: one, Origin: no}, []string{r + ": Extensions[0]|1.2.3"}},
		{"extension with any and a value", mtls.Rule{Extensions: []mtls.Extension{{OID: oid(t, "1.2.3"), Text: "x", AnyValue: true}}, Authorities: one, Origin: no}, []string{r + ": Extensions[0]|1.2.3"}},
		{"attribute that is not UTF-8", attribute("O", "M\xfcller"), []string{r + ": Subject[1]|O=M\xfcller"}},
		{"attribute that no object identifier is", attribute("1.40", "x"), []string{r + ": Subject[1]|1.40=x"}},
		{"trust domain with a dot at its end", mtls.Rule{URIs: []string{"spiffe://a.example./*"}, Authorities: one, Origin: no}, []string{r + ": URIs[0]|spiffe://a.example./*"}},
		{"empty lists", mtls.Rule{Domains: []string{}, URIs: []string{}, Emails: []string{}, UPNs: []string{}, Certificates: []mtls.CertificateHash{}, PublicKeys: []mtls.KeyHash{}, Subject: []mtls.Attribute{},
			Issuer: []mtls.Attribute{}, Authorities: []string{}, IssuerKeys: []mtls.KeyHash{{1}}, PolicyOIDs: []x509.OID{}, Extensions: []mtls.Extension{}, Curves: []string{}, Origin: no},
			[]string{r + ": Domains|", r + ": URIs|", r + ": Emails|", r + ": UPNs|", r + ": Certificates|", r + ": PublicKeys|", r + ": Subject|", r + ": Issuer|", r + ": Authorities|", r + ": PolicyOIDs|", r + ": Extensions|", r + ": Curves|"}},
		{"an empty list of issuers", mtls.Rule{Domains: []string{"a.example"}, IssuerKeys: []mtls.KeyHash{}}, []string{r + ": IssuerKeys|"}},
		{"any policy", mtls.Rule{Domains: []string{"a.example"}, PolicyOIDs: []x509.OID{{}, oid(t, anyPolicyOID)}}, []string{r + ": PolicyOIDs[0]|", r + ": PolicyOIDs[1]|2.5.29.32.0"}},
		{"negative bits", mtls.Rule{Domains: []string{"a.example"}, MinRSABits: -1}, []string{r + ": MinRSABits|-1"}},
		{"unknown curve", mtls.Rule{Domains: []string{"a.example"}, Curves: []string{"P-256", "p-384"}}, []string{r + ": Curves[1]|p-384"}},
		{"URI of any CA", mtls.Rule{URIs: []string{"urn:x"}, Origin: no}, []string{r + ": Authorities|"}},
		{"e-mail address of any CA", mtls.Rule{Emails: []string{"a@a.example"}, Origin: no}, []string{r + ": Authorities|"}},
		{"UPN of any CA", mtls.Rule{UPNs: []string{"a@corp"}, Origin: no}, []string{r + ": Authorities|"}},
		{"subject of any CA", mtls.Rule{Subject: []mtls.Attribute{{Type: "O", Value: "x"}}, Origin: no}, []string{r + ": Authorities|"}},
		{"issuer's name of any CA", mtls.Rule{Issuer: []mtls.Attribute{{Type: "O", Value: "x"}}, Origin: no}, []string{r + ": Authorities|"}},
		{"extension of any CA", mtls.Rule{Extensions: []mtls.Extension{{OID: oid(t, "1.2.3"), AnyValue: true}}, Origin: no}, []string{r + ": Authorities|"}},
		{"subject of any CA beside a domain", mtls.Rule{Domains: []string{"a.example"}, Subject: []mtls.Attribute{{Type: "O", Value: "x"}}}, []string{r + ": Authorities|"}},
		{"policies alone", mtls.Rule{PolicyOIDs: []x509.OID{oid(t, goldOID)}, Origin: no}, []string{r + "|"}},
		{"strength alone", mtls.Rule{Curves: []string{"P-256"}, Origin: no}, []string{r + "|"}},
		{"a condition alone", mtls.Rule{When: func(*x509.Certificate) bool { return true }, Origin: no}, []string{r + "|"}},
		{"origin alone", mtls.Rule{Origin: &mtls.Origin{Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}, []string{r + "|"}},
		{"no domain, no origin", mtls.Rule{UPNs: []string{"a@corp"}, Authorities: one}, []string{r + ": Origin|"}},
		{"deny by strength", mtls.Rule{Deny: true, MinRSABits: 2048, Domains: []string{"a.example"}}, []string{r + "|"}},
		{"deny by curve", mtls.Rule{Deny: true, Curves: []string{"P-256"}}, []string{r + "|", r + "|"}},
		{"disabled, and checked all the same", mtls.Rule{Disabled: true, Domains: []string{"-"}}, []string{r + ": Domains[0]|-"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.rule.Name = "r"
			p, err := mtls.NewPolicy(mtls.Rule{Name: "first", Domains: []string{"a.example"}}, row.rule)
			require.Nil(t, p)
			require.ElementsMatch(t, row.want, pcFields(t, err))
			for _, c := range pcProblems(t, err) {
				require.Equal(t, 2, c.Rule)
				require.Equal(t, c.Field, map[bool]string{true: r, false: r + ": " + c.Item}[c.Item == ""])
			}
		})
	}
	t.Run("what is no problem", func(t *testing.T) {
		for _, rule := range []mtls.Rule{
			{Emails: []string{"*@a.example"}, Authorities: one, Origin: no},
			{UPNs: []string{"*@CORP"}, IssuerKeys: []mtls.KeyHash{{1}}, Origin: no},
			{Subject: []mtls.Attribute{{Type: "cn", Value: "*"}}, Certificates: []mtls.CertificateHash{{1}}, Origin: no},
			{Deny: true, UPNs: []string{"a@corp"}}, {Deny: true, When: func(*x509.Certificate) bool { return true }},
			{Deny: true, PolicyOIDs: []x509.OID{oid(t, goldOID)}}, {Deny: true, Extensions: []mtls.Extension{{OID: oid(t, "1.2.3"), AnyValue: true}}},
		} {
			rule.Name = "r"
			_, err := mtls.NewPolicy(rule)
			require.NoError(t, err)
		}
	})
}

// Under a public authority nobody is named by what its CAs do not check.
func TestOtherNamesUnderAPublicAuthority(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	public := ca.Authority("web")
	public.Public, public.Purpose = true, mtls.ClientOrServerAuth
	roots := pcRoots(t, public)
	no := mtls.NoOrigin()
	rules := map[string]mtls.Rule{
		"uri":     {URIs: []string{"urn:x"}},
		"email":   {Emails: []string{"a@acme.example"}},
		"upn":     {UPNs: []string{"a@corp"}},
		"subject": {Subject: []mtls.Attribute{{Type: "CN", Value: "*.acme.example"}}},
		"issuer":  {Issuer: []mtls.Attribute{{Type: "CN", Value: "*"}}},
	}
	for name, rule := range rules {
		rule.Name, rule.Authorities, rule.Origin = "r", []string{"web"}, no
		policy, err := mtls.NewPolicy(rule)
		require.NoError(t, err)
		_, err = mtls.New(mtls.Config{Roots: roots, Policy: policy})
		require.Equal(t, []string{`Config.Policy: rule "r": Authorities|`}, pcFields(t, err), name)
		require.Equal(t, 1, pcProblems(t, err)[0].Rule)
		require.Equal(t, "Authorities", pcProblems(t, err)[0].Item)
	}
	// With the issuer's key it is not seen before a client comes: it is not admitted.
	private := mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("private")
	private.Domains = []string{"x.example"}
	leaf := ca.Issue(mtlstest.Leaf{Template: all(subjectOf("CN", "evil.acme.example"), sans(t, sanDNS("a.example"), sanUPN("a@corp")))})
	restricted := mtls.Rule{Name: "r", Domains: []string{"a.example"}, UPNs: []string{"a@corp"}, Authorities: []string{"web"}}
	require.Equal(t, "r a.example a@corp", newRuleService(t, pcRoots(t, public, private), restricted).ask(leaf))
	restricted.UPNs = []string{"b@corp"}
	require.Equal(t, notAllowed, newRuleService(t, pcRoots(t, public, private), restricted).ask(leaf))
}

// Why no rule matched is said to the operator.
func TestNearlyMatchingRules(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	other := mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("two")
	one := ca.Authority("one")
	one.Domains, other.Domains = []string{"example"}, []string{"example"}
	leaf := ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	rule := func(name string, change func(*mtls.Rule)) mtls.Rule {
		r := mtls.Rule{Name: name, Domains: []string{"acme.example"}}
		change(&r)
		return r
	}
	s := newRuleService(t, pcRoots(t, one, other),
		rule("a", func(r *mtls.Rule) { r.Authorities = []string{"two"} }),
		rule("b", func(r *mtls.Rule) { r.Curves = []string{"P-384"} }),
		rule("c", func(r *mtls.Rule) { r.NotAfter = leaf.Leaf().NotBefore }),
		rule("d", func(r *mtls.Rule) { r.Disabled = true }),
	)
	require.Equal(t, notAllowed, s.ask(leaf))
	require.Equal(t, `no rule lists this client; its names are acme.example; it would match rule "a" but for Authorities, rule "b" but for MinRSABits or Curves, `+
		`rule "c" but for NotBefore or NotAfter, rule "d" but that it is disabled`, s.detail())
}

func TestPolicyStats(t *testing.T) {
	t.Parallel()
	one, no := []string{"one"}, mtls.NoOrigin()
	p, err := mtls.NewPolicy(
		mtls.Rule{Name: "a", Domains: []string{"a.example"}},
		mtls.Rule{Name: "b", Domains: []string{"b.example"}, Disabled: true},
		mtls.Rule{Name: "c", Deny: true, Domains: []string{"c.example"}},
		mtls.Rule{Name: "d", Subject: []mtls.Attribute{{Type: "O", Value: "x"}}, Authorities: one, Origin: no},
		mtls.Rule{Name: "e", Authorities: one, Origin: no},
		mtls.Rule{Name: "f", Deny: true, Subject: []mtls.Attribute{{Type: "O", Value: "x"}}},
		mtls.Rule{Name: "g", UPNs: []string{"a@corp"}, Subject: []mtls.Attribute{{Type: "O", Value: "x"}}, Authorities: one, Origin: no},
	)
	require.NoError(t, err)
	require.Equal(t, mtls.PolicyStats{Allow: 4, Deny: 2, Disabled: 1, Walked: 2}, p.Stats())
	require.Zero(t, mtls.DenyAll().Stats())
	require.Zero(t, new(mtls.Policy).Stats())
}
