package mtls_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// rvAnswer is what a fault makes of a source.
type rvAnswer int

const (
	rvGood   rvAnswer = iota // a proper answer after all
	rvSilent                 // it did not answer
	rvWrong                  // an answer that cannot be used
	rvLate                   // one that has lapsed
	rvDenies                 // the issuer's word that it does not know the certificate
)

// rvFault is a fault and what it makes of each kind of source.
type rvFault struct {
	name      string
	fault     mtlstest.Fault
	crl, ocsp rvAnswer
	hangs     bool // whoever asks must give up
}

var rvFaults = []rvFault{
	{"no fault", mtlstest.NoFault, rvGood, rvGood, false},
	{"down", mtlstest.Down, rvSilent, rvSilent, false},
	{"hang", mtlstest.Hang, rvSilent, rvSilent, true},
	{"internal error", mtlstest.InternalError, rvSilent, rvSilent, false},
	{"not found", mtlstest.NotFound, rvSilent, rvSilent, false},
	{"HTML", mtlstest.HTML, rvWrong, rvWrong, false},
	{"empty", mtlstest.Empty, rvWrong, rvWrong, false},
	{"garbage", mtlstest.Garbage, rvWrong, rvWrong, false},
	{"truncated", mtlstest.Truncated, rvWrong, rvWrong, false},
	{"stale", mtlstest.Stale, rvLate, rvLate, false},
	{"future", mtlstest.Future, rvWrong, rvWrong, false},
	{"wrong signer", mtlstest.WrongSigner, rvWrong, rvWrong, false},
	{"try later", mtlstest.TryLater, rvGood, rvSilent, false},
	{"unauthorized", mtlstest.Unauthorized, rvGood, rvWrong, false},
	{"unknown certificate", mtlstest.UnknownCert, rvGood, rvDenies, false},
	{"wrong serial", mtlstest.WrongSerial, rvGood, rvWrong, false},
	{"no nextUpdate", mtlstest.NoNextUpdate, rvGood, rvGood, false},
	{"redirect to link-local", mtlstest.Redirect, rvWrong, rvWrong, false},
	{"drip", mtlstest.Drip, rvSilent, rvSilent, true},
	{"slow headers", mtlstest.SlowHeaders, rvSilent, rvSilent, true},
	{"gzip bomb", mtlstest.GzipBomb, rvWrong, rvWrong, false},
	{"length of 1 GiB", mtlstest.HugeLength, rvWrong, rvWrong, false},
	{"wrong usage", mtlstest.WrongUsage, rvWrong, rvWrong, false},
	{"other issuer", mtlstest.OtherIssuer, rvWrong, rvWrong, false},
	{"wrong shard", mtlstest.WrongShard, rvWrong, rvGood, false},
	{"older", mtlstest.Older, rvGood, rvGood, false},
	{"expired responder", mtlstest.ExpiredResponder, rvGood, rvWrong, false},
	{"no nonce", mtlstest.NoNonce, rvGood, rvGood, false},
	{"SHA-256 only", mtlstest.SHA256Only, rvGood, rvGood, false},
}

// rvModes are settings, and what each admits beside what is good.
var rvModes = []struct {
	name         string
	r            mtls.Revocation
	silent, late bool
}{
	{"Require", mtls.Revocation{}, false, false},
	{"SoftFail unknown", mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{mtls.ReasonRevocationUnknown}}, true, false},
	{"SoftFail missing", mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{mtls.ReasonRevocationSourceMissing}}, false, false},
	{"SoftFail both", mtls.Revocation{Mode: mtls.SoftFail, SoftFail: []mtls.Reason{mtls.ReasonRevocationUnknown, mtls.ReasonRevocationSourceMissing}}, true, false},
	{"Grace", mtls.Revocation{Grace: 72 * time.Hour}, false, true},
	{"Grace too short", mtls.Revocation{Grace: 23 * time.Hour}, false, false},
}

// rvSources are ways to name sources, and which of them have the fault.
var rvSources = []struct {
	name      string
	sources   mtlstest.Sources
	crl, ocsp bool
}{
	{"CRL", mtlstest.OnlyCRL, true, false},
	{"OCSP", mtlstest.OnlyOCSP, false, true},
	{"both", mtlstest.CRLAndOCSP, true, true},
	{"CRL of two", mtlstest.CRLAndOCSP, true, false},
	{"OCSP of two", mtlstest.CRLAndOCSP, false, true},
}

