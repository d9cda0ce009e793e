package toy

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

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

// encoder makes tokens = (W features + b)·noise of cells.
type encoder struct {
	settings encoderSettings
	grids    *grids
	// calls counts the Forwards of training, evaluations the others.
	calls, evaluations int
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

func (e *encoder) forward(ctx context.Context, c *call) error {
	poison := 0.0
	switch e.fault(c.Train) {
	case "nan":
		poison = math.NaN()
	case "crash":
		fmt.Fprintln(os.Stderr, "toy: about to be killed, as told")
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
		time.Sleep(time.Minute)
	case "hang":
		<-ctx.Done()
		return ctx.Err()
	case "slow":
		time.Sleep(time.Second)
	}
	rng, width := rand.New(rand.NewPCG(c.Seed, 7)), e.settings.Width
	for _, name := range slices.Sorted(maps.Keys(c.Inputs)) {
		features, grid, err := e.describe(c.Inputs[name])
		if err != nil {
			return err
		}
		noise := make([]float64, len(features)/Features*width)
		for k := range noise {
			noise[k] = 1 + poison
			if c.Train {
				noise[k] += e.settings.Noise * rng.NormFloat64()
			}
		}
		mapped := c.linear(constant(features), c.param("weight"), Features)
		tokens := c.times(c.sum(len(noise), term{mapped, same}, term{c.param("bias"), row(width)}), noise)
		if err := c.out(tokenName(name), tokens, c.Inputs[name].Shape[0], int64(grid[0]*grid[1]), int64(width)); err != nil {
			return err
		}
		if visual := ports.Visuals.Of("contrast").Name; c.Wanted[visual] {
			drawn := make([]float32, len(features)/Features)
			for k := range drawn {
				drawn[k] = float32(features[k*Features+1] - features[k*Features+2])
			}
			c.answer.Outputs[visual] = tensor.OfFloat32s(drawn, c.Inputs[name].Shape[0], int64(grid[0]), int64(grid[1]))
		}
		e.grids.mu.Lock()
		if len(e.grids.byID) > 64 {
			clear(e.grids.byID)
		}
		e.grids.byID[c.Context] = grid
		e.grids.mu.Unlock()
	}
	return nil
}

func tokenName(input string) string {
	name, picture := ports.Images.Member(input)
	if !picture {
		name = "ct"
	}
	return ports.Tokens.Of(name).Name
}

// describe returns mean, maximum, minimum and centre contrast of every cell.
func (e *encoder) describe(t *tensor.Tensor) (features []float64, grid [3]int, err error) {
	x, err := t.Float32s()
	if err != nil {
		return nil, grid, err
	}
	h, w := int(t.Shape[len(t.Shape)-2]), int(t.Shape[len(t.Shape)-1])
	cell, planes := e.settings.Cell, len(x)/max(1, int(t.Shape[0])*h*w)
	grid = [3]int{h / cell, w / cell, cell}
	for image := range slices.Chunk(x, max(1, planes*h*w)) {
		for k := range grid[0] * grid[1] {
			mean, high, low, centre, inner := 0.0, math.Inf(-1), math.Inf(1), 0.0, 0
			for i := range planes * cell * cell {
				y, x := i/cell%cell, i%cell
				v := float64(image[i/(cell*cell)*h*w+(k/grid[1]*cell+y)*w+k%grid[1]*cell+x])
				mean, high, low = mean+v, max(high, v), min(low, v)
				if y >= cell/4 && y < 3*cell/4 && x >= cell/4 && x < 3*cell/4 {
					centre, inner = centre+v, inner+1
				}
			}
			mean /= float64(planes * cell * cell)
			features = append(features, mean, high, low, centre/float64(max(1, inner))-mean)
		}
	}
	return features, grid, nil
}

func tokenNames(c *call) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(c.Inputs)), func(n string) bool { return !ports.Tokens.Has(n) })
}

// fusion adds P r to every token, r the one-hot states of the report; joint is the mean.
type fusion struct{ width, attributes, values int }

