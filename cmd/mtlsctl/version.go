package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    long("Prints the version of mtlsctl, as the build recorded it, and of Go.", "printed", "never", "never"),
		Example: "  mtlsctl version",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := printer{w: cmd.OutOrStdout()}
			info, ok := debug.ReadBuildInfo()
			if !ok {
				p.printf("mtlsctl, of unknown version\n")
				return nil
			}
			p.printf("mtlsctl %s %s\n", info.Main.Version, info.GoVersion)
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" || s.Key == "vcs.time" || s.Key == "vcs.modified" {
					p.printf("%s %s\n", s.Key, s.Value)
				}
			}
			return nil
		},
	}
}

func newCompletion() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands in a shell",
		Long: long(`
Prints a script for a shell. That of bash needs the package bash-completion.`, "printed", "never", "never"),
		Example: `  source <(mtlsctl completion bash)
  mtlsctl completion zsh >"${fpath[1]}/_mtlsctl"
  mtlsctl completion fish >~/.config/fish/completions/mtlsctl.fish
  mtlsctl completion powershell | Out-String | Invoke-Expression`,
		ValidArgs: shells,
		Args:      cobra.MatchAll(exactly("bash|zsh|fish|powershell"), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			default:
				return root.GenPowerShellCompletionWithDesc(w)
			}
		},
	}
}
