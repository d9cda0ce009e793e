package frocreport

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/mrmc"
)

// ReaderOptions say what [Readers] analyses.
type ReaderOptions struct {
	Truth    frocio.Source
	Read     frocio.Options
	Protocol froc.Protocol
	Figure   froc.Figure
	Level    float64
	// Tables hold a column reader and, for several modalities, a column modality. Or each
	// file of Files is a reading of its own.
	Tables []string
	Files  map[frocio.ReadingKey][]string
}

// ReaderReport is the outcome of [Readers], as JSON has it.
type ReaderReport struct {
	SchemaVersion int             `json:"schema_version"`
	Figure        froc.Figure     `json:"figure"`
	Protocol      frocio.Protocol `json:"protocol"`
	Cases         int             `json:"cases"`
	Level         float64         `json:"level"`
	Modalities    []string        `json:"modalities"`
	Readers       []string        `json:"readers"`
	// Values are the figures, a row per modality, a column per reader.
	Values [][]frocio.Number `json:"values"`
	// The questions, by what they generalise to; those without enough readers are left out.
	Inferences []Inference `json:"inferences"`
	Components Components  `json:"components"`
	Notes      []string    `json:"notes,omitempty"`
	Warnings   []string    `json:"warnings,omitempty"`
}

// Inference is one analysis of a [ReaderReport].
type Inference struct {
	Random      string           `json:"random"` // what is a sample of a population: "readers and cases", "cases" or "readers"
	F           frocio.Number    `json:"f"`
	DF1         frocio.Number    `json:"df1"`
	DF2         frocio.Number    `json:"df2"` // null: infinitely many
	P           frocio.Number    `json:"p"`
	Modalities  []ReaderEstimate `json:"modalities"`
	Differences []ReaderEstimate `json:"differences,omitempty"`
}

// ReaderEstimate is a mean over readers of a modality, or of a difference of two.
type ReaderEstimate struct {
	Name   string        `json:"name"`
	Value  frocio.Number `json:"value"`
	StdErr frocio.Number `json:"std_err"`
	DF     frocio.Number `json:"df"`
	CI     frocio.Range  `json:"ci"`
	P      frocio.Number `json:"p"`
}

// Components are the mean squares and covariances, see [mrmc.Components].
type Components struct {
	MSModality    frocio.Number `json:"ms_modality"`
	MSReader      frocio.Number `json:"ms_reader"`
	MSInteraction frocio.Number `json:"ms_interaction"`
	Var           frocio.Number `json:"var"`
	Cov1          frocio.Number `json:"cov1"`
	Cov2          frocio.Number `json:"cov2"`
	Cov3          frocio.Number `json:"cov3"`
}

// Readers reads the marks of every reader with every modality, evaluates them by one protocol
// and compares the modalities. It ends with the error of ctx soon after that is done.
func Readers(ctx context.Context, o ReaderOptions) (*ReaderReport, error) {
	truth, err := frocio.ReadTruthContext(ctx, o.Truth, o.Read)
	if err != nil {
		return nil, err
	}
	if err := reach(o.Truth.GroundTruth, truth, o.Protocol, o.Read.Lenient); err != nil {
		return nil, err
	}
	said := &Remarks{}
	said.add(truth.Notes, truth.Warnings)
	all := &frocio.Readings{Of: map[frocio.ReadingKey]*frocio.Predictions{}}
	if len(o.Tables) > 0 {
		if all, err = truth.ReadReadingsContext(ctx, o.Tables[0], o.Tables[1:]...); err != nil {
			return nil, err
		}
		said.add(all.Notes, all.Warnings)
	}
	if len(o.Files) > 0 {
		keys := slices.SortedFunc(maps.Keys(o.Files), frocio.ReadingKey.Compare)
		files := make([][]string, len(keys))
		for i, key := range keys {
			files[i] = o.Files[key]
		}
		read, err := truth.ReadSystems(ctx, files...)
		if err != nil {
			return nil, err
		}
		for i, one := range read {
			said.add(one.Notes, one.Warnings)
			all.Of[keys[i]] = one
		}
	}
	var readings []froc.Reading
	for _, key := range all.Keys() {
		result, err := froc.EvaluateContext(ctx, truth.Truth, all.Of[key].Marks, o.Protocol)
		if err != nil {
			return nil, fmt.Errorf("reader %q, modality %q: %w", key.Reader, key.Modality, err)
		}
		readings = append(readings, froc.Reading{Reader: key.Reader, Modality: key.Modality, Result: result})
	}
	study, err := froc.AnalyzeReaders(readings, o.Figure, o.Level)
	if err != nil {
		return nil, err
	}
	if study.Cases < 50 {
		said.warn(fmt.Sprintf("only %d cases: the intervals of the jackknife are too optimistic", study.Cases))
	}
	return describeReaders(o, study, said), nil
}

