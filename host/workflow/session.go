// Package workflow turns a configuration into a running pipeline: it opens the data,
// starts the plugins, opens their stages, feeds them with batches and reports, and
// trains, predicts and evaluates with them.
package workflow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Options of Open.
type Options struct {
	// Config must be resolved.
	Config *config.Config
	Data   *dataset.Dataset
	// Schema of the attributes; nil when the pipeline uses none.
	Schema *schema.Schema
	// Labels are the classes in the order the stages know them.
	Labels []sdk.LabelSet
	// Train opens the stages for training.
	Train   bool
	Plugins plughost.Options
	// Tokens keeps the tokens of frozen encoders; nil keeps none.
	Tokens *feed.TokenStore
	// Group are the processes that train together; nil: this one alone.
	Group *group.Group
}

// Session is an opened pipeline with its data.
type Session struct {
	Options
	Pipeline *pipeline.Pipeline
	// Warnings are what data and plugins had to say, one line each.
	Warnings []string

	// Feed loads cases for the pipeline.
	Feed *feed.Feed

	// visuals are the maps over the pictures that predictions are to have, by name.
	visuals []string
	// attention are the weights of patches that predictions are to have, by name.
	attention []string

	host    *plughost.Host
	decoder predictions.Decoder
	// text is what embedded the reports; nil when it was the built-in encoder.
	text    *feed.TextEncoder
	records []runs.PluginRecord
}

// noAverages is how SDKs that keep no averaged weights refuse to.
var noAverages = regexp.MustCompile(`optimizer \w+ has no value "?` + sdk.EMA + `\b`)

