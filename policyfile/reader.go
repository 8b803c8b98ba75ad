package policyfile

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// The reader takes a part of YAML that leaves no doubt and in which one wrong
// byte is noticed, or concerns one value: a line is a key, an element of a list
// or a comment; a scalar is on one line; levels differ by two blanks or more; and
// no comment could be a setting or hide one. JSON is within it. What it reads,
// goccy/go-yaml must read in the same way (see confirm).

// kind is what a node is.
type kind uint8

const (
	mapping  kind = iota
	sequence      // a list
	plain         // a scalar without quotes
	quoted        // a scalar in quotes
)

// place is where something is in the file: line and column in characters, both
// from 1.
type place struct{ line, column int }

// node is a node of the document.
type node struct {
	kind  kind
	at    place
	text  string  // of a scalar, without its quotes
	keys  []*node // of a mapping: keys[i] is the key of items[i]
	items []*node
}

// get returns the value of a key of a mapping, or nil.
func (n *node) get(key string) *node {
	if n.kind == mapping {
		for i, k := range n.keys {
			if k.text == key {
				return n.items[i]
			}
		}
	}
	return nil
}

// span is an element of the rules: its bytes, and where they begin. An element of
// a block list has its lines, up to the next one.
type span struct {
	from, to        int
	line, lineStart int
	block           bool
	at              place // of the node
}

const (
	maxDepth  = 8       // of nested mappings and lists; the format needs 5
	maxKeys   = 64      // of one mapping; a rule has less than half as many
	maxItems  = 100_000 // of one list in a rule, which bounds what a parser needs for it
	maxFailed = 100     // of elements that are no YAML, before the reader gives up
)

// reader reads a document. Its methods panic with a *problem where it cannot be
// read.
type reader struct {
	src       string
	pos       int // of what is read next
	line      int // that pos is in
	lineStart int
	known     int // a place in the line whose column is known, to count each line once
	column    int
	indent    int // of the content line that pos is in; -1: there is none
	scalars   int // column of the "- " of a scalar in the last content line; -1: it was none
	depth     int
	sealAt    int // where the seal begins, which is the only comment of its kind

	element func(*node, span) // takes the elements of the rules; nil: they stay in the tree
	failed  []*problem        // of elements
}

func newReader(src string, sealAt int) *reader {
	return &reader{src: src, line: 1, column: 1, scalars: -1, sealAt: sealAt}
}

// fail says what cannot be read at a position.
func (r *reader) fail(pos int, format string, args ...any) {
	panic(&problem{at: r.place(pos), text: fmt.Sprintf(format, args...)})
}

// place returns the place of a position, which is in the present line or was passed
// already.
func (r *reader) place(pos int) place {
	if pos < r.lineStart {
		start := strings.LastIndexByte(r.src[:pos], '\n') + 1
		return place{r.line - strings.Count(r.src[pos:r.lineStart], "\n"), 1 + utf8.RuneCountInString(r.src[start:pos])}
	}
	if r.known < r.lineStart || r.known > pos {
		r.known, r.column = r.lineStart, 1
	}
	r.column += utf8.RuneCountInString(r.src[r.known:pos])
	r.known = pos
	return place{r.line, r.column}
}

// document reads all of it.
func (r *reader) document() *node {
	r.nextLine()
	if r.indent == 0 && r.rest() == "---" {
		r.pos += len("---")
		r.endOfLine()
	}
	switch {
	case r.indent < 0:
		r.fail(r.pos, "the file is empty: it needs version and rules")
	case strings.HasPrefix(r.rest(), "---"), strings.HasPrefix(r.rest(), "..."), strings.HasPrefix(r.rest(), "%"):
		r.fail(r.pos, "a file is one document, without directives")
	case r.indent > 0 && r.src[r.pos] != '{':
		r.fail(r.pos, "the keys of the file begin in the first column")
	case r.src[r.pos] == '[', r.dash():
		r.fail(r.pos, "the file is a list: it begins with version and rules")
	}
	var root *node
	if r.src[r.pos] == '{' {
		root = r.flow(true)
		r.endOfLine()
	} else {
		root = r.mapping(0)
		if !strings.HasSuffix(r.src, "\n") && r.sealAt < 0 {
			r.fail(len(r.src), "the last line has no end: is the file cut off? Put a line break behind it")
		}
	}
	if r.indent >= 0 {
		r.fail(r.pos, "this belongs to nothing: a file is one document, and its keys begin in the first column")
	}
	return root
}

