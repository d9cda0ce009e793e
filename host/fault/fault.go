// Package fault says what kind of failure an error is. The exit code of the program
// follows from the kind, and from nothing else: no command looks at an error's words.
//
// A package gives its errors a kind where they arise: sentinels are made with New, error
// types have a method Fault. Kind finds it again behind any number of wrappings.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Kind says who has to act on an error.
type Kind int

// The kinds of failure. None is that of errors nobody has classified.
const (
	None Kind = iota
	// Usage: the command line, a configuration or a setting asks for what cannot be done.
	Usage
	// Data: input data, weights or a run directory are not what they should be.
	Data
	// Plugin: a plugin died, hung, broke the protocol or failed by itself.
	Plugin
	// Resource: memory or disk ran out.
	Resource
	// Gate: everything worked, and a quality gate was missed.
	Gate
)

// Exit is one way in which the program ends.
type Exit struct {
	Kind    Kind
	Code    int
	Meaning string
	// When names what leads to it.
	When string
	// Again says whether the same command may succeed when it is run again.
	Again string
}

// no is the answer of codes that come again however often the command is run.
const no = "no"

// Exits are all ways in which the program ends; the page docs/reference/exit-codes.md, the help and
// the codes themselves come from here.
var Exits = []Exit{
	{None, 0, "done", "the command did what it was asked for", "–"},
	{None, 1, "failure", "anything that has no code of its own: another process is using the run, the loss is no number twice in a row", "perhaps"},
	{Usage, 2, "wrong usage", "an unknown flag, a setting that is unknown, out of bounds, refused by a stage or without effect, a plugin that is not there, " +
		"a folder that holds a run already or none", no},
	{Data, 3, "bad input data", "a broken table or image, weights that do not fit, a damaged run directory, no usable checkpoint, shards that do not go together", no},
	{Plugin, 4, "a plugin failed", "it died, hung, broke the protocol, answered NaN, or refused a batch; ports that do not fit together", "perhaps"},
	{Resource, 5, "memory or disk ran out", "a full disk or quota, a file beyond the limit, a stage that lacks memory", "with more of it"},
	{Gate, 7, "a quality gate was missed", "froc --min, plugin validate, stage grad", no},
	{None, Requeue, "stopped, to be queued again", "SIGTERM or SIGUSR1 ended a training after a checkpoint, or a study between two steps: it goes on where it was " +
		"(train --resume, the study's own command)", "yes"},
	{None, 130, "stopped by SIGINT", "Ctrl-C; training has written a checkpoint and --resume continues it", "by hand"},
	{None, 138, "stopped by SIGUSR1", "as for SIGTERM", "yes"},
	{None, 143, "stopped by SIGTERM", "where nothing is there yet to go on from: another command, or a training before its first checkpoint", "yes"},
}

// Requeue is the exit code of work that a scheduler has stopped and that goes on where it was:
// EX_TEMPFAIL of sysexits.h.
const Requeue = 75

// Hopeless are the exit codes after which the same command must not be run again: it would
// end with the same.
func Hopeless() (codes []int) {
	for _, e := range Exits {
		if e.Again == no {
			codes = append(codes, e.Code)
		}
	}
	return codes
}

// Code is the exit code of a kind; 1 for None.
func (k Kind) Code() int {
	for _, e := range Exits {
		if e.Kind == k && k != None {
			return e.Code
		}
	}
	return 1
}

// Page is docs/reference/exit-codes.md.
func Page() string {
	var b strings.Builder
	b.WriteString("# Exit codes\n\nWritten by `make docs` from the program itself; `alignedfusion exit-codes` says the same.\n\n" +
		"A scheduler must not run a command again that ended with one whose last column says no: it would end with the same.\n" +
		"[cluster.md](../how-to/cluster.md) says how Slurm and Kubernetes are told.\n\n" +
		"| code | meaning | when | again |\n|---|---|---|---|\n")
	for _, e := range Exits {
		fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", e.Code, e.Meaning, e.When, e.Again)
	}
	return b.String()
}

// Error is an error with a kind.
type Error struct {
	kind Kind
	err  error
}

// Error is the text of the cause: a kind adds no words.
func (e *Error) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

// Fault is the kind.
func (e *Error) Fault() Kind { return e.kind }

// New makes an error of a kind, for sentinels.
func New(kind Kind, text string) error { return &Error{kind, errors.New(text)} }

// Errorf makes an error of a kind; %w wraps.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{kind, fmt.Errorf(format, args...)}
}

// Wrap gives an error a kind unless it has one. A nil error stays nil.
func Wrap(kind Kind, err error) error {
	if err == nil || Of(err) != None {
		return err
	}
	return &Error{kind, err}
}

// Mark gives an error a kind in place of its own, for callers who know better than the
// place where it arose. A lack of memory or disk stays one.
func Mark(kind Kind, err error) error {
	if err == nil {
		return nil
	}
	return &Error{kind, err}
}

// Or is the kind of an error, or otherwise when it has none.
func Or(err error, otherwise Kind) Kind {
	if k := Of(err); k != None {
		return k
	}
	return otherwise
}

// Of returns the kind of an error: that of the outermost error in its tree that has one.
// Only a lack of memory or disk counts wherever it is, for it explains all the rest.
func Of(err error) Kind {
	found := None
	walk(err, func(k Kind) bool {
		if found == None || k == Resource {
			found = k
		}
		return k != Resource
	})
	return found
}

// walk visits the kinds in an error's tree, outermost first, until visit returns false.
func walk(err error, visit func(Kind) bool) bool {
	if err == nil {
		return true
	}
	if k := own(err); k != None && !visit(k) {
		return false
	}
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return walk(x.Unwrap(), visit)
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			if !walk(e, visit) {
				return false
			}
		}
	}
	return true
}

// own is the kind of one error without those it wraps.
func own(err error) Kind {
	switch err {
	case problem.ErrData:
		return Data
	case atomicfile.ErrNotEmpty:
		return Usage
	}
	switch x := err.(type) {
	case interface{ Fault() Kind }:
		return x.Fault()
	case problem.List:
		return Data
	case *sdk.Error:
		return ofStage(x)
	case syscall.Errno:
		if x == syscall.ENOSPC || x == syscall.EDQUOT || x == syscall.EFBIG {
			return Resource
		}
	}
	return None
}

// ofStage is the kind of what a stage answered: it refuses a setting, or when it is
// opened what it is opened with (weights, classes, attributes); all else is its own fault.
func ofStage(e *sdk.Error) Kind {
	switch {
	case e.Code == sdk.ResourceExhausted:
		return Resource
	case e.Code == sdk.InvalidArgument && e.Setting != "":
		return Usage
	case e.Code == sdk.InvalidArgument && e.Call == "open":
		return Data
	}
	return Plugin
}
