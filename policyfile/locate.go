package policyfile

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/mtlsguard/mtls"
)

// locate makes the errors of mtls.NewPolicy and Policy.Replace errors of the file.
// index says which rule of the file each rule is; nil: they are the same.
func (c *content) locate(err error, index []int) error {
	failed := c.problems(err, index)
	return failed.join(c.file)
}

func (c *content) problems(err error, index []int) (failed problems) {
	l := &locator{c: c}
	for _, err := range flat(err) {
		l.explain(&failed, err, index)
	}
	return failed
}

// flat takes joined errors apart.
func flat(err error) []error {
	list, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range list.Unwrap() {
		all = append(all, flat(e)...)
	}
	return all
}

// locator finds places in rules. It keeps the last rule that it has read again.
type locator struct {
	c    *content
	rule int
	node *node // of the rule; nil: none yet
}

// explain adds what an error says. What would not be reported is not looked for.
func (l *locator) explain(failed *problems, err error, index []int) {
	var e *mtls.ConfigError
	if !errors.As(err, &e) {
		failed.add(&problem{at: l.c.all, text: strings.TrimPrefix(err.Error(), "mtls: "), err: err})
		return
	}
	at, rule := l.c.all, e.Rule-1
	if index != nil && rule >= 0 && rule < len(index) {
		rule = index[rule]
	}
	known := rule >= 0 && rule < len(l.c.spans)
	if known {
		if at = l.c.spans[rule].at; !failed.wants(at) {
			return
		}
		at = l.find(rule, e.Item)
	}
	if !failed.wants(at) {
		return
	}
	text := ""
	if known {
		if e.Rule <= len(l.c.rules) {
			text = "rule " + quote(l.c.rules[e.Rule-1].Name) + ": "
		}
		if e.Item != "" {
			text += inFile(e.Item) + ": "
		}
	}
	if e.Value != "" {
		text += quote(e.Value) + ": "
	}
	text += inFile(e.Problem)
	if e.Err != nil {
		text += ": " + inFile(strings.TrimPrefix(e.Err.Error(), "mtls: "))
	}
	failed.add(&problem{at: at, text: text, err: err})
}

var goName = regexp.MustCompile(`NoOrigin\(\)|\b[A-Z][A-Za-z]+\b`)

// goPhrases are names of Go that stand for a key with a value.
var goPhrases = map[string]string{
	"NoOrigin()": "origin: none", "NoOrigin": "origin: none", "InsecureAnyClient": "insecure_any_client: true", "DenyAll": "deny_all: true",
}

// goKeys are the keys whose Go names are not just put together.
var goKeys = map[string]string{
	"URIs": "uris", "UPNs": "upns", "OID": "oid", "PolicyOIDs": "policy_oids", "MinRSABits": "min_rsa_bits", "RequireDNSSEC": "require_dnssec",
}

// key returns the key of a field of Go.
func key(name string) string {
	if k := goKeys[name]; k != "" {
		return k
	}
	var b strings.Builder
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// inFile writes the fields of Go that a message names as the keys of the file. What
// is in quotes comes from the file and stays.
func inFile(text string) string {
	parts := strings.Split(text, `"`)
	for i := 0; i < len(parts); i += 2 {
		parts[i] = goName.ReplaceAllStringFunc(parts[i], func(name string) string {
			if phrase := goPhrases[name]; phrase != "" {
				return phrase
			}
			if k := key(name); isKey(k) {
				return k
			}
			return name
		})
	}
	return strings.Join(parts, `"`)
}

// listFiles are the keys of the files whose elements stand behind those that a list
// has itself.
var listFiles = map[string]string{"Certificates": "certificate_files", "PublicKeys": "public_key_files", "IssuerKeys": "issuer_files"}

// find returns the place of an item of a rule, such as "Domains[0]" or
// "Origin.Hosts[1]", or of what comes nearest.
func (l *locator) find(rule int, item string) place {
	n := l.ofRule(rule)
	for part := range strings.SplitSeq(item, ".") {
		name, number, _ := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		element, err := strconv.Atoi(number)
		next := n.get(key(name))
		if files := listFiles[name]; files != "" && err == nil {
			listed := 0
			if next != nil {
				listed = len(next.items)
			}
			if paths := n.get(files); paths != nil && element >= listed {
				if i := l.c.named.which(paths.items, files, element-listed); i >= 0 {
					return paths.items[i].at
				}
			}
		}
		if next == nil {
			break
		}
		n = next
		if err == nil && element >= 0 && element < len(n.items) {
			n = n.items[element]
		}
	}
	return n.at
}

// ofRule reads a rule again.
func (l *locator) ofRule(rule int) *node {
	if l.node == nil || l.rule != rule {
		l.rule, l.node = rule, reread(l.c.src, l.c.spans[rule])
	}
	return l.node
}
