package mtls_test

import (
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
)

// TestRealDNSForged: what somebody on the path to a signed zone makes of its
// records is refused, and nothing older stands in for it, as it would if DNS had
// merely failed.
func TestRealDNSForged(t *testing.T) {
	t.Parallel()
	const domain = "api.acme.example"
	w := newDNSWorld(t, map[string]string{"acme.example": "api 300 A 127.0.0.2\n"})
	without := func(rrs []dns.RR, kind uint16) []dns.RR {
		return slices.DeleteFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype == kind })
	}
	signatures := func(m *dns.Msg, change func(*dns.RRSIG)) {
		for _, rr := range m.Answer {
			if s, ok := rr.(*dns.RRSIG); ok {
				change(s)
			}
		}
	}
	for _, forge := range map[string]func(m *dns.Msg){
		"another address": func(m *dns.Msg) {
			for _, rr := range m.Answer {
				if a, ok := rr.(*dns.A); ok {
					a.A = net.IPv4(127, 0, 0, 3)
				}
			}
		},
		"one address more": func(m *dns.Msg) {
			m.Answer = append(m.Answer, &dns.A{Hdr: *m.Answer[0].Header(), A: net.IPv4(127, 0, 0, 3)})
		},
		"no signature": func(m *dns.Msg) { m.Answer = without(m.Answer, dns.TypeRRSIG) },
		"another signature": func(m *dns.Msg) {
			signatures(m, func(s *dns.RRSIG) { s.Signature = strings.Repeat("A", 86) + "==" })
		},
		"an expired signature": func(m *dns.Msg) {
			signatures(m, func(s *dns.RRSIG) { s.Expiration = uint32(time.Now().Add(-48 * time.Hour).Unix()) })
		},
		"a signature by a key that is not there": func(m *dns.Msg) { signatures(m, func(s *dns.RRSIG) { s.KeyTag++ }) },
		"no such name":                           func(m *dns.Msg) { m.Rcode, m.Answer, m.Ns = dns.RcodeNameError, nil, without(m.Ns, dns.TypeRRSIG) },
		"no address record":                      func(m *dns.Msg) { m.Answer, m.Ns = nil, nil },
	} {
		s := newOriginSite(t, w.resolve(), nil, domain)
		s.asks(domain, ".2", "", "")
		for i, rcode := range []int{dns.RcodeServerFailure, dns.RcodeSuccess, dns.RcodeServerFailure} {
			w.path.meddle(func(q dns.Question, m *dns.Msg) bool {
				if q.Name != domain+"." {
					return true
				}
				if rcode == dns.RcodeSuccess {
					forge(m)
				} else {
					m.Rcode, m.Answer, m.Ns = rcode, nil, nil
				}
				return true
			})
			w.forget()
			s.env.Clock.Advance(6 * time.Minute)
			switch {
			case i == 0:
				s.asks(domain, ".2", "", "")
				require.Contains(t, s.found(), "DNS has failed since")
			case rcode == dns.RcodeSuccess:
				s.asks(domain, ".2", unknown, "DNSSEC validation failed")
			default: // nor later, when DNS merely fails again
				s.asks(domain, ".2", unknown, "SERVFAIL")
			}
			s.asks(domain, ".3", unknown, "")
		}
		w.path.meddle(nil)
		w.forget()
		s.env.Clock.Advance(time.Minute)
		s.asks(domain, ".2", "", "")
		s.asks(domain, ".3", mismatch, "")
	}
}

// TestRealDNSMoves: a partner's record is changed on its name server. The new
// address is admitted at once and the old one refused, by then or when the TTL is
// over; nothing is restarted.
func TestRealDNSMoves(t *testing.T) {
	t.Parallel()
	const move, age, twice = "move.", "age.", "twice."
	w := newDNSWorld(t, map[string]string{
		"acme.example":   "move 600 A 127.0.0.2\nage 600 A 127.0.0.2\ntwice 600 A 127.0.0.2\n",
		"globex.example": "move 600 A 127.0.0.2\nage 600 A 127.0.0.2\ntwice 600 A 127.0.0.2\n",
	})
	for _, zone := range []string{"acme.example", "globex.example"} {
		s := newOriginSite(t, w.resolve(), nil, move+zone, age+zone, twice+zone)
		for _, name := range []string{move, age, twice} {
			s.asks(name+zone, ".2", "", "")
			s.asks(name+zone, ".3", mismatch, "")
			w.set(name+zone, "A", 600, "127.0.0.3")
		}
		s.env.Clock.Advance(11 * time.Second)

		// The partner comes from the new address.
		s.asks(move+zone, ".2", "", "")
		s.asks(move+zone, ".3", "", "")
		s.asks(move+zone, ".2", mismatch, "[127.0.0.3]")

		// It moves to the other address family.
		w.set(move+zone, "A", 600)
		w.set(move+zone, "AAAA", 600, "::1")
		s.env.Clock.Advance(11 * time.Second)
		s.asks(move+zone, "::1", "", "")
		s.asks(move+zone, ".4", mismatch, "no A record")
		s.asks(move+zone, ".3", mismatch, "no A record")

		// One who was refused from the new address a moment ago must wait 10 s.
		s.asks(twice+zone, ".3", "", "")
		w.set(twice+zone, "A", 600, "127.0.0.4")
		s.env.Clock.Advance(9 * time.Second)
		s.asks(twice+zone, ".4", mismatch, "[127.0.0.3]")
		s.env.Clock.Advance(2 * time.Second)
		s.asks(twice+zone, ".4", "", "")

		// Nobody comes from the new address, and somebody still from the old one.
		s.env.Clock.Advance(7 * time.Minute) // of 10; at four fifths the guard asks again
		s.asks(age+zone, ".2", "", "")
		s.env.Clock.Advance(3 * time.Minute)
		s.asks(age+zone, ".2", mismatch, "[127.0.0.3]")
		s.asks(age+zone, ".3", "", "")

		// The domain is given up.
		w.set(age+zone, "A", 600)
		s.env.Clock.Advance(11 * time.Minute)
		s.asks(age+zone, ".3", mismatch, "the name does not exist")
	}
}

