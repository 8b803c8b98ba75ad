package mtls_test

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// wkBundle is a CA file with a root and its intermediate, in either order, and
// the intermediate.
func wkBundle(t *testing.T, env *mtlstest.Env, rootFirst bool) (*mtls.Roots, *mtlstest.CA) {
	t.Helper()
	sub := env.CA.Intermediate(mtlstest.CAOptions{})
	env.Revocation.Serve(sub)
	files := []string{sub.PEMFile(), env.CA.PEMFile()}
	if rootFirst {
		slices.Reverse(files)
	}
	first, err := os.ReadFile(files[0])
	require.NoError(t, err)
	second, err := os.ReadFile(files[1])
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], slices.Concat(first, second), 0o600))
	roots, err := mtls.LoadRoots(files[0])
	require.NoError(t, err)
	return roots, sub
}

// An intermediate that stands in the CA file beside its root is refused for what
// the root says of it, whether the client sends it or not.
func TestBundledIntermediateIsJudgedByItsRoot(t *testing.T) {
	t.Parallel()
	rule := mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()}
	for _, c := range []struct {
		name  string
		setup func(*mtlstest.Env, *mtlstest.CA) []mtls.Rule
		want  string
	}{
		{"sound", func(*mtlstest.Env, *mtlstest.CA) []mtls.Rule { return nil }, "r r a.example"},
		{"keyCompromise", func(e *mtlstest.Env, sub *mtlstest.CA) []mtls.Rule { e.Revocation.RevokeCA(sub, 1); return nil }, "revoked r"},
		{"cACompromise", func(e *mtlstest.Env, sub *mtlstest.CA) []mtls.Rule { e.Revocation.RevokeCA(sub, 2); return nil }, "revoked r"},
		{"the root's key is denied", func(e *mtlstest.Env, _ *mtlstest.CA) []mtls.Rule {
			return []mtls.Rule{{Name: "no", Deny: true, IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(e.CA.Certificate())}}}
		}, "denied_by_rule no"},
		{"the intermediate's key is denied", func(_ *mtlstest.Env, sub *mtlstest.CA) []mtls.Rule {
			return []mtls.Rule{{Name: "no", Deny: true, IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(sub.Certificate())}}}
		}, "denied_by_rule no"},
	} {
		for _, rootFirst := range []bool{false, true} {
			for sent := 1; sent <= 3; sent++ {
				t.Run(fmt.Sprintf("%s, root first %t, %d sent", c.name, rootFirst, sent), func(t *testing.T) {
					t.Parallel()
					env := mtlstest.NewEnv(t)
					roots, sub := wkBundle(t, env, rootFirst)
					cfg := env.Config(append(c.setup(env, sub), rule)...)
					cfg.Roots = roots
					chain := []*x509.Certificate{sub.Issue(pcNames("a.example")).Leaf(), sub.Certificate(), env.CA.Certificate()}
					require.Equal(t, c.want, pcSay(pcDecide(t, mtlstest.NewGuard(t, cfg), chain[:sent]...)))
				})
			}
		}
	}
}

// The root's word counts for a certificate without names as well, which no Domains
// cover.
func TestBundledIntermediateOfNamelessClient(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	sub := env.CA.Intermediate(mtlstest.CAOptions{})
	env.Revocation.Serve(sub)
	a, err := mtls.LoadAuthority(sub.PEMFile(), env.CA.PEMFile())
	require.NoError(t, err)
	a.Domains = []string{"a.example"}
	leaf := sub.Issue(mtlstest.Leaf{}).Leaf()
	cfg := env.Config(mtls.Rule{Name: "r", PublicKeys: []mtls.KeyHash{mtls.HashPublicKey(leaf)}, Origin: mtls.NoOrigin()})
	cfg.Roots = pcRoots(t, a)
	require.Equal(t, "r r", pcSay(pcDecide(t, mtlstest.NewGuard(t, cfg), leaf)))
	env.Revocation.RevokeCA(sub, 1)
	require.Equal(t, "revoked r", pcSay(pcDecide(t, mtlstest.NewGuard(t, cfg), leaf)))
}

