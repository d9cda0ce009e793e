package torchstage

import (
	"errors"
	"fmt"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// Scope owns the tensors made through it and frees them when it ends. Its first
// error sticks: later ops return a placeholder and do nothing, so that arithmetic
// reads as arithmetic and errors are looked at once.
type Scope struct {
	err   error
	owned []*ts.Tensor
	// frozen stages use running statistics in TRAIN mode too, and leave them alone.
	frozen bool
	// amp: matrix products give bfloat16 or half precision, which full turns back where that loses too much.
	amp bool
	// peers are the processes by whose batches together BatchNorm normalises in TRAIN mode; nil:
	// by this one's alone.
	peers *peers
	// given are the inputs of a Forward in the host's memory, by what was made of them on the device.
	given map[*ts.Tensor]*ts.Tensor
	// void stands for the result of an op that was not run.
	void *ts.Tensor
}

// newScope must run on the torch thread.
func newScope() *Scope { return &Scope{void: ts.NewTensor()} }

// inner is a scope of the same step that owns nothing yet.
func (s *Scope) inner() *Scope {
	return &Scope{err: s.err, frozen: s.frozen, amp: s.amp, peers: s.peers, given: s.given, void: s.void}
}

// end frees what the scope owns.
func (s *Scope) end() {
	for _, t := range s.owned {
		_ = t.Drop()
	}
	s.owned = nil
	_ = s.void.Drop()
}

// Run gives f a scope on the torch thread, without gradients, and frees it afterwards.
func Run(f func(s *Scope) error) error {
	return OnThread(func() error {
		restore, err := gradMode(false)
		if err != nil {
			return err
		}
		defer restore()
		s := newScope()
		defer s.end()
		if err := f(s); err != nil {
			return err
		}
		return s.err
	})
}

// SyncBatchNorm reports whether BatchNorm in TRAIN mode meets other processes: a kernel of a
// module's own that normalises batches must then leave it to BatchNorm.
func (s *Scope) SyncBatchNorm() bool { return s.peers != nil && !s.frozen }

// Err returns the first failure.
func (s *Scope) Err() error { return s.err }

// Fail records err unless there already is one.
func (s *Scope) Fail(err error) {
	if s.err == nil && err != nil {
		s.err = err
	}
}

// Failf records an error of a code.
func (s *Scope) Failf(code sdk.Code, format string, args ...any) {
	s.Fail(sdk.Errorf(code, format, args...))
}

// Do runs one gotch call, owns its result and records its error. It is how any call
// without a method of its own is made.
func (s *Scope) Do(op string, f func() (*ts.Tensor, error)) *ts.Tensor {
	if s.err != nil {
		return s.void
	}
	t, err := f()
	if err != nil {
		s.err = torchError(op, err)
		return s.void
	}
	if t == nil {
		s.err = sdk.Errorf(sdk.Internal, "torch: %s gave nothing", op)
		return s.void
	}
	s.owned = append(s.owned, t)
	return t
}

// Act runs one gotch call without a result (an in-place op).
func (s *Scope) Act(op string, f func() error) {
	if s.err != nil {
		return
	}
	if err := f(); err != nil {
		s.err = torchError(op, err)
	}
}

// Own makes the scope free t when it ends.
func (s *Scope) Own(t *ts.Tensor) *ts.Tensor {
	s.owned = append(s.owned, t)
	return t
}

// Keep takes t out of the scope; the caller frees it.
func (s *Scope) Keep(t *ts.Tensor) *ts.Tensor {
	// Tensors worth keeping were made recently.
	for i := len(s.owned) - 1; i >= 0; i-- {
		if s.owned[i] == t {
			s.owned = append(s.owned[:i], s.owned[i+1:]...)
			break
		}
	}
	return t
}

// Free drops tensors before the scope ends.
func (s *Scope) Free(tensors ...*ts.Tensor) {
	for _, t := range tensors {
		if t == nil || t == s.void {
			continue
		}
		s.Keep(t)
		_ = t.Drop()
	}
}

// Sub runs f in an inner scope and frees its temporaries at once; the tensor f
// returns moves to the outer scope.
func (s *Scope) Sub(f func(s *Scope) *ts.Tensor) *ts.Tensor {
	out := s.SubAll(func(inner *Scope) []*ts.Tensor { return []*ts.Tensor{f(inner)} })
	return out[0]
}

// SubAll is Sub for several results.
func (s *Scope) SubAll(f func(s *Scope) []*ts.Tensor) []*ts.Tensor {
	inner := s.inner()
	results := f(inner)
	for i, t := range results {
		if t == nil {
			results[i] = s.void
			continue
		}
		before := len(inner.owned)
		inner.Keep(t)
		if len(inner.owned) < before {
			s.owned = append(s.owned, t)
		}
	}
	for _, t := range inner.owned {
		_ = t.Drop()
	}
	s.err = inner.err
	return results
}

// NoGrad runs f with autograd off.
func (s *Scope) NoGrad(f func()) { s.withGrad(false, f) }

// WithGrad runs f with autograd on.
func (s *Scope) WithGrad(f func()) { s.withGrad(true, f) }

func (s *Scope) withGrad(on bool, f func()) {
	if s.err != nil {
		return
	}
	restore, err := gradMode(on)
	if err != nil {
		s.err = err
		return
	}
	defer restore()
	f()
}

// Backprop runs autograd from a scalar.
func (s *Scope) Backprop(scalar *ts.Tensor) {
	s.Act("backward", scalar.Backward)
}

// Grad returns the gradient autograd left in a leaf, or nil when there is none.
func (s *Scope) Grad(leaf *ts.Tensor) *ts.Tensor {
	g := s.Do("grad", func() (*ts.Tensor, error) { return leaf.Grad(false) })
	if s.err != nil {
		return nil
	}
	defined, err := g.Defined()
	if err != nil {
		s.err = torchError("grad", err)
		return nil
	}
	if !defined {
		return nil
	}
	return g
}

// Shape returns t's sizes; nil after an error.
func (s *Scope) Shape(t *ts.Tensor) []int64 {
	if s.err != nil {
		return nil
	}
	shape, err := t.Size()
	if err != nil {
		s.err = torchError("size", err)
		return nil
	}
	return shape
}

// Dim returns the size of dimension d (negative counts from the end); 0 after an error.
func (s *Scope) Dim(t *ts.Tensor, d int) int64 {
	shape := s.Shape(t)
	if d < 0 {
		d += len(shape)
	}
	if d < 0 || d >= len(shape) {
		if s.err == nil {
			s.Fail(fmt.Errorf("%w: dimension %d of shape %v", errDimension, d, shape))
		}
		return 0
	}
	return shape[d]
}

var errDimension = errors.New("torch: no such dimension")
