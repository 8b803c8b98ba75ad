package directory_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

// adConfig is that of a service of the domain. A busy machine takes its time.
func adConfig(dc *testdir.DC) directory.ActiveDirectory {
	return directory.ActiveDirectory{Connection: directory.Connection{
		URLs: []string{"ldaps://" + dc.Addr}, RootCAs: dc.CA.Pool(), User: testdir.ServiceUser, Password: given(testdir.Password),
		Timeout: time.Minute, Logger: (&testdir.Log{}).Logger(),
	}}
}

func newAD(t testing.TB, cfg directory.ActiveDirectory) *directory.Mapper {
	t.Helper()
	m, err := directory.NewActiveDirectory(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// adDomain returns the shared domain with the CA in its NTAuth store.
func adDomain(t testing.TB) (*testdir.DC, *mtlstest.CA) {
	t.Helper()
	dc := servers.Samba(t)
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "ADTEST-CA"})
	dc.Publish(t, ca.Certificate())
	return dc, ca
}

func TestRealADSID(t *testing.T) {
	dc, ca := adDomain(t)
	carol, dave := dc.SID(t, "carol"), dc.SID(t, "dave")
	const nobody = testdir.DomainSID + "-999999"
	strict := newAD(t, adConfig(dc))
	cfg := adConfig(dc)
	cfg.MinStrength = directory.Weak
	weak := newAD(t, cfg)
	const uri = "tag:microsoft.com,2022-09-14:sid:"
	upn := []string{"carol@ad.test"}
	for _, row := range []struct {
		name   string
		n      names
		want   string // the account; empty: refused
		why    string
		onWeak string // the same with MinStrength Weak; empty: as want
	}{
		{"extension and UPN", names{upns: upn, sid: carol}, "carol", "", ""},
		{"extension alone", names{sid: carol}, "carol", "", ""},
		{"URI", names{uris: []string{uri + carol}}, "carol", "", ""},
		{"URI and extension", names{uris: []string{uri + carol}, sid: carol}, "carol", "", ""},
		{"an old UPN and the SID", names{upns: []string{"maiden.name@ad.test"}, sid: carol}, "carol", "", ""},
		{"a computer", names{sid: dc.SID(t, "pc1")}, "PC1$", "", ""},
		{"UPN alone", names{upns: upn}, "", "maps weakly only (UPN)", "carol"},
		{"UPN in capitals", names{upns: []string{"CAROL@AD.test"}}, "", "maps weakly only (UPN)", "carol"},
		{"SID of another account", names{upns: upn, sid: dave}, "", "several accounts", ""},
		{"SID of nobody", names{upns: upn, sid: nobody}, "", "the certificate's SID is " + nobody, ""},
		{"SID of nobody in a URI", names{upns: upn, uris: []string{uri + nobody}}, "", "the certificate's SID is " + nobody, ""},
		{"SID of a group", names{sid: testdir.DomainSID + "-512"}, "", "none for the client", ""},
		{"URI and extension differ", names{uris: []string{uri + dave}, sid: carol}, "", "two SIDs", ""},
		{"two URIs differ", names{uris: []string{uri + dave, strings.ToUpper(uri) + carol}}, "", "two SIDs", ""},
		{"extension in binary", names{upns: upn, sidDER: []byte{0x30, 0}}, "", "SID extension cannot be read", ""},
		{"extension with two names", names{upns: upn, sidDER: append([]byte{0x30, 0x82, 0, 0x80}, make([]byte, 0x80)...)}, "", "SID extension cannot be read", ""},
		{"extension with a filter", names{sid: "S-1-5-21-*"}, "", "SID \"S-1-5-21-*\" cannot be read", ""},
		{"another spelling", names{sid: strings.Replace(carol, "S-1-5", "S-1-05", 1)}, "", "cannot be read", ""},
		{"nothing of the account", names{}, "", "none for the client", ""},
		{"two UPNs of two", names{upns: []string{"carol@ad.test", "dave@ad.test"}}, "", "several accounts", ""},
		{"UPN of one, SID of the other", names{upns: []string{"dave@ad.test"}, sid: carol}, "", "several accounts", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			cert := issue(t, ca, row.n)
			check := func(m *directory.Mapper, want string) {
				t.Helper()
				a, err := mapped(t, m, cert)
				if want == "" {
					requireRefused(t, err, row.why)
					require.Zero(t, a)
					return
				}
				require.NoError(t, err)
				require.Equal(t, want, a.Name)
				require.Contains(t, a.ID, testdir.DomainSID)
				require.False(t, a.Disabled)
			}
			check(strict, row.want)
			if row.onWeak == "" {
				row.onWeak = row.want
			}
			check(weak, row.onWeak)
		})
	}
	t.Run("both accounts are named", func(t *testing.T) {
		_, err := mapped(t, strict, issue(t, ca, names{upns: upn, sid: dave}))
		requireRefused(t, err, "CN=carol,OU=Clients", "CN=dave,OU=Clients")
	})
	t.Run("a certificate older than the account", func(t *testing.T) {
		old := issue(t, ca, names{upns: upn, edit: func(c *x509.Certificate) { c.NotBefore = time.Now().AddDate(-1, 0, 0) }})
		_, err := mapped(t, weak, old)
		requireRefused(t, err, "is younger than the certificate")
		old = issue(t, ca, names{sid: carol, edit: func(c *x509.Certificate) { c.NotBefore = time.Now().AddDate(-1, 0, 0) }})
		_, err = mapped(t, weak, old)
		require.NoError(t, err, "a SID is never given again")
	})
}

