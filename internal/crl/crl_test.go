package crl_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

func newCA(t testing.TB, o testpki.Options) *testpki.CA {
	t.Helper()
	ca, err := testpki.NewRoot(o)
	require.NoError(t, err)
	return ca
}

func issue(t testing.TB, ca *testpki.CA, o testpki.Options) *x509.Certificate {
	t.Helper()
	leaf, err := ca.Issue(o)
	require.NoError(t, err)
	return leaf.Certificate
}

func TestSoundListIsAccepted(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	der := sound(ca).sign(t, ca.Key)
	l, err := crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
	for i := range der { // the list keeps nothing of it
		der[i] = 0xff
	}
	require.Equal(t, ca.Certificate.RawSubject, l.RawIssuer)
	require.Equal(t, testpki.Epoch.Add(-time.Hour), l.ThisUpdate)
	require.Equal(t, testpki.Epoch.Add(time.Hour), l.NextUpdate)
	require.Equal(t, int64(5), l.Number.Int64())
	require.Equal(t, ca.Certificate.SubjectKeyId, l.AuthorityKeyID)
	require.Equal(t, 1, l.Len())
	require.True(t, l.IssuedBy(ca.Certificate))
	require.NoError(t, l.CheckTime(testpki.Epoch, 0))
	require.NoError(t, l.Covers(issue(t, ca, testpki.Options{})))
	e, ok := l.Lookup(big.NewInt(7))
	require.True(t, ok)
	require.Equal(t, crl.Entry{Date: testpki.Epoch.Add(-48 * time.Hour)}, e)
	_, ok = l.Lookup(big.NewInt(8))
	require.False(t, ok)
	_, ok = l.Lookup(nil)
	require.False(t, ok)
}

