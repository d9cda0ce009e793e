package plughost

import (
	"errors"
	"fmt"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// Failure is a plugin that failed: it did not start, died, hung, or answered what the
// protocol forbids. The plugin's process is gone or being taken down.
type Failure struct {
	// Plugin is its name, or what was asked for when it never gave one.
	Plugin string
	// Stage and Call say what it was doing; both may be empty.
	Stage, Call string
	// Reason is how it ended: "killed by signal killed", "no answer within 10m0s", …
	Reason string
	// Stderr holds the last lines of its standard error.
	Stderr []string
	Err    error
}

// Fault is fault.Plugin.
func (f *Failure) Fault() fault.Kind { return fault.Plugin }

// Error names the plugin, the call, the reason and the last lines of standard error.
func (f *Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plugin %s", f.Plugin)
	if f.Stage != "" {
		fmt.Fprintf(&b, ": %s", f.Stage)
	}
	if f.Call != "" {
		fmt.Fprintf(&b, ": %s", f.Call)
	}
	fmt.Fprintf(&b, ": %s", printable(f.Reason))
	if len(f.Stderr) > 0 {
		b.WriteString("; its last lines on standard error:")
		for _, line := range f.Stderr {
			b.WriteString("\n  | " + line)
		}
	}
	return b.String()
}

// failureLines is how much of a plugin's standard error a Failure has.
const failureLines = 12

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// IsFailure reports whether err is about a plugin that failed, as opposed to a request
// that a healthy plugin refused.
func IsFailure(err error) bool {
	var f *Failure
	return errors.As(err, &f)
}

// ErrNotFound is returned when no plugin has the asked name or path.
var ErrNotFound = fault.New(fault.Usage, "plugin not found")
