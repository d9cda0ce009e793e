package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/npz"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/sample"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func stageCommand() *cli.Command {
	return &cli.Command{
		Name:  "stage",
		Usage: "run one stage of a plugin by itself: compare with PyTorch, measure, check gradients",
		Subcommands: []*cli.Command{
			{
				Name:  "forward",
				Usage: "run a stage on the arrays of an .npz file and write its outputs to another",
				UsageText: "alignedfusion stage forward --plugin a3d --stage encoder --set preset=densenet121 \\\n" +
					"     --weights W.safetensors --in x.npz --out y.npz",
				Description: "Arrays are named like the stage's input ports. Losses and metrics are written as scalars\n" +
					"loss.NAME and metric.NAME. An array \"value.embedding\" that is no input is handed to the stage as a constant.",
				Flags: append(stageFlags(),
					&cli.StringFlag{Name: "in", Required: true, Usage: "`X.npz` with the inputs"},
					&cli.StringFlag{Name: "out", Required: true, Usage: "`Y.npz` to write"},
					&cli.StringFlag{Name: "outputs", Usage: "extra outputs that are computed on request, `A,B`"},
					modeFlag(),
				),
				Action: stageForward,
			},
			{
				Name:  "bench",
				Usage: "measure a stage on seeded random data",
				UsageText: "alignedfusion stage bench --plugin a3d --stage encoder --shape volume=1x1x7x512x512 \\\n" +
					"     --mode train --steps 5 --json",
				Description: "A step is one Forward, in train mode with one Backward (all output gradients and losses), with --whole-step\n" +
					"also the gradient's norm, an optimizer step of length zero and clearing the gradients: a whole training step.\n" +
					"Times are the host's, transport included. Inputs whose sizes follow from --shape need none of their own.",
				Flags: append(stageFlags(),
					&cli.StringSliceFlag{Name: "shape", Usage: "`PORT=1x1x7x512x512`, repeatable"},
					&cli.StringFlag{Name: "in", Usage: "`X.npz` with inputs instead of random ones"},
					&cli.StringFlag{Name: "outputs", Usage: "extra outputs that are computed on request, `A,B`"},
					modeFlag(),
					&cli.BoolFlag{Name: "whole-step", Usage: "in train mode, make every call of a training step"},
					&cli.IntFlag{Name: "steps", Value: 10, Usage: "`N` measured steps"},
					&cli.IntFlag{Name: "warmup", Value: 1, Usage: "`N` steps before them"},
					&cli.BoolFlag{Name: "json", Usage: "print JSON"},
				),
				Action: stageBench,
			},
			{
				Name:  "grad",
				Usage: "compare a stage's gradients with finite differences",
				UsageText: "alignedfusion stage grad --plugin ./bin/my-head --stage mlp --shape joint=4x256 --shape target.label=4\n" +
					"alignedfusion stage grad --plugin itfusion --stage itfusion --in x.npz --tolerance 0.01",
				Description: "Ends with exit code 7 when a relative error exceeds the tolerance.",
				Flags: append(stageFlags(),
					&cli.StringSliceFlag{Name: "shape", Usage: "`PORT=4x256`, repeatable; filled with seeded random data"},
					&cli.StringFlag{Name: "in", Usage: "`X.npz` with inputs instead of random ones"},
					&cli.Float64Flag{Name: "tolerance", Value: 0.02, Usage: "largest relative error, `R`"},
					&cli.BoolFlag{Name: "json", Usage: "print JSON"},
				),
				Action: stageGrad,
			},
		},
	}
}

func modeFlag() cli.Flag {
	return &cli.StringFlag{Name: "mode", Value: "eval", Usage: "`eval|train`"}
}

func stageFlags() []cli.Flag {
	return append(pluginFlags(),
		&cli.StringFlag{Name: "plugin", Required: true, Usage: "`NAME|PATH` of the plugin; a path has a slash"},
		&cli.StringFlag{Name: "stage", Usage: "`NAME` of the stage; may be left out when the plugin has one"},
		&cli.StringSliceFlag{Name: "set", Usage: "setting `KEY=VALUE` of the stage, repeatable"},
		&cli.StringFlag{Name: "weights", Usage: "`W.safetensors`, the same as --set weights=W.safetensors"},
		&cli.StringSliceFlag{Name: "labels", Usage: "classes of a task, `TASK=a,b,c`, repeatable"},
		&cli.StringFlag{Name: "schema", Usage: "attribute schema `FILE.json`"},
		&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "`N` for the stage's and the data's randomness"},
		&cli.BoolFlag{Name: "in-band", Usage: "send tensors inside the messages instead of through shared memory"},
	)
}

