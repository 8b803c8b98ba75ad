package mtls_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
)

// debian returns the path of a program, which may be an administrator's. Without
// it the test is skipped, or fails where MTLS_REQUIRE_REAL=1 says that it must be
// there.
func debian(t *testing.T, program, pkg string) string {
	t.Helper()
	for _, name := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing := fmt.Sprintf("%s is not installed: Debian package %s", program, pkg)
	if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
		require.Fail(t, missing)
	}
	t.Skip(missing)
	return ""
}

// realProcess is a server that a test has started.
type realProcess struct {
	name  string
	rope  io.Closer
	said  bytes.Buffer // to be read once it has ended
	ended chan struct{}
}

// leash ends a program when its own input ends, so that nothing outlives a test
// that panics.
const leash = `exec 3<&0; "$@" 3<&- </dev/null & p=$!; (cat <&3; kill -9 $p) >/dev/null 2>&1 & w=$!; wait $p; kill $w`

func startReal(t *testing.T, path string, args ...string) *realProcess {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", leash, "sh", path}, args...)...)
	p := &realProcess{name: filepath.Base(path), ended: make(chan struct{})}
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = []string{"PATH=" + os.Getenv("PATH")}, &p.said, &p.said, time.Second
	var err error
	p.rope, err = cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	go func() { defer close(p.ended); _ = cmd.Wait() }() // its exit tells nothing: it is killed
	t.Cleanup(p.kill)
	return p
}

func (p *realProcess) kill() { _ = p.rope.Close(); <-p.ended }

// until asks until the answer is yes.
func (p *realProcess) until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(hsWait)
	for !yes() {
		select {
		case <-p.ended:
			require.Failf(t, what, "%s has ended: %s", p.name, p.said.String())
		case <-deadline:
			p.kill()
			require.Failf(t, what, "%s in vain: %s", p.name, p.said.String())
		case <-tick.C:
		}
	}
}

// dnsWorld is DNS as it is: zones on an authoritative server (knot), the path to
// it, on which things go wrong, and a resolver (unbound) that validates. Each
// world has a loopback address of its own, so that no port is taken.
//
//	acme.example         signed by knot; unbound has its key
//	globex.example       not signed
//	127.in-addr.arpa     signed; 0.ip6.arpa, of ::1, too
//	evil.example         an attacker's, not signed
//	lame.example         no server knows it
type dnsWorld struct {
	t           *testing.T
	dir         string
	knot        *realProcess
	unbound     *realProcess
	authority   netip.AddrPort
	resolver    netip.AddrPort
	overTLS     netip.AddrPort // set, with the files of its certificate, before startUnbound
	certificate [2]string
	listen      []netip.Addr // more addresses of the resolver
	path        *dnsPath
}

var (
	signedZones   = []string{"acme.example", "127.in-addr.arpa", "0.ip6.arpa"}
	unsignedZones = []string{"globex.example", "evil.example"}
)

// newDNSWorld starts knot and unbound with the records of the zones, in the
// format of zone files (RFC 1035 section 5).
func newDNSWorld(t *testing.T, records map[string]string) *dnsWorld {
	t.Helper()
	w := newAuthority(t, records)
	w.startUnbound()
	return w
}

func newAuthority(t *testing.T, records map[string]string) *dnsWorld {
	t.Helper()
	knotd := debian(t, "knotd", "knot")
	debian(t, "unbound", "unbound")
	dir, err := os.MkdirTemp("", "mtls") // t.TempDir is too long for a Unix socket
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	var random [3]byte
	rand.Read(random[:])
	addr := netip.AddrFrom4([4]byte{127, 64 + random[0]%128, random[1], 1 + random[2]%254})
	w := &dnsWorld{t: t, dir: dir, authority: netip.AddrPortFrom(addr, 5301), resolver: netip.AddrPortFrom(addr, 5300)}

	config := fmt.Sprintf(`
server:
    rundir: %[1]s
    listen: %[2]s@%[3]d
    udp-workers: 1
    tcp-workers: 1
    background-workers: 2
log:
  - target: stderr
    any: info
database:
    storage: %[1]s/db
acl:
  - id: test
    address: 127.0.0.0/8
    action: update
policy:
  - id: test
    algorithm: ecdsap256sha256
    single-type-signing: on
template:
  - id: default
    storage: %[1]s
    file: "%%s.zone"
    acl: test
    dnssec-policy: test
zone:
`, dir, addr, w.authority.Port())
	for _, zone := range slices.Concat(signedZones, unsignedZones) {
		text := "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 45\n@ NS ns\nns A 192.0.2.53\n" + records[zone]
		w.write(zone+".zone", text)
		config += "  - domain: " + zone + "\n"
		if slices.Contains(signedZones, zone) {
			config += "    dnssec-signing: on\n"
		}
	}
	for zone := range records {
		require.True(t, slices.Contains(signedZones, zone) || slices.Contains(unsignedZones, zone), zone)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "db"), 0o700))
	w.knot = startReal(t, knotd, "-c", w.write("knot.conf", config))
	var anchors strings.Builder
	for zone := range records {
		w.knot.until(t, "zone "+zone, func() bool { return exists(w.authority, zone, dns.TypeSOA) })
	}
	for _, zone := range signedZones {
		w.knot.until(t, "keys of zone "+zone, func() bool {
			m, err := askDNS(w.authority, zone, dns.TypeDNSKEY)
			if err != nil || len(m.Answer) == 0 {
				return false
			}
			for _, key := range m.Answer {
				fmt.Fprintln(&anchors, key)
			}
			return true
		})
	}
	w.write("anchors", anchors.String())
	w.path = newDNSPath(t, netip.AddrPortFrom(addr, 5302), w.authority)
	return w
}

