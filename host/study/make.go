package study

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
)

// MakeOptions of Make. Options.Plan comes from Grid and Seeds.
type MakeOptions struct {
	Options
	Grid Grid
	// Seeds is how many there are, from 1.
	Seeds int
	// Folds are the numbers of the folds to predict, separated by commas; empty predicts Split.
	Folds string
	// Baseline is the method that the others are tested against, "" for none; nil takes
	// DefaultBaseline where it is one of the methods.
	Baseline        *string
	DefaultBaseline string
	// Replicates are those of intervals and tests; 0 means 1000.
	Replicates int
	// TableOnly makes no cell. DryRun, unless nil, makes nothing at all: it receives the
	// names of the cells and what they will cost.
	TableOnly bool
	DryRun    io.Writer
	// Made, where Options.Shard is one of several, receives what it made in place of a table.
	Made func(part *Part, inputs map[string]string) error
}

// Models opens a study and its data, makes nothing, and returns the number of models that it
// trains.
func Models(o MakeOptions) (int, error) {
	if _, err := o.plan(); err != nil {
		return 0, err
	}
	s, err := Open(o.Options)
	if err != nil {
		return 0, err
	}
	_, err = s.openData()
	return len(byModel(s.cells)), err
}

// Make runs a study: it says what is still to be done and how long that will take, makes
// the cells that are not there, and writes the table of all that are, which it returns (nil
// for a dry run and for a shard).
func Make(ctx context.Context, o MakeOptions) (*Table, error) {
	baseline, err := o.plan()
	if err != nil {
		return nil, err
	}
	s, err := Open(o.Options)
	if err != nil {
		return nil, err
	}
	if !o.TableOnly {
		if err := s.writeCosts(ctx, o.DryRun); err != nil || o.DryRun != nil {
			return nil, err
		}
		if err := s.Run(ctx); err != nil {
			return nil, err
		}
	}
	if !o.Shard.Whole() {
		part, inputs, err := s.Part()
		if err != nil {
			return nil, err
		}
		return nil, o.Made(part, inputs)
	}
	t, err := s.Table(TableOptions{Baseline: baseline, Resample: resample.Options{Replicates: o.Replicates}})
	if err != nil {
		return nil, err
	}
	if len(t.Rows) == 0 {
		return nil, &config.Error{Err: fmt.Errorf("%s has no finished cells of this study", o.Dir)}
	}
	if n := len(t.Missing); n > 0 {
		fmt.Fprintf(s.Messages, "%d cells are not made yet; the first is %s\n", n, t.Missing[0])
	}
	return t, s.Save(t)
}

// plan fills in the plan and chooses the baseline.
func (o *MakeOptions) plan() (baseline string, err error) {
	if o.Seeds < 1 {
		return "", &config.Error{Err: fmt.Errorf("--seeds is %d, want 1 or more", o.Seeds)}
	}
	if o.Plan.Blocks, err = o.Grid.Blocks(); err != nil {
		return "", err
	}
	if o.Plan.Folds, err = folds(o.Folds); err != nil {
		return "", &config.Error{Err: err}
	}
	if len(o.Plan.Folds) > 0 {
		o.Split = foldsSplit
	}
	for seed := range o.Seeds {
		o.Plan.Seeds = append(o.Plan.Seeds, uint64(seed+1))
	}
	baseline = o.DefaultBaseline
	if o.Baseline != nil {
		baseline = *o.Baseline
	}
	planned := slices.ContainsFunc(o.Plan.Blocks, func(b Block) bool {
		return slices.ContainsFunc(b.Methods, func(m Method) bool { return m.Name == baseline })
	})
	switch {
	case planned || baseline == "":
		return baseline, nil
	case o.Baseline != nil:
		return "", &config.Error{Err: fmt.Errorf("--baseline %q is none of the methods", baseline)}
	}
	return "", nil
}

// foldsSplit stands for the split of a study with folds.
const foldsSplit = "folds"

// folds are the splits that `data split --folds` makes, by their numbers.
func folds(text string) ([]string, error) {
	return parsed("folds", config.List(text), func(s string) (string, error) {
		if n, err := strconv.Atoi(s); err != nil || n < 0 {
			return "", fmt.Errorf("%q, want numbers of folds as in 0,1,2,3,4: data split --folds K makes fold0 to foldK-1", s)
		}
		return "fold" + s, nil
	}, func(s string) string { return s })
}

// writeCosts says what is still to be done and how long it will take; to list, unless it is
// nil, with the names of the cells.
func (s *Study) writeCosts(ctx context.Context, list io.Writer) error {
	pending, err := s.Pending()
	if err != nil {
		return err
	}
	out := s.Messages
	if list != nil {
		out = list
		for _, cell := range pending {
			fmt.Fprintln(out, cell.Name())
		}
	}
	if len(pending) == 0 {
		fmt.Fprintln(out, "study: every cell is finished")
		return nil
	}
	costs, err := s.Estimate(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "method\tmodels\tcells\ttraining\tprediction\twhole\tbasis")
	var total float64
	for _, c := range costs {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%s\n", c.Method, c.Models, c.Cells, seconds(c.TrainSec), seconds(c.PredictSec), seconds(c.TotalSec()), c.Basis)
		total += c.TotalSec()
	}
	fmt.Fprintf(w, "all\t\t%d\t\t\t%s\t\n", len(pending), seconds(total))
	return w.Flush()
}

func seconds(sec float64) string {
	return time.Duration(sec * float64(time.Second)).Round(time.Second).String()
}