func TestRealADAltSecurityIdentities(t *testing.T) {
	dc, ca := adDomain(t)
	strict := newAD(t, adConfig(dc))
	cfg := adConfig(dc)
	cfg.MinStrength = directory.Weak
	weak := newAD(t, cfg)
	carol := "CN=carol," + testdir.UsersDN
	t.Cleanup(func() { dc.Modify(t, carol, "altSecurityIdentities") })
	issueOne := func(sid string) *mtlstest.Certificate {
		return issue(t, ca, names{emails: []string{"carol@ad.test"}, sid: sid, edit: func(c *x509.Certificate) {
			c.SubjectKeyId = []byte{1, 2, 3, 4, byte(c.SerialNumber.Bytes()[0])}
		}})
	}
	for _, row := range []struct {
		form   string
		strong bool
	}{
		{"issuer and serial", true}, {"SKI", true}, {"key", true}, {"key info", true},
		{"issuer and subject", false}, {"subject", false}, {"e-mail", false},
	} {
		t.Run(row.form, func(t *testing.T) {
			cert := issueOne("")
			dc.Modify(t, carol, "altSecurityIdentities", "X509:<I>CN=other<SR>00", altForms(t, cert.Leaf(), "")[row.form])
			a, err := mapped(t, weak, cert)
			require.NoError(t, err)
			require.Equal(t, "carol", a.Name)
			a, err = mapped(t, strict, cert)
			if !row.strong {
				requireRefused(t, err, "maps weakly only", "CN=carol")
				return
			}
			require.NoError(t, err)
			require.Equal(t, "carol", a.Name)

			// Of another account, it denies even beside the SID.
			_, err = mapped(t, strict, issue(t, ca, names{sid: dc.SID(t, "carol")}))
			require.NoError(t, err)
		})
	}
	t.Run("of another account than the SID", func(t *testing.T) {
		cert := issueOne(dc.SID(t, "dave"))
		for _, text := range altForms(t, cert.Leaf(), dc.SID(t, "dave")) {
			dc.Modify(t, carol, "altSecurityIdentities", text)
			strict.Flush()
			_, err := mapped(t, strict, cert)
			requireRefused(t, err, "several accounts", "CN=carol", "CN=dave")
		}
	})
	t.Run("issuer and SID", func(t *testing.T) {
		cert := issueOne(dc.SID(t, "carol"))
		dc.Modify(t, carol, "altSecurityIdentities", altForms(t, cert.Leaf(), dc.SID(t, "carol"))["issuer and SID"])
		a, err := mapped(t, strict, cert)
		require.NoError(t, err)
		require.Equal(t, "carol", a.Name)
	})
	t.Run("of two accounts", func(t *testing.T) {
		cert := issueOne("")
		text := altForms(t, cert.Leaf(), "")["key"]
		dc.Modify(t, "CN=twin1,"+testdir.UsersDN, "altSecurityIdentities", text)
		dc.Modify(t, "CN=twin2,"+testdir.UsersDN, "altSecurityIdentities", text)
		_, err := mapped(t, strict, cert)
		requireRefused(t, err, "several accounts", "CN=twin1,OU=Clients", "CN=twin2,OU=Clients")
		dc.Modify(t, "CN=twin2,"+testdir.UsersDN, "altSecurityIdentities")
		strict.Flush()
		a, err := mapped(t, strict, cert)
		require.NoError(t, err)
		require.Equal(t, "twin1", a.Name)
	})
	t.Run("of another certificate", func(t *testing.T) {
		dc.Modify(t, carol, "altSecurityIdentities", altForms(t, issueOne("").Leaf(), "")["issuer and serial"])
		_, err := mapped(t, weak, issueOne(""))
		requireRefused(t, err, "none for the client")
	})
	t.Run("an empty subject names nobody", func(t *testing.T) {
		cert := issue(t, ca, names{emails: []string{"x@y.example"}, edit: func(c *x509.Certificate) { c.Subject.CommonName = "" }})
		require.Empty(t, cert.Leaf().Subject.Names)
		issuer := nameOf(t, cert.Leaf().RawIssuer)
		dc.Modify(t, carol, "altSecurityIdentities", "X509:<S>", "X509:<I>"+issuer+"<S>")
		_, err := mapped(t, weak, cert)
		requireRefused(t, err, "none for the client")
	})
	t.Run("a subject that looks like two", func(t *testing.T) {
		dc.Modify(t, carol, "altSecurityIdentities", "X509:<S>CN=x,CN=carol")
		_, err := mapped(t, weak, issue(t, ca, names{subject: "x,CN=carol"}))
		requireRefused(t, err, "none for the client")
	})
}