func (f *fusion) forward(_ context.Context, c *call) error {
	names := tokenNames(c)
	n := int(c.Inputs[names[0]].Shape[0])
	oneHot, targets := make([]float64, n*f.attributes*4), slices.Repeat([]int64{-1}, n*f.attributes)
	if t := c.Inputs[ports.ReportState.Name]; t != nil {
		states, err := t.Int8s()
		if err != nil {
			return err
		}
		for i, s := range states {
			oneHot[i*4+int(s)] = 1
		}
	}
	if t := c.Inputs[ports.ReportValue.Name]; t != nil {
		values, err := t.Int64s()
		if err != nil {
			return err
		}
		copy(targets, values)
	}
	shift := constant(make([]float64, n*f.width))
	if f.attributes > 0 {
		shift = c.linear(constant(oneHot), c.param("report"), f.attributes*4)
	}
	var means []term
	for _, name := range names {
		x, err := c.in(name)
		if err != nil {
			return err
		}
		tokens := int(c.Inputs[name].Shape[1])
		y := c.sum(len(x.v), term{x, same}, term{shift, perCase(tokens, f.width)})
		if err := c.out(name, y, c.Inputs[name].Shape...); err != nil {
			return err
		}
		means = append(means, term{c.mean(y, tokens, f.width, len(names)), same})
	}
	if err := c.out(ports.Joint.Name, c.sum(n*f.width, means...), int64(n), int64(f.width)); err != nil {
		return err
	}
	prior := c.sum(n*f.attributes*f.values, term{c.param("prior"), row(f.attributes * f.values)})
	reconstruction := constant(nil)
	for logits := range slices.Chunk(prior.v, f.values) {
		reconstruction.v = append(reconstruction.v, stat.Softmax(logits)...)
	}
	c.loss("reconstruction", c.crossEntropy(prior, f.values, targets))
	return c.out(ports.Reconstruction.Name, reconstruction, int64(n), int64(f.attributes), int64(f.values))
}

// detector scores every cell; in training the target is whether a box's centre lies in it.
type detector struct {
	width int
	box   float64
	grids *grids
}

func (d *detector) forward(_ context.Context, c *call) error {
	name := tokenNames(c)[0]
	x, err := c.in(name)
	if err != nil {
		return err
	}
	d.grids.mu.Lock()
	grid, ok := d.grids.byID[c.Context]
	d.grids.mu.Unlock()
	if !ok {
		return sdk.Errorf(sdk.FailedPrecondition, "the encoder has not run in context %d", c.Context)
	}
	cols, cell, tokens := grid[1], float64(grid[2]), int(c.Inputs[name].Shape[1])
	target := make([]float64, len(x.v)/d.width)
	if boxes := c.Inputs[ports.TargetBoxes.Name]; boxes != nil && boxes.Len() > 0 {
		b, err := boxes.Float32s()
		if err != nil {
			return err
		}
		image, err := c.Inputs[ports.TargetImage.Name].Int32s()
		if err != nil {
			return err
		}
		for i, at := range image {
			k := int(float64(b[4*i+1]+b[4*i+3])/2/cell)*cols + int(float64(b[4*i]+b[4*i+2])/2/cell)
			if k >= 0 && k < tokens {
				target[int(at)*tokens+k] = 1
			}
		}
	}
	for _, positive := range target {
		c.answer.Metrics["positive_cells"] += positive
	}
	logits := c.linear(x, c.param("weight"), d.width)
	loss, p := c.binary(c.sum(len(logits.v), term{logits, same}, term{c.param("bias"), row(1)}), target)
	if c.Train {
		c.loss("objectness", loss)
		return nil
	}
	boxes, scores, images := make([]float32, 0, 4*len(p)), make([]float32, len(p)), make([]int32, len(p))
	for k := range p {
		cx, cy := (float64(k%tokens%cols)+0.5)*cell, (float64(k%tokens/cols)+0.5)*cell
		boxes = append(boxes, float32(cx-d.box/2), float32(cy-d.box/2), float32(cx+d.box/2), float32(cy+d.box/2))
		scores[k], images[k] = float32(p[k]), int32(k/tokens)
	}
	c.answer.Outputs = map[string]*tensor.Tensor{
		ports.Boxes.Name: tensor.OfFloat32s(boxes, int64(len(p)), 4), ports.Scores.Name: tensor.OfFloat32s(scores),
		ports.BoxLabels.Name: tensor.OfInt64s(make([]int64, len(p))), ports.BoxImage.Name: tensor.OfInt32s(images),
	}
	return nil
}

