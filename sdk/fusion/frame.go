package fusion

import (
	"sort"
	"strconv"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// Report is the name of the stream of report tokens.
const Report = "report"

const eps = 1e-5

// Modality is one input of tokens.
type Modality struct {
	Name     string
	Channels int64
}

// Frame projects every modality to one width, makes report tokens and projects
// back. All of its parameters live in the stage's Params.
type Frame struct {
	FrameSettings
	Modalities []Modality
	Attributes []Attribute
	// Embedding is the size of the text embedding, K the largest value set.
	Embedding, K int64

	device      gotch.Device
	inputs      map[string]projection
	outputs     map[string]transformer.Affine
	text        projection
	unmentioned *ts.Tensor // [d]
	identity    *ts.Tensor // [A,d]
	norms       map[string]transformer.Affine
}

// projection is a linear layer with a layer norm behind it.
type projection struct{ linear, norm transformer.Affine }

// droppedStart is the standard deviation of an input's bias where modality dropout may zero
// its tokens: then the bias alone is what stands for them, and a layer norm of a bias of
// zero multiplies the first gradients by the inverse root of its epsilon, 316.
const droppedStart = 0.1

func newProjection(p *torchstage.Params, prefix string, in, width int64, bias torchstage.Init) projection {
	linear := transformer.Affine{
		Weight: p.Parameter(prefix+".projection.weight", []int64{width, in}, torchstage.XavierUniform()),
		Bias:   p.Parameter(prefix+".projection.bias", []int64{width}, bias),
	}
	return projection{linear, transformer.Norm(p, prefix+".norm", width)}
}

func (pr projection) apply(s *torchstage.Scope, x *ts.Tensor, width int64) *ts.Tensor {
	return pr.norm.Normalize(s, pr.linear.Apply(s, x), width, eps)
}

// New reads the open request and declares the frame's parameters. It fills in
// the build's resolved ports.
func New(b *torchstage.Build, o FrameSettings) (*Frame, error) {
	f := &Frame{FrameSettings: o, device: b.Device, inputs: map[string]projection{}, outputs: map[string]transformer.Affine{}, norms: map[string]transformer.Affine{}}
	var err error
	if f.Attributes, err = ParseSchema(b.Request.AttributeSchema); err != nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "%w", err)
	}
	for _, port := range b.Request.Inputs {
		modality, tokens := ports.Tokens.Member(port.Name)
		switch {
		case tokens:
			c, err := size(port, 2)
			if err != nil {
				return nil, err
			}
			f.Modalities = append(f.Modalities, Modality{modality, c})
		case port.Name == ports.ReportEmbedding.Name:
			if f.Embedding, err = size(port, 2); err != nil {
				return nil, err
			}
		}
	}
	sort.Slice(f.Modalities, func(i, j int) bool { return f.Modalities[i].Name < f.Modalities[j].Name })
	for _, m := range f.Modalities {
		if m.Name == Report {
			return nil, sdk.Errorf(sdk.InvalidArgument, "input tokens.report: the name is taken by the report's own tokens")
		}
	}
	if len(f.Attributes) > 0 && f.Embedding == 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "the attribute schema has %d attributes but there is no input report.embedding", len(f.Attributes))
	}
	if len(f.Attributes) == 0 && f.Embedding > 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "input report.embedding is given without an attribute schema")
	}
	if len(f.Attributes) == 0 && len(f.Modalities) == 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "no tokens.<modality> input and no attributes: nothing to fuse")
	}
	p := b.Params
	bias := torchstage.Zeros()
	if o.ModalityDropout > 0 {
		bias = torchstage.Normal(0, droppedStart)
	}
	for _, m := range f.Modalities {
		f.inputs[m.Name] = newProjection(p, "input."+m.Name, m.Channels, o.Width, bias)
		if o.Residual || m.Channels != o.Width {
			f.outputs[m.Name] = transformer.Linear(p, "output."+m.Name, o.Width, m.Channels)
		}
	}
	if len(f.Attributes) > 0 {
		for _, a := range f.Attributes {
			f.K = max(f.K, int64(len(a.Values)))
		}
		f.text = newProjection(p, "report", f.Embedding, o.Width, torchstage.Zeros())
		if o.Unmentioned != "zero" {
			f.unmentioned = p.Parameter("report.unmentioned", []int64{o.Width}, torchstage.Normal(0, o.TokenStart))
		}
		if o.Identity {
			f.identity = p.Parameter("report.identity", []int64{int64(len(f.Attributes)), o.Width}, torchstage.Normal(0, o.TokenStart))
		}
	}
	f.resolve(b)
	return f, nil
}

