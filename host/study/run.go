package study

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Version is the schema_version of study.json, cell.json and table.json.
const Version = 1

// ErrOther is returned for a folder that holds a study of something else.
var ErrOther = errors.New("the folder holds another study")

// Options of Open.
type Options struct {
	// Dir is the study's folder: study.json, runs/, cells/, table.csv, table.json and
	// plot.svg.
	Dir string
	// Identity is what all cells share; a study that goes on must have the same.
	Identity
	Plan Plan
	// Only are patterns of cells; empty means all. Again makes them anew.
	Only  []string
	Again bool
	// Shard makes a part of the models, with all their cells.
	Shard shard.Spec
	// Threads and Device as in a configuration.
	Threads int
	// Devices are those that share the models of this process, each with one at a time; empty:
	// one after the other on Identity.Device, which then is what all of them are, "cuda".
	Devices          []string
	Program, Version string
	Plugins          plughost.Options
	Messages         io.Writer
}

// Identity is study.json.
type Identity struct {
	SchemaVersion int       `json:"schema_version"`
	Task          string    `json:"task"`
	Data          string    `json:"data"`
	Split         string    `json:"split"`
	Attributes    *[]string `json:"attributes"`
	Encoder       string    `json:"encoder"`
	Head          string    `json:"head"`
	Epochs        int       `json:"epochs"`
	// Init is the run that all models start from; empty for none.
	Init string `json:"init,omitempty"`
	// Reports are those of the methods that read them as they are written; empty: reports.csv of
	// the data.
	Reports string `json:"reports,omitempty"`
	// Forests are fitted as a reference for recovered attributes.
	Forests bool `json:"forests,omitempty"`
	// Set are the settings of all methods, or of those a pattern names.
	Set    []string `json:"set"`
	Device string   `json:"device"`
}

// Study is an opened study.
type Study struct {
	Options
	// cells are this shard's of those that are planned.
	planned, cells []Cell
	tokens         *feed.TokenStore
	// features of the frozen encoder by fold and case, for the host's methods.
	features map[[2]string][]float64
	// guesses of what is not the method's, by what they depend on.
	guesses map[string]map[string][][]int
	// truths of detection by seeds.
	truths map[string]*froc.Truth
	// host lets the host compute for one cell at a time: features and guesses are shared.
	host sync.Mutex
	// make makes a cell on a device; tests have their own.
	make func(ctx context.Context, c Cell, device string, messages io.Writer) (*CellResult, error)
}

// CellResult is cell.json: what came of one cell.
type CellResult struct {
	SchemaVersion int     `json:"schema_version"`
	Cell          string  `json:"cell"`
	Method        string  `json:"method"`
	TrainRate     float64 `json:"train_rate"`
	TestRate      float64 `json:"test_rate"`
	Fraction      float64 `json:"fraction"`
	Seed          uint64  `json:"seed"`
	// Run is the model's run directory, relative to the study; empty for the host's.
	Run   string `json:"run,omitempty"`
	Split string `json:"split"`
	// TrainSec is the model's training, PredictSec the prediction.
	TrainSec   float64            `json:"train_sec"`
	PredictSec float64            `json:"predict_sec"`
	Metrics    map[string]float64 `json:"metrics"`
	// Classified holds a classifier's answers per label set.
	Classified []Classified `json:"classified,omitempty"`
	// Reconstruction says how well attributes that were taken away are recovered.
	Reconstruction []AttributeScore `json:"reconstruction,omitempty"`
}

// Classified are the answers of one label set; cases without a label are left out.
type Classified struct {
	Task          string      `json:"task"`
	Classes       []string    `json:"classes"`
	IDs           []string    `json:"ids"`
	Patients      []string    `json:"patients"`
	Labels        []int       `json:"labels"`
	Probabilities [][]float64 `json:"probabilities"`
	// Called are the classes that are called by the run's threshold; none where it has none.
	Called []int `json:"called,omitempty"`
	// Question is what is asked where it is a number or a time: Values are true then, Events
	// whether the event happened, and Probabilities those of intervals or one number each.
	Question string    `json:"question,omitempty"`
	Values   []float64 `json:"values,omitempty"`
	Events   []bool    `json:"events,omitempty"`
}

// evaluate gives a result of classes, or answers that are numbers or times.
func (c Classified) evaluate() (*classify.Result, classify.Answers, error) {
	switch c.Question {
	case classify.Survival:
		t, err := classify.NewTimes(c.Values, c.Events, c.Classes, c.Probabilities)
		if err != nil {
			return nil, nil, err
		}
		return nil, t, nil
	case classify.Regression:
		predicted := make([]float64, len(c.Probabilities))
		for i, p := range c.Probabilities {
			predicted[i] = p[0]
		}
		n, err := classify.NewNumbers(c.Values, predicted)
		if err != nil {
			return nil, nil, err
		}
		return nil, n, nil
	}
	r, err := classify.EvaluateCalled(c.Labels, c.Called, c.Probabilities, c.Classes)
	return r, nil, err
}

