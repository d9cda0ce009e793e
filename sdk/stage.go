package sdk

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// ProtocolMajor is the major version of the stage protocol this SDK speaks.
const ProtocolMajor = 1

// Kind says what place a stage takes in a pipeline.
type Kind string

// The kinds of stages.
const (
	KindEncoder Kind = "encoder"
	KindText    Kind = "text"
	KindFusion  Kind = "fusion"
	KindHead    Kind = "head"
)

// Intensity maps raw intensities to what an encoder wants: clip to [Low, High],
// linearly to [OutLow, OutHigh], then (x - Mean[c]) / Std[c] when these are given.
type Intensity struct {
	Low, High       float64
	OutLow, OutHigh float64
	Mean, Std       []float64
}

// Port is a named tensor of a stage.
type Port struct {
	// Name is exact ("joint") or a family ending in ".*" ("tokens.*").
	Name  string
	DType tensor.DType
	// Shape holds numbers or dimension names; one name means one size within a call.
	Shape []string
	// Required inputs must be given; required outputs are always returned.
	Required bool
	// Differentiable ports take part in Backward.
	Differentiable bool
	// Resident ports never leave the process: both ends are stages of one plugin.
	Resident bool
	// Intensity is what the host does to raw intensities before it sends them.
	Intensity *Intensity
	// SizeMultiple: the last two dimensions are multiples of it; 0 and 1 mean any size.
	SizeMultiple int64
	// OnRequest outputs are computed only when Forward asks for them.
	OnRequest bool
	// LowerIsBetter is said of a metric (metric.*).
	LowerIsBetter bool
	Help          string
}

// Setting is one `--set stage.name=value` a stage understands.
type Setting struct {
	Name string
	// Type is int, float, bool, string, path, ints or floats (comma-separated).
	Type    string
	Default string
	// Choices of a string; one that ends in ".*" is any name that begins so.
	Choices []string
	// Min and Max are the least and the greatest value of a number; Above and Below
	// bound it without being allowed themselves.
	Min, Max, Above, Below *float64
	// Rising lists rise strictly.
	Rising bool
	Help   string
}

// StageManifest describes one stage of a plugin.
type StageManifest struct {
	Name     string
	Kind     Kind
	Summary  string
	Inputs   []Port
	Outputs  []Port
	Settings []Setting
	Losses   []string
	Metrics  []string
	// Tasks the stage is made for (detect, classify); empty means any.
	Tasks     []string
	Trainable bool
	// Optimizer names an update rule of the stage's own, with which a host opens it
	// (OpenRequest.Optimizer); "" for none. The stage has sgd besides.
	Optimizer string
	// Schedule says in words what learning rate of its own the stage makes of the values
	// that Step then has (BaseRate, StepNumber, StepCount); "" for the host's.
	Schedule string
}

// Keys of StepRequest.Values. LearningRate is always there, the others are for stages with a
// schedule of their own: the learning rate without the host's schedule, the number of the step
// from 0, and how many there are in the whole training.
const (
	LearningRate = "learning_rate"
	BaseRate     = "base_rate"
	StepNumber   = "step"
	StepCount    = "steps"
)

// Manifest describes a plugin.
type Manifest struct {
	Name    string
	Version string
	License string
	// ModelCard says what the model was made from and for: input range, size, source.
	ModelCard string
	// Runtime is what the plugin computes with, for example "libtorch 1.13.1".
	Runtime string
	// Capabilities are names, never compared versions.
	Capabilities []string
	Stages       []StageManifest
	// MaxOpenContexts bounds the TRAIN contexts that are open at once; 0 means 2.
	MaxOpenContexts int
}

// Optimizer is the update rule a trainable stage uses.
type Optimizer struct {
	// Name is a choice of train.optimizer, or StageManifest.Optimizer.
	Name string
	// Values have the names of the settings train.*; switches are 0 or 1.
	Values map[string]float64
}

// EMA is the optimizer's value that asks for a moving average of the weights, and the key of
// the metadata by which a weights file says that it holds averages.
const EMA = "ema"

// EMADecay is the decay of the average at update number n, from 1 on: the asked one, lower
// at the start as in TensorFlow's ExponentialMovingAverage with num_updates, so that a short
// run's average is not that of its first weights.
func EMADecay(asked float64, n int64) float64 {
	return min(asked, float64(1+n)/float64(10+n))
}

// LabelSet is one classification task, or the lesion classes of a detector.
type LabelSet struct {
	Name    string
	Classes []string
	// ClassWeights is empty or has one weight per class.
	ClassWeights []float64

	// What follows is the host's own: it stays in the run, stages are not told.

	// Question is what is asked, "" where it is AsksClasses.
	Question string `json:",omitempty"`
	// Unit of a number or a time; "" unknown.
	Unit string `json:",omitempty"`
	// Mean and SD of a number in training; target.value is (value-Mean)/SD.
	Mean float64 `json:",omitempty"`
	SD   float64 `json:",omitempty"`
	// Threshold is the probability from which on the second of two classes is called; 0: the
	// likelier one is. ThresholdBy says how it was chosen.
	Threshold   float64 `json:",omitempty"`
	ThresholdBy string  `json:",omitempty"`
}

