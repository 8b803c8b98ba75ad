// Package iis turns the client certificate mappings of an IIS configuration
// (system.webServer/security/authentication/iisClientCertificateMappingAuthentication)
// into the rules of a policy.
//
// Nothing is dropped in silence: each mapping becomes a rule or a Note, and so does
// whatever else stands in the section. What is not understood admits nobody, and the
// many-to-one mappings after it are disabled, since some of their clients may be
// refused by it, or mapped to another account.
package iis

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mtlsguard/mtls"
)

// Options say how a configuration is read. The zero value reads the only section of
// the file.
type Options struct {
	// Location is the path of the location element whose mappings are meant, such as
	// "Default Web Site". What stands outside of locations, and in those above, is
	// inherited. Empty: the only place that has mappings.
	Location string
	// Authority is the authority that the rules are about. Empty: "roots", which is
	// what mtls.LoadRoots calls it.
	Authority string
	// Exact takes "*" in a matchCriteria literally. Otherwise it stands for any run
	// of characters.
	Exact bool
}

// maxNotes bounds the notes: nobody reads as many.
const maxNotes = 50_000

// A Result is what a configuration says about client certificates.
type Result struct {
	Location string // of the mappings; empty: those outside of location elements
	Rules    []mtls.Rule
	Lines    []int  // where the mapping of each rule is
	Notes    []Note // in the order of lines
}

// Lost reports whether something could not be carried over.
func (r *Result) Lost() bool {
	return slices.ContainsFunc(r.Notes, func(n Note) bool { return n.Lost })
}

// Import reads an applicationHost.config or a web.config. An error means that it
// could not be read, or that it does not say which mappings are meant.
func Import(data []byte, o Options) (*Result, error) {
	root, err := readXML(data)
	if err != nil {
		return nil, err
	}
	if !is(root.name, "configuration") {
		return nil, fmt.Errorf("line %d: the root element is %s, not configuration", root.line, quote(root.name))
	}
	if o.Authority == "" {
		o.Authority = "roots"
	}
	all := scopes(root)
	chosen, err := choose(all, o.Location)
	if err != nil {
		return nil, err
	}
	m := &importer{Options: o, names: map[string]int{}, otherAt: map[string]int{}}
	m.result.Location = chosen[len(chosen)-1].path
	m.elsewhere(root, all, chosen)
	for _, s := range chosen {
		m.scope(s)
	}
	m.nameOthers()
	m.rules()
	m.compareOrder()
	if len(m.result.Notes) > maxNotes {
		return nil, fmt.Errorf("more than %d things in it are not carried over or to know", maxNotes)
	}
	slices.SortStableFunc(m.result.Notes, func(a, b Note) int { return a.Line - b.Line })
	return &m.result, nil
}

// importer makes a Result.
type importer struct {
	Options
	result   Result
	settings settings
	oneToOne collection
	many     collection
	line     int            // of the first section
	others   []*element     // other kinds of authentication; nil: a later one counts
	otherAt  map[string]int // where in others a kind is
	access   *element       // the last one
	names    map[string]int // of the rules, and the number of the last one that was made of each
	secrets  []int          // lines with passwords
	missing  int            // the first line that IIS may decide by and the policy does not; zero: none
	made     []madeRule
}

// madeRule is a rule with where it comes from.
type madeRule struct {
	mtls.Rule
	line        int
	certificate *certificate // of a one-to-one mapping
}

func (m *importer) lost(line int, what, why, do string) {
	m.note(Note{line, true, what, why, do})
}

func (m *importer) remark(line int, what, why, do string) {
	m.note(Note{line, false, what, why, do})
}

// note keeps a note. One more than there may be makes Import fail: none is dropped.
func (m *importer) note(n Note) {
	if len(m.result.Notes) <= maxNotes {
		m.result.Notes = append(m.result.Notes, n)
	}
}

const sectionName = "iisClientCertificateMappingAuthentication"

// scope is a place of the configuration that a section may stand in: the file itself,
// or a location element.
type scope struct {
	path     string // empty: the file itself
	element  *element
	security []*element
	sections []*element
	aspNet   []*element // authorization of system.web
}

