package dataset

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// twoLesions is a second, larger lesion on the first slice of deepLesionDir, at 5,6 to 40,35.
func twoLesions(t testing.TB) string {
	dir := deepLesionDir(t)
	path := filepath.Join(dir, "DL_info.csv")
	second := strings.NewReplacer(`"10, 11, 30, 29"`, `"5, 6, 40, 35"`, `"15, 20, 25, 20, 20, 16, 20, 24"`, `"10, 20, 30, 20, 20, 16, 20, 24"`, `"10, 8"`, `"20, 8"`).Replace(infoRow("000001_01_01_005.png", 1))
	write(t, path, strings.Replace(read(t, path), "\n", "\n"+second+"\n", 1))
	return dir
}

// TestAnImageSaysWhatItsLargestLesionSays: unless a row of the image itself does; what is said of
// a lesion becomes strata of its box.
func TestAnImageSaysWhatItsLargestLesionSays(t *testing.T) {
	dir := twoLesions(t)
	write(t, filepath.Join(dir, "attributes.csv"), `File_name,Bounding_boxes,margin,density,organ
000001_01_01_005.png,"10,11,30,29",smooth,hypo,
000001_01_01_005.png,"5, 6, 40, 35",spiculated,,
000001_01_01_005.png,,,,liver
000002_01_01_005.png,"10, 11, 30, 29",smooth,hyper,lung
`)
	d := mustOpen(t, "deeplesion:"+dir, Options{Attributes: []string{"margin", "density", "organ"}})
	for id, want := range map[string]map[string]string{
		"000001_01_01_005.png": {"margin": "spiculated", "density": "hypo", "organ": "liver"},
		"000002_01_01_005.png": {"margin": "smooth", "density": "hyper", "organ": "lung"},
		"000003_01_01_005.png": {"margin": "", "density": "", "organ": ""},
	} {
		for i := range d.Cases {
			if c := &d.Cases[i]; c.ID == id {
				if diff := cmp.Diff(want, texts(c.Attributes)); diff != "" {
					t.Errorf("%s: %s", id, diff)
				}
			}
		}
	}
	var strata []string
	for _, b := range d.Cases[0].Boxes {
		strata = append(strata, b.Strata["margin"]+"/"+b.Strata["density"])
	}
	if got := strings.Join(strata, " "); got != "spiculated/ smooth/hypo" {
		t.Error(got)
	}
	a := d.Cases[0].Attributes
	for name, want := range map[string]string{"margin": "attributes.csv:3", "density": "attributes.csv:2", "organ": "attributes.csv:4"} {
		if got := a.column(name).origin(a.row); got != filepath.Join(dir, want) {
			t.Errorf("%s was read in %s, want %s", name, got, want)
		}
	}
	// Slices without a lesion have none of it; a classifier of lesions has each one's own.
	for n := 11; n <= 14; n++ {
		write(t, filepath.Join(dir, "Images_png/000001_01_01", fmt.Sprintf("%03d.png", n)), huPNG(t, 48, 40, func(x, y int) int { return x }))
	}
	free := mustOpen(t, "deeplesion:"+dir+"?lesion_free=1", Options{})
	if c := free.Cases[len(free.Cases)-1]; len(c.Boxes) > 0 || c.Attributes.Mentions("margin") || !c.Attributes.Mentions("age") {
		t.Errorf("%s: %v", c.ID, texts(c.Attributes))
	}
	edit(t, filepath.Join(dir, "DL_info.csv"), `0.5",-1,0`, `0.5",4,0`)
	edit(t, filepath.Join(dir, "DL_info.csv"), `0.5",-1,0`, `0.5",4,0`)
	lesions := mustOpen(t, "deeplesion:"+dir+"?target=coarse_lesion_type", Options{Attributes: []string{"margin", "organ"}})
	for k, want := range []map[string]string{{"margin": "spiculated", "organ": "liver"}, {"margin": "smooth", "organ": "liver"}} {
		if diff := cmp.Diff(want, texts(lesions.Cases[k].Attributes)); diff != "" {
			t.Errorf("%s: %s", lesions.Cases[k].ID, diff)
		}
	}
}

// TestAVolumeSaysWhatItsLargestLesionSays: rows of attributes.csv name lesions of boxes.csv.
func TestAVolumeSaysWhatItsLargestLesionSays(t *testing.T) {
	dir := volumesDir(t)
	write(t, filepath.Join(dir, "boxes.csv"), "id,lesion,x1,y1,z1,x2,y2,z2\nlps,a,1,1,1,2,2,2\nlps,b,1,1,1,4,3,2\nlas,a,1,1,1,3,3,2\n")
	write(t, filepath.Join(dir, "attributes.csv"), "id,lesion,margin,organ\nlps,b,spiculated,\nlps,a,smooth,\nlps,,,lung\nlas,a,smooth,\n")
	for _, opt := range []Options{{}, {Task: Classify, Attributes: []string{"margin", "organ"}}} {
		d := mustOpen(t, "volumes:"+dir+map[Task]string{Classify: "?view=whole"}[opt.Task], opt)
		got := map[string]string{}
		for i := range d.Cases {
			name, _, _ := strings.Cut(d.Cases[i].ID, "#")
			a := d.Cases[i].Attributes
			got[name] = a.Cell("margin").Raw + "/" + a.Cell("organ").Raw
			for _, b := range d.Cases[i].Boxes {
				if want := map[string]string{"lpsa": "smooth", "lpsb": "spiculated", "lasa": "smooth"}[name+b.Strata["lesion"]]; b.Strata["margin"] != want {
					t.Errorf("%s: %v", d.Cases[i].ID, b)
				}
			}
		}
		if got["lps"] != "spiculated/lung" || got["las"] != "smooth/" || got["ras"] != "/" {
			t.Error(got)
		}
	}
}

