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
