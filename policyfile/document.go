package policyfile

import (
	"fmt"
	"runtime"
	"slices"
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
	failed problems
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

// work decodes and confirms the rules of a piece.
func (b *batch) work(src string, files *named) {
	defer func() {
		if p := recover(); p != nil {
			b.failed.add(&problem{at: place{b.spans[0].line, 1}, text: fmt.Sprintf("%s here: %v", defect, p)})
		}
	}()
	d := &decoder{named: files}
	for i, n := range b.nodes {
		before := d.failed.count()
		r := fields(d, "a rule", n, ruleFields, "name")
		if d.failed.count() == before {
			b.rules, b.index = append(b.rules, r), append(b.index, i)
		}
	}
	// The parser needs much more memory than the reader, and a file that is refused
	// needs no second opinion.
	if b.failed.merge(d.failed); b.failed.count() == 0 {
		if failed := confirm(b.piece(src), &node{kind: sequence, at: b.nodes[0].at, items: b.nodes}); failed != nil {
			b.failed.add(failed)
		}
	}
	b.nodes = nil
}

// read reads the document. The rules that could be read are in c.rules; index says
// which of the file each is, where not all could.
func (c *content) read(seal int) (failed problems, index []int) {
	r := newReader(c.src, seal)
	var (
		batches []*batch
		open    = &batch{}
		running sync.WaitGroup
		adding  sync.Mutex // guards failed
		places  = make(chan struct{}, min(runtime.GOMAXPROCS(0), maxWorkers))
	)
	handOver := func() {
		if b := open; len(b.nodes) > 0 {
			batches = append(batches, b)
			places <- struct{}{}
			running.Go(func() {
				defer func() { <-places }()
				b.work(c.src, c.named)
				adding.Lock()
				defer adding.Unlock()
				failed.merge(b.failed)
				b.failed = problems{}
			})
		}
		open = &batch{}
	}
	r.element = func(n *node, s span) {
		if k := len(open.spans); k > 0 && s.block && s.from != open.spans[k-1].to {
			handOver() // what cannot be read is in between
		}
		s.at = n.at
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
	}
	failed.add(r.failed...)
	if stop != nil {
		if !slices.Contains(r.failed, stop) {
			failed.add(stop)
		}
		return failed, index
	}
	if len(r.failed) == 0 {
		if p := c.confirmTop(root); p != nil {
			failed.add(p)
		}
	}
	failed.merge(c.top(root))
	return failed, index
}

// confirmTop confirms what stands around the rules.
func (c *content) confirmTop(root *node) *problem {
	around := c.src
	if n := len(c.spans); n > 0 {
		before, after := c.src[:c.spans[0].from], c.src[c.spans[n-1].to:]
		around = before + after
		if c.spans[0].block {
			around = before + "  []\n" + after // in place of the lines of the list
		}
	}
	return confirm(around, root)
}

// top reads what stands beside the rules.
func (c *content) top(root *node) problems {
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
	case found.rules != nil && found.rules.kind == sequence && len(c.spans) == 0 && d.failed.count() == 0:
		d.fail(found.rules, "rules: an empty list; deny_all: true admits nobody")
	}
	return d.failed
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
