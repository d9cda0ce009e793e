//go:build linux

package plughost

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A deadline that gRPC saw would run out on the plugin's side first, whose answer would
// then look like a fault.
func TestTheCallersDeadlineDoesNotReachThePlugin(t *testing.T) {
	w := watchCalls(time.Minute, t.Context().Done())
	caller, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	ctx, done := w.begin(caller)
	defer done()
	if _, there := ctx.Deadline(); there {
		t.Error("the call's context has a deadline")
	}
}

func TestACallEndsForItsFirstCause(t *testing.T) {
	mine := errors.New("the caller's own")
	exited := make(chan struct{})
	w := watchCalls(time.Minute, exited)
	caller, cancel := context.WithCancelCause(t.Context())
	first, done := w.begin(caller)
	defer done()
	cancel(mine)
	<-first.Done()
	second, done := w.begin(t.Context())
	defer done()
	third, done := w.begin(caller)
	defer done()
	close(exited)
	<-second.Done()
	fourth, done := w.begin(t.Context())
	defer done()
	for i, want := range map[context.Context]error{first: mine, second: errExited, third: mine, fourth: errExited} {
		if got := context.Cause(i); got != want {
			t.Errorf("a call ended for %v, want %v", got, want)
		}
	}
}

func TestOnlyCallsThatTakeTooLongAreEnded(t *testing.T) {
	w := watchCalls(time.Minute, t.Context().Done())
	ctx, done := w.begin(t.Context())
	defer done()
	w.cancelOlder(time.Now().Add(-time.Minute))
	if context.Cause(ctx) != nil {
		t.Error("a call was ended that had just begun")
	}
	w.cancelOlder(time.Now().Add(time.Second))
	if context.Cause(ctx) != errHung {
		t.Errorf("cause is %v, want %v", context.Cause(ctx), errHung)
	}
}
