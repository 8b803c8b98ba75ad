package directory_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

func ldapConfig(s *testdir.Slapd) directory.LDAP {
	return directory.LDAP{
		Connection: directory.Connection{URLs: []string{s.LDAPS}, RootCAs: s.CA.Pool(), User: "uid=service,ou=people," + testdir.SlapdDN, Password: given(testdir.Password),
			Timeout: time.Minute, Logger: (&testdir.Log{}).Logger()},
		BaseDN: testdir.SlapdDN, Filter: "(&(objectClass=inetOrgPerson)(mail={email}))",
	}
}

func newLDAP(t testing.TB, cfg directory.LDAP) *directory.Mapper {
	t.Helper()
	m, err := directory.NewLDAP(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// TestRealSlapd: OpenLDAP, by configuration.
func TestRealSlapd(t *testing.T) {
	s := testdir.StartSlapd(t)
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	people := ",ou=people," + testdir.SlapdDN
	for _, row := range []struct {
		name    string
		set     func(*directory.LDAP)
		id      func(*mtlstest.Identity)
		want    mtls.Account
		refused string
		unknown string
	}{
		{name: "LDAPS", id: byEmail("alice@example.org"), want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "StartTLS", set: func(c *directory.LDAP) { c.URLs = []string{s.LDAP} }, id: byEmail("alice@example.org"), want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "plaintext", set: func(c *directory.LDAP) { c.URLs, c.InsecurePlaintext = []string{s.LDAP}, true }, id: byEmail("alice@example.org"), unknown: "it wants TLS"},
		{name: "anonymous", set: func(c *directory.LDAP) { c.User, c.Password = "", nil }, id: byEmail("alice@example.org"), unknown: "does not exist, or User may not see it"},
		{name: "wrong password", set: func(c *directory.LDAP) { c.Password = given("wrong") }, id: byEmail("alice@example.org"), unknown: "the password is wrong or has expired"},
		{name: "nobody", id: byEmail("eve@example.org"), refused: "none for the client"},
		{name: "no e-mail", id: byEmail(""), refused: "no {email}"},
		{name: "two of one e-mail", id: byEmail("twin@example.org"), refused: `"uid=twin1` + people + `" and "uid=twin2` + people + `"`},
		{name: "two of one UPN", set: func(c *directory.LDAP) { c.Filter = "(userPrincipalName={upn})" },
			id: func(i *mtlstest.Identity) { i.UPN = "twin@example.org" }, refused: `"uid=twin1` + people + `" and "uid=twin2` + people + `"`},
		{name: "a filter that finds everybody", set: func(c *directory.LDAP) { c.Filter = "(|(uid=*)(uid={rule}))" }, id: byEmail("x"), refused: "several accounts"},
		{name: "attributes", set: func(c *directory.LDAP) { c.Attributes = []string{"telephoneNumber", "SN", "title"} }, id: byEmail("alice@example.org"),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people, Attributes: map[string][]string{"telephoneNumber": {"+44 1", "+44 2"}, "SN": {"Liddell"}}}},
		{name: "named by another attribute", set: func(c *directory.LDAP) { c.Name = "cn" }, id: byEmail("alice@example.org"), want: mtls.Account{Name: "Alice", ID: "uid=alice" + people}},
		{name: "named by an attribute of two values", set: func(c *directory.LDAP) { c.Name = "telephoneNumber" }, id: byEmail("alice@example.org"), unknown: "2 values of telephoneNumber"},
		{name: "named by an attribute that is not there", set: func(c *directory.LDAP) { c.Name = "title" }, id: byEmail("alice@example.org"), unknown: "no title that User may read"},
		{name: "enabled", set: func(c *directory.LDAP) { c.Enabled = "(|(!(accountLockedTime=*))(accountLockedTime>={now}))" }, id: byEmail("alice@example.org"), want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "locked", set: func(c *directory.LDAP) { c.Enabled = "(|(!(accountLockedTime=*))(accountLockedTime>={now}))" }, id: byEmail("bob@example.org"), want: mtls.Account{Name: "bob", ID: "uid=bob" + people, Disabled: true}},
		{name: "what the server does not know is not true", set: func(c *directory.LDAP) { c.Enabled = "(noSuchAttribute=*)" }, id: byEmail("alice@example.org"), want: mtls.Account{Name: "alice", ID: "uid=alice" + people, Disabled: true}},
		{name: "nor is it under a negation", set: func(c *directory.LDAP) { c.Enabled = "(!(noSuchAttribute=*))" }, id: byEmail("alice@example.org"), unknown: `LDAP.Enabled has "noSuchAttribute" under a !`},
		{name: "nor by a rule that the server does not know", set: func(c *directory.LDAP) { c.Enabled = "(!(cn:noSuchMatch:=x))" }, id: byEmail("alice@example.org"), unknown: `LDAP.Enabled has "noSuchMatch" under a !`},
		{name: "by what the server knows", set: func(c *directory.LDAP) {
			c.Enabled = "(&(!(2.5.4.3=x))(!(commonName:caseExactMatch:=x))(!(cn:2.5.13.2:=x))(!(userCertificate;binary=*))(!(accountLockedTime=*)))"
		}, id: byEmail("alice@example.org"), want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "groups beside a negation", set: func(c *directory.LDAP) { c.GroupFilter = "(&(!(cn=x))(member={dn}))" }, id: byEmail("alice@example.org"),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people, Groups: []string{"payments"}}},
		{name: "groups", set: func(c *directory.LDAP) { c.GroupFilter = "(member={dn})" }, id: byEmail("alice@example.org"),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people, Groups: []string{"payments"}}},
		{name: "groups in groups", set: func(c *directory.LDAP) { c.GroupFilter, c.GroupDepth = "(&(objectClass=groupOfNames)(member={dn}))", 1 }, id: byEmail("alice@example.org"),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people, Groups: []string{"payments", "finance"}}},
		{name: "groups in a loop", set: func(c *directory.LDAP) { c.GroupFilter, c.GroupDepth, c.GroupName = "(member={dn})", 16, "dn" }, id: byEmail("alice@example.org"),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people, Groups: []string{"cn=payments,ou=groups," + testdir.SlapdDN, "cn=finance,ou=groups," + testdir.SlapdDN, "cn=company,ou=groups," + testdir.SlapdDN}}},
		{name: "too many groups", set: func(c *directory.LDAP) { c.GroupFilter, c.GroupDepth, c.MaxGroups = "(member={dn})", 16, 2 }, id: byEmail("alice@example.org"), unknown: "in more than 2 groups"},
		{name: "groups elsewhere", set: func(c *directory.LDAP) { c.GroupFilter, c.GroupBaseDN = "(member={dn})", "ou=people,"+testdir.SlapdDN }, id: byEmail("alice@example.org"),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "groups where nothing is", set: func(c *directory.LDAP) { c.GroupFilter, c.GroupBaseDN = "(member={dn})", "ou=none,"+testdir.SlapdDN }, id: byEmail("alice@example.org"), unknown: "no such entry"},
		{name: "odd names", set: func(c *directory.LDAP) { c.Filter, c.GroupFilter = "(uid={uid})", "(member={dn})" }, id: withSubject(t, ca, pkix.AttributeTypeAndValue{Type: []int{0, 9, 2342, 19200300, 100, 1, 1}, Value: `a(b)*c\d`}),
			want: mtls.Account{Name: `a(b)*c\d`, ID: `uid=a(b)*c\5Cd` + people, Groups: []string{"odd"}}},
		{name: "a referral", set: func(c *directory.LDAP) { c.BaseDN = "ou=elsewhere," + testdir.SlapdDN }, id: byEmail("alice@example.org"), unknown: "not followed"},
		{name: "the rule's account", set: func(c *directory.LDAP) { c.Filter = "(uid={account})" }, id: func(i *mtlstest.Identity) { i.Name = "alice" }, want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "the rule", set: func(c *directory.LDAP) { c.Filter = "(uid={rule})" }, id: func(i *mtlstest.Identity) { i.Rule = "alice" }, want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
		{name: "a part of a value", set: func(c *directory.LDAP) { c.Filter = "(mail={uid}@example.org)" }, id: withSubject(t, ca, pkix.AttributeTypeAndValue{Type: []int{0, 9, 2342, 19200300, 100, 1, 1}, Value: "alice"}),
			want: mtls.Account{Name: "alice", ID: "uid=alice" + people}},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := ldapConfig(s)
			if row.set != nil {
				row.set(&cfg)
			}
			m := newLDAP(t, cfg)
			a, err := m.MapAccount(t.Context(), identity(t, nil, row.id))
			switch {
			case row.unknown != "":
				requireUnknown(t, err, row.unknown)
			case row.refused != "":
				requireRefused(t, err, row.refused)
			default:
				require.NoError(t, err)
				require.False(t, a.Expires.IsZero())
				a.Expires = time.Time{}
				require.Equal(t, row.want, a)
			}
		})
	}

	t.Run("its schema is read whole", func(t *testing.T) {
		c, err := s.Admin()
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.Bind("uid=service"+people, testdir.Password))
		requireSchema(t, c, "cn=Subschema", 100)
	})
	t.Run("the server's size limit", func(t *testing.T) {
		c, err := s.Admin()
		require.NoError(t, err)
		defer c.Close()
		for i := range 12 {
			r := ldap.NewAddRequest(fmt.Sprintf("cn=g%d,ou=groups,%s", i, testdir.SlapdDN), nil)
			r.Attribute("objectClass", []string{"groupOfNames"})
			r.Attribute("member", []string{"uid=bob" + people})
			require.NoError(t, c.Add(r))
		}
		cfg := ldapConfig(s)
		cfg.GroupFilter = "(member={dn})"
		_, err = newLDAP(t, cfg).MapAccount(t.Context(), identity(t, nil, byEmail("bob@example.org")))
		requireUnknown(t, err, "the server gives no more")
	})
	t.Run("stopped and started", func(t *testing.T) {
		clock := mtlstest.NewClock(time.Time{})
		cfg := ldapConfig(s)
		cfg.Now = clock.Now
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("alice@example.org"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		s.Stop()
		clock.Advance(time.Minute)
		_, err = m.MapAccount(t.Context(), id)
		requireUnknown(t, err)
		require.NoError(t, s.Start())
		_, err = m.MapAccount(t.Context(), id)
		require.NoError(t, err)
	})
}

