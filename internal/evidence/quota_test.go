package evidence_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

var evil = [32]byte{1}

// lists returns a query of an owner whose certificate names 16 CRLs of a host.
func (w *world) lists(owner [32]byte, host string, from int) evidence.Query {
	crls, responders := w.ca.CRLURLs, w.ca.OCSPURLs
	defer w.only(crls, responders)
	var urls []string
	for i := range 16 {
		urls = append(urls, fmt.Sprintf("http://%s/%d/%d", host, from, i))
	}
	w.only(urls, nil)
	q := w.leaf()
	q.Owner = owner
	return q
}

// gaveUp is the context of a client that has gone away.
func gaveUp() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// One partner's sources that never answer hold places, but none of another's.
func TestOwnerCannotTakeTheFetchesOfAnother(t *testing.T) {
	bubble(t, func(w *world) {
		w.on("hole.test", hangs)
		for i := range 20 { // more than there are places for updates
			w.engine.Check(gaveUp(), w.lists(evil, "hole.test", i))
		}
		synctest.Wait()
		require.Equal(w.t, evidence.MaxFetches, w.count("hole.test"))
		w.goodCRL()
		w.on("ocsp.test", hangs)
		start := time.Now()
		for owner := range byte(2) { // as the sources of the owner zero are, and of any other
			q := w.leaf()
			q.Owner = [32]byte{0, owner}
			require.Equal(w.t, evidence.Good, w.check(q).Status)
		}
		require.LessOrEqual(w.t, time.Since(start), 6*time.Second, "the time of its own responder")
		time.Sleep(time.Hour)
	})
}

// Those that wait for their turn have all of their time when it comes.
func TestTimeOfAFetchCountsFromItsTurn(t *testing.T) {
	bubble(t, func(w *world) {
		var mu sync.Mutex
		now, most := 0, 0
		add := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			now += n
			most = max(most, now)
		}
		w.on("slow.test", func(r *http.Request) (*http.Response, error) {
			add(1)
			defer add(-1)
			select {
			case <-time.After(50 * time.Second):
				return says(w.crl(nil))(r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})
		q := w.lists(evil, "slow.test", 0)
		start := time.Now()
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		require.Equal(w.t, 100*time.Second, time.Since(start))
		require.Equal(w.t, evidence.MaxFetches, most)
		require.NotContains(w.t, w.engine.Peek(q).Detail, "deadline")
		require.Len(w.t, w.engine.Peek(q).Proofs, 16)
	})
}

// An owner without a place is told so. It is no failure of the source, which is
// asked as soon as there is one.
func TestOwnerHasPlacesForUpdatesOfItsOwn(t *testing.T) {
	bubble(t, func(w *world) {
		h, _, release := held(fails)
		w.on("hole.test", h)
		for i := range evidence.MaxUpdates / 16 {
			w.engine.Prime(w.lists(evil, "hole.test", i))
		}
		w.goodCRL()
		w.only([]string{crlURL}, nil)
		mine, others := w.leaf(), w.leaf()
		mine.Owner = evil
		f := w.check(mine)
		require.Equal(w.t, evidence.Unknown, f.Status)
		require.Contains(w.t, f.Detail, "too many fetches are under way")
		require.Equal(w.t, time.Second, f.RetryAfter)
		require.Zero(w.t, w.count("crl.test"))
		require.Equal(w.t, evidence.Good, w.check(others).Status)
		release()
		synctest.Wait()
		require.Equal(w.t, evidence.Good, w.check(mine).Status)
		require.Equal(w.t, 2, w.count("crl.test"))
	})
}

// What one owner names pushes nothing of another's out of memory.
func TestOwnerCannotEvictTheEvidenceOfAnother(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	w.goodCRL()
	q, mine := w.leaf(), w.leaf()
	mine.Owner = evil
	f := w.check(q)
	w.check(mine)
	require.Equal(t, 2, w.count("crl.test"), "slots are not shared either")
	w.engine.Crowd(mine)
	w.on("crl.test", fails)
	require.True(t, current(f))
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Unknown, w.engine.Peek(mine).Status)
	require.Equal(t, evidence.MaxSlots, w.engine.Slots()-2)
}

