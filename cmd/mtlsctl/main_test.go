package main_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	mtlsctl "github.com/mtlsguard/mtls/cmd/mtlsctl"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts and the document")

// TestMain is the program itself where a script starts it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mtlsctl": mtlsctl.Main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setup,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "devfull":
				_, err := os.Stat("/dev/full")
				return err == nil, nil
			}
			return false, errors.New("no such condition")
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "normal": normal, "sparse": sparse, "revoke": revoke, "revserver": faulty, "dns": nameServer, "escaped": escaped,
			"onTerminal": onTerminal,
		},
	})
}

// status N command... runs a command that must end with this exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit status %d, wanted %s", code, args[0])
	}
}

var changing = []struct {
	pattern *regexp.Regexp
	stands  string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "SERVER"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HASH"},
}

// normal stdout|stderr|FILE NAME writes what differs from run to run as words.
func normal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: normal stdout|FILE NAME")
	}
	text := ts.ReadFile(args[0])
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.stands)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// escaped stdout|stderr says that nothing but printable ASCII and ends of lines got
// out.
func escaped(ts *testscript.TestScript, neg bool, args []string) {
	raw := regexp.MustCompile(`[^\n -~]`).FindString(ts.ReadFile(args[0]))
	if (raw != "") != neg {
		ts.Fatalf("%s has %q", args[0], raw)
	}
}

// sparse FILE BYTES makes a file of that size, which takes no space.
func sparse(ts *testscript.TestScript, neg bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(f.Truncate(size))
	ts.Check(f.Close())
}

// A static binary needs no C library.
func TestStaticBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds")
	}
	bin := filepath.Join(t.TempDir(), "mtlsctl")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(bin, "version").Output()
	require.NoError(t, err)
	require.Regexp(t, `^mtlsctl \S+ go1\.`, string(out))
}
