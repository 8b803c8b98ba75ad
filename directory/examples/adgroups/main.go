// Adgroups is a REST API for the certificates of an enterprise CA, which authorises by
// groups of Active Directory.
//
//	go run ./examples/adgroups -client-ca issuing-ca.pem -ldap ldaps://dc1.corp.example,ldaps://dc2.corp.example \
//		-ldap-ca ldap-ca.pem -user svc-api@corp.example -password-file password -staff "API users" -auditors "Auditors" \
//		-cert server.pem -key server-key.pem
//
// Everybody in the group of -staff may use the API, and those in the group of
// -auditors may read reports as well. Groups in groups count.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/go-chi/chi/v5"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
)

// options are what the command line says.
type options struct {
	clientCA        string // file with the issuing CA of the clients
	servers         []string
	serverCA        string // file with the CA of the directory's servers
	user            string
	passwordFile    string // is read for each connection to the directory
	staff, auditors string // groups
}

// newAPI returns the API, whose guard admits clients of the enterprise CA that map to
// an account in the group of the staff; and the mapper, to be closed.
func newAPI(o options, log *slog.Logger) (*mtls.Guard, http.Handler, *directory.Mapper, error) {
	pem, err := os.ReadFile(o.serverCA)
	if err != nil {
		return nil, nil, nil, err
	}
	serverCAs := x509.NewCertPool()
	if !serverCAs.AppendCertsFromPEM(pem) {
		return nil, nil, nil, fmt.Errorf("%s holds no certificate", o.serverCA)
	}
	accounts, err := directory.NewActiveDirectory(directory.ActiveDirectory{
		Connection: directory.Connection{
			URLs: o.servers, RootCAs: serverCAs, User: o.user, Logger: log,
			Password: func(context.Context) (string, error) {
				secret, err := os.ReadFile(o.passwordFile)
				return strings.TrimSpace(string(secret)), err
			},
		},
		Attributes: []string{"mail"},
	})
	if err != nil {
		return nil, nil, nil, err
	}
	enterprise, err := mtls.LoadAuthority(o.clientCA)
	if err != nil {
		return nil, nil, nil, err
	}
	enterprise.Name = "enterprise"
	roots, err := mtls.NewRoots(enterprise)
	if err != nil {
		return nil, nil, nil, err
	}
	policy, err := mtls.NewPolicy(mtls.Rule{
		Name: "staff", Authorities: []string{"enterprise"}, Groups: []string{o.staff},
		Origin: mtls.NoOrigin(), // people are where they are
	})
	if err != nil {
		return nil, nil, nil, err
	}
	guard, err := mtls.New(mtls.Config{Roots: roots, Policy: policy, Accounts: accounts, Logger: log})
	if err != nil {
		return nil, nil, nil, err
	}
	r := chi.NewRouter()
	r.Get("/me", func(w http.ResponseWriter, r *http.Request) {
		account := accountOf(r)
		groups := slices.Sorted(slices.Values(account.Groups))
		fmt.Fprintf(w, "%s %s %v %s\n", account.Name, account.ID, account.Attributes["mail"], strings.Join(groups, ","))
	})
	r.With(inGroup(o.auditors)).Get("/reports", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "a report for %s\n", accountOf(r).Name)
	})
	return guard, r, accounts, nil
}

// accountOf returns the account of the client, or the zero Account, which is in no
// group.
func accountOf(r *http.Request) mtls.Account {
	id, _ := mtls.FromContext(r.Context())
	return id.Account()
}

// inGroup lets members of the group pass.
func inGroup(group string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !slices.Contains(accountOf(r).Groups, group) {
				http.Error(w, "for auditors only", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o options
	var ldap, listen, cert, key string
	flags := flag.NewFlagSet("adgroups", flag.ContinueOnError)
	flags.StringVar(&listen, "listen", ":8443", "address")
	flags.StringVar(&cert, "cert", "", "file with the server's certificate")
	flags.StringVar(&key, "key", "", "file with its key")
	flags.StringVar(&o.clientCA, "client-ca", "", "file with the issuing CA of the clients")
	flags.StringVar(&ldap, "ldap", "", "domain controllers, such as ldaps://dc1.corp.example")
	flags.StringVar(&o.serverCA, "ldap-ca", "", "file with the CA of the domain controllers")
	flags.StringVar(&o.user, "user", "", "account that reads the directory")
	flags.StringVar(&o.passwordFile, "password-file", "", "file with its password")
	flags.StringVar(&o.staff, "staff", "", "group of those who may use the API")
	flags.StringVar(&o.auditors, "auditors", "", "group of those who may read reports")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.servers = strings.Split(ldap, ",")
	guard, api, accounts, err := newAPI(o, slog.Default())
	if err != nil {
		return err
	}
	defer accounts.Close()
	if err := accounts.Check(ctx); err != nil {
		return err // better now than at the first client
	}
	go guard.Run(ctx)
	server := guard.Server(listen, api)
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ListenAndServeTLS(cert, key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
