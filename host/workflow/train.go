package workflow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/missing"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// TrainOptions of Train.
type TrainOptions struct {
	// Config is what was asked for; nil takes the run directory's own (Resume).
	Config *config.Config
	Dir    string
	Resume bool
	// Program and Version go into the manifest.
	Program, Version string
	Plugins          plughost.Options
	// Messages receives progress and warnings.
	Messages io.Writer
	// Tokens remembers the tokens of frozen encoders from run to run; nil keeps them
	// for this run alone.
	Tokens *TokenStore
}

// ErrChanged is returned when a run is resumed on data other than those it began with.
var ErrChanged = errors.New("the data have changed since the run began")

// combinedHash is the hash of a plugin of one file, or one over the hashes of several.
func combinedHash(files map[string]string) string {
	if len(files) == 1 {
		for _, h := range files {
			return h
		}
	}
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%s  %s\n", files[path], filepath.Base(path))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Train makes or continues a run: everything is checked before the first file of the
// run is written. It returns loop.ErrStopped when ctx ended and a checkpoint stands.
func Train(ctx context.Context, o TrainOptions) (_ *runs.Manifest, err error) {
	t := &training{TrainOptions: o}
	if o.Resume {
		if err := t.resume(); err != nil {
			return nil, err
		}
	} else if err := t.prepare(); err != nil {
		return nil, err
	}
	defer func() {
		if t.run != nil {
			err = errors.Join(err, t.run.Close())
		}
	}()
	return t.train(ctx)
}

type training struct {
	TrainOptions
	run        *runs.Run
	data       *dataset.Dataset
	training   []dataset.Case
	validation []dataset.Case
	schema     *schema.Schema
	modes      map[string]string
	labels     []sdk.LabelSet
	manifest   *runs.Manifest
	checkpoint *runs.Checkpoint
	warnings   []string
}

// prepare opens the data of a new run.
func (t *training) prepare() error {
	if err := runs.CheckNew(t.Dir); err != nil {
		return err
	}
	if err := t.Config.Resolve(); err != nil {
		return &ConfigError{Err: err}
	}
	if t.Config.Threads == 0 {
		t.Config.Threads = runtime.GOMAXPROCS(0)
	}
	return t.prepareData()
}

// prepareData chooses labels and attributes from the training split.
func (t *training) prepareData() error {
	if err := t.openData(nil, nil); err != nil {
		return err
	}
	t.labels = slices.Clone(t.data.Labels)
	if t.Config.DataSettings.ClassWeights == config.Balanced {
		balance(t.labels, t.training)
	}
	if t.Config.Fusion.Plugin == config.None {
		return nil
	}
	s, warnings, err := schemaOf(t.data, t.training)
	if err != nil {
		return err
	}
	t.schema, t.warnings = s, append(t.warnings, warnings...)
	if t.Config.DataSettings.Impute == config.ImputeMode {
		t.modes = missing.Modes(t.training)
		t.data.Cases = missing.Fill(t.data.Cases, t.modes)
	}
	return nil
}

// ConfigError is a configuration that makes no sense.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

func (t *training) openData(labels []sdk.LabelSet, attributes []string) (err error) {
	c := t.Config
	if t.data, err = OpenData(c.Data, c, labels, attributes); err != nil {
		return err
	}
	if err := takeAway(t.data, c, nil); err != nil {
		return &ConfigError{Err: err}
	}
	if t.training, err = t.data.Split(c.DataSettings.TrainSplit); err != nil {
		return err
	}
	if err := needTargets(t.data, t.training, "nothing can be learned from them"); err != nil {
		return err
	}
	t.training = fraction(t.training, c.DataSettings.TrainFraction, uint64(c.DataSettings.MissingSeed))
	if t.validation, err = t.data.Split(c.DataSettings.ValidationSplit); err != nil {
		return fmt.Errorf("%w; the best checkpoint is chosen on a validation split (data.validation_split)", err)
	}
	t.warnOfSplits()
	return needTargets(t.data, t.validation, "the best checkpoint cannot be chosen on them")
}

// warnOfSplits names splits that the run does not use, for a misspelt one would lose its
// cases in silence (the test split is not meant to be used), and those it uses twice.
func (t *training) warnOfSplits() {
	c := &t.Config.DataSettings
	counts := t.data.Splits()
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		trained, validated := dataset.InSplit(name, c.TrainSplit), dataset.InSplit(name, c.ValidationSplit)
		switch {
		case trained && validated:
			t.warnings = append(t.warnings, fmt.Sprintf("the %d cases of split %q are trained on and validated on: what is measured there says nothing about other cases", counts[name], name))
		case !trained && !validated && name != "test":
			t.warnings = append(t.warnings, fmt.Sprintf("%d cases are in split %q, which is not used: this run trains on %q and validates on %q",
				counts[name], name, c.TrainSplit, c.ValidationSplit))
		}
	}
}

