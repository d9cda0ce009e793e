package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const module = "github.com/alignedfusion/alignedfusion"

// finding is one breach of a rule.
type finding struct {
	file string
	line int
	rule string
	text string
}

func (f finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.file, f.line, f.rule, f.text)
}

// machinePath matches folders that exist on somebody's machine only. The
// pattern is put together so that it does not match itself.
var machinePath = regexp.MustCompile(`(?:^|[\s"'` + "`" + `(=:])/(?:(?:wo` + `rk|ro` + `ot)\b|ho` + `me/[a-z]|tm` + `p/[A-Za-z])[/A-Za-z0-9_-]*`)

var conflictMark = regexp.MustCompile(`^(?:<{7}|>{7}) `)

// lintText checks rules that hold for every text file.
func lintText(name string, text []byte) []finding {
	var found []finding
	for i, line := range strings.Split(string(text), "\n") {
		if m := machinePath.FindString(line); m != "" {
			found = append(found, finding{name, i + 1, "machine-path", fmt.Sprintf("%q exists on one machine only", strings.TrimSpace(m))})
		}
		if conflictMark.MatchString(line) {
			found = append(found, finding{name, i + 1, "conflict", "left-over merge conflict mark"})
		}
	}
	return found
}

// proseWidth is the longest line of a page's prose, in characters.
const proseWidth = 120

// isPage reports whether a file is one of the pages whose prose is kept narrow.
func isPage(name string) bool {
	dir := path.Dir(name)
	return path.Ext(name) == ".md" && (within(dir, "docs") || dir == ".")
}

// link is a reference of a page to a file or a heading.
var link = regexp.MustCompile(`\]\(([^()\s]+)\)|^\[[^\]]+\]: (\S+)`)

// lintLinks refuses references to files that are not there and to headings that a page has not;
// read returns a file, or the entry of a folder, of the project.
func lintLinks(name string, text []byte, read func(name string) ([]byte, error)) []finding {
	var found []finding
	code := false
	for i, line := range strings.Split(string(text), "\n") {
		if code = code != strings.HasPrefix(line, "```"); code {
			continue
		}
		for _, m := range link.FindAllStringSubmatch(line, -1) {
			to := m[1] + m[2]
			target, heading, _ := strings.Cut(to, "#")
			if strings.Contains(target, ":") {
				continue
			}
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			page, err := read(file)
			if err != nil {
				found = append(found, finding{name, i + 1, "link", fmt.Sprintf("%s is not there", to)})
			} else if heading != "" && path.Ext(file) == ".md" && !slices.Contains(headings(page), heading) {
				found = append(found, finding{name, i + 1, "link", fmt.Sprintf("%s has no heading #%s", file, heading)})
			}
		}
	}
	return found
}

// readEntry returns a file, nothing of a folder.
func readEntry(name string) ([]byte, error) {
	if info, err := os.Stat(name); err != nil || info.IsDir() {
		return nil, err
	}
	return os.ReadFile(name)
}

// headings returns the anchors of a page's headings.
func headings(page []byte) []string {
	var all []string
	for _, line := range strings.Split(string(page), "\n") {
		if text, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			all = append(all, strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
					return unicode.ToLower(r)
				}
				return -1
			}, text))
		}
	}
	return all
}

// lintPage refuses long lines of prose. Tables and blocks of code are as wide as they are.
func lintPage(name string, text []byte) []finding {
	var found []finding
	code, indented := false, true
	for i, line := range strings.Split(string(text), "\n") {
		start := strings.TrimSpace(line)
		// Indented code begins behind an empty line.
		indented = start == "" || indented && strings.HasPrefix(line, "    ")
		fence := strings.HasPrefix(start, "```")
		code = code != fence
		if n := utf8.RuneCountInString(line); n > proseWidth && !code && !fence && !indented && !strings.HasPrefix(start, "|") {
			found = append(found, finding{name, i + 1, "prose", fmt.Sprintf("%d characters, want at most %d", n, proseWidth)})
		}
	}
	return found
}

// lintGo checks the rules for Go source. The error is non-nil when the file does
// not parse.
func lintGo(name string, text []byte) ([]finding, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	c := &checker{name: name, dir: path.Dir(name), fset: fset, file: file, imports: map[string]string{}}
	c.test = strings.HasSuffix(name, "_test.go")
	for _, spec := range file.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		local := path.Base(target)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		c.imports[local] = target
		c.checkImport(spec, target)
	}
	if ast.IsGenerated(file) {
		return c.found, nil
	}
	if formatted, err := format.Source(text); err == nil && !bytes.Equal(formatted, text) {
		c.report(file.Package, "gofmt", "not formatted: run gofmt -w")
	}
	c.checkComments()
	c.checkDocs()
	c.checkPorts()
	ast.Inspect(file, c.visit)
	return c.found, nil
}

