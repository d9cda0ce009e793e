// Package toy holds trainable plugins in plain Go, linear stages with exact gradients on a
// small tape, for the tests of hosts and harnesses, which then need no libtorch. They keep
// every rule of the protocol; ones that break rules are in the package's test binary, which
// serves as a plugin under each of their names (go test -c, and a link).
//
// Images are cut into square cells; a token is a linear map of a cell's mean,
// maximum, minimum and centre contrast. The fusion adds a linear map of the report's
// states to every token; the heads are a logistic regression per cell (detect) and a
// softmax regression on the pooled tokens (classify).
package toy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Features is the number of numbers a cell is described by.
const Features = 4

// textWidth is the width of a text's embedding.
const textWidth = 4

var gridPort = sdk.Port{Name: "grid", DType: tensor.Int64, Shape: []string{"4"}, Required: true, Resident: true}

// Manifest describes the plugin of a whole pipeline.
func Manifest() sdk.Manifest {
	tokens := ports.Tokens.Declare(ports.Required)
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
				Outputs:  []sdk.Port{tokens, gridPort, ports.Visuals.Of("contrast").Declare()},
				Settings: sdk.SettingsOf(encoderSettings{}),
			},
			{
				Name: "fusion", Kind: sdk.KindFusion, Summary: "adds a linear map of the report to every token", Trainable: true,
				Inputs:  []sdk.Port{tokens, ports.ReportState.Declare(), ports.ReportValue.Declare()},
				Outputs: []sdk.Port{tokens, ports.Joint.Declare(ports.Shape("N", "C"), ports.Required), ports.Reconstruction.Declare()},
				Losses:  []string{"reconstruction"},
			},
			{
				Name: "detector", Kind: sdk.KindHead, Summary: "one box of a fixed size per cell", Trainable: true, Tasks: []string{"detect"},
				Inputs:   []sdk.Port{tokens, gridPort, ports.TargetBoxes.Declare(), ports.TargetImage.Declare()},
				Outputs:  []sdk.Port{ports.Boxes.Declare(), ports.Scores.Declare(), ports.BoxLabels.Declare(), ports.BoxImage.Declare()},
				Settings: sdk.SettingsOf(detectorSettings{}),
				Losses:   []string{"objectness"}, Metrics: []string{"positive_cells"},
			},
			{
				Name: "classifier", Kind: sdk.KindHead, Summary: "softmax regression", Trainable: true, Tasks: []string{"classify"},
				Inputs:  []sdk.Port{tokens, ports.Joint.Declare(ports.Shape("N", "C")), ports.TargetLabel.Declare()},
				Outputs: []sdk.Port{ports.Logits.Declare(ports.Required), ports.Metrics.Of("surprise").Declare(ports.LowerIsBetter, ports.Help("-log of the true class's probability"))},
				Losses:  []string{"classification"}, Metrics: []string{"accuracy"},
			},
		},
	}
}

// Build builds the package's test binary in a folder and links it under the names of the
// plugins that it is to be.
func Build(dir string, names ...string) error {
	program := filepath.Join(dir, "toys.test")
	cmd := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", program, reflect.TypeFor[Stage]().PkgPath())
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the toys: %w\n%s", err, out)
	}
	for _, name := range names {
		err = errors.Join(err, os.Link(program, filepath.Join(dir, name)))
	}
	return err
}

// Plugin serves the stages of a pipeline.
func Plugin() sdk.Plugin { return sdk.Plugin{Manifest: Manifest(), Open: open} }

// Linear is a plugin with one head: y = x·Wᵀ + b and its mean squared error.
func Linear() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "linear", Version: "1.0.0", License: "Apache-2.0",
			ModelCard: "A linear map for tests; takes any numbers.", Runtime: "Go", Capabilities: []string{"train"},
			Stages: []sdk.StageManifest{{
				Name: "linear", Kind: sdk.KindHead, Summary: "a linear map in plain Go", Trainable: true,
				Inputs: []sdk.Port{
					{Name: "x", DType: tensor.FP32, Shape: []string{"N", "C"}, Required: true, Differentiable: true},
					{Name: "desired", DType: tensor.FP32, Shape: []string{"N", "K"}},
				},
				Outputs: []sdk.Port{
					{Name: "y", DType: tensor.FP32, Shape: []string{"N", "K"}, Required: true, Differentiable: true},
					{Name: "square", DType: tensor.FP32, Shape: []string{"N", "K"}, Required: true, OnRequest: true},
				},
				Settings: sdk.SettingsOf(linearSettings{}),
				Losses:   []string{"mse"}, Metrics: []string{"mean_abs"},
			}},
		},
		Open: open,
	}
}

type linearSettings struct {
	In  int `setting:"in" default:"4" min:"1" help:"width of x, when the pipeline does not say"`
	Out int `setting:"out" default:"3" min:"1" help:"width of y"`
}

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
	linearSettings
	textSettings
	encoderSettings
	detectorSettings
}

