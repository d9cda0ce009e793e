package thirdparty

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var fenced = regexp.MustCompile("(?s)```sh\n(.*?)```")

// guide returns the commands of a section of docs/how-to/write-a-plugin.md, as they stand.
func guide(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile(root + "/docs/how-to/write-a-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("the guide has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	block := fenced.FindStringSubmatch(section)
	if block == nil {
		t.Fatalf("section %q has no commands", heading)
	}
	if n := strings.Count(strings.TrimSpace(block[1]), "\n") + 1; n > 8 {
		t.Errorf("section %q takes %d commands, want at most 8", heading, n)
	}
	return block[1]
}

// shorterThan checks that a file can be read from top to bottom.
func shorterThan(t *testing.T, limit int, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n >= limit {
		t.Errorf("%s has %d lines, want less than %d", path, n, limit)
	}
}

// follow does what a section of the guide says, in an empty folder of a user who has only
// our classifier, then trains by path what the section has trained by name: with the same
// files, the same result. more are further flags of a training with it.
func follow(t *testing.T, heading, path string, more ...string) (project, home string) {
	t.Helper()
	dir := t.TempDir()
	project, home = filepath.Join(dir, "my-head"), filepath.Join(dir, "home")
	has(t, home, "classifier")
	shell(t, dir, home, guide(t, heading))
	train := "alignedfusion train --task classify --data table:data/data.csv --encoder classifier --head " + path + " --epochs 1 --set data.size=32 --out "
	shell(t, project, home, train+`run-by-path
grep -q '"sha256"' run/manifest.json
cmp run/predictions/val/predictions.csv run-by-path/predictions/val/predictions.csv
`)
	for i, flags := range more {
		shell(t, project, home, train+"run-"+string(rune('a'+i))+" "+flags)
	}
	return project, home
}

func TestTheGuideWordForWordInGo(t *testing.T) {
	t.Parallel()
	needGotch(t)
	project, _ := follow(t, "A head in Go", "./bin/my-head")
	shorterThan(t, 150, filepath.Join(project, "main.go"))
	shorterThan(t, 150, root+"/examples/go-head/main.go")
}

func TestTheGuideWordForWordInPython(t *testing.T) {
	t.Parallel()
	needGotch(t)
	needPython(t)
	project, home := follow(t, "A head in Python", "./", "--fusion "+pythonPlugin(t, root+"/examples/python-fusion"))
	shorterThan(t, 150, filepath.Join(project, "plugin.py"))
	shell(t, project, home, guide(t, "Does it fit? Is it right? Is it fast?"))
	shell(t, project, filepath.Join(t.TempDir(), "another's"), guide(t, "Giving it to others"))
}

// A detector as it is begun finds its place in a pipeline with our encoder.
func TestTheGuidesDetectorTrains(t *testing.T) {
	t.Parallel()
	needGotch(t)
	needPython(t)
	dir := t.TempDir()
	has(t, filepath.Join(dir, "home"), "a3d")
	shell(t, dir, filepath.Join(dir, "home"), guide(t, "Other kinds")+
		"grep -q ,lesion, run/predictions/val/predictions.csv\n")
}

// Every block of commands of the guide is followed by one of the tests here.
func TestTheGuideHasNoOtherCommands(t *testing.T) {
	text, err := os.ReadFile(root + "/docs/how-to/write-a-plugin.md")
	if err != nil {
		t.Fatal(err)
	}
	followed := []string{"A head in Go", "A head in Python", "Other kinds", "One more fusion", "Does it fit? Is it right? Is it fast?", "Giving it to others"}
	for _, part := range regexp.MustCompile(`(?m)^##+ `).Split(string(text), -1) {
		heading, _, _ := strings.Cut(part, "\n")
		all, _ := blocksOf(part)
		n := 0
		for _, b := range all {
			if b.language == "sh" && b.why == "" {
				n++
			}
		}
		if n > 1 && heading != "One more fusion" || n > 0 && !slices.Contains(followed, heading) { // that one pages_test.go follows
			t.Errorf("%q has %d blocks of commands that no test follows", heading, n)
		}
	}
}
