package a3d

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// boxesIn draws boxes, some of them equal, some without extent.
func boxesIn(rng *rand.Rand, count int, width, height float32) []boxops.Box {
	out := make([]boxops.Box, count)
	for i := range out {
		if i > 0 && rng.IntN(8) == 0 {
			out[i] = out[rng.IntN(i)]
			continue
		}
		x, y := rng.Float32()*width, rng.Float32()*height
		out[i] = boxops.Box{x, y, min(x+rng.Float32()*30, width), min(y+rng.Float32()*30, height)}
		if rng.IntN(16) == 0 {
			out[i][2] = x
		}
	}
	return out
}

// The anchors drawn on the device, their labels and targets, are those of package boxops: with
// several lesions, equal ones, none, regions to ignore, either convention and the focal loss.
func TestAnchorsAreDrawnOnTheDeviceAsOnTheCPU(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	targets := []target{{}, {ignore: boxesIn(rng, 3, 96, 64)}}
	for _, count := range []int{1, 2, 9} {
		own := target{ignore: boxesIn(rng, count-1, 96, 64)}
		for _, b := range boxesIn(rng, count, 96, 64) {
			own.lesions = append(own.lesions, lesion{box: b})
		}
		targets = append(targets, own)
	}
	for _, set := range []sdk.Settings{{}, {"compat": "mmdet1"}, {"focal_gamma": "2"}, {"rpn_iou": "0.4", "anchor_sides": "4,8"}} {
		in := openInside(t, nil, set)
		r := in.head.rpn
		for seed := range uint64(3) {
			want := r.sample(seed, 16, 24, targets)
			run(t, func(s *torchstage.Scope, after later) {
				r.onDevice.assigns = true
				got := r.draw(s, seed, 16, 24, targets)
				index, labels, positive, deltas := s.Int64s(got.index), s.Float32s(got.labels), s.Int64s(got.positive), s.Float32s(got.deltas)
				r.onDevice.free()
				after(func() {
					if got.count != len(want.index) || got.positives != len(want.positive) {
						t.Errorf("%v: %d drawn, %d on lesions, want %d and %d", set, got.count, got.positives, len(want.index), len(want.positive))
					}
					for _, d := range []string{cmp.Diff(want.index, index), cmp.Diff(want.labels, labels), cmp.Diff(want.positive, positive)} {
						if d != "" {
							t.Errorf("%v: (-boxops +device)\n%.500s", set, d)
						}
					}
					stagetest.Near(t, "targets", tensor.OfFloat32s(deltas), tensor.OfFloat32s(want.deltas), 1e-6)
				})
			})
		}
	}
}

// Suppression on the device keeps the boxes that package boxops keeps.
func TestSuppressionOnTheDeviceKeepsTheSameBoxes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, count := range []int{1, 63, 64, 65, 700} {
		for _, threshold := range []float32{0, 0.3, 0.7, 1} {
			for _, inclusive := range []bool{false, true} {
				limit := 1 + rng.IntN(count)
				images := [][]boxops.Box{boxesIn(rng, count, 90, 70), boxesIn(rng, count, 40, 300)}
				var want []int64
				for _, boxes := range images {
					kept := boxops.Convention{Inclusive: inclusive}.NMS(boxes, threshold, limit)
					for i := range limit {
						if i < len(kept) {
							want = append(want, int64(kept[i]))
						} else {
							want = append(want, -1)
						}
					}
				}
				run(t, func(s *torchstage.Scope, after later) {
					all := s.Reshape(boxTensor(s, append(images[0], images[1]...), gotch.CPU), 2, int64(count), 4)
					got := s.Int64s(native(s, "nms", []*ts.Tensor{all}, number(float64(threshold)), int64(limit), flag(inclusive)))
					after(func() {
						if d := cmp.Diff(want, got); d != "" {
							t.Errorf("%d boxes, threshold %g, inclusive %v: (-boxops +device)\n%.500s", count, threshold, inclusive, d)
						}
					})
				})
			}
		}
	}
}

