package directory_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestResultsOfSearches: only a server that says "not now" does not answer. Whatever
// else it says, no earlier answer counts, another server is asked, and it does not
// rest.
func TestResultsOfSearches(t *testing.T) {
	t.Parallel()
	for _, code := range []int{1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 33, 34, 36, 48, 49, 50, 51, 52, 53, 54, 64, 65, 66, 67, 68, 69, 71, 80, 118, 119, 199, 200, 201, 207, 208, 4096, 65535} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			for _, base := range []string{fakeBase, fakeAlice, fakeStore} {
				log, second := &testdir.Log{}, newFakeAD(t)
				second.code[fakeBase] = code
				d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) {
					c.Logger = log.Logger()
					c.URLs = append(c.URLs, "ldap://"+second.addr)
				})
				second.store = d.store
				cert := d.alice(t)
				_, err := mapped(t, m, cert)
				require.NoError(t, err)
				d.code[base] = code
				clock.Advance(time.Minute)
				_, err = mapped(t, m, cert)
				conns, _, _ := second.counts()
				require.Equal(t, 1, conns, "the next server is asked")
				if silent[code] {
					require.NoError(t, err)
					require.EqualValues(t, 1, m.Stats().Stale)
					require.Contains(t, log.String(), "directory server does not answer")
					continue
				}
				requireUnknown(t, err, d.addr+": ", second.addr+": ", "LDAP result "+strconv.Itoa(code)+" ")
				require.Zero(t, m.Stats().Stale)
				require.NotContains(t, log.String(), "directory server does not answer")
				delete(second.code, fakeBase)
				_, err = mapped(t, m, cert)
				require.NoError(t, err, "another may do better")
			}
		})
	}
}

// TestSilence: a connection that ends within an answer, or brings none, is no answer.
func TestSilence(t *testing.T) {
	t.Parallel()
	for name, instead := range map[string]func(net.Conn, []byte){
		"nothing":        func(net.Conn, []byte) {},
		"half an answer": func(c net.Conn, out []byte) { _, _ = c.Write(out[:len(out)-3]) },
		"no result": func(c net.Conn, out []byte) {
			m := message(ber.DecodePacket(out).Children[0].Value.(int64))
			m.AppendChild(ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultDone, nil, ""))
			_, _ = c.Write(m.Bytes())
		},
		"a result out of range": func(c net.Conn, out []byte) {
			_, _ = c.Write(result(ber.DecodePacket(out).Children[0].Value.(int64), ldap.ApplicationSearchResultDone, 65536, ""))
		},
		"another tongue": func(c net.Conn, _ []byte) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, clock, m := staleAD(t)
			cert := d.alice(t)
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
			d.set(func(q question) reply {
				r := d.reply(q)
				r.instead = instead
				return r
			})
			clock.Advance(time.Minute)
			_, err = mapped(t, m, cert)
			require.NoError(t, err)
			require.EqualValues(t, 1, m.Stats().Stale)
		})
	}
}

// TestResultsOfBinds: no earlier answer counts when the service is told no. A password
// may be what is wrong, and is then not sent again for a minute.
func TestResultsOfBinds(t *testing.T) {
	t.Parallel()
	password := map[int]bool{19: true, 48: true, 49: true, 50: true, 53: true}
	for _, code := range []int{1, 2, 3, 7, 8, 10, 11, 13, 14, 19, 32, 34, 48, 49, 50, 51, 52, 53, 80, 4096} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			log := &testdir.Log{}
			d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) { c.Logger = log.Logger() })
			cert := d.alice(t)
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
			d.mu.Lock()
			d.bind = code
			d.mu.Unlock()
			clock.Advance(10 * time.Minute) // the connection is replaced
			_, err = mapped(t, m, cert)
			if silent[code] {
				require.NoError(t, err)
				require.EqualValues(t, 1, m.Stats().Stale)
				return
			}
			requireUnknown(t, err)
			require.Zero(t, m.Stats().Stale)
			_, err = mapped(t, m, cert)
			requireUnknown(t, err)
			_, binds, _ := d.counts()
			if password[code] {
				require.ErrorContains(t, err, "refuses the password")
				require.Equal(t, 2, binds)
				require.NotContains(t, log.String(), "directory server does not answer")
			} else {
				require.ErrorContains(t, err, "bind as")
				require.Equal(t, 3, binds)
				require.Contains(t, log.String(), "directory server does not answer")
			}
		})
	}
}

// TestResultsOfStartTLS: as those of a bind.
func TestResultsOfStartTLS(t *testing.T) {
	t.Parallel()
	ca, err := testdir.NewServerCA()
	require.NoError(t, err)
	certPEM, keyPEM, err := ca.Issue("127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	for _, code := range []int{1, 2, 3, 10, 51, 52, 53, 80} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			log := &testdir.Log{}
			d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) {
				c.InsecurePlaintext, c.RootCAs, c.Logger = false, ca.Pool(), log.Logger()
			})
			d.tls = &tls.Config{Certificates: []tls.Certificate{pair}}
			cert := d.alice(t)
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
			d.mu.Lock()
			d.startTLS = code
			d.mu.Unlock()
			clock.Advance(10 * time.Minute) // the connection is replaced
			_, err = mapped(t, m, cert)
			require.Contains(t, log.String(), "directory server does not answer")
			if silent[code] {
				require.NoError(t, err)
				return
			}
			requireUnknown(t, err, "StartTLS is refused: LDAP result "+strconv.Itoa(code))
		})
	}
}

