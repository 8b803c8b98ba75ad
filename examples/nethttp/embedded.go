package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// A request is one of the demonstration, with the status that it should have.
type request struct {
	path   string
	client string // "acme" has a certificate, others have none
	status int
}

func requests() []request {
	return []request{{"/health", "anybody", 200}, {"/orders", "anybody", 403}, {"/orders", "acme", 200}}
}

// demonstrate makes a CA, a revocation server and a DNS server, starts the
// service and sends it the requests. It returns an error where a status is not
// as it should be.
func demonstrate(out io.Writer, list []request) error {
	return mtlstest.Run(func(t mtlstest.TB) {
		dns := mtlstest.NewDNS(t)
		dns.Set("api.acme.example", "127.0.0.1")
		ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
		mtlstest.NewRevocationServer(t, nil).Serve(ca)
		acme := ca.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}})

		server, err := newServer("", ca.PEMFile(), mtls.Config{
			Resolver: dns.Resolver(),
			// Loopback is a special-use network: it is welcome because it is named.
			Origin:     &mtls.Origin{AllowNetworks: mtlstest.Loopback()},
			Revocation: &mtls.Revocation{AllowNetworks: mtlstest.Loopback()},
			Logger:     slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatalf("%v", err)
		}
		s := mtlstest.Serve(t, server)
		certs := map[string]*mtlstest.Certificate{"acme": acme}
		for _, r := range list {
			res, err := s.Client(certs[r.client], mtlstest.ClientOptions{}).Get(s.URL + r.path)
			if err != nil {
				t.Fatalf("%v", err)
			}
			res.Body.Close()
			fmt.Fprintf(out, "GET %s by %s: %d\n", r.path, r.client, res.StatusCode)
			if res.StatusCode != r.status {
				t.Fatalf("the status should be %d", r.status)
			}
		}
	})
}
