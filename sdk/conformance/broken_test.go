package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// trained is the whole of a trainable stage.
type trained interface {
	sdk.Stage
	sdk.Trainer
	sdk.Saver
}

// bent is a good stage with single methods replaced.
type bent struct {
	trained
	forward  func(context.Context, *sdk.ForwardRequest) (*sdk.ForwardResponse, error)
	backward func(context.Context, *sdk.BackwardRequest) (*sdk.BackwardResponse, error)
	step     func(context.Context, *sdk.StepRequest) error
	save     func(context.Context, string) ([]string, error)
	load     func(context.Context, string, bool) error
	norm     func(context.Context) (float64, error)
	close    func() error
}

func (b *bent) Forward(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	if b.forward != nil {
		return b.forward(ctx, r)
	}
	return b.trained.Forward(ctx, r)
}

func (b *bent) Backward(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	if b.backward != nil {
		return b.backward(ctx, r)
	}
	return b.trained.Backward(ctx, r)
}

func (b *bent) Step(ctx context.Context, r *sdk.StepRequest) error {
	if b.step != nil {
		return b.step(ctx, r)
	}
	return b.trained.Step(ctx, r)
}

func (b *bent) GradNorm(ctx context.Context) (float64, error) {
	if b.norm != nil {
		return b.norm(ctx)
	}
	return b.trained.GradNorm(ctx)
}

func (b *bent) Save(ctx context.Context, dir string) ([]string, error) {
	if b.save != nil {
		return b.save(ctx, dir)
	}
	return b.trained.Save(ctx, dir)
}

func (b *bent) Load(ctx context.Context, dir string, weightsOnly bool) error {
	if b.load != nil {
		return b.load(ctx, dir, weightsOnly)
	}
	return b.trained.Load(ctx, dir, weightsOnly)
}

func (b *bent) Close() error {
	if b.close != nil {
		return b.close()
	}
	return b.trained.Close()
}

// bend makes the good plugin's stages break a rule.
func bend(f func(b *bent)) func() sdk.Plugin {
	return func() sdk.Plugin {
		p := toy.Linear()
		open := p.Open
		p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			s, resp, err := open(ctx, r)
			if err != nil {
				return nil, nil, err
			}
			b := &bent{trained: s.(trained)}
			f(b)
			return b, resp, nil
		}
		return p
	}
}

// between breaks rules that the SDK's server keeps for every stage: it stands between the
// server and the suite.
type between struct {
	stagev1.StageServiceServer
	open     func(context.Context, *stagev1.OpenRequest) (*stagev1.OpenResponse, error)
	forward  func(context.Context, *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error)
	backward func(context.Context, *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error)
	release  func(context.Context, *stagev1.ReleaseRequest) (*stagev1.ReleaseResponse, error)
	describe func(context.Context, *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error)
	close    func(context.Context, *stagev1.CloseRequest) (*stagev1.CloseResponse, error)
	stepAll  func(context.Context, *stagev1.StepAllRequest) (*stagev1.StepAllResponse, error)
	both     func(context.Context, *stagev1.ForwardBackwardRequest) (*stagev1.ForwardBackwardResponse, error)
}

// either is the broken call where there is one, else the whole one.
func either[Q, A any](broken, whole func(context.Context, Q) (A, error)) func(context.Context, Q) (A, error) {
	if broken != nil {
		return broken
	}
	return whole
}

func (w *between) StepAll(ctx context.Context, r *stagev1.StepAllRequest) (*stagev1.StepAllResponse, error) {
	return either(w.stepAll, w.StageServiceServer.StepAll)(ctx, r)
}

func (w *between) ForwardBackward(ctx context.Context, r *stagev1.ForwardBackwardRequest) (*stagev1.ForwardBackwardResponse, error) {
	return either(w.both, w.StageServiceServer.ForwardBackward)(ctx, r)
}

func (w *between) Describe(ctx context.Context, r *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	return either(w.describe, w.StageServiceServer.Describe)(ctx, r)
}

func (w *between) Open(ctx context.Context, r *stagev1.OpenRequest) (*stagev1.OpenResponse, error) {
	return either(w.open, w.StageServiceServer.Open)(ctx, r)
}

func (w *between) Forward(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
	return either(w.forward, w.StageServiceServer.Forward)(ctx, r)
}

func (w *between) Backward(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
	return either(w.backward, w.StageServiceServer.Backward)(ctx, r)
}

func (w *between) Release(ctx context.Context, r *stagev1.ReleaseRequest) (*stagev1.ReleaseResponse, error) {
	return either(w.release, w.StageServiceServer.Release)(ctx, r)
}

