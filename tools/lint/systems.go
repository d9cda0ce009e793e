package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/go/packages"
)

// lintSystem type-checks what needs no libtorch, tests included, for another system
// (GOOS/GOARCH). All of it is read from source: a compiler would first have to build the
// standard library and every dependency for that system, which takes minutes.
func lintSystem(root, system string, patterns ...string) ([]finding, error) {
	goos, goarch, _ := strings.Cut(system, "/")
	config := &packages.Config{
		Mode:  packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedTypesSizes | packages.NeedModule,
		Dir:   root,
		Env:   append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch),
		Tests: true,
		Fset:  token.NewFileSet(),
	}
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	config.ParseFile = func(fset *token.FileSet, name string, source []byte) (*ast.File, error) {
		file, err := parser.ParseFile(fset, name, source, parser.SkipObjectResolution)
		if file != nil && !strings.HasPrefix(name, absolute+string(filepath.Separator)) {
			for _, d := range file.Decls { // what others declare is enough
				if f, ok := d.(*ast.FuncDecl); ok {
					f.Body = nil
				}
			}
		}
		return file, err
	}
	loaded, err := packages.Load(config, patterns...)
	if err != nil {
		return nil, fmt.Errorf("read the packages for %s: %w", system, err)
	}
	torch := map[*packages.Package]bool{} // reaches libtorch
	packages.Visit(loaded, nil, func(p *packages.Package) {
		torch[p] = strings.HasPrefix(p.PkgPath, "github.com/sugarme/gotch")
		for _, i := range p.Imports {
			torch[p] = torch[p] || torch[i]
		}
	})
	var findings []finding
	for _, p := range loaded {
		if torch[p] || strings.HasSuffix(p.PkgPath, ".test") { // the latter a main that `go test` makes
			continue
		}
		for _, e := range p.Errors {
			f := finding{rule: "system", text: fmt.Sprintf("on %s: %s", system, e.Msg)}
			parts := strings.Split(e.Pos, ":")
			if len(parts) > 1 {
				f.file, _ = filepath.Rel(absolute, parts[0])
				f.line, _ = strconv.Atoi(parts[1])
			} else {
				f.file = p.PkgPath
			}
			if !slices.Contains(findings, f) { // a test variant repeats its package's
				findings = append(findings, f)
			}
		}
	}
	return findings, nil
}
