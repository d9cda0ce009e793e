package toy

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

type fusion struct {
	base
	width, attributes, values int
}

type fused struct {
	oneHot  []float64 // [N, A*4]
	n       int
	shapes  map[string][]int64
	wants   map[string]bool
	targets []int64 // [N, A], -1 where unknown
}

// Forward adds P r to every token, r the one-hot states of the report.
func (f *fusion) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{}, Losses: map[string]float64{}}
	run := fused{shapes: map[string][]int64{}, wants: req.NeedsGrad}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(req.Inputs)), func(n string) bool { return !ports.Tokens.Has(n) })
	run.n = int(req.Inputs[names[0]].Shape[0])
	run.oneHot = make([]float64, run.n*f.attributes*4)
	run.targets = slices.Repeat([]int64{-1}, run.n*f.attributes)
	if t := req.Inputs[ports.ReportState.Name]; t != nil {
		states, err := t.Int8s()
		if err != nil {
			return nil, err
		}
		for i, s := range states {
			run.oneHot[i*4+int(s)] = 1
		}
	}
	if t := req.Inputs[ports.ReportValue.Name]; t != nil {
		v, err := t.Int64s()
		if err != nil {
			return nil, err
		}
		copy(run.targets, v)
	}
	joint := make([]float32, run.n*f.width)
	for _, name := range names {
		in := req.Inputs[name]
		x, err := in.Float32s()
		if err != nil {
			return nil, err
		}
		run.shapes[name] = in.Shape
		out, err := req.NewOutput(name, tensor.FP32, in.Shape...)
		if err != nil {
			return nil, err
		}
		y, err := out.Float32s()
		if err != nil {
			return nil, err
		}
		tokens := int(in.Shape[1])
		for i := range run.n {
			for c := range f.width {
				shift := 0.0
				for a := range f.attributes * 4 {
					shift += f.params["report"].value[c*f.attributes*4+a] * run.oneHot[i*f.attributes*4+a]
				}
				for t := range tokens {
					k := (i*tokens+t)*f.width + c
					y[k] = x[k] + float32(shift)
					joint[i*f.width+c] += y[k] / float32(tokens*len(names))
				}
			}
		}
		resp.Outputs[name] = out
	}
	resp.Outputs[ports.Joint.Name] = tensor.OfFloat32s(joint, int64(run.n), int64(f.width))
	reconstruction := make([]float32, 0, run.n*f.attributes*f.values)
	loss, known := 0.0, 0
	for i := range run.n {
		for a := range f.attributes {
			p := stat.Softmax(f.params["prior"].value[a*f.values : (a+1)*f.values])
			for _, v := range p {
				reconstruction = append(reconstruction, float32(v))
			}
			if k := run.targets[i*f.attributes+a]; k >= 0 {
				loss -= math.Log(p[k])
				known++
			}
		}
	}
	resp.Outputs[ports.Reconstruction.Name] = tensor.OfFloat32s(reconstruction, int64(run.n), int64(f.attributes), int64(f.values))
	resp.Losses["reconstruction"] = loss / float64(max(1, known))
	if req.Train {
		f.runs[req.Context] = run
	}
	return resp, nil
}

// Backward of the residual, of the mean and of the cross-entropy.
func (f *fusion) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	taken, err := f.take(req.Context)
	if err != nil {
		return nil, err
	}
	run := taken.(fused)
	resp := &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{}}
	for name, shape := range run.shapes {
		grad, err := tensor.New(tensor.FP32, shape...)
		if err != nil {
			return nil, err
		}
		g, err := grad.Float32s()
		if err != nil {
			return nil, err
		}
		if given := req.OutputGrads[name]; given != nil {
			v, err := given.Float32s()
			if err != nil {
				return nil, err
			}
			copy(g, v)
		}
		tokens := int(shape[1])
		if given := req.OutputGrads[ports.Joint.Name]; given != nil {
			v, err := given.Float32s()
			if err != nil {
				return nil, err
			}
			for k := range g {
				i, c := k/(tokens*f.width), k%f.width
				g[k] += v[i*f.width+c] / float32(tokens*len(run.shapes))
			}
		}
		for k, d := range g {
			i, c := k/(tokens*f.width), k%f.width
			for a := range f.attributes * 4 {
				f.params["report"].grad[c*f.attributes*4+a] += float64(d) * run.oneHot[i*f.attributes*4+a]
			}
		}
		if run.wants[name] {
			resp.InputGrads[name] = grad
		}
	}
	known := 0
	for _, k := range run.targets {
		if k >= 0 {
			known++
		}
	}
	for j, k := range run.targets {
		if k < 0 {
			continue
		}
		a := j % f.attributes
		p := stat.Softmax(f.params["prior"].value[a*f.values : (a+1)*f.values])
		p[k]--
		for v := range p {
			f.params["prior"].grad[a*f.values+v] += req.LossWeights["reconstruction"] * p[v] / float64(known)
		}
	}
	return resp, nil
}