// Open checks the plan and compares the folder with it. Nothing is written yet.
func Open(o Options) (*Study, error) {
	o.SchemaVersion = Version
	if o.Set == nil {
		o.Set = []string{}
	}
	s := &Study{Options: o, tokens: feed.NewTokenStore(4 << 30), features: map[[2]string][]float64{}, guesses: map[string]map[string][][]int{}, truths: map[string]*froc.Truth{}}
	s.make = s.cell
	if len(s.Devices) == 0 {
		s.Devices = []string{o.Device}
	} else if s.Threads == 0 {
		s.Threads = max(1, runtime.NumCPU()/len(s.Devices))
	}
	cells := o.Plan.Cells()
	if len(cells) == 0 {
		return nil, &config.Error{Err: errors.New("the study has no cells: give at least one method, rate and seed")}
	}
	var err error
	if s.cells, err = only(cells, o.Only); err != nil {
		return nil, &config.Error{Err: err}
	}
	s.planned, s.cells = s.cells, ofShard(s.cells, o.Shard)
	checked := map[string]bool{} // models that differ in their seed alone are checked once
	for _, c := range s.cells {
		model := c.Model
		model.Seed = 0
		if checked[model.Name()] {
			continue
		}
		checked[model.Name()] = true
		if _, err := o.config(c.Model); err != nil {
			return nil, &config.Error{Err: err}
		}
		if c.Fold != "" && o.Task != config.Classify {
			return nil, &config.Error{Err: fmt.Errorf("folds are for the task %s; this study is of the task %s", config.Classify, o.Task)}
		}
		if c.Method.host != nil && o.Task != config.Classify {
			return nil, &config.Error{Err: fmt.Errorf("method %s classifies; this study is of the task %s", c.Method.Name, o.Task)}
		}
	}
	data, err := os.ReadFile(s.path("study.json"))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	var there Identity
	if err := json.Unmarshal(data, &there); err != nil {
		return nil, fmt.Errorf("%s: %w", s.path("study.json"), err)
	}
	if !reflect.DeepEqual(there, o.Identity) {
		now, _ := json.Marshal(o.Identity)
		then, _ := json.Marshal(there)
		return nil, &config.Error{Err: fmt.Errorf("%s: %w: it began with %s, now it is %s; methods, rates and seeds may grow, the rest needs another --out",
			o.Dir, ErrOther, then, now)}
	}
	return s, nil
}

func (s *Study) path(parts ...string) string {
	return filepath.Join(append([]string{s.Dir}, parts...)...)
}

func (s *Study) runDir(m Model) string { return s.path("runs", m.Name()) }

// split is what a cell predicts.
func (s *Study) split(c Cell) string {
	if c.Fold != "" {
		return c.Fold
	}
	return s.Split
}

// result reads a finished cell; nil when it is not finished.
func (s *Study) result(c Cell) (*CellResult, error) {
	path := s.path("cells", c.Name(), "cell.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(data) == 0 { // a power cut came before the disk
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &CellResult{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s: %w; remove it to make the cell again", path, err)
	}
	if r.SchemaVersion != Version || r.Split != s.split(c) {
		return nil, fmt.Errorf("%s is of split %q and version %d, want %q and %d; remove it to make the cell again", path, r.Split, r.SchemaVersion, s.split(c), Version)
	}
	return r, nil
}

// Run makes every cell that is not there yet. A signal (ctx) stops it; what is
// finished stays.
func (s *Study) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.Dir, 0o777); err != nil {
		return err
	}
	identity, err := json.MarshalIndent(s.Identity, "", "  ")
	if err != nil {
		return err
	}
	if err := runs.WriteFile(s.path("study.json"), append(identity, '\n')); err != nil {
		return err
	}
	if s.Again {
		for _, c := range s.cells {
			if err := errors.Join(os.RemoveAll(s.path("cells", c.Name())), os.RemoveAll(s.runDir(c.Model))); err != nil {
				return err
			}
		}
	}
	return s.share(ctx)
}

