package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Instance is an opened stage. What a Trainer leaves to the SDK (BackwardRequest.GradNorm,
// StepRequest.ZeroGrad) is done.
type Instance interface {
	sdk.Stage
	sdk.Trainer
	sdk.Saver
	// ForwardBackward is Forward in TRAIN mode and Backward of its context, of a stage that
	// nothing comes after. Weights of losses that Forward does not return are of no effect.
	// When a loss is no finite number there is no Backward, and no answer of it: the context
	// has then been released.
	ForwardBackward(context.Context, *sdk.ForwardRequest, *sdk.BackwardRequest) (*sdk.ForwardResponse, *sdk.BackwardResponse, error)
}

// Cost is what calls took: on the host's clock, and inside the plugins.
type Cost = client.Cost

// Metered is an Instance that knows the cost of its calls so far.
type Metered interface {
	Cost() Cost
}

// Prefetcher is an Instance that can be handed inputs of a Forward to come while it works.
type Prefetcher interface {
	Prefetch(ctx context.Context, inputs map[string]*tensor.Tensor) error
}

// StageError says in which stage of the pipeline and in which call something failed.
type StageError struct {
	Role   sdk.Kind
	Plugin string
	Call   string
	Err    error
}

// Error formats as `encoder a3d: forward: …`, or leaves the naming to a cause that
// names plugin, stage and call itself.
func (e *StageError) Error() string {
	var failure *plughost.Failure
	var refused *sdk.Error
	if errors.As(e.Err, &failure) || errors.As(e.Err, &refused) && refused.Plugin != "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s %s: %s: %v", e.Role, e.Plugin, e.Call, e.Err)
}

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// Fault is the cause's, or fault.Plugin.
func (e *StageError) Fault() fault.Kind { return fault.Or(e.Err, fault.Plugin) }

// Source is a stage that can be opened.
type Source struct {
	Role sdk.Kind
	// Plugin is the plugin's name. Stages with the same Process share resident ports.
	Plugin  string
	Process string
	Stage   sdk.StageManifest
	// Settings as given by the user; Open resolves them against the manifest.
	Settings map[string]string
	// Frozen stages take part in forward and backward and are never updated.
	Frozen bool
	// AMP: its plugin can compute in bfloat16 where that is safe.
	AMP bool
	// FP16: it can in half precision, too.
	FP16 bool
	// Keep: its plugin can keep tensors in its process for other stages there, and is to.
	Keep bool
	// OwnRules: what the stage declares of an optimizer and a schedule of its own counts.
	OwnRules bool
	Open     func(context.Context, *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error)
	// StepAll is Step of several instances of this Process in one call, each with its own
	// request; nil where there is no such call.
	StepAll func(context.Context, []Instance, []*sdk.StepRequest) error
}

func (s Source) name() string { return string(s.Role) + " " + s.Plugin }

// Member is an opened stage of a pipeline.
type Member struct {
	Source
	Instance Instance
	// Opened holds parameter counts, notes, and the ports with the sizes now known.
	Opened   *sdk.OpenResponse
	Resolved sdk.Settings
	// kept are the makers of the inputs that stay in the process, by input.
	kept map[string]string
	// AveragedBy says what averages its gradients over a group (Pipeline.Join); may be empty.
	AveragedBy string
	// zeroed says that the accumulated gradients are known to be zero, averaged that those of
	// this step are averaged over the group, or about to be.
	zeroed, averaged bool
}

// learns reports whether there is anything in the stage that training could change.
func (m *Member) learns() bool { return m.Stage.Trainable && m.Opened.TrainableCount > 0 }

// Updates reports whether the optimizer changes the stage.
func (m *Member) Updates() bool { return m.learns() && !m.Frozen }

func (m *Member) fail(call string, err error) error {
	if err == nil {
		return nil
	}
	return &StageError{Role: m.Role, Plugin: m.Plugin, Call: call, Err: err}
}

// WrongOutput is the error of a stage that answered forward with what it must not.
func (m *Member) WrongOutput(format string, args ...any) error {
	return m.fail("forward", fmt.Errorf(format, args...))
}

// OwnSchedule reports whether the stage makes its learning rate itself.
func (m *Member) OwnSchedule() bool { return m.OwnRules && m.Stage.Schedule != "" }

// KeepsMoving reports whether a frozen stage does not know that it is: its parameters are
// left alone, running statistics it may have are not.
func (m *Member) KeepsMoving() bool { return m.Frozen && m.learns() }

// namesLosses reports whether the manifest names every loss, none by its family.
func (m *Member) namesLosses() bool {
	return !slices.ContainsFunc(m.Stage.Losses, func(name string) bool { _, family := sdk.Family(name); return family })
}

// gives is the port under which an output leaves the stage.
func (m *Member) gives(name string) sdk.Port {
	if port := sdk.FindPort(m.Opened.Outputs, name); port != nil {
		return *port
	}
	return sdk.Port{}
}

// Makes are the outputs that the stage is known to make: no families, nothing that
// stays inside its process or is made on request alone.
func (m *Member) Makes() []sdk.Port {
	return slices.DeleteFunc(slices.Clone(m.Opened.Outputs), func(p sdk.Port) bool {
		_, family := sdk.Family(p.Name)
		return family || p.Resident || p.OnRequest
	})
}

// Metrics are the stage's own metrics of each case.
func (m *Member) Metrics() []sdk.Port { return onRequest(m.Opened.Outputs, ports.Metrics) }

// onRequest are the members of a family that can be asked for.
func onRequest(outputs []sdk.Port, of ports.Port) (out []sdk.Port) {
	for _, p := range outputs {
		if _, family := sdk.Family(p.Name); !family && of.Has(p.Name) && p.OnRequest {
			out = append(out, p)
		}
	}
	return out
}

// givenBy reports whether inputs hold all that the stage would make. What would stay
// inside its process is not asked for: who gives a stage's outputs must know that no
// other stage needs it.
func (m *Member) givenBy(inputs map[string]*tensor.Tensor) bool {
	makes := m.Makes()
	return len(makes) > 0 && !slices.ContainsFunc(makes, func(p sdk.Port) bool { return inputs[p.Name] == nil })
}

// keepsResidents reports whether a run leaves tensors in the stage's process.
func (m *Member) keepsResidents() bool {
	return slices.ContainsFunc(m.Opened.Outputs, func(p sdk.Port) bool { return p.Resident })
}

// Cost is what the stage's calls took so far.
func (m *Member) Cost() Cost {
	if metered, ok := m.Instance.(Metered); ok {
		return metered.Cost()
	}
	return Cost{}
}
