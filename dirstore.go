package mtls

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultStoreBytes = 1 << 30
	maxStoreEntry     = 128 << 20 // the largest CRL that is fetched
	maxStoreName      = 200       // bytes; every file system has room for it

	storeTempPrefix = ".tmp-"   // no entry begins with a dot
	storeTempAge    = time.Hour // older: its writer is gone
	storeTouchAge   = time.Hour // a read entry counts as used again after it
	storeScanPuts   = 64        // other processes write as well, so that a count of our own is not enough
)

// dirStore is a Store in a directory. The directory is opened anew for every
// operation, so that one that was removed and made again is found.
type dirStore struct {
	dir      string
	maxBytes int64
	now      func() time.Time

	mu      sync.Mutex
	scanned bool
	used    int64 // estimate of the bytes of all entries
	written int64 // since the last scan
	puts    int   // since the last scan
}

// NewDirStore returns a Store that keeps its entries as files of a directory,
// which it makes (mode 0700) if it is missing. The directory must be for the Store
// alone, because old files in it are removed. Several processes may use one at
// once.
//
// An entry is written to a temporary file, synced and renamed, so that neither a
// crash nor another process shows half of one. Symbolic links are not followed.
// An entry may have 128 MiB, or maxBytes if that is less; Put of a larger one is
// an error, and Get of one a miss.
//
// When the entries exceed maxBytes (zero: 1 GiB), those that were written or read
// least recently are removed. With several processes the bound may be exceeded by
// an eighth for each, and what they are writing comes on top. The time of reading
// is noted once an hour at most. Temporary files of a process that died are
// removed after an hour.
//
// Errors are ConfigErrors: a directory that cannot be made or written to.
func NewDirStore(dir string, maxBytes int64) (Store, error) {
	var failed problems
	if dir == "" {
		failed.add("Store: directory", "", "empty")
	}
	if maxBytes < 0 {
		failed.add("Store: maxBytes", fmt.Sprint(maxBytes), "negative")
	}
	if err := failed.err(); err != nil {
		return nil, err
	}
	unusable := func(err error) (Store, error) {
		return nil, &ConfigError{Field: "Store: directory", Value: dir, Problem: "cannot be used", Err: err}
	}
	abs, err := filepath.Abs(dir) // the process may change its directory
	if err != nil {
		return unusable(err)
	}
	s := &dirStore{dir: abs, maxBytes: cmp.Or(maxBytes, defaultStoreBytes), now: time.Now}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return unusable(err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return unusable(err)
	}
	defer root.Close()
	// A directory that cannot be written to would show only as evidence that is
	// missing after the next restart.
	temp, err := writeTemp(root, nil)
	if err == nil {
		err = root.Remove(temp)
	}
	if err != nil {
		return unusable(err)
	}
	return s, nil
}

// storeName returns the file name of a key. A name that is the same on every file
// system is taken as it is; others, such as those with capitals, which some file
// systems do not tell apart, are hashed. "=" keeps the two apart.
func storeName(key string) string {
	portable := func(r rune) bool { return strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-", r) }
	if key != "" && len(key) <= maxStoreName && key[0] != '.' && key[len(key)-1] != '.' &&
		strings.TrimLeftFunc(key, portable) == "" {
		return key
	}
	return fmt.Sprintf("sha256=%x", sha256.Sum256([]byte(key)))
}

func (s *dirStore) maxEntry() int64 { return min(s.maxBytes, maxStoreEntry) }

// Get implements Store.
func (s *dirStore) Get(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("mtls: Store: %w", err)
	}
	defer root.Close()
	name := storeName(key)
	data, modified, err := readEntry(root, name, s.maxEntry())
	if err != nil {
		return nil, fmt.Errorf("mtls: Store: %w", err)
	}
	// A time in the future, from before a clock was set right, is corrected too.
	if now := s.now(); now.Sub(modified).Abs() > storeTouchAge {
		_ = root.Chtimes(name, now, now) // without it the entry only goes earlier
	}
	return data, nil
}

