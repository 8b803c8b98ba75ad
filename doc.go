// Package mtls admits to an HTTP API only the mutual-TLS clients of listed
// domains: the certificate is issued to a domain on the list, it is known not to
// be revoked, and the connection comes from that domain. What cannot be
// determined is refused.
//
//	roots, err := mtls.LoadRoots("partner-cas.pem") // who may issue certificates
//	if err != nil {
//		log.Fatal(err)
//	}
//	policy, err := mtls.NewPolicy( // who may call
//		mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"payments"}},
//	)
//	if err != nil {
//		log.Fatal(err)
//	}
//	guard, err := mtls.New(mtls.Config{Roots: roots, Policy: policy})
//	if err != nil {
//		log.Fatal(err)
//	}
//	go guard.Run(ctx) // refreshes in advance; optional
//
//	r := chi.NewRouter()
//	r.With(guard.Require("payments")).Post("/payments", pay) // reads mtls.FromContext
//	log.Fatal(guard.Server(":8443", r).ListenAndServeTLS("server.pem", "server-key.pem"))
//
// # How a client is decided
//
// The handshake asks memory alone, because crypto/tls calls its hooks before
// the client has proved that it holds the key, without a context and without the
// peer's address. It refuses, with an alert (of which a TLS 1.3 client may see no
// more than a reset connection), a certificate that has no chain, is expired or
// is for another purpose, and, unless its authority is public, one that no rule
// lists or that is already known to be revoked.
//
// Each request is then decided in full, nearly always from a verdict that still
// holds. In order:
//
//	misdirected   Host and the handshake's server name are the same
//	limits        how much the client sent; what its certificate says of itself
//	chain         x509.Certificate.Verify, once per Authority, and the authority's Domains
//	rule          rules with Deny, then the first rule that matches
//	origin        the peer's address is one of the domain's, or of the rule's Origin
//	revocation    every certificate of the chain but the anchor: CRL, OCSP or staple
//	account       Config.Accounts, or the rule's name
//	role          what Guard.Require asks for
//	condition     Config.Verify
//
// A verdict lapses after 5 minutes at most, and at once when the roots, the
// policy, the evidence of revocation or the DNS answer that it rests on change.
// So a client that is revoked, dropped or has moved is refused at its next
// request on a connection that is open already.
//
// Every refusal has a [Reason], an incident's ID that the client is told, and a
// [Decision] that says what was checked, for the log and Config.Observe.
//
// # Where to put it
//
// [Guard.Server] is all of it. For a server of one's own, [Guard.TLSConfig],
// [Guard.ConnContext] and [Guard.Handler] (or [Guard.Require]) belong together,
// and leaving one out refuses clients. [Guard.OptionalServer] also serves
// clients without a certificate on the routes that Require does not wrap.
// [Guard.Check] is for servers that do not speak HTTP.
//
// Package mtlstest has a certificate authority, a revocation server and a DNS
// server for tests.
package mtls