// TestNoEarlierAnswerOutlivesAnother: what the directory says now, be it half an answer
// or the service's own fault, ends what it has said before, even when it is then down.
func TestNoEarlierAnswerOutlivesAnother(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(d *fakeAD, password *func() (string, error)){
		"its state may not be read":      func(d *fakeAD, _ *func() (string, error)) { delete(d.account, "userAccountControl") },
		"another account under the name": func(d *fakeAD, _ *func() (string, error)) { d.account["objectSid"] = []string{binarySID(1001)} },
		"deleted meanwhile":              func(d *fakeAD, _ *func() (string, error)) { d.code[fakeAlice] = ldap.LDAPResultNoSuchObject },
		"its answer has too much": func(d *fakeAD, _ *func() (string, error)) {
			d.account["sAMAccountName"] = []string{strings.Repeat("x", 5<<20)}
		},
		"may not be searched": func(d *fakeAD, _ *func() (string, error)) {
			d.code[fakeAlice] = ldap.LDAPResultInsufficientAccessRights
		},
		"the password is refused": func(d *fakeAD, _ *func() (string, error)) { d.bind = ldap.LDAPResultInvalidCredentials },
		"there is no password": func(_ *fakeAD, p *func() (string, error)) {
			*p = func() (string, error) { return "", errors.New("sealed") }
		},
		"the password is empty":     func(_ *fakeAD, p *func() (string, error)) { *p = func() (string, error) { return "", nil } },
		"the callback has panicked": func(_ *fakeAD, p *func() (string, error)) { *p = func() (string, error) { panic("sealed") } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			password := func() (string, error) { return "secret-of-svc", nil }
			d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) {
				c.Password = func(context.Context) (string, error) { return password() }
			})
			cert := d.alice(t)
			_, err := mapped(t, m, cert)
			require.NoError(t, err)
			change(d, &password)
			clock.Advance(10 * time.Minute) // the connection is replaced
			_, err = mapped(t, m, cert)
			requireUnknown(t, err)
			require.Zero(t, m.Stats().Cached)
			password = func() (string, error) { return "another", nil }
			d.bind, d.code[fakeBase] = 0, ldap.LDAPResultUnavailable // now it is down
			_, err = mapped(t, m, cert)
			requireUnknown(t, err, "LDAP result 52")
		})
	}
}

// TestLongLookupsAreAnswers: who makes its account take too many questions does not live
// on an earlier answer.
func TestLongLookupsAreAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, many := 0, false
		f := &fake{addr: "h:389", answer: func(q question) reply {
			switch {
			case !strings.Contains(q.filter, "member"):
				return reply{entries: []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}}}}}
			case !many:
				return reply{}
			}
			r := reply{hold: func(context.Context) { <-time.After(100 * time.Millisecond) }}
			for range 10 {
				n++
				r.entries = append(r.entries, entry{"cn=g" + strconv.Itoa(n) + ",dc=x", map[string][]string{"cn": {"g"}}})
			}
			return r
		}}
		cfg := directory.LDAP{Connection: f.connection(), BaseDN: "dc=x", Filter: "(mail={email})", GroupFilter: "(member={dn})", GroupDepth: 16}
		cfg.Timeout, cfg.Now, cfg.Stale, cfg.Dial = time.Second, time.Now, time.Hour, pipe(t, f)
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("a@x"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		many = true
		<-time.After(2 * time.Minute)
		_, err = m.MapAccount(t.Context(), id)
		requireUnknown(t, err, "the account takes too many questions")
		require.Zero(t, m.Stats().Stale)
	})
}

// TestConnectionsOutliveAnAccount: what one account says leaves the other connections
// to the server as they are.
func TestConnectionsOutliveAnAccount(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fakeAD){
		"too large":    func(d *fakeAD) { d.account["mail"] = []string{strings.Repeat("x", 5<<20)} },
		"may not read": func(d *fakeAD) { d.code[fakeAlice] = ldap.LDAPResultInsufficientAccessRights },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newFakeAD(t)
			m := newAD(t, d.config())
			open := gate(d)
			var wg sync.WaitGroup
			for range 3 { // connections at once
				id := identity(t, d.alice(t))
				wg.Go(func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), id) })
			}
			eventually(t, func() bool { conns, _, _ := d.counts(); return conns == 3 })
			open()
			wg.Wait()
			d.set(d.reply)
			was := d.account
			d.account = maps.Clone(was)
			change(d)
			_, err := mapped(t, m, d.alice(t))
			requireUnknown(t, err)
			d.account, d.code = was, map[string]int{}
			for range 2 {
				_, err = mapped(t, m, d.alice(t))
				require.NoError(t, err)
			}
			conns, _, _ := d.counts()
			require.Equal(t, 3, conns)
		})
	}
}