func (w *between) Close(ctx context.Context, r *stagev1.CloseRequest) (*stagev1.CloseResponse, error) {
	return either(w.close, w.StageServiceServer.Close)(ctx, r)
}

// contexts is a set of contexts. Calls that were cancelled may still be running when the
// next one comes.
type contexts struct {
	mu sync.Mutex
	in map[string]bool
}

func (c *contexts) set(instance, context uint64, in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil {
		c.in = map[string]bool{}
	}
	c.in[fmt.Sprint(instance, " ", context)] = in
}

func (c *contexts) has(instance, context uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in[fmt.Sprint(instance, " ", context)]
}

// catcher keeps the service that wire.Register registers.
type catcher struct{ service stagev1.StageServiceServer }

func (c *catcher) RegisterService(_ *grpc.ServiceDesc, impl any) {
	c.service = impl.(stagev1.StageServiceServer)
}

func run(t *testing.T, p sdk.Plugin, change func(w *between), process func(*conformance.Connection)) *conformance.Report {
	t.Helper()
	report, err := suite(t, p, change, process, "")
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func suite(t *testing.T, p sdk.Plugin, change func(w *between), process func(*conformance.Connection), device string) (*conformance.Report, error) {
	t.Helper()
	options := conformance.Options{Device: device}
	if p.Manifest.Stages[0].Name == "linear" {
		options.Settings = map[string]map[string]string{"linear": {"in": "16"}}
		options.Shapes = map[string]map[string][]int64{"linear": {"x": {70, 16}}} // too large to travel in a message
	}
	return conformance.Run(t.Context(), conformance.Target{
		Connect: func(ctx context.Context) (*conformance.Connection, error) {
			c, err := plugintest.Connect(ctx, "broken", func(r grpc.ServiceRegistrar) func() {
				if change == nil {
					return wire.Register(r, p)
				}
				var good catcher
				closeAll := wire.Register(&good, p)
				w := &between{StageServiceServer: good.service}
				change(w)
				stagev1.RegisterStageServiceServer(r, w)
				return closeAll
			})
			if err != nil {
				return nil, err
			}
			out := &conformance.Connection{Conn: c.Conn, InBand: c.InBand, Shared: c.Shared, Close: c.Close}
			if process != nil {
				process(out)
			}
			return out, nil
		},
	}, options)
}

// ownRule is the good plugin with a rule and a schedule of its own, which a function changes;
// before is how many steps the instance has taken.
func ownRule(change func(r *sdk.StepRequest, before int)) func() sdk.Plugin {
	return func() sdk.Plugin {
		p := toy.Linear()
		p.Manifest.Stages[0].Optimizer, p.Manifest.Stages[0].Schedule = "mine", "halves every two steps"
		open := p.Open
		p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			s, resp, err := open(ctx, r)
			if err != nil || r.Optimizer.Name != "mine" {
				return s, resp, err
			}
			b, before := &bent{trained: s.(trained)}, 0
			b.step = func(ctx context.Context, r *sdk.StepRequest) error {
				if base, own := r.Values[sdk.BaseRate]; own {
					r.Values[sdk.LearningRate] = base / math.Exp2(math.Floor(r.Values[sdk.StepNumber]/2))
				}
				if change != nil {
					change(r, before)
				}
				before++
				return b.trained.Step(ctx, r)
			}
			return b, resp, nil
		}
		return p
	}
}

// A rule and a schedule of a stage's own are checked, and pass when they are right.
func TestAStageWithARuleOfItsOwnPasses(t *testing.T) {
	for _, r := range run(t, ownRule(nil)(), nil, nil).Results {
		if r.Status == conformance.Fail || r.Case == "own-rule" && r.Status != conformance.Pass {
			t.Error(r)
		}
	}
}

// testedAsProgram are the cases whose broken plugins are programs:
// host/cli/testdata/plugin/validate.txtar.
var testedAsProgram = []string{"describe", "health", "shutdown", "sample", "growth"}

