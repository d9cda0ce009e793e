package page

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// items are CLAIM 2024's (Tejani et al., Radiology: Artificial Intelligence 2024) in our
// words, with the items of STARD 2015 that they touch; STARD-AI (Sounderajah et al., Nature
// Medicine 2025) extends those. fill gives the text and its source; nil, and an empty text,
// need the author.
var items = []struct {
	number, stard, topic string
	fill                 func(f *facts) (text, source string)
}{
	{"1", "1", "Title names the kind of AI", nil},
	{"2", "2", "Structured abstract", nil},
	{"3", "3", "Background, intended use and role", nil},
	{"4", "4", "Aims and hypotheses", nil},
	{"5", "5", "Prospective or retrospective", nil},
	{"6", "5", "Goal of the study", nil},
	{"7", "8", "Sources of the data", (*facts).dataSource},
	{"8", "6, 7, 9", "Who was included and excluded", nil},
	{"9", "9", "Preprocessing", (*facts).preprocessing},
	{"10", "9", "Choice of parts of the data", (*facts).subsets},
	{"11", "9", "De-identification", (*facts).deidentification},
	{"12", "15, 16", "Missing data", (*facts).missing},
	{"13", "10a", "Image acquisition", (*facts).acquisition},
	{"14", "10b", "Reference standard: definition", nil},
	{"15", "11", "Reference standard: why this one", nil},
	{"16", "10b", "Annotators: source and training", nil},
	{"17", "10b", "Annotation of the test set", nil},
	{"18", "13b", "Agreement between readers", nil},
	{"19", "9", "How cases were given to partitions", (*facts).partitions},
	{"20", "9", "Level at which partitions are disjoint", (*facts).disjoint},
	{"21", "18", "Sample size", (*facts).sample},
	{"22", "10a", "Description of the model", (*facts).model},
	{"23", "10a", "Software and versions", (*facts).software},
	{"24", "10a", "Initial weights", (*facts).initial},
	{"25", "10a", "Details of training", (*facts).training},
	{"26", "10a", "Choice of the final model", (*facts).choice},
	{"27", "10a", "Ensembles", nil},
	{"28", "14", "Metrics, matching rule and divisor", (*facts).metrics},
	{"29", "14, 17", "Uncertainty and significance", (*facts).uncertainty},
	{"30", "17", "Robustness and sensitivity analyses", (*facts).robustness},
	{"31", "", "Explainability", nil},
	{"32", "14", "Evaluation on internal data", (*facts).internal},
	{"33", "14", "Testing on external data", (*facts).external},
	{"34", "28", "Registration", nil},
	{"35", "19", "Numbers of patients and images", (*facts).numbers},
	{"36", "20, 21", "Demography and severity by partition", nil},
	{"37", "24", "Performance with uncertainty", (*facts).performance},
	{"38", "23, 24", "Diagnostic performance", (*facts).crossTable},
	{"39", "25", "Analysis of failures", (*facts).failures},
	{"40", "26", "Limitations", (*facts).limitations},
	{"41", "27", "Implications for practice", nil},
	{"42", "29", "Protocol of the study, further documents", nil},
	{"43", "STARD-AI", "Availability of software, model and data", (*facts).availability},
	{"44", "30", "Funding and conflicts of interest", nil},
	{"–", "STARD-AI", "Fairness: subgroups", (*facts).subgroups},
	{"–", "STARD-AI", "Ethics and consent", nil},
}

// facts are what the items are filled from.
type facts struct {
	g        *Gathered
	manifest *runs.Manifest // of the last run; nil for files alone
	run      *workflow.RunFiles
	report   *frocio.Report
}

func (g *Gathered) checklist() []ChecklistItem {
	f := &facts{g: g}
	for i, r := range g.runs {
		if r != nil {
			f.run, f.manifest = r, g.Document.Systems[i].Manifest
		}
	}
	if d := g.Document.Detection; d != nil {
		f.report = &d.Report
	}
	var out []ChecklistItem
	for _, item := range items {
		one := ChecklistItem{Item: item.number, STARD: item.stard, Topic: item.topic}
		if item.fill != nil {
			one.Text, one.Source = item.fill(f)
		}
		if one.Text == "" {
			one.Source = ""
		}
		out = append(out, one)
	}
	return out
}

func (f *facts) dataSource() (string, string) {
	if f.manifest == nil {
		return "", ""
	}
	return fmt.Sprintf("%s, SHA-256 %.16s…; where and when the cases were collected needs the author", f.manifest.DataSpec, f.manifest.DataSHA256), runs.ManifestFile
}

func (f *facts) preprocessing() (string, string) {
	if f.run == nil {
		return "", ""
	}
	d := f.run.Config.DataSettings
	return fmt.Sprintf("slices %d at %g mm, size %v, zoom %v, augmentation %v (0: what the encoder asks for); intensities as the encoder's manifest declares",
		d.Slices, d.SliceSpacingMM, d.Size, d.Zoom, d.Augment), runs.ConfigFile + ": data"
}

