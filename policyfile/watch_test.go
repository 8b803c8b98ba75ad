package policyfile_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/policyfile"
)

// policyOf is a file with a rule for each domain, named like it.
func policyOf(domains ...string) string {
	text := "version: 1\nrules:\n"
	for _, d := range domains {
		text += "  - name: " + d + "\n    domains: [" + d + "]\n"
	}
	return text
}

// watched is a file that is watched in a bubble of synctest, with a Guard that has its
// policy.
type watched struct {
	t       *testing.T
	path    string
	file    *policyfile.File
	ca      *mtlstest.CA
	roots   *mtls.Roots
	guard   *mtls.Guard
	log     bytes.Buffer
	reloads []error
}

const (
	every     = time.Minute
	waitLimit = time.Minute
	pollEvery = 10 * time.Millisecond
)

// watch runs f with a file that is watched.
func watch(t *testing.T, path string, f func(w *watched)) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	synctest.Test(t, func(t *testing.T) {
		w := &watched{t: t, path: path, ca: ca}
		var err error
		w.file, err = policyfile.Options{
			Every: every, Logger: slog.New(slog.NewTextHandler(&w.log, nil)),
			OnReload: func(err error) {
				w.file.Rules() // it may use the File
				w.reloads = append(w.reloads, err)
			},
		}.Load(path)
		require.NoError(t, err)
		w.roots, err = mtls.NewRoots(ca.Authority("p"))
		require.NoError(t, err)
		w.guard, err = mtls.New(mtls.Config{Roots: w.roots, Policy: w.file.Policy(), Revocation: mtls.NoRevocation()})
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.file.Watch(ctx) }()
		synctest.Wait()
		time.Sleep(every / 2) // between two looks
		f(w)
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}

// look lets the watcher look once.
func (w *watched) look() {
	w.file.Rules() // what was read here comes before what the watcher writes next
	time.Sleep(every)
	synctest.Wait()
}

func (w *watched) write(text string) {
	w.t.Helper()
	require.NoError(w.t, os.WriteFile(w.path, []byte(text), 0o600))
}

// names are those of the rules in force.
func (w *watched) names() string {
	var names []string
	for _, r := range w.file.Rules() {
		names = append(names, r.Name)
	}
	return strings.Join(names, " ")
}

func (w *watched) errors() int { return strings.Count(w.log.String(), "level=ERROR") }

// newFile makes a policy file in a folder of its own.
func newFile(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestWatchTakesWhatTwoLooksHaveSeen(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		w.look()
		w.write(policyOf("a.example", "b.example"))
		w.look()
		require.Equal(t, "a.example", w.names(), "seen once")
		w.look()
		require.Equal(t, "a.example b.example", w.names())
		require.Equal(t, 2, w.file.Policy().Stats().Allow)
		require.Equal(t, []error{nil}, w.reloads)
		w.look()
		w.look()
		require.Len(t, w.reloads, 1)
	})
}

// A file that is written bit by bit is valid YAML after each rule, without its last
// deny rules.
func TestWatchDoesNotTakeAFileThatIsBeingWritten(t *testing.T) {
	text := policyOf("a.example", "b.example") + "  - name: c.example\n    domains: [c.example]\n    deny: true\n"
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		f, err := os.Create(w.path)
		require.NoError(t, err)
		for line := range strings.Lines(text) {
			w.look()
			require.Equal(t, "a.example", w.names())
			_, err := f.WriteString(line)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		w.look()
		require.Equal(t, "a.example", w.names())
		w.look()
		require.Equal(t, "a.example b.example c.example", w.names())
		require.Equal(t, 1, w.file.Policy().Stats().Deny)
		require.Zero(t, w.errors(), "%s", &w.log)
		require.Equal(t, []error{nil}, w.reloads)
	})
}

