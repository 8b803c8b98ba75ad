package mtls

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	maxDenyFile     = 16 << 20 // more than a hundred thousand entries
	maxDenyProblems = 100      // that are reported of one file

	lockPause    = 5 * time.Millisecond
	lockPatience = 10 * time.Second // a lock that stays untouched for as long is of a process that died
	lockTimeout  = 30 * time.Second
)

// denyFile is what the file of a DenyList holds.
type denyFile struct {
	data    []byte
	lines   []denyLine
	entries denyEntries

	info os.FileInfo // nil: it could not be read
	sum  [sha256.Size]byte
}

// denyLine is a line of the file, with its end.
type denyLine struct {
	text string
	key  denyKey // zero, which names nothing: it has no entry
}

// readDenyFile reads and parses the file. With a problem in what it says, info and
// sum are those of what was read.
func readDenyFile(file string) (denyFile, error) {
	unreadable := func(err error) (denyFile, error) {
		return denyFile{}, &ConfigError{Field: "DenyList: file", Value: file, Problem: "cannot be read", Err: err}
	}
	handle, err := os.Open(file)
	if err != nil {
		return unreadable(err)
	}
	defer handle.Close()
	info, err := handle.Stat()
	if err != nil {
		return unreadable(err)
	}
	data, err := io.ReadAll(io.LimitReader(handle, maxDenyFile+1))
	if err == nil && len(data) > maxDenyFile {
		err = fmt.Errorf("it has more than %d bytes", maxDenyFile)
	}
	if err != nil {
		return unreadable(err)
	}
	f, err := parseDenyFile(file, data)
	f.info, f.sum = info, sha256.Sum256(data)
	return f, err
}

// parseDenyFile reads all lines, and reports all that cannot be understood: a line
// that is skipped would be a certificate that is admitted.
func parseDenyFile(file string, data []byte) (denyFile, error) {
	f := denyFile{data: data, entries: denyEntries{}}
	var failed problems
	for text := range strings.Lines(string(data)) {
		line := denyLine{text: text}
		key, d, entry, err := parseDenyLine(strings.TrimRight(text, "\r\n"))
		switch {
		case err != nil && len(failed) == maxDenyProblems:
			failed.add("DenyList: "+file, "", "and more")
			return denyFile{}, failed.err()
		case err != nil:
			failed.add(fmt.Sprintf("DenyList: %s: line %d", file, len(f.lines)+1), strings.TrimSpace(text), "%v", err)
		case entry:
			line.key = key
			if _, twice := f.entries[key]; !twice {
				f.entries[key] = d
			}
		}
		f.lines = append(f.lines, line)
	}
	if err := failed.err(); err != nil {
		return denyFile{}, err
	}
	return f, nil
}

// parseDenyLine reads one line. It has no entry if it is empty or a comment.
func parseDenyLine(text string) (k denyKey, d DeniedCertificate, entry bool, err error) {
	text, note, _ := strings.Cut(text, "#")
	words := strings.Fields(text)
	if len(words) == 0 {
		return k, d, false, nil
	}
	switch {
	case words[0] == "sha256" && len(words) == 2:
		d.Certificate, err = ParseCertificateHash(words[1])
	case words[0] == "key-sha256" && len(words) == 2:
		d.PublicKey, err = ParseKeyHash(words[1])
	case words[0] == "serial" && len(words) == 4 && words[2] == "issuer-key-sha256":
		if d.Serial, err = parseSerial(words[1]); err == nil {
			d.IssuerKey, err = ParseKeyHash(words[3])
		}
	default:
		err = errors.New(`not "sha256 HASH", "key-sha256 HASH" or "serial HEX issuer-key-sha256 HASH"`)
	}
	if err != nil {
		return denyKey{}, DeniedCertificate{}, false, errors.New(strings.TrimPrefix(err.Error(), "mtls: "))
	}
	d.Note = note
	k, d, err = d.checked()
	return k, d, err == nil, err
}

// parseSerial reads hexadecimal digits, which big.Int would also take with a sign.
func parseSerial(s string) (*big.Int, error) {
	digits := strings.ReplaceAll(s, ":", "")
	hexadecimal := func(r rune) bool { return strings.ContainsRune("0123456789abcdefABCDEF", r) }
	if digits == "" || len(digits) > 4*maxDenySerial || strings.TrimLeftFunc(digits, hexadecimal) != "" {
		return nil, fmt.Errorf("%s is not a serial number of hexadecimal digits", quote(s))
	}
	n, _ := new(big.Int).SetString(digits, 16)
	return n, nil
}

// line is the entry as the file has it, without its end.
func (d DeniedCertificate) line() string {
	s := d.words()
	if d.Note != "" {
		s += " # " + d.Note
	}
	return s
}

func (d DeniedCertificate) words() string {
	switch {
	case d.Certificate != CertificateHash{}:
		return "sha256 " + d.Certificate.String()
	case d.PublicKey != KeyHash{}:
		return "key-sha256 " + d.PublicKey.String()
	default:
		return fmt.Sprintf("serial %s issuer-key-sha256 %s", cmp.Or(hex.EncodeToString(d.Serial.Bytes()), "00"), d.IssuerKey)
	}
}