// Streams are the names of the token sets: the modalities, then the report.
func (f *Frame) Streams() []string {
	var names []string
	for _, m := range f.Modalities {
		names = append(names, m.Name)
	}
	if len(f.Attributes) > 0 {
		names = append(names, Report)
	}
	return names
}

// Norms declares the final layer norm of every stream.
func (f *Frame) Norms(p *torchstage.Params) {
	for _, name := range f.Streams() {
		f.norms[name] = transformer.Norm(p, "norm."+name, f.Width)
	}
}

// Normalize applies the final layer norm of a stream.
func (f *Frame) Normalize(s *torchstage.Scope, stream string, x *ts.Tensor) *ts.Tensor {
	return f.norms[stream].Normalize(s, x, f.Width, eps)
}

// resolve declares the ports with the sizes that are known now.
func (f *Frame) resolve(b *torchstage.Build) {
	b.Inputs = b.Request.Inputs
	for _, port := range b.Request.Inputs {
		if ports.Tokens.Has(port.Name) {
			port.Differentiable, port.Intensity = true, nil
			b.Outputs = append(b.Outputs, port)
		}
	}
	if a := len(f.Attributes); a > 0 {
		b.Outputs = append(b.Outputs, ports.TokensReport.Declare(ports.Required,
			ports.Shape("N", strconv.Itoa(a), strconv.FormatInt(f.Width, 10))))
	}
}

// Joint declares the joint output of the given size.
func (f *Frame) Joint(b *torchstage.Build, width int64) {
	b.Outputs = append(b.Outputs, ports.Joint.Declare(ports.Required, ports.Shape("N", strconv.FormatInt(width, 10))))
}

// dropModality zeroes all tokens x [N,T,C] of a modality in some of the cases, in
// training only: the other modalities must do without it there. An encoder that has been
// fitted to the training cases is surer of them than of any others, and would be the only
// one that is learned from. After ModDrop (Neverova et al. 2016, sec. 3.3).
func (f *Frame) dropModality(s *torchstage.Scope, in *torchstage.Inputs, modality string, x *ts.Tensor) *ts.Tensor {
	if !in.Train || f.ModalityDropout == 0 {
		return x
	}
	rng := torchstage.NewRand(in.Seed, "modality."+modality)
	keep := make([]float32, s.Dim(x, 0))
	for i := range keep {
		if rng.Float64() >= f.ModalityDropout {
			keep[i] = 1
		}
	}
	return s.Mul(x, s.To(s.FromFloat32s(keep, int64(len(keep)), 1, 1), f.device))
}

// Visual projects a modality's tokens [N,T,C] to [N,T,d].
func (f *Frame) Visual(s *torchstage.Scope, in *torchstage.Inputs, modality string) *ts.Tensor {
	name := ports.Tokens.Of(modality).Name
	x := in.Tensors[name]
	if x == nil {
		s.Failf(sdk.InvalidArgument, "input %q is missing", name)
		return x
	}
	x = f.dropModality(s, in, modality, x)
	in.Tensors[name] = x // Back adds to the same tokens
	return f.inputs[modality].apply(s, x, f.Width)
}