// TestParser changes one thing about a sound and correctly signed list.
func TestParser(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	edit := func(f func(*list)) []byte {
		l := sound(ca)
		f(&l)
		return l.sign(t, ca.Key)
	}
	extend := func(e ...[]byte) func(*list) {
		return func(l *list) { l.extensions = append(l.extensions, e...) }
	}
	revoke := func(e ...[]byte) func(*list) {
		return func(l *list) { l.revoked = tlv(0x30, e...) }
	}
	for _, test := range []struct {
		name string
		der  []byte
		want error // nil: accepted
	}{
		{"generalized times", edit(func(l *list) {
			l.thisUpdate, l.nextUpdate = generalTime(testpki.Epoch), generalTime(testpki.Epoch.Add(time.Hour))
		}), nil},
		{"no extensions at all", edit(func(l *list) { l.extensions = nil }), nil},
		{"unknown extension that is not critical", edit(extend(ext(oidUnknown, false, nil), ext(oidFreshest, false, nil))), nil},
		{"critical cRLNumber", edit(func(l *list) { l.extensions = [][]byte{ext(oidNumber, true, []byte{2, 1, 5})} }), nil},
		{"empty issuing distribution point", edit(extend(idp())), nil},
		{"flags spelled out as false", edit(extend(idp(flag(1, 0), flag(2, 0), flag(4, 0), flag(5, 0)))), nil},
		{"entry extensions known and unknown", edit(revoke(entry(7, reason(1),
			ext(oidInvalidity, false, generalTime(testpki.Epoch)), ext(oidUnknown, false, nil)))), nil},
		{"empty entry extensions", edit(revoke(entry(7, []byte{}))), nil},
		{"critical invalidityDate of another type", edit(revoke(entry(7, ext(oidInvalidity, true, utcTime(testpki.Epoch))))), nil},
		{"critical reasonCode", edit(revoke(entry(7, ext(oidReason, true, []byte{10, 1, 1})))), nil},

		{"nothing", nil, crl.ErrMalformed},
		{"trailing data after", edit(func(l *list) { l.after = []byte{0} }), crl.ErrMalformed},
		{"trailing data in CertificateList", edit(func(l *list) { l.afterTBS = []byte{5, 0} }), crl.ErrMalformed},
		{"trailing data in tbsCertList", edit(func(l *list) { l.afterFields = []byte{5, 0} }), crl.ErrMalformed},
		{"version 1 spelled out", edit(func(l *list) { l.version = []byte{2, 1, 0} }), crl.ErrMalformed},
		{"version 3", edit(func(l *list) { l.version = []byte{2, 1, 2} }), crl.ErrMalformed},
		{"version absent", edit(func(l *list) { l.version = nil }), crl.ErrMalformed},
		{"inner algorithm differs", edit(func(l *list) { l.inner = append(ecdsaSHA256[:11:11], 3) }), crl.ErrMalformed},
		{"thisUpdate absent", edit(func(l *list) { l.thisUpdate, l.nextUpdate = nil, nil }), crl.ErrMalformed},
		{"thisUpdate with an offset", edit(func(l *list) { l.thisUpdate = tlv(0x17, []byte("2601010000+0100")) }), crl.ErrMalformed},
		{"nextUpdate absent", edit(func(l *list) { l.nextUpdate = nil }), crl.ErrUnusable},
		{"nextUpdate malformed", edit(func(l *list) { l.nextUpdate = tlv(0x17, []byte("260231000000Z")) }), crl.ErrMalformed},
		{"empty extensions", edit(func(l *list) { l.extensions = [][]byte{} }), crl.ErrMalformed},
		{"duplicate extension", edit(extend(ext(oidNumber, false, []byte{2, 1, 6}))), crl.ErrMalformed},
		{"duplicate issuing distribution point", edit(extend(idp(), idp())), crl.ErrMalformed},
		{"negative cRLNumber", edit(func(l *list) { l.extensions = [][]byte{ext(oidNumber, false, []byte{2, 1, 0xff})} }), crl.ErrMalformed},
		{"cRLNumber of 21 octets", edit(func(l *list) {
			l.extensions = [][]byte{ext(oidNumber, false, append([]byte{2, 21, 1}, make([]byte, 20)...))}
		}), crl.ErrMalformed},
		{"cRLNumber with trailing data", edit(func(l *list) { l.extensions = [][]byte{ext(oidNumber, false, []byte{2, 1, 5, 0})} }), crl.ErrMalformed},
		{"malformed authority key identifier", edit(func(l *list) { l.extensions = [][]byte{ext(oidAuthorityKey, false, []byte{5, 0})} }), crl.ErrMalformed},

		{"unknown critical extension", edit(extend(ext(oidUnknown, true, nil))), crl.ErrUnusable},
		{"critical freshestCRL", edit(extend(ext(oidFreshest, true, nil))), crl.ErrUnusable},
		{"critical authority key identifier", edit(func(l *list) {
			l.extensions = [][]byte{ext(oidAuthorityKey, true, tlv(0x30, tlv(0x80, ca.Certificate.SubjectKeyId)))}
		}), crl.ErrUnusable},
		{"delta CRL", edit(extend(ext(oidDelta, true, []byte{2, 1, 1}))), crl.ErrUnusable},
		{"delta CRL that is not marked critical", edit(extend(ext(oidDelta, false, []byte{2, 1, 1}))), crl.ErrUnusable},
		{"indirect CRL", edit(extend(idp(flag(4, 0xff)))), crl.ErrUnusable},
		{"indirect CRL that is not marked critical", edit(extend(ext(oidIDP, false, tlv(0x30, flag(4, 0xff))))), crl.ErrUnusable},
		{"only some reasons", edit(extend(idp(tlv(0x83, []byte{6, 0x40})))), crl.ErrUnusable},
		{"only attribute certificates", edit(extend(idp(flag(5, 0xff)))), crl.ErrUnusable},
		{"only user and only CA certificates", edit(extend(idp(flag(1, 0xff), flag(2, 0xff)))), crl.ErrUnusable},

		{"issuing distribution point: not a sequence", edit(extend(ext(oidIDP, true, []byte{5, 0}))), crl.ErrMalformed},
		{"issuing distribution point: trailing data", edit(extend(ext(oidIDP, true, []byte{0x30, 0, 0}))), crl.ErrMalformed},
		{"issuing distribution point: unknown field", edit(extend(idp(flag(6, 0xff)))), crl.ErrMalformed},
		{"issuing distribution point: out of order", edit(extend(idp(flag(2, 0xff), flag(1, 0)))), crl.ErrMalformed},
		{"issuing distribution point: flag of 1", edit(extend(idp(flag(1, 1)))), crl.ErrMalformed},
		{"issuing distribution point: empty flag", edit(extend(idp(tlv(0x81)))), crl.ErrMalformed},
		{"issuing distribution point: empty name", edit(extend(idp(tlv(0xa0)))), crl.ErrMalformed},

		{"entry: unknown critical extension", edit(revoke(entry(7), entry(9, ext(oidUnknown, true, nil)))), crl.ErrUnusable},
		{"entry: certificateIssuer", edit(revoke(entry(7, ext(oidCertIssuer, true, tlv(0x30, uri("x")))))), crl.ErrUnusable},
		{"entry: certificateIssuer that is not marked critical", edit(revoke(entry(7, ext(oidCertIssuer, false, tlv(0x30, uri("x")))))), crl.ErrUnusable},
		{"entry: removeFromCRL", edit(revoke(entry(7, reason(8)))), crl.ErrUnusable},
		{"entry: reason 7", edit(revoke(entry(7, reason(7)))), crl.ErrMalformed},
		{"entry: reason 11", edit(revoke(entry(7, reason(11)))), crl.ErrMalformed},
		{"entry: two reasons", edit(revoke(entry(7, reason(1), reason(1)))), crl.ErrMalformed},
		{"entry: reason with trailing data", edit(revoke(entry(7, ext(oidReason, false, []byte{10, 1, 1, 0})))), crl.ErrMalformed},
		{"entry: serial number with a leading zero", edit(revoke(rawEntry([]byte{0, 7}))), crl.ErrMalformed},
		{"entry: empty serial number", edit(revoke(rawEntry(nil))), crl.ErrMalformed},
		{"entry: serial number of 256 octets", edit(revoke(rawEntry(append([]byte{1}, make([]byte, 255)...)))), crl.ErrMalformed},
		{"entry: no date", edit(revoke(tlv(0x30, []byte{2, 1, 7}))), crl.ErrMalformed},
		{"entry: trailing data", edit(revoke(tlv(0x30, []byte{2, 1, 7}, utcTime(testpki.Epoch), []byte{5, 0}))), crl.ErrMalformed},
		{"entry: not a sequence", edit(revoke([]byte{5, 0})), crl.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := crl.ParseAndVerify(test.der, ca.Certificate)
			if test.want == nil {
				require.NoError(t, err)
				_, ok := l.Lookup(big.NewInt(7))
				require.True(t, ok)
				return
			}
			require.ErrorIs(t, err, test.want)
			require.Nil(t, l)
		})
	}
}

