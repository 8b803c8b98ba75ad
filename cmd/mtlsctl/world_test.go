package main_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// fixedKey is a key that is the same in every run, and so are its signatures (RFC
// 6979), so that certificates and what is printed of them are.
type fixedKey struct{ *ecdsa.PrivateKey }

func newKey(name string) fixedKey {
	seed := sha256.Sum256([]byte("mtlsctl test " + name))
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), seed[:])
	must(err)
	return fixedKey{key}
}

func (k fixedKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.PrivateKey.Sign(nil, digest, opts)
}

// shortKey is a public RSA key of 1024 bits that nobody holds.
type shortKey struct{}

func (shortKey) Public() crypto.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), 1023)
	return &rsa.PublicKey{N: n.Add(n, big.NewInt(12345)), E: 65537}
}

func (shortKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, fmt.Errorf("nobody holds it")
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func got[T any](v T, err error) T {
	must(err)
	return v
}

// folder is where certificates and lists are written.
type folder string

func (d folder) write(name string, data []byte) {
	path := filepath.Join(string(d), name)
	must(os.MkdirAll(filepath.Dir(path), 0o700))
	must(os.WriteFile(path, data, 0o600))
}

func (d folder) certs(name string, certs ...*x509.Certificate) {
	var b strings.Builder
	for _, c := range certs {
		must(pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	d.write(name, []byte(b.String()))
}

// pki is what is the same in every run: no server is in it.
type pki struct{ root, sub, stranger *testpki.CA }

func newPKI() pki {
	ca := func(name string, serial int64) testpki.Options {
		return testpki.Options{CommonName: name, Key: newKey(name), Serial: big.NewInt(serial)}
	}
	root := got(testpki.NewRoot(ca("Acme Root CA", 1)))
	return pki{
		root: root, sub: got(root.NewIntermediate(ca("Acme Issuing CA", 0x51))),
		stranger: got(testpki.NewRoot(ca("Stranger CA", 2))),
	}
}

func (p pki) leaf(ca *testpki.CA, name string, serial int64, o testpki.Options) *x509.Certificate {
	if o.Key == nil {
		o.Key = newKey(name)
	}
	o.Serial = big.NewInt(serial)
	return got(ca.Issue(o)).Certificate
}

func extension(oid asn1.ObjectIdentifier, value any) pkix.Extension {
	return pkix.Extension{Id: oid, Value: got(asn1.Marshal(value))}
}

// otherName is an otherName of GeneralNames with a value in DER.
func otherName(oid asn1.ObjectIdentifier, value any) asn1.RawValue {
	explicit := asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: got(asn1.Marshal(value))}
	content := append(got(asn1.Marshal(oid)), got(asn1.Marshal(explicit))...)
	return asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: content}
}

func ia5(tag int, s string) asn1.RawValue {
	return asn1.RawValue{Class: 2, Tag: tag, Bytes: []byte(s)}
}

// write makes every file that scripts and the document use.
func (p pki) write(d folder) {
	d.certs("ca.pem", p.root.Certificate)
	d.certs("sub.pem", p.sub.Certificate)
	d.certs("stranger.pem", p.stranger.Certificate)
	client := p.leaf(p.sub, "client", 0x4ac0ffee, testpki.Options{
		CommonName: "Acme payments", Names: []string{"api.acme.example"},
		Template: func(c *x509.Certificate) {
			c.Subject.Organization, c.Subject.OrganizationalUnit = []string{"Acme *"}, []string{"Payments"}
		},
	})
	d.certs("client.pem", client, p.sub.Certificate)
	d.certs("leaf.pem", client)
	d.write("client.der", client.Raw)
	p.writeOdd(d)
	p.writeLists(d)
	d.write("applicationHost.config", got(os.ReadFile("../../examples/fromiis/applicationHost.config")))
	d.write("policy.yaml", []byte(`version: 1
rules:
  - name: acme
    domains: [api.acme.example]
    roles: [payments]
    origin: {prefixes: [198.51.100.0/28], allow_networks: [198.51.100.0/24]}
`))
}

// writeOdd makes certificates for inspect.
func (p pki) writeOdd(d folder) {
	root := *p.root
	sid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2}
	everything := []asn1.RawValue{
		ia5(2, "a.acme.example"), ia5(2, "b.acme.example"), ia5(1, "ops@acme.example"), ia5(6, "spiffe://acme.example/pay"),
		ia5(7, "\xc6\x33\x64\x07"), otherName(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("svc@corp.example")}),
		otherName(asn1.ObjectIdentifier{1, 2, 3, 5}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("other@corp.example")}), otherName(asn1.ObjectIdentifier{1, 2, 3, 4}, 7), {Class: 2, Tag: 4, IsCompound: true, Bytes: p.root.Certificate.RawSubject},
		{Class: 2, Tag: 8, Bytes: []byte{0x2a, 3, 4}},
	}
	root.CRLURLs, root.OCSPURLs = []string{"http://crl.acme.example/root.crl", "ldap:///CN=Acme"}, []string{"http://ocsp.acme.example"}
	d.certs("everything.pem", p.leaf(&root, "everything", 0x10, testpki.Options{
		CommonName: "Everything", ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		Extra: []pkix.Extension{
			extension(asn1.ObjectIdentifier{2, 5, 29, 17}, everything),
			extension(sid, []asn1.RawValue{otherName(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 25, 2, 1}, []byte("S-1-5-21-1-2-3-500"))}),
			extension(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, []int{5}),
		},
		Template: func(c *x509.Certificate) {
			c.Policies = []x509.OID{got(x509.ParseOID("1.3.6.1.4.1.99999.1"))}
		},
	}))
	odd := func(file string, serial int64, o testpki.Options) { d.certs(file, p.leaf(p.root, file, serial, o)) }
	odd("badsid.pem", 0x34, testpki.Options{Names: []string{"n.acme.example"}, Extra: []pkix.Extension{
		extension(sid, []asn1.RawValue{otherName(asn1.ObjectIdentifier{1, 2, 3}, []byte("S-1-5-21-1-2-3-500"))})}})
	// Names that a rule would take for patterns.
	for file, names := range map[string][]asn1.RawValue{
		"staremail.pem": {ia5(1, "*@acme.example")}, "staruri.pem": {ia5(6, "spiffe://acme.example/*")},
		"starupn.pem":   {otherName(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3}, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("*@corp.example")})},
		"staramong.pem": {ia5(1, "*@acme.example"), ia5(1, "ops@acme.example")},
	} {
		odd(file, 0x35, testpki.Options{Extra: []pkix.Extension{extension(asn1.ObjectIdentifier{2, 5, 29, 17}, names)}})
	}
	odd("nosan.pem", 0x11, testpki.Options{CommonName: "nobody"})
	odd("wildcard.pem", 0x12, testpki.Options{Names: []string{"*.acme.example", "x.acme.example"}})
	odd("onlywild.pem", 0x13, testpki.Options{Names: []string{"*.acme.example"}})
	odd("serverauth.pem", 0x14, testpki.Options{Names: []string{"s.acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	odd("nousage.pem", 0x15, testpki.Options{Names: []string{"n.acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{}})
	odd("anyusage.pem", 0x16, testpki.Options{Names: []string{"n.acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	odd("iponly.pem", 0x17, testpki.Options{Template: func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, []byte{198, 51, 100, 7}) }})
	odd("weak.pem", 0x18, testpki.Options{Names: []string{"w.acme.example"}, Key: shortKey{}, Template: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }})
	odd("week.pem", 0x19, testpki.Options{Names: []string{"w.acme.example"}, NotBefore: testpki.Epoch, NotAfter: testpki.Epoch.AddDate(0, 0, 7)})
	odd("weekandasecond.pem", 0x1a, testpki.Options{Names: []string{"w.acme.example"}, NotBefore: testpki.Epoch, NotAfter: testpki.Epoch.AddDate(0, 0, 7).Add(time.Second)})
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprintf("n%d.acme.example", i)
	}
	odd("many.pem", 0x1e, testpki.Options{Names: many})
	odd("nameless.pem", 0x1f, testpki.Options{Names: []string{"not a name"}})
	odd("emptyusage.pem", 0x30, testpki.Options{Names: []string{"n.acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{},
		Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0}}}})
	odd("nosigning.pem", 0x31, testpki.Options{Names: []string{"n.acme.example"}, KeyUsage: x509.KeyUsageKeyEncipherment})
	odd("proxy.pem", 0x32, testpki.Options{Names: []string{"n.acme.example"}, Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 14}, Value: []byte{0x30, 0}}}})
	pointing := *p.root
	pointing.CRLURLs = []string{"http://crl.acme.example/root.crl"}
	d.certs("norevavail.pem", p.leaf(&pointing, "norevavail", 0x33, testpki.Options{Names: []string{"n.acme.example"},
		Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}}}}))
	ldap := *p.root
	ldap.CRLURLs = []string{"ldap:///CN=Acme"}
	d.certs("ldap.pem", p.leaf(&ldap, "ldap", 0x1b, testpki.Options{Names: []string{"l.acme.example"}}))
	// ESC, CSI in one byte, an end of a line, DEL, and text that turns around.
	const hostile = "x\x1b[2J\x1b]0;owned\x07\nadmitted\u009b31m\x7f\u202egnp"
	d.certs("hostile.pem", p.leaf(p.root, "hostile", 0x1c, testpki.Options{
		CommonName: hostile, Names: []string{"\x1b[2J.acme.example"},
		Template: func(c *x509.Certificate) {
			c.EmailAddresses = []string{"\x1b[31m@acme.example\n"}
			c.URIs = []*url.URL{got(url.Parse("https://acme.example/%1b"))}
			c.CRLDistributionPoints = []string{"http://\x1b[2J/"}
		},
	}))
	// Letters that run from right to left, and one outside of the first plane.
	d.certs("script.pem", p.leaf(p.root, "script", 0x36, testpki.Options{CommonName: "\u0634\u0631\u0643\u0629 \U00010d00"}))
	d.certs("hostilename.pem", p.leaf(p.root, "hostilename", 0x1d, testpki.Options{CommonName: hostile, Names: []string{"api.acme.example"}}))
}

