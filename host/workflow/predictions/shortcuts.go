package predictions

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/internal/stat"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Shortcuts says what a model's answers owe to the report, and whether it looks at the
// image at all.
type Shortcuts struct {
	SchemaVersion int    `json:"schema_version"`
	Run           string `json:"run"`
	Split         string `json:"split"`
	// Metric is balanced_accuracy (of the first label set) or mean_sensitivity.
	Metric string        `json:"metric"`
	Cases  int           `json:"cases"`
	Rows   []ShortcutRow `json:"rows"`
	// Interaction is the share of what a report changes that depends on the image it stands
	// beside: 0 where a report adds the same to every image, near 1 where the image decides.
	Interaction frocio.Number `json:"interaction"`
	// Followed compares the answers to other patients' reports with both patients' truth.
	Followed Followed `json:"followed"`
}

// ShortcutRow is the metric with one kind of report.
type ShortcutRow struct {
	// Report is own or a CounterfactualKind.
	Report string   `json:"report"`
	Value  Estimate `json:"value"`
	// Change is the value minus that with the own report; nil for the own.
	Change *Estimate `json:"change,omitempty"`
	// Moved is the share of answers that are others than with the own report: of classes, or
	// of boxes that no box of the class overlaps by an IoU of 0.5 any more.
	Moved frocio.Number `json:"moved"`
}

// Estimate is a figure with its 95 % interval, patients resampled.
type Estimate struct {
	Value frocio.Number `json:"value"`
	Low   frocio.Number `json:"low"`
	High  frocio.Number `json:"high"`
}

// Followed is what the answers to an image with another patient's report agree with.
type Followed struct {
	// Image is the metric against the image's own truth, Report against that of the patient
	// whose report it is; in classification over the cases whose labels differ (shares of
	// answers), in detection over all.
	Image  frocio.Number `json:"image"`
	Report frocio.Number `json:"report"`
	Cases  int           `json:"cases"`
	// Difference is Report minus Image.
	Difference Estimate `json:"report_minus_image"`
}

// ReportAlone reports whether the answers follow the report more than the image: with
// another patient's report the model says what is true of that patient.
func (f Followed) ReportAlone() bool { return float64(f.Difference.Low) > 0 }

// NewShortcuts compares the own predictions with those to other reports. protocol is of detection.
func NewShortcuts(task string, labels []sdk.LabelSet, cases []dataset.Case, own []Prediction, other *Counterfactuals, protocol froc.Protocol, o resample.Options) (*Shortcuts, error) {
	o, err := o.Resolved()
	if err != nil {
		return nil, err
	}
	a := &audit{task: task, labels: labels, cases: cases, protocol: protocol, o: o}
	out := &Shortcuts{SchemaVersion: OutputVersion, Metric: "balanced_accuracy", Cases: len(cases)}
	if task == config.Detect {
		out.Metric = "mean_sensitivity"
	}
	value, base, err := a.metric(cases, own)
	if err != nil {
		return nil, err
	}
	out.Rows = []ShortcutRow{{Report: "own", Value: a.estimate(value, base)}}
	for _, kind := range CounterfactualKinds() {
		v, replicates, err := a.metric(cases, other.Answers[kind])
		if err != nil {
			return nil, err
		}
		change := a.estimate(v-value, resample.Minus(replicates, base))
		out.Rows = append(out.Rows, ShortcutRow{string(kind), a.estimate(v, replicates), &change, frocio.Number(a.moved(own, other.Answers[kind]))})
	}
	out.Interaction = frocio.Number(a.interaction(own, other))
	out.Followed, err = a.followed(other)
	return out, err
}

// audit holds what all of its figures need.
type audit struct {
	task     string
	labels   []sdk.LabelSet
	cases    []dataset.Case
	protocol froc.Protocol
	o        resample.Options
}

func (a *audit) estimate(value float64, replicates []float64) Estimate {
	i := a.o.Interval(replicates, value, nil)
	return Estimate{frocio.Number(value), frocio.Number(i.Low), frocio.Number(i.High)}
}

// metric is the primary one of predictions against the truth of cases, with its replicates.
func (a *audit) metric(cases []dataset.Case, p []Prediction) (float64, []float64, error) {
	if a.task == config.Detect {
		r, err := EvaluateBoxes(cases, p, a.labels, a.protocol)
		if err != nil {
			return 0, nil, err
		}
		replicates, err := r.MeanReplicates(a.o)
		return r.MeanSensitivity, replicates, err
	}
	var truth []int
	var probabilities [][]float64
	var patients []string
	for i := range cases {
		if label, ok := a.label(cases, i); ok {
			truth, probabilities, patients = append(truth, label), append(probabilities, p[i].Probabilities[0]), append(patients, dataset.PatientOf(cases[i].Patient, cases[i].ID))
		}
	}
	r, err := classify.Evaluate(truth, probabilities, a.labels[0].Classes)
	if err != nil {
		return 0, nil, err
	}
	replicates, err := r.BalancedReplicates(patients, a.o)
	return r.Metrics.BalancedAccuracy, replicates, err
}

func (a *audit) label(cases []dataset.Case, i int) (int, bool) {
	label, ok := cases[i].Labels[a.labels[0].Name]
	return label, ok && label >= 0
}

