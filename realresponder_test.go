package mtls_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ocsp"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// realName is the domain of the clients that real authorities certify.
const realName = "real.acme.example"

// realBench is a guarded service by the clock on the wall, for certificates of a
// real authority.
type realBench struct {
	t      *testing.T
	guard  *mtls.Guard
	server *mtlstest.Server
	seen   *observer
}

func newRealBench(t *testing.T, root string, revocation mtls.Revocation) *realBench {
	t.Helper()
	data, err := os.ReadFile(root)
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	require.NotNil(t, block)
	anchor, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	roots, err := mtls.NewRoots(mtls.Authority{Name: "real", Anchors: []mtls.Anchor{{Certificate: anchor}}})
	require.NoError(t, err)
	policy, err := mtls.NewPolicy(mtls.Rule{Name: "acme", Domains: []string{realName}})
	require.NoError(t, err)
	dns := mtlstest.NewDNS(t)
	dns.Set(realName, "127.0.0.1")
	b := &realBench{t: t, seen: &observer{}}
	revocation.AllowNetworks = mtlstest.Loopback()
	b.guard = mtlstest.NewGuard(t, mtls.Config{
		Roots: roots, Policy: policy, Revocation: &revocation, Resolver: dns.Resolver(),
		Origin: &mtls.Origin{AllowNetworks: mtlstest.Loopback()},
		Limits: mtls.Limits{Wait: hsWait}, // the processes of the responder compete with other tests
		Logger: slog.New(slog.DiscardHandler), Observe: b.seen.observe,
	})
	b.server = mtlstest.NewOptionalServer(t, b.guard, b.guard.Handler(hello)) // which says why it refuses
	return b
}

// asks sends a request with curl and requires a status and, unless it is 200, a
// code.
func (b *realBench) asks(cert, key string, status int, code string) {
	b.t.Helper()
	r, stderr, err := hsCurl(b.t, b.server, nil, "/", "--cert", cert, "--key", key)
	require.NoError(b.t, err, stderr)
	require.Equal(b.t, status, r.Status, "%s %s", r.Body, b.seen.last().Detail())
	if status == http.StatusOK {
		require.Equal(b.t, "acme "+realName, r.Body)
		return
	}
	require.Contains(b.t, r.Body, `"code":"`+code+`"`, b.seen.last().Detail())
}

// proofs returns what the last admission rests on.
func (b *realBench) proofs() string {
	var kinds []string
	for _, step := range b.seen.last().Steps {
		for _, p := range step.Proofs {
			if step.Name == "revocation" {
				kinds = append(kinds, p.Kind+" "+p.Status)
			}
		}
	}
	return strings.Join(kinds, ", ")
}

// opensslCA is an authority as `openssl ca` runs it, with an index of its
// certificates, behind an HTTP server: `openssl ocsp -port` listens on every
// address and spins for ever when a client connects and says nothing.
type opensslCA struct {
	t    *testing.T
	dir  string
	url  string
	mu   sync.Mutex
	mode opensslMode
	n    int // of files
}

// opensslMode is how the responder answers.
type opensslMode struct {
	signer string // its certificate and key; empty: ca
	sha256 bool   // the CertID of the answer is in SHA-256, whatever was asked
}

const opensslConfig = `
[ca]
default_ca = this
[this]
database = DIR/index.txt
new_certs_dir = DIR
serial = DIR/serial
crlnumber = DIR/crlnumber
certificate = DIR/ca.pem
private_key = DIR/ca-key.pem
default_md = sha256
default_days = 30
default_crl_days = 1
unique_subject = no
policy = names
[names]
commonName = supplied
[req]
distinguished_name = nothing
[nothing]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[client_CRL]
crlDistributionPoints = URI:URL/crl
extendedKeyUsage = clientAuth
subjectAltName = DNS:NAME
authorityKeyIdentifier = keyid:always
[client_OCSP]
authorityInfoAccess = OCSP;URI:URL/ocsp
extendedKeyUsage = clientAuth
subjectAltName = DNS:NAME
authorityKeyIdentifier = keyid:always
[client_both]
crlDistributionPoints = URI:URL/crl
authorityInfoAccess = OCSP;URI:URL/ocsp
extendedKeyUsage = clientAuth
subjectAltName = DNS:NAME
authorityKeyIdentifier = keyid:always
[responder]
keyUsage = digitalSignature
extendedKeyUsage = OCSPSigning
noCheck = ignored
authorityKeyIdentifier = keyid:always
[no_responder]
keyUsage = digitalSignature
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid:always
[crl]
authorityKeyIdentifier = keyid:always
[crl_of_the_point]
authorityKeyIdentifier = keyid:always
issuingDistributionPoint = critical, @the_point
[the_point]
fullname = URI:URL/crl
onlyuser = TRUE
[crl_of_another_point]
authorityKeyIdentifier = keyid:always
issuingDistributionPoint = critical, @another_point
[another_point]
fullname = URI:URL/another
`