// writeLists makes lists of the issuing CA.
func (p pki) writeLists(d folder) {
	entries := []x509.RevocationListEntry{
		{SerialNumber: big.NewInt(0xbad), RevocationTime: testpki.Epoch.Add(-2 * time.Hour), ReasonCode: 1},
		{SerialNumber: big.NewInt(0xbad2), RevocationTime: testpki.Epoch.Add(-3 * time.Hour)},
	}
	list := func(file string, o testpki.CRLOptions) []byte {
		if o.Entries == nil {
			o.Entries = entries
		}
		o.Number = big.NewInt(7)
		der := got(p.sub.CRL(o))
		d.write(file, der)
		return der
	}
	d.write("root.crl", got(p.root.CRL(testpki.CRLOptions{})))
	der := list("ca.crl", testpki.CRLOptions{})
	d.write("lists/ca.crl", der)
	block := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
	d.write("ca.crl.pem", block)
	d.write("two.crl.pem", slices.Concat(block, block))
	damaged := slices.Clone(der)
	damaged[len(damaged)-1] ^= 1
	d.write("damaged.crl", damaged)
	d.write("forged.crl", got(p.sub.CRL(testpki.CRLOptions{Signer: p.stranger, Entries: entries})))
	d.write("stranger.crl", got(p.stranger.CRL(testpki.CRLOptions{})))
	part := func(s testpki.Scope) testpki.CRLOptions {
		return testpki.CRLOptions{Extra: []pkix.Extension{got(s.Extension())}}
	}
	point := func(urls ...string) testpki.PointName { return testpki.PointName{URIs: urls} }
	list("user.crl", part(testpki.Scope{UserOnly: true}))
	list("cas.crl", part(testpki.Scope{CAOnly: true}))
	list("shard.crl", part(testpki.Scope{PointName: point("http://crl.acme.example/7.crl", "http://crl2.acme.example/7.crl\x1b[2J"), UserOnly: true}))
	list("reasons.crl", part(testpki.Scope{SomeReasons: []int{1, 2}}))
	list("indirect.crl", part(testpki.Scope{Indirect: true}))
	list("noextent.crl", testpki.CRLOptions{ThisUpdate: testpki.Epoch, NextUpdate: testpki.Epoch})
	shardDelta := part(testpki.Scope{PointName: point("http://crl.acme.example/7.crl")})
	shardDelta.BaseNumber = big.NewInt(5)
	list("sharddelta.crl", shardDelta)
	list("delta.crl", testpki.CRLOptions{BaseNumber: big.NewInt(5), Entries: []x509.RevocationListEntry{
		entries[0], {SerialNumber: big.NewInt(0xbad3), RevocationTime: testpki.Epoch.Add(-time.Hour), ReasonCode: 8},
	}})
	d.write("version1.crl", got(p.sub.CRL(testpki.CRLOptions{Version1: true})))
	shard := *p.sub
	shard.CRLURLs = []string{"http://crl.acme.example/7.crl"}
	d.certs("sharded.pem", p.leaf(&shard, "sharded", 0x20, testpki.Options{Names: []string{"api.acme.example"}}))
	d.certs("revoked.pem", p.leaf(p.sub, "revoked", 0xbad, testpki.Options{Names: []string{"api.acme.example"}}))
	d.certs("rootleaf.pem", p.leaf(p.root, "rootleaf", 0xbad, testpki.Options{Names: []string{"api.acme.example"}}))
	// Another CA of the same name, with the same serial number.
	twin := got(testpki.NewRoot(testpki.Options{CommonName: "Acme Issuing CA", Key: newKey("twin"), Serial: big.NewInt(3)}))
	d.certs("twinca.pem", twin.Certificate)
	d.certs("twinclient.pem", p.leaf(twin, "twinclient", 0x4ac0ffee, testpki.Options{Names: []string{"api.acme.example"}}))
	d.certs("twin.pem", p.leaf(twin, "twinleaf", 0xbad, testpki.Options{Names: []string{"api.acme.example"}}))
}

