package a3d

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// formula gives a weight the value that reference.py gives it.
func formula(t testing.TB, name string, shape []int64) *tensor.Tensor {
	t.Helper()
	out := stagetest.Formula(name, shape)
	v, err := out.Float32s()
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case strings.HasSuffix(name, "running_var"):
		for i := range v {
			v[i] = 0.1 + 0.6*v[i] // 0.7 to 1.3
		}
	case strings.HasSuffix(name, "adaptive_align_weights"):
		for d := range shape[0] {
			for c := range shape[2] {
				v[(d*shape[1]+d)*shape[2]+c]++
			}
		}
	case strings.HasSuffix(name, "norm0.weight"):
		for i := range v {
			v[i]++
		}
	}
	return out
}

// formulaWeights writes the weights that a fixture's metadata lists.
func formulaWeights(t testing.TB, f *stagetest.Fixture) string {
	t.Helper()
	var shapes map[string][]int64
	if err := json.Unmarshal([]byte(f.Metadata["shapes"]), &shapes); err != nil {
		t.Fatal(err)
	}
	weights := map[string]*tensor.Tensor{}
	for name, shape := range shapes {
		weights[name] = formula(t, name, shape)
	}
	return stagetest.WriteWeights(t, weights)
}

// sampled takes at most count values, evenly spaced, as reference.py does.
func sampled(v []float32, count int) []float32 {
	out := make([]float32, min(count, len(v)))
	for i := range out {
		out[i] = v[i*len(v)/len(out)]
	}
	return out
}

func formulaVolume(shape []int64) *tensor.Tensor {
	v := stagetest.Formula("in.volume", shape)
	values, _ := v.Float32s()
	for i := range values {
		values[i] = values[i]*255 - 50
	}
	return v
}

// inside opens an encoder and, if wanted, a head, and hands out their modules.
type inside struct {
	encoder             *encoder
	head                *head
	encoderAll, headAll *torchstage.Params
	stage               *stagetest.Stage
}

func openInside(t testing.TB, encoderSettings, headSettings sdk.Settings) *inside {
	t.Helper()
	in := &inside{}
	plugin := Plugin()
	plugin.Open = torchstage.Open(map[string]torchstage.Builder{
		"encoder": func(b *torchstage.Build) (torchstage.Module, error) {
			m, err := buildEncoder(b)
			in.encoder, _ = m.(*encoder)
			in.encoderAll = b.Params
			return m, err
		},
		"head": func(b *torchstage.Build) (torchstage.Module, error) {
			m, err := buildHead(b)
			in.head, _ = m.(*head)
			in.headAll = b.Params
			return m, err
		},
	})
	request := sdk.OpenRequest{Stage: "encoder", Settings: encoderSettings, Seed: 1, Threads: benchThreads(), Group: t.Name()}
	if _, bench := t.(*testing.B); bench {
		request.Device = os.Getenv("BENCH_DEVICE")
	}
	in.stage = stagetest.Open(t, plugin, request)
	if headSettings != nil {
		stagetest.Open(t, plugin, sdk.OpenRequest{Stage: "head", Settings: headSettings, Seed: 1, Threads: benchThreads(), Group: t.Name()})
	}
	return in
}

