package synth_test

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
)

func rows(t *testing.T, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, r := range all[1:] {
		m := map[string]string{}
		for i, name := range all[0] {
			m[name] = r[i]
		}
		out = append(out, m)
	}
	return out
}

func make24(t *testing.T, seed uint64) (string, *synth.Summary) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "set")
	s, err := synth.DeepLesion(context.Background(), dir, synth.DeepLesionOptions{Patients: 24, Size: 96, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func hu(t *testing.T, path string) *image.Gray16 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return img.(*image.Gray16)
}

// TestDeepLesionIsReadAsTheRealOne: the set opens without a complaint, splits are by
// patient, and neighbours reach 6 mm on either side.
func TestDeepLesionIsReadAsTheRealOne(t *testing.T) {
	dir, summary := make24(t, 1)
	d, err := dataset.Open("deeplesion:"+dir, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Warnings) > 0 {
		t.Errorf("warnings %v", d.Warnings)
	}
	if len(d.Cases) != 48 || summary.Cases["train"]+summary.Cases["val"]+summary.Cases["test"] != 48 {
		t.Errorf("%d cases, %+v", len(d.Cases), summary)
	}
	splitOf := map[string]string{}
	for _, c := range d.Cases {
		if first, ok := splitOf[c.Patient]; ok && first != c.Split {
			t.Errorf("patient %s is in %s and %s", c.Patient, first, c.Split)
		}
		splitOf[c.Patient] = c.Split
		reach := int(math.Ceil(6 / c.SpacingMM[0]))
		for _, n := range []int{c.KeySlice - reach, c.KeySlice + reach} {
			path := filepath.Join(filepath.Dir(c.Images[dataset.Volume]), pad3(n)+".png")
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
		if len(c.Boxes) < 1 || len(c.Boxes) > 2 || len(c.RECIST) != len(c.Boxes) {
			t.Errorf("%s has %d boxes, %d diameters", c.ID, len(c.Boxes), len(c.RECIST))
		}
	}
	for split, want := range map[string]int{"train": 36, "val": 4, "test": 8} {
		if got := d.Splits()[split]; got != want {
			t.Errorf("%s: %d cases, want %d", split, got, want)
		}
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.txt"))
	if err != nil || !strings.HasPrefix(string(readme), "SYNTHETIC DATA.") {
		t.Errorf("README: %.40s, %v", readme, err)
	}
}

func pad3(n int) string {
	s := strconv.Itoa(n)
	return strings.Repeat("0", max(0, 3-len(s))) + s
}

// TestSliceShowsLesionsAndLookAlikes measures the written pixels: every object stands
// out by its density on the key slice; 5 mm away lesions and harmless blobs are gone
// and vessels are still there.
func TestSliceShowsLesionsAndLookAlikes(t *testing.T) {
	dir, _ := make24(t, 2)
	d, err := dataset.Open("deeplesion:"+dir, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]dataset.Case{}
	for _, c := range d.Cases {
		cases[c.ID] = c
	}
	mean := func(img *image.Gray16, x, y float64) float64 {
		sum, n := 0.0, 0.0
		for dy := -1; dy <= 1; dy++ {
			for dx := -1; dx <= 1; dx++ {
				sum += float64(img.Gray16At(int(math.Round(x))+dx, int(math.Round(y))+dy).Y) - 32768
				n++
			}
		}
		return sum / n
	}
	seen := map[string]int{}
	for _, r := range rows(t, filepath.Join(dir, "synthetic_truth.csv")) {
		c := cases[r["File_name"]]
		var box [4]float64
		for i, name := range []string{"x1", "y1", "x2", "y2"} {
			if box[i], err = strconv.ParseFloat(r[name], 64); err != nil {
				t.Fatal(err)
			}
		}
		x, y := (box[0]+box[2])/2, (box[1]+box[3])/2
		sign := 1.0
		if r["shown_density"] == "hypodense" {
			sign = -1
		}
		key := mean(hu(t, c.Images[dataset.Volume]), x, y)
		if sign*(key-60) < 120 {
			t.Errorf("%s: a %s %s of %.0f HU does not stand out", c.ID, r["shown_density"], r["kind"], key)
		}
		steps := int(math.Ceil(5.6 / c.SpacingMM[0]))
		away := mean(hu(t, filepath.Join(filepath.Dir(c.Images[dataset.Volume]), pad3(c.KeySlice+steps)+".png")), x, y)
		if gone := sign*(away-60) < 100; gone != (r["kind"] != "vessel") {
			t.Errorf("%s: %s has %.0f HU on the key slice and %.0f HU %g mm away", c.ID, r["kind"], key, away, float64(steps)*c.SpacingMM[0])
		}
		// The slice does not tell lesions: the other density is harmless.
		if (r["kind"] == "lesion") != (r["shown_density"] == r["density"]) && r["kind"] != "vessel" {
			t.Errorf("%s: %s is %s although the report says %s", c.ID, r["kind"], r["shown_density"], r["density"])
		}
		seen[r["kind"]]++
	}
	for _, kind := range []string{"lesion", "harmless", "vessel"} {
		if seen[kind] < 48 {
			t.Errorf("%d of kind %s on 48 slices", seen[kind], kind)
		}
	}
}

// TestReportCarriesPartOfTheTruth: the density where it is stated, its followers where
// it is not; missing at the rate asked for.
func TestReportCarriesPartOfTheTruth(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	if _, err := synth.DeepLesion(context.Background(), dir, synth.DeepLesionOptions{Patients: 150, KeySlices: 1, Size: 96, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	truth := map[string]string{}
	for _, r := range rows(t, filepath.Join(dir, "synthetic_truth.csv")) {
		truth[r["File_name"]] = r["density"]
	}
	hyper := map[string]bool{"renal cell carcinoma": true, "neuroendocrine tumour": true, "melanoma": true}
	stated, followed, withPrimary, hyperCount := 0, 0, 0, 0
	all := rows(t, filepath.Join(dir, "attributes.csv"))
	for _, r := range all {
		want := truth[r["File_name"]]
		if want == "hyperdense" {
			hyperCount++
		}
		if r["density"] != "" {
			stated++
			if r["density"] != want {
				t.Errorf("%s: report %q, truth %q", r["File_name"], r["density"], want)
			}
		}
		if r["primary"] != "" {
			withPrimary++
			if hyper[r["primary"]] == (want == "hyperdense") {
				followed++
			}
		}
	}
	if share := float64(stated) / float64(len(all)); share < 0.58 || share > 0.82 {
		t.Errorf("density is stated in %.2f of the reports, want about 0.70", share)
	}
	if share := float64(followed) / float64(withPrimary); share < 0.77 || share > 0.95 {
		t.Errorf("the primary follows the density in %.2f, want about 0.86", share)
	}
	if share := float64(hyperCount) / float64(len(all)); share < 0.38 || share > 0.62 {
		t.Errorf("%.2f hyperdense, want about half", share)
	}
}

func TestSameSeedWritesTheSameFiles(t *testing.T) {
	few := func(seed uint64) string {
		dir := filepath.Join(t.TempDir(), "set")
		if _, err := synth.DeepLesion(context.Background(), dir, synth.DeepLesionOptions{Patients: 6, Size: 96, Seed: seed}); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	a, b, c := few(7), few(7), few(8)
	hash := func(dir string) string {
		d, err := dataset.Open("deeplesion:"+dir, dataset.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return d.Hash
	}
	if hash(a) != hash(b) || hash(a) == hash(c) {
		t.Errorf("hashes %s %s, other seed %s", hash(a), hash(b), hash(c))
	}
	name := "Images_png/000005_01_01"
	entries, err := os.ReadDir(filepath.Join(a, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		x, errX := os.ReadFile(filepath.Join(a, name, e.Name()))
		y, errY := os.ReadFile(filepath.Join(b, name, e.Name()))
		if errX != nil || errY != nil || string(x) != string(y) {
			t.Errorf("%s differs (%v, %v)", e.Name(), errX, errY)
		}
	}
}

// TestNothingHalfWritten: an ended context and bad options leave no folder; a folder
// with files is not touched.
func TestNothingHalfWritten(t *testing.T) {
	parent := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := synth.DeepLesion(ctx, filepath.Join(parent, "a"), synth.DeepLesionOptions{Patients: 5, Size: 96}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := synth.Table(ctx, filepath.Join(parent, "b"), synth.TableOptions{Patients: 5}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := synth.DeepLesion(context.Background(), filepath.Join(parent, "c"), synth.DeepLesionOptions{Patients: 2}); err == nil {
		t.Error("2 patients make three splits")
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	full := filepath.Join(parent, "full")
	if err := os.MkdirAll(filepath.Join(full, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := synth.Table(context.Background(), full, synth.TableOptions{Patients: 5}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(full, "mine")); err != nil {
		t.Error(err)
	}
}

// TestTableNeedsBoth: border and growth are independent, so that neither tells the label.
func TestTableNeedsBoth(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	if _, err := synth.Table(context.Background(), dir, synth.TableOptions{Patients: 300, Size: 32, Seed: 4}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open("table:"+filepath.Join(dir, "data.csv"), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Cases) != 300 || len(d.Labels[0].Classes) != 4 {
		t.Fatalf("%d cases, %v", len(d.Cases), d.Labels)
	}
	counts := map[string]int{}
	stated := 0
	for _, c := range d.Cases {
		class := d.Labels[0].Classes[c.Labels["label"]]
		counts[class]++
		if g := c.Attributes.Cell("growth").Raw; g != "" {
			stated++
			if !strings.HasSuffix(class, g) {
				t.Errorf("%s: growth %q, label %q", c.ID, g, class)
			}
		}
	}
	for class, n := range counts {
		if n < 50 || n > 100 {
			t.Errorf("%d of %s, want about 75", n, class)
		}
	}
	if stated < 180 || stated > 240 {
		t.Errorf("growth is stated in %d of 300, want about 210", stated)
	}
}

// The label follows from marks and bits by the rule, and neither side alone tells it.
func TestContextsFollowTheirRules(t *testing.T) {
	for context, rule := range map[string]func(bright [4]bool, bits [8]bool) bool{
		synth.Lookup: func(bright [4]bool, bits [8]bool) bool {
			return bright[map[[2]bool]int{{false, false}: 0, {false, true}: 1, {true, false}: 2, {true, true}: 3}[[2]bool{bits[0], bits[1]}]]
		},
		synth.Additive: func(bright [4]bool, bits [8]bool) bool {
			n := 0
			for _, v := range append(bright[:], bits[:3]...) {
				if v {
					n++
				}
			}
			return n >= 4
		},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if _, err := synth.Table(t.Context(), dir, synth.TableOptions{Patients: 120, Missing: -1, Context: context, NoiseTokens: 5, Seed: 3}); err != nil {
			t.Fatal(err)
		}
		labels := map[string]int{}
		for _, row := range rows(t, filepath.Join(dir, "data.csv")) {
			var bits [8]bool
			for b := range bits {
				bits[b] = row[fmt.Sprintf("bit_%d", b+1)] == "yes"
			}
			bright := brightMarks(t, filepath.Join(dir, row["image"]))
			if got := row["label"] == "bright"; got != rule(bright, bits) {
				t.Errorf("%s, %s: label %s of marks %v and bits %v", context, row["id"], row["label"], bright, bits)
			}
			labels[row["label"]]++
		}
		if labels["bright"] < 40 || labels["dark"] < 40 {
			t.Errorf("%s: labels %v of 120, want about half of each", context, labels)
		}
	}
	for name, o := range map[string]synth.TableOptions{
		"a context":             {Context: "other"},
		"noise without context": {NoiseTokens: 3},
		"too many":              {Context: synth.Lookup, NoiseTokens: 2000},
	} {
		if _, err := synth.Table(t.Context(), filepath.Join(t.TempDir(), "x"), o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// brightMarks finds the four marks in a picture of 3 x 3 squares by their colours.
func brightMarks(t *testing.T, path string) (bright [4]bool) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if img.Bounds().Dx() != 48 {
		t.Fatalf("picture of %d pixels, want three squares of 16", img.Bounds().Dx())
	}
	want := [4][3]float64{{1, 0.25, 0.25}, {0.25, 1, 0.25}, {0.3, 0.3, 1}, {1, 1, 0.2}}
	for mark, colour := range want {
		best := math.Inf(1)
		for cell := range 9 {
			var mean [3]float64
			for y := range 16 {
				for x := range 16 {
					r, g, b, _ := img.At(cell%3*16+x, cell/3*16+y).RGBA()
					for k, v := range []uint32{r, g, b} {
						mean[k] += (float64(v>>8) - 10) / 235 / 256
					}
				}
			}
			for level, is := range map[float64]bool{0.35: false, 1: true} {
				d := 0.0
				for k := range mean {
					d += math.Abs(mean[k] - colour[k]*level)
				}
				if d < best {
					best, bright[mark] = d, is
				}
			}
		}
	}
	return bright
}

// The columns of questions follow the spot, and nothing else of the set changes for them.
func TestQuestionsAreOfTheSpots(t *testing.T) {
	dir := t.TempDir()
	var all [2][]map[string]string
	for k, questions := range []bool{false, true} {
		out := filepath.Join(dir, strconv.Itoa(k))
		if _, err := synth.Table(context.Background(), out, synth.TableOptions{Patients: 60, Size: 32, Questions: questions, Seed: 4}); err != nil {
			t.Fatal(err)
		}
		all[k] = rows(t, filepath.Join(out, "data.csv"))
	}
	events := map[string]int{}
	for i, r := range all[1] {
		for name, v := range all[0][i] {
			if r[name] != v {
				t.Fatalf("row %d: %s is %q, %q without questions", i, name, r[name], v)
			}
		}
		jagged, growing := strings.HasPrefix(r["label"], "jagged"), strings.HasSuffix(r["label"], "growing")
		grade := 1
		for _, is := range []bool{jagged, growing} {
			if is {
				grade++
			}
		}
		mm, err := strconv.ParseFloat(r["size_mm"], 64)
		if err != nil || mm < 0.36*32-0.1 || mm > 0.6*32+0.1 || r["label.grade"] != strconv.Itoa(grade) || (r["label.jagged"] == "1") != jagged {
			t.Errorf("row %d: %v %v", i, r, err)
		}
		events[r["event"]]++
	}
	if events["0"] == 0 || events["1"] < events["0"] || len(events) != 2 {
		t.Errorf("events %v", events)
	}
	_, err := synth.Table(context.Background(), filepath.Join(dir, "c"), synth.TableOptions{Questions: true, Context: synth.Lookup})
	if err == nil || !strings.Contains(err.Error(), "questions are of spots") {
		t.Errorf("%v", err)
	}
}

// With the context order a lesion is wider on the later slices and a look-alike on the earlier
// ones, as much; on the key slice, and in density, they do not differ.
func TestTheOrderOfSlicesTellsLesionsFromLookAlikes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	if _, err := synth.DeepLesion(context.Background(), dir, synth.DeepLesionOptions{Patients: 12, Size: 96, Context: synth.Order, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open("deeplesion:"+dir, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	seen, side := map[string]int{}, map[string]float64{}
	for _, r := range rows(t, filepath.Join(dir, "synthetic_truth.csv")) {
		if r["density"] != r["shown_density"] {
			t.Errorf("%s: %s in a patient whose lesions are %s", r["File_name"], r["shown_density"], r["density"])
		}
		var box [4]float64
		for i, name := range []string{"x1", "y1", "x2", "y2"} {
			if box[i], err = strconv.ParseFloat(r[name], 64); err != nil {
				t.Fatal(err)
			}
		}
		at := 0
		for d.Cases[at].ID != r["File_name"] {
			at++
		}
		c := d.Cases[at]
		step := max(1, int(4/c.SpacingMM[0]))
		area := func(n int) (dense int) {
			img := hu(t, filepath.Join(filepath.Dir(c.Images[dataset.Volume]), pad3(n)+".png"))
			for y := int(box[1]); y <= int(box[3]); y++ {
				for x := int(box[0]); x <= int(box[2]); x++ {
					if v := float64(img.Gray16At(x, y).Y) - 32768 - 45; math.Abs(v) > 130 {
						dense++
					}
				}
			}
			return dense
		}
		if wider := area(c.KeySlice+step) > area(c.KeySlice-step); wider != (r["kind"] == "lesion") {
			t.Errorf("%s: a %s is wider later: %t", r["File_name"], r["kind"], wider)
		}
		seen[r["kind"]]++
		side[r["kind"]] += box[2] - box[0]
	}
	if seen["vessel"] > 0 || seen["lesion"] < 24 || seen["harmless"] < 24 {
		t.Errorf("%v", seen)
	}
	if a, b := side["lesion"]/float64(seen["lesion"]), side["harmless"]/float64(seen["harmless"]); math.Abs(a-b) > 2.5 {
		t.Errorf("boxes of lesions are %.1f pixels wide, of look-alikes %.1f", a, b)
	}
}

// With the context organ lesions lie in the half that the report names and look-alikes in the
// other one; in number, size and density they do not differ, and the liver is the denser half.
func TestTheReportSaysInWhichOrganBlobsCount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	if _, err := synth.DeepLesion(context.Background(), dir, synth.DeepLesionOptions{Patients: 30, Size: 96, Missing: -1, Context: synth.Organ, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open("deeplesion:"+dir, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, r := range rows(t, filepath.Join(dir, "attributes.csv")) {
		told[r["File_name"]] = r["organ"]
	}
	seen, side, organs := map[string]int{}, map[string]float64{}, map[string]int{}
	for _, r := range rows(t, filepath.Join(dir, "synthetic_truth.csv")) {
		x1, err1 := strconv.ParseFloat(r["x1"], 64)
		x2, err2 := strconv.ParseFloat(r["x2"], 64)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		organ := map[bool]string{true: "liver", false: "other"}[x1+x2 < 95]
		if (organ == told[r["File_name"]]) != (r["kind"] == "lesion") || r["shown_density"] != r["density"] {
			t.Errorf("%s says %s: a %s in %s, %s", r["File_name"], told[r["File_name"]], r["kind"], organ, r["shown_density"])
		}
		seen[r["kind"]]++
		side[r["kind"]] += x2 - x1
		organs[told[r["File_name"]]]++
	}
	if seen["vessel"] > 0 || seen["lesion"] < 60 || seen["harmless"] < 60 || organs["liver"] < 50 || organs["other"] < 50 {
		t.Errorf("%v, %v", seen, organs)
	}
	if a, b := side["lesion"]/float64(seen["lesion"]), side["harmless"]/float64(seen["harmless"]); math.Abs(a-b) > 2.5 {
		t.Errorf("boxes of lesions are %.1f pixels wide, of look-alikes %.1f", a, b)
	}
	c, halves := d.Cases[0], [2]float64{}
	img := hu(t, filepath.Join(filepath.Dir(c.Images[dataset.Volume]), pad3(c.KeySlice)+".png"))
	for y := 30; y < 50; y++ {
		for x := range 30 {
			halves[0], halves[1] = halves[0]+float64(img.Gray16At(17+x, y).Y), halves[1]+float64(img.Gray16At(49+x, y).Y)
		}
	}
	if halves[0] <= halves[1] {
		t.Error("the left half is not denser")
	}
}
