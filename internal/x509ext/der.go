package x509ext

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ParseExtensions parses the contents of an Extensions SEQUENCE (RFC 5280
// section 4.1). It refuses an empty one and an identifier that occurs twice:
// of two issuing distribution points only one would be obeyed. The values alias
// the input.
func ParseExtensions(contents []byte) ([]pkix.Extension, error) {
	in := cryptobyte.String(contents)
	if in.Empty() {
		return nil, errors.New("empty extensions")
	}
	var extensions []pkix.Extension
	for !in.Empty() {
		e, ok := ReadExtension(&in)
		if !ok {
			return nil, errors.New("malformed extension")
		}
		for _, other := range extensions {
			if other.Id.Equal(e.Id) {
				return nil, errors.New("duplicate extension")
			}
		}
		if extensions = append(extensions, e); len(extensions) > maxExtensions {
			return nil, errors.New("too many extensions")
		}
	}
	return extensions, nil
}

// maxExtensions bounds the search for duplicates, which is quadratic.
const maxExtensions = 100

// ReadExtension reads one Extension and advances in, or reports false. A
// criticality of FALSE that is spelled out, which DER forbids and some CAs
// write, is accepted. The value aliases the input.
func ReadExtension(in *cryptobyte.String) (pkix.Extension, bool) {
	var e pkix.Extension
	var seq, value cryptobyte.String
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&e.Id) ||
		seq.PeekASN1Tag(cbasn1.BOOLEAN) && !seq.ReadASN1Boolean(&e.Critical) ||
		!seq.ReadASN1(&value, cbasn1.OCTET_STRING) || !seq.Empty() {
		return pkix.Extension{}, false
	}
	e.Value = value
	return e, true
}

// ReadTime reads a UTCTime or a GeneralizedTime in the only forms that RFC 5280
// section 4.1.2.5 permits, with seconds and in UTC, and advances in. It reports
// false for everything else, such as 31 February or an offset, which parsers
// read in different ways.
func ReadTime(in *cryptobyte.String) (time.Time, bool) {
	var text cryptobyte.String
	if in.PeekASN1Tag(cbasn1.UTCTime) {
		if !in.ReadASN1(&text, cbasn1.UTCTime) || len(text) != len("yymmddhhmmssZ") {
			return time.Time{}, false
		}
		year, ok := digits(text[:2])
		if year < 50 {
			year += 2000
		} else {
			year += 1900
		}
		return clock(year, text[2:], ok)
	}
	if !in.ReadASN1(&text, cbasn1.GeneralizedTime) || len(text) != len("yyyymmddhhmmssZ") {
		return time.Time{}, false
	}
	century, ok1 := digits(text[:2])
	year, ok2 := digits(text[2:4])
	return clock(century*100+year, text[4:], ok1 && ok2)
}

// ReadGeneralizedTime is ReadTime for the fields of OCSP, which are never
// UTCTimes (RFC 6960 section 4.2.2).
func ReadGeneralizedTime(in *cryptobyte.String) (time.Time, bool) {
	if !in.PeekASN1Tag(cbasn1.GeneralizedTime) {
		return time.Time{}, false
	}
	return ReadTime(in)
}

// clock reads mmddhhmmssZ.
func clock(year int, text []byte, ok bool) (time.Time, bool) {
	var field [5]int
	for i := range field {
		var good bool
		field[i], good = digits(text[2*i : 2*i+2])
		ok = ok && good
	}
	month, day, hour, minute, second := time.Month(field[0]), field[1], field[2], field[3], field[4]
	if !ok || text[10] != 'Z' || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, month, day, hour, minute, second, 0, time.UTC)
	// time.Date turns 31 February into 3 March.
	return t, t.Year() == year && t.Month() == month && t.Day() == day
}

func digits(two []byte) (int, bool) {
	tens, ones := int(two[0])-'0', int(two[1])-'0'
	return 10*tens + ones, tens >= 0 && tens <= 9 && ones >= 0 && ones <= 9
}

// readAlgorithm splits an AlgorithmIdentifier into its identifier and the DER
// of its parameters, which are empty where there are none.
func readAlgorithm(in *cryptobyte.String) (asn1.ObjectIdentifier, []byte, bool) {
	var seq, parameters cryptobyte.String
	var oid asn1.ObjectIdentifier
	var tag cbasn1.Tag
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1ObjectIdentifier(&oid) ||
		!seq.Empty() && !seq.ReadAnyASN1Element(&parameters, &tag) || !seq.Empty() {
		return nil, nil, false
	}
	return oid, parameters, true
}

// ReadHashAlgorithm reads an AlgorithmIdentifier whose parameters are NULL or
// absent, as those of hash functions are, and advances in (RFC 5754 section 2).
func ReadHashAlgorithm(in *cryptobyte.String) (asn1.ObjectIdentifier, bool) {
	oid, parameters, ok := readAlgorithm(in)
	return oid, ok && nullOrAbsent(parameters)
}

func nullOrAbsent(parameters []byte) bool {
	return len(parameters) == 0 || bytes.Equal(parameters, asn1.NullBytes)
}
