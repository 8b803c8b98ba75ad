// Package policyfile keeps the rules of a policy in a file, YAML or JSON.
//
// A file is taken as a whole or not at all: an unknown key, a value of a wrong type
// or a rule that mtls.NewPolicy refuses is an error with its line and column, and
// all of them are reported at once. It takes the part of YAML in which one wrong
// byte cannot drop a rule or a field unnoticed; docs/policyfile.md has the format,
// Schema describes it for editors, and Seal protects it from being cut.
package policyfile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/mtlsguard/mtls"
)

const (
	maxFile     = 64 << 20 // bytes of a policy
	maxProblems = 20       // that are reported of one file
)

// An Error is one problem of a file. Parse, Load and Reload report all of them at
// once, at most 20 and how many more there are, joined by errors.Join.
type Error struct {
	File         string // as it was given
	Line, Column int    // in characters, from 1; zero: the file as a whole
	Problem      string
	Err          error // the cause, such as a *mtls.ConfigError; nil: none
}

// Error begins "mtls: ", and names file, line and column.
func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("mtls: %s: %s", e.File, e.Problem)
	}
	return fmt.Sprintf("mtls: %s:%d:%d: %s", e.File, e.Line, e.Column, e.Problem)
}

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.Err }

// problem is an Error whose file is not said yet.
type problem struct {
	at   place
	text string
	err  error
}

// problems are those of a file that come first in it, in its order, and how many
// more there are: what is reported is bounded, and so is what is kept. The zero
// problems are none.
type problems struct {
	first []*problem // at most one more than maxProblems
	more  int
}

func before(a, b place) int {
	return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
}

func (p *problems) count() int { return len(p.first) + p.more }

// wants reports whether a problem at this place is one of the first. If not, it is
// counted.
func (p *problems) wants(at place) bool {
	if n := len(p.first); n <= maxProblems || before(at, p.first[n-1].at) < 0 {
		return true
	}
	p.more++
	return false
}

func (p *problems) add(list ...*problem) {
	for _, one := range list {
		if !p.wants(one.at) {
			continue
		}
		i, _ := slices.BinarySearchFunc(p.first, one.at, func(have *problem, at place) int {
			return cmp.Or(before(have.at, at), -1) // behind those of the same place
		})
		p.first = slices.Insert(p.first, i, one)
		if len(p.first) > maxProblems+1 {
			p.first = p.first[:maxProblems+1]
			p.more++
		}
	}
}

func (p *problems) merge(other problems) {
	p.add(other.first...)
	p.more += other.more
}

// join makes one error of the problems of a file.
func (p *problems) join(file string) error {
	var failed []error
	for i, one := range p.first {
		e := &Error{File: file, Line: one.at.line, Column: one.at.column, Problem: one.text, Err: one.err}
		if i == maxProblems && p.more > 0 {
			e.Problem, e.Err = fmt.Sprintf("and %d more problems from here on", p.more+1), nil
		}
		failed = append(failed, e)
	}
	return errors.Join(failed...)
}

// join makes an error of one problem of a file.
func join(file string, p *problem) error {
	all := problems{first: []*problem{p}}
	return all.join(file)
}

// Parse reads rules, and checks them as mtls.NewPolicy does. The name of the file
// is for errors, and its folder is where relative paths of certificates and keys
// start, which are read too. All problems are reported at once, as *Error. A file
// that says deny_all has no rules.
func Parse(data []byte, file string) ([]mtls.Rule, error) {
	c, err := sound(data, file, false)
	if err != nil {
		return nil, err
	}
	return c.rules, nil
}

// sound parses a file, and checks what its rules mean together. resealing passes over
// a seal at the end that is wrong.
func sound(data []byte, file string, resealing bool) (*content, error) {
	c, err := parseFor(data, file, resealing)
	if err == nil {
		_, err = c.compile()
	}
	return c, err
}

// compile makes a policy of the rules. Its errors are those of the file.
func (c *content) compile() (*mtls.Policy, error) {
	if c.denyAll {
		return mtls.DenyAll(), nil
	}
	p, err := mtls.NewPolicy(c.rules...)
	if err != nil {
		return nil, c.locate(err, nil)
	}
	return p, nil
}

// content is what a file says.
type content struct {
	file    string
	src     string
	denyAll bool
	rules   []mtls.Rule
	spans   []span // of the rules
	all     place  // of the list of rules
	named   *named // files that the rules name
}

// parse reads the rules of a file without looking at what they mean together.
func parse(data []byte, file string) (*content, error) { return parseFor(data, file, false) }

func parseFor(data []byte, file string, resealing bool) (*content, error) {
	c := &content{file: file, named: newNamed(filepath.Dir(file))}
	if len(data) > maxFile {
		return c, join(file, &problem{text: fmt.Sprintf("it has more than %d bytes", maxFile)})
	}
	c.src = string(data)
	if p := checkText(c.src); p != nil {
		return c, join(file, p)
	}
	seal, p := checkSeal(c.src)
	if p != nil && (seal < 0 || !resealing) {
		return c, join(file, p)
	}
	failed, index := c.read(seal)
	if failed.count() == 0 {
		return c, nil
	}
	// What could be read is checked too, so that one look at the file is enough.
	if len(c.rules) > 0 {
		if _, err := mtls.NewPolicy(c.rules...); err != nil {
			failed.merge(c.problems(err, index))
		}
	}
	return c, failed.join(file)
}

// readFile reads a regular file of at most so many bytes: reading a pipe could wait
// for ever, and a device has no end.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return data, err
}
