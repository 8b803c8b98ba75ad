package crl_test

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// nameDER is the DER of a Name.
func nameDER(commonName string) []byte {
	return tlv(0x30, tlv(0x31, tlv(0x30, []byte{6, 3, 0x55, 4, 3}, tlv(0x0c, []byte(commonName)))))
}

func issuerNames(names ...[]byte) []byte { return ext(oidCertIssuer, true, tlv(0x30, names...)) }
func entryFor(commonName string) []byte  { return issuerNames(tlv(0xa4, nameDER(commonName))) }

var (
	listIssuer   = nameDER("CRL issuer")
	completeList = crl.EntryOptions{Issuer: listIssuer}
	deltaList    = crl.EntryOptions{Issuer: listIssuer, Delta: true}
	indirectList = crl.EntryOptions{Issuer: listIssuer, Indirect: true}
	version1List = crl.EntryOptions{Issuer: listIssuer, V1: true}
)

func joined(e ...[]byte) []byte { return slices.Concat(e...) }

func TestEntriesThatAreRefused(t *testing.T) {
	oid := func(content ...byte) []byte { return tlv(0x30, tlv(6, content), tlv(4)) }
	var many [][]byte
	for i := range byte(17) {
		many = append(many, ext(asn1.ObjectIdentifier{1, 2, int(i)}, false, nil))
	}
	for _, test := range []struct {
		name    string
		options crl.EntryOptions
		der     []byte
		want    error // nil: accepted, and 7 of the CRL issuer is found
	}{
		{"entry without extensions", completeList, entry(7), nil},
		{"reason", completeList, entry(7, reason(1)), nil},
		{"critical reason", completeList, entry(7, ext(oidReason, true, []byte{10, 1, 1})), nil},
		{"reason spelled out as not critical", completeList, entry(7, tlv(0x30, []byte{6, 3, 0x55, 0x1d, 21, 1, 1, 0, 4, 3, 10, 1, 1})), nil},
		{"empty extensions", completeList, entry(7, []byte{}), nil},
		{"sixteen unknown extensions", completeList, entry(7, many[:16]...), nil},
		{"date in the year 2050", completeList, tlv(0x30, []byte{2, 1, 7}, generalTime(testpki.Epoch.AddDate(30, 0, 0))), nil},
		{"serial number of 255 octets", completeList, joined(entry(7), rawEntry(append([]byte{1}, make([]byte, 254)...))), nil},

		{"reason 7", completeList, entry(7, reason(7)), crl.ErrMalformed},
		{"reason 11", completeList, entry(7, reason(11)), crl.ErrMalformed},
		{"reason 255", completeList, entry(7, ext(oidReason, false, []byte{10, 2, 0, 255})), crl.ErrMalformed},
		{"negative reason", completeList, entry(7, reason(0xff)), crl.ErrMalformed},
		{"reason of another type", completeList, entry(7, ext(oidReason, false, []byte{2, 1, 1})), crl.ErrMalformed},
		{"reason with trailing data", completeList, entry(7, ext(oidReason, false, []byte{10, 1, 1, 0})), crl.ErrMalformed},
		{"two reasons", completeList, entry(7, reason(1), reason(1)), crl.ErrMalformed},
		{"two invalidity dates", completeList, entry(7, ext(oidInvalidity, false, nil), ext(oidInvalidity, false, nil)), crl.ErrMalformed},
		{"two unknown extensions of one kind", completeList, entry(7, ext(oidUnknown, false, nil), reason(1), ext(oidUnknown, false, []byte{5, 0})), crl.ErrMalformed},
		{"two certificate issuers", indirectList, entry(7, entryFor("A"), entryFor("A")), crl.ErrMalformed},
		{"seventeen extensions", completeList, entry(7, many...), crl.ErrMalformed},
		{"unknown critical extension", completeList, entry(7, ext(oidUnknown, true, nil)), crl.ErrUnusable},
		{"unknown critical extension in the last of many", completeList, joined(entry(7), entry(8), entry(9, reason(1), ext(oidUnknown, true, nil))), crl.ErrUnusable},

		{"identifier: empty", completeList, entry(7, oid()), crl.ErrMalformed},
		{"identifier: padded", completeList, entry(7, oid(0x2a, 0x80, 1)), crl.ErrMalformed},
		{"identifier: cut off", completeList, entry(7, oid(0x2a, 0x81)), crl.ErrMalformed},
		{"identifier: more than 31 bits", completeList, entry(7, oid(0x2a, 0x88, 0x80, 0x80, 0x80, 0)), crl.ErrMalformed},
		{"identifier: 31 bits", completeList, entry(7, oid(0x2a, 0x87, 0xff, 0xff, 0xff, 0x7f)), nil},

		{"removeFromCRL in a delta", deltaList, entry(7, reason(8)), nil},
		{"removeFromCRL in a complete list", completeList, entry(7, reason(8)), crl.ErrUnusable},
		{"removeFromCRL in an indirect list", indirectList, entry(7, reason(8)), crl.ErrUnusable},

		{"version 1: no extensions", version1List, entry(7), nil},
		{"version 1: reason", version1List, entry(7, reason(1)), crl.ErrMalformed},
		{"version 1: critical reason", version1List, entry(7, ext(oidReason, true, []byte{10, 1, 1})), crl.ErrMalformed},
		{"version 1: empty extensions", version1List, entry(7, []byte{}), crl.ErrMalformed},

		{"certificate issuer", indirectList, joined(entry(7), entry(8, entryFor("A"))), nil},
		{"certificate issuer that is not marked critical", indirectList, joined(entry(7), entry(8, ext(oidCertIssuer, false, tlv(0x30, tlv(0xa4, nameDER("A")))))), nil},
		{"certificate issuer in a list that is not indirect", completeList, entry(7, entryFor("A")), crl.ErrUnusable},
		{"certificate issuer in a delta that is not indirect", deltaList, entry(7, ext(oidCertIssuer, false, tlv(0x30, tlv(0xa4, listIssuer)))), crl.ErrUnusable},
		{"certificate issuer: no name", indirectList, entry(7, issuerNames()), crl.ErrUnusable},
		{"certificate issuer: two names", indirectList, entry(7, issuerNames(tlv(0xa4, listIssuer), tlv(0xa4, nameDER("A")))), crl.ErrUnusable},
		{"certificate issuer: a URI", indirectList, entry(7, issuerNames(uri("x"))), crl.ErrUnusable},
		{"certificate issuer: a URI first", indirectList, entry(7, issuerNames(uri("x"), tlv(0xa4, listIssuer))), crl.ErrUnusable},
		{"certificate issuer: a URI last", indirectList, entry(7, issuerNames(tlv(0xa4, listIssuer), uri("x"))), crl.ErrUnusable},
		{"certificate issuer: two Names in one name", indirectList, entry(7, issuerNames(tlv(0xa4, listIssuer, listIssuer))), crl.ErrMalformed},
		{"certificate issuer: not a Name", indirectList, entry(7, issuerNames(tlv(0xa4, []byte{5, 0}))), crl.ErrMalformed},
		{"certificate issuer: not a sequence", indirectList, entry(7, ext(oidCertIssuer, true, tlv(0xa4, listIssuer))), crl.ErrMalformed},
		{"certificate issuer: trailing data", indirectList, entry(7, ext(oidCertIssuer, true, append(tlv(0x30, tlv(0xa4, listIssuer)), 5, 0))), crl.ErrMalformed},

		{"serial number with a leading zero", completeList, rawEntry([]byte{0, 7}), crl.ErrMalformed},
		{"serial number with a leading 255", completeList, rawEntry([]byte{0xff, 0x87}), crl.ErrMalformed},
		{"empty serial number", completeList, rawEntry(nil), crl.ErrMalformed},
		{"serial number of 256 octets", completeList, rawEntry(append([]byte{1}, make([]byte, 255)...)), crl.ErrMalformed},
		{"serial number of another type", completeList, tlv(0x30, []byte{10, 1, 7}, utcTime(testpki.Epoch)), crl.ErrMalformed},
		{"no date", completeList, tlv(0x30, []byte{2, 1, 7}), crl.ErrMalformed},
		{"trailing data in the entry", completeList, tlv(0x30, []byte{2, 1, 7}, utcTime(testpki.Epoch), []byte{5, 0}), crl.ErrMalformed},
		{"not a sequence", completeList, []byte{5, 0}, crl.ErrMalformed},
		{"length of 4 GiB", completeList, []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 7}, crl.ErrMalformed},
		{"cut off", completeList, entry(7)[:10], crl.ErrMalformed},
		{"length in the long form without need", completeList, append([]byte{0x30, 0x81}, entry(7)[1:]...), crl.ErrMalformed},
		{"nesting", completeList, bytes.Repeat([]byte{0x30, 0x80}, 1<<20), crl.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			x, err := crl.ParseEntries(test.der, test.options)
			if test.want != nil {
				require.ErrorIs(t, err, test.want)
				return
			}
			require.NoError(t, err)
			_, ok := x.Find(listIssuer, big.NewInt(7))
			require.True(t, ok)
		})
	}
}

