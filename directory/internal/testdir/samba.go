// Package testdir starts real directories for tests: a domain controller of Samba and
// a slapd of OpenLDAP, on loopback, which end with the test.
package testdir

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"
)

// The domain that Samba provisions.
const (
	DomainDN      = "DC=ad,DC=test"
	UsersDN       = "OU=Clients," + DomainDN
	ConfigDN      = "CN=Configuration," + DomainDN
	NTAuthDN      = "CN=NTAuthCertificates,CN=Public Key Services,CN=Services," + ConfigDN
	DomainSID     = "S-1-5-21-1111111111-2222222222-3333333333"
	AdminUser     = "Administrator@ad.test"
	AdminPassword = "Passw0rd.Admin"
	ServiceUser   = "svc-mtls@ad.test"
	Password      = "Passw0rd.User1"
)

// Servers are the servers of a run of tests, each started by the first test that
// needs it. A TestMain stops them.
type Servers struct {
	mu    sync.Mutex
	samba *DC
	err   error
}

// Stop ends the servers.
func (s *Servers) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.samba != nil {
		s.samba.Stop()
		os.RemoveAll(s.samba.dir)
	}
}

// Missing skips the test, or fails it where every tool must be there.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Needs looks for programs in PATH.
func Needs(t testing.TB, hint string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Missing(t, p+" is not in PATH: "+hint)
		}
	}
}

// DC is a domain controller of Samba on a loopback address of its own: its
// ports cannot be chosen.
type DC struct {
	Addr string
	CA   *ServerCA

	dir string

	mu   sync.Mutex
	cmd  *exec.Cmd
	in   io.WriteCloser
	done chan struct{}
	out  *bytes.Buffer
}

// Samba returns the domain controller that all tests share. Tests that stop it, or
// change what others look at, make one of their own with Clone.
func (s *Servers) Samba(t testing.TB) *DC {
	t.Helper()
	Needs(t, "apt-get install samba samba-dsdb-modules samba-ad-provision samba-vfs-modules", "samba", "samba-tool")
	if os.Getuid() != 0 {
		Missing(t, "Samba's ports are below 1024: the tests with it run as root")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.samba == nil && s.err == nil {
		s.samba, s.err = provision()
	}
	require.NoError(t, s.err)
	return s.samba
}

// freeLoopback returns an address on which nobody listens on Samba's ports.
func freeLoopback() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.%d.%d.%d", 64+mathrand.IntN(128), mathrand.IntN(256), 1+mathrand.IntN(254))
		free := true
		for _, port := range []string{"389", "636", "3268", "3269"} {
			l, err := net.Listen("tcp", addr+":"+port)
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return addr, nil
		}
	}
	return "", errors.New("no loopback address is free on ports 389 and 636")
}

// provision makes a new domain, starts it and fills it.
func provision() (*DC, error) {
	dir, err := os.MkdirTemp("", "mtls-samba")
	if err != nil {
		return nil, err
	}
	dc := &DC{dir: dir}
	if dc.Addr, err = freeLoopback(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "samba-tool", "domain", "provision", "--configfile=/dev/null", "--targetdir="+dir,
		"--realm=AD.TEST", "--domain=ADTEST", "--domain-sid="+DomainSID, "--server-role=dc", "--dns-backend=NONE",
		"--adminpass="+AdminPassword, "--host-name=dc1", "--host-ip="+dc.Addr,
		"--option=interfaces="+dc.Addr+"/8", "--option=bind interfaces only=yes").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("samba-tool domain provision: %w\n%s", err, out)
	}
	if err := dc.configure(); err != nil {
		return nil, err
	}
	if err := dc.Start(); err != nil {
		return nil, err
	}
	if err := dc.populate(); err != nil {
		dc.Stop()
		return nil, err
	}
	return dc, nil
}

// Clone starts a second domain controller with a copy of the domain as it was
// filled, which ends with the test.
func (dc *DC) Clone(t testing.TB) *DC {
	t.Helper()
	c := &DC{dir: t.TempDir()}
	var err error
	c.Addr, err = freeLoopback()
	require.NoError(t, err)
	out, err := exec.Command("tar", "-C", c.dir, "--xattrs", "--xattrs-include=*", "-xf", filepath.Join(dc.dir, "filled.tar")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, c.configure())
	require.NoError(t, c.Start())
	t.Cleanup(c.Stop)
	return c
}

