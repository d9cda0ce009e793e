package dataset

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// askedTable writes a table with numbers, times and classes, and one picture for all rows.
func askedTable(t *testing.T, rows string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.png"), greyPNG(t, 8, 8, func(x, y int) uint8 { return uint8(x + y) }))
	path := filepath.Join(dir, "t.csv")
	write(t, path, "id,image,split,label.grade,size_mm,time,event\n"+rows)
	return "table:" + path
}

const askedRows = "a,a.png,train,1,4,2,1\nb,a.png,train,2,8,5,0\nc,a.png,train,1,6,9,1\nd,a.png,test,2,,,\n"

func TestNumbersAndTimesAreReadBesideClasses(t *testing.T) {
	d := mustOpen(t, askedTable(t, askedRows), Options{Asked: "size_mm:regression,grade:ordinal,os:survival"})
	if err := d.Scale(d.Cases[:3], 2); err != nil {
		t.Fatal(err)
	}
	want := []sdk.LabelSet{
		{Name: "size_mm", Question: sdk.AsksNumber, Unit: "mm", Mean: 6, SD: 2},
		{Name: "grade", Question: sdk.AsksGrade, Classes: []string{"1", "2"}},
		{Name: "os", Question: sdk.AsksTime, Classes: []string{"0-9", "9-"}},
	}
	for k, set := range d.Labels {
		if w := want[k]; set.Name != w.Name || set.Asks() != w.Question || set.Unit != w.Unit || set.Mean != w.Mean || set.SD != w.SD || !slices.Equal(set.Classes, w.Classes) {
			t.Errorf("%+v, want %+v", set, w)
		}
	}
	if len(d.AttributeColumns) != 0 {
		t.Errorf("attributes %q, want none: all columns are asked for", d.AttributeColumns)
	}
	if c := d.Cases[1]; c.Measured["os"] != (Measured{Value: 5}) || c.Measured["size_mm"].Value != 8 || c.Labels["grade"] != 1 {
		t.Errorf("%+v %+v", c.Measured, c.Labels)
	}
	if c := d.Cases[3]; len(c.Measured) != 0 || !c.HasTargets {
		t.Errorf("an unknown number and time: %+v", c)
	}
	b := batches(t, d, d.Cases, LoaderOptions{Batch: 4, Targets: true})[0]
	value := floats(t, b, "target.value.size_mm")
	if !slices.Equal(value[:3], []float32{-1, 1, 0}) || !math.IsNaN(float64(value[3])) {
		t.Errorf("target.value %v, want standard deviations from the mean, NaN unknown", value)
	}
	interval, _ := b.Tensors["target.label.os"].Int64s()
	censored, _ := b.Tensors["target.censored.os"].Int8s()
	// b was followed to more than half of the first interval: it has passed it.
	if !slices.Equal(interval, []int64{0, 1, 1, -1}) || !slices.Equal(censored, []int8{0, 1, 0, 0}) {
		t.Errorf("intervals %v, censored %v", interval, censored)
	}
	// A run knows its questions where no column answers them.
	free := mustOpen(t, askedTable(t, askedRows)+"?labels=grade", Options{Asked: "size_mm:regression,grade:ordinal", LabelSets: d.Labels[:2]})
	if len(free.Cases) != 4 {
		t.Errorf("%d cases", len(free.Cases))
	}
}

func TestNumbersAndTimesThatAreNoneAreRefusedByRow(t *testing.T) {
	for name, c := range map[string]struct{ asked, rows, want string }{
		"a word":          {"size_mm:regression", "a,a.png,train,1,large,2,1\n", `t.csv:2: size_mm: "large" is no number: head.question=regression`},
		"an infinity":     {"size_mm:regression", "a,a.png,train,1,1e999,2,1\n", `t.csv:2: size_mm: "1e999"`},
		"a negative time": {"survival", askedRows + "e,a.png,train,1,4,-1,1\n", `t.csv:6: time: "-1", want the time of the event.*0 or more`},
		"no event cell":   {"survival", "a,a.png,train,1,4,1,\n", `t.csv:2: event: "", want 1 .the event happened then. or 0`},
		"an event of 2":   {"survival", "a,a.png,train,1,4,1,2\n", `t.csv:2: event: "2", want 1`},
		"no time cell":    {"survival", "a,a.png,train,1,4,,1\n", `t.csv:2: time: "", want the time`},
		"no such columns": {"os:survival,x:regression", "a,a.png,train,1,4,,1\n", `label column "x" is unknown`},
	} {
		_, err := Open(askedTable(t, c.rows), Options{Asked: c.asked})
		wantMatch(t, name, err, c.want)
	}
	_, err := Open("table:"+tableDir(t), Options{Asked: "survival"})
	wantMatch(t, "no times at all", err, `data.csv:1: column "time", "event" is absent.*head.question=survival asks for the time to an event`)
	for name, c := range map[string]struct{ asked, rows, want string }{
		"no event":    {"survival", "a,a.png,train,1,4,1,0\nb,a.png,train,1,4,2,0\n", "0 of the 2 training cases have the event"},
		"one time":    {"survival", "a,a.png,train,1,4,0,1\nb,a.png,train,1,4,0,1\n", "all happen at one time"},
		"one number":  {"size_mm:regression", "a,a.png,train,1,4,0,1\nb,a.png,train,1,4,0,1\n", "size_mm is the same in all of the 2 training cases"},
		"no question": {"grade", "", `head.question: question "grade" is unknown`},
	} {
		d, err := Open(askedTable(t, c.rows+"z,a.png,test,1,4,0,1\n"), Options{Asked: c.asked})
		if err == nil {
			err = d.Scale(d.Cases[:len(d.Cases)-1], 5)
		}
		wantMatch(t, name, err, c.want)
	}
}

func TestUnitsStandBehindColumns(t *testing.T) {
	for column, want := range map[string]string{"size_mm": "mm", "dose [mGy]": "mGy", "volume (ml)": "ml", "time to relapse months": "months", "size": "", "commit": "", "age_years": "years"} {
		if got := unitOf(column); got != want {
			t.Errorf("%s: %q, want %q", column, got, want)
		}
	}
}
