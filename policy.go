package mtls

import (
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/mtlsguard/mtls/internal/dn"
	"github.com/mtlsguard/mtls/internal/ruleset"
)

// A Rule lists clients. It is plain data: every field that is set must hold
// (and), any value of a list is enough (or), except where a field says otherwise.
// A list that is empty and not nil is an error.
//
// Rules with Deny are looked at first. Then the first other rule that matches
// decides: rules that name Certificates before the rest, otherwise in order of
// declaration. If its origin, revocation or account fails, no later rule is
// tried.
//
// Any CA can write any name into a certificate. A rule with URIs, Emails, UPNs,
// Subject, Issuer or Extensions therefore says whose certificates it means, with
// Authorities or IssuerKeys (or Certificates), and under a public authority these
// fields restrict a rule but name nobody: it needs Domains, Certificates or
// PublicKeys as well.
type Rule struct {
	// Name identifies the rule in identities, decisions, logs and metrics. Required and
	// unique within a policy.
	Name string
	// Account is the account of the clients. Empty: Name.
	Account string
	// Roles are what Guard.Require asks for.
	Roles []string
	// Deny makes a rule that refuses what it matches, and matches broadly: any
	// name of the certificate, any wildcard that overlaps, any chain, letters of
	// any case. What it cannot determine counts as matched. It has no Origin, Roles,
	// Account, Groups or demands on keys.
	Deny bool
	// Disabled takes the rule out of the policy, as if it were not there. Its
	// fields are checked all the same.
	Disabled bool
	// Domains are names of which the certificate must hold one as a dNSName
	// (RFC 9525): "api.acme.example", or "*.acme.example" for exactly one label
	// below acme.example. Internationalised names may be written as U-labels or
	// A-labels. A certificate for a wildcard is matched only by a rule that spells the
	// same wildcard. The common name is looked at by deny rules alone.
	Domains []string
	// URIs are of the type uniformResourceIdentifier (RFC 5280 section 4.2.1.6):
	// absolute, compared without the case of scheme and host, and otherwise
	// character by character. "spiffe://acme.example/*" stands for every SPIFFE ID
	// of the trust domain acme.example; elsewhere a "*" is an error. A SPIFFE ID
	// counts only if it is well-formed and the only URI of the certificate
	// (X509-SVID section 2).
	URIs []string
	// Emails are of the type rfc822Name: "user@host", where host is compared like a
	// domain and user character by character, or "*@host" for every user of that
	// host. The emailAddress of a subject is another thing: see Subject.
	Emails []string
	// UPNs are Microsoft user principal names (otherName 1.3.6.1.4.1.311.20.2.3):
	// "user@realm", or "*@realm" for every user of that realm. The case of ASCII
	// letters does not matter.
	UPNs []string
	// Certificates are the certificates themselves, bit for bit (one-to-one).
	Certificates []CertificateHash
	// PublicKeys are the keys of the client's certificate.
	PublicKeys []KeyHash
	// Subject and Issuer are attributes that the certificate's subject and issuer
	// must have, all of them (many-to-one).
	Subject, Issuer []Attribute
	// Authorities are names of authorities, under one of which the chain must be
	// built.
	Authorities []string
	// IssuerKeys are keys of CAs, one of which must be in the chain (the anchor
	// included).
	IssuerKeys []KeyHash
	// PolicyOIDs are certificate policies, for one of which the chain must be valid
	// (RFC 5280 section 6.1, the user-initial-policy-set).
	PolicyOIDs []x509.OID
	// Extensions are extensions that the certificate must have, all of them. A
	// critical one that crypto/x509 does not know is refused all the same.
	Extensions []Extension
	// MinRSABits and Curves list the keys that are strong enough: RSA keys of at
	// least so many bits, and keys on these curves ("P-256", "P-384", "P-521",
	// "Ed25519"). Where either is set, a key of a kind that is not listed does
	// not match. Zero and empty: every key that crypto/x509 accepts.
	MinRSABits int
	Curves     []string
	// Origin says where the connection must come from. Nil: Config.Origin. A
	// rule that names no domain, or a wildcard, must state it (or NoOrigin).
	Origin *Origin
	// Groups are groups of the directory, in one of which the client's account must be
	// (Account.Groups), spelled as Config.Accounts spells them. The account is mapped
	// after the rule has been chosen: a client in none of them is refused, and no
	// later rule is tried. Empty: any account.
	Groups []string
	// NotBefore and NotAfter bound the time in which the rule exists. Zero:
	// unbounded.
	NotBefore, NotAfter time.Time
	// When is a condition in Go on the client's certificate, a copy for this call. Its answer must depend on the certificate alone: it is kept as long as a
	// verdict, at most 5 minutes. It is asked after all other fields have matched, in
	// the handshake too, before the client has proved that it holds the key, so it
	// must be quick and wait for nothing. It is called concurrently. A panic refuses
	// the client. Nil: no condition.
	When func(*x509.Certificate) bool
	// InsecureAnyClient allows a rule that says nothing about who the client is:
	// it admits everybody with a certificate of a trusted CA.
	InsecureAnyClient bool
}

