package crl

import (
	"encoding/binary"
	"hash/maphash"
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
	parts  int  // of each table
	unique bool // no two records may have one key
}

// run is a piece of the list, whose records are in the order of the list within
// each part. Runs are filled side by side.
type run struct {
	*indexBuilder
	parts  []part // of one table after the other
	chunks []chunk
	slab   []byte // for further chunks
	count  int    // records
	prefix int    // of the index
	mask   uint32 // of the hash
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
	partBits  = 12
	tableBits = 2 // of a large list

	chunkLen = 8192 // more than any record
	slabLen  = 32 * chunkLen

	// bucketFor is how many octets of DER share a bucket at least; twice as many
	// at most. An entry takes about 38.
	bucketFor = 128
	// crowded is a size that hardly any bucket has unless keys are repeated.
	crowded = 4096
)

// newIndexBuilder makes the table for entries that take contents octets of DER.
func newIndexBuilder(x *index, contents int, unique bool) *indexBuilder {
	x.bits = bits.Len(uint(contents / (2 * bucketFor)))
	tables := 1
	if x.bits >= partBits+tableBits {
		x.bits -= tableBits
		tables <<= tableBits
	}
	x.tables = make([]table, tables)
	return &indexBuilder{index: x, parts: max(1, 1<<x.bits>>partBits), unique: unique}
}

func (b *indexBuilder) newRun() *run {
	return &run{
		indexBuilder: b,
		parts:        make([]part, len(b.tables)*b.parts),
		chunks:       make([]chunk, 1),
		prefix:       b.index.prefix(),
		mask:         uint32(len(b.tables)<<b.bits - 1),
	}
}

// add takes the next entry of the piece.
func (r *run) add(key []byte, h recordHead) {
	place := uint32(maphash.Bytes(r.seed, key)) & r.mask
	p := &r.parts[place>>partBits]
	size := 2 + recordHeader + len(key)
	if len(p.free) < size {
		r.grow(p)
	}
	record := p.free[:size]
	binary.LittleEndian.PutUint16(record, uint16(place&(1<<partBits-1)))
	// An octet more than the header has, where the key comes.
	binary.LittleEndian.PutUint64(record[2:], uint64(h)|uint64(len(key)-r.prefix))
	if to := record[2+recordHeader:]; len(key) == 16 {
		*(*[16]byte)(to) = [16]byte(key)
	} else {
		copy(to, key)
	}
	p.free = p.free[size:]
	p.size += uint32(recordHeader + len(key))
	r.count++
}

// grow gives the part another chunk.
func (r *run) grow(p *part) {
	if len(r.slab) == 0 {
		// Most lists have one part and need no more than a chunk or two.
		r.slab = make([]byte, min(slabLen, chunkLen*max(len(r.chunks), len(r.parts))))
	}
	next := uint32(len(r.chunks))
	r.chunks = append(r.chunks, chunk{data: r.slab[:chunkLen]})
	p.free, r.slab = r.slab[:chunkLen], r.slab[chunkLen:]
	if p.first == 0 {
		p.first = next
	} else {
		r.chunks[p.last].next = next
	}
	p.last = next
}

// finish moves all records to their buckets, of a large list side by side. The
// runs are in the order of the list.
func (b *indexBuilder) finish(runs []*run) {
	for _, r := range runs {
		b.count += r.count
	}
	var work []func()
	for i := range b.tables {
		work = append(work, func() { b.tables[i] = b.fill(runs, i*b.parts) })
	}
	parallel(work...)
}

// fill makes the table of which the first part is given.
func (b *indexBuilder) fill(runs []*run, first int) table {
	// The total is less than the size of the DER, in which an entry takes more
	// than its record, and so fits starts.
	total := uint32(0)
	for i := range b.parts {
		for _, r := range runs {
			total += r.parts[first+i].size
		}
	}
	t := table{starts: make([]uint32, 1<<b.bits+1), data: make([]byte, total)}
	end := uint32(0)
	for i := range b.parts {
		starts := t.starts[i<<partBits : min((i+1)<<partBits, 1<<b.bits)]
		for _, r := range runs {
			for bucket, record := range r.records(first + i) {
				starts[bucket] += uint32(len(record))
			}
		}
		var ends [1 << partBits]uint32 // so far
		begin := end
		for bucket, size := range starts {
			starts[bucket], ends[bucket] = end, end
			end += size
		}
		// It is clear, but now it is in the cache too, in half the time that the
		// misses would take.
		clear(t.data[begin:end])
		for _, r := range runs {
			for bucket, record := range r.records(first + i) {
				if !b.merge(t.data[starts[bucket]:ends[bucket]], record) {
					ends[bucket] += copyRecord(t.data[ends[bucket]:], record)
				}
			}
		}
	}
	t.starts[1<<b.bits] = end
	return t
}

// copyRecord is copy for a record, which has 8 octets at least and seldom many more.
func copyRecord(to, record []byte) uint32 {
	last := len(record) - 8
	to = to[:len(record)]
	for i := 0; i < last; i += 8 {
		binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(record[i:]))
	}
	binary.LittleEndian.PutUint64(to[last:], binary.LittleEndian.Uint64(record[last:]))
	return uint32(len(record))
}

// records are the run's records of a part, each with its bucket in the part.
func (r *run) records(part int) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for i := r.parts[part].first; i != 0; i = r.chunks[i].next {
			for rest := r.chunks[i].data; len(rest) > 2 && rest[2] != 0; {
				end := 2 + recordHeader + r.prefix + int(rest[2])
				if !yield(binary.LittleEndian.Uint16(rest), rest[2:end]) {
					return
				}
				rest = rest[end:]
			}
		}
	}
}

// merge reports whether the bucket has a record of the same key already, and
// sees to it that this says the worse of both, or what the first of them says. In a list without
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
	if harm(r) > harm(known) {
		copy(known, r)
	}
	return true
}

func recordReason(r []byte) uint8 { return r[1] }
