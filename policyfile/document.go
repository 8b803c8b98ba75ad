package policyfile

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mtlsguard/mtls"
)

const (
	batchRules = 64       // at most, in one piece
	batchBytes = 64 << 10 // after which a piece ends
	maxWorkers = 8
)

// batch is a piece of the document: neighbouring rules.
type batch struct {
	nodes  []*node
	spans  []span
	rules  []mtls.Rule // that could be read,
	index  []int       // and their places in nodes
	failed []*problem
}

// piece returns the document that goccy/go-yaml confirms, which is the list of the
// nodes.
func (b *batch) piece(src string) string {
	first, last := b.spans[0], b.spans[len(b.spans)-1]
	if first.block {
		return src[first.from:last.to]
	}
	return "[" + src[first.from:last.to] + "\n]"
}

// work confirms and decodes the rules of a piece.
func (b *batch) work(src string, files *named) {
	defer func() {
		if p := recover(); p != nil {
			b.failed = append(b.failed, &problem{at: place{b.spans[0].line, 1}, text: fmt.Sprintf("%s here: %v", defect, p)})
		}
	}()
	want := &node{kind: sequence, at: b.nodes[0].at, items: b.nodes}
	if failed := confirm(b.piece(src), want); failed != nil {
		b.failed = append(b.failed, failed)
	}
	d := &decoder{named: files}
	for i, n := range b.nodes {
		before := len(d.failed)
		r := fields(d, "a rule", n, ruleFields, "name")
		if len(d.failed) == before {
			b.rules, b.index = append(b.rules, r), append(b.index, i)
		}
	}
	b.failed = append(b.failed, d.failed...)
	b.nodes = nil
}

// read reads the document. The rules that could be read are in c.rules; index says
// which of the file each is, where not all could.
func (c *content) read(seal int) (failed []*problem, index []int) {
	r := newReader(c.src, seal)
	var (
		batches []*batch
		open    = &batch{}
		running sync.WaitGroup
		places  = make(chan struct{}, min(runtime.GOMAXPROCS(0), maxWorkers))
	)
	handOver := func() {
		if b := open; len(b.nodes) > 0 {
			batches = append(batches, b)
			places <- struct{}{}
			running.Go(func() {
				defer func() { <-places }()
				b.work(c.src, c.named)
			})
		}
		open = &batch{}
	}
	r.element = func(n *node, s span) {
		if k := len(open.spans); k > 0 && s.block && s.from != open.spans[k-1].to {
			handOver() // what cannot be read is in between
		}
		open.nodes, open.spans = append(open.nodes, n), append(open.spans, s)
		if len(open.nodes) == batchRules || s.to-open.spans[0].from >= batchBytes {
			handOver()
		}
	}
	root, stop := r.attempt(r.document)
	handOver()
	running.Wait()

	n := 0
	for _, b := range batches {
		n += len(b.spans)
	}
	if n > 0 {
		c.spans, c.rules, index = make([]span, 0, n), make([]mtls.Rule, 0, n), make([]int, 0, n)
	}
	for _, b := range batches {
		for _, i := range b.index {
			index = append(index, len(c.spans)+i)
		}
		c.spans, c.rules = append(c.spans, b.spans...), append(c.rules, b.rules...)
		failed = append(failed, b.failed...)
	}
	failed = append(failed, r.failed...)
	if stop != nil {
		if !slices.Contains(failed, stop) {
			failed = append(failed, stop)
		}
		return failed, index
	}
	if len(r.failed) == 0 {
		failed = append(failed, c.confirmTop(root)...)
	}
	return append(failed, c.top(root)...), index
}

// confirmTop confirms what stands around the rules.
func (c *content) confirmTop(root *node) []*problem {
	around := c.src
	if n := len(c.spans); n > 0 {
		before, after := c.src[:c.spans[0].from], c.src[c.spans[n-1].to:]
		around = before + after
		if c.spans[0].block {
			around = before + "  []\n" + after // in place of the lines of the list
		}
	}
	if failed := confirm(around, root); failed != nil {
		return []*problem{failed}
	}
	return nil
}