// A list without a verified signature by the issuer is no list
// (cfssl #338, #1068).
func TestThreat51_UnsignedOrForeignCRL(t *testing.T) {
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	other := newCA(t, testpki.Options{CommonName: "Acme CA"})
	der := sound(ca).sign(t, ca.Key)

	t.Run("no issuer", func(t *testing.T) {
		_, err := crl.ParseAndVerify(der, nil)
		require.ErrorIs(t, err, crl.ErrIssuer)
	})
	t.Run("another key under the same name", func(t *testing.T) {
		l := sound(ca)
		l.extensions = nil
		_, err := crl.ParseAndVerify(l.sign(t, other.Key), ca.Certificate)
		require.ErrorContains(t, err, "signature does not verify")
	})
	t.Run("every flipped bit of the signed part", func(t *testing.T) {
		for i := range len(der) - 80 {
			forged := append([]byte{}, der...)
			forged[i] ^= 1
			_, err := crl.ParseAndVerify(forged, ca.Certificate)
			require.Error(t, err, i)
		}
	})
	t.Run("another name of the same key", func(t *testing.T) {
		renamed := newCA(t, testpki.Options{CommonName: "Acme CA 2", Key: ca.Key})
		_, err := crl.ParseAndVerify(der, renamed.Certificate)
		require.ErrorIs(t, err, crl.ErrIssuer)
	})
	t.Run("another authority key identifier", func(t *testing.T) {
		l := sound(ca)
		l.extensions = [][]byte{authorityKey([]byte("somebody else"))}
		_, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
		require.ErrorIs(t, err, crl.ErrIssuer)
	})
	t.Run("empty authority key identifier", func(t *testing.T) {
		l := sound(ca)
		l.extensions = [][]byte{authorityKey(nil)}
		_, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
		require.ErrorIs(t, err, crl.ErrIssuer)
	})
	t.Run("signed with SHA-1", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		rsaCA := newCA(t, testpki.Options{Key: key})
		l := sound(rsaCA)
		l.inner = []byte{0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 5, 5, 0}
		l.outer = l.inner
		_, err = crl.ParseAndVerify(l.sign(t, key), rsaCA.Certificate)
		require.ErrorIs(t, err, x509ext.ErrAlgorithm)
	})
	t.Run("the same list at two issuers", func(t *testing.T) {
		l, err := crl.ParseAndVerify(der, ca.Certificate)
		require.NoError(t, err)
		require.False(t, l.IssuedBy(other.Certificate), "same name, another key")
		require.False(t, l.IssuedBy(nil))
	})
}

