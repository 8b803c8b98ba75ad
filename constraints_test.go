package mtls_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// ncCase is a constraint of a CA certificate, a name of what is below, and whether
// the chain is good.
type ncCase struct {
	constraint, name string
	good             bool
}

func ncSubject(mailbox string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: mailbox})
	}
}

func ncMail(mailboxes ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.EmailAddresses = append(c.EmailAddresses, mailboxes...) }
}

func ncURI(t *testing.T, raw string) func(*x509.Certificate) {
	t.Helper()
	u, err := url.Parse(raw)
	require.NoError(t, err)
	return func(c *x509.Certificate) { c.URIs = append(c.URIs, u) }
}

// ncDecide decides on a client of a constrained CA below a root, or of a constrained
// root with a CA between.
func ncDecide(t *testing.T, onRoot bool, constrain func(*x509.Certificate), leaf ...func(*x509.Certificate)) *mtls.Decision {
	t.Helper()
	var root, sub mtlstest.CAOptions
	if onRoot {
		root.Template = constrain
	} else {
		sub.Template = constrain
	}
	r := mtlstest.NewCA(t, root)
	cert := r.Intermediate(sub).Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Template: func(c *x509.Certificate) {
		for _, f := range leaf {
			f(c)
		}
	}})
	cfg := pcConfig(t, pcRoots(t, r.Authority("a")), mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	return pcDecide(t, mtlstest.NewGuard(t, cfg), peerOf(cert).TLS.PeerCertificates...)
}

// TestNameConstraints of mailboxes and URIs (RFC 5280 section 4.2.1.10) through
// whole chains. Where crypto/x509 is stricter than the RFC, the chain is refused.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	mailboxes := []ncCase{
		{"host.example", "a@host.example", true},
		{"host.example", "a@HOST.Example", true},
		{"host.example", "a@sub.host.example", false}, // crypto/x509 takes it for one that is below
		{"host.example", "a@xhost.example", false},
		{"host.example", "a@other.example", false},
		{"host.example", "host.example@other.example", false},
		{".host.example", "a@sub.host.example", true},
		{".host.example", "a@b.sub.host.example", true},
		{".host.example", "a@host.example", false},
		{".host.example", "a@xhost.example", false},
		{"a@host.example", "a@host.example", true},
		{"a@host.example", "a@HOST.example", true},
		{"a@host.example", "A@host.example", false},
		{"a@host.example", "b@host.example", false},
		{"a@host.example", "a@sub.host.example", false},
	}
	uris := []ncCase{
		{"host.example", "https://host.example/a", true},
		{"host.example", "https://HOST.example:8443/", true},
		{"host.example", "spiffe://host.example", true},
		{"host.example", "https://sub.host.example/", false}, // crypto/x509 takes it for one that is below
		{"host.example", "https://xhost.example/", false},
		{"host.example", "https://other.example/host.example", false},
		{"host.example", "https://host.example@other.example/", false},
		{"host.example", "urn:host.example", false},
		{"host.example", "https://192.0.2.1/", false},
		{".host.example", "https://sub.host.example/", true},
		{".host.example", "https://b.sub.host.example/", true},
		{".host.example", "https://host.example/", false},
		{".host.example", "https://xhost.example/", false},
	}
	refused := func(t *testing.T, d *mtls.Decision, good bool, c ncCase, how string) {
		t.Helper()
		if good {
			require.True(t, d.Admitted, "%s: %+v: %s", how, c, d.Detail())
			return
		}
		require.Equal(t, mtls.ReasonUntrustedIssuer, d.Reason, "%s: %+v", how, c)
	}
	for _, onRoot := range []bool{false, true} {
		for _, c := range mailboxes {
			permit := func(ca *x509.Certificate) { ca.PermittedEmailAddresses = []string{c.constraint} }
			refused(t, ncDecide(t, onRoot, permit, ncMail(c.name)), c.good, c, "permitted")
			refused(t, ncDecide(t, onRoot, permit, ncSubject(c.name)), c.good, c, "permitted, in the subject")
			refused(t, ncDecide(t, onRoot, permit), true, c, "permitted, no mailbox")
		}
		for _, c := range uris {
			permit := func(ca *x509.Certificate) { ca.PermittedURIDomains = []string{c.constraint} }
			refused(t, ncDecide(t, onRoot, permit, ncURI(t, c.name)), c.good, c, "permitted")
			refused(t, ncDecide(t, onRoot, permit), true, c, "permitted, no URI")
		}
	}
	for _, c := range mailboxes {
		exclude := func(ca *x509.Certificate) { ca.ExcludedEmailAddresses = []string{c.constraint} }
		refused(t, ncDecide(t, false, exclude, ncSubject(c.name)), !c.good, c, "excluded, in the subject")
		if c.good { // or stricter
			refused(t, ncDecide(t, false, exclude, ncMail(c.name)), false, c, "excluded")
		}
	}
	for _, c := range uris {
		if c.good {
			refused(t, ncDecide(t, false, func(ca *x509.Certificate) { ca.ExcludedURIDomains = []string{c.constraint} }, ncURI(t, c.name)), false, c, "excluded")
		}
	}
}