// TestStaleIsOfAnAccount: what the directory has said since about the account, asked for
// another certificate, counts as well.
func TestStaleIsOfAnAccount(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change func(*fakeAD, *mtlstest.Clock)
		err    string // empty: the earlier answer counts
	}{
		"it agrees":    {change: func(*fakeAD, *mtlstest.Clock) {}},
		"another name": {change: func(d *fakeAD, _ *mtlstest.Clock) { d.account["sAMAccountName"] = []string{"alicia"} }},
		"the same groups otherwise": {change: func(d *fakeAD, _ *mtlstest.Clock) {
			d.account["tokenGroups"] = []string{binarySID(2000), binarySID(513), binarySID(513)}
		}},
		"it is disabled": {func(d *fakeAD, _ *mtlstest.Clock) { d.account["userAccountControl"] = []string{"514"} }, "has disabled it"},
		"it has left a group": {func(d *fakeAD, _ *mtlstest.Clock) {
			d.account["tokenGroups"] = d.account["tokenGroups"][:1]
		}, "has other groups"},
		"it ends sooner": {func(d *fakeAD, c *mtlstest.Clock) {
			d.account["accountExpires"] = []string{fileTime(c.Now().Add(time.Minute))}
		}, "LDAP result 52"},
		"the clock was set back": {func(d *fakeAD, c *mtlstest.Clock) {
			c.Advance(-time.Hour)
			d.account["userAccountControl"] = []string{"514"}
		}, "has disabled it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) { c.Groups = directory.GroupSIDs })
			a, b := d.alice(t), d.alice(t)
			_, err := mapped(t, m, a)
			require.NoError(t, err)
			known := clock.Now()
			clock.Advance(time.Second)
			row.change(d, clock)
			_, err = mapped(t, m, b)
			require.NoError(t, err)
			require.Equal(t, []string{textSID(1000)}, directory.Latest(m))
			d.code[fakeBase] = ldap.LDAPResultUnavailable
			clock.Advance(known.Add(2 * time.Minute).Sub(clock.Now()))
			_, err = mapped(t, m, a)
			if row.err == "" {
				require.NoError(t, err)
				return
			}
			requireUnknown(t, err, row.err, "LDAP result 52")
			m.Flush()
			require.Empty(t, directory.Latest(m))
		})
	}
	for name, row := range map[string]struct {
		first, second func(account map[string][]string)
		a, b          string // of the first and of the second; empty: it counts
	}{
		"at once, disabled first":  {first: func(a map[string][]string) { a["userAccountControl"] = []string{"514"} }, a: "LDAP result 52", b: "has disabled it"},
		"at once, disabled second": {second: func(a map[string][]string) { a["userAccountControl"] = []string{"514"} }, a: "has disabled it", b: "LDAP result 52"},
		"at once, of other groups": {first: func(a map[string][]string) { a["tokenGroups"] = a["tokenGroups"][:1] }, a: "has other groups", b: "has other groups"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) { c.Groups = directory.GroupSIDs })
			var n atomic.Int32
			open := make(chan struct{})
			d.set(func(q question) reply {
				r := d.reply(q)
				if q.base != fakeAlice {
					return r
				}
				account, change := maps.Clone(d.account), row.second
				if n.Add(1) == 1 {
					change = row.first
					r.hold = func(context.Context) { <-open }
				}
				if change != nil {
					change(account)
				}
				r.entries = []entry{{fakeAlice, account}}
				return r
			})
			a, b := d.alice(t), d.alice(t)
			id, done := identity(t, a), make(chan error)
			go func() { _, err := m.MapAccount(context.WithoutCancel(t.Context()), id); done <- err }()
			eventually(t, func() bool { return n.Load() == 1 })
			_, err := mapped(t, m, b)
			close(open)
			require.NoError(t, errors.Join(err, <-done))
			d.code[fakeBase] = ldap.LDAPResultUnavailable
			clock.Advance(time.Minute)
			for cert, want := range map[*mtlstest.Certificate]string{a: row.a, b: row.b} {
				if _, err := mapped(t, m, cert); want == "" {
					require.NoError(t, err)
				} else {
					requireUnknown(t, err, want)
				}
			}
		})
	}
	t.Run("until it is asked anew", func(t *testing.T) {
		t.Parallel()
		d, clock, m := staleAD(t)
		a, b := d.alice(t), d.alice(t)
		for _, uac := range []string{"512", "514", "512"} {
			d.account["userAccountControl"] = []string{uac}
			_, err := mapped(t, m, b)
			require.NoError(t, err)
			if uac == "512" {
				_, err = mapped(t, m, a)
				require.NoError(t, err)
			}
			clock.Advance(time.Minute)
		}
		d.code[fakeBase] = ldap.LDAPResultUnavailable
		_, err := mapped(t, m, a)
		require.NoError(t, err)
	})
	t.Run("what is no longer known may have been against it", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		clock := mtlstest.NewClock(time.Time{})
		cfg := d.config()
		cfg.Now, cfg.Stale, cfg.CacheSize = clock.Now, time.Hour, 2
		m := newLDAP(t, cfg)
		ask := func(who string) error {
			d.people[0].dn = "uid=" + who + ",dc=x"
			_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(who)))
			return err
		}
		for _, who := range []string{"a", "b", "a", "c"} { // the cache has a and c
			require.NoError(t, ask(who))
		}
		require.EqualValues(t, 3, m.Stats().Lookups)
		d.code["dc=x"] = ldap.LDAPResultUnavailable
		clock.Advance(time.Minute)
		requireUnknown(t, ask("a"), "more accounts than CacheSize")
		require.NoError(t, ask("c"))
	})
	t.Run("bounded, and of those who have an identifier", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		cfg := d.config()
		clock := mtlstest.NewClock(time.Time{})
		cfg.Now, cfg.Stale, cfg.CacheSize = clock.Now, time.Hour, 3
		m := newLDAP(t, cfg)
		for i := range 10 {
			d.people[0].dn = fmt.Sprintf("uid=%d,dc=x", i)
			_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(strconv.Itoa(i))))
			require.NoError(t, err)
		}
		require.Len(t, directory.Latest(m), 3)
		m.Flush()
		d.people[0].dn = ""
		for _, who := range []string{"x", "y"} {
			_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(who)))
			require.NoError(t, err)
		}
		require.Empty(t, directory.Latest(m))
		d.code["dc=x"] = ldap.LDAPResultUnavailable
		clock.Advance(time.Minute)
		_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("x")))
		require.NoError(t, err)
		delete(d.code, "dc=x")
		cfg.Stale = 0
		m = newLDAP(t, cfg)
		d.people[0].dn = "uid=x,dc=x"
		_, err = m.MapAccount(t.Context(), identity(t, nil, byEmail("x")))
		require.NoError(t, err)
		require.Empty(t, directory.Latest(m), "not needed")
	})
}

