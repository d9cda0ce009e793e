package main

import (
	"bufio"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/types"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// A plugin is mutated otherwise than a package: a changed operator makes another model, which
// may be as right as the one that was written. What is wrong in any model is what values meet
// on their way: a gradient of the wrong sign or size, none at all, what a call or a case before
// has left, a number too few. So every place of a plugin where a tensor is made gets a call that
// does nothing, or the fault that an environment variable asks for there; one program holds all
// mutants. `plugin validate` has to name each.

//go:embed faults.go.txt
var helper []byte

// victim is a plugin whose mutants are made.
type victim struct {
	name string
	// dir is the module's folder, program the main package in it, packages those that are
	// changed.
	dir, program string
	packages     []string
	// validate has what plugin validate is given besides.
	validate []string
	// model is a text encoder's checkpoint: a file that names its configuration and shapes.
	model string
}

var victims = func() []victim {
	var all []victim
	own := func(name, pkg string, validate []string, packages ...string) {
		all = append(all, victim{name, ".", "./plugins/alignedfusion-plugins", append(packages, "./plugins/"+pkg), validate, ""})
	}
	// Narrow ones: of what one column of many does, less shows than rounding hides.
	frame := []string{"./sdk/fusion", "./sdk/fusion/transformer"}
	narrow := []string{"--set", "fusion.width=16"}
	layers := append(slices.Clone(narrow), "--set", "fusion.layers=1", "--set", "fusion.heads=2")
	own("sum", "sum", narrow, frame...)
	own("selfattn", "selfattn", layers, frame...)
	own("itfusion", "itfusion", layers, frame...)
	for _, name := range []string{"concat", "gated", "film", "lowrank", "late", "hyper"} {
		own(name, "fusions", narrow, frame...)
	}
	own("crossattn", "fusions", layers, frame...)
	own("mbt", "fusions", append(slices.Clone(narrow), "--set", "fusion.layers=2", "--set", "fusion.heads=2"), frame...)
	own("classifier", "classifier", []string{"--set", "encoder.width=4", "--set", "encoder.layers=2"}, "./sdk/fusion/transformer")
	own("a3d", "a3d", []string{"--shape", "encoder.volume=2x1x3x32x32"})
	own("bert", "bert", nil, "./sdk/fusion/transformer")
	all[len(all)-1].model = "plugins/bert/testdata/bert_2x128.safetensors"
	return append(all, victim{name: "go-head", dir: "examples/go-head", program: ".", packages: []string{"."}})
}()

// kinds of faults, and where each can be: at any value, or at what a stage gives.
var kinds = []struct {
	name   string
	output bool
	// needs says what a place must have for the fault to act.
	needs func(*place) bool
}{
	{"sign", false, func(p *place) bool { return p.learns }},
	{"scale", false, func(p *place) bool { return p.learns }},
	{"detach", false, func(p *place) bool { return p.learns }},
	{"slice", false, func(p *place) bool { return p.learns && p.wide }},
	{"stale", false, func(p *place) bool { return p.learns || len(p.cases) > 0 }},
	{"leak", false, func(p *place) bool { return len(p.cases) > 1 }},
	{"dtype", true, func(p *place) bool { return p.wide }},
	{"short", true, func(p *place) bool { return p.wide }},
}

// place is an expression that makes a tensor.
type place struct {
	file, text string
	line       int
	output     bool
	// What a run that only looks has seen there.
	learns, wide bool
	cases        map[int]bool
}

// testPlugins makes n mutants of each victim and reports whether all are caught.
func testPlugins(w io.Writer, names []string, n int, seed uint64) (bool, error) {
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	total, caught := 0, 0
	for _, v := range victims {
		if len(names) > 0 && !slices.Contains(names, v.name) {
			continue
		}
		program, places, err := v.build(filepath.Join(dir, v.name))
		if err == nil && v.model != "" {
			v.validate, err = checkpoint(v.model, filepath.Join(dir, v.name))
		}
		if err != nil {
			return false, fmt.Errorf("%s: %w", v.name, err)
		}
		if err := v.look(program, places); err != nil {
			return false, fmt.Errorf("%s: %w", v.name, err)
		}
		random := rand.New(rand.NewPCG(seed, uint64(len(v.name))))
		made := 0
		for _, d := range draw(places, random) {
			if made == n {
				break
			}
			p := places[d.place]
			r, how, err := v.judge(program, d)
			if err != nil {
				return false, fmt.Errorf("%s: %w", v.name, err)
			}
			fmt.Fprintf(w, "%-13s %-6s %-22s %5.1f s  %s:%d  %s\n", v.name, d.kind, how, r.took.Seconds(), p.file, p.line, short(p.text))
			if how != equal {
				made++
			}
			if r.failed != "" {
				caught++
			}
		}
		total += made
	}
	fmt.Fprintf(w, "%d of %d mutants caught, seed %d\n", caught, total, seed)
	return caught == total && total > 0, nil
}

// equal says of a mutant that it is the original: the fault finds nothing to act on, or nobody
// uses what is made at its place, so that a far greater one is not noticed either.
const equal = "equal to the original"

// judge runs a mutant and says what came of it.
func (v victim) judge(program string, d drawn) (r outcome, how string, err error) {
	if r, err = v.run(program, fmt.Sprintf("%s:%d", d.kind, d.place)); err != nil || r.failed != "" {
		return r, "caught by " + r.failed, err
	}
	if !r.acts {
		return r, equal, nil
	}
	greater := "loud"
	switch d.kind {
	case "stale", "leak":
		greater = "nan"
	case "slice":
		greater = "loud-slice"
	}
	other, err := v.run(program, fmt.Sprintf("%s:%d", greater, d.place))
	if other.failed == "" {
		return r, equal, err
	}
	return r, "not caught", err
}

// drawn is a mutant: a fault at a place.
type drawn struct {
	kind  string
	place int
}

// draw puts all mutants into an order, each kind as often as any other where there are places for it.
func draw(places []*place, random *rand.Rand) (all []drawn) {
	var byKind [][]drawn
	for _, k := range kinds {
		var of []drawn
		for i, p := range places {
			if p.output == k.output && k.needs(p) {
				of = append(of, drawn{k.name, i})
			}
		}
		random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		byKind = append(byKind, of)
	}
	random.Shuffle(len(byKind), func(i, j int) { byKind[i], byKind[j] = byKind[j], byKind[i] })
	for more := true; more; {
		more = false
		for k, of := range byKind {
			if len(of) > 0 {
				all, byKind[k], more = append(all, of[0]), of[1:], true
			}
		}
	}
	return all
}

// build makes the program that holds all mutants of a plugin.
func (v victim) build(dir string) (program string, places []*place, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	overlay := map[string]string{}
	for _, path := range v.packages {
		p, err := load(v.dir, path)
		if err != nil {
			return "", nil, err
		}
		for _, f := range p.files {
			found, source := f.faulty(len(places))
			if len(found) == 0 {
				continue
			}
			places = append(places, found...)
			changed := filepath.Join(dir, strings.ReplaceAll(f.name, "/", "_"))
			if err := os.WriteFile(changed, source, 0o644); err != nil {
				return "", nil, err
			}
			overlay[filepath.Join(p.Module.Dir, f.name)] = changed
		}
	}
	scope, err := goOutput("list", "-C", v.dir, "-f", "{{.Dir}}", "github.com/alignedfusion/alignedfusion/sdk/torchstage")
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "faults.go"), helper, 0o644); err != nil {
		return "", nil, err
	}
	overlay[filepath.Join(scope, "faults.go")] = filepath.Join(dir, "faults.go")
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o644); err != nil {
		return "", nil, err
	}
	program = filepath.Join(dir, "alignedfusion-plugin-"+v.name)
	_, err = goOutput("build", "-C", v.dir, "-overlay="+filepath.Join(dir, "overlay.json"), "-o", program, v.program)
	return program, places, err
}