// requireSchema reads the descriptions of a real schema, which has more than so many
// attribute types.
func requireSchema(t testing.TB, c *ldap.Conn, dn string, least int) {
	t.Helper()
	result, err := c.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=subschema)", []string{"attributeTypes", "matchingRules"}, nil))
	require.NoError(t, err)
	require.Len(t, result.Entries, 1)
	all := append(result.Entries[0].GetAttributeValues("attributeTypes"), result.Entries[0].GetAttributeValues("matchingRules")...)
	require.Greater(t, len(all), least)
	for _, text := range all {
		names, ok := directory.Defines(text)
		require.True(t, ok, text)
		require.GreaterOrEqual(t, len(names), 2, text)
	}
}

// withSubject gives an identity a certificate with one more attribute of its subject.
func withSubject(t testing.TB, ca *mtlstest.CA, attributes ...pkix.AttributeTypeAndValue) func(*mtlstest.Identity) {
	cert := ca.Issue(mtlstest.Leaf{Template: func(c *x509.Certificate) { c.Subject = pkix.Name{ExtraNames: attributes} }})
	return func(i *mtlstest.Identity) { i.Certificate = cert }
}

// TestFieldsOfACertificate: what could be more than one thing to a directory, or
// another filter, is asked of none.
func TestFieldsOfACertificate(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(q question) reply { return reply{entries: []entry{{"cn=x", map[string][]string{"uid": {"x"}}}}} })
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	cn := func(values ...string) []pkix.AttributeTypeAndValue {
		var list []pkix.AttributeTypeAndValue
		for _, v := range values {
			list = append(list, pkix.AttributeTypeAndValue{Type: []int{2, 5, 4, 3}, Value: v})
		}
		return list
	}
	cfg := directory.LDAP{Connection: f.connection(), BaseDN: "dc=x", Filter: "(cn={cn})"}
	m := newLDAP(t, cfg)
	for _, values := range [][]string{nil, {""}, {"a", "b"}, {" a"}, {"a "}, {"a  b"}, {"a\tb"}, {"a\x00"}, {"ä"}, {"ａ"}, {"a\u00adb"}, {"a\u200bb"}, {"\u212a"}, {strings.Repeat("a", 1025)}} {
		_, err := m.MapAccount(t.Context(), identity(t, nil, withSubject(t, ca, cn(values...)...)))
		require.ErrorIs(t, err, mtls.ErrNoAccount, "%q", values)
	}
	require.Zero(t, f.searches("dc=x"))
	for value, filter := range map[string]string{"a b": "(cn=a b)", "*": `(cn=\2a)`, "a)(uid=*": `(cn=a\29\28uid=\2a)`, `a\2a`: `(cn=a\5c2a)`} {
		_, err := m.MapAccount(t.Context(), identity(t, nil, withSubject(t, ca, cn(value)...)))
		require.NoError(t, err)
		require.Equal(t, filter, f.last().filter)
	}
	t.Run("who lacks the certificate", func(t *testing.T) {
		for _, filter := range []string{"(cn={cn})", "(uid={uid})", "(seeAlso={fingerprint})", "(cn={domain})", "(cn={uri})", "(mail={email})", "(upn={upn})"} {
			cfg := cfg
			cfg.Filter = filter
			_, err := newLDAP(t, cfg).MapAccount(t.Context(), identity(t, nil))
			requireRefused(t, err)
		}
	})
	t.Run("what a rule matched", func(t *testing.T) {
		cfg := cfg
		cfg.Filter = "(&(a={domain})(b={uri})(c={email})(d={upn})(e={account})(f={rule})(g={fingerprint}))"
		cert := ca.Issue(mtlstest.Leaf{})
		hash := mtls.CertificateHash{}
		_, err := newLDAP(t, cfg).MapAccount(t.Context(), identity(t, cert, func(i *mtlstest.Identity) {
			i.Domain, i.URI, i.Email, i.UPN, i.Name, i.Rule = "*.x.example", "spiffe://x/y", "a@b", "c@d", "ü)", "r*"
			id, _ := mtls.FromContext(mtlstest.NewRequest(t, "GET", "/", nil, *i).Context())
			hash = id.CertificateHash()
		}))
		require.NoError(t, err)
		require.Equal(t, `(&(a=\2a.x.example)(b=spiffe://x/y)(c=a@b)(d=c@d)(e=\c3\bc\29)(f=r\2a)(g=`+hash.String()+`))`, f.last().filter)
		require.Len(t, hash.String(), 64)
	})
}