// interrupted is a context that does something else before it says why it is done.
type interrupted struct {
	waited
	first func()
}

func (i interrupted) Err() error {
	i.first()
	return i.waited.Err()
}

// TestAnAnswerThatComesMeanwhile ends an earlier one, for whom it comes too late as
// well.
func TestAnAnswerThatComesMeanwhile(t *testing.T) {
	t.Parallel()
	d, clock, m := staleAD(t)
	cert := d.alice(t)
	_, err := mapped(t, m, cert)
	require.NoError(t, err)
	d.hits = nil
	open := gate(d)
	defer open()
	clock.Advance(time.Minute)
	before := d.searches(fakeBase)
	done := make(chan error, 1)
	ctx := interrupted{waited{t.Context(), make(chan struct{})}, sync.OnceFunc(func() {
		open()
		_, err := mapped(t, m, cert)
		requireRefused(t, err)
	})}
	id := identity(t, cert)
	go func() { _, err := m.MapAccount(ctx, id); done <- err }()
	eventually(t, func() bool { return d.searches(fakeBase) > before })
	clock.Advance(time.Minute)
	close(ctx.done)
	requireUnknown(t, <-done, "no answer while the client waited")
}

// TestStaleTogether: certificates of one account, a Flush and a directory that comes and
// goes, all at once.
func TestStaleTogether(t *testing.T) {
	t.Parallel()
	d, clock, m := staleAD(t)
	var n int
	d.set(func(q question) reply {
		r := d.reply(q)
		d.mu.Lock()
		defer d.mu.Unlock()
		if n++; q.base == fakeBase && n%3 == 0 {
			r.code, r.entries = ldap.LDAPResultUnavailable, nil
		}
		return r
	})
	var wg sync.WaitGroup
	for range 8 {
		id := identity(t, d.alice(t))
		wg.Go(func() {
			for range 50 {
				if a, err := m.MapAccount(t.Context(), id); err == nil && (a.Name != "alice" || len(a.Groups) != 2) {
					t.Errorf("%v", a)
				}
				clock.Advance(10 * time.Second)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			m.Flush()
			m.Stats()
		}
	})
	wg.Wait()
}

// TestNegationsNeedTheSchema: what a server does not know is not known to be absent.
func TestNegationsNeedTheSchema(t *testing.T) {
	t.Parallel()
	const capability = "supportedCapabilities"
	for _, row := range []struct {
		name                         string
		filter, enabled, groupFilter string
		change                       func(*fakeLDAP)
		err                          string
	}{
		{name: "no negation", enabled: "(misspelt=*)", change: func(d *fakeLDAP) { d.root, d.schema = nil, nil }},
		{name: "by name", enabled: "(&(misspelt=*)(!(LOCKED=*)))"},
		{name: "by another name", enabled: "(!(|(commonname=x)(cn>=y)(cn=a*)(cn~=x)(cn<=x)))"},
		{name: "by identifier", enabled: "(!(1.2.3.4=*))"},
		{name: "with options", enabled: "(!(locked;binary;Binary=*))"},
		{name: "by a rule", enabled: "(!(cn:CaseIgnoreMatch:=x))"},
		{name: "by the identifier of a rule", enabled: "(!(cn:2.5.13.2:=x))"},
		{name: "twice", enabled: "(!(!(cn=x)))"},
		{name: "of nothing", enabled: "(!(|))"},
		{name: "misspelt in Enabled", enabled: "(!(loked=*))", err: `LDAP.Enabled has "loked" under a !`},
		{name: "misspelt in Filter", filter: "(&(mail={email})(!(loked=*)))", err: `LDAP.Filter has "loked" under a !`},
		{name: "misspelt in GroupFilter", groupFilter: "(&(member={dn})(!(loked=x)))", err: `LDAP.GroupFilter has "loked" under a !`},
		{name: "misspelt beside others", enabled: "(&(cn=x)(!(&(cn=x)(|(locked>=1)(loked>=1)))))", err: `"loked" under a !`},
		{name: "misspelt with a rule", enabled: "(!(loked:caseIgnoreMatch:=x))", err: `"loked" under a !`},
		{name: "a misspelt rule", enabled: "(!(cn:caseIgnorMatch:=x))", err: `"caseIgnorMatch" under a !, which is none of the matchingRules`},
		{name: "a misspelt rule of any attribute", enabled: "(!(:caseIgnorMatch:=x))", err: `"caseIgnorMatch" under a !`},
		{name: "an attribute is no rule", enabled: "(!(cn:locked:=x))", err: `"locked" under a !`},
		{name: "a rule is no attribute", enabled: "(!(caseIgnoreMatch:2.5.13.2:=x))", err: `"caseIgnoreMatch" under a !`},
		{name: "what stands in a description is no name", enabled: "(!(in=*))", err: `"in" under a !`},
		{name: "Active Directory", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.root[capability] = []string{"1.2", "1.2.840.113556.1.4.800"} }, err: "the server is Active Directory"},
		{name: "AD LDS", filter: "(&(mail={email})(!(locked=*)))", change: func(d *fakeLDAP) { d.root[capability] = []string{"1.2.840.113556.1.4.1851"} }, err: "or no ! in LDAP.Filter"},
		{name: "Active Directory, and nothing negated", enabled: "(!(|))", change: func(d *fakeLDAP) { d.root[capability] = []string{"1.2.840.113556.1.4.800"} }, err: "the server is Active Directory"},
		{name: "another server's capabilities", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.root[capability] = []string{"1.2.840.113556.1.4.8000"} }},
		{name: "capabilities in pieces", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.root[capability+";range=0-1"] = []string{"x"} }, err: "more values of supportedCapabilities"},
		{name: "no root entry", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.code[""] = 32 }, err: "no such entry"},
		{name: "no schema named", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { delete(d.root, "subschemaSubentry") }, err: "names no subschemaSubentry"},
		{name: "two schemas", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.root["subschemaSubentry"] = []string{"a", "b"} }, err: "2 values of subschemaSubentry"},
		{name: "no schema to see", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.code[fakeSchema] = 32 }, err: "the schema \"cn=schema\": no such entry"},
		{name: "an empty schema", enabled: "(!(locked=*))", change: func(d *fakeLDAP) {
			answer := d.answer
			d.set(func(q question) reply {
				if q.base == fakeSchema {
					return reply{}
				}
				return answer(q)
			})
		}, err: "the schema \"cn=schema\": no such entry"},
		{name: "no schema to read", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.code[fakeSchema] = 50 }, err: "the service may not read"},
		{name: "nothing of the schema to read", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.schema = nil }, err: `"locked" under a !`},
		{name: "half a schema", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.schema["attributeTypes;range=0-1"] = []string{"x"} }, err: "more values of attributeTypes"},
		{name: "a schema that cannot be read", enabled: "(!(locked=*))", change: func(d *fakeLDAP) { d.schema["attributeTypes"] = []string{"( 1.2.3.4 NAME 'locked"} }, err: `"locked" under a !, which the server may know: "( 1.2.3.4 NAME 'locked" of its schema`},
		{name: "another one that cannot be read", enabled: "(!(loked=*))", change: func(d *fakeLDAP) { d.schema["attributeTypes"] = []string{"( 1.2.3.4 NAME 'locked"} }, err: `"loked" under a !, which is none of the attributeTypes`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeLDAP(t)
			if row.change != nil {
				row.change(d)
			}
			clock := mtlstest.NewClock(time.Time{})
			cfg := d.config()
			cfg.Now, cfg.Stale, cfg.Enabled, cfg.GroupFilter = clock.Now, time.Hour, row.enabled, row.groupFilter
			if row.filter != "" {
				cfg.Filter = row.filter
			}
			m := newLDAP(t, cfg)
			for range 3 {
				a, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
				if check := m.Check(t.Context()); row.err != "" {
					requireUnknown(t, err, row.err)
					requireUnknown(t, check, row.err)
					require.Zero(t, d.searches("dc=x"))
				} else {
					require.NoError(t, err)
					require.Equal(t, "a", a.Name)
					require.LessOrEqual(t, d.searches(fakeSchema), 1, "once for each connection")
				}
				clock.Advance(time.Minute)
			}
		})
	}
	t.Run("by each connection and server", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		clock := mtlstest.NewClock(time.Time{})
		cfg := d.config()
		cfg.Now, cfg.Stale, cfg.Enabled = clock.Now, time.Hour, "(!(locked=*))"
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("a@x"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		d.schema["attributeTypes"] = nil
		clock.Advance(10 * time.Minute) // the connection is replaced
		_, err = m.MapAccount(t.Context(), id)
		requireUnknown(t, err, `"locked" under a !`)
		require.Zero(t, m.Stats().Stale, "that is an answer")
	})
	t.Run("a server that is down is no answer", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		clock := mtlstest.NewClock(time.Time{})
		cfg := d.config()
		cfg.Now, cfg.Stale, cfg.Enabled = clock.Now, time.Hour, "(!(locked=*))"
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("a@x"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		d.code[fakeSchema] = ldap.LDAPResultUnavailable
		clock.Advance(10 * time.Minute)
		_, err = m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		require.EqualValues(t, 1, m.Stats().Stale)
		delete(d.code, fakeSchema)
		clock.Advance(time.Minute)
		_, err = m.MapAccount(t.Context(), id)
		require.NoError(t, err, "and is not kept")
		require.EqualValues(t, 1, m.Stats().Stale)
	})
}

