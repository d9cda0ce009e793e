// Package workflow turns a configuration into a running pipeline: it opens the data,
// starts the plugins, opens their stages, feeds them with batches and reports, and
// trains, predicts and evaluates with them.
package workflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/report/textembed"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
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
	Tokens *TokenStore
}

// Session is an opened pipeline with its data.
type Session struct {
	Options
	Pipeline *pipeline.Pipeline
	// Warnings are what data and plugins had to say, one line each.
	Warnings []string

	host    *plughost.Host
	reports *reports
	cache   *dataset.Cache
	// remembered is the encoder's part of Tokens; nil when nothing is remembered.
	remembered *rememberedTokens
	// temperature of the reported reconstructions; 0 leaves them as they come.
	temperature float64
	// mirrored turns the images that are predicted left-right.
	mirrored bool
	// text is what embedded the reports; nil when it was the built-in encoder.
	text    *textStage
	records []runs.PluginRecord
}

// Open starts the plugins, checks that their ports fit together and opens their
// stages. Close ends everything, also after an error of any other method.
func Open(ctx context.Context, o Options) (_ *Session, err error) {
	c := o.Config
	s := &Session{Options: o, Warnings: slices.Clone(o.Data.Warnings)}
	s.cache = dataset.NewCache(int64(c.DataSettings.CacheMiB) << 20)
	o.Plugins.Threads = c.Threads
	if s.host, err = plughost.New(o.Plugins); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			// What closing adds to a failure is noise: the plugin is gone.
			_ = s.host.Close()
		}
	}()
	if err := s.embedReports(ctx); err != nil {
		return nil, err
	}
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
		sources, plugins = append(sources, source), append(plugins, plugin)
	}
	if t := s.text; t != nil {
		s.records = append(s.records, t.record())
		if !slices.Contains(plugins, t.plugin) { // nobody needs it, and its memory, any more
			if err := t.plugin.Stop(); err != nil {
				return nil, err
			}
		}
	}
	req := sdk.OpenRequest{
		Seed: c.Seed, Device: c.Device, Threads: c.Threads, Train: o.Train, Group: "pipeline",
		Labels: o.Labels, Optimizer: c.Train.StageOptimizer(), Task: c.Task,
	}
	if s.reports != nil {
		req.AttributeSchema = s.reports.json
		req.Constants = map[string]*tensor.Tensor{"value.embedding": s.reports.constant}
	}
	if s.Pipeline, err = pipeline.Open(ctx, sources, s.ports(), req); err != nil {
		return nil, err
	}
	for i, m := range s.Pipeline.Members {
		manifest := plugins[i].Manifest()
		s.records = append(s.records, runs.PluginRecord{
			Role: string(m.Role), Name: manifest.Name, Version: manifest.Version, Stage: m.Stage.Name,
			SHA256: combinedHash(plugins[i].Hashes()), Runtime: manifest.Runtime,
			Parameters: m.Opened.ParameterCount, Trainable: m.Opened.TrainableCount,
		})
		for _, note := range m.Opened.Notes {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s %s: %s", m.Role, m.Plugin, note))
		}
	}
	return s, nil
}

// embedReports encodes the reports of all cases, by the plugin that the configuration
// names or by hashed n-grams.
func (s *Session) embedReports(ctx context.Context) error {
	c := s.Config
	if s.Schema == nil {
		return nil
	}
	encoder, err := textembed.Hashed(c.Text.Dim)
	if err != nil {
		return err
	}
	cache := textembed.Cache{}
	if c.TextEncoder != nil {
		if s.text, err = openText(ctx, s.host, *c.TextEncoder, sdk.OpenRequest{Seed: c.Seed, Device: c.Device, Threads: c.Threads, Group: "text", Task: c.Task}); err != nil {
			return err
		}
		encoder, cache = s.text.encoder(ctx), textCache()
		for _, note := range s.text.opened.Notes {
			s.Warnings = append(s.Warnings, fmt.Sprintf("text encoder %s: %s", c.TextEncoder.Ref(), note))
		}
	}
	if s.reports, err = newReports(s.Schema, s.Data.Cases, encoder, cache, c.DataSettings.Impute); err != nil {
		return err
	}
	s.Warnings = append(s.Warnings, s.reports.warnings...)
	if s.text == nil {
		return nil
	}
	return s.text.instance.Close(ctx)
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
		c.TextEncoder.Stage, c.TextEncoder.Settings = s.text.stage.Name, config.Values(s.text.settings)
	}
}