// rvWant is what must come of the answers of a certificate's sources.
func rvWant(answers []rvAnswer, silentOK, lateOK bool) string {
	has := func(a rvAnswer) bool {
		for _, b := range answers {
			if a == b {
				return true
			}
		}
		return false
	}
	switch {
	case has(rvDenies):
	case has(rvLate) && lateOK:
		return "late" // whatever else there is, the operator learns of it
	case has(rvGood):
		return "pass"
	case has(rvSilent) && !has(rvWrong) && !has(rvLate) && silentOK:
		return "tolerated"
	}
	return "revocation_unknown"
}

// rvWorld is one guard, its clients and what it says of them.
type rvWorld struct {
	env    *mtlstest.Env
	guard  *mtls.Guard
	seen   *observer
	log    *logBuffer
	server *mtlstest.Server
	client *http.Client
}

func rvConfig(env *mtlstest.Env, r mtls.Revocation, hangs bool) mtls.Config {
	cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
	r.AllowNetworks = mtlstest.Loopback()
	cfg.Revocation = &r
	cfg.Limits.Wait = time.Minute // a slow machine is no silent source
	if hangs {
		cfg.Limits.Wait = 25 * time.Millisecond
	}
	return cfg
}

func rvServe(t *testing.T, env *mtlstest.Env, cfg mtls.Config, cert *mtlstest.Certificate) *rvWorld {
	t.Helper()
	w := &rvWorld{env: env, seen: &observer{}, log: &logBuffer{}}
	cfg.Observe = w.seen.observe
	cfg.Logger = slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.guard = mtlstest.NewGuard(t, cfg)
	w.server = mtlstest.NewServer(t, w.guard, hello)
	w.client = w.server.Client(cert, mtlstest.ClientOptions{})
	return w
}

// says asks and tells what was decided, having looked whether answer, decision and
// log agree.
func (w *rvWorld) says(t *testing.T) string {
	t.Helper()
	r, err := get(w.client, w.server.URL)
	d := w.seen.last()
	if err != nil && d.Handshake && d.Reason == mtls.ReasonRevoked {
		return "revoked" // memory knows by now
	}
	require.NoError(t, err)
	if !d.Admitted {
		require.Equal(t, string(d.Reason), r.Code)
		require.False(t, d.Tolerated() || d.Late())
		return r.Code
	}
	require.Equal(t, 200, r.Status, r.Body)
	var step mtls.Step
	for _, s := range d.Steps {
		if s.Name == "revocation" {
			step = s
		}
	}
	good := 0
	for _, p := range step.Proofs {
		require.Equal(t, "good", p.Status)
		good++
	}
	line := lineWith(w.log.String(), d.ID)
	switch {
	case d.Tolerated():
		require.Equal(t, mtls.OutcomeTolerated, step.Outcome)
		require.Contains(t, step.Detail, "SoftFail: ")
		require.Contains(t, line, `"level":"WARN"`)
		require.Contains(t, line, "client admitted without revocation evidence (SoftFail)")
		require.LessOrEqual(t, d.Expires.Sub(d.Time), time.Minute)
		return "tolerated"
	case d.Late():
		require.Equal(t, mtls.OutcomePass, step.Outcome)
		require.Contains(t, line, `"level":"WARN"`)
		require.Contains(t, line, "past its nextUpdate (Grace)")
		return "late"
	}
	require.Equal(t, mtls.OutcomePass, step.Outcome)
	require.Contains(t, line, `"level":"DEBUG"`)
	require.Positive(t, good, "what passes has a proof")
	return "pass"
}

// settles is says once the sources that hang are given up.
func (w *rvWorld) settles(t *testing.T, want string, hangs bool) {
	t.Helper()
	if !hangs {
		require.Equal(t, want, w.says(t), w.seen.last().Steps)
		return
	}
	var got string
	require.Eventually(t, func() bool { got = w.says(t); return got == want }, time.Minute, time.Millisecond, "want %s, got %s", want, got)
}

