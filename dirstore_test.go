package mtls_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
)

func dirStore(t testing.TB, dir string, maxBytes int64) mtls.Store {
	t.Helper()
	s, err := mtls.NewDirStore(dir, maxBytes)
	require.NoError(t, err)
	return s
}

// childProcess runs a test function of this binary in another process, which finds args in
// the environment variable of the name.
func childProcess(t testing.TB, test, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), name+"="+strings.Join(args, "\n"))
	cmd.Stderr = os.Stderr
	return cmd
}

// storePayload is an entry of a made-up size that says itself whether it is whole.
func storePayload(i int) []byte {
	body := bytes.Repeat([]byte{byte(i)}, 1000*(i%50)+i%7)
	sum := sha256.Sum256(body)
	return append(sum[:], body...)
}

func wholePayload(data []byte) bool {
	return len(data) >= sha256.Size && [sha256.Size]byte(data) == sha256.Sum256(data[sha256.Size:])
}

func requireWhole(t testing.TB, data []byte) {
	t.Helper()
	require.True(t, wholePayload(data), "half an entry")
}

func storeSizes(t testing.TB, dir string) (entries int, bytes int64, temps []string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if strings.HasPrefix(e.Name(), ".") {
			temps = append(temps, e.Name())
			continue
		}
		entries++
		bytes += info.Size()
	}
	return entries, bytes, temps
}

func TestDirStoreKeepsEntriesOverARestart(t *testing.T) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "a", "b")
	s := dirStore(t, dir, 0)
	key := "crl-" + strings.Repeat("0f", 32)
	_, err := s.Get(ctx, key)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, s.Put(ctx, key, []byte("one")))
	require.NoError(t, s.Put(ctx, key, []byte("another")))

	data, err := dirStore(t, dir, 0).Get(ctx, key)
	require.NoError(t, err)
	require.Equal(t, "another", string(data))

	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	info, err = os.Stat(filepath.Join(dir, key))
	require.NoError(t, err, "a key that is a safe name is the name")
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())

	t.Run("an entry that somebody changed comes as it is", func(t *testing.T) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, key), []byte("rubbish"), 0o600))
		data, err := s.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, "rubbish", string(data))
	})
	t.Run("a directory that was removed is made again", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(dir))
		_, err := s.Get(ctx, key)
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.NoError(t, s.Put(ctx, key, nil))
		data, err := s.Get(ctx, key)
		require.NoError(t, err)
		require.Empty(t, data)
	})
	t.Run("a context that is over is heeded before anything is done", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, s.Put(ctx, "late", []byte("x")), context.Canceled)
		_, err := s.Get(ctx, key)
		require.ErrorIs(t, err, context.Canceled)
		require.NoFileExists(t, filepath.Join(dir, "late"))
	})
}

func TestDirStoreRefusesWhatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, arg := range map[string]struct {
		dir string
		max int64
	}{
		"no name": {"", 0}, "a file": {file, 0}, "below a file": {filepath.Join(file, "x"), 0}, "a negative bound": {dir, -1},
		"a name with NUL": {dir + "/\x00", 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := mtls.NewDirStore(arg.dir, arg.max)
			require.Nil(t, s)
			pcProblems(t, err)
		})
	}
	t.Run("a directory that cannot be written to", func(t *testing.T) {
		if os.Getuid() == 0 {
			t.Skip("root writes everywhere")
		}
		closed := filepath.Join(dir, "closed")
		require.NoError(t, os.Mkdir(closed, 0o500))
		_, err := mtls.NewDirStore(closed, 0)
		pcProblems(t, err)
	})
}