func TestRealADNTAuth(t *testing.T) {
	dc := servers.Samba(t).Clone(t)
	ca, other := mtlstest.NewCA(t, mtlstest.CAOptions{}), mtlstest.NewCA(t, mtlstest.CAOptions{})
	sub := ca.Intermediate(mtlstest.CAOptions{})
	clock := mtlstest.NewClock(time.Time{})
	cfg := adConfig(dc)
	cfg.Now = clock.Now
	m := newAD(t, cfg)
	alice := dc.SID(t, "alice")
	cert := issue(t, ca, names{sid: alice})

	_, err := mapped(t, m, cert)
	requireRefused(t, err, "not in the NTAuth store") // there is none
	dc.Publish(t, other.Certificate())
	clock.Advance(11 * time.Second)
	_, err = mapped(t, m, cert)
	requireRefused(t, err, "not in the NTAuth store") // what is known of it still counts
	clock.Advance(time.Minute)
	_, err = mapped(t, m, cert)
	requireRefused(t, err, "not in the NTAuth store")
	dc.Publish(t, other.Certificate(), ca.Certificate())
	clock.Advance(2 * time.Minute)
	a, err := mapped(t, m, cert)
	require.NoError(t, err)
	require.Equal(t, "alice", a.Name)
	require.Equal(t, time.Minute, a.Expires.Sub(clock.Now()))
	_, err = mapped(t, m, issue(t, sub, names{sid: alice}))
	requireRefused(t, err, "not in the NTAuth store") // the issuing CA itself must be

	dc.Publish(t, other.Certificate())
	_, err = mapped(t, m, cert)
	require.NoError(t, err)
	clock.Advance(time.Minute)
	_, err = mapped(t, m, cert)
	requireRefused(t, err, "not in the NTAuth store") // removed while running

	dc.Publish(t, ca.Certificate())
	m.Flush()
	_, err = mapped(t, m, cert)
	require.NoError(t, err, "Flush forgets the store as well")

	t.Run("keys of any issuer", func(t *testing.T) {
		cfg := adConfig(dc)
		cfg.KeysOfAnyIssuer, cfg.MinStrength = true, directory.Weak
		m := newAD(t, cfg)
		carol := "CN=carol," + testdir.UsersDN
		cert := issue(t, other, names{emails: []string{"carol@ad.test"}, edit: func(c *x509.Certificate) { c.SubjectKeyId = []byte{9, 9} }})
		forms := altForms(t, cert.Leaf(), "")
		for form, text := range forms {
			if strings.HasPrefix(form, "key") || form == "issuer and SID" {
				continue
			}
			dc.Modify(t, carol, "altSecurityIdentities", text)
			m.Flush()
			_, err := mapped(t, m, cert)
			requireRefused(t, err, "NTAuth")
		}
		dc.Modify(t, carol, "altSecurityIdentities", forms["key"])
		m.Flush()
		a, err := mapped(t, m, cert)
		require.NoError(t, err)
		require.Equal(t, "carol", a.Name)
		_, err = mapped(t, m, issue(t, other, names{upns: []string{"dave@ad.test"}}))
		requireRefused(t, err, "NTAuth")
		_, err = mapped(t, m, issue(t, other, names{sid: alice}))
		requireRefused(t, err, "NTAuth")
	})
}

