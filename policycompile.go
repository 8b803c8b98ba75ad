package mtls

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mtlsguard/mtls/internal/altname"
	"github.com/mtlsguard/mtls/internal/dn"
	"github.com/mtlsguard/mtls/internal/dnsname"
	"github.com/mtlsguard/mtls/internal/ruleset"
)

func compilePolicy(rules []Rule) (*policyState, error) {
	var failed problems
	if len(rules) == 0 {
		failed.add("Policy", "", "no rules: nobody could be admitted; DenyAll says so by name")
	}
	state := &policyState{grants: make([]grant, 0, len(rules))}
	compiled := make([]ruleset.Rule, 0, len(rules))
	var disabled []ruleset.Rule
	known := shared{origins: map[*Origin]*originSpec{}, as: map[string]*clientAs{}, chains: map[string]*ruleset.Rule{}}
	names := make(map[string]bool, len(rules))
	for i := range rules {
		r, began := &rules[i], len(failed)
		field := "Policy: rule " + quote(r.Name)
		if r.Name == "" {
			field = fmt.Sprintf("Policy: rule %d", i)
			failed.add(field, "", "Name is empty")
		} else if names[r.Name] {
			failed.add(field, "", "a second rule of this name")
		}
		names[r.Name] = true
		c := ruleset.Rule{Name: r.Name, Place: int32(i), Deny: r.Deny, AnyClient: r.InsecureAnyClient}
		g := compileRule(&failed, field, r, &c, &known)
		failed.locate(began, i, field)
		if r.Disabled {
			c.Order = int32(len(disabled))
			disabled = append(disabled, c)
			continue
		}
		c.Order = int32(len(compiled))
		compiled, state.grants = append(compiled, c), append(state.grants, g)
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	state.set = ruleset.New(compiled)
	if disabled != nil {
		state.disabled = ruleset.New(disabled)
	}
	return state, nil
}

// locate says of the problems since began of which rule they are.
func (p problems) locate(began, rule int, field string) {
	for _, e := range p[began:] {
		var c *ConfigError
		if errors.As(e, &c) {
			c.Rule, c.Item = rule+1, strings.TrimPrefix(strings.TrimPrefix(c.Field, field), ": ")
		}
	}
}

// each reads a list of a rule into its canonical form.
func each(failed *problems, field string, list []string, problem string, read func(string) (string, error)) []string {
	canonical := make([]string, 0, len(list))
	for i, text := range list {
		name, err := read(text)
		if err != nil {
			*failed = append(*failed, &ConfigError{Field: fmt.Sprintf("%s[%d]", field, i), Value: text, Problem: problem, Err: err})
			continue
		}
		canonical = append(canonical, name)
	}
	return canonical
}

// emptyLists reports lists that are there and have nothing in them: a program that
// fills a list, and finds nothing, must not get a rule that asks less.
func emptyLists(failed *problems, field string, r *Rule) {
	for _, list := range []struct {
		name  string
		empty bool
	}{
		{"Domains", empty(r.Domains)}, {"URIs", empty(r.URIs)}, {"Emails", empty(r.Emails)}, {"UPNs", empty(r.UPNs)},
		{"Certificates", empty(r.Certificates)}, {"PublicKeys", empty(r.PublicKeys)}, {"Subject", empty(r.Subject)}, {"Issuer", empty(r.Issuer)},
		{"Authorities", empty(r.Authorities)}, {"IssuerKeys", empty(r.IssuerKeys)}, {"PolicyOIDs", empty(r.PolicyOIDs)},
		{"Extensions", empty(r.Extensions)}, {"Curves", empty(r.Curves)}, {"Groups", empty(r.Groups)},
	} {
		if list.empty {
			failed.add(field+": "+list.name, "", "an empty list, which nobody could match; nil asks nothing")
		}
	}
}

func empty[T any](list []T) bool { return list != nil && len(list) == 0 }

func compileRule(failed *problems, field string, r *Rule, c *ruleset.Rule, known *shared) grant {
	emptyLists(failed, field, r)
	wildcard := compileNames(failed, field, r, c)
	compileConditions(failed, field, r, c)
	compileIssuers(failed, field, r, c)
	known.chain(r, c)
	for i, role := range r.Roles {
		if role == "" {
			failed.add(fmt.Sprintf("%s: Roles[%d]", field, i), "", "an empty role")
		}
	}
	for i, group := range r.Groups {
		if group == "" {
			failed.add(fmt.Sprintf("%s: Groups[%d]", field, i), "", "an empty group")
		}
	}
	if !r.NotBefore.IsZero() && !r.NotAfter.IsZero() && r.NotAfter.Before(r.NotBefore) {
		failed.add(field+": NotAfter", r.NotAfter.String(), "before NotBefore: the rule would never exist")
	}
	c.Between(r.NotBefore, r.NotAfter)

	issued := len(r.IssuerKeys)+len(r.Authorities) > 0
	byName := len(r.URIs)+len(r.Emails)+len(r.UPNs)+len(r.Subject)+len(r.Issuer)+len(r.Extensions) > 0
	named := len(r.Domains)+len(r.Certificates)+len(r.PublicKeys) > 0 || issued || byName
	if r.Deny {
		if r.Origin != nil {
			failed.add(field+": Origin", "", "a deny rule has no Origin: it holds wherever the client is")
		}
		if len(r.Roles) > 0 || r.Account != "" || len(r.Groups) > 0 || r.InsecureAnyClient {
			failed.add(field, "", "a deny rule has no Roles, no Account, no Groups and no InsecureAnyClient")
		}
		if r.MinRSABits != 0 || len(r.Curves) > 0 {
			failed.add(field, "", "a deny rule has no MinRSABits and no Curves, which list keys that are good enough")
		}
		if !named && len(r.PolicyOIDs) == 0 && r.When == nil {
			failed.add(field, "", "it would deny everybody; DenyAll says so by name")
		}
		return grant{}
	}
	if !named && !r.InsecureAnyClient {
		failed.add(field, "", "it would admit every client of every trusted CA; InsecureAnyClient says so by name")
	}
	if byName && !issued && len(r.Certificates) == 0 {
		failed.add(field+": Authorities", "", "any CA can write any name: a rule with URIs, Emails, UPNs, Subject, Issuer or Extensions says in Authorities or IssuerKeys whose certificates it means")
	}
	g := grant{}
	if r.Account != "" || len(r.Roles) > 0 || len(r.Groups) > 0 {
		g.as = known.clientAs(r)
	}
	if r.Origin != nil {
		g.origin = known.origin(failed, field+": Origin", r.Origin)
		if r.Origin.Published && len(r.Domains) == 0 {
			failed.add(field+": Origin.Published", "", "the rule names no domain that could publish anything")
		}
	}
	if len(r.Domains) == 0 || wildcard {
		if g.origin == nil || !g.origin.Stated() {
			failed.add(field+": Origin", "", "a rule without an exact domain has none to look up: state an Origin with Hosts, Prefixes or ReverseSuffixes, or NoOrigin()")
		}
	}
	return g
}

// shared are the parts of rules that many of a policy have in common.
type shared struct {
	origins map[*Origin]*originSpec
	as      map[string]*clientAs
	chains  map[string]*ruleset.Rule
}

// origin compiles an Origin, or finds what it was compiled to for another rule. All
// that NoOrigin returned are one.
func (k *shared) origin(failed *problems, field string, o *Origin) *originSpec {
	key := o
	if o.off && !o.settings() {
		key = nil
	}
	if spec, ok := k.origins[key]; ok {
		return spec
	}
	spec, err := compileOrigin(o, field)
	failed.join(err)
	if err == nil {
		k.origins[key] = spec
	}
	return spec
}

func (k *shared) clientAs(r *Rule) *clientAs {
	key := fmt.Sprintf("%q %q %q", r.Account, r.Roles, r.Groups)
	as := k.as[key]
	if as == nil {
		as = &clientAs{account: r.Account, roles: slices.Clone(r.Roles), groups: slices.Clone(r.Groups)}
		k.as[key] = as
	}
	return as
}

// chain has a rule share its conditions on chains where authorities are all of them.
func (k *shared) chain(r *Rule, c *ruleset.Rule) {
	key, ok := c.ChainKey()
	if r.Deny || !ok {
		return
	}
	if same, ok := k.chains[key]; ok {
		c.ShareChain(same)
	} else {
		same := *c
		k.chains[key] = &same
	}
}

// compileNames reads the names, certificates and keys of the clients, and reports
// whether a domain is a wildcard.
func compileNames(failed *problems, field string, r *Rule, c *ruleset.Rule) (wildcard bool) {
	if len(r.Certificates) > 0 {
		c.Certificates(hashes(failed, field+": Certificates", r.Certificates))
	}
	if len(r.PublicKeys) > 0 {
		c.PublicKeys(hashes(failed, field+": PublicKeys", r.PublicKeys))
	}
	if len(r.Domains) > 0 {
		c.Domains(each(failed, field+": Domains", r.Domains, "not a domain for a rule", func(s string) (string, error) {
			name, err := dnsname.FromPolicy(s)
			if err == nil && !r.Deny && dnsname.WildcardUnderPublicSuffix(name) {
				err = errors.New("a wildcard directly under a public suffix would admit strangers")
			}
			wildcard = wildcard || err == nil && dnsname.IsWildcard(name)
			return name, err
		}))
	}
	if len(r.URIs) > 0 {
		c.URIs(each(failed, field+": URIs", r.URIs, "not a URI for a rule", altname.URIFromPolicy))
	}
	if len(r.Emails) > 0 {
		c.Emails(each(failed, field+": Emails", r.Emails, "not an e-mail address for a rule", altname.EmailFromPolicy))
	}
	if len(r.UPNs) > 0 {
		c.UPNs(each(failed, field+": UPNs", r.UPNs, "not a user principal name for a rule", altname.UPNFromPolicy))
	}
	return wildcard
}

// compileConditions reads what else a client's certificate must have.
func compileConditions(failed *problems, field string, r *Rule, c *ruleset.Rule) {
	compileAttributes(failed, field+": Subject", r.Subject, func(p dn.Pattern) { c.Attribute(false, p) })
	compileAttributes(failed, field+": Issuer", r.Issuer, func(p dn.Pattern) { c.Attribute(true, p) })
	for i, e := range r.Extensions {
		at := fmt.Sprintf("%s: Extensions[%d]", field, i)
		if e.OID.String() == "" {
			failed.add(at, "", "OID is empty")
		}
		if b2i(e.Value != nil)+b2i(e.Text != "")+b2i(e.AnyValue) != 1 {
			failed.add(at, e.OID.String(), "one of Value, Text and AnyValue")
		}
		c.Extension(e.OID, slices.Clone(e.Value), e.Text)
	}
	if r.MinRSABits < 0 {
		failed.add(field+": MinRSABits", fmt.Sprint(r.MinRSABits), "negative")
	}
	for i, curve := range r.Curves {
		if !slices.Contains([]string{"P-256", "P-384", "P-521", "Ed25519"}, curve) {
			failed.add(fmt.Sprintf("%s: Curves[%d]", field, i), curve, "none of P-256, P-384, P-521 and Ed25519")
		}
	}
	if r.MinRSABits != 0 || len(r.Curves) > 0 {
		c.Keys(r.MinRSABits, slices.Clone(r.Curves))
	}
	if r.When != nil {
		c.When(r.When)
	}
}

func compileAttributes(failed *problems, field string, list []Attribute, add func(dn.Pattern)) {
	for i, a := range list {
		p, err := dn.ParsePattern(a.Type, a.Value, a.IgnoreCase)
		if err != nil {
			*failed = append(*failed, &ConfigError{Field: fmt.Sprintf("%s[%d]", field, i), Value: a.Type + "=" + a.Value, Problem: "not an attribute for a rule", Err: err})
			continue
		}
		add(p)
	}
}

// compileIssuers reads whose certificates are meant.
func compileIssuers(failed *problems, field string, r *Rule, c *ruleset.Rule) {
	for i, name := range r.Authorities {
		if name == "" {
			failed.add(fmt.Sprintf("%s: Authorities[%d]", field, i), "", "an empty name")
		}
	}
	for i, oid := range r.PolicyOIDs {
		if text := oid.String(); text == "" || oid.Equal(ruleset.AnyPolicy) {
			failed.add(fmt.Sprintf("%s: PolicyOIDs[%d]", field, i), text, "empty, or anyPolicy, which is every policy")
		}
	}
	if len(r.IssuerKeys) > 0 {
		c.IssuerKeys(hashes(failed, field+": IssuerKeys", r.IssuerKeys))
	}
	if len(r.Authorities) > 0 {
		c.Authorities(slices.Clone(r.Authorities))
	}
	if len(r.PolicyOIDs) > 0 {
		c.Policies(slices.Clone(r.PolicyOIDs))
	}
}

// hashes copies hashes, none of which may be the zero hash.
func hashes[H ~[32]byte](failed *problems, field string, list []H) []ruleset.Hash {
	copied := make([]ruleset.Hash, len(list))
	for i, h := range list {
		if h == (H{}) {
			failed.add(fmt.Sprintf("%s[%d]", field, i), "", "the zero hash is the hash of nothing")
		}
		copied[i] = ruleset.Hash(h)
	}
	return copied
}

// crossCheck finds what is wrong only with a policy and roots together.
func crossCheck(roots *rootsState, policy *policyState, field string) error {
	if roots == nil || policy == nil {
		return nil // reported by whoever needs them
	}
	var failed problems
	check := func(set *ruleset.Set) {
		rules := set.Rules()
		for i := range rules {
			began := len(failed)
			if crossCheckRule(&failed, &rules[i], roots); len(failed) > began {
				at := fmt.Sprintf("%s: rule %s", field, quote(rules[i].Name))
				for _, e := range failed[began:] {
					if c, ok := e.(*ConfigError); ok {
						c.Field = at + ": " + c.Field
					}
				}
				failed.locate(began, int(rules[i].Place), at)
			}
		}
	}
	check(policy.set)
	if policy.disabled != nil {
		check(policy.disabled)
	}
	return failed.err()
}

func crossCheckRule(failed *problems, r *ruleset.Rule, roots *rootsState) {
	named := r.ListedAuthorities()
	var usable []*authority
	for _, a := range roots.authorities {
		if len(named) == 0 || slices.Contains(named, a.Name) {
			usable = append(usable, a)
		}
	}
	for i, name := range named {
		if !slices.ContainsFunc(roots.authorities, func(a *authority) bool { return a.Name == name }) {
			failed.add(fmt.Sprintf("Authorities[%d]", i), name, "no authority of this name in Roots")
		}
	}
	if r.Deny || len(usable) == 0 {
		return
	}
	if r.Anonymous() && !r.AnyClient && slices.ContainsFunc(usable, func(a *authority) bool { return a.Public }) {
		failed.add("Authorities", "", "under a public authority nobody is named but by Domains, Certificates or PublicKeys: list the authorities that are meant; InsecureAnyClient accepts, by name, whatever its CAs write")
	}
	r.Beyond(func(host string) bool {
		return slices.ContainsFunc(usable, func(a *authority) bool { return a.mayName(host) })
	}, func(field string, i int, name string) {
		failed.add(fmt.Sprintf("%s[%d]", field, i), name, "no authority of the rule may speak for it (Authority.Domains): it could never match")
	})
	for i, d := range r.ListedDomains() {
		if !slices.ContainsFunc(usable, func(a *authority) bool { return a.mayName(d) }) {
			failed.add(fmt.Sprintf("Domains[%d]", i), d, "no authority of the rule may speak for it: the rule could never match")
		}
	}
}
