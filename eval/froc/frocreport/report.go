// Package frocreport evaluates the predictions of one or more systems from files to a
// report: text for people, a JSON document, tables and a plot. Package froc has the figures
// themselves, package frocio the formats of the files.
package frocreport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// System is a system to evaluate, by its file of predictions.
type System struct {
	Name, Path string
	// More are further files of its predictions, those of other folds for instance.
	More []string
}

// Remarks are what was noticed while reading and matching, for people.
type Remarks struct {
	Notes    []string
	Warnings []string // what makes the figures doubtful
}

func (r *Remarks) add(notes, warnings []string) {
	r.Notes, r.Warnings = append(r.Notes, notes...), append(r.Warnings, warnings...)
}

func (r *Remarks) warn(text string) {
	if text != "" {
		r.Warnings = append(r.Warnings, text)
	}
}

// Evaluated is a system with what came of its predictions.
type Evaluated struct {
	System
	Result *froc.Result
	// Rows says where each prediction stands in its file; see [frocio.Predictions].
	Rows []int32

	strata [][]froc.Stratum // for each of Options.Strata, once described
}

// Strata divides the lesions by a column of the ground truth; with Edges into ranges of its
// numbers, without into its values.
type Strata struct {
	Column string
	Edges  []float64
}

// Options of [Run].
type Options struct {
	Truth   frocio.Source
	Read    frocio.Options
	Systems []System // one or more, with different names; comparisons are with the first
	// Protocol has all rules of the evaluation.
	Protocol froc.Protocol
	// IoUs are those of further average precisions; empty: none.
	IoUs []float64
	// Strata are evaluated one by one besides the whole; StrataRule says what becomes of
	// the lesions of other strata.
	Strata     []Strata
	StrataRule froc.StrataRule
	// ByClass evaluates every class by itself besides the whole, and their mean.
	ByClass bool
	// Resample sets intervals and tests; no Replicates: neither.
	Resample resample.Options
	// AllPairs compares every pair of systems, not only each with the first.
	AllPairs bool
}

// Check returns an error that names the option which makes no sense.
func (o Options) Check() error {
	if err := o.Protocol.Check(); err != nil {
		return err
	}
	if _, err := o.Resample.Resolved(); err != nil {
		return err
	}
	if len(o.Systems) == 0 {
		return errors.New("no system to evaluate")
	}
	names := map[string]bool{}
	for _, s := range o.Systems {
		if names[s.Name] {
			return fmt.Errorf("two systems are called %q; name them as NAME=FILE (the same NAME for the files of one system's folds)", s.Name)
		}
		names[s.Name] = true
	}
	return nil
}

// Report is the outcome of [Run].
type Report struct {
	// Document is what WriteJSON writes.
	Document frocio.Report
	// Systems are those of the options, in their order.
	Systems []Evaluated

	described []frocio.System // Systems, as in the document, with their names
	options   Options
}

// Run reads the files, evaluates every system and compares them. An error comes from
// Options.Check, says which file and row cannot be used, or is that of ctx: reading, matching
// and resampling end soon after ctx is done.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && ctx.Err() != nil {
			r, err = nil, ctx.Err() // not where it was noticed
		}
	}()
	systems, remarks, err := Evaluate(ctx, o.Truth, o.Read, o.Protocol, o.Systems)
	if err != nil {
		return nil, err
	}
	o.Resample.Context = ctx
	return Describe(o, systems, remarks)
}