// opensslKeys are kinds of keys of an authority: of what openssl signs itself.
var opensslKeys = map[string][]string{
	"ECDSA": {"-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"},
	"RSA":   {"-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"},
}

func newOpenSSLCA(t *testing.T, keys string) *opensslCA {
	t.Helper()
	real(t, "openssl")
	ca := &opensslCA{t: t, dir: t.TempDir()}
	front := httptest.NewServer(ca)
	t.Cleanup(front.Close)
	ca.url = front.URL
	config := strings.NewReplacer("DIR", ca.dir, "URL", ca.url, "NAME", realName).Replace(opensslConfig)
	for name, content := range map[string]string{"openssl.cnf": config, "index.txt": "", "serial": "1000\n", "crlnumber": "01\n"} {
		require.NoError(t, os.WriteFile(ca.path(name), []byte(content), 0o600))
	}
	ca.openssl(append([]string{"genpkey", "-out", ca.path("ca-key.pem")}, opensslKeys[keys]...)...)
	ca.openssl("req", "-new", "-x509", "-config", ca.path("openssl.cnf"), "-extensions", "root", "-days", "60", "-subj", "/CN=OpenSSL CA",
		"-key", ca.path("ca-key.pem"), "-out", ca.path("ca.pem"))
	ca.publish("crl")
	return ca
}

func (ca *opensslCA) path(name string) string { return filepath.Join(ca.dir, name) }

func (ca *opensslCA) openssl(args ...string) {
	ca.t.Helper()
	out, problems, err := hsRun(ca.t, "", real(ca.t, "openssl"), args...)
	require.NoError(ca.t, err, "openssl %s: %s %s", args, out, problems)
}

// issue returns the files of a certificate with the extensions of a section.
func (ca *opensslCA) issue(name, section string) (cert, key string) {
	ca.t.Helper()
	cert, key = ca.path(name+".pem"), ca.path(name+"-key.pem")
	ca.openssl(append([]string{"genpkey", "-out", key}, opensslKeys["ECDSA"]...)...)
	ca.openssl("req", "-new", "-config", ca.path("openssl.cnf"), "-subj", "/CN="+name, "-key", key, "-out", ca.path(name+".csr"))
	ca.openssl("ca", "-config", ca.path("openssl.cnf"), "-batch", "-notext", "-extensions", section, "-in", ca.path(name+".csr"), "-out", cert)
	return cert, key
}

// publish writes a list with the extensions of a section.
func (ca *opensslCA) publish(section string) {
	ca.t.Helper()
	ca.openssl("ca", "-config", ca.path("openssl.cnf"), "-gencrl", "-crlexts", section, "-out", ca.path("crl.pem"))
	ca.openssl("crl", "-in", ca.path("crl.pem"), "-outform", "DER", "-out", ca.path("crl.der"))
}

func (ca *opensslCA) revoke(cert string) {
	ca.t.Helper()
	ca.openssl("ca", "-config", ca.path("openssl.cnf"), "-revoke", cert, "-crl_reason", "keyCompromise")
}

func (ca *opensslCA) respond(m opensslMode) { ca.mu.Lock(); ca.mode = m; ca.mu.Unlock() }

// ServeHTTP serves the list, and answers requests for a status with what openssl
// makes of them.
func (ca *opensslCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/crl" {
		http.ServeFile(w, r, ca.path("crl.der"))
		return
	}
	var request []byte
	var err error
	if encoded, ok := strings.CutPrefix(r.URL.EscapedPath(), "/ocsp/"); ok && r.Method == http.MethodGet {
		if encoded, err = url.PathUnescape(encoded); err == nil {
			request, err = base64.StdEncoding.DecodeString(encoded)
		}
	} else {
		request, err = io.ReadAll(io.LimitReader(r.Body, 64<<10))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response, err := ca.answer(r.Context(), request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/ocsp-response")
	_, _ = w.Write(response)
}

// answer runs in the server's goroutines: it has no test to fail.
func (ca *opensslCA) answer(ctx context.Context, request []byte) ([]byte, error) {
	ca.mu.Lock()
	ca.n++
	in, out, mode := ca.path(fmt.Sprintf("%d.req", ca.n)), ca.path(fmt.Sprintf("%d.res", ca.n)), ca.mode
	ca.mu.Unlock()
	if mode.signer == "" {
		mode.signer = "ca"
	}
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "openssl", append([]string{"ocsp"}, args...)...)
		cmd.Env = []string{"HOME=" + ca.dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("openssl ocsp: %w: %s", err, said)
		}
		return nil
	}
	if err := os.WriteFile(in, request, 0o600); err != nil {
		return nil, err
	}
	if mode.sha256 {
		parsed, err := ocsp.ParseRequest(request)
		if err != nil {
			return nil, err
		}
		if err := run("-no_nonce", "-sha256", "-issuer", ca.path("ca.pem"), "-serial", "0x"+parsed.SerialNumber.Text(16), "-reqout", in); err != nil {
			return nil, err
		}
	}
	if err := run("-index", ca.path("index.txt"), "-CA", ca.path("ca.pem"), "-rsigner", ca.path(mode.signer+".pem"), "-rkey", ca.path(mode.signer+"-key.pem"),
		"-ndays", "1", "-reqin", in, "-respout", out); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// TestOpenSSLRevokes: an authority of openssl, whatever its certificates name as
