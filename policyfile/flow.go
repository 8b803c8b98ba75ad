package policyfile

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// addKey reads a key and its colon.
func (r *reader) addKey(m *node, flow bool) *node {
	if len(m.keys) == maxKeys {
		r.fail(r.pos, "more than %d keys", maxKeys)
	}
	start := r.pos
	key := &node{kind: plain, at: r.place(start)}
	if c := r.src[r.pos]; c == '"' || c == '\'' {
		key = r.quoted()
	} else {
		for r.pos < len(r.src) && keyByte(r.src[r.pos]) {
			r.pos++
		}
		key.text = r.src[start:r.pos]
	}
	end := r.pos
	if flow {
		r.space()
	} else {
		r.blanks()
	}
	switch {
	case key.text == "<<" || strings.HasPrefix(r.src[start:], "<<"):
		r.fail(start, "a merge key: write each rule out")
	case end == start || r.pos == len(r.src) || r.src[r.pos] != ':':
		r.fail(start, "a key and a colon were expected, not %s", show(r.restAt(start)))
	}
	r.pos++
	// Behind a plain key the colon could be a part of a scalar.
	if r.pos < len(r.src) && strings.IndexByte(" \r\n\t", r.src[r.pos]) < 0 && !(flow && key.kind == quoted) {
		r.fail(r.pos, "a blank is missing behind the colon of %s", quote(key.text))
	}
	for _, k := range m.keys {
		if k.text == key.text {
			panic(&problem{at: key.at, text: fmt.Sprintf("a second %s: the first is in line %d", quote(key.text), k.at.line)})
		}
	}
	m.keys = append(m.keys, key)
	return key
}

// restAt returns the line from a position on.
func (r *reader) restAt(pos int) string {
	line, _, _ := strings.Cut(r.src[pos:], "\n")
	return strings.TrimRight(line, " \r")
}

// keyByte reports whether a key may hold the byte. Keys that are known have small
// letters and underscores only; the others are for a better message.
func keyByte(c byte) bool {
	return c == '_' || c == '-' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf
}

// keyFollows reports whether behind pos, and blanks, is a key with its colon.
func (r *reader) keyFollows(pos int) bool {
	for pos < len(r.src) && r.src[pos] == ' ' {
		pos++
	}
	line := r.restAt(pos)
	if line == "" {
		return false
	}
	i := 0
	if q := line[0]; q == '"' || q == '\'' {
		for i = 1; i < len(line) && line[i] != q; i++ {
			if line[i] == '\\' && q == '"' {
				i++
			}
		}
		i++
	} else {
		for i < len(line) && keyByte(line[i]) {
			i++
		}
	}
	if i == 0 || i >= len(line) {
		return strings.HasPrefix(line, "<<")
	}
	after := strings.TrimLeft(line[i:], " ")
	return strings.HasPrefix(after, ":") && (len(after) == 1 || after[1] == ' ')
}

// inline reads a value that begins in a line of a block.
func (r *reader) inline(rules bool) *node {
	switch r.src[r.pos] {
	case '[', '{':
		return r.flow(rules)
	case '"', '\'':
		return r.quoted()
	}
	return r.plain(false)
}

// space goes over white space in a flow collection, over the ends of lines too.
func (r *reader) space() {
	for r.pos < len(r.src) {
		switch r.src[r.pos] {
		case ' ', '\t', '\r':
			r.pos++
		case '\n':
			r.newline()
		case '#':
			r.fail(r.pos, "a # between brackets: with one wrong byte a comment could be an element, so put it outside, and text in quotes")
		default:
			return
		}
	}
}

