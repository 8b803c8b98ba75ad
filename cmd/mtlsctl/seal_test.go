package main_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
)

// What somebody else writes between the reading and the replacing of a file is not
// lost.
func TestReplaceKeepsWhatHasChangedMeanwhile(t *testing.T) {
	for name, now := range map[string]string{"longer": "version: 1\n# a deny rule\n", "shorter": "v", "other": "version: 2\n", "empty": ""} {
		dir := t.TempDir()
		file := filepath.Join(dir, "policy.yaml")
		require.NoError(t, os.WriteFile(file, []byte(now), 0o600))
		require.ErrorContains(t, mtlsctl.ReplaceFile(file, []byte("version: 1\n"), []byte("sealed")), "it has changed meanwhile", name)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, now, string(data), name)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1, name)
	}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(file, []byte("version: 1\n"), 0o600))
	require.NoError(t, mtlsctl.ReplaceFile(file, []byte("version: 1\n"), []byte("sealed")))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "sealed", string(data))
}
