package mtls_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// pcForge is a trusted CA that signs whatever it is asked to, also what
// crypto/x509 would not parse.
type pcForge struct {
	ca  *mtlstest.CA
	key *ecdsa.PrivateKey
}

func pcNewForge(t testing.TB) pcForge {
	t.Helper()
	key := pcKey(t)
	return pcForge{mtlstest.NewCA(t, mtlstest.CAOptions{Key: key}), key}
}

// leaf returns the DER of a client certificate with the dNSNames byte for byte.
func (f pcForge) leaf(t testing.TB, key *ecdsa.PrivateKey, cn string, names ...string) []byte {
	t.Helper()
	var sans []asn1.RawValue
	for _, n := range names {
		sans = append(sans, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(n)})
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(sans) > 0 {
		c.ExtraExtensions = []pkix.Extension{pcSAN(t, sans...)}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, f.ca.Certificate(), key.Public(), f.key)
	require.NoError(t, err)
	return der
}

// pcRaw presents bytes as crypto/tls does: a certificate whose fields nobody has
// read yet.
func pcRaw(ders ...[]byte) []*x509.Certificate {
	var list []*x509.Certificate
	for _, der := range ders {
		list = append(list, &x509.Certificate{Raw: der})
	}
	return list
}

// pcTame requires that what an operator reads of a refusal is short, on one line
// and printable ASCII, whatever the client sent (CVE-2025-58189, CVE-2025-25294).
func pcTame(t testing.TB, text string, most int) {
	t.Helper()
	require.LessOrEqual(t, len(text), most, "%.200q", text)
	for i := range len(text) {
		require.True(t, text[i] >= ' ' && text[i] <= '~', "byte %d of %.200q", i, text)
	}
}

// pcRefused decides on the bytes in both phases, and looks at everything that a
// refusal says.
func pcRefused(t testing.TB, g *mtls.Guard, ders ...[]byte) *mtls.Decision {
	t.Helper()
	cs := tls.ConnectionState{HandshakeComplete: true, PeerCertificates: pcRaw(ders...)}
	d, err := g.Check(context.Background(), mtls.Peer{TLS: cs, RemoteAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
	require.Error(t, err)
	require.False(t, d.Admitted)
	require.Nil(t, d.Identity)
	require.NotEqual(t, mtls.ReasonInternal, d.Reason, d.Detail()) // a panic
	pcTame(t, err.Error(), 600)
	pcTame(t, d.Subject, 520)
	pcTame(t, d.Serial, 100)
	require.LessOrEqual(t, len(d.Names), 10)
	for _, n := range d.Names {
		pcTame(t, n, 520)
	}
	for _, s := range d.Steps {
		pcTame(t, s.Detail, 1200)
	}
	for _, err := range []error{g.VerifyConnection(cs), g.VerifyPeerCertificate(ders, nil)} {
		require.Error(t, err)
		var denied *mtls.DeniedError
		require.ErrorAs(t, err, &denied)
		require.Equal(t, d.Reason, denied.Reason)
		pcTame(t, err.Error(), 600)
	}
	return d
}

// pcAnybody admits every client of the CA: what is refused is refused for what
// it is.
func pcAnybody(t testing.TB, f pcForge) *mtls.Guard {
	t.Helper()
	return mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, f.ca.Authority("one")), mtls.Rule{Name: "r", InsecureAnyClient: true, Origin: mtls.NoOrigin()}))
}

