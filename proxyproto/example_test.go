package proxyproto_test

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/mtlstest"
	"github.com/mtlsguard/mtls/proxyproto"
)

// A service behind a load balancer at 127.0.0.2. Its partner is told by the
// address that the balancer states, and nobody else may state one.
func ExampleNewListener() {
	err := mtlstest.Run(func(t mtlstest.TB) {
		env := mtlstest.NewEnv(t)
		env.DNS.Set("api.acme.example", "93.184.216.34")
		config := env.Config(mtls.Rule{Name: "acme", Domains: []string{"api.acme.example"}})
		config.Logger = slog.New(slog.DiscardHandler)
		guard := mtlstest.NewGuard(t, config)
		certFile, keyFile, roots := certificate(t)

		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Fatal(err)
		}
		l, err := proxyproto.NewListener(inner, proxyproto.Config{
			Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")},
		})
		if err != nil {
			log.Fatal(err)
		}
		server := guard.Server("", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
		}))
		defer server.Close() // and l
		go server.ServeTLS(l, certFile, keyFile)

		s := &service{addr: l.Addr().String(), env: env, roots: roots}
		partner := "PROXY TCP4 93.184.216.34 93.184.216.1 51234 443\r\n"
		show := func(what, from, header string) {
			status, said, err := ask(s.through(t, from, []byte(header)))
			if err != nil {
				fmt.Println(what, "closed")
				return
			}
			fmt.Println(what, status, said)
		}
		show("partner:", "127.0.0.2", partner)
		show("somebody with the partner's key:", "127.0.0.2", "PROXY TCP4 93.184.216.99 93.184.216.1 51234 443\r\n")
		show("the balancer itself:", "127.0.0.2", "PROXY UNKNOWN\r\n")
		show("past the balancer:", "127.0.0.1", partner)
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// partner: 200 hello
	// somebody with the partner's key: 403 origin_mismatch
	// the balancer itself: 503 origin_unknown
	// past the balancer: closed
}
