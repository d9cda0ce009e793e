package plughost

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Why the host itself ended a call, as the cause of the call's context.
var (
	errExited = errors.New("the process ended")
	errHung   = errors.New("no answer in time")
)

// watch ends the calls of a plugin that nobody will answer: those of a process that has
// ended (a child of it may keep the connection open) and those that take longer than
// limit. One goroutine serves all calls; a timer and a goroutine for each would cost as
// much as a small call.
type watch struct {
	limit time.Duration

	mu    sync.Mutex
	calls map[*watchedCall]bool
	ended bool
}

// watchedCall is a call that has no answer yet.
type watchedCall struct {
	started time.Time
	cancel  context.CancelCauseFunc
}

// looks is how often the watch looks at the clock within its limit.
const looks = 20

// watchCalls watches until exited is closed.
func watchCalls(limit time.Duration, exited <-chan struct{}) *watch {
	w := &watch{limit: limit, calls: map[*watchedCall]bool{}}
	go func() {
		clock := time.NewTicker(max(limit/looks, time.Millisecond))
		defer clock.Stop()
		for {
			select {
			case <-exited:
				w.end()
				return
			case now := <-clock.C:
				w.cancelOlder(now.Add(-limit))
			}
		}
	}()
	return w
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for c := range w.calls {
		c.cancel(errExited)
	}
}

func (w *watch) cancelOlder(than time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.calls {
		if c.started.Before(than) {
			c.cancel(errHung)
		}
	}
}

// begin returns the context of a call and what ends it. The context has no deadline that
// gRPC could see: the plugin's side would then run out of time a moment before the
// caller's own clock does, and its answer would look like a fault. It ends for one
// cause, the first of three: the caller's, errExited, errHung.
func (w *watch) begin(caller context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(caller))
	end := func() { cancel(context.Cause(caller)) }
	if caller.Err() != nil {
		end() // AfterFunc would do it a moment later
	}
	stop := context.AfterFunc(caller, end)
	c := &watchedCall{time.Now(), cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		cancel(errExited)
	}
	w.calls[c] = true
	return ctx, func() {
		stop()
		cancel(nil)
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.calls, c)
	}
}