func TestThreat61_OddNames(t *testing.T) {
	t.Parallel()
	f, key := pcNewForge(t), pcKey(t)
	g := pcAnybody(t, f)
	label := strings.Repeat("a", 63)
	const pass, bad = "r r", "malformed_certificate"
	for _, c := range []struct{ name, san, want string }{
		{"sound", "good.example", pass},
		{"upper case", "GOOD.Example", pass},
		{"underscore", "_acme-challenge.good_1.example", pass},
		{"digits", "1.2.3.4.example", pass},
		{"one label", "localhost", pass},
		{"label of 63 bytes", label + ".example", pass},
		{"label of 64 bytes", label + "a.example", bad},
		{"name of 253 bytes", strings.Join([]string{label, label, label, label[:61]}, "."), pass},
		{"name of 254 bytes", strings.Join([]string{label, label, label, label[:62]}, "."), bad},
		{"empty", "", bad},
		{"dot", ".", bad},
		{"leading dot", ".good.example", bad},
		{"final dot", "good.example.", bad},
		{"two dots", "good..example", bad},
		// CVE-2026-47778: what C code takes for the end of the name.
		{"NUL", "good.example\x00.evil.example", bad},
		{"NUL at the end", "good.example\x00", bad},
		{"line break", "good.example\r\nadmitted: yes", bad},
		{"escape sequence", "good.example\x1b[2K", bad},
		{"DEL", "good\x7f.example", bad},
		{"blank", "good .example", bad},
		{"blank before it", " good.example", bad},
		{"tab", "good.example\t", bad},
		{"not ASCII", "b\xfccher.example", bad},
		{"UTF-8", "bücher.example", bad},
		{"full-width dot", "good。example", bad},
		{"percent escape", "good%2eexample", bad},
		{"slash", "good.example/evil", bad},
		{"backslash", `good.example\evil`, bad},
		{"at sign", "user@good.example", bad},
		{"port", "good.example:443", bad},
		{"URL", "https://good.example", bad},
		{"IPv4 address", "192.0.2.1", bad},
		{"short IPv4 address", "127.1", bad},
		{"IPv4 address as a number", "2130706433", bad},
		{"IPv4 address in hexadecimal", "0x7f000001", bad},
		{"ends in a hexadecimal number", "good.0x7f", bad},
		{"IPv6 address", "2001:db8::1", bad},
		{"IPv6 address in brackets", "[2001:db8::1]", bad},
		{"leading hyphen", "-good.example", bad},
		{"final hyphen", "good-.example", bad},
		{"star", "*", bad},
		{"wildcard", "*.good.example", pass},
		{"partial wildcard", "w*.good.example", bad},
		{"wildcard in the middle", "a.*.example", bad},
		{"two wildcards", "*.*.example", bad},
		// CVE-2026-39821: A-labels that some decode to an ASCII name.
		{"A-label", "xn--bcher-kva.example", pass},
		{"A-label in upper case", "XN--BCHER-KVA.example", pass},
		{"empty A-label", "xn--.example", bad},
		{"A-label of ASCII", "xn--example-.example", bad},
		{"A-label of ASCII, upper case", "XN--EXAMPLE-.example", bad},
		{"A-label that does not decode", "xn--999999999.example", bad},
		{"A-label under a wildcard", "*.xn--example-.example", bad},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ders := [][]byte{f.leaf(t, key, "x", "fine.example", c.san)}
			if c.want == pass {
				d, err := g.Check(t.Context(), mtls.Peer{TLS: tls.ConnectionState{HandshakeComplete: true, PeerCertificates: pcRaw(ders...)}})
				require.NoError(t, err)
				require.True(t, d.Admitted)
				return
			}
			require.Equal(t, c.want, pcSay(pcRefused(t, g, ders...)))
		})
	}
}

// What a peer may send is bounded before it is read, and so is what is said of
// it (CVE-2025-61729: time and text that grow with the square of the names).
func TestOversizedAndDamagedChains(t *testing.T) {
	t.Parallel()
	f, key := pcNewForge(t), pcKey(t)
	g := pcAnybody(t, f)
	good := f.leaf(t, key, "x", "good.example")
	names := func(n int) []byte {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf("a.b%d", i%10)
		}
		return f.leaf(t, key, "x", list...)
	}
	long := f.leaf(t, key, strings.Repeat("\r\n\x1b[31m\u202e<script>", 60), "good.example")
	stranger := pcNewForge(t)
	const bad = "malformed_certificate"
	for _, c := range []struct {
		name string
		ders [][]byte
		want string
		in   string // of the detail
	}{
		{"no certificates", nil, "no_certificate", ""},
		{"11 certificates", pcTimes(good, 11), bad, "11 certificates, more than 10"},
		{"70 KiB in one", [][]byte{good, make([]byte, 70<<10)}, bad, "bytes of certificates, more than 65536"},
		{"70 KiB in ten", append([][]byte{good}, pcTimes(make([]byte, 8<<10), 9)...), bad, "more than 65536"},
		{"10,000 names", [][]byte{names(10_000)}, bad, "10000 subject alternative names, more than 256"},
		{"257 names", [][]byte{names(257)}, bad, "257 subject alternative names"},
		{"10,000 names of a stranger", [][]byte{stranger.leaf(t, key, "x", strings.Split(strings.Repeat("a.b ", 10_000), " ")[:10_000]...)}, bad, "10000"},
		{"empty certificate", [][]byte{{}}, bad, "certificate 0"},
		{"garbage", [][]byte{[]byte("no DER\x00\r\n\x1b[2J")}, bad, "certificate 0"},
		{"garbage beside a good one", [][]byte{good, []byte("no DER")}, bad, "certificate 1"},
		{"truncated", [][]byte{good[:len(good)-1]}, bad, "certificate 0"},
		{"with a byte after it", [][]byte{append(bytes.Clone(good), 0)}, bad, "certificate 0"},
		{"nested a thousand times", [][]byte{bytes.Repeat([]byte{0x30, 0x80}, 1000)}, bad, "certificate 0"},
		{"a length of 4 GiB", [][]byte{{0x30, 0x84, 0xff, 0xff, 0xff, 0xff}}, bad, "certificate 0"},
		{"control bytes in the subject, untrusted", [][]byte{stranger.leaf(t, key, strings.Repeat("\r\n\x1b[31m", 50), "good.example")}, "untrusted_issuer", ""},
		{"signature altered", [][]byte{append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1)}, "untrusted_issuer", ""},
		{"the CA's own certificate", [][]byte{f.ca.Certificate().Raw}, "key_usage", "CA certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := pcRefused(t, g, c.ders...)
			require.Equal(t, c.want, pcSay(d))
			require.Contains(t, d.Detail(), c.in)
		})
	}
	t.Run("256 names are admitted", func(t *testing.T) {
		require.True(t, pcDecide(t, g, pcRaw(names(256))...).Admitted)
	})
	t.Run("10 certificates are admitted", func(t *testing.T) {
		require.True(t, pcDecide(t, g, pcRaw(pcTimes(good, 10)...)...).Admitted)
	})
	t.Run("a subject of control bytes is admitted, and tame", func(t *testing.T) {
		d := pcDecide(t, g, pcRaw(long)...)
		require.True(t, d.Admitted)
		pcTame(t, d.Subject, 520)
	})
	t.Run("other limits", func(t *testing.T) {
		cfg := pcConfig(t, pcRoots(t, f.ca.Authority("one")), mtls.Rule{Name: "r", InsecureAnyClient: true, Origin: mtls.NoOrigin()})
		cfg.Limits = mtls.Limits{Certificates: 2, Names: 3, Bytes: 2 * len(names(4))}
		g := mtlstest.NewGuard(t, cfg)
		require.True(t, pcDecide(t, g, pcRaw(names(3), good)...).Admitted)
		require.Equal(t, bad, pcSay(pcRefused(t, g, names(4))))
		require.Equal(t, bad, pcSay(pcRefused(t, g, good, good, good)))
		require.Equal(t, bad, pcSay(pcRefused(t, g, good, make([]byte, cfg.Limits.Bytes))))
	})
}

