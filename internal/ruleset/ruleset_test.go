package ruleset_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/altname"
	"github.com/mtlsguard/mtls/internal/dn"
	"github.com/mtlsguard/mtls/internal/ruleset"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world makes rules and subjects of so few values that they often meet.
type world struct{ *rand.Rand }

func pick[T any](w world, list ...T) T { return list[w.IntN(len(list))] }

func some[T any](w world, most int, one func() T) []T {
	list := make([]T, 1+w.IntN(most))
	for i := range list {
		list[i] = one()
	}
	return list
}

func (w world) hash() ruleset.Hash { return ruleset.Hash{byte(1 + w.IntN(4))} }
func (w world) domain() string {
	return pick(w, "a.example", "b.a.example", "*.a.example", "c.b.a.example", "*.b.a.example", "*.example", "x.example", "example")
}
func (w world) uri() string {
	return pick(w, "spiffe://a.example/x", "spiffe://a.example/y", "spiffe://b.example/x", "urn:x", "https://a.example/")
}
func (w world) address() string {
	return pick(w, "u@a.example", "v@a.example", "u@b.example", "w@c.a.example")
}

func (w world) rule(i int) ruleset.Rule {
	r := ruleset.Rule{Name: fmt.Sprint(i), Order: int32(i), Deny: w.IntN(3) == 0, AnyClient: w.IntN(4) == 0}
	for n := w.IntN(3); n >= 0; n-- {
		switch w.IntN(11) {
		case 0:
			r.Certificates(some(w, 2, w.hash))
		case 1:
			r.PublicKeys(some(w, 2, w.hash))
		case 2, 3:
			r.Domains(some(w, 3, w.domain))
		case 4:
			r.URIs(some(w, 2, func() string { return pick(w, w.uri(), "spiffe://a.example/*") }))
		case 5:
			r.Emails(some(w, 2, func() string { return pick(w, w.address(), "*@a.example") }))
		case 6:
			r.UPNs(some(w, 2, func() string { return pick(w, w.address(), "*@a.example") }))
		case 7:
			p, err := dn.ParsePattern("O", pick(w, "x", "y", "*", "x*"), w.IntN(2) == 0)
			if err != nil {
				panic(err)
			}
			r.Attribute(w.IntN(2) == 0, p)
		case 8:
			r.Authorities(some(w, 2, func() string { return pick(w, "one", "two", "web") }))
		case 9:
			r.IssuerKeys(some(w, 2, w.hash))
		case 10:
			at := start.Add(time.Duration(w.IntN(5)-2) * time.Hour)
			r.Between(pick(w, time.Time{}, at), pick(w, time.Time{}, at.Add(time.Hour)))
		}
	}
	return r
}

func (w world) subject() *ruleset.Subject {
	maybe := func(one func() string) (list []string) {
		if w.IntN(2) == 0 {
			list = some(w, 3, one)
		}
		return list
	}
	name := func() []dn.Value {
		return dn.Values(pkix.Name{Names: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: pick(w, "x", "X", "y", "xy")}}}, true)
	}
	s := &ruleset.Subject{
		Certificate: w.hash(), Key: w.hash(), Names: maybe(w.domain), URIs: maybe(w.uri), Emails: maybe(w.address), UPNs: maybe(w.address),
		Subject: name(), Issuer: name(), Texts: map[string]bool{}, Unread: w.IntN(10) == 0, More: w.IntN(10) == 0,
		Leaf: func() *x509.Certificate { return nil },
	}
	s.Twin = pick(w, s.Certificate, w.hash())
	s.Alone = len(s.URIs) == 1 && altname.IsSPIFFE(s.URIs[0])
	for _, texts := range [][]string{s.URIs, s.Emails, s.UPNs, maybe(w.address)} {
		for _, text := range texts {
			keys, _ := altname.BroadKeys(text)
			for _, key := range keys {
				s.Texts[key] = true
			}
		}
	}
	s.Other = maybe(w.domain)
	for range w.IntN(4) {
		s.Views = append(s.Views, ruleset.View{Authority: pick(w, "one", "two", "web"), Public: w.IntN(3) == 0, Keys: some(w, 2, w.hash), Usable: w.IntN(4) > 0,
			OtherNames: w.IntN(4) == 0, DirectoryNames: w.IntN(4) == 0})
	}
	return s
}