// Owners are as many as anchors; if they are more than there is room for, what
// rests on the slots of one that has gone is void.
func TestEvictedOwnerVoidsWhatRestsOnIt(t *testing.T) { bubble(t, evictedOwnerVoidsWhatRestsOnIt) }

func evictedOwnerVoidsWhatRestsOnIt(w *world) {
	t := w.t
	w.only([]string{crlURL}, nil)
	w.goodCRL()
	q := w.leaf()
	f := w.check(q)
	require.True(t, current(f))
	other := w.query(w.issue(testpki.Options{}).Certificate)
	for i := range evidence.MaxOwners {
		require.True(t, current(f))
		other.Owner = [32]byte{byte(i), byte(i >> 8), 1}
		w.engine.Prime(other)
		synctest.Wait()
	}
	require.False(t, current(f))
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// "Revoked just now" is heard although another partner's sources are silent.
func TestRefreshIsNotHeldUpByAnotherOwner(t *testing.T) {
	bubble(t, func(w *world) {
		w.on("hole.test", hangs)
		for i := range 12 { // more than there are places in the background
			w.engine.Check(gaveUp(), w.lists(evil, "hole.test", i))
		}
		w.only([]string{crlURL}, nil)
		w.goodCRL()
		q := w.leaf()
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		w.on("crl.test", says(w.crl(nil, q.Cert)))
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		start := time.Now()
		failed := make(chan error)
		go func() { failed <- w.engine.Refresh(ctx) }()
		synctest.Wait()
		require.Zero(w.t, time.Since(start))
		require.Equal(w.t, evidence.Revoked, w.engine.Peek(q).Status)
		err := <-failed
		require.Equal(w.t, 10*time.Second, time.Since(start))
		require.ErrorIs(w.t, err, context.DeadlineExceeded)
		require.ErrorContains(w.t, err, "192 sources have not answered")
		require.Less(w.t, len(err.Error()), 1000)
		time.Sleep(time.Hour)
	})
}

// More sources than places: Refresh waits for places, and leaves some to the
// requests that come meanwhile.
func TestRefreshOfManySources(t *testing.T) {
	bubble(t, func(w *world) {
		w.on("slow.test", says(w.crl(nil)))
		for i := range 20 {
			require.Equal(w.t, evidence.Good, w.check(w.lists(evil, "slow.test", i)).Status)
		}
		good := w.crl(nil)
		w.on("slow.test", func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			return says(good)(r)
		})
		w.advance(8 * time.Hour)
		good = w.crl(nil)
		for i, refresh := range []func(){
			func() { w.engine.RefreshDue(context.Background()); time.Sleep(time.Minute) },
			func() { require.NoError(w.t, w.engine.Refresh(context.Background())) },
		} {
			done := make(chan struct{})
			go func() { defer close(done); refresh() }()
			synctest.Wait()
			w.only([]string{fmt.Sprintf("%s?%d", crlURL, i)}, nil)
			w.goodCRL()
			q := w.leaf()
			q.Owner = evil
			require.Equal(w.t, evidence.Good, w.check(q).Status)
			<-done
		}
		require.Equal(w.t, 320+evidence.MaxBackground+320, w.count("slow.test"))
	})
}

// However many sources fail, what is said of them stays short.
func TestErrorOfRefreshIsShort(t *testing.T) {
	w := newWorld(t)
	w.on("slow.test", fails)
	for i := range 3 {
		w.check(w.lists(evil, "slow.test", i))
	}
	err := w.engine.Refresh(t.Context())
	require.ErrorContains(t, err, "32 more")
	require.Less(t, len(err.Error()), 8000)
}

// Ten thousand requests that meet a fetch under way, and whose clients give up,
// leave nothing with it.
func TestWaitersOfOneFetchLeaveNothing(t *testing.T) {
	bubble(t, func(w *world) {
		w.only([]string{crlURL}, nil)
		h, _, release := held(says(w.crl(nil)))
		w.on("crl.test", h)
		q := w.leaf()
		w.engine.Check(gaveUp(), q)
		heap := func() int64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := heap()
		const n = 10_000
		for range n {
			w.engine.Check(gaveUp(), q)
		}
		require.Less(w.t, (heap()-before)/n, int64(32), "bytes for each")
		release()
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		require.Equal(w.t, 1, w.count("crl.test"))
	})
}

