//go:build !linux

package main_test

import "github.com/rogpeppe/go-internal/testscript"

func onTerminal(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Fatalf("terminals are opened on Linux only")
}
