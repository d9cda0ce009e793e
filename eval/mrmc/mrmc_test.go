package mrmc

import (
	"encoding/csv"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// vanDyke are the ratings of 114 cases by five readers with cine (0) and spin-echo (1) MRI:
// Van Dyke et al., Radiology 189 (1993), as the MRMC programs of the University of Iowa
// distribute them. truth is 1 for the 45 dissections.
func vanDyke(t *testing.T) (truth []int, ratings [2][5][]float64) {
	t.Helper()
	f, err := os.Open("testdata/vandyke.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] {
		sick, _ := strconv.Atoi(row[1])
		truth = append(truth, sick)
		for k, cell := range row[2:] {
			v, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				t.Fatal(err)
			}
			ratings[k/5][k%5] = append(ratings[k/5][k%5], v)
		}
	}
	return truth, ratings
}

// study makes a figure for every reader and modality, of all cases and without each.
func study(cases int, figure func(m, r, without int) float64) Study {
	table := func(without int) [][]float64 {
		out := make([][]float64, 2)
		for m := range out {
			for r := range 5 {
				out[m] = append(out[m], figure(m, r, without))
			}
		}
		return out
	}
	s := Study{Figures: table(-1)}
	for k := range cases {
		s.LeftOut = append(s.LeftOut, table(k))
	}
	return s
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(want)))-6) // seven digits are printed
	if math.Abs(got-want) > 2*unit {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// The figures are those of MRMCaov 0.2 and of RJafroc's dataset02 (areas by Wilcoxon), which
// print seven digits.
func TestAreasOfVanDykeAreThoseOfMRMCaovAndRJafroc(t *testing.T) {
	truth, ratings := vanDyke(t)
	a, err := Analyze(study(len(truth), func(m, r, without int) float64 {
		above, pairs := 0.0, 0.0
		for i, sick := range truth {
			for k, other := range truth {
				if i == without || k == without || sick == 0 || other == 1 {
					continue
				}
				pairs++
				switch x, y := ratings[m][r][i], ratings[m][r][k]; {
				case x > y:
					above++
				case x == y:
					above += 0.5
				}
			}
		}
		return above / pairs
	}), 0.95)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "MS of modalities", a.MSModality, 0.004796171)
	near(t, "MS of the interaction", a.MSInteraction, 0.0005510306)
	near(t, "Cov2", a.Cov2, 0.0003440748)
	near(t, "Cov3", a.Cov3, 0.0002390284)
	x := a.RandomReadersRandomCases
	near(t, "F", x.Test.F, 4.456319)
	near(t, "degrees of freedom", x.Test.DF2, 15.25967)
	near(t, "p", x.Test.P, 0.05166569)
	d := x.Differences[Pair{0, 1}]
	near(t, "difference", d.Value, -0.04380032)
	near(t, "its error", d.StdErr, 0.02074862)
	near(t, "its p", d.P, 0.05166569)
	near(t, "its lower end", d.Low, -0.08795950)
	near(t, "first modality", x.Modalities[0].Value, 0.8970370)
	near(t, "second modality", x.Modalities[1].Value, 0.9408374)
}

// MRMCaov's documentation: sensitivity at a rating of 3, by the 45 cases with a dissection.
func TestSensitivitiesOfVanDykeAreThoseOfMRMCaov(t *testing.T) {
	truth, ratings := vanDyke(t)
	var sick []int
	for i, yes := range truth {
		if yes == 1 {
			sick = append(sick, i)
		}
	}
	a, err := Analyze(study(len(sick), func(m, r, without int) float64 {
		found, n := 0.0, 0.0
		for k, i := range sick {
			if k != without {
				n++
				if ratings[m][r][i] >= 3 {
					found++
				}
			}
		}
		return found / n
	}), 0.95)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "Var", a.Var, 0.0023681257)
	near(t, "Cov1", a.Cov1, 0.0009943883)
	near(t, "Cov2", a.Cov2, 0.0010145903)
	near(t, "Cov3", a.Cov3, 0.0006604938)
	x := a.RandomReadersRandomCases
	near(t, "F", x.Test.F, 6.689493)
	near(t, "degrees of freedom", x.Test.DF2, 15.71732)
	near(t, "p", x.Test.P, 0.02008822)
	d := x.Differences[Pair{0, 1}]
	near(t, "lower end", d.Low, -0.1780371)
	near(t, "upper end", d.High, -0.0175185)
	near(t, "first modality", x.Modalities[0].Value, 0.8222222)
	near(t, "its error", x.Modalities[0].StdErr, 0.05893747)
	near(t, "its degrees of freedom", x.Modalities[0].DF, 14.456811)
	near(t, "its lower end", x.Modalities[0].Low, 0.6961876)
	near(t, "second modality's degrees of freedom", x.Modalities[1].DF, 7.575855)
	near(t, "its lower end", x.Modalities[1].Low, 0.8328691)
}