func TestWatchKeepsTheRulesWhenTheFileIsBad(t *testing.T) {
	for name, bad := range map[string]string{
		"no YAML": "version: 1\nrules: [\n", "an unknown key": policyOf("b.example") + "    colour: red\n", "empty": "", "a rule without sense": policyOf("b.example", "b.example"),
		"an authority that Roots has not": policyOf("b.example") + "    authorities: [q]\n",
	} {
		t.Run(name, func(t *testing.T) {
			watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
				w.write(bad)
				w.look()
				require.NoError(t, w.guard.Ready(), "seen once")
				for range 5 {
					w.look()
					require.Equal(t, "a.example", w.names())
					require.Equal(t, 1, w.file.Policy().Stats().Allow)
					require.ErrorContains(t, w.guard.Ready(), "policy.yaml:")
				}
				require.Equal(t, 1, w.errors(), "logged once: %s", &w.log)
				require.Len(t, w.reloads, 1)
				var p *policyfile.Error
				require.ErrorAs(t, w.reloads[0], &p)
				require.Equal(t, w.path, p.File)
				require.NotZero(t, p.Line)

				w.write(policyOf("c.example"))
				w.look()
				require.Error(t, w.guard.Ready())
				w.look()
				require.NoError(t, w.guard.Ready())
				require.Equal(t, "c.example", w.names())
				require.Len(t, w.reloads, 2)
			})
		})
	}
}

func TestWatchRecoversWithTheOldContent(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		w.write("broken")
		w.look()
		w.look()
		require.Error(t, w.guard.Ready())
		w.write(policyOf("a.example"))
		w.look()
		require.NoError(t, w.guard.Ready(), "it is what is in force")
		require.Equal(t, "a.example", w.names())
		require.Nil(t, w.reloads[len(w.reloads)-1])

		w.write("broken in another way")
		w.look()
		w.look()
		require.Equal(t, 2, w.errors())
		// The same rules in another form.
		w.write("# Again.\n" + policyOf("a.example"))
		w.look()
		w.look()
		require.NoError(t, w.guard.Ready())
	})
}

// Editors write a new file and give it the old one's name, or move the old one away
// first.
func TestWatchFollowsRenames(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		other := w.path + ".new"
		require.NoError(t, os.WriteFile(other, []byte(policyOf("b.example")), 0o600))
		require.NoError(t, os.Rename(other, w.path))
		w.look()
		w.look()
		require.Equal(t, "b.example", w.names())

		require.NoError(t, os.Rename(w.path, w.path+"~"))
		w.look() // it is gone for a moment
		w.write(policyOf("c.example"))
		w.look()
		w.look()
		require.Equal(t, "c.example", w.names())
		require.Zero(t, w.errors(), "%s", &w.log)

		require.NoError(t, os.Remove(w.path))
		w.look()
		require.NoError(t, w.guard.Ready())
		w.look()
		w.look()
		require.ErrorContains(t, w.guard.Ready(), "it cannot be read")
		require.ErrorIs(t, w.reloads[len(w.reloads)-1], os.ErrNotExist)
		require.Equal(t, 1, w.errors())
		require.Equal(t, "c.example", w.names())
		w.write(policyOf("c.example"))
		w.look()
		require.NoError(t, w.guard.Ready())
	})
}

