// Fromiis is a service that moved away from IIS. Its policy, policy.yaml, is what
//
//	mtlsctl import-iis --authority partners -o policy.yaml applicationHost.config
//
// made of the client certificate mappings in applicationHost.config.
//
//	go run ./examples/fromiis   # everything embedded: a request of each kind of client
//
// Start reading here: newServer is what a service has to write. clients.go makes the
// surroundings and plays the clients.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/go-chi/chi/v5"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// newServer returns the service: the CAs that IIS had in the machine's store are in a
// file, the mappings are in another, and cfg has the rest.
func newServer(ctx context.Context, addr, caFile, policyFile string, cfg mtls.Config) (*http.Server, error) {
	partners, err := mtls.LoadAuthority(caFile)
	if err != nil {
		return nil, err
	}
	partners.Name = "partners" // as the rules have it
	if cfg.Roots, err = mtls.NewRoots(partners); err != nil {
		return nil, err
	}
	file, err := policyfile.Load(policyFile)
	if err != nil {
		return nil, err
	}
	cfg.Policy = file.Policy()
	guard, err := mtls.New(cfg)
	if err != nil {
		return nil, err
	}
	go file.Watch(ctx) // takes changes of the file without a restart
	go guard.Run(ctx)

	r := chi.NewRouter()
	r.Use(guard.Require())
	r.Get("/whoami", func(w http.ResponseWriter, r *http.Request) {
		client, ok := mtls.FromContext(r.Context())
		if !ok { // only if the route is not behind the guard
			http.Error(w, "no client", http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, client.Name()) // the account that IIS mapped the client to
	})
	// As with SslNegotiateCert, every handshake completes and the answer is HTTP.
	// Server refuses in the handshake already.
	return guard.OptionalServer(addr, r), nil
}

func main() {
	if err := demonstrate(context.Background(), os.Stdout, clients()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
