package mtls

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/pemfile"
)

const (
	maxCRLFile  = 128 << 20
	maxCRLFiles = 4096
)

// CRLFiles are certificate revocation lists (RFC 5280 section 5) that the operator
// keeps in files, for CAs whose certificates do not say where their list is, or
// from whose network it cannot be fetched. A list from a file counts for no more
// than one that was fetched: it is verified in full under the key of the issuer
// before it counts. CRLFiles are safe for concurrent use.
type CRLFiles struct {
	paths []string

	mu      sync.Mutex // orders scans
	state   atomic.Pointer[crlFilesState]
	lastErr atomic.Pointer[error] // of the last scan
}

// crlFilesState is one immutable state of CRLFiles.
type crlFilesState struct {
	files map[string]*crlFile // by path
}

// crlFile is what is known of one file. It is immutable.
type crlFile struct {
	path    string
	info    os.FileInfo // when it was last read; nil: it could not be
	settled bool        // it was the same when it was read once more
	err     error       // why it is not as it should be; nil: it is
	lists   []crlInFile // as of when it was last good
}

// crlInFile is what is kept of one list.
type crlInFile struct {
	issuer   string // DER of its issuer's Name
	indirect bool   // it speaks about certificates of other issuers as well
	sum      [sha256.Size]byte
}

// concerns reports whether the list may speak about certificates of the issuer.
func (l crlInFile) concerns(rawIssuer []byte) bool {
	return l.indirect || l.issuer == string(rawIssuer)
}

