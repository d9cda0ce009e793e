package fault

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
)

var errBad = New(Data, "bad data")

type frame struct{ err error }

func (f *frame) Error() string { return "frame: " + f.err.Error() }
func (f *frame) Unwrap() error { return f.err }
func (f *frame) Fault() Kind   { return Or(f.err, Plugin) }

func TestKindIsFoundBehindWrappings(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	stage := func(code sdk.Code, call, setting string) error {
		return &sdk.Error{Code: code, Call: call, Setting: setting, Given: "x"}
	}
	for name, c := range map[string]struct {
		err  error
		want Kind
	}{
		"nil":                              {nil, None},
		"plain":                            {errors.New("x"), None},
		"sentinel":                         {errBad, Data},
		"sentinel in words":                {fmt.Errorf("row 3: %w", errBad), Data},
		"first of two":                     {fmt.Errorf("%w: %w", errBad, New(Usage, "x")), Data},
		"second where the first has none":  {errors.Join(errors.New("x"), New(Gate, "y")), Gate},
		"outermost":                        {Mark(Usage, errBad), Usage},
		"wrapped keeps its own":            {Wrap(Usage, errBad), Data},
		"wrapped without one":              {Wrap(Usage, errors.New("x")), Usage},
		"frame around nothing":             {&frame{errors.New("x")}, Plugin},
		"frame around data":                {&frame{errBad}, Data},
		"full disk":                        {full, Resource},
		"full disk under another kind":     {Mark(Data, full), Resource},
		"full disk beside another kind":    {errors.Join(errBad, full), Resource},
		"quota":                            {syscall.EDQUOT, Resource},
		"file limit":                       {syscall.EFBIG, Resource},
		"another errno":                    {syscall.ENOENT, None},
		"setting refused":                  {stage(sdk.InvalidArgument, "open", "lr"), Usage},
		"setting refused before the call":  {stage(sdk.InvalidArgument, "", "lr"), Usage},
		"weights refused":                  {stage(sdk.InvalidArgument, "open", ""), Data},
		"batch refused":                    {stage(sdk.InvalidArgument, "forward", ""), Plugin},
		"bug while opening":                {stage(sdk.Internal, "open", ""), Plugin},
		"bug that names a setting":         {stage(sdk.Internal, "open", "lr"), Plugin},
		"memory of a stage":                {stage(sdk.ResourceExhausted, "forward", ""), Resource},
		"memory of a stage behind a frame": {&frame{stage(sdk.ResourceExhausted, "forward", "")}, Resource},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("%s: kind %d, want %d", name, got, c.want)
		}
	}
	if Wrap(Data, nil) != nil || Mark(Data, nil) != nil {
		t.Error("nil got a kind")
	}
	if err := Errorf(Gate, "at %d: %w", 3, errBad); err.Error() != "at 3: bad data" || !errors.Is(err, errBad) || Of(err) != Gate {
		t.Errorf("%v", err)
	}
}

func TestEveryKindHasOneCode(t *testing.T) {
	seen := map[int]bool{}
	for _, e := range Exits {
		if seen[e.Code] {
			t.Errorf("code %d stands twice", e.Code)
		}
		seen[e.Code] = true
		if e.Kind != None && e.Kind.Code() != e.Code {
			t.Errorf("kind %d has code %d, want %d", e.Kind, e.Kind.Code(), e.Code)
		}
	}
	for k, want := range map[Kind]int{None: 1, Usage: 2, Data: 3, Plugin: 4, Resource: 5, Gate: 7, Gate + 1: 1} {
		if k.Code() != want {
			t.Errorf("kind %d: code %d, want %d", k, k.Code(), want)
		}
	}
}

// A new exit code is a line of Exits and the page made of it; the program's help is
// checked in host/cli.
func TestThePageListsAllCodes(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != Page() {
		t.Error("docs/reference/exit-codes.md is out of date: run `make docs`")
	}
	for _, e := range Exits {
		if !strings.Contains(string(page), fmt.Sprintf("| %d | %s |", e.Code, e.Meaning)) {
			t.Errorf("code %d is missing", e.Code)
		}
	}
}
