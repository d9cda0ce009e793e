// Package sample makes inputs for a stage from nothing but its ports: for benchmarks,
// gradient checks and conformance.
package sample

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Inputs adds to inputs a random tensor for every shape given by port name, and one for
// every other required input whose sizes follow from the tensors that are there. It
// fails for a shape of an input the stage does not have.
func Inputs(declared []sdk.Port, shapes map[string][]int64, seed uint64, inputs map[string]*tensor.Tensor) error {
	dims := map[string]int64{}
	bind := func(name string, shape []int64) {
		p := sdk.FindPort(declared, name)
		if p == nil {
			return
		}
		for i, d := range p.Shape {
			if i < len(shape) {
				dims[d] = shape[i]
			}
		}
	}
	for name, t := range inputs {
		bind(name, t.Shape)
	}
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		p := sdk.FindPort(declared, name)
		if p == nil {
			var names []string
			for _, d := range declared {
				names = append(names, d.Name)
			}
			return fmt.Errorf("shape of %q: the stage has no such input; it has %s", name, strings.Join(names, ", "))
		}
		t, err := Tensor(name, *p, shapes[name], seed)
		if err != nil {
			return err
		}
		inputs[name] = t
		bind(name, shapes[name])
	}
	if len(inputs) == 0 {
		return nil
	}
	for _, p := range declared {
		if _, family := sdk.Family(p.Name); family || !p.Required || p.Resident || inputs[p.Name] != nil {
			continue
		}
		var shape []int64
		for _, d := range p.Shape {
			if n, err := strconv.ParseInt(d, 10, 64); err == nil {
				shape = append(shape, n)
			} else if n, ok := dims[d]; ok {
				shape = append(shape, n)
			}
		}
		if len(shape) != len(p.Shape) {
			continue // the stage will say what is missing
		}
		t, err := Tensor(p.Name, p, shape, seed)
		if err != nil {
			return err
		}
		inputs[p.Name] = t
	}
	return nil
}

// Tensor draws values that a port can take: intensities within its range, spacings of
// 1 mm, boxes with an area, reports that mention most attributes, zeros for other whole numbers
// (a label of any task, an image of any batch), normally distributed numbers elsewhere.
func Tensor(name string, p sdk.Port, shape []int64, seed uint64) (*tensor.Tensor, error) {
	if p.DType == tensor.Bytes {
		return texts(shape, seed)
	}
	t, err := tensor.New(p.DType, shape...)
	if err != nil {
		return nil, fmt.Errorf("input %q: %w", name, err)
	}
	hash := seed
	for _, b := range []byte(name) {
		hash = hash*1099511628211 + uint64(b)
	}
	r := rand.New(rand.NewPCG(seed, hash))
	switch p.DType {
	case tensor.Int8:
		if name == ports.ReportState.Name {
			for i := range t.Data {
				t.Data[i] = reportStates[i%len(reportStates)]
			}
		}
	case tensor.FP64:
		values, err := t.Float64s()
		if err != nil {
			return nil, err
		}
		for i := range values {
			values[i] = r.NormFloat64()
		}
	case tensor.FP32:
		values, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		fill(values, name, p, r)
		if len(p.Shape) > 1 && p.Shape[0] == "N" && name != ports.Spacing.Name {
			fade(values, int(shape[0]), p)
		}
	}
	return t, nil
}

// reportStates are those of a report's attributes, in turn: most are mentioned.
var reportStates = []byte{byte(ports.Stated), byte(ports.Negated), byte(ports.Stated), byte(ports.Uncertain), byte(ports.Unmentioned)}

// fade makes every case of a batch fainter than the one before: they differ in what they
// are normalized by.
func fade(values []float32, cases int, p sdk.Port) {
	var low float32
	if p.Intensity != nil && len(p.Intensity.Mean) == 0 {
		low = float32(p.Intensity.OutLow)
	}
	for i := range values {
		k := i / max(len(values)/max(cases, 1), 1)
		values[i] = low + (values[i]-low)/(1+float32(k)/2)
	}
}

// texts are sentences of a report, from one that the seed gives on.
func texts(shape []int64, seed uint64) (*tensor.Tensor, error) {
	n, err := tensor.Elements(shape)
	if err != nil {
		return nil, err
	}
	sentences := []string{"There is a small hypodense lesion in the liver.", "Kein Hinweis auf Metastasen.", "", "No pleural effusion."}
	var all []string
	for i := range uint64(n) {
		all = append(all, sentences[(i+seed)%uint64(len(sentences))])
	}
	t := tensor.OfStrings(all...)
	t.Shape = slices.Clone(shape)
	return t, nil
}

func fill(values []float32, name string, p sdk.Port, r *rand.Rand) {
	boxes := ports.Target(name) && len(p.Shape) > 0 && p.Shape[len(p.Shape)-1] == "4"
	for i := range values {
		switch {
		case name == ports.Spacing.Name:
			values[i] = 1
		case boxes && i%4 < 2:
			values[i] = 4 + 16*r.Float32()
		case boxes:
			values[i] = values[i-2] + 4 + 16*r.Float32()
		case p.Intensity != nil && len(p.Intensity.Mean) == 0:
			values[i] = float32(p.Intensity.OutLow + (p.Intensity.OutHigh-p.Intensity.OutLow)*r.Float64())
		default:
			values[i] = float32(r.NormFloat64())
		}
	}
}

// Feeding returns what a pipeline tells a stage about its inputs when it opens it: every
// size but the first, which is the batch's.
func Feeding(declared []sdk.Port, inputs map[string]*tensor.Tensor) []sdk.Port {
	var out []sdk.Port
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		t := inputs[name]
		p := sdk.Port{Name: name, DType: t.DType}
		first := "N"
		if d := sdk.FindPort(declared, name); d != nil {
			p = *d
			if len(d.Shape) > 0 {
				first = d.Shape[0]
			}
			p.Name, p.Shape = name, nil
		}
		for i, n := range t.Shape {
			if i == 0 {
				p.Shape = append(p.Shape, first)
				continue
			}
			p.Shape = append(p.Shape, strconv.FormatInt(n, 10))
		}
		out = append(out, p)
	}
	return out
}