// online is what has servers: it differs in ports from run to run.
type online struct {
	dns   *mtlstest.DNS
	rev   *mtlstest.RevocationServer
	certs map[string]*mtlstest.Certificate
}

// tb lets mtlstest work in a script.
type tb struct{ env *testscript.Env }

func (tb) Helper()                           {}
func (b tb) Cleanup(f func())                { b.env.Defer(f) }
func (tb) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (b tb) TempDir() string                 { return got(os.MkdirTemp(b.env.WorkDir, "tmp")) }

const now = "2026-01-01T00:00:00Z" // testpki.Epoch

func setup(env *testscript.Env) error {
	newPKI().write(folder(env.WorkDir))
	clock := mtlstest.NewClock(testpki.Epoch)
	w := &online{dns: mtlstest.NewDNS(tb{env}), rev: mtlstest.NewRevocationServer(tb{env}, clock.Now), certs: map[string]*mtlstest.Certificate{}}
	serial := int64(0x100)
	numbered := func(c *x509.Certificate) { serial++; c.SerialNumber = big.NewInt(serial) }
	ca := mtlstest.NewCA(tb{env}, mtlstest.CAOptions{CommonName: "Online CA", Now: clock.Now, Key: newKey("online"), Template: numbered})
	w.rev.Serve(ca)
	d := folder(filepath.Join(env.WorkDir, "online"))
	d.certs("ca.pem", ca.Certificate())
	for _, name := range []string{"acme", "globex", "umbrella", "expired", "crlonly", "nosource", "future", "server"} {
		l := mtlstest.Leaf{Names: []string{"api." + name + ".example"}, Key: newKey("online " + name), Template: numbered}
		switch name {
		case "expired":
			l.NotBefore, l.NotAfter = testpki.Epoch.AddDate(-1, 0, 0), testpki.Epoch.Add(-time.Hour)
		case "future":
			l.NotBefore = testpki.Epoch.Add(time.Hour)
		case "crlonly":
			l.Sources = mtlstest.OnlyCRL
		case "nosource":
			l.Sources = mtlstest.NoSources
		case "server":
			l.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}
		w.certs[name] = ca.Issue(l)
		d.certs(name+".pem", w.certs[name].Leaf())
		w.dns.Set("api."+name+".example", "192.0.2.7")
	}
	env.Setenv("DOT", overTLS(env, w.dns))
	list := got(url.Parse(w.certs["crlonly"].Leaf().CRLDistributionPoints[0]))
	env.Values["world"] = w
	env.Setenv("DNS", w.dns.Addr().String())
	env.Setenv("CRLURL", list.String())
	env.Setenv("NOW", now)
	return nil
}