func pcTimes(der []byte, n int) [][]byte {
	list := make([][]byte, n)
	for i := range list {
		list[i] = der
	}
	return list
}

// A mesh of CAs that have all issued each other has more chains than anybody
// wants to build.
func TestMeshOfCAs(t *testing.T) {
	t.Parallel()
	root := mtlstest.NewCA(t, mtlstest.CAOptions{})
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{})
	for name, top := range map[string]*mtlstest.CA{"trusted": root, "untrusted": stranger} {
		t.Run(name, func(t *testing.T) {
			options := make([]mtlstest.CAOptions, 3)
			for i := range options {
				options[i] = mtlstest.CAOptions{CommonName: fmt.Sprint("M", i), Key: pcKey(t)}
			}
			var mesh []*mtlstest.CA
			for _, o := range options {
				mesh = append(mesh, top.Intermediate(o))
			}
			chain := []*x509.Certificate{mesh[0].Issue(pcNames("a.example")).Leaf(), mesh[0].Certificate(), mesh[1].Certificate(), mesh[2].Certificate()}
			for i := range mesh {
				for j, o := range options {
					if i != j {
						chain = append(chain, mesh[i].Intermediate(o).Certificate())
					}
				}
			}
			require.Len(t, chain, 10)
			g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, root.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"a.example"}}))
			d := pcDecide(t, g, chain...)
			require.Equal(t, map[string]string{"trusted": "r r a.example", "untrusted": "untrusted_issuer"}[name], pcSay(d))
			if d.Admitted {
				var n int
				_, err := fmt.Sscanf(d.Steps[1].Detail, "%d chains", &n)
				require.NoError(t, err)
				require.LessOrEqual(t, n, 100)
			}
		})
	}
}

// CVE-2026-32280, CVE-2023-29409: whoever has a copy of a trusted certificate may
// send junk with it, before its key is proved: nine certificates for one key, of
// which each may have issued each other. They have nothing to do with the
// client's chain and must cost hardly more than reading them. Work is counted in
// allocations, of which a signature check has a dozen.
func TestJunkBesideAGoodChain(t *testing.T) {
	f, other, key := pcNewForge(t), mtlstest.NewCA(t, mtlstest.CAOptions{}), pcKey(t)
	one, two := f.ca.Authority("one"), other.Authority("two")
	one.Domains, two.Domains = []string{"good.example"}, []string{"other.example"}
	two.Revocation = &mtls.Revocation{LeafOnly: true} // settings that differ
	g := mtlstest.NewGuard(t, pcConfig(t, pcRoots(t, one, two), mtls.Rule{Name: "r", Domains: []string{"good.example"}}))
	good := f.leaf(t, key, "x", "good.example")
	chain := [][]byte{good}
	for i := range 9 {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i)), Subject: pkix.Name{CommonName: "junk"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: true, DNSNames: []string{fmt.Sprintf("j%d.example", i)}, // crypto/x509 takes other names for another CA
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		require.NoError(t, err)
		chain = append(chain, der)
	}
	work := func(ders ...[]byte) float64 {
		return testing.AllocsPerRun(5, func() { _ = g.VerifyConnection(tls.ConnectionState{PeerCertificates: pcRaw(ders...)}) })
	}
	require.Less(t, work(chain...), 3*work(pcTimes(good, 10)...))
}

