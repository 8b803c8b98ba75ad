package ipaddr

import (
	"fmt"
	"net/netip"
)

// CheckNAT64 says what is wrong with a prefix of an address translator (RFC 6052
// section 2.2).
func CheckNAT64(p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() {
		return fmt.Errorf("not an IPv6 prefix")
	}
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
	default:
		return fmt.Errorf("not of 32, 40, 48, 56, 64 or 96 bits, which RFC 6052 allows")
	}
	if p != p.Masked() {
		return fmt.Errorf("bits behind the prefix")
	}
	if b := p.Addr().As16(); b[8] != 0 {
		return fmt.Errorf("bits 64 to 71 are not zero (RFC 6052 section 2.2)")
	}
	return nil
}

// FromNAT64 returns the IPv4 address that a translator with one of the prefixes,
// which CheckNAT64 accepts, put into a: the peer itself, of whom a is only a
// spelling. An address under no prefix is returned as it is, in canonical form;
// one under a prefix that no translator makes is no address.
func FromNAT64(prefixes []netip.Prefix, a netip.Addr) netip.Addr {
	a = Canonical(a)
	if !a.Is6() {
		return a
	}
	for _, p := range prefixes {
		if p.Contains(a) {
			return embedded(p.Bits(), a.As16())
		}
	}
	return a
}

// embedded reads the four octets behind a prefix, which leave out bits 64 to 71.
// Those and all that follows are zero.
func embedded(bits int, b [16]byte) netip.Addr {
	const reserved = 8
	var v4 [4]byte
	at := bits / 8
	for i := range v4 {
		if at == reserved {
			at++
		}
		v4[i] = b[at]
		at++
	}
	if b[reserved] != 0 {
		return netip.Addr{}
	}
	for _, rest := range b[max(at, reserved):] {
		if rest != 0 {
			return netip.Addr{}
		}
	}
	return netip.AddrFrom4(v4)
}
