package classify

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// DeLong is the area under a class's ROC curve without resampling.
type DeLong struct {
	AUROC, StdErr float64
	CI            resample.Interval // within 0 to 1
}

// DeLongPair is the difference of two systems' areas on the same cases, second minus first.
type DeLongPair struct {
	Difference, StdErr float64
	CI                 resample.Interval
	P                  float64 // two-sided; NaN where the two rank all cases alike
}

// AUROCs estimates each system's area under the ROC curve of a class, and the differences of
// the further ones to the first, at a confidence level. Cases of one patient are one cluster;
// patients are as for Bootstrap. Figures are NaN where the class has fewer than two patients,
// or the other classes have.
//
// Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); with clusters Obuchowski,
// Biometrics 53 (1997), eq. 2 to 5, which is the former where every patient has one case.
func AUROCs(systems []*Result, class int, patients []string, level float64) ([]DeLong, []DeLongPair, error) {
	if !(level > 0 && level < 1) {
		return nil, nil, fmt.Errorf("level %v, want a number between 0 and 1", level)
	}
	for _, r := range systems {
		if !r.made() {
			return nil, nil, errNoResult
		}
	}
	first := systems[0]
	clusters, n, err := clusterOf(patients, first.Cases)
	if err != nil {
		return nil, nil, err
	}
	z := distuv.UnitNormal.Quantile((1 + level) / 2)
	components := make([]influence, len(systems))
	var areas []DeLong
	for s, r := range systems {
		components[s] = r.influence(class, clusters, n)
		e := components[s].covariance(&components[s])
		d := DeLong{AUROC: components[s].auroc, StdErr: math.Sqrt(e)}
		half := float64(z * d.StdErr)
		d.CI = resample.Interval{Low: math.Max(0, d.AUROC-half), High: math.Min(1, d.AUROC+half)}
		areas = append(areas, d)
	}
	var pairs []DeLongPair
	for s := 1; s < len(systems); s++ {
		a, b := &components[0], &components[s]
		d := DeLongPair{Difference: b.auroc - a.auroc, StdErr: math.Sqrt(math.Max(0, a.covariance(a)+b.covariance(b)-float64(2*a.covariance(b))))}
		half := float64(z * d.StdErr)
		d.CI = resample.Interval{Low: d.Difference - half, High: d.Difference + half}
		d.P = math.NaN()
		if d.StdErr > 1e-12 {
			d.P = math.Erfc(math.Abs(d.Difference) / d.StdErr / math.Sqrt2)
		}
		pairs = append(pairs, d)
	}
	return areas, pairs, nil
}

// influence are the sums over a patient's cases of what each adds to an area beyond the mean:
// of cases of the class, and of the others.
type influence struct {
	auroc                   float64
	positives, negatives    float64   // cases
	positive, negative      []float64 // per patient
	withPositive, withOther float64   // patients
}

func (r *Result) influence(class int, clusters []int32, n int) influence {
	x := influence{auroc: r.auroc(class, weights(nil).of), positive: make([]float64, n), negative: make([]float64, n)}
	var above, below float64 // cases of the class, of others, with a greater score
	for _, label := range r.Labels {
		if label == class {
			x.positives++
		} else {
			x.negatives++
		}
	}
	// the share of the others that a case of the class beats, and the reverse; ties count half
	order := r.order[class]
	hasPositive, hasOther := make([]bool, n), make([]bool, n)
	for k := 0; k < len(order); {
		end := k
		score := r.Probabilities[order[k]][class]
		var p, q float64
		for ; end < len(order) && r.Probabilities[order[end]][class] == score; end++ {
			if r.Labels[order[end]] == class {
				p++
			} else {
				q++
			}
		}
		for _, i := range order[k:end] {
			if c := clusters[i]; r.Labels[i] == class {
				x.positive[c] += 1 - (below+float64(q/2))/x.negatives - x.auroc
				hasPositive[c] = true
			} else {
				x.negative[c] += (above+float64(p/2))/x.positives - x.auroc
				hasOther[c] = true
			}
		}
		above, below, k = above+p, below+q, end
	}
	for c := range n {
		if hasPositive[c] {
			x.withPositive++
		}
		if hasOther[c] {
			x.withOther++
		}
	}
	return x
}

// covariance is that of two areas of the same cases.
func (x *influence) covariance(y *influence) float64 {
	var s10, s01, s11 float64
	all := float64(len(x.positive))
	for c := range x.positive {
		s10 += float64(x.positive[c] * y.positive[c])
		s01 += float64(x.negative[c] * y.negative[c])
		s11 += float64(x.positive[c]*y.negative[c]) + float64(x.negative[c]*y.positive[c])
	}
	if x.withPositive < 2 || x.withOther < 2 {
		return math.NaN()
	}
	s10 *= x.withPositive / (x.withPositive - 1)
	s01 *= x.withOther / (x.withOther - 1)
	s11 *= all / (all - 1)
	return s10/x.positives/x.positives + s01/x.negatives/x.negatives + s11/x.positives/x.negatives
}
