package evidence_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// source is one of the operator's.
func source(id string, shared bool, get func() (evidence.Statements, error)) *evidence.Source {
	return &evidence.Source{ID: id, Name: "source " + id, Shared: shared,
		Get: func(context.Context, *x509.Certificate, *x509.Certificate, string) (evidence.Statements, error) {
			return get()
		}}
}

// supplied is a query that only an own source can answer.
func (w *world) supplied(s ...*evidence.Source) evidence.Query {
	w.only(nil, nil)
	q := w.leaf()
	q.Sources = s
	return q
}

// kindsOfStatements are a list and a response that say one thing.
func (w *world) statements(q evidence.Query, revoked bool) map[string]evidence.Statements {
	list, status := w.crl(nil), xocsp.Good
	if revoked {
		list, status = w.crl(nil, q.Cert), xocsp.Revoked
	}
	return map[string]evidence.Statements{"CRLs": {CRLs: [][]byte{list}}, "OCSP": {OCSP: [][]byte{w.ocsp(q, status, nil)}}}
}

func TestOwnSource(t *testing.T) {
	for _, kind := range []string{"CRLs", "OCSP"} {
		for _, revoked := range []bool{false, true} {
			w := newWorld(t)
			var given evidence.Statements
			q := w.supplied(source("own", false, func() (evidence.Statements, error) { return given, nil }))
			given = w.statements(q, revoked)[kind]
			require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
			f := w.check(q)
			want := evidence.Good
			if revoked {
				want = evidence.Revoked
			}
			require.Equal(t, want, f.Status, f.Detail)
			require.Equal(t, want, w.engine.Peek(q).Status)
			require.Equal(t, "source own", f.Proofs[0].Source)
		}
	}
}

// A source that has the statements for all certificates of an issuer is asked
// once for them; one that has those of each, for each.
func TestSharedSourceIsAskedOnce(t *testing.T) {
	for _, shared := range []bool{true, false} {
		w := newWorld(t)
		var asked atomic.Int32
		der := w.crl(nil)
		s := source("own", shared, func() (evidence.Statements, error) {
			asked.Add(1)
			return evidence.Statements{CRLs: [][]byte{der}}, nil
		})
		for range 5 {
			require.Equal(t, evidence.Good, w.check(w.supplied(s)).Status)
		}
		require.EqualValues(t, map[bool]int{true: 1, false: 5}[shared], asked.Load())
	}
}

// A response is about one certificate. A source that is shared by many has no use
// for it: it would vouch for all of them.
func TestResponseFromASharedSourceIsForNobodyElse(t *testing.T) {
	w := newWorld(t)
	var given evidence.Statements
	s := source("own", true, func() (evidence.Statements, error) { return given, nil })
	good, other := w.supplied(s), w.supplied(s)
	given.OCSP = [][]byte{w.ocsp(good, xocsp.Good, nil)}
	w.check(good)
	require.Equal(t, evidence.Unknown, w.check(other).Status)
	require.Equal(t, evidence.Unknown, w.engine.Peek(other).Status)
}

func TestOwnSourceIsAskedEvery(t *testing.T) {
	bubble(t, func(w *world) {
		var asked int
		var haves []string
		state := "1"
		s := &evidence.Source{ID: "own", Name: "own", Shared: true, Every: time.Minute}
		s.Get = func(_ context.Context, _, _ *x509.Certificate, have string) (evidence.Statements, error) {
			asked++
			haves = append(haves, have)
			if have == state {
				return evidence.Statements{Version: have, Unchanged: true}, nil
			}
			return evidence.Statements{CRLs: [][]byte{w.crl(nil)}, Version: state}, nil
		}
		q := w.supplied(s)
		first := w.now()
		for range 10 {
			require.Equal(w.t, evidence.Good, w.check(q).Status)
		}
		require.Equal(w.t, 1, asked)
		at, any := w.engine.NextDue()
		require.True(w.t, any)
		require.Equal(w.t, first.Add(time.Minute), at)
		w.advance(59 * time.Second)
		w.check(q)
		synctest.Wait()
		require.Equal(w.t, 1, asked)
		w.advance(time.Second)
		w.check(q)
		synctest.Wait()
		require.Equal(w.t, []string{"", "1"}, haves)
		require.Equal(w.t, first, w.engine.Status()[0].ThisUpdate, "unchanged")
		w.advance(time.Minute)
		state = "2"
		w.refreshDue()
		require.Equal(w.t, []string{"", "1", "1"}, haves)
		require.Equal(w.t, first.Add(2*time.Minute), w.engine.Status()[0].ThisUpdate)
		require.NoError(w.t, w.engine.Refresh(context.Background()))
		require.Equal(w.t, []string{"", "1", "1", ""}, haves, "what is forced is to be seen")
		// What is unchanged is no younger for that.
		w.advance(25 * time.Hour)
		require.Equal(w.t, evidence.Unknown, w.check(q).Status)
	})
}

