package ipaddr

import "net/netip"

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// special4Prefixes is the IANA IPv4 Special-Purpose Address Registry, and multicast. The few globally reachable addresses within 192.0.0.0/24
// (192.0.0.9 and .10, anycast for PCP and TURN) are nobody's revocation server and nobody's partner.
var special4Prefixes = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),          // "this network", RFC 791
	netip.MustParsePrefix("10.0.0.0/8"),         // private use, RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),      // shared address space (CGNAT), RFC 6598
	netip.MustParsePrefix("127.0.0.0/8"),        // loopback, RFC 1122
	netip.MustParsePrefix("169.254.0.0/16"),     // link local and cloud metadata, RFC 3927
	netip.MustParsePrefix("172.16.0.0/12"),      // private use, RFC 1918
	netip.MustParsePrefix("192.0.0.0/24"),       // IETF protocol assignments, RFC 6890
	netip.MustParsePrefix("192.0.2.0/24"),       // TEST-NET-1, RFC 5737
	netip.MustParsePrefix("192.88.99.0/24"),     // 6to4 relay anycast, RFC 7526
	netip.MustParsePrefix("192.168.0.0/16"),     // private use, RFC 1918
	netip.MustParsePrefix("198.18.0.0/15"),      // benchmarking, RFC 2544
	netip.MustParsePrefix("198.51.100.0/24"),    // TEST-NET-2, RFC 5737
	netip.MustParsePrefix("203.0.113.0/24"),     // TEST-NET-3, RFC 5737
	netip.MustParsePrefix("224.0.0.0/4"),        // multicast, RFC 5771
	netip.MustParsePrefix("240.0.0.0/4"),        // reserved, RFC 1112
	netip.MustParsePrefix("255.255.255.255/32"), // limited broadcast, RFC 919
}

// special6Prefixes is the IANA IPv6 Special-Purpose Address Registry, and what else is not global unicast. The ranges outside 2000::/3 are refused
// by that alone; they are listed so that the table can be compared with the registry.
var special6Prefixes = [...]netip.Prefix{
	netip.MustParsePrefix("::/96"),          // unspecified, loopback, IPv4-compatible, RFC 4291
	netip.MustParsePrefix("64:ff9b::/96"),   // NAT64: embeds any IPv4 address, RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"), // local-use NAT64, RFC 8215
	netip.MustParsePrefix("100::/64"),       // discard only, RFC 6666
	netip.MustParsePrefix("100:0:0:1::/64"), // dummy prefix, RFC 9780
	netip.MustParsePrefix("2001::/23"),      // IETF protocol assignments, Teredo, ORCHID, RFC 2928
	netip.MustParsePrefix("2001:db8::/32"),  // documentation, RFC 3849
	netip.MustParsePrefix("2002::/16"),      // 6to4: embeds any IPv4 address, RFC 3056
	netip.MustParsePrefix("3fff::/20"),      // documentation, RFC 9637
	netip.MustParsePrefix("5f00::/16"),      // SRv6 SIDs, RFC 9602
	netip.MustParsePrefix("fc00::/7"),       // unique local, RFC 4193
	netip.MustParsePrefix("fe80::/10"),      // link local, RFC 4291
	netip.MustParsePrefix("fec0::/10"),      // site local, RFC 3879
	netip.MustParsePrefix("ff00::/8"),       // multicast, RFC 4291
}

// special4 and special6 are the same by an address's first octet: every request
// asks, and hardly any octet has one.
var (
	special4 = byFirstOctet(special4Prefixes[:])
	special6 = byFirstOctet(special6Prefixes[:])
)

func byFirstOctet(list []netip.Prefix) (table [256][]netip.Prefix) {
	for _, p := range list {
		first := p.Addr().AsSlice()[0]
		for i := range 1 << max(0, 8-p.Bits()) {
			table[int(first)+i] = append(table[int(first)+i], p)
		}
	}
	return table
}
