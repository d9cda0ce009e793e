package frocio

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// ReaderRule says what becomes of the findings that several readers marked on one lesion.
// Findings of one class are one lesion where they overlap by half (IoU), directly or over others.
type ReaderRule string

// The rules for readers.
const (
	ReadersUnion ReaderRule = "union" // one lesion: the smallest box around all
	ReadersFuse  ReaderRule = "fuse"  // one lesion: the mean of the coordinates
	ReadersVote  ReaderRule = "vote"  // as ReadersFuse; what fewer than Options.Votes readers marked is ignored
)

// sameLesion is the IoU from which two readers marked the same lesion; nearlyEqual is that
// from which two lesions look like it although no reader is named.
const sameLesion, nearlyEqual = 0.5, 0.75

// readBy notes who marked the lesion that comes next.
func (t *Truth) readBy(reader string) {
	for len(t.readers) < len(t.Lesions) {
		t.readers = append(t.readers, "")
	}
	t.readers = append(t.readers, strings.TrimSpace(reader))
}

// mergeReaders makes one lesion of what several readers marked, or says that it was not done.
func (t *Truth) mergeReaders(path string) error {
	named := len(t.readers) == len(t.Lesions) && len(t.readers) > 0
	rule := t.options.Readers
	groups, doubled := t.readerGroups(named, rule != "")
	switch {
	case rule == "" && doubled == 0:
		return nil
	case rule == "" && named:
		t.warn("%s: %d findings of several readers lie on a lesion of another reader and are counted as lesions of their own; "+
			"--readers union, vote=K or fuse makes one lesion of them", path, doubled)
		return nil
	case rule == "":
		t.warn("%s: %d lesions nearly coincide with each other (IoU %v or more): boxes of several readers on the same lesion? They are counted one by one; "+
			"--readers union or fuse makes one lesion of them", path, doubled, nearlyEqual)
		return nil
	case rule == ReadersVote && !named:
		return fmt.Errorf("%s: --readers vote needs a column that names the reader", path)
	}
	merged := make([]froc.Lesion, 0, len(groups))
	for _, g := range groups {
		merged = append(merged, t.mergeGroup(g))
	}
	t.note("%s: readers %s: %d findings are %d lesions", path, rule, len(t.Lesions), len(merged))
	t.Lesions = merged
	return nil
}

// readerGroups joins lesions of one image and class that overlap and returns how many are not
// the first of their group and, for merging, the groups in the order of their first lesion.
func (t *Truth) readerGroups(named, merging bool) (groups [][]int, doubled int) {
	of, count := map[int][]int{}, make([]int32, len(t.Images))
	for i := range t.Lesions {
		count[t.Lesions[i].Image]++
	}
	for i := range t.Lesions {
		if l := &t.Lesions[i]; l.Region.Kind() != froc.KindMask && count[l.Image] > 1 {
			of[l.Image] = append(of[l.Image], i)
		}
	}
	parent := make([]int, len(t.Lesions))
	for i := range parent {
		parent[i] = i
	}
	root := func(i int) int {
		for parent[i] != i {
			i = parent[i]
		}
		return i
	}
	least := nearlyEqual
	if named || merging {
		least = sameLesion
	}
	for _, lesions := range of {
		for a, i := range lesions {
			for _, j := range lesions[a+1:] {
				x, y := &t.Lesions[i], &t.Lesions[j]
				if x.Class != y.Class || x.Ignore != y.Ignore || x.Region.Kind() != y.Region.Kind() || named && t.readers[i] == t.readers[j] {
					continue
				}
				if p, q := root(i), root(j); p != q && boundsIoU(&x.Region, &y.Region) >= least {
					parent[max(p, q)] = min(p, q)
				}
			}
		}
	}
	place := map[int]int{}
	for i := range t.Lesions {
		r := root(i) // the first of its group
		if r != i && !t.Lesions[i].Ignore {
			doubled++
		}
		switch {
		case !merging:
		case r != i:
			groups[place[r]] = append(groups[place[r]], i)
		default:
			place[r] = len(groups)
			groups = append(groups, []int{i})
		}
	}
	return groups, doubled
}

// mergeGroup is one lesion of several findings, the same in whatever order they come.
func (t *Truth) mergeGroup(group []int) froc.Lesion {
	out := t.Lesions[slices.MinFunc(group, func(a, b int) int {
		x, y := &t.Lesions[a], &t.Lesions[b]
		return cmp.Or(slices.Compare(x.Strata, y.Strata), cmp.Compare(x.Weight, y.Weight), cmp.Compare(x.Area, y.Area))
	})]
	if t.options.Readers == ReadersVote {
		voters := map[string]bool{}
		for _, i := range group {
			voters[t.readers[i]] = true
		}
		out.Ignore = out.Ignore || len(voters) < t.options.Votes
	}
	if len(group) == 1 {
		return out
	}
	corners := make([][6]float64, len(group))
	for k, i := range group {
		low, high := t.Lesions[i].Region.Bounds()
		corners[k] = [6]float64{low[0], low[1], low[2], high[0], high[1], high[2]}
	}
	slices.SortFunc(corners, func(a, b [6]float64) int { return slices.Compare(a[:], b[:]) })
	v := corners[0]
	for _, c := range corners[1:] {
		for a := range v {
			switch {
			case t.options.Readers != ReadersUnion:
				v[a] += c[a]
			case a < 3:
				v[a] = min(v[a], c[a])
			default:
				v[a] = max(v[a], c[a])
			}
		}
	}
	if t.options.Readers != ReadersUnion {
		for a := range v {
			v[a] /= float64(len(group))
		}
	}
	switch out.Region.Kind() {
	case froc.KindBox3D:
		out.Region = froc.Box3D(v[0], v[1], v[2], v[3], v[4], v[5])
	case froc.KindSliceBox:
		out.Region = froc.SliceBox(v[0], v[1], v[3], v[4], v[2])
	case froc.KindPoint2D:
		out.Region = froc.Circle((v[0]+v[3])/2, (v[1]+v[4])/2, max(v[3]-v[0], v[4]-v[1])/2)
	case froc.KindPoint3D:
		out.Region = froc.Sphere((v[0]+v[3])/2, (v[1]+v[4])/2, (v[2]+v[5])/2, max(v[3]-v[0], v[4]-v[1], v[5]-v[2])/2)
	default:
		out.Region = froc.Box(v[0], v[1], v[3], v[4])
	}
	return out
}

// boundsIoU is the intersection over union of two bounding boxes; axes along which both are
// flat at the same place do not count.
func boundsIoU(a, b *froc.Region) float64 {
	la, ha := a.Bounds()
	lb, hb := b.Bounds()
	inter, sizeA, sizeB := 1.0, 1.0, 1.0
	for k := range 3 {
		if la[k] == ha[k] && lb[k] == hb[k] && la[k] == lb[k] {
			continue
		}
		inter *= max(min(ha[k], hb[k])-max(la[k], lb[k]), 0)
		sizeA *= ha[k] - la[k]
		sizeB *= hb[k] - lb[k]
	}
	if union := sizeA + sizeB - inter; union > 0 {
		return inter / union
	}
	return 0
}
