package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls"
)

// trust is what a service would load its Roots from.
type trust struct {
	roots       []string
	authorities []string
	public      bool
	serverAuth  bool
}

func (t *trust) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&t.roots, "roots", nil, "CA certificates of the authority \"roots\", PEM or DER (repeatable; as mtls.LoadRoots)")
	f.StringArrayVar(&t.authorities, "authority", nil, "NAME=FILE[,DOMAIN...]: an authority, and the domains that it may speak for (repeatable)")
	f.BoolVar(&t.public, "public", false, "trust the public authorities as well (as mtls.PublicAuthority)")
	f.BoolVar(&t.serverAuth, "server-auth", false, "the given authorities have Purpose ClientOrServerAuth")
}

func (t *trust) given() bool { return len(t.roots)+len(t.authorities) > 0 || t.public }

// load makes the Roots. All of it is an error of the command: a service would not
// start.
func (t *trust) load() (*mtls.Roots, error) {
	if !t.given() {
		return nil, errors.New("missing --roots, --authority or --public: nobody could be trusted")
	}
	var list []mtls.Authority
	add := func(name string, domains []string, files ...string) error {
		a := mtls.Authority{Name: name, Domains: domains}
		for _, f := range files {
			certs, err := loadCertificates(f, maxCertFile)
			if err != nil {
				return err
			}
			for _, c := range certs {
				a.Anchors = append(a.Anchors, mtls.Anchor{Certificate: c})
			}
		}
		if t.serverAuth {
			a.Purpose = mtls.ClientOrServerAuth
		}
		list = append(list, a)
		return nil
	}
	if len(t.roots) > 0 {
		if err := add("roots", nil, t.roots...); err != nil {
			return nil, err
		}
	}
	for _, s := range t.authorities {
		name, rest, ok := strings.Cut(s, "=")
		parts := strings.Split(rest, ",")
		if !ok || name == "" || parts[0] == "" {
			return nil, fmt.Errorf("--authority %q: not NAME=FILE[,DOMAIN...]", s)
		}
		if err := add(name, parts[1:], parts[0]); err != nil {
			return nil, err
		}
	}
	if t.public {
		list = append(list, mtls.PublicAuthority())
	}
	return mtls.NewRoots(list...)
}
