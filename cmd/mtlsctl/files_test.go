package main_test

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
)

// Of a pipe that has no end as much is read as a file may have.
func TestPipesAreReadWithALimit(t *testing.T) {
	if _, err := os.Stat("/dev/fd"); err != nil {
		t.Skip("no /dev/fd")
	}
	dir := t.TempDir()
	newPKI().write(folder(dir))
	t.Chdir(dir)
	explain := "explain --policy policy.yaml --no-revocation "
	for args, limit := range map[string]int{
		"inspect FD": 1 << 20, "crl --cert FD ca.crl": 1 << 20, "crl --issuer FD ca.crl": 16 << 20, explain + "--roots ca.pem --cert FD": 1 << 20,
		explain + "--roots FD --cert client.pem": 16 << 20, explain + "--authority a=FD --cert client.pem": 16 << 20, "lint --roots FD policy.yaml": 16 << 20,
	} {
		in, out, err := os.Pipe()
		require.NoError(t, err)
		written := make(chan int)
		go func() {
			n, data := 0, bytes.Repeat([]byte("\n"), 1<<16)
			for n < 1<<28 {
				more, err := out.Write(data)
				if n += more; err != nil {
					break
				}
			}
			_ = out.Close()
			written <- n
		}()
		var stderr bytes.Buffer
		fd := fmt.Sprintf("/dev/fd/%d", in.Fd())
		require.Equal(t, 3, mtlsctl.Run(strings.Fields(strings.Replace(args, "FD", fd, 1)), io.Discard, &stderr), args)
		require.NoError(t, in.Close())
		require.Less(t, <-written, limit+2<<20, args)
		require.Contains(t, stderr.String(), fmt.Sprintf("more than %d bytes", limit), args)
	}
}

// Files of certificates are read as a service reads them.
func TestCertificatesAreReadAsByAService(t *testing.T) {
	dir := t.TempDir()
	p := newPKI()
	root, sub := p.root.Certificate.Raw, p.sub.Certificate.Raw
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	one := block("CERTIFICATE", root)
	for name, data := range map[string][]byte{
		"one": one, "two": slices.Concat(one, block("CERTIFICATE", sub)), "DER": root, "two in DER": slices.Concat(root, sub), "comments": slices.Concat([]byte("# a CA\n"), one),
		"empty": nil, "blanks": []byte("\n"), "text": []byte("certificate"), "a key": slices.Concat(one, block("X509 CERTIFICATE", sub)), "no certificate": block("CERTIFICATE", []byte{1}),
		"cut": one[:len(one)-9], "damaged armour": slices.Concat(one, bytes.Replace(one, []byte("-----B"), []byte("----B"), 1)), "DER and more": append(slices.Clone(root), 0),
		"the end of one": slices.Concat(one, one[40:]), "dashes": []byte("-----"),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(dir, "ca.pem")
			require.NoError(t, os.WriteFile(file, data, 0o600))
			want, wantErr := mtls.LoadAuthority(file)
			list, err := mtlsctl.LoadCertificates(file, 1<<20)
			require.Equal(t, wantErr == nil, err == nil, "%v, %v", wantErr, err)
			require.Len(t, list, len(want.Anchors))
			for i, c := range list {
				require.Equal(t, want.Anchors[i].Certificate.Raw, c.Raw)
			}
		})
	}
}
