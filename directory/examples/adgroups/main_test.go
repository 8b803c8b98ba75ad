package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls/directory/internal/testdir"
	"github.com/mtlsguard/mtls/mtlstest"
)

// servers are the real directories of this run.
var servers testdir.Servers

func TestMain(m *testing.M) {
	code := m.Run()
	servers.Stop()
	os.Exit(code)
}

// extensions are those of a certificate of Active Directory Certificate Services.
const extensions = `
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[san]
otherName = 1.3.6.1.4.1.311.20.2.3;FORMAT:UTF8,UTF8:UPN
[client]
basicConstraints = CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth,1.3.6.1.4.1.311.20.2.2
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = @san
1.3.6.1.4.1.311.25.2 = ASN1:SEQUENCE:sid_extension
[sid_extension]
name = IMPLICIT:0,SEQUENCE:sid_name
[sid_name]
type = OID:1.3.6.1.4.1.311.25.2.1
value = EXPLICIT:0,FORMAT:ASCII,OCTETSTRING:SID
`

// authority is a CA of openssl.
type authority struct {
	t   *testing.T
	dir string
}

func (a authority) openssl(args ...string) {
	a.t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = a.dir
	out, err := cmd.CombinedOutput()
	require.NoError(a.t, err, "openssl %v\n%s", args, out)
}

func newAuthority(t *testing.T, name string) authority {
	a := authority{t, t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "ca.cnf"), []byte("[req]\ndistinguished_name=dn\n[dn]\n"+extensions), 0o600))
	a.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30",
		"-subj", "/DC=test/DC=ad/CN="+name, "-config", "ca.cnf", "-extensions", "ca")
	return a
}

func (a authority) certificate() *x509.Certificate {
	data, err := os.ReadFile(filepath.Join(a.dir, "ca.pem"))
	require.NoError(a.t, err)
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(a.t, err)
	return cert
}

// issue issues a certificate for 5 days, which needs no revocation source.
func (a authority) issue(name, upn, sid string) (certFile, keyFile string) {
	text := strings.NewReplacer("UTF8:UPN", "UTF8:"+upn, "OCTETSTRING:SID", "OCTETSTRING:"+sid).Replace(extensions)
	if sid == "" {
		before, _, _ := strings.Cut(text, "1.3.6.1.4.1.311.25.2 =")
		text = before
	}
	require.NoError(a.t, os.WriteFile(filepath.Join(a.dir, name+".cnf"), []byte(text), 0o600))
	a.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name+".key", "-out", name+".csr", "-subj", "/CN="+name)
	a.openssl("x509", "-req", "-in", name+".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "5", "-extfile", name+".cnf", "-extensions", "client", "-out", name+".pem")
	return filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
}

// curl returns the status and the body.
func curl(t *testing.T, args ...string) (status, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "curl", append([]string{"-sS", "-w", "\n%{http_code}"}, args...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	text := string(out)
	i := strings.LastIndexByte(text, '\n')
	return text[i+1:], strings.TrimSpace(text[:i])
}

// TestEndToEnd: certificates of openssl, a domain controller of Samba, curl.
func TestEndToEnd(t *testing.T) {
	testdir.Needs(t, "apt-get install curl openssl", "curl", "openssl")
	dc := servers.Samba(t)
	ca, stranger := newAuthority(t, "ADTEST-CA"), newAuthority(t, "Other-CA")
	dc.Publish(t, ca.certificate())
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	caPEM := func(a authority) []byte {
		data, err := os.ReadFile(filepath.Join(a.dir, "ca.pem"))
		require.NoError(t, err)
		return data
	}
	log := &testdir.Log{}
	guard, api, accounts, err := newAPI(options{
		clientCA: file("clients.pem", append(caPEM(ca), caPEM(stranger)...)), servers: []string{"ldaps://" + dc.Addr}, serverCA: file("ldap.pem", dc.CA.PEM()),
		user: testdir.ServiceUser, passwordFile: file("password", []byte(testdir.Password+"\n")), staff: "Domain Users", auditors: "G-outer",
	}, log.Logger())
	require.NoError(t, err)
	t.Cleanup(func() { accounts.Close() })
	require.NoError(t, accounts.Check(t.Context()))
	s := mtlstest.Serve(t, guard.Server("", api))
	serverCA := file("server-ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.CA.Raw}))

	sid := func(name string) string { return dc.SID(t, name) }
	for _, row := range []struct {
		name    string
		ca      authority
		upn     string
		sid     string
		me      string // body; empty: refused
		reports string // status
		why     string // of the log
	}{
		{"alice", ca, "alice@ad.test", sid("alice"), fmt.Sprintf("alice %s [alice@ad.test] Domain Users,G-inner,G-middle,G-outer,Users", sid("alice")), "200", ""},
		{"bob", ca, "bob@corp.example", sid("bob"), fmt.Sprintf("bob %s [] Domain Users,G-loop1,G-loop2,Users", sid("bob")), "403", ""},
		{"carol-without-sid", ca, "carol@ad.test", "", "", "403", "maps weakly only"},
		{"mallory", ca, "alice@ad.test", sid("bob"), "", "403", "several accounts"},
		{"disabled", ca, "disabled@ad.test", sid("disabled"), "", "403", "account_disabled"},
		{"expired", ca, "expired@ad.test", sid("expired"), "", "403", "account_disabled"},
		{"locked", ca, "locked@ad.test", sid("locked"), "", "403", "account_disabled"},
		{"computer", ca, "pc1@ad.test", sid("pc1"), "", "403", "group_missing"},
		{"stranger", stranger, "alice@ad.test", sid("alice"), "", "403", "NTAuth"},
		{"nobody", ca, "nobody@ad.test", testdir.DomainSID + "-99999", "", "403", "none for the client"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.ca.t = t
			cert, key := row.ca.issue(row.name, row.upn, row.sid)
			args := []string{"--cacert", serverCA, "--cert", cert, "--key", key}
			log.Reset()
			status, body := curl(t, append(args, s.URL+"/me")...)
			if row.me == "" {
				require.Equal(t, "403", status, body)
				require.Contains(t, log.String(), row.why)
				require.NotContains(t, body, "alice")
			} else {
				require.Equal(t, "200", status, body)
				require.Equal(t, row.me, body)
			}
			status, _ = curl(t, append(args, s.URL+"/reports")...)
			require.Equal(t, row.reports, status)
		})
	}
	t.Run("the domain controller is down", func(t *testing.T) {
		dc.Stop()
		defer func() { require.NoError(t, dc.Start()) }()
		cert, key := ca.issue("dave", "dave@ad.test", "S-1-5-21-1-2-3-4")
		status, body := curl(t, "--cacert", serverCA, "--cert", cert, "--key", key, s.URL+"/me")
		require.Equal(t, "503", status, body)
		require.Contains(t, body, "account_unknown")
		require.Contains(t, log.String(), "connection refused")
	})
}

func TestCommandLine(t *testing.T) {
	require.ErrorContains(t, run(t.Context(), []string{"-ldap-ca", "/nonexistent"}), "no such file")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	require.ErrorContains(t, run(t.Context(), []string{"-ldap-ca", empty}), "holds no certificate")
}
