// Package ipaddr brings IP addresses into the one form in which they may be compared, and knows which of them are not part of the public internet.
//
// One address has several spellings: a dual-stack listener reports 192.0.2.1 as ::ffff:192.0.2.1, and a link-local address carries a zone. Go's own
// netip predicates once judged the spellings differently (CVE-2024-24790), so everything here works on the canonical form only.
package ipaddr

import (
	"net"
	"net/netip"
)

// Canonical returns a as it is compared everywhere: an IPv4-mapped IPv6 address as IPv4, without a zone. The zero Addr stays as it is.
func Canonical(a netip.Addr) netip.Addr {
	return a.Unmap().WithZone("")
}

// FromNetAddr returns the canonical address and the port of a peer. It is false where a has none: a Unix socket, a pipe, nil. It accepts a *net.TCPAddr
// and any other net.Addr whose String is "ip:port"; names are never resolved.
func FromNetAddr(a net.Addr) (netip.AddrPort, bool) {
	var ap netip.AddrPort
	switch a := a.(type) {
	case nil:
		return netip.AddrPort{}, false
	case *net.TCPAddr:
		if a == nil {
			return netip.AddrPort{}, false
		}
		ap = a.AddrPort()
	default:
		var err error
		if ap, err = netip.ParseAddrPort(a.String()); err != nil {
			return netip.AddrPort{}, false
		}
	}
	if !ap.Addr().IsValid() {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(Canonical(ap.Addr()), ap.Port()), true
}

// SpecialUse reports that a is not globally reachable unicast, according to the IANA IPv4 and IPv6 special-purpose address registries (RFC 6890,
// RFC 8190) and the multicast and reserved ranges. Ranges that embed an IPv4 address (IPv4-mapped, IPv4-compatible, 6to4, Teredo, NAT64) are special,
// except that an IPv4-mapped address is judged as the IPv4 address that it is. In IPv6 only 2000::/3 has been given out as global unicast (RFC 4291
// section 2.4), and everything outside it is special. The zero Addr is special.
func SpecialUse(a netip.Addr) bool {
	a = Canonical(a)
	switch {
	case a.Is4():
		return contains(special4[a.As4()[0]], a)
	case a.Is6():
		return !globalUnicast6.Contains(a) || contains(special6[a.As16()[0]], a)
	}
	return true
}

// Contains reports whether one of the prefixes holds a, both brought to canonical form: ::ffff:192.0.2.0/120 is 192.0.2.0/24. An invalid prefix or
// address is in nothing. An IPv6 prefix that is wider than the IPv4-mapped range holds no IPv4 address.
func Contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if Holds(p, a) {
			return true
		}
	}
	return false
}

// Holds is Contains for one prefix.
func Holds(p netip.Prefix, a netip.Addr) bool { return canonicalPrefix(p).Contains(Canonical(a)) }

func canonicalPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
