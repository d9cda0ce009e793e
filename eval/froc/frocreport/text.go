package frocreport

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// WriteRules writes the rules of a protocol, indented.
func WriteRules(w io.Writer, p froc.Protocol) {
	described := frocio.NewProtocol(p)
	limit := "no limit of marks"
	if p.MaxPerImage > 0 {
		limit = fmt.Sprintf("at most %d marks per image (ties at the limit: %s)", p.MaxPerImage, p.CapTies)
	}
	pixel := ""
	if p.PlusOne {
		pixel = " (+1 pixel)"
	}
	if p.Classes == froc.AnyClasses {
		pixel += "; classes: any"
	}
	fmt.Fprintf(w, "  hit: %s%s; ignored: %s\n  duplicates: %s; one mark finds: %s; %s\n  FP per %s at %s, %s interpolation; resampled: %s\n",
		described.Hit, pixel, described.IgnoreHit, p.Duplicates, p.Multiple, limit, p.Unit, formatList(p.FPPI), p.Interpolation, p.Cluster)
}

func formatList(values []float64) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strings.Join(texts, ", ")
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	protocol, b := r.Document.Protocol.Protocol, r.Document.Bootstrap
	fmt.Fprintf(w, "protocol %s: %s\n", protocol.Name, protocol.Description)
	WriteRules(w, protocol)
	for _, s := range r.described {
		fmt.Fprintf(w, "\n%s\n", s.Name)
		writeCounts(w, protocol, s)
		if err := writeFigures(w, protocol, s, b); err != nil {
			return err
		}
		if err := writeParts(w, protocol, s, b); err != nil {
			return err
		}
	}
	if err := WriteComparison(w, &r.Document); err != nil {
		return err
	}
	for i, warning := range r.Document.Warnings {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "warning: %s\n", warning)
	}
	return nil
}

// WriteParts writes the strata and the classes of every system, where there are any.
func (r *Report) WriteParts(w io.Writer) error {
	for _, s := range r.described {
		if len(s.Strata)+len(s.Classes) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", s.Name)
		if err := writeParts(w, r.Document.Protocol.Protocol, s, r.Document.Bootstrap); err != nil {
			return err
		}
	}
	return nil
}

func writeCounts(w io.Writer, protocol froc.Protocol, s frocio.System) {
	n := s.Counts
	fmt.Fprintf(w, "  %d images (%d without lesions, %d without marks), %d patients; FP counted per %s: %d\n",
		n.Images, n.LesionFreeImages, n.ImagesWithoutMark, n.Patients, protocol.Unit, n.Units)
	fmt.Fprintf(w, "  %d lesions, %d found; %d ignored lesions\n", n.Lesions, n.Found, n.IgnoredLesions)
	fmt.Fprintf(w, "  %d marks (%d tied): %d true positives, %d false positives, %d duplicates, %d ignored, %d over the cap\n",
		n.Predictions, n.TiedScores, n.TruePositives, n.FalsePositives, n.Duplicates, n.IgnoredMarks, n.OverCap)
	fmt.Fprintf(w, "  all marks: %s false positives per %s, precision %s, F1 %s; %d of %d images without lesions stay silent\n",
		figure(s.FPPerUnit), protocol.Unit, figure(s.Precision), figure(s.F1), s.SilentImages, n.LesionFreeImages)
	if n.Patients < n.Images {
		per := func(count int) float64 { return float64(count) / float64(n.Patients) }
		fmt.Fprintf(w, "  per patient: %.1f images, %.2f lesions, %.1f marks, %.1f false positives\n",
			per(n.Images), per(n.Lesions), per(n.Predictions), per(n.FalsePositives))
	}
	if s.WithoutLesion > 0 {
		fmt.Fprintf(w, "  %d bootstrap replicates contain no lesion and are left out\n", s.WithoutLesion)
	}
}

func writeFigures(w io.Writer, protocol froc.Protocol, s frocio.System, b *frocio.Resampling) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "  FP/%s\tsensitivity\t%s\tthreshold\t\n", protocol.Unit, intervalTitle(b))
	for _, p := range s.OperatingPoints {
		mark := ""
		if !p.Reached {
			mark = "not reached"
		}
		fmt.Fprintf(table, "  %g\t%s\t%s\t%s\t%s\n", p.FPPI, figure(p.Sensitivity), formatRange(p.CI), threshold(p.Threshold), mark)
	}
	fmt.Fprintf(table, "  mean\t%s\t%s\t\t\n", figure(s.MeanSensitivity), formatRange(s.MeanCI))
	fmt.Fprintf(table, "  AP\t%s\t%s\t\t\n", figure(s.AP), formatRange(s.APCI))
	shown := [][2]string{{"afroc", "AFROC"}, {"afroc1", "AFROC1"}, {"case_auroc", "case AUROC"}, {"lroc", "LROC"}}
	if protocol.Name == froc.PICAI().Name {
		shown = append(shown, [2]string{"ranking_score", "ranking score"})
	}
	for _, key := range shown {
		m := s.Merit[key[0]]
		note := ""
		if math.IsNaN(float64(m.Value)) {
			note = "undefined: no lesion-free images"
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t\t%s\n", key[1], figure(m.Value), formatRange(m.CI), note)
	}
	if c := s.COCO; c != nil {
		for _, row := range []struct {
			name  string
			value frocio.Number
		}{{"COCO AP", c.AP}, {"  50", c.AP50}, {"  75", c.AP75}, {"  small", c.APSmall}, {"  medium", c.APMedium}, {"  large", c.APLarge},
			{"COCO AR 1", c.AR1}, {"  10", c.AR10}, {"  100", c.AR100}} {
			fmt.Fprintf(table, "  %s\t%s\t\t\t\n", row.name, figure(row.value))
		}
	}
	for _, at := range s.APAtIoU {
		fmt.Fprintf(table, "  AP at IoU %g\t%s\t\t\t\n", at.IoU, figure(at.AP))
	}
	if s.APMean != nil {
		fmt.Fprintf(table, "  AP, mean over IoU\t%s\t\t\t\n", figure(*s.APMean))
	}
	return table.Flush()
}

