// Package mrmc compares modalities that several readers have read on the same cases, by the
// analysis of variance of Obuchowski and Rockette with the degrees of freedom of Hillis. Its
// covariances come from the jackknife, with which the method equals that of Dorfman, Berbaum
// and Metz.
//
// Sources: Obuchowski and Rockette, Communications in Statistics 24 (1995); Hillis, Statistics
// in Medicine 26 (2007), eq. 7 to 17 for degrees of freedom and single modalities; Hillis,
// Berbaum and Metz, Academic Radiology 15 (2008), table 1 for fixed readers or fixed cases.
package mrmc

import (
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// Study holds figures of merit (an area under a curve, a sensitivity) of every reader with
// every modality.
type Study struct {
	Figures [][]float64   // [modality][reader]
	LeftOut [][][]float64 // [case][modality][reader]: the same without that case
}

// Components are the mean squares and covariances of a study.
type Components struct {
	MSModality, MSReader, MSInteraction float64 // MSInteraction: of modality and reader; NaN where there is one of either
	Var                                 float64 // of one figure, over the cases
	Cov1                                float64 // of two modalities read by one reader; NaN for one modality
	Cov2                                float64 // of two readers of one modality; NaN for one reader
	Cov3                                float64 // of two readers of two modalities; NaN for one of either
}

// Test is the question whether all modalities are equal.
type Test struct {
	F, DF1, DF2 float64 // DF2 is +Inf where F is a χ² divided by DF1
	P           float64
}

// Estimate is a figure with its standard error and interval. DF is +Inf where the normal
// distribution is used.
type Estimate struct {
	Value, StdErr, DF float64
	Low, High         float64
	P                 float64 // of a difference: two-sided, that it is 0; NaN of a single figure
}

// Inference is what is said of readers and cases that are each random (drawn from a
// population to which it generalises) or fixed (these, and no others).
type Inference struct {
	Test        Test
	Modalities  []Estimate        // mean over readers
	Differences map[Pair]Estimate // first minus second, mean over readers
}

// Pair are the indices of two modalities, the lower one first.
type Pair struct{ First, Second int }

// Analysis is the outcome of [Analyze]. An inference is nil where there are too few readers
// or modalities for it.
type Analysis struct {
	Components
	RandomReadersRandomCases *Inference // generalises to both: two readers at least
	FixedReadersRandomCases  *Inference // to other cases, for these readers
	RandomReadersFixedCases  *Inference // to other readers, for these cases: two readers at least
}

// Analyze compares modalities at a confidence level between 0 and 1. It needs one modality,
// one reader and two cases, and figures that are all numbers.
func Analyze(s Study, level float64) (*Analysis, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if !(level > 0 && level < 1) {
		return nil, fmt.Errorf("level %v, want a number between 0 and 1", level)
	}
	i, j := float64(len(s.Figures)), float64(len(s.Figures[0]))
	a := &Analysis{}
	means := a.squares(s.Figures)
	perModality := a.covariances(s.LeftOut)
	ahead := math.Max(a.Cov2-a.Cov3, 0) // a covariance of more than its due is noise (Hillis 2007)
	if j == 1 {
		ahead = 0
	}
	build := func(denominator, df float64, single func(m int) (variance, df float64)) *Inference {
		out := &Inference{Test: test(a.MSModality, denominator, i-1, df), Differences: map[Pair]Estimate{}}
		for m := range means {
			of, ofDF := single(m)
			e := estimate(means[m], math.Sqrt(of), ofDF, level)
			e.P = math.NaN()
			out.Modalities = append(out.Modalities, e)
			for n := m + 1; n < len(means); n++ {
				out.Differences[Pair{m, n}] = estimate(means[m]-means[n], math.Sqrt(2*denominator/j), df2(df), level)
			}
		}
		return out
	}
	a.FixedReadersRandomCases = build(a.Var-orZero(a.Cov1)+float64((j-1)*ahead), math.Inf(1), func(m int) (float64, float64) {
		c := perModality[m]
		return (c.Var + float64((j-1)*math.Max(orZero(c.Cov2), 0))) / j, math.Inf(1)
	})
	if j < 2 {
		return a, nil
	}
	denominator := orZero(a.MSInteraction) + float64(j*ahead)
	a.RandomReadersRandomCases = build(denominator, satterthwaite(denominator, orZero(a.MSInteraction), (i-1)*(j-1)), func(m int) (float64, float64) {
		ms := variance(s.Figures[m])
		sum := ms + float64(j*math.Max(perModality[m].Cov2, 0))
		return sum / j, satterthwaite(sum, ms, j-1)
	})
	a.RandomReadersFixedCases = build(orZero(a.MSInteraction), (i-1)*(j-1), func(m int) (float64, float64) {
		return variance(s.Figures[m]) / j, j - 1
	})
	return a, nil
}

func (s Study) check() error {
	if len(s.Figures) == 0 || len(s.Figures[0]) == 0 {
		return errors.New("no modality or no reader")
	}
	if len(s.LeftOut) < 2 {
		return fmt.Errorf("%d cases, want 2 or more", len(s.LeftOut))
	}
	readers := len(s.Figures[0])
	shaped := func(f [][]float64, of string) error {
		if len(f) != len(s.Figures) {
			return fmt.Errorf("%s has %d modalities, want %d", of, len(f), len(s.Figures))
		}
		for m, row := range f {
			if len(row) != readers {
				return fmt.Errorf("%s has %d readers of modality %d, want %d: every reader reads every modality", of, len(row), m, readers)
			}
			for r, v := range row {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("%s: the figure of modality %d and reader %d is %v", of, m, r, v)
				}
			}
		}
		return nil
	}
	if err := shaped(s.Figures, "the study"); err != nil {
		return err
	}
	for k, f := range s.LeftOut {
		if err := shaped(f, fmt.Sprintf("the study without case %d", k)); err != nil {
			return err
		}
	}
	return nil
}

