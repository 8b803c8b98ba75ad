package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

var (
	pcOIDExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	pcOIDNoRevAvail  = asn1.ObjectIdentifier{2, 5, 29, 56}
	pcOIDProxy       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 14}
)

func pcExtension(id asn1.ObjectIdentifier, critical bool, der ...byte) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: id, Critical: critical, Value: der})
	}
}

// CVE-2022-21657: the certificates of a CA for another purpose. Verify nests
// purposes along the chain; the outcomes are those for an intermediate without
// extended key usage, one for serverAuth and one for clientAuth:
// y admitted, k key_usage, m malformed_certificate.
func TestThreat24_Purpose(t *testing.T) {
	t.Parallel()
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	private, wide, public := root.Authority("private"), root.Authority("wide"), root.Authority("public")
	wide.Purpose, public.Purpose, public.Public = mtls.ClientOrServerAuth, mtls.ClientOrServerAuth, true
	const client, server, email, code, anyUse = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageEmailProtection,
		x509.ExtKeyUsageCodeSigning, x509.ExtKeyUsageAny
	usage := func(list ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = list }
	}
	var subs []*mtlstest.CA
	for _, list := range [][]x509.ExtKeyUsage{nil, {server}, {client}} {
		subs = append(subs, root.Intermediate(mtlstest.CAOptions{Template: usage(list...)}))
	}
	guards := map[string]*mtls.Guard{}
	for _, a := range []mtls.Authority{private, wide, public} {
		guards[a.Name] = mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, a), mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	}
	words := map[byte]string{'y': "r r a.example", 'k': "key_usage", 'm': "malformed_certificate"}
	empty := func(c *x509.Certificate) {
		c.ExtKeyUsage = nil
		pcExtension(pcOIDExtKeyUsage, false, 0x30, 0)(c)
	}
	for _, c := range []struct {
		name                  string
		leaf                  func(*x509.Certificate)
		private, wide, public string
	}{
		{"clientAuth", usage(client), "yky", "yky", "yky"},
		{"serverAuth", usage(server), "kkk", "yyk", "yyk"},
		{"both", usage(client, server), "yky", "yyy", "yyy"},
		{"emailProtection", usage(email), "kkk", "kkk", "kkk"},
		{"codeSigning", usage(code), "kkk", "kkk", "kkk"},
		{"emailProtection and clientAuth", usage(email, client), "yky", "yky", "yky"},
		{"any", usage(anyUse), "yky", "yyy", "kkk"},
		{"any and clientAuth", usage(anyUse, client), "yky", "yyy", "kkk"},
		{"any and emailProtection", usage(anyUse, email), "yky", "yyy", "kkk"},
		{"none", usage(), "yky", "yyy", "kkk"},
		{"empty extension", empty, "mmm", "mmm", "mmm"},
	} {
		for name, want := range map[string]string{"private": c.private, "wide": c.wide, "public": c.public} {
			t.Run(c.name+" under "+name, func(t *testing.T) {
				t.Parallel()
				for i, sub := range subs {
					leaf := sub.Issue(mtlstest.Leaf{Names: []string{"a.example"}, Template: c.leaf}).Leaf()
					require.Equal(t, words[want[i]], pcSay(pcDecide(t, guards[name], leaf, sub.Certificate())), "intermediate %d", i)
				}
			})
		}
	}
}

