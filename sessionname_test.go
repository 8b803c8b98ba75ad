package mtls_test

import (
	"crypto/tls"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// oneSession is a session cache that takes every server for the same.
type oneSession struct {
	mu sync.Mutex
	s  *tls.ClientSessionState
}

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s, c.s != nil
}

func (c *oneSession) Put(_ string, s *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s != nil {
		c.s = s
	}
}

// TestSessionIsOfOneServerName: a session of one virtual host is of no use at
// another (CVE-2025-23419).
func TestSessionIsOfOneServerName(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("acme.example", "127.0.0.1")
		cfg := env.Config(mtls.Rule{Name: "acme", Domains: []string{"acme.example"}})
		cfg.SessionLifetime = time.Hour
		s := mtlstest.NewServer(t, mtlstest.NewGuard(t, cfg), hello)
		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"acme.example"}})
		resumed := func(name string, cache tls.ClientSessionCache) bool {
			conf := &tls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: cache, MinVersion: version, MaxVersion: version,
				Certificates: []tls.Certificate{cert.TLS()}, Time: env.Clock.Now}
			conn, err := tls.Dial("tcp", s.Addr, conf)
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
			require.NoError(t, err)
			_, err = conn.Read(make([]byte, 1)) // a ticket of TLS 1.3 comes with the answer
			require.NoError(t, err)
			return conn.ConnectionState().DidResume
		}
		cache := &oneSession{}
		require.False(t, resumed("a.example", cache))
		require.True(t, resumed("a.example", cache))
		cache = &oneSession{}
		require.False(t, resumed("a.example", cache))
		require.False(t, resumed("b.example", cache))
		cache = &oneSession{}
		require.False(t, resumed("a.example", cache))
		require.False(t, resumed("", cache))
	}
}
