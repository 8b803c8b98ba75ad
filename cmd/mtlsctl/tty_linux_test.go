package main_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// onTerminal N command... runs a command whose standard output is a terminal, and writes
// what that shows to the file terminal, and its standard error to the file errors.
// The terminal is closed when it has shown everything.
func onTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: onTerminal N command...")
	}
	master, slave, err := openTerminal()
	ts.Check(err)
	defer master.Close()
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TERM", "NO_COLOR"} {
		if value := ts.Getenv(name); value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	var errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = slave, &errors
	err = cmd.Start()
	slave.Close()
	ts.Check(err)
	shown, _ := io.ReadAll(master) // it ends in an error when nobody holds the other end
	_ = cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs("terminal"), []byte(strings.ReplaceAll(string(shown), "\r\n", "\n")), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("errors"), errors.Bytes(), 0o600))
	if code := strconv.Itoa(cmd.ProcessState.ExitCode()); code != args[0] {
		ts.Fatalf("exit status %s, wanted %s: %s%s", code, args[0], shown, &errors)
	}
}

func openTerminal() (master, slave *os.File, err error) {
	if master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, slave, nil
}
