package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/cmd/mtlsctl/internal/iis"
	"github.com/mtlsguard/mtls/policyfile"
)

func newImportIIS() *cobra.Command {
	var o iis.Options
	var out string
	cmd := &cobra.Command{
		Use:   "import-iis applicationHost.config|web.config",
		Short: "Make a policy file from the client certificate mappings of IIS",
		Long: long(`
Reads the section iisClientCertificateMappingAuthentication of a configuration of IIS
and prints a policy file with a rule for each of its mappings: one-to-one as
certificates, many-to-one as subject and issuer. Whatever is not carried over, or
decides otherwise here, is named with its line on standard error and in comments at the
top of the policy. Passwords are neither read nor printed.

Rules that admit are bound to --authority, the name that a service gives the CA in its
roots, and have no origin: the mappings do not ask where a connection comes from. What
refuses by addresses, URLs or accounts (ipSecurity, dynamicIpSecurity, authorization) is
named only.

A criterion stands for the whole value, and * in it for any characters; --exact takes *
literally.`,
			"all carried over", "something was not carried over, or decides otherwise (the policy is written all the same)", "never"),
		Example: `  mtlsctl import-iis --authority partners applicationHost.config
  mtlsctl import-iis --location "Partner API" -o partners.yaml applicationHost.config`,
		Args:              exactly("applicationHost.config"),
		ValidArgsFunction: files("config"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file := args[0]
			data, err := readFile(file, iis.MaxSize)
			if err != nil {
				return err
			}
			if o.Authority == "" {
				return errors.New("--authority is empty: rules by name need one")
			}
			result, err := iis.Import(data, o)
			if err != nil {
				return fmt.Errorf("%s: %w", shown(file), err)
			}
			policy, err := result.Policy(file)
			if err == nil {
				err = loads(policy, out)
			}
			if err != nil {
				return err
			}
			if out == "" {
				err = writePolicy(cmd.OutOrStdout(), policy)
			} else {
				err = createFile(out, policy)
			}
			if err != nil {
				return err
			}
			for _, n := range result.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), n.At(file))
			}
			if result.Lost() {
				return answer(exitNo)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Location, "location", "", "path of the location element whose mappings are meant, such as \"Default Web Site\"")
	cmd.Flags().StringVar(&o.Authority, "authority", "roots", "name of the authority that the rules are about")
	cmd.Flags().BoolVar(&o.Exact, "exact", false, "take * in a matchCriteria literally")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write the policy to, which must not exist (default standard output)")
	return cmd
}

// loads reports why a policy file could not be loaded by a service.
func loads(policy []byte, file string) error {
	rules, err := policyfile.Parse(policy, file)
	if err == nil && len(rules) > 0 {
		_, err = mtls.NewPolicy(rules...)
	}
	return err
}

// createFile writes a file that does not exist yet: one that does may be a policy in
// force, with changes made by hand.
func createFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}
