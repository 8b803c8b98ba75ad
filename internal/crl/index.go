package crl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/big"
	"slices"
	"time"
)

// index holds the entries of a list in a hash table of a few allocations: 7 octets
// an entry besides its serial number, and a look-up reads one place of starts
// and one of data. x509.RevocationList takes several hundred octets an entry.
type index struct {
	seed   maphash.Seed // its own, so that whoever writes a list cannot aim at one bucket
	tables []table      // a power of two, so that each is made by itself
	bits   int          // 1<<bits buckets a table
	count  int          // entries of the list, repeated ones too

	issuer  []byte            // the CRL issuer's Name
	groups  map[string]uint16 // the certificate issuers of an indirect list by Name; nil: not indirect
	issuers int               // how many groups there are: each Name is there as it is, and in the form for comparison
	names   int               // octets of these Names
}

// table is a piece of an index. Its buckets lie one after the other in data. Each
// is a row of records in the order of the list, and then zeros if some were left
// out.
type table struct {
	starts []uint32 // of each bucket in data, and the end of the last
	data   []byte
}

// A record is
//
//	1 octet   length of the serial number, never 0
//	1 octet   reason, or noReason
//	5 octets  date
//	key       in an indirect list 2 octets for the certificate issuer; then the
//	          serial number without the octet that only carries the sign
const (
	recordHeader  = 7
	groupLen      = 2
	maxGroups     = 1<<(8*groupLen) - 1
	maxSerialLen  = 255 // RFC 5280 section 5.1.2.6 and 4.1.2.2: at most 20
	noReason      = 0xff
	removeFromCRL = 8

	certificateHold = 6
)

// recordHead is the header of a record as a little-endian number.
type recordHead uint64

func newHead(reason uint8, d date) recordHead {
	return recordHead(reason)<<8 | recordHead(d)<<16
}

func (h recordHead) reason() uint8 { return uint8(h >> 8) }
func (h recordHead) date() date    { return date(h >> 16 & (1<<40 - 1)) }

// date is a date and time in UTC of the years 0 to 9999, which are all that DER
// can say, in 40 bits. It is quicker to make than seconds, and most are never
// looked at.
type date uint64

func newDate(year, month, day, hour, minute, second uint64) date {
	return date(year<<26 | month<<22 | day<<17 | hour<<12 | minute<<6 | second)
}

func (d date) time() time.Time {
	return time.Date(int(d>>26), time.Month(d>>22&15), int(d>>17&31), int(d>>12&31), int(d>>6&63), int(d&63), 0, time.UTC)
}

// key is what an entry is filed under. It may be written to buf.
func (x *index) key(buf []byte, group uint16, number []byte) []byte {
	if x.groups == nil {
		return number
	}
	return append(binary.BigEndian.AppendUint16(buf[:0], group), number...)
}

// prefix is how many octets of a key come before the serial number.
func (x *index) prefix() int {
	if x.groups == nil {
		return 0
	}
	return groupLen
}

// place returns which bucket of all a key belongs to.
func (x *index) place(key []byte) uint32 {
	return uint32(maphash.Bytes(x.seed, key)) & uint32(len(x.tables)<<x.bits-1)
}

// bucket returns the records of a bucket.
func (x *index) bucket(place uint32) []byte {
	t, i := &x.tables[place>>x.bits], place&(1<<x.bits-1)
	return t.data[t.starts[i]:t.starts[i+1]]
}

// groupOf returns the number of a certificate issuer of an indirect list.
func (x *index) groupOf(name []byte) (uint16, error) {
	if group, ok := x.groups[string(name)]; ok {
		return group, nil
	}
	same := comparable(name)
	group, ok := x.groups[same]
	if !ok {
		if x.issuers == maxGroups {
			return 0, fmt.Errorf("%w: more than %d certificate issuers", ErrUnusable, maxGroups)
		}
		group = uint16(x.issuers)
		x.issuers++
		x.groups[same] = group
		x.names += len(same)
	}
	if same != string(name) {
		x.groups[string(name)] = group // found without making the other form
		x.names += len(name)
	}
	return group, nil
}

// harm orders what two entries of one key say: what can be undone is less than
// what cannot.
func harm(record []byte) int {
	switch recordReason(record) {
	case removeFromCRL:
		return 0
	case certificateHold:
		return 1
	}
	return final
}

const final = 2

// search returns the first record of a key in a bucket and what follows, or nil.
func (x *index) search(bucket, key []byte) []byte {
	for len(bucket) > 0 && bucket[0] != 0 {
		end := recordHeader + x.prefix() + int(bucket[0])
		if bytes.Equal(bucket[recordHeader:end], key) {
			return bucket
		}
		bucket = bucket[end:]
	}
	return nil
}

// find returns the entry for a certificate, given the DER of its issuer's Name
// and its serial number, without allocating. Some CAs write serial numbers whose
// top bit is set without the leading zero octet and so as negative ones: such an
// entry is found under the positive number, and under the negative one.
func (x *index) find(rawIssuer []byte, serial *big.Int) (Entry, bool) {
	if x == nil || serial == nil || serial.BitLen() > 8*maxSerialLen {
		return Entry{}, false
	}
	group, ok := uint16(0), false
	if x.groups == nil {
		ok = bytes.Equal(rawIssuer, x.issuer)
	} else {
		if group, ok = x.groups[string(rawIssuer)]; !ok {
			group, ok = x.groups[comparable(rawIssuer)]
		}
	}
	if !ok {
		return Entry{}, false
	}
	var buf [groupLen + maxSerialLen + 1]byte
	binary.BigEndian.PutUint16(buf[:], group)
	key := buf[groupLen-x.prefix() : groupLen+putNumber(buf[groupLen:], serial)]
	r := x.search(x.bucket(x.place(key)), key)
	if r == nil {
		return Entry{}, false
	}
	for next := r; next != nil && harm(r) < final; { // a number may be there twice
		if next = x.search(next[recordHeader+x.prefix()+int(next[0]):], key); next != nil && harm(next) > harm(r) {
			r = next
		}
	}
	h := recordHead(binary.LittleEndian.Uint64(r))
	e := Entry{Date: h.date().time()}
	if h.reason() != noReason {
		e.Reason, e.HasReason = int(h.reason()), true
	}
	return e, true
}

// putNumber writes a serial number as serialKey has it and returns its length.
func putNumber(buf []byte, n *big.Int) int {
	if n.Sign() >= 0 {
		size := max(1, (n.BitLen()+7)/8)
		n.FillBytes(buf[:size])
		return size
	}
	// In two's complement -128 takes as much as 127.
	size := n.BitLen()/8 + 1
	if n.BitLen()%8 == 0 && int(n.TrailingZeroBits()) == n.BitLen()-1 {
		size--
	}
	n.FillBytes(buf[:size])
	carry := byte(1)
	for i := range slices.Backward(buf[:size]) {
		buf[i] = ^buf[i] + carry
		if buf[i] != 0 {
			carry = 0
		}
	}
	return size
}

// len is the number of entries in the list, repeated ones too.
func (x *index) len() int {
	if x == nil {
		return 0
	}
	return x.count
}

// size is how many octets of memory the index keeps.
func (x *index) size() int {
	if x == nil {
		return 0
	}
	const group = 64 // what a map takes for a string and a number, at most
	size := cap(x.issuer) + x.names + group*len(x.groups)
	for _, t := range x.tables {
		size += 4*cap(t.starts) + cap(t.data)
	}
	return size
}
