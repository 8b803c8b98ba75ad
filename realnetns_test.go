package mtls_test

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
)

// Namespaces, and their addresses, which look public: none is allowed by name.
const (
	nsHere, nsOld, nsNew      = "srv", "old", "new"
	nsServerOld, nsServerOld6 = "203.0.114.1", "2001:db9:0:1::1" // of the service, towards the old place
	nsServerNew, nsServerNew6 = "203.0.114.17", "2001:db9:0:2::1"
	nsOldAddr, nsOldAddr6     = "203.0.114.2", "2001:db9:0:1::2"
	nsNewAddr, nsNewAddr6     = "203.0.114.18", "2001:db9:0:2::2"
	nsInside                  = "10.77.0.2"  // of the old place, too: special-use
	nsVariable                = "MTLS_NETNS" // tells this program that it runs inside, and where the files are
)

// TestRealNetNS: a service and the two places of a partner are three network
// namespaces with public addresses, and connections come from there. The service
// is this program, run again inside.
func TestRealNetNS(t *testing.T) {
	if id, dir, ok := strings.Cut(os.Getenv(nsVariable), " "); ok {
		insideNetNS(t, id, dir)
		return
	}
	t.Parallel()
	ip := debian(t, "ip", "iproute2")
	debian(t, "knotd", "knot")
	debian(t, "unbound", "unbound")
	debian(t, "curl", "curl")
	if os.Getuid() != 0 {
		t.Skip("not root: no network namespaces")
	}
	var random [3]byte
	rand.Read(random[:])
	id := "mtls" + hex.EncodeToString(random[:])
	for _, place := range []string{nsHere, nsOld, nsNew} {
		said, err := exec.Command(ip, "netns", "add", id+place).CombinedOutput()
		if err != nil && os.Getenv("MTLS_REQUIRE_REAL") != "1" {
			t.Skipf("no network namespaces: %s", said)
		}
		require.NoError(t, err, "%s", said)
		t.Cleanup(func() {
			said, err := exec.Command(ip, "netns", "del", id+place).CombinedOutput()
			require.NoError(t, err, "%s", said)
		})
	}
	for line := range strings.Lines(strings.NewReplacer("SRV", id+nsHere, "OLD", id+nsOld, "NEW", id+nsNew).Replace(`
-n SRV link set lo up
-n OLD link set lo up
-n NEW link set lo up
-n SRV link add old type veth peer name wire netns OLD
-n SRV link add new type veth peer name wire netns NEW
-n SRV addr add ` + nsServerOld + `/28 dev old
-n SRV addr add ` + nsServerNew + `/28 dev new
-n SRV addr add 10.77.0.1/24 dev old
-n SRV addr add ` + nsServerOld6 + `/64 dev old nodad
-n SRV addr add ` + nsServerNew6 + `/64 dev new nodad
-n OLD addr add ` + nsOldAddr + `/28 dev wire
-n OLD addr add ` + nsInside + `/24 dev wire
-n OLD addr add ` + nsOldAddr6 + `/64 dev wire nodad
-n NEW addr add ` + nsNewAddr + `/28 dev wire
-n NEW addr add ` + nsNewAddr6 + `/64 dev wire nodad
-n SRV link set old up
-n SRV link set new up
-n OLD link set wire up
-n NEW link set wire up
`)) {
		if args := strings.Fields(line); len(args) > 0 {
			said, err := exec.Command(ip, args...).CombinedOutput()
			require.NoError(t, err, "ip %s%s", line, said)
		}
	}

	// A search domain and a hosts file that lead to the wrong place.
	dir := t.TempDir()
	for name, text := range map[string]string{
		"resolv.conf": "search evil.example\noptions ndots:5\nnameserver 127.0.0.1\n",
		"hosts":       "127.0.0.1 localhost\n" + nsNewAddr + " hosted.globex.example\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), ip, "netns", "exec", id+nsHere, "sh", "-ec",
		`for f in resolv.conf hosts; do mount --bind "$0/$f" "/etc/$f"; done; exec "$@"`, dir,
		self, "-test.run=^TestRealNetNS$", "-test.v", "-test.timeout=2m")
	cmd.Env, cmd.WaitDelay = append(os.Environ(), nsVariable+"="+id+" "+dir), time.Second
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	require.Contains(t, string(said), "--- PASS: TestRealNetNS")
}

// nsSite is a service in the namespace of this program, for clients in others.
type nsSite struct {
	*originSite
	id   string
	port string
}

func newNSSite(t *testing.T, id string, resolver mtls.Resolver, origin *mtls.Origin, domains ...string) *nsSite {
	t.Helper()
	s := &nsSite{originSite: newOriginSite(t, resolver, origin, domains...), id: id}
	_, s.port, _ = strings.Cut(s.serve("[::]:0"), "]:") // both families, so that peers over IPv4 look mapped
	return s
}

// from asks with curl in a namespace, from one of its addresses.
func (s *nsSite) from(domain, place, address, server string, want mtls.Reason, detail string) {
	s.t.Helper()
	dir := s.t.TempDir()
	cert, key := s.certs[domain].Write(dir, "client")
	ca := filepath.Join(dir, "server-ca.pem")
	require.NoError(s.t, os.WriteFile(ca, s.ca.PEM(), 0o600))
	code, problems, err := hsRun(s.t, "", debian(s.t, "ip", "iproute2"), "netns", "exec", s.id+place, debian(s.t, "curl", "curl"),
		"--disable", "--noproxy", "*", "--silent", "--show-error", "--max-time", "15", "--cacert", ca, "--cert", cert, "--key", key,
		"--interface", address, "--connect-to", "::["+server+"]:"+s.port, "--output", filepath.Join(dir, "answer"), "--write-out", "%{http_code}", "https://localhost/")
	require.NoError(s.t, err, problems)
	status, err := strconv.Atoi(code)
	require.NoError(s.t, err)
	s.answered(reply{Status: status}, domain+" from "+address, want, detail)
	if want != "" {
		require.Equal(s.t, netip.MustParseAddr(address), s.seen.last().Peer)
	}
}

