package main

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

//go:embed policy.yaml
var policy string

// sampleHash is the certificate of the one-to-one mapping in applicationHost.config,
// in policy.yaml. Nobody has its key, so each run issues another in its place.
const sampleHash = "c1316ff4072a12cf4e443a39028f78d1fbba50b65196b9bbeea3775f8922f602"

// A client sends one request, and something should come of it.
type client struct {
	name   string
	want   string      // the account; empty: refused
	reason mtls.Reason // why it is refused
	cert   func(*world) *mtlstest.Certificate
}

func clients() []client {
	human := pkix.Name{Organization: []string{"Contoso"}, OrganizationalUnit: []string{"Human Resources"}, CommonName: "nancy"}
	contractor := human
	contractor.OrganizationalUnit = []string{"Human Resources", "Contractors"}
	umbrella := pkix.Name{Organization: []string{"Umbrella Corp"}, CommonName: "erp"}
	return []client{
		{"one-to-one", `CORP\acme`, "", func(w *world) *mtlstest.Certificate { return w.acme }},
		{"one-to-one, renewed", "", mtls.ReasonNotAllowed, issued(acmeName(), nil)},
		{"many-to-one", `CORP\staff`, "", issued(human, nil)},
		{"many-to-one, the last", "fabrikam", "", issued(pkix.Name{Organization: []string{"Fabrikam Inc."}}, nil)},
		{"denied", "", mtls.ReasonDeniedByRule, issued(umbrella, nil)},
		{"denied after it was allowed (IIS admits it)", "", mtls.ReasonDeniedByRule, issued(contractor, nil)},
		{"unknown", "", mtls.ReasonNotAllowed, issued(pkix.Name{Organization: []string{"Globex"}}, nil)},
		{"another case", "", mtls.ReasonNotAllowed, issued(pkix.Name{Organization: []string{"CONTOSO"}, OrganizationalUnit: []string{"Human Resources"}}, nil)},
		{"revoked", "", mtls.ReasonRevoked, func(w *world) *mtlstest.Certificate {
			c := issued(human, nil)(w)
			w.revocation.Revoke(c, 1) // keyCompromise
			return c
		}},
		{"expired", "", mtls.ReasonExpired, issued(human, func(l *mtlstest.Leaf) {
			l.NotBefore, l.NotAfter = time.Now().AddDate(0, 0, -2), time.Now().AddDate(0, 0, -1)
		})},
		{"for servers only", "", mtls.ReasonKeyUsage, issued(human, func(l *mtlstest.Leaf) { l.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
		{"untrusted", "", mtls.ReasonUntrustedIssuer, func(w *world) *mtlstest.Certificate { return w.stranger.Issue(subject(human)) }},
		{"no certificate", "", mtls.ReasonNoCertificate, func(*world) *mtlstest.Certificate { return nil }},
	}
}

func acmeName() pkix.Name {
	return pkix.Name{Organization: []string{"Acme"}, CommonName: "acme-client"}
}

func subject(n pkix.Name) mtlstest.Leaf {
	return mtlstest.Leaf{Template: func(c *x509.Certificate) { c.Subject = n }}
}

// issued has the partners' CA issue a certificate, after change, if not nil.
func issued(n pkix.Name, change func(*mtlstest.Leaf)) func(*world) *mtlstest.Certificate {
	return func(w *world) *mtlstest.Certificate {
		l := subject(n)
		if change != nil {
			change(&l)
		}
		return w.partners.Issue(l)
	}
}

// world is what a service finds ready.
type world struct {
	partners, stranger *mtlstest.CA
	revocation         *mtlstest.RevocationServer
	acme               *mtlstest.Certificate // of the one-to-one mapping
}

func newWorld(t mtlstest.TB) *world {
	w := &world{
		partners:   mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "Partners CA 1"}),
		stranger:   mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "Partners CA 2"}),
		revocation: mtlstest.NewRevocationServer(t, nil),
	}
	w.revocation.Serve(w.partners) // certificates name it as their CRL and OCSP source
	w.acme = issued(acmeName(), nil)(w)
	return w
}

// writePolicy writes policy.yaml with the certificate of this run.
func (w *world) writePolicy(dir string) (string, error) {
	file := filepath.Join(dir, "policy.yaml")
	hash := mtls.HashCertificate(w.acme.Leaf()).String()
	return file, os.WriteFile(file, []byte(strings.ReplaceAll(policy, sampleHash, hash)), 0o600)
}

// operator keeps the last reason that was observed.
type operator struct {
	mu   sync.Mutex
	last mtls.Reason
}

func (o *operator) observe(_ context.Context, d *mtls.Decision) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = d.Reason
}

// take returns the last reason, and forgets it.
func (o *operator) take() mtls.Reason {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.last
	o.last = "not observed"
	return r
}

// demonstrate starts the service, has each client ask it who it is, and prints what
// came of it. It returns an error where that is not as it should be.
func demonstrate(ctx context.Context, out io.Writer, list []client) error {
	return mtlstest.Run(func(t mtlstest.TB) {
		ctx, stop := context.WithCancel(ctx)
		w := newWorld(t)
		policyFile, err := w.writePolicy(t.TempDir())
		if err != nil {
			t.Fatalf("%v", err)
		}
		t.Cleanup(stop) // before the files go
		seen := &operator{last: "not observed"}
		server, err := newServer(ctx, "", w.partners.PEMFile(), policyFile, mtls.Config{
			// Loopback is a special-use network: it is welcome because it is named.
			Revocation: &mtls.Revocation{AllowNetworks: mtlstest.Loopback()},
			Logger:     slog.New(slog.DiscardHandler),
			Observe:    seen.observe,
		})
		if err != nil {
			t.Fatalf("%v", err)
		}
		s := mtlstest.Serve(t, server)

		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "CLIENT\tANSWER\tACCOUNT\tREASON\tIIS SUBSTATUS")
		var failed []error
		for _, c := range list {
			status, account, err := ask(s, c.cert(w))
			reason := seen.take()
			if err == nil && (account != c.want || reason != c.reason) {
				err = fmt.Errorf("%s: %q, %q; wanted %q, %q", c.name, account, reason, c.want, c.reason)
			}
			failed = append(failed, err)
			fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\n", c.name, status, or(account, "-"), or(string(reason), "-"), or(reason.IIS(), "-"))
		}
		table.Flush()
		if err := errors.Join(failed...); err != nil {
			t.Fatalf("%v", err)
		}
	})
}

// ask returns the status of the answer, and the account if there is one.
func ask(s *mtlstest.Server, cert *mtlstest.Certificate) (status int, account string, err error) {
	res, err := s.Client(cert, mtlstest.ClientOptions{}).Get(s.URL + "/whoami")
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if res.StatusCode == http.StatusOK {
		account = string(body)
	}
	return res.StatusCode, account, err
}

func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}
