package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Instance is an opened stage.
type Instance interface {
	sdk.Stage
	sdk.Trainer
	sdk.Saver
}

// Cost is what calls took: on the host's clock, and inside the plugin. The
// difference is transport.
type Cost struct {
	Wall, Compute time.Duration
	Calls         int64
}

// Add returns the sum of two costs.
func (c Cost) Add(d Cost) Cost {
	return Cost{c.Wall + d.Wall, c.Compute + d.Compute, c.Calls + d.Calls}
}

// Sub returns what was spent between two readings of a Metered instance.
func (c Cost) Sub(d Cost) Cost {
	return Cost{c.Wall - d.Wall, c.Compute - d.Compute, c.Calls - d.Calls}
}

// TransportShare is (wall - compute) / wall, 0 when nothing was measured.
func (c Cost) TransportShare() float64 {
	if c.Wall <= 0 {
		return 0
	}
	return float64(c.Wall-c.Compute) / float64(c.Wall)
}

// Metered is an Instance that knows the cost of its calls so far.
type Metered interface {
	Cost() Cost
}

// StageError says in which stage of the pipeline and in which call something failed.
type StageError struct {
	Role   sdk.Kind
	Plugin string
	Call   string
	Err    error
	// Setting says that the stage refused one of its settings (see RefusesSetting).
	Setting bool
}

// Error formats as `encoder a3d: forward: …`, or leaves the naming to a cause that
// names plugin, stage and call itself.
func (e *StageError) Error() string {
	if text := e.Err.Error(); strings.HasPrefix(text, "plugin ") {
		return text
	}
	return fmt.Sprintf("%s %s: %s: %v", e.Role, e.Plugin, e.Call, e.Err)
}

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// RefusesSetting reports whether a stage that was opened refused one of its settings,
// which it calls `setting NAME`. A setting that names a file is not meant: what is
// wrong is then in the file.
func RefusesSetting(err error, settings []sdk.Setting) bool {
	var refused *sdk.Error
	if !errors.As(err, &refused) || refused.Code != sdk.InvalidArgument {
		return false
	}
	return slices.ContainsFunc(settings, func(s sdk.Setting) bool {
		_, rest, found := strings.Cut(refused.Error(), "setting "+s.Name)
		return found && s.Type != "path" && strings.TrimLeft(rest, ":=, ") != rest
	})
}

// Source is a stage that can be opened.
type Source struct {
	Role sdk.Kind
	// Plugin is the plugin's name. Stages with the same Process share resident ports.
	Plugin  string
	Process string
	Stage   sdk.StageManifest
	// Settings as given by the user; Open resolves them against the manifest.
	Settings map[string]string
	Open     func(context.Context, *sdk.OpenRequest) (Instance, *sdk.OpenResponse, error)
}

func (s Source) name() string { return string(s.Role) + " " + s.Plugin }

// Member is an opened stage of a pipeline.
type Member struct {
	Source
	Instance Instance
	// Opened holds parameter counts, notes, and the ports with the sizes now known.
	Opened   *sdk.OpenResponse
	Resolved sdk.Settings
}

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

// gives is the port under which an output leaves the stage.
func (m *Member) gives(name string) sdk.Port {
	if port := sdk.FindPort(m.Opened.Outputs, name); port != nil {
		return *port
	}
	return sdk.Port{}
}

// Makes are the outputs that the stage is known to make: no families, nothing that
// stays inside its process.
func (m *Member) Makes() []sdk.Port {
	return slices.DeleteFunc(slices.Clone(m.Opened.Outputs), func(p sdk.Port) bool {
		_, family := sdk.Family(p.Name)
		return family || p.Resident
	})
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

func (m *Member) cost() Cost {
	if metered, ok := m.Instance.(Metered); ok {
		return metered.Cost()
	}
	return Cost{}
}