// PluginRecords say what plays each role.
func (s *Session) PluginRecords() []runs.PluginRecord { return s.records }

// TextEncoder names what embeds the reports; "" without reports.
func (s *Session) TextEncoder() string {
	if s.reports == nil {
		return ""
	}
	return s.reports.encoder.ID
}

// Close closes the stages and ends the plugins.
func (s *Session) Close() error { return errors.Join(s.Pipeline.Close(), s.host.Close()) }

// Abandon ends the plugins without closing the stages first: after a failure there is
// nothing left to close.
func (s *Session) Abandon() { _ = s.host.Close() }

// PeakRSSBytes is the most memory that the host and each plugin's process have used.
func (s *Session) PeakRSSBytes() map[string]int64 {
	out := map[string]int64{}
	var own unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &own) == nil {
		out["host"] = own.Maxrss << 10 // Linux counts in KiB
	}
	for _, m := range s.Pipeline.Members {
		if r, ok := m.Instance.(*remote); ok && r.peakRSS > 0 {
			out[m.Plugin] = max(out[m.Plugin], r.peakRSS)
		}
	}
	return out
}

// ports are what the host gives the pipeline.
func (s *Session) ports() []sdk.Port {
	var ports []sdk.Port
	for _, m := range s.Data.Modalities {
		if m == dataset.Volume {
			ports = append(ports,
				sdk.Port{Name: m, DType: tensor.FP32, Shape: []string{"N", "1", "D", "H", "W"}, Required: true},
				sdk.Port{Name: "spacing", DType: tensor.FP32, Shape: []string{"N", "3"}, Required: true})
			continue
		}
		ports = append(ports, sdk.Port{Name: m, DType: tensor.FP32, Shape: []string{"N", "3", "H", "W"}, Required: true})
	}
	if s.reports != nil {
		ports = append(ports, s.reports.ports()...)
	}
	if !s.Train {
		return ports
	}
	if s.Config.Task == config.Detect {
		return append(ports,
			sdk.Port{Name: "target.boxes", DType: tensor.FP32, Shape: []string{"M", "4"}, Required: true},
			sdk.Port{Name: "target.image", DType: tensor.Int32, Shape: []string{"M"}, Required: true},
			sdk.Port{Name: "target.class", DType: tensor.Int64, Shape: []string{"M"}, Required: true},
			sdk.Port{Name: "target.recist", DType: tensor.FP32, Shape: []string{"M", "8"}, Required: true},
			sdk.Port{Name: "target.ignore", DType: tensor.FP32, Shape: []string{"I", "4"}, Required: true},
			sdk.Port{Name: "target.ignore.image", DType: tensor.Int32, Shape: []string{"I"}, Required: true},
		)
	}
	for _, set := range s.Labels {
		ports = append(ports, sdk.Port{Name: targetName(s.Labels, set.Name), DType: tensor.Int64, Shape: []string{"N"}, Required: true})
	}
	return ports
}

// targetName is target.label, or target.label.<task> when there are several tasks;
// logits follow the same rule.
func targetName(sets []sdk.LabelSet, name string) string {
	if len(sets) > 1 {
		return "target.label." + name
	}
	return "target.label"
}

func logitsName(sets []sdk.LabelSet, name string) string {
	if len(sets) > 1 {
		return "logits." + name
	}
	return "logits"
}

