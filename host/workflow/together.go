package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// together watches this process's plugins and the other processes until the function that it
// returns is called. When one of them fails the plugins are ended, so that nobody waits for
// gradients that do not come.
func (t *training) together(ctx context.Context, s *Session) (stop func()) {
	if t.Group == nil {
		return func() {}
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() { t.Group.Fail(s.host.Watch(watching, t.Group.Silence)) }()
	go func() {
		select {
		case <-t.Group.Failed():
			s.Abandon()
		case <-watching.Done():
		}
	}()
	return cancel
}

// sayAveraging says what averages the gradients of the processes, in the run's notes, too.
func (t *training) sayAveraging(s *Session) {
	if t.Group == nil {
		return
	}
	var by []string
	for _, m := range s.Pipeline.Members {
		if m.AveragedBy != "" && !slices.Contains(by, m.AveragedBy) {
			by = append(by, m.AveragedBy)
		}
	}
	if len(by) == 0 {
		return
	}
	note := fmt.Sprintf("%d processes train together; gradients are averaged by %s", t.Group.Count(), strings.Join(by, ", "))
	t.manifest.Notes = unique(append(t.manifest.Notes, note))
	fmt.Fprintln(t.Messages, note)
}

// causeMoment is how long the end of another process may come after what it leads to here.
const causeMoment = 5 * time.Second

// cause replaces the error of this process by the one of the group that led to it.
func (t *training) cause(err error) error {
	if err == nil || t.Group == nil || errors.Is(err, loop.ErrStopped) {
		return err
	}
	wait := time.Duration(0)
	waited := errors.Is(err, pipeline.ErrAveraging) || t.Config != nil && t.Config.Train.SyncBatchNorm && sdk.CodeOf(err) == sdk.Internal // in a batch norm
	if waited && !plughost.IsFailure(err) || errors.Is(err, group.ErrLeft) {
		wait = causeMoment
	}
	if failure := t.Group.Err(wait); failure != nil {
		return failure
	}
	return err
}

// agree refuses processes that were started with different settings, data, plugins or
// checkpoints. Paths of data, threads and devices may differ.
func (t *training) agree(s *Session) error {
	if t.Group == nil {
		return nil
	}
	c := *t.Config
	c.Data, c.Reports, c.Threads, c.Device = "", "", 0, ""
	settings, err := c.YAML()
	if err != nil {
		return err
	}
	plugins, step := "", "none"
	for _, p := range s.PluginRecords() {
		plugins += fmt.Sprintf("%s %s %s\n", p.Role, p.Name, p.SHA256)
	}
	if t.checkpoint != nil {
		step = fmt.Sprint(t.checkpoint.State.Step)
	}
	for _, one := range []struct{ what, text string }{
		{"whether a run goes on", fmt.Sprint("--resume ", t.Resume)}, {"the settings", string(settings)}, {"the data (SHA-256)", t.data.Data.Hash},
		{"the plugins", plugins}, {"the step of the last checkpoint (all processes must see --out)", step},
	} {
		if err := group.Same(t.Group, one.what, one.text); err != nil {
			return err
		}
	}
	return nil
}

// predictTogether predicts cases, each process its part in whole batches, and gives all of
// them to every one.
func (t *training) predictTogether(ctx context.Context, s *Session, cases []dataset.Case) ([]predictions.Prediction, error) {
	if t.Group == nil {
		return s.predictBetweenSignals(ctx, cases)
	}
	batch := s.Feed.BatchSize()
	first, end := shard.Spec{Index: t.Group.Number() + 1, Count: t.Group.Count()}.Range((len(cases) + batch - 1) / batch)
	var own []predictions.Prediction
	if first < end {
		var err error
		own, err = s.predictBetweenSignals(ctx, cases[first*batch:min(end*batch, len(cases))])
		if err != nil && !errors.Is(err, ctx.Err()) {
			return nil, err
		}
	}
	parts, err := group.Gather(t.Group, predictions.Bare(own))
	if err != nil {
		return nil, err
	}
	if t.Group.Stopping(ctx) {
		return nil, loop.ErrStopped
	}
	var all []predictions.Prediction
	for _, part := range parts {
		for _, one := range part {
			all = append(all, one.Of(&cases[len(all)]))
		}
	}
	return all, nil
}
