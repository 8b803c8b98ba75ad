package policyfile

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// confirm has goccy/go-yaml read a piece of a document, and compares what it found
// with what the reader found: a file that two readers take for two things is
// refused. A piece is read by itself because the parser needs more than
// proportional time for a large document and for deep nesting, which the reader has
// bounded.
func confirm(piece string, want *node) (failed *problem) {
	defer func() {
		if p := recover(); p != nil {
			failed = &problem{at: want.at, text: fmt.Sprintf("%s here: %v", defect, p)}
		}
	}()
	// Tabs are only white space between brackets here, which the parser does not
	// take everywhere.
	f, err := parser.ParseBytes([]byte(strings.ReplaceAll(piece, "\t", " ")), 0)
	switch {
	case err != nil:
		text := err.Error()
		if e, ok := err.(interface{ GetMessage() string }); ok {
			text = e.GetMessage()
		}
		return &problem{at: want.at, text: "not YAML: " + quote(text)}
	case len(f.Docs) != 1 || f.Docs[0].Body == nil:
		return &problem{at: want.at, text: "not one document"}
	}
	if n := differs(want, f.Docs[0].Body); n != nil {
		return &problem{at: n.at, text: "this can be read in two ways; put text in quotes, and indent by two blanks"}
	}
	return nil
}

// differs returns the first node that is another one in the parser's tree, or nil.
func differs(n *node, a ast.Node) *node {
	if n.kind == plain || n.kind == quoted {
		s, ok := a.(ast.ScalarNode)
		if !ok || !sameScalar(n, s.GetToken()) {
			return n
		}
		return nil
	}
	if n.kind == sequence {
		s, ok := a.(*ast.SequenceNode)
		if !ok || len(s.Values) != len(n.items) {
			return n
		}
		for i, v := range s.Values {
			if d := differs(n.items[i], v); d != nil {
				return d
			}
		}
		return nil
	}
	var values []*ast.MappingValueNode
	switch m := a.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		return n
	}
	if len(values) != len(n.items) {
		return n
	}
	for i, v := range values {
		if !sameScalar(n.keys[i], v.Key.GetToken()) {
			return n.keys[i]
		}
		if d := differs(n.items[i], v.Value); d != nil {
			return d
		}
	}
	return nil
}

func sameScalar(n *node, t *token.Token) bool {
	inQuotes := t.Type == token.DoubleQuoteType || t.Type == token.SingleQuoteType
	return t.Value == n.text && inQuotes == (n.kind == quoted)
}
