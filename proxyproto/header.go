package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

// Sizes of headers. A header of version 2 may have 64 KiB by the specification;
// what proxies send has some hundred bytes, or 2 KiB with a certificate.
const (
	maxV1     = 107 // section 2.1
	prefixV2  = 16
	maxBodyV2 = 4096
)

var (
	errNothing  = errors.New("the proxy has closed the connection without a byte")
	errNoHeader = errors.New("it does not begin with a PROXY header")
	errTooLong  = errors.New("the PROXY header is too long")
	errTLV      = errors.New("a TLV of the PROXY header is malformed")
	errChecksum = errors.New("the checksum of the PROXY header is wrong")
	errFamily   = errors.New("an IPv4 address in a TCP6 line")
)

// header is what a PROXY header states.
type header struct {
	source, destination netip.AddrPort // canonical; the zero values where it states none
	unknown             unknownAddr    // why there is no source
}

// readHeader reads a header, which may arrive in any number of pieces, and
// returns it with what has come behind it.
func readHeader(r io.Reader) (h header, rest []byte, err error) {
	buf := make([]byte, prefixV2+maxBodyV2)
	have := 0
	for {
		n, readErr := r.Read(buf[have:])
		have += n
		size, err := frame(buf[:have])
		if err != nil {
			return header{}, nil, err
		}
		if size > 0 {
			h, err = parse(buf[:size])
			return h, bytes.Clone(buf[size:have]), err
		}
		switch {
		case readErr != nil && have == 0:
			return header{}, nil, errNothing
		case readErr != nil:
			return header{}, nil, fmt.Errorf("after %d bytes of a PROXY header: %w", have, readErr)
		}
	}
}

// frame returns the size of the header at the start of b, or 0 if there is more
// to come. Whatever cannot become a header is an error at its first wrong byte.
func frame(b []byte) (int, error) {
	switch {
	case begins(b, proxyproto.SIGV1):
		line := b[:min(len(b), maxV1)]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(line) == maxV1 {
			return 0, errTooLong
		}
		return 0, nil
	case begins(b, proxyproto.SIGV2):
		if len(b) < prefixV2 {
			return 0, nil
		}
		body := int(binary.BigEndian.Uint16(b[prefixV2-2:]))
		switch {
		case body > maxBodyV2:
			return 0, errTooLong
		case len(b) < prefixV2+body:
			return 0, nil
		}
		return prefixV2 + body, nil
	}
	return 0, errNoHeader
}

// begins reports whether b begins with the signature, as far as b goes.
func begins(b, signature []byte) bool {
	n := min(len(b), len(signature))
	return bytes.Equal(b[:n], signature[:n])
}

// parse reads one whole header. go-proxyproto reads the fields strictly once it
// has all of them in one piece, which frame sees to. It leaves the checksum and
// the TLVs to its callers, and a variable of the whole process loosens it.
func parse(b []byte) (h header, err error) {
	defer func() {
		if p := recover(); p != nil { // the goroutine is ours: it would end the program
			h, err = header{}, fmt.Errorf("panic on a PROXY header: %v", p)
		}
	}()
	v2 := b[0] == proxyproto.SIGV2[0]
	if v2 {
		// The rest of these is to be ignored, as it is (section 2.2).
		switch command, family := b[12], b[13]; {
		case command == byte(proxyproto.LOCAL):
			return header{unknown: "LOCAL"}, nil
		case command == byte(proxyproto.PROXY) && family == byte(proxyproto.UNSPEC):
			return header{unknown: "UNSPEC"}, nil
		}
	}
	p, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return header{}, err
	}
	if v2 {
		if err := checkTLVs(b); err != nil {
			return header{}, err
		}
	}
	source, destination, ok := p.TCPAddrs()
	switch {
	case p.Command.IsLocal(): // of version 1
		return header{unknown: "UNKNOWN"}, nil
	case !ok:
		// A receiver "automatically falls back to the UNSPEC mode for the valid
		// combinations above that it does not support" (section 2.2). A Unix socket
		// has no address, and no handshake has shown that a UDP address is its
		// sender's.
		return header{unknown: "not TCP"}, nil
	case !v2 && p.TransportProtocol == proxyproto.TCPv6:
		// V1AcceptIPv4InTCP6 of go-proxyproto may have been set by anybody.
		for _, field := range bytes.Fields(b)[2:4] {
			if !bytes.Contains(field, []byte(":")) {
				return header{}, errFamily
			}
		}
	}
	h.source, _ = ipaddr.FromNetAddr(source)
	h.destination, _ = ipaddr.FromNetAddr(destination)
	return h, nil
}

// checkTLVs reads the type-length-values of a header of version 2, unknown ones
// included, and verifies its checksum if it has one (section 2.2.3).
func checkTLVs(b []byte) error {
	at := prefixV2 // of the TLV
	switch proxyproto.AddressFamilyAndProtocol(b[13]) {
	case proxyproto.TCPv4, proxyproto.UDPv4:
		at += 12
	case proxyproto.TCPv6, proxyproto.UDPv6:
		at += 36
	case proxyproto.UnixStream, proxyproto.UnixDatagram:
		at += 216
	}
	checksum := 0 // its place
	for at < len(b) {
		if len(b)-at < 3 {
			return errTLV
		}
		kind, value := proxyproto.PP2Type(b[at]), at+3
		at = value + int(binary.BigEndian.Uint16(b[at+1:]))
		if at > len(b) {
			return errTLV
		}
		if kind == proxyproto.PP2_TYPE_CRC32C {
			if checksum != 0 || at-value != 4 {
				return errTLV
			}
			checksum = value
		}
	}
	if checksum == 0 {
		return nil
	}
	zeroed := bytes.Clone(b)
	clear(zeroed[checksum : checksum+4])
	if crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(b[checksum:]) {
		return errChecksum
	}
	return nil
}
