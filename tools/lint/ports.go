package main

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// portHolders are the fields and variables whose string indices are names of ports.
var portHolders = map[string]bool{
	"Inputs": true, "Outputs": true, "Tensors": true, "InputGrads": true, "OutputGrads": true,
	"NeedsGrad": true, "Wanted": true, "Resident": true, "inputs": true, "outputs": true,
}

// checkPorts wants names of catalogued ports to come from sdk/ports. A name with a dot is
// a port's wherever it stands; a plain word ("boxes") is one where a port is declared,
// named in a message, or looked up among tensors.
func (c *checker) checkPorts() {
	if c.test || within(c.dir, "sdk/ports") || !within(c.dir, "host") && !within(c.dir, "plugins") && !within(c.dir, "sdk") {
		return
	}
	ast.Inspect(c.file, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.ImportSpec, *ast.Field: // paths, struct tags
			return false
		case *ast.BasicLit:
			if name, ok := stringOf(n); ok && strings.Contains(name, ".") && dottedPort(name) {
				c.reportPort(n, name)
			}
		case *ast.IndexExpr:
			if portHolders[lastName(n.X)] {
				c.checkWord(n.Index)
			}
		case *ast.BinaryExpr:
			if lastName(n.X) == "Name" {
				c.checkWord(n.Y)
			}
		case *ast.CompositeLit:
			c.checkLiteral(n)
		}
		return true
	})
}

// checkLiteral checks the declaration of a port, the port of an error, and the keys of a
// map of tensors.
func (c *checker) checkLiteral(n *ast.CompositeLit) {
	declaration, tensors := false, false
	if m, ok := n.Type.(*ast.MapType); ok {
		star, pointer := m.Value.(*ast.StarExpr)
		tensors = pointer && lastName(star.X) == "Tensor"
	}
	for _, e := range n.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		declaration = declaration || ok && lastName(kv.Key) == "DType"
	}
	for _, e := range n.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		switch {
		case !ok:
		case tensors:
			c.checkWord(kv.Key)
		case declaration && lastName(kv.Key) == "Name", lastName(kv.Key) == "Port":
			c.checkWord(kv.Value)
		}
	}
}

// checkWord reports a plain word that is a port's name; one with a dot is reported anyway.
func (c *checker) checkWord(e ast.Expr) {
	if name, ok := stringOf(e); ok && !strings.Contains(name, ".") && ports.Find(name) != nil {
		c.reportPort(e, name)
	}
}

func (c *checker) reportPort(at ast.Node, name string) {
	c.report(at.Pos(), "ports", "the port %q is in the catalogue: take its name from sdk/ports", name)
}

// dottedPort reports whether a text is the name of a catalogued port, or what its family's
// members begin with.
func dottedPort(text string) bool {
	for _, p := range ports.All() {
		prefix, family := strings.CutSuffix(p.Name, "*")
		if text == p.Name || family && strings.HasPrefix(text, prefix) && !strings.ContainsAny(text, " /%") {
			return true
		}
	}
	return strings.HasSuffix(text, ".") && ports.Target(text)
}

func stringOf(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// lastName is x of x and of a.b.x.
func lastName(e ast.Expr) string {
	switch n := e.(type) {
	case *ast.Ident:
		return n.Name
	case *ast.SelectorExpr:
		return n.Sel.Name
	}
	return ""
}
