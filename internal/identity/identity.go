// Package identity carries a verified identity in a context.
//
// It is the reason why no program outside this module can put an identity into
// a context: the key and the function that uses it live here, in an internal
// package. The guard stores what it has verified, mtlstest stores what a unit
// test asks for, and both are read by mtls.FromContext alone.
package identity

import (
	"context"
	"net/netip"
	"time"
)

// Data is what is known of a verified client. It is shared between requests
// and must not be changed once it is in a context.
type Data struct {
	Rule      string   // name of the rule that matched
	Domain    string   // canonical name that matched; empty where the rule names none
	URI       string   // the same of the rule's URIs,
	Email     string   // of its Emails,
	UPN       string   // and of its UPNs
	Roles     []string // roles of the rule
	Authority string   // name of the authority under which the chain was built
	Account   Account
	Raw       [][]byte   // DER of the verified chain, leaf first, anchor last
	Peer      netip.Addr // canonical peer address; invalid where it is unknown
	Expires   time.Time  // when the verdict lapses
}

// Account is the account that an identity was mapped to.
type Account struct {
	Name       string
	ID         string
	Groups     []string
	Attributes map[string][]string
}

type key struct{}

// NewContext returns a context that carries v, which is a *Data or a pointer to
// the public type that wraps one. A nil v hides whatever an outer handler
// stored: inner handlers then see no identity.
func NewContext(ctx context.Context, v any) context.Context {
	return context.WithValue(ctx, key{}, v)
}

// FromContext returns what the innermost NewContext stored, or nil.
func FromContext(ctx context.Context) any {
	return ctx.Value(key{})
}
