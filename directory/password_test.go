package directory_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/directory"
	"github.com/mtlsguard/mtls/mtlstest"
)

// TestPasswordsAreTriedOnce: a password that no server has accepted is sent by one
// connection, while the others wait; if it is refused, by no other.
func TestPasswordsAreTriedOnce(t *testing.T) {
	for _, row := range []struct {
		name           string
		first, second  int // results of the binds
		tries, retries int // binds in all
	}{
		{"refused", 49, 49, 1, 1},
		{"accepted, and then of all at once", 0, 0, 8, 16},
		{"accepted, and then refused of each", 0, 49, 8, 16},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, cfg := persons(t, time.Second/2, nil)
				cfg.MaxConns = 8
				m := newLDAP(t, cfg)
				f.holdBind = lasting(time.Second / 2)
				round := func(result, atOnce, all int) {
					t.Helper()
					f.mu.Lock()
					f.bind = result
					f.mu.Unlock()
					_, before, _ := f.counts()
					var wg sync.WaitGroup
					errs := make([]error, 8)
					for i := range errs {
						id := identity(t, nil, byEmail(strconv.Itoa(i)+"@x"))
						wg.Go(func() { _, errs[i] = m.MapAccount(context.WithoutCancel(t.Context()), id) })
					}
					synctest.Wait()
					_, binds, _ := f.counts()
					require.Equal(t, before+atOnce, binds, "at once")
					wg.Wait()
					for _, err := range errs {
						if result == 0 {
							require.NoError(t, err)
						} else {
							requireUnknown(t, err, "refuses the password")
						}
					}
					_, binds, _ = f.counts()
					require.Equal(t, all, binds)
				}
				round(row.first, 1, row.tries)
				if row.first != 0 {
					round(row.second, 0, row.retries)
					return
				}
				<-time.After(10 * time.Minute) // connections are replaced
				round(row.second, 8, row.retries)
				if row.second != 0 { // what was accepted is so no longer
					<-time.After(2 * time.Minute)
					round(row.second, 1, row.retries+1)
				}
			})
		})
	}
}

// TestRefusedPasswordsAreRemembered: the last few, and not when the clock is set back.
func TestRefusedPasswordsAreRemembered(t *testing.T) {
	t.Parallel()
	d := newFakeAD(t)
	d.bind = 49
	clock := mtlstest.NewClock(time.Time{})
	secret := ""
	cfg := d.config()
	cfg.Now = clock.Now
	cfg.Password = func(context.Context) (string, error) { return secret, nil }
	m := newAD(t, cfg)
	sent := func(password string) bool {
		t.Helper()
		secret = password
		_, before, _ := d.counts()
		_, err := mapped(t, m, d.alice(t))
		requireUnknown(t, err, "refuses the password")
		_, binds, _ := d.counts()
		return binds > before
	}
	for _, password := range []string{"a", "b", "c", "d"} {
		require.True(t, sent(password))
	}
	for _, password := range []string{"a", "b", "c", "d"} {
		require.False(t, sent(password))
	}
	require.True(t, sent("e"))
	for _, password := range []string{"b", "c", "d", "e"} {
		require.False(t, sent(password))
	}
	require.True(t, sent("a"), "the fifth last")
	clock.Advance(-time.Hour)
	require.True(t, sent("a"), "refused in what is now the future")
	require.False(t, sent("a"))
}

// TestServersDoNotRestForever: one that failed in what is now the future is as any other.
func TestServersDoNotRestForever(t *testing.T) {
	t.Parallel()
	first, second := newFakeLDAP(t), newFakeLDAP(t)
	clock := mtlstest.NewClock(time.Time{})
	cfg := first.config()
	cfg.Now = clock.Now
	cfg.URLs = append(cfg.URLs, "ldap://"+second.addr)
	m := newLDAP(t, cfg)
	ask := func(m *directory.Mapper, who string) {
		t.Helper()
		_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail(who)))
		require.NoError(t, err)
	}
	first.code["dc=x"] = 52
	ask(m, "a@x")
	ask(m, "b@x")
	require.Equal(t, 1, first.searches("dc=x"), "it rests")
	delete(first.code, "dc=x")
	clock.Advance(-time.Hour)
	ask(m, "c@x")
	require.Equal(t, 2, first.searches("dc=x"))
}