// Without Every the source is looked at when what it gave wants renewal.
func TestOwnSourceWithoutEvery(t *testing.T) {
	bubble(t, func(w *world) {
		asked := 0
		q := w.supplied(source("own", true, func() (evidence.Statements, error) {
			asked++
			return evidence.Statements{CRLs: [][]byte{w.crl(nil)}}, nil
		}))
		w.check(q)
		w.advance(5 * time.Hour)
		w.check(q)
		synctest.Wait()
		require.Equal(w.t, 1, asked)
		w.advance(time.Hour)
		w.check(q)
		synctest.Wait()
		require.Equal(w.t, 2, asked)
	})
}

// What cannot be used does not keep the rest out, and is reported.
func TestBadListAmongGoodOnes(t *testing.T) {
	for name, bad := range map[string]func(*world) []byte{
		"garbage":      func(*world) []byte { return []byte("garbage") },
		"another CA's": func(w *world) []byte { return w.of(w.root(testpki.Options{})) },
		"forged": func(w *world) []byte {
			return w.crl(func(o *testpki.CRLOptions) { o.Signer = w.root(testpki.Options{}) })
		},
		"of the future":   func(w *world) []byte { return w.list(9, ago(-time.Hour), scope(testpki.Scope{})) },
		"lapsed":          func(w *world) []byte { return w.list(9, ago(2*time.Hour), lasts(time.Hour), scope(testpki.Scope{})) },
		"older than ours": func(w *world) []byte { return w.list(1, ago(2*time.Hour), lasts(time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, order := range []int{1, -1} {
				w := newWorld(t)
				q := w.supplied()
				lists := [][]byte{bad(w), w.list(7, entry(w.leaf().Cert, superseded))}
				if order < 0 {
					slices.Reverse(lists)
				}
				q.Sources = []*evidence.Source{gives("own", true, lists...)}
				f := w.check(q)
				require.Equal(t, evidence.Good, f.Status, f.Detail)
				if name != "older than ours" || order < 0 {
					require.NotEmpty(t, w.engine.Status()[0].Error+w.logged())
				}
			}
		})
	}
}

// A folder keeps last year's lists beside this year's: of each scope the newest
// counts, in whichever order they are read.
func TestOlderListsOfAFolderSayNothing(t *testing.T) {
	for _, order := range []int{1, -1} {
		w := newWorld(t)
		q := w.supplied()
		lists := [][]byte{w.list(6, ago(time.Hour), entry(q.Cert, hold)), w.list(7)}
		if order < 0 {
			slices.Reverse(lists)
		}
		q.Sources = []*evidence.Source{gives("own", true, lists...)}
		require.Equal(t, evidence.Good, w.check(q).Status)

		lists = [][]byte{w.list(8, ago(-time.Minute)), w.list(9, ago(-2*time.Minute), entry(q.Cert, hold))}
		if order < 0 {
			slices.Reverse(lists)
		}
		q.Sources = []*evidence.Source{gives("other", true, lists...)}
		require.Equal(t, evidence.Revoked, w.check(q).Status)
	}
}

// A source that fails in any way leaves the last good copy where it was, until it
// lapses.
func TestFailingOwnSource(t *testing.T) {
	for name, fail := range map[string]func(ctx context.Context) (evidence.Statements, error){
		"an error": func(context.Context) (evidence.Statements, error) {
			return evidence.Statements{}, errors.New("no luck")
		},
		"a panic": func(context.Context) (evidence.Statements, error) { panic("no luck") },
		"the end": func(context.Context) (evidence.Statements, error) { runtime.Goexit(); panic("unreachable") },
		"nothing": func(context.Context) (evidence.Statements, error) { return evidence.Statements{}, nil },
		"garbage": func(context.Context) (evidence.Statements, error) {
			return evidence.Statements{CRLs: [][]byte{{1}}, OCSP: [][]byte{{2}}}, nil
		},
		"too much": func(context.Context) (evidence.Statements, error) {
			return evidence.Statements{CRLs: make([][]byte, 1025)}, nil
		},
		"it hangs": func(ctx context.Context) (evidence.Statements, error) {
			<-ctx.Done()
			return evidence.Statements{}, ctx.Err()
		},
		"it hangs longer": func(ctx context.Context) (evidence.Statements, error) {
			<-ctx.Done()
			time.Sleep(time.Hour)
			return evidence.Statements{}, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				ok := true
				var der []byte
				s := &evidence.Source{ID: "own", Name: "own", Shared: true}
				s.Get = func(ctx context.Context, _, _ *x509.Certificate, _ string) (evidence.Statements, error) {
					if ok {
						return evidence.Statements{CRLs: [][]byte{der}}, nil
					}
					return fail(ctx)
				}
				q, revoked := w.supplied(s), w.supplied(s)
				der = w.crl(nil, revoked.Cert)
				require.Equal(w.t, evidence.Good, w.check(q).Status)
				ok = false
				w.advance(6 * time.Hour)
				require.Equal(w.t, evidence.Good, w.check(q).Status)
				_ = w.engine.Refresh(context.Background())
				synctest.Wait()
				require.Equal(w.t, evidence.Good, w.check(q).Status)
				require.Equal(w.t, evidence.Revoked, w.engine.Peek(revoked).Status)
				w.advance(19 * time.Hour)
				require.Equal(w.t, evidence.Unknown, w.engine.Peek(q).Status)
				require.Equal(w.t, evidence.Revoked, w.engine.Peek(revoked).Status)
				time.Sleep(2 * time.Hour)
				ok, der = true, w.crl(nil)
				w.advance(time.Hour)
				require.Equal(w.t, evidence.Good, w.check(q).Status)
			})
		})
	}
}

