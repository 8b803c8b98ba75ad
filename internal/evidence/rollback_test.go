package evidence_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// two are certificates whose lists are at two places: one.test and two.test.
func (w *world) two() (one, two evidence.Query) {
	w.only([]string{"http://one.test/"}, nil)
	one = w.leaf()
	w.only([]string{"http://two.test/"}, nil)
	return one, w.leaf()
}

// Somebody on the path serves an older list, which is still current, in another
// place than the one from which the newer one came.
func TestRollbackByAnotherPlace(t *testing.T) {
	user := scope(testpki.Scope{UserOnly: true})
	for _, c := range []struct {
		name     string
		number   int64
		changes  []change // of the older list, which does not revoke
		owner    byte
		gone     bool // the first one is not in memory any more
		want     evidence.Status
		taken    bool
		numberAt int64 // of the newer one
	}{
		{name: "older by time and number", number: 6, changes: []change{ago(time.Hour)}, numberAt: 7, want: evidence.Revoked},
		{name: "older by time", number: 8, changes: []change{ago(time.Hour)}, numberAt: 7, want: evidence.Revoked},
		{name: "older by a second", number: 6, changes: []change{ago(time.Second)}, numberAt: 7, want: evidence.Revoked},
		{name: "of the same second with a lower number", number: 6, numberAt: 7, want: evidence.Revoked},
		{name: "of the same second with a higher number", number: 8, numberAt: 7, want: evidence.Good, taken: true},
		{name: "of the same second and number, without the entry", number: 7, numberAt: 7, want: evidence.Revoked},
		{name: "older, and the newer is gone", number: 8, changes: []change{ago(time.Second)}, numberAt: 7, gone: true, want: evidence.Unknown},
		{name: "of the same second with a lower number, and the newer is gone", number: 6, numberAt: 7, gone: true, want: evidence.Unknown},
		{name: "newer, and the older is gone", number: 8, changes: []change{ago(-time.Second)}, numberAt: 7, gone: true, want: evidence.Good, taken: true},
		{name: "of another scope", number: 6, changes: []change{ago(time.Hour), user}, numberAt: 7, want: evidence.Revoked, taken: true}, // by the other, which is in memory
		{name: "of another owner", number: 6, changes: []change{ago(time.Hour)}, owner: 1, numberAt: 7, want: evidence.Revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, m := newWorld(t), &memory{}
			w.restart(m)
			one, two := w.two()
			two.Owner[0] = c.owner
			w.on("one.test", says(w.list(c.numberAt, entry(two.Cert, superseded))))
			require.Equal(t, evidence.Good, w.check(one).Status)
			if c.gone {
				w.engine.Crowd(one)
				w.only([]string{"http://three.test/"}, nil)
				w.check(w.leaf()) // the cache of slots keeps the one that it has evicted last
				for range 3 {
					runtime.GC()
				}
			}
			older := w.list(c.number, c.changes...)
			w.on("two.test", says(older))
			f := w.check(two)
			require.Equal(t, c.want, f.Status, f.Detail)
			stored, has := m.keys()[evidence.CRLKey(two, "http://two.test/")]
			require.Equal(t, c.taken, has)
			if has {
				require.Equal(t, older, stored)
			}
			for range 2 {
				if c.gone {
					break // there is a crowd to be asked
				}
				w.advance(time.Minute)
				err := w.engine.Refresh(context.Background())
				require.Equal(t, c.want, w.check(two).Status)
				if !c.taken {
					require.ErrorContains(t, err, "older list")
					require.Len(t, m.keys(), 1)
				}
			}
		})
	}
}

