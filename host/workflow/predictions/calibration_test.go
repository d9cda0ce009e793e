package predictions

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// Distributions that were sharpened by a known temperature are brought back: the
// values were drawn from p, and p^3 is what the stage said.
func TestTemperatureUndoesOverconfidence(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var answers []Answer
	for range 20000 {
		z := make([]float64, 4)
		for i := range z {
			z[i] = 1.5 * rng.NormFloat64()
		}
		p := stat.Softmax(z)
		want, u := 0, rng.Float64()
		for u > p[want] && want < 3 {
			u -= p[want]
			want++
		}
		answers = append(answers, Answer{temper(p, 1.0/3), want})
	}
	c, err := Calibrate(answers)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(c.Temperature-3) > 0.15 {
		t.Errorf("temperature %v, want 3", c.Temperature)
	}
	if !(c.ECE > 0.1) || !(c.CalibratedECE < 0.02) || !(c.CalibratedNLL < c.NLL) {
		t.Errorf("%+v: want an error of more than 0.1 brought below 0.02", c)
	}
}

func TestTemperKeepsTheOrderAndSumsToOne(t *testing.T) {
	p := []float64{0.5, 0.3, 0.2, 0}
	for _, temperature := range []float64{0.1, 1, 7} {
		q := temper(p, temperature)
		sum := 0.0
		for i, v := range q {
			sum += v
			if i > 0 && v > q[i-1] {
				t.Errorf("temperature %v: %v", temperature, q)
			}
		}
		if math.Abs(sum-1) > 1e-12 {
			t.Errorf("temperature %v sums to %v", temperature, sum)
		}
	}
	// 0.5² : 0.3² : 0.2² at temperature 1/2.
	if q := temper(p[:3], 0.5); math.Abs(q[0]-0.25/0.38) > 1e-12 || math.Abs(q[2]-0.04/0.38) > 1e-12 {
		t.Errorf("squares: %v", q)
	}
}

func TestATemperatureIsUsedOnlyWhereItLowersTheError(t *testing.T) {
	for _, c := range []struct {
		calibration *Calibration
		helps       bool
		says        string
	}{
		{nil, false, "not calibrated: the run"},
		{&Calibration{Temperature: 2, Values: 40, NLL: 1, CalibratedNLL: .9, ECE: .1, CalibratedECE: .12}, false, "no temperature lowers their error on 40"},
		{&Calibration{Temperature: 2, Values: 40, NLL: 1, CalibratedNLL: .9, ECE: .1, CalibratedECE: .02}, true, "temperature 2.00, fitted on 40 hidden values"},
	} {
		if c.calibration.Helps() != c.helps || !strings.Contains(c.calibration.String(), c.says) {
			t.Errorf("%+v: %v %q", c.calibration, c.calibration.Helps(), c.calibration)
		}
	}
}
