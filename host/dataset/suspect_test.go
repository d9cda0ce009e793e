package dataset

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// suspectTable opens a table of sixteen pictures whose column x and labels are given.
func suspectTable(t *testing.T, options string, x, label func(i int) string) (*Dataset, error) {
	t.Helper()
	dir := t.TempDir()
	var rows strings.Builder
	rows.WriteString("id,image,patient,split,label,x\n")
	for i := range 16 {
		name := fmt.Sprintf("%d.png", i)
		write(t, filepath.Join(dir, name), greyPNG(t, 8, 8, func(x, y int) uint8 { return uint8(i + x) }))
		fmt.Fprintf(&rows, "c%d,%s,p%d,%s,%s,%s\n", i, name, i, []string{"train", "train", "val", "test"}[i%4], label(i), x(i))
	}
	write(t, filepath.Join(dir, "t.csv"), rows.String())
	return Open("table:"+filepath.Join(dir, "t.csv")+options, Options{})
}

func cycle(values ...string) func(int) string {
	return func(i int) string { return values[i%len(values)] }
}

// TestColumnsThatAreSeldomMeant: each rule warns of its kind of column, and of no other.
func TestColumnsThatAreSeldomMeant(t *testing.T) {
	ab := func(i int) string { return []string{"a", "b"}[i/4%2] }
	number := func(i int) string { return fmt.Sprint(40 + i%7) }
	for _, test := range []struct {
		name     string
		options  string
		x, label func(int) string
		want     []string // parts of the one warning; none: no warning
	}{
		{"words for missing", "", cycle("arm", "leg", "NA", "?"), ab, []string{`"?" 4 times, "NA" 4 times`, "t.csv:4", "missing=?,NA"}},
		{"declared words", "?missing=na,?", cycle("arm", "leg", "NA", "?"), ab, nil},
		{"words among numbers", "", func(i int) string { return []string{number(i), "unknown"}[i%2] }, ab, []string{`"unknown" 8 times`, "categories of its 8 numbers"}},
		{"one word among numbers", "", func(i int) string { return map[bool]string{true: "forty", false: number(i)}[i == 3] }, ab, []string{`15 cells are numbers and 1 are not`, `"forty"`, "t.csv:5"}},
		{"half words, half numbers", "", func(i int) string { return []string{number(i), "old"}[i%2] }, ab, nil},
		{"spelling of values", "", cycle("Arm", "arm", "leg"), ab, []string{"values of x", `"Arm" 6 times, "arm" 5 times`}},
		{"numbers may be written in two ways", "", cycle("1", "1.0", "2"), ab, nil},
		{"spelling of classes", "", cycle("u", "u", "v", "w", "v"), cycle("MEL", "mel", "NEV"), []string{"classes of label", `"MEL" 6 times, "mel" 5 times`}},
		{"classes as numbers", "", cycle("u", "u", "v", "w", "v"), cycle("1", "1.0", "2"), []string{`"1" 6 times, "1.0" 5 times`}},
		{"a column that is the label", "", func(i int) string { return "is " + ab(i) }, ab, []string{`column "x" tells label`, "16 cases"}},
		{"a column that tells the label but once", "", func(i int) string { return map[bool]string{true: "is b", false: "is " + ab(i)}[i == 0] }, ab, nil},
		{"a name per case", "", func(i int) string { return fmt.Sprintf("A%d", i) }, ab, []string{"different in each of its 16 cells"}},
		{"an accession number", "", func(i int) string { return fmt.Sprint(104200 + 7*i) }, ab, []string{"different in each of its 16 cells"}},
		{"a measurement", "", func(i int) string { return fmt.Sprint(1.5 + float64(i)) }, ab, nil},
		{"an age", "", func(i int) string { return fmt.Sprint(40 + i) }, ab, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := suspectTable(t, test.options, test.x, test.label)
			if err != nil {
				t.Fatal(err)
			}
			if len(test.want) == 0 {
				if len(d.Warnings) > 0 {
					t.Fatal(d.Warnings)
				}
				return
			}
			if len(d.Warnings) != 1 {
				t.Fatalf("%d warnings, want one: %q", len(d.Warnings), d.Warnings)
			}
			for _, part := range test.want {
				if !strings.Contains(d.Warnings[0], part) {
					t.Errorf("%q lacks %q", d.Warnings[0], part)
				}
			}
		})
	}
}