// stageRun is one opened stage of a command.
type stageRun struct {
	host     *plughost.Host
	plugin   *plughost.Plugin
	manifest *sdk.StageManifest
	instance *plughost.Instance
	inputs   map[string]*tensor.Tensor
	wanted   map[string]bool
	train    bool
	// whole adds the calls around Forward and Backward to a step of stage bench.
	whole bool
	// started is how long the plugin took from its start to its manifest.
	started time.Duration
}

// openStage starts the plugin, reads or makes the inputs and opens the stage for them.
func openStage(c *cli.Context, train bool) (_ *stageRun, err error) {
	req := &sdk.OpenRequest{Seed: c.Uint64("seed"), Device: c.String("device"), Threads: c.Int("threads"), Train: train,
		Constants: map[string]*tensor.Tensor{},
		Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0, "weight_decay": 0, "nesterov": 0}}}
	if req.Device == "" {
		req.Device = "cpu"
	}
	if req.Threads == 0 {
		req.Threads = runtime.NumCPU()
	}
	settings, err := keyValues("set", c.StringSlice("set"))
	if err != nil {
		return nil, err
	}
	if w := c.String("weights"); w != "" {
		settings["weights"] = w
	}
	if req.Labels, err = labelSets(c.StringSlice("labels")); err != nil {
		return nil, err
	}
	if path := c.String("schema"); path != "" {
		if req.AttributeSchema, err = os.ReadFile(path); err != nil {
			return nil, dataError(err)
		}
	}
	sizes, err := shapes(c.StringSlice("shape"))
	if err != nil {
		return nil, err
	}
	r := &stageRun{inputs: map[string]*tensor.Tensor{}, wanted: map[string]bool{}, train: train, whole: c.Bool("whole-step")}
	if path := c.String("in"); path != "" {
		if r.inputs, err = npz.Read(path); err != nil {
			return nil, dataError(err)
		}
	}
	for _, name := range strings.Split(c.String("outputs"), ",") {
		if name = strings.TrimSpace(name); name != "" {
			r.wanted[name] = true
		}
	}

	o := pluginOptions(c)
	o.InBand, o.Threads = c.Bool("in-band"), req.Threads
	if r.host, err = plughost.New(o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.host.Close())
		}
	}()
	begin := time.Now()
	if r.plugin, err = r.host.Start(c.Context, c.String("plugin")); err != nil {
		return nil, err
	}
	r.started = time.Since(begin)
	if r.manifest, err = oneStage(r.plugin.Manifest(), c.String("stage")); err != nil {
		return nil, usageError("%w", err)
	}
	req.Stage = r.manifest.Name
	if req.Settings, err = pipeline.ResolveSettings(r.manifest.Settings, settings); err != nil {
		return nil, usageError("stage %s of plugin %s: %w", r.manifest.Name, r.plugin.Name(), err)
	}
	for name, t := range r.inputs {
		if sdk.FindPort(r.manifest.Inputs, name) == nil && name == "value.embedding" {
			req.Constants[name] = t
			delete(r.inputs, name)
		}
	}
	if err := sample.Inputs(r.manifest.Inputs, sizes, req.Seed, r.inputs); err != nil {
		return nil, usageError("%w", err)
	}
	req.Inputs = sample.Feeding(r.manifest.Inputs, r.inputs)
	if r.instance, _, err = r.plugin.Open(c.Context, req); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *stageRun) close() error { return r.host.Close() }

// stageError maps what a stage refuses in a call: with the user's own arrays it is the
// data's fault, with made-up ones the fault of what was asked for.
func stageError(err error, data bool) error {
	var refused *sdk.Error
	if plughost.IsFailure(err) || !errors.As(err, &refused) || refused.Code != sdk.InvalidArgument {
		return err
	}
	if data {
		return fault.Mark(fault.Data, err)
	}
	return fault.Mark(fault.Usage, err)
}