// TestGroupsOfLDAPAreKnownInFull: a group without a name is not left out.
func TestGroupsOfLDAPAreKnownInFull(t *testing.T) {
	t.Parallel()
	groups := []entry{{"cn=b,dc=x", map[string][]string{"cn": {"b"}}}, {"cn=hidden,dc=x", nil}}
	f := newFake(t, func(q question) reply {
		if strings.Contains(q.filter, "member") {
			return reply{entries: groups}
		}
		return reply{entries: []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}}}}}
	})
	for _, row := range []struct {
		name   string
		groups []string // nil: not known
	}{{"", nil}, {"cn", nil}, {"dn", []string{"cn=b,dc=x", "cn=hidden,dc=x"}}, {"DN", []string{"cn=b,dc=x", "cn=hidden,dc=x"}}} {
		m := newLDAP(t, directory.LDAP{Connection: f.connection(), BaseDN: "dc=x", Filter: "(mail={email})", GroupFilter: "(member={dn})", GroupName: row.name})
		a, err := m.MapAccount(t.Context(), identity(t, nil, func(i *mtlstest.Identity) { i.Email = "a@x" }))
		if row.groups == nil {
			requireUnknown(t, err, `group "cn=hidden,dc=x" has no cn`)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, row.groups, a.Groups)
	}
}

func TestLDAPReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	good := directory.LDAP{Connection: directory.Connection{URLs: []string{"ldap://h"}, InsecurePlaintext: true}, BaseDN: "dc=x", Filter: "(cn={cn})"}
	_, err := directory.NewLDAP(good)
	require.NoError(t, err)
	_, err = directory.NewLDAP(directory.LDAP{GroupBaseDN: "x", Name: "a(b", GroupName: "*", Attributes: []string{" "}, GroupDepth: 17, MaxGroups: 10001, GroupFilter: "(memberUid={name})"})
	for _, field := range []string{"URLs", "BaseDN", "GroupBaseDN", "Name", "GroupName", "Attributes[0]", "GroupDepth", "MaxGroups", "Filter"} {
		require.ErrorContains(t, err, "mtls: LDAP."+field+": ")
	}
	for filter, why := range map[string]string{
		"":                                       "not a filter",
		"(cn=x)":                                 "no field",
		"(cn={cn}":                               "not a filter",
		"cn={cn}":                                "not a filter",
		"({cn}=x)":                               "does not stand in a value",
		"(cn:{cn}:=x)":                           "does not stand in a value",
		"(&(a=b){cn})":                           "not a filter",
		"(&(a=b){cn}(c=d))":                      "not a filter",
		"({cn}:=x)":                              "does not stand in a value",
		"({cn}=*)":                               "does not stand in a value",
		"(cn;{cn}=x)":                            "does not stand in a value",
		"(cn:dn:{cn}:=x)":                        "does not stand in a value",
		"(cn:caseExactMatch={cn})":               "does not stand in a value",
		"(cn:2.5.13.5={cn})":                     "does not stand in a value",
		"(cn:dn={cn})":                           "does not stand in a value",
		"(|(cn={cn})(uid:caseExactMatch={uid}))": "does not stand in a value",
		`(|(cn=\00field\00)(uid:caseExactMatch={uid}))`: "does not stand in a value",
		`(|(cn=\00field\00)(uid={uid}))`:                "does not stand in a value",
		"(entryDN=ou=a(={cn},dc=x)":                     "part of a distinguished name",
		"(entryDN=ou=a(={cn})":                          "part of a distinguished name",
		"(cn={cn}(={uid})":                              "with another field",
		"(cn=a*{cn}*b*{uid})":                           "with another field",
		"(cn=a({cn})":                                   "does not begin a part",
		"(&(cn={cn})(a=b(c))":                           "does not begin a part",
		"(&(cn={cn})(a(=b))":                            "does not begin a part",
		"(cn={sn})":                                     "none of the fields",
		"(cn={})":                                       "none of the fields",
		"(cn={cn)":                                      "none of the fields",
		"(cn=}{cn})":                                    "without a {",
		"(cn={dn})":                                     "none of the fields",
		"(cn={now})":                                    "none of the fields",
		`(cn=\{cn})`:                                    "not a filter",
		`(cn=\2{cn})`:                                   "not a filter",
		"(cn={cn})(objectClass=*)":                      "not a filter",
		"(|(cn={cn})(objectClass=*":                     "not a filter",
		"(entryDN=uid={cn},dc=x)":                       "part of a distinguished name",
		`(entryDN=uid\3D{cn})`:                          "part of a distinguished name",
		"(entryDN={cn},dc=x)":                           "part of a distinguished name",
		"(entryDN:dn:=uid={cn})":                        "part of a distinguished name",
		"(cn={cn}{uid})":                                "with another field",
		"(cn={cn}-{uid})":                               "with another field",
	} {
		cfg := good
		cfg.Filter = filter
		_, err := directory.NewLDAP(cfg)
		require.ErrorContains(t, err, "mtls: LDAP.Filter: ", filter)
		require.ErrorContains(t, err, why, filter)
	}
	for _, set := range []func(*directory.LDAP){
		func(c *directory.LDAP) { c.GroupFilter = "(member=*)" },
		func(c *directory.LDAP) { c.GroupFilter = "(member={cn})" },
		func(c *directory.LDAP) { c.GroupDepth = 1 },
		func(c *directory.LDAP) { c.Enabled = "(x={cn})" },
		func(c *directory.LDAP) { c.Enabled = "(&(a=b)(end:{now}:=x))" },
		func(c *directory.LDAP) { c.Enabled = "(a=b(c)" },
		func(c *directory.LDAP) { c.Enabled = "(!(locked;bniary=*))" },
		func(c *directory.LDAP) { c.Enabled = "(&(a=b)(!(|(c=d)(locked;binary;x-y=*))))" },
		func(c *directory.LDAP) { c.Enabled = "(!(locked;=*))" },
		func(c *directory.LDAP) { c.Enabled = "(!(locked;lang-de:caseIgnoreMatch:=x))" },
		func(c *directory.LDAP) { c.Filter = "(&(cn={cn})(!(locked;lang-de=x)))" },
		func(c *directory.LDAP) { c.GroupFilter = "(&(member={dn})(!(cn;lang-de>=x)))" },
		func(c *directory.LDAP) { c.User = "x" },
		func(c *directory.LDAP) { c.Stale, c.Enabled = time.Second, "(krbPrincipalExpiration>={now})" },
	} {
		cfg := good
		set(&cfg)
		_, err := directory.NewLDAP(cfg)
		require.Error(t, err)
	}
}