func TestDirStoreKeysNeitherLeaveNorMeet(t *testing.T) {
	ctx, parent := t.Context(), t.TempDir()
	dir := filepath.Join(parent, "store")
	s := dirStore(t, dir, 0)
	long := strings.Repeat("a", 300)
	keys := []string{"", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "a\x00b", "a\x01b", "a b", "a%20b", "a_b", "a%5Cb", ".hidden", ".tmp-X", "x.", "x",
		"ab", "aB", "AB", "Ab", "\xff", "\xfe", "é", "e\u0301", long, long + "b", long[:200], long[:201], "CON", "c:d", "sha256=" + strings.Repeat("0", 64), "-", "_"}
	h := sha256.Sum256([]byte("../x"))
	keys = append(keys, fmt.Sprintf("sha256=%x", h))
	for _, k := range keys {
		require.NoError(t, s.Put(ctx, k, []byte("of "+k)), "%q", k)
	}
	for _, k := range keys {
		data, err := s.Get(ctx, k)
		require.NoError(t, err, "%q", k)
		require.Equal(t, "of "+k, string(data))
	}
	outside, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Len(t, outside, 1)
	// Where a file system does not tell capitals apart, each has its own file still.
	names := map[string]bool{}
	inside, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range inside {
		require.False(t, e.IsDir())
		require.LessOrEqual(t, len(e.Name()), 200)
		names[strings.ToLower(e.Name())] = true
	}
	require.Len(t, names, len(keys))
}

func TestDirStoreDoesNotFollowLinks(t *testing.T) {
	ctx, parent := t.Context(), t.TempDir()
	dir, secret := filepath.Join(parent, "store"), filepath.Join(parent, "secret")
	s := dirStore(t, dir, 0)
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	require.NoError(t, s.Put(ctx, "other", []byte("other")))
	for name, target := range map[string]string{"outside": secret, "outside-relative": "../secret", "inside": "other", "nowhere": "../created", "itself": "itself"} {
		t.Run(name, func(t *testing.T) {
			link := filepath.Join(dir, name)
			require.NoError(t, os.Symlink(target, link))
			_, err := s.Get(ctx, name)
			require.Error(t, err)
			require.NoError(t, s.Put(ctx, name, []byte("mine")))
			data, err := s.Get(ctx, name)
			require.NoError(t, err)
			require.Equal(t, "mine", string(data))
			info, err := os.Lstat(link)
			require.NoError(t, err)
			require.True(t, info.Mode().IsRegular())
		})
	}
	data, err := os.ReadFile(secret)
	require.NoError(t, err)
	require.Equal(t, "secret", string(data))
	require.NoFileExists(t, filepath.Join(parent, "created"))
	data, err = s.Get(ctx, "other")
	require.NoError(t, err)
	require.Equal(t, "other", string(data))

	t.Run("links are not counted, removed or followed when old entries are", func(t *testing.T) {
		small := dirStore(t, dir, 1000)
		temp := filepath.Join(dir, ".tmp-planted")
		require.NoError(t, os.Symlink(secret, temp))
		require.NoError(t, os.Symlink(secret, filepath.Join(dir, "zz")))
		require.NoError(t, small.Put(ctx, "big", make([]byte, 1000)))
		require.FileExists(t, secret)
		_, n, _ := storeSizes(t, dir)
		require.LessOrEqual(t, n, int64(1000+200))
	})
	t.Run("a directory or a pipe in the place of an entry is a miss", func(t *testing.T) {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
		_, err := s.Get(ctx, "folder")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.Error(t, s.Put(ctx, "folder", []byte("x")))
		_, _, temps := storeSizes(t, dir)
		require.Equal(t, []string{".tmp-planted"}, temps, "a failed Put leaves nothing")
		if out, err := exec.Command("mkfifo", filepath.Join(dir, "pipe")).CombinedOutput(); err != nil {
			t.Skipf("mkfifo: %s", out)
		}
		_, err = s.Get(ctx, "pipe")
		require.ErrorIs(t, err, fs.ErrNotExist)
	})
}

