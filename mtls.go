package mtls

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"weak"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/mtlsguard/mtls/internal/dnscache"
	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/ipaddr"
	"github.com/mtlsguard/mtls/internal/origin"
)

// Config says whom a Guard admits. New copies it; Roots and Policy are live
// objects that may be replaced while the Guard works.
type Config struct {
	// Roots are the authorities that may issue client certificates. Required.
	Roots *Roots
	// Policy lists the clients. Required.
	Policy *Policy
	// Origin is where connections must come from, for rules that do not say.
	// Nil: the addresses of the domain that the rule matched.
	Origin *Origin
	// Revocation is how certificates are checked for revocation, for authorities
	// that do not say. Nil: required, by CRL and OCSP at the places that the
	// certificates name.
	Revocation *Revocation
	// Accounts maps clients to accounts. Nil: the rule's Account, else its Name.
	Accounts AccountMapper
	// Verify is the caller's own last condition. It is called for every request,
	// after everything else, and never cached; an error refuses the request with
	// ReasonConditionFailed. It is called concurrently.
	Verify func(context.Context, *Identity) error
	// Shadow is a policy that is evaluated and reported in decisions, never
	// enforced: the next policy, tried on real traffic. It causes no network
	// work. Nil: none.
	Shadow *Policy
	// Resolver looks up domains. Nil: NewResolver(), which asks the servers of
	// /etc/resolv.conf.
	Resolver Resolver
	// Store keeps revocation evidence between processes, and which clients were
	// admitted last, so that a restart needs no network: NewDirStore. Nil: memory
	// only.
	Store Store
	// Denied lists certificates that are refused as revoked, whatever their issuer
	// says. Nil: none.
	Denied *DenyList
	// SessionLifetime allows TLS sessions to be resumed, for this long after the full
	// handshake, at most 7 days. A session issued on a resumed connection cannot
	// be resumed, so that a lineage of sessions ends. Every resumption and every
	// request is decided anew as any other. Zero: no session tickets.
	SessionLifetime time.Duration
	// Deny writes the answer to a refused request. The status, which must tell
	// the client that it was refused, is the caller's; "Connection: close" and
	// "Retry-After" are set already. Nil: a problem+json document (RFC 9457) with
	// the incident's ID and Reason.Code.
	Deny func(http.ResponseWriter, *http.Request, *DeniedError)
	// Observe is told every refusal, and every admission that was not answered
	// from the cache. The Decision is the callee's own. It is called
	// concurrently, before the request goes on. If it panics, the client is
	// refused.
	Observe func(context.Context, *Decision)
	// Logger takes refusals (level Warn) and admissions that were not answered
	// from the cache (level Debug). Nil: slog.Default().
	Logger *slog.Logger
	// Limits bound what a client may send and how long it waits.
	Limits Limits
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// OwnNetworks are addresses of our own load balancers, NAT gateways and
	// proxies: a connection that comes from one of them, or a name that resolves
	// to one, matches no origin. A public address on which the server itself
	// accepted the connection is always among them.
	OwnNetworks []netip.Prefix
	// NAT64 are prefixes of our own translators (RFC 6052): a peer under one of them
	// is the IPv4 address that it holds, everywhere. They are never learnt from DNS
	// (RFC 7050), which could declare any address translated.
	NAT64 []netip.Prefix
	// InsecureReportOnly decides and reports, and refuses nobody, not even clients
	// without a certificate: with it, TLSConfig and Server leave a service open
	// to everybody. FromContext yields nothing for a client that would have been
	// refused.
	InsecureReportOnly bool
}

// A Guard admits the clients that a Config describes. The zero Guard refuses
// everybody. It is safe for concurrent use, starts nothing by itself, and needs
// no closing.
type Guard struct {
	roots      *Roots
	policy     *Policy
	shadow     *Policy
	origin     *originSpec
	revocation *Revocation
	accounts   AccountMapper
	verify     func(context.Context, *Identity) error
	deny       func(http.ResponseWriter, *http.Request, *DeniedError)
	observe    func(context.Context, *Decision)
	logger     *slog.Logger
	limits     Limits
	clock      func() time.Time
	own, nat64 []netip.Prefix
	lifetime   time.Duration
	reportOnly bool

	denied   *DenyList
	recent   recentClients
	running  atomic.Int32 // calls of Run
	polled   atomic.Int64 // when files were last looked at, Unix nanoseconds
	evidence *evidence.Engine
	dns      *dnscache.Cache
	verdicts *lru.Cache[verdictKey, *verdict]
	origins  *origin.Checker

	compromised compromisedKeys

	attached atomic.Bool // Handler, Require or Check has been called
}

