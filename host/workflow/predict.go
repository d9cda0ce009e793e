package workflow

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
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
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
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
	// missingSeed, unless nil, says which in place of the run's.
	missingSeed *int
	// Tokens keeps the tokens of frozen encoders from call to call; may be nil.
	Tokens *feed.TokenStore
	// With are further runs whose predictions are combined with Run's (predictions.Combine).
	With []string
	// Findings and Reconstruction say what will be asked of the result: a run that cannot
	// give it is refused before anything is computed. So is Overlays.
	Findings, Reconstruction, Overlays bool
	// Entry says that the result will be written as a challenge takes it: data of none are refused.
	Entry bool
	// Per says whom the result will be asked about: "" the cases, else a slide or a patient.
	Per string
	// Outputs asks the stages for the maps that they draw over the pictures.
	Outputs bool
	// TTA names further passes over every image (feed.Views) that are combined with the one
	// as it is (predictions.Combine).
	TTA []string
	// Merge says how boxes are combined: predictions.MergeFusion (also "") or MergeSuppression.
	Merge string
	// Batch is the number of cases that are computed together; 0 means data.predict_batch.
	Batch int
	// Counterfactuals predicts every case again without its report, with another's and with
	// one that contradicts it.
	Counterfactuals bool
	// AllowChanged predicts with plugins other than those of the training.
	AllowChanged bool
	// Shard predicts a part of the cases, in whole batches; nothing is kept in the run.
	Shard shard.Spec
	// Merged, unless nil, is what all shards have predicted: no plugin is started.
	Merged *Part
	// Messages receives progress and warnings.
	Messages io.Writer
}

// onePassMiB bounds the memory for decoded images where each is shown once: what overlapping
// windows of slices share.
const onePassMiB = 32