// Of a source that gives responses an older one does not replace a newer one, nor
// one of the same second a revocation.
func TestOrderOfResponsesOfAnOwnSource(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second int
		older         time.Duration
		want          evidence.Status
	}{
		{"older good", xocsp.Revoked, xocsp.Good, time.Minute, evidence.Revoked},
		{"good of the same second", xocsp.Revoked, xocsp.Good, 0, evidence.Revoked},
		{"newer good", xocsp.Revoked, xocsp.Good, -time.Minute, evidence.Good},
		{"newer revoked", xocsp.Good, xocsp.Revoked, -time.Minute, evidence.Revoked},
		{"older unknown", xocsp.Good, xocsp.Unknown, time.Minute, evidence.Good},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			var der []byte
			q := w.supplied(source("own", false, func() (evidence.Statements, error) { return evidence.Statements{OCSP: [][]byte{der}}, nil }))
			respond := func(status int, this time.Time) {
				der = w.ocsp(q, status, func(o *testpki.OCSPOptions) { o.ThisUpdate = this })
			}
			this := w.now().Add(-time.Hour)
			respond(c.first, this)
			w.engine.Prime(q) // nothing is on record but what the slot holds
			w.engine.Await(t.Context(), q)
			respond(c.second, this.Add(-c.older))
			require.NoError(t, w.engine.Refresh(t.Context()))
			require.Equal(t, c.want, w.engine.Peek(q).Status)
		})
	}
}

// Before any client comes, the sources of an authority are asked for all that an
// issuer has issued.
func TestPrimeWithoutACertificate(t *testing.T) {
	bubble(t, func(w *world) {
		var asked []*x509.Certificate
		der := w.crl(nil)
		shared := &evidence.Source{ID: "shared", Name: "shared", Shared: true}
		shared.Get = func(_ context.Context, cert, _ *x509.Certificate, _ string) (evidence.Statements, error) {
			asked = append(asked, cert)
			return evidence.Statements{CRLs: [][]byte{der}, OCSP: [][]byte{{1}}}, nil
		}
		each := source("each", false, func() (evidence.Statements, error) {
			w.t.Error("nobody asked about")
			return evidence.Statements{}, nil
		})
		q := w.supplied(shared, each)
		all := q
		all.Cert, all.Sources = nil, []*evidence.Source{shared, each}
		require.False(w.t, w.engine.Supplied(all))
		w.engine.Prime(all)
		w.engine.Await(context.Background(), all)
		require.Equal(w.t, []*x509.Certificate{nil}, asked)
		require.True(w.t, w.engine.Supplied(all))
		q.Sources = []*evidence.Source{shared}
		require.Equal(w.t, evidence.Good, w.engine.Peek(q).Status)
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		require.Len(w.t, asked, 1)
		w.advance(25 * time.Hour)
		require.False(w.t, w.engine.Supplied(all))
		all.Grace = 2 * time.Hour
		require.True(w.t, w.engine.Supplied(all))
		require.Len(w.t, w.engine.Status(), 1)
		w.engine.NextDue()
	})
}

