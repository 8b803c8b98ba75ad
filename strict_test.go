package mtls_test

import (
	"context"
	"crypto/x509"
	"math/big"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// stSay is what was decided, with what was tolerated.
func stSay(d *mtls.Decision) string {
	switch {
	case !d.Admitted:
		return string(d.Reason)
	case d.Tolerated():
		return "tolerated"
	case d.Late():
		return "late"
	}
	return "pass"
}

// TestStricterSettingOfEveryKind: an issuer that two authorities certify gets, of each
// setting, the stricter one, whichever chains the client sends and in whatever order
// the authorities are.
func TestStricterSettingOfEveryKind(t *testing.T) {
	t.Parallel()
	both := []mtls.Reason{mtls.ReasonRevocationUnknown, mtls.ReasonRevocationSourceMissing}
	soft := func(r ...mtls.Reason) mtls.Revocation { return mtls.Revocation{Mode: mtls.SoftFail, SoftFail: r} }
	for _, row := range []struct {
		name        string
		strict, lax mtls.Revocation
		sources     mtlstest.Sources
		fault       mtlstest.Fault
		want, alone string // with the strict one anywhere, and with the lax one only
	}{
		{"SoftFail and Require", mtls.Revocation{}, soft(both...), mtlstest.CRLAndOCSP, mtlstest.Down, "revocation_unknown", "tolerated"},
		{"SoftFail for other reasons", soft(mtls.ReasonRevocationSourceMissing), soft(mtls.ReasonRevocationUnknown), mtlstest.CRLAndOCSP, mtlstest.Down, "revocation_unknown", "tolerated"},
		{"SoftFail for a missing source", mtls.Revocation{}, soft(both...), mtlstest.NoSources, mtlstest.NoFault, "revocation_source_missing", "tolerated"},
		{"Grace and none", mtls.Revocation{}, mtls.Revocation{Grace: 72 * time.Hour}, mtlstest.CRLAndOCSP, mtlstest.Stale, "revocation_unknown", "late"},
		{"less Grace", mtls.Revocation{Grace: 23 * time.Hour}, mtls.Revocation{Grace: 72 * time.Hour}, mtlstest.CRLAndOCSP, mtlstest.Stale, "revocation_unknown", "late"},
		{"less MaxAge", mtls.Revocation{MaxAge: 30 * time.Minute}, mtls.Revocation{}, mtlstest.CRLAndOCSP, mtlstest.Older, "revocation_unknown", "pass"},
		{"OCSPNonce", mtls.Revocation{OCSPNonce: true}, mtls.Revocation{}, mtlstest.OnlyOCSP, mtlstest.NoNonce, "revocation_unknown", "pass"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			x := pcNewCross(t)
			server := mtlstest.NewRevocationServer(t, x.env.Clock.Now)
			server.Serve(x.viaA) // X's clients name this one, X's own certificates another
			x.client = x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: row.sources})
			server.Fail(row.fault)
			decide := func(a, b mtls.Revocation, chain []*x509.Certificate) string {
				a.AllowNetworks, b.AllowNetworks = mtlstest.Loopback(), mtlstest.Loopback()
				x.a.Revocation, x.b.Revocation = &a, &b
				first := stSay(pcDecide(t, x.guard(t, x.a, x.b), chain...))
				require.Equal(t, first, stSay(pcDecide(t, x.guard(t, x.b, x.a), chain...)), "the other order")
				return first
			}
			for _, chain := range x.both() {
				require.Equal(t, row.want, decide(row.strict, row.strict, chain), "both strict")
				require.Equal(t, row.want, decide(row.strict, row.lax, chain), "a is strict")
				require.Equal(t, row.want, decide(row.lax, row.strict, chain), "b is strict")
				require.Equal(t, row.alone, decide(row.lax, row.lax, chain), "both lax")
			}
		})
	}
}

// stCross is a pcCross whose issuer has a key that the test knows, for lists of its
// own.
func stCross(t *testing.T) (*pcCross, *testpki.CA) {
	t.Helper()
	x := pcNewCross(t)
	x.client = x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources})
	return x, &testpki.CA{Certificate: x.viaA.Certificate(), Key: x.options.Key}
}

func stList(t *testing.T, x *pcCross, ca *testpki.CA, number int64, version1 bool, revoked ...*x509.Certificate) *rvCounter {
	t.Helper()
	o := testpki.CRLOptions{Number: big.NewInt(number), Version1: version1,
		ThisUpdate: x.env.Clock.Now().Add(time.Duration(number) * time.Second).Add(-time.Hour), NextUpdate: x.env.Clock.Now().Add(24 * time.Hour)}
	for _, c := range revoked {
		o.Entries = append(o.Entries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: o.ThisUpdate})
	}
	der, err := ca.CRL(o)
	require.NoError(t, err)
	return &rvCounter{body: der}
}

// TestVersion1IsAllowedByAllOrNot: of two authorities both must allow such lists.
func TestVersion1IsAllowedByAllOrNot(t *testing.T) {
	t.Parallel()
	x, ca := stCross(t)
	url := plainServer(t, stList(t, x, ca, 1, true))
	for _, row := range []struct {
		a, b bool
		want string
	}{{false, false, "revocation_unknown"}, {true, false, "revocation_unknown"}, {false, true, "revocation_unknown"}, {true, true, "pass"}} {
		setting := func(allow bool) *mtls.Revocation {
			return &mtls.Revocation{AllowVersion1: allow, AllowNetworks: mtlstest.Loopback(), Sources: []mtls.RevocationSource{mtls.CRLURLs(url + "/v1.crl")}}
		}
		x.a.Revocation, x.b.Revocation = setting(row.a), setting(row.b)
		for _, chain := range x.both() {
			require.Equal(t, row.want, stSay(pcDecide(t, x.guard(t, x.a, x.b), chain...)), row)
			require.Equal(t, row.want, stSay(pcDecide(t, x.guard(t, x.b, x.a), chain...)), row)
		}
	}
}

