package mtls_test

import (
	"context"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// fgWorld is a guard whose evidence comes from files.
type fgWorld struct {
	*rvOwn
	dir  string
	crls *mtls.CRLFiles
}

func fgNew(t *testing.T, lists map[string][]byte, o *rvOwn) *fgWorld {
	t.Helper()
	w := &fgWorld{rvOwn: o, dir: t.TempDir()}
	for name, data := range lists {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, name), data, 0o600))
	}
	w.crls = loadCRLs(t, w.dir)
	return w
}

func (w *fgWorld) setting(mirrors ...mtls.Mirror) mtls.Revocation {
	return mtls.Revocation{Sources: []mtls.RevocationSource{w.crls}, Mirrors: mirrors}
}

// guard returns a guard of the world, without a server.
func (w *fgWorld) guard(t *testing.T, r mtls.Revocation) *mtls.Guard {
	t.Helper()
	cfg := rvConfig(w.Env, mtls.Revocation{}, false)
	cfg.Revocation, cfg.Roots = &r, pcRoots(t, w.ca.Authority("own"))
	return mtlstest.NewGuard(t, cfg)
}

func fgReason(t *testing.T, g *mtls.Guard, c *mtlstest.Certificate) string {
	t.Helper()
	return string(pcDecide(t, g, peerOf(c).TLS.PeerCertificates...).Reason)
}

func fgExtension(t *testing.T, e pkix.Extension, err error) []pkix.Extension {
	t.Helper()
	require.NoError(t, err)
	return []pkix.Extension{e}
}

// TestAirGapped: without any network, lists in files admit and refuse, whether
// certificates name no list, one that is never asked, or one that does not answer.
func TestAirGapped(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	gone := plainServer(t, nil) // nothing is found there
	nowhere := mtls.Mirror{From: "http://crl.example/", To: ""}
	type certs struct{ good, revoked *mtlstest.Certificate }
	issue := func(at ...string) certs { return certs{o.leaf(at...), o.leaf(at...)} }
	kinds := map[string]certs{
		"no pointer": issue(), "never asked": issue("http://crl.example/ca.crl"), "not allowed": issue(gone + "/ca.crl"),
	}
	var revoked []*mtlstest.Certificate
	for _, c := range kinds {
		revoked = append(revoked, c.revoked)
	}
	w := fgNew(t, map[string][]byte{"ca.crl": o.ca.crl(t, nil, revoked...)}, o)
	for name, c := range kinds {
		v := w.serve(t, w.setting(nowhere), c.good)
		require.Equal(t, "pass", v.says(t), name)
		require.Contains(t, lineWith(v.log.String(), v.seen.last().ID), "CRL files", name)
		require.Equal(t, "revoked", w.serve(t, w.setting(nowhere), c.revoked).says(t), name)
		require.NotEqual(t, "pass", w.serve(t, mtls.Revocation{Mirrors: []mtls.Mirror{nowhere}}, c.good).says(t), "%s: without the files", name)
	}
}

// TestNewFileRevokesOnALiveConnection, with Run, and without it from the decision
// after the next.
func TestNewFileRevokesOnALiveConnection(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	cert := o.leaf()
	w := fgNew(t, map[string][]byte{"ca.crl": o.ca.crl(t, nil)}, o)
	cfg := rvConfig(w.Env, mtls.Revocation{}, false)
	r := w.setting()
	cfg.Revocation, cfg.Roots = &r, pcRoots(t, o.ca.Authority("own"))
	g := mtlstest.NewGuard(t, cfg)
	s := mtlstest.NewServer(t, g, hello)
	client := s.Client(cert, mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, client, s.URL).Status)
	rvRename(t, filepath.Join(w.dir, "ca.crl"), o.ca.crl(t, nil, cert))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	o.Clock.Advance(10 * time.Second)
	require.Equal(t, 200, ask(t, client, s.URL).Status, "the file is new, and nobody has looked")
	go func() { done <- g.Run(ctx) }()
	require.Eventually(t, func() bool {
		r, reused := trace(t, client, s.URL)
		require.True(t, reused)
		return r.Code == "revoked"
	}, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	// Without Run a decision meets the file that is due.
	cert = o.leaf()
	g = w.guard(t, w.setting())
	require.Empty(t, fgReason(t, g, cert))
	rvRename(t, filepath.Join(w.dir, "ca.crl"), o.ca.crl(t, nil, cert))
	o.Clock.Advance(5*time.Minute + time.Second)
	require.Eventually(t, func() bool { return fgReason(t, g, cert) == "revoked" }, time.Minute, time.Millisecond)

	// Refresh is at once.
	cert = o.leaf()
	g = w.guard(t, w.setting())
	require.Empty(t, fgReason(t, g, cert))
	rvRename(t, filepath.Join(w.dir, "ca.crl"), o.ca.crl(t, nil, cert))
	require.NoError(t, g.Refresh(t.Context()))
	require.Equal(t, "revoked", fgReason(t, g, cert))
}

