package origin_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/origin"
)

// An answer that has lapsed is asked for again, whatever else fails: a name beside it
// that cannot be had keeps no address that the record's other name had. The client
// itself times the failure, by connections from elsewhere.
func TestFailedNameKeepsNoAddressOfAnother(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		for _, broken := range []string{"a.pool.partner.example", "z.pool.partner.example"} {
			const good = "out.pool.partner.example"
			w := newWorld()
			s := &origin.Spec{Published: true}
			record, typ, at := texts("v=mtls1 a:"+broken+" a:"+good), dnsclient.TXT, []string{text}
			if reverse {
				s = &origin.Spec{Suffixes: []string{"pool.partner.example"}}
				record, typ = names(broken, good), dnsclient.PTR
				at = []string{dnsclient.ReverseName(addr(public)), dnsclient.ReverseName(addr("9.9.9.9"))}
			}
			record.TTL = 15 * time.Minute
			for _, name := range at {
				w.set(name, typ, record)
			}
			a := addrs(public)
			a.TTL = 30 * time.Second
			w.set(good, dnsclient.A, a)
			w.fail(broken, dnsclient.A, errServFail)
			for range 6 { // until the failure stands for 30 s
				require.Equal(t, match, w.check(t, s, public).Outcome)
				w.check(t, s, "9.9.9.9")
				w.pass(31 * time.Second)
			}
			require.Equal(t, match, w.check(t, s, public).Outcome) // asks for both
			w.pass(25 * time.Second)
			w.check(t, s, "9.9.9.9") // asks for the good one
			w.pass(9 * time.Second)
			w.check(t, s, "9.9.9.9") // asks for the broken one
			require.Equal(t, match, w.check(t, s, public).Outcome)
			moved := addrs("1.1.1.1")
			moved.TTL = 30 * time.Second
			w.set(good, dnsclient.A, moved)
			w.pass(22 * time.Second) // the good one has lapsed
			f := w.check(t, s, public)
			require.NotEqual(t, match, f.Outcome, "%s: %s", broken, f.Detail())
		}
	}
}

// Whoever holds the address can have its own zone fail: the partner's name, whose
// answer has lapsed, still has to be asked for.
func TestHolderOfAnAddressKeepsNoMatchByAFailingZone(t *testing.T) {
	w := newWorld()
	pointer := dnsclient.ReverseName(addr(public))
	w.set(pointer, dnsclient.PTR, names("a.pool.partner.example"))
	w.set("a.pool.partner.example", dnsclient.A, addrs(public))
	s := &origin.Spec{Suffixes: []string{"pool.partner.example"}}
	require.Equal(t, match, w.check(t, s, public).Outcome)
	w.set("a.pool.partner.example", dnsclient.A, addrs("1.1.1.1"))
	w.fail(pointer, dnsclient.PTR, errServFail)
	w.pass(61 * time.Second)
	f := w.check(t, s, public)
	require.NotEqual(t, match, f.Outcome, f.Detail())
	w.pass(40 * time.Minute)
	f = w.check(t, s, public)
	require.NotEqual(t, match, f.Outcome, f.Detail())
}

// The same where the record fails and the name that it named has moved; and where
// both still stand, it goes on matching.
func TestFailedRecordHasItsNamesAskedFor(t *testing.T) {
	for _, moved := range []bool{false, true} {
		w := newWorld()
		w.set(text, dnsclient.TXT, texts("v=mtls1 a:out.partner.example"))
		w.set("out.partner.example", dnsclient.A, addrs(public))
		s := &origin.Spec{Published: true}
		require.Equal(t, match, w.check(t, s, public).Outcome)
		if moved {
			w.set("out.partner.example", dnsclient.A, addrs("1.1.1.1"))
		}
		w.fail(text, dnsclient.TXT, errServFail)
		w.pass(61 * time.Second)
		f := w.check(t, s, public)
		require.Equal(t, !moved, f.Outcome == match, f.Detail())
		require.Equal(t, !moved, f.Stale)
		w.fail("out.partner.example", dnsclient.A, errServFail)
		w.pass(61 * time.Second)
		require.Equal(t, !moved, w.check(t, s, public).Outcome == match)
	}
}

// A rule whose suffix was replaced keeps no match by the old one when DNS fails.
func TestReplacedSuffixKeepsNoMatch(t *testing.T) {
	w := newWorld()
	pointer := dnsclient.ReverseName(addr(public))
	w.set(pointer, dnsclient.PTR, names("a.old.example"))
	w.set("a.old.example", dnsclient.A, addrs(public))
	require.Equal(t, match, w.check(t, &origin.Spec{Suffixes: []string{"old.example"}}, public).Outcome)

	w.fail(pointer, dnsclient.PTR, errServFail)
	w.pass(61 * time.Second)
	f := w.check(t, &origin.Spec{Suffixes: []string{"new.example"}}, public)
	require.NotEqual(t, match, f.Outcome, f.Detail())
}

