// Package toy is a small trainable plugin in plain Go: linear stages with exact
// gradients. The host's tests use it in their own process and, built from ./plugin,
// as a real one, so that they need no libtorch.
//
// Images are cut into square cells; a token is a linear map of a cell's mean,
// maximum, minimum and centre contrast. The fusion adds a linear map of the report's
// states to every token; the heads are a logistic regression per cell (detect) and a
// softmax regression on the pooled tokens (classify).
package toy

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Features is the number of numbers a cell is described by.
const Features = 4

// textWidth is the width of a text's embedding.
const textWidth = 4

func tokensPort(width string) sdk.Port {
	return ports.Tokens.Declare(ports.Shape("N", "T", width), ports.Required)
}

// Manifest describes the plugin.
func Manifest() sdk.Manifest {
	gridPort := sdk.Port{Name: "grid", DType: tensor.Int64, Shape: []string{"4"}, Required: true, Resident: true}
	return sdk.Manifest{
		Name: "toy", Version: "0.1.0", License: "Apache-2.0", Runtime: "go", Capabilities: []string{"train"},
		ModelCard: "linear stages for tests; no medical use",
		Stages: []sdk.StageManifest{
			{
				Name: "text", Kind: sdk.KindText, Summary: "bytes of a prompt, weighed by those of a file",
				Inputs:   []sdk.Port{ports.Text.Declare(ports.Required)},
				Outputs:  []sdk.Port{ports.Embedding.Declare(ports.Required)},
				Settings: sdk.SettingsOf(textSettings{}),
			},
			{
				Name: "encoder", Kind: sdk.KindEncoder, Summary: "cells of the image as linear tokens", Trainable: true,
				Inputs: []sdk.Port{
					ports.Volume.Declare(ports.Shape("N", "1", "1", "H", "W"), ports.SizeMultiple(16),
						ports.Intensity(sdk.Intensity{Low: -1024, High: 2050, OutLow: 0, OutHigh: 1})),
					ports.Images.Declare(ports.SizeMultiple(16), ports.Intensity(sdk.Intensity{Low: 0, High: 255, OutLow: 0, OutHigh: 1})),
				},
				Outputs:  []sdk.Port{tokensPort("C"), gridPort},
				Settings: sdk.SettingsOf(encoderSettings{}),
			},
			{
				Name: "fusion", Kind: sdk.KindFusion, Summary: "adds a linear map of the report to every token", Trainable: true,
				Inputs: []sdk.Port{tokensPort("C"), ports.ReportState.Declare(), ports.ReportValue.Declare()},
				Outputs: []sdk.Port{
					tokensPort("C"),
					ports.Joint.Declare(ports.Shape("N", "C"), ports.Required), ports.Reconstruction.Declare(),
				},
				Losses: []string{"reconstruction"},
			},
			{
				Name: "detector", Kind: sdk.KindHead, Summary: "one box of a fixed size per cell", Trainable: true, Tasks: []string{"detect"},
				Inputs: []sdk.Port{
					tokensPort("C"), gridPort,
					ports.TargetBoxes.Declare(), ports.TargetImage.Declare(),
				},
				Outputs:  []sdk.Port{ports.Boxes.Declare(), ports.Scores.Declare(), ports.BoxLabels.Declare(), ports.BoxImage.Declare()},
				Settings: sdk.SettingsOf(detectorSettings{}),
				Losses:   []string{"objectness"}, Metrics: []string{"positive_cells"},
			},
			{
				Name: "classifier", Kind: sdk.KindHead, Summary: "softmax regression", Trainable: true, Tasks: []string{"classify"},
				Inputs: []sdk.Port{
					tokensPort("C"),
					ports.Joint.Declare(ports.Shape("N", "C")), ports.TargetLabel.Declare(),
				},
				Outputs: []sdk.Port{ports.Logits.Declare(ports.Required)},
				Losses:  []string{"classification"}, Metrics: []string{"accuracy"},
			},
		},
	}
}

