package mtls_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/testpki"
	"github.com/mtlsguard/mtls/internal/x509ext"
)

// denyChain is a leaf, an intermediate and a root, and another leaf with the same
// serial number of another issuer.
type denyChain struct {
	root, ca  *testpki.CA
	leaf      *testpki.Leaf
	chain     []*x509.Certificate
	other     []*x509.Certificate
	otherRoot *testpki.CA
}

func newDenyChain(t testing.TB, serial *big.Int) denyChain {
	t.Helper()
	must := func(ca *testpki.CA, err error) *testpki.CA { require.NoError(t, err); return ca }
	var c denyChain
	c.root = must(testpki.NewRoot(testpki.Options{}))
	c.ca = must(c.root.NewIntermediate(testpki.Options{}))
	c.otherRoot = must(testpki.NewRoot(testpki.Options{}))
	leaf, err := c.ca.Issue(testpki.Options{Serial: serial, Names: []string{"a.example"}})
	require.NoError(t, err)
	other, err := c.otherRoot.Issue(testpki.Options{Serial: serial, Names: []string{"a.example"}})
	require.NoError(t, err)
	c.leaf = leaf
	c.chain = []*x509.Certificate{leaf.Certificate, c.ca.Certificate, c.root.Certificate}
	c.other = []*x509.Certificate{other.Certificate, c.otherRoot.Certificate}
	return c
}

func denyList(t testing.TB, entries ...mtls.DeniedCertificate) *mtls.DenyList {
	t.Helper()
	l, err := mtls.NewDenyList(entries...)
	require.NoError(t, err)
	return l
}

func bySerial(issuer, c *x509.Certificate) mtls.DeniedCertificate {
	return mtls.DeniedCertificate{IssuerKey: mtls.HashPublicKey(issuer), Serial: c.SerialNumber}
}

