package mtls_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// A revocation that comes to light under one certificate of the issuer ends the
// verdict that another certificate of the same issuer led to.
func TestRevocationUnderOneIssuerCertificateEndsVerdictsUnderAnother(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	options := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t), Now: env.Clock.Now}
	x, cross := env.CA.Intermediate(options), env.CA.Intermediate(options)
	env.Revocation.Serve(x)
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()})
	cfg.Revocation.LeafOnly = true
	g := mtlstest.NewGuard(t, cfg)
	c := x.Issue(pcNames("a.example"))
	require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, c.Leaf(), cross.Certificate())))
	env.Revocation.Revoke(c, 1)
	p := peerOf(c)
	p.TLS.PeerCertificates = []*x509.Certificate{c.Leaf(), x.Certificate()}
	p.TLS.OCSPResponse = env.Revocation.Staple(c)
	d, err := g.Check(t.Context(), p)
	require.Error(t, err)
	require.Equal(t, mtls.ReasonRevoked, d.Reason)
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, c.Leaf(), cross.Certificate())))
}

// Sources of one partner's CA that never answer hold up its own clients only.
func TestSilentSourcesOfOnePartnerHoldUpNobodyElse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	held := make(chan net.Conn, 64)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held <- c
		}
	}()
	env := mtlstest.NewEnv(t)
	slow := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})
	a, b := env.CA.Authority("a"), slow.Authority("b")
	a.Domains, b.Domains = []string{"a.example"}, []string{"b.example"}
	cfg := env.Config(mtls.Rule{Name: "a", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()},
		mtls.Rule{Name: "b", Domains: []string{"b.example"}, Origin: mtls.NoOrigin()})
	cfg.Roots = pcRoots(t, a, b)
	g := mtlstest.NewGuard(t, cfg)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = g.Check(gone, peerOf(slow.Issue(mtlstest.Leaf{Names: []string{"b.example"}, Template: func(c *x509.Certificate) {
		for i := range 16 {
			c.CRLDistributionPoints = append(c.CRLDistributionPoints, fmt.Sprintf("http://%s/%d", l.Addr(), i))
		}
	}})))
	require.Error(t, err)
	for range 8 { // all that one owner may fetch at once
		c := <-held
		t.Cleanup(func() { c.Close() })
	}
	t.Cleanup(func() { l.Close() })
	require.Equal(t, "a a a.example", pcSay(pcDecide(t, g, env.CA.Issue(pcNames("a.example")).Leaf())))
}

// A list that somebody else's request brought into memory, under another certificate
// of the issuer, ends the verdicts of those it revokes.
func TestListFetchedForAnotherChainEndsVerdicts(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	options := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t), Now: env.Clock.Now}
	x, cross := env.CA.Intermediate(options), env.CA.Intermediate(options)
	env.Revocation.Serve(x)
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example", "b.example"}, Origin: mtls.NoOrigin()})
	cfg.Revocation.LeafOnly = true
	g := mtlstest.NewGuard(t, cfg)
	of := func(name string) *mtlstest.Certificate {
		return x.Issue(mtlstest.Leaf{Names: []string{name}, Sources: mtlstest.OnlyCRL})
	}
	c, other := of("a.example"), of("b.example")
	require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, c.Leaf(), cross.Certificate())))
	env.Revocation.Revoke(c, 1)
	require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, c.Leaf(), cross.Certificate())), "nothing is known of it yet")
	require.Equal(t, "r r b.example", pcSay(pcDecide(t, g, other.Leaf(), x.Certificate())))
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, c.Leaf(), cross.Certificate())))
}
