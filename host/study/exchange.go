package study

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// ExchangeOptions of Exchange.
type ExchangeOptions struct {
	// MakeOptions are those of every study; Dir holds all of them, Grid.Methods the fusions.
	MakeOptions
	// Contexts and NoiseTokens are lists separated by commas: every pair is a set of its own.
	Contexts, NoiseTokens string
	// Cases to train on; Patients of each set (0: four times as many), a fifth of whom are predicted.
	Cases, Patients int
}

// exchangeSettings are what all fusions of the study share: tokens of frozen random
// convolutions, one per square, so that nothing but the fusion is learned and compared.
var exchangeSettings = []string{
	"encoder.kind=conv", "encoder.frozen=true", "encoder.width=16", "encoder.layers=2", "encoder.pool=4",
	"data.augment=none", "data.validation_split=", "train.best_by=last", "train.lr=0.002", "fusion.width=32",
}

// Dial is one set of Exchange with its table.
type Dial struct {
	Context     string `json:"context"`
	NoiseTokens int    `json:"noise_tokens"`
	Table       *Table `json:"table"`
}

// ExchangeTable is exchange.json.
type ExchangeTable struct {
	SchemaVersion int    `json:"schema_version"`
	Cases         int    `json:"training_cases"`
	Dials         []Dial `json:"dials"`
}

// exchangeShare is the share of a synthetic set's patients that are trained on where nothing else
// is asked for; the test's interval should not be what limits the study.
const exchangeShare = 0.25

// Exchange compares fusions on synthetic sets: where the report selects what counts in the
// picture (lookup) and where evidence adds up (additive), among more and more noise.
func Exchange(ctx context.Context, o ExchangeOptions) (*ExchangeTable, error) {
	contexts, err := parsed("contexts", config.List(o.Contexts), func(s string) (string, error) {
		if s != synth.Lookup && s != synth.Additive {
			return "", fmt.Errorf("%q, want %s or %s", s, synth.Lookup, synth.Additive)
		}
		return s, nil
	}, func(s string) string { return s })
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	noises, err := parsed("noise-tokens", config.List(o.NoiseTokens), func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("%q, want whole numbers", s)
		}
		return n, nil
	}, strconv.Itoa)
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	if o.Cases < 8 || len(contexts) == 0 || len(noises) == 0 {
		return nil, &config.Error{Err: fmt.Errorf("--cases %d, %d contexts, %d numbers of noise tokens: want at least 8 cases and one of each", o.Cases, len(contexts), len(noises))}
	}
	if o.Patients == 0 {
		o.Patients = int(float64(o.Cases) / exchangeShare)
	}
	if float64(o.Cases) > synth.TrainShare*float64(o.Patients) {
		return nil, &config.Error{Err: fmt.Errorf("--cases %d of --patients %d: want at most %g of the patients", o.Cases, o.Patients, synth.TrainShare)}
	}
	all := &ExchangeTable{SchemaVersion: Version, Cases: o.Cases}
	for _, name := range contexts {
		for _, noise := range noises {
			t, err := o.dial(ctx, name, noise)
			if err != nil {
				return nil, fmt.Errorf("%s with %d noise tokens: %w", name, noise, err)
			}
			all.Dials = append(all.Dials, Dial{name, noise, t})
		}
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, err
	}
	return all, runs.WriteFile(filepath.Join(o.Dir, "exchange.json"), append(data, '\n'))
}

// dial makes one set and its study.
func (o ExchangeOptions) dial(ctx context.Context, name string, noise int) (*Table, error) {
	dir, err := filepath.Abs(filepath.Join(o.Dir, fmt.Sprintf("%s-%d", name, noise)))
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	set := synth.TableOptions{Patients: o.Patients, Missing: -1, Context: name, NoiseTokens: noise, Seed: 1}
	if err := o.marks(ctx, data, set); err != nil {
		return nil, err
	}
	one := o.MakeOptions
	one.Dir, one.Data = filepath.Join(dir, "study"), "table:"+filepath.Join(data, "data.csv")
	one.Grid.Scenarios, one.Grid.Rates, one.Grid.Fractions = "C-Tr+C-Te", "0", number(float64(o.Cases)/float64(o.Patients)/synth.TrainShare)
	one.Split = "test"
	one.Set = slices.Concat(exchangeSettings, []string{fmt.Sprintf("data.size=%d", set.MarksSide())}, o.Set)
	one.Plan = Plan{}
	return Make(ctx, one)
}

// marks writes the set unless it is there.
func (o ExchangeOptions) marks(ctx context.Context, dir string, t synth.TableOptions) error {
	if _, err := os.Stat(filepath.Join(dir, "data.csv")); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return err
	}
	fmt.Fprintf(o.Messages, "study: writing %s\n", dir)
	_, err := synth.Table(ctx, dir, t)
	return err
}

// Write prints a line per fusion: its accuracy on every set, and what it is above the baseline.
func (t *ExchangeTable) Write(w io.Writer) error {
	var methods []string
	for _, r := range t.Dials[0].Table.Rows {
		methods = append(methods, r.Method)
	}
	fmt.Fprintf(w, "balanced accuracy, trained on %d cases: mean over seeds [95 %% CI, patients resampled]; in brackets the difference from the baseline\n", t.Cases)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "fusion"
	for _, d := range t.Dials {
		head += fmt.Sprintf("\t%s, %d noise", d.Context, d.NoiseTokens)
	}
	fmt.Fprintln(tab, head)
	for _, m := range methods {
		cells := []string{m}
		for _, d := range t.Dials {
			cells = append(cells, d.text(m))
		}
		fmt.Fprintln(tab, strings.Join(cells, "\t"))
	}
	return tab.Flush()
}

func (d Dial) text(method string) string {
	i := slices.IndexFunc(d.Table.Rows, func(r Row) bool { return r.Method == method })
	if i < 0 {
		return "-"
	}
	r := d.Table.Rows[i]
	f := r.Figures[d.Table.Metric]
	text := fmt.Sprintf("%.3f [%.3f %.3f]", float64(f.Mean), float64(f.Low), float64(f.High))
	if r.Test != nil {
		text += fmt.Sprintf(" (%s)", Bounded{r.Test.Difference, r.Test.Low, r.Test.High}.signed())
	}
	return text
}