// TestDescriptions of RFC 4512 section 4.1, read strictly.
func TestDescriptions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"( 2.5.4.3 NAME 'cn' )":                     {"2.5.4.3", "cn"},
		"(2.5.4.3 NAME('cn' 'commonName')SUP name)": {"2.5.4.3", "cn", "commonName"},
		"( 1.2 )":          {"1.2"},
		"( 1.2 NAME ( ) )": {"1.2"},
		"( 1.2 DESC 'x' NAME 'a' OBSOLETE SYNTAX 1.3{64} SINGLE-VALUE X-ORIGIN ( 'a' 'NAME' ) )": {"1.2", "a"},
		`( 1.2 NAME 'a' DESC 'it\27s ( NAME b )' )`:                                              {"1.2", "a"},
		"( 1.2 NAME 'a' MAY ( b $ c ) )":                                                         {"1.2", "a"},
		"( a-oid NAME 'a' )":                                                                     {"a"},
		"( 1.2\tNAME 'a'\r\n  DESC\n'x'\t)\n":                                                    {"1.2", "a"},
		"( 01.2 NAME 'a' )":                                                                      {"a"},
	} {
		names, ok := directory.Defines(text)
		require.True(t, ok, text)
		require.Equal(t, want, names, text)
	}
	for _, text := range []string{"", "(", ")", "()", "( )", "( 1.2", "1.2 NAME 'a' )", "( 1.2 NAME 'a'", "( 1.2 NAME )", "( 1.2 NAME a )", "( 1.2 NAME ( a ) )", "( 1.2 NAME 'a )", "( 1.2 NAME 'a'b )",
		"( 1.2 NAMEx'a' )", "( 1.2 NAME 'a' ) )", "( 1.2 NAME ( 'a' )", "( 1.2 NAME ( ( 'a' ) ) )", "( 1.2 NAME 'a' NAME 'b' )", "( 1.2 DESC 'it's' NAME 'a' )", "( 1.2 'NAME' 'a' )", "( 1.2 ( NAME 'a' ) )",
		"( 1.2 MAY ( a ( b ) NAME 'a' )", "( 1.2 NAME 'a'b c )", "( 1.2 NAME ( 'a''b' ) )", "( NAME 'a' )", "( 'x' NAME 'a' )", "( 1.2 NAME 'a' ) ( 1.3 NAME 'b' )", "( 1.2 ) NAME 'a' )", "( 1.2\vNAME 'a' )", "( 1.2 NAME 'a'\v)"} {
		names, ok := directory.Defines(text)
		require.False(t, ok, text)
		require.Empty(t, names, text)
	}
}

