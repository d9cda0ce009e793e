package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// called finds calls of the program in a page: in blocks and between backquotes.
var called = regexp.MustCompile("(?m)(?:^|[`$&;|(/ ])alignedfusion ((?:[^`\n\\\\]|\\\\\n)+)")

// Commands of all pages, also those that no test runs, are ours and have the flags they are shown with.
func TestCommandsOnPagesHaveTheFlagsTheyAreShownWith(t *testing.T) {
	seen := 0
	check := func(name string) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range called.FindAllStringSubmatch(string(text), -1) {
			line := strings.ReplaceAll(m[1], "\\\n", " ")
			line, _, _ = strings.Cut(line, " # ")
			words := strings.Fields(strings.Trim(line, ")"))
			level, cmd := commands(), (*cli.Command)(nil)
			for len(words) > 0 {
				i := slices.IndexFunc(level, func(c *cli.Command) bool { return c.HasName(words[0]) })
				if i < 0 {
					break
				}
				cmd, level, words = level[i], level[i].Subcommands, words[1:]
			}
			if cmd == nil {
				continue // prose, a folder, or the program's own flags
			}
			seen++
			var flags []string
			for _, f := range cmd.Flags {
				flags = append(flags, f.Names()...)
			}
			for _, w := range words {
				if strings.ContainsAny(w, "|&;>)") {
					break // another command
				}
				flag, isFlag := strings.CutPrefix(w, "--")
				flag, _, _ = strings.Cut(strings.TrimRight(flag, ",.…)'\""), "=")
				if isFlag && flag != "" && flag != "help" && !slices.Contains(flags, flag) {
					t.Errorf("%s: alignedfusion %s\n%s has no flag --%s", name, line, cmd.Name, flag)
				}
			}
		}
	}
	for _, folder := range []string{"docs", "examples"} {
		err := filepath.WalkDir(filepath.Join("../..", folder), func(path string, d fs.DirEntry, err error) error {
			if base := filepath.Base(path); err == nil && !d.IsDir() && (filepath.Ext(base) == ".md" || filepath.Ext(base) == ".sh") && base != "errors.md" {
				check(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	check("../../README.md")
	if seen < 150 {
		t.Errorf("%d commands were found", seen)
	}
}
