package cli

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func TestExitCodes(t *testing.T) {
	refused := func(code sdk.Code) error { return sdk.Errorf(code, "no") }
	opening := func(setting bool, err error) error {
		return &pipeline.StageError{Role: sdk.KindHead, Plugin: "p", Call: "open", Err: err, Setting: setting}
	}
	full := &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	for _, c := range []struct {
		what string
		err  error
		want int
	}{
		{"nothing", nil, exitOK},
		{"anything", errors.New("x"), exitFailure},
		{"bad data", fmt.Errorf("open: %w", dataset.ErrData), exitData},
		{"no checkpoint", runs.ErrNoCheckpoint, exitData},
		{"damaged run", runs.ErrDamaged, exitData},
		{"no run", runs.ErrNotARun, exitUsage},
		{"locked run", runs.ErrLocked, exitFailure},
		{"full disk", full, exitResource},
		{"full disk behind another code", dataError(full), exitResource},
		{"limit of a file's size", fmt.Errorf("%w: %w", runs.ErrFileLimit, refused(sdk.Internal)), exitResource},
		{"plugin that died", &plughost.Failure{}, exitPlugin},
		{"plugin that is not there", plughost.ErrNotFound, exitUsage},
		{"ports", &pipeline.PortError{}, exitPlugin},
		{"setting refused by a stage", opening(true, refused(sdk.InvalidArgument)), exitUsage},
		{"weights refused by a stage", opening(false, refused(sdk.InvalidArgument)), exitData},
		{"bug while a stage was opened", opening(false, refused(sdk.Internal)), exitPlugin},
		{"out of memory while a stage was opened", opening(false, refused(sdk.ResourceExhausted)), exitResource},
		{"batch refused by a stage", &pipeline.StageError{Call: "forward", Err: refused(sdk.InvalidArgument)}, exitPlugin},
	} {
		if got := codeOf(coded(c.err)); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.what, got, c.want)
		}
	}
}
