package crl

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// indexBuilder fills an index. A record belongs at a random place, and a million
// of them would be a million cache misses. So each is written twice: in the order
// of the list to the part of the table to which it belongs, which are few enough
// to write to all of them at once; and from each part to its buckets, which are
// few enough to stay in the cache.
type indexBuilder struct {
	*index
	parts  []part
	chunks []chunk
	slab   []byte // for further chunks
	total  int    // octets of records
	unique bool   // no two records may have one key
}

// part is 1<<partBits buckets. Its records are in a chain of chunks.
type part struct {
	first, last uint32 // in chunks; 0: none
	free        []byte // of the last chunk
	size        uint32 // of its records
}

type chunk struct {
	data []byte // records, each behind 2 octets for its bucket in the part; then zeros
	next uint32 // in chunks; 0: none
}

const (
	partBits = 10
	chunkLen = 4096 // more than any record
	slabLen  = 256 * chunkLen

	// bucketFor is how many octets of DER share a bucket at least; twice as many
	// at most. An entry takes about 38.
	bucketFor = 128
	// crowded is a size that hardly any bucket has unless keys are repeated.
	crowded = 4096
)

// newIndexBuilder makes the table for entries that take contents octets of DER.
func newIndexBuilder(x *index, contents int, unique bool) *indexBuilder {
	buckets := 1 << bits.Len(uint(contents/(2*bucketFor)))
	x.starts = make([]uint32, buckets+1)
	return &indexBuilder{
		index:  x,
		parts:  make([]part, max(1, buckets>>partBits)),
		chunks: make([]chunk, 1),
		unique: unique,
	}
}

// add takes the next entry of the list. finish must follow the last one.
func (b *indexBuilder) add(key []byte, h recordHead) {
	bucket := b.bucket(key)
	p := &b.parts[bucket>>partBits]
	size := 2 + recordHeader + len(key)
	if len(p.free) < size {
		b.grow(p)
	}
	r := p.free[:size]
	binary.LittleEndian.PutUint16(r, uint16(bucket&(1<<partBits-1)))
	// An octet more than the header has, where the key comes.
	binary.LittleEndian.PutUint64(r[2:], uint64(h)|uint64(len(key)-b.prefix()))
	copy(r[2+recordHeader:], key)
	p.free = p.free[size:]
	p.size += uint32(recordHeader + len(key))
	b.total += recordHeader + len(key)
	b.count++
}

// grow gives the part another chunk.
func (b *indexBuilder) grow(p *part) {
	if len(b.slab) == 0 {
		// Most lists need no more than a chunk or two.
		b.slab = make([]byte, min(slabLen, chunkLen*len(b.chunks)))
	}
	next := uint32(len(b.chunks))
	b.chunks = append(b.chunks, chunk{data: b.slab[:chunkLen]})
	p.free, b.slab = b.slab[:chunkLen], b.slab[chunkLen:]
	if p.first == 0 {
		p.first = next
	} else {
		b.chunks[p.last].next = next
	}
	p.last = next
}

// finish moves all records to their buckets, of a large list side by side.
func (b *indexBuilder) finish() {
	// The total is less than the size of the DER, in which an entry takes more
	// than its record, and so fits starts.
	b.data = make([]byte, b.total)
	begins, end := make([]uint32, len(b.parts)), uint32(0)
	for i := range b.parts {
		begins[i] = end
		end += b.parts[i].size
	}
	b.starts[len(b.starts)-1] = end
	const side = 2
	if len(b.parts) < 16 {
		b.place(begins, 0, len(b.parts))
		return
	}
	var work []func()
	for i := range side {
		work = append(work, func() { b.place(begins, i*len(b.parts)/side, (i+1)*len(b.parts)/side) })
	}
	parallel(work...)
}

// place moves the records of some parts, each to its own piece of the table.
func (b *indexBuilder) place(begins []uint32, from, to int) {
	for i := from; i < to; i++ {
		p, end := b.parts[i], begins[i]
		starts := b.starts[i<<partBits : min((i+1)<<partBits, len(b.starts)-1)]
		for bucket, r := range b.records(p) {
			starts[bucket] += uint32(len(r))
		}
		var ends [1 << partBits]uint32 // so far
		for bucket, size := range starts {
			starts[bucket], ends[bucket] = end, end
			end += size
		}
		// It is clear, but now it is in the cache too, in half the time that the
		// misses would take.
		clear(b.data[begins[i]:end])
		for bucket, r := range b.records(p) {
			if !b.merge(b.data[starts[bucket]:ends[bucket]], r) {
				ends[bucket] += uint32(copy(b.data[ends[bucket]:], r))
			}
		}
	}
}

// records are the records of a part in the order of the list, each with its
// bucket in the part.
func (b *indexBuilder) records(p part) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for i := p.first; i != 0; i = b.chunks[i].next {
			for r := b.chunks[i].data; len(r) > 2 && r[2] != 0; {
				end := 2 + recordHeader + b.prefix() + int(r[2])
				if !yield(binary.LittleEndian.Uint16(r), r[2:end]) {
					return
				}
				r = r[end:]
			}
		}
	}
}

// merge reports whether the bucket has a record of the same key already, and
// sees to it that this says the worse of both: whatever revokes is worse than
// removeFromCRL, and otherwise the first of the list counts. In a list without
// removeFromCRL a second record, behind the first, does no harm until there are
// so many that looking something up takes long.
func (b *indexBuilder) merge(bucket, r []byte) bool {
	if !b.unique && len(bucket) < crowded {
		return false
	}
	known := b.search(bucket, r[recordHeader:])
	if known == nil {
		return false
	}
	if recordReason(known) == removeFromCRL && recordReason(r) != removeFromCRL {
		copy(known, r)
	}
	return true
}

func recordReason(r []byte) uint8 { return r[1] }