func TestRealADAccountStates(t *testing.T) {
	dc, ca := adDomain(t)
	log := &testdir.Log{}
	cfg := adConfig(dc)
	cfg.Logger = log.Logger()
	m := newAD(t, cfg)
	for _, row := range []struct {
		name, why string // why: disabled
	}{
		{"alice", ""}, {"never0", ""}, {"future", ""}, {"disabled", "disabled"}, {"expired", "expired at 2016"}, {"locked", "locked"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, err := mapped(t, m, issue(t, ca, names{sid: dc.SID(t, row.name)}))
			require.NoError(t, err)
			require.Equal(t, row.name, a.Name)
			require.Equal(t, row.why != "", a.Disabled)
			if row.why != "" {
				require.Contains(t, log.String(), `account=`+row.name+` `)
				require.Contains(t, log.String(), row.why)
				require.Empty(t, a.Groups)
			}
		})
	}
	t.Run("disabled while running", func(t *testing.T) {
		clock := mtlstest.NewClock(time.Time{})
		cfg := adConfig(dc)
		cfg.Now = clock.Now
		m := newAD(t, cfg)
		cert := issue(t, ca, names{sid: dc.SID(t, "dave")})
		a, err := mapped(t, m, cert)
		require.NoError(t, err)
		require.False(t, a.Disabled)
		dn := "CN=dave," + testdir.UsersDN
		dc.Modify(t, dn, "userAccountControl", "514")
		t.Cleanup(func() { dc.Modify(t, dn, "userAccountControl", "512") })
		clock.Advance(time.Minute)
		a, err = mapped(t, m, cert)
		require.NoError(t, err)
		require.True(t, a.Disabled)
	})
	t.Run("ends with the account", func(t *testing.T) {
		clock := mtlstest.NewClock(time.Time{})
		end := clock.Now().Add(30 * time.Second)
		dn := "CN=future," + testdir.UsersDN
		dc.Modify(t, dn, "accountExpires", fmt.Sprint((end.Unix()+11644473600)*1e7))
		cfg := adConfig(dc)
		cfg.Now, cfg.Stale = clock.Now, time.Hour
		m := newAD(t, cfg)
		cert := issue(t, ca, names{sid: dc.SID(t, "future")})
		a, err := mapped(t, m, cert)
		require.NoError(t, err)
		require.True(t, end.Equal(a.Expires), a.Expires)
		clock.Advance(30 * time.Second)
		a, err = mapped(t, m, cert)
		require.NoError(t, err)
		require.True(t, a.Disabled)
	})
}

