package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// explainOptions are the flags of explain.
type explainOptions struct {
	trust
	policy, cert, from, at string
	intermediates          []string
	resolvers              []string
	crls, allow            []string
	noRevocation, trustAD  bool
	wait                   time.Duration
	asJSON                 bool
}

func newExplain() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain --policy FILE --roots FILE --cert FILE",
		Short: "Say whether a client is admitted, and why",
		Long: long(`
Decides on a client as a service with this policy and these authorities would, and
prints every step: what was found, what it rests on, and what to do. It fetches
revocation lists, asks OCSP responders and looks names up, from here and now.

The key is not proved: whoever has a copy of a certificate can ask about it. What a
service adds in Go (Accounts, Verify, Denied, a Store) is not known here.

Without --from the origin is unknown, so that only rules without an origin
(origin: none) can admit. URLs of CRLs and OCSP responders that lead to private or
loopback addresses are refused unless --allow-network names them.`,
			"admitted", "refused", "undetermined: a source or DNS did not answer, or --from is missing"),
		Example: `  mtlsctl explain --policy policy.yaml --roots ca.pem --cert client.pem --from 198.51.100.7
  mtlsctl explain --policy policy.yaml --authority acme=ca.pem,acme.example --cert client.pem --from 198.51.100.7 --crl lists/
  mtlsctl explain --policy policy.yaml --roots ca.pem --cert client.pem --no-revocation --time 2026-06-01T00:00:00Z --json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			colour, err := coloured(cmd)
			if err != nil {
				return err
			}
			if err := required(cmd, "policy", "cert"); err != nil {
				return err
			}
			r, err := o.explain(cmd.Context())
			if err != nil {
				return err
			}
			if o.asJSON {
				err = writeJSON(cmd.OutOrStdout(), r)
			} else {
				r.print(printer{cmd.OutOrStdout(), colour})
			}
			if err != nil {
				return err
			}
			return answer(r.status())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.policy, "policy", "", "policy `FILE` (required)")
	f.StringVar(&o.cert, "cert", "", "`FILE` with the client's certificate, and its chain after it (required)")
	f.StringVar(&o.from, "from", "", "`ADDRESS` that the client connects from")
	f.StringArrayVar(&o.intermediates, "intermediates", nil, "`FILE` with more certificates that the client would send (repeatable)")
	o.flags(cmd)
	f.StringVar(&o.at, "time", "", "the time of the decision, RFC 3339 (default now)")
	f.StringArrayVar(&o.resolvers, "resolver", nil, "`SERVER` to ask instead of those of the system: ADDRESS[:PORT] or tls://ADDRESS[:PORT][#NAME] (at most 3)")
	f.BoolVar(&o.trustAD, "trust-ad", false, "the servers of --resolver validate DNSSEC, and their word on it is believed")
	f.StringArrayVar(&o.crls, "crl", nil, "`FILE` or folder with revocation lists (repeatable; as mtls.LoadCRLs)")
	f.StringArrayVar(&o.allow, "allow-network", nil, "`NETWORK` that CRL and OCSP URLs may lead to although it is private (repeatable)")
	f.BoolVar(&o.noRevocation, "no-revocation", false, "leave revocation out (as mtls.NoRevocation)")
	f.DurationVar(&o.wait, "wait", 10*time.Second, "how long to wait for revocation evidence and DNS (a service waits 3s)")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("no-revocation", "crl")
	cmd.MarkFlagsMutuallyExclusive("no-revocation", "allow-network")
	return cmd
}

// explain builds a Guard and asks it.
func (o *explainOptions) explain(ctx context.Context) (*explainReport, error) {
	cfg, err := o.config()
	if err != nil {
		return nil, err
	}
	peer, err := o.peer()
	if err != nil {
		return nil, err
	}
	guard, err := mtls.New(cfg)
	if err != nil {
		return nil, err
	}
	d, _ := guard.Check(ctx, peer) // the error says that it is not Admitted, and no more
	return newExplainReport(o, d, peer.TLS.PeerCertificates[0]), nil
}

// config is what a service would hand to mtls.New.
func (o *explainOptions) config() (mtls.Config, error) {
	cfg := mtls.Config{Logger: slog.New(slog.DiscardHandler)}
	if o.wait <= 0 {
		return cfg, fmt.Errorf("--wait %s: not a time to wait", o.wait)
	}
	cfg.Limits.Wait = o.wait
	var err error
	if cfg.Now, err = clock(o.at); err != nil {
		return cfg, err
	}
	if cfg.Roots, err = o.load(); err != nil {
		return cfg, err
	}
	if err := checkPolicy(o.policy); err != nil {
		return cfg, err
	}
	file, err := policyfile.Load(o.policy)
	if err != nil {
		return cfg, err
	}
	cfg.Policy, cfg.Accounts = file.Policy(), accountsOf(file.Rules())
	if o.trustAD && len(o.resolvers) == 0 {
		return cfg, errors.New("--trust-ad goes with --resolver")
	}
	if len(o.resolvers) > 0 {
		servers, err := parseServers(o.resolvers, o.trustAD)
		if err != nil {
			return cfg, err
		}
		if cfg.Resolver, err = mtls.NewDNSResolver(servers...); err != nil {
			return cfg, err
		}
	}
	cfg.Revocation, err = o.revocation()
	return cfg, err
}

func (o *explainOptions) revocation() (*mtls.Revocation, error) {
	if o.noRevocation {
		return mtls.NoRevocation(), nil
	}
	r := &mtls.Revocation{}
	var err error
	if r.AllowNetworks, err = parsePrefixes("--allow-network", o.allow); err != nil {
		return nil, err
	}
	if len(o.crls) > 0 {
		lists, err := mtls.LoadCRLs(o.crls...)
		if err != nil {
			return nil, err
		}
		r.Sources = []mtls.RevocationSource{lists}
	}
	return r, nil
}

// peer is the client as a service would see it after the handshake.
func (o *explainOptions) peer() (mtls.Peer, error) {
	var p mtls.Peer
	certs, err := loadCertificates(o.cert, maxChainFile)
	if err != nil {
		return p, err
	}
	for _, f := range o.intermediates {
		more, err := loadCertificates(f, maxChainFile)
		if err != nil {
			return p, err
		}
		certs = append(certs, more...)
	}
	p.TLS = tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, PeerCertificates: certs}
	if o.from != "" {
		a, err := netip.ParseAddr(o.from)
		if err != nil || a.Zone() != "" {
			return p, fmt.Errorf("--from %q: not an IP address", o.from)
		}
		p.RemoteAddr = &net.TCPAddr{IP: a.AsSlice(), Port: 1}
	}
	return p, nil
}

// parseServers reads --resolver.
func parseServers(list []string, trustAD bool) ([]mtls.DNSServer, error) {
	var servers []mtls.DNSServer
	for _, s := range list {
		rest, encrypted := strings.CutPrefix(s, "tls://")
		port := uint16(53)
		var conf *tls.Config
		if encrypted {
			port = 853
			var name string
			rest, name, _ = strings.Cut(rest, "#")
			conf = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
		}
		addr, err := netip.ParseAddrPort(rest)
		if err != nil {
			a, err := netip.ParseAddr(strings.Trim(rest, "[]"))
			if err != nil {
				return nil, fmt.Errorf("--resolver %q: not ADDRESS[:PORT] or tls://ADDRESS[:PORT][#NAME]", s)
			}
			addr = netip.AddrPortFrom(a, port)
		}
		if conf != nil && conf.ServerName == "" {
			conf.ServerName = addr.Addr().String()
		}
		servers = append(servers, mtls.DNSServer{Addr: addr, TLS: conf, TrustAD: trustAD})
	}
	return servers, nil
}
