package dnsclient

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxLinks is how many CNAME records may lead from the question to the answer.
const maxLinks = 8

// readAnswer decides what a complete reply says about the question.
func readAnswer(m *dns.Msg, q dns.Question) (Answer, error) {
	if !definite(m.Rcode) {
		return Answer{}, rcodeError(m)
	}
	if code, ok := extended(m, isStale); ok {
		return Answer{}, fmt.Errorf("the server has only an old answer (extended error %d)", code)
	}
	target, links, ttl, err := followChain(m.Answer, q.Name)
	if err != nil {
		return Answer{}, err
	}
	answer := Answer{
		Authenticated: m.AuthenticatedData,
		NXDomain:      m.Rcode == dns.RcodeNameError,
	}
	records := 0
	for _, rr := range m.Answer {
		h := rr.Header()
		// A record of another name is not one of this name, however it got into the
		// reply.
		if answer.NXDomain || h.Rrtype != q.Qtype || h.Class != dns.ClassINET || !strings.EqualFold(h.Name, target) {
			continue
		}
		if records++; records > maxRecords(q.Qtype) {
			return Answer{}, fmt.Errorf("more than %d records", maxRecords(q.Qtype))
		}
		if !answer.add(rr) {
			return Answer{}, fmt.Errorf("malformed %s record", Type(q.Qtype))
		}
		ttl = min(ttl, duration(h.Ttl))
	}
	if records > 0 {
		answer.sort()
		answer.TTL = ttl
		return answer, nil
	}
	negative, found := negativeTTL(m.Ns, target)
	if !found && !answer.NXDomain {
		if err := deniesWithoutSOA(m, links); err != nil {
			return Answer{}, err
		}
	}
	answer.TTL = min(ttl, negative)
	return answer, nil
}

// rcodeError says why the server did not answer. A server that validates says
// with an Extended DNS Error that it was for DNSSEC (RFC 8914 section 4); the
// codes for algorithms it does not know (1, 2), an indeterminate state (5) and
// old data are not signs of forgery.
func rcodeError(m *dns.Msg) error {
	name, ok := dns.RcodeToString[m.Rcode]
	if !ok {
		name = fmt.Sprintf("response code %d", m.Rcode)
	}
	if code, ok := extended(m, isBogus); ok {
		return fmt.Errorf("%s with extended error %d: %w", name, code, ErrBogus)
	}
	return errors.New(name)
}

// extended returns the first Extended DNS Error (RFC 8914) of a kind.
func extended(m *dns.Msg, kind func(code uint16) bool) (uint16, bool) {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*dns.EDNS0_EDE); ok && kind(ede.InfoCode) {
				return ede.InfoCode, true
			}
		}
	}
	return 0, false
}

func isBogus(code uint16) bool {
	return dns.ExtendedErrorCodeDNSBogus <= code && code <= dns.ExtendedErrorCodeNSECMissing
}

// isStale: the server could not ask and answers from what it has, for days if it
// likes (RFC 8767). How long an address outlives its record is ours to say.
func isStale(code uint16) bool {
	return code == dns.ExtendedErrorCodeStaleAnswer || code == dns.ExtendedErrorCodeStaleNXDOMAINAnswer
}

// followChain returns the name in which the CNAME records that start at name
// end, how many they are, and their shortest time to live.
func followChain(rrs []dns.RR, name string) (target string, links int, ttl time.Duration, err error) {
	aliases := map[string]*dns.CNAME{}
	for _, rr := range rrs {
		cname, ok := rr.(*dns.CNAME)
		if !ok || cname.Hdr.Class != dns.ClassINET {
			continue
		}
		owner := strings.ToLower(cname.Hdr.Name)
		if other := aliases[owner]; other != nil && !strings.EqualFold(other.Target, cname.Target) {
			return "", 0, 0, errors.New("two CNAME records at one name")
		}
		aliases[owner] = cname
	}
	target, ttl = strings.ToLower(name), maxTTL
	for {
		cname := aliases[target]
		if cname == nil {
			return target, links, ttl, nil
		}
		if links++; links > maxLinks { // a loop ends here, too
			return "", 0, 0, fmt.Errorf("a loop, or more than %d links, in the CNAME chain", maxLinks)
		}
		if cname.Target == "" { // the library reads empty record data as such
			return "", 0, 0, errors.New("malformed CNAME record")
		}
		ttl = min(ttl, duration(cname.Hdr.Ttl))
		target = strings.ToLower(cname.Target)
	}
}

// negativeTTL returns how long the absence of records at name may be kept, by
// the SOA record of a zone that name is in (RFC 2308 section 5).
func negativeTTL(authority []dns.RR, name string) (time.Duration, bool) {
	for _, rr := range authority {
		if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Class == dns.ClassINET && dns.IsSubDomain(soa.Hdr.Name, name) {
			return min(duration(soa.Minttl), duration(soa.Hdr.Ttl)), true
		}
	}
	return 0, false
}

// deniesWithoutSOA tells a denial from a server that knows nothing, in a
// NOERROR reply without records and without an SOA record (RFC 2308 section
// 2.2): name servers to ask instead are a referral, and a server that neither
// recurses nor has authority for the name where the chain ends is lame.
func deniesWithoutSOA(m *dns.Msg, links int) error {
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeNS {
			return errors.New("a referral instead of an answer")
		}
	}
	if !m.RecursionAvailable && (!m.Authoritative || links > 0) {
		return errors.New("the server neither recurses nor has authority")
	}
	return nil
}

const maxTTL = (1<<31 - 1) * time.Second

// duration converts a time to live. One with the highest bit set counts as zero
// (RFC 2181 section 8).
func duration(seconds uint32) time.Duration {
	if seconds > 1<<31-1 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}
