package workflow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// System is a run directory, or a file of a detector's predictions.
type System struct {
	Name, Path string
	// Folds are further runs of the system, besides Path, each of which predicts other cases:
	// all are evaluated together, every run on its own validation split.
	Folds []string

	// pooled is the folder with what all folds predict.
	pooled string
	// grouped is the folder with what is said of slides or patients of several cases.
	grouped string
	// perVolume takes what is predicted of whole volumes.
	perVolume bool
}

// RunName is what a run is called when it is given no name.
func RunName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Base(dir)
}

func (s System) isRun() bool { return runs.IsRun(s.Path) }

// predictions is the system's file of predictions of a split.
func (s System) predictions(split string) string {
	if s.isRun() || s.grouped != "" {
		return filepath.Join(s.dir(split), predictions.File)
	}
	return s.Path
}

// dir is the folder with a run's predictions of a split, and what is true of it.
func (s System) dir(split string) string {
	if dir := cmp.Or(s.grouped, s.pooled); dir != "" {
		return dir
	}
	return s.dirOf(s.Path, split)
}

func (s System) dirOf(run, split string) string {
	if s.perVolume {
		return filepath.Join(predictions.Dir(run, split), predictions.VolumesDir)
	}
	return predictions.Dir(run, split)
}

// CompareOptions of Compare.
type CompareOptions struct {
	Systems []System
	// Split is compared on; empty takes test where all runs have it, else val, else the
	// first they share.
	Split string
	// FROC is how detectors are evaluated: its truth's files, when only files are compared,
	// how they are read, strata, classes. Compare fills in systems, protocol and Resample.
	FROC frocreport.Options
	// Protocol is that of the FROC; empty means the first run's. Rules changes it, nil: not;
	// FPPIGiven says that it sets the operating points.
	Protocol  string
	Rules     func(froc.Protocol) (froc.Protocol, error)
	FPPIGiven bool
	// DetectorFlags are named in the error when classifiers are compared.
	DetectorFlags []string
	// Resample sets intervals and tests, NoIntervals leaves them out, for detectors.
	Resample    resample.Options
	NoIntervals bool
	// PerVolume evaluates the findings in whole volumes against their lesions, not the boxes
	// on slices; the default of Protocol is nndetection then.
	PerVolume bool
	// Per joins a classifier's answers to the cases of a predictions.PerSlide or PerPatient, by
	// their mean or, Vote, each for its most probable class; "": cases are compared.
	Per  string
	Vote bool
	// Figures are further ones of classifiers, see classify.ParseFigure.
	Figures []string
	// AllPairs compares every pair of systems, not only each with the first.
	AllPairs bool
	// AllowChanged compares runs whose plugins were others in training than afterwards.
	AllowChanged bool
}

// Comparison is what Compare found: Detection, or Classification or Measured per label set.
type Comparison struct {
	Split          string
	Detection      *Detection
	Classification []*Classification
	Measured       []*Measured
	// Own are the heads' own metrics, of those systems that have some.
	Own []FigureRow
	// Warnings say what makes figures better than they should be, or the comparison void.
	Warnings []string
}

