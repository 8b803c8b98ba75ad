package mtls

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// A DenyList is a list of certificates that the operator denies at once, whatever
// CRLs and OCSP say: for the time until an issuer has published a revocation, and
// for issuers that never do. It looks at every certificate of a client's chain.
// The zero DenyList is empty and in memory. A DenyList is safe for concurrent
// use, and every change is all or nothing; a decision sees one state of it.
type DenyList struct {
	file string // empty: in memory

	// fileMu orders what concerns the file. It may be held as long as another
	// process has the file, so what is denied in memory does not wait for it.
	fileMu  sync.Mutex
	seen    os.FileInfo // of the file when it was last read; nil: it could not be
	sum     [sha256.Size]byte
	settled bool // it was the same when it was read once more

	mu      sync.Mutex  // orders changes of the state; taken after fileMu
	listed  denyEntries // of the file, or all of a list in memory; never changed in place
	pending denyEntries // denied, and not yet in the file; never changed in place
	state   atomic.Pointer[denyState]
	lastErr atomic.Pointer[error] // of the last Reload
}

// NewDenyList returns a list in memory, which may be empty. All problems are
// reported at once, as ConfigErrors.
func NewDenyList(entries ...DeniedCertificate) (*DenyList, error) {
	l := &DenyList{}
	if err := l.Add(entries...); err != nil {
		return nil, err
	}
	return l, nil
}

// LoadDenyList returns a list that is kept in a text file, which must exist and
// may have no entries. Each line is empty, a comment or one entry, which a comment
// may follow:
//
//	# stolen laptop, reported by the partner
//	sha256 <64 hexadecimal digits>  # the certificate
//	key-sha256 <64 hexadecimal digits>
//	serial <hexadecimal digits> issuer-key-sha256 <64 hexadecimal digits>
//
// Capitals, and colons between bytes, are accepted, as openssl prints them. All
// problems are reported at once with the number of the line, as ConfigErrors.
func LoadDenyList(file string) (*DenyList, error) {
	l := &DenyList{file: file}
	if file == "" {
		return nil, &ConfigError{Field: "DenyList: file", Problem: "empty; NewDenyList makes a list in memory"}
	}
	if err := l.Reload(); err != nil {
		return nil, err
	}
	return l, nil
}

// check returns the entries by what they deny; of two for the same, the first.
func (l *DenyList) check(entries []DeniedCertificate) (denyEntries, error) {
	checked := denyEntries{}
	var failed problems
	for i, d := range entries {
		k, d, err := d.checked()
		if err != nil {
			failed.add(fmt.Sprintf("DenyList: entry %d", i), "", "%v", err)
			continue
		}
		if _, twice := checked[k]; !twice {
			checked[k] = d
		}
	}
	return checked, failed.err()
}

// Add denies certificates, from its beginning on and for every later decision. For
// a list with a file, it returns when they are in the file. If they cannot be
// written they are denied all the same, and the error says that they are not after
// a restart; a later Add writes them too. Certificates that are denied already
// keep their Note. With an entry that is malformed nothing is added.
//
// The file is replaced by a new one (rename), with its comments, its order and its
// mode; its owner is that of the process. Any number of processes may change one
// file: they take turns by a lock, FILE.lock, for which Add waits at most 30
// seconds. An editor takes no part in that, so do not edit the file while programs
// add to it.
func (l *DenyList) Add(entries ...DeniedCertificate) error {
	added, err := l.check(entries)
	if err != nil {
		return err
	}
	l.deny(added)
	if l.file == "" || len(added) == 0 {
		return nil
	}
	if err := l.save(added); err != nil {
		l.deny(added) // if a Remove came in between
		return &ConfigError{Field: "DenyList", Value: l.file, Problem: "denied now, but not after a restart: the file was not written", Err: err}
	}
	return nil
}

// deny puts entries into force in memory.
func (l *DenyList) deny(added denyEntries) {
	l.mu.Lock()
	defer l.mu.Unlock()
	listed, pending := maps.Clone(l.listed), maps.Clone(l.pending)
	if listed == nil {
		listed = denyEntries{}
	}
	if pending == nil {
		pending = denyEntries{}
	}
	for k, d := range added {
		if _, ok := listed[k]; ok {
			continue
		}
		if l.file == "" {
			listed[k] = d
		} else if _, ok := pending[k]; !ok {
			pending[k] = d
		}
	}
	l.set(listed, pending)
}

// set makes the state of what is listed and what is pending. The caller holds mu.
// A state that says the same stays, so that verdicts that depend on it last.
func (l *DenyList) set(listed, pending denyEntries) {
	l.listed, l.pending = listed, pending
	entries := maps.Clone(pending)
	if entries == nil {
		entries = denyEntries{}
	}
	maps.Copy(entries, listed)
	if old := l.state.Load(); old == nil || !maps.EqualFunc(old.entries, entries, func(a, b DeniedCertificate) bool { return a.Note == b.Note }) {
		l.state.Store(newDenyState(entries))
	}
}

