package a3d

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// reportCPU adds processor seconds: on a shared machine they say more than the clock.
func reportCPU(b *testing.B) func() {
	used := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	start := used()
	return func() { b.ReportMetric((used()-start)/float64(b.N), "cpu-s/op") }
}

// BenchmarkDenseNet121 is what testdata/reference.py bench times in PyTorch: backbone
// and pyramid at 512x512, forward in eval mode, and forward and backward; on the device that
// BENCH_DEVICE names.
func BenchmarkDenseNet121(b *testing.B) {
	for _, c := range []struct {
		slices    int64
		precision string
	}{{1, "fp32"}, {3, "fp32"}, {7, "fp32"}, {7, "bf16"}} {
		slices := c.slices
		in := openInside(b, sdk.Settings{"preset": "densenet121", "slices": fmt.Sprint(slices), "precision": c.precision}, nil)
		volume := formulaVolume([]int64{1, 1, slices, 512, 512})
		forward := func(s *torchstage.Scope, train bool) *ts.Tensor {
			m := in.encoder.mixer(s, &torchstage.Inputs{Tensors: map[string]*ts.Tensor{}}, "volume")
			defer m.free()
			on := s.To(s.FromTensor(volume), in.encoder.device)
			return s.Sum(in.encoder.pyramid.forward(s, in.encoder.backbone.forward(s, on, m, train)), nil, false)
		}
		b.Run(fmt.Sprintf("eval/%s/slices=%d", c.precision, slices), func(b *testing.B) {
			defer reportCPU(b)()
			for b.Loop() {
				run(b, func(s *torchstage.Scope, _ later) { s.Scalar(forward(s, false)) })
			}
		})
		b.Run(fmt.Sprintf("train/%s/slices=%d", c.precision, slices), func(b *testing.B) {
			defer reportCPU(b)()
			for b.Loop() {
				run(b, func(s *torchstage.Scope, _ later) {
					s.WithGrad(func() { s.Backprop(forward(s, true)) })
					s.Scalar(s.Sum(s.Grad(in.encoder.stem), nil, false))
				})
			}
		})
	}
}

func BenchmarkRoIAlign1000x512(b *testing.B) {
	var regions []roi
	for i := range 1000 {
		x, y, r := float32(i*37%480), float32(i*91%480), float32(4+i%60)
		regions = append(regions, roi{box: boxops.Box{x, y, x + r, y + r}})
	}
	run(b, func(s *torchstage.Scope, _ later) {
		features := s.ChannelsLast(s.Zeros(gotch.CPU, 1, 512, 128, 128))
		for b.Loop() {
			s.Sub(func(s *torchstage.Scope) *ts.Tensor {
				pool(s, headConfig{}, features, regions, roiSize, gotch.CPU)
				return nil
			})
		}
	})
}

// benchThreads is 2, or what OMP_NUM_THREADS says.
func benchThreads() int {
	if n, err := strconv.Atoi(os.Getenv("OMP_NUM_THREADS")); err == nil && n > 0 {
		return n
	}
	return 2
}

// BenchmarkDetector512 is the whole published detector on one 512x512 image with seven
// slices: detection, and a training step without the optimizer.
func BenchmarkDetector512(b *testing.B) {
	for _, precision := range []string{"fp32", "bf16"} {
		d := openDetector(b, benchThreads(), sdk.Settings{"preset": "densenet121", "slices": "7", "precision": precision}, nil)
		volume := formulaVolume([]int64{1, 1, 7, 512, 512})
		targets := map[string]*tensor.Tensor{
			"target.boxes": tensor.OfFloat32s([]float32{200, 180, 240, 230}, 1, 4), "target.image": tensor.OfInt32s([]int32{0}, 1)}
		b.Run("detect/"+precision, func(b *testing.B) {
			for b.Loop() {
				d.detect(volume)
			}
		})
		b.Run("train/"+precision, func(b *testing.B) {
			for b.Loop() {
				d.train(1, volume, targets)
			}
		})
	}
}