func TestLeafAndChainChecks(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	now := env.Clock.Now()
	root, sub := env.CA, env.CA.Intermediate(mtlstest.CAOptions{})
	env.Revocation.Serve(sub)
	past, future := mtlstest.CAOptions{NotAfter: now.Add(-time.Second)}, mtlstest.CAOptions{NotBefore: now.Add(time.Second)}
	gone, early := root.Intermediate(past), root.Intermediate(future)
	noRev := root.Intermediate(mtlstest.CAOptions{Template: pcExtension(pcOIDNoRevAvail, false, 5, 0)})
	critical := root.Intermediate(mtlstest.CAOptions{Template: pcExtension(asn1.ObjectIdentifier{1, 2, 3}, true, 5, 0)})
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})
	usage := func(u x509.KeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.KeyUsage = u }
	}
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"a.example"}, Origin: mtls.NoOrigin()})
	g := mtlstest.NewGuard(t, cfg)
	short := now.Add(6 * 24 * time.Hour)
	const pass = "r r a.example"
	for _, c := range []struct {
		name string
		ca   *mtlstest.CA
		leaf mtlstest.Leaf
		sent []*mtlstest.CA
		want string
	}{
		{"sound", sub, mtlstest.Leaf{}, []*mtlstest.CA{sub}, pass},
		{"superfluous certificates", sub, mtlstest.Leaf{}, []*mtlstest.CA{stranger, gone, sub, root}, pass},
		{"intermediate left out", sub, mtlstest.Leaf{}, nil, "untrusted_issuer"},
		{"stranger", stranger, mtlstest.Leaf{}, nil, "untrusted_issuer"},
		{"stranger that sends its root", stranger, mtlstest.Leaf{}, []*mtlstest.CA{stranger, root}, "untrusted_issuer"},
		{"expired leaf", sub, mtlstest.Leaf{NotAfter: now.Add(-time.Second)}, []*mtlstest.CA{sub}, "expired"},
		{"leaf of tomorrow", sub, mtlstest.Leaf{NotBefore: now.Add(time.Second)}, []*mtlstest.CA{sub}, "not_yet_valid"},
		{"expired intermediate", gone, mtlstest.Leaf{}, []*mtlstest.CA{gone}, "expired"},
		{"intermediate of tomorrow", early, mtlstest.Leaf{}, []*mtlstest.CA{early}, "not_yet_valid"},
		{"keyUsage without digitalSignature", sub, mtlstest.Leaf{Template: usage(x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement)}, []*mtlstest.CA{sub}, "key_usage"},
		{"no keyUsage", sub, mtlstest.Leaf{Template: usage(0)}, []*mtlstest.CA{sub}, pass},
		{"CA certificate as a leaf", sub, mtlstest.Leaf{Template: func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign
		}}, []*mtlstest.CA{sub}, "key_usage"},
		{"critical extension of the leaf", sub, mtlstest.Leaf{Template: pcExtension(asn1.ObjectIdentifier{1, 2, 3}, true, 5, 0)}, []*mtlstest.CA{sub}, "malformed_certificate"},
		{"critical extension of the intermediate", critical, mtlstest.Leaf{}, []*mtlstest.CA{critical}, "malformed_certificate"},
		{"proxy certificate", sub, mtlstest.Leaf{Template: pcExtension(pcOIDProxy, false, 0x30, 0)}, []*mtlstest.CA{sub}, "malformed_certificate"},
		{"noRevAvail, short-lived", sub, mtlstest.Leaf{NotAfter: short, Sources: mtlstest.NoSources, Template: pcExtension(pcOIDNoRevAvail, false, 5, 0)}, []*mtlstest.CA{sub}, pass},
		{"noRevAvail, long-lived", sub, mtlstest.Leaf{Sources: mtlstest.NoSources, Template: pcExtension(pcOIDNoRevAvail, false, 5, 0)}, []*mtlstest.CA{sub}, "revocation_source_missing r"},
		{"noRevAvail beside a CRL", sub, mtlstest.Leaf{NotAfter: short, Sources: mtlstest.OnlyCRL, Template: pcExtension(pcOIDNoRevAvail, false, 5, 0)}, []*mtlstest.CA{sub}, "malformed_certificate"},
		{"noRevAvail beside OCSP", sub, mtlstest.Leaf{NotAfter: short, Sources: mtlstest.OnlyOCSP, Template: pcExtension(pcOIDNoRevAvail, false, 5, 0)}, []*mtlstest.CA{sub}, "malformed_certificate"},
		{"noRevAvail of a CA", noRev, mtlstest.Leaf{NotAfter: short}, []*mtlstest.CA{noRev}, "malformed_certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.leaf.Names = []string{"a.example"}
			chain := []*x509.Certificate{c.ca.Issue(c.leaf).Leaf()}
			for _, s := range c.sent {
				chain = append(chain, s.Certificate())
			}
			require.Equal(t, c.want, pcSay(pcDecide(t, g, chain...)))
		})
	}
}

// A verdict ends with the client's certificate and with each of its chain, in
// their last instant too.
func TestVerdictEndsWithTheChain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		before time.Duration // from the decision to the end
	}{{"a minute before", time.Minute}, {"in the last instant", 0}} {
		for _, what := range []string{"leaf", "intermediate"} {
			t.Run(what+", "+c.name, func(t *testing.T) {
				t.Parallel()
				clock := mtlstest.NewClock(time.Time{})
				end := clock.Now().Add(time.Hour)
				root := mtlstest.NewCA(t, mtlstest.CAOptions{Now: clock.Now})
				ca, l := mtlstest.CAOptions{}, mtlstest.Leaf{Names: []string{"a.example"}}
				if what == "leaf" {
					l.NotAfter = end
				} else {
					ca.NotAfter = end
				}
				sub := root.Intermediate(ca)
				leaf := sub.Issue(l).Leaf()
				cfg := pcConfig(t, pcRoots(t, root.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"a.example"}})
				cfg.Now = clock.Now
				g := mtlstest.NewGuard(t, cfg)
				clock.Advance(time.Hour - c.before)
				require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, leaf, sub.Certificate())))
				clock.Advance(c.before + time.Second)
				require.Equal(t, "expired", pcSay(pcDecide(t, g, leaf, sub.Certificate())))
			})
		}
	}
}

