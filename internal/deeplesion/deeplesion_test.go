package deeplesion

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/internal/box"
)

func row(changed map[string]string) func(string) string {
	cells := map[string]string{"File_name": "000001_01_01_109.png", "Bounding_boxes": "226.2, 90, 241, 111.5", "Lesion_diameters_Pixel_": "14.9, 6.3",
		"Coarse_lesion_type": "3", "Possibly_noisy": "0", "Spacing_mm_px_": "0.5, 0.75, 5", "Train_Val_Test": "3"}
	maps.Copy(cells, changed)
	return func(column string) string { return cells[column] }
}

func TestARow(t *testing.T) {
	got, err := Parse(row(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := &Lesion{File: "000001_01_01_109.png", Split: "test", Box: box.Box{X1: 225.2, Y1: 89, X2: 240, Y2: 110.5}, LongPixels: 14.9,
		SpacingMM: [3]float64{5, 0.75, 0.5}, Type: "mediastinum"}
	if d := cmp.Diff(want, got); d != "" || got.DiameterMM() != 7.45 {
		t.Errorf("%v mm, %s", got.DiameterMM(), d)
	}
	for _, c := range []struct {
		column, text string
		want         func(*Lesion) bool
	}{
		{"Train_Val_Test", "1", func(l *Lesion) bool { return l.Split == "train" }},
		{"Train_Val_Test", "2", func(l *Lesion) bool { return l.Split == "val" }},
		{"Possibly_noisy", "1", func(l *Lesion) bool { return l.Noisy }},
		{"Coarse_lesion_type", "-1", func(l *Lesion) bool { return l.Type == "" }},
		{"Coarse_lesion_type", "1", func(l *Lesion) bool { return l.Type == "bone" }},
		{"Coarse_lesion_type", "8", func(l *Lesion) bool { return l.Type == "pelvis" }},
		{"Spacing_mm_px_", "NaN, -1, 0", func(l *Lesion) bool { return l.SpacingMM == [3]float64{} && l.DiameterMM() == 0 }},
		{"Spacing_mm_px_", "1,2,3,4", func(l *Lesion) bool { return l.SpacingMM == [3]float64{0, 2, 1} }},
		{"Spacing_mm_px_", "2", func(l *Lesion) bool { return l.SpacingMM == [3]float64{0, 0, 2} }},
		{"Bounding_boxes", "1, 1, 1, 1", func(l *Lesion) bool { return l.Box == box.Box{} }},
	} {
		if l, err := Parse(row(map[string]string{c.column: c.text})); err != nil || !c.want(l) {
			t.Errorf("%s %q: %+v (%v)", c.column, c.text, l, err)
		}
	}
}

func TestBadCellsAreNamed(t *testing.T) {
	for _, c := range []struct{ column, text, want string }{
		{"Bounding_boxes", "1, 2, 11", `"1, 2, 11" has 3 numbers, want 4`},
		{"Bounding_boxes", "5, 2, 1, 4", "x2 < x1 or y2 < y1"},
		{"Bounding_boxes", "1, 2, NaN, 4", `"NaN" is not a finite number`},
		{"Lesion_diameters_Pixel_", "3", "1 numbers, want 2"},
		{"Train_Val_Test", "4", `"4", want 1 (train), 2 (val) or 3 (test)`},
		{"Possibly_noisy", "yes", `"yes", want 0 or 1`},
		{"Coarse_lesion_type", "0", `"0", want -1 (unknown) or 1 to 8`},
		{"Coarse_lesion_type", "9", `"9", want`},
		{"Coarse_lesion_type", "", `"", want`},
	} {
		_, err := Parse(row(map[string]string{c.column: c.text}))
		var cell *CellError
		if !errors.As(err, &cell) || cell.Column != c.column || !strings.Contains(err.Error(), c.column+": ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: error %v, want %q", c.column, c.text, err, c.want)
		}
	}
}

func TestParseReadsTheNeededColumnsAlone(t *testing.T) {
	read := map[string]bool{}
	if _, err := Parse(func(column string) string { read[column] = true; return row(nil)(column) }); err != nil {
		t.Fatal(err)
	}
	if len(read) != len(Needed) {
		t.Errorf("read %v, Needed %v", read, Needed)
	}
	for _, name := range Needed {
		if !read[name] || !strings.Contains(strings.Join(Columns, " "), name) {
			t.Errorf("%s is not read or no column", name)
		}
	}
}
