package dataset

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// writeScan writes the scan of orientations as it is stored in one of them.
func writeScan(t testing.TB, path, stored string) {
	t.Helper()
	o := orientations[stored]
	v := &nifti.Image{Dim: o.dim, Affine: o.affine, Int16: make([]int16, 120)}
	for k := range o.dim[2] {
		for j := range o.dim[1] {
			for i := range o.dim[0] {
				v.Int16[i+o.dim[0]*(j+o.dim[1]*k)] = scanValue(o.at(i, j, k))
			}
		}
	}
	if err := nifti.Write(path, v); err != nil {
		t.Fatal(err)
	}
}

// phasesDir has two cases with an arterial and a venous phase, stored in other orientations;
// of b the venous phase is absent.
func phasesDir(t testing.TB, header, a, b string) string {
	t.Helper()
	dir := t.TempDir()
	writeScan(t, filepath.Join(dir, "one.nii"), "lps")
	writeScan(t, filepath.Join(dir, "two.nii"), "sagittal")
	write(t, filepath.Join(dir, "volumes.csv"), "id,volume.art,volume.ven,split,label,sex"+header+"\na,one.nii,two.nii,train,x,f"+a+"\nb,two.nii,,val,y,m"+b+"\n")
	return dir
}

// plain is an encoder's port of a volume that takes values as they are.
func plain(name string, depth int) sdk.Port {
	return ports.Named(name, ports.Shape("N", "1", fmt.Sprint(depth), "H", "W"), ports.Intensity(sdk.Intensity{Low: -1000, High: 1000, OutLow: -1000, OutHigh: 1000}))
}

// TestAWholeVolumeIsResampled: in the slices to the depth that the encoder wants, each the
// mean of those that it covers, in every orientation that a phase is stored in.
func TestAWholeVolumeIsResampled(t *testing.T) {
	d := mustOpen(t, "volumes:"+phasesDir(t, "", "", ""), Options{Task: Classify})
	if got := strings.Join(d.Modalities, " "); got != "volume.art volume.ven" || len(d.Cases) != 2 || d.Labels[0].Classes[1] != "y" || !slices.Equal(d.AttributeColumns, []string{"sex"}) {
		t.Fatalf("%s; %v; %v", got, d.Labels, d.AttributeColumns)
	}
	batch := batches(t, d, d.Cases, LoaderOptions{Batch: 2, Load: LoadOptions{Zoom: 1},
		Ports: []sdk.Port{plain("volume.art", 2), plain("volume.ven", 2), ports.Named("spacing.ven")}})[0]
	if !slices.Equal(batch.Absent["volume.ven"], []bool{false, true}) {
		t.Errorf("absent: %v", batch.Absent)
	}
	for _, port := range []string{"volume.art", "volume.ven"} {
		if got := batch.Tensors[port].Shape; !slices.Equal(got, []int64{2, 1, 2, 5, 6}) {
			t.Fatalf("%s: %v", port, got)
		}
		values := floats(t, batch, port)
		for i, v := range values[:60] {
			x, y, half := i%6, i/6%5, i/30
			want := (float64(scanValue(x, y, 2*half)) + float64(scanValue(x, y, 2*half+1))) / 2
			if math.Abs(float64(v)-want) > 1e-3 {
				t.Fatalf("%s: %g at %d %d of half %d, want %g", port, v, x, y, half, want)
			}
		}
	}
	if got := floats(t, batch, "spacing.ven")[:3]; math.Abs(float64(got[0])-4) > 1e-4 || math.Abs(float64(got[1])-.7) > 1e-4 {
		t.Errorf("spacing %v, want 4 mm between two slices that stand for four of 2 mm", got)
	}
}

