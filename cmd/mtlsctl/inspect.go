package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// certReport is the form of inspect --json.
type certReport struct {
	Subject            string          `json:"subject"`
	Issuer             string          `json:"issuer"`
	Serial             string          `json:"serial"`
	NotBefore          string          `json:"not_before"`
	NotAfter           string          `json:"not_after"`
	SANs               []sanEntry      `json:"subject_alt_names"`
	KeyKind            string          `json:"key_kind"`
	KeyBits            int             `json:"key_bits"`
	SignatureAlgorithm string          `json:"signature_algorithm"`
	SHA256             string          `json:"sha256"`
	KeySHA256          string          `json:"public_key_sha256"`
	SHA1               string          `json:"sha1_thumbprint"`
	CA                 bool            `json:"ca"`
	KeyUsage           []string        `json:"key_usage"`
	ExtKeyUsage        []string        `json:"ext_key_usage"`
	Policies           []string        `json:"policy_oids"`
	CRLs               []string        `json:"crl_urls"`
	OCSP               []string        `json:"ocsp_urls"`
	MustStaple         bool            `json:"must_staple"`
	NoRevAvail         bool            `json:"no_rev_avail"`
	SID                string          `json:"sid,omitempty"`
	Extensions         []extensionInfo `json:"extensions"`
	Warnings           []string        `json:"warnings"`
	Rules              []ruleInfo      `json:"rules"`
}

type extensionInfo struct {
	OID      string `json:"oid"`
	Name     string `json:"name,omitempty"`
	Critical bool   `json:"critical"`
	Bytes    int    `json:"bytes"`
}

func newInspect() *cobra.Command {
	var w ruleWriter
	var asJSON bool
	var at string
	cmd := &cobra.Command{
		Use:   "inspect cert.pem",
		Short: "Show a certificate, and the rules that can be written from it",
		Long: long(`
Shows what a client's certificate holds, what a service would not like about it, and
which rules can be written from it: how strong each is, and whether it holds for the
renewed certificate. The first certificate of the file is the client's; others are
its chain. Nothing is verified.

With --write it prints a policy file with one such rule instead. KIND is domain,
uri, email, upn, certificate, key, subject or issuer-key; domain=NAME and the like
choose one of several names. A rule by uri, email, upn or subject says whose
certificates it means: --authority. A rule without an exact domain says where
connections come from: --origin none, networks, or host names. Of a CA's own
certificate only an issuer-key rule can be written, for all clients of that CA.`,
			"shown or written", "such a rule cannot be written from this certificate", "never"),
		Example: `  mtlsctl inspect client.pem
  mtlsctl inspect --write domain client.pem >policy.yaml
  mtlsctl inspect --write certificate --name acme --origin 198.51.100.0/28 client.pem
  mtlsctl inspect --write subject --authority partners --origin none client.pem`,
		Args:              exactly("cert.pem"),
		ValidArgsFunction: files("pem", "crt", "cer", "der"),
		RunE: func(cmd *cobra.Command, args []string) error {
			colour, err := coloured(cmd)
			if err != nil {
				return err
			}
			now, err := clock(at)
			if err != nil {
				return err
			}
			if w.what == "" && (w.name != "" || w.authority != "" || len(w.origin) > 0) {
				return errors.New("--name, --authority and --origin go with --write")
			}
			if asJSON && w.what != "" {
				return errors.New("--json does not go with --write")
			}
			certs, err := loadCertificates(args[0], maxChainFile)
			if err != nil {
				return err
			}
			if w.what != "" {
				return w.write(cmd, certs)
			}
			r := inspect(certs, now())
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), r)
			}
			r.print(printer{cmd.OutOrStdout(), colour})
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&w.what, "write", "", "`KIND` of rule to write as a policy file")
	f.StringVar(&w.name, "name", "", "name of the rule that is written")
	f.StringVar(&w.authority, "authority", "", "name of the authority that the rule is for")
	f.StringArrayVar(&w.origin, "origin", nil, "none, a network or a host name that the client connects from (repeatable)")
	f.StringVar(&at, "time", "", "the time to look at it, RFC 3339 (default now)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	fixed(cmd, "write", ruleKinds[:]...)
	return cmd
}

