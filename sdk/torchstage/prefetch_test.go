package torchstage

import (
	"context"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// waiting is a network whose Forward says that it has begun and then waits.
type waiting struct {
	*network
	begun, goOn chan bool
}

func (w *waiting) Forward(s *Scope, in *Inputs) *Outputs {
	if w.begun != nil {
		w.begun <- true
		<-w.goOn
	}
	return w.network.Forward(s, in)
}

func openWaiting(t *testing.T) (*stage, *waiting) {
	t.Helper()
	w := &waiting{}
	st := openStage(t, sdk.Optimizer{}, map[string]Builder{"w": func(b *Build) (Module, error) {
		m, err := buildNetwork(b)
		w.network = m.(*network)
		return w, err
	}}, "w")
	return st, w
}

func answer(t *testing.T, st *stage, ticket uint64, x *tensor.Tensor) []float32 {
	t.Helper()
	resp, err := st.Forward(context.Background(), &sdk.ForwardRequest{Ticket: ticket, Inputs: map[string]*tensor.Tensor{"x": x}, NewOutput: newOutput})
	if err != nil {
		t.Fatal(err)
	}
	return floats(t, resp.Outputs["y"])
}

func show(t *testing.T, st *stage, ticket uint64, x *tensor.Tensor) {
	t.Helper()
	if err := st.Prefetch(context.Background(), &sdk.PrefetchRequest{Ticket: ticket, Inputs: map[string]*tensor.Tensor{"x": x}}); err != nil {
		t.Fatal(err)
	}
}

// The next batch is on the device before the step under way has ended, and gives the same bits.
func TestTheNextBatchIsCopiedWhileAStepComputes(t *testing.T) {
	st, w := openWaiting(t)
	want := answer(t, st, 0, inputX)
	next := inputX.Clone()
	w.begun, w.goOn = make(chan bool), make(chan bool)
	ended := make(chan error)
	go func() {
		_, err := st.Forward(context.Background(), &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"x": inputX}, NewOutput: newOutput})
		ended <- err
	}()
	<-w.begun
	show(t, st, 1, next) // would hang if it waited for the step
	clear(next.Data)     // what was shown counts
	w.goOn <- true
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	w.begun = nil
	if got := answer(t, st, 1, next); !slices.Equal(got, want) {
		t.Errorf("shown ahead: %v, want %v", got, want)
	}
	if n := len(st.ahead.sets); n != 0 {
		t.Errorf("%d batches are kept after their Forward", n)
	}
}

// Gradients of inputs that were shown ahead are what they are of others.
func TestAShownInputCanWantAGradient(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	var grads [][]float32
	for ticket := range uint64(2) {
		show(t, st, 1, inputX)
		if _, err := st.Forward(context.Background(), &sdk.ForwardRequest{Context: ticket, Ticket: ticket, Train: true, NewOutput: newOutput,
			NeedsGrad: map[string]bool{"x": true}, Inputs: map[string]*tensor.Tensor{"x": inputX, "target": inputY}}); err != nil {
			t.Fatal(err)
		}
		grads = append(grads, floats(t, backward(t, st, ticket, nil, map[string]float64{"mse": 1}).InputGrads["x"]))
	}
	if !slices.Equal(grads[0], grads[1]) {
		t.Errorf("%v with the ticket, %v without", grads[1], grads[0])
	}
}

// A batch that nobody takes goes when others come, and a Forward with its ticket copies anew.
func TestShownBatchesThatNobodyTakesAreDropped(t *testing.T) {
	st := open(t, sdk.Optimizer{})
	other := inputX.Clone()
	clear(other.Data)
	want := answer(t, st, 0, inputX)
	for ticket := range uint64(sdk.PrefetchedTickets + 1) {
		show(t, st, ticket+1, other)
	}
	if n := len(st.ahead.sets); n != sdk.PrefetchedTickets {
		t.Errorf("%d batches are kept, want %d", n, sdk.PrefetchedTickets)
	}
	if got := answer(t, st, 1, inputX); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	err := st.Prefetch(context.Background(), &sdk.PrefetchRequest{Ticket: 9, Inputs: map[string]*tensor.Tensor{"x": {DType: "FP8", Shape: []int64{1}, Data: []byte{1}}}})
	if sdk.CodeOf(err) != sdk.InvalidArgument {
		t.Errorf("a dtype that torch does not have: %v, want InvalidArgument", err)
	}
}
