// Package feed makes of cases and their reports what the stages of a pipeline take:
// pictures and volumes, encoded reports, targets, and the tokens of a frozen encoder.
package feed

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Feed loads the cases of a data set for a pipeline.
type Feed struct {
	Config *config.Config
	Data   *dataset.Dataset
	// Labels are the classes in the order the stages know them.
	Labels []sdk.LabelSet
	// Reports of the cases; nil when the pipeline reads none.
	Reports *Reports
	// Encoder is the stage that takes the pictures; nil when there is none.
	Encoder *pipeline.Member
	// View is how the pictures are turned and scaled.
	View View
	// Targets loads the targets of cases to be predicted, too, where all of them have some.
	Targets bool
	// Unlabelled: no stage takes targets, and training loads none.
	Unlabelled bool
	// Group are the processes that share the training cases; nil: this one has all.
	Group *group.Group

	cache  *dataset.Cache
	tokens *tokenCache
	// bagSize takes the place of data.bag_size where it is not 0.
	bagSize int
}

// View is a way to look at a picture; the zero value is as it is.
type View struct {
	// FlipX mirrors left-right, FlipY up-down, then Transpose exchanges rows and columns.
	FlipX, FlipY, Transpose bool
	// Scale of the picture's sides; 0 is 1.
	Scale float64
}

// viewSets are the passes of predict --tta, besides the picture as it is.
var viewSets = map[string][]View{
	"mirror": {{FlipX: true}},
	"flips":  {{FlipX: true}, {FlipY: true}, {FlipX: true, FlipY: true}},
	"turns": {{FlipX: true}, {FlipY: true}, {FlipX: true, FlipY: true}, {Transpose: true}, {FlipX: true, Transpose: true},
		{FlipY: true, Transpose: true}, {FlipX: true, FlipY: true, Transpose: true}},
	"scales": {{Scale: 0.8}, {Scale: 1.25}},
}

// ViewSets are the names that Views knows.
func ViewSets() []string { return slices.Sorted(maps.Keys(viewSets)) }

// Views are the passes of several sets, each once, beginning with the picture as it is.
func Views(names []string) ([]View, error) {
	out := []View{{}}
	for _, name := range names {
		set, ok := viewSets[name]
		if !ok {
			return nil, fmt.Errorf("passes %q are unknown%s; there are %s", name, nearest.Meant(name, ViewSets()), strings.Join(ViewSets(), ", "))
		}
		for _, v := range set {
			if !slices.Contains(out, v) {
				out = append(out, v)
			}
		}
	}
	return out, nil
}

// New makes a feed; reports may be nil. It fails where data.cache_dir cannot be written.
func New(c *config.Config, d *dataset.Dataset, labels []sdk.LabelSet, reports *Reports) (*Feed, error) {
	f := &Feed{Config: c, Data: d, Labels: labels, Reports: reports,
		cache: dataset.NewCache(int64(c.DataSettings.CacheMiB) << 20)}
	if dir := c.DataSettings.CacheDir; dir != "" {
		if err := f.cache.OnDisk(dir, int64(c.DataSettings.CacheDirMiB)<<20); err != nil {
			return nil, fmt.Errorf("data.cache_dir: %w", err)
		}
	}
	return f, nil
}

// Ports are what the host gives the pipeline.
func (f *Feed) Ports(train bool) []sdk.Port {
	var given []sdk.Port
	for _, m := range f.Data.Modalities {
		given = append(given, ports.Named(m, ports.Required))
		if ports.Scan(m) {
			given = append(given, ports.SpacingOf(m).Declare(ports.Required))
		}
	}
	if f.Reports != nil {
		given = append(given, f.Reports.ports()...)
	}
	if !train {
		return given
	}
	var targets []ports.Port
	if f.Config.Task == config.Detect {
		targets = ports.BoxTargets()
	} else {
		for _, set := range f.Labels {
			switch set.Asks() {
			case sdk.AsksNumber:
				targets = append(targets, ports.NumberTarget(f.Labels, set.Name))
				continue
			case sdk.AsksTime:
				targets = append(targets, ports.CensoredTarget(f.Labels, set.Name))
			}
			targets = append(targets, ports.LabelTarget(f.Labels, set.Name))
		}
	}
	for _, t := range targets {
		given = append(given, t.Declare(ports.Required))
	}
	return given
}

// Loader starts loading cases in the background, to be predicted.
func (f *Feed) Loader(ctx context.Context, cases []dataset.Case) (*dataset.Loader, error) {
	return f.loader(ctx, cases, false, 0, 0)
}

