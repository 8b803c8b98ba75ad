package mtls_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mtlsguard/mtls"
)

// The Go code of README.md and docs/ is type-checked. A block that begins with
// "package" is a whole program. One after a line <!-- compile: fragment --> is
// statements, in which the names of fragmentParameters exist and
// fragmentImports are imported. One after <!-- compile: declarations --> stands
// outside of functions.
const fragmentParameters = "ctx context.Context, t *testing.T, roots *mtls.Roots, policy *mtls.Policy, guard *mtls.Guard, " +
	"handler http.Handler, mux *http.ServeMux, pem []byte"

var fragmentImports = map[string]string{
	"context": "context", "crypto/tls": "tls", "crypto/x509": "x509", "encoding/json": "json", "errors": "errors", "fmt": "fmt", "log": "log", "log/slog": "slog",
	"net": "net", "net/http": "http", "net/http/httptest": "httptest", "net/netip": "netip", "os": "os", "strings": "strings", "testing": "testing", "time": "time",
	"github.com/go-chi/chi/v5": "chi", modulePath: "mtls", modulePath + "/mtlstest": "mtlstest", modulePath + "/policyfile": "policyfile", modulePath + "/proxyproto": "proxyproto",
}

// codeBlock is a block of Go code in a document.
type codeBlock struct {
	at   string // file:line of its first line
	kind string // "", "fragment" or "declarations"
	code string
}

func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	return append([]string{"README.md"}, docs...)
}

func codeBlocks(t *testing.T, file string) []codeBlock {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	var list []codeBlock
	var open *codeBlock
	kind := ""
	for i, line := range strings.Split(string(data), "\n") {
		marker, marked := strings.CutPrefix(line, "<!-- compile: ")
		switch {
		case open != nil && line == "```":
			list = append(list, *open)
			open = nil
		case open != nil:
			open.code += line + "\n"
		case marked:
			kind = strings.TrimSuffix(marker, " -->")
		case line == "```go":
			open = &codeBlock{at: fmt.Sprintf("%s:%d", file, i+2), kind: kind}
			kind = ""
		}
	}
	require.Nil(t, open, "%s: a block of code does not end", file)
	return list
}

// source makes a file of a block. Errors name the lines of the document.
func (b codeBlock) source() (string, error) {
	body := "//line " + b.at + "\n" + b.code
	if strings.HasPrefix(b.code, "package ") {
		return body, nil
	}
	switch b.kind {
	case "fragment":
		body = "func _(" + fragmentParameters + ") {\n{\n" + body + "}\n}\n"
	case "declarations":
	default:
		return "", fmt.Errorf("neither a program nor marked with a comment that says how it compiles")
	}
	src := "package doc\n"
	for _, path := range slices.Sorted(maps.Keys(fragmentImports)) {
		if regexp.MustCompile(`\b` + fragmentImports[path] + `\.`).MatchString(body) {
			src += "import " + strconv.Quote(path) + "\n"
		}
	}
	return src + body, nil
}

func TestReadmeCode(t *testing.T) {
	fset := token.NewFileSet()
	imports := exportImporter(fset, goList(t, slices.Collect(maps.Keys(fragmentImports))...))
	total := 0
	for _, file := range documents(t) {
		for _, b := range codeBlocks(t, file) {
			total++
			t.Run(b.at, func(t *testing.T) {
				src, err := b.source()
				require.NoError(t, err)
				f, err := parser.ParseFile(fset, b.at, src, 0)
				require.NoError(t, err)
				conf := types.Config{Importer: imports, Error: func(err error) {
					var soft types.Error
					if b.kind == "fragment" && errors.As(err, &soft) && soft.Soft {
						return // a variable that the rest of the program would use
					}
					t.Error(err)
				}}
				_, _ = conf.Check(b.at, fset, []*ast.File{f}, nil) // Error has them all
			})
		}
	}
	require.Greater(t, total, 5, "the documents hold hardly any code")
}

// The first code that a reader meets is the quickstart.
func TestReadmeBeginsWithCode(t *testing.T) {
	data, err := os.ReadFile("README.md")
	require.NoError(t, err)
	before, _, found := strings.Cut(string(data), "```go\npackage main")
	require.True(t, found)
	require.Less(t, strings.Count(before, "\n"), 40)
}

// declaredReasons reads the reasons from the code: a table that forgets one is
// wrong.
func declaredReasons(t *testing.T) []mtls.Reason {
	t.Helper()
	var list []mtls.Reason
	f, err := parser.ParseFile(token.NewFileSet(), "decision.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || types.ExprString(spec.Type) != "Reason" {
			return true
		}
		for _, v := range spec.Values {
			text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			require.NoError(t, err)
			list = append(list, mtls.Reason(text))
		}
		return true
	})
	require.Greater(t, len(list), 15)
	return list
}

// answerRows returns the cells of a table whose first column is reasons in
// backquotes.
func answerRows(t *testing.T, file string) map[mtls.Reason][]string {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	rows := map[mtls.Reason][]string{}
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[0], -1) {
			require.NotContains(t, rows, mtls.Reason(name[1]), "a second row")
			rows[mtls.Reason(name[1])] = cells
		}
	}
	return rows
}

// orDash is how a table writes "none".
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func TestAnswersAreThoseOfTheCode(t *testing.T) {
	reasons := declaredReasons(t)
	for _, file := range []string{"README.md", "docs/answers.md"} {
		t.Run(file, func(t *testing.T) {
			rows := answerRows(t, file)
			for _, r := range reasons {
				if !assertRow(t, r, rows[r], file == "docs/answers.md") {
					t.Errorf("want | `%s` | %s | %s | %s | %s |", r, status(r), orDash(r.IIS()), r.Code(), r.Advice())
				}
			}
			require.Len(t, rows, len(reasons), "a row for a reason that does not exist")
		})
	}
}

func status(r mtls.Reason) string {
	s := strconv.Itoa(r.Status())
	if r.Undetermined() {
		s += ", Retry-After"
	}
	return s
}

func assertRow(t *testing.T, r mtls.Reason, cells []string, full bool) bool {
	t.Helper()
	want := []string{status(r), orDash(r.IIS())}
	if full {
		want = append(want, "`"+r.Code()+"`", r.Advice())
	}
	return len(cells) > len(want) && slices.Equal(cells[1:len(want)+1], want)
}
