package mtls_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/mtlsguard/mtls"

// listedPackage is what `go list -json` says of a package.
type listedPackage struct {
	ImportPath, Dir, Export string
	GoFiles, Imports, Deps  []string
	TestImports             []string
	XTestImports            []string
	DepOnly                 bool
}

// goList lists packages and what they depend on, with export data.
func goList(t *testing.T, patterns ...string) []*listedPackage {
	t.Helper()
	args := append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,Imports,Deps,TestImports,XTestImports,DepOnly"}, patterns...)
	out, err := exec.Command("go", args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	require.NoError(t, err)
	var list []*listedPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		if err := d.Decode(&p); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, &p)
	}
}

// exportImporter imports what goList has listed.
func exportImporter(fset *token.FileSet, list []*listedPackage) types.Importer {
	files := map[string]string{}
	for _, p := range list {
		files[p.ImportPath] = p.Export
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, fmt.Errorf("no export data of %q", path)
		}
		return os.Open(files[path])
	})
}

// checkedPackage is one of our own packages without its tests, type-checked.
type checkedPackage struct {
	*listedPackage
	name  string // without the module's path; the root is "."
	files []*ast.File
	info  *types.Info
	types *types.Package
}

// program is all of this module.
type program struct {
	fset     *token.FileSet
	packages []*checkedPackage
}

func load(t *testing.T) *program {
	t.Helper()
	list := goList(t, "./...")
	p := &program{fset: token.NewFileSet()}
	imports := exportImporter(p.fset, list)
	for _, l := range list {
		name, ours := strings.CutPrefix(l.ImportPath, modulePath)
		if !ours || l.DepOnly {
			continue
		}
		c := &checkedPackage{listedPackage: l, name: "." + name, info: &types.Info{
			Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}}
		for _, f := range l.GoFiles {
			file, err := parser.ParseFile(p.fset, filepath.Join(l.Dir, f), nil, parser.ParseComments)
			require.NoError(t, err)
			c.files = append(c.files, file)
		}
		conf := types.Config{Importer: imports}
		var err error
		c.types, err = conf.Check(l.ImportPath, p.fset, c.files, c.info)
		require.NoError(t, err)
		p.packages = append(p.packages, c)
	}
	require.Greater(t, len(p.packages), 5, "go list found too little")
	return p
}

// library reports whether a package decides or works for what decides, rather
// than being a program or helping tests.
func (c *checkedPackage) shipped() bool {
	for _, dir := range []string{"./mtlstest", "./internal/testpki", "./examples", "./cmd", "./bench"} {
		if c.name == dir || strings.HasPrefix(c.name, dir+"/") {
			return false
		}
	}
	return true
}

func (p *program) at(pos token.Pos) string {
	at := p.fset.Position(pos)
	return fmt.Sprintf("%s:%d", filepath.Base(at.Filename), at.Line)
}

// fullName is such as "net/http.Get", "(*net/http.Client).Do" or, for a field,
// "net/http.Request.RemoteAddr".
func fullName(o types.Object, fields map[*types.Var]string) string {
	switch o := o.(type) {
	case *types.Func:
		return o.FullName()
	case *types.Var:
		if o.IsField() {
			return fields[o]
		}
	}
	if o.Pkg() == nil {
		return o.Name()
	}
	return o.Pkg().Path() + "." + o.Name()
}

// fieldNames gives the fields of http.Request their full names.
func fieldNames(c *checkedPackage) map[*types.Var]string {
	names := map[*types.Var]string{}
	for _, imported := range c.types.Imports() {
		if imported.Path() != "net/http" {
			continue
		}
		request := imported.Scope().Lookup("Request").Type().Underlying().(*types.Struct)
		for f := range request.Fields() {
			names[f] = "net/http.Request." + f.Name()
		}
	}
	return names
}

// bannedUse forbids the library to use what a pattern matches in full.
type bannedUse struct {
	rule    string
	pattern string
	in      string   // a package; empty: all
	except  []string // packages, or package/file.go (resolver.go adapts a caller's *net.Resolver)
	why     string
}