// An Attribute is a condition on an attribute of a distinguished name, of the
// parsed name (RFC 5280 section 4.1.2.4), never of a text made of it. Where a name
// has several attributes of the type, one value that matches is enough.
type Attribute struct {
	// Type is a name of AttributeTypes, such as "CN", "O", "OU", "L", "ST" or "S", "C"
	// or "serialNumber", in any case, or an object identifier such as "2.5.4.97".
	Type string
	// Value is what the whole value must be, where "*" stands for any run of
	// characters, also an empty one, "\\*" for an asterisk and "\\\\" for a backslash.
	// A Value of nothing but "*" says that the attribute is there.
	Value string
	// IgnoreCase takes small and capital letters for the same, but never a letter
	// beyond ASCII for one of ASCII.
	IgnoreCase bool
}

// AttributeTypes returns the names that Attribute.Type may have, in small letters.
func AttributeTypes() []string { return dn.Types() }

// An Extension is a condition on an extension of the client's certificate, with
// exactly one of Value, Text and AnyValue.
type Extension struct {
	OID x509.OID
	// Value is the content of extnValue, bit for bit.
	Value []byte
	// Text is what a value that is one DER UTF8String, PrintableString or IA5String
	// must say.
	Text string
	// AnyValue says that it is enough that the extension is there.
	AnyValue bool
}

// Policy is a set of rules. The zero Policy admits nobody. It is safe for
// concurrent use; a decision sees one state of it.
type Policy struct {
	mu      sync.Mutex // orders Replace; taken after the mu of any Roots
	state   atomic.Pointer[policyState]
	lastErr atomic.Pointer[error]
	bound   []boundRoots // that the rules are checked against, by their order
}

// boundRoots are the Roots of a Guard, as long as it lives.
type boundRoots struct {
	order string
	roots weak.Pointer[Roots]
}

// NewPolicy returns a policy of the given rules, of which there must be at least
// one. All problems are reported at once, as ConfigErrors.
func NewPolicy(rules ...Rule) (*Policy, error) {
	state, err := compilePolicy(rules)
	if err != nil {
		return nil, err
	}
	p := &Policy{}
	p.state.Store(state)
	return p, nil
}

// DenyAll returns a policy that admits nobody: a switch for an emergency, and
// the only policy without rules.
func DenyAll() *Policy {
	p := &Policy{}
	p.state.Store(&policyState{set: ruleset.New(nil)})
	return p
}

