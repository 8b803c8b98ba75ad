package main

import (
	"context"
	"errors"

	"github.com/mtlsguard/mtls"
)

// accounts stands for the directory of a service, of which a command knows nothing:
// whether a client is in a group cannot be determined here.
type accounts map[string]bool // names of the rules that demand a group

// accountsOf returns the mapper that the rules need, or nil.
func accountsOf(rules []mtls.Rule) mtls.AccountMapper {
	demanding := accounts{}
	for _, r := range rules {
		if len(r.Groups) > 0 {
			demanding[r.Name] = true
		}
	}
	if len(demanding) == 0 {
		return nil
	}
	return demanding
}

// MapAccount gives the account of the rule, as a service without Config.Accounts does,
// unless the rule demands a group.
func (a accounts) MapAccount(_ context.Context, id *mtls.Identity) (mtls.Account, error) {
	if a[id.Rule()] {
		return mtls.Account{}, errors.New("the rule demands a group, and only the service can ask the directory")
	}
	return mtls.Account{Name: id.Name()}, nil
}