// A volume of a ConfigMap: policy.yaml -> ..data/policy.yaml, ..data -> ..2026_1, and
// an update swaps ..data. The files of certificates are swapped with it.
func TestWatchFollowsConfigMaps(t *testing.T) {
	dir := t.TempDir()
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	version := func(name string) {
		cert := ca.Issue(mtlstest.Leaf{Names: []string{"a.example"}}).Leaf()
		d := filepath.Join(dir, ".."+name)
		require.NoError(t, os.Mkdir(d, 0o700))
		text := "version: 1\nrules:\n  - name: " + name + "\n    certificate_files: [partner.pem]\n    origin: none\n"
		require.NoError(t, os.WriteFile(filepath.Join(d, "policy.yaml"), []byte(text), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(d, "partner.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600))
		require.NoError(t, os.Symlink(".."+name, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("one")
	for _, f := range []string{"policy.yaml", "partner.pem"} {
		require.NoError(t, os.Symlink(filepath.Join("..data", f), filepath.Join(dir, f)))
	}
	watch(t, filepath.Join(dir, "policy.yaml"), func(w *watched) {
		before := w.file.Rules()[0].Certificates
		require.Len(t, before, 1)
		version("two")
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "..one")))
		w.look()
		require.Equal(t, "one", w.names())
		w.look()
		require.Equal(t, "two", w.names())
		require.NotEqual(t, before, w.file.Rules()[0].Certificates)
		require.Zero(t, w.errors(), "%s", &w.log)
	})
}

func TestWatchLooksAtNamedFiles(t *testing.T) {
	ca := mtlstest.NewCA(t, mtlstest.CAOptions{})
	path := newFile(t, "version: 1\nrules:\n  - name: a\n    domains: [a.example]\n    certificate_files: [partner.pem]\n")
	named := filepath.Join(filepath.Dir(path), "partner.pem")
	put := func() mtls.CertificateHash {
		c := ca.Issue(mtlstest.Leaf{}).Leaf()
		require.NoError(t, os.WriteFile(named, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600))
		return mtls.HashCertificate(c)
	}
	put()
	watch(t, path, func(w *watched) {
		now := put()
		w.look()
		require.NotEqual(t, now, w.file.Rules()[0].Certificates[0])
		w.look()
		require.Equal(t, now, w.file.Rules()[0].Certificates[0])

		require.NoError(t, os.WriteFile(named, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600))
		w.look()
		w.look()
		require.ErrorContains(t, w.guard.Ready(), "policy.yaml:5:25: certificate_files: \"partner.pem\": damaged PEM")
		require.Equal(t, now, w.file.Rules()[0].Certificates[0])
		require.NoError(t, os.Remove(named))
		w.look()
		w.look()
		require.Equal(t, 2, w.errors())
		next := put()
		w.look()
		w.look()
		require.NoError(t, w.guard.Ready())
		require.Equal(t, next, w.file.Rules()[0].Certificates[0])
	})
}

// Rules that are the same in another form do not replace the present ones, which
// would void all verdicts.
func TestWatchReplacesOnlyWhatChanged(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		w.write("# A comment.\nversion: 1\nrules: [{\"name\": \"a.example\", domains: [a.example]}]\n")
		w.look()
		w.look()
		require.NotContains(t, w.log.String(), "in force")
		// Replace would take back what somebody else reports.
		w.file.Policy().ReloadFailed(errors.New("of somebody else"))
		w.write("# Another.\n" + policyOf("a.example"))
		w.look()
		w.look()
		require.ErrorContains(t, w.guard.Ready(), "of somebody else")
		w.write(policyOf("b.example"))
		w.look()
		w.look()
		require.Contains(t, w.log.String(), "in force")
	})
}

func TestDenyAllIsTakenAndLeft(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		w.write("version: 1\ndeny_all: true\n")
		w.look()
		w.look()
		stats := w.file.Policy().Stats()
		require.Zero(t, stats.Allow+stats.Deny)
		require.Empty(t, w.file.Rules())
		require.NoError(t, w.guard.Ready())
		w.write(policyOf("a.example"))
		w.look()
		w.look()
		require.Equal(t, 1, w.file.Policy().Stats().Allow)
	})
	file, err := policyfile.Load(newFile(t, "version: 1\ndeny_all: true\n"))
	require.NoError(t, err)
	require.Zero(t, file.Policy().Stats())
}

func TestReloadTakesTheFileAtOnce(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		w.write(policyOf("b.example"))
		require.NoError(t, w.file.Reload())
		require.Equal(t, "b.example", w.names())
		w.write("broken")
		err := w.file.Reload()
		require.ErrorContains(t, err, "mtls: "+w.path+":1:1: ")
		require.ErrorContains(t, w.guard.Ready(), "policy.yaml:1:1: ")
		require.Equal(t, "b.example", w.names())
		w.write(policyOf("b.example"))
		require.NoError(t, w.file.Reload())
		require.NoError(t, w.guard.Ready())

		w.write(policyOf("b.example") + "    authorities: [q]\n")
		err = w.file.Reload()
		require.ErrorContains(t, err, `:5:19: rule "b.example": authorities[0]: "q": no authority of this name in Roots`)
		require.ErrorContains(t, w.guard.Ready(), ":5:19: ")
		require.Len(t, w.reloads, 4)
	})
}

