package mtls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/identity"
)

// An Identity is a client that a Guard has verified: its certificate, the rule
// that admitted it and the account it maps to. It is immutable and safe for
// concurrent use; what its methods return is the caller's own. The zero
// Identity is nobody: every method returns its zero value.
type Identity struct{ data *identity.Data }

// known returns what is known, which for the zero Identity is nothing.
func (id *Identity) known() *identity.Data {
	if id == nil || id.data == nil {
		return &identity.Data{}
	}
	return id.data
}

// FromContext returns the identity of the client that sent the request, and
// whether there is one. Only a Guard's handlers (and mtlstest.NewRequest, in
// tests) put one into a context; no header, cookie or earlier middleware can.
// In report-only mode there is none for a client that would have been refused.
func FromContext(ctx context.Context) (*Identity, bool) {
	switch v := identity.FromContext(ctx).(type) {
	case *Identity:
		return v, v != nil
	case *identity.Data:
		return &Identity{v}, v != nil
	default:
		return nil, false
	}
}

// Name returns the name of the client's account: what the AccountMapper gave,
// else the rule's Account, else the rule's Name.
func (id *Identity) Name() string { return id.known().Account.Name }

// Rule returns the name of the rule that matched.
func (id *Identity) Rule() string { return id.known().Rule }

// Domain returns the domain that matched, as lower-case A-labels: the first of
// the rule's Domains that the certificate holds. Under a rule such as
// "*.acme.example" it is the certificate's name. It is empty where the rule
// lists no domain.
func (id *Identity) Domain() string { return id.known().Domain }

// URI returns the URI of the certificate that the rule's URIs matched, such as a
// SPIFFE ID, with scheme and host in lower case. It is empty where the rule lists
// none.
func (id *Identity) URI() string { return id.known().URI }

// Email returns the e-mail address of the certificate that the rule's Emails
// matched, with the host in lower case. It is empty where the rule lists none.
func (id *Identity) Email() string { return id.known().Email }

// UPN returns the user principal name of the certificate that the rule's UPNs
// matched, with ASCII letters in lower case. It is empty where the rule lists none.
func (id *Identity) UPN() string { return id.known().UPN }

// Roles returns the roles of the rule.
func (id *Identity) Roles() []string { return slices.Clone(id.known().Roles) }

// HasRole reports whether the rule has the role.
func (id *Identity) HasRole(role string) bool { return slices.Contains(id.known().Roles, role) }

// Authority returns the name of the authority under which the certificate's
// chain was verified.
func (id *Identity) Authority() string { return id.known().Authority }

// Account returns the account that the client was mapped to.
func (id *Identity) Account() Account {
	a := id.known().Account
	attributes := make(map[string][]string, len(a.Attributes))
	for k, v := range a.Attributes {
		attributes[k] = slices.Clone(v)
	}
	return Account{Name: a.Name, ID: a.ID, Groups: slices.Clone(a.Groups), Attributes: attributes}
}

// Chain returns the verified chain, the client's certificate first and the
// anchor last, parsed anew for the caller. It is nil for an identity made by
// mtlstest without a certificate.
func (id *Identity) Chain() []*x509.Certificate {
	chain := make([]*x509.Certificate, 0, len(id.known().Raw))
	for _, raw := range id.known().Raw {
		c, err := x509.ParseCertificate(bytes.Clone(raw))
		if err != nil { // the bytes were parsed when the identity was made
			return nil
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil
	}
	return chain
}

// Certificate returns the client's certificate, parsed anew for the caller, or
// nil as Chain does.
func (id *Identity) Certificate() *x509.Certificate {
	if len(id.known().Raw) == 0 {
		return nil
	}
	c, err := x509.ParseCertificate(bytes.Clone(id.known().Raw[0]))
	if err != nil {
		return nil
	}
	return c
}

// CertificateHash returns the SHA-256 of the client's certificate, or the zero
// hash where there is none.
func (id *Identity) CertificateHash() CertificateHash {
	if len(id.known().Raw) == 0 {
		return CertificateHash{}
	}
	return sha256.Sum256(id.known().Raw[0])
}

// PeerAddr returns the address that the connection came from, without port and
// zone. It is invalid where the server did not call Guard.ConnContext.
func (id *Identity) PeerAddr() netip.Addr { return id.known().Peer }

// Expires returns when the verdict lapses and will be decided anew.
func (id *Identity) Expires() time.Time { return id.known().Expires }

// An Account is what an AccountMapper maps an identity to.
type Account struct {
	Name string
	// ID stays the same when the account is renamed, where the directory has such a
	// thing: the SID in Active Directory, else the distinguished name. Empty: none.
	ID         string
	Groups     []string
	Attributes map[string][]string
	Disabled   bool      // refused with ReasonAccountDisabled
	Expires    time.Time // when to ask again; zero or later than 5 minutes: 5 minutes
}

// An AccountMapper maps a verified client to an account, such as a user of a
// directory. It is called after everything else was checked, and its answer is
// kept until the Account's Expires, at most 5 minutes; it may be called
// concurrently and must respect the context. The identity it is given carries
// the rule's account.
//
// An error that wraps ErrNoAccount refuses the client; any other error means
// that the directory did not answer (ReasonAccountUnknown).
type AccountMapper interface {
	MapAccount(context.Context, *Identity) (Account, error)
}

func (a Account) data() identity.Account {
	attributes := maps.Clone(a.Attributes)
	for k, v := range attributes {
		attributes[k] = slices.Clone(v)
	}
	return identity.Account{Name: a.Name, ID: a.ID, Groups: slices.Clone(a.Groups), Attributes: attributes}
}
