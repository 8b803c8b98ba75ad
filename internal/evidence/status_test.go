package evidence_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func TestThreat54_ZeroValueIsUnknown(t *testing.T) {
	var f evidence.Finding
	require.Equal(t, evidence.Unknown, f.Status)
	require.Equal(t, "unknown", f.Status.String())
	require.Equal(t, "unknown", evidence.Status(7).String())
}

// The first check after a start waits for the sources (CVE-2022-41316).
func TestColdStartFindsTheRevocation(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	w.on("crl.test", says(w.crl(nil, q.Cert)))
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
	f := w.check(q)
	require.Equal(t, evidence.Revoked, f.Status)
	require.Contains(t, f.Detail, `"http://crl.test/list"`)
	require.Contains(t, f.Detail, "reason not given")
	require.Equal(t, evidence.Revoked, w.engine.Peek(q).Status)
}

func TestWorstAnswerWins(t *testing.T) {
	const good, revoked, unknown = evidence.Good, evidence.Revoked, evidence.Unknown
	states := []string{"good", "revoked", "unknown", "unusable", "unreachable"} // of the responder
	table := map[string][]evidence.Status{                                      // by the state of the CRL
		"good":        {good, revoked, unknown, good, good},
		"revoked":     {revoked, revoked, revoked, revoked, revoked},
		"unusable":    {good, revoked, unknown, unknown, unknown},
		"unreachable": {good, revoked, unknown, unknown, unknown},
	}
	for list, row := range table {
		for i, want := range row {
			t.Run("CRL "+list+", OCSP "+states[i], func(t *testing.T) {
				w := newWorld(t)
				q := w.leaf()
				w.on("crl.test", map[string]answer{
					"good":     says(w.crl(nil)),
					"revoked":  says(w.crl(nil, q.Cert)),
					"unusable": says([]byte("no list")),
				}[list])
				w.on("ocsp.test", map[string]answer{
					"good":     says(w.ocsp(q, xocsp.Good, nil)),
					"revoked":  says(w.ocsp(q, xocsp.Revoked, nil)),
					"unknown":  says(w.ocsp(q, xocsp.Unknown, nil)),
					"unusable": says([]byte("no response")),
				}[states[i]])
				f := w.check(q)
				require.Equal(t, want, f.Status, f.Detail)
				require.False(t, f.Missing)
				require.Len(t, f.Deps, 3, "of the CRL, the responder and the staple")
				peek := w.engine.Peek(q)
				require.Equal(t, want, peek.Status)
				if want == good {
					require.Equal(t, w.now().Add(24*time.Hour), f.Expires)
				} else {
					require.NotEmpty(t, f.Detail)
				}
				if want == unknown {
					require.Zero(t, f.Expires)
				}
			})
		}
	}
}

// Two distribution points are asked both, and the first clean list does not end
// the search (plgd-dev/hub#1385).
func TestThreat52_RevokedInTheSecondDistributionPointOnly(t *testing.T) {
	for _, where := range []string{"one.test", "two.test"} {
		w := newWorld(t)
		w.only([]string{"http://one.test/", "http://two.test/"}, nil)
		q := w.leaf()
		w.on("one.test", says(w.crl(nil)))
		w.on("two.test", says(w.crl(nil)))
		w.on(where, says(w.crl(nil, q.Cert)))
		require.Equal(t, evidence.Revoked, w.check(q).Status, where)
	}
}

// What is good lapses; what is revoked does not become better by growing old.
func TestOnlyGoodLapses(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		after  time.Duration
		want   evidence.Status
	}{
		{"good at nextUpdate", xocsp.Good, 24 * time.Hour, evidence.Good},
		{"good after nextUpdate", xocsp.Good, 24*time.Hour + time.Second, evidence.Unknown},
		{"revoked after nextUpdate", xocsp.Revoked, 24*time.Hour + time.Second, evidence.Revoked},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			q := w.leaf()
			var revoked []*x509.Certificate
			if c.status == xocsp.Revoked {
				revoked = append(revoked, q.Cert)
			}
			w.on("crl.test", says(w.crl(nil, revoked...)))
			w.on("ocsp.test", says(w.ocsp(q, c.status, nil)))
			w.check(q)
			w.on("crl.test", fails)
			w.on("ocsp.test", fails)
			w.advance(c.after)
			require.Equal(t, c.want, w.engine.Peek(q).Status)
			require.Equal(t, c.want, w.check(q).Status)
		})
	}
}

