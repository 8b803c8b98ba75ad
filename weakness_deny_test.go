package mtls_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

func leafOf(f ...func(*x509.Certificate)) mtlstest.Leaf { return mtlstest.Leaf{Template: all(f...)} }

// What is denied does not come in by the very same spelling in a name of another type,
// nor as capital letters, with blanks, escapes or quotes, or within a longer text.
func TestDeniedInOtherNames(t *testing.T) {
	t.Parallel()
	dom := func(s string) mtls.Rule { return mtls.Rule{Domains: []string{s}} }
	em := func(s string) mtls.Rule { return mtls.Rule{Emails: []string{s}} }
	upn := func(s string) mtls.Rule { return mtls.Rule{UPNs: []string{s}} }
	uri := func(s string) mtls.Rule { return mtls.Rule{URIs: []string{s}} }
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	for name, row := range map[string]spelling{
		"domain underscore same CN":      {dom("_x.acme.example"), leafOf(subjectOf("CN", "_x.acme.example"))},
		"domain underscore same URI":     {dom("_x.acme.example"), named(t, sanURI("https://_x.acme.example/"))},
		"wildcard under underscore":      {dom("*._x.acme.example"), leafOf(subjectOf("CN", "a._x.acme.example"))},
		"zwnj same CN":                   {dom("نامه\u200cای.example"), leafOf(subjectOf("CN", "نامه\u200cای.example"))},
		"middle dot same CN":             {dom("paral·lel.example"), leafOf(subjectOf("CN", "paral·lel.example"))},
		"katakana dot same CN":           {dom("ア・イ.example"), leafOf(subjectOf("CN", "ア・イ.example"))},
		"geresh same CN":                 {dom("צ׳א.example"), leafOf(subjectOf("CN", "צ׳א.example"))},
		"ideographic zero same CN":       {dom("二〇.example"), leafOf(subjectOf("CN", "二〇.example"))},
		"tibetan tsheg same CN":          {dom("བོད་ཡིག.example"), leafOf(subjectOf("CN", "བོད་ཡིག.example"))},
		"same in a DC":                   {dom("paral·lel.example"), leafOf(subjectOf("DC", "example", "DC", "paral·lel"))},
		"sigma upper":                    {dom("βόλος.example"), leafOf(subjectOf("CN", "ΒΌΛΟΣ.EXAMPLE"))},
		"sharp s upper":                  {dom("straße.example"), leafOf(subjectOf("CN", "STRASSE.EXAMPLE"))},
		"email sharp s same E":           {em("ann@straße.example"), leafOf(subjectOf("E", "ann@straße.example"))},
		"quotation marks":                {dom("evil.example"), leafOf(subjectOf("CN", "„evil.example“→x"))},
		"email sharp s, full-width user": {em("ann@straße.example"), leafOf(subjectOf("E", "\uff41nn@straße.example"))},
		"every email sharp s same E":     {em("*@straße.example"), leafOf(subjectOf("E", "ann@straße.example"))},
		"every email sigma same UPN":     {em("*@βόλος.example"), named(t, sanUPN("ann@βόλος.example"))},
		"every email zwnj":               {em("*@نامه\u200cای.example"), leafOf(subjectOf("E", "ann@نامه\u200cای.example"))},
		"every email u-label ok":         {em("*@bücher.example"), named(t, sanUPN("ann@bücher.example"))},
		"UPN realm A-label":              {upn("*@bücher.example"), named(t, sanUPN("ann@xn--bcher-kva.example"))},
		"UPN U realm, email A-label":     {upn("ann@bücher.example"), named(t, sanEmail("ann@xn--bcher-kva.example"))},
		"UPN realm A policy U cert":      {upn("*@xn--bcher-kva.example"), named(t, sanUPN("ann@bücher.example"))},
		"fullwidth at in the realm":      {upn("*@co\uff20rp"), named(t, sanUPN("ann@co\uff20rp"))},
		"URI policy escaped":             {uri("https://acme.example/%7Eann"), named(t, sanURI("https://acme.example/~ann"))},
		"URI cert escaped":               {uri("https://acme.example/~ann"), named(t, sanURI("https://acme.example/%7Eann"))},
		"URN escaped":                    {uri("urn:acme:%2Fann"), named(t, sanURI("urn:acme:%2fann"))},
		"E blanks around at":             {em("ann@acme.example"), leafOf(subjectOf("E", "ann @ acme.example"))},
		"E blank behind at":              {em("ann@acme.example"), leafOf(subjectOf("E", "ann@ acme.example"))},
		"E every blank behind at":        {em("*@acme.example"), leafOf(subjectOf("E", "ann@ acme.example"))},
		"mailto to":                      {em("ann@acme.example"), named(t, sanURI("mailto:?to=ann@acme.example"))},
		"mailto to cc":                   {em("ann@acme.example"), named(t, sanURI("mailto:b@x.example?cc=ann@acme.example"))},
		"userinfo":                       {em("ann@acme.example"), named(t, sanURI("ssh://ann@acme.example/"))},
		"userinfo upn":                   {upn("ann@acme.example"), named(t, sanURI("https://ann@acme.example/"))},
		"query":                          {em("ann@acme.example"), named(t, sanURI("https://x.example/?u=ann@acme.example"))},
		"quoted apostrophe CN":           {em("ann@acme.example"), leafOf(subjectOf("CN", "'ann@acme.example'"))},
		"comment with quoted paren":      {em("ann@acme.example"), leafOf(subjectOf("E", `ann(\()@acme.example`))},
		"user percent hack":              {em("ann@acme.example"), leafOf(subjectOf("CN", "CN=ann@acme.example"))},
		"ext text T":                     {mtls.Rule{Subject: []mtls.Attribute{{Type: "O", Value: "Acme%"}}}, leafOf(subjectOf("O", "Acme%25"))},
		"subject escaped policy":         {mtls.Rule{Subject: []mtls.Attribute{{Type: "O", Value: "Acme%41"}}}, leafOf(subjectOf("O", "AcmeA"))},
	} {
		row.deny.Name, row.deny.Deny = "r", true
		if _, err := mtls.NewPolicy(row.deny, rest); err != nil {
			require.Contains(t, name, "fullwidth at", err) // which no policy has
			row.deny = mtls.Rule{Name: "r", Deny: true, UPNs: []string{"x@y"}}
		}
		g := mtlstest.NewGuard(t, pcConfig(t, roots, row.deny, rest))
		require.Equal(t, deniedByRule, pcSay(pcDecide(t, g, ca.Issue(row.leaf).Leaf())), name)
	}
}