// finite holds a stage to its promise: finite answers to finite inputs.
func (r *stageRun) finite(resp *sdk.ForwardResponse) error {
	for _, t := range r.inputs {
		if _, v := notFinite(t); v != nil {
			return nil
		}
	}
	broken := func(format string, args ...any) error {
		return pluginError(fmt.Errorf("plugin %s: %s %s: forward: %s for finite inputs", r.plugin.Name(), r.manifest.Kind, r.manifest.Name, fmt.Sprintf(format, args...)))
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Outputs)) {
		if i, v := notFinite(resp.Outputs[name]); v != nil {
			return broken("output %q is %v at %d", name, *v, i)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(resp.Losses)) {
		if v := resp.Losses[name]; math.IsNaN(v) || math.IsInf(v, 0) {
			return broken("loss %q is %v", name, v)
		}
	}
	return nil
}

// notFinite returns the first number of an FP32 tensor that is NaN or infinite, nil
// without one.
func notFinite(t *tensor.Tensor) (int, *float32) {
	values, err := t.Float32s()
	if err != nil {
		return 0, nil // another type
	}
	for i, v := range values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return i, &v
		}
	}
	return 0, nil
}

func oneStage(m sdk.Manifest, name string) (*sdk.StageManifest, error) {
	if name == "" && len(m.Stages) == 1 {
		return &m.Stages[0], nil
	}
	var names []string
	for _, s := range m.Stages {
		names = append(names, s.Name)
	}
	if name == "" {
		return nil, fmt.Errorf("plugin %s has stages %s; name one with --stage", m.Name, strings.Join(names, ", "))
	}
	s, err := m.Stage(name)
	if err != nil {
		return nil, fmt.Errorf("plugin %s has no stage %q; it has %s", m.Name, name, strings.Join(names, ", "))
	}
	return s, nil
}

func keyValues(flag string, given []string) (map[string]string, error) {
	out := map[string]string{}
	for _, g := range given {
		k, v, ok := strings.Cut(g, "=")
		if !ok || k == "" {
			return nil, usageError("--%s %q: want KEY=VALUE", flag, g)
		}
		out[strings.TrimSpace(k)] = v
	}
	return out, nil
}

// shapes parses --shape PORT=1x1x7x512x512.
func shapes(given []string) (map[string][]int64, error) {
	texts, err := keyValues("shape", given)
	if err != nil {
		return nil, err
	}
	out := map[string][]int64{}
	for name, text := range texts {
		shape := []int64{}
		for _, field := range strings.Split(text, "x") {
			n, err := strconv.ParseInt(strings.TrimSpace(field), 10, 64)
			if err != nil || n < 0 {
				return nil, usageError("--shape %s=%s: want sizes with x between, as in 1x1x7x512x512", name, text)
			}
			shape = append(shape, n)
		}
		out[name] = shape
	}
	return out, nil
}

func labelSets(given []string) ([]sdk.LabelSet, error) {
	var out []sdk.LabelSet
	for _, g := range given {
		name, classes, ok := strings.Cut(g, "=")
		if !ok || classes == "" {
			return nil, usageError("--labels %q: want TASK=class,class", g)
		}
		out = append(out, sdk.LabelSet{Name: name, Classes: strings.Split(classes, ",")})
	}
	return out, nil
}

func modeOf(c *cli.Context) (train bool, err error) {
	switch c.String("mode") {
	case "eval":
		return false, nil
	case "train":
		return true, nil
	}
	return false, usageError("--mode %q: want eval or train", c.String("mode"))
}

