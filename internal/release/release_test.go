package release

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

func TestWhatIsNotGoHasTheSameVersion(t *testing.T) {
	for file, pattern := range map[string]string{
		"Makefile":     `(?m)^VERSION := ([0-9.]+)-dev`,
		"CHANGELOG.md": `(?m)^## ([0-9.]+)`,
		"CITATION.cff": `(?m)^version: ([0-9.]+)$`,
		"sdk/python/alignedfusion_sdk/__init__.py": `(?m)^__version__ = "([0-9.]+)"$`,
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(pattern).FindSubmatch(text); m == nil || string(m[1]) != Version {
			t.Errorf("%s has %q, want version %s", file, m, Version)
		}
	}
}