// Whatever a policy takes for a domain, or for the host of an address, is found under
// that very spelling in a common name.
func TestDeniedUnderTheSameSpelling(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	r := rand.New(rand.NewPCG(1, 2))
	alphabet := []rune("ab-_1üßςσéأبק日本ーकहि\u200c\u200d·・׳ıłøİﬀĸŋæ̣")
	tried := 0
	for tried < 400 {
		label := make([]rune, 1+r.IntN(4))
		for i := range label {
			label[i] = alphabet[r.IntN(len(alphabet))]
		}
		name := string(label) + ".example"
		text, rule := name, mtls.Rule{Name: "r", Deny: true, Domains: []string{name}}
		if tried%2 == 1 {
			text, rule = "ann@"+name, mtls.Rule{Name: "r", Deny: true, Emails: []string{"*@" + name}}
		}
		if _, err := mtls.NewPolicy(rule); err != nil {
			continue
		}
		tried++
		g := mtlstest.NewGuard(t, pcConfig(t, roots, rule, rest))
		require.Equal(t, deniedByRule, pcSay(pcDecide(t, g, ca.Issue(leafOf(subjectOf("CN", text))).Leaf())), "%+q", text)
	}
}

// Texts within an otherName of whatever kind are looked at, and what cannot be read
// counts as what is denied.
func TestDeniedWithinAnOtherName(t *testing.T) {
	t.Parallel()
	rest := mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	id, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 7})
	require.NoError(t, err)
	other := func(value ...byte) asn1.RawValue {
		v, err := asn1.Marshal(asn1.RawValue{Class: 2, IsCompound: true, Bytes: value})
		require.NoError(t, err)
		return asn1.RawValue{Class: 2, IsCompound: true, Bytes: append(append([]byte(nil), id...), v...)}
	}
	universal := []byte{28, 0}
	for _, r := range "evil.example" {
		universal = append(universal, 0, 0, 0, byte(r))
		universal[1] += 4
	}
	deep := append([]byte{12, 12}, "evil.example"...)
	for range 20 {
		deep = append([]byte{0x30, byte(len(deep))}, deep...)
	}
	utf8s := append([]byte{12, 12}, "evil.example"...)
	for name, san := range map[string]asn1.RawValue{
		"control":          other(utf8s...),
		"UniversalString":  other(universal...),
		"nested deeply":    other(deep...),
		"high tag before":  other(append([]byte{0x1f, 0x81, 0x00, 0}, utf8s...)...),
		"implicit tagging": other(append([]byte{0x80, 12}, "evil.example"...)...),
		"octet string":     other(append([]byte{4, 12}, "evil.example"...)...),
	} {
		t.Run(name, func(t *testing.T) {
			ext := pcSAN(t, asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte("a.example")}, san)
			leaf := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, ext) }}).Leaf()
			denies := func(deny mtls.Rule) bool {
				deny.Name, deny.Deny = "r", true
				return pcSay(pcDecide(t, mtlstest.NewGuard(t, pcConfig(t, roots, deny, rest)), leaf)) == deniedByRule
			}
			require.True(t, denies(mtls.Rule{Domains: []string{"evil.example"}}))
			unread := name == "nested deeply" || name == "high tag before"
			require.Equal(t, unread, denies(mtls.Rule{Domains: []string{"other.example"}}))
			require.Equal(t, unread, denies(mtls.Rule{UPNs: []string{"ann@other.example"}}))
		})
	}
	guid := pcSAN(t, asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte("a.example")}, other(append([]byte{4, 16}, strings.Repeat("\xfe\x80", 8)...)...))
	leaf := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, guid) }}).Leaf()
	g := mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Deny: true, Domains: []string{"evil.example"}}, rest))
	require.Equal(t, "all all", pcSay(pcDecide(t, g, leaf)), "no text at all, as domain controllers have")
}

