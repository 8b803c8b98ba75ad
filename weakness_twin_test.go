package mtls_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// wkTwin is the same certificate with the other of the two signatures that an
// ECDSA key's bearer, and everybody else, can write: (r, n-s).
func wkTwin(t testing.TB, c, issuer *x509.Certificate) *x509.Certificate {
	t.Helper()
	var cert struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	_, err := asn1.Unmarshal(c.Raw, &cert)
	require.NoError(t, err)
	var signature struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(cert.Signature.Bytes, &signature)
	require.NoError(t, err)
	signature.S.Sub(issuer.PublicKey.(*ecdsa.PublicKey).Params().N, signature.S)
	der, err := asn1.Marshal(signature)
	require.NoError(t, err)
	cert.Signature = asn1.BitString{Bytes: der, BitLength: 8 * len(der)}
	der, err = asn1.Marshal(cert)
	require.NoError(t, err)
	twin, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.NotEqual(t, c.Raw, twin.Raw)
	return twin
}

// The bearer of a certificate can change the encoding of its signature, and gains
// nothing by it.
func TestOtherEncodingOfASignatureIsTheSameCertificate(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	leaf := env.CA.Issue(pcNames("a.example")).Leaf()
	twin := wkTwin(t, leaf, env.CA.Certificate())
	hash := []mtls.CertificateHash{mtls.HashCertificate(leaf)}
	anybody := mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()}
	for name, row := range map[string]struct {
		rules []mtls.Rule
		want  string
	}{
		"denied one-to-one":                       {[]mtls.Rule{{Name: "no", Deny: true, Certificates: hash}, anybody}, "denied_by_rule no"},
		"allowed one-to-one, and by another rule": {[]mtls.Rule{anybody, {Name: "one", Certificates: hash, Origin: mtls.NoOrigin()}}, "one one"},
		"by another rule":                         {[]mtls.Rule{anybody}, "r r a.example"},
	} {
		t.Run(name, func(t *testing.T) {
			g := env.Guard(row.rules...)
			require.Equal(t, row.want, pcSay(pcDecide(t, g, leaf)))
			require.Equal(t, row.want, pcSay(pcDecide(t, g, twin)))
		})
	}
}

// wkOther writes a certificate with its signature shifted by a bit, or with
// another element behind it.
func wkOther(t testing.TB, c *x509.Certificate, shift bool) *x509.Certificate {
	t.Helper()
	var cert struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	_, err := asn1.Unmarshal(c.Raw, &cert)
	require.NoError(t, err)
	body := slices.Concat(cert.TBS.FullBytes, cert.Algorithm.FullBytes)
	signature, end := cert.Signature, []byte{5, 0}
	if shift {
		shifted := new(big.Int).Lsh(new(big.Int).SetBytes(signature.Bytes), 1).Bytes()
		signature, end = asn1.BitString{Bytes: shifted, BitLength: signature.BitLength - 1}, nil
	}
	bits, err := asn1.Marshal(signature)
	require.NoError(t, err)
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(body, bits, end)})
	require.NoError(t, err)
	other, err := x509.ParseCertificate(der)
	require.NoError(t, err, "crypto/x509 reads it")
	require.NotEqual(t, c.Raw, other.Raw)
	return other
}

// A certificate that is written in another way than it was issued is refused,
// wherever it stands.
func TestOtherEncodingsThanDERAreRefused(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	sub := env.CA.Intermediate(mtlstest.CAOptions{})
	env.Revocation.Serve(sub)
	leaf := sub.Issue(pcNames("a.example")).Leaf()
	g := env.Guard(mtls.Rule{Name: "no", Deny: true, Certificates: []mtls.CertificateHash{mtls.HashCertificate(leaf)}},
		mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()})
	require.Equal(t, "denied_by_rule no", pcSay(pcDecide(t, g, leaf, sub.Certificate())))
	for _, shift := range []bool{false, true} {
		require.Equal(t, "malformed_certificate", pcSay(pcDecide(t, g, wkOther(t, leaf, shift), sub.Certificate())))
		require.Equal(t, "malformed_certificate", pcSay(pcDecide(t, g, leaf, wkOther(t, sub.Certificate(), shift))))
		_, err := mtls.NewRoots(mtls.Authority{Name: "x", Anchors: []mtls.Anchor{{Certificate: wkOther(t, env.CA.Certificate(), shift)}}})
		require.ErrorContains(t, err, "not DER")
	}
}