func TestDenyListFindsEveryCertificateOfAChain(t *testing.T) {
	c := newDenyChain(t, big.NewInt(0x0a0b0c))
	for place, cert := range c.chain {
		issuer := c.chain[min(place+1, 2)]
		for name, d := range map[string]mtls.DeniedCertificate{
			"hash":   {Certificate: mtls.HashCertificate(cert), Note: "stolen\tlaptop # 7"},
			"key":    {PublicKey: mtls.HashPublicKey(cert), Note: "stolen\tlaptop # 7"},
			"serial": {IssuerKey: mtls.HashPublicKey(issuer), Serial: cert.SerialNumber, Note: "stolen\tlaptop # 7"},
		} {
			t.Run(fmt.Sprintf("%s of %d", name, place), func(t *testing.T) {
				l := denyList(t, d)
				detail, index, ok := l.Find(c.chain...)
				require.True(t, ok)
				require.Equal(t, place, index)
				require.Contains(t, detail, `stolen\tlaptop # 7`)
				require.NotContains(t, detail, "\t")
				_, _, ok = l.Find(c.other...)
				require.False(t, ok, "another chain with the same serial number")
				_, _, ok = denyList(t).Find(c.chain...)
				require.False(t, ok)
			})
		}
	}
	t.Run("the first that is denied is named", func(t *testing.T) {
		l := denyList(t, mtls.DeniedCertificate{PublicKey: mtls.HashPublicKey(c.chain[2])}, bySerial(c.chain[2], c.chain[1]))
		_, index, ok := l.Find(c.chain...)
		require.True(t, ok)
		require.Equal(t, 1, index)
	})
	t.Run("the serial number of another issuer does not matter, nor the key as a hash", func(t *testing.T) {
		l := denyList(t, bySerial(c.chain[2], c.chain[0]), bySerial(c.chain[0], c.chain[0]),
			mtls.DeniedCertificate{Certificate: mtls.CertificateHash(mtls.HashPublicKey(c.chain[0]))},
			mtls.DeniedCertificate{PublicKey: mtls.KeyHash(mtls.HashCertificate(c.chain[0]))})
		_, _, ok := l.Find(c.chain...)
		require.False(t, ok)
	})
	t.Run("a renewed certificate for a denied key, of a client or a CA, is denied", func(t *testing.T) {
		renewed, err := c.otherRoot.CrossSign(c.ca, testpki.Options{})
		require.NoError(t, err)
		l := denyList(t, mtls.DeniedCertificate{PublicKey: mtls.HashPublicKey(c.chain[1])})
		_, index, ok := l.Find(c.chain[0], renewed, c.otherRoot.Certificate)
		require.True(t, ok)
		require.Equal(t, 1, index)
	})
	t.Run("an anchor that is not self-signed and an empty chain are no trouble", func(t *testing.T) {
		l := denyList(t, bySerial(c.chain[2], c.chain[1]))
		_, _, ok := l.Find(c.chain[0], c.chain[1])
		require.False(t, ok, "its issuer is not known")
		_, _, ok = denyList(t, bySerial(c.chain[1], c.chain[1])).Find(c.chain[0], c.chain[1])
		require.False(t, ok, "nor is it its own")
		_, _, ok = l.Find()
		require.False(t, ok)
		_, _, ok = denyList(t, mtls.DeniedCertificate{Certificate: mtls.HashCertificate(c.chain[1])}).Find(c.chain[0], c.chain[1])
		require.True(t, ok)
	})
	t.Run("a serial number with its highest bit set, and zero", func(t *testing.T) {
		for _, serial := range []*big.Int{big.NewInt(0xfe), new(big.Int).Lsh(big.NewInt(1), 159)} {
			c := newDenyChain(t, serial)
			_, _, ok := denyList(t, bySerial(c.chain[1], c.chain[0])).Find(c.chain...)
			require.True(t, ok)
			_, _, ok = denyList(t, mtls.DeniedCertificate{IssuerKey: mtls.HashPublicKey(c.chain[1]), Serial: new(big.Int)}).Find(c.chain...)
			require.False(t, ok)
		}
	})
	t.Run("the other encoding of an ECDSA signature is the same certificate", func(t *testing.T) {
		for place := range c.chain {
			issuer := c.chain[min(place+1, 2)]
			der, ok := x509ext.Twin(c.chain[place], issuer)
			require.True(t, ok)
			twin, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			require.NotEqual(t, mtls.HashCertificate(twin), mtls.HashCertificate(c.chain[place]))
			shown := slices.Clone(c.chain)
			shown[place] = twin
			_, index, ok := denyList(t, mtls.DeniedCertificate{Certificate: mtls.HashCertificate(c.chain[place])}).Find(shown...)
			require.True(t, ok)
			require.Equal(t, place, index)
		}
	})
	t.Run("an RSA issuer", func(t *testing.T) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		ca, err := testpki.NewRoot(testpki.Options{Key: key})
		require.NoError(t, err)
		leaf, err := ca.Issue(testpki.Options{})
		require.NoError(t, err)
		_, _, ok := denyList(t, mtls.DeniedCertificate{Certificate: mtls.HashCertificate(leaf.Certificate)}).Find(leaf.Certificate, ca.Certificate)
		require.True(t, ok)
	})
}

func denyHash(b byte) (h [32]byte) {
	h[31] = b
	return h
}

func TestDenyListRefusesWhatNamesNothing(t *testing.T) {
	key := mtls.KeyHash(denyHash(1))
	good := mtls.DeniedCertificate{PublicKey: key}
	for name, d := range map[string]mtls.DeniedCertificate{
		"nothing":                 {Note: "x"},
		"two ways":                {PublicKey: key, Certificate: denyHash(1)},
		"a key and a serial":      {PublicKey: key, IssuerKey: key, Serial: big.NewInt(1)},
		"a serial alone":          {Serial: big.NewInt(1)},
		"an issuer alone":         {IssuerKey: key},
		"a negative serial":       {IssuerKey: key, Serial: big.NewInt(-1)},
		"a serial of 65 octets":   {IssuerKey: key, Serial: new(big.Int).Lsh(big.NewInt(1), 512)},
		"a note of two lines":     {PublicKey: key, Note: "a\nkey-sha256 b"},
		"a carriage return":       {PublicKey: key, Note: "a\rb"},
		"a separator of lines":    {PublicKey: key, Note: "a\u2028b"},
		"a note with NUL":         {PublicKey: key, Note: "a\x00"},
		"a note that is not text": {PublicKey: key, Note: "\xff"},
		"a long note":             {PublicKey: key, Note: strings.Repeat("x", 257)},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := mtls.NewDenyList(good, d, d)
			require.Nil(t, l)
			list := pcProblems(t, err)
			require.Len(t, list, 2, "all at once")
			require.Equal(t, "DenyList: entry 1", list[0].Field)

			l = denyList(t)
			require.Error(t, l.Add(mtls.DeniedCertificate{Certificate: denyHash(9)}, d))
			require.Empty(t, l.Entries(), "all or nothing")
		})
	}
}

