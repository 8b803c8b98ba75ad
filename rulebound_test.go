package mtls_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// constraint is a nameConstraints extension that permits one name, or excludes it.
func constraint(t testing.TB, critical, excluded bool, base asn1.RawValue) func(*x509.Certificate) {
	t.Helper()
	der := func(v any) []byte {
		b, err := asn1.Marshal(v)
		require.NoError(t, err)
		return b
	}
	subtree := der(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: der(base)})
	list := asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: subtree}
	if excluded {
		list.Tag = 1
	}
	value := der(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: der(list)})
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: critical, Value: value})
	}
}

// Constraints that crypto/x509 does not check stand in the way of the rules that
// rely on these names, critical or not, and of no other.
func TestConstraintsOnNamesThatAreNotChecked(t *testing.T) {
	t.Parallel()
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	roots := pcRoots(t, root.Authority("one"))
	directory, err := asn1.Marshal(pkix.Name{Organization: []string{"Acme"}}.ToRDNSequence())
	require.NoError(t, err)
	upn := pcUPN(t, "@corp.example")
	dirName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory}
	dnsName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("example")}
	leaf := mtlstest.Leaf{Template: all(subjectOf("O", "Globex"), sans(t, sanDNS("acme.example"), sanUPN("ann@corp.example")))}
	one, no := []string{"one"}, mtls.NoOrigin()
	byUPN := mtls.Rule{Name: "r", UPNs: []string{"ann@corp.example"}, Authorities: one, Origin: no}
	bySubject := mtls.Rule{Name: "r", Subject: []mtls.Attribute{{Type: "O", Value: "Globex"}}, Authorities: one, Origin: no}
	byDomain := mtls.Rule{Name: "r", Domains: []string{"acme.example"}}
	for _, row := range []struct {
		name                 string
		bound                func(*x509.Certificate)
		upn, subject, domain string
	}{
		{"none", func(*x509.Certificate) {}, "r ann@corp.example", "r", "r acme.example"},
		{"of domains", constraint(t, true, false, dnsName), "r ann@corp.example", "r", "r acme.example"},
		{"of otherNames", constraint(t, false, false, upn), notAllowed, "r", "r acme.example"},
		{"otherNames excluded", constraint(t, false, true, upn), notAllowed, "r", "r acme.example"},
		{"of directory names", constraint(t, false, false, dirName), "r ann@corp.example", notAllowed, "r acme.example"},
		{"of otherNames, critical", constraint(t, true, false, upn), "malformed_certificate", "malformed_certificate", "malformed_certificate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			cert := root.Intermediate(mtlstest.CAOptions{Template: row.bound}).Issue(leaf)
			require.Equal(t, row.upn, newRuleService(t, roots, byUPN).ask(cert))
			require.Equal(t, row.subject, newRuleService(t, roots, bySubject).ask(cert))
			require.Equal(t, row.domain, newRuleService(t, roots, byDomain).ask(cert))
			deny := byUPN
			deny.Deny, deny.Origin = true, nil
			if row.domain == "r acme.example" {
				require.Equal(t, deniedByRule, newRuleService(t, roots, deny, mtls.Rule{Name: "d", Domains: []string{"acme.example"}}).ask(cert))
			}
		})
	}
}