type checker struct {
	name, dir string
	test      bool
	fset      *token.FileSet
	file      *ast.File
	imports   map[string]string // local name to import path
	found     []finding
}

func (c *checker) report(at token.Pos, rule, format string, args ...any) {
	c.found = append(c.found, finding{c.name, c.fset.Position(at).Line, rule, fmt.Sprintf(format, args...)})
}

// room is a part of the repository with the rooms whose packages it may import besides
// its own. Together they are the order of the whole house: what is not listed is refused.
type room struct {
	prefix string
	may    []string
	// torch says whether gotch may be imported.
	torch bool
}

// rooms are looked up by longest prefix. Every package of this module lies in one. An
// import is downwards when it names a room further up in this list.
var rooms = []room{
	{prefix: "internal"},
	{prefix: "eval", may: []string{"internal"}},
	{prefix: "sdk", may: []string{"internal"}},
	{prefix: "sdk/torchstage", may: []string{"sdk", "internal"}, torch: true},
	{prefix: "sdk/fusion", may: []string{"sdk", "internal"}, torch: true},
	{prefix: "plugins", may: []string{"sdk", "internal"}, torch: true},
	{prefix: "host/fault", may: []string{"sdk", "internal"}},
	{prefix: "host/shard", may: []string{"host/fault", "internal"}},
	{prefix: "host/group", may: []string{"host/fault", "internal"}},
	{prefix: "host/plughost", may: []string{"host/fault", "sdk", "internal"}},
	{prefix: "host/config", may: []string{"host/fault", "sdk", "eval", "internal"}},
	{prefix: "host/runs", may: []string{"host/fault", "sdk", "internal"}},
	{prefix: "host/report", may: []string{"host/fault", "sdk", "internal"}},
	{prefix: "host/dataset", may: []string{"host/report", "host/fault", "sdk", "internal"}},
	{prefix: "host/npz", may: []string{"host/fault", "sdk", "internal"}},
	{prefix: "host/weights", may: []string{"host/fault", "sdk", "internal"}},
	{prefix: "host/pipeline", may: []string{"host/plughost", "host/group", "host/runs", "host/fault", "sdk", "internal"}},
	{prefix: "host/workflow", may: []string{"host/pipeline", "host/group", "host/weights", "host/npz", "host/dataset", "host/report", "host/runs", "host/config", "host/plughost", "host/shard", "host/fault", "sdk", "eval", "internal"}},
	{prefix: "host/study", may: []string{"host/workflow", "host/npz", "host/dataset", "host/report", "host/runs", "host/config", "host/plughost", "host/shard", "host/fault", "sdk", "eval", "internal"}},
	{prefix: "host/page", may: []string{"host/workflow", "host/dataset", "host/report", "host/runs", "host/config", "host/plughost", "host/fault", "sdk", "eval", "internal"}},
	{prefix: "host/card", may: []string{"host/workflow", "host/runs", "host/config", "host/fault", "sdk", "eval", "internal"}},
	{prefix: "host/export", may: []string{"host/dataset", "host/runs", "host/fault", "internal"}},
	{prefix: "host/doctor", may: []string{"host/plughost", "host/fault", "sdk", "internal"}},
	{prefix: "host/scaffold", may: []string{"host/fault", "sdk", "internal"}},
	{prefix: "host/cli", may: []string{"host/scaffold", "host/doctor", "host/export", "host/card", "host/page", "host/study", "host/workflow", "host/pipeline", "host/weights", "host/npz", "host/dataset", "host/report", "host/runs", "host/config", "host/plughost", "host/group", "host/shard", "host/fault", "sdk", "eval", "internal"}},
	{prefix: "cmd", may: []string{"host/cli"}},
	{prefix: "tools", may: []string{"internal", "sdk"}},
	{prefix: "tools/results", may: []string{"host/study", "host/workflow/predictions"}},
	{prefix: "tools/fitgotch/fitted", torch: true},
	{prefix: "docs", may: []string{"eval"}},
	{prefix: "examples", may: []string{"sdk"}, torch: true},
}

func within(pkg, prefix string) bool { return pkg == prefix || strings.HasPrefix(pkg, prefix+"/") }

// roomOf returns the room of a package; nil when it lies in none.
func roomOf(dir string) *room {
	var best *room
	for i := range rooms {
		if within(dir, rooms[i].prefix) && (best == nil || len(rooms[i].prefix) > len(best.prefix)) {
			best = &rooms[i]
		}
	}
	return best
}

