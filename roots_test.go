package mtls_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

func pcPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// pcBadCAFiles are files that must not be taken for a list of CAs. CVE-2026-27586
// turned such a file into trust in the whole web.
func pcBadCAFiles(t testing.TB, ca *mtlstest.CA) map[string][]byte {
	t.Helper()
	der := ca.Certificate().Raw
	good := pcPEM("CERTIFICATE", der)
	key, err := x509.MarshalPKCS8PrivateKey(pcKey(t))
	require.NoError(t, err)
	leaf := pcPEM("CERTIFICATE", ca.Issue(mtlstest.Leaf{}).Leaf().Raw)
	half := len(good) / 2
	list := map[string][]byte{
		"empty":                         {},
		"blank":                         []byte("\n\n"),
		"text":                          []byte("# no CAs yet\n"),
		"an HTML page":                  []byte("<html><body>404</body></html>"),
		"truncated DER":                 der[:len(der)-1],
		"DER with a byte after it":      append(bytes.Clone(der), 0),
		"truncated PEM":                 good[:half],
		"PEM without its end":           good[:len(good)-30],
		"PEM cut at the front":          good[half:],
		"PEM of nothing":                pcPEM("CERTIFICATE", nil),
		"PEM of text":                   pcPEM("CERTIFICATE", []byte("nothing")),
		"PEM of truncated DER":          pcPEM("CERTIFICATE", der[:len(der)-1]),
		"a private key":                 pcPEM("PRIVATE KEY", key),
		"a CRL":                         pcPEM("X509 CRL", der),
		"a leaf":                        leaf,
		"good, then a private key":      append(bytes.Clone(good), pcPEM("PRIVATE KEY", key)...),
		"a private key, then good":      append(pcPEM("PRIVATE KEY", key), good...),
		"good, then truncated":          append(bytes.Clone(good), good[:half]...),
		"truncated, then good":          append(append(bytes.Clone(good[:half]), '\n'), good...),
		"good, then malformed":          append(bytes.Clone(good), pcPEM("CERTIFICATE", der[:50])...),
		"good, then a leaf":             append(bytes.Clone(good), leaf...),
		"good, then a damaged header":   append(bytes.Clone(good), good[1:]...),
		"a damaged header, then good":   append(bytes.Clone(good[1:]), good...),
		"damaged base64, then good":     append(bytes.Replace(good, []byte("M"), []byte("!"), 1), good...),
		"good, then DER":                append(bytes.Clone(good), ca.Certificate().Raw...),
		"good, then other dashes":       append(bytes.Clone(good), bytes.ReplaceAll(good, []byte("-----"), []byte("\u2014\u2013"))...),
		"good, then a damaged last END": append(bytes.Clone(good), good[:len(good)-7]...),
	}
	return list
}

func TestThreat21_CAFiles(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	other := mtlstest.NewCA(t, mtlstest.CAOptions{})
	dir := t.TempDir()
	refused := func(t *testing.T, file string) {
		t.Helper()
		roots, err := mtls.LoadRoots(ca.PEMFile(), file)
		require.Nil(t, roots)
		require.Error(t, err)
		for _, p := range pcProblems(t, err) {
			if strings.HasPrefix(p.Field, "CA file") {
				require.Equal(t, file, p.Value)
			}
		}
	}
	for name, data := range pcBadCAFiles(t, ca) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(file, data, 0o600))
			refused(t, file)
		})
	}
	t.Run("missing", func(t *testing.T) { refused(t, filepath.Join(dir, "gone.pem")) })
	t.Run("a folder", func(t *testing.T) { refused(t, dir) })
	t.Run("no files", func(t *testing.T) {
		_, err := mtls.LoadRoots()
		require.Equal(t, []string{"LoadAuthority|"}, pcFields(t, err))
		_, err = mtls.LoadAuthority()
		require.Error(t, err)
	})
	t.Run("all bad files are named", func(t *testing.T) {
		_, err := mtls.LoadRoots(filepath.Join(dir, "x"), ca.PEMFile(), filepath.Join(dir, "y"))
		require.Equal(t, []string{"CA file|" + filepath.Join(dir, "x"), "CA file|" + filepath.Join(dir, "y")}, pcFields(t, err))
	})
	t.Run("PEM with comments, and DER", func(t *testing.T) {
		bundle := filepath.Join(dir, "bundle.pem")
		text := append([]byte("\ufeff# Acme\r\n"), pcPEM("CERTIFICATE", ca.Certificate().Raw)...)
		require.NoError(t, os.WriteFile(bundle, append(text, "\n# the end\n"...), 0o600))
		der := filepath.Join(dir, "other.der")
		require.NoError(t, os.WriteFile(der, other.Certificate().Raw, 0o600))
		a, err := mtls.LoadAuthority(bundle, der)
		require.NoError(t, err)
		require.Equal(t, "bundle", a.Name)
		require.Len(t, a.Anchors, 2)
		require.False(t, a.Public)
		require.Equal(t, mtls.ClientAuth, a.Purpose)
	})
}

