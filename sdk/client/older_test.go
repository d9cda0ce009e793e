package client_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// older is a plugin from before some capabilities: it does not have their calls, and does
// not know their fields.
type older struct {
	stagev1.StageServiceServer
	lacks []string
	calls []string
}

func (o *older) lack(capability string) bool { return slices.Contains(o.lacks, capability) }

func (o *older) Describe(ctx context.Context, r *stagev1.DescribeRequest) (*stagev1.DescribeResponse, error) {
	resp, err := o.StageServiceServer.Describe(ctx, r)
	resp.Manifest.Capabilities = slices.DeleteFunc(resp.Manifest.Capabilities, o.lack)
	return resp, err
}

func (o *older) Forward(ctx context.Context, r *stagev1.ForwardRequest) (*stagev1.ForwardResponse, error) {
	o.calls = append(o.calls, "forward")
	return o.StageServiceServer.Forward(ctx, r)
}

func (o *older) Backward(ctx context.Context, r *stagev1.BackwardRequest) (*stagev1.BackwardResponse, error) {
	o.calls = append(o.calls, "backward")
	r.GradNorm = r.GradNorm && !o.lack(sdk.CapabilityBackwardNorm)
	return o.StageServiceServer.Backward(ctx, r)
}

func (o *older) ForwardBackward(ctx context.Context, r *stagev1.ForwardBackwardRequest) (*stagev1.ForwardBackwardResponse, error) {
	o.calls = append(o.calls, "forward-backward")
	if o.lack(sdk.CapabilityForwardBackward) {
		return nil, status.Error(codes.Unimplemented, "unknown method")
	}
	r.Backward.GradNorm = r.Backward.GradNorm && !o.lack(sdk.CapabilityBackwardNorm)
	return o.StageServiceServer.ForwardBackward(ctx, r)
}

func (o *older) Release(ctx context.Context, r *stagev1.ReleaseRequest) (*stagev1.ReleaseResponse, error) {
	o.calls = append(o.calls, "release")
	return o.StageServiceServer.Release(ctx, r)
}

func (o *older) GradNorm(ctx context.Context, r *stagev1.GradNormRequest) (*stagev1.GradNormResponse, error) {
	o.calls = append(o.calls, "norm")
	return o.StageServiceServer.GradNorm(ctx, r)
}

func (o *older) ZeroGrad(ctx context.Context, r *stagev1.ZeroGradRequest) (*stagev1.ZeroGradResponse, error) {
	o.calls = append(o.calls, "zero")
	return o.StageServiceServer.ZeroGrad(ctx, r)
}

func (o *older) Step(ctx context.Context, r *stagev1.StepRequest) (*stagev1.StepResponse, error) {
	o.calls = append(o.calls, "step")
	r.ZeroGrad = r.ZeroGrad && !o.lack(sdk.CapabilityStepZeroGrad)
	return o.StageServiceServer.Step(ctx, r)
}

func (o *older) StepAll(ctx context.Context, r *stagev1.StepAllRequest) (*stagev1.StepAllResponse, error) {
	o.calls = append(o.calls, "step-all")
	if o.lack(sdk.CapabilityStepAll) {
		return nil, status.Error(codes.Unimplemented, "unknown method")
	}
	for _, one := range r.Steps {
		one.ZeroGrad = one.ZeroGrad && !o.lack(sdk.CapabilityStepZeroGrad)
	}
	return o.StageServiceServer.StepAll(ctx, r)
}

// catcher keeps the service that wire.Register registers.
type catcher struct{ service stagev1.StageServiceServer }

func (c *catcher) RegisterService(_ *grpc.ServiceDesc, service any) {
	c.service = service.(stagev1.StageServiceServer)
}

