package crl_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/crl"
)

func conformance(t *testing.T, name string, suite any) {
	t.Helper()
	folder := os.Getenv("MTLS_CONFORMANCE")
	if folder == "" {
		t.Skip("MTLS_CONFORMANCE is not set")
	}
	text, err := os.ReadFile(filepath.Join(folder, "fixtures", name))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, suite))
}

// Lists that rustls-webpki's parser is tested with. "specific" ones are refused
// there although RFC 5280 permits them, so that accepting them is no error.
func TestConformanceParse(t *testing.T) {
	var suite struct {
		Cases []struct {
			ID, Expect, Error string
			CRL               []byte
			Contains          []string
			Specific          bool `json:"webpki_specific"`
		}
	}
	conformance(t, "rustls-webpki-crl-parse.json", &suite)
	require.NotEmpty(t, suite.Cases)
	agreed := 0
	for _, v := range suite.Cases {
		l, err := crl.ParseUnverified(v.CRL)
		switch {
		case (err == nil) == (v.Expect == "accept"):
			agreed++
		case err != nil:
			t.Logf("false reject %s: %v", v.ID, err)
		case v.Specific:
			t.Logf("accepted, refused by webpki for a reason of its own: %s (%s)", v.ID, v.Error)
		default:
			t.Errorf("FALSE ACCEPT %s: %s", v.ID, v.Error)
		}
		for _, text := range v.Contains {
			if err != nil {
				continue
			}
			serial, err := hex.DecodeString(text)
			require.NoError(t, err)
			_, ok := l.Lookup(new(big.Int).SetBytes(serial))
			require.True(t, ok, "%s: %s", v.ID, text)
		}
	}
	t.Logf("%d cases: %d agree", len(suite.Cases), agreed)
}

// Paths of rustls-webpki with their lists, as far as lists alone decide them:
// unknown status denies, and a certificate is good only if a list of its issuer
// covers it and does not name it.
func TestConformancePaths(t *testing.T) {
	var suite struct {
		Cases []struct {
			ID, Expect, Scope, Why, Depth, Revocation, Unknown, Stale string
			Time                                                      time.Time
			Leaf                                                      []byte
			Roots, Intermediates, CRLs                                [][]byte
		}
	}
	conformance(t, "rustls-webpki-client-crl.json", &suite)
	require.NotEmpty(t, suite.Cases)
	agreed, skipped := 0, 0
	for _, v := range suite.Cases {
		if v.Revocation != "crl" || v.Stale == "deny" && v.Unknown == "allow" {
			skipped++
			continue
		}
		leaf, err := x509.ParseCertificate(v.Leaf)
		if err != nil { // a relative distribution point name
			require.Equal(t, "reject", v.Expect, v.ID)
			agreed++
			continue
		}
		var issuers []*x509.Certificate
		for _, der := range append(v.Intermediates, v.Roots...) {
			c, err := x509.ParseCertificate(der)
			require.NoError(t, err, v.ID)
			issuers = append(issuers, c)
		}
		subjects := []*x509.Certificate{leaf}
		if v.Depth == "chain" {
			subjects = append(subjects, issuers[:len(v.Intermediates)]...)
		}
		accepted := true
		var why []error
		for _, cert := range subjects {
			good, revoked := false, false
			for _, issuer := range issuers {
				if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
					continue
				}
				for _, der := range v.CRLs {
					l, err := crl.ParseAndVerify(der, issuer)
					if err == nil {
						err = l.Covers(cert)
					}
					if err == nil && v.Stale == "deny" {
						err = l.CheckTime(v.Time, 0)
					}
					if err != nil {
						why = append(why, err)
						continue
					}
					if _, found := l.Lookup(cert.SerialNumber); found {
						revoked = true
					} else {
						good = true
					}
				}
			}
			accepted = accepted && !revoked && (good || v.Unknown == "allow")
		}
		switch {
		case accepted == (v.Expect == "accept"):
			agreed++
		case accepted:
			t.Errorf("FALSE ACCEPT %s (%s): %s", v.ID, v.Scope, v.Why)
		default:
			t.Logf("false reject %s (%s): %v", v.ID, v.Scope, why)
		}
	}
	t.Logf("%d cases: %d agree, %d are not about lists", len(suite.Cases), agreed, skipped)
}
