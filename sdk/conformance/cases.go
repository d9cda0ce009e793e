package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/gradcheck"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

var pluginCases = []pluginCase{
	{"describe", "`PLUGIN --describe` prints the manifest as JSON, without a handshake, and Describe returns the same.",
		"print the protobuf JSON of the manifest to standard output and end with exit code 0", describe},
	{"manifest", "The manifest names the plugin, its version and its stages; ports have known dtypes and agree with the catalogue, settings valid defaults.",
		"correct the manifest; docs/explanation/architecture.md lists the ports", checkManifest},
	{"health", "The plugin serves grpc.health.v1.Health and reports \"plugin\" as SERVING.",
		"serve the health service; the SDKs do", health},
	{"unknown-stage", "Opening a stage that does not exist is InvalidArgument.",
		"return InvalidArgument with the names there are", unknownStage},
	{"unknown-instance", "A call on an instance that does not exist is NotFound.",
		"return NotFound", unknownInstance},
	{"lifeline", "A plugin dies with its host.",
		"read the file descriptor in ALIGNEDFUSION_LIFELINE_FD and end the process at its end of file", lifeline},
	{"shutdown", "Shutdown, then go-plugin's Shutdown, end the process in order within two seconds.",
		"serve plugin.GRPCController/Shutdown: stop the server and return from main", shutdown},
}