// loader starts loading cases; in training from batch number first of an epoch on.
func (f *Feed) loader(ctx context.Context, cases []dataset.Case, train bool, epoch, first int) (*dataset.Loader, error) {
	c := &f.Config.DataSettings
	o := dataset.LoaderOptions{
		Load: dataset.LoadOptions{
			Slices: c.Slices, SliceSpacingMM: c.SliceSpacingMM,
			Size: c.Size, Zoom: c.Zoom, BagSize: cmp.Or(f.bagSize, c.BagSize), Seed: pipeline.Seed(f.Config.Seed, "data"),
		},
		Batch: f.BatchSize(), Epoch: epoch, Start: first,
		Workers: c.Workers, Ports: []sdk.Port{}, Cache: f.cache,
	}
	if f.Group != nil {
		o.CPUs = f.Group.Threads()
	}
	varied := f.View != View{} || train && (c.Augment != config.AugmentNone || c.Crop > 0)
	if f.Encoder != nil && (varied || !f.tokens.covers(cases)) {
		o.Ports = f.Encoder.Opened.Inputs
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
		o.Shuffle, o.Targets, o.Balance = true, !f.Unlabelled, c.Sampler == config.SampleBalanced
		o.Rank, o.Ranks = f.Group.Number(), f.Group.Count()
		o.DropLast = len(cases) >= o.Batch*o.Ranks
	} else {
		o.Batch = cmp.Or(c.PredictBatch, map[bool]int{true: 1, false: o.Batch}[f.Config.Task == config.Detect])
		o.SameSize = true // what a batch is padded to must not change what is said of an image
	}
	if !train {
		o.Targets = f.Targets && f.View == View{} && !slices.ContainsFunc(cases, func(c dataset.Case) bool { return !c.HasTargets })
		sure := map[bool]float64{true: 1}
		o.Load.Augment = dataset.AugmentOptions{FlipX: sure[f.View.FlipX], FlipY: sure[f.View.FlipY], Transpose: sure[f.View.Transpose]}
	}
	if s := f.View.Scale; s > 0 {
		o.Load.Size, o.Load.Zoom = int(math.Round(s*float64(c.Size))), s*c.Zoom
	}
	return dataset.NewLoader(ctx, f.Data, cases, o)
}

// BatchSize is the number of cases per micro-batch of this process.
func (f *Feed) BatchSize() int { return f.Config.Train.BatchSize }

// Inputs are a batch as the pipeline takes it.
func (f *Feed) Inputs(b *dataset.Batch) pipeline.Batch {
	out := pipeline.Batch{Inputs: b.Tensors, Weight: b.Weight, Absent: f.absentTokens(b)}
	for i := range b.Cases {
		out.IDs = append(out.IDs, b.Cases[i].ID)
	}
	if f.Reports != nil {
		f.Reports.add(out.Inputs, b.Cases)
	}
	f.tokens.add(out.Inputs, b.Cases, b.Bags)
	return out
}

// absentTokens are the cases of a batch that lack a picture, by the ports of its tokens.
func (f *Feed) absentTokens(b *dataset.Batch) map[string][]bool {
	out := map[string][]bool{}
	for modality, cases := range b.Absent {
		out[ports.TokensOf(modality).Name] = cases
		if f.Encoder == nil {
			continue
		}
		for _, made := range f.Encoder.Opened.Outputs {
			if ports.FurtherTokens(made.Name, modality) && !f.hasOwn(made.Name) {
				out[made.Name] = cases
			}
		}
	}
	return out
}

// hasOwn reports whether tokens have the name of a picture of the data.
func (f *Feed) hasOwn(tokens string) bool {
	return slices.ContainsFunc(f.Data.Modalities, func(m string) bool { return ports.TokensOf(m).Name == tokens })
}

// CheckAbsent refuses an encoder that does not make tokens of its own of a picture that
// some case lacks: the stages behind it could not be shown that there is none.
func (f *Feed) CheckAbsent() error {
	for _, modality := range f.Data.Modalities {
		if f.Encoder == nil || sdk.FindPort(f.Encoder.Opened.Inputs, modality) == nil {
			continue
		}
		i := slices.IndexFunc(f.Data.Cases, func(c dataset.Case) bool { return c.Images[modality] == "" })
		tokens := ports.TokensOf(modality).Name
		port := sdk.FindPort(f.Encoder.Opened.Outputs, tokens)
		if i >= 0 && port != nil && port.Resident {
			return fault.Errorf(fault.Usage, "--colocate: case %q has no %s, and tokens of nothing cannot be left out where they stay in the plugin's process; leave --colocate out",
				f.Data.Cases[i].ID, modality)
		}
		if i >= 0 && port == nil {
			return fmt.Errorf("%w: %s: case %q has no %s, and the encoder %s makes no %s that could be left out; leave such cases out",
				dataset.ErrData, f.Data.Cases[i].Origin(), f.Data.Cases[i].ID, modality, f.Encoder.Plugin, tokens)
		}
	}
	return nil
}

// Source gives the training loop its batches.
type Source struct {
	feed  *Feed
	ctx   context.Context
	cases []dataset.Case
}

// Source feeds the training loop with cases. Loading goes on when ctx is cancelled: the
// step under way is finished.
func (f *Feed) Source(ctx context.Context, cases []dataset.Case) *Source {
	return &Source{f, context.WithoutCancel(ctx), cases}
}

// BatchesPerEpoch counts full batches; a split smaller than a batch is one.
func (s *Source) BatchesPerEpoch() int {
	return max(1, len(s.cases)/(s.feed.BatchSize()*s.feed.Group.Count()))
}

// Epoch starts loading.
func (s *Source) Epoch(epoch, first int) (loop.Batches, error) {
	l, err := s.feed.loader(s.ctx, s.cases, true, epoch, first)
	if err != nil {
		return nil, err
	}
	return &batches{s.feed, l}, nil
}

type batches struct {
	feed   *Feed
	loader *dataset.Loader
}

func (b *batches) Next(context.Context) (pipeline.Batch, error) {
	loaded, err := b.loader.Next()
	if err != nil {
		return pipeline.Batch{}, err
	}
	return b.feed.Inputs(loaded), nil
}

func (b *batches) Close() error { b.loader.Close(); return nil }
