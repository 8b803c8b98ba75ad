package iis

import (
	"slices"
	"strings"
)

// surroundings collects what else decides in IIS about the clients of a place. Of
// the kinds of authentication and of access the last word counts; what refuses is
// named wherever it stands, since a place may inherit it.
func (m *importer) surroundings(s *scope) {
	for _, security := range s.security {
		for _, auth := range security.find("authentication") {
			for _, c := range auth.children {
				if !is(c.name, sectionName) {
					m.otherKind(c)
				}
			}
		}
		for _, c := range security.find("access") {
			m.access = c
		}
	}
	m.refusals(s, "")
}

// otherKind keeps the last word on a kind of authentication.
func (m *importer) otherKind(e *element) {
	name := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, e.name)
	if i, known := m.otherAt[name]; known {
		m.others[i] = nil
	}
	m.otherAt[name] = len(m.others)
	m.others = append(m.others, e)
}

// below names what else decides about clients in a place that is below the one whose
// mappings are meant.
func (m *importer) below(s *scope) {
	in := " in " + s.String()
	m.refusals(s, in)
	for _, security := range s.security {
		for _, auth := range security.find("authentication") {
			for _, c := range auth.children {
				if on, _ := c.attr("enabled"); is(c.name, activeDirectory) && is(on, "true") {
					m.activeDirectory(c, in)
				}
			}
		}
	}
}

// refusals names what refuses clients of a place that its mappings admit.
func (m *importer) refusals(s *scope, in string) {
	const rules, roles = "rules about URLs and accounts are not carried over", "give the rules roles, and the routes Guard.Require"
	for _, security := range s.security {
		for _, c := range security.children {
			switch {
			case is(c.name, "ipSecurity") && refusesAddresses(c):
				m.lost(c.line, c.name+in, "addresses are admitted or refused by it, and the rules say origin none", "state an origin in the rules, or put a firewall before the service")
			case is(c.name, "dynamicIpSecurity") && refusesBusy(c):
				m.lost(c.line, c.name+in, "clients with many requests are refused by it, and here they are not", "limit requests before the service")
			case is(c.name, "authorization") && refusesAccounts(c):
				m.lost(c.line, c.name+in, rules, roles)
			}
		}
	}
	for _, c := range s.aspNet {
		if !only(c) || slices.ContainsFunc(c.children, func(e *element) bool { return !is(e.name, "allow") || !everyone(e) }) {
			m.lost(c.line, "system.web authorization"+in, rules, roles)
		}
	}
}

// only reports whether an element has no attributes beyond the known ones and those
// that lock, and no text.
func only(e *element, known ...string) bool {
	return !e.text && !slices.ContainsFunc(e.attrs, func(a attribute) bool {
		return !oneOf(a.name, known...) && !oneOf(a.name, lockNames...)
	})
}

// refusesAddresses reports whether ipSecurity may do more than admit every address,
// which is what IIS comes with. An address that it admits says that others are
// refused, perhaps by another file.
func refusesAddresses(e *element) bool {
	unlisted, set := e.attr("allowUnlisted")
	return set && !is(unlisted, "true") ||
		!only(e, "allowUnlisted", "denyAction", "enableProxyMode", "enableReverseDns") ||
		slices.ContainsFunc(e.children, func(c *element) bool { return !is(c.name, "clear") })
}

// refusesBusy reports whether some measure of dynamicIpSecurity is not plainly off.
func refusesBusy(e *element) bool {
	return !only(e, "denyAction", "enableLoggingOnlyMode", "enableProxyMode") ||
		slices.ContainsFunc(e.children, func(c *element) bool {
			on, _ := c.attr("enabled")
			return !oneOf(c.name, "denyByConcurrentRequests", "denyByRequestRate") || !is(on, "false")
		})
}

// refusesAccounts reports whether authorization does more than allow everybody,
// which is what IIS comes with. A list that is cleared and has nobody after that
// allows nobody.
func refusesAccounts(e *element) bool {
	all := true
	for _, c := range e.children {
		access, _ := c.attr("accessType")
		switch {
		case is(c.name, "clear"):
			all = false
		case is(c.name, "add") && (is(access, "Allow") || access == "0") && everyone(c):
			all = true
		default:
			return true
		}
	}
	return !all || !only(e, "bypassLoginPages")
}

// everyone reports whether a rule of authorization is about everybody, whatever the
// request: no verbs are all verbs.
func everyone(rule *element) bool {
	users, _ := rule.attr("users")
	roles, _ := rule.attr("roles")
	verbs, _ := rule.attr("verbs")
	return users == "*" && roles == "" && verbs == "" && len(rule.children) == 0 && only(rule, "accessType", "users", "roles", "verbs")
}

const activeDirectory = "clientCertificateMappingAuthentication"

func (m *importer) activeDirectory(e *element, in string) {
	m.lost(e.line, e.name+in, "the mappings of Active Directory are not in this file", "use directory.NewActiveDirectory as Config.Accounts")
}

// nameOthers names what surroundings has found.
func (m *importer) nameOthers() {
	for _, e := range m.others {
		if e == nil {
			continue
		}
		switch on, _ := e.attr("enabled"); {
		case !is(on, "true"):
		case is(e.name, activeDirectory):
			m.activeDirectory(e, "")
		default:
			m.remark(e.line, "authentication "+quote(e.name), "it is enabled: IIS may admit by it a client that no mapping matches, which is refused here", "")
		}
	}
	const do = "with Guard.Server every request needs one; Guard.OptionalServer and Require leave routes open"
	if m.access == nil {
		m.remark(m.line, "access", "nothing in this file sets its sslFlags: unless another file does, IIS asks for no certificate", do)
		return
	}
	if flags, _ := m.access.attr("sslFlags"); !strings.Contains(strings.ToLower(flags), "sslrequirecert") {
		m.remark(m.access.line, "access", "sslFlags "+quote(flags)+" do not require a certificate", do)
	}
}