func describeReaders(o ReaderOptions, s *froc.ReaderStudy, said *Remarks) *ReaderReport {
	c := s.Components
	r := &ReaderReport{
		SchemaVersion: frocio.SchemaVersion, Figure: s.Figure, Protocol: frocio.NewProtocol(o.Protocol), Cases: s.Cases, Level: o.Level,
		Modalities: s.Modalities, Readers: s.Readers, Notes: said.Notes, Warnings: said.Warnings,
		Components: Components{frocio.Number(c.MSModality), frocio.Number(c.MSReader), frocio.Number(c.MSInteraction),
			frocio.Number(c.Var), frocio.Number(c.Cov1), frocio.Number(c.Cov2), frocio.Number(c.Cov3)},
	}
	for _, row := range s.Values {
		var values []frocio.Number
		for _, v := range row {
			values = append(values, frocio.Number(v))
		}
		r.Values = append(r.Values, values)
	}
	for _, x := range []struct {
		random string
		of     *mrmc.Inference
	}{{"readers and cases", s.RandomReadersRandomCases}, {"cases", s.FixedReadersRandomCases}, {"readers", s.RandomReadersFixedCases}} {
		if x.of == nil {
			continue
		}
		t := x.of.Test
		out := Inference{Random: x.random, F: frocio.Number(t.F), DF1: frocio.Number(t.DF1), DF2: frocio.Number(t.DF2), P: frocio.Number(t.P)}
		for m, e := range x.of.Modalities {
			out.Modalities = append(out.Modalities, estimated(s.Modalities[m], e))
		}
		for a := range s.Modalities {
			for b := a + 1; b < len(s.Modalities); b++ {
				out.Differences = append(out.Differences, estimated(s.Modalities[a]+" - "+s.Modalities[b], x.of.Differences[mrmc.Pair{First: a, Second: b}]))
			}
		}
		r.Inferences = append(r.Inferences, out)
	}
	return r
}

func estimated(name string, e mrmc.Estimate) ReaderEstimate {
	return ReaderEstimate{name, frocio.Number(e.Value), frocio.Number(e.StdErr), frocio.Number(e.DF), frocio.NewRange(froc.Interval{Low: e.Low, High: e.High}), frocio.Number(e.P)}
}

// WriteText writes the report for people.
func (r *ReaderReport) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s of %d readers with %d modalities, %d cases\n", r.Figure, len(r.Readers), len(r.Modalities), r.Cases)
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintf(t, "modality\t%s\tmean\n", strings.Join(r.Readers, "\t"))
	for m, row := range r.Values {
		fmt.Fprint(t, r.Modalities[m])
		sum := 0.0
		for _, v := range row {
			sum += float64(v)
			fmt.Fprintf(t, "\t%.4f", v)
		}
		fmt.Fprintf(t, "\t%.4f\n", sum/float64(len(row)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range r.Inferences {
		fmt.Fprintf(w, "\nto other %s", x.Random)
		if len(r.Modalities) > 1 {
			fmt.Fprintf(w, ": F(%g, %s) = %.3f, p = %.4f", x.DF1, degrees(float64(x.DF2)), x.F, x.P)
		}
		fmt.Fprintln(w)
		t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
		for _, e := range slices.Concat(x.Modalities, x.Differences) {
			fmt.Fprintf(t, "  %s\t%+.4f\t%g%% CI %+.4f to %+.4f\t", e.Name, e.Value, 100*r.Level, (*e.CI)[0], (*e.CI)[1])
			if !math.IsNaN(float64(e.P)) {
				fmt.Fprintf(t, "p %.4f", e.P)
			}
			fmt.Fprintln(t)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, "note:", note)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintln(w, "warning:", warning)
	}
	return nil
}

// degrees writes degrees of freedom.
func degrees(df float64) string {
	if math.IsInf(df, 1) {
		return "∞"
	}
	return fmt.Sprintf("%.1f", df)
}