func FuzzDescriptions(f *testing.F) {
	f.Add("( 2.5.4.3 NAME ( 'cn' 'commonName' ) DESC 'x' SUP name )")
	f.Add("( 1.2 NAME 'a' X-ORIGIN ( 'b' ) SINGLE-VALUE )")
	f.Fuzz(func(t *testing.T, s string) {
		names, ok := directory.Defines(s)
		for _, name := range names {
			if !ok || !strings.Contains(s, name) || strings.ContainsAny(name, "'") {
				t.Fatalf("%q defines %q", s, name)
			}
		}
	})
}

// TestFieldsAreComparedForEquality: no other comparison is about one client.
func TestFieldsAreComparedForEquality(t *testing.T) {
	t.Parallel()
	const chain = "1.2.840.113556.1.4.1941"
	for filter, why := range map[string]string{
		"(uid={uid})": "", "(mail={uid}@x)": "", `(cn=\2a{uid})`: "", "(&(uid={uid})(!(cn=x))(cn=a*)(x>=1)(y~=z))": "", "(|(a={uid})(b={cn}))": "",
		"(uid:caseExactMatch:={uid})": "", "(uid:CASEIGNOREMATCH:={uid})": "", "(uid:caseExactIA5Match:={uid})": "", "(uid:caseIgnoreIA5Match:={uid})": "", "(uid:octetStringMatch:={uid})": "",
		"(uid:2.5.13.5:={uid})": "", "(uid:2.5.13.2:={uid})": "", "(uid:1.3.6.1.4.1.1466.109.114.1:={uid})": "", "(uid:1.3.6.1.4.1.1466.109.114.2:={uid})": "", "(uid:2.5.13.17:={uid})": "",
		`(guid=\00\01{uid})`: "",
		"(cn~={cn})":         "by ~=, >= or <=: write (cn={...})", "(uid>={uid})": "by ~=, >= or <=: write (uid={...})", "(uid<={uid})": "by ~=, >= or <=: write (uid={...})",
		"(!(uid={uid}))": "under a !", "(&(a=b)(!(|(c=d)(uid={uid}))))": "under a !", "(!(!(uid={uid})))": "under a !", "(!(uid>={uid}))": "under a !",
		"(uid={uid}*)": "asterisk", "(uid=*{uid})": "asterisk", "(uid=a*{uid}*)": "asterisk", "(uid=*a*{uid}b)": "asterisk", "(&(a=b)(|(uid={uid}*)(c=d)))": "write (uid={...})",
		"(cn:dn:={cn})": ":dn", "(cn:dn:caseExactMatch:={cn})": ":dn", "(cn:={cn})": "matching rule", "(:caseExactMatch:={cn})": "name the one",
		"(entryDN:dnSubtreeMatch:={cn})": `matching rule "dnSubtreeMatch"`, "(uid:caseIgnoreSubstringsMatch:={uid})": "matching rule", "(uid:2.5.13.4:={uid})": "matching rule",
		"(member:" + chain + ":={uid})": "matching rule",
	} {
		err := directory.EqualTemplate(filter, nil, []string{"cn", "uid"})
		cfg := directory.LDAP{Connection: directory.Connection{URLs: []string{"ldap://h"}, InsecurePlaintext: true}, BaseDN: "dc=x", Filter: filter}
		_, of := directory.NewLDAP(cfg)
		cfg.Filter, cfg.GroupFilter = "(cn={cn})", strings.NewReplacer("{cn}", "{name}", "{uid}", "{dn}").Replace(filter)
		_, ofGroup := directory.NewLDAP(cfg)
		if why == "" {
			require.NoError(t, errors.Join(err, of, ofGroup), filter)
			continue
		}
		require.ErrorContains(t, err, why, filter)
		require.ErrorContains(t, of, "mtls: LDAP.Filter: ", filter)
		require.ErrorContains(t, of, why, filter)
		if strings.Contains(filter, chain) {
			require.NoError(t, ofGroup)
		} else {
			require.ErrorContains(t, ofGroup, "mtls: LDAP.GroupFilter: ", filter)
		}
	}
	cfg := directory.LDAP{Connection: directory.Connection{URLs: []string{"ldap://h"}, InsecurePlaintext: true}, BaseDN: "dc=x", Filter: "(cn={cn})",
		Enabled: "(&(!(end<={now}))(|(!(end=*))(end>={now})))"}
	_, err := directory.NewLDAP(cfg)
	require.NoError(t, err, "the time is nobody's name")
}

