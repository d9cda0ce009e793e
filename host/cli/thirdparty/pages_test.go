package thirdparty

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// pages are the guides that a test follows. small names further flags of a command, so that it
// ends in seconds: the pages show the command for data of a real size.
var pages = []struct {
	path, section string // the section's heading, or "" for the page
	torch, python bool
	plugins       []string                 // installed besides a3d, itfusion and sum
	files         func(*testing.T, string) // what the page says that its reader has
	small         map[string]string
	then          []string // pages that go on in the folder that this one leaves
}{
	{path: "README.md", files: predictionsOfOthers},
	{path: "docs/tutorials/froc-in-five-minutes.md"},
	{path: "docs/tutorials/my-scans-and-reports.md", torch: true, files: scansAndReports,
		then:  []string{"docs/how-to/attributes.md", "docs/how-to/export.md", "docs/how-to/cluster.md"},
		small: map[string]string{"train": "--epochs 1 --set data.size=64 --threads 1"}},
	{path: "docs/tutorials/my-own-fusion.md", torch: true, python: true,
		small: map[string]string{"train": "--epochs 1 --set data.size=96 --threads 1", "data synth": "--patients 8"}},
	{path: "docs/how-to/write-a-plugin.md", section: "### One more fusion", torch: true,
		small: map[string]string{"study detection": "--threads 1", "data synth": "--patients 12"}},
	{path: "docs/tutorials/classify.md", torch: true, plugins: []string{"classifier"},
		small: map[string]string{"data synth": "--patients 20", "train": "--epochs 1 --set data.size=16 --threads 1", "study missing": "--methods itfusion,itfusion+sentence --rates 0 --epochs 1 --seeds 1 --set data.size=16 --threads 1 --bootstrap 50"}},
	{path: "docs/how-to/questions.md", torch: true, plugins: []string{"classifier"},
		small: map[string]string{"data synth": "--patients 40 --size 32", "train": "--epochs 1 --set data.size=32 --set encoder.width=8 --set encoder.layers=3 --threads 1",
			"compare": "--bootstrap 200"}},
	{path: "docs/how-to/studies.md", torch: true, plugins: []string{"classifier"},
		small: map[string]string{"data synth": "--patients 20", "study missing": "--methods none,itfusion --rates 0,0.5 --epochs 1 --seeds 1 --set data.size=16 --threads 1 --bootstrap 50"}},
	{path: "docs/how-to/publish-a-plugin.md", python: true},
	{path: "docs/how-to/resume.md", torch: true, small: map[string]string{"train": "--set data.size=96 --threads 1"}},
	{path: "docs/how-to/isolate.md", torch: true, small: map[string]string{"train": "--set data.size=96 --threads 1"}},
	{path: "docs/how-to/report-a-froc.md", files: predictionsOfOthers},
	{path: "docs/how-to/import.md", files: scansAndReports},
	{path: "docs/how-to/own-lexicon.md", files: scansAndReports},
	{path: "docs/how-to/join-reports.md", torch: true, files: scansAndReports,
		small: map[string]string{"train": "--epochs 1 --set data.size=64 --threads 1"}},
}

// blocks are the parts in fences of a page: commands (sh), what the commands before print, and
// whole programs (go), which take the place of the main.go of the plugin that they name.
var blocks = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```")

// command begins a whole program.
var command = regexp.MustCompile(`^// Command (\w+) `)

