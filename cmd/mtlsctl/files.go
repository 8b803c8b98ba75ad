package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/mtlsguard/mtls/internal/pemfile"
)

const (
	maxCertFile   = 16 << 20
	maxChainFile  = 1 << 20 // a client's certificate and its chain, from outside; a service takes 64 KiB
	maxPolicyFile = 64 << 20
	maxListFile   = 128 << 20 // as mtls.LoadCRLs
)

// checkFile sees to it that a file can be read and is no larger than it should be
// before somebody else reads it. A pipe, as the shell makes one of <(...), may have
// any size.
func checkFile(path string, limit int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	kind := info.Mode().Type() &^ os.ModeNamedPipe
	switch {
	case info.IsDir():
		return fmt.Errorf("%s: it is a folder", shown(path))
	case kind != 0:
		return fmt.Errorf("%s: it is not a file", shown(path))
	case info.Size() > limit:
		return fmt.Errorf("%s: it has %d bytes, more than %d", shown(path), info.Size(), limit)
	}
	return nil
}

// checkPolicy sees to it that somebody else can read a policy file. That is a regular
// one, as package policyfile demands: it is read more than once, and a pipe could keep
// its reader waiting.
func checkPolicy(path string) error {
	if err := checkFile(path, maxPolicyFile); err != nil {
		return err
	}
	if err := checkRegular(path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func checkRegular(path string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: it is not a regular file", shown(path))
	}
	return err
}

// readFile reads at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	if err := checkFile(path, limit); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: it has more than %d bytes", shown(path), limit)
	}
	return data, err
}

// loadCertificates reads all certificates of a file, PEM or DER, as strictly as a
// service reads its roots. Of a pipe no more is read than a file may have.
func loadCertificates(path string, limit int64) ([]*x509.Certificate, error) {
	data, err := readFile(path, limit)
	if err != nil {
		return nil, err
	}
	list, err := parseCertificates(data)
	if err == nil && len(list) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: no certificates: %w", shown(path), err)
	}
	return list, nil
}

func parseCertificates(data []byte) (list []*x509.Certificate, err error) {
	if !pemfile.Is(data) {
		return x509.ParseCertificates(data)
	}
	err = pemfile.Each(data, func(block *pem.Block) error {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block %q among the certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", len(list)+1, err)
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// clock is the time that a command works with: that of --time, or now.
func clock(given string) (func() time.Time, error) {
	if given == "" {
		return time.Now, nil
	}
	t, err := time.Parse(time.RFC3339, given)
	if err != nil {
		return nil, fmt.Errorf("--time %q: not a time such as 2026-01-31T15:00:00Z (RFC 3339)", given)
	}
	return func() time.Time { return t }, nil
}

// parsePrefixes reads networks; an address is the network of itself.
func parsePrefixes(flag string, list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := parsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s %q: not a network such as 10.0.0.0/8", flag, s)
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, errors.New("not an address")
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
