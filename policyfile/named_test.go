package policyfile_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// naming is a file whose rules have the origin none and these lines, each.
func naming(rules ...string) string {
	text := "version: 1\nrules:\n"
	for i, r := range rules {
		text += fmt.Sprintf("  - name: r%d\n    origin: none\n    %s\n", i, r)
	}
	return text
}

// keysFile writes a file with one key so many times, and returns the folder.
func keysFile(t *testing.T, keys map[string]int) string {
	der, err := x509.MarshalPKIXPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	require.NoError(t, err)
	block := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	dir := t.TempDir()
	for name, n := range keys {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat(block, n), 0o600))
	}
	return dir
}

func TestAFileIsNamedOnceInAList(t *testing.T) {
	dir := keysFile(t, map[string]int{"a.pem": 1, "b.pem": 1})
	for list, column := range map[string]int{
		"[a.pem, b.pem, a.pem]":                              38,
		"[a.pem, ./a.pem]":                                   31,
		"[sub/../a.pem, b.pem, a.pem]":                       45,
		"[a.pem, \"" + filepath.Join(dir, "a.pem") + "\"]":   31,
		"[\"" + filepath.Join(dir, "b.pem") + "\", b.pem]":   len(filepath.Join(dir, "b.pem")) + 28,
		"[\"" + filepath.Join(dir, "b.pem") + "\", ./b.pem]": len(filepath.Join(dir, "b.pem")) + 28,
	} {
		_, err := policyfile.Parse([]byte(naming("public_key_files: "+list)), filepath.Join(dir, "policy.yaml"))
		require.ErrorContains(t, err, fmt.Sprintf("policy.yaml:5:%d: public_key_files: ", column), list)
		require.ErrorContains(t, err, "is listed twice", list)
	}
	rules, err := policyfile.Parse([]byte(naming("public_key_files: [a.pem, b.pem]", "public_key_files: [a.pem]")), filepath.Join(dir, "policy.yaml"))
	require.NoError(t, err)
	require.Len(t, rules[0].PublicKeys, 2)
	require.Equal(t, rules[0].PublicKeys[:1], rules[1].PublicKeys)
}

// However often a file is named, it is parsed once, and each kind of list takes of it
// what it is for.
func TestAFileIsParsedOnce(t *testing.T) {
	dir := keysFile(t, map[string]int{"a.pem": 1, "b.pem": 1})
	reads, failed, unchanged := policyfile.Named(dir, "a.pem", "b.pem", "./a.pem", "a.pem", filepath.Join(dir, "b.pem"), "none.pem", "none.pem")
	require.Equal(t, 2, reads)
	require.Equal(t, []error{nil, nil, nil, nil, nil}, failed[:5])
	require.ErrorIs(t, failed[5], os.ErrNotExist)
	require.ErrorIs(t, failed[6], os.ErrNotExist)
	require.True(t, unchanged())

	ca := mtlstest.NewCA(t, mtlstest.CAOptions{}).Certificate()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.der"), ca.Raw, 0o600))
	rules, err := policyfile.Parse([]byte(naming(
		"certificate_files: [ca.der]", "public_key_files: [ca.der]", "authorities: [p]\n    issuer_files: [ca.der]", "public_key_files: [ca.der]",
	)), filepath.Join(dir, "policy.yaml"))
	require.NoError(t, err)
	require.Len(t, rules[0].Certificates, 1)
	require.NotEqual(t, rules[0].Certificates[0].String(), rules[1].PublicKeys[0].String())
	require.Equal(t, rules[1].PublicKeys, rules[2].IssuerKeys)
	require.Equal(t, rules[1].PublicKeys, rules[3].PublicKeys)
}

// What files add to a rule, and to all rules, is bounded, and the place is named.
func TestWhatFilesAddIsBounded(t *testing.T) {
	dir := keysFile(t, map[string]int{"half.pem": 50_000, "full.pem": 50_000, "more.pem": 50_001, "many.pem": 90_000})
	parse := func(rules ...string) error {
		_, err := policyfile.Parse([]byte(naming(rules...)), filepath.Join(dir, "policy.yaml"))
		return err
	}
	other := strings.Repeat("ab", 32)
	require.NoError(t, parse("public_keys: ["+other+"]\n    public_key_files: [many.pem]"))
	require.ErrorContains(t, parse("public_key_files: [half.pem, more.pem]"),
		"policy.yaml:5:34: public_key_files: with this file the list has more than 100000 elements: make several rules")

	require.ErrorContains(t, parse("public_keys: ["+other+"]\n    public_key_files: [half.pem, full.pem]"), "policy.yaml:6:34: public_key_files: with this file")
	require.ErrorContains(t, parse("public_key_files: [half.pem, full.pem]\n    public_keys: ["+other+"]"), "policy.yaml:6:18: public_keys: with those of files")

	many := make([]string, 11)
	for i := range many {
		many[i] = "public_key_files: [many.pem]"
	}
	require.NoError(t, parse(many...))
	err := parse(append(many, "public_key_files: [half.pem, many.pem]")...)
	require.ErrorContains(t, err, "policy.yaml:38:24: public_key_files: with this file the files add more than 1000000 elements to the rules of the policy")
}

// All files together have so many bytes: no more are read, and it is seen when there
// are fewer.
func TestNamedFilesAreBoundedTogether(t *testing.T) {
	dir := t.TempDir()
	sparse := func(name string, size int64) {
		f, err := os.Create(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, f.Truncate(size))
		require.NoError(t, f.Close())
	}
	var paths []string
	for i := range 4 {
		paths = append(paths, fmt.Sprintf("%d.pem", i))
		sparse(paths[i], 16<<20)
	}
	reads, failed, _ := policyfile.Named(dir, paths...)
	require.Equal(t, 4, reads)
	require.Equal(t, make([]error, 4), failed)

	sparse("4.pem", 1)
	sparse("5.pem", 1)
	reads, failed, unchanged := policyfile.Named(dir, append(paths, "4.pem", "5.pem", "4.pem", "0.pem")...)
	require.Equal(t, 4, reads)
	for _, err := range failed[4:7] {
		require.ErrorContains(t, err, "the files that are named have more than 67108864 bytes in all")
	}
	require.NoError(t, failed[7])
	require.True(t, unchanged())
	// One for which there would be room behind one for which there is none.
	sparse("6.pem", 15<<20)
	_, failed, _ = policyfile.Named(dir, "0.pem", "1.pem", "2.pem", "6.pem", "3.pem", "5.pem")
	require.NoError(t, failed[3])
	require.Error(t, failed[4])
	require.Error(t, failed[5])
	sparse("5.pem", 0)
	require.False(t, unchanged(), "one that was not read")
	sparse("5.pem", 1)

	_, failed, unchanged = policyfile.Named(dir, append(paths, "4.pem")...)
	require.Error(t, failed[4])
	require.NoError(t, os.Remove(filepath.Join(dir, "4.pem")))
	require.False(t, unchanged())

	var rules []string
	for _, p := range append(paths, "5.pem") {
		rules = append(rules, "certificate_files: ["+p+"]")
	}
	_, err := policyfile.Parse([]byte(naming(rules...)), filepath.Join(dir, "policy.yaml"))
	require.ErrorContains(t, err, "policy.yaml:17:25: certificate_files: the files that are named have more than 67108864 bytes in all")
}
