//go:build unix

package toy_test

import (
	"bytes"
	"context"
	"math"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
)

// raw serves the protocol without the SDK, as a plugin in another language would: nothing
// guards its standard output, nothing checks its answers.
type raw struct {
	stagev1.UnimplementedStageServiceServer
	noClient
	fault string
}

func (s *raw) Describe(context.Context, *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	return &stagev1.DescribeResponse{Manifest: &stagev1.PluginManifest{
		Name: "raw", Version: "1", ProtocolMajor: 1, Capabilities: []string{"shared-memory"},
		Stages: []*stagev1.StageManifest{{
			Name: "raw", Kind: "head",
			Inputs:   []*stagev1.Port{{Name: "x", Dtype: "FP32", Shape: []string{"N", "4"}, Required: true}},
			Outputs:  []*stagev1.Port{{Name: "y", Dtype: "FP32", Shape: []string{"N", "4"}, Required: true}},
			Settings: []*stagev1.Setting{{Name: "fault", Type: "string"}},
		}},
	}}, nil
}

func (s *raw) Attach(context.Context, *stagev1.AttachRequest) (*stagev1.AttachResponse, error) {
	return &stagev1.AttachResponse{}, nil
}

func (s *raw) Open(_ context.Context, r *stagev1.OpenRequest) (*stagev1.OpenResponse, error) {
	s.fault = r.GetSettings()["fault"]
	return &stagev1.OpenResponse{Instance: 1}, nil
}

func (s *raw) Forward(_ context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
	y := &stagev1.Tensor{Name: "y", Dtype: "FP32", Shape: []int64{1, 4}, Payload: &stagev1.Tensor_Raw{Raw: make([]byte, 16)}}
	switch s.fault {
	case "stdout":
		if _, err := unix.Write(1, bytes.Repeat([]byte("x"), 1<<20)); err != nil {
			return nil, err
		}
	case "outside":
		y.Payload = &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: 1 << 20, Size: 16}}
	case "beyond":
		y.Payload = &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: math.MaxUint64 - 63, Size: 128}}
	case "short":
		y.Payload = &stagev1.Tensor_Raw{Raw: make([]byte, 3)}
	case "negative":
		y.Shape = []int64{-1, 4}
	case "overflow":
		y.Shape = []int64{math.MaxInt64, 4}
	case "dtype":
		y.Dtype = "FP12"
	case "rank":
		y.Shape = []int64{4}
	case "batch":
		y.Shape, y.Payload = []int64{2, 4}, &stagev1.Tensor_Raw{Raw: make([]byte, 32)}
	case "name":
		y.Name = "z"
	case "missing":
		return &stagev1.ForwardResponse{}, nil
	case "twice":
		return &stagev1.ForwardResponse{Outputs: []*stagev1.Tensor{y, y}}, nil
	case "huge":
		y.Shape, y.Payload = []int64{1 << 24, 4}, &stagev1.Tensor_Raw{Raw: make([]byte, 1<<28)}
	}
	return &stagev1.ForwardResponse{Outputs: []*stagev1.Tensor{y}}, nil
}

func (s *raw) Close(context.Context, *stagev1.CloseRequest) (*stagev1.CloseResponse, error) {
	return &stagev1.CloseResponse{}, nil
}

func (s *raw) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	stagev1.RegisterStageServiceServer(server, s)
	return nil
}
