// Command mtlsctl checks policies, explains decisions and looks into certificates
// and revocation lists, for those who run services with package mtls.
//
// Its exit status is 0 for yes, 1 for no, 2 where it cannot be determined and 3
// where the command itself failed.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// The exit status of every command.
const (
	exitYes     = 0
	exitNo      = 1 // refused, problems found, revoked serial found
	exitUnknown = 2 // undetermined
	exitFailed  = 3 // the command itself failed: usage, a file that cannot be read
)

// A verdict is the error of a command that did its work, and whose answer is not
// yes. The answer has been printed.
type verdict int

func (v verdict) Error() string { return fmt.Sprintf("exit status %d", int(v)) }

// answer is the error for an exit status, which for yes is nil.
func answer(status int) error {
	if status == exitYes {
		return nil
	}
	return verdict(status)
}

// run is main without the process. Whatever goes wrong unforeseen is a failure:
// Go would end a panic with 2, which says something else here.
func run(args []string, stdout, stderr io.Writer) (status int) {
	defer func() {
		if p := recover(); p != nil {
			complain(stderr, fmt.Errorf("a defect of mtlsctl: %v", p))
			status = exitFailed
		}
	}()
	watched := &watchedWriter{w: stdout}
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(watched)
	root.SetErr(escaper{stderr})
	err := root.Execute()
	if watched.err != nil {
		// An answer that did not get out is none.
		err = fmt.Errorf("cannot write the output: %w", watched.err)
	}
	var v verdict
	switch {
	case err == nil:
		return exitYes
	case errors.As(err, &v):
		return int(v)
	}
	complain(stderr, err)
	return exitFailed
}

// complain prints an error, and each of several that were joined by itself.
func complain(w io.Writer, err error) {
	for _, e := range flat(err) {
		text := strings.ReplaceAll(strings.TrimSpace(strings.TrimPrefix(e.Error(), "mtls: ")), "\n\t", "\n  ")
		fmt.Fprintln(escaper{w}, "mtlsctl: "+text)
	}
}

// watchedWriter remembers the first error: most of what prints does not look.
type watchedWriter struct {
	w   io.Writer
	err error
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if w.err == nil {
		w.err = err
	}
	return n, err
}