// TestAFinerGridIsInterpolated: more network slices than the region has.
func TestAFinerGridIsInterpolated(t *testing.T) {
	v := sight{low: -0.5, top: 1.5}
	got := v.taps(&stack{nifti: "x", depth: 2}, 4, 2)
	want := [][]tap{{{0, 0, 0}}, {{0, 1, 0.25}}, {{0, 1, 0.75}}, {{1, 1, 0}}}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("slice %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestARegionIsShownWithItsMargin: corners of the first phase, in another phase stored
// otherwise too, and the same from boxes.csv, from mm, and from a mask.
func TestARegionIsShownWithItsMargin(t *testing.T) {
	check := func(spec string, modalities ...string) {
		t.Helper()
		d := mustOpen(t, spec, Options{Task: Classify})
		for _, m := range modalities {
			v := d.Cases[0].sights[m]
			// x 1 to 3 and y 1 to 4 of 6 x 5 pixels, z 1 to 2; 0.8 mm are a pixel in x and 0.4 slices
			if v == nil || v.crop != [4]float64{0, 0, 4, 4} || math.Abs(v.low-0.1) > 1e-4 || math.Abs(v.top-2.9) > 1e-4 {
				t.Errorf("%s: %s shows %+v", spec, m, v)
			}
		}
	}
	dir := phasesDir(t, ",x1,y1,z1,x2,y2,z2", ",1,1,1,3,4,2", ",1,1,1,2,2,2")
	check("volumes:"+dir+"?margin_mm=0.8", "volume.art", "volume.ven")
	dir = phasesDir(t, ",x1,y1,z1,x2,y2,z2", ",7.6,17.2,-28,9.2,19.3,-26", ",7.6,17.2,-28,9.2,19.3,-26")
	check("volumes:"+dir+"?margin_mm=0.8&coordinates=ras", "volume.art", "volume.ven")
	dir = phasesDir(t, "", "", "")
	write(t, filepath.Join(dir, "boxes.csv"), "id,x1,y1,z1,x2,y2,z2\na,1,1,1,2,4,2\na,2,1,1,3,4,2\nb,1,1,1,2,2,2\n")
	check("volumes:"+dir+"?margin_mm=0.8", "volume.art", "volume.ven")
	dir = phasesDir(t, ",mask", ",mask.nii", ",mask.nii")
	o := orientations["down"]
	m := &nifti.Image{Dim: o.dim, Affine: o.affine, Int16: make([]int16, 120)}
	for k := range 4 {
		for j := range 5 {
			for i := range 6 {
				if x, y, z := o.at(i, j, k); x >= 1 && x <= 3 && y >= 1 && z >= 1 && z <= 2 {
					m.Int16[i+6*(j+5*k)] = 2
				}
			}
		}
	}
	m.Int16[119] = 1 // another label
	if err := nifti.Write(filepath.Join(dir, "mask.nii"), m); err != nil {
		t.Fatal(err)
	}
	check("volumes:"+dir+"?margin_mm=0.8&mask=2", "volume.art", "volume.ven")
}

// TestKeySlicesLieInEveryPhase: the slice of the first phase is found in the others.
func TestKeySlicesLieInEveryPhase(t *testing.T) {
	d := mustOpen(t, "volumes:"+phasesDir(t, ",slice", ",3", ",1")+"?view=slices", Options{Task: Classify})
	for _, m := range d.Modalities {
		if v := d.Cases[0].sights[m]; v.key != 3 || v.low != v.top || v.crop != [4]float64{} {
			t.Errorf("%s: %+v", m, v)
		}
	}
	batch := batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Zoom: 1, SliceSpacingMM: 2}, Ports: []sdk.Port{plain("volume.art", 3)}})[0]
	values := floats(t, batch, "volume.art")
	for k, z := range []int{2, 3, 3} { // the slice above the last is not there
		if got, want := values[30*k+8], float32(scanValue(2, 1, z)); got != want {
			t.Errorf("slice %d: %g, want %g", k, got, want)
		}
	}
}