// rest returns the present line from pos on, without blanks at its end.
func (r *reader) rest() string {
	line := r.src[r.pos:]
	if i := strings.IndexByte(line, '\n'); i >= 0 {
		line = line[:i]
	}
	return strings.TrimRight(line, " \r")
}

// blanks skips the blanks in a line.
func (r *reader) blanks() {
	for r.pos < len(r.src) && r.src[r.pos] == ' ' {
		r.pos++
	}
}

// atEnd reports whether the line holds nothing more but a comment.
func (r *reader) atEnd() bool {
	if r.pos == len(r.src) {
		return true
	}
	c := r.src[r.pos]
	return c == '\n' || c == '\r' || c == '#' && (r.pos == r.lineStart || r.src[r.pos-1] == ' ')
}

// endOfLine expects the end of a content line, and goes to the next one.
func (r *reader) endOfLine() {
	r.blanks()
	if !r.atEnd() {
		r.fail(r.pos, "unexpected %s: nothing but a comment may follow here; put text with special characters in quotes", r.seen())
	}
	if strings.HasPrefix(r.src[r.pos:], "#") {
		r.comment(false)
	}
	r.newline()
	r.nextLine()
}

// newline goes over the end of a line.
func (r *reader) newline() {
	if i := strings.IndexByte(r.src[r.pos:], '\n'); i >= 0 {
		r.pos += i + 1
		r.line++
		r.lineStart = r.pos
	} else {
		r.pos = len(r.src)
	}
}

// nextLine goes to the next line with content, over blank lines and comments.
func (r *reader) nextLine() {
	var comments []place
	for r.pos < len(r.src) {
		r.blanks()
		if r.atEnd() {
			if strings.HasPrefix(r.src[r.pos:], "#") {
				if !strings.HasPrefix(r.src[r.pos:], "##") {
					comments = append(comments, place{r.line, r.pos - r.lineStart})
				}
				r.comment(true)
			}
			r.newline()
			continue
		}
		if r.src[r.pos] == '\t' {
			r.fail(r.pos, "a tab: indent with blanks")
		}
		r.indent = r.pos - r.lineStart
		now := -1
		if r.dash() && !r.keyFollows(r.pos+1) {
			now = r.indent
		}
		r.commentsBetween(comments, r.scalars, now)
		r.scalars = now
		return
	}
	r.commentsBetween(comments, r.scalars, -1)
	r.indent, r.scalars = -1, -1
}

// commentsBetween refuses comments in the place of an element of a list of
// scalars: "# a" there is "- a" with one wrong byte.
func (r *reader) commentsBetween(comments []place, before, after int) {
	for _, c := range comments {
		if c.column == before || c.column == after {
			panic(&problem{at: place{c.line, c.column + 1}, text: "a comment in the place of an element of the list: begin it with ##, or put it behind an element"})
		}
	}
}

// dash reports whether an element of a list begins at pos.
func (r *reader) dash() bool {
	if r.pos >= len(r.src) || r.src[r.pos] != '-' {
		return false
	}
	return r.pos+1 == len(r.src) || strings.IndexByte(" \r\n", r.src[r.pos+1]) >= 0
}

// deeper counts the levels that are open.
func (r *reader) deeper() func() {
	if r.depth++; r.depth > maxDepth {
		r.fail(r.pos, "nested too deep")
	}
	return func() { r.depth-- }
}