func TestRealADGroups(t *testing.T) {
	dc, ca := adDomain(t)
	get := func(t *testing.T, account string, set func(*directory.ActiveDirectory)) (mtls.Account, error) {
		t.Helper()
		cfg := adConfig(dc)
		cfg.Attributes = []string{"mail", "description", "department"}
		set(&cfg)
		return mapped(t, newAD(t, cfg), issue(t, ca, names{sid: dc.SID(t, account)}))
	}
	names := func(*directory.ActiveDirectory) {}
	a, err := get(t, "alice", names)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"G-inner", "G-middle", "G-outer", "Domain Users", "Users"}, a.Groups, "nested, the primary group, and none of mail")
	require.Equal(t, map[string][]string{"mail": {"alice@ad.test"}, "description": {"first"}}, a.Attributes)
	require.Equal(t, dc.SID(t, "alice"), a.ID)

	a, err = get(t, "bob", names)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"G-loop1", "G-loop2", "Domain Users", "Users"}, a.Groups, "a loop ends")

	a, err = get(t, "alice", func(c *directory.ActiveDirectory) { c.Groups = directory.GroupSIDs })
	require.NoError(t, err)
	require.Contains(t, a.Groups, dc.SID(t, "G-outer"))
	require.Contains(t, a.Groups, "S-1-5-32-545")
	require.Len(t, a.Groups, 5)

	a, err = get(t, "alice", func(c *directory.ActiveDirectory) { c.Groups = directory.GroupDNs })
	require.NoError(t, err)
	require.Contains(t, a.Groups, "CN=G-outer,"+testdir.UsersDN)
	require.Len(t, a.Groups, 5)

	a, err = get(t, "alice", func(c *directory.ActiveDirectory) { c.Groups = directory.NoGroups })
	require.NoError(t, err)
	require.Empty(t, a.Groups)

	_, err = get(t, "alice", func(c *directory.ActiveDirectory) { c.MaxGroups = 4 })
	requireUnknown(t, err, "in more than 4 groups", "MaxGroups")
	_, err = get(t, "alice", func(c *directory.ActiveDirectory) { c.MaxGroups = 5 })
	require.NoError(t, err)
}

// TestRealADInjection: names that would be a filter, or that Samba takes for others,
// map to nobody, however weak a mapping may be.
func TestRealADInjection(t *testing.T) {
	dc, ca := adDomain(t)
	cfg := adConfig(dc)
	cfg.MinStrength = directory.Weak
	m := newAD(t, cfg)
	for _, upn := range []string{"*", "*@ad.test", "alice@ad.test)(objectClass=*", "*)(userPrincipalName=alice@ad.test", "alice@ad.test\x00", "al\x00ice@ad.test",
		" alice@ad.test", "alice@ad.test ", "alice @ad.test", "alice@ad.test\n", "\\2a@ad.test", "alice@ad.test@ad.test", "", "alice", "ＡＬＩＣＥ@ad.test",
		"alice\u00ad@ad.test", "alice\u200b@ad.test", "álice@ad.test", "ÜNÏCØDE@ad.test", "unicode@ad.test", strings.Repeat("a", 2000) + "@ad.test",
		"al?ce@ad.test", "alice@ad.test)", "(alice@ad.test"} {
		_, err := mapped(t, m, issue(t, ca, names{upns: []string{upn}}))
		requireRefused(t, err)
	}
	for _, email := range []string{"*@ad.test", "a)(mail=*@ad.test", "a\x00@ad.test", " carol@ad.test"} {
		_, err := mapped(t, m, issue(t, ca, names{emails: []string{email}, sid: dc.SID(t, "carol")}))
		requireRefused(t, err, "e-mail address")
	}
	for upn, want := range map[string]string{`we(i)r&d\x@ad.test`: "odd", "ünïcøde@ad.test": "unicode", "bob@corp.example": "bob"} {
		a, err := mapped(t, m, issue(t, ca, names{upns: []string{upn}}))
		require.NoError(t, err, upn)
		require.Equal(t, want, a.Name)
	}
	for _, subject := range []string{"*", ")(objectClass=*", "\\2a", "carol)(sAMAccountName=carol", "\x00"} {
		_, err := mapped(t, m, issue(t, ca, names{subject: subject}))
		requireRefused(t, err, "none for the client")
	}
	t.Run("a name that is not UTF-8", func(t *testing.T) {
		_, err := mapped(t, m, issue(t, ca, names{upns: []string{"\xff\xfe@ad.test"}, sid: dc.SID(t, "carol")}))
		requireRefused(t, err, "cannot be read")
	})
	t.Run("too many names", func(t *testing.T) {
		_, err := mapped(t, m, issue(t, ca, names{upns: []string{"a@x", "b@x", "c@x", "d@x", "e@x"}}))
		requireRefused(t, err, "more than 4")
	})
}

