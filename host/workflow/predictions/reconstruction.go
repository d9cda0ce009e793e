package predictions

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// Reconstructed is what the fusion makes of an attribute that a report does not mention.
type Reconstructed struct {
	Attribute     string    `json:"attribute"`
	Values        []string  `json:"values"`
	Probabilities []float64 `json:"probabilities"`
	// Prior is the share of each value among the training cases that have one; nil in runs
	// that do not hold it.
	Prior []float64 `json:"prior,omitempty"`
	// Summary is the two likeliest values for people, beside their prior.
	Summary string `json:"summary"`
}

// Percent is a probability as people read it: whole percents, and neither 0 nor 100.
func Percent(p float64) string {
	switch {
	case p < 0.005:
		return "<1 %"
	case p > 0.995:
		return ">99 %"
	}
	return fmt.Sprintf("%.0f %%", 100*p)
}

// likeliest are the indices of the values, the likeliest first.
func (r Reconstructed) likeliest() []int {
	order := make([]int, len(r.Values))
	for k := range order {
		order[k] = k
	}
	sort.SliceStable(order, func(i, j int) bool { return r.Probabilities[order[i]] > r.Probabilities[order[j]] })
	return order
}

func (r Reconstructed) summary() string {
	var parts []string
	for _, k := range r.likeliest()[:min(2, len(r.Values))] {
		part := r.Values[k] + " " + Percent(r.Probabilities[k])
		if r.Prior != nil {
			part += " (training " + Percent(r.Prior[k]) + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

// Priors are, by attribute of the schema, the shares of its values among the cases that
// have one; attributes that no case has a value of are left out.
func Priors(s *schema.Schema, cases []dataset.Case) map[string][]float64 {
	priors := map[string][]float64{}
	for _, a := range s.Attributes {
		shares, n := make([]float64, len(a.Values)), 0.0
		for _, c := range dataset.CellsOf(cases, a.Name) {
			if c.Known() && c.Value < len(shares) {
				shares[c.Value] += float64(c.Count)
				n += float64(c.Count)
			}
		}
		for k := range shares {
			shares[k] /= n
		}
		if n > 0 {
			priors[a.Name] = shares
		}
	}
	return priors
}

// WriteReconstructions writes, for every case, the probabilities of the values of each
// attribute that its report does not mention, and what they are worth: as FILE.json, or for
// people as FILE.csv, a line per value.
func WriteReconstructions(path string, calibration *Calibration, predictions []Prediction) error {
	var data []byte
	var err error
	if strings.EqualFold(filepath.Ext(path), ".csv") {
		data, err = reconstructionsCSV(predictions)
	} else {
		doc := documentJSON{SchemaVersion: OutputVersion, Calibration: calibration.String(), Cases: []caseJSON{}}
		for _, p := range predictions {
			doc.Cases = append(doc.Cases, caseJSON{ID: p.Case.ID, Patient: p.Case.Patient, Reconstructed: p.Reconstructed})
		}
		data, err = encode(doc)
	}
	if err != nil {
		return err
	}
	return runs.WriteFile(path, data)
}

func reconstructionsCSV(predictions []Prediction) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"id", "attribute", "value", "probability", "training"}}
	for _, p := range predictions {
		for _, r := range p.Reconstructed {
			for _, k := range r.likeliest() {
				training := ""
				if r.Prior != nil {
					training = Percent(r.Prior[k])
				}
				rows = append(rows, []string{p.Case.ID, r.Attribute, r.Values[k], Percent(r.Probabilities[k]), training})
			}
		}
	}
	err := w.WriteAll(rows)
	return b.Bytes(), err
}

// ReadReconstructions reads the JSON that WriteReconstructions writes: what is recovered by
// case, and what the probabilities are worth.
func ReadReconstructions(path string) (map[string][]Reconstructed, string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	var doc documentJSON
	if err := json.Unmarshal(data, &doc); err != nil || doc.SchemaVersion != OutputVersion {
		return nil, "", fmt.Errorf("%s: want the JSON that `predict --reconstruction FILE.json` writes", path)
	}
	out := map[string][]Reconstructed{}
	for _, c := range doc.Cases {
		for _, r := range c.Reconstructed {
			if n := len(r.Values); n == 0 || len(r.Probabilities) != n || r.Prior != nil && len(r.Prior) != n {
				return nil, "", fmt.Errorf("%s: case %q, attribute %q: want one probability for each value", path, c.ID, r.Attribute)
			}
		}
		out[c.ID] = c.Reconstructed
	}
	return out, doc.Calibration, nil
}
