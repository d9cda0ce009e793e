package workflow

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/report/attributes"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// PredictOptions of Predict.
type PredictOptions struct {
	// Run is the run directory, Checkpoint best, last or a step number.
	Run, Checkpoint string
	// Data is a data spec; empty means the run's own data.
	Data string
	// Split of the data; empty means test on the run's own data, else all cases.
	Split string
	// Device and Threads take the place of the run's when they are set.
	Device  string
	Threads int
	Plugins plughost.Options
	// Reports is a file of reports, or of a table of what they say, of the cases, for those
	// of the runs that read attributes; empty means each run's own on its own data.
	Reports string
	// Missing, unless nil, is the share of the attribute values there are that is taken
	// away from the cases predicted (instead of the run's rate of their split).
	Missing *float64
	// Tokens keeps the tokens of frozen encoders from call to call; may be nil.
	Tokens *feed.TokenStore
	// With are further runs whose predictions are combined with Run's (predictions.Combine).
	With []string
	// Findings and Reconstruction say what will be asked of the result: a run that cannot
	// give it is refused before anything is computed. So is Overlays.
	Findings, Reconstruction, Overlays bool
	// TTA names further passes over every image (feed.Views) that are combined with the one
	// as it is (predictions.Combine).
	TTA []string
	// Counterfactuals predicts every case again without its report, with another's and with
	// one that contradicts it.
	Counterfactuals bool
	// AllowChanged predicts with plugins other than those of the training.
	AllowChanged bool
	// Messages receives progress and warnings.
	Messages io.Writer
}

// PredictResult is what Predict made.
type PredictResult struct {
	Run    string
	Config *config.Config
	Labels []sdk.LabelSet
	Split  string
	// Calibration of the reconstructions; nil where none was fitted.
	Calibration *predictions.Calibration
	Step        int
	// Data are those that Cases are of.
	Data        *dataset.Dataset
	Cases       []dataset.Case
	Predictions []predictions.Prediction
	// Counterfactuals, where they were asked for.
	Counterfactuals *predictions.Counterfactuals
	// Evaluable says that all cases have targets.
	Evaluable bool
	// Warnings say what makes figures of these predictions better than they should be, or
	// a comparison with them void.
	Warnings []string
}

// Set are the predictions as they are written.
func (r *PredictResult) Set() predictions.Set {
	return predictions.Set{Task: r.Config.Task, Labels: r.Labels, Predictions: r.Predictions, Warnings: r.Warnings}
}

// Predict runs a trained pipeline on data, or several whose predictions it combines.
// Predictions on a run's own data are also kept in its run directory, unless
// PredictOptions.Missing or TTA change them.
func Predict(ctx context.Context, o PredictOptions) (*PredictResult, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	result, err := predictRun(ctx, o)
	if err != nil || len(o.With) == 0 {
		return result, err
	}
	sources := [][]predictions.Prediction{result.Predictions}
	if o.Split = result.Split; o.Data == "" {
		o.Data = result.Config.Data
	}
	for _, run := range o.With {
		o.Run = run
		other, err := predictRun(ctx, o)
		if err != nil {
			return nil, err
		}
		if !slices.EqualFunc(other.Labels, result.Labels, func(a, b sdk.LabelSet) bool { return slices.Equal(a.Classes, b.Classes) }) {
			return nil, usage("--with %s: that run knows other classes", run)
		}
		sources = append(sources, other.Predictions)
		for _, w := range other.Warnings {
			result.Warnings = append(result.Warnings, RunName(run)+": "+w)
		}
	}
	result.Predictions, err = predictions.Combine(result.Config.Task, sources)
	return result, err
}

// check refuses what cannot come to a good end before anything is computed.
func (o PredictOptions) check() error {
	if name := o.Checkpoint; name != "best" && name != "last" {
		if _, err := strconv.Atoi(name); err != nil {
			return usage("--checkpoint %q: want best, last or a step number", name)
		}
	}
	if _, err := feed.Views(o.TTA); err != nil {
		return usage("--tta: %w", err)
	}
	r, err := ReadRun(o.Run)
	if err != nil {
		return err
	}
	task := r.Config.Task
	switch {
	case o.Findings && task != config.Detect:
		return usage("--findings: the run's task is %s, findings are merged in detection only", task)
	case o.Overlays && task != config.Detect:
		return usage("--overlays: the run's task is %s, boxes are drawn in detection only; `alignedfusion report` shows its cases", task)
	case len(o.TTA) > 0 && r.Config.Encoder.Plugin == config.None:
		return usage("--tta %s: the run has no encoder, so there are no images to turn or mirror", strings.Join(o.TTA, ","))
	case o.Counterfactuals && r.Schema == nil:
		return usage("--counterfactuals: %s reads no attributes, so nothing would change", o.Run)
	case o.Reconstruction && r.Config.Fusion.Plugin == config.None:
		return usage("--reconstruction: the run has no fusion, so nothing is reconstructed")
	}
	reads := r.Schema != nil
	for _, run := range o.With {
		other, err := ReadRun(run)
		if err != nil {
			return err
		}
		if other.Config.Task != task {
			return usage("--with %s: that run's task is %s, %s's is %s", run, other.Config.Task, o.Run, task)
		}
		reads = reads || other.Schema != nil
	}
	if o.Reports != "" && !reads {
		return usage("--reports %s: none of the runs (%s) reads attributes", o.Reports, strings.Join(append([]string{o.Run}, o.With...), ", "))
	}
	return nil
}

