package crl_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
	"github.com/stretchr/testify/require"
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
	require.Nil(t, l.BaseNumber)
	require.Nil(t, l.Freshest)
	require.False(t, l.Version1 || l.Delta() || l.Indirect())
	require.True(t, l.SignedBy(ca.Certificate))
	require.NoError(t, l.CheckTime(testpki.Epoch, 0))
	requireCovers(t, l, issue(t, ca, testpki.Options{}))
	e, ok := l.Lookup(numbered(ca, 7))
	require.True(t, ok)
	require.Equal(t, crl.Entry{Date: testpki.Epoch.Add(-48 * time.Hour)}, e)
	_, ok = l.Lookup(numbered(ca, 8))
	require.False(t, ok)
	for name, cert := range map[string]*x509.Certificate{
		"no certificate":          nil,
		"no serial number":        {RawIssuer: l.RawIssuer},
		"another issuer":          {RawIssuer: tlv(0x30), SerialNumber: big.NewInt(7)},
		"no issuer":               {SerialNumber: big.NewInt(7)},
		"an issuer one bit apart": {RawIssuer: append(l.RawIssuer[:len(l.RawIssuer)-1:len(l.RawIssuer)-1], l.RawIssuer[len(l.RawIssuer)-1]^1), SerialNumber: big.NewInt(7)},
	} {
		_, ok = l.Lookup(cert)
		require.False(t, ok, name)
	}
}

// numbered is as much of a certificate as Lookup looks at.
func numbered(ca *testpki.CA, serial int64) *x509.Certificate {
	return &x509.Certificate{RawIssuer: ca.Certificate.RawSubject, SerialNumber: big.NewInt(serial)}
}

// requireCovers demands all reasons.
func requireCovers(t testing.TB, l *crl.List, cert *x509.Certificate, message ...any) {
	t.Helper()
	reasons, err := l.Covers(cert)
	require.NoError(t, err, message...)
	require.Equal(t, x509ext.AllReasons, reasons, message...)
}

