package directory_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestAccountIsReadInFull: what is not there, or is not what it should be, admits
// nobody.
func TestAccountIsReadInFull(t *testing.T) {
	t.Parallel()
	many := func(n int) (list []string) {
		for i := range n {
			list = append(list, binarySID(uint32(5000+i)))
		}
		return list
	}
	for _, row := range []struct {
		name     string
		change   func(*fakeAD)
		unknown  string // text of the error
		refused  string
		disabled bool
	}{
		{name: "as it should be", change: func(*fakeAD) {}},
		{name: "referrals beside the entry", change: func(d *fakeAD) { d.refs = []string{"ldap://127.0.0.1:1/DC=other"} }},
		{name: "no entry, a referral", change: func(d *fakeAD) { d.hits, d.refs = nil, []string{"ldap://127.0.0.1:1/DC=other"} }, refused: "none for the client"},
		{name: "the server refers elsewhere", change: func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultReferral }, unknown: "not followed"},
		{name: "no entry", change: func(d *fakeAD) { d.hits = nil }, refused: "none for the client"},
		{name: "two entries", change: func(d *fakeAD) { d.hits = append(d.hits, entry{"CN=eve," + fakeBase, d.hits[0].values}) }, refused: "CN=eve"},
		{name: "two entries and a size limit", change: func(d *fakeAD) {
			d.hits = append(d.hits, entry{"CN=eve," + fakeBase, d.hits[0].values})
			d.code[fakeBase] = ldap.LDAPResultSizeLimitExceeded
		}, refused: "CN=eve"},
		{name: "one entry and a size limit", change: func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultSizeLimitExceeded }, refused: "several accounts"},
		{name: "a thousand entries", change: func(d *fakeAD) {
			for range 1000 {
				d.hits = append(d.hits, d.hits[0])
			}
		}, refused: "several accounts"},
		{name: "busy", change: func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultBusy }, unknown: "LDAP result 51 (Busy)"},
		{name: "may not search", change: func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultInsufficientAccessRights }, unknown: "may not read"},
		{name: "time limit", change: func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultTimeLimitExceeded }, unknown: "LDAP result 3"},
		{name: "administrator's limit", change: func(d *fakeAD) { d.code[fakeBase] = ldap.LDAPResultAdminLimitExceeded }, unknown: "LDAP result 11"},
		{name: "no default naming context", change: func(d *fakeAD) { delete(d.root, "defaultNamingContext") }, unknown: "set BaseDN"},
		{name: "no configuration", change: func(d *fakeAD) { delete(d.root, "configurationNamingContext") }, unknown: "set ConfigDN"},
		{name: "no NTAuth store", change: func(d *fakeAD) { d.store = nil }, refused: "NTAuth"},
		{name: "NTAuth store without certificates", change: func(d *fakeAD) { d.store[0].values = nil }, refused: "NTAuth"},
		{name: "NTAuth store as binary", change: func(d *fakeAD) {
			d.store[0].values = map[string][]string{"cACertificate;binary": d.store[0].values["cACertificate"]}
		}},
		{name: "NTAuth store in pieces", change: func(d *fakeAD) {
			d.store[0].values = map[string][]string{"cACertificate": nil, "cACertificate;range=0-1499": d.store[0].values["cACertificate"]}
		}, unknown: "NTAuth store has more"},
		{name: "NTAuth store unavailable", change: func(d *fakeAD) { d.code[fakeStore] = ldap.LDAPResultUnavailable }, unknown: "LDAP result 52"},

		{name: "found without a SID", change: func(d *fakeAD) { delete(d.hits[0].values, "objectSid") }, unknown: "no objectSid"},
		{name: "found with half a SID", change: func(d *fakeAD) { d.hits[0].values["objectSid"] = []string{binarySID(1000)[:20]} }, unknown: "cannot be read"},
		{name: "found with another SID", change: func(d *fakeAD) { d.hits[0].values["objectSid"] = []string{binarySID(1001)} }, refused: textSID(1001)},
		{name: "mappings in pieces", change: func(d *fakeAD) { d.hits[0].values["altSecurityIdentities;range=0-1499"] = []string{"x"} }, unknown: "more values of altSecurityIdentities"},
		{name: "no such entry any more", change: func(d *fakeAD) { d.code[fakeAlice] = ldap.LDAPResultNoSuchObject }, unknown: "no such entry"},
		{name: "another account under the name", change: func(d *fakeAD) { d.account["objectSid"] = []string{binarySID(1001)} }, unknown: "changed meanwhile"},
		{name: "no SID any more", change: func(d *fakeAD) { delete(d.account, "objectSid") }, unknown: "changed meanwhile"},
		{name: "no name", change: func(d *fakeAD) { delete(d.account, "sAMAccountName") }, unknown: "no sAMAccountName"},
		{name: "two names", change: func(d *fakeAD) { d.account["sAMAccountName"] = []string{"a", "b"} }, unknown: "2 values of sAMAccountName"},

		{name: "no userAccountControl", change: func(d *fakeAD) { delete(d.account, "userAccountControl") }, unknown: "no userAccountControl"},
		{name: "userAccountControl is no number", change: func(d *fakeAD) { d.account["userAccountControl"] = []string{"x"} }, unknown: "is no number"},
		{name: "two userAccountControls", change: func(d *fakeAD) { d.account["userAccountControl"] = []string{"512", "514"} }, unknown: "2 values"},
		{name: "disabled", change: func(d *fakeAD) { d.account["userAccountControl"] = []string{"514"} }, disabled: true},
		{name: "a trust", change: func(d *fakeAD) { d.account["userAccountControl"] = []string{"2080"} }, disabled: true},
		{name: "a computer", change: func(d *fakeAD) { d.account["userAccountControl"] = []string{"4096"} }},
		{name: "a server", change: func(d *fakeAD) { d.account["userAccountControl"] = []string{"532480"} }},
		{name: "locked", change: func(d *fakeAD) { d.account["msDS-User-Account-Control-Computed"] = []string{"16"} }, disabled: true},
		{name: "was locked once", change: func(d *fakeAD) { d.account["lockoutTime"] = []string{"134398687470709600"} }},
		{name: "perhaps locked", change: func(d *fakeAD) {
			delete(d.account, "msDS-User-Account-Control-Computed")
			d.account["lockoutTime"] = []string{"134398687470709600"}
		}, disabled: true},
		{name: "not locked, as far as one can see", change: func(d *fakeAD) {
			delete(d.account, "msDS-User-Account-Control-Computed")
			d.account["lockoutTime"] = []string{"0"}
		}},
		{name: "nobody can see whether it is locked", change: func(d *fakeAD) { delete(d.account, "msDS-User-Account-Control-Computed") }, unknown: "neither msDS-User-Account-Control-Computed nor lockoutTime"},
		{name: "the password has expired", change: func(d *fakeAD) { d.account["msDS-User-Account-Control-Computed"] = []string{"8388608"} }},
		{name: "no accountExpires", change: func(d *fakeAD) { delete(d.account, "accountExpires") }, unknown: "no accountExpires"},
		{name: "accountExpires is no number", change: func(d *fakeAD) { d.account["accountExpires"] = []string{"99999999999999999999"} }, unknown: "is no number"},
		{name: "accountExpires is negative", change: func(d *fakeAD) { d.account["accountExpires"] = []string{"-1"} }, unknown: "accountExpires of entry"},
		{name: "expires never", change: func(d *fakeAD) { d.account["accountExpires"] = []string{"0"} }},
		{name: "expired at once", change: func(d *fakeAD) { d.account["accountExpires"] = []string{"1"} }, disabled: true},
		{name: "expired", change: func(d *fakeAD) { d.account["accountExpires"] = []string{"131000000000000000"} }, disabled: true},

		{name: "no token", change: func(d *fakeAD) { delete(d.account, "tokenGroups") }, unknown: "Windows Authorization Access Group"},
		{name: "a token in pieces", change: func(d *fakeAD) { d.account["tokenGroups;range=0-1499"] = []string{binarySID(9)} }, unknown: "MaxGroups"},
		{name: "a group that is no SID", change: func(d *fakeAD) { d.account["tokenGroups"] = []string{"x"} }, unknown: "a group of account"},
		{name: "too many groups", change: func(d *fakeAD) { d.account["tokenGroups"] = many(1001) }, unknown: "in more than 1000 groups"},
		{name: "many groups of another domain", change: func(d *fakeAD) {
			d.account["tokenGroups"] = many(1000)
			for i, sid := range d.account["tokenGroups"] {
				d.account["tokenGroups"][i] = sid[:12] + "\x09" + sid[13:]
			}
		}},
		{name: "a group that is built in and not found", change: func(d *fakeAD) {
			sid, _ := directory.SIDBytes("S-1-5-32-545")
			d.account["tokenGroups"] = append(d.account["tokenGroups"], string(sid))
		}},
		{name: "no groups are found", change: func(d *fakeAD) { d.groups = nil }, unknown: "group " + textSID(513) + " of account"},
		{name: "a group is not found", change: func(d *fakeAD) { d.groups = d.groups[:1] }, unknown: "group " + textSID(2000) + " of account"},
		{name: "a group without a SID", change: func(d *fakeAD) { delete(d.groups[1].values, "objectSid") }, unknown: "group " + textSID(2000) + " of account"},
		{name: "a group without a name", change: func(d *fakeAD) { delete(d.groups[1].values, "sAMAccountName") }, unknown: "no sAMAccountName"},
		{name: "more groups than asked for", change: func(d *fakeAD) { d.groups = append(d.groups, d.groups...) }, unknown: "more entries than asked for"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeAD(t)
			cert := d.alice(t)
			row.change(d)
			m := newAD(t, d.config())
			a, err := mapped(t, m, cert)
			switch {
			case row.unknown != "":
				requireUnknown(t, err, row.unknown)
				require.Zero(t, a)
			case row.refused != "":
				requireRefused(t, err, row.refused)
				require.Zero(t, a)
			default:
				require.NoError(t, err)
				require.Equal(t, row.disabled, a.Disabled)
				require.Equal(t, "alice", a.Name)
				require.Equal(t, textSID(1000), a.ID)
			}
		})
	}
}