func TestEveryBrokenPluginFailsItsCaseAndNoOther(t *testing.T) {
	untested := map[string]bool{}
	for _, r := range run(t, toy.Linear(), nil, nil).Results {
		untested[r.Case] = !slices.Contains(testedAsProgram, r.Case)
	}
	for _, test := range []struct {
		breaks string
		plugin func() sdk.Plugin
		wire   func(w *between)
		// process changes what the plugin's process would do.
		process func(c *conformance.Connection)
		// also lists cases that cannot but fail with it.
		also []string
	}{
		{breaks: "manifest", plugin: func() sdk.Plugin {
			p := toy.Linear()
			p.Manifest.Stages[0].Settings[1].Type = "integer"
			return p
		}},
		{breaks: "manifest", plugin: func() sdk.Plugin {
			p := toy.Linear()
			p.Manifest.Stages[0].Inputs = append(p.Manifest.Stages[0].Inputs, sdk.Port{Name: "target.labels", DType: tensor.Int64, Shape: []string{"N"}})
			return p
		}},
		{breaks: "losses", plugin: bend(func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil {
					resp.Losses = nil
				}
				return resp, err
			}
		})},
		{breaks: "losses", plugin: func() sdk.Plugin {
			p := toy.Linear()
			p.Manifest.Stages[0].Losses = append(p.Manifest.Stages[0].Losses, "forgotten")
			return p
		}},
		{breaks: "lifeline", process: func(c *conformance.Connection) {
			c.CutLifeline, c.Exited = func() {}, make(chan struct{}) // it lives on without its host
		}},
		{breaks: "unknown-stage", wire: func(w *between) {
			w.open = func(ctx context.Context, r *stagev1.OpenRequest) (*stagev1.OpenResponse, error) {
				r.Stage = "linear" // whatever was asked for
				return w.StageServiceServer.Open(ctx, r)
			}
		}},
		{breaks: "unknown-instance", wire: func(w *between) {
			w.close = func(ctx context.Context, r *stagev1.CloseRequest) (*stagev1.CloseResponse, error) {
				resp, err := w.StageServiceServer.Close(ctx, r)
				if status.Code(err) == codes.NotFound {
					return &stagev1.CloseResponse{}, nil
				}
				return resp, err
			}
		}},
		{breaks: "settings", wire: func(w *between) {
			w.open = func(ctx context.Context, r *stagev1.OpenRequest) (*stagev1.OpenResponse, error) {
				delete(r.Settings, "no-such-setting")
				return w.StageServiceServer.Open(ctx, r)
			}
		}},
		{breaks: "outputs", plugin: bend(func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil && !r.Train {
					zero := 0.0
					resp.Losses["mse"] = 1 / zero
				}
				return resp, err
			}
		})},
		{breaks: "deterministic", also: []string{"transports"}, plugin: bend(func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil && r.Train {
					y, _ := resp.Outputs["y"].Float32s()
					for i := range y {
						y[i] *= 1 + 1e-6*rand.Float32() // dropout without the seed
					}
				}
				return resp, err
			}
		})},
		{breaks: "transports", wire: func(w *between) {
			w.forward = func(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
				resp, err := w.StageServiceServer.Forward(ctx, r)
				if err == nil && r.Slot != nil {
					y := resp.Outputs[0]
					y.Payload = &stagev1.Tensor_Raw{Raw: make([]byte, 4*y.Shape[0]*y.Shape[1])}
				}
				return resp, err
			}
		}},
		{breaks: "bad-input", wire: func(w *between) {
			w.forward = func(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
				r.Inputs = slices.DeleteFunc(r.Inputs, func(t *stagev1.Tensor) bool { return t.Name == "no.such.input" })
				return w.StageServiceServer.Forward(ctx, r)
			}
		}},
		{breaks: "bad-bytes", wire: func(w *between) {
			w.forward = func(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
				for _, t := range r.Inputs {
					if len(t.Shape) == 2 && t.Shape[0] > 0 && t.Shape[1] > 0 && len(t.GetRaw()) > int(4*t.Shape[0]*t.Shape[1]) {
						t.Payload = &stagev1.Tensor_Raw{Raw: t.GetRaw()[:4*t.Shape[0]*t.Shape[1]]}
					}
				}
				return w.StageServiceServer.Forward(ctx, r)
			}
		}},
		{breaks: "eval-leaves-nothing", wire: func(w *between) {
			var evaluated contexts
			w.forward = func(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
				evaluated.set(r.Instance, r.Context, r.Mode == stagev1.Mode_MODE_EVAL)
				return w.StageServiceServer.Forward(ctx, r)
			}
			w.backward = func(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
				if evaluated.has(r.Instance, r.Context) {
					return &stagev1.BackwardResponse{}, nil
				}
				return w.StageServiceServer.Backward(ctx, r)
			}
		}},
		{breaks: "unknown-context", wire: func(w *between) {
			var known contexts
			w.forward = func(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
				known.set(r.Instance, r.Context, true)
				return w.StageServiceServer.Forward(ctx, r)
			}
			w.backward = func(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
				if !known.has(r.Instance, r.Context) {
					return nil, status.Error(codes.Internal, "map has no such key")
				}
				return w.StageServiceServer.Backward(ctx, r)
			}
		}},
		{breaks: "double-backward", wire: func(w *between) {
			w.backward = func(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
				resp, err := w.StageServiceServer.Backward(ctx, r)
				if status.Code(err) == codes.FailedPrecondition {
					return nil, status.Error(codes.NotFound, "no such context")
				}
				return resp, err
			}
		}},
		{breaks: "context-order", plugin: bend(func(b *bent) {
			var latest []byte
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil {
					latest = slices.Clone(resp.Outputs["y"].Data)
				}
				return resp, err
			}
			b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				// The gradient of the stage's own output enters: tanh-like code that keeps
				// its activation in the instance does this.
				resp, err := b.trained.Backward(ctx, r)
				if err != nil || resp.InputGrads["x"] == nil {
					return resp, err
				}
				if g, _ := resp.InputGrads["x"].Float32s(); len(g) > 0 {
					g[0] *= 1 + 1e-6*float32(latest[0])
				}
				return resp, nil
			}
		})},
		{breaks: "context-bound", wire: func(w *between) {
			w.describe = func(ctx context.Context, r *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
				resp, err := w.StageServiceServer.Describe(ctx, r)
				if err == nil {
					resp.Manifest.MaxOpenContexts = 1
				}
				return resp, err
			}
		}},
		{breaks: "release", wire: func(w *between) {
			var open contexts
			w.forward = func(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
				open.set(r.Instance, r.Context, true)
				return w.StageServiceServer.Forward(ctx, r)
			}
			w.release = func(ctx context.Context, r *stagev1.ReleaseRequest) (*stagev1.ReleaseResponse, error) {
				for _, id := range r.Contexts {
					if !open.has(r.Instance, id) {
						return nil, status.Errorf(codes.NotFound, "context %d", id)
					}
					open.set(r.Instance, id, false)
				}
				return w.StageServiceServer.Release(ctx, r)
			}
		}},
		{breaks: "gradients", plugin: bend(func(b *bent) {
			b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				resp, err := b.trained.Backward(ctx, r)
				if err == nil && resp.InputGrads["x"] != nil {
					g, _ := resp.InputGrads["x"].Float32s()
					for i := range g {
						g[i] *= 1.1
					}
				}
				return resp, err
			}
		})},
		{breaks: "own-rule", plugin: ownRule(func(r *sdk.StepRequest, _ int) { r.GradientScale = -r.GradientScale })},
		{breaks: "own-rule", plugin: ownRule(func(r *sdk.StepRequest, _ int) { r.Values[sdk.LearningRate] += 1e-3 })},
		{breaks: "own-rule", plugin: ownRule(func(r *sdk.StepRequest, before int) { r.GradientScale /= float64(1 + before) })}, // a count that is not saved
		{breaks: "linear", plugin: bend(func(b *bent) {
			b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				// As a seed of ones would: the given gradient is forgotten where it is zero.
				nothing := false
				if y := r.OutputGrads["y"]; y != nil {
					nothing = !slices.ContainsFunc(y.Data, func(x byte) bool { return x != 0 })
				}
				resp, err := b.trained.Backward(ctx, r)
				if err == nil && nothing && resp.InputGrads["x"] != nil {
					g, _ := resp.InputGrads["x"].Float32s()
					for i := range g {
						g[i] = 1
					}
				}
				return resp, err
			}
		})},
		{breaks: "accumulate", plugin: bend(func(b *bent) {
			b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				if err := b.trained.ZeroGrad(ctx); err != nil {
					return nil, err
				}
				return b.trained.Backward(ctx, r)
			}
		})},
		{breaks: "step", plugin: bend(func(b *bent) {
			b.step = func(ctx context.Context, r *sdk.StepRequest) error {
				r.GradientScale = 1
				return b.trained.Step(ctx, r)
			}
		})},
		{breaks: "one-call", wire: func(w *between) { // it does not clear what it should
			w.stepAll = func(ctx context.Context, r *stagev1.StepAllRequest) (*stagev1.StepAllResponse, error) {
				r.Steps[0].ZeroGrad = false
				return w.StageServiceServer.StepAll(ctx, r)
			}
		}},
		{breaks: "one-call", wire: func(w *between) { // it weighs losses otherwise
			w.both = func(ctx context.Context, r *stagev1.ForwardBackwardRequest) (*stagev1.ForwardBackwardResponse, error) {
				for name := range r.Backward.LossWeights {
					r.Backward.LossWeights[name] *= 2
				}
				return w.StageServiceServer.ForwardBackward(ctx, r)
			}
		}},
		{breaks: "one-call", wire: func(w *between) { // it answers another norm
			w.backward = func(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
				resp, err := w.StageServiceServer.Backward(ctx, r)
				if err == nil && r.GradNorm {
					resp.GradNorm++
				}
				return resp, err
			}
		}},
		{breaks: "frozen", plugin: func() sdk.Plugin { // its weights move with every batch
			p := toy.Linear()
			open := p.Open
			p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
				s, resp, err := open(ctx, r)
				if err != nil || !r.Frozen {
					return s, resp, err
				}
				b := &bent{trained: s.(trained)}
				b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
					grads, err := b.trained.Backward(ctx, r)
					if err != nil {
						return nil, err
					}
					return grads, b.trained.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": 0.1}, GradientScale: 1})
				}
				return b, resp, nil
			}
			return p
		}},
		{breaks: "parameters", plugin: bend(func(b *bent) {
			b.step = func(ctx context.Context, r *sdk.StepRequest) error {
				r.Values["learning_rate"] *= 2
				return b.trained.Step(ctx, r)
			}
		})},
		{breaks: "inputs", plugin: bend(func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if x, _ := r.Inputs["x"].Float32s(); len(x) > 1024 {
					x[0]++
				}
				return resp, err
			}
		})},
		{breaks: "batch", plugin: bend(func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err != nil || r.Train {
					return resp, err
				}
				y, _ := resp.Outputs["y"].Float32s()
				for i := range min(3, len(y)) {
					y[i] += 0.01 * y[len(y)-1] // of the last case
				}
				return resp, nil
			}
		})},
		{breaks: "parity", plugin: func() sdk.Plugin {
			p := toy.Linear()
			p.Manifest.Stages[0].Settings = append(p.Manifest.Stages[0].Settings, sdk.Setting{Name: "amp", Type: "bool", Default: "false"})
			open := p.Open
			p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
				amp := r.Settings["amp"] == "true"
				delete(r.Settings, "amp")
				s, resp, err := open(ctx, r)
				if err != nil || !amp {
					return s, resp, err
				}
				b := &bent{trained: s.(trained)}
				b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
					resp, err := b.trained.Forward(ctx, r)
					if err == nil {
						clear(resp.Outputs["y"].Data) // overflowed, and cleared
					}
					return resp, err
				}
				return b, resp, nil
			}
			return p
		}},
		{breaks: "half-precision", plugin: inHalf(func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil {
					clear(resp.Outputs["y"].Data) // overflowed, and cleared
				}
				return resp, err
			}
		})},
		{breaks: "half-precision", plugin: inHalf(func(b *bent) {
			b.step = func(ctx context.Context, r *sdk.StepRequest) error {
				r.GradientScale *= 2
				return b.trained.Step(ctx, r)
			}
		})},
		{breaks: "save-load", also: []string{"load-broken"}, plugin: bend(func(b *bent) {
			b.load = func(ctx context.Context, dir string, weightsOnly bool) error {
				return b.trained.Load(ctx, dir, true) // the optimizer begins anew
			}
		})},
		{breaks: "load-broken", plugin: bend(func(b *bent) {
			b.load = func(ctx context.Context, dir string, weightsOnly bool) error {
				_ = b.trained.Load(ctx, dir, weightsOnly)
				return nil
			}
		})},
		{breaks: "cancel", plugin: bend(func(b *bent) {
			poisoned := false
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				if r.Context >= 10 && r.Context < 20 { // long enough to be cancelled
					select {
					case <-ctx.Done():
						poisoned = true
						return nil, ctx.Err()
					case <-time.After(50 * time.Millisecond):
					}
				}
				if poisoned {
					return nil, fmt.Errorf("scope is half open")
				}
				return b.trained.Forward(ctx, r)
			}
		})},
		{breaks: "instances", plugin: func() sdk.Plugin {
			var mu sync.Mutex
			var everyone []*bent
			p := bend(func(b *bent) {
				mu.Lock()
				everyone = append(everyone, b)
				mu.Unlock()
				b.step = func(ctx context.Context, r *sdk.StepRequest) error {
					mu.Lock()
					defer mu.Unlock()
					for _, other := range everyone { // as a global optimizer would
						if other == b {
							continue
						}
						if _, err := other.trained.Forward(ctx, &sdk.ForwardRequest{Context: 1 << 50, Train: true, Inputs: map[string]*tensor.Tensor{
							"x": tensor.OfFloat32s(make([]float32, 16), 1, 16)}, NewOutput: func(_ string, d tensor.DType, s ...int64) (*tensor.Tensor, error) { return tensor.New(d, s...) }}); err != nil {
							return err
						}
						ones := tensor.OfFloat32s([]float32{1, 1, 1}, 1, 3)
						if _, err := other.trained.Backward(ctx, &sdk.BackwardRequest{Context: 1 << 50, OutputGrads: map[string]*tensor.Tensor{"y": ones},
							NewOutput: func(_ string, d tensor.DType, s ...int64) (*tensor.Tensor, error) { return tensor.New(d, s...) }}); err != nil {
							return err
						}
						if err := other.trained.Step(ctx, r); err != nil {
							return err
						}
					}
					return b.trained.Step(ctx, r)
				}
				b.close = func() error {
					mu.Lock()
					defer mu.Unlock()
					everyone = slices.DeleteFunc(everyone, func(other *bent) bool { return other == b })
					return nil
				}
			})
			return p()
		}},
		{breaks: "close", wire: func(w *between) {
			w.close = func(ctx context.Context, r *stagev1.CloseRequest) (*stagev1.CloseResponse, error) {
				if r.Instance > 1<<20 {
					return w.StageServiceServer.Close(ctx, r)
				}
				return &stagev1.CloseResponse{}, nil
			}
		}},
	} {
		untested[test.breaks] = false
		t.Run(test.breaks, func(t *testing.T) {
			p := toy.Linear()
			if test.plugin != nil {
				p = test.plugin()
			}
			report := run(t, p, test.wire, test.process)
			if report.Passed {
				t.Fatal("the suite passed it")
			}
			its := false
			for _, r := range report.Failed() {
				switch {
				case r.Case == test.breaks:
					its = true
					if r.Seen == "" || r.Wanted == "" || r.Mend == "" || r.Rule == "" {
						t.Errorf("the result leaves something unsaid: %+v", r)
					}
				case !slices.Contains(test.also, r.Case):
					t.Errorf("another case failed: %s", r)
				}
			}
			if !its {
				t.Errorf("its case did not fail")
			}
		})
	}
	for name, is := range untested {
		if is {
			t.Errorf("no broken plugin shows that the case %q can fail", name)
		}
	}
}

