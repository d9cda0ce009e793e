package ports

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

var update = flag.Bool("update", false, "write what is made from the catalogue")

const (
	root       = "../.."
	docsFile   = "docs/explanation/architecture.md"
	guideFile  = "docs/how-to/write-a-plugin.md"
	pythonFile = "sdk/python/alignedfusion_sdk/catalogue.py"
	begin, end = "<!-- ports: written by go test ./sdk/ports -update -->\n", "<!-- end of ports -->\n"
)

// What is made from the catalogue: the lists in the docs and the Python SDK's names.
func TestDocsAndPythonAreUpToDate(t *testing.T) {
	for _, made := range []struct {
		file string
		make func(before string) (string, error)
	}{
		{docsFile, func(page string) (string, error) { return between(page, list()) }},
		{guideFile, func(page string) (string, error) { return between(page, byKind()) }},
		{pythonFile, func(string) (string, error) { return python(), nil }},
	} {
		path := filepath.Join(root, made.file)
		before, err := os.ReadFile(path)
		if err != nil && !*update {
			t.Fatal(err)
		}
		want, err := made.make(string(before))
		if err != nil {
			t.Errorf("%s: %v", made.file, err)
			continue
		}
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if diff := cmp.Diff(want, string(before)); diff != "" {
			t.Errorf("%s is out of date: go test ./sdk/ports -update\n%s", made.file, diff)
		}
	}
}

// between puts text between the marks of a page.
func between(page, text string) (string, error) {
	before, rest, found := strings.Cut(page, begin)
	_, after, ends := strings.Cut(rest, end)
	if !found || !ends {
		return "", fmt.Errorf("no lines %q and %q", begin, end)
	}
	return before + begin + "```text\n" + text + "```\n" + end + after, nil
}

// row is a line of a table whose columns format says.
func row(format string, cells ...any) string {
	return strings.TrimRight(fmt.Sprintf(format, cells...), " ") + "\n"
}

// list says everything about every port.
func list() string {
	const columns = "%-21s %-5s %-14s %-43s %-9s %s"
	out := row(columns, "port", "dtype", "shape", "made by → read by", "task", "always given")
	for _, p := range All() {
		always := map[bool]string{true: "yes", false: "no"}[p.Required]
		out += row(columns, p.Name, p.DType, tensor.FormatShape(p.Shape), join(p.Makers, ", ")+" → "+join(p.Readers, ", "), p.Task, always) +
			"  " + p.Help + "\n"
	}
	return out
}

// byKind says which kinds of stages may take and which may give a port.
func byKind() string {
	const columns = "%-21s %-5s %-14s %-9s %-9s %-9s %-9s %s"
	kinds := []sdk.Kind{sdk.KindEncoder, sdk.KindFusion, sdk.KindHead, sdk.KindText}
	out := row(columns, "port", "dtype", "shape", kinds[0], kinds[1], kinds[2], kinds[3], "task")
	for _, p := range All() {
		cells := []any{p.Name, p.DType, tensor.FormatShape(p.Shape)}
		for _, k := range kinds {
			var words []string
			if slices.Contains(p.Readers, k) {
				words = append(words, "in")
			}
			if slices.Contains(p.Makers, k) {
				words = append(words, "out")
			}
			cells = append(cells, strings.Join(words, ", "))
		}
		out += row(columns, append(cells, p.Task)...)
	}
	return out
}

// python is the module with the names of ports and dtypes.
func python() string {
	var b strings.Builder
	b.WriteString("\"\"\"The ports and dtypes that hosts and stages know by name.\n\n" +
		"Written by `go test ./sdk/ports -update` from the Go SDK's tables: do not edit.\n\"\"\"\n\n" +
		"# Name in the protocol: (attribute of the module torch, name in a safetensors header).\nDTYPES = {\n")
	for _, d := range tensor.DTypes() {
		fmt.Fprintf(&b, "    %q: (%q, %q),\n", d.DType, d.Torch, d.Safetensors)
	}
	b.WriteString("}\n\n")
	for _, p := range All() {
		fmt.Fprintf(&b, "%s = %q\n", constant(p.Name), p.Name)
	}
	b.WriteString("\n# Name: (dtype, shape, takes part in backward, is computed on request, what it holds).\nPORTS = {\n")
	for _, p := range All() {
		var shape []string
		for _, d := range p.Shape {
			shape = append(shape, strconv.Quote(d))
		}
		word := map[bool]string{true: "True", false: "False"}
		fmt.Fprintf(&b, "    %s: (%q, [%s], %s, %s,\n        %q),\n", constant(p.Name), p.DType, strings.Join(shape, ", "), word[p.Differentiable], word[p.OnRequest], p.Help)
	}
	b.WriteString("}\n")
	return b.String()
}

// constant is a port's name as Python constants are written: TARGET_LABEL, TOKENS_ANY.
func constant(name string) string {
	if prefix, family := sdk.Family(name); family {
		name = prefix + "any"
	}
	return strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
}