// A text from the list is cut, whatever its length.
func TestLongIdentifierInAnError(t *testing.T) {
	arc := bytes.Repeat([]byte{0x87, 0xff, 0xff, 0xff, 0x7f}, 1000)
	_, err := crl.ParseEntries(entry(7, tlv(0x30, tlv(6, []byte{0x2a}, arc), []byte{1, 1, 0xff}, tlv(4))), completeList)
	require.ErrorIs(t, err, crl.ErrUnusable)
	require.Less(t, len(err.Error()), 200)
}

// RFC 5280 section 5.3.3: an issuer holds for the entries that follow, and the
// CRL issuer before the first.
func TestCertificateIssuers(t *testing.T) {
	x, err := crl.ParseEntries(joined(
		entry(1), entry(2, reason(1)),
		entry(3, entryFor("A")), entry(4), entry(1, reason(4)),
		entry(5, reason(3), entryFor("B")), entry(1, reason(5)),
		entry(6, entryFor("A")),
		entry(7, entryFor("CRL issuer"), reason(9)), entry(8),
	), indirectList)
	require.NoError(t, err)
	require.Equal(t, 10, x.Len())
	const none = -1
	for _, test := range []struct {
		issuer string
		want   [9]int // by serial number: none, or the reason
	}{
		{"CRL issuer", [9]int{none, 0, 1, none, none, none, none, 9, 0}},
		{"A", [9]int{none, 4, none, 0, 0, none, 0, none, none}},
		{"B", [9]int{none, 5, none, none, none, 3, none, none, none}},
		{"C", [9]int{none, none, none, none, none, none, none, none, none}},
		{"a", [9]int{none, 4, none, 0, 0, none, 0, none, none}}, // RFC 5280 section 7.1
	} {
		for serial, want := range test.want {
			e, ok := x.Find(nameDER(test.issuer), big.NewInt(int64(serial)))
			require.Equal(t, want != none, ok, "%s %d", test.issuer, serial)
			if ok {
				require.Equal(t, want, e.Reason, "%s %d", test.issuer, serial)
			}
		}
	}
	_, ok := x.Find(nil, big.NewInt(1))
	require.False(t, ok)
}

