package dataset

import (
	"context"
	"errors"
	"fmt"
	"image/color"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/realdata"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// TestDeepLesionCase: what becomes of a row of DL_info.csv.
func TestDeepLesionCase(t *testing.T) {
	dir := deepLesionDir(t)
	write(t, filepath.Join(dir, "attributes.csv"), "File_name,density,note.evidence\n000002_01_01_005.png,hyper,here\n")
	d := mustOpen(t, "deeplesion:"+dir, Options{})
	want := Case{ID: "000002_01_01_005.png", Patient: "000002", Split: "val", HasTargets: true, KeySlice: 5, Stack: "000002_01_01",
		Images: map[string]string{Volume: filepath.Join(dir, "Images_png/000002_01_01/005.png")},
		// The table counts pixels from 1 and gives x before y; cases count from 0.
		Boxes:     []Box{{Box: box.Box{X1: 9, Y1: 10, X2: 29, Y2: 28}, Strata: map[string]string{"diameter_mm": "8.00"}}},
		RECIST:    [][8]float64{{14, 19, 24, 19, 19, 15, 19, 23}},
		SpacingMM: [3]float64{2, 0.7, 0.8}, Size: [2]int{40, 48},
		Strata: map[string]string{"slice_spacing_mm": "2"}, at: place{filepath.Join(dir, "DL_info.csv"), 3}}
	if diff := cmp.Diff(want, d.Cases[1], cmp.AllowUnexported(Case{}, place{}), cmpopts.IgnoreFields(Case{}, "Attributes")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"age": "62.0", "gender": "female", "density": "hyper"}, texts(d.Cases[1].Attributes)); diff != "" {
		t.Error(diff)
	}
	a := d.Cases[1].Attributes
	for name, want := range map[string]string{"age": "DL_info.csv:3", "density": "attributes.csv:2"} {
		if got := a.column(name).origin(a.row); got != filepath.Join(dir, want) {
			t.Errorf("%s was read in %s, want %s", name, got, want)
		}
	}
	if got := fmt.Sprint(d.AttributeColumns, d.Modalities, d.Labels[0].Classes); got != "[age gender density] [volume] [lesion]" {
		t.Error(got)
	}
}

func TestDeepLesionPaperAttributesLeakAndSaySo(t *testing.T) {
	dir := deepLesionDir(t)
	path := filepath.Join(dir, "DL_info.csv")
	edit(t, path, `0.5",-1,0`, `0.5",4,0`)
	// A second, larger lesion on the same slice gives location and size.
	second := strings.NewReplacer(`"15, 20, 25, 20, 20, 16, 20, 24"`, `"10, 20, 30, 20, 20, 16, 20, 24"`, `"10, 8"`, `"20, 8"`, ",-1,0,", ",6,0,").Replace(infoRow("000001_01_01_005.png", 1))
	write(t, path, read(t, path)+second+"\n")
	d := mustOpen(t, "deeplesion:"+dir, Options{Attributes: []string{"paper"}})
	want := map[string]string{"age": "62.0", "gender": "female", "location": "kidney", "size": "16.00"}
	if diff := cmp.Diff(want, texts(d.Cases[0].Attributes)); diff != "" {
		t.Error(diff)
	}
	if d.Cases[1].Attributes.Cell("location").Raw != "" {
		t.Errorf("type -1 is %q, want missing", d.Cases[1].Attributes.Cell("location").Raw)
	}
	if len(d.Cases[0].Boxes) != 2 || len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "leak") {
		t.Errorf("%d boxes, warnings %v", len(d.Cases[0].Boxes), d.Warnings)
	}
	if d := mustOpen(t, "deeplesion:"+dir, Options{Attributes: []string{}}); len(d.AttributeColumns) != 0 || len(d.Warnings) != 0 {
		t.Errorf("%v, %v", d.AttributeColumns, d.Warnings)
	}
}