func TestOCSPWithoutNextUpdateCountsForAnHour(t *testing.T) {
	w := newWorld(t)
	q := w.leaf()
	w.on("ocsp.test", says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.NoNextUpdate = true })))
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	require.Equal(t, w.now().Add(time.Hour), f.Expires)
	w.advance(time.Hour + time.Second)
	require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
}

func TestMaxAgeBoundsTheLeafOnly(t *testing.T) {
	w := newWorld(t)
	w.only([]string{crlURL}, nil)
	year := func(o *testpki.CRLOptions) { o.NextUpdate = w.now().AddDate(1, 0, 0) }
	w.on("crl.test", says(w.crl(year)))
	q := w.leaf()
	q.MaxAge = 10 * 24 * time.Hour
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	require.Equal(t, w.now().Add(q.MaxAge), f.Expires)

	w.advance(q.MaxAge + time.Second)
	f = w.engine.Peek(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "too old")
	ca := q
	ca.Leaf = false
	require.Equal(t, evidence.Good, w.engine.Peek(ca).Status)

	// A list that lapsed by MaxAge alone is waited for like one that is missing.
	w.on("crl.test", says(w.crl(year)))
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// extension replaces the distribution points of a certificate.
func points(t *testing.T, parts ...asn1.RawValue) pkix.Extension {
	der, err := asn1.Marshal(parts)
	require.NoError(t, err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: der}
}

func tagged(tag int, constructed bool, content []byte) []byte {
	der, _ := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: constructed, Bytes: content})
	return der
}

func point(url string, more ...byte) asn1.RawValue {
	name := tagged(0, true, tagged(0, true, tagged(6, false, []byte(url))))
	return asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(name, more...)}
}

func TestCertificatesWithoutAUsableSource(t *testing.T) {
	noRevAvail := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: asn1.NullBytes}
	freshest := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 46}}
	freshest.Value, _ = asn1.Marshal([]asn1.RawValue{point("http://crl.test/delta")})
	end := func(d time.Duration) time.Time { return testpki.Epoch.AddDate(-1, 0, 0).Add(d) }
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name    string
		options testpki.Options
		ca      bool
		want    evidence.Status
		missing bool
		detail  string
	}{
		{name: "seven days are short", options: testpki.Options{NotAfter: end(week)}, want: evidence.Good},
		{name: "a second more is not", options: testpki.Options{NotAfter: end(week + time.Second)}, missing: true, detail: "names no source"},
		{name: "noRevAvail within seven days", options: testpki.Options{NotAfter: end(week), Extra: []pkix.Extension{noRevAvail}}, want: evidence.Good},
		{name: "noRevAvail beyond", options: testpki.Options{Extra: []pkix.Extension{noRevAvail}}, missing: true, detail: "names no source"},
		{name: "a short-lived CA is no leaf", options: testpki.Options{NotAfter: end(week)}, ca: true, missing: true, detail: "names no source"},
		{name: "a delta CRL only", options: testpki.Options{Extra: []pkix.Extension{freshest}}, missing: true, detail: "can be used"},
		{name: "a delta CRL only, short-lived", options: testpki.Options{NotAfter: end(week), Extra: []pkix.Extension{freshest}}, missing: true},
		{name: "LDAP only", options: testpki.Options{Extra: []pkix.Extension{points(t, point("ldap://ldap.test/cn=ca"))}}, missing: true, detail: "without an http URL"},
		{name: "LDAP only, short-lived", options: testpki.Options{NotAfter: end(week), Extra: []pkix.Extension{points(t, point("ldap://ldap.test/cn=ca"))}}, missing: true, detail: "without an http URL"},
		{name: "some reasons, and a list of all", options: testpki.Options{Extra: []pkix.Extension{points(t, point(crlURL, tagged(1, false, []byte{6, 0x40})...))}}, want: evidence.Good},
		{name: "another issuer's list, and one of its own", options: testpki.Options{Extra: []pkix.Extension{points(t, point(crlURL, tagged(2, true, tagged(2, false, []byte("x")))...))}}, want: evidence.Good},
		{name: "unreadable points", options: testpki.Options{Template: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: []byte{0x30, 0}}}
		}}, missing: true, detail: "cannot be read"},
		{name: "an LDAP responder", options: testpki.Options{Template: func(c *x509.Certificate) { c.OCSPServer = []string{"ldap://x"} }}, missing: true, detail: "an OCSP responder without"},
		{name: "LDAP beside a usable list", options: testpki.Options{Extra: []pkix.Extension{points(t, point("ldap://ldap.test/cn=ca"), point("HTTP://crl.test/list"))}}, want: evidence.Good},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.only(nil, nil)
			w.goodCRL()
			leaf, err := w.ca.Issue(c.options)
			require.NoError(t, err)
			q := w.query(leaf.Certificate)
			q.Leaf = !c.ca
			for _, ask := range []func(evidence.Query) evidence.Finding{w.check, w.engine.Peek} {
				f := ask(q)
				require.Equal(t, c.want, f.Status, "%s: %v", f.Detail, f.Proofs)
				require.Equal(t, c.missing, f.Missing)
				require.Contains(t, f.Detail, c.detail)
			}
		})
	}
}