// Compare reads what several systems predict for the same cases and compares each with the
// first: whole patients are resampled and exchanged. Runs that were predicted on different
// data are refused; what else sets them apart is named in Warnings. Evaluating detectors ends with the
// error of ctx soon after that is done.
func Compare(ctx context.Context, o CompareOptions) (_ *Comparison, err error) {
	given, err := readSystems(o.Systems)
	if err != nil {
		return nil, err
	}
	o.Systems = slices.Clone(o.Systems)
	if o.PerVolume {
		for i := range o.Systems {
			o.Systems[i].perVolume = true
		}
		if o.Protocol == "" {
			o.Protocol = froc.NNDetection().Name
		}
	}
	folds := slices.ContainsFunc(o.Systems, func(s System) bool { return len(s.Folds) > 0 })
	var joined string
	if folds || o.Per != "" {
		if joined, err = os.MkdirTemp("", "alignedfusion-joined-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(joined)) }()
	}
	if folds {
		if err := o.poolFolds(joined); err != nil {
			return nil, err
		}
	}
	if o.Split == "" {
		o.Split = commonSplit(o.Systems)
	}
	var note string
	if o.Per != "" {
		if note, err = o.group(given, joined); err != nil {
			return nil, err
		}
	}
	out := &Comparison{Split: o.Split}
	if out.Warnings, err = compareWarnings(o, given); err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(out.Warnings, saysChangedPlugin); i >= 0 && !o.AllowChanged {
		return nil, fault.Errorf(fault.Plugin, "%s; --allow-changed compares it all the same, and says so", out.Warnings[i])
	}
	var first *config.Config
	for _, r := range given {
		if r != nil && first == nil {
			first = r.Config
		}
	}
	if first != nil && first.Task == config.Classify {
		if len(o.DetectorFlags) > 0 {
			return nil, usage("%s: of detectors, but %s is a classifier", strings.Join(o.DetectorFlags, ", "), o.Systems[0].Name)
		}
		out.Classification, out.Measured, err = compareClassifiers(o, given)
		if note != "" {
			for _, one := range out.Classification {
				one.Notes = append(one.Notes, note)
			}
			for _, one := range out.Measured {
				one.Notes = append(one.Notes, note)
			}
		}
	} else {
		out.Detection, err = compareDetectors(ctx, o, first)
	}
	if err == nil && first != nil {
		out.Own, err = compareOwn(o)
	}
	return out, err
}

// compareOwn compares the heads' own metrics.
func compareOwn(o CompareOptions) ([]FigureRow, error) {
	var names []string
	var metrics []map[string]map[string]float64
	patientOf := map[string]string{}
	for _, s := range o.Systems {
		if !s.isRun() {
			continue
		}
		own, err := predictions.ReadMetrics(filepath.Join(s.dir(o.Split), predictions.MetricsFile))
		if err != nil {
			return nil, bad(err)
		}
		names, metrics = append(names, s.Name), append(metrics, own)
		if len(own) == 0 {
			continue
		}
		images, err := table.Read(filepath.Join(s.dir(o.Split), predictions.ImagesFile))
		if err != nil {
			return nil, bad(err)
		}
		for _, r := range images.Rows {
			patientOf[images.Get(r, "image")] = images.Get(r, "patient")
		}
	}
	return ownFigures(names, metrics, patientOf, o.Resample)
}

// readSystems reads the runs among the systems; the others stay nil.
func readSystems(systems []System) ([]*RunFiles, error) {
	names := map[string]bool{}
	task := ""
	out := make([]*RunFiles, len(systems))
	for i, s := range systems {
		if names[s.Name] {
			return nil, usage("two systems are called %q; name them as NAME=RUN", s.Name)
		}
		names[s.Name] = true
		for _, fold := range s.Folds {
			if !runs.IsRun(s.Path) || !runs.IsRun(fold) {
				return nil, usage("%s has folds, %s and %s, and not both are runs; files of folds are evaluated by `alignedfusion froc`", s.Name, s.Path, fold)
			}
		}
		if !s.isRun() {
			if info, err := os.Stat(s.Path); err != nil {
				return nil, fault.Mark(fault.Usage, problem.File(s.Path, err))
			} else if info.IsDir() {
				return nil, fmt.Errorf("%s: %w%s", s.Path, runs.ErrNotARun, runsNear(s.Path))
			}
			continue
		}
		r, err := ReadRun(s.Path)
		if err != nil {
			return nil, err
		}
		if out[i] = r; task == "" {
			task = r.Config.Task
		}
		if r.Config.Task != task {
			return nil, usage("%s is a run of the task %s, the others of %s", s.Path, r.Config.Task, task)
		}
	}
	return out, nil
}

func usage(format string, args ...any) error {
	return &config.Error{Err: fmt.Errorf(format, args...)}
}

// commonSplit is test where all runs have it, else the first that they share.
func commonSplit(systems []System) string {
	var shared []string
	first := true
	for _, s := range systems {
		if !s.isRun() {
			continue
		}
		splits := predictions.Splits(s.Path)
		if first {
			shared, first = splits, false
		}
		shared = slices.DeleteFunc(slices.Clone(shared), func(split string) bool { return !slices.Contains(splits, split) })
	}
	for _, split := range []string{"test", "val"} {
		if slices.Contains(shared, split) {
			return split
		}
	}
	if len(shared) > 0 {
		return shared[0]
	}
	return "test"
}

// truthDir is the folder with what is true of the split; all runs must agree on it.
func truthDir(systems []System, split string) (string, error) {
	var dir string
	for _, s := range systems {
		if !s.isRun() {
			continue
		}
		mine := s.dir(split)
		if _, err := os.Stat(filepath.Join(mine, predictions.File)); err != nil {
			return "", s.noPredictions(s.Path, split)
		}
		if dir == "" {
			dir = mine
			continue
		}
		for _, name := range []string{predictions.TruthFile, predictions.ImagesFile} {
			a, errA := os.ReadFile(filepath.Join(dir, name))
			b, errB := os.ReadFile(filepath.Join(mine, name))
			if err := errors.Join(errA, errB); err != nil {
				return "", fmt.Errorf("%w: %w", runs.ErrDamaged, err)
			}
			if !bytes.Equal(a, b) {
				return "", fmt.Errorf("%w: %s and %s differ: the runs were predicted on different data", dataset.ErrData, filepath.Join(dir, name), filepath.Join(mine, name))
			}
		}
	}
	return dir, nil
}

// compareWarnings are the warnings that each run's predictions were saved with, and what
// sets the runs apart besides what is compared.
func compareWarnings(o CompareOptions, given []*RunFiles) ([]string, error) {
	var out []string
	first := -1
	for i, r := range given {
		if r == nil {
			continue
		}
		saved, err := o.Systems[i].warnings(o.Split)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", runs.ErrDamaged, err)
		}
		for _, w := range saved {
			out = append(out, o.Systems[i].Name+": "+w)
		}
		if first < 0 {
			first = i
			continue
		}
		for _, difference := range given[first].differences(r, o) {
			out = append(out, fmt.Sprintf("%s and %s %s", o.Systems[first].Name, o.Systems[i].Name, difference))
		}
	}
	return out, nil
}

