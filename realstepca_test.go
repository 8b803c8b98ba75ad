package mtls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
)

// tool returns the path of a program of PATH or of the folder MTLS_TOOLS.
func tool(t *testing.T, program, from string) string {
	t.Helper()
	if dir := os.Getenv("MTLS_TOOLS"); dir != "" {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	missing := fmt.Sprintf("%s is neither in PATH nor in the folder MTLS_TOOLS: CGO_ENABLED=0 go install %s", program, from)
	if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
		require.Fail(t, missing)
	}
	t.Skip(missing)
	return ""
}

// stepTemplate makes certificates name the list, which step-ca's do not by
// themselves: the list has a critical issuing distribution point (idpURL), and
// speaks for certificates that name it alone.
const stepTemplate = `{"subject": {{ toJson .Subject }}, "sans": {{ toJson .SANs }}, "keyUsage": ["digitalSignature"], "extKeyUsage": ["clientAuth"],
	"crlDistributionPoints": [%q]}`

// stepCA is a running step-ca.
type stepCA struct {
	t        *testing.T
	step     string
	dir      string
	secret   string // file with the password of its keys
	url, crl string
}

func newStepCA(t *testing.T) *stepCA {
	t.Helper()
	server := tool(t, "step-ca", "github.com/smallstep/certificates/cmd/step-ca@v0.30.2")
	ca := &stepCA{t: t, step: tool(t, "step", "github.com/smallstep/cli/cmd/step@v0.30.2"), dir: t.TempDir()}
	ca.secret = ca.path("password")
	require.NoError(t, os.WriteFile(ca.secret, []byte("password\n"), 0o600))
	ca.run("ca", "init", "--name=step", "--dns=localhost", "--address=127.0.0.1:0", "--provisioner=acme", "--deployment-type=standalone",
		"--password-file="+ca.secret, "--provisioner-password-file="+ca.secret)
	// A port that was free may be taken before step-ca takes it.
	for range 3 {
		if ca.start(server) {
			return ca
		}
	}
	require.Fail(t, "step-ca does not start")
	return nil
}

func (ca *stepCA) path(elem ...string) string {
	return filepath.Join(append([]string{ca.dir}, elem...)...)
}

func (ca *stepCA) root() string { return ca.path("certs", "root_ca.crt") }

func (ca *stepCA) environment() []string {
	return []string{"HOME=" + ca.dir, "STEPPATH=" + ca.dir, "PATH=" + os.Getenv("PATH")}
}

func (ca *stepCA) run(args ...string) {
	ca.t.Helper()
	ctx, cancel := context.WithTimeout(ca.t.Context(), 2*hsWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, ca.step, args...)
	cmd.Env, cmd.WaitDelay = ca.environment(), time.Second
	said, err := cmd.CombinedOutput()
	require.NoError(ca.t, err, "step %s: %s", args, said)
}

// start starts step-ca on two free ports and reports whether it listens there.
func (ca *stepCA) start(server string) bool {
	ca.t.Helper()
	address, insecure := freeAddress(ca.t), freeAddress(ca.t)
	ca.url, ca.crl = "https://"+strings.Replace(address, "127.0.0.1", "localhost", 1), "http://"+insecure+"/crl"
	ca.configure(func(config map[string]any) {
		config["address"], config["insecureAddress"] = address, insecure
		config["crl"] = map[string]any{"enabled": true, "generateOnRevoke": true, "idpURL": ca.crl}
		for _, p := range config["authority"].(map[string]any)["provisioners"].([]any) {
			p.(map[string]any)["options"] = map[string]any{"x509": map[string]any{"template": fmt.Sprintf(stepTemplate, ca.crl)}}
		}
	})
	cmd := exec.Command(server, ca.path("config", "ca.json"), "--password-file="+ca.secret)
	var said bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = ca.environment(), &said, &said, time.Second
	require.NoError(ca.t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }() // its exit tells nothing: it is killed
	ca.t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	client := ca.client()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(hsWait)
	for {
		select {
		case <-ended:
			ca.t.Logf("step-ca ended: %s", said.String())
			return false
		case <-deadline: // it does not end when one of two ports is taken
			_ = cmd.Process.Kill()
			<-ended
			ca.t.Logf("step-ca does not listen: %s", said.String())
			return false
		case <-tick.C:
			// Whoever has taken a port of ours has no certificate of the CA's.
			if found(client, ca.url+"/health") && found(client, ca.crl) {
				return true
			}
		}
	}
}

func (ca *stepCA) configure(change func(map[string]any)) {
	ca.t.Helper()
	path := ca.path("config", "ca.json")
	data, err := os.ReadFile(path)
	require.NoError(ca.t, err)
	var config map[string]any
	require.NoError(ca.t, json.Unmarshal(data, &config))
	change(config)
	data, err = json.Marshal(config)
	require.NoError(ca.t, err)
	require.NoError(ca.t, os.WriteFile(path, data, 0o600))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// client trusts the CA, and nobody else.
func (ca *stepCA) client() *http.Client {
	ca.t.Helper()
	data, err := os.ReadFile(ca.root())
	require.NoError(ca.t, err)
	pool := x509.NewCertPool()
	require.True(ca.t, pool.AppendCertsFromPEM(data))
	return &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
}

func found(c *http.Client, url string) bool {
	res, err := c.Get(url)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (ca *stepCA) issue(name string) (cert, key string) {
	ca.t.Helper()
	cert, key = ca.path(name+".pem"), ca.path(name+"-key.pem")
	ca.run("ca", "certificate", realName, cert, key, "--provisioner=acme", "--provisioner-password-file="+ca.secret,
		"--ca-url="+ca.url, "--root="+ca.root())
	return cert, key
}

func (ca *stepCA) revoke(cert, key string) {
	ca.t.Helper()
	ca.run("ca", "revoke", "--cert="+cert, "--key="+key, "--ca-url="+ca.url, "--root="+ca.root())
}

// TestStepCARevokes: the list of a real step-ca. Its intermediate names no source
// of evidence, so that clients are all that can be checked.
func TestStepCARevokes(t *testing.T) {
	t.Parallel()
	real(t, "curl")
	ca := newStepCA(t)
	cert, key := ca.issue("client")
	other, otherKey := ca.issue("other")
	b := newRealBench(t, ca.root(), mtls.Revocation{LeafOnly: true})
	b.asks(cert, key, http.StatusOK, "")
	require.Equal(t, "crl good", b.proofs())

	ca.revoke(cert, key)
	require.NoError(t, b.guard.Refresh(t.Context()))
	b.asks(cert, key, http.StatusForbidden, "revoked")
	b.asks(other, otherKey, http.StatusOK, "")
	newRealBench(t, ca.root(), mtls.Revocation{LeafOnly: true}).asks(cert, key, http.StatusForbidden, "revoked")
	newRealBench(t, ca.root(), mtls.Revocation{}).asks(other, otherKey, http.StatusForbidden, "revocation_source_missing")
}
