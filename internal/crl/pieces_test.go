package crl_test

import (
	"encoding/binary"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// What looks like a row of entries may be the value of an extension, and a large
// list is read from several places at once: such entries must neither revoke
// anything nor hide the entries that follow.
func TestEntriesInsideAnEntry(t *testing.T) {
	number := func(kind byte, i int) []byte {
		return binary.BigEndian.AppendUint32([]byte{kind}, uint32(i))
	}
	var decoys []byte
	for i := range 100 {
		decoys = append(decoys, rawEntry(number(2, i), reason(1))...)
	}
	for name, decoysIn := range map[string]int{"everywhere": 1, "here and there": 7} {
		var der []byte
		n := 0
		for ; len(der) < 3<<20; n++ {
			if n%decoysIn == 0 {
				der = append(der, rawEntry(number(1, n), ext(oidUnknown, false, decoys))...)
			} else {
				der = append(der, rawEntry(number(1, n), reason(1))...)
			}
		}
		for _, o := range []crl.EntryOptions{completeList, deltaList, indirectList} {
			x, err := crl.ParseEntries(der, o)
			require.NoError(t, err, name)
			require.Equal(t, n, x.Len(), name)
			for i := range n {
				e, ok := x.Find(listIssuer, new(big.Int).SetBytes(number(1, i)))
				require.True(t, ok, "%s: %d of %d", name, i, n)
				require.Equal(t, i%decoysIn != 0, e.HasReason)
			}
			for i := range 100 {
				_, ok := x.Find(listIssuer, new(big.Int).SetBytes(number(2, i)))
				require.False(t, ok, name)
			}
		}
	}
	// One entry is longer than all pieces but the first.
	var many []byte
	for len(many) < 2<<20 {
		many = append(many, decoys...)
	}
	x, err := crl.ParseEntries(joined(rawEntry([]byte{1}), rawEntry([]byte{2}, ext(oidUnknown, false, many)), rawEntry([]byte{3})), completeList)
	require.NoError(t, err)
	require.Equal(t, 3, x.Len())
	for i := range int64(3) {
		_, ok := x.Find(listIssuer, big.NewInt(i+1))
		require.True(t, ok, i)
	}
}

// The worst entry for a certificate counts, and of equal ones the first, also
// where they are far apart.
func TestTheWorstEntryCountsInALargeList(t *testing.T) {
	const n = 50_000
	number := func(kind byte, i int) []byte {
		return binary.BigEndian.AppendUint32([]byte{kind}, uint32(i))
	}
	for _, test := range []struct {
		codes []byte
		want  int
	}{
		{[]byte{1, 4, 5, 3}, 1},
		{[]byte{8, 8, 4, 5}, 4},
		{[]byte{8, 3, 8, 1}, 3},
		{[]byte{8, 8, 8, 8}, 8},
	} {
		var der []byte
		for i := range n {
			der = append(der, rawEntry(number(1, i))...)
			if i%(n/4) == n/8 {
				der = append(der, rawEntry([]byte{7}, reason(test.codes[i/(n/4)]))...)
			}
		}
		require.Greater(t, len(der), 1<<20)
		x, err := crl.ParseEntries(der, deltaList)
		require.NoError(t, err)
		e, ok := x.Find(listIssuer, big.NewInt(7))
		require.True(t, ok)
		require.Equal(t, test.want, e.Reason, "%v", test.codes)
	}
}

// One malformed entry makes the whole list unusable, wherever it is.
func TestMalformedEntryInALargeList(t *testing.T) {
	const n = 50_000
	good := rawEntry([]byte{1, 2, 3, 4, 5, 6}, reason(1))
	bad := tlv(0x30, []byte{2, 2, 0, 1}, utcTime(testpki.Epoch)) // not DER
	for _, at := range []int{0, 1, n / 4, n / 2, n - 2, n - 1} {
		var der []byte
		for i := range n {
			if i == at {
				der = append(der, bad...)
			} else {
				der = append(der, good...)
			}
		}
		require.Greater(t, len(der), 1<<20)
		_, err := crl.ParseEntries(der, completeList)
		require.ErrorIs(t, err, crl.ErrMalformed, at)
		require.ErrorContains(t, err, "entry "+big.NewInt(int64(at)).String()+":")
	}
	var der []byte
	for range n {
		der = append(der, good...)
	}
	_, err := crl.ParseEntries(der[:len(der)-1], completeList)
	require.ErrorIs(t, err, crl.ErrMalformed)
}

// In an indirect list, however large, an entry is for the issuer that was named
// last (RFC 5280 section 5.3.3).
func TestLargeIndirectList(t *testing.T) {
	const n = 50_000
	number := func(i int) []byte { return binary.BigEndian.AppendUint32([]byte{1}, uint32(i)) }
	var der []byte
	for i := range n {
		if i == 10 {
			der = append(der, rawEntry(number(i), entryFor("A"))...)
		} else {
			der = append(der, rawEntry(number(i), reason(1))...)
		}
	}
	require.Greater(t, len(der), 1<<20)
	x, err := crl.ParseEntries(der, indirectList)
	require.NoError(t, err)
	for i := range n {
		serial := new(big.Int).SetBytes(number(i))
		_, ok := x.Find(nameDER("A"), serial)
		require.Equal(t, i >= 10, ok, i)
		_, ok = x.Find(listIssuer, serial)
		require.Equal(t, i < 10, ok, i)
	}
}
