package sdk

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Code says who has to act on an error.
type Code int

// The codes of stage errors; they travel as gRPC status codes of the same names.
const (
	// Internal is a bug of the plugin.
	Internal Code = iota
	// InvalidArgument: the caller gave something the stage cannot take.
	InvalidArgument
	// FailedPrecondition: calls came in the wrong order.
	FailedPrecondition
	// NotFound: an instance or context that does not exist.
	NotFound
	// ResourceExhausted: memory, with the bytes wanted.
	ResourceExhausted
	// Unimplemented: the stage has no such ability (for example training).
	Unimplemented
)

// codeNames are gRPC's, by code.
var codeNames = [...]string{"Internal", "InvalidArgument", "FailedPrecondition", "NotFound", "ResourceExhausted", "Unimplemented"}

// Error is a diagnostic: what was given, what was wanted, where, what to do.
type Error struct {
	Code Code
	// Plugin is filled in by the host.
	Plugin string
	Stage  string
	// Call is the protocol call: open, forward, backward, …
	Call string
	// Port names the tensor the error is about, if any.
	Port string
	// Setting names the setting that was refused, if one was; the words are Err's.
	Setting string
	Given   string
	Wanted  string
	// Advice says what to do.
	Advice string
	Err    error
}

// Error formats as `plugin mlp: head mlp: forward: input "joint" is FP32 [2 192], want FP32 [N 256] (advice)`.
func (e *Error) Error() string {
	var parts []string
	if e.Plugin != "" {
		parts = append(parts, "plugin "+e.Plugin)
	}
	if e.Stage != "" {
		parts = append(parts, e.Stage)
	}
	if e.Call != "" {
		parts = append(parts, e.Call)
	}
	var what string
	switch {
	case e.Port != "" && e.Given != "":
		what = fmt.Sprintf("%q is %s", e.Port, e.Given)
	case e.Port != "":
		what = fmt.Sprintf("%q", e.Port)
	default:
		what = e.Given
	}
	join := func(separator, text string) {
		if what != "" {
			what += separator
		}
		what += text
	}
	// What was given and what was wanted stand side by side; without a given, the cause
	// takes its place.
	if e.Err != nil && e.Given == "" {
		join(": ", e.Err.Error())
	}
	if e.Wanted != "" {
		join(", ", "want "+e.Wanted)
	}
	if e.Err != nil && e.Given != "" {
		join(": ", e.Err.Error())
	}
	if e.Advice != "" {
		what += " (" + e.Advice + ")"
	}
	return strings.Join(append(parts, what), ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a code.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// RefuseSetting makes the error of a stage, or of ResolveSettings, that cannot work with
// the value of a setting. A file that a setting names and that is bad is another error.
func RefuseSetting(name, format string, args ...any) error {
	return &Error{Code: InvalidArgument, Setting: name, Err: fmt.Errorf("setting %s: "+format, append([]any{name}, args...)...)}
}

// CodeOf returns the code of the first *Error in err's chain, Internal otherwise.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// String returns the code's name, which is gRPC's.
func (c Code) String() string {
	if int(c) >= 0 && int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "Code(" + strconv.Itoa(int(c)) + ")"
}