// A handshake that decides alone, because no request phase follows, chooses no
// laxer setting than a request.
func TestHandshakeAloneTakesTheStricterSetting(t *testing.T) {
	t.Parallel()
	x := pcNewCross(t)
	for _, chain := range x.both() {
		cs := tls.ConnectionState{PeerCertificates: chain}
		require.Error(t, x.guard(t, x.a, x.b).VerifyConnection(cs), "a asks for evidence, of which there is none")
		require.NoError(t, x.guard(t, x.b).VerifyConnection(cs))
	}
}

// CA certificates that lead to no anchor cost no signature checks but the one
// that finds that out, however many authorities there are (CVE-2023-29409). Work
// is counted in allocations, of which a signature check has a dozen.
func TestWorthlessCACertificatesCostNothing(t *testing.T) {
	for _, differ := range []bool{false, true} {
		for _, authorities := range []int{1, 20} {
			t.Run(fmt.Sprintf("%d authorities, differing settings %t", authorities, differ), func(t *testing.T) {
				ca, top := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
				var list []mtls.Authority
				for i := range authorities {
					a := mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority(fmt.Sprint(i))
					if i == 0 {
						a = ca.Authority("first")
					}
					a.Domains = []string{fmt.Sprintf("p%d.example", i)}
					if differ && i == authorities-1 {
						a.Revocation = &mtls.Revocation{MaxAge: 24 * time.Hour}
					}
					list = append(list, a)
				}
				g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, list...), mtls.Rule{Name: "r", Domains: []string{"p0.example"}}))
				_ = g.Handler(hello) // the handshake need not decide alone
				good := ca.Issue(pcNames("p0.example")).Leaf()
				stranger := top.Issue(pcNames("p0.example")).Leaf()
				ten := func(first *x509.Certificate, next func(i int) *x509.Certificate) []*x509.Certificate {
					chain := []*x509.Certificate{first}
					for i := range 9 {
						chain = append(chain, next(i))
					}
					return chain
				}
				work := func(chain []*x509.Certificate) float64 {
					return testing.AllocsPerRun(3, func() { _ = g.VerifyConnection(tls.ConnectionState{PeerCertificates: chain}) })
				}
				// One name and one key: each may have issued each.
				one := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t)}
				mesh := func(int) *x509.Certificate { return mtlstest.NewCA(t, one).Intermediate(one).Certificate() }
				// One name and three keys, each certified by each.
				var three []mtlstest.CAOptions
				for range 3 {
					three = append(three, mtlstest.CAOptions{CommonName: "Y", Key: pcKey(t)})
				}
				mesh3 := func(i int) *x509.Certificate {
					return mtlstest.NewCA(t, three[i/3]).Intermediate(three[i%3]).Certificate()
				}
				byMesh := func(o mtlstest.CAOptions) *x509.Certificate {
					return mtlstest.NewCA(t, o).Intermediate(o).Issue(pcNames("p0.example")).Leaf()
				}
				same := func(c *x509.Certificate) func(int) *x509.Certificate { return func(int) *x509.Certificate { return c } }
				plain, untrusted := work(ten(good, same(good))), work(ten(stranger, same(stranger)))
				require.Less(t, work(ten(good, mesh)), 2*plain)
				require.Less(t, work(ten(good, mesh3)), 2*plain)
				require.Less(t, work(ten(byMesh(one), mesh)), 2*untrusted)
				require.Less(t, work(ten(byMesh(three[0]), mesh3)), 2*untrusted)
				// The name of an anchor costs the check that finds out.
				impostor := mtlstest.CAOptions{CommonName: ca.Certificate().Subject.CommonName, Key: pcKey(t)}
				below := mtlstest.CAOptions{CommonName: impostor.CommonName, Key: pcKey(t)}
				require.Less(t, work(ten(good, func(int) *x509.Certificate { return mtlstest.NewCA(t, impostor).Intermediate(below).Certificate() })), 3*plain)
			})
		}
	}
}