// An otherName whose type is a UUID (2.25) is no user principal name that could not be
// read.
func TestOtherNameWithALongIdentifier(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	id, err := x509.ParseOID("2.25.329800735698586629295641978511506172918")
	require.NoError(t, err)
	b, err := id.MarshalBinary()
	require.NoError(t, err)
	der, err := asn1.Marshal(asn1.RawValue{Tag: 6, Bytes: b})
	require.NoError(t, err)
	san := pcSAN(t, asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte("a.example")}, asn1.RawValue{Class: 2, IsCompound: true, Bytes: append(der, 0xa0, 2, 5, 0)})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "d", Deny: true, UPNs: []string{"x@y"}}, mtls.Rule{Name: "a", Domains: []string{"a.example"}}))
	leaf := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, san) }}).Leaf()
	require.Equal(t, "a a a.example", pcSay(pcDecide(t, g, leaf)))
}

// A certificate with more words, domains or addresses than are looked at is denied by
// whatever rule looks at them.
func TestMoreThanIsLookedAt(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, ca.Authority("one"))
	numbered := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	denied := map[string]mtls.Rule{"domains": {Domains: []string{"evil.example"}}, "addresses": {Emails: []string{"ann@evil.example"}}, "certificates": {Certificates: []mtls.CertificateHash{{1}}}}
	for text, what := range map[string]string{
		numbered("%d ", 4095): "", numbered("%d ", 4100): "domains", numbered("%d.b..", 4000): "", numbered("%d.b..", 4100): "domains",
		numbered("%d@b ", 64): "", numbered("%d@b ", 65): "addresses", numbered("%d\uff20b ", 65): "addresses",
	} {
		leaf := ca.Issue(leafOf(subjectOf("CN", text), sans(t, sanDNS("a.example")))).Leaf()
		for kind, deny := range denied {
			deny.Name, deny.Deny = "r", true
			g := mtlstest.NewGuard(t, pcConfig(t, roots, deny, mtls.Rule{Name: "a", Domains: []string{"a.example"}}))
			require.Equal(t, kind == what, pcSay(pcDecide(t, g, leaf)) == deniedByRule, "%s: %.20s", kind, text)
		}
	}
}

// A CA that may speak for one mail host puts another's address into the subject, and
// one of its own among the alternative names: RFC 5280 has nobody look at the first.
func TestConstrainedMailboxInTheSubject(t *testing.T) {
	t.Parallel()
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, root.Authority("one"))
	for name, template := range map[string]func(*x509.Certificate){
		"permitted": func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"globex.example"} },
		"excluded":  func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{"acme.example"} },
		"":          func(*x509.Certificate) {},
	} {
		mid := root.Intermediate(mtlstest.CAOptions{Template: template})
		by := func(kind, value string) *mtls.Guard {
			// The other rule has the same authority, and shares nothing with this one.
			return mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "o", Subject: []mtls.Attribute{{Type: "O", Value: "x"}}, Authorities: []string{"one"}, Origin: mtls.NoOrigin()},
				mtls.Rule{Name: "r", Subject: []mtls.Attribute{{Type: kind, Value: value}}, Authorities: []string{"one"}, Origin: mtls.NoOrigin()}))
		}
		alone := mid.Issue(leafOf(subjectOf("E", "ann@acme.example"))).Leaf()
		beside := mid.Issue(leafOf(subjectOf("E", "ann@acme.example", "L", "Here"), sans(t, sanEmail("x@globex.example")))).Leaf()
		require.Equal(t, name == "", pcDecide(t, by("E", "ann@acme.example"), alone, mid.Certificate()).Admitted, name)
		require.Equal(t, name == "", pcDecide(t, by("E", "ann@acme.example"), beside, mid.Certificate()).Admitted, name)
		require.Equal(t, "r r", pcSay(pcDecide(t, by("L", "Here"), beside, mid.Certificate())), "rules that do not go by it do not mind")
	}
}