func TestNoisyLesions(t *testing.T) {
	dir := deepLesionDir(t)
	path := filepath.Join(dir, "DL_info.csv")
	write(t, path, strings.ReplaceAll(read(t, path), `-1,0,"1, 9"`, `-1,1,"1, 9"`))
	for spec, want := range map[string]string{"": "map[train:1 val:1]", "?noisy=keep": "map[test:1 train:1 val:1]"} {
		if got := fmt.Sprint(mustOpen(t, "deeplesion:"+dir+spec, Options{}).Splits()); got != want {
			t.Errorf("%q: %s, want %s", spec, got, want)
		}
	}
	_, err := Open("deeplesion:"+dir+"?noisy=drop", Options{})
	wantError(t, err, "no cases")
}

// TestNaNIsMissingWhenAskedFor: nan=missing reads what otherwise is an error.
func TestNaNIsMissingWhenAskedFor(t *testing.T) {
	dir := deepLesionDir(t)
	edit(t, filepath.Join(dir, "DL_info.csv"), "F,62.0,1", "F,NaN,1")
	d := mustOpen(t, "deeplesion:"+dir+"?nan=missing", Options{})
	if d.Cases[0].Attributes.Cell("age").Raw != "" || d.Cases[1].Attributes.Cell("age").Raw != "62.0" {
		t.Errorf("%v %v", d.Cases[0].Attributes, d.Cases[1].Attributes)
	}
	// An unused age is checked all the same.
	_, err := Open("deeplesion:"+dir, Options{Attributes: []string{}})
	wantError(t, err, "DL_info.csv:2: Patient_age")
}

// TestBoxLeavingTheImageByItsPaddingIsClipped: two official test boxes do.
func TestBoxLeavingTheImageByItsPaddingIsClipped(t *testing.T) {
	dir := deepLesionDir(t)
	edit(t, filepath.Join(dir, "DL_info.csv"), `"10, 11, 30, 29"`, `"-3, 11, 30, 29"`)
	d := mustOpen(t, "deeplesion:"+dir, Options{})
	if b := d.Cases[0].Boxes[0]; b.X1 != 0 || b.Y1 != 10 || b.X2 != 29 {
		t.Errorf("%+v", b)
	}
}

func TestHashCoversTablesAndImages(t *testing.T) {
	dir := deepLesionDir(t)
	first := mustOpen(t, "deeplesion:"+dir, Options{}).Hash
	if again := mustOpen(t, "deeplesion:"+dir, Options{Attributes: []string{"paper"}}).Hash; again != first || len(first) != 64 {
		t.Errorf("%s, then %s", first, again)
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if moved := mustOpen(t, "deeplesion:"+copied, Options{}).Hash; moved != first {
		t.Error("a copy elsewhere has another hash")
	}
	for name, change := range map[string]func(){
		"table": func() { edit(t, filepath.Join(dir, "DL_info.csv"), "62.0", "63.0") },
		"image": func() {
			write(t, filepath.Join(dir, "Images_png/000001_01_01/005.png"), huPNG(t, 48, 40, func(x, y int) int { return 0 }))
		},
		"neighbour": func() { os.Remove(filepath.Join(dir, "Images_png/000001_01_01/003.png")) },
		"report":    func() { write(t, filepath.Join(dir, "attributes.csv"), "File_name,a\n000002_01_01_005.png,b\n") },
	} {
		before := mustOpen(t, "deeplesion:"+dir, Options{}).Hash
		change()
		if after := mustOpen(t, "deeplesion:"+dir, Options{}).Hash; after == before {
			t.Errorf("a changed %s leaves the hash", name)
		}
	}
}

func TestBoxesCases(t *testing.T) {
	d := mustOpen(t, "boxes:"+boxesDir(t), Options{})
	var got []string
	for _, c := range d.Cases {
		got = append(got, fmt.Sprintf("%s %s %s %d %v", c.ID, c.Patient, c.Split, len(c.Boxes), c.HasTargets))
	}
	// c lies in a split without any box: withheld. d is an image without a lesion.
	want := []string{"a.png p1 train 1 true", "b.png p2 val 1 true", "c.png p3 test 0 false", "d.png p1 train 0 true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if fmt.Sprint(d.Labels[0].Classes) != "[nodule]" || len(d.Warnings) != 1 {
		t.Errorf("%v %v", d.Labels, d.Warnings)
	}
}

// TestOneTableOfBoxes: images in the folder named like the table, rows without
// coordinates are images without lesions.
func TestOneTableOfBoxes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "slices.csv")
	write(t, path, "image,patient,part,x1,y1,x2,y2\na.png,p1,train,1,2,5,6\na.png,p1,train,8,2,12,6\nb.png,p1,test,,,,\n")
	for _, n := range []string{"a", "b"} {
		write(t, filepath.Join(dir, "slices", n+".png"), greyPNG(t, 16, 16, func(x, y int) uint8 { return 0 }))
	}
	d := mustOpen(t, "boxes:"+path, Options{})
	if len(d.Cases) != 2 || len(d.Cases[0].Boxes) != 2 || len(d.Cases[1].Boxes) != 0 || !d.Cases[1].HasTargets || d.Cases[1].Split != "test" {
		t.Errorf("%+v", d.Cases)
	}
	if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], `"p1"`) {
		t.Errorf("the patient in two splits is not warned of: %v", d.Warnings)
	}
}

