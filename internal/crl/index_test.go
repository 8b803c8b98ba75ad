package crl_test

import (
	"bytes"
	"math/big"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// Numbers of every length are found under what their INTEGER says, a negative
// one also as the positive one that its CA meant.
func TestSerialNumbers(t *testing.T) {
	var numbers []*big.Int
	for i := int64(-70000); i < 70000; i++ {
		numbers = append(numbers, big.NewInt(i))
	}
	for bitLen := range uint(255 * 8) {
		n := new(big.Int).Lsh(big.NewInt(1), bitLen)
		for d := int64(-1); d <= 1; d++ {
			m := new(big.Int).Add(n, big.NewInt(d))
			numbers = append(numbers, m, new(big.Int).Neg(m))
		}
	}
	content := func(n *big.Int) []byte { // by definition
		if n.Sign() >= 0 {
			return append(make([]byte, 1-min(1, n.BitLen()%8)), n.Bytes()...)
		}
		size := 1
		for new(big.Int).Lsh(big.NewInt(-1), uint(8*size-1)).Cmp(n) > 0 {
			size++
		}
		return new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), uint(8*size)), n).Bytes()
	}
	unsigned := func(n *big.Int) *big.Int { return new(big.Int).SetBytes(content(n)) }

	listed := map[string]bool{}
	var der []byte
	for i, n := range numbers {
		if c := content(n); i%3 == 0 && len(c) <= 255 {
			der = append(der, rawEntry(c)...)
			listed[unsigned(n).String()] = true
		}
	}
	x, err := crl.ParseEntries(der, completeList)
	require.NoError(t, err)
	for _, n := range numbers {
		for _, sought := range []*big.Int{n, unsigned(n)} {
			_, ok := x.Find(listIssuer, sought)
			if want := listed[unsigned(n).String()]; ok != want {
				t.Fatalf("%x: %v, want %v", sought, ok, want)
			}
		}
	}
}

func TestSerialNumbersThatCannotBeFound(t *testing.T) {
	x, err := crl.ParseEntries(entry(7), completeList)
	require.NoError(t, err)
	empty, err := crl.ParseEntries(nil, completeList)
	require.NoError(t, err)
	require.Zero(t, empty.Len())
	huge := new(big.Int).Lsh(big.NewInt(1), 1<<20)
	for _, n := range []*big.Int{nil, big.NewInt(0), big.NewInt(-7), big.NewInt(0x0700), huge, new(big.Int).Neg(huge)} {
		_, ok := x.Find(listIssuer, n)
		require.False(t, ok, "%.10x", n)
		_, ok = empty.Find(listIssuer, n)
		require.False(t, ok, "%.10x", n)
	}
	var none crl.Index
	_, ok := none.Find(listIssuer, big.NewInt(7))
	require.False(t, ok)
	require.Zero(t, none.Len())
	require.Zero(t, none.Size())
}

// A delta that says both that a certificate is revoked and that it is no longer
// must not take it back.
func TestTheWorstEntryCounts(t *testing.T) {
	const remove = 8
	for _, test := range []struct {
		name    string
		reasons []byte
		want    int // index of the reason
	}{
		{"the first of two", []byte{1, 4}, 0},
		{"removeFromCRL alone", []byte{remove}, 0},
		{"removeFromCRL twice", []byte{remove, remove}, 0},
		{"removeFromCRL first", []byte{remove, 4}, 1},
		{"removeFromCRL last", []byte{4, remove}, 0},
		{"removeFromCRL on both sides", []byte{remove, 6, remove, 1}, 3},
	} {
		for _, fillers := range []int{0, 3000} { // alone, and among others
			var der []byte
			date := func(i int) time.Time { return testpki.Epoch.AddDate(0, 0, i) }
			for i, code := range test.reasons {
				for j := range fillers {
					der = append(der, rawEntry([]byte{1, byte(i), byte(j >> 8), byte(j)}, reason(1))...)
				}
				der = append(der, tlv(0x30, []byte{2, 1, 7}, utcTime(date(i)), tlv(0x30, reason(code)))...)
			}
			x, err := crl.ParseEntries(der, deltaList)
			require.NoError(t, err)
			e, ok := x.Find(listIssuer, big.NewInt(7))
			require.True(t, ok, test.name)
			require.Equal(t, crl.Entry{Reason: int(test.reasons[test.want]), HasReason: true, Date: date(test.want)}, e, test.name)
		}
	}
	x, err := crl.ParseEntries(joined(entry(7, reason(1)), entry(7), entry(7, reason(4))), completeList)
	require.NoError(t, err)
	e, ok := x.Find(listIssuer, big.NewInt(7))
	require.True(t, ok)
	require.Equal(t, 1, e.Reason)
	require.Equal(t, 3, x.Len())
}

