package wire

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
)

var grpcCodes = map[sdk.Code]codes.Code{
	sdk.Internal:           codes.Internal,
	sdk.InvalidArgument:    codes.InvalidArgument,
	sdk.FailedPrecondition: codes.FailedPrecondition,
	sdk.NotFound:           codes.NotFound,
	sdk.ResourceExhausted:  codes.ResourceExhausted,
	sdk.Unimplemented:      codes.Unimplemented,
}

// StatusError converts an error of a stage to a gRPC status with a Diagnostic in its
// details. stage and call fill in what the error itself leaves open.
func StatusError(err error, stage, call string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, err.Error())
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	full := sdk.Error{Code: sdk.Internal, Err: err}
	var known *sdk.Error
	if errors.As(err, &known) {
		full = *known
		if err != error(known) {
			// Words around the *Error would be lost otherwise.
			full.Err, full.Port, full.Given, full.Wanted, full.Advice = err, "", "", "", ""
		}
	}
	if full.Stage == "" {
		full.Stage = stage
	}
	if full.Call == "" {
		full.Call = call
	}
	s := status.New(grpcCodes[full.Code], full.Error())
	diagnostic := &stagev1.Diagnostic{
		Stage: full.Stage, Call: full.Call, Port: full.Port,
		Given: full.Given, Wanted: full.Wanted, Advice: full.Advice, Setting: full.Setting,
	}
	if full.Err != nil {
		diagnostic.Cause = full.Err.Error()
	}
	detailed, derr := s.WithDetails(diagnostic)
	if derr != nil {
		return s.Err()
	}
	return detailed.Err()
}

// ErrorFromStatus is the other direction of StatusError: an *Error with the plugin's
// name. A status that no stage has sent (a broken connection, a deadline, a cancelled
// call) is returned as it is.
func ErrorFromStatus(err error, plugin string) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	out := &sdk.Error{Plugin: plugin, Code: sdk.Internal}
	known := false
	for code, g := range grpcCodes {
		if g == s.Code() {
			out.Code, known = code, true
		}
	}
	for _, d := range s.Details() {
		if diagnostic, ok := d.(*stagev1.Diagnostic); ok {
			out.Stage, out.Call, out.Port = diagnostic.GetStage(), diagnostic.GetCall(), diagnostic.GetPort()
			out.Given, out.Wanted, out.Advice = diagnostic.GetGiven(), diagnostic.GetWanted(), diagnostic.GetAdvice()
			out.Setting = diagnostic.GetSetting()
			if cause := diagnostic.GetCause(); cause != "" {
				out.Err = errors.New(cause)
			}
			return out
		}
	}
	if !known {
		return err
	}
	out.Err = errors.New(s.Message())
	return out
}
