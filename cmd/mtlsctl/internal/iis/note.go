package iis

import (
	"fmt"
	"strconv"
	"strings"
)

// A Note says what became of a part of the configuration that is not a rule, or
// is not all that the rule means.
type Note struct {
	Line int
	// Lost: it could not be carried over, or the policy may decide otherwise than
	// IIS. Otherwise it is a thing to know.
	Lost bool
	// What names the part, Why says what is the matter with it, and Do, which may be
	// empty, what to do. Text from the configuration is quoted and cut in them.
	What, Why, Do string
}

// Text is the note on one line of printable ASCII, without its place.
func (n Note) Text() string {
	s := n.What + ": " + n.Why
	if n.Do != "" {
		s += "; " + n.Do
	}
	return s
}

// At is Text after the file and the line, as compilers write it, and after "note:"
// where nothing is lost.
func (n Note) At(file string) string {
	kind := "note: "
	if n.Lost {
		kind = ""
	}
	return fmt.Sprintf("%s:%d: %s%s", plain(file), n.Line, kind, n.Text())
}

// quote makes text of the configuration printable ASCII on one line, and cuts it.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return escape(s[:most]) + "..."
	}
	return escape(s)
}

// escape makes text printable ASCII on one line, in which nothing looks like a list
// or a gap: comments of policy files may not have them.
func escape(s string) string {
	return strings.NewReplacer("  ", ` \x20`, "- ", `-\x20`).Replace(strconv.QuoteToASCII(s))
}

// plain is text as it is, if that does no harm.
func plain(s string) string {
	if q := escape(s); q != `"`+s+`"` {
		return q
	}
	return s
}
