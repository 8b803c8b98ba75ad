package directory_test

import (
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestStaleEndsWithTheTrustInTheCA: once the Mapper has read a store without it, for whomever.
func TestStaleEndsWithTheTrustInTheCA(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		untrusted bool                        // from the beginning
		change    func(d *fakeAD)             // before the other certificate is asked
		other     func(t *testing.T, e error) // what that is told
		err       string
	}{
		"it was not read since":     {},
		"it was read, and has it":   {change: func(*fakeAD) {}, other: func(t *testing.T, err error) { require.NoError(t, err) }},
		"it was read, and is empty": {change: func(d *fakeAD) { d.store[0].values = nil }, other: func(t *testing.T, err error) { requireRefused(t, err, "NTAuth") }, err: "has left the NTAuth store"},
		"it was read, and is gone":  {change: func(d *fakeAD) { d.store = nil }, other: func(t *testing.T, err error) { requireRefused(t, err, "NTAuth") }, err: "has left the NTAuth store"},
		"it was not to be read": {change: func(d *fakeAD) { d.code[fakeStore] = ldap.LDAPResultInsufficientAccessRights },
			other: func(t *testing.T, err error) { requireUnknown(t, err, "LDAP result 50") }},
		"the CA was never needed": {untrusted: true, change: func(*fakeAD) {}, other: func(t *testing.T, err error) { requireRefused(t, err, "no altSecurityIdentities of the public key") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) { c.KeysOfAnyIssuer = row.untrusted })
			a, b := d.alice(t), d.alice(t)
			if row.untrusted {
				d.store = nil
				d.hits[0].values["altSecurityIdentities"] = []string{altForms(t, a.Leaf(), "")["key"]}
			}
			_, err := mapped(t, m, a)
			require.NoError(t, err)
			clock.Advance(2 * time.Minute)
			if row.change != nil {
				row.change(d)
				_, err = mapped(t, m, b)
				row.other(t, err)
			}
			d.code[fakeBase], d.code[fakeStore], d.code[""] = 52, 52, 52
			for range 8 { // long after the store has lapsed
				clock.Advance(5 * time.Minute)
				_, err := mapped(t, m, a)
				if row.err == "" {
					require.NoError(t, err)
				} else {
					requireUnknown(t, err, row.err, "LDAP result 52")
				}
			}
		})
	}
}

// TestNamesAreSpelledInSeveralWays: an answer about an account is one, however the server
// that gave it writes the distinguished name.
func TestNamesAreSpelledInSeveralWays(t *testing.T) {
	t.Parallel()
	for dn, others := range map[string][]string{
		"uid=a,dc=x":                 {"uid=a,dc=x", "uid=a,dc=X", "UID=A,DC=x", "uid=a, dc=x", " uid = a , dc=x", `uid=\61,dc=x`, `UID=\41,dc=x`},
		`uid=a\,b\+c+cn=D,ou=é,dc=x`: {`cn=d+uid=A\2cB\2bC,OU=\c3\a9,dc=x`, "uid=a\\,b\\+c+cn=D,ou=É,dc=x"},
		"not a name":                 {"not a name", "Not A NAME"},
	} {
		for _, other := range others {
			t.Run(other, func(t *testing.T) {
				t.Parallel()
				d := newFakeLDAP(t)
				clock := mtlstest.NewClock(time.Time{})
				cfg := d.config()
				cfg.Now, cfg.Stale, cfg.Enabled = clock.Now, time.Hour, "(state=active)"
				disabled, inner := false, d.answer
				d.set(func(q question) reply {
					r := inner(q)
					if disabled && strings.Contains(q.filter, "active") {
						r.entries = nil
					}
					return r
				})
				d.people[0].dn = dn
				m := newLDAP(t, cfg)
				one, two := identity(t, nil, byEmail("a@x")), identity(t, nil, byEmail("alias@x"))
				a, err := m.MapAccount(t.Context(), one)
				require.NoError(t, err)
				require.Equal(t, dn, a.ID, "as the server writes it")
				disabled, d.people = true, []entry{{other, map[string][]string{"uid": {"a"}}}}
				a, err = m.MapAccount(t.Context(), two)
				require.NoError(t, err)
				require.True(t, a.Disabled)
				require.Len(t, directory.Latest(m), 1)
				d.code["dc=x"] = ldap.LDAPResultUnavailable
				clock.Advance(30 * time.Minute)
				_, err = m.MapAccount(t.Context(), one)
				requireUnknown(t, err, "has disabled it")
			})
		}
	}
	t.Run("others", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		cfg := d.config()
		cfg.Stale = time.Hour
		m := newLDAP(t, cfg)
		for i, dn := range []string{"uid=a,dc=x", "uid=b,dc=x", `uid=a\,dc\=x`, "uid=a+dc=x", "uid=a"} {
			d.people[0].dn = dn
			_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(dn)))
			require.NoError(t, err)
			require.Len(t, directory.Latest(m), i+1)
		}
	})
}