func TestDenyListInMemory(t *testing.T) {
	var zero mtls.DenyList
	var none *mtls.DenyList
	require.Same(t, zero.State(), none.State())
	require.False(t, none.Poll())
	require.NoError(t, none.Err())
	require.NoError(t, zero.Add())
	serial := big.NewInt(7)
	a := mtls.DeniedCertificate{Certificate: denyHash(2), Note: "  first  "}
	b := mtls.DeniedCertificate{Certificate: denyHash(1)}
	k := mtls.DeniedCertificate{PublicKey: denyHash(1)}
	s := mtls.DeniedCertificate{IssuerKey: denyHash(1), Serial: serial}
	s10 := mtls.DeniedCertificate{IssuerKey: denyHash(1), Serial: big.NewInt(0x100)}
	require.NoError(t, zero.Add(s10, s, k, a, b, mtls.DeniedCertificate{Certificate: denyHash(2), Note: "second"}))
	serial.SetInt64(99) // the caller's
	list := zero.Entries()
	require.Equal(t, []mtls.DeniedCertificate{b, {Certificate: denyHash(2), Note: "first"}, k, {IssuerKey: denyHash(1), Serial: big.NewInt(7)}, s10}, list)
	list[3].Serial.SetInt64(5)
	require.EqualValues(t, 7, zero.Entries()[3].Serial.Int64())

	state := zero.State()
	require.NoError(t, zero.Add(b))
	require.Same(t, state, zero.State(), "what changes nothing leaves verdicts valid")
	require.Error(t, zero.Remove(a, mtls.DeniedCertificate{Certificate: denyHash(77)}))
	require.Error(t, zero.Remove(mtls.DeniedCertificate{}))
	require.Same(t, state, zero.State(), "all or nothing")
	require.NoError(t, zero.Remove(mtls.DeniedCertificate{Certificate: denyHash(2), Note: "whatever"}, s10))
	require.Len(t, zero.Entries(), 3)
	require.NotSame(t, state, zero.State())
	require.NoError(t, zero.Reload())
	require.False(t, zero.Poll())
	require.Len(t, zero.Entries(), 3)
}

func writeDenyFile(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "denied.txt")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o640))
	return file
}

func loadDenyList(t testing.TB, file string) *mtls.DenyList {
	t.Helper()
	l, err := mtls.LoadDenyList(file)
	require.NoError(t, err)
	return l
}