// TestSourcesOfAllAuthoritiesAreAsked: a revocation that only the sources of the
// other authority have, or of one that itself would not look, refuses.
func TestSourcesOfAllAuthoritiesAreAsked(t *testing.T) {
	t.Parallel()
	x, ca := stCross(t)
	good := stList(t, x, ca, 1, false)
	bad := stList(t, x, ca, 2, false, x.client.Leaf())
	goodURL, badURL := plainServer(t, good)+"/good.crl", plainServer(t, bad)+"/bad.crl"
	setting := func(urls ...string) *mtls.Revocation {
		r := &mtls.Revocation{AllowNetworks: mtlstest.Loopback()}
		if len(urls) > 0 {
			r.Sources = []mtls.RevocationSource{mtls.CRLURLs(urls...)}
		}
		return r
	}
	for name, row := range map[string]struct {
		a, b *mtls.Revocation
		want string
	}{
		"both good":                   {setting(goodURL), setting(goodURL), "pass"},
		"a's says revoked":            {setting(badURL), setting(goodURL), "revoked"},
		"b's says revoked":            {setting(goodURL), setting(badURL), "revoked"},
		"a has none":                  {setting(), setting(badURL), "revoked"},
		"b has none":                  {setting(goodURL), setting(), "pass"},
		"a alone looks":               {setting(badURL), mtls.NoRevocation(), "revoked"},
		"b alone looks":               {mtls.NoRevocation(), setting(badURL), "revoked"},
		"b alone looks, and has none": {mtls.NoRevocation(), setting(), "revocation_source_missing"},
		"one of two":                  {setting(goodURL, badURL), setting(goodURL), "revoked"},
	} {
		x.a.Revocation, x.b.Revocation = row.a, row.b
		for _, chain := range x.both() {
			require.Equal(t, row.want, stSay(pcDecide(t, x.guard(t, x.a, x.b), chain...)), name)
			require.Equal(t, row.want, stSay(pcDecide(t, x.guard(t, x.b, x.a), chain...)), name)
		}
	}
	require.Positive(t, good.asked.Load())

	// Where a has no chain of its own, because of its purpose.
	y := *x
	y.b.Purpose = mtls.ClientOrServerAuth
	y.client = x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	only := stList(t, x, ca, 3, false, y.client.Leaf())
	y.a.Revocation, y.b.Revocation = setting(plainServer(t, only)+"/a.crl"), setting(goodURL)
	for _, chain := range y.both() {
		require.Equal(t, "revoked", stSay(pcDecide(t, y.guard(t, y.a, y.b), chain...)))
	}

	// An authority that does not look takes nothing from one that does.
	x.env.Revocation.Fail(mtlstest.Stale)
	late := x.viaA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	x.a.Revocation, x.b.Revocation = &mtls.Revocation{Grace: 72 * time.Hour, AllowNetworks: mtlstest.Loopback()}, mtls.NoRevocation()
	require.Equal(t, "late", stSay(pcDecide(t, x.guard(t, x.a, x.b), late.Leaf(), x.viaA.Certificate())))
	require.Equal(t, "late", stSay(pcDecide(t, x.guard(t, x.b, x.a), late.Leaf(), x.viaA.Certificate(), x.viaB.Certificate())))
	x.env.Revocation.Fail(mtlstest.NoFault)

	// Prefetch asks for each authority what it names itself, without a client.
	x.a.Anchors = []mtls.Anchor{{Certificate: x.viaA.Certificate()}}
	x.a.Revocation, x.b.Revocation = setting(goodURL), mtls.NoRevocation()
	before := good.asked.Load()
	g := x.guard(t, x.a, x.b)
	pfRun(t, g)
	require.Eventually(t, func() bool { return good.asked.Load() > before }, time.Minute, time.Millisecond)
}

// TestReloadKeepsEvidence: authorities that are given again with the same sources
// find what was fetched.
func TestReloadKeepsEvidence(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	list := &rvCounter{body: o.ca.crl(t, nil)}
	a := o.ca.Authority("own")
	own := &stOwn{}
	a.Revocation = &mtls.Revocation{Sources: []mtls.RevocationSource{mtls.CRLURLs(plainServer(t, http.Handler(list)) + "/ca.crl"), own,
		fgNew(t, map[string][]byte{"ca.crl": list.body}, o).crls}}
	cfg := rvConfig(o.Env, mtls.Revocation{}, false)
	cfg.Roots = pcRoots(t, a)
	g := mtlstest.NewGuard(t, cfg)
	cert := o.leaf()
	require.Empty(t, fgReason(t, g, cert))
	asked, rows := own.asked.Load(), len(g.EvidenceStatus())
	require.NoError(t, cfg.Roots.Replace(a))
	require.Empty(t, fgReason(t, g, cert))
	require.EqualValues(t, 1, list.asked.Load())
	require.Equal(t, asked, own.asked.Load())
	require.Len(t, g.EvidenceStatus(), rows)
}

// stOwn is a source that has nothing.
type stOwn struct{ asked atomic.Int32 }

func (s *stOwn) Evidence(context.Context, *x509.Certificate, *x509.Certificate) (mtls.Evidence, error) {
	s.asked.Add(1)
	return mtls.Evidence{}, nil
}