// Read gives every stream's tokens [N,T,d], in the order of Streams: the modalities', then
// the report's, t_UN where an attribute is unmentioned.
func (f *Frame) Read(s *torchstage.Scope, in *torchstage.Inputs) []*ts.Tensor {
	var streams []*ts.Tensor
	for _, m := range f.Modalities {
		streams = append(streams, f.Visual(s, in, m.Name))
	}
	if len(f.Attributes) > 0 {
		if cells := f.Cells(s, in); s.Err() == nil {
			streams = append(streams, f.Tokens(s, cells, f.Hidden(s, cells, nil)))
		}
	}
	return streams
}

// Back projects fused tokens x [N,T,d] to the modality's own size [N,T,C] and, with
// Residual, adds them to the tokens that came in.
func (f *Frame) Back(s *torchstage.Scope, in *torchstage.Inputs, modality string, x *ts.Tensor) *ts.Tensor {
	if out, ok := f.outputs[modality]; ok {
		x = out.Apply(s, x)
	}
	if f.Residual {
		x = s.Add(in.Tensors[ports.Tokens.Of(modality).Name], x)
	}
	return x
}

// Project makes tokens of text embeddings [...,E]: LayerNorm(Linear(e)).
func (f *Frame) Project(s *torchstage.Scope, embedding *ts.Tensor) *ts.Tensor {
	return f.text.apply(s, embedding, f.Width)
}

// Identify adds the attribute-identity embedding to x [N,A,d], if there is one.
func (f *Frame) Identify(s *torchstage.Scope, x *ts.Tensor) *ts.Tensor {
	if f.identity == nil {
		return x
	}
	return s.Add(x, f.identity)
}

// Cells are the report ports of one call.
type Cells struct {
	N     int
	State []ports.State // [N·A]
	Value []int64       // [N·A]
	// Embedding is [N,A,E].
	Embedding *ts.Tensor
}

// Cells reads and checks the report ports.
func (f *Frame) Cells(s *torchstage.Scope, in *torchstage.Inputs) Cells {
	var c Cells
	e, st, v := in.Tensors[ports.ReportEmbedding.Name], in.Tensors[ports.ReportState.Name], in.Tensors[ports.ReportValue.Name]
	if e == nil || st == nil || v == nil {
		s.Failf(sdk.InvalidArgument, "the pipeline has attributes: want the inputs report.embedding, report.state and report.value")
		return c
	}
	shape, a := s.Shape(e), int64(len(f.Attributes))
	if s.Err() == nil && (len(shape) != 3 || shape[1] != a || shape[2] != f.Embedding) {
		s.Failf(sdk.InvalidArgument, "report.embedding is %v, want [N %d %d] (attributes of the schema, size at open)", shape, a, f.Embedding)
		return c
	}
	for name, t := range map[string]*ts.Tensor{ports.ReportState.Name: st, ports.ReportValue.Name: v} {
		if sh := s.Shape(t); s.Err() == nil && (len(sh) != 2 || sh[0] != shape[0] || sh[1] != a) {
			s.Failf(sdk.InvalidArgument, "%s is %v, want [%d %d]", name, sh, shape[0], a)
			return c
		}
	}
	state, value := s.Int64s(st), s.Int64s(v)
	if s.Err() != nil {
		return c
	}
	if err := checkCells(f.Attributes, state, value); err != nil {
		s.Fail(sdk.Errorf(sdk.InvalidArgument, "%w", err))
		return c
	}
	c.N, c.Embedding, c.Value = int(shape[0]), e, value
	c.State = make([]ports.State, len(state))
	for i, x := range state {
		c.State[i] = ports.State(x)
	}
	return c
}

// Hidden returns [N,A,1]: 1 where an attribute is unmentioned or masked, 0
// elsewhere. A nil mask masks nothing.
func (f *Frame) Hidden(s *torchstage.Scope, c Cells, masked []bool) *ts.Tensor {
	flags := make([]float32, len(c.State))
	for i, st := range c.State {
		if st == ports.Unmentioned || masked != nil && masked[i] {
			flags[i] = 1
		}
	}
	return f.Upload(s, flags, int64(c.N), int64(len(f.Attributes)), 1)
}