// Asks is what the label set asks, one of Questions.
func (l LabelSet) Asks() string { return cmp.Or(l.Question, AsksClasses) }

// Classed reports whether one of classes is asked, and not a number or a time.
func (l LabelSet) Classed() bool { return l.Question != AsksNumber && l.Question != AsksTime }

// OpenRequest asks for an instance of a stage.
type OpenRequest struct {
	Stage string
	// Settings hold a value for every setting of the manifest, checked against it.
	Settings Settings
	Seed     uint64
	// Device is cpu, cuda:0, …
	Device  string
	Threads int
	Train   bool
	// Frozen: nothing of the stage may change in TRAIN mode. No parameter is trained, and
	// running statistics are used as in inference and stay as they are; gradients still
	// pass through the stage. One that keeps to it answers a TrainableCount of 0.
	Frozen bool
	// AMP asks plugins with CapabilityAMP to compute in bfloat16 where that is safe. Tensors
	// that travel, parameters, gradients and statistics stay in single precision.
	AMP bool
	// FP16, with AMP, asks plugins with CapabilityFP16 for half precision in its place.
	FP16 bool
	// Arithmetic of the process's devices in single precision; nil: the libraries' own.
	Arithmetic *Arithmetic
	// Group: stages opened with one group in one process share resident ports.
	Group string
	// Inputs are the ports that will feed this instance, sizes filled in where known.
	Inputs []Port
	// AttributeSchema is the JSON of the attribute schema; empty without attributes.
	AttributeSchema []byte
	// Constants: "value.embedding" FP32 [A,K,E], the text embedding of every
	// attribute value's prompt, zero where an attribute has fewer than K values.
	Constants map[string]*tensor.Tensor
	Labels    []LabelSet
	Optimizer Optimizer
	// Task is detect or classify.
	Task string
	// Keeps are the outputs, by their names in the manifest, that stay in the process, under the
	// name Keeper in the group: they are resident for this instance (CapabilityKeep).
	Keeps  []string
	Keeper string
	// Kept are the inputs that an instance opened before keeps: its Keeper, by the input's name.
	Kept map[string]string
}

// ResidentPorts are an instance's ports with those that it keeps and takes by this request
// made resident. A family of inputs of which one is kept wants no other.
func (r *OpenRequest) ResidentPorts(inputs, outputs []Port) (in, out []Port) {
	for _, p := range inputs {
		if _, exact := r.Kept[p.Name]; exact {
			continue
		}
		prefix, family := Family(p.Name)
		for name := range r.Kept {
			p.Required = p.Required && !(family && strings.HasPrefix(name, prefix))
		}
		in = append(in, p)
	}
	for _, name := range sortedNames(r.Kept) {
		if p := FindPort(inputs, name); p != nil {
			kept := *p
			kept.Name, kept.Resident = name, true
			in = append(in, kept)
		}
	}
	for _, p := range outputs {
		for _, name := range r.Keeps {
			prefix, family := Family(name)
			p.Resident = p.Resident || p.Name == name || family && strings.HasPrefix(p.Name, prefix)
		}
		out = append(out, p)
	}
	return in, out
}

// Arithmetic says how devices compute in single precision. It holds for the whole process.
type Arithmetic struct {
	// TF32: matrix products and convolutions may round what goes in to 10 bits.
	TF32 bool
	// Benchmark: convolutions are timed at each new size, and the fastest way is taken.
	Benchmark bool
	// Deterministic: only operators that give the same bits every time; one that has none of the
	// kind fails.
	Deterministic bool
}

// OpenResponse says what was opened.
type OpenResponse struct {
	ParameterCount int64
	TrainableCount int64
	// Inputs and Outputs have every size that is now known.
	Inputs  []Port
	Outputs []Port
	Notes   []string
	// Losses are those of the manifest that every training Forward with the targets
	// returns; one that a batch has nothing for is 0. A training ends when one of them does
	// not arrive. Nil means all of a head, none of another stage.
	Losses []string
}

// ForwardRequest runs a stage once.
type ForwardRequest struct {
	// Context names the run. In TRAIN mode it stays open until Backward or Release.
	Context uint64
	Train   bool
	// Seed is the source of all randomness of this call.
	Seed uint64
	// Inputs by port name. Data is valid until the call returns and, for a TRAIN
	// context, until the context ends.
	Inputs map[string]*tensor.Tensor
	// Ticket of the Prefetch that has shown inputs; 0: none has.
	Ticket uint64
	// NeedsGrad names the inputs whose gradient Backward must return.
	NeedsGrad map[string]bool
	// Wanted names the on-request outputs to compute.
	Wanted map[string]bool
	// NewOutput allocates an output where the host will read it, saving a copy.
	// It is never nil; using it is optional.
	NewOutput func(name string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error)
}

// ForwardResponse is what a run gave.
type ForwardResponse struct {
	Outputs map[string]*tensor.Tensor
	// Losses by name; Backward weighs them.
	Losses  map[string]float64
	Metrics map[string]float64
	Notes   []string
}