func TestGroupsOfOthersAreNotTaken(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	d.groups[0] = entry{"CN=Domain Admins," + fakeBase, map[string][]string{"objectSid": {binarySID(512)}, "sAMAccountName": {"Domain Admins"}}}
	_, err := mapped(t, newAD(t, d.config()), d.alice(t))
	requireUnknown(t, err, "group "+textSID(513)+" of account")
	cfg := d.config()
	cfg.BaseDN = fakeBase // there may be groups elsewhere
	a, err := mapped(t, newAD(t, cfg), d.alice(t))
	require.NoError(t, err)
	require.Equal(t, []string{"staff"}, a.Groups, "a group that was not asked for")
}

// TestLooseComparison: the directory finds what it takes for equal; what is not
// exactly that maps to nobody.
func TestLooseComparison(t *testing.T) {
	t.Parallel()
	for upn, ok := range map[string]bool{"alice@fake.test": true, "ALICE@fake.test": true, "álice@fake.test": false, "alice@fake.test.": false, "alice@fake": false, "al\u0130ce@fake.test": false} {
		d := newFakeAD(t)
		cfg := d.config()
		cfg.MinStrength = directory.Weak
		_, err := mapped(t, newAD(t, cfg), issue(t, d.ca, names{upns: []string{upn}}))
		if ok {
			require.NoError(t, err, upn)
			continue
		}
		requireRefused(t, err, "nothing of it is exactly as in the certificate")
	}
}