func inspect(certs []*x509.Certificate, now time.Time) certReport {
	c := certs[0]
	r := certReport{
		Subject: nameText(c.RawSubject), Issuer: nameText(c.RawIssuer), Serial: fmt.Sprintf("%x", c.SerialNumber),
		NotBefore: stamp(c.NotBefore), NotAfter: stamp(c.NotAfter), SANs: sans(c), SignatureAlgorithm: c.SignatureAlgorithm.String(),
		SHA1: thumbprint(c), CA: c.BasicConstraintsValid && c.IsCA, KeyUsage: keyUsages(c.KeyUsage), ExtKeyUsage: extKeyUsages(c),
		Policies: []string{}, MustStaple: x509ext.MustStaple(c), NoRevAvail: x509ext.NoRevAvail(c), SID: sidOf(c), Extensions: []extensionInfo{},
	}
	r.KeyKind, r.KeyBits = keyText(c)
	r.SHA256, r.KeySHA256 = hashes(c)
	r.CRLs, r.OCSP = pointers(c)
	for _, p := range c.Policies {
		r.Policies = append(r.Policies, p.String())
	}
	for _, e := range c.Extensions {
		r.Extensions = append(r.Extensions, extensionInfo{OID: e.Id.String(), Name: extensionNames[e.Id.String()], Critical: e.Critical, Bytes: len(e.Value)})
	}
	r.Warnings = r.warnings(c, now)
	r.Rules = possibleRules(certs, r.SANs)
	return r
}

const maxNames = 256 // default of mtls.Limits.Names

// warnings say what a service would not like.
func (r certReport) warnings(c *x509.Certificate, now time.Time) []string {
	list := []string{}
	add := func(bad bool, format string, args ...any) {
		if bad {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	named := false
	for _, s := range r.SANs {
		named = named || s.Type != "ip" && s.Type != "other" && s.Type != "registered_id" && s.Type != "directory"
		add(s.Type == "dns" && strings.Contains(s.Value, "*"), "wildcard name %s: whoever has the certificate of any such host has it; only a rule that spells the wildcard and states an origin admits it", shown(s.Value))
		add(patternLike(s), "the %s %s has an asterisk, which a rule would take for a pattern: no rule by %[1]s can be written from it", s.Type, shown(s.Value))
	}
	for _, name := range c.DNSNames {
		_, err := dnsname.FromSAN(name)
		add(err != nil, "the name %s is no domain name: refused", shown(name))
	}
	add(len(r.SANs) > maxNames, "%d names, more than %d: refused unless Limits.Names allows it", len(r.SANs), maxNames)
	add(!x509ext.Canonical(c), "not the DER that was issued: refused")
	add(x509ext.ProxyCertificate(c), "a proxy certificate (RFC 3820): refused")
	add(r.NoRevAvail && len(r.CRLs)+len(r.OCSP) > 0, "noRevAvail beside a source of revocation evidence (RFC 9608): refused")
	add(x509ext.EmptyExtKeyUsage(c), "an extended key usage without any purpose: refused")
	add(!r.CA && c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0, "its key usage does not allow digital signatures, which TLS needs: refused")
	add(r.CA, "a CA certificate: it is never admitted as a client's")
	add(len(r.SANs) == 0 && !r.CA, "no subject alternative name: no rule by domain, URI, e-mail or UPN matches, and the common name admits nobody")
	add(len(r.SANs) > 0 && !named, "no subject alternative name of a type that rules match: domain, URI, e-mail or UPN")
	add(now.Before(c.NotBefore), "not yet valid: it begins at %s", stamp(c.NotBefore))
	add(now.After(c.NotAfter), "expired at %s", stamp(c.NotAfter))
	stated := len(r.ExtKeyUsage) > 0
	add(stated && !x509ext.AnyExtKeyUsage(c) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) && !r.CA, "no clientAuth among its extended key usages: refused unless the authority's Purpose is ClientOrServerAuth and it has serverAuth; .NET and browsers do not send it")
	add(!stated && !x509ext.EmptyExtKeyUsage(c) && !r.CA, "no extended key usage: refused under a public authority")
	add(x509ext.AnyExtKeyUsage(c) && !r.CA, "anyExtendedKeyUsage: refused under a public authority")
	long := c.NotAfter.Sub(c.NotBefore) > evidence.ShortLived
	switch {
	case r.CA && bytes.Equal(c.RawIssuer, c.RawSubject): // an anchor, which nobody revokes
	case len(r.CRLs)+len(r.OCSP) == 0:
		add(long, "no source of revocation evidence, and valid for more than 7 days: refused unless the service has a source of its own (LoadCRLs, CRLURLs)")
	default:
		add(!fetchable(r.CRLs) && !fetchable(r.OCSP), "its sources of revocation evidence are not fetched (neither http nor https): refused unless the service has a mirror or a source of its own")
	}
	add(r.MustStaple, "asks for an OCSP response (must-staple): a CRL alone is not enough")
	switch c.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1, x509.MD5WithRSA, x509.MD2WithRSA:
		add(true, "signed with %s, which is broken: refused", c.SignatureAlgorithm)
	}
	add(r.KeyKind == "RSA" && r.KeyBits < 2048, "an RSA key of %d bits: too short", r.KeyBits)
	add(r.KeyKind == "ECDSA P-224", "a key on P-224: shorter than is usual")
	return list
}