func requireNotCovers(t testing.TB, l *crl.List, cert *x509.Certificate, message ...any) {
	t.Helper()
	reasons, err := l.Covers(cert)
	require.ErrorIs(t, err, crl.ErrScope, message...)
	require.Zero(t, reasons, message...)
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
		{"unknown extension that is not critical", edit(extend(ext(oidUnknown, false, nil))), nil},
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
		{"version 1", edit(func(l *list) { l.version, l.extensions = nil, nil }), nil},
		{"version 1 with extensions", edit(func(l *list) { l.version = nil }), crl.ErrMalformed},
		{"version 1 with entry extensions", edit(func(l *list) {
			l.version, l.extensions, l.revoked = nil, nil, tlv(0x30, entry(7, reason(1)))
		}), crl.ErrMalformed},
		{"version 1 without nextUpdate", edit(func(l *list) { l.version, l.extensions, l.nextUpdate = nil, nil, nil }), crl.ErrUnusable},
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
		{"freshestCRL", edit(extend(freshest(point(fullName(uri("http://a")))))), nil},
		{"critical freshestCRL", edit(extend(ext(oidFreshest, true, tlv(0x30, point(fullName(uri("http://a"))))))), nil},
		{"malformed freshestCRL", edit(extend(freshest(point()))), crl.ErrMalformed},
		{"critical authority key identifier", edit(func(l *list) {
			l.extensions = [][]byte{ext(oidAuthorityKey, true, tlv(0x30, tlv(0x80, ca.Certificate.SubjectKeyId)))}
		}), nil},
		{"delta CRL", edit(extend(delta(1))), nil},
		{"delta CRL that is not marked critical", edit(extend(ext(oidDelta, false, []byte{2, 1, 1}))), nil},
		{"delta CRL: removeFromCRL", edit(func(l *list) { extend(delta(1))(l); revoke(entry(7, reason(8)))(l) }), nil},
		{"delta CRL: malformed base number", edit(extend(ext(oidDelta, true, []byte{2, 1, 0xff}))), crl.ErrMalformed},
		{"delta CRL without a number", edit(func(l *list) { l.extensions = [][]byte{delta(1)} }), crl.ErrUnusable},
		{"delta CRL with a freshestCRL", edit(extend(delta(1), freshest(point(fullName(uri("http://a")))))), crl.ErrUnusable},
		{"delta CRL with a freshestCRL before it", edit(extend(freshest(point(fullName(uri("http://a")))), delta(1))), crl.ErrUnusable},
		{"indirect CRL", edit(extend(idp(flag(4, 0xff)))), nil},
		{"indirect CRL that is not marked critical", edit(extend(ext(oidIDP, false, tlv(0x30, flag(4, 0xff))))), nil},
		{"only some reasons", edit(extend(idp(tlv(0x83, []byte{6, 0x40})))), nil},
		{"only some reasons: none", edit(extend(idp(tlv(0x83, []byte{0})))), crl.ErrUnusable},
		{"only some reasons: unused", edit(extend(idp(tlv(0x83, []byte{7, 0x80})))), crl.ErrUnusable},
		{"only some reasons: malformed", edit(extend(idp(tlv(0x83, []byte{8, 0x40})))), crl.ErrMalformed},
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
				_, ok := l.Lookup(numbered(ca, 7))
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
		require.False(t, l.SignedBy(other.Certificate), "same name, another key")
		require.False(t, l.SignedBy(nil))
		renamed := newCA(t, testpki.Options{CommonName: "Acme CA 2", Key: ca.Key})
		require.False(t, l.SignedBy(renamed.Certificate), "same key, another name")
	})
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
		requireCovers(t, parsed, cert)
		_, ok := parsed.Lookup(cert)
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
		requireNotCovers(t, new(crl.List), cert)
		requireNotCovers(t, new(crl.List), new(x509.Certificate))
		_, ok := new(crl.List).Lookup(cert)
		require.False(t, ok)
		require.Zero(t, new(crl.List).Len())
		require.Positive(t, new(crl.List).Size())
		require.False(t, new(crl.List).SignedBy(ca.Certificate))
	})
}

// A delta, an indirect list, one for some reasons only or with an unknown
// critical extension does not say "not revoked" about a certificate that it does
// not mention, whatever crypto/x509 makes of it.
func TestThreat59_DeltaIndirectCritical(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	other := newCA(t, testpki.Options{})
	own, foreign := issue(t, ca, testpki.Options{}), issue(t, other, testpki.Options{})
	parse := func(extra pkix.Extension) (*crl.List, error) {
		der, err := ca.CRL(testpki.CRLOptions{Extra: []pkix.Extension{extra}})
		require.NoError(t, err)
		_, err = x509.ParseRevocationList(der)
		require.NoError(t, err, "crypto/x509 would take it")
		return crl.ParseAndVerify(der, ca.Certificate)
	}
	_, err := parse(pkix.Extension{Id: oidUnknown, Critical: true})
	require.ErrorIs(t, err, crl.ErrUnusable)
	l, err := parse(pkix.Extension{Id: oidDelta, Critical: true, Value: []byte{2, 1, 1}})
	require.NoError(t, err)
	requireNotCovers(t, l, own, "delta")
	l, err = parse(pkix.Extension{Id: oidIDP, Critical: true, Value: tlv(0x30, flag(4, 0xff))})
	require.NoError(t, err)
	requireNotCovers(t, l, foreign, "indirect")
	l, err = parse(pkix.Extension{Id: oidIDP, Critical: true, Value: tlv(0x30, tlv(0x83, []byte{6, 0x40}))})
	require.NoError(t, err)
	reasons, err := l.Covers(own)
	require.NoError(t, err)
	require.Equal(t, x509ext.KeyCompromise, reasons, "only some reasons")
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
