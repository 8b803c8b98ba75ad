package x509ext_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

func attribute(arc int, value any) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, arc}, Value: value}
}

// rdns are so many relative distinguished names of one attribute each.
func rdns(n int, value any) pkix.RDNSequence {
	return repeat(n, pkix.RelativeDistinguishedNameSET{attribute(3, value)})
}

func repeat[E any](n int, e E) []E {
	list := make([]E, n)
	for i := range list {
		list[i] = e
	}
	return list
}

func TestShortNamesAreWrittenWhole(t *testing.T) {
	for name, in := range map[string]pkix.RDNSequence{
		"none":              nil,
		"one":               rdns(1, "Acme"),
		"several":           {{attribute(6, "US")}, {attribute(10, "Acme, Inc. +<>;\"#")}, {attribute(3, " #a ")}},
		"several in one":    {{attribute(10, "Acme"), attribute(11, "Pay"), attribute(3, "a")}, {attribute(3, "b")}},
		"an unknown type":   {{attribute(99, "x")}, {attribute(99, []byte{1})}, {attribute(99, 7)}, {attribute(3, nil)}},
		"not ASCII":         rdns(3, "Größe 𝄞"),
		"not UTF-8":         rdns(2, "a\xff"),
		"an empty set":      {{}, {attribute(3, "a")}, {}},
		"32 attributes":     rdns(32, "x"),
		"as long as may be": rdns(1, strings.Repeat("x", 4<<10-len("CN="))),
	} {
		t.Run(name, func(t *testing.T) {
			text, whole := x509ext.RDNText(in)
			require.True(t, whole)
			require.Equal(t, in.String(), text)
		})
	}
}

// However long a name is, its text is bounded, and says that it is not all. That the
// long ones end at all shows that no time is spent on what is left out.
func TestLongNamesAreCut(t *testing.T) {
	many := rdns(1_000_000, "")
	for name, in := range map[string]pkix.RDNSequence{
		"33 attributes":             rdns(33, "x"),
		"a million":                 many,
		"a million in one":          {repeat(1_000_000, attribute(3, ""))},
		"a million of none":         repeat(1_000_000, pkix.RelativeDistinguishedNameSET{}),
		"one byte too many":         rdns(1, strings.Repeat("x", 4<<10-len("CN=")+1)),
		"long ones":                 rdns(32, strings.Repeat("x", 1000)),
		"one of many bytes":         rdns(1, strings.Repeat("x", 64<<20)),
		"one of many escapes":       rdns(1, strings.Repeat("+", 4000)),
		"one that ends in a letter": rdns(1, strings.Repeat("ä", 2047)),
		"bytes":                     {{attribute(99, make([]byte, 64<<20))}},
		"bits":                      {{attribute(99, asn1.BitString{Bytes: make([]byte, 64<<20), BitLength: 64 << 23})}},
		"long ones in one":          {repeat(20, attribute(3, strings.Repeat("x", 1000)))},
	} {
		t.Run(name, func(t *testing.T) {
			text, whole := x509ext.RDNText(in)
			require.False(t, whole)
			require.LessOrEqual(t, len(text), 4<<10+64)
			require.True(t, strings.HasSuffix(text, "..."))
			require.True(t, utf8.ValidString(text))
		})
	}
}
