package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// breaches returns "line rule" of every finding.
func breaches(found []finding) []string {
	var out []string
	for _, f := range found {
		out = append(out, fmt.Sprintf("%d %s", f.line, f.rule))
	}
	return out
}

func TestGoRules(t *testing.T) {
	for _, test := range []struct {
		name, file, source string
		want               []string
	}{
		{name: "clean", file: "eval/froc/x.go", source: "// Package froc is fine.\npackage froc\n"},
		{name: "eval imports ours", file: "eval/froc/x.go",
			source: "package froc\n\nimport _ \"" + module + "/host/dataset\"\n", want: []string{"3 rooms"}},
		{name: "eval imports eval", file: "eval/froc/frocplot/x.go",
			source: "package frocplot\n\nimport _ \"" + module + "/eval/froc\"\n"},
		{name: "plugin imports host", file: "plugins/a3d/x.go",
			source: "package a3d\n\nimport _ \"" + module + "/host/pipeline\"\n", want: []string{"3 rooms"}},
		{name: "plugin imports sdk and gotch", file: "plugins/a3d/x.go",
			source: "package a3d\n\nimport (\n\t_ \"" + module + "/sdk\"\n\t_ \"github.com/sugarme/gotch/ts\"\n)\n"},
		{name: "host imports plugin", file: "host/cli/x.go",
			source: "package cli\n\nimport _ \"" + module + "/plugins/a3d\"\n", want: []string{"3 rooms"}},
		{name: "host imports gotch", file: "host/pipeline/x.go",
			source: "package pipeline\n\nimport _ \"github.com/sugarme/gotch\"\n", want: []string{"3 rooms"}},
		{name: "upwards inside host", file: "host/plughost/x.go",
			source: "package plughost\n\nimport _ \"" + module + "/host/pipeline\"\n", want: []string{"3 rooms"}},
		{name: "runs imports pipeline", file: "host/runs/x.go",
			source: "package runs\n\nimport _ \"" + module + "/host/pipeline\"\n", want: []string{"3 rooms"}},
		{name: "report imports plughost", file: "host/report/x.go",
			source: "package report\n\nimport _ \"" + module + "/host/plughost\"\n", want: []string{"3 rooms"}},
		{name: "dataset imports loop", file: "host/dataset/x.go",
			source: "package dataset\n\nimport _ \"" + module + "/host/pipeline/loop\"\n", want: []string{"3 rooms"}},
		{name: "host imports torchstage", file: "host/cli/x.go",
			source: "package cli\n\nimport _ \"" + module + "/sdk/torchstage\"\n", want: []string{"3 rooms"}},
		{name: "a room that the table does not know", file: "host/cellar/x.go",
			source: "package cellar\n\nimport _ \"" + module + "/sdk\"\n", want: []string{"3 rooms"}},
		{name: "domain imports cli", file: "host/runs/x.go",
			source: "package runs\n\nimport _ \"" + module + "/host/cli\"\n", want: []string{"3 rooms"}},
		{name: "main imports cli", file: "cmd/alignedfusion/main.go",
			source: "package main\n\nimport _ \"" + module + "/host/cli\"\n"},
		{name: "helpers inside host", file: "host/runs/x.go",
			source: "package runs\n\nimport _ \"" + module + "/internal/npz\"\n"},
		{name: "sdk core imports gotch", file: "sdk/x.go",
			source: "package sdk\n\nimport _ \"github.com/sugarme/gotch\"\n", want: []string{"3 rooms"}},
		{name: "torchstage imports gotch", file: "sdk/torchstage/x.go",
			source: "package torchstage\n\nimport _ \"github.com/sugarme/gotch\"\n"},
		{name: "a name that only starts alike", file: "eval/froc/x.go",
			source: "package froc\n\nimport _ \"" + module + "er/host\"\n"},
		{name: "gotch Must function and method", file: "plugins/a3d/x.go", source: `package a3d

import "github.com/sugarme/gotch/ts"

func f(x *ts.Tensor) {
	ts.MustZeros(nil)
	x.MustSize()
}
`, want: []string{"6 must", "7 must"}},
		{name: "other packages' Must is theirs", file: "plugins/a3d/x.go", source: `package a3d

import "regexp"

var r = regexp.MustCompile("x")
`},
		{name: "no-grad guard", file: "plugins/a3d/x.go", source: `package a3d

import torch "github.com/sugarme/gotch/ts"

func f() { torch.NewNoGradGuard() }
`, want: []string{"5 must"}},
		{name: "exits", file: "host/runs/x.go", source: `package runs

import (
	"log"
	"os"
)

func f() {
	os.Exit(1)
	log.Fatalf("x")
}
`, want: []string{"9 exit", "10 exit"}},
		{name: "main may exit", file: "cmd/alignedfusion/main.go", source: "package main\n\nimport \"os\"\n\nfunc main() { os.Exit(1) }\n"},
		{name: "format", file: "sdk/x.go", source: "package sdk\nvar  x = 1\n", want: []string{"1 gofmt"}},
		{name: "unfinished", file: "sdk/x.go", source: "package sdk\n\n// TO" + "DO: later\n", want: []string{"3 unfinished"}},
		{name: "the word inside a sentence", file: "sdk/x.go", source: "package sdk\n\n// A XX" + "X marker may follow.\n"},
		{name: "missing docs", file: "sdk/x.go", source: `package sdk

type A struct{}

func (A) Run()           {}
func (A) String() string { return "" }
func B()                 {}
func c()                 {}

var D = 1

const E = 2 // is explained
`, want: []string{"3 doc", "5 doc", "7 doc", "10 doc"}},
		{name: "docs of a group", file: "sdk/x.go", source: "package sdk\n\n// Sizes in bytes.\nconst (\n\tA = 1\n\tB = 2\n)\n"},
		{name: "tests need no docs", file: "sdk/x_test.go", source: "package sdk\n\nfunc TestA() {}\n"},
		{name: "a dotted port name", file: "host/runs/x.go", source: "package runs\n\nvar a = \"target.\" + \"label\"\nvar b = \"target.label\"\nvar c = \"tokens.\" + b\n",
			want: []string{"3 ports", "4 ports", "5 ports"}},
		{name: "no port names", file: "plugins/x/x.go", source: "package x\n\nvar a = []string{\"boxes\", \"image\", \"a target.label\", \"report.json\", \"boxes.csv\"}\n"},
		{name: "a word as a port", file: "plugins/x/x.go", source: "package x\n\nvar a = Port{Name: \"boxes\", DType: 1}\nvar b = Setting{Name: \"boxes\"}\nvar c = in.Tensors[\"joint\"]\n" +
			"var d = map[string]*Tensor{\"image\": nil}\nvar e = map[string]int{\"image\": 1}\nvar f = p.Name == \"spacing\"\nvar g = Error{Port: \"volume\"}\nvar h = in.Tensors[\"mine\"]\n",
			want: []string{"3 ports", "5 ports", "6 ports", "8 ports", "9 ports"}},
		{name: "tests and the catalogue name ports", file: "sdk/ports/x.go", source: "package ports\n\nvar a = \"target.label\"\n"},
		{name: "a test names ports", file: "host/runs/x_test.go", source: "package runs\n\nvar a = \"target.label\"\n"},
		{name: "generated code is spared all but rooms", file: "sdk/x.go",
			source: "// Code generated by x. DO NOT EDIT.\n\npackage sdk\n\nimport _ \"" + module + "/host\"\n\nfunc  A() {}\n", want: []string{"5 rooms"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			found, err := lintGo(test.file, []byte(test.source))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, breaches(found)); diff != "" {
				t.Errorf("%s%v", diff, found)
			}
		})
	}
}

