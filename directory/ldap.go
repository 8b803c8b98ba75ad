package directory

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/mtlsguard/mtls"
)

// LDAP describes a directory of any kind, such as OpenLDAP. The client is who the
// filter finds, and is refused unless that is exactly one entry.
//
// Fields of Filter:
//
//	{domain} {uri} {email} {upn}  the certificate's name that the rule matched
//	{cn} {uid}                    the only such attribute of the certificate's subject
//	{fingerprint}                 SHA-256 of the certificate, 64 small hexadecimal digits
//	{account} {rule}              the rule's Account (else its Name), and its Name
//
// A client that lacks a field, whose subject has two attributes for {cn} or {uid}, or
// whose value is not plain ASCII is refused: directories compare other characters
// loosely. In attributes that are no strings, such as telephoneNumber or
// distinguished names, plain ASCII as well: do not compare those with a client's
// names. A value has one field, and is not a distinguished name around it. It is
// compared for equality, by = or one of the rules caseExactMatch, caseIgnoreMatch,
// caseExactIA5Match, caseIgnoreIA5Match and octetStringMatch, and not under a !: nothing
// else is about this one client. Any CA can write any name: the rule says, in
// Authorities, whose certificates it means.
//
// Under a !, an attribute or matching rule that the server does not know would be true of
// everybody on some servers. So the first lookup with a connection reads the server's
// schema (subschemaSubentry of the root entry, attributeTypes and matchingRules), and
// nobody is admitted unless it has all that Filter, Enabled and GroupFilter name under a !.
// That counts as long as the connection, up to 10 minutes; a server that lacks something is
// looked at again after 5 s. A proxy's schema is its own. No option but ;binary stands there.
// Active Directory is refused with any: use NewActiveDirectory.
//
// The account's ID is the entry's distinguished name.
type LDAP struct {
	Connection
	// BaseDN is where accounts are looked for. Required.
	BaseDN string
	// Filter finds the account, such as "(&(objectClass=inetOrgPerson)(mail={email}))".
	// Required, with a field at least.
	Filter string
	// Name is the attribute that names the account, of which an entry has one. Empty: uid.
	Name string
	// Enabled is a filter that the entry of an account in use matches; one that it does
	// not match, or that the server does not understand, is disabled. {now} is the present
	// time as a GeneralizedTime:
	//
	//	(&(!(pwdAccountLockedTime=*))(|(!(krbPrincipalExpiration=*))(krbPrincipalExpiration>={now})))
	//
	// What User may not read counts as absent on some servers, so that a ! is true: where
	// possible say what an account in use has, such as (employeeType=active).
	//
	// Not with Stale, as the Mapper does not learn when the account ends: it counts for
	// what is left of Lifetime, which is at most 5 minutes longer. Empty: every entry that
	// Filter finds.
	Enabled string
	// GroupBaseDN is where groups are looked for. Empty: BaseDN.
	GroupBaseDN string
	// GroupFilter finds the groups of a member, such as "(member={dn})" or
	// "(&(objectClass=posixGroup)(memberUid={name}))". {dn} is the entry's
	// distinguished name, {name} the account's name. They are compared as those of Filter
	// are, or by 1.2.840.113556.1.4.1941 (LDAP_MATCHING_RULE_IN_CHAIN). Empty: no groups.
	GroupFilter string
	// GroupName is the attribute that names a group in Account.Groups. Empty: cn. A group
	// without it, or with several, is not known, nor then is the account. "dn" in any case:
	// the distinguished name, which is unique. Use it where those who make or edit one
	// group must not be able to name it like another.
	GroupName string
	// GroupDepth is how deep groups in groups are followed by GroupFilter's {dn}: 0 finds
	// the groups of the account, 1 those that these are in as well. At most 16. Loops end.
	GroupDepth int
	// MaxGroups bounds the groups of an account; one in more is not known. Zero: 1000.
	MaxGroups int
	// Attributes are the attributes for Account.Attributes, such as "mail".
	Attributes []string
}