func TestConstraintsOfOtherNamesBesideOthers(t *testing.T) {
	t.Parallel()
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, root.Authority("one"))
	der := func(v any) []byte {
		b, err := asn1.Marshal(v)
		require.NoError(t, err)
		return b
	}
	seq := func(b ...[]byte) []byte {
		var all []byte
		for _, x := range b {
			all = append(all, x...)
		}
		return der(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: all})
	}
	upn, dns := pcUPN(t, "@globex.example"), asn1.RawValue{Class: 2, Tag: 2, Bytes: []byte("example")}
	for name, list := range map[string][]byte{"alone": seq(der(upn)), "first": append(seq(der(upn)), seq(der(dns))...), "last": append(seq(der(dns)), seq(der(upn))...)} {
		value := seq(der(asn1.RawValue{Class: 2, IsCompound: true, Bytes: list}))
		mid := root.Intermediate(mtlstest.CAOptions{Template: func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Value: value})
		}})
		leaf := mid.Issue(named(t, sanUPN("ann@acme.example"))).Leaf()
		t.Run(name, func(t *testing.T) {
			g := mtlstest.NewGuard(t, pcConfig(t, roots,
				mtls.Rule{Name: "d", Domains: []string{"x.example"}, Authorities: []string{"one"}},
				mtls.Rule{Name: "r", UPNs: []string{"*@acme.example"}, Authorities: []string{"one"}, Origin: mtls.NoOrigin()}))
			require.Equal(t, notAllowed, pcSay(pcDecide(t, g, leaf, mid.Certificate())))
		})
	}
}

// A user principal name with something behind it is none.
func TestUPNWithSomethingBehindIsNone(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	id, err := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})
	require.NoError(t, err)
	text, err := asn1.MarshalWithParams("ann@acme.example", "utf8")
	require.NoError(t, err)
	value, err := asn1.Marshal(asn1.RawValue{Class: 2, IsCompound: true, Bytes: append(text, 5, 0)})
	require.NoError(t, err)
	san := pcSAN(t, asn1.RawValue{Class: 2, IsCompound: true, Bytes: append(id, value...)})
	leaf := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, san) }}).Leaf()
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "r", UPNs: []string{"*@acme.example"}, Authorities: []string{"one"}, Origin: mtls.NoOrigin()}))
	require.Equal(t, notAllowed, pcSay(pcDecide(t, g, leaf)))
}

// What no certificate needs is not worth the time that rules would take for it.
func TestLimitsOfALeaf(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	attributes := func(n int) func(*x509.Certificate) {
		return subjectOf(strings.Split(strings.Repeat("OU x ", n), " ")[:2*n]...)
	}
	policies := func(n int) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Policies = nil
			for i := range n {
				p, err := x509.OIDFromInts([]uint64{1, 3, 6, 1, 4, 1, uint64(i)})
				require.NoError(t, err)
				c.Policies = append(c.Policies, p)
			}
		}
	}
	for want, templates := range map[string][]func(*x509.Certificate){
		"r r a.example":         {attributes(256), policies(256)},
		"malformed_certificate": {attributes(257), policies(257)},
	} {
		for _, template := range templates {
			require.Equal(t, want, pcSay(pcDecide(t, g, ca.Issue(leafOf(template, sans(t, sanDNS("a.example")))).Leaf())))
		}
	}
	for bits, want := range map[int]string{1023: "malformed_certificate", 1024: "r r a.example", 8192: "r r a.example", 8193: "malformed_certificate"} {
		n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
		leaf := ca.Issue(mtlstest.Leaf{Names: []string{"a.example"}, Key: publicOnly{&rsa.PublicKey{N: n, E: 65537}}}).Leaf()
		require.Equal(t, want, pcSay(pcDecide(t, g, leaf)), bits)
	}
}

// publicOnly is a key whose holder is not needed.
type publicOnly struct{ *rsa.PublicKey }

func (k publicOnly) Public() crypto.PublicKey { return k.PublicKey }

func (publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("not here")
}