// A source that can be asked and was not yet is not missing.
func TestNothingInMemoryIsNotMissing(t *testing.T) {
	w := newWorld(t)
	f := w.engine.Peek(w.leaf())
	require.Equal(t, evidence.Unknown, f.Status)
	require.False(t, f.Missing)
	require.Equal(t, "no evidence in memory", f.Detail)
}

func TestCompromise(t *testing.T) {
	const absent = -1
	for reason, want := range map[int]bool{
		absent: true, 0: true, 1: true, 2: true, 10: true,
		3: false, 4: false, 5: false, 6: false, 9: false,
	} {
		w := newWorld(t)
		q := w.leaf()
		der := w.crl(func(o *testpki.CRLOptions) {
			e := x509.RevocationListEntry{SerialNumber: q.Cert.SerialNumber, RevocationTime: w.now(), ReasonCode: max(reason, 0)}
			if reason == 0 {
				e.ReasonCode = 10
			}
			o.Entries = append(o.Entries, e)
		})
		if reason == 0 {
			der = w.stateUnspecified(der)
		}
		w.on("crl.test", says(der))
		f := w.check(q)
		require.Equal(t, evidence.Revoked, f.Status)
		if reason == 0 {
			require.Contains(t, f.Detail, "reason unspecified")
		}
		require.Equal(t, want, f.Compromise, "reason %d: %s", reason, f.Detail)
	}
}

// stateUnspecified turns the reason aACompromise of the only entry into an
// explicit "unspecified", which x509.CreateRevocationList leaves out.
func (w *world) stateUnspecified(der []byte) []byte {
	var list struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	_, err := asn1.Unmarshal(der, &list)
	require.NoError(w.t, err)
	list.TBS.FullBytes = bytes.Replace(list.TBS.FullBytes, []byte{4, 3, 10, 1, 10}, []byte{4, 3, 10, 1, 0}, 1)
	sum := sha256.Sum256(list.TBS.FullBytes)
	list.Signature.Bytes, err = w.ca.Key.Sign(rand.Reader, sum[:], crypto.SHA256)
	require.NoError(w.t, err)
	list.Signature.BitLength = 8 * len(list.Signature.Bytes)
	der, err = asn1.Marshal(list)
	require.NoError(w.t, err)
	return der
}

// responder makes a delegated responder whose certificate names a CRL, and lets
// it answer for q.
func (w *world) responder(o testpki.Options, q evidence.Query) *testpki.Leaf {
	w.only([]string{"http://responder-crl.test/"}, nil)
	o.CommonName = "responder"
	o.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	r := w.issue(o)
	w.on("ocsp.test", says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = r })))
	return r
}

