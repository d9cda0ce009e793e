package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/process"
)

// loaded is a package as go list tells it, parsed and type-checked.
type loaded struct {
	ImportPath, Dir, Export string
	GoFiles, CgoFiles       []string
	TestImports             []string
	XTestImports            []string
	Module                  struct{ Dir string }

	files   []*file
	exports map[string]string // import path to the file with its types
}

// load reads the package at path, from the folder of a module, and the types of what it imports.
func load(module, path string) (*loaded, error) {
	listed, err := goOutput("list", "-C", module, "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,CgoFiles,TestImports,XTestImports,Module", path)
	if err != nil {
		return nil, err
	}
	p := &loaded{exports: map[string]string{}}
	// Dependencies come first, the package itself is the last.
	for d := json.NewDecoder(strings.NewReader(listed)); ; {
		var one loaded
		if err := d.Decode(&one); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		p.exports[one.ImportPath] = one.Export
		one.exports, p = p.exports, &one
	}
	fset, info := token.NewFileSet(), &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
		full := filepath.Join(p.Dir, name)
		source, err := os.ReadFile(full)
		if err != nil {
			return nil, err
		}
		syntax, err := parser.ParseFile(fset, full, source, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if relative, err := filepath.Rel(p.Module.Dir, full); err == nil {
			p.files = append(p.files, &file{name: relative, source: source, fset: fset, syntax: syntax, info: info})
		}
	}
	return p, p.check(fset, info, nil)
}

// check type-checks the package, with the mutant's file in place of the original's when one
// is given.
func (p *loaded) check(fset *token.FileSet, info *types.Info, m *mutant) error {
	var syntax []*ast.File
	for _, f := range p.files {
		parsed := f.syntax
		if m != nil && m.file == f {
			var err error
			if parsed, err = parser.ParseFile(fset, f.name, m.source, parser.SkipObjectResolution); err != nil {
				return err
			}
		}
		syntax = append(syntax, parsed)
	}
	open := func(path string) (io.ReadCloser, error) {
		export, ok := p.exports[path]
		if !ok {
			return nil, fmt.Errorf("%s: no types listed", path)
		}
		return os.Open(export)
	}
	// What comes from C has no type here; the rest of its package has.
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", open), FakeImportC: true}
	_, err := config.Check(p.ImportPath, fset, syntax, info)
	return err
}

// draw returns the mutants of all places in an order that the seed and the package's name
// give, one of each place. Generated files have none.
func (p *loaded) draw(seed uint64) []mutant {
	name := fnv.New64()
	name.Write([]byte(p.ImportPath))
	random := rand.New(rand.NewPCG(seed, name.Sum64()))
	var drawn []mutant
	for _, f := range p.files {
		if ast.IsGenerated(f.syntax) {
			continue
		}
		for _, changes := range f.places() {
			drawn = append(drawn, f.mutate(changes[random.IntN(len(changes))]))
		}
	}
	random.Shuffle(len(drawn), func(i, j int) { drawn[i], drawn[j] = drawn[j], drawn[i] })
	return drawn
}

// result says what became of a package's mutants.
type result struct {
	killed    int
	survivors []mutant
	// equal mutants compiled to the original's bytes and were drawn again.
	equal int
}

// reaches reports whether enough were killed, by a goal that counts of 20.
func (r result) reaches(goal int) bool { return 20*r.killed >= goal*(r.killed+len(r.survivors)) }

// testPackage draws n mutants of a package and runs its tests on each.
func testPackage(path string, n int, seed uint64) (result, error) {
	p, err := load(".", path)
	if err != nil {
		return result{}, err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	started := time.Now()
	if killed, output, err := p.runTests("", 20*time.Minute); err != nil || killed {
		return result{}, errors.Join(fmt.Errorf("the tests of %s fail without a mutant:\n%s", path, output), err)
	}
	// A mutant that loops is killed by time; other work on the machine must not kill any.
	limit := 30*time.Second + 5*time.Since(started)
	original, err := p.compiled("")
	if err != nil {
		return result{}, err
	}
	var r result
	for _, m := range p.draw(seed) {
		if r.killed+len(r.survivors) == n {
			break
		}
		if p.check(token.NewFileSet(), nil, &m) != nil {
			continue
		}
		overlay, err := m.overlay(dir, p.Module.Dir)
		if err != nil {
			return result{}, err
		}
		if id, err := p.compiled(overlay); err != nil {
			return result{}, fmt.Errorf("%v: %w", m, err)
		} else if id == original {
			r.equal++
			continue
		}
		killed, output, err := p.runTests(overlay, limit)
		switch {
		case err != nil:
			return result{}, err
		case bytes.Contains(output, []byte("[build failed]")): // the tests do not compile with it
		case killed:
			r.killed++
		default:
			r.survivors = append(r.survivors, m)
		}
	}
	return r, nil
}

// overlay writes the mutant's file and the map that puts it in place of the original.
func (m mutant) overlay(dir, root string) (string, error) {
	changed, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file.name): changed}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(changed, m.source, 0o644); err != nil {
		return "", err
	}
	return overlay, os.WriteFile(overlay, text, 0o644)
}

// compiled returns what identifies the compiled package's bytes: the content half of its
// build ID.
func (p *loaded) compiled(overlay string) (string, error) {
	id, err := goOutput("list", "-export", "-overlay="+overlay, "-f", "{{.BuildID}}", p.ImportPath)
	return id[strings.LastIndexByte(id, '/')+1:], err
}

// memoryKiB bounds the private memory of a test and of what compiles it: a mutant that
// allocates for ever must not take the machine along.
const memoryKiB = 8 << 20

// runTests runs a package's tests and reports whether they failed, in any way or by taking
// longer than the limit.
func (p *loaded) runTests(overlay string, limit time.Duration) (failed bool, output []byte, err error) {
	script := fmt.Sprintf(`ulimit -d %d; exec go test -vet=off -failfast -timeout=%v "$@"`, memoryKiB, limit)
	args := []string{"-c", script, "sh", "-overlay=" + overlay, p.ImportPath}
	if slices.Contains(append(p.TestImports, p.XTestImports...), "pgregory.net/rapid") {
		args = append(args, "-rapid.nofailfile") // which rapid would write into the tree
	}
	cmd := exec.Command("sh", args...)
	cmd.SysProcAttr = process.Leader()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// What a killed test leaves behind may hold the pipe open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return false, nil, err
	}
	defer func() { _ = process.KillGroup(cmd.Process.Pid) }()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return false, out.Bytes(), err
	}
	return err != nil, out.Bytes(), nil
}

// goOutput runs the go command and returns what it printed.
func goOutput(args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}
