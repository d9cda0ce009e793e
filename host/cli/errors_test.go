package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func TestExitCodes(t *testing.T) {
	refused := func(code sdk.Code) error { return &sdk.Error{Code: code, Call: "open", Given: "no"} }
	opening := func(err error) error {
		return &pipeline.StageError{Role: sdk.KindHead, Plugin: "p", Call: "open", Err: err}
	}
	full := &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	for _, c := range []struct {
		what string
		err  error
		want int
	}{
		{"nothing", nil, 0},
		{"anything", errors.New("x"), 1},
		{"bad data", fmt.Errorf("open: %w", dataset.ErrData), 3},
		{"no checkpoint", runs.ErrNoCheckpoint, 3},
		{"damaged run", runs.ErrDamaged, 3},
		{"no run", runs.ErrNotARun, 2},
		{"locked run", runs.ErrLocked, 1},
		{"full disk", full, 5},
		{"full disk behind another code", dataError(full), 5},
		{"limit of a file's size", fmt.Errorf("%w: %w", runs.ErrFileLimit, refused(sdk.Internal)), 5},
		{"plugin that died", &plughost.Failure{}, 4},
		{"plugin that is not there", plughost.ErrNotFound, 2},
		{"plugin that died of bad data", &plughost.Failure{Err: refused(sdk.InvalidArgument)}, 4},
		{"a choice that makes no sense", &config.Error{Err: errors.New("x")}, 2},
		{"missed gate", gateError(errors.New("x")), 7},
		{"a stage of another kind", &pipeline.RoleError{}, 2},
		{"setting that no stage knows", &pipeline.SettingsError{Err: errors.New("x")}, 2},
		{"ports", &pipeline.PortError{}, 4},
		{"setting refused by a stage", opening(sdk.RefuseSetting("width", "no")), 2},
		{"weights refused by a stage", opening(refused(sdk.InvalidArgument)), 3},
		{"bug while a stage was opened", opening(refused(sdk.Internal)), 4},
		{"out of memory while a stage was opened", opening(refused(sdk.ResourceExhausted)), 5},
		{"batch refused by a stage", &pipeline.StageError{Call: "forward", Err: sdk.Errorf(sdk.InvalidArgument, "no")}, 4},
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.what, got, c.want)
		}
	}
}

// What else names exit codes is made of the one table.
func TestHelpListsEveryExitCode(t *testing.T) {
	var help, list bytes.Buffer
	for _, c := range []struct {
		args []string
		out  *bytes.Buffer
	}{{[]string{"--help"}, &help}, {[]string{"exit-codes"}, &list}} {
		if code := Main(append([]string{"alignedfusion"}, c.args...), c.out, io.Discard); code != 0 {
			t.Fatalf("%v: exit code %d", c.args, code)
		}
	}
	for _, e := range fault.Exits {
		line := fmt.Sprintf("%d %s", e.Code, e.Meaning)
		if !strings.Contains(strings.Join(strings.Fields(help.String()), " "), line) {
			t.Errorf("help lacks %q", line)
		}
		if !strings.Contains(list.String(), e.When) {
			t.Errorf("exit-codes lacks %d: %s", e.Code, e.When)
		}
	}
}
