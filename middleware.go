package mtls

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/identity"
	"github.com/mtlsguard/mtls/internal/ipaddr"
)

type connKey struct{}

// connInfo is what ConnContext captures of a connection.
type connInfo struct {
	peer, local netip.Addr // canonical; invalid where unknown
	remote      string     // what the connection has instead of a peer's address
	verdict     verdictSlot
}

// ConnContext captures the peer's address from the connection, before any
// handler runs: it is the value for http.Server.ConnContext. Neither
// http.Request.RemoteAddr nor any header is ever read for it, because other
// middleware rewrites them. Without it every origin is unknown, and refused.
func (g *Guard) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, g.newConnInfo(c.RemoteAddr(), c.LocalAddr()))
}

func (g *Guard) newConnInfo(remote, local net.Addr) *connInfo {
	info := &connInfo{}
	var nat64 []netip.Prefix
	if g != nil {
		nat64 = g.nat64
	}
	if a, ok := ipaddr.FromNetAddr(remote); ok {
		info.peer = ipaddr.FromNAT64(nat64, a.Addr())
	}
	if !info.peer.IsValid() && remote != nil {
		info.remote = remote.String()
	}
	if a, ok := ipaddr.FromNetAddr(local); ok {
		info.local = ipaddr.FromNAT64(nat64, a.Addr())
	}
	return info
}

// Handler returns next behind the guard: it is called for admitted clients
// only, with their Identity in the request's context. It works on the
// certificates of r.TLS whatever the tls.Config was, and decides every request
// anew, nearly always from what it knows already.
func (g *Guard) Handler(next http.Handler) http.Handler { return g.guard(next, nil) }

// Require returns a middleware, for chi's Use and With or to wrap a handler of
// http.ServeMux, that admits the clients that Handler admits and whose rule has
// one of the roles. With no roles it is Handler.
func (g *Guard) Require(roles ...string) func(http.Handler) http.Handler {
	roles = slices.Clone(roles)
	return func(next http.Handler) http.Handler { return g.guard(next, roles) }
}

func (g *Guard) guard(next http.Handler, roles []string) http.Handler {
	if g.built() {
		g.attached.Store(true)
		if len(roles) > 0 && !g.policy.state.Load().hasRole(roles) {
			g.logger.Warn("mtls: no rule has a role that a route requires; as it is, nobody can use the route", "roles", roles)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		in := input{request: r, tls: r.TLS, roles: roles}
		in.conn, _ = r.Context().Value(connKey{}).(*connInfo)
		v, d := g.evaluate(r.Context(), in)
		switch {
		case d == nil:
			next.ServeHTTP(w, r.WithContext(identity.NewContext(r.Context(), v.any)))
		case d.ReportOnly:
			// An outer guard's identity must not show through either.
			next.ServeHTTP(w, r.WithContext(identity.NewContext(r.Context(), nil)))
		default:
			g.answer(w, r, denied(d))
		}
	})
}

// A Peer is one side of a TLS connection, for Check.
type Peer struct {
	TLS        tls.ConnectionState
	RemoteAddr net.Addr // nil: unknown, and so is every origin
	LocalAddr  net.Addr
}

// PeerOf returns the Peer of a connection whose handshake is complete.
func PeerOf(c *tls.Conn) Peer {
	return Peer{TLS: c.ConnectionState(), RemoteAddr: c.RemoteAddr(), LocalAddr: c.LocalAddr()}
}

// Check decides on a peer as Handler does, for servers that do not speak HTTP.
// The error is a *DeniedError unless the peer is admitted; in report-only mode it
// is nil, and Decision.Admitted tells. A connection whose handshake is not
// complete is refused, since its client has proved nothing yet. Servers that use
// Check let the handshake complete with OptionalTLSConfig.
func (g *Guard) Check(ctx context.Context, p Peer) (*Decision, error) {
	if g.built() {
		g.attached.Store(true)
	}
	v, d := g.evaluate(ctx, input{tls: &p.TLS, conn: g.newConnInfo(p.RemoteAddr, p.LocalAddr)})
	switch {
	case d == nil:
		return v.decision.clone(), nil
	case d.ReportOnly:
		return d.clone(), nil
	}
	return d.clone(), denied(d)
}

// input is what the request phase decides on.
type input struct {
	request *http.Request // nil: not HTTP
	tls     *tls.ConnectionState
	conn    *connInfo
	roles   []string
}