// NewLDAP returns a Mapper for a directory, or everything that is wrong with the
// configuration, as mtls.ConfigErrors. It connects to nothing yet.
func NewLDAP(cfg LDAP) (*Mapper, error) {
	const of = "LDAP"
	var failed problems
	cfg.URLs, cfg.Attributes = slices.Clone(cfg.URLs), slices.Clone(cfg.Attributes)
	servers := cfg.fill(&failed, of)
	if cfg.BaseDN == "" {
		failed.add(of+".BaseDN", "", "missing")
	}
	checkDN(&failed, of+".BaseDN", cfg.BaseDN)
	checkDN(&failed, of+".GroupBaseDN", cfg.GroupBaseDN)
	if cfg.Name == "" {
		cfg.Name = "uid"
	}
	if cfg.GroupName == "" {
		cfg.GroupName = "cn"
	}
	if cfg.GroupBaseDN == "" {
		cfg.GroupBaseDN = cfg.BaseDN
	}
	checkAttribute(&failed, of+".Name", cfg.Name)
	checkAttribute(&failed, of+".GroupName", cfg.GroupName)
	checkAttributes(&failed, of+".Attributes", cfg.Attributes)
	bounded(&failed, of+".GroupDepth", &cfg.GroupDepth, 0, 16)
	bounded(&failed, of+".MaxGroups", &cfg.MaxGroups, 1000, 10000)
	k := &ldapKind{LDAP: cfg}
	k.filter = checkTemplate(&failed, of+".Filter", cfg.Filter, "domain", "uri", "email", "upn", "cn", "uid", "fingerprint", "account", "rule")
	checkEqual(&failed, of+".Filter", cfg.Filter, k.filter)
	if len(k.filter.fields) == 0 {
		failed.add(of+".Filter", cfg.Filter, "no field: every client would be the same account")
	}
	if cfg.Enabled != "" {
		k.enabled = checkTemplate(&failed, of+".Enabled", cfg.Enabled, "now")
	}
	if cfg.Stale > 0 && k.enabled.uses("now") {
		failed.add(of+".Stale", cfg.Stale.String(), "not with {now} in Enabled: when the account ends is known to the directory alone, and an earlier answer would outlive it")
	}
	if cfg.GroupFilter != "" {
		k.member = checkTemplate(&failed, of+".GroupFilter", cfg.GroupFilter, "dn", "name")
		checkEqual(&failed, of+".GroupFilter", cfg.GroupFilter, k.member, inChain)
		if len(k.member.fields) == 0 {
			failed.add(of+".GroupFilter", cfg.GroupFilter, "no field: everybody would be in the same groups")
		}
	}
	if cfg.GroupDepth > 0 && !k.member.uses("dn") {
		failed.add(of+".GroupDepth", fmt.Sprint(cfg.GroupDepth), "groups are followed by {dn}, which GroupFilter does not have")
	}
	k.negations = slices.Concat(negationsOf(of+".Filter", k.filter), negationsOf(of+".Enabled", k.enabled), negationsOf(of+".GroupFilter", k.member))
	checkOptions(&failed, k.negations)
	if err := failed.err(); err != nil {
		return nil, err
	}
	return newMapper(k, cfg.Connection, servers)
}

func checkTemplate(failed *problems, field, text string, allowed ...string) template {
	t, err := parseTemplate(text, allowed...)
	if err != nil {
		*failed = append(*failed, &mtls.ConfigError{Field: field, Value: text, Problem: "unusable", Err: err})
	}
	return t
}

func checkEqual(failed *problems, field, text string, t template, more ...string) {
	if err := t.equal(more...); err != nil {
		*failed = append(*failed, &mtls.ConfigError{Field: field, Value: text, Problem: "unusable", Err: err})
	}
}

type ldapKind struct {
	LDAP
	filter, enabled, member template
	negations               []negation
}

func (k *ldapKind) question(id *mtls.Identity) (string, asker, error) {
	found := map[string]string{}
	for _, field := range k.filter.fields {
		value, err := fieldOf(id, field)
		if err != nil {
			return "", nil, err
		}
		found[field] = value
	}
	// The answer depends on nothing else.
	filter := k.filter.fill(func(field string) string { return found[field] })
	if len(filter) > maxFilter {
		return "", nil, refuse("the names of the certificate are too long")
	}
	return filter, func(ctx context.Context, cn *conn) (finding, error) { return k.lookUp(ctx, cn, filter) }, nil
}

