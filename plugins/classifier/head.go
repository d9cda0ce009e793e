package classifier

import (
	"slices"
	"sort"
	"strconv"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/fusion/transformer"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

const eps = 1e-5

// head is Eq. 11: t_cls = [mean(visual); mean(report); joint], a norm and a
// classifier per label set. Each modality is pooled before the concatenation, so
// that many visual tokens do not drown few report tokens.
type head struct {
	ports  []string        // tokens.<m> in order of name, tokens.report last, then joint
	pools  map[string]pool // of the modalities, by port
	width  int64           // of t_cls
	norm   summaryNorm
	hidden *transformer.Affine
	drop   float64
	smooth float64
	gamma  float64
	tasks  []task
	device gotch.Device
}

// task is one label set.
type task struct {
	sdk.LabelSet
	logits ports.Port
	target ports.Port
	answer
	// censored is the port beside target where a time is asked.
	censored ports.Port
	// weight is that of the question in the loss.
	weight  float64
	weights *ts.Tensor // [classes], nil without class weights
}

func buildHead(b *torchstage.Build) (torchstage.Module, error) {
	set, err := sdk.DecodeSettings[headSettings](b.Request.Settings)
	if err != nil {
		return nil, err
	}
	asked, err := sdk.ParseQuestions(set.Question)
	if err != nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "setting %w", err)
	}
	if set.FocalGamma > 0 && set.LabelSmoothing > 0 {
		return nil, sdk.RefuseSetting("focal_gamma", "(%g) and label_smoothing (%g) cannot both be given: the focal loss is of one class that is right", set.FocalGamma, set.LabelSmoothing)
	}
	h := &head{pools: map[string]pool{}, device: b.Device, drop: set.Dropout, smooth: set.LabelSmoothing, gamma: set.FocalGamma}
	sizes := map[string]int64{}
	for _, p := range b.Request.Inputs {
		if !ports.Joint.Has(p.Name) && !ports.Tokens.Has(p.Name) {
			continue
		}
		n, err := strconv.ParseInt(p.Shape[len(p.Shape)-1], 10, 64)
		if err != nil || n < 1 {
			return nil, sdk.Errorf(sdk.InvalidArgument, "input %s has shape %v: the last size must be known when the head is opened", p.Name, p.Shape)
		}
		sizes[p.Name] = n
		h.ports = append(h.ports, p.Name)
		h.width += n
		if modality, tokens := ports.Tokens.Member(p.Name); tokens && !ports.TokensReport.Has(p.Name) {
			h.pools[p.Name] = newPool(b, set, "pool."+modality, n)
			if set.Pool != "max" {
				b.Outputs = append(b.Outputs, ports.Weighting.Of(modality).Declare())
			}
		}
	}
	if len(h.ports) == 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "no tokens.<modality> and no joint to classify from")
	}
	rank := map[string]int{ports.TokensReport.Name: 1, ports.Joint.Name: 2}
	sort.Slice(h.ports, func(i, j int) bool {
		a, b := h.ports[i], h.ports[j]
		if rank[a] != rank[b] {
			return rank[a] < rank[b]
		}
		return a < b
	})
	if len(b.Request.Labels) == 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "no label sets: a classification head needs the classes of at least one")
	}
	p := b.Params
	h.norm = newSummaryNorm(p, set.Norm, h.width)
	width := h.width
	if set.Kind == "mlp" {
		hidden := transformer.Linear(p, "hidden", width, set.Hidden)
		h.hidden, width = &hidden, set.Hidden
	}
	b.Inputs = b.Request.Inputs
	labels := b.Request.Labels
	weights, err := questionWeights(set.Weights, labels)
	if err != nil {
		return nil, err
	}
	for _, name := range asked.Names {
		if !slices.ContainsFunc(labels, func(l sdk.LabelSet) bool { return l.Name == name }) {
			return nil, sdk.RefuseSetting("question", "(%s) names %q, which is no label set of the data", set.Question, name)
		}
	}
	for _, l := range labels {
		t := task{LabelSet: l, logits: ports.LabelLogits(labels, l.Name), target: ports.LabelTarget(labels, l.Name), weight: weights[l.Name]}
		t.Question = asked.Of(l.Name)
		switch t.Question {
		case sdk.AsksNumber:
			t.target = ports.NumberTarget(labels, l.Name)
		case sdk.AsksTime:
			t.censored = ports.CensoredTarget(labels, l.Name)
		}
		if !t.Classed() && len(labels) == 1 && (set.FocalGamma > 0 || set.LabelSmoothing > 0) {
			return nil, sdk.RefuseSetting("question", "(%s) has no classes that label_smoothing and focal_gamma could weigh; leave them out", t.Question)
		}
		name := "classifier"
		if len(labels) > 1 {
			name += "." + l.Name
		}
		var rows int64
		if t.answer, rows, err = newAnswer(b, t.Question, name, l, width); err != nil {
			return nil, err
		}
		if len(l.ClassWeights) > 0 {
			if len(l.ClassWeights) != len(l.Classes) {
				return nil, sdk.Errorf(sdk.InvalidArgument, "label set %q has %d class weights, want one for each of %d classes", l.Name, len(l.ClassWeights), len(l.Classes))
			}
			w := make([]float32, len(l.ClassWeights))
			for i, v := range l.ClassWeights {
				w[i] = float32(v)
			}
			t.weights = b.S.Keep(b.S.To(b.S.FromFloat32s(w, rows), b.Device))
		}
		h.tasks = append(h.tasks, t)
		b.Outputs = append(b.Outputs, t.logits.Declare(ports.Required, ports.Shape("N", strconv.FormatInt(rows, 10))))
	}
	return h, nil
}