func TestAnotherIssuersCertificateIsNotInTheList(t *testing.T) {
	x, err := crl.ParseEntries(entry(7), completeList)
	require.NoError(t, err)
	_, ok := x.Find(listIssuer, big.NewInt(7))
	require.True(t, ok)
	for _, other := range [][]byte{nil, {}, nameDER("A"), listIssuer[:len(listIssuer)-1], append(slices.Clone(listIssuer), 0)} {
		_, ok := x.Find(other, big.NewInt(7))
		require.False(t, ok, "%x", other)
	}
}

func TestTooManyCertificateIssuers(t *testing.T) {
	list := func(n int) []byte {
		var out []byte
		for i := range n {
			out = append(out, entry(7, issuerNames(tlv(0xa4, tlv(0x30, []byte{4, 2, byte(i >> 8), byte(i)}))))...)
		}
		return out
	}
	x, err := crl.ParseEntries(list(65534), indirectList) // and the CRL issuer
	require.NoError(t, err)
	for _, i := range []int{0, 1, 255, 256, 65533} {
		_, ok := x.Find(tlv(0x30, []byte{4, 2, byte(i >> 8), byte(i)}), big.NewInt(7))
		require.True(t, ok, i)
	}
	_, ok := x.Find(listIssuer, big.NewInt(7))
	require.False(t, ok)
	_, err = crl.ParseEntries(list(65535), indirectList)
	require.ErrorIs(t, err, crl.ErrUnusable)
}

// The list is kept without its DER.
func TestEntriesKeepNothingOfTheDER(t *testing.T) {
	der, issuer := joined(entry(7, entryFor("A")), entry(8)), slices.Clone(listIssuer)
	x, err := crl.ParseEntries(der, crl.EntryOptions{Issuer: issuer, Indirect: true})
	require.NoError(t, err)
	plain, err := crl.ParseEntries(entry(7), crl.EntryOptions{Issuer: issuer})
	require.NoError(t, err)
	clear(der)
	clear(issuer)
	_, ok := x.Find(nameDER("A"), big.NewInt(8))
	require.True(t, ok)
	_, ok = plain.Find(listIssuer, big.NewInt(7))
	require.True(t, ok)
}