func TestThreat21_Reload(t *testing.T) {
	t.Parallel()
	ca, next := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	file := ca.PEMFile()
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	roots, err := mtls.LoadRoots(file)
	require.NoError(t, err)
	g := mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Domains: []string{"api.acme.example"}}))
	old, renewed := ca.Issue(pcNames("api.acme.example")).Leaf(), next.Issue(pcNames("api.acme.example")).Leaf()
	const pass, untrusted = "r r api.acme.example", "untrusted_issuer"
	check := func(t *testing.T, first, second string) {
		t.Helper()
		require.Equal(t, first, pcSay(pcDecide(t, g, old)))
		require.Equal(t, second, pcSay(pcDecide(t, g, renewed)))
	}
	keeps := func(t *testing.T) {
		t.Helper()
		err := roots.Reload()
		require.Error(t, err)
		require.ErrorIs(t, g.Ready(), err)
		check(t, pass, untrusted)
	}
	restore := func(t *testing.T) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, good, 0o600))
		require.NoError(t, roots.Reload())
		require.NoError(t, g.Ready())
		check(t, pass, untrusted)
	}
	check(t, pass, untrusted)
	for name, data := range pcBadCAFiles(t, next) {
		t.Run(name, func(t *testing.T) {
			defer restore(t)
			require.NoError(t, os.WriteFile(file, data, 0o600))
			keeps(t)
		})
	}
	t.Run("missing", func(t *testing.T) {
		require.NoError(t, os.Remove(file))
		keeps(t)
		restore(t)
	})
	t.Run("a good file counts at the next request", func(t *testing.T) {
		require.NoError(t, os.WriteFile(file, pcPEM("CERTIFICATE", next.Certificate().Raw), 0o600))
		check(t, pass, untrusted) // not before Reload
		require.NoError(t, roots.Reload())
		check(t, untrusted, pass)
		restore(t)
	})
	t.Run("one of two authorities fails, and both stay", func(t *testing.T) {
		one, err := mtls.LoadAuthority(ca.PEMFile())
		require.NoError(t, err)
		broken := next.PEMFile()
		two, err := mtls.LoadAuthority(broken)
		require.NoError(t, err)
		one.Name, two.Name, one.Domains, two.Domains = "one", "two", []string{"acme.example"}, []string{"acme.example"}
		roots := pcRoots(t, one, two)
		g := mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Domains: []string{"api.acme.example"}}))
		require.NoError(t, os.WriteFile(broken, nil, 0o600))
		require.Error(t, roots.Reload())
		require.Equal(t, pass, pcSay(pcDecide(t, g, old)))
		require.Equal(t, pass, pcSay(pcDecide(t, g, renewed)))
	})
	t.Run("a good Replace clears the error", func(t *testing.T) {
		require.NoError(t, os.Remove(file))
		keeps(t)
		require.NoError(t, roots.Replace(next.Authority("next")))
		require.NoError(t, g.Ready())
		check(t, untrusted, pass)
	})
}

func TestReloadReadsNoSettings(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	sub := env.CA.Intermediate(mtlstest.CAOptions{})
	env.Revocation.Serve(sub)
	leaf := sub.Issue(pcNames("api.acme.example")).Leaf()
	env.Revocation.RevokeCA(sub, 4) // superseded: nothing is remembered of its key
	setting := &mtls.Revocation{AllowNetworks: mtlstest.Loopback()}
	a := env.CA.Authority("one")
	a.Revocation = setting
	cfg := pcConfig(t, pcRoots(t, a), mtls.Rule{Name: "r", Domains: []string{"api.acme.example"}})
	cfg.Now = env.Clock.Now
	g := mtlstest.NewGuard(t, cfg)
	setting.LeafOnly = true // the Roots have a copy
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, leaf, sub.Certificate())))
	require.NoError(t, cfg.Roots.Reload())
	require.Equal(t, "revoked r", pcSay(pcDecide(t, g, leaf, sub.Certificate())))
}