// TestThreat36_FaultsAndModes: nothing but a fully verified answer is good, in any
// mode; SoftFail admits where sources do not answer, and nowhere else; whoever says
// revoked is heard.
func TestThreat36_FaultsAndModes(t *testing.T) {
	t.Parallel()
	for _, f := range rvFaults {
		for _, src := range rvSources {
			for _, revoked := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/revoked=%t", f.name, src.name, revoked), func(t *testing.T) {
					t.Parallel()
					env := mtlstest.NewEnv(t)
					env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
					cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: src.sources})
					if revoked {
						env.Revocation.Revoke(cert, 1)
					}
					var answers []rvAnswer
					add := func(named, faulty bool, a rvAnswer) {
						if named && faulty {
							answers = append(answers, a)
						} else if named {
							answers = append(answers, rvGood)
						}
					}
					add(src.sources != mtlstest.OnlyOCSP, src.crl, f.crl)
					add(src.sources != mtlstest.OnlyCRL, src.ocsp, f.ocsp)
					if src.crl {
						env.Revocation.FailCRL(f.fault)
					}
					if src.ocsp {
						env.Revocation.FailOCSP(f.fault)
					}
					for i, m := range rvModes {
						if revoked && i%3 > 1 {
							continue // the others differ in what they admit, not in what they refuse
						}
						want := rvWant(answers, m.silent, m.late)
						if revoked {
							want = rvRevoked(want, answers, f.fault, len(answers) == 2 && src.crl && src.ocsp)
						}
						w := rvServe(t, env, rvConfig(env, m.r, f.hangs), cert)
						w.settles(t, want, f.hangs)
						if !f.hangs {
							require.Equal(t, want, w.says(t), "%s: and again", m.name)
						}
					}
				})
			}
		}
	}
}

// rvRevoked is what must come of a revoked certificate: a proper or a lapsed
// answer says so. What was said an hour ago, of both sources or of the only one,
// does not, and nobody can tell that from a cold start.
func rvRevoked(want string, answers []rvAnswer, f mtlstest.Fault, both bool) string {
	if f == mtlstest.Older && (both || len(answers) == 1) {
		return want
	}
	for _, a := range answers {
		if a == rvGood || a == rvLate {
			return "revoked"
		}
	}
	return want
}

// TestThreat36_WholeChain: the same for the certificate of an intermediate CA, which
// LeafOnly does not look at.
func TestThreat36_WholeChain(t *testing.T) {
	t.Parallel()
	for _, f := range rvFaults {
		for _, revoked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/revoked=%t", f.name, revoked), func(t *testing.T) {
				t.Parallel()
				env := mtlstest.NewEnv(t)
				env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
				sub := env.CA.Intermediate(mtlstest.CAOptions{})
				own := mtlstest.NewRevocationServer(t, env.Clock.Now)
				own.Serve(sub)
				if revoked {
					env.Revocation.RevokeCA(sub, 5)
				}
				cert := sub.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
				env.Revocation.Fail(f.fault)
				answers := []rvAnswer{f.crl, f.ocsp}
				for _, m := range []int{0, 3, 4} {
					m := rvModes[m]
					want := rvWant(answers, m.silent, m.late)
					if revoked {
						want = rvRevoked(want, answers, f.fault, true)
					}
					w := rvServe(t, env, rvConfig(env, m.r, f.hangs), cert)
					w.settles(t, want, f.hangs)
					if d := w.seen.last(); want != "pass" && want != "late" && !f.hangs {
						require.Contains(t, lineWith(w.log.String(), d.ID), "CA certificate", "the operator learns which it was")
					}
					m.r.LeafOnly = true
					w = rvServe(t, env, rvConfig(env, m.r, false), cert)
					require.Equal(t, "pass", w.says(t), m.name)
				}
			})
		}
	}
}

// TestThreat36_TwoFaults: SoftFail admits where neither source answers, and not where
// one does and cannot be used, however long the other takes.
func TestThreat36_TwoFaults(t *testing.T) {
	t.Parallel()
	for _, crl := range rvFaults {
		for _, ocsp := range rvFaults {
			if crl.fault == ocsp.fault || crl.crl == rvGood || ocsp.ocsp == rvGood || crl.crl != rvSilent && ocsp.ocsp != rvSilent || crl.hangs && ocsp.hangs {
				continue
			}
			t.Run(crl.name+"/"+ocsp.name, func(t *testing.T) {
				t.Parallel()
				env := mtlstest.NewEnv(t)
				env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
				cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
				env.Revocation.FailCRL(crl.fault)
				env.Revocation.FailOCSP(ocsp.fault)
				cfg := rvConfig(env, rvModes[3].r, false)
				hangs := crl.hangs || ocsp.hangs
				if hangs {
					cfg.Limits.Wait = 100 * time.Millisecond
				}
				w := rvServe(t, env, cfg, cert)
				want := rvWant([]rvAnswer{crl.crl, ocsp.ocsp}, true, false)
				got := w.says(t)
				for i := 0; hangs && got != want && i < 20; i++ { // the other one was slow, too
					env.Clock.Advance(61 * time.Second)
					got = w.says(t)
				}
				require.Equal(t, want, got, w.seen.last().Steps)
			})
		}
	}
}