func (c *checker) checkImport(spec *ast.ImportSpec, target string) {
	own := roomOf(c.dir)
	if own == nil {
		if within(target, module) {
			c.report(spec.Pos(), "rooms", "%s lies in no room: say in tools/lint what it may import", c.dir)
		}
		return
	}
	if within(target, "github.com/sugarme/gotch") && !own.torch {
		c.report(spec.Pos(), "rooms", "%s must not link libtorch: gotch belongs in sdk/torchstage, sdk/fusion and plugins", own.prefix)
	}
	if !within(target, module) {
		return
	}
	inner := strings.TrimPrefix(strings.TrimPrefix(target, module), "/")
	// What lies inside a room serves it and those above it, unless it links libtorch.
	for _, prefix := range append([]string{own.prefix}, own.may...) {
		if target := roomOf(inner); target != nil && within(inner, prefix) && (own.torch || !target.torch) {
			return
		}
	}
	c.report(spec.Pos(), "rooms", "%s imports %s; imports go downwards only: %s may import %s", c.dir, inner, own.prefix, strings.Join(append([]string{own.prefix}, own.may...), ", "))
}

// leftOver matches marks of unfinished work at the start of a comment's line.
var leftOver = regexp.MustCompile(`(?m)^\W*(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

func (c *checker) checkComments() {
	for _, group := range c.file.Comments {
		for _, comment := range group.List {
			if m := leftOver.FindStringSubmatch(comment.Text); m != nil {
				c.report(comment.Pos(), "unfinished", "%s does not land: finish it or leave it out", m[1])
			}
		}
	}
}

// wellKnown are methods whose meaning their interface documents.
var wellKnown = map[string]bool{
	"Error": true, "String": true, "Unwrap": true, "Is": true, "As": true, "Len": true, "Less": true, "Swap": true, "Push": true,
	"Pop": true, "Read": true, "Write": true, "Close": true, "GRPCServer": true, "GRPCClient": true, "GRPCStatus": true,
	"MarshalJSON": true, "UnmarshalJSON": true, "MarshalText": true, "UnmarshalText": true, "MarshalYAML": true, "UnmarshalYAML": true,
	"LogValue": true, "Format": true,
}

// checkDocs wants a doc comment on every exported name that other packages see.
func (c *checker) checkDocs() {
	if c.test || c.file.Name.Name == "main" {
		return
	}
	for _, decl := range c.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Doc != nil || !d.Name.IsExported() {
				continue
			}
			if d.Recv == nil {
				c.report(d.Pos(), "doc", "exported function %s has no doc comment", d.Name.Name)
			} else if receiver := receiverName(d.Recv); ast.IsExported(receiver) && !wellKnown[d.Name.Name] {
				c.report(d.Pos(), "doc", "exported method %s.%s has no doc comment", receiver, d.Name.Name)
			}
		case *ast.GenDecl:
			if d.Doc != nil {
				continue
			}
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() && s.Doc == nil && s.Comment == nil {
						c.report(s.Pos(), "doc", "exported type %s has no doc comment", s.Name.Name)
					}
				case *ast.ValueSpec:
					if s.Doc == nil && s.Comment == nil && s.Names[0].IsExported() {
						c.report(s.Pos(), "doc", "exported %s %s has no doc comment", d.Tok, s.Names[0].Name)
					}
				}
			}
		}
	}
}

func receiverName(fields *ast.FieldList) string {
	t := fields.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

var mustName = regexp.MustCompile(`^Must[A-Z]`)

// visit checks calls: what ends the process, and gotch's Must functions, which
// do so on any tensor error.
func (c *checker) visit(node ast.Node) bool {
	call, ok := node.(*ast.CallExpr)
	if !ok {
		return true
	}
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return true
	}
	target := "" // import path when the selector is on a package
	if ident, ok := selector.X.(*ast.Ident); ok {
		target = c.imports[ident.Name]
	}
	name := selector.Sel.Name
	gotch := within(target, "github.com/sugarme/gotch")
	switch {
	case mustName.MatchString(name) && (gotch || target == ""):
		c.report(selector.Pos(), "must", "%s ends the process on an error: call the form that returns it", name)
	case gotch && name == "NewNoGradGuard":
		c.report(selector.Pos(), "must", "%s switches gradient recording on at its end whatever it was: use ts.SetGradEnabled and put it back", name)
	case c.mayExit():
	case target == "os" && name == "Exit", target == "log" && (strings.HasPrefix(name, "Fatal") || strings.HasPrefix(name, "Panic")):
		c.report(selector.Pos(), "exit", "%s.%s outside main skips deferred clean-up: return an error", path.Base(target), name)
	}
	return true
}

// mayExit tells whether this file may end the process: main packages, the
// command line, tests, Serve, which is a plugin's whole main, and the launcher, which becomes one.
func (c *checker) mayExit() bool {
	return c.dir == "sdk/serve" || c.file.Name.Name == "main" || c.test || within(c.dir, "host/cli") || c.name == "host/plughost/launcher_linux.go"
}
