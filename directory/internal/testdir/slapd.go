package testdir

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"
)

// SlapdDN is the tree of a Slapd, below which its people and groups are.
const SlapdDN = "dc=example,dc=org"

// Slapd is an OpenLDAP server of its own test.
type Slapd struct {
	LDAP, LDAPS string // URLs
	CA          *ServerCA

	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	out  *bytes.Buffer
}

// slapdSchema has what the schemas of OpenLDAP have not: the userPrincipalName of
// Active Directory, and the time of a lock (the overlay ppolicy's is operational).
const slapdSchema = `attributetype ( 1.3.6.1.4.1.42.2.27.8.1.17.1 NAME 'accountLockedTime' EQUALITY generalizedTimeMatch ORDERING generalizedTimeOrderingMatch
	SYNTAX 1.3.6.1.4.1.1466.115.121.1.24 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.656 NAME 'userPrincipalName' EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.42.2.27.8.2.1.1 NAME 'lockable' SUP top AUXILIARY MAY ( accountLockedTime $ userPrincipalName ) )
`

// slapdPeople and their groups. Two have one mail address.
const slapdPeople = `dn: dc=example,dc=org
objectClass: domain
dc: example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=org
objectClass: organizationalUnit
ou: groups

dn: uid=service,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: service
cn: service
sn: service
userPassword: Passw0rd.User1

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: Liddell
mail: alice@example.org
telephoneNumber: +44 1
telephoneNumber: +44 2

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: lockable
uid: bob
cn: Bob
sn: B
mail: bob@example.org
accountLockedTime: 20200101000000Z

dn: uid=twin1,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: lockable
userPrincipalName: twin@example.org
uid: twin1
cn: Twin
sn: T
mail: twin@example.org

dn: uid=twin2,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: lockable
userPrincipalName: twin@example.org
uid: twin2
cn: Twin
sn: T
mail: twin@example.org

dn: uid=a(b)*c\5Cd,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: a(b)*c\d
cn: Odd
sn: O
mail: odd@example.org

dn: cn=payments,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: payments
member: uid=alice,ou=people,dc=example,dc=org

dn: cn=finance,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: finance
member: cn=payments,ou=groups,dc=example,dc=org
member: cn=company,ou=groups,dc=example,dc=org

dn: cn=company,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: company
member: cn=finance,ou=groups,dc=example,dc=org

dn: cn=odd,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: odd
member: uid=a(b)*c\5Cd,ou=people,dc=example,dc=org

dn: ou=elsewhere,dc=example,dc=org
objectClass: referral
objectClass: extensibleObject
ou: elsewhere
ref: ldap://127.0.0.1:1/dc=example,dc=org

`

// StartSlapd starts a server, which ends with the test.
func StartSlapd(t testing.TB) *Slapd {
	t.Helper()
	Needs(t, "apt-get install slapd", "slapd", "slapadd")
	s := &Slapd{dir: t.TempDir()}
	var err error
	s.CA, err = NewServerCA()
	require.NoError(t, err)
	cert, key, err := s.CA.Issue("localhost", "127.0.0.1")
	require.NoError(t, err)
	ports := make([]int, 2)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ports[i] = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	s.LDAP, s.LDAPS = fmt.Sprintf("ldap://127.0.0.1:%d", ports[0]), fmt.Sprintf("ldaps://127.0.0.1:%d", ports[1])
	conf := strings.ReplaceAll(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include DIR/extra.schema
modulepath /usr/lib/ldap
moduleload back_mdb.so
TLSCACertificateFile DIR/ca.pem
TLSCertificateFile DIR/cert.pem
TLSCertificateKeyFile DIR/key.pem
threads 4
security simple_bind=64
database mdb
suffix "`+SlapdDN+`"
rootdn "cn=admin,`+SlapdDN+`"
rootpw `+AdminPassword+`
directory DIR/db
maxsize 67108864
dbnosync
index objectClass,mail,uid,member eq
limits dn.exact="uid=service,ou=people,`+SlapdDN+`" size=10
access to attrs=userPassword by anonymous auth by * none
access to * by users read by * none
`, "DIR", s.dir)
	require.NoError(t, os.Mkdir(filepath.Join(s.dir, "db"), 0o700))
	for name, data := range map[string]string{"slapd.conf": conf, "extra.schema": slapdSchema, "ca.pem": string(s.CA.pem),
		"cert.pem": string(cert), "key.pem": string(key), "people.ldif": slapdPeople} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(data), 0o600))
	}
	out, err := exec.Command("slapadd", "-q", "-f", filepath.Join(s.dir, "slapd.conf"), "-l", filepath.Join(s.dir, "people.ldif")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, s.Start())
	t.Cleanup(s.Stop)
	return s
}

// Start starts a server that was stopped.
func (s *Slapd) Start() error {
	s.out = &bytes.Buffer{}
	s.cmd = exec.Command("slapd", "-f", filepath.Join(s.dir, "slapd.conf"), "-h", s.LDAP+" "+s.LDAPS, "-d", "none")
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		_ = cmd.Wait() // how it ended is in its output
	}(s.cmd, s.done)
	for range 600 {
		if c, err := s.Admin(); err == nil {
			c.Close()
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("slapd has ended:\n%s", s.out)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("slapd does not answer after 30 s")
}

// Stop ends the process that Start has started.
func (s *Slapd) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

// Admin returns a connection of the administrator.
func (s *Slapd) Admin() (*ldap.Conn, error) {
	c, err := ldap.DialURL(s.LDAPS, ldap.DialWithTLSConfig(&tls.Config{RootCAs: s.CA.Pool(), ServerName: "localhost"}),
		ldap.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}))
	if err != nil {
		return nil, err
	}
	if err := c.Bind("cn=admin,"+SlapdDN, AdminPassword); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}
