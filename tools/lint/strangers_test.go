package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a stranger has to change to add one of a kind is where the ones that exist stand:
// few files each, generated ones included. Whoever makes, reads or chooses one is not
// counted.
func TestFewFilesAreChangedToAddOne(t *testing.T) {
	for _, kind := range []struct {
		name string
		most int
		// words are written down wherever that one is known.
		words []string
		// and in these files besides, which use it.
		users []string
	}{
		{"port", 2, []string{`"target.recist"`, "TargetRECIST =", "TARGET_RECIST ="}, nil},
		{"dtype", 2, []string{`"FP16"`, `"I16"`, `"<i2"`, `"ShortStorage"`}, nil},
		{"optimizer", 3, []string{"adamw", "beta2"}, []string{"sdk/plugintest/plugintest.go"}},
		{"data layout", 2, []string{`"derm7pt"`, "openDerm7pt"}, nil},
		{"FROC protocol", 1, []string{`"nndetection"`, `"camelyon16"`, `"rexgrounding"`}, []string{"host/cli/export.go"}},
		{"study", 1, []string{`"ablation"`, `Name:  "detection"`}, nil},
		{"method of a study", 1, []string{`"itfusion-noit"`, `"itfusion-norec"`}, nil},
		{"exit code", 1, []string{"quality gate was missed", "{Gate, 7,"}, nil},
	} {
		files := map[string]bool{}
		for _, word := range kind.words {
			found := mentioning(t, word)
			if len(found) == 0 {
				t.Errorf("%s: %s stands nowhere; name one that exists", kind.name, word)
			}
			for _, f := range found {
				files[f] = !slices.Contains(kind.users, f)
			}
		}
		var changed []string
		for f, counts := range files {
			if counts {
				changed = append(changed, f)
			}
		}
		if slices.Sort(changed); len(changed) > kind.most {
			t.Errorf("a new %s changes %d files, want at most %d: %s", kind.name, len(changed), kind.most, strings.Join(changed, ", "))
		}
	}
}

// mentioning returns the sources that contain word, tests left out.
func mentioning(t *testing.T, word string) (files []string) {
	t.Helper()
	const root = "../.."
	for _, room := range []string{"cmd", "eval", "examples", "host", "internal", "plugins", "sdk"} {
		err := filepath.WalkDir(filepath.Join(root, room), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && (d.Name() == "testdata" || d.Name() == "tests") { // Go's and Python's
				return filepath.SkipDir
			}
			source := slices.Contains([]string{".go", ".py", ".tmpl", ".proto"}, filepath.Ext(path))
			if err != nil || d.IsDir() || !source || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if strings.Contains(string(text), word) {
				name, _ := filepath.Rel(root, path)
				files = append(files, filepath.ToSlash(name))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}