// their source: good is admitted, revoked is refused from the next Refresh on.
func TestOpenSSLRevokes(t *testing.T) {
	t.Parallel()
	real(t, "curl")
	for keys := range opensslKeys {
		for source, proofs := range map[string]string{"CRL": "crl good", "OCSP": "ocsp good", "both": "crl good, ocsp good"} {
			t.Run(keys+"/"+source, func(t *testing.T) {
				t.Parallel()
				ca := newOpenSSLCA(t, keys)
				cert, key := ca.issue("client", "client_"+source)
				other, otherKey := ca.issue("other", "client_"+source)
				b := newRealBench(t, ca.path("ca.pem"), mtls.Revocation{})
				b.asks(cert, key, http.StatusOK, "")
				require.Equal(t, proofs, b.proofs())
				b.asks(other, otherKey, http.StatusOK, "")

				ca.revoke(cert)
				ca.publish("crl")
				require.NoError(t, b.guard.Refresh(t.Context()))
				b.asks(cert, key, http.StatusForbidden, "revoked")
				b.asks(other, otherKey, http.StatusOK, "")

				fresh := newRealBench(t, ca.path("ca.pem"), mtls.Revocation{})
				fresh.asks(cert, key, http.StatusForbidden, "revoked") // by the first look, too
				fresh.asks(other, otherKey, http.StatusOK, "")
			})
		}
	}
}

// TestOpenSSLSourcesDisagree: the worse of two sources counts.
func TestOpenSSLSourcesDisagree(t *testing.T) {
	t.Parallel()
	real(t, "curl")
	ca := newOpenSSLCA(t, "ECDSA")
	cert, key := ca.issue("client", "client_both")
	ca.revoke(cert) // the list is the one of before
	newRealBench(t, ca.path("ca.pem"), mtls.Revocation{}).asks(cert, key, http.StatusForbidden, "revoked")
}

func TestOpenSSLResponders(t *testing.T) {
	t.Parallel()
	real(t, "curl")
	ca := newOpenSSLCA(t, "ECDSA")
	for _, section := range []string{"responder", "no_responder"} {
		ca.issue(section, section)
	}
	good, goodKey := ca.issue("good", "client_OCSP")
	revoked, revokedKey := ca.issue("revoked", "client_OCSP")
	ca.revoke(revoked)
	for _, row := range []struct {
		name    string
		mode    opensslMode
		admits  bool
		refuses string // the code for the revoked one
	}{
		{"the CA itself", opensslMode{}, true, "revoked"},
		{"a CertID in SHA-256", opensslMode{sha256: true}, true, "revoked"},
		{"a delegated responder", opensslMode{signer: "responder"}, true, "revoked"},
		{"a delegated responder, a CertID in SHA-256", opensslMode{signer: "responder", sha256: true}, true, "revoked"},
		{"a certificate without OCSPSigning", opensslMode{signer: "no_responder"}, false, "revocation_unknown"},
	} {
		ca.respond(row.mode)
		b := newRealBench(t, ca.path("ca.pem"), mtls.Revocation{})
		if row.admits {
			b.asks(good, goodKey, http.StatusOK, "")
			b.asks(revoked, revokedKey, http.StatusForbidden, row.refuses)
		} else {
			b.asks(good, goodKey, http.StatusServiceUnavailable, row.refuses)
			b.asks(revoked, revokedKey, http.StatusServiceUnavailable, row.refuses)
		}
	}

	// A certificate that the authority does not remember.
	ca.respond(opensslMode{})
	require.NoError(t, os.WriteFile(ca.path("index.txt"), nil, 0o600))
	newRealBench(t, ca.path("ca.pem"), mtls.Revocation{}).asks(good, goodKey, http.StatusServiceUnavailable, "revocation_unknown")
}

// TestOpenSSLPartitions: a list for a distribution point counts for certificates
// that name the point, and a revocation in it as well.
func TestOpenSSLPartitions(t *testing.T) {
	t.Parallel()
	real(t, "curl")
	ca := newOpenSSLCA(t, "ECDSA")
	cert, key := ca.issue("client", "client_CRL")
	ca.publish("crl_of_another_point")
	newRealBench(t, ca.path("ca.pem"), mtls.Revocation{}).asks(cert, key, http.StatusServiceUnavailable, "revocation_unknown")
	ca.publish("crl_of_the_point")
	b := newRealBench(t, ca.path("ca.pem"), mtls.Revocation{})
	b.asks(cert, key, http.StatusOK, "")
	ca.revoke(cert)
	ca.publish("crl_of_the_point")
	require.NoError(t, b.guard.Refresh(t.Context()))
	b.asks(cert, key, http.StatusForbidden, "revoked")
}