func stageForward(c *cli.Context) (err error) {
	train, err := modeOf(c)
	if err != nil {
		return err
	}
	r, err := openStage(c, train)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	resp, err := r.instance.Forward(c.Context, &sdk.ForwardRequest{
		Context: 1, Train: train, Seed: c.Uint64("seed"), Inputs: r.inputs, Wanted: r.wanted})
	if err != nil {
		return stageError(err, true)
	}
	cost := r.instance.Cost()
	if train {
		if err := r.instance.Release(c.Context, 1); err != nil {
			return err
		}
	}
	arrays := maps.Clone(resp.Outputs)
	for name, v := range resp.Losses {
		arrays["loss."+name] = &tensor.Tensor{DType: tensor.FP64, Shape: []int64{}, Data: tensor.OfFloat64s([]float64{v}).Data}
	}
	for name, v := range resp.Metrics {
		arrays["metric."+name] = &tensor.Tensor{DType: tensor.FP64, Shape: []int64{}, Data: tensor.OfFloat64s([]float64{v}).Data}
	}
	if err := npz.Write(c.String("out"), arrays); err != nil {
		var path *fs.PathError
		if errors.As(err, &path) && errors.Is(err, fs.ErrNotExist) {
			return usageError("--out: %w", err)
		}
		return err
	}
	for _, note := range resp.Notes {
		fmt.Fprintln(c.App.ErrWriter, note)
	}
	for _, name := range slices.Sorted(maps.Keys(arrays)) {
		fmt.Fprintf(c.App.ErrWriter, "%-24s %s\n", name, arrays[name])
	}
	fmt.Fprintf(c.App.ErrWriter, "%s written; %.3f s, of which %.3f s transport\n", c.String("out"), cost.Wall.Seconds(), cost.Transport().Seconds())
	return r.finite(resp)
}

// benchReport is the JSON of `stage bench`.
type benchReport struct {
	SchemaVersion          int                `json:"schema_version"`
	Plugin                 string             `json:"plugin"`
	Stage                  string             `json:"stage"`
	Mode                   string             `json:"mode"`
	Steps                  int                `json:"steps"`
	Threads                int                `json:"threads"`
	WholeStep              bool               `json:"whole_step"`
	SharedMemory           bool               `json:"shared_memory"`
	Inputs                 map[string][]int64 `json:"inputs"`
	StartSeconds           float64            `json:"start_seconds"`
	MedianSeconds          float64            `json:"median_seconds"`
	MinSeconds             float64            `json:"min_seconds"`
	MaxSeconds             float64            `json:"max_seconds"`
	MedianComputeSeconds   float64            `json:"median_compute_seconds"`
	MedianTransportSeconds float64            `json:"median_transport_seconds"`
	MinTransportSeconds    float64            `json:"min_transport_seconds"`
	PeakRSSBytes           int64              `json:"peak_rss_bytes"`
}

func stageBench(c *cli.Context) (err error) {
	train, err := modeOf(c)
	if err != nil {
		return err
	}
	if c.Bool("whole-step") && !train {
		return usageError("--whole-step: a training step needs --mode train")
	}
	if c.Int("steps") < 1 || c.Int("warmup") < 0 {
		return usageError("--steps %d --warmup %d: want at least 1 and 0", c.Int("steps"), c.Int("warmup"))
	}
	r, err := openStage(c, train)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	var wall, compute, transport []float64
	report := benchReport{SchemaVersion: 1, Plugin: r.plugin.Manifest().Name, Stage: r.manifest.Name, Mode: c.String("mode"),
		Steps: c.Int("steps"), Threads: c.Int("threads"), WholeStep: r.whole, SharedMemory: r.plugin.SharedMemory(), StartSeconds: r.started.Seconds(), Inputs: map[string][]int64{}}
	if report.Threads == 0 {
		report.Threads = runtime.NumCPU()
	}
	for name, t := range r.inputs {
		report.Inputs[name] = t.Shape
	}
	for step := range c.Int("warmup") + c.Int("steps") {
		cost, err := r.step(c.Context, uint64(step+1), c.Uint64("seed"))
		if err != nil {
			return stageError(err, c.String("in") != "")
		}
		report.PeakRSSBytes = max(report.PeakRSSBytes, cost.PeakRSSBytes)
		if step >= c.Int("warmup") {
			wall = append(wall, cost.Wall.Seconds())
			compute = append(compute, cost.Compute.Seconds())
			transport = append(transport, cost.Transport().Seconds())
		}
	}
	report.MinSeconds, report.MaxSeconds = slices.Min(wall), slices.Max(wall)
	report.MedianSeconds, report.MedianComputeSeconds, report.MedianTransportSeconds = stat.Median(wall), stat.Median(compute), stat.Median(transport)
	report.MinTransportSeconds = slices.Min(transport)
	if c.Bool("json") {
		return writeJSON(c.App.Writer, report)
	}
	fmt.Fprintf(c.App.Writer, "%s %s, %s, %d steps: median %.4f s (min %.4f, max %.4f), transport %.4f s, peak memory %.0f MiB\n",
		report.Plugin, report.Stage, report.Mode, report.Steps, report.MedianSeconds, report.MinSeconds, report.MaxSeconds,
		report.MedianTransportSeconds, float64(report.PeakRSSBytes)/(1<<20))
	return nil
}