// section is a part of a page, up to the next heading; the page for "".
func section(t *testing.T, text, heading string) string {
	t.Helper()
	if heading == "" {
		return text
	}
	_, part, found := strings.Cut(text, "\n"+heading+"\n")
	if !found {
		t.Fatalf("no section %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	for n := 2; n <= len(level); n++ {
		part, _, _ = strings.Cut(part, "\n"+strings.Repeat("#", n)+" ")
	}
	return part
}

// TestPagesWordForWord runs the commands of each page as they stand, in one shell and an empty
// folder, and compares what they print with what the page shows; "…" stands for anything.
func TestPagesWordForWord(t *testing.T) {
	for _, page := range pages {
		t.Run(filepath.Base(page.path), func(t *testing.T) {
			t.Parallel()
			if page.torch {
				needGotch(t)
			}
			if page.python {
				needPython(t)
			}
			dir, home := t.TempDir(), t.TempDir()
			if page.files != nil {
				page.files(t, dir)
			}
			if page.torch {
				plugins, err := ourPlugins()
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range append([]string{"a3d", "itfusion", "sum"}, page.plugins...) {
					shell(t, dir, home, "alignedfusion plugin install "+plugins+"/alignedfusion-plugin-"+name)
				}
			}
			var commands []string
			var shown []*regexp.Regexp
			for _, path := range append([]string{page.path}, page.then...) {
				text, err := os.ReadFile(filepath.Join(root, path))
				if err != nil {
					t.Fatal(err)
				}
				c, s := readPage(section(t, string(text), page.section), page.small)
				if len(c) == 0 {
					t.Fatalf("%s: no commands", path)
				}
				commands, shown = append(commands, c...), append(shown, s...)
			}
			printed := follows(t, dir, home, commands)
			for i, want := range shown {
				if want != nil && !want.MatchString(printed[i]) {
					t.Errorf("after\n%s\nthe page shows\n%s\nand it is\n%s", commands[i], want, printed[i])
				}
			}
		})
	}
}

// readPage returns the blocks of commands of a page, and patterns of what the page shows after
// each, nil where it shows nothing.
func readPage(text string, small map[string]string) (commands []string, shown []*regexp.Regexp) {
	for _, block := range blocks.FindAllStringSubmatch(text, -1) {
		if block[1] == "sh" {
			commands, shown = append(commands, shorten(block[2], small)), append(shown, nil)
		} else if program := command.FindStringSubmatch(block[2]); block[1] == "go" && program != nil {
			commands, shown = append(commands, "cat > "+program[1]+"/main.go <<'END'\n"+block[2]+"END"), append(shown, nil)
		} else if block[1] == "" && len(commands) > 0 && shown[len(shown)-1] == nil {
			shown[len(shown)-1] = pattern(block[2])
		}
	}
	return commands, shown
}

// shorten adds the flags of small to the program's commands of a block; a run that is resumed has
// them already.
func shorten(block string, small map[string]string) string {
	lines := strings.SplitAfter(block, "\n")
	for i, line := range lines {
		for command, flags := range small {
			if strings.HasPrefix(line, "alignedfusion "+command+" ") && !strings.Contains(line, " --resume ") {
				lines[i] = strings.TrimSuffix(line, "\n") + " " + flags + "\n"
			}
		}
	}
	return strings.Join(lines, "")
}

// pattern makes a regular expression of printed lines: a line of "…" stands for any lines, "…"
// within one for anything on it. Blanks at the end of a line do not count.
func pattern(text string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A`)
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?s:.*?)`)
			continue
		}
		b.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", `[^\n]*`) + `[ ]*\n`)
	}
	return regexp.MustCompile(b.String())
}

// follows runs blocks of commands one after the other in one shell and returns what each prints.
func follows(t *testing.T, dir, home string, commands []string) (printed []string) {
	t.Helper()
	const mark = "=== end of a block ==="
	cmd := user(t, dir, home, "-e", "-c", "exec 2>&1\n"+strings.Join(commands, "\necho '"+mark+"'\n"))
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.Split(string(out), mark+"\n")
}

// predictionsOfOthers writes the tables of who has a detector of their own.
func predictionsOfOthers(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(root + "/docs/tutorials/froc-in-five-minutes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range regexp.MustCompile(`(?s)cat > (\w+\.csv) <<'END'\n(.*?)END`).FindAllStringSubmatch(string(text), -1) {
		write(t, filepath.Join(dir, table[1]), table[2])
	}
}

// scansAndReports writes eight volumes with one bright lesion each, their boxes in mm (LPS) and
// a report on each.
func scansAndReports(t *testing.T, dir string) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 1))
	boxes, reports := "id,x1,y1,z1,x2,y2,z2,class\n", "id,report\n"
	if err := os.Mkdir(filepath.Join(dir, "scans"), 0o755); err != nil {
		t.Fatal(err)
	}
	for n := range 8 {
		const side, slices = 64, 9
		v := &nifti.Image{Dim: [3]int{side, side, slices}, Affine: [12]float64{-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 2, 0}, Float32: make([]float32, side*side*slices)}
		x, y, z := 14+random.IntN(32), 14+random.IntN(32), 2+random.IntN(4)
		for i := range v.Float32 {
			v.Float32[i] = float32(int(40 + 12*random.NormFloat64()))
			if a, b, c := i%side-x, i/side%side-y, i/side/side-z; a >= 0 && a < 10 && b >= 0 && b < 10 && c >= 0 && c < 2 {
				v.Float32[i] += 120
			}
		}
		v.Float32[0] = -1000 // air
		name := fmt.Sprintf("p%02d", n)
		if err := nifti.Write(filepath.Join(dir, "scans", name+".nii"), v); err != nil {
			t.Fatal(err)
		}
		boxes += fmt.Sprintf("%s,%d,%d,%d,%d,%d,%d,nodule\n", name, x, y, 2*z, x+9, y+9, 2*z+2)
		reports += fmt.Sprintf("%s,There is a %d mm nodule in the right upper lobe. No calcification.\n", name, 6+random.IntN(14))
	}
	write(t, filepath.Join(dir, "boxes.csv"), boxes)
	write(t, filepath.Join(dir, "reports.csv"), reports)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