// openOlder opens two instances of the linear plugin from before some capabilities.
func openOlder(t *testing.T, lacks ...string) (*older, []*client.Instance) {
	t.Helper()
	o := &older{lacks: lacks}
	c, err := plugintest.Connect(t.Context(), "linear", func(r grpc.ServiceRegistrar) func() {
		var caught catcher
		closeAll := wire.Register(&caught, toy.Linear())
		o.StageServiceServer = caught.service
		stagev1.RegisterStageServiceServer(r, o)
		return closeAll
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var out []*client.Instance
	for seed := range uint64(2) {
		i, _, err := c.Shared.Open(t.Context(), &sdk.OpenRequest{Stage: "linear", Train: true, Seed: seed,
			Optimizer: sdk.Optimizer{Values: map[string]float64{"momentum": 0.9}}})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, i)
	}
	return o, out
}

func TestAnOlderPluginIsNotAskedToJoin(t *testing.T) {
	_, instances := openOlder(t, sdk.CapabilityDataParallel)
	err := instances[0].Join(t.Context(), &sdk.JoinRequest{Size: 2, Store: "127.0.0.1:1"})
	if sdk.CodeOf(err) != sdk.Unimplemented || !strings.Contains(err.Error(), "plugin linear") || !strings.Contains(err.Error(), "data-parallel") {
		t.Errorf("%v, want the plugin and what it lacks", err)
	}
}

// One from before batch norm over processes joins others, but not with that.
func TestAnOlderPluginIsNotAskedToNormalizeTogether(t *testing.T) {
	_, instances := openOlder(t, sdk.CapabilitySyncBatchNorm)
	err := instances[0].Join(t.Context(), &sdk.JoinRequest{Size: 2, Store: "127.0.0.1:1", SyncBatchNorm: true})
	if sdk.CodeOf(err) != sdk.Unimplemented || !strings.Contains(err.Error(), "sync-batchnorm") || !strings.Contains(err.Error(), "without train.sync_batchnorm") {
		t.Errorf("%v, want what the plugin lacks and what to do", err)
	}
}

func row(v ...float32) *tensor.Tensor { return tensor.OfFloat32s(v, 1, int64(len(v))) }

func forwardRequest(id uint64, target float32) *sdk.ForwardRequest {
	return &sdk.ForwardRequest{Context: id, Train: true, NeedsGrad: map[string]bool{"x": true},
		Inputs: map[string]*tensor.Tensor{"x": row(1, 2, 3, 4), "desired": row(target, 2, 3)}}
}

// trained is everything that a few training steps answer.
func trained(t *testing.T, instances []*client.Instance) (out []any) {
	t.Helper()
	for id := range uint64(3) {
		var steps []*sdk.StepRequest
		for _, i := range instances {
			resp, back, err := i.ForwardBackward(t.Context(), forwardRequest(id, 1), &sdk.BackwardRequest{Context: id, GradNorm: true,
				LossWeights: map[string]float64{"mse": 0.5}})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, resp, back)
			steps = append(steps, &sdk.StepRequest{Values: map[string]float64{"learning_rate": 0.01}, GradientScale: 0.5, ZeroGrad: true})
		}
		if err := client.StepAll(t.Context(), instances, steps); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestPluginsFromBeforeACapabilityGiveTheSameInMoreCalls(t *testing.T) {
	new, instances := openOlder(t)
	want := trained(t, instances)
	if once := []string{"forward-backward", "forward-backward", "step-all"}; !slices.Equal(new.calls, slices.Concat(once, once, once)) {
		t.Errorf("calls with all capabilities are %q", new.calls)
	}
	for _, lacks := range [][]string{
		{sdk.CapabilityForwardBackward}, {sdk.CapabilityBackwardNorm}, {sdk.CapabilityStepZeroGrad}, {sdk.CapabilityStepAll},
		{sdk.CapabilityForwardBackward, sdk.CapabilityBackwardNorm, sdk.CapabilityStepZeroGrad, sdk.CapabilityStepAll},
	} {
		o, instances := openOlder(t, lacks...)
		if diff := cmp.Diff(want, trained(t, instances)); diff != "" {
			t.Errorf("without %q (-want +got):\n%s", lacks, diff)
		}
		if len(o.calls) <= len(new.calls) {
			t.Errorf("without %q: calls are %q", lacks, o.calls)
		}
	}
}

// What is no number must not reach the gradients.
func TestASettingThatAnOlderPluginRefusesInWordsIsNamed(t *testing.T) {
	for _, test := range []struct{ words, want string }{
		{"setting width=5: want a multiple of 2", "width"},
		{"setting width: 5 given, want a multiple of 2", "width"},
		{"settings width=5 and heads=2: width must be a multiple of heads", "width"},
		{"setting weights: no such file", ""},
		{"setting depth is 5", ""},
		{"the setting width is wrong", ""},
	} {
		p := toy.Linear()
		p.Manifest.Stages[0].Settings = []sdk.Setting{{Name: "width", Type: "int", Default: "1"}, {Name: "weights", Type: "path"}}
		p.Open = func(context.Context, *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "%s", test.words)
		}
		c, err := plugintest.Connect(t.Context(), "linear", func(r grpc.ServiceRegistrar) func() { return wire.Register(r, p) })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _, err = c.Shared.Open(t.Context(), &sdk.OpenRequest{Stage: "linear"})
		var refused *sdk.Error
		if !errors.As(err, &refused) || refused.Setting != test.want {
			t.Errorf("%q: %+v, want setting %q", test.words, err, test.want)
		}
	}
}

func TestALossThatIsNoNumberReleasesTheContext(t *testing.T) {
	for _, lacks := range [][]string{nil, {sdk.CapabilityForwardBackward}} {
		o, instances := openOlder(t, lacks...)
		i := instances[0]
		for id := range uint64(5) { // more than there is room for
			resp, back, err := i.ForwardBackward(t.Context(), forwardRequest(id, float32(math.Inf(1))), &sdk.BackwardRequest{Context: id, LossWeights: map[string]float64{"mse": 1}})
			if err != nil || back != nil || !math.IsInf(resp.Losses["mse"], 1) {
				t.Fatalf("without %q: %+v, %v, error %v; want the loss and no gradients", lacks, resp, back, err)
			}
		}
		if norm, err := i.GradNorm(t.Context()); err != nil || norm != 0 || slices.Contains(o.calls, "backward") {
			t.Errorf("without %q: gradient norm %v, error %v, calls %q", lacks, norm, err, o.calls)
		}
	}
}

func TestAFailingForwardBackwardLeavesNoContext(t *testing.T) {
	_, instances := openOlder(t)
	i := instances[0]
	bad := &sdk.BackwardRequest{Context: 1, OutputGrads: map[string]*tensor.Tensor{"y": row(1)}}
	for range 5 {
		if _, _, err := i.ForwardBackward(t.Context(), forwardRequest(1, 1), bad); sdk.CodeOf(err) != sdk.InvalidArgument {
			t.Fatalf("error is %v, want InvalidArgument", err)
		}
	}
	other := &sdk.BackwardRequest{Context: 2}
	if _, _, err := i.ForwardBackward(t.Context(), forwardRequest(1, 1), other); sdk.CodeOf(err) != sdk.InvalidArgument {
		t.Errorf("two contexts: error is %v, want InvalidArgument", err)
	}
	unknown := &sdk.BackwardRequest{Context: 1, LossWeights: map[string]float64{"what": 1}}
	if _, _, err := i.ForwardBackward(t.Context(), forwardRequest(1, 1), unknown); sdk.CodeOf(err) != sdk.InvalidArgument {
		t.Errorf("an unknown loss: error is %v, want InvalidArgument", err)
	}
}