func TestRootsProblems(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "one"})
	leaf := ca.Issue(mtlstest.Leaf{CommonName: "leaf"}).Leaf()
	unfit := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "unfit", Template: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }})
	noCA := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "no CA", Template: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }})
	off := mtls.NoRevocation()
	off.LeafOnly = true
	with := func(change func(*mtls.Authority)) []mtls.Authority {
		a := ca.Authority("a")
		change(&a)
		return []mtls.Authority{a}
	}
	anchor := func(c *x509.Certificate) []mtls.Authority {
		return with(func(a *mtls.Authority) { a.Anchors = append(a.Anchors, mtls.Anchor{Certificate: c}) })
	}
	public, scoped := ca.Authority("public"), ca.Authority("scoped")
	public.Public, scoped.Domains = true, []string{"acme.example"}
	const a = `Roots: authority "a"`
	for _, c := range []struct {
		name string
		list []mtls.Authority
		want []string
	}{
		{"none", nil, []string{"Roots|"}},
		{"no name", with(func(a *mtls.Authority) { a.Name = "" }), []string{"Roots: authority 0|"}},
		{"no anchors", with(func(a *mtls.Authority) { a.Anchors = nil }), []string{a + "|"}},
		{"no certificate", anchor(nil), []string{a + ": Anchors[1]|"}},
		{"a certificate that was never parsed", anchor(&x509.Certificate{IsCA: true}), []string{a + ": Anchors[1]|"}},
		{"leaf as an anchor", anchor(leaf), []string{a + ": Anchors[1]|CN=leaf"}},
		{"no basicConstraints", anchor(noCA.Certificate()), []string{a + ": Anchors[1]|CN=no CA"}},
		{"keyUsage without certSign", anchor(unfit.Certificate()), []string{a + ": Anchors[1]|CN=unfit"}},
		{"purpose", with(func(a *mtls.Authority) { a.Purpose = 7 }), []string{a + ": Purpose|7"}},
		{"scope with a wildcard", with(func(a *mtls.Authority) { a.Domains = []string{"*.acme.example"} }), []string{a + ": Domains[0]|*.acme.example"}},
		{"scope with a dot before it", with(func(a *mtls.Authority) { a.Domains = []string{".acme.example"} }), []string{a + ": Domains[0]|.acme.example"}},
		{"empty scope", with(func(a *mtls.Authority) { a.Domains = []string{""} }), []string{a + ": Domains[0]|"}},
		{"revocation", with(func(a *mtls.Authority) { a.Revocation = &mtls.Revocation{MaxAge: -1} }), []string{a + ": Revocation.MaxAge|-1ns"}},
		{"revocation off, with settings", with(func(a *mtls.Authority) { a.Revocation = off }), []string{a + ": Revocation|"}},
		{"several private authorities without scope", []mtls.Authority{ca.Authority("a"), ca.Authority("b"), scoped},
			[]string{a + ": Domains|", `Roots: authority "b": Domains|`}},
		{"a private authority without scope beside a public one", []mtls.Authority{ca.Authority("a"), public}, []string{a + ": Domains|"}},
		{"two of a name", []mtls.Authority{scoped, scoped}, []string{`Roots: authority "scoped"|`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			roots, err := mtls.NewRoots(c.list...)
			require.Nil(t, roots)
			require.Equal(t, c.want, pcFields(t, err))
			live := pcRoots(t, ca.Authority("one"))
			g := mtlstest.NewGuard(t, pcConfig(t, live, mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
			require.Error(t, live.Replace(c.list...))
			require.Error(t, g.Ready())
			require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, ca.Issue(pcNames("a.example")).Leaf())))
		})
	}
	t.Run("the zero Roots and none at all", func(t *testing.T) {
		cfg := pcConfig(t, &mtls.Roots{}, mtls.Rule{Name: "r", Domains: []string{"a.example"}})
		require.Error(t, cfg.Roots.Reload())
		for _, roots := range []*mtls.Roots{cfg.Roots, nil} {
			cfg.Roots = roots
			_, err := mtls.New(cfg)
			require.Equal(t, []string{"Config.Roots|"}, pcFields(t, err))
		}
	})
	t.Run("Replace checks the policy", func(t *testing.T) {
		live := pcRoots(t, ca.Authority("one"))
		g := mtlstest.NewGuard(t, pcConfig(t, live, mtls.Rule{Name: "r", Domains: []string{"a.example"}, Authorities: []string{"one"}}))
		require.Equal(t, []string{`Policy: rule "r": Authorities[0]|one`}, pcFields(t, live.Replace(ca.Authority("two"))))
		require.Error(t, g.Ready())
		require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, ca.Issue(pcNames("a.example")).Leaf())))
	})
}

