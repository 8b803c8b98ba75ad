package policyfile

import "github.com/mtlsguard/mtls"

// ParseOnly is Parse without what rules mean.
func ParseOnly(data []byte) ([]mtls.Rule, error) {
	c, err := parse(data, "policy.yaml")
	return c.rules, err
}

// Confirmed reports whether goccy/go-yaml reads in one text what the package's reader
// reads in another.
func Confirmed(own, other string) error {
	r := newReader(own, -1)
	n, failed := r.attempt(r.document)
	if failed == nil {
		failed = confirm(other, n)
	}
	if failed == nil {
		return nil
	}
	return join("policy.yaml", failed)
}

// Named reads files as those that rules name, some of them more than once, and returns
// how often one of them was parsed, and the errors. unchanged is what Watch asks.
func Named(folder string, paths ...string) (reads int, failed []error, unchanged func() bool) {
	n := newNamed(folder)
	for _, path := range paths {
		_, err := n.get(path, "certificate_files", func([]byte, *found) error {
			reads++
			return nil
		})
		failed = append(failed, err)
	}
	return reads, failed, n.unchanged
}