func TestIssuerWithoutTheRightToSignLists(t *testing.T) {
	withUsage := func(value byte) testpki.Options {
		return testpki.Options{Template: func(c *x509.Certificate) {
			c.KeyUsage = 0
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{
				Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, value},
			})
		}}
	}
	absent := testpki.Options{Template: func(c *x509.Certificate) { c.KeyUsage = 0 }}
	for _, test := range []struct {
		name    string
		options testpki.Options
		ok      bool
	}{
		{"key usage absent", absent, true},
		{"key usage cRLSign", testpki.Options{KeyUsage: x509.KeyUsageCRLSign}, true},
		{"key usage certSign only", testpki.Options{KeyUsage: x509.KeyUsageCertSign}, false},
		{"key usage present and empty", withUsage(0), false},
		{"not a CA", testpki.Options{Template: func(c *x509.Certificate) { c.IsCA = false }}, false},
		{"no basic constraints", testpki.Options{Template: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			ca := newCA(t, test.options)
			_, err := crl.ParseAndVerify(sound(ca).sign(t, ca.Key), ca.Certificate)
			if test.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, crl.ErrIssuer)
		})
	}
}

// A list that revokes nothing must not lock everybody out (pomerium #4471), and
// one whose time is over must not count.
func TestThreat58_EmptyAndExpiredCRL(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	cert := issue(t, ca, testpki.Options{})
	for name, revoked := range map[string][]byte{"absent": nil, "empty": tlv(0x30)} {
		l := sound(ca)
		l.revoked = revoked
		parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
		require.NoError(t, err, name)
		require.Zero(t, parsed.Len())
		require.NoError(t, parsed.Covers(cert))
		_, ok := parsed.Lookup(cert.SerialNumber)
		require.False(t, ok)
	}

	const skew = 5 * time.Minute
	l, err := crl.ParseAndVerify(sound(ca).sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	for _, test := range []struct {
		name string
		now  time.Time
		want error
	}{
		{"at thisUpdate", l.ThisUpdate, nil},
		{"before thisUpdate, within the skew", l.ThisUpdate.Add(-skew), nil},
		{"before thisUpdate, beyond the skew", l.ThisUpdate.Add(-skew - time.Second), crl.ErrFuture},
		{"at nextUpdate", l.NextUpdate, nil},
		{"after nextUpdate, which has no skew", l.NextUpdate.Add(time.Second), crl.ErrExpired},
	} {
		t.Run(test.name, func(t *testing.T) { require.ErrorIs(t, l.CheckTime(test.now, skew), test.want) })
	}
	t.Run("nextUpdate not after thisUpdate", func(t *testing.T) {
		l := sound(ca)
		l.nextUpdate = l.thisUpdate
		parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
		require.NoError(t, err)
		require.ErrorIs(t, parsed.CheckTime(parsed.ThisUpdate, skew), crl.ErrMalformed)
	})
	t.Run("the zero List", func(t *testing.T) {
		require.Error(t, new(crl.List).CheckTime(testpki.Epoch, skew))
		require.Error(t, new(crl.List).Covers(cert))
		require.False(t, new(crl.List).IssuedBy(ca.Certificate))
	})
}

// A delta, an indirect list, one for some reasons only or with an unknown
// critical extension says nothing about a certificate that it does not mention.
func TestThreat59_DeltaIndirectCritical(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	for name, extra := range map[string]pkix.Extension{
		"delta":    {Id: oidDelta, Critical: true, Value: []byte{2, 1, 1}},
		"indirect": {Id: oidIDP, Critical: true, Value: tlv(0x30, flag(4, 0xff))},
		"reasons":  {Id: oidIDP, Critical: true, Value: tlv(0x30, tlv(0x83, []byte{6, 0x40}))},
		"unknown":  {Id: oidUnknown, Critical: true},
	} {
		der, err := ca.CRL(testpki.CRLOptions{Extra: []pkix.Extension{extra}})
		require.NoError(t, err)
		_, err = x509.ParseRevocationList(der)
		require.NoError(t, err, "crypto/x509 would take it")
		_, err = crl.ParseAndVerify(der, ca.Certificate)
		require.ErrorIs(t, err, crl.ErrUnusable, name)
	}
}

func TestLookup(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	l := sound(ca)
	l.revoked = tlv(0x30,
		rawEntry([]byte{0x00, 0xff}, reason(6)),
		rawEntry([]byte{0xfd, 0x78, 0xa8, 0x4e}), // the CA meant 0xfd78a84e
		rawEntry([]byte{5}, reason(1)),
		rawEntry([]byte{5}, reason(4)),
		rawEntry([]byte{0}),
		rawEntry([]byte{1, 0}, reason(0)),
		rawEntry([]byte{1}),
	)
	parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	require.Equal(t, 7, parsed.Len())
	date := testpki.Epoch.Add(-48 * time.Hour)
	for _, test := range []struct {
		name   string
		serial int64
		want   *crl.Entry
	}{
		{"certificateHold is revoked", 0xff, &crl.Entry{Reason: 6, HasReason: true, Date: date}},
		{"written as a negative number", 0xfd78a84e, &crl.Entry{Date: date}},
		{"twice: the first counts", 5, &crl.Entry{Reason: 1, HasReason: true, Date: date}},
		{"zero", 0, &crl.Entry{Date: date}},
		{"two octets, unspecified", 256, &crl.Entry{HasReason: true, Date: date}},
		{"one octet", 1, &crl.Entry{Date: date}},
		{"a prefix", 0xfd78, nil},
		{"absent", 2, nil},
		{"above all", 1 << 40, nil},
		{"negative", -5, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parsed.Lookup(big.NewInt(test.serial))
			require.Equal(t, test.want != nil, ok)
			if ok {
				require.Equal(t, *test.want, got)
			}
		})
	}
}