// Plugin is what ./plugin serves.
func Plugin() sdk.Plugin { return sdk.Plugin{Manifest: Manifest(), Open: Open} }

type textSettings struct {
	Model sdk.Path `setting:"model" help:"file of four bytes or more"`
}

type encoderSettings struct {
	Width      int     `setting:"width" default:"6" help:"numbers per token"`
	Cell       int     `setting:"cell" default:"16" help:"side of a cell in pixels"`
	Noise      float64 `setting:"noise" default:"0.01" help:"training noise on the tokens"`
	Frozen     bool    `setting:"frozen" default:"false" help:"do not train"`
	Fault      string  `setting:"fault" default:"none" choices:"none,nan,crash,hang,slow,crash-validation,slow-validation" help:"what goes wrong, for tests"`
	FaultCall  int     `setting:"fault_call" default:"3" help:"the training Forward (for -validation the others), counted from 1, in which it does"`
	FaultCount int     `setting:"fault_count" default:"1" help:"in how many in a row"`
}

type detectorSettings struct {
	Box float64 `setting:"box" default:"24" help:"side of the boxes in pixels"`
}

// settings are those of every stage: their names differ.
type settings struct {
	textSettings
	encoderSettings
	detectorSettings
}

// Open opens one of the stages.
func Open(_ context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
	set, err := sdk.DecodeSettings[settings](req.Settings)
	if err != nil {
		return nil, nil, err
	}
	base := base{params: map[string]*param{}, runs: map[uint64]any{}, seed: req.Seed, momentum: req.Optimizer.Values["momentum"]}
	resp := &sdk.OpenResponse{}
	var stage sdk.Stage
	switch req.Stage {
	case "text":
		file := string(set.Model)
		weights, err := os.ReadFile(file)
		if err == nil && len(weights) < textWidth {
			err = fmt.Errorf("%s has %d bytes, want %d", file, len(weights), textWidth)
		}
		if err != nil {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "setting model: %w", err)
		}
		resp.Inputs, resp.Outputs = sizes(req.Stage, map[string]string{"E": strconv.Itoa(textWidth)}, nil)
		return &text{weights: weights[:textWidth]}, resp, nil
	case "encoder":
		width := set.Width
		e := &encoder{base: base, settings: set.encoderSettings, width: width, grids: gridsOf(req.Group)}
		e.add("weight", 0.5, width, Features)
		e.add("bias", 0, width)
		resp.Inputs, resp.Outputs = sizes(req.Stage, map[string]string{"C": strconv.Itoa(width)}, req.Inputs)
		stage = e
	case "fusion":
		width := widthOf(req.Inputs)
		attributes, values := int64(0), int64(2)
		if v := req.Constants["value.embedding"]; v != nil && len(v.Shape) == 3 {
			attributes, values = v.Shape[0], v.Shape[1]
		}
		f := &fusion{base: base, width: width, attributes: int(attributes), values: int(values)}
		f.add("report", 0, width, int(attributes)*4)
		f.add("prior", 0, int(attributes), int(values))
		resp.Inputs, resp.Outputs = sizes(req.Stage, map[string]string{"C": strconv.Itoa(width)}, req.Inputs)
		stage = f
	case "detector":
		width := widthOf(req.Inputs)
		d := &detector{base: base, width: width, box: set.Box, grids: gridsOf(req.Group)}
		d.add("weight", 0.1, width)
		d.add("bias", 0, 1)
		resp.Inputs, resp.Outputs = sizes(req.Stage, map[string]string{"C": strconv.Itoa(width)}, req.Inputs)
		stage = d
	case "classifier":
		if len(req.Labels) == 0 || len(req.Labels[0].Classes) < 2 {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "no label set with two or more classes was given")
		}
		width, classes := widthOf(req.Inputs), len(req.Labels[0].Classes)
		c := &classifier{base: base, width: width, classes: classes}
		c.add("weight", 0.1, classes, width)
		c.add("joint", 0.1, classes, width)
		c.add("bias", 0, classes)
		resp.Inputs, resp.Outputs = sizes(req.Stage, map[string]string{"C": strconv.Itoa(width), "classes": strconv.Itoa(classes)}, req.Inputs)
		stage = c
	default:
		return nil, nil, sdk.Errorf(sdk.NotFound, "no stage %q", req.Stage)
	}
	for _, p := range stage.(interface{ parameters() map[string]*param }).parameters() {
		resp.ParameterCount += int64(len(p.value))
	}
	resp.TrainableCount = resp.ParameterCount
	if req.Frozen {
		resp.TrainableCount = 0
	}
	if req.Stage == "encoder" && set.Frozen {
		// Nothing depends on its weights, so it gets no gradients.
		resp.TrainableCount = 0
		resp.Notes = append(resp.Notes, "frozen: tokens depend on the image alone")
	}
	return stage, resp, nil
}

