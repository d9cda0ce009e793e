package a3d

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"
	"pgregory.net/rapid"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

func noise(seed uint64, shape ...int64) *tensor.Tensor {
	v := stagetest.Random(seed, shape...)
	values, _ := v.Float32s()
	for i := range values {
		values[i] *= 60
	}
	return v
}

// dense_block refuses such a processor, so it must not be asked.
func TestAProcessorWithoutVectorsTakesTheGeneralForm(t *testing.T) {
	had := vectors
	t.Cleanup(func() { vectors = had })
	vectors = false
	in := openInside(t, sdk.Settings{"slices": "3"}, nil)
	run(t, func(*torchstage.Scope, later) {
		if in.encoder.fused(gotch.Float) {
			t.Error("the fused block is taken without AVX2")
		}
	})
}

// The kernels against the same network op by op: those of this processor, what a GPU's threads
// do channel by channel, and what a device without kernels does.
func TestFusedDenseBlocksEqualTheGeneralForm(t *testing.T) {
	for _, c := range []struct {
		operator   string
		slices     int64
		checkpoint bool
		loops      string
	}{
		{opA3D, 1, false, ""}, {opA3D, 3, true, ""}, {opA3D, 5, false, ""}, {opA3D, 7, true, ""}, {opA3D, 9, false, ""},
		{opAlignShift, 3, false, ""}, {opTSM, 5, false, ""}, {opFlat, 4, false, ""},
		{opA3D, 3, true, "channels"}, {opA3D, 7, false, "channels"}, {opAlignShift, 5, false, "channels"},
		{opA3D, 3, false, "operators"}, {opAlignShift, 5, true, "operators"},
	} {
		t.Run(fmt.Sprintf("%s/%d/%s", c.operator, c.slices, c.loops), func(t *testing.T) {
			t.Setenv("ALIGNEDFUSION_A3D_LOOPS", c.loops)
			in := openInside(t, sdk.Settings{"slices": fmt.Sprint(c.slices), "operator": c.operator, "checkpoint": fmt.Sprint(c.checkpoint)}, nil)
			e := in.encoder
			run(t, func(s *torchstage.Scope, after later) {
				if !e.fused(gotch.Float) {
					t.Error("the kernel does not take this network")
				}
				volume := s.FromTensor(noise(5, 2, 1, c.slices, 64, 96))
				inputs := &torchstage.Inputs{Tensors: map[string]*ts.Tensor{"volume": volume, "spacing": s.FromFloat32s([]float32{5, 1, 1, 3, 1, 1}, 2, 3)}}
				m := e.mixer(s, inputs, "volume")
				defer m.free()
				gate(s, in.encoderAll)
				pass := func(general, train bool) (maps [][]float32, grads map[string][]float32) {
					e.general = general
					loops := c.loops
					if general { // mixes slices by loops, too
						loops = ""
					}
					if err := os.Setenv("ALIGNEDFUSION_A3D_LOOPS", loops); err != nil {
						t.Error(err)
					}
					names := in.encoderAll.Names()
					s.WithGrad(func() {
						var sum *ts.Tensor
						for i, x := range e.backbone.forward(s, volume, m, train) {
							maps = append(maps, s.Float32s(x))
							term := s.Sum(s.Mul(x, s.FromTensor(stagetest.Random(uint64(i), s.Shape(x)...))), nil, false)
							if sum != nil {
								term = s.Add(sum, term)
							}
							sum = term
						}
						if train {
							s.Backprop(sum)
						}
					})
					grads = map[string][]float32{}
					for _, name := range names {
						p := in.encoderAll.Get(name)
						if g := s.Grad(p); g != nil {
							grads[name] = s.Float32s(g)
							s.Act("zero", g.Zero_)
						}
					}
					return maps, grads
				}
				for _, train := range []bool{false, true} {
					want, wantGrads := pass(true, train)
					got, gotGrads := pass(false, train)
					for i := range want {
						near(t, after, fmt.Sprintf("map %d, train %v", i, train), got[i], tensor.OfFloat32s(want[i]), 1e-4)
					}
					if train {
						for name, w := range wantGrads {
							near(t, after, "gradient of "+name, gotGrads[name], tensor.OfFloat32s(w), 5e-4)
						}
					}
				}
			})
		})
	}
}

func TestEvenSliceCountsTakeTheGeneralForm(t *testing.T) {
	d := openDetector(t, 2, sdk.Settings{"slices": "2"}, nil)
	volume, targets := blobs(rand.New(rand.NewPCG(1, 1)), 2, 2, 64)
	if loss := total(d.train(1, volume, targets)); !(loss > 0) {
		t.Errorf("loss %g", loss)
	}
	d.detect(volume)
}

