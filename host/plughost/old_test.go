//go:build linux

package plughost

import (
	"bytes"
	"errors"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// A plugin of protocol 1.0 works with today's host: without shared memory, without
// Shutdown, with the messages of then.
func TestAPluginOfProtocol10StillWorks(t *testing.T) {
	h := newHost(t, Options{})
	p := start(t, h, "old")
	if p.SharedMemory() {
		t.Error("it knows no shared memory")
	}
	i, _, err := p.Open(t.Context(), &sdk.OpenRequest{Stage: "old", Device: "cpu"})
	if err != nil {
		t.Fatal(err)
	}
	x := tensor.OfFloat32s([]float32{1, 2, 3, 4}, 1, 4)
	resp, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": x}})
	if err != nil || !bytes.Equal(resp.Outputs["y"].Data, x.Data) {
		t.Errorf("y is %v, error %v", resp, err)
	}
	err = i.ZeroGrad(t.Context())
	var refused *sdk.Error
	if !errors.As(err, &refused) || refused.Code != sdk.Unimplemented {
		t.Errorf("ZeroGrad of a stage that cannot be trained: %v", err)
	}
	if err := errors.Join(i.Close(), h.Close()); err != nil {
		t.Error(err)
	}
}
