package dnsclient

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// maxRecords is how many records of the type one answer may have.
func maxRecords(rrtype uint16) int {
	if rrtype == dns.TypeTXT {
		return 64
	}
	return 256
}

// add takes what a record says into the answer. It is false for a record
// without data, which the library reads as such.
func (a *Answer) add(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok := netip.AddrFromSlice(rr.A)
		if ok {
			a.Addrs = append(a.Addrs, addr.Unmap()) // the library may keep four bytes as sixteen
		}
		return ok
	case *dns.AAAA:
		addr, ok := netip.AddrFromSlice(rr.AAAA)
		if !ok || !addr.Is6() {
			return false
		}
		if !addr.Is4In6() {
			a.Addrs = append(a.Addrs, addr)
		}
		return true
	case *dns.TXT:
		var text strings.Builder
		for _, s := range rr.Txt {
			unescape(&text, s)
		}
		a.Texts = append(a.Texts, text.String())
		return len(rr.Txt) > 0
	case *dns.PTR:
		// What is special in a name the library escapes with a backslash, which no
		// host name has.
		name, err := dnsname.FromSAN(strings.TrimSuffix(rr.Ptr, "."))
		if err == nil && !dnsname.IsWildcard(name) {
			a.Names = append(a.Names, name)
		}
		return rr.Ptr != ""
	}
	return false
}

func (a *Answer) sort() {
	slices.SortFunc(a.Addrs, netip.Addr.Compare)
	a.Addrs = slices.Compact(a.Addrs)
	slices.Sort(a.Texts)
	a.Texts = slices.Compact(a.Texts)
	slices.Sort(a.Names)
	a.Names = slices.Compact(a.Names)
}

// unescape writes the bytes of a character string that the library has put into
// the form of a zone file (RFC 1035 section 5.1): \DDD is a byte in decimal, \X
// is X.
func unescape(to *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c != '\\':
			to.WriteByte(c)
		case i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]):
			to.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + s[i+3] - '0')
			i += 3
		case i+1 < len(s):
			to.WriteByte(s[i+1])
			i++
		}
	}
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
