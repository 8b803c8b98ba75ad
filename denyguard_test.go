package mtls_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/mtlstest"
)

// dgWorld is a root, an intermediate, a client of it, and a guard with a deny list.
type dgWorld struct {
	*mtlstest.Env
	sub    *mtlstest.CA
	cert   *mtlstest.Certificate
	list   *mtls.DenyList
	server *mtlstest.Server
	guard  *mtls.Guard
	seen   *observer
}

// dgServe makes it. The setting is given loopback; nil: NoRevocation.
func dgServe(t *testing.T, list *mtls.DenyList, r *mtls.Revocation, public bool) *dgWorld {
	t.Helper()
	w := &dgWorld{Env: mtlstest.NewEnv(t), list: list, seen: &observer{}}
	w.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	w.sub = w.CA.Intermediate(mtlstest.CAOptions{})
	w.Revocation.Serve(w.sub)
	w.cert = w.sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	cfg := w.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	if cfg.Revocation = mtls.NoRevocation(); r != nil {
		own := *r
		own.AllowNetworks = mtlstest.Loopback()
		cfg.Revocation = &own
	}
	a := w.CA.Authority("env")
	a.Public = public
	cfg.Roots, cfg.Denied, cfg.Observe = pcRoots(t, a), list, w.seen.observe
	w.guard = mtlstest.NewGuard(t, cfg)
	w.server = mtlstest.NewServer(t, w.guard, hello)
	return w
}

// forms are the ways to deny a certificate.
func dgForms(c, issuer *x509.Certificate) map[string]mtls.DeniedCertificate {
	return map[string]mtls.DeniedCertificate{
		"certificate": {Certificate: mtls.HashCertificate(c)},
		"key":         {PublicKey: mtls.HashPublicKey(c)},
		"serial":      {IssuerKey: mtls.HashPublicKey(issuer), Serial: c.SerialNumber},
	}
}

// TestDeniedAtOnce: on a live HTTP/2 connection the request after Add is refused as
// revoked, whatever evidence says or is not asked for, and admitted after Remove.
func TestDeniedAtOnce(t *testing.T) {
	t.Parallel()
	soft := mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{mtls.ReasonRevocationUnknown, mtls.ReasonRevocationSourceMissing}}
	for mode, r := range map[string]*mtls.Revocation{"NoRevocation": nil, "Require": {}, "SoftFail": &soft, "LeafOnly": {LeafOnly: true}} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := dgServe(t, denyList(t), r, false)
			if r == &soft {
				w.Revocation.Fail(mtlstest.Down)
			}
			for who, row := range map[string]struct{ c, issuer *x509.Certificate }{
				"client's":       {w.cert.Leaf(), w.sub.Certificate()},
				"intermediate's": {w.sub.Certificate(), w.CA.Certificate()},
				"anchor's":       {w.CA.Certificate(), w.CA.Certificate()},
			} {
				for form, d := range dgForms(row.c, row.issuer) {
					client := w.server.Client(w.cert, mtlstest.ClientOptions{})
					for range 2 {
						reply, _ := trace(t, client, w.server.URL)
						require.Equal(t, 200, reply.Status, reply.Body)
						require.Equal(t, "HTTP/2.0", reply.Proto)
					}
					d.Note = "stolen " + form
					require.NoError(t, w.list.Add(d))
					reply, reused := trace(t, client, w.server.URL)
					require.True(t, reused, "it must be the same connection")
					require.Equal(t, 403, reply.Status, "%s %s", who, form)
					require.Equal(t, "revoked", reply.Code)
					require.Contains(t, w.seen.last().Detail(), "stolen "+form, "the operator learns why")
					_, err := get(w.server.Client(w.cert, mtlstest.ClientOptions{}), w.server.URL)
					require.Error(t, err, "the handshake of the next connection refuses")
					require.NoError(t, w.list.Remove(mtls.DeniedCertificate{Certificate: d.Certificate, PublicKey: d.PublicKey, IssuerKey: d.IssuerKey, Serial: d.Serial}))
					require.Equal(t, 200, ask(t, w.server.Client(w.cert, mtlstest.ClientOptions{}), w.server.URL).Status, "%s %s", who, form)
				}
			}
			// Others are not concerned.
			other := w.sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
			require.NoError(t, w.list.Add(dgForms(other.Leaf(), w.sub.Certificate())["key"]))
			require.NoError(t, w.list.Add(mtls.DeniedCertificate{IssuerKey: mtls.HashPublicKey(w.CA.Certificate()), Serial: w.cert.Leaf().SerialNumber}))
			require.Equal(t, 200, ask(t, w.server.Client(w.cert, mtlstest.ClientOptions{}), w.server.URL).Status)
			_, err := get(w.server.Client(other, mtlstest.ClientOptions{}), w.server.URL)
			require.Error(t, err)
		})
	}
}