// TestIndexFindsWhatWalkingFinds: an index that misses a rule that denies admits
// whom it should not.
func TestIndexFindsWhatWalkingFinds(t *testing.T) {
	t.Parallel()
	counts := map[string]int{}
	for seed := range uint64(1500) {
		w := world{rand.New(rand.NewPCG(seed, 1))}
		rules := make([]ruleset.Rule, w.IntN(12))
		for i := range rules {
			rules[i] = w.rule(i)
		}
		set := ruleset.New(rules)
		for range 20 {
			s := w.subject()
			want, got := set.Walk(s, start), set.Match(s, start)
			require.True(t, want == got.Rule, "seed %d", seed)
			switch {
			case want == nil:
				counts["none"]++
			case want.Deny:
				counts["deny"]++
			default:
				counts["allow"]++
				require.NotEmpty(t, want.Views(s))
			}
			// Nothing changes before Until, and what changes by time changes then.
			until := got.Until
			if until.IsZero() {
				until = start.Add(100 * time.Hour)
			}
			require.False(t, until.Before(start))
			for at := start; at.Before(until); at = at.Add(59 * time.Minute) {
				require.True(t, want == set.Walk(s, at), "seed %d at %v before %v", seed, at, until)
			}
		}
	}
	t.Log(counts)
	for _, kind := range []string{"none", "deny", "allow"} {
		require.Greater(t, counts[kind], 2000)
	}
}

// Under a public authority a rule that says nobody's name admits nobody, whatever was
// checked when the policy was made.
func TestNobodyIsNamedUnderAPublicAuthority(t *testing.T) {
	for _, any := range []bool{false, true} {
		r := ruleset.Rule{Name: "r", AnyClient: any}
		r.Emails([]string{"*@a.example"})
		s := &ruleset.Subject{Emails: []string{"u@a.example"}, Views: []ruleset.View{{Authority: "web", Public: true, Usable: true}}}
		require.Equal(t, any, ruleset.New([]ruleset.Rule{r}).Match(s, start).Rule != nil)
	}
}

