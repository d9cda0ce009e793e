package split

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// rows is a table of patients with two images each; every fourth patient has the rare label.
func rows(t *testing.T, patients int, reversed bool) string {
	t.Helper()
	var lines []string
	for p := range patients {
		label := "common"
		if p%4 == 0 {
			label = "rare"
		}
		for i := range 2 {
			lines = append(lines, fmt.Sprintf("%d_%d,p%d,%s", p, i, p, label))
		}
	}
	if reversed {
		slices.Reverse(lines)
	}
	path := filepath.Join(t.TempDir(), "t.csv")
	if err := os.WriteFile(path, []byte("id,patient,label\n"+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func splitsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	read, err := table.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range read.Rows {
		out[read.Get(r, "id")] = read.Get(r, "split")
	}
	return out
}

// TestPatientsStayTogether, every split gets its share of each label, the order of rows
// does not matter, and another seed gives another split.
func TestPatientsStayTogether(t *testing.T) {
	o := Options{By: "patient", Ratio: [3]float64{60, 20, 20}, Stratify: "label", Seed: 3}
	path := rows(t, 40, false)
	s, err := Write(path, path, o)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(s.Rows) != "map[test:16 train:48 val:16]" || fmt.Sprint(s.Strata["rare"]) != "map[test:2 train:6 val:2]" {
		t.Errorf("%+v", s)
	}
	splits := splitsOf(t, path)
	for p := range 40 {
		if splits[fmt.Sprintf("%d_0", p)] != splits[fmt.Sprintf("%d_1", p)] {
			t.Errorf("patient %d is in two splits", p)
		}
	}
	other := rows(t, 40, true)
	if _, err := Write(other, other, o); err != nil || fmt.Sprint(splitsOf(t, other)) != fmt.Sprint(splits) {
		t.Errorf("the order of rows matters (%v)", err)
	}
	o.Seed = 4
	third := rows(t, 40, false)
	if _, err := Write(third, third, o); err != nil || fmt.Sprint(splitsOf(t, third)) == fmt.Sprint(splits) {
		t.Errorf("another seed gives the same split (%v)", err)
	}
}

// TestFolds are of equal size, and a split that is there is not replaced unasked.
func TestFolds(t *testing.T) {
	path := rows(t, 20, false)
	o := Options{By: "patient", Folds: 5, Seed: 1}
	s, err := Write(path, path, o)
	if err != nil || len(s.Rows) != 5 || s.Rows["fold0"] != 8 || s.Rows["fold4"] != 8 {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := Write(path, path, o); err == nil || !strings.Contains(err.Error(), `t.csv:2: split: is "fold`) {
		t.Error(err)
	}
	o.Replace = true
	if _, err := Write(path, path, o); err != nil {
		t.Error(err)
	}
	o.Folds = 21
	if _, err := Write(path, path, o); err == nil || !strings.Contains(err.Error(), "has 20 groups, too few for the 21 splits") {
		t.Error(err)
	}
	if _, err := Write(path, path, Options{By: "site", Folds: 2}); err == nil {
		t.Error("an absent column is accepted")
	}
}

// TestOtherSplitsKeepTheirs: a test split is no part of the folds of the rest.
func TestOtherSplitsKeepTheirs(t *testing.T) {
	path := rows(t, 20, false)
	if _, err := Write(path, path, Options{By: "patient", Ratio: [3]float64{60, 20, 20}}); err != nil {
		t.Fatal(err)
	}
	before := splitsOf(t, path)
	s, err := Write(path, path, Options{By: "patient", Folds: 4, Of: []string{"train", "val"}})
	if err != nil || fmt.Sprint(s.Rows) != "map[fold0:8 fold1:8 fold2:8 fold3:8]" {
		t.Fatalf("%+v, %v", s, err)
	}
	for id, split := range splitsOf(t, path) {
		if (before[id] == "test") != (split == "test") {
			t.Errorf("%s: %q became %q", id, before[id], split)
		}
	}
	if _, err := Write(path, path, Options{By: "patient", Folds: 4, Of: []string{"train"}}); err == nil || !strings.Contains(err.Error(), `has no row of "train"`) {
		t.Error(err)
	}
}

// TestBoxesFollowTheirImages: boxes.csv may repeat the split of images.csv.
func TestBoxesFollowTheirImages(t *testing.T) {
	dir := t.TempDir()
	images, boxes := filepath.Join(dir, "images.csv"), filepath.Join(dir, "boxes.csv")
	for path, text := range map[string]string{images: "image,patient,split\na.png,1,fold1\nb.png,2,fold0\n",
		boxes: "image,split,x1,y1,x2,y2\nb.png,train,1,1,2,2\na.png,train,1,1,2,2\nb.png,train,3,3,4,4\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Repeat(images); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(boxes)
	if want := "image,split,x1,y1,x2,y2\nb.png,fold0,1,1,2,2\na.png,fold1,1,1,2,2\nb.png,fold0,3,3,4,4\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if err := Repeat(rows(t, 4, false)); err != nil {
		t.Error(err)
	}
}
