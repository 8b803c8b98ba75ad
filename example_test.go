package mtls_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/go-chi/chi/v5"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// Who may issue certificates, who may call, and a guard of both.
func ExampleNew() {
	example(func(t mtlstest.TB) {
		file := mtlstest.NewCA(t, mtlstest.CAOptions{}).PEMFile()

		roots, err := mtls.LoadRoots(file)
		if err != nil {
			log.Fatal(err)
		}
		policy, err := mtls.NewPolicy(
			mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"payments"}},
			mtls.Rule{Name: "globex", Domains: []string{"hooks.globex.example"}},
		)
		if err != nil {
			log.Fatal(err)
		}
		guard, err := mtls.New(mtls.Config{Roots: roots, Policy: policy})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("not ready because:", guard.Ready())
	})
	// Output: not ready because: <nil>
}

// A file that is missing is an error, and never trust in something else.
func ExampleLoadRoots() {
	_, err := mtls.LoadRoots("no-such-file.pem")
	fmt.Println(err)
	fmt.Println(errors.Is(err, os.ErrNotExist))
	// Output:
	// mtls: CA file: "no-such-file.pem": cannot be read: open no-such-file.pem: no such file or directory
	// true
}

func ExampleNewPolicy() {
	hash, err := mtls.ParseCertificateHash("3f:1b:0c:77:52:9e:a1:6d:84:c0:2e:95:f8:13:6a:b7:40:dd:5c:21:98:e6:03:7f:ba:49:d5:10:6e:82:f4:cb")
	if err != nil {
		log.Fatal(err)
	}
	_, err = mtls.NewPolicy(
		// The certificate holds the name, and the connection comes from its addresses.
		mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}},
		// As above, but globex sends from elsewhere.
		mtls.Rule{Name: "globex", Domains: []string{"hooks.globex.example"},
			Origin: &mtls.Origin{Hosts: []string{"egress.globex.example"}}},
		// This very certificate, from anywhere (one-to-one).
		mtls.Rule{Name: "initech", Certificates: []mtls.CertificateHash{hash}, Origin: mtls.NoOrigin()},
		// Whatever else says otherwise.
		mtls.Rule{Name: "left us", Deny: true, Domains: []string{"*.umbrella.example"}},
	)
	fmt.Println(err)
	// Output: <nil>
}

// All problems are reported at once.
func ExampleNewPolicy_incorrect() {
	_, err := mtls.NewPolicy(
		mtls.Rule{Name: "everybody"},
		mtls.Rule{Name: "a URL", Domains: []string{"https://api.acme.example"}},
		mtls.Rule{Name: "half the country", Domains: []string{"*.co.uk"}, Origin: mtls.NoOrigin()},
		mtls.Rule{Name: "a wildcard from nowhere", Domains: []string{"*.acme.example"}},
	)
	fmt.Println(err)
	// Output:
	// mtls: Policy: rule "everybody": it would admit every client of every trusted CA; InsecureAnyClient says so by name
	// mtls: Policy: rule "everybody": Origin: a rule without an exact domain has none to look up: state an Origin with Hosts, Prefixes or ReverseSuffixes, or NoOrigin()
	// mtls: Policy: rule "a URL": Domains[0]: "https://api.acme.example": not a domain for a rule: "https://api.acme.example" is not a domain name: a byte that host names do not have
	// mtls: Policy: rule "half the country": Domains[0]: "*.co.uk": not a domain for a rule: a wildcard directly under a public suffix would admit strangers
	// mtls: Policy: rule "a wildcard from nowhere": Origin: a rule without an exact domain has none to look up: state an Origin with Hosts, Prefixes or ReverseSuffixes, or NoOrigin()
}

// The whole server. Its fields may be changed before it starts.
func ExampleGuard_Server() {
	example(func(t mtlstest.TB) {
		guard, _ := exampleGuard(t)

		server := guard.Server(":8443", http.NotFoundHandler())
		fmt.Println(server.TLSConfig.ClientAuth, server.ReadHeaderTimeout)
		// log.Fatal(server.ListenAndServeTLS("server.pem", "server-key.pem"))
	})
	// Output: RequireAnyClientCert 10s
}