// pcCross is an issuer X whose certificate two roots have issued, each an
// authority of its own, and a client certificate issued by X.
type pcCross struct {
	env          *mtlstest.Env
	rootA, rootB *mtlstest.CA
	viaA, viaB   *mtlstest.CA
	a, b         mtls.Authority     // a requires revocation, b does not
	options      mtlstest.CAOptions // of X
	rule         mtls.Rule
	client       *mtlstest.Certificate
}

func pcNewCross(t testing.TB) *pcCross {
	t.Helper()
	env := mtlstest.NewEnv(t)
	x := &pcCross{env: env, rootA: env.CA, rootB: mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now})}
	env.Revocation.Serve(x.rootB)
	x.options = mtlstest.CAOptions{CommonName: "X", Key: pcKey(t)}
	x.viaA, x.viaB = x.rootA.Intermediate(x.options), x.rootB.Intermediate(x.options)
	env.Revocation.Serve(x.viaA)
	x.a, x.b = x.rootA.Authority("a"), x.rootB.Authority("b")
	x.a.Domains, x.b.Domains = []string{"acme.example"}, []string{"acme.example"}
	x.b.Revocation = mtls.NoRevocation()
	x.rule = mtls.Rule{Name: "r", Domains: []string{"acme.example"}, Origin: mtls.NoOrigin()}
	x.client = x.viaA.Issue(pcNames("acme.example"))
	return x
}

func (x *pcCross) guard(t testing.TB, authorities ...mtls.Authority) *mtls.Guard {
	t.Helper()
	cfg := x.env.Config(x.rule)
	cfg.Roots = pcRoots(t, authorities...)
	return mtlstest.NewGuard(t, cfg)
}

func (x *pcCross) chain(cas ...*mtlstest.CA) []*x509.Certificate {
	list := []*x509.Certificate{x.client.Leaf()}
	for _, ca := range cas {
		list = append(list, ca.Certificate())
	}
	return list
}

// The sender chooses the intermediates, and must not choose the revocation
// setting with them.
func TestStricterRevocationHolds(t *testing.T) {
	t.Parallel()
	serverOnly := func(x *pcCross) {
		x.b.Purpose = mtls.ClientOrServerAuth
		x.client = x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	}
	outOfScope := func(x *pcCross) { x.a.Domains = []string{"elsewhere.example"} }
	// X itself is an anchor of b, with the certificate that a's root issued: the
	// server knows both chains whatever is sent.
	anchored := func(x *pcCross) { x.b.Anchors = []mtls.Anchor{{Certificate: x.viaA.Certificate()}} }
	for _, c := range []struct {
		name  string
		setup []func(*pcCross)
		sent  func(*pcCross) [][]*x509.Certificate
	}{
		{"both ways sent", nil, (*pcCross).both},
		{"only b may speak for the name", []func(*pcCross){outOfScope}, (*pcCross).both},
		{"only b has the purpose", []func(*pcCross){serverOnly}, (*pcCross).both},
		{"a's way is for another purpose", []func(*pcCross){func(x *pcCross) {
			x.options.Template = func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
			x.viaA = x.rootA.Intermediate(x.options)
			x.env.Revocation.Serve(x.viaA)
			x.client = x.viaA.Issue(pcNames("acme.example"))
		}}, (*pcCross).both},
		{"the rule asks for b", []func(*pcCross){func(x *pcCross) { x.rule.Authorities = []string{"b"} }}, (*pcCross).both},
		{"the rule asks for b's key", []func(*pcCross){func(x *pcCross) { x.rule.IssuerKeys = []mtls.KeyHash{mtls.HashPublicKey(x.rootB.Certificate())} }}, (*pcCross).both},
		{"b checks as well", []func(*pcCross){func(x *pcCross) { x.b.Revocation = nil }}, (*pcCross).both},
		{"X is an anchor of b, nothing sent", []func(*pcCross){anchored}, (*pcCross).alone},
		{"X is an anchor of b, out of a's scope, nothing sent", []func(*pcCross){anchored, outOfScope}, (*pcCross).alone},
		{"X is an anchor of b, b alone has the purpose, nothing sent", []func(*pcCross){anchored, serverOnly}, (*pcCross).alone},
		{"X is an anchor of a, only b's way sent", []func(*pcCross){func(x *pcCross) { x.a.Anchors = []mtls.Anchor{{Certificate: x.viaA.Certificate()}} }}, (*pcCross).onlyB},
		{"X is an anchor of a, out of its scope, only b's way sent", []func(*pcCross){outOfScope, func(x *pcCross) { x.a.Anchors = []mtls.Anchor{{Certificate: x.viaA.Certificate()}} }}, (*pcCross).onlyB},
		{"X is an anchor of a, b alone has the purpose, only b's way sent", []func(*pcCross){serverOnly, func(x *pcCross) { x.a.Anchors = []mtls.Anchor{{Certificate: x.viaA.Certificate()}} }}, (*pcCross).onlyB},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := pcNewCross(t)
			for _, f := range c.setup {
				f(x)
			}
			x.env.Revocation.Revoke(x.client, 0)
			for _, chain := range c.sent(x) {
				for _, order := range [][]mtls.Authority{{x.a, x.b}, {x.b, x.a}} {
					require.Equal(t, "revoked r", pcSay(pcDecide(t, x.guard(t, order...), chain...)), "b first: %t, sent %d", order[0].Name == "b", len(chain))
				}
			}
			// What nobody can tell denies as well.
			x.env.Revocation.Fail(mtlstest.InternalError)
			for _, chain := range c.sent(x) {
				require.Equal(t, "revocation_unknown r", pcSay(pcDecide(t, x.guard(t, x.b, x.a), chain...)))
			}
		})
	}
}