// What an optimizer keeps is told from parameters by what Forward depends on: neither the name
// of its file nor that of a tensor counts.
func TestOptimizerStateMayHaveAnyName(t *testing.T) {
	const usual, other = "optimizer.safetensors", "moments.safetensors"
	for name, plugin := range map[string]func() sdk.Plugin{
		"a file of another name": bend(func(b *bent) {
			b.save = func(ctx context.Context, dir string) ([]string, error) {
				_, err := b.trained.Save(ctx, dir)
				return []string{"weights.safetensors", other}, errors.Join(err, os.Rename(filepath.Join(dir, usual), filepath.Join(dir, other)))
			}
			b.load = func(ctx context.Context, dir string, weightsOnly bool) error {
				text, err := os.ReadFile(filepath.Join(dir, other))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, usual), text, 0o600)
				}
				return errors.Join(err, b.trained.Load(ctx, dir, weightsOnly))
			}
		}),
		"beside the weights": bend(func(b *bent) {
			b.save = func(ctx context.Context, dir string) ([]string, error) {
				_, err := b.trained.Save(ctx, dir)
				all, errs := map[string]*tensor.Tensor{}, []error{err}
				for _, file := range []string{"weights.safetensors", usual} {
					f, err := safetensors.Open(filepath.Join(dir, file))
					if err != nil {
						return nil, err
					}
					for _, name := range f.Names() {
						all[file+"/"+name], err = f.Tensor(name)
						errs = append(errs, err)
					}
					errs = append(errs, f.Close(), os.Remove(filepath.Join(dir, file)))
				}
				return []string{"all.safetensors"}, errors.Join(append(errs, safetensors.Write(filepath.Join(dir, "all.safetensors"), all, nil))...)
			}
			b.load = func(ctx context.Context, dir string, weightsOnly bool) error {
				f, err := safetensors.Open(filepath.Join(dir, "all.safetensors"))
				if err != nil {
					return sdk.Errorf(sdk.InvalidArgument, "%w", err)
				}
				defer f.Close()
				apart := map[string]map[string]*tensor.Tensor{"weights.safetensors": {}, usual: {}}
				for _, name := range f.Names() {
					file, of, _ := strings.Cut(name, "/")
					if apart[file][of], err = f.Tensor(name); err != nil {
						return sdk.Errorf(sdk.InvalidArgument, "%w", err)
					}
				}
				for file, tensors := range apart {
					if err := safetensors.Write(filepath.Join(dir, file), tensors, nil); err != nil {
						return err
					}
				}
				return b.trained.Load(ctx, dir, weightsOnly)
			}
		}),
	} {
		for _, failed := range run(t, plugin(), nil, nil).Failed() {
			t.Errorf("%s: %s", name, failed)
		}
	}
}

