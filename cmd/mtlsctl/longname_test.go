package main_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// longName is a Name of so many common names.
func longName(n int) []byte {
	rdn := []byte{0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, 'a'}
	return got(asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: bytes.Repeat(rdn, n)}))
}

// Names of strangers may have as many attributes as fit into a file: what is written
// of them is bounded, and that this ends shows that the time is, too. No rule is
// written from what is not shown whole.
func TestLongNamesAreCut(t *testing.T) {
	const n = 58_000 // nearly 1 MiB in PEM
	p, dir := newPKI(), t.TempDir()
	d := folder(dir)
	p.write(d)
	t.Chdir(dir)
	directory := extension(asn1.ObjectIdentifier{2, 5, 29, 17}, []asn1.RawValue{{Class: 2, Tag: 4, IsCompound: true, Bytes: longName(n)}})
	name := asn1.RawValue{Class: 2, IsCompound: true, Bytes: got(asn1.Marshal(asn1.RawValue{Class: 2, IsCompound: true, Bytes: got(asn1.Marshal(asn1.RawValue{Class: 2, Tag: 4, IsCompound: true, Bytes: longName(n)}))}))}
	point := extension(asn1.ObjectIdentifier{2, 5, 29, 31}, [][]asn1.RawValue{{name}})
	long := func(c *x509.Certificate) { c.RawSubject = longName(n) }
	d.certs("subject.pem", p.leaf(p.root, "subject", 0x40, testpki.Options{Template: long}))
	d.certs("san.pem", p.leaf(p.root, "san", 0x41, testpki.Options{Extra: []pkix.Extension{directory}}))
	d.certs("point.pem", p.leaf(p.root, "point", 0x42, testpki.Options{Extra: []pkix.Extension{point}}))
	ca := got(testpki.NewRoot(testpki.Options{Key: newKey("long"), Serial: big.NewInt(4),
		Template: func(c *x509.Certificate) { c.RawSubject = longName(n / 2) }}))
	d.certs("ca2.pem", ca.Certificate)
	d.certs("issuer.pem", p.leaf(ca, "issuer", 0x43, testpki.Options{CommonName: "leaf"}))
	d.write("long.crl", got(ca.CRL(testpki.CRLOptions{})))
	idp := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: got(asn1.Marshal([]asn1.RawValue{name}))}
	d.write("point.crl", got(p.root.CRL(testpki.CRLOptions{Extra: []pkix.Extension{idp}})))

	for _, c := range []struct {
		status int
		args   string
	}{
		{0, "inspect --json subject.pem"}, {0, "inspect --json san.pem"}, {0, "inspect --json point.pem"}, {0, "inspect --json ca2.pem"}, {0, "inspect --json issuer.pem"},
		{1, "explain --json --policy policy.yaml --roots ca.pem --cert subject.pem --from 198.51.100.7 --no-revocation"},
		{0, "crl --json long.crl"}, {0, "crl --json point.crl"},
	} {
		var out, stderr bytes.Buffer
		require.Equal(t, c.status, mtlsctl.Run(strings.Fields(c.args), &out, &stderr), "%s: %s", c.args, &stderr)
		require.Less(t, out.Len(), 64<<10, c.args)
		require.Contains(t, out.String(), "CN=a,...", c.args)
	}
	var out bytes.Buffer
	require.Equal(t, 0, mtlsctl.Run([]string{"inspect", "--json", "subject.pem"}, &out, io.Discard))
	var report struct{ Rules []struct{ Kind string } }
	require.NoError(t, json.Unmarshal(out.Bytes(), &report))
	for _, r := range report.Rules {
		require.NotEqual(t, "subject", r.Kind)
	}
	out.Reset()
	require.Equal(t, 1, mtlsctl.Run([]string{"inspect", "--write", "subject", "--authority", "a", "--origin", "none", "subject.pem"}, &out, io.Discard))
	require.Empty(t, out.String())
}

// What a client sends is no larger than a chain, for every command that reads it.
func TestCertificatesOfClientsAreNoLargerThanAChain(t *testing.T) {
	dir := t.TempDir()
	newPKI().write(folder(dir))
	t.Chdir(dir)
	client := got(os.ReadFile("client.pem"))
	for file, size := range map[string]int{"fits.pem": 1 << 20, "more.pem": 1<<20 + 1} {
		data := append(bytes.Repeat([]byte("\n"), size-len(client)), client...)
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), data, 0o600))
		explain := "explain --policy policy.yaml --roots ca.pem --time " + now + " --no-revocation --from 198.51.100.7 --cert "
		for _, args := range []string{"inspect " + file, "crl --cert " + file + " ca.crl", explain + file, explain + "client.pem --intermediates " + file} {
			var stderr bytes.Buffer
			status := mtlsctl.Run(strings.Fields(args), io.Discard, &stderr)
			require.Equal(t, size > 1<<20, status == 3, "%s: %s", args, &stderr)
			require.Equal(t, size > 1<<20, strings.Contains(stderr.String(), "more than 1048576"), "%s: %s", args, &stderr)
		}
	}
}
