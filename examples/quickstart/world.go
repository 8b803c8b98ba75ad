package main

import (
	"time"

	"github.com/mtlsguard/mtls/mtlstest"
)

// world is what a service finds ready: the partners' CA with its revocation
// server, DNS, and clients with certificates of every kind.
type world struct {
	caFile     string // the partners' CA, PEM
	revocation *mtlstest.RevocationServer
	dns        *mtlstest.DNS

	acme, globex, umbrella, initech, stranger              *mtlstest.Certificate
	forged, expired, crlRevoked, ocspRevoked, silent, soon *mtlstest.Certificate
}

// newWorld makes the world, which ends with t.
func newWorld(t mtlstest.TB) *world {
	w := &world{dns: mtlstest.NewDNS(t)}
	for _, name := range []string{"api.acme.example", "hooks.globex.example", "api.initech.example", "www.stranger.example"} {
		w.dns.Set(name, "127.0.0.1")
	}
	w.dns.Fail("erp.umbrella.example", mtlstest.DNSServFail)

	ca := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "Partners CA"})
	w.caFile = ca.PEMFile()
	w.revocation = mtlstest.NewRevocationServer(t, nil)
	w.revocation.Serve(ca) // certificates name it as their CRL and OCSP source

	issue := func(name string) *mtlstest.Certificate { return ca.Issue(mtlstest.Leaf{Names: []string{name}}) }
	w.acme = issue("api.acme.example")
	w.globex = issue("hooks.globex.example")
	w.umbrella = issue("erp.umbrella.example")
	w.initech = issue("api.initech.example")
	w.stranger = issue("www.stranger.example")
	w.soon = issue("api.acme.example") // revoked later, on a live connection

	// All of these claim to be acme, too.
	acme := []string{"api.acme.example"}
	w.forged = mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "Unknown CA"}).Issue(mtlstest.Leaf{Names: acme})
	w.expired = ca.Issue(mtlstest.Leaf{Names: acme, NotBefore: time.Now().AddDate(0, 0, -2), NotAfter: time.Now().AddDate(0, 0, -1)})
	w.crlRevoked = ca.Issue(mtlstest.Leaf{Names: acme, Sources: mtlstest.OnlyCRL})
	w.ocspRevoked = ca.Issue(mtlstest.Leaf{Names: acme, Sources: mtlstest.OnlyOCSP})
	w.revocation.Revoke(w.crlRevoked, 1)  // keyCompromise
	w.revocation.Revoke(w.ocspRevoked, 4) // superseded

	// A second revocation server, for the one client whose CA does not answer.
	down := mtlstest.NewRevocationServer(t, nil)
	down.Fail(mtlstest.Down)
	down.Serve(ca)
	w.silent = issue("api.acme.example")
	return w
}