func TestDelegatedResponder(t *testing.T) {
	nocheck := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}, Value: asn1.NullBytes}
	for _, c := range []struct {
		name    string
		options testpki.Options
		crl     func(*world, *testpki.Leaf) answer
		want    evidence.Status
		detail  string
	}{
		{name: "with nocheck needs nothing more", options: testpki.Options{Extra: []pkix.Extension{nocheck}}, want: evidence.Good},
		{name: "without nocheck, good by its CRL", crl: func(w *world, _ *testpki.Leaf) answer { return says(w.crl(nil)) }, want: evidence.Good},
		{name: "without nocheck, its CRL is out of reach", detail: "not known to be good"},
		{name: "revoked by its CRL", crl: func(w *world, r *testpki.Leaf) answer { return says(w.crl(nil, r.Certificate)) }, detail: "whoever signed it is revoked"},
		{name: "nocheck that is malformed is absent", options: testpki.Options{Extra: []pkix.Extension{{Id: nocheck.Id, Value: []byte{4, 0}}}}, detail: "not known to be good"},
		{name: "for hours only, without a source", options: testpki.Options{
			NotBefore: testpki.Epoch.Add(-time.Hour), NotAfter: testpki.Epoch.Add(time.Hour),
			Template: func(c *x509.Certificate) { c.CRLDistributionPoints = nil },
		}, want: evidence.Good},
		{name: "vouched for by another responder", options: testpki.Options{Template: func(c *x509.Certificate) {
			c.CRLDistributionPoints, c.OCSPServer = nil, []string{"http://vouching.test/"}
		}}, detail: "can be used"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.only(nil, []string{ocspURL})
			q := w.leaf()
			r := w.responder(c.options, q)
			if c.crl != nil {
				w.on("responder-crl.test", c.crl(w, r))
			}
			for range 2 {
				f := w.check(q)
				require.Equal(t, c.want, f.Status, f.Detail)
				require.Contains(t, f.Detail, c.detail)
			}
			require.Zero(t, w.count("vouching.test"))
		})
	}
}

// The responder's certificate is of the same owner as the one it answers for.
func TestResponderIsOfTheSameOwner(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	q.Owner = [32]byte{1}
	w.responder(testpki.Options{}, q)
	w.on("responder-crl.test", says(w.crl(nil)))
	require.Equal(t, evidence.Good, w.check(q).Status)
	require.Equal(t, 1, w.engine.Owners())
}

// The CRL of a responder lapses before the response does, and its certificate
// may expire before that.
func TestResponseLapsesWithItsResponder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.only(nil, []string{ocspURL})
		q := w.leaf()
		w.responder(testpki.Options{NotAfter: w.now().Add(10 * time.Hour)}, q)
		hour := func(o *testpki.CRLOptions) { o.NextUpdate = w.now().Add(time.Hour) }
		w.on("responder-crl.test", says(w.crl(hour)))
		f := w.check(q)
		require.Equal(t, evidence.Good, f.Status)
		require.Equal(t, w.now().Add(time.Hour), f.Expires, "with the responder's CRL")

		w.advance(time.Hour + time.Second)
		require.Equal(t, evidence.Unknown, w.engine.Peek(q).Status)
		w.on("responder-crl.test", says(w.crl(nil)))
		f = w.check(q)
		require.Equal(t, evidence.Good, f.Status, f.Detail)
		require.Equal(t, testpki.Epoch.Add(10*time.Hour), f.Expires, "with the responder's certificate")
		synctest.Wait()

		w.advance(9 * time.Hour)
		w.on("ocsp.test", fails)
		require.Equal(t, evidence.Unknown, w.check(q).Status)
		// A response by another responder is waited for.
		w.advance(time.Minute)
		r := w.issue(testpki.Options{CommonName: "new responder", ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
		w.on("ocsp.test", says(w.ocsp(q, xocsp.Good, func(o *testpki.OCSPOptions) { o.Responder = r })))
		require.Equal(t, evidence.Good, w.check(q).Status)
	})
}

// The revocation of a responder voids what rests on its response.
func TestRevokedResponderVoidsItsResponse(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	r := w.responder(testpki.Options{}, q)
	w.on("responder-crl.test", says(w.crl(nil)))
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	require.True(t, current(f))
	w.advance(time.Minute)
	w.on("responder-crl.test", says(w.crl(nil, r.Certificate)))
	_ = w.engine.Refresh(t.Context()) // an error where the list came before the response
	require.False(t, current(f))
	require.Equal(t, evidence.Unknown, w.check(q).Status)
}
