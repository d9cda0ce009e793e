package cli

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

// Exit codes of the program.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2
	exitData     = 3
	exitPlugin   = 4
	exitResource = 5
	exitGate     = 7
)

// exitError carries the exit code an error ends the program with. It is not a
// cli.ExitCoder on purpose: urfave/cli would call os.Exit before deferred
// clean-up (plugins!) has run.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	var known *exitError
	if errors.As(err, &known) {
		return err
	}
	return &exitError{code, err}
}

// codeOf is what the program ends with for an error. A full disk has its own code,
// whichever command met it.
func codeOf(err error) int {
	var coded *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, runs.ErrNoSpace), errors.Is(err, runs.ErrFileLimit),
		errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return exitResource
	case errors.As(err, &coded):
		return coded.code
	}
	return exitFailure
}

// dataError marks err as bad input data (exit 3).
func dataError(err error) error { return withCode(exitData, err) }

// pluginError marks err as a plugin failure (exit 4).
func pluginError(err error) error { return withCode(exitPlugin, err) }

// resourceError marks err as a lack of memory or disk (exit 5).
func resourceError(err error) error { return withCode(exitResource, err) }

// gateError marks err as a missed quality gate (exit 7).
func gateError(err error) error { return withCode(exitGate, err) }