// TestBrokenFileKeepsTheOld: what was held counts until it lapses, Ready is an error,
// and a sound file ends that.
func TestBrokenFileKeepsTheOld(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"empty":     func([]byte) []byte { return nil },
		"HTML":      func([]byte) []byte { return []byte("<html>404</html>") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := rvOwnEnv(t)
			good, revoked := o.leaf(), o.leaf()
			list := o.ca.crl(t, nil, revoked)
			w := fgNew(t, map[string][]byte{"ca.crl": list}, o)
			g := w.guard(t, w.setting())
			check := func(want string) {
				t.Helper()
				require.Equal(t, want, fgReason(t, g, good))
				require.Equal(t, "revoked", fgReason(t, g, revoked))
			}
			check("")
			require.NoError(t, g.Ready())
			rvRename(t, filepath.Join(w.dir, "ca.crl"), broken(list))
			_ = g.Refresh(t.Context())
			require.ErrorContains(t, g.Ready(), filepath.Join(w.dir, "ca.crl"))
			check("")
			o.Clock.Advance(24*time.Hour + 10*time.Second)
			check("revocation_unknown")
			rvRename(t, filepath.Join(w.dir, "ca.crl"), o.ca.crl(t, nil, revoked))
			_ = g.Refresh(t.Context())
			require.NoError(t, g.Ready())
			check("")
		})
	}
}

// TestBrokenFileDoesNotHideAnother: of two files with lists of one CA one is damaged
// and the other has a new revocation: it counts, and so does what the damaged one
// held.
func TestBrokenFileDoesNotHideAnother(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	a, b := "http://crl.example/a.crl", "http://crl.example/b.crl"
	shard := func(uri string, revoked ...*mtlstest.Certificate) []byte {
		e, err := testpki.IssuingDistributionPoint(false, false, uri)
		return o.ca.crl(t, fgExtension(t, e, err), revoked...)
	}
	inA, inB, revokedB := o.leaf(a), o.leaf(b), o.leaf(b)
	w := fgNew(t, map[string][]byte{"a.crl": shard(a), "b.crl": shard(b, revokedB)}, o)
	cfg := rvConfig(w.Env, mtls.Revocation{}, false)
	r, seen := w.setting(mtls.Mirror{From: "http://crl.example/", To: ""}), &observer{}
	cfg.Revocation, cfg.Roots, cfg.Observe = &r, pcRoots(t, o.ca.Authority("own")), seen.observe
	g := mtlstest.NewGuard(t, cfg)
	require.Empty(t, fgReason(t, g, inA))
	require.Empty(t, fgReason(t, g, inB))
	rvRename(t, filepath.Join(w.dir, "b.crl"), []byte("damaged"))
	rvRename(t, filepath.Join(w.dir, "a.crl"), shard(a, inA))
	_ = g.Refresh(t.Context())
	require.ErrorContains(t, g.Ready(), "b.crl")
	require.Equal(t, "revoked", fgReason(t, g, inA), "the sound file is new")
	require.Empty(t, fgReason(t, g, inB), "the damaged one counts as it was")
	require.Equal(t, "revoked", fgReason(t, g, revokedB))
	n := seen.count()
	_ = g.Refresh(t.Context())
	require.Empty(t, fgReason(t, g, inB))
	require.Equal(t, n, seen.count(), "nothing new was read: the verdict holds")
	rvRename(t, filepath.Join(w.dir, "b.crl"), shard(b, revokedB, inB))
	require.NoError(t, g.Refresh(t.Context()))
	require.NoError(t, g.Ready())
	require.Equal(t, "revoked", fgReason(t, g, inB))
}