// TestRowsOfLesionsThatAreNotThere are refused by row, and what stands twice.
func TestRowsOfLesionsThatAreNotThere(t *testing.T) {
	deep, volumes := twoLesions(t), volumesDir(t)
	write(t, filepath.Join(volumes, "boxes.csv"), "id,lesion,x1,y1,z1,x2,y2,z2\nlps,a,1,1,1,2,2,2\n")
	for _, c := range []struct{ dir, spec, rows, want string }{
		{deep, "deeplesion:", "File_name,Bounding_boxes,margin\n000001_01_01_005.png,\"1, 2, 3, 4\",smooth\n", `attributes.csv:2: Bounding_boxes: "1, 2, 3, 4" is no lesion of 000001_01_01_005.png`},
		{deep, "deeplesion:", "File_name,margin\n000001_01_01_005.png,smooth\n000001_01_01_005.png,none\n", `attributes.csv:3: File_name: "000001_01_01_005.png" stands twice, first in line 2; rows of single lesions`},
		{deep, "deeplesion:", "File_name,Bounding_boxes,diameter_mm\n000001_01_01_005.png,\"10, 11, 30, 29\",3\n", "attributes.csv:2: diameter_mm: is said of the lesion elsewhere already"},
		{volumes, "volumes:", "id,lesion,margin\nlps,b,smooth\n", `attributes.csv:2: lesion: "b" is no lesion of lps`},
		{volumes, "volumes:", "id,lesion,margin\nlps,a,smooth\nlps,a,smooth\n", `attributes.csv:3: id: "lps a" stands twice, first in line 2`},
		{volumes, "volumes:", "id,margin\nlps,smooth\nlps,none\n", `attributes.csv:3: id: "lps" stands twice`},
	} {
		write(t, filepath.Join(c.dir, "attributes.csv"), c.rows)
		_, err := Open(c.spec+c.dir, Options{})
		wantError(t, err, c.want)
	}
}

// TestSeveralFoldersLikeDeepLesion: cases, patients and series of a further folder bear its name,
// so that equal numbers stay apart; each has attributes of its own.
func TestSeveralFoldersLikeDeepLesion(t *testing.T) {
	one, two := deepLesionDir(t), deepLesionDir(t)
	write(t, filepath.Join(one, "attributes.csv"), "File_name,density\n000001_01_01_005.png,hypo\n")
	write(t, filepath.Join(two, "attributes.csv"), "File_name,density,margin\n000001_01_01_005.png,hyper,smooth\n")
	write(t, filepath.Join(two, "Images_png/000001_01_01/005.png"), huPNG(t, 48, 40, func(x, y int) int { return 777 }))
	d := mustOpen(t, "deeplesion:"+one+"?also="+two, Options{})
	name := filepath.Base(two)
	if len(d.Cases) != 6 || d.Cases[3].ID != name+"/000001_01_01_005.png" || d.Cases[3].Patient != name+"/000001" || d.Cases[3].Split != "train" {
		t.Fatalf("%d cases, %+v", len(d.Cases), d.Cases[3])
	}
	a, b := d.Cases[0].Attributes, d.Cases[3].Attributes
	if got := fmt.Sprint(a.Cell("density").Raw, a.Cell("margin").Raw, b.Cell("density").Raw, b.Cell("margin").Raw); got != "hypohypersmooth" {
		t.Error(got)
	}
	for dir, cells := range map[string]Attributes{one: a, two: b} {
		if got := cells.column("density").origin(cells.row); got != filepath.Join(dir, "attributes.csv:2") {
			t.Error(got)
		}
	}
	first := batches(t, d, d.Cases[:1], LoaderOptions{Load: LoadOptions{Slices: 1}})
	second := batches(t, d, d.Cases[3:4], LoaderOptions{Load: LoadOptions{Slices: 1}})
	if x, y := floats(t, first[0], Volume), floats(t, second[0], Volume); x[0] != 50 || y[0] != 777 {
		t.Errorf("the first pixels are %g and %g", x[0], y[0])
	}
	for spec, want := range map[string]string{
		"deeplesion:" + one + "?also=" + two + "," + two: "has the name of another folder",
		"deeplesion:" + one + "?also=":                   "also is empty",
		"deeplesion:" + one + "?also=" + two + "_":       "no such file",
		"boxes:" + boxesDir(t) + "?also=" + two:          "also=" + two + " has no effect",
	} {
		_, err := Open(spec, Options{})
		wantError(t, err, want)
	}
	absolute, err := AbsoluteSpec("deeplesion:a?also=b,c d&noisy=keep")
	if err != nil || strings.Count(absolute, string(filepath.Separator)+"a?also=/")+strings.Count(absolute, "/c+d&noisy=keep") != 2 {
		t.Errorf("%s, %v", absolute, err)
	}
}