// TestSoftFailIsForAMinute: a tolerated admission is decided anew after a minute at
// most, and ends at once when a source answers that the certificate is revoked.
func TestSoftFailIsForAMinute(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	env.Revocation.Fail(mtlstest.Down)
	w := rvServe(t, env, rvConfig(env, rvModes[1].r, false), cert)
	require.Equal(t, "tolerated", w.says(t))
	require.Equal(t, time.Minute, w.seen.last().Expires.Sub(env.Clock.Now()))
	env.Clock.Advance(59 * time.Second)
	require.Equal(t, "tolerated", w.says(t))
	require.Equal(t, 1, w.seen.count(), "the verdict holds for its minute")
	env.Clock.Advance(2 * time.Second)
	require.Equal(t, "tolerated", w.says(t))
	require.Equal(t, 2, w.seen.count(), "and no longer")
	env.Revocation.Revoke(cert, 1)
	env.Revocation.Fail(mtlstest.NoFault)
	env.Clock.Advance(61 * time.Second)
	require.Equal(t, "revoked", w.says(t))

	// A fetch that ends after the request has stopped waiting: the verdict does not
	// outlive the answer.
	ca := rvCA(t, env.Clock)
	cert = ca.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
	list, release := ca.crl(t, nil, cert), make(chan struct{})
	url := plainServer(t, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { <-release; rw.Write(list) }))
	r := rvModes[1].r
	r.Sources = []mtls.RevocationSource{mtls.CRLURLs(url + "/ca.crl")}
	cfg := rvConfig(env, r, true)
	cfg.Roots = pcRoots(t, ca.Authority("own"))
	w = rvServe(t, env, cfg, cert)
	// The wait is short, for DNS as well.
	require.Eventually(t, func() bool { return w.says(t) == "tolerated" }, time.Minute, time.Millisecond, "nobody has answered yet")
	close(release)
	require.Eventually(t, func() bool { return w.says(t) == "revoked" }, time.Minute, time.Millisecond, "the clock stands still")
}

// TestSoftFailMissing: a certificate that names no source is tolerated under the
// reason of that name, and not under the other.
func TestSoftFailMissing(t *testing.T) {
	t.Parallel()
	for i, want := range []string{"revocation_source_missing", "revocation_source_missing", "tolerated", "tolerated", "revocation_source_missing"} {
		env := mtlstest.NewEnv(t)
		env.DNS.SetTTL("acme.example", 14*time.Minute, "127.0.0.1")
		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources})
		require.Equal(t, want, rvServe(t, env, rvConfig(env, rvModes[i].r, false), cert).says(t), rvModes[i].name)
		// With a source of the operator's that has nothing about it, it is not missing.
		r := rvModes[i].r
		r.Sources = []mtls.RevocationSource{lists{}}
		require.Equal(t, "revocation_unknown", rvServe(t, env, rvConfig(env, r, false), cert).says(t), rvModes[i].name)
	}
}

// TestToleratedIsNotEstablished: while the handshake must decide alone, because
// nothing is there to decide requests, it admits nobody whose status is unknown.
func TestToleratedIsNotEstablished(t *testing.T) {
	t.Parallel()
	env := mtlstest.NewEnv(t)
	cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}, Sources: mtlstest.NoSources})
	cfg := rvConfig(env, rvModes[3].r, false)
	cfg.Origin = mtls.NoOrigin()
	log := &logBuffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	g := mtlstest.NewGuard(t, cfg)
	err := g.VerifyConnection(peerOf(cert).TLS)
	require.ErrorContains(t, err, "neither Handler, Require nor Check")
	require.True(t, strings.Contains(log.String(), "level=WARN"))
	g.Handler(hello)
	require.NoError(t, g.VerifyConnection(peerOf(cert).TLS), "requests are decided by Handler, which says what it tolerates")
}
