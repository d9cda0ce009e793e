//go:build linux

package plughost

import (
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func benchPlugin(b *testing.B, inBand bool, name string) *Plugin {
	b.Helper()
	h, err := New(Options{InBand: inBand})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = h.Close() })
	p, err := h.Start(b.Context(), filepath.Join(testBinaries, name))
	if err != nil {
		b.Fatal(err)
	}
	return p
}

func BenchmarkEmptyCall(b *testing.B) {
	i := openLinear(b, benchPlugin(b, false, "linear"), nil)
	for b.Loop() {
		if _, err := i.GradNorm(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// 16 MiB in, 16 MiB out; the plugin copies them, which its compute time has.
func BenchmarkTransport16MiB(b *testing.B) {
	for _, inBand := range []bool{false, true} {
		name := "shared-memory"
		if inBand {
			name = "in-band"
		}
		b.Run(name, func(b *testing.B) {
			p := benchPlugin(b, inBand, "faulty")
			i, _, err := p.Open(b.Context(), &sdk.OpenRequest{Stage: "faulty"})
			if err != nil {
				b.Fatal(err)
			}
			x := map[string]*tensor.Tensor{"x": tensor.OfFloat32s(make([]float32, 4<<20), 1024, 4096)}
			b.SetBytes(32 << 20)
			for b.Loop() {
				if _, err := i.Forward(b.Context(), &sdk.ForwardRequest{Inputs: x}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(1000*i.Cost().Transport().Seconds()/float64(b.N), "transport-ms/op")
		})
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		h, err := New(Options{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := h.Start(b.Context(), filepath.Join(testBinaries, "linear")); err != nil {
			b.Fatal(err)
		}
		if err := h.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