// LoadCRLs returns the lists in files and folders. A file must exist and hold
// nothing but lists: one in DER, or any number as PEM blocks "X509 CRL", with comments
// between them such as openssl writes; text that may be a damaged block is an error. A folder
// may be empty; of its files those count whose names end in .crl, .pem or .der and
// do not begin with a dot, and for each of them the same holds. Folders in it do
// not count. Symbolic links are followed, as they are in a Kubernetes volume.
//
// A file may have 128 MiB; there may be 4096 files. All problems are reported at
// once, as ConfigErrors. Signatures and times are not looked at here.
//
// While a Guard runs it looks for changes. To change a file, write another one and
// rename it. A file that is damaged or unreadable then makes Guard.Ready report
// it, and the lists last read from it count until they lapse. One that is removed
// counts no more; the last list about a CA counts until it lapses.
func LoadCRLs(paths ...string) (*CRLFiles, error) {
	if len(paths) == 0 {
		return nil, &ConfigError{Field: "LoadCRLs", Problem: "no files"}
	}
	c := &CRLFiles{paths: slices.Clone(paths)}
	c.poll()
	if err := c.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// poll looks for files that came, went or changed, and reports whether a version
// may have changed. It reads only what is new: each changed file twice, at this and
// at the next poll, because two writes within one tick of the file system's clock
// look the same.
func (c *CRLFiles) poll() (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var known map[string]*crlFile
	if old := c.state.Load(); old != nil {
		known = old.files
	}
	files := make(map[string]*crlFile, len(known))
	var failed problems
	for _, path := range c.paths {
		names, err := crlPaths(path)
		if err != nil {
			failed = append(failed, crlProblem(path, err))
			// What cannot be looked at was not removed.
			_, gone := os.Lstat(path)
			for name, f := range known {
				if clean := filepath.Clean(path); filepath.Dir(name) == clean || name == clean && !errors.Is(gone, fs.ErrNotExist) {
					files[name] = f
				}
			}
		}
		// Those that are known come first, so that new ones beyond the bound cannot
		// hide a change of them.
		slices.SortStableFunc(names, func(a, b string) int { return b2i(known[a] == nil) - b2i(known[b] == nil) })
		for _, name := range names {
			if files[name] != nil {
				continue // named twice
			}
			if len(files) >= maxCRLFiles {
				failed.add("CRL files", path, "more than %d files", maxCRLFiles)
				break
			}
			if f := known[name].again(name); f != nil {
				files[name] = f
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := files[name].err; err != nil {
			failed = append(failed, crlProblem(name, err))
		}
	}
	err := failed.err()
	c.lastErr.Store(&err)
	c.state.Store(&crlFilesState{files: files})
	return !maps.EqualFunc(known, files, func(a, b *crlFile) bool { return slices.Equal(a.lists, b.lists) })
}

func crlProblem(path string, err error) error {
	return &ConfigError{Field: "CRL files", Value: path, Problem: "no certificate revocation lists", Err: err}
}

// crlPaths returns the files that a path stands for: itself, or those of a folder.
func crlPaths(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	path = filepath.Clean(path)
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		kind := slices.Contains([]string{".crl", ".pem", ".der"}, strings.ToLower(filepath.Ext(name)))
		if kind && !e.IsDir() && !strings.HasPrefix(name, ".") {
			names = append(names, filepath.Join(path, name))
		}
	}
	return names, nil
}

// again looks at the file once more, and reads it if that is called for. It
// returns nil for what is not there or is a folder. The receiver is what is known;
// it may be nil.
func (f *crlFile) again(path string) *crlFile {
	next := &crlFile{path: path}
	if f != nil {
		next.lists = f.lists
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil { // a link that leads nowhere, too
		next.err = err
		return next
	}
	if info.IsDir() {
		return nil
	}
	same := f != nil && f.info != nil && sameFile(f.info, info)
	if same && f.settled {
		return f
	}
	lists, info, err := readCRLFile(path)
	next.info, next.err = info, err
	next.settled = same && info != nil && sameFile(f.info, info)
	if err == nil {
		next.lists = make([]crlInFile, 0, len(lists))
		for _, l := range lists {
			next.lists = append(next.lists, l.crlInFile)
		}
	}
	return next
}

// readCRL is a list that was just read.
type readCRL struct {
	crlInFile
	der []byte
}

// readCRLFile reads the lists of a regular file. The info is that of what was read,
// or nil.
func readCRLFile(path string) ([]readCRL, os.FileInfo, error) {
	// Opening a pipe would wait for somebody to write to it.
	if info, err := os.Stat(path); err != nil {
		return nil, nil, err
	} else if !info.Mode().IsRegular() {
		return nil, info, errors.New("not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := readAtMost(file, info.Size(), maxCRLFile)
	if err != nil {
		return nil, nil, err
	}
	ders, err := parseCRLs(data)
	if err != nil {
		return nil, info, err
	}
	lists := make([]readCRL, 0, len(ders))
	for i, der := range ders {
		p, err := crl.Peek(der)
		if err != nil {
			return nil, info, fmt.Errorf("list %d: %w", i+1, err)
		}
		lists = append(lists, readCRL{crlInFile{string(p.RawIssuer), p.Indirect, sha256.Sum256(der)}, der})
	}
	return lists, info, nil
}

// readAtMost reads a file of about the given size, and no more than most bytes.
func readAtMost(r io.Reader, size, most int64) ([]byte, error) {
	if size <= most {
		var b bytes.Buffer
		b.Grow(int(size) + bytes.MinRead) // growing step by step would take twice the memory
		if _, err := b.ReadFrom(io.LimitReader(r, most+1)); err != nil {
			return nil, err
		}
		if size = int64(b.Len()); size <= most {
			return b.Bytes(), nil
		}
	}
	return nil, fmt.Errorf("it has more than %d bytes", most)
}

// parseCRLs returns the DER of each list. A file with anything else in it is an
// error: the lists that are not there would be missed only when they are needed.
func parseCRLs(data []byte) ([][]byte, error) {
	_, err := crl.Peek(data)
	if err == nil {
		return [][]byte{data}, nil
	}
	if !pemfile.Is(data) {
		return nil, err
	}
	var ders [][]byte
	err = pemfile.Each(data, func(block *pem.Block) error {
		if block.Type != "X509 CRL" {
			return fmt.Errorf("a PEM block %s among the lists", quote(block.Type))
		}
		ders = append(ders, block.Bytes)
		return nil
	})
	if err == nil && len(ders) == 0 {
		err = errors.New("damaged PEM without a list")
	}
	if err != nil {
		return nil, err
	}
	return ders, nil
}

// concerned returns the files with lists that may speak about certificates of the
// issuer, in order.
func (s *crlFilesState) concerned(rawIssuer []byte) []*crlFile {
	var list []*crlFile
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[path]
		if slices.ContainsFunc(f.lists, func(l crlInFile) bool { return l.concerns(rawIssuer) }) {
			list = append(list, f)
		}
	}
	return list
}

// read returns the DER of all lists that may speak about certificates of the issuer,
// those that it has issued itself and all indirect ones (RFC 5280 section 5.2.5),
// and the version of what it returns. They come from the disk; nothing is kept.
// With an error, of those files that cannot be read now, the lists of the others
// are returned, and a version that is none: what is missing must be asked for
// again, and must not be taken for what is not there.
func (c *CRLFiles) read(rawIssuer []byte) (ders [][]byte, version string, err error) {
	var sums [][sha256.Size]byte
	var failed problems
	for _, f := range c.current().concerned(rawIssuer) {
		lists, _, err := readCRLFile(f.path)
		if err != nil {
			failed = append(failed, crlProblem(f.path, err))
			continue
		}
		for _, l := range lists {
			if l.concerns(rawIssuer) {
				ders = append(ders, l.der)
				sums = append(sums, l.sum)
			}
		}
	}
	if err := failed.err(); err != nil {
		return ders, "", err
	}
	return ders, crlVersion(sums), nil
}

// version returns what read would, as far as the last poll knows, without reading.
// It is the same for the same lists, in whatever files and processes. A file that
// became unreadable counts with what it held.
func (c *CRLFiles) version(rawIssuer []byte) string {
	var sums [][sha256.Size]byte
	for _, f := range c.current().concerned(rawIssuer) {
		for _, l := range f.lists {
			if l.concerns(rawIssuer) {
				sums = append(sums, l.sum)
			}
		}
	}
	return crlVersion(sums)
}

func (c *CRLFiles) current() *crlFilesState {
	if c != nil {
		if s := c.state.Load(); s != nil {
			return s
		}
	}
	return &crlFilesState{}
}

// err returns the problems that the last poll found, or nil.
func (c *CRLFiles) err() error {
	if c != nil {
		if e := c.lastErr.Load(); e != nil {
			return *e
		}
	}
	return nil
}

// crlVersion is a hash over a set of lists, of which the sums are given.
func crlVersion(sums [][sha256.Size]byte) string {
	slices.SortFunc(sums, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	h := sha256.New()
	for _, sum := range slices.Compact(sums) {
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}
