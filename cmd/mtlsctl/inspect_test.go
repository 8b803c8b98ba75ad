package main_test

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// mersenneKey is an RSA key whose modulus is the prime 2^n-1, so that one of any size
// is there at once: what it signs verifies.
type mersenneKey int

func (k mersenneKey) modulus() *big.Int {
	one := big.NewInt(1)
	return new(big.Int).Sub(new(big.Int).Lsh(one, uint(k)), one)
}

func (k mersenneKey) Public() crypto.PublicKey { return &rsa.PublicKey{N: k.modulus(), E: 65537} }

// Sign is RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2.1).
func (k mersenneKey) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	n := k.modulus()
	d := new(big.Int).ModInverse(big.NewInt(65537), new(big.Int).Sub(n, big.NewInt(1)))
	size := (int(k) + 7) / 8
	info := append([]byte{0x30, 0x31, 0x30, 0x0d, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20}, digest...)
	padding := bytes.Repeat([]byte{0xff}, size-len(info)-3)
	encoded := append(append(append([]byte{0, 1}, padding...), 0), info...)
	return new(big.Int).Exp(new(big.Int).SetBytes(encoded), d, n).FillBytes(make([]byte, size)), nil
}

// The keys of a file from outside may be of any size: those that TLS would not take
// either are not calculated with.
func TestInspectDoesNotCalculateWithKeysThatTLSRefuses(t *testing.T) {
	for bits, want := range map[mersenneKey]int{4423: 0, 9689: 1} {
		ca := got(testpki.NewRoot(testpki.Options{CommonName: "Large CA", Key: bits, Serial: big.NewInt(1),
			Template: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSA }}))
		leaf := got(ca.Issue(testpki.Options{Names: []string{"api.acme.example"}, Key: newKey("large"), Serial: big.NewInt(2),
			Template: func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA256WithRSA }})).Certificate
		require.NoError(t, leaf.CheckSignatureFrom(ca.Certificate))
		dir := t.TempDir()
		folder(dir).certs("large.pem", leaf, ca.Certificate)
		file := filepath.Join(dir, "large.pem")

		var out bytes.Buffer
		require.Equal(t, want, mtlsctl.Run([]string{"inspect", "--write", "issuer-key", "--origin", "none", file}, &out, io.Discard), "%d bits", bits)
		require.Equal(t, want == 0, out.Len() > 0, "%d bits", bits)
		out.Reset()
		require.Equal(t, 0, mtlsctl.Run([]string{"inspect", file}, &out, io.Discard))
		require.Equal(t, want == 0, bytes.Contains(out.Bytes(), []byte("\n  issuer-key ")), "%d bits", bits)
	}
}

// A file for inspect is a client's certificate and its chain: it has no use for more
// than 1 MiB, and a pipe may have no more than a file.
func TestInspectReadsNoMoreThanAChain(t *testing.T) {
	dir := t.TempDir()
	ca := newPKI().root.Certificate
	list := make([]*x509.Certificate, 1<<20/len(ca.Raw)+1)
	for i := range list {
		list[i] = ca
	}
	var der []byte
	for _, c := range list {
		der = append(der, c.Raw...)
	}
	for name, data := range map[string][]byte{"fits": der[:len(der)-len(ca.Raw)], "more": der} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, data, 0o600))
		var stderr bytes.Buffer
		want := map[string]int{"fits": 0, "more": 3}[name]
		require.Equal(t, want, mtlsctl.Run([]string{"inspect", file}, io.Discard, &stderr), "%s: %s", name, &stderr)

		if _, err := os.Stat("/dev/fd"); err != nil {
			continue
		}
		in, out, err := os.Pipe()
		require.NoError(t, err)
		go func() {
			_, _ = out.Write(data) // inspect says what came of it
			_ = out.Close()
		}()
		fd := filepath.Join("/dev/fd", strconv.Itoa(int(in.Fd())))
		stderr.Reset()
		require.Equal(t, want, mtlsctl.Run([]string{"inspect", fd}, io.Discard, &stderr), "%s: %s", name, &stderr)
		require.Equal(t, want == 3, bytes.Contains(stderr.Bytes(), []byte("more than 1048576")), "%s: %s", name, &stderr)
		require.NoError(t, in.Close())
	}
}
