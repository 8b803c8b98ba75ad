package origin_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/dnsclient"
	"github.com/mtlsguard/mtls/internal/origin"
)

const (
	text    = "_mtls-egress." + domain
	peer    = "198.18.0.7" // special-use, allowed below
	public  = "93.184.216.7"
	public6 = "2a00:1450::7"
)

const (
	unknown  = origin.Unknown
	match    = origin.Match
	mismatch = origin.Mismatch
)

func TestWays(t *testing.T) {
	pointer := dnsclient.ReverseName(addr(public))
	published := &origin.Spec{Published: true}
	reverse := &origin.Spec{Suffixes: []string{"pool.partner.example"}}
	for _, row := range []struct {
		name   string
		spec   *origin.Spec
		peer   string
		dns    func(*world)
		want   origin.Outcome
		way    origin.Way
		detail string
	}{
		{name: "nothing known of the peer", spec: &origin.Spec{}, want: unknown, detail: "ConnContext"},
		{name: "off", spec: &origin.Spec{Off: true}, want: origin.Off, detail: "NoOrigin"},
		{name: "our own end of the connection", spec: &origin.Spec{Prefixes: prefixes("8.0.0.0/8")}, peer: "8.8.8.8", want: mismatch, detail: "of our own"},
		{name: "prefix", spec: &origin.Spec{Prefixes: prefixes("93.184.216.0/28")}, peer: public, want: match, way: origin.Prefix, detail: "is in 93.184.216.0/28"},

		{name: "published prefix", spec: published, peer: public, want: match, way: origin.Published, detail: "is in the record at " + text,
			dns: func(w *world) { w.set(text, dnsclient.TXT, texts("v=spf1 -all", "v=mtls1 ip4:93.184.216.0/28")) }},
		{name: "published IPv6 prefix", spec: published, peer: public6, want: match, way: origin.Published,
			dns: func(w *world) { w.set(text, dnsclient.TXT, texts("v=mtls1 ip6:2a00:1450::/48")) }},
		{name: "published name", spec: published, peer: public, want: match, way: origin.Published, detail: "an address of out.partner.example, which the record at " + text + " names",
			dns: func(w *world) {
				w.set(text, dnsclient.TXT, texts("v=mtls1 a:none.partner.example a:out.partner.example"))
				w.set("out.partner.example", dnsclient.A, addrs("1.1.1.1", public))
			}},
		{name: "outside what is published", spec: published, peer: "93.184.216.99", want: mismatch, detail: `TXT records ["v=mtls1 ip4:93.184.216.0/28"]`,
			dns: func(w *world) {
				w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:93.184.216.0/28"))
				w.set(domain, dnsclient.A, addrs("93.184.216.99"))
			}},
		{name: "nothing published", spec: published, peer: public, want: mismatch, detail: "no v=mtls1 record",
			dns: func(w *world) { w.set(domain, dnsclient.A, addrs(public)) }},
		{name: "an empty record", spec: published, peer: public, want: mismatch, dns: func(w *world) { w.set(text, dnsclient.TXT, texts("v=mtls1")) }},
		{name: "an invalid record", spec: published, peer: public, want: unknown, detail: "invalid record",
			dns: func(w *world) { w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:93.184.216.0/28 all")) }},
		{name: "two records", spec: published, peer: public, want: unknown, detail: "2 v=mtls1 records",
			dns: func(w *world) {
				w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:93.184.216.0/28", "v=mtls1 ip4:1.1.1.1"))
			}},
		{name: "the record cannot be had", spec: published, peer: public, want: unknown, detail: "SERVFAIL",
			dns: func(w *world) { w.fail(text, dnsclient.TXT, errServFail); w.set(domain, dnsclient.A, addrs(public)) }},
		{name: "a published name cannot be had", spec: published, peer: public, want: unknown, detail: "out.partner.example: SERVFAIL",
			dns: func(w *world) {
				w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:1.1.1.1 a:out.partner.example"))
				w.fail("out.partner.example", dnsclient.A, errServFail)
			}},
		{name: "a published name cannot be had, a prefix matches", spec: published, peer: public, want: match, way: origin.Published,
			dns: func(w *world) {
				w.set(text, dnsclient.TXT, texts("v=mtls1 a:out.partner.example ip4:93.184.216.7"))
				w.fail("out.partner.example", dnsclient.A, errServFail)
			}},
		{name: "a record of private addresses", spec: published, peer: "10.0.0.7", want: mismatch, detail: "special-use",
			dns: func(w *world) { w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:10.0.0.0/24")) }},
		{name: "a record of private addresses that are welcome", spec: &origin.Spec{Published: true, Allow: prefixes("10.0.0.0/8")}, peer: "10.0.0.7", want: match, way: origin.Published,
			dns: func(w *world) { w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:10.0.0.0/24")) }},

		{name: "reverse", spec: reverse, peer: public, want: match, way: origin.Reverse, detail: "its own name",
			dns: func(w *world) {
				w.set(pointer, dnsclient.PTR, names("a.pool.partner.example", "else.example"))
				w.set("a.pool.partner.example", dnsclient.A, addrs(public))
			}},
		{name: "reverse, the suffix itself", spec: reverse, peer: public, want: match, way: origin.Reverse,
			dns: func(w *world) {
				w.set(pointer, dnsclient.PTR, names("pool.partner.example"))
				w.set("pool.partner.example", dnsclient.A, addrs(public))
			}},
		{name: "reverse, IPv6", spec: reverse, peer: public6, want: match, way: origin.Reverse,
			dns: func(w *world) {
				w.set(dnsclient.ReverseName(addr(public6)), dnsclient.PTR, names("a.pool.partner.example"))
				w.set("a.pool.partner.example", dnsclient.AAAA, addrs(public6))
			}},
		{name: "whoever holds an address gives it the partner's name", spec: reverse, peer: public, want: mismatch, detail: "A records [1.1.1.1]",
			dns: func(w *world) {
				w.set(pointer, dnsclient.PTR, names("a.pool.partner.example"))
				w.set("a.pool.partner.example", dnsclient.A, addrs("1.1.1.1"))
			}},
		{name: "a name that does not exist", spec: reverse, peer: public, want: mismatch,
			dns: func(w *world) { w.set(pointer, dnsclient.PTR, names("a.pool.partner.example")) }},
		{name: "a name beside the suffix", spec: reverse, peer: public, want: mismatch,
			dns: func(w *world) {
				w.set(pointer, dnsclient.PTR, names("evilpool.partner.example", "pool.partner.example.evil.example", "partner.example"))
				for _, n := range []string{"evilpool.partner.example", "pool.partner.example.evil.example", "partner.example"} {
					w.set(n, dnsclient.A, addrs(public))
				}
			}},
		{name: "no name", spec: reverse, peer: public, want: mismatch, detail: "does not exist"},
		{name: "the names cannot be had", spec: reverse, peer: public, want: unknown, detail: "SERVFAIL", dns: func(w *world) { w.fail(pointer, dnsclient.PTR, errServFail) }},
		{name: "the name's address cannot be had", spec: reverse, peer: public, want: unknown, detail: "SERVFAIL",
			dns: func(w *world) {
				w.set(pointer, dnsclient.PTR, names("a.pool.partner.example"))
				w.fail("a.pool.partner.example", dnsclient.A, errServFail)
			}},
		{name: "a customer of a provider under the suffix", spec: &origin.Spec{Suffixes: []string{"amazonaws.com"}}, peer: public, want: mismatch,
			dns: func(w *world) {
				const host = "ec2-93-184-216-7.compute-1.amazonaws.com"
				w.set(pointer, dnsclient.PTR, names(host))
				w.set(host, dnsclient.A, addrs(public))
			}},
		{name: "one way says no, another yes", spec: &origin.Spec{Published: true, Suffixes: []string{"pool.partner.example"}, Hosts: []string{"egress.example"}}, peer: public, want: match, way: origin.Reverse,
			dns: func(w *world) {
				w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:1.1.1.1"))
				w.set(pointer, dnsclient.PTR, names("a.pool.partner.example"))
				w.set("a.pool.partner.example", dnsclient.A, addrs(public))
			}},
		{name: "one way says no, another nothing", spec: &origin.Spec{Published: true, Hosts: []string{"egress.example"}}, peer: public, want: unknown,
			dns: func(w *world) { w.fail(text, dnsclient.TXT, errServFail) }},
		{name: "a way that is not stated is off", spec: &origin.Spec{Hosts: []string{"egress.example"}}, peer: public, want: mismatch,
			dns: func(w *world) {
				w.set(domain, dnsclient.A, addrs(public))
				w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:"+public))
				w.set(pointer, dnsclient.PTR, names(domain))
			}},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld()
			if row.dns != nil {
				row.dns(w)
			}
			for range 2 { // asked, and from memory
				f := w.check(t, row.spec, row.peer)
				require.Equal(t, row.want, f.Outcome, f.Detail())
				require.Equal(t, row.way, f.Way)
				require.Contains(t, f.Detail(), row.detail)
				if row.want == match && row.way != origin.Prefix {
					require.NotEmpty(t, f.Deps())
					require.False(t, f.Expires.IsZero())
				}
			}
		})
	}
}

// At most five names of an address under the suffix are looked up, and none
// beside it.
func TestReverseLookupsAreBounded(t *testing.T) {
	w := newWorld()
	var list []string
	for c := 'a'; c <= 'z'; c++ {
		list = append(list, string(c)+".other.example", string(c)+".pool.partner.example")
	}
	w.set(dnsclient.ReverseName(addr(public)), dnsclient.PTR, names(list...))
	w.set("z.pool.partner.example", dnsclient.A, addrs(public))
	f := w.check(t, &origin.Spec{Suffixes: []string{"pool.partner.example"}}, public)
	require.Equal(t, mismatch, f.Outcome)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Len(t, w.asked, 1+5)
	for k := range w.asked {
		require.NotContains(t, k.Name, "other")
	}
}

// With RequireDNSSEC every answer that a match rests on is authenticated, and one
// that is not says nothing, not even no.
func TestRequireDNSSEC(t *testing.T) {
	pointer := dnsclient.ReverseName(addr(public))
	for _, way := range []struct {
		name    string
		spec    origin.Spec
		records map[string]dnsclient.Type
	}{
		{"forward", origin.Spec{}, map[string]dnsclient.Type{domain: dnsclient.A}},
		{"host", origin.Spec{Hosts: []string{"egress.example"}}, map[string]dnsclient.Type{"egress.example": dnsclient.A}},
		{"published", origin.Spec{Published: true}, map[string]dnsclient.Type{text: dnsclient.TXT, "out.partner.example": dnsclient.A}},
		{"reverse", origin.Spec{Suffixes: []string{"pool.partner.example"}}, map[string]dnsclient.Type{pointer: dnsclient.PTR, "a.pool.partner.example": dnsclient.A}},
	} {
		content := map[dnsclient.Type]dnsclient.Answer{dnsclient.A: addrs(public), dnsclient.TXT: texts("v=mtls1 a:out.partner.example"), dnsclient.PTR: names("a.pool.partner.example")}
		for plain := range way.records {
			w := newWorld()
			for name, typ := range way.records {
				w.set(name, typ, authentic(content[typ]))
			}
			spec := way.spec
			spec.RequireDNSSEC = true
			f := w.check(t, &spec, public)
			require.Equal(t, match, f.Outcome, "%s: %s", way.name, f.Detail())
			require.Equal(t, mismatch, w.check(t, &way.spec, "1.1.1.1").Outcome)

			w = newWorld()
			for name, typ := range way.records {
				a := content[typ]
				a.Authenticated = name != plain
				w.set(name, typ, a)
			}
			f = w.check(t, &spec, public)
			require.Equal(t, unknown, f.Outcome, "%s: %s", way.name, f.Detail())
			require.Contains(t, f.Detail(), "not authenticated")
			require.Equal(t, match, w.check(t, &way.spec, public).Outcome, "without RequireDNSSEC")
			// What matched without it is not used with it when DNS fails.
			w.pass(16 * time.Minute)
			for name, typ := range way.records {
				w.fail(name, typ, errServFail)
			}
			require.Equal(t, unknown, w.check(t, &spec, public).Outcome)
		}
	}
}

func TestPrefixNeedsNoDNSSEC(t *testing.T) {
	f := newWorld().check(t, &origin.Spec{Prefixes: prefixes("93.184.216.0/24"), RequireDNSSEC: true}, public)
	require.Equal(t, match, f.Outcome)
}

// When DNS fails, only the same rule, way, name and address that matched while DNS
// answered is taken, for an hour, and never after an answer that said something
// else.
func TestStale(t *testing.T) {
	pointer := dnsclient.ReverseName(addr(public))
	ways := map[string]struct {
		spec    *origin.Spec
		records map[string]dnsclient.Answer
	}{
		"forward":        {&origin.Spec{}, map[string]dnsclient.Answer{domain: addrs(public)}},
		"published":      {&origin.Spec{Published: true}, map[string]dnsclient.Answer{text: texts("v=mtls1 ip4:" + public)}},
		"published name": {&origin.Spec{Published: true}, map[string]dnsclient.Answer{text: texts("v=mtls1 a:out.example"), "out.example": addrs(public)}},
		"reverse": {&origin.Spec{Suffixes: []string{"pool.partner.example"}},
			map[string]dnsclient.Answer{pointer: names("a.pool.partner.example"), "a.pool.partner.example": addrs(public)}},
	}
	kind := func(a dnsclient.Answer) dnsclient.Type {
		switch {
		case a.Texts != nil:
			return dnsclient.TXT
		case a.Names != nil:
			return dnsclient.PTR
		}
		return dnsclient.A
	}
	for name, way := range ways {
		for broken, answer := range way.records {
			t.Run(name+", "+broken, func(t *testing.T) {
				start := func() *world {
					w := newWorld()
					for n, a := range way.records {
						w.set(n, kind(a), a)
					}
					require.Equal(t, match, w.check(t, way.spec, public).Outcome)
					return w
				}
				w := start()
				w.fail(broken, kind(answer), errServFail)
				w.pass(2 * time.Minute)
				f := w.check(t, way.spec, public)
				require.Equal(t, match, f.Outcome, f.Detail())
				require.True(t, f.Stale)
				require.Contains(t, f.Detail(), "DNS has failed since")
				require.Equal(t, w.now().Add(30*time.Second), f.Expires)
				require.NotEqual(t, match, w.check(t, way.spec, "93.184.216.8").Outcome, "another address")
				other := origin.Query{Spec: way.spec, Rule: "other", Domain: domain, Peer: addr(public)}
				f = w.checker.Check(t.Context(), other)
				require.Equal(t, unknown, f.Outcome, "another rule")
				w.pass(57 * time.Minute)
				require.Equal(t, match, w.check(t, way.spec, public).Outcome)
				w.pass(2 * time.Minute)
				require.Equal(t, unknown, w.check(t, way.spec, public).Outcome, "an hour is over")

				// DNS says something else, and fails then.
				w = start()
				w.pass(2 * time.Minute)
				w.set(broken, kind(answer), dnsclient.Answer{NXDomain: true})
				require.Equal(t, mismatch, w.check(t, way.spec, public).Outcome)
				w.fail(broken, kind(answer), errServFail)
				w.pass(2 * time.Minute)
				require.Equal(t, unknown, w.check(t, way.spec, public).Outcome)

				// Validation fails.
				w = start()
				w.pass(2 * time.Minute)
				w.fail(broken, kind(answer), dnsclient.ErrBogus)
				require.Equal(t, unknown, w.check(t, way.spec, public).Outcome)
				w.fail(broken, kind(answer), errServFail)
				w.pass(2 * time.Minute)
				require.Equal(t, unknown, w.check(t, way.spec, public).Outcome)
			})
		}
	}
}

// An invalid record is not answered with what it was before.
func TestInvalidRecordIsNotReplacedByAnEarlierOne(t *testing.T) {
	w, spec := newWorld(), &origin.Spec{Published: true}
	w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:"+public))
	require.Equal(t, match, w.check(t, spec, public).Outcome)
	w.set(text, dnsclient.TXT, texts("v=mtls1 ip4:"+public+" all"))
	w.pass(2 * time.Minute)
	require.Equal(t, unknown, w.check(t, spec, public).Outcome)
	w.fail(text, dnsclient.TXT, errServFail)
	w.pass(2 * time.Minute)
	require.Equal(t, unknown, w.check(t, spec, public).Outcome)
}

// A pool of which each answer is a part: an address counts for the window after the
// last answer that had it, until DNS says that there is none or may be forged.
func TestWindow(t *testing.T) {
	spec := &origin.Spec{Window: 10 * time.Minute}
	start := func() *world {
		w := newWorld()
		w.set(domain, dnsclient.A, addrs(public))
		require.Equal(t, match, w.check(t, spec, public).Outcome)
		w.pass(2 * time.Minute)
		w.set(domain, dnsclient.A, addrs("1.1.1.1"))
		require.Equal(t, match, w.check(t, spec, "1.1.1.1").Outcome)
		return w
	}
	w := start()
	f := w.check(t, spec, public)
	require.Equal(t, match, f.Outcome, f.Detail())
	require.Contains(t, f.Detail(), "within Origin.Window")
	require.Equal(t, mismatch, w.check(t, &origin.Spec{}, public).Outcome, "without a window")
	require.Equal(t, mismatch, w.check(t, spec, "1.1.1.2").Outcome)
	require.Equal(t, w.now().Add(time.Minute), f.Expires, "with the current answer: the next may end the window")
	require.False(t, f.Deps()[0].Superseded())
	w.pass(8*time.Minute + time.Second)
	require.Equal(t, mismatch, w.check(t, spec, public).Outcome, "the window is over")

	w = start()
	f = w.check(t, spec, public)
	w.pass(2 * time.Minute)
	w.set(domain, dnsclient.A, dnsclient.Answer{NXDomain: true})
	require.Equal(t, mismatch, w.check(t, spec, public).Outcome, "the name is gone")
	require.True(t, f.Deps()[0].Superseded())

	w = start()
	w.pass(2 * time.Minute)
	w.fail(domain, dnsclient.A, errServFail)
	require.Equal(t, unknown, w.check(t, spec, public).Outcome, "a window match is no match to fall back on")

	w = start()
	w.pass(2 * time.Minute)
	w.fail(domain, dnsclient.A, dnsclient.ErrBogus)
	require.Equal(t, unknown, w.check(t, spec, public).Outcome)
	w.set(domain, dnsclient.A, addrs("1.1.1.1"))
	w.pass(2 * time.Minute)
	require.Equal(t, mismatch, w.check(t, spec, public).Outcome, "forged answers end the memory")

	// Earlier answers that were not authenticated do not count with RequireDNSSEC.
	w = newWorld()
	dnssec := &origin.Spec{Window: 10 * time.Minute, RequireDNSSEC: true}
	w.set(domain, dnsclient.A, addrs(public))
	require.Equal(t, unknown, w.check(t, dnssec, public).Outcome)
	w.pass(2 * time.Minute)
	w.set(domain, dnsclient.A, authentic(addrs("1.1.1.1")))
	require.Equal(t, mismatch, w.check(t, dnssec, public).Outcome)
}

// A match stands no longer than any answer that it rests on.
func TestMatchExpiresWithItsFirstAnswer(t *testing.T) {
	for _, ttl := range [][2]time.Duration{{time.Minute, 10 * time.Minute}, {10 * time.Minute, time.Minute}} {
		w := newWorld()
		record, address := texts("v=mtls1 a:out.example"), addrs(public)
		record.TTL, address.TTL = ttl[0], ttl[1]
		w.set(text, dnsclient.TXT, record)
		w.set("out.example", dnsclient.A, address)
		f := w.check(t, &origin.Spec{Published: true}, public)
		require.Equal(t, match, f.Outcome)
		require.Equal(t, w.now().Add(time.Minute), f.Expires)
		require.Len(t, f.Deps(), 2)
	}
}

// A match that is remembered is that of its own Spec, rule, domain, address and
// answers.
func TestRememberedMatchIsThatOfItsQuery(t *testing.T) {
	w, spec := newWorld(), &origin.Spec{}
	answer := addrs(public)
	answer.TTL = 10 * time.Minute
	w.set(domain, dnsclient.A, answer)
	q := origin.Query{Spec: spec, Rule: "partner", Domain: domain, Peer: addr(public)}
	check := func(change func(*origin.Query)) origin.Outcome {
		require.Equal(t, match, w.check(t, spec, public).Outcome) // remembered
		other := q
		change(&other)
		f := w.checker.Check(t.Context(), other)
		return f.Outcome
	}
	require.Equal(t, match, check(func(*origin.Query) {}))
	require.Equal(t, mismatch, check(func(q *origin.Query) { q.Spec = &origin.Spec{Published: true} }))
	require.Equal(t, mismatch, check(func(q *origin.Query) { q.Domain = "other.example" }))
	for i := range 5000 { // more than are remembered
		peer := netip.AddrFrom4([4]byte{93, 184, byte(i >> 8), byte(i)})
		if peer != q.Peer {
			require.Equal(t, mismatch, check(func(q *origin.Query) { q.Peer = peer }), peer)
		}
	}
	w.pass(11 * time.Second)
	w.set(domain, dnsclient.A, addrs("1.1.1.1"))
	require.Equal(t, match, w.check(t, spec, "1.1.1.1").Outcome, "asked again")
	require.Equal(t, mismatch, w.check(t, spec, public).Outcome)
}

// Two rules that match by one answer both have it to fall back on.
func TestStaleOfTwoRules(t *testing.T) {
	w := newWorld()
	w.set(domain, dnsclient.A, addrs(public))
	spec := &origin.Spec{}
	rule := func(name string) origin.Outcome {
		f := w.checker.Check(t.Context(), origin.Query{Spec: spec, Rule: name, Domain: domain, Peer: addr(public)})
		return f.Outcome
	}
	require.Equal(t, match, rule("a"))
	require.Equal(t, match, rule("b"))
	w.fail(domain, dnsclient.A, errServFail)
	w.pass(2 * time.Minute)
	require.Equal(t, match, rule("a"))
	require.Equal(t, match, rule("b"))
	require.Equal(t, unknown, rule("c"))
}

// A partner who has moved to one of its names is admitted although DNS says nothing
// of another.
func TestRequeryBesideAFailure(t *testing.T) {
	w, spec := newWorld(), &origin.Spec{Hosts: []string{"a.example", "b.example"}}
	w.fail("a.example", dnsclient.A, errServFail)
	w.set("b.example", dnsclient.A, addrs("1.1.1.1"))
	require.Equal(t, unknown, w.check(t, spec, public).Outcome)
	w.set("b.example", dnsclient.A, addrs(public))
	w.pass(11 * time.Second)
	require.Equal(t, match, w.check(t, spec, public).Outcome)
}

// A partner who has moved is admitted at once, and a stranger does not make DNS be
// asked more often than every ten seconds.
func TestRequery(t *testing.T) {
	for name, row := range map[string]struct {
		spec   *origin.Spec
		record string
		typ    dnsclient.Type
		old    dnsclient.Answer
		moved  dnsclient.Answer
	}{
		"forward":   {&origin.Spec{}, domain, dnsclient.A, addrs("1.1.1.1"), addrs(public)},
		"published": {&origin.Spec{Published: true}, text, dnsclient.TXT, texts("v=mtls1 ip4:1.1.1.1"), texts("v=mtls1 ip4:" + public)},
	} {
		w := newWorld()
		w.set(row.record, row.typ, row.old)
		require.Equal(t, mismatch, w.check(t, row.spec, public).Outcome, name)
		w.set(row.record, row.typ, row.moved)
		w.pass(11 * time.Second)
		require.Equal(t, match, w.check(t, row.spec, public).Outcome, name)
		n := w.queries(row.record, row.typ)
		for range 100 {
			require.Equal(t, mismatch, w.check(t, row.spec, "1.1.1.2").Outcome)
		}
		require.Equal(t, n, w.queries(row.record, row.typ))
	}
}
