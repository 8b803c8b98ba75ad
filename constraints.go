package mtls

import (
	"crypto/x509"
	"encoding/asn1"
	"net/url"
	"slices"
	"strings"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

var oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

// constrained checks the name constraints on mailboxes and URIs again (RFC 5280
// section 4.2.1.10): crypto/x509 takes one for a host, "example.com", as one for
// all hosts below it as well, which only ".example.com" means, and does not look
// at e-mail addresses in the subject.
func constrained(chain []*x509.Certificate) *refusal {
	for i, ca := range chain[1:] {
		for j, c := range chain[:i+1] {
			if j > 0 && string(c.RawSubject) == string(c.RawIssuer) {
				continue // a self-issued CA certificate (section 6.1.4 (b))
			}
			inSubject := subjectMailboxes(c)
			for _, m := range slices.Concat(c.EmailAddresses, inSubject) {
				if len(ca.PermittedEmailAddresses) > 0 && !slices.ContainsFunc(ca.PermittedEmailAddresses, func(p string) bool { return mailboxIn(m, p) }) {
					return refusef(ReasonUntrustedIssuer, "CA certificate %s does not permit the e-mail address %s", quote(x509ext.NameText(ca.Subject)), quote(m))
				}
			}
			for _, m := range inSubject {
				if slices.ContainsFunc(ca.ExcludedEmailAddresses, func(p string) bool { return mailboxIn(m, p) }) {
					return refusef(ReasonUntrustedIssuer, "CA certificate %s excludes the e-mail address %s", quote(x509ext.NameText(ca.Subject)), quote(m))
				}
			}
			for _, u := range c.URIs {
				if len(ca.PermittedURIDomains) > 0 && !slices.ContainsFunc(ca.PermittedURIDomains, func(p string) bool { return hostIn(uriHost(u), p) }) {
					return refusef(ReasonUntrustedIssuer, "CA certificate %s does not permit the URI %s", quote(x509ext.NameText(ca.Subject)), quote(u.String()))
				}
			}
		}
	}
	return nil
}

// subjectMailboxes are the e-mail addresses in the subject, which count where
// there is none among the alternative names.
func subjectMailboxes(c *x509.Certificate) []string {
	if len(c.EmailAddresses) > 0 {
		return nil
	}
	var list []string
	for _, a := range c.Subject.Names {
		if text, ok := a.Value.(string); ok && a.Type.Equal(oidEmailAddress) {
			list = append(list, text)
		}
	}
	return list
}

// mailboxIn reports whether a mailbox is within a constraint: one mailbox, all at
// one host, or, after a dot, all at the hosts below a domain.
func mailboxIn(mailbox, constraint string) bool {
	i := strings.LastIndexByte(mailbox, '@')
	if j := strings.LastIndexByte(constraint, '@'); j >= 0 {
		return i >= 0 && mailbox[:i] == constraint[:j] && strings.EqualFold(mailbox[i+1:], constraint[j+1:])
	}
	return i >= 0 && hostIn(mailbox[i+1:], constraint)
}

// hostIn reports whether a host is within a constraint: the host itself or, after
// a dot, one below it. An empty constraint is all hosts.
func hostIn(host, constraint string) bool {
	host, constraint = strings.ToLower(host), strings.ToLower(constraint)
	if strings.HasPrefix(constraint, ".") {
		return strings.HasSuffix(host, constraint)
	}
	return constraint == "" || host == constraint
}

func uriHost(u *url.URL) string { return strings.TrimSuffix(u.Hostname(), ".") }