// needTargets names the first of a split's cases that have no targets.
func needTargets(d *dataset.Dataset, cases []dataset.Case, why string) error {
	if d.Task == dataset.Classify && len(d.Labels) == 0 {
		return fmt.Errorf("%w: %s: there is no label column: want label, or label.NAME for each of several tasks (or name it: ?labels=COLUMN)", dataset.ErrData, d.Spec)
	}
	for i := range cases {
		if c := &cases[i]; !c.HasTargets {
			return fmt.Errorf("%w: %s: split %q has cases without targets, the first is %q: %s", dataset.ErrData, c.Origin, c.Split, c.ID, why)
		}
	}
	return nil
}

// resume reads a run directory and takes its lock.
func (t *training) resume() (err error) {
	if t.run, err = runs.Open(t.Dir); err != nil {
		return err
	}
	fail := func(err error) error { return errors.Join(err, t.run.Close()) }
	r, err := ReadRun(t.Dir)
	if err != nil {
		return fail(err)
	}
	t.Config, t.schema, t.labels, t.manifest = r.Config, r.Schema, r.Labels, r.Manifest
	if err := t.openData(r.Labels, nil); err != nil {
		return fail(err)
	}
	t.modes = r.Modes
	t.data.Cases = missing.Fill(t.data.Cases, t.modes)
	if t.data.Hash != t.manifest.DataSHA256 {
		return fail(fmt.Errorf("%w: %w: %s has SHA-256 %.12s…, %.12s… when the run began", dataset.ErrData, ErrChanged, t.Config.Data, t.data.Hash, t.manifest.DataSHA256))
	}
	checkpoint, warnings, err := runs.Latest(t.Dir)
	t.warnings = warnings
	switch {
	case err == nil:
		t.checkpoint = checkpoint
	case len(warnings) == 0:
		t.warnings = append(t.warnings, "the run has no checkpoint yet; it starts from the beginning")
	default:
		return fail(err)
	}
	t.manifest.Resumed++
	return nil
}

func (t *training) train(ctx context.Context) (*runs.Manifest, error) {
	c := t.Config
	s, err := Open(ctx, Options{Config: c, Data: t.data, Schema: t.schema, Labels: t.labels, Train: true, Plugins: t.Plugins, Tokens: t.Tokens})
	if err != nil {
		return nil, err
	}
	if t.run != nil {
		if err := s.sameText(t.manifest); err != nil {
			s.Abandon()
			return nil, err
		}
	}
	m, err := t.with(ctx, s)
	if err != nil && !errors.Is(err, loop.ErrStopped) {
		s.Abandon()
		return m, err
	}
	return m, errors.Join(err, s.Close())
}

func (t *training) with(ctx context.Context, s *Session) (*runs.Manifest, error) {
	c := t.Config
	weights, err := c.LossWeights(s.Pipeline.LossNames())
	if err != nil {
		return nil, &ConfigError{Err: err}
	}
	settings := &c.Train
	source := &trainingSource{s, ctx, t.training}
	total, perEpoch := loop.TotalSteps(source.BatchesPerEpoch(), settings.Accumulate, settings.Epochs, settings.MaxSteps)
	schedule := scheduleOf(c, total, perEpoch)
	if err := schedule.Validate(); err != nil {
		return nil, &ConfigError{Err: err}
	}
	if t.run == nil {
		if err := t.create(s); err != nil {
			return nil, err
		}
	}
	state := runs.State{}
	switch {
	case t.checkpoint != nil:
		state = t.checkpoint.State
		if err := loop.Restore(ctx, s.Pipeline, t.checkpoint, false); err != nil {
			return nil, err
		}
	case c.Init != "":
		if err := t.initialise(ctx, s); err != nil {
			return nil, err
		}
	}
	if err := t.run.RewindMetrics(state.Step); err != nil {
		return nil, err
	}
	if err := s.remember(ctx, t.remembered()); err != nil {
		return nil, err
	}
	t.notePlugins(s)
	progress := loop.NewProgress(t.Messages, 0)
	defer progress.Close()
	for _, w := range append(t.warnings, s.Warnings...) {
		fmt.Fprintf(t.Messages, "warning: %s\n", w)
	}
	factors := map[sdk.Kind]float64{}
	for _, role := range []sdk.Kind{sdk.KindEncoder, sdk.KindFusion, sdk.KindHead} {
		factors[role] = settings.LearningRateFactor(role)
	}
	if err := t.status("running"); err != nil {
		return nil, err
	}
	_, err = loop.Loop(ctx, loop.Options{
		Pipeline: s.Pipeline, Run: t.run, Source: source, Progress: progress,
		Validate: func(ctx context.Context) (loop.Validation, error) { return t.validate(ctx, s) },
		Epochs:   settings.Epochs, MaxSteps: settings.MaxSteps, Accumulate: settings.Accumulate,
		ValidateEvery: settings.ValidateEvery, CheckpointEvery: settings.CheckpointEvery,
		Seed: c.Seed, LearningRate: settings.LearningRate, LearningRateFactor: factors, Schedule: schedule,
		LossWeights: weights, ClipNorm: settings.ClipNorm, PeakRSSBytes: s.PeakRSSBytes,
	}, state)
	if err == nil {
		err = t.calibrate(context.WithoutCancel(ctx), s)
	}
	status := map[bool]string{true: "stopped", false: "failed"}[errors.Is(err, loop.ErrStopped)]
	if err == nil {
		status = "done"
	}
	return t.manifest, errors.Join(err, t.status(status))
}

