package mtls

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Server returns an http.Server all of whose clients must be admitted: h behind
// Handler, TLSConfig, ConnContext, an ErrorLog that records refused handshakes,
// HTTP/2, and timeouts for handshakes, headers and idle connections. Its fields
// may be changed; ListenAndServeTLS starts it.
func (g *Guard) Server(addr string, h http.Handler) *http.Server {
	s := g.server(addr, g.Handler(h))
	s.TLSConfig = g.TLSConfig(nil)
	return s
}

// OptionalServer returns an http.Server that also serves clients without a
// certificate: h is not behind Handler, and Require restricts the routes it
// wraps. It is otherwise as Server.
func (g *Guard) OptionalServer(addr string, h http.Handler) *http.Server {
	s := g.server(addr, h)
	s.TLSConfig = g.OptionalTLSConfig(nil)
	return s
}

func (g *Guard) server(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr:        addr,
		Handler:     h,
		ConnContext: g.ConnContext,
		ErrorLog:    log.New(&handshakeLog{g}, "", 0),
		// It is the deadline of the TLS handshake, too: without one a client that
		// sends nothing holds a connection for ever (CVE-2026-73500).
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 100},
	}
}

// handshakeLog is the writer of Server's ErrorLog. It turns what net/http says
// about failed handshakes into records: a refusal that crypto/tls makes by
// itself reaches no hook.
type handshakeLog struct{ g *Guard }

const handshakePrefix = "http: TLS handshake error from "

// Write takes one line of net/http. What a peer sent may be part of it.
func (l *handshakeLog) Write(line []byte) (int, error) {
	logger := slog.Default()
	if l.g.built() {
		logger = l.g.logger
	}
	text := string(bytes.TrimSpace(line))
	rest, ok := strings.CutPrefix(text, handshakePrefix)
	if !ok {
		logger.Warn("mtls: http server", "error", safe(text))
		return len(line), nil
	}
	addr, cause, _ := strings.Cut(rest, ": ")
	reason := handshakeReason(cause)
	switch {
	case strings.HasPrefix(cause, "mtls: "):
		// The hook has reported it, without the address, which it cannot see.
		logger.Info("mtls: refused in the handshake", "peer", safe(addr), "error", safe(cause))
	case reason == "" || !l.g.built():
		logger.Info("mtls: handshake failed", "peer", safe(addr), "error", safe(cause))
	default:
		d := l.g.newDecision(nil)
		d.Handshake = true
		d.refuse(reason, Step{Name: stepLimits, Detail: "connection from " + safe(addr) + ": " + safe(cause)})
		l.g.report(context.Background(), d)
	}
	return len(line), nil
}

// handshakeReason recognises the refusals of crypto/tls, which are known by
// their text alone; one that is not recognised is recorded without a reason.
func handshakeReason(cause string) Reason {
	switch {
	case strings.HasPrefix(cause, "tls: client didn't provide a certificate"):
		return ReasonNoCertificate
	case strings.HasPrefix(cause, "tls: failed to parse client certificate"),
		strings.HasPrefix(cause, "tls: client sent certificate containing RSA key"),
		strings.HasPrefix(cause, "tls: client certificate contains an unsupported public key"),
		strings.HasPrefix(cause, "tls: client certificate used with invalid signature algorithm"),
		strings.HasPrefix(cause, "tls: invalid signature by the client certificate"):
		return ReasonMalformedCertificate
	}
	return ""
}