// PredictResult is what Predict made.
type PredictResult struct {
	Run    string
	Config *config.Config
	Labels []sdk.LabelSet
	Split  string
	// NotKept says why the run does not keep the predictions, for which `compare` then does not
	// find them; "" where it does.
	NotKept string
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
	// Part is what was predicted, run by run, and Inputs what it depends on, for a shard.
	Part   Part
	Inputs map[string]string
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
	result, err := predictRun(ctx, o, 0)
	if err != nil || len(o.With) == 0 {
		return result, err
	}
	sources := [][]predictions.Prediction{result.Predictions}
	if o.Split = result.Split; o.Data == "" {
		o.Data = result.Config.Data
	}
	// What is taken away from a report is the same for all: together they would see more of it.
	o.missingSeed = &result.Config.DataSettings.MissingSeed
	for k, run := range o.With {
		o.Run = run
		other, err := predictRun(ctx, o, k+1)
		if err != nil {
			return nil, err
		}
		result.Part.Runs = append(result.Part.Runs, other.Part.Runs...)
		maps.Copy(result.Inputs, other.Inputs)
		if !slices.EqualFunc(other.Labels, result.Labels, func(a, b sdk.LabelSet) bool { return slices.Equal(a.Classes, b.Classes) && a.Asks() == b.Asks() }) {
			return nil, usage("--with %s: that run knows other classes", run)
		}
		sources = append(sources, other.Predictions)
		for _, w := range other.Warnings {
			result.Warnings = append(result.Warnings, RunName(run)+": "+w)
		}
	}
	result.NotKept = "they are of several runs"
	result.Labels = slices.Clone(result.Labels)
	for k := range result.Labels { // that of one run alone
		result.Labels[k].Threshold = 0
	}
	result.Predictions, err = predictions.Combine(result.Config.Task, o.Merge, sources)
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
	switch {
	case !slices.Contains([]string{"", predictions.MergeFusion, predictions.MergeSuppression}, o.Merge):
		return usage("--merge %q: want %s (weighted box fusion) or %s (non-maximum suppression)", o.Merge, predictions.MergeFusion, predictions.MergeSuppression)
	case o.Merge != "" && len(o.TTA)+len(o.With) == 0:
		return usage("--merge %s: there is one pass of one run, so nothing is merged; --tta or --with makes more", o.Merge)
	}
	r, err := ReadRun(o.Run)
	if err != nil {
		return err
	}
	task := r.Config.Task
	switch {
	case o.Merge != "" && task != config.Detect:
		return usage("--merge: the run's task is %s, boxes are merged in detection only; probabilities are averaged", task)
	case o.Per != "" && task != config.Classify:
		return usage("--per %s: the run's task is %s, answers are joined in classification only; --findings joins boxes", o.Per, task)
	case o.Findings && task != config.Detect:
		return usage("--findings: the run's task is %s, findings are merged in detection only", task)
	case o.Overlays && task != config.Detect:
		return usage("--overlays: the run's task is %s, boxes are drawn in detection only; `alignedfusion report` shows its cases", task)
	case len(o.TTA) > 0 && r.Config.Encoder.Plugin == config.None:
		return usage("--tta %s: the run has no encoder, so there are no images to turn or mirror", strings.Join(o.TTA, ","))
	case o.Counterfactuals && !r.Labels[0].Classed():
		return usage("--counterfactuals: %s answers %s (%s), and what an answer owes to the report is measured of classes", o.Run, r.Labels[0].Name, r.Labels[0].Asks())
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

// predictRun predicts with the pipeline of one run, the n-th of those that are combined, or
// takes what shards have predicted with it.
func predictRun(ctx context.Context, o PredictOptions, n int) (*PredictResult, error) {
	r, err := ReadRun(o.Run)
	if err != nil {
		return nil, err
	}
	if o.Device != "" {
		r.Config.Device = o.Device
	}
	if o.Threads > 0 {
		r.Config.Threads = o.Threads
	}
	if o.Batch > 0 {
		r.Config.DataSettings.PredictBatch = o.Batch
	}
	checkpoint, warnings, err := runs.Find(o.Run, o.Checkpoint)
	if err != nil {
		return nil, err
	}
	if o.missingSeed != nil {
		r.Config.DataSettings.MissingSeed = *o.missingSeed
	}
	given, err := r.OpenData(o)
	if err != nil {
		return nil, err
	}
	if o.Split = given.Split; o.Entry && given.Data.Entry == nil {
		return nil, usage("--entry: the data %s are of no challenge; milk10k:DIR, isic:DIR and pad-ufes-20:DIR are", given.Data.Spec)
	}
	if !given.own {
		r.Config.DataSettings.CacheDir = ""
	}
	if len(o.TTA) == 0 && !o.Counterfactuals {
		r.Config.DataSettings.CacheMiB = min(r.Config.DataSettings.CacheMiB, onePassMiB)
	}
	result := &PredictResult{Run: o.Run, Config: r.Config, Labels: r.Labels, Split: o.Split, Data: given.Data, Calibration: r.Calibration, Step: checkpoint.State.Step}
	if result.Inputs, err = inputs(o.Run, checkpoint, given); err != nil {
		return nil, err
	}
	if o.Merged != nil {
		err = result.take(o.Merged, n, given.Cases)
	} else {
		err = result.predict(ctx, r, checkpoint, given, warnings, o)
	}
	if err != nil {
		return nil, err
	}
	result.Evaluable = predictions.HasTargets(result.Cases)
	if result.NotKept = notKept(given, o); result.Evaluable && result.NotKept == "" {
		return result, result.keep()
	}
	return result, nil
}

// notKept says why a run does not keep predictions as those of its split; "" where it does.
func notKept(given *RunData, o PredictOptions) string {
	switch {
	case !o.Shard.Whole():
		return "they are a shard's"
	case !given.own:
		return "the data are others"
	case !given.sameReports:
		return "the reports are others"
	case o.Missing != nil:
		return "attributes were taken away"
	case len(o.TTA) > 0:
		return "they are of several passes"
	}
	return ""
}

// predict starts the run's plugins and fills in what they say of the cases.
func (r *PredictResult) predict(ctx context.Context, files *RunFiles, checkpoint *runs.Checkpoint, given *RunData, warnings []string, o PredictOptions) (err error) {
	s, err := Open(ctx, Options{Config: files.Config, Data: given.Data, Schema: files.Schema, Labels: files.Labels, Plugins: o.Plugins, Tokens: o.Tokens})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.Abandon()
		}
	}()
	if o.Outputs {
		s.visuals = s.Pipeline.Requested(ports.Visuals)
		if slices.ContainsFunc(given.Cases, isSlide) {
			s.attention = s.Pipeline.Requested(ports.Weighting)
		}
		if len(s.visuals)+len(s.attention) == 0 {
			return usage("--outputs: no stage of %s draws maps (outputs visual.*, on request) or weighs the patches of slides (weighting.*)", o.Run)
		}
	}
	s.decoder.Priors = files.Priors
	if files.Calibration.Helps() {
		s.decoder.Temperature = files.Calibration.Temperature
	}
	if err := s.sameText(files.Manifest); err != nil {
		return err
	}
	if changed := changedPlugins(files.Manifest, s.records); len(changed) > 0 && !o.AllowChanged {
		return fault.Errorf(fault.Plugin, "%s; --allow-changed predicts with it all the same, and records that", strings.Join(changed, "; "))
	}
	voids, err := files.voids(s, given.Cases, given.reported, given.own)
	if err != nil {
		return err
	}
	r.Warnings, r.Cases = append(voids, given.unread...), given.Cases
	if !o.Shard.Whole() { // whole batches: what a stage computes may depend on its neighbours in the last bit
		batch := s.Feed.BatchSize()
		first, end := o.Shard.Range((len(r.Cases) + batch - 1) / batch)
		r.Cases = r.Cases[first*batch : min(end*batch, len(r.Cases))]
	}
	if len(r.Cases) > 0 { // of more shards than batches some have none
		if r.Predictions, err = s.predictCheckpoint(ctx, checkpoint, r.Cases, slices.Concat(warnings, s.Warnings, r.Warnings), o); err != nil {
			return err
		}
	}
	if o.Counterfactuals {
		if r.Counterfactuals, err = s.counterfactuals(ctx, r.Cases, r.Predictions); err != nil {
			return err
		}
	}
	s.finish(o.Messages)
	for _, p := range s.records {
		r.Inputs["plugin "+p.Name+" of "+o.Run] = p.SHA256
	}
	r.Part.Runs = []RunPart{{r.Warnings, predictions.Bare(r.Predictions)}}
	return nil
}