// Open starts the plugins, checks that their ports fit together and opens their
// stages. Close ends everything, also after an error of any other method.
func Open(ctx context.Context, o Options) (_ *Session, err error) {
	c := o.Config
	s := &Session{Options: o, Warnings: slices.Clone(o.Data.Warnings)}
	o.Plugins.Threads = c.Threads
	o.Plugins.Isolation.Network = o.Group != nil
	if s.host, err = plughost.New(o.Plugins); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// What closing adds to a failure is noise: the plugin is gone.
			_ = s.host.Close()
		}
	}()
	var reports *feed.Reports
	if o.Schema != nil {
		if reports, s.text, err = feed.EmbedReports(ctx, s.host, c, o.Schema, o.Data.Cases); err != nil {
			return nil, err
		}
		s.Warnings = append(s.Warnings, reports.Warnings...)
	}
	if s.Feed, err = feed.New(c, o.Data, o.Labels, reports); err != nil {
		return nil, err
	}
	s.Feed.Group = o.Group
	roles := []struct {
		kind  sdk.Kind
		stage config.Stage
	}{{sdk.KindEncoder, c.Encoder}, {sdk.KindFusion, c.Fusion}, {sdk.KindHead, c.Head}}
	var sources []pipeline.Source
	var plugins []*plughost.Plugin
	for _, r := range roles {
		if r.stage.Plugin == config.None {
			continue
		}
		source, plugin, err := start(ctx, s.host, r.kind, r.stage, c.Task)
		if err != nil {
			return nil, err
		}
		source.Frozen = c.Train.LearningRateFactor(r.kind) == 0
		source.OwnRules = c.Train.PluginRules
		source.AMP = slices.Contains(plugin.Manifest().Capabilities, sdk.CapabilityAMP)
		source.FP16 = slices.Contains(plugin.Manifest().Capabilities, sdk.CapabilityFP16)
		source.Keep = o.Plugins.Colocate && slices.Contains(plugin.Manifest().Capabilities, sdk.CapabilityKeep)
		sources, plugins = append(sources, source), append(plugins, plugin)
	}
	if err := colocated(o.Plugins.Colocate, sources); err != nil {
		return nil, err
	}
	if t := s.text; t != nil {
		s.records = append(s.records, t.Record())
		if !slices.Contains(plugins, t.Plugin) { // nobody needs it, and its memory, any more
			if err := t.Plugin.Stop(); err != nil {
				s.Warnings = append(s.Warnings, notInOrder(err))
			}
		}
	}
	device := c.Device
	if o.Group != nil {
		device = o.Group.Device(device, os.Getenv)
	}
	req := sdk.OpenRequest{
		Seed: c.Seed, Device: device, Threads: c.Threads, Train: o.Train, Group: "pipeline",
		Labels: o.Labels, Optimizer: c.Train.StageOptimizer(), Task: c.Task, AMP: c.Train.AMP.On(), FP16: c.Train.AMP == config.AMPFP16,
		Arithmetic: &sdk.Arithmetic{TF32: c.Train.TF32, Benchmark: c.Train.CudnnBenchmark, Deterministic: c.Train.Deterministic},
	}
	if reports != nil {
		req.AttributeSchema = reports.StageSchema
		req.Constants = map[string]*tensor.Tensor{"value.embedding": reports.ValueEmbeddings}
	}
	if s.Pipeline, err = pipeline.Open(ctx, sources, s.Feed.Ports(o.Train), req); err != nil {
		if noAverages.MatchString(err.Error()) {
			err = fmt.Errorf("%w: the plugin's SDK is from before train.ema; build the plugin anew, or train without it", err)
		}
		return nil, err
	}
	s.Feed.Encoder = s.Pipeline.Member(sdk.KindEncoder)
	head := s.Pipeline.Member(sdk.KindHead)
	s.Feed.Targets = head != nil && len(head.Metrics()) > 0
	s.Feed.Unlabelled = !slices.ContainsFunc(s.Pipeline.Members, func(m *pipeline.Member) bool {
		return slices.ContainsFunc(m.Opened.Inputs, func(p sdk.Port) bool { return ports.Target(p.Name) })
	})
	s.decoder = predictions.Decoder{Task: c.Task, Labels: o.Labels, MaxBoxes: c.DataSettings.MaxBoxes,
		Head: head, Fusion: s.Pipeline.Member(sdk.KindFusion), Schema: o.Schema}
	for i, m := range s.Pipeline.Members {
		manifest := plugins[i].Manifest()
		s.records = append(s.records, runs.PluginRecord{
			Role: string(m.Role), Name: manifest.Name, Version: manifest.Version, Stage: m.Stage.Name,
			SHA256: plugins[i].SHA256(), Runtime: manifest.Runtime, Libraries: plugins[i].Libraries(), Isolation: plugins[i].Isolation(),
			Parameters: m.Opened.ParameterCount, Trainable: m.Opened.TrainableCount,
		})
		s.Warnings = append(s.Warnings, plugins[i].Warnings()...)
		if m.KeepsMoving() && o.Train {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s %s is frozen but does not know it: running statistics (of batch norm), if it has any, still move", m.Role, m.Plugin))
		}
		s.Warnings = append(s.Warnings, ofItsOwn(m, c.Train.AMP, o.Train)...)
		if set := *req.Arithmetic; set != (sdk.Arithmetic{}) && !slices.Contains(manifest.Capabilities, sdk.CapabilityArithmetic) {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s %s takes no notice of train.tf32, train.cudnn_benchmark and train.deterministic: its plugin does not have the capability %s",
				m.Role, m.Plugin, sdk.CapabilityArithmetic))
		}
		for _, note := range m.Opened.Notes {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s %s: %s", m.Role, m.Plugin, note))
		}
	}
	s.Warnings = append(s.Warnings, s.Pipeline.Notes...)
	if err := s.Feed.CheckAbsent(); err != nil {
		return s, err
	}
	return s, s.look(ctx)
}

// colocated refuses stages that cannot run in one process where that is asked for.
func colocated(asked bool, sources []pipeline.Source) error {
	for _, s := range sources {
		first := sources[0]
		switch {
		case asked && s.Process != first.Process:
			return fault.Errorf(fault.Usage, "--colocate: %s %s runs in a process of its own: it is another program than %s %s; leave --colocate out, or take all stages from one program",
				s.Role, s.Plugin, first.Role, first.Plugin)
		case asked && !s.Keep:
			return fault.Errorf(fault.Usage, "--colocate: %s %s keeps no tensors in its process: its plugin does not have the capability %s; leave --colocate out", s.Role, s.Plugin, sdk.CapabilityKeep)
		}
	}
	return nil
}

