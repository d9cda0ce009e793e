package thirdparty

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
	before        string   // what stands for a part of a machine that a test has not
	after         func(t *testing.T, dir, home string)
}{
	{path: "README.md", torch: true, files: everybodys,
		small: map[string]string{"train": "--epochs 1 --set data.size=64 --threads 1"}},
	{path: "docs/tutorials/froc-in-five-minutes.md"},
	{path: "docs/tutorials/my-scans-and-reports.md", torch: true, files: everybodys,
		then:  []string{"docs/tutorials/report-page.md", "docs/how-to/attributes.md", "docs/how-to/export.md", "docs/how-to/cluster.md"},
		small: map[string]string{"train": "--epochs 1 --set data.size=64 --threads 1"},
		// A site's module puts its Python in the path.
		before: "module() { test \"$*\" = 'load pytorch' && PATH=/usr/bin:$PATH; }", after: aJobIsStoppedAndGoesOn},
	{path: "docs/how-to/install.md", torch: true, files: aRelease},
	{path: "docs/how-to/gpu.md", torch: true, after: aGPUThatIsNotThereIsRefused},
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

// block is a part of a page in fences. Those in sh are commands, those in bash a file, named in
// the line before, whole programs in go the main.go of the plugin that they name; those without a
// language are what the commands before print.
type block struct {
	language, text string
	name           string // of a file
	why            string // a test does not run it
}

var (
	fences = regexp.MustCompile("(?ms)^ *```([a-z]*)\n(.*?)^ *```\n")
	notRun = regexp.MustCompile(`<!-- not run: (.*) -->\n+\z`)
	isFile = regexp.MustCompile("`([a-z.]+)`:\n+\\z")
	setIn  = regexp.MustCompile(`\A\n*(?: {4}|\t)`)
	linked = regexp.MustCompile(`(?m)^\[[^]\n]+\]: .*\n`) // where a link of the text leads: nobody sees it
)

// blocksOf reads the fenced parts of a page, and what stands between them.
func blocksOf(page string) (all []block, prose string) {
	at := 0
	for _, m := range fences.FindAllStringSubmatchIndex(page, -1) {
		before := page[at:m[0]]
		b := block{language: page[m[2]:m[3]], text: page[m[4]:m[5]]}
		if found := notRun.FindStringSubmatch(before); found != nil {
			b.why = found[1]
		}
		if found := isFile.FindStringSubmatch(before); found != nil {
			b.name = found[1]
		}
		all, prose, at = append(all, b), prose+before, m[1]
	}
	return all, prose + page[at:]
}

var update = flag.Bool("update", false, "write testdata/notrun.txt anew")

// guided are the pages whose parts other tests follow.
var guided = map[string]string{
	"docs/how-to/write-a-plugin.md":     "TestTheGuide…",
	"docs/tutorials/reading-results.md": "has no commands",
}

// TestEveryCommandIsRunOrSaysWhyNot reads the README, the tutorials and the how-tos: a block of
// commands is run by a test, or says in the page why not, and is then in testdata/notrun.txt.
func TestEveryCommandIsRunOrSaysWhyNot(t *testing.T) {
	followed := map[string]bool{}
	for _, page := range pages {
		for _, path := range append(page.then, page.path) {
			followed[path] = true
		}
	}
	names := []string{"README.md"}
	for _, folder := range []string{"tutorials", "how-to"} {
		found, err := filepath.Glob(root + "/docs/" + folder + "/*.md")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			names = append(names, "docs/"+folder+"/"+filepath.Base(name))
		}
	}
	var list strings.Builder
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if lines := 1 + strings.Count(strings.TrimSpace(linked.ReplaceAllString(string(text), "")), "\n"); name == "README.md" && lines > 70 {
			t.Errorf("the README has %d lines, want at most 70", lines)
		}
		if !followed[name] && guided[name] == "" {
			t.Errorf("%s is followed by no test", name)
		}
		all, prose := blocksOf(string(text))
		for paragraph := range strings.SplitSeq(prose, "\n\n") {
			if setIn.MatchString(paragraph) {
				t.Errorf("%s: commands stand between fences, not set in:\n%s", name, paragraph)
			}
		}
		for i, b := range all {
			switch {
			case b.why != "":
				for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", "")) {
					if b.language == "" && !strings.HasPrefix(line, "make ") {
						continue // what it prints; its figures are held by tools/results
					}
					fmt.Fprintf(&list, "%s: %s: %s\n", name, b.why, strings.Join(strings.Fields(line), " "))
				}
				if out, err := exec.Command("sh", "-n", "-c", b.text).CombinedOutput(); err != nil && b.language == "sh" {
					t.Errorf("%s: %s\n%s", name, out, b.text)
				}
			case b.language == "bash" && b.name == "":
				t.Errorf("%s: a script without a name:\n%s", name, b.text)
			case b.language == "" && (i == 0 || all[i-1].language != "sh" || all[i-1].why != ""):
				t.Errorf("%s: this is printed by no command that is run:\n%s", name, b.text)
			}
		}
	}
	golden, err := os.ReadFile("testdata/notrun.txt")
	if *update {
		err = os.WriteFile("testdata/notrun.txt", []byte(list.String()), 0o644)
		golden = []byte(list.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), list.String()); diff != "" {
		t.Errorf("testdata/notrun.txt names what no test runs (-want +got):\n%s", diff)
	}
}

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
				has(t, home, append([]string{"a3d", "itfusion", "sum"}, page.plugins...)...)
				// Who unpacks a release has torch in a virtual environment.
				shell(t, dir, home, "mkdir -p "+home+"/torch/bin "+home+"/torch/lib/python3.11/site-packages && ln -s "+debianPython+" "+home+"/torch/bin/python3 && ln -s /usr/lib/python3/dist-packages/torch "+home+"/torch/lib/python3.11/site-packages/torch")
			}
			commands := []string{page.before}
			shown := []*regexp.Regexp{nil}
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
			if page.after != nil {
				page.after(t, dir, home)
			}
		})
	}
}

// readPage returns the blocks of commands of a page, and patterns of what the page shows after
// each, nil where it shows nothing.
func readPage(text string, small map[string]string) (commands []string, shown []*regexp.Regexp) {
	all, _ := blocksOf(text)
	for _, b := range all {
		switch {
		case b.why != "":
		case b.language == "sh":
			commands, shown = append(commands, shorten(b.text, small)), append(shown, nil)
		case b.language == "bash":
			commands, shown = append(commands, "cat > "+b.name+" <<'end of a file'\n"+b.text+"end of a file\n"), append(shown, nil)
		case b.language == "go" && command.MatchString(b.text):
			name := command.FindStringSubmatch(b.text)[1]
			commands, shown = append(commands, "cat > "+name+"/main.go <<'end of a file'\n"+b.text+"end of a file\n"), append(shown, nil)
		case b.language == "" && len(commands) > 0 && shown[len(shown)-1] == nil:
			shown[len(shown)-1] = pattern(b.text)
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
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+home, "HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.Split(string(out), mark+"\n")
}

// everybodys are the tables of who has a detector, the scans of who has none, and a release.
func everybodys(t *testing.T, dir string) {
	t.Helper()
	predictionsOfOthers(t, dir)
	scansAndReports(t, dir)
	aRelease(t, dir)
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
