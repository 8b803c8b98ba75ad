package crl

// ParseUnverified lets tests and the fuzzer reach the parser without a
// signature.
func ParseUnverified(der []byte) (*List, error) {
	h, err := parseHeader(der)
	if err != nil {
		return nil, err
	}
	return parseBody(h)
}
