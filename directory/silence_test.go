package directory_test

import (
	"context"
	"fmt"
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

	"github.com/mtlsguard/mtls/mtlstest"
)

// A server has said no about this account, and the others take long: the client that gives
// up meanwhile has been told no.
func TestNoIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := false
		f, cfg := persons(t, 0, func(_ string, _ question, r *reply) {
			if no {
				r.entries, r.code = nil, ldap.LDAPResultInsufficientAccessRights
			}
		})
		dial := cfg.Dial
		cfg.User, cfg.Password = "", nil
		cfg.URLs = []string{"ldap://" + f.addr, "ldap://b:389", "ldap://c:389", "ldap://d:389"}
		cfg.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
			if a == f.addr {
				return dial(ctx, n, a)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("a@x"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		<-time.After(2 * time.Minute)
		no = true
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		_, err = m.MapAccount(ctx, id)
		defer func() { <-time.After(2 * time.Minute) }()
		if n := m.Stats().Stale; n != 0 {
			t.Errorf("%d earlier answers have counted", n)
		}
		require.Error(t, err)
	})
}

// A new password: the first server hangs in bind, the second is well and says disabled.
func TestOneServerThatHangsInBind(t *testing.T) {
	for _, conns := range []int{1, 4, 8} {
		for _, limit := range []time.Duration{3 * time.Second, time.Hour} {
			t.Run(fmt.Sprint(conns, limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					disabled := false
					f, cfg := persons(t, 0, func(_ string, q question, r *reply) {
						if disabled && q.base != "dc=x" {
							r.entries = nil
						}
					})
					g := &fake{addr: "g:389", answer: f.answer}
					cfg.MaxConns = conns
					cfg.URLs = []string{"ldap://h:389", "ldap://g:389"}
					cfg.Dial = pipe(t, f, g)
					secret := "one"
					cfg.Password = func(context.Context) (string, error) { return secret, nil }
					m := newLDAP(t, cfg)
					ids := []string{}
					for i := range conns {
						ids = append(ids, strconv.Itoa(i)+"@x")
						_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(ids[i])))
						require.NoError(t, err)
					}
					<-time.After(11 * time.Minute)
					secret, disabled = "two", true
					f.mu.Lock()
					f.holdBind = func(ctx context.Context) { <-ctx.Done() }
					f.mu.Unlock()
					var wg sync.WaitGroup
					var admitted atomic.Int32
					for i := range conns {
						id := identity(t, nil, byEmail(ids[i]))
						wg.Go(func() {
							ctx, cancel := context.WithTimeout(t.Context(), limit)
							defer cancel()
							a, err := m.MapAccount(ctx, id)
							if err == nil && !a.Disabled {
								admitted.Add(1)
							} else if err != nil {
							}
						})
					}
					wg.Wait()
					require.Zero(t, admitted.Load())
					if n := m.Stats().Stale; n != 0 {
						t.Errorf("%d earlier answers have counted", n)
					}
					<-time.After(time.Minute)
				})
			})
		}
	}
}

// A password that was accepted late, after it was refused, is still one to try alone.
func TestAcceptedAfterItWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, cfg := persons(t, time.Second/2, nil)
		g := &fake{addr: "g:389", answer: f.answer}
		cfg.MaxConns = 8
		var slowOne atomic.Bool
		p := pipe(t, f, g)
		cfg.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
			if slowOne.CompareAndSwap(true, false) {
				a = "g:389"
			}
			return p(ctx, n, a)
		}
		g.holdBind = lasting(time.Second / 2)
		m := newLDAP(t, cfg)
		ask := func(n, from int) *sync.WaitGroup {
			var wg sync.WaitGroup
			for i := range n {
				id := identity(t, nil, byEmail(strconv.Itoa(from+i)+"@x"))
				wg.Go(func() { _, _ = m.MapAccount(context.WithoutCancel(t.Context()), id) })
			}
			synctest.Wait()
			return &wg
		}
		ask(1, 0).Wait()
		<-time.After(11 * time.Minute)
		slowOne.Store(true)
		f.mu.Lock()
		f.bind = 49
		f.mu.Unlock()
		a := ask(1, 100) // accepted, after half a second
		b := ask(1, 101) // refused
		b.Wait()
		a.Wait()
		<-time.After(11 * time.Minute)
		_, before, _ := f.counts()
		ask(8, 200).Wait()
		_, after, _ := f.counts()
		require.Equal(t, 1, after-before, "password sent by")
	})
}

