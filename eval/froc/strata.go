package froc

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Stratum is the evaluation of the lesions of one value or range of a column.
type Stratum struct {
	Name   string
	Result *Result
}

// Strata evaluates the lesions of each stratum of a column of Truth.Strata. With
// edges, the column holds numbers, and the strata are the ranges up to the first
// edge, from there up to the second (included), and so on.
//
// rule says what becomes of the other strata's lesions. StrataIgnore ignores
// them: marks on them are neither found lesions nor false positives.
// StrataAsPapers removes them, so that marks on them become false positives; it
// exists to compare with published tables, which are biased in this way.
func Strata(t *Truth, predictions []Prediction, p Protocol, column string, edges []float64, rule StrataRule) ([]Stratum, error) {
	return StrataContext(context.Background(), t, predictions, p, column, edges, rule)
}

// StrataContext is Strata, ended by ctx as [EvaluateContext] is.
func StrataContext(ctx context.Context, t *Truth, predictions []Prediction, p Protocol, column string, edges []float64, rule StrataRule) ([]Stratum, error) {
	if err := oneOf("rule", rule, StrataIgnore, StrataAsPapers); err != nil {
		return nil, fmt.Errorf("strata: %w", err)
	}
	if t == nil {
		return nil, ErrNoImages
	}
	at := slices.Index(t.Strata, column)
	if at < 0 {
		known := "none beside the box and its image"
		if len(t.Strata) > 0 {
			known = strings.Join(t.Strata, ", ")
		}
		return nil, fmt.Errorf("strata: no column %q in the ground truth%s; there is %s", column, nearest.Meant(column, t.Strata), known)
	}
	if !slices.IsSorted(edges) {
		return nil, fmt.Errorf("strata: edges %v of column %q must ascend", edges, column)
	}
	names := make([]string, len(t.Lesions))
	order := map[string]int{}
	for i := range t.Lesions {
		l := &t.Lesions[i]
		if l.Ignore {
			continue
		}
		value := ""
		if at < len(l.Strata) {
			value = strings.TrimSpace(l.Strata[at])
		}
		name, rank := value, 0
		if value == "" {
			name = "(empty)"
		} else if edges != nil {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, fmt.Errorf("strata: column %q of a lesion in image %q is %q, want a number", column, t.Images[l.Image].ID, value)
			}
			rank = sort.SearchFloat64s(edges, v)
			name = rangeName(edges, rank)
		}
		names[i] = name
		order[name] = rank
	}
	var sorted []string
	for name := range order {
		sorted = append(sorted, name)
	}
	slices.SortFunc(sorted, func(a, b string) int {
		if d := order[a] - order[b]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	var out []Stratum
	for _, name := range sorted {
		part := *t
		part.Lesions = nil
		for i, l := range t.Lesions {
			if !l.Ignore && names[i] != name {
				if rule == StrataAsPapers {
					continue
				}
				l.Ignore, l.otherStratum = true, true
			}
			part.Lesions = append(part.Lesions, l)
		}
		r, err := EvaluateContext(ctx, &part, predictions, p)
		if err != nil {
			return nil, fmt.Errorf("stratum %s of %s: %w", name, column, err)
		}
		out = append(out, Stratum{name, r})
	}
	return out, nil
}

// rangeName names the range before edge rank.
func rangeName(edges []float64, rank int) string {
	format := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	switch {
	case rank == 0:
		return "<=" + format(edges[0])
	case rank == len(edges):
		return ">" + format(edges[rank-1])
	}
	return ">" + format(edges[rank-1]) + " to " + format(edges[rank])
}

// PrecisionAt is average precision at one IoU.
type PrecisionAt struct {
	IoU float64
	AP  float64
}

// AveragePrecisionAt evaluates the protocol once for each IoU, with that IoU as
// its hit rule, and returns the average precisions; COCO's AP is their mean at
// 0.5, 0.55, …, 0.95.
func AveragePrecisionAt(t *Truth, predictions []Prediction, p Protocol, ious []float64) ([]PrecisionAt, error) {
	return AveragePrecisionAtContext(context.Background(), t, predictions, p, ious)
}

// AveragePrecisionAtContext is AveragePrecisionAt, ended by ctx as [EvaluateContext] is.
func AveragePrecisionAtContext(ctx context.Context, t *Truth, predictions []Prediction, p Protocol, ious []float64) ([]PrecisionAt, error) {
	var out []PrecisionAt
	for _, iou := range ious {
		p.Hit = overlap(IoU, iou)
		if p.IgnoreHit != nil {
			p.IgnoreHit = overlap(IoBB, iou)
		}
		r, err := EvaluateContext(ctx, t, predictions, p)
		if err != nil {
			return nil, fmt.Errorf("IoU %v: %w", iou, err)
		}
		out = append(out, PrecisionAt{iou, r.AP})
	}
	return out, nil
}