func TestDenyListFileForms(t *testing.T) {
	h := denyHash(0xab)
	hex := mtls.KeyHash(h).String()
	colons := strings.ToUpper(fmt.Sprintf("%x", h[0]))
	for _, b := range h[1:] {
		colons += fmt.Sprintf(":%02X", b)
	}
	colons = "0" + colons
	text := "\n# comment, with \xff in it\n   \t\nsha256 " + hex + " # a note # more\r\nkey-sha256 " + colons + "#x\n" +
		"serial 00:0A:bc issuer-key-sha256\t" + strings.ToUpper(hex) + "\nserial 0 issuer-key-sha256 " + hex
	want := []mtls.DeniedCertificate{
		{Certificate: h, Note: "a note # more"}, {PublicKey: h, Note: "x"},
		{IssuerKey: h, Serial: new(big.Int)}, {IssuerKey: h, Serial: big.NewInt(0x0abc)},
	}
	file := writeDenyFile(t, text)
	got := loadDenyList(t, file).Entries()
	require.Len(t, got, 4)
	for i := range want {
		require.Equal(t, fmt.Sprint(want[i]), fmt.Sprint(got[i]))
	}
	require.Empty(t, loadDenyList(t, writeDenyFile(t, "")).Entries())

	t.Run("all problems at once, with the number of the line", func(t *testing.T) {
		for _, line := range []string{"sha256", "sha256 12", "sha256 " + hex + "00", "sha256 " + hex[:63], "sha256 " + strings.Repeat("0", 64), "SHA256 " + hex, hex,
			"sha256 " + hex + " note without a sign", "key-sha256", "key-sha256 -" + hex[1:], "serial 1", "serial 1 issuer-key-sha256", "serial -1 issuer-key-sha256 " + hex,
			"serial +1 issuer-key-sha256 " + hex, "serial 0x1 issuer-key-sha256 " + hex, "serial 1_1 issuer-key-sha256 " + hex, "serial : issuer-key-sha256 " + hex,
			"serial " + strings.Repeat("f", 130) + " issuer-key-sha256 " + hex, "serial " + strings.Repeat("0", 100_000) + "1 issuer-key-sha256 " + hex,
			"serial 1 issuer-key-sha256 " + hex[1:], "sha256 " + hex + " #" + strings.Repeat("n", 300), "sha256 " + hex + "\rsha256 " + hex, "sha256 " + hex + "# \xff",
			"\ufeffsha256 " + hex, "\x00"} {
			l, err := mtls.LoadDenyList(writeDenyFile(t, "sha256 "+hex+"\n"+line+"\n\n"+line))
			require.Nil(t, l, line)
			list := pcProblems(t, err)
			require.Len(t, list, 2, line)
			require.Contains(t, list[0].Field, "line 2")
			require.Contains(t, list[1].Field, "line 4")
			require.Less(t, len(list[0].Error()), 2000)
		}
		_, err := mtls.LoadDenyList(writeDenyFile(t, strings.Repeat("x\n", 10_000)))
		require.LessOrEqual(t, len(pcProblems(t, err)), 101)
	})
	t.Run("a file that is not there, a folder, one that is too large, no name", func(t *testing.T) {
		dir := t.TempDir()
		for _, file := range []string{filepath.Join(dir, "none"), dir, "", writeDenyFile(t, strings.Repeat("#"+strings.Repeat("x", 1023)+"\n", 16<<10+1))} {
			l, err := mtls.LoadDenyList(file)
			require.Nil(t, l)
			pcProblems(t, err)
		}
	})
}

func TestDenyListFileChanges(t *testing.T) {
	text := "# our list\nsha256 " + mtls.CertificateHash(denyHash(2)).String() + " # second\n\n# the first:\nsha256 " + mtls.CertificateHash(denyHash(1)).String()
	file := writeDenyFile(t, text)
	l := loadDenyList(t, file)
	s := mtls.DeniedCertificate{IssuerKey: denyHash(4), Serial: big.NewInt(0xabc), Note: "on Monday"}
	k := mtls.DeniedCertificate{PublicKey: denyHash(3)}
	require.NoError(t, l.Add(s, k, mtls.DeniedCertificate{Certificate: denyHash(1), Note: "twice"}))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	added := "\nkey-sha256 " + mtls.KeyHash(denyHash(3)).String() + "\nserial 0abc issuer-key-sha256 " + mtls.KeyHash(denyHash(4)).String() + " # on Monday\n"
	require.Equal(t, text+added, string(data), "comments and order stay")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), info.Mode().Perm())
	require.Equal(t, fmt.Sprint(l.Entries()), fmt.Sprint(loadDenyList(t, file).Entries()), "after a restart")

	other := loadDenyList(t, file)
	require.NoError(t, other.Remove(mtls.DeniedCertificate{Certificate: denyHash(2)}, s))
	data, err = os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "# our list\n\n# the first:\nsha256 "+mtls.CertificateHash(denyHash(1)).String()+"\nkey-sha256 "+mtls.KeyHash(denyHash(3)).String()+"\n", string(data))
	require.Len(t, other.Entries(), 2)
	require.Len(t, l.Entries(), 4, "until it looks")
	err = other.Remove(s)
	require.ErrorContains(t, err, "not in the list")
	require.NotContains(t, err.Error(), "still denied")
	require.NoError(t, l.Remove(s), "it is in force here")
	l.Poll()
	l.Poll()
	require.Len(t, l.Entries(), 2)
	require.NoFileExists(t, file+".lock")
	leftovers, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, leftovers, 1)

	t.Run("a link to the file stays a link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(file, link))
		require.NoError(t, loadDenyList(t, link).Add(mtls.DeniedCertificate{Certificate: denyHash(8)}))
		info, err := os.Lstat(link)
		require.NoError(t, err)
		require.NotZero(t, info.Mode()&fs.ModeSymlink)
		require.Len(t, loadDenyList(t, file).Entries(), 3)
	})
}

