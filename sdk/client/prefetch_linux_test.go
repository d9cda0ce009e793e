package client

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// stub is a plugin that answers nothing and keeps what it is sent.
type stub struct {
	stagev1.StageServiceClient
	shown   []*stagev1.PrefetchRequest
	forward *stagev1.ForwardRequest
	refuses error
}

func (s *stub) Prefetch(_ context.Context, r *stagev1.PrefetchRequest, _ ...grpc.CallOption) (*stagev1.PrefetchResponse, error) {
	s.shown = append(s.shown, r)
	return &stagev1.PrefetchResponse{}, s.refuses
}

func (s *stub) Forward(_ context.Context, r *stagev1.ForwardRequest, _ ...grpc.CallOption) (*stagev1.ForwardResponse, error) {
	s.forward = r
	return &stagev1.ForwardResponse{}, nil
}

func (s *stub) Close(context.Context, *stagev1.CloseRequest, ...grpc.CallOption) (*stagev1.CloseResponse, error) {
	return &stagev1.CloseResponse{}, nil
}

func (s *stub) Open(context.Context, *stagev1.OpenRequest, ...grpc.CallOption) (*stagev1.OpenResponse, error) {
	return &stagev1.OpenResponse{}, nil
}

func stubbed(t *testing.T, device string, capabilities ...string) (*stub, *Instance, *Arena) {
	t.Helper()
	s, a := &stub{}, newArena(t, 64*pageBytes)
	c := &Client{stub: s, options: Options{Plugin: "p", Arena: a},
		manifest: sdk.Manifest{Name: "p", Capabilities: capabilities, Stages: []sdk.StageManifest{{Name: "s"}}}}
	i, _, err := c.Open(t.Context(), &sdk.OpenRequest{Stage: "s", Device: device})
	if err != nil {
		t.Fatal(err)
	}
	i.answered["forward"] = 1
	return s, i, a
}

func large(first byte) *tensor.Tensor {
	x := &tensor.Tensor{DType: tensor.UInt8, Shape: []int64{2 * inBandBytes}, Data: make([]byte, 2*inBandBytes)}
	x.Data[0] = first
	return x
}

// What was shown ahead is not copied again; the Forward says by its ticket which it was. A plugin
// without the capability, on the processor, or that refused, is sent no ticket. All memory comes back.
func TestAShownTensorIsCopiedOnce(t *testing.T) {
	for _, c := range []struct {
		name, device string
		capabilities []string
		refuses      error
		ticket       uint64
		shown        int
	}{
		{"told", "cuda:0", []string{sdk.CapabilityPrefetch}, nil, 1, 1},
		{"older", "cuda:0", nil, nil, 0, 0},
		{"processor", "cpu", []string{sdk.CapabilityPrefetch}, nil, 0, 0},
		{"refused", "cuda:0", []string{sdk.CapabilityPrefetch}, errors.New("no"), 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, i, a := stubbed(t, c.device, c.capabilities...)
			s.refuses = c.refuses
			small, x := tensor.OfFloat32s([]float32{1}, 1), large(7)
			given := map[string]*tensor.Tensor{"small": small, "x": x}
			if err := i.Prefetch(t.Context(), given); (err == nil) != (c.refuses == nil) || len(s.shown) != c.shown {
				t.Fatalf("shown %v, error %v", s.shown, err)
			}
			x.Data[0] = 9
			if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Context: 1, Train: true, Inputs: given}); err != nil {
				t.Fatal(err)
			}
			in := s.forward.GetInputs()
			if s.forward.GetTicket() != c.ticket || len(in) != 2 || in[0].GetRaw() == nil || a.memory[in[1].GetShared().GetOffset()] != 7 {
				t.Errorf("ticket %d, inputs %v; want ticket %d and the tensor as it was shown", s.forward.GetTicket(), in, c.ticket)
			}
			if err := i.Close(t.Context()); err != nil || len(a.free) != 1 {
				t.Errorf("%v; free is %v, want all", err, a.free)
			}
		})
	}
}

// Batches that no Forward takes are given back, when others come and at the end.
func TestShownTensorsThatNobodyTakesAreGivenBack(t *testing.T) {
	s, i, a := stubbed(t, "cuda:0", sdk.CapabilityPrefetch)
	for range 40 { // more than the arena holds
		if err := i.Prefetch(t.Context(), map[string]*tensor.Tensor{"x": large(1)}); err != nil {
			t.Fatal(err)
		}
	}
	if last := s.shown[len(s.shown)-1]; len(s.shown) != 40 || last.GetTicket() != 40 || len(i.tickets) != sdk.PrefetchedTickets {
		t.Errorf("shown %d times, last ticket %d, %d wait", len(s.shown), last.GetTicket(), len(i.tickets))
	}
	if err := i.Close(t.Context()); err != nil || len(a.free) != 1 {
		t.Errorf("%v; free is %v, want all", err, a.free)
	}
}
