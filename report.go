package mtls

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"
)

func (g *Guard) newDecision(c *connInfo) *Decision {
	d := &Decision{ID: newID(), Time: g.now()}
	if c != nil {
		d.Peer = c.peer
	}
	return d
}

func unbuilt() *Decision {
	d := &Decision{ID: newID()}
	return d.refuse(ReasonInternal, Step{Name: stepRequest, Detail: "this Guard was not made by New"})
}

// panicked turns a panic into a refusal. The stack goes to the log only.
func (g *Guard) panicked(c *connInfo, p any) *Decision {
	text := safe(fmt.Sprint(p))
	stack := string(debug.Stack())
	func() {
		// The logger may be what panicked.
		defer func() { _ = recover() }()
		g.logger.Error("mtls: panic while deciding; the client is refused", "panic", text, "stack", stack)
	}()
	return g.newDecision(c).refuse(ReasonInternal, Step{Name: stepRequest, Detail: "panic: " + text})
}

// protect runs f, and turns a panic into a refusal of d.
func (g *Guard) protect(d *Decision, f func()) {
	defer func() {
		if p := recover(); p != nil {
			*d = *g.panicked(nil, p)
		}
	}()
	f()
}

// report tells the logger and the observer. If one of them panics it returns the
// refusal that follows.
func (g *Guard) report(ctx context.Context, d *Decision) (refused *Decision) {
	defer func() {
		if p := recover(); p != nil {
			refused = g.panicked(nil, p)
		}
	}()
	g.log(ctx, d)
	if g.observe != nil {
		g.observe(ctx, d.clone())
	}
	return nil
}

// log writes one record of a decision, with what an operator needs to act.
func (g *Guard) log(ctx context.Context, d *Decision) {
	level, text := slog.LevelWarn, "mtls: client refused"
	switch {
	case d.Reason == "" && d.Tolerated():
		text = "mtls: client admitted without revocation evidence (SoftFail)"
	case d.Reason == "" && d.Late():
		text = "mtls: client admitted on revocation evidence past its nextUpdate (Grace)"
	case d.Reason == "":
		level, text = slog.LevelDebug, "mtls: client admitted"
	case d.ReportOnly || d.Handshake && g.reportOnly:
		text = "mtls: client would be refused (report only)"
	}
	if !g.logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("incident", d.ID)}
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	if d.Reason != "" {
		add("reason", string(d.Reason))
		add("detail", d.Detail())
		add("advice", d.Reason.Advice())
		add("iis", d.Reason.IIS())
	}
	if d.Peer.IsValid() {
		add("peer", d.Peer.String())
	}
	add("rule", d.Rule)
	add("subject", d.Subject)
	add("names", strings.Join(d.Names, " "))
	add("serial", d.Serial)
	add("sha256", d.Hash)
	if d.Handshake {
		attrs = append(attrs, slog.Bool("handshake", true))
	}
	var steps []any
	for _, s := range d.Steps {
		steps = append(steps, slog.String(s.Name, s.text()))
	}
	attrs = append(attrs, slog.Group("steps", steps...))
	if !d.Expires.IsZero() {
		attrs = append(attrs, slog.Time("expires", d.Expires))
	}
	g.logger.LogAttrs(ctx, level, text, attrs...)
}

// text is a step on one line.
func (s Step) text() string {
	var b strings.Builder
	b.WriteString(s.Outcome.String())
	if s.Detail != "" {
		b.WriteString(": " + cut(s.Detail, 512))
	}
	for _, p := range s.Proofs {
		b.WriteString("; " + p.Kind + " " + cut(p.Source, 256) + " " + p.Status)
		if !p.Expires.IsZero() {
			b.WriteString(" until " + p.Expires.UTC().Format(time.RFC3339))
		}
		if p.Late {
			b.WriteString(" (late)")
		}
	}
	return cut(b.String(), 2048)
}