// y[k] = sum_d x[d] p[d,k] (A3D, first index the source slice), checked by its
// definition on shapes that rapid chooses.
func TestSliceMixingIsTheSumOverSourceSlices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slices := rapid.Int64Range(1, 10).Draw(t, "slices")
		volumes := rapid.Int64Range(1, 2).Draw(t, "volumes")
		channels := rapid.SampledFrom([]int64{3, 16, 32}).Draw(t, "channels")
		rows, columns := rapid.Int64Range(1, 9).Draw(t, "rows"), rapid.Int64Range(1, 9).Draw(t, "columns")
		copies := rapid.SampledFrom([]int64{1, volumes}).Draw(t, "copies")
		x := stagetest.Random(1, volumes*slices, channels, rows, columns)
		p := stagetest.Random(2, copies, slices, slices, channels)
		xs, _ := x.Float32s()
		ps, _ := p.Float32s()
		cells := rows * columns
		var got []float32
		err := torchstage.Run(func(s *torchstage.Scope) error {
			got = s.Float32s(native(s, "slice_mix", []*ts.Tensor{s.FromTensor(x), s.FromTensor(p)}, slices))
			return s.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		for n := range volumes {
			m := n % copies
			for k := range slices {
				for c := range channels {
					for i := range cells {
						want := 0.0
						for d := range slices {
							want += float64(xs[((n*slices+d)*channels+c)*cells+i]) * float64(ps[((m*slices+d)*slices+k)*channels+c])
						}
						if g := float64(got[((n*slices+k)*channels+c)*cells+i]); math.Abs(g-want) > 1e-4*(1+math.Abs(want)) {
							t.Fatalf("volume %d slice %d channel %d cell %d is %g, want %g", n, k, c, i, g, want)
						}
					}
				}
			}
		}
	})
}

func TestA3DStartsNearTheIdentity(t *testing.T) {
	values := make([]float32, 7*7*32)
	mixInit(values, []int64{7, 7, 32}, rand.New(rand.NewPCG(1, 2)))
	var low, high float64
	for i, v := range values {
		off := float64(v)
		if d, k := i/(7*32), i/32%7; d == k {
			off--
		}
		low, high = math.Min(low, off), math.Max(high, off)
	}
	if low < -0.1 || high > 0.1 || low > -0.09 || high < 0.09 {
		t.Errorf("noise spans %.3f to %.3f, want the whole of ±0.1", low, high)
	}
}

func TestBFloat16StaysCloseToFloat(t *testing.T) {
	features := func(precision, loops string) []float32 {
		t.Setenv("ALIGNEDFUSION_A3D_LOOPS", loops)
		in := openInside(t, sdk.Settings{"slices": "7", "precision": precision}, nil)
		var out []float32
		run(t, func(s *torchstage.Scope, _ later) {
			m := in.encoder.mixer(s, &torchstage.Inputs{Tensors: map[string]*ts.Tensor{}}, "volume")
			defer m.free()
			volume := s.FromTensor(noise(3, 1, 1, 7, 64, 64))
			out = s.Float32s(in.encoder.pyramid.forward(s, in.encoder.backbone.forward(s, volume, m, true)))
		})
		return out
	}
	want := features("fp32", "")
	for _, loops := range []string{"", "channels", "operators"} {
		var difference, size float64
		for i, got := range features("bf16", loops) {
			difference += math.Pow(float64(got-want[i]), 2)
			size += math.Pow(float64(want[i]), 2)
		}
		relative := math.Sqrt(difference / size)
		t.Logf("relative difference of the features: %.4f", relative)
		if relative == 0 || relative > 0.03 {
			t.Errorf("loops %q: relative difference of the features is %.4f, want above 0 and at most 0.03", loops, relative)
		}
	}
}

func TestBFloat16Learns(t *testing.T) {
	d := openDetector(t, 2, sdk.Settings{"precision": "bf16"}, sdk.Settings{"mask": "true"})
	volume, targets := blobs(rand.New(rand.NewPCG(4, 4)), 2, 3, 64)
	var losses []float64
	for range 25 {
		losses = append(losses, total(d.train(7, volume, targets)))
		d.encoder.Step(0.01)
		d.head.Step(0.01)
	}
	if last := losses[len(losses)-1]; !(last < 0.8*losses[0]) {
		t.Errorf("losses %.3f … %.3f on one batch, want a fall", losses[0], last)
	}
}

// An untrained fusion changes the tokens, its way back is still zero.
func TestUntrainedFusionLeavesDetectionsEqualToTheLastBit(t *testing.T) {
	d := openDetector(t, 2, nil, sdk.Settings{"score_threshold": "0"})
	volume := noise(9, 2, 1, 3, 64, 64)
	left := d.encoder.Eval(map[string]*tensor.Tensor{"volume": volume})
	none := d.head.Eval(map[string]*tensor.Tensor{"tokens.volume": left.Outputs["tokens.volume"]})
	d.encoder.Eval(map[string]*tensor.Tensor{"volume": volume})
	fused := d.head.Eval(map[string]*tensor.Tensor{"tokens.volume": noise(10, left.Outputs["tokens.volume"].Shape...)})
	for name, want := range none.Outputs {
		if want.Len() == 0 || !bytes.Equal(fused.Outputs[name].Data, want.Data) {
			t.Errorf("%s differs (%v and %v)", name, fused.Outputs[name], want)
		}
	}
}

