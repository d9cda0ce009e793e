// Package card describes a trained run for those who may want to use it: a model card with a
// model-index, as model hubs read it, and the metadata of a MONAI bundle. Both come from the
// run's own files; what only its author knows is left to the author, by name.
package card

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/internal/redact"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Options of New.
type Options struct {
	// Run is the folder of the run, Compare how its predictions are evaluated; the system is
	// filled in.
	Run     string
	Compare workflow.CompareOptions
	// License is an SPDX identifier, "" where the author has not said.
	License string
}

// Card is what is known of a run.
type Card struct {
	// Name is the run's.
	Name, License string
	Task          string
	// Data names the data set, Split what the figures were measured on.
	Data, Split string
	Run         *workflow.RunFiles
	// Results are the figures of each question.
	Results []Result
	// Rules say how marks were counted, of a detector.
	Rules []string
	// Warnings and Notes belong beside the figures; ids and folders are taken out.
	Warnings, Notes []string
}

// Result are the figures of one question.
type Result struct {
	// Name of the question, "" where there is one.
	Name string
	// Of says what was counted: "40 lesions on 60 images of 20 patients".
	Of      string
	Figures []Figure
}

// Figure is a number with its interval.
type Figure struct {
	Name string
	// Type is what model hubs call such a figure.
	Type string
	// Value, and its interval; NaN where it is not defined, or none was made.
	Value, Low, High float64
}

// Known reports whether the figure is defined.
func (f Figure) Known() bool { return !math.IsNaN(f.Value) }

// Interval is the figure's interval in words.
func (f Figure) Interval() string {
	if math.IsNaN(f.Low) || math.IsNaN(f.High) {
		return "–"
	}
	return fmt.Sprintf("%.3f to %.3f", f.Low, f.High)
}

// New reads a run and evaluates its predictions. It fails as workflow.ReadRun and
// workflow.Compare do.
func New(ctx context.Context, o Options) (*Card, error) {
	r, err := workflow.ReadRun(o.Run)
	if err != nil {
		return nil, err
	}
	name := workflow.RunName(o.Run)
	o.Compare.Systems = []workflow.System{{Name: name, Path: o.Run}}
	found, err := workflow.Compare(ctx, o.Compare)
	if err != nil {
		return nil, err
	}
	c := &Card{Name: name, License: o.License, Task: r.Config.Task, Data: dataName(r.Config.Data), Split: found.Split, Run: r}
	if d := found.Detection; d != nil {
		c.detection(d)
	}
	for _, one := range found.Classification {
		c.classification(one)
	}
	for _, one := range found.Measured {
		c.measured(one)
	}
	var warnings []string
	for _, w := range slices.Concat(found.Warnings, c.Warnings, r.Manifest.Warnings) {
		if w = hidden(w); !slices.Contains(warnings, w) {
			warnings = append(warnings, w)
		}
	}
	c.Warnings = warnings
	for i, n := range c.Notes {
		c.Notes[i] = hidden(n)
	}
	return c, nil
}

func (c *Card) detection(d *workflow.Detection) {
	s, protocol := d.Report.Systems[0], d.Results[0].Result.Protocol
	var rules bytes.Buffer
	frocreport.WriteRules(&rules, protocol)
	for line := range strings.Lines(rules.String()) {
		c.Rules = append(c.Rules, strings.TrimSpace(line))
	}
	c.Warnings, c.Notes = d.Report.Warnings, d.Report.Notes
	one := Result{Of: fmt.Sprintf("%d lesions on %d images of %d patients", s.Counts.Lesions, s.Counts.Images, s.Counts.Patients)}
	for _, p := range s.OperatingPoints {
		one.add(fmt.Sprintf("sensitivity at %g false positives per %s", p.FPPI, protocol.Unit), "sensitivity", p.Sensitivity, p.CI)
	}
	one.add("mean sensitivity at these", "sensitivity", s.MeanSensitivity, s.MeanCI)
	one.add("average precision", "average_precision", s.AP, s.APCI)
	c.Results = []Result{one}
}

func (c *Card) classification(r *workflow.Classification) {
	s := r.Systems[0]
	one := Result{Name: r.Task, Of: fmt.Sprintf("%d cases, classes %s", s.Cases, strings.Join(r.Classes, ", "))}
	for _, f := range []struct {
		name, kind string
		workflow.Metric
	}{
		{"accuracy", "accuracy", s.Accuracy}, {"balanced accuracy", "balanced_accuracy", s.BalancedAccuracy},
		{"macro AUROC", "roc_auc", s.MacroAUROC}, {"expected calibration error", "ece", s.ECE},
	} {
		one.add(f.name, f.kind, f.Value, &f.CI)
	}
	c.Results = append(c.Results, one)
	c.Warnings, c.Notes = append(c.Warnings, r.Warnings...), append(c.Notes, r.Notes...)
}

func (c *Card) measured(r *workflow.Measured) {
	one := Result{Name: r.Task, Of: fmt.Sprintf("%s, %d cases", r.Question, r.Cases)}
	if r.Events > 0 {
		one.Of += fmt.Sprintf(", %d with the event", r.Events)
	}
	if r.Unit != "" {
		one.Of += ", in " + r.Unit
	}
	for _, f := range r.Figures {
		one.add(f.Figure, strings.ReplaceAll(f.Figure, " ", "_"), f.Value, &f.CI)
	}
	c.Results = append(c.Results, one)
	c.Warnings, c.Notes = append(c.Warnings, r.Warnings...), append(c.Notes, r.Notes...)
}

func (r *Result) add(name, kind string, value frocio.Number, ci frocio.Range) {
	f := Figure{Name: name, Type: kind, Value: float64(value), Low: math.NaN(), High: math.NaN()}
	if ci != nil {
		f.Low, f.High = float64(ci[0]), float64(ci[1])
	}
	r.Figures = append(r.Figures, f)
}

// Detects reports whether the run finds lesions, rather than classes.
func (c *Card) Detects() bool { return c.Task == config.Detect }

// Figures counts those of all results.
func (c *Card) Figures() (n int) {
	for _, r := range c.Results {
		n += len(r.Figures)
	}
	return n
}

// Torch is the version of libtorch that stages ran with, "unknown" where none says.
func (c *Card) Torch() string {
	for _, p := range c.Run.Manifest.Plugins {
		for _, library := range p.Libraries {
			if _, version, ok := strings.Cut(library, " for libtorch "); ok {
				return version
			}
		}
	}
	return "unknown"
}

// Predicts says what the run is, in words.
func (c *Card) Predicts() string {
	if c.Detects() {
		return "A detector of lesions"
	}
	if slices.ContainsFunc(c.Run.Labels, func(set sdk.LabelSet) bool { return len(set.Classes) > 0 }) {
		return "A classifier"
	}
	return "A model that answers with numbers"
}

// dataName is what a data spec names, without options and the folders that lead there.
func dataName(spec string) string {
	layout, path, _ := strings.Cut(spec, ":")
	path, _, _ = strings.Cut(path, "?")
	name := filepath.Base(path)
	if filepath.Ext(name) == ".csv" { // many tables are called data.csv
		name = filepath.Base(filepath.Dir(path)) + "/" + name
	}
	return layout + ":" + name
}

// hidden is a message without the ids and folders in it.
func hidden(text string) string {
	return redact.Folders(redact.Quoted(text, func(string) string { return "…" }))
}