// What Reload has reported, Watch does not report again, and it takes what comes next.
func TestReloadAndWatchReportAFailureOnce(t *testing.T) {
	for name, bad := range map[string]string{
		"no YAML": "broken", "an authority that Roots has not": policyOf("b.example") + "    authorities: [q]\n",
	} {
		t.Run(name, func(t *testing.T) {
			watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
				w.write(bad)
				w.look()
				require.Error(t, w.file.Reload())
				for range 4 {
					w.look()
				}
				require.Len(t, w.reloads, 1)
				require.Equal(t, 1, w.errors(), "%s", &w.log)
				require.Error(t, w.guard.Ready())

				w.write(bad + "# in another way")
				w.look()
				w.look()
				require.Len(t, w.reloads, 2)
				require.NoError(t, w.roots.Replace(w.ca.Authority("q")))
				w.write(policyOf("b.example") + "    authorities: [q]\n")
				w.look()
				w.look()
				require.Equal(t, "b.example", w.names())
				require.NoError(t, w.guard.Ready())
			})
		})
	}
}

// A policy for an authority that comes later is taken when it has come.
func TestWatchTakesRulesThatRootsHadNot(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		w.write(policyOf("b.example") + "    authorities: [q]\n")
		for range 4 {
			w.look()
		}
		require.Equal(t, "a.example", w.names())
		require.Equal(t, 1, w.errors(), "%s", &w.log)
		require.Len(t, w.reloads, 1)
		require.ErrorContains(t, w.guard.Ready(), ":5:19: ")
		require.NoError(t, w.roots.Replace(w.ca.Authority("q")))
		w.look()
		require.Equal(t, "b.example", w.names())
		require.NoError(t, w.guard.Ready())
		require.Len(t, w.reloads, 2)
	})
}

func TestOnlyOneWatches(t *testing.T) {
	watch(t, newFile(t, policyOf("a.example")), func(w *watched) {
		require.EqualError(t, w.file.Watch(context.Background()), "mtls: "+w.path+" is watched already")
	})
	file, err := policyfile.Load(newFile(t, policyOf("a.example")))
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	stop()
	for range 2 {
		require.ErrorIs(t, file.Watch(ctx), context.Canceled)
	}
}

func TestLoadRefuses(t *testing.T) {
	_, err := policyfile.Load(filepath.Join(t.TempDir(), "none.yaml"))
	require.True(t, errors.Is(err, os.ErrNotExist), "%v", err)
	_, err = policyfile.Load(t.TempDir())
	require.ErrorContains(t, err, "is not a regular file")
	path := newFile(t, "version: 1\nrules:\n  - name: a\n")
	_, err = policyfile.Load(path)
	require.ErrorContains(t, err, "mtls: "+path+":3:5: ")
}

// Changing what Rules returns changes nothing else.
func TestRulesAreACopy(t *testing.T) {
	text := strings.Replace(complete, "1h0m0.5s", "1m", 1)
	file, err := policyfile.Load(newFile(t, text))
	require.NoError(t, err)
	before := leaves(file.Rules())
	rules := file.Rules()
	r := &rules[1]
	r.Name, r.Roles[0], r.Domains[0], r.URIs[0], r.Emails[0], r.UPNs[0], r.Authorities[0], r.Curves[0] = "x", "x", "x", "x", "x", "x", "x", "x"
	r.Certificates[0][0], r.PublicKeys[0][0], r.IssuerKeys[0][0] = 1, 1, 1
	r.Subject[0].Value, r.Issuer[0].Value, r.Extensions[0].Value[0], r.PolicyOIDs[0] = "x", "x", 9, r.Extensions[0].OID
	r.Origin.Hosts[0], r.Origin.ReverseSuffixes[0], r.Origin.Published = "x", "x", false
	r.Origin.Prefixes[0], r.Origin.AllowNetworks[0] = r.Origin.Prefixes[1], r.Origin.Prefixes[1]
	require.Equal(t, before, leaves(file.Rules()))
}
