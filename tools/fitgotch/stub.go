package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// function is one top-level C function of the shim: its name and the lines
// (1-based, inclusive) from its signature to its closing brace.
type function struct {
	name       string
	start, end int
	void       bool
}

// signature matches the first line of a top-level function definition. The
// shim's sources keep definitions at column 0 and close them with "}" there.
var signature = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_:<> ]*?[\s*]+)(at[a-z]*_[A-Za-z0-9_]*)\(`)

// parseFunctions lists the shim functions defined in a source text.
func parseFunctions(lines []string) []function {
	var found []function
	for i := 0; i < len(lines); i++ {
		m := signature.FindStringSubmatch(lines[i])
		if m == nil {
			continue
		}
		f := function{name: m[2], start: i + 1, void: strings.TrimSpace(m[1]) == "void"}
		for j := i; j < len(lines); j++ {
			line := strings.TrimRight(lines[j], " \t")
			if strings.HasSuffix(line, ";") && j == i && !strings.Contains(line, "{") {
				break // a declaration
			}
			if line == "}" || (j == i && strings.HasSuffix(line, "}")) {
				f.end = j + 1
				break
			}
		}
		if f.end != 0 {
			found = append(found, f)
			i = f.end - 1
		}
	}
	return found
}

// stub replaces the bodies of the named functions by one that reports, as any
// failing function of the shim does, that the installed libtorch has no such
// operator. It returns the new lines and the names it found.
func stub(lines []string, names map[string]bool) ([]string, []string) {
	var out, stubbed []string
	next := 0
	for _, f := range parseFunctions(lines) {
		if !names[f.name] {
			continue
		}
		out = append(out, lines[next:f.start-1]...)
		head := strings.Join(lines[f.start-1:f.end], " ")
		head = strings.TrimSpace(head[:strings.Index(head, "{")])
		out = append(out, head+" {",
			fmt.Sprintf("  PROTECT(throw std::runtime_error(%q);)", f.name+": not in this libtorch"))
		if !f.void {
			out = append(out, "  return {};")
		}
		out = append(out, "}")
		next = f.end
		stubbed = append(stubbed, f.name)
	}
	return append(out, lines[next:]...), stubbed
}

var (
	diagnosticLine = regexp.MustCompile(`^([^\s:][^:]*):(\d+):(?:\d+:)?\s+(.*)$`)
	contextLine    = regexp.MustCompile(`^\S[^:]*: (In|At) `) // the compiler names where the next errors lie
	linkerFunction = regexp.MustCompile("in function [`']([A-Za-z0-9_]+)'")
)

// faultyFunctions maps what the compiler or linker printed to the shim
// functions to blame. sources maps a source's base name to its functions.
// unexplained holds the error lines that lie in no function.
//
// An error inside a libtorch header belongs to the shim line that instantiated
// it: the "required from here" line printed before it, or the "in expansion of
// macro" note after it.
func faultyFunctions(output string, sources map[string][]function) (names map[string]bool, unexplained []string) {
	names = map[string]bool{}
	locate := func(file string, line int) string {
		for _, f := range sources[filepath.Base(file)] {
			if f.start <= line && line <= f.end {
				return f.name
			}
		}
		return ""
	}
	var trail string   // function of the latest "required from" line
	var pending string // error still without a function; a note may explain it
	settle := func() {
		if pending != "" {
			unexplained = append(unexplained, pending)
			pending = ""
		}
	}
	undefinedIn := ""
	for _, line := range strings.Split(output, "\n") {
		if m := linkerFunction.FindStringSubmatch(line); m != nil {
			undefinedIn = m[1]
		}
		if strings.Contains(line, "undefined reference to") {
			if known(sources, undefinedIn) {
				names[undefinedIn] = true
			} else {
				settle()
				unexplained = append(unexplained, line)
			}
			continue
		}
		if contextLine.MatchString(line) {
			trail = ""
		}
		m := diagnosticLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		number, err := strconv.Atoi(m[2])
		if err != nil {
			continue
		}
		name, text := locate(m[1], number), m[3]
		switch {
		case strings.HasPrefix(text, "error:") || strings.HasPrefix(text, "fatal error:"):
			settle()
			if name == "" {
				name = trail
			}
			if name == "" {
				pending = line
			} else {
				names[name] = true
			}
		case strings.Contains(text, "required from") || strings.Contains(text, "required by"):
			if name != "" {
				trail = name
			}
		case strings.HasPrefix(text, "note:"):
			if pending != "" && name != "" && strings.Contains(text, "in expansion of macro") {
				names[name] = true
				pending = ""
			}
		}
	}
	settle()
	return names, unexplained
}

func known(sources map[string][]function, name string) bool {
	for _, functions := range sources {
		for _, f := range functions {
			if f.name == name {
				return true
			}
		}
	}
	return false
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
