package iis_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/cmd/mtlsctl/internal/iis"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// attribute types of test certificates.
var (
	cn = asn1.ObjectIdentifier{2, 5, 4, 3}
	o  = asn1.ObjectIdentifier{2, 5, 4, 10}
	ou = asn1.ObjectIdentifier{2, 5, 4, 11}
	l  = asn1.ObjectIdentifier{2, 5, 4, 7}
	st = asn1.ObjectIdentifier{2, 5, 4, 8}
	em = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
)

// name is a distinguished name of pairs of a type and a value.
func name(pairs ...any) pkix.Name {
	var n pkix.Name
	for i := 0; i < len(pairs); i += 2 {
		n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{Type: pairs[i].(asn1.ObjectIdentifier), Value: pairs[i+1]})
	}
	return n
}

func named(n pkix.Name) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject = n }
}

// The policy decides as IIS decides by the mappings: one-to-one first, then the
// first many-to-one mapping that matches. Where it cannot, a note says so.
func TestPolicyDecidesAsIIS(t *testing.T) {
	env := mtlstest.NewEnv(t)
	newCA := func(common string) *mtlstest.CA {
		ca := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now, Template: named(name(o, "Contoso", cn, common))})
		env.Revocation.Serve(ca)
		return ca
	}
	ca, other := newCA("Contoso CA 1"), newCA("Fabrikam CA")
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now, Template: named(name(o, "Contoso", cn, "Contoso CA 1"))})
	issue := func(from *mtlstest.CA, pairs ...any) *mtlstest.Certificate {
		return from.Issue(mtlstest.Leaf{Template: named(name(pairs...))})
	}

	human := []any{o, "Contoso", ou, "Human Resources", cn, "nancy"}
	one := issue(ca, o, "Initech", cn, "erp")
	renewed := issue(ca, o, "Initech", cn, "erp")
	both := issue(ca, human...)
	oneOff := issue(ca, o, "Fabrikam", cn, "off")
	oneOffAlone := issue(ca, o, "Initech", cn, "off")
	oneDenied := issue(ca, o, "Umbrella Corp", cn, "kept")
	oneTo := func(c *mtlstest.Certificate, attributes string) string {
		return `<add ` + attributes + ` certificate="` + base64.StdEncoding.EncodeToString(c.Leaf().Raw) + "\"/>\n"
	}
	config := within(`enabled="true"`, "<oneToOneMappings>\n"+
		oneTo(one, `userName="ONE"`)+
		oneTo(both, `userName="BOTH"`)+
		oneTo(oneOff, `userName="OFF" enabled="false"`)+
		oneTo(oneOffAlone, `userName="OFF" enabled="false"`)+
		oneTo(oneDenied, `userName="KEPT"`)+
		"</oneToOneMappings>\n<manyToOneMappings>\n"+
		mapping(`name="no umbrella" permissionMode="Deny"`, "Subject.O=Umbrella*")+"\n"+
		`<add name="staff" userName="STAFF"><rules>`+
		`<add certificateField="Subject" certificateSubField="O" matchCriteria="Contoso"/>`+
		`<add certificateField="Subject" certificateSubField="OU" matchCriteria="Human*" compareCaseSensitive="false"/>`+
		`<add certificateField="Issuer" certificateSubField="CN" matchCriteria="Contoso CA*"/></rules></add>`+"\n"+
		`<add name="sky" userName="SKY"><rules><add certificateField="Subject" certificateSubField="OU" matchCriteria="sky" compareCaseSensitive="false"/></rules></add>`+"\n"+
		mapping(`name="begin" userName="BEGIN"`, "Subject.CN=*-begin")+"\n"+
		mapping(`name="middle" userName="MIDDLE"`, "Subject.CN=mid*dle")+"\n"+
		mapping(`name="end" userName="END"`, "Subject.CN=end-*")+"\n"+
		mapping(`name="two" userName="TWO"`, "Subject.CN=*x*y*")+"\n"+
		mapping(`name="state" userName="STATE"`, "Subject.S=WA", "Subject.Email=*@contoso.example")+"\n"+
		mapping(`name="off" enabled="false" userName="OFF"`, "Subject.CN=off")+"\n"+
		mapping(`name="no leavers" permissionMode="Deny"`, "Subject.L=Gone*")+"\n"+
		mapping(`name="last" userName="LAST"`, "Subject.O=Fabrikam")+"\n"+
		"</manyToOneMappings>")

	r := importText(t, config, iis.Options{Authority: "partners"})
	text, err := r.Policy("sample.config")
	require.NoError(t, err)
	rules, err := policyfile.Parse(text, "policy.yaml")
	require.NoError(t, err)

	cfg := env.Config(rules...)
	partners := ca.Authority("partners")
	partners.Anchors = append(partners.Anchors, mtls.Anchor{Certificate: other.Certificate()})
	cfg.Roots, err = mtls.NewRoots(partners)
	require.NoError(t, err)
	reasons := make(chan mtls.Reason, 100)
	cfg.Observe = func(_ context.Context, d *mtls.Decision) { reasons <- d.Reason }
	guard := mtlstest.NewGuard(t, cfg)
	server := mtlstest.NewOptionalServer(t, guard, guard.Require()(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := mtls.FromContext(r.Context())
		fmt.Fprint(w, id.Name())
	})))

	const refused = ""
	for _, test := range []struct {
		name string
		cert *mtlstest.Certificate
		iis  string      // the account in IIS; empty: none
		here mtls.Reason // where a note says that it is refused here all the same
	}{
		{"one-to-one", one, "ONE", ""},
		{"one-to-one, renewed", renewed, refused, ""},
		{"one-to-one comes before many-to-one", both, "BOTH", ""},
		{"one-to-one that is off, and many-to-one", oneOff, "LAST", ""},
		{"one-to-one that is off", oneOffAlone, refused, ""},
		{"one-to-one comes before deny", oneDenied, "KEPT", mtls.ReasonDeniedByRule},

		{"many-to-one", issue(ca, human...), "STAFF", ""},
		{"the case of a criterion that minds it", issue(ca, o, "contoso", ou, "Human Resources"), refused, ""},
		{"the case of a criterion that does not", issue(ca, o, "Contoso", ou, "HUMAN RESOURCES"), "STAFF", ""},
		{"the Kelvin sign is no k", issue(ca, o, "Contoso", ou, "s\u212ay"), refused, ""},
		{"k is one in any case", issue(ca, o, "Contoso", ou, "SKY"), "SKY", ""},
		{"a value that only contains the criterion", issue(ca, o, "Contoso Ltd", ou, "Human Resources"), refused, ""},
		{"another O", issue(ca, o, "Globex", ou, "Human Resources"), refused, ""},
		{"no OU", issue(ca, o, "Contoso"), refused, ""},
		{"two OUs, one of which matches", issue(ca, o, "Contoso", ou, "Sales", ou, "Human Resources"), "STAFF", ""},
		{"two OUs, none of which matches", issue(ca, o, "Contoso", ou, "Sales", ou, "Legal"), refused, ""},
		{"attributes in the text of another", issue(ca, cn, "x, O=Contoso, OU=Human Resources"), refused, ""},
		{"another issuer", issue(other, human...), refused, ""},
		{"an issuer of the same name that is not trusted", issue(stranger, human...), refused, ""},

		{"* at the beginning", issue(ca, cn, "any-begin"), "BEGIN", ""},
		{"* at the beginning is empty", issue(ca, cn, "-begin"), "BEGIN", ""},
		{"* at the beginning, and more at the end", issue(ca, cn, "any-beginning"), refused, ""},
		{"* in the middle", issue(ca, cn, "mid any dle"), "MIDDLE", ""},
		{"* in the middle is empty", issue(ca, cn, "middle"), "MIDDLE", ""},
		{"* in the middle does not overlap", issue(ca, cn, "midle"), refused, ""},
		{"* at the end", issue(ca, cn, "end-any"), "END", ""},
		{"* at the end, and more at the beginning", issue(ca, cn, "an end-any"), refused, ""},
		{"several *", issue(ca, cn, "1x2y3"), "TWO", ""},
		{"several * in other order", issue(ca, cn, "1y2x3"), refused, ""},
		{"state and e-mail", issue(ca, st, "WA", em, "nancy@contoso.example"), "STATE", ""},
		{"state without e-mail", issue(ca, st, "WA"), refused, ""},

		{"off", issue(ca, cn, "off"), refused, ""},
		{"denied before it is allowed", issue(ca, o, "Umbrella Corp", cn, "end-any"), refused, ""},
		{"allowed before it is denied", issue(ca, cn, "end-any", l, "Gone away"), "END", mtls.ReasonDeniedByRule},
		{"denied before the last", issue(ca, o, "Fabrikam", l, "Gone away"), refused, ""},
		{"the last", issue(ca, o, "Fabrikam"), "LAST", ""},
		{"nothing", issue(ca, o, "Nobody"), refused, ""},
		{"no certificate", nil, refused, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, err := server.Client(test.cert, mtlstest.ClientOptions{}).Get(server.URL)
			require.NoError(t, err)
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			require.NoError(t, err)
			reason := <-reasons
			if test.iis != refused && test.here == "" {
				require.Equal(t, http.StatusOK, res.StatusCode, string(body))
				require.Equal(t, test.iis, string(body))
				return
			}
			require.Equal(t, http.StatusForbidden, res.StatusCode, string(body))
			if test.here != "" {
				require.Equal(t, test.here, reason)
			} else {
				require.NotEmpty(t, reason)
			}
		})
	}
	require.Contains(t, texts(r), `its certificate matches the mapping "no umbrella"`)
	require.Contains(t, texts(r), `"no leavers": it denies after "staff", "sky", "begin" and others`)
}
