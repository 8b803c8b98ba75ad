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
	line int // zero: not set in the file
	on   bool
}

// entry is a child of a collection: a mapping, or something else that might have
// been one.
type entry struct {
	*element
	foreign bool
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
	for _, e := range s.security {
		m.surroundings(e)
	}
	for _, e := range s.sections {
		m.section(e)
	}
}

func (m *importer) section(e *element) {
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
		if _, set := e.attr(f.name); set {
			*f.s = setting{e.line, m.flag(what, e, f.name, false, false)}
		}
	}
	for _, name := range []string{"defaultLogonDomain", "logonMethod"} {
		if value, ok := e.attr(name); ok && value != "" {
			m.remark(e.line, what, name+" "+quote(value)+" is not carried over: nobody is logged on to Windows here", "accounts keep the text of userName")
		}
	}
	if strange {
		m.many = append(m.many, entry{e, true})
	}
	for _, c := range e.children {
		switch {
		case is(c.name, "oneToOneMappings"):
			if m.attributes(c.name, c) {
				m.oneToOne = append(m.oneToOne, entry{c, true})
			}
			m.oneToOne = m.collect(m.oneToOne, c, "certificate")
		case is(c.name, "manyToOneMappings"):
			if m.attributes(c.name, c) {
				m.many = append(m.many, entry{c, true})
			}
			m.many = m.collect(m.many, c, "name")
		default:
			m.lost(c.line, what, "unknown element "+quote(c.name), "see what it is for")
			m.many = append(m.many, entry{c, true})
		}
	}
}

// collect applies the children of a collection to what was there before.
func (m *importer) collect(list []entry, collection *element, key string) []entry {
	gone := func(e entry, how string, by *element) {
		if !e.foreign {
			m.remark(e.line, describe(e.element, key), "taken away by "+how+" in line "+itoa(by.line), "")
		}
	}
	for _, c := range collection.children {
		switch {
		case is(c.name, "add"):
			list = append(list, entry{c, false})
		case is(c.name, "clear"):
			m.attributes("clear", c)
			for _, e := range list {
				gone(e, "clear", c)
			}
			list = nil
		case is(c.name, "remove"):
			m.attributes("remove", c, key)
			value, _ := c.attr(key)
			kept := list[:0]
			for _, e := range list {
				if other, ok := e.attr(key); !e.foreign && ok && sameKey(key, other, value) {
					gone(e, "remove", c)
				} else {
					kept = append(kept, e)
				}
			}
			if len(kept) == len(list) {
				m.lost(c.line, "remove in "+collection.name, "nothing in this file has its "+key, "if another file has it, import that as well")
			}
			list = kept
		default:
			m.lost(c.line, collection.name, "unknown element "+quote(c.name), "see what it is for")
			list = append(list, entry{c, true})
		}
	}
	return list
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

// sameKey compares certificates without blanks and names as they are.
func sameKey(key, a, b string) bool {
	if key == "certificate" {
		return unwrap(a) == unwrap(b)
	}
	return a == b
}

// surroundings collects what else decides in IIS about the clients of a place: the
// last word on each counts.
func (m *importer) surroundings(security *element) {
	for _, auth := range security.find("authentication") {
		for _, c := range auth.children {
			if !is(c.name, sectionName) {
				m.others = append(slices.DeleteFunc(m.others, func(e *element) bool { return is(e.name, c.name) }), c)
			}
		}
	}
	for _, c := range security.find("access") {
		m.access = c
	}
	for _, c := range security.find("authorization") {
		if slices.ContainsFunc(c.children, restricts) {
			m.lost(c.line, "authorization", "rules about URLs and accounts are not carried over", "give the rules roles, and the routes Guard.Require")
		}
	}
}

// restricts reports whether a child of authorization does more than allow everybody,
// which is what IIS comes with.
func restricts(e *element) bool {
	access, _ := e.attr("accessType")
	users, _ := e.attr("users")
	return !(is(e.name, "clear") || is(e.name, "add") && is(access, "Allow") && users == "*")
}

// nameOthers names what surroundings has found.
func (m *importer) nameOthers() {
	for _, e := range m.others {
		switch on, _ := e.attr("enabled"); {
		case !is(on, "true"):
		case is(e.name, "clientCertificateMappingAuthentication"):
			m.lost(e.line, e.name, "the mappings of Active Directory are not in this file", "write an AccountMapper for Config.Accounts")
		default:
			m.remark(e.line, "authentication "+quote(e.name), "it is enabled: IIS may admit by it a client that no mapping matches, which is refused here", "")
		}
	}
	if m.access == nil {
		return
	}
	if flags, _ := m.access.attr("sslFlags"); !strings.Contains(strings.ToLower(flags), "sslrequirecert") {
		m.remark(m.access.line, "access", "sslFlags "+quote(flags)+" do not require a certificate", "with Guard.Server every request needs one; Guard.OptionalServer and Require leave routes open")
	}
}