func TestDenyListReload(t *testing.T) {
	line := func(b byte) string { return "sha256 " + mtls.CertificateHash(denyHash(b)).String() + "\n" }
	file := writeDenyFile(t, line(1)+line(2))
	l := loadDenyList(t, file)
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o640)) }
	settle := func() {
		for range 3 {
			l.Poll()
		}
	}
	settle()
	state := l.State()
	require.False(t, l.Poll())

	t.Run("a damaged or missing file leaves the present list in force and is reported", func(t *testing.T) {
		for name, damage := range map[string]func(){
			"rubbish":   func() { write(line(1) + "rubbish\n") },
			"truncated": func() { write(line(1) + line(2)[:20]) },
			"missing":   func() { require.NoError(t, os.Remove(file)) },
		} {
			t.Run(name, func(t *testing.T) {
				damage()
				for range 3 {
					require.False(t, l.Poll())
					require.Error(t, l.Err())
				}
				require.Error(t, l.Reload())
				require.Same(t, state, l.State())
				write(line(1) + line(2))
				settle()
				require.NoError(t, l.Err())
				require.Same(t, state, l.State(), "the same list is the same state")
			})
		}
	})
	t.Run("what comes counts at once, what goes when the file has not changed meanwhile", func(t *testing.T) {
		write(line(2) + line(3))
		require.True(t, l.Poll())
		require.Len(t, l.Entries(), 3)
		require.True(t, l.Poll())
		require.Len(t, l.Entries(), 2)
	})
	t.Run("an editor that empties the file before it writes opens no door", func(t *testing.T) {
		write("")
		require.False(t, l.Poll())
		require.Len(t, l.Entries(), 2)
		write(line(2) + line(3) + line(4))
		require.True(t, l.Poll())
		settle()
		require.Len(t, l.Entries(), 3)
	})
	t.Run("Reload takes what is there at once", func(t *testing.T) {
		write(line(9))
		require.NoError(t, l.Reload())
		require.Len(t, l.Entries(), 1)
	})
	t.Run("a change within one tick of the clock and of the same length is found", func(t *testing.T) {
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		write(line(5))
		require.NoError(t, os.Chtimes(file, at, at))
		l.Poll()
		write(line(6))
		require.NoError(t, os.Chtimes(file, at, at))
		l.Poll()
		_, err := os.Stat(file)
		require.NoError(t, err)
		require.Contains(t, l.Entries(), mtls.DeniedCertificate{Certificate: denyHash(6)})
		settle()
		require.Len(t, l.Entries(), 1)
	})
	t.Run("a file that was replaced by one of the same time and length is read", func(t *testing.T) {
		settle()
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		next := file + ".next"
		require.NoError(t, os.WriteFile(next, []byte(line(7)), 0o640))
		require.NoError(t, os.Chtimes(next, at, at))
		require.NoError(t, os.Rename(next, file))
		require.True(t, l.Poll())
		require.Contains(t, l.Entries(), mtls.DeniedCertificate{Certificate: denyHash(7)})
	})
}

func TestDenyListDeniesWhatCannotBeWritten(t *testing.T) {
	file := writeDenyFile(t, "")
	l := loadDenyList(t, file)
	first, second := mtls.DeniedCertificate{Certificate: denyHash(1)}, mtls.DeniedCertificate{Certificate: denyHash(2)}
	dir := filepath.Dir(file)
	away := dir + ".away"
	require.NoError(t, os.Rename(dir, away))
	err := l.Add(first)
	require.ErrorContains(t, err, "not after a restart")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, []mtls.DeniedCertificate{first}, l.Entries())
	require.ErrorContains(t, l.Remove(first), "still denied")
	require.Len(t, l.Entries(), 1)
	require.NoError(t, os.Rename(away, dir))
	require.NoError(t, l.Reload())
	require.Len(t, l.Entries(), 1, "it is still denied when the file is read again without it")
	require.NoError(t, l.Add(second))
	require.Len(t, loadDenyList(t, file).Entries(), 2, "a later Add writes it too")

	t.Run("a damaged file is not written over", func(t *testing.T) {
		require.NoError(t, os.WriteFile(file, []byte("rubbish\n"), 0o640))
		require.ErrorContains(t, l.Add(mtls.DeniedCertificate{Certificate: denyHash(3)}), "not after a restart")
		require.Error(t, l.Remove(first))
		require.Len(t, l.Entries(), 3)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, "rubbish\n", string(data))
		require.NoFileExists(t, file+".lock")
	})
}