// sizes fills known sizes into the manifest's ports and writes families out.
func sizes(stage string, known map[string]string, given []sdk.Port) (inputs, outputs []sdk.Port) {
	fill := func(ports []sdk.Port) (out []sdk.Port) {
		for _, p := range ports {
			p.Shape = slices.Clone(p.Shape)
			for i, d := range p.Shape {
				if v, ok := known[d]; ok {
					p.Shape[i] = v
				}
			}
			out = append(out, p)
		}
		return out
	}
	m := Manifest()
	for _, s := range m.Stages {
		if s.Name == stage {
			inputs, outputs = fill(s.Inputs), fill(s.Outputs)
		}
	}
	var tokens []sdk.Port
	for _, g := range given {
		name := ""
		switch {
		case ports.Volume.Has(g.Name), ports.Images.Has(g.Name):
			name = tokenName(g.Name)
		case ports.Tokens.Has(g.Name):
			name = g.Name
		default:
			continue
		}
		p := fill([]sdk.Port{tokensPort("C")})[0]
		p.Name = name
		tokens = append(tokens, p)
	}
	if stage == "encoder" || stage == "fusion" {
		outputs = append(tokens, outputs[1:]...)
	}
	return inputs, outputs
}

func widthOf(inputs []sdk.Port) int {
	for _, p := range inputs {
		if ports.Tokens.Has(p.Name) && len(p.Shape) == 3 {
			n, _ := strconv.Atoi(p.Shape[2])
			return n
		}
	}
	return 0
}

// grids are the resident ports: rows, columns and cell of each context's token maps.
type grids struct {
	mu   sync.Mutex
	byID map[uint64][3]int
}

var (
	groupsMu sync.Mutex
	groups   = map[string]*grids{}
)

func gridsOf(group string) *grids {
	groupsMu.Lock()
	defer groupsMu.Unlock()
	if groups[group] == nil {
		groups[group] = &grids{byID: map[uint64][3]int{}}
	}
	return groups[group]
}

type param struct {
	shape                []int64
	value, grad, impulse []float64
}

// base keeps parameters, their optimizer (SGD with momentum) and open contexts.
type base struct {
	params   map[string]*param
	runs     map[uint64]any
	seed     uint64
	momentum float64
}

func (b *base) parameters() map[string]*param { return b.params }

func (b *base) add(name string, scale float64, shape ...int) {
	p := &param{}
	n := 1
	for _, d := range shape {
		p.shape = append(p.shape, int64(d))
		n *= d
	}
	rng := rand.New(rand.NewPCG(b.seed, uint64(len(name))))
	p.value, p.grad, p.impulse = make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range p.value {
		p.value[i] = scale * rng.NormFloat64()
	}
	b.params[name] = p
}