func (dc *DC) configure() error {
	for _, sub := range []string{"etc", "run", "log", "tls", "ncalrpc"} {
		if err := os.MkdirAll(filepath.Join(dc.dir, sub), 0o755); err != nil {
			return err
		}
	}
	var err error
	if dc.CA, err = NewServerCA(); err != nil {
		return err
	}
	cert, key, err := dc.CA.Issue("dc1.ad.test", dc.Addr)
	if err != nil {
		return err
	}
	conf := strings.ReplaceAll(`[global]
	netbios name = DC1
	realm = AD.TEST
	workgroup = ADTEST
	server role = active directory domain controller
	server services = ldap
	interfaces = ADDR/8
	bind interfaces only = yes
	private dir = DIR/private
	lock directory = DIR
	state directory = DIR/state
	cache directory = DIR/cache
	binddns dir = DIR/bind-dns
	pid directory = DIR/run
	ncalrpc dir = DIR/ncalrpc
	log file = DIR/log/samba.log
	logging = file
	tls enabled = yes
	tls keyfile = DIR/tls/key.pem
	tls certfile = DIR/tls/cert.pem
	tls cafile = DIR/tls/ca.pem
	disable spoolss = yes
	load printers = no
[sysvol]
	path = DIR/state/sysvol
	read only = no
`, "DIR", dc.dir)
	for name, data := range map[string][]byte{
		"etc/smb.conf": []byte(strings.ReplaceAll(conf, "ADDR", dc.Addr)),
		"tls/ca.pem":   dc.CA.pem, "tls/cert.pem": cert, "tls/key.pem": key,
	} {
		if err := os.WriteFile(filepath.Join(dc.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Start starts Samba, which ends by itself when its standard input does: not even a
// killed test leaves it behind.
func (dc *DC) Start() error {
	dc.mu.Lock()
	defer dc.mu.Unlock()
	cmd := exec.Command("samba", "-s", filepath.Join(dc.dir, "etc/smb.conf"), "-F", "-M", "single", "--no-process-group")
	dc.out = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = dc.out, dc.out
	var err error
	if dc.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	dc.cmd, dc.done = cmd, done
	for range 600 {
		if c, err := dc.dial(); err == nil {
			_, err = c.Search(ldap.NewSearchRequest("", ldap.ScopeBaseObject, 0, 1, 0, false, "(objectClass=*)", []string{"defaultNamingContext"}, nil))
			c.Close()
			if err == nil {
				return nil
			}
		}
		select {
		case <-done:
			log, _ := os.ReadFile(filepath.Join(dc.dir, "log/samba.log"))
			return fmt.Errorf("samba has ended:\n%s\n%s", dc.out, log)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("samba does not answer after 30 s")
}

// Stop ends the process that Start has started.
func (dc *DC) Stop() {
	dc.mu.Lock()
	defer dc.mu.Unlock()
	if dc.cmd == nil {
		return
	}
	_ = dc.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-dc.done:
	case <-time.After(10 * time.Second):
		_ = dc.cmd.Process.Kill()
		<-dc.done
	}
	dc.in.Close()
	dc.cmd = nil
}

func (dc *DC) dial() (*ldap.Conn, error) {
	return ldap.DialURL("ldaps://"+dc.Addr, ldap.DialWithTLSConfig(&tls.Config{RootCAs: dc.CA.Pool(), ServerName: "dc1.ad.test"}),
		ldap.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}))
}

// Admin returns a connection of the administrator.
func (dc *DC) Admin() (*ldap.Conn, error) {
	c, err := dc.dial()
	if err != nil {
		return nil, err
	}
	c.SetTimeout(30 * time.Second)
	if err := c.Bind(AdminUser, AdminPassword); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Modify changes an attribute of an entry. No values remove it.
func (dc *DC) Modify(t testing.TB, dn, attribute string, values ...string) {
	t.Helper()
	c, err := dc.Admin()
	require.NoError(t, err)
	defer c.Close()
	m := ldap.NewModifyRequest(dn, nil)
	m.Replace(attribute, values)
	require.NoError(t, c.Modify(m), "%s of %s", attribute, dn)
}

// SID returns the SID of an account of the domain.
func (dc *DC) SID(t testing.TB, cn string) string {
	t.Helper()
	c, err := dc.Admin()
	require.NoError(t, err)
	defer c.Close()
	r, err := c.Search(ldap.NewSearchRequest("CN="+cn+","+UsersDN, ldap.ScopeBaseObject, 0, 1, 0, false, "(objectClass=*)", []string{"objectSid"}, nil))
	require.NoError(t, err)
	b := r.Entries[0].GetRawAttributeValue("objectSid")
	require.Len(t, b, 28)
	rid := uint32(b[24]) | uint32(b[25])<<8 | uint32(b[26])<<16 | uint32(b[27])<<24
	return fmt.Sprintf("%s-%d", DomainSID, rid)
}

// Publish makes the NTAuth store hold the CAs, or takes it away if there are none.
func (dc *DC) Publish(t testing.TB, cas ...*x509.Certificate) {
	t.Helper()
	c, err := dc.Admin()
	require.NoError(t, err)
	defer c.Close()
	err = c.Del(ldap.NewDelRequest(NTAuthDN, nil))
	if !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		require.NoError(t, err)
	}
	if len(cas) == 0 {
		return
	}
	r := ldap.NewAddRequest(NTAuthDN, nil)
	r.Attribute("objectClass", []string{"certificationAuthority"})
	r.Attribute("authorityRevocationList", []string{"\x00"})
	r.Attribute("certificateRevocationList", []string{"\x00"})
	var list []string
	for _, ca := range cas {
		list = append(list, string(ca.Raw))
	}
	r.Attribute("cACertificate", list)
	require.NoError(t, c.Add(r))
}
