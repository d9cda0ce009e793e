package thirdparty

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// mistakes are the parts of docs/reference/errors.md: a command, its answer, its exit code.
var mistakes = regexp.MustCompile(`(?m)^\$ (.*)\n((?:.*\n)*?)\[exit (\d+)\]$`)

// TestErrorIndex makes each mistake of docs/reference/errors.md, in a folder where everything else
// is right: it is answered in at most three lines, as the page says, and nothing is written.
func TestErrorIndex(t *testing.T) {
	t.Parallel()
	needGotch(t)
	page, err := os.ReadFile(root + "/docs/reference/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, home := t.TempDir(), t.TempDir()
	predictionsOfOthers(t, dir)
	scansAndReports(t, dir)
	for name, text := range map[string]string{
		"noscore.csv":  "image,x1,y1,x2,y2\na,29,41,50,61\n",
		"otherids.csv": "image,x1,y1,x2,y2,score\ncase_a.png,29,41,50,61,0.91\ncase_b.png,101,79,119,98,0.85\ncase_c.png,1,1,9,9,0.4\n",
		"turned.csv":   "image,x1,y1,x2,y2,score\na,29,41,50,61,0.91\nb,119,98,101,79,0.85\n",
		"notext.csv":   "id,age\np00,61\n",
		"twice.csv":    "id,report\np00,Nodule.\np00,No nodule.\n",
		"others.csv":   "id,report\nx1,Nodule.\nx2,No nodule.\n",
		"scans.csv":    "id,volume,label\na,ct/volumes/p00.nii,x\n",
		"beyond.csv":   "id,volume,label,x1,y1,z1,x2,y2,z2\na,ct/volumes/p00.nii,x,50,5,1,90,9,3\n",
		"phases.csv":   "id,volume.art,volume.ven,label\na,,,x\n",
		"twos.csv":     "id,image,split,label.cyst\na,slides/patches/S00001_1/0_0.png,train,1\nb,slides/patches/S00001_1/0_1.png,train,2\n",
		"before.csv":   "id,image,split,time,event\na,slides/patches/S00001_1/0_0.png,train,3,1\nb,slides/patches/S00001_1/0_1.png,train,-1,1\n",
		"without.csv":  "patch,label\na.png,x\n",
		"stained.csv":  "patch,slide,stain,label\na.png,s,HE,x\nb.png,s,PAS,y\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	has(t, home, "a3d", "itfusion")
	shell(t, dir, home, `alignedfusion data import scans --out ct --boxes boxes.csv --coordinates lps
alignedfusion data split volumes:ct --ratio 50,25,25 --seed 1
alignedfusion data synth --layout deeplesion --out deep --patients 6 --size 96
alignedfusion data synth --layout slides --out slides --patients 6 --patches 4 --size 16
alignedfusion train --task detect --data deeplesion:deep --fusion none --epochs 1 --set data.size=96 --threads 1 --out run
`)
	all := mistakes.FindAllStringSubmatch(string(page), -1)
	if len(all) < 80 {
		t.Fatalf("%d mistakes, want 80", len(all))
	}
	for _, m := range all {
		command, want, code := m[1], m[2], m[3]
		out, err := user(t, dir, home, "-c", command).CombinedOutput()
		got := 0
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			got = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if strconv.Itoa(got) != code || !pattern(want).MatchString(string(out)) {
			t.Errorf("$ %s\nanswers\n%s[exit %d]\nand the page says\n%s[exit %s]", command, out, got, want, code)
		}
		if lines := strings.Count(string(out), "\n"); lines > 3 || got == 0 {
			t.Errorf("$ %s\nis answered in %d lines and exit code %d", command, lines, got)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "new*")); len(left) > 0 {
		t.Errorf("mistakes wrote %q", left)
	}
}