func scopes(root *element) []*scope {
	list := []*scope{{element: root}}
	for _, l := range root.find("location") {
		path, _ := l.attr("path")
		path = strings.Trim(path, "/")
		if path == "." {
			path = ""
		}
		list = append(list, &scope{path: path, element: l})
	}
	for _, s := range list {
		s.security = s.element.find("system.webServer", "security")
		for _, e := range s.security {
			s.sections = append(s.sections, e.find("authentication", sectionName)...)
		}
		s.aspNet = s.element.find("system.web", "authorization")
	}
	return list
}

func (s *scope) String() string {
	if s.path == "" {
		return "outside of location elements"
	}
	return quote(s.path)
}

// choose returns the scopes that count for a location, the outermost first.
func choose(all []*scope, location string) ([]*scope, error) {
	with, path := places(all, func(e *element) bool {
		_, elsewhere := e.attr("configSource")
		return len(e.children) > 0 || elsewhere
	})
	if len(with) == 0 {
		with, path = places(all, func(*element) bool { return true })
	}
	switch {
	case len(with) == 0:
		return nil, fmt.Errorf("no %s section in it", sectionName)
	case location != "":
		path = strings.Trim(location, "/")
		if !slices.ContainsFunc(all, func(s *scope) bool { return strings.EqualFold(s.path, path) }) {
			return nil, fmt.Errorf("no location %s in it; it has mappings in: %s", quote(location), strings.Join(with, ", "))
		}
	case len(with) > 1:
		return nil, fmt.Errorf("it has mappings in several places: %s; choose one with --location", strings.Join(with, ", "))
	}
	var chosen []*scope
	for _, s := range all {
		if above(s.path, path) {
			chosen = append(chosen, s)
		}
	}
	if !slices.ContainsFunc(chosen, func(s *scope) bool { return len(s.sections) > 0 }) {
		return nil, fmt.Errorf("no %s section for the location %s; it has some in: %s", sectionName, quote(path), strings.Join(with, ", "))
	}
	slices.SortStableFunc(chosen, func(a, b *scope) int { return depth(a.path) - depth(b.path) })
	return chosen, nil
}

// places returns the names of the scopes with such a section, and the path of the
// last one. Every applicationHost.config has an empty section outside of locations.
func places(all []*scope, such func(*element) bool) (names []string, path string) {
	known := map[string]bool{}
	for _, s := range all {
		if slices.ContainsFunc(s.sections, such) && !known[s.path] {
			known[s.path] = true
			names, path = append(names, s.String()), s.path
		}
	}
	return names, path
}

// above reports whether a path is that of another or above it. Windows compares
// paths without regard to case.
func above(path, other string) bool {
	if path == "" || strings.EqualFold(path, other) {
		return true
	}
	return len(other) > len(path) && other[len(path)] == '/' && strings.EqualFold(other[:len(path)], path)
}

func depth(path string) int {
	if path == "" {
		return 0
	}
	return 1 + strings.Count(path, "/")
}

// elsewhere names the sections of the file that do not count, and what decides
// otherwise below the place whose mappings are meant: a policy has no places.
func (m *importer) elsewhere(root *element, all, chosen []*scope) {
	known, counts := map[*element]bool{}, map[*scope]bool{}
	for _, s := range chosen {
		counts[s] = true
	}
	for _, s := range all {
		here := counts[s]
		below := !here && above(m.result.Location, s.path)
		if below {
			m.below(s)
		}
		for _, e := range s.sections {
			known[e] = true
			switch {
			case here:
			case below && len(e.attrs)+len(e.children) > 0:
				m.lost(e.line, "section "+sectionName, "it decides otherwise in "+s.String()+", which is below: the rules hold there, too", "import that place with --location, for a service of its own")
			default:
				m.remark(e.line, "section "+sectionName, "it is that of another place, "+s.String(), "import them into a policy of their own with --location")
			}
		}
	}
	root.walk(func(e *element) {
		if is(e.name, sectionName) && !known[e] {
			m.lost(e.line, "section "+sectionName, "it stands where IIS does not read it", "move it to system.webServer/security/authentication")
		}
	})
}