// lengths embeds a text as its length; added changes what is said of a batch of lengths.
type lengths struct{ added func(of []float32) float32 }

func (l lengths) Forward(_ context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	texts, err := r.Inputs[ports.Text.Name].Strings()
	if err != nil {
		return nil, err
	}
	of := make([]float32, len(texts))
	for i, text := range texts {
		of[i] = float32(len(text))
	}
	added := l.added(of)
	for i := range of {
		of[i] += added
	}
	return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{ports.Embedding.Name: tensor.OfFloat32s(of, int64(len(of)), 1)}}, nil
}

func (lengths) Release(context.Context, uint64) error { return nil }
func (lengths) Close() error                          { return nil }

func TestATextKnowsNothingOfTheOthersOfItsBatch(t *testing.T) {
	for name, added := range map[string]func([]float32) float32{
		"":      func([]float32) float32 { return 1 },
		"batch": func(of []float32) float32 { return slices.Max(of) }, // as padding that is not masked does
	} {
		p := sdk.Plugin{Manifest: sdk.Manifest{Name: "lengths", Version: "1.0.0", Stages: []sdk.StageManifest{{Name: "text", Kind: sdk.KindText,
			Inputs: []sdk.Port{ports.Text.Declare(ports.Required)}, Outputs: []sdk.Port{ports.Embedding.Declare(ports.Required)}}}},
			Open: func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
				return lengths{added}, &sdk.OpenResponse{}, nil
			}}
		for _, r := range run(t, p, nil, nil).Results {
			if r.Case == "batch" && (r.Status == conformance.Pass) != (name == "") || r.Status == conformance.Fail && r.Case != name {
				t.Error(r)
			}
		}
	}
}

