// Command lint checks the rules of this repository that general linters do not
// know: which package may import which, that nothing ends the process behind
// its caller's back, that public names are documented, formatting, and that no
// file names a place of the machine it was written on; and that the packages
// without libtorch compile, with their tests, on the other systems named.
//
//	lint [-systems GOOS/GOARCH,…] [root]
//
// It prints file:line: rule: message for each breach and exits 1 if there is one.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

func main() {
	systems := flag.String("systems", "", "type-check for these, GOOS/GOARCH separated by commas")
	flag.Parse()
	root := "."
	if flag.NArg() > 0 {
		root = flag.Arg(0)
	}
	findings, err := lintTree(root)
	for system := range strings.SplitSeq(*systems, ",") {
		if system == "" || err != nil {
			continue
		}
		var found []finding
		found, err = lintSystem(root, system, "./...")
		findings = append(findings, found...)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "lint: %v\n", err)
		os.Exit(2)
	}
	for _, f := range findings {
		fmt.Println(f)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
}

// lintTree checks every file that git tracks, or would track, below root.
func lintTree(root string) ([]finding, error) {
	names, err := listFiles(root)
	if err != nil {
		return nil, err
	}
	var findings []finding
	glossary, err := os.ReadFile(filepath.Join(root, glossaryPage))
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	words := readGlossary(glossary)
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, not yet committed
		}
		if err != nil {
			return nil, err
		}
		if bytes.IndexByte(text, 0) >= 0 {
			continue // not text
		}
		findings = append(findings, lintText(name, text)...)
		findings = append(findings, lintWords(name, text, words)...)
		if isPage(name) {
			findings = append(findings, lintPage(name, text)...)
			findings = append(findings, lintLinks(name, text, func(name string) ([]byte, error) { return readEntry(filepath.Join(root, name)) })...)
		}
		if strings.HasSuffix(name, ".go") {
			found, err := lintGo(name, text)
			if err != nil {
				return nil, err
			}
			findings = append(findings, found...)
		}
	}
	sort.SliceStable(findings, func(i, j int) bool {
		if findings[i].file != findings[j].file {
			return findings[i].file < findings[j].file
		}
		return findings[i].line < findings[j].line
	})
	return findings, nil
}

func listFiles(root string) ([]string, error) {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files in %s: %w", root, err)
	}
	var names []string
	seen := map[string]bool{}
	for name := range strings.SplitSeq(string(out), "\x00") {
		info, err := os.Lstat(filepath.Join(root, name))
		if name == "" || seen[name] || err == nil && !info.Mode().IsRegular() {
			continue
		}
		seen[name] = true
		names = append(names, name)
	}
	return names, nil
}