func open(ctx context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
	s, resp, err := Open(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return s, resp, nil
}

// Open opens one of the stages.
func Open(_ context.Context, req *sdk.OpenRequest) (*Stage, *sdk.OpenResponse, error) {
	set, err := sdk.DecodeSettings[settings](req.Settings)
	if err != nil {
		return nil, nil, err
	}
	s := &Stage{params: map[string]*param{}, runs: map[uint64]*call{}, seed: req.Seed, momentum: req.Optimizer.Values["momentum"]}
	width, known := widthOf(req.Inputs), map[string]int{}
	switch req.Stage {
	case "linear":
		s.add("weight", 1/math.Sqrt(float64(set.In)), set.Out, set.In)
		s.add("bias", 0.5, set.Out)
		s.module = &linear{set.linearSettings}
	case "text":
		file := string(set.Model)
		weights, err := os.ReadFile(file)
		if err == nil && len(weights) < textWidth {
			err = fmt.Errorf("%s has %d bytes, want %d", file, len(weights), textWidth)
		}
		if err != nil {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "setting model: %w", err)
		}
		known["E"], s.module = textWidth, &text{weights: weights[:textWidth]}
	case "encoder":
		width = set.Width
		s.add("weight", 0.5, width, Features)
		s.add("bias", 0, width)
		s.module = &encoder{settings: set.encoderSettings, grids: gridsOf(req.Group)}
	case "fusion":
		f := &fusion{width: width, values: 2}
		if v := req.Constants["value.embedding"]; v != nil && len(v.Shape) == 3 {
			f.attributes, f.values = int(v.Shape[0]), int(v.Shape[1])
		}
		s.add("report", 0, width, f.attributes*4)
		s.add("prior", 0, f.attributes, f.values)
		s.module = f
	case "detector":
		s.add("weight", 0.1, width)
		s.add("bias", 0, 1)
		s.module = &detector{width: width, box: set.Box, grids: gridsOf(req.Group)}
	case "classifier":
		if len(req.Labels) == 0 || len(req.Labels[0].Classes) < 2 {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "no label set with two or more classes was given")
		}
		classes := len(req.Labels[0].Classes)
		s.add("weight", 0.1, classes, width)
		s.add("joint", 0.1, classes, width)
		s.add("bias", 0, classes)
		known["classes"], s.module = classes, &classifier{width: width, classes: classes}
	default:
		return nil, nil, sdk.Errorf(sdk.NotFound, "no stage %q", req.Stage)
	}
	if width > 0 {
		known["C"] = width
	}
	return s, s.opened(req, known, set.Frozen), nil
}

// opened says what there is now. Nothing depends on the weights of an encoder with the
// setting frozen: it gets no gradients.
func (s *Stage) opened(req *sdk.OpenRequest, known map[string]int, frozen bool) *sdk.OpenResponse {
	resp := &sdk.OpenResponse{}
	for _, p := range s.params {
		resp.ParameterCount += int64(len(p.v))
	}
	resp.TrainableCount = resp.ParameterCount
	if req.Frozen || frozen {
		resp.TrainableCount = 0
	}
	if frozen {
		resp.Notes = append(resp.Notes, "frozen: tokens depend on the image alone")
	}
	if m, err := (&sdk.Manifest{Stages: Manifest().Stages}).Stage(req.Stage); err == nil {
		resp.Inputs, resp.Outputs = sizes(m, known, req.Inputs)
	}
	return resp
}

// sizes fills known sizes into the manifest's ports and writes families out.
func sizes(m *sdk.StageManifest, known map[string]int, given []sdk.Port) (inputs, outputs []sdk.Port) {
	fill := func(ports []sdk.Port) (out []sdk.Port) {
		for _, p := range ports {
			p.Shape = slices.Clone(p.Shape)
			for i, d := range p.Shape {
				if v, ok := known[d]; ok {
					p.Shape[i] = strconv.Itoa(v)
				}
			}
			out = append(out, p)
		}
		return out
	}
	inputs, outputs = fill(m.Inputs), fill(m.Outputs)
	if m.Kind != sdk.KindEncoder && m.Kind != sdk.KindFusion {
		return inputs, outputs
	}
	var tokens []sdk.Port
	for _, g := range given {
		p := outputs[0]
		switch {
		case ports.Volume.Has(g.Name), ports.Images.Has(g.Name):
			p.Name = tokenName(g.Name)
		case ports.Tokens.Has(g.Name):
			p.Name = g.Name
		default:
			continue
		}
		tokens = append(tokens, p)
	}
	return inputs, append(tokens, outputs[1:]...)
}

// widthOf is the size of a token; 0 without tokens.
func widthOf(inputs []sdk.Port) int {
	for _, p := range inputs {
		if ports.Tokens.Has(p.Name) && len(p.Shape) == 3 {
			n, _ := strconv.Atoi(p.Shape[2])
			return n
		}
	}
	return 0
}
