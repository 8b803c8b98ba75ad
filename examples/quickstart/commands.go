package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// printCommands writes the clients' certificates and the server's CA into the
// folder, and prints a curl command for each outcome.
func printCommands(out io.Writer, dir string, list []outcome) error {
	fmt.Fprintf(out, "cd %s\n", dir)
	for _, o := range list {
		if o.before != nil {
			continue // needs a connection that lasts
		}
		ca := "api-ca.pem"
		if o.server != list[0].server {
			ca = "strict-ca.pem"
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.server.CA.Raw})
		if err := os.WriteFile(filepath.Join(dir, ca), block, 0o600); err != nil {
			return err
		}
		args := "curl -sS -w '%{http_code}\\n' --cacert " + ca
		if o.cert != nil {
			name := strings.ReplaceAll(strings.ReplaceAll(o.name, ",", ""), " ", "-")
			cert, key := o.cert.Write(dir, name)
			args += " --cert " + filepath.Base(cert) + " --key " + filepath.Base(key)
		}
		if o.from != "" {
			args += " --interface " + o.from
		}
		fmt.Fprintf(out, "\n# %s: %s\n%s https://%s%s\n", o.name, o.want, args, o.server.Addr, o.path)
	}
	_, err := fmt.Fprintf(out, "\nReady. The folder is removed at the end (Ctrl-C).\n")
	return err
}
