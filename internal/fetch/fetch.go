// Package fetch gets revocation evidence over HTTP, and is the only place of this module that opens HTTP connections.
//
// The URLs come out of certificates, so whoever can obtain a certificate chooses them. Without a guard that is server-side request forgery
// (CVE-2026-21945 in Java, CVE-2026-5052 in Vault, Netflix/lemur#5485): a cloud's metadata service, a loopback admin port, an internal host that
// mistakes a GET for a command. Every address is therefore judged after name resolution and dialled as judged, and every response is bounded in size,
// time and kind. What comes back is bytes without any authority; the caller verifies signatures. A URL that is the operator's own
// may lead to any address ([Request].Operator), but what its server redirects to may not.
package fetch

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
)

const (
	maxRedirects   = 2
	maxHeaderBytes = 16 << 10
	maxURLBytes    = 4096
)

// Options configures a [Client]. The zero value reaches public addresses only, on ports 80 and 443.
type Options struct {
	// AllowNetworks are the networks that URLs may reach although their addresses are of special use, and there on any port. Nil: none.
	AllowNetworks []netip.Prefix
	// Client, nil: a transport of our own, without proxy, with every address checked. A caller's client keeps its Transport and Timeout (for a proxy
	// or a private server authority) but not its Jar; its CheckRedirect runs after ours. Where it has a Transport, that transport dials: addresses
	// that names resolve to are then out of our sight, and only literal addresses and the ports of the URL are judged. A client without a Transport gets
	// ours, not http.DefaultTransport.
	Client *http.Client
	// Dial opens a connection to an ip:port that has been judged. Nil: a net.Dialer. It is not used with a Transport of the caller's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Resolver finds the addresses of a rooted name ("crl.example."). Nil: net.DefaultResolver.
	Resolver Resolver
}

// Resolver is the part of *net.Resolver that is used.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Client fetches. It is immutable and may be used concurrently. It keeps no connection and leaves no goroutine behind. How many fetches are under way at
// once is the caller's to bound: by whoever causes them, not by host, which that one chooses.
type Client struct {
	http  *http.Client
	guard *guard
}

// New makes a client. It starts nothing.
func New(o Options) *Client {
	g := &guard{allow: slices.Clone(o.AllowNetworks), dialer: o.Dial, resolver: o.Resolver}
	if g.dialer == nil {
		g.dialer = new(net.Dialer).DialContext
	}
	if g.resolver == nil {
		g.resolver = net.DefaultResolver
	}
	c := &Client{http: new(http.Client), guard: g}
	var next func(*http.Request, []*http.Request) error
	if o.Client != nil {
		c.http.Transport, c.http.Timeout, next = o.Client.Transport, o.Client.Timeout, o.Client.CheckRedirect
	}
	if c.http.Transport == nil {
		c.http.Transport = g.transport()
	} else {
		g.foreignDialer = true
	}
	c.http.CheckRedirect = g.redirectPolicy(next)
	return c
}

// transport has no proxy: HTTP_PROXY in the environment would take the dialling, and with it the judging of addresses, out of our hands.
// It keeps no connection alive, so that no goroutine and no socket outlives its fetch.
func (g *guard) transport() *http.Transport {
	t := &http.Transport{
		DialContext:            g.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t
}