// flow reads a value within a flow collection, or a collection. rules is set for
// the one that has the rules in it, or is the list of them.
func (r *reader) flow(rules bool) *node {
	switch r.src[r.pos] {
	case '"', '\'':
		return r.quoted()
	case '[', '{':
	default:
		return r.plain(true)
	}
	defer r.deeper()()
	open, start := r.src[r.pos], r.place(r.pos)
	n := &node{kind: sequence, at: start}
	end := byte(']')
	if open == '{' {
		n.kind, end = mapping, '}'
	}
	handOn := rules && n.kind == sequence && r.element != nil
	r.pos++
	for first := true; ; first = false {
		r.space()
		if r.pos == len(r.src) {
			panic(&problem{at: start, text: fmt.Sprintf("this %c is not closed", open)})
		}
		if r.src[r.pos] == end && first {
			r.pos++
			return n
		}
		inner := false
		if n.kind == mapping {
			key := r.addKey(n, true)
			if r.space(); r.pos == len(r.src) || strings.IndexByte(",]}", r.src[r.pos]) >= 0 {
				panic(&problem{at: key.at, text: fmt.Sprintf("%s has no value; leave it out, or give it one", quote(key.text))})
			}
			inner = rules && r.topRules(key)
		} else if strings.IndexByte(",]}", r.src[r.pos]) >= 0 {
			r.fail(r.pos, "an element is missing before %q", r.src[r.pos])
		}
		r.room(n)
		begin := span{from: r.pos, line: r.line, lineStart: r.lineStart}
		v := r.flow(inner)
		if handOn {
			begin.to = r.pos
			r.element(v, begin)
		} else {
			n.items = append(n.items, v)
		}
		if r.next(v, open, start) == end {
			return n
		}
	}
}

// next expects a comma or the end of a flow collection behind a value.
func (r *reader) next(v *node, open byte, start place) byte {
	r.space()
	if r.pos == len(r.src) {
		panic(&problem{at: start, text: fmt.Sprintf("this %c is not closed", open)})
	}
	c := r.src[r.pos]
	switch {
	case c == ',':
		// "a,b" could have been "a.b".
		if v.kind == plain && r.pos+1 < len(r.src) && strings.IndexByte(" \t\r\n\"", r.src[r.pos+1]) < 0 {
			r.fail(r.pos, "a blank is missing behind the comma; or put the value in quotes if the comma belongs to it")
		}
	case c == ']' && open == '[', c == '}' && open == '{':
	case c == ':':
		r.fail(r.pos, "a colon where a comma or the end of the list was expected")
	default:
		r.fail(r.pos, "a comma or the end of what %c in line %d began was expected, not %s", open, start.line, r.seen())
	}
	r.pos++
	return c
}

// seen shows what is at pos.
func (r *reader) seen() string { return show(r.restAt(r.pos)) }

// plain reads a scalar without quotes.
func (r *reader) plain(flow bool) *node {
	start := r.pos
	n := &node{kind: plain, at: r.place(start)}
	if why := plainStarts[r.src[start]]; why != "" {
		r.fail(start, "%s", why)
	}
	blank := false
loop:
	for r.pos < len(r.src) {
		c, size := utf8.DecodeRuneInString(r.src[r.pos:])
		switch {
		case c == '\n', c == '\r', flow && strings.ContainsRune(",[]{}", c):
			break loop
		case c == '#' && blank:
			break loop
		case c == '\t':
			r.fail(r.pos, "a tab: put the text in quotes, with \\t for the tab")
		case c == ' ' && flow:
			break loop
		case c == ' ' && blank && !r.atEndOrBlanks():
			r.fail(r.pos, "two blanks in a row in text without quotes: put it in quotes")
		case c == ':' && (r.pos+1 == len(r.src) || strings.IndexByte(" \r\n", r.src[r.pos+1]) >= 0):
			r.fail(r.pos, "a colon and a blank in a value: put the text in quotes, or the key on a line of its own")
		case strings.ContainsRune("#\"'`[]{}\\", c):
			r.fail(r.pos, "%q in text without quotes: put it in quotes", c)
		case c != ' ' && (unicode.IsSpace(c) || !unicode.IsPrint(c)):
			r.fail(r.pos, "%U in text without quotes: put it in quotes", c)
		}
		blank = c == ' '
		r.pos += size
	}
	n.text = strings.TrimRight(r.src[start:r.pos], " ")
	if n.text == "" {
		r.fail(start, "a value was expected, not %s", r.seen())
	}
	return n
}