// TestNameConstraintsOfSeveralNames: each name is looked at, every CA's constraints
// count, and those of CA certificates are looked at as well.
func TestNameConstraintsOfSeveralNames(t *testing.T) {
	t.Parallel()
	permit := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.PermittedEmailAddresses, c.PermittedURIDomains = list, list }
	}
	for name, row := range map[string]struct {
		ca   func(*x509.Certificate)
		leaf []func(*x509.Certificate)
		good bool
	}{
		"one of two constraints":            {permit("x.example", "host.example"), []func(*x509.Certificate){ncMail("a@host.example")}, true},
		"the second mailbox":                {permit("host.example"), []func(*x509.Certificate){ncMail("a@host.example", "a@sub.host.example")}, false},
		"the second URI":                    {permit("host.example"), []func(*x509.Certificate){ncURI(t, "https://host.example/"), ncURI(t, "https://sub.host.example/")}, false},
		"a mailbox beside the subject's":    {permit("host.example"), []func(*x509.Certificate){ncMail("a@host.example"), ncSubject("a@other.example")}, true},
		"the second of the subject":         {permit("host.example"), []func(*x509.Certificate){ncSubject("a@host.example"), ncSubject("a@other.example")}, false},
		"no mailbox in the subject":         {permit("host.example"), []func(*x509.Certificate){ncSubject("host.example")}, false},
		"a host in the local part":          {permit("host.example"), []func(*x509.Certificate){ncSubject("a@host.example@other.example")}, false},
		"the other kind is not constrained": {func(c *x509.Certificate) { c.PermittedURIDomains = []string{"host.example"} }, []func(*x509.Certificate){ncMail("a@other.example")}, true},
	} {
		for _, onRoot := range []bool{false, true} {
			d := ncDecide(t, onRoot, row.ca, row.leaf...)
			require.Equal(t, row.good, d.Admitted, "%s: %s", name, d.Detail())
		}
	}

	// A CA certificate below a constrained one.
	root := mtlstest.NewCA(t, mtlstest.CAOptions{Template: permit("host.example")})
	for mailbox, good := range map[string]bool{"ca@host.example": true, "ca@sub.host.example": false} {
		for how, template := range map[string]func(*x509.Certificate){"subject": ncSubject(mailbox), "alternative name": ncMail(mailbox)} {
			cert := root.Intermediate(mtlstest.CAOptions{Template: template}).Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
			cfg := pcConfig(t, pcRoots(t, root.Authority("a")), mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
			require.Equal(t, good, pcDecide(t, mtlstest.NewGuard(t, cfg), peerOf(cert).TLS.PeerCertificates...).Admitted, "%s %s", how, mailbox)
		}
	}
}

// TestNameConstraintsOfASelfIssuedLeaf: self-issued certificates are exempt between
// CAs only (RFC 5280 section 6.1.4 (b)); a client that has its issuer's name is not.
func TestNameConstraintsOfASelfIssuedLeaf(t *testing.T) {
	t.Parallel()
	namesake := func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "Issuing CA"} }
	constrain := func(c *x509.Certificate) {
		namesake(c)
		c.PermittedEmailAddresses = []string{"good.example"}
	}
	d := ncDecide(t, false, constrain, namesake, ncMail("x@good.example"))
	require.Equal(t, mtls.Reason(""), d.Reason, d.Detail())
	d = ncDecide(t, false, constrain, namesake, ncMail("x@sub.good.example"))
	require.Equal(t, mtls.ReasonUntrustedIssuer, d.Reason, d.Detail())
}