// mapping reads a block mapping whose keys have the indentation.
func (r *reader) mapping(indent int) *node {
	defer r.deeper()()
	m := &node{kind: mapping, at: r.place(r.pos)}
	for r.indent == indent && !r.dash() {
		key := r.addKey(m, false)
		r.blanks()
		if !r.atEnd() {
			m.items = append(m.items, r.inline(r.topRules(key)))
			r.endOfLine()
			continue
		}
		r.endOfLine()
		switch {
		case r.indent == indent && r.dash(), r.indent >= indent+2 && r.dash():
			m.items = append(m.items, r.sequence(r.indent, r.topRules(key)))
		case r.indent >= indent+2:
			m.items = append(m.items, r.mapping(r.indent))
		case r.indent == indent+1:
			r.fail(r.pos, "indent by two blanks or more: with one, a wrong byte could move the line to another level")
		default:
			panic(&problem{at: key.at, text: fmt.Sprintf("%s has no value; leave it out, or give it one", quote(key.text))})
		}
	}
	switch {
	case r.indent == indent:
		r.fail(r.pos, "an element of a list where a key was expected")
	case r.indent > indent:
		r.fail(r.pos, "the indentation of this line is that of nothing above it (%d, and the keys above have %d)", r.indent, indent)
	}
	return m
}

// topRules reports whether a key is that of the rules of the file.
func (r *reader) topRules(key *node) bool { return r.depth == 1 && key.text == "rules" }

// sequence reads a block list whose dashes have the indentation. That of the rules
// is handed on element by element.
func (r *reader) sequence(indent int, rules bool) *node {
	defer r.deeper()()
	s := &node{kind: sequence, at: r.place(r.pos)}
	for r.indent == indent && r.dash() {
		begin := span{from: r.lineStart, line: r.line, lineStart: r.lineStart, block: true}
		if !rules || r.element == nil {
			r.room(s)
			s.items = append(s.items, r.item(indent))
			continue
		}
		n, failed := r.attempt(func() *node { return r.item(indent) })
		if failed != nil {
			r.failed = append(r.failed, failed)
			if len(r.failed) >= maxFailed || !r.skipTo(begin, indent) {
				panic(failed)
			}
			continue
		}
		begin.to = r.lineStart
		if r.indent < 0 {
			begin.to = len(r.src)
		}
		r.element(n, begin)
	}
	if r.indent > indent {
		r.fail(r.pos, "the indentation of this line is that of nothing above it (%d, and the elements above have %d)", r.indent, indent)
	}
	return s
}

// room refuses one more element of a list that is full.
func (r *reader) room(list *node) {
	if len(list.items) == maxItems {
		r.fail(r.pos, "more than %d elements in a list: make several rules", maxItems)
	}
}

// item reads an element of a block list.
func (r *reader) item(indent int) *node {
	r.pos++
	r.blanks()
	switch {
	case r.atEnd():
		r.fail(r.pos, "an empty element: write it behind the dash")
	case r.dash():
		r.fail(r.pos, "a list in a list: nothing here is one")
	case r.keyFollows(r.pos):
		r.indent = r.pos - r.lineStart
		return r.mapping(r.indent)
	}
	n := r.inline(false)
	r.endOfLine()
	if r.indent > indent {
		r.fail(r.pos, "this line continues the element above: write a value on one line")
	}
	return n
}

// defect begins what is said of a panic that nobody meant: a file is refused then.
const defect = "reading failed"

// attempt returns what f panics with.
func (r *reader) attempt(f func() *node) (n *node, failed *problem) {
	depth := r.depth
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *problem:
			n, failed, r.depth = nil, p, depth
		default:
			n, failed, r.depth = nil, &problem{at: place{r.line, 1}, text: fmt.Sprintf("%s here: %v", defect, p)}, depth
		}
	}()
	return f(), nil
}

// skipTo goes to the next element of a list after one that cannot be read.
func (r *reader) skipTo(begin span, indent int) bool {
	r.pos, r.line, r.lineStart, r.scalars = begin.from, begin.line, begin.lineStart, -1
	dash := strings.Repeat(" ", indent) + "- "
	for r.pos < len(r.src) {
		r.newline()
		if strings.HasPrefix(r.src[r.pos:], dash) {
			r.pos += indent
			r.indent = indent
			return true
		}
	}
	return false
}

// reread reads an element again that was handed on before.
func reread(src string, s span) *node {
	r := newReader(src[:s.to], s.to)
	r.pos, r.line, r.lineStart = s.from, s.line, s.lineStart
	n, failed := r.attempt(func() *node {
		if !s.block {
			r.known, r.column = s.from, s.at.column // without counting a long line again
			return r.flow(false)
		}
		r.nextLine()
		return r.item(r.indent)
	})
	if failed != nil {
		return &node{at: failed.at}
	}
	return n
}