type detector struct {
	base
	width int
	box   float64
	grids *grids
}

type detected struct {
	name   string
	shape  []int64
	tokens []float32
	dlogit []float64 // d objectness / d logit
	wants  bool
}

// Forward scores every cell; in training the target is whether a box's centre lies in it.
func (d *detector) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{}, Losses: map[string]float64{}, Metrics: map[string]float64{}}
	var name string
	for n := range req.Inputs {
		if ports.Tokens.Has(n) {
			name = n
		}
	}
	in := req.Inputs[name]
	x, err := in.Float32s()
	if err != nil {
		return nil, err
	}
	d.grids.mu.Lock()
	grid, ok := d.grids.byID[req.Context]
	d.grids.mu.Unlock()
	if !ok {
		return nil, sdk.Errorf(sdk.FailedPrecondition, "the encoder has not run in context %d", req.Context)
	}
	cols, cell := grid[1], float64(grid[2])
	n, tokens := int(in.Shape[0]), int(in.Shape[1])
	target := make([]float64, n*tokens)
	if boxes := req.Inputs[ports.TargetBoxes.Name]; boxes != nil && boxes.Len() > 0 {
		b, err := boxes.Float32s()
		if err != nil {
			return nil, err
		}
		image, err := req.Inputs[ports.TargetImage.Name].Int32s()
		if err != nil {
			return nil, err
		}
		for i, at := range image {
			cx, cy := float64(b[4*i]+b[4*i+2])/2, float64(b[4*i+1]+b[4*i+3])/2
			k := int(cy/cell)*cols + int(cx/cell)
			if k >= 0 && k < tokens {
				target[int(at)*tokens+k] = 1
			}
		}
	}
	run := detected{name: name, shape: in.Shape, tokens: slices.Clone(x), dlogit: make([]float64, n*tokens), wants: req.NeedsGrad[name]}
	var outBoxes, outScores []float32
	var outLabels []int64
	var outImages []int32
	loss := 0.0
	for k := range n * tokens {
		logit := d.params["bias"].value[0]
		for c := range d.width {
			logit += d.params["weight"].value[c] * float64(x[k*d.width+c])
		}
		p := 1 / (1 + math.Exp(-logit))
		// The softplus form keeps the loss finite for confident mistakes.
		loss += (math.Max(logit, 0) - logit*target[k] + math.Log1p(math.Exp(-math.Abs(logit)))) / float64(n*tokens)
		run.dlogit[k] = (p - target[k]) / float64(n*tokens)
		resp.Metrics["positive_cells"] += target[k]
		cx, cy := (float64(k%tokens%cols)+0.5)*cell, (float64(k%tokens/cols)+0.5)*cell
		half := d.box / 2
		outBoxes = append(outBoxes, float32(cx-half), float32(cy-half), float32(cx+half), float32(cy+half))
		outScores = append(outScores, float32(p))
		outLabels = append(outLabels, 0)
		outImages = append(outImages, int32(k/tokens))
	}
	if req.Train {
		resp.Losses["objectness"] = loss
		d.runs[req.Context] = run
		return resp, nil
	}
	resp.Outputs[ports.Boxes.Name] = tensor.OfFloat32s(outBoxes, int64(len(outScores)), 4)
	resp.Outputs[ports.Scores.Name] = tensor.OfFloat32s(outScores)
	resp.Outputs[ports.BoxLabels.Name] = tensor.OfInt64s(outLabels)
	resp.Outputs[ports.BoxImage.Name] = tensor.OfInt32s(outImages)
	return resp, nil
}

// Backward of the mean binary cross-entropy.
func (d *detector) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	taken, err := d.take(req.Context)
	if err != nil {
		return nil, err
	}
	run, weight := taken.(detected), req.LossWeights["objectness"]
	grad := make([]float32, len(run.tokens))
	for k, g := range run.dlogit {
		d.params["bias"].grad[0] += weight * g
		for c := range d.width {
			d.params["weight"].grad[c] += weight * g * float64(run.tokens[k*d.width+c])
			grad[k*d.width+c] = float32(weight * g * d.params["weight"].value[c])
		}
	}
	resp := &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{}}
	if run.wants {
		resp.InputGrads[run.name] = tensor.OfFloat32s(grad, run.shape...)
	}
	return resp, nil
}

type classifier struct {
	base
	width, classes int
}

type classified struct {
	pooled, joint []float64 // [N, C]
	dlogits       []float64 // [N, classes]
	shapes        map[string][]int64
	wants         map[string]bool
}

