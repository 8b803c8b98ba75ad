package directory

import (
	"crypto/x509"
	"io"
)

// What the tests of the parsers look at.
var (
	SIDText  = sidText
	SIDBytes = sidBytes
	X500     = x500
	Defines  = defines
)

// ReadMessage is readMessage with a budget.
func ReadMessage(r io.Reader, most int64) ([]byte, error) {
	var left budget
	left.set(most, maxElements)
	return readMessage(r, &left)
}

// FillTemplate fills a template with one value.
func FillTemplate(text, value string, allowed ...string) (string, error) {
	t, err := parseTemplate(text, allowed...)
	return t.fill(func(string) string { return value }), err
}

// EqualTemplate says what is wrong with how a filter compares its fields.
func EqualTemplate(text string, more, allowed []string) error {
	t, err := parseTemplate(text, allowed...)
	if err != nil {
		return err
	}
	return t.equal(more...)
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

// flushHook calls a function before what the kind keeps is forgotten.
type flushHook struct {
	*adKind
	before func()
}

func (k flushHook) flush() { k.before(); k.adKind.flush() }

// HookFlush has a function called within Flush, of a domain's Mapper.
func HookFlush(m *Mapper, before func()) { m.kind = flushHook{m.kind.(*adKind), before} }

// Latest returns the IDs of the accounts whose last answer is known.
func Latest(m *Mapper) []string { return m.latest.Keys() }

// CacheKeys returns the keys of the answers that are kept.
func CacheKeys(m *Mapper) []string { return m.cache.Keys() }
