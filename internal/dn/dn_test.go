package dn_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dn"
)

func name(oid asn1.ObjectIdentifier, values ...any) pkix.Name {
	var n pkix.Name
	for _, v := range values {
		n.Names = append(n.Names, pkix.AttributeTypeAndValue{Type: oid, Value: v})
	}
	return n
}

var organization = asn1.ObjectIdentifier{2, 5, 4, 10}

// What is no text surely matches nothing, and perhaps whatever is denied.
func TestValuesThatAreNoText(t *testing.T) {
	t.Parallel()
	for _, value := range []any{7, []byte("x"), nil, "x\xff"} {
		for _, pattern := range []string{"*", "x*", "y"} {
			p, err := dn.ParsePattern("O", pattern, true)
			require.NoError(t, err)
			values := dn.Values(name(organization, value), true)
			require.False(t, p.Matches(values), "%v %q", value, pattern)
			require.True(t, p.MayMatch(values), "%v %q", value, pattern)
			require.False(t, p.MayMatch(dn.Values(name(asn1.ObjectIdentifier{2, 5, 4, 11}, value), true)))
		}
	}
}

// Several asterisks in a row, and what is nothing between them, are one: each would cost
// time for each value.
func TestAsterisksInARow(t *testing.T) {
	t.Parallel()
	for _, middle := range []string{"**", "***", "* *", "*\u00ad*", "*\u200b* *"} {
		for _, pattern := range []string{"a" + middle + "b", middle + "b", "a" + middle, middle} {
			p, err := dn.ParsePattern("O", pattern, false)
			require.NoError(t, err)
			for _, text := range []string{"ab", "axb", "a", "b", "", "xay", "a b"} {
				values := dn.Values(name(organization, text), true)
				plain, err := dn.ParsePattern("O", strings.ReplaceAll(pattern, middle, "*"), false)
				require.NoError(t, err)
				require.Equal(t, plain.MayMatch(values), p.MayMatch(values), "%q %q", pattern, text)
				if strings.Trim(middle, "*") == "" {
					require.Equal(t, plain.Matches(values), p.Matches(values), "%q %q", pattern, text)
				}
			}
		}
	}
	for pattern, text := range map[string]string{"**b": "xb", "a**": "ax", "a* *b": "axb", "a**b**c": "aabbcc"} {
		p, err := dn.ParsePattern("O", pattern, false)
		require.NoError(t, err)
		require.True(t, p.MayMatch(dn.Values(name(organization, text), true)), pattern)
		require.False(t, p.MayMatch(dn.Values(name(organization, "cba"), true)), pattern)
	}
	// A walk from each to each of these would not end.
	p, err := dn.ParsePattern("O", strings.Repeat("* ", 1<<20)+"x", true)
	require.NoError(t, err)
	require.False(t, p.MayMatch(dn.Values(name(organization, slices.Repeat([]any{"y"}, 200000)...), true)))
}

func TestTypes(t *testing.T) {
	t.Parallel()
	require.Contains(t, dn.Types(), "organizationidentifier")
	for _, s := range dn.Types() {
		require.Equal(t, strings.ToLower(s), s)
		oid, ok := dn.ParseType(strings.ToUpper(s))
		require.True(t, ok)
		again, ok := dn.ParseType(oid)
		require.True(t, ok)
		require.Equal(t, oid, again)
	}
	for _, s := range []string{"", "x", "1", "1.", ".1", "1..2", "3.1", "1.02", "1.2.3456789012", "OID.", "oid.x", "C N", "\u212a", "1.2 "} {
		_, ok := dn.ParseType(s)
		require.False(t, ok, s)
	}
}

// FuzzPattern compares with path.Match, which knows more: its other special
// characters and the slash are kept from it.
func FuzzPattern(f *testing.F) {
	f.Add("a*b", "axxb")
	f.Add(`a\*`, "a*")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, value string) {
		p, err := dn.ParsePattern("O", pattern, false)
		if err != nil || strings.ContainsAny(pattern, "?[]/") || strings.Contains(value, "/") || value == "" {
			return
		}
		want, err := path.Match(pattern, value)
		values := dn.Values(name(organization, value), true)
		if strings.ToValidUTF8(value, "") != value || strings.ToValidUTF8(pattern, "") != pattern {
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, p.Matches(values))
		if want {
			require.True(t, p.MayMatch(values), "what is allowed can be denied")
			folded, err := dn.ParsePattern("O", pattern, true)
			require.NoError(t, err)
			require.True(t, folded.Matches(values))
		}
	})
}