// run calls f on the torch thread, then the checks it leaves, on the test's own
// goroutine: a test that ends itself on the torch thread would stop it for ever.
func run(t testing.TB, f func(s *torchstage.Scope, later func(check func()))) {
	t.Helper()
	var checks []func()
	err := torchstage.Run(func(s *torchstage.Scope) error {
		f(s, func(check func()) { checks = append(checks, check) })
		return s.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range checks {
		check()
	}
}

type later = func(check func())

// near compares values with a fixture's, later.
func near(t *testing.T, after later, name string, got []float32, want *tensor.Tensor, tolerance float64) {
	after(func() {
		t.Helper()
		if want == nil {
			t.Fatalf("%s: the fixture has no such value", name)
		}
		stagetest.Near(t, name, tensor.OfFloat32s(got), tensor.OfFloat32s(stagetest.Floats(t, want)), tolerance)
	})
}

// compareGradients checks every grad.<name> of the fixture.
func compareGradients(t *testing.T, s *torchstage.Scope, after later, f *stagetest.Fixture, params *torchstage.Params) {
	t.Helper()
	checked := 0
	for name, want := range f.Group("grad.") {
		p := params.Get(name)
		if p == nil {
			continue
		}
		checked++
		g := s.Grad(p)
		if g == nil {
			t.Errorf("%s has no gradient", name)
			continue
		}
		near(t, after, "gradient of "+name, sampled(s.Float32s(g), want.Len()), want, 2e-4)
	}
	if checked == 0 {
		t.Error("no gradient was compared")
	}
}

// gate sets the biases of all batch normalisations to +10 and -10 in turn, as
// reference.py does, so that no ReLU is near its kink.
func gate(s *torchstage.Scope, p *torchstage.Params) {
	for _, name := range p.Names() {
		if !strings.Contains(name, "norm") || !strings.HasSuffix(name, "bias") {
			continue
		}
		t := p.Get(name)
		values := make([]float32, s.Dim(t, 0))
		for i := range values {
			values[i] = float32(10 - 20*(i%2))
		}
		detached := s.Detach(t)
		s.Act("zero", detached.Zero_)
		s.Act("add", func() error { return detached.Add_(s.FromFloat32s(values)) })
	}
}

func TestBackboneAgreesWithPyTorch(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "backbone_*.safetensors"))
	if err != nil || len(files) != 8 {
		t.Fatalf("%d fixtures found (%v), want 8", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".safetensors"), func(t *testing.T) {
			f := stagetest.Read(t, file)
			settings := f.Settings()
			if settings["operator"] == opA3D && settings["slices"] == "3" { // rows stand for maps in 1x1 convolutions
				t.Setenv("OMP_NUM_THREADS", "1")
			}
			settings["weights"] = formulaWeights(t, f)
			in := openInside(t, settings, nil)
			var shape []int64
			if err := json.Unmarshal([]byte(f.Metadata["volume"]), &shape); err != nil {
				t.Fatal(err)
			}
			volume := formulaVolume(shape)
			spacing := tensor.OfFloat32s([]float32{5, 1, 1, 1, 1, 1}, 2, 3)

			resp, err := in.stage.Forward(context.Background(), &sdk.ForwardRequest{
				Context: 1, Inputs: map[string]*tensor.Tensor{"volume": volume, "spacing": spacing}, Wanted: map[string]bool{"features": true},
				NewOutput: func(_ string, d tensor.DType, shape ...int64) (*tensor.Tensor, error) { return tensor.New(d, shape...) },
			})
			if err != nil {
				t.Fatal(err)
			}
			stagetest.Near(t, "features in eval mode", tensor.OfFloat32s(sampled(stagetest.Floats(t, resp.Outputs["features"]), 4096)), f.Tensors["eval.features"], 1e-4)

			run(t, func(s *torchstage.Scope, after later) {
				inputs := &torchstage.Inputs{Tensors: map[string]*ts.Tensor{"volume": s.FromTensor(volume), "spacing": s.FromTensor(spacing)}}
				m := in.encoder.mixer(s, inputs, "volume")
				defer m.free()
				for i, x := range in.encoder.backbone.forward(s, inputs.Tensors["volume"], m, true) {
					name := fmt.Sprintf("train.map%d", strides[i])
					near(t, after, name, sampled(s.Float32s(x), 2048), f.Tensors[name], 1e-4)
				}
				for name, want := range f.Group("buffer.") {
					near(t, after, name, sampled(s.Float32s(in.encoderAll.Get(name)), 64), want, 1e-4)
				}
				gate(s, in.encoderAll)
				s.WithGrad(func() {
					var objective *ts.Tensor
					for i, x := range in.encoder.backbone.forward(s, inputs.Tensors["volume"], m, true) {
						weigh := s.FromTensor(stagetest.Formula(fmt.Sprintf("weigh.%d", i), s.Shape(x)))
						term := s.Sum(s.Mul(x, weigh), nil, false)
						if objective != nil {
							term = s.Add(objective, term)
						}
						objective = term
					}
					s.Backprop(objective)
				})
				compareGradients(t, s, after, f, in.encoderAll)
			})
		})
	}
}

