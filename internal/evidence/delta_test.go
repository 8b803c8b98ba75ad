package evidence_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

const deltaURL = "http://delta.test/list"

// Reasons for a revocation.
const (
	notStated     = 0
	keyCompromise = 1
	superseded    = 4
	hold          = 6
	removeFromCRL = 8
)

// change is one difference from a sound, empty, complete list.
type change = func(*testpki.CRLOptions)

// list is the CRL of the CA with a number.
func (w *world) list(number int64, changes ...change) []byte {
	return w.crl(func(o *testpki.CRLOptions) {
		o.Number = big.NewInt(number)
		for _, c := range changes {
			c(o)
		}
	})
}

func base(number int64) change {
	return func(o *testpki.CRLOptions) { o.BaseNumber = big.NewInt(number) }
}

func entry(c *x509.Certificate, reason int, extra ...pkix.Extension) change {
	return func(o *testpki.CRLOptions) {
		o.Entries = append(o.Entries, x509.RevocationListEntry{
			SerialNumber: c.SerialNumber, RevocationTime: o.ThisUpdate, ReasonCode: reason, ExtraExtensions: extra,
		})
	}
}

func with(e pkix.Extension, err error) change {
	return func(o *testpki.CRLOptions) {
		if err != nil {
			panic(err)
		}
		o.Extra = append(o.Extra, e)
	}
}

func scope(s testpki.Scope) change { return with(s.Extension()) }

func lasts(d time.Duration) change {
	return func(o *testpki.CRLOptions) { o.NextUpdate = o.ThisUpdate.Add(d) }
}

func ago(d time.Duration) change {
	return func(o *testpki.CRLOptions) { o.ThisUpdate = o.ThisUpdate.Add(-d) }
}

func at(urls ...string) testpki.Point { return testpki.Point{PointName: testpki.PointName{URIs: urls}} }

// pointing issues a certificate with extensions and nothing that the CA adds.
func (w *world) pointing(extra ...pkix.Extension) evidence.Query {
	w.only(nil, nil)
	return w.query(w.issue(testpki.Options{Names: []string{"api.partner.example"}, Extra: extra}).Certificate)
}

func (w *world) must(e pkix.Extension, err error) pkix.Extension {
	w.t.Helper()
	require.NoError(w.t, err)
	return e
}

// amended is a certificate whose list is at crl.test and whose delta at
// delta.test: by its own word, or (freshest) by that of the list.
func (w *world) amended(byList bool) (q evidence.Query, freshest change) {
	cdp := w.must(testpki.CRLDistributionPoints(at(crlURL)))
	f := w.must(testpki.FreshestCRL(at(deltaURL)))
	if byList {
		return w.pointing(cdp), with(f, nil)
	}
	return w.pointing(cdp, f), func(*testpki.CRLOptions) {}
}