// half reports whether a stage computes in half precision.
func (s *Session) half() bool {
	return s.Config.Train.AMP == config.AMPFP16 && slices.ContainsFunc(s.Pipeline.Members, func(m *pipeline.Member) bool { return m.AMP && m.FP16 })
}

// ofItsOwn says in what a stage does not follow the run's settings.
func ofItsOwn(m *pipeline.Member, amp config.AMP, train bool) (notes []string) {
	name := fmt.Sprintf("%s %s", m.Role, m.Plugin)
	switch {
	case amp.On() && !m.AMP:
		notes = append(notes, name+" computes in single precision: its plugin does not have the capability amp")
	case amp == config.AMPFP16 && !m.FP16:
		notes = append(notes, name+" computes in single precision: its plugin does not have the capability fp16 (train.amp=bf16 it can)")
	}
	if !train || !m.OwnRules || !m.Updates() {
		return notes
	}
	if m.Stage.Optimizer != "" {
		notes = append(notes, fmt.Sprintf("%s is updated by %s, a rule of its own (train.plugin_rules=false: by train.optimizer)", name, m.Stage.Optimizer))
	}
	if m.Stage.Schedule != "" {
		notes = append(notes, fmt.Sprintf("%s has a learning rate of its own: %s (train.plugin_rules=false: train.schedule)", name, m.Stage.Schedule))
	}
	return notes
}

// look asks of a few images whether the encoder sees anything in them.
func (s *Session) look(ctx context.Context) error {
	if s.Feed.Encoder == nil {
		return nil
	}
	var window *sdk.Intensity
	for _, port := range s.Feed.Encoder.Opened.Inputs {
		if ports.Scan(port.Name) {
			window = port.Intensity
		}
	}
	warnings, err := dataset.Look(ctx, s.Data, s.Data.Cases, window)
	s.Warnings = append(s.Warnings, warnings...)
	return err
}

// ResolveStages writes the chosen stages and all their settings into the
// configuration, so that it says everything.
func (s *Session) ResolveStages() {
	c := s.Config
	for _, m := range s.Pipeline.Members {
		target := map[sdk.Kind]*config.Stage{sdk.KindEncoder: &c.Encoder, sdk.KindFusion: &c.Fusion, sdk.KindHead: &c.Head}[m.Role]
		target.Stage, target.Settings = m.Stage.Name, config.Values(m.Resolved)
	}
	if s.text != nil {
		c.TextEncoder.Stage, c.TextEncoder.Settings = s.text.Stage.Name, config.Values(s.text.Settings)
	}
}

// PluginRecords say what plays each role.
func (s *Session) PluginRecords() []runs.PluginRecord { return s.records }

// TextEncoder names what embeds the reports; "" without reports.
func (s *Session) TextEncoder() string {
	if s.Feed.Reports == nil {
		return ""
	}
	return s.Feed.Reports.Encoder.ID
}

// sameText refuses to go on with a run whose reports would be embedded otherwise than
// they were in training.
func (s *Session) sameText(m *runs.Manifest) error {
	if now := s.TextEncoder(); m.TextEncoder != "" && now != m.TextEncoder {
		return fmt.Errorf("%w: the run's reports were embedded by %s, now it would be %s: the text encoder's weights or settings have changed",
			dataset.ErrData, m.TextEncoder, now)
	}
	return nil
}