// CVE-2024-2048, CVE-2025-6037: a certificate in the CA's name is not the CA's.
func TestThreat22_ImpostorOfACA(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, ca.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
	require.Equal(t, "r r a.example", pcSay(pcDecide(t, g, ca.Issue(pcNames("a.example")).Leaf())))
	for _, isCA := range []bool{false, true} {
		key := pcKey(t)
		self := *ca.Certificate() // CreateCertificate compares the issuer's key with the signer's
		self.PublicKey = key.Public()
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: self.SerialNumber, RawSubject: self.RawSubject, SubjectKeyId: self.SubjectKeyId, AuthorityKeyId: self.SubjectKeyId,
			NotBefore: self.NotBefore, NotAfter: self.NotAfter, BasicConstraintsValid: true, IsCA: isCA, DNSNames: []string{"a.example"},
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, &self, key.Public(), key)
		require.NoError(t, err)
		impostor, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		require.Equal(t, ca.Certificate().RawSubject, impostor.RawIssuer)
		for _, chain := range [][]*x509.Certificate{{impostor}, {impostor, ca.Certificate()}, {impostor, impostor}} {
			require.Contains(t, []string{"untrusted_issuer", "key_usage"}, pcSay(pcDecide(t, g, chain...)))
		}
	}
}

func TestAnchorConstraint(t *testing.T) {
	t.Parallel()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	leaf := ca.Issue(pcNames("a.example")).Leaf()
	plain := mtls.Anchor{Certificate: ca.Certificate()}
	distrusted := mtls.Anchor{Certificate: ca.Certificate(), Constraint: func(chain []*x509.Certificate) error {
		if chain[0].NotBefore.After(time.Unix(0, 0)) {
			return errors.New("distrusted since 1970")
		}
		return nil
	}}
	for _, c := range []struct {
		name    string
		anchors []mtls.Anchor
		want    string
	}{
		{"none", []mtls.Anchor{plain}, "r r a.example"},
		{"it refuses the chain", []mtls.Anchor{distrusted}, "untrusted_issuer"},
		{"it panics", []mtls.Anchor{{Certificate: ca.Certificate(), Constraint: func([]*x509.Certificate) error { panic("x") }}}, "internal"},
		{"the same certificate with and without it", []mtls.Anchor{distrusted, plain}, "untrusted_issuer"},
		{"the same certificate without and with it", []mtls.Anchor{plain, distrusted}, "untrusted_issuer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			roots, err := mtls.NewRoots(mtls.Authority{Name: "one", Anchors: c.anchors})
			if len(c.anchors) > 1 && err != nil {
				return // refused at once, which is as good
			}
			require.NoError(t, err)
			g := mtlstest.NewGuard(t, pcConfig(t, roots, mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
			require.Equal(t, c.want, pcSay(pcDecide(t, g, leaf)))
		})
	}
}

// Every CA can name anybody (CVE-2026-4740): each speaks for its own domains.
func TestThreat33_ScopeOfNames(t *testing.T) {
	t.Parallel()
	acme, globex := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	sub := acme.Intermediate(mtlstest.CAOptions{}) // an anchor of the second authority, too
	one, two, public := acme.Authority("one"), globex.Authority("two"), mtls.PublicAuthority()
	one.Domains = []string{"Acme.example", "bücher.example"}
	two.Domains, two.Anchors = []string{"globex.example"}, append(two.Anchors, mtls.Anchor{Certificate: sub.Certificate()})
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, one, two, public),
		mtls.Rule{Name: "a", InsecureAnyClient: true, Origin: mtls.NoOrigin()}))
	const out = "untrusted_issuer"
	for _, c := range []struct {
		name  string
		ca    *mtlstest.CA
		names []string
		want  string // the authority, or the reason
	}{
		{"its own domain", acme, []string{"acme.example"}, "one"},
		{"below it", acme, []string{"a.b.ACME.example"}, "one"},
		{"wildcard", acme, []string{"*.acme.example"}, "one"},
		{"A-label", acme, []string{"www.xn--bcher-kva.example"}, "one"},
		{"no names", acme, nil, "one"},
		{"another's domain", acme, []string{"globex.example"}, out},
		{"another's domain beside its own", acme, []string{"acme.example", "globex.example"}, out},
		{"a suffix that is no label", acme, []string{"evilacme.example"}, out},
		{"above it", acme, []string{"example"}, out},
		{"wildcard above it", acme, []string{"*.example"}, out},
		{"listed by nobody", globex, []string{"x.example"}, out},
		{"the second authority", globex, []string{"hooks.globex.example"}, "two"},
		{"the second for the first", globex, []string{"acme.example"}, out},
		{"an anchor of the second, issued by the first, for the second", sub, []string{"globex.example"}, "two"},
		{"an anchor of the second, issued by the first, for the first", sub, []string{"acme.example"}, "one"},
		{"an anchor of the second, for names of both", sub, []string{"acme.example", "globex.example"}, out},
		{"an anchor of the second, for nobody's name", sub, []string{"x.example"}, out},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			leaf := c.ca.Issue(pcNames(c.names...)).Leaf()
			for _, chain := range [][]*x509.Certificate{{leaf}, {leaf, sub.Certificate()}} {
				d := pcDecide(t, g, chain...)
				if c.want == out {
					require.Equal(t, out, pcSay(d))
					continue
				}
				require.Equal(t, "a a", pcSay(d))
				require.Equal(t, c.want, d.Identity.Authority())
			}
		})
	}
}