func isSlide(c dataset.Case) bool { return len(c.Patches) > 0 }

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
	if visuals := filepath.Join(dir, predictions.VisualsDir); len(r.Predictions) > 0 && r.Predictions[0].Maps != nil {
		if err := os.RemoveAll(visuals); err != nil {
			return err
		}
		if _, err := predictions.WriteVisuals(visuals, r.Predictions); err != nil {
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
	if o.Reports == "" && r.Config.Report.Tokens != config.PerAttribute {
		o.Reports, _ = feed.ReportsOf(o.Data) // else they are unmentioned, and that is said
	}
	switch {
	case r.Schema == nil: // the reports are those of the runs that it is combined with
	case o.Reports != "":
		from.Schema = r.Schema
		from.Reports, err = feed.LoadReports(r.Config, o.Reports, r.Schema)
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

func (s *Session) predictCheckpoint(ctx context.Context, checkpoint *runs.Checkpoint, cases []dataset.Case, warnings []string, o PredictOptions) ([]predictions.Prediction, error) {
	for _, w := range unique(warnings) {
		fmt.Fprintf(o.Messages, "warning: %s\n", w)
	}
	if err := loop.Restore(ctx, s.Pipeline, checkpoint, true); err != nil {
		return nil, err
	}
	// Else every case is encoded once, in passing; a slide may be too large for that.
	if keep := s.Tokens != nil || slices.ContainsFunc(cases, isSlide); keep && len(s.visuals) == 0 {
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
	return s.predictViews(ctx, cases, views, o.Merge, func(done int) error {
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			left := time.Duration(float64(time.Since(started)) / float64(done) * float64(all-done))
			fmt.Fprintf(o.Messages, "%d of %d cases  %s left\n", done/len(views), len(cases), left.Round(time.Second))
		}
		return nil
	})
}
