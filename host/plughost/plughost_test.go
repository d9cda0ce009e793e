//go:build linux

package plughost

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

var testBinaries string

func TestMain(m *testing.M) {
	if dir := os.Getenv(envHostProcess); dir != "" {
		runHostProcess(dir)
	}
	if testBinaries = os.Getenv(asNobody); testBinaries != "" {
		os.Exit(m.Run())
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "plughost-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		testBinaries = dir
		if err := toy.Build(dir, "linear", "faulty", "raw", "old"); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

func newHost(t *testing.T, o Options) *Host {
	t.Helper()
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil && !t.Failed() {
			t.Logf("close: %v", err)
		}
	})
	return h
}

func start(t *testing.T, h *Host, name string) *Plugin {
	t.Helper()
	p, err := h.Start(t.Context(), filepath.Join(testBinaries, name))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func openLinear(t testing.TB, p *Plugin, settings map[string]string) *Instance {
	t.Helper()
	i, _, err := p.Open(t.Context(), &sdk.OpenRequest{Stage: "linear", Train: true, Device: "cpu", Threads: 1, Settings: settings,
		Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9}}})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func row(n int64) map[string]*tensor.Tensor {
	return map[string]*tensor.Tensor{"x": tensor.OfFloat32s(make([]float32, n*4), n, 4)}
}

func TestStartCallAndStop(t *testing.T) {
	for _, inBand := range []bool{false, true} {
		h := newHost(t, Options{InBand: inBand})
		p := start(t, h, "linear")
		if p.SharedMemory() == inBand {
			t.Errorf("shared memory %v with in-band %v", p.SharedMemory(), inBand)
		}
		if m := p.Manifest(); m.Name != "linear" || len(m.Stages) != 1 {
			t.Errorf("manifest is %+v", m)
		}
		i := openLinear(t, p, nil)
		resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row(5000)})
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Outputs["y"].String(); got != "FP32 [5000 3]" {
			t.Errorf("y is %s", got)
		}
		cost := i.Cost()
		if cost.Calls != 1 || cost.Wall <= 0 || cost.Compute <= 0 || cost.Wall < cost.Compute || cost.PeakRSSBytes < 1<<20 {
			t.Errorf("cost is %+v", cost)
		}
		if again, err := h.Start(t.Context(), filepath.Join(testBinaries, "linear")); err != nil || again != p {
			t.Errorf("a second start made another process (error %v)", err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if p.alive() {
			t.Error("the plugin is alive after Close")
		}
		if _, err := os.Stat(h.dir); err == nil {
			t.Error("the folder for sockets is still there")
		}
		if _, err := h.Start(context.Background(), "linear"); err == nil {
			t.Error("a closed host started a plugin")
		}
	}
}
