package evidence_test

import (
	"context"
	"fmt"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func bigInt(n int64) *big.Int { return big.NewInt(n) }

func TestRefreshSchedule(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name              string
		validity, fetched time.Duration // fetched: after thisUpdate; negative: never, it is from the Store
		want              time.Duration // after it was fetched, before jitter
	}{
		{"a quarter of the validity", 4 * time.Hour, 0, time.Hour},
		{"at most six hours", 7 * day, 0, 6 * time.Hour},
		{"at least a quarter of an hour", 40 * time.Minute, 0, 15 * time.Minute},
		{"but never beyond half", 20 * time.Minute, 0, 10 * time.Minute},
		{"seconds", 10 * time.Second, 0, 5 * time.Second},
		{"from the time of the fetch", 4 * time.Hour, time.Hour, time.Hour},
		{"from thisUpdate if it was stored", 4 * time.Hour, -1, time.Hour},
		{"half of what is left", day, 20 * time.Hour, 2 * time.Hour},
		{"half of little", day, 23 * time.Hour, 30 * time.Minute},
		{"not more often than each minute", day, day - 10*time.Second, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			this := testpki.Epoch
			from, taken := this, time.Time{}
			if c.fetched >= 0 {
				from = this.Add(c.fetched)
				taken = from
			}
			seen := map[time.Time]bool{}
			for i := range 200 {
				key := fmt.Sprint(i)
				at := evidence.RefreshAt(this, this.Add(c.validity), taken, key, 0)
				require.LessOrEqual(t, at.Sub(from), c.want)
				require.Greater(t, at.Sub(from), c.want-c.want/10-time.Nanosecond)
				require.Equal(t, at, evidence.RefreshAt(this, this.Add(c.validity), taken, key, 0), "the same each time")
				seen[at] = true
			}
			require.Greater(t, len(seen), 150, "spread")
		})
	}
}

// asks advances the clock second by second and returns after how many seconds
// each request came.
func (w *world) asks(q evidence.Query, host string, until time.Duration) []int {
	var list []int
	n := w.count(host)
	for at := range int(until / time.Second) {
		w.check(q)
		synctest.Wait()
		if m := w.count(host); m != n {
			list, n = append(list, at), m
		}
		w.advance(time.Second)
	}
	return list
}

func TestBackoff(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		w.on("crl.test", fails)
		require.Equal(w.t, []int{0, 1, 3, 7, 15, 31, 61, 91, 121}, w.asks(q, "crl.test", 150*time.Second), "while evidence is missing")
		require.Positive(w.t, w.engine.Peek(q).RetryAfter)
		require.LessOrEqual(w.t, w.engine.Peek(q).RetryAfter, 30*time.Second)
		w.advance(time.Minute)
		w.goodCRL()
		f := w.check(q)
		require.Equal(w.t, evidence.Good, f.Status)
		require.Zero(w.t, f.RetryAfter)

		w.on("crl.test", fails)
		w.advance(6 * time.Hour)
		require.Equal(w.t, []int{0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1923, 2823}, w.asks(q, "crl.test", 3000*time.Second), "while it is not")
		require.Equal(w.t, evidence.Good, w.engine.Peek(q).Status)

		// The long pauses end with the evidence.
		w.advance(18*time.Hour - 3000*time.Second)
		w.check(q)
		synctest.Wait()
		n := w.count("crl.test")
		w.advance(31 * time.Second)
		require.Equal(w.t, evidence.Unknown, w.check(q).Status)
		require.Equal(w.t, n+1, w.count("crl.test"))
	})
}

// What is due is asked in the background of a request, which waits for nothing.
func TestRefreshInTheBackground(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		w.goodCRL()
		q := w.leaf()
		f := w.check(q)
		require.Equal(w.t, evidence.Good, f.Status)
		w.advance(5 * time.Hour) // six hours less 10 % at the earliest
		w.check(q)
		synctest.Wait()
		require.Equal(w.t, 1, w.count("crl.test"))

		w.advance(time.Hour)
		h, asked, release := held(says(w.crl(nil, q.Cert)))
		w.on("crl.test", h)
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		<-asked
		require.True(w.t, current(f))
		release()
		synctest.Wait()
		require.False(w.t, current(f))
		require.Equal(w.t, evidence.Revoked, w.check(q).Status)
		require.Equal(w.t, 2, w.count("crl.test"))
	})
}