func TestRealADTransport(t *testing.T) {
	dc, ca := adDomain(t)
	cert := issue(t, ca, names{sid: dc.SID(t, "alice")})
	stranger, err := testdir.NewServerCA()
	require.NoError(t, err)
	for _, row := range []struct {
		name string
		set  func(*directory.ActiveDirectory)
		err  string // empty: mapped
	}{
		{"LDAPS", func(*directory.ActiveDirectory) {}, ""},
		{"StartTLS", func(c *directory.ActiveDirectory) { c.URLs = []string{"ldap://" + dc.Addr} }, ""},
		{"by name", func(c *directory.ActiveDirectory) {
			c.URLs = []string{"ldaps://dc1.ad.test:636"}
			c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, dc.Addr+":636")
			}
		}, ""},
		{"another CA", func(c *directory.ActiveDirectory) { c.RootCAs = stranger.Pool() }, "certificate signed by unknown authority"},
		{"StartTLS, another CA", func(c *directory.ActiveDirectory) {
			c.URLs, c.RootCAs = []string{"ldap://" + dc.Addr}, stranger.Pool()
		}, "certificate signed by unknown authority"},
		{"another name", func(c *directory.ActiveDirectory) {
			c.URLs = []string{"ldaps://dc2.ad.test"}
			c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, dc.Addr+":636")
			}
		}, "certificate is valid for dc1.ad.test, not dc2.ad.test"},
		{"plaintext", func(c *directory.ActiveDirectory) {
			c.URLs, c.InsecurePlaintext = []string{"ldap://" + dc.Addr}, true
		}, "it wants TLS"},
		{"TLS where LDAP is", func(c *directory.ActiveDirectory) { c.URLs = []string{"ldaps://" + dc.Addr + ":389"} }, "TLS: "},
		{"LDAP where TLS is", func(c *directory.ActiveDirectory) { c.URLs = []string{"ldap://" + dc.Addr + ":636"} }, "TLS: "},
		{"wrong password", func(c *directory.ActiveDirectory) { c.Password = given("wrong") }, "refuses the password of \"svc-mtls@ad.test\": the password is wrong"},
		{"no such user", func(c *directory.ActiveDirectory) { c.User = "nobody@ad.test" }, "refuses the password of \"nobody@ad.test\""},
		{"an empty password", func(c *directory.ActiveDirectory) { c.Password = given("") }, "the password of \"svc-mtls@ad.test\" is empty"},
		{"a base of elsewhere", func(c *directory.ActiveDirectory) { c.BaseDN = "DC=other,DC=test" }, "does not exist"},
		{"a base that is not there", func(c *directory.ActiveDirectory) { c.BaseDN = "OU=None," + testdir.DomainDN }, "does not exist"},
		{"a base below", func(c *directory.ActiveDirectory) { c.BaseDN = testdir.UsersDN }, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := adConfig(dc)
			row.set(&cfg)
			a, err := mapped(t, newAD(t, cfg), cert)
			if row.err != "" {
				requireUnknown(t, err, row.err)
				require.NotContains(t, err.Error(), testdir.Password)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "alice", a.Name)
		})
	}
}

// TestRealADPasswords: a refused password is not sent again and again, which would
// lock the service's account, and a new one counts at once.
func TestRealADPasswords(t *testing.T) {
	dc := servers.Samba(t).Clone(t)
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	dc.Publish(t, ca.Certificate())
	cert := issue(t, ca, names{sid: dc.SID(t, "alice")})
	clock := mtlstest.NewClock(time.Time{})
	var dials atomic.Int32
	secret := "wrong"
	cfg := adConfig(dc)
	cfg.URLs = append(cfg.URLs, "ldap://"+dc.Addr)
	cfg.Now = clock.Now
	cfg.Password = func(context.Context) (string, error) { return secret, nil }
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	m := newAD(t, cfg)
	for range 10 {
		_, err := mapped(t, m, cert)
		requireUnknown(t, err, "the password is wrong")
	}
	require.EqualValues(t, 1, dials.Load(), "sent once, to one server")
	clock.Advance(time.Minute)
	_, err := mapped(t, m, cert)
	requireUnknown(t, err, "the password is wrong")
	require.EqualValues(t, 2, dials.Load())
	secret = testdir.Password
	_, err = mapped(t, m, cert)
	require.NoError(t, err, "a new password counts at once")

	t.Run("the password has expired", func(t *testing.T) {
		dc.Modify(t, "CN=svc-mtls,"+testdir.UsersDN, "userAccountControl", "512")
		dc.Modify(t, "CN=svc-mtls,"+testdir.UsersDN, "pwdLastSet", "0")
		_, err := mapped(t, newAD(t, adConfig(dc)), cert)
		requireUnknown(t, err, "refuses the password", "the password must be changed")
	})
	t.Run("the service's account is disabled", func(t *testing.T) {
		dc.Modify(t, "CN=svc-mtls,"+testdir.UsersDN, "userAccountControl", "514")
		_, err := mapped(t, newAD(t, adConfig(dc)), cert)
		requireUnknown(t, err, "refuses the password", "the account is disabled")
	})
}

