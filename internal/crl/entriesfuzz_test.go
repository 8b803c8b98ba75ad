package crl_test

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// FuzzCommonEntry: an entry that the quick reader accepts the other accepts too,
// and both read the same.
func FuzzCommonEntry(f *testing.F) {
	f.Add(entry(7))
	f.Add(entry(7, reason(1)))
	f.Add(rawEntry([]byte{0, 0x80, 1}, reason(10)))
	f.Add(rawEntry([]byte{0xff, 0x80}, reason(8)))
	f.Add(entry(7, []byte{}))
	f.Add(tlv(0x30, []byte{2, 1, 7}, generalTime(testpki.Epoch)))
	f.Fuzz(func(t *testing.T, der []byte) {
		got, ok := crl.CommonEntry(der)
		if !ok {
			return
		}
		want, err := crl.AnyEntry(der)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

// FuzzEntryExtension: it is x509ext.ReadExtension.
func FuzzEntryExtension(f *testing.F) {
	f.Add(reason(1))
	f.Add(ext(oidUnknown, true, []byte{5, 0}))
	f.Add(tlv(0x30, tlv(6, []byte{0x2a, 0x87, 0xff, 0xff, 0xff, 0x7f}), []byte{1, 1, 0}, tlv(4)))
	f.Add(tlv(0x30, tlv(6, []byte{0x2a, 0x88, 0x80, 0x80, 0x80, 0x00}), tlv(4)))
	f.Add(tlv(0x30, tlv(6, []byte{0x80, 1}), tlv(4)))
	f.Fuzz(func(t *testing.T, der []byte) {
		in := cryptobyte.String(der)
		want, valid := x509ext.ReadExtension(&in)
		oid, value, critical, rest, ok := crl.EntryExtension(der)
		require.Equal(t, valid, ok)
		if !ok {
			return
		}
		encoded, err := asn1.Marshal(want.Id)
		require.NoError(t, err)
		require.Equal(t, encoded, tlv(6, oid))
		require.Equal(t, want.Critical, critical)
		require.True(t, bytes.Equal(want.Value, value))
		require.Equal(t, []byte(in), rest)
	})
}

// FuzzParseEntries: it never panics, and agrees with a transcription of RFC 5280
// section 5.3 that takes one entry after the other, on whether the list is
// accepted and on each entry.
func FuzzParseEntries(f *testing.F) {
	f.Add(joined(entry(7), entry(8, reason(1)), entry(7, reason(4))), false, false, false)
	f.Add(joined(entry(7, reason(8)), entry(7, reason(1)), entry(7, reason(8))), false, true, false)
	f.Add(joined(entry(7), entry(7, entryFor("A")), entry(8), entry(7, entryFor("CRL issuer"), reason(3))), true, true, false)
	f.Add(joined(entry(7, ext(oidInvalidity, false, nil), reason(1)), rawEntry([]byte{0, 0x80}), rawEntry([]byte{0x80})), false, false, false)
	f.Add(joined(entry(7), entry(8)), false, false, true)
	f.Fuzz(func(t *testing.T, der []byte, isIndirect, isDelta, isV1 bool) {
		o := crl.EntryOptions{Issuer: listIssuer, Indirect: isIndirect, Delta: isDelta, V1: isV1}
		x, err := crl.ParseEntries(der, o)
		want, count, ok := transcribe(der, o)
		require.Equal(t, ok, err == nil, err)
		if !ok {
			return
		}
		require.Equal(t, count, x.Len())
		for key, e := range want {
			issuer, number, _ := strings.Cut(key, "\x00serial\x00")
			got, found := x.Find([]byte(issuer), new(big.Int).SetBytes([]byte(number)))
			require.True(t, found, "%x", number)
			require.Equal(t, e, got, "%x", number)
			if !isIndirect {
				_, found = x.Find(nameDER("A"), new(big.Int).SetBytes([]byte(number)))
				require.False(t, found)
			}
			other := new(big.Int).SetBytes([]byte(number + "x"))
			if _, listed := want[issuer+"\x00serial\x00"+string(other.Bytes())]; !listed {
				_, found = x.Find([]byte(issuer), other)
				require.False(t, found, "%x", other.Bytes())
			}
		}
	})
}

// transcribe returns the entries by issuer and serial number.
func transcribe(der []byte, o crl.EntryOptions) (map[string]crl.Entry, int, bool) {
	out := map[string]crl.Entry{}
	issuer := string(o.Issuer)
	in := cryptobyte.String(der)
	count := 0
	for ; !in.Empty(); count++ {
		var seq, contents cryptobyte.String
		serial := new(big.Int)
		if !in.ReadASN1(&seq, cbasn1.SEQUENCE) {
			return nil, 0, false
		}
		number := seq
		if !seq.ReadASN1Integer(serial) || !number.ReadASN1(&contents, cbasn1.INTEGER) || len(contents) > 255 {
			return nil, 0, false
		}
		if serial.Sign() < 0 { // read as it was meant
			serial.SetBytes(contents)
		}
		date, ok := x509ext.ReadTime(&seq)
		if !ok {
			return nil, 0, false
		}
		e := crl.Entry{Date: date}
		if !seq.Empty() {
			var list cryptobyte.String
			if !seq.ReadASN1(&list, cbasn1.SEQUENCE) || !seq.Empty() || o.V1 {
				return nil, 0, false
			}
			seen := map[string]bool{}
			for !list.Empty() {
				x, ok := x509ext.ReadExtension(&list)
				if !ok || seen[x.Id.String()] || len(seen) == 16 {
					return nil, 0, false
				}
				seen[x.Id.String()] = true
				switch {
				case x.Id.Equal(oidReason):
					var code asn1.Enumerated
					rest, err := asn1.Unmarshal(x.Value, &code)
					if err != nil || len(rest) > 0 || code < 0 || code > 10 || code == 7 || code == 8 && !o.Delta {
						return nil, 0, false
					}
					e.Reason, e.HasReason = int(code), true
				case x.Id.Equal(oidCertIssuer):
					value := cryptobyte.String(x.Value)
					var names, name, der cryptobyte.String
					if !o.Indirect || !value.ReadASN1(&names, cbasn1.SEQUENCE) || !value.Empty() ||
						!names.ReadASN1(&name, 0xa4) || !names.Empty() || !name.ReadASN1Element(&der, cbasn1.SEQUENCE) || !name.Empty() {
						return nil, 0, false
					}
					issuer = string(der)
				case x.Critical && !x.Id.Equal(oidInvalidity):
					return nil, 0, false
				}
			}
		}
		key := issuer + "\x00serial\x00" + string(serial.Bytes())
		if old, known := out[key]; !known || harm(e.Reason) > harm(old.Reason) {
			out[key] = e
		}
	}
	return out, count, true
}