// A revoked issuer stays revoked, whatever certificate of its key is shown and
// whatever the client stapled before.
func TestRevocationIsRememberedForEveryCertificateOfTheIssuer(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"same", "twin", "cross"} {
		for _, sources := range []mtlstest.Fault{mtlstest.NoFault, mtlstest.Hang} {
			t.Run(fmt.Sprint(kind, sources), func(t *testing.T) {
				t.Parallel()
				env := mtlstest.NewEnv(t)
				options := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t), Now: env.Clock.Now}
				x := env.CA.Intermediate(options)
				env.Revocation.Serve(x)
				shown := map[string]*x509.Certificate{
					"same": x.Certificate(), "twin": wkTwin(t, x.Certificate(), env.CA.Certificate()), "cross": env.CA.Intermediate(options).Certificate(),
				}[kind]
				cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()})
				cfg.Revocation.LeafOnly = true
				g := mtlstest.NewGuard(t, cfg)
				c := x.Issue(pcNames("a.example"))
				staple := env.Revocation.Staple(c)
				env.Revocation.Revoke(c, 1)
				require.Equal(t, "revoked r", pcSay(pcDecide(t, g, c.Leaf(), x.Certificate())))
				env.Revocation.Fail(sources)
				p := peerOf(c)
				p.TLS.OCSPResponse = staple
				p.TLS.PeerCertificates = []*x509.Certificate{c.Leaf(), shown}
				d, err := g.Check(t.Context(), p)
				require.Error(t, err)
				require.Equal(t, mtls.ReasonRevoked, d.Reason)
			})
		}
	}
}

// "Any chain": a deny rule by issuer sees a CA above the client even where no
// chain through it serves any purpose.
func TestDenyRuleSeesEveryCAAboveTheClient(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	options := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t), Now: env.Clock.Now}
	x1 := env.CA.Intermediate(options)
	server := env.CA.Intermediate(mtlstest.CAOptions{CommonName: "S", Now: env.Clock.Now, Template: func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}})
	x2 := server.Intermediate(options)
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, env.CA.Authority("a")),
		mtls.Rule{Name: "no", Deny: true, IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(server.Certificate())}},
		mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	leaf := x1.Issue(pcNames("a.example")).Leaf()
	require.Equal(t, "denied_by_rule no", pcSay(pcDecide(t, g, leaf, x1.Certificate(), x2.Certificate(), server.Certificate())))
	require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, leaf, x1.Certificate())))
}

// What a deny rule cannot look through counts as matched.
func TestDenyRuleAndMoreNamesThanItLooksAt(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	g := env.Guard(mtls.Rule{Name: "no", Deny: true, Domains: []string{"bad.example"}},
		mtls.Rule{Name: "all", Authorities: []string{"env"}, Origin: mtls.NoOrigin()})
	words := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "x%d ", i)
		}
		return b.String()
	}
	for text, want := range map[string]string{
		words(4096): "all all", words(4097): "denied_by_rule no", words(4096) + "bad.example": "denied_by_rule no",
		"_bad.example- x": "denied_by_rule no", "-bad.example": "denied_by_rule no",
	} {
		require.Equal(t, want, pcSay(pcDecide(t, g, env.CA.Issue(mtlstest.Leaf{CommonName: text}).Leaf())), "%.40s", text)
	}
}

// What a client sends beside its chain fills no memory that others share.
func TestCertificatesBesideTheChainAreNotKept(t *testing.T) {
	env := mtlstest.NewEnv(t)
	seen := &observer{}
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example", "b.example"}, Origin: mtls.NoOrigin()})
	cfg.Observe = seen.observe
	cfg.Limits.Verdicts = 1
	g := mtlstest.NewGuard(t, cfg)
	other, c := env.CA.Issue(pcNames("b.example")).Leaf(), env.CA.Issue(pcNames("a.example")).Leaf()
	junk := mtlstest.NewCA(t, mtlstest.CAOptions{}).Issue(mtlstest.Leaf{}).Leaf()
	require.True(t, pcDecide(t, g, other).Admitted)
	require.True(t, pcDecide(t, g, c, junk).Admitted)
	require.Equal(t, 2, seen.count())
	require.True(t, pcDecide(t, g, other).Admitted)
	require.Equal(t, 2, seen.count(), "the other client's verdict is still there")
}

// Roots of a Guard that is gone do not stand in the way of the policy.
func TestRootsOfAGoneGuardBindNobody(t *testing.T) {
	one, two := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	policy, err := mtls.NewPolicy(mtls.Rule{Name: "r", Domains: []string{"a.example"}})
	require.NoError(t, err)
	guard := func(a mtls.Authority) *mtls.Guard {
		return mtlstest.NewGuard(t, mtls.Config{Roots: pcRoots(t, a), Policy: policy})
	}
	guard(one.Authority("one"))
	g := guard(two.Authority("two"))
	runtime.GC()
	runtime.GC()
	require.NoError(t, policy.Replace(mtls.Rule{Name: "r", Domains: []string{"b.example"}, Authorities: []string{"two"}}))
	require.Error(t, policy.Replace(mtls.Rule{Name: "r", Domains: []string{"b.example"}, Authorities: []string{"one"}}))
	runtime.KeepAlive(g)
}