func (b *base) names() []string {
	var names []string
	for n := range b.params {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (b *base) take(id uint64) (any, error) {
	run, ok := b.runs[id]
	if !ok {
		return nil, sdk.Errorf(sdk.NotFound, "context %d is not open", id)
	}
	delete(b.runs, id)
	return run, nil
}

// Close ends the instance.
func (b *base) Close() error { return nil }

// Release ends a context.
func (b *base) Release(_ context.Context, id uint64) error {
	delete(b.runs, id)
	return nil
}

// ZeroGrad clears the gradients.
func (b *base) ZeroGrad(context.Context) error {
	for _, p := range b.params {
		clear(p.grad)
	}
	return nil
}

// GradNorm is the L2 norm over all gradients.
func (b *base) GradNorm(context.Context) (float64, error) {
	var squares float64
	for _, n := range b.names() {
		for _, g := range b.params[n].grad {
			squares += g * g
		}
	}
	return math.Sqrt(squares), nil
}

// Step is SGD with momentum.
func (b *base) Step(_ context.Context, req *sdk.StepRequest) error {
	for _, p := range b.params {
		for i, g := range p.grad {
			p.impulse[i] = b.momentum*p.impulse[i] + req.GradientScale*g
			p.value[i] -= req.Values["learning_rate"] * p.impulse[i]
		}
	}
	return nil
}

// Save writes weights.safetensors and optimizer.safetensors.
func (b *base) Save(_ context.Context, dir string) ([]string, error) {
	weights, state := map[string]*tensor.Tensor{}, map[string]*tensor.Tensor{}
	for n, p := range b.params {
		weights[n] = tensor.OfFloat64s(p.value, p.shape...)
		state[n] = tensor.OfFloat64s(p.impulse, p.shape...)
	}
	if err := safetensors.Write(filepath.Join(dir, "weights.safetensors"), weights, nil); err != nil {
		return nil, err
	}
	return []string{"weights.safetensors", "optimizer.safetensors"},
		safetensors.Write(filepath.Join(dir, "optimizer.safetensors"), state, nil)
}

// Load reads what Save wrote.
func (b *base) Load(_ context.Context, dir string, weightsOnly bool) error {
	read := func(file string, into func(*param) []float64) error {
		f, err := safetensors.Open(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		defer f.Close()
		for n, p := range b.params {
			t, err := f.Tensor(n)
			if err != nil {
				return err
			}
			v, err := t.Float64s()
			if err != nil {
				return err
			}
			if len(v) != len(p.value) {
				return sdk.Errorf(sdk.InvalidArgument, "%s: %s has %d numbers, want %d", file, n, len(v), len(p.value))
			}
			copy(into(p), v)
		}
		return nil
	}
	if err := read("weights.safetensors", func(p *param) []float64 { return p.value }); err != nil || weightsOnly {
		return err
	}
	return read("optimizer.safetensors", func(p *param) []float64 { return p.impulse })
}

type encoder struct {
	base
	settings encoderSettings
	width    int
	grids    *grids
	// calls counts the Forwards of training, evaluations the others.
	calls, evaluations int
}

type encoded struct {
	features map[string][]float64 // [N*T, Features]
	noise    map[string][]float64 // [N*T, C]
}

// fault counts a Forward and tells what goes wrong in it; "" is nothing.
func (e *encoder) fault(train bool) string {
	name, inValidation := strings.CutSuffix(e.settings.Fault, "-validation")
	count := &e.calls
	if !train {
		count = &e.evaluations
	}
	*count++
	first := e.settings.FaultCall
	if inValidation == train || *count < first || *count >= first+e.settings.FaultCount {
		return ""
	}
	return name
}

// Forward makes tokens.
func (e *encoder) Forward(ctx context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{}}
	run := encoded{map[string][]float64{}, map[string][]float64{}}
	poison := 0.0
	switch e.fault(req.Train) {
	case "nan":
		poison = math.NaN()
	case "crash":
		fmt.Fprintln(os.Stderr, "toy: about to be killed, as told")
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "slow":
		time.Sleep(time.Second)
	}
	rng := rand.New(rand.NewPCG(req.Seed, 7))
	w, bias := e.params["weight"].value, e.params["bias"].value
	names := make([]string, 0, len(req.Inputs))
	for n := range req.Inputs {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, name := range names {
		t := req.Inputs[name]
		x, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		r := len(t.Shape)
		h, wd, n := int(t.Shape[r-2]), int(t.Shape[r-1]), int(t.Shape[0])
		planes := len(x) / max(1, n*h*wd)
		cell := e.settings.Cell
		rows, cols := h/cell, wd/cell
		features := make([]float64, 0, n*rows*cols*Features)
		for i := range n {
			for ry := range rows {
				for cx := range cols {
					features = append(features, describe(x[i*planes*h*wd:(i*planes+planes)*h*wd], planes, h, wd, ry*cell, cx*cell, cell)...)
				}
			}
		}
		tokens := n * rows * cols
		noise := make([]float64, tokens*e.width)
		out, err := req.NewOutput(tokenName(name), tensor.FP32, int64(n), int64(rows*cols), int64(e.width))
		if err != nil {
			return nil, err
		}
		y, err := out.Float32s()
		if err != nil {
			return nil, err
		}
		for k := range tokens {
			for c := range e.width {
				v := bias[c] + poison
				for f := range Features {
					v += w[c*Features+f] * features[k*Features+f]
				}
				noise[k*e.width+c] = 1
				if req.Train {
					noise[k*e.width+c] += e.settings.Noise * rng.NormFloat64()
				}
				y[k*e.width+c] = float32(v * noise[k*e.width+c])
			}
		}
		out.Shape = []int64{int64(n), int64(rows * cols), int64(e.width)}
		resp.Outputs[tokenName(name)] = out
		run.features[tokenName(name)], run.noise[tokenName(name)] = features, noise
		e.grids.mu.Lock()
		if len(e.grids.byID) > 64 {
			clear(e.grids.byID)
		}
		e.grids.byID[req.Context] = [3]int{rows, cols, cell}
		e.grids.mu.Unlock()
	}
	if req.Train {
		e.runs[req.Context] = run
	}
	return resp, nil
}

func tokenName(input string) string {
	name, picture := ports.Images.Member(input)
	if !picture {
		name = "ct"
	}
	return ports.Tokens.Of(name).Name
}

func describe(x []float32, planes, h, w, top, left, cell int) []float64 {
	mean, high, low, centre := 0.0, math.Inf(-1), math.Inf(1), 0.0
	inner := 0
	for p := range planes {
		for i := top; i < top+cell; i++ {
			for j := left; j < left+cell; j++ {
				v := float64(x[p*h*w+i*w+j])
				mean += v
				high, low = max(high, v), min(low, v)
				if i >= top+cell/4 && i < top+3*cell/4 && j >= left+cell/4 && j < left+3*cell/4 {
					centre += v
					inner++
				}
			}
		}
	}
	mean /= float64(planes * cell * cell)
	return []float64{mean, high, low, centre/float64(max(1, inner)) - mean}
}

// Backward accumulates the weights' gradients.
func (e *encoder) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	taken, err := e.take(req.Context)
	if err != nil {
		return nil, err
	}
	run := taken.(encoded)
	for _, name := range slices.Sorted(maps.Keys(req.OutputGrads)) {
		g, err := req.OutputGrads[name].Float32s()
		if err != nil {
			return nil, err
		}
		for k := range len(g) / e.width {
			for c := range e.width {
				d := float64(g[k*e.width+c]) * run.noise[name][k*e.width+c]
				e.params["bias"].grad[c] += d
				for f := range Features {
					e.params["weight"].grad[c*Features+f] += d * run.features[name][k*Features+f]
				}
			}
		}
	}
	return &sdk.BackwardResponse{}, nil
}
