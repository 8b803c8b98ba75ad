package mtls_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// example runs an Example with what stands in for the *testing.T of a test. What
// goes wrong is printed, and so is not the Output.
func example(f func(t mtlstest.TB)) {
	if err := mtlstest.Run(f); err != nil {
		fmt.Println(err)
	}
}

// exampleGuard returns a guard that lists acme, whose address is 127.0.0.1, and
// acme's certificate.
func exampleGuard(t mtlstest.TB) (*mtls.Guard, *mtlstest.Certificate) {
	env := mtlstest.NewEnv(t)
	env.DNS.Set("api.acme.example", "127.0.0.1")
	config := env.Config(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"payments"}})
	config.Logger = slog.New(slog.DiscardHandler)
	return mtlstest.NewGuard(t, config), env.CA.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}})
}

var exampleHello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	id, ok := mtls.FromContext(r.Context())
	if !ok {
		io.WriteString(w, "hello nobody")
		return
	}
	fmt.Fprintf(w, "hello %s", id.Name())
})

// exampleGet returns the status and what matters of the body: the code of a
// refusal, or all of it.
func exampleGet(c *http.Client, url string) string { return exampleGetWith(c, url, nil) }

func exampleGetWith(c *http.Client, url string, h http.Header) string {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	for k, v := range h {
		req.Header[k] = v
	}
	res, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	var problem struct{ Code string }
	if json.Unmarshal(body, &problem) == nil && problem.Code != "" {
		return fmt.Sprint(res.StatusCode, " ", problem.Code)
	}
	return fmt.Sprint(res.StatusCode, " ", string(body))
}

func exampleBase64(c *mtlstest.Certificate) string {
	return base64.StdEncoding.EncodeToString(c.Leaf().Raw)
}

// exampleConnect connects a client to a TLS server that is not one of HTTP.
func exampleConnect(t mtlstest.TB, guard *mtls.Guard, cert *mtlstest.Certificate, serve func(context.Context, *tls.Conn) error) error {
	own := mtlstest.NewCA(t, mtlstest.CAOptions{}).Issue(mtlstest.Leaf{Names: []string{"localhost"}})
	l, err := tls.Listen("tcp", "127.0.0.1:0", guard.OptionalTLSConfig(&tls.Config{Certificates: []tls.Certificate{own.TLS()}}))
	if err != nil {
		return err
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		done <- serve(context.Background(), conn.(*tls.Conn))
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	// The server's identity is of no interest here.
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert.TLS()}})
	defer client.Close()
	if err := client.Handshake(); err != nil {
		return err
	}
	return <-done
}