// differences are what makes it hard to say why two runs' figures differ.
func (r *RunFiles) differences(other *RunFiles, o CompareOptions) []string {
	var out []string
	if a, b := r.trained, other.trained; a != nil && b != nil {
		same := 0
		for sum := range a {
			if _, ok := b[sum]; ok {
				same++
			}
		}
		if same < len(a) || same < len(b) {
			out = append(out, fmt.Sprintf("were trained on different cases: %d and %d, %d of them the same", len(a), len(b), same))
		}
	}
	if a, b := r.Config.DataSettings.ValidationSplit, other.Config.DataSettings.ValidationSplit; a != b {
		out = append(out, fmt.Sprintf("chose their best checkpoints on different splits: %q and %q", a, b))
	}
	// A run without fusion reads none, which is what it is compared for.
	if a, b := r.Manifest.Attributes, other.Manifest.Attributes; len(a) > 0 && len(b) > 0 && !slices.Equal(a, b) {
		out = append(out, fmt.Sprintf("read different attributes: %s; and %s", strings.Join(a, ", "), strings.Join(b, ", ")))
	}
	if r.Config.Task == config.Detect && o.Protocol == "" {
		a, b := r.Config.DataSettings, other.Config.DataSettings
		if a.Protocol != b.Protocol || !o.FPPIGiven && !slices.Equal(a.FPPI, b.FPPI) {
			out = append(out, fmt.Sprintf("were validated by different protocols: %s at %v and %s at %v; this comparison uses the first", a.Protocol, a.FPPI, b.Protocol, b.FPPI))
		}
	}
	return out
}

// Detection is a comparison of detectors.
type Detection struct {
	Report frocio.Report
	// Results are those of Report.Systems.
	Results []froc.Named
	// Resample are the options that were used; Intervals is false where there were too
	// few patients with lesions for them.
	Resample  resample.Options
	Intervals bool
	// Full has files, plots and parts (strata, classes) of the comparison.
	Full *frocreport.Report
}

