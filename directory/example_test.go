package directory_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
)

// The accounts of a domain, for people with certificates of the enterprise CA.
func ExampleNewActiveDirectory() {
	var roots *mtls.Roots // has an authority "enterprise"
	serverCAs := x509.NewCertPool()

	accounts, err := directory.NewActiveDirectory(directory.ActiveDirectory{
		Connection: directory.Connection{
			URLs:    []string{"ldaps://dc1.corp.example", "ldaps://dc2.corp.example"},
			RootCAs: serverCAs,
			User:    "svc-api@corp.example",
			Password: func(context.Context) (string, error) {
				secret, err := os.ReadFile("/run/secrets/svc-api")
				return strings.TrimSpace(string(secret)), err
			},
		},
		Attributes: []string{"mail"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer accounts.Close()
	policy, err := mtls.NewPolicy(mtls.Rule{
		Name: "staff", Authorities: []string{"enterprise"}, UPNs: []string{"*@corp.example"},
		Groups: []string{"API users"}, Origin: mtls.NoOrigin(),
	})
	if err != nil {
		log.Fatal(err)
	}
	guard, err := mtls.New(mtls.Config{Roots: roots, Policy: policy, Accounts: accounts})
	_, _ = guard, err
}

// Any LDAP directory, by the e-mail address of the certificate.
func ExampleNewLDAP() {
	serverCAs := x509.NewCertPool()

	accounts, err := directory.NewLDAP(directory.LDAP{
		Connection: directory.Connection{
			URLs:     []string{"ldap://ldap.example.org"}, // with StartTLS
			RootCAs:  serverCAs,
			User:     "uid=api,ou=services,dc=example,dc=org",
			Password: func(context.Context) (string, error) { return os.Getenv("LDAP_PASSWORD"), nil },
		},
		BaseDN:      "ou=people,dc=example,dc=org",
		Filter:      "(&(objectClass=inetOrgPerson)(mail={email}))",
		Enabled:     "(!(pwdAccountLockedTime=*))",
		GroupBaseDN: "ou=groups,dc=example,dc=org",
		GroupFilter: "(&(objectClass=groupOfNames)(member={dn}))",
		GroupDepth:  3,
	})
	fmt.Println(accounts != nil, err)
	// Output:
	// true <nil>
}