// Replace puts other rules in place of the present ones, all or nothing. On
// error the present ones stay, and Guard.Ready reports it until a later Replace
// succeeds, or ReloadFailed says otherwise. Live connections are decided anew at their next request.
func (p *Policy) Replace(rules ...Rule) error {
	state, err := compilePolicy(rules)
	unlock := p.lock()
	defer unlock()
	if err == nil {
		for _, bound := range p.bound {
			r := bound.roots.Value()
			if r == nil {
				continue // of a Guard that is gone
			}
			if err = crossCheck(r.state.Load(), state, "Policy"); err != nil {
				break
			}
		}
	}
	p.lastErr.Store(&err)
	if err != nil {
		return err
	}
	p.state.Store(state)
	return nil
}

// lock holds still the policy and every Roots that it is checked against, so
// that no replacement of one goes unseen by the check of the other.
func (p *Policy) lock() (unlock func()) {
	for {
		p.mu.Lock()
		bound := p.bound
		p.mu.Unlock()
		var roots []*Roots
		for _, b := range bound {
			if r := b.roots.Value(); r != nil {
				r.mu.Lock()
				roots = append(roots, r)
			}
		}
		p.mu.Lock()
		unlock = func() {
			p.mu.Unlock()
			for _, r := range roots {
				r.mu.Unlock()
			}
		}
		if slices.Equal(bound, p.bound) {
			return unlock
		}
		unlock() // another Guard came in between
	}
}

// ReloadFailed is for those who keep the rules elsewhere and replace them, such as
// package policyfile: newer rules could not be had or read, and the present ones
// stay. Guard.Ready reports the error until Replace succeeds. A nil error says that the
// present rules are those that are meant after all: nothing is reported any more, a
// Replace that failed included.
func (p *Policy) ReloadFailed(err error) {
	unlock := p.lock()
	defer unlock()
	p.lastErr.Store(&err)
}

// PolicyStats counts the rules of a policy.
type PolicyStats struct {
	Allow, Deny int // in force, time left aside
	Disabled    int
	// Walked are those of Allow and Deny that no index finds: each is looked at for
	// every client of the authorities that it names, or of all. They say nothing but
	// attributes of names, extensions, policies, keys or a When.
	Walked int
}

// Stats counts the rules of the present state.
func (p *Policy) Stats() PolicyStats {
	state := p.state.Load()
	if state == nil {
		return PolicyStats{}
	}
	stats := PolicyStats{Walked: state.set.Walked()}
	for _, r := range state.set.Rules() {
		if r.Deny {
			stats.Deny++
		} else {
			stats.Allow++
		}
	}
	if state.disabled != nil {
		stats.Disabled = len(state.disabled.Rules())
	}
	return stats
}

func (p *Policy) err() error {
	if e := p.lastErr.Load(); e != nil {
		return *e
	}
	return nil
}

// policyState is one immutable state of a Policy.
type policyState struct {
	set      *ruleset.Set
	grants   []grant      // of the rules of the set, by their order
	disabled *ruleset.Set // nil: no rule is disabled; for explanations only
}

// grant is what a rule gives to the clients that it matches, and asks of their
// connections.
type grant struct {
	origin *originSpec // nil: the Guard's
	as     *clientAs   // nil: no account but the rule's name, no roles and no groups
}

// clientAs is what few rules say.
type clientAs struct {
	account       string
	roles, groups []string
}

// checkAccounts reports a rule that demands a group where there is no AccountMapper.
func (p *policyState) checkAccounts(field string, accounts AccountMapper) error {
	if accounts != nil || p == nil {
		return nil
	}
	for i, g := range p.grants {
		if g.as != nil && len(g.as.groups) > 0 {
			return &ConfigError{Field: "Config.Accounts", Problem: fmt.Sprintf("missing: rule %s of %s demands a group", quote(p.set.Rules()[i].Name), field)}
		}
	}
	return nil
}

// hasRole reports whether some rule has one of the roles.
func (p *policyState) hasRole(roles []string) bool {
	return slices.ContainsFunc(p.grants, func(g grant) bool {
		return g.as != nil && slices.ContainsFunc(g.as.roles, func(role string) bool { return slices.Contains(roles, role) })
	})
}