func TestOneSeedGivesEqualRunsBitForBit(t *testing.T) {
	once := func(group string) (losses []float64, weights map[string]*tensor.Tensor) {
		t.Run(group, func(t *testing.T) {
			d := openDetector(t, 2, nil, sdk.Settings{"mask": "true"})
			volume, targets := blobs(rand.New(rand.NewPCG(4, 4)), 2, 3, 64)
			targets["target.recist"] = tensor.OfFloat32s([]float32{10, 20, 30, 20, 20, 12, 20, 28, 5, 5, 15, 15, 5, 15, 15, 5}, 2, 8)
			for step := range 3 {
				losses = append(losses, total(d.train(uint64(step), volume, targets)))
				d.encoder.Step(0.01)
				d.head.Step(0.01)
			}
			weights = d.encoder.Weights()
			for name, w := range d.head.Weights() {
				weights[name] = w
			}
		})
		return losses, weights
	}
	a, wa := once("first")
	b, wb := once("second")
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
	for name, w := range wa {
		if !stagetest.Same(w, wb[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

// small has more parameters than tiny and fewer than the published network (9,532,800 with 3 slices
// in the encoder); it trains.
func TestSmallLiesBetweenTinyAndThePublishedNetwork(t *testing.T) {
	d := openDetector(t, 1, sdk.Settings{"preset": "small"}, nil)
	tiny := openDetector(t, 1, nil, nil).encoder.Response.TrainableCount
	if n := d.encoder.Response.TrainableCount; n < 4*tiny || n > 9_532_800/4 {
		t.Errorf("%d parameters, tiny has %d", n, tiny)
	}
	volume, targets := blobs(rand.New(rand.NewPCG(4, 4)), 1, 3, 64)
	if losses := d.train(1, volume, targets); !(losses["rpn_cls"] > 0) {
		t.Errorf("losses %v", losses)
	}
}

// Running statistics are part of what stays.
func TestAFrozenEncoderStaysAsItIs(t *testing.T) {
	for _, frozen := range []bool{true, false} {
		d := openDetector(t, 2, nil, nil)
		if frozen {
			d.encoder = stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Seed: 1, Threads: 2, Train: true, Frozen: true, Group: t.Name()})
		}
		if none := d.encoder.Response.TrainableCount == 0; none != frozen {
			t.Errorf("frozen %v: %d parameters to train", frozen, d.encoder.Response.TrainableCount)
		}
		before := d.encoder.Weights()
		volume, targets := blobs(rand.New(rand.NewPCG(4, 4)), 2, 3, 64)
		for step := range 2 {
			d.train(uint64(step), volume, targets)
			d.head.Step(0.01)
		}
		changed := 0
		for name, w := range d.encoder.Weights() {
			if !stagetest.Same(w, before[name]) {
				changed++
				if frozen {
					t.Errorf("%s has changed", name)
				}
			}
		}
		if !frozen && changed == 0 {
			t.Error("no running statistic moved in an encoder that is not frozen")
		}
	}
}

func TestImagesWithoutLesionsTrain(t *testing.T) {
	d := openDetector(t, 2, nil, sdk.Settings{"mask": "true"})
	volume := noise(2, 2, 1, 3, 64, 64)
	empty := map[string]*tensor.Tensor{"target.boxes": tensor.OfFloat32s(nil, 0, 4), "target.image": tensor.OfInt32s(nil, 0)}
	losses := d.train(1, volume, empty)
	for name, want := range map[string]bool{"rpn_cls": true, "rcnn_cls": true, "rpn_box": false, "rcnn_box": false, "mask": false} {
		if (losses[name] > 0) != want {
			t.Errorf("%s is %g", name, losses[name])
		}
	}
	// One image with, one without.
	one := map[string]*tensor.Tensor{"target.boxes": tensor.OfFloat32s([]float32{10, 10, 30, 30}, 1, 4), "target.image": tensor.OfInt32s([]int32{1}, 1)}
	if losses := d.train(2, volume, one); !(losses["rpn_box"] > 0) || !(losses["rcnn_box"] > 0) {
		t.Errorf("losses %v", losses)
	}
}

func TestIgnoreRegionsAreNotSampled(t *testing.T) {
	in := openInside(t, nil, sdk.Settings{})
	region := boxops.Box{16, 16, 48, 48}
	sample := in.head.rpn.sample(1, 16, 16, []target{{ignore: []boxops.Box{region}}})
	grid := in.head.rpn.anchors(16, 16)
	for _, i := range sample.index {
		inter, a := (boxops.Convention{}).Intersection(grid[i], region), (boxops.Convention{}).Area(grid[i])
		if inter > 0.5*min(a, 32*32) {
			t.Errorf("anchor %v is drawn although region %v is to be ignored", grid[i], region)
		}
	}
	if len(sample.index) == 0 {
		t.Error("nothing is drawn")
	}
}

// The objectness' focal loss is Lin et al. 2017, eq. 5, its gradient that of their appendix B:
// alpha_t·y·(1-p_t)^gamma·(gamma·p_t·log p_t + p_t - 1), y being 1 or -1. Sure answers and wrong
// ones alike have finite numbers.
func TestFocalLossIsItsEquation(t *testing.T) {
	logits := []float32{-100, -5, -0.5, 0, 0.25, 3, 100, -100, -2, 0, 1, 6, 100}
	labels := []float32{1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0}
	const gamma, alpha = 2.0, 0.25
	run(t, func(s *torchstage.Scope, later func(func())) {
		x := s.Leaf(s.FromFloat32s(logits))
		y := s.FromFloat32s(labels)
		var loss, grad []float32
		s.WithGrad(func() {
			each := focal(s, s.BCEWithLogits(x, y), x, y, gamma, alpha)
			loss = s.Float32s(each)
			sum := s.Sum(each, nil, false)
			s.Act("backward", func() error {
				return ts.BackwardWithGradients([]*ts.Tensor{sum}, []*ts.Tensor{s.Full(gotch.CPU, 1)}, false)
			})
			grad = s.Float32s(s.Grad(x))
		})
		later(func() {
			for i, v := range logits {
				sign := 2*float64(labels[i]) - 1
				p, a := 1/(1+math.Exp(-sign*float64(v))), alpha
				if sign < 0 {
					a = 1 - alpha
				}
				wrong := 1 / (1 + math.Exp(sign*float64(v)))
				logP := -math.Log1p(math.Exp(-sign * float64(v)))
				want, slope := -a*math.Pow(wrong, gamma)*logP, a*sign*math.Pow(wrong, gamma)*(gamma*p*logP-wrong)
				if !(math.Abs(float64(loss[i])-want) <= 1e-5*(1+want)) || !(math.Abs(float64(grad[i])-slope) <= 1e-5*(1+math.Abs(slope))) {
					t.Errorf("logit %g, label %g: loss %g, gradient %g, want %g and %g", v, labels[i], loss[i], grad[i], want, slope)
				}
			}
		})
	})
}

// With the focal loss every anchor that is not ignored counts, begins with an objectness of
// one in a hundred, and images with and without lesions train.
func TestFocalLossTakesAllAnchors(t *testing.T) {
	in := openInside(t, nil, sdk.Settings{"focal_gamma": "2"})
	where := boxops.Box{16, 16, 48, 48}
	sample := in.head.rpn.sample(1, 16, 16, []target{{lesions: []lesion{{box: where}}}})
	grid := in.head.rpn.anchors(16, 16)
	inside := 0
	for _, ok := range (boxops.Convention{}).Inside(grid, 64, 64) {
		if ok {
			inside++
		}
	}
	if n := len(sample.index); n <= 200 || n > inside || len(sample.positive) == 0 {
		t.Errorf("%d anchors (%d on the lesion) of %d inside the image", n, len(sample.positive), inside)
	}
	d := openDetector(t, 1, nil, sdk.Settings{"focal_gamma": "2", "hard_background": "1", "score": "mean"})
	volume := noise(2, 1, 1, 3, 64, 64)
	for _, boxes := range [][]float32{nil, {10, 10, 30, 30}} {
		n := int64(len(boxes) / 4)
		losses := d.train(1, volume, map[string]*tensor.Tensor{"target.boxes": tensor.OfFloat32s(boxes, n, 4), "target.image": tensor.OfInt32s(make([]int32, n), n)})
		// A lesion's anchor gives 0.25·0.99²·log 100, a background's 0.75·0.01²·0.01.
		if l := losses["rpn_cls"]; math.Abs(l-1.13*float64(n)) > 0.05 || l == 0 || losses["rpn_box"] > 0 != (n > 0) {
			t.Errorf("%d lesions: losses %v", n, losses)
		}
	}
}

// headOf is the configuration of tiny's head with settings.
func headOf(t *testing.T, settings sdk.Settings) headConfig {
	t.Helper()
	set, err := sdk.DecodeSettings[headSettings](settings)
	if err != nil {
		t.Fatal(err)
	}
	c, err := set.config(encoderConfig{arch: presets["tiny"]}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Regions about a lesion of 8 pixels, moved: what is a lesion to the box head is set, and the
// backgrounds are drawn or are those of the greatest suspicion.
func TestRegionsOfTheBoxHead(t *testing.T) {
	found := lesion{box: boxops.Box{20, 20, 28, 28}}
	p := proposed{boxes: []boxops.Box{{22, 22, 30, 30}}, objectness: []float32{.5}} // IoU .39
	suspicion := []float32{.9}
	for i := range 200 {
		x := float32(40 + i%20*12)
		p.boxes = append(p.boxes, boxops.Box{x, float32(i), x + 8, float32(i) + 8})
		p.objectness, suspicion = append(p.objectness, .1), append(suspicion, float32(i)/200)
	}
	for _, c := range []struct {
		set       sdk.Settings
		positives int
		hardest   int  // of the backgrounds, how many of the 30 of greatest suspicion at least
		neither   bool // the moved box is left out
	}{
		{nil, 1, 0, false}, {sdk.Settings{"roi_iou": "0.35"}, 2, 0, false},
		{sdk.Settings{"hard_background": "0.5"}, 1, 30, false}, {sdk.Settings{"hard_background": "1", "background_iou": "0.2"}, 1, 30, true},
	} {
		config := headOf(t, c.set)
		given := suspicion
		if config.hard == 0 {
			given = nil
		}
		seen := map[boxops.Box]bool{}
		var positives, hardest int
		for _, r := range config.sampleRoIs(1, []proposed{p}, []target{{lesions: []lesion{found}}}, given) {
			if seen[r.box] {
				t.Errorf("%v: %v is taken twice", c.set, r.box)
			}
			seen[r.box] = true
			if r.match != nil {
				positives++
			} else if r.box[1] >= 170 {
				hardest++
			}
		}
		if given != nil && seen[p.boxes[0]] == c.neither {
			t.Errorf("%v: the moved box is background: %v", c.set, !c.neither)
		}
		if len(seen) != config.rois || positives != c.positives || hardest < c.hardest || c.hardest == 0 && hardest == 30 {
			t.Errorf("%v: %d regions, %d of the lesion, %d of the 30 most suspicious", c.set, len(seen), positives, hardest)
		}
	}
}

// More anchors learn a lesion when less overlap is asked for, and a score may be the
// geometric mean with the objectness.
func TestOverlapOfAnchorsAndMeanScore(t *testing.T) {
	counts := map[string]int{}
	for _, iou := range []string{"0.7", "0.5"} {
		r := &rpn{config: headOf(t, sdk.Settings{"rpn_iou": iou})}
		counts[iou] = len(r.sample(1, 16, 16, []target{{lesions: []lesion{{box: boxops.Box{16, 16, 29, 29}}}}}).positive)
	}
	if counts["0.5"] <= counts["0.7"] || counts["0.7"] == 0 {
		t.Errorf("anchors on the lesion by IoU: %v", counts)
	}
	rois := []roi{{box: boxops.Box{8, 8, 20, 20}, objectness: .25}}
	for score, want := range map[string]float32{"class": .81, "mean": .45} {
		if got := headOf(t, sdk.Settings{"score": score}).results(rois, []float32{.19, .81}, make([]float32, 8), 1, 64, 64)[0][0].score; math.Abs(float64(got-want)) > 1e-6 {
			t.Errorf("%s: %g, want %g", score, got, want)
		}
	}
}

// The gradients that arrive in the backbone through two stages, with its maps cut at
// the stages' border, are those of the one graph.
func TestBackboneIsBackpropagatedOnceAndExactly(t *testing.T) {
	in := openInside(t, nil, sdk.Settings{})
	volume := noise(6, 2, 1, 3, 64, 64)
	boxes := map[string]*tensor.Tensor{"target.boxes": tensor.OfFloat32s([]float32{8, 8, 30, 28, 20, 30, 40, 50}, 2, 4), "target.image": tensor.OfInt32s([]int32{0, 1}, 2)}
	run(t, func(s *torchstage.Scope, after later) {
		gate(s, in.encoderAll)
		// A projection that is not zero, so that the tokens matter.
		w := s.Detach(in.head.fusion)
		s.Act("add", func() error { return w.Add_(s.FromTensor(stagetest.Random(8, s.Shape(w)...))) })
		change := s.FromTensor(stagetest.Random(9, 2, 16, 64)) // what a fusion stage adds
		grads := func(cut bool) map[string][]float32 {
			s.WithGrad(func() {
				inputs := &torchstage.Inputs{Train: true, Seed: 3, Tensors: map[string]*ts.Tensor{"volume": s.FromTensor(volume)}}
				left := in.encoder.Forward(s, inputs)
				if s.Err() != nil {
					return
				}
				right := &torchstage.Inputs{Train: true, Seed: 3, Tensors: map[string]*ts.Tensor{}, Resident: map[string]*ts.Tensor{}}
				for name, b := range boxes {
					right.Tensors[name] = s.FromTensor(b)
				}
				leaf := func(x *ts.Tensor) *ts.Tensor {
					if cut {
						return s.Leaf(x)
					}
					return x
				}
				for _, name := range append(residentMaps[:], ownTokens) {
					right.Resident[name] = leaf(left.Tensors[name])
				}
				tokens := leaf(left.Tensors["tokens.volume"])
				right.Tensors["tokens.volume"] = s.Add(tokens, s.Mul(tokens, change))
				out := in.head.Forward(s, right)
				if s.Err() != nil {
					return
				}
				sum := s.Add(out.Losses["rpn_cls"], out.Losses["rpn_box"])
				s.Backprop(s.Add(sum, s.Add(out.Losses["rcnn_cls"], out.Losses["rcnn_box"])))
				if cut {
					var roots, seeds []*ts.Tensor
					for _, name := range append(residentMaps[:], ownTokens) {
						if g := s.Grad(right.Resident[name]); g != nil {
							roots, seeds = append(roots, left.Tensors[name]), append(seeds, g)
						}
					}
					roots, seeds = append(roots, left.Tensors["tokens.volume"]), append(seeds, s.Grad(tokens))
					s.Act("backward", func() error { return ts.BackwardWithGradients(roots, seeds, false) })
				}
			})
			out := map[string][]float32{}
			for _, name := range in.encoderAll.Names() {
				if g := s.Grad(in.encoderAll.Get(name)); g != nil {
					out[name] = s.Float32s(g)
					s.Act("zero", g.Zero_)
				}
			}
			return out
		}
		want, got := grads(false), grads(true)
		after(func() {
			if len(want) < 50 {
				t.Fatalf("%d gradients", len(want))
			}
		})
		for name, w := range want {
			near(t, after, "gradient of "+name, got[name], tensor.OfFloat32s(w), 1e-5)
		}
	})
}

func wantError(t *testing.T, what string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	if sdk.CodeOf(err) != sdk.InvalidArgument {
		t.Errorf("%s: code %v, want InvalidArgument (%v)", what, sdk.CodeOf(err), err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %q does not say %q", what, err, p)
		}
	}
}

func TestBadVolumesAndSpacings(t *testing.T) {
	d := openDetector(t, 1, sdk.Settings{"slices": "3", "operator": "alignshift"}, nil)
	good := tensor.OfFloat32s([]float32{2, 1, 1}, 1, 3)
	nan := noise(1, 1, 1, 3, 32, 32)
	values, _ := nan.Float32s()
	values[100] = float32(math.NaN())
	for what, c := range map[string]struct {
		volume, spacing *tensor.Tensor
		parts           []string
	}{
		"slices":         {noise(1, 1, 1, 7, 32, 32), good, []string{`"volume"`, "[1 1 7 32 32]", "3 slices", "slices=7"}},
		"channels":       {noise(1, 1, 2, 3, 32, 32), good, []string{`"volume"`, "[N 1 D H W]"}},
		"not padded":     {noise(1, 1, 1, 3, 32, 40), good, []string{"multiples of 32"}},
		"NaN voxel":      {nan, good, []string{`"volume"`, "NaN"}},
		"no spacing":     {noise(1, 1, 1, 3, 32, 32), nil, []string{`"spacing"`, "absent"}},
		"zero spacing":   {noise(1, 1, 1, 3, 32, 32), tensor.OfFloat32s([]float32{0, 1, 1}, 1, 3), []string{`"spacing"`, "0 along z in volume 0"}},
		"NaN spacing":    {noise(1, 1, 1, 3, 32, 32), tensor.OfFloat32s([]float32{2, float32(math.NaN()), 1}, 1, 3), []string{"NaN along y"}},
		"spacing's size": {noise(1, 1, 1, 3, 32, 32), tensor.OfFloat32s([]float32{1, 1, 1, 1, 1, 1}, 2, 3), []string{`"spacing"`, "[2 3]", "[1 3]"}},
	} {
		in := map[string]*tensor.Tensor{"volume": c.volume}
		if c.spacing != nil {
			in["spacing"] = c.spacing
		}
		_, err := d.encoder.TryForward(false, 1, in)
		wantError(t, what, err, c.parts...)
	}
	d.encoder.Eval(map[string]*tensor.Tensor{"volume": noise(1, 1, 1, 3, 32, 96), "spacing": good})
}

func TestRectanglesSmallerThanMostAnchors(t *testing.T) {
	d := openDetector(t, 1, nil, nil)
	d.detect(noise(1, 1, 1, 3, 32, 96))
	losses := d.train(1, noise(1, 1, 1, 3, 32, 96), map[string]*tensor.Tensor{
		"target.boxes": tensor.OfFloat32s([]float32{2, 2, 90, 30}, 1, 4), "target.image": tensor.OfInt32s([]int32{0}, 1)})
	if loss := total(losses); !(loss > 0) || math.IsInf(loss, 0) {
		t.Errorf("losses %v", losses)
	}
}

// The host skips such a step and ends training after the second; a refused batch would
// end it at once.
func TestDivergedNetworkHasALossThatIsNoNumber(t *testing.T) {
	weights := openDetector(t, 1, nil, nil).head.Weights()
	huge := stagetest.Floats(t, weights["rpn_head.rpn_conv.weight"])
	for i := range huge {
		huge[i] = math.MaxFloat32
	}
	weights["rpn_head.rpn_conv.weight"] = tensor.OfFloat32s(huge, weights["rpn_head.rpn_conv.weight"].Shape...)
	d := openDetector(t, 1, nil, sdk.Settings{"weights": stagetest.WriteWeights(t, weights)})
	losses := d.train(1, noise(1, 1, 1, 3, 64, 64), map[string]*tensor.Tensor{
		"target.boxes": tensor.OfFloat32s([]float32{2, 2, 20, 20}, 1, 4), "target.image": tensor.OfInt32s([]int32{0}, 1)})
	if loss := total(losses); !math.IsNaN(loss) {
		t.Errorf("losses %v of a network whose boxes overflow, want one that is no number", losses)
	}
}

func TestBadTargets(t *testing.T) {
	d := openDetector(t, 1, nil, sdk.Settings{"mask": "true"})
	volume := noise(1, 2, 1, 3, 64, 64)
	nan := float32(math.NaN())
	f := func(v ...float32) *tensor.Tensor { return tensor.OfFloat32s(v, int64(len(v)/4), 4) }
	owner := func(v ...int32) *tensor.Tensor { return tensor.OfInt32s(v, int64(len(v))) }
	for what, c := range map[string]struct {
		in    map[string]*tensor.Tensor
		parts []string
	}{
		"none":          {nil, []string{`"target.boxes"`, "absent"}},
		"order":         {map[string]*tensor.Tensor{"target.boxes": f(1, 1, 5, 5, 9, 1, 5, 5), "target.image": owner(0, 1)}, []string{"row 1", "x1 ≤ x2"}},
		"NaN":           {map[string]*tensor.Tensor{"target.boxes": f(1, nan, 5, 5), "target.image": owner(0)}, []string{"row 0", "not finite"}},
		"image":         {map[string]*tensor.Tensor{"target.boxes": f(1, 1, 5, 5), "target.image": owner(2)}, []string{`"target.image"`, "2 in row 0", "0 to 1"}},
		"count":         {map[string]*tensor.Tensor{"target.boxes": f(1, 1, 5, 5), "target.image": owner(0, 1)}, []string{"[2 4]"}},
		"class":         {map[string]*tensor.Tensor{"target.boxes": f(1, 1, 5, 5), "target.image": owner(0), "target.class": tensor.OfInt64s([]int64{1}, 1)}, []string{`"target.class"`, "1 in row 0"}},
		"recist":        {map[string]*tensor.Tensor{"target.boxes": f(1, 1, 5, 5), "target.image": owner(0), "target.recist": tensor.OfFloat32s(make([]float32, 16), 2, 8)}, []string{`"target.recist"`, "[1 8]"}},
		"ignore's rows": {map[string]*tensor.Tensor{"target.boxes": f(1, 1, 5, 5), "target.image": owner(0), "target.ignore": f(1, 1, 5, 5)}, []string{`"target.ignore.image"`}},
	} {
		left := d.encoder.Train(1, map[string]*tensor.Tensor{"volume": volume})
		in := map[string]*tensor.Tensor{"tokens.volume": left.Outputs["tokens.volume"]}
		for name, v := range c.in {
			in[name] = v
		}
		_, err := d.head.TryForward(true, 1, in)
		wantError(t, what, err, c.parts...)
		d.encoder.Release()
	}
	// Boxes of no size, outside the image, and thousands of them: unusual, not wrong.
	var many []float32
	var image []int32
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 3000 {
		x, y := 60*rng.Float32(), 60*rng.Float32()
		many, image = append(many, x, y, x+rng.Float32()*4, y+rng.Float32()*4), append(image, int32(i%2))
	}
	many, image = append(many, 5, 5, 5, 5, -30, -30, -20, -20), append(image, 0, 1)
	losses := d.train(1, volume, map[string]*tensor.Tensor{"target.boxes": f(many...), "target.image": owner(image...)})
	if loss := total(losses); math.IsNaN(loss) || math.IsInf(loss, 0) {
		t.Errorf("losses %v", losses)
	}
}

func TestBadSettingsAndOrder(t *testing.T) {
	plugin := Plugin()
	_, err := stagetest.TryOpen(t, plugin, sdk.OpenRequest{Stage: "head", Group: t.Name()})
	if sdk.CodeOf(err) != sdk.FailedPrecondition || !strings.Contains(err.Error(), "encoder") {
		t.Errorf("a head without its encoder: %v", err)
	}
	_, err = stagetest.TryOpen(t, plugin, sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"window": "2050,-1024"}})
	wantError(t, "window", err, "window", "2050,-1024", "rise")
	d := openDetector(t, 1, nil, nil)
	left := d.encoder.Eval(map[string]*tensor.Tensor{"volume": noise(1, 1, 1, 3, 64, 64)})
	_, err = d.head.TryForward(false, 1, map[string]*tensor.Tensor{"tokens.volume": noise(1, 1, 4, left.Outputs["tokens.volume"].Shape[2])})
	wantError(t, "tokens", err, `"tokens.volume"`, "[1 4 64]", "[1 16 64]")
}

func TestWeightsOfAnotherArchitectureAreNamed(t *testing.T) {
	encoder := func(change func(w map[string]*tensor.Tensor)) (*stagetest.Stage, error) {
		weights := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder"}).Weights()
		change(weights)
		return stagetest.TryOpen(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"weights": stagetest.WriteWeights(t, weights)}})
	}
	_, err := encoder(func(w map[string]*tensor.Tensor) {
		delete(w, "backbone.norm0.bias")
		w["backbone.layer9.weight"] = noise(1, 2)
		w["backbone.conv0.weight"] = noise(1, 8, 1, 7, 7)
	})
	wantError(t, "mixed up", err, "missing (1): backbone.norm0.bias", "unexpected (1): backbone.layer9.weight", "mismatched (1): backbone.conv0.weight is [8 1 7 7], want [32 1 7 7]")
	_, err = encoder(func(w map[string]*tensor.Tensor) {
		v, _ := w["backbone.norm0.bias"].Float32s()
		v[3] = float32(math.NaN())
	})
	wantError(t, "NaN", err, "backbone.norm0.bias", "NaN")
	// Half precision is taken; mixing weights of convolutions that do not mix, batch
	// counters and the head's weights are left alone.
	s, err := encoder(func(w map[string]*tensor.Tensor) {
		w["backbone.norm0.bias"] = &tensor.Tensor{DType: tensor.FP16, Shape: []int64{32}, Data: bytes.Repeat([]byte{0x00, 0x3e}, 32)}
		w["backbone.conv0.adaptive_align_weights"] = noise(1, 3, 3, 1)
		w["backbone.transition1.conv.adaptive_align_weights"] = noise(1, 3, 3, 64)
		w["backbone.norm0.num_batches_tracked"] = tensor.OfInt64s([]int64{5})
		w["rpn_head.rpn_conv.weight"] = noise(1, 32, 32, 3, 3)
		w["bbox_head.fc_cls.bias"] = noise(1, 2)
		w["mask_head.conv_logits.bias"] = noise(1, 2)
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range stagetest.Floats(t, s.Weights()["backbone.norm0.bias"]) {
		if v != 1.5 {
			t.Fatalf("element %d of a half-precision bias is %g, want 1.5", i, v)
		}
	}
}

func TestABackbonesOwnStateDictLoads(t *testing.T) {
	own := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder"}).Weights()
	weights := map[string]*tensor.Tensor{
		"conv0.adaptive_align_weights":            noise(1, 3, 3, 1),
		"transition2.conv.adaptive_align_weights": noise(1, 3, 3, 64),
		"norm0.num_batches_tracked":               tensor.OfInt64s([]int64{5}),
	}
	for name, w := range own {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			weights[rest] = noise(12, w.Shape...)
		}
	}
	got := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"weights": stagetest.WriteWeights(t, weights)}}).Weights()
	for name, w := range got {
		if rest, ok := strings.CutPrefix(name, prefix); ok && !stagetest.Same(w, weights[rest]) {
			t.Errorf("%s was not loaded", name)
		}
	}
}