// Of two reads of the NTAuth store at once one lacks the CA, whichever ends later.
func TestStoresReadAtOnceAreOne(t *testing.T) {
	d, clock, m := staleAD(t)
	certs := []*mtlstest.Certificate{d.alice(t), d.alice(t)}
	var n atomic.Int32
	open := make(chan struct{})
	d.set(func(q question) reply {
		r := d.reply(q)
		if q.base == fakeStore {
			if n.Add(1) == 1 {
				r.hold = func(context.Context) { <-open }
			} else {
				r.entries = []entry{{fakeStore, map[string][]string{"cACertificate": {"other"}}}}
			}
		}
		return r
	})
	done := make(chan error, 1)
	id := identity(t, certs[0])
	go func() {
		_, err := m.MapAccount(context.WithoutCancel(t.Context()), id)
		done <- err
	}()
	eventually(t, func() bool { return n.Load() == 1 })
	_, err := mapped(t, m, certs[1])
	requireRefused(t, err, "NTAuth")
	close(open)
	<-done
	d.set(func(q question) reply { return reply{code: 51} })
	clock.Advance(30 * time.Minute)
	_, err = mapped(t, m, certs[0])
	require.Error(t, err, "a store without the CA was read")
}

// The answer that disabled the account has left the cache when the one beside it ends.
func TestEvictedAnswersCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		silent, disabled := false, false
		_, cfg := persons(t, 0, func(who string, q question, r *reply) {
			if who == "a" || who == "b" {
				r.entries = []entry{{"uid=a,dc=x", map[string][]string{"uid": {"a"}}}}
			}
			if q.base == "uid=a,dc=x" && disabled {
				r.entries = nil
			}
			if q.base == "uid=a,dc=x" && !disabled {
				r.hold = func(context.Context) { <-open }
			}
			if silent {
				r.entries, r.code = nil, 51
			}
		})
		cfg.CacheSize = 2
		m := newLDAP(t, cfg)
		done := make(chan error, 1)
		id := identity(t, nil, byEmail("a@x"))
		go func() {
			_, err := m.MapAccount(context.WithoutCancel(t.Context()), id)
			done <- err
		}()
		synctest.Wait()
		disabled = true
		b, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("b@x")))
		require.NoError(t, err)
		require.True(t, b.Disabled)
		for _, who := range []string{"c@x", "d@x"} {
			_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(who)))
			require.NoError(t, err)
		}
		close(open)
		require.NoError(t, <-done)
		silent = true
		<-time.After(30 * time.Minute)
		_, err = m.MapAccount(t.Context(), id)
		require.Error(t, err)
	})
}

// A Password that hangs says nothing of the directory, which nobody has asked.
func TestPasswordThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := false
		_, cfg := persons(t, 0, nil)
		cfg.Password = func(ctx context.Context) (string, error) {
			if hang {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "x", nil
		}
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("a@x"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		<-time.After(11 * time.Minute)
		hang = true
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = m.MapAccount(ctx, id)
		defer func() { <-time.After(2 * time.Minute) }()
		if n := m.Stats().Stale; n != 0 {
			t.Errorf("%d earlier answers have counted", n)
		}
		require.Error(t, err)
	})
}

