package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls/policyfile"
)

func newSeal() *cobra.Command {
	var stdout bool
	cmd := &cobra.Command{
		Use:   "seal policy.yaml",
		Short: "Add or renew the checksum at the end of a policy file",
		Long: long(`
Ends a policy file with the SHA-256 of all before it, in place of one that is there.
A sealed file is refused when a byte of it is missing or changed, so that a copy
that was cut short does not pass for a shorter policy. It protects against
accidents, not against people: anybody can seal a file.

The file is replaced in one step, and only if lint finds no error in it (but a seal at
its end that does not fit, which is renewed) and nobody has changed it meanwhile. Owner,
group and mode stay; it is not replaced where they cannot.`,
			"sealed", "the file has errors and is as it was", "never"),
		Example: `  mtlsctl seal policy.yaml
  mtlsctl seal --stdout policy.yaml >sealed.yaml`,
		Args:              exactly("policy.yaml"),
		ValidArgsFunction: files("yaml", "yml", "json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !stdout {
				// What cannot be replaced need not be read, and waited for.
				if err := checkRegular(args[0]); err != nil {
					return err
				}
			}
			data, err := readFile(args[0], maxPolicyFile)
			if err != nil {
				return err
			}
			// A seal on a file that was cut or has errors would give it a look of soundness.
			sealed, err := policyfile.Reseal(data, args[0])
			if err != nil {
				complain(cmd.ErrOrStderr(), err)
				return answer(exitNo)
			}
			if stdout {
				if text := strings.ReplaceAll(string(sealed), "\t", ""); terminal(cmd.OutOrStdout()) && escape(text) != text {
					return fmt.Errorf("%s: it has characters that are not printable ASCII, which a terminal is not shown raw, and sealed they cannot be escaped: print it into a file", shown(args[0]))
				}
				_, err := cmd.OutOrStdout().Write(sealed)
				return err
			}
			return replaceFile(args[0], data, sealed)
		},
	}
	cmd.Flags().BoolVar(&stdout, "stdout", false, "print the sealed file instead of replacing it")
	return cmd
}

func newSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy files",
		Long: long(`
Prints the JSON Schema (draft 2020-12) of policy files, for editors. What lint
checks is more than a schema can say.`, "printed", "never", "never"),
		Example: `  mtlsctl schema >policy.schema.json`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(policyfile.Schema())
			return err
		},
	}
}

// replaceFile puts data in place of a file in one step: a reader finds the old
// content or the new. A symbolic link stays, and leads to the new content; owner, group
// and mode stay, and where they cannot, the file stays as it was. So it does where it
// is no longer what was read of it: only a change in the last moment, between that look
// and the rename, is lost.
func replaceFile(path string, was, data []byte) (err error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: it is not a file that can be replaced; see --stdout", shown(path))
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".mtlsctl-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = keepOwner(f, info); err != nil {
		return fmt.Errorf("%s: its owner would change: %w; see --stdout", shown(path), err)
	}
	if err = f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	now, err := readFile(target, maxPolicyFile)
	if err == nil && !bytes.Equal(now, was) {
		err = fmt.Errorf("%s: it has changed meanwhile: seal it again", shown(path))
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), target)
}

// files completes arguments with the names of files that end so.
func files(extensions ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return extensions, cobra.ShellCompDirectiveFilterFileExt
	}
}