var bannedUses = []bannedUse{
	{"only internal/fetch makes HTTP requests",
		`net/http\.(Get|Post|PostForm|Head|NewRequest|NewRequestWithContext|DefaultClient|DefaultTransport|Transport)|\(\*?net/http\.(Client|Transport|RoundTripper)\)\..*`,
		"", []string{"./internal/fetch"}, "it bounds size and time, and judges addresses"},
	{"only internal/dnsclient asks DNS, and only it and internal/fetch open connections",
		`net\.(Dial.*|Listen(|IP|TCP|UDP|Unix|Unixgram|Packet|MulticastUDP|Config)|Lookup.*|DefaultResolver|Resolver)|\(\*?net\.(Dialer|Resolver|ListenConfig)\)\..*|crypto/tls\.(Dial.*|Listen|NewListener)|` +
			`github\.com/miekg/dns\.(Client|Dial.*|Exchange.*|Server|ListenAndServe.*)|\(\*github\.com/miekg/dns\.(Client|Server)\)\..*`,
		"", []string{"./internal/fetch", "./internal/dnsclient", "./resolver.go"}, "names and connections are bounded and judged there"},
	{"no certificate may serve any purpose (CVE-2025-22874)", `crypto/x509\.ExtKeyUsageAny`, "", nil, "it admits S/MIME and code-signing authorities"},
	{"roots are never the system's (CVE-2026-27586)", `crypto/x509\.(SystemCertPool|SetFallbackRoots)`, "", nil, "who is trusted is said explicitly"},
	{"what a header or RemoteAddr says of the client is not read",
		`net/http\.Request\.(RemoteAddr|Header|Trailer|Form|PostForm)|\(net/http\.Header\)\.(Get|Values)|\(\*net/http\.Request\)\.(Cookie|Cookies|CookiesNamed|FormValue|BasicAuth)`,
		".", nil, "clients and other middleware write them"},
	{"nothing sleeps and no clock but the given one is read", `time\.(Since|Until|Sleep|After|Tick)`, "", nil, "tests move a clock"},
}

func TestRules(t *testing.T) {
	p := load(t)

	t.Run("internal packages import neither the root nor mtlstest", func(t *testing.T) {
		for _, c := range p.packages {
			if !strings.HasPrefix(c.name, "./internal/") {
				continue
			}
			for _, path := range slices.Concat(c.Deps, c.TestImports, c.XTestImports) {
				if path == modulePath || path == modulePath+"/mtlstest" {
					t.Errorf("%s imports %s", c.name, path)
				}
			}
		}
	})

	t.Run("policies do no I/O", func(t *testing.T) {
		pure := []string{"bytes", "crypto/x509", "crypto/x509/pkix", "errors", "fmt", "maps", "net/netip", "net/url", "slices", "strings", "sync", "sync/atomic",
			"time", "unicode", "unicode/utf8", "weak", "golang.org/x/net/idna", "golang.org/x/net/publicsuffix", "golang.org/x/text/cases", "golang.org/x/text/unicode/norm", "strconv"}
		packages := []string{"./internal/ruleset", "./internal/dn", "./internal/altname", "./internal/dnsname"}
		for _, name := range append(packages, "./internal/x509ext") {
			pure = append(pure, modulePath+name[1:])
		}
		found := 0
		p.eachFile("", func(c *checkedPackage, name string, f *ast.File) {
			if !slices.Contains(packages, c.name) && (c.name != "." || !strings.HasPrefix(name, "policy") && name != "match.go") {
				return
			}
			found++
			for _, i := range f.Imports {
				if path := strings.Trim(i.Path.Value, `"`); !slices.Contains(pure, path) {
					t.Errorf("%s imports %q", name, path)
				}
			}
		})
		require.Greater(t, found, 7)
	})

	for _, b := range bannedUses {
		t.Run(b.rule, func(t *testing.T) {
			pattern := regexp.MustCompile(`^(` + b.pattern + `)$`)
			for _, c := range p.packages {
				if !c.shipped() || b.in != "" && c.name != b.in || slices.Contains(b.except, c.name) {
					continue
				}
				fields := fieldNames(c)
				for id, o := range c.info.Uses {
					file := filepath.Base(p.fset.Position(id.Pos()).Filename)
					if name := fullName(o, fields); pattern.MatchString(name) && !slices.Contains(b.except, c.name+"/"+file) {
						t.Errorf("%s: %s in %s: %s", p.at(id.Pos()), name, c.name, b.why)
					}
				}
			}
		})
	}

	t.Run("time.Now is a default and is never called", func(t *testing.T) {
		p.eachFile("", func(c *checkedPackage, _ string, f *ast.File) {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || !c.shipped() {
					return true
				}
				if s, ok := call.Fun.(*ast.SelectorExpr); ok && c.info.Uses[s.Sel] != nil && fullName(c.info.Uses[s.Sel], nil) == "time.Now" {
					t.Errorf("%s: the time is passed in", p.at(n.Pos()))
				}
				return true
			})
		})
	})

	t.Run("only tests import testing", func(t *testing.T) {
		for _, c := range p.packages {
			if slices.Contains(c.Imports, "testing") || c.shipped() && slices.Contains(c.Deps, "testing") {
				t.Errorf("%s depends on testing", c.name)
			}
		}
	})

	t.Run("there is no func init", func(t *testing.T) {
		p.eachFile("", func(_ *checkedPackage, _ string, f *ast.File) {
			for _, d := range f.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: func init", p.at(d.Pos()))
				}
			}
		})
	})

	t.Run("no package-level variable changes after initialisation", func(t *testing.T) {
		p.eachFile("", func(c *checkedPackage, _ string, f *ast.File) {
			ast.Inspect(f, func(n ast.Node) bool {
				for _, target := range written(n, c.info) {
					if v := c.global(target); v != nil {
						t.Errorf("%s: %s is changed", p.at(n.Pos()), v.Name())
					}
				}
				return true
			})
		})
	})

	t.Run("no package-level variable is a lock or an atomic", func(t *testing.T) {
		for _, c := range p.packages {
			for _, name := range c.types.Scope().Names() {
				if v, ok := c.types.Scope().Lookup(name).(*types.Var); ok && regexp.MustCompile(`^\*?sync(/atomic)?\.`).MatchString(v.Type().String()) {
					t.Errorf("%s: %s is global state", p.at(v.Pos()), name)
				}
			}
		}
	})

	t.Run("every exported identifier has a doc comment", func(t *testing.T) {
		p.eachFile("", func(_ *checkedPackage, _ string, f *ast.File) {
			for _, d := range f.Decls {
				for _, name := range undocumented(d) {
					t.Errorf("%s: %s", p.at(d.Pos()), name)
				}
			}
		})
	})

	t.Run("files have at most 450 lines", func(t *testing.T) {
		err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			if n := strings.Count(string(data), "\n"); n > 450 {
				t.Errorf("%s has %d", path, n)
			}
			return err
		})
		require.NoError(t, err)
	})
}

