package dataset

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

func TestEveryDifferentCellIsHeldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.csv")
	write(t, path, "id,label,site,age\n1,x,arm,3\n2,y,leg,3\n3,x,arm,\n4,y,arm,4\n")
	d := mustOpen(t, "table:"+path, Options{})
	cells := d.Cases[0].Attributes.table
	if n := [2]int{len(cells.column("site").cells), len(cells.column("age").cells)}; n != [2]int{3, 3} {
		t.Errorf("%v cells of site and age, want unmentioned and two others of each", n)
	}
	var got []CellCount
	for _, c := range CellsOf(d.Cases, "age") {
		got = append(got, CellCount{schema.Cell{Raw: c.Raw}, c.Count, c.First})
	}
	want := []CellCount{{schema.Cell{Raw: "3"}, 2, 0}, {schema.Cell{}, 1, 2}, {schema.Cell{Raw: "4"}, 1, 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c := CellsOf(d.Cases, "no such"); len(c) != 1 || c[0].Count != 4 || c[0].State != schema.Unmentioned {
		t.Errorf("%+v of an attribute that no case has", c)
	}
	if shared := &d.Cases[0].Labels; len(*shared) != 1 || d.Cases[2].Labels["label"] != 0 || d.Cases[1].Labels["label"] != 1 {
		t.Error("labels of cases with equal and with other ones")
	}
}

func TestEditingCellsLeavesTheCasesAlone(t *testing.T) {
	cases := []Case{{ID: "a", Attributes: written("site", "arm")}, {ID: "b", Attributes: written("site", "leg", "age", "3")}, {ID: "c"}}
	edited := EditCells(cases, func(i int, name string, cell schema.Cell) schema.Cell {
		if name == "site" {
			return schema.Written(cases[1-i].Attributes.Cell("site").Raw, "")
		}
		return cell
	})
	for i, want := range []map[string]string{{"site": "arm"}, {"site": "leg", "age": "3"}, {}} {
		if diff := cmp.Diff(want, texts(cases[i].Attributes)); diff != "" {
			t.Errorf("the given case %d: %s", i, diff)
		}
	}
	if a, b := edited[0].Attributes.Cell("site").Raw, edited[1].Attributes; a != "leg" || b.Cell("site").Raw != "arm" || b.Cell("age").Raw != "3" {
		t.Errorf("edited: %q, %v", a, texts(b))
	}
}
