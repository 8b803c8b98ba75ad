package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mtlsguard/mtls"
	"github.com/mtlsguard/mtls/policyfile"
)

// lintReport is the form of lint --json.
type lintReport struct {
	Files    []lintFile `json:"files"`
	Errors   int        `json:"errors"`
	Warnings int        `json:"warnings"`
	Notes    int        `json:"notes"`
}

type lintFile struct {
	File     string        `json:"file"`
	Errors   []lintProblem `json:"errors"`
	Warnings []lintProblem `json:"warnings"`
	Notes    []lintProblem `json:"notes"`
	Rules    *lintCounts   `json:"rules"` // nil: the file could not be read as a policy
}

type lintProblem struct {
	Line   int    `json:"line,omitempty"` // from 1; absent: not of one place
	Column int    `json:"column,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Text   string `json:"text"`
}

type lintCounts struct {
	Allow    int `json:"allow"`
	Deny     int `json:"deny"`
	Disabled int `json:"disabled"`
	Walked   int `json:"walked"`
}

func newLint() *cobra.Command {
	var t trust
	var strict, asJSON bool
	var at string
	cmd := &cobra.Command{
		Use:   "lint policy.yaml...",
		Short: "Check policy files",
		Long: long(`
Reads policy files as a service reads them and prints each problem with its place,
then what is legal and suspicious (warnings, and notes where it may well be meant),
then how many rules there are. "walked" are
those that no index finds: they are looked at one after the other for every client.

With --roots, --authority or --public the rules are also checked against the
authorities, as a service does when it starts: rules that name an authority that
is not there, or a domain that none may speak for.`,
			"no errors", "errors, and with --strict also warnings", "never"),
		Example: `  mtlsctl lint policy.yaml
  mtlsctl lint --strict --roots ca.pem policy.yaml
  mtlsctl lint --authority partners=ca.pem,acme.example --json policy.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("mtlsctl lint: no policy file given (see \"mtlsctl lint --help\")")
			}
			return nil
		},
		ValidArgsFunction: files("yaml", "yml", "json"),
		RunE: func(cmd *cobra.Command, args []string) error {
			colour, err := coloured(cmd)
			if err != nil {
				return err
			}
			now, err := clock(at)
			if err != nil {
				return err
			}
			var roots *mtls.Roots
			if t.given() {
				if roots, err = t.load(); err != nil {
					return err
				}
			}
			report := lintReport{Files: []lintFile{}}
			for _, name := range args {
				f, err := lintOne(name, roots, now)
				if err != nil {
					return err
				}
				report.Files = append(report.Files, f)
				report.Errors += len(f.Errors)
				report.Warnings += len(f.Warnings)
				report.Notes += len(f.Notes)
			}
			if asJSON {
				if err := writeJSON(cmd.OutOrStdout(), report); err != nil {
					return err
				}
			} else {
				report.print(printer{cmd.OutOrStdout(), colour})
			}
			if report.Errors > 0 || strict && report.Warnings > 0 {
				return answer(exitNo)
			}
			return nil
		},
	}
	t.flags(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 1 for warnings, too")
	cmd.Flags().StringVar(&at, "time", "", "the time at which rules are in force or not, RFC 3339 (default now)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// lintOne returns an error only for a file that cannot be read.
func lintOne(name string, roots *mtls.Roots, now func() time.Time) (lintFile, error) {
	f := lintFile{File: name, Errors: []lintProblem{}, Warnings: []lintProblem{}, Notes: []lintProblem{}}
	quiet := slog.New(slog.DiscardHandler)
	if err := checkPolicy(name); err != nil {
		return f, err
	}
	file, err := policyfile.Options{Now: now, Logger: quiet}.Load(name)
	if err != nil {
		for _, e := range flat(err) {
			f.Errors = append(f.Errors, placed(e))
		}
		return f, nil
	}
	if roots != nil {
		_, err := mtls.New(mtls.Config{Roots: roots, Policy: file.Policy(), Accounts: accountsOf(file.Rules()), Logger: quiet})
		for _, e := range flat(file.Locate(err)) {
			f.Errors = append(f.Errors, placed(e))
		}
	}
	for _, w := range file.Lint() {
		p := lintProblem{Line: w.Line, Column: w.Column, Rule: w.Rule, Text: w.Text}
		if w.Warning {
			f.Warnings = append(f.Warnings, p)
		} else {
			f.Notes = append(f.Notes, p)
		}
	}
	s := file.Policy().Stats()
	f.Rules = &lintCounts{Allow: s.Allow, Deny: s.Deny, Disabled: s.Disabled, Walked: s.Walked}
	return f, nil
}

// flat takes joined errors apart.
func flat(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, e := range joined.Unwrap() {
			list = append(list, flat(e)...)
		}
		return list
	}
	return []error{err}
}

// placed is an error with its place, if it has one.
func placed(err error) lintProblem {
	var e *policyfile.Error
	if !errors.As(err, &e) {
		return lintProblem{Text: strings.TrimPrefix(err.Error(), "mtls: ")}
	}
	return lintProblem{Line: e.Line, Column: e.Column, Text: e.Problem}
}

func (r lintReport) print(p printer) {
	for _, f := range r.Files {
		for _, e := range f.Errors {
			e.print(p, f.File, red, "error")
		}
		for _, w := range f.Warnings {
			w.print(p, f.File, yellow, "warning")
		}
		for _, n := range f.Notes {
			n.print(p, f.File, plain, "note")
		}
		if c := f.Rules; c != nil {
			p.printf("%s: %s, %s; %d disabled, %d walked\n", shown(f.File), count(c.Allow, "allow rule"), count(c.Deny, "deny rule"), c.Disabled, c.Walked)
		}
	}
	s := green
	if r.Errors > 0 {
		s = red
	} else if r.Warnings > 0 {
		s = yellow
	}
	p.painted(s, "%s, %s, %s", count(r.Errors, "error"), count(r.Warnings, "warning"), count(r.Notes, "note"))
	p.printf("\n")
}

func (l lintProblem) print(p printer, file string, s style, kind string) {
	p.printf("%s:", shown(file))
	if l.Line > 0 {
		p.printf("%d:%d:", l.Line, l.Column)
	}
	p.printf(" ")
	p.painted(s, "%s:", kind)
	p.printf(" ")
	if l.Rule != "" {
		p.printf("rule %s: ", shown(l.Rule))
	}
	p.printf("%s\n", oneLine(l.Text))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// oneLine is for text that may have been put together of several lines.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", `\n`) }
