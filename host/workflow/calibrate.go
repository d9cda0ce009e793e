package workflow

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/optimize"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/missing"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/report/textembed"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// calibrationFile of a run holds its Calibration.
const calibrationFile = "calibration.json"

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

const (
	// hiddenShare of the values that are left to the validation split is hidden.
	hiddenShare = 0.3
	// leastHidden are too few to fit a temperature on.
	leastHidden = 30
	// hiddenSeed keeps these masks apart from those of data.missing_seed.
	hiddenSeed = 0x63616c6962726174
)

// answer is a reconstructed distribution with the true value.
type answer struct {
	p    []float64
	want int
}

// calibrate fits the temperature and writes calibration.json, where the run
// reconstructs attributes and the validation split has enough of them.
func (t *training) calibrate(ctx context.Context, s *Session) error {
	if _, reconstructs := s.Pipeline.Output("reconstruction"); !reconstructs || s.reports == nil {
		return nil
	}
	checkpoint, _, err := runs.Find(t.Dir, "best")
	if errors.Is(err, runs.ErrNoCheckpoint) {
		return nil // nothing could be measured on the validation split
	}
	if err != nil {
		return err
	}
	if err := loop.Restore(ctx, s.Pipeline, checkpoint, true); err != nil {
		return err
	}
	seed := uint64(t.Config.DataSettings.MissingSeed)
	hidden, err := missing.Remove(t.validation, hiddenShare, seed^hiddenSeed)
	if err != nil {
		return err
	}
	answers, err := s.hiddenAnswers(ctx, t.validation, hidden)
	if err != nil || len(answers) < leastHidden {
		return err
	}
	c, err := fitTemperature(answers)
	if err != nil {
		return err
	}
	return t.run.WriteJSON(calibrationFile, c)
}

// hiddenAnswers predicts the cases from which values were hidden, and keeps the
// reconstructions of those.
func (s *Session) hiddenAnswers(ctx context.Context, whole, hidden []dataset.Case) ([]answer, error) {
	known := s.reports
	defer func() { s.reports = known }()
	var err error
	if s.reports, err = newReports(s.Schema, hidden, known.remembering(), textembed.Cache{}, s.Config.DataSettings.Impute); err != nil {
		return nil, err
	}
	predictions, err := s.Predict(ctx, hidden, nil)
	if err != nil {
		return nil, err
	}
	var answers []answer
	for i, p := range predictions {
		for _, r := range p.Reconstructed {
			a := s.Schema.Attributes[s.Schema.Index(r.Attribute)]
			cell, err := schema.ParseCell(a, whole[i].Attributes[r.Attribute])
			if err != nil {
				return nil, fmt.Errorf("%w: case %q: %w", dataset.ErrData, whole[i].ID, err)
			}
			if cell.Known() {
				answers = append(answers, answer{r.Probabilities, cell.Value})
			}
		}
	}
	return answers, nil
}

// temper returns p^(1/temperature), normalised.
func temper(p []float64, temperature float64) []float64 {
	z := make([]float64, len(p))
	for i, v := range p {
		z[i] = math.Log(math.Max(v, 1e-12)) / temperature
	}
	return softmax(z)
}

// fitTemperature minimises the negative log-likelihood, which is convex in 1/T.
func fitTemperature(answers []answer) (*Calibration, error) {
	loss := func(temperature float64) float64 {
		sum := 0.0
		for _, a := range answers {
			sum -= math.Log(math.Max(temper(a.p, temperature)[a.want], 1e-300))
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
func calibrationError(answers []answer, temperature float64) float64 {
	var gap [10]float64
	for _, a := range answers {
		p := temper(a.p, temperature)
		best := argmax(p)
		bin := min(9, int(10*p[best]))
		gap[bin] -= p[best]
		if best == a.want {
			gap[bin]++
		}
	}
	sum := 0.0
	for _, g := range gap {
		sum += math.Abs(g)
	}
	return sum / float64(len(answers))
}
