package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strconv"
)

// prune cuts gotch's Go files down to what is reached: whole packages that nobody
// imports, and functions that nobody calls. Types, variables and constants stay.
func (r *reach) prune(files map[string][]byte) error {
	for name, text := range files {
		if path.Ext(name) != ".go" {
			continue
		}
		importPath := path.Join(gotchModule, path.Dir(name))
		if r.parsed[importPath] == nil {
			delete(files, name)
			continue
		}
		cut, err := pruneFile(name, text, r.kept[importPath])
		if err != nil {
			return err
		}
		files[name] = cut
	}
	return nil
}

// pruneFile cuts the functions that are not kept, then the imports that nothing uses any
// more.
func pruneFile(name string, text []byte, kept map[string]use) ([]byte, error) {
	text, err := cutNodes(name, text, func(f *ast.File) (cut []ast.Node) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if _, keep := kept[declName(fn)]; !keep {
				cut = append(cut, fn)
			}
		}
		return cut
	})
	if err != nil {
		return nil, err
	}
	return cutNodes(name, text, func(f *ast.File) (cut []ast.Node) {
		used := map[string]bool{}
		ast.Inspect(f, func(n ast.Node) bool {
			if x, ok := n.(*ast.SelectorExpr); ok {
				if id, ok := x.X.(*ast.Ident); ok {
					used[id.Name] = true
				}
			}
			return true
		})
		for _, d := range f.Decls {
			imports, ok := d.(*ast.GenDecl)
			if !ok || imports.Tok != token.IMPORT {
				continue
			}
			var unused []ast.Node
			for _, s := range imports.Specs {
				spec := s.(*ast.ImportSpec)
				target, err := strconv.Unquote(spec.Path.Value)
				local := path.Base(target)
				if spec.Name != nil {
					local = spec.Name.Name
				}
				if err == nil && target != "C" && local != "_" && local != "." && !used[local] {
					unused = append(unused, spec)
				}
			}
			if len(unused) == len(imports.Specs) {
				unused = []ast.Node{imports} // `import` alone is no declaration
			}
			cut = append(cut, unused...)
		}
		return cut
	})
}

// cutNodes returns a file's text without some of its declarations and their comments.
func cutNodes(name string, text []byte, choose func(*ast.File) []ast.Node) ([]byte, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	next := 0
	for _, node := range choose(file) {
		start := node.Pos()
		if f, ok := node.(*ast.FuncDecl); ok && f.Doc != nil {
			start = f.Doc.Pos()
		}
		out.Write(text[next:fset.Position(start).Offset])
		next = fset.Position(node.End()).Offset
		for next < len(text) && text[next] == '\n' && (next+1 == len(text) || text[next+1] == '\n') {
			next++ // the empty line behind it
		}
	}
	out.Write(text[next:])
	return out.Bytes(), nil
}