func (r certReport) print(p printer) {
	p.field("subject", orNone(r.Subject))
	p.field("issuer", orNone(r.Issuer))
	p.field("serial", r.Serial)
	p.field("valid", r.NotBefore+" to "+r.NotAfter)
	for _, s := range r.SANs {
		p.field("name", s.Type+" "+shown(s.Value))
	}
	p.field("key", fmt.Sprintf("%s, %d bits", r.KeyKind, r.KeyBits))
	p.field("signed with", r.SignatureAlgorithm)
	p.field("certificate", "sha256 "+r.SHA256)
	p.field("public key", "sha256 "+r.KeySHA256)
	p.field("thumbprint", "sha1 "+r.SHA1+" (as Windows shows it)")
	p.field("CA", yesNo(r.CA))
	p.field("key usage", strings.Join(r.KeyUsage, ", "))
	p.field("purposes", strings.Join(r.ExtKeyUsage, ", "))
	p.field("policies", strings.Join(r.Policies, ", "))
	for _, u := range r.CRLs {
		p.field("CRL", shown(u))
	}
	for _, u := range r.OCSP {
		p.field("OCSP", shown(u))
	}
	if r.NoRevAvail {
		p.field("revocation", "its issuer publishes none (noRevAvail)")
	}
	if r.SID != "" {
		p.field("SID", shown(r.SID))
	}
	for _, e := range r.Extensions {
		critical := ""
		if e.Critical {
			critical = ", critical"
		}
		p.field("extension", strings.TrimSpace(e.OID+" "+e.Name)+fmt.Sprintf(", %d bytes%s", e.Bytes, critical))
	}
	p.printf("\n")
	for _, w := range r.Warnings {
		p.painted(yellow, "warning:")
		p.printf(" %s\n", w)
	}
	if len(r.Warnings) > 0 {
		p.printf("\n")
	}
	p.printf("Rules that can be written from it (--write):\n")
	for _, rule := range r.Rules {
		p.printf("  ")
		p.painted(bold, "%-12s", rule.Kind)
		p.printf(" %s\n%15s%s\n", shown(rule.Value), "", rule.Renewal+"; "+rule.Strength)
	}
}

func orNone(s string) string {
	if s == "" {
		return "(empty)"
	}
	return shown(s)
}
