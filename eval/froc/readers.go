package froc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/mrmc"
)

// Figure names a quantity by which readers or systems are compared.
type Figure string

// Figures that a study with several readers can be analysed by; see [FiguresOfMerit].
const (
	FigureMean      Figure = "mean" // mean sensitivity at Protocol.FPPI
	FigureAP        Figure = "ap"
	FigureAFROC     Figure = "afroc"
	FigureAFROC1    Figure = "afroc1"
	FigureWAFROC    Figure = "wafroc"
	FigureWAFROC1   Figure = "wafroc1"
	FigureCaseAUROC Figure = "auroc" // of images by their highest mark
	FigureLROC      Figure = "lroc"
)

// ReaderFigures are all figures, in the order of a result's statistics behind its points.
func ReaderFigures() []Figure {
	return []Figure{FigureMean, FigureAP, FigureAFROC, FigureAFROC1, FigureWAFROC, FigureWAFROC1, FigureCaseAUROC, FigureLROC}
}

// Reading is what one reader marked with one modality.
type Reading struct {
	Reader, Modality string
	Result           *Result
}

// ReaderStudy is a study in which every reader reads every case with every modality.
type ReaderStudy struct {
	Figure              Figure
	Modalities, Readers []string    // sorted; the indices of Values and of the analysis
	Values              [][]float64 // [modality][reader]
	Cases               int         // clusters (patients) that are left out one by one, or groups of them
	*mrmc.Analysis
}

// AnalyzeReaders compares modalities by the method of Obuchowski and Rockette, see package
// mrmc. All results must stem from one Truth and one protocol. The cases are the protocol's
// clusters. It needs every reader with every modality, once, and a figure that is defined
// without any one case.
func AnalyzeReaders(readings []Reading, figure Figure, level float64) (*ReaderStudy, error) {
	at := slices.Index(ReaderFigures(), figure)
	if at < 0 {
		return nil, fmt.Errorf("figure %q is unknown; there are %v", figure, ReaderFigures())
	}
	s := &ReaderStudy{Figure: figure}
	results := map[[2]string]*Result{}
	for _, r := range readings {
		key := [2]string{r.Modality, r.Reader}
		if results[key] != nil {
			return nil, fmt.Errorf("reader %q is there twice with modality %q", r.Reader, r.Modality)
		}
		if !r.Result.made() {
			return nil, errNoResult
		}
		if err := sameQuestion(readings[0].Result, r.Result); err != nil {
			return nil, fmt.Errorf("reader %q with modality %q and the first were evaluated %w", r.Reader, r.Modality, err)
		}
		results[key] = r.Result
		s.Modalities, s.Readers = append(s.Modalities, r.Modality), append(s.Readers, r.Reader)
	}
	s.Modalities, s.Readers = unique(s.Modalities), unique(s.Readers)
	if len(results) == 0 {
		return nil, fmt.Errorf("no readings")
	}
	var ordered []*Result
	for _, m := range s.Modalities {
		for _, r := range s.Readers {
			one := results[[2]string{m, r}]
			if one == nil {
				return nil, fmt.Errorf("reader %q has no marks with modality %q: every reader reads every modality", r, m)
			}
			ordered = append(ordered, one)
		}
	}
	k := len(ordered[0].Protocol.FPPI) + at
	study := mrmc.Study{Figures: s.table(func(i int) float64 { return ordered[i].estimate()[k] })}
	left, err := jackknife(BootstrapOptions{}, ordered)
	if err != nil {
		return nil, err
	}
	s.Cases = len(left[0])
	for c := range s.Cases {
		for i := range left {
			if left[i][c] == nil {
				return nil, fmt.Errorf("without %s nothing is left to find: the figure %s is undefined there", ordered[0].clusterOf(c), figure)
			}
		}
		study.LeftOut = append(study.LeftOut, s.table(func(i int) float64 { return left[i][c][k] }))
	}
	s.Values = study.Figures
	if s.Analysis, err = mrmc.Analyze(study, level); err != nil {
		return nil, fmt.Errorf("figure %s: %w", figure, err)
	}
	return s, nil
}

// table arranges a value per reading by modality and reader.
func (s *ReaderStudy) table(value func(i int) float64) [][]float64 {
	out := make([][]float64, len(s.Modalities))
	for m := range out {
		for r := range s.Readers {
			out[m] = append(out[m], value(m*len(s.Readers)+r))
		}
	}
	return out
}

// clusterOf names the cluster, or the first of the group, that the jackknife leaves out c-th.
func (r *Result) clusterOf(c int) string { return strings.TrimSpace(r.clusters.names[c]) }

func unique(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