func (s *nsSite) old(domain string, want mtls.Reason, detail string) {
	s.t.Helper()
	s.from(domain, nsOld, nsOldAddr, nsServerOld, want, detail)
}

func (s *nsSite) moved(domain string, want mtls.Reason, detail string) {
	s.t.Helper()
	s.from(domain, nsNew, nsNewAddr, nsServerNew, want, detail)
}

// insideNetNS runs in the namespace of the service, where the files of dir are
// /etc/resolv.conf and /etc/hosts.
func insideNetNS(t *testing.T, id, dir string) {
	const domain, hosted, absent = "api.acme.example", "hosted.globex.example", "absent.globex.example"
	const own, inside, listed = "own.globex.example", "inside.globex.example", "listed.acme.example"
	w := newAuthority(t, map[string]string{
		"acme.example":   "api 600 A " + nsOldAddr + "\n_mtls-egress.listed TXT \"v=mtls1 ip4:203.0.114.16/28 ip4:10.77.0.0/24\"\n",
		"globex.example": "hosted A " + nsOldAddr + "\nown A " + nsServerOld + "\nown A " + nsServerNew + "\ninside A " + nsInside + "\n",
		"evil.example":   "* A " + nsNewAddr + "\n",
	})
	w.resolver = netip.MustParseAddrPort("127.0.0.1:53") // where /etc/resolv.conf points
	w.listen = []netip.Addr{netip.MustParseAddr(nsServerOld)}
	w.startUnbound()
	s := newNSSite(t, id, nil, &mtls.Origin{}, domain, hosted, absent, own, inside)

	// The record moves, and with it who is admitted; nothing is restarted.
	s.old(domain, "", "")
	s.moved(domain, mismatch, "has A records ["+nsOldAddr+"]")
	w.set(domain, "A", 600, nsNewAddr)
	s.env.Clock.Advance(11 * time.Second)
	s.moved(domain, "", "")
	s.old(domain, mismatch, "has A records ["+nsNewAddr+"]")

	// Over to the other family, and back.
	s.from(domain, nsNew, nsNewAddr6, nsServerNew6, mismatch, "no AAAA record")
	w.set(domain, "AAAA", 600, nsNewAddr6)
	w.set(domain, "A", 600)
	s.env.Clock.Advance(11 * time.Second)
	s.from(domain, nsNew, nsNewAddr6, nsServerNew6, "", "")
	s.from(domain, nsOld, nsOldAddr6, nsServerOld6, mismatch, "has AAAA records ["+nsNewAddr6+"]")
	s.env.Clock.Advance(11 * time.Minute)
	s.moved(domain, mismatch, "no A record")
	w.set(domain, "A", 600, nsOldAddr)
	s.env.Clock.Advance(11 * time.Minute)
	s.old(domain, "", "")
	s.moved(domain, mismatch, "has A records ["+nsOldAddr+"]")

	// The partner's DNS names machines of ours, or those of an internal network.
	s.from(own, nsHere, nsServerOld, nsServerOld, mismatch, "an address of our own")
	s.from(inside, nsOld, nsInside, "10.77.0.1", mismatch, "a special-use address")
	p := newNSSite(t, id, nil, &mtls.Origin{Published: true}, listed)
	p.from(listed, nsOld, nsInside, "10.77.0.1", mismatch, "a special-use address")
	p.moved(listed, "", "")
	p.old(listed, mismatch, "TXT records")

	// Search domains and the hosts file lead to another place, and are not asked.
	s.moved(absent, mismatch, "the name does not exist")
	s.moved(hosted, mismatch, "has A records ["+nsOldAddr+"]")
	s.old(hosted, "", "")
	require.Zero(t, w.path.questions("evil.example"))
	for _, name := range []string{absent, hosted} { // as net.Resolver asks them
		addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, []string{nsNewAddr}, addrs)
	}
	require.NotZero(t, w.path.questions("evil.example"))

	// The AD bit counts from a server on this host, and from one named as trusted.
	remote := netip.AddrPortFrom(w.listen[0], 53)
	resolver := func(trusted bool) mtls.Resolver {
		r, err := mtls.NewDNSResolver(mtls.DNSServer{Addr: remote, TrustAD: trusted})
		require.NoError(t, err)
		return r
	}
	configured := func(text string) mtls.Resolver {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(text), 0o644))
		return mtls.NewResolver()
	}
	for _, row := range []struct {
		resolver func() mtls.Resolver
		want     mtls.Reason
	}{
		{func() mtls.Resolver { return configured("nameserver 127.0.0.1\n") }, ""},
		{func() mtls.Resolver { return configured("nameserver " + nsServerOld + "\n") }, unknown},
		{func() mtls.Resolver { return configured("nameserver " + nsServerOld + "\noptions trust-ad\n") }, ""},
		{func() mtls.Resolver { return mtls.NewResolver(w.resolver) }, ""},
		{func() mtls.Resolver { return mtls.NewResolver(remote) }, unknown},
		{func() mtls.Resolver { return resolver(false) }, unknown},
		{func() mtls.Resolver { return resolver(true) }, ""},
	} {
		detail := ""
		if row.want != "" {
			detail = "not authenticated"
		}
		newNSSite(t, id, row.resolver(), &mtls.Origin{RequireDNSSEC: true}, domain).old(domain, row.want, detail)
	}
}
