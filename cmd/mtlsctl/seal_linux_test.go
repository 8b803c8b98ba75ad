package main_test

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
)

// Who may write the folder, but may not give a file away, does not become the owner of
// another's policy.
func TestReplaceKeepsTheOwnerOrTheFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs two users")
	}
	const nobody = 65534
	dir := t.TempDir()
	t.Chdir(dir) // nobody has no way into the folders above
	require.NoError(t, os.WriteFile("policy.yaml", []byte("version: 1\n"), 0o644))
	require.NoError(t, os.Chown(dir, nobody, nobody))

	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0)
		failed <- mtlsctl.ReplaceFile("policy.yaml", []byte("version: 1\n"), []byte("sealed"))
	}()
	require.ErrorContains(t, <-failed, "its owner would change")
	info, err := os.Stat("policy.yaml")
	require.NoError(t, err)
	require.Zero(t, info.Sys().(*syscall.Stat_t).Uid)
	data, err := os.ReadFile("policy.yaml")
	require.NoError(t, err)
	require.Equal(t, "version: 1\n", string(data))
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	require.Len(t, entries, 1)
}