func (w *dnsWorld) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	require.NoError(w.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// startUnbound starts the resolver, also after it was killed. Its cache begins
// empty.
func (w *dnsWorld) startUnbound() {
	w.t.Helper()
	config := fmt.Sprintf(`
server:
    interface: %[2]s@%[3]d
    port: %[3]d
    directory: "%[1]s"
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    val-log-level: 2
    extended-statistics: yes
    do-daemonize: no
    num-threads: 1
    do-not-query-localhost: no
    access-control: 0.0.0.0/0 allow
    module-config: "validator iterator"
    trust-anchor-file: "%[1]s/anchors"
    ede: yes
    cache-max-ttl: 2147483647
    cache-max-negative-ttl: 2147483647
    infra-host-ttl: 1
    local-zone: "." refuse
    local-zone: "127.in-addr.arpa." nodefault
    local-zone: "%[4]s" nodefault
`, w.dir, w.resolver.Addr(), w.resolver.Port(), reverseOfLoopback6)
	for _, addr := range w.listen {
		config += fmt.Sprintf("    interface: %s@%d\n", addr, w.resolver.Port())
	}
	if w.overTLS.IsValid() {
		config += fmt.Sprintf("    interface: %s@%d\n    tls-port: %[2]d\n    tls-service-pem: %q\n    tls-service-key: %q\n",
			w.overTLS.Addr(), w.overTLS.Port(), w.certificate[0], w.certificate[1])
	}
	zones := slices.Concat(signedZones, unsignedZones, []string{"lame.example"})
	for _, zone := range zones {
		config += fmt.Sprintf("    local-zone: %q transparent\n", zone+".")
	}
	config += fmt.Sprintf("remote-control:\n    control-enable: yes\n    control-use-cert: no\n    control-interface: %q\n", filepath.Join(w.dir, "control"))
	for _, zone := range zones {
		config += fmt.Sprintf("stub-zone:\n    name: %q\n    stub-addr: %s@%d\n    stub-prime: no\n", zone+".", w.path.addr.Addr(), w.path.addr.Port())
	}
	_ = os.Remove(filepath.Join(w.dir, "control"))
	// Debian's AppArmor profile of /usr/sbin/unbound keeps it out of our folder. (A
	// file that this process writes may still be open in a child it forks.)
	unbound := filepath.Join(w.dir, "unbound")
	if w.unbound == nil {
		require.NoError(w.t, exec.Command("cp", debian(w.t, "unbound", "unbound"), unbound).Run())
	}
	w.unbound = startReal(w.t, unbound, "-d", "-c", w.write("unbound.conf", config))
	w.unbound.until(w.t, "the resolver's answer", func() bool { return exists(w.resolver, "acme.example", dns.TypeSOA) })
	w.unbound.until(w.t, "the resolver's control", func() bool { _, err := w.control("status"); return err == nil })
}

// control makes unbound do something, as unbound-control does.
func (w *dnsWorld) control(command string) (string, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(w.dir, "control"), hsWait)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hsWait))
	if _, err := io.WriteString(conn, "UBCT1 "+command+"\n"); err != nil {
		return "", err
	}
	said, err := io.ReadAll(conn)
	return string(said), err
}

