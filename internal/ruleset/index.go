package ruleset

import (
	"slices"

	"github.com/mtlsguard/mtls/internal/altname"
	"github.com/mtlsguard/mtls/internal/dnsname"
)

// postings maps what a certificate holds to the rules that ask for it, by their
// orders, ascending. Nearly always that is one rule, which takes no list.
type postings[K comparable] struct {
	of   map[K]int32 // the rule, or -1 minus the place in many
	many [][]int32
}

func (p *postings[K]) add(key K, order int32) {
	if p.of == nil {
		p.of = map[K]int32{}
	}
	at, ok := p.of[key]
	switch {
	case !ok:
		p.of[key] = order
	case at >= 0 && at != order:
		p.many = append(p.many, []int32{at, order})
		p.of[key] = -int32(len(p.many))
	case at < 0:
		list := &p.many[-at-1]
		if (*list)[len(*list)-1] != order {
			*list = append(*list, order)
		}
	}
}

// visit tries the rules that ask for the key.
func (p *postings[K]) visit(key K, f *search) {
	if len(p.of) == 0 {
		return
	}
	at, ok := p.of[key]
	if !ok {
		return
	}
	if at >= 0 {
		f.try(at)
		return
	}
	for _, order := range p.many[-at-1] {
		if f.try(order) {
			return
		}
	}
}

// index finds the rules that can match. A rule stands under one of its fields, the
// most selective: certificates, else keys, domains, other names, issuers.
type index struct {
	certificates postings[Hash]
	publicKeys   postings[Hash]
	names        postings[string] // exact domains, and wildcards as such
	wildcards    postings[string] // wildcards, by what is below them
	parents      postings[string] // deny only: exact domains, by what is above them
	uris         postings[string] // allow only; a trust domain by its prefix
	emails, upns postings[string] // allow only; "@host" for every user of it
	texts        postings[string] // deny only: URIs, e-mail addresses and UPNs, by broad key
	unread       []int32          // deny only: all rules that stand in texts
	issuerKeys   postings[Hash]
	authorities  postings[string]
	walked       []int32
}

// add puts a rule into the index, and reports whether it is walked: looked at for
// every client, or every one of an issuer, although it says more.
func (x *index) add(r *Rule) (walked bool) {
	best := -1
	for i, c := range r.conds {
		if rank := c.rank(); rank > 0 && (best < 0 || rank < r.conds[best].rank()) {
			best = i
		}
	}
	if best >= 0 {
		r.conds[best].index(x, r)
		return false
	}
	for _, c := range r.chain {
		if c.index(x, r) {
			return r.saysMore()
		}
	}
	x.walked = append(x.walked, r.Order)
	return true
}

// saysMore reports whether the rule says more than who issued the certificate.
func (r *Rule) saysMore() bool {
	return len(r.conds) > 0 || r.when != nil || slices.ContainsFunc(r.chain, func(c chainCondition) bool {
		_, ok := c.(policies)
		return ok
	})
}

// visit tries every rule that can match the subject of the search.
func (x *index) visit(f *search) {
	s := f.subject
	if x.visitHeld(f); f.first {
		return
	}
	for i := range s.Views {
		v := &s.Views[i]
		for _, key := range v.Keys {
			x.issuerKeys.visit(key, f)
		}
		x.authorities.visit(v.Authority, f)
	}
	for _, order := range x.walked {
		if f.try(order) {
			return
		}
	}
}

// visitHeld tries the rules that name something which the certificate holds.
func (x *index) visitHeld(f *search) {
	s := f.subject
	x.certificates.visit(s.Certificate, f)
	if s.Twin != s.Certificate {
		x.certificates.visit(s.Twin, f)
	}
	if f.best >= 0 {
		f.first = true // rules that name certificates come before all others
		return
	}
	x.publicKeys.visit(s.Key, f)
	x.visitNames(s.Names, f)
	if f.deny {
		x.visitNames(s.Other, f)
		for key := range s.Texts {
			x.texts.visit(key, f)
		}
	} else {
		for _, uri := range s.URIs {
			x.uris.visit(uri, f)
			if prefix := altname.TrustDomainOf(uri); prefix != "" {
				x.uris.visit(prefix, f)
			}
		}
		for _, email := range s.Emails {
			x.emails.visit(email, f)
			x.emails.visit(altname.At(email), f)
		}
		for _, upn := range s.UPNs {
			x.upns.visit(upn, f)
			x.upns.visit(altname.At(upn), f)
		}
	}
}

func (x *index) visitNames(names []string, f *search) {
	for _, n := range names {
		x.names.visit(n, f)
		switch above := parent(n); {
		case !dnsname.IsWildcard(n):
			x.wildcards.visit(above, f)
		case f.deny:
			x.parents.visit(above, f)
		}
	}
}

// parent returns what is above the first label, and "" above a single label.
func parent(name string) string {
	for i := range len(name) {
		if name[i] == '.' {
			return name[i+1:]
		}
	}
	return ""
}