func TestDeltas(t *testing.T) {
	const good, revoked, unknown = evidence.Good, evidence.Revoked, evidence.Unknown
	type lists = func(w *world, c *x509.Certificate) []byte
	delta := func(number, from int64, reason int, more ...change) lists {
		return func(w *world, c *x509.Certificate) []byte {
			return w.list(number, append([]change{base(from), entry(c, reason)}, more...)...)
		}
	}
	for _, c := range []struct {
		name   string
		number int64 // of the base; zero: out of reach
		reason int   // of its entry; -1: none
		delta  lists
		want   evidence.Status
	}{
		{"nothing has changed", 5, -1, func(w *world, _ *x509.Certificate) []byte { return w.list(6, base(5)) }, good},
		{"nothing has changed of what was revoked", 5, hold, func(w *world, _ *x509.Certificate) []byte { return w.list(6, base(5)) }, revoked},
		{"out of reach", 5, -1, nil, good},
		{"out of reach, revoked in the base", 5, hold, nil, revoked},
		{"revoked in the delta only", 5, -1, delta(6, 5, keyCompromise), revoked},
		{"for no stated reason", 5, -1, delta(6, 5, notStated), revoked},
		{"on hold in the delta only", 5, -1, delta(6, 5, hold), revoked},
		{"revoked in a lapsed delta", 5, -1, delta(6, 5, hold, ago(2*time.Hour), lasts(time.Hour)), revoked},
		{"off hold", 5, hold, delta(6, 5, removeFromCRL), good},
		{"off hold by a delta for an older base", 5, hold, delta(6, 4, removeFromCRL), good},
		{"a compromise is not undone", 5, keyCompromise, delta(6, 5, removeFromCRL), revoked},
		{"nor a superseded certificate", 5, superseded, delta(6, 5, removeFromCRL), revoked},
		{"nor a revocation whose reason is not stated", 5, notStated, delta(6, 5, removeFromCRL), revoked},
		{"nor by a lapsed delta", 5, hold, delta(6, 5, removeFromCRL, ago(2*time.Hour), lasts(time.Hour)), revoked},
		{"a base older than the delta's does not go with it", 4, hold, delta(6, 5, removeFromCRL), revoked},
		{"but what the delta revokes is revoked", 4, -1, delta(6, 5, keyCompromise), revoked},
		{"a base as new as the delta", 6, hold, delta(6, 5, removeFromCRL), revoked},
		{"a newer base", 7, hold, delta(6, 5, removeFromCRL), revoked},
		{"a newer base, and an older delta that revokes", 7, -1, delta(6, 5, hold, ago(time.Hour)), good},
		{"removal without an entry in the base", 5, -1, delta(6, 5, removeFromCRL), good},
		{"another scope does not undo", 5, hold, delta(6, 5, removeFromCRL, scope(testpki.Scope{UserOnly: true})), revoked},
		{"another scope revokes", 5, -1, delta(6, 5, hold, scope(testpki.Scope{UserOnly: true})), revoked},
		{"a scope that is not the certificate's says nothing", 5, -1, delta(6, 5, hold, scope(testpki.Scope{CAOnly: true})), good},
		{"a shard that is not the certificate's says nothing", 5, -1,
			delta(6, 5, hold, scope(testpki.Scope{PointName: testpki.PointName{URIs: []string{"http://crl.test/other"}}})), good},
		{"a complete list where the delta belongs", 5, hold, func(w *world, _ *x509.Certificate) []byte { return w.list(6) }, revoked},
		{"no list at all", 5, -1, func(*world, *x509.Certificate) []byte { return []byte("nonsense") }, good},
		{"revokes although no base is held", 0, -1, delta(6, 5, hold), revoked},
		{"says nothing good without a base", 0, -1, delta(6, 5, removeFromCRL), unknown},
		{"with the number of its own base", 5, hold, delta(5, 5, removeFromCRL), revoked},
	} {
		for _, byList := range []bool{false, true} {
			if byList && c.number == 0 {
				continue
			}
			name := c.name + ", the certificate says where"
			if byList {
				name = c.name + ", the list says where"
			}
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				q, freshest := w.amended(byList)
				changes := []change{freshest, ago(time.Minute), lasts(24 * time.Hour)}
				if c.reason >= 0 {
					changes = append(changes, entry(q.Cert, c.reason))
				}
				w.on("crl.test", fails)
				if c.number > 0 {
					w.on("crl.test", says(w.list(c.number, changes...)))
				}
				w.on("delta.test", fails)
				if c.delta != nil {
					w.on("delta.test", says(c.delta(w, q.Cert)))
				}
				f := w.check(q)
				require.Equal(t, c.want, f.Status, "%s %v", f.Detail, f.Proofs)
				require.Equal(t, 1, w.count("delta.test"))
				require.Equal(t, c.want, w.engine.Peek(q).Status)
				require.Equal(t, c.want, w.check(q).Status, "again")
				require.Equal(t, c.want == revoked, w.engine.KnownRevoked(keyOf(q)) && f.Status == revoked)
			})
		}
	}
}

// What a delta lifts is lifted while the delta is current, also where the list
// itself would last longer.
func TestOffHoldEndsWithTheDelta(t *testing.T) {
	bubble(t, func(w *world) {
		q, _ := w.amended(false)
		w.on("crl.test", says(w.list(5, entry(q.Cert, hold), lasts(72*time.Hour))))
		w.advance(time.Minute)
		w.on("delta.test", says(w.list(6, base(5), entry(q.Cert, removeFromCRL), lasts(time.Hour))))
		f := w.check(q)
		require.Equal(w.t, evidence.Good, f.Status, f.Detail)
		require.Equal(w.t, w.now().Add(time.Hour), f.Expires)
		require.Equal(w.t, w.now(), f.Proofs[0].From)
		require.False(w.t, w.engine.KnownRevoked(keyOf(q)))
		w.on("crl.test", fails)
		w.on("delta.test", fails)
		w.advance(time.Hour)
		require.Equal(w.t, evidence.Good, w.engine.Peek(q).Status)
		w.advance(time.Second)
		q.Grace = 48 * time.Hour // is for what has lapsed of a list, not for what a delta undoes
		require.Equal(w.t, evidence.Revoked, w.engine.Peek(q).Status)
		require.Equal(w.t, evidence.Revoked, w.check(q).Status)
	})
}

