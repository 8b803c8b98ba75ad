package crl

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mtlsguard/mtls/internal/x509ext"
)

// entryOptions is what the rest of a list says about its entries.
type entryOptions struct {
	indirect bool   // an entry may be for another issuer's certificate
	delta    bool   // an entry may be taken back by removeFromCRL
	v1       bool   // an entry has no extensions
	issuer   []byte // DER of the CRL issuer's Name
}

// parseEntries reads the contents of revokedCertificates (RFC 5280 section
// 5.1.2.6), which may be empty.
func parseEntries(contents cryptobyte.String, o entryOptions) (*index, error) {
	if uint64(len(contents)) > math.MaxUint32 {
		return nil, fmt.Errorf("%w: revokedCertificates", ErrMalformed)
	}
	x := &index{seed: maphash.MakeSeed(), issuer: bytes.Clone(o.issuer)}
	if o.indirect {
		same := comparable(o.issuer)
		x.groups, x.issuers, x.names = map[string]uint16{string(o.issuer): 0, same: 0}, 1, len(o.issuer)+len(same)
	}
	b := newIndexBuilder(x, len(contents), o.delta)
	runs, err := readPieces(b, contents, o)
	if err != nil {
		return nil, err
	}
	b.finish(runs)
	return x, nil
}

// readRun adds the entries that begin at from or later and before to. It returns
// where the next one begins.
func readRun(out *run, contents []byte, from, to int, o entryOptions) (int, error) {
	reader := entryReader{entryOptions: o, index: out.index}
	var buf [groupLen + maxSerialLen]byte
	for from < to {
		rest := cryptobyte.String(contents[from:])
		number, head, size := commonEntry(rest)
		if size == 0 || o.v1 && head.reason() != noReason {
			before := len(rest)
			var err error
			if number, head, err = reader.read(&rest); err != nil {
				return 0, err
			}
			size = before - len(rest)
		}
		out.add(out.key(buf[:], reader.group, number), head)
		from += size
	}
	return from, nil
}

// entryReader reads entries of whatever shape.
type entryReader struct {
	entryOptions
	index *index
	group uint16 // certificate issuer of the last entry, and so of the next unless it names another
}