// step is one Forward and, when training, one Backward; a whole one has the optimizer's
// step as well.
func (r *stageRun) step(ctx context.Context, id, seed uint64) (client.Cost, error) {
	needs := map[string]bool{}
	for name, t := range r.inputs {
		if p := sdk.FindPort(r.manifest.Inputs, name); r.train && p != nil && p.Differentiable && t.DType == tensor.FP32 {
			needs[name] = true
		}
	}
	if r.train && !r.whole {
		if err := r.instance.ZeroGrad(ctx); err != nil {
			return client.Cost{}, err
		}
	}
	before := r.instance.Cost()
	resp, err := r.instance.Forward(ctx, &sdk.ForwardRequest{Context: id, Train: r.train, Seed: seed, Inputs: r.inputs, NeedsGrad: needs, Wanted: r.wanted})
	if err == nil {
		err = r.finite(resp)
	}
	if err == nil && r.train {
		_, err = r.instance.Backward(ctx, r.ones(id, resp))
	}
	if err == nil && r.whole {
		err = r.instance.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": 0}, GradientScale: 1, ZeroGrad: true})
	}
	return r.instance.Cost().Sub(before), err
}

// ones asks for the gradients of the sum of all outputs and losses.
func (r *stageRun) ones(id uint64, resp *sdk.ForwardResponse) *sdk.BackwardRequest {
	back := &sdk.BackwardRequest{Context: id, OutputGrads: map[string]*tensor.Tensor{}, LossWeights: map[string]float64{}, GradNorm: r.whole}
	for name, t := range resp.Outputs {
		if p := sdk.FindPort(r.instance.Outputs(), name); p == nil || !p.Differentiable {
			continue
		}
		ones := t.Clone()
		if values, err := ones.Float32s(); err == nil {
			for i := range values {
				values[i] = 1
			}
		}
		back.OutputGrads[name] = ones
	}
	for name := range resp.Losses {
		back.LossWeights[name] = 1
	}
	return back
}

// gradReport is the JSON of `stage grad`.
type gradReport struct {
	SchemaVersion int         `json:"schema_version"`
	Plugin        string      `json:"plugin"`
	Stage         string      `json:"stage"`
	Tolerance     float64     `json:"tolerance"`
	Passed        bool        `json:"passed"`
	Directions    []gradEntry `json:"directions"`
}

type gradEntry struct {
	Input         string  `json:"input"`
	Analytic      float64 `json:"analytic"`
	Numeric       float64 `json:"numeric"`
	RelativeError float64 `json:"relative_error"`
}

func stageGrad(c *cli.Context) (err error) {
	r, err := openStage(c, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	begin := time.Now()
	results, err := gradcheck.Check(c.Context, r.instance, r.inputs, gradcheck.Options{Seed: c.Uint64("seed"), FirstContext: 1, Wanted: r.wanted})
	if err != nil {
		return stageError(err, c.String("in") != "")
	}
	report := gradReport{SchemaVersion: 1, Plugin: r.plugin.Manifest().Name, Stage: r.manifest.Name, Tolerance: c.Float64("tolerance")}
	for _, x := range results {
		report.Directions = append(report.Directions, gradEntry{x.Input, x.Analytic, x.Numeric, x.RelativeError})
	}
	worst := gradcheck.Worst(results)
	report.Passed = worst.RelativeError <= report.Tolerance
	if c.Bool("json") {
		if err := writeJSON(c.App.Writer, report); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "input\tgradient\tfinite differences\trelative error")
		for _, d := range report.Directions {
			fmt.Fprintf(w, "%s\t%.6g\t%.6g\t%.1e\n", d.Input, d.Analytic, d.Numeric, d.RelativeError)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(c.App.ErrWriter, "%d directions in %.1f s\n", len(results), time.Since(begin).Seconds())
	}
	if !report.Passed {
		return gateError(fmt.Errorf("the gradient of %q differs from finite differences by %.2g, want at most %g", worst.Input, worst.RelativeError, report.Tolerance))
	}
	return nil
}