// TestWindowsOfTheData take the place of the encoder's; several are a modality each.
func TestWindowsOfTheData(t *testing.T) {
	dir := t.TempDir()
	writeScan(t, filepath.Join(dir, "one.nii"), "lps")
	write(t, filepath.Join(dir, "t.csv"), "id,volume,label\na,one.nii,x\nb,one.nii,y\n")
	unit := func(name string) sdk.Port {
		return ports.Named(name, ports.Shape("N", "1", "4", "H", "W"), ports.Intensity(sdk.Intensity{Low: -1000, High: 1000, OutLow: 0, OutHigh: 1}))
	}
	d := mustOpen(t, "table:"+dir+"/t.csv?window=-450,-350/soft", Options{})
	if got := strings.Join(d.Modalities, " "); got != "volume.soft volume.w1" {
		t.Fatal(got)
	}
	batch := batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Zoom: 1}, Ports: []sdk.Port{unit("volume.w1"), unit("volume.soft")}})[0]
	if got := floats(t, batch, "volume.w1")[30+8]; math.Abs(float64(got)-0.62) > 1e-5 { // -388 of -450 to -350
		t.Errorf("%g, want 0.62", got)
	}
	if got := floats(t, batch, "volume.soft")[30+8]; got != 0 {
		t.Errorf("%g in the window of soft tissue, want 0", got)
	}
	d = mustOpen(t, "table:"+dir+"/t.csv?window=0%,100%", Options{})
	values := floats(t, batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Zoom: 1}, Ports: []sdk.Port{unit("volume")}})[0], "volume")
	if low, high := slices.Min(values), slices.Max(values); low != 0 || high != 1 {
		t.Errorf("percentiles 0 and 100 show %g to %g", low, high)
	}
}

// TestSlicesInThePlaceOfPictures: NIfTI, and 16-bit PNG of HU + 32768, a channel per window.
func TestSlicesInThePlaceOfPictures(t *testing.T) {
	dir := t.TempDir()
	writeScan(t, filepath.Join(dir, "one.nii"), "ras")
	write(t, filepath.Join(dir, "hu.png"), huPNG(t, 6, 5, func(x, y int) int { return int(scanValue(x, y, 2)) }))
	write(t, filepath.Join(dir, "t.csv"), "id,image,slice,label\na,one.nii,2,x\nb,hu.png,,y\n")
	d := mustOpen(t, "table:"+dir+"/t.csv?window=-500,0/-300,-200", Options{})
	values := floats(t, batches(t, d, d.Cases, LoaderOptions{Batch: 2, Load: LoadOptions{Zoom: 1}})[0], "image.main")
	for n := range 2 {
		for channel, want := range []float64{212.0 / 500, 0.12, 0.12} { // -288 at x 2, y 1
			if got := float64(values[90*n+30*channel+8]); math.Abs(got-want) > 0.003 {
				t.Errorf("case %d, channel %d: %g, want %g", n, channel, got, want)
			}
		}
	}
	// DICOM, as it is rescaled.
	const dicom = "importer/testdata/dicom/"
	here, err := filepath.Abs(dicom)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "d.csv"), "id,image,label\na,"+here+"/explicit/01.dcm,x\nb,"+here+"/explicit/03.dcm,y\n")
	d = mustOpen(t, "table:"+dir+"/d.csv?window=-1000,1000", Options{})
	want, h, w, err := importer.ReadSlice(dicom + "explicit/03.dcm")
	if err != nil {
		t.Fatal(err)
	}
	values = floats(t, batches(t, d, d.Cases, LoaderOptions{Batch: 2, Load: LoadOptions{Zoom: 1}})[0], "image.main")
	for i, v := range values[3*h*w : 4*h*w] {
		if math.Abs(float64(v)-clamp((float64(want[i])+1000)/2000, 0, 1)) > 0.003 {
			t.Fatalf("pixel %d of the DICOM slice is %g, its value %g", i, v, want[i])
		}
	}
	for file, said := range map[string]string{"no_rescale/01.dcm": "d.csv:2: image: .*is CT without RescaleSlope", "multiframe/all.dcm": "d.csv:2: image: .*frames, want one slice"} {
		write(t, filepath.Join(dir, "d.csv"), "id,image,label\na,"+here+"/"+file+",x\n")
		_, err := Open("table:"+dir+"/d.csv?window=soft", Options{})
		wantMatch(t, file, err, said)
	}
	if r, err := Check(t.Context(), "table:"+dir+"/t.csv?window=soft", Options{}, true); err != nil || len(r.Problems) > 0 {
		t.Errorf("%v %v", r.Problems, err)
	}
}