// atEndOrBlanks reports whether nothing but blanks, and a comment, follows in the
// line.
func (r *reader) atEndOrBlanks() bool {
	rest := strings.TrimLeft(r.restAt(r.pos), " ")
	return rest == "" || rest[0] == '#'
}

// plainStarts says what begins a value with the byte, other than text.
var plainStarts = map[byte]string{
	'&':  "an anchor: write each value out, or put text that begins with & in quotes",
	'*':  "an alias: write each value out, or put text that begins with * in quotes",
	'!':  "a tag: the type of each value is known, or put text that begins with ! in quotes",
	'|':  `text of several lines: write it in quotes, with \n for the end of a line`,
	'>':  `text of several lines: write it in quotes, with \n for the end of a line`,
	'%':  "a directive: put text that begins with % in quotes",
	'@':  "put text that begins with @ in quotes",
	'`':  "put text that begins with ` in quotes",
	'?':  "put text that begins with ? in quotes",
	':':  "put text that begins with : in quotes",
	'-':  "put text that begins with - in quotes",
	',':  "put text that begins with a comma in quotes",
	'\t': "a tab: use blanks",
}

// quoted reads a scalar in quotes. It ends in its line. In double quotes the
// escapes are those of JSON.
func (r *reader) quoted() *node {
	start, q := r.pos, r.src[r.pos]
	n := &node{kind: quoted, at: r.place(start)}
	var b strings.Builder
	r.pos++
	from := r.pos
	for {
		i := strings.IndexAny(r.src[r.pos:], "\"'\\\n\r\t")
		if i < 0 || r.src[r.pos+i] == '\n' || r.src[r.pos+i] == '\r' {
			r.fail(start, "the text in quotes does not end in its line")
		}
		r.pos += i
		switch c := r.src[r.pos]; {
		case c == '\t':
			r.fail(r.pos, "a tab in quotes: write \\t in double quotes")
		case c == '\\' && q == '"':
			b.WriteString(r.src[from:r.pos])
			b.WriteString(r.escape())
			from = r.pos
		case c != q:
			r.pos++
		case q == '\'' && strings.HasPrefix(r.src[r.pos:], "''"):
			r.pos++
			b.WriteString(r.src[from:r.pos])
			r.pos++
			from = r.pos
		default:
			n.text = r.src[from:r.pos]
			if b.Len() > 0 {
				b.WriteString(n.text)
				n.text = b.String()
			}
			r.pos++
			return n
		}
	}
}

// escape reads an escape of JSON (RFC 8259 section 7).
func (r *reader) escape() string {
	start := r.pos
	if r.pos += 2; r.pos <= len(r.src) {
		switch c := r.src[start+1]; c {
		case '"', '\\', '/':
			return string(c)
		case 'b':
			return "\b"
		case 'f':
			return "\f"
		case 'n':
			return "\n"
		case 'r':
			return "\r"
		case 't':
			return "\t"
		case 'u':
			c := r.hex(start)
			if utf16.IsSurrogate(c) {
				low := rune(0)
				if strings.HasPrefix(r.src[r.pos:], `\u`) {
					r.pos += 2
					low = r.hex(start)
				}
				if c = utf16.DecodeRune(c, low); c == unicode.ReplacementChar {
					r.fail(start, "half a character: a surrogate without the other")
				}
			}
			return string(c)
		}
	}
	r.fail(start, `not an escape of JSON: write \\ for a backslash, and \uXXXX for a character`)
	return ""
}

// hex reads the four digits of an escape.
func (r *reader) hex(start int) rune {
	if r.pos+4 <= len(r.src) {
		if v, err := strconv.ParseUint(r.src[r.pos:r.pos+4], 16, 16); err == nil {
			r.pos += 4
			return rune(v)
		}
	}
	r.fail(start, `\u needs four hexadecimal digits`)
	return 0
}
