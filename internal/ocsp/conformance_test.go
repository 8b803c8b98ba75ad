package ocsp_test

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/internal/ocsp"
)

type vector struct {
	ID, Expect, Scope, Status, Why string
	Time                           time.Time
	MaxAge                         int64  `json:"max_age_s"`
	Request                        []byte `json:"ocsp_request"`
	Leaf, Issuer                   []byte
	OCSPs                          [][]byte
}

// evaluate is what a caller does with a response.
func evaluate(v vector) (*ocsp.Answer, error) {
	cert, err := x509.ParseCertificate(v.Leaf)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(v.Issuer)
	if err != nil {
		return nil, err
	}
	var a *ocsp.Answer
	for _, der := range v.OCSPs {
		if a, err = ocsp.Verify(der, cert, issuer, v.Time, skew); err != nil {
			return nil, err
		}
		noNextUpdateAge := time.Hour
		if v.MaxAge != 0 {
			noNextUpdateAge = time.Duration(v.MaxAge) * time.Second
		}
		if err := a.CheckTime(v.Time, skew, noNextUpdateAge); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Published vectors: no response may be accepted that they refuse. Those that
// are refused although they ought to be accepted are listed with the reason;
// nearly all are signed with SHA-1.
func TestConformance(t *testing.T) {
	folder := os.Getenv("MTLS_CONFORMANCE")
	if folder == "" {
		t.Skip("MTLS_CONFORMANCE is not set")
	}
	for _, name := range []string{"chromium-ocsp.json", "openssl-ocsp.json"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(folder, "fixtures", name))
			require.NoError(t, err)
			var suite struct{ Cases []vector }
			require.NoError(t, json.Unmarshal(text, &suite))
			require.NotEmpty(t, suite.Cases)
			agreed, falseAccepts, falseRejects := 0, 0, 0
			for _, v := range suite.Cases {
				a, err := evaluate(v)
				accepted := err == nil && a.Status == ocsp.Good
				switch {
				case accepted == (v.Expect == "accept"):
					agreed++
				case accepted:
					falseAccepts++
					t.Errorf("FALSE ACCEPT %s (%s): %s", v.ID, v.Scope, v.Why)
				default:
					falseRejects++
					t.Logf("false reject %s (%s): %v", v.ID, v.Scope, err)
				}
				if v.Request != nil {
					cert, err1 := x509.ParseCertificate(v.Leaf)
					issuer, err2 := x509.ParseCertificate(v.Issuer)
					if err1 != nil || err2 != nil {
						continue
					}
					request, err := ocsp.NewRequest(cert, issuer)
					require.NoError(t, err)
					require.Equal(t, v.Request, request, v.ID)
				}
			}
			t.Logf("%d cases: %d agree, %d false accepts, %d false rejects", len(suite.Cases), agreed, falseAccepts, falseRejects)
		})
	}
}