// save writes entries, and all that are pending, to the file.
func (l *DenyList) save(added denyEntries) error {
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	entries, err := changeDenyFile(l.file, func(f denyFile) ([]byte, error) {
		missing := maps.Clone(added)
		l.mu.Lock()
		maps.Copy(missing, l.pending)
		l.mu.Unlock()
		for k := range f.entries {
			delete(missing, k)
		}
		return f.with(missing), nil
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	pending := maps.Clone(l.pending)
	for k := range entries {
		delete(pending, k)
	}
	// What the file lacks now another process removed, or an editor is about to
	// write: poll finds out which.
	listed := maps.Clone(l.listed)
	maps.Copy(listed, entries)
	l.set(listed, pending)
	return nil
}

// Remove no longer denies certificates, which are named as in the list; Note does
// not matter. For a list with a file, the file is written first: if that fails,
// all of them are denied as before. An entry that is not in the list is an error,
// and nothing is removed. Other processes follow when they read the file again.
func (l *DenyList) Remove(entries ...DeniedCertificate) error {
	removed, err := l.check(entries)
	if err != nil || len(removed) == 0 {
		return err
	}
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	unknown := func(in denyEntries) error {
		state := l.current().entries
		var failed problems
		for _, k := range slices.SortedFunc(maps.Keys(removed), denyKey.compare) {
			_, here := state[k]
			if _, there := in[k]; !here && !there {
				failed.add("DenyList", removed[k].line(), "not in the list")
			}
		}
		return failed.err()
	}
	if l.file == "" {
		if err := unknown(nil); err != nil {
			return err
		}
	} else {
		var missing error
		_, err := changeDenyFile(l.file, func(f denyFile) ([]byte, error) {
			missing = unknown(f.entries)
			return f.without(removed), missing
		})
		if missing != nil {
			return missing
		}
		if err != nil {
			return &ConfigError{Field: "DenyList", Value: l.file, Problem: "still denied: the file was not written", Err: err}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listed, pending := maps.Clone(l.listed), maps.Clone(l.pending)
	for k := range removed {
		delete(listed, k)
		delete(pending, k)
	}
	l.set(listed, pending)
	return nil
}

// Reload reads the file again and takes what it says. On error the present list
// stays in force, and Guard.Ready reports it until a later Reload succeeds. A list
// in memory stays as it is.
func (l *DenyList) Reload() error {
	if l.file == "" {
		return nil
	}
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	return l.reload(true)
}

// reload reads the file. Unless the caller is sure that it is whole, an entry that
// is gone from it stays in force until the file is found unchanged once more: many
// editors empty a file before they write it. The caller holds fileMu.
func (l *DenyList) reload(sure bool) error {
	f, err := readDenyFile(l.file)
	same := f.info != nil && l.seen != nil && sameFile(l.seen, f.info) && l.sum == f.sum
	l.seen, l.sum, l.settled = f.info, f.sum, same
	l.lastErr.Store(&err)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listed, pending := f.entries, maps.Clone(l.pending)
	for k := range listed {
		delete(pending, k)
	}
	if !sure && !same {
		for k, d := range l.listed {
			if _, ok := listed[k]; !ok {
				listed[k] = d
			}
		}
	}
	l.set(listed, pending)
	return nil
}

// Entries returns a copy of all that is denied: first certificates, then keys, then
// serial numbers, each in the order of their values.
func (l *DenyList) Entries() []DeniedCertificate {
	entries := l.current().entries
	var list []DeniedCertificate
	for _, k := range slices.SortedFunc(maps.Keys(entries), denyKey.compare) {
		d := entries[k]
		if d.Serial != nil {
			d.Serial = new(big.Int).Set(d.Serial)
		}
		list = append(list, d)
	}
	return list
}

// current returns the state in force; of nil, one that is empty.
func (l *DenyList) current() *denyState {
	if l != nil {
		if s := l.state.Load(); s != nil {
			return s
		}
	}
	return nothingDenied
}

// poll reads the file again if it was changed, and reports whether the state did.
func (l *DenyList) poll() (changed bool) {
	if l == nil || l.file == "" || !l.fileMu.TryLock() {
		return false // whoever has it reads the file
	}
	defer l.fileMu.Unlock()
	if info, err := os.Stat(l.file); err == nil && l.settled && l.seen != nil && sameFile(l.seen, info) {
		return false
	}
	before := l.current()
	_ = l.reload(false) // kept for err
	return l.current() != before
}

// err is the error of the last Reload, or nil.
func (l *DenyList) err() error {
	if l != nil {
		if e := l.lastErr.Load(); e != nil {
			return *e
		}
	}
	return nil
}
