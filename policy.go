package mtls

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/mtlsguard/mtls/internal/dnsname"
)

// A Rule lists clients. It is plain data: every field that is set must hold
// (and), any value of a list is enough (or).
//
// Rules with Deny are looked at first. Then the first other rule that matches
// decides: rules that name Certificates before the rest, otherwise in order of
// declaration. If its origin, revocation or account fails, no later rule is
// tried.
type Rule struct {
	// Name identifies the rule in identities, decisions, logs and metrics. Required and
	// unique within a policy.
	Name string
	// Account is the account of the clients. Empty: Name.
	Account string
	// Roles are what Guard.Require asks for.
	Roles []string
	// Deny makes a rule that refuses what it matches, and matches broadly: any
	// name of the certificate, any wildcard that overlaps, any chain. What it
	// cannot determine counts as matched. It has no Origin, Roles or Account.
	Deny bool
	// Domains are names of which the certificate must hold one as a dNSName
	// (RFC 9525): "api.acme.example", or "*.acme.example" for exactly one label
	// below acme.example. Internationalised names may be written as U-labels or
	// A-labels. A certificate for a wildcard is matched only by a rule that spells the
	// same wildcard. The common name is looked at by deny rules alone.
	Domains []string
	// Certificates are the certificates themselves, bit for bit (one-to-one).
	Certificates []CertificateHash
	// PublicKeys are the keys of the client's certificate.
	PublicKeys []KeyHash
	// Authorities are names of authorities, under one of which the chain must be
	// built.
	Authorities []string
	// IssuerKeys are keys of CAs, one of which must be in the chain (the anchor
	// included).
	IssuerKeys []KeyHash
	// Origin says where the connection must come from. Nil: Config.Origin. A
	// rule that names no domain, or a wildcard, must state it (or NoOrigin).
	Origin *Origin
	// NotBefore and NotAfter bound the time in which the rule exists. Zero:
	// unbounded.
	NotBefore, NotAfter time.Time
	// InsecureAnyClient allows a rule that says nothing about who the client is:
	// it admits everybody with a certificate of a trusted CA.
	InsecureAnyClient bool
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
	p.state.Store(&policyState{allow: newRuleIndex(), deny: newRuleIndex()})
	return p
}

// Replace puts other rules in place of the present ones, all or nothing. On
// error the present ones stay, and Guard.Ready reports it until a later Replace
// succeeds. Live connections are decided anew at their next request.
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

func (p *Policy) err() error {
	if e := p.lastErr.Load(); e != nil {
		return *e
	}
	return nil
}

// policyState is one immutable state of a Policy: the rules, and an index from
// what a certificate holds to the rules that ask for it.
type policyState struct {
	rules []*rule
	allow ruleIndex
	deny  ruleIndex

	deniesIssuers bool // a deny rule looks at who issued a certificate
	deniesDomains bool // a deny rule looks at names
}

// hasRole reports whether some rule has one of the roles.
func (p *policyState) hasRole(roles []string) bool {
	return slices.ContainsFunc(p.rules, func(r *rule) bool {
		return slices.ContainsFunc(r.Roles, func(role string) bool { return slices.Contains(roles, role) })
	})
}

// rule is the compiled form of a Rule.
type rule struct {
	Rule
	order   int
	domains []string    // canonical
	origin  *originSpec // nil: the Guard's
}

// ruleIndex finds the rules that can match. A rule stands under its most
// selective field only: certificates, else keys, else domains, else issuers.
type ruleIndex struct {
	certificates map[CertificateHash][]*rule
	publicKeys   map[KeyHash][]*rule
	domains      map[string][]*rule
	parents      map[string][]*rule // deny only: exact domains by what is above them
	issuerKeys   map[KeyHash][]*rule
	authorities  map[string][]*rule
	any          []*rule
}

func newRuleIndex() ruleIndex {
	return ruleIndex{
		certificates: map[CertificateHash][]*rule{},
		publicKeys:   map[KeyHash][]*rule{},
		domains:      map[string][]*rule{},
		parents:      map[string][]*rule{},
		issuerKeys:   map[KeyHash][]*rule{},
		authorities:  map[string][]*rule{},
	}
}

