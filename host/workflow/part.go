package workflow

import (
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// Part is what a shard of Predict makes, run by run of those that are combined.
type Part struct {
	Runs []RunPart `json:"runs"`
}

// RunPart is what one run says of a shard's cases. The warnings are those of all cases.
type RunPart struct {
	Warnings []string           `json:"warnings"`
	Cases    []predictions.Case `json:"cases"`
}

// Join puts the parts of all shards together, in their order.
func Join(parts []Part) (*Part, error) {
	out := &Part{Runs: slices.Clone(parts[0].Runs)}
	for _, p := range parts[1:] {
		if len(p.Runs) != len(out.Runs) {
			return nil, fault.Errorf(fault.Data, "the shards hold predictions of %d and of %d runs: they are not of one command", len(out.Runs), len(p.Runs))
		}
		for k := range p.Runs {
			out.Runs[k].Cases = slices.Concat(out.Runs[k].Cases, p.Runs[k].Cases)
		}
	}
	return out, nil
}

// take fills in what shards predicted with the n-th run.
func (r *PredictResult) take(p *Part, n int, cases []dataset.Case) error {
	if n >= len(p.Runs) || len(p.Runs[n].Cases) != len(cases) {
		return fault.Errorf(fault.Data, "the shards hold no prediction of every case of split %q with %s: they are not of one command, or the data have changed", r.Split, r.Run)
	}
	r.Cases, r.Warnings = cases, p.Runs[n].Warnings
	for i, c := range p.Runs[n].Cases {
		if c.ID != cases[i].ID {
			return fault.Errorf(fault.Data, "case %d of split %q is %q, in the shards it is %q: the data have changed", i+1, r.Split, cases[i].ID, c.ID)
		}
		r.Predictions = append(r.Predictions, c.Of(&cases[i]))
	}
	return nil
}

// inputs are what the predictions of a run depend on besides its plugins.
func inputs(run string, checkpoint *runs.Checkpoint, given *RunData) (map[string]string, error) {
	out := map[string]string{"the data " + given.Data.Spec: given.Data.Hash, "the reports of " + run: given.reportsSHA256}
	for name, path := range map[string]string{"the configuration of ": filepath.Join(run, runs.ConfigFile), "the checkpoint of ": filepath.Join(checkpoint.Dir, runs.ManifestFile)} {
		sum, err := shard.SumFile(path)
		if err != nil {
			return nil, err
		}
		out[name+run] = sum
	}
	return out, nil
}