// squares computes the mean squares of modalities × readers and returns the modalities' means.
func (c *Components) squares(f [][]float64) []float64 {
	i, j := len(f), len(f[0])
	modality, reader, all := make([]float64, i), make([]float64, j), 0.0
	for m := range f {
		for r, v := range f[m] {
			modality[m] += v / float64(j)
			reader[r] += v / float64(i)
			all += v / float64(i*j)
		}
	}
	rest := 0.0
	for m := range f {
		for r, v := range f[m] {
			d := v - modality[m] - reader[r] + all
			rest += float64(d * d)
		}
	}
	c.MSModality, c.MSReader = float64(j)*variance(modality), float64(i)*variance(reader)
	c.MSInteraction = rest / float64((i-1)*(j-1)) // NaN, 0/0, for one of either
	return modality
}

// covariances computes Var and Cov1 to Cov3 by the jackknife over cases, and Var and Cov2 of
// each modality.
func (c *Components) covariances(leftOut [][][]float64) []Components {
	cases, i, j := len(leftOut), len(leftOut[0]), len(leftOut[0][0])
	mean := make([]float64, i*j)
	for _, f := range leftOut {
		for m := range f {
			for r, v := range f[m] {
				mean[m*j+r] += v / float64(cases)
			}
		}
	}
	covariance := func(m, r, n, q int) float64 {
		sum := 0.0
		for _, f := range leftOut {
			sum += float64((f[m][r] - mean[m*j+r]) * (f[n][q] - mean[n*j+q]))
		}
		return sum * float64(cases-1) / float64(cases)
	}
	var all, cov1, cov2, cov3 average
	each := make([]Components, i)
	for m := range i {
		var own, others average
		for r := range j {
			own.add(covariance(m, r, m, r))
			for q := range j {
				if q != r {
					others.add(covariance(m, r, m, q))
				}
			}
			for n := range i {
				if n == m {
					continue
				}
				cov1.add(covariance(m, r, n, r))
				for q := range j {
					if q != r {
						cov3.add(covariance(m, r, n, q))
					}
				}
			}
		}
		each[m] = Components{Var: own.value(), Cov2: others.value()}
		all.add(each[m].Var)
		cov2.add(each[m].Cov2)
	}
	c.Var, c.Cov1, c.Cov2, c.Cov3 = all.value(), cov1.value(), cov2.value(), cov3.value()
	return each
}

// average is a mean; NaN of nothing.
type average struct {
	sum float64
	n   int
}

func (a *average) add(v float64)  { a.sum, a.n = a.sum+v, a.n+1 }
func (a *average) value() float64 { return a.sum / float64(a.n) }

// variance divides by n-1; it is NaN of one value.
func variance(values []float64) float64 {
	var mean average
	for _, v := range values {
		mean.add(v)
	}
	sum := 0.0
	for _, v := range values {
		sum += float64((v - mean.value()) * (v - mean.value()))
	}
	return sum / float64(len(values)-1)
}

func orZero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}

// satterthwaite are the degrees of freedom of a sum of which the part ms alone has df.
func satterthwaite(sum, ms, df float64) float64 {
	if ms == 0 {
		return math.Inf(1)
	}
	return sum * sum / (ms * ms / df)
}

// df2 are degrees of freedom for Student's distribution: none (one modality) are as many.
func df2(df float64) float64 {
	if df <= 0 {
		return math.Inf(1)
	}
	return df
}

// test compares a mean square with its error term. Without any variation the modalities are
// equal; with one modality there is no test and its P is NaN.
func test(ms, denominator, df1, df2 float64) Test {
	t := Test{F: ms / denominator, DF1: df1, DF2: df2, P: math.NaN()}
	switch {
	case df1 < 1:
		t.F = math.NaN()
	case ms == 0:
		t.F, t.P = 0, 1
	case denominator <= 0:
		t.F, t.P = math.Inf(1), 0
	case math.IsInf(df2, 1):
		t.P = distuv.ChiSquared{K: df1}.Survival(t.F * df1)
	default:
		t.P = distuv.F{D1: df1, D2: df2}.Survival(t.F)
	}
	return t
}

// estimate is a value with its interval and the two-sided p-value that it is 0.
func estimate(value, stdErr, df, level float64) Estimate {
	var quantile, tail float64
	z := math.Abs(value) / stdErr
	if math.IsInf(df, 1) {
		quantile, tail = distuv.UnitNormal.Quantile((1+level)/2), distuv.UnitNormal.Survival(z)
	} else {
		t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: df}
		quantile, tail = t.Quantile((1+level)/2), t.Survival(z)
	}
	half := float64(quantile * stdErr)
	e := Estimate{Value: value, StdErr: stdErr, DF: df, Low: value - half, High: value + half, P: 2 * tail}
	if stdErr == 0 {
		e.P = 1
		if value != 0 {
			e.P = 0
		}
	}
	return e
}