// overTLS serves the same names over TLS (RFC 7858), and writes the certificate of
// the server's CA to dot/ca.pem. That is valid now: the DNS client's clock is the
// machine's.
func overTLS(env *testscript.Env, names *mtlstest.DNS) string {
	ca := mtlstest.NewCA(tb{env}, mtlstest.CAOptions{CommonName: "DNS CA"})
	cert := ca.Issue(mtlstest.Leaf{Names: []string{"dns.acme.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		Template: func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }})
	folder(filepath.Join(env.WorkDir, "dot")).certs("ca.pem", ca.Certificate())
	l := got(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert.TLS()}}))
	ready := make(chan struct{})
	server := &dns.Server{Listener: l, Handler: names, NotifyStartedFunc: func() { close(ready) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe() // until Shutdown
	}()
	<-ready
	env.Defer(func() {
		_ = server.Shutdown()
		<-done
	})
	return l.Addr().String()
}

// revoke NAME.
func revoke(ts *testscript.TestScript, _ bool, args []string) {
	w := ts.Value("world").(*online)
	w.rev.Revoke(w.certs[args[0]], 1)
}

// revserver down|works|stale|wrongsigner|hang|redirect.
func faulty(ts *testscript.TestScript, _ bool, args []string) {
	f, ok := map[string]mtlstest.Fault{"down": mtlstest.Down, "works": mtlstest.NoFault, "stale": mtlstest.Stale, "wrongsigner": mtlstest.WrongSigner,
		"hang": mtlstest.Hang, "redirect": mtlstest.Redirect, "garbage": mtlstest.Garbage, "html": mtlstest.HTML}[args[0]]
	if !ok {
		ts.Fatalf("no such fault")
	}
	ts.Value("world").(*online).rev.Fail(f)
}

// dns NAME silent|servfail|nxdomain|authenticate|ADDRESS.
func nameServer(ts *testscript.TestScript, _ bool, args []string) {
	d := ts.Value("world").(*online).dns
	switch args[1] {
	case "silent":
		d.Fail(args[0], mtlstest.DNSSilent)
	case "servfail":
		d.Fail(args[0], mtlstest.DNSServFail)
	case "nxdomain":
		d.Remove(args[0])
	case "authenticate":
		d.Authenticate(args[0], true)
	default:
		d.Set(args[0], args[1:]...)
	}
}
