package directory

import (
	"crypto/x509"
	"io"
	"sync/atomic"
)

// What the tests of the parsers look at.
var (
	SIDText  = sidText
	SIDBytes = sidBytes
	X500     = x500
)

// ReadMessage is readMessage with a budget.
func ReadMessage(r io.Reader, most int64) ([]byte, error) {
	var budget atomic.Int64
	budget.Store(most)
	return readMessage(r, &budget)
}

// FillTemplate fills a template with one value.
func FillTemplate(text, value string, allowed ...string) (string, error) {
	t, err := parseTemplate(text, allowed...)
	return t.fill(func(string) string { return value }), err
}

// FilterOf returns the filter for a certificate, and the strings of its mappings.
func FilterOf(c, issuer *x509.Certificate) (filter string, values []string, err error) {
	a, err := readADCert(c, issuer)
	if err != nil {
		return "", nil, err
	}
	for _, m := range a.mappings {
		values = append(values, m.value)
	}
	return a.filter(), values, nil
}