func TestDenyListLock(t *testing.T) {
	add := mtls.DeniedCertificate{Certificate: denyHash(1)}
	t.Run("the lock of a process that died, with half a file in it, is taken away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			file := writeDenyFile(t, "# kept\n")
			l := loadDenyList(t, file)
			require.NoError(t, os.WriteFile(file+".lock", []byte("# ke"), 0o600))
			began := time.Now()
			require.NoError(t, l.Add(add))
			require.GreaterOrEqual(t, time.Since(began), 10*time.Second)
			require.Less(t, time.Since(began), 20*time.Second)
			require.Len(t, loadDenyList(t, file).Entries(), 1)
			left, err := os.ReadDir(filepath.Dir(file))
			require.NoError(t, err)
			require.Len(t, left, 1)
		})
	})
	t.Run("one that is in use is waited for, but not for ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			file := writeDenyFile(t, "")
			l := loadDenyList(t, file)
			stop := make(chan struct{})
			done := make(chan struct{})
			go func() { // others, one after the other
				defer close(done)
				for i := 0; ; i++ {
					require.NoError(t, os.WriteFile(file+".lock", make([]byte, i), 0o600))
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
					}
				}
			}()
			synctest.Wait()
			err := l.Add(add)
			close(stop)
			<-done
			require.ErrorContains(t, err, "hold the lock")
			require.Len(t, l.Entries(), 1, "denied all the same")
			require.FileExists(t, file+".lock", "it is not ours")
		})
	})
	t.Run("an owner that slept too long does not write over what others wrote", func(t *testing.T) {
		file := writeDenyFile(t, "# old\n")
		err := mtls.ChangeDenyFile(file, func() {
			require.NoError(t, os.Remove(file+".lock"))
			require.NoError(t, os.WriteFile(file+".lock", []byte("of another"), 0o600))
		})
		require.ErrorContains(t, err, "took the lock away")
		for name, want := range map[string]string{file: "# old\n", file + ".lock": "of another"} {
			data, err := os.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, want, string(data))
		}
	})
	t.Run("a lock in use that was taken for an abandoned one is put back", func(t *testing.T) {
		dir := t.TempDir()
		lock, other := filepath.Join(dir, "lock"), filepath.Join(dir, "other")
		require.NoError(t, os.WriteFile(lock, []byte("in use"), 0o600))
		require.NoError(t, os.WriteFile(other, nil, 0o600))
		seen, err := os.Lstat(other)
		require.NoError(t, err)
		mtls.BreakLock(lock, seen)
		data, err := os.ReadFile(lock)
		require.NoError(t, err)
		require.Equal(t, "in use", string(data))
		seen, err = os.Lstat(lock)
		require.NoError(t, err)
		mtls.BreakLock(lock, seen)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
	t.Run("what is denied in memory does not wait for the file", func(t *testing.T) {
		file := writeDenyFile(t, "")
		l := loadDenyList(t, file)
		require.NoError(t, os.WriteFile(file+".lock", nil, 0o600))
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if err := l.Add(mtls.DeniedCertificate{Certificate: denyHash(byte(i + 1))}); err != nil {
					t.Error(err)
				}
			})
		}
		for len(l.Entries()) < 3 { // while all of them wait
			runtime.Gosched()
		}
		require.Empty(t, loadDenyList(t, file).Entries())
		require.False(t, l.Poll(), "nor does a poll wait")
		require.NoError(t, os.Remove(file+".lock"))
		wg.Wait()
		require.Len(t, loadDenyList(t, file).Entries(), 3)
	})
}

// TestDenyListChild is the other process of the test below.
func TestDenyListChild(t *testing.T) {
	args := strings.Split(os.Getenv("MTLS_TEST_DENYLIST"), "\n")
	if len(args) != 2 {
		t.Skip("only as a child")
	}
	addMany(t, loadDenyList(t, args[0]), args[1][0])
}