// Tokens makes the report tokens [N,A,d] of Eq. 5: the projected embedding of each
// attribute's prompt, t_UN where hidden [N,A,1] is 1, plus the attribute's identity.
func (f *Frame) Tokens(s *torchstage.Scope, c Cells, hidden *ts.Tensor) *ts.Tensor {
	return f.Identify(s, f.Fill(s, hidden, f.unmentioned, f.Project(s, c.Embedding)))
}

// Fill takes other where hidden is 1 and x elsewhere; a nil other is zero.
func (f *Frame) Fill(s *torchstage.Scope, hidden, other, x *ts.Tensor) *ts.Tensor {
	// Embeddings of hidden attributes are zero or finite, so products are safe.
	keep := s.Mul(x, s.AddScalar(s.MulScalar(hidden, -1), 1))
	if other == nil {
		return keep
	}
	return s.Add(keep, s.Mul(other, hidden))
}

func size(port sdk.Port, axis int) (int64, error) {
	if len(port.Shape) != 3 {
		return 0, sdk.Errorf(sdk.InvalidArgument, "input %s has shape %v, want 3 dimensions [N,T,C]", port.Name, port.Shape)
	}
	n, err := strconv.ParseInt(port.Shape[axis], 10, 64)
	if err != nil || n < 1 {
		return 0, sdk.Errorf(sdk.InvalidArgument, "input %s has shape %v: the last size must be known when the stage is opened", port.Name, port.Shape)
	}
	return n, nil
}

// Ports returns the inputs and outputs of a fusion stage's manifest.
func Ports() (inputs, outputs []sdk.Port) {
	inputs = []sdk.Port{
		ports.Tokens.Declare(ports.Help("tokens of any number of modalities, each with its own T and C")),
		ports.ReportEmbedding.Declare(), ports.ReportState.Declare(), ports.ReportValue.Declare(),
	}
	outputs = []sdk.Port{
		ports.Tokens.Declare(ports.Help("every modality's tokens after fusion, in the shape they came in")),
		ports.TokensReport.Declare(), ports.Joint.Declare(ports.Required),
	}
	return inputs, outputs
}

// Finish normalises the attended streams, stores them as the outputs tokens.* and
// returns the mean of the streams' means [N,d]. Each stream counts alike however
// many tokens it has.
func (f *Frame) Finish(s *torchstage.Scope, in *torchstage.Inputs, streams []*ts.Tensor, outputs map[string]*ts.Tensor) *ts.Tensor {
	var means []*ts.Tensor
	for i, name := range f.Streams() {
		y := f.Normalize(s, name, streams[i])
		means = append(means, s.Mean(y, []int64{1}, false))
		if name != Report {
			y = f.Back(s, in, name, y)
		}
		outputs[ports.Tokens.Of(name).Name] = y
	}
	return s.Mean(s.Stack(means, 1), []int64{1}, false)
}

// LoadWeights reads the file of the setting weights, if there is one.
func (f *Frame) LoadWeights(b *torchstage.Build) error {
	if f.Weights == "" {
		return nil
	}
	return b.Params.LoadFile(b.S, string(f.Weights), torchstage.LoadOptions{})
}

// Upload makes a tensor on the stage's device.
func (f *Frame) Upload(s *torchstage.Scope, values []float32, shape ...int64) *ts.Tensor {
	return s.To(s.FromFloat32s(values, shape...), f.device)
}

// Split takes x [N,ΣT,d], a concatenation along the tokens, apart into the lengths of like.
func Split(s *torchstage.Scope, x *ts.Tensor, like []*ts.Tensor) []*ts.Tensor {
	var parts []*ts.Tensor
	var start int64
	for _, l := range like {
		t := s.Dim(l, 1)
		parts = append(parts, s.Narrow(x, 1, start, t))
		start += t
	}
	return parts
}
