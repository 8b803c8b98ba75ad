package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// An outcome is one request, and what should come of it.
type outcome struct {
	name   string
	server *mtlstest.Server
	path   string
	cert   *mtlstest.Certificate // nil: the client has none
	from   string                // its address; empty: 127.0.0.1
	want   string                // as answer.String has it
	reason mtls.Reason           // empty: admitted, or a public route
	// before, if not nil, happens first; the request then goes out on the
	// connection of the outcome above.
	before func(context.Context) error
}

func outcomes(w *world, guard *mtls.Guard, api, strict *mtlstest.Server) []outcome {
	revokeSoon := func(ctx context.Context) error {
		w.revocation.Revoke(w.soon, 5) // cessationOfOperation
		return guard.Refresh(ctx)
	}
	return []outcome{
		{name: "allowed", server: api, path: "/orders", cert: w.acme, want: "200"},
		{name: "public route", server: api, path: "/health", want: "200"},
		{name: "no certificate", server: api, path: "/orders", want: "403", reason: mtls.ReasonNoCertificate},
		{name: "unknown CA", server: api, path: "/orders", cert: w.forged, want: "403", reason: mtls.ReasonUntrustedIssuer},
		{name: "expired", server: api, path: "/orders", cert: w.expired, want: "403", reason: mtls.ReasonExpired},
		{name: "not on the list", server: api, path: "/orders", cert: w.stranger, want: "403", reason: mtls.ReasonNotAllowed},
		{name: "denied by a rule", server: api, path: "/orders", cert: w.initech, want: "403", reason: mtls.ReasonDeniedByRule},
		{name: "revoked, says the CRL", server: api, path: "/orders", cert: w.crlRevoked, want: "403", reason: mtls.ReasonRevoked},
		{name: "revoked, says OCSP", server: api, path: "/orders", cert: w.ocspRevoked, want: "403", reason: mtls.ReasonRevoked},
		{name: "wrong address", server: api, path: "/orders", cert: w.acme, from: "127.0.0.2", want: "403", reason: mtls.ReasonOriginMismatch},
		{name: "role missing", server: api, path: "/payments", cert: w.globex, want: "403", reason: mtls.ReasonRoleMissing},
		{name: "about to be revoked", server: api, path: "/orders", cert: w.soon, want: "200"},
		{name: "revoked meanwhile", server: api, path: "/orders", cert: w.soon, want: "403, same connection", reason: mtls.ReasonRevoked, before: revokeSoon},
		{name: "responder down", server: api, path: "/orders", cert: w.silent, want: "503, Retry-After", reason: mtls.ReasonRevocationUnknown},
		{name: "DNS down", server: api, path: "/orders", cert: w.umbrella, want: "503, Retry-After", reason: mtls.ReasonOriginUnknown},
		{name: "strict server, allowed", server: strict, path: "/orders", cert: w.acme, want: "200"},
		{name: "strict server, not on the list", server: strict, path: "/orders", cert: w.stranger, want: "alert: bad certificate", reason: mtls.ReasonNotAllowed},
	}
}

// operator is the operator's side: the last decision that was observed.
type operator struct {
	mu   sync.Mutex
	last *mtls.Decision
}

// observe is for mtls.Config.Observe.
func (o *operator) observe(_ context.Context, d *mtls.Decision) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = d
}

// reason looks up why the client was refused. A problem document names its
// incident; an alert names nothing, and the last decision is its own.
func (o *operator) reason(a answer) (mtls.Reason, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if a.alert == "" && a.incident == "" {
		return "", nil // not refused
	}
	if o.last == nil || a.incident != "" && o.last.ID != a.incident {
		return "", errors.New("the refusal was not observed")
	}
	return o.last.Reason, nil
}

// answer is what the client sees.
type answer struct {
	status     int
	alert      string // the TLS alert that ended the handshake
	code       string // what the problem document tells
	incident   string
	same       bool // the connection was there before
	retryAfter bool
}

// String has everything about the answer but what the document tells.
func (a answer) String() string {
	s := strconv.Itoa(a.status)
	if a.alert != "" {
		s = "alert: " + a.alert
	}
	if a.same {
		s += ", same connection"
	}
	if a.retryAfter {
		s += ", Retry-After"
	}
	return s
}

// client returns the outcome's client.
func (o outcome) client() *http.Client {
	// In TLS 1.3 a client sends its certificate and its request at once, so that a
	// refusal reaches it as an alert or, if it was still sending, as a reset. In
	// TLS 1.2 it waits, and always sees the alert.
	options := mtlstest.ClientOptions{From: o.from}
	if strings.HasPrefix(o.want, "alert") {
		options.TLS = func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	}
	return o.server.Client(o.cert, options)
}

// ask sends the request.
func (o outcome) ask(ctx context.Context, client *http.Client) (answer, error) {
	var a answer
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(c httptrace.GotConnInfo) { a.same = c.Reused },
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, o.server.URL+o.path, nil)
	if err != nil {
		return a, err
	}
	res, err := client.Do(r)
	if alert := new(net.OpError); errors.As(err, &alert) && alert.Op == "remote error" { // what crypto/tls says of an alert
		a.alert = strings.TrimPrefix(alert.Err.Error(), "tls: ")
		return a, nil
	}
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	a.status, a.retryAfter = res.StatusCode, res.Header.Get("Retry-After") != ""
	body, err := io.ReadAll(res.Body)
	if err != nil || res.Header.Get("Content-Type") != "application/problem+json" {
		return a, err
	}
	var problem struct{ Code, Instance string }
	if err := json.Unmarshal(body, &problem); err != nil {
		return a, err
	}
	a.code, a.incident = problem.Code, strings.TrimPrefix(problem.Instance, "urn:uuid:")
	return a, nil
}

// play sends the request of the outcome with the client, and looks up the
// operator's reason for the answer.
func (o outcome) play(ctx context.Context, client *http.Client, operator *operator) (answer, mtls.Reason, error) {
	if o.before != nil {
		if err := o.before(ctx); err != nil {
			return answer{}, "", err
		}
	}
	a, err := o.ask(ctx, client)
	if err != nil {
		return a, "", err
	}
	reason, err := operator.reason(a)
	return a, reason, err
}

// printTable plays every outcome, prints a line about each, and reports whether
// all were as wanted.
func printTable(ctx context.Context, out io.Writer, operator *operator, list []outcome) bool {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer table.Flush()
	fmt.Fprintln(table, "OUTCOME\tWANTED\tCLIENT GETS\tCLIENT IS TOLD\tOPERATOR SEES\tRESULT")
	all := true
	var client *http.Client
	for _, o := range list {
		if o.before == nil {
			client = o.client()
		}
		verdict := "ok"
		a, reason, err := o.play(ctx, client, operator)
		switch {
		case err != nil:
			verdict = "NOT OK: " + err.Error()
		case a.String() != o.want:
			verdict = "NOT OK"
		case reason != o.reason:
			verdict = "NOT OK: the reason should be " + or(string(o.reason), "none")
		}
		all = all && verdict == "ok"
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", o.name, o.want, a, or(a.code, "-"), or(string(reason), "-"), verdict)
	}
	return all
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}