// TestDeniedInTheHandshake: of a private authority the client sees an alert; of a
// public one, whose certificates anybody can copy, the request is refused.
func TestDeniedInTheHandshake(t *testing.T) {
	t.Parallel()
	for _, public := range []bool{false, true} {
		w := dgServe(t, denyList(t), nil, public)
		require.NoError(t, w.list.Add(dgForms(w.cert.Leaf(), w.sub.Certificate())["certificate"]))
		r, err := get(w.server.Client(w.cert, mtlstest.ClientOptions{HTTP1: true, TLS: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }}), w.server.URL)
		if public {
			require.NoError(t, err)
			require.Equal(t, "revoked", r.Code)
			require.False(t, w.seen.last().Handshake)
		} else {
			require.ErrorContains(t, err, "bad certificate")
			require.True(t, w.seen.last().Handshake)
		}
		require.Equal(t, mtls.ReasonRevoked, w.seen.last().Reason)
	}
}

// TestDeniedSurvivesARestart: what was added to a file is denied by the next process,
// and what it can no longer read is an error of its start.
func TestDeniedSurvivesARestart(t *testing.T) {
	t.Parallel()
	file := writeDenyFile(t, "# nothing yet\n")
	w := dgServe(t, loadDenyList(t, file), &mtls.Revocation{}, false)
	forms := dgForms(w.cert.Leaf(), w.sub.Certificate())
	restarted := func(cert *mtlstest.Certificate) mtls.Reason {
		cfg := w.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		cfg.Denied = loadDenyList(t, file)
		return pcDecide(t, mtlstest.NewGuard(t, cfg), peerOf(cert).TLS.PeerCertificates...).Reason
	}
	require.Empty(t, restarted(w.cert))
	for form, d := range forms {
		require.NoError(t, w.list.Add(d))
		require.Equal(t, mtls.ReasonRevoked, restarted(w.cert), form)
		require.NoError(t, w.list.Remove(d))
		require.Empty(t, restarted(w.cert), form)
	}
	require.NoError(t, w.list.Add(forms["key"]))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(data, "sha256 zz\n"...), 0o600))
	_, err = mtls.LoadDenyList(file)
	require.Error(t, err)
	require.Error(t, w.list.Reload())
	require.ErrorContains(t, w.guard.Ready(), file)
	require.Equal(t, mtls.ReasonRevoked, pcDecide(t, w.guard, peerOf(w.cert).TLS.PeerCertificates...).Reason, "the state before stays")
}

