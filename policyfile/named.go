package policyfile

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/pemfile"
)

const (
	maxNamedFile  = 16 << 20  // bytes of a file of certificates or keys
	maxNamed      = 10_000    // files that one policy names
	maxNamedBytes = 64 << 20  // of all of them
	maxNamedItems = 1_000_000 // elements that they add to the rules of one policy
)

// named are the files that rules name: what they held when they were first read,
// so that one state of a policy is of one state of each file, and what that gave. It
// is safe for concurrent use.
type named struct {
	folder string

	mu    sync.Mutex
	files map[string]*namedFile // by where it is
	bytes int                   // read of them
	full  bool                  // bytes would be more than there may be
	items int                   // added to rules
}

// namedFile is a file that rules name.
type namedFile struct {
	sum    [sha256.Size]byte // of what it held, or of why it could not be read
	unread bool              // sum is of its size and time: there was no room for it
	err    error
	data   []byte
	found  map[string]*found // by the key that names it
}

// found is what a file gave under a key.
type found struct {
	once   sync.Once
	err    error
	hashes [][sha256.Size]byte
	n      int // of hashes
	cas    int // of the certificates, how many are those of CAs
}

func newNamed(folder string) *named { return &named{folder: folder, files: map[string]*namedFile{}} }

func (n *named) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(n.folder, path)
}

// open returns a file, which it reads if it is the first to ask for it. n.mu is held.
func (n *named) open(path string) (*namedFile, error) {
	path = n.resolve(path)
	f := n.files[path]
	if f != nil {
		return f, f.err
	}
	if len(n.files) == maxNamed {
		return nil, fmt.Errorf("more than %d files are named", maxNamed)
	}
	f = &namedFile{found: map[string]*found{}}
	n.files[path] = f
	if !n.full {
		f.data, f.err = readFile(path, maxNamedFile)
		n.full = n.bytes+len(f.data) > maxNamedBytes
	}
	if f.unread = n.full; n.full {
		f.data, f.err, f.sum = nil, fmt.Errorf("the files that are named have more than %d bytes in all", maxNamedBytes), stat(path)
		return f, f.err
	}
	n.bytes += len(f.data)
	f.sum = sum(f.data, f.err)
	return f, f.err
}

// get returns what a file gives under a key. It is read once, and so is that.
func (n *named) get(path, key string, read func(data []byte, into *found) error) (*found, error) {
	n.mu.Lock()
	f, err := n.open(path)
	if err != nil {
		n.mu.Unlock()
		return nil, err
	}
	g := f.found[key]
	if g == nil {
		g = &found{}
		f.found[key] = g
	}
	n.mu.Unlock()
	g.once.Do(func() {
		if g.err = read(f.data, g); g.err != nil {
			g.hashes, g.cas = nil, 0
			g.err = fmt.Errorf("%s: %w", quote(path), g.err)
		}
		g.n = len(g.hashes)
	})
	return g, g.err
}

// room counts elements that are added to rules, and reports whether there is room for
// them.
func (n *named) room(elements int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.items += elements
	return n.items <= maxNamedItems
}

// sum stands for what reading a file gave.
func sum(data []byte, err error) [sha256.Size]byte {
	if err != nil {
		return sha256.Sum256([]byte("error: " + err.Error()))
	}
	s := sha256.Sum256(data)
	return sha256.Sum256(s[:]) // never that of an error
}

// stat stands for a file that is not read.
func stat(path string) [sha256.Size]byte {
	info, err := os.Stat(path)
	if err != nil {
		return sum(nil, err)
	}
	return sha256.Sum256(fmt.Appendf(nil, "unread: %d %d", info.Size(), info.ModTime().UnixNano()))
}

// unchanged reports whether the files are as they were.
func (n *named) unchanged() bool {
	for path, f := range n.files {
		if f.unread {
			if stat(path) != f.sum {
				return false
			}
			continue
		}
		data, err := readFile(path, maxNamedFile)
		if sum(data, err) != f.sum {
			return false
		}
	}
	return true
}

// gave returns what a file has given under a key, or nil.
func (n *named) gave(path, key string) *found {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.files[n.resolve(path)]; f != nil {
		return f.found[key]
	}
	return nil
}

// onlyCAs reports whether some file has given only certificates of CAs where those of
// clients are meant.
func (n *named) onlyCAs() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.files {
		for _, key := range clientFiles {
			if g := f.found[key]; g != nil && g.onlyCAs() {
				return true
			}
		}
	}
	return false
}

// clientFiles are the keys of files that have certificates and keys of clients.
var clientFiles = [...]string{"certificate_files", "public_key_files"}

func (g *found) onlyCAs() bool { return g.n > 0 && g.cas == g.n }