func TestTableColumns(t *testing.T) {
	path := tableDir(t)
	d := mustOpen(t, "table:"+path, Options{})
	if fmt.Sprint(d.AttributeColumns, d.Labels[0].Classes, d.Modalities) != "[age sex] [a b] [image.main]" {
		t.Errorf("%v %v %v", d.AttributeColumns, d.Labels, d.Modalities)
	}
	if c := d.Cases[3]; c.HasTargets || c.Labels["label"] != -1 || c.Attributes.Cell("sex").Raw != "f" {
		t.Errorf("withheld label: %+v", c)
	}
	if c := d.Cases[1]; c.Attributes.Cell("age").Raw != "" || c.Labels["label"] != 0 {
		t.Errorf("missing age: %+v", c)
	}
	// An attribute may be the label; then it is no attribute.
	d = mustOpen(t, "table:"+path+"?labels=sex", Options{})
	if fmt.Sprint(d.AttributeColumns, d.Labels[0].Classes) != "[age] [f m]" || d.Labels[0].Name != "sex" {
		t.Errorf("%v %v", d.AttributeColumns, d.Labels)
	}
	// A run's classes keep their order, and unknown ones are refused.
	d = mustOpen(t, "table:"+path, Options{LabelSets: []sdk.LabelSet{{Name: "label", Classes: []string{"c", "b", "a"}}}})
	if d.Cases[0].Labels["label"] != 1 || len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], `class "c" of label is absent from the training split`) {
		t.Errorf("%v %v", d.Cases[0].Labels, d.Warnings)
	}
	whole := read(t, path)
	write(t, path, strings.NewReplacer("train,b", "train,", "train,a", "train,", "val,a", "val,").Replace(whole))
	d = mustOpen(t, "table:"+path, Options{LabelSets: []sdk.LabelSet{{Name: "label", Classes: []string{"b", "a"}}}})
	if d.Cases[0].Labels["label"] != -1 || len(d.Warnings) > 0 {
		t.Errorf("no label at all: %v %v", d.Cases[0].Labels, d.Warnings)
	}
	write(t, path, whole)
	_, err := Open("table:"+path, Options{LabelSets: []sdk.LabelSet{{Name: "label", Classes: []string{"c", "b"}}}})
	wantError(t, err, `data.csv:3: label: class "a" is unknown; there are "c", "b"`)
	// Without a label column a run's labels are unknown.
	edit(t, path, "label,age", "kind,age")
	d = mustOpen(t, "table:"+path, Options{LabelSets: []sdk.LabelSet{{Name: "label", Classes: []string{"c", "b"}}}})
	if d.Cases[0].Labels["label"] != -1 || d.Cases[0].HasTargets {
		t.Errorf("%+v", d.Cases[0])
	}
}