// share has every device make the cells of one model after the other. The first error stops
// all of them at their next step.
func (s *Study) share(ctx context.Context) error {
	type numbered struct {
		cells []Cell
		first int // the first cell's number among all
	}
	models := byModel(s.cells)
	left := make(chan numbered, len(models))
	first := 1
	for _, cells := range models {
		left <- numbered{cells, first}
		first += len(cells)
	}
	close(left)
	messages := &lines{to: s.Messages}
	// Cells reach the disk while the next ones are made: with eight devices, waiting for it took
	// longer than all the rest of a study.
	var disk errgroup.Group
	disk.SetLimit(4 * len(s.Devices))
	group, ctx := errgroup.WithContext(ctx)
	for _, device := range s.Devices {
		own := s.Messages // a terminal's progress needs no whole lines
		if len(s.Devices) > 1 {
			own = &lines{to: messages, prefix: device + ": "}
		}
		group.Go(func() error {
			for model := range left {
				for i, c := range model.cells {
					if err := s.once(ctx, c, model.first+i, device, own, &disk); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return errors.Join(group.Wait(), disk.Wait())
}

// once makes a cell on a device unless it is there, and has disk flush it.
func (s *Study) once(ctx context.Context, c Cell, number int, device string, messages io.Writer, disk *errgroup.Group) error {
	done, err := s.result(c)
	if err != nil || done != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	fmt.Fprintf(messages, "study: cell %d of %d: %s\n", number, len(s.cells), c.Name())
	r, err := s.make(ctx, c, device, messages)
	if err != nil {
		return fmt.Errorf("cell %s: %w", c.Name(), err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	flush, err := runs.WriteFileSoon(s.path("cells", c.Name(), "cell.json"), append(data, '\n'))
	if err != nil {
		return err
	}
	disk.Go(flush)
	fmt.Fprintf(messages, "study: %s: %s\n", c.Name(), summary(r))
	return nil
}

// lines writes whole lines behind a prefix, for several writers of one.
type lines struct {
	sync.Mutex
	to     io.Writer
	prefix string
	rest   []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		if _, err := fmt.Fprintf(l.to, "%s%s\n", l.prefix, line); err != nil {
			return 0, err
		}
		l.rest = rest
	}
}

func summary(r *CellResult) string {
	for _, name := range []string{"balanced_accuracy", "mean_sensitivity", "mae", "concordance"} {
		if v, ok := r.Metrics[name]; ok {
			return fmt.Sprintf("%s %.3f (training %.0f s, prediction %.0f s)", name, v, r.TrainSec, r.PredictSec)
		}
	}
	return "done"
}

// cell trains the model if need be and predicts.
func (s *Study) cell(ctx context.Context, c Cell, device string, messages io.Writer) (*CellResult, error) {
	r := &CellResult{SchemaVersion: Version, Cell: c.Name(), Method: c.Method.Name, TrainRate: c.Rate, TestRate: c.TestRate,
		Fraction: c.Fraction, Seed: c.Seed, Split: s.split(c), Metrics: map[string]float64{}}
	var p *workflow.PredictResult
	var err error
	started := time.Now()
	if c.Method.host != nil {
		s.host.Lock()
		p, err = s.hostCell(ctx, c, device)
		s.host.Unlock()
		if err != nil {
			return nil, err
		}
		r.TrainSec = time.Since(started).Seconds()
	} else {
		if err := s.train(ctx, c.Model, device, messages); err != nil {
			return nil, err
		}
		r.Run = filepath.ToSlash(filepath.Join("runs", c.Model.Name()))
		if r.TrainSec, err = trainSec(s.runDir(c.Model)); err != nil {
			return nil, err
		}
		started = time.Now()
		p, err = workflow.Predict(ctx, workflow.PredictOptions{AllowChanged: true, Run: s.runDir(c.Model), Checkpoint: "best", Split: r.Split, Missing: &c.TestRate,
			Threads: s.Threads, Device: device, Plugins: s.Plugins, Tokens: s.tokens, Messages: io.Discard})
		if err != nil {
			return nil, err
		}
		r.PredictSec = time.Since(started).Seconds()
	}
	if !p.Evaluable {
		return nil, fmt.Errorf("%w: %s: split %q has cases without targets: nothing can be compared on it; choose another with --split", dataset.ErrData, s.Data, r.Split)
	}
	if err := s.evaluate(r, p); err != nil {
		return nil, err
	}
	s.host.Lock()
	r.Reconstruction, err = s.reconstruction(ctx, c, p)
	s.host.Unlock()
	if err != nil {
		return nil, err
	}
	return r, predictions.Save(s.path("cells", c.Name()), r.Split, p.Set())
}

// train makes or continues a model's run.
func (s *Study) train(ctx context.Context, m Model, device string, messages io.Writer) error {
	_, err := workflow.TrainOnce(ctx, workflow.TrainOptions{Dir: s.runDir(m), Program: s.Program, Version: s.Options.Version, Plugins: s.Plugins,
		Tokens: s.tokens, Messages: messages}, func() (*config.Config, error) { return s.on(device, m) })
	return err
}

// on is the configuration of a model's run on a device.
func (s *Study) on(device string, m Model) (*config.Config, error) {
	c, err := s.config(m)
	if err == nil && device != "" {
		c.Device = device
	}
	return c, err
}

// trainSec is how long a finished run took, from its first record to its last.
func trainSec(dir string) (float64, error) {
	records, err := runs.ReadMetrics(dir)
	if err != nil {
		return 0, err
	}
	var sec float64
	for _, r := range records {
		sec += r.StepSec + r.DataSec
	}
	return sec, nil
}

// evaluate fills in the metrics.
func (s *Study) evaluate(r *CellResult, p *workflow.PredictResult) error {
	if s.Task == config.Detect {
		protocol, err := predictions.Protocol(p.Config)
		if err != nil {
			return err
		}
		result, err := predictions.EvaluateBoxes(p.Cases, p.Predictions, p.Labels, protocol)
		if errors.Is(err, froc.ErrNoLesions) {
			return fmt.Errorf("%w: split %q has no lesions", dataset.ErrData, r.Split)
		}
		if err != nil {
			return err
		}
		for _, o := range result.OperatingPoints {
			r.Metrics["sensitivity@"+number(o.FPPI)] = o.Sensitivity
		}
		r.Metrics["mean_sensitivity"] = result.MeanSensitivity
		return nil
	}
	for k, set := range p.Labels {
		one := Classified{Task: set.Name, Classes: set.Classes}
		if !set.Classed() {
			one.Question = set.Question
		}
		for i := range p.Cases {
			answer := p.Predictions[i].Probabilities[k]
			if label, ok := p.Cases[i].Labels[set.Name]; ok && label >= 0 {
				if one.Labels = append(one.Labels, label); set.Threshold > 0 {
					one.Called = append(one.Called, predictions.Called(set, answer))
				}
			} else if m, ok := p.Cases[i].Measured[set.Name]; ok {
				one.Values, one.Events = append(one.Values, m.Value), append(one.Events, m.Event)
			} else {
				continue
			}
			one.IDs, one.Patients = append(one.IDs, p.Cases[i].ID), append(one.Patients, p.Cases[i].Patient)
			one.Probabilities = append(one.Probabilities, answer)
		}
		r.Classified = append(r.Classified, one)
	}
	return r.measure()
}

// measure fills in the metrics of classified cases.
func (r *CellResult) measure() error {
	for _, c := range r.Classified {
		result, answers, err := c.evaluate()
		if err != nil {
			return err
		}
		suffix := ""
		if len(r.Classified) > 1 {
			suffix = "." + c.Task
		}
		metrics := map[string]float64{}
		if answers != nil {
			for _, name := range classify.PlainMeasures(c.Question) {
				m, err := classify.ParseMeasure(name, c.Question)
				if err != nil {
					return err
				}
				metrics[name] = m.Of(answers)
			}
		} else {
			metrics = map[string]float64{"accuracy": result.Metrics.Accuracy, "balanced_accuracy": result.Metrics.BalancedAccuracy,
				"macro_auroc": result.Metrics.MacroAUROC, "ece": result.Metrics.ECE}
		}
		for name, v := range metrics {
			if v == v { // JSON has no NaN
				r.Metrics[name+suffix] = v
			}
		}
	}
	return nil
}

// joined are the folds of one model as one result: every case once.
func joined(folds []*CellResult) (*CellResult, error) {
	all := *folds[0]
	if len(folds) == 1 {
		return &all, nil
	}
	all.Classified, all.Metrics, all.Reconstruction = slices.Clone(all.Classified), map[string]float64{}, slices.Clone(all.Reconstruction)
	for _, r := range folds[1:] {
		for k := range all.Classified {
			if !slices.Equal(r.Classified[k].Classes, all.Classified[k].Classes) {
				return nil, fmt.Errorf("cells %s and %s know other classes", all.Cell, r.Cell)
			}
			a, b := &all.Classified[k], r.Classified[k]
			a.IDs, a.Patients = slices.Concat(a.IDs, b.IDs), slices.Concat(a.Patients, b.Patients)
			a.Labels, a.Probabilities = slices.Concat(a.Labels, b.Labels), slices.Concat(a.Probabilities, b.Probabilities)
			a.Called, a.Values, a.Events = slices.Concat(a.Called, b.Called), slices.Concat(a.Values, b.Values), slices.Concat(a.Events, b.Events)
		}
		all.Reconstruction = append(all.Reconstruction, r.Reconstruction...)
	}
	return &all, all.measure()
}

// labelled keeps the cases with a known label in the first label set.
func labelled(set sdk.LabelSet, cases []dataset.Case) []dataset.Case {
	return slices.DeleteFunc(slices.Clone(cases), func(c dataset.Case) bool {
		label, ok := c.Labels[set.Name]
		return !ok || label < 0
	})
}
