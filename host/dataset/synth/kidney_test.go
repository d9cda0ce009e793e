package synth_test

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

func kidneys(t *testing.T, o synth.KidneyOptions) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "set")
	if _, err := synth.Kidney(context.Background(), dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What the lexicon reads of a report is what was meant, in all thirteen attributes.
func TestTheLexiconReadsTheReportsOfKidneys(t *testing.T) {
	dir := kidneys(t, synth.KidneyOptions{Patients: 20, Size: 32, Missing: -1, Seed: 2})
	x, err := rules.Open(rules.Options{Lexicon: "kidney"})
	if err != nil {
		t.Fatal(err)
	}
	reports, err := report.Read(report.Source{Path: filepath.Join(dir, "reports.csv")})
	if err != nil {
		t.Fatal(err)
	}
	read, err := x.Table(context.Background(), nil, reports)
	if err != nil {
		t.Fatal(err)
	}
	// words of the truth that the table has otherwise
	table := map[string]map[string]string{"bosniak": {"yes": "IV", "no": "II"}, "cyst_kind": {"yes": "complex", "no": "simple"}}
	words := map[string]string{"yes": "1", "no": "0"}
	at := map[string]int{}
	for i, a := range read.Schema.Attributes {
		at[a.Name] = i
	}
	texts := map[string][]string{}
	for i, id := range read.IDs {
		for k := range read.Schema.Attributes {
			texts[id] = append(texts[id], schema.FormatCell(read.Schema.Attributes[k], read.Cells[i][k]))
		}
	}
	checked := 0
	for _, truth := range rows(t, filepath.Join(dir, "synthetic_truth.csv")) {
		for name, want := range truth {
			if name == "id" || name == "texture" || name == "behaviour" {
				continue
			}
			if w, ok := table[name][want]; ok {
				want = w
			} else if w, ok := words[want]; ok {
				want = w
			}
			if got := texts[truth["id"]][at[name]]; got != want {
				t.Errorf("%s: %s is read as %q, want %q", truth["id"], name, got, want)
			}
			checked++
		}
	}
	if checked != 20*13 {
		t.Errorf("%d cells, want thirteen of each of 20", checked)
	}
}

// The volume shows the texture alone: mean and spread in the lesion are alike, neighbours are not.
func TestOnlyTextureTellsLesionsOfKidneysApart(t *testing.T) {
	dir := kidneys(t, synth.KidneyOptions{Patients: 16, Seed: 3})
	sums := map[string]*[4]float64{"even": {}, "mottled": {}}
	for _, r := range rows(t, filepath.Join(dir, "volumes.csv")) {
		v, err := nifti.Read(filepath.Join(dir, r["path"]))
		if err != nil {
			t.Fatal(err)
		}
		m, err := nifti.Read(filepath.Join(dir, r["mask"]))
		if err != nil {
			t.Fatal(err)
		}
		texture, _, _ := strings.Cut(r["label"], "_")
		n, mean, square, step := 0.0, 0.0, 0.0, 0.0
		for i, value := range m.Data {
			if value == 2 {
				n, mean, square = n+1, mean+float64(v.Data[i]), square+float64(v.Data[i])*float64(v.Data[i])
				step += math.Abs(float64(v.Data[i] - v.Data[i-1]))
			}
		}
		s := sums[texture]
		s[0], s[1], s[2], s[3] = s[0]+1, s[1]+mean/n, s[2]+math.Sqrt(square/n-mean/n*mean/n), s[3]+step/n
	}
	even, mottled := sums["even"], sums["mottled"]
	of := func(s *[4]float64, k int) float64 { return s[k] / s[0] }
	if d := math.Abs(of(even, 1) - of(mottled, 1)); d > 15 {
		t.Errorf("mean %.1f and %.1f HU", of(even, 1), of(mottled, 1))
	}
	if of(mottled, 3) < 1.4*of(even, 3) {
		t.Errorf("from voxel to voxel %.1f HU where mottled, %.1f where even: the texture does not tell", of(mottled, 3), of(even, 3))
	}
	t.Logf("mean, spread, step: even %.1f %.1f %.1f, mottled %.1f %.1f %.1f", of(even, 1), of(even, 2), of(even, 3), of(mottled, 1), of(mottled, 2), of(mottled, 3))
}
