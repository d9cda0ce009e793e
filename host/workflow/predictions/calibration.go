package predictions

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/optimize"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Calibration is how a run's reconstructed probabilities are made to mean what they
// say: one temperature T (Guo et al., On calibration of modern neural networks, ICML
// 2017, section 4.2), fitted on values of the validation split that were hidden from
// the best checkpoint. Reported probabilities are p^(1/T), normalised.
type Calibration struct {
	SchemaVersion int     `json:"schema_version"`
	Temperature   float64 `json:"temperature"`
	// Values is the number of hidden values.
	Values int `json:"values"`
	// NLL is the mean negative log-likelihood of the true values and ECE the expected
	// calibration error of the greatest probability in 10 bins, before and after.
	NLL           float64 `json:"nll"`
	ECE           float64 `json:"ece"`
	CalibratedNLL float64 `json:"calibrated_nll"`
	CalibratedECE float64 `json:"calibrated_ece"`
}

// Helps reports whether the temperature lowers both errors; one that does not is not used.
func (c *Calibration) Helps() bool {
	return c != nil && c.CalibratedNLL < c.NLL && c.CalibratedECE < c.ECE
}

// String says what reported probabilities are worth, for people; c may be nil.
func (c *Calibration) String() string {
	switch {
	case c == nil:
		return "The probabilities are not calibrated: the run's validation split has too few values to hide, or no report."
	case !c.Helps():
		return fmt.Sprintf("The probabilities are not calibrated: no temperature lowers their error on %d hidden values of the validation split (expected calibration error %.3f).", c.Values, c.ECE)
	}
	return fmt.Sprintf("The probabilities are calibrated with temperature %.2f, fitted on %d hidden values of the validation split: expected calibration error %.3f there, %.3f without.",
		c.Temperature, c.Values, c.CalibratedECE, c.ECE)
}

// Answer is a reconstructed distribution with the true value.
type Answer struct {
	Probabilities []float64
	// Value is the index of the true one.
	Value int
}

// temper returns p^(1/temperature), normalised.
func temper(p []float64, temperature float64) []float64 {
	z := make([]float64, len(p))
	for i, v := range p {
		z[i] = math.Log(math.Max(v, 1e-12)) / temperature
	}
	return stat.Softmax(z)
}

// Calibrate fits the temperature: it minimises the negative log-likelihood, which is convex in 1/T.
func Calibrate(answers []Answer) (*Calibration, error) {
	loss := func(temperature float64) float64 {
		sum := 0.0
		for _, a := range answers {
			sum -= math.Log(math.Max(temper(a.Probabilities, temperature)[a.Value], 1e-300))
		}
		return sum / float64(len(answers))
	}
	// Beyond these bounds the likelihood is flat.
	bounded := func(logT float64) float64 { return math.Exp(math.Max(-4, math.Min(4, logT))) }
	problem := optimize.Problem{Func: func(x []float64) float64 { return loss(bounded(x[0])) }}
	result, err := optimize.Minimize(problem, []float64{0}, nil, &optimize.NelderMead{})
	if err != nil {
		return nil, fmt.Errorf("calibration of the reconstruction: %w", err)
	}
	temperature := bounded(result.X[0])
	return &Calibration{SchemaVersion: 1, Temperature: temperature, Values: len(answers),
		NLL: loss(1), CalibratedNLL: loss(temperature), ECE: calibrationError(answers, 1), CalibratedECE: calibrationError(answers, temperature)}, nil
}

// calibrationError is the expected calibration error of the greatest probability in 10
// bins of equal width.
func calibrationError(answers []Answer, temperature float64) float64 {
	var gap [10]float64
	for _, a := range answers {
		p := temper(a.Probabilities, temperature)
		best := stat.ArgMax(p)
		bin := min(9, int(10*p[best]))
		gap[bin] -= p[best]
		if best == a.Value {
			gap[bin]++
		}
	}
	sum := 0.0
	for _, g := range gap {
		sum += math.Abs(g)
	}
	return sum / float64(len(answers))
}