func TestDirStoreBound(t *testing.T) {
	ctx := t.Context()
	old := func(t *testing.T, dir, key string, hours int) {
		at := time.Now().Add(-time.Duration(hours) * time.Hour)
		require.NoError(t, os.Chtimes(filepath.Join(dir, key), at, at))
	}
	t.Run("the least recently used go first, and never the one just written", func(t *testing.T) {
		dir := t.TempDir()
		s := dirStore(t, dir, 8000)
		for i := range 8 {
			key := fmt.Sprintf("k%d", i)
			require.NoError(t, s.Put(ctx, key, make([]byte, 1000)))
			old(t, dir, key, 20-i)
		}
		_, err := s.Get(ctx, "k0") // is used again by this
		require.NoError(t, err)
		require.NoError(t, s.Put(ctx, "new", make([]byte, 1000)))
		for key, there := range map[string]bool{"k0": true, "k1": false, "k2": false, "k3": true, "k7": true, "new": true} {
			_, err := s.Get(ctx, key)
			require.Equal(t, there, err == nil, key)
		}
		require.NoError(t, s.Put(ctx, "all", make([]byte, 8000)))
		n, bytes, _ := storeSizes(t, dir)
		require.Equal(t, 1, n)
		require.EqualValues(t, 8000, bytes)
	})
	t.Run("it holds at any time", func(t *testing.T) {
		dir := t.TempDir()
		s := dirStore(t, dir, 100_000)
		for i := range 400 {
			key := fmt.Sprintf("k%d", i%90)
			require.NoError(t, s.Put(ctx, key, storePayload(i)))
			_, bytes, _ := storeSizes(t, dir)
			require.LessOrEqual(t, bytes, int64(100_000))
			_, err := s.Get(ctx, key)
			require.NoError(t, err)
		}
	})
	t.Run("what others write is found", func(t *testing.T) {
		dir := t.TempDir()
		s := dirStore(t, dir, 100_000)
		require.NoError(t, s.Put(ctx, "a", nil))
		other := dirStore(t, dir, 1<<20)
		for i := range 50 {
			require.NoError(t, other.Put(ctx, fmt.Sprintf("o%d", i), make([]byte, 10_000)))
		}
		for i := range 70 {
			require.NoError(t, s.Put(ctx, fmt.Sprintf("s%d", i), []byte("x")))
		}
		_, bytes, _ := storeSizes(t, dir)
		require.LessOrEqual(t, bytes, int64(100_000))
	})
	t.Run("an entry that alone is too large is refused, and one that was planted is not read", func(t *testing.T) {
		dir := t.TempDir()
		s := dirStore(t, dir, 1000)
		require.NoError(t, s.Put(ctx, "a", []byte("a")))
		require.Error(t, s.Put(ctx, "b", make([]byte, 1001)))
		n, _, temps := storeSizes(t, dir)
		require.Equal(t, 1, n)
		require.Empty(t, temps)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "huge"), make([]byte, 1001), 0o600))
		_, err := s.Get(ctx, "huge")
		require.Error(t, err)
	})
	t.Run("reading notes the time once an hour, and corrects one in the future", func(t *testing.T) {
		dir := t.TempDir()
		s := dirStore(t, dir, 0)
		require.NoError(t, s.Put(ctx, "a", []byte("a")))
		for hours, touched := range map[int]bool{0: false, 2: true, -2: true} {
			old(t, dir, "a", hours)
			before, err := os.Stat(filepath.Join(dir, "a"))
			require.NoError(t, err)
			_, err = s.Get(ctx, "a")
			require.NoError(t, err)
			after, err := os.Stat(filepath.Join(dir, "a"))
			require.NoError(t, err)
			require.Equal(t, touched, !after.ModTime().Equal(before.ModTime()), "%d hours", hours)
		}
	})
	t.Run("temporary files of the dead go after an hour, those of the living stay", func(t *testing.T) {
		dir := t.TempDir()
		for name, hours := range map[string]int{".tmp-dead": 2, ".tmp-future": -2, ".tmp-living": 0, ".other": 2} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600))
			old(t, dir, name, hours)
		}
		require.NoError(t, dirStore(t, dir, 0).Put(ctx, "a", []byte("a")))
		_, _, temps := storeSizes(t, dir)
		require.Equal(t, []string{".other", ".tmp-living"}, temps)
	})
}

