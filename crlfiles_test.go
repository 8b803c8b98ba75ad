package mtls_test

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
)

func crlCA(t testing.TB) *testpki.CA {
	t.Helper()
	ca, err := testpki.NewRoot(testpki.Options{})
	require.NoError(t, err)
	return ca
}

func crlOf(t testing.TB, ca *testpki.CA, number int64, extra ...pkix.Extension) []byte {
	t.Helper()
	der, err := ca.CRL(testpki.CRLOptions{Number: big.NewInt(number), Extra: extra})
	require.NoError(t, err)
	return der
}

func crlPEM(ders ...[]byte) []byte {
	var data []byte
	for _, der := range ders {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
	}
	return data
}

// indirectCRL is an issuing distribution point with indirectCRL.
func indirectCRL() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 3, 0x84, 1, 0xff}}
}

func crlFile(t testing.TB, data []byte, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}

func loadCRLs(t testing.TB, paths ...string) *mtls.CRLFiles {
	t.Helper()
	c, err := mtls.LoadCRLs(paths...)
	require.NoError(t, err)
	return c
}

// requireLists checks what is read, in any order, and that the version is that of
// what is read.
func requireLists(t testing.TB, c *mtls.CRLFiles, ca *testpki.CA, want ...[]byte) (version string) {
	t.Helper()
	got, version, err := c.Read(ca.Certificate.RawSubject)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
	require.Equal(t, version, c.Version(ca.Certificate.RawSubject))
	require.NotEmpty(t, version)
	return version
}

func TestCRLFilesForms(t *testing.T) {
	a, b, c := crlCA(t), crlCA(t), crlCA(t)
	a1, a2, a3, b1, ind := crlOf(t, a, 1), crlOf(t, a, 2), crlOf(t, a, 3), crlOf(t, b, 1), crlOf(t, c, 1, indirectCRL())
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.MkdirAll(filepath.Join(folder, "below.crl"), 0o700))
	crlFile(t, crlOf(t, a, 9), folder, "below.crl", "a.crl") // not recursive
	single := crlFile(t, a1, dir, "single")
	crlFile(t, a2, folder, "a.DER")
	crlFile(t, append([]byte("Issuer: a\n"), append(crlPEM(a3, b1), "end\n"...)...), folder, "bundle.crl.pem")
	crlFile(t, ind, folder, "ind.crl")
	crlFile(t, []byte("junk"), folder, "README.txt")
	crlFile(t, []byte("junk"), folder, "crl")
	crlFile(t, []byte("junk"), folder, ".hidden.crl")
	crlFile(t, []byte("junk"), folder, "a.crl.tmp")

	files := loadCRLs(t, single, folder)
	require.NoError(t, files.Err())
	requireLists(t, files, a, a1, a2, a3, ind)
	requireLists(t, files, b, b1, ind)
	requireLists(t, files, crlCA(t), ind)
	require.NotEqual(t, files.Version(a.Certificate.RawSubject), files.Version(b.Certificate.RawSubject))
	require.False(t, files.Poll())
	requireLists(t, loadCRLs(t, single, folder, single, folder+"/"), a, a1, a2, a3, ind)
	require.Equal(t, files.Version(a.Certificate.RawSubject), loadCRLs(t, folder, single).Version(a.Certificate.RawSubject), "in another process")

	version := requireLists(t, loadCRLs(t, crlFile(t, crlPEM(a1, a2), dir, "12")), a, a1, a2)
	require.Equal(t, version, requireLists(t, loadCRLs(t, crlFile(t, crlPEM(a2, a1), dir, "21")), a, a1, a2), "in another order")
	require.Equal(t, version, requireLists(t, loadCRLs(t, filepath.Join(dir, "12"), filepath.Join(dir, "21")), a, a1, a2, a1, a2), "twice")
	requireLists(t, loadCRLs(t, t.TempDir()), a)
	got, _, err := files.Read(nil)
	require.NoError(t, err)
	require.Equal(t, [][]byte{ind}, got)

	t.Run("hyphens in a name do not make DER PEM", func(t *testing.T) {
		ca, err := testpki.NewRoot(testpki.Options{CommonName: "-----BEGIN X509 CRL-----"})
		require.NoError(t, err)
		der := crlOf(t, ca, 1)
		requireLists(t, loadCRLs(t, crlFile(t, der, t.TempDir(), "x")), ca, der)
	})
}