// TestDenyFileIsSeen: somebody else edits the file. A request looks at it ten seconds
// after the last look by the Config's clock, and so does Run without a request.
func TestDenyFileIsSeen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "deny")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	w := dgServe(t, loadDenyList(t, file), nil, false)
	client := w.server.Client(w.cert, mtlstest.ClientOptions{})
	require.Equal(t, 200, ask(t, client, w.server.URL).Status)
	line := "sha256 " + mtls.HashCertificate(w.cert.Leaf()).String() + " # by hand\n"
	edit := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(file+".new", file))
	}
	edit(line)
	w.Clock.Advance(9 * time.Second)
	require.Equal(t, 200, ask(t, client, w.server.URL).Status, "it was looked at nine seconds ago")
	w.Clock.Advance(time.Second)
	r, reused := trace(t, client, w.server.URL)
	require.True(t, reused)
	require.Equal(t, "revoked", r.Code)

	// A clock that was set back does not stop it.
	edit("")
	for range 3 { // many editors empty a file before they write it
		w.Clock.Advance(10 * time.Second)
		pcDecide(t, w.guard, peerOf(w.cert).TLS.PeerCertificates...)
	}
	require.Empty(t, pcDecide(t, w.guard, peerOf(w.cert).TLS.PeerCertificates...).Reason)
	w.Clock.Advance(-time.Hour)
	edit(line)
	require.Equal(t, mtls.ReasonRevoked, pcDecide(t, w.guard, peerOf(w.cert).TLS.PeerCertificates...).Reason)

	// A file that is damaged: the state stays, Ready says so.
	edit("sha256 what\n")
	w.Clock.Advance(10 * time.Second)
	require.Equal(t, mtls.ReasonRevoked, pcDecide(t, w.guard, peerOf(w.cert).TLS.PeerCertificates...).Reason)
	require.ErrorContains(t, w.guard.Ready(), file)

	// Run looks at its start, without a request.
	edit("")
	fresh := loadDenyList(t, file)
	v := dgServe(t, fresh, nil, false)
	edit("key-sha256 " + mtls.HashPublicKey(v.cert.Leaf()).String() + "\n")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.guard.Run(ctx) }()
	require.Eventually(t, func() bool { return len(fresh.Entries()) == 1 }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Equal(t, mtls.ReasonRevoked, pcDecide(t, v.guard, peerOf(v.cert).TLS.PeerCertificates...).Reason)
}

// TestDeniedCACannotBeReplaced: a client of a denied CA shows another certificate of
// that CA's key, from another root. Denied by key, it stays denied; denied by
// fingerprint, that one certificate is.
func TestDeniedCACannotBeReplaced(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	sub := env.CA.Intermediate(mtlstest.CAOptions{Key: key})
	other := mtlstest.NewCA(t, mtlstest.CAOptions{Now: env.Clock.Now, Key: rootKey})
	cross, err := (&testpki.CA{Certificate: other.Certificate(), Key: rootKey}).CrossSign(
		&testpki.CA{Certificate: sub.Certificate(), Key: key}, testpki.Options{NotBefore: env.Clock.Now().Add(-time.Hour), NotAfter: env.Clock.Now().Add(time.Hour)})
	require.NoError(t, err)
	cert := sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	leaf := cert.Leaf()
	chains := map[string][]*x509.Certificate{
		"its own": {leaf, sub.Certificate()}, "the cross-certificate": {leaf, cross}, "both": {leaf, sub.Certificate(), cross}, "both, turned": {leaf, cross, sub.Certificate()},
	}
	for _, row := range []struct {
		name  string
		deny  mtls.DeniedCertificate
		wants map[string]string
	}{
		{"by key", mtls.DeniedCertificate{PublicKey: mtls.HashPublicKey(sub.Certificate())},
			map[string]string{"its own": "revoked", "the cross-certificate": "revoked", "both": "revoked", "both, turned": "revoked"}},
		{"by fingerprint", mtls.DeniedCertificate{Certificate: mtls.HashCertificate(sub.Certificate())},
			map[string]string{"its own": "revoked", "the cross-certificate": "", "both": "", "both, turned": ""}},
		{"by serial number", bySerial(env.CA.Certificate(), sub.Certificate()),
			map[string]string{"its own": "revoked", "the cross-certificate": "", "both": "", "both, turned": ""}},
		{"the root by key", mtls.DeniedCertificate{PublicKey: mtls.HashPublicKey(env.CA.Certificate())},
			map[string]string{"its own": "revoked", "the cross-certificate": "", "both": "", "both, turned": ""}},
		{"the client by key", mtls.DeniedCertificate{PublicKey: mtls.HashPublicKey(leaf)},
			map[string]string{"its own": "revoked", "the cross-certificate": "revoked", "both": "revoked", "both, turned": "revoked"}},
	} {
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		a, b := env.CA.Authority("a"), other.Authority("b")
		a.Domains, b.Domains = []string{"acme.example"}, []string{"acme.example"}
		cfg.Roots, cfg.Revocation, cfg.Denied = pcRoots(t, a, b), mtls.NoRevocation(), denyList(t, row.deny)
		g := mtlstest.NewGuard(t, cfg)
		for name, want := range row.wants {
			require.Equal(t, want, string(pcDecide(t, g, chains[name]...).Reason), "%s, %s", row.name, name)
			err := g.VerifyConnection(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: chains[name]})
			require.Equal(t, want != "", err != nil, "handshake: %s, %s", row.name, name)
		}
	}
}