// onDevice is the good plugin on a machine with a second device, which change may bend.
func onDevice(change func(b *bent)) sdk.Plugin {
	p := toy.Linear()
	open := p.Open
	p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
		if r.Device != "cpu" && r.Device != "second" {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "%s: there is no such device", r.Device)
		}
		s, resp, err := open(ctx, r)
		if err != nil || r.Device == "cpu" || change == nil {
			return s, resp, err
		}
		b := &bent{trained: s.(trained)}
		change(b)
		return b, resp, nil
	}
	return p
}

// A number alone cannot be moved in another direction: at a corner its gradient is the slope of
// one of the sides, which the mean of both is not. A gradient of neither side is still wrong.
func TestTheGradientAtACornerIsThatOfEitherSide(t *testing.T) {
	for below, want := range map[float64]conformance.Status{0: conformance.Pass, 0.04: conformance.Fail} {
		p := toy.Linear()
		open := p.Open
		p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			r.Settings["out"] = "1"
			s, resp, err := open(ctx, r)
			if err != nil {
				return nil, nil, err
			}
			b, origin, more := &bent{trained: s.(trained)}, math.NaN(), 0.0
			b.save = func(ctx context.Context, dir string) ([]string, error) {
				files, err := b.trained.Save(ctx, dir)
				if err == nil && math.IsNaN(origin) {
					origin, err = biasIn(dir)
				}
				return files, err
			}
			b.load = func(ctx context.Context, dir string, weightsOnly bool) error {
				bias, err := biasIn(dir)
				more = 0.04*max(bias-origin, 0) + below*min(bias-origin, 0)
				return errors.Join(err, b.trained.Load(ctx, dir, weightsOnly))
			}
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil {
					for name := range resp.Losses {
						resp.Losses[name] += more
					}
				}
				return resp, err
			}
			return b, resp, nil
		}
		for _, r := range run(t, p, nil, nil).Results {
			if r.Case == "parameters" && r.Status != want {
				t.Error(r)
			}
		}
	}
}

