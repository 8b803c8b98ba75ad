package evidence_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xocsp "golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls/internal/evidence"
	"github.com/mtlsguard/mtls/internal/testpki"
)

// A responder that does not know a new certificate yet is asked again after the
// backoff, not when its answer lapses, and the request waits for it.
func TestUnknownIsAskedAgain(t *testing.T) {
	w := newWorld(t)
	w.only(nil, []string{ocspURL})
	q := w.leaf()
	w.on("ocsp.test", says(w.ocsp(q, xocsp.Unknown, nil)))
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	require.Equal(t, evidence.Unknown, w.check(q).Status)
	require.Equal(t, 1, w.count("ocsp.test"), "not before the backoff is over")
	w.goodOCSP(q)
	w.advance(time.Second)
	require.Equal(t, evidence.Good, w.check(q).Status)
}

// A certificate that asks for an OCSP response is not vouched for by a CRL alone.
func TestMustStapleAsksForAResponse(t *testing.T) {
	feature, err := asn1.Marshal([]int{5})
	require.NoError(t, err)
	w := newWorld(t)
	w.goodCRL()
	leaf, err := w.ca.Issue(testpki.Options{Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: feature}}})
	require.NoError(t, err)
	q := w.leaf()
	q.Cert = leaf.Certificate
	w.on("ocsp.test", says([]byte("no response")))
	f := w.check(q)
	require.Equal(t, evidence.Unknown, f.Status)
	require.Contains(t, f.Detail, "TLS feature")
	w.goodOCSP(q)
	w.advance(time.Minute)
	require.Equal(t, evidence.Good, w.check(q).Status)
	stapled := newWorld(t)
	stapled.ca = w.ca
	stapled.goodCRL()
	stapled.on("ocsp.test", says([]byte("no response")))
	q.Staple = w.week(q, xocsp.Good)
	require.Equal(t, evidence.Good, stapled.check(q).Status, "a staple is a response")
}

// What one certificate can make us ask is bounded.
func TestTooManySources(t *testing.T) {
	for n, want := range map[int]evidence.Status{16: evidence.Good, 17: evidence.Unknown} {
		w := newWorld(t)
		var urls []string
		for i := range n {
			urls = append(urls, fmt.Sprintf("%s?%d", crlURL, i))
		}
		w.only(urls, nil)
		w.goodCRL()
		q := w.leaf()
		f := w.check(q)
		require.Equal(t, want, f.Status, f.Detail)
		if want == evidence.Unknown {
			require.True(t, f.Missing)
			require.Equal(t, 0, w.count("crl.test"))
		}
	}
}

// The news of a revocation that a client staples voids what its other
// connections rest on, what nobody else's do, and only once.
func TestRevokedStapleIsNews(t *testing.T) {
	w := newWorld(t)
	w.goodCRL()
	q, other := w.leaf(), w.leaf()
	w.goodOCSP(q)
	f := w.check(q)
	require.Equal(t, evidence.Good, f.Status)
	foreign := w.check(other)
	require.Equal(t, evidence.Good, foreign.Status)
	stapled := q
	stapled.Staple = w.week(q, xocsp.Revoked)
	require.Equal(t, evidence.Revoked, w.check(stapled).Status)
	require.False(t, current(f))
	require.True(t, current(foreign))
	f = w.check(q)
	require.Equal(t, evidence.Revoked, f.Status, "with no staple, too")
	require.True(t, current(f))
}

// The slot of the staple is there before any staple is, whatever else the
// certificate names: a decision that waits for something else rests on it.
func TestStapleSlotIsThereBeforeTheStaple(t *testing.T) {
	var many []string
	for i := range 17 {
		many = append(many, fmt.Sprintf("%s?%d", crlURL, i))
	}
	for name, urls := range map[string][]string{"one source": {crlURL}, "none": nil, "too many": many} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.only(urls, nil)
			w.goodCRL()
			q := w.leaf()
			w.engine.Prime(q)
			f := w.check(q)
			require.True(t, current(f))
			stapled := q
			stapled.Staple = w.week(q, xocsp.Revoked)
			w.check(stapled)
			require.False(t, current(f))
			require.Equal(t, evidence.Revoked, w.check(q).Status)
		})
	}
}
