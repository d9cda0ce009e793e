package feed

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/embed"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func hashed(t *testing.T, dim int) embed.Encoder {
	t.Helper()
	e, err := embed.Hashed(dim)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var reportSchema = &schema.Schema{Attributes: []schema.Attribute{
	{Name: "itch", Kind: schema.Binary, Values: []string{"no", "yes"}},
	{Name: "region", Kind: schema.Categorical, Values: []string{"face", "arm", "back"}},
}}

// written makes cells as a table gives them, of names and texts in turn.
func written(pairs ...string) dataset.Attributes {
	cells := map[string]schema.Cell{}
	for i := 0; i < len(pairs); i += 2 {
		cells[pairs[i]] = schema.Written(pairs[i+1], "data.csv:7")
	}
	return dataset.NewAttributes(cells)
}

func bind(t *testing.T, s *schema.Schema, cases []dataset.Case) {
	t.Helper()
	if err := (&dataset.Dataset{Cases: cases}).Bind(s, false); err != nil {
		t.Fatal(err)
	}
}

func TestReportPortsHoldStatesValuesAndEmbeddings(t *testing.T) {
	cases := []dataset.Case{
		{ID: "a", Attributes: written("itch", "yes", "region", "arm")},
		{ID: "b", Attributes: written("itch", "no")},
		{ID: "c", Attributes: written("region", "possibly back", "itch", "")},
	}
	bind(t, reportSchema, cases)
	r, err := NewReports(reportSchema, cases, hashed(t, 16), embed.Cache{}, "")
	if err != nil {
		t.Fatal(err)
	}
	inputs := map[string]*tensor.Tensor{}
	r.add(inputs, cases)
	states, _ := inputs["report.state"].Int8s()
	values, _ := inputs["report.value"].Int64s()
	if diff := cmp.Diff([]int8{1, 1, 2, 0, 0, 3}, states); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int64{1, 1, 0, -1, -1, 2}, values); diff != "" {
		t.Error(diff)
	}
	embedding, err := inputs["report.embedding"].Float32s()
	if err != nil || len(embedding) != 3*2*16 {
		t.Fatalf("%d numbers, %v", len(embedding), err)
	}
	for i, state := range states {
		var squares float64
		for _, v := range embedding[i*16 : (i+1)*16] {
			squares += float64(v) * float64(v)
		}
		if (state == 0) != (squares == 0) {
			t.Errorf("cell %d with state %d has an embedding of norm %g", i, state, math.Sqrt(squares))
		}
	}
	constant, err := r.ValueEmbeddings.Float32s()
	if err != nil || r.ValueEmbeddings.String() != "FP32 [2 3 16]" {
		t.Fatalf("value embeddings are %s, %v", r.ValueEmbeddings, err)
	}
	for _, v := range constant[2*16 : 3*16] { // itch has two values
		if v != 0 {
			t.Error("the place of a value that is not there is not zero")
		}
	}
}

func TestCentredReportsEncodeOtherCasesTheSame(t *testing.T) {
	cases := []dataset.Case{{ID: "a", Attributes: written("itch", "yes", "region", "arm")}}
	others := []dataset.Case{{ID: "b", Attributes: written("itch", "no", "region", "possibly back")}, {ID: "a", Attributes: written("itch", "yes", "region", "arm")}}
	bind(t, reportSchema, cases)
	bind(t, reportSchema, others)
	e := hashed(t, 64)
	e.Center = true
	r, err := NewReports(reportSchema, cases, e, embed.Cache{}, "")
	if err != nil {
		t.Fatal(err)
	}
	o, err := r.Of(others)
	if err != nil {
		t.Fatal(err)
	}
	of := func(r *Reports, c []dataset.Case) []float32 {
		inputs := map[string]*tensor.Tensor{}
		r.add(inputs, c)
		v, _ := inputs["report.embedding"].Float32s()
		return v
	}
	if diff := cmp.Diff(of(r, cases), of(o, others[1:])); diff != "" {
		t.Errorf("centred twice: %s", diff)
	}
	plain, err := NewReports(reportSchema, cases, hashed(t, 64), embed.Cache{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if cmp.Equal(of(r, cases), of(plain, cases)) {
		t.Error("text.center changes nothing")
	}
}
