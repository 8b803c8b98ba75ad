package mtls_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// sanName is a GeneralName as a test writes it.
type sanName struct {
	tag  int
	text string
	upn  bool
}

func sanDNS(s string) sanName   { return sanName{tag: 2, text: s} }
func sanEmail(s string) sanName { return sanName{tag: 1, text: s} }
func sanURI(s string) sanName   { return sanName{tag: 6, text: s} }
func sanUPN(s string) sanName   { return sanName{text: s, upn: true} }

// sans puts the names into a certificate, byte for byte.
func sans(t testing.TB, names ...sanName) func(*x509.Certificate) {
	t.Helper()
	var list []asn1.RawValue
	for _, n := range names {
		if n.upn {
			list = append(list, pcUPN(t, n.text))
			continue
		}
		list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n.tag, Bytes: []byte(n.text)})
	}
	san := pcSAN(t, list...)
	return func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, san) }
}

// subjectOf gives a certificate a subject of attributes "CN", "x", "O", "y" and so
// on, in that order.
func subjectOf(pairs ...string) func(*x509.Certificate) {
	oids := map[string]asn1.ObjectIdentifier{
		"CN": {2, 5, 4, 3}, "SN": {2, 5, 4, 4}, "serialNumber": {2, 5, 4, 5}, "C": {2, 5, 4, 6}, "L": {2, 5, 4, 7}, "ST": {2, 5, 4, 8}, "O": {2, 5, 4, 10},
		"OU": {2, 5, 4, 11}, "T": {2, 5, 4, 12}, "GN": {2, 5, 4, 42}, "I": {2, 5, 4, 43}, "orgID": {2, 5, 4, 97},
		"DC": {0, 9, 2342, 19200300, 100, 1, 25}, "E": {1, 2, 840, 113549, 1, 9, 1},
	}
	return func(c *x509.Certificate) {
		c.Subject = pkix.Name{}
		for i := 0; i+1 < len(pairs); i += 2 {
			oid := oids[pairs[i]]
			if oid == nil {
				panic(pairs[i])
			}
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: oid, Value: pairs[i+1]})
		}
	}
}

// all applies several templates.
func all(list ...func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, f := range list {
			f(c)
		}
	}
}

// ruleService answers with what it knows of an admitted client, over real
// connections.
type ruleService struct {
	t      testing.TB
	server *mtlstest.Server
	mu     sync.Mutex
	last   *mtls.Decision
}

// newRuleService asks for neither origin nor revocation: what is left are chains
// and rules.
func newRuleService(t testing.TB, roots *mtls.Roots, rules ...mtls.Rule) *ruleService {
	t.Helper()
	s := &ruleService{t: t}
	cfg := pcConfig(t, roots, rules...)
	cfg.Observe = func(_ context.Context, d *mtls.Decision) {
		if !d.Handshake {
			s.mu.Lock()
			s.last = d
			s.mu.Unlock()
		}
	}
	g := mtlstest.NewGuard(t, cfg)
	s.server = mtlstest.NewOptionalServer(t, g, g.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := mtls.FromContext(r.Context())
		if !ok {
			panic("no identity")
		}
		fmt.Fprint(w, strings.Join([]string{id.Rule(), id.Name(), id.Domain(), id.URI(), id.Email(), id.UPN()}, "|"))
	})))
	return s
}

// ask says in a word what was decided: "rule by name", or the reason and the rule
// that refused.
func (s *ruleService) ask(c *mtlstest.Certificate) string {
	s.t.Helper()
	s.mu.Lock()
	s.last = nil
	s.mu.Unlock()
	r, err := get(s.server.Client(c, mtlstest.ClientOptions{}), s.server.URL)
	require.NoError(s.t, err)
	if r.Status == http.StatusOK {
		parts := strings.Split(r.Body, "|")
		return strings.Join(strings.Fields(parts[0]+" "+strings.Join(parts[2:], " ")), " ")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	require.NotNil(s.t, s.last)
	return strings.TrimSpace(string(s.last.Reason) + " " + s.last.Rule)
}

// detail is what the operator reads of the last refusal.
func (s *ruleService) detail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Detail()
}

// ruleRow is a rule, a certificate, and what a policy of that one rule says over a
// real connection.
type ruleRow struct {
	name string
	rule mtls.Rule
	leaf mtlstest.Leaf
	want string
}

// ruleRows fills in what every rule of the rows needs: a name, the authority "one"
// and no origin.
func ruleRows(t *testing.T, ca *mtlstest.CA, rows []ruleRow) {
	t.Helper()
	roots := pcRoots(t, ca.Authority("one"))
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.rule.Name = "r"
			if c.rule.Authorities == nil && c.rule.IssuerKeys == nil {
				c.rule.Authorities = []string{"one"}
			}
			if !c.rule.Deny && c.rule.Origin == nil {
				c.rule.Origin = mtls.NoOrigin()
			}
			cert, rest := ca.Issue(c.leaf), mtls.Rule{Name: "all", Domains: []string{"none.example"}}
			if c.rule.Deny {
				rest = mtls.Rule{Name: "all", InsecureAnyClient: true, Origin: mtls.NoOrigin()}
			}
			require.Equal(t, c.want, newRuleService(t, roots, c.rule, rest).ask(cert))
			// The same where the rule is found by something else that it names.
			c.rule.PublicKeys = []mtls.KeyHash{mtls.HashPublicKey(cert.Leaf())}
			require.Equal(t, c.want, newRuleService(t, roots, c.rule, rest).ask(cert))
		})
	}
}