// A deny rule with a domain finds it in every text by which a certificate may
// name its subject.
func TestDenyRuleFindsTheDomainInAnyText(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	g := env.Guard(
		mtls.Rule{Name: "no", Deny: true, Domains: []string{"bad.example"}},
		mtls.Rule{Name: "all", Authorities: []string{"env"}, Origin: mtls.NoOrigin()})
	const pass, denied = "all all", "denied_by_rule no"
	uri := func(s string) mtlstest.Leaf {
		u, err := url.Parse(s)
		require.NoError(t, err)
		return mtlstest.Leaf{Template: func(c *x509.Certificate) { c.URIs = []*url.URL{u} }}
	}
	cn := func(s string) mtlstest.Leaf { return mtlstest.Leaf{CommonName: s} }
	san := func(names ...asn1.RawValue) mtlstest.Leaf {
		return mtlstest.Leaf{Template: func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, pcSAN(t, names...)) }}
	}
	subject := func(id asn1.ObjectIdentifier, values ...any) mtlstest.Leaf {
		return mtlstest.Leaf{Template: func(c *x509.Certificate) {
			for _, v := range values {
				c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: id, Value: v})
			}
		}}
	}
	directory, err := asn1.Marshal(pkix.Name{CommonName: "bad.example"}.ToRDNSequence())
	require.NoError(t, err)
	commonName, email := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
	dc := asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}
	for _, c := range []struct {
		name string
		leaf mtlstest.Leaf
		want string
	}{
		{"dNSName", pcNames("bad.example"), denied},
		{"common name", cn("bad.example"), denied},
		{"common name and a blank", cn("bad.example "), denied},
		{"common name in capitals", cn("BAD.Example"), denied},
		{"common name with the final dot", cn("bad.example."), denied},
		{"common name with a port", cn("bad.example:443"), denied},
		{"common name that is a URL", cn("https://bad.example/"), denied},
		{"common name that is an address", cn("joe@bad.example"), denied},
		{"common name of several words", cn("Joe <joe@bad.example>, Bad Inc."), denied},
		{"common name as BMPString", subject(commonName, asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte("\x00b\x00a\x00d\x00.\x00e\x00x\x00a\x00m\x00p\x00l\x00e")}), denied},
		{"emailAddress in the subject", subject(email, "joe@bad.example"), denied},
		{"domainComponents, top first", subject(dc, "example", "bad"), denied},
		{"domainComponents, top last", subject(dc, "bad", "example"), denied},
		{"user principal name", san(pcUPN(t, "joe@bad.example")), denied},
		{"second user principal name", san(pcUPN(t, "joe@good.example"), pcUPN(t, "joe@bad.example")), denied},
		{"directoryName", san(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory}), denied},
		{"rfc822Name", mtlstest.Leaf{Template: func(c *x509.Certificate) { c.EmailAddresses = []string{"joe@bad.example"} }}, denied},
		{"host of a URI", uri("https://bad.example/x"), denied},
		{"host of a URI with user and port", uri("https://joe@bad.example:8443/x"), denied},
		{"opaque URI", uri("sip:bad.example"), denied},
		{"opaque URI with a user", uri("sip:joe@bad.example"), denied},

		{"nothing", mtlstest.Leaf{}, pass},
		{"another dNSName", pcNames("good.example"), pass},
		{"a name below it", pcNames("www.bad.example"), pass},
		{"its end", cn("notbad.example"), pass},
		{"its beginning", cn("bad.example.org"), pass},
		{"another user principal name", san(pcUPN(t, "bad@good.example")), pass},
		{"other domainComponents", subject(dc, "example", "good"), pass},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, pcSay(pcDecide(t, g, env.CA.Issue(c.leaf).Leaf())))
		})
	}
}

// A deny rule with an issuer or an authority looks at chains for another purpose
// as well: the sender's chain under another authority does not hide them.
func TestDenyRuleSeesChainsForAnotherPurpose(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		deny func(*pcCross) mtls.Rule
		want string
	}{
		{"key", func(x *pcCross) mtls.Rule {
			return mtls.Rule{IssuerKeys: []mtls.KeyHash{mtls.HashPublicKey(x.rootA.Certificate())}}
		}, "denied_by_rule no"},
		{"authority", func(*pcCross) mtls.Rule { return mtls.Rule{Authorities: []string{"a"}} }, "denied_by_rule no"},
		{"another authority", func(*pcCross) mtls.Rule { return mtls.Rule{Authorities: []string{"c"}} }, "r r acme.example"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			x := pcNewCross(t)
			x.b.Revocation, x.b.Purpose = nil, mtls.ClientOrServerAuth
			c := mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("c")
			c.Domains = []string{"acme.example"}
			deny := row.deny(x)
			deny.Name, deny.Deny = "no", true
			cfg := x.env.Config(deny, x.rule)
			cfg.Roots = pcRoots(t, x.a, x.b, c)
			x.client = x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			for _, chain := range x.both() {
				require.Equal(t, row.want, pcSay(pcDecide(t, mtlstest.NewGuard(t, cfg), chain...)))
			}
		})
	}
}