// The lists of an owner that were used last are held, and the newest in any case.
func TestListsHaveABudget(t *testing.T) {
	w := newWorld(t)
	list := func(entries int) []byte {
		return w.crl(func(o *testpki.CRLOptions) {
			for i := range entries {
				o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i + 1)), RevocationTime: w.now()})
			}
		})
	}
	one, err := crl.ParseAndVerify(list(1000), w.ca.Certificate)
	require.NoError(t, err)
	size := one.Size() + one.Size()/8
	w.engine.ListBytes([32]byte{}, 3*size)
	query := func(i int) evidence.Query {
		url := fmt.Sprintf("http://list%d.test/", i)
		w.only([]string{url}, nil)
		w.on(fmt.Sprintf("list%d.test", i), says(list(1000)))
		q := w.leaf()
		return q
	}
	var queries []evidence.Query
	var found []evidence.Finding
	for i := range 4 {
		queries = append(queries, query(i))
		found = append(found, w.check(queries[i]))
		require.Equal(t, evidence.Good, found[i].Status)
		require.Equal(t, evidence.Good, w.check(queries[0]).Status, "used again and again")
	}
	require.True(t, current(found[0]))
	require.False(t, current(found[1]), "its slot was used least recently")
	require.True(t, current(found[2]))
	require.True(t, current(found[3]))
	require.Equal(t, evidence.Unknown, w.engine.Peek(queries[1]).Status)

	w.only([]string{"http://huge.test/"}, nil)
	w.on("huge.test", says(list(5000)))
	require.Equal(t, evidence.Good, w.check(w.leaf()).Status)
	for _, f := range found {
		require.False(t, current(f))
	}
	m := &memory{}
	w.restart(m)
	w.engine.ListBytes([32]byte{}, 2*size)
	for range 2 { // the second time they come from the Store
		for _, q := range queries {
			require.Equal(t, evidence.Good, w.check(q).Status)
		}
		require.Equal(t, evidence.Unknown, w.engine.Peek(queries[1]).Status)
		require.Equal(t, evidence.Good, w.engine.Peek(queries[3]).Status)
		w.restart(m)
		w.engine.ListBytes([32]byte{}, 2*size)
	}
	w.engine.ListBytes(evil, 1)
	q := w.leaf()
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, evidence.Good, w.engine.Peek(q).Status, "nor does the budget of another owner count")
}

// body counts how many bodies are read at once, and lasts ten seconds.
type body struct {
	mu        sync.Mutex
	now, most int
}

func (b *body) Read([]byte) (int, error) {
	b.add(1)
	defer b.add(-1)
	time.Sleep(10 * time.Second)
	return 0, errors.New("cut off")
}

func (b *body) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now += n
	b.most = max(b.most, b.now)
}

// There may be eight fetches, but not eight of lists of 128 MiB.
func TestTwoLargeListsAtOnce(t *testing.T) {
	bubble(t, func(w *world) {
		for length, want := range map[int64]int{1 << 20: evidence.MaxFetches, 1<<20 + 1: 2} {
			b := new(body)
			begins := make([]byte, int(length-1)/(1<<20)*(1<<20)) // comes at once
			w.on("large.test", func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(io.MultiReader(bytes.NewReader(begins), b)), ContentLength: length}, nil
			})
			f := w.check(w.lists([32]byte{byte(want)}, "large.test", want))
			require.Contains(w.t, f.Detail, "cut off")
			require.Equal(w.t, want, b.most, "%d bytes", length)
		}
	})
}

func TestLargeListIsUsed(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	der := w.crl(func(o *testpki.CRLOptions) {
		for i := range 60_000 {
			o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i + 1)), RevocationTime: w.now()})
		}
	})
	require.Greater(t, len(der), 1<<20)
	w.on("crl.test", says(der))
	q := w.query(w.issue(testpki.Options{Serial: big.NewInt(59_999)}).Certificate)
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	require.Equal(t, evidence.Good, w.check(w.leaf()).Status)
}