func (f *facts) subsets() (string, string) {
	if f.run == nil {
		return "", ""
	}
	return fmt.Sprintf("training share of the patients %g; training split %q, validation split %q", f.run.Config.DataSettings.TrainFraction,
		f.run.Config.DataSettings.TrainSplit, f.run.Config.DataSettings.ValidationSplit), runs.ConfigFile + ": data"
}

func (f *facts) deidentification() (string, string) {
	if !f.g.Document.Hashed {
		return "", ""
	}
	return "ids of cases and patients are replaced by hashes in this page; de-identification of the images themselves needs the author", "this page"
}

func (f *facts) missing() (string, string) {
	d := &f.g.Document
	if len(d.Attributes) == 0 {
		return "", ""
	}
	cells, silent := 0, 0
	for _, c := range d.Cases {
		for _, cell := range c.Cells {
			if cells++; cell.State == "unmentioned" {
				silent++
			}
		}
	}
	if cells == 0 {
		return "", ""
	}
	how := ""
	if f.run != nil {
		how = fmt.Sprintf("; data.impute=%v, fusion %s", f.run.Config.DataSettings.Impute, f.run.Config.Fusion.Plugin)
	}
	return fmt.Sprintf("%d of %d attribute values of these cases are not mentioned in their reports%s", silent, cells, how), "the cases' reports, " + runs.ConfigFile
}

func (f *facts) acquisition() (string, string) {
	low, high := 0.0, 0.0
	for _, c := range f.g.Document.Cases {
		if mm := c.SpacingMM[0]; mm > 0 {
			if low == 0 || mm < low {
				low = mm
			}
			high = max(high, mm)
		}
	}
	if high == 0 {
		return "", ""
	}
	return fmt.Sprintf("slice distance %g to %g mm; scanners and protocols need the author", low, high), "the data's headers"
}

