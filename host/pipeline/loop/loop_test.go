package loop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func source(role sdk.Kind, stage string, settings map[string]string) pipeline.Source {
	for _, s := range toy.Manifest().Stages {
		if s.Name == stage {
			return pipeline.Source{Role: role, Plugin: "toy", Process: "toy", Stage: s, Settings: settings,
				Open: func(ctx context.Context, req *sdk.OpenRequest) (pipeline.Instance, *sdk.OpenResponse, error) {
					return toy.Open(ctx, req)
				}}
		}
	}
	panic("no stage " + stage)
}

func open(t *testing.T, encoder map[string]string) *pipeline.Pipeline {
	t.Helper()
	p, err := pipeline.Open(t.Context(),
		[]pipeline.Source{source(sdk.KindEncoder, "encoder", encoder), source(sdk.KindFusion, "fusion", nil), source(sdk.KindHead, "classifier", nil)},
		[]sdk.Port{
			{Name: "image.rgb", DType: tensor.FP32, Shape: []string{"N", "3", "16", "16"}},
			{Name: "report.state", DType: tensor.Int8, Shape: []string{"N", "2"}},
			{Name: "target.label", DType: tensor.Int64, Shape: []string{"N"}},
		},
		sdk.OpenRequest{Task: "classify", Seed: 4, Train: true, Group: t.Name(),
			Labels:    []sdk.LabelSet{{Classes: []string{"a", "b"}}},
			Constants: map[string]*tensor.Tensor{"value.embedding": tensor.OfFloat32s(make([]float32, 12), 2, 2, 3)},
			Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fakeSource gives 5 batches of 2 per epoch, each a function of epoch and number.
type fakeSource struct{ opened, closed int }

func (s *fakeSource) BatchesPerEpoch() int { return 5 }

func (s *fakeSource) Epoch(epoch, start int) (Batches, error) {
	s.opened++
	return &fakeBatches{s, epoch, start}, nil
}

type fakeBatches struct {
	s           *fakeSource
	epoch, next int
}

func (b *fakeBatches) Close() error { b.s.closed++; return nil }

func (b *fakeBatches) Next(context.Context) (pipeline.Batch, error) {
	if b.next >= 5 {
		return pipeline.Batch{}, io.EOF
	}
	i := b.next
	b.next++
	pixels := make([]float32, 2*3*16*16)
	for k := range pixels {
		pixels[k] = float32(pipeline.Seed(1, b.epoch, i, k)%997) / 997
	}
	var states []int8
	var labels []int64
	for k := range 2 {
		label := int64(pipeline.Seed(2, b.epoch, i, k) % 2)
		labels = append(labels, label)
		states = append(states, int8(label), int8(pipeline.Seed(3, b.epoch, i, k)%4))
	}
	return pipeline.Batch{IDs: []string{fmt.Sprintf("case %d.%d.0", b.epoch, i), fmt.Sprintf("case %d.%d.1", b.epoch, i)},
		Inputs: map[string]*tensor.Tensor{
			"image.rgb":    tensor.OfFloat32s(pixels, 2, 3, 16, 16),
			"report.state": tensor.OfInt8s(states, 2, 2),
			"target.label": tensor.OfInt64s(labels, 2),
		}}, nil
}

func newRun(t *testing.T) *runs.Run {
	t.Helper()
	r, err := runs.Create(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(runs.ConfigFile, []byte("x")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func options(p *pipeline.Pipeline, r *runs.Run) Options {
	return Options{
		Pipeline: p, Run: r, Source: &fakeSource{}, Progress: NewProgress(io.Discard, 0),
		Epochs: 6, Accumulate: 2, ValidateEvery: 2, Seed: 11, LearningRate: 0.2, ClipNorm: 0.5,
		Schedule: Schedule{Name: "cosine", TotalSteps: 18, WarmupSteps: 3, WarmupFactor: 0.1},
		Validate: func(context.Context) (Validation, error) { return Validation{Metric: "m", Value: 1}, nil },
	}
}

// metricLines are all of metrics.jsonl but what the clock says.
func metricLines(t *testing.T, r *runs.Run) []string {
	t.Helper()
	records, err := runs.ReadMetrics(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, rec := range records {
		rec.StepSec, rec.WallSec, rec.ComputeSec, rec.DataSec = 0, 0, 0, 0
		line, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(line))
	}
	return out
}

// validator measures a function of the head's weights: other weights, another value.
func validator(p *pipeline.Pipeline) func(context.Context) (Validation, error) {
	return func(ctx context.Context) (Validation, error) {
		dir, err := os.MkdirTemp("", "")
		if err != nil {
			return Validation{}, err
		}
		defer os.RemoveAll(dir)
		if _, err := p.Member(sdk.KindHead).Instance.Save(ctx, dir); err != nil {
			return Validation{}, err
		}
		weights, err := os.ReadFile(filepath.Join(dir, "weights.safetensors"))
		value := float64(crc32.ChecksumIEEE(weights)%1000) / 1000
		return Validation{Metric: "m", Value: value, Metrics: map[string]float64{"m": value}}, err
	}
}

// resume continues a run as a new process would.
func resume(t *testing.T, r *runs.Run, o Options) (runs.State, error) {
	t.Helper()
	c, _, err := runs.Latest(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RewindMetrics(c.State); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), o.Pipeline, c, false); err != nil {
		t.Fatal(err)
	}
	return Loop(t.Context(), o, c.State)
}

// averaging is a stage of the toy that keeps the mean of its weights of all steps, and saves it as
// its weights, in the way the SDKs do.
type averaging struct {
	pipeline.Instance
	mean map[string][]float64
	n    float64
}

const ownFile, weightsFile = "own.safetensors", "weights.safetensors"

func (a *averaging) Step(ctx context.Context, req *sdk.StepRequest) error {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	err = a.Instance.Step(ctx, req)
	if _, saveErr := a.Instance.Save(ctx, dir); err == nil {
		err = saveErr
	}
	a.n++
	for name, now := range stored(filepath.Join(dir, weightsFile)) {
		if a.mean[name] == nil {
			a.mean[name] = make([]float64, len(now))
		}
		for i := range now {
			a.mean[name][i] += (now[i] - a.mean[name][i]) / a.n
		}
	}
	return err
}

func (a *averaging) Save(ctx context.Context, dir string) ([]string, error) {
	names, err := a.Instance.Save(ctx, dir)
	if err != nil {
		return nil, err
	}
	out := map[string]*tensor.Tensor{}
	for name, now := range stored(filepath.Join(dir, weightsFile)) {
		if a.mean[name] != nil {
			now = a.mean[name]
		}
		out[name] = tensor.OfFloat64s(now, int64(len(now)))
	}
	err = errors.Join(os.Rename(filepath.Join(dir, weightsFile), filepath.Join(dir, ownFile)),
		safetensors.Write(filepath.Join(dir, weightsFile), out, map[string]string{sdk.EMA: fmt.Sprint(a.n)}))
	return append(names, ownFile), err
}

func (a *averaging) Load(ctx context.Context, dir string, weightsOnly bool) error {
	if weightsOnly {
		return a.Instance.Load(ctx, dir, true)
	}
	f, err := safetensors.Open(filepath.Join(dir, weightsFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if a.n, err = strconv.ParseFloat(f.Metadata()[sdk.EMA], 64); err != nil {
		return err
	}
	a.mean = stored(filepath.Join(dir, weightsFile))
	own, err := os.MkdirTemp("", "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(own)
	for from, to := range map[string]string{ownFile: weightsFile, "optimizer.safetensors": "optimizer.safetensors"} {
		data, err := os.ReadFile(filepath.Join(dir, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(own, to), data, 0o666)
		}
		if err != nil {
			return err
		}
	}
	return a.Instance.Load(ctx, own, false)
}

// stored are the tensors of a file of the toy; none where there is no such file.
func stored(path string) map[string][]float64 {
	out := map[string][]float64{}
	f, err := safetensors.Open(path)
	if err != nil {
		return out
	}
	defer f.Close()
	for _, name := range f.Names() {
		if t, err := f.Tensor(name); err == nil {
			out[name], _ = t.Float64s()
		}
	}
	return out
}

func openAveraging(t *testing.T) *pipeline.Pipeline {
	p := open(t, nil)
	for _, m := range p.Members {
		m.Instance = &averaging{Instance: m.Instance, mean: map[string][]float64{}}
	}
	return p
}

// Validations see the averaged weights, that is those of the checkpoint; training goes on with
// its own as if nothing had been, also in a run that was cut off, in the midst of a validation
// or between two.
func TestValidationsSeeAveragedWeightsAndTrainingDoesNot(t *testing.T) {
	options := func(p *pipeline.Pipeline, r *runs.Run) Options {
		o := options(p, r)
		o.Epochs, o.ValidateEvery = 2, 1
		return o
	}
	plain := newRun(t)
	if _, err := Loop(t.Context(), options(open(t, nil), plain), runs.State{}); err != nil {
		t.Fatal(err)
	}
	see := func(p *pipeline.Pipeline, into *[]float64) func(context.Context) (Validation, error) {
		return func(ctx context.Context) (Validation, error) {
			dir := t.TempDir()
			_, err := p.Member(sdk.KindHead).Instance.(*averaging).Instance.Save(ctx, dir)
			*into = append(*into, stored(filepath.Join(dir, weightsFile))["bias"]...)
			return Validation{Metric: "m", Value: 1}, err
		}
	}
	whole, seen := newRun(t), []float64(nil)
	p := openAveraging(t)
	o := options(p, whole)
	o.Averaged, o.Validate = true, see(p, &seen)
	if err := CheckAverages(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := Loop(t.Context(), o, runs.State{}); err != nil {
		t.Fatal(err)
	}
	if a, b := losses(t, plain), losses(t, whole); !slices.Equal(a, b) {
		t.Errorf("training notices the averages:\n%s\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	last := stored(filepath.Join(whole.Dir, "checkpoints", "step-6", "head", weightsFile))["bias"]
	if n := len(last); n == 0 || !slices.Equal(seen[len(seen)-n:], last) || slices.Equal(last, stored(filepath.Join(plain.Dir, "checkpoints", "step-6", "head", weightsFile))["bias"]) {
		t.Errorf("the last validation saw %v, the checkpoint's averages are %v", seen, last)
	}

	died := errors.New("died")
	r, again := newRun(t), []float64(nil)
	p = openAveraging(t)
	o = options(p, r)
	o.Averaged = true
	good := see(p, &again)
	o.Validate = func(ctx context.Context) (Validation, error) {
		if len(again) > 0 {
			return Validation{}, died
		}
		return good(ctx)
	}
	if _, err := Loop(t.Context(), o, runs.State{}); !errors.Is(err, died) {
		t.Fatal(err)
	}
	p = openAveraging(t)
	o = options(p, r)
	o.Averaged, o.Validate = true, see(p, &again)
	if _, err := resume(t, r, o); err != nil {
		t.Fatal(err)
	}
	if a, b := metricLines(t, whole), metricLines(t, r); !slices.Equal(a, b) || !bytes.Equal(files(t, whole), files(t, r)) || !slices.Equal(seen, again) {
		t.Errorf("the resumed run differs; validations saw %v, want %v", again, seen)
	}
}

// stepped keeps the values that a stage takes its steps with.
type stepped struct {
	pipeline.Instance
	values []map[string]float64
}

func (s *stepped) Step(ctx context.Context, r *sdk.StepRequest) error {
	s.values = append(s.values, r.Values)
	return s.Instance.Step(ctx, r)
}

// A stage with a learning rate of its own is told where in the training it is; others are not.
func TestAStageWithItsOwnScheduleKnowsThePlace(t *testing.T) {
	p := open(t, nil)
	var of []*stepped
	for _, m := range p.Members {
		m.OwnRules = true
		of = append(of, &stepped{Instance: m.Instance})
		m.Instance = of[len(of)-1]
	}
	p.Member(sdk.KindHead).Stage.Schedule = "its own"
	o := options(p, newRun(t))
	o.LearningRate, o.LearningRateFactor = 0.5, map[sdk.Kind]float64{sdk.KindHead: 0.1}
	if _, err := Loop(t.Context(), o, runs.State{}); err != nil {
		t.Fatal(err)
	}
	head := of[len(of)-1].values
	total, _ := TotalSteps(o.Source.BatchesPerEpoch(), o.Accumulate, o.Epochs, o.MaxSteps)
	for i, v := range head {
		if v[sdk.BaseRate] != 0.05 || v[sdk.StepNumber] != float64(i) || v[sdk.StepCount] != float64(total) {
			t.Errorf("step %d of the head: %v, want base 0.05 and %d steps", i, v, total)
		}
	}
	if encoder := of[0].values; len(head) != total || len(encoder[0]) != 1 {
		t.Errorf("%d steps of %d; the encoder's first has %v", len(head), total, encoder[0])
	}
}

// A stage that does not say that it saves averages is refused by name before training.
func TestAStageWithoutAveragedWeightsIsRefused(t *testing.T) {
	p := open(t, nil)
	err := CheckAverages(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "encoder toy") || !strings.Contains(err.Error(), "train.encoder_lr_factor=0") {
		t.Errorf("error = %v", err)
	}
	for _, m := range p.Members {
		m.Frozen = true
	}
	if err := CheckAverages(t.Context(), p); err != nil {
		t.Errorf("frozen stages need no averages: %v", err)
	}
}

// A validation that fails, is stopped, or dies before its result is noted costs nothing:
// the checkpoint of its epoch stands, and continued the run is the uninterrupted one.
func TestValidationThatIsCutOffIsDoneAgain(t *testing.T) {
	whole := newRun(t)
	p := open(t, nil)
	o := options(p, whole)
	o.Validate = validator(p)
	want, err := Loop(t.Context(), o, runs.State{})
	if err != nil {
		t.Fatal(err)
	}
	died := errors.New("died")
	for _, at := range []int{1, 2, 3} { // epochs 2, 4 and 6, which is the last
		for how, cut := range map[string]func(o *Options, cancel func()) func(context.Context) (Validation, error){
			"fails": func(*Options, func()) func(context.Context) (Validation, error) {
				return func(context.Context) (Validation, error) { return Validation{}, died }
			},
			"is stopped": func(_ *Options, cancel func()) func(context.Context) (Validation, error) {
				return func(ctx context.Context) (Validation, error) { cancel(); return Validation{}, ctx.Err() }
			},
			"dies keeping its predictions": func(o *Options, _ func()) func(context.Context) (Validation, error) {
				validate := validator(o.Pipeline)
				return func(ctx context.Context) (Validation, error) {
					v, err := validate(ctx)
					v.Latest, v.Keep = true, func() error { return died }
					return v, err
				}
			},
			"dies with its line written": func(o *Options, _ func()) func(context.Context) (Validation, error) {
				validate := validator(o.Pipeline)
				return func(ctx context.Context) (Validation, error) {
					v, err := validate(ctx)
					return v, errors.Join(err, o.Run.Append(runs.Record{Kind: "validation", Step: 6 * at, Epoch: 2 * at}), died)
				}
			},
		} {
			t.Run(fmt.Sprintf("epoch %d %s", 2*at, how), func(t *testing.T) {
				r := newRun(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p := open(t, nil)
				o := options(p, r)
				good, bad, n := validator(p), cut(&o, cancel), 0
				o.Validate = func(ctx context.Context) (Validation, error) {
					if n++; n == at {
						return bad(ctx)
					}
					return good(ctx)
				}
				_, err := Loop(ctx, o, runs.State{})
				if !errors.Is(err, died) && !errors.Is(err, ErrStopped) {
					t.Fatalf("%v", err)
				}
				c, _, err := runs.Latest(r.Dir)
				if err != nil || c.State.Step != 6*at || !c.State.Unvalidated {
					t.Fatalf("the checkpoint is %+v (%v), want step %d, to be validated", c, err, 6*at)
				}
				p = open(t, nil)
				o = options(p, r)
				o.Validate = validator(p)
				got, err := resume(t, r, o)
				if err != nil || got != want {
					t.Errorf("ended as %+v (%v), want %+v", got, err, want)
				}
				if a, b := metricLines(t, whole), metricLines(t, r); !slices.Equal(a, b) {
					t.Errorf("metrics differ:\n%s\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
				}
				if !bytes.Equal(files(t, whole), files(t, r)) {
					t.Error("weights differ")
				}
				best, _, err := runs.Find(r.Dir, "best")
				if err != nil || best.State.Step != want.Best.Step {
					t.Errorf("the best checkpoint is %+v (%v), want step %d", best, err, want.Best.Step)
				}
			})
		}
	}
}

func losses(t *testing.T, r *runs.Run) []string {
	t.Helper()
	records, err := runs.ReadMetrics(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, rec := range records {
		if rec.Kind == "step" && rec.Loss != nil {
			out = append(out, fmt.Sprintf("%d/%d %x %x", rec.Epoch, rec.Step, *rec.Loss, rec.GradNorm))
		}
	}
	return out
}

// files are the bytes of everything in the last checkpoint but its manifest.
func files(t *testing.T, r *runs.Run) []byte {
	t.Helper()
	c, _, err := runs.Latest(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, role := range []string{"encoder", "fusion", "head"} {
		for _, f := range []string{"weights.safetensors", "optimizer.safetensors"} {
			data, err := os.ReadFile(filepath.Join(c.StageDir(role), f))
			if err != nil {
				t.Fatal(err)
			}
			all.Write(data)
		}
	}
	return all.Bytes()
}

func TestEqualSeedsGiveEqualLossCurvesBitForBit(t *testing.T) {
	var curves [2][]string
	var weights [2][]byte
	for i := range curves {
		r := newRun(t)
		state, err := Loop(t.Context(), options(open(t, nil), r), runs.State{})
		if err != nil {
			t.Fatal(err)
		}
		if state.Step != 18 || state.Epoch != 6 {
			t.Fatalf("ended at %+v, want step 18, epoch 6", state)
		}
		curves[i], weights[i] = losses(t, r), files(t, r)
	}
	if len(curves[0]) != 18 || !slices.Equal(curves[0], curves[1]) || !bytes.Equal(weights[0], weights[1]) {
		t.Errorf("the runs differ:\n%s\n%s", strings.Join(curves[0], "\n"), strings.Join(curves[1], "\n"))
	}
}

// Training is cut off without warning after 10 steps (the stages and the loop are
// simply abandoned), and continued by new ones from the last checkpoint, of step 9.
func TestResumedTrainingEqualsUninterruptedTraining(t *testing.T) {
	whole := newRun(t)
	if _, err := Loop(t.Context(), options(open(t, nil), whole), runs.State{}); err != nil {
		t.Fatal(err)
	}
	for _, every := range []int{0, 1, 4} {
		r := newRun(t)
		o := options(open(t, nil), r)
		o.CheckpointEvery = every
		cut := errors.New("killed")
		o.Progress = cutAfter{o.Progress, 10, cut}
		func() {
			defer func() {
				if recover() != cut {
					t.Error("was not cut off")
				}
			}()
			_, _ = Loop(t.Context(), o, runs.State{})
		}()
		c, _, err := runs.Latest(r.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.RewindMetrics(c.State); err != nil {
			t.Fatal(err)
		}
		p := open(t, nil)
		if err := Restore(t.Context(), p, c, false); err != nil {
			t.Fatal(err)
		}
		if _, err := Loop(t.Context(), options(p, r), c.State); err != nil {
			t.Fatal(err)
		}
		if a, b := losses(t, whole), losses(t, r); !slices.Equal(a, b) {
			t.Errorf("checkpoint every %d: loss curves differ:\n%s\n%s", every, strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
		if !bytes.Equal(files(t, whole), files(t, r)) {
			t.Errorf("checkpoint every %d: weights differ", every)
		}
	}
}

// overflowing has an infinite gradient in one of its steps.
type overflowing struct {
	pipeline.Instance
	step int
}

func (o *overflowing) Backward(ctx context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	resp, err := o.Instance.Backward(ctx, req)
	if err == nil && req.GradNorm {
		if o.step--; o.step == 0 {
			resp.GradNorm = math.Inf(1)
		}
	}
	return resp, err
}

// Losses that are scaled by powers of two give the weights of those that are not, bit for bit;
// what an overflow has made of the scale is in metrics, warnings and the checkpoint, from which
// training goes on.
func TestTheLossScaleIsOneOfTheTrainingsStates(t *testing.T) {
	plain, scaled := newRun(t), newRun(t)
	if _, err := Loop(t.Context(), options(open(t, nil), plain), runs.State{}); err != nil {
		t.Fatal(err)
	}
	o := options(open(t, nil), scaled)
	o.ScaleLoss = true
	if _, err := Loop(t.Context(), o, runs.State{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files(t, plain), files(t, scaled)) {
		t.Error("weights differ from those of losses that were not scaled")
	}

	r := newRun(t)
	p := open(t, nil)
	p.Members[1].Instance = &overflowing{p.Members[1].Instance, 2}
	o = options(p, r)
	var said bytes.Buffer
	o.ScaleLoss, o.CheckpointEvery, o.MaxSteps, o.Progress = true, 1, 4, NewProgress(&said, 0)
	state, err := Loop(t.Context(), o, runs.State{})
	if err != nil {
		t.Fatal(err)
	}
	if state.LossScale != 32768 || state.LossScaleSteps != 2 || state.Overflows != 1 {
		t.Errorf("after an overflow in step 2 of 4: %+v", state)
	}
	if text := said.String(); !strings.Contains(text, "step 2 skipped: a gradient is too large for half precision; the loss is scaled by 32768 from here on instead of 65536 (1 steps skipped so far)") {
		t.Error(text)
	}
	c, _, err := runs.Latest(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	o = options(open(t, nil), r)
	o.ScaleLoss, o.MaxSteps = true, 6
	if state, err = Loop(t.Context(), o, c.State); err != nil || state.LossScale != 32768 || state.LossScaleSteps != 4 {
		t.Errorf("going on: %+v, %v", state, err)
	}
	records, err := runs.ReadMetrics(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var scales []float64
	for _, rec := range records {
		if rec.Kind == "step" {
			scales = append(scales, rec.LossScale)
		}
	}
	if want := []float64{65536, 65536, 32768, 32768, 32768, 32768}; !slices.Equal(scales, want) {
		t.Errorf("scales of the steps are %v, want %v", scales, want)
	}
}

type cutAfter struct {
	Progress
	step int
	with error
}

func (c cutAfter) Step(r runs.Record) {
	if r.Step == c.step {
		panic(c.with)
	}
}

func TestStopFinishesTheStepAndSavesACheckpoint(t *testing.T) {
	whole := newRun(t)
	if _, err := Loop(t.Context(), options(open(t, nil), whole), runs.State{}); err != nil {
		t.Fatal(err)
	}
	// Step 6 ends an epoch and step 7 does not: the validation must not be lost either way.
	for _, at := range []int{6, 7} {
		ctx, cancel := context.WithCancel(t.Context())
		r := newRun(t)
		o := options(open(t, nil), r)
		o.Progress = stopAt{o.Progress, at, cancel}
		state, err := Loop(ctx, o, runs.State{})
		if !errors.Is(err, ErrStopped) || state.Step != at {
			t.Fatalf("%v at step %d; want ErrStopped at %d", err, state.Step, at)
		}
		c, _, err := runs.Latest(r.Dir)
		if err != nil || c.State.Step != at {
			t.Fatalf("checkpoint %+v, %v", c, err)
		}
		p := open(t, nil)
		if err := Restore(t.Context(), p, c, false); err != nil {
			t.Fatal(err)
		}
		if _, err := Loop(t.Context(), options(p, r), c.State); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(losses(t, whole), losses(t, r)) || !bytes.Equal(files(t, whole), files(t, r)) {
			t.Errorf("stopped after step %d and continued, the run differs", at)
		}
		records, err := runs.ReadMetrics(r.Dir)
		if err != nil {
			t.Fatal(err)
		}
		var validated []int
		for _, rec := range records {
			if rec.Kind == "validation" {
				validated = append(validated, rec.Epoch)
			}
		}
		if !slices.Equal(validated, []int{2, 4, 6}) {
			t.Errorf("stopped after step %d: validated after epochs %v, want 2 4 6", at, validated)
		}
	}
}

type stopAt struct {
	Progress
	step int
	stop func()
}

func (s stopAt) Step(r runs.Record) {
	if r.Step == s.step {
		s.stop()
	}
}

func TestBestIsTheGreatestValidationAndNaNNeverIs(t *testing.T) {
	r := newRun(t)
	o := options(open(t, nil), r)
	o.ValidateEvery = 1
	values := []float64{math.NaN(), 0.2, 0.7, 0.7, math.NaN(), 0.1}
	i := 0
	o.Validate = func(context.Context) (Validation, error) {
		i++
		return Validation{Metric: "m", Value: values[i-1]}, nil
	}
	state, err := Loop(t.Context(), o, runs.State{})
	if err != nil {
		t.Fatal(err)
	}
	if state.Best != (runs.Best{Step: 9, Epoch: 3, Metric: "m", Value: 0.7}) {
		t.Errorf("best is %+v, want epoch 3", state.Best)
	}
	if c, _, err := runs.Find(r.Dir, "best"); err != nil || c.State.Step != 9 {
		t.Errorf("the best checkpoint is %+v, %v", c, err)
	}
}

func TestSecondNotFiniteStepStopsAndKeepsTheLastCheckpoint(t *testing.T) {
	r := newRun(t)
	o := options(open(t, map[string]string{"fault": "nan", "fault_call": "9", "fault_count": "4"}), r)
	state, err := Loop(t.Context(), o, runs.State{})
	// Calls 9 and 10 are the micro-batches of step 5 (epochs have 3 steps: 2, 2 and 1
	// batches); the first NaN ends step 5 without the second forward.
	if !errors.Is(err, pipeline.ErrNotFinite) || !strings.Contains(err.Error(), "case 1.4.0") {
		t.Errorf("%v; want ErrNotFinite with the ids of the batch", err)
	}
	if c, _, err := runs.Latest(r.Dir); err != nil || c.State.Step != 3 || state.Step != 5 {
		t.Errorf("checkpoint %+v (%v) at step %d", c, err, state.Step)
	}
	records, err := runs.ReadMetrics(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	last := records[len(records)-1]
	if !last.Skipped || last.Step != 5 || last.Loss != nil {
		t.Errorf("the last line is %+v, want the skipped step 5", last)
	}
}

func TestLoadersAreClosed(t *testing.T) {
	o := options(open(t, map[string]string{"fault": "nan", "fault_call": "3", "fault_count": "9"}), newRun(t))
	s := &fakeSource{}
	o.Source = s
	if _, err := Loop(t.Context(), o, runs.State{}); err == nil {
		t.Fatal("no error")
	}
	if s.opened == 0 || s.opened != s.closed {
		t.Errorf("%d loaders opened, %d closed", s.opened, s.closed)
	}
}

func TestPlainProgressLinesSayStepLossAndTimeLeft(t *testing.T) {
	var out bytes.Buffer
	o := options(open(t, nil), newRun(t))
	o.Progress = NewProgress(&out, 1)
	if _, err := Loop(t.Context(), o, runs.State{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"step 1/18  epoch 1  loss ", "classification ", " left", "step 18/18  epoch 6", "epoch 2  step 6  validation m 1.0000  (best)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

// Four losses go onto a line of their own: none is wider than 80 columns.
func TestPlainProgressReadsAt80Columns(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out, 1)
	p.Start(90000, 0)
	loss := 1.25
	p.Step(runs.Record{Step: 12345, Epoch: 12, Loss: &loss, StepSec: 1, Losses: map[string]float64{"rpn_cls": 0.5, "rpn_box": 0.25, "rcnn_cls": 0.25, "rcnn_box": 0.25}})
	want := []string{"step 12345/90000  epoch 12  loss 1.2500  1.00 s/step  0s left", "  rcnn_box 0.2500, rcnn_cls 0.2500, rpn_box 0.2500, rpn_cls 0.5000", ""}
	if got := strings.Split(out.String(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The counter of validations without a better one is part of what a run goes on with.
func TestPatienceEndsTrainingAndSurvivesResuming(t *testing.T) {
	values := map[int]float64{1: 0.5, 2: 0.6, 3: 0.6, 4: math.NaN(), 5: 0.9, 6: 0.9}
	patient := func(p *pipeline.Pipeline, r *runs.Run, patience int) Options {
		o := options(p, r)
		o.ValidateEvery, o.Patience = 1, patience
		epoch := 0
		if c, _, err := runs.Latest(r.Dir); err == nil {
			epoch = c.State.Epoch
		}
		o.Validate = func(context.Context) (Validation, error) {
			epoch++
			return Validation{Metric: "m", Value: values[epoch]}, nil
		}
		return o
	}
	for patience, want := range map[int]int{0: 6, 2: 4, 3: 6} {
		state, err := Loop(t.Context(), patient(open(t, nil), newRun(t), patience), runs.State{})
		if err != nil || state.Epoch != want {
			t.Errorf("patience %d: ended after epoch %d (%v), want %d", patience, state.Epoch, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := newRun(t)
	o := patient(open(t, nil), r, 2)
	o.Progress = stopAt{o.Progress, 10, cancel} // in epoch 4, after one validation that was no better
	if _, err := Loop(ctx, o, runs.State{}); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	c, _, err := runs.Latest(r.Dir)
	if err != nil || c.State.Stale != 1 {
		t.Fatalf("checkpoint %+v (%v), want 1 validation without a better one", c, err)
	}
	p := open(t, nil)
	if err := Restore(t.Context(), p, c, false); err != nil {
		t.Fatal(err)
	}
	state, err := Loop(t.Context(), patient(p, r, 2), c.State)
	if err != nil || state.Epoch != 4 || state.Best.Epoch != 2 {
		t.Errorf("continued to epoch %d, best %+v (%v), want 4 and 2", state.Epoch, state.Best, err)
	}
}

// shown is an encoder that is handed the next batch while it works on one: its Forward returns
// when that has come.
type shown struct {
	pipeline.Instance
	came  chan *tensor.Tensor
	log   []string
	steps int
}

func (s *shown) Prefetch(_ context.Context, inputs map[string]*tensor.Tensor) error {
	if len(inputs) != 1 {
		return fmt.Errorf("handed %d inputs, want the image alone", len(inputs))
	}
	s.came <- inputs["image.rgb"]
	return nil
}

func (s *shown) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	if now := <-s.came; now != req.Inputs["image.rgb"] {
		return nil, errors.New("another batch was handed over")
	}
	if s.steps++; s.steps%5 != 0 { // of an epoch's last batch nothing comes next
		next := <-s.came
		s.came <- next
		s.log = append(s.log, fmt.Sprintf("step %d has not ended, the next batch has come", s.steps))
	}
	return s.Instance.Forward(ctx, req)
}

// The copy of a step's first batch begins before the step before it has ended, and changes
// nothing of what is learned.
func TestTheNextBatchIsHandedOverWhileAStepComputes(t *testing.T) {
	var want []string
	for _, handed := range []bool{false, true} {
		p, r := open(t, nil), newRun(t)
		s := &shown{Instance: p.Members[0].Instance, came: make(chan *tensor.Tensor, 1)}
		if handed {
			p.Members[0].Instance = s
		}
		o := options(p, r)
		o.Epochs, o.Accumulate = 2, 1
		if _, err := Loop(t.Context(), o, runs.State{}); err != nil {
			t.Fatal(err)
		}
		got := metricLines(t, r)
		if !handed {
			want = got
			continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if len(s.log) != 2*4 {
			t.Errorf("%q, want it of four of five steps of each epoch", s.log)
		}
	}
}