// describe is the entry for a decision.
func (d DeniedCertificate) describe() string {
	s := "on the deny list: " + d.words()
	if d.Note != "" {
		s += " (" + quote(d.Note) + ")"
	}
	return s
}

// with returns the contents of the file with further entries at its end.
func (f denyFile) with(added denyEntries) []byte {
	if len(added) == 0 {
		return f.data
	}
	data := bytes.Clone(f.data)
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	for _, k := range slices.SortedFunc(maps.Keys(added), denyKey.compare) {
		data = append(append(data, added[k].line()...), '\n')
	}
	return data
}

// without returns the contents of the file without the lines of some entries.
func (f denyFile) without(removed denyEntries) []byte {
	var data []byte
	for _, line := range f.lines {
		if _, gone := removed[line.key]; !gone {
			data = append(data, line.text...)
		}
	}
	return data
}

// changeDenyFile replaces the file by what edit makes of it, while no other process
// does, and returns what it denies then. The file is what it was or what it shall
// be at any time, also after a crash.
func changeDenyFile(file string, edit func(denyFile) ([]byte, error)) (denyEntries, error) {
	file, err := filepath.EvalSymlinks(file) // the file is replaced, and not a link to it
	if err != nil {
		return nil, err
	}
	lock, err := lockFile(file + ".lock")
	if err != nil {
		return nil, err
	}
	defer lock.release()
	f, err := readDenyFile(file)
	if err != nil {
		return nil, err
	}
	data, err := edit(f)
	if err != nil {
		return nil, err
	}
	next, err := parseDenyFile(file, data)
	if err != nil {
		return nil, err
	}
	switch {
	case bytes.Equal(data, f.data):
		return next.entries, nil
	case len(data) > maxDenyFile:
		return nil, fmt.Errorf("it would have more than %d bytes", maxDenyFile)
	}
	return next.entries, lock.commit(file, data, f.info.Mode().Perm())
}

// fileLock is a lock on a file: another file beside it, which only one process can
// create, and which then becomes the file. So the new contents appear and the lock
// goes in one step, and a crash leaves nothing but the lock.
type fileLock struct {
	handle *os.File
	info   os.FileInfo // which file it is
	path   string
	spent  bool // it has become the file
}

func newFileLock(handle *os.File, path string) (*fileLock, error) {
	info, err := handle.Stat()
	if err != nil {
		_ = handle.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return &fileLock{handle: handle, info: info, path: path}, nil
}

// lockFile creates the lock, or waits for it. One that nobody touches for
// lockPatience was left by a process that died, and is taken away. Its owner, if it
// only slept, finds that out before it renames.
func lockFile(path string) (*fileLock, error) {
	var seen os.FileInfo
	var unchanged time.Duration
	for waited := time.Duration(0); waited < lockTimeout; waited += lockPause {
		handle, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return newFileLock(handle, path)
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		switch info, err := os.Lstat(path); {
		case err != nil: // released in between
		case seen == nil || !sameFile(seen, info):
			seen, unchanged = info, 0
		case unchanged >= lockPatience:
			breakLock(path, seen)
		default:
			unchanged += lockPause
		}
		<-time.NewTimer(lockPause).C
	}
	return nil, fmt.Errorf("other processes hold the lock %s", quote(path))
}

// breakLock takes away the lock that was seen. Of several processes that find it
// abandoned only one can rename it; if that was another, and what is there now is a
// lock in use, it is put back.
func breakLock(path string, seen os.FileInfo) {
	aside := path + "." + rand.Text()
	if os.Rename(path, aside) != nil {
		return
	}
	if info, err := os.Lstat(aside); err == nil && !os.SameFile(info, seen) {
		_ = os.Link(aside, path)
	}
	_ = os.Remove(aside)
}

// held returns an error if the lock was taken away.
func (l *fileLock) held() error {
	if now, err := os.Lstat(l.path); err != nil || !os.SameFile(now, l.info) {
		return errors.New("another process took the lock away, because nothing happened for too long")
	}
	return nil
}

// commit makes the data the contents of the file.
func (l *fileLock) commit(file string, data []byte, mode fs.FileMode) error {
	_, err := l.handle.Write(data)
	if err == nil {
		err = l.handle.Chmod(mode)
	}
	if err == nil {
		err = l.handle.Sync()
	}
	if err != nil {
		return err
	}
	if err := l.held(); err != nil {
		return err
	}
	if err := l.handle.Close(); err != nil { // some systems do not rename what is open
		return err
	}
	if err := os.Rename(l.path, file); err != nil {
		return err
	}
	l.spent = true
	// The rename itself is durable when the directory is. Not every system can do
	// that, and the file is whole either way.
	if dir, err := os.Open(filepath.Dir(file)); err == nil {
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}

// release gives the lock back, unless it has become the file or is another's.
func (l *fileLock) release() {
	if l.spent {
		return
	}
	mine := l.held() == nil // while it is open, no other file can be mistaken for it
	_ = l.handle.Close()
	if mine {
		_ = os.Remove(l.path)
	}
}

// sameFile reports whether a file is unchanged, as far as that can be told without
// reading it.
func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
