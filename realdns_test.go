package mtls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// originSite is a guarded service on loopback that asks real DNS where its
// partners are.
type originSite struct {
	t     *testing.T
	env   *mtlstest.Env
	guard *mtls.Guard
	seen  *observer
	ca    *testpki.CA // of the service
	serve func(addr string) string
	addr4 string
	addr6 string // empty: this machine has no ::1
	certs map[string]*mtlstest.Certificate
	gate  chan struct{} // for handshakes
}

// newOriginSite starts a service for partners with the given domains, each with a
// rule of its own that has the origin. Nil: loopback is welcome.
func newOriginSite(t *testing.T, resolver mtls.Resolver, origin *mtls.Origin, domains ...string) *originSite {
	t.Helper()
	s := &originSite{t: t, env: mtlstest.NewEnv(t), seen: &observer{}, certs: map[string]*mtlstest.Certificate{}, gate: make(chan struct{}, 8)}
	var rules []mtls.Rule
	for _, d := range domains {
		s.certs[d] = s.env.CA.Issue(mtlstest.Leaf{Names: []string{d}})
		rules = append(rules, mtls.Rule{Name: d, Domains: []string{d}, Origin: origin})
	}
	cfg := s.env.Config(rules...)
	cfg.Resolver, cfg.Observe = resolver, s.seen.observe
	cfg.Limits.Wait = hsWait // the processes of DNS compete with other tests
	s.guard = mtlstest.NewGuard(t, cfg)

	server := s.guard.Server("", hello)
	now := time.Now()
	var err error
	s.ca, err = testpki.NewRoot(testpki.Options{NotAfter: now.Add(time.Hour)})
	require.NoError(t, err)
	leaf, err := s.ca.Issue(testpki.Options{Names: []string{"localhost"}, NotAfter: now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	require.NoError(t, err)
	server.TLSConfig.Certificates = []tls.Certificate{leaf.TLS()}
	s.serve = func(addr string) string {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return ""
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = server.ServeTLS(l, "", "") }() // until Close; another error shows in the client
		t.Cleanup(func() { server.Close(); <-ended })
		return l.Addr().String()
	}
	s.addr4, s.addr6 = s.serve("127.0.0.1:0"), s.serve("[::1]:0")
	return s
}

// from sends a request of a partner from an address, on a connection of its own.
func (s *originSite) from(domain, from string) (reply, error) {
	addr := s.addr4
	if strings.Contains(from, ":") {
		addr = s.addr6
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Certificate)
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}},
		Config:    &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{s.certs[domain].TLS()}},
	}
	transport := &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		s.gate <- struct{}{} // a thousand at once would keep everything else from the processor
		defer func() { <-s.gate }()
		return dialer.DialContext(ctx, "tcp", addr)
	}}
	return get(&http.Client{Transport: transport, Timeout: 10 * hsWait}, "https://localhost")
}

// asks requires the answer to a request: 200, or the status of a reason, and a
// part of what the operator reads. An address such as ".2" is 127.0.0.2. It
// reports false where the machine has no such address.
func (s *originSite) asks(domain, from string, want mtls.Reason, detail string) bool {
	s.t.Helper()
	if from == "::1" && s.addr6 == "" {
		return false
	}
	if strings.HasPrefix(from, ".") {
		from = "127.0.0" + from
	}
	r, err := s.from(domain, from)
	require.NoError(s.t, err, "%s from %s", domain, from)
	s.answered(r, fmt.Sprintf("%s from %s", domain, from), want, detail)
	return true
}

// answered requires an answer to be the one to the last decision.
func (s *originSite) answered(r reply, about string, want mtls.Reason, detail string) {
	s.t.Helper()
	d := s.seen.last()
	about += ": " + s.found()
	if want == "" {
		require.Equal(s.t, http.StatusOK, r.Status, about)
		return
	}
	require.Equal(s.t, want.Status(), r.Status, about)
	require.Equal(s.t, want, d.Reason, about)
	require.Contains(s.t, d.Detail(), detail, about)
}

// found and proofs return what the last decision says about the origin.
func (s *originSite) found() string        { return originStep(s.t, s.seen.last()).Detail }
func (s *originSite) proofs() []mtls.Proof { return originStep(s.t, s.seen.last()).Proofs }

// kept returns how long its answer of DNS counts.
func (s *originSite) kept() time.Duration {
	p := s.proofs()[0]
	return p.Expires.Sub(p.From)
}

