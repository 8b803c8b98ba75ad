package directory

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mtlsguard/mtls"
)

// A Connection says how the servers of a directory are reached and how long their
// answers count.
type Connection struct {
	// URLs are the servers of one directory, in order of preference: "ldaps://host" or
	// "ldap://host", perhaps with a port; the host is an IP address or a name of letters,
	// digits and "-._". On ldap:// StartTLS is required. The first
	// server that answers is asked; one that failed is asked last for a while.
	URLs []string
	// RootCAs are the authorities that may have issued the servers' certificates, which
	// must be for the host of the URL. Required: there is no default.
	RootCAs *x509.CertPool
	// InsecurePlaintext speaks without TLS to servers on ldap://. Whoever is on the way
	// reads the password, and says who is whose account.
	InsecurePlaintext bool
	// User is the name that the service binds with: a distinguished name or, in Active
	// Directory, a user principal name. It should be able to read and nothing else. What it
	// may not read counts as absent on some servers: see LDAP.Enabled.
	// Empty: anonymous, which Active Directory does not answer.
	User string
	// Password returns the password of User. It is called for each new connection, so
	// that a new one is used at once. A password that a server has refused is not
	// sent again for a minute, and one that none has accepted yet is sent by one connection
	// at a time: it would lock the account. Required with User.
	Password func(context.Context) (string, error)
	// Timeout is how long one server may take to accept a connection, or to answer one
	// question. Zero: 1 s. A guard's client waits for 3 s in all, so that with the default there is
	// time for a second server. At most 1 minute. Keep it, times
	// the servers, below the guard's Limits.Wait: clients of a silent directory give up earlier
	// otherwise, and the first of them are not known, whatever Stale is.
	Timeout time.Duration
	// MaxConns bounds the connections that are open at once, to all servers. Zero: 4.
	MaxConns int
	// Lifetime is how long an account counts before the directory is asked again. Zero:
	// 1 minute. At least 1 s, and at most 5 minutes, which no verdict of a guard exceeds. A refusal counts for
	// a sixth of it.
	Lifetime time.Duration
	// Stale is for how long after its Lifetime an account still counts while the
	// directory does not answer: no server is reached, or each is silent, drops the
	// connection, or is busy, unavailable or out of time (LDAP results 51, 52 and 3; no
	// other result). Each use is logged. It never outlives the account's own end, nor an answer of another
	// kind: one that says no, is incomplete or too large, is any other result, or refuses
	// the service's password. Nor does it outlive a Password that fails, or a later answer
	// about the account, for whichever certificate, that disables it or has other groups; of
	// answers that were asked for at once, what either says against it counts. In Active Directory
	// it ends once the Mapper has read an NTAuth store without the issuing CA. It is not for
	// a client that goes away, that waits for less than Timeout, or that waits for a
	// connection or gives up, unless every server has failed by silence within the last
	// minute and has answered nobody since. Zero: not at all. At most 24 hours.
	Stale time.Duration
	// CacheSize is how many answers are kept, and of how many accounts the last answer is,
	// without which Stale is not for the account. Zero: 4096.
	CacheSize int
	// Logger takes servers that do not answer, accounts that are locked or expired, and
	// uses of Stale. Nil: slog.Default().
	Logger *slog.Logger
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
	// Dial opens a connection to "host:port". Nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// problems collects ConfigErrors.
type problems []error

func (p *problems) add(field, value, format string, args ...any) {
	*p = append(*p, &mtls.ConfigError{Field: field, Value: value, Problem: fmt.Sprintf(format, args...)})
}

func (p problems) err() error { return errors.Join(p...) }

// bounded reports a number that is not between 0 and most, and puts standard in
// place of zero.
func bounded[N int | time.Duration](failed *problems, field string, n *N, standard, most N) {
	if *n < 0 || *n > most {
		failed.add(field, fmt.Sprint(*n), "not between 0 and %v", most)
	}
	if *n == 0 {
		*n = standard
	}
}

// fill checks the fields and puts what they stand for in place of zero values.
func (c *Connection) fill(failed *problems, of string) []*server {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	bounded(failed, of+".Timeout", &c.Timeout, time.Second, time.Minute)
	bounded(failed, of+".MaxConns", &c.MaxConns, 4, 1000)
	bounded(failed, of+".Lifetime", &c.Lifetime, time.Minute, 5*time.Minute)
	if c.Lifetime > 0 && c.Lifetime < time.Second {
		failed.add(of+".Lifetime", c.Lifetime.String(), "less than 1s: an account would lapse before it is used")
	}
	bounded(failed, of+".Stale", &c.Stale, 0, 24*time.Hour)
	bounded(failed, of+".CacheSize", &c.CacheSize, 4096, 1<<20)
	if (c.User == "") != (c.Password == nil) {
		failed.add(of+".Password", "", "User and Password belong together; anonymous has neither")
	}
	if len(c.URLs) == 0 {
		failed.add(of+".URLs", "", "no server")
	}
	var servers []*server
	secure := false
	for i, text := range c.URLs {
		s, err := parseServer(text)
		if err != nil {
			*failed = append(*failed, &mtls.ConfigError{Field: fmt.Sprintf("%s.URLs[%d]", of, i), Value: shown(text), Problem: "not the URL of a server", Err: err})
			continue
		}
		s.plaintext = !s.ldaps && c.InsecurePlaintext
		secure = secure || !s.plaintext
		servers = append(servers, s)
	}
	if secure && c.RootCAs == nil {
		failed.add(of+".RootCAs", "", "missing: no server could be trusted")
	}
	return servers
}

func parseServer(text string) (*server, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("it cannot be parsed") // what url says may quote a password
	}
	s := &server{name: text, host: u.Hostname(), ldaps: u.Scheme == "ldaps"}
	switch {
	case u.Scheme != "ldaps" && u.Scheme != "ldap":
		return nil, errors.New("neither ldaps:// nor ldap://")
	case s.host == "" || strings.HasSuffix(u.Host, ":") || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("nothing but a host and a port")
	}
	if _, err := netip.ParseAddr(s.host); err != nil && strings.Trim(s.host, letters+"-._") != "" {
		return nil, errors.New("the host is neither a name nor an IP address")
	}
	port := u.Port()
	if port == "" {
		port = "389"
		if s.ldaps {
			port = "636"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, errors.New("the port is not between 1 and 65535")
	}
	s.address = net.JoinHostPort(s.host, port)
	return s, nil
}

// letters are those of names, and digits.
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// shown is what an error shows of a URL, which may have a password in it.
func shown(text string) string {
	if !strings.ContainsAny(text, "@?#") {
		return text
	}
	for _, scheme := range []string{"ldaps://", "ldap://"} {
		if !strings.HasPrefix(text, scheme) {
			continue
		}
		u, err := url.Parse(text)
		if err != nil || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") { // the host may be a part of the password
			return scheme + "..."
		}
		return scheme + u.Host
	}
	return "..."
}
