package torchstage

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// thread is one of the system's, whose jobs come one after the other.
type thread struct {
	start sync.Once
	work  chan func()
}

// torch is where the process computes, uploads where inputs of a Forward to come are copied.
var torch, uploads thread

// OnThread runs f on the process's one torch thread and returns its error. A panic
// in f becomes an error; where f ends its goroutine (t.Fatal does), the caller's ends and
// the thread is replaced. It must not be called from inside f.
func OnThread(f func() error) error { return torch.run(f) }

func (t *thread) run(f func() error) error {
	t.start.Do(func() {
		t.work = make(chan func())
		go t.serve()
	})
	done := make(chan error, 1)
	t.work <- func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				done <- sdk.Errorf(sdk.Internal, "panic: %v\n%s", r, debug.Stack())
			}
		}()
		done <- f()
	}
	err, returned := <-done
	if !returned {
		runtime.Goexit()
	}
	return err
}

// serve works until a job ends the goroutine, which takes the locked thread with it.
func (t *thread) serve() {
	defer func() { go t.serve() }()
	runtime.LockOSThread()
	for job := range t.work {
		job()
	}
}

// gradMode sets autograd's mode and returns a function that restores the old one.
func gradMode(on bool) (restore func(), err error) {
	old, err := ts.GradSetEnabled(on)
	if err != nil {
		return nil, torchError("grad mode", err)
	}
	return func() { _, _ = ts.GradSetEnabled(old) }, nil
}

// autocast makes the thread compute in bfloat16, or in half precision, where that is safe, until
// restore is called.
func autocast(device gotch.Device, half bool) (restore func(), err error) {
	cuda := device.Name != gotch.CPU.Name
	if err := ts.SetAutocast(true, cuda, half); err != nil {
		return nil, torchError("autocast", err)
	}
	return func() { _ = ts.SetAutocast(false, cuda, half) }, nil
}

// useHalf says in one line where libtorch has no half precision on a device, as those of before
// 2.4 have none on a CPU.
func useHalf(device gotch.Device) error {
	const side = 4
	s := newScope()
	defer s.end()
	ones := func(shape ...int64) *ts.Tensor { return s.Cast(s.Full(device, 1, shape...), gotch.Half) }
	s.MatMul(ones(side, side), ones(side, side))
	s.Conv2d(ones(1, 1, side, side), ones(1, 1, 1, 1), nil, 1, 0, 1)
	if s.err == nil {
		return nil
	}
	_, why, wrapped := strings.Cut(s.err.Error(), "Libtorch API Error: ")
	if !wrapped {
		why = s.err.Error()
	}
	return &sdk.Error{Code: sdk.InvalidArgument, Setting: "train.amp", Err: fmt.Errorf("fp16: this libtorch has no half precision on this device (%s)", deviceProblem(why)),
		Advice: "train.amp=bf16 wants no scaling of the loss, and is there everywhere"}
}

// useArithmetic sets how the process computes in single precision.
func useArithmetic(a *sdk.Arithmetic) error {
	if a == nil {
		return nil
	}
	if err := ts.SetArithmetic(a.TF32, a.Benchmark, a.Deterministic); err != nil {
		return torchError("arithmetic", err)
	}
	return nil
}

// torchError shortens libtorch's message (it carries a C++ and a Go stack) and
// tells a lack of memory from a bug.
func torchError(op string, err error) error {
	text := err.Error()
	text = strings.TrimPrefix(text, "Libtorch API Error: ")
	for _, cut := range []string{"\nException raised from", "\ngoroutine "} {
		if i := strings.Index(text, cut); i >= 0 {
			text = text[:i]
		}
	}
	code, advice := sdk.Internal, ""
	if strings.Contains(text, "does not have a deterministic implementation") {
		text, _, _ = strings.Cut(text, ". You can ")
		code, advice = sdk.InvalidArgument, "train.deterministic=false, or the CPU"
	}
	if strings.Contains(text, "can't allocate memory") || strings.Contains(text, "not enough memory") || strings.Contains(text, "out of memory") {
		code = sdk.ResourceExhausted
	}
	return &sdk.Error{Code: code, Err: fmt.Errorf("torch: %s: %s", op, strings.TrimSpace(text)), Advice: advice}
}