func TestWeakNeedsTheAgeOfTheAccount(t *testing.T) {
	t.Parallel()
	for created, want := range map[string]string{
		"20200101000000.0Z": "", "": "whenCreated", "20200101000000Z": "whenCreated",
		time.Now().UTC().Add(time.Hour).Format("20060102150405.0Z"): "younger",
	} {
		d := newFakeAD(t)
		d.hits[0].values["whenCreated"] = []string{created}
		if created == "" {
			delete(d.hits[0].values, "whenCreated")
		}
		cfg := d.config()
		cfg.MinStrength = directory.Weak
		_, err := mapped(t, newAD(t, cfg), issue(t, d.ca, names{upns: []string{"alice@fake.test"}}))
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, want, created)
	}
}

func TestCertificateWithoutIssuer(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	m := newAD(t, d.config())
	_, err := m.MapAccount(t.Context(), identity(t, nil))
	requireRefused(t, err, "no certificate with an issuing CA")
	_, err = m.MapAccount(t.Context(), nil)
	requireRefused(t, err)
}

func TestActiveDirectoryReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := directory.NewActiveDirectory(directory.ActiveDirectory{
		Connection: directory.Connection{URLs: []string{"http://x", "ldaps://", "ldap://u@h", "ldaps://h/dc=x", "ldaps://h?x", "ldaps://h:", "%"}, Timeout: -1, MaxConns: -1,
			Lifetime: 6 * time.Minute, Stale: 25 * time.Hour, CacheSize: -1, Password: given("x")},
		BaseDN: "x", ConfigDN: "y", MinStrength: 7, Groups: 9, MaxGroups: -1, Attributes: []string{"mail", "a)b", ""},
	})
	require.Error(t, err)
	for _, field := range []string{"URLs[0]", "URLs[1]", "URLs[2]", "URLs[3]", "URLs[4]", "URLs[5]", "URLs[6]", "Timeout", "MaxConns", "Lifetime", "Stale", "CacheSize", "Password",
		"BaseDN", "ConfigDN", "MinStrength", "Groups", "MaxGroups", "Attributes[1]", "Attributes[2]", "User"} {
		require.ErrorContains(t, err, "mtls: ActiveDirectory."+field+": ")
	}
	require.NotContains(t, err.Error(), "Attributes[0]")
	var typed *mtls.ConfigError
	require.ErrorAs(t, err, &typed)
	_, err = directory.NewActiveDirectory(directory.ActiveDirectory{})
	require.ErrorContains(t, err, "ActiveDirectory.URLs: no server")
	_, err = directory.NewActiveDirectory(directory.ActiveDirectory{Connection: directory.Connection{URLs: []string{"ldap://h"}, User: "u", Password: given("p")}})
	require.ErrorContains(t, err, "ActiveDirectory.RootCAs")
	for lifetime, ok := range map[time.Duration]bool{1: false, time.Second - 1: false, time.Second: true, 0: true} {
		cfg := directory.ActiveDirectory{Connection: directory.Connection{URLs: []string{"ldap://h"}, InsecurePlaintext: true, User: "u", Password: given("p"), Lifetime: lifetime}}
		_, err := directory.NewActiveDirectory(cfg)
		if ok {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, "mtls: ActiveDirectory.Lifetime: ")
		}
	}
}