// forget makes the resolver, if it lives, forget what it knows, as its own TTLs
// would.
func (w *dnsWorld) forget() {
	w.t.Helper()
	select {
	case <-w.unbound.ended:
		return
	default:
	}
	for _, command := range []string{"flush_zone .", "flush_infra all"} {
		said, err := w.control(command)
		require.NoError(w.t, err)
		require.True(w.t, strings.HasPrefix(said, "ok"), said)
	}
}

// count returns what the resolver counts under a name of its statistics.
func (w *dnsWorld) count(name string) int {
	w.t.Helper()
	said, err := w.control("stats_noreset")
	require.NoError(w.t, err)
	for line := range strings.Lines(said) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			require.NoError(w.t, err)
			return n
		}
	}
	require.True(w.t, strings.HasPrefix(name, "num.query.type."), "the resolver does not count %s", name) // types that came up only
	return 0
}

func (w *dnsWorld) resolve() mtls.Resolver { return mtls.NewResolver(w.resolver) }

// set replaces the records of a name and type on the authoritative server, by a
// dynamic update (RFC 2136). None: there are none. The resolver forgets.
func (w *dnsWorld) set(name, kind string, ttl int, values ...string) {
	w.t.Helper()
	zone := ""
	for _, z := range slices.Concat(signedZones, unsignedZones) {
		if dns.IsSubDomain(z+".", name+".") {
			zone = z + "."
		}
	}
	m := new(dns.Msg)
	m.SetUpdate(zone)
	m.RemoveRRset([]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: name + ".", Rrtype: dns.StringToType[kind]}}})
	var rrs []dns.RR
	for _, v := range values {
		rr, err := dns.NewRR(fmt.Sprintf("%s. %d IN %s %s", name, ttl, kind, v))
		require.NoError(w.t, err)
		rrs = append(rrs, rr)
	}
	m.Insert(rrs)
	reply, _, err := (&dns.Client{Net: "tcp", Timeout: hsWait}).Exchange(m, w.authority.String())
	require.NoError(w.t, err)
	require.Equal(w.t, dns.RcodeSuccess, reply.Rcode, reply)
	w.forget()
}

func askDNS(server netip.AddrPort, name string, t uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), t)
	m.SetEdns0(4096, false)
	m.AuthenticatedData = true
	reply, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, server.String())
	return reply, err
}

func exists(server netip.AddrPort, name string, t uint16) bool {
	m, err := askDNS(server, name, t)
	return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0
}

// dnsPath is the path from a resolver to an authoritative server, and whoever
// sits there.
type dnsPath struct {
	addr, authority netip.AddrPort

	mu     sync.Mutex
	tamper func(q dns.Question, reply *dns.Msg) bool // nil: nobody is there; false: the reply is lost
	asked  map[string]int
}

func newDNSPath(t *testing.T, addr, authority netip.AddrPort) *dnsPath {
	t.Helper()
	p := &dnsPath{addr: addr, authority: authority, asked: map[string]int{}}
	for _, network := range []string{"udp", "tcp"} {
		started, failed := make(chan struct{}), make(chan error, 1)
		s := &dns.Server{Addr: addr.String(), Net: network, Handler: p, NotifyStartedFunc: func() { close(started) }}
		go func() { failed <- s.ListenAndServe() }()
		select {
		case <-started:
		case err := <-failed:
			require.NoError(t, err)
		}
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return p
}

// meddle puts somebody on the path, who changes a reply or loses it by returning
// false. He runs in the goroutines of the path, and has no test to fail.
func (p *dnsPath) meddle(tamper func(q dns.Question, reply *dns.Msg) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tamper = tamper
}

// questions returns how often the authority was asked for a name or one below.
func (p *dnsPath) questions(name string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for asked, times := range p.asked {
		if dns.IsSubDomain(name+".", asked) {
			n += times
		}
	}
	return n
}

// ServeDNS carries a question to the authority and its reply back.
func (p *dnsPath) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	network := "udp"
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		network = "tcp"
	}
	p.mu.Lock()
	tamper := p.tamper
	if len(q.Question) == 1 {
		p.asked[dns.CanonicalName(q.Question[0].Name)]++
	}
	p.mu.Unlock()
	reply, _, err := (&dns.Client{Net: network, Timeout: hsWait}).Exchange(q, p.authority.String())
	if err != nil || tamper != nil && len(q.Question) == 1 && !tamper(q.Question[0], reply) {
		return
	}
	reply.Compress = true
	_ = w.WriteMsg(reply) // the asker may be gone
}

// reverseOfLoopback6 is the name of ::1 (RFC 3596 section 2.5).
const reverseOfLoopback6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa."