// New returns a Guard, or everything that is wrong with the Config: an
// errors.Join of ConfigErrors. It starts no goroutine and does no I/O.
func New(cfg Config) (*Guard, error) {
	var failed problems
	g := &Guard{
		roots: cfg.Roots, policy: cfg.Policy, shadow: cfg.Shadow, accounts: cfg.Accounts, verify: cfg.Verify,
		deny: cfg.Deny, observe: cfg.Observe, logger: cfg.Logger, limits: cfg.Limits, clock: cfg.Now,
		own: slices.Clone(cfg.OwnNetworks), nat64: slices.Clone(cfg.NAT64), lifetime: cfg.SessionLifetime, reportOnly: cfg.InsecureReportOnly, denied: cfg.Denied, recent: recentClients{store: cfg.Store},
	}
	if g.logger == nil {
		g.logger = slog.Default()
	}
	if g.clock == nil {
		g.clock = time.Now
	}
	g.limits.fill(&failed)
	if cfg.SessionLifetime < 0 || cfg.SessionLifetime > 7*24*time.Hour {
		failed.add("Config.SessionLifetime", cfg.SessionLifetime.String(), "not between 0 and 7 days")
	}
	for i, p := range cfg.OwnNetworks {
		if !p.IsValid() {
			failed.add(fmt.Sprintf("Config.OwnNetworks[%d]", i), p.String(), "not a prefix")
		}
	}
	for i, p := range cfg.NAT64 {
		if err := ipaddr.CheckNAT64(p); err != nil {
			failed.add(fmt.Sprintf("Config.NAT64[%d]", i), p.String(), "%v", err)
		}
	}
	var rootsNow *rootsState
	if cfg.Roots != nil {
		rootsNow = cfg.Roots.state.Load()
	}
	if rootsNow == nil {
		failed.add("Config.Roots", "", "missing, or not made by NewRoots or LoadRoots: nobody could be trusted")
	}
	checkPolicy(&failed, "Config.Policy", cfg.Policy, rootsNow)
	if cfg.Policy == nil {
		failed.add("Config.Policy", "", "missing: nobody could be admitted")
	}
	checkPolicy(&failed, "Config.Shadow", cfg.Shadow, rootsNow)
	o := cfg.Origin
	if o == nil {
		o = &Origin{}
	}
	for _, p := range []struct {
		field  string
		policy *Policy
	}{{"Config.Policy", cfg.Policy}, {"Config.Shadow", cfg.Shadow}} {
		if p.policy == nil {
			continue
		}
		if err := p.policy.state.Load().checkAccounts(p.field, cfg.Accounts); err != nil {
			failed = append(failed, err)
		}
	}
	var err error
	if g.origin, err = compileOrigin(o, "Config.Origin"); err != nil {
		failed = append(failed, err)
	}
	r := cfg.Revocation
	if r == nil {
		r = &Revocation{}
	}
	if err := r.check("Config.Revocation"); err != nil {
		failed = append(failed, err)
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	g.revocation = r.clone()
	if err := g.assemble(cfg); err != nil {
		return nil, err
	}
	if cfg.Shadow != nil {
		if err := bind(cfg.Roots, cfg.Shadow, "Config.Shadow", false); err != nil {
			return nil, err
		}
	}
	if err := bind(cfg.Roots, cfg.Policy, "Config.Policy", true); err != nil {
		return nil, err
	}
	return g, nil
}

// assemble makes the parts that keep state.
func (g *Guard) assemble(cfg Config) error {
	g.evidence = evidence.New(evidence.Options{Now: g.clock, Store: cfg.Store, Logger: g.logger})
	resolver := cfg.Resolver
	if resolver == nil {
		resolver = NewResolver()
	}
	g.newOrigins(resolver)
	var err error
	if g.verdicts, err = lru.New[verdictKey, *verdict](g.limits.Verdicts); err != nil {
		return &ConfigError{Field: "Config.Limits.Verdicts", Problem: "unusable", Err: err}
	}
	return nil
}

func checkPolicy(failed *problems, field string, p *Policy, roots *rootsState) {
	if p == nil {
		return
	}
	state := p.state.Load()
	if state == nil {
		failed.add(field, "", "not made by NewPolicy or DenyAll")
		return
	}
	if err := crossCheck(roots, state, field); err != nil {
		*failed = append(*failed, err)
	}
}

// bind makes Replace of either check it against the other, and checks once more
// what may have been replaced since New looked. A shadow policy, which enforces
// nothing, is checked against the roots and does not stand in their way.
func bind(r *Roots, p *Policy, field string, both bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := crossCheck(r.state.Load(), p.state.Load(), field); err != nil {
		return err
	}
	weakly := weak.Make(p)
	r.bound = slices.DeleteFunc(r.bound, func(w weak.Pointer[Policy]) bool { return w.Value() == nil })
	if both && !slices.Contains(r.bound, weakly) {
		r.bound = append(r.bound, weakly)
	}
	if b := (boundRoots{r.order, weak.Make(r)}); !slices.Contains(p.bound, b) {
		live := slices.DeleteFunc(slices.Clone(p.bound), func(b boundRoots) bool { return b.roots.Value() == nil })
		p.bound = append(live, b)
		slices.SortFunc(p.bound, func(a, b boundRoots) int { return strings.Compare(a.order, b.order) })
	}
	return nil
}

// built reports whether New made the Guard.
func (g *Guard) built() bool { return g != nil && g.evidence != nil }

func (g *Guard) now() time.Time { return g.clock() }

// Run fetches the revocation evidence of all that Roots name and of the clients
// before the last start (Config.Store), keeps evidence and DNS answers current, and
// watches files (LoadCRLs, LoadDenyList) until ctx ends, and returns ctx's error. It
// is not required: without it, what is due is refreshed in the background by the
// first request that meets it.
func (g *Guard) Run(ctx context.Context) error {
	if !g.built() {
		return denied(unbuilt())
	}
	g.running.Add(1)
	defer g.running.Add(-1)
	g.surviving(func() { g.prefetchRecent(ctx) })
	var roots *rootsState
	for {
		g.poll(g.now())
		if now := g.roots.state.Load(); now != roots {
			roots = now
			g.surviving(func() { g.prefetch(ctx) })
		}
		g.evidence.RefreshDue(ctx)
		g.warmNames()
		g.dns.RefreshDue(ctx)
		g.recent.save(g.now(), false)
		timer := time.NewTimer(g.pause())
		select {
		case <-ctx.Done():
			timer.Stop()
			g.recent.save(g.now(), true)
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// surviving runs what looks ahead: nothing in a stored or configured certificate
// may end the program.
func (g *Guard) surviving(f func()) {
	defer func() {
		if p := recover(); p != nil {
			g.panicked(nil, p)
		}
	}()
	f()
}

// poll looks at the deny list's file, at most once in a while.
func (g *Guard) poll(now time.Time) {
	if g.denied == nil {
		return
	}
	last := g.polled.Load()
	if passed := now.Sub(time.Unix(0, last)); passed >= 0 && passed < filesEvery || !g.polled.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	g.denied.poll()
}

// pause is the time until something is due, between a second and a minute: new
// sources appear with new clients.
func (g *Guard) pause() time.Duration {
	now, wait := g.now(), time.Minute
	if g.denied != nil {
		wait = filesEvery
	}
	for _, next := range []func() (time.Time, bool){g.evidence.NextDue, g.dns.NextDue} {
		if at, ok := next(); ok {
			wait = min(wait, at.Sub(now))
		}
	}
	return max(wait, time.Second)
}

// Refresh asks every known source of revocation evidence and every known name
// again, now, and waits for the answers: for "revoked just now". Live
// connections are decided anew at their next request. The error says which
// sources did not answer; what was known of them stays.
func (g *Guard) Refresh(ctx context.Context) error {
	if !g.built() {
		return denied(unbuilt())
	}
	var failed problems
	if err := g.evidence.Refresh(ctx); err != nil {
		failed = append(failed, fmt.Errorf("mtls: refresh of revocation evidence: %w", err))
	}
	if err := g.dns.Refresh(ctx); err != nil {
		failed = append(failed, fmt.Errorf("mtls: refresh of DNS answers: %w", err))
	}
	return failed.err()
}

// Ready returns nil if the Guard works with the roots, the policy, the deny list
// and the CRL files that it was last given, or the error of the last Replace or
// Reload that failed, where an earlier state is still in use, and if rules demand groups
// although there is no Config.Accounts. While Run runs it also
// says which authorities have no revocation evidence: of the CA certificates that
// Roots hold below their anchors, and from Revocation.Sources. What only a
// client's certificate names is not known before that client comes.
func (g *Guard) Ready() error {
	if !g.built() {
		return denied(unbuilt())
	}
	var failed problems
	// New has looked at this, but Replace knows of no Guard.
	groups := g.policy.state.Load().checkAccounts("Config.Policy", g.accounts)
	for _, err := range []error{g.roots.err(), g.policy.err(), groups} {
		if err != nil {
			failed = append(failed, err)
		}
	}
	if g.shadow != nil && g.shadow.err() != nil {
		failed = append(failed, g.shadow.err())
	}
	if err := g.denied.err(); err != nil {
		failed = append(failed, err)
	}
	failed = append(failed, g.filesErrs()...)
	if g.running.Load() > 0 {
		if err := g.evidenceErr(); err != nil {
			failed = append(failed, err)
		}
	}
	return failed.err()
}

// filesErrs are the errors of the CRL files in use.
func (g *Guard) filesErrs() []error {
	var errs []error
	seen := map[*CRLFiles]bool{}
	for _, a := range g.roots.state.Load().authorities {
		for _, s := range g.revocationOf(a).Sources {
			if c, ok := s.(*CRLFiles); ok && !seen[c] {
				seen[c] = true
				if err := c.err(); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return errs
}