// Regions are pooled on the device as on the CPU, forward and backward: within the map, over
// its edges, beyond it and without extent.
func TestRegionsArePooledOnTheDeviceAsOnTheCPU(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	regions := []roi{{box: boxops.Box{-40, -9, 10, 20}}, {box: boxops.Box{90, 60, 140, 90}, image: 1}, {box: boxops.Box{300, 300, 310, 310}},
		{box: boxops.Box{8, 8, 8, 8}, image: 1}, {box: boxops.Box{0, 0, 96, 64}}}
	for _, b := range boxesIn(rng, 20, 96, 64) {
		regions = append(regions, roi{box: b, image: int32(rng.IntN(2))})
	}
	for _, compat := range []string{"none", "mmdet1"} {
		c := headOf(t, sdk.Settings{"compat": compat})
		for _, size := range []int{roiSize, maskPool} {
			run(t, func(s *torchstage.Scope, after later) {
				once := func(f func(s *torchstage.Scope, c headConfig, features *ts.Tensor, rois []roi, size int, device gotch.Device) *ts.Tensor) (out, grad []float32) {
					s.WithGrad(func() {
						features := s.Leaf(s.FromTensor(stagetest.Random(9, 2, 5, 16, 24)))
						y := f(s, c, features, regions, size, gotch.CPU)
						out = s.Float32s(y)
						s.Backprop(s.Sum(s.Mul(y, s.FromTensor(stagetest.Random(10, s.Shape(y)...))), nil, false))
						grad = s.Float32s(s.Grad(features))
					})
					return out, grad
				}
				want, wantGrad := once(pool)
				got, gotGrad := once(alignOnDevice)
				after(func() {
					stagetest.Near(t, fmt.Sprintf("%s, %d", compat, size), tensor.OfFloat32s(got), tensor.OfFloat32s(want), 1e-5)
					stagetest.Near(t, fmt.Sprintf("%s, %d: gradient", compat, size), tensor.OfFloat32s(gotGrad), tensor.OfFloat32s(wantGrad), 1e-5)
				})
			})
		}
	}
}