// readEntry reads a regular file of a bounded size. Anything else is not an entry:
// a symbolic link was planted, and opening a pipe would never return.
func readEntry(root *os.Root, name string, most int64) ([]byte, time.Time, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, time.Time{}, fmt.Errorf("%s: %w as a regular file", name, fs.ErrNotExist)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close()
	// What was opened need not be what was looked at.
	if info, err = f.Stat(); err != nil {
		return nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, time.Time{}, fmt.Errorf("%s: not a regular file of at most %d bytes", name, most)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", name, err)
	}
	return data, info.ModTime(), nil
}

// Put implements Store.
func (s *dirStore) Put(ctx context.Context, key string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if int64(len(data)) > s.maxEntry() {
		return fmt.Errorf("mtls: Store: an entry of %d bytes, and at most %d may be kept", len(data), s.maxEntry())
	}
	if err := s.put(storeName(key), data); err != nil {
		return fmt.Errorf("mtls: Store: %w", err)
	}
	return nil
}

func (s *dirStore) put(name string, data []byte) error {
	root, err := os.OpenRoot(s.dir)
	if errors.Is(err, fs.ErrNotExist) { // somebody emptied the cache, directory and all
		if err = os.MkdirAll(s.dir, 0o700); err == nil {
			root, err = os.OpenRoot(s.dir)
		}
	}
	if err != nil {
		return err
	}
	defer root.Close()
	temp, err := writeTemp(root, data)
	if err != nil {
		return err
	}
	var replaced int64
	if info, err := root.Lstat(name); err == nil {
		replaced = info.Size()
	}
	// A rename replaces a symbolic link and does not follow it.
	if err := root.Rename(temp, name); err != nil {
		_ = root.Remove(temp)
		return err
	}
	return s.account(root, name, int64(len(data)), replaced)
}

// writeTemp writes and syncs a temporary file, and returns its name. Nobody can
// plant a link under a name that is random and must not exist.
func writeTemp(root *os.Root, data []byte) (name string, err error) {
	name = storeTempPrefix + rand.Text()
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync() // otherwise a crash may leave the new name with nothing in it
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = root.Remove(name)
		return "", err
	}
	return name, nil
}

// account counts an entry that was written, and scans the directory when the
// bound may have been exceeded.
func (s *dirStore) account(root *os.Root, name string, size, replaced int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += size - replaced
	s.written += size
	s.puts++
	if s.scanned && s.used <= s.maxBytes && s.written <= s.maxBytes/8 && s.puts < storeScanPuts {
		return nil
	}
	used, err := s.sweep(root, name)
	if err != nil {
		return err
	}
	s.scanned, s.used, s.written, s.puts = true, used, 0, 0
	return nil
}

// sweep removes the temporary files that nobody writes any more and, if the
// entries exceed the bound, the oldest but the one just written, until an eighth
// is free again. It returns the bytes that are left. What other processes remove
// meanwhile is gone and no error.
func (s *dirStore) sweep(root *os.Root, just string) (int64, error) {
	dir, err := root.Open(".")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	list, err := dir.ReadDir(-1)
	if err != nil {
		return 0, err
	}
	now, used := s.now(), int64(0)
	var entries []fs.FileInfo
	for _, e := range list {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if strings.HasPrefix(e.Name(), storeTempPrefix) {
			if now.Sub(info.ModTime()).Abs() > storeTempAge {
				_ = root.Remove(e.Name())
			}
			continue
		}
		if name := e.Name(); name == storeName(name) || strings.HasPrefix(name, "sha256=") {
			entries = append(entries, info)
			used += info.Size()
		}
	}
	if used <= s.maxBytes {
		return used, nil
	}
	slices.SortFunc(entries, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	var failed error
	for _, e := range entries {
		if used <= s.maxBytes-s.maxBytes/8 {
			break
		}
		if e.Name() == just {
			continue
		}
		if err := root.Remove(e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err
			continue
		}
		used -= e.Size()
	}
	if failed != nil && used > s.maxBytes {
		return used, fmt.Errorf("more than %d bytes are kept, and old entries cannot be removed: %w", s.maxBytes, failed)
	}
	return used, nil
}
