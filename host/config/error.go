package config

import "github.com/alignedfusion/alignedfusion/host/fault"

// Error is a configuration, or a choice of options, that makes no sense.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

// Fault is fault.Usage, unless the cause says otherwise.
func (e *Error) Fault() fault.Kind { return fault.Or(e.Err, fault.Usage) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
