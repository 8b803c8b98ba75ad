package iis

import (
	"bytes"
	"encoding/xml"
	"errors"
	"strings"
)

// normalise makes the values of attributes what XML says that they are: a literal end
// of a line or tab in one is a blank (XML 1.0 sections 2.11 and 3.3.3), and one that is
// written as a character reference is itself. encoding/xml, which has taken the tag,
// keeps both, and does not tell them apart.
func normalise(attrs []xml.Attr, tag []byte) error {
	if !bytes.ContainsAny(tag, "\t\n\r") {
		return nil
	}
	for i := range attrs {
		// Nothing in a tag but a value is in quotes, and none has its own quote in it.
		begin := bytes.IndexAny(tag, `"'`)
		if begin < 0 {
			return errTag
		}
		length := bytes.IndexByte(tag[begin+1:], tag[begin])
		if length < 0 {
			return errTag
		}
		raw := tag[begin : begin+length+2]
		tag = tag[begin+length+2:]
		if !bytes.ContainsAny(raw, "\t\n\r") {
			continue
		}
		value, err := valueOf(blanks.Replace(string(raw)))
		if err != nil {
			return errTag
		}
		attrs[i].Value = value
	}
	if bytes.ContainsAny(tag, `"'`) {
		return errTag
	}
	return nil
}

var (
	errTag = errors.New("a tag whose attributes cannot be told apart")
	blanks = strings.NewReplacer("\r\n", " ", "\r", " ", "\n", " ", "\t", " ")
)

// valueOf returns what a value in its quotes says.
func valueOf(raw string) (string, error) {
	token, err := xml.NewDecoder(strings.NewReader("<a b=" + raw + "/>")).Token()
	if err != nil {
		return "", err
	}
	start, ok := token.(xml.StartElement)
	if !ok || len(start.Attr) != 1 {
		return "", errTag
	}
	return start.Attr[0].Value, nil
}