// TestASplitThatIsAlmostAnother: cases under a misspelt split are not dropped in silence.
func TestASplitThatIsAlmostAnother(t *testing.T) {
	for split, want := range map[string]string{"trian": "train", "Train": "train", "tset": "test", "vla": "val", "train2": "", "holdout": "", "external": ""} {
		dir := t.TempDir()
		var rows strings.Builder
		rows.WriteString("id,split,label,x\n")
		for i := range 8 {
			name := []string{"train", "test", split, "val"}[i%4]
			fmt.Fprintf(&rows, "c%d,%s,%s,%s\n", i, name, []string{"u", "v"}[i/4], []string{"a", "b"}[i%2])
		}
		write(t, filepath.Join(dir, "t.csv"), rows.String())
		d, err := Open("table:"+filepath.Join(dir, "t.csv"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Join(d.Warnings, "\n")
		if want == "" && found != "" || want != "" && !(strings.Contains(found, fmt.Sprintf("split %q: its 2 cases (first in", split)) &&
			strings.Contains(found, fmt.Sprintf("did you mean %q", want)) && strings.Contains(found, "t.csv:4")) {
			t.Errorf("%s: %q", split, found)
		}
	}
}

// fortyCases opens a table of forty cases without pictures, of twenty patients, and returns
// its warnings.
func fortyCases(t *testing.T, row func(i int) (patient, split, label, x string)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.csv")
	var rows strings.Builder
	rows.WriteString("id,patient,split,label,x\n")
	for i := range 40 {
		patient, split, label, x := row(i)
		fmt.Fprintf(&rows, "c%d,%s,%s,%s,\"%s\"\n", i, patient, split, label, x)
	}
	write(t, path, rows.String())
	d, err := Open("table:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(d.Warnings, "\n")
}

// TestFortyCasesThatAreSeldomMeant: patterns that a dozen cases would show by chance, and
// what is known from other people's tables.
func TestFortyCasesThatAreSeldomMeant(t *testing.T) {
	ab := func(i int) string { return []string{"a", "b"}[i/4%2] }
	plain := func(i int) string { return []string{"arm", "leg", "face"}[i%3] }
	split := func(i int) string { return []string{"train", "val", "test"}[min(2, i/14)] }
	for _, test := range []struct {
		name                     string
		patient, split, label, x func(i int) string
		want                     string // a part of a warning, "" for none at all
	}{
		{"nothing", nil, nil, nil, nil, ""},
		{"codes for missing", nil, nil, nil, func(i int) string { return []string{fmt.Sprint(3.5 + float64(i)/10), "-999", "4.1", "999"}[i%4] }, `"-999" 10 times, "999" 10 times (first in`},
		{"small numbers are no codes", nil, nil, nil, func(i int) string { return fmt.Sprint(i%5 - 1) }, ""},
		{"decimal commas", nil, nil, nil, func(i int) string { return fmt.Sprintf("%d,%d", 3+i%4, i%3) }, `the first is "3,0"`},
		{"units", nil, nil, nil, func(i int) string { return fmt.Sprintf("%d y", 40+i%9) }, `the first is "40 y"`},
		{"dates", nil, nil, nil, func(i int) string { return fmt.Sprintf("2021-%02d-11", 1+i%7) }, `the first is "2021-01-11"`},
		{"letters composed in two ways", nil, nil, nil, cycle("R\u00fccken", "Ru\u0308cken", "Arm"), "differ only in spelling"},
		{"yes in four ways", nil, nil, nil, cycle("yes", "True", "no", "1", "false"), `"True" 8 times, "yes" 8 times`},
		{"more words for missing", nil, nil, nil, cycle("arm", "#N/A", "not reported", "k.A.", "leg"), `"#N/A" 8 times`},
		{"one value", nil, nil, nil, cycle("CT"), "has one value in its 40 cases"},
		{"no value", nil, nil, nil, cycle(""), "has no value in its 40 cases"},
		{"a word for missing as class", nil, nil, cycle("a", "b", "unknown", "c", "b"), nil, `classes of "label": "unknown" 8 times`},
		{"one word of another language", nil, nil, nil, func(i int) string {
			return map[bool]string{true: "nicht bekannt"}[i%4 == 0] + map[bool]string{true: fmt.Sprint(i % 7)}[i%4 > 0]
		}, `the first is "nicht bekannt"`},
		{"a few numbers and a word are categories", nil, nil, nil, cycle("1", "2", "3", "x"), ""},
		{"nought for missing", nil, nil, nil, func(i int) string { return fmt.Sprint([]int{0, 60 + i%9, 71}[i%3]) }, `"0" 14 times (first in`},
		{"nought among counts", nil, nil, nil, func(i int) string { return fmt.Sprint(i * i % 7) }, ""},
		{"a full stop", nil, nil, nil, cycle("smooth", "smooth.", "rough"), "differ only in spelling"},
		{"filled in one class alone", nil, nil, nil, func(i int) string { return map[string]string{"b": fmt.Sprint("v", i%3)}[ab(i)] }, "where it is filled and where it is empty goes with the class in 40 of 40 cases"},
		{"filled in either class", nil, nil, nil, func(i int) string { return map[bool]string{true: fmt.Sprint("v", i%3)}[i%2 == 0] }, ""},
		{"one class", nil, nil, cycle("a"), nil, `all 40 cases with a label have the class "a"`},
		{"a number per patient", func(i int) string { return fmt.Sprint("p", i/2) }, nil, nil, func(i int) string { return fmt.Sprintf("MRN%04d", i/2) }, "names the patient: each of its 20 values"},
		{"tells the label but once", nil, nil, nil, func(i int) string { return map[bool]string{true: "is b", false: "is " + ab(i)}[i == 0] }, "nearly tells label: its values go with one class each in 39 of 40"},
		{"numbers of classes lie apart", nil, nil, nil, func(i int) string { return fmt.Sprint(float64(i)/100 + map[string]float64{"a": 0.1, "b": 0.7}[ab(i)]) }, "tells label: its numbers of one class all lie apart"},
		{"patients in two splits by another spelling", func(i int) string { return fmt.Sprintf([]string{"p%d", "P%d"}[i/20], i%20) }, nil, nil, nil, "20 patients may be in two splits"},
		{"splits under other words", nil, func(i int) string { return []string{"Train", "validation", "hold-out"}[i/14%3] }, nil, nil, `did you mean "test"?`},
		{"cases without a split", nil, func(i int) string { return []string{"train", ""}[i/20] }, nil, nil, "20 of 40 cases (first in"},
	} {
		t.Run(test.name, func(t *testing.T) {
			or := func(given, usual func(int) string) func(int) string {
				if given == nil {
					return usual
				}
				return given
			}
			patient := or(test.patient, func(i int) string { return fmt.Sprint("p", i) })
			found := fortyCases(t, func(i int) (string, string, string, string) {
				return patient(i), or(test.split, split)(i), or(test.label, ab)(i), or(test.x, plain)(i)
			})
			if test.want == "" && found != "" || !strings.Contains(found, test.want) {
				t.Errorf("warnings %q, want %q", found, test.want)
			}
		})
	}
}

// TestBoxesThatAreSeldomMeant: what boxes:, their images and regions say together.
func TestBoxesThatAreSeldomMeant(t *testing.T) {
	grey := func(i int) string { return greyPNG(t, 32, 32, func(x, y int) uint8 { return uint8(3*x + i) }) }
	for _, test := range []struct{ name, images, boxes, ignore, want string }{
		{"thin boxes", "", "0.png,.1,.1,.4,.4\n1.png,2,2,9,9\n", "", "1 of 2 boxes are less than a pixel wide or high (first in 0.png"},
		{"whole images", "", "0.png,0,0,31,31\n1.png,0,0,31,31\n", "", "2 of 2 boxes are as large as their image"},
		{"metres", ",0.0007", "0.png,2,2,9,9\n", "", "distances of 0, 0.0007, 0.0007 mm"},
		{"another case of letters", "", "0.PNG,2,2,9,9\n", "", `"0.PNG" is not in images.csv; did you mean "0.png"?`},
		{"no ending", "", "1,2,2,9,9\n", "", `did you mean "1.png"?`},
		{"a region outside", "", "0.png,2,2,9,9\n", "0.png,50,50,60,60\n", "ignore.csv:2: the region to ignore lies outside the image 0.png of 32 x 32 pixels"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			head := "image,patient,split"
			if test.images != "" {
				head += ",spacing_mm"
			}
			rows := head + "\n"
			for i := range 2 {
				write(t, filepath.Join(dir, "images", fmt.Sprint(i)+".png"), grey(i))
				rows += fmt.Sprintf("%d.png,p%d,train%s\n", i, i, test.images)
			}
			write(t, filepath.Join(dir, "images.csv"), rows)
			write(t, filepath.Join(dir, "boxes.csv"), "image,x1,y1,x2,y2\n"+test.boxes)
			if test.ignore != "" {
				write(t, filepath.Join(dir, "ignore.csv"), "image,x1,y1,x2,y2\n"+test.ignore)
			}
			d, err := Open("boxes:"+dir, Options{})
			found := fmt.Sprint(err)
			if err == nil {
				found = strings.Join(d.Warnings, "\n")
			}
			if !strings.Contains(found, test.want) {
				t.Errorf("%q, want %q", found, test.want)
			}
		})
	}
}

// TestAFileInTwoSplitsIsSaid: whatever its cases and patients are called.
func TestAFileInTwoSplitsIsSaid(t *testing.T) {
	dir := tableDir(t)
	edit(t, dir, "3,i/3.png", "3,i/1.png")
	for spec, want := range map[string]string{
		"table:" + dir: "1 images are shown in more than one split, for example by 1 in \"train\" (" + dir + ":2) and 3 in \"val\" (" + dir + ":4)",
	} {
		if d := mustOpen(t, spec, Options{}); !strings.Contains(strings.Join(d.Leaks, "\n"), want) {
			t.Errorf("%q, want %q", d.Leaks, want)
		}
	}
	volumes := volumesDir(t)
	edit(t, filepath.Join(volumes, "volumes.csv"), "ras,ras.nii,p_ras,train", "ras,lps.nii,p_ras,test")
	if d := mustOpen(t, "volumes:"+volumes+"?coordinates=lps", Options{}); !strings.Contains(strings.Join(d.Leaks, "\n"), "1 images are shown in more than one split, for example by lps#0") {
		t.Errorf("%q", d.Leaks)
	}
}

// TestSecondCornersInThePlaceOfSides: sides that grow with their corner and reach beyond it.
func TestSecondCornersInThePlaceOfSides(t *testing.T) {
	for name, c := range map[string]struct {
		side func(x int) int
		said bool
	}{"second corners": {func(x int) int { return x + 3 + x%3 }, true}, "sides": {func(x int) int { return 5 + 7*x%11 }, false}} {
		dir := t.TempDir()
		images, boxes := "image,patient,split\n", "image,x,y,w,h\n"
		for i := range 16 {
			x, y := 2+i%13, 1+i%11
			images += fmt.Sprintf("%d.png,p%d,train\n", i, i)
			boxes += fmt.Sprintf("%d.png,%d,%d,%d,%d\n", i, x, y, c.side(x), c.side(y))
			write(t, filepath.Join(dir, "images", fmt.Sprint(i)+".png"), greyPNG(t, 64, 64, func(x, y int) uint8 { return uint8(3*x + i) }))
		}
		write(t, filepath.Join(dir, "images.csv"), images)
		write(t, filepath.Join(dir, "boxes.csv"), boxes)
		if d := mustOpen(t, "boxes:"+dir, Options{}); strings.Contains(strings.Join(d.Warnings, "\n"), "are w and h second corners?") != c.said {
			t.Errorf("%s: %q", name, d.Warnings)
		}
	}
}

// TestSidesInThePlaceOfCorners: width and height under x2 and y2, where none is smaller than x1
// and y1; corners of small lesions, of large ones about the middle and of one place are none.
func TestSidesInThePlaceOfCorners(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	between := func(low, top int) float64 { return float64(low + rng.IntN(top-low)) }
	for name, c := range map[string]struct {
		box  func() (x1, x2 float64)
		said bool
	}{
		"sides":           {func() (x1, x2 float64) { return between(5, 20), between(21, 44) }, true},
		"one side":        {func() (x1, x2 float64) { return between(5, 20), 30 }, true},
		"small lesions":   {func() (x1, x2 float64) { x := between(0, 25); return x, x + between(3, 7) }, false},
		"about a middle":  {func() (x1, x2 float64) { r := between(4, 30); return 32 - r, 32 + r }, false},
		"one place":       {func() (x1, x2 float64) { return 10, between(20, 50) }, false},
		"both of a large": {func() (x1, x2 float64) { return between(0, 20), between(30, 63) }, false},
	} {
		dir := t.TempDir()
		images, boxes, volumes := "image,patient,split\n", "image,x1,y1,x2,y2\n", "id,x1,y1,z1,x2,y2,z2\n"
		for i := range 20 {
			x1, x2 := c.box()
			y1, y2 := c.box()
			z1, z2 := c.box()
			images += fmt.Sprintf("%d.png,p%d,train\n", i, i)
			boxes += fmt.Sprintf("%d.png,%g,%g,%g,%g\n", i, x1, y1, x2, y2)
			volumes += fmt.Sprintf("v,%g,%g,%g,%g,%g,%g\n", x1, y1, z1, x2, y2, z2)
			write(t, filepath.Join(dir, "images", fmt.Sprint(i)+".png"), greyPNG(t, 64, 64, func(x, y int) uint8 { return uint8(3*x + i) }))
		}
		write(t, filepath.Join(dir, "images.csv"), images)
		write(t, filepath.Join(dir, "boxes.csv"), boxes)
		if d := mustOpen(t, "boxes:"+dir, Options{}); strings.Contains(strings.Join(d.Warnings, "\n"), "then name the columns x,y,w,h") != c.said {
			t.Errorf("%s: %q", name, d.Warnings)
		}
		write(t, filepath.Join(dir, "volumes.csv"), "id,path,split\nv,v.nii,train\n")
		write(t, filepath.Join(dir, "boxes.csv"), volumes)
		if err := nifti.Write(filepath.Join(dir, "v.nii"), &nifti.Image{Dim: [3]int{64, 64, 64}, Affine: [12]float64{-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0}, Int16: make([]int16, 1<<18)}); err != nil {
			t.Fatal(err)
		}
		if d := mustOpen(t, "volumes:"+dir, Options{}); strings.Contains(strings.Join(d.Warnings, "\n"), "then give the centre and the sides") != c.said {
			t.Errorf("%s: %q", name, d.Warnings)
		}
	}
}

// TestNamesOfImagesAsOthersWriteThem: backslashes are understood; another case of letters
// and a missing ending are named.
func TestNamesOfImagesAsOthersWriteThem(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pic", "a.png"), greyPNG(t, 8, 8, func(x, y int) uint8 { return uint8(x) }))
	for name, want := range map[string]string{`pic\a.png`: "", "pic/A.PNG": `did you mean "a.png"?`, "pic/a": `did you mean "a.png"?`, "Pic/a.png": `did you mean "pic"?`} {
		write(t, filepath.Join(dir, "t.csv"), "id,image,split,label\nc,"+name+",train,a\n")
		_, err := Open("table:"+filepath.Join(dir, "t.csv"), Options{})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestValuesThatAreNoHounsfieldUnits: what an image holds tells how it was written wrongly.
func TestValuesThatAreNoHounsfieldUnits(t *testing.T) {
	for _, test := range []struct {
		seen []values
		want string
	}{
		{[]values{{path: "a", low: -32768, high: 32767, units: true}}, "written as numbers without a sign"},
		{[]values{{path: "a", low: 0, high: 0.9, units: true}}, "values between 0 and 1 are no Hounsfield units"},
		{[]values{{path: "a", low: 31744, high: 35839, units: true}}, "stored as HU + 32768: subtract"},
		{[]values{{path: "a", low: -1000, high: 900, units: true}, {path: "b", low: 0, high: 200, units: false}}, "1 of 2 slices are no Hounsfield units but 8-bit grey, the first is b"},
		{[]values{{path: "a", low: -1000, high: 900, units: true}}, ""},
	} {
		warnings, err := judge(test.seen, ctWindow)
		found := strings.Join(warnings, "\n")
		if err != nil {
			found = err.Error()
		}
		if test.want == "" && found != "" || !strings.Contains(found, test.want) {
			t.Errorf("%v: %q, want %q", test.seen, found, test.want)
		}
	}
}

// TestSlicesOfTwoSeries: names that begin in two ways, and copies, are not taken as one
// series in silence.
func TestSlicesOfTwoSeries(t *testing.T) {
	for _, test := range []struct{ names, want string }{
		{"a1 a2 b1 b2", `"a", "b"`}, {"001 002 002_copy", `"", "002_copy"`}, {"s1 s2 s3", ""},
	} {
		dir := t.TempDir()
		for i, name := range strings.Fields(test.names) {
			write(t, filepath.Join(dir, name+".png"), greyPNG(t, 8, 8, func(x, y int) uint8 { return uint8(i + x) }))
		}
		d, err := Open("slices:"+dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		found := strings.Join(d.Warnings, "\n")
		if strings.Contains(found, "begin in 2 ways") != (test.want != "") || !strings.Contains(found, test.want) {
			t.Errorf("%s: %q, want %q", test.names, found, test.want)
		}
	}
}