func compilePolicy(rules []Rule) (*policyState, error) {
	var failed problems
	if len(rules) == 0 {
		failed.add("Policy", "", "no rules: nobody could be admitted; DenyAll says so by name")
	}
	state := &policyState{allow: newRuleIndex(), deny: newRuleIndex()}
	names := make(map[string]bool, len(rules))
	for i, r := range rules {
		field := fmt.Sprintf("Policy: rule %s", quote(r.Name))
		if r.Name == "" {
			field = fmt.Sprintf("Policy: rule %d", i)
			failed.add(field, "", "Name is empty")
		} else if names[r.Name] {
			failed.add(field, "", "a second rule of this name")
		}
		names[r.Name] = true
		state.rules = append(state.rules, compileRule(&failed, field, r, i))
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	for _, r := range state.rules {
		if r.Deny {
			state.deny.add(r)
			state.deniesIssuers = state.deniesIssuers || len(r.IssuerKeys)+len(r.Authorities) > 0
			state.deniesDomains = state.deniesDomains || len(r.domains) > 0
		} else {
			state.allow.add(r)
		}
	}
	return state, nil
}

func compileRule(failed *problems, field string, r Rule, order int) *rule {
	c := &rule{Rule: r, order: order}
	c.Roles = slices.Clone(r.Roles)
	c.Domains = slices.Clone(r.Domains)
	c.Certificates = slices.Clone(r.Certificates)
	c.PublicKeys = slices.Clone(r.PublicKeys)
	c.Authorities = slices.Clone(r.Authorities)
	c.IssuerKeys = slices.Clone(r.IssuerKeys)
	wildcard := false
	for i, d := range r.Domains {
		name, err := dnsname.FromPolicy(d)
		if err == nil && !r.Deny && dnsname.WildcardUnderPublicSuffix(name) {
			err = fmt.Errorf("a wildcard directly under a public suffix would admit strangers")
		}
		if err != nil {
			*failed = append(*failed, &ConfigError{Field: fmt.Sprintf("%s: Domains[%d]", field, i), Value: d, Problem: "not a domain for a rule", Err: err})
			continue
		}
		wildcard = wildcard || dnsname.IsWildcard(name)
		c.domains = append(c.domains, name)
	}
	for i, role := range r.Roles {
		if role == "" {
			failed.add(fmt.Sprintf("%s: Roles[%d]", field, i), "", "an empty role")
		}
	}
	for i, name := range r.Authorities {
		if name == "" {
			failed.add(fmt.Sprintf("%s: Authorities[%d]", field, i), "", "an empty name")
		}
	}
	if slices.Contains(r.Certificates, CertificateHash{}) {
		failed.add(field+": Certificates", "", "the zero hash is the hash of nothing")
	}
	if slices.Contains(r.PublicKeys, KeyHash{}) || slices.Contains(r.IssuerKeys, KeyHash{}) {
		failed.add(field+": PublicKeys or IssuerKeys", "", "the zero hash is the hash of nothing")
	}
	if !r.NotBefore.IsZero() && !r.NotAfter.IsZero() && r.NotAfter.Before(r.NotBefore) {
		failed.add(field+": NotAfter", r.NotAfter.String(), "before NotBefore: the rule would never exist")
	}
	named := len(r.Domains)+len(r.Certificates)+len(r.PublicKeys)+len(r.IssuerKeys)+len(r.Authorities) > 0
	if r.Deny {
		if r.Origin != nil {
			failed.add(field+": Origin", "", "a deny rule has no Origin: it holds wherever the client is")
		}
		if len(r.Roles) > 0 || r.Account != "" || r.InsecureAnyClient {
			failed.add(field, "", "a deny rule has no Roles, no Account and no InsecureAnyClient")
		}
		if !named {
			failed.add(field, "", "it would deny everybody; DenyAll says so by name")
		}
		return c
	}
	if !named && !r.InsecureAnyClient {
		failed.add(field, "", "it would admit every client of every trusted CA; InsecureAnyClient says so by name")
	}
	if r.Origin != nil {
		o, err := compileOrigin(r.Origin, field+": Origin")
		if err != nil {
			*failed = append(*failed, err)
		}
		if r.Origin.Published && len(r.Domains) == 0 {
			failed.add(field+": Origin.Published", "", "the rule names no domain that could publish anything")
		}
		c.origin = o
	}
	if len(r.Domains) == 0 || wildcard {
		if c.origin == nil || !c.origin.Stated() {
			failed.add(field+": Origin", "", "a rule without an exact domain has none to look up: state an Origin with Hosts, Prefixes or ReverseSuffixes, or NoOrigin()")
		}
	}
	return c
}

// crossCheck finds what is wrong only with a policy and roots together.
func crossCheck(roots *rootsState, policy *policyState, field string) error {
	if roots == nil || policy == nil {
		return nil // reported by whoever needs them
	}
	var failed problems
	for _, r := range policy.rules {
		at := fmt.Sprintf("%s: rule %s", field, quote(r.Name))
		var usable []*authority
		for _, a := range roots.authorities {
			if len(r.Authorities) == 0 || slices.Contains(r.Authorities, a.Name) {
				usable = append(usable, a)
			}
		}
		for i, name := range r.Authorities {
			if !slices.ContainsFunc(roots.authorities, func(a *authority) bool { return a.Name == name }) {
				failed.add(fmt.Sprintf("%s: Authorities[%d]", at, i), name, "no authority of this name in Roots")
			}
		}
		if r.Deny || len(usable) == 0 {
			continue
		}
		if r.anonymous() && !r.InsecureAnyClient && slices.ContainsFunc(usable, func(a *authority) bool { return a.Public }) {
			failed.add(at+": Authorities", "", "it would admit every client of a public authority; InsecureAnyClient says so by name")
		}
		for i, d := range r.domains {
			if !slices.ContainsFunc(usable, func(a *authority) bool { return a.mayName(d) }) {
				failed.add(fmt.Sprintf("%s: Domains[%d]", at, i), r.Domains[i], "no authority of the rule may speak for it: the rule could never match")
			}
		}
	}
	return failed.err()
}

// anonymous reports whether the rule says nothing about who the client is, only
// who issued its certificate at most.
func (r *rule) anonymous() bool {
	return len(r.domains)+len(r.Certificates)+len(r.PublicKeys) == 0
}

func (x *ruleIndex) add(r *rule) {
	switch {
	case len(r.Certificates) > 0:
		put(x.certificates, r.Certificates, r)
	case len(r.PublicKeys) > 0:
		put(x.publicKeys, r.PublicKeys, r)
	case len(r.domains) > 0:
		put(x.domains, r.domains, r)
		if r.Deny {
			for _, d := range r.domains {
				if !dnsname.IsWildcard(d) {
					put(x.parents, []string{parent(d)}, r)
				}
			}
		}
	case len(r.IssuerKeys) > 0:
		put(x.issuerKeys, r.IssuerKeys, r)
	case len(r.Authorities) > 0:
		put(x.authorities, r.Authorities, r)
	default:
		x.any = append(x.any, r)
	}
}

func put[K comparable](m map[K][]*rule, keys []K, r *rule) {
	for _, k := range keys {
		if list := m[k]; len(list) == 0 || list[len(list)-1] != r {
			m[k] = append(list, r)
		}
	}
}