// A server has said no, and the place to try the password at the next one is waited for
// in vain while others are answered: it remains a no.
func TestNoBeforeAWaitRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no, silent := false, false
		f, cfg := persons(t, 100*time.Millisecond, func(who string, _ question, r *reply) {
			if no && strings.HasPrefix(who, "v") {
				r.entries, r.code = nil, 50
			}
			if silent {
				r.entries, r.code = nil, 51
			}
		})
		g := &fake{addr: "g:389", answer: f.answer, holdBind: func(ctx context.Context) { <-ctx.Done() }}
		cfg.MaxConns = 10
		cfg.URLs = []string{"ldap://h:389", "ldap://g:389"}
		cfg.Dial = pipe(t, f, g)
		secret := "one"
		cfg.Password = func(context.Context) (string, error) { return secret, nil }
		m := newLDAP(t, cfg)
		all := func() (admitted int) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for i := range 9 {
				id := identity(t, nil, byEmail("v"+strconv.Itoa(i)+"@x"))
				wg.Go(func() {
					if _, err := m.MapAccount(context.WithoutCancel(t.Context()), id); err == nil {
						mu.Lock()
						admitted++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			return admitted
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = m.MapAccount(t.Context(), identity(t, nil, byEmail("z@x"))) })
		require.Equal(t, 9, all())
		wg.Wait()
		<-time.After(2 * time.Minute)
		no, secret = true, "two"
		wg.Go(func() { // keeps the first server heard, over a connection that it has
			for i := range 40 {
				_, _ = m.MapAccount(t.Context(), identity(t, nil, byEmail("o"+strconv.Itoa(i)+"@x")))
			}
		})
		require.Zero(t, all())
		wg.Wait()
		silent = true
		<-time.After(10 * time.Second)
		require.Zero(t, all())
		require.Zero(t, m.Stats().Stale)
		<-time.After(2 * time.Minute)
	})
}

// One server that is well, of which each step takes less than Timeout: who gives up
// before it has said anything proves nothing.
func TestSlowStepsAreNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disabled := false
		_, cfg := persons(t, 0, func(_ string, q question, r *reply) {
			if disabled && q.base != "dc=x" {
				r.entries = nil
			}
			if disabled {
				r.hold = lasting(800 * time.Millisecond)
			}
		})
		dial := cfg.Dial
		cfg.User, cfg.Password = "", nil
		cfg.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
			if disabled {
				lasting(800 * time.Millisecond)(ctx)
			}
			return dial(ctx, n, a)
		}
		m := newLDAP(t, cfg)
		id := identity(t, nil, byEmail("a@x"))
		_, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		<-time.After(11 * time.Minute)
		disabled = true
		ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
		defer cancel()
		_, err = m.MapAccount(ctx, id)
		requireUnknown(t, err)
		require.Zero(t, m.Stats().Stale)
		<-time.After(time.Minute)
		a, err := m.MapAccount(t.Context(), id)
		require.NoError(t, err)
		require.True(t, a.Disabled)
	})
}

// That a server rests is silence if it has failed by that, and has said nothing since.
func TestRestingIsNotAlwaysSilence(t *testing.T) {
	for name, row := range map[string]struct {
		then    func(f *fake, code *int)
		silence bool
	}{
		"nothing since":                      {nil, true},
		"it rests no more":                   {nil, false},
		"somebody is told no since":          {func(_ *fake, code *int) { *code = ldap.LDAPResultInsufficientAccessRights }, false},
		"it has refused to take binds since": {func(f *fake, _ *int) { f.bind = ldap.LDAPResultOperationsError }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				code, hang := 0, false
				f, cfg := persons(t, 0, func(_ string, _ question, r *reply) {
					if code != 0 {
						r.entries, r.code = nil, code
					}
				})
				cfg.MaxConns = 1
				dial := cfg.Dial
				cfg.Dial = func(ctx context.Context, n, a string) (net.Conn, error) {
					if hang {
						<-t.Context().Done() // longer than any limit
						return nil, ctx.Err()
					}
					return dial(ctx, n, a)
				}
				m := newLDAP(t, cfg)
				ask := func(who string) error {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					_, err := m.MapAccount(ctx, identity(t, nil, byEmail(who+"@x")))
					return err
				}
				require.NoError(t, ask("a"))
				<-time.After(11 * time.Minute)
				code = ldap.LDAPResultBusy
				for i := range 5 { // it rests for a minute then
					requireUnknown(t, ask(strconv.Itoa(i)))
				}
				if row.then != nil {
					f.mu.Lock()
					row.then(f, &code)
					f.mu.Unlock()
					requireUnknown(t, ask("b"))
				}
				if name == "it rests no more" {
					<-time.After(time.Minute)
				}
				hang = true
				err := ask("a")
				require.Equal(t, row.silence, err == nil, "%v", err)
			})
		})
	}
}
