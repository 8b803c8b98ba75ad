package dnsclient

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

const hexDigits = "0123456789abcdef"

// ReverseName returns the name of an address's PTR records, without the final
// dot: in in-addr.arpa (RFC 1035 section 3.5) or ip6.arpa (RFC 3596 section
// 2.5). An IPv4-mapped address has that of its IPv4 address; a zone counts for
// nothing. The zero Addr has none: "".
func ReverseName(a netip.Addr) string {
	a = ipaddr.Canonical(a)
	if !a.IsValid() {
		return ""
	}
	bytes := a.AsSlice()
	name := make([]byte, 0, len("f.")*32+len("ip6.arpa"))
	for i := len(bytes) - 1; i >= 0; i-- {
		b := bytes[i]
		if a.Is4() {
			name = append(strconv.AppendUint(name, uint64(b), 10), '.')
		} else {
			name = append(name, hexDigits[b&15], '.', hexDigits[b>>4], '.')
		}
	}
	if a.Is4() {
		return string(append(name, "in-addr.arpa"...))
	}
	return string(append(name, "ip6.arpa"...))
}

// ReverseAddr returns the address whose ReverseName is name.
func ReverseAddr(name string) (netip.Addr, bool) {
	var text strings.Builder
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		text.WriteString(reversed(labels, "."))
	} else if labels, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		for i, c := range reversed(labels, "") {
			if i > 0 && i%4 == 0 {
				text.WriteByte(':')
			}
			text.WriteRune(c)
		}
	}
	addr, err := netip.ParseAddr(text.String())
	// One name, one address: what has another spelling is not a reverse name.
	if err != nil || ReverseName(addr) != name {
		return netip.Addr{}, false
	}
	return addr, true
}

// reversed returns the labels from the last to the first.
func reversed(labels, separator string) string {
	parts := strings.Split(labels, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, separator)
}