// The names by which a client is identified are those for which the authority of its
// chains may speak, and these chains alone count.
func TestScopeOfNames(t *testing.T) {
	of := func(hosts ...string) func(string) bool {
		return func(h string) bool { return slices.Contains(hosts, h) }
	}
	s := &ruleset.Subject{
		URIs: []string{"spiffe://b.example/x"}, Alone: true, Emails: []string{"u@b.example", "v@a.example", "w@c.example"}, UPNs: []string{"u@bücher.example", "v@xn--bcher-kva.example"},
		Views: []ruleset.View{{Authority: "a", Usable: true, May: of("a.example")}, {Authority: "b", Usable: true, May: of("b.example", "xn--bcher-kva.example")}, {Authority: "c", Usable: true, May: of("c.example")}, {Authority: "any", Usable: true}},
	}
	for name, row := range map[string]struct {
		make            func(*ruleset.Rule)
		views           []int
		uri, email, upn string
	}{
		"e-mail": {func(r *ruleset.Rule) { r.Emails([]string{"*@b.example", "*@a.example"}) }, []int{0, 3}, "", "v@a.example", ""},
		"URI":    {func(r *ruleset.Rule) { r.URIs([]string{"spiffe://b.example/*"}) }, []int{1, 3}, "spiffe://b.example/x", "", ""},
		"UPN":    {func(r *ruleset.Rule) { r.UPNs([]string{"*@bücher.example"}) }, []int{1, 3}, "", "", "u@bücher.example"},
		"e-mail and UPN": {func(r *ruleset.Rule) {
			r.Emails([]string{"*@c.example", "*@b.example"})
			r.UPNs([]string{"*@bücher.example"})
		}, []int{1, 3}, "", "u@b.example", "u@bücher.example"},
		"nobody may": {func(r *ruleset.Rule) { r.Emails([]string{"*@c.example"}); r.Authorities([]string{"a", "b"}) }, nil, "", "", ""},
		"each another one": {func(r *ruleset.Rule) {
			r.Emails([]string{"*@a.example"})
			r.URIs([]string{"spiffe://b.example/*"})
			r.Authorities([]string{"a", "b"})
		}, nil, "", "", ""},
	} {
		r := ruleset.Rule{Name: name}
		row.make(&r)
		set := ruleset.New([]ruleset.Rule{r})
		m := set.Match(s, start)
		require.Equal(t, row.views != nil, m.Rule != nil, name)
		if m.Rule == nil {
			require.NotEmpty(t, set.Near(s, start)[0].Field, name)
			continue
		}
		uri, email, upn, views := m.Rule.Held(s, m.Rule.Views(s))
		require.Equal(t, row.views, views, name)
		require.Equal(t, []string{row.uri, row.email, row.upn}, []string{uri, email, upn}, name)
	}
}

// The same with authorities that may speak for some hosts only, certificates that cannot be
// read, and domains that capital letters make others of; and what a client is
// identified by is what the authority of its chains may speak for.
func TestIndexAgainstWalkingWithScopes(t *testing.T) {
	counts := map[string]int{}
	fold := func(s string) string {
		n, err := dnsname.FromPolicy(s)
		require.NoError(t, err)
		return n
	}
	for seed := range uint64(1500) {
		w := world{rand.New(rand.NewPCG(seed, 77))}
		rules := make([]ruleset.Rule, 1+w.IntN(10))
		for i := range rules {
			rules[i] = w.rule(i)
			if w.IntN(3) == 0 {
				r := ruleset.Rule{Name: fmt.Sprint(i), Order: int32(i), Deny: w.IntN(2) == 0}
				if w.IntN(2) == 0 {
					r.Domains([]string{pick(w, fold("straße.example"), "strasse.example", "*.example", fold("βόλος.example"), fold("βόλοσ.example"))})
				}
				if w.IntN(2) == 0 {
					r.Emails([]string{pick(w, "*@a.example", "u@b.example")})
				}
				if w.IntN(3) == 0 {
					r.UPNs([]string{pick(w, "*@a.example", "u@b.example")})
				}
				rules[i] = r
			}
		}
		set := ruleset.New(rules)
		for range 25 {
			s := w.subject()
			s.Unread, s.More = w.IntN(4) == 0, w.IntN(4) == 0
			if w.IntN(3) == 0 {
				s.Other = append(s.Other, pick(w, fold("straße.example"), "strasse.example", fold("βόλοσ.example"), "*.example"))
			}
			if w.IntN(3) == 0 {
				s.Names = append(s.Names, pick(w, fold("straße.example"), "strasse.example", fold("βόλος.example")))
			}
			for i := range s.Views {
				v := &s.Views[i]
				v.Mailboxes = w.IntN(4) == 0
				if w.IntN(2) == 0 {
					scope := pick(w, "a.example", "b.example", "c.a.example", "example", "x")
					v.May = func(h string) bool { return dnsname.InSubtree(h, scope) }
				}
			}
			want, got := set.Walk(s, start), set.Match(s, start)
			require.True(t, want == got.Rule, "seed %d", seed)
			switch {
			case want == nil:
				counts["none"]++
			case want.Deny:
				counts["deny"]++
			default:
				counts["allow"]++
				views := want.Views(s)
				require.NotEmpty(t, views)
				uri, email, upn, of := want.Held(s, views)
				require.NotEmpty(t, of)
				require.Equal(t, views[0], of[0])
				for _, i := range of {
					v := s.Views[i]
					require.True(t, v.Usable)
					for _, n := range []string{email, upn} {
						if n != "" && v.May != nil {
							require.True(t, v.May(n[strings.LastIndexByte(n, '@')+1:]))
						}
					}
					if uri != "" && v.May != nil && strings.Contains(uri, "//") {
						require.True(t, v.May(strings.Split(uri, "/")[2]))
					}
				}
			}
		}
	}
	require.Len(t, counts, 3)
}