// TestRemovedFile: of several files the one that is removed counts no more. When
// none is left that speaks about a CA, its status says so, and what was held counts
// until it lapses.
func TestRemovedFile(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	a, b := "http://crl.example/a.crl", "http://crl.example/b.crl"
	shard := func(uri string) []byte {
		e, err := testpki.IssuingDistributionPoint(false, false, uri)
		return o.ca.crl(t, fgExtension(t, e, err))
	}
	inA, inB := o.leaf(a), o.leaf(b)
	w := fgNew(t, map[string][]byte{"a.crl": shard(a), "b.crl": shard(b)}, o)
	g := w.guard(t, w.setting(mtls.Mirror{From: "http://crl.example/", To: ""}))
	require.Empty(t, fgReason(t, g, inA))
	require.Empty(t, fgReason(t, g, inB))
	require.NoError(t, os.Remove(filepath.Join(w.dir, "b.crl")))
	require.NoError(t, g.Refresh(t.Context()))
	require.NoError(t, g.Ready())
	require.Empty(t, fgReason(t, g, inA))
	require.Equal(t, "revocation_unknown", fgReason(t, g, inB))
	require.NoError(t, os.Remove(filepath.Join(w.dir, "a.crl")))
	require.Error(t, g.Refresh(t.Context()))
	require.Empty(t, fgReason(t, g, inA))
	status := g.EvidenceStatus()
	require.Len(t, status, 1)
	require.Contains(t, status[0].LastError, "it has nothing about certificates of this issuer")
	o.Clock.Advance(24*time.Hour + time.Minute)
	require.Equal(t, "revocation_unknown", fgReason(t, g, inA))
}

// TestFileOfAnotherMakesNobodyGood: a list of another CA, of the CA's name, of another
// partition, for CA certificates only, lapsed or not yet valid, is no evidence.
func TestFileOfAnotherMakesNobodyGood(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	point := "http://crl.example/1.crl"
	at, none := o.leaf(point), o.leaf()
	scope := func(caOnly bool, uris ...string) []byte {
		e, err := testpki.IssuingDistributionPoint(false, caOnly, uris...)
		return o.ca.crl(t, fgExtension(t, e, err))
	}
	signedBy := func(c *rvPKI) []byte { return c.crl(t, nil) }
	namesake := rvCA(t, o.Clock)
	ours := &testpki.CA{Certificate: o.ca.Certificate(), Key: namesake.key}
	now := o.Clock.Now()
	forged, err := ours.CRL(testpki.CRLOptions{ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)})
	require.NoError(t, err)
	lapsed, err := (&testpki.CA{Certificate: o.ca.Certificate(), Key: o.ca.key}).CRL(testpki.CRLOptions{ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(-time.Minute)})
	require.NoError(t, err)
	future, err := (&testpki.CA{Certificate: o.ca.Certificate(), Key: o.ca.key}).CRL(testpki.CRLOptions{ThisUpdate: now.Add(time.Hour), NextUpdate: now.Add(2 * time.Hour)})
	require.NoError(t, err)
	for name, row := range map[string]struct {
		list     []byte
		at, none string
	}{
		"another CA's":           {signedBy(rvCA(t, o.Clock)), "revocation_unknown", "revocation_unknown"},
		"another key's":          {forged, "revocation_unknown", "revocation_unknown"},
		"another shard":          {scope(false, "http://crl.example/2.crl"), "revocation_unknown", "revocation_unknown"},
		"its shard":              {scope(false, point), "", "revocation_unknown"},
		"one of its shard's":     {scope(false, "http://crl.example/2.crl", point), "", "revocation_unknown"},
		"CA certificates only":   {scope(true), "revocation_unknown", "revocation_unknown"},
		"its shard, for CAs":     {scope(true, point), "revocation_unknown", "revocation_unknown"},
		"lapsed":                 {lapsed, "revocation_unknown", "revocation_unknown"},
		"not yet valid":          {future, "revocation_unknown", "revocation_unknown"},
		"all of its certificate": {o.ca.crl(t, nil), "", ""},
	} {
		w := fgNew(t, map[string][]byte{"x.crl": row.list}, o)
		for _, soft := range []bool{false, true} {
			r := w.setting(mtls.Mirror{From: "http://crl.example/", To: ""})
			if soft {
				r.Mode, r.SoftFail = rvModes[3].r.Mode, rvModes[3].r.SoftFail
			}
			g := w.guard(t, r)
			require.Equal(t, row.at, fgReason(t, g, at), "%s, soft=%t", name, soft)
			require.Equal(t, row.none, fgReason(t, g, none), "%s, soft=%t, no pointer", name, soft)
		}
		// Besides others it harms nobody.
		w = fgNew(t, map[string][]byte{"x.crl": row.list, "ca.pem": rvPEM(o.ca.crl(t, nil))}, o)
		g := w.guard(t, w.setting())
		require.Empty(t, fgReason(t, g, none), name)
		require.Equal(t, !strings.Contains(name, "key's"), g.Refresh(t.Context()) == nil || name == "lapsed" || name == "not yet valid", name)
	}
}