func TestPublicAuthority(t *testing.T) {
	t.Parallel()
	a := mtls.PublicAuthority()
	require.Equal(t, "public", a.Name)
	require.True(t, a.Public)
	require.Equal(t, mtls.ClientOrServerAuth, a.Purpose)
	require.Nil(t, a.Revocation)
	require.Greater(t, len(a.Anchors), 100)
	constrained := 0
	for _, anchor := range a.Anchors {
		require.True(t, anchor.Certificate.IsCA)
		if anchor.Constraint != nil {
			constrained++
		}
	}
	require.Positive(t, constrained, "the bundle's distrust dates are lost")
	a.Anchors[0].Certificate.Raw[0]++ // a copy of its own
	pcRoots(t, mtls.PublicAuthority())
}

func TestRootsReplaceOnALiveConnection(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.Set("api.acme.example", "127.0.0.1")
	cfg := env.Config(mtls.Rule{Name: "r", Domains: []string{"api.acme.example"}})
	g := mtlstest.NewGuard(t, cfg)
	s := mtlstest.NewOptionalServer(t, g, g.Require()(hello))
	c := s.Client(env.CA.Issue(pcNames("api.acme.example")), mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, c, s.URL).Status)
	require.NoError(t, cfg.Roots.Replace(mtlstest.NewCA(t, mtlstest.CAOptions{}).Authority("other")))
	require.Equal(t, "untrusted_issuer", ask(t, c, s.URL).Code)
	require.NoError(t, cfg.Roots.Replace(env.CA.Authority("env")))
	require.Equal(t, 200, ask(t, c, s.URL).Status)
}

// The machine's trust store is never asked. It is read once in a process, so this
// test runs in one of its own.
func TestSystemRootsAreNeverUsed(t *testing.T) {
	const child = "MTLS_TEST_SYSTEM_ROOTS"
	if os.Getenv(child) == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestSystemRootsAreNeverUsed$", "-test.v")
		c.Env = append(os.Environ(), child+"=1", "SSL_CERT_DIR="+t.TempDir())
		out, err := c.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS: TestSystemRootsAreNeverUsed")
		return
	}
	system, own := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	t.Setenv("SSL_CERT_FILE", system.PEMFile())
	leaf := system.Issue(mtlstest.Leaf{Names: []string{"a.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}).Leaf()
	_, err := leaf.Verify(x509.VerifyOptions{})
	require.NoError(t, err, "the system trusts it")
	rule := mtls.Rule{Name: "r", Domains: []string{"a.example"}}
	for _, a := range []mtls.Authority{own.Authority("own"), mtls.PublicAuthority()} {
		g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, a), rule))
		require.Equal(t, "untrusted_issuer", pcSay(pcDecide(t, g, leaf)))
	}
	require.Equal(t, "internal", pcSay(pcDecide(t, &mtls.Guard{}, leaf)))
}
