package stagetest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// envStore tells a test that it is the other process, and where the first one waits.
const envStore = "ALIGNEDFUSION_TEST_STORE"

// TwoNormalizeAsOne trains a stage for a step in two processes with part of the cases each, the
// second being this test once more, and fails unless a stage that is given all cases does the
// same: outputs, gradients and running statistics, where batches are normalised by the
// statistics of both. One step, for more would show how ill-conditioned small maps are: cases
// in another order move the tokens of conv3d by 2e-5. Gradients arrive at the output out.
func TwoNormalizeAsOne(t *testing.T, p sdk.Plugin, req sdk.OpenRequest, inputs map[string]*tensor.Tensor, out string) {
	t.Helper()
	const first = 1 // cases of the first process: fewer than the other's
	part := func(x *tensor.Tensor, from, end int64) *tensor.Tensor {
		width := int64(len(Floats(t, x))) / x.Shape[0]
		return tensor.OfFloat32s(Floats(t, x)[from*width:end*width], append([]int64{end - from}, x.Shape[1:]...)...)
	}
	var cases int64
	for _, x := range inputs {
		cases = x.Shape[0]
	}
	member := Open(t, p, req)
	train := func(s *Stage, from, end int64) (last *tensor.Tensor) {
		own := map[string]*tensor.Tensor{}
		for name, x := range inputs {
			own[name] = part(x, from, end)
		}
		last = s.Train(1, own).Outputs[out]
		gradient := Floats(t, part(Random(9, append([]int64{cases}, last.Shape[1:]...)...), from, end))
		for i := range gradient {
			gradient[i] *= float32(end-from) / float32(len(gradient)) // the outputs of each case count 1
			if s == member {
				gradient[i] *= 2 // for it is averaged over two
			}
		}
		s.Backward(map[string]*tensor.Tensor{out: tensor.OfFloat32s(gradient, last.Shape...)}, nil)
		if s == member {
			if err := s.Stage.(sdk.Parallel).Average(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		s.Step(1)
		return last
	}
	join := func(rank int, store string) {
		err := member.Stage.(sdk.Parallel).Join(context.Background(), &sdk.JoinRequest{Rank: rank, Size: 2, Store: store, Timeout: 30 * time.Second, SyncBatchNorm: true})
		if sdk.CodeOf(err) == sdk.Unimplemented {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if store := os.Getenv(envStore); store != "" {
		join(1, store)
		train(member, first, cases)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store := l.Addr().String()
	l.Close()
	var names []string
	for name := range strings.SplitSeq(t.Name(), "/") {
		names = append(names, "^"+regexp.QuoteMeta(name)+"$")
	}
	other := exec.Command(os.Args[0], "-test.run", strings.Join(names, "/"), "-test.timeout", "2m")
	other.Env = append(os.Environ(), fmt.Sprintf("%s=%s", envStore, store))
	var words strings.Builder
	other.Stdout, other.Stderr = &words, &words
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := other.Wait(); err != nil {
			t.Errorf("the other process: %v\n%s", err, &words)
		}
	}()
	alone := Open(t, p, req)
	before := alone.Weights()
	join(0, store)
	got := train(member, 0, first)
	Near(t, out, got, part(train(alone, 0, cases), 0, first), 1e-4)
	weights, want := member.Weights(), alone.Weights()
	moved := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		Near(t, name, weights[name], want[name], 1e-4)
		if !Same(before[name], want[name]) {
			moved++
		}
	}
	if moved < len(want)*3/4 {
		t.Errorf("%d of %d tensors changed in training", moved, len(want))
	}
}