// part is a row of the table of strata or of classes.
type part struct {
	title         string
	lesions       string
	sensitivities []frocio.Number
	mean, ap      frocio.Number
	ci            frocio.Range
}

func newPart(title string, s frocio.System) part {
	p := part{title: title, lesions: strconv.Itoa(s.Counts.Lesions), mean: s.MeanSensitivity, ap: s.AP, ci: s.MeanCI}
	for _, at := range s.OperatingPoints {
		p.sensitivities = append(p.sensitivities, at.Sensitivity)
	}
	return p
}

// writeParts writes the strata and the classes of a system, a table each.
func writeParts(w io.Writer, protocol froc.Protocol, s frocio.System, b *frocio.Resampling) error {
	var strata, classes []part
	for _, one := range s.Strata {
		strata = append(strata, newPart(one.Column+" "+one.Value, one.System))
	}
	for _, one := range s.Classes {
		classes = append(classes, newPart(one.Class, one.System))
	}
	if m := s.Macro; m != nil {
		classes = append(classes, part{fmt.Sprintf("mean of %d", m.Classes), "", m.Sensitivity, m.MeanSensitivity, m.AP, m.MeanCI})
	}
	for _, t := range []struct {
		title string
		rows  []part
	}{{"stratum", strata}, {"class", classes}} {
		if len(t.rows) == 0 {
			continue
		}
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(table, "\n  %s\tlesions\tmean\t%s\tAP", t.title, intervalTitle(b))
		for _, x := range protocol.FPPI {
			fmt.Fprintf(table, "\t@%g", x)
		}
		fmt.Fprintln(table)
		for _, p := range t.rows {
			fmt.Fprintf(table, "  %s\t%s\t%s\t%s\t%s", p.title, p.lesions, figure(p.mean), formatRange(p.ci), figure(p.ap))
			for _, v := range p.sensitivities {
				fmt.Fprintf(table, "\t%s", figure(v))
			}
			fmt.Fprintln(table)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// WriteComparison writes the differences between systems; nothing where there are none.
func WriteComparison(w io.Writer, report *frocio.Report) error {
	if len(report.Comparison) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\nmean sensitivity\tdifference\t%s\tresolvable\tp bootstrap\tp permutation\tHolm\tverdict\n", intervalTitle(report.Bootstrap))
	for _, p := range report.Comparison {
		fmt.Fprintf(table, "%s - %s\t%+.4f\t%s\t%s\t%.4f\t%.4f\t%.4f, %.4f\t%s\n", p.B, p.A, float64(p.Mean.Value), formatRange(p.Mean.CI),
			figure(p.Mean.Resolvable), float64(p.Mean.BootstrapP), float64(p.Mean.PermutationP), float64(p.HolmBootstrapP),
			float64(p.HolmPermutationP), verdict(p))
		for _, at := range p.Points {
			fmt.Fprintf(table, "  at %g\t%+.4f\t%s\t%s\t%.4f\t%.4f\t\t\n", at.FPPI, float64(at.Value), formatRange(at.CI),
				figure(at.Resolvable), float64(at.BootstrapP), float64(at.PermutationP))
		}
	}
	return table.Flush()
}

// verdict says which of a pair is better, if one is.
func verdict(p frocio.Pair) string {
	if p.Verdict == resample.Unresolved {
		return string(p.Verdict)
	}
	return p.B + " is " + string(p.Verdict)
}

func intervalTitle(b *frocio.Resampling) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%g%% CI", 100*b.Level)
}

func figure(n frocio.Number) string {
	if math.IsNaN(float64(n)) {
		return "-"
	}
	return fmt.Sprintf("%.4f", float64(n))
}

func threshold(n frocio.Number) string {
	if math.IsNaN(float64(n)) {
		return "none"
	}
	return fmt.Sprintf("%.6g", float64(n))
}

func formatRange(r frocio.Range) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("%.4f to %.4f", float64(r[0]), float64(r[1]))
}
