package policyfile

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/pemfile"
)

const (
	maxNamedFile = 16 << 20 // bytes of a file of certificates or keys
	maxNamed     = 10_000   // files that one policy names
)

// named are the files that rules name: what they held when they were first read,
// so that one state of a policy is of one state of each file. It is safe for
// concurrent use.
type named struct {
	folder string

	mu    sync.Mutex
	files map[string]*namedFile // by the path in the rules
}

// namedFile is a file that rules name.
type namedFile struct {
	sum   [sha256.Size]byte // of what it held, or of why it could not be read
	err   error
	data  []byte
	found map[string]int // by the key that names it: how many elements it gave
}

func newNamed(folder string) *named { return &named{folder: folder, files: map[string]*namedFile{}} }

func (n *named) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(n.folder, path)
}

// read returns what a file holds.
func (n *named) read(path string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.files[path]
	if f == nil {
		if len(n.files) == maxNamed {
			return nil, fmt.Errorf("more than %d files are named", maxNamed)
		}
		f = &namedFile{found: map[string]int{}}
		f.data, f.err = readFile(n.resolve(path), maxNamedFile)
		f.sum = sum(f.data, f.err)
		n.files[path] = f
	}
	return f.data, f.err
}

// sum stands for what reading a file gave.
func sum(data []byte, err error) [sha256.Size]byte {
	if err != nil {
		return sha256.Sum256([]byte("error: " + err.Error()))
	}
	s := sha256.Sum256(data)
	return sha256.Sum256(s[:]) // never that of an error
}

// gave notes how many elements a file gave under a key.
func (n *named) gave(path, key string, elements int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.files[path].found[key] = elements
}

// which returns the place in a list of paths of the file that gave an element, or -1.
func (n *named) which(paths []*node, key string, element int) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, path := range paths {
		f := n.files[path.text]
		if f == nil {
			break
		}
		if element < f.found[key] {
			return i
		}
		element -= f.found[key]
	}
	return -1
}

// forget drops what the files held, but not which they were.
func (n *named) forget() {
	for _, f := range n.files {
		f.data = nil
	}
}

// files reads a list of paths, and adds what each file holds.
func files[T, H any](at func(*T) *[]H, read func([]byte) ([]H, error)) field[T] {
	return func(d *decoder, key string, v *node, into *T) {
		var paths []string
		list(func(*node) *[]string { return &paths }, (*decoder).text)(d, key, v, v)
		if len(paths) != len(v.items) {
			return // reported
		}
		for i, path := range paths {
			data, err := d.named.read(path)
			if err != nil {
				d.failed.add(&problem{at: v.items[i].at, text: fmt.Sprintf("%s: %v", key, err), err: err})
				continue
			}
			found, err := read(data)
			if err != nil {
				d.fail(v.items[i], "%s: %s: %v", key, quote(path), err)
			}
			d.named.gave(path, key, len(found))
			*at(into) = append(*at(into), found...)
		}
	}
}

// certificates are the hashes of all certificates of a file.
func certificates(data []byte) ([]mtls.CertificateHash, error) {
	return eachBlock(data, func(kind string, der []byte) (mtls.CertificateHash, error) {
		c, err := certificate(kind, der)
		if err != nil {
			return mtls.CertificateHash{}, err
		}
		return mtls.HashCertificate(c), nil
	})
}

// publicKeys are the hashes of all keys of a file, and of those of its certificates.
func publicKeys(data []byte) ([]mtls.KeyHash, error) {
	return eachBlock(data, func(kind string, der []byte) (mtls.KeyHash, error) {
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
		return mtls.HashPublicKey(c), nil
	})
}

// issuers are the hashes of the keys of the CA certificates of a file.
func issuers(data []byte) ([]mtls.KeyHash, error) {
	return eachBlock(data, func(kind string, der []byte) (mtls.KeyHash, error) {
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
func eachBlock[H any](data []byte, read func(kind string, der []byte) (H, error)) (found []H, err error) {
	if !pemfile.Is(data) {
		if len(bytes.TrimSpace(data)) == 0 {
			return nil, errors.New("the file is empty")
		}
		h, err := read("", data)
		if err != nil {
			return nil, fmt.Errorf("neither PEM nor DER: %w", err)
		}
		return []H{h}, nil
	}
	err = pemfile.Each(data, func(block *pem.Block) error {
		h, err := read(block.Type, block.Bytes)
		if err != nil {
			return fmt.Errorf("block %d: %w", len(found)+1, err)
		}
		found = append(found, h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