// With readers fixed, the test of two modalities is the z-test of the readers' mean difference,
// whose variance the jackknife gives directly.
func TestFixedReadersAreAZTestOfTheMeanDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawStudy(t, 2, rapid.IntRange(1, 4).Draw(t, "readers"))
		a, err := Analyze(s, 0.9)
		if err != nil {
			t.Fatal(err)
		}
		difference := func(f [][]float64) float64 {
			sum := 0.0
			for r := range f[0] {
				sum += (f[0][r] - f[1][r]) / float64(len(f[0]))
			}
			return sum
		}
		mean, square, n := 0.0, 0.0, float64(len(s.LeftOut))
		for _, f := range s.LeftOut {
			mean += difference(f) / n
		}
		for _, f := range s.LeftOut {
			square += math.Pow(difference(f)-mean, 2) * (n - 1) / n
		}
		if len(s.Figures[0]) > 1 && a.Cov2 < a.Cov3 {
			t.Skip("a negative part is taken for 0")
		}
		d := a.FixedReadersRandomCases.Differences[Pair{0, 1}]
		if math.Abs(d.StdErr-math.Sqrt(square)) > 1e-9 || math.Abs(d.Value-difference(s.Figures)) > 1e-12 {
			t.Fatalf("%+v, want %v with error %v", d, difference(s.Figures), math.Sqrt(square))
		}
		if p := a.FixedReadersRandomCases.Test.P; math.Abs(p-d.P) > 1e-9 {
			t.Fatalf("test %v, difference %v", p, d.P)
		}
	})
}

// Two modalities: every F is the square of its t, so that their p-values agree.
func TestTheTestOfTwoModalitiesIsThatOfTheirDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, err := Analyze(drawStudy(t, 2, rapid.IntRange(2, 5).Draw(t, "readers")), 0.95)
		if err != nil {
			t.Fatal(err)
		}
		for name, x := range map[string]*Inference{"both random": a.RandomReadersRandomCases, "fixed readers": a.FixedReadersRandomCases, "fixed cases": a.RandomReadersFixedCases} {
			d := x.Differences[Pair{0, 1}]
			if math.Abs(x.Test.P-d.P) > 1e-6 || math.Abs(x.Test.F-math.Pow(d.Value/d.StdErr, 2)) > 1e-6*(1+x.Test.F) {
				t.Fatalf("%s: %+v and %+v", name, x.Test, d)
			}
			if !(d.Low <= d.Value && d.Value <= d.High) || (d.Low > 0 || d.High < 0) != (d.P < 0.05) {
				t.Fatalf("%s: %+v", name, d)
			}
		}
	})
}

func drawStudy(t *rapid.T, modalities, readers int) Study {
	value := rapid.Float64Range(0.3, 0.9)
	table := func(name string, around [][]float64) [][]float64 {
		out := make([][]float64, modalities)
		for m := range out {
			for r := range readers {
				v := value.Draw(t, name)
				if around != nil {
					v = around[m][r] + (v-0.6)/50
				}
				out[m] = append(out[m], v)
			}
		}
		return out
	}
	s := Study{Figures: table("figure", nil)}
	for range rapid.IntRange(3, 8).Draw(t, "cases") {
		s.LeftOut = append(s.LeftOut, table("left out", s.Figures))
	}
	return s
}

func TestStudiesThatCannotBeAnalysedAreRefused(t *testing.T) {
	good := [][]float64{{0.5, 0.6}, {0.7, 0.8}}
	for want, s := range map[string]Study{
		"no modality":                    {},
		"1 cases":                        {Figures: good, LeftOut: [][][]float64{good}},
		"every reader reads":             {Figures: [][]float64{{0.5, 0.6}, {0.7}}, LeftOut: [][][]float64{good, good}},
		"without case 1":                 {Figures: good, LeftOut: [][][]float64{good, {{0.5, 0.6}}}},
		"modality 1 and reader 0 is NaN": {Figures: [][]float64{{0.5, 0.6}, {math.NaN(), 0.8}}, LeftOut: [][][]float64{good, good}},
	} {
		if _, err := Analyze(s, 0.95); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := Analyze(Study{good, [][][]float64{good, good}}, 1); err == nil {
		t.Error("a level of 1 passes")
	}
}

func TestEqualModalitiesHaveNoDifference(t *testing.T) {
	same := [][]float64{{0.5, 0.6}, {0.5, 0.6}}
	a, err := Analyze(Study{same, [][][]float64{same, same, same}}, 0.95)
	if err != nil {
		t.Fatal(err)
	}
	if x := a.RandomReadersRandomCases; x.Test.P != 1 || x.Differences[Pair{0, 1}].P != 1 || x.Differences[Pair{0, 1}].Value != 0 {
		t.Errorf("%+v", x)
	}
}