func TestRealADStopsAndStarts(t *testing.T) {
	dc := servers.Samba(t).Clone(t)
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	dc.Publish(t, ca.Certificate())
	clock := mtlstest.NewClock(time.Time{})
	log := &testdir.Log{}
	cfg := adConfig(dc)
	cfg.Now, cfg.Logger = clock.Now, log.Logger()
	strict := newAD(t, cfg)
	cfg.Stale = 10 * time.Minute
	stale := newAD(t, cfg)
	alice, dave := issue(t, ca, names{sid: dc.SID(t, "alice")}), issue(t, ca, names{sid: dc.SID(t, "dave")})
	both := func(check func(m *directory.Mapper)) { check(strict); check(stale) }
	both(func(m *directory.Mapper) {
		_, err := mapped(t, m, alice)
		require.NoError(t, err)
	})
	dc.Stop()
	both(func(m *directory.Mapper) {
		_, err := mapped(t, m, alice)
		require.NoError(t, err, "what is known counts")
		_, err = mapped(t, m, dave)
		requireUnknown(t, err, "connection refused")
		require.Error(t, m.Check(t.Context()))
	})
	clock.Advance(time.Minute)
	_, err := mapped(t, strict, alice)
	requireUnknown(t, err, "connection refused")
	a, err := mapped(t, stale, alice)
	require.NoError(t, err)
	require.Equal(t, "alice", a.Name)
	require.Equal(t, 15*time.Second, a.Expires.Sub(clock.Now()))
	require.Contains(t, log.String(), "an earlier answer counts")
	require.EqualValues(t, 1, stale.Stats().Stale)
	clock.Advance(10*time.Minute - 10*time.Second)
	a, err = mapped(t, stale, alice)
	require.NoError(t, err)
	require.Equal(t, 10*time.Second, a.Expires.Sub(clock.Now()), "the window ends")
	clock.Advance(10 * time.Second)
	_, err = mapped(t, stale, alice)
	requireUnknown(t, err, "connection refused")

	require.NoError(t, dc.Start())
	both(func(m *directory.Mapper) {
		for _, cert := range []*mtlstest.Certificate{alice, dave} {
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
		}
	})
	t.Run("restarted between two questions", func(t *testing.T) {
		dc.Stop()
		require.NoError(t, dc.Start())
		clock.Advance(time.Minute)
		both(func(m *directory.Mapper) {
			before := m.Stats()
			_, err := mapped(t, m, alice)
			require.NoError(t, err, "the connections that it closed are replaced")
			require.Equal(t, before.Failures, m.Stats().Failures)
		})
	})
}

func TestRealADFailover(t *testing.T) {
	first, second := servers.Samba(t).Clone(t), servers.Samba(t).Clone(t)
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	clock := mtlstest.NewClock(time.Time{})
	var mu sync.Mutex
	var asked []string
	cfg := adConfig(first)
	cfg.URLs = append(cfg.URLs, "ldaps://"+second.Addr)
	cfg.RootCAs = first.CA.Pool()
	second.CA.AddTo(cfg.RootCAs)
	cfg.Now = clock.Now
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		asked = append(asked, address)
		mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	for _, dc := range []*testdir.DC{first, second} {
		dc.Publish(t, ca.Certificate())
	}
	m := newAD(t, cfg)
	a, b := first.Addr+":636", second.Addr+":636"
	sid := first.SID(t, "alice")
	next := func() []string {
		t.Helper()
		mu.Lock()
		asked = nil
		mu.Unlock()
		_, err := mapped(t, m, issue(t, ca, names{sid: sid}))
		require.NoError(t, err)
		return slices.Clone(asked)
	}
	require.Equal(t, []string{a}, next())
	require.Empty(t, next(), "the connection is kept")
	first.Stop()
	require.Equal(t, []string{a, b}, next())
	require.Empty(t, next(), "who failed is asked last")
	require.NoError(t, first.Start())
	clock.Advance(10 * time.Second)
	require.Equal(t, []string{a}, next(), "after a rest, the first is the first again")
	first.Stop()
	second.Stop()
	_, err := mapped(t, m, issue(t, ca, names{sid: sid}))
	requireUnknown(t, err, first.Addr, second.Addr, "connection refused")
}

