package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// glossaryPage says which word is used for a thing, and in its last column which are not.
const glossaryPage = "docs/reference/glossary.md"

// ruled is a word that the glossary rules out.
type ruled struct {
	word, instead string
	found         *regexp.Regexp
}

// spared are the files in which a ruled-out word is another's: of a format, a guideline, a language.
var spared = map[string][]string{
	// COCO, VOC, PI-CAI and DeepLesion call their files and columns so; CLAIM an item.
	"annotation": {"docs/explanation/froc.md", "docs/explanation/paper.md", "docs/reference/data.md", "eval/froc/frocio/coco.go", "eval/froc/frocio/truth.go",
		"host/cli/export.go", "host/dataset/deeplesion.go", "host/dataset/importer/pictures.go", "host/page/checklist.go"},
	"detections": {"plugins/a3d/config.go"},                       // the name of a setting
	"extension":  {"host/report/rules/"},                          // what a lesion has
	"partition":  {"host/page/checklist.go"},                      // CLAIM's items
	"subgroup":   {"host/page/checklist.go", "host/card/assets/"}, // STARD's item; a model card's field
	"subject":    {"docs/how-to/attributes.md"},                   // of a sentence
}

// readGlossary returns the words of the last column, with the word that stands for each.
func readGlossary(text []byte) (out []ruled) {
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.HasPrefix(cells[0], "---") || strings.TrimSpace(cells[0]) == "word" {
			continue
		}
		for word := range strings.SplitSeq(cells[2], ",") {
			if word = strings.TrimSpace(word); word != "" {
				out = append(out, ruled{word, strings.TrimSpace(cells[0]), regexp.MustCompile(`(?i)\b` + regexp.QuoteMeta(word) + `s?\b`)})
			}
		}
	}
	return out
}

var (
	fencedCode = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	inlineCode = regexp.MustCompile("`[^`\n]*`")
	linkTarget = regexp.MustCompile(`\]\([^)]*\)`)
)

// lintWords reports words that the glossary rules out in the prose of a page, or in the texts of
// a Go file that a user reads: those with a blank in them.
func lintWords(name string, text []byte, words []ruled) (out []finding) {
	check := func(line int, text string) {
		for _, w := range words {
			if w.found.MatchString(text) && !slices.ContainsFunc(spared[w.word], func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
				out = append(out, finding{file: name, line: line, rule: "words", text: fmt.Sprintf("%q; the glossary says %q", w.word, w.instead)})
			}
		}
	}
	if isPage(name) {
		if name == glossaryPage || name == "CHANGELOG.md" {
			return nil // the one rules them out, the other tells of earlier days
		}
		blank := func(s string) string { return strings.Repeat("\n", strings.Count(s, "\n")) }
		prose := fencedCode.ReplaceAllStringFunc(string(text), blank)
		prose = linkTarget.ReplaceAllString(inlineCode.ReplaceAllString(prose, ""), "]")
		for n, line := range strings.Split(prose, "\n") {
			check(n+1, line)
		}
		return out
	}
	if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "tools/") {
		return nil
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, text, 0)
	if err != nil {
		return nil // another rule says so
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if s, err := strconv.Unquote(literal.Value); err == nil && strings.Contains(s, " ") {
				check(files.Position(literal.Pos()).Line, s)
			}
		}
		return true
	})
	return out
}
