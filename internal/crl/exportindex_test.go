package crl

import (
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// EntryOptions are entryOptions.
type EntryOptions struct {
	Indirect, Delta, V1 bool
	Issuer              []byte
}

func (o EntryOptions) internal() entryOptions {
	return entryOptions{indirect: o.Indirect, delta: o.Delta, v1: o.V1, issuer: o.Issuer}
}

// Index is an index.
type Index struct{ index *index }

// ParseEntries is parseEntries.
func ParseEntries(contents []byte, o EntryOptions) (Index, error) {
	x, err := parseEntries(contents, o.internal())
	return Index{x}, err
}

func (x Index) Find(rawIssuer []byte, serial *big.Int) (Entry, bool) {
	return x.index.find(rawIssuer, serial)
}
func (x Index) Len() int  { return x.index.len() }
func (x Index) Size() int { return x.index.size() }

// LargestBucket is how many octets a look-up reads at most.
func (x Index) LargestBucket() int {
	largest := 0
	for i := range uint32(len(x.index.tables) << x.index.bits) {
		bucket := x.index.bucket(i)
		used := 0
		for used < len(bucket) && bucket[used] != 0 {
			used += recordHeader + x.index.prefix() + int(bucket[used])
		}
		largest = max(largest, used)
	}
	return largest
}

// SameLayout reports whether all records are in the same places.
func (x Index) SameLayout(other Index) bool {
	for i, t := range x.index.tables {
		if string(t.data) != string(other.index.tables[i].data) {
			return false
		}
	}
	return true
}

// ParsedEntry is an entry outside of an index.
type ParsedEntry struct {
	Number string
	Reason uint8
	Date   time.Time
	Size   int
}

func parsed(number []byte, h recordHead, size int) ParsedEntry {
	return ParsedEntry{Number: string(number), Reason: h.reason(), Date: h.date().time(), Size: size}
}

// CommonEntry is commonEntry, false for an entry that it leaves to others.
func CommonEntry(in []byte) (ParsedEntry, bool) {
	number, head, size := commonEntry(in)
	return parsed(number, head, size), size != 0
}

// AnyEntry is entryReader.read for a complete list.
func AnyEntry(in []byte) (ParsedEntry, error) {
	rest := in
	r := entryReader{index: &index{}}
	number, head, err := r.read((*cryptobyte.String)(&rest))
	return parsed(number, head, len(in)-len(rest)), err
}

// EntryExtension is readEntryExtension.
func EntryExtension(in []byte) (oid, value []byte, critical bool, rest []byte, ok bool) {
	s := cryptobyte.String(in)
	e, ok := readEntryExtension(&s)
	return e.oid, e.value, e.critical, s, ok
}
