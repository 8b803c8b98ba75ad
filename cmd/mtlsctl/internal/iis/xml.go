package iis

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxSize is how many bytes of a configuration are read at most.
const MaxSize = 32 << 20

// maxDepth bounds the nesting of elements, and maxAttributes the attributes of one;
// a configuration of IIS has about 10 of each. maxParts bounds elements and attributes
// together: a mapping has 10 to 30.
const (
	maxDepth      = 64
	maxAttributes = 64
	maxParts      = 500_000
)

// netConfig is the namespace that old web.config files put on their root.
const netConfig = "http://schemas.microsoft.com/.NetConfiguration/v2.0"

// element is an element of the configuration.
type element struct {
	name     string // as it is written; with its namespace in braces where it has a foreign one
	line     int
	attrs    []attribute
	children []*element
	text     bool // it holds text, where IIS has only elements
}

// attribute is an attribute of an element. The value of a password is not kept.
type attribute struct{ name, value string }

// is compares names without regard to case: one that IIS would not know must not
// pass for absent, so that its default counts. Letters beyond ASCII are none of it.
func is(name, want string) bool { return len(name) == len(want) && strings.EqualFold(name, want) }

// attr returns the value of an attribute, and whether it is there.
func (e *element) attr(name string) (string, bool) {
	for _, a := range e.attrs {
		if is(a.name, name) {
			return a.value, true
		}
	}
	return "", false
}

// find returns the elements on a path below e.
func (e *element) find(path ...string) []*element {
	if len(path) == 0 {
		return []*element{e}
	}
	var list []*element
	for _, c := range e.children {
		if is(c.name, path[0]) {
			list = append(list, c.find(path[1:]...)...)
		}
	}
	return list
}

// walk visits e and what is below it.
func (e *element) walk(visit func(*element)) {
	visit(e)
	for _, c := range e.children {
		c.walk(visit)
	}
}

// readXML reads the elements of a document. Its errors tell the line and never
// quote the document, which has passwords in it.
func readXML(data []byte) (*element, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("larger than %d MiB", MaxSize>>20)
	}
	text, converted, err := toUTF8(data)
	if err != nil {
		return nil, err
	}
	d := xml.NewDecoder(bytes.NewReader(text))
	d.CharsetReader = func(charset string, in io.Reader) (io.Reader, error) {
		if is(charset, "us-ascii") || converted && is(charset, "utf-16") {
			return in, nil
		}
		return nil, errCharset
	}
	var root *element
	var open []*element
	parts := 0
	for {
		line, _ := d.InputPos()
		start := d.InputOffset()
		token, err := d.Token()
		if err == io.EOF && root != nil {
			return root, nil
		}
		if err != nil {
			line, _ = d.InputPos()
			return nil, fmt.Errorf("line %d: %s", line, syntax(err))
		}
		switch t := token.(type) {
		case xml.StartElement:
			if parts += 1 + len(t.Attr); parts > maxParts {
				return nil, fmt.Errorf("line %d: more than %d elements and attributes", line, maxParts)
			}
			if err := normalise(t.Attr, text[start:d.InputOffset()]); err != nil {
				return nil, fmt.Errorf("line %d: %w", line, err)
			}
			e, err := newElement(t, line)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", line, err)
			}
			switch {
			case len(open) >= maxDepth:
				return nil, fmt.Errorf("line %d: elements within more than %d others", line, maxDepth)
			case len(open) > 0:
				parent := open[len(open)-1]
				parent.children = append(parent.children, e)
			case root != nil:
				return nil, fmt.Errorf("line %d: a second root element", line)
			default:
				root = e
			}
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(bytes.TrimSpace(t)) > 0 {
				if len(open) == 0 {
					return nil, fmt.Errorf("line %d: text outside of the root element", line)
				}
				open[len(open)-1].text = true
			}
		case xml.Directive: // <!DOCTYPE, where entities would be defined
			return nil, fmt.Errorf("line %d: a document type declaration, which no configuration of IIS has", line)
		}
	}
}

var errCharset = errors.New("charset")

// syntax says what is wrong without the text of the document that errors of
// encoding/xml quote.
func syntax(err error) string {
	bad := new(xml.SyntaxError)
	switch {
	case errors.Is(err, errCharset):
		return "an encoding that is neither UTF-8 nor UTF-16 with a byte order mark: save the file in one of them"
	case err == io.EOF:
		return "no element: not a configuration"
	case !errors.As(err, &bad):
		return "not well-formed XML"
	case strings.Contains(bad.Msg, "entity"):
		return "not well-formed XML: a reference to an entity that XML does not define (an ampersand is written &amp;)"
	case strings.Contains(bad.Msg, "EOF"):
		return "not well-formed XML: the document ends before its last element does"
	default:
		return "not well-formed XML"
	}
}

func newElement(t xml.StartElement, line int) (*element, error) {
	space := t.Name.Space
	if space == netConfig {
		space = ""
	}
	e := &element{name: fullName(space, t.Name.Local), line: line}
	if len(t.Attr) > maxAttributes {
		return nil, fmt.Errorf("an element with more than %d attributes", maxAttributes)
	}
	for _, a := range t.Attr {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			continue
		}
		name := fullName(a.Name.Space, a.Name.Local)
		if _, twice := e.attr(name); twice {
			return nil, errors.New("an attribute twice in an element")
		}
		if is(a.Name.Local, "password") {
			a.Value = ""
		}
		e.attrs = append(e.attrs, attribute{name, a.Value})
	}
	return e, nil
}

func fullName(space, local string) string {
	if space == "" {
		return local
	}
	return "{" + space + "}" + local
}

// toUTF8 removes a byte order mark, and converts UTF-16 that has one.
func toUTF8(data []byte) (text []byte, converted bool, err error) {
	if utf8BOM, ok := bytes.CutPrefix(data, []byte("\xEF\xBB\xBF")); ok {
		return utf8BOM, false, nil
	}
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(data, []byte("\xFF\xFE")):
		order = binary.LittleEndian
	case bytes.HasPrefix(data, []byte("\xFE\xFF")):
		order = binary.BigEndian
	default:
		return data, false, nil
	}
	data = data[2:]
	if len(data)%2 != 0 {
		return nil, false, errors.New("UTF-16 that ends within a character")
	}
	text = make([]byte, 0, len(data)/2)
	for i := 0; i < len(data); i += 2 {
		r := rune(order.Uint16(data[i:]))
		if utf16.IsSurrogate(r) {
			next := rune(0)
			if i+3 < len(data) {
				next = rune(order.Uint16(data[i+2:]))
			}
			if r = utf16.DecodeRune(r, next); r == utf8.RuneError {
				return nil, false, errors.New("UTF-16 with half a character")
			}
			i += 2
		}
		text = utf8.AppendRune(text, r)
	}
	return text, true, nil
}
