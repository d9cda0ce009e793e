package workflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/runs/events"
	"github.com/alignedfusion/alignedfusion/host/runs/telemetry"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// TrainOptions of Train.
type TrainOptions struct {
	// Config is what was asked for; nil takes the run directory's own (Resume).
	Config *config.Config
	// DataSHA256, unless "", is the hash of the data that Config was planned for: others are
	// refused.
	DataSHA256 string
	Dir        string
	Resume     bool
	// Program and Version go into the manifest.
	Program, Version string
	Plugins          plughost.Options
	// Messages receives progress and warnings.
	Messages io.Writer
	// Tokens keeps the tokens of frozen encoders from run to run; nil keeps them
	// for this run alone.
	Tokens *feed.TokenStore
	// TensorBoard writes event files into the run. A run that has some goes on with them.
	TensorBoard bool
	// Telemetry is sent every record, and closed; nil sends nothing.
	Telemetry *telemetry.Sender
	// Group are the processes that train together, each with a part of every batch; nil: this
	// one alone. Rank 0 writes the run.
	Group *group.Group
	// Draw makes pictures of what was predicted for the event files, by name, PNG; may be nil.
	Draw func(context.Context, *PredictResult) (map[string][]byte, error)
}

// ErrChanged is returned when a run is resumed on data other than those it began with.
var ErrChanged = errors.New("the data have changed since the run began")

// Train makes or continues a run: everything is checked before the first file of the
// run is written. It returns loop.ErrStopped when ctx ended and a checkpoint stands.
func Train(ctx context.Context, o TrainOptions) (_ *runs.Manifest, err error) {
	t := &training{TrainOptions: o}
	defer func() {
		err = t.cause(err)
		stopped := errors.Is(err, loop.ErrStopped)
		t.Group.Close(map[bool]error{false: err}[stopped])
	}()
	if o.Resume {
		if err := t.resume(); err != nil {
			return nil, err
		}
	} else {
		if err := runs.CheckNew(t.Dir); err != nil {
			return nil, err
		}
		if err := t.prepare(); err != nil {
			return nil, err
		}
	}
	defer func() {
		if t.run != nil {
			err = errors.Join(err, t.run.Close())
		}
	}()
	return t.train(ctx)
}

// follows reports whether another process writes the run.
func (t *training) follows() bool { return t.Group.Number() > 0 }

// TrainOnce trains the run that c describes, goes on with one that was stopped, and does
// nothing (made is false) where it is done.
func TrainOnce(ctx context.Context, o TrainOptions, c func() (*config.Config, error)) (made bool, err error) {
	if m, err := runs.ReadManifest(o.Dir); err == nil && m.Status == "done" {
		return false, nil
	}
	if o.Resume = runs.IsRun(o.Dir); !o.Resume {
		if o.Config, err = c(); err != nil {
			return false, err
		}
	}
	_, err = Train(ctx, o)
	return true, err
}

// Transport is a line on how much of a run's steps was moving tensors instead of
// computing; empty where nothing is known of it.
func Transport(dir string) string {
	records, err := runs.ReadMetrics(dir)
	if err != nil {
		return ""
	}
	var compute, waited, whole float64
	for _, r := range records {
		if r.Kind == "step" {
			compute, waited, whole = compute+r.ComputeSec, waited+r.DataSec, whole+r.StepSec
		}
	}
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("of the training steps' %.1f s: computing in plugins %.1f s, the rest (transport) %.1f %%; waiting for data besides: %.1f s\n",
		whole, compute, 100*(whole-compute)/whole, waited)
}

type training struct {
	TrainOptions
	run        *runs.Run
	data       *feed.TrainingData
	manifest   *runs.Manifest
	checkpoint *runs.Checkpoint
	warnings   []string
	board      *board // nil: none
	// trained are the cases learned from; nil when a run of 0.1 goes on.
	trained trained
}

// prepare opens the data of a new run.
func (t *training) prepare() (err error) {
	if err := t.Config.Resolve(); err != nil {
		return &config.Error{Err: err}
	}
	if err := absolutePaths(t.Config); err != nil {
		return err
	}
	if t.Config.Threads == 0 {
		t.Config.Threads = runtime.GOMAXPROCS(0)
		if t.Group != nil {
			t.Config.Threads = t.Group.Threads()
		}
	}
	t.warnings = slices.Concat(t.warnings, t.Config.Notes(), t.Config.Idle())
	if t.data, err = feed.PrepareTraining(t.Config); err == nil && t.DataSHA256 != "" && t.data.Data.Hash != t.DataSHA256 {
		err = fmt.Errorf("%w: the plan was made for other data: %s has SHA-256 %.12s…, the plan's have %.12s…; make it anew with `data plan`",
			dataset.ErrData, t.Config.Data, t.data.Data.Hash, t.DataSHA256)
	}
	return err
}