// questionWeights are those of the label sets in the loss.
func questionWeights(setting string, labels []sdk.LabelSet) (map[string]float64, error) {
	names := make([]string, len(labels))
	for i, l := range labels {
		names[i] = l.Name
	}
	weights, err := sdk.ParseWeights(setting, names)
	if err != nil {
		return nil, sdk.RefuseSetting("question_weights", "%v", err)
	}
	for _, w := range weights {
		if w > 0 {
			return weights, nil
		}
	}
	return nil, sdk.RefuseSetting("question_weights", "(%s) leaves no question that weighs more than 0", setting)
}

// summaryNorm brings the parts of t_cls [N,width] to one scale. A layer norm takes a
// case's own mean and variance: a part with large numbers keeps its weight over one with
// small numbers. A batch norm takes every feature's, as logistic regression on
// standardised features does: parts count alike whatever their encoders' scales.
type summaryNorm struct {
	width int64
	layer *transformer.Affine
	batch *batchNorm
}

func newSummaryNorm(p *torchstage.Params, kind string, width int64) summaryNorm {
	n := summaryNorm{width: width}
	if kind == "batch" {
		batch := newBatchNorm(p, "norm", width)
		n.batch = &batch
	} else {
		layer := transformer.Norm(p, "norm", width)
		n.layer = &layer
	}
	return n
}

func (n summaryNorm) apply(s *torchstage.Scope, x *ts.Tensor, train bool) *ts.Tensor {
	if n.layer != nil {
		return n.layer.Normalize(s, x, n.width, eps)
	}
	if train && s.Dim(x, 0) < 2 && s.Err() == nil {
		s.Failf(sdk.InvalidArgument, "a training batch of 1 case, want 2 or more with the setting norm=batch: one case has no variance")
		return x
	}
	return n.batch.apply(s, x, train, eps)
}

// Close frees the class weights.
func (h *head) Close() {
	for _, t := range h.tasks {
		if t.weights != nil {
			_ = t.weights.Drop()
		}
	}
}

// Forward answers for a batch; the loss is the weighted mean over the label sets of which
// something is known in it, and 0 when of none.
func (h *head) Forward(s *torchstage.Scope, in *torchstage.Inputs) *torchstage.Outputs {
	out := &torchstage.Outputs{Tensors: map[string]*ts.Tensor{}, Losses: map[string]*ts.Tensor{}, Metrics: map[string]float64{}}
	var parts []*ts.Tensor
	for _, name := range h.ports {
		x := in.Tensors[name]
		if x == nil {
			s.Failf(sdk.InvalidArgument, "input %q is missing; it was there when the head was opened", name)
			return out
		}
		switch pool := h.pools[name]; {
		case pool != nil:
			var weights *ts.Tensor
			x, weights = pool.apply(s, x)
			modality, _ := ports.Tokens.Member(name)
			if attention := ports.Weighting.Of(modality).Name; in.Wanted[attention] {
				out.Tensors[attention] = weights
			}
		case name != ports.Joint.Name:
			x = s.Mean(x, []int64{1}, false)
		}
		parts = append(parts, x)
	}
	x := h.norm.apply(s, s.Cat(parts, 1), in.Train)
	if h.hidden != nil {
		x = s.Gelu(h.hidden.Apply(s, x))
	}
	x = s.Dropout(x, h.drop, in.Train)
	var losses []*ts.Tensor
	right, known, labelled, weight := 0, 0, false, 0.0
	count := func(t task, logits *ts.Tensor, labels []int64) {
		out.Read(s, logits, func(values []float64) {
			right += t.right(labels, values)
			if known > 0 {
				out.Metrics["accuracy"] = float64(right) / float64(known)
			}
		})
	}
	for _, t := range h.tasks {
		logits := t.of(s, x)
		out.Tensors[t.logits.Name] = logits
		target := in.Tensors[t.target.Name]
		if target == nil {
			continue
		}
		labelled = true
		loss, labels, err := h.loss(s, t, logits, target, in.Tensors[t.censored.Name])
		if err != nil {
			s.Fail(err)
		}
		if s.Err() != nil {
			return out
		}
		if labels != nil {
			known += t.known(labels)
			count(t, logits, labels)
		}
		if loss != nil && t.weight > 0 {
			losses, weight = append(losses, s.MulScalar(loss, t.weight)), weight+t.weight
		}
	}
	switch {
	case len(losses) > 0:
		out.Losses["classification"] = s.MulScalar(s.Sum(s.Stack(losses, 0), []int64{0}, false), 1/weight)
	case labelled:
		out.Losses["classification"] = s.Zeros(h.device) // nothing is known of any case: nothing to learn
	}
	return out
}

