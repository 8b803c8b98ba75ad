package policyfile_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// A policy is written, sealed and loaded. Once its end is lost, the file is refused:
// without a seal it would be one with a rule less, here the one that denies.
func Example() {
	dir, err := os.MkdirTemp("", "policy")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "policy.yaml")

	data, err := policyfile.Marshal(
		mtls.Rule{Name: "acme", Domains: []string{"*.acme.example"}, Origin: &mtls.Origin{Published: true}},
		mtls.Rule{Name: "lost laptop", Deny: true, Domains: []string{"joe.acme.example"}},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(data))
	sealed := policyfile.Seal(data)
	if err := os.WriteFile(path, sealed, 0o600); err != nil {
		fmt.Println(err)
		return
	}
	file, err := policyfile.Load(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(file.Rules()), "rules")

	_, err = policyfile.Parse(sealed[:len(data)-60], "policy.yaml")
	fmt.Println(err != nil)
	_, err = policyfile.Parse([]byte("version: 1\nrules:\n  - name: acme\n    domain: [api.acme.example]\n"), "policy.yaml")
	fmt.Println(err)
	// Output:
	// version: 1
	// rules:
	//   - name: acme
	//     domains: ["*.acme.example"]
	//     origin: {published: true}
	//   - name: "lost laptop"
	//     deny: true
	//     domains: [joe.acme.example]
	// 2 rules
	// true
	// mtls: policy.yaml:4:5: a rule has no key "domain"; was domains meant?
}