func TestCRLFilesRefusesWhatIsNoList(t *testing.T) {
	ca := crlCA(t)
	der := crlOf(t, ca, 1)
	good := crlPEM(der)
	for name, data := range map[string][]byte{
		"empty": {}, "blank": []byte("\n"), "text": []byte("<html>404</html>"), "truncated DER": der[:len(der)-1], "DER with a byte after it": append(bytes.Clone(der), 0),
		"two DER lists": append(bytes.Clone(der), der...), "truncated PEM": good[:len(good)/2], "PEM without its end": good[:len(good)-20], "PEM cut at the front": good[20:],
		"PEM of nothing": crlPEM(nil), "PEM of truncated DER": crlPEM(der[:len(der)-1]), "good, then truncated": append(bytes.Clone(good), good[:len(good)/2]...),
		"truncated, then good": append(append(bytes.Clone(good[:len(good)/2]), '\n'), good...), "a certificate": ca.Certificate.Raw, "a PEM certificate": ca.PEM(),
		"a list that is called a certificate": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"good, then a certificate":            append(bytes.Clone(good), ca.PEM()...), "damaged base64, then good": append(bytes.Replace(good, []byte("M"), []byte("!"), 1), good...),
		"good, then one with other dashes": append(bytes.Clone(good), bytes.ReplaceAll(good, []byte("-----"), []byte("----"))...),
		"other dashes, then good":          append(bytes.ReplaceAll(good, []byte("-----"), []byte("\u2014")), good...),
		"good, then one without armour":    append(bytes.Clone(good), bytes.Join(bytes.Split(good, []byte("\n"))[1:4], []byte("\n"))...),
		"good, then DER":                   append(bytes.Clone(good), der...), "DER, then good": append(bytes.Clone(der), good...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bad := crlFile(t, data, dir, "bad.pem")
			crlFile(t, der, dir, "good.crl")
			for _, paths := range [][]string{{bad}, {dir}} {
				c, err := mtls.LoadCRLs(append(paths, filepath.Join(dir, "missing"))...)
				require.Nil(t, c)
				list := pcProblems(t, err)
				require.Len(t, list, 2, "all at once")
				require.True(t, slices.ContainsFunc(list, func(e *mtls.ConfigError) bool { return e.Value == bad }))
			}
		})
	}
	_, err := mtls.LoadCRLs()
	pcProblems(t, err)
	_, err = mtls.LoadCRLs("")
	pcProblems(t, err)

	t.Run("a file that is too large is not read", func(t *testing.T) {
		file := crlFile(t, der, t.TempDir(), "x.crl")
		require.NoError(t, os.Truncate(file, 128<<20+1)) // sparse
		_, err := mtls.LoadCRLs(file)
		require.ErrorContains(t, err, "more than")
	})
	t.Run("a pipe is not opened", func(t *testing.T) {
		pipe := filepath.Join(t.TempDir(), "x.crl")
		if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
			t.Skipf("mkfifo: %s", out)
		}
		for _, path := range []string{pipe, filepath.Dir(pipe)} {
			_, err := mtls.LoadCRLs(path)
			pcProblems(t, err)
		}
	})
	t.Run("links that lead nowhere or to themselves", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Symlink("none", filepath.Join(dir, "a.crl")))
		require.NoError(t, os.Symlink("b.crl", filepath.Join(dir, "b.crl")))
		_, err := mtls.LoadCRLs(dir)
		require.Len(t, pcProblems(t, err), 2)
	})
	t.Run("too many files", func(t *testing.T) {
		dir := t.TempDir()
		first := crlFile(t, der, dir, "z.crl")
		c := loadCRLs(t, dir)
		for i := range 4096 {
			require.NoError(t, os.Link(first, filepath.Join(dir, fmt.Sprintf("%d.crl", i))))
		}
		_, err := mtls.LoadCRLs(dir)
		require.ErrorContains(t, err, "more than 4096 files")
		other := crlOf(t, ca, 2)
		require.NoError(t, os.Rename(crlFile(t, other, dir, "new"), first))
		c.Poll()
		require.Error(t, c.Err())
		got, _, err := c.Read(ca.Certificate.RawSubject)
		require.NoError(t, err)
		require.Contains(t, got, other, "those that come later do not hide a change")
		require.NoError(t, os.Remove(first))
		loadCRLs(t, dir, dir)
	})
}

