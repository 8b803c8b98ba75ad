package evidence_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// Lists that each cover some reasons say good only together, until the first of
// them lapses, and revoked each alone.
func TestListsOfSomeReasons(t *testing.T) {
	some := []int{1, 2, 3, 4}
	others := []int{5, 6, 7, 8}
	for _, c := range []struct {
		name        string
		reasons     [2][]int // of the lists
		revoked     int      // in which of them; zero: none
		unreachable int
		points      bool // the certificate says so, too
		want        evidence.Status
	}{
		{name: "together they cover all", reasons: [2][]int{some, others}, want: evidence.Good},
		{name: "the certificate says so, too", reasons: [2][]int{some, others}, points: true, want: evidence.Good},
		{name: "revoked in the first", reasons: [2][]int{some, others}, revoked: 1, want: evidence.Revoked},
		{name: "revoked in the second", reasons: [2][]int{some, others}, revoked: 2, want: evidence.Revoked},
		{name: "the first is missing", reasons: [2][]int{some, others}, unreachable: 1, want: evidence.Unknown},
		{name: "the second is missing", reasons: [2][]int{some, others}, unreachable: 2, want: evidence.Unknown},
		{name: "one is missing, revoked in the other", reasons: [2][]int{some, others}, unreachable: 1, revoked: 2, want: evidence.Revoked},
		{name: "the same reasons twice", reasons: [2][]int{some, some}, want: evidence.Unknown},
		{name: "one reason is left out", reasons: [2][]int{some, others[1:]}, want: evidence.Unknown},
		{name: "one of all reasons beside it", reasons: [2][]int{some, nil}, want: evidence.Good},
		{name: "one of all reasons, the other missing", reasons: [2][]int{some, nil}, unreachable: 1, want: evidence.Good},
		{name: "one of all reasons, revoked in the other", reasons: [2][]int{some, nil}, revoked: 1, want: evidence.Revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			first, second := at("http://one.test/"), at("http://two.test/")
			if c.points {
				first.Reasons, second.Reasons = c.reasons[0], c.reasons[1]
			}
			q := w.pointing(w.must(testpki.CRLDistributionPoints(first, second)))
			start := w.now()
			for i, host := range []string{"one.test", "two.test"} {
				changes := []change{lasts(time.Duration(i+1) * time.Hour)}
				if c.reasons[i] != nil {
					changes = append(changes, scope(testpki.Scope{SomeReasons: c.reasons[i]}))
				}
				if c.revoked == i+1 {
					changes = append(changes, entry(q.Cert, hold))
				}
				w.on(host, says(w.list(1, changes...)))
				if c.unreachable == i+1 {
					w.on(host, fails)
				}
			}
			f := w.check(q)
			require.Equal(t, c.want, f.Status, f.Detail)
			if c.want == evidence.Good && c.reasons[1] != nil {
				require.Equal(t, start.Add(time.Hour), f.Expires, "the earliest")
				w.on("one.test", fails)
				w.advance(time.Hour + time.Second)
				require.Equal(t, evidence.Unknown, w.check(q).Status)
			}
		})
	}
}

// Each certificate of a CA with many shards is vouched for by its own, and by no
// other however sound and new.
func TestShards(t *testing.T) {
	w := newWorld(t)
	url := func(n int) string { return fmt.Sprintf("http://%d.shard.test/", n) }
	shard := func(n int, changes ...change) []byte {
		return w.list(1, append(changes, scope(testpki.Scope{UserOnly: true, PointName: testpki.PointName{URIs: []string{url(n)}}}))...)
	}
	var queries []evidence.Query
	for n := range 4 {
		w.only([]string{url(n)}, nil)
		queries = append(queries, w.leaf())
		w.on(fmt.Sprintf("%d.shard.test", n), says(shard(n)))
	}
	for _, q := range queries {
		require.Equal(t, evidence.Good, w.check(q).Status)
	}
	w.advance(time.Minute)
	w.on("1.shard.test", says(shard(1, entry(queries[1].Cert, superseded))))
	w.on("2.shard.test", says(shard(3)))
	require.ErrorContains(t, w.engine.Refresh(t.Context()), "another distribution point")
	require.Equal(t, evidence.Revoked, w.check(queries[1]).Status)
	for _, n := range []int{0, 2, 3} {
		require.Equal(t, evidence.Good, w.check(queries[n]).Status, "what was held stays")
	}
	w.restart(nil)
	require.Equal(t, evidence.Unknown, w.check(queries[2]).Status)
	// The list of all shards' certificates at the place of one is that of all.
	w.restart(nil)
	w.on("2.shard.test", says(w.list(2)))
	require.Equal(t, evidence.Good, w.check(queries[2]).Status)
}

