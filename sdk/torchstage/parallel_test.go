package torchstage

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// branches is y = w x, with a bias that only some calls use, one that none does, and a
// running statistic of its inputs.
type branches struct{ w, some, none, running *ts.Tensor }

func buildBranches(b *Build) (Module, error) {
	draw := Normal(0, 1) // by the seed: members begin with different weights
	return &branches{b.Params.Parameter("w", []int64{1, 3}, draw), b.Params.Parameter("some", []int64{1}, draw),
		b.Params.Parameter("none", []int64{1}, draw), b.Params.Buffer("running_sum", []int64{1}, Zeros())}, nil
}

func (m *branches) Forward(s *Scope, in *Inputs) *Outputs {
	x := in.Tensors["x"]
	y := s.Linear(x, m.w, nil)
	if in.Wanted["some"] {
		y = s.Add(y, m.some)
	}
	d := s.Sub2(y, in.Tensors["target"])
	sum := s.Detach(s.Reshape(s.Sum(x, nil, false), 1))
	s.NoGrad(func() { s.Act("add_", func() error { return m.running.Add_(sum) }) })
	return &Outputs{Losses: map[string]*ts.Tensor{"mse": s.Mean(s.Mul(d, d), []int64{0, 1}, false)}}
}

// members opens stages that are a group, as processes would.
func members(t *testing.T, n int, build Builder) []*stage {
	t.Helper()
	if _, err := groupFunctions(); err != nil {
		t.Skip(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	store := l.Addr().String()
	l.Close()
	var group sync.WaitGroup
	out := make([]*stage, n)
	for i := range out {
		st, _, err := Open(map[string]Builder{"b": build})(context.Background(), &sdk.OpenRequest{Stage: "b", Threads: 1, Seed: uint64(i),
			Optimizer: sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0, "weight_decay": 0.1}}})
		if err != nil {
			t.Fatal(err)
		}
		out[i] = st.(*stage)
		group.Go(func() {
			if err := out[i].Join(context.Background(), &sdk.JoinRequest{Rank: i, Size: n, Store: store, Timeout: 20 * time.Second}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	t.Cleanup(func() {
		for _, st := range out {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return out
}

// Two members with a batch each take the step that one takes with both: gradients are
// averaged, one that a member lacks counts as zero, a parameter that nobody uses stays.
func TestMembersStepAsOneStageWithAllCases(t *testing.T) {
	all := members(t, 2, buildBranches)
	for name, values := range params(t, all[0]) {
		if !slices.Equal(values, params(t, all[1])[name]) {
			t.Fatalf("%s is %v, the other's %v: joining gives all members the weights of rank 0", name, values, params(t, all[1])[name])
		}
	}
	alone := openStage(t, all[0].optimizer, map[string]Builder{"b": buildBranches}, "b")
	for step := range 3 {
		learn := func(st *stage, first, end int64, some bool) {
			t.Helper()
			rows := func(x *tensor.Tensor, width int64) *tensor.Tensor {
				return tensor.OfFloat32s(floats(t, x)[first*width:end*width], end-first, width)
			}
			_, err := st.Forward(context.Background(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput, Wanted: map[string]bool{"some": some},
				Inputs: map[string]*tensor.Tensor{"x": rows(inputX, 3), "target": rows(inputY, 1)}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Backward(context.Background(), &sdk.BackwardRequest{Context: 1, NewOutput: newOutput, AverageNext: true,
				LossWeights: map[string]float64{"mse": 1}}); err != nil {
				t.Fatal(err)
			}
		}
		learn(all[0], 0, 2, step > 0)
		learn(all[1], 2, 4, step > 0)
		learn(alone, 0, 4, step > 0)
		for _, st := range all {
			if err := st.Average(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		var norms []float64
		for _, st := range append(all, alone) {
			norm, err := st.GradNorm(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			norms = append(norms, norm)
			if err := st.Step(context.Background(), &sdk.StepRequest{GradientScale: 1, Values: map[string]float64{"learning_rate": 0.1}}); err != nil {
				t.Fatal(err)
			}
			if err := st.ZeroGrad(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		near(t, "norms", []float32{float32(norms[0]), float32(norms[1])}, []float64{norms[2], norms[2]}, 1e-6)
	}
	a, b, one := params(t, all[0]), params(t, all[1]), params(t, alone)
	for name := range one {
		if !slices.Equal(a[name], b[name]) {
			t.Errorf("%s differs between the members: %v and %v", name, a[name], b[name])
		}
		want := make([]float64, len(one[name]))
		for i, v := range one[name] {
			want[i] = float64(v)
		}
		if name == "running_sum" { // of half the cases each: their mean
			want[0] /= 2
		}
		near(t, name, a[name], want, 1e-6)
	}
}

func TestAGradientThatOneMemberLacksCountsAsZero(t *testing.T) {
	all := members(t, 2, buildBranches)
	before := params(t, all[0])["some"][0]
	for i, st := range all {
		_, err := st.Forward(context.Background(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput, Wanted: map[string]bool{"some": i == 0},
			Inputs: map[string]*tensor.Tensor{"x": inputX, "target": inputY}})
		if err != nil {
			t.Fatal(err)
		}
		backward(t, st, 1, nil, map[string]float64{"mse": 1})
		if err := st.Average(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	for _, st := range all {
		if err := st.Step(context.Background(), &sdk.StepRequest{GradientScale: 1, Values: map[string]float64{"learning_rate": 0.1}}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := params(t, all[0])["some"][0], params(t, all[1])["some"][0]
	if a != b || a == before {
		t.Errorf("the bias went from %g to %g and %g, want both the same and moved", before, a, b)
	}
}

// The average of a bucket begins when the last of its gradients has come, before Average is
// asked for, in the last batch of a step alone, and changes no bit of the step.
func TestGradientsAreAveragedWhileBackwardRuns(t *testing.T) {
	var want map[string][]float32
	for _, soon := range []bool{false, true} {
		all := members(t, 2, buildNetwork)
		for step := range 2 {
			for i, st := range all {
				if step == 0 && st.peers.inside {
					t.Fatal("on the CPU averages wait for the end of Backward")
				}
				st.peers.inside = true
				for batch := range 2 {
					if _, err := st.Forward(context.Background(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput,
						Inputs: map[string]*tensor.Tensor{"x": inputX, "target": inputY}}); err != nil {
						t.Fatal(err)
					}
					if _, err := st.Backward(context.Background(), &sdk.BackwardRequest{Context: 1, NewOutput: newOutput, AverageNext: soon && batch == 1,
						LossWeights: map[string]float64{"mse": float64(1 + i + batch)}}); err != nil {
						t.Fatal(err)
					}
				}
				if err := st.Average(context.Background()); err != nil {
					t.Fatal(err)
				}
				if begun := map[bool]int{true: step + 1}[soon]; st.peers.early != begun {
					t.Errorf("member %d, step %d: %d buckets were under way before, want %d", i, step, st.peers.early, begun)
				}
			}
			for _, st := range all {
				if err := st.Step(context.Background(), &sdk.StepRequest{GradientScale: 1, Values: map[string]float64{"learning_rate": 0.1}}); err != nil {
					t.Fatal(err)
				}
				if err := st.ZeroGrad(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, st := range all {
			if got := params(t, st); want == nil {
				want = got
			} else if !reflect.DeepEqual(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		}
	}
}

// doubled is a network of convolutions and batch norms in double precision.
type doubled struct{ weights, gains, shifts, means, variances []*ts.Tensor }

func buildDoubled(b *Build) (Module, error) {
	m := &doubled{}
	double := func(t *ts.Tensor) *ts.Tensor {
		e := b.Params.list[len(b.Params.list)-1]
		if e.value = b.S.Cast(t, gotch.Double); !e.buffer {
			e.value = b.S.Leaf(e.value)
			for _, name := range []string{"exp_avg", "exp_avg_sq"} {
				b.Params.setState(b.S, e, name, b.S.MulScalar(b.S.Detach(e.value), 0))
			}
		}
		b.S.Own(t)
		b.S.Keep(e.value)
		return e.value
	}
	for i, c := range [][2]int64{{1, 8}, {8, 8}, {8, 8}} {
		name := func(s string) string { return fmt.Sprintf("%d.%s", i, s) }
		m.weights = append(m.weights, double(b.Params.Parameter(name("weight"), []int64{c[1], c[0], 3, 3}, Normal(0, 0.3))))
		m.gains = append(m.gains, double(b.Params.Parameter(name("gain"), c[1:], Ones())))
		m.shifts = append(m.shifts, double(b.Params.Parameter(name("shift"), c[1:], Zeros())))
		m.means = append(m.means, double(b.Params.Buffer(name("running_mean"), c[1:], Zeros())))
		m.variances = append(m.variances, double(b.Params.Buffer(name("running_var"), c[1:], Ones())))
	}
	return m, b.S.Err()
}

func (m *doubled) Forward(s *Scope, in *Inputs) *Outputs {
	x := s.Cast(in.Tensors["x"], gotch.Double)
	for i, w := range m.weights {
		x = s.Relu(s.BatchNorm(s.Conv2d(x, w, nil, 1, 1, 1), m.gains[i], m.shifts[i], m.means[i], m.variances[i], in.Train, 0.1, 1e-5))
	}
	d := s.Sub2(s.Mean(x, []int64{1, 2, 3}, false), s.Cast(in.Tensors["target"], gotch.Double))
	return &Outputs{Losses: map[string]*ts.Tensor{"mse": s.Mean(s.Mul(d, d), []int64{0}, false)}}
}

// Two members with synchronised batch norms that take 20 steps are one with all cases: in double
// precision to 1e-9, so that what they differ by in single is rounding, which AdamW enlarges.
func TestTwentySynchronisedStepsInDoublePrecisionAreThoseOfOne(t *testing.T) {
	if _, err := groupFunctions(); err != nil {
		t.Skip(err)
	}
	const cases, side = 8, 8
	values := make([]float32, cases*side*side)
	for i, r := 0, NewRand(5, "cases"); i < len(values); i++ {
		values[i] = float32(r.NormFloat64())
	}
	open := func(optimizer string) *stage {
		st, _, err := Open(map[string]Builder{"b": buildDoubled})(t.Context(), &sdk.OpenRequest{Stage: "b", Threads: 1, Train: true, Seed: 3, Optimizer: sdk.Optimizer{Name: optimizer}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = st.Close() })
		return st.(*stage)
	}
	learn := func(st *stage, first, end int64) {
		target := make([]float32, end-first)
		for i := range target {
			target[i] = float32((first + int64(i)) % 3)
		}
		for range 20 {
			_, err := st.Forward(t.Context(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput, Inputs: map[string]*tensor.Tensor{
				"x": tensor.OfFloat32s(values[first*side*side:end*side*side], end-first, 1, side, side), "target": tensor.OfFloat32s(target, end-first)}})
			if err == nil {
				_, err = st.Backward(t.Context(), &sdk.BackwardRequest{Context: 1, NewOutput: newOutput, LossWeights: map[string]float64{"mse": 1}})
			}
			if err == nil && st.peers != nil {
				err = st.Average(t.Context())
			}
			if err == nil {
				err = st.Step(t.Context(), &sdk.StepRequest{GradientScale: 1, Values: map[string]float64{"learning_rate": 0.01}})
			}
			if err == nil {
				err = st.ZeroGrad(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, optimizer := range []string{"sgd", "adamw"} {
		t.Run(optimizer, func(t *testing.T) {
			member := open(optimizer)
			rank := meet(t, member)
			learn(member, int64(rank)*cases/2, int64(rank+1)*cases/2)
			if rank == 1 {
				return
			}
			alone := open(optimizer)
			learn(alone, 0, cases)
			read := func(st *stage, i int) (values []float64) {
				err := Run(func(s *Scope) (err error) {
					values, err = s.ToTensor(st.params.list[i].value, nil).Float64s()
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				return values
			}
			for i, e := range alone.params.list {
				got := read(member, i)
				for k, v := range read(alone, i) {
					if !(math.Abs(got[k]-v) < 1e-9) {
						t.Errorf("%s[%d] is %.12g, alone %.12g", e.name, k, got[k], v)
						break
					}
				}
			}
		})
	}
}

func TestAnAverageNeedsAGroup(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	if err := st.Average(context.Background()); sdk.CodeOf(err) != sdk.FailedPrecondition {
		t.Errorf("%v, want FailedPrecondition", err)
	}
	for _, store := range []string{"", "nowhere", "here:port"} {
		if err := st.Join(context.Background(), &sdk.JoinRequest{Size: 1, Store: store}); sdk.CodeOf(err) != sdk.InvalidArgument && sdk.CodeOf(err) != sdk.Unimplemented {
			t.Errorf("store %q: %v, want InvalidArgument", store, err)
		}
	}
}

// meet makes a stage one of two processes that normalise batches together, of which the other
// runs this test, or with the arguments given, and returns its rank.
func meet(t testing.TB, st *stage, args ...string) (rank int) {
	t.Helper()
	store, rank := os.Getenv("ALIGNEDFUSION_TEST_STORE"), 1
	if store == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		store, rank = l.Addr().String(), 0
		l.Close()
		if args == nil {
			args = []string{"-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"}
		}
		other := exec.Command(os.Args[0], args...)
		other.Env = append(os.Environ(), "ALIGNEDFUSION_TEST_STORE="+store)
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := other.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
	if err := st.Join(t.Context(), &sdk.JoinRequest{Rank: rank, Size: 2, Store: store, Timeout: time.Minute, SyncBatchNorm: true}); err != nil {
		t.Fatal(err)
	}
	return rank
}

// deep is a row of layers whose gradients take a while to compute, and to send.
type deep struct{ w []*ts.Tensor }

func buildDeep(b *Build) (Module, error) {
	m := &deep{}
	for i := range 6 {
		m.w = append(m.w, b.Params.Parameter(fmt.Sprintf("w%d", i), []int64{2048, 2048}, Normal(0, 0.02)))
	}
	return m, nil
}

func (m *deep) Forward(s *Scope, in *Inputs) *Outputs {
	x := in.Tensors["x"]
	for _, w := range m.w {
		x = s.Relu(s.Linear(x, w, nil))
	}
	return &Outputs{Losses: map[string]*ts.Tensor{"square": s.Mean(s.Mul(x, x), []int64{0, 1}, false)}}
}

// BenchmarkAveraging takes steps of two processes, a thread each, whose gradients (96 MiB, four
// buckets) are averaged as Backward makes them, and after it, by turns.
//
//	go test -run '^$' -bench Averaging -benchtime 1x ./sdk/torchstage
func BenchmarkAveraging(b *testing.B) {
	const turns, steps, cases = 5, 4, 128
	opened, _, err := Open(map[string]Builder{"b": buildDeep})(b.Context(), &sdk.OpenRequest{Stage: "b", Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	st := opened.(*stage)
	defer st.Close()
	meet(b, st, "-test.run=^$", "-test.bench=^BenchmarkAveraging$", "-test.benchtime=1x")
	st.peers.inside, st.peers.syncBatchNorm = true, false
	x, err := tensor.New(tensor.FP32, cases, 2048)
	if err != nil {
		b.Fatal(err)
	}
	for i := range x.Data {
		x.Data[i] = byte(i % 63) // small numbers of any sign of the exponent
	}
	step := func(soon, average bool) {
		_, err := st.Forward(b.Context(), &sdk.ForwardRequest{Context: 1, Train: true, NewOutput: newOutput, Inputs: map[string]*tensor.Tensor{"x": x}})
		if err == nil {
			_, err = st.Backward(b.Context(), &sdk.BackwardRequest{Context: 1, NewOutput: newOutput, AverageNext: soon, LossWeights: map[string]float64{"square": 1}})
		}
		if err == nil && average {
			err = st.Average(b.Context())
		}
		if err == nil {
			_, err = st.GradNorm(b.Context())
		}
		if err == nil {
			err = st.ZeroGrad(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	ways := []struct {
		name          string
		soon, average bool
	}{{"inside-s/step", true, true}, {"after-s/step", false, true}, {"without-s/step", false, false}}
	took := map[string][]float64{}
	for range turns {
		for _, w := range ways {
			step(w.soon, w.average)
			started := time.Now()
			for range steps {
				step(w.soon, w.average)
			}
			took[w.name] = append(took[w.name], time.Since(started).Seconds()/steps)
		}
	}
	for name, all := range took {
		b.ReportMetric(slices.Min(all), name)
	}
}
