// Package ruleset finds the rule that decides about a client. It is pure: it does no
// I/O, asks nothing of the network, and does not allocate while it looks, certificate
// policies and conditions in Go left aside.
//
// A rule is a list of conditions, each made of one field, and all must hold. A
// condition has two readings: allows, which is sure, and denies, which is broad.
// The rules stand in an index by what a certificate must hold to be meant; those
// that no index finds are walked.
package ruleset

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"time"

	"github.com/mtlsguard/mtls/internal/dn"
)

// A Hash is the SHA-256 of a certificate or of a public key.
type Hash = [32]byte

// A Subject is what rules look at: a certificate, reduced to what rules name, and
// its chains. It must not be changed while it is in use.
type Subject struct {
	Certificate Hash
	Twin        Hash // of the other encoding of an ECDSA signature; Certificate where there is none
	Key         Hash
	Names       []string // canonical dNSNames
	URIs        []string // canonical; one that cannot be read is ""
	Emails      []string // canonical
	UPNs        []string // canonical
	Unread      bool     // there is a URI, an e-mail address or a UPN that could not be read
	Alone       bool     // the only URI is a well-formed SPIFFE ID
	Subject     []dn.Value
	Issuer      []dn.Value
	Extensions  []pkix.Extension
	Policies    []x509.OID
	RSABits     int    // zero: no RSA key
	Curve       string // "": none
	Views       []View
	Leaf        func() *x509.Certificate // a new copy for a condition in Go

	// For rules that deny only (Set.Broad).
	Other []string        // canonical domains in its other texts
	More  bool            // there are more of these than were looked for
	Texts map[string]bool // broad keys of its texts
}

// A View is what rules look at in a chain.
type View struct {
	Authority string
	Public    bool
	Keys      []Hash // of the CAs, the anchor included
	Usable    bool   // false: no way to an admission; for rules that deny only
	// OtherNames, DirectoryNames and Mailboxes are set where a CA of the chain constrains
	// names of these types in a way that nobody has checked; Mailboxes are those in the
	// subject.
	OtherNames, DirectoryNames, Mailboxes bool
	// May reports whether the authority may speak for a host. Nil: for every one.
	May func(host string) bool
	// Asserts reports whether the chain is valid for one of the policies. Nil:
	// false.
	Asserts func([]x509.OID) bool
}

// A Rule is the compiled form of a rule.
type Rule struct {
	Name  string
	Order int32 // place in the set, from 0
	Place int32 // among those that the caller was given, from 0
	Deny  bool
	// AnyClient allows chains of public authorities although the rule does not say
	// who the client is.
	AnyClient bool
	pinned    bool                         // it names certificates
	times     *times                       // nil: always
	when      func(*x509.Certificate) bool // nil: no condition in Go
	conds     []condition
	chain     []chainCondition
}

// times is when a rule exists.
type times struct{ notBefore, notAfter time.Time }

// Between bounds the time in which the rule exists. Zero: unbounded.
func (r *Rule) Between(notBefore, notAfter time.Time) {
	if !notBefore.IsZero() || !notAfter.IsZero() {
		r.times = &times{notBefore, notAfter}
	}
}

// inTime reports whether the rule exists at the time, and lowers until to the
// next time at which that changes.
func (r *Rule) inTime(now time.Time, until *time.Time) bool {
	if r.times == nil {
		return true
	}
	from, to := r.times.notBefore, r.times.notAfter
	switch {
	case !from.IsZero() && now.Before(from):
		earliest(until, from)
		return false
	case to.IsZero():
		return true
	case now.After(to):
		return false
	}
	earliest(until, to)
	return true
}

// earliest lowers t to u, where the zero time means never.
func earliest(t *time.Time, u time.Time) {
	if t.IsZero() || u.Before(*t) {
		*t = u
	}
}

// Anonymous reports whether the rule says nothing about who the client is that
// every public authority would have checked: no domain, certificate or key.
func (r *Rule) Anonymous() bool {
	return !slices.ContainsFunc(r.conds, func(c condition) bool { return c.names() })
}

// allows reports whether the rule surely means the client, its time and a condition
// in Go left aside.
func (r *Rule) allows(s *Subject) bool {
	for _, c := range r.conds {
		if !c.allows(s) {
			return false
		}
	}
	anonymous := r.Anonymous()
	for i := range s.Views {
		if r.admits(s, &s.Views[i], anonymous) {
			return true
		}
	}
	return false
}

// admits reports whether a chain satisfies the rule.
func (r *Rule) admits(s *Subject, v *View, anonymous bool) bool {
	if !v.Usable || v.Public && anonymous && !r.AnyClient {
		return false
	}
	for _, c := range r.chain {
		if !c.admits(v) {
			return false
		}
	}
	return r.inScope(s, v)
}

// Views returns the places of the chains that satisfy the rule, in order.
func (r *Rule) Views(s *Subject) []int {
	var list []int
	anonymous := r.Anonymous()
	for i := range s.Views {
		if r.admits(s, &s.Views[i], anonymous) {
			list = append(list, i)
		}
	}
	return list
}