// Whoever holds the address decides how long the look-up of its names takes. If
// nothing of our patience is left for the partner's name, that name has not failed.
func TestSlowNamesOfAnAddressLeaveNoTimeForThePartners(t *testing.T) {
	w := newWorld()
	pointer := dnsclient.ReverseName(addr(public))
	slow := make(chan struct{})
	hang, held := make(chan struct{}), false
	defer close(hang)
	cache := dnscache.New(dnscache.Options{Now: w.now, Lookup: func(ctx context.Context, name string, typ dnsclient.Type) (dnsclient.Answer, error) {
		if typ == dnsclient.PTR && held {
			<-slow
		}
		if typ == dnsclient.A && held {
			<-hang // takes a moment, as every look-up
		}
		return w.lookup(ctx, name, typ)
	}})
	c := origin.New(cache, nil, w.now)
	w.set(pointer, dnsclient.PTR, names("a.pool.partner.example"))
	w.set("a.pool.partner.example", dnsclient.A, addrs(public))
	q := origin.Query{Spec: &origin.Spec{Suffixes: []string{"pool.partner.example"}}, Rule: "partner", Domain: domain, Peer: addr(public)}
	f := c.Check(t.Context(), q)
	require.Equal(t, match, f.Outcome)

	held = true
	w.set("a.pool.partner.example", dnsclient.A, addrs("1.1.1.1"))
	w.pass(61 * time.Second)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		slow <- struct{}{}     // just in time, as far as the address's holder is concerned
		cancel(origin.ErrWait) // the wait is over before the partner's name server has a chance
	}()
	f = c.Check(ctx, q)
	require.NotEqual(t, match, f.Outcome, f.Detail())
}

// A client that fills the places for look-ups of the partner's domain, by names that it
// gives to its own addresses, has not made DNS fail.
func TestPlacesThatAClientFillsAreNoFailure(t *testing.T) {
	for way, s := range map[string]*origin.Spec{
		"reverse": {Suffixes: []string{"pool.partner.example"}},
		"host":    {Suffixes: []string{"pool.partner.example"}, Hosts: []string{"out.partner.example"}},
	} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				hang := make(chan struct{})
				cache := dnscache.New(dnscache.Options{Now: w.now, Lookup: func(ctx context.Context, name string, typ dnsclient.Type) (dnsclient.Answer, error) {
					if strings.HasPrefix(name, "x") { // takes a moment, as every look-up
						<-hang
					}
					return w.lookup(ctx, name, typ)
				}})
				c := origin.New(cache, nil, w.now)
				name := "a.pool.partner.example"
				if way == "host" {
					name = s.Hosts[0]
				} else {
					ptr := names(name)
					ptr.TTL = 15 * time.Minute
					w.set(dnsclient.ReverseName(addr(public)), dnsclient.PTR, ptr)
				}
				w.set(name, dnsclient.A, addrs(public))
				q := origin.Query{Spec: s, Rule: "partner", Domain: domain, Peer: addr(public)}
				f := c.Check(t.Context(), q)
				require.Equal(t, match, f.Outcome)

				w.set(name, dnsclient.A, addrs("1.1.1.1")) // given back
				w.pass(61 * time.Second)
				for i := range 7 { // addresses with five names each, all at once
					other := q
					other.Peer = addr(fmt.Sprintf("93.184.217.%d", i+1))
					var five []string
					for j := range 5 {
						five = append(five, fmt.Sprintf("x%d-%d.pool.partner.example", i, j))
					}
					w.set(dnsclient.ReverseName(other.Peer), dnsclient.PTR, names(five...))
					if way == "host" { // does not ask for it
						other.Spec = &origin.Spec{Suffixes: s.Suffixes}
					}
					go c.Check(t.Context(), other)
				}
				synctest.Wait()
				f = c.Check(t.Context(), q)
				require.NotEqual(t, match, f.Outcome, f.Detail())
				close(hang)
				synctest.Wait()
			})
		})
	}
}

// Patience that something else has used up is none: the name is not asked for, so that
// it has not failed. (A decision is taken anew when an answer lapses meanwhile.)
func TestNoPatienceLeftIsNoFailure(t *testing.T) {
	w := newWorld()
	w.set(domain, dnsclient.A, addrs(public))
	require.Equal(t, match, w.check(t, &origin.Spec{}, public).Outcome)
	w.set(domain, dnsclient.A, addrs("1.1.1.1"))
	w.pass(61 * time.Second)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(origin.ErrWait)
	f := w.checker.Check(ctx, origin.Query{Spec: &origin.Spec{}, Rule: "partner", Domain: domain, Peer: addr(public)})
	require.NotEqual(t, match, f.Outcome, f.Detail())
}

// Others that match from many addresses must not displace an earlier match of a
// client that is here all the time.
func TestManyAddressesOfAnotherPartnerDisplaceNoMatch(t *testing.T) {
	w := newWorld()
	w.set(domain, dnsclient.A, dnsclient.Answer{Addrs: addrs(public).Addrs, TTL: 10 * time.Minute})
	w.set("_mtls-egress.evil.example", dnsclient.TXT, dnsclient.Answer{Texts: []string{"v=mtls1 ip6:2a00:1450::/48"}, TTL: 15 * time.Minute})
	s := &origin.Spec{}
	require.Equal(t, match, w.check(t, s, public).Outcome)
	q := origin.Query{Spec: &origin.Spec{Published: true}, Rule: "evil", Domain: "evil.example"}
	b := addr(public6).As16()
	for i := range 20000 {
		b[14], b[15] = byte(i>>8), byte(i)
		if q.Peer = netip.AddrFrom16(b); spread(q.Peer) == spread(addr(public)) {
			continue // whoever attacks knows the places of notes
		}
		f := w.checker.Check(t.Context(), q)
		require.Equal(t, match, f.Outcome)
		if i%1000 == 0 {
			require.Equal(t, match, w.check(t, s, public).Outcome) // still here
		}
	}
	w.fail(domain, dnsclient.A, errServFail)
	w.pass(11 * time.Minute)
	f := w.check(t, s, public)
	require.Equal(t, match, f.Outcome, f.Detail())
}

// spread is the place of the Checker's note of an address.
func spread(a netip.Addr) uint64 {
	const odd = 0x9e3779b97f4a7c15
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) * odd >> 54
	}
	b := a.As16()
	return (binary.BigEndian.Uint64(b[:8]) ^ binary.BigEndian.Uint64(b[8:])) * odd >> 54
}