// crypto/tls reads the certificates before we do; what it lets through is
// refused all the same, and the server goes on.
func TestBadPeersOverTheWire(t *testing.T) {
	t.Parallel()
	f, key := pcNewForge(t), pcKey(t)
	var reached atomic.Int32
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	good := f.leaf(t, key, "x", "good.example")
	sans := strings.Split(strings.Repeat("a.b ", 10_000), " ")[:10_000]
	for _, required := range []bool{false, true} {
		g := pcAnybody(t, f)
		serve := mtlstest.NewServer(t, g, count)
		if !required {
			serve = mtlstest.NewOptionalServer(t, g, g.Require()(count))
		}
		present := func(ders ...[]byte) *http.Client {
			pair := &tls.Certificate{Certificate: ders, PrivateKey: key, Leaf: f.ca.Certificate()}
			if c, err := x509.ParseCertificate(ders[0]); err == nil {
				pair.Leaf = c
			} else {
				pair.Leaf = &x509.Certificate{PublicKey: key.Public()}
			}
			return serve.Client(nil, mtlstest.ClientOptions{TLS: func(c *tls.Config) {
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
			}})
		}
		for name, ders := range map[string][][]byte{
			"garbage":             {[]byte("no DER\x00\r\n")},
			"garbage behind it":   {good, []byte("no DER")},
			"11 certificates":     pcTimes(good, 11),
			"70 KiB":              {f.leaf(t, key, "x", append(sans, strings.Repeat("a", 20<<10))...)},
			"10,000 names":        {f.leaf(t, key, "x", sans...)},
			"NUL":                 {f.leaf(t, key, "x", "good.example\x00.evil")},
			"line break":          {f.leaf(t, key, "x", "good.example\r\nX: y")},
			"another's signature": {good[:len(good)-1]},
		} {
			t.Run(fmt.Sprintf("%s, required %t", name, required), func(t *testing.T) {
				r, err := get(present(ders...), serve.URL)
				if err == nil {
					require.Equal(t, 403, r.Status)
					require.Equal(t, "malformed_certificate", r.Code)
					pcTame(t, strings.TrimSpace(r.Body), 600)
				}
				require.Zero(t, reached.Load())
			})
		}
		t.Run(fmt.Sprintf("and a good one still counts, required %t", required), func(t *testing.T) {
			require.Equal(t, 200, ask(t, present(good), serve.URL).Status)
			require.EqualValues(t, 1, reached.Swap(0))
		})
	}
}

// FuzzCheck: bytes that nobody whom we list has signed never panic, never admit,
// and are refused in the handshake and in the request for the same reason.
func FuzzCheck(f *testing.F) {
	trusted, stranger := pcNewForge(f), pcNewForge(f)
	key := pcKey(f)
	cfg := pcConfig(f, pcRoots(f, trusted.ca.Authority("one")), mtls.Rule{Name: "r", Domains: []string{"good.example"}},
		mtls.Rule{Name: "d", Deny: true, Domains: []string{"*.evil.example"}})
	cfg.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) // formats everything
	g := mtlstest.NewGuard(f, cfg)
	part := func(ders ...[]byte) (data []byte) {
		for _, der := range ders {
			data = append(binary.BigEndian.AppendUint16(data, uint16(len(der))), der...)
		}
		return data
	}
	unlisted := trusted.leaf(f, key, "good.example", "other.example", "*.example")
	f.Add(part())
	f.Add(part(unlisted))
	f.Add(part(unlisted, trusted.ca.Certificate().Raw, stranger.ca.Certificate().Raw))
	f.Add(part(trusted.leaf(f, key, "x", "a.evil.example", "good.example")))
	f.Add(part(trusted.leaf(f, key, "x", "good.example\x00")))
	f.Add(part(stranger.leaf(f, key, "x", "good.example"), stranger.ca.Certificate().Raw))
	f.Add(part(trusted.ca.Certificate().Raw))
	f.Add(part([]byte("garbage"), nil, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var ders [][]byte
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			ders, data = append(ders, data[2:2+n]), data[2+n:]
		}
		pcRefused(t, g, ders...)
	})
}