// predictRun predicts with the pipeline of one run.
func predictRun(ctx context.Context, o PredictOptions) (_ *PredictResult, err error) {
	r, err := ReadRun(o.Run)
	if err != nil {
		return nil, err
	}
	c := r.Config
	if o.Device != "" {
		c.Device = o.Device
	}
	if o.Threads > 0 {
		c.Threads = o.Threads
	}
	checkpoint, warnings, err := runs.Find(o.Run, o.Checkpoint)
	if err != nil {
		return nil, err
	}
	given, err := r.OpenData(o)
	if err != nil {
		return nil, err
	}
	d, cases := given.Data, given.Cases
	o.Split = given.Split
	s, err := Open(ctx, Options{Config: c, Data: d, Schema: r.Schema, Labels: r.Labels, Plugins: o.Plugins, Tokens: o.Tokens})
	if err != nil {
		return nil, err
	}
	s.decoder.Priors = r.Priors
	if r.Calibration.Helps() {
		s.decoder.Temperature = r.Calibration.Temperature
	}
	if err := s.sameText(r.Manifest); err != nil {
		s.Abandon()
		return nil, err
	}
	if changed := changedPlugins(r.Manifest, s.records); len(changed) > 0 && !o.AllowChanged {
		s.Abandon()
		return nil, fault.Errorf(fault.Plugin, "%s; --allow-changed predicts with it all the same, and records that", strings.Join(changed, "; "))
	}
	voids, err := r.voids(s, cases, given.reported, given.own)
	if err != nil {
		s.Abandon()
		return nil, err
	}
	voids = append(voids, given.unread...)
	result, err := s.predictCheckpoint(ctx, checkpoint, cases, slices.Concat(warnings, s.Warnings, voids), o)
	if err == nil && o.Counterfactuals {
		result.Counterfactuals, err = s.counterfactuals(ctx, cases, result.Predictions)
	}
	if err != nil {
		s.Abandon()
		return nil, err
	}
	s.finish(o.Messages)
	result.Run, result.Config, result.Labels, result.Split, result.Data = o.Run, c, r.Labels, o.Split, d
	result.Calibration = r.Calibration
	result.Evaluable, result.Warnings = predictions.HasTargets(cases), voids
	if given.own && given.sameReports && o.Missing == nil && len(o.TTA) == 0 && result.Evaluable {
		return result, result.keep()
	}
	return result, nil
}

// keep writes into the run directory what `compare` and the report page read of a split.
func (r *PredictResult) keep() error {
	if err := predictions.Save(r.Run, r.Split, r.Set()); err != nil {
		return err
	}
	dir := predictions.Dir(r.Run, r.Split)
	if slices.ContainsFunc(r.Predictions, func(p predictions.Prediction) bool { return len(p.Reconstructed) > 0 }) {
		if err := predictions.WriteReconstructions(filepath.Join(dir, predictions.ReconstructionFile), r.Calibration, r.Predictions); err != nil {
			return err
		}
	}
	return r.Counterfactuals.Write(filepath.Join(dir, predictions.CounterfactualFile))
}

// sources are where the attributes of cases to be predicted come from.
func (r *RunFiles) sources(o PredictOptions) (from feed.Sources, err error) {
	if o.Reports == "" && o.Data == r.Config.Data {
		o.Reports = r.Config.Reports
	}
	switch {
	case r.Schema == nil: // the reports are those of the runs that it is combined with
	case o.Reports != "":
		from.Schema = r.Schema
		from.Reports, err = attributes.Load(context.Background(), o.Reports, r.Schema)
	case r.Manifest.ReportsSHA256 != "":
		from.Schema = r.Schema
	case dataset.HasTargets(o.Data):
		from.Columns = r.Schema.Names()
	}
	return from, err
}

// unread warns of attributes that a run was trained with and that the cases do not have.
func (r *RunFiles) unread(d *dataset.Dataset) []string {
	if r.Schema == nil {
		return nil
	}
	absent := slices.DeleteFunc(r.Schema.Names(), func(name string) bool { return slices.Contains(d.AttributeColumns, name) })
	if len(absent) == 0 || len(absent) < len(r.Schema.Attributes) && r.Manifest.ReportsSHA256 == "" {
		return nil
	}
	how := ""
	if r.Manifest.ReportsSHA256 != "" {
		how = fmt.Sprintf(" (it was trained with the reports %s; give these cases' with --reports)", r.Config.Reports)
	}
	return []string{fmt.Sprintf("%d of the run's %d attributes are not given and unmentioned in every case%s: its figures are no comparison with those of cases that have them",
		len(absent), len(r.Schema.Attributes), how)}
}

func (s *Session) predictCheckpoint(ctx context.Context, checkpoint *runs.Checkpoint, cases []dataset.Case, warnings []string, o PredictOptions) (*PredictResult, error) {
	for _, w := range unique(warnings) {
		fmt.Fprintf(o.Messages, "warning: %s\n", w)
	}
	if err := loop.Restore(ctx, s.Pipeline, checkpoint, true); err != nil {
		return nil, err
	}
	if s.Tokens != nil { // else every case is encoded once, in passing
		if err := s.cacheTokens(ctx, cases); err != nil {
			return nil, err
		}
	}
	views, err := feed.Views(o.TTA)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	last, all := started, len(views)*len(cases)
	predicted, err := s.predictViews(ctx, cases, views, func(done int) error {
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			left := time.Duration(float64(time.Since(started)) / float64(done) * float64(all-done))
			fmt.Fprintf(o.Messages, "%d of %d cases  %s left\n", done/len(views), len(cases), left.Round(time.Second))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &PredictResult{Step: checkpoint.State.Step, Cases: cases, Predictions: predicted}, nil
}
