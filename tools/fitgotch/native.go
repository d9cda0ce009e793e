package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// definition is one top-level function of the shim's C++ sources.
type definition struct {
	name, text string
	line       int // of its start, counted from 1
}

// signature matches the first line of a top-level function. The shim's sources begin
// definitions in the first column and close them with a brace there.
var signature = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_:<>, ]*?[\s*]+([A-Za-z_][A-Za-z0-9_]*)\(`)

// definitions lists the functions that a source defines.
func definitions(source string) []definition {
	var found []definition
	lines := strings.Split(source, "\n")
	for i := 0; i < len(lines); i++ {
		start := i
		if strings.HasPrefix(lines[i], "template") && i+1 < len(lines) {
			i++
		}
		m := signature.FindStringSubmatch(lines[i])
		if m == nil {
			continue
		}
		for j := i; j < len(lines); j++ {
			line := strings.TrimRight(lines[j], " \t")
			if j == i && strings.HasSuffix(line, ";") && !strings.Contains(line, "{") {
				break // a declaration
			}
			if line == "}" || j == i && strings.HasSuffix(line, "}") {
				found = append(found, definition{m[1], strings.Join(lines[start:j+1], "\n"), start + 1})
				i = j
				break
			}
		}
	}
	return found
}

// entryPoint tells the functions that Go calls from the shim's own helpers.
var entryPoint = regexp.MustCompile(`^at[a-z]*_`)

// wholeTorch matches what lies outside ATen and autograd: it needs all of libtorch's
// C++ interface, whose headers compile twice as long.
var wholeTorch = regexp.MustCompile(`\btorch::(optim|jit|save|load|serialize|nn|cuda|print)\b`)

var identifier = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)

// shimSource writes the C++ source of the shim's functions that are needed, with the
// helpers that these call, and the project's own. An entry point that gotch's sources do not
// define is an error.
func shimSource(sources []string, own string, needed map[string]use) (string, error) {
	var all []definition
	index := map[string][]int{}
	for _, s := range sources {
		for _, d := range definitions(s) {
			index[d.name] = append(index[d.name], len(all))
			all = append(all, d)
		}
	}
	take := map[int]bool{}
	var visit func(name string)
	visit = func(name string) {
		for _, i := range index[name] {
			if take[i] {
				continue
			}
			take[i] = true
			for _, word := range identifier.FindAllString(all[i].text, -1) {
				if !entryPoint.MatchString(word) {
					visit(word)
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if entryPoint.MatchString(name) && len(index[name]) == 0 {
			return "", fmt.Errorf("gotch %s has no function %s in its shim%s", gotchVersion, name, needed[name].text())
		}
		visit(name)
	}
	visit("get_and_reset_last_err")
	var body strings.Builder
	for i, d := range all {
		if take[i] {
			body.WriteString("\n" + d.text + "\n")
		}
	}
	text := body.String()
	head := "// Written by fitgotch: the functions of gotch's shim that the project calls.\n"
	if wholeTorch.MatchString(text) {
		head += "#define SHIM_WHOLE_TORCH\n"
	}
	head += "#include \"torch_api.h\"\n"
	if strings.Contains(text, "stbi") {
		for _, part := range []string{"IMAGE", "IMAGE_WRITE", "IMAGE_RESIZE"} {
			head += fmt.Sprintf("#define STB_%s_IMPLEMENTATION\n#include \"stb_%s.h\"\n", part, strings.ToLower(part))
		}
	}
	text = strings.NewReplacer("c10::optional", "shim::optional", "c10::nullopt", "shim::nullopt").Replace(text)
	return head + own + "\nusing namespace std;\nthread_local char *torch_last_err = nullptr;\n" + text, nil
}

// text names the place of a use in a message.
func (u use) text() string {
	if u.where == "" {
		return ""
	}
	return ", needed by " + u.where
}

// libtorchHeader is what shim sources see of libtorch: ATen and autograd, unless they ask
// for all of it. Optional values are std::optional where libtorch uses that itself, for
// the names in c10 are on their way out.
const libtorchHeader = `// Written by fitgotch.
#pragma once
#include <torch/version.h>
#ifdef SHIM_WHOLE_TORCH
#include <torch/script.h>
#include <torch/torch.h>
#else
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/types.h>
#endif
#include <optional>
namespace shim {
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 5
using std::nullopt;
using std::optional;
#else
using c10::nullopt;
using c10::optional;
#endif
} // namespace shim
`

var (
	shimLine       = regexp.MustCompile(`(?m)^(?:In file included from )?` + regexp.QuoteMeta(shimSources) + `:(\d+):`)
	linkerFunction = regexp.MustCompile("in function [`']([A-Za-z0-9_]+)'")
)

// blamedFunctions are the shim's functions that a compiler or a linker complains of: it
// names lines of their source, also below an error in a header that they have
// instantiated, or the functions themselves.
func blamedFunctions(output, source string, needs map[string]string) []string {
	blamed := map[string]bool{}
	for _, m := range linkerFunction.FindAllStringSubmatch(output, -1) {
		if _, needed := needs[m[1]]; needed {
			blamed[m[1]] = true
		}
	}
	all := definitions(source)
	for _, m := range shimLine.FindAllStringSubmatch(output, -1) {
		number, err := strconv.Atoi(m[1])
		if err != nil {
			continue
		}
		for _, d := range all {
			if _, needed := needs[d.name]; needed && d.line <= number && number < d.line+1+strings.Count(d.text, "\n") {
				blamed[d.name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(blamed))
}