// TestRealDNSResolverDies: while there is no resolver, who matched within the
// hour still matches, from that address and no other.
func TestRealDNSResolverDies(t *testing.T) {
	t.Parallel()
	const domain, other = "api.acme.example", "other.acme.example"
	w := newDNSWorld(t, map[string]string{"acme.example": "api A 127.0.0.2\nother A 127.0.0.2\n"})
	s := newOriginSite(t, w.resolve(), nil, domain, other)
	s.asks(domain, ".2", "", "")
	w.unbound.kill()
	s.env.Clock.Advance(2 * time.Minute)
	s.asks(domain, ".2", "", "")
	s.asks(domain, ".3", unknown, "")
	s.asks(other, ".2", unknown, "connection refused")
	s.env.Clock.Advance(57 * time.Minute)
	s.asks(domain, ".2", "", "")
	s.env.Clock.Advance(2 * time.Minute)
	s.asks(domain, ".2", unknown, "connection refused")

	w.set(domain, "A", 60, "127.0.0.3") // meanwhile
	w.startUnbound()
	s.env.Clock.Advance(time.Minute)
	s.asks(domain, ".2", mismatch, "[127.0.0.3]")
	s.asks(domain, ".3", "", "")
	s.asks(other, ".2", "", "")
	w.set(other, "A", 60, "127.0.0.3")
	s.env.Clock.Advance(time.Minute)
	s.asks(other, ".3", "", "")
	w.unbound.kill()
	s.env.Clock.Advance(2 * time.Minute)
	s.asks(domain, ".2", unknown, "") // it matched, and then did not
	s.asks(other, ".2", unknown, "")  // it matched, and DNS has said something else since
	s.asks(domain, ".3", "", "")
	s.asks(other, ".3", "", "")
}

// TestRealDNSSlowAuthority: a thousand clients of partners whose name server does
// not answer cost two questions for each name, and others nothing. It is not
// parallel: it counts goroutines.
func TestRealDNSSlowAuthority(t *testing.T) {
	const names, clients = 50, 1000
	const records = "* A 127.0.0.2\n"
	var domains []string
	for _, zone := range []string{"globex.example", "acme.example"} {
		for i := range names {
			domains = append(domains, fmt.Sprintf("n%d.%s", i, zone))
		}
	}
	w := newDNSWorld(t, map[string]string{"globex.example": records, "acme.example": records})
	slow, quick := domains[:names], domains[names:]
	s := newOriginSite(t, w.resolve(), nil, domains...)
	blocked := make(chan struct{})
	release := sync.OnceFunc(func() { close(blocked) })
	defer release()
	w.path.meddle(func(q dns.Question, _ *dns.Msg) bool {
		if strings.HasSuffix(q.Name, ".globex.example.") {
			<-blocked
		}
		return true
	})
	before := w.count("total.num.queries")
	goroutines := runtime.NumGoroutine()
	var mu sync.Mutex
	codes := map[string]int{}
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			r, err := s.from(slow[i%names], "127.0.0.2")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Code = err.Error()
			}
			codes[r.Code]++
		})
	}
	w.unbound.until(t, "a question to the slow server", func() bool { return w.path.questions("globex.example") > 0 })
	for _, domain := range quick {
		r, err := s.from(domain, "127.0.0.2")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.Status, r.Body)
	}
	wg.Wait()
	require.Equal(t, map[string]int{"origin_unknown": clients}, codes)
	asked := w.count("total.num.queries") - before - len(quick)
	require.LessOrEqual(t, asked, 2*names)
	t.Logf("%d questions for %d clients", asked, clients)
	release()
	w.unbound.until(t, "the end of what was started", func() bool {
		return runtime.NumGoroutine() <= goroutines
	})
}