func (x *pcCross) both() [][]*x509.Certificate {
	return [][]*x509.Certificate{x.chain(x.viaA, x.viaB), x.chain(x.viaB, x.viaA)}
}
func (x *pcCross) alone() [][]*x509.Certificate { return [][]*x509.Certificate{x.chain()} }
func (x *pcCross) onlyB() [][]*x509.Certificate { return [][]*x509.Certificate{x.chain(x.viaB)} }

func TestOneChainSatisfiesEverything(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		setup func(*pcCross)
		want  string // the authority, or what is said
	}{
		{"the first authority", func(*pcCross) {}, "a"},
		{"the rule picks an authority", func(x *pcCross) { x.rule.Authorities = []string{"b"} }, "b"},
		{"the rule picks an issuer", func(x *pcCross) { x.rule.IssuerKeys = []mtls.KeyHash{mtls.HashPublicKey(x.rootB.Certificate())} }, "b"},
		{"the scope picks an authority", func(x *pcCross) { x.a.Domains = []string{"elsewhere.example"} }, "b"},
		{"a constraint picks an authority", func(x *pcCross) {
			x.a.Anchors[0].Constraint = func([]*x509.Certificate) error { return x509.UnhandledCriticalExtension{} }
		}, "b"},
		{"authority of one, issuer of the other", func(x *pcCross) {
			x.rule.Authorities, x.rule.IssuerKeys = []string{"a"}, []mtls.KeyHash{mtls.HashPublicKey(x.rootB.Certificate())}
		}, "not_allowed"},
		{"the rule's authority may not speak for the name", func(x *pcCross) {
			x.b.Domains, x.rule.Authorities = []string{"other.example"}, []string{"b"}
			x.rule.Domains, x.rule.PublicKeys = nil, []mtls.KeyHash{mtls.HashPublicKey(x.client.Leaf())}
		}, "not_allowed"},
		{"purpose of one, scope of the other", func(x *pcCross) {
			x.b.Purpose, x.b.Domains = mtls.ClientOrServerAuth, []string{"other.example"}
			x.client = x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		}, "key_usage"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := pcNewCross(t)
			c.setup(x)
			for _, chain := range x.both() {
				d := pcDecide(t, x.guard(t, x.a, x.b), chain...)
				if !d.Admitted {
					require.Equal(t, c.want, pcSay(d))
					continue
				}
				require.Equal(t, c.want, d.Identity.Authority())
				anchor := map[string]*mtlstest.CA{"a": x.rootA, "b": x.rootB}[c.want]
				require.True(t, slices.Equal(anchor.Certificate().Raw, d.Identity.Chain()[2].Raw))
			}
		})
	}
}