func describe(ctx context.Context, r *runner) {
	if r.target.Describe == nil {
		skip("no program to run")
	}
	printed, err := wire.ManifestFromJSON(get(r.target.Describe(ctx)))
	if err != nil {
		fail("the manifest as JSON", "%v", err)
	}
	if !proto.Equal(wire.ManifestToProto(printed), wire.ManifestToProto(r.manifest)) {
		fail("equal manifests", "--describe and Describe differ")
	}
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]*$`)

func checkManifest(_ context.Context, r *runner) {
	m := r.manifest
	switch {
	case !validName.MatchString(m.Name):
		fail("letters, digits, - and _", "plugin name %q", m.Name)
	case m.Version == "":
		fail("a version", "version is empty")
	case len(m.Stages) == 0:
		fail("at least one stage", "no stages")
	}
	seen := map[string]bool{}
	for _, s := range m.Stages {
		if !validName.MatchString(s.Name) || seen[s.Name] {
			fail("letters, digits, - and _, once each", "stage name %q", s.Name)
		}
		seen[s.Name] = true
		if !slices.Contains([]sdk.Kind{sdk.KindEncoder, sdk.KindText, sdk.KindFusion, sdk.KindHead}, s.Kind) {
			fail("encoder, text, fusion or head", "stage %s has kind %q", s.Name, s.Kind)
		}
		for _, side := range [][]sdk.Port{s.Inputs, s.Outputs} {
			names := map[string]bool{}
			for _, p := range side {
				if p.Name == "" || names[p.Name] {
					fail("a name, once each", "stage %s has port %q twice or without a name", s.Name, p.Name)
				}
				names[p.Name] = true
				if p.DType != "" && !p.DType.Known() {
					fail("an Open Inference Protocol name", "port %q of stage %s has dtype %q", p.Name, s.Name, p.DType)
				}
				if strings.Contains(strings.TrimSuffix(p.Name, ".*"), "*") {
					fail("an exact name or a family ending in .*", "port %q of stage %s", p.Name, s.Name)
				}
			}
		}
		var wrong *ports.Error
		if errors.As(ports.Check(s, m.Stages), &wrong) {
			fail(wrong.Wanted, "%s %q of stage %s %s", wrong.Side, wrong.Port, s.Name, wrong.Given)
		}
		for _, d := range s.Settings {
			if !slices.Contains([]string{"int", "float", "bool", "string", "path", "ints", "floats"}, d.Type) {
				fail("int, float, bool, string, path, ints or floats", "setting %s.%s has type %q", s.Name, d.Name, d.Type)
			}
			if d.Default == "" {
				continue // empty: not set
			}
			if _, err := sdk.ResolveSettings(s.Settings, map[string]string{d.Name: d.Default}); err != nil {
				fail("a default that is valid", "stage %s: %v", s.Name, err)
			}
		}
	}
}

func health(ctx context.Context, r *runner) {
	if r.conn.PID == 0 {
		skip("no process")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer := get(grpc_health_v1.NewHealthClient(r.conn.Conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "plugin"}))
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		fail("SERVING", "%s", answer.GetStatus())
	}
}

func unknownStage(ctx context.Context, r *runner) {
	// Over the stub: the client refuses to ask.
	_, err := stagev1.NewStageServiceClient(r.conn.Conn).Open(ctx, &stagev1.OpenRequest{Stage: "no-such-stage"})
	wantCode(wire.ErrorFromStatus(err, ""), "stage no-such-stage", "", sdk.InvalidArgument, sdk.NotFound)
}

func unknownInstance(ctx context.Context, r *runner) {
	stub := stagev1.NewStageServiceClient(r.conn.Conn)
	_, err := stub.Forward(ctx, &stagev1.ForwardRequest{Instance: 987654321, Mode: stagev1.Mode_MODE_EVAL})
	wantCode(wire.ErrorFromStatus(err, ""), "Forward on an instance that does not exist", "", sdk.NotFound)
	_, err = stub.Close(ctx, &stagev1.CloseRequest{Instance: 987654321})
	wantCode(wire.ErrorFromStatus(err, ""), "Close of an instance that does not exist", "", sdk.NotFound)
}

// another starts a second process for a case that ends it.
func (r *runner) another(ctx context.Context) *Connection {
	c := get(r.target.Connect(ctx))
	if _, err := c.InBand.Describe(ctx); err != nil {
		check(errors.Join(err, c.Close()))
	}
	return c
}

func lifeline(ctx context.Context, r *runner) {
	if r.conn.CutLifeline == nil {
		skip("no process with a lifeline")
	}
	r.ends(ctx, 3*time.Second, "its host died", func(c *Connection) error { c.CutLifeline(); return nil })
}

func shutdown(ctx context.Context, r *runner) {
	if r.conn.ShutDown == nil {
		skip("no process to end")
	}
	r.ends(ctx, 1800*time.Millisecond, "Shutdown", func(c *Connection) error { return c.ShutDown(ctx) }) // before the host's patience ends
}

// endTries are the processes of which one has to end in time: on a busy machine a clock runs
// out without anybody's fault. One that ran out while this process, too, woke late is not
// counted, until there were busyTries.
const (
	endTries  = 3
	busyTries = 12
)

// ends checks that a process ends in time.
func (r *runner) ends(ctx context.Context, within time.Duration, what string, end func(*Connection) error) {
	for counted, tries := 0, 1; counted < endTries && tries <= busyTries; tries++ {
		c := r.another(ctx)
		check(end(c))
		ended, late := c.endsWithin(within)
		if _ = c.Close(); ended {
			return
		}
		if !late {
			counted++
		}
	}
	fail("the end of the process", "it still runs %v after %s, in each of %d tries", within, what, endTries)
}

// endsWithin waits for the end of the process. Late says that this one was left waiting for a
// processor meanwhile: of its turns of 10 ms it had less than three in four.
func (c *Connection) endsWithin(limit time.Duration) (ended, late bool) {
	const turn = 10 * time.Millisecond
	over, turns := time.After(limit), time.Duration(0)
	for {
		select {
		case <-c.Exited:
			return true, false
		case <-over:
			return false, 4*turns*turn < 3*limit
		case <-time.After(turn):
			turns++
		}
	}
}

var stageCases = []stageCase{
	{name: "settings", rule: "An unknown setting is InvalidArgument and named.",
		mend: "check the settings' names against the manifest", run: unknownSetting},
	{name: "outputs", rule: "Outputs have the names, dtypes and shapes that the manifest declares, and finite values for finite inputs.",
		mend: "correct the outputs or the manifest", run: declaredOutputs},
	{name: "deterministic", rule: "Equal requests with equal seeds have equal answers, bit by bit.",
		mend: "take all randomness from the request's seed; use a fixed number of threads", run: deterministic},
	{name: "transports", rule: "In-band and shared memory give equal results.",
		mend: "read and write row-major, little-endian, contiguous data at the given offset and size", run: transports},
	{name: "inputs", rule: "Tensors lent to a plugin are read-only.",
		mend: "copy what you change in place", run: untouchedInputs},
	{name: "batch", rule: "In EVAL mode the answer about a case depends on that case alone.",
		mend: "normalize with running statistics, sum and sort within a case, keep nothing from the case before", run: batch},
	{name: "parity", rule: "A device and a lower precision that a stage claims change answers by rounding alone.",
		mend: "keep sums, normalizations and softmax in single precision", run: parity},
	{name: "half-precision", rule: "Half precision, where a plugin claims it, changes answers by rounding alone.",
		mend: "keep sums, normalizations, softmax and losses in single precision: half precision has no number above 65,504", run: halfPrecision},
	{name: "bad-input", rule: "An input of a wrong dtype, rank or size, an undeclared or a missing one is InvalidArgument and named.",
		mend: "check every request against the manifest before computing", run: badInput},
	{name: "bad-bytes", rule: "Bytes that do not fit the shape, and places outside the shared memory, are InvalidArgument.",
		mend: "check sizes and offsets before touching memory", run: badBytes},
	{name: "eval-leaves-nothing", rule: "EVAL leaves no context behind.",
		mend: "keep a graph only in TRAIN mode", train: true, run: evalLeavesNothing},
	{name: "unknown-context", rule: "Backward of a context that never was is NotFound.",
		mend: "return NotFound", train: true, run: unknownContext},
	{name: "double-backward", rule: "A second Backward of a context is FailedPrecondition.",
		mend: "end the context at its first Backward and remember that it has ended", train: true, run: doubleBackward},
	{name: "context-order", rule: "Contexts are independent: two open ones, gone backward in the other order, give the same gradients.",
		mend: "keep what Backward needs per context, not per instance", train: true, run: contextOrder},
	{name: "context-bound", rule: "Open contexts are bounded by the manifest's max_open_contexts.",
		mend: "refuse a further TRAIN Forward with FailedPrecondition", train: true, run: contextBound},
	{name: "release", rule: "Release ends a context, is idempotent and skips unknown contexts.",
		mend: "drop the context's graph; ignore contexts that are not open", train: true, run: release},
	{name: "losses", rule: "A TRAIN Forward that is given the targets returns losses that the manifest declares.",
		mend: "compute the loss from the target ports and return it; declare its name", train: true, run: losses},
	{name: "gradients", rule: "Backward is exact: equal to finite differences.",
		mend: "check the stage's derivative; `alignedfusion stage grad` shows the numbers", train: true, run: gradients},
	{name: "parameters", rule: "Parameter gradients are exact: a short step along them lowers the objective by its length times their norm squared, each parameter's equals finite differences, and none that is trained is left out.",
		mend: "detach nothing and scale no gradient between the parameters and the objective; count in trainable_count what is trained", train: true, run: parameters},
	{name: "linear", rule: "Backward is linear in the incoming gradients; zero gradients give zero.",
		mend: "seed the vector-Jacobian product with the given gradients, nothing else", train: true, run: linear},
	{name: "accumulate", rule: "Parameter gradients accumulate until ZeroGrad.",
		mend: "add to the gradients in Backward, clear them in ZeroGrad only", train: true, run: accumulate},
	{name: "step", rule: "Step moves the parameters by the learning rate and the scaled gradient; a learning rate of 0 moves nothing.",
		mend: "multiply every gradient by gradient_scale before the update, use values[\"learning_rate\"]", train: true, run: step},
	{name: "one-call", rule: "What the capabilities forward-backward, backward-norm, step-zero-grad and step-all do in one call is what the separate calls do, bit by bit.",
		mend: "do the same things in the same order, or leave the capability out of the manifest", train: true, run: oneCall},
	{name: "frozen", rule: "A stage that answers a trainable_count of 0 when it is opened frozen changes nothing of itself in training.",
		mend: "use running statistics as in EVAL mode and leave them as they are; train no parameter", train: true, run: frozen},
	{name: "save-load", rule: "Save and Load are bit-exact, optimizer included: train k, save, load, train k = train 2k. Weights are safetensors.",
		mend: "save parameters, buffers, optimizer state and step counts; write safetensors", train: true, run: saveLoad},
	{name: "own-rule", rule: "An optimizer of a stage's own moves nothing at a learning rate of 0, lowers the objective in a short step, and is saved and loaded bit by bit, as is a training by a schedule of its own.",
		mend: "move against the gradient, by the learning rate; save all that the next step needs; make the rate of base_rate, step and steps alone", train: true, run: ownRule},
	{name: "load-broken", rule: "Loading a broken or missing file is an error and changes nothing.",
		mend: "read and check everything before replacing any weight", train: true, run: loadBroken},
	{name: "cancel", rule: "A cancelled call leaves the instance usable.",
		mend: "leave no lock held and no half-made state behind a cancelled call", run: cancelled},
	{name: "instances", rule: "Instances are independent of each other.",
		mend: "keep state per instance, not in globals", run: instances},
	{name: "close", rule: "After Close the instance does not exist.",
		mend: "forget the instance in Close", run: closed},
	{name: "growth", rule: "Memory and open files do not grow with the number of calls.",
		mend: "free what a call allocates; drop graphs of ended contexts", run: growth},
}

func unknownSetting(ctx context.Context, s *subject) {
	req := s.request(s.manifest, s.inputs, opening{})
	req.Settings = maps.Clone(req.Settings)
	if req.Settings == nil {
		req.Settings = sdk.Settings{}
	}
	req.Settings["no-such-setting"] = "1"
	i, _, err := s.conn.InBand.Open(ctx, req)
	if err == nil {
		_ = i.Close(ctx)
	}
	wantCode(err, "setting no-such-setting", "no-such-setting", sdk.InvalidArgument)
}

func declaredOutputs(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: s.manifest.Trainable})
	for _, train := range []bool{false, true} {
		if train && !s.manifest.Trainable {
			continue
		}
		// The client checks names, dtypes and shapes.
		resp := get(c.Forward(ctx, &sdk.ForwardRequest{Context: 1, Train: train, Seed: s.options.Seed, Inputs: s.inputs, Wanted: s.onRequest()}))
		for name := range s.onRequest() {
			if resp.Outputs[name] == nil {
				fail("an output that was asked for", "no %q", name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(resp.Outputs)) {
			values, err := resp.Outputs[name].Float32s()
			if err != nil || ports.Metrics.Has(name) {
				continue // not floating point; NaN where a case has no metric
			}
			for i, v := range values {
				if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
					fail("finite values", "output %q has %v at %d", name, v, i)
				}
			}
		}
		for name, v := range resp.Losses {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				fail("a finite value", "loss %q is %v", name, v)
			}
		}
	}
}

// onRequest are the outputs that the stage computes when it is asked for them.
func (s *subject) onRequest() map[string]bool {
	out := map[string]bool{}
	for _, p := range s.manifest.Outputs {
		if _, family := sdk.Family(p.Name); p.OnRequest && !p.Resident && !family {
			out[p.Name] = true
		}
	}
	return out
}

func deterministic(ctx context.Context, s *subject) {
	for _, train := range []bool{false, true} {
		if train && !s.manifest.Trainable {
			continue
		}
		var answers []map[string]*tensor.Tensor
		for range 2 {
			c := s.open(ctx, s.conn.InBand, opening{train: train})
			resp := c.run(ctx, 1, train, s.inputs, nil)
			answers = append(answers, resp.Outputs)
			if again := s.evaluate(ctx, c, 2); !train {
				same("the second run of an instance", again, resp.Outputs)
			}
		}
		same(fmt.Sprintf("a second instance (train %v)", train), answers[1], answers[0])
	}
}

func transports(ctx context.Context, s *subject) {
	if s.conn.Shared == nil {
		skip("the plugin has no shared memory")
	}
	get(s.conn.Shared.Describe(ctx))
	var outputs, grads []map[string]*tensor.Tensor
	for _, shared := range []bool{false, true} {
		connection := s.conn.InBand
		if shared {
			connection = s.conn.Shared
		}
		c := s.open(ctx, connection, opening{train: s.manifest.Trainable})
		resp := c.run(ctx, 1, s.manifest.Trainable, s.inputs, s.wantedGradients())
		outputs = append(outputs, resp.Outputs)
		if s.manifest.Trainable {
			grads = append(grads, c.back(ctx, 1, resp, wave, 1))
		}
	}
	same("shared memory against in-band", outputs[1], outputs[0])
	if s.manifest.Trainable {
		same("gradients by shared memory against in-band", grads[1], grads[0])
	}
}

func (s *subject) wantedGradients() map[string]bool {
	if !s.manifest.Trainable {
		return nil
	}
	return s.differentiable()
}

// floating returns the first FP32 input that is no target, "" without one.
func (s *subject) floating() string {
	for _, name := range slices.Sorted(maps.Keys(s.inputs)) {
		if t := s.inputs[name]; t.DType == tensor.FP32 && len(t.Shape) > 0 && t.Len() > 0 && !s.isTarget(name) {
			return name
		}
	}
	return ""
}

func badInput(ctx context.Context, s *subject) {
	name := s.floating()
	if name == "" {
		skip("no floating-point input")
	}
	c := s.open(ctx, s.conn.InBand, opening{})
	good := s.inputs[name]
	refuse := func(what, word string, change func(map[string]*tensor.Tensor)) {
		inputs := maps.Clone(s.inputs)
		change(inputs)
		_, err := c.tryRun(ctx, 1, false, inputs, nil)
		wantCode(err, what, word, sdk.InvalidArgument)
	}
	p := sdk.FindPort(s.manifest.Inputs, name)
	refuse("an undeclared input", "no.such.input", func(in map[string]*tensor.Tensor) { in["no.such.input"] = good })
	if p.DType != "" {
		other := &tensor.Tensor{DType: tensor.Int32, Shape: good.Shape, Data: good.Data}
		refuse("INT32 for FP32", name, func(in map[string]*tensor.Tensor) { in[name] = other })
	}
	if len(p.Shape) > 0 {
		flat := &tensor.Tensor{DType: good.DType, Shape: append([]int64{1}, good.Shape...), Data: good.Data}
		refuse("an input with a dimension too many", name, func(in map[string]*tensor.Tensor) { in[name] = flat })
	}
	if p.Required {
		refuse("a missing required input", "", func(in map[string]*tensor.Tensor) {
			prefix, family := sdk.Family(p.Name)
			maps.DeleteFunc(in, func(n string, _ *tensor.Tensor) bool { return n == name || family && strings.HasPrefix(n, prefix) })
		})
	}
	// The instance goes on working.
	c.run(ctx, 2, false, s.inputs, nil)
}

func badBytes(ctx context.Context, s *subject) {
	name := s.floating()
	if name == "" {
		skip("no floating-point input")
	}
	stub := stagev1.NewStageServiceClient(s.conn.Conn)
	c := s.open(ctx, s.conn.InBand, opening{})
	t := s.inputs[name]
	for what, payload := range map[string]*stagev1.Tensor{
		"too few bytes":                   {Payload: &stagev1.Tensor_Raw{Raw: t.Data[:len(t.Data)-1]}},
		"too many bytes":                  {Payload: &stagev1.Tensor_Raw{Raw: append(slices.Clone(t.Data), 0)}},
		"a place outside shared memory":   {Payload: &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: 1 << 50, Size: uint64(len(t.Data))}}},
		"a place whose end overflows":     {Payload: &stagev1.Tensor_Shared{Shared: &stagev1.SharedRef{Offset: math.MaxUint64 - 63, Size: uint64(len(t.Data))}}},
		"a negative size in the shape":    {Shape: []int64{-1}, Payload: &stagev1.Tensor_Raw{Raw: t.Data}},
		"a shape whose product overflows": {Shape: []int64{math.MaxInt64, math.MaxInt64}, Payload: &stagev1.Tensor_Raw{Raw: t.Data}},
	} {
		payload.Name, payload.Dtype = name, string(t.DType)
		if payload.Shape == nil {
			payload.Shape = t.Shape
		}
		_, err := stub.Forward(ctx, &stagev1.ForwardRequest{Instance: c.ID(), Mode: stagev1.Mode_MODE_EVAL, Inputs: []*stagev1.Tensor{payload}})
		wantCode(wire.ErrorFromStatus(err, ""), what, name, sdk.InvalidArgument)
	}
}

func (c *chain) onlyBackward(ctx context.Context, id uint64) error {
	_, err := c.Instance.Backward(ctx, &sdk.BackwardRequest{Context: id})
	return err
}

func evalLeavesNothing(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	c.run(ctx, 71, false, s.inputs, nil)
	wantCode(c.onlyBackward(ctx, 71), "Backward after an EVAL run", "", sdk.NotFound, sdk.FailedPrecondition)
}

func unknownContext(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	wantCode(c.onlyBackward(ctx, 4242), "Backward of context 4242, which never was", "", sdk.NotFound)
}

func doubleBackward(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	c.forwardBackward(ctx, 1, wave, 1)
	wantCode(c.onlyBackward(ctx, 1), "the second Backward of context 1", "", sdk.FailedPrecondition)
}

func contextOrder(ctx context.Context, s *subject) {
	if s.runner.manifest.OpenContexts() < 2 {
		skip("the plugin allows one open context")
	}
	other := maps.Clone(s.inputs)
	if name := s.floating(); name != "" {
		values := get(other[name].Clone().Float32s())
		slices.Reverse(values)
		other[name] = tensor.OfFloat32s(values, other[name].Shape...)
	}
	both := []map[string]*tensor.Tensor{s.inputs, other}
	// Each by itself, in an instance of its own: running statistics change in TRAIN mode.
	var alone []map[string]*tensor.Tensor
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	for i, inputs := range both {
		resp := c.run(ctx, uint64(i+1), true, inputs, s.differentiable())
		alone = append(alone, c.back(ctx, uint64(i+1), resp, wave, 1))
	}
	c = s.open(ctx, s.conn.InBand, opening{train: true})
	var responses []*sdk.ForwardResponse
	for i, inputs := range both {
		responses = append(responses, c.run(ctx, uint64(i+1), true, inputs, s.differentiable()))
	}
	for _, i := range []int{1, 0} {
		g := c.back(ctx, uint64(i+1), responses[i], wave, 1)
		same(fmt.Sprintf("gradients of context %d of two, gone backward in the other order", i+1), g, alone[i])
	}
}

func contextBound(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	bound := s.runner.manifest.OpenContexts()
	for i := range bound {
		if _, err := c.tryRun(ctx, uint64(i+1), true, s.inputs, nil); err != nil {
			fail("success", "Forward %d of %d allowed open contexts: %v", i+1, bound, err)
		}
	}
	_, err := c.Instance.Forward(ctx, &sdk.ForwardRequest{Context: uint64(bound + 1), Train: true, Seed: s.options.Seed, Inputs: s.inputs})
	wantCode(err, fmt.Sprintf("Forward with %d contexts open", bound), "", sdk.FailedPrecondition, sdk.ResourceExhausted)
}

func release(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	for i := range 2*s.runner.manifest.OpenContexts() + 1 {
		id := uint64(i + 1)
		if _, err := c.tryRun(ctx, id, true, s.inputs, nil); err != nil {
			fail("room after a Release", "Forward %d: %v", i+1, err)
		}
		for _, released := range []uint64{id, id, 99999} {
			if err := c.Release(ctx, released); err != nil {
				fail("no error", "Release of contexts %d, %d and 99999: %v", id, id, err)
			}
		}
		wantCode(c.onlyBackward(ctx, id), "Backward after Release", "", sdk.FailedPrecondition, sdk.NotFound)
	}
}

func gradients(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	results, err := gradcheck.Check(ctx, c, s.inputs, gradcheck.Options{Seed: s.options.Seed, FirstContext: 1, Edges: true})
	if errors.Is(err, gradcheck.ErrNothing) {
		skip("no differentiable input")
	}
	check(err)
	// A direction across a corner of a piecewise function disagrees by itself; a wrong
	// derivative disagrees along every direction.
	best := map[string]gradcheck.Result{}
	for _, r := range results {
		key := fmt.Sprint(r.Input, " ", r.Part)
		if b, ok := best[key]; !ok || r.RelativeError < b.RelativeError {
			best[key] = r
		}
	}
	for _, key := range slices.Sorted(maps.Keys(best)) {
		if r := best[key]; r.RelativeError > s.options.GradientTolerance && math.Abs(r.Analytic-r.Numeric) > 2*r.NumericUncertainty {
			fail(fmt.Sprintf("%.6g by finite differences", r.Numeric), "derivative along a direction of %q is %.6g", r.Input, r.Analytic)
		}
	}
}

func losses(ctx context.Context, s *subject) {
	if len(s.manifest.Losses) == 0 {
		skip("no losses declared")
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(s.inputs)), s.isTarget) {
		skip("no targets that suit it")
	}
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	resp := c.run(ctx, 1, true, s.inputs, nil)
	for _, name := range c.promised {
		if _, there := resp.Losses[name]; !there {
			fail("the losses that Open promised: "+strings.Join(c.promised, ", "), "no loss %q from a TRAIN Forward with targets", name)
		}
	}
	if len(resp.Losses) == 0 {
		fail("one or more of "+strings.Join(s.manifest.Losses, ", "), "no loss from a TRAIN Forward with targets")
	}
	check(c.Release(ctx, 1))
}

func linear(ctx context.Context, s *subject) {
	if len(s.differentiable()) == 0 {
		skip("no differentiable input")
	}
	other := func(name string, i int) float32 { return float32(math.Cos(float64(i)*1.3 + float64(len(name)))) }
	var got []map[string]*tensor.Tensor
	for _, g := range []func(string, int) float32{wave, other,
		func(n string, i int) float32 { return wave(n, i) + other(n, i) }, zero} {
		// Fresh instances: TRAIN mode may change running statistics.
		c := s.open(ctx, s.conn.InBand, opening{train: true})
		got = append(got, c.forwardBackward(ctx, 1, g, 0))
		s.closeAll()
	}
	for name := range s.differentiable() {
		a, b := get(got[0][name].Float32s()), get(got[1][name].Float32s())
		sum, none := get(got[2][name].Float32s()), get(got[3][name].Float32s())
		var difference, size float64
		for i := range sum {
			d := float64(a[i]) + float64(b[i]) - float64(sum[i])
			difference += d * d
			size += float64(a[i])*float64(a[i]) + float64(b[i])*float64(b[i])
			if none[i] != 0 {
				fail("0", "zero output gradients give %g in the gradient of %q", none[i], name)
			}
		}
		if math.Sqrt(difference) > 1e-3*math.Sqrt(size)+1e-7 {
			fail("the sum of the two", "the gradient of %q for the sum of two output gradients is off by %.2g of its size",
				name, math.Sqrt(difference/max(size, 1e-30)))
		}
	}
}

func accumulate(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	check(c.ZeroGrad(ctx))
	// Gradients of the outputs alone: without running statistics they are the same.
	c.forwardBackward(ctx, 1, wave, 1)
	once := get(c.GradNorm(ctx))
	if once == 0 {
		skip("no parameter takes part")
	}
	c.forwardBackward(ctx, 2, wave, 1)
	if twice := get(c.GradNorm(ctx)); math.Abs(twice-2*once) > 1e-3*once {
		fail(fmt.Sprintf("%.6g, twice the first", 2*once), "the norm after two equal Backwards is %.6g", twice)
	}
	check(c.ZeroGrad(ctx))
	c.wantNoGradients(ctx, "ZeroGrad")
}

func (c *chain) wantNoGradients(ctx context.Context, after string) {
	if norm := get(c.GradNorm(ctx)); norm != 0 {
		fail("0", "the norm after %s is %g", after, norm)
	}
}

// stepped opens an instance, makes one Step on one Backward and returns what EVAL then
// gives, what is made on request included.
func (s *subject) stepped(ctx context.Context, learningRate, scale float64) map[string]*tensor.Tensor {
	c := s.open(ctx, s.conn.InBand, opening{train: true, optimizer: plainSGD})
	check(c.ZeroGrad(ctx))
	c.forwardBackward(ctx, 1, wave, 1)
	if get(c.GradNorm(ctx)) == 0 {
		skip("no parameter takes part")
	}
	check(c.Step(ctx, &sdk.StepRequest{Values: map[string]float64{"learning_rate": learningRate}, GradientScale: scale}))
	out := get(c.Forward(ctx, &sdk.ForwardRequest{Context: 2, Seed: s.options.Seed, Inputs: s.inputs, Wanted: s.onRequest()})).Outputs
	s.closeAll()
	return out
}

func step(ctx context.Context, s *subject) {
	still := s.stepped(ctx, 0, 1)
	moved := s.stepped(ctx, 0.25, 1)
	half := s.stepped(ctx, 0.5, 0.5)
	nothing := s.stepped(ctx, 0.25, 0)
	if equalTensors("", moved, still) == nil {
		fail("other outputs", "a step with learning rate 0.25 changed no output")
	}
	same("outputs after a step with gradient scale 0, against learning rate 0", nothing, still)
	same("outputs after learning rate 0.5 and gradient scale 0.5, against 0.25 and 1", half, moved)
}

// outcome is what a stage answered in training, and what it gives afterwards.
type outcome struct {
	losses  []map[string]float64
	grads   []map[string]*tensor.Tensor
	norms   []float64
	outputs map[string]*tensor.Tensor
}

// oneCall compares two instances: one is trained in as few calls as the plugin allows.
func oneCall(ctx context.Context, s *subject) {
	together := []string{sdk.CapabilityForwardBackward, sdk.CapabilityBackwardNorm, sdk.CapabilityStepZeroGrad, sdk.CapabilityStepAll}
	if !slices.ContainsFunc(together, func(c string) bool { return slices.Contains(s.runner.manifest.Capabilities, c) }) {
		skip("the plugin does nothing of several calls in one")
	}
	if slices.ContainsFunc(s.manifest.Losses, func(name string) bool { _, family := sdk.Family(name); return family }) {
		skip("the losses are named by a family: they cannot be weighed before they are known")
	}
	want := s.trainFor(ctx, (*chain).separateStep)
	got := s.trainFor(ctx, (*chain).mergedStep)
	for k := range want.losses {
		if !maps.Equal(got.losses[k], want.losses[k]) || got.norms[k] != want.norms[k] {
			fail(fmt.Sprintf("losses %v, gradient norm %v", want.losses[k], want.norms[k]), "step %d in few calls: losses %v, gradient norm %v",
				k+1, got.losses[k], got.norms[k])
		}
		same(fmt.Sprintf("input gradients of step %d in few calls", k+1), got.grads[k], want.grads[k])
	}
	same("outputs after training in few calls", got.outputs, want.outputs)
}

// trainFor makes three steps of two contexts each.
func (s *subject) trainFor(ctx context.Context, step func(*chain, context.Context, uint64, *outcome)) *outcome {
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	out := &outcome{}
	for k := range uint64(3) {
		step(c, ctx, 2*k+1, out)
	}
	out.outputs = s.evaluate(ctx, c, 100)
	s.closeAll()
	return out
}

// usualStep is a step without momentum's surprises: a tenth of the gradient.
var usualStep = sdk.StepRequest{Values: map[string]float64{"learning_rate": 0.1}, GradientScale: 0.5}

func (c *chain) separateStep(ctx context.Context, id uint64, out *outcome) {
	check(c.ZeroGrad(ctx))
	resp := c.run(ctx, id, true, c.subject.inputs, c.subject.differentiable())
	first := c.backRequest(id, resp, wave, 0.5)
	first.OutputGrads = nil
	back := get(c.Backward(ctx, first))
	out.losses, out.grads = append(out.losses, resp.Losses), append(out.grads, back.InputGrads)
	c.forwardBackward(ctx, id+1, wave, 0.5)
	out.norms = append(out.norms, get(c.GradNorm(ctx)))
	req := usualStep
	check(c.Step(ctx, &req))
}

func (c *chain) mergedStep(ctx context.Context, id uint64, out *outcome) {
	weights := map[string]float64{}
	for _, name := range c.Manifest().Losses {
		weights[name] = 0.5
	}
	req := &sdk.ForwardRequest{Context: id, Train: true, Seed: c.subject.options.Seed, Inputs: c.subject.inputs, NeedsGrad: c.subject.differentiable()}
	resp, back, err := c.ForwardBackward(ctx, req, &sdk.BackwardRequest{Context: id, LossWeights: weights})
	check(err)
	if back == nil {
		fail("a Backward, for all losses are numbers", "none of losses %v", resp.Losses)
	}
	out.losses, out.grads = append(out.losses, resp.Losses), append(out.grads, back.InputGrads)
	resp = c.run(ctx, id+1, true, c.subject.inputs, c.subject.differentiable())
	last := c.backRequest(id+1, resp, wave, 0.5)
	last.GradNorm = true
	back = get(c.Backward(ctx, last))
	out.norms = append(out.norms, back.GradNorm)
	step := usualStep
	step.ZeroGrad = true
	check(client.StepAll(ctx, []*client.Instance{c.Instance}, []*sdk.StepRequest{&step}))
	c.wantNoGradients(ctx, "a Step that clears the gradients")
}

func frozen(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{train: true, frozen: true})
	if c.trainable > 0 {
		skip("the stage does not say that it can be frozen")
	}
	before := s.evaluate(ctx, c, 1)
	for id := range uint64(3) {
		c.forwardBackward(ctx, id+2, wave, 1)
	}
	after := s.evaluate(ctx, c, 9)
	same("outputs of a frozen stage after it was trained with", after, before)
}

func (s *subject) evaluate(ctx context.Context, c *chain, id uint64) map[string]*tensor.Tensor {
	return c.run(ctx, id, false, s.inputs, nil).Outputs
}

const trainingSteps = 3

func saveLoad(ctx context.Context, s *subject) {
	dir := get(os.MkdirTemp(s.conn.TempDir, "conformance-"))
	defer os.RemoveAll(dir)
	first := s.open(ctx, s.conn.InBand, opening{train: true})
	first.trainSteps(ctx, 1, trainingSteps, 0.05)
	files, err := first.Save(ctx, dir)
	if sdk.CodeOf(err) == sdk.Unimplemented {
		fail("Save", "a trainable stage that cannot be saved")
	}
	check(err)
	onlySafetensors(dir, files)
	first.trainSteps(ctx, 101, trainingSteps, 0.05)
	want := s.evaluate(ctx, first, 900)
	// Another seed: nothing of the new instance's own beginning may remain.
	second := s.open(ctx, s.conn.InBand, opening{train: true, seed: 17})
	check(second.Load(ctx, dir, false))
	again := get(os.MkdirTemp(s.conn.TempDir, "conformance-"))
	defer os.RemoveAll(again)
	get(second.Save(ctx, again))
	for _, name := range files {
		if !bytes.Equal(get(os.ReadFile(filepath.Join(dir, name))), get(os.ReadFile(filepath.Join(again, name)))) {
			fail("equal files", "%s saved after Load differs from the one loaded", name)
		}
	}
	// The stages before it have the first one's weights no more, but they are not trained
	// here: with one seed they begin alike.
	if len(s.providers) == 0 {
		second.trainSteps(ctx, 101, trainingSteps, 0.05)
		got := s.evaluate(ctx, second, 900)
		same(fmt.Sprintf("train %d, save, load, train %d against train %d", trainingSteps, trainingSteps, 2*trainingSteps), got, want)
	}
}

func onlySafetensors(dir string, files []string) {
	if len(files) == 0 {
		fail("at least one file", "Save wrote nothing")
	}
	weights := false
	for _, name := range files {
		switch filepath.Ext(name) {
		case ".safetensors":
			f, err := safetensors.Open(filepath.Join(dir, name))
			if err != nil {
				fail("a safetensors file", "%v", err)
			}
			check(f.Close())
			weights = true
		case ".json":
		default:
			fail("safetensors for numbers, JSON for the rest", "Save wrote %q", name)
		}
	}
	if !weights {
		fail("a .safetensors file", "Save wrote %v", files)
	}
}

func loadBroken(ctx context.Context, s *subject) {
	dir := get(os.MkdirTemp(s.conn.TempDir, "conformance-"))
	defer os.RemoveAll(dir)
	c := s.open(ctx, s.conn.InBand, opening{train: true})
	files := get(c.Save(ctx, dir))
	before := s.evaluate(ctx, c, 1)
	for _, damage := range []string{"cut in half", "missing"} {
		for _, name := range files {
			path := filepath.Join(dir, name)
			whole := get(os.ReadFile(path))
			if damage == "missing" {
				check(os.Remove(path))
			} else {
				check(os.WriteFile(path, whole[:len(whole)/2], 0o600))
			}
			if err := c.Load(ctx, dir, false); err == nil {
				fail("an error", "Load accepted %s %s", name, damage)
			}
			check(os.WriteFile(path, whole, 0o600))
		}
	}
	after := s.evaluate(ctx, c, 2)
	same("outputs after refused Loads", after, before)
}

func cancelled(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{})
	want := s.evaluate(ctx, c, 1)
	// Each call lives twice as long as the one before, until one ends by itself: so one is
	// cut off in its midst, however fast the plugin and the machine are.
	for i, life := uint64(0), time.Duration(0); i < 10; i, life = i+1, max(2*life, 500*time.Microsecond) {
		short, cancel := context.WithTimeout(ctx, life)
		_, err := c.tryRun(short, 10+i, false, s.inputs, nil)
		cancel()
		if err == nil {
			break
		}
		if status.Code(err) != codes.Canceled && status.Code(err) != codes.DeadlineExceeded &&
			!errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			fail("a cancelled call", "a call with %v to live: %v", life, err)
		}
	}
	got, err := c.tryRun(ctx, 100, false, s.inputs, nil)
	if err != nil {
		fail("the usual answer", "after cancelled calls: %v", err)
	}
	same("outputs after cancelled calls", got.Outputs, want)
}

func instances(ctx context.Context, s *subject) {
	a := s.open(ctx, s.conn.InBand, opening{train: s.manifest.Trainable})
	want := s.evaluate(ctx, a, 1)
	b := s.open(ctx, s.conn.InBand, opening{train: s.manifest.Trainable, seed: 5})
	if s.manifest.Trainable {
		b.trainSteps(ctx, 1, 1, 0.1)
	} else {
		s.evaluate(ctx, b, 1)
	}
	check(b.Close(ctx))
	got := s.evaluate(ctx, a, 2)
	same("an instance after another one was opened, used and closed", got, want)
}

func closed(ctx context.Context, s *subject) {
	c := s.open(ctx, s.conn.InBand, opening{})
	check(c.Close(ctx))
	_, err := c.Instance.Forward(ctx, &sdk.ForwardRequest{Context: 1, Inputs: s.inputs})
	wantCode(err, "Forward on a closed instance", "", sdk.NotFound)
}

// Growth is seen when every later quarter of the calls adds more than this: an allocator
// that settles adds less and less.
const (
	allowedGrowth      = 0.01
	allowedGrowthBytes = 1 << 20
	allowedFiles       = 2
)

func growth(ctx context.Context, s *subject) {
	if s.conn.PID == 0 {
		skip("no process of its own")
	}
	connection := s.conn.InBand
	if s.conn.Shared != nil {
		connection = s.conn.Shared
	}
	c := s.open(ctx, connection, opening{train: s.manifest.Trainable})
	// Slow stages get fewer iterations: the whole suite should take less than half a minute.
	end := time.Now().Add(4 * time.Second)
	quarter := max(s.options.Iterations/4, 1)
	var memory []int64
	var files []int
	for q := range 4 {
		for k := range quarter {
			if time.Now().After(end) {
				skip("too slow for %d calls in the time there is", s.options.Iterations)
			}
			if id := uint64(1 + q*quarter + k); s.manifest.Trainable && k%2 == 0 {
				c.forwardBackward(ctx, id, wave, 1)
			} else {
				s.evaluate(ctx, c, id)
			}
		}
		rss, open, err := footprint(s.conn.PID)
		if err != nil {
			skip("%v", err)
		}
		memory, files = append(memory, rss), append(files, open)
	}
	grows := true
	for q := 1; q < len(memory); q++ {
		grows = grows && memory[q]-memory[q-1] > int64(allowedGrowth*float64(memory[q-1]))+allowedGrowthBytes
	}
	if grows {
		fail("no growth", "resident memory grew by quarters of %d calls: %d, %d, %d, %d MiB", quarter,
			memory[0]>>20, memory[1]>>20, memory[2]>>20, memory[3]>>20)
	}
	if files[3] > files[0]+allowedFiles {
		fail("no growth", "open files grew from %d to %d in %d calls", files[0], files[3], 3*quarter)
	}
}

// footprint reads a process's resident memory in bytes and its open files.
func footprint(pid int) (rss int64, files int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, err
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared); err != nil {
		return 0, 0, err
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, 0, err
	}
	// Shared memory is the host's arena; only its own pages count.
	return (resident - shared) * int64(os.Getpagesize()), len(entries), nil
}
