package iis_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/cmd/mtlsctl/internal/iis"
	"github.com/mtlsguard/mtls/mtlstest"
)

// modelMapping is a mapping as the model of IIS has it.
type modelMapping struct {
	cert     int // one-to-one: the certificate; -1: many-to-one
	account  string
	off      bool
	mode     string // permissionMode
	criteria []modelCriterion
}

type modelCriterion struct {
	subfield, value string
	anyCase         bool
}

// unclear reports whether nobody can say what the mapping does.
func (m modelMapping) unclear() bool {
	if len(m.criteria) == 0 || m.mode == "Refuse" {
		return true
	}
	for _, c := range m.criteria {
		if c.subfield == "X" || c.value == "" {
			return true
		}
	}
	return false
}

func (m modelMapping) matches(subject map[string][]string) bool {
	for _, c := range m.criteria {
		var parts []string
		for _, p := range strings.Split(c.value, "*") {
			parts = append(parts, regexp.QuoteMeta(p))
		}
		pattern := "^" + strings.Join(parts, ".*") + "$"
		if c.anyCase {
			pattern = "(?i)" + pattern
		}
		one := false
		for _, v := range subject[c.subfield] {
			one = one || regexp.MustCompile(pattern).MatchString(v)
		}
		if !one {
			return false
		}
	}
	return true
}

// account is what IIS decides: empty is nobody. What is unclear is a
// refusal.
func account(list []modelMapping, cert int, subject map[string][]string) string {
	for _, m := range list {
		if m.cert == cert && !m.off {
			return m.account
		}
	}
	for _, m := range list {
		deny := m.mode == "Deny" || m.mode == "2"
		switch {
		case m.cert >= 0 || m.off:
		case m.unclear():
			return ""
		case m.matches(subject):
			if deny {
				return ""
			}
			return m.account
		}
	}
	return ""
}

func (m modelMapping) text(certs []*mtlstest.Certificate, n int) string {
	attributes := fmt.Sprintf(`userName="%s"`, m.account)
	if m.off {
		attributes += ` enabled="false"`
	}
	if m.cert >= 0 {
		return "<add " + attributes + ` certificate="` + base64.StdEncoding.EncodeToString(certs[m.cert].Leaf().Raw) + "\"/>\n"
	}
	if m.mode != "" {
		attributes += ` permissionMode="` + m.mode + `"`
	}
	s := fmt.Sprintf("<add name=\"m%d\" %s><rules>", n, attributes)
	for _, c := range m.criteria {
		s += fmt.Sprintf(`<add certificateField="Subject" certificateSubField="%s" matchCriteria="%s" compareCaseSensitive="%t"/>`, c.subfield, c.value, !c.anyCase)
	}
	return s + "</rules></add>\n"
}

// Random mappings and certificates: nobody is admitted whom IIS would not admit, and
// nobody as another account. Where nothing was lost, who IIS admits is admitted,
// unless a rule that denies takes letters of another case for the same.
func TestPolicyAdmitsNobodyBeyondIIS(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	values := []string{"Acme", "acme", "Acme East", "Globex", "East"}
	var certs []*mtlstest.Certificate
	var subjects []map[string][]string
	for range 24 {
		subject, pairs := map[string][]string{}, []any{}
		for range 1 + random.IntN(3) {
			sub, value := pick("O", "OU", "CN"), pick(values...)
			subject[sub] = append(subject[sub], value)
			pairs = append(pairs, map[string]asn1.ObjectIdentifier{"O": o, "OU": ou, "CN": cn}[sub], value)
		}
		certs = append(certs, ca.Issue(mtlstest.Leaf{Template: named(name(pairs...))}))
		subjects = append(subjects, subject)
	}
	authority := ca.Authority("roots")
	authority.Revocation = mtls.NoRevocation()
	roots, err := mtls.NewRoots(authority)
	require.NoError(t, err)
	from := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}

	configs := 800
	if testing.Short() {
		configs = 200
	}
	admitted, refused, exact := 0, 0, 0
	for range configs {
		var list []modelMapping
		one, many := "", ""
		for cert := range certs {
			if random.IntN(12) == 0 {
				m := modelMapping{cert: cert, account: fmt.Sprintf("one%d", cert), off: random.IntN(4) == 0}
				list, one = append(list, m), one+m.text(certs, 0)
			}
		}
		for i := range 1 + random.IntN(5) {
			m := modelMapping{cert: -1, account: fmt.Sprintf("many%d", i), off: random.IntN(6) == 0, mode: pick("", "", "Allow", "1", "Deny", "2")}
			if random.IntN(12) == 0 {
				m.mode = "Refuse"
			}
			for range random.IntN(4) {
				c := modelCriterion{pick("O", "OU", "CN"), pick("Acme", "acme", "A*", "*East", "A*t", "*c*e*", "Globex", "*", "Glob*x*"), random.IntN(2) == 0}
				if random.IntN(12) == 0 {
					c.subfield = "X"
				}
				if random.IntN(20) == 0 {
					c.value = ""
				}
				m.criteria = append(m.criteria, c)
			}
			list, many = append(list, m), many+m.text(certs, i)
		}
		config := within(`enabled="true"`, "<oneToOneMappings>"+one+"</oneToOneMappings><manyToOneMappings>\n"+many+"</manyToOneMappings>")
		r := importText(t, config, iis.Options{})
		if len(r.Rules) == 0 {
			continue
		}
		policy, err := mtls.NewPolicy(r.Rules...)
		require.NoError(t, err)
		guard := mtlstest.NewGuard(t, mtls.Config{Roots: roots, Policy: policy})
		for cert := range certs {
			want := account(list, cert, subjects[cert])
			d, err := guard.Check(t.Context(), mtls.Peer{RemoteAddr: from, TLS: tls.ConnectionState{
				HandshakeComplete: true, PeerCertificates: []*x509.Certificate{certs[cert].Leaf()},
			}})
			if err != nil {
				refused++
				if want != "" && !r.Lost() {
					require.Equal(t, mtls.ReasonDeniedByRule, d.Reason, "%s\n%v\n%s", config, subjects[cert], texts(r))
				}
				continue
			}
			admitted++
			if !r.Lost() {
				exact++
			}
			require.Equal(t, want, d.Identity.Name(), "%s\n%v\n%s", config, subjects[cert], texts(r))
		}
	}
	require.Greater(t, admitted, configs)
	require.Greater(t, refused, configs)
	require.Greater(t, exact, configs/10)
	t.Log(admitted, refused, exact)
}