// A server with public routes: Require restricts what it wraps.
func ExampleGuard_OptionalServer() {
	example(func(t mtlstest.TB) {
		guard, acme := exampleGuard(t)

		r := chi.NewRouter()
		r.Get("/health", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "well") })
		r.With(guard.Require()).Get("/orders", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "none") })

		s := mtlstest.Serve(t, guard.OptionalServer("", r))
		stranger := s.Client(nil, mtlstest.ClientOptions{})
		fmt.Println(exampleGet(stranger, s.URL+"/health"))
		fmt.Println(exampleGet(stranger, s.URL+"/orders"))
		fmt.Println(exampleGet(s.Client(acme, mtlstest.ClientOptions{}), s.URL+"/orders"))
	})
	// Output:
	// 200 well
	// 403 no_certificate
	// 200 none
}

// Routes by role, with chi.
func ExampleGuard_Require() {
	example(func(t mtlstest.TB) {
		guard, acme := exampleGuard(t)

		r := chi.NewRouter()
		r.Use(guard.Require()) // everybody on the list
		r.With(guard.Require("payments")).Get("/payments", func(w http.ResponseWriter, r *http.Request) {
			id, _ := mtls.FromContext(r.Context())
			fmt.Fprintf(w, "%s pays", id.Name())
		})
		r.With(guard.Require("audit", "admin")).Get("/audit", func(w http.ResponseWriter, r *http.Request) {})

		s := mtlstest.NewServer(t, guard, r)
		client := s.Client(acme, mtlstest.ClientOptions{})
		fmt.Println(exampleGet(client, s.URL+"/payments"))
		fmt.Println(exampleGet(client, s.URL+"/audit"))
	})
	// Output:
	// 200 acme pays
	// 403 role_missing
}

// A server that is built by hand needs these three.
func ExampleGuard_Handler() {
	example(func(t mtlstest.TB) {
		guard, acme := exampleGuard(t)

		mux := http.NewServeMux()
		mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
			id, _ := mtls.FromContext(r.Context())
			fmt.Fprintf(w, "hello %s of %s", id.Name(), id.Domain())
		})
		server := &http.Server{
			Handler:     guard.Handler(mux),
			TLSConfig:   guard.TLSConfig(nil),
			ConnContext: guard.ConnContext,
		}

		s := mtlstest.Serve(t, server)
		fmt.Println(exampleGet(s.Client(acme, mtlstest.ClientOptions{}), s.URL+"/hello"))
	})
	// Output: 200 hello acme of api.acme.example
}

// Proxies describe a client in headers, and so can the client. Acme's
// certificate is used from another address than acme's, with headers that
// claim the right one; then no certificate is used, with headers that claim
// acme's. They change nothing.
func ExampleGuard_Handler_forgedHeaders() {
	example(func(t mtlstest.TB) {
		guard, acme := exampleGuard(t)
		s := mtlstest.Serve(t, guard.OptionalServer("", guard.Handler(exampleHello)))

		forged := http.Header{
			"X-Forwarded-For":         {"127.0.0.1"},
			"Forwarded":               {"for=127.0.0.1"},
			"X-Real-Ip":               {"127.0.0.1"},
			"X-Forwarded-Client-Cert": {"Hash=00;DNS=api.acme.example"},
			"Client-Cert":             {":" + exampleBase64(acme) + ":"}, // RFC 9440
			"X-Ssl-Client-Verify":     {"SUCCESS"},
		}
		fmt.Println(exampleGetWith(s.Client(acme, mtlstest.ClientOptions{From: "127.0.0.2"}), s.URL, forged))
		fmt.Println(exampleGetWith(s.Client(nil, mtlstest.ClientOptions{}), s.URL, forged))
		fmt.Println(exampleGetWith(s.Client(acme, mtlstest.ClientOptions{}), s.URL, nil))
	})
	// Output:
	// 403 origin_mismatch
	// 403 no_certificate
	// 200 hello acme
}

