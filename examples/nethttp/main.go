// Nethttp restricts a route of http.ServeMux to mutual-TLS clients of listed
// domains.
//
//	go run ./examples/nethttp -ca partner-cas.pem -cert server.pem -key server-key.pem
//	go run ./examples/nethttp   # everything embedded: three requests to itself
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"

	"github.com/mtlsguard/mtls"
)

// newServer returns the service. The rules are code; cfg has the rest.
func newServer(addr, caFile string, cfg mtls.Config) (*http.Server, error) {
	var err error
	if cfg.Roots, err = mtls.LoadRoots(caFile); err != nil {
		return nil, err
	}
	cfg.Policy, err = mtls.NewPolicy(
		mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"orders"}},
		mtls.Rule{Name: "globex", Domains: []string{"hooks.globex.example"}},
	)
	if err != nil {
		return nil, err
	}
	guard, err := mtls.New(cfg)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "up") })
	mux.Handle("GET /orders", guard.Require("orders")(http.HandlerFunc(orders)))
	// OptionalServer lets clients without a certificate reach /health. Were every
	// route restricted, Server would refuse them in the handshake already.
	return guard.OptionalServer(addr, mux), nil
}

func orders(w http.ResponseWriter, r *http.Request) {
	client, ok := mtls.FromContext(r.Context())
	if !ok { // only if the route is not behind the guard
		http.Error(w, "no client", http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "no orders for %s\n", client.Name())
}

func main() {
	addr := flag.String("addr", ":8443", "address to listen on")
	ca := flag.String("ca", "", "PEM file of the CAs that issue client certificates; none: the embedded demonstration")
	cert := flag.String("cert", "", "PEM file of the server's certificate")
	key := flag.String("key", "", "PEM file of its key")
	flag.Parse()
	run := func() error { return demonstrate(os.Stdout, requests()) }
	if *ca != "" || *cert != "" || *key != "" {
		run = func() error {
			server, err := newServer(*addr, *ca, mtls.Config{})
			if err != nil {
				return err
			}
			return server.ListenAndServeTLS(*cert, *key)
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
