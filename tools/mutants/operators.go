package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"strconv"
	"strings"
)

// change replaces the bytes from start to end of a file by text, in which $0 stands for
// what was there.
type change struct {
	kind       string
	start, end token.Pos
	text       string
}

// becomes is one thing that an operator may turn into.
type becomes struct {
	kind string
	to   token.Token
}

// binary says what each operator may become: another operation, the other side of a
// boundary, the opposite.
var binary = map[token.Token][]becomes{
	token.ADD:  {{"arithmetic", token.SUB}, {"arithmetic", token.MUL}},
	token.SUB:  {{"arithmetic", token.ADD}},
	token.MUL:  {{"arithmetic", token.QUO}, {"arithmetic", token.ADD}},
	token.QUO:  {{"arithmetic", token.MUL}, {"arithmetic", token.SUB}},
	token.REM:  {{"arithmetic", token.MUL}},
	token.AND:  {{"bits", token.OR}},
	token.OR:   {{"bits", token.AND}},
	token.SHL:  {{"bits", token.SHR}},
	token.SHR:  {{"bits", token.SHL}},
	token.LSS:  {{"boundary", token.LEQ}, {"inversion", token.GEQ}},
	token.LEQ:  {{"boundary", token.LSS}, {"inversion", token.GTR}},
	token.GTR:  {{"boundary", token.GEQ}, {"inversion", token.LEQ}},
	token.GEQ:  {{"boundary", token.GTR}, {"inversion", token.LSS}},
	token.EQL:  {{"inversion", token.NEQ}},
	token.NEQ:  {{"inversion", token.EQL}},
	token.LAND: {{"logic", token.LOR}},
	token.LOR:  {{"logic", token.LAND}},
}

// assigning says what the operators of x op= y and x++ may become.
var assigning = map[token.Token]token.Token{
	token.ADD_ASSIGN: token.SUB_ASSIGN, token.SUB_ASSIGN: token.ADD_ASSIGN, token.MUL_ASSIGN: token.QUO_ASSIGN,
	token.QUO_ASSIGN: token.MUL_ASSIGN, token.INC: token.DEC, token.DEC: token.INC,
}

// opposite names of functions, constants and jumps.
var opposite = map[string]string{
	"min": "max", "max": "min", "Floor": "Ceil", "Ceil": "Floor", "true": "false", "false": "true", "break": "continue", "continue": "break",
}

// file is a parsed and type-checked source file.
type file struct {
	name   string // relative to the root of the module
	source []byte
	fset   *token.FileSet
	syntax *ast.File
	info   *types.Info
}

// places returns, for each node that can be changed, the changes possible there.
func (f *file) places() [][]change {
	var all [][]change
	var above []ast.Node
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		if node == nil {
			above = above[:len(above)-1]
			return true
		}
		if len(above) > 0 {
			if changes := f.operators(node, above[len(above)-1]); len(changes) > 0 {
				all = append(all, changes)
			}
		}
		above = append(above, node)
		return true
	})
	return all
}

// operators lists the changes possible at one node. Texts, capacities and file modes are
// left alone: nobody should test them.
func (f *file) operators(node, parent ast.Node) []change {
	switch n := node.(type) {
	case *ast.BinaryExpr:
		return binaryChanges(n)
	case *ast.UnaryExpr:
		if n.Op == token.SUB {
			return []change{{"sign", n.OpPos, n.OpPos + 1, " "}}
		}
	case *ast.BasicLit:
		return literalChanges(n, parent)
	case *ast.Ident:
		if to, ok := opposite[n.Name]; ok && f.info.Uses[n] != nil && f.info.Uses[n].Parent() == types.Universe {
			return []change{{"opposite", n.Pos(), n.End(), to}}
		}
	case *ast.SelectorExpr:
		if to, ok := opposite[n.Sel.Name]; ok && isIdent(n.X, "math") {
			return []change{{"opposite", n.Sel.Pos(), n.Sel.End(), to}}
		}
	case *ast.IfStmt:
		return f.conditionChanges(n.Cond)
	case *ast.ForStmt:
		if n.Cond != nil {
			return f.conditionChanges(n.Cond)
		}
	case *ast.IndexExpr:
		return f.indexChanges(n)
	case *ast.SliceExpr:
		return sliceChanges(n)
	case *ast.CallExpr:
		return f.swapChanges(n)
	case ast.Stmt:
		return statementChanges(n, parent)
	}
	return nil
}

func around(kind string, n ast.Node, text string) change {
	return change{kind, n.Pos(), n.End(), text}
}

func binaryChanges(n *ast.BinaryExpr) (all []change) {
	for _, b := range binary[n.Op] {
		all = append(all, change{b.kind, n.OpPos, n.OpPos + token.Pos(len(n.Op.String())), b.to.String()})
	}
	return all
}

