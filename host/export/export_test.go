package export

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/box"
)

const boxes = `image,x1,y1,x2,y2,z1,z2,score,label,key_image
scans,2,1,6,4,1,3,0.9,lesion,scans#2
scans,7,5,10,8,0,1,0.4,ground glass opacity,scans#0
`

// imported is a scan of the importer's tests as a data set, beside its findings.
func imported(t *testing.T, series, findings string) (*dataset.Dataset, *Findings) {
	t.Helper()
	dir := t.TempDir()
	source, out := filepath.Join(dir, "scans"), filepath.Join(dir, "data")
	if err := os.CopyFS(source, os.DirFS(filepath.Join("../dataset/importer/testdata/dicom", series))); err != nil {
		t.Fatal(err)
	}
	if _, err := importer.Import(context.Background(), importer.Options{Source: source, Out: out}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open("volumes:"+out, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "found.csv")
	if err := os.WriteFile(path, []byte(findings), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	f, err := ReadFindings(path, d, 0)
	if err != nil {
		t.Fatal(err)
	}
	return d, f
}

// everything writes all formats into one folder.
func everything(t *testing.T, d *dataset.Dataset, f *Findings) string {
	t.Helper()
	out := t.TempDir()
	o := DICOMOptions{Data: d, Out: out, Recovered: map[string][]Recovered{"scans#2": {{"margin", "spiculated 80 %"}}},
		Algorithm: AlgorithmOf(&runs.Manifest{Version: "1.2", Plugins: []runs.PluginRecord{{Role: "head", Name: "a3d", SHA256: "abc"}}}, "")}
	if _, err := WriteReports(context.Background(), f, o); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteSegmentations(context.Background(), f, "", o); err != nil {
		t.Fatal(err)
	}
	for _, write := range []func(*Findings, *dataset.Dataset, string) ([]string, error){WriteLabelMaps, WriteSlicer, WriteNNDetection} {
		if _, err := write(f, d, out); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestEqualFindingsGiveEqualFiles(t *testing.T) {
	d, f := imported(t, "explicit", boxes)
	a, b := everything(t, d, f), everything(t, d, f)
	files, err := os.ReadDir(a)
	if err != nil || len(files) != 6 {
		t.Fatalf("%d files, want 6: %v", len(files), err)
	}
	for _, file := range files {
		x, _ := os.ReadFile(filepath.Join(a, file.Name()))
		y, err := os.ReadFile(filepath.Join(b, file.Name()))
		if err != nil || string(x) != string(y) {
			t.Errorf("%s differs from one export to the next (%v)", file.Name(), err)
		}
	}
}

func TestDerivedIdentifiersAreUIDsAndDiffer(t *testing.T) {
	seen := map[string]bool{}
	for n := range 1000 {
		u := uid("x", fmt.Sprint(n))
		if len(u) > 64 || !strings.HasPrefix(u, "2.25.") || strings.HasPrefix(u, "2.25.0") || seen[u] {
			t.Fatalf("%q", u)
		}
		seen[u] = true
	}
}

func TestABoxOfFourVoxelsHoldsFour(t *testing.T) {
	for _, c := range []struct {
		low, top    float64
		first, last int
	}{{2, 6, 2, 5}, {1.5, 5.5, 2, 5}, {2.6, 2.7, 3, 3}, {-3, 40, 0, 9}} {
		first, last := inside([3]int{10, 10, 10}, [3]float64{c.low, 0, 0}, [3]float64{c.top, 1, 1})
		if first[0] != c.first || last[0] != c.last {
			t.Errorf("%v to %v: voxels %d to %d, want %d to %d", c.low, c.top, first[0], last[0], c.first, c.last)
		}
	}
}

// TestASlicerBoxHasTheCornersOfTheFinding: 0.7 x 0.8 x 2.5 mm voxels from (-10, -20, 30).
func TestASlicerBoxHasTheCornersOfTheFinding(t *testing.T) {
	for _, series := range []string{"explicit", "tilted"} {
		_, f := imported(t, series, boxes)
		var m markup
		m.place(&f.List[0])
		p := f.List[0].place()
		if series == "explicit" {
			want := markup{Center: [3]float64{-10 + 4*0.7, -20 + 2.5*0.8, 30 + 2*2.5}, Orientation: [9]float64{1, 0, 0, 0, 1, 0, 0, 0, 1}, Size: [3]float64{2.8, 2.4, 7.5}}
			near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-5 && b-a < 1e-5 })
			if diff := cmp.Diff(want, m, near); diff != "" {
				t.Error(diff)
			}
			continue
		}
		for a := range 3 { // sheared: the box around it
			if low := m.Center[a] - m.Size[a]/2; low-p.LowLPS[a] > 1e-9 || p.LowLPS[a]-low > 1e-9 {
				t.Errorf("tilted: axis %d begins at %v, want %v", a, low, p.LowLPS[a])
			}
		}
	}
}

func TestFindingsOfJSONAreThoseOfCSV(t *testing.T) {
	d, f := imported(t, "explicit", boxes)
	path := filepath.Join(t.TempDir(), "found.json")
	text := `{"schema_version": 1, "findings": [
 {"volume": "scans", "image": "scans#0", "x1": 7, "y1": 5, "x2": 10, "y2": 8, "z1": 0, "z2": 1, "score": 0.4, "label": "ground glass opacity"},
 {"volume": "scans", "image": "scans#2", "x1": 2, "y1": 1, "x2": 6, "y2": 4, "z1": 1, "z2": 3, "score": 0.9, "label": "lesion"}]}`
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFindings(path, d, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range f.List {
		if got.List[n] != f.List[n] {
			t.Errorf("%+v, want %+v", got.List[n], f.List[n])
		}
	}
	for _, bad := range []string{`{"schema_version": 1}`, `{"schema_version": 2, "findings": []}`, `[]`, `{"schema_version": 1, "cases": [{"id": "scans#2"}]}`,
		`{"schema_version": 1, "findings": [{"volume": "scans", "x1": 1}]}`} {
		if err := os.WriteFile(path, []byte(bad), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFindings(path, d, 0); err == nil {
			t.Errorf("%s is taken for findings", bad)
		}
	}
}

// Lesions of another split were not searched: as annotations they would count as missed.
func TestCOCOHasTheSplitsOfTheFindingsAlone(t *testing.T) {
	d := &dataset.Dataset{Spec: "boxes:x", Cases: []dataset.Case{{ID: "a", Split: "train"}, {ID: "b", Split: "test"}, {ID: "c", Split: "test"}}}
	for i := range d.Cases {
		d.Cases[i].Boxes = []dataset.Box{{Box: box.Box{X1: 1, Y1: 1, X2: 5, Y2: 5}}}
	}
	for want, findings := range map[string][]Finding{"b c": {{Key: &d.Cases[1], Label: "lesion"}}, "a b c": nil} {
		out := t.TempDir()
		if _, err := WriteCOCO(&Findings{List: findings}, d, out); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(out, "annotations.json"))
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Images []struct {
				Name string `json:"file_name"`
			}
			Annotations []any
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range got.Images {
			names = append(names, i.Name)
		}
		if strings.Join(names, " ") != want || len(got.Annotations) != len(names) {
			t.Errorf("images %v with %d boxes, want %s", names, len(got.Annotations), want)
		}
	}
}

// output runs a peer; one that is not there skips the test.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil || name == "" {
		t.Skipf("no peer %q here; docs/how-to/export.md says what is asked for", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil && name != "dciodvfy" { // which fails for warnings, too
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestPeersReadWhatIsWritten(t *testing.T) {
	d, f := imported(t, "explicit", boxes)
	out := everything(t, d, f)
	report := filepath.Join(out, "scans_sr.dcm")
	t.Run("dciodvfy", func(t *testing.T) {
		for _, name := range []string{"scans_sr.dcm", "scans_seg.dcm"} {
			if text := output(t, out, "dciodvfy", name); strings.Contains(text, "Error") || text == "" {
				t.Errorf("%s: %s", name, text)
			}
		}
	})
	t.Run("dsrdump", func(t *testing.T) {
		text := output(t, out, "dsrdump", "+Pl", report)
		for _, want := range []string{`"Diameter")="2.8`, `"Detection score")="0.9"`, "head: a3d", "spiculated 80 %", "(POLYLINE,2.5/1.5"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	})
	t.Run("python", func(t *testing.T) {
		single, err := ReadFindings(write(t, "one.csv", "image,x1,y1,x2,y2,score,label\nscans#2,2,1,6,4,0.9,lesion\n"), d, 0)
		if err != nil {
			t.Fatal(err)
		}
		d.Cases[2].Boxes = append(d.Cases[2].Boxes, dataset.Box{Box: single.List[0].Box})
		if _, err := WriteCOCO(single, d, out); err != nil {
			t.Fatal(err)
		}
		want := `patient 1234 1.2.826.0.1.3680043.10.99.0
group lesion 1 | Lesion | 3 [[2.5, 1.5], [6.5, 1.5], [6.5, 4.5], [2.5, 4.5], [2.5, 1.5]]
measured Diameter=2.8mm Volume=26.39mm3 Detection score=0.91
group ground glass opacity 2 | ground glass opacity | 2 [[7.5, 5.5], [10.5, 5.5], [10.5, 8.5], [7.5, 8.5], [7.5, 5.5]]
measured Diameter=2.4mm Volume=13.19mm3 Detection score=0.41
segment lesion | 1 3 1 3 2 5 36
segment ground glass opacity | 0 1 5 7 7 9 18
tracked True
labels 0:486 1:36 2:18 [10.0, 20.0, 30.0, 1.0]
coco 5 1.0
`
		if diff := cmp.Diff(want, output(t, ".", os.Getenv("ALIGNEDFUSION_PEERS"), "testdata/readback.py", out)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("cornerstone", func(t *testing.T) {
		dir := os.Getenv("ALIGNEDFUSION_PEERS_NODE")
		if dir == "" {
			t.Skip("no @cornerstonejs/adapters here; docs/how-to/export.md says what is asked for")
		}
		script, err := os.ReadFile("testdata/hydrate.mjs")
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "alignedfusion-hydrate.mjs") // node looks for packages beside the script
		if err := os.WriteFile(name, script, 0o666); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(name)
		text := output(t, dir, "node", name, report)
		for _, want := range []string{"RectangleROI Lesion 1.2.826.0.1.3680043.10.99.1.2 2,1,6,1,2,4,6,4\n", "RectangleROI ground glass opacity 1.2.826.0.1.3680043.10.99.1.0 7,5,10,5,7,8,10,8\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	})
}

// write writes a file of a test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}