// TestOptionsMakeAnotherAttribute: only ;binary is the same one (RFC 4522), and a part
// of a list is not all of it.
func TestOptionsMakeAnotherAttribute(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		group   map[string][]string
		account map[string][]string
		want    []string // groups
		err     string
	}{
		{name: "one", group: map[string][]string{"CN": {"users"}}, want: []string{"users"}},
		{name: "as binary", group: map[string][]string{"cn;Binary": {"users"}}, want: []string{"users"}},
		{name: "in another language as well", group: map[string][]string{"cn": {"users"}, "cn;lang-de": {"admins"}, "cn;lang-de;binary": {"admins"}, "cnx": {"admins"}, "c": {"admins"}}, want: []string{"users"}},
		{name: "in another language in pieces", group: map[string][]string{"cn": {"users"}, "cn;x-a;range=0-1": {"admins"}}, want: []string{"users"}},
		{name: "in another language only", group: map[string][]string{"cn;lang-de": {"admins"}}, err: "has no cn"},
		{name: "in pieces", group: map[string][]string{"cn": {"users"}, "cn;binary;Range=0-1": {"admins"}}, err: "more values of cn"},
		{name: "two values", group: map[string][]string{"cn": {"users", "admins"}}, err: "2 values of cn"},
		{name: "an empty one", group: map[string][]string{"cn": {""}}, err: "has no cn"},
		{name: "an account of another language", group: map[string][]string{"cn": {"users"}}, account: map[string][]string{"uid;lang-de": {"root"}}, err: "has no uid"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newFakeLDAP(t)
			d.groups = []entry{{"cn=users,dc=x", row.group}}
			if row.account != nil {
				d.people[0].values = row.account
			}
			cfg := d.config()
			cfg.GroupFilter = "(member={dn})"
			a, err := newLDAP(t, cfg).MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
			if row.err != "" {
				requireUnknown(t, err, row.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, row.want, a.Groups)
		})
	}
	t.Run("asked for", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		d.people[0].values["cn"], d.people[0].values["cn;lang-de"] = []string{"a"}, []string{"b"}
		cfg := d.config()
		cfg.Attributes = []string{"cn;lang-DE"}
		a, err := newLDAP(t, cfg).MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
		require.NoError(t, err)
		require.Equal(t, map[string][]string{"cn;lang-DE": {"b"}}, a.Attributes)
	})
}

