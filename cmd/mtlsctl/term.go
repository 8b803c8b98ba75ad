package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A style is the number of an ANSI colour (ECMA-48 section 8.3.117). Zero: none.
type style int

const (
	plain  style = 0
	bold   style = 1
	red    style = 31
	green  style = 32
	yellow style = 33
)

// printer writes what is for people. No control character but its own colours and
// the ends of its lines gets out: text from a certificate that nobody quoted could
// otherwise do to a terminal whatever its issuer likes.
type printer struct {
	w      io.Writer
	colour bool
}

func (p printer) printf(format string, args ...any) { p.painted(plain, format, args...) }

func (p printer) painted(s style, format string, args ...any) {
	text := escape(fmt.Sprintf(format, args...))
	if p.colour && s != plain {
		text = fmt.Sprintf("\x1b[%dm%s\x1b[0m", s, text)
	}
	_, _ = io.WriteString(p.w, text) // run looks whether it got out
}

// field prints one line with a name in front; an empty value is left out.
func (p printer) field(name, value string) {
	if value != "" {
		p.printf("%-14s %s\n", name, value)
	}
}

// escaper is a Writer that escapes.
type escaper struct{ w io.Writer }

func (e escaper) Write(b []byte) (int, error) {
	if _, err := io.WriteString(e.w, escape(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// escape leaves printable ASCII and the ends of lines as they are.
func escape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\n' || r >= ' ' && r <= '~':
			b.WriteByte(s[i])
		case r == utf8.RuneError && n <= 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// shown is text from outside as a part of a line: as it is where that is printable
// ASCII that cannot be taken for something else, otherwise quoted, and cut.
func shown(s string) string {
	const most = 512
	more := ""
	if len(s) > most {
		s, more = s[:most], "..."
	}
	q := strconv.QuoteToASCII(s)
	if q == `"`+s+`"` && s != "" && s == strings.TrimSpace(s) {
		q = s
	}
	return q + more
}

func allShown(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = shown(s)
	}
	return out
}

// writeJSON writes a document in ASCII. JSON allows DEL, the C1 controls, among
// which is a CSI, and characters that turn the direction of text as they are.
func writeJSON(w io.Writer, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, quotedASCII(string(data))+"\n")
	return err
}

// writePolicy writes a policy that Marshal has made, as it is into a file or a pipe. On
// a terminal it is the same policy in ASCII: Marshal has other characters in double
// quotes alone, where YAML reads the escapes of JSON.
func writePolicy(w io.Writer, policy []byte) error {
	text := string(policy)
	if terminal(w) {
		text = quotedASCII(text)
	}
	_, err := io.WriteString(w, text)
	return err
}

// quotedASCII escapes, as JSON does in quotes, what is no ASCII, and DEL.
func quotedASCII(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == 0x7f || r > '~' && r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
