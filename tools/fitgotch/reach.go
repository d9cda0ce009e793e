package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// use is a reached function of gotch, by the first place of the project that needs it.
type use struct {
	// where is file:line in the project; "" for what gotch itself needs at its start.
	where string
}

// reach is what the Go packages of a project need of gotch.
type reach struct {
	// kept holds, by gotch's import paths, the functions and methods (Type.Method) that
	// are reached.
	kept map[string]map[string]use
	// native are the C functions they call.
	native map[string]use
	// parsed are gotch's reached packages, whose files the pruning cuts.
	parsed map[string]*source
}

// source is a package that is read for what it uses.
type source struct {
	path  string
	files []*ast.File
	names []string // of the files, in gotch relative to its root
	info  *types.Info
}

// listed is a package as `go list -json` tells it.
type listed struct {
	ImportPath, Dir   string
	GoFiles, CgoFiles []string
	Imports           []string // as resolved: of a vendored package, or one built for a test
	ImportMap         map[string]string
	Error             *struct{ Err string }
}

// findReach type-checks the packages that patterns name, their tests and all that they
// import, gotch as the fitted copy has it, and follows their calls into gotch. Types
// make it exact where a name alone (Load, Save) would keep half of gotch.
func findReach(ctx context.Context, root string, patterns []string, gotch map[string][]byte) (*reach, error) {
	packages, err := listPackages(ctx, root, patterns)
	if err != nil {
		return nil, err
	}
	l := &loader{fset: token.NewFileSet(), gotch: gotch, root: root, done: map[string]*types.Package{"unsafe": types.Unsafe}, reaches: map[string]bool{}}
	index := map[string]listed{}
	for _, p := range packages { // each comes after what it imports
		index[p.ImportPath] = p
		l.reaches[p.ImportPath] = isGotch(p.ImportPath) || slices.ContainsFunc(p.Imports, func(i string) bool { return l.reaches[i] })
	}
	needed := map[string]bool{}
	for _, p := range slices.Backward(packages) {
		if l.reaches[p.ImportPath] || needed[p.ImportPath] {
			needed[p.ImportPath] = true
			for _, i := range p.Imports {
				needed[i] = true
			}
		}
	}
	for _, p := range packages {
		if !needed[p.ImportPath] {
			continue
		}
		if err := l.load(p); err != nil {
			return nil, err
		}
	}
	return l.follow(), nil
}

// listPackages lists packages with all that they and their tests import, each after its
// own imports. A go.work that already points at the fitted copy is read without that line:
// the copy may not be there yet.
func listPackages(ctx context.Context, root string, patterns []string) ([]listed, error) {
	work := "off"
	if text, err := os.ReadFile(filepath.Join(root, workName)); err == nil {
		work = filepath.Join(root, ".fitgotch.work")
		if err := os.WriteFile(work, gotchReplace.ReplaceAll(text, nil), 0o666); err != nil {
			return nil, err
		}
		defer os.Remove(work)
		defer os.Remove(work + ".sum")
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-e", "-deps", "-test", "-json=ImportPath,Dir,GoFiles,CgoFiles,Imports,ImportMap,Error"}, patterns...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK="+work)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all = append(all, p)
	}
}

// loader type-checks packages one after the other.
type loader struct {
	fset  *token.FileSet
	root  string
	gotch map[string][]byte
	done  map[string]*types.Package
	// reaches says which packages are gotch's or import one, directly or not.
	reaches map[string]bool
	sources []*source
}

func isGotch(importPath string) bool { return within(importPath, gotchModule) }

func within(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

// load checks one package. Errors in it are left to the compiler, which says them
// better: here they only cost exactness.
func (l *loader) load(p listed) error {
	if p.Error != nil && !isGotch(p.ImportPath) {
		return fmt.Errorf("package %s: %s", p.ImportPath, p.Error.Err)
	}
	if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") {
		return nil
	}
	s := &source{path: p.ImportPath}
	reaches := l.reaches[p.ImportPath]
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		full := filepath.Join(p.Dir, name)
		var text any
		if isGotch(p.ImportPath) {
			full = path.Join(strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, gotchModule), "/"), name)
			if text = l.gotch[full]; l.gotch[full] == nil {
				continue // a file that the fitted copy leaves out
			}
		}
		file, err := parser.ParseFile(l.fset, full, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		s.files, s.names = append(s.files, file), append(s.names, full)
	}
	if isGotch(p.ImportPath) { // what the fitted copy adds
		for name, text := range l.gotch {
			if path.Join(gotchModule, path.Dir(name)) == p.ImportPath && path.Ext(name) == ".go" && !slices.Contains(s.names, name) {
				file, err := parser.ParseFile(l.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
				if err != nil {
					return err
				}
				s.files, s.names = append(s.files, file), append(s.names, name)
			}
		}
	}
	if reaches {
		s.info = &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
		l.sources = append(l.sources, s)
	}
	check := types.Config{
		Importer: importFunc(func(target string) (*types.Package, error) {
			if other, ok := p.ImportMap[target]; ok {
				target = other
			}
			if found := l.done[target]; found != nil {
				return found, nil
			}
			return nil, fmt.Errorf("%s is not loaded", target)
		}),
		FakeImportC: true, IgnoreFuncBodies: !reaches, Error: func(error) {}, Sizes: types.SizesFor("gc", runtime.GOARCH),
	}
	plain, _, _ := strings.Cut(p.ImportPath, " ")
	l.done[p.ImportPath], _ = check.Check(plain, l.fset, s.files, s.info)
	return nil
}