// TestURLsOfServers: one host, one port, and no secret in an error.
func TestURLsOfServers(t *testing.T) {
	t.Parallel()
	check := func(url string) error {
		_, err := directory.NewActiveDirectory(directory.ActiveDirectory{Connection: directory.Connection{URLs: []string{url}, InsecurePlaintext: true, RootCAs: nil, User: "x", Password: given("x")}})
		return err
	}
	for _, url := range []string{"ldap://h", "ldap://h:1", "ldap://h:65535", "ldap://dc_1.a-b.test.", "ldap://10.0.0.1:389", "ldap://[::1]", "ldap://[fe80::1%25eth0]:389"} {
		require.NoError(t, check(url), url)
	}
	for _, url := range []string{"ldap://h:0", "ldap://h:65536", "ldap://h:99999999999999999999", "ldap://*", "ldap://h,h2", "ldap://%68%20", "ldap://h%00", "ldap://h(x)", "ldap://ä", "ldap://h;x", "ldap://[::x]", "ldap://h#x"} {
		require.ErrorContains(t, check(url), "mtls: ActiveDirectory.URLs[0]: ", url)
	}
	for _, url := range []string{"ldaps://svc:hunter2@dc1.test", "ldaps://svc:hunter2@dc1 .test", "ldaps://dc1.test?bindpw=hunter2", "ldaps://svc:hunter2/x@dc1.test", "ldaps://svc:1?hunter2@dc1.test",
		"svc:hunter2@dc1.test", "hunter2@dc1.test", "hunter2://x@dc1.test", "ldaps://dc1.test#hunter2", "ldaps://hunter2%zz@dc1.test", "ldaps://hunter2/x@h", "ldaps://hunter2?x@h", "ldaps://hunter2#x@h"} {
		err := check(url)
		require.ErrorContains(t, err, "mtls: ActiveDirectory.URLs[0]: ", url)
		require.NotContains(t, err.Error(), "hunter2", url)
		var typed *mtls.ConfigError
		require.ErrorAs(t, err, &typed)
		require.NotContains(t, typed.Value, "hunter2")
		if strings.HasPrefix(url, "ldaps://dc1.test") {
			require.Equal(t, "ldaps://dc1.test", typed.Value)
		}
	}
}

// flusher is a handler of logs that asks for a Flush.
type flusher struct {
	slog.Handler
	m *directory.Mapper
}

func (f *flusher) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "an earlier answer counts") {
		f.m.Flush()
	}
	return nil
}

// TestLoggersMayUseTheMapper: no lock is held meanwhile.
func TestLoggersMayUseTheMapper(t *testing.T) {
	t.Parallel()
	h := &flusher{Handler: slog.Default().Handler()}
	d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) { c.Logger = slog.New(h) })
	h.m = m
	cert := d.alice(t)
	_, err := mapped(t, m, cert)
	require.NoError(t, err)
	d.code[fakeBase] = ldap.LDAPResultUnavailable
	clock.Advance(time.Minute)
	done := make(chan error, 1)
	id := identity(t, cert)
	go func() { _, err := m.MapAccount(context.WithoutCancel(t.Context()), id); done <- err }()
	eventually(t, func() bool { return len(done) == 1 })
	require.NoError(t, <-done)
	require.Zero(t, m.Stats().Cached)
}

// TestManyQuestionsAreNoSilence: while too many wait, an earlier answer counts only if
// every server is known to fail.
func TestManyQuestionsAreNoSilence(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		down  bool
		other bool // there is another server, which is well
	}{"the directory is well": {}, "every server is down": {down: true}, "one of two is down": {true, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, other := newFakeLDAP(t), newFakeLDAP(t)
			clock := mtlstest.NewClock(time.Time{})
			cfg := d.config()
			if row.other {
				cfg.URLs = append(cfg.URLs, "ldap://"+other.addr)
			}
			cfg.Now, cfg.Stale = clock.Now, time.Hour
			m := newLDAP(t, cfg)
			known := identity(t, nil, byEmail("known@x"))
			_, err := m.MapAccount(t.Context(), known)
			require.NoError(t, err)
			clock.Advance(time.Minute)
			if row.down {
				d.code["dc=x"] = ldap.LDAPResultUnavailable
				_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("x")))
				require.Equal(t, row.other, err == nil)
			}
			before, open := m.Stats().Lookups, make(chan struct{})
			hang := func(question) reply {
				return reply{hold: func(ctx context.Context) {
					select {
					case <-open:
					case <-ctx.Done():
					}
				}}
			}
			d.set(hang)
			other.set(hang)
			var wg sync.WaitGroup
			for i := range 1024 {
				id := identity(t, nil, byEmail(strconv.Itoa(i)))
				wg.Go(func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), id) })
			}
			eventually(t, func() bool { return m.Stats().Lookups == before+1024 })
			_, err = m.MapAccount(t.Context(), known)
			if row.down && !row.other {
				require.NoError(t, err)
			} else {
				requireUnknown(t, err, "too many questions are waiting")
			}
			close(open)
			wg.Wait()
		})
	}
}

// TestTheStoreCountsForTwiceLifetime at most: an answer may rest on a store that was
// about to be read anew.
func TestTheStoreCountsForTwiceLifetime(t *testing.T) {
	t.Parallel()
	d, clock, m := staleAD(t)
	_, err := mapped(t, m, d.alice(t))
	require.NoError(t, err)
	d.store = nil
	clock.Advance(time.Minute - 1)
	cert := d.alice(t)
	_, err = mapped(t, m, cert)
	require.NoError(t, err)
	clock.Advance(time.Minute)
	_, err = mapped(t, m, cert)
	requireRefused(t, err, "NTAuth")
}
