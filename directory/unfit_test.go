package directory_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/mtlstest"
)

// TestServersThatWereUnfit: what has been mended counts within seconds, in which the
// server is not asked again, and by another connection.
func TestServersThatWereUnfit(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fakeLDAP){
		"it named no schema":         func(d *fakeLDAP) { d.root = nil },
		"it lacked an attribute":     func(d *fakeLDAP) { d.schema = nil },
		"its schema was not to read": func(d *fakeLDAP) { d.code[fakeSchema] = 50 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newFakeLDAP(t)
			clock := mtlstest.NewClock(time.Time{})
			cfg := d.config()
			cfg.Now, cfg.Enabled = clock.Now, "(!(locked=*))"
			m := newLDAP(t, cfg)
			id := identity(t, nil, byEmail("a@x"))
			root, schema := d.root, d.schema
			change(d)
			_, err := m.MapAccount(t.Context(), id)
			requireUnknown(t, err)
			asked := d.searches("")
			require.Equal(t, 1, asked)
			for range 3 {
				_, again := m.MapAccount(t.Context(), id)
				require.EqualError(t, again, err.Error())
				clock.Advance(5*time.Second/3 - 1)
			}
			require.Equal(t, 1, d.searches(""), "it is not looked at again")
			conns, _, _ := d.counts()
			require.Equal(t, 1, conns, "nor connected to")
			clock.Advance(time.Second)
			_, err = m.MapAccount(t.Context(), id)
			requireUnknown(t, err)
			require.Equal(t, 2, d.searches(""))
			d.root, d.schema, d.code = root, schema, map[string]int{}
			clock.Advance(5 * time.Second)
			_, err = m.MapAccount(t.Context(), id)
			require.NoError(t, err)
			conns, _, _ = d.counts()
			require.Equal(t, 3, conns)
		})
	}
	t.Run("the clock is set back", func(t *testing.T) {
		t.Parallel()
		d := newFakeLDAP(t)
		clock := mtlstest.NewClock(time.Time{})
		cfg := d.config()
		cfg.Now, cfg.Enabled = clock.Now, "(!(locked=*))"
		m := newLDAP(t, cfg)
		schema := d.schema
		d.schema = nil
		_, err := m.MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
		requireUnknown(t, err)
		d.schema = schema
		clock.Advance(-time.Hour)
		_, err = m.MapAccount(t.Context(), identity(t, nil, byEmail("a@x")))
		require.NoError(t, err)
	})
}
