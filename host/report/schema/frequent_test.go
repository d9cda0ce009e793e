package schema

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFrequentKeepsWhatEnoughReportsMention(t *testing.T) {
	s := &Schema{[]Attribute{itch, region, age}}
	silent := Cell{Value: -1}
	rows := [][]Cell{
		{{State: Negated, Value: 0}, {State: Stated, Value: 2}, {State: Stated, Value: 0, Raw: "10"}},
		{silent, {State: Stated, Value: 2}, {State: Uncertain, Value: 2, Raw: "50"}},
		{silent, {State: Uncertain, Value: 0}, silent},
		{silent, {State: Negated, Value: -1}, silent},
	}
	want := []Count{{"itch", 0, 1, 0, 3}, {"region", 2, 1, 1, 0}, {"age", 1, 0, 1, 2}}
	if diff := cmp.Diff(want, CountStates(s, rows)); diff != "" {
		t.Error(diff)
	}
	reordered := Attribute{Name: "region", Kind: Categorical, Values: []string{"back", "face"}}
	binned := Attribute{Name: "age", Kind: Numeric, Values: []string{"under 30", "30 or more"}, Edges: []float64{30}, Ordinal: true}
	for share, want := range map[float64][]Attribute{
		0: {itch, reordered, binned}, 0.25: {itch, reordered, binned}, 0.26: {reordered, binned}, 0.5: {reordered, binned}, 0.51: {reordered},
	} {
		if diff := cmp.Diff(want, Frequent(s, rows, share, 5).Attributes); diff != "" {
			t.Errorf("share %g: %s", share, diff)
		}
	}
	one := [][]Cell{{silent, {State: Stated, Value: 1}, {State: Stated, Value: 0, Raw: "10"}}}
	if got := Frequent(s, one, 0, 5).Attributes; len(got) != 0 {
		t.Errorf("%v have one value or none, and were kept", got)
	}
	if diff := cmp.Diff([]string{"face", "upper arm", "back"}, s.Attributes[1].Values); diff != "" {
		t.Errorf("the schema that was given was changed: %s", diff)
	}
}

func TestRestrictKeepsTheOrder(t *testing.T) {
	s := &Schema{[]Attribute{itch, region, age}}
	if diff := cmp.Diff([]string{"itch", "age"}, s.Restrict([]string{"age", "x", "itch"}).Names()); diff != "" {
		t.Error(diff)
	}
}

// Edges belong to the bin above them; with as many values as bins each has its own.
func TestBinningAtItsBoundaries(t *testing.T) {
	for v, want := range map[float64]int{29.999: 0, 30: 1, 44.999: 1, 45: 2, 1e9: 2} {
		if got := age.Bin(v); got != want {
			t.Errorf("%g is in bin %d, want %d", v, got, want)
		}
	}
	if diff := cmp.Diff([]float64{1.5, 2.5}, QuantileEdges([]float64{3, 1, 2}, 3)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]float64{3}, QuantileEdges([]float64{3, 1, 2, 4}, 2)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"under 1", "1 to 2.5", "2.5 or more"}, BinLabels([]float64{1, 2.5})); diff != "" {
		t.Error(diff)
	}
}

func TestRareValuesAreLeftOutOfTheSet(t *testing.T) {
	training := columnsOf([]string{"a"}, []string{"x"}, []string{"x"}, []string{"y"}, []string{"y"}, []string{"possibly z"}, []string{"w"})
	s, _, err := FromColumns(training, 6, Options{MaxValues: 3})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x", "y", "w"}, s.Attributes[0].Values); diff != "" {
		t.Error(diff)
	}
	for _, o := range []Options{{Bins: 1}, {MaxValues: 1}, {Kinds: map[string]Kind{"b": Binary}}} {
		if _, _, err := FromColumns(training, 6, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
