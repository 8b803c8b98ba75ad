package mtls

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mtlsguard/mtls/internal/pemfile"
)

// LoadRoots reads one private authority from files of PEM or DER certificates,
// named "roots". It is what a service starts with whose CAs may each speak for
// every client. Where each partner has a CA of its own, give each an Authority
// with Domains instead (LoadAuthority, NewRoots): otherwise one partner's CA can
// issue a certificate for another's name, and only the origin is left to stop it.
func LoadRoots(files ...string) (*Roots, error) {
	a, err := LoadAuthority(files...)
	if err != nil {
		return nil, err
	}
	a.Name = "roots"
	return NewRoots(a)
}

// LoadAuthority reads the anchors of a private authority from files of PEM or
// DER certificates, and names it after the first file. Everything else in the
// result may be set before it is used. Roots.Reload reads the same files again.
func LoadAuthority(files ...string) (Authority, error) {
	if len(files) == 0 {
		return Authority{}, &ConfigError{Field: "LoadAuthority", Problem: "no files"}
	}
	anchors, err := loadAnchors(files)
	if err != nil {
		return Authority{}, err
	}
	base := filepath.Base(files[0])
	return Authority{
		Name:    strings.TrimSuffix(base, filepath.Ext(base)),
		Anchors: anchors,
		files:   slices.Clone(files),
		loaded:  slices.Clone(anchors),
	}, nil
}

// Reload reads the files of the authorities that LoadRoots and LoadAuthority
// made again, and replaces their anchors, all or nothing. Authorities without
// files stay as they are. On error the present state stays, as in Replace.
func (r *Roots) Reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.state.Load()
	if state == nil {
		return &ConfigError{Field: "Roots", Problem: "not made by NewRoots or LoadRoots"}
	}
	var list []Authority
	var failed problems
	for _, a := range state.authorities {
		next := a.Authority
		if len(a.files) > 0 {
			anchors, err := loadAnchors(a.files)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			next.reloaded(anchors)
		}
		list = append(list, next)
	}
	if err := failed.err(); err != nil {
		r.lastErr.Store(&err)
		return err
	}
	return r.replace(list)
}

// reloaded takes what the files hold now in place of what they held, and keeps
// what the caller has made of it: anchors added or left out, and constraints,
// also for a CA that is issued anew or comes back.
func (a *Authority) reloaded(now []Anchor) {
	has := func(list []Anchor, c *x509.Certificate) bool {
		return slices.ContainsFunc(list, func(x Anchor) bool { return x.Certificate.Equal(c) })
	}
	a.omitted, a.constrained = slices.Clone(a.omitted), slices.Clone(a.constrained)
	for _, anchor := range a.loaded {
		if !has(a.Anchors, anchor.Certificate) && !has(a.omitted, anchor.Certificate) {
			a.omitted = append(a.omitted, anchor)
		}
	}
	var list []Anchor
	for _, anchor := range a.Anchors {
		if !has(a.loaded, anchor.Certificate) {
			list = append(list, anchor)
		}
		if anchor.Constraint != nil && !has(a.constrained, anchor.Certificate) {
			a.constrained = append(a.constrained, anchor)
		}
	}
	for _, anchor := range now {
		if has(a.omitted, anchor.Certificate) || has(list, anchor.Certificate) {
			continue
		}
		for _, c := range a.constrained {
			if bytes.Equal(c.Certificate.RawSubject, anchor.Certificate.RawSubject) &&
				bytes.Equal(c.Certificate.RawSubjectPublicKeyInfo, anchor.Certificate.RawSubjectPublicKeyInfo) {
				anchor.Constraint = c.Constraint
			}
		}
		list = append(list, anchor)
	}
	a.Anchors, a.loaded = list, now
}

// loadAnchors reads every certificate of every file. A file that cannot be read
// in full, holds no certificate or holds anything else in PEM is an error: a
// swallowed one here is how CVE-2026-27586 turned a missing CA file into trust
// in the whole web.
func loadAnchors(files []string) ([]Anchor, error) {
	var anchors []Anchor
	var failed problems
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			failed = append(failed, &ConfigError{Field: "CA file", Value: file, Problem: "cannot be read", Err: err})
			continue
		}
		certs, err := parseCertificates(data)
		if err != nil {
			failed = append(failed, &ConfigError{Field: "CA file", Value: file, Problem: "not a list of certificates", Err: err})
			continue
		}
		for _, c := range certs {
			anchors = append(anchors, Anchor{Certificate: c})
		}
	}
	return anchors, failed.err()
}

func parseCertificates(data []byte) (certs []*x509.Certificate, err error) {
	if !pemfile.Is(data) {
		certs, err := x509.ParseCertificates(data)
		if err == nil && len(certs) == 0 {
			err = fmt.Errorf("it is empty")
		}
		return certs, err
	}
	err = pemfile.Each(data, func(block *pem.Block) error {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("a PEM block %q among the certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
		return nil
	})
	if err == nil && len(certs) == 0 {
		err = fmt.Errorf("it holds no certificate")
	}
	if err != nil {
		return nil, err
	}
	return certs, nil
}