func TestNumbersOfErrorsAreWords(t *testing.T) {
	t.Parallel()
	for code, says := range map[string]string{"532": "has expired", "773": "must be changed", "775": "locked", "533": "disabled", "701": "account has expired", "9": "wrong or has expired"} {
		d := newFakeAD(t)
		d.bind, d.bindSays = ldap.LDAPResultInvalidCredentials, "80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data "+code+", v4f7c"
		_, err := mapped(t, newAD(t, d.config()), d.alice(t))
		requireUnknown(t, err, says)
		require.NotContains(t, err.Error(), "secret-of-svc")
	}
	d := newFakeAD(t)
	d.bind = ldap.LDAPResultUnavailable
	_, err := mapped(t, newAD(t, d.config()), d.alice(t))
	requireUnknown(t, err, "LDAP result "+strconv.Itoa(ldap.LDAPResultUnavailable))
	require.False(t, strings.Contains(err.Error(), "secret"))
}

// TestNTAuth: who is not in the store maps to nobody, be the store just read or known.
func TestNTAuth(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	clock := mtlstest.NewClock(time.Time{})
	cfg := d.config()
	cfg.Now = clock.Now
	m := newAD(t, cfg)
	stranger := mtlstest.NewCA(t, mtlstest.CAOptions{CommonName: "fake CA"})
	theirs := issue(t, stranger, names{upns: []string{"alice@fake.test"}, sid: textSID(1000)})
	forms := altForms(t, theirs.Leaf(), textSID(1000))
	for _, form := range forms {
		d.hits[0].values["altSecurityIdentities"] = append(d.hits[0].values["altSecurityIdentities"], form)
	}
	for range 2 {
		m.Flush()
		_, err := mapped(t, m, theirs)
		requireRefused(t, err, "the issuing CA is not in the NTAuth store of the forest")
		_, err = mapped(t, m, d.alice(t))
		require.NoError(t, err)
		_, err = mapped(t, m, issue(t, stranger, names{sid: textSID(1000)}))
		requireRefused(t, err, "the issuing CA is not in the NTAuth store of the forest")
	}
	require.Equal(t, 2, d.searches(fakeStore))
	clock.Advance(-time.Second)
	_, err := mapped(t, m, d.alice(t))
	require.NoError(t, err)
	require.Equal(t, 3, d.searches(fakeStore), "what will be known does not count")
	clock.Advance(time.Minute)
	_, err = mapped(t, m, d.alice(t))
	require.NoError(t, err)
	require.Equal(t, 4, d.searches(fakeStore))

	t.Run("a Flush while it is read", func(t *testing.T) {
		m.Flush()
		before := d.searches(fakeStore)
		open := make(chan struct{})
		d.set(func(q question) reply {
			r := d.reply(q)
			if q.base == fakeStore {
				r.hold = func(context.Context) { <-open }
			}
			return r
		})
		done := make(chan error)
		go func() {
			_, err := m.MapAccount(context.WithoutCancel(t.Context()), identity(t, d.alice(t)))
			done <- err
		}()
		eventually(t, func() bool { return d.searches(fakeStore) == before+1 })
		m.Flush()
		close(open)
		require.NoError(t, <-done)
		_, err := mapped(t, m, d.alice(t))
		require.NoError(t, err)
		require.Equal(t, before+2, d.searches(fakeStore))
	})
	t.Run("the key of any issuer", func(t *testing.T) {
		cfg := cfg
		cfg.KeysOfAnyIssuer, cfg.MinStrength = true, directory.Weak
		for form, text := range forms {
			d.hits[0].values["altSecurityIdentities"] = []string{text}
			_, err := mapped(t, newAD(t, cfg), theirs)
			if form == "key" || form == "key info" {
				require.NoError(t, err, form)
				continue
			}
			requireRefused(t, err, "no altSecurityIdentities of the public key")
		}
	})
}