// checkpoint makes the folder of a text encoder with weights drawn at random.
func checkpoint(model, dir string) (validate []string, err error) {
	f, err := safetensors.Open(model)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var shapes map[string][]int64
	about := f.Metadata()
	if err := json.Unmarshal([]byte(about["shapes"]), &shapes); err != nil {
		return nil, fmt.Errorf("%s: %w", model, err)
	}
	random, weights := rand.New(rand.NewPCG(1, 1)), map[string]*tensor.Tensor{}
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		t, err := tensor.New(tensor.FP32, shapes[name]...)
		if err != nil {
			return nil, err
		}
		values, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		for i := range values {
			values[i] = float32(random.NormFloat64()) / 4
		}
		weights[name] = t
	}
	words := []string{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
	for c := 'a'; c <= 'z'; c++ {
		words = append(words, string(c), "##"+string(c))
	}
	return []string{"--set", "text.model=" + dir}, errors.Join(
		os.WriteFile(filepath.Join(dir, "config.json"), []byte(about["config"]), 0o644),
		os.WriteFile(filepath.Join(dir, "vocab.txt"), []byte(strings.Join(words, "\n")+"\n"), 0o644),
		safetensors.Write(filepath.Join(dir, "model.safetensors"), weights, nil))
}

// faulty is the file with a call at each place, numbered from first.
func (f *file) faulty(first int) (places []*place, source []byte) {
	type insertion struct {
		at   int
		text string
		// opening calls at one place are written from the outside in.
		length int
	}
	var all []insertion
	add := func(n ast.Expr, scope string, output bool) {
		start, end := f.offset(n.Pos()), f.offset(n.End())
		all = append(all, insertion{start, fmt.Sprintf("%s.Faulty(%d, ", scope, first+len(places)), end - start}, insertion{end, ")", -1})
		places = append(places, &place{file: f.name, text: f.text(n), line: f.fset.Position(n.Pos()).Line, output: output, cases: map[int]bool{}})
	}
	var above []ast.Node
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		if node == nil {
			above = above[:len(above)-1]
			return true
		}
		switch n := node.(type) {
		case *ast.AssignStmt:
			if index, ok := n.Lhs[0].(*ast.IndexExpr); ok && len(n.Lhs) == 1 && f.isTensors(index.X) && !named(index.X, "Losses") {
				if scope := f.scopeOf(above); scope != "" {
					add(n.Rhs[0], scope, true)
				}
			}
		case *ast.CompositeLit:
			if scope := f.scopeOf(above); scope != "" && f.isTensors(n) && !belongs(above[len(above)-1], "Losses") {
				for _, element := range n.Elts {
					add(element.(*ast.KeyValueExpr).Value, scope, true)
				}
			}
		case *ast.CallExpr:
			fun, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || constants[fun.Sel.Name] || !typeIs(f.info.TypeOf(n), "gotch/ts.Tensor") {
				break
			}
			if scope, ok := fun.X.(*ast.Ident); ok && typeIs(f.info.TypeOf(scope), "sdk/torchstage.Scope") {
				add(n, scope.Name, false)
			}
		}
		above = append(above, node)
		return true
	})
	slices.SortStableFunc(all, func(a, b insertion) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(closes(b.text), closes(a.text)), cmp.Compare(b.length, a.length))
	})
	at := 0
	for _, i := range all {
		source = append(append(source, f.source[at:i.at]...), i.text...)
		at = i.at
	}
	return places, append(source, f.source[at:]...)
}