// A CA that lists one serial number a hundred thousand times does not make
// look-ups slow for the certificates of others.
func TestRepeatedEntriesDoNotCrowdABucket(t *testing.T) {
	var der []byte
	for i := range 100_000 {
		der = append(der, rawEntry([]byte{1, 2, 3, 4, 5, byte(i % 3)}, reason(1))...)
		if i%100 == 0 {
			der = append(der, rawEntry([]byte{2, byte(i >> 16), byte(i >> 8), byte(i)})...)
		}
	}
	for name, o := range map[string]crl.EntryOptions{"complete": completeList, "delta": deltaList, "indirect": indirectList} {
		x, err := crl.ParseEntries(der, o)
		require.NoError(t, err, name)
		require.Equal(t, 101_000, x.Len())
		require.Less(t, x.LargestBucket(), 8192, name)
		for i := 0; i < 100_000; i += 100 {
			_, ok := x.Find(listIssuer, new(big.Int).SetBytes([]byte{2, byte(i >> 16), byte(i >> 8), byte(i)}))
			require.True(t, ok)
		}
	}
}

// Whoever writes a list cannot know which serial numbers will share a bucket.
func TestBucketsDifferFromListToList(t *testing.T) {
	var der []byte
	for i := range 1000 {
		der = append(der, rawEntry([]byte{1, byte(i >> 8), byte(i)})...)
	}
	a, err := crl.ParseEntries(der, completeList)
	require.NoError(t, err)
	b, err := crl.ParseEntries(der, completeList)
	require.NoError(t, err)
	require.False(t, a.SameLayout(b))
	require.Less(t, a.LargestBucket(), 1000)
}

// harm orders reasons: what can be undone is less than what cannot.
func harm(reason int) int {
	switch reason {
	case 8:
		return 0
	case 6:
		return 1
	}
	return 2
}

// Lists of every size around the points where the table grows a bucket, a part
// or a chunk.
func TestEveryEntryIsFound(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 7, 100, 107, 108, 109, 1000, 6899, 6900, 6901, 14000, 60000} {
		for name, o := range map[string]crl.EntryOptions{"complete": completeList, "delta": deltaList, "indirect": indirectList} {
			want := map[string]int{}
			var der []byte
			for range n {
				serial := make([]byte, 1+random.IntN(20))
				for i := range serial {
					serial[i] = byte(random.Uint32())
				}
				serial[0] = serial[0]&0x7f | 1
				code := byte(random.IntN(7))
				der = append(der, rawEntry(serial, reason(code))...)
				if first, known := want[string(serial)]; !known || harm(int(code)) > harm(first) {
					want[string(serial)] = int(code)
				}
			}
			x, err := crl.ParseEntries(der, o)
			require.NoError(t, err)
			require.Equal(t, n, x.Len())
			for serial, code := range want {
				e, ok := x.Find(listIssuer, new(big.Int).SetBytes([]byte(serial)))
				if !ok || e.Reason != code {
					t.Fatalf("%s of %d: %x: %v %v, want %d", name, n, serial, e, ok, code)
				}
				absent := append([]byte(serial), 0)
				if _, listed := want[string(absent)]; !listed {
					_, ok := x.Find(listIssuer, new(big.Int).SetBytes(absent))
					require.False(t, ok)
				}
			}
		}
	}
}