func TestGoThatDoesNotParseIsAnError(t *testing.T) {
	if _, err := lintGo("sdk/x.go", []byte("package")); err == nil {
		t.Error("no error")
	}
}

func TestTextRules(t *testing.T) {
	for text, want := range map[string][]string{
		"see /wo" + "rk/data here":            {"1 machine-path"},
		"a\nx=\"/ro" + "ot/go\"":              {"2 machine-path"},
		"in /ho" + "me/ann/x":                 {"1 machine-path"},
		"(/tm" + "p/out.csv)":                 {"1 machine-path"},
		"a frame" + "work/data, /workers":     nil,
		"net" + "work/roots and /usr/include": nil,
		"https://example.org/home/":           nil,
		strings.Repeat("<", 7) + " HEAD":      {"1 conflict"},
	} {
		if diff := cmp.Diff(want, breaches(lintText("x.md", []byte(text)))); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestProseOfPagesIsNarrow(t *testing.T) {
	wide := strings.Repeat("é", proseWidth)
	text := strings.Join([]string{wide, wide + ".", "| " + wide + " |", "  * " + wide, "```text", wide + ".", "```" + wide, wide + ".", "", "    " + wide, "    " + wide, "x", "    " + wide}, "\n")
	if diff := cmp.Diff([]string{"2 prose", "4 prose", "8 prose", "13 prose"}, breaches(lintPage("docs/x.md", []byte(text)))); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]bool{"README.md": true, "docs/x.md": true, "docs/decisions/01-x.md": true, "docs/x.svg": false, "examples/README.md": false} {
		if isPage(name) != want {
			t.Errorf("%s is a page: %v", name, !want)
		}
	}
}

func TestLinksOfPagesLeadSomewhere(t *testing.T) {
	files := map[string]string{"docs/a.md": "# A\n\n## What is it? (1)\n", "docs/b/c.svg": "", "README.md": "# R\n"}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}
	for text, want := range map[string][]string{
		"[a](a.md) [b](b/c.svg) [r](../README.md)":      nil,
		"[a](a.md#what-is-it-1) [x](https://x.org/#y)":  nil,
		"[a](a.md#what-is-it)":                          {"1 link"},
		"x\n[a](c.md)":                                  {"2 link"},
		"[here](#there)":                                {"1 link"},
		"# There\n[here](#there)":                       nil,
		"[.7][a]\n\n[a]: a.md \"A\"\n[b]: b.json \"B\"": {"4 link"},
	} {
		files["docs/x.md"] = text
		if diff := cmp.Diff(want, breaches(lintLinks("docs/x.md", []byte(text), read))); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestLintTreeReadsWhatGitWouldTrack(t *testing.T) {
	root := t.TempDir()
	if out, err := exec.Command("git", "-C", root, "init", "-q").CombinedOutput(); err != nil {
		t.Skipf("git: %v: %s", err, out)
	}
	for name, text := range map[string]string{
		".gitignore":    "build/\n",
		"build/x.go":    "not Go",
		"sdk/b.go":      "package sdk\n\nfunc B() {}\n",
		"sdk/a.go":      "package sdk\n\nfunc A() {}\n",
		"data/blob.bin": "\x00/wo" + "rk/data",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, err := lintTree(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.String())
	}
	want := []string{
		"sdk/a.go:3: doc: exported function A has no doc comment",
		"sdk/b.go:3: doc: exported function B has no doc comment",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWordsThatTheGlossaryRulesOut(t *testing.T) {
	words := readGlossary([]byte("| word | meaning | not |\n|---|---|---|\n| split | train or test | subset, partition |\n| patch | a square | tile |\n| lesion | a truth | annotation |\n"))
	if len(words) != 4 || words[0].instead != "split" {
		t.Fatalf("%v", words)
	}
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{"docs/x.md", "A Subset.\nTwo tiles, a `tile`, [x](tile.md).\n```\ntile\n```\npartition\nstile", []string{"1 words", "2 words", "6 words"}},
		{"docs/reference/glossary.md", "tile", nil},
		{"docs/reference/data.md", "an annotation, a subset", []string{"1 words"}},
		{"host/x.go", "package x\n\n// a tile\nvar tile = f(\"no tile\", \"tile\", `a\nsubset of`)\n", []string{"4 words", "4 words"}},
		{"host/x_test.go", "package x\n\nvar a = \"no tile\"\n", nil},
	} {
		if diff := cmp.Diff(test.want, breaches(lintWords(test.name, []byte(test.text), words))); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

var glossaryWord = regexp.MustCompile(`(?m)^\| ([a-zA-Z, ]+) \|`)

// TestWordsOfTheGlossaryAreUsed keeps the glossary to words that the pages use.
func TestWordsOfTheGlossaryAreUsed(t *testing.T) {
	glossary, err := os.ReadFile("../../docs/reference/glossary.md")
	if err != nil {
		t.Fatal(err)
	}
	var pages strings.Builder
	for _, folder := range []string{"tutorials", "how-to", "reference", "explanation", "results"} {
		names, err := filepath.Glob("../../docs/" + folder + "/*.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if filepath.Base(name) == "glossary.md" {
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			pages.Write(text)
		}
	}
	words := glossaryWord.FindAllStringSubmatch(string(glossary), -1)
	if len(words) < 30 {
		t.Fatalf("%d words", len(words))
	}
	for _, w := range words[1:] {
		if word, _, _ := strings.Cut(w[1], ","); !strings.Contains(pages.String(), word) {
			t.Errorf("no page uses %q", word)
		}
	}
}
