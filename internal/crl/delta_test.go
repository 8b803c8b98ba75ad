package crl_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

func parseWith(t testing.TB, ca *testpki.CA, edit func(*list)) *crl.List {
	t.Helper()
	l := sound(ca)
	edit(&l)
	parsed, err := crl.ParseAndVerify(l.sign(t, ca.Key), ca.Certificate)
	require.NoError(t, err)
	return parsed
}

func withExtensions(e ...[]byte) func(*list) { return func(l *list) { l.extensions = e } }

// TestUsableWith changes one thing about a base of number 5 and a delta from 4 to
// 7 (RFC 5280 sections 5.2.4 and 6.3.3 (c)).
func TestUsableWith(t *testing.T) {
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	rekeyed := newCA(t, testpki.Options{CommonName: "Acme CA"})
	renamed := newCA(t, testpki.Options{CommonName: "Acme CA 2", Key: ca.Key})
	a, b := idp(fullName(uri("http://a"))), idp(fullName(uri("http://b")))
	base := parseWith(t, ca, withExtensions(number(5)))
	changes := parseWith(t, ca, withExtensions(number(7), delta(4)))
	require.True(t, changes.Delta())
	require.Equal(t, int64(4), changes.BaseNumber.Int64())
	for _, test := range []struct {
		name        string
		delta, base *crl.List
		ok          bool
	}{
		{"sound", changes, base, true},
		{"base has the number that the delta starts from", parseWith(t, ca, withExtensions(number(7), delta(5))), base, true},
		{"base is older than that", parseWith(t, ca, withExtensions(number(7), delta(6))), base, false},
		{"base is just older than the delta", parseWith(t, ca, withExtensions(number(6), delta(4))), base, true},
		{"base has the delta's number", parseWith(t, ca, withExtensions(number(5), delta(4))), base, false},
		{"base is newer than the delta", parseWith(t, ca, withExtensions(number(4), delta(3))), base, false},
		{"base without a number", changes, parseWith(t, ca, withExtensions(authorityKey(ca.Certificate.SubjectKeyId))), false},
		{"base of version 1", changes, parseWith(t, ca, func(l *list) { l.version, l.extensions = nil, nil }), false},
		{"not a delta", parseWith(t, ca, withExtensions(number(7))), base, false},
		{"base is a delta", changes, parseWith(t, ca, withExtensions(number(5), delta(4))), false},
		{"no base", changes, nil, false},
		{"the zero List", changes, new(crl.List), false},
		{"the zero List as delta", new(crl.List), base, false},
		{"another key under the same name", changes, parseWith(t, rekeyed, withExtensions(number(5))), false},
		{"another name of the same key", changes, parseWith(t, renamed, withExtensions(number(5))), false},
		{"same IDP", parseWith(t, ca, withExtensions(number(7), delta(4), a)), parseWith(t, ca, withExtensions(number(5), a)), true},
		{"other IDP", parseWith(t, ca, withExtensions(number(7), delta(4), a)), parseWith(t, ca, withExtensions(number(5), b)), false},
		{"IDP in the delta only", parseWith(t, ca, withExtensions(number(7), delta(4), a)), base, false},
		{"IDP in the base only", changes, parseWith(t, ca, withExtensions(number(5), a)), false},
		{"empty IDP in the base only", changes, parseWith(t, ca, withExtensions(number(5), idp())), false},
		{"same meaning of the IDP in other octets", parseWith(t, ca, withExtensions(number(7), delta(4), idp())), parseWith(t, ca, withExtensions(number(5), idp(flag(1, 0)))), false},
		{"other reasons", parseWith(t, ca, withExtensions(number(7), delta(4), idp(onlyReasons(6, 0x40)))), parseWith(t, ca, withExtensions(number(5), idp(onlyReasons(5, 0x20)))), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.delta.UsableWith(test.base)
			if test.ok {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, crl.ErrBase)
		})
	}
}

func TestDeltaEntries(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	l := parseWith(t, ca, func(l *list) {
		l.extensions = [][]byte{number(7), delta(5)}
		l.revoked = tlv(0x30, entry(1, reason(8)), entry(2, reason(1)), entry(3, reason(8)), entry(3, reason(6)))
	})
	e, ok := l.Lookup(numbered(ca, 1))
	require.True(t, ok)
	require.Equal(t, crl.Entry{Reason: 8, HasReason: true, Date: testpki.Epoch.Add(-48 * time.Hour)}, e)
	e, ok = l.Lookup(numbered(ca, 2))
	require.True(t, ok)
	require.Equal(t, 1, e.Reason)
	e, ok = l.Lookup(numbered(ca, 3))
	require.True(t, ok)
	require.Equal(t, 6, e.Reason, "taken back and revoked: revoked")
	_, ok = l.Lookup(numbered(ca, 4))
	require.False(t, ok)
	for serial := range int64(5) {
		requireNotCovers(t, l, numbered(ca, serial))
	}
}