// A step of the detector whose boxes stay on the device has the losses of one whose boxes are
// the host's, finds the same boxes, says of diverged proposals the same, and waits once more.
func TestADetectorOnTheDeviceIsThatOnTheCPU(t *testing.T) {
	in := openInside(t, nil, sdk.Settings{"focal_gamma": "0"})
	r := in.head.rpn
	const rows, columns = 16, 24
	targets := []target{{lesions: []lesion{{box: boxops.Box{20, 20, 44, 40}}}}, {}}
	run(t, func(s *torchstage.Scope, after later) {
		features := s.FromTensor(stagetest.Random(13, 2, 32, rows, columns))
		logits, deltas := r.forward(s, features)
		step := func(device bool) (values []float64, found []proposed, bad error) {
			r.onDevice.assigns, r.onDevice.proposes = device, device
			out := &torchstage.Outputs{Losses: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
			before := torchstage.Reads()
			r.loss(s, logits, deltas, r.draw(s, 1, rows, columns, targets), out)
			found, err := r.proposals(s, logits, deltas, rows, columns, 500, 40)
			s.Fail(err)
			reads := torchstage.Reads() - before
			_, bad = r.proposals(s, logits, s.MulScalar(deltas, math.NaN()), rows, columns, 500, 40)
			for _, v := range s.Floats(out.Losses["rpn_cls"], out.Losses["rpn_box"]) {
				values = append(values, v...)
			}
			return append(values, float64(reads)), found, bad
		}
		want, wantFound, wantBad := step(false)
		got, gotFound, gotBad := step(true)
		r.onDevice.free()
		after(func() {
			if !errors.Is(wantBad, errDiverged) || !errors.Is(gotBad, errDiverged) {
				t.Errorf("of diverged proposals the CPU says %v, the device %v", wantBad, gotBad)
			}
			for i, v := range []float64{want[0], want[1], want[2] + 1} {
				if d := got[i] - v; d > 1e-6 || d < -1e-6 {
					t.Errorf("value %d (losses, reads) is %g, want %g", i, got[i], v)
				}
			}
			for n := range wantFound {
				if len(gotFound[n].boxes) != len(wantFound[n].boxes) {
					t.Errorf("image %d: %d proposals, want %d", n, len(gotFound[n].boxes), len(wantFound[n].boxes))
					continue
				}
				for i, b := range wantFound[n].boxes {
					stagetest.Near(t, "proposal", tensor.OfFloat32s(gotFound[n].boxes[i][:]), tensor.OfFloat32s(b[:]), 1e-5)
				}
				stagetest.Near(t, "objectness", tensor.OfFloat32s(gotFound[n].objectness), tensor.OfFloat32s(wantFound[n].objectness), 1e-6)
			}
		})
	})
}

// The operators on a GPU give what they give on the CPU: kernels where nvcc was there, else
// libtorch's own.
func TestOperatorsOnAGPUAgreeWithThoseOnTheCPU(t *testing.T) {
	gpu := gotch.CudaBuilder(0)
	if err := torchstage.Run(func(s *torchstage.Scope) error { s.Zeros(gpu, 1); return s.Err() }); err != nil {
		t.Skip("no GPU that this libtorch can use")
	}
	t.Logf("kernels: %v", cudaKernels())
	rng := rand.New(rand.NewPCG(13, 14))
	boxes := boxesIn(rng, 3000, 300, 200)
	type result struct {
		values    []float32
		tolerance float64
	}
	compute := func(s *torchstage.Scope, device gotch.Device) map[string]result {
		out := map[string]result{}
		on := func(x *ts.Tensor) *ts.Tensor { return s.To(x, device) }
		given := boxTensor(s, boxes, device)
		valid := on(s.FromBools(slices.Repeat([]bool{true}, len(boxes))))
		assigned := native(s, "assign", []*ts.Tensor{given, valid, boxTensor(s, boxes[:7], device), boxTensor(s, boxes[7:9], device)},
			number(0.7), number(0.3), number(0.3), 0)
		out["assign"] = result{s.Float32s(assigned), 0}
		if device.Name == gotch.CPU.Name || cudaKernels() {
			out["nms"] = result{s.Float32s(native(s, "nms", []*ts.Tensor{s.Unsqueeze(given, 0)}, number(0.5), 1000, 0)), 0}
		}
		for _, depth := range []int64{1, 3, 7, 9} {
			for _, dtype := range []gotch.DType{gotch.Float, gotch.BFloat16} {
				tolerance := 2e-4
				if dtype == gotch.BFloat16 {
					tolerance = 0.1
				}
				s.WithGrad(func() {
					var in []*ts.Tensor
					for i, x := range append([]*ts.Tensor{s.FromTensor(stagetest.Random(3, 2*depth, 48, 9, 10))}, layerTensors(s, depth, 48, 32, 16)...) {
						if i == 0 {
							x = s.Cast(x, dtype)
						}
						if x = on(x); i == 0 || (i-1)%6 != 2 && (i-1)%6 != 3 {
							x = s.Leaf(x)
						}
						in = append(in, x)
					}
					y := native(s, "dense_block", in, depth, 16, 1, 0)
					name := fmt.Sprintf("dense_block %d %v ", depth, dtype)
					out[name] = result{s.Float32s(y), tolerance}
					s.Backprop(s.Sum(s.Mul(s.Cast(y, gotch.Float), on(s.FromTensor(stagetest.Random(4, s.Shape(y)...)))), nil, false))
					for i, x := range in {
						if g := s.Grad(x); g != nil {
							out[name+fmt.Sprint("gradient ", i)] = result{s.Float32s(g), 5 * tolerance}
						}
					}
				})
			}
		}
		return out
	}
	run(t, func(s *torchstage.Scope, after later) {
		want, got := compute(s, gotch.CPU), compute(s, gpu)
		after(func() {
			for name, g := range got {
				stagetest.Near(t, name, tensor.OfFloat32s(g.values), tensor.OfFloat32s(want[name].values), g.tolerance)
			}
		})
	})
}
