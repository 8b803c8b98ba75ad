package mtls

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// A Purpose is the extended key usage (RFC 5280 section 4.2.1.12) that chains
// of an authority must allow.
type Purpose int

// Purposes. "Any" is not among them: it would admit the certificates of an
// S/MIME or code-signing authority.
const (
	// ClientAuth accepts certificates for TLS client authentication.
	ClientAuth Purpose = iota
	// ClientOrServerAuth accepts those for TLS server authentication as well.
	// Public CAs stop issuing client certificates in 2026 and 2027, so a partner
	// who uses one can only present a server certificate.
	ClientOrServerAuth
)

func (p Purpose) usages() []x509.ExtKeyUsage {
	if p == ClientOrServerAuth {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// An Anchor is a CA certificate that is trusted as the end of a chain.
type Anchor struct {
	Certificate *x509.Certificate
	// Constraint, if not nil, must accept a chain that ends here: what a root
	// program demands beyond the certificate, such as a distrust date.
	Constraint func([]*x509.Certificate) error
}

// An Authority is a set of anchors that is trusted for one purpose, one scope of
// names and with one revocation setting. Chains never mix authorities.
type Authority struct {
	// Name identifies the authority in rules, decisions and logs. Required.
	Name string
	// Anchors are the trusted CA certificates. At least one.
	Anchors []Anchor
	// Purpose is what certificates must be issued for. Zero: ClientAuth.
	Purpose Purpose
	// Domains is the scope of names: the dNSNames of a certificate of this authority
	// are these domains and those below them, nothing else (as a permitted subtree
	// does, RFC 5280 section 4.2.1.10), and so are the host of a URI, the host of an
	// e-mail address and the realm of a user principal name by which a rule means
	// it. URNs, tags, and the attributes of the subject are not bounded: the rule says
	// whose CA may write them (Rule.Authorities). Empty: any name. Every CA can name
	// anybody, so it is required for each authority that is not Public once
	// there is more than one.
	Domains []string
	// Public says that anybody can get a certificate from this authority, as
	// from the CAs that browsers trust. Its leaf certificates must state their
	// extended key usage, its evidence of revocation may be at most 10 days
	// old, and a handshake does not tell a stranger whether a name is listed.
	Public bool
	// Revocation overrides Config.Revocation for certificates issued here.
	// Nil: Config's.
	Revocation *Revocation

	files       []string // to read again on Reload
	loaded      []Anchor // what they held
	omitted     []Anchor // of that, what the caller has left out
	constrained []Anchor // to which the caller has given a Constraint
}

// Roots is the set of authorities that a Guard trusts. The zero Roots trusts
// nobody. It is safe for concurrent use; a decision sees one state of it.
type Roots struct {
	mu      sync.Mutex // orders Replace and Reload
	order   string     // of locking
	state   atomic.Pointer[rootsState]
	lastErr atomic.Pointer[error]  // of the last Replace or Reload
	bound   []weak.Pointer[Policy] // policies of Guards, that are checked against these roots
}

// rootsState is one immutable state of Roots.
type rootsState struct {
	authorities []*authority
	subjects    map[string][]*x509.Certificate // all anchors, by raw subject
}

// find returns the authority of the name that has an anchor with the key, or nil.
func (s *rootsState) find(name string, anchor KeyHash) *authority {
	for _, a := range s.authorities {
		if a.Name == name && a.keys[anchor] {
			return a
		}
	}
	return nil
}

// authority is the compiled form of an Authority.
type authority struct {
	Authority
	roots   *rootsState // that it belongs to
	pool    *x509.CertPool
	domains []string            // canonical
	keys    map[KeyHash]bool    // of the anchors
	revs    *Revocation         // own copy; nil: the Guard's
	extra   []*x509.Certificate // private anchors that may stand inside a chain
}

// PublicAuthority returns the authority of the CAs that browsers trust: the
// NSS bundle of golang.org/x/crypto/x509roots/fallback/bundle, with the
// constraints it carries, named "public". Its date is that of the module
// version in go.mod; it never reads the machine's trust store.
func PublicAuthority() Authority {
	a := Authority{Name: "public", Purpose: ClientOrServerAuth, Public: true}
	for root := range bundle.Roots() {
		c, err := x509.ParseCertificate(bytes.Clone(root.Certificate))
		if err != nil {
			continue // an anchor that cannot be read trusts nobody
		}
		a.Anchors = append(a.Anchors, Anchor{Certificate: c, Constraint: root.Constraint})
	}
	return a
}

// NewRoots returns Roots of the given authorities. All problems are reported at
// once, as ConfigErrors.
func NewRoots(authorities ...Authority) (*Roots, error) {
	state, err := compileRoots(authorities)
	if err != nil {
		return nil, err
	}
	r := &Roots{order: newID()}
	r.state.Store(state)
	return r, nil
}

// Replace puts other authorities in place of the present ones, all or nothing.
// On error the present ones stay, and Guard.Ready reports it until a later
// Replace or Reload succeeds. Live connections are decided anew at their next
// request.
func (r *Roots) Replace(authorities ...Authority) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.replace(authorities)
}

func (r *Roots) replace(authorities []Authority) error {
	state, err := compileRoots(authorities)
	if err == nil {
		for _, bound := range r.bound {
			p := bound.Value()
			if p == nil {
				continue // of a Guard that is gone
			}
			if err = crossCheck(state, p.state.Load(), "Policy"); err != nil {
				break
			}
		}
	}
	r.lastErr.Store(&err)
	if err != nil {
		return err
	}
	r.state.Store(state)
	return nil
}

func (r *Roots) err() error {
	if e := r.lastErr.Load(); e != nil {
		return *e
	}
	return nil
}

func compileRoots(list []Authority) (*rootsState, error) {
	var failed problems
	if len(list) == 0 {
		failed.add("Roots", "", "no authorities: nobody could be trusted")
	}
	state := &rootsState{subjects: map[string][]*x509.Certificate{}}
	names := map[string]bool{}
	for i, a := range list {
		field := fmt.Sprintf("Roots: authority %q", a.Name)
		if a.Name == "" {
			field = fmt.Sprintf("Roots: authority %d", i)
			failed.add(field, "", "Name is empty")
		}
		if names[a.Name] {
			failed.add(field, "", "a second authority of this name")
		}
		names[a.Name] = true
		if a.Purpose != ClientAuth && a.Purpose != ClientOrServerAuth {
			failed.add(field+": Purpose", fmt.Sprint(int(a.Purpose)), "not a Purpose")
		}
		if len(a.Anchors) == 0 {
			failed.add(field, "", "no anchors")
		}
		if len(list) > 1 && !a.Public && len(a.Domains) == 0 {
			failed.add(field+": Domains", "", "one of several authorities must say which domains it may speak for")
		}
		c := &authority{Authority: a, roots: state, pool: x509.NewCertPool(), keys: map[KeyHash]bool{}}
		c.Anchors = slices.Clone(a.Anchors)
		c.Domains = slices.Clone(a.Domains)
		for j, d := range a.Domains {
			name, err := dnsname.FromPolicy(d)
			if err == nil && dnsname.IsWildcard(name) {
				err = fmt.Errorf("a scope covers what is below it; write it without the wildcard")
			}
			if err != nil {
				failed = append(failed, &ConfigError{Field: fmt.Sprintf("%s: Domains[%d]", field, j), Value: d, Problem: "not a domain", Err: err})
				continue
			}
			c.domains = append(c.domains, name)
		}
		for j, anchor := range a.Anchors {
			if problem := anchorProblem(anchor.Certificate); problem != "" {
				value := ""
				if anchor.Certificate != nil {
					value = anchor.Certificate.Subject.String()
				}
				failed.add(fmt.Sprintf("%s: Anchors[%d]", field, j), value, "%s", problem)
				continue
			}
			c.keys[x509ext.KeyHash(anchor.Certificate)] = true
			if slices.ContainsFunc(a.Anchors[:j], func(other Anchor) bool {
				return other.Certificate != nil && other.Certificate.Equal(anchor.Certificate) && (other.Constraint != nil || anchor.Constraint != nil)
			}) {
				// A pool keeps the first of the two, and with it one constraint.
				failed.add(fmt.Sprintf("%s: Anchors[%d]", field, j), anchor.Certificate.Subject.String(), "the same certificate twice, with a Constraint")
			}
			if anchor.Constraint != nil {
				c.pool.AddCertWithConstraint(anchor.Certificate, anchor.Constraint)
			} else {
				c.pool.AddCert(anchor.Certificate)
			}
		}
		if a.Revocation != nil {
			if err := a.Revocation.check(field + ": Revocation"); err != nil {
				failed = append(failed, err)
			} else {
				c.revs = a.Revocation.clone()
				c.Revocation = c.revs // Reload compiles from here, not from what the caller may have changed
			}
		}
		state.authorities = append(state.authorities, c)
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	for _, a := range state.authorities {
		for _, anchor := range a.Anchors {
			subject := string(anchor.Certificate.RawSubject)
			state.subjects[subject] = append(state.subjects[subject], anchor.Certificate)
		}
		// A chain that the sender cut short at one anchor may go on to another, of
		// the same authority (a file with a root and its intermediate) or of
		// another. Private anchors therefore serve as intermediates, so that all of
		// the chain is seen: a key under two authorities gets the stricter setting,
		// and an intermediate that its root has revoked is found.
		for _, other := range state.authorities {
			if other.Public {
				continue
			}
			for _, anchor := range other.Anchors {
				selfIssued := bytes.Equal(anchor.Certificate.RawIssuer, anchor.Certificate.RawSubject)
				if other != a || !selfIssued {
					a.extra = append(a.extra, anchor.Certificate)
				}
			}
		}
	}
	return state, nil
}

// anchorProblem says why a certificate cannot be an anchor. Vault's
// CVE-2024-2048 and CVE-2025-6037 came of leaves that were accepted as anchors.
func anchorProblem(c *x509.Certificate) string {
	switch {
	case c == nil || len(c.Raw) == 0:
		return "no certificate"
	case !x509ext.Canonical(c):
		return "not DER: its signature is followed by something else, or shifted"
	case c.Version != 3 || !c.BasicConstraintsValid || !c.IsCA:
		return "not a CA certificate (basicConstraints, RFC 5280 section 4.2.1.9)"
	case c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "its keyUsage does not allow signing certificates (RFC 5280 section 4.2.1.3)"
	}
	return ""
}

// mayName reports whether the authority may speak for the canonical name.
func (a *authority) mayName(name string) bool {
	if len(a.domains) == 0 {
		return true
	}
	return slices.ContainsFunc(a.domains, func(scope string) bool { return dnsname.InSubtree(name, scope) })
}