func TestRevokedIntermediate(t *testing.T) {
	t.Parallel()
	const keyCompromise, cACompromise, superseded, cessation = 1, 2, 4, 5
	const revoked, pass = "revoked r", "r r acme.example"
	b := func(x *pcCross) { x.rule.Authorities = []string{"b"} }
	for _, c := range []struct {
		name               string
		reason             int
		setup              func(*pcCross)
		onlyA, both, onlyB string // in this order, by one guard
	}{
		{"keyCompromise", keyCompromise, nil, revoked, revoked, revoked},
		{"cACompromise", cACompromise, nil, revoked, revoked, revoked},
		{"no reason given", 0, nil, revoked, revoked, revoked},
		{"superseded", superseded, nil, revoked, pass, pass},
		{"cessationOfOperation", cessation, nil, revoked, pass, pass},
		{"keyCompromise, both sent at once", keyCompromise, nil, "", revoked, revoked},
		{"keyCompromise, the rule asks for the other way", keyCompromise, b, "", revoked, revoked},
		{"keyCompromise, the revoked way is out of scope", keyCompromise, func(x *pcCross) { x.a.Domains = []string{"elsewhere.example"} }, "", revoked, revoked},
		{"LeafOnly", keyCompromise, func(x *pcCross) {
			x.a.Revocation = &mtls.Revocation{LeafOnly: true, AllowNetworks: mtlstest.Loopback()}
		}, pass, pass, pass},
	} {
		for _, strict := range []bool{false, true} {
			for _, bFirst := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, b checks %t, b first %t", c.name, strict, bFirst), func(t *testing.T) {
					t.Parallel()
					x := pcNewCross(t)
					if strict {
						x.b.Revocation = nil
					}
					if c.setup != nil {
						c.setup(x)
					}
					x.env.Revocation.RevokeCA(x.viaA, c.reason)
					g := x.guard(t, x.a, x.b)
					if bFirst {
						g = x.guard(t, x.b, x.a)
					}
					if c.onlyA != "" {
						require.Equal(t, c.onlyA, pcSay(pcDecide(t, g, x.chain(x.viaA)...)))
					}
					for _, chain := range x.both() {
						require.Equal(t, c.both, pcSay(pcDecide(t, g, chain...)))
					}
					require.Equal(t, c.onlyB, pcSay(pcDecide(t, g, x.chain(x.viaB)...)))
					// The handshake knows what a request has found out.
					err := g.VerifyConnection(tls.ConnectionState{PeerCertificates: x.chain(x.viaB)})
					require.Equal(t, c.onlyB == revoked, err != nil)
					x.client = x.viaA.Issue(pcNames("acme.example")) // nor does another certificate of X help
					require.Equal(t, c.onlyB, pcSay(pcDecide(t, g, x.chain(x.viaB)...)))
				})
			}
		}
	}
	t.Run("a verdict ends when another chain turns out to be compromised", func(t *testing.T) {
		t.Parallel()
		x := pcNewCross(t)
		b(x)
		g := x.guard(t, x.b, x.a)
		require.Equal(t, pass, pcSay(pcDecide(t, g, x.chain(x.viaB, x.viaA)...)))
		x.env.Revocation.RevokeCA(x.viaA, keyCompromise)
		require.NoError(t, g.Refresh(t.Context()))
		require.Equal(t, revoked, pcSay(pcDecide(t, g, x.chain(x.viaB, x.viaA)...)))
	})
	t.Run("LeafOnly still checks the leaf", func(t *testing.T) {
		t.Parallel()
		x := pcNewCross(t)
		x.a.Revocation = &mtls.Revocation{LeafOnly: true, AllowNetworks: mtlstest.Loopback()}
		x.env.Revocation.Revoke(x.client, superseded)
		require.Equal(t, revoked, pcSay(pcDecide(t, x.guard(t, x.a), x.chain(x.viaA)...)))
	})
	t.Run("over the wire, on a live connection", func(t *testing.T) {
		t.Parallel()
		x := pcNewCross(t)
		g := x.guard(t, x.a)
		s := mtlstest.NewOptionalServer(t, g, g.Require()(hello))
		c := s.Client(x.client, mtlstest.ClientOptions{})
		require.Equal(t, 200, ask(t, c, s.URL).Status)
		x.env.Revocation.RevokeCA(x.viaA, superseded)
		require.NoError(t, g.Refresh(t.Context()))
		require.Equal(t, "revoked", ask(t, c, s.URL).Code)
	})
}