func TestCRLFilesChanges(t *testing.T) {
	ca, other := crlCA(t), crlCA(t)
	one, two, three := crlOf(t, ca, 1), crlOf(t, ca, 2), crlOf(t, ca, 3)
	foreign := crlOf(t, other, 1)
	dir := t.TempDir()
	file := crlFile(t, one, dir, "a.crl")
	crlFile(t, foreign, dir, "other.crl")
	c := loadCRLs(t, dir)
	v1, vOther := requireLists(t, c, ca, one), requireLists(t, c, other, foreign)

	require.NoError(t, os.Rename(crlFile(t, two, dir, ".next"), file))
	got, v2, err := c.Read(ca.Certificate.RawSubject)
	require.NoError(t, err)
	require.Equal(t, [][]byte{two}, got, "bytes are not kept")
	require.NotEqual(t, v1, v2, "the version is that of what was read")
	require.Equal(t, v1, c.Version(ca.Certificate.RawSubject), "nobody looked yet")
	require.True(t, c.Poll())
	require.Equal(t, v2, requireLists(t, c, ca, two))
	require.Equal(t, vOther, requireLists(t, c, other, foreign))
	require.False(t, c.Poll())

	t.Run("the same bytes at another time are the same version", func(t *testing.T) {
		require.NoError(t, os.WriteFile(file, two, 0o600))
		require.False(t, c.Poll())
		require.Equal(t, v2, requireLists(t, c, ca, two))
	})
	t.Run("a second list of the issuer comes and goes", func(t *testing.T) {
		second := crlFile(t, three, dir, "b.pem.crl")
		require.True(t, c.Poll())
		v := requireLists(t, c, ca, two, three)
		require.NotEqual(t, v2, v)
		require.NoError(t, os.Remove(second))
		_, version, err := c.Read(ca.Certificate.RawSubject)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Empty(t, version, "what could not be read is not settled")
		require.True(t, c.Poll())
		require.NoError(t, c.Err())
		require.Equal(t, v2, requireLists(t, c, ca, two))
	})
	for name, damage := range map[string]func(t *testing.T){
		"truncated": func(t *testing.T) { require.NoError(t, os.WriteFile(file, two[:len(two)/2], 0o600)) },
		"empty":     func(t *testing.T) { require.NoError(t, os.Truncate(file, 0)) },
		"a link that leads nowhere": func(t *testing.T) {
			require.NoError(t, os.Remove(file))
			require.NoError(t, os.Symlink("nowhere", file))
		},
	} {
		t.Run(name+": reported, the version stays, and it comes back", func(t *testing.T) {
			defer func() {
				require.NoError(t, os.Remove(file))
				crlFile(t, two, file)
				require.False(t, c.Poll())
				require.NoError(t, c.Err())
				requireLists(t, c, ca, two)
			}()
			damage(t)
			for range 3 {
				require.False(t, c.Poll())
				require.Equal(t, file, pcProblems(t, c.Err())[0].Value)
				require.Equal(t, v2, c.Version(ca.Certificate.RawSubject))
			}
			second := crlFile(t, three, dir, "b.crl")
			require.True(t, c.Poll())
			require.NotEqual(t, v2, c.Version(ca.Certificate.RawSubject))
			got, version, err := c.Read(ca.Certificate.RawSubject)
			require.Error(t, err)
			require.Empty(t, version)
			require.Equal(t, [][]byte{three}, got, "the other is read")
			requireLists(t, c, other, foreign)
			require.NoError(t, os.Remove(second))
			require.True(t, c.Poll())
		})
	}
	t.Run("a change within one tick of the clock and of the same length is found", func(t *testing.T) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		same := func(number byte) []byte { // the signature is not looked at
			der := bytes.Clone(two)
			der[len(der)-1] = number
			return der
		}
		for i := range byte(4) {
			require.NoError(t, os.WriteFile(file, same(i), 0o600))
			require.NoError(t, os.Chtimes(file, at, at))
			c.Poll()
			if i%2 == 1 {
				c.Poll()
				requireLists(t, c, ca, same(i))
				require.NoError(t, os.WriteFile(file, []byte("x"), 0o600)) // unsettles it
				c.Poll()
			}
		}
		require.NoError(t, os.WriteFile(file, two, 0o600))
		c.Poll()
	})
	t.Run("a folder that cannot be listed has not lost its files", func(t *testing.T) {
		require.NoError(t, os.Rename(dir, dir+".away"))
		require.False(t, c.Poll())
		require.Error(t, c.Err())
		require.Equal(t, v2, c.Version(ca.Certificate.RawSubject))
		require.NoError(t, os.Rename(dir+".away", dir))
		require.False(t, c.Poll())
		require.NoError(t, c.Err())
	})
	t.Run("a file that was named must be there", func(t *testing.T) {
		named := loadCRLs(t, file)
		require.NoError(t, os.Remove(file))
		require.True(t, named.Poll())
		require.Error(t, named.Err())
		requireLists(t, named, ca)
		crlFile(t, three, file)
		require.True(t, named.Poll())
		require.NoError(t, named.Err())
		requireLists(t, named, ca, three)
	})
}

