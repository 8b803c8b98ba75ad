package evidence_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// Of several deltas for one list the one with the highest number counts, whichever
// place it came from.
func TestDeltaWithTheHighestNumber(t *testing.T) {
	for _, order := range [][]string{{"one.test", "two.test"}, {"two.test", "one.test"}} {
		for _, lifted := range []bool{false, true} {
			w := newWorld(t)
			freshest := func(hosts ...string) evidence.Query {
				var points []testpki.Point
				for _, h := range hosts {
					points = append(points, at("http://"+h+"/"))
				}
				return w.pointing(w.must(testpki.CRLDistributionPoints(at(crlURL))), w.must(testpki.FreshestCRL(points...)))
			}
			q, first := freshest("one.test", "two.test"), freshest(order[0])
			onHold := entry(q.Cert, hold)
			off := entry(q.Cert, removeFromCRL)
			older, newer, want := []change{base(5), off, ago(time.Minute)}, []change{base(5)}, evidence.Revoked
			if lifted {
				older, newer, want = []change{base(5), ago(time.Minute)}, []change{base(5), off}, evidence.Good
			}
			w.on("crl.test", says(w.list(5, onHold, ago(2*time.Minute))))
			w.on(order[0], says(w.list(6, older...)))
			w.on(order[1], says(w.list(7, newer...)))
			require.Equal(t, evidence.Good, w.check(first).Status)
			require.Equal(t, want, w.check(q).Status)
		}
	}
}

// What a delta of one scope told of alone is not undone by lists of another.
func TestDeltaOfAnotherScopeUndoesNothing(t *testing.T) {
	w := newWorld(t)
	q, _ := w.amended(false)
	w.on("crl.test", says(w.list(5, ago(time.Hour))))
	w.on("delta.test", says(w.list(6, base(5), entry(q.Cert, superseded), scope(testpki.Scope{UserOnly: true}))))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.advance(time.Minute)
	w.on("crl.test", says(w.list(7)))
	w.on("delta.test", says(w.list(7, base(5))))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.advance(time.Minute)
	w.on("delta.test", says(w.list(8, base(7))))
	require.NoError(t, w.engine.Refresh(context.Background()))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// The delta of another shard, newer than ours, does not take its place.
func TestSubstitutedDeltaIsNotTaken(t *testing.T) {
	w := newWorld(t)
	q, _ := w.amended(false)
	w.on("crl.test", says(w.list(5)))
	w.on("delta.test", says(w.list(6, base(5), entry(q.Cert, hold))))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	w.advance(time.Minute)
	for _, s := range []testpki.Scope{{CAOnly: true}, {PointName: testpki.PointName{URIs: []string{"http://crl.test/other"}}}} {
		w.on("delta.test", says(w.list(9, base(5), scope(s))))
		require.Error(t, w.engine.Refresh(context.Background()))
		for _, row := range w.engine.Status() {
			require.Equal(t, map[string]string{"crl": "5", "delta": "6"}[row.Kind], row.Number)
		}
		require.Equal(t, evidence.Revoked, w.check(q).Status)
	}
}

// Whatever a CA does, and whichever of its lists come through: what the newest of
// those that came through say is what counts.
func TestHoldAndUnholdInAnyOrder(t *testing.T) {
	for seed := range uint64(50) {
		bubble(t, func(w *world) { holdAndUnhold(w, rand.New(rand.NewPCG(seed, 1)), seed) })
	}
}

// published is a list of the CA's, and what is true when it is made.
type published struct {
	der          []byte
	number, from int64 // from: of a delta, its base
	state        int   // reason; -1: not revoked
	listed       bool  // a delta mentions the certificate
}

func holdAndUnhold(w *world, r *rand.Rand, seed uint64) {
	q, _ := w.amended(false)
	state, number := -1, int64(1)
	complete := published{number: 1, state: -1, der: w.list(1)}
	delta := published{number: 1, state: -1}
	var seenBase, seenDelta *published
	var told int64 // the last delta that revoked
	w.on("crl.test", fails)
	w.on("delta.test", fails)
	w.check(q)
	for step := range 25 {
		w.advance(time.Minute)
		switch r.IntN(4) {
		case 0:
			if state == -1 {
				state = hold
			}
		case 1:
			if state == hold {
				state = -1
			}
		case 2:
			if r.IntN(8) == 0 {
				state = keyCompromise
			}
		}
		number++
		from := complete
		if r.IntN(3) == 0 {
			var changes []change
			if state >= 0 {
				changes = append(changes, entry(q.Cert, state))
			}
			complete = published{number: number, state: state, der: w.list(number, changes...)}
		}
		delta = published{number: number, from: from.number, state: state}
		changes := []change{base(from.number)}
		switch {
		case state >= 0 && state != from.state:
			changes, delta.listed = append(changes, entry(q.Cert, state)), true
		case state < 0 && from.state >= 0:
			changes, delta.listed = append(changes, entry(q.Cert, removeFromCRL)), true
		}
		delta.der = w.list(number, changes...)
		come := func(host string, p published, seen **published) {
			if r.IntN(2) == 0 {
				w.on(host, fails)
				return
			}
			w.on(host, says(p.der))
			*seen = &p
		}
		come("crl.test", complete, &seenBase)
		come("delta.test", delta, &seenDelta)
		_ = w.engine.Refresh(context.Background())
		synctest.Wait()
		want := evidence.Unknown
		if seenBase != nil {
			want = evidence.Good
			if seenBase.state >= 0 {
				want = evidence.Revoked
			}
		}
		var said int64 // the newest state of all certificates that is known
		if d := seenDelta; d != nil && (seenBase == nil || d.number > seenBase.number) {
			together := seenBase != nil && seenBase.number >= d.from
			switch {
			case d.listed && d.state >= 0:
				want, told = evidence.Revoked, d.number
			case d.listed && together && seenBase.state == hold:
				want = evidence.Good
			}
			if together {
				said = d.number
			}
		}
		if seenBase != nil {
			said = max(said, seenBase.number)
		}
		switch {
		case said < told:
			want = evidence.Revoked // until something newer covers it
		case want == evidence.Good:
			told = 0
		}
		f := w.check(q)
		require.Equal(w.t, want, f.Status, "seed %d, step %d: %s", seed, step, f.Detail)
		require.Equal(w.t, want, w.engine.Peek(q).Status)
		require.True(w.t, current(f))
		synctest.Wait()
	}
}

// Whoever takes a revocation back is reported, once: it may be a CA that loses
// entries (CVE-2021-29653).
func TestThreat56_TakenBackIsReported(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	q := w.leaf()
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	require.NotContains(t, w.logged(), "taken back")
	w.advance(time.Minute)
	w.goodCRL()
	require.NoError(t, w.engine.Refresh(t.Context()))
	for range 3 {
		require.Equal(t, evidence.Good, w.check(q).Status)
	}
	require.Equal(t, 1, strings.Count(w.logged(), "taken back"))
}
