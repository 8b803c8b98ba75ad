package mtls_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/internal/crl"
	"github.com/mtlsguard/mtls/internal/ocsp"
)

// vector is one case of somebody's test suite.
type vector struct {
	id     string
	accept bool // what the suite expects
	// excused says why accepting it would be no error, although the suite does not;
	// empty: it would.
	excused string
	run     func(t *testing.T) error // nil: accepted
}

// fixture is a case of the suites that are one JSON file.
type fixture struct {
	ID, Expect, Error, Why, Depth, Revocation, Unknown, Stale string
	Time                                                      time.Time
	Leaf, Issuer, CRL                                         []byte
	Roots, Intermediates, CRLs, OCSPs                         [][]byte
	Contains                                                  []string
	Specific                                                  bool `json:"webpki_specific"`
	MaxAge                                                    int  `json:"max_age_s"`
}

// suites are the test vectors that other projects publish, from the folder that
// MTLS_CONFORMANCE names.
var suites = map[string]func(*testing.T, string) []vector{
	"pkits":                    pkits,
	"rustls-webpki-client-crl": fixtures("rustls-webpki-client-crl", pathVector),
	"rustls-webpki-crl-parse":  fixtures("rustls-webpki-crl-parse", listVector),
	"chromium-ocsp":            fixtures("chromium-ocsp", responseVector),
	"openssl-ocsp":             fixtures("openssl-ocsp", responseVector),
}

// TestConformance runs every case of every suite and prints the totals. No case may
// be accepted that its suite rejects, and those that are rejected although it
// accepts them are the ones of docs/conformance.md, each with its reason.
func TestConformance(t *testing.T) {
	folder := os.Getenv("MTLS_CONFORMANCE")
	if folder == "" {
		t.Skip("MTLS_CONFORMANCE is not set")
	}
	listed := falseRejects(t)
	for _, name := range slices.Sorted(maps.Keys(suites)) {
		var agree, excused int
		var accepts, rejects []string
		vectors := suites[name](t, folder)
		require.NotEmpty(t, vectors, name)
		for _, v := range vectors {
			err := v.run(t)
			switch {
			case (err == nil) == v.accept:
				agree++
			case err != nil:
				rejects = append(rejects, v.id)
				if listed[name+" "+v.id] == "" {
					t.Errorf("%s %s: rejected, and docs/conformance.md does not say why: %v", name, v.id, err)
				}
			case v.excused != "":
				excused++
				t.Logf("%s %s: accepted; the suite does not, because %s", name, v.id, v.excused)
			default:
				accepts = append(accepts, v.id)
				t.Errorf("FALSE ACCEPT %s %s", name, v.id)
			}
			delete(listed, name+" "+v.id+" seen")
			if err != nil && v.accept {
				delete(listed, name+" "+v.id)
			}
		}
		t.Logf("%-26s %3d cases: %3d agree, %d accepted for a reason, %d false accepts, %d false rejects",
			name, len(vectors), agree, excused, len(accepts), len(rejects))
	}
	for id := range listed {
		t.Errorf("docs/conformance.md lists %s, which is not rejected", id)
	}
}

