package directory_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

// lasting is a wait of a server.
func lasting(d time.Duration) func(context.Context) {
	return func(ctx context.Context) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
}

// persons is a directory that has whoever is asked for by an e-mail address at x, and
// takes the given time for each question.
func persons(t testing.TB, took time.Duration, change func(who string, q question, r *reply)) (*fake, directory.LDAP) {
	f := &fake{addr: "h:389", answer: func(q question) reply {
		who := strings.TrimSuffix(strings.TrimPrefix(q.base, "uid="), ",dc=x")
		if _, after, ok := strings.Cut(q.filter, "mail="); ok {
			who = strings.TrimSuffix(after, "@x)")
		}
		r := reply{entries: []entry{{"uid=" + who + ",dc=x", map[string][]string{"uid": {who}}}}, hold: lasting(took)}
		if change != nil {
			change(who, q, &r)
		}
		return r
	}}
	cfg := directory.LDAP{Connection: f.connection(), BaseDN: "dc=x", Filter: "(mail={email})", Enabled: "(state=active)"}
	cfg.Timeout, cfg.Now, cfg.Stale, cfg.Dial = time.Second, time.Now, time.Hour, pipe(t, f)
	return f, cfg
}

// TestConnectionsInUseAreNoSilence: while a directory answers others, who waits for a
// connection does not live on an earlier answer.
func TestConnectionsInUseAreNoSilence(t *testing.T) {
	for name, limit := range map[string]time.Duration{"no connection is free in time": 0, "the client waits for Timeout": 3 * time.Second} {
		for others, answer := range map[string]func(*reply){
			"are answered":      func(*reply) {},
			"are told no":       func(r *reply) { r.entries, r.code = nil, ldap.LDAPResultInsufficientAccessRights },
			"are several":       func(r *reply) { r.entries = append(r.entries, r.entries[0], r.entries[0]) },
			"are told too much": func(r *reply) { r.entries[0].values["x"] = []string{strings.Repeat("x", 5<<20)} },
			"are told nothing":  nil,
			"are told not now":  func(r *reply) { r.entries, r.code = nil, ldap.LDAPResultBusy },
			"are cut off":       func(r *reply) { r.instead = func(net.Conn, []byte) {} },
		} {
			silent := answer == nil || others == "are told not now" || others == "are cut off"
			t.Run(name+", others "+others, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					changed := false
					_, cfg := persons(t, 900*time.Millisecond, func(who string, q question, r *reply) {
						switch {
						case !changed:
						case answer == nil:
							r.hold = func(ctx context.Context) { <-ctx.Done() }
						case who != "a" || silent:
							answer(r)
						case q.base != "dc=x":
							r.entries = nil // disabled
						}
					})
					cfg.User, cfg.Password = "", nil // for the searches alone
					m := newLDAP(t, cfg)
					_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
					require.NoError(t, err)
					<-time.After(2 * time.Minute)
					changed = true
					var wg sync.WaitGroup
					for i := range 24 { // six for each connection
						id := identity(t, nil, byEmail(strconv.Itoa(i)+"@x"))
						wg.Go(func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), id) })
					}
					synctest.Wait()
					ctx := t.Context()
					if limit > 0 {
						var cancel func()
						ctx, cancel = context.WithTimeout(ctx, limit)
						defer cancel()
					}
					a, err := m.MapAccount(ctx, identity(t, nil, byEmail("a@x")))
					if silent {
						require.NoError(t, err)
						require.EqualValues(t, 1, m.Stats().Stale)
					} else {
						requireUnknown(t, err)
						require.Empty(t, a)
						require.Zero(t, m.Stats().Stale)
					}
					wg.Wait()
				})
			})
		}
	}
}

// TestWhoWaitsLosesNothing: a lookup has all its time from when it has a connection, and
// one that gets none leaves the earlier answer.
func TestWhoWaitsLosesNothing(t *testing.T) {
	for name, clients := range map[string]int{"it gets one in the end": 3, "it gets none": 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, cfg := persons(t, 900*time.Millisecond, nil)
				cfg.MaxConns = 1
				m := newLDAP(t, cfg)
				for i := range clients {
					_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(strconv.Itoa(i)+"@x")))
					require.NoError(t, err)
				}
				<-time.After(2 * time.Minute)
				var wg sync.WaitGroup
				errs := make([]error, clients)
				for i := range clients {
					id := identity(t, nil, byEmail(strconv.Itoa(i)+"@x"))
					wg.Go(func() { _, errs[i] = m.MapAccount(context.WithoutCancel(t.Context()), id) })
				}
				wg.Wait()
				for _, err := range errs {
					if err != nil {
						requireUnknown(t, err, "all 1 connections are in use")
						require.Equal(t, 20, clients)
					}
				}
				require.Equal(t, clients, m.Stats().Cached)
				require.Zero(t, m.Stats().Stale)
			})
		})
	}
}

