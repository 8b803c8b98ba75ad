package fetch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mtlsguard/mtls/internal/ipaddr"
)

const (
	dialTimeout    = 15 * time.Second // resolution and connection together
	addressTimeout = time.Second      // to connect to one address while others of the name are left
	maxAddresses   = 8                // of one name; whoever owns the name decides how many there are
)

// fetchContext is the key under which a request's context carries the context of the whole fetch.
type fetchContext struct{}

// operatorHop is the key under which the context of a fetch from an operator's URL carries a *atomic.Bool: true until its server redirects.
type operatorHop struct{}

func trusted(ctx context.Context) bool {
	first, ok := ctx.Value(operatorHop{}).(*atomic.Bool)
	return ok && first.Load()
}

// guard decides where a fetch may go.
type guard struct {
	allow         []netip.Prefix
	dialer        func(ctx context.Context, network, address string) (net.Conn, error)
	resolver      Resolver
	foreignDialer bool // a transport of the caller's dials, so that ports are judged here or nowhere
}

// parse reads the URL of a certificate. Only its syntax is judged.
func (g *guard) parse(raw string) (*url.URL, error) {
	refuse := func(problem string) (*url.URL, error) { return nil, &URLError{URL: raw, Problem: problem} }
	if len(raw) > maxURLBytes {
		return refuse("is too long")
	}
	if strings.Contains(raw, "#") {
		return refuse("has a fragment")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return refuse("cannot be parsed")
	}
	if err := checkURL(u); err != nil {
		return nil, err
	}
	return u, nil
}

// checkURL holds for the URL asked for and for every one redirected to.
func checkURL(u *url.URL) error {
	refuse := func(problem string) error { return &URLError{URL: u.Redacted(), Problem: problem} }
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return refuse("is neither http nor https") // ldap, ftp and file are in certificates, too
	case u.User != nil:
		return refuse("has user information") // would be sent as Basic credentials
	case u.Fragment != "":
		return refuse("has a fragment")
	case !validHost(u.Hostname()):
		return refuse("has no valid host")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return refuse("has no valid port")
		}
	}
	return nil
}

// validHost accepts a literal address without a zone and an ASCII name whose last label does not begin with a digit (RFC 1123 section 2.1): resolvers of
// the C library read 127.1, 0x7f.1 and 2130706433 as addresses.
func validHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Zone() == ""
	}
	name := strings.TrimSuffix(host, ".")
	if len(name) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notLDH) {
			return false
		}
		last = label
	}
	return last[0] < '0' || last[0] > '9'
}

func notLDH(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

// checkTarget judges what can be judged before name resolution: a literal address, and the port where we do not dial ourselves.
func (g *guard) checkTarget(u *url.URL) error {
	port := portOf(u)
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return g.judge(netip.AddrPortFrom(ipaddr.Canonical(a), port))
	}
	if g.foreignDialer && !publicPort(port) {
		return &URLError{URL: u.Redacted(), Problem: "has a port other than 80 and 443"}
	}
	return nil
}

func portOf(u *url.URL) uint16 {
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		return uint16(n)
	}
	if u.Scheme == "https" {
		return 443
	}
	return 80
}

func publicPort(port uint16) bool {
	return port == 80 || port == 443
}

// judge is the one decision on an address in canonical form: a network that the operator allowed, on any port, or the public internet on the ports of the web.
func (g *guard) judge(target netip.AddrPort) error {
	if ipaddr.Contains(g.allow, target.Addr()) {
		return nil
	}
	if ipaddr.SpecialUse(target.Addr()) || !publicPort(target.Port()) {
		return &BlockedError{Address: target}
	}
	return nil
}

// dial is the transport's DialContext.
func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	// net/http detaches a dial from its request, so that the connection may serve another one. Ours serves none: it ends with its fetch, or else a
	// slow server would hold sockets that nobody counts any longer.
	fetch, ok := ctx.Value(fetchContext{}).(context.Context)
	if !ok {
		return nil, local(errors.New("a dial without a fetch"))
	}
	defer context.AfterFunc(fetch, cancel)()
	conn, err := g.dialName(ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(fetch, func() { conn.Close() })
	return conn, nil
}

// dialName resolves the name itself, judges each address, and dials the judged ip:port literally: a second resolution between check and connection is
// what DNS rebinding lives on. Addresses that are refused are skipped; they are the error only where no other is left.
func (g *guard) dialName(ctx context.Context, network, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	addresses, err := g.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var blocked error
	targets := make([]string, 0, len(addresses))
	for _, a := range addresses {
		target := netip.AddrPortFrom(ipaddr.Canonical(a), uint16(port))
		if err := g.judge(target); err != nil && !trusted(ctx) {
			if blocked == nil {
				blocked = err
			}
			continue
		}
		targets = append(targets, target.String())
	}
	if len(targets) == 0 {
		return nil, blocked
	}
	return g.dialFirst(ctx, network, targets[:min(len(targets), maxAddresses)])
}

func (g *guard) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	// Rooted, so that a search domain of this machine never completes a name from a certificate.
	addresses, err := g.resolver.LookupNetIP(ctx, "ip", strings.TrimSuffix(host, ".")+".")
	if err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, errors.New("the name has no address")
	}
	return addresses, nil
}

func (g *guard) dialFirst(ctx context.Context, network string, targets []string) (net.Conn, error) {
	var errs []error
	for i, target := range targets {
		conn, err := g.dialOne(ctx, network, target, i == len(targets)-1)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (g *guard) dialOne(ctx context.Context, network, target string, last bool) (net.Conn, error) {
	if !last {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, addressTimeout)
		defer cancel()
	}
	return g.dialer(ctx, network, target)
}

// redirectPolicy follows at most two redirects and judges each like a URL from a certificate, whoever the first one is of. next, if any, may refuse more.
func (g *guard) redirectPolicy(next func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		if first, ok := req.Context().Value(operatorHop{}).(*atomic.Bool); ok {
			first.Store(false)
		}
		if len(via) > maxRedirects {
			return ErrRedirects
		}
		if err := checkURL(req.URL); err != nil {
			return err
		}
		previous := via[len(via)-1]
		if previous.URL.Scheme == "https" && req.URL.Scheme != "https" {
			return &URLError{URL: req.URL.Redacted(), Problem: "is a redirect from https to http"}
		}
		if req.Method != previous.Method {
			return &URLError{URL: req.URL.Redacted(), Problem: "is a redirect that turns " + previous.Method + " into " + req.Method}
		}
		if err := g.checkTarget(req.URL); err != nil {
			return err
		}
		req.Header.Del("Referer")
		if next == nil {
			return nil
		}
		err := next(req, slices.Clone(via))
		if err != nil && err != http.ErrUseLastResponse {
			return local(err)
		}
		return err
	}
}