// checkBestBy refuses a train.best_by that is a metric of the head's own and not one of this
// head's, or that no label set takes. The default becomes the first label set's where none takes
// it.
func (s *Session) checkBestBy() error {
	c := s.Config
	wanted := string(c.Train.BestBy)
	if !ports.Metrics.Has(wanted) {
		several := len(s.Labels) > 1
		fits := func(set sdk.LabelSet) bool { return predictions.BestBy(c.Train.BestBy, set, several) == wanted }
		if c.Task != config.Classify || c.Train.BestBy == config.Last || slices.ContainsFunc(s.Labels, fits) {
			return nil
		}
		first := s.Labels[0]
		if c.Given("train.best_by") {
			if _, err := classify.ParseFigure(wanted, first.Classes); err != nil && first.Classed() && classify.IsFigure(wanted) {
				return fmt.Errorf("train.best_by: %w", err)
			}
			return fmt.Errorf("train.best_by=%s is no figure of the question %s, which %s asks; its own are %s, or last", wanted, first.Asks(), first.Name, strings.Join(predictions.BestBys(first), ", "))
		}
		c.Train.BestBy = config.BestBy(predictions.BestBy(c.Train.BestBy, first, several))
		return nil
	}
	head := s.Pipeline.Member(sdk.KindHead)
	var names []string
	for _, port := range head.Metrics() {
		if names = append(names, port.Name); port.Name == wanted {
			return nil
		}
	}
	return fmt.Errorf("train.best_by: %q given, and the head %s has %s of its own", wanted, head.Plugin, cmp.Or(strings.Join(names, ", "), "no metrics"))
}

// lowerIsBetter says so of a metric of the head's own.
func (s *Session) lowerIsBetter(metric string) bool {
	port := sdk.FindPort(s.Pipeline.Member(sdk.KindHead).Metrics(), metric)
	return port != nil && port.LowerIsBetter
}

// Close closes the stages and ends the plugins.
func (s *Session) Close() error { return errors.Join(s.Pipeline.Close(), s.host.Close()) }

// finish closes a session whose work is done: a plugin that then does not end in order
// spoils nothing, and is told of.
func (s *Session) finish(messages io.Writer) {
	if err := s.Close(); err != nil {
		fmt.Fprintln(messages, "warning: "+notInOrder(err))
	}
}

func notInOrder(err error) string {
	return fmt.Sprintf("what was asked for is done, but a plugin did not end in order: %v", err)
}

// Abandon ends the plugins without closing the stages first: after a failure there is
// nothing left to close.
func (s *Session) Abandon() { _ = s.host.Close() }

// PeakRSSBytes is the most memory that the host and each plugin's process have used.
func (s *Session) PeakRSSBytes() map[string]int64 {
	out := map[string]int64{}
	if own := process.PeakRSSBytes(); own > 0 {
		out["host"] = own
	}
	for _, m := range s.Pipeline.Members {
		if peak := m.Cost().PeakRSSBytes; peak > 0 {
			out[m.Plugin] = max(out[m.Plugin], peak)
		}
	}
	return out
}

// Predict runs cases through the pipeline in EVAL mode. report is called after every
// batch with the number of cases done, and ends the prediction by an error; it may be nil.
func (s *Session) Predict(ctx context.Context, cases []dataset.Case, report func(done int) error) (_ []predictions.Prediction, err error) {
	bags, of := dataset.Bags(cases, s.Config.DataSettings.BagSize)
	loader, err := s.Feed.Loader(ctx, bags)
	if err != nil {
		return nil, err
	}
	next := s.fetch(ctx, loader)
	defer func() {
		loader.Close()
		<-next
	}()
	var out []predictions.Prediction
	var shown []int // of the patches of a slide
	at := func(i int) int {
		switch {
		case of == nil:
			return i
		case i == len(of):
			return len(cases)
		}
		return of[i]
	}
	for {
		f := <-next
		if errors.Is(f.err, io.EOF) && of != nil {
			return predictions.OfBags(out, shown), nil
		}
		if errors.Is(f.err, io.EOF) {
			return out, nil
		}
		if f.err != nil {
			return nil, f.err
		}
		next = s.fetch(ctx, loader)
		batch, err := s.predictBatch(ctx, f)
		if err != nil {
			return nil, err
		}
		for i := range batch {
			batch[i].Case = &cases[at(len(out)+i)]
			shown = append(shown, len(bags[len(out)+i].Patches))
		}
		out = append(out, batch...)
		if report == nil {
			continue
		}
		if err := report(at(len(out))); err != nil {
			return nil, err
		}
	}
}

