package main_test

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/testpki"
)

const document = "../../docs/mtlsctl.md"

// docWorld makes the files that the document's commands use.
func docWorld(dir string) {
	d := folder(dir)
	ca := got(testpki.NewRoot(testpki.Options{CommonName: "Partner CA", Key: newKey("doc ca"), Serial: big.NewInt(1)}))
	leaf := func(file string, serial int64) {
		d.certs(file, got(ca.Issue(testpki.Options{
			Names: []string{"api.acme.example"}, CommonName: "Acme payments", Key: newKey(file), Serial: big.NewInt(serial),
		})).Certificate)
	}
	d.certs("ca.pem", ca.Certificate)
	leaf("client.pem", 0x4ac0ffee)
	leaf("revoked.pem", 0xbad)
	d.write("lists/ca.crl", got(ca.CRL(testpki.CRLOptions{Entries: []x509.RevocationListEntry{
		{SerialNumber: big.NewInt(0xbad), RevocationTime: testpki.Epoch.Add(-2 * time.Hour), ReasonCode: 1},
	}})))
	d.write("policy.yaml", []byte(`version: 1
rules:
  - name: acme
    domains: [api.acme.example]
    roles: [payments]
    origin:
      prefixes: [198.51.100.0/28]
      allow_networks: [198.51.100.0/24]
`))
	d.write("wrong.yaml", []byte(`version: 1
rules:
  - name: acme
    domains: [api.acme.example, "*.example"]
    authorities: [partners]
  - name: globex
    domian: [hooks.globex.example]
`))
}

// What the document shows is what the commands print.
func TestDocument(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	data, err := os.ReadFile(document)
	require.NoError(t, err)
	dir := t.TempDir()
	docWorld(dir)
	var out bytes.Buffer
	const begin, end = "<!-- run -->\n```console\n", "```\n"
	rest, n := string(data), 0
	for {
		before, block, ok := strings.Cut(rest, begin)
		out.WriteString(before)
		if !ok {
			break
		}
		n++
		block, rest, ok = strings.Cut(block, end)
		require.True(t, ok, "a block without an end")
		out.WriteString(begin)
		for line := range strings.Lines(block) {
			command, is := strings.CutPrefix(line, "$ ")
			if !is {
				continue
			}
			cmd := exec.Command(sh, "-c", command)
			cmd.Dir = dir
			printed, _ := cmd.CombinedOutput() // a status other than 0 is a part of what is shown
			out.WriteString(line)
			out.Write(printed)
		}
		out.WriteString(end)
	}
	require.Greater(t, n, 7)
	require.Equal(t, n, strings.Count(string(data), "```console"), "every block is run")
	if *update {
		require.NoError(t, os.WriteFile(document, out.Bytes(), 0o644))
		return
	}
	require.Equal(t, out.String(), string(data))
}
