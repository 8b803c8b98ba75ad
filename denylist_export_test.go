package mtls

import (
	"crypto/x509"
	"os"
)

// Find is what a decision asks of the state in force.
func (l *DenyList) Find(chain ...*x509.Certificate) (detail string, index int, ok bool) {
	return l.current().find(chain)
}

// State stands for the state in force: equal values are one and the same.
func (l *DenyList) State() any { return l.current() }

// Poll is what a Guard does now and then.
func (l *DenyList) Poll() bool { return l.poll() }

// Err is what Guard.Ready reports.
func (l *DenyList) Err() error { return l.err() }

// ParseDenyLine lets the fuzzer reach the parser. It returns the entry as it is
// written, or "" for a comment.
func ParseDenyLine(text string) (DeniedCertificate, string, error) {
	_, d, entry, err := parseDenyLine(text)
	if err != nil || !entry {
		return d, "", err
	}
	return d, d.line(), nil
}

// ChangeDenyFile runs a function while the file is locked, and then adds a comment.
func ChangeDenyFile(file string, locked func()) error {
	_, err := changeDenyFile(file, func(f denyFile) ([]byte, error) {
		locked()
		return append(f.data, "# changed\n"...), nil
	})
	return err
}

// BreakLock takes away a lock that was seen.
func BreakLock(path string, seen os.FileInfo) { breakLock(path, seen) }