func rois(v []float32) []roi {
	var out []roi
	for i := 0; i < len(v); i += 5 {
		out = append(out, roi{box: boxops.Box(v[i+1:]), image: int32(v[i])})
	}
	return out
}

func TestHeadAgreesWithPyTorch(t *testing.T) {
	for _, compat := range []string{"none", "mmdet1"} {
		t.Run(compat, func(t *testing.T) {
			f := stagetest.Read(t, filepath.Join("testdata", "head_"+compat+".safetensors"))
			mask := compat == "none"
			in := openInside(t, sdk.Settings{}, sdk.Settings{"compat": compat, "mask": fmt.Sprint(mask), "weights": formulaWeights(t, f)})
			h := in.head
			regions := rois(stagetest.Floats(t, f.Tensors["rois"]))
			const rows, columns = 16, 20
			lesions := []lesion{{box: boxops.Box{10, 12, 30, 28}}, {box: boxops.Box{40, 20, 52, 36}}}
			run(t, func(s *torchstage.Scope, after later) {
				s.WithGrad(func() {
					given := s.Leaf(s.FromTensor(f.Tensors["features"]))
					features := s.ChannelsLast(given)
					logits, deltas := h.rpn.forward(s, features)
					near(t, after, "objectness", sampled(s.Float32s(logits), 2048), f.Tensors["logits"], 1e-4)
					near(t, after, "RPN deltas", sampled(s.Float32s(deltas), 2048), f.Tensors["deltas"], 1e-4)
					proposals, err := h.rpn.proposals(s, logits, deltas, rows, columns, 400, 60)
					s.Fail(err)
					for n, p := range proposals {
						var got []float32
						for _, b := range p.boxes {
							got = append(got, b[:]...)
						}
						near(t, after, "proposals", got, f.Tensors[fmt.Sprintf("proposals.%d", n)], 1e-4)
					}

					// The anchors and targets that reference.py chose.
					var chosen anchorSample
					grid, coder := h.rpn.anchors(rows, columns), h.config.rpnCoder()
					for i, at := 0, 37; at < 2*len(grid); i, at = i+1, at+331 {
						chosen.index, chosen.labels = append(chosen.index, int64(at)), append(chosen.labels, 0)
						if i%3 == 0 {
							chosen.labels[i] = 1
							chosen.positive = append(chosen.positive, int64(at))
							d := coder.Encode(grid[at%len(grid)], lesions[at%2].box)
							chosen.deltas = append(chosen.deltas, d[:]...)
						}
					}
					out := &torchstage.Outputs{Losses: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
					h.rpn.loss(s, logits, deltas, chosen.upload(s, gotch.CPU), out)

					for i := range 4 {
						regions[i].match = &lesions[i%2]
					}
					scores, refine := h.boxHead.forward(s, features, regions)
					near(t, after, "scores", s.Float32s(scores), f.Tensors["scores"], 1e-4)
					near(t, after, "refinement", s.Float32s(refine), f.Tensors["refine"], 1e-4)
					var decoded []float32
					for i, r := range regions {
						b := h.config.boxCoder().Decode(r.box, [4]float32(s.Float32s(refine)[8*i+4:]))
						decoded = append(decoded, b[:]...)
					}
					near(t, after, "decoded boxes", decoded, f.Tensors["decoded"], 1e-4)
					h.boxHead.loss(s, features, regions, out)
					if mask {
						picked := s.Reshape(s.Select(h.mask.forward(s, features, regions[:4]), 1, 1), 4, maskSize*maskSize)
						out.Losses["mask"] = softDice(s, picked, s.FromTensor(f.Tensors["mask.target"]))
					}
					var sum *ts.Tensor
					for name, loss := range out.Losses {
						near(t, after, name, []float32{float32(s.Scalar(loss))}, f.Tensors[name], 1e-5)
						if sum == nil {
							sum = loss
						} else {
							sum = s.Add(sum, loss)
						}
					}
					s.Backprop(sum)
					near(t, after, "gradient of the features", sampled(s.Float32s(s.Grad(given)), 2048), f.Tensors["grad.features"], 1e-4)
				})
				compareGradients(t, s, after, f, in.headAll)
			})
		})
	}
}