func TestImageNetWeightsStartTheBackbone(t *testing.T) {
	own := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder"}).Weights()
	weights := map[string]*tensor.Tensor{
		"classifier.weight":           noise(1, 10, 4),
		"features.norm5.weight":       noise(1, 4),
		"features.transition3.x":      noise(1, 4),
		"features.denseblock4.x":      noise(1, 4),
		"features.conv0.weight":       noise(2, 32, 3, 7, 7),
		"features.norm0.weight":       noise(3, 32),
		"features.norm0.bias":         noise(4, 32),
		"features.norm0.running_mean": noise(5, 32),
		"features.norm0.running_var":  noise(6, 32),
	}
	for name, w := range own {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || strings.Contains(name, "adaptive") || strings.HasPrefix(rest, "reductionz") || strings.HasPrefix(rest, "lateral") || strings.HasPrefix(rest, "conv0") || strings.HasPrefix(rest, "norm0") {
			continue
		}
		for _, unit := range []string{"norm1", "norm2", "conv1", "conv2"} { // the older naming
			rest = strings.Replace(rest, "."+unit+".", "."+unit[:4]+"."+unit[4:]+".", 1)
		}
		weights["features."+rest] = noise(11, w.Shape...)
	}
	s := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"weights": stagetest.WriteWeights(t, weights)}})
	got := s.Weights()
	first, rgb := stagetest.Floats(t, got["backbone.conv0.weight"]), stagetest.Floats(t, weights["features.conv0.weight"])
	for o := range 32 {
		for i := range 49 {
			if first[o*49+i] != rgb[(o*3+1)*49+i] {
				t.Fatalf("output %d, tap %d of conv0 is not the green channel's", o, i)
			}
		}
	}
	layer := "backbone.denseblock2.denselayer1.conv2.weight"
	if !stagetest.Same(got[layer], noise(11, own[layer].Shape...)) {
		t.Errorf("%s was not loaded", layer)
	}
	if !stagetest.Same(got["backbone.lateral4.weight"], own["backbone.lateral4.weight"]) {
		t.Error("the pyramid, which ImageNet weights do not have, changed")
	}
	openDetector(t, 1, nil, nil)
	_, err := stagetest.TryOpen(t, Plugin(), sdk.OpenRequest{Stage: "head", Group: t.Name(), Settings: sdk.Settings{"weights": stagetest.WriteWeights(t, weights)}})
	wantError(t, "ImageNet weights for the head", err, "ImageNet")
}

func TestParameterCountsOfThePublishedNetwork(t *testing.T) {
	s := stagetest.Open(t, Plugin(), sdk.OpenRequest{Stage: "encoder", Settings: sdk.Settings{"preset": "densenet121", "slices": "3"}})
	counts := map[string]int64{}
	for name, w := range s.Weights() {
		n := int64(w.Len())
		switch {
		case strings.Contains(name, "running_"), strings.HasPrefix(name, "token_proj"):
		case strings.Contains(name, "adaptive_align"):
			counts["mixing"] += n
		case strings.Contains(name, "reductionz"):
			counts["reduction"] += n
		case strings.Contains(name, "lateral"):
			counts["lateral"] += n
		case strings.Contains(name, "norm"):
			counts["norm"] += n
		default:
			counts["conv"] += n
		}
	}
	want := map[string]int64{"conv": 4209728, "norm": 51392, "mixing": 223776, "reduction": 4128768, "lateral": 919040}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error(diff)
	}
}