// Describe makes the report of systems that are evaluated already; of the options it does
// not need the files. It bootstraps, compares and divides as they say, until
// Options.Resample.Context is done.
func Describe(o Options, systems []Evaluated, remarks Remarks) (r *Report, err error) {
	intervals := o.Resample.Replicates != 0 && systems[0].Result.Counts.Lesions > 0
	if o.Resample, err = o.Resample.Resolved(); err != nil {
		return nil, err
	}
	r = &Report{Systems: slices.Clone(systems), options: o}
	r.Document = frocio.Report{SchemaVersion: frocio.SchemaVersion, Protocol: frocio.NewProtocol(o.Protocol), Notes: append([]string{}, remarks.Notes...), Warnings: remarks.Warnings}
	if intervals {
		r.Document.Bootstrap = frocio.NewResampling(systems[0].Result, o.Resample)
	}
	for _, s := range systems {
		if !intervals {
			break
		}
		b, err := o.bootstrap(s.Result, true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Path, err)
		}
		if b == nil {
			intervals, r.Document.Bootstrap = false, nil
			r.Document.Notes = append(r.Document.Notes, s.Name+": too few patients with lesions for confidence intervals")
		}
	}
	for i := range r.Systems {
		one, err := o.describe(&r.Systems[i], intervals)
		if err != nil {
			return nil, err
		}
		r.described = append(r.described, one)
	}
	r.note(o)
	if len(systems) == 1 {
		unnamed := r.described[0]
		unnamed.Name = ""
		r.Document.System = &unnamed
		return r, nil
	}
	r.Document.Systems = r.described
	if intervals {
		comparison, err := froc.Compare(Named(systems), froc.CompareOptions{BootstrapOptions: o.Resample, AllPairs: o.AllPairs})
		if err != nil {
			return nil, err
		}
		r.Document.Comparison = frocio.NewPairs(comparison, o.Protocol.FPPI)
	}
	return r, nil
}

// Evaluate reads a ground truth and the predictions of each system, and matches them. The
// remarks say what was noticed on the way.
func Evaluate(ctx context.Context, source frocio.Source, reading frocio.Options, protocol froc.Protocol, systems []System) (found []Evaluated, said Remarks, err error) {
	truth, err := frocio.ReadTruthContext(ctx, source, reading)
	if err != nil {
		return nil, said, err
	}
	if err := reach(source.GroundTruth, truth, protocol, reading.Lenient); err != nil {
		return nil, said, err
	}
	said.add(truth.Notes, truth.Warnings)
	said.warn(warnShares(source.GroundTruth, truth.Truth, protocol))
	if protocol.Name == froc.LUNA16().Name && source.Excluded == "" && !slices.ContainsFunc(truth.Lesions, func(l froc.Lesion) bool { return l.Ignore }) {
		said.add([]string{"protocol luna16 without --excluded: the challenge ignores marks on its excluded findings, here they are false positives"}, nil)
	}
	files := make([][]string, len(systems))
	for i, s := range systems {
		files[i] = append([]string{s.Path}, s.More...)
	}
	read, err := truth.ReadSystems(ctx, files...)
	if err != nil {
		return nil, said, err
	}
	for i, s := range systems {
		predictions := read[i]
		said.add(predictions.Notes, predictions.Warnings)
		result, err := froc.EvaluateContext(ctx, truth.Truth, predictions.Marks, protocol)
		if errors.Is(err, froc.ErrNoLesions) && result != nil {
			said.warn(fmt.Sprintf("%s: %v; the false positives of %d marks are counted", source.GroundTruth, err, result.Counts.Predictions))
		} else if err != nil {
			return nil, said, fmt.Errorf("%s: %w", s.Path, err)
		}
		if result.Counts.Lesions > 0 {
			warning, err := markReach(s.Path, predictions.Marks, protocol)
			if err != nil {
				return nil, said, err
			}
			said.warn(warning)
		}
		said.warn(noOverlap(s.Path, truth, result))
		found = append(found, Evaluated{System: s, Result: result, Rows: predictions.Rows})
	}
	return found, said, nil
}

// Named are the systems' results by name, as comparisons and plots take them.
func Named(systems []Evaluated) []froc.Named {
	out := make([]froc.Named, len(systems))
	for i, s := range systems {
		out[i] = froc.Named{Name: s.Name, Result: s.Result}
	}
	return out
}

// describe is a system's part of the document. It keeps the strata for a plot.
func (o Options) describe(s *Evaluated, intervals bool) (frocio.System, error) {
	var b *froc.Bootstrap
	var err error
	if intervals {
		if b, err = s.Result.Bootstrap(o.Resample); err != nil {
			return frocio.System{}, fmt.Errorf("%s: %w", s.Path, err)
		}
	}
	out := frocio.NewSystem(s.Name, s.Result, b)
	if err := o.addAPAtIoU(&out, s.Result); err != nil {
		return out, err
	}
	if o.Protocol.Name == froc.COCO(0.5).Name {
		figures, err := froc.COCOevalContext(o.Resample.Context, s.Result.Truth, s.Result.Predictions, o.Protocol.Ties)
		if err != nil {
			return out, err
		}
		out.COCO = frocio.NewCOCO(figures)
	}
	for _, by := range o.Strata {
		strata, err := froc.StrataContext(o.Resample.Context, s.Result.Truth, s.Result.Predictions, o.Protocol, by.Column, by.Edges, o.StrataRule)
		if err != nil {
			return out, err
		}
		s.strata = append(s.strata, strata)
		if err := o.addStrata(&out, by.Column, strata, intervals); err != nil {
			return out, err
		}
	}
	if o.ByClass {
		return out, o.addClasses(&out, s.Result, intervals)
	}
	return out, nil
}