// Whoever bounds the memory of lists goes by their Size.
func TestSizeIsThatOfTheMemory(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	der, err := ca.MassiveCRL(100_000, seed)
	require.NoError(t, err)
	l, err := crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
	require.Less(t, l.Size(), 24<<20/10)
	kept := retained(func() any { l, _ := crl.ParseAndVerify(der, ca.Certificate); return l })
	require.InEpsilon(t, kept, l.Size(), 0.02)
	runtime.KeepAlive(l)
	runtime.KeepAlive(der)

	var groups []byte
	for i := range 20_000 {
		name := make([]byte, 60)
		name[0], name[1] = byte(i>>8), byte(i)
		groups = append(groups, entry(7, issuerNames(tlv(0xa4, tlv(0x30, tlv(4, name)))))...)
	}
	x, err := crl.ParseEntries(groups, indirectList)
	require.NoError(t, err)
	kept = retained(func() any { x, _ := crl.ParseEntries(groups, indirectList); return x })
	require.GreaterOrEqual(t, float64(x.Size()), 0.98*kept)
	require.Less(t, float64(x.Size()), 1.5*kept)
	runtime.KeepAlive(x)
	runtime.KeepAlive(groups)
}

// Of a large list, whose entries are read while its signature is verified, nothing
// comes out unless that holds.
func TestLargeListWithAWrongSignature(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	der, err := ca.MassiveCRL(100_000, seed)
	require.NoError(t, err)
	require.Greater(t, len(der), 1<<20)
	_, err = crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
	for _, i := range []int{len(der) - 1, len(der) / 2} { // the signature, an entry
		broken := bytes.Clone(der)
		broken[i] ^= 1
		l, err := crl.ParseAndVerify(broken, ca.Certificate)
		require.Error(t, err)
		require.Nil(t, l)
	}
}

// A look-up allocates nothing, and a list a bounded number of pieces, however
// many entries it has and of whatever shape.
func TestAllocations(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	der, err := ca.MassiveCRL(100_000, seed)
	require.NoError(t, err)
	l, err := crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
	leaf := issue(t, ca, testpki.Options{Serial: testpki.MassiveSerial(seed, 77)})
	absent := issue(t, ca, testpki.Options{Serial: testpki.MassiveSerial(seed+1, 77)})
	_, ok := l.Lookup(leaf)
	require.True(t, ok)
	_, ok = l.Lookup(absent)
	require.False(t, ok)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		l.Lookup(leaf)
		l.Lookup(absent)
	}))
	x, err := crl.ParseEntries(joined(entry(7, entryFor("A")), rawEntry([]byte{0x80})), indirectList)
	require.NoError(t, err)
	issuer, negative := nameDER("A"), big.NewInt(-128)
	require.Zero(t, testing.AllocsPerRun(100, func() { x.Find(issuer, negative) }))

	pieces, octets := allocated(func() { _, err = crl.ParseAndVerify(der, ca.Certificate) })
	require.NoError(t, err)
	require.Less(t, pieces, uint64(160))
	require.Less(t, float64(octets), 1.75*float64(len(der)))

	var odd []byte
	for i := range 20_000 {
		odd = append(odd, rawEntry([]byte{1, byte(i >> 8), byte(i)}, ext(oidInvalidity, false, generalTime(testpki.Epoch)),
			ext(oidReason, true, []byte{10, 1, 1}), ext(oidUnknown, false, nil), entryFor("A"))...)
	}
	pieces, octets = allocated(func() { _, err = crl.ParseEntries(odd, indirectList) })
	require.NoError(t, err)
	require.Less(t, pieces, uint64(64))
	require.Less(t, octets, uint64(len(odd)))
}

// allocated is how many pieces of memory and octets f allocates.
func allocated(f func()) (pieces, octets uint64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
}

// retained is how many octets f's result keeps.
func retained(f func() any) float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // for what sync.Pool kept
	runtime.ReadMemStats(&before)
	result := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(result)
	return float64(after.HeapAlloc) - float64(before.HeapAlloc)
}