// TestDeniedTwin: the client writes the signature of its certificate in the other
// way (r, n-s): the fingerprint is another, and the certificate is the same.
func TestDeniedTwin(t *testing.T) {
	t.Parallel()
	w := dgServe(t, denyList(t), nil, false)
	twin := wkTwin(t, w.cert.Leaf(), w.sub.Certificate())
	require.NoError(t, w.list.Add(mtls.DeniedCertificate{Certificate: mtls.HashCertificate(w.cert.Leaf())}))
	require.Equal(t, mtls.ReasonRevoked, pcDecide(t, w.guard, twin, w.sub.Certificate()).Reason)
}

// TestDeniedWhileDeciding: an entry that is added while a decision is under way, in a
// callback or at any other moment, is not outlived by it.
func TestDeniedWhileDeciding(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	d := mtls.DeniedCertificate{Certificate: mtls.HashCertificate(cert.Leaf())}
	base := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	for name, set := range map[string]func(*mtls.Config, func()){
		"Observe": func(c *mtls.Config, deny func()) { c.Observe = func(context.Context, *mtls.Decision) { deny() } },
		"Verify": func(c *mtls.Config, deny func()) {
			c.Verify = func(context.Context, *mtls.Identity) error { deny(); return nil }
		},
		"Accounts": func(c *mtls.Config, deny func()) {
			c.Accounts = mapperFunc(func(context.Context, *mtls.Identity) (mtls.Account, error) {
				deny()
				return mtls.Account{Name: "a"}, nil
			})
		},
	} {
		cfg := base
		cfg.Denied = denyList(t)
		set(&cfg, func() { require.NoError(t, cfg.Denied.Add(d)) })
		require.Equal(t, mtls.ReasonRevoked, pcDecide(t, mtlstest.NewGuard(t, cfg), cert.Leaf()).Reason, name)
	}

	// Many at once: nobody whose request begins after Add has returned is admitted.
	cfg := base
	cfg.Denied = denyList(t)
	g := mtlstest.NewGuard(t, cfg)
	peer := peerOf(cert)
	peer.RemoteAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	for range 30 {
		var added atomic.Bool
		var late atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for refused := 0; refused < 3; {
					before := added.Load()
					handshake := g.VerifyConnection(peer.TLS)
					got, _ := g.Check(context.Background(), peer)
					if before && (got.Admitted || handshake == nil) {
						late.Add(1)
					}
					if !got.Admitted {
						refused++
					}
				}
			})
		}
		require.NoError(t, cfg.Denied.Add(d))
		added.Store(true)
		wg.Wait()
		require.Zero(t, late.Load())
		require.NoError(t, cfg.Denied.Remove(d))
	}
}