func (o Options) addClasses(s *frocio.System, r *froc.Result, intervals bool) error {
	classes, err := froc.ByClassContext(o.Resample.Context, r.Truth, r.Predictions, o.Protocol)
	if err != nil {
		return err
	}
	for _, c := range classes {
		b, err := o.bootstrap(c.Result, intervals)
		if err != nil {
			return err
		}
		s.Classes = append(s.Classes, frocio.Class{Class: c.Class, System: frocio.NewSystem("", c.Result, b)})
	}
	s.Macro = frocio.NewMacro(froc.MacroMean(classes))
	if !intervals {
		return nil
	}
	mean, ap, err := froc.MacroBootstrap(classes, o.Resample)
	s.Macro.MeanCI, s.Macro.APCI = frocio.NewRange(mean), frocio.NewRange(ap)
	return err
}

// bootstrap returns no intervals for a part of the truth with too few patients.
func (o Options) bootstrap(r *froc.Result, intervals bool) (*froc.Bootstrap, error) {
	if !intervals {
		return nil, nil
	}
	b, err := r.Bootstrap(o.Resample)
	if errors.Is(err, froc.ErrTooFewReplicates) {
		return nil, nil
	}
	return b, err
}

func (o Options) addAPAtIoU(s *frocio.System, r *froc.Result) error {
	if len(o.IoUs) == 0 {
		return nil
	}
	p := o.Protocol
	p.Hit = []froc.Criterion{{Measure: froc.IoU, Threshold: o.IoUs[0]}}
	if _, err := markReach(s.Name, r.Predictions, p); err != nil {
		return fmt.Errorf("average precision by IoU (--iou): %w", err)
	}
	points, err := froc.AveragePrecisionAtContext(o.Resample.Context, r.Truth, r.Predictions, o.Protocol, o.IoUs)
	if err != nil {
		return err
	}
	var mean frocio.Number
	for _, at := range points {
		s.APAtIoU = append(s.APAtIoU, frocio.APAtIoU{IoU: at.IoU, AP: frocio.Number(at.AP)})
		mean += frocio.Number(at.AP / float64(len(points)))
	}
	s.APMean = &mean
	return nil
}

func (o Options) addStrata(s *frocio.System, column string, strata []froc.Stratum, intervals bool) error {
	for _, stratum := range strata {
		b, err := o.bootstrap(stratum.Result, intervals)
		if err != nil {
			return err
		}
		s.Strata = append(s.Strata, frocio.Stratum{Column: column, Value: stratum.Name, System: frocio.NewSystem("", stratum.Result, b)})
	}
	return nil
}

// note adds what a reader of the figures must know.
func (r *Report) note(o Options) {
	if b := r.Document.Bootstrap; b != nil {
		if few := resample.Warning(b.Clusters, string(b.Cluster)); few != "" {
			r.Document.Warnings = append(r.Document.Warnings, few)
		}
	}
	for _, s := range r.described {
		for _, c := range s.Classes {
			if c.Counts.Lesions == 0 {
				r.Document.Warnings = append(r.Document.Warnings, fmt.Sprintf("%s: class %s has no lesions: its %d marks are false positives, "+
					"and it is not in the mean over classes", s.Name, c.Class, c.Counts.Predictions))
			}
		}
	}
	if len(o.Strata) > 0 && o.StrataRule == froc.StrataAsPapers {
		r.Document.Warnings = append(r.Document.Warnings, "--strata-rule papers counts marks on lesions of other strata as false positives; "+
			"the strata are biased downwards and only fit to be compared with published tables made that way")
	}
}

// WriteJSON writes the document.
func (r *Report) WriteJSON(w io.Writer) error { return frocio.WriteJSON(w, &r.Document) }
