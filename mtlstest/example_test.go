package mtlstest_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
)

// pay is the handler under test.
func pay(w http.ResponseWriter, r *http.Request) {
	id, ok := mtls.FromContext(r.Context())
	if !ok || !id.HasRole("payments") {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, "%s has paid", id.Name())
}

// A handler by itself: no TLS, no guard. In a test, t is its *testing.T.
func ExampleNewRequest() {
	example(func(t mtlstest.TB) {
		for _, roles := range [][]string{{"payments"}, {"orders"}, nil} {
			w := httptest.NewRecorder()
			pay(w, mtlstest.NewRequest(t, "POST", "/payments", nil, mtlstest.Identity{Rule: "acme", Roles: roles}))
			fmt.Println(roles, w.Code)
		}
	})
	// Output:
	// [payments] 200
	// [orders] 403
	// [] 403
}

// A whole service, over TLS: its partner is admitted, then revoked. In a test, t
// is its *testing.T.
func ExampleNewEnv() {
	example(func(t mtlstest.TB) {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("api.acme.example", "127.0.0.1")
		config := env.Config(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"payments"}})
		config.Logger = slog.New(slog.DiscardHandler)
		guard := mtlstest.NewGuard(t, config)
		server := mtlstest.NewServer(t, guard, http.HandlerFunc(pay))

		cert := env.CA.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}})
		client := server.Client(cert, mtlstest.ClientOptions{})
		fmt.Println(get(client, server.URL))

		env.Revocation.Revoke(cert, 1) // keyCompromise
		if err := guard.Refresh(context.Background()); err != nil {
			t.Fatalf("%v", err)
		}
		fmt.Println(get(client, server.URL)) // on the same connection
	})
	// Output:
	// 200 acme has paid
	// 403
}

// What happens when the revocation server is down is decided by a test, not in
// production.
func ExampleRevocationServer_Fail() {
	example(func(t mtlstest.TB) {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("api.acme.example", "127.0.0.1")
		config := env.Config(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}, Roles: []string{"payments"}})
		config.Logger = slog.New(slog.DiscardHandler)
		server := mtlstest.NewServer(t, mtlstest.NewGuard(t, config), http.HandlerFunc(pay))
		client := server.Client(env.CA.Issue(mtlstest.Leaf{Names: []string{"api.acme.example"}}), mtlstest.ClientOptions{})

		fmt.Println(get(client, server.URL))
		env.Revocation.Fail(mtlstest.Down)
		env.Clock.Advance(mtlstest.Validity / 2) // what is known is still current
		fmt.Println(get(client, server.URL))
		env.Clock.Advance(mtlstest.Validity)
		fmt.Println(get(client, server.URL))
	})
	// Output:
	// 200 acme has paid
	// 200 acme has paid
	// 503
}

// A program has no testing.T: what is made with t ends with the function, and
// what goes wrong is the error.
func ExampleRun() {
	err := mtlstest.Run(func(t mtlstest.TB) {
		file := mtlstest.NewCA(t, mtlstest.CAOptions{}).PEMFile()
		_, err := mtls.LoadRoots(file)
		fmt.Println(err)
		t.Fatalf("%s is not a partner", "globex")
	})
	fmt.Println(err)
	// Output:
	// <nil>
	// globex is not a partner
}

// get returns the status, and the body if it is 200.
func get(c *http.Client, url string) string {
	res, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Sprint(res.StatusCode)
	}
	return fmt.Sprint(res.StatusCode, " ", string(body))
}

// example runs an Example with what stands in for the *testing.T of a test.
func example(f func(t mtlstest.TB)) {
	if err := mtlstest.Run(f); err != nil {
		fmt.Println(err)
	}
}