func TestSeveralPicturesPerCase(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "data.csv"), "id,image.near,image.far,split,label\n1,n.png,f.png,train,x\n")
	write(t, filepath.Join(dir, "n.png"), rgbPNG(t, 10, 20, func(x, y int) color.NRGBA { return color.NRGBA{255, 0, 0, 255} }))
	write(t, filepath.Join(dir, "f.png"), rgbPNG(t, 30, 10, func(x, y int) color.NRGBA { return color.NRGBA{0, 0, 255, 255} }))
	d := mustOpen(t, "table:"+filepath.Join(dir, "data.csv"), Options{})
	b := batches(t, d, d.Cases, LoaderOptions{})[0]
	if b.Tensors["image.near"].String() != "FP32 [1 3 20 10]" || b.Tensors["image.far"].String() != "FP32 [1 3 10 30]" {
		t.Fatalf("%v", b.Tensors)
	}
	if near, far := floats(t, b, "image.near"), floats(t, b, "image.far"); near[0] != 1 || near[2*200] != 0 || far[0] != 0 || far[2*300] != 1 {
		t.Errorf("pixels %g %g, %g %g", near[0], near[400], far[0], far[600])
	}
}

// TestRealDeepLesionCounts: the official test split has 4,927 lesions, 4,912 of them
// on 4,817 key slices without Possibly_noisy.
func TestRealDeepLesionCounts(t *testing.T) {
	rows, err := table.Read(realdata.Path(t, "deeplesion/DL_info_test.csv"))
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[NoisyRule][3]int{NoisyDropTest: {4912, 4817, 663}, NoisyKeep: {4927, 4831, 665}, NoisyDrop: {4912, 4817, 663}} {
		o, _, err := newOpener("deeplesion:"+t.TempDir(), Options{Noisy: rule, Attributes: []string{"paper"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.deepLesionCases([]*deepFolder{{dir: o.path, info: rows}}); err != nil {
			t.Fatal(err)
		}
		o.checkBoxes()
		if err := o.problems.Err(); err != nil {
			t.Fatal(err)
		}
		lesions, patients := 0, map[string]bool{}
		types := map[string]int{}
		for _, c := range o.d.Cases {
			lesions += len(c.Boxes)
			patients[c.Patient] = true
			for _, b := range c.Boxes {
				types[b.Strata["lesion_type"]]++
			}
			if c.Split != "test" || c.Attributes.Cell("location").Raw == "" {
				t.Fatalf("%+v", c)
			}
		}
		if got := [3]int{lesions, len(o.d.Cases), len(patients)}; got != want {
			t.Errorf("rule %q: lesions, slices, patients %v, want %v", rule, got, want)
		}
		if rule == NoisyKeep && (types["abdomen"] != 1173 || types["bone"] != 108 || types["lung"] != 1100) {
			t.Errorf("types %v", types)
		}
	}
}

func TestRealKeySlices(t *testing.T) {
	dir := realdata.Path(t, "deeplesion")
	d := mustOpen(t, "boxes:"+filepath.Join(dir, "key_slices.csv")+"?grey_hu=-1024,3071", Options{})
	boxes := 0
	for _, c := range d.Cases {
		boxes += len(c.Boxes)
	}
	if len(d.Cases) != 50 || boxes != 51 {
		t.Errorf("%d slices, %d boxes", len(d.Cases), boxes)
	}
	b := batches(t, d, d.Cases[:4], LoaderOptions{Batch: 4, Targets: true, Load: LoadOptions{Slices: 7, Size: 256}})[0]
	if b.Tensors[Volume].String() != "FP32 [4 1 7 256 256]" {
		t.Errorf("%v", b.Tensors[Volume])
	}
	v := floats(t, b, Volume)
	low, high := slices.Min(v), slices.Max(v)
	if low < -1024 || low > -900 || high < 200 || high > 3071 {
		t.Errorf("HU from %g to %g", low, high)
	}
	one := mustOpen(t, "slices:"+filepath.Join(dir, "key_slices/000001_01_01_109.jpg"), Options{})
	if len(one.Cases) != 1 || one.Cases[0].Size != [2]int{512, 512} {
		t.Errorf("%+v", one.Cases)
	}
}

func TestRealLungSlices(t *testing.T) {
	report, err := Check(context.Background(), "boxes:"+realdata.Path(t, "lung"), Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 {
		t.Fatal(report.Problems)
	}
	for split, want := range map[string][4]int{"train": {739, 739, 796, 386}, "val": {154, 154, 168, 86}, "test": {285, 0, 0, 129}} {
		s := report.Splits[split]
		if got := [4]int{s.Cases, s.WithTargets, s.Lesions, s.Patients}; got != want {
			t.Errorf("%s: %v, want %v", split, got, want)
		}
	}
	if got := report.Splits["train"].Ignored + report.Splits["val"].Ignored; got != 613 {
		t.Errorf("%d regions to ignore, ignore.csv has 613 rows", got)
	}
}

func TestRealSkinTable(t *testing.T) {
	path := realdata.Path(t, "skin/data.csv")
	report, err := Check(context.Background(), "table:"+path, Options{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 {
		t.Fatal(report.Problems)
	}
	if report.Cases != 1221 || report.Patients != 909 || len(report.AttributeColumns) != 21 || report.Splits["test"].WithTargets != 0 {
		t.Errorf("%d cases, %d patients, attributes %v", report.Cases, report.Patients, report.AttributeColumns)
	}
	counts := map[string]int{}
	for _, s := range report.Splits {
		for class, n := range s.Labels["label"] {
			counts[class] += n
		}
	}
	if fmt.Sprint(counts) != "map[ACK:236 BCC:293 MEL:33 NEV:185 SCC:57 SEK:109]" {
		t.Errorf("classes %v", counts)
	}
}

// TestRealDerm7ptCounts: official splits and the published class table.
func TestRealDerm7ptCounts(t *testing.T) {
	dir := realdata.Path(t, "derm7pt")
	report, err := Check(context.Background(), "derm7pt:"+dir, Options{Attributes: []string{"C"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 {
		t.Fatal(report.Problems)
	}
	for split, want := range map[string]string{
		"train": "map[BCC:19 MEL:90 MISC:32 NEV:256 SK:16]", "val": "map[BCC:7 MEL:61 MISC:25 NEV:100 SK:10]", "test": "map[BCC:16 MEL:101 MISC:40 NEV:219 SK:19]",
	} {
		if got := fmt.Sprint(report.Splits[split].Labels["diagnosis"]); got != want {
			t.Errorf("%s: %s, want %s", split, got, want)
		}
	}
	if len(report.AttributeColumns) != 12 {
		t.Errorf("attributes %v", report.AttributeColumns)
	}
	d := mustOpen(t, "derm7pt:"+dir, Options{Labels: append([]string{"diagnosis"}, derm7ptCriteria...), Attributes: []string{"A"}})
	if len(d.Labels) != 8 || len(d.AttributeColumns) != 3 {
		t.Fatalf("%v %v", d.Labels, d.AttributeColumns)
	}
	if d := mustOpen(t, "derm7pt:"+dir+"?attributes=B", Options{}); len(d.AttributeColumns) != 5 || !strings.Contains(strings.Join(d.Warnings, "\n"), "management is decided after the diagnosis") {
		t.Errorf("%v %v", d.AttributeColumns, d.Warnings)
	}
	values := map[string]bool{}
	for _, c := range mustOpen(t, "derm7pt:"+dir+"?attributes=C", Options{}).Cases {
		for name, v := range c.Attributes.All() {
			values[name+"="+v.Raw] = true
		}
	}
	if len(values) != 48 {
		t.Errorf("%d distinct attribute values, want 48", len(values))
	}
}

// TestDerm7ptRelease: the official layout with images, whose names differ in case.
func TestDerm7ptRelease(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "meta/meta.csv"), `case_num,diagnosis,seven_point_score,pigment_network,streaks,pigmentation,regression_structures,dots_and_globules,blue_whitish_veil,vascular_structures,level_of_diagnostic_difficulty,elevation,location,sex,management,clinic,derm,case_id,notes
1,melanoma (in situ),0,absent,absent,diffuse irregular,absent,absent,absent,arborizing,medium,nodular,abdomen,female,excision,NEL/A.JPG,NEL/a.png,,
2,blue nevus,1,absent,absent,absent,combinations,irregular,absent,dotted,low,palpable,head neck,female,excision,NEL/a.png,NEL/a.png,,
`)
	for _, n := range []string{"A.JPG", "a.png"} { // PNG under either name: the signature counts
		write(t, filepath.Join(dir, "images/NEL", n), rgbPNG(t, 8, 8, func(x, y int) color.NRGBA { return color.NRGBA{1, 2, 3, 255} }))
	}
	write(t, filepath.Join(dir, "meta/train_indexes.csv"), "indexes\n1\n")
	write(t, filepath.Join(dir, "meta/valid_indexes.csv"), "indexes\n0\n")
	write(t, filepath.Join(dir, "meta/test_indexes.csv"), "indexes\n")
	_, err := Open("derm7pt:"+dir, Options{})
	wantError(t, err, "test_indexes.csv: a header without rows")
	write(t, filepath.Join(dir, "meta/test_indexes.csv"), "indexes\n0\n2\n")
	_, err = Open("derm7pt:"+dir, Options{})
	wantError(t, err, "test_indexes.csv:2: indexes: row 0 is in the split val already", `test_indexes.csv:3: indexes: "2" is not a row number of meta.csv, 0 to 1`)
	write(t, filepath.Join(dir, "meta/valid_indexes.csv"), "indexes\n1\n")
	write(t, filepath.Join(dir, "meta/train_indexes.csv"), "indexes\n0\n")
	write(t, filepath.Join(dir, "meta/test_indexes.csv"), "indexes\n1\n")
	_, err = Open("derm7pt:"+dir, Options{})
	wantError(t, err, "in the split val already")
	edit(t, filepath.Join(dir, "meta/meta.csv"), "excision,NEL/a.png,NEL/a.png,,\n", "excision,NEL/a.png,NEL/a.png,,\n3,lentigo,1,absent,absent,absent,absent,absent,absent,absent,low,flat,back,male,excision,NEL/A.JPG,NEL/a.png,,\n")
	write(t, filepath.Join(dir, "meta/test_indexes.csv"), "indexes\n2\n")
	d := mustOpen(t, "derm7pt:"+dir, Options{Labels: []string{"diagnosis", "vascular_structures", "pigmentation", "regression_structures"}})
	want := []string{"train MEL regular irregular absent", "val NEV irregular absent present", "test MISC absent absent absent"}
	for i, c := range d.Cases {
		got := c.Split
		for _, set := range d.Labels {
			got += " " + set.Classes[c.Labels[set.Name]]
		}
		if got != want[i] {
			t.Errorf("case %d: %s, want %s", i, got, want[i])
		}
	}
	if fmt.Sprint(d.Modalities) != "[image.clinic image.derm]" || d.Cases[1].Strata["clinic_is_derm"] != "yes" || d.Cases[0].Strata["clinic_is_derm"] != "" {
		t.Errorf("%v %+v", d.Modalities, d.Cases[1])
	}
	edit(t, filepath.Join(dir, "meta/meta.csv"), "blue nevus", "blue ghost")
	_, err = Open("derm7pt:"+dir, Options{})
	wantError(t, err, `meta.csv:3: diagnosis: class "blue ghost" is unknown`)
}

// TestRealNIfTI: slices of a volume with their neighbours, turned and placed.
func TestRealNIfTI(t *testing.T) {
	d := mustOpen(t, "nifti:"+realdata.Path(t, "ct/example_ct_sm.nii.gz"), Options{})
	c := d.Cases[len(d.Cases)/2]
	if c.HasTargets || c.WorldRAS == nil || c.SpacingMM[0] <= 0 || c.Split != "predict" {
		t.Fatalf("%+v", c)
	}
	// Columns run to the left (against R), rows to the back (against A), slices up.
	if c.WorldRAS[0] >= 0 || c.WorldRAS[5] >= 0 || c.WorldRAS[10] <= 0 {
		t.Errorf("frame %v", c.WorldRAS)
	}
	in := &sdk.Intensity{Low: -1024, High: 2050, OutLow: 0, OutHigh: 255}
	b := batches(t, d, []Case{c}, LoaderOptions{Load: LoadOptions{Slices: 3, SliceSpacingMM: c.SpacingMM[0], Intensity: in}})[0]
	next := batches(t, d, []Case{d.Cases[c.KeySlice+1]}, LoaderOptions{Load: LoadOptions{Intensity: in}})[0]
	size := c.Size[0] * c.Size[1]
	wantClose(t, "the slice above", floats(t, b, Volume)[2*size:], floats(t, next, Volume), 0)
}

// TestLesionFreeSlicesAreTrainedOn: they lie clear of every lesion, belong to the training split
// alone and are as many as were asked for at most.
func TestLesionFreeSlicesAreTrainedOn(t *testing.T) {
	dir := deepLesionDir(t) // lesions of 8 mm on slices 5: 7 slices of 2 mm are 4 + 10 mm
	for _, series := range []string{"000001_01_01", "000002_01_01"} {
		for n := 11; n <= 14; n++ {
			write(t, filepath.Join(dir, "Images_png", series, fmt.Sprintf("%03d.png", n)), huPNG(t, 48, 40, func(x, y int) int { return 10*n + x }))
		}
	}
	for spec, want := range map[string]string{"?lesion_free=2": "000001_01_01_012.png 000001_01_01_014.png", "?lesion_free=9": "000001_01_01_012.png 000001_01_01_013.png 000001_01_01_014.png", "": ""} {
		d := mustOpen(t, "deeplesion:"+dir+spec, Options{})
		var got []string
		for i := range d.Cases[3:] {
			c := &d.Cases[3+i]
			got = append(got, c.ID)
			if c.Split != "train" || len(c.Boxes)+len(c.RECIST) > 0 || !c.HasTargets || c.Patient != "000001" || c.Attributes.Cell("gender").Raw != "female" {
				t.Errorf("%s: %+v", spec, c)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %s", spec, got, want)
		}
		batches(t, d, d.Cases, LoaderOptions{Load: LoadOptions{Slices: 3}, Targets: true})
	}
	for _, spec := range []string{"?lesion_free=0", "?lesion_free=few", "?lesion_free=1&target=coarse_lesion_type"} {
		if _, err := Open("deeplesion:"+dir+spec, Options{}); !errors.Is(err, ErrData) {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func BenchmarkLoaderDeepLesion(b *testing.B) {
	dir := b.TempDir()
	row := strings.ReplaceAll(infoRow("000001_01_01_005.png", 1), `"48, 40"`, `"512, 512"`)
	write(b, filepath.Join(dir, "DL_info.csv"), infoHeader+"\n"+row+"\n")
	for n := range 11 {
		seed := uint32(n)
		write(b, filepath.Join(dir, "Images_png/000001_01_01", fmt.Sprintf("%03d.png", n)), huPNG(b, 512, 512, func(x, y int) int {
			seed = seed*1664525 + 1013904223
			return int(seed>>25) + x/4
		}))
	}
	d, err := Open("deeplesion:"+dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	cases := slices.Repeat(d.Cases, 8)
	in := &sdk.Intensity{Low: -1024, High: 2050, OutLow: 0, OutHigh: 255}
	onDisk := NewCache(0)
	if err := onDisk.OnDisk(b.TempDir(), 1<<30); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		load    LoadOptions
		cache   *Cache
		workers int // 0: two cores are left to whoever computes
	}{
		{"7x512x512", LoadOptions{Slices: 7, Size: 512}, nil, 0},
		{"7x512x512/augmented", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, nil, 0},
		{"7x512x512/augmented/on_disk", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, onDisk, 0},
		{"7x512x512/augmented/on_disk/workers=1", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, onDisk, 1},
		{"7x512x512/augmented/on_disk/workers=2", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, onDisk, 2},
		{"7x512x512/augmented/on_disk/workers=4", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, onDisk, 4},
		{"7x512x512/augmented/on_disk/workers=8", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, onDisk, 8},
		{"7x512x512/cached", LoadOptions{Slices: 7, Size: 512}, NewCache(1 << 28), 0},
		{"7x512x512/augmented/cached", LoadOptions{Slices: 7, Size: 512, Augment: DetectionAugment()}, NewCache(1 << 28), 0},
		{"3x128x128/augmented/cached", LoadOptions{Slices: 3, Size: 128, Augment: DetectionAugment()}, NewCache(1 << 28), 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.load.Intensity = in
			for range b.N {
				batches(b, d, cases, LoaderOptions{Load: c.load, Cache: c.cache, Workers: c.workers})
			}
			b.ReportMetric(float64(b.N*len(cases))/b.Elapsed().Seconds(), "samples/s")
		})
	}
}

func BenchmarkLoaderSkin(b *testing.B) {
	d := mustOpen(b, "table:"+realdata.Path(b, "skin/data.csv"), Options{})
	cases := d.Cases[:128]
	for b.Loop() {
		batches(b, d, cases, LoaderOptions{Batch: 16, Load: LoadOptions{Size: 128, Augment: PictureAugment()}})
	}
	b.ReportMetric(float64(b.N*len(cases))/b.Elapsed().Seconds(), "samples/s")
}

// A layout is the file that opens it, its row of layouts.go, and docs/reference/data.md: no other
// code asks for a layout by its name (derm7pt stands for all: its name means nothing else).
func TestALayoutIsNamedInNoOtherFileThanTheTable(t *testing.T) {
	root := filepath.Join("..", "..")
	guide, err := os.ReadFile(filepath.Join(root, "docs", "reference", "data.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range Layouts() {
		if !strings.Contains(string(guide), "`"+l.Name+":") {
			t.Errorf("docs/reference/data.md does not name %s", l)
		}
	}
	var named []string
	for _, dir := range []string{"cmd", "eval", "host", "internal", "sdk"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if strings.Contains(string(text), `"derm7pt"`) {
				named = append(named, filepath.Base(path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"layouts.go"}, named); diff != "" {
		t.Errorf("files that name a layout (-want +got):\n%s", diff)
	}
}

func TestSplitsMayStandInAnotherColumn(t *testing.T) {
	dir := deepLesionDir(t)
	write(t, filepath.Join(dir, "attributes.csv"), "File_name,mine,density\n000001_01_01_005.png,val,hypo\n000002_01_01_005.png,train,hyper\n")
	published := mustOpen(t, "deeplesion:"+dir, Options{})
	own := mustOpen(t, "deeplesion:"+dir+"?split=mine", Options{})
	for i := range own.Cases {
		want := map[string]string{"000001_01_01_005.png": "val", "000002_01_01_005.png": "train"}[own.Cases[i].ID]
		if got := own.Cases[i].Split; got != want {
			t.Errorf("%s is in %q, want %q", own.Cases[i].ID, got, want)
		}
	}
	if slices.Contains(own.AttributeColumns, "mine") || !slices.Contains(published.AttributeColumns, "mine") {
		t.Errorf("attributes %q, and %q without the option", own.AttributeColumns, published.AttributeColumns)
	}
	path := filepath.Join(dir, "t.csv")
	write(t, path, "id,split,fold,sex\n1,train,fold0,f\n2,test,fold1,m\n")
	d := mustOpen(t, "table:"+path+"?split=fold", Options{})
	if got := fmt.Sprint(d.Cases[0].Split, d.Cases[1].Split, d.AttributeColumns); got != "fold0fold1[sex]" {
		t.Error(got)
	}
	for spec, want := range map[string]string{"table:" + path + "?split=folds": `did you mean "fold"?`, "slices:" + filepath.Join(dir, "Images_png/000001_01_01") + "?split=fold": "no effect"} {
		if _, err := Open(spec, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}