func TestRefreshDueAndNextDue(t *testing.T) {
	bubble(t, func(w *world) {
		t := w.t
		w.only([]string{crlURL}, nil)
		_, any := w.engine.NextDue()
		require.False(t, any)
		w.goodCRL()
		q := w.leaf()
		w.check(q)
		at, any := w.engine.NextDue()
		require.True(t, any)
		require.WithinRange(t, at, w.now().Add(5*time.Hour+24*time.Minute-time.Second), w.now().Add(6*time.Hour))

		w.refreshDue()
		require.Equal(t, 1, w.count("crl.test"))
		w.advance(at.Sub(w.now()) - time.Nanosecond)
		w.refreshDue()
		require.Equal(t, 1, w.count("crl.test"))
		w.advance(time.Nanosecond)
		w.on("crl.test", says(w.crl(nil, q.Cert)))
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		w.engine.RefreshDue(ended)
		synctest.Wait()
		require.Equal(t, 1, w.count("crl.test"))
		w.refreshDue()
		require.Equal(t, 2, w.count("crl.test"))
		require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
	})
}

// refreshDue is RefreshDue until all it has started is over, or hangs.
func (w *world) refreshDue() {
	w.engine.RefreshDue(context.Background())
	synctest.Wait()
}

// A source that hangs keeps the caller of RefreshDue from nothing, and is not due
// while it is being asked, so that the caller has no reason to come back at once.
func TestRefreshDueWaitsForNothing(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		q := w.leaf()
		w.on("crl.test", fails)
		w.check(q)
		w.advance(time.Minute)
		w.on("crl.test", hangs)
		start := time.Now()
		for range 3 {
			w.refreshDue()
		}
		require.Zero(w.t, time.Since(start))
		require.Equal(w.t, 2, w.count("crl.test"))
		_, any := w.engine.NextDue()
		require.False(w.t, any)
		time.Sleep(time.Minute)
		synctest.Wait()
		_, any = w.engine.NextDue()
		require.True(w.t, any)
	})
}

// A source whose evidence has lapsed is due at once, and not unheard of.
func TestLapsedSourceIsDue(t *testing.T) { bubble(t, lapsedSourceIsDue) }

func lapsedSourceIsDue(w *world) {
	t := w.t
	w.goodCRL()
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	w.check(q)
	w.advance(25 * time.Hour)
	at, any := w.engine.NextDue()
	require.True(t, any)
	require.False(t, at.After(w.now()))
	w.only([]string{"http://other.test/"}, nil)
	w.on("other.test", says(w.crl(nil)))
	w.check(w.leaf())
	at, any = w.engine.NextDue()
	require.True(t, any)
	require.False(t, at.After(w.now()), "whatever else is due later")
	w.goodCRL()
	w.refreshDue()
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status)
}

// Nobody is asked for ever about a certificate that has expired; "revoked just
// now" leaves nothing out.
func TestExpiredCertificatesAreNotAskedForInTheBackground(t *testing.T) {
	bubble(t, expiredCertificatesAreNotAskedFor)
}

func expiredCertificatesAreNotAskedFor(w *world) {
	t := w.t
	w.goodCRL()
	w.only([]string{crlURL}, nil)
	short := w.query(w.issue(testpki.Options{NotAfter: w.now().Add(time.Hour)}).Certificate)
	w.check(short)
	w.advance(25 * time.Hour)
	w.goodCRL()
	_, any := w.engine.NextDue()
	require.False(t, any)
	w.refreshDue()
	require.Equal(t, 1, w.count("crl.test"))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, 2, w.count("crl.test"))
	w.advance(25 * time.Hour)
	w.goodCRL()
	require.Equal(t, evidence.Good, w.check(w.leaf()).Status, "another client of the same list")
	_, any = w.engine.NextDue()
	require.True(t, any)
}

// A staple comes from its client and from nowhere else.
func TestStaplesAreNotAskedFor(t *testing.T) {
	w := newWorld(t)
	w.only(nil, nil)
	q := w.leaf()
	q.Staple = w.ocsp(q, xocsp.Good, nil)
	require.Equal(t, evidence.Good, w.check(q).Status)
	_, any := w.engine.NextDue()
	require.False(t, any)
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status)
}