// TestBadScansAreNamedByRow: what is wrong with volumes and regions, with file, row and mend.
func TestBadScansAreNamedByRow(t *testing.T) {
	dir := t.TempDir()
	writeScan(t, filepath.Join(dir, "one.nii"), "lps")
	o := orientations["lps"]
	far := o.affine
	far[3] += 500
	for name, v := range map[string]*nifti.Image{"far.nii": {Dim: o.dim, Affine: far, Int16: slices.Repeat([]int16{1}, 120)},
		"empty.nii": {Dim: o.dim, Affine: o.affine, Int16: make([]int16, 120)}} {
		if err := nifti.Write(filepath.Join(dir, name), v); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ options, header, row, want string }{
		{"", "volume", "one.nii", "t.csv:2: volume: .*one.nii is a volume, and no window says what of its values is shown: add window="},
		{"", "image", "one.nii", "t.csv:2: image: .*one.nii is a scan, whose values are no grey: add window="},
		{"?window=soft", "image", "one.nii", "t.csv:2: image: .*one.nii has 4 slices, want the number of one in the column slice"},
		{"?window=soft", "image,slice", "one.nii,4", "t.csv:2: image: .*want the number of one in the column slice .0 is the lowest., got \"4\""},
		{"?window=soft", "volume,x1,y1,z1,x2,y2,z2", "one.nii,1,1,1,90,3,2", "^2 problems in the data:\\s+[^\n]*t.csv:2: the box leaves its volume: x from 1.00 to 90.00 of 6 voxels"},
		{"?window=soft", "volume,mask", "one.nii,far.nii", "t.csv:2: volume: the region lies outside the volume .*one.nii: x from "},
		{"?window=soft", "volume,mask", "one.nii,empty.nii", "t.csv:2: mask: .*empty.nii has no voxel other than 0"},
		{"?window=soft&mask=7", "volume,mask", "one.nii,far.nii", "t.csv:2: mask: .*no voxel of the values .7."},
		{"?window=soft", "volume.art,volume.ven", "one.nii,away.nii", "t.csv:2: volume.ven: .*away.nii"},
		{"?window=soft", "volume.art,volume.ven", ",", "t.csv:2: volume.art: names no image, nor does volume.ven"},
		{"?window=soft&view=region", "volume", "one.nii", "t.csv:2: the case has no region to be shown: want a mask, corners"},
		{"?window=soft&view=slices", "volume", "one.nii", "t.csv:2: volume: the case has no key slice"},
		{"?window=soft&view=slices", "volume,slice", "one.nii,9", "t.csv:2: volume: slice 9 is not in the volume .*one.nii of 4 slices"},
		{"?window=soft", "volume.art,image.art", "one.nii,one.nii", "the columns volume.art and image.art name one modality"},
		{"?window=sfot", "volume", "one.nii", "window: \"sfot\", want LOW,HIGH .*did you mean \"soft\""},
		{"?window=300,100", "volume", "one.nii", "\"300,100\" is empty or reversed"},
		{"?window=1%,101%", "volume", "one.nii", "want percentiles from 0% to 100%"},
		{"?view=part", "volume", "one.nii", "view=\"part\", want whole, region or slices"},
		{"?margin_mm=-1", "volume", "one.nii", "margin_mm=\"-1\", want a distance"},
	} {
		write(t, filepath.Join(dir, "t.csv"), "id,"+c.header+",label\na,"+c.row+",x\nb,"+c.row+",y\n")
		_, err := Open("table:"+dir+"/t.csv"+c.options, Options{})
		wantMatch(t, c.options+" "+c.row, err, c.want)
	}
}