// A list that is served where the delta belongs, and the reverse, is not taken,
// and what was held stays.
func TestBaseAndDeltaInEachOthersPlace(t *testing.T) {
	bubble(t, func(w *world) {
		q, _ := w.amended(false)
		baseList, deltaList := w.list(5), w.list(6, base(5), entry(q.Cert, hold))
		w.on("crl.test", says(baseList))
		w.on("delta.test", says(deltaList))
		require.Equal(w.t, evidence.Revoked, w.check(q).Status)
		w.advance(time.Minute)
		w.on("crl.test", says(w.list(8, base(7))))
		w.on("delta.test", says(w.list(9)))
		err := w.engine.Refresh(context.Background())
		require.ErrorContains(w.t, err, "a delta where a complete list belongs")
		for _, s := range w.engine.Status() {
			require.Equal(w.t, map[string]string{"crl": "5", "delta": "6"}[s.Kind], s.Number)
			require.Contains(w.t, s.Error, "a delta where a complete list belongs")
		}
		require.Equal(w.t, evidence.Revoked, w.check(q).Status)
	})
	w := newWorld(t)
	q, _ := w.amended(false)
	w.on("crl.test", says(w.list(6, base(5))))
	w.on("delta.test", says(w.list(5)))
	require.Equal(t, evidence.Unknown, w.check(q).Status, "a complete list at the wrong place vouches for nothing")
}

// The delta of another key of the CA, and of another CA, changes nothing.
func TestDeltaOfSomebodyElse(t *testing.T) {
	for name, signer := range map[string]func(*world) *testpki.CA{
		"another CA": func(w *world) *testpki.CA { return w.root(testpki.Options{}) },
		"a CA of the same name": func(w *world) *testpki.CA {
			return w.root(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			q, _ := w.amended(false)
			other := signer(w)
			der, err := other.CRL(testpki.CRLOptions{Number: bigInt(6), BaseNumber: bigInt(5),
				Entries: []x509.RevocationListEntry{{SerialNumber: q.Cert.SerialNumber, RevocationTime: w.now(), ReasonCode: removeFromCRL}}})
			require.NoError(t, err)
			q.Candidates = []*x509.Certificate{other.Certificate}
			w.on("crl.test", says(w.list(5, entry(q.Cert, hold))))
			w.on("delta.test", says(der))
			require.Equal(t, evidence.Revoked, w.check(q).Status)
		})
	}
	// A key that the CA has certified may sign deltas of its own lists, and of no
	// others.
	w := newWorld(t)
	q, _ := w.amended(false)
	w.only(nil, nil)
	second, err := w.ca.NewIntermediate(testpki.Options{CommonName: w.ca.Certificate.Subject.CommonName, NotBefore: testpki.Epoch.Add(-time.Hour), NotAfter: testpki.Epoch.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCRLSign})
	require.NoError(t, err)
	q.Candidates = []*x509.Certificate{second.Certificate}
	der, err := second.CRL(testpki.CRLOptions{Number: bigInt(6), BaseNumber: bigInt(5),
		Entries: []x509.RevocationListEntry{{SerialNumber: q.Cert.SerialNumber, RevocationTime: w.now(), ReasonCode: removeFromCRL}}})
	require.NoError(t, err)
	w.on("crl.test", says(w.list(5, entry(q.Cert, hold))))
	w.on("delta.test", says(der))
	require.Equal(t, evidence.Revoked, w.check(q).Status)
	for _, s := range w.engine.Status() {
		require.Empty(t, s.Error, "the delta is sound")
	}
}

// A CA that was restored counts from the beginning again. What its newer delta
// revokes is revoked, although the numbers say that the list that is held has it.
func TestNewerDeltaWithALowerNumberRevokes(t *testing.T) {
	bubble(t, func(w *world) {
		q, _ := w.amended(false)
		w.on("crl.test", says(w.list(10)))
		w.on("delta.test", says(w.list(11, base(10))))
		require.Equal(w.t, evidence.Good, w.check(q).Status)
		w.advance(time.Hour)
		w.on("delta.test", says(w.list(3, base(2), entry(q.Cert, keyCompromise))))
		require.NoError(w.t, w.engine.Refresh(context.Background()))
		require.Equal(w.t, evidence.Revoked, w.check(q).Status)
	})
}

// A revocation that only a delta told of, before there was a list to combine it
// with, ends like any other once a newer list says so.
func TestHoldThatADeltaAloneToldOfEnds(t *testing.T) {
	for _, by := range []string{"a newer list", "a newer delta"} {
		bubble(t, func(w *world) {
			q, _ := w.amended(false)
			w.on("crl.test", fails)
			w.on("delta.test", says(w.list(6, base(5), entry(q.Cert, hold))))
			require.Equal(w.t, evidence.Revoked, w.check(q).Status)
			w.advance(time.Hour)
			if by == "a newer list" {
				w.on("crl.test", says(w.list(7)))
			} else {
				w.on("crl.test", says(w.list(6, ago(time.Hour), entry(q.Cert, hold))))
				w.on("delta.test", says(w.list(7, base(5), entry(q.Cert, removeFromCRL))))
			}
			require.NoError(w.t, w.engine.Refresh(context.Background()))
			f := w.check(q)
			require.Equal(w.t, evidence.Good, f.Status, "%s: %s", by, f.Detail)
		})
	}
}