// TestDirStoreChild is the other process of the tests below.
func TestDirStoreChild(t *testing.T) {
	args := strings.Split(os.Getenv("MTLS_TEST_DIRSTORE"), "\n")
	if len(args) != 3 {
		t.Skip("only as a child")
	}
	s := dirStore(t, args[0], 4<<20)
	first, err := strconv.Atoi(args[1])
	require.NoError(t, err)
	count, err := strconv.Atoi(args[2])
	require.NoError(t, err)
	fmt.Println("\nwriting")
	for i := first; i < first+count; i++ {
		require.NoError(t, s.Put(t.Context(), fmt.Sprintf("k%d", i%40), storePayload(i)))
		if data, err := s.Get(t.Context(), fmt.Sprintf("k%d", (i*7)%40)); err == nil {
			requireWhole(t, data)
		}
	}
}

func TestDirStoreOfTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	one, two := childProcess(t, "TestDirStoreChild", "MTLS_TEST_DIRSTORE", dir, "0", "300"), childProcess(t, "TestDirStoreChild", "MTLS_TEST_DIRSTORE", dir, "13", "300")
	require.NoError(t, one.Start())
	require.NoError(t, two.Start())
	s := dirStore(t, dir, 4<<20)
	for i := range 300 {
		if data, err := s.Get(t.Context(), fmt.Sprintf("k%d", i%40)); err == nil {
			requireWhole(t, data)
		}
	}
	require.NoError(t, one.Wait())
	require.NoError(t, two.Wait())
	for i := range 40 {
		data, err := s.Get(t.Context(), fmt.Sprintf("k%d", i))
		require.NoError(t, err)
		requireWhole(t, data)
	}
}

func TestDirStoreAfterAKill(t *testing.T) {
	dir := t.TempDir()
	for range 5 {
		cmd := childProcess(t, "TestDirStoreChild", "MTLS_TEST_DIRSTORE", dir, "0", "1000000000")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "writing"; {
		}
		for n, _, _ := storeSizes(t, dir); n < 30; n, _, _ = storeSizes(t, dir) {
		}
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		s := dirStore(t, dir, 0)
		for i := range 40 {
			if data, err := s.Get(t.Context(), fmt.Sprintf("k%d", i)); err == nil {
				requireWhole(t, data)
			}
		}
	}
	// What a writer of half an entry left goes when it is old enough.
	_, _, temps := storeSizes(t, dir)
	for _, temp := range append(temps, ".tmp-AAAA") {
		require.NoError(t, os.WriteFile(filepath.Join(dir, temp), []byte("half"), 0o600))
		at := time.Now().Add(-2 * time.Hour)
		require.NoError(t, os.Chtimes(filepath.Join(dir, temp), at, at))
	}
	require.NoError(t, dirStore(t, dir, 0).Put(t.Context(), "last", []byte("x")))
	_, _, temps = storeSizes(t, dir)
	require.Empty(t, temps)
}

func TestDirStoreIsConcurrent(t *testing.T) {
	dir := t.TempDir()
	stores := []mtls.Store{dirStore(t, dir, 200_000), dirStore(t, dir, 200_000)}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 60 {
				key := fmt.Sprintf("k%d", (i*g)%20)
				if err := stores[g%2].Put(t.Context(), key, storePayload(i)); err != nil {
					t.Error(err)
				}
				if data, err := stores[(g+1)%2].Get(t.Context(), key); err == nil && !wholePayload(data) {
					t.Error("half an entry")
				}
			}
		})
	}
	wg.Wait()
}
