// Quickstart is a REST API that is open to mutual-TLS clients of listed domains
// only, together with everything it needs to be tried out: a certificate
// authority, a revocation server and a DNS server, on loopback.
//
//	go run ./examples/quickstart           # one request for every kind of outcome
//	go run ./examples/quickstart -serve    # keep it running, for curl
//
// Start reading here: newGuard and routes are what a service has to write.
// world.go makes the surroundings that a service finds ready, and outcomes.go
// plays the clients. One of them connects from 127.0.0.2, which macOS knows only
// after "sudo ifconfig lo0 alias 127.0.0.2".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-chi/chi/v5"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// newGuard says who may use the API: clients whose certificate is issued by a CA
// of the file, for a domain of a rule, is provably not revoked, and that connect
// from an address of that domain.
func newGuard(caFile string, resolver mtls.Resolver, log *slog.Logger, observe func(context.Context, *mtls.Decision)) (*mtls.Guard, error) {
	roots, err := mtls.LoadRoots(caFile)
	if err != nil {
		return nil, err
	}
	policy, err := mtls.NewPolicy(
		mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"orders", "payments"}},
		mtls.Rule{Name: "globex", Domains: []string{"hooks.globex.example"}, Roles: []string{"orders"}},
		mtls.Rule{Name: "umbrella", Domains: []string{"erp.umbrella.example"}, Roles: []string{"orders"}},
		mtls.Rule{Name: "contract ended", Domains: []string{"api.initech.example"}, Deny: true},
	)
	if err != nil {
		return nil, err
	}
	// Loopback is never a partner's address and never a place to fetch a CRL from,
	// unless it is named. Partners on the Internet need neither of the two lines.
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	return mtls.New(mtls.Config{
		Roots:      roots,
		Policy:     policy,
		Origin:     &mtls.Origin{AllowNetworks: loopback},
		Revocation: &mtls.Revocation{AllowNetworks: loopback},
		Resolver:   resolver, // a service leaves it out: the system's DNS servers
		Logger:     log,
		Observe:    observe,
	})
}

// routes is the API: a public route, and two that ask for a role.
func routes(guard *mtls.Guard) http.Handler {
	r := chi.NewRouter()
	r.Get("/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "up") })
	r.With(guard.Require("orders")).Get("/orders", greet)
	r.With(guard.Require("payments")).Get("/payments", greet)
	return r
}

// greet runs for admitted clients only, and knows who they are.
func greet(w http.ResponseWriter, r *http.Request) {
	client, ok := mtls.FromContext(r.Context())
	if !ok { // only if the route is not behind the guard
		http.Error(w, "no client", http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "hello %s, with a certificate for %s, from %s\n", client.Name(), client.Domain(), client.PeerAddr())
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program; it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	serve := flags.Bool("serve", false, "keep running, and print curl commands")
	verbose := flags.Bool("v", false, "write the guard's log to standard error")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}

	err := mtlstest.Run(func(t mtlstest.TB) {
		if err := tryOut(ctx, t, stdout, log, *serve); err != nil {
			t.Fatalf("%v", err)
		}
	})
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// tryOut starts the API in a world of its own, and plays every outcome or leaves
// that to curl until ctx ends.
func tryOut(ctx context.Context, t mtlstest.TB, stdout io.Writer, log *slog.Logger, serve bool) error {
	w := newWorld(t)
	operator := &operator{}
	guard, err := newGuard(w.caFile, w.dns.Resolver(), log, operator.observe)
	if err != nil {
		return err
	}
	// Run keeps evidence and addresses current ahead of the requests. A service
	// works without it, and its clients then wait now and then.
	go guard.Run(ctx)

	// A service writes, and is done:
	//
	//	guard.OptionalServer(":8443", routes(guard)).ListenAndServeTLS("server.pem", "server-key.pem")
	//
	// Here mtlstest brings the server's certificate and picks the port. The strict
	// server has no public routes: it refuses in the handshake whom it can.
	api := mtlstest.Serve(t, guard.OptionalServer("", routes(guard)))
	strict := mtlstest.Serve(t, guard.Server("", routes(guard)))

	list := outcomes(w, guard, api, strict)
	if serve {
		if err := printCommands(stdout, t.TempDir(), list); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	if !printTable(ctx, stdout, operator, list) {
		return errors.New("not every outcome is as wanted")
	}
	return nil
}