func TestFreshest(t *testing.T) {
	ca := newCA(t, testpki.Options{})
	l := parseWith(t, ca, withExtensions(number(5), freshest(
		point(fullName(uri("http://a"), uri("http://b"))), point(fullName(uri("http://c")), pointReasons(6, 0x40)))))
	require.Equal(t, []x509ext.DistributionPoint{
		{HasName: true, URIs: []string{"http://a", "http://b"}, Reasons: x509ext.AllReasons},
		{HasName: true, URIs: []string{"http://c"}, Reasons: x509ext.KeyCompromise, HasReasons: true},
	}, l.Freshest)
	requireCovers(t, l, issue(t, ca, testpki.Options{}), "it is complete as it is")
	require.Greater(t, l.Size(), parse(t, ca).Size())
}

// Lists with one ScopeID replace each other.
func TestScopeID(t *testing.T) {
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	first := parseWith(t, ca, withExtensions(number(5)))
	require.Equal(t, first.ScopeID(), parseWith(t, ca, func(l *list) {
		l.extensions = [][]byte{number(6), freshest(point(fullName(uri("http://a"))))}
		l.thisUpdate, l.revoked = utcTime(testpki.Epoch), nil
	}).ScopeID(), "a later list")
	require.Equal(t, first.ScopeID(), parseWith(t, ca, func(l *list) { l.version, l.extensions = nil, nil }).ScopeID(),
		"version 1 is no way around")
	seen := map[[32]byte]string{first.ScopeID(): "first"}
	for name, l := range map[string]*crl.List{
		"another key":   parseWith(t, newCA(t, testpki.Options{CommonName: "Acme CA"}), withExtensions(number(5))),
		"another name":  parseWith(t, newCA(t, testpki.Options{CommonName: "Acme CA 2", Key: ca.Key}), withExtensions(number(5))),
		"delta":         parseWith(t, ca, withExtensions(number(5), delta(4))),
		"empty IDP":     parseWith(t, ca, withExtensions(number(5), idp())),
		"IDP":           parse(t, ca, fullName(uri("http://a"))),
		"another IDP":   parse(t, ca, fullName(uri("http://b"))),
		"delta of IDP":  amend(t, ca, fullName(uri("http://a"))),
		"user":          parse(t, ca, flag(1, 0xff)),
		"the zero List": new(crl.List),
	} {
		id := l.ScopeID()
		require.Empty(t, seen[id], name)
		seen[id] = name
	}
}

func TestScopeIsToldTheOperator(t *testing.T) {
	ca := newCA(t, testpki.Options{CommonName: "Acme CA"})
	rdn := attribute("CRL1")
	long := make([]byte, 10_000)
	for i := range long {
		long[i] = '\n'
	}
	for want, l := range map[string]*crl.List{
		`all certificates`:                                             parseWith(t, ca, withExtensions(number(5))),
		`user certificates`:                                            parse(t, ca, flag(1, 0xff)),
		`CA certificates at "http://a"`:                                parse(t, ca, fullName(uri("http://a")), flag(2, 0xff)),
		`certificates at "http://a" and 2 more`:                        parse(t, ca, fullName(uri("http://a"), uri("http://b"), directory(ca.Certificate.RawSubject))),
		`delta of all certificates`:                                    amend(t, ca),
		`delta of user certificates`:                                   amend(t, ca, flag(1, 0xff)),
		`indirect, all certificates`:                                   parse(t, ca, flag(4, 0xff)),
		`all certificates, some reasons (keyCompromise, cACompromise)`: parse(t, ca, onlyReasons(5, 0x60)),
		`certificates at "CN=Acme CA"`:                                 parse(t, ca, fullName(directory(tlv(0x30, tlv(0x31, attribute("Acme CA")))))),
		`certificates at a name that cannot be read`:                   parse(t, ca, fullName(directory(tlv(0x30, []byte{5, 0})))),
		`certificates at a name of a kind that is not compared`:        parse(t, ca, fullName(tlv(0x82, []byte("a")))),
	} {
		require.Equal(t, want, l.Scope())
	}
	require.Contains(t, parse(t, ca, relative(rdn)).Scope(), "CRL1")
	got := parse(t, ca, fullName(uri(string(long)))).Scope()
	require.Less(t, len(got), 600)
	require.NotContains(t, got, "\n")
}