// resume reads a run directory and takes its lock.
func (t *training) resume() (err error) {
	if t.follows() {
		t.run = runs.Follow(t.Dir)
	} else if t.run, err = runs.Open(t.Dir); err != nil {
		return err
	}
	fail := func(err error) error { return errors.Join(err, t.run.Close()) }
	r, err := ReadRun(t.Dir)
	if err != nil {
		return fail(err)
	}
	t.Config, t.manifest = r.Config, r.Manifest
	if t.Group != nil {
		t.Config.Threads = min(t.Config.Threads, t.Group.Threads())
	}
	if t.data, err = feed.ReopenTraining(t.Config, r.Labels, r.Schema, r.Modes); err != nil {
		return fail(err)
	}
	if t.data.Data.Hash != t.manifest.DataSHA256 {
		return fail(fmt.Errorf("%w: %w: %s has SHA-256 %.12s…, %.12s… when the run began", dataset.ErrData, ErrChanged, t.Config.Data, t.data.Data.Hash, t.manifest.DataSHA256))
	}
	if r := t.data.Reports; r != nil && r.SHA256 != t.manifest.ReportsSHA256 {
		return fail(fmt.Errorf("%w: %w: the reports %s have SHA-256 %.12s…, %.12s… when the run began", dataset.ErrData, ErrChanged, r.Path, r.SHA256, t.manifest.ReportsSHA256))
	}
	if t.trained, err = readTrained(t.Dir); err != nil {
		return fail(err)
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
	s, err := Open(ctx, Options{Config: c, Data: t.data.Data, Schema: t.data.Schema, Labels: t.data.Labels, Train: true, Plugins: t.Plugins, Tokens: t.Tokens, Group: t.Group})
	if err != nil {
		return nil, err
	}
	defer t.together(ctx, s)()
	if t.run != nil {
		if err := s.sameText(t.manifest); err != nil {
			s.Abandon()
			return nil, err
		}
	}
	m, err := t.trainOpened(ctx, s)
	if err != nil && !errors.Is(err, loop.ErrStopped) {
		s.Abandon()
		return m, err
	}
	s.finish(t.Messages)
	return m, err
}

// trainOpened trains the pipeline that was opened.
func (t *training) trainOpened(ctx context.Context, s *Session) (*runs.Manifest, error) {
	o, err := t.loopOptions(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := t.agree(s); err != nil {
		return nil, err
	}
	if t.run == nil {
		if err := s.refuseNoReports(); err != nil {
			return nil, err
		}
		if err := t.create(s); err != nil {
			return nil, err
		}
	}
	o.Run = t.run
	state, err := t.start(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := s.Pipeline.Join(ctx, t.Group, t.Config.Train.SyncBatchNorm); err != nil {
		return nil, err
	}
	t.sayAveraging(s)
	shown := loop.NewProgress(t.Messages, 0)
	all := loop.All{shown}
	if t.Telemetry != nil {
		all = append(all, &sent{Sender: t.Telemetry, warn: shown.Warn})
	}
	if !t.follows() && (t.TensorBoard || events.There(t.Dir)) {
		if t.board, err = newBoard(t.Dir, state.Step, shown.Warn); err != nil {
			return nil, err
		}
		all = append(all, t.board)
	}
	o.Progress = all
	defer o.Progress.Close()
	for _, w := range t.allWarnings(s) {
		fmt.Fprintf(t.Messages, "warning: %s\n", w)
	}
	if err := t.status("running"); err != nil {
		return nil, err
	}
	_, err = loop.Loop(ctx, o, state)
	if !t.follows() {
		if err == nil {
			err = t.threshold(ctx, s)
		}
		if err == nil {
			err = t.calibrate(ctx, s)
		}
	}
	status := map[bool]string{true: "stopped", false: "failed"}[errors.Is(err, loop.ErrStopped)]
	if err == nil {
		status = "done"
	}
	return t.manifest, errors.Join(err, t.status(status))
}

// loopOptions are those of the configuration; the run and the display are still to come.
func (t *training) loopOptions(ctx context.Context, s *Session) (loop.Options, error) {
	c := t.Config
	if t.data.NoTargets != nil && !s.Feed.Unlabelled {
		return loop.Options{}, t.data.NoTargets
	}
	weights, err := c.LossWeights(s.Pipeline.LossNames())
	if err == nil {
		err = errors.Join(s.checkBestBy(), s.checkThreshold())
	}
	if err != nil {
		return loop.Options{}, &config.Error{Err: err}
	}
	settings := &c.Train
	source := s.Feed.Source(ctx, t.data.Training)
	total, perEpoch := loop.TotalSteps(source.BatchesPerEpoch(), settings.Accumulate, settings.Epochs, settings.MaxSteps)
	schedule := scheduleOf(c, total, perEpoch)
	if c.Given("train.warmup_steps") && schedule.WarmupSteps < settings.WarmupSteps {
		t.warnings = append(t.warnings, fmt.Sprintf("train.warmup_steps is %d, a quarter of the run's %d steps at most: %d are used", settings.WarmupSteps, total, schedule.WarmupSteps))
	}
	if err := schedule.Validate(); err != nil {
		return loop.Options{}, &config.Error{Err: err}
	}
	factors := map[sdk.Kind]float64{}
	for _, role := range []sdk.Kind{sdk.KindEncoder, sdk.KindFusion, sdk.KindHead} {
		factors[role] = settings.LearningRateFactor(role)
	}
	o := loop.Options{
		Pipeline: s.Pipeline, Source: source,
		Epochs: settings.Epochs, MaxSteps: settings.MaxSteps, Accumulate: settings.Accumulate,
		Patience:      settings.Patience,
		ValidateEvery: settings.ValidateEvery, CheckpointEvery: settings.CheckpointEvery,
		Seed: c.Seed, LearningRate: settings.LearningRate, LearningRateFactor: factors, Schedule: schedule,
		LossWeights: weights, ClipNorm: settings.ClipNorm, PeakRSSBytes: s.PeakRSSBytes,
		Averaged: settings.EMA > 0, Group: t.Group, SyncBatchNorm: t.Group != nil && settings.SyncBatchNorm,
		ScaleLoss: s.half(),
	}
	if o.Averaged {
		if err := loop.CheckAverages(ctx, s.Pipeline); err != nil {
			return o, err
		}
	}
	if len(t.data.Validation) > 0 {
		o.Validate = func(ctx context.Context) (loop.Validation, error) { return t.validate(ctx, s) }
	}
	return o, nil
}

// start loads the weights that training starts from, and encodes what needs to be encoded
// once only.
func (t *training) start(ctx context.Context, s *Session) (state runs.State, err error) {
	switch {
	case t.checkpoint != nil:
		state, err = t.checkpoint.State, loop.Restore(ctx, s.Pipeline, t.checkpoint, false)
	case t.Config.Init != "":
		err = t.initialise(ctx, s)
		t.manifest.Notes = unique(append(t.manifest.Notes, t.warnings...))
	}
	if err != nil {
		return state, err
	}
	if err := t.run.RewindMetrics(state); err != nil {
		return state, err
	}
	t.notePlugins(s)
	return state, s.cacheTokens(ctx, t.data.Repeated())
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
// plugin plays in both. A fusion or a head whose weights do not fit, or a head that answers
// another question, starts anew: what was learned of patches may serve slides.
func (t *training) initialise(ctx context.Context, s *Session) error {
	other, err := ReadRun(t.Config.Init)
	if err != nil {
		return &config.Error{Err: fmt.Errorf("init: %w", err)}
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
		anew := ""
		if m.Role == sdk.KindHead && !slices.EqualFunc(other.Labels, s.Labels, sameQuestion) {
			anew = fmt.Sprintf("%s answers %s, this run %s", t.Config.Init, questionsOf(other.Labels), questionsOf(s.Labels))
		} else if err := loop.RestoreMember(ctx, m, checkpoint, true); err != nil {
			if m.Role == sdk.KindEncoder || !refused(err) {
				return fmt.Errorf("init: %w", err)
			}
			anew = err.Error()
		}
		if anew != "" {
			t.warnings = append(t.warnings, fmt.Sprintf("init: the %s starts anew: %s", m.Role, anew))
			continue
		}
		loaded++
	}
	if loaded == 0 {
		return &config.Error{Err: fmt.Errorf("init: %s and this run have no stage in common", t.Config.Init)}
	}
	return nil
}

// refused reports whether a stage that is well refuses what it was given.
func refused(err error) bool {
	var e *sdk.Error
	return !plughost.IsFailure(err) && errors.As(err, &e) && e.Code == sdk.InvalidArgument
}

func sameQuestion(a, b sdk.LabelSet) bool {
	return a.Name == b.Name && a.Asks() == b.Asks() && slices.Equal(a.Classes, b.Classes)
}

// questionsOf are label sets in words.
func questionsOf(sets []sdk.LabelSet) string {
	var out []string
	for _, l := range sets {
		text := l.Name
		if l.Classed() {
			text += " (" + strings.Join(l.Classes, ", ") + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// create writes the files of a new run.
func (t *training) create(s *Session) (err error) {
	s.ResolveStages()
	c := t.Config
	if err := t.recordCases(); err != nil {
		return err
	}
	if t.follows() {
		t.run = runs.Follow(t.Dir)
	} else if t.run, err = runs.Create(t.Dir); err != nil {
		return err
	}
	if err := t.trained.write(t.run); err != nil {
		return err
	}
	used := slices.Concat(t.data.Training, t.data.Validation)
	t.manifest = &runs.Manifest{
		SchemaVersion: runs.ManifestVersion, Program: t.Program, Version: t.Version,
		GoVersion: runtime.Version(), Platform: plughost.System,
		Task: c.Task, Seed: c.Seed, Threads: c.Threads, Device: c.Device,
		DataSpec: c.Data, DataSHA256: t.data.Data.Hash, TextEncoder: s.TextEncoder(),
		Plugins: s.PluginRecords(), StartedAt: runs.Now(), Notes: t.allWarnings(s),
		Warnings: s.voids(used, reported(t.data.Schema, used)),
	}
	if r := t.data.Reports; r != nil {
		t.manifest.Reports, t.manifest.ReportsSHA256 = r.Path, r.SHA256
	}
	if t.data.Schema != nil {
		t.manifest.Attributes = t.data.Schema.Names()
		if err := t.run.WriteJSON(runs.SchemaFile, t.data.Schema); err != nil {
			return err
		}
		if err := t.run.WriteJSON(priorsFile, predictions.Priors(t.data.Schema, t.data.Training)); err != nil {
			return err
		}
	}
	if t.data.Modes != nil {
		if err := t.run.WriteJSON(modesFile, formatModes(t.data.Schema, t.data.Modes)); err != nil {
			return err
		}
	}
	if err := t.run.WriteJSON(runs.LabelsFile, t.data.Labels); err != nil {
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

// recordCases finds out what the run learns from, the run it starts from included.
func (t *training) recordCases() (err error) {
	t.trained = trained{}
	if t.Config.Init != "" {
		before, err := ReadRun(t.Config.Init)
		if err != nil {
			return &config.Error{Err: fmt.Errorf("init: %w", err)}
		}
		maps.Copy(t.trained, before.trained)
	}
	return t.trained.add(t.data.Data, t.data.Training)
}

// allWarnings are those of the run's data and of its opened pipeline.
func (t *training) allWarnings(s *Session) []string {
	warnings := slices.Concat(t.data.Warnings, t.warnings, s.Warnings)
	if t.manifest != nil {
		warnings = append(warnings, t.manifest.Warnings...)
	}
	return unique(warnings)
}

// notePlugins notes that a run is continued with plugins other than those it began with.
func (t *training) notePlugins(s *Session) {
	t.manifest.Warnings = unique(append(t.manifest.Warnings, changedPlugins(t.manifest, s.PluginRecords())...))
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
	predicted, err := t.predictTogether(ctx, s, t.data.Validation)
	if err != nil {
		return loop.Validation{}, err
	}
	name, value, metrics, err := predictions.Score(t.Config, s.Labels, t.data.Validation, predicted)
	if err != nil {
		return loop.Validation{}, err
	}
	if t.board != nil && t.Draw != nil && t.Config.Task == config.Detect {
		t.board.pictures, err = t.Draw(ctx, &PredictResult{Run: t.Dir, Config: t.Config, Labels: s.Labels, Data: t.data.Data,
			Cases: t.data.Validation, Predictions: predicted, Evaluable: predictions.HasTargets(t.data.Validation)})
		if err != nil {
			return loop.Validation{}, err
		}
	}
	return loop.Validation{Metric: name, Value: value, Metrics: metrics, LowerIsBetter: s.lowerIsBetter(name), Latest: t.Config.Train.BestBy == config.Last,
		Keep: func() error { return t.keepValidation(s, predicted) }}, nil
}

// keepValidation writes what is predicted for the validation split into the run.
func (t *training) keepValidation(s *Session, predicted []predictions.Prediction) error {
	if t.follows() {
		return nil
	}
	warnings := t.manifest.Warnings
	if t.trained != nil {
		seen, err := t.trained.seen(t.data.Data, t.data.Validation)
		if err != nil {
			return err
		}
		warnings = slices.Concat(warnings, seen)
	}
	return predictions.Save(t.Dir, t.Config.DataSettings.ValidationSplit,
		predictions.Set{Task: t.Config.Task, Labels: s.Labels, Predictions: predicted, Warnings: warnings})
}