// addMany adds 60 entries that begin with a byte, from several goroutines, and
// removes every third.
func addMany(t testing.TB, l *mtls.DenyList, first byte) {
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range 20 {
				h := denyHash(byte(g*20 + i + 1))
				h[0] = first
				d := mtls.DeniedCertificate{PublicKey: h}
				if err := l.Add(d); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					if err := l.Remove(d); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestDenyListOfTwoProcessesLosesNothing(t *testing.T) {
	file := writeDenyFile(t, "# header\n")
	var children []interface{ Wait() error }
	for _, first := range []string{"a", "b"} {
		cmd := childProcess(t, "TestDenyListChild", "MTLS_TEST_DENYLIST", file, first)
		cmd.Stdout = os.Stderr
		require.NoError(t, cmd.Start())
		children = append(children, cmd)
	}
	addMany(t, loadDenyList(t, file), 'c')
	for _, c := range children {
		require.NoError(t, c.Wait())
	}
	entries := loadDenyList(t, file).Entries()
	require.Len(t, entries, 3*3*13)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(data, []byte("# header\n")))
	left, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, left, 1)
}

// TestDenyListAddingChild is the other process of the test below.
func TestDenyListAddingChild(t *testing.T) {
	file := os.Getenv("MTLS_TEST_DENYLIST_ADD")
	if file == "" {
		t.Skip("only as a child")
	}
	l := loadDenyList(t, file)
	for i := uint32(1); ; i++ {
		h := denyHash(1)
		binary.BigEndian.PutUint32(h[:], i)
		require.NoError(t, l.Add(mtls.DeniedCertificate{Certificate: h}))
		fmt.Println("added", mtls.CertificateHash(h))
	}
}

func TestDenyListKeepsWhatWasAddedBeforeAKill(t *testing.T) {
	for range 5 {
		file := writeDenyFile(t, "# header\n")
		cmd := childProcess(t, "TestDenyListAddingChild", "MTLS_TEST_DENYLIST_ADD", file)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		added := map[string]bool{}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if h, ok := strings.CutPrefix(lines.Text(), "added "); ok {
				if added[h] = true; len(added) == 20 {
					require.NoError(t, cmd.Process.Kill())
				}
			}
		}
		require.Error(t, cmd.Wait())
		require.GreaterOrEqual(t, len(added), 20)
		entries := loadDenyList(t, file).Entries()
		require.LessOrEqual(t, len(entries), len(added)+1)
		for _, d := range entries {
			delete(added, d.Certificate.String())
		}
		require.Empty(t, added)
	}
}

// FuzzDenyLine: what is accepted is written in a form that is read as the same
// entry, on one line; and it agrees with the parsers of hashes.
func FuzzDenyLine(f *testing.F) {
	hex := mtls.KeyHash(denyHash(1)).String()
	for _, s := range []string{"", "# x", "sha256 " + hex, "key-sha256 " + strings.ToUpper(hex) + " # n", "serial 00:0a issuer-key-sha256 " + hex + "#\ta # b "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, line, err := mtls.ParseDenyLine(text)
		if err != nil || line == "" {
			return
		}
		require.NotContains(t, line, "\n")
		require.NotContains(t, line, "\r")
		again, same, err := mtls.ParseDenyLine(line)
		require.NoError(t, err)
		require.Equal(t, line, same)
		require.Equal(t, d.Certificate, again.Certificate)
		require.Equal(t, d.PublicKey, again.PublicKey)
		require.Equal(t, d.IssuerKey, again.IssuerKey)
		require.Equal(t, d.Note, again.Note)
		if d.Serial != nil {
			require.Zero(t, d.Serial.Cmp(again.Serial))
		}
		_, err = mtls.NewDenyList(d)
		require.NoError(t, err)
	})
}

func BenchmarkDenyListFind(b *testing.B) {
	c := newDenyChain(b, big.NewInt(1))
	var entries []mtls.DeniedCertificate
	for i := range 10_000 {
		h := denyHash(byte(i))
		h[0], h[1] = byte(i>>8), 1
		entries = append(entries, mtls.DeniedCertificate{Certificate: h})
	}
	l := denyList(b, entries...)
	require.NoError(b, l.Add(mtls.DeniedCertificate{IssuerKey: denyHash(1), Serial: big.NewInt(5)}, mtls.DeniedCertificate{PublicKey: denyHash(1)}))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, ok := l.Find(c.chain...); ok {
			b.Fatal("denied")
		}
	}
}