// evaluate returns a verdict, or the decision that refuses.
func (g *Guard) evaluate(ctx context.Context, in input) (*verdict, *Decision) {
	if !g.built() {
		return nil, unbuilt()
	}
	for range maxTries {
		v, fresh, d := g.consider(ctx, in)
		observed := true
		switch {
		case d != nil:
			d.ReportOnly = g.reportOnly
			observed = g.report(ctx, d) == nil
		case fresh:
			if d = g.report(ctx, v.decision); d != nil {
				d.ReportOnly = g.reportOnly
				observed = false
			}
		}
		if fresh && v != nil && observed {
			g.keep(in.conn, v)
		}
		if d != nil {
			return nil, d
		}
		// Verify and Observe may have taken their time.
		if v.holds() {
			return v, nil
		}
	}
	d := g.newDecision(in.conn).refuse(ReasonInternal, Step{Name: stepRequest, Detail: changing})
	d.ReportOnly = g.reportOnly
	g.report(ctx, d)
	return nil, d
}

// consider runs every check of the request phase. With a refusal it may return
// the verdict about the client all the same. A panic in any check, ours or a
// caller's, refuses.
func (g *Guard) consider(ctx context.Context, in input) (v *verdict, fresh bool, d *Decision) {
	defer func() {
		if p := recover(); p != nil {
			v, d = nil, g.panicked(in.conn, p)
		}
	}()
	if in.tls == nil || !in.tls.HandshakeComplete {
		return nil, false, g.newDecision(in.conn).refuse(ReasonNoCertificate, Step{Name: stepRequest, Detail: "no TLS connection with a complete handshake"})
	}
	if sni := in.tls.ServerName; in.request != nil && sni != "" && in.request.Host != sni && in.request.Host != "" {
		if host := dnsname.FoldHost(in.request.Host); host != dnsname.FoldHost(sni) {
			return nil, false, g.newDecision(in.conn).refuse(ReasonMisdirected, Step{Name: stepRequest,
				Detail: fmt.Sprintf("Host %s on a connection to %s", quote(in.request.Host), quote(sni))})
		}
	}
	v, fresh, d = g.verdictFor(ctx, in.conn, in.tls.PeerCertificates, in.tls.OCSPResponse)
	if d != nil {
		return nil, fresh, d
	}
	if len(in.roles) > 0 && !slices.ContainsFunc(in.roles, v.identity.HasRole) {
		return v, fresh, g.reconsider(v).refuse(ReasonRoleMissing, Step{Name: stepRole,
			Detail: fmt.Sprintf("the route asks for one of %q; rule %s has %q", in.roles, quote(v.identity.data.Rule), v.identity.data.Roles)})
	}
	if g.verify != nil {
		if err := g.verify(ctx, v.identity); err != nil {
			return v, fresh, g.reconsider(v).refuse(ReasonConditionFailed, Step{Name: stepCondition, Detail: safe(err.Error())})
		}
	}
	return v, fresh, nil
}

// reconsider starts a decision about a request from a verdict about its client.
func (g *Guard) reconsider(v *verdict) *Decision {
	d := v.decision.clone()
	d.ID, d.Time = newID(), g.now()
	return d
}

// problem is the answer to a refused request (RFC 9457).
type problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail"`
	Instance string `json:"instance"`
	Code     string `json:"code"`
}

// answer refuses a request. It tells the client that it was refused, a coarse
// code, and the incident's ID, with which the operator finds the rest.
func (g *Guard) answer(w http.ResponseWriter, r *http.Request, e *DeniedError) {
	h := w.Header()
	if e.Reason.fact().close {
		h.Set("Connection", "close")
	}
	if e.Undetermined() {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(max(e.RetryAfter, time.Second).Seconds()))))
	}
	h.Set("Cache-Control", "no-store")
	if g.built() && g.deny != nil {
		g.deny(w, r, e)
		return
	}
	detail := "The client was refused. Quote the incident when asking why."
	if e.Undetermined() {
		detail = "The client could not be checked just now. Try again later; quote the incident when asking why."
	}
	status := e.Reason.Status()
	body, err := json.Marshal(problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail,
		Instance: "urn:uuid:" + e.ID, Code: e.Reason.Code(),
	})
	if err != nil { // strings and a number always marshal
		body = nil
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may be gone
}