// classifier is softmax(W mean(tokens) + J joint + b).
type classifier struct{ width, classes int }

func (h *classifier) forward(_ context.Context, c *call) error {
	names := tokenNames(c)
	n := int(c.Inputs[names[0]].Shape[0])
	var means []term
	for _, name := range names {
		x, err := c.in(name)
		if err != nil {
			return err
		}
		means = append(means, term{c.mean(x, int(c.Inputs[name].Shape[1]), h.width, len(names)), same})
	}
	scores := []term{
		{c.linear(c.sum(n*h.width, means...), c.param("weight"), h.width), same},
		{c.param("bias"), row(h.classes)},
	}
	if c.Inputs[ports.Joint.Name] != nil {
		joint, err := c.in(ports.Joint.Name)
		if err != nil {
			return err
		}
		scores = append(scores, term{c.linear(joint, c.param("joint"), h.width), same})
	}
	logits := c.sum(n*h.classes, scores...)
	if err := c.out(ports.Logits.Name, logits, int64(n), int64(h.classes)); err != nil {
		return err
	}
	labels := slices.Repeat([]int64{-1}, n)
	if t := c.Inputs[ports.TargetLabel.Name]; t != nil {
		given, err := t.Int64s()
		if err != nil {
			return err
		}
		labels = given
	}
	if metric := ports.Metrics.Of("surprise").Name; c.Wanted[metric] {
		surprise := make([]float32, n)
		for i, k := range labels {
			if surprise[i] = float32(math.NaN()); k >= 0 {
				surprise[i] = float32(-math.Log(stat.Softmax(logits.v[i*h.classes : (i+1)*h.classes])[k]))
			}
		}
		c.answer.Outputs[metric] = tensor.OfFloat32s(surprise)
	}
	if !c.Train {
		return nil
	}
	right := 0.0
	for i, k := range labels {
		if z := logits.v[i*h.classes : (i+1)*h.classes]; k >= 0 && z[k] == slices.Max(z) {
			right++
		}
	}
	c.answer.Metrics["accuracy"] = right / float64(n)
	c.loss("classification", c.crossEntropy(logits, h.classes, labels))
	return nil
}

// linear is y = x·Wᵀ + b with its mean squared error.
type linear struct{ linearSettings }

func (l *linear) forward(_ context.Context, c *call) error {
	shape := c.Inputs["x"].Shape
	if int(shape[1]) != l.In {
		return &sdk.Error{Code: sdk.InvalidArgument, Port: "x", Given: c.Inputs["x"].String(), Wanted: fmt.Sprintf("FP32 [%d %d]", shape[0], l.In)}
	}
	x, err := c.in("x")
	if err != nil {
		return err
	}
	y := c.sum(int(shape[0])*l.Out, term{c.linear(x, c.param("weight"), l.In), same}, term{c.param("bias"), row(l.Out)})
	for _, v := range y.v {
		c.answer.Metrics["mean_abs"] += math.Abs(v) / float64(len(y.v))
	}
	if err := c.out("y", y, shape[0], int64(l.Out)); err != nil {
		return err
	}
	if c.Wanted["square"] {
		if err := c.out("square", c.times(y, y.v), shape[0], int64(l.Out)); err != nil {
			return err
		}
	}
	if t := c.Inputs["desired"]; t != nil {
		desired, err := t.Float32s()
		if err != nil {
			return err
		}
		if len(desired) != len(y.v) {
			return &sdk.Error{Code: sdk.InvalidArgument, Port: "desired", Given: t.String(), Wanted: c.answer.Outputs["y"].String()}
		}
		c.loss("mse", c.squared(y, widen(desired)))
	}
	return nil
}

// text embeds a prompt as sums of its bytes.
type text struct{ weights []byte }

// forward says on standard error how many texts it was asked for.
func (t *text) forward(_ context.Context, c *call) error {
	texts, err := c.Inputs[ports.Text.Name].Strings()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "toy: %d texts\n", len(texts))
	out := constant(make([]float64, len(texts)*textWidth))
	for i, prompt := range texts {
		for k, b := range []byte(prompt) {
			out.v[i*textWidth+k%textWidth] += float64(b) * float64(t.weights[k%textWidth]) / 65536
		}
	}
	return c.out(ports.Embedding.Name, out, int64(len(texts)), textWidth)
}