// Whether a revoked certificate of a public authority is listed does not show in
// the handshake, in which nobody has proved that it is theirs.
func TestHandshakeDoesNotTellRevokedPartners(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	public := env.CA.Authority("public")
	public.Public, public.Purpose = true, mtls.ClientOrServerAuth
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()})
	cfg.Roots = pcRoots(t, public)
	g := mtlstest.NewGuard(t, cfg)
	for name, want := range map[string]string{"acme.example": "revoked acme", "other.example": "not_allowed"} {
		for _, sources := range []mtlstest.Sources{mtlstest.OnlyOCSP, mtlstest.OnlyCRL} {
			cert := env.CA.Issue(mtlstest.Leaf{Names: []string{name}, Sources: sources})
			env.Revocation.Revoke(cert, 4)
			for range 2 {
				require.Equal(t, want, pcSay(pcDecide(t, g, cert.Leaf())))
				cs := tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf()}}
				require.NoError(t, g.VerifyConnection(cs))
				cs.OCSPResponse = env.Revocation.Staple(cert)
				require.NoError(t, g.VerifyConnection(cs))
			}
		}
	}
}

// wkPublicKey is a CA key of which only the public half is known.
type wkPublicKey struct{ crypto.Signer }

func (wkPublicKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	panic("there is no private key")
}

// Anybody's CA can certify the key of a CA that all share, and revoke that for
// keyCompromise. It counts for the names that this CA may speak for, and as long
// as Roots hold it.
func TestAnchorIsCondemnedByThoseWhoMaySpeakForTheName(t *testing.T) {
	t.Parallel()
	const acme, evil, revoked = "acme acme acme.example", "evil evil evil.example", "revoked evil"
	for _, c := range []struct {
		name             string
		domains          []string
		public           bool
		wantAcme, wantIt string
	}{
		{"its own name", []string{"evil.example"}, false, acme, revoked},
		{"any of the names", []string{"evil.example", "acme.example"}, false, "revoked acme", revoked},
		{"a public one, any name", nil, true, "revoked acme", revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := mtlstest.NewEnv(t)
			key := pcKey(t)
			shared := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "Shared CA", Now: env.Clock.Now, Key: key})
			other := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})
			env.Revocation.Serve(shared)
			env.Revocation.Serve(other)
			cross := other.Intermediate(mtlstest.CAOptions{CommonName: "Shared CA", Key: wkPublicKey{key}})
			env.Revocation.RevokeCA(cross, 1)
			a, b := shared.Authority("shared"), other.Authority("other")
			a.Domains, b.Domains, b.Public = []string{"example"}, c.domains, c.public
			cfg := env.Config(
				mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()},
				mtls.Rule{Name: "evil", Domains: []string{"evil.example"}, Origin: mtls.NoOrigin()})
			cfg.Roots = pcRoots(t, a, b)
			g := mtlstest.NewGuard(t, cfg)
			partner, its := shared.Issue(pcNames("acme.example")).Leaf(), shared.Issue(pcNames("evil.example")).Leaf()
			both := shared.Issue(pcNames("evil.example", "acme.example")).Leaf()
			require.Equal(t, acme, pcSay(pcDecide(t, g, partner)))
			require.Equal(t, evil, pcSay(pcDecide(t, g, its)))
			require.Equal(t, c.wantIt, pcSay(pcDecide(t, g, its, cross.Certificate())))
			require.Equal(t, c.wantIt, pcSay(pcDecide(t, g, its)), "known from now on")
			require.Equal(t, "revoked acme", pcSay(pcDecide(t, g, both)))
			require.Equal(t, c.wantAcme, pcSay(pcDecide(t, g, partner)))

			require.NoError(t, cfg.Roots.Replace(a))
			require.Equal(t, acme, pcSay(pcDecide(t, g, partner)))
			require.Equal(t, evil, pcSay(pcDecide(t, g, its)), "the word of an authority that is gone")
		})
	}
}