func closes(text string) int {
	if text == ")" {
		return 1
	}
	return 0
}

// constants are the methods of a scope whose tensors no gradient comes to.
var constants = map[string]bool{"To": true, "FromTensor": true, "FromFloat32s": true, "FromInt64s": true, "FromBools": true, "Zeros": true,
	"Full": true, "Detach": true, "Leaf": true, "Keep": true, "Own": true, "Grad": true, "Cast": true, "Faulty": true}

func typeIs(t types.Type, ending string) bool {
	return t != nil && strings.HasPrefix(t.String(), "*") && strings.HasSuffix(t.String(), ending)
}

func (f *file) isTensors(e ast.Expr) bool {
	m, ok := f.info.TypeOf(e).Underlying().(*types.Map)
	return ok && typeIs(m.Elem(), "gotch/ts.Tensor") && m.Key().String() == "string"
}

func named(e ast.Expr, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == name
}

// belongs reports whether a literal's parent gives it to a field.
func belongs(parent ast.Node, name string) bool {
	switch p := parent.(type) {
	case *ast.KeyValueExpr:
		return isIdent(p.Key, name)
	case *ast.AssignStmt:
		return named(p.Lhs[0], name)
	}
	return false
}

// scopeOf is the name of the scope that the function around has as a parameter.
func (f *file) scopeOf(above []ast.Node) string {
	for _, n := range slices.Backward(above) {
		var params *ast.FieldList
		switch n := n.(type) {
		case *ast.FuncDecl:
			params = n.Type.Params
		case *ast.FuncLit:
			params = n.Type.Params
		default:
			continue
		}
		for _, p := range params.List {
			if typeIs(f.info.TypeOf(p.Type), "sdk/torchstage.Scope") && len(p.Names) == 1 && p.Names[0].Name != "_" {
				return p.Names[0].Name
			}
		}
	}
	return ""
}

