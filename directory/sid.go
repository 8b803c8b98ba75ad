package directory

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// sidText returns a security identifier as text ([MS-DTYP] 2.4.2.1) of its binary
// form (2.4.2.2).
func sidText(b []byte) (string, bool) {
	if len(b) < 8 || b[0] != 1 || b[1] == 0 || b[1] > 15 || len(b) != 8+4*int(b[1]) {
		return "", false
	}
	authority := binary.BigEndian.Uint64(append([]byte{0, 0}, b[2:8]...))
	s := "S-1-" + strconv.FormatUint(authority, 10)
	for b = b[8:]; len(b) > 0; b = b[4:] {
		s += "-" + strconv.FormatUint(uint64(binary.LittleEndian.Uint32(b)), 10)
	}
	return s, true
}

// sidBytes is the reverse. It takes the one spelling that sidText gives.
func sidBytes(s string) ([]byte, bool) {
	rest, ok := strings.CutPrefix(s, "S-1-")
	parts := strings.Split(rest, "-")
	if !ok || len(parts) < 2 || len(parts) > 16 {
		return nil, false
	}
	authority, err := strconv.ParseUint(parts[0], 10, 48)
	if err != nil {
		return nil, false
	}
	b := binary.BigEndian.AppendUint64(nil, authority)
	b[0], b[1] = 1, byte(len(parts)-1)
	for _, part := range parts[1:] {
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, false
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	if back, ok := sidText(b); !ok || back != s {
		return nil, false
	}
	return b, true
}