// fieldOf returns the value of a field, which a client must have.
func fieldOf(id *mtls.Identity, field string) (string, error) {
	switch field {
	case "account":
		return id.Name(), nil // the operator's own
	case "rule":
		return id.Rule(), nil
	case "fingerprint":
		if id.Certificate() == nil {
			return "", refuse("there is no certificate")
		}
		return id.CertificateHash().String(), nil
	}
	value := ""
	switch field {
	case "domain":
		value = id.Domain()
	case "uri":
		value = id.URI()
	case "email":
		value = id.Email()
	case "upn":
		value = id.UPN()
	case "cn", "uid":
		cert := id.Certificate()
		if cert == nil {
			return "", refuse("there is no certificate")
		}
		oid := map[string]string{"cn": "2.5.4.3", "uid": "0.9.2342.19200300.100.1.1"}[field]
		list := slices.DeleteFunc(cert.Subject.Names, func(a pkix.AttributeTypeAndValue) bool { return a.Type.String() != oid })
		if len(list) > 1 {
			return "", refuse("the certificate's subject has %d attributes for {%s}", len(list), field)
		}
		if len(list) == 1 {
			value, _ = list[0].Value.(string) // anything else is not plain
		}
	}
	switch {
	case value == "":
		return "", refuse("the client has no {%s}", field)
	case !plain(value):
		return "", refuse("the client's {%s} %s is not plain ASCII", field, quote(value))
	}
	return value, nil
}

// holds: the account rests on nothing else.
func (k *ldapKind) holds(finding) bool { return true }

// same writes a distinguished name in one way (RFC 4514), as servers write it in several.
// Entries whose names differ only in the case of letters are taken for one.
func (k *ldapKind) same(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return strings.ToLower(dn)
	}
	for _, rdn := range parsed.RDNs {
		for _, a := range rdn.Attributes {
			a.Type, a.Value = strings.ToLower(a.Type), strings.ToLower(a.Value)
		}
	}
	return parsed.String()
}

// lookUp finds the account.
func (k *ldapKind) lookUp(ctx context.Context, cn *conn, filter string) (finding, error) {
	if err := k.ready(ctx, cn); err != nil {
		return finding{}, err
	}
	e, err := cn.unique(ctx, k.BaseDN, filter, append([]string{k.Name}, k.Attributes...)...)
	if err != nil {
		return finding{}, err
	}
	a := mtls.Account{ID: e.DN}
	if a.Name, err = single(e, k.Name); err == nil && a.Name == "" {
		err = fmt.Errorf("entry %s has no %s that User may read", quote(e.DN), k.Name)
	}
	if err != nil {
		return finding{}, err
	}
	if a.Attributes, err = chosen(e, k.Attributes); err != nil {
		return finding{}, err
	}
	if k.Enabled != "" {
		now := k.Now().UTC().Format("20060102150405Z")
		entries, err := cn.search(ctx, e.DN, ldap.ScopeBaseObject, k.enabled.fill(func(string) string { return now }), 1, "1.1")
		if err != nil {
			return finding{}, fmt.Errorf("entry %s: %w", quote(e.DN), err)
		}
		if a.Disabled = len(entries) != 1; a.Disabled {
			k.Logger.Info("mtls: directory account may not be used", "account", a.Name, "dn", e.DN, "why", "the filter Enabled does not match")
			return finding{account: a}, nil
		}
	}
	if k.GroupFilter != "" {
		a.Groups, err = k.groups(ctx, cn, e.DN, a.Name)
	}
	return finding{account: a}, err
}

// groups returns the groups of the account, and those that these are in.
func (k *ldapKind) groups(ctx context.Context, cn *conn, dn, name string) ([]string, error) {
	tooMany := fmt.Errorf("account %s is in more than %d groups, or the server gives no more: see MaxGroups", quote(dn), k.MaxGroups)
	var list []string
	seen := map[string]bool{dn: true}
	members := []string{dn}
	for depth := 0; depth <= k.GroupDepth && len(members) > 0; depth++ {
		var next []string
		for _, member := range members {
			filter := k.member.fill(func(field string) string {
				if field == "name" {
					return name
				}
				return member
			})
			groups, err := cn.search(ctx, k.GroupBaseDN, ldap.ScopeWholeSubtree, filter, k.MaxGroups, k.GroupName)
			if errors.Is(err, errMore) {
				return nil, tooMany
			}
			if err != nil {
				return nil, fmt.Errorf("the groups of %s: %w", quote(member), err)
			}
			for _, g := range groups {
				if seen[g.DN] {
					continue
				}
				seen[g.DN] = true
				if len(seen) > k.MaxGroups+1 {
					return nil, tooMany
				}
				next = append(next, g.DN)
				if strings.EqualFold(k.GroupName, "dn") {
					list = append(list, g.DN)
					continue
				}
				name, err := single(g, k.GroupName)
				if err == nil && name == "" {
					err = fmt.Errorf("group %s has no %s that User may read", quote(g.DN), k.GroupName)
				}
				if err != nil {
					return nil, err
				}
				list = append(list, name)
			}
		}
		members = next
	}
	return list, nil
}