// A server that does not speak HTTP.
func ExampleGuard_Check() {
	example(func(t mtlstest.TB) {
		guard, acme := exampleGuard(t)

		serve := func(ctx context.Context, conn *tls.Conn) error {
			if err := conn.HandshakeContext(ctx); err != nil {
				return err
			}
			decision, err := guard.Check(ctx, mtls.PeerOf(conn)) // again before each piece of work
			if err != nil {
				return err
			}
			fmt.Println("admitted:", decision.Identity.Name())
			for _, step := range decision.Steps {
				fmt.Println(step.Name, step.Outcome)
			}
			return nil
		}

		if err := exampleConnect(t, guard, acme, serve); err != nil {
			fmt.Println(err)
		}
	})
	// Output:
	// admitted: acme
	// limits pass
	// chain pass
	// rule pass
	// origin pass
	// revocation pass
}

// What a base has is kept, and its callbacks run after the guard's.
func ExampleGuard_TLSConfig() {
	example(func(t mtlstest.TB) {
		guard, _ := exampleGuard(t)

		conf := guard.TLSConfig(&tls.Config{
			NextProtos: []string{"h2", "http/1.1"},
			VerifyConnection: func(tls.ConnectionState) error {
				fmt.Println("not reached: the guard refuses first")
				return nil
			},
		})
		var denied *mtls.DeniedError
		err := conf.VerifyConnection(tls.ConnectionState{}) // without a certificate
		fmt.Println(errors.As(err, &denied) && denied.Reason == mtls.ReasonNoCertificate)
		fmt.Println(conf.NextProtos, conf.SessionTicketsDisabled)
	})
	// Output:
	// true
	// [h2 http/1.1] true
}

// Handlers read who calls; in unit tests mtlstest says who does.
func ExampleFromContext() {
	example(func(t mtlstest.TB) {
		handler := func(w http.ResponseWriter, r *http.Request) {
			id, ok := mtls.FromContext(r.Context())
			if !ok {
				http.Error(w, "no identity", http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, "%s, %s, %t", id.Name(), id.Domain(), id.HasRole("payments"))
		}

		w := httptest.NewRecorder()
		handler(w, mtlstest.NewRequest(t, "GET", "/", nil,
			mtlstest.Identity{Rule: "acme", Domain: "api.acme.example", Roles: []string{"payments"}}))
		fmt.Println(w.Body)

		w = httptest.NewRecorder()
		handler(w, httptest.NewRequest("GET", "/", nil)) // nobody's guard has seen it
		fmt.Println(w.Code)
	})
	// Output:
	// acme, api.acme.example, true
	// 403
}

// Partners come and go while connections are open. The rules are replaced all or
// not at all.
func ExamplePolicy_Replace() {
	example(func(t mtlstest.TB) {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("api.acme.example", "127.0.0.1")
		config := env.Config(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}})
		config.Logger = slog.New(slog.DiscardHandler)
		guard := mtlstest.NewGuard(t, config)

		s := mtlstest.NewServer(t, guard, exampleHello)
		client := s.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}}), mtlstest.ClientOptions{})
		fmt.Println(exampleGet(client, s.URL))

		err := config.Policy.Replace() // no rules: surely a mistake
		fmt.Println(err)
		fmt.Println(exampleGet(client, s.URL), guard.Ready() != nil)

		if err := config.Policy.Replace(mtls.Rule{Name: "globex", Domains: []string{"hooks.globex.example"}}); err != nil {
			log.Fatal(err)
		}
		fmt.Println(exampleGet(client, s.URL)) // the same connection
	})
	// Output:
	// 200 hello acme
	// mtls: Policy: no rules: nobody could be admitted; DenyAll says so by name
	// 200 hello acme true
	// 403 not_allowed
}