func (f *facts) partitions() (string, string) {
	if f.g.data == nil {
		return "", ""
	}
	var parts []string
	counts := f.g.data.Splits()
	for name, n := range counts {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(parts)
	return "cases by split as the data's table has them: " + strings.Join(parts, ", "), "the data's table"
}

// disjoint proves from the ids that no patient is in two splits.
func (f *facts) disjoint() (string, string) {
	if f.g.data == nil {
		return "", ""
	}
	splits := map[string]string{}
	shared, without := map[string]bool{}, 0
	for i := range f.g.data.Cases {
		c := &f.g.data.Cases[i]
		if c.Patient == "" {
			without++
			continue
		}
		if before, known := splits[c.Patient]; known && before != c.Split {
			shared[c.Patient] = true
		}
		splits[c.Patient] = c.Split
	}
	text := fmt.Sprintf("patients: of %d, none is in two splits", len(splits))
	if len(shared) > 0 {
		text = fmt.Sprintf("NOT disjoint: %d of %d patients are in more than one split", len(shared), len(splits))
	}
	if without > 0 {
		text += fmt.Sprintf("; %d cases have no patient id, for them it cannot be said", without)
	}
	return text, "ids of the data's table"
}

func (f *facts) sample() (string, string) {
	if f.report == nil || len(f.report.Comparison) == 0 {
		return "", ""
	}
	return fmt.Sprintf("the smallest difference of mean sensitivity that this test set resolves is %.3f; whether that was planned needs the author", float64(f.report.Comparison[0].Mean.Resolvable)), "comparison"
}

func (f *facts) model() (string, string) {
	if f.manifest == nil {
		return "", ""
	}
	var parts []string
	for _, p := range f.manifest.Plugins {
		parts = append(parts, fmt.Sprintf("%s %s %s (%d weights, %d trained)", p.Role, p.Name, p.Version, p.Parameters, p.Trainable))
	}
	return strings.Join(parts, "; "), runs.ManifestFile + ": plugins"
}

func (f *facts) software() (string, string) {
	if f.manifest == nil {
		return "alignedfusion " + f.g.Document.Version + " evaluated; what made the predictions needs the author", "this page"
	}
	runtimes := []string{}
	for _, p := range f.manifest.Plugins {
		if p.Runtime != "" && !slices.Contains(runtimes, p.Runtime) {
			runtimes = append(runtimes, p.Runtime)
		}
	}
	return fmt.Sprintf("alignedfusion %s, %s, %s; %s", f.manifest.Version, f.manifest.GoVersion, f.manifest.Platform, strings.Join(runtimes, ", ")), runs.ManifestFile
}

func (f *facts) initial() (string, string) {
	if f.run == nil {
		return "", ""
	}
	if from := f.run.Config.Init; from != "" {
		return "weights of the run " + from, runs.ConfigFile + ": init"
	}
	return fmt.Sprintf("random, seed %d, but for stages whose settings name weights", f.manifest.Seed), runs.ConfigFile
}

func (f *facts) training() (string, string) {
	if f.run == nil {
		return "", ""
	}
	t := f.run.Config.Train
	return fmt.Sprintf("%d epochs, batch of %d × %d, learning rate %g, seed %d, device %s, %d threads; all settings are on the page Run",
		t.Epochs, t.BatchSize, t.Accumulate, t.LearningRate, f.manifest.Seed, f.manifest.Device, f.manifest.Threads), runs.ConfigFile + ": train"
}

func (f *facts) choice() (string, string) {
	if f.run == nil {
		return "", ""
	}
	if split := f.run.Config.DataSettings.ValidationSplit; split != "" {
		return fmt.Sprintf("the checkpoint that is best on split %q", split), runs.ConfigFile
	}
	return "the last checkpoint: no validation split", runs.ConfigFile
}

func (f *facts) metrics() (string, string) {
	if f.report != nil {
		p := f.report.Protocol
		return fmt.Sprintf("protocol %s: hit %s; further marks on a found lesion: %s; one mark finds: %s; false positives per %s (%d of them), ties: %s, interpolation: %s",
			p.Name, p.Hit, p.Duplicates, p.Multiple, p.Unit, f.g.Document.Detection.Units, p.Ties, p.Interpolation), "protocol"
	}
	if measured := f.g.Document.Measured; len(measured) > 0 && len(f.g.Document.Classified) == 0 {
		return strings.Join(classify.PlainMeasures(measured[0].Question), ", "), "eval/classify"
	}
	return "accuracy, balanced accuracy, macro AUROC (one against the rest, ties count half), expected calibration error in 15 bins", "eval/classify"
}

func (f *facts) uncertainty() (string, string) {
	if f.report == nil {
		return "95 % bootstrap intervals over whole patients; paired permutation tests, Holm's correction", "eval/classify"
	}
	b := f.report.Bootstrap
	if b == nil {
		return "", ""
	}
	return fmt.Sprintf("%g %% %s bootstrap intervals, %d replicates over whole %ss (%d of them); paired permutation test of %d exchanges, Holm's correction",
		100*b.Level, b.Method, b.Replicates, b.Cluster, b.Clusters, b.Permutations), "bootstrap"
}

func (f *facts) robustness() (string, string) {
	d := &f.g.Document
	switch {
	case d.Study != nil:
		return "shares of missing attributes: page Study", "table.json"
	case slices.ContainsFunc(d.Systems, func(s System) bool { return s.Counterfactual != nil }) ||
		d.Detection != nil && slices.ContainsFunc(d.Detection.Systems, func(s Detector) bool { return s.Other != nil }):
		return "answers without the reports, with shuffled and with contradicting ones, beside each case", predictionsSource
	}
	return "", ""
}

const predictionsSource = "predictions kept in the run"

func (f *facts) internal() (string, string) {
	if f.manifest == nil || f.g.data == nil || f.g.data.Hash != f.manifest.DataSHA256 {
		return "", ""
	}
	return fmt.Sprintf("split %q of the data set that was trained on (same SHA-256)", f.g.split), runs.ManifestFile
}

func (f *facts) external() (string, string) {
	if f.manifest == nil || f.g.data == nil || f.g.data.Hash == f.manifest.DataSHA256 {
		return "", ""
	}
	return "the data evaluated are not those trained on; whether they come from elsewhere needs the author", runs.ManifestFile
}

func (f *facts) numbers() (string, string) {
	patients := map[string]bool{}
	for _, c := range f.g.Document.Cases {
		patients[c.Patient] = true
	}
	text := fmt.Sprintf("%d images of %d patients", len(f.g.Document.Cases), len(patients))
	if f.g.Document.Detection != nil {
		n := f.g.counts()
		text += fmt.Sprintf(", %d without a lesion; %d lesions, %d ignored", n.LesionFreeImages, n.Lesions, n.IgnoredLesions)
	}
	return text + "; exclusions before that need the author", "ground truth"
}

func (f *facts) performance() (string, string) {
	return "pages Performance, with intervals", "evaluation"
}

func (f *facts) crossTable() (string, string) {
	if f.g.Document.Task == config.Classify {
		if len(f.g.Document.Classified) == 0 {
			return "answers against the truth: page Performance", "evaluation"
		}
		return "confusion matrix, AUROC by class and calibration: page Performance", "evaluation"
	}
	return "operating points and the counts at each threshold: page Performance", "evaluation"
}

func (f *facts) failures() (string, string) {
	return "page Cases: worst first, with the reasons that the reader adds", "evaluation"
}

func (f *facts) limitations() (string, string) {
	if len(f.g.Document.Warnings) == 0 {
		return "", ""
	}
	return fmt.Sprintf("%d warnings of the program are on the page Run; further ones need the author", len(f.g.Document.Warnings)), "warnings"
}

func (f *facts) availability() (string, string) {
	if f.manifest == nil {
		return "", ""
	}
	return "program Apache-2.0; plugins by SHA-256 on the page Run; data and weights need the author", runs.ManifestFile
}

func (f *facts) subgroups() (string, string) {
	if f.report == nil || len(f.report.Systems) == 0 || len(f.report.Systems[0].Strata) == 0 {
		return "", ""
	}
	var columns []string
	for _, s := range f.report.Systems[0].Strata {
		if !slices.Contains(columns, s.Column) {
			columns = append(columns, s.Column)
		}
	}
	return "strata by " + strings.Join(columns, ", ") + ": page Performance; groups of people need the author", "evaluation"
}