// TestRealADAsksOnce: who comes at the same time for the same account shares one
// question, and what it costs a later request is nothing.
func TestRealADAsksOnce(t *testing.T) {
	dc, ca := adDomain(t)
	m := newAD(t, adConfig(dc))
	id := identity(t, issue(t, ca, names{sid: dc.SID(t, "alice")}))
	const n = 10000
	var wg sync.WaitGroup
	var failed atomic.Int32
	start := make(chan struct{})
	for range n {
		wg.Go(func() {
			<-start
			if a, err := m.MapAccount(t.Context(), id); err != nil || a.Name != "alice" {
				failed.Add(1)
			}
		})
	}
	close(start)
	wg.Wait()
	require.Zero(t, failed.Load())
	require.EqualValues(t, 1, m.Stats().Lookups)
}

func TestRealADDeletedAccount(t *testing.T) {
	dc, ca := adDomain(t)
	m := newAD(t, adConfig(dc))
	c, err := dc.Admin()
	require.NoError(t, err)
	defer c.Close()
	dn := "CN=leaver," + testdir.UsersDN
	r := ldap.NewAddRequest(dn, nil)
	r.Attribute("objectClass", []string{"user"})
	r.Attribute("sAMAccountName", []string{"leaver"})
	r.Attribute("userAccountControl", []string{"544"})
	require.NoError(t, c.Add(r))
	cert := issue(t, ca, names{sid: dc.SID(t, "leaver")})
	a, err := mapped(t, m, cert)
	require.NoError(t, err)
	require.False(t, a.Disabled)
	require.NoError(t, c.Del(ldap.NewDelRequest(dn, nil)))
	m.Flush()
	_, err = mapped(t, m, cert)
	requireRefused(t, err, "none for the client")
}

// TestRealADByLDAP: Samba takes the negation of what it does not know for true, so that
// no filter with one is asked.
func TestRealADByLDAP(t *testing.T) {
	dc, _ := adDomain(t)
	c, err := dc.Admin()
	require.NoError(t, err)
	defer c.Close()
	requireSchema(t, c, "CN=Aggregate,CN=Schema,CN=Configuration,"+testdir.DomainDN, 1000)
	carol := identity(t, nil, func(i *mtlstest.Identity) { i.UPN = "carol@ad.test" })
	for enabled, ok := range map[string]bool{
		"": true, "(objectClass=user)": true, "(userAccountControl:1.2.840.113556.1.4.803:=512)": true,
		"(!(noSuchAttribute=*))": false, "(!(userAccountControl:1.2.840.113556.1.4.8033:=2))": false, "(!(userAccountControl:1.2.840.113556.1.4.803:=2))": false,
	} {
		m := newLDAP(t, directory.LDAP{Connection: adConfig(dc).Connection, BaseDN: testdir.DomainDN, Filter: "(userPrincipalName={upn})", Name: "sAMAccountName", Enabled: enabled,
			GroupFilter: "(member:1.2.840.113556.1.4.1941:={dn})"})
		a, err := m.MapAccount(t.Context(), carol)
		if !ok {
			requireUnknown(t, err, "the server is Active Directory", "NewActiveDirectory")
			requireUnknown(t, m.Check(t.Context()), "the server is Active Directory")
			continue
		}
		require.NoError(t, err, enabled)
		require.Equal(t, "carol", a.Name)
		require.False(t, a.Disabled)
		require.NoError(t, m.Check(t.Context()))
	}
}