// literalChanges moves a number by one, unless it is a file mode, a capacity or for strconv,
// where the neighbour means the same.
func literalChanges(n *ast.BasicLit, parent ast.Node) []change {
	if n.Kind != token.INT && n.Kind != token.FLOAT || strings.HasPrefix(n.Value, "0o") {
		return nil
	}
	if call, ok := parent.(*ast.CallExpr); ok {
		if isIdent(call.Fun, "make") && len(call.Args) == 3 && call.Args[2] == n {
			return nil
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok && isIdent(f.X, "strconv") {
			return nil
		}
	}
	value := constant.MakeFromLiteral(n.Value, n.Kind, 0)
	var all []change
	for _, op := range []token.Token{token.ADD, token.SUB} {
		moved := constant.BinaryOp(value, op, constant.MakeInt64(1))
		text := moved.ExactString()
		if n.Kind == token.FLOAT {
			number, _ := constant.Float64Val(moved)
			text = strconv.FormatFloat(number, 'g', -1, 64)
		}
		all = append(all, around("constant", n, "("+text+")"))
	}
	return all
}

// conditionChanges drops the check of an error and negates other conditions; comparisons
// are inverted as binary expressions.
func (f *file) conditionChanges(cond ast.Expr) []change {
	b, compares := cond.(*ast.BinaryExpr)
	if !compares {
		return []change{around("negation", cond, "!($0)")}
	}
	if b.Op == token.NEQ && isIdent(b.Y, "nil") && types.Identical(f.info.TypeOf(b.X), types.Universe.Lookup("error").Type()) {
		return []change{around("error unchecked", cond, "false && $0")}
	}
	return nil
}

func (f *file) indexChanges(n *ast.IndexExpr) []change {
	index := f.info.Types[n.Index]
	basic, ok := index.Type.(*types.Basic)
	if !ok || !index.IsValue() || basic.Info()&types.IsInteger == 0 {
		return nil
	}
	if _, ok := f.info.TypeOf(n.X).Underlying().(*types.Map); ok {
		return nil
	}
	return []change{around("index", n.Index, "$0+1"), around("index", n.Index, "$0-1")}
}

func sliceChanges(n *ast.SliceExpr) (all []change) {
	if n.Low != nil {
		all = append(all, around("index", n.Low, "$0+1"))
	}
	if n.High != nil {
		all = append(all, around("index", n.High, "$0-1"))
	}
	return all
}

// symmetric functions give the same whatever the order of their arguments.
var symmetric = map[string]bool{
	"min": true, "max": true, "math.Min": true, "math.Max": true, "math.Hypot": true,
	"slices.Equal": true, "bytes.Equal": true, "maps.Equal": true, "strings.EqualFold": true,
}

// swapChanges exchanges neighbouring arguments of one type, except variadic ones, which are
// mostly printed.
func (f *file) swapChanges(n *ast.CallExpr) (all []change) {
	signature, ok := f.info.TypeOf(n.Fun).(*types.Signature)
	if !ok || symmetric[f.text(n.Fun)] {
		return nil
	}
	fixed := signature.Params().Len()
	if signature.Variadic() {
		fixed--
	}
	for i := 0; i+1 < min(fixed, len(n.Args)); i++ {
		a, b := f.text(n.Args[i]), f.text(n.Args[i+1])
		if a != b && types.Identical(signature.Params().At(i).Type(), signature.Params().At(i+1).Type()) {
			all = append(all, change{"swapped arguments", n.Args[i].Pos(), n.Args[i+1].End(), b + ", " + a})
		}
	}
	return all
}

// statementChanges removes a statement (if false keeps its names in use) and turns assigning
// operators and jumps around. Deferred calls stay: they close and unlock.
func statementChanges(n ast.Stmt, parent ast.Node) (all []change) {
	operator, length := token.ILLEGAL, 0
	var at token.Pos
	switch s := n.(type) {
	case *ast.AssignStmt:
		if s.Tok == token.DEFINE {
			return nil
		}
		operator, at, length = assigning[s.Tok], s.TokPos, len(s.Tok.String())
	case *ast.IncDecStmt:
		operator, at, length = assigning[s.Tok], s.TokPos, len(s.Tok.String())
	case *ast.BranchStmt:
		if to, ok := opposite[s.Tok.String()]; ok {
			all = append(all, change{"opposite", s.Pos(), s.Pos() + token.Pos(len(s.Tok.String())), to})
		}
	case *ast.ExprStmt, *ast.ReturnStmt, *ast.SendStmt:
	default:
		return nil
	}
	if operator != token.ILLEGAL {
		all = append(all, change{"arithmetic", at, at + token.Pos(length), operator.String()})
	}
	switch parent.(type) {
	case *ast.BlockStmt, *ast.CaseClause: // not the parts of a for or if
		all = append(all, around("statement removed", n, "if false { $0 }"))
	}
	return all
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

func (f *file) offset(at token.Pos) int { return f.fset.Position(at).Offset }

func (f *file) text(n ast.Node) string { return string(f.source[f.offset(n.Pos()):f.offset(n.End())]) }

// mutant is a file with one change.
type mutant struct {
	file   *file
	kind   string
	line   int
	source []byte
	// was and goes are the changed lines.
	was, goes string
}

// mutate applies a change.
func (f *file) mutate(c change) mutant {
	start, end := f.offset(c.start), f.offset(c.end)
	text := strings.ReplaceAll(c.text, "$0", string(f.source[start:end]))
	from := bytes.LastIndexByte(f.source[:start], '\n') + 1
	to := end + bytes.IndexByte(append(f.source[end:len(f.source):len(f.source)], '\n'), '\n')
	replace := func(from, to int) string {
		return string(f.source[from:start]) + text + string(f.source[end:to])
	}
	return mutant{
		file: f, kind: c.kind, line: f.fset.Position(c.start).Line, source: []byte(replace(0, len(f.source))),
		was: short(string(f.source[from:to])), goes: short(replace(from, to)),
	}
}

// short puts a piece of source into one line.
func short(source string) string {
	line := []rune(strings.Join(strings.Fields(source), " "))
	if len(line) > 160 {
		return string(line[:159]) + "…"
	}
	return string(line)
}

func (m mutant) String() string {
	return fmt.Sprintf("%s:%d (%s) %s -> %s", m.file.name, m.line, m.kind, m.was, m.goes)
}