// A list for other certificates of the issuer says nothing about this one, and
// where there is none for it nothing is known.
func TestOwnSourceWithNothingForTheCertificate(t *testing.T) {
	w := newWorld(t)
	q := w.supplied()
	shard := func(n int) []byte {
		return w.list(1, scope(testpki.Scope{PointName: testpki.PointName{URIs: []string{fmt.Sprint("http://crl.test/", n)}}}))
	}
	q.Sources = []*evidence.Source{gives("own", true, shard(1), shard(2), w.list(1, scope(testpki.Scope{CAOnly: true})))}
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "no list there is for the certificate")
	require.False(t, f.Silent)
	q.Cert = w.pointing(w.must(testpki.CRLDistributionPoints(at("http://crl.test/2")))).Cert
	w.on("crl.test", fails)
	require.Equal(t, evidence.Good, w.check(q).Status, "the folder has its shard")
}

// Beyond the bound nothing is looked at.
func TestOwnSourceWithTooMuch(t *testing.T) {
	for n, want := range map[int]evidence.Status{1024: evidence.Good, 1025: evidence.Unknown} {
		w := newWorld(t)
		q := w.supplied()
		q.Sources = []*evidence.Source{gives("own", true, slices.Repeat([][]byte{w.crl(nil)}, n)...)}
		require.Equal(t, want, w.check(q).Status)
	}
}

// A short life is good enough only where nobody could know better.
func TestShortLivedCertificateWithAnOwnSource(t *testing.T) {
	w := newWorld(t)
	w.only(nil, nil)
	q := w.query(w.issue(testpki.Options{NotBefore: testpki.Epoch.Add(-time.Hour), NotAfter: testpki.Epoch.Add(time.Hour)}).Certificate)
	require.Equal(t, evidence.Good, w.check(q).Status)
	q.Sources = []*evidence.Source{source("own", true, func() (evidence.Statements, error) { return evidence.Statements{}, errors.New("no luck") })}
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.False(t, f.Missing)
	q.Sources = []*evidence.Source{gives("other", true, w.crl(nil, q.Cert))}
	require.Equal(t, evidence.Revoked, w.check(q).Status)
}

// A delta of the folder speaks for those certificates that its scope has, and a
// list for others is no reason to ask where its deltas are.
func TestOwnSourceWithListsForOthers(t *testing.T) {
	w := newWorld(t)
	q := w.pointing(w.must(testpki.CRLDistributionPoints(at(crlURL))))
	w.goodCRL()
	q.Sources = []*evidence.Source{gives("own", true,
		w.list(6, base(5), entry(q.Cert, hold), scope(testpki.Scope{CAOnly: true})),
		w.list(4, scope(testpki.Scope{CAOnly: true}), with(testpki.FreshestCRL(at("http://far.test/")))),
	)}
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Zero(t, w.count("far.test"))
}

// A list whose signer the first to ask did not know is verified once somebody
// brings the signer's certificate, although the source has not changed.
func TestUnchangedSourceIsReadAgainForAnotherSigner(t *testing.T) {
	d := newDeep(t)
	d.only(nil, nil)
	next := d.signer(d.middle, d.name(), testpki.Options{})
	d.on("signer-crl.test", says(d.of(d.middle)))
	q := d.leaf()
	own, signed := d.list(7), d.of(next, entry(q.Cert, superseded))
	s := &evidence.Source{ID: "own", Name: "own", Shared: true, Every: time.Minute}
	s.Get = func(_ context.Context, _, issuer *x509.Certificate, have string) (evidence.Statements, error) {
		if have == "1" {
			return evidence.Statements{Version: have, Unchanged: true}, nil
		}
		if issuer.Equal(d.ca.Certificate) {
			return evidence.Statements{CRLs: [][]byte{own, signed}, Version: "1"}, nil
		}
		return evidence.Statements{}, nil
	}
	q.Sources = []*evidence.Source{s}
	require.Equal(t, evidence.Good, d.check(q).Status)
	q.Candidates = []*x509.Certificate{next.Certificate}
	d.advance(time.Minute)
	d.engine.Prime(q)
	d.engine.Await(t.Context(), q)
	require.Equal(t, evidence.Revoked, d.check(q).Status)
}
