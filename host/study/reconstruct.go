package study

import (
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
)

// AttributeScore is how often an attribute that was taken away is recovered.
type AttributeScore struct {
	Attribute string `json:"attribute"`
	// Cases whose value was there and was taken away.
	Cases int `json:"cases"`
	// Right are those whose most probable reconstructed value is the true one, of the
	// method, of the training data's most frequent value, and of naive Bayes on the
	// other attributes that are left.
	Right      int `json:"right"`
	Majority   int `json:"majority"`
	NaiveBayes int `json:"naive_bayes"`
	// Confidence is the sum of the greatest probabilities, for calibration.
	Confidence float64 `json:"confidence"`
	// Bins holds cases, right ones and confidence per tenth of the greatest
	// probability, for the expected calibration error.
	Bins [10][3]float64 `json:"bins"`
}

// reconstruction compares the reconstructed probabilities with the values that the
// study took away. Values that were missing by themselves have no truth.
func (s *Study) reconstruction(c Cell, p *workflow.PredictResult) ([]AttributeScore, error) {
	if c.TestRate == 0 || !reconstructs(p) {
		return nil, nil
	}
	cfg, err := s.config(c.Model)
	if err != nil {
		return nil, err
	}
	left, err := feed.ReadTable(cfg, s.Split, &c.TestRate)
	if err != nil {
		return nil, err
	}
	zero := 0.0
	whole, err := feed.ReadTable(cfg, s.Split, &zero)
	if err != nil {
		return nil, err
	}
	var sizes []int
	place := map[string]int{}
	for a, attribute := range left.Schema.Attributes {
		sizes = append(sizes, len(attribute.Values))
		place[attribute.Name] = a
	}
	train := knownValues(left.Schema, left.Training)
	seen := knownValues(left.Schema, left.Cases)
	truth := knownValues(left.Schema, originals(whole.Data.Cases, left.Cases))
	bayes, err := Reconstruct(train, sizes, 1, seen)
	if err != nil {
		return nil, err
	}
	scores := make([]AttributeScore, len(sizes))
	majority := make([]int, len(sizes))
	for a, attribute := range left.Schema.Attributes {
		scores[a].Attribute = attribute.Name
		counts := make([]float64, sizes[a])
		for _, row := range train {
			if row[a] >= 0 {
				counts[row[a]]++
			}
		}
		majority[a] = greatest(counts)
	}
	for i, prediction := range p.Predictions {
		for _, r := range prediction.Reconstructed {
			a, ok := place[r.Attribute]
			if !ok || truth[i][a] < 0 || len(r.Probabilities) != sizes[a] {
				continue
			}
			want, score := int(truth[i][a]), &scores[a]
			got := greatest(r.Probabilities)
			top := r.Probabilities[got]
			bin := &score.Bins[min(9, int(top*10))]
			score.Cases++
			score.Confidence += top
			bin[0]++
			bin[2] += top
			if got == want {
				score.Right++
				bin[1]++
			}
			if majority[a] == want {
				score.Majority++
			}
			if greatest(bayes[i][a]) == want {
				score.NaiveBayes++
			}
		}
	}
	return scores, nil
}

func reconstructs(p *workflow.PredictResult) bool {
	for i := range p.Predictions {
		if len(p.Predictions[i].Reconstructed) > 0 {
			return true
		}
	}
	return false
}

// originals are the cases of all with the identifiers of some, in their order.
func originals(all, some []dataset.Case) []dataset.Case {
	byID := map[string]*dataset.Case{}
	for i := range all {
		byID[all[i].ID] = &all[i]
	}
	out := make([]dataset.Case, len(some))
	for i := range some {
		out[i] = *byID[some[i].ID]
	}
	return out
}

func greatest(v []float64) int {
	best := 0
	for i := range v {
		if v[i] > v[best] {
			best = i
		}
	}
	return best
}