// A rule that many names of a certificate lead to is looked at once, and its condition
// in Go is asked once.
func TestEachRuleIsTriedOnce(t *testing.T) {
	for _, deny := range []bool{false, true} {
		const many = 40
		var rules []ruleset.Rule
		asked := 0
		for i := range many {
			r := ruleset.Rule{Name: fmt.Sprint(i), Order: int32(i), Deny: deny}
			r.Domains([]string{"*.a.example"})
			r.When(func(*x509.Certificate) bool { asked++; return false })
			rules = append(rules, r)
		}
		s := &ruleset.Subject{Leaf: func() *x509.Certificate { return nil }, Views: []ruleset.View{{Authority: "a", Usable: true}}}
		for i := range 200 {
			s.Names = append(s.Names, fmt.Sprintf("n%d.a.example", i))
		}
		require.Nil(t, ruleset.New(rules).Match(s, start).Rule)
		require.Equal(t, many, asked)
	}
}

func TestScopeOfURIs(t *testing.T) {
	for uri, host := range map[string]string{
		"spiffe://acme.example/x": "acme.example", "https://u:p@acme.example:8443/x?@b#@c": "acme.example", "https://acme.example./x": "acme.example", "https://acme.example?@b": "acme.example",
		"https://a;b@acme.example/": "acme.example", "https://[2001:db8::1]:1/": "", "https://192.0.2.1/": "", "https://globex.example/@acme.example": "globex.example",
		"sip:acme.example": "acme.example", "sips:acme.example:5061;transport=tls": "acme.example", "sip:ann@acme.example?x": "acme.example",
		"mailto:ann@acme.example": "acme.example", "acct:ann@acme.example": "acme.example", "xmpp:ann@acme.example/here": "acme.example",
		// What could be read in two ways has no host that a scope could have.
		"sip:globex.example;x@acme.example": "", "sip:globex.example?x@acme.example": "", "mailto:?to=ann@acme.example": "", "mailto:a@globex.example?cc=ann@acme.example": "",
		"https:acme.example/x": "", "https:/acme.example/x": "", "did:web:acme.example": "", "file:///srv/acme": "",
		"https://a;b@acme.example;c/": "", "https://acme.example;.globex.example/": "", "https://a@acme.example@globex.example/": "", "mongodb://db.acme.example,db.globex.example/x": "",
		"mongodb://db.acme.example:1,db.globex.example:2/x": "", "mailto:ann@acme.example,bob@globex.example": "", "mailto:ann,bob@globex.example": "", "sip:ann@acme.example@globex.example": "",
		"sip:globex.example:acme.example": "", "mailto:ann@acme.example%2Cbob@globex.example": "", "xmpp://guest@globex.example/ann@acme.example": "",
		"urn://acme.example/x": "acme.example", "tag://u@acme.example:1": "acme.example", "tag:///x": "", "urn:/acme.example": "none",
		"urn:acme:x": "none", "tag:acme.example,2026:x": "none",
	} {
		r := ruleset.Rule{Name: "r"}
		r.URIs([]string{uri})
		got := "none"
		r.Beyond(func(h string) bool {
			got = h
			return true
		}, nil)
		require.Equal(t, host, got, uri)
	}
}
