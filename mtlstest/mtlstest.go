// Package mtlstest helps to test services that package mtls guards: a
// certificate authority, a revocation server and a DNS server in the test's own
// process, with faults that can be set, clients with any certificate, and a
// clock that the test moves.
//
// A handler that reads mtls.FromContext is tested with NewRequest. A whole
// service is tested with NewEnv, NewServer and Server.Client: real TLS
// connections over loopback. Nothing here belongs in a program that serves
// real clients.
package mtlstest

import (
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/identity"
)

// TB is the part of testing.TB that this package uses; *testing.T, *testing.B
// and *testing.F are such.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	TempDir() string
}

// A Clock is a clock that stands still until it is moved. Its Now is a value for
// mtls.Config.Now. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows start, or the present time if start is
// zero.
func NewClock(start time.Time) *Clock {
	if start.IsZero() {
		start = time.Now().Truncate(time.Second)
	}
	return &Clock{now: start}
}

// Now returns what the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock by d, which may be negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Identity describes the client of a request made by NewRequest.
type Identity struct {
	Rule        string // name of the rule
	Name        string // of the account; empty: Rule
	ID          string // of the account
	Domain      string
	URI         string
	Email       string
	UPN         string
	Roles       []string
	Authority   string
	Groups      []string
	Attributes  map[string][]string
	Certificate *Certificate // nil: Identity.Certificate of package mtls returns nil
	Peer        netip.Addr
}

// NewRequest returns a request that a guard has admitted, for unit tests of
// handlers behind one: mtls.FromContext yields the identity. A guard itself does
// not believe it; to test a guard, connect to a NewServer.
func NewRequest(t TB, method, target string, body io.Reader, id Identity) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		t.Fatalf("mtlstest: NewRequest: %v", err)
		return nil
	}
	r.RequestURI = target
	if r.Host == "" {
		r.Host = "example.com"
	}
	r.RemoteAddr = "192.0.2.1:1234"
	data := &identity.Data{
		Rule: id.Rule, Domain: id.Domain, URI: id.URI, Email: id.Email, UPN: id.UPN, Roles: id.Roles, Authority: id.Authority, Peer: id.Peer,
		Account: identity.Account{Name: id.Name, ID: id.ID, Groups: id.Groups, Attributes: id.Attributes},
	}
	if data.Account.Name == "" {
		data.Account.Name = id.Rule
	}
	if id.Certificate != nil {
		for _, c := range id.Certificate.chain() {
			data.Raw = append(data.Raw, c.Raw)
		}
	}
	return r.WithContext(identity.NewContext(r.Context(), data))
}

// An Env is everything around a guarded service: an authority, its revocation
// server, a DNS server and a clock.
type Env struct {
	CA         *CA // issues certificates that name Revocation as their source
	Revocation *RevocationServer
	DNS        *DNS
	Clock      *Clock

	t TB
}

// NewEnv starts the servers of an Env, which end with the test. Its parts may be
// used alone as well.
func NewEnv(t TB) *Env {
	t.Helper()
	clock := NewClock(time.Time{})
	e := &Env{Clock: clock, DNS: NewDNS(t), Revocation: NewRevocationServer(t, clock.Now), t: t}
	e.CA = NewCA(t, CAOptions{Now: clock.Now})
	e.Revocation.Serve(e.CA)
	return e
}

// Loopback is the network of the servers of this package. It is special-use
// (RFC 6890), so a guard must be told that it is welcome.
func Loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Config returns a configuration that works with the Env: its authority, its
// DNS, its clock, loopback welcome as an origin and as a place of revocation
// servers. Everything else is as in production, and every field may be changed.
// The domains of the rules must be given addresses in Env.DNS.
func (e *Env) Config(rules ...mtls.Rule) mtls.Config {
	e.t.Helper()
	roots, err := mtls.NewRoots(e.CA.Authority("env"))
	if err != nil {
		e.t.Fatalf("mtlstest: %v", err)
	}
	policy, err := mtls.NewPolicy(rules...)
	if err != nil {
		e.t.Fatalf("mtlstest: %v", err)
	}
	return mtls.Config{
		Roots: roots, Policy: policy,
		Origin:     &mtls.Origin{AllowNetworks: Loopback()},
		Revocation: &mtls.Revocation{AllowNetworks: Loopback()},
		Resolver:   e.DNS.Resolver(),
		Now:        e.Clock.Now,
	}
}

// Guard returns a guard with the Config for the rules.
func (e *Env) Guard(rules ...mtls.Rule) *mtls.Guard {
	e.t.Helper()
	return NewGuard(e.t, e.Config(rules...))
}

// NewGuard is mtls.New for tests: an error ends the test.
func NewGuard(t TB, cfg mtls.Config) *mtls.Guard {
	t.Helper()
	g, err := mtls.New(cfg)
	if err != nil {
		t.Fatalf("mtlstest: %v", err)
	}
	return g
}