// moved is the share of the own answers that are not there with other reports.
func (a *audit) moved(own, other []Prediction) float64 {
	gone, all := 0.0, 0.0
	for i := range own {
		if a.task != config.Detect {
			all++
			if stat.ArgMax(own[i].Probabilities[0]) != stat.ArgMax(other[i].Probabilities[0]) {
				gone++
			}
			continue
		}
		for _, b := range own[i].Boxes {
			all++
			if scoreOfSame(b, other[i].Boxes) == nil {
				gone++
			}
		}
	}
	return gone / all
}

// evidence is what an answer says, such that evidence that is independent adds up: the
// logarithms of a classifier's probabilities, centred, or the log-odds of a detector's best score.
func (a *audit) evidence(p Prediction) []float64 {
	const least = 1e-6
	if a.task == config.Detect {
		best := least
		for _, b := range p.Boxes {
			best = max(best, b.Score)
		}
		best = min(best, 1-least)
		return []float64{math.Log(best / (1 - best))}
	}
	out := make([]float64, len(p.Probabilities[0]))
	mean := 0.0
	for k, v := range p.Probabilities[0] {
		out[k] = math.Log(max(v, least))
		mean += out[k] / float64(len(out))
	}
	for k := range out {
		out[k] -= mean
	}
	return out
}

// interaction compares what a patient's report changes beside its own image and beside
// another patient's: mean |difference of the changes| over the mean of their sizes' sum.
func (a *audit) interaction(own []Prediction, other *Counterfactuals) float64 {
	without, shuffled := other.Answers[WithoutReport], other.Answers[Shuffled]
	size := func(v []float64) float64 {
		sum := 0.0
		for _, x := range v {
			sum += x * x
		}
		return math.Sqrt(sum)
	}
	minus := func(x, y []float64) []float64 {
		out := make([]float64, len(x))
		for k := range x {
			out[k] = x[k] - y[k]
		}
		return out
	}
	differ, sizes := 0.0, 0.0
	for i, j := range other.Donors {
		beside := minus(a.evidence(shuffled[i]), a.evidence(without[i]))
		home := minus(a.evidence(own[j]), a.evidence(without[j]))
		differ += size(minus(beside, home))
		sizes += size(beside) + size(home)
	}
	if sizes == 0 {
		return 0 // no report changes anything
	}
	return differ / sizes
}

// followed measures the answers to other patients' reports against the image's truth and
// against that of the patient who gave the report.
func (a *audit) followed(other *Counterfactuals) (Followed, error) {
	answers := other.Answers[Shuffled]
	if a.task == config.Detect {
		given := slices.Clone(a.cases)
		for i, j := range other.Donors {
			given[i].Boxes, given[i].Ignore = a.cases[j].Boxes, a.cases[j].Ignore
		}
		image, imageReplicates, err := a.metric(a.cases, answers)
		if err != nil {
			return Followed{}, err
		}
		report, reportReplicates, err := a.metric(given, answers)
		return Followed{frocio.Number(image), frocio.Number(report), len(a.cases), a.estimate(report-image, resample.Minus(reportReplicates, imageReplicates))}, err
	}
	var patients []string
	var differences []float64 // right by the report minus right by the image
	sums := [2]float64{}
	for i, j := range other.Donors {
		mine, ok := a.label(a.cases, i)
		theirs, known := a.label(a.cases, j)
		if !ok || !known || mine == theirs {
			continue
		}
		var r [2]float64 // by the image's truth, by the report's
		switch stat.ArgMax(answers[i].Probabilities[0]) {
		case mine:
			r[0] = 1
		case theirs:
			r[1] = 1
		}
		patients, differences = append(patients, dataset.PatientOf(a.cases[i].Patient, a.cases[i].ID)), append(differences, r[1]-r[0])
		sums[0], sums[1] = sums[0]+r[0], sums[1]+r[1]
	}
	n := float64(len(differences))
	replicates := resample.NewMeans(patients, differences).Replicates(a.o)
	return Followed{frocio.Number(sums[0] / n), frocio.Number(sums[1] / n), len(differences), a.estimate((sums[1]-sums[0])/n, replicates)}, nil
}

// Write prints the audit.
func (s *Shortcuts) Write(w io.Writer) error {
	signed := func(e Estimate) string {
		return fmt.Sprintf("%+.3f [%+.3f %+.3f]", float64(e.Value), float64(e.Low), float64(e.High))
	}
	what, moved := "balanced accuracy", "answers changed"
	if s.Metric == "mean_sensitivity" {
		what, moved = "mean sensitivity", "boxes gone"
	}
	fmt.Fprintf(w, "%s on %d cases of split %s [95 %% CI, patients resampled]\n", what, s.Cases, s.Split)
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tab, "report\t%s\tchange\t%s\n", what, moved)
	for _, r := range s.Rows {
		change, gone := "", ""
		if r.Change != nil {
			change, gone = signed(*r.Change), fmt.Sprintf("%.1f %%", 100*float64(r.Moved))
		}
		fmt.Fprintf(tab, "%s\t%.3f [%.3f %.3f]\t%s\t%s\n", r.Report, float64(r.Value.Value), float64(r.Value.Low), float64(r.Value.High), change, gone)
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "interaction: %.2f of what a report changes depends on the image (0: it adds the same to every image)\n", float64(s.Interaction))
	f := s.Followed
	fmt.Fprintf(w, "with another patient's report (%d cases): %.3f by the image's truth, %.3f by that patient's: %s\n", f.Cases, float64(f.Image), float64(f.Report), signed(f.Difference))
	if f.ReportAlone() {
		fmt.Fprintln(w, "warning: the answers follow the report, not the image: a shortcut. What the report says of the truth is what is measured")
	}
	return nil
}
