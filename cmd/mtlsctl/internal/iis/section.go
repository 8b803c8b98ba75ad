package iis

import (
	"slices"
	"strconv"
	"strings"
)

// settings are the attributes of the section, and the lines that set them. IIS
// has the section off and its two kinds of mappings on where nothing is set.
type settings struct {
	enabled, oneToOne, many setting
}

type setting struct {
	line    int // zero: not set in the file
	on      bool
	unclear bool // neither true nor false, and taken for false
}

// entry is a child of a collection: a mapping, or something else that might have
// been one.
type entry struct {
	*element
	foreign bool
	around  bool // foreign, and no child: no clear takes it away
	gone    bool // taken away
}

// Attributes that protect an element from files further down. They say nothing
// about certificates.
var lockNames = []string{"lockAttributes", "lockAllAttributesExcept", "lockElements", "lockAllElementsExcept", "lockItem"}

func oneOf(name string, list ...string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return is(name, s) })
}

// attributes names what an element has beyond the known attributes, and reports
// whether that could change what it means.
func (m *importer) attributes(what string, e *element, known ...string) (strange bool) {
	for _, a := range e.attrs {
		switch {
		case oneOf(a.name, known...):
		case oneOf(a.name, lockNames...):
			m.remark(e.line, what, "attribute "+a.name+" locks the configuration against other files", "guard the policy file by its permissions")
		case is(a.name, "configSource"):
			m.lost(e.line, what, "attribute configSource: its content is in another file, "+quote(a.value), "put it in place of the attribute and import again")
			strange = true
		default:
			m.lost(e.line, what, "unknown attribute "+quote(a.name), "see what it is for")
			strange = true
		}
	}
	if e.text {
		m.lost(e.line, what, "it holds text, where IIS has elements only", "see what it is for")
		strange = true
	}
	return strange
}

// flag reads a boolean that may be missing. One that cannot be read is named, and
// safe is put in its place.
func (m *importer) flag(what string, e *element, name string, missing, safe bool) bool {
	switch value, set := e.attr(name); {
	case !set:
		return missing
	case is(value, "true"):
		return true
	case is(value, "false"):
		return false
	default:
		m.lost(e.line, what, name+" is "+quote(value)+", neither true nor false", "taken for "+strconv.FormatBool(safe))
		return safe
	}
}

// scope reads what a place of the file says, on top of what those above it said.
func (m *importer) scope(s *scope) {
	if s.element.name != "configuration" && len(s.sections) > 0 {
		what := "location " + quote(s.path)
		m.attributes(what, s.element, "path", "allowOverride", "overrideMode", "inheritInChildApplications")
		if !m.flag(what, s.element, "inheritInChildApplications", true, true) && !strings.EqualFold(s.path, m.result.Location) {
			m.lost(s.element.line, what, "inheritInChildApplications is false, and its mappings were taken for inherited by "+quote(m.result.Location), "remove those rules if that is an application of its own")
		}
	}
	m.surroundings(s)
	for _, e := range s.sections {
		m.section(e)
	}
}

func (m *importer) section(e *element) {
	if m.line == 0 {
		m.line = e.line
	}
	what := "section " + sectionName
	strange := m.attributes(what, e, "enabled", "defaultLogonDomain", "logonMethod", "oneToOneCertificateMappingsEnabled", "manyToOneCertificateMappingsEnabled")
	for _, f := range []struct {
		name string
		s    *setting
	}{
		{"enabled", &m.settings.enabled},
		{"oneToOneCertificateMappingsEnabled", &m.settings.oneToOne},
		{"manyToOneCertificateMappingsEnabled", &m.settings.many},
	} {
		if value, set := e.attr(f.name); set {
			*f.s = setting{e.line, m.flag(what, e, f.name, false, false), !oneOf(value, "true", "false")}
		}
	}
	for _, name := range []string{"defaultLogonDomain", "logonMethod"} {
		if value, ok := e.attr(name); ok && value != "" {
			m.remark(e.line, what, name+" "+quote(value)+" is not carried over: nobody is logged on to Windows here", "accounts keep the text of userName")
		}
	}
	if strange {
		m.many.around(e)
	}
	for _, c := range e.children {
		switch {
		case is(c.name, "oneToOneMappings"):
			if m.attributes(c.name, c) {
				m.oneToOne.around(c)
			}
			m.collect(&m.oneToOne, c, "certificate")
		case is(c.name, "manyToOneMappings"):
			if m.attributes(c.name, c) {
				m.many.around(c)
			}
			m.collect(&m.many, c, "name")
		default:
			m.lost(c.line, what, "unknown element "+quote(c.name), "see what it is for")
			m.many.around(c)
		}
	}
}