// Every entry of a large list in random order is found, and nothing else.
func TestLookupAgreesWithCryptoX509(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	var entries []x509.RevocationListEntry
	for i := range 2000 {
		b := make([]byte, 1+i%20)
		rand.Read(b)
		b[0] |= 1
		entries = append(entries, x509.RevocationListEntry{
			SerialNumber: new(big.Int).SetBytes(b), RevocationTime: testpki.Epoch.Add(-time.Duration(i) * time.Hour), ReasonCode: i % 7,
		})
	}
	der, err := ca.CRL(testpki.CRLOptions{Entries: entries})
	require.NoError(t, err)
	l, err := crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
	requireSameEntries(t, der, l)
	absent := new(big.Int).Lsh(big.NewInt(1), 200)
	_, ok := l.Lookup(absent)
	require.False(t, ok)
}

// requireSameEntries compares with what crypto/x509 makes of the list.
func requireSameEntries(t *testing.T, der []byte, l *crl.List) {
	t.Helper()
	want, err := x509.ParseRevocationList(der)
	require.NoError(t, err)
	require.True(t, want.ThisUpdate.Equal(l.ThisUpdate))
	require.True(t, want.NextUpdate.Equal(l.NextUpdate))
	require.Equal(t, want.RawIssuer, l.RawIssuer)
	require.Equal(t, want.AuthorityKeyId, l.AuthorityKeyID)
	require.Zero(t, want.Number.Cmp(l.Number))
	require.Len(t, want.RevokedCertificateEntries, l.Len())
	seen := map[string]bool{}
	for _, e := range want.RevokedCertificateEntries {
		got, ok := l.Lookup(e.SerialNumber)
		require.True(t, ok, e.SerialNumber)
		// A negative number shares its place with the positive one of the same
		// octets; the first of several entries counts.
		if key := fmt.Sprint(e.SerialNumber); e.SerialNumber.Sign() > 0 && !seen[key] {
			seen[key] = true
			require.True(t, got.Date.Equal(e.RevocationTime), e.SerialNumber)
			require.Equal(t, e.ReasonCode, got.Reason)
		}
	}
}

func TestLargerCurve(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	ca := newCA(t, testpki.Options{Key: key})
	der, err := ca.CRL(testpki.CRLOptions{})
	require.NoError(t, err)
	_, err = crl.ParseAndVerify(der, ca.Certificate)
	require.NoError(t, err)
}

// Whoever bounds the memory of lists goes by their Size.
func TestSizeIsThatOfTheMemory(t *testing.T) {
	counted, taken := crl.EntrySize()
	require.Equal(t, taken, counted)
	ca := newCA(t, testpki.Options{})
	size := func(n int) int {
		o := testpki.CRLOptions{}
		for i := range n {
			o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: big.NewInt(1<<40 + int64(i)), RevocationTime: testpki.Epoch})
		}
		der, err := ca.CRL(o)
		require.NoError(t, err)
		l, err := crl.ParseAndVerify(der, ca.Certificate)
		require.NoError(t, err)
		return l.Size()
	}
	empty := size(0)
	require.Positive(t, empty)
	require.Equal(t, 1000*(taken+6), size(1000)-empty)
}