type importFunc func(string) (*types.Package, error)

func (f importFunc) Import(target string) (*types.Package, error) { return f(target) }

// dynamic are methods that the standard library calls through its interfaces, so that
// no call of them is seen.
var dynamic = []string{"Error", "String", "Format", "Close"}

// follow walks from the project's code through gotch.
func (l *loader) follow() *reach {
	r := &reach{kept: map[string]map[string]use{}, native: map[string]use{}, parsed: map[string]*source{}}
	bodies := map[string]map[string]*ast.FuncDecl{} // gotch's functions by package and name
	methods := map[string][][2]string{}             // package and name by method name
	for _, s := range l.sources {
		if !isGotch(s.path) {
			continue
		}
		r.parsed[s.path], bodies[s.path], r.kept[s.path] = s, map[string]*ast.FuncDecl{}, map[string]use{}
		for _, file := range s.files {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					name := declName(f)
					bodies[s.path][name] = f
					if f.Recv != nil {
						methods[f.Name.Name] = append(methods[f.Name.Name], [2]string{s.path, name})
					}
				}
			}
		}
	}
	type item struct {
		pkg, name string
		why       use
	}
	var queue []item
	called := map[string]bool{}
	byName := func(name string, why use) {
		if called[name] {
			return
		}
		called[name] = true
		for _, m := range methods[name] {
			queue = append(queue, item{m[0], m[1], why})
		}
	}
	visit := func(s *source, node ast.Node, why func(token.Pos) use) {
		ast.Inspect(node, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.SelectorExpr:
				if id, ok := x.X.(*ast.Ident); ok && id.Name == "C" && isGotch(s.path) {
					if _, known := r.native[x.Sel.Name]; !known {
						r.native[x.Sel.Name] = why(x.Pos())
					}
					return false
				}
				if s.info.Uses[x.Sel] == nil && s.info.Selections[x] == nil {
					byName(x.Sel.Name, why(x.Pos())) // a type that could not be told
				}
			case *ast.Ident:
				f, ok := s.info.Uses[x].(*types.Func)
				if !ok || f.Pkg() == nil {
					return true
				}
				f = f.Origin()
				receiver := f.Signature().Recv()
				if receiver != nil && types.IsInterface(receiver.Type()) {
					l.implementations(receiver.Type().Underlying().(*types.Interface), func(pkg, name string) {
						queue = append(queue, item{pkg, name + "." + f.Name(), why(x.Pos())})
					})
				} else if isGotch(f.Pkg().Path()) {
					queue = append(queue, item{f.Pkg().Path(), funcName(f), why(x.Pos())})
				}
			}
			return true
		})
	}
	// Everything of the project counts, and what gotch runs or fills when it starts.
	for _, s := range l.sources {
		at := func(pos token.Pos) use {
			p := l.fset.Position(pos)
			name := p.Filename
			if rel, err := filepath.Rel(l.root, name); err == nil && filepath.IsLocal(rel) {
				name = rel
			}
			return use{where: fmt.Sprintf("%s:%d", name, p.Line)}
		}
		for _, file := range s.files {
			if !isGotch(s.path) {
				visit(s, file, at)
				continue
			}
			for _, d := range file.Decls {
				f, isFunc := d.(*ast.FuncDecl)
				switch {
				case !isFunc:
					visit(s, d, func(token.Pos) use { return use{} })
				case f.Name.Name == "init" && f.Recv == nil, exported(f):
					queue = append(queue, item{s.path, declName(f), use{}})
				}
			}
		}
	}
	for _, name := range dynamic {
		byName(name, use{})
	}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		body := bodies[next.pkg][next.name]
		if _, known := r.kept[next.pkg][next.name]; known || body == nil {
			continue
		}
		r.kept[next.pkg][next.name] = next.why
		visit(r.parsed[next.pkg], body, func(token.Pos) use { return next.why })
	}
	return r
}

// implementations calls found with every type of gotch that a value of the interface
// may hold.
func (l *loader) implementations(wanted *types.Interface, found func(pkg, name string)) {
	if wanted.NumMethods() == 0 {
		return
	}
	for importPath, p := range l.done {
		if !isGotch(importPath) || p == nil {
			continue
		}
		for _, name := range p.Scope().Names() {
			if t, ok := p.Scope().Lookup(name).(*types.TypeName); ok && types.Implements(types.NewPointer(t.Type()), wanted) {
				found(importPath, name)
			}
		}
	}
}

// exported reports whether C code may call a function (cgo's //export).
func exported(f *ast.FuncDecl) bool {
	return f.Doc != nil && slices.ContainsFunc(f.Doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//export ") })
}

// declName is a function's name in reach.kept.
func declName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name + "." + f.Name.Name
		default:
			return f.Name.Name
		}
	}
}

// funcName is declName of what the type checker found.
func funcName(f *types.Func) string {
	receiver := f.Signature().Recv()
	if receiver == nil {
		return f.Name()
	}
	t := types.Unalias(receiver.Type())
	if p, ok := t.(*types.Pointer); ok {
		t = types.Unalias(p.Elem())
	}
	if n, ok := t.(*types.Named); ok {
		return n.Obj().Name() + "." + f.Name()
	}
	return f.Name()
}