// The key of a CA that is no anchor is condemned by whoever has certified it,
// whatever that may speak for, until Roots no longer hold it.
func TestIntermediateIsCondemnedByAnyAuthority(t *testing.T) {
	t.Parallel()
	x := pcNewCross(t)
	x.b.Revocation, x.b.Domains = nil, []string{"b.example"}
	cfg := x.env.Config(x.rule)
	cfg.Roots = pcRoots(t, x.a, x.b)
	g := mtlstest.NewGuard(t, cfg)
	x.env.Revocation.RevokeCA(x.viaB, 1)
	const pass, revoked = "r r acme.example", "revoked r"
	require.Equal(t, pass, pcSay(pcDecide(t, g, x.chain(x.viaA)...)), "nobody has shown it yet")
	require.Equal(t, revoked, pcSay(pcDecide(t, g, x.chain(x.viaA, x.viaB)...)))
	require.Equal(t, revoked, pcSay(pcDecide(t, g, x.chain(x.viaA)...)))
	require.Error(t, g.VerifyConnection(tls.ConnectionState{PeerCertificates: x.chain(x.viaA)}))
	require.NoError(t, cfg.Roots.Replace(x.a))
	require.Equal(t, pass, pcSay(pcDecide(t, g, x.chain(x.viaA, x.viaB)...)))
	require.NoError(t, cfg.Roots.Replace(x.a, x.b))
	require.Equal(t, revoked, pcSay(pcDecide(t, g, x.chain(x.viaA)...)), "held again")
}

// A compromised key ends the verdicts on chains with that key, and no others.
func TestCompromisedKeyEndsTheVerdictsItConcerns(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	other := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})
	env.Revocation.Serve(other)
	a, b := env.CA.Authority("a"), other.Authority("b")
	a.Domains, b.Domains = []string{"acme.example"}, []string{"b.example"}
	cfg := env.Config(
		mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()},
		mtls.Rule{Name: "b", Domains: []string{"b.example"}, Origin: mtls.NoOrigin()})
	cfg.Roots = pcRoots(t, a, b)
	seen := &observer{}
	cfg.Observe = seen.observe
	var g *mtls.Guard
	compromise := func() {
		sub := other.Intermediate(mtlstest.CAOptions{})
		env.Revocation.Serve(sub)
		env.Revocation.RevokeCA(sub, 1)
		require.Equal(t, "revoked b", pcSay(pcDecide(t, g, sub.Issue(pcNames("b.example")).Leaf(), sub.Certificate())))
	}
	mapped := 0
	cfg.Accounts = mapperFunc(func(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
		mapped++
		if id.Rule() == "acme" {
			compromise() // a directory that takes as long as another client's connection
		}
		return mtls.Account{Name: id.Name()}, nil
	})
	g = mtlstest.NewGuard(t, cfg)
	acme := env.CA.Issue(pcNames("acme.example")).Leaf()
	require.True(t, pcDecide(t, g, acme).Admitted)
	require.Equal(t, 1, mapped, "it was decided once, although a foreign key was condemned meanwhile")
	compromise()
	decided := seen.count()
	require.True(t, pcDecide(t, g, acme).Admitted)
	require.Equal(t, decided, seen.count(), "the verdict still holds")

	x := mtlstest.CAOptions{CommonName: "X", Key: pcKey(t)}
	sound, bad := other.Intermediate(x), other.Intermediate(x)
	env.Revocation.Serve(sound)
	client := sound.Issue(pcNames("b.example")).Leaf()
	require.True(t, pcDecide(t, g, client, sound.Certificate()).Admitted)
	env.Revocation.RevokeCA(bad, 1)
	require.Equal(t, "revoked b", pcSay(pcDecide(t, g, sound.Issue(pcNames("b.example")).Leaf(), bad.Certificate())))
	require.Equal(t, "revoked b", pcSay(pcDecide(t, g, client, sound.Certificate())), "a verdict on a chain with the key")
	require.True(t, pcDecide(t, g, acme).Admitted)
}