// Every day that a UTCTime can say and every one that it must not, and every
// wrong digit and number.
func TestCommonEntryReadsDatesAsStrictly(t *testing.T) {
	check := func(text string) {
		der := tlv(0x30, []byte{2, 1, 7}, tlv(0x17, []byte(text)))
		in := cryptobyte.String(tlv(0x17, []byte(text)))
		want, valid := x509ext.ReadTime(&in)
		got, ok := crl.CommonEntry(der)
		if ok != valid || ok && !got.Date.Equal(want) {
			t.Fatalf("%q: %v %v, want %v %v", text, got.Date, ok, want, valid)
		}
	}
	two := func(n int) string { return string([]byte{byte('0' + n/10), byte('0' + n%10)}) }
	for year := range 100 {
		for month := range 100 {
			for day := range 40 {
				check(two(year) + two(month) + two(day) + "235959Z")
			}
		}
	}
	for n := range 100 {
		for _, text := range []string{"2602" + two(n) + "000000Z", "260228" + two(n) + "0000Z", "26022800" + two(n) + "00Z", "2602280000" + two(n) + "Z"} {
			check(text)
		}
	}
	const sound = "260228235959Z"
	for i := range sound {
		for b := range 256 {
			check(sound[:i] + string([]byte{byte(b)}) + sound[i+1:])
		}
	}
	check("2602282359Z")
	check("260228235959+0000")
}

// What dates a GeneralizedTime can say are kept to the second.
func TestDatesAreExact(t *testing.T) {
	for _, text := range []string{
		"00000101000000Z", "00000229235959Z", "00011231235959Z", "15821015120000Z", "19491231235959Z", "19700101000000Z", "20500101000000Z", "21000228235959Z", "99991231235959Z",
	} {
		x, err := crl.ParseEntries(tlv(0x30, []byte{2, 1, 7}, tlv(0x18, []byte(text))), completeList)
		require.NoError(t, err, text)
		e, ok := x.Find(listIssuer, big.NewInt(7))
		require.True(t, ok)
		want, err := time.Parse("20060102150405Z", text)
		require.NoError(t, err)
		require.Equal(t, want, e.Date)
	}
	_, err := crl.ParseEntries(tlv(0x30, []byte{2, 1, 7}, tlv(0x18, []byte("21000229000000Z"))), completeList)
	require.ErrorIs(t, err, crl.ErrMalformed)
}

// What the quick reader is for: if it left these to the other, all would still
// be right, and slow.
func TestCommonEntriesAreRecognised(t *testing.T) {
	for _, serial := range [][]byte{{0}, {1}, {0x80}, {0, 0x80}, bytes.Repeat([]byte{1}, 20)} {
		_, ok := crl.CommonEntry(rawEntry(serial))
		require.True(t, ok, "%x", serial)
		for code := range byte(12) {
			_, ok := crl.CommonEntry(rawEntry(serial, reason(code)))
			require.Equal(t, code <= 10 && code != 7 && code != 8, ok, "%x %d", serial, code)
		}
	}
	_, ok := crl.CommonEntry(rawEntry(bytes.Repeat([]byte{1}, 21)))
	require.False(t, ok)
}

// Whatever one octet of an entry is changed to, the quick reader accepts nothing
// that the other does not accept, or reads differently.
func TestCommonEntryWithAnOctetChanged(t *testing.T) {
	for _, der := range [][]byte{entry(7), entry(7, reason(1)), rawEntry([]byte{0, 0x80, 1}), rawEntry([]byte{0xff, 1}, reason(10))} {
		_, ok := crl.CommonEntry(der)
		require.True(t, ok)
		// Something behind it, so that it may also become longer.
		der = append(der, entry(9)...)
		for i := range der {
			for b := range 256 {
				changed := slices.Clone(der)
				changed[i] = byte(b)
				got, ok := crl.CommonEntry(changed)
				if !ok {
					continue
				}
				want, err := crl.AnyEntry(changed)
				if err != nil || want != got {
					t.Fatalf("%x: %v, want %v %v", changed, got, want, err)
				}
			}
		}
	}
}