// biasIn is the bias that the good plugin has saved.
func biasIn(dir string) (float64, error) {
	f, err := safetensors.Open(filepath.Join(dir, "weights.safetensors"))
	if err != nil {
		return 0, err
	}
	bias, err := f.Tensor("bias")
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	values, err := bias.Float64s()
	return values[0], errors.Join(err, f.Close())
}

// inHalf is the good plugin with half precision, in which its stages are bent.
func inHalf(change func(b *bent)) func() sdk.Plugin {
	return func() sdk.Plugin {
		p := toy.Linear()
		p.Manifest.Capabilities = append(p.Manifest.Capabilities, sdk.CapabilityAMP, sdk.CapabilityFP16)
		open := p.Open
		p.Open = func(ctx context.Context, r *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			if r.FP16 && change == nil {
				return nil, nil, &sdk.Error{Code: sdk.InvalidArgument, Setting: "train.amp", Err: errors.New("no half precision here")}
			}
			s, resp, err := open(ctx, r)
			if err != nil || !r.FP16 {
				return s, resp, err
			}
			b := &bent{trained: s.(trained)}
			change(b)
			return b, resp, nil
		}
		return p
	}
}

// Gradients that overflow are scaled down as a host does, and a device without half precision
// breaks no rule.
func TestHalfPrecisionIsScaledOrSkipped(t *testing.T) {
	var scales []float64
	for _, test := range []struct {
		change func(b *bent)
		want   conformance.Status
	}{
		{nil, conformance.Skip},
		{func(b *bent) {
			scale := 0.0
			b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				scale = slices.Max(slices.Collect(maps.Values(r.LossWeights)))
				scales = append(scales, scale)
				return b.trained.Backward(ctx, r)
			}
			b.norm = func(ctx context.Context) (float64, error) {
				if scale > 1000 {
					return math.Inf(1), nil
				}
				return b.trained.GradNorm(ctx)
			}
		}, conformance.Pass},
	} {
		for _, r := range run(t, inHalf(test.change)(), nil, nil).Results {
			if r.Case == "half-precision" && (r.Status != test.want || r.Status == conformance.Skip && r.Seen != "no half precision here") {
				t.Error(r)
			}
		}
	}
	if want := []float64{65536, 32768, 16384, 8192, 4096, 2048, 1024, 512}; !slices.Equal(scales, want) {
		t.Errorf("losses were scaled by %v, want %v", scales, want)
	}
}