// loader starts loading cases in the background.
func (s *Session) loader(ctx context.Context, cases []dataset.Case, train bool, epoch, first int) (*dataset.Loader, error) {
	c := &s.Config.DataSettings
	o := dataset.LoaderOptions{
		Load: dataset.LoadOptions{
			Slices: c.Slices, SliceSpacingMM: c.SliceSpacingMM,
			Size: c.Size, Zoom: c.Zoom, Seed: pipeline.Seed(s.Config.Seed, "data"),
		},
		Batch: s.batchSize(), Epoch: epoch, Start: first,
		Workers: c.Workers, Ports: []sdk.Port{}, Cache: s.cache,
	}
	varied := s.mirrored || train && (c.Augment != config.AugmentNone || c.Crop > 0)
	if encoder := s.Pipeline.Member(sdk.KindEncoder); encoder != nil && (varied || !s.remembered.covers(cases)) {
		o.Ports = encoder.Opened.Inputs
	}
	if train {
		o.Load.CropSize, o.Load.PositiveCrop = c.Crop, c.PositiveCrop
		switch c.Augment {
		case config.AugmentDetection:
			o.Load.Augment = dataset.DetectionAugment()
		case config.AugmentAnyWay:
			o.Load.Augment = dataset.AnyWayAugment()
		case config.AugmentPicture:
			o.Load.Augment = dataset.PictureAugment()
		}
		o.Shuffle, o.Targets = true, true
		o.DropLast = len(cases) >= o.Batch
	} else if s.Config.Task == config.Detect {
		// One image at a time: what a batch is padded to must not change its boxes.
		o.Batch = 1
	}
	if s.mirrored {
		o.Load.Augment = dataset.AugmentOptions{FlipX: 1}
	}
	return dataset.NewLoader(ctx, s.Data, cases, o)
}

func (s *Session) batchSize() int { return s.Config.Train.BatchSize }

// inputs are a batch as the pipeline takes it.
func (s *Session) inputs(b *dataset.Batch) pipeline.Batch {
	out := pipeline.Batch{Inputs: b.Tensors}
	for i := range b.Cases {
		out.IDs = append(out.IDs, b.Cases[i].ID)
	}
	if s.reports != nil {
		s.reports.add(out.Inputs, b.Cases)
	}
	s.remembered.add(out.Inputs, b.Cases)
	return out
}

// trainingSource feeds the training loop.
type trainingSource struct {
	s     *Session
	ctx   context.Context
	cases []dataset.Case
}

type trainingBatches struct {
	s *Session
	l *dataset.Loader
}

func (t *trainingBatches) Next(context.Context) (pipeline.Batch, error) {
	b, err := t.l.Next()
	if err != nil {
		return pipeline.Batch{}, err
	}
	return t.s.inputs(b), nil
}

func (t *trainingBatches) Close() error { t.l.Close(); return nil }

// OpenData opens a data set for a configuration's task. attributes nil takes the
// configuration's choice. An error wraps dataset.ErrData.
func OpenData(spec string, c *config.Config, labels []sdk.LabelSet, attributes []string) (*dataset.Dataset, error) {
	o := dataset.Options{Task: dataset.Task(c.Task), LabelSets: labels, Attributes: attributes}
	if attributes == nil && c.Attributes != nil {
		o.Attributes = append([]string{}, *c.Attributes...)
	}
	if c.Fusion.Plugin == config.None {
		o.Attributes = []string{} // nobody would read them
	}
	d, err := dataset.Open(spec, o)
	if err != nil {
		return nil, err
	}
	if string(d.Task) != c.Task {
		return nil, fmt.Errorf("%w: %s is data for the task %s, the pipeline is for %s", dataset.ErrData, spec, d.Task, c.Task)
	}
	return d, nil
}

// hasTable reports whether a data spec names data with columns of attributes.
func hasTable(spec string) bool {
	layout, _, _ := strings.Cut(spec, ":")
	return slices.Contains([]string{"deeplesion", "boxes", "table", "derm7pt"}, layout)
}

var _ io.Closer = (*Session)(nil)
