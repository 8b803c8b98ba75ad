package policyfile

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hidden is what an element of a list looks like that stands in a comment, perhaps
// because the end of the comment's line was lost.
var hidden = regexp.MustCompile(`- +([{["']|[a-z_]+ *:( |$))`)

// setting is what a setting looks like that begins a comment.
var setting = regexp.MustCompile(`^(- |[{["']|([a-z_]+) *:( |$))`)

// comment goes over a comment. It must not be what one wrong byte makes of a
// setting: a "#" in front of it, or an end of a line that is lost, so that the
// next line is in the comment.
func (r *reader) comment(ownLine bool) {
	start := r.pos
	text := r.restAt(start)
	r.pos += len(text)
	if start == r.sealAt {
		return // checked as a whole
	}
	body := strings.TrimLeft(text, "#")
	hashes := len(text) - len(body)
	switch {
	case body == "":
		return
	case body[0] != ' ':
		r.fail(start, "a comment begins with # and a blank; put text with # in it in quotes")
	}
	body = body[1:]
	match := setting.FindStringSubmatch(body)
	switch {
	case strings.Contains(body, "\t"):
		r.fail(start, "a tab in a comment: use blanks")
	case strings.Contains(body, "  "), body != "" && body[0] == ' ':
		r.fail(start, "two blanks in a row in a comment: a line that lost the end of the one above it would look like this")
	case strings.HasPrefix(body, sealWord):
		r.fail(start, "a seal must be the last line: renew it")
	case hidden.MatchString(body):
		r.fail(start, "a comment that looks like an element of a list; a rule is taken out with disabled: true")
	case hashes > 1:
	case ownLine && match != nil && (match[2] == "" || isKey(match[2])):
		r.fail(start, "a comment that looks like a setting, which one wrong byte could make of it: begin it with ## (a rule is taken out with disabled: true)")
	}
}

// quote shows text of the file in an error: printable, on one line, bounded.
func quote(s string) string {
	if utf8.RuneCountInString(s) > 80 {
		s = string([]rune(s)[:80]) + "..."
	}
	return fmt.Sprintf("%q", s)
}

// show is quote for the rest of a line.
func show(s string) string {
	if s == "" {
		return "the end of the line"
	}
	if utf8.RuneCountInString(s) > 20 {
		s = string([]rune(s)[:20]) + "..."
	}
	return fmt.Sprintf("%q", s)
}

// maxBlanks bounds the blanks at the end of a line, or in front of its comment, for
// which the YAML parser needs time by the square of their number.
const maxBlanks = 64

// unseen reports whether a character shows nothing, or a blank that is not U+0020, or
// only how others are shown, such as their direction: with one the file would say
// something else than it shows.
func unseen(r rune) bool {
	const blankBraille = '\u2800'
	return r > unicode.MaxASCII && (r == blankBraille ||
		unicode.In(r, unicode.Cf, unicode.Zs, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector))
}

// checkText refuses what has no place in a text file, or ends a line for some
// readers and not for others.
func checkText(src string) *problem {
	line, lineStart, blanks := 1, 0, 0
	for i := 0; i < len(src); {
		c := src[i]
		if c == ' ' || c == '\t' {
			i, blanks = i+1, blanks+1
			continue
		}
		if (c == '\n' || c == '\r' || c == '#') && blanks > maxBlanks && i-blanks > lineStart {
			return &problem{at: place{line, 1 + utf8.RuneCountInString(src[lineStart:i])}, text: fmt.Sprintf("more than %d blanks at the end of a line", maxBlanks)}
		}
		blanks = 0
		if c > ' ' && c < 0x7f {
			i++
			continue
		}
		if c == '\n' {
			i++
			line, lineStart = line+1, i
			continue
		}
		r, size := utf8.DecodeRuneInString(src[i:])
		text := ""
		switch {
		case c == '\r' && strings.HasPrefix(src[i+1:], "\n"):
		case c == '\r':
			text = "a carriage return that is not at the end of a line"
		case c == 0:
			text = "a NUL byte"
		case r == utf8.RuneError && size == 1:
			text = "this is not UTF-8"
		case r == '\ufeff':
			text = "a byte order mark: save the file as UTF-8 without one"
		case unicode.IsControl(r), r == '\u2028', r == '\u2029', r == '\ufffe', r == '\uffff':
			text = fmt.Sprintf("a control character, %U: write it as an escape in double quotes", r)
		case unseen(r):
			text = fmt.Sprintf("a character that cannot be seen, %U: write it as an escape in double quotes", r)
		}
		if text != "" {
			return &problem{at: place{line, 1 + utf8.RuneCountInString(src[lineStart:i])}, text: text}
		}
		i += size
	}
	return nil
}
