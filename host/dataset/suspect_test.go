package dataset

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
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
