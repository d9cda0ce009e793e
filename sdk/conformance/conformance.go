// Package conformance checks a plugin against every rule of the stage protocol. It
// knows no language: it talks to a process, or to a server in the same process.
//
// A plugin's own test calls Run with a Target; `alignedfusion plugin validate` does the
// same with a real process.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Status is how a case ended.
type Status string

// The statuses.
const (
	Pass Status = "pass"
	Fail Status = "fail"
	// Skip: the rule does not apply to the stage or cannot be seen in this setting.
	Skip Status = "skip"
)

// Result is one case on one stage.
type Result struct {
	Case string `json:"case"`
	// Stage is empty for the cases about the whole plugin.
	Stage  string `json:"stage,omitempty"`
	Status Status `json:"status"`
	// Rule is the sentence of the protocol that the case checks.
	Rule string `json:"rule"`
	// Seen and Wanted say what went wrong, Mend how to put it right. Of a skipped case,
	// Seen says why.
	Seen    string  `json:"seen,omitempty"`
	Wanted  string  `json:"wanted,omitempty"`
	Mend    string  `json:"mend,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Report is the outcome of Run.
type Report struct {
	SchemaVersion int    `json:"schema_version"`
	Plugin        string `json:"plugin"`
	Version       string `json:"version"`
	Passed        bool   `json:"passed"`
	// Summary counts the results and says why some were skipped.
	Summary string `json:"summary"`
	// Device, Threads, Seed and Settings are those that it was checked with.
	Device   string                       `json:"device"`
	Threads  int                          `json:"threads"`
	Seed     uint64                       `json:"seed"`
	Settings map[string]map[string]string `json:"settings,omitempty"`
	// Protocol is the version of the stage protocol that the suite knows.
	Protocol int      `json:"protocol_major"`
	Results  []Result `json:"results"`
	Seconds  float64  `json:"seconds"`
}

// Connection is a running plugin.
type Connection struct {
	Conn grpc.ClientConnInterface
	// InBand and Shared are clients over Conn; Shared is nil without shared memory.
	InBand, Shared *client.Client
	// PID of the process, 0 inside the caller's own.
	PID int
	// CutLifeline does to the plugin what the host's death does; nil when that cannot be
	// done.
	CutLifeline func()
	// ShutDown ends the plugin as a host does, without killing it; nil when that cannot be
	// done.
	ShutDown func(ctx context.Context) error
	// Exited is closed when the process has ended; nil without a process.
	Exited <-chan struct{}
	// TempDir is a folder the plugin may write to; "" is the usual one.
	TempDir string
	// Close ends everything, by force if it must.
	Close func() error
}

// Target is the plugin under test.
type Target struct {
	// Describe returns what `PLUGIN --describe` prints; nil without a program.
	Describe func(ctx context.Context) ([]byte, error)
	// Connect starts the plugin anew.
	Connect func(ctx context.Context) (*Connection, error)
}

// Options of Run; the zero value is ready to use.
type Options struct {
	// Stages to check; empty means all.
	Stages []string
	// Settings, Shapes, Inputs and Labels by stage name. What is left out is made up from
	// the manifest.
	Settings map[string]map[string]string
	Shapes   map[string]map[string][]int64
	Inputs   map[string]map[string]*tensor.Tensor
	Labels   map[string][]sdk.LabelSet
	// AttributeSchema is JSON for stages that need one.
	AttributeSchema []byte
	Device          string
	// Threads the stages compute with; 0 means 1.
	Threads int
	Seed    uint64
	// CallTimeout bounds each call; 0 means a minute.
	CallTimeout time.Duration
	// Iterations of the case on growing memory; 0 means 240.
	Iterations int
	// GradientTolerance is the largest relative error; 0 means 0.02.
	GradientTolerance float64
	// Progress is told every result as it comes; nil for none.
	Progress func(Result)
}

// problem is a rule that was seen broken.
type problem struct{ seen, wanted string }

func (p *problem) Error() string { return p.seen + ", want " + p.wanted }

func broken(wanted, format string, args ...any) error {
	return &problem{seen: fmt.Sprintf(format, args...), wanted: wanted}
}

// fail ends the case: a rule was seen broken.
func fail(wanted, format string, args ...any) { check(broken(wanted, format, args...)) }

// notApplicable skips a case.
type notApplicable struct{ why string }

func (n *notApplicable) Error() string { return n.why }

// skip ends a case that says nothing about this plugin.
func skip(format string, args ...any) { check(&notApplicable{fmt.Sprintf(format, args...)}) }

// ended is the error that ends a case. Cases are scripts: like a test, one ends at the first
// step that fails, wherever that is.
type ended struct{ err error }

// check ends the case with an error, if there is one.
func check(err error) {
	if err != nil {
		panic(ended{err})
	}
}

// get is the answer of a step that has to succeed.
func get[T any](answer T, err error) T {
	check(err)
	return answer
}

// attempt runs a case and returns the error that ended it.
func attempt(script func()) (err error) {
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case ended:
			err = cause.err
		default:
			panic(cause)
		}
	}()
	script()
	return nil
}

// pluginCase is a rule about the whole plugin, stageCase one about a stage.
type pluginCase struct {
	name, rule, mend string
	run              func(ctx context.Context, r *runner)
}

type stageCase struct {
	name, rule, mend string
	// train restricts the case to trainable stages.
	train bool
	run   func(ctx context.Context, s *subject)
}

// cpu is the device that answers on others are compared with.
const cpu = "cpu"

type runner struct {
	target   Target
	options  Options
	manifest sdk.Manifest
	conn     *Connection
	report   *Report
}

// UnknownStage is an error about options that name a stage which the plugin has not.
type UnknownStage struct{ error }

// Run checks every rule and returns the report; the error is about the harness (the
// plugin did not even start, an *UnknownStage), never about a rule.
func Run(ctx context.Context, target Target, o Options) (*Report, error) {
	if o.Device == "" {
		o.Device = cpu
	}
	if o.Threads == 0 {
		o.Threads = 1
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = time.Minute
	}
	if o.Iterations == 0 {
		o.Iterations = 240
	}
	if o.GradientTolerance == 0 {
		o.GradientTolerance = 0.02
	}
	begin := time.Now()
	r := &runner{target: target, options: o, report: &Report{SchemaVersion: 1, Passed: true,
		Device: o.Device, Threads: o.Threads, Seed: o.Seed, Settings: o.Settings, Protocol: sdk.ProtocolMajor}}
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = r.conn.Close() }()
	var err error
	if r.manifest, err = r.conn.InBand.Describe(ctx); err != nil {
		return nil, err
	}
	r.report.Plugin, r.report.Version = r.manifest.Name, r.manifest.Version
	for _, name := range slices.Concat(o.Stages, slices.Sorted(maps.Keys(o.Settings)), slices.Sorted(maps.Keys(o.Shapes)),
		slices.Sorted(maps.Keys(o.Inputs)), slices.Sorted(maps.Keys(o.Labels))) {
		if _, err := r.manifest.Stage(name); err != nil {
			return nil, &UnknownStage{err}
		}
	}
	for _, c := range pluginCases {
		r.record(c.name, "", c.rule, c.mend, func() { c.run(ctx, r) })
	}
	for i := range r.manifest.Stages {
		m := &r.manifest.Stages[i]
		if len(o.Stages) > 0 && !slices.Contains(o.Stages, m.Name) {
			continue
		}
		if err := r.stage(ctx, m); err != nil {
			return nil, err
		}
	}
	r.report.Seconds, r.report.Summary = time.Since(begin).Seconds(), r.report.summary()
	return r.report, ctx.Err()
}

func (r *runner) connect(ctx context.Context) (err error) {
	r.conn, err = r.target.Connect(ctx)
	return err
}

func (r *runner) stage(ctx context.Context, m *sdk.StageManifest) error {
	s := &subject{runner: r, manifest: m, label: string(m.Kind) + " " + m.Name}
	defer s.closeAll()
	if err := r.deviceMissing(ctx, m); err != nil {
		return err
	}
	ready := r.record("sample", m.Name, "A stage opens and computes on inputs that fit its manifest.",
		"give realistic inputs with --in X.npz, --shape PORT=2x3x4, --labels TASK=a,b and --set KEY=VALUE", func() { s.prepare(ctx) })
	for _, c := range stageCases {
		if !ready {
			r.add(Result{Case: c.name, Stage: m.Name, Rule: c.rule, Status: Skip, Seen: "the stage did not compute on sample inputs"})
			continue
		}
		if c.train && !m.Trainable {
			r.add(Result{Case: c.name, Stage: m.Name, Rule: c.rule, Status: Skip, Seen: "the stage cannot be trained"})
			continue
		}
		r.record(c.name, m.Name, c.rule, c.mend, func() { c.run(ctx, s) })
		s.closeAll()
		if !r.healthy(ctx) {
			r.add(Result{Case: c.name, Stage: m.Name, Status: Fail, Rule: "A bad request never kills the process.",
				Seen: "the plugin does not answer after this case", Wanted: "a process that goes on serving",
				Mend: "look at the last lines of its standard error; catch the error and return it"})
			_ = r.conn.Close()
			if err := r.connect(ctx); err != nil {
				return err
			}
			if _, err := r.conn.InBand.Describe(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// deviceMissing is the error with which a stage computes nothing on the device that was asked
// for, though it does on the CPU: the machine lacks it, or its name is no device's. That is no
// rule that the plugin breaks.
func (r *runner) deviceMissing(ctx context.Context, m *sdk.StageManifest) error {
	asked := r.options.Device
	defer func() { r.options.Device = asked }()
	computes := func(device string) error {
		r.options.Device = device
		s := &subject{runner: r, manifest: m}
		defer s.closeAll()
		return attempt(func() { s.prepare(ctx) })
	}
	if asked == cpu {
		return nil
	}
	if err := computes(asked); err != nil && computes(cpu) == nil {
		return err
	}
	return nil
}

// record runs a case and reports whether it did not fail.
func (r *runner) record(name, stage, rule, mend string, run func()) bool {
	begin := time.Now()
	err := attempt(run)
	result := Result{Case: name, Stage: stage, Rule: rule, Status: Pass, Seconds: time.Since(begin).Seconds()}
	var seen *problem
	var skipped *notApplicable
	switch {
	case err == nil:
	case errors.As(err, &skipped):
		result.Status, result.Seen = Skip, skipped.why
	case errors.As(err, &seen):
		result.Status, result.Seen, result.Wanted, result.Mend = Fail, seen.seen, seen.wanted, mend
	default:
		result.Status, result.Seen, result.Wanted, result.Mend = Fail, err.Error(), "no error", mend
	}
	result.Seen = strings.Join(strings.Fields(result.Seen), " ") // one line, whatever an error holds
	r.add(result)
	return result.Status != Fail
}

func (r *runner) add(result Result) {
	r.report.Results = append(r.report.Results, result)
	r.report.Passed = r.report.Passed && result.Status != Fail
	if r.options.Progress != nil {
		r.options.Progress(result)
	}
}

func (r *runner) healthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := r.conn.InBand.Describe(ctx)
	return err == nil
}

// Failed returns the failed results.
func (r *Report) Failed() []Result {
	var out []Result
	for _, result := range r.Results {
		if result.Status == Fail {
			out = append(out, result)
		}
	}
	return out
}

// summary is "16 passed, 14 skipped (no losses declared; …)", with what failed before it.
func (r *Report) summary() string {
	counts, reasons := map[Status]int{}, map[string]int{}
	for _, result := range r.Results {
		if counts[result.Status]++; result.Status == Skip {
			reasons[result.Seen]++
		}
	}
	out := fmt.Sprintf("%d passed, %d skipped", counts[Pass], counts[Skip])
	if counts[Fail] > 0 {
		out = fmt.Sprintf("%d failed, %s", counts[Fail], out)
	}
	var why []string
	for _, reason := range slices.Sorted(maps.Keys(reasons)) {
		if n := reasons[reason]; n > 1 {
			reason = fmt.Sprintf("%d times %s", n, reason)
		}
		why = append(why, reason)
	}
	if len(why) > 0 {
		out += " (" + strings.Join(why, "; ") + ")"
	}
	return out
}

// String is one line: `FAIL head linear: double-backward: seen …, want … (mend)`.
func (r Result) String() string {
	var b strings.Builder
	b.WriteString(map[Status]string{Pass: "ok  ", Fail: "FAIL", Skip: "skip"}[r.Status])
	if r.Stage != "" {
		b.WriteString(" " + r.Stage + ":")
	}
	b.WriteString(" " + r.Case)
	switch r.Status {
	case Fail:
		fmt.Fprintf(&b, ": %s, want %s. %s To mend it: %s", r.Seen, r.Wanted, r.Rule, r.Mend)
	case Skip:
		b.WriteString(" (" + r.Seen + ")")
	}
	return b.String()
}
