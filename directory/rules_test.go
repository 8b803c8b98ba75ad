package directory_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRules: those of the root module's TestRules that can be seen without types, and
// some of this module's own.
func TestRules(t *testing.T) {
	t.Parallel()
	fset := token.NewFileSet()
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		found++
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.LessOrEqual(t, strings.Count(string(data), "\n"), 450, "%s: lines", path)
		f, err := parser.ParseFile(fset, path, data, parser.ParseComments)
		require.NoError(t, err)
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				require.False(t, d.Recv == nil && d.Name.Name == "init", "%s: func init", path)
				if d.Name.IsExported() && (d.Recv == nil || ast.IsExported(strings.TrimLeft(exprString(d.Recv.List[0].Type), "*"))) {
					require.NotNil(t, d.Doc, "%s: %s has no comment", path, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if s, ok := s.(*ast.TypeSpec); ok && s.Name.IsExported() {
						require.True(t, s.Doc != nil || d.Doc != nil, "%s: %s has no comment", path, s.Name.Name)
					}
				}
			}
		}
		if strings.HasPrefix(path, "internal/testdir/") {
			return nil
		}
		code := string(data)
		for rule, pattern := range map[string]string{
			"no clock but the given one is read":      `time\.(Now\(|Since|Until|Sleep|After\(|Tick\()`,
			"certificates of servers are verified":    `InsecureSkipVerify`,
			"roots are never the system's":            `SystemCertPool`,
			"a server is reached through open alone":  `ldap\.Dial|tls\.Dial|net\.Dial\(|DialTLS`,
			"only tests import testing":               `"testing"`,
			"no search but conn.search":               `SearchWithPaging|SearchAsync`,
			"nothing of a library is changed for all": `ldap\.DefaultTimeout|ber\.Max|ldap\.Logger`,
		} {
			require.NotRegexp(t, regexp.MustCompile(pattern), code, "%s: %s", path, rule)
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, found, 10)
}

func exprString(e ast.Expr) string {
	if s, ok := e.(*ast.StarExpr); ok {
		return exprString(s.X)
	}
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// TestDocumentation: the code of the document is that of the Examples.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/directory.md")
	require.NoError(t, err)
	examples, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```golang\n(.*?)```").FindAllStringSubmatch(string(doc), -1)
	require.Len(t, blocks, 2)
	for _, b := range blocks {
		for line := range strings.Lines(b[1]) {
			require.Contains(t, string(examples), strings.TrimSpace(line))
		}
	}
	for _, name := range []string{"URLs", "RootCAs", "InsecurePlaintext", "User", "Password", "Timeout", "MaxConns", "Lifetime", "Stale", "MinStrength", "KeysOfAnyIssuer", "Groups", "MaxGroups", "Enabled", "GroupDepth"} {
		require.Contains(t, string(doc), "`"+name+"`")
	}
}