// loss of one question, nil where nothing is known, and, of classes, the labels.
func (h *head) loss(s *torchstage.Scope, t task, logits, target, censored *ts.Tensor) (loss *ts.Tensor, labels []int64, err error) {
	if n := s.Dim(logits, 0); s.Err() == nil && s.Dim(target, 0) != n {
		return nil, nil, sdk.Errorf(sdk.InvalidArgument, "%s has %d labels for %d cases", t.target.Name, s.Dim(target, 0), n)
	}
	if t.Question == sdk.AsksNumber {
		return numberLoss(s, logits, target, h.device), nil, nil
	}
	labels = s.Int64s(target)
	if s.Err() != nil {
		return nil, nil, nil
	}
	if err := t.check(labels); err != nil {
		return nil, nil, err
	}
	switch {
	case t.Question == sdk.AsksTime:
		if censored == nil || s.Dim(censored, 0) != int64(len(labels)) {
			return nil, nil, sdk.Errorf(sdk.InvalidArgument, "input %s: want one for each of %s's %d cases", t.censored.Name, t.target.Name, len(labels))
		}
		whether := make([]int8, len(labels))
		for i, v := range s.Int64s(censored) {
			whether[i] = int8(v)
		}
		return timeLoss(s, logits, labels, whether, h.device), nil, nil
	case !t.counts(labels):
		return nil, labels, nil
	case h.gamma > 0:
		return t.focal(s, logits, labels, h.gamma, h.device), labels, nil
	}
	return s.CrossEntropy(logits, target, t.weights, -1, h.smooth), labels, nil
}

// focal is the focal loss of logits [N,K] (Lin et al. 2017, eq. 5, for several classes): the
// mean of -(1-p)^gamma·log(p), p being the probability of the label, weighted by the class as
// cross-entropy is, which it equals where gamma is 0. Unknown labels do not count.
func (t task) focal(s *torchstage.Scope, logits *ts.Tensor, labels []int64, gamma float64, device gotch.Device) *ts.Tensor {
	classes := int64(len(t.Classes))
	n := int64(len(labels))
	own, others := make([]float32, n*classes), make([]float32, n*classes)
	weights, sum := make([]float32, n), 0.0
	for i, label := range labels {
		for c := range classes {
			if c == label {
				own[int64(i)*classes+c] = 1
			} else {
				others[int64(i)*classes+c] = 1
			}
		}
		if label < 0 {
			continue
		}
		weights[i] = 1
		if len(t.ClassWeights) > 0 {
			weights[i] = float32(t.ClassWeights[label])
		}
		sum += float64(weights[i])
	}
	constant := func(v []float32, shape ...int64) *ts.Tensor { return s.To(s.FromFloat32s(v, shape...), device) }
	logs := s.LogSoftmax(logits, 1)
	right := s.Sum(s.Mul(logs, constant(own, n, classes)), []int64{1}, false)
	// 1-p as the sum of the others' probabilities: it does not cancel where p is nearly 1.
	wrong := s.Sum(s.Mul(s.Exp(logs), constant(others, n, classes)), []int64{1}, false)
	const tiny = 1e-12 // log 0 has no gradient
	factor := s.Exp(s.MulScalar(s.Log(s.AddScalar(wrong, tiny)), gamma))
	return s.MulScalar(s.Sum(s.Mul(s.Mul(factor, right), constant(weights, n)), nil, false), -1/sum)
}

// counts reports whether any known label's class has a weight: a weighted mean over
// none is not a number.
func (t task) counts(labels []int64) bool {
	for _, label := range labels {
		if label >= 0 && (len(t.ClassWeights) == 0 || t.ClassWeights[label] > 0) {
			return true
		}
	}
	return false
}

// check refuses labels of no class.
func (t task) check(labels []int64) error {
	for i, label := range labels {
		if label < -1 || label >= int64(len(t.Classes)) {
			return sdk.Errorf(sdk.InvalidArgument, "%s of case %d is %d, want -1 (unknown) to %d", t.target.Name, i, label, len(t.Classes)-1)
		}
	}
	return nil
}

// known counts the labels that are.
func (t task) known(labels []int64) (n int) {
	for _, label := range labels {
		if label >= 0 {
			n++
		}
	}
	return n
}

// right counts the known labels that logits [N,K] get right.
func (t task) right(labels []int64, logits []float64) (n int) {
	k := len(t.Classes)
	for i, label := range labels {
		if label >= 0 && stat.ArgMax(logits[i*k:(i+1)*k]) == int(label) {
			n++
		}
	}
	return n
}