// top reads what stands beside the rules.
func (c *content) top(root *node) []*problem {
	d := &decoder{}
	type top struct{ rules *node }
	found := fields(d, "the file", root, map[string]field[top]{
		"version": func(d *decoder, key string, v *node, _ *top) {
			if v.kind != plain || v.text != "1" {
				d.fail(v, "version: 1 is expected, the only version there is, not %s", v.what())
			}
		},
		"rules": func(d *decoder, key string, v *node, t *top) {
			t.rules, c.all = v, v.at
			if v.kind != sequence {
				d.fail(v, "rules: a list of rules is expected, not %s", v.what())
			}
		},
		"deny_all": func(d *decoder, key string, v *node, _ *top) {
			if c.denyAll = v.kind == plain && v.text == "true"; !c.denyAll {
				d.fail(v, "deny_all: true is expected, or leave it out, not %s", v.what())
			}
		},
	}, "version")
	switch deny := root.get("deny_all"); {
	case found.rules != nil && deny != nil:
		d.fail(deny, "rules and deny_all: one of them")
	case found.rules == nil && deny == nil:
		d.fail(root, "the file needs rules, or deny_all: true to admit nobody")
	case found.rules != nil && found.rules.kind == sequence && len(c.spans) == 0 && len(d.failed) == 0:
		d.fail(found.rules, "rules: an empty list; deny_all: true admits nobody")
	}
	return d.failed
}

// locate makes the errors of mtls.NewPolicy and Policy.Replace errors of the file.
// index says which rule of the file each rule is; nil: they are the same.
func (c *content) locate(err error, index []int) error {
	return join(c.file, c.problems(err, index))
}

func (c *content) problems(err error, index []int) []*problem {
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*problem
		for _, e := range list.Unwrap() {
			all = append(all, c.problems(e, index)...)
		}
		return all
	}
	var e *mtls.ConfigError
	if !errors.As(err, &e) {
		return []*problem{{at: c.all, text: strings.TrimPrefix(err.Error(), "mtls: "), err: err}}
	}
	at, rule := c.all, e.Rule-1
	if index != nil && rule >= 0 && rule < len(index) {
		rule = index[rule]
	}
	text := ""
	if rule >= 0 && rule < len(c.spans) {
		at = c.find(rule, e.Item)
		if e.Rule <= len(c.rules) {
			text = "rule " + quote(c.rules[e.Rule-1].Name) + ": "
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
	return []*problem{{at: at, text: text, err: err}}
}

var (
	goName  = regexp.MustCompile(`NoOrigin\(\)|\b[A-Z][A-Za-z]+\b`)
	element = regexp.MustCompile(`^([A-Za-z]+)(\[([0-9]+)\])?$`)
)

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

// find returns the place of an item of a rule, such as "Domains[0]" or
// "Origin.Hosts[1]", or of what comes nearest.
func (c *content) find(rule int, item string) place {
	n := reread(c.src, c.spans[rule])
	if n.kind == mapping {
		// Elements that come from files stand behind those that are listed.
		for list, files := range map[string]string{"Certificates": "certificate_files", "PublicKeys": "public_key_files", "IssuerKeys": "issuer_files"} {
			if m := element.FindStringSubmatch(item); m != nil && m[1] == list && m[3] != "" {
				if at, ok := c.findInFile(n, key(list), files, m[3]); ok {
					return at
				}
			}
		}
	}
	for part := range strings.SplitSeq(item, ".") {
		m := element.FindStringSubmatch(part)
		if m == nil {
			break
		}
		next := n.get(key(m[1]))
		if next == nil {
			break
		}
		n = next
		if i, err := strconv.Atoi(m[3]); err == nil && i < len(n.items) {
			n = n.items[i]
		}
	}
	return n.at
}

// findInFile returns the place of the path of a file that an element comes from.
func (c *content) findInFile(n *node, listed, files, number string) (place, bool) {
	i, _ := strconv.Atoi(number)
	if l := n.get(listed); l != nil {
		i -= len(l.items)
	}
	f := n.get(files)
	if f == nil || i < 0 {
		return place{}, false
	}
	for _, path := range f.items {
		data, err := c.named.read(path.text)
		if err != nil {
			break
		}
		count := 0
		switch files {
		case "certificate_files":
			found, _ := certificates(data)
			count = len(found)
		case "public_key_files":
			found, _ := publicKeys(data)
			count = len(found)
		default:
			found, _ := issuers(data)
			count = len(found)
		}
		if i < count {
			return path.at, true
		}
		i -= count
	}
	return place{}, false
}

// meant suggests the key that was perhaps meant.
func meant[T any](word string, known map[string]T) string {
	word = strings.ToLower(strings.NewReplacer("-", "", "_", "", ".", "").Replace(word))
	best, least := "", 3
	for k := range known {
		d := distance(word, strings.ReplaceAll(k, "_", ""))
		if d < least || d == least && best != "" && k < best {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; was %s meant?", best)
}

// distance is the number of letters to put in, take out or change (Levenshtein), or
// 3 for more than that.
func distance(a, b string) int {
	if len(a) > len(b)+2 || len(b) > len(a)+2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := corner
			if a[i] != b[j] {
				next = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], next
		}
	}
	return min(row[len(b)], 3)
}