// fetched is a batch to be predicted, or why there is none.
type fetched struct {
	*dataset.Batch
	in      pipeline.Batch
	targets map[string]*tensor.Tensor
	err     error
}

// fetch loads the next batch and begins to hand it over, while the one before is computed. The
// channel is closed afterwards.
func (s *Session) fetch(ctx context.Context, loader *dataset.Loader) <-chan fetched {
	out := make(chan fetched, 1)
	go func() {
		defer close(out)
		b, err := loader.Next()
		if err != nil {
			out <- fetched{err: err}
			return
		}
		f := fetched{Batch: b, in: s.Feed.Inputs(b), targets: map[string]*tensor.Tensor{}}
		maps.DeleteFunc(f.in.Inputs, func(name string, t *tensor.Tensor) bool {
			if ports.Target(name) {
				f.targets[name] = t
			}
			return ports.Target(name)
		})
		f.err = s.Pipeline.Prefetch(ctx, f.in.Inputs)
		out <- f
	}()
	return out
}

func (s *Session) predictBatch(ctx context.Context, f fetched) (_ []predictions.Prediction, err error) {
	b, in, targets := f.Batch, f.in, f.targets
	o := pipeline.ForwardOptions{Seed: pipeline.Seed(s.Config.Seed, "predict"), Absent: in.Absent, Wanted: map[string]bool{}}
	drawn := s.visuals
	if s.Feed.View != (feed.View{}) { // the maps are of the pictures as they are
		drawn = nil
	}
	for _, name := range slices.Concat(drawn, s.attention) {
		o.Wanted[name] = true
	}
	run, err := s.Pipeline.Forward(ctx, o, in.Inputs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, run.Release(context.WithoutCancel(ctx))) }()
	var cells func(id string) []schema.Cell
	if s.Feed.Reports != nil {
		cells = s.Feed.Reports.Cells
	}
	out, err := s.decoder.Decode(run, b, cells)
	if err == nil {
		err = fault.Wrap(fault.Plugin, errors.Join(predictions.Visuals(run, drawn, b, out), predictions.Weights(run, s.attention, b, out)))
	}
	if err != nil || len(targets) == 0 {
		return out, err
	}
	own, err := s.Pipeline.OwnMetrics(ctx, run, o, targets)
	if err != nil {
		return nil, err
	}
	return out, s.decoder.Metrics(own, out)
}

// predictViews predicts cases in a pass per view of their images and combines the passes,
// boxes by merge (predictions.Combine). report is given the number of cases done in all passes.
func (s *Session) predictViews(ctx context.Context, cases []dataset.Case, views []feed.View, merge string, report func(done int) error) ([]predictions.Prediction, error) {
	defer func() { s.Feed.View = feed.View{} }()
	var passes [][]predictions.Prediction
	for k, view := range views {
		s.Feed.View = view
		one, err := s.Predict(ctx, cases, func(done int) error { return report(k*len(cases) + done) })
		if err != nil {
			return nil, err
		}
		passes = append(passes, one)
	}
	if len(passes) == 1 {
		return passes[0], nil
	}
	return predictions.Combine(s.Config.Task, merge, passes)
}

// predictBetweenSignals predicts until ctx ends: the batch under way is finished, so that
// the plugins are in order and can be closed, and ctx.Err() returned.
func (s *Session) predictBetweenSignals(ctx context.Context, cases []dataset.Case) ([]predictions.Prediction, error) {
	return s.Predict(context.WithoutCancel(ctx), cases, func(done int) error {
		if done < len(cases) {
			return ctx.Err()
		}
		return nil
	})
}

// cacheTokens encodes the cases once when the encoder is frozen.
func (s *Session) cacheTokens(ctx context.Context, cases []dataset.Case) error {
	var sha string
	for _, r := range s.records {
		if r.Role == string(sdk.KindEncoder) {
			sha = r.SHA256
		}
	}
	return s.Feed.CacheTokens(ctx, s.Pipeline, sha, s.Tokens, cases)
}

var _ io.Closer = (*Session)(nil)
