package proxyproto_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// clientIP is where the clients of real proxies connect from.
const clientIP = "127.0.0.7"

// patience is for programs that compete with other tests.
const patience = 30 * time.Second

// real returns the path of a program or module, or skips the test; with
// MTLS_REQUIRE_REAL=1 it fails instead.
func real(t *testing.T, pkg string, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		if _, err := os.Stat(name); err == nil && filepath.IsAbs(name) {
			return name
		}
	}
	if os.Getenv("MTLS_REQUIRE_REAL") == "1" {
		require.Failf(t, "a real proxy is missing", "%s: install Debian package %s", names[0], pkg)
	}
	t.Skipf("%s is not installed: Debian package %s", names[0], pkg)
	return ""
}

// socket is a listening socket for a proxy to inherit: its port cannot be taken,
// and whoever connects before the proxy has started waits.
func socket(t *testing.T) (file *os.File, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	file, err = l.(*net.TCPListener).File()
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file, l.Addr().String()
}

// run starts a proxy that inherits a socket as file 3, and ends it with the test.
func run(t *testing.T, listening *os.File, env []string, path string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, patience // nginx ends its worker
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"))
	cmd.ExtraFiles = []*os.File{listening}
	if err := cmd.Start(); err != nil {
		cancel()
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", path, &said)
		}
	})
}

// haproxy starts HAProxy in front of the service.
func (s *service) haproxy(t *testing.T, options string) (address string) {
	t.Helper()
	path := real(t, "haproxy", "haproxy", "/usr/sbin/haproxy")
	listening, address := socket(t)
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, []byte(`
defaults
	mode tcp
	timeout connect 10s
	timeout client 30s
	timeout server 30s
listen front
	bind fd@3
	server service `+s.addr+" source "+proxyIP+" "+options+"\n"), 0o600))
	run(t, listening, nil, path, "-db", "-f", config)
	return address
}

// nginx starts the stream module of nginx in front of the service.
func (s *service) nginx(t *testing.T) (address string) {
	t.Helper()
	path := real(t, "nginx", "nginx", "/usr/sbin/nginx")
	module := real(t, "libnginx-mod-stream", "/usr/lib/nginx/modules/ngx_stream_module.so")
	listening, address := socket(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, []byte(`
load_module `+module+`;
daemon off;
worker_processes 1;
pid `+dir+`/pid;
error_log stderr;
events {}
stream {
	server {
		listen `+address+`;
		proxy_pass `+s.addr+`;
		proxy_bind `+proxyIP+`;
		proxy_protocol on;
	}
}
`), 0o600))
	run(t, listening, []string{"NGINX=3;"}, path, "-e", "stderr", "-p", dir, "-c", config)
	return address
}

// from is a client behind a real proxy.
func (s *service) from(t *testing.T, ip, proxy string) *http.Client {
	return s.client(t, func(ctx context.Context) (net.Conn, error) { return connect(ctx, ip, proxy) })
}

func TestRealProxies(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*service, *testing.T) string{
		"haproxy, v1": func(s *service, t *testing.T) string { return s.haproxy(t, "send-proxy") },
		"haproxy, v2": func(s *service, t *testing.T) string { return s.haproxy(t, "send-proxy-v2") },
		"haproxy, v2 with TLVs": func(s *service, t *testing.T) string {
			return s.haproxy(t, "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority")
		},
		"haproxy, v2 with TLVs SSL": func(s *service, t *testing.T) string {
			return s.haproxy(t, "send-proxy-v2-ssl-cn proxy-v2-options crc32c")
		},
		"nginx, v1": func(s *service, t *testing.T) string { return s.nginx(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			s.env.DNS.Set(domain, clientIP)
			proxy := start(s, t)
			status, said, err := ask(s.from(t, clientIP, proxy))
			require.NoError(t, err)
			require.Equal(t, 200, status, said)
			require.Equal(t, "hello acme", said)
			require.True(t, strings.HasPrefix(<-s.remote, clientIP+":"))

			status, said, err = ask(s.from(t, "127.0.0.8", proxy))
			require.NoError(t, err)
			require.Equal(t, 403, status)
			require.Equal(t, "origin_mismatch", said)

			// A client with the proxy's own address.
			status, said, err = ask(s.from(t, proxyIP, proxy))
			require.NoError(t, err)
			require.Equal(t, 503, status)
			require.Equal(t, "origin_unknown", said)
		})
	}
}

// A header of the client's own follows that of the proxy, and is not one.
func TestAClientBehindARealProxyCannotChooseItsAddress(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.env.DNS.Set(domain, egress)
	proxy := s.haproxy(t, "send-proxy-v2")
	for _, header := range [][]byte{
		v2(0x21, 0x11, ends(egress+":51234", public+":443")),
		[]byte("PROXY TCP4 " + egress + " " + public + " 51234 443\r\n"),
	} {
		c := s.client(t, func(ctx context.Context) (net.Conn, error) {
			c, err := connect(ctx, clientIP, proxy)
			if err == nil {
				_, err = c.Write(header)
			}
			return c, err
		})
		_, _, err := ask(c)
		require.Error(t, err)
		require.True(t, strings.HasPrefix(<-s.remote, clientIP+":"))
	}
}

func TestHealthChecksOfARealProxyHaveNoAddress(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]string{
		"send-proxy-v2 check check-send-proxy inter 100ms": "unknown (PROXY LOCAL)",
		// As section 2.1 of the specification recommends, v1 states the proxy's own.
		"send-proxy check check-send-proxy inter 100ms": "unknown (PROXY the proxy itself, " + proxyIP + ")",
	} {
		s := serve(t)
		s.haproxy(t, options)
		select {
		case remote := <-s.remote:
			require.Equal(t, want, remote, options)
		case <-time.After(patience):
			require.Fail(t, "no health check", options)
		}
	}
}

// A proxy that sends no header is misconfigured: nobody is admitted, rather than
// everybody judged by the proxy's address.
func TestARealProxyWithoutAHeaderIsClosed(t *testing.T) {
	t.Parallel()
	s := serve(t)
	s.env.DNS.Set(domain, clientIP, proxyIP)
	_, _, err := ask(s.from(t, clientIP, s.haproxy(t, "")))
	require.Error(t, err)
	require.Empty(t, s.remote)
}