// A Kubernetes volume is a folder of links through "..data", which is swapped by a
// rename.
func TestCRLFilesInAKubernetesVolume(t *testing.T) {
	ca := crlCA(t)
	one, two := crlOf(t, ca, 1), crlOf(t, ca, 2)
	dir := t.TempDir()
	version := func(name string, data []byte) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		crlFile(t, data, dir, name, "ca.crl")
		require.NoError(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	version("..2026_1", one)
	require.NoError(t, os.Symlink(filepath.Join("..data", "ca.crl"), filepath.Join(dir, "ca.crl")))
	folder, file := loadCRLs(t, dir), loadCRLs(t, filepath.Join(dir, "ca.crl"))
	for _, c := range []*mtls.CRLFiles{folder, file} {
		requireLists(t, c, ca, one)
		require.False(t, c.Poll())
	}
	version("..2026_2", two)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "..2026_1")))
	for _, c := range []*mtls.CRLFiles{folder, file} {
		require.True(t, c.Poll())
		require.NoError(t, c.Err())
		requireLists(t, c, ca, two)
	}
}

func TestCRLFilesAreConcurrent(t *testing.T) {
	ca := crlCA(t)
	lists := [][]byte{crlOf(t, ca, 1), crlOf(t, ca, 2)}
	dir := t.TempDir()
	file := crlFile(t, lists[0], dir, "a.crl")
	c := loadCRLs(t, dir)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c.Poll()
				if err := c.Err(); err != nil {
					t.Error(err)
				}
				got, _, err := c.Read(ca.Certificate.RawSubject)
				if err != nil || len(got) != 1 || !bytes.Equal(got[0], lists[0]) && !bytes.Equal(got[0], lists[1]) {
					t.Errorf("%d lists, %v", len(got), err)
				}
			}
		})
	}
	for i := range 200 {
		next := filepath.Join(dir, "next")
		require.NoError(t, os.WriteFile(next, lists[i%2], 0o600))
		require.NoError(t, os.Rename(next, file))
	}
	close(stop)
	wg.Wait()
	c.Poll()
	requireLists(t, c, ca, lists[1])
}

// FuzzCRLFile: what is accepted is not empty; as PEM it is what is accepted again;
// and all of DER is one list.
func FuzzCRLFile(f *testing.F) {
	ca := crlCA(f)
	der := crlOf(f, ca, 1)
	for _, s := range [][]byte{der, crlPEM(der), crlPEM(der, der), append([]byte("# x\n"), crlPEM(der)...), crlPEM(der)[:50], ca.PEM()} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ders, err := mtls.ParseCRLs(data)
		if err != nil {
			return
		}
		require.NotEmpty(t, ders)
		again, err := mtls.ParseCRLs(crlPEM(ders...))
		require.NoError(t, err)
		require.Len(t, again, len(ders))
		for i := range ders {
			require.True(t, bytes.Equal(ders[i], again[i]))
		}
		if !strings.Contains(string(data), "-----") {
			require.Len(t, ders, 1)
			require.True(t, bytes.Equal(data, ders[0]))
		}
	})
}
