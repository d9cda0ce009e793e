package frocreport_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

const worseMarks = `image,x1,y1,x2,y2,score
a,0,0,10,10,0.9
`

// options evaluates the example's marks and worse ones, in a folder of the test's own.
func options(t *testing.T, names ...string) frocreport.Options {
	t.Helper()
	dir := t.TempDir()
	write := func(name, table string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	o := frocreport.Options{Truth: frocio.Source{GroundTruth: write("truth.csv", exampleTruth)}, Protocol: froc.DeepLesion()}
	paths := []string{write("good.csv", exampleMarks), write("worse.csv", worseMarks)}
	for i, name := range names {
		o.Systems = append(o.Systems, frocreport.System{Name: name, Path: paths[i]})
	}
	return o
}

func run(t *testing.T, o frocreport.Options) *frocreport.Report {
	t.Helper()
	r, err := frocreport.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func document(t *testing.T, r *frocreport.Report) map[string]any {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAveragePrecisionByIoUOfPointsIsRefused(t *testing.T) {
	dir := t.TempDir()
	o := frocreport.Options{Truth: frocio.Source{GroundTruth: filepath.Join(dir, "t.csv")}, Protocol: froc.LUNA16(), IoUs: []float64{0.5},
		Systems: []frocreport.System{{Name: "points", Path: filepath.Join(dir, "p.csv")}}}
	for name, text := range map[string]string{"t.csv": "image,x,y,z,radius\na,1,1,1,5\n", "p.csv": "image,x,y,z,score\na,1,1,1,0.9\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := frocreport.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "(--iou): points: no mark can hit anything by the rule iou>=0.5") {
		t.Errorf("error %v", err)
	}
	o.IoUs = nil
	run(t, o)
}

func TestOneSystemStandsAtTheTopWithoutName(t *testing.T) {
	doc := document(t, run(t, options(t, "good")))
	if doc["mean_sensitivity"] == nil || doc["systems"] != nil || doc["name"] != nil {
		t.Errorf("document %v, want the figures at the top level and no name", doc)
	}
}

func TestSeveralSystemsAreComparedWithTheFirstWhereThereAreIntervals(t *testing.T) {
	o := options(t, "good", "worse")
	if doc := document(t, run(t, o)); len(doc["systems"].([]any)) != 2 || doc["comparison"] != nil || doc["bootstrap"] != nil {
		t.Errorf("without replicates: %v, want two systems and no comparison", doc)
	}
	o.Resample = resample.Options{Replicates: 20, Seed: 1}
	r := run(t, o)
	if c := r.Document.Comparison; len(c) != 1 || c[0].A != "good" || c[0].B != "worse" || c[0].Mean.Value >= 0 {
		t.Errorf("comparison %+v, want worse - good below 0", c)
	}
	if notes := strings.Join(r.Document.Warnings, "\n"); !strings.Contains(notes, "only 2 patients to resample") {
		t.Errorf("notes %q, want a warning of few patients", notes)
	}
}

func TestTextNamesEverySystem(t *testing.T) {
	var b bytes.Buffer
	if err := run(t, options(t, "good", "worse")).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"protocol deeplesion", "\ngood\n", "\nworse\n", "2 lesions, 2 found", "2 lesions, 1 found"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("text without %q:\n%s", want, b.String())
		}
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(*frocreport.Options){
		"two systems are called": func(o *frocreport.Options) { o.Systems[1].Name = o.Systems[0].Name },
		"no system":              func(o *frocreport.Options) { o.Systems = nil },
		"1 replicates":           func(o *frocreport.Options) { o.Resample.Replicates = 1 },
		"ascend":                 func(o *frocreport.Options) { o.Protocol.FPPI = []float64{1, 0.5} },
	} {
		o := options(t, "good", "worse")
		spoil(&o)
		if _, err := frocreport.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestGateIsMissedBelowItsValueByTheSystemNamed(t *testing.T) {
	r := run(t, options(t, "good", "worse"))
	for text, missed := range map[string]string{
		"@0=0.5": "", "@0=0.51": "good: sensitivity at 0 is 0.500000, below the gate of 0.51",
		"@1=0.6": "worse: sensitivity at 1 is 0.500000", "ap=0.9": "worse: ap is", "afroc=0.9": "worse: afroc is", "afroc1=0.9": "worse: afroc1 is",
	} {
		gate, err := frocreport.ParseGate(text)
		if err != nil {
			t.Fatal(err)
		}
		err = r.Check([]frocreport.Gate{gate})
		if (err == nil) != (missed == "") || err != nil && !strings.Contains(err.Error(), missed) {
			t.Errorf("gate %s: %v, want %q", text, err, missed)
		}
	}
	for _, text := range []string{"mean", "mean=x", "mean=NaN", "nonsense=1", "@x=1", "@-1=1"} {
		if _, err := frocreport.ParseGate(text); err == nil {
			t.Errorf("gate %q was taken", text)
		}
	}
}

func TestTablesOfSeveralSystemsHaveTheirNamesBeforeTheEnding(t *testing.T) {
	r := run(t, options(t, "good", "worse"))
	dir := t.TempDir()
	if err := r.SaveTable(filepath.Join(dir, "f.csv"), frocreport.FalsePositives); err != nil {
		t.Fatal(err)
	}
	for name, lines := range map[string]int{"f.good.csv": 2, "f.worse.csv": 1} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.Count(string(text), "\n") != lines {
			t.Errorf("%s: %q, %v, want %d lines", name, text, err, lines)
		}
	}
}

// Files that were written in another way than they are read find far less than they could:
// the warning says which way. Marks that are only bad are not warned of.
func TestMisreadFilesAreSaidEvenWhereMarksTouchLesions(t *testing.T) {
	const corners = "image,x1,y1,x2,y2%s\n"
	lesions := [][4]float64{{10, 100, 30, 130}, {20, 60, 50, 80}, {200, 40, 220, 60}, {100, 100, 120, 120}}
	for _, c := range []struct {
		name, want string
		mark       func(b [4]float64) [4]float64
	}{
		{"as they are", "", func(b [4]float64) [4]float64 { return b }},
		{"elsewhere", "", func(b [4]float64) [4]float64 { return [4]float64{b[0] - 14, b[1] + 14, b[2] - 14, b[3] + 14} }},
		{"swapped", "x and y seem to be swapped", func(b [4]float64) [4]float64 { return [4]float64{b[1], b[0], b[3], b[2]} }},
		{"shares", "the marks seem to be normalised", func(b [4]float64) [4]float64 { return [4]float64{b[0] / 512, b[1] / 512, b[2] / 512, b[3] / 512} }},
		{"resized", "times 2 they lie on the lesions", func(b [4]float64) [4]float64 { return [4]float64{b[0] / 2, b[1] / 2, b[2] / 2, b[3] / 2} }},
		{"sides", "x1,y1,x2,y2 that were read as x,y,width,height", func(b [4]float64) [4]float64 { return [4]float64{b[0], b[1], b[0] + b[2], b[1] + b[3]} }},
	} {
		truth, marks := strings.Replace(corners, "%s", "", 1), strings.Replace(corners, "%s", ",score", 1)
		for i, b := range lesions {
			m := c.mark(b)
			truth += fmt.Sprintf("%d,%v,%v,%v,%v\n", i, b[0], b[1], b[2], b[3])
			marks += fmt.Sprintf("%d,%v,%v,%v,%v,0.%d\n", i, m[0], m[1], m[2], m[3], i+1)
		}
		warnings := warningsOf(t, truth, marks)
		if c.want == "" && len(warnings) > 0 && !strings.Contains(warnings, "do both have one unit") || !strings.Contains(warnings, c.want) {
			t.Errorf("%s: warnings %q, want %q", c.name, warnings, c.want)
		}
	}
}

func TestABadDetectorOfFewLesionsIsNotCalledMisread(t *testing.T) {
	truth := "image,x1,y1,x2,y2\n0,10,12,20,22\n1,60,60,80,90\n2,30,80,50,95\n3,70,20,90,40\n4,15,70,30,90\n"
	// Read as x, y, width and height, the first two lesions become as large as these marks.
	marks := "image,x1,y1,x2,y2,score\n0,8,8,34,38,0.9\n1,50,55,140,150,0.8\n2,0,0,20,20,0.7\n3,0,80,30,99,0.6\n4,60,0,90,30,0.5\n"
	if got := warningsOf(t, truth, marks); strings.Contains(got, "seem to be") {
		t.Errorf("warnings %q", got)
	}
}

func TestClassesThatAreNumberedOtherwiseAreSaid(t *testing.T) {
	truth, marks := "image,class,x1,y1,x2,y2\n", "image,class,x1,y1,x2,y2,score\n"
	for i := range 4 {
		truth += fmt.Sprintf("%d,%d,0,0,9,9\n", i, i)
		marks += fmt.Sprintf("%d,%d,0,0,9,9,0.%d\n", i, i+1, i+1)
	}
	if got := warningsOf(t, truth, marks); !strings.Contains(got, "are the numbers of classes the same in both files") {
		t.Errorf("warnings %q", got)
	}
}

// warningsOf evaluates two tables by the preset strict.
func warningsOf(t *testing.T, truth, marks string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"t.csv": truth, "p.csv": marks} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := run(t, frocreport.Options{
		Truth: frocio.Source{GroundTruth: filepath.Join(dir, "t.csv")}, Protocol: froc.StrictProtocol(),
		Systems: []frocreport.System{{Name: "p", Path: filepath.Join(dir, "p.csv")}},
	})
	return strings.Join(r.Document.Warnings, "\n")
}

// Boxes at whole pixels are no shares of sides, however near to 0 they lie.
func TestOnlyBrokenNumbersUpToOneAreTakenForShares(t *testing.T) {
	truth := "image,x1,y1,x2,y2\na,100,100,130,130\n"
	for marks, want := range map[string]bool{"a,0,0,1,1,0.9\n": false, "a,0.2,0.2,0.25,0.3,0.9\n": true, "a,0.2,0.2,1.4,0.3,0.9\n": false} {
		if got := strings.Contains(warningsOf(t, truth, "image,x1,y1,x2,y2,score\n"+marks), "normalised"); got != want {
			t.Errorf("%q: called normalised: %v, want %v", marks, got, want)
		}
	}
}
