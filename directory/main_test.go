package directory_test

import (
	"os"
	"testing"

	"github.com/mtlsguard/mtls/directory/internal/testdir"
)

// servers are the real directories of this run.
var servers testdir.Servers

func TestMain(m *testing.M) {
	code := m.Run()
	servers.Stop()
	os.Exit(code)
}