// TestAnswersAtOnceAreOne: of two lookups of an account at once, the one that began later
// may have read earlier. What either says against it counts, until a lookup that begins
// after both.
func TestAnswersAtOnceAreOne(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		change     func(account map[string][]string, now time.Time)
		first, err string // of who has seen the change, and of who has not
	}{
		"disabled":     {func(a map[string][]string, _ time.Time) { a["userAccountControl"] = []string{"514"} }, "LDAP result 52", "has disabled it"},
		"other groups": {func(a map[string][]string, _ time.Time) { a["tokenGroups"] = a["tokenGroups"][:1] }, "has other groups", "has other groups"},
		"ends sooner": {func(a map[string][]string, now time.Time) {
			a["accountExpires"] = []string{fileTime(now.Add(5 * time.Minute))}
		}, "LDAP result 52", "LDAP result 52"},
		"as before": {change: func(map[string][]string, time.Time) {}},
	} {
		for _, sawFirst := range []bool{true, false} { // whose answer comes first has seen the change
			t.Run(fmt.Sprintf("%s, %v", name, sawFirst), func(t *testing.T) {
				t.Parallel()
				d, clock, m := staleAD(t, func(c *directory.ActiveDirectory) { c.Groups = directory.GroupSIDs })
				changed := maps.Clone(d.account)
				row.change(changed, clock.Now())
				certs := []*mtlstest.Certificate{d.alice(t), d.alice(t)}
				var asked atomic.Int32
				open := []chan struct{}{make(chan struct{}), make(chan struct{})}
				d.set(func(q question) reply {
					r := d.reply(q)
					if q.base != fakeAlice {
						return r
					}
					n := asked.Add(1) - 1
					r.hold = func(context.Context) { <-open[n] }
					if (n == 0) == sawFirst {
						r.entries = []entry{{fakeAlice, changed}}
					}
					return r
				})
				done := []chan error{make(chan error, 1), make(chan error, 1)}
				for i, cert := range certs {
					id := identity(t, cert)
					go func() { _, err := m.MapAccount(context.WithoutCancel(t.Context()), id); done[i] <- err }()
					eventually(t, func() bool { return asked.Load() == int32(i+1) })
				}
				for i := range certs {
					close(open[i])
					require.NoError(t, <-done[i])
				}
				d.set(d.reply)
				d.code[fakeBase] = ldap.LDAPResultUnavailable
				clock.Advance(30 * time.Minute)
				for i, cert := range certs {
					_, err := mapped(t, m, cert)
					switch want := map[bool]string{true: row.first, false: row.err}[(i == 0) == sawFirst]; want {
					case "":
						require.NoError(t, err)
					default:
						requireUnknown(t, err, want)
					}
				}
				delete(d.code, fakeBase)
				for _, cert := range certs {
					_, err := mapped(t, m, cert)
					require.NoError(t, err)
				}
				d.code[fakeBase] = ldap.LDAPResultUnavailable
				clock.Advance(30 * time.Minute)
				for _, cert := range certs {
					_, err := mapped(t, m, cert)
					require.NoError(t, err, "asked since")
				}
			})
		}
	}
}

// TestBindsAreNoAnswers: a server that takes passwords and answers no search is silent.
func TestBindsAreNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := false
		f, cfg := persons(t, 0, func(_ string, _ question, r *reply) {
			if hang {
				r.hold = func(ctx context.Context) { <-ctx.Done() }
			}
		})
		f.holdBind = lasting(900 * time.Millisecond)
		cfg.MaxConns = 1
		m := newLDAP(t, cfg)
		_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
		require.NoError(t, err)
		<-time.After(10 * time.Minute) // the connection is replaced
		hang = true
		var wg sync.WaitGroup
		for _, who := range []string{"b@x", "c@x"} {
			id := identity(t, nil, byEmail(who))
			wg.Go(func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), id) })
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = m.MapAccount(ctx, identity(t, nil, byEmail("a@x")))
		require.NoError(t, err)
		require.EqualValues(t, 1, m.Stats().Stale)
		wg.Wait()
	})
}

// TestServersThatHangAreSilent: however long Timeout is and however many they are, for
// nobody has answered a question.
func TestServersThatHangAreSilent(t *testing.T) {
	for _, row := range []struct {
		servers int
		timeout time.Duration
	}{{1, time.Minute}, {2, time.Minute}, {3, 30 * time.Second}, {4, 20 * time.Second}, {2, time.Second}} {
		for _, connect := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d of %v, connect: %v", row.servers, row.timeout, connect), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hang := false
					f, cfg := persons(t, 0, func(_ string, _ question, r *reply) {
						if hang {
							r.hold = func(ctx context.Context) { <-ctx.Done() }
						}
					})
					for range row.servers - 1 {
						cfg.URLs = append(cfg.URLs, "ldap://"+f.addr)
					}
					dial := cfg.Dial
					cfg.Timeout, cfg.Dial = row.timeout, func(ctx context.Context, network, address string) (net.Conn, error) {
						if hang && !connect {
							<-ctx.Done()
							return nil, ctx.Err()
						}
						return dial(ctx, network, address)
					}
					m := newLDAP(t, cfg)
					id := identity(t, nil, byEmail("a@x"))
					_, err := m.MapAccount(t.Context(), id)
					require.NoError(t, err)
					hang = true
					<-time.After(11 * time.Minute) // the connection is replaced
					a, err := m.MapAccount(t.Context(), id)
					require.NoError(t, err)
					require.Equal(t, "a", a.Name)
					require.EqualValues(t, 1, m.Stats().Stale)
				})
			})
		}
	}
}