// TestLesionsOfDeepLesionAreClassified: a case per lesion, its surroundings and its type.
func TestLesionsOfDeepLesionAreClassified(t *testing.T) {
	dir := deepLesionDir(t)
	info := filepath.Join(dir, "DL_info.csv")
	write(t, info, strings.ReplaceAll(read(t, info), `"0.4, 0.5, 0.5",-1,`, `"0.4, 0.5, 0.5",4,`))
	d := mustOpen(t, "deeplesion:"+dir+"?target=coarse_lesion_type&margin_mm=4&attributes=age,size", Options{})
	if d.Task != Classify || d.Labels[0].Name != "coarse_lesion_type" {
		t.Fatalf("%v %v", d.Task, d.Labels)
	}
	for i := range d.Cases {
		c := &d.Cases[i]
		v := c.sights[Volume]
		if !strings.Contains(c.ID, "#") || !c.HasTargets || c.Labels["coarse_lesion_type"] < 0 || c.Attributes.Cell("size").Raw == "" || v.crop == [4]float64{} {
			t.Errorf("%s: %+v, %+v", c.ID, c, v)
		}
	}
	batch := batches(t, d, d.Cases, LoaderOptions{Batch: 2, Targets: true, Load: LoadOptions{Size: 32}, Ports: []sdk.Port{plain("volume", 3)}})[0]
	if got := batch.Tensors["volume"].Shape; !slices.Equal(got[1:], []int64{1, 3, 32, 32}) {
		t.Errorf("%v", got)
	}
	_, err := Open("deeplesion:"+dir, Options{Task: Classify})
	wantMatch(t, "without a target", err, "add target=coarse_lesion_type to the data spec")
	_, err = Open("deeplesion:"+dir+"?target=type", Options{})
	wantMatch(t, "another target", err, "want coarse_lesion_type")
}

// wantMatch fails unless an error says what is wanted (a regular expression).
func wantMatch(t testing.TB, what string, err error, want string) {
	t.Helper()
	if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) {
		t.Errorf("%s: %v, want %s", what, err, want)
	}
}

// TestWhatIsPredictedIsShownAlike: the options of the run's data hold for others.
func TestWhatIsPredictedIsShownAlike(t *testing.T) {
	for _, c := range [][3]string{
		{"table:b.csv", "table:a.csv?window=soft&labels=x&view=slices", "table:b.csv?window=soft&view=slices"},
		{"table:b.csv?window=lung", "table:a.csv?window.art=soft&margin_mm=3", "table:b.csv?window=lung&margin_mm=3"},
		{"nifti:b.nii", "volumes:a", "nifti:b.nii"},
	} {
		if got := Shown(c[0], c[1]); got != c[2] {
			t.Errorf("%s as %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

// TestFindingsAreThereOrNot: 0, 1 and unknown; another word is refused by row.
func TestFindingsAreThereOrNot(t *testing.T) {
	dir := filepath.Dir(tableDir(t))
	rows := "id,image,label.edema,label.mass\na,a.png,1,0\nb,b.png,,0\n"
	write(t, filepath.Join(dir, "f.csv"), rows)
	for _, n := range []string{"a", "b"} {
		write(t, filepath.Join(dir, n+".png"), greyPNG(t, 8, 8, func(x, y int) uint8 { return uint8(x + y) }))
	}
	d := mustOpen(t, "table:"+dir+"/f.csv", Options{Asked: "multilabel"})
	for i, set := range d.Labels { // of mass no case is one, and it is asked all the same
		if !slices.Equal(set.Classes, []string{"0", "1"}) || d.Cases[1].Labels[set.Name] != []int{-1, 0}[i] {
			t.Errorf("%v %v", set, d.Cases[1].Labels)
		}
	}
	write(t, filepath.Join(dir, "f.csv"), rows+"c,a.png,2,0\n")
	_, err := Open("table:"+dir+"/f.csv", Options{Asked: "multilabel"})
	wantMatch(t, "a label of 2", err, `f.csv:4: label.edema: "2", want 1 .the finding is there., 0 .it is not. or nothing`)
}

// TestClassesKeepTheOrderThatIsGiven: grades in words.
func TestClassesKeepTheOrderThatIsGiven(t *testing.T) {
	dir := t.TempDir()
	writeScan(t, filepath.Join(dir, "one.nii"), "lps")
	write(t, filepath.Join(dir, "t.csv"), "id,volume,label\na,one.nii,low\nb,one.nii,high\n")
	d := mustOpen(t, "table:"+dir+"/t.csv?window=soft&classes=low,mid,high", Options{})
	if got := d.Labels[0].Classes; !slices.Equal(got, []string{"low", "mid", "high"}) || d.Cases[1].Labels["label"] != 2 {
		t.Errorf("%v", got)
	}
	_, err := Open("table:"+dir+"/t.csv?window=soft&classes=low,mid", Options{})
	wantMatch(t, "a class that is not listed", err, `t.csv:3: label: class "high" is unknown`)
}