// A list for CA certificates only, or for those of users only, is nothing for the
// other kind, also where a source of the operator's gives it.
func TestListsForUsersOrCAsOnly(t *testing.T) {
	for _, c := range []struct {
		scope testpki.Scope
		ca    bool
		want  evidence.Status
	}{
		{testpki.Scope{UserOnly: true}, false, evidence.Good},
		{testpki.Scope{UserOnly: true}, true, evidence.Unknown},
		{testpki.Scope{CAOnly: true}, false, evidence.Unknown},
		{testpki.Scope{CAOnly: true}, true, evidence.Good},
		{testpki.Scope{AttributesOnly: true}, false, evidence.Unknown},
	} {
		for _, own := range []bool{false, true} {
			w := newWorld(t)
			w.only([]string{crlURL}, nil)
			q := w.leaf()
			if c.ca {
				q.Leaf, q.Cert = false, w.sub(w.ca, testpki.Options{}).Certificate
			}
			der := w.list(1, scope(c.scope))
			w.on("crl.test", says(der))
			if own {
				w.on("crl.test", fails)
				q.Sources = []*evidence.Source{gives("own", true, der)}
			}
			require.Equal(t, c.want, w.check(q).Status, "%+v", c)
			require.Equal(t, c.want, w.engine.Peek(q).Status)
		}
	}
}

// An indirect list speaks for the certificates whose CA has named its issuer, and
// in it each entry for those of the CA that it names.
func TestIndirectLists(t *testing.T) {
	const good, revoked, unknown = evidence.Good, evidence.Revoked, evidence.Unknown
	indirect := scope(testpki.Scope{Indirect: true})
	for _, c := range []struct {
		name   string
		by     func(*deep) *testpki.CA // who certifies the CRL issuer
		named  string                  // as cRLIssuer; empty: nobody
		list   func(*deep, evidence.Query) []change
		hidden bool
		want   evidence.Status
	}{
		{name: "nothing is revoked", list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: good},
		{name: "an entry of the certificate's issuer", list: func(d *deep, q evidence.Query) []change {
			return []change{indirect, entry(q.Cert, hold, d.must(testpki.CertificateIssuer(q.Cert.RawIssuer)))}
		}, want: revoked},
		{name: "an entry after another of its issuer", list: func(d *deep, q evidence.Query) []change {
			return []change{indirect, entry(d.leaf().Cert, hold, d.must(testpki.CertificateIssuer(q.Cert.RawIssuer))), entry(q.Cert, hold)}
		}, want: revoked},
		{name: "an entry of another issuer with its number", list: func(d *deep, q evidence.Query) []change {
			return []change{indirect, entry(q.Cert, hold, d.must(testpki.CertificateIssuer(subject("another CA"))))}
		}, want: good},
		{name: "an entry of the CRL issuer itself with its number", list: func(d *deep, q evidence.Query) []change {
			return []change{indirect, entry(q.Cert, hold)}
		}, want: good},
		{name: "a list that is not indirect", list: func(*deep, evidence.Query) []change { return nil }, want: unknown},
		{name: "a list for the point", list: func(*deep, evidence.Query) []change {
			return []change{scope(testpki.Scope{Indirect: true, PointName: testpki.PointName{URIs: []string{crlURL}}})}
		}, want: good},
		{name: "a list for another point", list: func(*deep, evidence.Query) []change {
			return []change{scope(testpki.Scope{Indirect: true, PointName: testpki.PointName{URIs: []string{"http://crl.test/other"}}})}
		}, want: unknown},
		{name: "another CRL issuer is named", named: "another", list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: unknown},
		{name: "no CRL issuer is named", named: "-", list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: unknown},
		{name: "its certificate is not known", hidden: true, list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: unknown},
		{name: "certified by the issuer's issuer", by: func(d *deep) *testpki.CA { return d.middle }, list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: good},
		{name: "certified by the anchor", by: func(d *deep) *testpki.CA { return d.root }, list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: good},
		{name: "certified by a sister", by: func(d *deep) *testpki.CA { return d.sub(d.middle, testpki.Options{}) }, list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: unknown},
		{name: "certified by another root", by: func(d *deep) *testpki.CA { return d.world.root(testpki.Options{}) }, list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: unknown},
		{name: "certified by a CA below the issuer", by: func(d *deep) *testpki.CA { return d.sub(d.ca, testpki.Options{}) }, list: func(*deep, evidence.Query) []change { return []change{indirect} }, want: unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDeep(t)
			by := d.ca
			if c.by != nil {
				by = c.by(d)
			}
			s := d.signer(by, "CRL issuer", testpki.Options{})
			d.on("signer-crl.test", says(d.of(by)))
			p := at(crlURL)
			switch c.named {
			case "":
				p.CRLIssuer = s.Certificate.RawSubject
			case "-":
			default:
				p.CRLIssuer = subject(c.named)
			}
			d.only(nil, nil)
			q := d.query(d.issue(testpki.Options{Extra: []pkix.Extension{d.must(testpki.CRLDistributionPoints(p))}}).Certificate)
			if !c.hidden {
				q.Candidates = []*x509.Certificate{s.Certificate}
			}
			d.on("crl.test", says(d.of(s, c.list(d, q)...)))
			f := d.check(q)
			require.Equal(t, c.want, f.Status, f.Detail)
			require.Equal(t, c.want, d.engine.Peek(q).Status)
		})
	}
}