// which returns the place in a list of paths of the file that gave an element, or -1.
func (n *named) which(paths []*node, key string, element int) int {
	for i, path := range paths {
		g := n.gave(path.text, key)
		if g == nil {
			break
		}
		if element < g.n {
			return i
		}
		element -= g.n
	}
	return -1
}

// forget drops what the files held and gave, but not which they were.
func (n *named) forget() {
	for _, f := range n.files {
		f.data = nil
		for _, g := range f.found {
			g.hashes = nil
		}
	}
}

// files reads a list of paths, and adds what each file holds.
func files[T any, H ~[sha256.Size]byte](at func(*T) *[]H, read func(data []byte, into *found) error) field[T] {
	return func(d *decoder, key string, v *node, into *T) {
		var paths []string
		list(func(*node) *[]string { return &paths }, (*decoder).text)(d, key, v, v)
		if len(paths) != len(v.items) {
			return // reported
		}
		known := map[string]bool{}
		for i, path := range paths {
			place := d.named.resolve(path)
			if known[place] {
				d.fail(v.items[i], "%s: %s is listed twice: take one out", key, quote(path))
				continue
			}
			known[place] = true
			g, err := d.named.get(path, key, read)
			if err != nil {
				d.failed.add(&problem{at: v.items[i].at, text: fmt.Sprintf("%s: %v", key, err), err: err})
				continue
			}
			if len(*at(into))+g.n > maxItems {
				d.fail(v.items[i], "%s: with this file the list has more than %d elements: make several rules", key, maxItems)
				return
			}
			if !d.named.room(g.n) {
				d.fail(v.items[i], "%s: with this file the files add more than %d elements to the rules of the policy", key, maxNamedItems)
				return
			}
			for _, h := range g.hashes {
				*at(into) = append(*at(into), H(h))
			}
		}
	}
}

// certificates are the hashes of all certificates of a file.
func certificates(data []byte, into *found) error {
	return eachBlock(data, into, func(kind string, der []byte) (mtls.KeyHash, error) {
		c, err := certificate(kind, der)
		if err != nil {
			return mtls.KeyHash{}, err
		}
		if c.BasicConstraintsValid && c.IsCA {
			into.cas++
		}
		return mtls.KeyHash(mtls.HashCertificate(c)), nil
	})
}

// publicKeys are the hashes of all keys of a file, and of those of its certificates.
func publicKeys(data []byte, into *found) error {
	return eachBlock(data, into, func(kind string, der []byte) (mtls.KeyHash, error) {
		if kind != "CERTIFICATE" {
			_, err := x509.ParsePKIXPublicKey(der)
			if err == nil && (kind == "" || kind == "PUBLIC KEY") {
				return sha256.Sum256(der), nil
			}
			if kind != "" {
				return mtls.KeyHash{}, fmt.Errorf("%s is neither PUBLIC KEY nor CERTIFICATE, or damaged", quote(kind))
			}
		}
		c, err := certificate(kind, der)
		if err != nil {
			return mtls.KeyHash{}, err
		}
		if c.BasicConstraintsValid && c.IsCA {
			into.cas++
		}
		return mtls.HashPublicKey(c), nil
	})
}

// issuers are the hashes of the keys of the CA certificates of a file.
func issuers(data []byte, into *found) error {
	return eachBlock(data, into, func(kind string, der []byte) (mtls.KeyHash, error) {
		c, err := certificate(kind, der)
		if err != nil {
			return mtls.KeyHash{}, err
		}
		if !c.BasicConstraintsValid || !c.IsCA {
			return mtls.KeyHash{}, errors.New("a certificate that is not one of a CA")
		}
		return mtls.HashPublicKey(c), nil
	})
}

func certificate(kind string, der []byte) (*x509.Certificate, error) {
	if kind != "" && kind != "CERTIFICATE" {
		return nil, fmt.Errorf("a PEM block %s among the certificates", quote(kind))
	}
	return x509.ParseCertificate(der)
}

// eachBlock reads all blocks of a PEM file, or a DER file, whose kind is "".
func eachBlock(data []byte, into *found, read func(kind string, der []byte) (mtls.KeyHash, error)) error {
	if !pemfile.Is(data) {
		if len(bytes.TrimSpace(data)) == 0 {
			return errors.New("the file is empty")
		}
		h, err := read("", data)
		if err != nil {
			return fmt.Errorf("neither PEM nor DER: %w", err)
		}
		into.hashes = append(into.hashes, h)
		return nil
	}
	return pemfile.Each(data, func(block *pem.Block) error {
		h, err := read(block.Type, block.Bytes)
		if err != nil {
			return fmt.Errorf("block %d: %w", len(into.hashes)+1, err)
		}
		into.hashes = append(into.hashes, h)
		return nil
	})
}