// read returns the serial number as serialKey has it, which aliases the DER, and
// a header without its length.
func (r *entryReader) read(in *cryptobyte.String) ([]byte, recordHead, error) {
	malformed := func(what string) ([]byte, recordHead, error) {
		return nil, 0, fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	var entry, serial, extensions cryptobyte.String
	var hasExtensions bool
	if !in.ReadASN1(&entry, cbasn1.SEQUENCE) || !entry.ReadASN1(&serial, cbasn1.INTEGER) || !minimal(serial) {
		return malformed("userCertificate")
	}
	if len(serial) > maxSerialLen {
		return malformed("serial number too long")
	}
	t, ok := x509ext.ReadTime(&entry)
	if !ok {
		return malformed("revocationDate")
	}
	if !entry.ReadOptionalASN1(&extensions, &hasExtensions, cbasn1.SEQUENCE) || !entry.Empty() {
		return malformed("crlEntryExtensions")
	}
	if hasExtensions && r.v1 {
		return malformed("crlEntryExtensions in version 1")
	}
	reason, err := r.readExtensions(extensions)
	if err != nil {
		return nil, 0, err
	}
	return serialKey(serial), newHead(reason, dateOf(t)), nil
}

// Contents of the identifiers of entry extensions (RFC 5280 section 5.3).
const (
	reasonCode        = "\x55\x1d\x15"
	invalidityDate    = "\x55\x1d\x18"
	certificateIssuer = "\x55\x1d\x1d"
)

// maxEntryExtensions bounds the search for duplicates, which is quadratic. RFC
// 5280 knows three.
const maxEntryExtensions = 16

// readExtensions returns the reason, or noReason, and notes whose certificates
// this entry and the following ones are for.
func (r *entryReader) readExtensions(in cryptobyte.String) (uint8, error) {
	reason := uint8(noReason)
	var seen [maxEntryExtensions]cryptobyte.String
	for n := 0; !in.Empty(); n++ {
		e, ok := readEntryExtension(&in)
		if !ok || n == len(seen) {
			return 0, fmt.Errorf("%w: entry extensions", ErrMalformed)
		}
		for _, other := range seen[:n] {
			if bytes.Equal(other, e.oid) {
				return 0, fmt.Errorf("%w: repeated entry extension", ErrMalformed)
			}
		}
		seen[n] = e.oid
		var err error
		switch string(e.oid) {
		case reasonCode:
			reason, err = r.reason(e.value)
		case invalidityDate:
			// Understood and of no consequence, so that its value, for which
			// some CAs take a UTCTime, is not looked at.
		case certificateIssuer:
			// It changes whose certificates are meant, whether critical or not.
			r.group, err = r.certificateIssuer(e.value)
		default:
			if e.critical {
				// RFC 5280 section 5.3: the whole list, not just the entry.
				err = fmt.Errorf("%w: critical entry extension %.64s", ErrUnusable, dotted(e.oid))
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return reason, nil
}

func (r *entryReader) reason(value cryptobyte.String) (uint8, error) {
	var code int
	// RFC 5280 section 5.3.1: 7 is not used.
	if !value.ReadASN1Enum(&code) || !value.Empty() || code < 0 || code > 10 || code == 7 {
		return 0, fmt.Errorf("%w: reasonCode", ErrMalformed)
	}
	if code == removeFromCRL && !r.delta {
		return 0, fmt.Errorf("%w: removeFromCRL in a list that is not a delta", ErrUnusable)
	}
	return uint8(code), nil
}

// certificateIssuer reads the extension of that name (RFC 5280 section 5.3.3).
func (r *entryReader) certificateIssuer(value cryptobyte.String) (uint16, error) {
	if !r.indirect {
		return 0, fmt.Errorf("%w: entry of an indirect CRL", ErrUnusable)
	}
	var names, choice, name cryptobyte.String
	var tag cbasn1.Tag
	if !value.ReadASN1(&names, cbasn1.SEQUENCE) || !value.Empty() {
		return 0, fmt.Errorf("%w: certificateIssuer", ErrMalformed)
	}
	const directoryName = cbasn1.Tag(4 | 0x80 | 0x20)
	if !names.ReadAnyASN1(&choice, &tag) || tag != directoryName || !names.Empty() {
		return 0, fmt.Errorf("%w: certificateIssuer is not one directory name", ErrUnusable)
	}
	if !choice.ReadASN1Element(&name, cbasn1.SEQUENCE) || !choice.Empty() {
		return 0, fmt.Errorf("%w: certificateIssuer", ErrMalformed)
	}
	return r.index.groupOf(name)
}

// extension is an Extension of an entry.
type extension struct {
	oid      cryptobyte.String // contents
	critical bool
	value    cryptobyte.String
}

// readEntryExtension is x509ext.ReadExtension without its allocation.
func readEntryExtension(in *cryptobyte.String) (extension, bool) {
	var e extension
	var seq cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1(&e.oid, cbasn1.OBJECT_IDENTIFIER) || !validOID(e.oid) ||
		seq.PeekASN1Tag(cbasn1.BOOLEAN) && !seq.ReadASN1Boolean(&e.critical) ||
		!seq.ReadASN1(&e.value, cbasn1.OCTET_STRING) || !seq.Empty() {
		return extension{}, false
	}
	return e, true
}

// validOID reports whether these are the contents of an OBJECT IDENTIFIER whose
// arcs are in the shortest form and fit 31 bits, as cryptobyte has it.
func validOID(oid []byte) bool {
	arc, first := 0, true
	for _, b := range oid {
		if first && b == 0x80 || arc >= 1<<(31-7) {
			return false
		}
		arc, first = arc<<7|int(b&0x7f), b < 0x80
		if first {
			arc = 0
		}
	}
	return len(oid) > 0 && first
}

func dotted(oid []byte) string {
	var parsed x509.OID
	if parsed.UnmarshalBinary(oid) != nil {
		return "?"
	}
	return parsed.String()
}

// minimal reports whether the contents of an INTEGER are as short as DER
// demands; a longer form of a serial number would never be found.
func minimal(content []byte) bool {
	if len(content) < 2 {
		return len(content) == 1
	}
	return !(content[0] == 0 && content[1] < 0x80 || content[0] == 0xff && content[1] >= 0x80)
}

// serialKey drops the octet that only carries the sign from the contents of an
// INTEGER.
func serialKey(content []byte) []byte {
	if len(content) > 1 && content[0] == 0 {
		return content[1:]
	}
	return content
}

// commonEntry reads the first entry if it has the shape that almost all have:
//
//	SEQUENCE { INTEGER of at most 20 octets, UTCTime, reasonCode or nothing }
//
// It returns the same as read, and the entry's size, which is 0 for any other
// shape. That proves nothing against the entry: read decides. There may be a
// million of them, and read takes ten times as long.
func commonEntry(in []byte) ([]byte, recordHead, int) {
	const (
		header  = 4 // of the entry and its INTEGER
		timeLen = 15
	)
	// Lengths in the long form would be too large.
	if len(in) < header || in[0] != 0x30 || in[2] != 0x02 {
		return nil, 0, 0
	}
	size, end := 2+int(in[1]), header+int(in[3])
	if size > len(in) || end > header+20 || end+timeLen > size {
		return nil, 0, 0
	}
	serial, utc, extensions := in[header:end], in[end:end+timeLen], in[end+timeLen:size]
	d, ok := utcDate(utc)
	if !ok || !minimal(serial) {
		return nil, 0, 0
	}
	reason := uint8(noReason)
	if len(extensions) > 0 {
		// SEQUENCE { SEQUENCE { reasonCode, OCTET STRING { ENUMERATED of one octet } } }
		const head = "\x30\x0c\x30\x0a\x06\x03" + reasonCode + "\x04\x03\x0a\x01"
		if len(extensions) != len(head)+1 || string(extensions[:len(head)]) != head {
			return nil, 0, 0
		}
		if reason = extensions[len(head)]; reason > 10 || reason == 7 || reason == removeFromCRL {
			return nil, 0, 0
		}
	}
	return serialKey(serial), newHead(reason, d), size
}

// utcDate reads the 15 octets of a UTCTime as strictly as x509ext.ReadTime.
func utcDate(t []byte) (date, bool) {
	_ = t[14]
	yymmddhh, ok1 := pairs(binary.LittleEndian.Uint64(t[2:]))
	ddhhmmss, ok2 := pairs(binary.LittleEndian.Uint64(t[6:]))
	if !ok1 || !ok2 || t[0] != 0x17 || t[1] != 13 || t[14] != 'Z' {
		return 0, false
	}
	year, month, day, hour := yymmddhh&0xff, yymmddhh>>16&0xff, yymmddhh>>32&0xff, yymmddhh>>48
	minute, second := ddhhmmss>>32&0xff, ddhhmmss>>48
	if month < 1 || month > 12 || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	last := monthLen[month]
	if month == 2 && year%4 == 0 { // without exception between 1950 and 2049
		last++
	}
	if day < 1 || day > last {
		return 0, false
	}
	if year < 50 {
		year += 100
	}
	return newDate(1900+year, month, day, hour, minute, second), true
}

var monthLen = [13]uint64{1: 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

// pairs turns eight digits, the first in the lowest octet, into four numbers of
// two digits, the first in the lowest 16 bits, and reports whether they are
// digits.
func pairs(text uint64) (uint64, bool) {
	const each = 0x0101010101010101
	// From 0x30 to 0x3f, and still if 6 is added.
	ok := text&(0xf0*each) == 0x30*each && (text+6*each)&(0xf0*each) == 0x30*each
	text &= 0x0f * each
	return (10*text + text>>8) & 0x00ff00ff00ff00ff, ok
}

func dateOf(t time.Time) date {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	return newDate(uint64(year), uint64(month), uint64(day), uint64(hour), uint64(minute), uint64(second))
}