// BackwardRequest asks for vector-Jacobian products of a TRAIN context.
type BackwardRequest struct {
	Context uint64
	// OutputGrads holds d l / d output for the differentiable outputs; an absent one is zero.
	OutputGrads map[string]*tensor.Tensor
	// LossWeights weighs the losses Forward returned; an absent one counts 0.
	LossWeights map[string]float64
	// GradNorm asks for the norm of the gradients in the same answer. The SDK calls the
	// Trainer's GradNorm for it, whose Backward need not look at this.
	GradNorm bool
	// AverageNext says that Average is called next: gradients may be averaged as they come.
	AverageNext bool
	NewOutput   func(name string, dtype tensor.DType, shape ...int64) (*tensor.Tensor, error)
}

// BackwardResponse holds d l / d input for every input whose gradient was asked for.
type BackwardResponse struct {
	InputGrads map[string]*tensor.Tensor
	// GradNorm is filled in by the SDK where it was asked for.
	GradNorm float64
}

// StepRequest applies the optimizer once.
type StepRequest struct {
	// Values of the schedules at this step by LearningRate and its like.
	Values map[string]float64
	// GradientScale multiplies every gradient first (global clipping).
	GradientScale float64
	// ZeroGrad asks for the gradients to be cleared afterwards. The SDK calls the Trainer's
	// ZeroGrad for it, whose Step need not look at this.
	ZeroGrad bool
}

// Stage is one opened instance. The SDK calls its methods one at a time.
type Stage interface {
	// Forward computes the outputs. The SDK has checked the inputs' names, dtypes and
	// shapes against the manifest.
	Forward(ctx context.Context, req *ForwardRequest) (*ForwardResponse, error)
	// Close frees everything; no call follows.
	Close() error
}

// Trainer is a stage that can be trained.
type Trainer interface {
	// Backward is called at most once per TRAIN context and ends it. Parameter
	// gradients accumulate until ZeroGrad.
	Backward(ctx context.Context, req *BackwardRequest) (*BackwardResponse, error)
	// Release ends a TRAIN context without gradients.
	Release(ctx context.Context, contextID uint64) error
	// ZeroGrad clears the accumulated gradients.
	ZeroGrad(ctx context.Context) error
	// GradNorm is the L2 norm over all accumulated gradients; NaN and Inf are answers.
	GradNorm(ctx context.Context) (float64, error)
	// Step updates the parameters.
	Step(ctx context.Context, req *StepRequest) error
}

// PrefetchRequest shows inputs of a Forward to come.
type PrefetchRequest struct {
	// Ticket is in the Forward, too.
	Ticket uint64
	// Inputs by port name; Data is valid until the call returns.
	Inputs map[string]*tensor.Tensor
}

// Prefetcher is a stage that takes inputs to its device ahead of time. It keeps those of the
// last PrefetchedTickets calls that no Forward has taken.
type Prefetcher interface {
	// Prefetch may be called beside any other method but Close, once at a time.
	Prefetch(ctx context.Context, req *PrefetchRequest) error
}

// PrefetchedTickets are how many calls of Prefetch may wait for their Forward.
const PrefetchedTickets = 2

// JoinRequest makes a stage one of a group of processes that train it together.
type JoinRequest struct {
	// Rank counts the members from 0, Size is their number.
	Rank, Size int
	// Store is HOST:PORT where they find each other; rank 0 serves it.
	Store string
	// Address is where the others reach this member; "" means on this machine.
	Address string
	// Timeout bounds the wait for the others, in Join and in every average; 0 is up to the
	// stage.
	Timeout time.Duration
	// SyncBatchNorm asks for batch normalisation by the statistics of all members' batches
	// together, in TRAIN mode. Members then make as many Forwards and Backwards as each other.
	SyncBatchNorm bool
	// AveragedBy, unless nil, is told what averages the gradients: gloo or nccl.
	AveragedBy func(string)
}

// Parallel is a Trainer whose gradients several processes can share.
type Parallel interface {
	// Join returns when all members have joined. Parameters and running statistics are then
	// those of rank 0.
	Join(ctx context.Context, req *JoinRequest) error
	// Average begins to replace the gradients by their mean over the group and returns; a
	// parameter that some member has no gradient of counts as zero there, one that none has
	// keeps none. Running statistics become their mean. The next call that needs any of them
	// waits.
	Average(ctx context.Context) error
}

// Saver is a stage with state: weights, optimizer.
type Saver interface {
	// Save writes into the existing folder dir and returns the names of its files.
	// Weights are safetensors. Bit-exact: train k, save, load, train k = train 2k.
	Save(ctx context.Context, dir string) (files []string, err error)
	// Load reads what Save wrote; weightsOnly leaves the optimizer's state alone.
	Load(ctx context.Context, dir string, weightsOnly bool) error
}

// OpenFunc makes an instance of one of the plugin's stages.
type OpenFunc func(ctx context.Context, req *OpenRequest) (Stage, *OpenResponse, error)

// Plugin is what Serve serves.
type Plugin struct {
	Manifest Manifest
	Open     OpenFunc
	// Shutdown, when set, is called once before the process ends in order.
	Shutdown func()
}