// The newer list is known by its time and number after it has left memory, and
// after a restart as soon as its own place has been looked at.
func TestRollbackWithoutTheNewerListInMemory(t *testing.T) {
	w, m := newWorld(t), &memory{}
	w.restart(m)
	one, two := w.two()
	newer, older := w.list(7, entry(two.Cert, superseded)), w.list(6, ago(time.Hour))
	w.on("one.test", says(newer))
	w.check(one)
	require.Len(t, m.keys(), 1)
	w.on("one.test", fails)
	w.on("two.test", says(older))
	w.restart(m)
	require.Equal(t, evidence.Good, w.check(one).Status, "from the Store")
	require.Equal(t, evidence.Revoked, w.check(two).Status)

	// Served in its own place.
	w.restart(m)
	w.on("one.test", says(older))
	w.advance(7 * time.Hour)
	require.Equal(t, evidence.Good, w.check(one).Status)
	require.Error(t, w.engine.Refresh(context.Background()))
	require.Equal(t, newer, m.keys()[evidence.CRLKey(one, "http://one.test/")])
	w.restart(nil)
	require.Equal(t, evidence.Good, w.check(one).Status, "without a Store nobody knows better")
}

// A delta may be rolled back like any list, to lift a hold once more.
func TestRollbackOfADelta(t *testing.T) {
	w := newWorld(t)
	q, _ := w.amended(false)
	off := w.list(6, ago(time.Minute), base(5), entry(q.Cert, removeFromCRL))
	w.on("crl.test", says(w.list(5, ago(time.Hour), entry(q.Cert, hold))))
	w.on("delta.test", says(off))
	require.Equal(t, evidence.Good, w.check(q).Status)
	w.on("delta.test", says(w.list(7, base(5))))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.on("delta.test", says(off))
	require.ErrorContains(t, w.engine.Refresh(context.Background()), "older list")
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	// From another place it is no better.
	second := w.pointing(w.must(testpki.CRLDistributionPoints(at(crlURL))), w.must(testpki.FreshestCRL(at("http://second.test/"))))
	w.on("second.test", says(off))
	require.Equal(t, evidence.Good, w.check(second).Status)
	q.Sources = []*evidence.Source{gives("own", true, off)}
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// A newer list with a lower number, as from a CA that was restored, counts, and
// is reported.
func TestLowerNumberAloneIsReported(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	w.on("crl.test", says(w.list(7)))
	w.check(q)
	require.NotContains(t, w.logged(), "lower number")
	w.advance(time.Minute)
	w.on("crl.test", says(w.list(3, entry(q.Cert, superseded))))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	require.Contains(t, w.logged(), "a newer CRL has the lower number 3 after 7")
	w.advance(time.Minute)
	w.on("crl.test", says(w.list(3)))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Good, w.check(q).Status, "time decides")
}

// Within one place too the order is that of time, then of numbers, then of entries.
func TestOrderOfListsOfOnePlace(t *testing.T) {
	for _, c := range []struct {
		name  string
		first int64
		then  int64
		older time.Duration
		more  bool // the second list has an entry more
		taken bool
	}{
		{"newer", 7, 8, -time.Minute, false, true},
		{"newer with the same number", 7, 7, -time.Second, false, true},
		{"older", 7, 6, time.Minute, true, false},
		{"older with a higher number", 7, 9, time.Second, true, false},
		{"same second, higher number", 7, 8, 0, false, true},
		{"same second, lower number", 7, 6, 0, true, false},
		{"same second and number, more entries", 7, 7, 0, true, true},
		{"same second and number, fewer entries", 7, 7, 0, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.only([]string{crlURL}, nil)
			q, other, third := w.leaf(), w.leaf(), w.leaf()
			w.advance(time.Hour)
			w.on("crl.test", says(w.list(c.first, ago(30*time.Minute), entry(other.Cert, superseded))))
			w.check(q)
			changes := []change{ago(30*time.Minute + c.older)}
			if c.more {
				changes = append(changes, entry(other.Cert, superseded), entry(third.Cert, superseded))
			}
			w.on("crl.test", says(w.list(c.then, changes...)))
			err := w.engine.Refresh(context.Background())
			require.Equal(t, c.taken, err == nil, err)
			want := 1
			if c.taken {
				want = map[bool]int{true: 2}[c.more]
			}
			require.Equal(t, want, w.engine.Status()[0].Entries)
		})
	}
}