func TestADeviceIsComparedWithTheCPU(t *testing.T) {
	for name, test := range map[string]struct {
		change func(b *bent)
		want   conformance.Status
	}{
		"the same": {nil, conformance.Pass},
		"another answer": {func(b *bent) {
			b.forward = func(ctx context.Context, r *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
				resp, err := b.trained.Forward(ctx, r)
				if err == nil {
					y, _ := resp.Outputs["y"].Float32s()
					y[0] *= 1.5
				}
				return resp, err
			}
		}, conformance.Fail},
		"another step": {func(b *bent) {
			b.step = func(ctx context.Context, r *sdk.StepRequest) error {
				r.GradientScale *= 1.1
				return b.trained.Step(ctx, r)
			}
		}, conformance.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := suite(t, onDevice(test.change), nil, nil, "second")
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range report.Results {
				if r.Case == "parity" && r.Status != test.want {
					t.Error(r)
				}
			}
		})
	}
}

func TestADeviceThatIsNotThereIsNoBrokenRule(t *testing.T) {
	if _, err := suite(t, onDevice(nil), nil, nil, "third"); err == nil || !strings.Contains(err.Error(), "third: there is no such device") {
		t.Errorf("%v; want the stage's own words", err)
	}
}

// What a detector selects is a constant to its gradient, so that outputs and losses are looked at
// one by one: an output that is right does not hide a loss without gradients.
func TestADetectorsLossesAreLookedAtOneByOne(t *testing.T) {
	for name, backward := range map[string]func(r *sdk.BackwardRequest){
		"":                           nil,
		"loss .* has no gradient by": func(r *sdk.BackwardRequest) { clear(r.LossWeights) },
		"derivative along a direction of parameter": func(r *sdk.BackwardRequest) {
			for name, weight := range r.LossWeights {
				r.LossWeights[name] = -weight
			}
			for _, g := range r.OutputGrads {
				values, _ := g.Float32s()
				for i := range values {
					values[i] *= -1
				}
			}
		},
	} {
		p := bend(func(b *bent) {
			b.backward = func(ctx context.Context, r *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
				if backward != nil {
					r = &sdk.BackwardRequest{Context: r.Context, OutputGrads: maps.Clone(r.OutputGrads), LossWeights: maps.Clone(r.LossWeights)}
					for name, g := range r.OutputGrads {
						r.OutputGrads[name] = g.Clone()
					}
					backward(r)
				}
				return b.trained.Backward(ctx, r)
			}
		})()
		p.Manifest.Stages[0].Outputs = append(p.Manifest.Stages[0].Outputs, ports.Boxes.Declare())
		for _, r := range run(t, p, nil, nil).Results {
			if r.Case == "parameters" && ((r.Status == conformance.Pass) != (name == "") || !regexp.MustCompile(name).MatchString(r.Seen)) {
				t.Error(r)
			}
		}
	}
}