// TestOlderFileIsNoNews: the list of a CA is replaced by an older one, which
// is still current: what the newer one said still counts.
func TestOlderFileIsNoNews(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	good, revoked := o.leaf(), o.leaf()
	old := o.ca.crl(t, nil)
	w := fgNew(t, map[string][]byte{"ca.crl": o.ca.crl(t, nil, revoked)}, o)
	g := w.guard(t, w.setting())
	require.Empty(t, fgReason(t, g, good))
	rvRename(t, filepath.Join(w.dir, "ca.crl"), old)
	_ = g.Refresh(t.Context())
	require.Equal(t, "revoked", fgReason(t, g, revoked), "nobody asked about it before")
}

// TestReadyOfABundle: an intermediate that is an anchor itself, and names nothing, needs
// no evidence.
func TestReadyOfABundle(t *testing.T) {
	t.Parallel()
	o := rvOwnEnv(t)
	sub := o.ca.Intermediate(mtlstest.CAOptions{}) // nobody serves its issuer
	cfg := rvConfig(o.Env, mtls.Revocation{}, false)
	a := o.ca.Authority("bundle")
	a.Anchors = append(a.Anchors, mtls.Anchor{Certificate: sub.Certificate()})
	cfg.Roots = pcRoots(t, a)
	g := mtlstest.NewGuard(t, cfg)
	require.Empty(t, fgReason(t, g, sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, NotAfter: o.Clock.Now().Add(time.Hour)})))
	file := writeDenyFile(t, "")
	cfg.Denied = loadDenyList(t, file)
	g = mtlstest.NewGuard(t, cfg)
	require.NoError(t, os.WriteFile(file, []byte("damaged"), 0o600))
	pfRun(t, g)
	require.Eventually(t, func() bool { return g.Ready() != nil }, time.Minute, time.Millisecond, "it runs")
	require.NotContains(t, g.Ready().Error(), "evidence")
}

// TestRunRenewsWhatClientsName: a revocation reaches a live connection although no
// request meets the source that is due.
func TestRunRenewsWhatClientsName(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.OnlyCRL})
	w := rvServe(t, env, rvConfig(env, mtls.Revocation{MaxAge: 5 * time.Minute}, false), cert)
	require.Equal(t, "pass", w.says(t))
	env.Revocation.Revoke(cert, 1)
	env.Clock.Advance(3 * time.Minute)
	require.Equal(t, "pass", w.says(t))
	require.Equal(t, 1, w.seen.count(), "the verdict still holds")
	pfRun(t, w.guard)
	require.Eventually(t, func() bool { return w.says(t) == "revoked" }, time.Minute, time.Millisecond)
}
