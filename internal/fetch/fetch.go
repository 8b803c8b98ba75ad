// Package fetch gets revocation evidence over HTTP, and is the only place of this module that opens HTTP connections.
//
// The URLs come out of certificates, so whoever can obtain a certificate chooses them. Without a guard that is server-side request forgery
// (CVE-2026-21945 in Java, CVE-2026-5052 in Vault, Netflix/lemur#5485): a cloud's metadata service, a loopback admin port, an internal host that
// mistakes a GET for a command. Every address is therefore judged after name resolution and dialled as judged, and every response is bounded in size,
// time and kind. What comes back is bytes without any authority; the caller verifies signatures.
package fetch

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	hardCap        = 60 * time.Second // of one fetch, whatever the caller's context allows: a server may drip for ever
	maxRedirects   = 2
	maxHeaderBytes = 16 << 10
	maxURLBytes    = 4096
	userAgent      = "mtlsguard"
	identityCoding = "identity"
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

// Get fetches url, up to limit bytes. accept is the Accept header, empty: none. The context should have a deadline; without one a fetch ends after a minute.
// Errors are *[URLError], *[BlockedError], *[StatusError], one of the Err variables or a failure of the network, wrapped in *[Error].
func (c *Client) Get(ctx context.Context, url, accept string, limit int64) ([]byte, error) {
	return c.fetch(ctx, http.MethodGet, url, "", nil, accept, limit)
}

// Post is [Client.Get] with a body. A redirect that would turn it into a GET is refused.
func (c *Client) Post(ctx context.Context, url, contentType string, body []byte, accept string, limit int64) ([]byte, error) {
	return c.fetch(ctx, http.MethodPost, url, contentType, body, accept, limit)
}

func (c *Client) fetch(ctx context.Context, method, url, contentType string, body []byte, accept string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, hardCap)
	defer cancel()
	ctx = context.WithValue(ctx, fetchContext{}, ctx)
	data, err := c.attempt(ctx, method, url, contentType, body, accept, limit)
	if err != nil && ctx.Err() != nil {
		err = ctx.Err() // and not the closed connection that came of it
	}
	if err != nil {
		return nil, &Error{Method: method, URL: url, Err: tidy(err, url)}
	}
	return data, nil
}

func (c *Client) attempt(ctx context.Context, method, url, contentType string, body []byte, accept string, limit int64) ([]byte, error) {
	if limit <= 0 || limit == math.MaxInt64 {
		return nil, fmt.Errorf("limit of %d bytes", limit)
	}
	u, err := c.guard.parse(url)
	if err != nil {
		return nil, err
	}
	if err := c.guard.checkTarget(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	// Said aloud, so that a caller's transport does not ask for gzip and unpack it behind our back: a bomb would be measured packed.
	req.Header.Set("Accept-Encoding", identityCoding)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}

	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if err := checkResponse(res, limit); err != nil {
		return nil, err
	}
	return readBody(res.Body, limit)
}

// checkResponse refuses from the header alone what cannot be evidence. The body of any status but 200 is somebody's error page.
func checkResponse(res *http.Response, limit int64) error {
	if res.StatusCode != http.StatusOK {
		return &StatusError{Code: res.StatusCode}
	}
	if res.Uncompressed {
		return ErrEncoded
	}
	for _, coding := range res.Header.Values("Content-Encoding") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, identityCoding) {
			return ErrEncoded
		}
	}
	for _, v := range res.Header.Values("Content-Type") {
		if isHTML(v) {
			return ErrHTML // a captive portal, a parked domain, an error page with status 200
		}
	}
	if res.ContentLength > limit {
		return ErrTooLarge
	}
	return nil
}

func isHTML(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		mediaType, _, _ = strings.Cut(contentType, ";")
		mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	}
	return mediaType == "text/html" || mediaType == "application/xhtml+xml"
}

func readBody(body io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, ErrTooLarge
	}
	if len(data) == 0 {
		return nil, ErrEmpty
	}
	return data, nil
}