// Forward is softmax(W mean(tokens) + J joint + b).
func (c *classifier) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	resp := &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{}, Losses: map[string]float64{}, Metrics: map[string]float64{}}
	run := classified{shapes: map[string][]int64{}, wants: req.NeedsGrad}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(req.Inputs)), func(n string) bool { return !ports.Tokens.Has(n) })
	n := int(req.Inputs[names[0]].Shape[0])
	run.pooled, run.joint = make([]float64, n*c.width), make([]float64, n*c.width)
	for _, name := range names {
		t := req.Inputs[name]
		x, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		run.shapes[name] = t.Shape
		tokens := int(t.Shape[1])
		for k, v := range x {
			run.pooled[k/(tokens*c.width)*c.width+k%c.width] += float64(v) / float64(tokens*len(names))
		}
	}
	if t := req.Inputs[ports.Joint.Name]; t != nil {
		x, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		run.shapes[ports.Joint.Name] = t.Shape
		for k, v := range x {
			run.joint[k] = float64(v)
		}
	}
	logits := make([]float32, n*c.classes)
	run.dlogits = make([]float64, n*c.classes)
	var labels []int64
	if t := req.Inputs[ports.TargetLabel.Name]; t != nil {
		var err error
		if labels, err = t.Int64s(); err != nil {
			return nil, err
		}
	}
	loss, right := 0.0, 0.0
	for i := range n {
		z := make([]float64, c.classes)
		for k := range z {
			z[k] = c.params["bias"].value[k]
			for j := range c.width {
				z[k] += c.params["weight"].value[k*c.width+j]*run.pooled[i*c.width+j] + c.params["joint"].value[k*c.width+j]*run.joint[i*c.width+j]
			}
			logits[i*c.classes+k] = float32(z[k])
		}
		if labels != nil {
			p := stat.Softmax(z)
			loss -= math.Log(max(p[labels[i]], 1e-300)) / float64(n)
			if p[labels[i]] == slices.Max(p) {
				right++
			}
			p[labels[i]]--
			for k := range p {
				run.dlogits[i*c.classes+k] = p[k] / float64(n)
			}
		}
	}
	resp.Outputs[ports.Logits.Name] = tensor.OfFloat32s(logits, int64(n), int64(c.classes))
	if req.Train {
		if math.IsNaN(float64(logits[0])) {
			loss = math.NaN()
		}
		resp.Losses["classification"] = loss
		resp.Metrics["accuracy"] = right / float64(n)
		c.runs[req.Context] = run
	}
	return resp, nil
}

// Backward of the mean cross-entropy.
func (c *classifier) Backward(_ context.Context, req *sdk.BackwardRequest) (*sdk.BackwardResponse, error) {
	taken, err := c.take(req.Context)
	if err != nil {
		return nil, err
	}
	run, weight := taken.(classified), req.LossWeights["classification"]
	n := len(run.pooled) / c.width
	dpooled, djoint := make([]float64, n*c.width), make([]float64, n*c.width)
	for i := range n {
		for k := range c.classes {
			g := weight * run.dlogits[i*c.classes+k]
			c.params["bias"].grad[k] += g
			for j := range c.width {
				c.params["weight"].grad[k*c.width+j] += g * run.pooled[i*c.width+j]
				c.params["joint"].grad[k*c.width+j] += g * run.joint[i*c.width+j]
				dpooled[i*c.width+j] += g * c.params["weight"].value[k*c.width+j]
				djoint[i*c.width+j] += g * c.params["joint"].value[k*c.width+j]
			}
		}
	}
	resp := &sdk.BackwardResponse{InputGrads: map[string]*tensor.Tensor{}}
	sets := 0
	for name := range run.shapes {
		if ports.Tokens.Has(name) {
			sets++
		}
	}
	for name, shape := range run.shapes {
		if !run.wants[name] {
			continue
		}
		t, err := tensor.New(tensor.FP32, shape...)
		if err != nil {
			return nil, err
		}
		g, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		for k := range g {
			if name == ports.Joint.Name {
				g[k] = float32(djoint[k])
			} else {
				tokens := int(shape[1])
				g[k] = float32(dpooled[k/(tokens*c.width)*c.width+k%c.width] / float64(tokens*sets))
			}
		}
		resp.InputGrads[name] = t
	}
	return resp, nil
}

// text embeds a prompt as sums of its bytes.
type text struct{ weights []byte }

// Forward says on standard error how many texts it was asked for.
func (t *text) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	texts, err := req.Inputs[ports.Text.Name].Strings()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "toy: %d texts\n", len(texts))
	out := make([]float32, len(texts)*textWidth)
	for i, prompt := range texts {
		for k, b := range []byte(prompt) {
			out[i*textWidth+k%textWidth] += float32(b) * float32(t.weights[k%textWidth]) / 65536
		}
	}
	return &sdk.ForwardResponse{Outputs: map[string]*tensor.Tensor{ports.Embedding.Name: tensor.OfFloat32s(out, int64(len(texts)), textWidth)}}, nil
}

// Close does nothing.
func (t *text) Close() error { return nil }
