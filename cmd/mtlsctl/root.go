package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const statusHelp = `
Exit status: 0 %s; 1 %s; 2 %s; 3 the command itself failed (usage, a file that cannot be read).`

// long is the text of a command, with its exit status.
func long(text, yes, no, unknown string) string {
	return strings.TrimSpace(text) + "\n" + fmt.Sprintf(statusHelp, yes, no, unknown)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "mtlsctl",
		Short: "Policies, decisions, certificates and revocation lists of mutual TLS",
		Long: long(`
mtlsctl checks policy files, explains why a client is admitted or refused, shows
what a certificate holds and which rules can be written from it, and reads
certificate revocation lists. It decides with the same code as the services.
Text out of certificates, lists and DNS is printed with everything but printable
ASCII escaped; policies on a terminal alone, in files they are what they are.`, "yes", "no (refused, problems found, a revoked serial number found)", "undetermined"),
		Example: `  mtlsctl lint policy.yaml
  mtlsctl explain --policy policy.yaml --roots ca.pem --cert client.pem --from 198.51.100.7
  mtlsctl inspect client.pem
  mtlsctl crl ca.crl --issuer ca.pem --cert client.pem`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentFlags().String("color", "auto", "colours: auto (on a terminal, without NO_COLOR), always or never")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := coloured(cmd)
		return err
	}
	fixed(root, "color", "auto", "always", "never")
	root.SetHelpCommand(newHelp())
	root.AddCommand(newLint(), newExplain(), newInspect(), newCRL(), newSeal(), newSchema(), newImportIIS(), newCompletion(), newVersion())
	return root
}

// newHelp is cobra's, but for names that do not exist, which are a failure.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Print the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return fmt.Errorf("no help about %q", strings.Join(rest, " "))
			}
			return about.Help()
		},
	}
}

// fixed completes the values of a flag.
func fixed(cmd *cobra.Command, flag string, values ...string) {
	// An error would be a flag that does not exist or is completed twice.
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err)
	}
}

// coloured reads --color.
func coloured(cmd *cobra.Command) (bool, error) {
	switch v := cmd.Flag("color").Value.String(); v {
	case "always":
		return true, nil
	case "never":
		return false, nil
	case "auto":
		return os.Getenv("NO_COLOR") == "" && terminal(cmd.OutOrStdout()), nil
	default:
		return false, fmt.Errorf("--color %q: it is auto, always or never", v)
	}
}

// terminal reports whether it is one, or another device that may show what it gets.
func terminal(w io.Writer) bool {
	if watched, ok := w.(*watchedWriter); ok {
		w = watched.w
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// exactly is cobra.ExactArgs with a text that says what is wanted.
func exactly(what ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(what) {
			return nil
		}
		return fmt.Errorf("%s: %d arguments given, wanted: %s (see %q)", cmd.CommandPath(), len(args), strings.Join(what, " "), cmd.CommandPath()+" --help")
	}
}

// required returns an error that names the flags that were not given.
func required(cmd *cobra.Command, flags ...string) error {
	missing := slices.DeleteFunc(flags, func(f string) bool { return cmd.Flags().Changed(f) })
	if len(missing) == 0 {
		return nil
	}
	return errors.New(cmd.CommandPath() + ": missing --" + strings.Join(missing, ", --") + " (see \"" + cmd.CommandPath() + " --help\")")
}
