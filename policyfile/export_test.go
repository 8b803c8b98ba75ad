package policyfile

import "github.com/mtlsguard/mtls"

// ParseOnly is Parse without what rules mean.
func ParseOnly(data []byte) ([]mtls.Rule, error) {
	c, err := parse(data, "policy.yaml")
	return c.rules, err
}
