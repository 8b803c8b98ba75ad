package mtls_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestThreat67_NamesOfAddressesReachNoLog: whoever holds an address writes its PTR
// records (CVE-2021-33195): what is no host name is dropped, and no octet of it gets
// into a log line, a decision or an answer.
func TestThreat67_NamesOfAddressesReachNoLog(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetPTR("127.0.0.2", `evil\010level=INFO.acme.example`, `a\000.acme.example`, `<script>.acme.example`, "x.evil.example")
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}, Origin: &mtls.Origin{
		ReverseSuffixes: []string{"acme.example"}, AllowNetworks: mtlstest.Loopback()}})
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	seen := &observer{}
	cfg.Observe = seen.observe
	s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
	r := ask(t, s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}}), mtlstest.ClientOptions{From: "127.0.0.2"}), s.URL)
	require.Equal(t, mtls.ReasonOriginMismatch, seen.last().Reason)
	require.Equal(t, "origin_mismatch", r.Code)
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
	require.Contains(t, log.String(), "x.evil.example")
	for _, text := range []string{"level=INFO", "script", "\x00"} {
		require.NotContains(t, log.String(), text)
		require.NotContains(t, r.Body, text)
	}
}

// TestThreat70_OneAddressHasOneForm: an IPv4-mapped address, a zone and a translated
// address are the address that they mean (CVE-2024-24790), in special-use ranges and
// when compared.
func TestThreat70_OneAddressHasOneForm(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	for _, row := range []struct {
		peer string
		dns  []netip.Addr
		want mtls.Reason
	}{
		{"8.8.8.8", addrs("8.8.8.8"), ""},
		{"::ffff:8.8.8.8", addrs("8.8.8.8"), ""},
		{"8.8.8.8", addrs("::ffff:8.8.8.8"), ""},
		{"2a00:1450::8%eth0", addrs("2a00:1450::8"), ""},
		{"2a00:1450::8", addrs("2a00:1450::9"), mtls.ReasonOriginMismatch},
		{"10.0.0.1", addrs("10.0.0.1"), mtls.ReasonOriginMismatch},
		{"::ffff:10.0.0.1", addrs("10.0.0.1", "::ffff:10.0.0.1"), mtls.ReasonOriginMismatch},
		{"::ffff:127.0.0.1", addrs("127.0.0.1", "::ffff:127.0.0.1"), mtls.ReasonOriginMismatch},
		{"169.254.169.254", addrs("169.254.169.254"), mtls.ReasonOriginMismatch},
		{"0.0.0.0", addrs("0.0.0.0"), mtls.ReasonOriginMismatch},
		{"fe80::1%eth0", addrs("fe80::1", "fe80::1%eth0"), mtls.ReasonOriginMismatch},
		{"::1", addrs("::1"), mtls.ReasonOriginMismatch},
		{"::8.8.8.8", addrs("::8.8.8.8", "8.8.8.8"), mtls.ReasonOriginMismatch},
		{"64:ff9b::8.8.8.8", addrs("64:ff9b::8.8.8.8", "8.8.8.8"), mtls.ReasonOriginMismatch},
		{"2002:808:808::1", addrs("2002:808:808::1"), mtls.ReasonOriginMismatch},
		{"fd00::1", addrs("fd00::1"), mtls.ReasonOriginMismatch},
	} {
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		cfg.Origin = nil
		cfg.Resolver = fakeResolver(func(string, mtls.RecordType) (mtls.Answer, error) { return mtls.Answer{Addrs: row.dns}, nil })
		p := peerOf(cert)
		p.RemoteAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(row.peer), 4711))
		d, _ := mtlstest.NewGuard(t, cfg).Check(t.Context(), p)
		require.Equal(t, row.want, d.Reason, "%s %v: %s", row.peer, row.dns, d.Detail())
	}
}