// falseRejects reads the table of docs/conformance.md.
func falseRejects(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("docs", "conformance.md"))
	require.NoError(t, err)
	list := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| ([a-z0-9-]+) \\| `([^`]+)` \\| (.+) \\|$").FindAllStringSubmatch(string(text), -1) {
		list[m[1]+" "+m[2]] = m[3]
	}
	return list
}

func fixtures(name string, make func(*testing.T, fixture) vector) func(*testing.T, string) []vector {
	return func(t *testing.T, folder string) []vector {
		text, err := os.ReadFile(filepath.Join(folder, "fixtures", name+".json"))
		require.NoError(t, err)
		var suite struct{ Cases []fixture }
		require.NoError(t, json.Unmarshal(text, &suite))
		var list []vector
		for _, f := range suite.Cases {
			v := make(t, f)
			v.id, v.accept = f.ID, f.Expect == "accept"
			list = append(list, v)
		}
		return list
	}
}

// lists is a source of all CRLs of a case.
type lists [][]byte

func (l lists) Evidence(context.Context, *x509.Certificate, *x509.Certificate) (mtls.Evidence, error) {
	return mtls.Evidence{CRLs: l}, nil
}

// admits lets a Guard decide on a chain, at a time, with a rule that lists the
// certificate itself.
func admits(sent, anchors [][]byte, now time.Time, r *mtls.Revocation, change func(*mtls.Rule)) error {
	a := mtls.Authority{Name: "suite", Revocation: r}
	for _, der := range anchors {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		a.Anchors = append(a.Anchors, mtls.Anchor{Certificate: c})
	}
	roots, err := mtls.NewRoots(a)
	if err != nil {
		return err
	}
	var certs []*x509.Certificate
	for _, der := range sent {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		certs = append(certs, c)
	}
	rule := mtls.Rule{Name: "suite", Certificates: []mtls.CertificateHash{mtls.HashCertificate(certs[0])}, Origin: mtls.NoOrigin()}
	if change != nil {
		change(&rule)
	}
	policy, err := mtls.NewPolicy(rule)
	if err != nil {
		return err
	}
	guard, err := mtls.New(mtls.Config{
		Roots: roots, Policy: policy, Now: func() time.Time { return now }, Logger: slog.New(slog.DiscardHandler),
		Limits: mtls.Limits{Certificates: 64, Bytes: 1 << 20},
	})
	if err != nil {
		return err
	}
	_, err = guard.Check(context.Background(), mtls.Peer{TLS: tls.ConnectionState{HandshakeComplete: true, PeerCertificates: certs}})
	var denied *mtls.DeniedError
	if errors.As(err, &denied) {
		return fmt.Errorf("%s: %s", denied.Reason, denied.Decision.Detail())
	}
	return err
}

// pkits is NIST's suite for path validation (PKITS 1.0.1).
func pkits(t *testing.T, folder string) []vector {
	folder = filepath.Join(folder, "pkits")
	text, err := os.ReadFile(filepath.Join(folder, "manifest.json"))
	require.NoError(t, err)
	var suite struct {
		Time  time.Time `json:"validation_time"`
		Cases []struct {
			ID, Leaf, Expect    string
			Anchor              string `json:"trust_anchor"`
			Intermediates, CRLs []string
			Settings            struct {
				Policies []string `json:"initial_policy_set"`
				Explicit bool     `json:"initial_explicit_policy"`
				Mapping  bool     `json:"initial_policy_mapping_inhibit"`
				Any      bool     `json:"initial_any_policy_inhibit"`
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &suite))
	read := func(kind string, names ...string) [][]byte {
		var list [][]byte
		for _, name := range names {
			der, err := os.ReadFile(filepath.Join(folder, kind, name))
			require.NoError(t, err)
			list = append(list, der)
		}
		return list
	}
	var list []vector
	for _, c := range suite.Cases {
		// A rule that lists policies demands that the chain is valid for one of them,
		// which is initial-explicit-policy.
		var policies []x509.OID
		for _, name := range c.Settings.Policies {
			if n, ok := strings.CutPrefix(name, "NIST-test-policy-"); ok {
				oid, err := x509.ParseOID("2.16.840.1.101.3.2.1.48." + n)
				require.NoError(t, err)
				policies = append(policies, oid)
			}
		}
		v := vector{id: c.ID, accept: c.Expect == "accept", run: func(t *testing.T) error {
			return admits(read("certs", append([]string{c.Leaf}, c.Intermediates...)...), read("certs", c.Anchor), suite.Time,
				&mtls.Revocation{Sources: []mtls.RevocationSource{lists(read("crls", c.CRLs...))}, MaxAge: 40 * 365 * 24 * time.Hour},
				func(r *mtls.Rule) { r.PolicyOIDs = policies })
		}}
		if s := c.Settings; s.Mapping || s.Any || s.Explicit && len(policies) == 0 {
			v.excused = "it starts with policy settings that a rule cannot ask for"
		}
		list = append(list, v)
	}
	return list
}

// pathVector is a chain and its lists. Where the suite lets unknown pass, so does
// SoftFail, and where it lets stale pass, Grace.
func pathVector(t *testing.T, f fixture) vector {
	return vector{run: func(t *testing.T) error {
		r := &mtls.Revocation{LeafOnly: f.Depth == "leaf"}
		if f.Revocation == "none" {
			r = mtls.NoRevocation()
		} else {
			r.Sources = []mtls.RevocationSource{lists(f.CRLs)}
			if f.Unknown == "allow" {
				r.Mode, r.SoftFail = mtls.SoftFail, []mtls.Reason{mtls.ReasonRevocationUnknown, mtls.ReasonRevocationSourceMissing}
			}
			if f.Stale == "allow" {
				r.Grace = 72 * time.Hour
			}
		}
		return admits(append([][]byte{f.Leaf}, f.Intermediates...), f.Roots, f.Time, r, nil)
	}}
}

// responseVector is an OCSP response for a certificate.
func responseVector(t *testing.T, f fixture) vector {
	return vector{run: func(t *testing.T) error {
		leaf, err := x509.ParseCertificate(f.Leaf)
		if err != nil {
			return err
		}
		issuer, err := x509.ParseCertificate(f.Issuer)
		if err != nil {
			return err
		}
		var failed error = errors.New("no response")
		for _, der := range f.OCSPs {
			a, err := ocsp.Verify(der, leaf, issuer, f.Time, 5*time.Minute)
			if err == nil {
				err = a.CheckTime(f.Time, 5*time.Minute, time.Hour)
			}
			if err == nil && f.MaxAge > 0 && f.Time.After(a.ThisUpdate.Add(time.Duration(f.MaxAge)*time.Second)) {
				err = errors.New("too old")
			}
			if err == nil && a.Status != ocsp.Good {
				return fmt.Errorf("status %v", a.Status)
			}
			failed = err
		}
		return failed
	}}
}

// listVector is a list alone. Only verified lists can be read, so it is signed
// again by an issuer of its name.
func listVector(t *testing.T, f fixture) vector {
	v := vector{run: func(t *testing.T) error {
		der, issuer, err := signAgain(f.CRL)
		if err != nil {
			return err
		}
		l, err := crl.ParseAndVerify(der, issuer)
		if err != nil {
			return err
		}
		for _, text := range f.Contains {
			serial, err := hex.DecodeString(text)
			require.NoError(t, err)
			_, ok := l.Lookup(&x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), RawIssuer: l.RawIssuer})
			require.True(t, ok, "%s: %s", f.ID, text)
		}
		if l.Version1 {
			return errors.New("version 1, which counts only where it is allowed by name")
		}
		return nil
	}}
	if f.Specific {
		v.excused = "webpki asks for more than RFC 5280: " + f.Error
	}
	return v
}

// signAgain replaces the signature of a list.
func signAgain(der []byte) ([]byte, *x509.Certificate, error) {
	var list struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	rest, err := asn1.Unmarshal(der, &list)
	if err != nil {
		return nil, nil, err
	}
	hash := crypto.SHA256
	var key crypto.Signer
	switch oid := list.Algorithm.Algorithm.String(); oid {
	case "1.2.840.10045.4.3.3":
		hash = crypto.SHA384
		fallthrough
	case "1.2.840.10045.4.3.2":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "1.2.840.113549.1.1.12":
		hash = crypto.SHA384
		fallthrough
	case "1.2.840.113549.1.1.11":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, nil, fmt.Errorf("algorithm %s", oid)
	}
	if err != nil {
		return nil, nil, err
	}
	p, err := crl.Peek(der)
	if err != nil {
		return nil, nil, err
	}
	signature, err := crypto.SignMessage(key, rand.Reader, list.TBS.FullBytes, hash)
	if err != nil {
		return nil, nil, err
	}
	list.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	signed, err := asn1.Marshal(list)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), RawSubject: p.RawIssuer, SubjectKeyId: p.AuthorityKeyID,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign,
	}
	issuer, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(issuer)
	return append(bytes.Clone(signed), rest...), c, err
}