// collection is what the places read so far say of a kind of mappings.
type collection struct {
	list []entry
	at   map[string][]int // where in the list the mappings of a key are
}

// foreign marks a child of the collection that is not understood.
func (l *collection) foreign(e *element) {
	l.list = append(l.list, entry{element: e, foreign: true})
}

// around marks what is not understood of the collection itself, or of the section
// around it.
func (l *collection) around(e *element) {
	l.list = append(l.list, entry{element: e, foreign: true, around: true})
}

// left are the entries that nothing has taken away.
func (l *collection) left() []entry {
	return slices.DeleteFunc(slices.Clone(l.list), func(e entry) bool { return e.gone })
}

// collect applies the children of a collection to what was there before.
func (m *importer) collect(l *collection, from *element, key string) {
	gone := func(i int, how string, by *element) {
		if e := &l.list[i]; !e.foreign && !e.gone {
			m.remark(e.line, describe(e.element, key), "taken away by "+how+" in line "+itoa(by.line), "")
			e.gone = true
		}
	}
	if l.at == nil {
		l.at = map[string][]int{}
	}
	for _, c := range from.children {
		switch {
		case is(c.name, "add"):
			if value, ok := c.attr(key); ok {
				value = normal(key, value)
				l.at[value] = append(l.at[value], len(l.list))
			}
			l.list = append(l.list, entry{element: c})
		case is(c.name, "clear"):
			m.attributes("clear", c)
			for i := range l.list {
				gone(i, "clear", c)
			}
			left := collection{at: map[string][]int{}}
			if i := slices.IndexFunc(l.list, func(e entry) bool { return e.around }); i >= 0 {
				left.list = append(left.list, l.list[i]) // the first of them is enough
			}
			*l = left
			m.childless(l, from, c)
		case is(c.name, "remove"):
			m.attributes("remove", c, key)
			m.childless(l, from, c)
			value, _ := c.attr(key)
			if value == "" {
				m.lost(c.line, "remove in "+from.name, "it has no "+key, "see what it is for")
				l.around(c)
				continue
			}
			value = normal(key, value)
			if len(l.at[value]) == 0 {
				m.lost(c.line, "remove in "+from.name, "nothing in this file has its "+key, "if another file has it, import that as well")
			}
			for _, i := range l.at[value] {
				gone(i, "remove", c)
			}
			delete(l.at, value)
		default:
			m.lost(c.line, from.name, "unknown element "+quote(c.name), "see what it is for")
			l.foreign(c)
		}
	}
}

// childless marks an element that has others within it, which mean nothing there.
func (m *importer) childless(l *collection, from, e *element) {
	if len(e.children) > 0 {
		m.lost(e.children[0].line, from.name, "element "+quote(e.children[0].name)+" within "+quote(e.name), "see what it is for")
		l.around(e)
	}
}

// describe names a mapping.
func describe(e *element, key string) string {
	if key == "name" {
		name, _ := e.attr("name")
		return "many-to-one mapping " + quote(name)
	}
	user, _ := e.attr("userName")
	if user == "" {
		return "one-to-one mapping"
	}
	return "one-to-one mapping to " + quote(user)
}

// normal makes keys comparable: certificates without blanks, names as they are.
func normal(key, value string) string {
	if key == "certificate" {
		return unwrap(value)
	}
	return value
}