func sortedSet(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

const (
	mismatch = mtls.ReasonOriginMismatch
	unknown  = mtls.ReasonOriginUnknown
)

// TestRealDNSAnswers: what knot and unbound say of a name, and what it means.
func TestRealDNSAnswers(t *testing.T) {
	t.Parallel()
	var pool, chain strings.Builder
	add := func(name, record string, n int) {
		for i := range n {
			fmt.Fprintf(&pool, "%s %s%d.%d\n", name, record, i/200, i%200)
		}
	}
	add("sixty", "A 198.18.", 59)
	add("sixty", "AAAA ::ffff:198.18.", 59)
	add("hundred", "A 198.18.", 99)
	add("limit", "A 198.18.", 255)
	add("many", "A 198.18.", 299)
	for i := range 9 {
		fmt.Fprintf(&chain, "link%d CNAME link%d\n", i+1, i)
	}
	both := chain.String() + `
link0 A 127.0.0.2
v4 A 127.0.0.2
v6 AAAA ::1
mapped AAAA ::ffff:127.0.0.2
nodata TXT "no address"
host.new A 127.0.0.2
old DNAME new
*.wild A 127.0.0.2
loop1 CNAME loop2
loop2 CNAME loop1
dangling CNAME gone
nowhere CNAME v4.lame.example.
`
	w := newDNSWorld(t, map[string]string{"globex.example": both, "acme.example": both + pool.String() + `
sixty A 127.0.0.2
sixty AAAA ::1
hundred A 127.0.0.2
limit A 127.0.0.2
many A 127.0.0.2
across CNAME v4.globex.example.
`})
	type row struct {
		name   string // in the zone
		from   string // ".2" is 127.0.0.2
		want   mtls.Reason
		detail string
		tcp    bool // the answer does not fit into a datagram
	}
	rows := []row{
		{name: "v4", from: ".2"},
		{name: "v4", from: ".3", want: mismatch, detail: "has A records [127.0.0.2]"},
		{name: "v4", from: "::1", want: mismatch, detail: "no AAAA record"},
		{name: "v6", from: "::1"},
		{name: "v6", from: ".2", want: mismatch, detail: "no A record"},
		{name: "mapped", from: ".2", want: mismatch, detail: "no A record"},
		{name: "link8", from: ".2"},
		{name: "link9", from: ".2", want: unknown, detail: "CNAME chain"},
		{name: "host.old", from: ".2"},
		{name: "host.old", from: ".3", want: mismatch, detail: "[127.0.0.2]"},
		{name: "any.wild", from: ".2"},
		{name: "absent", from: ".2", want: mismatch, detail: "the name does not exist"},
		{name: "dangling", from: ".2", want: mismatch, detail: "the name does not exist"},
		{name: "nodata", from: ".2", want: mismatch, detail: "no A record"},
		{name: "loop1", from: ".2", want: unknown, detail: "SERVFAIL"},
		{name: "nowhere", from: ".2", want: unknown, detail: "SERVFAIL"},
	}
	for zone, rows := range map[string][]row{"globex.example": rows, "acme.example": append(slices.Clip(rows),
		row{name: "sixty", from: ".2"},
		row{name: "sixty", from: ".3", want: mismatch, detail: "and 52 more"},
		row{name: "sixty", from: "::1", tcp: true},
		row{name: "hundred", from: ".2", tcp: true},
		row{name: "limit", from: ".2", tcp: true},
		row{name: "many", from: ".2", want: unknown, detail: "more than 256", tcp: true},
		row{name: "across", from: ".2"},
	)} {
		var domains []string
		for _, r := range rows {
			domains = append(domains, r.name+"."+zone)
		}
		s := newOriginSite(t, w.resolve(), nil, sortedSet(domains)...)
		for _, r := range rows {
			before := w.count("num.query.tcp")
			if !s.asks(r.name+"."+zone, r.from, r.want, r.detail) {
				continue
			}
			require.Equal(t, r.tcp, w.count("num.query.tcp") > before, "asked over TCP for %s", r.name)
		}
	}
}

// TestRealDNSFailures: whatever keeps DNS from answering is "don't know", also
// where the other address family has an answer.
func TestRealDNSFailures(t *testing.T) {
	t.Parallel()
	w := newDNSWorld(t, map[string]string{"globex.example": `
$ORIGIN v4.globex.example.
servfail A 127.0.0.2
refused A 127.0.0.2
notimp A 127.0.0.2
formerr A 127.0.0.2
silent A 127.0.0.2
half A 127.0.0.2
half AAAA ::1
`, "acme.example": `
own A 127.0.0.2
nowhere CNAME v4.lame.example.
child NS ns.child
ns.child A 192.0.2.53
`})
	rcodes := map[string]int{"servfail": dns.RcodeServerFailure, "refused": dns.RcodeRefused, "notimp": dns.RcodeNotImplemented, "formerr": dns.RcodeFormatError}
	w.path.meddle(func(q dns.Question, reply *dns.Msg) bool {
		label, _, _ := strings.Cut(q.Name, ".")
		if code, ok := rcodes[label]; ok {
			reply.Rcode, reply.Answer, reply.Ns = code, nil, nil
		}
		if label == "half" && q.Qtype == dns.TypeAAAA {
			reply.Rcode, reply.Answer, reply.Ns = dns.RcodeServerFailure, nil, nil
		}
		return label != "silent"
	})
	var domains []string
	for _, label := range []string{"servfail", "refused", "notimp", "formerr", "silent", "half"} {
		domains = append(domains, label+".v4.globex.example")
	}
	s := newOriginSite(t, w.resolve(), nil, append(domains, "refused.elsewhere.example", "lame.lame.example")...)
	for _, d := range domains[:4] {
		s.asks(d, ".2", unknown, "SERVFAIL")
	}
	s.asks("silent.v4.globex.example", ".2", unknown, "no reply")
	s.asks("half.v4.globex.example", ".2", "", "")
	s.asks("half.v4.globex.example", ".3", mismatch, "")
	s.asks("half.v4.globex.example", "::1", unknown, "SERVFAIL")
	s.asks("refused.elsewhere.example", ".2", unknown, "REFUSED")
	s.asks("lame.lame.example", ".2", unknown, "SERVFAIL")

	// A server that is asked although it does not recurse.
	s = newOriginSite(t, mtls.NewResolver(w.authority), nil, "own.acme.example", "nowhere.acme.example", "host.child.acme.example", "lame.lame.example")
	s.asks("own.acme.example", ".2", "", "")
	s.asks("nowhere.acme.example", ".2", unknown, "neither recurses nor has authority")
	s.asks("host.child.acme.example", ".2", unknown, "referral")
	s.asks("lame.lame.example", ".2", unknown, "REFUSED")

	// One that says what unbound would not pass on.
	w.path.meddle(func(q dns.Question, reply *dns.Msg) bool {
		for _, rr := range reply.Answer {
			if q.Name == "own.acme.example." {
				rr.Header().Ttl = 1<<31 | 600
			} else {
				rr.Header().Name = "own.acme.example." // beside the point
			}
		}
		return true
	})
	s = newOriginSite(t, mtls.NewResolver(w.path.addr), nil, "own.acme.example", "half.v4.globex.example")
	s.asks("own.acme.example", ".2", "", "")
	require.Equal(t, 30*time.Second, s.kept())
	s.asks("half.v4.globex.example", ".2", mismatch, "no A record")
}

// TestRealDNSTimeToLive: an answer is kept as long as its records say, within
// bounds.
func TestRealDNSTimeToLive(t *testing.T) {
	t.Parallel()
	w := newDNSWorld(t, map[string]string{"globex.example": `
zero 0 A 127.0.0.2
short 20 A 127.0.0.2
middle 400 A 127.0.0.2
long 2147483647 A 127.0.0.2
negative 300 A 127.0.0.2
shortest 300 CNAME other
shorter 70 CNAME middle
other 100 A 127.0.0.2
nodata TXT ""
`})
	ttls := map[string]uint32{"none0": 0, "none20": 20, "none600": 600, "negative": 1 << 31}
	w.path.meddle(func(q dns.Question, reply *dns.Msg) bool {
		label, _, _ := strings.Cut(q.Name, ".")
		if ttl, ok := ttls[label]; ok {
			for _, rr := range slices.Concat(reply.Answer, reply.Ns) {
				if rr.Header().Ttl = ttl; rr.Header().Rrtype == dns.TypeSOA {
					rr.(*dns.SOA).Minttl = ttl
				}
			}
		}
		return true
	})
	rows := map[string]time.Duration{
		"zero": 30 * time.Second, "short": 30 * time.Second, "middle": 400 * time.Second, "long": 15 * time.Minute,
		"negative": 30 * time.Second, // RFC 2181 section 8: the highest bit makes it zero
		"shortest": 100 * time.Second,
		"shorter":  70 * time.Second,
		"nodata":   45 * time.Second, // of the SOA record (RFC 2308 section 5)
		"absent":   45 * time.Second, "none0": 5 * time.Second, "none20": 20 * time.Second, "none600": 60 * time.Second,
	}
	var domains []string
	for label := range rows {
		domains = append(domains, label+".globex.example")
	}
	s := newOriginSite(t, w.resolve(), nil, domains...)
	for label, kept := range rows {
		want, again := mtls.Reason(""), 0
		if kept < 30*time.Second || strings.HasPrefix(label, "no") || label == "absent" {
			want = mismatch
			if kept/5*4 > 10*time.Second {
				again = 1 // somebody who is not where DNS says may have just moved
			}
		}
		before := w.count("total.num.queries") + 1
		s.asks(label+".globex.example", ".2", want, "")
		require.LessOrEqual(t, s.kept(), kept, label)
		require.Greater(t, s.kept(), kept-3*time.Second, label) // the resolver counts down
		require.Equal(t, before, w.count("total.num.queries"), "questions for %s", label)
		s.env.Clock.Advance(s.kept()/5*4 - 1)
		s.asks(label+".globex.example", ".2", want, "")
		s.asks(label+".globex.example", ".2", want, "")
		require.Equal(t, before+again, w.count("total.num.queries"), "questions for %s while its answer counts", label)
	}
}