// eachFile visits the files of a package, or of all.
func (p *program) eachFile(in string, visit func(c *checkedPackage, name string, f *ast.File)) {
	for _, c := range p.packages {
		for _, f := range c.files {
			if in == "" || c.name == in {
				visit(c, filepath.Base(p.fset.Position(f.Pos()).Filename), f)
			}
		}
	}
}

// written returns what a node writes to, or takes the address of.
func written(n ast.Node, info *types.Info) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		return n.Lhs
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			return []ast.Expr{n.X}
		}
	case *ast.CallExpr:
		f, ok := n.Fun.(*ast.Ident)
		if _, builtin := info.Uses[f].(*types.Builtin); ok && builtin && slices.Contains([]string{"delete", "clear", "copy"}, f.Name) {
			return n.Args[:1]
		}
	}
	return nil
}

// global returns the package-level variable that an expression is a part of, or
// nil.
func (c *checkedPackage) global(e ast.Expr) *types.Var {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.SelectorExpr:
			if v, ok := c.info.Uses[x.Sel].(*types.Var); ok && !v.IsField() {
				return v // of another package
			}
			e = x.X
		case *ast.Ident:
			v, ok := c.info.Uses[x].(*types.Var)
			if !ok || v.IsField() || v.Pkg() == nil || v.Parent() != v.Pkg().Scope() {
				return nil
			}
			return v
		default:
			return nil
		}
	}
}

// undocumented returns the exported names of a declaration that no comment
// explains: their own, their group's or, for constants, one at the end of the
// line.
func undocumented(d ast.Decl) []string {
	var names []string
	switch d := d.(type) {
	case *ast.FuncDecl:
		exported := d.Name.IsExported()
		if d.Recv != nil && len(d.Recv.List) == 1 {
			receiver := strings.TrimLeft(types.ExprString(d.Recv.List[0].Type), "*")
			exported = exported && ast.IsExported(receiver)
		}
		if exported && d.Doc == nil {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && s.Doc == nil && d.Doc == nil {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range s.Names {
					if n.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}