// denies reports whether the rule may mean the client, its time and a condition in
// Go left aside. Any name, any overlapping wildcard and any chain will do.
func (r *Rule) denies(s *Subject) bool {
	for _, c := range r.conds {
		if !c.denies(s) {
			return false
		}
	}
	for _, c := range r.chain {
		if !c.denies(s) {
			return false
		}
	}
	return true
}

// A Match is what a set says of a subject.
type Match struct {
	Rule  *Rule     // nil: none matches
	Until time.Time // when the answer may change by time alone; zero: never
}

// A Set is an immutable set of rules.
type Set struct {
	rules       []Rule
	allow, deny index
	walked      int
	broad       Broad
}

// Broad says what the rules of a set that deny look at, beyond what all look at.
type Broad struct {
	Issuers bool // who issued a certificate
	Texts   bool // its texts of every kind, and the domains in them
	Names   bool // the broad form of its subject and issuer
}

// New returns the set of the rules, whose Orders are their places. The set owns
// them.
func New(rules []Rule) *Set {
	s := &Set{rules: rules}
	for i := range rules {
		r := &rules[i]
		x := &s.allow
		if r.Deny {
			x = &s.deny
			s.broad.note(r)
		}
		if x.add(r) {
			s.walked++
		}
	}
	return s
}

// Or returns what either looks at.
func (b Broad) Or(c Broad) Broad {
	return Broad{Issuers: b.Issuers || c.Issuers, Texts: b.Texts || c.Texts, Names: b.Names || c.Names}
}

func (b *Broad) note(r *Rule) {
	for _, c := range r.chain {
		if _, ok := c.(unconstrained); !ok {
			b.Issuers = true
		}
	}
	for _, c := range r.conds {
		switch c.(type) {
		case deniedDomains, *deniedFolded, *denied:
			b.Texts = true
		case *attribute:
			b.Names = true
		}
	}
}

// Rules returns the rules, in order.
func (s *Set) Rules() []Rule { return s.rules }

// Walked is how many rules no index finds.
func (s *Set) Walked() int { return s.walked }

// Broad says what the set's denying rules look at.
func (s *Set) Broad() Broad { return s.broad }

// Match returns the rule that decides: the first that denies, else the first that
// allows. Rules that name certificates come before others, otherwise their order
// counts.
func (s *Set) Match(subject *Subject, now time.Time) Match {
	var m Match
	deny := search{set: s, subject: subject, now: now, deny: true, best: -1}
	if subject.More { // some of its names are not known
		for _, pinned := range []bool{true, false} {
			for i := 0; i < len(s.rules) && (pinned || !deny.first); i++ {
				if r := &s.rules[i]; r.Deny && r.pinned == pinned && deny.try(r.Order) {
					break
				}
			}
			deny.first = deny.best >= 0
		}
	} else {
		s.deny.visit(&deny)
		if subject.Unread && !deny.first { // nor is what it has not
			for _, order := range s.deny.unread {
				if deny.try(order) {
					break
				}
			}
		}
	}
	m.Until = deny.until
	if deny.best >= 0 {
		m.Rule = &s.rules[deny.best]
		return m
	}
	allow := search{set: s, subject: subject, now: now, best: -1, until: deny.until}
	s.allow.visit(&allow)
	m.Until = allow.until
	if allow.best >= 0 {
		m.Rule = &s.rules[allow.best]
	}
	return m
}

// search looks for the first rule that matches.
type search struct {
	set     *Set
	subject *Subject
	now     time.Time
	deny    bool
	best    int32 // order of the best rule yet; -1: none
	first   bool  // best names certificates
	until   time.Time
	misses  *[]Miss // not nil: what is looked for are rules that nearly match
	failed  orders  // rules that do not match: many names may lead to one
}

// orders is a set of orders of rules, of which the first few take no allocation.
type orders struct {
	few  [8]int32
	n    int
	more map[int32]bool
}

func (o *orders) has(order int32) bool {
	return slices.Contains(o.few[:o.n], order) || o.more[order]
}

func (o *orders) add(order int32) {
	switch {
	case o.n < len(o.few):
		o.few[o.n] = order
		o.n++
	case o.more == nil:
		o.more = map[int32]bool{order: true}
	default:
		o.more[order] = true
	}
}

// try looks at a rule, and reports whether later ones of the same list are of no
// use.
func (f *search) try(order int32) bool {
	if f.best >= 0 && order >= f.best {
		return true
	}
	r := &f.set.rules[order]
	if f.misses != nil {
		return r.miss(f)
	}
	if f.failed.has(order) {
		return false
	}
	matches := false
	if f.deny {
		matches = r.denies(f.subject)
	} else {
		matches = r.allows(f.subject)
	}
	// A condition in Go is asked last, of rules that are there.
	if !matches || !r.inTime(f.now, &f.until) || r.when != nil && !r.when(f.subject.Leaf()) {
		f.failed.add(order)
		return false
	}
	f.best = order
	return true
}