func compareDetectors(ctx context.Context, o CompareOptions, first *config.Config) (*Detection, error) {
	protocol, err := o.protocol(first)
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	r := o.FROC
	r.Protocol, r.AllPairs, r.Resample, r.Systems = protocol, o.AllPairs, o.Resample, nil
	if first != nil {
		if given := r.Truth.GroundTruth; given != "" {
			return nil, usage("--ground-truth %s is for predictions in files alone; the lesions are those of the runs", given)
		}
		dir, err := truthDir(o.Systems, o.Split)
		if err != nil {
			return nil, err
		}
		r.Read.Split = "" // the run's files hold one split
		r.Truth = frocio.Source{GroundTruth: filepath.Join(dir, predictions.TruthFile), Images: filepath.Join(dir, predictions.ImagesFile)}
		if r.ByClass, err = o.byClass(r.Truth.GroundTruth, protocol); err != nil {
			return nil, err
		}
	} else if r.Truth.GroundTruth == "" {
		return nil, usage("predictions in files need --ground-truth (and --images for images without lesions)")
	}
	for _, s := range o.Systems {
		r.Systems = append(r.Systems, frocreport.System{Name: s.Name, Path: s.predictions(o.Split)})
	}
	if r.Resample, err = r.Resample.Resolved(); err == nil {
		err = r.Check()
	}
	if err != nil {
		return nil, &config.Error{Err: err}
	}
	resolved := r.Resample
	if o.NoIntervals {
		r.Resample.Replicates = 0
	}
	full, err := frocreport.Run(ctx, r)
	if err != nil {
		return nil, bad(err)
	}
	return newDetection(full, resolved), nil
}

// byClass reports whether every class is evaluated by itself: where that is asked for, or a
// run's truth has classes that the protocol tells apart.
func (o CompareOptions) byClass(truth string, p froc.Protocol) (bool, error) {
	if o.FROC.ByClass || p.Classes == froc.AnyClasses {
		return o.FROC.ByClass, nil
	}
	t, err := table.Read(truth)
	if err != nil {
		return false, bad(err)
	}
	return t.Has("class"), nil
}

// bad marks an error as one of the input data, unless it says so itself.
func bad(err error) error {
	if err == nil || errors.Is(err, dataset.ErrData) {
		return err
	}
	return fmt.Errorf("%w: %w", dataset.ErrData, err)
}

func (o CompareOptions) protocol(first *config.Config) (froc.Protocol, error) {
	name, points := o.Protocol, []float64(nil)
	if first != nil && name == "" {
		name, points = string(first.DataSettings.Protocol), first.DataSettings.FPPI
	}
	if name == "" {
		name = "deeplesion"
	}
	p, err := froc.ProtocolByName(name)
	if err != nil {
		return p, err
	}
	if len(points) > 0 {
		p.FPPI = points
	}
	if o.Rules != nil {
		if p, err = o.Rules(p); err != nil {
			return p, err
		}
	}
	return p, p.Check()
}

// newDetection is what a report says of the systems that it was made of.
func newDetection(full *frocreport.Report, o resample.Options) *Detection {
	d := &Detection{Report: full.Document, Results: frocreport.Named(full.Systems), Resample: o, Intervals: full.Document.Bootstrap != nil, Full: full}
	if one := d.Report.System; one != nil {
		d.Report.Systems, d.Report.System = []frocio.System{*one}, nil
		d.Report.Systems[0].Name = full.Systems[0].Name
	}
	return d
}

// runsNear names the runs in a folder, for a message to who gave the folder itself, or the run
// that it lies in, or the folder that is called nearly so; "" when there is none.
func runsNear(dir string) string {
	if _, err := os.Stat(dir); err != nil {
		return nearest.File(dir)
	}
	if above := filepath.Dir(dir); above != dir {
		if _, err := os.Stat(filepath.Join(above, runs.ConfigFile)); err == nil {
			return nearest.Question(above)
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", runs.ConfigFile))
	if err != nil || len(found) == 0 {
		return ""
	}
	for i := range found {
		found[i] = filepath.Dir(found[i])
	}
	more := ""
	if len(found) > 10 {
		found, more = found[:10], fmt.Sprintf(" and %d more", len(found)-10)
	}
	return "; there are runs below: " + strings.Join(found, " ") + more
}