// scheduleOf is the learning rate's schedule of a run of totalSteps optimizer steps,
// stepsPerEpoch of them per epoch.
func scheduleOf(c *config.Config, totalSteps, stepsPerEpoch int) loop.Schedule {
	s := &c.Train
	out := loop.Schedule{
		Name: string(s.Schedule), TotalSteps: totalSteps,
		WarmupSteps: s.WarmupSteps, WarmupFactor: s.WarmupFactor,
		Gamma: s.Gamma, MinFactor: s.MinLRFactor,
	}
	// A short run must not end inside its warm-up.
	out.WarmupSteps = min(out.WarmupSteps, totalSteps/4)
	for _, epoch := range s.Milestones {
		out.Milestones = append(out.Milestones, int(epoch*float64(stepsPerEpoch)))
	}
	return out
}

// initialise loads the best weights of another run into the stages that the same
// plugin plays in both.
func (t *training) initialise(ctx context.Context, s *Session) error {
	other, err := ReadRun(t.Config.Init)
	if err != nil {
		return &ConfigError{Err: fmt.Errorf("init: %w", err)}
	}
	checkpoint, warnings, err := runs.Find(t.Config.Init, "best")
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	t.warnings = append(t.warnings, warnings...)
	loaded := 0
	for _, m := range s.Pipeline.Members {
		same := slices.ContainsFunc(other.Manifest.Plugins, func(p runs.PluginRecord) bool {
			return p.Role == string(m.Role) && p.Name == m.Plugin && p.Stage == m.Stage.Name
		})
		if !same || !m.Stage.Trainable {
			continue
		}
		loaded++
		if err := loop.RestoreMember(ctx, m, checkpoint, true); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	if loaded == 0 {
		return &ConfigError{Err: fmt.Errorf("init: %s and this run have no stage in common", t.Config.Init)}
	}
	return nil
}

// remembered are the cases whose tokens serve more than once: those of the validation,
// and those of the training unless they are varied at random.
func (t *training) remembered() []dataset.Case {
	c := &t.Config.DataSettings
	if c.Augment != config.AugmentNone || c.Crop > 0 {
		return t.validation
	}
	return slices.Concat(t.training, t.validation)
}

// create writes the files of a new run.
func (t *training) create(s *Session) (err error) {
	s.ResolveStages()
	c := t.Config
	if t.run, err = runs.Create(t.Dir); err != nil {
		return err
	}
	t.manifest = &runs.Manifest{
		SchemaVersion: runs.ManifestVersion, Program: t.Program, Version: t.Version,
		GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Task: c.Task, Seed: c.Seed, Threads: c.Threads, Device: c.Device,
		DataSpec: c.Data, DataSHA256: t.data.Hash, TextEncoder: s.TextEncoder(),
		Plugins: s.PluginRecords(), StartedAt: runs.Now(), Notes: append(t.warnings, s.Warnings...),
	}
	if t.schema != nil {
		t.manifest.Attributes = t.schema.Names()
		if err := t.run.WriteJSON(runs.SchemaFile, t.schema); err != nil {
			return err
		}
	}
	if t.modes != nil {
		if err := t.run.WriteJSON(modesFile, t.modes); err != nil {
			return err
		}
	}
	if err := t.run.WriteJSON(runs.LabelsFile, t.labels); err != nil {
		return err
	}
	if err := t.status("running"); err != nil {
		return err
	}
	// The configuration comes last: with it the folder is a run.
	data, err := c.YAML()
	if err != nil {
		return err
	}
	return t.run.Write(runs.ConfigFile, data)
}

// notePlugins warns when a run is continued with plugins other than those it began with.
func (t *training) notePlugins(s *Session) {
	for i, now := range s.PluginRecords() {
		if i < len(t.manifest.Plugins) && t.manifest.Plugins[i].SHA256 != now.SHA256 {
			t.warnings = append(t.warnings, fmt.Sprintf("plugin %s has changed since the run began (SHA-256 %.12s…, then %.12s…): the run will not repeat bit for bit",
				now.Name, now.SHA256, t.manifest.Plugins[i].SHA256))
		}
	}
}

func (t *training) status(status string) error {
	t.manifest.Status, t.manifest.EndedAt = status, ""
	if status != "running" {
		t.manifest.EndedAt = runs.Now()
	}
	return t.run.WriteJSON(runs.ManifestFile, t.manifest)
}

// validate predicts the validation split and keeps the predictions of the best epoch.
func (t *training) validate(ctx context.Context, s *Session) (loop.Validation, error) {
	predictions, err := s.Predict(ctx, t.validation, nil)
	if err != nil {
		return loop.Validation{}, err
	}
	name, value, metrics, err := s.score(t.validation, predictions)
	if err != nil {
		return loop.Validation{}, err
	}
	return loop.Validation{Metric: name, Value: value, Metrics: metrics, Latest: t.Config.Train.BestBy == config.Last, Keep: func() error {
		return SavePredictions(t.Dir, t.Config.DataSettings.ValidationSplit, t.Config.Task, s.Labels, predictions)
	}}, nil
}

// BatchesPerEpoch counts full batches; a split smaller than a batch is one.
func (t *trainingSource) BatchesPerEpoch() int {
	size := t.s.batchSize()
	return max(1, len(t.cases)/size)
}

// Epoch starts loading.
func (t *trainingSource) Epoch(epoch, first int) (loop.Batches, error) {
	l, err := t.s.loader(context.WithoutCancel(t.ctx), t.cases, true, epoch, first)
	if err != nil {
		return nil, err
	}
	return &trainingBatches{t.s, l}, nil
}

// RunFiles are what a run directory says about its pipeline.
type RunFiles struct {
	Config   *config.Config
	Manifest *runs.Manifest
	Schema   *schema.Schema
	Labels   []sdk.LabelSet
	// Modes are what data.impute=mode puts where an attribute is missing.
	Modes map[string]string
	// Calibration of the reconstruction; nil where none was fitted.
	Calibration *Calibration
}

// ReadRun reads configuration, manifest, schema and labels of a run. It fails with
// runs.ErrNotARun or runs.ErrDamaged.
func ReadRun(dir string) (*RunFiles, error) {
	if !runs.IsRun(dir) {
		return nil, fmt.Errorf("%s: %w (no %s in it)", dir, runs.ErrNotARun, runs.ConfigFile)
	}
	r, err := readRun(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runs.ErrDamaged, err)
	}
	return r, nil
}

func readRun(dir string) (*RunFiles, error) {
	data, err := os.ReadFile(filepath.Join(dir, runs.ConfigFile))
	if err != nil {
		return nil, err
	}
	r := &RunFiles{}
	if r.Config, err = config.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, runs.ConfigFile), err)
	}
	if err := r.Config.Resolve(); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, runs.ConfigFile), err)
	}
	if r.Manifest, err = runs.ReadManifest(dir); err != nil {
		return nil, err
	}
	if err := readJSON(filepath.Join(dir, runs.LabelsFile), &r.Labels); err != nil {
		return nil, err
	}
	var s schema.Schema
	switch err := readJSON(filepath.Join(dir, runs.SchemaFile), &s); {
	case err == nil:
		r.Schema = &s
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if err := readJSON(filepath.Join(dir, calibrationFile), &r.Calibration); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if c := r.Calibration; c != nil && !(c.Temperature > 0) {
		return nil, fmt.Errorf("%s: the temperature is %v, want more than 0", filepath.Join(dir, calibrationFile), c.Temperature)
	}
	if err := readJSON(filepath.Join(dir, modesFile), &r.Modes); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return r, nil
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