// outcome of plugin validate on a mutant.
type outcome struct {
	// failed is the case that named it, acts that the fault did anything at all.
	failed string
	acts   bool
	took   time.Duration
	says   []string
}

// host is the program that validates, brokenRule its exit code when a rule is broken.
const (
	host       = "bin/alignedfusion"
	brokenRule = 7
)

// run validates a mutant until a case fails.
func (v victim) run(program, fault string) (r outcome, err error) {
	cmd := exec.Command(host, append(append([]string{"plugin", "validate", "--verbose"}, v.validate...), program)...)
	cmd.Env = append(os.Environ(), "ALIGNEDFUSION_FAULT="+fault, "ALIGNEDFUSION_PASS_ENV=ALIGNEDFUSION_FAULT")
	cmd.SysProcAttr = process.Leader()
	out, in, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	begin := time.Now()
	err = errors.Join(cmd.Start(), in.Close())
	if err != nil {
		return r, err
	}
	last := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		last = lines.Text()
		switch {
		case strings.Contains(last, "the fault acts"):
			r.acts = true
		case strings.HasPrefix(last, "FAIL"):
			// "FAIL STAGE: CASE: …"; of the whole plugin "FAIL CASE: …", which is about clocks
			// and processes.
			if name, isCase := strings.CutSuffix(strings.Fields(last + " - -")[2], ":"); isCase {
				r.failed = name
				_ = process.KillGroup(cmd.Process.Pid)
			}
		case strings.Contains(last, "place "):
			r.says = append(r.says, last[strings.Index(last, "place "):])
		}
	}
	err = cmd.Wait()
	r.took = time.Since(begin)
	var exit *exec.ExitError
	if err != nil && r.failed == "" && (!errors.As(err, &exit) || exit.ExitCode() != brokenRule) {
		return r, fmt.Errorf("%w: %s", err, last)
	}
	return r, nil
}

// look validates the plugin without a fault and notes what its places have.
func (v victim) look(program string, places []*place) error {
	r, err := v.run(program, "look:-2")
	if err == nil && r.failed != "" {
		err = fmt.Errorf("fails %s without a fault", r.failed)
	}
	for _, line := range r.says {
		var site, cases int
		var what string
		if n, _ := fmt.Sscanf(line, "place %d %s %d", &site, &what, &cases); n < 2 || site >= len(places) {
			continue
		}
		switch p := places[site]; what {
		case "learns":
			p.learns = true
		case "wide":
			p.wide = true
		case "cases":
			p.cases[cases] = true
		}
	}
	return err
}
